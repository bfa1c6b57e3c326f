//! What differs between operating systems, in small modules, so that all other code compiles on
//! each system.
//!
//! | piece | what it is for |
//! |---|---|
//! | [`at`] | one name in one open directory: look, rename, exchange, remove; no link is followed |
//! | `child` | ends other fastbuild processes |
//! | [`clock`] | the clock of a file system, and its granularity |
//! | [`extents`] | where a file has data, and where holes |
//! | `host` | name, kernel, disk space, and the identity of files |
//! | [`metadata`] | directories read by handle, and the `lstat` data of their entries |
//! | `latency` | detects slow file systems |
//! | [`page_cache`] | the kernel's page cache |
//! | [`owner`] | the user of this process, and the owners of directories |
//! | `process` | jobs, ignored signals, and ending by a signal |
//! | [`source_file`] | a source file opened for reading, and its metadata |
//! | [`stdin`] | standard input, checked without reading it |
//! | [`terminal`] | foreground, raw mode, size, and changes of the size |
//! | [`walk`] | paths below one open directory, without following links |

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
pub mod latency;
pub mod metadata;
#[cfg(feature = "client")]
#[cfg(feature = "client")]
pub mod owner;
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

/// Writes a temporary file beside `path` and renames it to `path` when it is complete. Temporary
/// files of killed processes stay; where that matters, use `state::replace_file`.
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

/// Linux's number for the type of the file system at `path` (`statfs(2)`); `None` when not known.
#[cfg(target_os = "linux")]
#[allow(clippy::unnecessary_cast, reason = "the field's width differs between architectures")]
fn file_system_magic(path: &Path) -> Option<u32> {
    rustix::fs::statfs(path).ok().map(|found| found.f_type as u32)
}
