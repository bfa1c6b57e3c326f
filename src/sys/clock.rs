//! The clock by which a file system stamps what changes, and how finely it tells moments apart.
//!
//! A digest is worth keeping only when a later write must give the file another stamp. That is so once the file
//! system's clock has moved on from the stamp, and these two questions tell when it has. The neighbour is
//! [`crate::tree::index`].

use std::{path::Path, time::Duration};

use crate::tree::Timestamp;

/// How far apart two changes must be for a file system to give them different times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// A tick of this machine's kernel, by this machine's own clock: local file systems of Linux.
    Tick,
    /// Seconds, and perhaps by another machine's clock: everything else, and whatever is not known.
    Coarse,
}

impl Granularity {
    /// The time after which two changes have different times for certain. A tick is 10 ms at most; FAT counts in two
    /// seconds.
    pub fn span(self) -> Duration {
        match self {
            Granularity::Tick => Duration::from_millis(20),
            Granularity::Coarse => Duration::from_secs(2),
        }
    }

    /// What the file system at `path` has; [`Granularity::Coarse`] when it does not say.
    pub fn of(path: &Path) -> Granularity {
        imp::granularity(path)
    }
}

/// The present as a local file system would stamp a change that comes now: never later than the stamp of a change that
/// comes afterwards.
pub fn file_system_now() -> Timestamp {
    imp::now()
}

#[cfg(target_os = "linux")]
mod imp {
    use rustix::time::{ClockId, clock_gettime};

    use super::{Granularity, Path, Timestamp};

    const EXT: u32 = 0xef53;
    const XFS: u32 = 0x5846_5342;
    const BTRFS: u32 = 0x9123_683e;
    const F2FS: u32 = 0xf2f5_2010;
    const TMPFS: u32 = 0x0102_1994;
    const OVERLAY: u32 = 0x794c_7630;

    pub(super) fn granularity(path: &Path) -> Granularity {
        match crate::sys::file_system_magic(path) {
            Some(EXT | XFS | BTRFS | F2FS | TMPFS | OVERLAY) => Granularity::Tick,
            _ => Granularity::Coarse,
        }
    }

    pub(super) fn now() -> Timestamp {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        Timestamp { secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or_default() }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use super::{Granularity, Path, Timestamp};

    pub(super) fn granularity(_: &Path) -> Granularity {
        Granularity::Coarse
    }

    pub(super) fn now() -> Timestamp {
        crate::sys::metadata::now()
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use crate::sys::source_file;

    #[test]
    fn a_change_is_never_stamped_earlier_than_the_moment_before_it() {
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("file");
        for round in 0..200 {
            let before = file_system_now();
            std::fs::write(&file, [round]).unwrap();
            assert!(source_file::facts_at(&file).unwrap().stamp.ctime >= before);
        }
    }

    #[test]
    fn a_file_system_that_is_not_known_is_coarse() {
        assert_eq!(Granularity::of(Path::new("/proc")), Granularity::Coarse);
        assert_eq!(Granularity::of(Path::new("/not/there")), Granularity::Coarse);
    }
}
