//! Ends other fastbuild processes.

/// Asks a child process, a fastbuild, to end at once: it ends at once on the second signal.
pub fn ask_to_end(child: &mut tokio::process::Child) {
    #[cfg(unix)]
    // The id is `None` when the child has been waited for.
    child.id().into_iter().for_each(ask_other_to_end);
    #[cfg(not(unix))]
    let _ = child.start_kill();
}

/// The same for a process that is not a child, by its id. It must be known to be alive.
#[cfg(unix)]
pub fn ask_other_to_end(pid: u32) {
    use rustix::process::{Pid, Signal, kill_process};

    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // Two pending signals of one kind would be merged into one.
    for signal in [Signal::INT, Signal::TERM] {
        // An error means that the process has already ended.
        let _ = pid.map(|pid| kill_process(pid, signal));
    }
}

/// Does nothing: this system has no signals.
#[cfg(not(unix))]
pub fn ask_other_to_end(_: u32) {}
