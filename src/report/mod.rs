//! Events in, text for people and programs out; the build's own bytes pass through unchanged.
//!
//! [`Reporter`] is the one owner of stdout and stderr: nothing else in the crate prints. It passes
//! each [`Event`] to one renderer ([`bar`], [`plain`], [`json`], [`silent`]), which writes to
//! stderr only; stdout belongs to the build. Renderers decide from events and their times; the
//! wording is in [`wording`], numbers are in [`crate::text::numbers`], and all text from outside
//! passes through [`crate::text`]. [`Look`] has the colours, characters and width of the terminal.
//!
//! Invariants: the build's bytes are passed on unchanged and at once; nothing is drawn while they
//! flow; no control character in an event's text reaches a terminal or a log. A reader of stdout
//! that stops reading blocks only the threads that write there: drawing and each of the build's
//! streams have their own locks.

pub mod bar;
mod colour;
pub mod events;
pub mod json;
pub mod layers;
mod look;
pub mod meter;
mod nonblocking;
pub mod plain;
pub mod silent;
pub mod stderr_writer;
#[cfg(test)]
mod testing;
pub mod wording;

pub use colour::{Colour, Tone};
pub use look::{Glyphs, Look};

use std::{
    ffi::{OsStr, OsString},
    io::{self, IsTerminal, Write},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use self::{
    events::{Event, Failure, Phase},
    stderr_writer::{LineState, Own},
};
use crate::{
    environment::is_ci,
    spec::{Progress, Stream},
    sys::terminal,
};
use indicatif::ProgressDrawTarget;

/// The value of [`Progress`] in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bars on the terminal.
    Bar,
    /// Lines.
    Plain,
    /// One JSON object a line.
    Json,
    /// Only warnings, errors and the summary.
    None,
}

/// The options `-q` and `-v`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Only errors, in every mode.
    Quiet,
    /// Progress, warnings, the summary.
    #[default]
    Normal,
    /// Also the plan and each phase's time.
    Verbose,
}

/// The target of one of this process's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surroundings {
    /// A file, a pipe, a terminal that cannot move its cursor, or a terminal that another job uses.
    NoScreen,
    /// A terminal in CI, where the screen is a log that is not watched live.
    CiScreen,
    /// An interactive terminal.
    Screen,
}

impl Surroundings {
    /// Decides by the variables `TERM` and `CI` and by the kind of stderr.
    pub fn of_stderr(var: impl Fn(&str) -> Option<OsString>) -> Surroundings {
        Surroundings::of(&io::stderr(), var)
    }

    /// As [`Surroundings::of_stderr`], for stdout.
    pub fn of_stdout(var: impl Fn(&str) -> Option<OsString>) -> Surroundings {
        Surroundings::of(&io::stdout(), var)
    }

    fn of(stream: &impl IsTerminal, var: impl Fn(&str) -> Option<OsString>) -> Surroundings {
        let is_screen = stream.is_terminal() && terminal::is_foreground();
        Surroundings::judge(is_screen, var("TERM").as_deref(), var("CI").as_deref())
    }

    fn judge(is_terminal: bool, term: Option<&OsStr>, ci: Option<&OsStr>) -> Surroundings {
        // Windows consoles have no TERM and can move their cursors.
        let can_move = term.map_or(cfg!(windows), |term| !term.is_empty() && term != "dumb");
        match (is_terminal && can_move, is_ci(ci)) {
            (false, _) => Surroundings::NoScreen,
            (true, true) => Surroundings::CiScreen,
            (true, false) => Surroundings::Screen,
        }
    }
}

impl Progress {
    /// Decides what is shown. Without a screen `bar` becomes `plain`, which has no escape codes.
    pub fn resolve(self, surroundings: Surroundings) -> Mode {
        match (self, surroundings) {
            (Progress::Auto | Progress::Bar, Surroundings::Screen) => Mode::Bar,
            (Progress::Bar, Surroundings::CiScreen) => Mode::Bar,
            (Progress::Auto | Progress::Bar | Progress::Plain, _) => Mode::Plain,
            (Progress::Json, _) => Mode::Json,
            (Progress::None, _) => Mode::None,
        }
    }
}

/// The place where the build's stdout appears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// On the screen that also shows fastbuild's own lines.
    Here,
    /// In a file or a pipe.
    Elsewhere,
}

/// The handles of a [`Reporter`].
pub struct Streams {
    /// The build's stdout.
    pub stdout: Box<dyn Write + Send>,
    /// Where stdout appears.
    pub stdout_shows: Shows,
    /// The build's stderr.
    pub stderr: Box<dyn Write + Send>,
    /// fastbuild's own messages: the same stderr by another handle.
    pub own: Box<dyn Write + Send>,
    /// Where bars are drawn.
    pub screen: ProgressDrawTarget,
    /// How fastbuild's own words are written.
    pub look: Look,
}

impl Streams {
    /// The streams of this process.
    pub fn of_process() -> Streams {
        let here = io::stdout().is_terminal() && io::stderr().is_terminal();
        let own = nonblocking::patient(io::stderr());
        Streams {
            stdout: nonblocking::patient(io::stdout()),
            stdout_shows: if here { Shows::Here } else { Shows::Elsewhere },
            stderr: nonblocking::patient(io::stderr()),
            own: if io::stderr().is_terminal() { Box::new(stderr_writer::OnTerminal(own)) } else { own },
            screen: ProgressDrawTarget::stderr(),
            look: Look::of_stderr(),
        }
    }
}

/// Turns events into the form that one kind of reader needs. `at` is the time since the run began.
pub trait Renderer: Send {
    /// Takes the next event.
    fn event(&mut self, at: Duration, event: &Event);
    /// Shows an error. It may come without a [`Event::Finished`] before or after it.
    fn failure(&mut self, at: Duration, failure: &Failure);
    /// Removes everything that is drawn.
    fn clear(&mut self);
}

/// See the module's header. Clones share everything.
#[derive(Clone)]
pub struct Reporter(Arc<Shared>);

struct Shared {
    began: Instant,
    renderer: Mutex<Box<dyn Renderer>>,
    /// The build's output flows and nothing is drawn. Changed only under the renderer's lock.
    output_flows: AtomicBool,
    line_state: LineState,
    stdout_shows: Shows,
    stdout: Mutex<Box<dyn Write + Send>>,
    stderr: Mutex<Box<dyn Write + Send>>,
}

impl Reporter {
    /// A reporter for a run that begins now.
    pub fn new(mode: Mode, verbosity: Verbosity, streams: Streams) -> Reporter {
        let began = Instant::now();
        let line_state = LineState::default();
        // A program reads JSON.
        let look = if mode == Mode::Json { Look::default() } else { streams.look };
        let own = Own::new(streams.own, line_state.clone()).with(look);
        let renderer: Box<dyn Renderer> = match (mode, verbosity) {
            (Mode::Json, _) => Box::new(json::Json::new(own, verbosity)),
            (_, Verbosity::Quiet) => Box::new(silent::Silent(own)),
            (Mode::Bar, _) => Box::new(bar::Bar::live(own, streams.screen, verbosity, began)),
            (Mode::Plain, _) => Box::new(plain::Plain::new(own, plain::Telling::Phases, verbosity)),
            (Mode::None, _) => Box::new(plain::Plain::new(own, plain::Telling::Results, verbosity)),
        };
        Reporter(Arc::new(Shared {
            began,
            renderer: Mutex::new(renderer),
            output_flows: AtomicBool::new(false),
            line_state,
            stdout_shows: streams.stdout_shows,
            stdout: Mutex::new(streams.stdout),
            stderr: Mutex::new(streams.stderr),
        }))
    }

    /// A reporter without output, for the reaper, which has no reader.
    pub fn silent() -> Reporter {
        let nowhere = || Box::new(io::sink());
        Reporter::new(
            Mode::None,
            Verbosity::Quiet,
            Streams {
                stdout: nowhere(),
                stdout_shows: Shows::Elsewhere,
                stderr: nowhere(),
                own: nowhere(),
                screen: ProgressDrawTarget::hidden(),
                look: Look::default(),
            },
        )
    }

    /// Reports one fact. Blocks while stderr's reader does not read, so act first and report then.
    /// Progress is dropped if another thread is reporting at the moment.
    pub fn emit(&self, event: Event) {
        let renderer = match (&event, self.0.renderer.try_lock()) {
            (_, Ok(renderer)) => renderer,
            (_, Err(TryLockError::Poisoned(poisoned))) => poisoned.into_inner(),
            (Event::PhaseProgress { .. } | Event::PullProgress { .. }, Err(TryLockError::WouldBlock)) => {
                return;
            }
            (_, Err(TryLockError::WouldBlock)) => lock(&self.0.renderer),
        };
        self.render(renderer, &event);
    }

    fn render(&self, mut renderer: MutexGuard<'_, Box<dyn Renderer>>, event: &Event) {
        match event {
            Event::BuildOutputBegins if self.0.output_flows.load(Ordering::Acquire) => return,
            // The command and its output have ended, or another run begins: bars may come again.
            Event::PhaseStarted { phase: Phase::Collect | Phase::Remove, .. }
            | Event::Planned { .. }
            | Event::Finished { .. } => {
                self.0.output_flows.store(false, Ordering::Release);
            }
            _ => {}
        }
        renderer.event(self.0.began.elapsed(), event);
        if *event == Event::BuildOutputBegins {
            // Last, because a thread that sees it set writes at once, and no bar may be left then.
            self.0.output_flows.store(true, Ordering::Release);
        }
    }

    /// Passes the build's output on, byte for byte and at once; the first call removes all bars.
    /// Blocks while the stream's reader does not read, and then delays only other writers to this
    /// stream.
    ///
    /// # Errors
    /// The stream's error, such as a broken pipe; some of `bytes` may have been written.
    pub fn build_output(&self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        if !self.0.output_flows.load(Ordering::Acquire) {
            self.render(lock(&self.0.renderer), &Event::BuildOutputBegins);
        }
        let mut writer = lock(match stream {
            Stream::Stdout => &self.0.stdout,
            Stream::Stderr => &self.0.stderr,
        });
        if stream == Stream::Stderr || self.0.stdout_shows == Shows::Here {
            self.0.line_state.wrote(bytes);
        }
        writer.write_all(bytes)?;
        writer.flush()
    }

    /// Reports fastbuild's own failure: the error, its causes, and the advice to the user.
    pub fn error(&self, error: &(dyn std::error::Error + 'static), advice: Option<&str>) {
        let failure = Failure::new(error, advice);
        lock(&self.0.renderer).failure(self.0.began.elapsed(), &failure);
    }

    /// Clears the terminal that stdout is, unless another job has it. What scrolled away stays.
    pub fn clear_screen(&self) {
        self.clear();
        if !terminal::is_foreground() {
            return;
        }
        let mut stdout = lock(&self.0.stdout);
        drop(stdout.write_all(b"\x1b[H\x1b[2J").and_then(|()| stdout.flush()));
        self.0.line_state.wrote(b"\n");
    }

    /// Removes everything that is drawn, before the process ends without destructors.
    pub fn clear(&self) {
        lock(&self.0.renderer).clear();
    }
}

/// After a panic in a renderer the screen may be wrong, but the run continues.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{
        events::Warning,
        testing::{FakeScreen, Shared as Written, finished, on_screen, progress, started},
        *,
    };
    use crate::spec::Progress;

    struct Apart {
        stdout: Written,
        stderr: Written,
    }

    fn reporter(mode: Mode, verbosity: Verbosity) -> (Reporter, Apart) {
        let (stdout, stderr) = (Written::default(), Written::default());
        let streams = Streams {
            stdout: Box::new(stdout.clone()),
            stdout_shows: Shows::Elsewhere,
            stderr: Box::new(stderr.clone()),
            own: Box::new(stderr.clone()),
            screen: ProgressDrawTarget::hidden(),
            look: Look::default(),
        };
        (Reporter::new(mode, verbosity, streams), Apart { stdout, stderr })
    }

    #[test]
    fn bars_are_for_people_at_terminals() {
        use Surroundings::{CiScreen, NoScreen, Screen};
        let cases = [
            (true, Some("xterm"), None, Screen),
            (true, Some("xterm"), Some("false"), Screen),
            (true, Some("xterm"), Some(""), Screen),
            (true, Some("xterm"), Some("true"), CiScreen),
            (true, Some("dumb"), None, NoScreen),
            (true, Some(""), None, NoScreen),
            (false, Some("xterm"), None, NoScreen),
            (false, Some("xterm"), Some("1"), NoScreen),
        ];
        for (is_terminal, term, ci, expected) in cases {
            let judged = Surroundings::judge(is_terminal, term.map(OsStr::new), ci.map(OsStr::new));
            assert_eq!(judged, expected, "{is_terminal} {term:?} {ci:?}");
        }
        let cases = [
            (Progress::Auto, [Mode::Plain, Mode::Plain, Mode::Bar]),
            (Progress::Bar, [Mode::Plain, Mode::Bar, Mode::Bar]),
            (Progress::Plain, [Mode::Plain; 3]),
            (Progress::Json, [Mode::Json; 3]),
            (Progress::None, [Mode::None; 3]),
        ];
        for (progress, modes) in cases {
            assert_eq!([NoScreen, CiScreen, Screen].map(|s| progress.resolve(s)), modes, "{progress:?}");
        }
    }

    #[test]
    fn the_builds_bytes_pass_untouched_and_apart() {
        for mode in [Mode::Bar, Mode::Plain, Mode::Json, Mode::None] {
            let (reporter, out) = reporter(mode, Verbosity::Quiet);
            reporter.build_output(Stream::Stdout, b"\x1b[31mred\xff\0\r\n").unwrap();
            reporter.build_output(Stream::Stderr, b"half").unwrap();
            reporter.build_output(Stream::Stdout, b"more").unwrap();
            reporter.build_output(Stream::Stderr, b"\xfe").unwrap();
            assert_eq!(out.stdout.bytes(), b"\x1b[31mred\xff\0\r\nmore");
            assert_eq!(out.stderr.bytes(), b"half\xfe");
        }
    }

    #[test]
    fn a_line_of_fastbuilds_begins_at_the_left_edge() {
        let (reporter, out) = reporter(Mode::Plain, Verbosity::Normal);
        reporter.build_output(Stream::Stdout, b"elsewhere").unwrap();
        reporter.emit(Event::Warned(Warning::Signalled { signal: "SIGINT" }));
        reporter.build_output(Stream::Stderr, b"half").unwrap();
        reporter.emit(Event::Warned(Warning::Signalled { signal: "SIGTERM" }));
        assert_eq!(
            out.stderr.text(),
            "fastbuild: warning: SIGINT was sent to the build\nhalf\nfastbuild: warning: SIGTERM was sent to the \
             build\n"
        );
    }

    #[test]
    fn the_first_bytes_of_the_build_are_told_once_in_each_run() {
        let (reporter, out) = reporter(Mode::Json, Verbosity::Normal);
        reporter.emit(started(Phase::Build, None));
        reporter.build_output(Stream::Stdout, b"a").unwrap();
        reporter.emit(Event::BuildOutputBegins);
        reporter.build_output(Stream::Stderr, b"b\n").unwrap();
        assert_eq!(out.stderr.text().matches("build-output-begins").count(), 1);
    }

    #[test]
    fn bars_are_gone_before_the_builds_first_byte_and_may_come_back_for_the_collect() {
        let screen = FakeScreen::default();
        let streams = Streams {
            stdout: Box::new(screen.clone()),
            stdout_shows: Shows::Here,
            stderr: Box::new(screen.clone()),
            own: Box::new(screen.clone()),
            screen: ProgressDrawTarget::hidden(),
            look: Look::default(),
        };
        let reporter = Reporter::new(Mode::None, Verbosity::Normal, streams);
        // A renderer without a thread, called directly: this test must know the time.
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let own = Own::new(Box::new(screen.clone()), reporter.0.line_state.clone());
        let own = own.with(on_screen(Glyphs::Ascii));
        *lock(&reporter.0.renderer) = Box::new(bar::Bar::still(own, target, Verbosity::Normal));
        let at =
            |millis, event: &Event| lock(&reporter.0.renderer).event(Duration::from_millis(millis), event);
        at(0, &started(Phase::Upload, None));
        at(9_000, &progress(Phase::Upload, 1, 0));
        assert!(screen.shown().contains("uploading"), "{}", screen.shown());
        reporter.build_output(Stream::Stdout, b"words").unwrap();
        assert_eq!(screen.shown(), "words");
        reporter.emit(started(Phase::Collect, None));
        at(20_000, &progress(Phase::Collect, 1, 0));
        let shown = screen.shown();
        assert!(shown.starts_with("words\n") && shown.contains("collecting"), "{shown}");
        reporter.build_output(Stream::Stdout, b"late").unwrap();
        assert_eq!(screen.shown(), "words\nlate");
    }

    #[test]
    fn quiet_leaves_nothing_but_errors() {
        for mode in [Mode::Bar, Mode::Plain, Mode::None] {
            let (reporter, out) = reporter(mode, Verbosity::Quiet);
            reporter.emit(Event::Warned(Warning::OutputsLeft));
            reporter.emit(finished(1, 0));
            reporter.error(&io::Error::other("no engine"), Some("start it"));
            assert_eq!(out.stderr.text(), "fastbuild: error: no engine\n  try: start it\n", "{mode:?}");
        }
    }

    #[test]
    fn a_broken_pipe_is_told_to_the_caller() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let streams = Streams {
            stdout: Box::new(Broken),
            stdout_shows: Shows::Elsewhere,
            stderr: Box::new(Broken),
            own: Box::new(Broken),
            screen: ProgressDrawTarget::hidden(),
            look: Look::default(),
        };
        let reporter = Reporter::new(Mode::Plain, Verbosity::Normal, streams);
        let error = reporter.build_output(Stream::Stdout, b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        reporter.emit(Event::Warned(Warning::OutputsLeft));
    }

    #[test]
    fn a_reader_that_does_not_read_stdout_holds_up_nobody_else() {
        use std::sync::mpsc;

        struct Stuck {
            entered: mpsc::Sender<()>,
            release: mpsc::Receiver<()>,
        }
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.entered.send(()).unwrap();
                self.release.recv().unwrap();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (entered, is_in) = mpsc::channel();
        let (let_go, release) = mpsc::channel();
        let stderr = Written::default();
        let streams = Streams {
            stdout: Box::new(Stuck { entered, release }),
            stdout_shows: Shows::Here,
            stderr: Box::new(stderr.clone()),
            own: Box::new(stderr.clone()),
            screen: ProgressDrawTarget::hidden(),
            look: Look::default(),
        };
        let reporter = Reporter::new(Mode::Plain, Verbosity::Normal, streams);
        let writer = reporter.clone();
        let thread = std::thread::spawn(move || writer.build_output(Stream::Stdout, b"x\n"));
        is_in.recv().unwrap();
        // This would hang if drawing or stderr shared a lock with stdout.
        reporter.emit(Event::Warned(Warning::Signalled { signal: "SIGINT" }));
        reporter.build_output(Stream::Stderr, b"err\n").unwrap();
        let_go.send(()).unwrap();
        thread.join().unwrap().unwrap();
        assert!(stderr.text().ends_with("fastbuild: warning: SIGINT was sent to the build\nerr\n"));
    }
}
