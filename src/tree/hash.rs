//! Computes the digests of a tree's files that no [`super::index`] knows.
//!
//! In: a manifest and indices of its entries. Out: a digest for each file whose stamp was that of
//! the manifest before and after the read, and the list of the others. So a digest and a stamp from
//! here belong together, even if files are written meanwhile. Several threads read: as many as
//! processors, and up to eight where the file system is slow, such as a mount through a virtual
//! machine. Each holds one piece of one file, so memory does not grow with the files. Links are
//! never followed.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use sha2::{Digest as _, Sha256};

use super::{Digest, Entry, Manifest};
use crate::{
    entry::Amount,
    sys::{
        extents::{Extents, Step, ZEROS},
        latency::{Pace, processors},
        metadata::{self, Directory},
        source_file::{self, Opened},
    },
};

/// Slow mounts do not serve more threads faster.
const MOST_THREADS: usize = 8;

/// Bytes per read.
const PIECE: usize = 256 << 10;

/// The results.
#[derive(Debug, Default)]
pub struct Hashed {
    /// Indices in the manifest with the digest of the content, ascending.
    pub digests: Vec<(usize, Digest)>,
    /// Indices of files that differ from the manifest: written to, replaced, removed, of another
    /// kind.
    pub changed: Vec<usize>,
    /// Indices of files that could not be read, with the system's error.
    pub failed: Vec<(usize, io::Error)>,
}

/// Hashes the files of `manifest`, a scan of `root`, at the given `indices`. `progress` is called
/// with the sum so far, from any thread but never from two at once.
pub fn hash_files(
    root: &Path,
    manifest: &Manifest,
    indices: &[usize],
    progress: &(dyn Fn(Amount) + Sync),
) -> Hashed {
    let root = match Directory::open_root(root) {
        Ok(root) => root,
        Err(error) if indices.is_empty() || metadata::is_gone(&error) => {
            return Hashed { changed: indices.to_vec(), ..Hashed::default() };
        }
        Err(error) => {
            let same = |at: &usize| (*at, io::Error::new(error.kind(), error.to_string()));
            return Hashed { failed: indices.iter().map(same).collect(), ..Hashed::default() };
        }
    };
    let work = Work {
        root,
        entries: manifest.entries(),
        indices,
        next: AtomicUsize::new(0),
        threads: AtomicUsize::new(1),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        progress,
        telling: Mutex::new(()),
        hashed: Mutex::default(),
    };
    work.run()
}

struct Work<'a> {
    root: Directory,
    entries: &'a [Entry],
    indices: &'a [usize],
    /// The first of `indices` that no thread has taken.
    next: AtomicUsize,
    threads: AtomicUsize,
    files: AtomicU64,
    bytes: AtomicU64,
    progress: &'a (dyn Fn(Amount) + Sync),
    telling: Mutex<()>,
    hashed: Mutex<Hashed>,
}

/// The result for one file.
enum Outcome {
    Digest(Digest),
    Changed,
}

impl Work<'_> {
    fn run(self) -> Hashed {
        let processors = processors();
        thread::scope(|scope| {
            for _ in 1..processors.min(self.indices.len()) {
                self.start_another(scope, processors);
            }
            self.work(scope);
        });
        self.tell();
        let mut hashed = self.hashed.into_inner().unwrap_or_else(PoisonError::into_inner);
        hashed.digests.sort_unstable_by_key(|(at, _)| *at);
        hashed.changed.sort_unstable();
        hashed.failed.sort_unstable_by_key(|(at, _)| *at);
        hashed
    }

    /// Runs one thread: hashes files until none are left.
    fn work<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>) {
        let mut hashed = Hashed::default();
        let mut piece = vec![0; PIECE];
        let mut pace = Pace::default();
        while let Some(&at) = self.indices.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let opened = pace.time(1, || {
                self.root.open_file_below(&self.entries[at].path).and_then(source_file::look_into)
            });
            if pace.is_slow() {
                self.start_another(scope, MOST_THREADS);
            }
            match opened.and_then(|opened| self.hash(opened, &self.entries[at], &mut piece)) {
                Ok(Outcome::Digest(digest)) => hashed.digests.push((at, digest)),
                Ok(Outcome::Changed) => hashed.changed.push(at),
                Err(error) if metadata::is_gone(&error) || source_file::says_other_kind(&error) => {
                    hashed.changed.push(at);
                }
                Err(error) => hashed.failed.push((at, error)),
            }
            self.files.fetch_add(1, Ordering::Relaxed);
            self.tell();
        }
        let mut all = self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
        all.digests.append(&mut hashed.digests);
        all.changed.append(&mut hashed.changed);
        all.failed.append(&mut hashed.failed);
    }

    /// Starts a thread if there is a file for it and there are fewer than `most`.
    fn start_another<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>, most: usize) {
        let is_work_left = self.next.load(Ordering::Relaxed) < self.indices.len();
        let one_more = |threads: usize| (is_work_left && threads < most).then_some(threads + 1);
        if self.threads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok() {
            // If no thread can be started, the others do the work.
            let _ = thread::Builder::new().spawn_scoped(scope, move || self.work(scope));
        }
    }

    fn hash(&self, opened: Opened, entry: &Entry, piece: &mut [u8]) -> io::Result<Outcome> {
        let Opened::Regular(file, before) = opened else { return Ok(Outcome::Changed) };
        if before.stamp != entry.stamp {
            return Ok(Outcome::Changed);
        }
        let Some(digest) = self.read(&file, &Extents::of(&file, &before), entry.stamp.size, piece)? else {
            return Ok(Outcome::Changed);
        };
        let is_steady = source_file::facts(&file)?.stamp == entry.stamp;
        Ok(if is_steady { Outcome::Digest(digest) } else { Outcome::Changed })
    }

    /// Hashes exactly `size` bytes, without reading holes; `None` when there are fewer. The stamp
    /// tells whether there are more.
    fn read(
        &self,
        mut file: &File,
        extents: &Extents,
        size: u64,
        piece: &mut [u8],
    ) -> io::Result<Option<Digest>> {
        let mut hasher = Sha256::new();
        let mut left = size;
        while left > 0 {
            let length = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
            let read = match extents.step(size - left, length) {
                Step::Hole(length) => {
                    let length = length.min(ZEROS.len());
                    hasher.update(&ZEROS[..length]);
                    file.seek(SeekFrom::Start(size - left + length as u64))?;
                    length
                }
                Step::Data(length) => match file.read(&mut piece[..length]) {
                    Ok(0) => return Ok(None),
                    Ok(read) => {
                        hasher.update(&piece[..read]);
                        read
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                },
            };
            left -= read as u64;
            self.bytes.fetch_add(read as u64, Ordering::Relaxed);
            if left > 0 {
                self.tell();
            }
        }
        Ok(Some(Digest(hasher.finalize().into())))
    }

    /// Reports the progress, unless another thread is doing so.
    fn tell(&self) {
        if let Ok(_alone) = self.telling.try_lock() {
            (self.progress)(Amount {
                files: self.files.load(Ordering::Relaxed),
                bytes: self.bytes.load(Ordering::Relaxed),
            });
        }
    }
}

// Two attributes, because clippy recognizes a test module only by a plain `cfg(test)`.
#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::{
        fs,
        os::unix::{fs as unix, fs::FileExt as _},
    };

    use tempfile::TempDir;

    use super::*;
    use crate::{
        entry::Kind,
        tree::{
            ignore::Rules,
            scan::{ScanOptions, scan},
        },
    };

    fn manifest_of(root: &TempDir) -> Manifest {
        let options = ScanOptions { rules: &Rules::none(), leave_out: &[], progress: &|_| {} };
        scan(root.path(), &options).unwrap().manifest
    }

    fn files(manifest: &Manifest) -> Vec<usize> {
        let is_file = |at: &usize| matches!(manifest.entries()[*at].kind, Kind::File { .. });
        (0..manifest.entries().len()).filter(is_file).collect()
    }

    fn digest(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    #[test]
    fn each_file_gets_the_digest_of_its_content() {
        let root = TempDir::new().unwrap();
        let mut wanted = Vec::new();
        for number in 0..300 {
            let content = vec![number as u8; number * 7 % 900];
            fs::write(root.path().join(format!("f{number:03}")), &content).unwrap();
            wanted.push(digest(&content));
        }
        let large: Vec<u8> = (0..PIECE * 3 + 17).map(|at| (at % 251) as u8).collect();
        fs::create_dir(root.path().join("g")).unwrap();
        fs::write(root.path().join("g/large"), &large).unwrap();
        wanted.push(digest(&large));
        let manifest = manifest_of(&root);
        let told = Mutex::new(Vec::new());
        let tell = |amount: Amount| told.lock().unwrap().push((amount.files, amount.bytes));
        let hashed = hash_files(root.path(), &manifest, &files(&manifest), &tell);
        let (places, digests): (Vec<_>, Vec<_>) = hashed.digests.into_iter().unzip();
        assert_eq!(places, files(&manifest));
        assert!(digests == wanted);
        assert!(hashed.changed.is_empty() && hashed.failed.is_empty());
        let told = told.into_inner().unwrap();
        assert!(told.is_sorted_by_key(|(files, _)| *files));
        assert_eq!(told.last(), Some(&(301, manifest.bytes())));
    }

    #[test]
    fn what_is_not_the_file_of_the_scan_gets_no_digest() {
        let root = TempDir::new().unwrap();
        let at = |name: &str| root.path().join(name);
        let outside = TempDir::new().unwrap();
        let names =
            ["as-it-was", "dir/below", "gone", "linked", "longer", "now-dir", "now-fifo", "rewritten"];
        fs::create_dir(at("dir")).unwrap();
        for name in names {
            fs::write(at(name), "12345").unwrap();
        }
        let manifest = manifest_of(&root);
        for name in &names[2..] {
            fs::remove_file(at(name)).unwrap();
        }
        fs::rename(at("dir"), outside.path().join("dir")).unwrap();
        unix::symlink(outside.path().join("dir"), at("dir")).unwrap();
        unix::symlink("as-it-was", at("linked")).unwrap();
        fs::write(at("longer"), "123456").unwrap();
        fs::create_dir(at("now-dir")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, at("now-fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        fs::write(at("rewritten"), "54321").unwrap();
        let hashed = hash_files(root.path(), &manifest, &files(&manifest), &|_| {});
        let name = |at: &usize| manifest.entries()[*at].path.to_string();
        let [good] = &hashed.digests[..] else { panic!("{hashed:?}") };
        assert_eq!((name(&good.0), good.1), ("as-it-was".to_owned(), digest(b"12345")));
        assert_eq!(hashed.changed.iter().map(name).collect::<Vec<_>>(), names[1..]);
        assert!(hashed.failed.is_empty());
    }

    #[test]
    fn a_file_that_is_written_to_while_it_is_read_gets_no_digest() {
        let root = TempDir::new().unwrap();
        let path = root.path().join("file");
        fs::write(&path, vec![0; PIECE * 2]).unwrap();
        let manifest = manifest_of(&root);
        let stamp = manifest.entries()[0].stamp;
        let write = |done: Amount| {
            // Writes between the two pieces until the file's stamp changes.
            while done.files == 0 && source_file::facts_at(&path).unwrap().stamp == stamp {
                let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
                file.write_all_at(b"x", PIECE as u64 + 5).unwrap();
            }
        };
        let hashed = hash_files(root.path(), &manifest, &[0], &write);
        assert_eq!((hashed.digests.len(), hashed.changed), (0, vec![0]));
    }

    #[test]
    fn a_tree_that_is_gone_has_changed() {
        let root = TempDir::new().unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        let manifest = manifest_of(&root);
        fs::remove_dir_all(root.path()).unwrap();
        assert_eq!(hash_files(root.path(), &manifest, &[0], &|_| {}).changed, [0]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_from_one_that_changed() {
        let manifest = {
            let root = TempDir::new().unwrap();
            fs::write(root.path().join("file"), "").unwrap();
            manifest_of(&root)
        };
        // Not even the root can be entered: its name is too long.
        let root = Path::new("/").join("n".repeat(300));
        let hashed = hash_files(&root, &manifest, &[0], &|_| {});
        assert_eq!((hashed.changed.len(), hashed.failed.len()), (0, 1));
    }
}
