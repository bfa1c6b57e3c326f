//! Edits of a tree and listings of one, as lines of text. Compiled twice: into the differential test, for the host, and into the
//! helper that runs in the container (see `helper.rs`). So both sides mean the same by an edit, and nothing is needed of
//! the image. The standard library only.
//!
//! An edit that does not apply (its path is gone, a file is in the way) does nothing: the generator does not have to know
//! the other side's tree.

#![allow(dead_code, reason = "each of the two uses a part of this")]

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt::Write as _,
    fs,
    io::Read as _,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// One edit. What it does not need of the other fields is empty or zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    pub verb: Verb,
    /// Relative to the root, as all paths are.
    pub path: Bytes,
    /// The new path, or the link's target.
    pub other: Bytes,
    /// What content is made of, permission bits, or a time in nanoseconds since 1970.
    pub number: i64,
    /// A content's length.
    pub len: usize,
}

macro_rules! verbs {
    ($($(#[$doc:meta])* $verb:ident,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Verb {
            $($(#[$doc])* $verb,)*
        }

        const VERBS: &[Verb] = &[$(Verb::$verb),*];
    };
}

verbs! {
    /// The file gets this content in place, and its directories are made.
    Write,
    /// As `Write`, by a file beside it and a rename.
    Replace,
    /// Some bytes more at the file's end.
    Append,
    /// Other content of the same size, and then the mtime is put back.
    Stealth,
    /// As `Stealth`, by a file beside it and a rename.
    StealthReplace,
    /// A file whose middle is a hole of this size.
    Hole,
    /// Permission bits.
    Chmod,
    /// The mtime.
    Touch,
    /// Another name, over whatever is there.
    Rename,
    /// It goes, with all below it.
    Remove,
    /// A directory, in place of whatever else is there.
    Mkdir,
    /// A link with this target, in place of whatever is there.
    Symlink,
    /// A second name for a file or link, in place of whatever is there.
    Hardlink,
}

/// A path, or a link's target.
pub type Bytes = Vec<u8>;

/// `len` bytes that depend on `seed`.
fn content(seed: i64, len: usize) -> Vec<u8> {
    let mut state = seed as u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33).to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(len).collect()
}

impl Op {
    /// As one line of words without its end; [`Op::parse`] reads it.
    pub fn line(&self) -> String {
        let (path, other) = (to_hex(&self.path), to_hex(&self.other));
        format!("{:?} {path} {other} {} {}", self.verb, self.number, self.len)
    }

    /// Reads what [`Op::line`] wrote; none when it is no such line.
    pub fn parse(line: &str) -> Option<Op> {
        let words: Vec<_> = line.split(' ').collect();
        let [verb, path, other, number, len] = words[..] else { return None };
        let verb = *VERBS.iter().find(|known| format!("{known:?}") == verb)?;
        let (path, other) = (from_hex(path)?, from_hex(other)?);
        Some(Op { verb, path, other, number: number.parse().ok()?, len: len.parse().ok()? })
    }

    /// Does it below `root`, as far as it applies.
    pub fn apply(&self, root: &Path) {
        // What does not apply is no edit.
        let _ = self.try_apply(root);
    }

    fn try_apply(&self, root: &Path) -> std::io::Result<()> {
        use std::io::{Seek as _, SeekFrom, Write as _};
        let at = |path: &Bytes| root.join(OsStr::from_bytes(path));
        let (path, other) = (at(&self.path), at(&self.other));
        let content = |len| content(self.number, len);
        match self.verb {
            Verb::Write => {
                make_room(root, &path, Keep::File)?;
                fs::write(path, content(self.len))
            }
            Verb::Replace => {
                make_room(root, &path, Keep::File)?;
                replace(&path, &content(self.len)).map(drop)
            }
            Verb::Append => {
                fs::OpenOptions::new().append(true).open(file(path)?)?.write_all(&content(self.len))
            }
            Verb::Stealth => {
                let before = file(path.clone())?.metadata()?;
                let mut file = fs::OpenOptions::new().write(true).open(path)?;
                file.write_all(&content(before.len() as usize))?;
                file.set_modified(before.modified()?)
            }
            Verb::StealthReplace => {
                let before = file(path.clone())?.metadata()?;
                let file = replace(&path, &content(before.len() as usize))?;
                file.set_permissions(before.permissions())?;
                file.set_modified(before.modified()?)
            }
            Verb::Hole => {
                make_room(root, &path, Keep::Nothing)?;
                let mut file = fs::File::create_new(path)?;
                file.write_all(&content(10))?;
                file.seek(SeekFrom::Start(self.len as u64))?;
                file.write_all(&content(10))
            }
            Verb::Chmod if path.symlink_metadata()?.is_symlink() => Ok(()),
            Verb::Chmod => fs::set_permissions(path, fs::Permissions::from_mode(self.number as u32)),
            Verb::Touch if path.symlink_metadata()?.is_symlink() => Ok(()),
            Verb::Touch => set_mtime(&path, self.number.into()),
            Verb::Rename => {
                path.symlink_metadata()?;
                if !other.starts_with(&path) && !path.starts_with(&other) {
                    make_room(root, &other, Keep::Nothing)?;
                    fs::rename(path, other)?;
                }
                Ok(())
            }
            Verb::Remove => remove(&path),
            Verb::Mkdir => {
                make_room(root, &path, Keep::Directory)?;
                if path.is_dir() { Ok(()) } else { fs::create_dir(path) }
            }
            Verb::Symlink => {
                make_room(root, &path, Keep::Nothing)?;
                symlink(OsStr::from_bytes(&self.other), path)
            }
            Verb::Hardlink => {
                if !path.symlink_metadata()?.is_dir()
                    && !other.starts_with(&path)
                    && !path.starts_with(&other)
                {
                    make_room(root, &other, Keep::Nothing)?;
                    fs::hard_link(path, other)?;
                }
                Ok(())
            }
        }
    }
}

/// Sets the mtime of a file or directory, in nanoseconds since 1970.
pub fn set_mtime(path: &Path, nanos: i128) -> std::io::Result<()> {
    let since = Duration::from_nanos(nanos.unsigned_abs() as u64);
    let time = if nanos < 0 { SystemTime::UNIX_EPOCH - since } else { SystemTime::UNIX_EPOCH + since };
    fs::File::open(path)?.set_modified(time)
}

fn file(path: PathBuf) -> std::io::Result<PathBuf> {
    if path.symlink_metadata()?.is_file() { Ok(path) } else { Err(std::io::ErrorKind::InvalidInput.into()) }
}

fn replace(path: &Path, content: &[u8]) -> std::io::Result<fs::File> {
    let beside = path.with_file_name("beside.tmp");
    fs::write(&beside, content)?;
    fs::rename(beside, path)?;
    fs::File::open(path)
}

/// Removes a file, or a directory with all that is in it.
pub fn remove(path: &Path) -> std::io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Nothing,
    File,
    Directory,
}

/// Makes the directories above `path`, in place of whatever is in their way, and takes away what is at `path` unless it
/// is what will be there. Links are never gone through.
fn make_room(root: &Path, path: &Path, keep: Keep) -> std::io::Result<()> {
    let below = path.strip_prefix(root).map_err(std::io::Error::other)?;
    let mut dir = root.to_owned();
    for component in below.parent().into_iter().flat_map(Path::components) {
        dir.push(component);
        if !dir.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
            let _ = remove(&dir);
            fs::create_dir(&dir)?;
        }
    }
    let Ok(there) = path.symlink_metadata() else { return Ok(()) };
    if keep == Keep::File && there.is_file() || keep == Keep::Directory && there.is_dir() {
        return Ok(());
    }
    remove(path)
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `d`, `f`, `l`, or `s` for anything else.
    pub kind: char,
    /// Permission bits; 0 for links.
    pub mode: u32,
    /// Nanoseconds since 1970.
    pub mtime: i128,
    /// A file's length and a hash of its content; a link's target.
    pub content: Bytes,
    /// The first path in the tree that is the same file; empty where there is no other.
    pub group: Bytes,
    /// Whether most of it is holes.
    pub sparse: bool,
}

/// A whole tree without its root, sorted by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing(pub BTreeMap<Bytes, Node>);

impl Listing {
    /// Looks at all below `root`.
    pub fn of(root: &Path) -> std::io::Result<Listing> {
        let mut listing = Listing::default();
        let mut names = BTreeMap::<_, Vec<Bytes>>::new();
        listing.add(root, &mut Vec::new(), &mut names)?;
        for paths in names.into_values().filter(|paths| paths.len() > 1) {
            let first = paths.iter().min().cloned().unwrap_or_default();
            for path in paths {
                listing.0.entry(path).and_modify(|node| node.group.clone_from(&first));
            }
        }
        Ok(listing)
    }

    fn add(
        &mut self,
        dir: &Path,
        path: &mut Bytes,
        names: &mut BTreeMap<(u64, u64), Vec<Bytes>>,
    ) -> std::io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let len = path.len();
            if len > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(entry.file_name().as_bytes());
            let found = entry.path().symlink_metadata()?;
            let (kind, content) = if found.is_dir() {
                ('d', Vec::new())
            } else if found.is_symlink() {
                ('l', fs::read_link(entry.path())?.into_os_string().into_vec())
            } else if found.is_file() {
                ('f', digest(&entry.path())?)
            } else {
                ('s', Vec::new())
            };
            let mode = if kind == 'l' { 0 } else { found.mode() & 0o7777 };
            let mtime = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
            let sparse = kind == 'f' && found.blocks() * 1024 < found.size() && found.size() > 1 << 19;
            self.0.insert(path.clone(), Node { kind, mode, mtime, content, group: Vec::new(), sparse });
            if kind == 'd' {
                self.add(&entry.path(), path, names)?;
            } else if found.nlink() > 1 {
                names.entry((found.dev(), found.ino())).or_default().push(path.clone());
            }
            path.truncate(len);
        }
        Ok(())
    }

    /// Lines; [`Listing::parse`] reads them.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (path, node) in &self.0 {
            let Node { kind, mode, mtime, content, group, sparse } = node;
            let [path, content, group] = [path, content, group].map(|bytes| to_hex(bytes));
            let _ = writeln!(text, "{kind} {mode} {mtime} {sparse} {path} {content} {group}");
        }
        text
    }

    /// Reads what [`Listing::to_text`] wrote; none when it is something else.
    pub fn parse(text: &str) -> Option<Listing> {
        let line = |line: &str| {
            let mut words = line.split(' ');
            let kind = words.next()?.chars().next()?;
            let mode = words.next()?.parse().ok()?;
            let mtime = words.next()?.parse().ok()?;
            let sparse = words.next()?.parse().ok()?;
            let mut bytes = || from_hex(words.next()?);
            Some((bytes()?, Node { kind, mode, mtime, content: bytes()?, group: bytes()?, sparse }))
        };
        text.lines().map(line).collect::<Option<_>>().map(Listing)
    }
}

/// Length and two hashes: not against an attacker, only against mistakes.
fn digest(path: &Path) -> std::io::Result<Bytes> {
    let mut content = Vec::new();
    fs::File::open(path)?.read_to_end(&mut content)?;
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in &content {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    Ok([(content.len() as u64).to_be_bytes(), hash.to_be_bytes()].concat())
}

fn to_hex(bytes: &[u8]) -> String {
    // One sign, so that an empty one is a word too.
    bytes.iter().fold(String::from("."), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn from_hex(word: &str) -> Option<Bytes> {
    let hex = word.strip_prefix('.')?;
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}
