//! Does not write to a repository while git works there: under its lock git expects no changes.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    outputs::{
        apply::Staged,
        ops::Action,
        safe::{Displaced, Why},
    },
    report::events::Warning,
};

/// Takes out the steps in repositories that have a git lock now. Products go to the safe place.
pub(super) fn hold_back(output: &mut Staged) {
    let mut locks = HashMap::new();
    let (target, done) = (&output.target, &mut output.prepared.done);
    let is_inside = repository_of(&target.base).is_some();
    output.ops.retain(|op| {
        if !is_inside && op.path.components().all(|name| name != b".git") {
            return true;
        }
        let Some(repository) = repository_of(&target.absolute(&op.path)) else { return true };
        let (lock, held) = locks.entry(repository).or_insert_with_key(|path| (lock_in(path), 0));
        if lock.is_none() {
            return true;
        }
        match &op.action {
            Action::Touch { .. } => return false,
            Action::Delete { .. } | Action::Remove { .. } | Action::RemoveDir { .. } => done.stayed += 1,
            Action::Put { slot, .. } => {
                done.given_way += 1;
                let (path, name) = (op.path.clone(), slot.name());
                done.displaced.push(Displaced { path, name, why: Why::GaveWay });
            }
            Action::MakeDir { .. } | Action::SetMode { .. } | Action::Swap { .. } => done.given_way += 1,
        }
        *held += 1;
        false
    });
    output.warnings.extend(locks.into_iter().filter_map(|(repository, (lock, paths))| {
        Some(Warning::GitLocked { repository, lock: lock?, paths })
    }));
}

/// The innermost `.git` that is `path` or contains it.
fn repository_of(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|above| above.ends_with(".git")).map(Path::to_owned)
}

/// A lock anywhere below `directory`. Links are not followed.
fn lock_in(directory: &Path) -> Option<PathBuf> {
    fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        match entry.file_type().ok()?.is_dir() {
            true => lock_in(&path),
            false => path.extension().is_some_and(|extension| extension == "lock").then_some(path),
        }
    })
}
