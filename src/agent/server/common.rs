//! Helpers for all files of the agent.

use std::{
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use crate::agent::protocol::{Failed, Failure, name_for_root};

/// Exit code: an unknown first argument, or a caller that may not use it.
pub(super) const USAGE: u8 = 64;

/// Where the agent keeps files that outlive a session: the directory that it is in.
pub(super) fn state_directory() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.to_owned())
}

/// The [`Failed`] for an error of the system: what was tried, and the error.
pub(super) fn failed(tried: &str, error: &io::Error) -> Failed {
    use rustix::io::Errno;
    let why = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => Failure::DiskFull,
        Some(Errno::ROFS) => Failure::ReadOnly,
        _ => Failure::Other,
    };
    Failed { why, detail: format!("{tried}: {error}") }
}

/// The path, beside the agent, of the file that holds `what` about the tree at `root`.
pub(super) fn place_beside_agent(what: &str, root: &Path) -> Option<PathBuf> {
    Some(state_directory()?.join(name_for_root(what, root.as_os_str().as_bytes())))
}
