//! Events -> bars on a terminal, and lines above them.
//!
//! `State::rows` decides what to show. It is a pure function of the events and the time; `Screen`
//! only makes indicatif's bars look like those rows. A phase shows nothing for its first 250 ms, so
//! that a fast run stays silent, and nothing is drawn while the build's own output flows. A thread
//! redraws between events, for phases that send no events while they last.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    Renderer, Verbosity,
    events::{Event, Failure, Phase},
    layers::{Layer, Layers},
    lock,
    wording::{self, News, Summary},
};
use crate::{
    entry::Amount,
    report::stderr_writer::Own,
    text::{numbers, one_line},
};

/// A phase that ends within this time is never shown.
const SILENT_FOR: Duration = Duration::from_millis(250);
/// The interval of redraws when no event comes.
const TICK: Duration = Duration::from_millis(100);
/// The shortest time between redraws for progress, which may come 100,000 times a second.
const REDRAW: Duration = Duration::from_millis(50);
/// More bars than this would hide too much of the terminal's other output.
const MOST_ROWS: usize = 6;
/// A layer's id is a hash; its beginning identifies the layer.
const ID_CHARS: usize = 12;

/// The renderer of `bar`.
pub struct Bar {
    inner: Arc<Mutex<Inner>>,
    /// Ends the thread when dropped.
    _ticker: Option<mpsc::Sender<()>>,
}

struct Inner {
    state: State,
    screen: Screen,
    own: Own,
    summary: Summary,
    drawn: Option<Duration>,
}

impl Bar {
    /// Draws on `target` and writes lines to `own`, which must lead to the same terminal. The times
    /// of events count from `began`.
    pub fn live(own: Own, target: ProgressDrawTarget, verbosity: Verbosity, began: Instant) -> Bar {
        let mut bar = Bar::still(own, target, verbosity);
        let (sender, ended) = mpsc::channel();
        let inner = Arc::clone(&bar.inner);
        let tick = move || {
            while ended.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                lock(&inner).draw(began.elapsed());
            }
        };
        // Without a thread the bars move with the events only. This is no reason to fail a build.
        bar._ticker = thread::Builder::new().name("progress".into()).spawn(tick).ok().map(|_| sender);
        bar
    }

    /// As [`Bar::live`], but drawn at events only.
    pub(super) fn still(own: Own, target: ProgressDrawTarget, verbosity: Verbosity) -> Bar {
        let screen = Screen { bars: MultiProgress::with_draw_target(target), rows: Vec::new() };
        let (state, summary) = (State::default(), Summary::new(verbosity));
        Bar { inner: Arc::new(Mutex::new(Inner { state, screen, own, summary, drawn: None })), _ticker: None }
    }
}

impl Renderer for Bar {
    fn event(&mut self, at: Duration, event: &Event) {
        lock(&self.inner).event(at, event);
    }

    fn failure(&mut self, _: Duration, failure: &Failure) {
        let mut inner = lock(&self.inner);
        let lines = inner.summary.failure(failure);
        inner.clear();
        inner.own.lines(&lines);
    }

    fn clear(&mut self) {
        lock(&self.inner).clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Inner {
    fn event(&mut self, at: Duration, event: &Event) {
        self.summary.note(event);
        self.state.note(at, event);
        // Before any line, so that a phase that is over is not drawn again below it.
        if !self.was_just_drawn(at, event) {
            self.draw(at);
        }
        match self.summary.news(event, self.own.width()) {
            Some(News::Said(lines)) => self.line(&lines),
            Some(News::Last { lines, exit_code }) => {
                self.clear();
                self.own.last(&lines, exit_code);
            }
            None => {}
        }
    }

    fn was_just_drawn(&self, at: Duration, event: &Event) -> bool {
        let seldom_matters = matches!(event, Event::PhaseProgress { .. } | Event::PullProgress { .. });
        seldom_matters && self.drawn.is_some_and(|drawn| at.saturating_sub(drawn) < REDRAW)
    }

    fn draw(&mut self, at: Duration) {
        let rows = self.state.rows(at);
        if !rows.is_empty() && self.screen.rows.is_empty() {
            // indicatif clears the line where it begins, and the build may have left text there.
            self.own.fresh_line();
        }
        self.screen.show(&rows);
        self.drawn = Some(at);
    }

    fn line(&mut self, line: &str) {
        let own = &mut self.own;
        self.screen.bars.suspend(|| own.lines(line));
    }

    fn clear(&mut self) {
        self.state.active.clear();
        self.screen.show(&[]);
    }
}

/// The current state of the run.
#[derive(Default)]
struct State {
    active: Vec<Active>,
    layers: Layers,
}

struct Active {
    phase: Phase,
    since: Duration,
    total: Option<Amount>,
    done: Amount,
}

impl State {
    fn note(&mut self, at: Duration, event: &Event) {
        self.layers.note(event);
        match *event {
            // The build prints its own output, or is as silent as it would be without fastbuild.
            Event::PhaseStarted { phase: Phase::Build, .. } | Event::BuildOutputBegins => self.active.clear(),
            Event::PhaseStarted { phase, total } => {
                self.active.retain(|active| active.phase != phase);
                self.active.push(Active { phase, since: at, total, done: Amount::default() });
            }
            Event::PhaseProgress { phase, done } => {
                if let Some(active) = self.active.iter_mut().find(|active| active.phase == phase) {
                    active.done = done;
                }
            }
            Event::PhaseEnded { phase, .. } => self.active.retain(|active| active.phase != phase),
            _ => {}
        }
    }

    fn rows(&self, at: Duration) -> Vec<Row> {
        let seen = self.active.iter().filter(|active| at.saturating_sub(active.since) >= SILENT_FOR);
        let mut rows: Vec<_> = seen.flat_map(|active| self.rows_of(active, at)).collect();
        rows.truncate(MOST_ROWS);
        rows
    }

    fn rows_of(&self, active: &Active, at: Duration) -> Vec<Row> {
        let took = at.saturating_sub(active.since);
        if active.phase == Phase::Pull {
            let mut rows = vec![pull_row(active.phase, &self.layers, took)];
            rows.extend(self.layers.active().map(layer_row));
            return rows;
        }
        let rate = numbers::rate(active.done.bytes, took);
        let parts = [Some(wording::progress(active.done, active.total)), rate];
        vec![Row { label: label(active.phase), share: active.share(), text: joined(parts) }]
    }
}

impl Active {
    fn share(&self) -> Option<Share> {
        let total = self.total?;
        match (total.bytes, total.files) {
            (0, 0) => None,
            (0, of) => Some(Share { done: self.done.files, of }),
            (of, _) => Some(Share { done: self.done.bytes, of }),
        }
    }
}

fn pull_row(phase: Phase, layers: &Layers, took: Duration) -> Row {
    let parts = [Some(layers.text()), numbers::rate(layers.bytes(), took)];
    Row { label: label(phase), share: None, text: joined(parts) }
}

fn layer_row(layer: &Layer) -> Row {
    let id: String = layer.id.chars().take(ID_CHARS).collect();
    let share = layer.total.filter(|of| *of > 0).map(|of| Share { done: layer.current, of });
    let moved = wording::progress(bytes(layer.current), layer.total.map(bytes));
    Row {
        label: format!("  {}", one_line(&id)),
        share,
        text: joined([Some(one_line(&layer.status)), Some(moved)]),
    }
}

fn bytes(bytes: u64) -> Amount {
    Amount { files: 0, bytes }
}

fn label(phase: Phase) -> String {
    wording::doing(phase).to_owned()
}

fn joined(parts: [Option<String>; 2]) -> String {
    parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

/// One line of the screen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Row {
    label: String,
    /// The progress; `None` shows as a spinner.
    share: Option<Share>,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    done: u64,
    of: u64,
}

/// indicatif's bars, one for each row, with the row that each of them shows.
struct Screen {
    bars: MultiProgress,
    rows: Vec<(ProgressBar, Row)>,
}

impl Screen {
    fn show(&mut self, rows: &[Row]) {
        while self.rows.len() > rows.len() {
            if let Some((bar, _)) = self.rows.pop() {
                bar.finish_and_clear();
                self.bars.remove(&bar);
            }
        }
        for ((bar, shown), row) in self.rows.iter_mut().zip(rows) {
            row.change(bar, shown);
            shown.clone_from(row);
        }
        for row in &rows[self.rows.len()..] {
            // It is added when it is complete, because each change of a bar on the screen draws it.
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
            row.change(&bar, &Row::default());
            let bar = self.bars.add(bar);
            bar.tick();
            self.rows.push((bar, row.clone()));
        }
    }
}

impl Row {
    fn change(&self, bar: &ProgressBar, shown: &Row) {
        if *shown == Row::default() || self.share.is_some() != shown.share.is_some() {
            bar.set_style(style(self.share));
        }
        if self.label != shown.label {
            bar.set_prefix(self.label.clone());
        }
        if self.text != shown.text {
            bar.set_message(self.text.clone());
        }
        if let Some(share) = self.share {
            bar.update(|state| {
                state.set_len(share.of.max(1));
                state.set_pos(share.done.min(share.of));
            });
        }
        bar.tick();
    }
}

/// Within 80 columns there is room for files, bytes and rate after the bar.
fn style(share: Option<Share>) -> ProgressStyle {
    // Templates are fixed texts that a test draws; variable parts go in as prefix and message.
    let template = match share {
        Some(_) => "{prefix} [{bar:12}] {wide_msg}",
        None => "{spinner} {prefix} {wide_msg}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ").tick_chars("-\\|/ ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::{
        events::Warning,
        stderr_writer::LineState,
        testing::{FakeScreen, ended, event, finished, ms, planned, progress, pulling, started},
    };

    fn bar(screen: &FakeScreen, line_state: &LineState) -> Bar {
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        Bar::still(Own::new(Box::new(screen.clone()), line_state.clone()), target, Verbosity::Normal)
    }

    fn run(events: &[(u64, Event)]) -> (FakeScreen, Bar) {
        let screen = FakeScreen::default();
        let mut bar = bar(&screen, &LineState::default());
        events.iter().for_each(|(at, event)| bar.event(ms(*at), event));
        (screen, bar)
    }

    #[test]
    fn an_upload_shows_files_bytes_and_rate() {
        let (screen, _bar) = run(&[
            (0, started(Phase::Upload, Some((2003, 20_000_000)))),
            (1_000, progress(Phase::Upload, 1203, 10_000_000)),
        ]);
        insta::assert_snapshot!(screen.shown(), @"uploading [======>     ] 1,203 of 2,003 files, 10.0 MB of 20.0 MB, 10.0 MB/s");
    }

    #[test]
    fn a_pull_shows_a_row_for_each_layer_at_work_and_six_at_most() {
        let mut events =
            vec![(0, started(Phase::Pull, None)), (1, pulling("gone", "Already exists", 0, None))];
        let layers = ["0123456789abcdef", "l1", "l2", "l3\x1b[2J", "l4", "l5", "l6"];
        let half = |id: &&str| (900, pulling(id, "Downloading", 4_000_000, Some(16_000_000)));
        events.extend(layers.iter().map(half));
        events.push((1_000, pulling("gone", "Already exists", 0, None)));
        let (screen, _bar) = run(&events);
        insta::assert_snapshot!(screen.shown(), @r"
        / pulling the image 1 of 8 layers, 28.0 MB of 112.0 MB, 28.0 MB/s
          0123456789ab [===>        ] Downloading, 4.0 MB of 16.0 MB
          l1 [===>        ] Downloading, 4.0 MB of 16.0 MB
          l2 [===>        ] Downloading, 4.0 MB of 16.0 MB
          l3\u{1b}[2J [===>        ] Downloading, 4.0 MB of 16.0 MB
          l4 [===>        ] Downloading, 4.0 MB of 16.0 MB
        ");
    }

    #[test]
    fn nothing_shows_for_the_first_250_ms_of_a_phase() {
        let (screen, mut bar) =
            run(&[(100, started(Phase::Create, None)), (349, started(Phase::Scan, None))]);
        assert_eq!(screen.shown(), "");
        bar.event(ms(400), &progress(Phase::Scan, 1, 1));
        assert!(screen.shown().ends_with("creating the container"), "{}", screen.shown());
    }

    #[test]
    fn the_bars_are_gone_when_the_builds_output_begins_and_stay_away() {
        let upload = started(Phase::Upload, Some((10, 10)));
        let (screen, mut bar) = run(&[(0, upload), (900, progress(Phase::Upload, 1, 1))]);
        assert!(screen.shown().contains("uploading"));
        bar.event(ms(1_000), &Event::BuildOutputBegins);
        assert_eq!(screen.shown(), "");
        bar.event(ms(3_000), &progress(Phase::Upload, 5, 5));
        assert_eq!(screen.shown(), "");
    }

    #[test]
    fn a_bar_never_wipes_the_builds_last_words() {
        let (screen, line_state) = (FakeScreen::default(), LineState::default());
        let mut bar = bar(&screen, &line_state);
        bar.event(ms(0), &planned(&["make"]));
        bar.event(ms(0), &Event::BuildOutputBegins);
        std::io::Write::write_all(&mut screen.clone(), b"no line end").unwrap();
        line_state.wrote(b"no line end");
        bar.event(ms(10), &started(Phase::Collect, None));
        bar.event(ms(500), &progress(Phase::Collect, 3, 3000));
        insta::assert_snapshot!(screen.shown(), @r"
        no line end
        | collecting 3 files, 3.0 kB, 6.1 kB/s
        ");
        bar.event(ms(600), &ended(Phase::Collect, 590, 3, 3000));
        bar.event(ms(600), &finished(0, 600));
        insta::assert_snapshot!(screen.shown(), @r"
        no line end
        fastbuild: make: 0.60 s, 3 files received (3.0 kB)
        ");
    }

    #[test]
    fn a_warning_stands_above_the_bars() {
        let (screen, _bar) = run(&[
            (0, started(Phase::Collect, None)),
            (400, progress(Phase::Collect, 3, 3000)),
            (500, Event::Warned(Warning::Signalled { signal: "SIGINT" })),
        ]);
        insta::assert_snapshot!(screen.shown(), @r"
        fastbuild: warning: SIGINT was sent to the build
        / collecting 3 files, 3.0 kB, 6.0 kB/s
        ");
    }

    #[test]
    fn an_error_and_the_end_of_the_reporter_leave_no_bar_behind() {
        let (screen, mut bar) =
            run(&[(0, started(Phase::Pull, None)), (400, pulling("aa", "Waiting", 0, None))]);
        let failure = Failure { message: "gone".into(), causes: vec![], advice: None };
        bar.failure(ms(500), &failure);
        assert_eq!(screen.shown(), "fastbuild: error: gone");
        bar.event(ms(600), &started(Phase::Remove, None));
        bar.event(ms(900), &progress(Phase::Remove, 0, 0));
        assert!(screen.shown().contains("removing"));
        drop(bar);
        assert_eq!(screen.shown(), "fastbuild: error: gone");
    }

    proptest! {
        #[test]
        fn no_event_gets_a_control_character_onto_the_screen(
            events in prop::collection::vec((0..20_000u64, event()), 0..12),
        ) {
            let (screen, _bar) = run(&events);
            let shown = screen.shown();
            prop_assert!(!shown.chars().any(|c| c != '\n' && crate::text::is_dangerous(c)), "{shown:?}");
        }
    }
}
