//! Facts about this system: its name and kernel, the space on its disks, and the identity of files.

#[cfg(unix)]
use std::os::unix::fs::MetadataExt as _;
use std::{ffi::OsString, io, path::Path};

use serde::Serialize;

/// The identity of a file: two names of one file have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    file_system: u64,
    number: u64,
}

impl Identity {
    /// From the numbers of a file system and of a file on it.
    pub fn new(file_system: u64, number: u64) -> Identity {
        Identity { file_system, number }
    }

    /// Whether both are on one file system.
    pub fn is_beside(self, other: Identity) -> bool {
        self.file_system == other.file_system
    }
}

/// The kernel's release; empty where it is not known.
pub fn kernel() -> String {
    #[cfg(unix)]
    return rustix::system::uname().release().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    return String::new();
}

/// The machine's name on the network; empty where not known. `variable` reads the environment.
#[cfg_attr(unix, allow(unused_variables, reason = "the system tells"))]
pub fn name(variable: impl Fn(&str) -> Option<OsString>) -> String {
    #[cfg(unix)]
    return rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    return variable("COMPUTERNAME").map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
}

/// The space of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Space {
    /// Free space for the current user.
    pub free: u64,
    /// Total space.
    pub total: u64,
}

/// The space of the file system at `path`. This calls the file system.
///
/// # Errors
/// The system's error; [`io::ErrorKind::Unsupported`] where the system has no such call.
pub fn space(path: &Path) -> io::Result<Space> {
    #[cfg(unix)]
    return rustix::fs::statvfs(path).map_err(io::Error::from).map(|found| {
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Space { free: bytes(found.f_bavail), total: bytes(found.f_blocks) }
    });
    #[cfg(not(unix))]
    return unsupported(path);
}

#[cfg(not(unix))]
fn unsupported<T>(_: &Path) -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Total memory in bytes; `None` where it is not known.
#[allow(clippy::useless_conversion, reason = "the field's width differs between architectures")]
pub fn memory() -> Option<u64> {
    #[cfg(target_os = "linux")]
    return {
        let found = rustix::system::sysinfo();
        u64::try_from(found.totalram).ok()?.checked_mul(found.mem_unit.into())
    };
    #[cfg(not(target_os = "linux"))]
    return None;
}

/// The identity of `path`; a link is not followed.
///
/// # Errors
/// The system's error; [`io::ErrorKind::Unsupported`] where files have no such numbers.
pub fn identity(path: &Path) -> io::Result<Identity> {
    #[cfg(unix)]
    return path.symlink_metadata().map(|found| Identity::new(found.dev(), found.ino()));
    #[cfg(not(unix))]
    return unsupported(path);
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn free_room_is_part_of_all_of_it() {
        let found = space(&std::env::temp_dir()).unwrap();
        assert!(found.free <= found.total && found.total > 0, "{found:?}");
        assert_eq!(space(Path::new("/not/there")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
