//! Processes and job control: signals ignored at the start, jobs, stopping, and ending by a signal.

use std::fs;

#[cfg(unix)]
pub use unix::{die_of, has_default, ignores, is_in_a_job, stop, tell_group};

/// What the system tells about a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// The id of its parent.
    pub parent: i32,
    /// Its state.
    pub state: State,
}

/// The state of a process, see [`Look::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Running or waiting.
    Running,
    /// Stopped, by Ctrl-Z for example.
    Stopped,
    /// Ended, but its parent has not waited for it (a zombie).
    Dead,
}

/// Looks at a process; `None` where it no longer exists, or where the system has no `/proc`.
pub fn look(pid: i32) -> Option<Look> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain any character, including parentheses.
    let behind = &stat[stat.iter().rposition(|&byte| byte == b')')? + 1..];
    let mut fields = str::from_utf8(behind).ok()?.split_ascii_whitespace();
    let state = match fields.next()? {
        "T" => State::Stopped,
        "Z" | "X" => State::Dead,
        _ => State::Running,
    };
    Some(Look { parent: fields.next()?.parse().ok()?, state })
}

/// Whether a process is stopped; false where this is not known.
pub fn is_stopped(pid: u32) -> bool {
    i32::try_from(pid).ok().and_then(look).is_some_and(|look| look.state == State::Stopped)
}

#[cfg(unix)]
mod unix {
    use std::fs;

    use rustix::process::{
        Pid, Resource, Rlimit, Signal, getpgid, getpgrp, getpid, getppid, getsid, setrlimit,
    };

    use super::look;

    /// Whether this process ignores `signal`. Called before fastbuild installs a handler, it tells
    /// whether the signal was ignored at the start. False where this is not known.
    pub fn ignores(signal: i32) -> bool {
        is_among(getpid(), "SigIgn:", signal)
    }

    /// Whether `signal` has its default action in a process.
    pub fn has_default(pid: Pid, signal: i32) -> bool {
        !["SigIgn:", "SigCgt:"].into_iter().any(|set| is_among(pid, set, signal))
    }

    fn is_among(pid: Pid, set: &str, signal: i32) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).unwrap_or_default();
        let bits =
            status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix(set)?.trim(), 16).ok());
        bits.is_some_and(|bits| bits >> (signal - 1) & 1 == 1)
    }

    /// Whether a shell can continue this process after it stops: an ancestor that is in its session
    /// but not in its process group. Without one the system itself ignores Ctrl-Z.
    pub fn is_in_a_job() -> bool {
        let (group, session) = (getpgrp(), getsid(None));
        let mut above = getppid();
        while let Some(pid) = above {
            if getsid(Some(pid)) != session {
                return false;
            }
            if getpgid(Some(pid)) != Ok(group) {
                return true;
            }
            match look(pid.as_raw_pid()) {
                Some(look) => above = Pid::from_raw(look.parent),
                // Without `/proc` (no Linux), a script started by a shell is likely.
                None => return cfg!(not(target_os = "linux")),
            }
        }
        false
    }

    /// Stops this process, and returns when another process continues it.
    pub fn stop() {
        // Fails only for unknown signals.
        let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGTSTP);
    }

    /// Sends `signal` to the whole process group, as a terminal that is not raw does.
    pub fn tell_group(signal: u8) {
        if let Some(signal) = Signal::from_named_raw(signal.into()) {
            let _ = rustix::process::kill_current_process_group(signal); // this process is in it
        }
    }

    /// Ends this process by a signal's default action. Returns where it has none, as in a
    /// container's first process.
    pub fn die_of(signal: u8) {
        if getpid().is_init() {
            return;
        }
        // A core dump of fastbuild itself is of no use.
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        let _ = signal_hook::low_level::emulate_default_handler(signal.into());
    }
}
