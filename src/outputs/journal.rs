//! The journal of a running apply: written before its first step and removed after its last.
//!
//! A process that dies in between leaves its journal, and the next start carries out the missing
//! steps. The journal protects against the death of fastbuild at any point. Against a power cut it
//! protects only as far as the file system kept the written data, because nothing is flushed by
//! force. So each staged file's digest is verified before use; a lost file is reported, not put in
//! place.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufReader},
    path::{Path as FsPath, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    ops::{Identity, Op, lossless},
    safe::{Displaced, Place},
};
use crate::{entry::RelPath, outputs::ops::native};

/// One output's steps.
///
/// Borrowed for writing, because an output may have a hundred thousand steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry<'a> {
    /// The directory below which all paths lie.
    #[serde(with = "native")]
    pub base: PathBuf,
    /// The output's own place below it.
    #[serde(with = "lossless")]
    pub root: RelPath,
    /// The staging directory.
    #[serde(with = "native")]
    pub stage: PathBuf,
    /// In order.
    pub ops: Cow<'a, [Op]>,
    /// The steps that made the tree that waits for its exchange, with the paths that it will have.
    pub inside: Cow<'a, [Op]>,
    /// The user's files that a prepared tree leaves out, in the staging directory.
    pub displaced: Cow<'a, [Displaced]>,
    /// What the old tree held when the new one was prepared from it, and what the new one has in
    /// its place, by path below the output's root.
    pub linked: Vec<(Path, Linked)>,
}

/// A path in a list, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path(#[serde(with = "lossless")] pub RelPath);

/// A path of an old tree from which a new one was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linked {
    /// The file in the old tree.
    pub old: Identity,
    /// The file in the new tree: the same, or a copy.
    pub new: Identity,
}

/// The steps of all outputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal<'a> {
    /// The format version. A journal of another version is not carried out.
    version: u32,
    /// The run that wrote it.
    pub run: String,
    /// Where the user's files in the way are moved.
    pub displaced: Place,
    /// One for each output.
    pub entries: Vec<Entry<'a>>,
}

const VERSION: u32 = 4;

impl<'a> Journal<'a> {
    /// A journal of this version.
    pub fn new(run: String, displaced: Place, entries: Vec<Entry<'a>>) -> Journal<'a> {
        Journal { version: VERSION, run, displaced, entries }
    }

    /// Writes it, whole or not at all. From here on the next start finishes what this run does not.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn commit(&self, path: &FsPath) -> io::Result<()> {
        crate::state::replace_json(path, self)
    }

    /// The journal that a crash left; `None` when it is missing, unreadable or of another version.
    pub fn load(path: &FsPath) -> Option<Journal<'static>> {
        let journal: Journal<'static> =
            serde_json::from_reader(BufReader::new(File::open(path).ok()?)).ok()?;
        (journal.version == VERSION).then_some(journal)
    }

    /// Removes it.
    ///
    /// # Errors
    /// Any error of the file system, except that the journal is already gone.
    pub fn remove(path: &FsPath) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
