//! Writes small products to slots, on several threads.
//!
//! On a file system behind a network or a virtual machine, making a file takes half a dozen round
//! trips, one after the other. Several files at once share the waiting time. On a local disk there
//! is one thread: making a file locks its directory, and other threads would spin on that lock.

use std::{
    io::{self, Write as _},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread::{self, JoinHandle},
};

use cap_std::fs::Dir;

use super::{OutputError, host_error, modes::Refused, ops::Identity};
use crate::{
    entry::Timestamp,
    outputs::stage_dir::Stage,
    sys::{at, latency::Pace},
};

/// The most files written at once, where the file system is slow.
const MOST_THREADS: usize = 8;

/// Calls needed to make a file.
const CALLS: u32 = 6;

/// Files that may wait for a thread; each is small, so this bounds the memory as well.
const WAITING: usize = 16;

/// A file to be written to its slot.
pub(super) struct SmallFile {
    /// The slot.
    pub number: u64,
    /// Content.
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Last change.
    pub mtime: Timestamp,
}

/// Threads that write slots. Their work is complete, and its errors are known, only after
/// [`SlotWriters::settle`].
#[derive(Debug, Default)]
pub(super) struct SlotWriters {
    running: Option<Running>,
    /// Sorted by [`SlotWriters::settle`].
    written: Written,
}

/// The number and the identity of each slot.
type Written = Vec<(u64, Identity)>;

#[derive(Debug)]
struct Running {
    jobs: SyncSender<SmallFile>,
    /// The threads own the receiver. When all of them have ended, it is dropped and sending fails.
    waiting: Weak<Mutex<Receiver<SmallFile>>>,
    threads: Vec<JoinHandle<Result<Written, OutputError>>>,
    /// Set when a thread finds the file system slow.
    is_slow: Arc<AtomicBool>,
}

impl SlotWriters {
    /// Hands a file over. The slot's identity is known after [`SlotWriters::settle`]; until then
    /// [`pending`] stands for it.
    pub fn write(&mut self, stage: &Stage, file: SmallFile) -> Result<(), OutputError> {
        let running = match &mut self.running {
            Some(running) => {
                running.grow(stage)?;
                running
            }
            None => self.running.insert(Running::start(stage)?),
        };
        // Sending fails when all threads have ended. Before `settle` they end only on an error.
        if running.jobs.send(file).is_ok() { Ok(()) } else { self.settle() }
    }

    /// Waits until everything that was handed over is written.
    ///
    /// # Errors
    /// The first error.
    pub fn settle(&mut self) -> Result<(), OutputError> {
        let mut failure = None;
        if let Some(Running { jobs, threads, .. }) = self.running.take() {
            drop(jobs);
            for thread in threads {
                match thread.join() {
                    // Usually there is one thread, and its list is complete.
                    Ok(Ok(written)) if self.written.is_empty() => self.written = written,
                    Ok(Ok(written)) => self.written.extend(written),
                    Ok(Err(error)) => failure = failure.or(Some(error)),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        }
        self.written.sort_unstable_by_key(|(number, _)| *number);
        failure.map_or(Ok(()), Err)
    }

    /// Notes the identity of a slot that was written elsewhere.
    pub fn note(&mut self, number: u64, id: Identity) {
        self.written.push((number, id));
    }

    /// The real identity for a [`pending`] one; any other is returned as it is.
    pub fn settled(&self, id: Identity) -> Identity {
        if id.dev != PENDING {
            return id;
        }
        let at = self.written.binary_search_by_key(&id.ino, |(number, _)| *number);
        at.map_or(id, |at| self.written[at].1)
    }
}

impl Drop for SlotWriters {
    fn drop(&mut self) {
        // The stage is about to be removed, so all writing must end. Errors no longer matter.
        let _ = self.settle();
    }
}

/// No file system has this device number.
const PENDING: u64 = u64::MAX;

/// Stands for the identity of a slot that is still being written.
pub(super) fn pending(number: u64) -> Identity {
    Identity { dev: PENDING, ino: number, size: 0, mtime: Timestamp::default() }
}

impl Running {
    fn start(stage: &Stage) -> Result<Running, OutputError> {
        let (jobs, waiting) = mpsc::sync_channel(WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        let mut running =
            Running { jobs, waiting: Arc::downgrade(&waiting), threads: Vec::new(), is_slow: Arc::default() };
        running.add(stage, waiting)?;
        Ok(running)
    }

    /// Adds a thread for each file until there are enough: one changed product needs only one.
    fn grow(&mut self, stage: &Stage) -> Result<(), OutputError> {
        let most = if self.is_slow.load(Ordering::Relaxed) { MOST_THREADS } else { 1 };
        match self.waiting.upgrade() {
            Some(waiting) if self.threads.len() < most => self.add(stage, waiting),
            _ => Ok(()),
        }
    }

    fn add(&mut self, stage: &Stage, waiting: Arc<Mutex<Receiver<SmallFile>>>) -> Result<(), OutputError> {
        let (path, is_slow, refused) = (stage.path.clone(), Arc::clone(&self.is_slow), stage.refused.clone());
        let start = |dir| {
            thread::Builder::new().spawn(move || {
                write_all(&dir, &waiting, &is_slow, &refused).map_err(host_error("write a product in", path))
            })
        };
        let thread = stage.dir.try_clone().and_then(start);
        self.threads.push(thread.map_err(host_error("start threads for", &stage.path))?);
        Ok(())
    }
}

fn write_all(
    dir: &Dir,
    waiting: &Mutex<Receiver<SmallFile>>,
    is_slow: &AtomicBool,
    refused: &Refused,
) -> io::Result<Written> {
    let mut written = Vec::new();
    let mut pace = Pace::default();
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(file) = next else { return Ok(written) };
        written.push((file.number, pace.time(CALLS, || write_one(dir, &file, refused))?));
        if pace.is_slow() {
            is_slow.store(true, Ordering::Relaxed);
        }
    }
}

fn write_one(dir: &Dir, file: &SmallFile, refused: &Refused) -> io::Result<Identity> {
    let name = file.number.to_string();
    at::create_file_as(dir, name.as_bytes(), file.mode)?.write_all(&file.bytes)?;
    refused.finish(dir, name.as_bytes(), file.mode, file.mtime)?;
    let look = at::look(dir, name.as_bytes())?.ok_or(io::ErrorKind::NotFound)?;
    Ok(Identity::from(&look))
}
