//! Edits of a tree and listings of one, as lines of text. Compiled twice: into the model test, for the host, and into the
//! helper that runs in the container (see `helper.rs`). So both sides mean the same by an edit, and nothing is needed of
//! the image. The standard library only.
//!
//! An edit that does not apply (its path is gone, a file is in the way) does nothing: the generator does not have to know
//! the other side's tree.

#![allow(dead_code, reason = "each of the two uses a part of this")]

use std::{
    collections::BTreeMap,
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

/// One edit. Paths are relative to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The file gets this content in place, and its directories are made.
    Write(Bytes, Content),
    /// As [`Op::Write`], by a file beside it and a rename.
    Replace(Bytes, Content),
    /// Some bytes more at the file's end.
    Append(Bytes, Content),
    /// Other content of the same size, and then the mtime is put back.
    Stealth(Bytes, u64),
    /// As [`Op::Stealth`], by a file beside it and a rename.
    StealthReplace(Bytes, u64),
    /// Permission bits.
    Chmod(Bytes, u32),
    /// The mtime in nanoseconds since 1970.
    Touch(Bytes, u64),
    /// Another name, over whatever is there.
    Rename(Bytes, Bytes),
    /// It goes, with all below it.
    Remove(Bytes),
    /// A directory, in place of whatever else is there.
    Mkdir(Bytes),
    /// A link with this target, in place of whatever is there.
    Symlink(Bytes, Bytes),
    /// A second name for a file, in place of whatever is there.
    Hardlink(Bytes, Bytes),
}

/// A path, or a link's target.
pub type Bytes = Vec<u8>;

/// What a file gets: `len` bytes that depend on `seed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Other seeds give other bytes.
    pub seed: u64,
    /// In bytes.
    pub len: usize,
}

impl Content {
    /// The bytes.
    pub fn bytes(self) -> Vec<u8> {
        let mut state = self.seed;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33).to_le_bytes()
        };
        std::iter::repeat_with(next).flatten().take(self.len).collect()
    }
}

impl Op {
    /// As one line of words without its end; [`Op::parse`] reads it.
    pub fn line(&self) -> String {
        let hex = |bytes: &Bytes| to_hex(bytes);
        match self {
            Op::Write(path, content) => format!("write {} {} {}", hex(path), content.seed, content.len),
            Op::Replace(path, content) => format!("replace {} {} {}", hex(path), content.seed, content.len),
            Op::Append(path, content) => format!("append {} {} {}", hex(path), content.seed, content.len),
            Op::Stealth(path, seed) => format!("stealth {} {seed}", hex(path)),
            Op::StealthReplace(path, seed) => format!("stealth-replace {} {seed}", hex(path)),
            Op::Chmod(path, mode) => format!("chmod {} {mode}", hex(path)),
            Op::Touch(path, nanos) => format!("touch {} {nanos}", hex(path)),
            Op::Rename(from, to) => format!("rename {} {}", hex(from), hex(to)),
            Op::Remove(path) => format!("remove {}", hex(path)),
            Op::Mkdir(path) => format!("mkdir {}", hex(path)),
            Op::Symlink(path, target) => format!("symlink {} {}", hex(path), hex(target)),
            Op::Hardlink(from, to) => format!("hardlink {} {}", hex(from), hex(to)),
        }
    }

    /// Reads what [`Op::line`] wrote; none when it is no such line.
    pub fn parse(line: &str) -> Option<Op> {
        let mut words = line.split(' ');
        let name = words.next()?;
        let path = from_hex(words.next()?)?;
        let mut bytes = || from_hex(words.next()?);
        match name {
            "remove" => return Some(Op::Remove(path)),
            "mkdir" => return Some(Op::Mkdir(path)),
            "rename" => return Some(Op::Rename(path, bytes()?)),
            "symlink" => return Some(Op::Symlink(path, bytes()?)),
            "hardlink" => return Some(Op::Hardlink(path, bytes()?)),
            _ => {}
        }
        let mut number = || words.next()?.parse::<u64>().ok();
        let first = number()?;
        match name {
            "stealth" => return Some(Op::Stealth(path, first)),
            "stealth-replace" => return Some(Op::StealthReplace(path, first)),
            "chmod" => return Some(Op::Chmod(path, first as u32)),
            "touch" => return Some(Op::Touch(path, first)),
            _ => {}
        }
        let content = Content { seed: first, len: number()? as usize };
        match name {
            "write" => Some(Op::Write(path, content)),
            "replace" => Some(Op::Replace(path, content)),
            "append" => Some(Op::Append(path, content)),
            _ => None,
        }
    }

    /// Does it below `root`, as far as it applies.
    pub fn apply(&self, root: &Path) {
        // What does not apply is no edit.
        let _ = self.try_apply(root);
    }

    fn try_apply(&self, root: &Path) -> std::io::Result<()> {
        let at = |path: &Bytes| root.join(std::ffi::OsStr::from_bytes(path));
        match self {
            Op::Write(path, content) => {
                let path = at(path);
                make_room(root, &path, Keep::File)?;
                fs::write(path, content.bytes())
            }
            Op::Replace(path, content) => {
                let path = at(path);
                make_room(root, &path, Keep::File)?;
                replace(&path, &content.bytes()).map(drop)
            }
            Op::Append(path, content) => {
                use std::io::Write as _;
                let path = regular(at(path))?;
                fs::OpenOptions::new().append(true).open(path)?.write_all(&content.bytes())
            }
            Op::Stealth(path, seed) => {
                use std::io::Write as _;
                let path = regular(at(path))?;
                let before = path.metadata()?;
                let content = Content { seed: *seed, len: before.len() as usize };
                let mut file = fs::OpenOptions::new().write(true).open(path)?;
                file.write_all(&content.bytes())?;
                file.set_modified(before.modified()?)
            }
            Op::StealthReplace(path, seed) => {
                let path = regular(at(path))?;
                let before = path.metadata()?;
                let content = Content { seed: *seed, len: before.len() as usize };
                let file = replace(&path, &content.bytes())?;
                file.set_permissions(before.permissions())?;
                file.set_modified(before.modified()?)
            }
            Op::Chmod(path, mode) => {
                let path = at(path);
                if path.symlink_metadata()?.is_symlink() {
                    return Ok(());
                }
                fs::set_permissions(path, fs::Permissions::from_mode(*mode))
            }
            Op::Touch(path, nanos) => {
                let path = at(path);
                if path.symlink_metadata()?.is_symlink() {
                    return Ok(());
                }
                let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(*nanos);
                fs::File::open(path)?.set_modified(time)
            }
            Op::Rename(from, to) => {
                let (from, to) = (at(from), at(to));
                from.symlink_metadata()?;
                if to.starts_with(&from) || from.starts_with(&to) {
                    return Ok(());
                }
                make_room(root, &to, Keep::Nothing)?;
                fs::rename(from, to)
            }
            Op::Remove(path) => remove(&at(path)),
            Op::Mkdir(path) => {
                let path = at(path);
                make_room(root, &path, Keep::Directory)?;
                if path.is_dir() { Ok(()) } else { fs::create_dir(path) }
            }
            Op::Symlink(path, target) => {
                let path = at(path);
                make_room(root, &path, Keep::Nothing)?;
                symlink(std::ffi::OsStr::from_bytes(target), path)
            }
            Op::Hardlink(from, to) => {
                let (from, to) = (regular(at(from))?, at(to));
                if to.starts_with(&from) || from.starts_with(&to) {
                    return Ok(());
                }
                make_room(root, &to, Keep::Nothing)?;
                fs::hard_link(from, to)
            }
        }
    }
}

fn regular(path: PathBuf) -> std::io::Result<PathBuf> {
    if path.symlink_metadata()?.is_file() { Ok(path) } else { Err(std::io::ErrorKind::InvalidInput.into()) }
}

fn replace(path: &Path, content: &[u8]) -> std::io::Result<fs::File> {
    let beside = path.with_file_name("beside.tmp");
    fs::write(&beside, content)?;
    fs::rename(beside, path)?;
    fs::File::open(path)
}

fn remove(path: &Path) -> std::io::Result<()> {
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
}

/// A whole tree without its root, sorted by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing(pub BTreeMap<Bytes, Node>);

impl Listing {
    /// Looks at all below `root`.
    pub fn of(root: &Path) -> std::io::Result<Listing> {
        let mut listing = Listing::default();
        listing.add(root, &mut Vec::new())?;
        Ok(listing)
    }

    fn add(&mut self, dir: &Path, path: &mut Bytes) -> std::io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let len = path.len();
            if len > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(entry.file_name().as_bytes());
            let metadata = entry.path().symlink_metadata()?;
            let (kind, content) = if metadata.is_dir() {
                ('d', Vec::new())
            } else if metadata.is_symlink() {
                ('l', fs::read_link(entry.path())?.into_os_string().into_vec())
            } else if metadata.is_file() {
                ('f', digest(&entry.path())?)
            } else {
                ('s', Vec::new())
            };
            let mode = if kind == 'l' { 0 } else { metadata.mode() & 0o7777 };
            let mtime = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
            self.0.insert(path.clone(), Node { kind, mode, mtime, content });
            if kind == 'd' {
                self.add(&entry.path(), path)?;
            }
            path.truncate(len);
        }
        Ok(())
    }

    /// Lines; [`Listing::parse`] reads them.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (path, node) in &self.0 {
            let (path, content) = (to_hex(path), to_hex(&node.content));
            let _ = writeln!(text, "{} {} {} {path} {content}", node.kind, node.mode, node.mtime);
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
            let path = from_hex(words.next()?)?;
            Some((path, Node { kind, mode, mtime, content: from_hex(words.next()?)? }))
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
