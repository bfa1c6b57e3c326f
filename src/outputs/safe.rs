//! The safe place: a directory in the state directory. Files that a build would have taken from the
//! user are moved there, and stay until the user wants them back.
//!
//! ```text
//! STATE/projects/<key>/displaced/<run>/home/me/app/out/a  moved file, below its absolute path
//! STATE/projects/<key>/moved-<run>  for each a line of JSON: path, time, reason, command
//! ```
//!
//! A line is written before its file is there, and a file without a line is listed by its place, so
//! a crash hides nothing. [`list`] lists files, puts them back, and removes them after a time.

pub mod list;

use std::{
    io,
    path::{Path, PathBuf},
};

use cap_std::{ambient_authority, fs::Dir};
use serde::{Deserialize, Serialize};

use super::{
    OutputError,
    ops::lossless,
    target::{Target, native_name},
};
use crate::{
    entry::{Kind, RelPath, Timestamp},
    outputs::{
        digest::digest_of,
        ops::native,
        stage_dir::{Stage, remove_stage},
    },
    report::events::Warning,
    state::{Project, append_line, own_command_line},
    sys::{self, at, metadata::now},
};

/// Why something is in the safe place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// A build put its own version in its place.
    #[default]
    Replaced,
    /// A build deleted it.
    Deleted,
    /// It was changed on the host while the build ran.
    ChangedMeanwhile,
    /// It is the other version, mostly the build's, that gave way to the user's.
    GaveWay,
}

/// Something that is moved from a staging directory to the safe place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Displaced {
    /// Where it was, or would have been.
    #[serde(with = "lossless")]
    pub path: RelPath,
    /// Its name in the staging directory.
    pub name: Vec<u8>,
    /// Why it is moved.
    #[serde(default)]
    pub why: Why,
}

/// Where a run's part of the safe place lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The directory.
    #[serde(with = "native")]
    pub dir: PathBuf,
    /// The index: the lines about its contents.
    #[serde(with = "native")]
    pub index: PathBuf,
    /// The run's command line.
    pub command: String,
}

/// A line of the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Its path below [`Place::dir`].
    #[serde(with = "native")]
    place: PathBuf,
    /// The absolute path that it had.
    #[serde(with = "native")]
    path: PathBuf,
    /// When it was moved.
    moved: Timestamp,
    why: Why,
    command: String,
}

/// How many paths a warning names.
const MOST_NAMED: usize = 10;

impl Place {
    /// The place of the run `run` of this process.
    pub fn of(project: &Project, run: &str) -> Place {
        Place {
            dir: project.displaced_dir(run),
            index: project.displaced_index(run),
            command: own_command_line(),
        }
    }

    /// Saves `name` of the directory `from`, which was at the absolute path `path`: by a hard link
    /// where that works, otherwise by a copy.
    ///
    /// # Errors
    /// Any error of the file systems.
    pub fn save(&self, from: &Dir, name: &[u8], path: &Path, why: Why) -> io::Result<()> {
        let below = path.strip_prefix(path.ancestors().last().unwrap_or(Path::new("/"))).unwrap_or(path);
        let (dir, mut place) = self.directory(below.parent().unwrap_or(Path::new("")))?;
        let file_name = path.file_name().map_or(&b"output"[..], |name| name.as_encoded_bytes());
        let Some(free) = free_name(from, name, &dir, file_name)? else { return Ok(()) };
        place.push(native_name(&free));
        let (path, command) = (path.to_owned(), self.command.clone());
        append_line(&self.index, &Line { place, path, moved: now(), why, command })?;
        let is_directory =
            at::look(from, name)?.is_some_and(|look| matches!(look.kind, Some(Kind::Directory)));
        if !is_directory && at::hard_link(from, name, &dir, &free).is_ok() {
            return Ok(());
        }
        // Whole or not at all: a half-made copy would be taken for the user's file.
        let half = self.index.with_extension("half");
        remove_stage(&half)?;
        std::fs::create_dir(&half)?;
        let halves = Dir::open_ambient_dir(&half, ambient_authority())?;
        copy_entry(from, name, &halves, &free)?;
        if let Ok(copy) = at::open_file(&halves, &free) {
            // The original will be deleted, so the copy must survive a power cut.
            copy.sync_all()?;
        }
        at::rename_new(&halves, &free, &dir, &free)?;
        remove_stage(&half)
    }

    /// Opens the directory `below` in it, and makes what is missing. A link that was saved there
    /// before is not followed: files that belong below it go to the top directory.
    fn directory(&self, below: &Path) -> io::Result<(Dir, PathBuf)> {
        std::fs::create_dir_all(&self.dir)?;
        let top = Dir::open_ambient_dir(&self.dir, ambient_authority())?;
        let mut here = top.try_clone()?;
        for component in below.components() {
            let name = component.as_os_str().as_encoded_bytes();
            match at::make_plain_dir(&here, name) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            here = match at::open_dir(&here, name) {
                Ok(dir) => dir,
                Err(error) if sys::is_absence(&error) => return Ok((top, PathBuf::new())),
                Err(error) => return Err(error),
            };
        }
        Ok((here, below.to_owned()))
    }

    /// The warning that tells the user what was moved.
    pub fn warning(&self, mut paths: Vec<PathBuf>) -> Warning {
        let files = paths.len() as u64;
        paths.sort();
        paths.truncate(MOST_NAMED);
        Warning::Displaced { files, paths, to: self.dir.clone() }
    }
}

/// Saves files to the safe place. They also stay in the stage until everything is done, so that a
/// failure can still put them back.
pub(super) fn save_displaced(
    stage: &Stage,
    displaced: &[Displaced],
    target: &Target,
    to: &Place,
) -> Result<(), OutputError> {
    displaced.iter().try_for_each(|Displaced { path, name, why }| {
        let path = target.absolute(path);
        let told =
            |source| OutputError::Host { what: "save what was in the way in", path: to.dir.clone(), source };
        to.save(&stage.dir, name, &path, *why).map_err(told)
    })
}

/// A name like `like` that is free in `to`: a run may save two versions of one path. `None` when
/// the same content is there already, from a try that a crash cut short.
fn free_name(from: &Dir, name: &[u8], to: &Dir, like: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut candidate = like.to_owned();
    for number in 2.. {
        match at::look(to, &candidate)? {
            None => break,
            Some(_) if is_same((from, name), (to, &candidate))? => return Ok(None),
            Some(_) => candidate = [&like[..like.len().min(240)], format!("-{number}").as_bytes()].concat(),
        }
    }
    Ok(Some(candidate))
}

/// Whether two names have the same content.
fn is_same((a_dir, a): (&Dir, &[u8]), (b_dir, b): (&Dir, &[u8])) -> io::Result<bool> {
    let (Some(one), Some(other)) = (at::look(a_dir, a)?, at::look(b_dir, b)?) else { return Ok(false) };
    if (one.stamp.dev, one.stamp.ino) == (other.stamp.dev, other.stamp.ino) {
        return Ok(true);
    }
    Ok(match (&one.kind, &other.kind) {
        (Some(Kind::Symlink { target: one }), Some(Kind::Symlink { target: other })) => one == other,
        (Some(Kind::File { size: one }), Some(Kind::File { size: other })) if one == other => {
            digest_of(&mut at::open_file(a_dir, a)?)? == digest_of(&mut at::open_file(b_dir, b)?)?
        }
        (Some(Kind::Directory), Some(Kind::Directory)) => {
            let (a, b) = (at::open_dir(a_dir, a)?, at::open_dir(b_dir, b)?);
            let (mut names, mut others) = (at::names(&a)?, at::names(&b)?);
            names.sort();
            others.sort();
            if names != others {
                return Ok(false);
            }
            for name in names {
                if !is_same((&a, &name), (&b, &name))? {
                    return Ok(false);
                }
            }
            true
        }
        _ => false,
    })
}

/// Copies a file, a link or a directory with its contents. A file or link is hard-linked where that
/// works; a socket, fifo or device can only be hard-linked.
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
