//! A child process that is asked to end.

/// Asks a child of ours, a fastbuild, to end without delay: it takes the second of two signals for that.
pub fn ask_to_end(child: &mut tokio::process::Child) {
    imp::ask_to_end(child);
}

#[cfg(unix)]
mod imp {
    use rustix::process::{Pid, Signal, kill_process};

    pub(super) fn ask_to_end(child: &mut tokio::process::Child) {
        // None once it has been waited for.
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        // Two of a kind that come at once would be one.
        for signal in [Signal::INT, Signal::TERM] {
            // One that has ended needs no asking.
            let _ = pid.map(|pid| kill_process(pid, signal));
        }
    }
}

#[cfg(not(unix))]
mod imp {
    pub(super) fn ask_to_end(child: &mut tokio::process::Child) {
        let _ = child.start_kill();
    }
}
