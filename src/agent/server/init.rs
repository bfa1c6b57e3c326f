//! PID 1 of a workspace. It does almost nothing, so that an idle workspace costs almost nothing: it
//! waits for a client's first byte, for signals, and for the time at which it stops by itself.
//!
//! | event | action |
//! |---|---|
//! | bytes on stdin | starts a session, which inherits stdin and stdout and does the work |
//! | the session ends, in whatever way | ends processes that it left, waits for the next client |
//! | another process kills the session | stops, so that the client sees an end |
//! | SIGUSR2: a client came by an exec | restarts the idle time, ends what a killed session left |
//! | SIGTERM, SIGINT | exits, which ends all processes |
//! | SIGCHLD | reaps |
//! | no event for the time that the last client named | exits, unless another process lives |
//!
//! Where stdin is at its end (an engine may close it after an attach, or never have opened it),
//! only signals and time are left; a session then comes by an exec.
//!
//! In a one-run container ([`Lifetime::OneRun`]) there is one session. PID 1 stops when that is
//! over, in whatever way, when stdin is at its end, which shows a dead client, and when no client
//! comes.

use std::{
    io::{self, Read as _},
    os::unix::net::UnixStream,
    process::{Child, Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Signal, WaitOptions, getpid, getppid, kill_process, wait},
};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM, SIGUSR2};

use crate::agent::server::{common::state_directory, processes, session};

/// The second argument, for one client.
pub(super) const ONCE: &str = "once";

/// The idle time when no client has named one.
const IDLE_STOP: Duration = Duration::from_secs(3600);

/// How long a one-run container waits for its client, which attaches right after the start.
const FOR_ONE_CLIENT: Duration = Duration::from_secs(60);

/// How long stdin is left alone after a session that failed at once. Prevents a busy loop.
const AFTER_A_FAILURE: Duration = Duration::from_secs(1);

/// The exit code of a session that panicked.
const PANICKED: i32 = 101;

/// How often to check whether a process that delays the stop is still there.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The file in the agent's directory that holds the idle time, in seconds; zero is never.
const IDLE_FILE: &str = "idle-stop";

/// How many clients PID 1 serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// One client after the other.
    Kept,
    /// One client.
    OneRun,
}

struct Init {
    lifetime: Lifetime,
    signals: Signals,
    session: Option<Session>,
    /// There was a session.
    has_served: bool,
    /// A signal or a panic ended the session.
    session_crashed: bool,
    stdin: Input,
    /// When to stop, if no client comes.
    stop_at: Option<Instant>,
}

struct Session {
    pid: Pid,
    began: Instant,
}

enum Input {
    Open,
    /// Left alone until then.
    Resting(Instant),
    /// Nothing more will come.
    AtItsEnd,
}

/// Runs as PID 1 until it is time to stop.
pub(super) fn run(lifetime: Lifetime) -> ExitCode {
    // Anywhere else, ending all processes would be a disaster.
    if !getpid().is_init() {
        return ExitCode::from(super::common::USAGE);
    }
    let Ok(signals) = Signals::listen() else { return ExitCode::FAILURE };
    let mut init = Init {
        lifetime,
        signals,
        session: None,
        has_served: false,
        session_crashed: false,
        stdin: Input::Open,
        stop_at: in_a_while(match lifetime {
            Lifetime::Kept => idle_stop(),
            Lifetime::OneRun => Some(FOR_ONE_CLIENT),
        }),
    };
    while init.step() == Step::On {}
    ExitCode::SUCCESS
}

#[derive(PartialEq, Eq)]
enum Step {
    On,
    Stop,
}

impl Init {
    fn step(&mut self) -> Step {
        self.reap();
        if self.signals.stop.load(Ordering::Relaxed) {
            return Step::Stop;
        }
        if self.session_crashed || self.is_over() {
            return Step::Stop;
        }
        if self.signals.client_elsewhere.swap(false, Ordering::Relaxed) {
            self.stop_at = in_a_while(idle_stop());
            if self.session.is_none() {
                processes::clear();
            }
        }
        if let Input::Resting(until) = self.stdin
            && Instant::now() >= until
        {
            self.stdin = Input::Open;
        }
        if self.session.is_none() && self.is_time_to_stop() {
            return Step::Stop;
        }
        match self.wait() {
            Came::Client => self.start_session(),
            Came::NoMore => self.stdin = Input::AtItsEnd,
            Came::Other => {}
        }
        Step::On
    }

    /// Whether the one client is gone.
    fn is_over(&self) -> bool {
        self.lifetime == Lifetime::OneRun
            && self.session.is_none()
            && (self.has_served || matches!(self.stdin, Input::AtItsEnd))
    }

    /// Reaps all dead children, the session among them.
    fn reap(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if self.session.as_ref().is_some_and(|session| session.pid == pid)
                        && (status.exited() || status.signaled())
                    {
                        self.session_over(status.exit_status());
                    }
                }
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn session_over(&mut self, code: Option<i32>) {
        processes::clear();
        let session = self.session.take();
        // After a signal its client would wait for an answer for ever. If everything ends, it sees
        // that, and the next client starts the workspace again.
        self.session_crashed = code.is_none_or(|code| code == PANICKED);
        self.stop_at = in_a_while(idle_stop());
        let failed_at_once = session.is_none_or(|session| session.began.elapsed() < AFTER_A_FAILURE)
            && code.is_none_or(|code| code != 0);
        self.stdin = match code {
            Some(code) if code == i32::from(session::AT_ITS_END) => Input::AtItsEnd,
            _ if failed_at_once => Input::Resting(Instant::now() + AFTER_A_FAILURE),
            _ => Input::Open,
        };
    }

    fn start_session(&mut self) {
        let once = (self.lifetime == Lifetime::OneRun).then_some(ONCE);
        match Command::new("/proc/self/exe").arg("session").args(once).spawn() {
            Ok(child) => {
                self.session = Some(Session { pid: pid_of(&child), began: Instant::now() });
                self.has_served = true;
            }
            // Memory or processes may be short for a moment.
            Err(_) => self.stdin = Input::Resting(Instant::now() + AFTER_A_FAILURE),
        }
    }

    fn wait(&mut self) -> Came {
        let stdin = rustix::stdio::stdin();
        let listens = self.session.is_none() && matches!(self.stdin, Input::Open);
        let timeout = self.timeout().and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fds = vec![PollFd::new(&self.signals.pipe, PollFlags::IN)];
        if listens {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        let polled = poll(&mut fds, timeout.as_ref());
        let came = fds.get(1).map_or(PollFlags::empty(), PollFd::revents);
        drop(fds);
        self.signals.drain();
        match polled {
            Ok(_) if came.contains(PollFlags::IN) => Came::Client,
            Ok(_) if !came.is_empty() => Came::NoMore,
            _ => Came::Other,
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let rest = match self.stdin {
            Input::Resting(until) => Some(until.saturating_duration_since(now)),
            Input::Open | Input::AtItsEnd => None,
        };
        let stop = self.stop_at.filter(|_| self.session.is_none());
        [rest, stop.map(|at| at.saturating_duration_since(now))].into_iter().flatten().min()
    }

    fn is_time_to_stop(&mut self) -> bool {
        if self.stop_at.is_none_or(|at| Instant::now() < at) {
            return false;
        }
        if processes::is_alone() {
            return true;
        }
        // Another process came by an exec and is at work.
        self.stop_at = in_a_while(Some(LOOK_AGAIN));
        false
    }
}

/// `None` is never, and so is a time that no clock can represent.
fn in_a_while(after: Option<Duration>) -> Option<Instant> {
    Instant::now().checked_add(after?)
}

enum Came {
    Client,
    NoMore,
    Other,
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// The idle time that the last client named.
fn idle_stop() -> Option<Duration> {
    let named = state_directory()
        .and_then(|directory| std::fs::read_to_string(directory.join(IDLE_FILE)).ok())
        .and_then(|text| text.trim().parse().ok());
    match named {
        None => Some(IDLE_STOP),
        Some(0) => None,
        Some(seconds) => Some(Duration::from_secs(seconds)),
    }
}

/// Stores the idle time for [`idle_stop`].
pub(super) fn set_idle_stop(seconds: u64) {
    if let Some(directory) = state_directory() {
        // If this fails, the workspace stops at the old time, and starts again when needed.
        let _ = std::fs::write(directory.join(IDLE_FILE), seconds.to_string());
    }
}

/// Tells init of a client that init does not see, because this session came by an exec.
pub(super) fn tell_of_client() {
    if getppid() != Some(Pid::INIT) && processes::init_is_this_program().unwrap_or(false) {
        let _ = kill_process(Pid::INIT, Signal::USR2); // otherwise it stops a little early
    }
}

/// Signals as a pipe to poll.
struct Signals {
    pipe: UnixStream,
    stop: Arc<AtomicBool>,
    client_elsewhere: Arc<AtomicBool>,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        let (pipe, wake) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let (stop, client_elsewhere) = (Arc::default(), Arc::default());
        for (signal, flag) in [(SIGTERM, &stop), (SIGINT, &stop), (SIGUSR2, &client_elsewhere)] {
            signal_hook::flag::register(signal, Arc::clone(flag))?;
        }
        // After the flags, which must be set when the pipe wakes the loop.
        for signal in [SIGTERM, SIGINT, SIGUSR2, SIGCHLD] {
            signal_hook::low_level::pipe::register(signal, wake.try_clone()?)?;
        }
        Ok(Signals { pipe, stop, client_elsewhere })
    }

    fn drain(&mut self) {
        let mut buffer = [0; 64];
        while matches!(self.pipe.read(&mut buffer), Ok(read) if read > 0) {}
    }
}
