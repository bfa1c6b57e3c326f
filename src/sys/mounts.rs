//! What is mounted where, as the system tells it.

use std::path::{Path, PathBuf};

use crate::facts::FileSystem;

/// What an absolute path lies on; none where the system does not tell.
pub fn file_system(path: &Path) -> Option<FileSystem> {
    imp::file_system(path)
}

/// A path from the system's bytes; none where they are none.
pub fn path_from(bytes: Vec<u8>) -> Option<PathBuf> {
    imp::path_from(bytes)
}

#[cfg(target_os = "linux")]
mod imp {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

    use super::{FileSystem, Path, PathBuf};
    use crate::facts::file_system_in;

    pub(super) fn file_system(path: &Path) -> Option<FileSystem> {
        file_system_in(&std::fs::read("/proc/self/mountinfo").ok()?, path)
    }

    pub(super) fn path_from(bytes: Vec<u8>) -> Option<PathBuf> {
        Some(OsString::from_vec(bytes).into())
    }
}

#[cfg(target_os = "macos")]
mod imp {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

    use super::{FileSystem, Path, PathBuf};
    use crate::facts::Class;

    /// Asks the file system itself: there is no table that could be read.
    pub(super) fn file_system(path: &Path) -> Option<FileSystem> {
        let found = rustix::fs::statfs(path).ok()?;
        let kind = String::from_utf8_lossy(&bytes(&found.f_fstypename)).into_owned();
        let device = String::from_utf8_lossy(&bytes(&found.f_mntfromname)).into_owned();
        Some(FileSystem {
            class: Class::of(&kind, &device),
            mount_point: path_from(bytes(&found.f_mntonname))?,
            options: Vec::new(),
            kind,
            device,
        })
    }

    pub(super) fn path_from(bytes: Vec<u8>) -> Option<PathBuf> {
        Some(OsString::from_vec(bytes).into())
    }

    /// C's characters up to the NUL.
    fn bytes(text: &[std::ffi::c_char]) -> Vec<u8> {
        text.iter().take_while(|&&c| c != 0).map(|&c| c.cast_unsigned()).collect()
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod imp {
    use super::{FileSystem, Path, PathBuf};

    pub(super) fn file_system(_: &Path) -> Option<FileSystem> {
        None
    }

    pub(super) fn path_from(bytes: Vec<u8>) -> Option<PathBuf> {
        String::from_utf8(bytes).ok().map(PathBuf::from)
    }
}
