//! The source root: opened, scanned, compared with the host's summary, kept in memory as on disk.
//!
//! In: an [`Open`], a [`Compare`]. Out: which buckets differ, and the nodes of those. The scan
//! begins with Open, on a thread of its own, so that it runs while the host scans its tree too. One
//! scan answers two questions: what differs from the host, and what the command changed
//! ([`super::collect`]). A path that the host does not have and never had is a leftover
//! ([`super::leftovers`]).
//!
//! Digests are trusted only from the index (see [`crate::tree::index`]), and are those of the files
//! as they were found here. A digest that the client names is never taken for one.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs,
    io::{self, Read as _, Write as _},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use cap_std::fs::Dir;
use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, Uid},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use crate::{
    agent::{
        protocol::{Claim, Compare, Extent, Failed, Failure, Open, Reply, User},
        server::{
            clocks::Span,
            common::{failed, place_beside_agent},
            exec::Manners,
            kept, leftovers,
            outbox::Outbox,
        },
    },
    entry::{Kind, RelPath, Special, Stamp, Timestamp},
    sys::{self, at, clock::Granularity},
    tree::{
        Digest, Entry, Manifest,
        hash::hash_files,
        ignore::{self, Rules},
        index::{HashedAt, Index, Whose},
        links::Groups,
        node::{Node, NodeKind, NodeReader, NodeWriter},
        scan::{ScanError, ScanOptions, scan},
        summary::{Differing, Summarizer, Summary, What},
    },
    user::{self, Account},
};

/// How many times a tree that changes meanwhile is read.
const TRIES: usize = 3;

/// A source root that a client has opened.
#[derive(Debug)]
pub(super) struct Workspace {
    pub(super) root: PathBuf,
    pub(super) account: Account,
    pub(super) manners: Manners,
    pub(super) view: View,
    /// The patterns that the workspace keeps besides the client's.
    pub(super) kept: Vec<String>,
    pub(super) scope: Scope,
    /// See [`Open::only`].
    pub(super) only: Vec<String>,
    /// Where caches are, below the root or elsewhere.
    pub(super) caches: Vec<PathBuf>,
    tree: State,
    index: Option<PathBuf>,
    /// The root's own mtime on the host, once it is known.
    root_mtime: Option<Timestamp>,
    pub(super) company: Company,
    /// The digest of the host's summary, once it is known.
    host: Option<Digest>,
    pub(super) ending: Ending,
    /// The time span of the command that runs or ran.
    pub(super) span: Option<Span>,
    /// Paths whose changes came back to their own places.
    pub(super) brought_back: Vec<RelPath>,
    /// The tree before the command, and the changes after it.
    pub(super) over: Option<Over>,
}

/// Which of the tree's changes come back.
#[derive(Debug, Clone)]
pub(super) enum Scope {
    Everything,
    /// Those at and below these outputs, and the selected ones.
    Below {
        outputs: Vec<RelPath>,
        selected: Rules,
    },
}

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// No command has run, or it still runs.
    None,
    ByItself,
    /// By SIGKILL or lack of memory: its products may be incomplete.
    Cut,
}

/// What is known of others that work in the tree.
#[derive(Debug)]
pub(super) struct Others {
    /// Their outputs.
    pub(super) outputs: Vec<RelPath>,
    /// What the host had when the tree was last put right.
    pub(super) host: Vec<Node>,
}

/// Whether others work in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    Nobody,
    /// This client leaves their changes alone. Its tree in memory is what the host had when they
    /// began, not what is on the disk, so that only later changes of the host are applied. Each
    /// file is put in its place by a rename.
    Others,
}

/// Which part of the root is source tree. The rest is not scanned.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) rules: Rules,
    pub(super) outputs: Vec<RelPath>,
    /// Caches and mounts below the root, which are not part of the tree.
    pub(super) caches: Vec<RelPath>,
    pub(super) extent: Extent,
}

#[derive(Debug)]
enum State {
    Scanning(JoinHandle<Result<Tree, Failed>>),
    Known(Tree),
    /// A scan failed, and its failure was reported.
    Lost,
}

/// A tree as it was found, with the digests that are known.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) manifest: Manifest,
    pub(super) digests: Vec<Option<Digest>>,
    /// Sockets, fifos, devices.
    pub(super) specials: Vec<(RelPath, Special)>,
    /// Paths that the host does not have and never had.
    pub(super) leftovers: HashSet<RelPath>,
    /// How many files were read for their digests.
    pub(super) hashed: u64,
    /// Positions of files whose stamp was too fresh when they were read: the index must not get
    /// their digests.
    pub(super) fresh: Vec<usize>,
    /// Something is known that the index does not have.
    pub(super) unsaved: bool,
}

impl Workspace {
    /// Makes the root if it is missing, and begins to scan it if no other client works there.
    pub(super) fn open(open: Open, others: Option<Others>) -> Result<Workspace, Failed> {
        let root = root_of(&open);
        if !root.is_absolute() {
            return Err(nonsense("the source root is not an absolute path"));
        }
        let (account, manners) = match &open.user {
            User::Named(spec) => (account_of(spec)?, Manners::OfEngines),
            User::Own => (own_account(), Manners::OfAgent),
        };
        let scope = Scope::of(&open, &root)?;
        let rules = Rules::new(&open.patterns).map_err(|why| nonsense(&why.to_string()))?;
        if open.extent != Extent::Nothing {
            make_root(&root, &account)?;
        }
        let path = |path: &crate::agent::protocol::Blob| PathBuf::from(std::ffi::OsStr::from_bytes(path));
        let caches: Vec<_> = open.caches.iter().map(path).collect();
        for directory in open.ways.iter().map(path).chain(caches.iter().cloned()) {
            give_to_user(&directory, &account).map_err(|error| {
                failed(&format!("could not give the cache's directory {directory:?} to the user"), &error)
            })?;
        }
        // The engine's mounts (`/etc/hosts`, an image's volume) are not part of the tree either.
        let mut below = caches_below(&caches, &root);
        below.extend(caches_below(&mounts(), &root));
        let mut view = View { rules, outputs: open.outputs, caches: below, extent: open.extent };
        let index = index_of(&root);
        let mut kept = Vec::new();
        if open.extent == Extent::Everything {
            kept = kept::add(&root, &open.patterns, &view)?;
            if !kept.is_empty() {
                let all = kept.iter().chain(&open.patterns);
                view.rules = Rules::new(all).map_err(|why| nonsense(&why.to_string()))?;
            }
        }
        let company = if others.is_some() { Company::Others } else { Company::Nobody };
        let tree = match (open.extent, others) {
            (Extent::Nothing, _) => State::Known(Tree::default()),
            (_, Some(Others { outputs, host })) => {
                view.outputs.extend(outputs);
                State::Known(Tree::of(host, &view.outputs))
            }
            (Extent::Everything, None) => {
                let (root, view, index) = (root.clone(), view.clone(), index.clone());
                let find = move || find(&root, &view, index.as_deref());
                let scanning = thread::Builder::new().name("scan".to_owned()).spawn(find);
                State::Scanning(
                    scanning.map_err(|error| failed("could not start a thread to scan with", &error))?,
                )
            }
        };
        let (root_mtime, host, ending, brought_back, over) = (None, None, Ending::None, Vec::new(), None);
        Ok(Workspace {
            root,
            account,
            manners,
            view,
            kept,
            scope,
            only: open.only,
            caches,
            tree,
            index,
            root_mtime,
            company,
            host,
            ending,
            span: None,
            brought_back,
            over,
        })
    }

    /// The tree, once the scan is over.
    pub(super) fn tree(&mut self) -> Result<&mut Tree, Failed> {
        if let State::Scanning(_) = self.tree
            && let State::Scanning(scanning) = std::mem::replace(&mut self.tree, State::Lost)
        {
            let panicked = || Failed { why: Failure::Other, detail: "the scan ended early".to_owned() };
            self.tree = State::Known(scanning.join().map_err(|_| panicked())??);
        }
        match &mut self.tree {
            State::Known(tree) => Ok(tree),
            _ => Err(nonsense("the source tree is not known")),
        }
    }

    /// The tree, if the scan is over.
    pub(super) fn known_tree(&self) -> Option<&Tree> {
        match &self.tree {
            State::Known(tree) => Some(tree),
            State::Scanning(_) | State::Lost => None,
        }
    }

    /// Takes the tree out; the caller puts it back changed.
    pub(super) fn take_tree(&mut self) -> Result<Tree, Failed> {
        Ok(std::mem::take(self.tree()?))
    }

    pub(super) fn put_tree(&mut self, tree: Tree) {
        self.tree = State::Known(tree);
    }

    /// Sends what differs from the host's tree.
    pub(super) fn compare(&mut self, compare: &Compare, outbox: &Outbox) -> Result<(), Failed> {
        let host = Summary::from_bytes(&compare.summary).ok_or_else(|| nonsense("that is not a summary"))?;
        set_root_mode(&self.root, compare.mode)?;
        self.root_mtime = Some(compare.mtime);
        self.host = Some(Digest(Sha256::digest(&compare.summary).into()));
        let tree = self.tree()?;
        let own = tree.summary(host.buckets());
        let differing = own.differing(&host);
        outbox.reply_before_data(&Reply::Differing {
            differing: differing.to_bytes().into(),
            entries: tree.things().count() as u64,
            hashed: tree.hashed,
        });
        // A write that fails means that the client is gone, which the inbox reports.
        let _ = tree.send_nodes(&differing, outbox);
        Ok(())
    }

    /// Sets the root's mtime to the one on the host.
    pub(super) fn settle_root(&self) -> Result<(), Failed> {
        let Some(mtime) = self.root_mtime else { return Ok(()) };
        let told = |error: io::Error| failed(&format!("could not set the time of {:?}", self.root), &error);
        let root = fs::File::open(&self.root).map(Dir::from_std_file).map_err(told)?;
        if at::look_at(&root).map_err(told)?.stamp.mtime == mtime {
            return Ok(());
        }
        rustix::fs::utimensat(&root, c".", &at::mtime_alone(mtime), AtFlags::empty())
            .map_err(|errno| told(errno.into()))
    }

    /// Stores what the host has, now that the tree equals it, for clients that come while the
    /// command runs. Builds without named outputs never have others beside them.
    pub(super) fn note_host(&mut self) -> io::Result<()> {
        let (Some(path), Some(host), Scope::Below { .. }) = (host_of(&self.root), self.host, &self.scope)
        else {
            return Ok(());
        };
        // The outputs of others are missing.
        let head = match self.company {
            Company::Nobody => host.0,
            Company::Others => [0; 32],
        };
        if self.is_alone() {
            return Ok(());
        }
        let State::Known(tree) = &self.tree else { return Ok(()) };
        sys::replace_file(&path, |file| {
            let mut writer = io::BufWriter::new(file);
            writer.write_all(&head)?;
            let mut writer = NodeWriter::new(writer);
            let groups = tree.groups();
            for node in tree.things().filter_map(|thing| thing.node(tree, &groups)) {
                writer.write(&node)?;
            }
            writer.finish()?.flush()
        })
    }

    /// Whether no other client has put the tree right since this one did, or was at work there.
    pub(super) fn is_alone(&self) -> bool {
        self.company == Company::Nobody
            && match (&self.scope, self.host, host_of(&self.root)) {
                (Scope::Below { .. }, Some(host), Some(noted)) => {
                    fs::File::open(noted).is_ok_and(|mut file| {
                        let mut head = [0; 32];
                        file.read_exact(&mut head).is_ok() && head == host.0
                    })
                }
                _ => true,
            }
    }

    /// Stores which paths are leftovers, after some of them have become the host's.
    pub(super) fn list_leftovers(&self) -> io::Result<()> {
        match self.known_tree() {
            Some(tree) if self.company == Company::Nobody => {
                leftovers::save(&self.root, &tree.manifest, |at| tree.is_leftover(at))
            }
            _ => Ok(()),
        }
    }

    /// Stores the leftovers and the index, if there is anything new to write.
    pub(super) fn save(&mut self) {
        // Without them, more is made and read again, but the result is right.
        let _ = self.save_leftovers();
        if let (State::Known(tree), Some(index)) = (&mut self.tree, &self.index)
            && self.view.extent == Extent::Everything
            && self.company == Company::Nobody
        {
            tree.save(&self.root, index);
        }
    }

    /// Removes the tree, which is not used again. An engine takes longer: it has the disk write
    /// everything before it deletes it. A tree with mounts stays: they are not the container's own.
    pub(super) fn discard(&self) {
        let Ok(root) = fs::canonicalize(&self.root) else { return };
        let is_near =
            |place: &PathBuf| place.starts_with(&root) || place.parent().is_some() && root.starts_with(place);
        if self.view.extent == Extent::Everything && !mounts().iter().any(is_near) {
            // The container's removal deletes the rest.
            let _ = fs::remove_dir_all(&root);
        }
    }
}

impl Tree {
    /// The tree that the host had, without paths at or below `outputs`.
    fn of(host: Vec<Node>, outputs: &[RelPath]) -> Tree {
        let (mut entries, mut tree) = (Vec::new(), Tree::default());
        let is_output = |path: &RelPath| outputs.iter().any(|output| path.strip_prefix(output).is_some());
        for Node { path, kind, mode, mtime, link } in host.into_iter().filter(|node| !is_output(&node.path)) {
            let (kind, digest) = match kind {
                NodeKind::Directory => (Kind::Directory, None),
                NodeKind::File { size, digest } => (Kind::File { size }, Some(digest)),
                NodeKind::Symlink { target } => (Kind::Symlink { target }, None),
                NodeKind::Special(special) => {
                    tree.specials.push((path, special));
                    continue;
                }
            };
            let mut entry = Entry { path, kind, mode, mtime, stamp: Stamp::default(), links: 1 };
            let first =
                link.and_then(|link| entries.binary_search_by(|entry: &Entry| entry.path.cmp(&link)).ok());
            if let Some(first) = first {
                // This number only says which names are one file.
                entry.stamp.ino = first as u64 + 1;
                entry.links = 2;
                (entries[first].stamp, entries[first].links) = (entry.stamp, 2);
            }
            entries.push(entry);
            tree.digests.push(digest);
        }
        tree.manifest = Manifest::from_entries(entries);
        tree
    }

    /// All things that the host has or had, in order.
    pub(super) fn things(&self) -> impl Iterator<Item = Thing<'_>> {
        merged(&self.manifest, &self.specials)
            .filter(|thing| !matches!(thing, Thing::Entry(at, _) if self.is_leftover(*at)))
    }

    /// Which names of these things are one file.
    pub(super) fn groups(&self) -> Groups {
        Groups::among(&self.manifest, |at| !self.is_leftover(at))
    }

    /// The paths of these things at or below `path`; entries of a directory come before it.
    pub(super) fn paths_to_delete<'a>(&'a self, path: &'a RelPath) -> impl Iterator<Item = &'a RelPath> {
        let is_there = |other: &&RelPath| other.strip_prefix(path).is_some();
        let entries = self.manifest.entries();
        let from = self.manifest.position(path).unwrap_or(entries.len());
        let below = entries[from..].iter().take_while(move |entry| is_there(&&entry.path)).count();
        let specials = self.specials.iter().map(|(path, _)| path).filter(is_there);
        let entries = (from..from + below).rev().filter(|at| !self.is_leftover(*at));
        specials.chain(entries.map(|at| &self.manifest.entries()[at].path))
    }

    /// Whether the entry at a position is a leftover.
    pub(super) fn is_leftover(&self, at: usize) -> bool {
        !self.leftovers.is_empty() && self.leftovers.contains(&self.manifest.entries()[at].path)
    }

    /// The positions of files whose digests are not known.
    pub(super) fn unknown(&self) -> Vec<usize> {
        let unknown = |thing| match thing {
            Thing::Entry(at, Entry { kind: Kind::File { .. }, .. }) => {
                self.digests[at].is_none().then_some(at)
            }
            Thing::Entry(..) | Thing::Special(..) => None,
        };
        self.things().filter_map(unknown).collect()
    }

    fn summary(&self, buckets: usize) -> Summary {
        let (mut summarizer, groups) = (Summarizer::new(buckets), self.groups());
        for thing in self.things() {
            match thing {
                Thing::Entry(at, entry) => {
                    let what = What::of(&entry.kind, self.digests[at]);
                    summarizer.add(&entry.path, what, entry.mode, entry.mtime);
                    summarizer.link(&entry.path, groups.first_name(&self.manifest, at));
                }
                Thing::Special(path, _) => summarizer.add(path, What::Special, 0, Timestamp::default()),
            }
        }
        summarizer.finish()
    }

    fn send_nodes(&self, differing: &Differing, outbox: &Outbox) -> io::Result<()> {
        let mut writer = NodeWriter::new(io::BufWriter::with_capacity(64 << 10, outbox.data()));
        let groups = self.groups();
        for thing in self.things().filter(|thing| differing.holds(thing.path())) {
            // A file that could not be read is left out, so that it is replaced.
            if let Some(node) = thing.node(self, &groups) {
                writer.write(&node)?;
            }
        }
        finish_nodes(writer)
    }

    /// Writes an index of what is known, if anything is new.
    pub(super) fn save(&mut self, root: &Path, index: &Path) {
        if !std::mem::take(&mut self.unsaved) {
            return;
        }
        for at in self.fresh.drain(..) {
            if let Some(digest) = self.digests.get_mut(at) {
                *digest = None;
            }
        }
        // Without an index everything is read again, but the result is right.
        let _ = Index::save(index, &self.manifest, &self.digests, &HashedAt::now(root), &|_| Whose::Users);
    }

    /// Reads the files at `places` for their digests. Returns those changed since the scan.
    pub(super) fn hash(&mut self, root: &Path, places: &[usize]) -> io::Result<Vec<usize>> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let (before, span) = (crate::sys::clock::file_system_now(), Granularity::of(root).span());
        let hashed = hash_files(root, &self.manifest, places, &|_| {});
        for (at, digest) in hashed.digests {
            self.hashed += 1;
            self.unsaved = true;
            self.digests[at] = Some(digest);
            let stamp = self.manifest.entries()[at].stamp;
            if stamp.mtime.max(stamp.ctime) >= before.before_by(span) {
                self.fresh.push(at);
            }
        }
        match hashed.failed.into_iter().next() {
            None => Ok(hashed.changed),
            Some((at, error)) => {
                let path = &self.manifest.entries()[at].path;
                Err(io::Error::new(error.kind(), format!("could not read {}: {error}", path.brief())))
            }
        }
    }
}

/// An entry or a special file of a tree.
pub(super) enum Thing<'a> {
    Entry(usize, &'a Entry),
    Special(&'a RelPath, Special),
}

impl Thing<'_> {
    pub(super) fn path(&self) -> &RelPath {
        match self {
            Thing::Entry(_, entry) => &entry.path,
            Thing::Special(path, _) => path,
        }
    }

    /// `None` for a file whose digest is not known.
    pub(super) fn node(&self, tree: &Tree, groups: &Groups) -> Option<Node> {
        match self {
            Thing::Entry(at, entry) => {
                let link = groups.first_name(&tree.manifest, *at).cloned();
                Some(Node { link, ..Node::of(entry, tree.digests[*at])? })
            }
            Thing::Special(path, special) => Some(Node {
                path: (*path).clone(),
                kind: NodeKind::Special(*special),
                mode: 0,
                mtime: Timestamp::default(),
                link: None,
            }),
        }
    }
}

/// Entries and specials in one order.
pub(super) fn merged<'a>(
    manifest: &'a Manifest,
    specials: &'a [(RelPath, Special)],
) -> impl Iterator<Item = Thing<'a>> {
    let mut entries = manifest.entries().iter().enumerate().peekable();
    let mut specials = specials.iter().peekable();
    std::iter::from_fn(move || {
        let special_first = match (entries.peek(), specials.peek()) {
            (Some((_, entry)), Some((path, _))) => *path < entry.path,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if special_first {
            specials.next().map(|(path, special)| Thing::Special(path, *special))
        } else {
            entries.next().map(|(at, entry)| Thing::Entry(at, entry))
        }
    })
}

/// Ends a list of nodes and its stream of data.
pub(super) fn finish_nodes(writer: NodeWriter<io::BufWriter<super::outbox::DataOut<'_>>>) -> io::Result<()> {
    let buffered = writer.finish()?;
    buffered.into_inner().map_err(io::IntoInnerError::into_error)?.finish()
}

/// Reads what [`Workspace::note_host`] wrote.
pub(super) fn read_host(root: &Path) -> io::Result<Vec<Node>> {
    let path = host_of(root).ok_or(io::ErrorKind::NotFound)?;
    let mut file = io::BufReader::new(fs::File::open(path)?);
    file.read_exact(&mut [0; 32])?;
    NodeReader::new(file).collect::<Result<_, _>>().map_err(io::Error::other)
}

fn host_of(root: &Path) -> Option<PathBuf> {
    place_beside_agent("host", root)
}

/// The source root that a client names.
pub(super) fn root_of(open: &Open) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(&open.root))
}

// ---- scanning -----------------------------------------------------------------------------------

/// Scans the source tree, and reads the files whose digests are not known.
fn find(root: &Path, view: &View, index: Option<&Path>) -> Result<Tree, Failed> {
    let known = index.map(Index::load).unwrap_or_default();
    let mut tries = 1;
    loop {
        let mut tree = look(root, view)?;
        tree.leftovers = leftovers::find(root, &tree.manifest);
        tree.digests = known.digests(&tree.manifest);
        let unknown = tree.unknown();
        // A file that cannot be read is replaced. If the disk is the cause, the write will show it.
        let changed = tree.hash(root, &unknown).unwrap_or_default();
        if changed.is_empty() || tries == TRIES {
            return Ok(tree);
        }
        tries += 1;
    }
}

/// Scans the root, limited by `view`; no digest is known yet.
pub(super) fn look(root: &Path, view: &View) -> Result<Tree, Failed> {
    let leave_out = [view.outputs.as_slice(), &view.caches].concat();
    let options = ScanOptions { rules: &view.rules, leave_out: &leave_out, progress: &|_| {} };
    let mut found = scan(root, &options).map_err(scan_failed)?;
    if !view.caches.is_empty() {
        found.manifest = without_bare_ways(found.manifest, &view.caches);
    }
    let digests = vec![None; found.manifest.entries().len()];
    Ok(Tree { manifest: found.manifest, digests, specials: found.skipped, ..Tree::default() })
}

/// Where file systems are mounted.
pub(super) fn mounts() -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mounts").unwrap_or_default();
    let place =
        |line: &[u8]| Some(PathBuf::from(OsString::from_vec(unescaped(line.split(|b| *b == b' ').nth(1)?))));
    table.split(|byte| *byte == b'\n').filter_map(place).collect()
}

/// The table of mounts writes a blank as `\040`.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| *first == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &tail[3..];
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

/// The `caches` below `root`, relative to it.
pub(super) fn caches_below(caches: &[PathBuf], root: &Path) -> Vec<RelPath> {
    let below =
        |cache: &PathBuf| cache.strip_prefix(root).ok().map(|below| below.as_os_str().as_bytes().to_vec());
    let below = caches.iter().filter_map(below).filter_map(|below| RelPath::new(below).ok());
    below.filter(|below| !below.is_root()).collect()
}

/// Leaves out directories that only lead to a cache: the engine made them, not the build.
fn without_bare_ways(manifest: Manifest, caches: &[RelPath]) -> Manifest {
    let mut entries = manifest.into_entries();
    let leads_to_cache = |path: &RelPath| caches.iter().any(|cache| lies_in(cache, path));
    // From the end: in a chain of such directories, the deepest goes first.
    for at in (0..entries.len()).rev() {
        let is_bare = entries.get(at + 1).is_none_or(|next| !lies_in(&next.path, &entries[at].path));
        if is_bare && entries[at].kind == Kind::Directory && leads_to_cache(&entries[at].path) {
            entries.remove(at);
        }
    }
    Manifest::from_entries(entries)
}

impl Scope {
    fn of(open: &Open, root: &Path) -> Result<Scope, Failed> {
        let Claim::Outputs(outputs) = &open.claim else { return Ok(Scope::Everything) };
        let outputs: Vec<_> =
            outputs.iter().map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path))).collect();
        Ok(match outputs.iter().any(|output| output == root) && open.only.is_empty() {
            true => Scope::Everything,
            false => Scope::Below { outputs: caches_below(&outputs, root), selected: selected(&open.only)? },
        })
    }

    /// The same, but patterns that are names in `tree` mean these paths alone; `only` are the
    /// patterns.
    pub(super) fn with_names(&self, only: &[String], tree: &Manifest) -> Result<Scope, Failed> {
        let Scope::Below { outputs, .. } = self else { return Ok(Scope::Everything) };
        let name = |pattern: &String| {
            name_in(pattern, tree).map_or_else(|| pattern.clone(), |path| ignore::literal(&path))
        };
        let selected = selected(&only.iter().map(name).collect::<Vec<_>>())?;
        Ok(Scope::Below { outputs: outputs.clone(), selected })
    }

    /// For a query of the root: the selected paths; `None` means all.
    pub(super) fn selected_of(&self, below: &RelPath) -> Option<&Rules> {
        match self {
            Scope::Below { selected, .. } if below.is_root() => Some(selected),
            _ => None,
        }
    }

    pub(super) fn holds(&self, path: &RelPath) -> bool {
        match self {
            Scope::Everything => true,
            Scope::Below { outputs, selected } => {
                outputs.iter().any(|output| path.strip_prefix(output).is_some()) || selected.ignores(path)
            }
        }
    }
}

/// The path that has the pattern as its name.
pub(super) fn name_in(pattern: &str, tree: &Manifest) -> Option<RelPath> {
    RelPath::new(pattern.as_bytes()).ok().filter(|path| tree.get(path).is_some())
}

fn selected(patterns: &[String]) -> Result<Rules, Failed> {
    Rules::new(patterns).map_err(|why| nonsense(&why.to_string()))
}

/// Whether `path` lies below `directory`, at any depth.
fn lies_in(path: &RelPath, directory: &RelPath) -> bool {
    directory.is_root()
        || path.as_bytes().strip_prefix(directory.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'/'))
}

fn scan_failed(error: ScanError) -> Failed {
    let source = match &error {
        ScanError::Root { source, .. }
        | ScanError::Unreadable { source, .. }
        | ScanError::Hidden { source, .. } => source.kind().to_string(),
        ScanError::NotADirectory { .. } => {
            return Failed { why: Failure::RootIsNoDirectory, detail: "it is not a directory".to_owned() };
        }
    };
    Failed { why: Failure::Other, detail: format!("could not scan the workspace: {error}: {source}") }
}

// ---- the user -----------------------------------------------------------------------------------

fn account_of(spec: &str) -> Result<Account, Failed> {
    let tables = |path: &str| fs::read(path).ok();
    user::account(spec, tables("/etc/passwd").as_deref(), tables("/etc/group").as_deref())
        .map_err(|why| Failed { why: Failure::User, detail: why.to_string() })
}

/// The user who runs the agent, even if no table knows that user.
fn own_account() -> Account {
    let ids =
        user::Ids { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    let home =
        std::env::var_os("HOME").map_or_else(|| b"/".to_vec(), std::os::unix::ffi::OsStringExt::into_vec);
    Account { ids, groups: vec![ids.gid], home }
}

// ---- the root -----------------------------------------------------------------------------------

fn make_root(root: &Path, account: &Account) -> Result<(), Failed> {
    let told = |error: &io::Error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOTDIR | Errno::EXIST | Errno::LOOP) => Failed {
            why: Failure::RootIsNoDirectory,
            detail: format!("{root:?} is not a directory: {error}"),
        },
        _ => failed(&format!("could not make {root:?}"), error),
    };
    fs::create_dir_all(root).and_then(|()| give_to_user(root, account)).map_err(|error| told(&error))
}

/// Makes the user the owner of a directory, where this process may.
fn give_to_user(directory: &Path, account: &Account) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::open(directory, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&handle)?;
    let user::Ids { uid, gid } = account.ids;
    if rustix::process::geteuid().is_root() && (stat.st_uid, stat.st_gid) != (uid, gid) {
        rustix::fs::fchown(&handle, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    Ok(())
}

fn set_root_mode(root: &Path, mode: u32) -> Result<(), Failed> {
    let told = |error: io::Error| failed(&format!("could not set the mode of {root:?}"), &error);
    let stat = rustix::fs::stat(root).map_err(|errno| told(errno.into()))?;
    if stat.st_mode & 0o7777 == mode & 0o7777 {
        return Ok(());
    }
    rustix::fs::chmod(root, Mode::from_raw_mode(mode & 0o7777)).map_err(|errno| told(errno.into()))
}

/// The index of the tree at `root`, beside the agent.
pub(super) fn index_of(root: &Path) -> Option<PathBuf> {
    place_beside_agent("index", root)
}

pub(super) fn nonsense(detail: &str) -> Failed {
    Failed { why: Failure::Protocol, detail: detail.to_owned() }
}

/// The tree before the command, and how the one after it differs, by position.
#[derive(Debug)]
pub(super) struct Over {
    pub(super) before: Tree,
    /// In the new tree, with the position in the old one; leftovers are always among them.
    pub(super) candidates: Vec<(usize, Option<usize>)>,
    /// In the old tree.
    pub(super) deleted: Vec<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_and_the_ways_to_them_are_no_part_of_what_is_looked_at() {
        let root = tempfile::TempDir::new().unwrap();
        for directory in ["vendor/gems/bundle/x", "lib/cache/y", "empty/z"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        fs::write(root.path().join("lib/mine"), "").unwrap();
        let path = |path: &str| RelPath::new(path.as_bytes()).unwrap();
        let caches = vec![path("vendor/gems/bundle"), path("lib/cache")];
        let extent = Extent::Everything;
        let view = View { rules: Rules::none(), outputs: Vec::new(), caches, extent };
        let found = look(root.path(), &view).unwrap();
        let names: Vec<_> = found.things().map(|thing| thing.path().to_string()).collect();
        assert_eq!(names, ["empty", "empty/z", "lib", "lib/mine"]);
    }

    #[test]
    fn specials_stand_in_their_place_among_entries() {
        let path = |path: &str| RelPath::new(path.as_bytes()).unwrap();
        let entry = |at: &str| Entry {
            path: path(at),
            kind: Kind::Directory,
            mode: 0,
            mtime: Timestamp::default(),
            stamp: Stamp::default(),
            links: 1,
        };
        let manifest = Manifest::from_entries(vec![entry("b"), entry("b/d"), entry("e")]);
        let specials = ["a", "b/c", "f"].map(|at| (path(at), Special::Fifo));
        let order: Vec<_> = merged(&manifest, &specials).map(|thing| thing.path().to_string()).collect();
        assert_eq!(order, ["a", "b", "b/c", "b/d", "e", "f"]);
    }
}
