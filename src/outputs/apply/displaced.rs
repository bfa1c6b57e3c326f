//! The user's files that were in a product's way: saved in the state directory, and kept in the stage until all is done, so
//! that a failure can still put them back.

use std::{io, path::Path};

use cap_std::fs::Dir;
use serde::{Deserialize, Serialize};

use crate::{
    outputs::{OutputError, ops::lossless, stage::Stage, target::Target},
    sys::{self, at},
    tree::{Kind, RelPath},
};

/// A file of the user's that was in a product's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Displaced {
    /// Where it was.
    #[serde(with = "lossless")]
    pub path: RelPath,
    /// Its name in the staging directory.
    pub name: Vec<u8>,
}

/// Saves the user's files that were in the way. They stay in the stage as well until all is done, so that a failure
/// can still put them back.
pub(super) fn save_displaced(
    stage: &Stage,
    displaced: &[Displaced],
    target: &Target,
    to: &Path,
) -> Result<(), OutputError> {
    for Displaced { path, name } in displaced {
        let absolute = target.absolute(path);
        let below =
            absolute.strip_prefix(absolute.ancestors().last().unwrap_or(Path::new("/"))).unwrap_or(&absolute);
        safe_place(to, below.parent().unwrap_or(Path::new("")))
            .and_then(|dir| save_entry(&stage.dir, name, &dir, path.file_name().unwrap_or(b"output")))
            .map_err(|source| OutputError::Host { what: "move to safety", path: absolute, source })?;
    }
    Ok(())
}

/// The directory `below` in `to`, made where it is missing. A link that was saved there before is not followed: what was
/// below it by then goes to `to` itself.
fn safe_place(to: &Path, below: &Path) -> io::Result<Dir> {
    std::fs::create_dir_all(to)?;
    let top = Dir::open_ambient_dir(to, cap_std::ambient_authority())?;
    let mut here = top.try_clone()?;
    for component in below.components() {
        let name = component.as_os_str().as_encoded_bytes();
        match at::make_plain_dir(&here, name) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        here = match at::open_dir(&here, name) {
            Ok(dir) => dir,
            Err(error) if sys::is_absence(&error) => return Ok(top),
            Err(error) => return Err(error),
        };
    }
    Ok(here)
}

/// [`copy_entry`] under a free name: a try that a crash cut short may have left something under the first ones.
fn save_entry(from: &Dir, name: &[u8], to: &Dir, as_name: &[u8]) -> io::Result<()> {
    let mut candidate = as_name.to_owned();
    for number in 2.. {
        match at::look(to, &candidate)? {
            None => break,
            // Saved already.
            Some(saved) if at::look(from, name)?.is_some_and(|look| look.stamp.ino == saved.stamp.ino) => {
                return Ok(());
            }
            Some(_) => {
                candidate = [&as_name[..as_name.len().min(240)], format!("-{number}").as_bytes()].concat()
            }
        }
    }
    copy_entry(from, name, to, &candidate)
}

/// Copies a file, a link or a directory with all that is in it; a file by a hard link where that works, and a socket,
/// fifo or device by nothing else.
pub(super) fn copy_entry(from: &Dir, name: &[u8], to: &Dir, as_name: &[u8]) -> io::Result<()> {
    let Some(look) = at::look(from, name)? else { return Ok(()) };
    match &look.kind {
        Some(Kind::Directory) => {
            at::make_dir(to, as_name)?;
            let (inner_from, inner_to) = (at::open_dir(from, name)?, at::open_dir(to, as_name)?);
            for child in at::names(&inner_from)? {
                copy_entry(&inner_from, &child, &inner_to, &child)?;
            }
            at::finish_by_name(to, as_name, look.mode, look.stamp.mtime)
        }
        Some(Kind::Symlink { target }) => {
            at::hard_link(from, name, to, as_name).or_else(|_| at::symlink(to, as_name, target))
        }
        Some(Kind::File { .. }) => match at::hard_link(from, name, to, as_name) {
            Ok(()) => Ok(()),
            Err(_) => {
                let mut source = at::open_file(from, name)?;
                let mut copy = at::create_file(to, as_name)?;
                io::copy(&mut source, &mut copy)?;
                at::finish_by_name(to, as_name, look.mode, look.stamp.mtime)
            }
        },
        None => at::hard_link(from, name, to, as_name),
    }
}
