//! The kernel's page cache.

use std::{fs::File, io};

/// Drops the content of `file` that is on the disk from the kernel's cache: the next read uses the
/// disk.
///
/// # Errors
/// The system's error; [`io::ErrorKind::Unsupported`] where the system has no such call.
#[cfg_attr(not(target_os = "linux"), allow(unused_variables, reason = "it cannot be told"))]
pub fn forget(file: &File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?);
    #[cfg(not(target_os = "linux"))]
    return Err(io::ErrorKind::Unsupported.into());
}
