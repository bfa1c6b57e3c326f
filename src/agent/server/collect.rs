//! What the command made: a second scan, what differs from before or the host, and its contents.
//!
//! In: the tree as it was right before the command started, or a path and the host's summary of its
//! place. Out: nodes, then the paths that are gone, then a tar stream of the requested nodes. A
//! file with the same whole stamp as before is unchanged, because the command could not write to it
//! without changing its ctime. Any other file is read, and counts as changed only when its content,
//! mode, kind or mtime differs. An earlier leftover counts as changed: the host does not have it.

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::FileTypeExt as _},
    path::{Path, PathBuf},
};

use crate::{
    agent::{
        protocol::{Beside, Extent, Failed, Failure, Follow, Products, Reply},
        server::{
            clocks::Span,
            common::failed,
            leftovers,
            outbox::{DataOut, Outbox},
            workspace::{
                self, Company, Ending, Over, Scope, Thing, Tree, View, Workspace, finish_nodes, index_of,
                merged, name_in, nonsense,
            },
        },
    },
    archive::pack::{Holes, PackOptions, TopEntry, pack},
    entry::{Kind, RelPath, Special, Timestamp},
    sys::LONGEST_PATH,
    tree::{
        Entry, Manifest,
        ignore::Rules,
        index::Index,
        links::Groups,
        node::{Node, NodeKind, NodeWriter},
        summary::{Differing, Summarizer, Summary, What},
    },
};

/// How many times files that change meanwhile are read.
const TRIES: usize = 3;

/// The name that stands for a query's path in an archive.
const PREFIX: &[u8] = b"product";

/// How many changed sources that no output brings back are named.
const BESIDE: usize = 20;

/// An answered query.
pub(super) enum Collected {
    /// The tree is the workspace's own; the list holds paths at and below this one.
    Changes {
        below: RelPath,
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

/// The entry that a node in the list stands for.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Entry(u32),
    /// The directory itself.
    Top,
    /// Something that is not sent.
    Nothing,
}

/// Where a named product is in its tree.
pub(super) enum Shape {
    /// It is the directory that was scanned.
    Directory { root: PathBuf, top: TopEntry },
    /// It is the only entry, in the directory above it.
    Single { parent: PathBuf },
    /// It is something that is not sent.
    Special,
}

impl Collected {
    /// What has changed at and below a path of the source tree since the command started.
    pub(super) fn changes(
        below: RelPath,
        take: Follow,
        workspace: &mut Workspace,
        outbox: &Outbox,
    ) -> Result<Collected, Failed> {
        workspace.look_at_end(Contents::Read)?;
        workspace.brought_back.push(below.clone());
        let (root, scope, only) = (workspace.root.clone(), workspace.scope.clone(), workspace.only.clone());
        let selected = scope.selected_of(&below);
        let (over, after) = workspace.seen_at_end()?;
        let unmatched = only.into_iter().find(|pattern| selected.is_some() && !is_matched(after, pattern));
        if let Some(pattern) = unmatched {
            let _ = outbox.reply(&Reply::Products(Products::Unmatched(pattern)));
            return Ok(Collected::Missing);
        }
        let found = after.manifest.get(&below).filter(|_| take == Follow::Contents);
        if found.is_some_and(|entry| entry.kind != Kind::Directory) || !is_made(after, &below, &root) {
            let _ = outbox.reply(&Reply::Products(Products::Missing));
            return Ok(Collected::Missing);
        }
        let there = Products::There { differing: Vec::new().into(), hashed: after.hashed };
        outbox.reply_before_data(&Reply::Products(there));
        // A write that fails means that the client is gone, which the inbox reports.
        let places = over.send_changed(after, (&below, selected), outbox).unwrap_or_default();
        let _ = over.send_gone(Gone::OfHost, (&below, selected), outbox);
        Ok(Collected::Changes { below, places })
    }

    /// The product at `path`, as far as it differs from what the host has.
    pub(super) fn named(
        path: &Path,
        take: Follow,
        summary: &[u8],
        workspace: &mut Workspace,
        outbox: &Outbox,
    ) -> Result<Collected, Failed> {
        let host = match summary {
            [] => None,
            bytes => Some(Summary::from_bytes(bytes).ok_or_else(|| nonsense("that is not a summary"))?),
        };
        let Some(metadata) = metadata(path, take)? else {
            let _ = outbox.reply(&Reply::Products(Products::Missing));
            return Ok(Collected::Missing);
        };
        let below = workspace.source_directory(path, &metadata);
        let index = below.is_none().then(|| index_of(path)).flatten();
        let (tree, (shape, root)) = match &below {
            Some(below) => workspace.subtree(below, path, &metadata)?,
            None => settled(|| found(path, &metadata, &workspace.caches, index.as_deref()))?,
        };
        let differing = match (&host, &shape) {
            (Some(host), Shape::Directory { .. }) => product_summary(&tree, host.buckets()).differing(host),
            (host, _) => Differing::all(host.as_ref().map_or(1, Summary::buckets)),
        };
        let there = Products::There { differing: differing.to_bytes().into(), hashed: tree.hashed };
        outbox.reply_before_data(&Reply::Products(there));
        let places = send_named(&root, &tree, &shape, &differing, outbox).unwrap_or_default();
        let _ = match (below, &workspace.over) {
            (Some(below), Some(over)) => over.send_gone(Gone::All, (&below, None), outbox),
            _ => send_paths(std::iter::empty(), outbox),
        };
        Ok(Collected::Named(Box::new(Named { tree, shape, places, index })))
    }

    /// Sends the contents of nodes, by their positions in the list.
    pub(super) fn send(
        &self,
        nodes: &[u32],
        workspace: &mut Workspace,
        outbox: &Outbox,
    ) -> Result<(), Failed> {
        let root = workspace.root.clone();
        match self {
            Collected::Missing => Err(nonsense("nothing was found there")),
            Collected::Changes { below: path, places } if path.is_root() => {
                send_archive(&root, &workspace.tree()?.manifest, places, nodes, below(None)?, outbox)
            }
            Collected::Changes { below: path, places } => {
                let mut wanted = Vec::new();
                for node in nodes {
                    let Some(Place::Entry(at)) = place_of(*node, places) else {
                        return Err(nonsense("that node has no content"));
                    };
                    wanted.push(workspace.tree()?.manifest.entries()[at as usize].clone());
                }
                send_below(&root, path, wanted, outbox)
            }
            Collected::Named(named) => match &named.shape {
                Shape::Directory { root, top } => {
                    send_archive(root, &named.tree.manifest, &named.places, nodes, below(Some(*top))?, outbox)
                }
                // Its own name is the one component.
                Shape::Single { parent } => {
                    let options = pack_options(RelPath::root(), None);
                    send_archive(parent, &named.tree.manifest, &named.places, nodes, options, outbox)
                }
                Shape::Special => Err(nonsense("that does not travel")),
            },
        }
    }

    /// Writes the index of a named product, if there is anything new to write.
    pub(super) fn save(&mut self) {
        let Collected::Named(named) = self else { return };
        let Some(index) = &named.index else { return };
        match &named.shape {
            Shape::Directory { root, .. } | Shape::Single { parent: root } => named.tree.save(root, index),
            Shape::Special => {}
        }
    }
}

/// Repeats a look until nothing changes meanwhile: no process should be at work.
fn settled<T>(mut look: impl FnMut() -> Result<(bool, T), Failed>) -> Result<T, Failed> {
    for _ in 0..TRIES {
        let (is_still, found) = look()?;
        if is_still {
            return Ok(found);
        }
    }
    let detail =
        "the products change while they are read; does another process write to the workspace?".to_owned();
    Err(Failed { why: Failure::Other, detail })
}

// ---- what changed -------------------------------------------------------------------------------

/// Whether the contents of changed files are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contents {
    /// Yes: the client asks what differs.
    Read,
    /// No.
    Leave,
}

impl Workspace {
    /// Scans the tree once more after the command has ended. The result is kept.
    pub(super) fn look_at_end(&mut self, contents: Contents) -> Result<(), Failed> {
        if self.view.extent == Extent::Nothing {
            return Err(nonsense("the source root was opened to look around alone"));
        }
        if self.over.is_some() {
            return Ok(());
        }
        let before = self.take_tree()?;
        self.tell_time(&before)?;
        // For a tree that others worked in, only the host's state is known.
        let known = match (self.company, index_of(&self.root)) {
            (Company::Others, Some(index)) => Index::load(&index),
            _ => Index::default(),
        };
        let (after, (candidates, deleted, scope)) = settled(|| {
            let mut after = workspace::look(&self.root, &self.view)?;
            let scope = self.scope.with_names(&self.only, &after.manifest)?;
            if self.company == Company::Others {
                after.digests = known.digests(&after.manifest);
            }
            let (candidates, deleted) = compare(&before, &mut after);
            let entries = after.manifest.entries();
            let is_asked_for = |(at, was): &&(usize, Option<usize>)| {
                matches!(entries[*at].kind, Kind::File { .. })
                    && after.digests[*at].is_none()
                    && (scope.holds(&entries[*at].path) || was.is_some_and(|was| !before.is_leftover(was)))
            };
            let to_read: Vec<_> = match contents {
                Contents::Read => candidates.iter().filter(is_asked_for).map(|(at, _)| *at).collect(),
                Contents::Leave => Vec::new(),
            };
            let moving = after
                .hash(&self.root, &to_read)
                .map_err(|error| failed("could not read what the command made", &error))?;
            Ok((moving.is_empty(), (after, (candidates, deleted, scope))))
        })?;
        self.scope = scope;
        let unsaved = after.unsaved || before.unsaved || !candidates.is_empty() || !deleted.is_empty();
        self.put_tree(Tree { unsaved, ..after });
        self.over = Some(Over { before, candidates, deleted });
        Ok(())
    }

    /// Moves the times that the command gave to the host's clock, if it differs.
    fn tell_time(&self, before: &Tree) -> Result<(), Failed> {
        let Some(shift) = self.span.and_then(Span::end) else { return Ok(()) };
        let mut after = workspace::look(&self.root, &self.view)?;
        let (candidates, _) = compare(before, &mut after);
        let entries = after.manifest.entries();
        let changed = candidates.iter().map(|(at, _)| &entries[*at]);
        shift
            .apply(&self.root, changed)
            .map_err(|error| failed("could not set the times of what the command made", &error))
    }

    fn seen_at_end(&mut self) -> Result<(&Over, &Tree), Failed> {
        self.tree()?;
        match (&self.over, self.known_tree()) {
            (Some(over), Some(after)) => Ok((over, after)),
            _ => Err(nonsense("no command has ended")),
        }
    }

    /// Changes of the command that no output brings back. Empty beside others, because it is not
    /// known whose changes these are.
    pub(super) fn beside(&mut self) -> Result<Beside, Failed> {
        self.look_at_end(Contents::Read)?;
        let (scope, is_alone) = (self.scope.clone(), self.is_alone());
        let (over, after) = self.seen_at_end()?;
        Ok(if is_alone { over.beside(after, &scope) } else { Beside::default() })
    }

    /// Lists the paths that the host does not have and never had, for later commands. Lists nothing
    /// after a command that was cut off, nor beside others, because it is unknown what they make.
    pub(super) fn save_leftovers(&mut self) -> io::Result<()> {
        if self.ending != Ending::ByItself || self.look_at_end(Contents::Leave).is_err() || !self.is_alone() {
            return Ok(());
        }
        let (root, back, scope) = (self.root.clone(), self.brought_back.clone(), self.scope.clone());
        let Ok((over, after)) = self.seen_at_end() else { return Ok(()) };
        let candidates = &over.candidates;
        leftovers::save(&root, &after.manifest, |at| {
            let path = &after.manifest.entries()[at].path;
            let found = candidates.binary_search_by_key(&at, |(place, _)| *place);
            let is_only_here = found.is_ok_and(|found| match candidates[found].1 {
                None => true,
                Some(was) => over.before.is_leftover(was),
            });
            let came_back = |back: &RelPath| {
                let is_meant = scope.selected_of(back).is_none_or(|selected| selected.ignores(path));
                path.strip_prefix(back).is_some() && is_meant
            };
            is_only_here && !back.iter().any(came_back)
        })
    }

    /// The place in the source tree of a directory that was requested by its path, if it is in it.
    fn source_directory(&self, path: &Path, metadata: &fs::Metadata) -> Option<RelPath> {
        let real = fs::canonicalize(path).ok().filter(|_| metadata.is_dir())?;
        let below = real.strip_prefix(fs::canonicalize(&self.root).ok()?).ok()?;
        let below = RelPath::new(below.as_os_str().as_bytes()).ok()?;
        let in_other = |other: &RelPath| below.strip_prefix(other).is_some();
        let is_source = self.view.extent == Extent::Everything
            && !self.view.caches.iter().chain(&self.view.outputs).any(in_other);
        is_source.then_some(below)
    }

    /// A directory of the source tree as it was when the command had ended.
    fn subtree(
        &mut self,
        below: &RelPath,
        path: &Path,
        metadata: &fs::Metadata,
    ) -> Result<(Tree, (Shape, Node)), Failed> {
        self.look_at_end(Contents::Read)?;
        let after = self.tree()?;
        let mut tree = Tree::default();
        let mut entries = Vec::new();
        for (at, entry) in after.manifest.entries().iter().enumerate() {
            if let Some(path) = entry.path.strip_prefix(below).filter(|path| !path.is_root()) {
                entries.push(Entry { path, ..entry.clone() });
                tree.digests.push(after.digests[at]);
            }
        }
        let specials = after.specials.iter();
        tree.specials.extend(specials.filter_map(|(path, kind)| Some((path.strip_prefix(below)?, *kind))));
        tree.manifest = Manifest::from_entries(entries);
        let unknown = tree.unknown();
        let told = |error| failed("could not read what the command made", &error);
        tree.hash(path, &unknown).map_err(told)?;
        let (mode, mtime) = mode_and_mtime(metadata);
        let top = Node { path: RelPath::root(), kind: NodeKind::Directory, mode, mtime, link: None };
        Ok((tree, (Shape::Directory { root: path.to_owned(), top: TopEntry { mode, mtime } }, top)))
    }
}

/// Which of the paths that a command deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    /// Those that the host has in the same place.
    OfHost,
    /// Leftovers too: they came back to another place.
    All,
}

/// Compares stamps; copies digests where they are equal. Returns possible changes, and deletions.
fn compare(before: &Tree, after: &mut Tree) -> (Vec<(usize, Option<usize>)>, Vec<usize>) {
    let (mut candidates, mut deleted) = (Vec::new(), Vec::new());
    let (old, new) = (before.manifest.entries(), after.manifest.entries());
    let fresh: HashSet<usize> = before.fresh.iter().copied().collect();
    let mut at = 0;
    for (place, entry) in new.iter().enumerate() {
        while old.get(at).is_some_and(|old| old.path < entry.path) {
            deleted.push(at);
            at += 1;
        }
        let was = old.get(at).filter(|old| old.path == entry.path).map(|_| at);
        at += usize::from(was.is_some());
        let untouched = was.filter(|was| is_untouched(&old[*was], entry));
        if let Some(was) = untouched {
            after.digests[place] = before.digests[was];
            if fresh.contains(&was) {
                after.fresh.push(place);
            }
        }
        if untouched.is_none_or(|was| before.is_leftover(was)) {
            candidates.push((place, was));
        }
    }
    deleted.extend(at..old.len());
    // A renamed directory gives files new names, which the stamps of their old names do not show.
    let named = named_anew(&candidates, before, new);
    if !named.is_empty() {
        let known: HashSet<_> = candidates.iter().map(|(place, _)| *place).collect();
        let others = (0..new.len()).filter(|at| named.contains(&file_of(&new[*at])) && !known.contains(at));
        candidates.extend(others.map(|at| (at, before.manifest.position(&new[at].path))));
        candidates.sort_unstable();
    }
    (candidates, deleted)
}

/// Files with several names, at least one of which the host does not have.
fn named_anew(
    candidates: &[(usize, Option<usize>)],
    before: &Tree,
    entries: &[Entry],
) -> HashSet<(u64, u64)> {
    let anew = candidates.iter().filter(|(_, was)| was.is_none_or(|was| before.is_leftover(was)));
    let linked = anew.map(|(place, _)| &entries[*place]).filter(|entry| entry.links > 1);
    linked.filter(|entry| matches!(entry.kind, Kind::File { .. })).map(file_of).collect()
}

impl Over {
    /// Sends the selected nodes that have really changed, by their paths below `below`.
    fn send_changed(
        &self,
        after: &Tree,
        (below, selected): (&RelPath, Option<&Rules>),
        outbox: &Outbox,
    ) -> io::Result<Vec<Place>> {
        let mut writer = NodeWriter::new(io::BufWriter::with_capacity(64 << 10, outbox.data()));
        let mut places = Vec::new();
        let is_asked = |path: &RelPath| {
            path.strip_prefix(below).is_some() && selected.is_none_or(|selected| selected.ignores(path))
        };
        let groups = Groups::among(&after.manifest, |at| is_asked(&after.manifest.entries()[at].path));
        let parted = Parted::find(&self.before, after, is_asked);
        let ways = selected.map(|selected| self.ways(after, selected)).unwrap_or_default();
        let is_meant = |path: &RelPath, was: Option<usize>| {
            let is_here_alone = || was.is_none_or(|was| self.before.is_leftover(was));
            selected.is_none_or(|selected| selected.ignores(path) || is_here_alone() && ways.contains(path))
        };
        // The host must know all names of a file to give it another one.
        let named = named_anew(&self.candidates, &self.before, after.manifest.entries());
        let mut candidates = self.candidates.iter().peekable();
        for thing in merged(&after.manifest, &after.specials) {
            let place = match &thing {
                Thing::Entry(at, _) => {
                    let Some((at, was)) = candidates.next_if(|(place, _)| place == at) else { continue };
                    let is_same = |was| {
                        self.is_same(was, after, *at)
                            && !named.contains(&file_of(&after.manifest.entries()[*at]))
                            && parted.is_in_same_group(&self.before, was, after, *at, &groups)
                    };
                    if was.is_some_and(is_same) || !is_meant(thing.path(), *was) {
                        continue;
                    }
                    Place::Entry(*at as u32)
                }
                Thing::Special(path, special) => {
                    let is_same = |(old, kind): &(RelPath, Special)| old == *path && kind == special;
                    if self.before.specials.iter().any(is_same) || !is_meant(path, None) {
                        continue;
                    }
                    Place::Nothing
                }
            };
            let Some(path) = thing.path().strip_prefix(below) else { continue };
            if let Some(node) = thing.node(after, &groups) {
                let link = node.link.as_ref().and_then(|first| first.strip_prefix(below));
                writer.write(&Node { path, link, ..node })?;
                places.push(place);
            }
        }
        finish_nodes(writer)?;
        Ok(places)
    }

    /// The directories that lead to selected paths that may have changed.
    fn ways(&self, after: &Tree, selected: &Rules) -> HashSet<RelPath> {
        let changed = self.candidates.iter().map(|(at, _)| &after.manifest.entries()[*at].path);
        let meant = changed.filter(|path| selected.ignores(path));
        meant.flat_map(|path| std::iter::successors(path.parent(), RelPath::parent)).collect()
    }

    /// Sends the selected paths below `below` that are gone.
    fn send_gone(
        &self,
        which: Gone,
        (below, selected): (&RelPath, Option<&Rules>),
        outbox: &Outbox,
    ) -> io::Result<()> {
        let gone = self.gone(which).filter(|path| selected.is_none_or(|selected| selected.ignores(path)));
        let below = gone.filter_map(|path| path.strip_prefix(below));
        send_paths(below.filter(|path| !path.is_root()), outbox)
    }

    fn gone(&self, which: Gone) -> impl Iterator<Item = &RelPath> {
        let deleted =
            self.deleted.iter().filter(move |at| which == Gone::All || !self.before.is_leftover(**at));
        deleted.map(|at| &self.before.manifest.entries()[*at].path)
    }

    /// Whether an entry of the host is the same as before. Times of directories and links do not
    /// count.
    fn is_same(&self, was: usize, after: &Tree, at: usize) -> bool {
        let (old, new) = (&self.before.manifest.entries()[was], &after.manifest.entries()[at]);
        let is_file = matches!(new.kind, Kind::File { .. });
        !self.before.is_leftover(was)
            && self.has_same_content(was, after, at)
            && (!is_file || old.mtime == new.mtime)
    }

    fn has_same_content(&self, was: usize, after: &Tree, at: usize) -> bool {
        let (old, new) = (&self.before.manifest.entries()[was], &after.manifest.entries()[at]);
        let (known, found) = (self.before.digests[was], after.digests[at]);
        let same = match new.kind {
            Kind::File { .. } => known.is_some() && known == found,
            Kind::Directory | Kind::Symlink { .. } => true,
        };
        same && old.kind == new.kind && (matches!(new.kind, Kind::Symlink { .. }) || old.mode == new.mode)
    }

    fn beside(&self, after: &Tree, scope: &Scope) -> Beside {
        let entries = after.manifest.entries();
        let edited = self.candidates.iter().filter_map(|(at, was)| {
            let was = (*was).filter(|was| !self.before.is_leftover(*was))?;
            (!self.has_same_content(was, after, *at)).then_some(&entries[*at].path)
        });
        let mut changed: Vec<_> =
            edited.chain(self.gone(Gone::OfHost)).filter(|path| !scope.holds(path)).cloned().collect();
        changed.sort();
        let more = changed.len().saturating_sub(BESIDE) as u64;
        changed.truncate(BESIDE);
        let top = |path: &RelPath| path.components().next().and_then(|name| RelPath::new(name).ok());
        let known: HashSet<_> = self.before.leftovers.iter().filter_map(top).collect();
        let new = self.candidates.iter().filter(|(_, was)| was.is_none()).map(|(at, _)| &entries[*at].path);
        // A directory that only leads to an output is not listed: the output is named already.
        let is_way = |path: &RelPath| match scope {
            Scope::Everything => false,
            Scope::Below { outputs, .. } => outputs.iter().any(|output| output.strip_prefix(path).is_some()),
        };
        let made: BTreeSet<_> =
            new.filter(|path| !scope.holds(path) && !is_way(path)).filter_map(top).collect();
        Beside { changed, more, made: made.into_iter().filter(|top| !known.contains(top)).collect() }
    }
}

/// The groups of hard links below a path as they were before a command, of names that still exist
/// and are the same files. A name that has become another file left its group, and must not take
/// the others along.
struct Parted {
    staying: Groups,
    /// The groups of names that have become other files.
    moved: Groups,
    /// The files of `staying`.
    files: HashSet<(u64, u64)>,
}

impl Parted {
    fn find(before: &Tree, after: &Tree, is_asked: impl Fn(&RelPath) -> bool) -> Parted {
        let entries = before.manifest.entries();
        let is_staying = |was: usize| {
            let path = &entries[was].path;
            let entry = after.manifest.get(path).filter(|_| !before.is_leftover(was) && is_asked(path));
            entry.map(|now| file_of(now) == file_of(&entries[was]))
        };
        let linked =
            (0..entries.len()).filter(|was| entries[*was].links > 1 && is_staying(*was) == Some(true));
        Parted {
            files: linked.map(|was| file_of(&entries[was])).collect(),
            staying: Groups::among(&before.manifest, |was| is_staying(was) == Some(true)),
            moved: Groups::among(&before.manifest, |was| is_staying(was) == Some(false)),
        }
    }

    fn is_in_same_group(&self, before: &Tree, was: usize, after: &Tree, at: usize, now: &Groups) -> bool {
        let (old, new) = (file_of(&before.manifest.entries()[was]), file_of(&after.manifest.entries()[at]));
        let groups = if old == new { &self.staying } else { &self.moved };
        let has_left = old != new && self.files.contains(&old);
        !has_left && groups.first_name(&before.manifest, was) == now.first_name(&after.manifest, at)
    }
}

fn file_of(entry: &Entry) -> (u64, u64) {
    (entry.stamp.dev, entry.stamp.ino)
}

/// Whether a path matches `pattern`, or has it as its name.
fn is_matched(after: &Tree, pattern: &str) -> bool {
    let paths = after.manifest.entries().iter().map(|entry| &entry.path);
    let mut paths = paths.chain(after.specials.iter().map(|(path, _)| path));
    // An exception (`!`) matches nothing by itself, and is not missing.
    name_in(pattern, &after.manifest).is_some()
        || pattern.starts_with('!')
        || Rules::new([pattern]).is_ok_and(|pattern| paths.any(|path| pattern.ignores(path)))
}

/// Whether an output exists, apart from kept paths in its place.
fn is_made(after: &Tree, below: &RelPath, root: &Path) -> bool {
    if below.is_root() {
        return true;
    }
    let entries = after.manifest.entries();
    match after.manifest.position(below) {
        None => after.specials.iter().any(|(path, _)| path == below),
        Some(at) if entries[at].kind == Kind::Directory => {
            let path = root.join(std::ffi::OsStr::from_bytes(below.as_bytes()));
            let is_empty = || fs::read_dir(path).is_ok_and(|mut names| names.next().is_none());
            entries.get(at + 1).is_some_and(|next| next.path.strip_prefix(below).is_some()) || is_empty()
        }
        Some(_) => true,
    }
}

/// Sends paths as nodes of directories.
fn send_paths(paths: impl Iterator<Item = RelPath>, outbox: &Outbox) -> io::Result<()> {
    let mut writer = NodeWriter::new(io::BufWriter::with_capacity(64 << 10, outbox.data()));
    for path in paths {
        let (kind, mtime) = (NodeKind::Directory, Timestamp::default());
        writer.write(&Node { path, kind, mode: 0, mtime, link: None })?;
    }
    finish_nodes(writer)
}

/// Whether no metadata have changed. The stamp of a directory changes with its names, which are
/// entries of their own.
fn is_untouched(old: &Entry, new: &Entry) -> bool {
    let is_same_stamp = matches!(new.kind, Kind::Directory) || old.stamp == new.stamp;
    is_same_stamp && old.mode == new.mode && old.kind == new.kind
}

// ---- named products -----------------------------------------------------------------------------

/// `None` when the path does not exist, or is not what was asked for.
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

/// The tree at `path`, its shape, and the path's own node; also whether nothing changed meanwhile.
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
    // An output that is in a cache, or is one, was requested by name; a cache in an output was not.
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let caches = match caches {
        [] => Vec::new(),
        caches => {
            workspace::caches_below(&caches.iter().map(|cache| real(cache)).collect::<Vec<_>>(), &real(path))
        }
    };
    let view = View { rules: Rules::none(), outputs: Vec::new(), caches, extent: Extent::Everything };
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

/// Reads all files whose digests the index does not know. Returns whether none changed meanwhile.
fn read_unknown(tree: &mut Tree, root: &Path, index: Option<&Path>) -> Result<bool, Failed> {
    tree.digests = index.map(Index::load).unwrap_or_default().digests(&tree.manifest);
    let unknown = tree.unknown();
    let moving =
        tree.hash(root, &unknown).map_err(|error| failed("could not read what the command made", &error))?;
    Ok(moving.is_empty())
}

/// As the host computes it: without times, set-uid bits and paths that are not sent.
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

// ---- contents -----------------------------------------------------------------------------------

fn below(top: Option<TopEntry>) -> Result<PackOptions, Failed> {
    let prefix = RelPath::new(PREFIX).map_err(|why| nonsense(&why.to_string()))?;
    Ok(pack_options(prefix, top))
}

fn pack_options(prefix: RelPath, top: Option<TopEntry>) -> PackOptions {
    PackOptions { prefix, uid: 0, gid: 0, top, holes: Holes::Told }
}

/// The entry that the node `number` of a list stands for.
fn place_of(number: u32, places: &[Place]) -> Option<Place> {
    places.get(usize::try_from(number).ok()?).copied()
}

/// Sends entries of the source tree, all at or below `below`, by their paths in it.
fn send_below(root: &Path, below: &RelPath, entries: Vec<Entry>, outbox: &Outbox) -> Result<(), Failed> {
    let native = |path: &RelPath| root.join(std::ffi::OsStr::from_bytes(path.as_bytes()));
    // The archive of an output that is a file begins with its own name.
    let single = matches!(entries.as_slice(), [entry] if entry.path == *below);
    let from = if single { below.parent().unwrap_or_default() } else { below.clone() };
    let entries = entries.into_iter().map(|entry| {
        let path = entry.path.strip_prefix(&from).unwrap_or_default();
        Entry { path, ..entry }
    });
    let manifest = Manifest::from_entries(entries.collect());
    let options = match single {
        true => pack_options(RelPath::root(), None),
        false => self::below(None)?,
    };
    let places: Vec<_> = (0..manifest.entries().len() as u32).map(Place::Entry).collect();
    let all: Vec<_> = (0..places.len() as u32).collect();
    send_archive(&native(&from), &manifest, &places, &all, options, outbox)
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
        match place_of(node, places) {
            Some(Place::Entry(at)) => wanted.push(at as usize),
            Some(Place::Top) => top = options.top,
            _ => return Err(nonsense("that node has no content")),
        }
    }
    options.top = top;
    let most = LONGEST_PATH.saturating_sub(root.as_os_str().len() + 1);
    let mut paths = wanted.iter().map(|at| &manifest.entries()[*at].path);
    if let Some(path) = paths.find(|path| path.as_bytes().len() > most) {
        let detail = format!("{} is too long to be opened by name", path.brief());
        return Err(Failed { why: Failure::Other, detail });
    }
    let mut data = outbox.data();
    match pack(root, manifest, &wanted, &options, &mut data, &|_| {}) {
        Ok(packed) if packed.vanished.is_empty() && packed.unstable.is_empty() => end(DataOut::finish, data),
        Ok(_) => end(|data| data.fail("the products change while they are sent"), data),
        Err(error) => end(|data| data.fail(&error.to_string()), data),
    }
    Ok(())
}

/// A write that fails means that the client is gone, which the inbox reports.
fn end<'a>(how: impl FnOnce(DataOut<'a>) -> io::Result<()>, data: DataOut<'a>) {
    let _ = how(data);
}
