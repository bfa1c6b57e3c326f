//! The source root: opened, scanned, held against the host's summary, and kept in memory as what is on the disk.
//!
//! In: an [`Open`], a [`Compare`]. Out: which buckets differ, and the nodes of those. The walk begins with Open, on a thread of
//! its own, so that it runs while the host walks its tree too. One walk serves both questions that come later: what
//! differs from the host, and what the command changed ([`super::collect`]). What lies in the tree and is neither the host's nor was it
//! ever, is a leftover ([`super::leftovers`]).
//!
//! Digests are believed from the index only (see [`crate::tree::index`]), and are those of the files as they were found
//! here; what the client says of a file is never taken for one.

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

use super::{clocks::Span, exec::Manners, kept, leftovers, outbox::Outbox};
use crate::{
    agent::{
        far::ground::{failed, place_beside_agent},
        protocol::{Claim, Compare, Extent, Failed, Failure, Open, Reply, User},
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

/// How often a tree that changes while it is read is read again.
const TRIES: usize = 3;

/// A source root that a client has opened.
#[derive(Debug)]
pub(super) struct Workspace {
    pub(super) root: PathBuf,
    pub(super) account: Account,
    pub(super) manners: Manners,
    pub(super) view: View,
    /// What the workspace keeps beside what the client names.
    pub(super) kept: Vec<String>,
    pub(super) scope: Scope,
    /// See [`Open::only`].
    pub(super) only: Vec<String>,
    /// Where caches lie, below the root or elsewhere.
    pub(super) caches: Vec<PathBuf>,
    tree: State,
    index: Option<PathBuf>,
    /// The root's own mtime on the host, once it is known.
    root_mtime: Option<Timestamp>,
    pub(super) company: Company,
    /// Of the summary of what the host has, once it is known.
    host: Option<Digest>,
    pub(super) ending: Ending,
    /// Since when a command runs, or ran.
    pub(super) span: Option<Span>,
    /// Paths whose changes came back to their own places.
    pub(super) brought_back: Vec<RelPath>,
    /// What was seen when the command had ended, and before.
    pub(super) over: Option<Over>,
}

/// Which of the tree's changes come back.
#[derive(Debug, Clone)]
pub(super) enum Scope {
    Everything,
    /// Those at and below these, and those that are selected.
    Below {
        outputs: Vec<RelPath>,
        selected: Rules,
    },
}

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// There was none, or it runs.
    None,
    ByItself,
    /// By SIGKILL or want of memory: what it made may be half made.
    Cut,
}

/// What there is of others who are at work in the tree.
#[derive(Debug)]
pub(super) struct Others {
    /// What they are making.
    pub(super) outputs: Vec<RelPath>,
    /// What the host had when the tree was last put right.
    pub(super) host: Vec<Node>,
}

/// Who else is at work in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    Nobody,
    /// Their changes are not this client's business: in the place of what lies on the disk stands what the host had when they began,
    /// so that only what it has changed since is put right. Each file is put in its place by a rename.
    Others,
}

/// What of the root is source tree: the rest is not looked at.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) rules: Rules,
    pub(super) outputs: Vec<RelPath>,
    /// What of the root has a life of its own.
    pub(super) caches: Vec<RelPath>,
    pub(super) extent: Extent,
}

#[derive(Debug)]
enum State {
    Scanning(JoinHandle<Result<Tree, Failed>>),
    Known(Tree),
    /// A scan failed, and its failure was told.
    Lost,
}

/// A tree as it was found, and as far as its contents are known.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) manifest: Manifest,
    pub(super) digests: Vec<Option<Digest>>,
    /// Sockets, fifos, devices.
    pub(super) specials: Vec<(RelPath, Special)>,
    /// What the host has not and never had.
    pub(super) leftovers: HashSet<RelPath>,
    /// How many files were read for their digests.
    pub(super) hashed: u64,
    /// Places of files whose stamp was too fresh when they were read: their digests are not for the index.
    pub(super) fresh: Vec<usize>,
    /// Something is known that the index does not have.
    pub(super) unsaved: bool,
}

impl Workspace {
    /// Makes the root where it is missing, and begins to scan it where nobody else is at work there.
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
        // What an engine mounts there (`/etc/hosts`, a volume of the image's) is no part of the tree either.
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

    /// The tree, where the scan is over.
    pub(super) fn known_tree(&self) -> Option<&Tree> {
        match &self.tree {
            State::Known(tree) => Some(tree),
            State::Scanning(_) | State::Lost => None,
        }
    }

    /// Takes the tree out, to be put back changed.
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
        // A write that fails means that the client is gone, which the inbox tells.
        let _ = tree.send_nodes(&differing, outbox);
        Ok(())
    }

    /// Gives the root the mtime that it has on the host.
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

    /// Notes what the host has, now that the tree is that, for who comes while the command runs. Builds whose outputs are not named have
    /// no company.
    pub(super) fn note_host(&mut self) -> io::Result<()> {
        let (Some(path), Some(host), Scope::Below { .. }) = (host_of(&self.root), self.host, &self.scope)
        else {
            return Ok(());
        };
        // What others make is missing.
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

    /// Whether nobody else has put the tree right since this client did, nor was at work there.
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

    /// Writes down which paths are leftovers, when some of them have become the host's.
    pub(super) fn list_leftovers(&self) -> io::Result<()> {
        match self.known_tree() {
            Some(tree) if self.company == Company::Nobody => {
                leftovers::save(&self.root, &tree.manifest, |at| tree.is_leftover(at))
            }
            _ => Ok(()),
        }
    }

    /// Writes down which paths are leftovers, and the index, where there is anything new to write.
    pub(super) fn save(&mut self) {
        // Without them, more is made and read again, which is right as well.
        let _ = self.save_leftovers();
        if let (State::Known(tree), Some(index)) = (&mut self.tree, &self.index)
            && self.view.extent == Extent::Everything
            && self.company == Company::Nobody
        {
            tree.save(&self.root, index);
        }
    }

    /// Removes the tree, which nobody will see again. Engines take longer: an engine has the disk hold all that was written
    /// before it deletes it. What is mounted is not the container's own, and stays, with the tree that it lies in.
    pub(super) fn discard(&self) {
        let Ok(root) = fs::canonicalize(&self.root) else { return };
        let is_near =
            |place: &PathBuf| place.starts_with(&root) || place.parent().is_some() && root.starts_with(place);
        if self.view.extent == Extent::Everything && !mounts().iter().any(is_near) {
            // What is left goes with the container.
            let _ = fs::remove_dir_all(&root);
        }
    }
}

impl Tree {
    /// Of what the host had, without what lies at or below `outputs`.
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
                // A number that says which of them are one file, and nothing else.
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

    /// All of it that the host has or had, in order.
    pub(super) fn things(&self) -> impl Iterator<Item = Thing<'_>> {
        merged(&self.manifest, &self.specials)
            .filter(|thing| !matches!(thing, Thing::Entry(at, _) if self.is_leftover(*at)))
    }

    /// Which names of what the host has or had are one file.
    pub(super) fn groups(&self) -> Groups {
        Groups::among(&self.manifest, |at| !self.is_leftover(at))
    }

    /// The paths of those of them that lie at or below `path`, so that what lies in a directory comes before it.
    pub(super) fn paths_to_delete<'a>(&'a self, path: &'a RelPath) -> impl Iterator<Item = &'a RelPath> {
        let is_there = |other: &&RelPath| other.strip_prefix(path).is_some();
        let entries = self.manifest.entries();
        let from = self.manifest.position(path).unwrap_or(entries.len());
        let below = entries[from..].iter().take_while(move |entry| is_there(&&entry.path)).count();
        let specials = self.specials.iter().map(|(path, _)| path).filter(is_there);
        let entries = (from..from + below).rev().filter(|at| !self.is_leftover(*at));
        specials.chain(entries.map(|at| &self.manifest.entries()[at].path))
    }

    /// Whether the entry at a place is a leftover.
    pub(super) fn is_leftover(&self, at: usize) -> bool {
        !self.leftovers.is_empty() && self.leftovers.contains(&self.manifest.entries()[at].path)
    }

    /// The places of those files whose digests are not known.
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
            // A file that could not be read is as good as none: it will be replaced.
            if let Some(node) = thing.node(self, &groups) {
                writer.write(&node)?;
            }
        }
        finish_nodes(writer)
    }

    /// Writes an index of what is known, unless nothing is new.
    pub(super) fn save(&mut self, root: &Path, index: &Path) {
        if !std::mem::take(&mut self.unsaved) {
            return;
        }
        for at in self.fresh.drain(..) {
            if let Some(digest) = self.digests.get_mut(at) {
                *digest = None;
            }
        }
        // Without an index everything is read again, which is right as well.
        let _ = Index::save(index, &self.manifest, &self.digests, &HashedAt::now(root), &|_| Whose::Users);
    }

    /// Reads the files at `places`, and keeps their digests. Says which of them have changed since they were scanned.
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

/// An entry of a tree or something beside it.
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

    /// None for a file whose digest is not known.
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

/// Ends a list of nodes and the data that it is.
pub(super) fn finish_nodes(writer: NodeWriter<io::BufWriter<super::outbox::DataOut<'_>>>) -> io::Result<()> {
    let buffered = writer.finish()?;
    buffered.into_inner().map_err(io::IntoInnerError::into_error)?.finish()
}

/// What [`Workspace::note_host`] wrote.
pub(super) fn read_host(root: &Path) -> io::Result<Vec<Node>> {
    let path = host_of(root).ok_or(io::ErrorKind::NotFound)?;
    let mut file = io::BufReader::new(fs::File::open(path)?);
    file.read_exact(&mut [0; 32])?;
    NodeReader::new(file).collect::<Result<_, _>>().map_err(io::Error::other)
}

fn host_of(root: &Path) -> Option<PathBuf> {
    place_beside_agent("host", root)
}

/// The source root that a client means.
pub(super) fn root_of(open: &Open) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(&open.root))
}

// ---- scanning ------------------------------------------------------------------------------------------------------

/// Scans, and reads what has to be read of the source tree.
fn find(root: &Path, view: &View, index: Option<&Path>) -> Result<Tree, Failed> {
    let known = index.map(Index::load).unwrap_or_default();
    let mut tries = 1;
    loop {
        let mut tree = look(root, view)?;
        tree.leftovers = leftovers::find(root, &tree.manifest);
        tree.digests = known.digests(&tree.manifest);
        let unknown = tree.unknown();
        // What cannot be read is replaced, and if the trouble is the disk's, that will tell.
        let changed = tree.hash(root, &unknown).unwrap_or_default();
        if changed.is_empty() || tries == TRIES {
            return Ok(tree);
        }
        tries += 1;
    }
}

/// Scans the root as `view` has it; no digest is known yet.
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

/// Where something is mounted.
pub(super) fn mounts() -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mounts").unwrap_or_default();
    let place =
        |line: &[u8]| Some(PathBuf::from(OsString::from_vec(unescaped(line.split(|b| *b == b' ').nth(1)?))));
    table.split(|byte| *byte == b'\n').filter_map(place).collect()
}

/// Blanks stand as `\040` in the table of mounts.
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

/// Those of `caches` that lie below `root`, relative to it.
pub(super) fn caches_below(caches: &[PathBuf], root: &Path) -> Vec<RelPath> {
    let below =
        |cache: &PathBuf| cache.strip_prefix(root).ok().map(|below| below.as_os_str().as_bytes().to_vec());
    let below = caches.iter().filter_map(below).filter_map(|below| RelPath::new(below).ok());
    below.filter(|below| !below.is_root()).collect()
}

/// Without the directories that are there only because a cache lies below them: the engine made them, not the build.
fn without_bare_ways(manifest: Manifest, caches: &[RelPath]) -> Manifest {
    let mut entries = manifest.into_entries();
    let leads_to_cache = |path: &RelPath| caches.iter().any(|cache| lies_in(cache, path));
    // From the end, so that of a way of several directories the last one goes first.
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

    /// The same where patterns that are names in `tree` mean these alone; `only` are the patterns.
    pub(super) fn with_names(&self, only: &[String], tree: &Manifest) -> Result<Scope, Failed> {
        let Scope::Below { outputs, .. } = self else { return Ok(Scope::Everything) };
        let name = |pattern: &String| {
            name_in(pattern, tree).map_or_else(|| pattern.clone(), |path| ignore::literal(&path))
        };
        let selected = selected(&only.iter().map(name).collect::<Vec<_>>())?;
        Ok(Scope::Below { outputs: outputs.clone(), selected })
    }

    /// Of a query for the root: what of it is meant; all is where this is none.
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

/// What is called like a pattern.
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

// ---- the user ------------------------------------------------------------------------------------------------------

fn account_of(spec: &str) -> Result<Account, Failed> {
    let tables = |path: &str| fs::read(path).ok();
    user::account(spec, tables("/etc/passwd").as_deref(), tables("/etc/group").as_deref())
        .map_err(|why| Failed { why: Failure::User, detail: why.to_string() })
}

/// Whoever runs the agent, whether or not any table knows him.
fn own_account() -> Account {
    let ids =
        user::Ids { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    let home =
        std::env::var_os("HOME").map_or_else(|| b"/".to_vec(), std::os::unix::ffi::OsStringExt::into_vec);
    Account { ids, groups: vec![ids.gid], home }
}

// ---- the root ------------------------------------------------------------------------------------------------------

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

/// Makes a directory the user's own, where this process may.
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

/// The tree before the command, and in what the one after it differs, by place.
#[derive(Debug)]
pub(super) struct Over {
    pub(super) before: Tree,
    /// In the new tree, and where each was in the old one; leftovers are always among them.
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
