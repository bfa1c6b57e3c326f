//! Staging directories: on the target's own file system, removed when they are no longer needed.

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use cap_std::{ambient_authority, fs::Dir};

use crate::{
    entry::{Kind, Timestamp},
    outputs::{OutputError, host_error, modes::Refused, target::Target},
    sys::{
        at::{self, Look},
        owner::{self, NotOwn},
        walk::Walk,
    },
    tree::scan::STAGE_PREFIX,
};

/// A staging directory. It is removed with all its contents when dropped.
#[derive(Debug)]
pub struct Stage {
    /// Its path, on the target's own file system.
    pub path: PathBuf,
    /// Its handle.
    pub dir: Dir,
    /// Products whose mode may not be set.
    pub(in crate::outputs) refused: Refused,
    /// The group that it hands on to slots.
    pub(in crate::outputs) group: Option<u32>,
    /// Atomic, because steps are carried out by several threads.
    next: AtomicU64,
    keep: bool,
}

impl Stage {
    pub(in crate::outputs) fn make(path: PathBuf) -> io::Result<Stage> {
        crate::sys::owner::make_private(&path)?;
        let dir = Dir::open_ambient_dir(&path, ambient_authority())?;
        let (refused, group) = (Refused::default(), at::group_handed_on(&dir)?);
        Ok(Stage { path, dir, refused, group, next: AtomicU64::new(0), keep: false })
    }

    /// Opens a staging directory that a crash left.
    ///
    /// # Errors
    /// When it is not there.
    pub fn reopen(path: &Path) -> io::Result<Stage> {
        let dir = Dir::open_ambient_dir(path, ambient_authority())?;
        // Numbers above those of all slots and of an earlier recovery: the journal's are far below.
        let names = at::names(&dir)?;
        let taken = names.iter().filter_map(|name| std::str::from_utf8(name).ok()?.parse::<u64>().ok());
        let next = taken.max().unwrap_or(0).max(u64::MAX / 2);
        let (path, refused, group) = (path.to_owned(), Refused::default(), at::group_handed_on(&dir)?);
        Ok(Stage { path, dir, refused, group, next: AtomicU64::new(next), keep: false })
    }

    /// A new number, which no slot has.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Does not remove it when dropped: it holds something that has no other place.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Takes [`Stage::keep`] back.
    pub fn release(&mut self) {
        self.keep = false;
    }

    /// The current time, by the clock of the file system on which the stage lies.
    ///
    /// # Errors
    /// When a file cannot be made in it.
    pub fn now(&self) -> io::Result<Timestamp> {
        let name = self.number().to_string();
        drop(at::create_file(&self.dir, name.as_bytes())?);
        let look = at::look(&self.dir, name.as_bytes())?;
        at::remove_file(&self.dir, name.as_bytes())?;
        Ok(look.map_or(Timestamp::default(), |look| look.stamp.mtime))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = remove_stage(&self.path) {
            tracing::warn!(path = ?self.path, %error, "could not remove the staging directory");
        }
    }
}

/// Removes a staging directory and its contents. Like products, directories in it may be read-only.
///
/// # Errors
/// Any error of the file system, except that the directory is already gone.
pub fn remove_stage(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_enterable(&Dir::open_ambient_dir(path, ambient_authority())?)?;
            std::fs::remove_dir_all(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn make_enterable(dir: &Dir) -> io::Result<()> {
    for name in at::names(dir)? {
        if let Some(Look { kind: Some(Kind::Directory), .. }) = at::look(dir, &name)? {
            at::set_mode(dir, &name, 0o700)?;
            make_enterable(&at::open_dir(dir, &name)?)?;
        }
    }
    Ok(())
}

/// Where the staging directory of a run's output will be, so that it can be noted beforehand.
///
/// # Errors
/// When no directory on the target's file system can be written, or the target is a link.
pub fn stage_path(target: &Target, run: &str, number: usize) -> Result<PathBuf, OutputError> {
    Ok(stage_parent(target)?.join(format!("{STAGE_PREFIX}{run}-{number}")))
}

/// Refuses a target that this user may not write to: neither beside it nor in it, or in a directory
/// there that belongs to another user.
///
/// # Errors
/// [`OutputError::BadTarget`].
pub fn refuse_unwritable(target: &Target) -> Result<(), OutputError> {
    let of_another = |root: &Path| matches!(owner::is_own(root), Ok(Err(NotOwn::OfAnother(_))));
    let mut walk = Walk::new(&target.dir);
    let root = target.root();
    if of_another(&root) && walk.open(&target.prefix).is_ok_and(|dir| !at::is_writable(dir)) {
        return Err(not_writable(root));
    }
    stage_parent(target).map(drop)
}

fn not_writable(path: PathBuf) -> OutputError {
    OutputError::BadTarget { path, why: "cannot be written: it is read-only for this user" }
}

/// A writable directory on the target's own file system: beside the output, or in it when it is a
/// mount point or its parent is read-only.
fn stage_parent(target: &Target) -> Result<PathBuf, OutputError> {
    let root = target.root();
    let inside = match Walk::new(&target.dir).look(&target.prefix) {
        Ok(Some(Look { kind: Some(Kind::Directory), stamp, .. })) if !target.prefix.is_root() => {
            let base = at::look_at(&target.dir).map_err(host_error("look at", &target.base))?;
            let elsewhere = base.stamp.dev != stamp.dev;
            Some(elsewhere || !at::is_writable(&target.dir))
        }
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => None,
        Err(error) => return Err(host_error("look at", root)(error)),
    };
    let (parent, dir) = match inside {
        Some(true) => {
            let mut walk = Walk::new(&target.dir);
            let writable = walk.open(&target.prefix).is_ok_and(at::is_writable);
            (root, writable)
        }
        _ => (target.base.clone(), at::is_writable(&target.dir)),
    };
    match dir {
        true => Ok(parent),
        false => Err(not_writable(parent)),
    }
}
