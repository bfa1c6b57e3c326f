//! A whole archive of an output -> the list that an agent would have sent, of which the staging asks for what it needs.
//!
//! The archive is read once. Its files' contents go into a file without a name beside the target, by which nothing is left when
//! fastbuild is killed. What the archive says is a claim like any list's: it is checked as one ([`Staging::expect`]).

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use super::{
    OutputError,
    stage::{LIMITS, Listed, Scope, Staged, Staging, Uploaded},
    target::native_join,
};
use crate::{
    archive::reader::{IncomingKind, Naming, Reader},
    report::events::Amount,
    tree::{
        RelPath, Timestamp,
        node::{Node, NodeKind, NodeReader, NodeWriter},
        summary::Differing,
    },
};

/// Stages what `archive` holds, `caches` (relative to the output) left out. Gives how much came.
///
/// # Errors
/// As [`Staging::expect`] and [`Staging::receive_wanted`], and when the archive is none.
pub fn stage(
    mut staging: Staging<'_>,
    archive: impl Read,
    naming: Naming,
    caches: &[RelPath],
    progress: &dyn Fn(Amount),
) -> Result<(Staged, Amount), OutputError> {
    let arrived = Arrived::read(&mut staging, archive, naming, caches, progress)?;
    let places: Vec<usize> = match (staging.scope(), staging.uploaded()) {
        (Scope::Everything, Some(uploaded)) => {
            let (changed, gone) = arrived.changes(&uploaded);
            staging.expect(&mut NodeReader::new(&*arrived.encoded(&changed)), Listed::Changes)?;
            staging.expect_gone(&mut NodeReader::new(&*encoded(gone.iter())))?;
            changed
        }
        _ => {
            let all: Vec<_> = (0..arrived.files.len()).collect();
            let differing = Differing::all(1);
            staging.expect(&mut NodeReader::new(&*arrived.encoded(&all)), Listed::Buckets(&differing))?;
            all
        }
    };
    let wanted = staging.wanted().nodes.into_iter();
    let wanted = wanted.filter_map(|number| places.get(usize::try_from(number).ok()?).copied());
    let contents = arrived.archive(wanted).map_err(|error| staging.not_spooled(error))?;
    staging.receive_wanted(BufReader::new(contents), progress)?;
    Ok((staging.finish()?, arrived.amount))
}

/// All of one output.
struct Arrived {
    /// In the order of trees, with where a file's content begins in the spool.
    files: Vec<(Node, u64)>,
    /// The contents: a file without a name.
    spool: File,
    /// Where the spool lies.
    base: std::path::PathBuf,
    amount: Amount,
}

impl Arrived {
    fn read(
        staging: &mut Staging<'_>,
        archive: impl Read,
        naming: Naming,
        caches: &[RelPath],
        progress: &dyn Fn(Amount),
    ) -> Result<Arrived, OutputError> {
        let base = staging.base_dir().to_owned();
        let mut spool = tempfile::tempfile_in(&base).map_err(|error| staging.not_spooled(error))?;
        staging.measure_room()?;
        let mut reader = Reader::new(archive, naming, LIMITS);
        let mut files: BTreeMap<RelPath, (Node, u64)> = BTreeMap::new();
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
                    _ => {
                        let why = "is a hard link to something that was not sent before it";
                        return Err(staging.no_tree(entry.path, why));
                    }
                },
                IncomingKind::File { size } => {
                    staging.take_room(&entry.path, size)?;
                    let digest = staging.spool(&mut reader.data(), &mut spool)?;
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
        spool.flush().map_err(|error| staging.not_spooled(error))?;
        // The directories that lead to a cache are the engine's as well, unless something else lies in them.
        let is_cache = |path: &RelPath| caches.iter().any(|cache| path.strip_prefix(cache).is_some());
        files.retain(|path, _| !is_cache(path));
        let leads_to_cache = |path: &RelPath| caches.iter().any(|cache| cache.strip_prefix(path).is_some());
        let ways: Vec<_> =
            files.keys().filter(|path| !path.is_root() && leads_to_cache(path)).cloned().collect();
        for way in ways.into_iter().rev() {
            let is_bare =
                files.range(&way..).nth(1).is_none_or(|(next, _)| next.strip_prefix(&way).is_none());
            if is_bare {
                files.remove(&way);
            }
        }
        Ok(Arrived { files: files.into_values().collect(), spool, base, amount })
    }

    /// What is not as it went in, by place, and what went in and is gone.
    fn changes(&self, uploaded: &Uploaded<'_>) -> (Vec<usize>, Vec<Node>) {
        let entries = uploaded.manifest.entries();
        let is_as_sent = |node: &Node| {
            let at = uploaded.manifest.position(&node.path)?;
            let sent = Node::of(&entries[at], *uploaded.digests.get(at)?)?;
            // Engines cut times to seconds.
            let same_time = sent.mtime.secs == node.mtime.secs || sent.kind == NodeKind::Directory;
            Some(sent.kind == node.kind && sent.mode & 0o777 == node.mode & 0o777 && same_time)
        };
        let is_changed = |node: &Node| match node.path.is_root() {
            true => node.kind != NodeKind::Directory,
            false => is_as_sent(node) != Some(true),
        };
        let changed = self.files.iter().enumerate().filter(|(_, (node, _))| is_changed(node));
        let is_gone = |path: &RelPath| self.files.binary_search_by(|(node, _)| node.path.cmp(path)).is_err();
        let gone = entries.iter().filter(|entry| is_gone(&entry.path)).map(|entry| Node {
            path: entry.path.clone(),
            kind: NodeKind::Directory,
            mode: 0,
            mtime: Timestamp::default(),
        });
        (changed.map(|(at, _)| at).collect(), gone.collect())
    }

    fn encoded(&self, places: &[usize]) -> Vec<u8> {
        encoded(places.iter().filter_map(|at| self.files.get(*at)).map(|(node, _)| node))
    }

    /// The contents of the files at `places`, as the archive that an agent would send.
    fn archive(&self, places: impl Iterator<Item = usize>) -> io::Result<File> {
        let mut archive = tar::Builder::new(BufWriter::new(tempfile::tempfile_in(&self.base)?));
        let mut content = self.spool.try_clone()?;
        for (node, at) in places.filter_map(|at| self.files.get(at)) {
            let NodeKind::File { size, .. } = node.kind else { continue };
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(size);
            content.seek(SeekFrom::Start(*at))?;
            // One component stands for the output.
            let name = native_join(Path::new("product"), &node.path);
            archive.append_data(&mut header, name, (&mut content).take(size))?;
        }
        let mut file = archive.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(file)
    }
}

fn encoded<'a>(mut nodes: impl Iterator<Item = &'a Node>) -> Vec<u8> {
    let mut writer = NodeWriter::new(Vec::new());
    // To memory, which takes everything.
    let written = nodes.try_for_each(|node| writer.write(node)).and_then(|()| writer.finish());
    written.unwrap_or_default()
}
