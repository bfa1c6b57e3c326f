//! What all of the agent's files stand on.

use std::{
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use crate::agent::protocol::{Failed, Failure, name_for_root};

/// Exit code: called with something that is no face of the agent's, or by somebody who may not.
pub(super) const USAGE: u8 = 64;

/// Where the agent keeps what outlives a session: the directory that it lies in itself.
pub(super) fn state_directory() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.to_owned())
}

/// What is said of a failure of the system's: what was tried, and what came back.
pub(super) fn failed(tried: &str, error: &io::Error) -> Failed {
    use rustix::io::Errno;
    let why = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => Failure::DiskFull,
        Some(Errno::ROFS) => Failure::ReadOnly,
        _ => Failure::Other,
    };
    Failed { why, detail: format!("{tried}: {error}") }
}

/// Where something about the tree at `root` is kept, beside the agent.
pub(super) fn place_beside_agent(what: &str, root: &Path) -> Option<PathBuf> {
    Some(state_directory()?.join(name_for_root(what, root.as_os_str().as_bytes())))
}
