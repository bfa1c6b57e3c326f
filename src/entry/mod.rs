//! Types shared by file systems and trees: paths, kinds, times and stamps. Plain data; the lowest
//! layer, like [`crate::text`].

#[cfg(feature = "client")]
pub mod host_path;
pub mod path;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use path::RelPath;

/// Nanoseconds in a second.
const NANOS: i128 = 1_000_000_000;

/// A time as file systems store it: seconds since 1970 (may be negative), and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Whole seconds since the epoch, rounded down.
    pub secs: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanos: u32,
}

impl Timestamp {
    /// In nanoseconds since the epoch.
    pub fn as_nanos(self) -> i128 {
        i128::from(self.secs) * NANOS + i128::from(self.nanos)
    }

    /// The reverse of [`Timestamp::as_nanos`]; `None` if the seconds do not fit in 64 bits.
    pub fn from_nanos(nanos: i128) -> Option<Timestamp> {
        let secs = i64::try_from(nanos.div_euclid(NANOS)).ok()?;
        Some(Timestamp { secs, nanos: u32::try_from(nanos.rem_euclid(NANOS)).ok()? })
    }

    /// The time `span` before this one.
    pub fn before_by(self, span: Duration) -> Timestamp {
        let secs = self.secs.saturating_sub_unsigned(span.as_secs());
        match self.nanos.checked_sub(span.subsec_nanos()) {
            Some(nanos) => Timestamp { secs, nanos },
            None => Timestamp {
                secs: secs.saturating_sub(1),
                nanos: self.nanos + 1_000_000_000 - span.subsec_nanos(),
            },
        }
    }
}

/// The kind of a path. Sockets, fifos and devices have no kind: they do not travel either way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory, empty or not.
    Directory,
    /// A regular file of this many bytes.
    File {
        /// Length in bytes.
        size: u64,
    },
    /// A symbolic link with this target, kept as bytes and never followed.
    Symlink {
        /// The text of the link.
        target: Box<[u8]>,
    },
}

/// Metadata from the host's file system at the time of the scan. Two equal stamps of one path mean
/// that the file was not written between them, as far as the clock can tell (see
/// [`Stamp::is_racy`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// Device and inode; zero where the system has none.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of content or metadata; equal to `mtime` on systems without it.
    pub ctime: Timestamp,
}

impl Stamp {
    /// Whether an edit could be hidden by this stamp: the file was changed so close to `looked_at`
    /// that another write in the same tick of the file system's clock would have left the same
    /// stamp (git's "racily clean" entries). Two seconds cover FAT, the coarsest clock in use.
    pub fn is_racy(&self, looked_at: Timestamp) -> bool {
        self.mtime.max(self.ctime).secs + 2 >= looked_at.secs
    }
}

/// A number of files and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Regular files, links and directories.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
}

impl std::ops::Add for Amount {
    type Output = Amount;

    fn add(self, other: Amount) -> Amount {
        Amount { files: self.files + other.files, bytes: self.bytes + other.bytes }
    }
}

/// A path that is not a file, directory or link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Special {
    /// A Unix socket.
    Socket,
    /// A named pipe.
    Fifo,
    /// A block or character device.
    Device,
}
