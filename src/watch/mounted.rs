//! On route `mount` the command writes into the source tree itself, and no record says what: which of the changes that came
//! while it ran are its own, as far as can be told.
//!
//! Its own are what lies below a named output, what is new or gone, what changed during the watch's first build, and what
//! changed during an earlier build. What remains was there and never changed before during a build: somebody's edit. A path
//! that somebody edited between two builds is a source, and counts as edited during a build too; but not time and again,
//! for the command may write it after all.

use std::collections::{HashMap, hash_map::Entry};

use crate::{
    entry::RelPath,
    plan::{Outputs, Plan},
    spec::Route,
    tree::Manifest,
};

/// So often a path that somebody edited may change during builds before it is the command's.
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
    /// Who has edited it between builds; it has changed during so many since.
    Somebody(u8),
}

impl Mounted {
    /// These were changed between builds.
    pub(super) fn edited_between(&mut self, changed: &[RelPath]) {
        self.writers.extend(changed.iter().map(|path| (path.clone(), Writer::Somebody(0))));
    }

    /// Of what changed while a build ran, what somebody edited.
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
