//! Makes the workspace's sources equal to the host's: deletes, uploads, metadata.
//!
//! The workspace answers the host's summary with its nodes of the buckets that differ; [`delta`]
//! finds the steps; files that it cannot decide on are read. Deletes are sent as names, contents as
//! a tar stream that [`crate::archive::pack`](mod@crate::archive::pack) writes, the rest as modes
//! and times.

use std::{collections::HashSet, sync::Arc};

use super::super::{
    BuildError,
    upload::{TRIES, all_arrived, leave_out_unreadable, start_packing, tell_of_changes},
};
use crate::{
    agent::{
        client::Session,
        protocol::{Compare, Meta, Reply, Request},
    },
    archive::pack::{Holes, PackOptions, Packed, TopEntry},
    build::{
        blind_times::Watcher,
        tasks::{Running, blocking, top_entry},
        warm::{
            replies::{Opened, nodes, nonsense},
            source_tree::HostTree,
        },
    },
    entry::{Amount, Kind, RelPath},
    outputs::stage::Uploaded,
    plan::Plan,
    report::{
        Reporter,
        events::{Direction, Event, Phase},
    },
    spec::Explain,
    sys::source_file,
    tree::{
        Digest, Entry, Manifest,
        delta::{self, Delta},
        hash::hash_files,
        ignore::Rules,
        scan::Scan,
        summary::Differing,
    },
    workspace::Workspace,
};

/// The tree that both the workspace and the host have now.
#[derive(Debug)]
pub struct Sources {
    /// The tree as it was scanned.
    pub scan: Arc<Scan>,
    /// The digest of each file as the workspace has it; none for those that vanished.
    pub digests: Vec<Option<Digest>>,
    /// Whether each entry was sent in this build.
    pub sent: Vec<bool>,
    /// The paths that are not part of the tree.
    pub rules: Rules,
    /// Is told when the command ends.
    pub watcher: Arc<Watcher>,
    /// Whether the index has to be written.
    pub learned: Learned,
}

impl Sources {
    /// For a tree that was sent whole: the index does not take what was read for it.
    pub fn sent(
        scan: Arc<Scan>,
        digests: Vec<Option<Digest>>,
        rules: Rules,
        watcher: Arc<Watcher>,
    ) -> Sources {
        let sent = vec![true; scan.manifest.entries().len()];
        Sources { scan, digests, sent, rules, watcher, learned: Learned::Nothing }
    }

    /// For comparing products with it.
    pub fn uploaded(&self) -> Uploaded<'_> {
        let Sources { scan, digests, rules, .. } = self;
        Uploaded { manifest: &scan.manifest, digests, rules }
    }
}

/// See [`Sources::learned`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// Digests that the index did not have.
    Something,
    /// None.
    Nothing,
}

/// Makes the workspace's source tree equal to the host's.
///
/// # Errors
/// [`crate::workspace::WorkspaceError::StrangeShare`]: nothing was changed. The session's, and
/// those of reading the sources.
pub async fn put_right(
    session: &mut Session,
    workspace: &mut Workspace,
    plan: &Plan,
    host: HostTree,
    opened: Opened,
    reporter: &Reporter,
) -> Result<Sources, BuildError> {
    let HostTree { scan, digests, summary, rules, watcher, .. } = host;
    let phase = Running::begin(Phase::Compare, None, reporter);
    let TopEntry { mode, mtime } = top_entry(plan)?;
    let known = digests.iter().flatten().count();
    session.send(&Request::Compare(Compare { mode, mtime, summary: summary.to_bytes().into() })).await?;
    let differing = session.reply("what differs", |reply| match reply {
        Reply::Differing { differing, entries, .. } => Ok((differing, entries)),
        other => Err(other),
    });
    let (differing, entries) = differing.await?;
    workspace.claim_share(entries).await?;
    let differing = Differing::from_bytes(&differing, summary.buckets())
        .ok_or_else(|| nonsense("buckets that do not fit the summary"))?;
    let mut upload = Upload { plan, reporter, opened, scan: Arc::new(scan), digests: Arc::new(digests) };
    let mut delta = upload.delta(session, differing).await?;
    upload.settle_unsure(&mut delta).await?;
    leave_out_unreadable(&plan.source.value, &upload.scan.manifest, &upload.digests, &mut delta.puts)?;
    upload.leave_to_others(&mut delta);
    phase.end(Amount { files: upload.scan.manifest.entries().len() as u64, bytes: 0 });
    if plan.explain.value == Explain::Yes {
        for change in std::mem::take(&mut delta.changes) {
            reporter.emit(Event::Travelled { direction: Direction::Up, path: change.path, why: change.why });
        }
    }
    let mut sent = vec![false; upload.scan.manifest.entries().len()];
    delta.puts.iter().chain(&delta.metas).for_each(|at| sent[*at] = true);
    if !delta.is_empty() {
        upload.send(session, delta).await?;
    }
    let learned = match upload.digests.iter().flatten().count() == known {
        true => Learned::Nothing,
        false => Learned::Something,
    };
    let (scan, digests) = (upload.scan, Arc::unwrap_or_clone(upload.digests));
    Ok(Sources { scan, digests, sent, rules, watcher, learned })
}

struct Upload<'a> {
    plan: &'a Plan,
    reporter: &'a Reporter,
    opened: Opened,
    scan: Arc<Scan>,
    digests: Arc<Vec<Option<Digest>>>,
}

impl Upload<'_> {
    /// Compares the workspace's nodes with the host's tree, as they come.
    async fn delta(&self, session: &mut Session, differing: Differing) -> Result<Delta, BuildError> {
        let (scan, digests) = (Arc::clone(&self.scan), Arc::clone(&self.digests));
        let compare = move |reader| {
            delta::delta(&scan.manifest, &digests, &|path| differing.holds(path), nodes(reader))
        };
        session.receive_data(compare).await?.map_err(|error| nonsense(error).into())
    }

    /// Reads the files that may or may not differ: same size, other times.
    async fn settle_unsure(&mut self, delta: &mut Delta) -> Result<(), BuildError> {
        if delta.unsure.is_empty() {
            return Ok(());
        }
        let (scan, root) = (Arc::clone(&self.scan), self.plan.source.value.clone());
        let indices: Vec<_> = delta.unsure.iter().map(|(index, _)| *index).collect();
        let hashed = blocking(move || hash_files(&root, &scan.manifest, &indices, &|_| ())).await?;
        let digests = Arc::make_mut(&mut self.digests);
        for (index, digest) in hashed.digests {
            digests[index] = Some(digest);
        }
        // Files that could not be read now are sent, and the sending reports the failure.
        delta.resolve(&self.scan.manifest, &self.digests);
        Ok(())
    }

    /// Leaves paths that other builds are making alone, with the directories above them.
    fn leave_to_others(&self, delta: &mut Delta) {
        let others = &self.opened.others;
        if others.is_empty() {
            return;
        }
        let entries = self.scan.manifest.entries();
        let is_theirs = |path: &RelPath| others.iter().any(|other| path.strip_prefix(other).is_some());
        let leads_to_theirs = |path: &RelPath| others.iter().any(|other| other.strip_prefix(path).is_some());
        let may_go = |index: &usize| {
            let Entry { path, kind, .. } = &entries[*index];
            !is_theirs(path) && (*kind == Kind::Directory || !leads_to_theirs(path))
        };
        delta.puts.retain(may_go);
        delta.metas.retain(may_go);
    }

    /// Sends all differences, and files that changed meanwhile once more.
    async fn send(&mut self, session: &mut Session, delta: Delta) -> Result<(), BuildError> {
        let manifest = &self.scan.manifest;
        let size = |index: &usize| match manifest.entries()[*index].kind {
            Kind::File { size } => size,
            Kind::Directory | Kind::Symlink { .. } => 0,
        };
        let total = Amount { files: delta.puts.len() as u64, bytes: delta.puts.iter().map(size).sum() };
        let room = self.opened.room;
        let blocks = |index: &usize| size(index).next_multiple_of(room.block.max(1));
        let mut needed = Amount { bytes: delta.puts.iter().map(blocks).sum(), ..total };
        if needed.bytes > room.bytes {
            // Holes and further names of a file take no room.
            needed.bytes = self.data(&delta.puts, room.block.max(1));
        }
        if needed.bytes > room.bytes || room.files.is_some_and(|files| needed.files > files) {
            let (place, route) = (self.plan.workdir.value.clone(), self.plan.route.value);
            return Err(BuildError::NoRoom { place, route, needed, room });
        }
        let phase = Running::begin(Phase::Upload, Some(total), self.reporter);
        let Delta { deletes, puts, metas, .. } = delta;
        let metas = metas.into_iter().map(|index| meta(&manifest.entries()[index])).collect();
        let mut sent = self.apply(session, deletes, puts, metas).await?;
        for _ in 1..TRIES {
            if sent.unstable.is_empty() {
                break;
            }
            let again = std::mem::take(&mut sent.unstable);
            let second = self.apply(session, Vec::new(), again, Vec::new()).await?;
            sent.absorb(second);
        }
        let vanished: Vec<_> =
            sent.vanished.iter().map(|index| self.scan.manifest.entries()[*index].path.clone()).collect();
        if !vanished.is_empty() {
            // The workspace may have had an older one.
            self.apply(session, vanished, Vec::new(), Vec::new()).await?;
        }
        tell_of_changes(&sent, &self.scan.manifest, self.reporter);
        phase.end(sent.amount);
        note(&mut self.scan, &mut self.digests, &sent);
        Ok(())
    }

    /// The disk usage of the sources at these places, as far as it is below their lengths.
    fn data(&self, indices: &[usize], block: u64) -> u64 {
        let (entries, mut seen) = (self.scan.manifest.entries(), HashSet::new());
        let of = |index: &usize| {
            let Entry { path, kind, stamp, links, .. } = &entries[*index];
            let Kind::File { size } = *kind else { return 0 };
            let is_further_name = *links > 1 && !seen.insert((stamp.dev, stamp.ino));
            let facts = source_file::facts_at(&source_file::native(&self.plan.source.value, path));
            let data = facts.map_or(size, |facts| facts.allocated.min(size));
            if is_further_name { 0 } else { data.next_multiple_of(block) }
        };
        indices.iter().map(of).sum()
    }

    async fn apply(
        &self,
        session: &mut Session,
        deletes: Vec<RelPath>,
        puts: Vec<usize>,
        metas: Vec<Meta>,
    ) -> Result<Packed, BuildError> {
        session.send(&Request::Apply { deletes }).await?;
        let options = PackOptions { prefix: RelPath::root(), uid: 0, gid: 0, top: None, holes: Holes::Told };
        let root = &self.plan.source.value;
        let (packing, chunks) = start_packing(root, &self.scan, puts, &options, self.reporter);
        let (packed, sent) = tokio::join!(packing, session.send_data(chunks));
        let packed = all_arrived(packed?, sent)?;
        session.send(&Request::Settle { metas }).await?;
        let applied = session.reply("that the sources are right", |reply| match reply {
            Reply::Applied => Ok(()),
            other => Err(other),
        });
        applied.await?;
        Ok(packed)
    }
}

/// Notes what was sent: a file's digest, and its state when it was read, if the scan had another.
pub(in super::super) fn note(scan: &mut Arc<Scan>, digests: &mut Arc<Vec<Option<Digest>>>, packed: &Packed) {
    let mut entries = None;
    let digests = Arc::make_mut(digests);
    for (index, sent) in packed.sent.iter().enumerate() {
        let Some(sent) = sent else { continue };
        digests[index] = Some(sent.digest);
        if sent.stamp != scan.manifest.entries()[index].stamp {
            let entries = entries.get_or_insert_with(|| scan.manifest.entries().to_vec());
            let Entry { kind, mode, mtime, stamp, .. } = &mut entries[index];
            (*kind, *mode, *mtime, *stamp) =
                (Kind::File { size: sent.stamp.size }, sent.mode, sent.stamp.mtime, sent.stamp);
        }
    }
    for index in &packed.vanished {
        digests[*index] = None;
    }
    if let Some(entries) = entries {
        *scan = Arc::new(Scan { manifest: Manifest::from_entries(entries), ..(**scan).clone() });
    }
}

fn meta(entry: &Entry) -> Meta {
    Meta { path: entry.path.clone(), mode: entry.mode, mtime: entry.mtime }
}
