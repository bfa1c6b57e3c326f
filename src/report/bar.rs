//! Events -> bars on a terminal, and lines above them.
//!
//! `State::rows` decides what to show. It is a pure function of the events, the time and the width;
//! `Screen` only makes indicatif's bars show those lines. A phase shows nothing for its first
//! 250 ms, so that a fast run stays silent. A command that writes nothing for 500 ms is said to run,
//! until its first byte, which may be the echo of a key; nothing is drawn while the build's own
//! output flows. A thread redraws between events, for phases that send no events while they last.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use console::{measure_text_width, truncate_str};

use super::{
    Renderer, Verbosity,
    events::{Event, Failure, Phase},
    layers::{Layer, Layers},
    lock,
    look::{Glyphs, Look},
    wording::{self, News, Summary},
};
use crate::{
    entry::Amount,
    report::stderr_writer::Own,
    text::{numbers, one_line},
};

/// A phase that ends within this time is never shown.
const SILENT_FOR: Duration = Duration::from_millis(250);
/// A command that writes within this time is not said to run.
const COMMAND_SILENT_FOR: Duration = Duration::from_millis(500);
/// Before this time, what is left is not known well enough.
const FORECAST_AFTER: Duration = Duration::from_secs(1);
/// A bar of fewer columns tells less than the words that it leaves no room for.
const NARROWEST_BAR: usize = 10;
/// The spinner's characters.
const SPINNER: [char; 4] = ['-', '\\', '|', '/'];
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
        let rows = match self.own.width() {
            Some(width) => self.state.rows(at, width, self.own.look()),
            None if self.state.active.is_empty() => Vec::new(),
            // Another job has the terminal.
            None => return,
        };
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
    command: Vec<String>,
    /// The build's output flows, so that nothing is said about its silence.
    flows: bool,
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
        match event {
            Event::Planned { command, .. } => {
                *self = State { command: command.clone(), ..State::default() };
            }
            Event::BuildOutputBegins => {
                self.active.clear();
                self.flows = true;
            }
            Event::PhaseStarted { phase, total } => self.started(at, *phase, *total),
            Event::PhaseProgress { phase, done } => {
                if let Some(active) = self.active.iter_mut().find(|active| active.phase == *phase) {
                    active.done = *done;
                }
            }
            Event::PhaseEnded { phase, .. } => self.active.retain(|active| active.phase != *phase),
            _ => {}
        }
    }

    fn started(&mut self, at: Duration, phase: Phase, total: Option<Amount>) {
        match phase {
            Phase::Build => self.active.clear(),
            Phase::Collect | Phase::Remove => self.flows = false,
            _ => {}
        }
        self.active.retain(|active| active.phase != phase);
        if phase != Phase::Build || !self.flows {
            self.active.push(Active { phase, since: at, total, done: Amount::default() });
        }
    }

    /// The lines to show, on a terminal of `width` columns.
    fn rows(&self, at: Duration, width: usize, look: Look) -> Vec<String> {
        let seen = self.active.iter().filter(|active| at.saturating_sub(active.since) >= active.silent_for());
        let mut rows: Vec<_> = seen.flat_map(|active| self.rows_of(active, at, width, look)).collect();
        rows.truncate(MOST_ROWS);
        rows
    }

    fn rows_of(&self, active: &Active, at: Duration, width: usize, look: Look) -> Vec<String> {
        let took = at.saturating_sub(active.since);
        let label = wording::doing(active.phase).to_owned();
        let row = |label, share, texts| Row { label, share, texts }.line(at, width, look);
        match active.phase {
            Phase::Build => vec![look.colour.dim(&wording::running(&self.command, took, width))],
            Phase::Pull => {
                let texts = vec![self.layers.text(), rate(self.layers.bytes(), took)];
                let layers = self.layers.active().map(|layer| {
                    let id: String = layer.id.chars().take(ID_CHARS).collect();
                    let moved = wording::progress(bytes(layer.current), layer.total.map(bytes));
                    let texts = vec![one_line(&layer.status), moved];
                    row(format!("  {:ID_CHARS$}", one_line(&id)), layer_share(layer), texts)
                });
                [row(label, None, texts)].into_iter().chain(layers).collect()
            }
            _ => {
                let share = active.share();
                let left = share.and_then(|share| share.left(took));
                let [files, size] = wording::progress_parts(active.done, active.total);
                let texts = vec![files, size, rate(active.done.bytes, took), left.unwrap_or_default()];
                vec![row(label, share, texts)]
            }
        }
    }
}

impl Active {
    fn silent_for(&self) -> Duration {
        if self.phase == Phase::Build { COMMAND_SILENT_FOR } else { SILENT_FOR }
    }

    fn share(&self) -> Option<Share> {
        let total = self.total?;
        match (total.bytes, total.files) {
            (0, 0) => None,
            (0, of) => Some(Share { done: self.done.files, of }),
            (of, _) => Some(Share { done: self.done.bytes, of }),
        }
    }
}

fn layer_share(layer: &Layer) -> Option<Share> {
    layer.total.filter(|of| *of > 0).map(|of| Share { done: layer.current, of })
}

fn bytes(bytes: u64) -> Amount {
    Amount { files: 0, bytes }
}

fn rate(moved: u64, took: Duration) -> String {
    numbers::rate(moved, took).unwrap_or_default()
}

/// One line of the screen.
struct Row {
    label: String,
    /// The progress; `None` shows as a spinner.
    share: Option<Share>,
    /// What stands behind the bar. Where there is no room for all, the first ones are left out.
    texts: Vec<String>,
}

impl Row {
    /// The line: as wide as the terminal if it has a bar, and never wider.
    fn line(mut self, at: Duration, width: usize, look: Look) -> String {
        self.texts.retain(|text| !text.is_empty());
        let Some(share) = self.share else {
            let tick = SPINNER[(at.as_millis() / TICK.as_millis()) as usize % SPINNER.len()];
            return fitted(format!("{tick} {} {}", self.label, self.texts.join(", ")), width);
        };
        loop {
            let text = self.texts.join(", ");
            let words = measure_text_width(&self.label) + measure_text_width(&text) + 2;
            let columns = width.saturating_sub(words);
            if columns < NARROWEST_BAR && self.texts.len() > 1 {
                self.texts.remove(0);
            } else if columns < NARROWEST_BAR / 2 {
                return fitted(format!("{} {text}", self.label), width);
            } else {
                return format!("{} {} {text}", self.label, share.bar(columns, look)).trim_end().to_owned();
            }
        }
    }
}

fn fitted(line: String, width: usize) -> String {
    truncate_str(line.trim_end(), width, "").into_owned()
}

#[derive(Debug, Clone, Copy)]
struct Share {
    done: u64,
    of: u64,
}

impl Share {
    fn part(self) -> f64 {
        self.done.min(self.of) as f64 / self.of.max(1) as f64
    }

    /// The time until the end, if the rest takes as long as what is done.
    fn left(self, took: Duration) -> Option<String> {
        let is_known = took >= FORECAST_AFTER && self.done > 0 && self.done < self.of;
        let left = is_known.then(|| took.as_secs_f64() * (1.0 - self.part()) / self.part())?;
        let left = Duration::try_from_secs_f64(left.ceil()).ok()?;
        Some(format!("{} left", numbers::span(left)))
    }

    fn bar(self, columns: usize, look: Look) -> String {
        let done = |columns: usize| (columns as f64 * self.part()) as usize;
        match look.glyphs {
            Glyphs::Unicode => {
                let done = done(columns);
                look.colour.done(&"━".repeat(done)) + &look.colour.dim(&"─".repeat(columns - done))
            }
            Glyphs::Ascii => {
                let columns = columns - 2;
                let done = done(columns);
                let head = if done < columns { ">" } else { "" };
                format!("[{:columns$}]", "=".repeat(done) + head)
            }
        }
    }
}

/// indicatif's bars, one for each row, with the line that each of them shows.
struct Screen {
    bars: MultiProgress,
    rows: Vec<(ProgressBar, String)>,
}

impl Screen {
    fn show(&mut self, rows: &[String]) {
        while self.rows.len() > rows.len() {
            if let Some((bar, _)) = self.rows.pop() {
                bar.finish_and_clear();
                self.bars.remove(&bar);
            }
        }
        for ((bar, shown), row) in self.rows.iter_mut().zip(rows) {
            if shown != row {
                bar.set_message(row.clone());
                shown.clone_from(row);
            }
            bar.tick();
        }
        for row in &rows[self.rows.len()..] {
            // It is added when it is complete, because each change of a bar on the screen draws it.
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
            // A fixed text that a test draws.
            bar.set_style(
                ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_message(row.clone());
            let bar = self.bars.add(bar);
            bar.tick();
            self.rows.push((bar, row.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::{
        Colour,
        events::Warning,
        stderr_writer::LineState,
        testing::{FakeScreen, ended, event, finished, ms, on_screen, planned, progress, pulling, started},
    };

    fn bar(screen: &FakeScreen, line_state: &LineState) -> Bar {
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let own = Own::new(Box::new(screen.clone()), line_state.clone()).with(on_screen(Glyphs::Ascii));
        Bar::still(own, target, Verbosity::Normal)
    }

    /// What a terminal of `width` columns has to show at the last of these events.
    fn rows(width: usize, look: Look, events: &[(u64, Event)]) -> String {
        let mut state = State::default();
        events.iter().for_each(|(at, event)| state.note(ms(*at), event));
        let rows = state.rows(ms(events.last().unwrap().0), width, look);
        assert!(rows.iter().all(|row| measure_text_width(row) <= width), "{rows:?}");
        rows.join("\n")
    }

    fn run(events: &[(u64, Event)]) -> (FakeScreen, Bar) {
        let screen = FakeScreen::default();
        let mut bar = bar(&screen, &LineState::default());
        events.iter().for_each(|(at, event)| bar.event(ms(*at), event));
        (screen, bar)
    }

    #[test]
    fn an_upload_fills_the_line_and_leaves_out_first_what_matters_least() {
        let events = [
            (0, started(Phase::Upload, Some((2003, 20_000_000)))),
            (1_000, progress(Phase::Upload, 1203, 10_000_000)),
        ];
        let at = |width| rows(width, on_screen(Glyphs::Unicode), &events);
        insta::assert_snapshot!([40, 80, 120].map(at).join("\n"), @"
        uploading ━━━━━───── 10.0 MB/s, 1 s left
        uploading ━━━━━━━━━━━━━━━─────────────── 10.0 MB of 20.0 MB, 10.0 MB/s, 1 s left
        uploading ━━━━━━━━━━━━━━━━━━━━━━━━──────────────────────── 1,203 of 2,003 files, 10.0 MB of 20.0 MB, 10.0 MB/s, 1 s left
        ");
        insta::assert_snapshot!(
            rows(60, on_screen(Glyphs::Ascii), &events),
            @"uploading [====>   ] 10.0 MB of 20.0 MB, 10.0 MB/s, 1 s left"
        );
        assert_eq!(measure_text_width(&at(200)), 200);
        let coloured = Look { colour: Colour::On, ..on_screen(Glyphs::Unicode) };
        assert_eq!(measure_text_width(&rows(200, coloured, &events)), 200);
    }

    #[test]
    fn what_is_left_is_told_when_it_is_known() {
        let at = |millis, bytes| {
            let events = [
                (0, started(Phase::Upload, Some((0, 1_000_000)))),
                (millis, progress(Phase::Upload, 0, bytes)),
            ];
            rows(80, on_screen(Glyphs::Ascii), &events)
        };
        assert!(at(4_000, 250_000).ends_with(", 12 s left"));
        assert!(at(60_000, 1_000).ends_with(", 16 h 39 min left"));
        for (millis, bytes) in [(999, 250_000), (4_000, 0), (4_000, 1_000_000)] {
            assert!(!at(millis, bytes).contains("left"), "{millis} {bytes}");
        }
    }

    #[test]
    fn a_silent_command_is_said_to_run_until_its_first_byte() {
        let (screen, mut bar) =
            run(&[(0, planned(&["jekyll", "build"])), (100, started(Phase::Build, None))]);
        let at = |millis| {
            lock(&bar.inner).draw(ms(millis));
            screen.shown()
        };
        assert_eq!(at(599), "");
        assert_eq!(at(600), "running jekyll build, 0 s");
        assert_eq!(at(12_100), "running jekyll build, 12 s");
        bar.event(ms(12_200), &Event::BuildOutputBegins);
        assert_eq!(screen.shown(), "");
        lock(&bar.inner).draw(ms(60_000));
        // The event of the start may come after the first byte.
        bar.event(ms(60_001), &started(Phase::Build, None));
        lock(&bar.inner).draw(ms(70_000));
        assert_eq!(screen.shown(), "");
    }

    #[test]
    fn a_long_command_is_shortened_to_the_line() {
        let script = "echo ".repeat(40);
        let events = [
            (0, planned(&["sh", "-c", &script])),
            (0, started(Phase::Build, None)),
            (125_000, started(Phase::Scan, None)),
        ];
        assert_eq!(rows(40, on_screen(Glyphs::Ascii), &events), "running sh -c 'echo echo e…', 2 min 05 s");
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
        | pulling the image 1 of 8 layers, 28.0 MB of 112.0 MB, 28.0 MB/s
          0123456789ab [=============>                                      ] Downloading, 4.0 MB of 16.0 MB
          l1           [=============>                                      ] Downloading, 4.0 MB of 16.0 MB
          l2           [=============>                                      ] Downloading, 4.0 MB of 16.0 MB
          l3\u{1b}[2J  [=============>                                      ] Downloading, 4.0 MB of 16.0 MB
          l4           [=============>                                      ] Downloading, 4.0 MB of 16.0 MB
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
        \ collecting 3 files, 3.0 kB, 6.1 kB/s
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
        \ collecting 3 files, 3.0 kB, 6.0 kB/s
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
