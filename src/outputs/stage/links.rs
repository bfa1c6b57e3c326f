//! Makes names that are one file in the build one file on the host.
//!
//! Names whose contents are needed come as one file by themselves. Two cases are left. Names that
//! the build has separated get files of their own. Names that become further names of a file that
//! is right here already are linked to it, and it is not written again. A file that has names
//! outside of the tree is not linked to, nor is a file on a file system without hard links: then
//! each name gets a file of its own.

use std::collections::{HashMap, HashSet};

use super::staging::{Product, Seen, Staging};
use crate::{
    entry::{RelPath, Timestamp},
    outputs::{
        OutputError,
        apply::Scope,
        ops::{Action, ChangeTime, Identity, Op, Slot},
        record::Content,
    },
    spec::ApplyMode,
    sys::{at, walk::Walk},
    tree::{Manifest, links::Groups},
};

/// Names of one file, as the build has them, and what it holds.
#[derive(Debug)]
pub(super) struct Linked {
    pub names: Vec<RelPath>,
    pub what: Content,
    pub mode: u32,
    pub size: u64,
}

/// The result for names that are one file.
#[derive(Default)]
struct Settled {
    /// Slots that are other names of files here.
    here: HashSet<u64>,
    /// Slots of names that are right as they are.
    right: HashSet<u64>,
    /// Steps for names that have the right content but are another file.
    ops: Vec<Op>,
}

impl Staging<'_> {
    /// What the host has, and where the output lies in it.
    fn host_tree(&self) -> Option<(&Manifest, &RelPath)> {
        match (self.scope, self.uploaded, &self.host) {
            (Scope::SourceRoot | Scope::Synced, Some(uploaded), _) => {
                Some((uploaded.manifest, &self.uploaded_at))
            }
            (_, _, Some(host)) => Some((host.manifest(), &self.target.prefix)),
            _ => None,
        }
    }

    /// All names in the output of the file at `path` here, in order; empty if there is only one.
    pub(super) fn names_here(&self, path: &RelPath) -> Vec<RelPath> {
        let Some((manifest, root)) = self.host_tree() else { return Vec::new() };
        // A tree that was looked at as a whole begins at the output.
        let root = if std::ptr::eq(root, &self.uploaded_at) { root.clone() } else { RelPath::root() };
        let below = |at: usize| manifest.entries()[at].path.strip_prefix(&root);
        let groups = self.groups.get_or_init(|| Groups::among(manifest, |at| below(at).is_some()));
        let at = manifest.position(&root.append(path));
        at.map(|at| groups.names(at)).unwrap_or_default().into_iter().filter_map(below).collect()
    }

    /// Whether an otherwise right file leaves the names that it has here. For the first of them
    /// this is not known yet, and counts as yes.
    pub(super) fn is_parted(&self, path: &RelPath, first: Option<&RelPath>) -> bool {
        let names = self.names_here(path);
        names.first().is_some_and(|here| here == path || Some(here) != first)
    }

    /// Links names that can be one file without sending content. All lists must have been taken.
    pub(super) fn settle_links(&mut self) -> Result<(), OutputError> {
        let linked = std::mem::take(&mut self.expected_mut().links);
        if linked.is_empty() || self.apply == ApplyMode::Atomic {
            return Ok(());
        }
        let puts = self.ops.iter().filter_map(|op| match &op.action {
            Action::Put { slot, .. } => Some((op.path.strip_prefix(&self.target.prefix)?, slot.number)),
            _ => None,
        });
        let puts: HashMap<RelPath, u64> = puts.collect();
        let mut settled = Settled::default();
        for linked in linked.into_values() {
            self.settle_group(&linked, &puts, &mut settled)?;
        }
        let Settled { here, right, ops } = settled;
        self.expected_mut().unawait(&|number| here.contains(&number) || right.contains(&number));
        let replaced: HashSet<_> = ops.iter().map(|op| &op.path).collect();
        self.ops.retain(|op| match &op.action {
            Action::Put { slot, .. } => !right.contains(&slot.number),
            _ => !replaced.contains(&op.path),
        });
        let (right, put) = (right.len() as u64, ops.len() as u64);
        self.applied.written = self.applied.written + put - right;
        self.applied.unchanged = self.applied.unchanged + right - put;
        self.ops.extend(ops);
        Ok(())
    }

    fn settle_group(
        &mut self,
        linked: &Linked,
        puts: &HashMap<RelPath, u64>,
        settled: &mut Settled,
    ) -> Result<(), OutputError> {
        let Linked { names, what, mode, size } = linked;
        let product = Product { what, mode: *mode, size: Some(*size) };
        let mut right = Vec::new();
        for name in names {
            let seen = self.seen(name, Some(product))?;
            // A file without another name gets the mode in its place.
            let is_right = |seen: &Seen| {
                seen.what.as_ref() == Some(what) && (seen.mode & 0o777 == *mode || seen.links == 1)
            };
            right.push(seen.filter(is_right));
        }
        let is_going = |name: &RelPath| {
            let gone =
                self.expected.as_ref().is_some_and(|expected| expected.gone.binary_search(name).is_ok());
            gone || puts.contains_key(name) || names.contains(name)
        };
        let is_ours = |(name, links): (&RelPath, u64)| {
            let here = self.names_here(name);
            links <= here.len().max(1) as u64 && here.iter().all(is_going)
        };
        let found = names.iter().zip(&right).filter_map(|(name, seen)| Some((name, seen.as_ref()?)));
        let Some((base, of)) = found.into_iter().find(|(name, seen)| is_ours((name, seen.links))) else {
            return Ok(());
        };
        let (of, ctime) = (of.id, of.ctime);
        for (name, seen) in names.iter().zip(right) {
            match (seen, puts.get(name)) {
                (Some(seen), put) if (seen.id.dev, seen.id.ino) == (of.dev, of.ino) => {
                    settled.right.extend(put)
                }
                (_, Some(number)) => {
                    if self.link_here(base, (of, ctime), *number) {
                        self.note_slot(*number)?;
                        settled.here.insert(*number);
                    }
                }
                (Some(seen), None) => {
                    let number = self.stage.number();
                    if self.link_here(base, (of, ctime), number) {
                        let slot = Slot { number, id: of, what: what.clone() };
                        let (side, over) = (self.side(Some(&seen)), seen.over_same());
                        let path = self.target.prefix.append(name);
                        let ctime = ChangeTime::of(seen.ctime);
                        settled.ops.push(Op { path, action: Action::Put { slot, over }, side, ctime });
                    }
                }
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// Makes a slot another name of a file of the host, if it is still the file that was seen.
    fn link_here(&self, base: &RelPath, (of, ctime): (Identity, Timestamp), number: u64) -> bool {
        let (name, dir) = (number.to_string(), &self.stage.dir);
        let mut walk = Walk::new(&self.target.dir);
        let place = self.target.prefix.append(base);
        // Checked before linking: a link changes the ctime, which reveals edits to the next build.
        let found = walk.look(&place).ok().flatten();
        if !found.is_some_and(|found| {
            Identity::from(&found) == of && (found.links > 1 || found.stamp.ctime == ctime)
        }) {
            return false;
        }
        let linked =
            walk.parent(&place).and_then(|(from, old)| at::hard_link(from, old, dir, name.as_bytes()));
        let is_it = linked.is_ok() && self.slot_id(number).is_ok_and(|id| id == of);
        if linked.is_ok() && !is_it {
            // The file was changed. If this fails, the slot goes with the stage or is filled first.
            let _ = at::remove_file(dir, name.as_bytes());
        }
        is_it
    }
}
