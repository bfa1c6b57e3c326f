//! Events -> bars on a terminal, and lines above them.
//!
//! What to show is decided by [`State::rows`], a pure function of the events and the time; [`Screen`] makes indicatif's
//! bars look like those rows and nothing else. A phase shows nothing for its first 250 ms, so that a fast run stays
//! silent, and nothing is drawn while the build's own output flows. A thread redraws between events, for phases that
//! say nothing while they last.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    Renderer, Verbosity,
    events::{Amount, Event, Failure, Phase},
    layers::{Layer, Layers},
    lock, numbers,
    own::Own,
    text::one_line,
    wording::{self, Summary},
};

/// A phase that is over by then is never seen.
const SILENT_FOR: Duration = Duration::from_millis(250);
/// How often the screen is looked after when no event comes.
const TICK: Duration = Duration::from_millis(100);
/// Bars in the way of a person's other output are a nuisance above this.
const MOST_ROWS: usize = 6;
/// A layer's id is a hash; its beginning tells it from the others.
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
    verbosity: Verbosity,
    summary: Summary,
}

impl Bar {
    /// Draws on `target` and writes lines to `own`, which must lead to the same terminal. `began` is the moment that
    /// the times of events count from.
    pub fn live(own: Own, target: ProgressDrawTarget, verbosity: Verbosity, began: Instant) -> Bar {
        let mut bar = Bar::still(own, target, verbosity);
        let (sender, ended) = mpsc::channel();
        let inner = Arc::clone(&bar.inner);
        let tick = move || {
            while ended.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                lock(&inner).draw(began.elapsed());
            }
        };
        // Without a thread the bars move with the events only, which is no reason to fail a build.
        bar._ticker = thread::Builder::new().name("progress".into()).spawn(tick).ok().map(|_| sender);
        bar
    }

    /// As [`Bar::live`], but drawn at events only.
    fn still(own: Own, target: ProgressDrawTarget, verbosity: Verbosity) -> Bar {
        let screen = Screen { bars: MultiProgress::with_draw_target(target), rows: Vec::new() };
        let (state, summary) = (State::default(), Summary::default());
        Bar { inner: Arc::new(Mutex::new(Inner { state, screen, own, verbosity, summary })), _ticker: None }
    }
}

impl Renderer for Bar {
    fn event(&mut self, at: Duration, event: &Event) {
        lock(&self.inner).event(at, event);
    }

    fn failure(&mut self, _: Duration, failure: &Failure) {
        lock(&self.inner).last_lines(&wording::failure(failure));
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
        match event {
            Event::Planned { image, engine, source, command } => {
                self.verbose(&wording::planned(image, engine, source, command));
            }
            Event::WaitingForLock { pid, command } => {
                self.line(&wording::line(&wording::waiting(*pid, command)))
            }
            Event::PhaseEnded { phase, done, took } => self.verbose(&wording::ended(*phase, *done, *took)),
            Event::Warned(warning) => self.line(&wording::warning_line(warning)),
            Event::Finished { exit_code, applied, took } => {
                let sentence = self.summary.sentence(*exit_code, *applied, *took);
                self.last_lines(&wording::line(&sentence));
            }
            Event::BuildOutputBegins
            | Event::PhaseStarted { .. }
            | Event::PhaseProgress { .. }
            | Event::PullProgress { .. } => {}
        }
        self.draw(at);
    }

    fn draw(&mut self, at: Duration) {
        let rows = self.state.rows(at);
        if !rows.is_empty() && self.screen.rows.is_empty() {
            // indicatif clears the line that it begins to draw on, and the build may have left words there.
            self.own.fresh_line();
        }
        self.screen.show(&rows);
    }

    fn verbose(&mut self, sentence: &str) {
        if self.verbosity == Verbosity::Verbose {
            self.line(&wording::line(sentence));
        }
    }

    fn line(&mut self, line: &str) {
        let own = &mut self.own;
        self.screen.bars.suspend(|| own.lines(line));
    }

    fn last_lines(&mut self, lines: &str) {
        self.clear();
        self.own.lines(lines);
    }

    fn clear(&mut self) {
        self.state.active.clear();
        self.screen.show(&[]);
    }
}

/// What is going on.
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
            // The build speaks for itself, or is silent as it would be without fastbuild.
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
    format!("fastbuild: {}", wording::doing(phase))
}

fn joined(parts: [Option<String>; 2]) -> String {
    parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

/// One line of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    label: String,
    /// How far it is; unknown shows as a spinner.
    share: Option<Share>,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    done: u64,
    of: u64,
}

/// indicatif's bars, one for each row.
struct Screen {
    bars: MultiProgress,
    rows: Vec<ProgressBar>,
}

impl Screen {
    fn show(&mut self, rows: &[Row]) {
        while self.rows.len() > rows.len() {
            if let Some(bar) = self.rows.pop() {
                bar.finish_and_clear();
                self.bars.remove(&bar);
            }
        }
        while self.rows.len() < rows.len() {
            self.rows.push(self.bars.add(ProgressBar::no_length()));
        }
        for (bar, row) in self.rows.iter().zip(rows) {
            row.show_on(bar);
        }
    }
}

impl Row {
    fn show_on(&self, bar: &ProgressBar) {
        // Templates are fixed texts that a test draws; what varies goes in as prefix and message.
        let template = match self.share {
            Some(_) => "{prefix} [{bar:20}] {wide_msg}",
            None => "{prefix} {spinner} {wide_msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> ").tick_chars("-\\|/ "));
        }
        if let Some(share) = self.share {
            bar.update(|state| {
                state.set_len(share.of.max(1));
                state.set_pos(share.done.min(share.of));
            });
        }
        bar.set_prefix(self.label.clone());
        bar.set_message(self.text.clone());
        bar.tick();
    }
}
