//! PID 1 of a workspace. It does next to nothing, so that an idle workspace costs next to nothing: it waits for a client's first
//! byte, for signals, and for the time at which it stops by itself.
//!
//! | what comes | what it does |
//! |---|---|
//! | bytes on stdin | starts a session, which inherits stdin and stdout and does the work |
//! | the session ends, in whatever way | ends whom it left, waits for the next client |
//! | the session is killed by somebody else | stops: that is how its client sees it |
//! | SIGUSR2: "a client is served by an exec" | begins the time to its own stop anew, and ends whom a killed session left |
//! | SIGTERM, SIGINT | exits, which ends everybody |
//! | SIGCHLD | reaps |
//! | nothing for the time that the last client named | exits, unless somebody lives |
//!
//! Where stdin is at its end (an engine may close it after an attach, or never have opened it), signals and time are all
//! that is left; a session then comes by an exec.
//!
//! In a one-run container ([`Lifetime::OneRun`]) there is one session. It stops when that is over, in whatever way, when stdin
//! is at its end, which is how a dead client shows, and when no client comes.

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

use super::{processes, session};
use crate::agent::far::ground::state_directory;

/// Behind a face: for one client.
pub(super) const ONCE: &str = "once";

/// When no client has said otherwise.
const IDLE_STOP: Duration = Duration::from_secs(3600);

/// How long a one-run container waits for its client, which attaches right after the start.
const FOR_ONE_CLIENT: Duration = Duration::from_secs(60);

/// How long stdin is left alone after a session that failed at once, so that a fault does not make this spin.
const AFTER_A_FAILURE: Duration = Duration::from_secs(1);

/// The exit code of a session that panicked.
const PANICKED: i32 = 101;

/// How often it is looked whether somebody who holds up the stop is still there.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The file in the agent's directory that names the time, in seconds; zero is never.
const IDLE_FILE: &str = "idle-stop";

/// For how long PID 1 serves.
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
    /// A session was there.
    has_served: bool,
    /// The session was ended, and by nobody who may.
    session_crashed: bool,
    stdin: Input,
    /// When to stop, if nobody comes.
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
    /// There is nothing to come.
    AtItsEnd,
}

/// Runs as PID 1 until it is time to stop.
pub(super) fn run(lifetime: Lifetime) -> ExitCode {
    // Anywhere else, ending everybody would be a disaster.
    if !getpid().is_init() {
        return ExitCode::from(super::ground::USAGE);
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

    /// Waits for all children that are dead, the session among them.
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
        // Ended by a signal: its client would wait for an answer for ever. The end of everything is what it sees, and the next
        // one starts this again.
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
        // Somebody is at work by an exec of their own.
        self.stop_at = in_a_while(Some(LOOK_AGAIN));
        false
    }
}

/// None is never, and so is what no clock can tell.
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

/// The time that the last client named.
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

/// Leaves word of when to stop, for [`idle_stop`].
pub(super) fn set_idle_stop(seconds: u64) {
    if let Some(directory) = state_directory() {
        // Without it the workspace stops at the time that was named before, and starts again when it is wanted.
        let _ = std::fs::write(directory.join(IDLE_FILE), seconds.to_string());
    }
}

/// Tells init of a client that it does not see, because this session came by an exec.
pub(super) fn tell_of_client() {
    if getppid() != Some(Pid::INIT) && processes::init_is_this_program().unwrap_or(false) {
        let _ = kill_process(Pid::INIT, Signal::USR2); // it would stop a little early
    }
}

/// Signals as something to poll.
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
        // After the flags, which are to be set when the pipe wakes anybody.
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
