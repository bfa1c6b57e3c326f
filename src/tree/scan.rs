//! Scans a host directory into a manifest. Reads only metadata.
//!
//! Slow mounts answer each call in 0.2 to 2 ms, so the number of parallel calls decides the speed.
//! Threads take directories, and pieces of large directories, as jobs from one queue. There are as
//! many threads as processors, and up to sixteen where answers are measured to be slow. On a local
//! disk, more threads would only slow each other down.
//!
//! Links are never followed: a directory that is swapped for a link during the walk is not entered,
//! and loops of links are harmless. Other mounts below the root are crossed. Files that vanish
//! during the walk are left out. Rules are applied to names before any other call, so an ignored
//! tree costs nothing. [`super::ignore`] judges, [`crate::sys::metadata`] calls the system,
//! [`crate::archive`] packs the result.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    Entry, Manifest,
    ignore::{self, Enter, Rules, Verdict},
};
use crate::{
    entry::{Amount, Kind, RelPath, Special, Timestamp},
    sys::{
        clock,
        latency::{Pace, processors},
        metadata::{self, Directory, Hint, Metadata},
    },
};

/// Prefix of the names of staging directories. A killed run leaves one beside an output, inside the
/// source tree. It holds products and must not come back as sources: every walk skips these names,
/// whatever the rules say.
pub const STAGE_PREFIX: &str = ".fastbuild-stage-";

/// More would not be faster: sshfs and virtiofs handle about ten requests at once.
const MOST_THREADS: usize = 16;

/// Names per job: enough to make the cost of the queue small, and few enough that one directory of
/// a slow mount keeps all threads busy.
const PIECE: usize = 32;

/// The options of a walk.
#[derive(Clone, Copy)]
pub struct ScanOptions<'a> {
    /// The ignore rules.
    pub rules: &'a Rules,
    /// Paths left out with everything below them, whatever the rules say: the named outputs.
    pub leave_out: &'a [RelPath],
    /// Called with the count so far, from any thread but never from two at once. Counts only grow.
    pub progress: &'a (dyn Fn(Amount) + Sync),
}

/// The result of a walk.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// The tree.
    pub manifest: Manifest,
    /// Sockets, fifos and devices that the rules do not exclude, in order. They do not travel.
    pub skipped: Vec<(RelPath, Special)>,
    /// Number of entries that the rules exclude; a directory that was not entered counts once.
    pub ignored: u64,
    /// When the walk began, by this machine's clock: the argument for [`super::Stamp::is_racy`].
    pub looked_at: Timestamp,
    /// Number of directories read, including the root.
    pub directories_read: u64,
}

/// Why a walk failed.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The root cannot be opened.
    #[error("could not open the source directory {path:?}; name another one with -C")]
    Root {
        /// The root as it was given.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The root is not a directory.
    #[error("the source {path:?} is not a directory; name the directory that holds it with -C")]
    NotADirectory {
        /// The root as it was given.
        path: PathBuf,
    },
    /// A directory cannot be read.
    #[error(
        "could not read the directory {path} of the source tree; make it readable, or leave it out with --exclude"
    )]
    Unreadable {
        /// Its path below the root.
        path: RelPath,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The metadata of a path cannot be read.
    #[error(
        "could not look at {path} in the source tree; make its directory searchable, or leave it out with --exclude"
    )]
    Hidden {
        /// Its path below the root.
        path: RelPath,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Scans the tree below `root`. If `root` itself is a link, it is followed.
///
/// # Errors
/// The first [`ScanError`] of any thread.
pub fn scan(root: &Path, options: &ScanOptions<'_>) -> Result<Scan, ScanError> {
    let looked_at = clock::file_system_now();
    let handle = open_root(root)?;
    let walk = Walk::new(handle, options);
    let mut harvest = walk.run()?;
    let (order, left_empty) = Tree::of(&mut harvest).order();
    put_in_order(&mut harvest.entries, order);
    harvest.skipped.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(Scan {
        manifest: Manifest::from_sorted(harvest.entries),
        skipped: harvest.skipped,
        ignored: harvest.ignored + left_empty,
        looked_at,
        directories_read: harvest.directories_read,
    })
}

fn open_root(root: &Path) -> Result<Directory, ScanError> {
    Directory::open_root(root).map_err(|source| match source.kind() {
        io::ErrorKind::NotADirectory => ScanError::NotADirectory { path: root.to_owned() },
        _ => ScanError::Root { path: root.to_owned(), source },
    })
}

/// The top-level directory with the most bytes, and their number; `None` when none has any.
pub fn largest_directory(manifest: &Manifest) -> Option<(RelPath, u64)> {
    let mut largest: Option<(&[u8], u64)> = None;
    let mut current: (&[u8], u64) = (b"", 0);
    for entry in manifest.entries() {
        let Kind::File { size } = entry.kind else { continue };
        let mut components = entry.path.components();
        let (Some(top), Some(_)) = (components.next(), components.next()) else { continue };
        current = if current.0 == top { (top, current.1 + size) } else { (top, size) };
        if current.1 > largest.map_or(0, |(_, bytes)| bytes) {
            largest = Some(current);
        }
    }
    largest.and_then(|(top, bytes)| Some((RelPath::new(top).ok()?, bytes)))
}

// ---- the walk -----------------------------------------------------------------------------------

/// Directories are numbered as they are found; the root is the first.
type Node = usize;

/// Entries that one job found in one directory: a range of [`Harvest::entries`].
struct Listing {
    node: Node,
    found: Range<usize>,
}

/// A directory that has its own listings.
#[derive(Clone, Copy)]
struct Below {
    node: Node,
    part: Part,
}

/// When a directory is part of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Always,
    /// It is ignored and was entered because of exceptions.
    WhenNotEmpty,
}

/// The results of one thread. They are merged at the end, so that threads share only the queue.
#[derive(Default)]
struct Harvest {
    /// In the order of discovery. They are sorted in place, so that a large tree is not held twice.
    entries: Vec<Entry>,
    listings: Vec<Listing>,
    /// The directories among the entries, ascending.
    below: Vec<(usize, Below)>,
    skipped: Vec<(RelPath, Special)>,
    ignored: u64,
    directories_read: u64,
}

impl Harvest {
    /// Appends the shorter of the two to the longer one.
    fn merge(&mut self, mut other: Harvest) {
        if self.entries.len() < other.entries.len() {
            std::mem::swap(self, &mut other);
        }
        let shift = self.entries.len();
        self.entries.append(&mut other.entries);
        let shifted = |range: Range<usize>| range.start + shift..range.end + shift;
        let listings = other.listings.into_iter();
        self.listings.extend(listings.map(|it| Listing { node: it.node, found: shifted(it.found) }));
        self.below.extend(other.below.into_iter().map(|(at, below)| (at + shift, below)));
        self.skipped.append(&mut other.skipped);
        self.ignored += other.ignored;
        self.directories_read += other.directories_read;
    }
}

/// A directory to be read.
struct Visit {
    node: Node,
    path: RelPath,
    part: Part,
    rules: ignore::Directory,
}

/// A directory that is being read.
struct Opened {
    visit: Visit,
    handle: Directory,
    names: Names,
}

/// A directory's names, concatenated.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    /// The end of each name.
    ends: Vec<(usize, Hint)>,
}

impl Names {
    fn push(&mut self, name: &[u8], hint: Hint) {
        self.bytes.extend_from_slice(name);
        self.ends.push((self.bytes.len(), hint));
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, at: usize) -> Name<'_> {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before].0);
        let (end, hint) = self.ends[at];
        Name { bytes: &self.bytes[start..end], hint }
    }
}

#[derive(Clone, Copy)]
struct Name<'a> {
    bytes: &'a [u8],
    hint: Hint,
}

enum Job {
    Read(Visit),
    /// Look at a range of the directory's names.
    Look(Arc<Opened>, Range<usize>),
}

#[derive(Default)]
struct Queue {
    visits: Vec<Visit>,
    /// Taken before visits, because they hold a directory open.
    pieces: Vec<(Arc<Opened>, Range<usize>)>,
    /// Jobs in the queue or in progress. At zero the walk is complete.
    unfinished: usize,
    threads: usize,
    idle: usize,
    /// The walk must end early.
    stopped: bool,
    failed: Option<ScanError>,
    harvest: Harvest,
}

impl Queue {
    fn take(&mut self) -> Option<Job> {
        let piece = self.pieces.pop().map(|(opened, names)| Job::Look(opened, names));
        // The latest first: the walk is depth first, so the queue stays short.
        piece.or_else(|| self.visits.pop().map(Job::Read))
    }

    fn put(&mut self, job: Job) {
        self.unfinished += 1;
        match job {
            Job::Read(visit) => self.visits.push(visit),
            Job::Look(opened, names) => self.pieces.push((opened, names)),
        }
    }

    fn waiting(&self) -> usize {
        self.visits.len() + self.pieces.len()
    }
}

struct Walk<'a> {
    root: Directory,
    options: &'a ScanOptions<'a>,
    queue: Mutex<Queue>,
    changed: Condvar,
    nodes: AtomicUsize,
    files: AtomicU64,
    bytes: AtomicU64,
    telling: Mutex<()>,
    processors: usize,
}

/// The data of one thread: its results, and the timing of its calls.
#[derive(Default)]
struct Worker {
    harvest: Harvest,
    pace: Pace,
}

impl<'a> Walk<'a> {
    fn new(root: Directory, options: &'a ScanOptions<'a>) -> Walk<'a> {
        let top = Visit { node: 0, path: RelPath::root(), part: Part::Always, rules: options.rules.top() };
        let mut queue = Queue { threads: 1, ..Queue::default() };
        if !options.leave_out.iter().any(RelPath::is_root) {
            queue.put(Job::Read(top));
        }
        Walk {
            root,
            options,
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            nodes: AtomicUsize::new(1),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            telling: Mutex::new(()),
            processors: processors(),
        }
    }

    fn run(&self) -> Result<Harvest, ScanError> {
        thread::scope(|scope| self.work(scope));
        let mut queue = self.lock();
        match queue.failed.take() {
            Some(err) => Err(err),
            None => {
                self.tell();
                Ok(std::mem::take(&mut queue.harvest))
            }
        }
    }

    /// Runs one thread: takes jobs until none are left and none can be added.
    fn work<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>) {
        let _guard = StopOnPanic(self);
        let mut worker = Worker::default();
        while let Some(job) = self.next_job() {
            match self.carry_out(job, &mut worker) {
                Ok(jobs) => self.hand_in(scope, jobs, &worker.pace),
                Err(err) => self.fail(err),
            }
            self.tell();
        }
        self.lock().harvest.merge(worker.harvest);
    }

    fn next_job(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.stopped || queue.unfinished == 0 {
                return None;
            }
            if let Some(job) = queue.take() {
                return Some(job);
            }
            queue.idle += 1;
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }

    fn hand_in<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>, jobs: Vec<Job>, pace: &Pace) {
        let mut queue = self.lock();
        queue.unfinished -= 1;
        jobs.into_iter().for_each(|job| queue.put(job));
        match (queue.unfinished, queue.waiting()) {
            (0, _) => self.changed.notify_all(),
            // This thread takes one itself.
            (_, waiting) => (1..waiting.min(queue.idle + 1)).for_each(|_| self.changed.notify_one()),
        }
        let more = self.more_threads(&queue, pace);
        queue.threads += more;
        drop(queue);
        for _ in 0..more {
            // If no thread can be started, the others do the work.
            let _ = thread::Builder::new().spawn_scoped(scope, move || self.work(scope));
        }
    }

    /// One more thread for each job that no thread is about to take.
    fn more_threads(&self, queue: &Queue, pace: &Pace) -> usize {
        let most = if pace.is_slow() { MOST_THREADS } else { self.processors.min(MOST_THREADS) };
        let untaken = queue.waiting().saturating_sub(queue.idle + 1);
        untaken.min(most.saturating_sub(queue.threads))
    }

    fn fail(&self, err: ScanError) {
        self.lock().failed.get_or_insert(err);
        self.stop();
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports the progress, unless another thread is doing so.
    fn tell(&self) {
        if let Ok(_alone) = self.telling.try_lock() {
            (self.options.progress)(Amount {
                files: self.files.load(Ordering::Relaxed),
                bytes: self.bytes.load(Ordering::Relaxed),
            });
        }
    }

    fn carry_out(&self, job: Job, worker: &mut Worker) -> Result<Vec<Job>, ScanError> {
        match job {
            Job::Read(visit) => self.read(visit, worker),
            Job::Look(opened, which) => self.look(&opened, which, worker),
        }
    }

    /// Reads a directory's names, and looks at them or returns them as jobs.
    fn read(&self, visit: Visit, worker: &mut Worker) -> Result<Vec<Job>, ScanError> {
        worker.pace.begin();
        let handle = match self.root.open_below(&visit.path) {
            Ok(handle) => handle,
            Err(source) => return passed_over(&visit, &source).ok_or_else(|| unreadable(visit, source)),
        };
        worker.pace.answered(1);
        let names = match self.names(&visit.path, &handle) {
            Ok(names) => names,
            Err(source) => return passed_over(&visit, &source).ok_or_else(|| unreadable(visit, source)),
        };
        worker.pace.answered(1);
        worker.pace.end();
        worker.harvest.directories_read += 1;
        let all = 0..names.len();
        let opened = Opened { visit, handle, names };
        match all.len() {
            // Returned as jobs first: where answers are slow, the other threads start at once.
            PIECE.. => Ok(pieces(opened)),
            _ => self.look(&opened, all, worker),
        }
    }

    fn names(&self, here: &RelPath, handle: &Directory) -> io::Result<Names> {
        let leave_out: Vec<&[u8]> = self
            .options
            .leave_out
            .iter()
            .filter(|path| path.parent().as_ref() == Some(here))
            .filter_map(RelPath::file_name)
            .collect();
        let mut names = Names::default();
        handle.names(|bytes, hint| {
            if !bytes.starts_with(STAGE_PREFIX.as_bytes()) && !leave_out.contains(&bytes) {
                names.push(bytes, hint);
            }
        })?;
        Ok(names)
    }

    fn look(&self, opened: &Opened, which: Range<usize>, worker: &mut Worker) -> Result<Vec<Job>, ScanError> {
        let mut jobs = Vec::new();
        let first = worker.harvest.entries.len();
        worker.pace.begin();
        for at in which {
            self.look_at(opened, opened.names.get(at), worker, &mut jobs)?;
        }
        worker.pace.end();
        let found = &worker.harvest.entries[first..];
        let bytes =
            found.iter().map(|entry| if let Kind::File { size } = entry.kind { size } else { 0 }).sum();
        self.files.fetch_add(found.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let found = first..worker.harvest.entries.len();
        worker.harvest.listings.push(Listing { node: opened.visit.node, found });
        Ok(jobs)
    }

    /// Looks at one name, and adds it if it is part of the tree.
    fn look_at(
        &self,
        opened: &Opened,
        name: Name<'_>,
        worker: &mut Worker,
        jobs: &mut Vec<Job>,
    ) -> Result<(), ScanError> {
        let Worker { harvest, pace } = worker;
        let judgement = self.judge(&opened.visit.rules, name);
        if matches!(judgement, Judgement::Ignored) {
            harvest.ignored += 1;
            return Ok(());
        }
        let path = child(&opened.visit.path, name.bytes)?;
        let metadata = match opened.handle.look_at(name.bytes) {
            Ok(metadata) => metadata,
            Err(source) if metadata::is_gone(&source) => return Ok(()),
            Err(source) => return Err(ScanError::Hidden { path, source }),
        };
        pace.answered(1);
        match metadata {
            Metadata::Special(special) if judgement.keeps_a_file() => harvest.skipped.push((path, special)),
            Metadata::Entry { kind: Kind::Directory, mode, stamp, links } => {
                let enter = match judgement {
                    Judgement::Directory(enter) => enter,
                    // It became a directory since its name was read.
                    _ => self.options.rules.enter(&opened.visit.rules, name.bytes),
                };
                match self.found_directory(&path, enter, jobs) {
                    Some(below) => {
                        harvest.below.push((harvest.entries.len(), below));
                        let entry =
                            Entry { path, kind: Kind::Directory, mode, mtime: stamp.mtime, stamp, links };
                        harvest.entries.push(entry);
                    }
                    None => harvest.ignored += 1,
                }
            }
            Metadata::Entry { kind, mode, stamp, links } if judgement.keeps_a_file() => {
                harvest.entries.push(Entry { path, kind, mode, mtime: stamp.mtime, stamp, links });
            }
            Metadata::Special(_) | Metadata::Entry { .. } => harvest.ignored += 1,
        }
        Ok(())
    }

    /// Adds a job to read a directory; `None` when it must not be entered.
    fn found_directory(&self, path: &RelPath, enter: Enter, jobs: &mut Vec<Job>) -> Option<Below> {
        let (rules, part) = match enter {
            Enter::Kept(rules) => (rules, Part::Always),
            Enter::ForExceptions(rules) => (rules, Part::WhenNotEmpty),
            Enter::No => return None,
        };
        let node = self.nodes.fetch_add(1, Ordering::Relaxed);
        jobs.push(Job::Read(Visit { node, path: path.clone(), part, rules }));
        Some(Below { node, part })
    }

    /// The judgement of a name before its metadata is read.
    fn judge(&self, rules: &ignore::Directory, name: Name<'_>) -> Judgement {
        if name.hint == Hint::Other {
            return match self.options.rules.verdict(rules, name.bytes) {
                Verdict::Kept => Judgement::Kept,
                Verdict::Ignored => Judgement::Ignored,
            };
        }
        match self.options.rules.enter(rules, name.bytes) {
            Enter::No => Judgement::Ignored,
            enter => Judgement::Directory(enter),
        }
    }
}

fn pieces(opened: Opened) -> Vec<Job> {
    let opened = Arc::new(opened);
    let all = opened.names.len();
    let piece = |start| Job::Look(Arc::clone(&opened), start..all.min(start + PIECE));
    (0..all).step_by(PIECE).map(piece).collect()
}

/// The judgement of the rules on a name.
enum Judgement {
    /// It is part of the tree, and not a directory.
    Kept,
    /// It is not part of the tree, whatever its kind.
    Ignored,
    /// It is, or may be, a directory. The verdict also applies to a file of that name.
    Directory(Enter),
}

impl Judgement {
    fn keeps_a_file(&self) -> bool {
        matches!(self, Judgement::Kept | Judgement::Directory(Enter::Kept(_)))
    }
}

/// Stops the walk on a panic; other threads would wait for ever for the lost job.
struct StopOnPanic<'a, 'b>(&'a Walk<'b>);

impl Drop for StopOnPanic<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

/// A vanished directory is not part of the tree, and an ignored one need not be readable.
fn passed_over(visit: &Visit, err: &io::Error) -> Option<Vec<Job>> {
    let is_root = visit.path.is_root();
    let unreadable = visit.part == Part::WhenNotEmpty && err.kind() == io::ErrorKind::PermissionDenied;
    ((metadata::is_gone(err) && !is_root) || unreadable).then(Vec::new)
}

fn unreadable(visit: Visit, source: io::Error) -> ScanError {
    ScanError::Unreadable { path: visit.path, source }
}

fn child(parent: &RelPath, name: &[u8]) -> Result<RelPath, ScanError> {
    // A network file system can send any bytes as a name.
    let bad = |why| ScanError::Unreadable { path: parent.clone(), source: io::Error::other(why) };
    if name.contains(&b'/') {
        return Err(bad(crate::entry::path::BadPath::EmptyComponent));
    }
    parent.join(name).map_err(bad)
}

/// The results, as a tree.
struct Tree<'a> {
    entries: &'a [Entry],
    /// Ascending by directory.
    listings: &'a [Listing],
    below: &'a [(usize, Below)],
}

/// A directory whose entries are being sorted.
struct Frame {
    /// The remaining entries, in reverse order.
    rest: Vec<usize>,
    /// If the result has this length after its last entry, the directory is empty and is removed.
    drop_at: Option<usize>,
}

impl<'a> Tree<'a> {
    fn of(harvest: &'a mut Harvest) -> Tree<'a> {
        harvest.listings.sort_unstable_by_key(|listing| listing.node);
        Tree { entries: &harvest.entries, listings: &harvest.listings, below: &harvest.below }
    }

    /// The indices of the entries in the order of a manifest: each directory before its content,
    /// siblings by name. Entries that turn out not to be part of the tree are left out. Also
    /// returns how many directories were entered for exceptions and stayed empty.
    fn order(&self) -> (Vec<usize>, u64) {
        let mut order = Vec::with_capacity(self.entries.len());
        let mut left_empty = 0;
        let top = self.children(0).unwrap_or_default();
        let mut frames = vec![Frame { rest: top, drop_at: None }];
        while let Some(frame) = frames.last_mut() {
            let Some(at) = frame.rest.pop() else {
                if frame.drop_at == Some(order.len()) {
                    order.pop();
                    left_empty += 1;
                }
                frames.pop();
                continue;
            };
            let Some(below) = self.below(at) else {
                order.push(at);
                continue;
            };
            let Some(rest) = self.children(below.node) else {
                // Removed before it was read, or ignored and not readable.
                left_empty += u64::from(below.part == Part::WhenNotEmpty);
                continue;
            };
            order.push(at);
            let drop_at = (below.part == Part::WhenNotEmpty).then_some(order.len());
            frames.push(Frame { rest, drop_at });
        }
        (order, left_empty)
    }

    fn below(&self, at: usize) -> Option<Below> {
        if self.entries[at].kind != Kind::Directory {
            return None;
        }
        let place = self.below.binary_search_by_key(&at, |(at, _)| *at).ok()?;
        Some(self.below[place].1)
    }

    /// The entries of a directory in reverse order; `None` when it was not read.
    fn children(&self, node: Node) -> Option<Vec<usize>> {
        let start = self.listings.partition_point(|listing| listing.node < node);
        let of_node: &[Listing] = &self.listings[start..];
        let of_node = &of_node[..of_node.partition_point(|listing| listing.node == node)];
        let mut children: Vec<usize> = of_node.iter().flat_map(|listing| listing.found.clone()).collect();
        let path = |at: usize| self.entries[at].path.as_bytes();
        let slash = children.first().and_then(|&first| path(first).iter().rposition(|&b| b == b'/'));
        let name = |at: usize| &path(at)[slash.map_or(0, |slash| slash + 1)..];
        children.sort_unstable_by(|&a, &b| name(b).cmp(name(a)));
        (!of_node.is_empty()).then_some(children)
    }
}

/// Sorts entries in place into this order, and drops those that are not in it.
fn put_in_order(entries: &mut Vec<Entry>, mut order: Vec<usize>) {
    let kept = order.len();
    if kept < entries.len() {
        let mut is_named = vec![false; entries.len()];
        order.iter().for_each(|&at| is_named[at] = true);
        order.extend((0..entries.len()).filter(|&at| !is_named[at]));
    }
    // Follows each cycle of the permutation once.
    const DONE: usize = usize::MAX;
    for start in 0..order.len() {
        let mut at = start;
        while order[at] != DONE {
            let next = std::mem::replace(&mut order[at], DONE);
            if next == start {
                break;
            }
            entries.swap(at, next);
            at = next;
        }
    }
    entries.truncate(kept);
    entries.shrink_to_fit();
}

// Two attributes, because clippy recognizes a test module only by a plain `cfg(test)`.
#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::{
        collections::BTreeSet,
        ffi::OsStr,
        fs,
        os::unix::{ffi::OsStrExt, fs as unix, fs::PermissionsExt},
        sync::atomic::AtomicBool,
    };

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::{
        super::ignore::reference::{Reference, pattern},
        *,
    };

    /// A tree from lines: `dir/`, `file=content`, `link -> target`. Parents are created as needed.
    fn tree(lines: &[&str]) -> TempDir {
        let root = TempDir::new().unwrap();
        for line in lines {
            let at = |name: &str| {
                let path = root.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                path
            };
            if let Some((name, target)) = line.split_once(" -> ") {
                unix::symlink(target, at(name)).unwrap();
            } else if let Some((name, content)) = line.split_once('=') {
                fs::write(at(name), content).unwrap();
            } else {
                fs::create_dir_all(at(line)).unwrap();
            }
        }
        root
    }

    fn path(bytes: impl AsRef<[u8]>) -> RelPath {
        RelPath::new(bytes.as_ref()).unwrap()
    }

    fn scan_with(root: &TempDir, patterns: &[&str], leave_out: &[&str]) -> Scan {
        let rules = Rules::new(patterns).unwrap();
        let leave_out: Vec<_> = leave_out.iter().map(path).collect();
        scan(root.path(), &ScanOptions { rules: &rules, leave_out: &leave_out, progress: &|_| {} }).unwrap()
    }

    fn names(scan: &Scan) -> Vec<String> {
        scan.manifest.entries().iter().map(|entry| entry.path.to_string()).collect()
    }

    #[test]
    fn a_tree_is_read_as_it_is_and_in_order() {
        let root = tree(&["a/x=12345", "a/empty/", "a-b=", "z -> a/x", "b/c/d=1"]);
        fs::set_permissions(root.path().join("a/x"), fs::Permissions::from_mode(0o4751)).unwrap();
        let mtime = std::time::UNIX_EPOCH - std::time::Duration::new(5, 250_000_000);
        fs::File::open(root.path().join("a/x")).unwrap().set_modified(mtime).unwrap();
        let scan = scan_with(&root, &[], &[]);

        assert_eq!(names(&scan), ["a", "a/empty", "a/x", "a-b", "b", "b/c", "b/c/d", "z"]);
        let file = scan.manifest.get(&path("a/x")).unwrap();
        assert_eq!((&file.kind, file.mode, file.links), (&Kind::File { size: 5 }, 0o4751, 1));
        assert_eq!(file.mtime, Timestamp { secs: -6, nanos: 750_000_000 });
        assert_eq!(file.stamp.mtime, file.mtime);
        assert_eq!(file.stamp.size, 5);
        assert!(file.stamp.ctime >= Timestamp { secs: scan.looked_at.secs - 60, nanos: 0 });
        let link = scan.manifest.get(&path("z")).unwrap();
        assert_eq!(link.kind, Kind::Symlink { target: b"a/x".as_slice().into() });
        assert_eq!(scan.directories_read, 5);
        assert_eq!(scan.ignored, 0);
    }

    #[test]
    fn names_may_be_any_bytes() {
        let long = "n".repeat(255).into_bytes();
        let all: [&[u8]; 7] = [b"new\nline", b"tab\t", b"\xff\xfe", b"-rf", b" ", b"\\", &long];
        let root = TempDir::new().unwrap();
        for name in all {
            let dir = root.path().join(OsStr::from_bytes(name));
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join(OsStr::from_bytes(name)), "").unwrap();
        }
        let found: BTreeSet<_> =
            scan_with(&root, &[], &[]).manifest.entries().iter().map(|e| e.path.clone()).collect();
        let wanted =
            all.iter().flat_map(|name| [path(name), path([name, &b"/"[..], name].concat())]).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn links_are_not_followed_even_in_loops_and_out_of_the_tree() {
        let root = tree(&["a/self -> .", "a/up -> ../..", "a/b -> ../a", "out -> /etc", "gone -> nowhere"]);
        let scan = scan_with(&root, &[], &[]);
        assert_eq!(names(&scan), ["a", "a/b", "a/self", "a/up", "gone", "out"]);
        assert_eq!(scan.directories_read, 2);
    }

    #[test]
    fn a_root_that_is_a_link_is_the_directory_it_names() {
        let root = tree(&["real/file=", "link -> real"]);
        let rules = Rules::none();
        let options = ScanOptions { rules: &rules, leave_out: &[], progress: &|_| {} };
        assert_eq!(names(&scan(&root.path().join("link"), &options).unwrap()), ["file"]);
    }

    #[test]
    fn a_root_that_is_missing_or_no_directory_is_told_apart() {
        let root = tree(&["file="]);
        let rules = Rules::none();
        let options = ScanOptions { rules: &rules, leave_out: &[], progress: &|_| {} };
        assert!(matches!(scan(&root.path().join("file"), &options), Err(ScanError::NotADirectory { .. })));
        assert!(matches!(scan(&root.path().join("none"), &options), Err(ScanError::Root { .. })));
    }

    #[test]
    fn an_ignored_directory_is_not_read() {
        let root = tree(&["node_modules/a/b/c=", "node_modules/d/e=", "src/main=", "src/node_modules/f="]);
        let scan = scan_with(&root, &["**/node_modules"], &[]);
        assert_eq!(names(&scan), ["src", "src/main"]);
        assert_eq!((scan.directories_read, scan.ignored), (2, 2));
    }

    #[test]
    fn only_directories_that_may_hold_an_exception_are_read() {
        let root = tree(&["docs/en/README=", "docs/en/a/b=", "docs/de/x=", "docs/README=", "src/a="]);
        let scan = scan_with(&root, &["*", "!docs/*/README"], &[]);
        assert_eq!(names(&scan), ["docs", "docs/en", "docs/en/README"]);
        // The root, docs, docs/en, docs/de; neither src nor docs/en/a.
        assert_eq!(scan.directories_read, 4);
        // src, docs/README, docs/en/a, docs/de/x, and docs/de, which stayed empty.
        assert_eq!(scan.ignored, 5);
    }

    #[test]
    fn a_directory_that_an_exception_names_stays_though_it_is_empty() {
        let root = tree(&["a/keep/", "a/other/", "b/c/d/"]);
        let scan = scan_with(&root, &["*", "!**/keep"], &[]);
        assert_eq!(names(&scan), ["a", "a/keep"]);
    }

    #[test]
    fn named_outputs_and_leftover_stages_are_left_out_whatever_the_rules_say() {
        let root = tree(&[
            "_site/index=",
            "sub/_site/index=",
            "sub/out/x=",
            ".fastbuild-stage-17/a=",
            "sub/.fastbuild-stage-18=",
            "_sites=",
        ]);
        let scan = scan_with(&root, &["!**"], &["_site", "sub/out", "not/there"]);
        assert_eq!(names(&scan), ["_sites", "sub", "sub/_site", "sub/_site/index"]);
        assert_eq!((scan.directories_read, scan.ignored), (3, 0));
        assert!(scan_with(&root, &[], &[""]).manifest.entries().is_empty());
    }

    #[test]
    fn what_cannot_travel_is_named_unless_a_rule_leaves_it_out() {
        let root = tree(&["a/file=", "tmp/"]);
        let _socket = std::os::unix::net::UnixListener::bind(root.path().join("a/socket")).unwrap();
        let _ignored = std::os::unix::net::UnixListener::bind(root.path().join("tmp/socket")).unwrap();
        let fifo = root.path().join("a/fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let scan = scan_with(&root, &["tmp/*"], &[]);
        assert_eq!(names(&scan), ["a", "a/file", "tmp"]);
        assert_eq!(scan.skipped, [(path("a/fifo"), Special::Fifo), (path("a/socket"), Special::Socket)]);
    }

    #[test]
    fn hard_links_show_their_count_and_share_an_inode() {
        let root = tree(&["a/one=same", "b/"]);
        fs::hard_link(root.path().join("a/one"), root.path().join("b/two")).unwrap();
        let scan = scan_with(&root, &[], &[]);
        let [one, two] = ["a/one", "b/two"].map(|at| scan.manifest.get(&path(at)).unwrap().clone());
        assert_eq!((one.links, two.links), (2, 2));
        assert_eq!(one.stamp, two.stamp);
        assert_eq!(scan.manifest.get(&path("a")).unwrap().links, 1);
    }

    #[test]
    fn a_directory_read_in_many_pieces_is_whole() {
        let root = TempDir::new().unwrap();
        let dir = root.path().join("many");
        fs::create_dir(&dir).unwrap();
        for number in 0..1000 {
            fs::write(dir.join(format!("{number:04}")), "x").unwrap();
        }
        let scan = scan_with(&root, &["many/00*"], &[]);
        let wanted: Vec<_> = (100..1000).map(|number| format!("many/{number:04}")).collect();
        assert_eq!(names(&scan)[1..], wanted);
        assert_eq!((scan.ignored, scan.manifest.bytes()), (100, 900));
    }

    #[test]
    fn paths_longer_than_one_system_call_takes_are_reached() {
        let root = TempDir::new().unwrap();
        let name = "d".repeat(250);
        let mut handle =
            rustix::fs::open(root.path(), rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
        for _ in 0..20 {
            rustix::fs::mkdirat(&handle, &name, rustix::fs::Mode::from_raw_mode(0o700)).unwrap();
            handle =
                rustix::fs::openat(&handle, &name, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty())
                    .unwrap();
        }
        let scan = scan_with(&root, &[], &[]);
        let deepest = &scan.manifest.entries().last().unwrap().path;
        assert_eq!((scan.manifest.entries().len(), deepest.as_bytes().len()), (20, 20 * 251 - 1));
    }

    #[test]
    fn a_tree_that_changes_during_the_walk_does_not_end_it() {
        let root = tree(&["stays/file=", "link -> stays"]);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let [dir, aside] = ["swapped", "aside"].map(|name| root.path().join(name));
                while !over.load(Ordering::Relaxed) {
                    fs::create_dir(&dir).unwrap();
                    fs::write(dir.join("inside"), "").unwrap();
                    fs::rename(&dir, &aside).unwrap();
                    unix::symlink("stays", &dir).unwrap();
                    fs::remove_file(&dir).unwrap();
                    fs::remove_dir_all(&aside).unwrap();
                }
            });
            for _ in 0..200 {
                let found = names(&scan_with(&root, &[], &[]));
                // Following the link would give `swapped/file`.
                assert!(
                    found.contains(&"stays/file".to_owned()) && !found.contains(&"swapped/file".to_owned())
                );
            }
            over.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn progress_only_grows_and_ends_with_everything() {
        let root = tree(&["a/1=1", "a/2=22", "b/c/3=333", "link -> a"]);
        let told = Mutex::new(Vec::new());
        let tell = |amount: Amount| told.lock().unwrap().push((amount.files, amount.bytes));
        let rules = Rules::none();
        scan(root.path(), &ScanOptions { rules: &rules, leave_out: &[], progress: &tell }).unwrap();
        let told = told.into_inner().unwrap();
        assert!(told.is_sorted());
        assert_eq!(told.last(), Some(&(7, 6)));
    }

    #[test]
    fn the_largest_directory_is_at_the_top() {
        let root = tree(&["a/1=123", "a-b/x/y=12", "a-b/z=12", "big=1234567890", "c/"]);
        assert_eq!(largest_directory(&scan_with(&root, &[], &[]).manifest), Some((path("a-b"), 4)));
        assert_eq!(largest_directory(&scan_with(&root, &["*/"], &[]).manifest), None);
    }

    /// Lists everything below `dir` with the standard library only.
    fn enumerate(root: &Path, below: &str, into: &mut Vec<(String, bool)>) {
        for entry in fs::read_dir(root.join(below)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            let is_dir = entry.file_type().unwrap().is_dir();
            into.push((path.clone(), is_dir));
            if is_dir {
                enumerate(root, &path, into);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn a_walk_finds_what_a_filter_over_everything_would_keep(
            files in prop::collection::btree_map(
                prop::collection::vec("[abc]{1,2}", 1..5),
                any::<bool>(),
                0..12,
            ),
            patterns in prop::collection::vec(pattern(), 0..5),
        ) {
            let root = TempDir::new().unwrap();
            for (components, is_dir) in files {
                let at = root.path().join(components.join("/"));
                // Paths blocked by an existing file are left out.
                let made = fs::create_dir_all(at.parent().unwrap());
                match is_dir {
                    _ if made.is_err() || at.exists() => {}
                    true => fs::create_dir(at).unwrap(),
                    false => fs::write(at, "").unwrap(),
                }
            }
            let mut all = Vec::new();
            enumerate(root.path(), "", &mut all);
            let reference = Reference::new(&patterns);
            let mut wanted = BTreeSet::new();
            for (path, _) in all.iter().filter(|(path, _)| !reference.ignores(path.as_bytes())) {
                let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
                wanted.extend(ends.map(|end| path[..end].to_owned()));
            }
            let patterns: Vec<_> = patterns.iter().map(String::as_str).collect();
            let scan = scan_with(&root, &patterns, &[]);
            prop_assert!(scan.manifest.entries().is_sorted_by(|a, b| a.path < b.path));
            prop_assert_eq!(names(&scan).into_iter().collect::<BTreeSet<_>>(), wanted);
            for (path, is_dir) in &all {
                if let Some(entry) = scan.manifest.get(&self::path(path)) {
                    prop_assert_eq!(entry.kind == Kind::Directory, *is_dir);
                }
            }
        }
    }
}
