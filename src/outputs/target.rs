//! Where an output goes: a directory handle, and the path below it.
//!
//! Everything above the handle is the user's own choice and resolved as the system does; everything below it is walked
//! one component at a time without following a link.

use std::{
    io,
    path::{Path, PathBuf},
};

use cap_std::{ambient_authority, fs::Dir};

use super::{
    OutputError, host_error,
    record::{Content, Record},
};
use crate::{
    sys::{
        self,
        at::{self, Look},
    },
    tree::RelPath,
};

/// An output's place on the host.
#[derive(Debug)]
pub struct Target {
    /// The directory that [`Target::dir`] is, absolute and canonical.
    pub base: PathBuf,
    /// Its handle.
    pub dir: Dir,
    /// Where below it the output's root lies; the root when the output is `base` itself.
    pub prefix: RelPath,
}

impl Target {
    /// The source root itself, which exists.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn directory(path: &Path) -> Result<Target, OutputError> {
        let dir = Dir::open_ambient_dir(path, ambient_authority()).map_err(host_error("open", path))?;
        Ok(Target { base: path.to_owned(), dir, prefix: RelPath::root() })
    }

    /// An output that may not be there yet, nor its parents: the handle is the nearest directory above it that exists.
    ///
    /// # Errors
    /// When a parent is no directory or cannot be opened, or the path has no name (`/`).
    pub fn named(path: &Path) -> Result<Target, OutputError> {
        let bad = |why| OutputError::BadTarget { path: path.to_owned(), why };
        let mut missing = vec![path.file_name().ok_or_else(|| bad("has no file name"))?];
        let mut above = path.parent().ok_or_else(|| bad("has no parent directory"))?;
        let base = loop {
            match above.canonicalize() {
                Ok(base) if base.is_dir() => break base,
                Ok(_) => return Err(bad("lies below a file")),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    missing
                        .push(above.file_name().ok_or_else(|| bad("has no parent directory that exists"))?);
                    above = above.parent().ok_or_else(|| bad("has no parent directory that exists"))?;
                }
                Err(error) => return Err(host_error("open the directory above", above)(error)),
            }
        };
        let dir = Dir::open_ambient_dir(&base, ambient_authority()).map_err(host_error("open", &base))?;
        let mut prefix = RelPath::root();
        for name in missing.iter().rev() {
            prefix =
                prefix.join(name.as_encoded_bytes()).map_err(|_| bad("is no path that can be written"))?;
        }
        Ok(Target { base, dir, prefix })
    }

    /// The output's own absolute path.
    pub fn root(&self) -> PathBuf {
        native_join(&self.base, &self.prefix)
    }

    /// The absolute host path of `path`, which is relative to the handle. For messages and the record, not for opening.
    pub fn absolute(&self, path: &RelPath) -> PathBuf {
        native_join(&self.base, path)
    }
}

/// Refuses the place of a named output that is a link, unless fastbuild made it: a user who has one there means what it
/// leads to. Asked before the build, so that nobody waits for it in vain.
///
/// # Errors
/// [`OutputError::StrangeLink`].
pub fn refuse_strange_link(place: &Path, record: &Record) -> Result<(), OutputError> {
    let ours = record.get(place).is_some_and(|written| matches!(written.what, Content::Symlink(_)));
    match std::fs::read_link(place) {
        Ok(_) if ours => Ok(()),
        Ok(to) => {
            let to = place.canonicalize().unwrap_or(to);
            Err(OutputError::StrangeLink { path: place.to_owned(), to })
        }
        // No link, or nothing at all.
        Err(_) => Ok(()),
    }
}

/// `base` with `path` behind it, as the system writes paths.
pub fn native_join(base: &Path, path: &RelPath) -> PathBuf {
    let mut joined = base.to_owned();
    for component in path.components() {
        joined.push(native_name(component));
    }
    joined
}

#[cfg(unix)]
pub(super) fn native_name(name: &[u8]) -> std::borrow::Cow<'_, std::ffi::OsStr> {
    use std::os::unix::ffi::OsStrExt as _;
    std::ffi::OsStr::from_bytes(name).into()
}

#[cfg(not(unix))]
pub(super) fn native_name(name: &[u8]) -> std::borrow::Cow<'_, std::ffi::OsStr> {
    std::ffi::OsString::from(String::from_utf8_lossy(name).into_owned()).into()
}

/// Opens parent directories below a handle, remembering the last one: trees come in order, so the next path mostly
/// lies in the same directory or below it. Only one handle is held, whatever the depth.
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
    /// `NotFound` or `NotADirectory` when it is not there, and an error for a link on the way, which is never followed.
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

    /// Looks at `path`; `None` when it or a directory on the way is missing, or when something on the way is a file or
    /// a link.
    ///
    /// # Errors
    /// Whatever else the system says.
    pub fn look(&mut self, path: &RelPath) -> io::Result<Option<Look>> {
        match self.parent(path) {
            Ok((dir, name)) => at::look(dir, name),
            Err(error) if sys::is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Forgets the remembered handle: directories were renamed.
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
