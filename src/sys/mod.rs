//! What differs between operating systems, in small modules, so that all other code compiles on
//! each system.
//!
//! | piece | what it is for |
//! |---|---|
//! | [`at`] | one name in one open directory: look, rename, exchange, remove, never following a link |
//! | `child` | other fastbuilds that are asked to end |
//! | [`clock`] | the clock of a file system, and how finely it tells moments apart |
//! | [`extents`] | where a file has data, and where holes |
//! | `host` | name, kernel, room on the disk, what a name stands for |
//! | [`metadata`] | directories read by handle, and what `lstat` says of their entries |
//! | `mounts` | what is mounted where |
//! | [`page_cache`] | what the kernel keeps of files in memory |
//! | [`owner`] | who this process is, and whose a directory is |
//! | `process` | jobs, ignored signals, and dying of one |
//! | [`source_file`] | a source file opened for reading, and what the system says of it |
//! | [`stdin`] | standard input, looked at and not read |
//! | [`terminal`] | foreground, raw mode, size, and changes of the size |
//! | [`walk`] | paths below one open directory, never following a link |

#[cfg(unix)]
#[path = "at_unix.rs"]
pub mod at;
#[cfg(not(unix))]
#[path = "at_portable.rs"]
pub mod at;
#[cfg(feature = "client")]
pub mod child;
pub mod clock;
pub mod extents;
pub mod host;
pub mod metadata;
#[cfg(feature = "client")]
#[cfg(feature = "client")]
pub mod owner;
pub mod pace;
pub mod page_cache;
pub mod process;
pub mod source_file;
#[cfg(feature = "client")]
pub mod stdin;
#[cfg(all(unix, feature = "client"))]
#[path = "terminal_unix.rs"]
pub mod terminal;
#[cfg(all(not(unix), feature = "client"))]
#[path = "terminal_portable.rs"]
pub mod terminal;
pub mod walk;

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use crate::entry::{Kind, Stamp};

/// The longest path that this system opens, in bytes: `PATH_MAX` without the final NUL.
pub const LONGEST_PATH: usize = match () {
    () if cfg!(target_os = "linux") => 4095,
    () if cfg!(windows) => 32_766,
    () => 1023,
};

/// The metadata of a name, from `lstat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// File, directory or link; `None` for sockets, fifos and devices.
    pub kind: Option<Kind>,
    /// Permission bits, `0o7777` at most, as far as the system has them.
    pub mode: u32,
    /// Identity and times.
    pub stamp: Stamp,
    /// Number of hard links. 1 for directories, whose count has another meaning.
    pub links: u64,
}

/// Writes a temporary file beside `path` and renames it to `path` when it is complete. It does not
/// clean up after killed processes; where many processes write and old temporary files must be
/// removed, use `state::replace_file`.
///
/// # Errors
/// The system's error; the old file is then unchanged.
pub fn replace_file(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".new-{}", std::process::id()));
    let written =
        File::create(&beside).and_then(|mut file| write(&mut file)).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // Best effort: the caller gets the first error.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Whether an error of opening a directory says that a component is missing or is not a directory
/// (a link, for example).
pub fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || at::is_link_refusal(error)
}

/// The number that Linux uses for the type of the file system at `path` (`statfs(2)`); `None` when
/// it is not known.
#[cfg(target_os = "linux")]
#[allow(clippy::unnecessary_cast, reason = "the field's width differs between architectures")]
fn file_system_magic(path: &Path) -> Option<u32> {
    rustix::fs::statfs(path).ok().map(|found| found.f_type as u32)
}
