//! After the last step: sets mode and time of directories, and records what builds wrote.

use std::{collections::HashSet, io, path::Path};

use super::steps::Done;
use crate::{
    entry::{Kind, RelPath},
    outputs::{
        OutputError,
        apply::steps::Made,
        host_error,
        ops::{Action, Identity, Op, Over},
        record::{Content, Record, Written},
        stage_dir::Stage,
        target::Target,
    },
    sys::{
        at::{self, Look},
        walk::Walk,
    },
};

pub(super) fn bookkeeping(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OutputError {
    let path = path.to_owned();
    move |source| OutputError::Bookkeeping { what, path, source }
}

/// Deepest first: a directory may be read-only, and its time changes with its entries.
pub(super) fn settle_directories(target: &Target, stage: &Stage, done: &Done) {
    let mut walk = Walk::new(&target.dir);
    for (path, mode) in done.loosened.iter().rev() {
        // It may be gone by now, or replaced.
        if matches!(walk.look(path), Ok(Some(Look { kind: Some(Kind::Directory), .. }))) {
            let settled = walk.parent(path).and_then(|(dir, name)| at::set_mode(dir, name, *mode));
            warn_unsettled(path, settled);
        }
    }
    for Made { path, mode, mtime } in done.made.iter().rev() {
        let settled = walk.parent(path).and_then(|(dir, name)| {
            let handed_on = at::look(dir, name)?.map_or(0, |made| made.mode & at::SET_GROUP);
            stage
                .refused
                .set_mode(dir, name, *mode | handed_on)
                .and_then(|_| at::set_mtime(dir, name, *mtime))
        });
        warn_unsettled(path, settled);
    }
}

pub(super) fn warn_unsettled(path: &RelPath, settled: io::Result<()>) {
    if let Err(error) = settled {
        tracing::warn!(%path, %error, "could not set mode and time of a directory");
    }
}

/// Records what builds wrote: the paths that the steps put in place, and those that they removed.
pub(super) fn note<'a>(
    record: &mut Record,
    target: &Target,
    stage: &Stage,
    ops: impl Iterator<Item = &'a Op>,
    done: &Done,
) -> Result<(), OutputError> {
    let seen = stage.now().map_err(host_error("make a file in", &stage.path))?;
    let late: HashSet<&RelPath> = done.conflicts.iter().map(|conflict| &conflict.path).collect();
    let mut walk = Walk::new(&target.dir);
    for path in &done.parents {
        if let Ok(Some(look)) = walk.look(path) {
            let what = Content::Directory;
            record.set(&target.absolute(path), Written { what, mode: look.mode, stamp: look.stamp, seen });
        }
    }
    for Op { path, action, .. } in ops {
        let place = target.absolute(path);
        let look = walk.look(path).ok().flatten();
        let id = look.as_ref().map(Identity::from);
        let what = match action {
            // A new mode or another name alone does not make a user's file a build's.
            Action::Put { over: Over::Same(_), .. } => None,
            Action::Put { slot, .. } if id == Some(slot.id) => Some(slot.what.clone()),
            Action::MakeDir { .. } => Some(Content::Directory),
            // A path that a build wrote stays a build's.
            Action::SetMode { of, .. } | Action::Touch { of, .. } => record
                .get(&place)
                .filter(|written| {
                    written.what == Content::Directory || Identity::of_file(&written.stamp) == *of
                })
                .map(|written| written.what),
            _ => None,
        };
        match (what, look) {
            (_, None) => record.forget(&place),
            (Some(what), Some(Look { mode, stamp, .. })) if !late.contains(path) => {
                record.set(&place, Written { what, mode, stamp, seen });
            }
            _ => {}
        }
    }
    Ok(())
}
