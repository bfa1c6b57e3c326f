//! A host directory -> a manifest, with nothing but metadata read.
//!
//! The mounts that fastbuild is for answer each question in 0.2 to 2 ms, so what counts is how many questions are under
//! way at once: directories, and pieces of large directories, are jobs that threads take from one queue. There are as
//! many threads as processors, and up to [`MOST_THREADS`] where answers are seen to be slow. On a local disk those
//! would only get in each other's way.
//!
//! Links are never followed: a directory that is swapped for a link during the walk is not entered, and loops of links
//! are harmless. Other mounts below the root are crossed. What vanishes during the walk was not there. Names are
//! ignored before they are looked at, so an ignored tree costs nothing. Neighbours: [`super::ignore`] judges,
//! [`crate::sys::metadata`] asks the system, [`crate::archive`] packs the result.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Entry, Kind, Manifest, RelPath, Timestamp,
    ignore::{self, Enter, Rules, Verdict},
};
use crate::{
    report::events::{Amount, Special},
    sys::metadata::{self, Directory, Hint, Metadata},
};

/// How the names of staging directories begin. A killed run leaves one beside an output, inside the source tree. It
/// holds products, not sources, and must not come back as one; so no walk sees these names, ignore rules or not.
pub const STAGE_PREFIX: &str = ".fastbuild-stage-";

/// More would not be served faster: sshfs and virtiofs have some ten requests under way at once.
const MOST_THREADS: usize = 16;

/// An answer that takes longer was waited for, not computed: a local one takes 1 to 5 µs, one through FUSE 50 and more.
const SLOW_ANSWER: Duration = Duration::from_micros(50);

/// Names that one job looks at: enough that the queue costs nothing, few enough that one directory of a slow mount
/// keeps all threads busy.
const PIECE: usize = 64;

/// What a walk is told.
#[derive(Clone, Copy)]
pub struct ScanOptions<'a> {
    /// What is left out.
    pub rules: &'a Rules,
    /// Paths that are left out with all below them, whatever the rules say: the named outputs.
    pub leave_out: &'a [RelPath],
    /// Called with the count so far, from any thread but never from two at once. The counts only grow.
    pub progress: &'a (dyn Fn(Amount) + Sync),
}

/// What a walk found.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The tree.
    pub manifest: Manifest,
    /// Sockets, fifos and devices that no rule leaves out, in order. They do not travel.
    pub skipped: Vec<(RelPath, Special)>,
    /// Entries that the rules leave out; a directory that was not entered counts once.
    pub ignored: u64,
    /// When the walk began, by this machine's clock: what [`super::Stamp::is_racy`] is to be asked with.
    pub looked_at: Timestamp,
    /// How many directories were read, the root among them.
    pub directories_read: u64,
}

/// Why a walk ended without a tree.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The root cannot be opened.
    #[error("could not open the source directory {path:?}; name another one with -C")]
    Root {
        /// The root as it was given.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The root is no directory.
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
        /// Below the root.
        path: RelPath,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The metadata of a path cannot be read.
    #[error(
        "could not look at {path} in the source tree; make its directory searchable, or leave it out with --exclude"
    )]
    Hidden {
        /// Below the root.
        path: RelPath,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Reads the tree below `root`. A link that names the root itself is followed.
///
/// # Errors
/// The first of [`ScanError`] that any thread met.
pub fn scan(root: &Path, options: &ScanOptions<'_>) -> Result<Scan, ScanError> {
    let looked_at = metadata::now();
    let handle = open_root(root)?;
    let walk = Walk::new(handle, options);
    let harvest = walk.run()?;
    let (entries, left_empty) = assemble(harvest.listings, walk.nodes.load(Ordering::Relaxed));
    let mut skipped = harvest.skipped;
    skipped.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(Scan {
        manifest: Manifest::from_entries(entries),
        skipped,
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

/// What lies at `path` below `root` now, itself and not what a link points to; `None` when nothing does, when
/// something on the way is no directory, or when `root` is missing. The root's own entry has the root's path.
///
/// # Errors
/// The system's; and [`io::ErrorKind::Unsupported`] for a socket, fifo or device, which is no entry and yet is there.
pub fn stat(root: &Path, path: &RelPath) -> io::Result<Option<Entry>> {
    match Directory::open_root(root) {
        Ok(handle) => stat_in(&handle, path),
        Err(err) if metadata::is_gone(&err) => Ok(None),
        Err(err) => Err(err),
    }
}

/// As [`stat`], below a root that is open.
///
/// # Errors
/// As [`stat`].
pub fn stat_in(root: &Directory, path: &RelPath) -> io::Result<Option<Entry>> {
    let found = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !parent.is_root() => {
            root.open_below(&parent).and_then(|d| d.look_at(name))
        }
        (_, Some(name)) => root.look_at(name),
        _ => root.look_at_itself(),
    };
    match found {
        Ok(Metadata::Entry { kind, mode, stamp, links }) => {
            Ok(Some(Entry { path: path.clone(), kind, mode, mtime: stamp.mtime, stamp, links }))
        }
        Ok(Metadata::Special(special)) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{path} is a {special:?}, which is no file"),
        )),
        Err(err) if metadata::is_gone(&err) => Ok(None),
        Err(err) => Err(err),
    }
}

/// The directory at the top of the tree that holds most bytes, and how many; `None` when none holds any.
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

// ---- the walk ------------------------------------------------------------------------------------------------------

/// Directories are numbered as they are found; the root is the first.
type Node = usize;

/// What one job found in one directory.
struct Listing {
    node: Node,
    found: Vec<Found>,
}

struct Found {
    entry: Entry,
    below: Option<Below>,
}

/// What a directory's own listing is for.
#[derive(Clone, Copy)]
struct Below {
    node: Node,
    part: Part,
}

/// When a directory is part of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Always,
    /// It is ignored and was entered for exceptions.
    WhenNotEmpty,
}

/// All that a thread found; put together at the end, so that threads share nothing but the queue.
#[derive(Default)]
struct Harvest {
    listings: Vec<Listing>,
    skipped: Vec<(RelPath, Special)>,
    ignored: u64,
    directories_read: u64,
}

impl Harvest {
    fn add(&mut self, node: Node, found: Vec<Found>) {
        match self.listings.last_mut() {
            Some(last) if last.node == node => last.found.extend(found),
            _ => self.listings.push(Listing { node, found }),
        }
    }

    fn merge(&mut self, other: Harvest) {
        self.listings.extend(other.listings);
        self.skipped.extend(other.skipped);
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
}

struct Name {
    bytes: Box<[u8]>,
    hint: Hint,
}

enum Job {
    Read(Visit),
    Look(Arc<Opened>, Vec<Name>),
}

#[derive(Default)]
struct Queue {
    visits: Vec<Visit>,
    /// Taken before visits: they hold a directory open.
    pieces: Vec<(Arc<Opened>, Vec<Name>)>,
    /// Jobs in the queue or being done. At zero the walk is over.
    unfinished: usize,
    threads: usize,
    idle: usize,
    /// The walk is to end early.
    stopped: bool,
    failed: Option<ScanError>,
    harvest: Harvest,
}

impl Queue {
    fn take(&mut self) -> Option<Job> {
        let piece = self.pieces.pop().map(|(opened, names)| Job::Look(opened, names));
        // The latest first: the walk goes deep before it goes wide, and the queue stays short.
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

/// What a job leaves: more jobs, and how many questions it asked the system.
#[derive(Default)]
struct Outcome {
    jobs: Vec<Job>,
    questions: u32,
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
            processors: thread::available_parallelism().map_or(1, usize::from),
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

    /// One thread's life: jobs until there are none left and nobody can make any.
    fn work<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>) {
        let _guard = StopOnPanic(self);
        let mut harvest = Harvest::default();
        while let Some(job) = self.next_job() {
            let began = Instant::now();
            let done = self.carry_out(job, &mut harvest);
            match done {
                Ok(outcome) => self.hand_in(scope, outcome, began.elapsed()),
                Err(err) => self.fail(err),
            }
            self.tell();
        }
        self.lock().harvest.merge(harvest);
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

    fn hand_in<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        outcome: Outcome,
        took: Duration,
    ) {
        let mut queue = self.lock();
        outcome.jobs.into_iter().for_each(|job| queue.put(job));
        queue.unfinished -= 1;
        match (queue.unfinished, queue.waiting()) {
            (0, _) => self.changed.notify_all(),
            // This thread takes one itself.
            (_, waiting) => (1..waiting.min(queue.idle + 1)).for_each(|_| self.changed.notify_one()),
        }
        if self.wants_another_thread(&queue, took / outcome.questions.max(1)) {
            queue.threads += 1;
            drop(queue);
            // Where no thread can be had, the others do the work.
            let _ = thread::Builder::new().spawn_scoped(scope, move || self.work(scope));
        }
    }

    fn wants_another_thread(&self, queue: &Queue, per_answer: Duration) -> bool {
        let most = if per_answer > SLOW_ANSWER { MOST_THREADS } else { self.processors.min(MOST_THREADS) };
        queue.idle == 0 && queue.waiting() > 1 && queue.threads < most
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

    /// Says how far the walk is, unless another thread is saying so.
    fn tell(&self) {
        if let Ok(_alone) = self.telling.try_lock() {
            (self.options.progress)(Amount {
                files: self.files.load(Ordering::Relaxed),
                bytes: self.bytes.load(Ordering::Relaxed),
            });
        }
    }

    fn carry_out(&self, job: Job, harvest: &mut Harvest) -> Result<Outcome, ScanError> {
        match job {
            Job::Read(visit) => self.read(visit, harvest),
            Job::Look(opened, names) => self.look(&opened, &names, harvest),
        }
    }

    /// Reads a directory's names, looks at the first of them, and leaves the others as jobs.
    fn read(&self, visit: Visit, harvest: &mut Harvest) -> Result<Outcome, ScanError> {
        let opened = match self.root.open_below(&visit.path) {
            Ok(handle) => Arc::new(Opened { visit, handle }),
            Err(source) => return passed_over(&visit, &source).ok_or_else(|| unreadable(visit, source)),
        };
        let mut names = match self.names(&opened) {
            Ok(names) => names,
            Err(source) => {
                return passed_over(&opened.visit, &source)
                    .ok_or_else(|| ScanError::Unreadable { path: opened.visit.path.clone(), source });
            }
        };
        harvest.directories_read += 1;
        let mut pieces = Vec::new();
        while names.len() > PIECE {
            pieces.push(Job::Look(Arc::clone(&opened), names.split_off(names.len() - PIECE)));
        }
        let mut outcome = self.look(&opened, &names, harvest)?;
        outcome.jobs.extend(pieces);
        outcome.questions += 2;
        Ok(outcome)
    }

    fn names(&self, opened: &Opened) -> io::Result<Vec<Name>> {
        let here = &opened.visit.path;
        let leave_out: Vec<&[u8]> = self
            .options
            .leave_out
            .iter()
            .filter(|path| path.parent().as_ref() == Some(here))
            .filter_map(RelPath::file_name)
            .collect();
        let mut names = Vec::new();
        opened.handle.names(|bytes, hint| {
            if !bytes.starts_with(STAGE_PREFIX.as_bytes()) && !leave_out.contains(&bytes) {
                names.push(Name { bytes: bytes.into(), hint });
            }
        })?;
        Ok(names)
    }

    fn look(&self, opened: &Opened, names: &[Name], harvest: &mut Harvest) -> Result<Outcome, ScanError> {
        let mut outcome = Outcome::default();
        let mut found = Vec::with_capacity(names.len());
        let mut bytes = 0;
        for name in names {
            let Some(new) = self.look_at(opened, name, harvest, &mut outcome)? else { continue };
            if let Kind::File { size } = new.entry.kind {
                bytes += size;
            }
            found.push(new);
        }
        self.files.fetch_add(found.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        harvest.add(opened.visit.node, found);
        Ok(outcome)
    }

    /// `None` for what is no part of the tree.
    fn look_at(
        &self,
        opened: &Opened,
        name: &Name,
        harvest: &mut Harvest,
        outcome: &mut Outcome,
    ) -> Result<Option<Found>, ScanError> {
        let judgement = self.judge(&opened.visit.rules, name);
        if matches!(judgement, Judgement::Ignored) {
            harvest.ignored += 1;
            return Ok(None);
        }
        let path = child(&opened.visit.path, &name.bytes)?;
        outcome.questions += 1;
        let metadata = match opened.handle.look_at(&name.bytes) {
            Ok(metadata) => metadata,
            Err(source) if metadata::is_gone(&source) => return Ok(None),
            Err(source) => return Err(ScanError::Hidden { path, source }),
        };
        match metadata {
            Metadata::Special(special) if judgement.keeps_a_file() => {
                harvest.skipped.push((path, special));
                Ok(None)
            }
            Metadata::Entry { kind: Kind::Directory, mode, stamp, links } => {
                let enter = match judgement {
                    Judgement::Directory(enter) => enter,
                    // It became a directory since its name was read.
                    _ => self.options.rules.enter(&opened.visit.rules, &name.bytes),
                };
                let below = self.found_directory(&path, enter, outcome);
                harvest.ignored += u64::from(below.is_none());
                let entry = Entry { path, kind: Kind::Directory, mode, mtime: stamp.mtime, stamp, links };
                Ok(below.map(|below| Found { entry, below: Some(below) }))
            }
            Metadata::Entry { kind, mode, stamp, links } if judgement.keeps_a_file() => {
                let entry = Entry { path, kind, mode, mtime: stamp.mtime, stamp, links };
                Ok(Some(Found { entry, below: None }))
            }
            Metadata::Special(_) | Metadata::Entry { .. } => {
                harvest.ignored += 1;
                Ok(None)
            }
        }
    }

    /// Leaves a directory to be read; `None` when it is not to be entered.
    fn found_directory(&self, path: &RelPath, enter: Enter, outcome: &mut Outcome) -> Option<Below> {
        let (rules, part) = match enter {
            Enter::Kept(rules) => (rules, Part::Always),
            Enter::ForExceptions(rules) => (rules, Part::WhenNotEmpty),
            Enter::No => return None,
        };
        let node = self.nodes.fetch_add(1, Ordering::Relaxed);
        outcome.jobs.push(Job::Read(Visit { node, path: path.clone(), part, rules }));
        Some(Below { node, part })
    }

    /// What can be said of a name before it is looked at.
    fn judge(&self, rules: &ignore::Directory, name: &Name) -> Judgement {
        if name.hint == Hint::Other {
            return match self.options.rules.verdict(rules, &name.bytes) {
                Verdict::Kept => Judgement::Kept,
                Verdict::Ignored => Judgement::Ignored,
            };
        }
        match self.options.rules.enter(rules, &name.bytes) {
            Enter::No => Judgement::Ignored,
            enter => Judgement::Directory(enter),
        }
    }
}

/// What the rules say of a name.
enum Judgement {
    /// It is part of the tree, and no directory.
    Kept,
    /// It is not, whatever it is.
    Ignored,
    /// It is, or may be, a directory. The verdict holds for a file of that name too.
    Directory(Enter),
}

impl Judgement {
    fn keeps_a_file(&self) -> bool {
        matches!(self, Judgement::Kept | Judgement::Directory(Enter::Kept(_)))
    }
}

/// Threads that wait for a job would wait for ever for one that a panic took along.
struct StopOnPanic<'a, 'b>(&'a Walk<'b>);

impl Drop for StopOnPanic<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

/// A directory that vanished is not there, and one that is ignored anyway need not be readable.
fn passed_over(visit: &Visit, err: &io::Error) -> Option<Outcome> {
    let is_root = visit.path.is_root();
    let unreadable = visit.part == Part::WhenNotEmpty && err.kind() == io::ErrorKind::PermissionDenied;
    ((metadata::is_gone(err) && !is_root) || unreadable).then(Outcome::default)
}

fn unreadable(visit: Visit, source: io::Error) -> ScanError {
    ScanError::Unreadable { path: visit.path, source }
}

fn child(parent: &RelPath, name: &[u8]) -> Result<RelPath, ScanError> {
    // A network file system can send any bytes as a name.
    let bad = |why| ScanError::Unreadable { path: parent.clone(), source: io::Error::other(why) };
    if name.contains(&b'/') {
        return Err(bad(super::path::BadPath::EmptyComponent));
    }
    parent.join(name).map_err(bad)
}

/// Puts listings together, each directory before what lies in it, siblings by name: the order of a manifest. Says too
/// how many directories were entered for exceptions in vain.
fn assemble(listings: Vec<Listing>, nodes: usize) -> (Vec<Entry>, u64) {
    struct Frame {
        rest: std::vec::IntoIter<Found>,
        /// The directory's own entry goes when this is all there is at its end.
        drop_at: Option<usize>,
    }

    let total = listings.iter().map(|listing| listing.found.len()).sum();
    let mut listings = by_node(listings, nodes);
    let mut entries = Vec::with_capacity(total);
    let mut left_empty = 0;
    let top = sorted(listings.first_mut().and_then(Option::take).unwrap_or_default());
    let mut frames = vec![Frame { rest: top, drop_at: None }];
    while let Some(frame) = frames.last_mut() {
        match frame.rest.next() {
            Some(Found { entry, below: None }) => entries.push(entry),
            Some(Found { entry, below: Some(below) }) => {
                let Some(found) = listings.get_mut(below.node).and_then(Option::take) else {
                    // Gone before it was read, or ignored and not readable.
                    left_empty += u64::from(below.part == Part::WhenNotEmpty);
                    continue;
                };
                entries.push(entry);
                let drop_at = (below.part == Part::WhenNotEmpty).then_some(entries.len());
                frames.push(Frame { rest: sorted(found), drop_at });
            }
            None => {
                if frame.drop_at == Some(entries.len()) {
                    entries.pop();
                    left_empty += 1;
                }
                frames.pop();
            }
        }
    }
    (entries, left_empty)
}

fn by_node(listings: Vec<Listing>, nodes: usize) -> Vec<Option<Vec<Found>>> {
    let mut by_node: Vec<Option<Vec<Found>>> = Vec::new();
    by_node.resize_with(nodes, || None);
    for Listing { node, found } in listings {
        match &mut by_node[node] {
            Some(all) => all.extend(found),
            none => *none = Some(found),
        }
    }
    by_node
}

/// Siblings by name.
fn sorted(mut found: Vec<Found>) -> std::vec::IntoIter<Found> {
    let shared = found.first().and_then(|first| first.entry.path.as_bytes().iter().rposition(|&b| b == b'/'));
    let skip = shared.map_or(0, |slash| slash + 1);
    found.sort_unstable_by(|a, b| a.entry.path.as_bytes()[skip..].cmp(&b.entry.path.as_bytes()[skip..]));
    found.into_iter()
}
