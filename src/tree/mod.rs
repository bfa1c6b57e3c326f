//! Directory trees as data.
//!
//! [`scan`] turns a host directory into a [`Manifest`] under the rules of [`ignore`];
//! [`crate::archive`] turns a manifest into a tar stream; [`crate::outputs`] compares incoming
//! files with it. Engines are unknown here.

pub mod delta;
pub mod hash;
pub mod ignore;
pub mod index;
pub mod links;
pub mod node;
pub mod scan;
pub mod summary;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::entry::{Kind, RelPath, Stamp, Timestamp};

/// The SHA-256 of a file's content.
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

/// One path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path below the tree's root. The root itself is not an entry.
    pub path: RelPath,
    /// Its kind.
    pub kind: Kind,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// The mtime that the other end must have. It is the stamp's own, except for a file that a
    /// build wrote again with the same bytes.
    pub mtime: Timestamp,
    /// The host's metadata at the time of the scan.
    pub stamp: Stamp,
    /// Number of hard links; above 1, [`Stamp::dev`] and [`Stamp::ino`] show which are in this
    /// tree.
    pub links: u64,
}

impl Entry {
    /// The mtime that the other end must have for a file with the stamp `found`: [`Entry::mtime`],
    /// unless the file has changed since.
    pub fn mtime_of(&self, found: &Stamp) -> Timestamp {
        if *found == self.stamp { self.mtime } else { found.mtime }
    }
}

/// A tree: its entries in the order of [`crate::entry::path::compare`], each path once, each parent
/// before its children.
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

    /// Takes entries that are already in order.
    fn from_sorted(entries: Vec<Entry>) -> Manifest {
        debug_assert!(entries.is_sorted_by(|a, b| a.path < b.path));
        Manifest { entries }
    }

    /// The entries in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries in order, to be changed and used for a new manifest.
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
