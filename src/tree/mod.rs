//! A directory tree as data.
//!
//! [`scan`] turns a host directory into a [`Manifest`] under the rules of [`ignore`]; [`crate::archive`] turns a
//! manifest into a tar stream; [`crate::outputs`] holds what comes back against it. Nothing here knows of engines.

pub mod delta;
pub mod hash;
pub mod ignore;
pub mod index;
pub mod links;
pub mod node;
pub mod path;
pub mod scan;
pub mod summary;

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

pub use path::RelPath;

/// In a second.
const NANOS: i128 = 1_000_000_000;

/// A moment as file systems keep it: seconds since 1970 (negative before), and nanoseconds within that second.
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

    /// What [`Timestamp::as_nanos`] gave; none for a moment that is too far away.
    pub fn from_nanos(nanos: i128) -> Option<Timestamp> {
        let secs = i64::try_from(nanos.div_euclid(NANOS)).ok()?;
        Some(Timestamp { secs, nanos: u32::try_from(nanos.rem_euclid(NANOS)).ok()? })
    }

    /// The moment that lies `span` before this one.
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

/// A sha256 of a file's content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut digest = Digest([0; 32]);
        let pairs = text.as_bytes().chunks_exact(2);
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(serde::de::Error::custom("a sha256 has 64 hexadecimal digits"));
        }
        for (byte, pair) in digest.0.iter_mut().zip(pairs) {
            let pair = std::str::from_utf8(pair).map_err(serde::de::Error::custom)?;
            *byte = u8::from_str_radix(pair, 16).map_err(serde::de::Error::custom)?;
        }
        Ok(digest)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a path is. Sockets, fifos and devices are no kind: they do not travel, in either direction.
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

/// What the host's file system said of a file at the time of the scan. Two equal stamps of one path mean that nobody
/// wrote to it between, as far as the clock can tell (see [`Stamp::is_racy`]).
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
    /// Last change of content or metadata; on systems without one, equal to `mtime`.
    pub ctime: Timestamp,
}

impl Stamp {
    /// Whether an edit could hide behind this stamp: the file was changed so close to `looked_at` that another write
    /// in the same tick of the file system's clock would have left the same stamp (git's "racily clean" entries).
    /// Two seconds cover FAT, the coarsest clock in use.
    pub fn is_racy(&self, looked_at: Timestamp) -> bool {
        self.mtime.max(self.ctime).secs + 2 >= looked_at.secs
    }
}

/// One path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it lies below the tree's root. The root itself is not an entry.
    pub path: RelPath,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Last change of the content, as the other end is to have it: the stamp's own, but for a file that a build made again
    /// with the same bytes.
    pub mtime: Timestamp,
    /// What the host said of it when it was scanned.
    pub stamp: Stamp,
    /// How many names the file has; above 1, [`Stamp::dev`] and [`Stamp::ino`] tell which of them lie in this tree.
    pub links: u64,
}

impl Entry {
    /// The mtime that the other end is to have of a file that was found with this stamp: [`Entry::mtime`], unless it is
    /// another file by now.
    pub fn mtime_of(&self, found: &Stamp) -> Timestamp {
        if *found == self.stamp { self.mtime } else { found.mtime }
    }
}

/// So much of something: files and bytes.
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

/// A path that is neither file, directory nor link.
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

/// A tree: its entries in the order of [`path::compare`], each path once, each parent before its children.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    entries: Vec<Entry>,
}

impl Manifest {
    /// Takes entries in any order.
    pub fn from_entries(mut entries: Vec<Entry>) -> Manifest {
        if !entries.is_sorted_by(|a, b| a.path < b.path) {
            entries.sort_by(|a, b| a.path.cmp(&b.path));
        }
        Manifest { entries }
    }

    /// Takes entries that are in order already.
    fn from_sorted(entries: Vec<Entry>) -> Manifest {
        debug_assert!(entries.is_sorted_by(|a, b| a.path < b.path));
        Manifest { entries }
    }

    /// The entries in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries in order, to be changed and made a manifest again.
    pub fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// The index of the entry at `path`.
    pub fn position(&self, path: &RelPath) -> Option<usize> {
        self.entries.binary_search_by(|entry| entry.path.cmp(path)).ok()
    }

    /// The entry at `path`.
    pub fn get(&self, path: &RelPath) -> Option<&Entry> {
        self.position(path).map(|at| &self.entries[at])
    }

    /// The sum of all file sizes, in bytes.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| if let Kind::File { size } = entry.kind { size } else { 0 }).sum()
    }
}
