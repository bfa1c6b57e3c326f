//! The digest of each file when it was last hashed, kept in one file per tree, so that an unchanged
//! file need not be read.
//!
//! In: a manifest with its digests, or a file that [`Index::save`] wrote. Out: the digests of those
//! files of a manifest whose path, device, inode, size, mtime and ctime are all the same. Entries
//! are sorted like a manifest, each path stored as its difference from the one before, so joining
//! the two is one merge, and memory holds only the file's bytes. A missing or damaged file, or one
//! of another version, counts as empty.
//!
//! **Racy entries.** A stamp can hide an edit that comes in the same tick of the file system's
//! clock as the change before it. So a digest is trusted only if the stamp, at the moment of
//! hashing, was older than the clock's granularity ([`HashedAt`]). A local file system uses this
//! machine's clock. The clock of any other file system may be behind it. So there the stamp must
//! also be older than the newest one of the tree, or an earlier run must have seen it, longer ago
//! than the granularity. Entries for which neither is true are stored for the next run, but not
//! trusted: a fresh checkout on a network file system, where all stamps are close to the newest, is
//! hashed twice and not more. One gap remains: where a file system has no ctime of its own (some
//! FUSE ones), an edit that keeps the size and restores the mtime cannot be seen. Neighbours:
//! [`super::scan`](mod@super::scan), [`super::hash`].

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::Path,
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use super::{
    Digest, Manifest,
    hash::hash_files,
    node::{push_number, push_path, push_time, read_number, read_time},
};
use crate::{
    entry::{
        Kind, Stamp, Timestamp,
        path::{self, RelPath},
    },
    sys::{
        self,
        clock::{self, Granularity},
        metadata::Directory,
        source_file::{self, Opened},
    },
};

/// The first bytes of the file; the last of them is the format version.
const MAGIC: &[u8; 8] = b"fbindex\x01";

/// Bytes of the shortest record: flags, a path of one byte, inode, size, a time and the digest.
const SHORTEST: usize = 40;

/// Length in bytes of the SHA-256 at the end of the file, over everything before it.
const SEAL: usize = 32;

/// The largest file accepted as an index, in bytes; more than any tree needs.
const LARGEST: u64 = 4 << 30;

/// A lower bound for the speed of a write to a file, in bytes per millisecond.
const WRITTEN_IN_A_MILLI: u64 = 64 << 10;

/// Digests by path and stamp.
#[derive(Debug, Clone, Default)]
pub struct Index {
    /// The file's records, checked against the SHA-256 at its end.
    records: Vec<u8>,
    /// When it was written: all its stamps are from before.
    saved_at: Timestamp,
}

/// When hashing began, and the granularity of the file system's clock. To be created before
/// [`super::hash::hash_files`] looks at the first file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashedAt {
    moment: Timestamp,
    granularity: Granularity,
    /// The device of `granularity`; on other devices, mounted below the root, the clock is coarse.
    device: u64,
}

impl HashedAt {
    /// The current moment, for the tree below `root`.
    pub fn now(root: &Path) -> HashedAt {
        let moment = clock::file_system_now();
        // Opened, because the root may be a link.
        match File::open(root).and_then(|root| source_file::facts(&root)) {
            Ok(facts) => HashedAt { moment, granularity: Granularity::of(root), device: facts.stamp.dev },
            Err(_) => HashedAt { moment, granularity: Granularity::Coarse, device: 0 },
        }
    }

    fn granularity_for(&self, stamp: &Stamp) -> Granularity {
        // An ext4 with small inodes stores only whole seconds.
        let whole_seconds = stamp.ctime.nanos == 0;
        if stamp.dev == self.device && !whole_seconds { self.granularity } else { Granularity::Coarse }
    }

    /// Whether a change after `moment` must have given another stamp.
    fn is_past(&self, stamp: &Stamp, newest: Timestamp) -> bool {
        let granularity = self.granularity_for(stamp);
        // A write sets the time when it begins; a reader may meanwhile see only a part of it.
        let writing = Duration::from_millis(stamp.size / WRITTEN_IN_A_MILLI);
        let changed = stamp.mtime.max(stamp.ctime);
        let is_older_than = |moment: Timestamp| changed < moment.before_by(granularity.span() + writing);
        match granularity {
            Granularity::Tick => is_older_than(self.moment),
            Granularity::Coarse => is_older_than(self.moment) && is_older_than(newest),
        }
    }
}

/// Whether a digest is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// The stamp was old enough when the file was hashed.
    Ripe,
    /// It was not, or this is not known.
    Young,
}

/// One entry.
struct Record {
    stamp: Stamp,
    digest: Digest,
    age: Age,
    whose: Whose,
}

/// The author of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The user, as far as is known.
    Users,
    /// A build.
    Builds,
}

/// How a tree differs from an index, by stamps. Files alone count.
#[derive(Debug, Default)]
pub struct Differences {
    /// The indices of entries whose path it does not have.
    pub new: Vec<usize>,
    /// Those with another stamp; with the digest that it has, if the size is the same.
    pub other: Vec<(usize, Option<Digest>)>,
    /// The paths that only it has.
    pub gone: Vec<RelPath>,
}

impl Index {
    /// Reads what [`Index::save`] wrote at `path`. Empty if the file is missing or not valid.
    pub fn load(path: &Path) -> Index {
        read(path).and_then(Index::from_bytes).unwrap_or_default()
    }

    fn from_bytes(mut bytes: Vec<u8>) -> Option<Index> {
        let sealed = bytes.len().checked_sub(SEAL)?;
        if Sha256::digest(&bytes[..sealed])[..] != bytes[sealed..] {
            return None;
        }
        bytes.truncate(sealed);
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let saved_at = read_time(&mut rest, 0).ok()?;
        let header = bytes.len() - rest.len();
        bytes.drain(..header);
        Some(Index { records: bytes, saved_at })
    }

    /// The digest of each entry of `manifest`, by index; `None` for entries that are not files, and
    /// for files that must be hashed.
    pub fn digests(&self, manifest: &Manifest) -> Vec<Option<Digest>> {
        self.digests_and_gone(manifest, |_| ())
    }

    /// The same; calls `gone` for each path that only this index has.
    pub fn digests_and_gone(&self, manifest: &Manifest, gone: impl FnMut(&[u8])) -> Vec<Option<Digest>> {
        let mut digests = vec![None; manifest.entries().len()];
        let each = |at: usize, record: &Record| {
            if record.age == Age::Ripe {
                digests[at] = Some(record.digest);
            }
        };
        self.join(manifest, each, gone);
        digests
    }

    /// The same, including untrusted digests: for comparisons where a wrong one only causes extra
    /// work.
    pub fn noted_digests(&self, manifest: &Manifest) -> Vec<Option<Digest>> {
        let mut digests = vec![None; manifest.entries().len()];
        self.join(manifest, |at, record| digests[at] = Some(record.digest), |_| ());
        digests
    }

    /// When it was written.
    pub fn saved_at(&self) -> Timestamp {
        self.saved_at
    }

    /// How `manifest` differs from it.
    pub fn differences(&self, manifest: &Manifest) -> Differences {
        let mut found = Differences::default();
        let files = manifest.entries().iter().enumerate();
        let mut files = files.filter(|(_, entry)| matches!(entry.kind, Kind::File { .. })).peekable();
        let mut records = Records::of(self);
        while let Some(Record { stamp, digest, .. }) = records.next() {
            while let Some((at, _)) =
                files.next_if(|(_, entry)| is_before(entry.path.as_bytes(), &records.path))
            {
                found.new.push(at);
            }
            match files.next_if(|(_, entry)| entry.path.as_bytes() == records.path) {
                Some((_, entry)) if entry.stamp == stamp => {}
                Some((at, entry)) => {
                    found.other.push((at, (entry.stamp.size == stamp.size).then_some(digest)))
                }
                None => found.gone.extend(RelPath::new(records.path.clone())),
            }
        }
        found.new.extend(files.map(|(at, _)| at));
        found
    }

    /// Whether fewer than a tenth of the user's files in this index are below `root` with the same
    /// content. Files of builds do not count: builds write and delete theirs all at once. Always
    /// false for fewer than ten files. `manifest` is a scan of `root`, `digests` comes from
    /// [`Index::digests`]. A file that this scan left out by its outputs or rules counts as
    /// unchanged if it has the same size.
    pub fn is_of_another(&self, root: &Path, manifest: &Manifest, digests: &[Option<Digest>]) -> bool {
        // Fast path without parsing: `SHORTEST` gives an upper bound for the number of records.
        if digests.iter().flatten().count() * 10 >= self.records.len() / SHORTEST {
            return false;
        }
        let root_now = Directory::open_root(root);
        let has_size = |path: &[u8], size: u64| {
            let (Ok(root), Ok(path)) = (&root_now, RelPath::new(path)) else { return false };
            let opened = root.open_file_below(&path).and_then(source_file::look_into);
            matches!(opened, Ok(Opened::Regular(_, facts)) if facts.stamp.size == size)
        };
        let (mut noted, mut same, mut unsure) = (0, 0, Vec::new());
        let mut records = Records::of(self);
        while let Some(record) = records.next() {
            if record.whose == Whose::Builds {
                continue;
            }
            noted += 1;
            let Ok(at) = manifest
                .entries()
                .binary_search_by(|entry| path::compare(entry.path.as_bytes(), &records.path))
            else {
                same += usize::from(has_size(&records.path, record.stamp.size));
                continue;
            };
            let entry = &manifest.entries()[at];
            match entry.kind {
                Kind::File { .. } if entry.stamp == record.stamp => same += 1,
                Kind::File { size } if size == record.stamp.size => unsure.push((at, record.digest)),
                _ => {}
            }
        }
        let enough = noted / 10;
        if same >= enough.max(1) || noted < 10 {
            return false;
        }
        // Another checkout of the same sources has other stamps.
        let places: Vec<_> = unsure.iter().map(|(at, _)| *at).collect();
        let found = hash_files(root, manifest, &places, &|_| {}).digests;
        let is_same = |(at, digest): &(usize, Digest)| {
            unsure.binary_search_by_key(at, |(at, _)| *at).is_ok_and(|i| unsure[i].1 == *digest)
        };
        same + found.iter().filter(|found| is_same(found)).count() < enough
    }

    /// Writes an index of `manifest` to the file at `path`. `digests` has one for each entry, or
    /// `None`: those hashed at `hashed_at` or later, and those that [`Index::digests`] gave from
    /// the present file. `whose` tells who wrote a file.
    ///
    /// # Errors
    /// The system's error; the old file is then unchanged.
    pub fn save(
        path: &Path,
        manifest: &Manifest,
        digests: &[Option<Digest>],
        hashed_at: &HashedAt,
        whose: &dyn Fn(&RelPath) -> Whose,
    ) -> io::Result<()> {
        let ages = ages(path, manifest, digests, hashed_at);
        let bytes = encode(manifest, digests, &ages, whose);
        sys::replace_file(path, |file| file.write_all(&bytes))
    }

    /// Calls `each` for every file of `manifest` whose whole stamp is in this index, and `gone` for
    /// each path that `manifest` does not have.
    fn join(&self, manifest: &Manifest, mut each: impl FnMut(usize, &Record), mut gone: impl FnMut(&[u8])) {
        let entries = manifest.entries();
        let mut records = Records::of(self);
        let mut at = 0;
        while let Some(record) = records.next() {
            while entries.get(at).is_some_and(|entry| is_before(entry.path.as_bytes(), &records.path)) {
                at += 1;
            }
            match entries.get(at) {
                Some(entry) if entry.path.as_bytes() == records.path => {
                    if entry.stamp == record.stamp && matches!(entry.kind, Kind::File { .. }) {
                        each(at, &record);
                    }
                }
                Some(_) | None => gone(&records.path),
            }
        }
    }
}

/// [`path::compare`] with a fast path for equal paths, the usual case.
fn is_before(a: &[u8], b: &[u8]) -> bool {
    a != b && path::compare(a, b).is_lt()
}

/// Reads a regular file; does not block on a fifo in its place.
fn read(path: &Path) -> Option<Vec<u8>> {
    let Ok(Opened::Regular(mut file, facts)) = source_file::open(path) else { return None };
    if facts.stamp.size > LARGEST {
        return None;
    }
    let mut bytes = Vec::with_capacity(usize::try_from(facts.stamp.size).ok()?);
    file.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Whether each entry's stamp is old enough; see the module's header.
fn ages(path: &Path, manifest: &Manifest, digests: &[Option<Digest>], hashed_at: &HashedAt) -> Vec<Age> {
    let entries = manifest.entries();
    // A time in the future was set by hand, and tells nothing about the clock.
    let past = entries.iter().map(|entry| entry.stamp.ctime).filter(|ctime| *ctime <= hashed_at.moment);
    let newest = past.max().unwrap_or_default();
    let age = |stamp: &Stamp| if hashed_at.is_past(stamp, newest) { Age::Ripe } else { Age::Young };
    let mut ages: Vec<Age> = entries.iter().map(|entry| age(&entry.stamp)).collect();
    let is_coarse = |at: usize| hashed_at.granularity_for(&entries[at].stamp) == Granularity::Coarse;
    if (0..entries.len()).any(|at| ages[at] == Age::Young && digests[at].is_some() && is_coarse(at)) {
        let older = Index::load(path);
        let was_long_ago = older.saved_at < hashed_at.moment.before_by(Granularity::Coarse.span());
        let each = |at: usize, record: &Record| {
            // A young entry may hide another content with the same stamp.
            let is_same = Some(record.digest) == digests[at];
            if is_same && (was_long_ago || record.age == Age::Ripe) {
                ages[at] = Age::Ripe;
            }
        };
        older.join(manifest, each, |_| ());
    }
    ages
}

// ---- the file -----------------------------------------------------------------------------------

/// Set in a record's first byte when its device is that of the record before.
const SAME_DEVICE: u8 = 1;
/// Set when its ctime equals its mtime.
const SAME_TIME: u8 = 2;
/// Set when it is not to be trusted.
const YOUNG: u8 = 4;
/// Set when a build wrote it.
const BUILDS: u8 = 8;

fn encode(
    manifest: &Manifest,
    digests: &[Option<Digest>],
    ages: &[Age],
    whose: &dyn Fn(&RelPath) -> Whose,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + 80 * digests.iter().flatten().count());
    bytes.extend_from_slice(MAGIC);
    push_time(&mut bytes, clock::file_system_now());
    let mut last: (&[u8], Stamp) = (b"", Stamp::default());
    for ((entry, digest), age) in manifest.entries().iter().zip(digests).zip(ages) {
        let (Kind::File { .. }, Some(digest)) = (&entry.kind, digest) else { continue };
        let record = Record { stamp: entry.stamp, digest: *digest, age: *age, whose: whose(&entry.path) };
        push_record(&mut bytes, last, entry.path.as_bytes(), &record);
        last = (entry.path.as_bytes(), entry.stamp);
    }
    let seal = Sha256::digest(&bytes);
    bytes.extend_from_slice(&seal);
    bytes
}

fn push_record(to: &mut Vec<u8>, (last_path, last): (&[u8], Stamp), path: &[u8], record: &Record) {
    let stamp = &record.stamp;
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let same_device = stamp.dev == last.dev;
    let same_time = stamp.ctime == stamp.mtime;
    to.push(
        flag(same_device, SAME_DEVICE)
            | flag(same_time, SAME_TIME)
            | flag(record.age == Age::Young, YOUNG)
            | flag(record.whose == Whose::Builds, BUILDS),
    );
    push_path(to, last_path, path);
    if !same_device {
        push_number(to, stamp.dev);
    }
    // Files created together have close inode numbers, in either direction.
    let step = stamp.ino.wrapping_sub(last.ino).cast_signed();
    push_number(to, ((step << 1) ^ (step >> 63)).cast_unsigned());
    push_number(to, stamp.size);
    push_time(to, stamp.mtime);
    if !same_time {
        push_time(to, stamp.ctime);
    }
    to.extend_from_slice(&record.digest.0);
}

/// Reads records in order.
struct Records<'a> {
    rest: &'a [u8],
    /// The path of the latest record.
    path: Vec<u8>,
    stamp: Stamp,
}

impl<'a> Records<'a> {
    fn of(index: &'a Index) -> Records<'a> {
        Records { rest: &index.records, path: Vec::new(), stamp: Stamp::default() }
    }

    /// The next record; `None` at the end. The SHA-256 was checked, so no other error is possible.
    fn next(&mut self) -> Option<Record> {
        let (&flags, rest) = self.rest.split_first()?;
        self.rest = rest;
        self.next_path()?;
        if flags & SAME_DEVICE == 0 {
            self.stamp.dev = self.number()?;
        }
        let step = self.number()?;
        let step = (step >> 1) ^ (step & 1).wrapping_neg();
        self.stamp.ino = self.stamp.ino.wrapping_add(step);
        self.stamp.size = self.number()?;
        self.stamp.mtime = read_time(&mut self.rest, 0).ok()?;
        self.stamp.ctime = match flags & SAME_TIME {
            0 => read_time(&mut self.rest, 0).ok()?,
            _ => self.stamp.mtime,
        };
        let (digest, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        let age = if flags & YOUNG == 0 { Age::Ripe } else { Age::Young };
        let whose = if flags & BUILDS == 0 { Whose::Users } else { Whose::Builds };
        Some(Record { stamp: self.stamp, digest: Digest(*digest), age, whose })
    }

    /// In place: no allocation for a path that is only compared.
    fn next_path(&mut self) -> Option<()> {
        let shared = usize::try_from(self.number()?).ok()?;
        let length = usize::try_from(self.number()?).ok()?;
        let (name, rest) = self.rest.split_at_checked(length)?;
        self.path.truncate(shared);
        self.path.extend_from_slice(name);
        self.rest = rest;
        Some(())
    }

    fn number(&mut self) -> Option<u64> {
        read_number(&mut self.rest, 0).ok()
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use std::fs;

    use super::*;
    use crate::{entry::RelPath, tree::Entry};

    const NOW: Timestamp = Timestamp { secs: 1_700_000_000, nanos: 500_000_000 };
    const DEVICE: u64 = 7;

    fn hashed_at(granularity: Granularity) -> HashedAt {
        HashedAt { moment: NOW, granularity, device: DEVICE }
    }

    fn ago(millis: u64) -> Timestamp {
        NOW.before_by(Duration::from_millis(millis))
    }

    fn stamp(ino: u64, changed: Timestamp) -> Stamp {
        Stamp { dev: DEVICE, ino, size: 3, mtime: changed, ctime: changed }
    }

    fn entry(path: &str, stamp: Stamp) -> Entry {
        let path = RelPath::new(path.as_bytes()).unwrap();
        Entry {
            path,
            kind: Kind::File { size: stamp.size },
            mode: 0o644,
            mtime: stamp.mtime,
            stamp,
            links: 1,
        }
    }

    fn digest(number: u8) -> Digest {
        Digest([number; 32])
    }

    struct Home {
        dir: TempDir,
    }

    impl Home {
        fn new() -> Home {
            Home { dir: TempDir::new().unwrap() }
        }

        fn path(&self) -> std::path::PathBuf {
            self.dir.path().join("index")
        }

        fn save(&self, manifest: &Manifest, digests: &[Option<Digest>], hashed_at: &HashedAt) {
            Index::save(&self.path(), manifest, digests, hashed_at, &|_| Whose::Users).unwrap();
        }

        fn digests(&self, manifest: &Manifest) -> Vec<Option<Digest>> {
            Index::load(&self.path()).digests(manifest)
        }

        /// Whether a file with this stamp is trusted after it was saved.
        fn believes(&self, stamp: Stamp, hashed_at: &HashedAt) -> bool {
            let manifest = Manifest::from_entries(vec![entry("file", stamp)]);
            self.save(&manifest, &[Some(digest(1))], hashed_at);
            self.digests(&manifest) == [Some(digest(1))]
        }
    }

    /// Many files in many directories, some with unusual values.
    fn large_tree() -> (Manifest, Vec<Option<Digest>>) {
        let mut entries = Vec::new();
        for dir in 0..40u64 {
            for file in 0..50 {
                let mut stamp = stamp((1 << (dir % 60)) | (file * 977), ago(60_000 + 1_001 * file));
                stamp.size = 1 << (file % 20);
                stamp.dev = DEVICE + dir % 3;
                stamp.mtime.secs -= (file % 4).cast_signed() * 1_000_000_000;
                entries.push(entry(&format!("dir{dir}/sub-{}/f{file}.txt", file % 7), stamp));
            }
        }
        // By this entry's clock all the others are old.
        entries.push(entry("newest", stamp(1, ago(100))));
        let manifest = Manifest::from_entries(entries);
        let digests = (0..manifest.entries().len()).map(|at| Some(digest(at as u8))).collect();
        (manifest, digests)
    }

    #[test]
    fn digests_come_back_for_files_that_are_the_same() {
        let home = Home::new();
        let (manifest, mut digests) = large_tree();
        digests[17] = None;
        home.save(&manifest, &digests, &hashed_at(Granularity::Tick));
        assert!(home.digests(&manifest) == digests);
        // Some files were removed, and others were added.
        let fewer: Vec<_> = manifest.entries().iter().step_by(3).cloned().collect();
        let more: Vec<_> = (0..100).map(|n| entry(&format!("dir{n}/new"), stamp(n, ago(9_000)))).collect();
        let other = Manifest::from_entries([fewer, more].concat());
        let wanted: Vec<_> = other
            .entries()
            .iter()
            .map(|entry| manifest.position(&entry.path).and_then(|at| digests[at]))
            .collect();
        assert!(home.digests(&other) == wanted);
    }

    #[test]
    fn any_difference_of_path_or_stamp_is_a_file_to_be_hashed() {
        let home = Home::new();
        let old = stamp(5, ago(60_000));
        assert!(home.believes(old, &hashed_at(Granularity::Tick)));
        let later = ago(59_999);
        let others = [
            entry("File", old),
            entry("file/x", old),
            entry("file", Stamp { dev: 8, ..old }),
            entry("file", Stamp { ino: 6, ..old }),
            entry("file", Stamp { size: 4, ..old }),
            entry("file", Stamp { mtime: later, ..old }),
            entry("file", Stamp { ctime: later, ..old }),
            Entry { kind: Kind::Directory, ..entry("file", old) },
        ];
        for other in others {
            let manifest = Manifest::from_entries(vec![other]);
            assert_eq!(home.digests(&manifest), [None], "{manifest:?}");
        }
    }

    #[test]
    fn only_what_is_older_than_the_clock_can_blur_is_believed() {
        let home = Home::new();
        let [tick, coarse] = [Granularity::Tick, Granularity::Coarse].map(hashed_at);
        let cases = [
            (ago(21), &tick, true),
            (ago(20), &tick, false),
            (ago(0), &tick, false),
            (Timestamp { secs: NOW.secs + 9, nanos: 1 }, &tick, false),
            // The only file of its tree is its newest, whatever this machine's clock says.
            (ago(2001), &coarse, false),
            (ago(60_000), &coarse, false),
        ];
        for (changed, hashed_at, wanted) in cases {
            let old = ago(900_000);
            let _ = fs::remove_file(home.path());
            assert_eq!(home.believes(stamp(1, changed), hashed_at), wanted, "{changed:?} {hashed_at:?}");
            // One young time of the two is enough to make the entry young.
            let _ = fs::remove_file(home.path());
            let by_mtime = Stamp { mtime: changed, ctime: old, ..stamp(1, old) };
            assert_eq!(home.believes(by_mtime, &tick), changed < ago(20), "{changed:?}");
        }
    }

    /// A write begun before the hashing may still be running, and will not change the stamp again.
    #[test]
    fn a_large_file_has_to_be_older_by_the_time_that_writing_it_takes() {
        let home = Home::new();
        let large = |changed| Stamp { size: 64 << 20, ..stamp(1, changed) };
        assert!(!home.believes(large(ago(1_000)), &hashed_at(Granularity::Tick)));
        assert!(home.believes(large(ago(1_100)), &hashed_at(Granularity::Tick)));
    }

    #[test]
    fn whole_seconds_are_the_mark_of_a_coarse_clock() {
        let home = Home::new();
        let changed = Timestamp { secs: NOW.secs, nanos: 0 };
        assert!(!home.believes(stamp(1, changed), &hashed_at(Granularity::Tick)));
        let fine = Timestamp { secs: NOW.secs, nanos: 1 };
        assert!(home.believes(stamp(1, fine), &hashed_at(Granularity::Tick)));
    }

    #[test]
    fn another_device_below_the_root_has_a_clock_of_its_own() {
        let home = Home::new();
        let elsewhere = Stamp { dev: DEVICE + 1, ..stamp(1, ago(1_500)) };
        assert!(!home.believes(elsewhere, &hashed_at(Granularity::Tick)));
    }

    /// The server's clock is a minute behind this machine's, by which all these times are old.
    #[test]
    fn a_clock_that_is_behind_is_told_by_the_newest_file() {
        let home = Home::new();
        let minute = 60_000;
        let entries = vec![
            entry("just-now", stamp(1, ago(minute))),
            entry("near", stamp(2, ago(minute + 1_900))),
            entry("far", stamp(3, ago(minute + 2_100))),
            // Set by hand; no evidence about the server's clock.
            entry("future", stamp(4, Timestamp { secs: NOW.secs + 1_000, nanos: 5 })),
        ];
        let manifest = Manifest::from_entries(entries);
        let digests: Vec<_> = (0..4).map(|at| Some(digest(at))).collect();
        home.save(&manifest, &digests, &hashed_at(Granularity::Coarse));
        let believed = home.digests(&manifest);
        let names: Vec<_> = manifest
            .entries()
            .iter()
            .zip(&believed)
            .filter(|(_, digest)| digest.is_some())
            .map(|(entry, _)| entry.path.to_string())
            .collect();
        assert_eq!(names, ["far"]);
    }

    #[test]
    fn a_stamp_seen_long_before_it_was_hashed_again_is_believed() {
        let home = Home::new();
        let newest = stamp(1, ago(60_000));
        let manifest = Manifest::from_entries(vec![entry("file", newest)]);
        let save = |content: u8, since: i64| {
            let moment = Timestamp { secs: clock::file_system_now().secs + since, nanos: 1 };
            let hashed_at = HashedAt { moment, ..hashed_at(Granularity::Coarse) };
            home.save(&manifest, &[Some(digest(content))], &hashed_at);
            home.digests(&manifest)
        };
        assert_eq!(save(1, 0), [None]);
        assert_eq!(save(1, 1), [None], "seen a second before only");
        assert_eq!(save(2, 60), [None], "another content behind the same stamp");
        assert_eq!(save(2, 60), [Some(digest(2))]);
        // Once trusted, it stays trusted, however soon the next run comes.
        assert_eq!(save(2, 0), [Some(digest(2))]);
        assert_eq!(save(3, 0), [None]);
    }

    #[test]
    fn a_damaged_or_foreign_file_is_an_empty_index() {
        let home = Home::new();
        let (manifest, digests) = large_tree();
        home.save(&manifest, &digests, &hashed_at(Granularity::Tick));
        let good = fs::read(home.path()).unwrap();
        let nothing = vec![None; digests.len()];
        let expect_nothing = |bytes: &[u8], what: &str| {
            fs::write(home.path(), bytes).unwrap();
            assert!(home.digests(&manifest) == nothing, "{what}");
        };
        for length in [0, 1, SEAL, good.len() / 2, good.len() - 1] {
            expect_nothing(&good[..length], "cut short");
        }
        for at in [0, 9, 30, good.len() / 2, good.len() - 1] {
            let mut bytes = good.clone();
            bytes[at] ^= 0x20;
            expect_nothing(&bytes, "a bit flipped");
        }
        expect_nothing(&[good.as_slice(), b"x"].concat(), "too long");
        let mut newer = good[..good.len() - SEAL].to_vec();
        newer[7] += 1;
        let seal = Sha256::digest(&newer);
        expect_nothing(&[newer.as_slice(), &seal].concat(), "another version, sealed as it should be");
        fs::remove_file(home.path()).unwrap();
        assert!(home.digests(&manifest) == nothing);
        fs::create_dir(home.path()).unwrap();
        assert!(home.digests(&manifest) == nothing);
    }

    #[test]
    fn a_file_costs_less_than_a_hundred_and_twenty_bytes() {
        let home = Home::new();
        let (manifest, digests) = large_tree();
        home.save(&manifest, &digests, &hashed_at(Granularity::Tick));
        let size = fs::metadata(home.path()).unwrap().len();
        assert!(size < 120 * digests.len() as u64, "{} bytes each", size / digests.len() as u64);
    }

    #[test]
    fn nothing_is_left_beside_an_index_that_cannot_be_written() {
        let home = Home::new();
        fs::create_dir(home.path()).unwrap();
        fs::write(home.path().join("in-the-way"), "").unwrap();
        let (manifest, digests) = large_tree();
        let saved =
            Index::save(&home.path(), &manifest, &digests, &hashed_at(Granularity::Tick), &|_| Whose::Users);
        assert!(saved.is_err());
        assert_eq!(fs::read_dir(home.dir.path()).unwrap().count(), 1);
    }
}
