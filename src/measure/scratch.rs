//! A directory that is removed with its owner.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use crate::tree::scan::STAGE_PREFIX;

/// How many names are tried.
const NAMES: u32 = 1000;

/// A directory of its own.
pub(super) struct Scratch(Option<PathBuf>);

impl Scratch {
    /// Makes a new one below `parent`. No scan sees it.
    pub(super) fn new(parent: &Path) -> io::Result<Scratch> {
        let mut number = 0;
        loop {
            let path = parent.join(format!("{STAGE_PREFIX}measure-{}-{number}", process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Scratch(Some(path))),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < NAMES => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }

    /// Removes it with its content.
    pub(super) fn remove(mut self) -> io::Result<()> {
        self.0.take().map_or(Ok(()), fs::remove_dir_all)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // The caller gets the error that led here.
            let _ = fs::remove_dir_all(path);
        }
    }
}
