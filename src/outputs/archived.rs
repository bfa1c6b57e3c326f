//! Turns a whole archive of an output into the list that an agent would have sent. The staging
//! requests from it the contents that it needs.
//!
//! The archive is read once. Its files' contents go into a file without a name beside the target,
//! so that nothing is left when fastbuild is killed. The archive is not trusted: it is checked like
//! any list ([`Staging::expect`]).

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek as _, SeekFrom},
};

use super::{
    OutputError,
    stage::{LIMITS, LINK_TO_NOTHING, Listed, Staging, Uploaded},
};
use crate::{
    archive::reader::{IncomingKind, Naming, Reader},
    entry::{Amount, RelPath, Timestamp},
    outputs::apply::Staged,
    sys::extents::Extents,
    tree::{
        links::Groups,
        node::{Node, NodeError, NodeKind},
        summary::Differing,
    },
};

/// Stages the contents of `archive`, without the paths for which `is_left_out` is true (paths below
/// the output). Returns how much came.
///
/// # Errors
/// As [`Staging::expect`] and [`Staging::receive_wanted`], and when the archive is invalid.
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
            // A deleted name has left its group, and does not separate the others.
            let is_there = |index: usize| {
                let path = uploaded.manifest.entries()[index].path.strip_prefix(&at);
                path.is_some_and(|path| position(&files, &path).is_some())
            };
            let groups = Groups::among(uploaded.manifest, is_there);
            files.retain(|(node, _)| is_as_sent(node, &uploaded, &at, &groups) != Some(true));
            staging.expect(&mut nodes(&files), Listed::Changes)?;
            staging.expect_gone(&mut gone.into_iter().map(Ok))?;
        }
        None => {
            staging.expect(&mut nodes(&files), Listed::Buckets(&Differing::all(1)))?;
            staging.expect_gone(&mut std::iter::empty())?;
        }
    }
    let wanted = staging.wanted().nodes;
    for (node, at) in wanted.iter().filter_map(|number| files.get(*number as usize)) {
        let NodeKind::File { size, .. } = node.kind else { continue };
        let is_wanted = |first: &&RelPath| {
            position(&files, first).is_some_and(|first| wanted.binary_search(&(first as u32)).is_ok())
        };
        if let Some(first) = node.link.as_ref().filter(is_wanted) {
            staging.take_linked(node.path.clone(), first)?;
            continue;
        }
        spool.seek(SeekFrom::Start(*at)).map_err(|error| staging.not_spooled(error))?;
        let content: (&mut dyn Read, _) = (&mut (&spool).take(size), &Extents::Unknown);
        staging.take_wanted(node.path.clone(), size, content, progress)?;
    }
    Ok((staging.finish()?, amount))
}

/// In the order of trees, with the position of a file's content in the spool.
type Files = BTreeMap<RelPath, (Node, u64)>;

fn position(files: &[(Node, u64)], path: &RelPath) -> Option<usize> {
    files.binary_search_by(|(node, _)| node.path.cmp(path)).ok()
}

fn nodes(files: &[(Node, u64)]) -> impl Iterator<Item = Result<Node, NodeError>> {
    files.iter().map(|(node, _)| Ok(node.clone()))
}

/// Reads the whole archive. Returns its entries, and how much that is.
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
    let mut groups = BTreeMap::new();
    while let Some(entry) = reader.next_entry().map_err(|error| staging.refused(error))? {
        let mut at = amount.bytes;
        let kind = match entry.kind {
            IncomingKind::Directory => NodeKind::Directory,
            IncomingKind::Symlink { target } => NodeKind::Symlink { target },
            IncomingKind::Special(special) => NodeKind::Special(special),
            IncomingKind::HardLink { target } => match files.get(&target) {
                Some((Node { kind: kind @ NodeKind::File { .. }, .. }, of)) => {
                    at = *of;
                    let first = groups.get(&target).unwrap_or(&target).clone();
                    groups.insert(entry.path.clone(), first);
                    kind.clone()
                }
                // Two names of one symbolic link and two equal links need not be told apart.
                Some((Node { kind: kind @ NodeKind::Symlink { .. }, .. }, _)) => kind.clone(),
                _ => return Err(staging.no_tree(entry.path, LINK_TO_NOTHING)),
            },
            IncomingKind::File { size } => {
                let made_long = spool.seek(SeekFrom::Start(at)).and_then(|_| spool.set_len(at + size));
                made_long.map_err(|error| staging.not_spooled(error))?;
                let content: (&mut dyn Read, _) = (&mut reader.data(), &Extents::Unknown);
                let digest = staging.spool((&entry.path, size), content, &*spool)?;
                amount.bytes += size;
                NodeKind::File { size, digest }
            }
        };
        amount.files += 1;
        progress(amount);
        let node = Node { path: entry.path.clone(), kind, mode: entry.mode, mtime: entry.mtime, link: None };
        if files.insert(entry.path.clone(), (node, at)).is_some() {
            return Err(staging.no_tree(entry.path, "comes twice"));
        }
    }
    for (path, first) in groups {
        // Engines send a file under its first name. If another name came first, they are two files.
        if let Some((node, _)) = files.get_mut(&path).filter(|_| first < path) {
            node.link = Some(first);
        }
    }
    // It is the whole tree: missing paths count as deleted by the command.
    let is_orphan = |path: &&RelPath| path.parent().is_some_and(|parent| !files.contains_key(&parent));
    match (files.is_empty(), files.keys().find(is_orphan)) {
        (true, _) => Err(staging.no_tree(RelPath::root(), "is missing, as all others are")),
        (_, Some(path)) => Err(staging.no_tree(path.clone(), "comes without the directory that holds it")),
        _ => Ok((files, amount)),
    }
}

/// Whether a path has what was uploaded there; `None` where nothing was.
fn is_as_sent(node: &Node, uploaded: &Uploaded<'_>, at: &RelPath, groups: &Groups) -> Option<bool> {
    let index = uploaded.manifest.position(&at.append(&node.path))?;
    let sent = Node::of(&uploaded.manifest.entries()[index], *uploaded.digests.get(index)?)?;
    let link = groups.first_name(uploaded.manifest, index).and_then(|first| first.strip_prefix(at));
    // Engines truncate times to seconds.
    let same_time = sent.mtime.secs == node.mtime.secs || sent.kind == NodeKind::Directory;
    let same_time = same_time && link == node.link;
    Some(sent.kind == node.kind && sent.mode & 0o777 == node.mode & 0o777 && same_time)
}

/// The uploaded paths below `at` that are gone.
fn gone(files: &[(Node, u64)], uploaded: &Uploaded<'_>, at: &RelPath) -> Vec<Node> {
    let entries = uploaded.manifest.entries().iter();
    let went_in = entries.filter_map(|entry| entry.path.strip_prefix(at)).filter(|path| !path.is_root());
    let gone = went_in.filter(|path| position(files, path).is_none());
    let node = |path: RelPath| Node {
        path,
        kind: NodeKind::Directory,
        mode: 0,
        mtime: Timestamp::default(),
        link: None,
    };
    gone.map(node).collect()
}
