//! Reads directories and metadata without following links: a directory handle, its names, and the
//! kind of each name.
//!
//! On Unix all access goes through open directories, so a directory swapped for a link during the
//! read leads nowhere else. Elsewhere there are only paths: visible links are not followed, but a
//! race remains.

use std::{fs::File, io, path::Path};

use crate::entry::{Kind, RelPath, Special, Stamp, Timestamp};

/// The kind of a name, as far as the directory listing tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// A directory.
    Directory,
    /// Anything else.
    Other,
    /// The file system does not say.
    Unknown,
}

/// The metadata of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Metadata {
    /// Something that can be part of a tree.
    Entry {
        /// What it is.
        kind: Kind,
        /// Permission bits, `0o7777` at most.
        mode: u32,
        /// Identity, length and times.
        stamp: Stamp,
        /// Number of hard links. 1 for directories, whose count has another meaning.
        links: u64,
    },
    /// An entry that cannot be part of a tree.
    Special(Special),
}

/// The current time by this machine's clock.
pub fn now() -> Timestamp {
    timestamp(std::time::SystemTime::now())
}

pub(super) fn timestamp(time: std::time::SystemTime) -> Timestamp {
    match time.duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => Timestamp { secs: since.as_secs().cast_signed(), nanos: since.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            let borrow = i64::from(before.subsec_nanos() > 0);
            let nanos = (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000;
            Timestamp { secs: -before.as_secs().cast_signed() - borrow, nanos }
        }
    }
}

pub use imp::Directory;

#[cfg(unix)]
mod imp {
    use std::os::fd::OwnedFd;

    use rustix::fs::{AtFlags, FileType, Mode, OFlags};

    use super::*;

    /// An open directory.
    #[derive(Debug)]
    pub struct Directory {
        handle: OwnedFd,
    }

    const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

    /// Without NONBLOCK, opening a fifo would block until another process writes to it.
    const FILE_FLAGS: OFlags = OFlags::RDONLY
        .union(OFlags::NOFOLLOW)
        .union(OFlags::NONBLOCK)
        .union(OFlags::NOCTTY)
        .union(OFlags::CLOEXEC);

    /// Buffer for the names of one directory read, in bytes.
    #[cfg(target_os = "linux")]
    const NAMES: usize = 32 << 10;

    impl Directory {
        /// Opens a root. A link that names it is followed.
        ///
        /// # Errors
        /// The system's error.
        pub fn open_root(path: &Path) -> io::Result<Directory> {
            let handle = rustix::fs::open(path, FLAGS, Mode::empty())?;
            Ok(Directory { handle })
        }

        /// Opens the directory at `path` below this one without following any link on the way. A
        /// link there gives an error for which [`super::is_gone`] is true.
        ///
        /// # Errors
        /// The system's error.
        pub fn open_below(&self, path: &RelPath) -> io::Result<Directory> {
            Ok(Directory { handle: self.open(path, FLAGS)? })
        }

        /// Opens the file at `path` below this one for reading, without following any link and
        /// without blocking on a fifo. The caller must check whether it is a regular file.
        ///
        /// # Errors
        /// The system's error.
        pub fn open_file_below(&self, path: &RelPath) -> io::Result<File> {
            Ok(self.open(path, FILE_FLAGS)?.into())
        }

        fn open(&self, path: &RelPath, flags: OFlags) -> io::Result<OwnedFd> {
            if let Some(opened) = self.open_at_once(path, flags) {
                return opened;
            }
            let mut handle = self.handle.try_clone()?;
            let mut names = path.components().peekable();
            while let Some(name) = names.next() {
                let flags = if names.peek().is_some() { FLAGS } else { flags };
                handle = rustix::fs::openat(&handle, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
            }
            Ok(handle)
        }

        /// Uses one call where the kernel can refuse links in the middle of a path. `None` where it
        /// cannot, and for paths that are too long for one call.
        #[cfg(target_os = "linux")]
        fn open_at_once(&self, path: &RelPath, flags: OFlags) -> Option<io::Result<OwnedFd>> {
            use std::sync::atomic::{AtomicBool, Ordering};

            use rustix::{fs::ResolveFlags, io::Errno};

            static REFUSED: AtomicBool = AtomicBool::new(false);

            if path.is_root() || REFUSED.load(Ordering::Relaxed) {
                return None;
            }
            let resolve = ResolveFlags::NO_SYMLINKS;
            match rustix::fs::openat2(&self.handle, path.as_bytes(), flags, Mode::empty(), resolve) {
                Ok(handle) => Some(Ok(handle)),
                // Old kernels do not have this call; some sandboxes forbid it.
                Err(Errno::NOSYS | Errno::PERM) => {
                    REFUSED.store(true, Ordering::Relaxed);
                    None
                }
                Err(Errno::NAMETOOLONG) => None,
                Err(err) => Some(Err(err.into())),
            }
        }

        #[cfg(not(target_os = "linux"))]
        fn open_at_once(&self, _: &RelPath, _: OFlags) -> Option<io::Result<OwnedFd>> {
            None
        }

        /// Calls `each` for every name except `.` and `..`, unsorted.
        ///
        /// # Errors
        /// The system's error.
        pub fn names(&self, mut each: impl FnMut(&[u8], Hint)) -> io::Result<()> {
            let mut tell = |name: &[u8], kind| {
                let hint = match kind {
                    FileType::Directory => Hint::Directory,
                    FileType::Unknown => Hint::Unknown,
                    _ => Hint::Other,
                };
                if name != b"." && name != b".." {
                    each(name, hint);
                }
            };
            self.entries(&mut tell)
        }

        #[cfg(target_os = "linux")]
        fn entries(&self, tell: &mut dyn FnMut(&[u8], FileType)) -> io::Result<()> {
            // Few directories need a second call.
            let mut buffer = Vec::with_capacity(NAMES);
            let mut entries = rustix::fs::RawDir::new(&self.handle, buffer.spare_capacity_mut());
            while let Some(entry) = entries.next() {
                let entry = entry?;
                tell(entry.file_name().to_bytes(), entry.file_type());
            }
            Ok(())
        }

        #[cfg(not(target_os = "linux"))]
        fn entries(&self, tell: &mut dyn FnMut(&[u8], FileType)) -> io::Result<()> {
            // A duplicate shares its position with the handle: the directory is read only once.
            for entry in rustix::fs::Dir::new(self.handle.try_clone()?)? {
                let entry = entry?;
                tell(entry.file_name().to_bytes(), entry.file_type());
            }
            Ok(())
        }

        /// The metadata of `name` in this directory.
        ///
        /// # Errors
        /// The system's error.
        pub fn look_at(&self, name: &[u8]) -> io::Result<Metadata> {
            let stat = rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW)?;
            self.understand(name, &stat)
        }

        fn understand(&self, name: &[u8], stat: &rustix::fs::Stat) -> io::Result<Metadata> {
            let stamp = stamp(stat);
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Kind::File { size: stamp.size },
                FileType::Directory => Kind::Directory,
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(&self.handle, name, Vec::new())?;
                    Kind::Symlink { target: target.into_bytes().into() }
                }
                FileType::Socket => return Ok(Metadata::Special(Special::Socket)),
                FileType::Fifo => return Ok(Metadata::Special(Special::Fifo)),
                _ => return Ok(Metadata::Special(Special::Device)),
            };
            let links = if kind == Kind::Directory { 1 } else { wide(stat.st_nlink) };
            let mode = narrow(stat.st_mode) & 0o7777;
            Ok(Metadata::Entry { kind, mode, stamp, links })
        }
    }

    fn stamp(stat: &rustix::fs::Stat) -> Stamp {
        Stamp {
            dev: wide(stat.st_dev),
            ino: wide(stat.st_ino),
            size: wide(stat.st_size),
            mtime: moment(stat.st_mtime, stat.st_mtime_nsec),
            ctime: moment(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    fn moment(secs: impl TryInto<i64>, nanos: impl TryInto<u32>) -> Timestamp {
        Timestamp { secs: secs.try_into().unwrap_or_default(), nanos: narrow(nanos) }
    }

    fn narrow(field: impl TryInto<u32>) -> u32 {
        field.try_into().unwrap_or_default()
    }

    /// The types of the fields differ between systems; a negative value has no meaning.
    fn wide(field: impl TryInto<u64>) -> u64 {
        field.try_into().unwrap_or_default()
    }

    /// Whether an error says that the path no longer exists, or now leads through a link.
    pub(super) fn is_gone(err: &io::Error) -> bool {
        use rustix::io::Errno;
        err.raw_os_error()
            .map(Errno::from_raw_os_error)
            .is_some_and(|errno| matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE))
    }
}

#[cfg(not(unix))]
mod imp {
    use std::path::PathBuf;

    use super::*;

    /// A directory's path.
    #[derive(Debug)]
    pub struct Directory {
        path: PathBuf,
    }

    impl Directory {
        /// Opens a root. A link that names it is followed.
        ///
        /// # Errors
        /// The system's error.
        pub fn open_root(path: &Path) -> io::Result<Directory> {
            let path = std::fs::canonicalize(path)?;
            if !std::fs::metadata(&path)?.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            Ok(Directory { path })
        }

        /// Opens the directory at `path` below this one without following any link on the way. A
        /// link there gives an error for which [`super::is_gone`] is true.
        ///
        /// # Errors
        /// The system's error.
        pub fn open_below(&self, path: &RelPath) -> io::Result<Directory> {
            let mut at = self.path.clone();
            for name in path.components() {
                at.push(text(name)?);
                if !std::fs::symlink_metadata(&at)?.is_dir() {
                    return Err(io::ErrorKind::NotADirectory.into());
                }
            }
            Ok(Directory { path: at })
        }

        /// Opens the file at `path` below this one for reading, without following any visible link.
        ///
        /// # Errors
        /// The system's error.
        pub fn open_file_below(&self, path: &RelPath) -> io::Result<File> {
            let mut at = self.path.clone();
            for name in path.components() {
                at.push(text(name)?);
                if std::fs::symlink_metadata(&at)?.is_symlink() {
                    return Err(io::ErrorKind::NotADirectory.into());
                }
            }
            File::open(at)
        }

        /// Calls `each` for every name except `.` and `..`, unsorted.
        ///
        /// # Errors
        /// The system's error, or an error for a name that is not Unicode.
        pub fn names(&self, mut each: impl FnMut(&[u8], Hint)) -> io::Result<()> {
            for entry in std::fs::read_dir(&self.path)? {
                let entry = entry?;
                let hint = if entry.file_type()?.is_dir() { Hint::Directory } else { Hint::Other };
                let name = entry.file_name();
                let name = name.to_str().ok_or_else(not_unicode)?;
                each(name.as_bytes(), hint);
            }
            Ok(())
        }

        /// The metadata of `name` in this directory.
        ///
        /// # Errors
        /// The system's error.
        pub fn look_at(&self, name: &[u8]) -> io::Result<Metadata> {
            understand(&self.path.join(text(name)?))
        }
    }

    fn understand(path: &Path) -> io::Result<Metadata> {
        let found = std::fs::symlink_metadata(path)?;
        let kind = if found.is_symlink() {
            let target = std::fs::read_link(path)?;
            let target = target.to_str().ok_or_else(not_unicode)?;
            Kind::Symlink { target: target.replace('\\', "/").into_bytes().into() }
        } else if found.is_dir() {
            Kind::Directory
        } else {
            Kind::File { size: found.len() }
        };
        // This system has no permission bits; these are the usual ones of a Linux tree.
        let mode = match kind {
            Kind::Symlink { .. } => 0o777,
            Kind::Directory => 0o755,
            Kind::File { .. } if found.permissions().readonly() => 0o444,
            Kind::File { .. } => 0o644,
        };
        let mtime = timestamp(found.modified()?);
        let stamp = Stamp { dev: 0, ino: 0, size: found.len(), mtime, ctime: mtime };
        Ok(Metadata::Entry { kind, mode, stamp, links: 1 })
    }

    fn text(name: &[u8]) -> io::Result<&str> {
        str::from_utf8(name).map_err(|_| not_unicode())
    }

    fn not_unicode() -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, "the name is not Unicode")
    }

    /// Whether an error says that the path no longer exists, or now leads through a link.
    pub(super) fn is_gone(err: &io::Error) -> bool {
        matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    }
}

/// Whether an error says that the path no longer exists, or that it is no longer a directory where
/// one is needed. This happens when another process removes or replaces it during the read.
pub fn is_gone(err: &io::Error) -> bool {
    imp::is_gone(err)
}
