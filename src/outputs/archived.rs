//! A whole archive of an output -> the list that an agent would have sent, of which the staging asks for what it needs.
//!
//! The archive is read once. Its files' contents go into a file without a name beside the target, by which nothing is left when
//! fastbuild is killed. What the archive says is a claim like any list's: it is checked as one ([`Staging::expect`]).

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek as _, SeekFrom},
};

use super::{
    OutputError,
    stage::{LIMITS, LINK_TO_NOTHING, Listed, Staged, Staging, Uploaded},
};
use crate::{
    archive::reader::{IncomingKind, Naming, Reader},
    report::events::Amount,
    tree::{
        RelPath, Timestamp,
        node::{Node, NodeError, NodeKind},
        summary::Differing,
    },
};

/// Stages what `archive` holds, without what `is_left_out` of the output (by its path there). Gives how much came.
///
/// # Errors
/// As [`Staging::expect`] and [`Staging::receive_wanted`], and when the archive is none.
pub fn stage(
    mut staging: Staging<'_>,
    archive: impl Read,
    naming: Naming,
    is_left_out: &dyn Fn(&RelPath) -> bool,
    progress: &dyn Fn(Amount),
) -> Result<(Staged, Amount), OutputError> {
    let mut spool = staging.make_spool()?;
    let (files, amount) = read(&mut staging, archive, naming, &mut spool, progress)?;
    let mut files: Vec<_> = files.into_values().filter(|(node, _)| !is_left_out(&node.path)).collect();
    match staging.uploaded() {
        Some((uploaded, at)) => {
            let gone = gone(&files, &uploaded, &at);
            files.retain(|(node, _)| is_as_sent(node, &uploaded, &at) != Some(true));
            staging.expect(&mut nodes(&files), Listed::Changes)?;
            staging.expect_gone(&mut gone.into_iter().map(Ok))?;
        }
        None => staging.expect(&mut nodes(&files), Listed::Buckets(&Differing::all(1)))?,
    }
    let wanted = staging.wanted().nodes;
    for (node, at) in wanted.iter().filter_map(|number| files.get(*number as usize)) {
        let NodeKind::File { size, .. } = node.kind else { continue };
        spool.seek(SeekFrom::Start(*at)).map_err(|error| staging.not_spooled(error))?;
        staging.take_wanted(node.path.clone(), size, &mut (&spool).take(size), progress)?;
    }
    Ok((staging.finish()?, amount))
}

/// In the order of trees, with where a file's content begins in the spool.
type Files = BTreeMap<RelPath, (Node, u64)>;

fn nodes(files: &[(Node, u64)]) -> impl Iterator<Item = Result<Node, NodeError>> {
    files.iter().map(|(node, _)| Ok(node.clone()))
}

/// All that the archive holds, and how much that is.
fn read(
    staging: &mut Staging<'_>,
    archive: impl Read,
    naming: Naming,
    spool: &mut File,
    progress: &dyn Fn(Amount),
) -> Result<(Files, Amount), OutputError> {
    let mut reader = Reader::new(archive, naming, LIMITS);
    let mut files = Files::new();
    let mut amount = Amount::default();
    while let Some(entry) = reader.next_entry().map_err(|error| staging.refused(error))? {
        let mut at = amount.bytes;
        let kind = match entry.kind {
            IncomingKind::Directory => NodeKind::Directory,
            IncomingKind::Symlink { target } => NodeKind::Symlink { target },
            IncomingKind::Special(special) => NodeKind::Special(special),
            IncomingKind::HardLink { target } => match files.get(&target) {
                Some((Node { kind: kind @ NodeKind::File { .. }, .. }, of)) => {
                    at = *of;
                    kind.clone()
                }
                _ => return Err(staging.no_tree(entry.path, LINK_TO_NOTHING)),
            },
            IncomingKind::File { size } => {
                staging.take_room(&entry.path, size)?;
                let digest = staging.spool(&mut reader.data(), spool)?;
                amount.bytes += size;
                NodeKind::File { size, digest }
            }
        };
        amount.files += 1;
        progress(amount);
        let node = Node { path: entry.path.clone(), kind, mode: entry.mode, mtime: entry.mtime };
        if files.insert(entry.path.clone(), (node, at)).is_some() {
            return Err(staging.no_tree(entry.path, "comes twice"));
        }
    }
    Ok((files, amount))
}

/// Whether a path has what went in there; none where nothing did.
fn is_as_sent(node: &Node, uploaded: &Uploaded<'_>, at: &RelPath) -> Option<bool> {
    let at = uploaded.manifest.position(&at.append(&node.path))?;
    let sent = Node::of(&uploaded.manifest.entries()[at], *uploaded.digests.get(at)?)?;
    // Engines cut times to seconds.
    let same_time = sent.mtime.secs == node.mtime.secs || sent.kind == NodeKind::Directory;
    Some(sent.kind == node.kind && sent.mode & 0o777 == node.mode & 0o777 && same_time)
}

/// What went in at and below `at` and is no more.
fn gone(files: &[(Node, u64)], uploaded: &Uploaded<'_>, at: &RelPath) -> Vec<Node> {
    let entries = uploaded.manifest.entries().iter();
    let went_in = entries.filter_map(|entry| entry.path.strip_prefix(at)).filter(|path| !path.is_root());
    let gone = went_in.filter(|path| files.binary_search_by(|(node, _)| node.path.cmp(path)).is_err());
    let node = |path: RelPath| Node { path, kind: NodeKind::Directory, mode: 0, mtime: Timestamp::default() };
    gone.map(node).collect()
}
