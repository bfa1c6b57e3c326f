//! Corrects the times of products. They carry this machine's time. Where the host's clock differs,
//! or this one was set while the command ran, the host's tools would take products for older than
//! their sources, or for younger than all later edits. So the mtimes that the command gave are
//! moved to the host's time, here as well, before anything is compared.

use std::{io, path::Path, time::Duration};

use cap_std::fs::Dir;
use rustix::time::{ClockId, clock_gettime};

use crate::{
    entry::{Kind, Timestamp},
    sys::{at, clock, walk::Walk},
    tree::Entry,
};

/// The normal difference of clock readings, in nanoseconds: file systems use the last tick.
const HARMLESS: i128 = 50_000_000;

/// The time span of a command, on this clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    began: i128,
    /// The same on the clock that is never set, and that goes on while the machine sleeps.
    steady: i128,
    /// How far this clock is ahead of the host's, in nanoseconds.
    ahead: i128,
}

/// How mtimes are moved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shift {
    from: i128,
    until: i128,
    ahead: i128,
    /// The new mtime of all files, if the clock was set meanwhile and their order is unknown.
    all: Option<i128>,
}

impl Span {
    /// Begins now.
    pub(super) fn begin(ahead: i64) -> Span {
        Span { began: clock::file_system_now().as_nanos(), steady: steady(), ahead: ahead.into() }
    }

    /// Ends now; `None` where the clocks agree.
    pub(super) fn end(self) -> Option<Shift> {
        let until = clock::stamped_by_now().as_nanos();
        let took = steady() - self.steady;
        let jump = until - self.began - took;
        let has_jumped = jump.abs() > HARMLESS;
        if !has_jumped && self.ahead == 0 {
            return None;
        }
        let (from, until) = (self.began.min(until), until.max(self.began + took));
        let all = has_jumped.then_some(self.began + took - self.ahead);
        Some(Shift { from, until, ahead: self.ahead, all })
    }
}

impl Shift {
    /// Moves the mtimes that the command set on files in `entries`, all below `root`.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn apply<'a>(&self, root: &Path, entries: impl Iterator<Item = &'a Entry>) -> io::Result<()> {
        let top = Dir::open_ambient_dir(root, cap_std::ambient_authority())?;
        let mut walk = Walk::new(&top);
        for Entry { path, kind, mtime, .. } in entries {
            let mtime = mtime.as_nanos();
            if matches!(kind, Kind::File { .. })
                && (self.from..=self.until).contains(&mtime)
                && let Some(moved) = Timestamp::from_nanos(self.all.unwrap_or(mtime - self.ahead))
            {
                let (dir, name) = walk.parent(path)?;
                at::set_mtime(dir, name, moved)?;
            }
        }
        Ok(())
    }
}

fn steady() -> i128 {
    let now = clock_gettime(ClockId::Boottime);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

/// Waits until everything written from now on gets a later ctime than `newest`.
pub(super) fn wait_for_tick(newest: crate::entry::Timestamp) {
    // A time in the future is from a clock that was set back since; it cannot be waited for.
    if newest > clock::stamped_by_now() {
        return;
    }
    // No event tells of a clock's tick.
    while clock::file_system_now() <= newest {
        std::thread::sleep(Duration::from_micros(500));
    }
}
