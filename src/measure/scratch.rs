//! A directory that is gone when its owner is.

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
    /// Makes one below `parent` that was not there. No scan sees it.
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

    /// Removes it with all that is in it.
    pub(super) fn remove(mut self) -> io::Result<()> {
        self.0.take().map_or(Ok(()), fs::remove_dir_all)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // Whoever asked hears of the failure that led here.
            let _ = fs::remove_dir_all(path);
        }
    }
}
