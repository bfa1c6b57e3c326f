//! Where an output goes: a directory handle, and the path below it.
//!
//! Everything above the handle is the user's own choice and is resolved by the system. Everything
//! below it is walked one component at a time without following a link
//! ([`Walk`](crate::sys::walk::Walk)).

use std::{
    io,
    path::{Path, PathBuf},
};

use cap_std::{ambient_authority, fs::Dir};

use super::{
    OutputError, host_error,
    record::{Content, Record},
};
use crate::entry::RelPath;

/// An output's place on the host.
#[derive(Debug)]
pub struct Target {
    /// The path of [`Target::dir`], absolute and canonical.
    pub base: PathBuf,
    /// Its handle.
    pub dir: Dir,
    /// The path of the output's root below it; the root when the output is `base` itself.
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

    /// An output that, like its parents, may not exist yet. The handle is the nearest directory
    /// above it that exists.
    ///
    /// # Errors
    /// When a parent is not a directory or cannot be opened, or the path has no name (`/`).
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
                prefix.join(name.as_encoded_bytes()).map_err(|_| bad("is a path that cannot be written"))?;
        }
        Ok(Target { base, dir, prefix })
    }

    /// The output's own absolute path.
    pub fn root(&self) -> PathBuf {
        native_join(&self.base, &self.prefix)
    }

    /// The absolute host path of `path`, which is relative to the handle. For messages and the
    /// record, not for opening.
    pub fn absolute(&self, path: &RelPath) -> PathBuf {
        native_join(&self.base, path)
    }
}

/// Refuses the place of a named output that is a link, unless fastbuild made it: a user with a link
/// there means its target. Checked before the build, so that the user does not wait in vain.
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
        // Not a link, or nothing at all.
        Err(_) => Ok(()),
    }
}

/// Joins `path` to `base`, as the system writes paths.
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
