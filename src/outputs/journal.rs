//! An apply that is under way, written down before its first step and removed after its last.
//!
//! A process that dies between leaves it, and the next start carries the steps out that are missing. It guards against
//! the death of fastbuild at any point. Against a power cut it guards as far as the file system kept what had been
//! written: nothing is flushed by force, so each staged file's digest is verified before it is used, and what was lost is
//! reported and not put in place.

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
/// Borrowed when it is written, for an output may have a hundred thousand steps.
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
    /// What was done to the tree that waits for its exchange, by the paths that it will have.
    pub inside: Cow<'a, [Op]>,
    /// The user's files that a prepared tree leaves out, in the staging directory.
    pub displaced: Cow<'a, [Displaced]>,
    /// What the old tree held when a prepared one was made from it, and what the prepared one has of that, by path below the
    /// output's root.
    pub linked: Vec<(Path, Linked)>,
}

/// A path in a list, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path(#[serde(with = "lossless")] pub RelPath);

/// A path of an old tree of which a new one was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linked {
    /// What the old one has.
    pub old: Identity,
    /// What was put into the new one for it: the same, or a copy.
    pub new: Identity,
}

/// All outputs' steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal<'a> {
    /// Format; another one is not carried out.
    version: u32,
    /// The run that wrote it.
    pub run: String,
    /// Where the user's files go that are in the way.
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

    /// Writes it, whole or not at all: from here on the next start finishes what this process does not.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn commit(&self, path: &FsPath) -> io::Result<()> {
        crate::state::replace_json(path, self)
    }

    /// The journal that a crash left; `None` when there is none that can be understood.
    pub fn load(path: &FsPath) -> Option<Journal<'static>> {
        let journal: Journal<'static> =
            serde_json::from_reader(BufReader::new(File::open(path).ok()?)).ok()?;
        (journal.version == VERSION).then_some(journal)
    }

    /// Removes it.
    ///
    /// # Errors
    /// Whatever the file system says, other than that it is gone.
    pub fn remove(path: &FsPath) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
