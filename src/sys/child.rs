//! Other fastbuilds that are asked to end.

/// Asks a child of ours, a fastbuild, to end without delay: it takes the second of two signals for that.
pub fn ask_to_end(child: &mut tokio::process::Child) {
    #[cfg(unix)]
    // None once it has been waited for.
    child.id().into_iter().for_each(ask_other_to_end);
    #[cfg(not(unix))]
    let _ = child.start_kill();
}

/// The same for one that is no child of ours, by its process id. It must be known to live.
#[cfg(unix)]
pub fn ask_other_to_end(pid: u32) {
    use rustix::process::{Pid, Signal, kill_process};

    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // Two of a kind that come at once would be one.
    for signal in [Signal::INT, Signal::TERM] {
        // One that has ended needs no asking.
        let _ = pid.map(|pid| kill_process(pid, signal));
    }
}

/// Nobody can be asked here.
#[cfg(not(unix))]
pub fn ask_other_to_end(_: u32) {}
