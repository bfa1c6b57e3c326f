//! What fastbuild wrote on the host: the knowledge that lets a later run delete or overwrite it, and nothing else.
//!
//! One record per source root, keyed by absolute path. A record that is missing, damaged or of another version is as
//! good as none: then every file on the host is taken for the user's, which costs space but loses nothing.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::tree::{Digest, Stamp, Timestamp};

/// First line of the file; another line means another version.
const HEADER: &str = "fastbuild outputs 1";
/// Beginning of the last line; the sha256 of all lines before it follows.
const CHECKSUM: &[u8] = b"sha256 ";

/// A path that fastbuild wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// What it wrote.
    pub what: Content,
    /// Permission bits.
    pub mode: u32,
    /// What the host said of it when it was last known to be exactly that.
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

/// Absolute host path, as bytes of the system's encoding -> what fastbuild wrote there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    written: BTreeMap<Box<[u8]>, Written>,
}

impl Record {
    /// Reads `path`; empty when there is none that can be trusted.
    pub fn load(path: &Path) -> Record {
        File::open(path).ok().and_then(|file| Record::read(BufReader::new(file))).unwrap_or_default()
    }

    /// Line by line: the text is several times as large as what it says.
    fn read(mut from: impl BufRead) -> Option<Record> {
        let mut written = BTreeMap::new();
        let mut hasher = Sha256::new();
        let mut line = Vec::new();
        let mut first = true;
        loop {
            line.clear();
            from.read_until(b'\n', &mut line).ok()?;
            let text = line.strip_suffix(b"\n")?;
            if let Some(checksum) = text.strip_prefix(CHECKSUM) {
                let whole = Digest(hasher.finalize().into()).to_string();
                let is_last = from.fill_buf().is_ok_and(<[u8]>::is_empty);
                return (checksum == whole.as_bytes() && is_last).then_some(Record { written });
            }
            hasher.update(&line);
            if std::mem::take(&mut first) {
                if text != HEADER.as_bytes() {
                    return None;
                }
                continue;
            }
            let (path, entry): (PathText, Written) = serde_json::from_slice(text).ok()?;
            written.insert(path.into_bytes(), entry);
        }
    }

    /// Writes it to `path`, whole or not at all.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        crate::state::replace_file(path, |out| {
            let mut hasher = Sha256::new();
            let mut line = format!("{HEADER}\n").into_bytes();
            let mut entries = self.written.iter();
            loop {
                hasher.update(&line);
                out.write_all(&line)?;
                let Some((path, entry)) = entries.next() else { break };
                line.clear();
                serde_json::to_writer(&mut line, &(PathText::from(&**path), entry))?;
                line.push(b'\n');
            }
            out.write_all(CHECKSUM)?;
            writeln!(out, "{}", Digest(hasher.finalize().into()))
        })
    }

    /// What fastbuild wrote at `path`.
    pub fn get(&self, path: &Path) -> Option<&Written> {
        self.written.get(path.as_os_str().as_encoded_bytes())
    }

    /// Everything that it wrote at `root` and below: the path below `root` (empty for `root` itself) and the entry,
    /// parents before their children.
    pub fn below(&self, root: &Path) -> impl Iterator<Item = (&[u8], &Written)> {
        let root: Box<[u8]> = root.as_os_str().as_encoded_bytes().into();
        self.written
            .range(root.clone()..)
            .map_while(move |(path, entry)| Some((path.strip_prefix(&*root)?, entry)))
            .filter_map(|(tail, entry)| match tail {
                [] => Some((tail, entry)),
                // Between `dir` and `dir/x` may stand `dir-2`, which lies somewhere else.
                [separator, rest @ ..] if std::path::is_separator(char::from(*separator)) => {
                    Some((rest, entry))
                }
                _ => None,
            })
    }

    /// Notes that `path` is now `entry`.
    pub fn set(&mut self, path: &Path, entry: Written) {
        self.written.insert(path.as_os_str().as_encoded_bytes().into(), entry);
    }

    /// Forgets `path`.
    pub fn forget(&mut self, path: &Path) {
        self.written.remove(path.as_os_str().as_encoded_bytes());
    }
}

/// A path in JSON: text where it is text, bytes where it is not.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum PathText {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&[u8]> for PathText {
    fn from(bytes: &[u8]) -> PathText {
        match std::str::from_utf8(bytes) {
            Ok(text) => PathText::Text(text.to_owned()),
            Err(_) => PathText::Bytes(bytes.to_owned()),
        }
    }
}

impl PathText {
    pub(crate) fn into_bytes(self) -> Box<[u8]> {
        match self {
            PathText::Text(text) => text.into_bytes().into(),
            PathText::Bytes(bytes) => bytes.into(),
        }
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_damaged_record_is_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("outputs");
        record().save(&file).unwrap();
        let whole = std::fs::read(&file).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 3] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&file, &damaged).unwrap();
            assert_eq!(Record::load(&file), Record::default(), "byte {at} flipped");
        }
        for len in [0, 1, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&file, &whole[..len]).unwrap();
            assert_eq!(Record::load(&file), Record::default(), "cut to {len} bytes");
        }
    }

    #[test]
    fn below_ends_at_components() {
        let record = record();
        let below: Vec<_> = record.below(Path::new("/p/site")).map(|(path, _)| path.to_owned()).collect();
        assert_eq!(below, [b"".to_vec(), b"a".to_vec(), b"c/d".to_vec()]);
    }
}
