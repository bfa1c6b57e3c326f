//! Walks paths below one open directory, one component at a time, without following links.

use std::io;

use cap_std::fs::Dir;

use super::{
    at::{self, Look},
    is_absence,
};
use crate::entry::RelPath;

/// Opens parent directories below a handle and remembers the last one. Trees come in order, so the
/// next path is usually in the same directory or below it. Only one handle is held at any depth.
#[derive(Debug)]
pub struct Walk<'a> {
    root: &'a Dir,
    here: Option<(RelPath, Dir)>,
}

impl<'a> Walk<'a> {
    /// Starts at `root`.
    pub fn new(root: &'a Dir) -> Walk<'a> {
        Walk { root, here: None }
    }

    /// The handle of the directory `path`.
    ///
    /// # Errors
    /// `NotFound` or `NotADirectory` when it does not exist, and an error for a link on the way.
    pub fn open(&mut self, path: &RelPath) -> io::Result<&Dir> {
        if path.is_root() {
            return Ok(self.root);
        }
        let tail = match &self.here {
            Some((here, _)) => path.strip_prefix(here),
            None => None,
        };
        let opened = match tail {
            Some(tail) if tail.is_root() => None,
            Some(tail) => {
                let from = self.here.as_ref().map_or(self.root, |(_, dir)| dir);
                Some(descend(from, &tail)?)
            }
            None => Some(descend(self.root, path)?),
        };
        if let Some(dir) = opened {
            self.here = Some((path.clone(), dir));
        }
        Ok(self.here.as_ref().map_or(self.root, |(_, dir)| dir))
    }

    /// The handle of the directory that holds `path`, and the name in it.
    ///
    /// # Errors
    /// As [`Walk::open`]; `InvalidInput` for the root, which no directory below the handle holds.
    pub fn parent<'p>(&mut self, path: &'p RelPath) -> io::Result<(&Dir, &'p [u8])> {
        let root = || io::Error::new(io::ErrorKind::InvalidInput, "the root has no parent");
        let parent = path.parent().ok_or_else(root)?;
        let name = path.file_name().ok_or_else(root)?;
        Ok((self.open(&parent)?, name))
    }

    /// Looks at `path`; `None` when it or a directory on the way is missing, or when a component on
    /// the way is a file or a link.
    ///
    /// # Errors
    /// Any other error of the system.
    pub fn look(&mut self, path: &RelPath) -> io::Result<Option<Look>> {
        match self.parent(path) {
            Ok((dir, name)) => at::look(dir, name),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Forgets the remembered handle, because directories were renamed.
    pub fn forget(&mut self) {
        self.here = None;
    }
}

fn descend(from: &Dir, path: &RelPath) -> io::Result<Dir> {
    let mut here: Option<Dir> = None;
    for component in path.components() {
        here = Some(at::open_dir(here.as_ref().unwrap_or(from), component)?);
    }
    match here {
        Some(dir) => Ok(dir),
        None => from.try_clone(),
    }
}
