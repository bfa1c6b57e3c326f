//! Paths of this machine: conversion between bytes and [`Path`], and resolution of links.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::{Component, Path, PathBuf},
};

use fs_err as fs;

use super::RelPath;

/// `relative`, a path below some directory, as a tree's path; `None` where the system's paths are
/// not bytes and this one is not valid Unicode.
pub(crate) fn to_rel_path(relative: &Path) -> Option<RelPath> {
    let mut path = RelPath::root();
    for component in relative.components() {
        let Component::Normal(name) = component else { return None };
        path = path.join(&to_bytes(name)?).ok()?;
    }
    Some(path)
}

/// The path below `source` where fastbuild was started; the root if it was started elsewhere, or if
/// the path cannot be in a tree.
pub(crate) fn below(source: &Path, started_in: &Path) -> RelPath {
    started_in.strip_prefix(source).ok().and_then(to_rel_path).unwrap_or_default()
}

/// `path` below `base`; `None` if this system cannot have such a name.
pub fn join(base: &Path, path: &RelPath) -> Option<PathBuf> {
    path.components().try_fold(base.to_owned(), |joined, name| Some(joined.join(from_bytes(name)?)))
}

/// Splits at the byte `at`, which must be ASCII, and drops that byte.
pub(crate) fn split_at_byte(text: &OsStr, at: usize) -> Option<(OsString, OsString)> {
    let bytes = to_bytes(text)?;
    Some((from_bytes(bytes.get(..at)?)?, from_bytes(bytes.get(at + 1..)?)?))
}

#[cfg(unix)]
fn to_bytes(text: &OsStr) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    Some(text.as_bytes().to_vec())
}

#[cfg(unix)]
fn from_bytes(bytes: &[u8]) -> Option<OsString> {
    use std::os::unix::ffi::OsStrExt;
    Some(OsStr::from_bytes(bytes).to_owned())
}

#[cfg(not(unix))]
fn to_bytes(text: &OsStr) -> Option<Vec<u8>> {
    text.to_str().map(|text| text.as_bytes().to_vec())
}

#[cfg(not(unix))]
fn from_bytes(bytes: &[u8]) -> Option<OsString> {
    str::from_utf8(bytes).ok().map(OsString::from)
}

/// Resolves `path`, which is absolute: links in its directories are followed, its last component is
/// not, and components that do not exist are kept as written. `None` without a last component.
///
/// # Errors
/// When one of its directories is not a directory, or may not be entered.
pub(crate) fn settle(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut settled = PathBuf::new();
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        match component {
            Component::Prefix(_) | Component::RootDir => settled.push(component),
            Component::CurDir => {}
            // The directory before it is already resolved, so `..` is its parent.
            Component::ParentDir => {
                settled.pop();
            }
            Component::Normal(name) if components.peek().is_none() => return Ok(Some(settled.join(name))),
            Component::Normal(name) => settled = enter(settled.join(name))?,
        }
    }
    Ok(None)
}

fn enter(directory: PathBuf) -> io::Result<PathBuf> {
    match fs::canonicalize(&directory) {
        Ok(found) if found.is_dir() => Ok(found),
        Ok(_) => {
            Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{directory:?} is not a directory")))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(directory),
        Err(error) => Err(error),
    }
}
