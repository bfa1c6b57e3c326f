//! Opening a source file and asking what it is, without following a link and without blocking on a fifo.
//!
//! In: a path of the user's tree. Out: an open regular file with what the system says of it, or the news that something
//! else lies there now. The neighbour is [`crate::archive`], which reads what was opened.

use std::{
    fs::{File, Metadata},
    io,
    path::{Path, PathBuf},
};

use crate::entry::{RelPath, Stamp};

/// What the system says of a file at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Permission bits, `0o7777` at most; none on systems that have no such bits.
    pub mode: Option<u32>,
    /// The rest.
    pub stamp: Stamp,
    /// What it takes on the disk, in bytes; less than its length where it has holes.
    pub allocated: u64,
}

/// What lies at a path.
#[derive(Debug)]
pub enum Opened {
    /// A regular file, open for reading.
    Regular(File, Facts),
    /// A directory, a link, a device: nothing that has content of its own.
    Other,
}

/// Opens the regular file at `path`; the last component is not followed when it is a link.
///
/// # Errors
/// What the system said, but for "it is a link", which is [`Opened::Other`].
pub fn open(path: &Path) -> io::Result<Opened> {
    let file = match system::open(path) {
        Ok(file) => file,
        Err(error) if says_other_kind(&error) => return Ok(Opened::Other),
        Err(error) => return Err(error),
    };
    look_into(file)
}

/// What an open file is.
///
/// # Errors
/// What the system said.
pub fn look_into(file: File) -> io::Result<Opened> {
    let metadata = file.metadata()?;
    if metadata.is_file() {
        let facts = system::facts(&metadata);
        Ok(Opened::Regular(file, facts))
    } else {
        Ok(Opened::Other)
    }
}

/// What the system says of an open file now.
///
/// # Errors
/// What the system said.
pub fn facts(file: &File) -> io::Result<Facts> {
    file.metadata().map(|metadata| system::facts(&metadata))
}

/// What the system says of `path` itself now, be it a link.
///
/// # Errors
/// What the system said.
pub fn facts_at(path: &Path) -> io::Result<Facts> {
    path.symlink_metadata().map(|metadata| system::facts(&metadata))
}

/// The native path of `path` below `root`.
pub fn native(root: &Path, path: &RelPath) -> PathBuf {
    root.join(system::native(path))
}

/// Whether the error says that nothing lies at the path any more: it was removed, or a directory above it was replaced
/// by something else.
pub fn says_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether the error says that something lies at the path that cannot be opened as a file is, or not without following
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
        // Without NONBLOCK a fifo that took the file's place would hold the whole upload until somebody writes to it.
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
    use crate::{entry::Timestamp, sys::metadata::timestamp};

    /// There is no flag for it in the standard library, so a link that is put there between the two calls is followed:
    /// the sources are the user's own, and the stamp that is sent along is the one of the file that was read.
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

    /// The scan makes paths from names that are valid Unicode there; any other is simply not found.
    pub(super) fn native(path: &RelPath) -> String {
        String::from_utf8_lossy(path.as_bytes()).into_owned()
    }
}
