//! Packs a manifest and its directory into a tar stream, and records what was really sent.
//!
//! In: entries from an earlier scan, and the tree as it is now. Out: a tar stream that is always
//! well-formed, and [`Packed`]: the state of each file when it was read, and which files must be
//! looked at again. Size, mode, mtime and digest of a file all come from the one open file, never
//! from the scan.
//!
//! The tree may change meanwhile. [`Packed::vanished`] and [`Packed::unstable`] list such files;
//! the caller sends them again. `archive/prefetch.rs` reads the files. Runs on a blocking thread.

use std::{
    collections::{HashMap, HashSet},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, sync_channel},
    thread::{self, Scope},
};

use tar::EntryType;

use super::{
    pax::{self, Outgoing},
    prefetch::{Fetched, Job, Piece, Steadiness, Task, Window},
};
use crate::{
    entry::{Amount, Kind, RelPath, Stamp, Timestamp},
    sys::{extents::Extents, source_file::Facts},
    tree::{Digest, Entry, Manifest, links::Groups},
};

/// Options of a packed stream.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// The tree's path below the directory in which the stream is unpacked; all names and hard-link
    /// targets begin with it. If it is the root, names get no prefix and `top` is not sent.
    pub prefix: RelPath,
    /// The owner of all entries.
    pub uid: u64,
    /// The group of all entries.
    pub gid: u64,
    /// The directory at `prefix`; with `None` the unpacking side creates it.
    pub top: Option<TopEntry>,
    /// How holes of files are sent.
    pub holes: Holes,
}

/// See [`PackOptions::holes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holes {
    /// As ranges without bytes: only [`super::Reader::with_holes`] can read this.
    Told,
    /// As zeros, which every reader accepts.
    Zeros,
}

/// The tree's root as an entry. It is sent first, so that an engine does not choose its metadata.
#[derive(Debug, Clone, Copy)]
pub struct TopEntry {
    /// Permission bits.
    pub mode: u32,
    /// Last change.
    pub mtime: Timestamp,
}

/// What was sent.
#[derive(Debug, Default)]
pub struct Packed {
    /// For each entry of the manifest, by index: the regular file as it was sent. `None` for
    /// directories and symbolic links (sent as in the manifest), and for files not selected or not
    /// sent.
    pub sent: Vec<Option<Sent>>,
    /// Indices, ascending, of files that no longer existed when they were read, and were not sent.
    pub vanished: Vec<usize>,
    /// Indices, ascending, of files that must be sent again: they changed during the read, or are
    /// no longer regular files (then `sent` is `None`). Names linked to such a file are included.
    pub unstable: Vec<usize>,
    /// Number of entries, and bytes of content.
    pub amount: Amount,
}

/// A regular file as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Permission bits as sent.
    pub mode: u32,
    /// The metadata of the open file before its first byte was read; `size` is the number of bytes
    /// sent. For a further name of a file, the metadata of that file.
    pub stamp: Stamp,
    /// The digest of the bytes sent. For a further name of a file, the digest of that file.
    pub digest: Digest,
}

/// Why there is no complete stream. The written part must be discarded.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A source file may not be read (permissions).
    #[error("cannot read {path:?}: {source}; make it readable, or leave it out of the upload with --exclude")]
    Denied {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A source file could not be read for another reason.
    #[error(
        "cannot read {path:?}: {source}; see whether its disk or mount is well, or leave it out with --exclude"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The stream could not be written.
    #[error("the upload was cut short: {0}")]
    Write(#[source] io::Error),
    /// No reading thread could be started.
    #[error("cannot start a thread that reads the sources: {0}; see the limit on processes (ulimit -u)")]
    Thread(#[source] io::Error),
    /// A reading thread ended before its work was done.
    #[error("a thread that reads the sources ended early; this is a bug in fastbuild")]
    ThreadDied,
}

impl PackError {
    pub(super) fn unreadable(path: PathBuf, source: io::Error) -> PackError {
        match source.kind() {
            io::ErrorKind::PermissionDenied => PackError::Denied { path, source },
            _ => PackError::Read { path, source },
        }
    }
}

/// Bytes collected before a write to `out`.
const CHUNK: usize = 256 << 10;
/// Progress between two calls of `progress`.
const REPORT_EVERY: Amount = Amount { files: 64, bytes: 1 << 20 };

/// Writes the entries of `manifest` at `indices` (in any order), read below `root`, as a tar stream
/// to `out`, in chunks of about 256 KiB. Hard links are made only among these entries: to keep a
/// file's names together, pass all of them. `progress` gets the sum so far from time to time.
///
/// # Errors
/// See [`PackError`]. Files that vanish or change are not errors, see [`Packed`].
pub fn pack(
    root: &Path,
    manifest: &Manifest,
    indices: &[usize],
    options: &PackOptions,
    out: &mut dyn Write,
    progress: &(dyn Fn(Amount) + Sync),
) -> Result<Packed, PackError> {
    let selected = selected(manifest, indices);
    let jobs = jobs(manifest, &selected);
    let window = Window::new(root, manifest, &jobs, options.holes);
    thread::scope(|scope| {
        // However this function ends, the threads must end too, or the scope would never return.
        let _closing = Closing(&window);
        start_threads(scope, &window)?;
        let fetch = |index| fetch_apart(scope, &window, index);
        let mut packer = Packer::new(manifest, options, &window, &fetch, out, progress);
        packer.top()?;
        for index in selected {
            packer.entry(index)?;
        }
        packer.finish()
    })
}

fn selected(manifest: &Manifest, indices: &[usize]) -> Vec<usize> {
    let mut indices: Vec<_> =
        indices.iter().copied().filter(|&index| index < manifest.entries().len()).collect();
    indices.sort_unstable();
    indices.dedup();
    indices
}

/// The regular files, in order. For each further name of a file only the metadata are read.
fn jobs(manifest: &Manifest, selected: &[usize]) -> Vec<Job> {
    let mut seen = HashSet::new();
    let mut job = |&index: &usize| {
        let entry = &manifest.entries()[index];
        let task = match file_id(&entry.stamp, entry) {
            Some(id) if entry.links > 1 && !seen.insert(id) => Task::Look,
            _ => Task::Read,
        };
        matches!(entry.kind, Kind::File { .. }).then_some(Job { index, task })
    };
    selected.iter().filter_map(&mut job).collect()
}

/// The identity of a file with several names; `None` where the system does not tell. Names that
/// must have different times are sent as two files.
type FileId = (u64, u64, Timestamp);

fn file_id(stamp: &Stamp, entry: &Entry) -> Option<FileId> {
    (stamp.ino != 0).then_some((stamp.dev, stamp.ino, entry.mtime))
}

struct Closing<'a, 'b>(&'a Window<'b>);

impl Drop for Closing<'_, '_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn start_threads<'scope>(
    scope: &'scope Scope<'scope, '_>,
    window: &'scope Window<'_>,
) -> Result<(), PackError> {
    for number in 0..window.threads() {
        let started = thread::Builder::new().name("read".to_owned()).spawn_scoped(scope, || window.work());
        match started {
            Ok(_) => {}
            Err(error) if number == 0 => return Err(PackError::Thread(error)),
            Err(_) => break, // fewer threads are enough
        }
    }
    Ok(())
}

/// Reads one file out of order, on its own thread: all threads of the window may wait for this
/// writer.
fn fetch_apart<'scope>(
    scope: &'scope Scope<'scope, '_>,
    window: &'scope Window<'_>,
    index: usize,
) -> Result<Fetched, PackError> {
    let (sender, receiver) = sync_channel(1);
    let work = move || window.fetch(index, Task::Read, |fetched| drop(sender.send(fetched)));
    thread::Builder::new().spawn_scoped(scope, work).map_err(PackError::Thread)?;
    receiver.recv().map_err(|_| PackError::ThreadDied)
}

type FetchApart<'a> = &'a dyn Fn(usize) -> Result<Fetched, PackError>;

struct Packer<'a> {
    manifest: &'a Manifest,
    options: &'a PackOptions,
    window: &'a Window<'a>,
    fetch_apart: FetchApart<'a>,
    out: BufWriter<&'a mut dyn Write>,
    progress: &'a (dyn Fn(Amount) + Sync),
    reported: Amount,
    packed: Packed,
    /// The first name under which each file with several names was sent.
    first_names: HashMap<FileId, usize>,
    /// Reused for each header.
    blocks: Vec<u8>,
}

impl<'a> Packer<'a> {
    fn new(
        manifest: &'a Manifest,
        options: &'a PackOptions,
        window: &'a Window<'a>,
        fetch_apart: FetchApart<'a>,
        out: &'a mut dyn Write,
        progress: &'a (dyn Fn(Amount) + Sync),
    ) -> Packer<'a> {
        let sent = vec![None; manifest.entries().len()];
        let out = BufWriter::with_capacity(CHUNK, out);
        Packer {
            manifest,
            options,
            window,
            fetch_apart,
            out,
            progress,
            reported: Amount::default(),
            packed: Packed { sent, ..Packed::default() },
            first_names: HashMap::new(),
            blocks: Vec::new(),
        }
    }

    fn top(&mut self) -> Result<(), PackError> {
        let Some(TopEntry { mode, mtime }) = self.options.top.filter(|_| !self.options.prefix.is_root())
        else {
            return Ok(());
        };
        self.header(&self.directory_name(&RelPath::root()), EntryType::Directory, b"", mode, None, mtime)
    }

    fn entry(&mut self, index: usize) -> Result<(), PackError> {
        let manifest = self.manifest;
        let entry = &manifest.entries()[index];
        match &entry.kind {
            Kind::Directory => self.directory(entry)?,
            Kind::Symlink { target } => self.symlink(entry, target)?,
            Kind::File { .. } => {
                let fetched = self.window.take().ok_or(PackError::ThreadDied)?;
                self.file(index, fetched)?;
            }
        }
        self.report();
        Ok(())
    }

    fn finish(mut self) -> Result<Packed, PackError> {
        self.write(&[0; 2 * pax::BLOCK as usize])?;
        self.out.flush().map_err(PackError::Write)?;
        for indices in [&mut self.packed.vanished, &mut self.packed.unstable] {
            indices.sort_unstable();
            indices.dedup();
        }
        if !self.packed.unstable.is_empty() {
            // A file that is sent again is a new file: its other names must be linked again.
            let Packed { unstable, sent, .. } = &mut self.packed;
            let before = unstable.clone();
            Groups::of(self.manifest).complete(unstable);
            unstable.retain(|at| sent[*at].is_some() || before.binary_search(at).is_ok());
        }
        (self.progress)(self.packed.amount);
        Ok(self.packed)
    }

    fn directory(&mut self, entry: &Entry) -> Result<(), PackError> {
        self.packed.amount.files += 1;
        let name = self.directory_name(&entry.path);
        self.header(&name, EntryType::Directory, b"", entry.mode, None, entry.mtime)
    }

    fn symlink(&mut self, entry: &Entry, target: &[u8]) -> Result<(), PackError> {
        self.packed.amount.files += 1;
        let name = self.name(&entry.path);
        self.header(name.as_bytes(), EntryType::Symlink, target, entry.mode, None, entry.mtime)
    }

    fn file(&mut self, index: usize, fetched: Fetched) -> Result<(), PackError> {
        match fetched {
            Fetched::Small { facts, bytes, digest, steadiness } => {
                self.small(index, facts, &bytes, digest, steadiness)?;
            }
            Fetched::Large { facts, extents, pieces } => self.large(index, facts, &extents, &pieces)?,
            Fetched::SameFile { facts } => return self.further_name(index, facts),
            Fetched::Vanished => self.packed.vanished.push(index),
            Fetched::OtherKind => self.packed.unstable.push(index),
            Fetched::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn small(
        &mut self,
        index: usize,
        facts: Facts,
        bytes: &[u8],
        digest: Digest,
        steadiness: Steadiness,
    ) -> Result<(), PackError> {
        self.file_header(index, facts, &Extents::whole(facts.stamp.size))?;
        self.write(bytes)?;
        self.packed.amount.bytes += bytes.len() as u64;
        self.file_sent(index, facts, bytes.len() as u64, digest, steadiness)
    }

    fn large(
        &mut self,
        index: usize,
        facts: Facts,
        extents: &Extents,
        pieces: &Receiver<Piece>,
    ) -> Result<(), PackError> {
        self.file_header(index, facts, extents)?;
        let data = extents.data(facts.stamp.size);
        loop {
            match pieces.recv().map_err(|_| PackError::ThreadDied)? {
                Piece::Data(bytes) => {
                    self.write(&bytes)?;
                    self.packed.amount.bytes += bytes.len() as u64;
                    self.report();
                }
                Piece::Hole(bytes) => {
                    self.packed.amount.bytes += bytes as u64;
                    self.report();
                }
                Piece::End { digest, steadiness } => {
                    return self.file_sent(index, facts, data, digest, steadiness);
                }
                Piece::Failed(error) => return Err(error),
            }
        }
    }

    /// Sends a hard link to the name already sent for the same file; without one, the file itself.
    fn further_name(&mut self, index: usize, facts: Facts) -> Result<(), PackError> {
        let entry = &self.manifest.entries()[index];
        let first = file_id(&facts.stamp, entry).and_then(|id| self.first_names.get(&id).copied());
        let Some((first, sent)) = first.and_then(|first| Some((first, self.packed.sent[first]?))) else {
            let fetched = (self.fetch_apart)(index)?;
            return self.file(index, fetched);
        };
        let linked = &self.manifest.entries()[first];
        let (name, target) = (self.name(&entry.path), self.name(&linked.path));
        let mtime = linked.mtime_of(&sent.stamp);
        self.header(name.as_bytes(), EntryType::Link, target.as_bytes(), sent.mode, None, mtime)?;
        self.packed.amount.files += 1;
        self.packed.sent[index] = Some(sent);
        // Written to since, or a reused inode number: both names must be sent again.
        let changed = (facts.stamp.size, facts.stamp.mtime) != (sent.stamp.size, sent.stamp.mtime);
        if changed {
            self.packed.unstable.push(first);
        }
        if changed || self.packed.unstable.contains(&first) {
            self.packed.unstable.push(index);
        }
        Ok(())
    }

    fn file_header(&mut self, index: usize, facts: Facts, extents: &Extents) -> Result<(), PackError> {
        let entry = &self.manifest.entries()[index];
        let (name, mode) = (self.name(&entry.path), facts.mode.unwrap_or(entry.mode));
        let mtime = entry.mtime_of(&facts.stamp);
        let content = Some((extents, facts.stamp.size));
        self.header(name.as_bytes(), EntryType::Regular, b"", mode, content, mtime)
    }

    /// Pads the content to whole blocks and records the file.
    fn file_sent(
        &mut self,
        index: usize,
        facts: Facts,
        data: u64,
        digest: Digest,
        steadiness: Steadiness,
    ) -> Result<(), PackError> {
        self.write(&[0; pax::BLOCK as usize][..pax::padding(data) as usize])?;
        let entry = &self.manifest.entries()[index];
        let mode = facts.mode.unwrap_or(entry.mode);
        self.packed.sent[index] = Some(Sent { mode, stamp: facts.stamp, digest });
        self.packed.amount.files += 1;
        if steadiness == Steadiness::Unsteady {
            self.packed.unstable.push(index);
        }
        if let Some(id) = file_id(&facts.stamp, entry)
            && entry.links > 1
        {
            self.first_names.entry(id).or_insert(index);
        }
        Ok(())
    }

    fn header(
        &mut self,
        name: &[u8],
        entry_type: EntryType,
        link: &[u8],
        mode: u32,
        content: Option<(&Extents, u64)>,
        mtime: Timestamp,
    ) -> Result<(), PackError> {
        let PackOptions { uid, gid, .. } = *self.options;
        let size = content.map_or(0, |(extents, size)| extents.data(size));
        let holes = content.filter(|(extents, size)| **extents != Extents::whole(*size));
        self.blocks.clear();
        Outgoing { name, entry_type, link, mode: mode & 0o7777, uid, gid, size, mtime, holes }
            .write_to(&mut self.blocks);
        self.out.write_all(&self.blocks).map_err(PackError::Write)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), PackError> {
        self.out.write_all(bytes).map_err(PackError::Write)
    }

    fn name(&self, path: &RelPath) -> RelPath {
        self.options.prefix.append(path)
    }

    fn directory_name(&self, path: &RelPath) -> Vec<u8> {
        [self.name(path).as_bytes(), b"/"].concat()
    }

    fn report(&mut self) {
        let (done, reported) = (self.packed.amount, self.reported);
        if done.files - reported.files >= REPORT_EVERY.files
            || done.bytes - reported.bytes >= REPORT_EVERY.bytes
        {
            self.reported = done;
            (self.progress)(done);
        }
    }
}
