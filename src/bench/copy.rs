//! A copy of the source tree, for builds that must not change the user's. It is complete, because a
//! mount also shows ignored files. Content, modes, links and times are kept; a file with several
//! names becomes several files, and sockets, fifos and devices are left out.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use cap_std::{ambient_authority, fs::Dir};

use crate::{
    bench::artifacts::Belongings,
    entry::{Amount, Kind, RelPath, host_path},
    sys::{
        at,
        host::{self, Space},
        metadata,
    },
    tree::{
        Entry,
        ignore::{BadPattern, Rules},
        scan::{Scan, ScanError, ScanOptions, scan},
    },
};

/// Making a file takes several round trips on a slow file system.
const THREADS: usize = 8;

/// The size that a small file takes.
const CLUSTER: u64 = 4096;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source tree cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// An empty list of patterns was refused.
    #[error(transparent)]
    Rules(#[from] BadPattern),
    /// One entry.
    #[error("could not copy {path}: {source}")]
    Entry {
        /// Which.
        path: RelPath,
        /// The system's error.
        source: io::Error,
    },
    /// The copy's place.
    #[error("could not make {path:?}: {source}")]
    Place {
        /// Where.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// There is no room.
    #[error("a copy of the source tree needs {needed} bytes, and {free} are free")]
    NoRoom {
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
    },
    /// The copy is no longer wanted.
    #[error("it was cut off")]
    Stopped,
}

/// The tree that copies are made of.
pub struct Original {
    root: PathBuf,
    scan: Scan,
}

impl Original {
    /// Scans all below `root`, without staging directories.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn look(root: &Path) -> Result<Original, CopyError> {
        let rules = Rules::new([""; 0])?;
        let options = ScanOptions { rules: &rules, leave_out: &[], progress: &|_| () };
        Ok(Original { root: root.to_owned(), scan: scan(root, &options)? })
    }

    /// Its size.
    pub fn amount(&self) -> Amount {
        let manifest = &self.scan.manifest;
        Amount { files: manifest.entries().len() as u64, bytes: manifest.bytes() }
    }

    /// Refuses when `place` has no room for `copies` copies.
    ///
    /// # Errors
    /// [`CopyError::NoRoom`]. A file system that does not report its room may become full.
    pub fn refuse_without_room(&self, place: &Path, copies: u64) -> Result<(), CopyError> {
        let size_of = |entry: &Entry| match entry.kind {
            Kind::File { size } => size.next_multiple_of(CLUSTER),
            Kind::Directory | Kind::Symlink { .. } => CLUSTER,
        };
        let one: u64 = self.scan.manifest.entries().iter().map(size_of).sum();
        let needed = one.saturating_mul(copies);
        match host::space(place) {
            Ok(Space { free, .. }) if free < needed => Err(CopyError::NoRoom { needed, free }),
            _ => Ok(()),
        }
    }

    /// Copies it to `to`, which must not exist, while `stop` is not set.
    ///
    /// # Errors
    /// The first error of any thread; the files copied until then stay.
    pub fn copy(&self, to: &Path, stop: &AtomicBool) -> Result<(), CopyError> {
        let place = |source| CopyError::Place { path: to.to_owned(), source };
        std::fs::create_dir_all(to.parent().unwrap_or(to)).map_err(place)?;
        std::fs::create_dir(to).map_err(place)?;
        let entries = self.scan.manifest.entries();
        let is_directory = |entry: &&Entry| entry.kind == Kind::Directory;
        for entry in entries.iter().filter(is_directory) {
            path_of(to, entry).and_then(std::fs::create_dir).map_err(at_entry(entry))?;
        }
        let others: Vec<&Entry> = entries.iter().filter(|entry| !is_directory(entry)).collect();
        self.copy_others(&others, to, stop)?;
        // The inner ones first: new entries change a directory's time, and it may become read-only.
        for entry in entries.iter().rev().filter(is_directory) {
            finish_directory(to, entry).map_err(at_entry(entry))?;
        }
        let mode = metadata_of(&self.root).and_then(|mode| std::fs::set_permissions(to, mode));
        where_allowed(mode).map_err(place)
    }

    fn copy_others(&self, entries: &[&Entry], to: &Path, stop: &AtomicBool) -> Result<(), CopyError> {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                if stop.load(Ordering::Relaxed) {
                    return Err(CopyError::Stopped);
                }
                self.copy_one(entry, to).map_err(at_entry(entry))?;
            }
            Ok(())
        };
        std::thread::scope(|threads| {
            let running: Vec<_> = (0..THREADS.min(entries.len())).map(|_| threads.spawn(work)).collect();
            let ended = running.into_iter().map(|thread| thread.join().unwrap_or(Err(CopyError::Stopped)));
            ended.fold(Ok(()), Result::and)
        })
    }

    fn copy_one(&self, entry: &Entry, to: &Path) -> io::Result<()> {
        let (from, to) = (path_of(&self.root, entry)?, path_of(to, entry)?);
        let (dir, name) = (parent_of(&to)?, entry.path.file_name().unwrap_or_default());
        match &entry.kind {
            Kind::Symlink { target } => at::symlink(&dir, name, target)?,
            Kind::File { .. } | Kind::Directory => {
                // Made with its mode, because some modes cannot be changed afterwards.
                let mut made = at::create_file_as(&dir, name, entry.mode)?.into_std();
                io::copy(&mut std::fs::File::open(from)?, &mut made)?;
                where_allowed(at::set_mode(&dir, name, entry.mode))?;
            }
        }
        at::set_mtime(&dir, name, entry.mtime)
    }
}

fn at_entry(entry: &Entry) -> impl FnOnce(io::Error) -> CopyError {
    let path = entry.path.clone();
    move |source| CopyError::Entry { path, source }
}

fn path_of(root: &Path, entry: &Entry) -> io::Result<PathBuf> {
    host_path::join(root, &entry.path).ok_or_else(|| io::ErrorKind::InvalidFilename.into())
}

fn parent_of(path: &Path) -> io::Result<Dir> {
    Dir::open_ambient_dir(path.parent().unwrap_or(path), ambient_authority())
}

fn finish_directory(to: &Path, entry: &Entry) -> io::Result<()> {
    let (dir, name) = (parent_of(&path_of(to, entry)?)?, entry.path.file_name().unwrap_or_default());
    where_allowed(at::set_mode(&dir, name, entry.mode))?;
    at::set_mtime(&dir, name, entry.mtime)
}

fn metadata_of(path: &Path) -> io::Result<std::fs::Permissions> {
    Ok(path.metadata()?.permissions())
}

/// Changes the copy at `root` as an edit would: a small file of the bench at its top gets new
/// content.
///
/// It is not known which files the command reads. A changed byte in a user's file might break it,
/// or cause any amount of work. So the measured build gets one edited file that matters to it as
/// little as possible.
///
/// # Errors
/// The system's error.
pub fn edit(root: &Path, number: u32) -> io::Result<()> {
    let moment = metadata::now();
    std::fs::write(root.join("fastbuild-bench"), format!("{number} {} {}\n", moment.secs, moment.nanos))
}

/// A mode that cannot be changed in the copy is accepted: the original's could not be either.
fn where_allowed(set: io::Result<()>) -> io::Result<()> {
    set.or_else(|error| if at::is_mode_refusal(&error) { Ok(()) } else { Err(error) })
}

/// [`Original::copy`] on a thread of its own, which ends soon after the future is dropped.
///
/// # Errors
/// As there.
pub async fn copy_on_a_thread(
    original: &Arc<Original>,
    to: &Path,
    belongings: &Belongings,
) -> Result<(), CopyError> {
    let (original, to) = (Arc::clone(original), to.to_owned());
    let copied = belongings.on_a_thread("copy", move |stop| original.copy(&to, stop)).await;
    copied.unwrap_or(Err(CopyError::Stopped))
}

#[cfg(all(test, unix))]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    };

    use super::*;

    fn look(root: &Path) -> Vec<(RelPath, Kind, u32, crate::entry::Timestamp)> {
        let scan = Original::look(root).unwrap().scan;
        let entries = scan.manifest.into_entries().into_iter();
        entries.map(|entry| (entry.path, entry.kind, entry.mode, entry.mtime)).collect()
    }

    #[test]
    fn a_copy_is_like_its_original_down_to_modes_and_times() {
        let home = tempfile::tempdir().unwrap();
        let from = home.path().join("from");
        fs::create_dir_all(from.join("closed/deep")).unwrap();
        fs::create_dir(from.join("empty")).unwrap();
        fs::write(from.join("closed/deep/file"), "content").unwrap();
        fs::write(from.join("script"), "#!/bin/sh\n").unwrap();
        symlink("../nowhere", from.join("link")).unwrap();
        fs::create_dir(from.join(".fastbuild-stage-other")).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
        for name in ["closed/deep/file", "script", "closed/deep"] {
            fs::File::open(from.join(name)).unwrap().set_modified(old).unwrap();
        }
        fs::set_permissions(from.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(from.join("closed/deep/file"), fs::Permissions::from_mode(0o400)).unwrap();
        fs::set_permissions(from.join("closed"), fs::Permissions::from_mode(0o555)).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o750)).unwrap();
        let to = home.path().join("new/place/to");
        Original::look(&from).unwrap().copy(&to, &AtomicBool::new(false)).unwrap();
        assert_eq!(look(&from), look(&to));
        assert_eq!(fs::read_to_string(to.join("closed/deep/file")).unwrap(), "content");
        assert_eq!(to.metadata().unwrap().mode() & 0o777, 0o750);
        assert!(!to.join(".fastbuild-stage-other").exists());
        for root in [from, to] {
            fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn a_copy_can_be_cut_off() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("from")).unwrap();
        fs::write(home.path().join("from/file"), "").unwrap();
        let original = Original::look(&home.path().join("from")).unwrap();
        let copied = original.copy(&home.path().join("to"), &AtomicBool::new(true));
        assert!(matches!(copied, Err(CopyError::Stopped)), "{copied:?}");
    }

    #[test]
    fn each_edit_is_another_content() {
        let home = tempfile::tempdir().unwrap();
        let mut contents = Vec::new();
        for number in 0..3 {
            edit(home.path(), number).unwrap();
            contents.push(fs::read(home.path().join("fastbuild-bench")).unwrap());
        }
        contents.dedup();
        assert_eq!((contents.len(), fs::read_dir(home.path()).unwrap().count()), (3, 1));
    }

    #[test]
    fn room_is_asked_for_before() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("file"), "x").unwrap();
        let original = Original::look(home.path()).unwrap();
        original.refuse_without_room(home.path(), 1).unwrap();
        let refused = original.refuse_without_room(home.path(), u64::MAX / 8192);
        assert!(matches!(refused, Err(CopyError::NoRoom { .. })), "{refused:?}");
    }
}
