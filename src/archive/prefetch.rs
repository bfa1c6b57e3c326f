//! Reads source files ahead of the tar stream, on several threads.
//!
//! On a mount that crosses a virtual machine or a network, each open, stat and read is a round
//! trip; one thread would wait for 2,000 of them in a row. So a few threads read and hash ahead, in
//! the order of the stream, and [`Window`] limits the bytes they hold. A small file is read whole,
//! so that its header and its content agree even if it changes meanwhile. A large file is handed
//! over open and sent through a short queue; if its length changes, it is padded or cut, and counts
//! as unsteady.
//!
//! In: jobs, in order. Out: [`Window::take`] gives one [`Fetched`] for each, in the same order.
//! [`super::pack`](mod@super::pack) writes them.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use sha2::{Digest as _, Sha256};

use super::pack::{Holes, PackError};
use crate::{
    entry::Kind,
    sys::{
        extents::{Extents, Step, ZEROS},
        source_file::{self, Facts, Opened},
    },
    tree::{Digest, Entry, Manifest},
};

/// Files up to this many bytes are read whole before their header is written.
pub(super) const SMALL: u64 = 256 << 10;
/// Limit for all files that are read but not written, in bytes.
const WINDOW: u64 = 16 << 20;
/// The size of one piece of a large file, in bytes, and the length of its queue.
const PIECE: usize = 256 << 10;
const QUEUE: usize = 4;
/// The cost of a large file: its queue, and the piece that is being read.
const LARGE_COST: u64 = ((QUEUE + 1) * PIECE) as u64;
/// The cost of a small file in addition to its bytes: the slot and its allocation.
const SMALL_COST: u64 = 512;
/// How many times a small file is read while it keeps changing.
const TRIES: usize = 3;
const MAX_THREADS: usize = 8;

/// One file to fetch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    /// Its index in the manifest.
    pub(super) index: usize,
    pub(super) task: Task,
}

/// The kind of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Read the file.
    Read,
    /// An earlier job reads the same file under another name: check that it is the same, or read
    /// it.
    Look,
}

/// Whether a file stayed unchanged during the read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Steadiness {
    /// Its metadata did not change between the first byte and the last.
    Steady,
    /// It changed; the content may be a mixture.
    Unsteady,
}

/// The result of a job.
pub(super) enum Fetched {
    /// The whole file.
    Small { facts: Facts, bytes: Vec<u8>, digest: Digest, steadiness: Steadiness },
    /// An open file, large or with holes: pieces with exactly the bytes of `extents`, then
    /// [`Piece::End`].
    Large { facts: Facts, extents: Extents, pieces: Receiver<Piece> },
    /// Still the same file as an earlier name in the manifest.
    SameFile { facts: Facts },
    /// The path no longer exists.
    Vanished,
    /// The path is no longer a regular file.
    OtherKind,
    /// It could not be read.
    Failed(PackError),
}

/// A part of a large file.
pub(super) enum Piece {
    Data(Vec<u8>),
    /// This many bytes of a hole, which are not sent.
    Hole(usize),
    End {
        digest: Digest,
        steadiness: Steadiness,
    },
    Failed(PackError),
}

/// The jobs, and the results that have not been taken.
pub(super) struct Window<'a> {
    root: &'a Path,
    manifest: &'a Manifest,
    jobs: &'a [Job],
    holes: Holes,
    state: Mutex<State>,
    /// Signals free space, or that the window was closed.
    room: Condvar,
    /// Signals a filled slot, or that a thread died.
    filled: Condvar,
}

#[derive(Default)]
struct State {
    /// The number of jobs taken; the first slot belongs to job `taken`.
    taken: usize,
    slots: VecDeque<Slot>,
    /// The sum of the slots' costs.
    held: u64,
    end: End,
}

#[derive(Default, PartialEq, Eq, Clone, Copy)]
enum End {
    #[default]
    Open,
    /// The writer takes no more results.
    Closed,
    /// A reading thread panicked; the scope that joins it propagates the panic.
    Broken,
}

struct Slot {
    cost: u64,
    fetched: Option<Fetched>,
}

impl<'a> Window<'a> {
    pub(super) fn new(root: &'a Path, manifest: &'a Manifest, jobs: &'a [Job], holes: Holes) -> Window<'a> {
        let (room, filled) = (Condvar::new(), Condvar::new());
        Window { root, manifest, jobs, holes, state: Mutex::default(), room, filled }
    }

    /// The number of threads to start.
    pub(super) fn threads(&self) -> usize {
        self.jobs.len().div_ceil(8).min(MAX_THREADS)
    }

    /// Runs one thread until no job is left or the window is closed.
    pub(super) fn work(&self) {
        let _alarm = Alarm(self);
        while let Some(at) = self.claim() {
            let Job { index, task } = self.jobs[at];
            self.fetch(index, task, |fetched| self.fill(at, fetched));
        }
    }

    /// Waits for the next job's result; call it once for each job. `None` if a reading thread died.
    pub(super) fn take(&self) -> Option<Fetched> {
        let mut state = self.state();
        loop {
            if state.end == End::Broken {
                return None;
            }
            if state.slots.front().is_some_and(|slot| slot.fetched.is_some()) {
                let slot = state.slots.pop_front()?;
                state.taken += 1;
                state.held -= slot.cost;
                self.room.notify_all();
                return slot.fetched;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends all threads, including those that wait.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.end = End::Closed;
        // Drops the receivers of the large files' queues, so threads waiting to fill one end too.
        state.slots.clear();
        self.room.notify_all();
    }

    /// Fetches one file and hands it over. For a large one, it returns when its queue has been
    /// read.
    pub(super) fn fetch(&self, index: usize, task: Task, hand_over: impl FnOnce(Fetched)) {
        let entry = &self.manifest.entries()[index];
        let path = source_file::native(self.root, &entry.path);
        if task == Task::Look
            && let Some(facts) = same_file(&path, entry)
        {
            return hand_over(Fetched::SameFile { facts });
        }
        match begin(&path, self.holes) {
            Ok(Begun::Large(file, facts, extents)) => {
                let (sender, pieces) = sync_channel(QUEUE);
                hand_over(Fetched::Large { facts, extents: extents.clone(), pieces });
                feed(file, facts, &extents, &path, &sender);
            }
            Ok(Begun::Done(fetched)) => hand_over(fetched),
            Err(error) if source_file::says_gone(&error) => hand_over(Fetched::Vanished),
            Err(error) => hand_over(Fetched::Failed(PackError::unreadable(path, error))),
        }
    }

    /// The next job, once there is space for it. The first job of the window always has space.
    fn claim(&self) -> Option<usize> {
        let mut state = self.state();
        loop {
            let at = state.taken + state.slots.len();
            let job = self.jobs.get(at)?;
            if state.end != End::Open {
                return None;
            }
            let cost = self.cost(*job);
            if state.slots.is_empty() || state.held + cost <= WINDOW {
                state.held += cost;
                state.slots.push_back(Slot { cost, fetched: None });
                return Some(at);
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn cost(&self, job: Job) -> u64 {
        match self.manifest.entries()[job.index].kind {
            Kind::File { size } if size > SMALL => LARGE_COST,
            Kind::File { size } => size + SMALL_COST,
            Kind::Directory | Kind::Symlink { .. } => SMALL_COST,
        }
    }

    fn fill(&self, at: usize, fetched: Fetched) {
        // The file may have grown since the scan.
        let cost = match &fetched {
            Fetched::Small { bytes, .. } => bytes.len() as u64 + SMALL_COST,
            Fetched::Large { .. } => LARGE_COST,
            _ => SMALL_COST,
        };
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(slot) = at.checked_sub(state.taken).and_then(|at| state.slots.get_mut(at)) else {
            return; // closed meanwhile
        };
        state.held = state.held - slot.cost + cost;
        *slot = Slot { cost, fetched: Some(fetched) };
        self.filled.notify_one();
        self.room.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the writer when a reading thread panics; otherwise the writer would wait for ever.
struct Alarm<'a, 'b>(&'a Window<'b>);

impl Drop for Alarm<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.state().end = End::Broken;
            self.0.filled.notify_all();
            self.0.room.notify_all();
        }
    }
}

/// The current metadata of `path`, if it is still the file that the scan saw.
fn same_file(path: &Path, entry: &Entry) -> Option<Facts> {
    let facts = source_file::facts_at(path).ok()?;
    let same = facts.stamp.dev == entry.stamp.dev && facts.stamp.ino == entry.stamp.ino;
    same.then_some(facts)
}

enum Begun {
    Done(Fetched),
    Large(File, Facts, Extents),
}

/// Opens the file, and reads it whole if it is small; again, up to [`TRIES`] times, while it
/// changes. It is opened each time, because most programs change a file by replacing it.
fn begin(path: &Path, holes: Holes) -> io::Result<Begun> {
    let mut tries = 1;
    loop {
        let Opened::Regular(file, before) = source_file::open(path)? else {
            return Ok(Begun::Done(Fetched::OtherKind));
        };
        let whole = Extents::whole(before.stamp.size);
        let extents = match holes {
            Holes::Told => Extents::of(&file, &before),
            Holes::Zeros => whole.clone(),
        };
        if before.stamp.size > SMALL || extents != whole {
            return Ok(Begun::Large(file, before, extents));
        }
        let bytes = read_up_to(&file, before.stamp.size as usize)?;
        let after = source_file::facts(&file)?;
        let steady = after.stamp == before.stamp && after.stamp.size == bytes.len() as u64;
        if steady || tries == TRIES {
            let mut facts = before;
            facts.stamp.size = bytes.len() as u64;
            let digest = Digest(Sha256::digest(&bytes).into());
            let steadiness = if steady { Steadiness::Steady } else { Steadiness::Unsteady };
            return Ok(Begun::Done(Fetched::Small { facts, bytes, digest, steadiness }));
        }
        tries += 1;
    }
}

/// Sends exactly as many bytes as the header announces. Holes are hashed, but not sent.
fn feed(mut file: File, facts: Facts, extents: &Extents, path: &Path, sender: &SyncSender<Piece>) {
    let mut hasher = Sha256::new();
    let mut left = facts.stamp.size;
    let mut source = Source::Flowing;
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
        let at = facts.stamp.size - left;
        let piece = match extents.step(at, len) {
            Step::Hole(len) => {
                let len = len.min(ZEROS.len());
                hasher.update(&ZEROS[..len]);
                left -= len as u64;
                file.seek(SeekFrom::Start(at + len as u64)).map(|_| Piece::Hole(len))
            }
            Step::Data(len) => source.next(&file, len).map(|piece| {
                hasher.update(&piece);
                left -= piece.len() as u64;
                Piece::Data(piece)
            }),
        };
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => {
                let failed = PackError::Read { path: path.to_owned(), source: error };
                let _ = sender.send(Piece::Failed(failed)); // fails only after the writer failed
                return;
            }
        };
        if sender.send(piece).is_err() {
            return;
        }
    }
    let steady =
        source == Source::Flowing && source_file::facts(&file).is_ok_and(|after| after.stamp == facts.stamp);
    let steadiness = if steady { Steadiness::Steady } else { Steadiness::Unsteady };
    let _ = sender.send(Piece::End { digest: Digest(hasher.finalize().into()), steadiness }); // as above
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Flowing,
    /// The file became shorter: zeros replace the missing bytes.
    Dry,
}

impl Source {
    /// Exactly the next `len` bytes.
    fn next(&mut self, file: &File, len: usize) -> io::Result<Vec<u8>> {
        let mut piece = match self {
            Source::Flowing => read_up_to(file, len)?,
            Source::Dry => Vec::new(),
        };
        if piece.len() < len {
            *self = Source::Dry;
            piece.resize(len, 0);
        }
        Ok(piece)
    }
}

/// `len` bytes, or as many as there are. One call where the system returns them all: `read_to_end`
/// would begin with 8 KiB and call again at the end, and each call may be a round trip.
fn read_up_to(mut file: &File, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
