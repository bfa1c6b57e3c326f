//! On route `mount` the command writes into the source tree, and no record tells its writes from
//! the user's edits. This module finds the command's own changes, as far as that is possible.
//!
//! The command's own are: paths below a named output, paths that are new or gone, and paths that
//! changed during the watch's first build or during an earlier build. The other changes are the
//! user's edits. A path that was edited between two builds is a source, and its changes during a
//! build count as edits, too; but only `MOST` times, because the command may write it after all.

use std::collections::{HashMap, hash_map::Entry};

use crate::{
    entry::RelPath,
    plan::{Outputs, Plan},
    spec::Route,
    tree::Manifest,
};

/// How many times an edited path may change during builds before it counts as the command's.
const MOST: u8 = 3;

/// What is known of the paths that changed.
#[derive(Debug, Default)]
pub(super) struct Mounted {
    writers: HashMap<RelPath, Writer>,
    has_built: bool,
}

#[derive(Debug, Clone, Copy)]
enum Writer {
    Command,
    /// The user edited it between builds; it has changed during this many builds since.
    Somebody(u8),
}

impl Mounted {
    /// Records paths that changed between builds.
    pub(super) fn edited_between(&mut self, changed: &[RelPath]) {
        self.writers.extend(changed.iter().map(|path| (path.clone(), Writer::Somebody(0))));
    }

    /// Of the paths that changed during a build, those that the user edited.
    pub(super) fn edited_during(
        &mut self,
        plan: &Plan,
        mut changed: Vec<RelPath>,
        (before, after): (&Manifest, &Manifest),
    ) -> Vec<RelPath> {
        if plan.route.value != Route::Mount {
            return changed;
        }
        let is_first = !std::mem::replace(&mut self.has_built, true);
        changed.retain(|path| {
            let was_there = before.position(path).is_some() && after.position(path).is_some();
            let may_be_edit = was_there && !is_output(plan, path);
            match self.writers.entry(path.clone()) {
                Entry::Vacant(unknown) => {
                    unknown.insert(Writer::Command);
                    may_be_edit && !is_first
                }
                Entry::Occupied(mut known) => match known.get_mut() {
                    Writer::Somebody(times) if *times < MOST => {
                        *times += 1;
                        may_be_edit
                    }
                    writer => {
                        *writer = Writer::Command;
                        false
                    }
                },
            }
        });
        changed
    }
}

fn is_output(plan: &Plan, path: &RelPath) -> bool {
    let Outputs::Named(named) = &plan.outputs.value else { return false };
    named.iter().any(|output| output.holds(path))
}
