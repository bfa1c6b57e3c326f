//! What fastbuild wrote on the host. A later run may delete or overwrite this, and nothing else.
//!
//! One record per source root, keyed by absolute path. A record that is missing, damaged or of
//! another version counts as empty: then every file on the host is taken for the user's, which
//! costs space but loses nothing.
//!
//! It is kept encoded in memory and in its file, at some 75 bytes an entry. Entries are sorted as
//! trees are ([`path::compare`]). Each path is stored as the part that differs from the one before,
//! and in full every `BLOCK` entries, so that one can be looked up. Later changes are kept beside
//! it, and folded in when they have grown to a part of the whole.
//!
//! The file has the same form: a base, followed by one segment for the changes of each later run.
//! Segments are folded in when they have grown. So a run that made one product writes a few hundred
//! bytes. Base and segments are sealed, each seal covering the one before. A segment without its
//! end was left by a killed run and is ignored, because that run's journal has all its information.
//! Any other damage makes the whole file void.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, btree_map},
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    iter::Peekable,
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    entry::{RelPath, Stamp, Timestamp, path},
    tree::{
        Digest,
        node::{push_number, push_path, push_time, read_number, read_time},
    },
};

/// First bytes of the file; the last of them is the format's version.
const MAGIC: &[u8; 8] = b"fbwrote\x02";

/// Entries from one full path to the next.
const BLOCK: usize = 32;

/// Bytes that an entry usually takes.
const USUAL: usize = 80;

/// Up to this many changes are not folded in: in memory (entries) and in the file (bytes).
const FEW: usize = 2048;
const FEW_BYTES: u64 = 64 << 10;

/// A path that fastbuild wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// What it wrote.
    pub what: Content,
    /// Permission bits.
    pub mode: u32,
    /// The path's stamp when it was last known to be exactly that.
    pub stamp: Stamp,
    /// When that was, by the file system's own clock: a stamp younger than this may hide an edit.
    pub seen: Timestamp,
}

/// Kind and content of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// A directory.
    Directory,
    /// A file with this content.
    File(Digest),
    /// A link with this target.
    Symlink(Box<[u8]>),
}

/// What fastbuild wrote, by absolute host path.
#[derive(Debug, Clone, Default)]
pub struct Record {
    base: Base,
    /// On top of the base. `None`: forgotten.
    changes: BTreeMap<Key, Change>,
    /// What the file holds; `None` when it has to be written anew.
    file: Option<OnDisk>,
}

/// An absolute path with `/` between components, in the order of trees.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key(Box<[u8]>);

impl Key {
    fn of(path: &Path) -> Key {
        let mut bytes: Box<[u8]> = path.as_os_str().as_encoded_bytes().into();
        if std::path::MAIN_SEPARATOR != '/' {
            bytes
                .iter_mut()
                .filter(|byte| std::path::is_separator(char::from(**byte)))
                .for_each(|byte| *byte = b'/');
        }
        Key(bytes)
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        path::compare(&self.0, &other.0)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Debug, Clone)]
struct Change {
    entry: Option<Written>,
    saved: Saved,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Saved {
    Yes,
    NotYet,
}

/// The record's file as it was last read or written.
#[derive(Debug, Clone, Copy)]
struct OnDisk {
    /// Bytes of the file.
    length: u64,
    /// Of these, the bytes of the base.
    base: u64,
    /// The last seal.
    seal: Seal,
}

type Seal = [u8; 32];

impl OnDisk {
    /// Whether the file at `path` is still this one: the same length, and the same seal at its end.
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let mut file = File::open(path)?;
        let mut seal: Seal = [0; 32];
        file.seek(SeekFrom::End(-32))?;
        file.read_exact(&mut seal)?;
        Ok(file.stream_position()? == self.length && seal == self.seal)
    }
}

impl Record {
    /// Reads `path`; empty when it is missing or cannot be trusted.
    pub fn load(path: &Path) -> Record {
        fs::read(path).ok().and_then(Record::decode).unwrap_or_default()
    }

    /// The record at `path`, when the file was written since this one was read.
    pub fn written_since(&self, path: &Path) -> Option<Record> {
        let is_as_known = match &self.file {
            Some(known) => known.is_at(path).unwrap_or(false),
            None => !path.exists(),
        };
        (!is_as_known).then(|| Record::load(path))
    }

    fn decode(mut bytes: Vec<u8>) -> Option<Record> {
        let (head, rest) = bytes.split_at_checked(MAGIC.len() + 8)?;
        let length = head.strip_prefix(MAGIC)?.try_into().ok().map(u64::from_le_bytes)?;
        let (base, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        let (seal, mut rest) = rest.split_first_chunk::<32>()?;
        if seal_of(head, base) != *seal {
            return None;
        }
        let at_base = (head.len() + base.len() + seal.len()) as u64;
        let mut file = OnDisk { length: at_base, base: at_base, seal: *seal };
        let mut changes = BTreeMap::new();
        while let Some((segment, seal, behind)) = split_segment(rest) {
            if seal_of(&file.seal, segment) != *seal {
                return None;
            }
            let mut cursor = Cursor::new(segment);
            loop {
                let entry = match cursor.next()? {
                    Read::End => break,
                    Read::Forgotten => None,
                    Read::Written(entry) => Some(entry),
                };
                changes.insert(Key(cursor.path.as_slice().into()), Change { entry, saved: Saved::Yes });
            }
            file.length += (rest.len() - behind.len()) as u64;
            file.seal = *seal;
            rest = behind;
        }
        let torn = !rest.is_empty();
        let (start, end) = (head.len(), head.len() + base.len());
        bytes.truncate(end);
        bytes.drain(..start);
        bytes.shrink_to_fit();
        Some(Record { base: Base::read(bytes)?, changes, file: (!torn).then_some(file) })
    }

    /// Writes to `path` the changes since the last read or save, if there are any.
    ///
    /// # Errors
    /// Any error of the file system. The file is then unchanged.
    pub fn save(&mut self, path: &Path) -> io::Result<()> {
        let is_new = |change: &Change| change.saved == Saved::NotYet;
        match self.file {
            Some(_) if !self.changes.values().any(is_new) => return Ok(()),
            None if self.changes.is_empty() && self.base.count == 0 && !path.exists() => return Ok(()),
            _ => {}
        }
        let segment = self.unsaved();
        match self.file {
            Some(file) if file.has_room_for(&segment) && append(path, &file, &segment)? => {
                let seal = seal_of(&file.seal, &segment);
                self.file = Some(OnDisk { length: file.length + framed(&segment), seal, ..file });
            }
            _ => self.rewrite(path)?,
        }
        self.changes.values_mut().for_each(|change| change.saved = Saved::Yes);
        Ok(())
    }

    fn unsaved(&self) -> Vec<u8> {
        let mut encoder = Encoder::default();
        for (key, change) in self.changes.iter().filter(|(_, change)| change.saved == Saved::NotYet) {
            encoder.push(&key.0, change.entry.as_ref());
        }
        encoder.bytes
    }

    fn rewrite(&mut self, path: &Path) -> io::Result<()> {
        self.fold();
        let head = [MAGIC.as_slice(), &(self.base.bytes.len() as u64).to_le_bytes()].concat();
        let seal = seal_of(&head, &self.base.bytes);
        crate::state::replace_file(path, |out| {
            [&head, &self.base.bytes, seal.as_slice()].into_iter().try_for_each(|part| out.write_all(part))
        })?;
        let length = (head.len() + self.base.bytes.len() + seal.len()) as u64;
        self.file = Some(OnDisk { length, base: length, seal });
        Ok(())
    }

    /// Folds the changes into the base.
    fn fold(&mut self) {
        if self.changes.is_empty() {
            return;
        }
        let mut encoder = Encoder::default();
        // Growth by doubling could take twice as much.
        encoder.bytes.reserve_exact(self.base.bytes.len() + self.changes.len() * USUAL);
        self.entries_from(&Key(Box::default())).for_each(|(path, entry)| encoder.push(&path, Some(&entry)));
        self.base = encoder.into_base();
        self.changes.clear();
        self.file = None;
    }

    /// What fastbuild wrote at `path`.
    pub fn get(&self, path: &Path) -> Option<Written> {
        let key = Key::of(path);
        match self.changes.get(&key) {
            Some(change) => change.entry.clone(),
            None => self.base.get(&key.0),
        }
    }

    /// Everything that it wrote at `root` and below, in the order of trees, with paths below
    /// `root`.
    pub fn below<'a>(&'a self, root: &Path) -> impl Iterator<Item = (RelPath, Written)> + use<'a> {
        let root = Key::of(root);
        let length = root.0.len();
        self.entries_from(&root)
            .map_while(move |(path, entry)| match path.strip_prefix(&*root.0)? {
                [] => Some((length, path, entry)),
                [b'/', ..] => Some((length + 1, path, entry)),
                _ if root.0.ends_with(b"/") => Some((length, path, entry)),
                _ => None,
            })
            .filter_map(|(from, path, entry)| Some((RelPath::new(&path[from..]).ok()?, entry)))
    }

    fn entries_from<'a>(&'a self, key: &Key) -> impl Iterator<Item = (Vec<u8>, Written)> + use<'a> {
        Entries {
            base: self.base.from(&key.0).peekable(),
            changes: self.changes.range(key.clone()..).peekable(),
        }
    }

    /// Notes that `path` is now `entry`.
    pub fn set(&mut self, path: &Path, entry: Written) {
        if self.get(path).as_ref() != Some(&entry) {
            self.change(path, Some(entry));
        }
    }

    /// Forgets `path`.
    pub fn forget(&mut self, path: &Path) {
        if self.get(path).is_some() {
            self.change(path, None);
        }
    }

    fn change(&mut self, path: &Path, entry: Option<Written>) {
        self.changes.insert(Key::of(path), Change { entry, saved: Saved::NotYet });
        if self.changes.len() > FEW.max(self.base.count / 8) {
            self.fold();
        }
    }
}

/// Equal with the same paths and entries, whether they lie in the base or in the changes.
impl PartialEq for Record {
    fn eq(&self, other: &Record) -> bool {
        let first = Key(Box::default());
        self.entries_from(&first).eq(other.entries_from(&first))
    }
}

impl Eq for Record {}

impl OnDisk {
    /// Whether the changes are still small compared with the base.
    fn has_room_for(&self, segment: &[u8]) -> bool {
        let changes = self.length - self.base + framed(segment);
        changes <= FEW_BYTES.max(self.base / 4) && u32::try_from(segment.len()).is_ok()
    }
}

/// Bytes that a segment takes in the file.
fn framed(segment: &[u8]) -> u64 {
    segment.len() as u64 + 4 + 32
}

fn seal_of(before: &[u8], bytes: &[u8]) -> Seal {
    Sha256::new().chain_update(before).chain_update(bytes).finalize().into()
}

/// The first segment, its seal, and the rest; `None` when the segment is incomplete.
fn split_segment(bytes: &[u8]) -> Option<(&[u8], &Seal, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (segment, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let (seal, rest) = rest.split_first_chunk::<32>()?;
    Some((segment, seal, rest))
}

/// Appends a segment to the file. False, and not written, when the file has changed or is gone.
fn append(path: &Path, file: &OnDisk, segment: &[u8]) -> io::Result<bool> {
    let mut out = match File::options().append(true).open(path) {
        Ok(out) => out,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if out.metadata()?.len() != file.length {
        return Ok(false);
    }
    let length = u32::try_from(segment.len()).map_err(io::Error::other)?.to_le_bytes();
    let seal = seal_of(&file.seal, segment);
    out.write_all(&[&length, segment, &seal].concat()).inspect_err(|_| {
        // Half a segment is ignored; this only avoids that the file is written anew.
        let _ = out.set_len(file.length);
    })?;
    Ok(true)
}

/// Sorted entries, encoded.
#[derive(Debug, Clone, Default)]
struct Base {
    bytes: Vec<u8>,
    /// Where each block begins.
    blocks: Vec<u32>,
    count: usize,
}

impl Base {
    /// Finds the blocks; `None` when the bytes are not valid entries.
    fn read(bytes: Vec<u8>) -> Option<Base> {
        let (mut blocks, mut count) = (Vec::new(), 0);
        let mut cursor = Cursor::new(&bytes);
        loop {
            let at = bytes.len() - cursor.rest.len();
            match cursor.next()? {
                Read::Written(_) => {}
                Read::Forgotten => return None,
                Read::End => break,
            }
            if count % BLOCK == 0 {
                blocks.push(u32::try_from(at).ok()?);
            }
            count += 1;
        }
        Some(Base { bytes, blocks, count })
    }

    fn get(&self, path: &[u8]) -> Option<Written> {
        let mut found = self.from(path);
        found.next().filter(|(first, _)| first == path).map(|(_, entry)| entry)
    }

    /// The entries from `path` on.
    fn from<'a>(&'a self, path: &[u8]) -> impl Iterator<Item = (Vec<u8>, Written)> + use<'a> {
        let block = self.blocks.partition_point(|at| {
            let first = plain_path(&self.bytes[*at as usize..]);
            path::compare(first, path) != Ordering::Greater
        });
        let at = block.checked_sub(1).and_then(|block| self.blocks.get(block)).map_or(0, |at| *at as usize);
        let mut cursor = Cursor::new(&self.bytes[at..]);
        let path = path.to_owned();
        let mut before = true;
        std::iter::from_fn(move || {
            loop {
                // It was read once to its last byte, so it contains only entries.
                let Some(Read::Written(entry)) = cursor.next() else { return None };
                before = before && path::compare(&cursor.path, &path) == Ordering::Less;
                if !before {
                    return Some((cursor.path.clone(), entry));
                }
            }
        })
    }
}

/// The path of the first entry of a block.
fn plain_path(mut block: &[u8]) -> &[u8] {
    let mut number = || read_number(&mut block, 0).unwrap_or(0) as usize;
    let (_, _, length) = (number(), number(), number());
    block.get(..length).unwrap_or_default()
}

/// Merges base and changes.
struct Entries<'a, I: Iterator<Item = (Vec<u8>, Written)>> {
    base: Peekable<I>,
    changes: Peekable<btree_map::Range<'a, Key, Change>>,
}

impl<I: Iterator<Item = (Vec<u8>, Written)>> Iterator for Entries<'_, I> {
    type Item = (Vec<u8>, Written);

    fn next(&mut self) -> Option<(Vec<u8>, Written)> {
        loop {
            let order = match (self.base.peek(), self.changes.peek()) {
                (_, None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((path, _)), Some((key, _))) => path::compare(path, &key.0),
            };
            if order == Ordering::Less {
                return self.base.next();
            }
            if order == Ordering::Equal {
                self.base.next();
            }
            if let Some((Key(path), Change { entry: Some(entry), .. })) = self.changes.next() {
                return Some((path.to_vec(), entry.clone()));
            }
        }
    }
}

const FORGOTTEN: u64 = 0;
const DIRECTORY: u64 = 1;
const FILE: u64 = 2;
const SYMLINK: u64 = 3;
/// Added to the kind when the entry was seen at the same moment as the one before it.
const SEEN_AS_BEFORE: u64 = 4;

/// Writes entries in their order.
#[derive(Debug, Default)]
struct Encoder {
    bytes: Vec<u8>,
    blocks: Vec<u32>,
    count: usize,
    path: Vec<u8>,
    seen: Timestamp,
}

impl Encoder {
    fn push(&mut self, path: &[u8], entry: Option<&Written>) {
        if self.count.is_multiple_of(BLOCK) {
            self.blocks.push(self.bytes.len() as u32);
            self.path.clear();
            self.seen = Timestamp::default();
        }
        self.count += 1;
        let kind = match entry.map(|entry| &entry.what) {
            None => FORGOTTEN,
            Some(Content::Directory) => DIRECTORY,
            Some(Content::File(_)) => FILE,
            Some(Content::Symlink(_)) => SYMLINK,
        };
        let same = entry.is_some_and(|entry| entry.seen == self.seen);
        push_number(&mut self.bytes, if same { kind + SEEN_AS_BEFORE } else { kind });
        push_path(&mut self.bytes, &self.path, path);
        path.clone_into(&mut self.path);
        let Some(Written { what, mode, stamp, seen }) = entry else { return };
        for number in [u64::from(*mode), stamp.dev, stamp.ino, stamp.size] {
            push_number(&mut self.bytes, number);
        }
        push_time(&mut self.bytes, stamp.mtime);
        push_time(&mut self.bytes, stamp.ctime);
        if !same {
            push_time(&mut self.bytes, *seen);
            self.seen = *seen;
        }
        match what {
            Content::Directory => {}
            Content::File(digest) => self.bytes.extend_from_slice(&digest.0),
            Content::Symlink(target) => {
                push_number(&mut self.bytes, target.len() as u64);
                self.bytes.extend_from_slice(target);
            }
        }
    }

    fn into_base(mut self) -> Base {
        self.bytes.shrink_to_fit();
        Base { bytes: self.bytes, blocks: self.blocks, count: self.count }
    }
}

/// What a [`Cursor`] finds.
enum Read {
    Written(Written),
    Forgotten,
    End,
}

/// Reads what an [`Encoder`] wrote.
struct Cursor<'a> {
    rest: &'a [u8],
    path: Vec<u8>,
    seen: Timestamp,
    count: usize,
}

impl<'a> Cursor<'a> {
    fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: bytes, path: Vec::new(), seen: Timestamp::default(), count: 0 }
    }

    /// Reads the next entry, whose path is then in `path`. `None` when the bytes are invalid.
    fn next(&mut self) -> Option<Read> {
        if self.rest.is_empty() {
            return Some(Read::End);
        }
        if self.count.is_multiple_of(BLOCK) {
            self.path.clear();
            self.seen = Timestamp::default();
        }
        self.count += 1;
        let kind = self.number()?;
        let shared = usize::try_from(self.number()?).ok().filter(|shared| *shared <= self.path.len())?;
        let own = self.take()?;
        self.path.truncate(shared);
        self.path.extend_from_slice(own);
        if kind == FORGOTTEN {
            return Some(Read::Forgotten);
        }
        let mode = u32::try_from(self.number()?).ok()?;
        let (dev, ino, size) = (self.number()?, self.number()?, self.number()?);
        let stamp = Stamp { dev, ino, size, mtime: self.time()?, ctime: self.time()? };
        if kind & SEEN_AS_BEFORE == 0 {
            self.seen = self.time()?;
        }
        let what = match kind & !SEEN_AS_BEFORE {
            DIRECTORY => Content::Directory,
            FILE => {
                let (digest, rest) = self.rest.split_first_chunk::<32>()?;
                self.rest = rest;
                Content::File(Digest(*digest))
            }
            SYMLINK => Content::Symlink(self.take()?.into()),
            _ => return None,
        };
        Some(Read::Written(Written { what, mode, stamp, seen: self.seen }))
    }

    fn number(&mut self) -> Option<u64> {
        read_number(&mut self.rest, 0).ok()
    }

    fn time(&mut self) -> Option<Timestamp> {
        read_time(&mut self.rest, 0).ok()
    }

    /// Reads bytes that follow their length.
    fn take(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(byte: u8) -> Written {
        let stamp =
            Stamp { dev: 1, ino: 2, size: 3, mtime: Timestamp::default(), ctime: Timestamp::default() };
        Written {
            what: Content::File(Digest([byte; 32])),
            mode: 0o644,
            stamp,
            seen: Timestamp { secs: 9, nanos: 8 },
        }
    }

    fn record() -> Record {
        let mut record = Record::default();
        for (path, byte) in [("/p/site", 1), ("/p/site/a", 2), ("/p/site-2/b", 3), ("/p/site/c/d", 4)] {
            record.set(Path::new(path), entry(byte));
        }
        record
    }

    #[cfg(unix)]
    #[test]
    fn a_record_comes_back_as_it_was_saved_names_that_are_no_text_included() {
        use std::os::unix::ffi::OsStrExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("outputs");
        let mut record = record();
        record.set(Path::new(std::ffi::OsStr::from_bytes(b"/p/\xff\n")), entry(5));
        record.save(&file).unwrap();
        assert_eq!(Record::load(&file), record);
    }

    /// A record whose file has a base and two segments. Returns the file's length after each.
    fn record_in_parts(file: &Path) -> [u64; 3] {
        let mut record = record();
        let mut lengths = Vec::new();
        for path in [None, Some("/p/site/e"), Some("/p/site/f")] {
            path.into_iter().for_each(|path| record.set(Path::new(path), entry(6)));
            record.save(file).unwrap();
            lengths.push(fs::metadata(file).unwrap().len());
        }
        lengths.try_into().unwrap()
    }

    #[test]
    fn a_damaged_record_is_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("outputs");
        let lengths = record_in_parts(&file);
        let whole = fs::read(&file).unwrap();
        for at in [0, 7, 20, lengths[0] as usize - 3, lengths[0] as usize + 10, whole.len() - 3] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&file, &damaged).unwrap();
            assert_eq!(Record::load(&file), Record::default(), "byte {at} flipped");
        }
        for len in [0, 1, lengths[0] as usize / 2, lengths[0] as usize - 1] {
            fs::write(&file, &whole[..len]).unwrap();
            assert_eq!(Record::load(&file), Record::default(), "cut to {len} bytes");
        }
        fs::write(&file, "fastbuild outputs 1\n").unwrap();
        assert_eq!(Record::load(&file), Record::default(), "an older version");
    }

    #[test]
    fn a_segment_that_a_kill_cut_short_counts_for_nothing_and_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("outputs");
        let lengths = record_in_parts(&file);
        let whole = fs::read(&file).unwrap();
        let mut expected = record();
        expected.set(Path::new("/p/site/e"), entry(6));
        for len in [lengths[1], lengths[1] + 1, lengths[1] + 9, lengths[2] - 1] {
            fs::write(&file, &whole[..len as usize]).unwrap();
            let mut record = Record::load(&file);
            assert_eq!(record, expected, "cut to {len} bytes");
            record.set(Path::new("/p/new"), entry(7));
            record.save(&file).unwrap();
            assert_eq!(Record::load(&file), record);
        }
    }

    #[test]
    fn a_run_that_changed_little_writes_little_and_one_that_changed_nothing_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("outputs");
        let mut record = Record::default();
        for number in 0..10_000 {
            record.set(Path::new(&format!("/p/site/{number}")), entry(1));
        }
        record.save(&file).unwrap();
        let before = fs::metadata(&file).unwrap();
        assert!(before.len() < 100 * 10_000, "{} bytes", before.len());
        let mut record = Record::load(&file);
        record.set(Path::new("/p/site/17"), entry(1));
        record.forget(Path::new("/p/site/none"));
        record.save(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().len(), before.len());
        record.set(Path::new("/p/site/17"), entry(2));
        record.save(&file).unwrap();
        let after = fs::metadata(&file).unwrap();
        assert!(after.len() - before.len() < 300, "{}", after.len() - before.len());
        assert_eq!(Record::load(&file), record);
    }

    #[test]
    fn a_record_that_another_run_replaced_is_written_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("outputs");
        let mut record = record();
        record.save(&file).unwrap();
        for strange in [Some("something else"), None] {
            match strange {
                Some(text) => fs::write(&file, text).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            let byte = if strange.is_some() { 8 } else { 9 };
            record.set(Path::new("/p/site/g"), entry(byte));
            record.save(&file).unwrap();
            assert_eq!(Record::load(&file), record);
        }
    }

    proptest! {
        #[test]
        fn a_record_is_a_map_whatever_is_saved_and_read_between(
            steps in prop::collection::vec((0..400u32, 0..4u8, any::<bool>(), 0..40u8), 0..400),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("outputs");
            let (mut record, mut model) = (Record::default(), BTreeMap::new());
            for (number, byte, deep, save) in steps {
                let path = if deep { format!("/p/{}/{number}", number % 7) } else { format!("/p/{number}") };
                if byte == 0 {
                    record.forget(Path::new(&path));
                    model.remove(&Key(path.into_bytes().into()));
                } else {
                    record.set(Path::new(&path), entry(byte));
                    model.insert(Key(path.into_bytes().into()), entry(byte));
                }
                match save {
                    0 => record.save(&file).unwrap(),
                    1 => {
                        record.save(&file).unwrap();
                        record = Record::load(&file);
                    }
                    2 => record.fold(),
                    _ => {}
                }
            }
            let all: Vec<_> = record.entries_from(&Key(Box::default())).collect();
            let wanted: Vec<_> = model.iter().map(|(key, entry)| (key.0.to_vec(), entry.clone())).collect();
            prop_assert_eq!(all, wanted);
            for number in 0..400 {
                let path = format!("/p/{number}");
                let wanted = model.get(&Key(path.clone().into_bytes().into()));
                prop_assert_eq!(record.get(Path::new(&path)), wanted.cloned());
            }
            let below: Vec<_> = record.below(Path::new("/p/3")).map(|(path, _)| path).collect();
            let wanted: Vec<_> = model
                .keys()
                .filter_map(|key| match key.0.strip_prefix(b"/p/3")? {
                    [] => Some(RelPath::root()),
                    [b'/', tail @ ..] => RelPath::new(tail).ok(),
                    _ => None,
                })
                .collect();
            prop_assert_eq!(below, wanted);
        }
    }

    #[test]
    fn below_ends_at_components() {
        let record = record();
        let below: Vec<_> = record.below(Path::new("/p/site")).map(|(path, _)| path.to_string()).collect();
        assert_eq!(below, [".", "a", "c/d"]);
    }
}
