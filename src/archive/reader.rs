//! Reads a tar stream from a hostile container into checked entries.
//!
//! In: bytes. Out: entries whose paths are [`RelPath`]s (so they cannot leave the output), with a
//! reader for their data that cannot read past the entry. Input that two tar readers could
//! understand differently is refused, with an error that names the entry: it can smuggle content.
//! Nothing is guessed, repaired or skipped. `tar::Archive` is not used: it takes PAX records of any
//! size into memory, is lenient, and reads sparse files. Files with holes have only one form here,
//! only with [`Reader::with_holes`].
//!
//! Memory is limited to three names or PAX headers of 1 MiB, whatever the stream contains.
//! [`crate::outputs`], which knows the disk, checks the entries as a whole (one path twice, a file
//! below a file, a hard link to a missing file).
//!
//! What engines send, as seen with Docker 20.10: ustar headers, PAX `path`, `linkpath`, `uid`,
//! `gid`, times in whole seconds, modes with the file type in their upper bits, hard links without
//! data, and exactly two zero blocks at the end. `GET ?path=/a/b` gives names that begin with `b/`
//! (or are `b`, for a file or a link); `GET ?path=/a/b/.` gives `./` and `./x`.

use std::{
    fmt,
    io::{self, BufReader, Read},
};

use tar::Header;

use super::{
    pack::Holes,
    pax::{self, BLOCK},
};
use crate::{
    entry::{RelPath, Special, Timestamp, path::BadPath},
    sys::extents::{Extents, Step},
    text::Escaped,
};

/// How the names of a stream relate to the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Every name begins with the same component, which stands for the output itself: `_site/…`.
    /// The first entry determines it.
    Prefixed,
    /// Names are relative to the output: `.` and `./x`, or just `x`.
    Contents,
}

/// Limits for a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Number of entries of any kind.
    pub entries: u64,
    /// Bytes of content and of extended headers, as declared.
    pub bytes: u64,
}

/// One checked entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Its path below the output; the root is the output itself.
    pub path: RelPath,
    /// Its kind.
    pub kind: IncomingKind,
    /// Permission bits, `0o777` at most; set-uid, set-gid and sticky only with
    /// [`Reader::believing`].
    pub mode: u32,
    /// Last change.
    pub mtime: Timestamp,
}

/// The kind of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IncomingKind {
    /// A directory.
    Directory,
    /// A regular file; [`Reader::data`] has its content.
    File {
        /// Length in bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Its target, unchanged and never followed. Not empty, without NUL.
        target: Box<[u8]>,
    },
    /// Another name of a file.
    HardLink {
        /// The other name, below the same output; not the output itself and not this entry.
        target: RelPath,
    },
    /// A special file, which does not travel.
    Special(Special),
}

/// Why a stream was not read to its end. Nothing after this point can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection failed.
    #[error("the products stopped coming after {offset} bytes: {source}")]
    Io {
        /// Bytes read so far.
        offset: u64,
        /// The error of the connection.
        source: io::Error,
    },
    /// The stream ended before its end mark.
    #[error(
        "the products stopped coming after {offset} bytes, before the end of the archive; \
         see whether the engine and the container are still there"
    )]
    Truncated {
        /// Bytes read so far.
        offset: u64,
    },
    /// The end mark is followed by other bytes than zeros.
    #[error(
        "there is more behind the end of the archive, from byte {offset} on; its sender cannot be trusted"
    )]
    BehindEnd {
        /// Bytes read so far.
        offset: u64,
    },
    /// An entry that is refused.
    #[error("entry {number} of the products, {name}, is refused: {why}")]
    Refused {
        /// The number of the entry, from 1.
        number: u64,
        /// Its name as far as it is known.
        name: EntryName,
        /// What is wrong with it.
        why: Refusal,
    },
    /// More entries than [`Limits::entries`].
    #[error(
        "the products have more than {limit} entries; \
         name only what is needed with -o, or leave the rest out"
    )]
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
    /// More bytes than [`Limits::bytes`].
    #[error(
        "with entry {number}, {name}, the products would be larger than {limit} bytes; \
         name only what is needed with -o, or leave the rest out"
    )]
    TooManyBytes {
        /// The number of the entry, from 1.
        number: u64,
        /// Its name as far as it is known.
        name: EntryName,
        /// The limit.
        limit: u64,
    },
    /// The caller continued after an error.
    #[error("the products were read on after an error; this is a bug in fastbuild")]
    AfterError,
}

/// An entry's name for messages: escaped and shortened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryName(Box<[u8]>);

impl EntryName {
    const SHOWN: usize = 200;

    fn new(name: &[u8]) -> EntryName {
        EntryName(name[..name.len().min(Self::SHOWN + 1)].into())
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get(..Self::SHOWN) {
            Some(shown) if self.0.len() > Self::SHOWN => write!(f, "\"{}…\"", Escaped(shown)),
            _ => write!(f, "\"{}\"", Escaped(&self.0)),
        }
    }
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The header's checksum is wrong.
    #[error("the checksum of its header is wrong")]
    Checksum,
    /// A field that is not a number or is out of range.
    #[error("its {0} is not a valid number")]
    Number(&'static str),
    /// An unsupported type that engines do not send: sparse files, volume headers, unknown ones.
    #[error("its type '{}' is not supported", .0.escape_ascii())]
    Type(u8),
    /// PAX records that make a file sparse, except those of [`Reader::with_holes`].
    #[error("it is a sparse file, in a format that is not supported")]
    Sparse,
    /// Two different sizes.
    #[error("its header says {header} bytes, its PAX record {record}")]
    SizeConflict {
        /// In the header.
        header: u64,
        /// In the PAX record.
        record: u64,
    },
    /// An entry with content that is not a regular file.
    #[error("it is not a regular file, but has {0} bytes of content")]
    ContentOfNoFile(u64),
    /// An extended header or long name that is too long.
    #[error("its extended header of {0} bytes is too long")]
    ExtensionTooLong(u64),
    /// PAX records with invalid format or with a repeated key.
    #[error("its PAX header is malformed")]
    MalformedPax,
    /// A long name that contains no name.
    #[error("its long-name header is malformed")]
    MalformedLongName,
    /// More extended headers than one entry can have.
    #[error("it has several extended headers where only one is allowed")]
    ExtensionTwice,
    /// An extended header without an entry.
    #[error("it is an extended header that no entry follows")]
    ExtensionAlone,
    /// A global header that would rename or resize all entries after it.
    #[error("it is a global header that would change names or sizes")]
    GlobalHeader,
    /// An empty name.
    #[error("its name is empty")]
    EmptyName,
    /// A name that could lead outside of the output.
    #[error("its name is not taken: {0}")]
    Name(#[source] BadPath),
    /// A name outside of the output.
    #[error("its name does not lie in the output")]
    OutsideName,
    /// A path of more than 64 KiB.
    #[error("its path is too long")]
    NameTooLong,
    /// A path of more than 1,000 components.
    #[error("its path is too deep")]
    NameTooDeep,
    /// A hard-link target that could lead outside of the output.
    #[error("the target of the hard link is not taken: {0}")]
    LinkTarget(#[source] BadPath),
    /// A hard-link target outside of the output.
    #[error("the target of the hard link does not lie in the output")]
    OutsideLinkTarget,
    /// A hard link to itself or to the output as a whole.
    #[error("the target of the hard link is itself, or no file")]
    NoLinkTarget,
    /// A symbolic link whose target is empty, holds NUL, or has more than 64 KiB.
    #[error("the target of the symbolic link is not valid")]
    SymlinkTarget,
}

const MAX_EXTENSION: u64 = 1 << 20;
const MAX_NAME: usize = 64 << 10;
const MAX_DEPTH: usize = 1000;
/// The maximum number of zeros after the end mark. GNU tar pads to 10 KiB by default, 1 MiB at
/// most.
const MAX_TAIL: u64 = 2 << 20;

/// Reads one stream. After an error it returns only errors.
#[derive(Debug)]
pub struct Reader<R> {
    stream: BufReader<R>,
    naming: Naming,
    limits: Limits,
    /// With [`Naming::Prefixed`], set by the first entry.
    prefix: Option<Box<[u8]>>,
    entries: u64,
    bytes: u64,
    offset: u64,
    /// Unread content of the current entry, and its padding.
    data_left: u64,
    padding_left: u64,
    /// The data ranges of the current entry, its length, and the bytes read so far.
    extents: Extents,
    size: u64,
    at: u64,
    holes: Holes,
    progress: Progress,
    mode_mask: i64,
    max_depth: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Reading,
    Ended,
    Broken,
}

/// The data of extended headers for the entry that follows them.
#[derive(Debug, Default)]
struct Extensions {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

/// The relevant PAX records.
#[derive(Debug, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    linkpath: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<Timestamp>,
    holes: Option<(Extents, u64)>,
}

impl<R: Read> Reader<R> {
    /// Reads from `stream`, which may return pieces of any size.
    pub fn new(stream: R, naming: Naming, limits: Limits) -> Reader<R> {
        Reader {
            stream: BufReader::with_capacity(64 << 10, stream),
            naming,
            limits,
            prefix: None,
            entries: 0,
            bytes: 0,
            offset: 0,
            data_left: 0,
            padding_left: 0,
            extents: Extents::Unknown,
            size: 0,
            at: 0,
            holes: Holes::Zeros,
            progress: Progress::Reading,
            mode_mask: 0o777,
            max_depth: MAX_DEPTH,
        }
    }

    /// Accepts more from a trusted sender, as a workspace's client is: set-uid, set-gid and sticky
    /// bits, and trees of any depth. The format is checked as strictly as without it.
    #[must_use]
    pub fn believing(self) -> Reader<R> {
        Reader { mode_mask: 0o7777, max_depth: usize::MAX, ..self }
    }

    /// Accepts files with holes in the form of [`super::pack::Holes::Told`].
    #[must_use]
    pub fn with_holes(self) -> Reader<R> {
        Reader { holes: Holes::Told, ..self }
    }

    /// The data ranges of the last entry. Not known for streams in which holes travel as zeros.
    pub fn extents(&self) -> Extents {
        self.extents.clone()
    }

    /// The next entry; unread content of the one before is skipped. `None` after a valid end of the
    /// stream, which is then read to its last byte.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn next_entry(&mut self) -> Result<Option<Incoming>, ReadError> {
        match self.progress {
            Progress::Ended => return Ok(None),
            Progress::Broken => return Err(ReadError::AfterError),
            Progress::Reading => self.progress = Progress::Broken,
        }
        let entry = self.read_entry()?;
        self.progress = if entry.is_some() { Progress::Reading } else { Progress::Ended };
        Ok(entry)
    }

    /// The content of the last entry from [`Reader::next_entry`]: exactly as many bytes as its size
    /// says. If the stream ends early, the error has the kind `UnexpectedEof` and contains a
    /// [`ReadError`]. Empty for entries other than files.
    pub fn data(&mut self) -> Data<'_, R> {
        Data(self)
    }

    fn read_entry(&mut self) -> Result<Option<Incoming>, ReadError> {
        self.skip_data()?;
        let mut extensions = Extensions::default();
        loop {
            let block = self.block()?;
            if block.iter().all(|&byte| byte == 0) {
                if extensions.any() {
                    return Err(self.refused(extensions.name().unwrap_or(b""), Refusal::ExtensionAlone));
                }
                self.end()?;
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            let kind = header.as_old().linkflag[0];
            if !matches!(kind, b'x' | b'L' | b'K') {
                self.count_entry()?;
            }
            if let Err(why) = verify_checksum(header) {
                return Err(self.refused(&header.path_bytes(), why));
            }
            match kind {
                b'x' | b'g' | b'L' | b'K' => self.extension(header, kind, &mut extensions)?,
                _ => return self.incoming(header, extensions).map(Some),
            }
        }
    }

    fn count_entry(&mut self) -> Result<(), ReadError> {
        if self.entries == self.limits.entries {
            return Err(ReadError::TooManyEntries { limit: self.limits.entries });
        }
        self.entries += 1;
        Ok(())
    }

    fn extension(&mut self, header: &Header, kind: u8, extensions: &mut Extensions) -> Result<(), ReadError> {
        let name = header.path_bytes();
        if !extensions.has_room_for(kind) {
            return Err(self.refused(extensions.name().unwrap_or(&name), Refusal::ExtensionTwice));
        }
        let payload = self.payload(header)?;
        let taken = match kind {
            b'x' => Pax::parse(&payload).map(|pax| extensions.pax = Some(pax)),
            b'g' => Pax::parse(&payload).and_then(|pax| pax.harmless_for_all()),
            b'L' => long_name(payload).map(|name| extensions.long_name = Some(name)),
            _ => long_name(payload).map(|name| extensions.long_link = Some(name)),
        };
        taken.map_err(|why| self.refused(&name, why))
    }

    /// The content of an extended header.
    fn payload(&mut self, header: &Header) -> Result<Vec<u8>, ReadError> {
        let name = header.path_bytes();
        let size = header_size(header).map_err(|why| self.refused(&name, why))?;
        if size > MAX_EXTENSION {
            return Err(self.refused(&name, Refusal::ExtensionTooLong(size)));
        }
        self.count_bytes(size, &name)?;
        let mut payload = vec![0; size as usize];
        self.read_exact(&mut payload)?;
        self.read_exact(&mut [0; BLOCK as usize][..pax::padding(size) as usize])?;
        Ok(payload)
    }

    fn incoming(&mut self, header: &Header, extensions: Extensions) -> Result<Incoming, ReadError> {
        let short_name = header.path_bytes();
        let name = extensions.name().unwrap_or(&short_name);
        let data = extensions.size(header).map_err(|why| self.refused(name, why))?;
        let (extents, size) = extensions.extents(data, self.holes).map_err(|why| self.refused(name, why))?;
        let incoming = self.check(header, name, &extensions, size).map_err(|why| self.refused(name, why))?;
        self.count_bytes(size, name)?;
        (self.data_left, self.padding_left) = (data, pax::padding(data));
        (self.extents, self.size, self.at) = (extents, size, 0);
        Ok(incoming)
    }

    fn check(
        &mut self,
        header: &Header,
        name: &[u8],
        extensions: &Extensions,
        size: u64,
    ) -> Result<Incoming, Refusal> {
        let kind = header.as_old().linkflag[0];
        let path = self.place(name, Slash::of(kind)).map_err(NotTaken::of_name)?;
        let short_link = c_string(&header.as_old().linkname);
        let link = extensions.link().unwrap_or(short_link);
        let kind = match kind {
            b'0' | 0 => IncomingKind::File { size },
            b'1' => IncomingKind::HardLink { target: self.link_target(link, &path)? },
            b'2' => IncomingKind::Symlink { target: symlink_target(link)? },
            b'3' | b'4' => IncomingKind::Special(Special::Device),
            b'5' => IncomingKind::Directory,
            b'6' => IncomingKind::Special(Special::Fifo),
            other => return Err(Refusal::Type(other)),
        };
        if size > 0 && !matches!(kind, IncomingKind::File { .. }) {
            return Err(Refusal::ContentOfNoFile(size));
        }
        let mode = pax::parse_field(&header.as_old().mode).ok_or(Refusal::Number("mode"))?;
        // The masked value is always in range.
        let mode = u32::try_from(mode & self.mode_mask).map_err(|_| Refusal::Number("mode"))?;
        Ok(Incoming { path, kind, mode, mtime: extensions.mtime(header)? })
    }

    /// The path of a name below the output.
    fn place(&mut self, name: &[u8], slash: Slash) -> Result<RelPath, NotTaken> {
        if name.is_empty() {
            return Err(NotTaken::Empty);
        }
        if name.len() > MAX_NAME {
            return Err(NotTaken::TooLong);
        }
        if name[0] == b'/' {
            return Err(NotTaken::Bad(BadPath::Absolute));
        }
        let name = match slash {
            Slash::Allowed => name.strip_suffix(b"/").unwrap_or(name),
            Slash::Refused => name,
        };
        let path = match (self.naming, slash) {
            (Naming::Contents, Slash::Allowed) if name == b"." => RelPath::root(),
            (Naming::Contents, _) => RelPath::new(name.strip_prefix(b"./").unwrap_or(name))?,
            (Naming::Prefixed, _) => self.below_prefix(name)?,
        };
        if path.components().count() > self.max_depth {
            return Err(NotTaken::TooDeep);
        }
        // Only the output itself may have an empty path, but `./` of a file would have one too.
        let names_root = self.naming == Naming::Prefixed || slash == Slash::Allowed;
        if path.is_root() && !names_root { Err(NotTaken::Empty) } else { Ok(path) }
    }

    fn below_prefix(&mut self, name: &[u8]) -> Result<RelPath, NotTaken> {
        let whole = RelPath::new(name)?;
        let first = whole.components().next().ok_or(NotTaken::Empty)?;
        if &**self.prefix.get_or_insert_with(|| first.into()) != first {
            return Err(NotTaken::Outside);
        }
        whole.strip_prefix(&RelPath::new(first)?).ok_or(NotTaken::Outside)
    }

    fn link_target(&mut self, link: &[u8], path: &RelPath) -> Result<RelPath, Refusal> {
        let target = self.place(link, Slash::Refused).map_err(NotTaken::of_link)?;
        if target.is_root() || target == *path { Err(Refusal::NoLinkTarget) } else { Ok(target) }
    }

    fn count_bytes(&mut self, size: u64, name: &[u8]) -> Result<(), ReadError> {
        let limit = self.limits.bytes;
        match self.bytes.checked_add(size) {
            Some(sum) if sum <= limit => self.bytes = sum,
            _ => {
                let (number, name) = (self.number(), EntryName::new(name));
                return Err(ReadError::TooManyBytes { number, name, limit });
            }
        }
        Ok(())
    }

    /// Called after the first of the two zero blocks: reads the second one, then zeros to the end.
    fn end(&mut self) -> Result<(), ReadError> {
        if self.block()?.iter().any(|&byte| byte != 0) {
            return Err(ReadError::BehindEnd { offset: self.offset - BLOCK });
        }
        let mut buffer = [0; 4096];
        let mut tail = 0;
        loop {
            let read = self.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            tail += read as u64;
            if tail > MAX_TAIL || buffer[..read].iter().any(|&byte| byte != 0) {
                return Err(ReadError::BehindEnd { offset: self.offset - read as u64 });
            }
        }
    }

    fn skip_data(&mut self) -> Result<(), ReadError> {
        let mut buffer = [0; 8192];
        let mut left = self.data_left + self.padding_left;
        while left > 0 {
            let len = left.min(buffer.len() as u64) as usize;
            self.read_exact(&mut buffer[..len])?;
            left -= len as u64;
        }
        (self.data_left, self.padding_left) = (0, 0);
        (self.size, self.at) = (0, 0);
        Ok(())
    }

    fn block(&mut self) -> Result<[u8; BLOCK as usize], ReadError> {
        let mut block = [0; BLOCK as usize];
        self.read_exact(&mut block)?;
        Ok(block)
    }

    fn read_exact(&mut self, mut buffer: &mut [u8]) -> Result<(), ReadError> {
        while !buffer.is_empty() {
            match self.read(buffer)? {
                0 => return Err(ReadError::Truncated { offset: self.offset }),
                read => buffer = &mut buffer[read..],
            }
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        loop {
            match self.stream.read(buffer) {
                Ok(read) => {
                    self.offset += read as u64;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ReadError::Io { offset: self.offset, source }),
            }
        }
    }

    /// The number of the current entry, also while its extended headers are read.
    fn number(&self) -> u64 {
        self.entries.max(1)
    }

    fn refused(&self, name: &[u8], why: Refusal) -> ReadError {
        ReadError::Refused { number: self.number(), name: EntryName::new(name), why }
    }
}

/// The content of one entry, see [`Reader::data`].
#[derive(Debug)]
pub struct Data<'a, R>(&'a mut Reader<R>);

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Data(reader) = self;
        let left = usize::try_from(reader.size - reader.at).unwrap_or(usize::MAX).min(buffer.len());
        if left == 0 {
            return Ok(0);
        }
        let len = match reader.extents.step(reader.at, left) {
            Step::Data(len) => len,
            Step::Hole(len) => {
                buffer[..len].fill(0);
                reader.at += len as u64;
                return Ok(len);
            }
        };
        match reader.read(&mut buffer[..len]) {
            Ok(0) => {
                reader.progress = Progress::Broken;
                let truncated = ReadError::Truncated { offset: reader.offset };
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, truncated))
            }
            Ok(read) => {
                reader.data_left -= read as u64;
                reader.at += read as u64;
                Ok(read)
            }
            Err(error) => {
                reader.progress = Progress::Broken;
                Err(io::Error::other(error))
            }
        }
    }
}

/// Whether a name may end with a slash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slash {
    Allowed,
    /// Some readers treat any name with a final slash as a directory, so only directories may have
    /// one.
    Refused,
}

impl Slash {
    fn of(kind: u8) -> Slash {
        if kind == b'5' { Slash::Allowed } else { Slash::Refused }
    }
}

/// What is wrong with the name of an entry or the target of a hard link.
enum NotTaken {
    Empty,
    TooLong,
    TooDeep,
    Outside,
    Bad(BadPath),
}

impl From<BadPath> for NotTaken {
    fn from(bad: BadPath) -> NotTaken {
        NotTaken::Bad(bad)
    }
}

impl NotTaken {
    fn of_name(self) -> Refusal {
        match self {
            NotTaken::Empty => Refusal::EmptyName,
            NotTaken::TooLong => Refusal::NameTooLong,
            NotTaken::TooDeep => Refusal::NameTooDeep,
            NotTaken::Outside => Refusal::OutsideName,
            NotTaken::Bad(bad) => Refusal::Name(bad),
        }
    }

    fn of_link(self) -> Refusal {
        match self {
            NotTaken::Empty => Refusal::NoLinkTarget,
            NotTaken::TooLong => Refusal::NameTooLong,
            NotTaken::TooDeep => Refusal::NameTooDeep,
            NotTaken::Outside => Refusal::OutsideLinkTarget,
            NotTaken::Bad(bad) => Refusal::LinkTarget(bad),
        }
    }
}

impl Extensions {
    fn any(&self) -> bool {
        self.pax.is_some() || self.long_name.is_some() || self.long_link.is_some()
    }

    /// An entry has one PAX header, or at most one long name and one long link; readers differ on
    /// combinations. A global header may not come between an extended header and its entry.
    fn has_room_for(&self, kind: u8) -> bool {
        match kind {
            b'L' => self.pax.is_none() && self.long_name.is_none(),
            b'K' => self.pax.is_none() && self.long_link.is_none(),
            _ => !self.any(),
        }
    }

    fn name(&self) -> Option<&[u8]> {
        self.pax.as_ref().and_then(|pax| pax.path.as_deref()).or(self.long_name.as_deref())
    }

    fn link(&self) -> Option<&[u8]> {
        self.pax.as_ref().and_then(|pax| pax.linkpath.as_deref()).or(self.long_link.as_deref())
    }

    /// Writers with a size record leave zero in the header, or repeat the size in base 256.
    fn size(&self, header: &Header) -> Result<u64, Refusal> {
        let in_header = header_size(header)?;
        match self.pax.as_ref().and_then(|pax| pax.size) {
            Some(record) if in_header != 0 && in_header != record => {
                Err(Refusal::SizeConflict { header: in_header, record })
            }
            Some(record) => Ok(record),
            None => Ok(in_header),
        }
    }

    /// The data ranges and the length of the entry, which is followed by `data` bytes.
    fn extents(&self, data: u64, holes: Holes) -> Result<(Extents, u64), Refusal> {
        match (self.pax.as_ref().and_then(|pax| pax.holes.clone()), holes) {
            (None, Holes::Told) => Ok((Extents::whole(data), data)),
            (None, Holes::Zeros) => Ok((Extents::Unknown, data)),
            (Some((extents, size)), Holes::Told) if extents.data(size) == data => Ok((extents, size)),
            (Some(_), _) => Err(Refusal::Sparse),
        }
    }

    fn mtime(&self, header: &Header) -> Result<Timestamp, Refusal> {
        if let Some(mtime) = self.pax.as_ref().and_then(|pax| pax.mtime) {
            return Ok(mtime);
        }
        let secs = pax::parse_field(&header.as_old().mtime).ok_or(Refusal::Number("mtime"))?;
        Ok(Timestamp { secs, nanos: 0 })
    }
}

impl Pax {
    /// Engines write each record once and none with an empty value; other streams are refused.
    fn parse(payload: &[u8]) -> Result<Pax, Refusal> {
        let mut found = Pax::default();
        for record in pax::records(payload) {
            let (key, value) = record.ok_or(Refusal::MalformedPax)?;
            match key {
                b"path" => set_once(&mut found.path, name_value(value)?)?,
                b"linkpath" => set_once(&mut found.linkpath, name_value(value)?)?,
                b"size" => set_once(&mut found.size, size_value(value)?)?,
                b"mtime" => {
                    set_once(&mut found.mtime, pax::parse_time(value).ok_or(Refusal::Number("mtime"))?)?;
                }
                pax::HOLES => set_once(&mut found.holes, pax::parse_holes(value).ok_or(Refusal::Sparse)?)?,
                _ if key.starts_with(b"GNU.sparse.") => return Err(Refusal::Sparse),
                _ => {}
            }
        }
        Ok(found)
    }

    /// A global header may have comments and the like, but not a name or size for all entries.
    fn harmless_for_all(self) -> Result<(), Refusal> {
        let harmless =
            self.path.is_none() && self.linkpath.is_none() && self.size.is_none() && self.holes.is_none();
        if harmless { Ok(()) } else { Err(Refusal::GlobalHeader) }
    }
}

fn set_once<T>(slot: &mut Option<T>, value: T) -> Result<(), Refusal> {
    if slot.replace(value).is_some() { Err(Refusal::MalformedPax) } else { Ok(()) }
}

fn name_value(value: &[u8]) -> Result<Vec<u8>, Refusal> {
    if value.is_empty() { Err(Refusal::MalformedPax) } else { Ok(value.to_vec()) }
}

fn size_value(value: &[u8]) -> Result<u64, Refusal> {
    pax::parse_decimal(value).and_then(|size| u64::try_from(size).ok()).ok_or(Refusal::Number("size"))
}

/// GNU's `L` and `K`: a name followed by NUL.
fn long_name(mut payload: Vec<u8>) -> Result<Vec<u8>, Refusal> {
    let end = payload.iter().position(|&byte| byte == 0).unwrap_or(payload.len());
    let only_zeros_behind = payload[end..].iter().all(|&byte| byte == 0);
    if end == 0 || !only_zeros_behind {
        return Err(Refusal::MalformedLongName);
    }
    payload.truncate(end);
    Ok(payload)
}

fn symlink_target(link: &[u8]) -> Result<Box<[u8]>, Refusal> {
    let valid = !link.is_empty() && link.len() <= MAX_NAME && !link.contains(&0);
    if valid { Ok(link.into()) } else { Err(Refusal::SymlinkTarget) }
}

fn header_size(header: &Header) -> Result<u64, Refusal> {
    pax::parse_field(&header.as_old().size)
        .and_then(|size| u64::try_from(size).ok())
        .ok_or(Refusal::Number("size"))
}

/// The sum of the header's bytes, with spaces in place of the checksum field.
fn verify_checksum(header: &Header) -> Result<(), Refusal> {
    let bytes = header.as_bytes();
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| i64::from(byte)).sum::<i64>();
    let actual = sum(&bytes[..148]) + 8 * i64::from(b' ') + sum(&bytes[156..]);
    if pax::parse_field(&header.as_old().cksum) == Some(actual) { Ok(()) } else { Err(Refusal::Checksum) }
}

fn c_string(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or(b"")
}
