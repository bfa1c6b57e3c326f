//! The kernel's copy of what a file holds.

use std::{fs::File, io};

/// Has the kernel forget the content of `file` that is on the disk already, so that reading it asks the disk.
///
/// # Errors
/// What the system says; [`io::ErrorKind::Unsupported`] where it cannot be told.
#[cfg_attr(not(target_os = "linux"), allow(unused_variables, reason = "it cannot be told"))]
pub fn forget(file: &File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?);
    #[cfg(not(target_os = "linux"))]
    return Err(io::ErrorKind::Unsupported.into());
}
