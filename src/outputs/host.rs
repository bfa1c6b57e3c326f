//! Looks at an output's place on the host as a whole: on a slow mount each look is a round trip,
//! and a walk makes many of them at once.
//!
//! Each entry is also compared with the record, so that a few hashes tell an agent what need not be
//! listed. Each decision is checked again when it is carried out, so this data may be out of date.

use std::{io, thread, time::Duration};

use super::{
    OutputError, host_error,
    record::{Content, Record, Written},
    target::Target,
};
use crate::{
    entry::{Kind, RelPath, Timestamp},
    outputs::digest::digest_of,
    sys::{
        self,
        at::{self, Look},
        clock::Granularity,
        walk::Walk,
    },
    tree::{
        Digest, Entry,
        ignore::Rules,
        links::Groups,
        scan::{Scan, ScanOptions, scan},
        summary::{Differing, Summarizer, What, bucket_of, buckets_for},
    },
};

/// Threads that read files whose stamps do not decide.
const THREADS: usize = 8;

/// The place of one output as it was found.
#[derive(Debug, Default)]
pub struct HostSide {
    scan: Scan,
    /// One for each entry of the scan.
    standings: Vec<Standing>,
    /// The summary that the other end compares with; empty when there is no directory here.
    summary: Vec<u8>,
    /// The bucket of each entry.
    buckets: Vec<u16>,
}

/// How an entry compares with the record's entry of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The record has no entry of its path.
    Unrecorded,
    /// The record has something else.
    Changed,
    /// A file of the recorded size: it has to be read. After the look none is left.
    Unsure,
    /// Exactly what the record says.
    AsRecorded,
}

impl HostSide {
    /// Looks at everything in an output's place, and compares each entry with the record. Files are
    /// read only where the record's stamps do not decide.
    ///
    /// `None` when the place cannot be read as a whole. Then everything counts as different, and
    /// [`super::stage::Staging::begin`] looks path by path.
    ///
    /// # Errors
    /// When a file that fastbuild wrote cannot be read, for another reason than missing permission.
    pub fn look(target: &Target, record: &Record) -> Result<Option<HostSide>, OutputError> {
        let Some((is_directory, scan)) = scan_place(target) else { return Ok(None) };
        let mut side = HostSide { scan, ..HostSide::default() };
        let recorded = side.hold_against(target, record);
        side.read(target, &recorded)?;
        if is_directory {
            side.summarize(&recorded);
        }
        Ok(Some(side))
    }

    /// [`crate::tree::summary::Summary::to_bytes`] of what is here, as
    /// [`crate::agent::protocol::Query::Named`] has it. Empty when there is no directory.
    ///
    /// Only entries that are exactly as a build left them count as known. Any other entry makes its
    /// bucket differ, so that the container lists what it has there.
    pub fn summary(&self) -> &[u8] {
        &self.summary
    }

    /// How many buckets [`HostSide::summary`] has; one when it is empty.
    pub fn buckets(&self) -> usize {
        buckets_for(self.scan.manifest.entries().len())
    }

    /// The entries that were found, by path below the output's root.
    pub(super) fn manifest(&self) -> &crate::tree::Manifest {
        &self.scan.manifest
    }

    /// What is at `path`, which is below the output's root: `None` when that is not known,
    /// otherwise the result of a look there.
    pub(super) fn look_below(&self, path: &RelPath) -> Option<Option<Look>> {
        let is_special = self.scan.skipped.binary_search_by(|(special, _)| special.cmp(path)).is_ok();
        (!is_special).then(|| self.scan.manifest.get(path).map(look_of))
    }

    /// Whether `path` is exactly what the record says, so that it need not be read.
    pub(super) fn is_as_recorded(&self, path: &RelPath) -> bool {
        let position = self.scan.manifest.position(path);
        position.and_then(|at| self.standings.get(at)).is_some_and(|s| *s == Standing::AsRecorded)
    }

    /// Whether `path` is a directory here.
    pub(super) fn has_directory(&self, path: &RelPath) -> bool {
        self.scan.manifest.get(path).is_some_and(|entry| entry.kind == Kind::Directory)
    }

    /// The entries in buckets that do not differ: the other end has the same.
    pub(super) fn entries_alike<'a>(&'a self, differing: &'a Differing) -> impl Iterator<Item = &'a Entry> {
        let entries = self.scan.manifest.entries().iter().zip(&self.buckets);
        entries.filter(|(_, bucket)| !differing.holds_bucket((**bucket).into())).map(|(entry, _)| entry)
    }

    /// Merges the scan with the record. Returns the recorded file content of each entry.
    fn hold_against(&mut self, target: &Target, record: &Record) -> Vec<Option<Digest>> {
        let root = target.root();
        let blur = Granularity::of(&target.base).span();
        let entries = self.scan.manifest.entries();
        let mut recorded = record.below(&root).filter(|(path, _)| !path.is_root()).peekable();
        let mut digests = Vec::with_capacity(entries.len());
        self.standings.reserve_exact(entries.len());
        for entry in entries {
            while recorded.next_if(|(path, _)| *path < entry.path).is_some() {}
            let written = recorded.next_if(|(path, _)| *path == entry.path).map(|(_, written)| written);
            self.standings.push(
                written.as_ref().map_or(Standing::Unrecorded, |written| standing(entry, written, blur)),
            );
            digests.push(written.and_then(|written| match written.what {
                Content::File(digest) => Some(digest),
                Content::Directory | Content::Symlink(_) => None,
            }));
        }
        digests
    }

    /// Reads the files whose stamps do not decide.
    fn read(&mut self, target: &Target, recorded: &[Option<Digest>]) -> Result<(), OutputError> {
        let entries = self.scan.manifest.entries();
        let unsure = self.standings.iter().enumerate().filter(|(_, standing)| **standing == Standing::Unsure);
        let unsure: Vec<_> = unsure.map(|(index, _)| index).collect();
        let read = |part: &[usize]| -> Result<Vec<Standing>, OutputError> {
            let mut walk = Walk::new(&target.dir);
            let mut found = Vec::with_capacity(part.len());
            for index in part {
                let place = target.prefix.append(&entries[*index].path);
                let digest =
                    read_at(&mut walk, &place).map_err(host_error("read", target.absolute(&place)))?;
                let same = digest.is_some() && digest == recorded[*index];
                found.push(if same { Standing::AsRecorded } else { Standing::Changed });
            }
            Ok(found)
        };
        let parts = unsure.chunks(unsure.len().div_ceil(THREADS).max(1));
        let found: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = parts.map(|part| scope.spawn(|| read(part))).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined.map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let mut unsure = unsure.into_iter();
        for part in found {
            for (standing, index) in part?.into_iter().zip(&mut unsure) {
                self.standings[index] = standing;
            }
        }
        Ok(())
    }

    fn summarize(&mut self, recorded: &[Option<Digest>]) {
        let entries = self.scan.manifest.entries();
        let buckets = self.buckets();
        let (mut summarizer, groups) = (Summarizer::new(buckets), Groups::of(&self.scan.manifest));
        for (at, ((entry, standing), digest)) in entries.iter().zip(&self.standings).zip(recorded).enumerate()
        {
            let what = match standing {
                Standing::AsRecorded => What::of(&entry.kind, *digest),
                // Never equal to another one.
                Standing::Unrecorded | Standing::Changed | Standing::Unsure => What::File(0, None),
            };
            summarizer.add(&entry.path, what, entry.mode & 0o777, Timestamp::default());
            summarizer.link(&entry.path, groups.first_name(&self.scan.manifest, at));
        }
        self.summary = summarizer.finish().to_bytes();
        // There are never more buckets than that.
        self.buckets = entries.iter().map(|entry| bucket_of(&entry.path, buckets) as u16).collect();
    }
}

/// How an entry compares with the record, by its metadata. Two changes that lie at most `blur`
/// apart may give one stamp.
fn standing(entry: &Entry, written: &Written, blur: Duration) -> Standing {
    let same = match (&entry.kind, &written.what) {
        (Kind::Directory, Content::Directory) => true,
        (Kind::Symlink { target }, Content::Symlink(recorded)) => target == recorded,
        (Kind::File { size }, Content::File(_)) => {
            let stamp = &entry.stamp;
            let is_past = stamp.mtime.max(stamp.ctime) < written.seen.before_by(blur);
            // Only root can have read or written a file that has no read permission.
            let is_sure = is_past || entry.mode & 0o444 == 0;
            match (*stamp == written.stamp && is_sure, *size == written.stamp.size) {
                (true, _) => true,
                (false, true) => return Standing::Unsure,
                (false, false) => false,
            }
        }
        _ => false,
    };
    if same { Standing::AsRecorded } else { Standing::Changed }
}

/// The digest of a file; `None` when it is gone or may not be read.
fn read_at(walk: &mut Walk<'_>, place: &RelPath) -> io::Result<Option<Digest>> {
    let opened = walk.parent(place).and_then(|(dir, name)| at::open_file(dir, name));
    match opened.and_then(|mut file| digest_of(&mut file)) {
        Ok(digest) => Ok(Some(digest)),
        Err(error) if sys::is_absence(&error) || error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error),
    }
}

fn look_of(entry: &Entry) -> Look {
    Look { kind: Some(entry.kind.clone()), mode: entry.mode, stamp: entry.stamp, links: entry.links }
}

/// Whether there is a directory, and what lies in it.
fn scan_place(target: &Target) -> Option<(bool, Scan)> {
    match Walk::new(&target.dir).look(&target.prefix) {
        Ok(Some(Look { kind: Some(Kind::Directory), .. })) => {
            let options = ScanOptions { rules: &Rules::none(), leave_out: &[], progress: &|_| () };
            Some((true, scan(&target.root(), &options).ok()?))
        }
        // Nothing, or a file: there is nothing below it.
        Ok(_) => Some((false, Scan::default())),
        Err(_) => None,
    }
}
