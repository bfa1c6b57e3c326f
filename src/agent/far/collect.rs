//! What the command made: a second look at the tree, what differs from before or from the host, and the contents of that.
//!
//! In: the tree as it was right before the command started, or a path and the host's summary of what it has in its place. Out:
//! nodes, then a tar stream of those that are wanted. A file whose whole stamp is the one from before is unchanged, for
//! the command could not write to it without changing its ctime; any other is read, and counts as changed only when its
//! content, mode or kind is another, and of a source when its mtime is: the host shows that to the next build.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::FileTypeExt as _},
    path::{Path, PathBuf},
};

use super::{
    failed,
    outbox::{DataOut, Outbox},
    workspace::{self, Thing, Tree, View, Workspace, finish_nodes, index_of, merged, nonsense},
};
use crate::{
    agent::protocol::{Extent, Failed, Failure, Follow, Products, Reply},
    archive::pack::{Holes, PackOptions, TopEntry, pack},
    tree::{
        Entry, Kind, Manifest, RelPath, Special, Timestamp,
        ignore::Rules,
        index::Index,
        links::Groups,
        node::{Node, NodeKind, NodeWriter},
        summary::{Differing, Summarizer, Summary, What},
    },
};

/// How often what changes while it is read is read again.
const TRIES: usize = 3;

/// What stands for a query's path in an archive.
const PREFIX: &[u8] = b"product";

/// One query, answered.
pub(super) enum Collected {
    /// The tree is the workspace's own.
    Changes {
        places: Vec<Place>,
    },
    Named(Box<Named>),
    Missing,
}

/// See [`Collected::Named`].
pub(super) struct Named {
    tree: Tree,
    shape: Shape,
    places: Vec<Place>,
    index: Option<PathBuf>,
}

/// Which entry a node in the list was.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Entry(u32),
    /// The directory itself.
    Top,
    /// Something that does not travel.
    Nothing,
}

/// How a named product lies in its tree.
pub(super) enum Shape {
    /// It is the directory that was scanned.
    Directory { root: PathBuf, top: TopEntry },
    /// It is the only entry, in the directory above it.
    Single { parent: PathBuf },
    /// It is nothing that travels.
    Special,
}

impl Collected {
    /// What has changed below the source root since the command started.
    pub(super) fn changes(workspace: &mut Workspace, outbox: &Outbox) -> Result<Collected, Failed> {
        if workspace.view.extent != Extent::Everything {
            return Err(nonsense("the source root was opened for its sources alone"));
        }
        let before = workspace.take_tree()?;
        let (after, changes) = settled(|| {
            let mut after = workspace::look(&workspace.root, &workspace.view)?;
            let changes = Changes::find(&before, &mut after);
            let moving = after
                .hash(&workspace.root, &changes.to_read)
                .map_err(|error| failed("could not read what the command made", &error))?;
            Ok((moving.is_empty(), (after, changes)))
        })?;
        let hashed = after.hashed;
        outbox.reply_before_data(&Reply::Products(Products::There { differing: Vec::new().into(), hashed }));
        // A write that fails means that the client is gone, which the inbox tells.
        let places = changes.send(&before, &after, outbox).unwrap_or_default();
        let _ = changes.send_deleted(&before, outbox);
        let unsaved = after.unsaved || before.unsaved || !places.is_empty() || !changes.deleted.is_empty();
        workspace.put_tree(Tree { unsaved, ..after });
        Ok(Collected::Changes { places })
    }

    /// What is at `path`, as far as it differs from what the host has.
    pub(super) fn named(
        path: &Path,
        take: Follow,
        summary: &[u8],
        caches: &[PathBuf],
        outbox: &Outbox,
    ) -> Result<Collected, Failed> {
        let host = match summary {
            [] => None,
            bytes => Some(Summary::from_bytes(bytes).ok_or_else(|| nonsense("that is no summary"))?),
        };
        let Some(metadata) = metadata(path, take)? else {
            let _ = outbox.reply(&Reply::Products(Products::Missing));
            return Ok(Collected::Missing);
        };
        let index = index_of(path);
        let (tree, (shape, root)) = settled(|| found(path, &metadata, caches, index.as_deref()))?;
        let differing = match (&host, &shape) {
            (Some(host), Shape::Directory { .. }) => product_summary(&tree, host.buckets()).differing(host),
            (host, _) => Differing::all(host.as_ref().map_or(1, Summary::buckets)),
        };
        let there = Products::There { differing: differing.to_bytes().into(), hashed: tree.hashed };
        outbox.reply_before_data(&Reply::Products(there));
        let places = send_named(&root, &tree, &shape, &differing, outbox).unwrap_or_default();
        Ok(Collected::Named(Box::new(Named { tree, shape, places, index })))
    }

    /// Sends the contents of nodes, by their places in the list.
    pub(super) fn send(
        &self,
        nodes: &[u32],
        workspace: &mut Workspace,
        outbox: &Outbox,
    ) -> Result<(), Failed> {
        let root = workspace.root.clone();
        match self {
            Collected::Missing => Err(nonsense("nothing was found there")),
            Collected::Changes { places } => {
                send_archive(&root, &workspace.tree()?.manifest, places, nodes, below(None)?, outbox)
            }
            Collected::Named(named) => match &named.shape {
                Shape::Directory { root, top } => {
                    send_archive(root, &named.tree.manifest, &named.places, nodes, below(Some(*top))?, outbox)
                }
                // Its own name is the one component.
                Shape::Single { parent } => {
                    let options = PackOptions {
                        prefix: RelPath::root(),
                        uid: 0,
                        gid: 0,
                        top: None,
                        holes: Holes::Told,
                    };
                    send_archive(parent, &named.tree.manifest, &named.places, nodes, options, outbox)
                }
                Shape::Special => Err(nonsense("that does not travel")),
            },
        }
    }

    /// Writes the index of a named product, where there is anything new to write.
    pub(super) fn save(&mut self) {
        let Collected::Named(named) = self else { return };
        let Some(index) = &named.index else { return };
        match &named.shape {
            Shape::Directory { root, .. } | Shape::Single { parent: root } => named.tree.save(root, index),
            Shape::Special => {}
        }
    }
}

/// Looks until nothing moves any more, for nobody should be at work.
fn settled<T>(mut look: impl FnMut() -> Result<(bool, T), Failed>) -> Result<T, Failed> {
    for _ in 0..TRIES {
        let (is_still, found) = look()?;
        if is_still {
            return Ok(found);
        }
    }
    let detail = "the products change while they are read; is somebody at work in the workspace?".to_owned();
    Err(Failed { why: Failure::Other, detail })
}

// ---- what changed --------------------------------------------------------------------------------------------------

/// The difference of two looks at one tree, by place.
#[derive(Default)]
struct Changes {
    /// In the new tree, and where each was in the old one.
    candidates: Vec<(usize, Option<usize>)>,
    /// Those of them that are files.
    to_read: Vec<usize>,
    /// In the old tree.
    deleted: Vec<usize>,
}

impl Changes {
    /// Compares stamps, and takes digests over where they are the same.
    fn find(before: &Tree, after: &mut Tree) -> Changes {
        let mut changes = Changes::default();
        let (old, new) = (before.manifest.entries(), after.manifest.entries());
        let fresh: std::collections::HashSet<usize> = before.fresh.iter().copied().collect();
        let mut at = 0;
        for (place, entry) in new.iter().enumerate() {
            while old.get(at).is_some_and(|old| old.path < entry.path) {
                changes.deleted.push(at);
                at += 1;
            }
            let was = old.get(at).filter(|old| old.path == entry.path).map(|_| at);
            at += usize::from(was.is_some());
            match was {
                Some(was) if is_untouched(&old[was], entry) => {
                    after.digests[place] = before.digests[was];
                    if fresh.contains(&was) {
                        after.fresh.push(place);
                    }
                }
                was => {
                    if matches!(entry.kind, Kind::File { .. }) {
                        changes.to_read.push(place);
                    }
                    changes.candidates.push((place, was));
                }
            }
        }
        changes.deleted.extend(at..old.len());
        changes
    }

    /// Sends the nodes of what has changed indeed.
    fn send(&self, before: &Tree, after: &Tree, outbox: &Outbox) -> io::Result<Vec<Place>> {
        let mut writer = NodeWriter::new(io::BufWriter::with_capacity(64 << 10, outbox.data()));
        let (mut places, groups) = (Vec::new(), after.groups());
        let mut candidates = self.candidates.iter().peekable();
        for thing in merged(&after.manifest, &after.specials) {
            let place = match &thing {
                Thing::Entry(at, _) => {
                    let Some((at, was)) = candidates.next_if(|(place, _)| place == at) else { continue };
                    if was.is_some_and(|was| is_same(before, was, after, *at)) {
                        continue;
                    }
                    Place::Entry(*at as u32)
                }
                Thing::Special(path, special) => {
                    if before.specials.iter().any(|(old, kind)| old == *path && kind == special) {
                        continue;
                    }
                    Place::Nothing
                }
            };
            if let Some(node) = thing.node(after, &groups) {
                writer.write(&node)?;
                places.push(place);
            }
        }
        finish_nodes(writer)?;
        Ok(places)
    }

    fn send_deleted(&self, before: &Tree, outbox: &Outbox) -> io::Result<()> {
        let mut writer = NodeWriter::new(io::BufWriter::with_capacity(64 << 10, outbox.data()));
        for &at in &self.deleted {
            let path = before.manifest.entries()[at].path.clone();
            let (kind, mtime) = (NodeKind::Directory, Timestamp::default());
            writer.write(&Node { path, kind, mode: 0, mtime, link: None })?;
        }
        finish_nodes(writer)
    }
}

/// Whether nothing that the system tells has changed. The stamp of a directory changes with its names, which are entries of
/// their own.
fn is_untouched(old: &Entry, new: &Entry) -> bool {
    let is_same_stamp = matches!(new.kind, Kind::Directory) || old.stamp == new.stamp;
    is_same_stamp && old.mode == new.mode && old.kind == new.kind
}

/// Whether content, mode, kind and, of a source file, the mtime are the same. The time of a directory or a link tells nothing
/// that anybody goes by, and that of what is no source is not what went in.
fn is_same(before: &Tree, was: usize, after: &Tree, at: usize) -> bool {
    let (old, new) = (&before.manifest.entries()[was], &after.manifest.entries()[at]);
    let is_link = matches!(new.kind, Kind::Symlink { .. });
    let same_content = match new.kind {
        Kind::File { .. } => {
            let same_time = old.mtime == new.mtime || !after.is_source(at);
            same_time && before.digests[was].is_some() && before.digests[was] == after.digests[at]
        }
        _ => true,
    };
    old.kind == new.kind && same_content && (is_link || old.mode == new.mode)
}

// ---- named products ------------------------------------------------------------------------------------------------

/// None when nothing is there, or nothing that was asked for.
fn metadata(path: &Path, take: Follow) -> Result<Option<fs::Metadata>, Failed> {
    let metadata = match take {
        Follow::Itself => fs::symlink_metadata(path),
        Follow::Contents => fs::metadata(path),
    };
    match metadata {
        Ok(metadata) => Ok(Some(metadata).filter(|found| take == Follow::Itself || found.is_dir())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(failed(&format!("could not look at {path:?}"), &error)),
    }
}

type Found = (bool, (Tree, (Shape, Node)));

/// The tree at `path`, its shape, and the node of the path itself. Says too whether it kept still.
fn found(
    path: &Path,
    metadata: &fs::Metadata,
    caches: &[PathBuf],
    index: Option<&Path>,
) -> Result<Found, Failed> {
    if metadata.is_dir() {
        found_directory(path, metadata, caches, index)
    } else {
        found_single(path, metadata, index)
    }
}

fn found_directory(
    path: &Path,
    metadata: &fs::Metadata,
    caches: &[PathBuf],
    index: Option<&Path>,
) -> Result<Found, Failed> {
    // An output that lies in a cache, or is one, was asked for by its name; a cache in an output was not.
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let caches = match caches {
        [] => Vec::new(),
        caches => {
            workspace::caches_below(&caches.iter().map(|cache| real(cache)).collect::<Vec<_>>(), &real(path))
        }
    };
    let view = View { rules: Rules::none(), outputs: Vec::new(), caches, extent: Extent::Sources };
    let mut tree = workspace::look(path, &view)?;
    let is_still = read_unknown(&mut tree, path, index)?;
    let (mode, mtime) = mode_and_mtime(metadata);
    let top = Node { path: RelPath::root(), kind: NodeKind::Directory, mode, mtime, link: None };
    let shape = Shape::Directory { root: path.to_owned(), top: TopEntry { mode, mtime } };
    Ok((is_still, (tree, (shape, top))))
}

fn found_single(path: &Path, metadata: &fs::Metadata, index: Option<&Path>) -> Result<Found, Failed> {
    let (mode, mtime) = mode_and_mtime(metadata);
    if let Some(special) = special(metadata) {
        let node = Node { path: RelPath::root(), kind: NodeKind::Special(special), mode, mtime, link: None };
        return Ok((true, (Tree::default(), (Shape::Special, node))));
    }
    let told = |error: io::Error| failed(&format!("could not look at {path:?}"), &error);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(nonsense("the path of a product ends with a name"));
    };
    let entry = single_entry(parent, name.as_bytes()).map_err(told)?;
    let manifest = Manifest::from_entries(vec![entry]);
    let mut tree = Tree { digests: vec![None], manifest, ..Tree::default() };
    let is_still = read_unknown(&mut tree, parent, index)?;
    let node = tree.things().next().and_then(|thing| thing.node(&tree, &Groups::default()));
    let node = node.map(|node| Node { path: RelPath::root(), ..node });
    let shape = Shape::Single { parent: parent.to_owned() };
    match node {
        Some(node) => Ok((is_still, (tree, (shape, node)))),
        // It changed while it was read.
        None => {
            let node = Node { path: RelPath::root(), kind: NodeKind::Directory, mode, mtime, link: None };
            Ok((false, (tree, (shape, node))))
        }
    }
}

fn single_entry(parent: &Path, name: &[u8]) -> io::Result<Entry> {
    use crate::sys::metadata::{Directory, Metadata};
    let path = RelPath::new(name).map_err(io::Error::other)?;
    match Directory::open_root(parent)?.look_at(name)? {
        Metadata::Entry { kind, mode, stamp, links } => {
            Ok(Entry { path, kind, mode, mtime: stamp.mtime, stamp, links })
        }
        Metadata::Special(_) => Err(io::Error::other("it has become something else meanwhile")),
    }
}

/// Reads all files whose digests the index does not know. Says whether they kept still.
fn read_unknown(tree: &mut Tree, root: &Path, index: Option<&Path>) -> Result<bool, Failed> {
    tree.digests = index.map(Index::load).unwrap_or_default().digests(&tree.manifest);
    let unknown = tree.unknown();
    let moving =
        tree.hash(root, &unknown).map_err(|error| failed("could not read what the command made", &error))?;
    Ok(moving.is_empty())
}

/// As the host has it: without times, set-uid bits and what does not travel.
fn product_summary(tree: &Tree, buckets: usize) -> Summary {
    let (mut summarizer, groups) = (Summarizer::new(buckets), tree.groups());
    for (at, (entry, digest)) in tree.manifest.entries().iter().zip(&tree.digests).enumerate() {
        let what = What::of(&entry.kind, *digest);
        summarizer.add(&entry.path, what, entry.mode & 0o777, Timestamp::default());
        summarizer.link(&entry.path, groups.first_name(&tree.manifest, at));
    }
    summarizer.finish()
}

fn send_named(
    top: &Node,
    tree: &Tree,
    shape: &Shape,
    differing: &Differing,
    outbox: &Outbox,
) -> io::Result<Vec<Place>> {
    let mut writer = NodeWriter::new(io::BufWriter::with_capacity(64 << 10, outbox.data()));
    writer.write(top)?;
    let mut places = vec![match shape {
        Shape::Directory { .. } => Place::Top,
        Shape::Single { .. } => Place::Entry(0),
        Shape::Special => Place::Nothing,
    }];
    if let Shape::Directory { .. } = shape {
        let groups = tree.groups();
        for thing in tree.things().filter(|thing| differing.holds(thing.path())) {
            let Some(node) = thing.node(tree, &groups) else { continue };
            writer.write(&node)?;
            places.push(match thing {
                Thing::Entry(at, _) => Place::Entry(at as u32),
                Thing::Special(..) => Place::Nothing,
            });
        }
    }
    finish_nodes(writer)?;
    Ok(places)
}

fn special(metadata: &fs::Metadata) -> Option<Special> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_symlink() {
        None
    } else if kind.is_fifo() {
        Some(Special::Fifo)
    } else if kind.is_socket() {
        Some(Special::Socket)
    } else {
        Some(Special::Device)
    }
}

fn mode_and_mtime(metadata: &fs::Metadata) -> (u32, Timestamp) {
    use std::os::unix::fs::MetadataExt as _;
    let nanos = u32::try_from(metadata.mtime_nsec()).unwrap_or_default();
    (metadata.mode() & 0o7777, Timestamp { secs: metadata.mtime(), nanos })
}

// ---- contents ------------------------------------------------------------------------------------------------------

fn below(top: Option<TopEntry>) -> Result<PackOptions, Failed> {
    let prefix = RelPath::new(PREFIX).map_err(|why| nonsense(&why.to_string()))?;
    Ok(PackOptions { prefix, uid: 0, gid: 0, top, holes: Holes::Told })
}

fn send_archive(
    root: &Path,
    manifest: &Manifest,
    places: &[Place],
    nodes: &[u32],
    mut options: PackOptions,
    outbox: &Outbox,
) -> Result<(), Failed> {
    let mut wanted = Vec::with_capacity(nodes.len());
    let mut top = None;
    for &node in nodes {
        match usize::try_from(node).ok().and_then(|node| places.get(node)) {
            Some(Place::Entry(at)) => wanted.push(*at as usize),
            Some(Place::Top) => top = options.top,
            _ => return Err(nonsense("that node has no content")),
        }
    }
    options.top = top;
    let mut data = outbox.data();
    match pack(root, manifest, &wanted, &options, &mut data, &|_| {}) {
        Ok(packed) if packed.vanished.is_empty() && packed.unstable.is_empty() => end(DataOut::finish, data),
        Ok(_) => end(|data| data.fail("the products change while they are sent"), data),
        Err(error) => end(|data| data.fail(&error.to_string()), data),
    }
    Ok(())
}

/// A write that fails means that the client is gone, which the inbox tells.
fn end<'a>(how: impl FnOnce(DataOut<'a>) -> io::Result<()>, data: DataOut<'a>) {
    let _ = how(data);
}
