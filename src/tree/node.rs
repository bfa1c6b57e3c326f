//! Entries of a tree as they travel between the two ends of a build: without the data of one file
//! system. Each path is encoded as its difference from the one before.
//!
//! Decoding holds one node at a time; the caller must limit what it keeps. Paths must be strictly
//! ascending, or the list is refused.

use std::io::{self, Read, Write};

use super::{Digest, Entry};
use crate::entry::{Kind, RelPath, Special, Timestamp, path::BadPath};

/// The longest accepted path or link target, in bytes.
const MAX_TEXT: u64 = 64 << 10;

/// One path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its path below the root; empty for the root itself.
    pub path: RelPath,
    /// Its kind.
    pub kind: NodeKind,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// For a further name of a file, its first name in this tree ([`super::links`]); it comes
    /// earlier.
    pub link: Option<RelPath>,
}

/// The kind of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
        /// The digest of its content.
        digest: Digest,
    },
    /// A symbolic link with this target.
    Symlink {
        /// The text of the link.
        target: Box<[u8]>,
    },
    /// A socket, a fifo or a device; it does not travel.
    Special(Special),
}

impl Node {
    /// A node from an entry and its digest; `None` for a file without one. `link` is not set.
    pub fn of(entry: &Entry, digest: Option<Digest>) -> Option<Node> {
        let kind = match &entry.kind {
            Kind::Directory => NodeKind::Directory,
            Kind::File { size } => NodeKind::File { size: *size, digest: digest? },
            Kind::Symlink { target } => NodeKind::Symlink { target: target.clone() },
        };
        Some(Node { path: entry.path.clone(), kind, mode: entry.mode, mtime: entry.mtime, link: None })
    }
}

/// Why a list of nodes cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// An error of the stream.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are not a valid node.
    #[error("entry {number} is malformed")]
    Malformed {
        /// The number of the node, from 1.
        number: u64,
    },
    /// A path that no tree can have.
    #[error("entry {number} has a path that is not taken: {why}")]
    Path {
        /// The number of the node, from 1.
        number: u64,
        /// What is wrong with the path.
        why: BadPath,
    },
    /// A path that is not after the one before it.
    #[error("entry {number}, \"{path}\", is out of order")]
    Order {
        /// The number of the node, from 1.
        number: u64,
        /// Its path.
        path: RelPath,
    },
}

const DIRECTORY: u8 = 1;
const FILE: u8 = 2;
const SYMLINK: u8 = 3;
const SOCKET: u8 = 4;
const FIFO: u8 = 5;
const DEVICE: u8 = 6;
const FURTHER_NAME: u8 = 7;
const END: u8 = 0;

/// Writes nodes in order.
#[derive(Debug)]
pub struct NodeWriter<W: Write> {
    to: W,
    last: RelPath,
    line: Vec<u8>,
}

impl<W: Write> NodeWriter<W> {
    /// An empty list. `to` should be buffered.
    pub fn new(to: W) -> NodeWriter<W> {
        NodeWriter { to, last: RelPath::root(), line: Vec::new() }
    }

    /// Writes one node. The caller must keep the order.
    ///
    /// # Errors
    /// The stream's error.
    pub fn write(&mut self, node: &Node) -> io::Result<()> {
        let line = &mut self.line;
        line.clear();
        line.push(match &node.kind {
            NodeKind::Directory => DIRECTORY,
            NodeKind::File { .. } if node.link.is_some() => FURTHER_NAME,
            NodeKind::File { .. } => FILE,
            NodeKind::Symlink { .. } => SYMLINK,
            NodeKind::Special(Special::Socket) => SOCKET,
            NodeKind::Special(Special::Fifo) => FIFO,
            NodeKind::Special(Special::Device) => DEVICE,
        });
        push_path(line, self.last.as_bytes(), node.path.as_bytes());
        push_number(line, node.mode.into());
        push_time(line, node.mtime);
        match &node.kind {
            NodeKind::File { size, digest } => {
                push_number(line, *size);
                line.extend_from_slice(&digest.0);
                if let Some(first) = &node.link {
                    push_path(line, node.path.as_bytes(), first.as_bytes());
                }
            }
            NodeKind::Symlink { target } => {
                push_number(line, target.len() as u64);
                line.extend_from_slice(target);
            }
            NodeKind::Directory | NodeKind::Special(_) => {}
        }
        self.last = node.path.clone();
        self.to.write_all(line)
    }

    /// Ends the list.
    ///
    /// # Errors
    /// The stream's error.
    pub fn finish(mut self) -> io::Result<W> {
        self.to.write_all(&[END])?;
        Ok(self.to)
    }
}

/// Reads nodes.
#[derive(Debug)]
pub struct NodeReader<R: Read> {
    from: R,
    last: Option<RelPath>,
    number: u64,
    ended: bool,
}

impl<R: Read> Iterator for NodeReader<R> {
    type Item = Result<Node, NodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_node().transpose()
    }
}

impl<R: Read> NodeReader<R> {
    /// Starts reading. `from` should be buffered.
    pub fn new(from: R) -> NodeReader<R> {
        NodeReader { from, last: None, number: 0, ended: false }
    }

    /// The next node; `None` at the end of the list.
    ///
    /// # Errors
    /// [`NodeError`]; nothing after an error can be trusted.
    pub fn next_node(&mut self) -> Result<Option<Node>, NodeError> {
        if self.ended {
            return Ok(None);
        }
        self.number += 1;
        let number = self.number;
        let tag = self.byte()?;
        if tag == END {
            self.ended = true;
            return Ok(None);
        }
        let path = self.path()?;
        if self.last.as_ref().is_some_and(|last| *last >= path) {
            return Err(NodeError::Order { number, path });
        }
        let mode = u32::try_from(read_number(&mut self.from, number)?).ok().filter(|mode| *mode <= 0o7777);
        let mode = mode.ok_or(NodeError::Malformed { number })?;
        let mtime = read_time(&mut self.from, number)?;
        let mut link = None;
        let kind = match tag {
            DIRECTORY => NodeKind::Directory,
            FILE | FURTHER_NAME => {
                let size = read_number(&mut self.from, number)?;
                let mut digest = [0; 32];
                self.from.read_exact(&mut digest)?;
                if tag == FURTHER_NAME {
                    link = Some(self.first_name(&path)?);
                }
                NodeKind::File { size, digest: Digest(digest) }
            }
            SYMLINK => NodeKind::Symlink { target: self.text()?.into() },
            SOCKET => NodeKind::Special(Special::Socket),
            FIFO => NodeKind::Special(Special::Fifo),
            DEVICE => NodeKind::Special(Special::Device),
            _ => return Err(NodeError::Malformed { number }),
        };
        self.last = Some(path.clone());
        Ok(Some(Node { path, kind, mode, mtime, link }))
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.from.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn text(&mut self) -> Result<Vec<u8>, NodeError> {
        read_text(&mut self.from, Vec::new(), self.number)
    }

    fn first_name(&mut self, name: &RelPath) -> Result<RelPath, NodeError> {
        let number = self.number;
        let bytes = read_path(&mut self.from, name.as_bytes(), number)?;
        let first = RelPath::new(bytes).map_err(|why| NodeError::Path { number, why })?;
        let is_before = !first.is_root() && first < *name;
        is_before.then_some(first).ok_or(NodeError::Malformed { number })
    }

    fn path(&mut self) -> Result<RelPath, NodeError> {
        let number = self.number;
        let last = self.last.as_ref().map_or(b"".as_slice(), RelPath::as_bytes);
        let bytes = read_path(&mut self.from, last, number)?;
        RelPath::new(bytes).map_err(|why| NodeError::Path { number, why })
    }
}

/// Appends a number in as few bytes as possible: seven bits in each, the lowest first.
pub(crate) fn push_number(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

pub(crate) fn read_number(from: &mut impl Read, at: u64) -> Result<u64, NodeError> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        let bits = u64::from(byte[0] & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        number |= bits << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(NodeError::Malformed { number: at })
}

pub(crate) fn push_time(to: &mut Vec<u8>, time: Timestamp) {
    push_number(to, ((time.secs << 1) ^ (time.secs >> 63)).cast_unsigned());
    to.extend_from_slice(&time.nanos.to_le_bytes());
}

pub(crate) fn read_time(from: &mut impl Read, at: u64) -> Result<Timestamp, NodeError> {
    let folded = read_number(from, at)?;
    let secs = (folded >> 1).cast_signed() ^ -(folded & 1).cast_signed();
    let mut nanos = [0; 4];
    from.read_exact(&mut nanos)?;
    let nanos = u32::from_le_bytes(nanos);
    if nanos >= 1_000_000_000 {
        return Err(NodeError::Malformed { number: at });
    }
    Ok(Timestamp { secs, nanos })
}

/// Appends `path` as its difference from `last`.
pub(crate) fn push_path(to: &mut Vec<u8>, last: &[u8], path: &[u8]) {
    let shared = last.iter().zip(path).take_while(|(a, b)| a == b).count();
    push_number(to, shared as u64);
    push_number(to, (path.len() - shared) as u64);
    to.extend_from_slice(&path[shared..]);
}

pub(crate) fn read_path(from: &mut impl Read, last: &[u8], at: u64) -> Result<Vec<u8>, NodeError> {
    let shared = usize::try_from(read_number(from, at)?).ok().and_then(|shared| last.get(..shared));
    let shared = shared.ok_or(NodeError::Malformed { number: at })?;
    read_text(from, shared.to_vec(), at)
}

fn read_text(from: &mut impl Read, mut text: Vec<u8>, at: u64) -> Result<Vec<u8>, NodeError> {
    let length = read_number(from, at)?;
    if length + text.len() as u64 > MAX_TEXT {
        return Err(NodeError::Malformed { number: at });
    }
    let start = text.len();
    text.resize(start + length as usize, 0);
    from.read_exact(&mut text[start..])?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node() -> impl Strategy<Value = Node> {
        let name = prop::collection::vec(any::<u8>().prop_filter("no name", |b| *b != 0 && *b != b'/'), 1..9)
            .prop_filter("no name", |name| name != b"." && name != b"..");
        let path =
            prop::collection::vec(name, 1..4).prop_map(|names| RelPath::new(names.join(&b'/')).unwrap());
        let kind = prop_oneof![
            Just(NodeKind::Directory),
            (any::<u64>(), any::<[u8; 32]>())
                .prop_map(|(size, digest)| NodeKind::File { size, digest: Digest(digest) }),
            prop::collection::vec(any::<u8>(), 1..300).prop_map(|t| NodeKind::Symlink { target: t.into() }),
            Just(NodeKind::Special(super::Special::Fifo)),
        ];
        let mtime = (any::<i64>(), 0..1_000_000_000u32).prop_map(|(secs, nanos)| Timestamp { secs, nanos });
        (path, kind, 0..0o10000u32, mtime, any::<bool>()).prop_map(|(path, kind, mode, mtime, linked)| {
            let first = RelPath::new([b"\x01".as_slice(), path.as_bytes()].concat()).unwrap();
            let link = (linked && first < path && matches!(kind, NodeKind::File { .. })).then_some(first);
            Node { path, kind, mode, mtime, link }
        })
    }

    fn written(nodes: &[Node]) -> Vec<u8> {
        let mut writer = NodeWriter::new(Vec::new());
        nodes.iter().for_each(|node| writer.write(node).unwrap());
        writer.finish().unwrap()
    }

    proptest! {
        #[test]
        fn nodes_come_back_as_they_went(mut nodes in prop::collection::vec(node(), 0..20)) {
            nodes.sort_by(|a, b| a.path.cmp(&b.path));
            nodes.dedup_by(|a, b| a.path == b.path);
            let bytes = written(&nodes);
            let mut reader = NodeReader::new(bytes.as_slice());
            for node in &nodes {
                prop_assert_eq!(&reader.next_node().unwrap().unwrap(), node);
            }
            prop_assert!(reader.next_node().unwrap().is_none());
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut reader = NodeReader::new(bytes.as_slice());
            while let Ok(Some(_)) = reader.next_node() {}
        }
    }

    #[test]
    fn a_list_out_of_order_is_refused() {
        let node = |path: &str| Node {
            path: RelPath::new(path.as_bytes()).unwrap(),
            kind: NodeKind::Directory,
            mode: 0o755,
            mtime: Timestamp::default(),
            link: None,
        };
        for nodes in [[node("b"), node("a")], [node("a"), node("a")]] {
            let bytes = written(&nodes);
            let mut reader = NodeReader::new(bytes.as_slice());
            reader.next_node().unwrap();
            assert!(matches!(reader.next_node(), Err(NodeError::Order { number: 2, .. })));
        }
    }

    #[test]
    fn a_further_name_comes_behind_the_first() {
        for first in ["b", "c", ""] {
            let file = NodeKind::File { size: 0, digest: Digest([0; 32]) };
            let link = RelPath::new(first.as_bytes()).unwrap();
            let path = RelPath::new(b"b".as_slice()).unwrap();
            let node = Node { path, kind: file, mode: 0, mtime: Timestamp::default(), link: Some(link) };
            let read = NodeReader::new(written(&[node]).as_slice()).next_node();
            assert!(matches!(read, Err(NodeError::Malformed { number: 1 })), "{first}: {read:?}");
        }
    }
}
