//! The clock that a file system uses for time stamps, and its granularity.
//!
//! A digest is worth keeping only when a later write must give the file another stamp. This is
//! certain once the file system's clock has moved on from the stamp; this module tells when. Used
//! by [`crate::tree::index`].

use std::{path::Path, time::Duration};

use crate::entry::Timestamp;

/// How far apart two changes must be to get different times from a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// A tick of this machine's kernel, by this machine's own clock: local file systems of Linux.
    Tick,
    /// Seconds, and perhaps by another machine's clock: all other and unknown file systems.
    Coarse,
}

impl Granularity {
    /// The time after which two changes certainly have different times. A tick is 10 ms at most;
    /// FAT has a granularity of two seconds.
    pub fn span(self) -> Duration {
        match self {
            Granularity::Tick => Duration::from_millis(20),
            Granularity::Coarse => Duration::from_secs(2),
        }
    }

    /// The granularity of the file system at `path`; [`Granularity::Coarse`] when it is not known.
    #[cfg_attr(not(target_os = "linux"), allow(unused_variables, reason = "none says"))]
    pub fn of(path: &Path) -> Granularity {
        #[cfg(target_os = "linux")]
        if super::file_system_magic(path).is_some_and(|magic| FINE.contains(&magic)) {
            return Granularity::Tick;
        }
        Granularity::Coarse
    }
}

/// The magic numbers of ext2 to ext4, XFS, Btrfs, F2FS, tmpfs and overlay.
#[cfg(target_os = "linux")]
const FINE: [u32; 6] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994, 0x794c_7630];

/// The current time by a local file system's clock: never later than the stamp of a change that is
/// made afterwards.
pub fn file_system_now() -> Timestamp {
    #[cfg(target_os = "linux")]
    return {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        Timestamp { secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or_default() }
    };
    #[cfg(not(target_os = "linux"))]
    return super::metadata::now();
}

/// The latest stamp that a change before this moment can have. Since Linux 6.13, a file whose times
/// have been read gets a finer time than that of the last tick.
pub fn stamped_by_now() -> Timestamp {
    super::metadata::now().max(file_system_now())
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
