//! Turns a container's list of differences, and then the contents that were requested, into steps.
//!
//! The list decides without any content: the host's digests are compared with those that it states.
//! Contents are requested by number ([`Wanted`]), and each must be what the list said, in its
//! order, or nothing is accepted. Paths that are not listed are unchanged: for [`Listed::Buckets`]
//! those outside of the buckets, for [`Listed::Changes`] all that are not said to be gone.
//!
//! The list is a claim of the container and is not trusted. So it has to make a tree: an unlisted
//! directory that holds a listed path must have been there before.

use std::{collections::BTreeMap, io::Read};

use sha2::{Digest as _, Sha256};

use super::{
    links::Linked,
    staging::{LIMITS, Meta, Product, SMALL, Settled, Staging},
};
use crate::{
    archive::reader::{IncomingKind, Limits, Naming, Reader},
    entry::{Amount, Kind, RelPath},
    outputs::{
        OutputError,
        apply::Scope,
        decide::Verdict,
        host_error,
        ops::Slot,
        record::Content,
        slots::{self, SmallFile},
    },
    report::events::Warning,
    sys::{at, extents::Extents},
    tree::{
        Digest, Manifest,
        node::{Node, NodeError, NodeKind},
        summary::Differing,
    },
};

/// The deepest path that is accepted, as in archives.
const MAX_DEPTH: usize = 1000;

/// The error for a hard link whose target is not a file of the archive.
pub const LINK_TO_NOTHING: &str = "is a hard link to something that was not sent before it";

/// What a list of nodes covers.
#[derive(Debug, Clone, Copy)]
pub enum Listed<'a> {
    /// Everything in these buckets of an output that goes elsewhere, and the output's root.
    Buckets(&'a Differing),
    /// The paths that changed since the command started.
    Changes,
}

/// Contents to request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Positions in the list, ascending.
    pub nodes: Vec<u32>,
    /// Their total.
    pub amount: Amount,
}

/// What a list announced.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// Files whose content was requested, in their order.
    awaited: Vec<Awaited>,
    /// How many of them have arrived.
    arrived: usize,
    wanted: Wanted,
    /// Paths that were there when the command started and are gone. In the order of trees.
    pub gone: Vec<RelPath>,
    /// Directories that were not listed and hold a listed path.
    unlisted: Vec<RelPath>,
    /// The number of nodes, without the root.
    nodes: u64,
    /// The names that are said to be one file, by the first of them.
    pub links: BTreeMap<RelPath, Linked>,
    /// The buckets that were listed, of a named output.
    differing: Option<Differing>,
    /// All listed paths; only where names have to be compared.
    names: Option<Vec<RelPath>>,
}

/// A file that was asked for.
#[derive(Debug, Clone)]
struct Awaited {
    path: RelPath,
    digest: Digest,
    size: u64,
    meta: Meta,
    /// Its slot.
    number: u64,
}

impl Expected {
    /// Whether nothing is left of the uploaded tree, and nothing is new.
    pub fn leaves_nothing_of(&self, manifest: &Manifest) -> bool {
        let is_gone = |path: &RelPath| self.gone.binary_search(path).is_ok();
        self.nodes == 0 && manifest.entries().iter().all(|entry| is_gone(&entry.path))
    }

    /// Removes these slots from the contents to be sent.
    pub fn unawait(&mut self, is_here: &dyn Fn(u64) -> bool) {
        let Expected { awaited, wanted, .. } = self;
        let gone = awaited.iter().filter(|awaited| is_here(awaited.number));
        wanted.amount.bytes -= gone.map(|awaited| awaited.size).sum::<u64>();
        let mut of_slots = awaited.iter();
        wanted.nodes.retain(|_| of_slots.next().is_some_and(|awaited| !is_here(awaited.number)));
        awaited.retain(|awaited| !is_here(awaited.number));
        wanted.amount.files = awaited.len() as u64;
    }

    /// Forgets the files that have arrived.
    pub fn forget_arrived(&mut self) {
        self.awaited = Vec::new();
    }

    /// Whether the host's file system cannot tell all names apart.
    pub fn compares_names(&self) -> bool {
        self.names.is_some()
    }
}

impl Staging<'_> {
    /// Takes a whole list, and decides about everything except the contents of [`Staging::wanted`].
    ///
    /// # Errors
    /// [`OutputError::BadList`] and [`OutputError::NoTree`] for an invalid list;
    /// [`OutputError::DoesNotFit`]; any error of the host's disk.
    pub fn expect(
        &mut self,
        nodes: &mut impl Iterator<Item = Result<Node, NodeError>>,
        listed: Listed<'_>,
    ) -> Result<(), OutputError> {
        self.room = self.free_bytes()?;
        let folds_case = self.folds_case().map_err(host_error("try names in", &self.stage.path))?;
        let mut expected = Expected { names: folds_case.then(Vec::new), ..Expected::default() };
        if let Listed::Buckets(differing) = listed {
            expected.differing = Some(differing.clone());
            let alike = self.host.as_ref().map(|host| host.entries_alike(differing).count());
            self.applied.unchanged += alike.unwrap_or_default() as u64;
        }
        self.expected = Some(expected);
        let mut open = Open::default();
        let mut number = 0_u32;
        for node in nodes {
            let node = node.map_err(|source| self.bad_list(source))?;
            if u64::from(number) >= LIMITS.entries {
                return Err(self.no_tree(node.path, "is one too many"));
            }
            self.place(&mut open, &node)?;
            let is_new_directory =
                || node.kind == NodeKind::Directory && self.uploaded_kind(&node.path).is_none();
            // It may hold a path that was asked for.
            if !(self.is_asked_for(&node.path) || is_new_directory()) {
                return Err(self.not_asked_for(node.path));
            }
            self.take_node(node, number)?;
            number += 1;
        }
        match (listed, number) {
            // The root always has a node. Without one, everything would count as deleted.
            (Listed::Buckets(_), 0) => Err(self.no_tree(RelPath::root(), "is missing, as all others are")),
            _ => Ok(()),
        }
    }

    /// Takes the list of deleted paths, after [`Staging::expect`].
    ///
    /// # Errors
    /// As [`Staging::expect`].
    pub fn expect_gone(
        &mut self,
        nodes: &mut impl Iterator<Item = Result<Node, NodeError>>,
    ) -> Result<(), OutputError> {
        let mut gone = Vec::new();
        for node in nodes {
            let path = node.map_err(|source| self.bad_list(source))?.path;
            if gone.len() as u64 >= LIMITS.entries || path.is_root() {
                return Err(self.no_tree(path, "cannot be gone"));
            }
            self.refuse_reserved(&path)?;
            if !self.is_asked_for(&path) {
                return Err(self.not_asked_for(path));
            }
            gone.push(path);
        }
        let expected = self.expected_mut();
        let orphaning = expected.unlisted.iter().find(|path| gone.binary_search(path).is_ok()).cloned();
        expected.gone = gone;
        match orphaning {
            Some(path) => Err(self.no_tree(path, "is said to be gone, and to hold something")),
            None => self.settle_links(),
        }
    }

    fn is_asked_for(&self, path: &RelPath) -> bool {
        self.only.is_none_or(|only| only.ignores(path))
    }

    fn not_asked_for(&self, path: RelPath) -> OutputError {
        self.no_tree(path, "was not asked for")
    }

    /// The contents to request, after all lists were taken.
    pub fn wanted(&self) -> Wanted {
        self.expected.as_ref().map(|expected| expected.wanted.clone()).unwrap_or_default()
    }

    /// Takes an archive of exactly the contents that were wanted.
    ///
    /// # Errors
    /// [`OutputError::Refused`] and [`OutputError::NoTree`] for another archive; the disk's errors.
    pub fn receive_wanted(&mut self, from: impl Read, progress: &dyn Fn(Amount)) -> Result<(), OutputError> {
        let limits = Limits { entries: self.expected_mut().awaited.len() as u64, ..LIMITS };
        let mut reader = Reader::new(from, Naming::Prefixed, limits).with_holes();
        while let Some(entry) = reader.next_entry().map_err(|error| self.refused(error))? {
            match entry.kind {
                IncomingKind::File { size } => {
                    let extents = reader.extents();
                    self.take_wanted(entry.path, size, (&mut reader.data(), &extents), progress)?;
                }
                IncomingKind::HardLink { target } => self.take_linked(entry.path, &target)?,
                _ => return Err(self.no_tree(entry.path, "is not what was announced")),
            }
            progress(self.received);
        }
        Ok(())
    }

    /// Takes the content of the next wanted file, which came as `sent` bytes at `path`.
    ///
    /// # Errors
    /// As [`Staging::receive_wanted`].
    pub(in super::super) fn take_wanted(
        &mut self,
        path: RelPath,
        sent: u64,
        (data, extents): (&mut dyn Read, &Extents),
        progress: &dyn Fn(Amount),
    ) -> Result<(), OutputError> {
        let Awaited { number, size, meta, .. } = self.next_awaited(&path)?;
        if sent != size {
            return Err(self.no_tree(path, "is not what was announced"));
        }
        let has_holes = matches!(extents, Extents::Ranges(_)) && *extents != Extents::whole(size);
        if size > SMALL || has_holes {
            let mut data = super::staging::Metered { data, done: self.received, progress };
            let came = self.stage_into(number, (&path, size), (&mut data, extents), meta.mode)?;
            self.finish_file(number, meta)?;
            self.note_slot(number)?;
            return self.has_arrived(path, came);
        }
        self.take_room(&path, size, size)?;
        let mut bytes = Vec::with_capacity(size as usize);
        data.read_to_end(&mut bytes).map_err(|error| self.broken_off(error))?;
        self.has_arrived(path, Digest(Sha256::digest(&bytes).into()))?;
        self.writers.write(&self.stage, SmallFile { number, bytes, mode: meta.mode, mtime: meta.mtime })
    }

    /// Every path of the new tree, relative to the output's root.
    pub(super) fn new_tree(&self, expected: &Expected) -> Vec<RelPath> {
        let mut paths = expected.names.clone().unwrap_or_default();
        let is_gone = |path: &RelPath| expected.gone.binary_search(path).is_ok();
        if let (Some(differing), Some(host)) = (&expected.differing, &self.host) {
            paths.extend(host.entries_alike(differing).map(|entry| entry.path.clone()));
        }
        if let (Scope::SourceRoot | Scope::Synced, Some(uploaded)) = (self.scope, self.uploaded) {
            let entries = uploaded.manifest.entries().iter();
            let below = entries.filter_map(|entry| entry.path.strip_prefix(&self.uploaded_at));
            paths.extend(below.filter(|path| !is_gone(path)));
        }
        paths.sort();
        paths.dedup();
        paths
    }

    /// Checks that every wanted content has come.
    pub(super) fn check_all_arrived(&self) -> Result<(), OutputError> {
        let missing = self.expected.as_ref().and_then(|expected| expected.awaited.get(expected.arrived));
        match missing {
            Some(missing) => Err(self.no_tree(missing.path.clone(), "was asked for and did not come")),
            None => Ok(()),
        }
    }

    pub(super) fn expected_mut(&mut self) -> &mut Expected {
        self.expected.get_or_insert_default()
    }

    /// Checks that each path lies below a directory. Lists are sorted, so a stack holds the
    /// directories that may still get children.
    fn place(&mut self, open: &mut Open, node: &Node) -> Result<(), OutputError> {
        let path = &node.path;
        self.refuse_reserved(path)?;
        if path.components().count() > MAX_DEPTH {
            return Err(self.no_tree(path.clone(), "lies too deep"));
        }
        open.leave_for(path);
        if let Some(parent) = path.parent() {
            if open.ends_in_no_directory() {
                return Err(self.no_tree(path.clone(), "lies below something that is not a directory"));
            }
            self.open_unlisted(open, &parent, path)?;
        }
        open.enter(path.clone(), node.kind == NodeKind::Directory);
        Ok(())
    }

    /// Checks the unlisted directories above a node, from the top down.
    fn open_unlisted(
        &mut self,
        open: &mut Open,
        parent: &RelPath,
        node: &RelPath,
    ) -> Result<(), OutputError> {
        if open.holds(parent) {
            return Ok(());
        }
        if let Some(above) = parent.parent() {
            self.open_unlisted(open, &above, node)?;
        }
        self.open_directory(parent, node)?;
        self.expected_mut().unlisted.push(parent.clone());
        open.enter(parent.clone(), true);
        Ok(())
    }

    fn open_directory(&mut self, directory: &RelPath, node: &RelPath) -> Result<(), OutputError> {
        let orphan = || "comes without the directory that holds it";
        match (self.scope, directory.is_root()) {
            (Scope::SourceRoot, true) => Ok(()),
            (Scope::Elsewhere, true) => Err(self.no_tree(node.clone(), orphan())),
            (Scope::Elsewhere, false) => {
                let differing = self.expected.as_ref().and_then(|expected| expected.differing.as_ref());
                let is_alike = differing.is_some_and(|differing| !differing.holds(directory));
                match is_alike && self.host.as_ref().is_some_and(|host| host.has_directory(directory)) {
                    true => Ok(()),
                    false => Err(self.no_tree(node.clone(), orphan())),
                }
            }
            (Scope::SourceRoot | Scope::Synced | Scope::Safe, _) => match self.uploaded_kind(directory) {
                Some(Kind::Directory) | None => Ok(()),
                Some(_) => Err(self.no_tree(node.clone(), "lies below something that is not a directory")),
            },
        }
    }

    fn uploaded_kind(&self, path: &RelPath) -> Option<&Kind> {
        let uploaded = self.uploaded?;
        uploaded.manifest.get(&self.uploaded_at.append(path)).map(|entry| &entry.kind)
    }

    fn take_node(&mut self, node: Node, number: u32) -> Result<(), OutputError> {
        let Node { path, kind, mode, mtime, link } = node;
        let meta = Meta { mode: mode & 0o777, mtime };
        self.refuse_kept(&path, &kind)?;
        if path.is_root() && self.scope == Scope::SourceRoot && kind != NodeKind::Directory {
            return Err(self.no_tree(path, "is the working directory, and no directory any more"));
        }
        if let Some(expected) = &mut self.expected
            && !path.is_root()
        {
            expected.nodes += 1;
        }
        self.received.files += 1;
        if let Some(names) = self.expected_mut().names.as_mut() {
            names.push(path.clone());
        }
        match kind {
            NodeKind::Directory => self.settle_directory(path, meta),
            NodeKind::Symlink { target } if target.is_empty() || target.contains(&0) => {
                Err(self.no_tree(path, "is a symbolic link with a target that no link has"))
            }
            NodeKind::Symlink { target } => self.settle_symlink(path, meta, &target),
            NodeKind::File { size, digest } => {
                if let Some(first) = &link {
                    let (what, mode) = (Content::File(digest), meta.mode);
                    let group = self.expected_mut().links.entry(first.clone());
                    let names = vec![first.clone()];
                    group.or_insert(Linked { names, what, mode, size }).names.push(path.clone());
                }
                self.announce_file(path, meta, (size, digest), link.as_ref(), number)
            }
            NodeKind::Special(special) => {
                self.warnings.push(Warning::SpecialOutput { path, special });
                Ok(())
            }
        }
    }

    /// Decides about a file by its digest. If it needs the bytes, its step waits for them by
    /// number.
    fn announce_file(
        &mut self,
        path: RelPath,
        meta: Meta,
        (size, digest): (u64, Digest),
        link: Option<&RelPath>,
        index: u32,
    ) -> Result<(), OutputError> {
        let what = Content::File(digest);
        let settled =
            self.hold_against_host(&path, Product { what: &what, mode: meta.mode, size: Some(size) })?;
        let settled = match settled.verdict {
            Verdict::AlreadyRight
                if self.is_parted(&path, link) || self.would_touch_others(&path, &settled, meta.mtime) =>
            {
                Settled { verdict: Verdict::Replace, ..settled }
            }
            _ => settled,
        };
        let mut slot = None;
        if settled.needs_bytes() {
            let number = self.stage.number();
            slot = Some(Slot { number, id: slots::pending(number), what: what.clone() });
            let expected = self.expected_mut();
            expected.wanted.nodes.push(index);
            expected.wanted.amount.files += 1;
            expected.wanted.amount.bytes += size;
            expected.awaited.push(Awaited { path: path.clone(), digest, size, meta, number });
        }
        self.plan_step(&path, meta, settled, slot);
        Ok(())
    }

    /// The next wanted file, which must be the one at `path`.
    fn next_awaited(&mut self, path: &RelPath) -> Result<Awaited, OutputError> {
        let expected = self.expected_mut();
        match expected.awaited.get(expected.arrived).cloned() {
            None => Err(self.no_tree(path.clone(), "was not asked for")),
            Some(awaited) if awaited.path != *path => {
                Err(self.no_tree(path.clone(), "was not asked for, or comes out of turn"))
            }
            Some(awaited) => Ok(awaited),
        }
    }

    /// Takes another name of a file that came before.
    pub(in super::super) fn take_linked(
        &mut self,
        path: RelPath,
        target: &RelPath,
    ) -> Result<(), OutputError> {
        let Awaited { number, size, .. } = self.next_awaited(&path)?;
        let expected = self.expected_mut();
        let before = &expected.awaited[..expected.arrived];
        let at = before.binary_search_by(|earlier| earlier.path.cmp(target));
        match at.map(|at| (before[at].number, before[at].digest, before[at].size)) {
            Ok((of, linked, length)) if length == size => {
                self.link_slot(of, number)?;
                self.has_arrived(path, linked)
            }
            _ => Err(self.no_tree(path, LINK_TO_NOTHING)),
        }
    }

    /// Notes that the next wanted file has come, with the content `came`.
    fn has_arrived(&mut self, path: RelPath, came: Digest) -> Result<(), OutputError> {
        let Awaited { digest, size, .. } = self.next_awaited(&path)?;
        if came != digest {
            return Err(self.no_tree(path, "does not have the content that was announced"));
        }
        self.received.bytes += size;
        self.expected_mut().arrived += 1;
        Ok(())
    }

    fn link_slot(&mut self, of: u64, number: u64) -> Result<(), OutputError> {
        self.writers.settle()?;
        let dir = &self.stage.dir;
        at::hard_link(dir, of.to_string().as_bytes(), dir, number.to_string().as_bytes())
            .map_err(host_error("make a hard link in", &self.stage.path))?;
        self.note_slot(number)
    }

    /// Notes the identity of a slot that is now complete.
    pub(super) fn note_slot(&mut self, number: u64) -> Result<(), OutputError> {
        self.writers.note(number, self.slot_id(number)?);
        Ok(())
    }

    fn bad_list(&self, source: NodeError) -> OutputError {
        OutputError::BadList { output: self.output.clone(), source }
    }
}

/// The path from the root to the last listed node.
#[derive(Debug, Default)]
struct Open {
    directories: Vec<RelPath>,
    /// The last node, when it is not a directory: nothing may lie below it.
    leaf: Option<RelPath>,
}

impl Open {
    /// Leaves the nodes that do not contain `path`.
    fn leave_for(&mut self, path: &RelPath) {
        let holds = |above: &RelPath| lies_in(path, above);
        self.leaf.take_if(|leaf| !holds(leaf));
        while self.directories.last().is_some_and(|last| !holds(last)) {
            self.directories.pop();
        }
    }

    fn ends_in_no_directory(&self) -> bool {
        self.leaf.is_some()
    }

    fn holds(&self, directory: &RelPath) -> bool {
        self.directories.last() == Some(directory)
    }

    fn enter(&mut self, path: RelPath, is_directory: bool) {
        match is_directory {
            true => self.directories.push(path),
            false => self.leaf = Some(path),
        }
    }
}

/// Whether `path` lies below `above`.
fn lies_in(path: &RelPath, above: &RelPath) -> bool {
    above.is_root()
        || path.as_bytes().strip_prefix(above.as_bytes()).is_some_and(|tail| tail.first() == Some(&b'/'))
}
