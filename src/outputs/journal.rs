//! An apply that is under way, written down before its first step and removed after its last.
//!
//! A process that dies between leaves it, and the next start carries the steps out that are missing. It guards against
//! the death of fastbuild at any point. Against a power cut it guards as far as the file system kept what had been
//! written: nothing is flushed by force, so each staged file's digest is verified before it is used, and what was lost is
//! reported and not put in place.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::ops::Op;

/// One output's steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The directory below which the steps' paths lie.
    pub base: PathBuf,
    /// The staging directory.
    pub stage: PathBuf,
    /// In order.
    pub ops: Vec<Op>,
}

/// All outputs' steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// Format; another one is not carried out.
    version: u32,
    /// The run that wrote it.
    pub run: String,
    /// Where the user's files go that are in the way.
    pub displaced: PathBuf,
    /// One for each output.
    pub entries: Vec<Entry>,
}

const VERSION: u32 = 1;

impl Journal {
    /// A journal of this version.
    pub fn new(run: String, displaced: PathBuf, entries: Vec<Entry>) -> Journal {
        Journal { version: VERSION, run, displaced, entries }
    }

    /// Writes it, whole or not at all: from here on the next start finishes what this process does not.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn commit(&self, path: &Path) -> io::Result<()> {
        crate::state::replace_file(path, &serde_json::to_vec(self)?)
    }

    /// The journal that a crash left; `None` when there is none that can be understood.
    pub fn load(path: &Path) -> Option<Journal> {
        let journal: Journal = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (journal.version == VERSION).then_some(journal)
    }

    /// Removes it.
    ///
    /// # Errors
    /// Whatever the file system says, other than that it is gone.
    pub fn remove(path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
