//! Writes small files to the disk, with a thread for each processor, four at most.
//!
//! Making a file locks its directory. So consecutive files of one directory go to one thread, and
//! those of the next directory to the next thread. This matters most where the file system searches
//! long for a free inode: ext4 skips each one that was freed within the last minute or more. Where
//! containers come and go, that costs up to 1 ms for each file.

use std::{
    io::{self, Write as _},
    sync::{
        Arc, LazyLock,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use cap_std::fs::{Dir, File};
use rustix::fs::Mode;
use sha2::{Digest as _, Sha256};

use crate::{
    agent::{
        protocol::Failed,
        server::apply::{not_written, own, put_in_place},
    },
    entry::{RelPath, Timestamp},
    sys::{
        at::{self, Look},
        latency::processors,
    },
    tree::Digest,
    user::Ids,
};

/// The number of threads; more than four would only wait for the decoder.
static THREADS: LazyLock<usize> = LazyLock::new(|| processors().clamp(1, 4));

/// How many files may wait for each thread: enough work for it while another directory comes in.
const WAITING: usize = 64;

/// A file to be made where none exists.
pub(super) struct NewFile {
    pub(super) dir: Arc<Dir>,
    pub(super) path: RelPath,
    /// Its name until it is complete, where that is another name.
    pub(super) under: Option<Box<[u8]>>,
    pub(super) mode: u32,
    pub(super) mtime: Timestamp,
}

/// A path that was written, as it is on the disk now.
pub(super) struct Written {
    pub(super) path: RelPath,
    pub(super) look: Look,
    pub(super) digest: Option<Digest>,
}

/// Threads that make files. [`Writers::finish`] completes their work and returns its errors.
pub(super) struct Writers {
    owner: Option<Ids>,
    threads: Vec<Writer>,
    /// The directory of the latest file, and the thread that has it.
    latest: Option<(Arc<Dir>, usize)>,
}

struct Writer {
    files: SyncSender<(NewFile, Vec<u8>)>,
    thread: JoinHandle<Result<Vec<Written>, Failed>>,
}

impl Writers {
    /// No threads yet.
    pub(super) fn new(owner: Option<Ids>) -> Writers {
        Writers { owner, threads: Vec::new(), latest: None }
    }

    /// Passes a file to a thread.
    pub(super) fn write(&mut self, file: NewFile, content: Vec<u8>) -> io::Result<()> {
        let at = match &self.latest {
            Some((dir, at)) if Arc::ptr_eq(dir, &file.dir) => *at,
            Some((_, at)) => (at + 1) % *THREADS,
            None => 0,
        };
        self.latest = Some((Arc::clone(&file.dir), at));
        if at == self.threads.len() {
            let ((files, waiting), owner) = (sync_channel(WAITING), self.owner);
            let thread = thread::Builder::new().name("write".to_owned());
            let thread = thread.spawn(move || write_all(&waiting, owner))?;
            self.threads.push(Writer { files, thread });
        }
        // A thread ends early only when it fails.
        self.threads[at].files.send((file, content)).map_err(io::Error::other)
    }

    /// Waits until everything that was handed over is written.
    ///
    /// # Errors
    /// The first error.
    pub(super) fn finish(self) -> Result<Vec<Written>, Failed> {
        // Each thread ends with its queue. All queues are closed before the first join.
        let threads: Vec<_> = self.threads.into_iter().map(|writer| writer.thread).collect();
        let join =
            |thread: JoinHandle<_>| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let written: Vec<_> = threads.into_iter().map(join).collect();
        Ok(written.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }
}

fn write_all(waiting: &Receiver<(NewFile, Vec<u8>)>, owner: Option<Ids>) -> Result<Vec<Written>, Failed> {
    let write = |(file, content): (NewFile, Vec<u8>)| {
        let path = file.path.clone();
        let hashed = |mut made: &File| {
            made.write_all(&content)?;
            Ok(Digest(Sha256::digest(&content).into()))
        };
        file.write(hashed, owner).map_err(|error| not_written(&path, &error))
    };
    waiting.iter().map(write).collect()
}

impl NewFile {
    /// Makes the file and lets `content` write into it. Its mtime is set last.
    pub(super) fn write(
        self,
        content: impl FnOnce(&File) -> io::Result<Digest>,
        owner: Option<Ids>,
    ) -> io::Result<Written> {
        let name = self.path.file_name().unwrap_or_default();
        let under = self.under.as_deref().unwrap_or(name);
        let file = at::create_file(&self.dir, under)?;
        let digest = content(&file)?;
        // In this order: a change of the owner clears set-uid bits.
        own(&file, owner)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(self.mode & 0o7777))?;
        rustix::fs::futimens(&file, &at::mtime_alone(self.mtime))?;
        put_in_place(&self.dir, under, name)?;
        Ok(Written { path: self.path, look: at::look_at_file(&file)?, digest: Some(digest) })
    }
}
