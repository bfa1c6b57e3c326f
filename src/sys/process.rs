//! Processes as a shell sees them: signals that were ignored at the start, jobs, stopping, and dying of a signal.

use std::fs;

#[cfg(unix)]
pub use unix::{die_of, has_default, ignores, is_in_a_job, stop, tell_group};

/// What the system says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Its parent.
    pub parent: i32,
    /// What it does.
    pub state: State,
}

/// See [`Look::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It runs, or waits for something.
    Running,
    /// It was stopped, by Ctrl-Z for example.
    Stopped,
    /// It is dead, and nobody has waited for it yet.
    Dead,
}

/// Looks at a process; none where it is gone, or where the system has no `/proc`.
pub fn look(pid: i32) -> Option<Look> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses too.
    let behind = &stat[stat.iter().rposition(|&byte| byte == b')')? + 1..];
    let mut fields = str::from_utf8(behind).ok()?.split_ascii_whitespace();
    let state = match fields.next()? {
        "T" => State::Stopped,
        "Z" | "X" => State::Dead,
        _ => State::Running,
    };
    Some(Look { parent: fields.next()?.parse().ok()?, state })
}

/// Whether a process has been stopped; not where the system does not tell.
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

    /// Whether this process ignores `signal`: asked before anybody here has taken it over, whether it was started so. Not where the
    /// system does not tell.
    pub fn ignores(signal: i32) -> bool {
        is_among(getpid(), "SigIgn:", signal)
    }

    /// Whether `signal` does to a process what it does by default.
    pub fn has_default(pid: Pid, signal: i32) -> bool {
        !["SigIgn:", "SigCgt:"].into_iter().any(|set| is_among(pid, set, signal))
    }

    fn is_among(pid: Pid, set: &str, signal: i32) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).unwrap_or_default();
        let bits =
            status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix(set)?.trim(), 16).ok());
        bits.is_some_and(|bits| bits >> (signal - 1) & 1 == 1)
    }

    /// Whether a shell is there to take this process up again when it has stopped: somebody above it who belongs to its session and
    /// not to its process group. Without one the system itself lets Ctrl-Z pass.
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
                // Where it cannot be looked further, a script that a shell has started is the likely case.
                None => return cfg!(not(target_os = "linux")),
            }
        }
        false
    }

    /// Stops this process, and returns when somebody has taken it up again.
    pub fn stop() {
        // Fails only for signals that it does not know.
        let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGTSTP);
    }

    /// Gives `signal` to the whole process group, as a terminal would that is not raw.
    pub fn tell_group(signal: u8) {
        if let Some(signal) = Signal::from_named_raw(signal.into()) {
            let _ = rustix::process::kill_current_process_group(signal); // it is there: this process is in it
        }
    }

    /// Ends this process by a signal's default action. Returns where that is none: the first process of a container has none.
    pub fn die_of(signal: u8) {
        if getpid().is_init() {
            return;
        }
        // A dump of the command's would be of interest; nothing of fastbuild's is.
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        let _ = signal_hook::low_level::emulate_default_handler(signal.into());
    }
}
