//! One measurement, from the check for room to the figures.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    ops::ControlFlow,
    path::Path,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{scratch::Scratch, small::Small};
use crate::sys::{
    host::{self, Space},
    page_cache,
};

/// How much is written and read at once.
const BLOCK: usize = 1 << 20;

/// The usual least allocation of a file system.
const CLUSTER: u64 = 4096;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Bytes of the large file.
    pub sequential: u64,
    /// How many small files there are.
    pub files: u64,
    /// Bytes of each of them.
    pub file_bytes: u64,
    /// How many directories they are in.
    pub directories: u64,
}

impl Sizes {
    /// A gibibyte, and the output of a site generator for a site of medium size.
    pub const FULL: Sizes = Sizes { sequential: 1 << 30, files: 2000, file_bytes: 5000, directories: 20 };

    /// As [`Sizes::FULL`], with a large file of 128 MiB.
    pub const QUICK: Sizes = Sizes { sequential: 128 << 20, ..Sizes::FULL };

    /// Bytes that must be free for it.
    pub fn room(&self) -> u64 {
        let small = self.files.saturating_mul(self.file_bytes.next_multiple_of(CLUSTER));
        // A directory's names, and the file system's own metadata.
        let directories = self.directories.saturating_add(1).saturating_mul(4 * CLUSTER);
        self.sequential.saturating_add(small).saturating_add(directories)
    }
}

/// One of the timed steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Step {
    /// The large file is written, until it is on the disk.
    Write,
    /// It is read.
    Read,
    /// The small files and their directories are made.
    Create,
    /// The metadata of each small file is read.
    Stat,
    /// Each is read.
    ReadSmall,
    /// Each is renamed.
    Rename,
    /// Each is deleted, and then the directories.
    Delete,
}

impl Step {
    /// The step's name, for people.
    pub fn doing(self) -> &'static str {
        match self {
            Step::Write => "writing",
            Step::Read => "reading",
            Step::Create => "making small files",
            Step::Stat => "looking at small files",
            Step::ReadSmall => "reading small files",
            Step::Rename => "renaming small files",
            Step::Delete => "deleting small files",
        }
    }
}

/// How far a step is: bytes of the large file, or small files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Which step.
    pub step: Step,
    /// The amount done.
    pub done: u64,
    /// The whole amount.
    pub of: u64,
}

/// Where the large file was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadFrom {
    /// The kernel was told to drop the file from its cache.
    Disk,
    /// The kernel could not be told, and may have had the file in memory.
    PerhapsMemory,
}

/// The results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Their sizes.
    pub sizes: Sizes,
    /// For the large file to be on the disk.
    pub write: Duration,
    /// For reading it.
    pub read: Duration,
    /// Where it was read from.
    pub read_from: ReadFrom,
    /// The small files' times.
    pub small: Small,
}

/// Why a directory was not measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Problem {
    /// The file system is too full.
    #[error("it needs {} MB, and {} MB are free", megabytes(*.needed), .free / 1_000_000)]
    NoRoom {
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
    },
    /// The memory is too full.
    #[error("it needs {} MB of memory, and {} MB are free", megabytes(*.needed), .free / 1_000_000)]
    NoMemory {
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
    },
    /// The watcher stopped it.
    #[error("it was cut off")]
    Stopped,
    /// The file system failed.
    #[error("could not {tried}: {said}")]
    Failed {
        /// The operation.
        tried: String,
        /// The error.
        said: String,
    },
}

/// Rounded up, so that the need does not look smaller than it is.
fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}

pub(super) fn failed(tried: &'static str) -> impl Fn(io::Error) -> Problem {
    move |error| Problem::Failed { tried: tried.to_owned(), said: error.to_string() }
}

/// Is told the progress, and may stop the measurement.
pub type Watcher<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

pub(super) fn tell(watcher: Watcher<'_>, step: Step, done: u64, of: u64) -> Result<(), Problem> {
    match watcher(Progress { step, done, of }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Problem::Stopped),
    }
}

/// Measures `directory`, which must exist.
///
/// # Errors
/// [`Problem`]; in each case all files are removed, if the file system allows it.
pub fn measure(directory: &Path, sizes: &Sizes, watcher: Watcher<'_>) -> Result<Figures, Problem> {
    refuse_without_room(directory, sizes)?;
    let scratch = Scratch::new(directory).map_err(failed("make a directory"))?;
    settle(scratch.path());
    let (write, read, read_from) = large(scratch.path(), sizes.sequential, watcher)?;
    settle(scratch.path());
    let small = super::small::measure(scratch.path(), sizes, watcher)?;
    scratch.remove().map_err(failed("remove the directory"))?;
    Ok(Figures { sizes: *sizes, write, read, read_from, small })
}

/// Makes the file system write earlier data to the disk: the end of a large file keeps its journal
/// busy, and the first thousand small files would have to wait for that.
fn settle(directory: &Path) {
    // Where directories cannot be opened or synced, the system writes at a time of its own.
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
}

/// If a file system does not report its room, the measurement itself shows when it is full.
fn refuse_without_room(directory: &Path, sizes: &Sizes) -> Result<(), Problem> {
    let needed = sizes.room();
    match host::space(directory) {
        Ok(Space { free, .. }) if free < needed => Err(Problem::NoRoom { needed, free }),
        Err(error) if error.kind() != io::ErrorKind::Unsupported => {
            Err(failed("ask how much room there is")(error))
        }
        _ => Ok(()),
    }
}

fn large(
    directory: &Path,
    bytes: u64,
    watcher: Watcher<'_>,
) -> Result<(Duration, Duration, ReadFrom), Problem> {
    let path = directory.join("large");
    let mut block = Block::new();
    let began = Instant::now();
    let mut file = File::create_new(&path).map_err(failed("make a file"))?;
    let mut done = 0;
    while done < bytes {
        let next = block.next(bytes - done);
        file.write_all(next).map_err(failed("write a file"))?;
        done += next.len() as u64;
        tell(watcher, Step::Write, done, bytes)?;
    }
    file.sync_data().map_err(failed("bring a file to the disk"))?;
    let write = began.elapsed();
    let read_from = match page_cache::forget(&file) {
        Ok(()) => ReadFrom::Disk,
        Err(_) => ReadFrom::PerhapsMemory,
    };
    drop(file);
    let read = read_through(&path, bytes, block.room(), watcher)?;
    std::fs::remove_file(&path).map_err(failed("delete a file"))?;
    Ok((write, read, read_from))
}

fn read_through(
    path: &Path,
    bytes: u64,
    buffer: &mut [u8],
    watcher: Watcher<'_>,
) -> Result<Duration, Problem> {
    let began = Instant::now();
    let mut file = File::open(path).map_err(failed("open a file"))?;
    let mut done = 0;
    loop {
        let read = file.read(buffer).map_err(failed("read a file"))?;
        if read == 0 {
            break;
        }
        done += read as u64;
        tell(watcher, Step::Read, done, bytes)?;
    }
    let took = began.elapsed();
    if done != bytes {
        let said = format!("{done} of {bytes} bytes came back");
        return Err(Problem::Failed { tried: "read what was written".to_owned(), said });
    }
    Ok(took)
}

/// Bytes that look random, and are numbered so that no two blocks are equal.
struct Block {
    bytes: Vec<u8>,
    number: u64,
}

impl Block {
    fn new() -> Block {
        // Marsaglia's xorshift64; any seed but zero is good.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut word = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        Block { bytes: (0..BLOCK / 8).flat_map(|_| word()).collect(), number: 0 }
    }

    /// The next block, or the beginning of it.
    fn next(&mut self, most: u64) -> &[u8] {
        self.number += 1;
        // Systems that deduplicate do so by clusters.
        for cluster in self.bytes.chunks_mut(CLUSTER as usize) {
            cluster[..8].copy_from_slice(&self.number.to_le_bytes());
        }
        let len = usize::try_from(most).unwrap_or(usize::MAX).min(self.bytes.len());
        &self.bytes[..len]
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const TINY: Sizes =
        Sizes { sequential: 3 * BLOCK as u64 + 5, files: 47, file_bytes: 100, directories: 4 };

    fn entries(directory: &Path) -> usize {
        std::fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn all_of_it_is_done_and_nothing_stays() {
        let home = tempfile::tempdir().unwrap();
        let mut last = BTreeMap::new();
        let mut watcher = |told: Progress| {
            last.insert(told.step.doing(), (told.done, told.of));
            ControlFlow::Continue(())
        };
        let figures = measure(home.path(), &TINY, &mut watcher).unwrap();
        assert_eq!(figures.sizes, TINY);
        let all = [Step::Write, Step::Read].map(|step| (step.doing(), (TINY.sequential, TINY.sequential)));
        let small = [Step::Create, Step::Stat, Step::ReadSmall, Step::Rename, Step::Delete];
        let small = small.map(|step| (step.doing(), (TINY.files, TINY.files)));
        assert_eq!(last, all.into_iter().chain(small).collect());
        assert_eq!(entries(home.path()), 0);
    }

    #[test]
    fn nothing_stays_wherever_it_is_cut_off() {
        let home = tempfile::tempdir().unwrap();
        let steps =
            [Step::Write, Step::Read, Step::Create, Step::Stat, Step::ReadSmall, Step::Rename, Step::Delete];
        for step in steps {
            let mut seen = 0;
            let mut watcher = |told: Progress| {
                seen = seen.max(entries(home.path()));
                if told.step == step { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            assert_eq!(measure(home.path(), &TINY, &mut watcher), Err(Problem::Stopped));
            assert_eq!((seen, entries(home.path())), (1, 0), "{step:?}");
        }
    }

    #[test]
    fn without_room_nothing_is_made_and_the_sizes_are_told() {
        let home = tempfile::tempdir().unwrap();
        let sizes = Sizes { sequential: u64::MAX, ..TINY };
        let mut watcher = |_| panic!("nothing is to be done");
        let problem = measure(home.path(), &sizes, &mut watcher).unwrap_err();
        assert!(matches!(problem, Problem::NoRoom { needed: u64::MAX, free } if free > 0), "{problem:?}");
        assert_eq!(entries(home.path()), 0);
        let told = Problem::NoRoom { needed: 134_000_001, free: 20_999_999 }.to_string();
        assert_eq!(told, "it needs 135 MB, and 20 MB are free");
    }

    #[test]
    fn a_directory_that_is_not_there_is_told() {
        let home = tempfile::tempdir().unwrap();
        let problem = measure(&home.path().join("gone"), &TINY, &mut |_| ControlFlow::Continue(()));
        assert!(matches!(problem, Err(Problem::Failed { .. })), "{problem:?}");
    }

    #[test]
    fn no_block_is_like_another() {
        let mut block = Block::new();
        let one = block.next(u64::MAX).to_vec();
        let two = block.next(u64::MAX).to_vec();
        assert!(one.chunks(CLUSTER as usize).zip(two.chunks(CLUSTER as usize)).all(|(a, b)| a != b));
        assert_eq!((one.len(), block.next(7).len()), (BLOCK, 7));
    }

    #[test]
    fn room_is_counted_in_clusters() {
        let sizes = Sizes { sequential: 10, files: 3, file_bytes: 1, directories: 1 };
        assert_eq!(sizes.room(), 10 + 3 * 4096 + 2 * 4 * 4096);
    }
}
