//! The mounts of this system.

use std::path::{Path, PathBuf};

use crate::facts::FileSystem;

/// The file system of an absolute path; `None` where it is not known.
#[cfg(target_os = "linux")]
pub fn file_system(path: &Path) -> Option<FileSystem> {
    crate::facts::file_system_in(&std::fs::read("/proc/self/mountinfo").ok()?, path)
}

/// The file system of an absolute path. Calls the file system: macOS has no table to read.
#[cfg(target_os = "macos")]
pub fn file_system(path: &Path) -> Option<FileSystem> {
    // The C characters up to the NUL.
    let bytes = |text: &[std::ffi::c_char]| -> Vec<u8> {
        text.iter().take_while(|&&c| c != 0).map(|&c| c.cast_unsigned()).collect()
    };
    let found = rustix::fs::statfs(path).ok()?;
    let kind = String::from_utf8_lossy(&bytes(&found.f_fstypename)).into_owned();
    let device = String::from_utf8_lossy(&bytes(&found.f_mntfromname)).into_owned();
    Some(FileSystem {
        class: crate::facts::Class::of(&kind, &device),
        mount_point: path_from(bytes(&found.f_mntonname))?,
        options: Vec::new(),
        kind,
        device,
    })
}

/// Always `None`: this system does not tell.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub fn file_system(_: &Path) -> Option<FileSystem> {
    None
}

/// A path from the system's bytes; `None` if they cannot be a path here.
pub fn path_from(bytes: Vec<u8>) -> Option<PathBuf> {
    #[cfg(unix)]
    return Some(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes).into());
    #[cfg(not(unix))]
    return String::from_utf8(bytes).ok().map(PathBuf::from);
}
