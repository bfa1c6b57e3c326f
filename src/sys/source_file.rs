//! Opens a source file and reads its metadata, without following links or blocking on a fifo.
//!
//! In: a path of the user's tree. Out: an open regular file with its metadata, or the result that
//! the path is now of another kind. [`crate::archive`] reads the opened file.

use std::{
    fs::{File, Metadata},
    io,
    path::{Path, PathBuf},
};

use crate::entry::{RelPath, Stamp};

/// The metadata of a file at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Permission bits, `0o7777` at most; `None` on systems without such bits.
    pub mode: Option<u32>,
    /// The other metadata.
    pub stamp: Stamp,
    /// Its disk space in bytes; less than its length where it has holes.
    pub allocated: u64,
}

/// What a path is.
#[derive(Debug)]
pub enum Opened {
    /// A regular file, open for reading.
    Regular(File, Facts),
    /// A directory, a link or a device: without content of its own.
    Other,
}

/// Opens the regular file at `path`. A link as the last component is not followed.
///
/// # Errors
/// The system's error, except for a link, which gives [`Opened::Other`].
pub fn open(path: &Path) -> io::Result<Opened> {
    let file = match system::open(path) {
        Ok(file) => file,
        Err(error) if says_other_kind(&error) => return Ok(Opened::Other),
        Err(error) => return Err(error),
    };
    look_into(file)
}

/// The kind and metadata of an open file.
///
/// # Errors
/// The system's error.
pub fn look_into(file: File) -> io::Result<Opened> {
    let metadata = file.metadata()?;
    if metadata.is_file() {
        let facts = system::facts(&metadata);
        Ok(Opened::Regular(file, facts))
    } else {
        Ok(Opened::Other)
    }
}

/// The current metadata of an open file.
///
/// # Errors
/// The system's error.
pub fn facts(file: &File) -> io::Result<Facts> {
    file.metadata().map(|metadata| system::facts(&metadata))
}

/// The current metadata of `path` itself; a link is not followed.
///
/// # Errors
/// The system's error.
pub fn facts_at(path: &Path) -> io::Result<Facts> {
    path.symlink_metadata().map(|metadata| system::facts(&metadata))
}

/// The native path of `path` below `root`.
pub fn native(root: &Path, path: &RelPath) -> PathBuf {
    root.join(system::native(path))
}

/// Whether the error says that the path no longer exists: it was removed, or a directory above it
/// was replaced.
pub fn says_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether the error says that the path exists but cannot be opened as a file, or only by following
/// a link.
pub fn says_other_kind(error: &io::Error) -> bool {
    system::says_other_kind(error)
}

#[cfg(unix)]
mod system {
    use crate::entry::Timestamp;
    use std::{
        ffi::OsStr,
        fs::OpenOptions,
        os::unix::{
            ffi::OsStrExt as _,
            fs::{MetadataExt as _, OpenOptionsExt as _},
        },
    };

    use rustix::{fs::OFlags, io::Errno};

    use super::{Facts, File, Metadata, Path, RelPath, Stamp, io};

    pub(super) fn open(path: &Path) -> io::Result<File> {
        // Without NONBLOCK a fifo in the file's place would block the upload until it is written
        // to.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
    }

    /// A link gives `ELOOP` (`EMLINK` on some BSDs), a socket `ENXIO` (`EOPNOTSUPP` on macOS).
    pub(super) fn says_other_kind(error: &io::Error) -> bool {
        let errno = Errno::from_io_error(error);
        matches!(errno, Some(Errno::LOOP | Errno::MLINK | Errno::NXIO | Errno::OPNOTSUPP))
    }

    pub(super) fn facts(metadata: &Metadata) -> Facts {
        let stamp = Stamp {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.size(),
            mtime: timestamp(metadata.mtime(), metadata.mtime_nsec()),
            ctime: timestamp(metadata.ctime(), metadata.ctime_nsec()),
        };
        Facts {
            mode: Some(metadata.mode() & 0o7777),
            stamp,
            allocated: metadata.blocks().saturating_mul(512),
        }
    }

    fn timestamp(secs: i64, nanos: i64) -> Timestamp {
        Timestamp { secs, nanos: u32::try_from(nanos).unwrap_or(0) }
    }

    pub(super) fn native(path: &RelPath) -> &OsStr {
        OsStr::from_bytes(path.as_bytes())
    }
}

#[cfg(not(unix))]
mod system {
    use super::{Facts, File, Metadata, Path, RelPath, Stamp, io};
    use crate::sys::metadata::timestamp;

    /// There is no flag for it in the standard library, so a link created between the two calls is
    /// followed: the sources are the user's own, and the stamp is that of the file that was read.
    pub(super) fn open(path: &Path) -> io::Result<File> {
        if path.symlink_metadata()?.is_file() { File::open(path) } else { Err(other_kind()) }
    }

    fn other_kind() -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
    }

    pub(super) fn says_other_kind(error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::InvalidInput
    }

    pub(super) fn facts(metadata: &Metadata) -> Facts {
        let mtime = metadata.modified().map(timestamp).unwrap_or_default();
        let stamp = Stamp { dev: 0, ino: 0, size: metadata.len(), mtime, ctime: mtime };
        Facts { mode: None, stamp, allocated: metadata.len() }
    }

    /// The scan makes paths from names that are valid Unicode; other names are simply not found.
    pub(super) fn native(path: &RelPath) -> String {
        String::from_utf8_lossy(path.as_bytes()).into_owned()
    }
}
