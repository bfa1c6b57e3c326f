//! One name in one open directory, where there is no `openat` family: by cap-std, which keeps every path below its
//! handle. Names must be UTF-8, modes are what the system can tell (writable or not), and exchanges are renames.

use std::{io, time::Duration};

use cap_fs_ext::{DirExt as _, FollowSymlinks, MetadataExt as _, OpenOptionsFollowExt as _, SystemTimeSpec};
use cap_std::{
    fs::{Dir, File, Metadata, OpenOptions},
    time::SystemTime,
};

pub use super::Look;
use crate::{
    entry::{Kind, Stamp, Timestamp},
    sys::metadata::timestamp,
};

/// No directory has it.
pub const SET_GROUP: u32 = 0;

/// There are no groups.
///
/// # Errors
/// None.
pub fn group_handed_on(_: &Dir) -> io::Result<Option<u32>> {
    Ok(None)
}

/// Nothing.
///
/// # Errors
/// None.
pub fn set_group(_: &Dir, _: &[u8], _: Option<u32>) -> io::Result<()> {
    Ok(())
}

fn name(bytes: &[u8]) -> io::Result<&str> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
    let name = std::str::from_utf8(bytes).map_err(|_| invalid("the name is not UTF-8"))?;
    let forbidden = |c: char| matches!(c, '/' | '\\' | ':' | '\0');
    if name.is_empty() || name == "." || name == ".." || name.contains(forbidden) {
        return Err(invalid("not a file name on this system"));
    }
    Ok(name)
}

/// Looks at `entry` in `dir`; `None` when there is nothing.
///
/// # Errors
/// Whatever the system says, other than that the name does not exist.
pub fn look(dir: &Dir, entry: &[u8]) -> io::Result<Option<Look>> {
    let entry = name(entry)?;
    let metadata = match dir.symlink_metadata(entry) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let kind = if metadata.is_dir() {
        Some(Kind::Directory)
    } else if metadata.is_symlink() {
        let target = dir.read_link_contents(entry)?;
        Some(Kind::Symlink { target: target.as_os_str().as_encoded_bytes().into() })
    } else if metadata.is_file() {
        Some(Kind::File { size: metadata.len() })
    } else {
        None
    };
    Ok(Some(seen(&metadata, kind)))
}

/// Looks at an open directory.
///
/// # Errors
/// Whatever the system says.
pub fn look_at(dir: &Dir) -> io::Result<Look> {
    Ok(seen(&dir.dir_metadata()?, Some(Kind::Directory)))
}

fn seen(metadata: &Metadata, kind: Option<Kind>) -> Look {
    let writable = !metadata.permissions().readonly();
    let mode = match (&kind, writable) {
        (Some(Kind::Directory), true) => 0o755,
        (Some(Kind::Directory), false) => 0o555,
        (_, true) => 0o644,
        (_, false) => 0o444,
    };
    let mtime = metadata.modified().map(|time| timestamp(time.into_std())).unwrap_or_default();
    let stamp = Stamp { dev: metadata.dev(), ino: metadata.ino(), size: metadata.len(), mtime, ctime: mtime };
    let links = if let Some(Kind::Directory) = kind { 1 } else { metadata.nlink() };
    Look { kind, mode, stamp, links }
}

/// Opens the directory `entry` of `dir`; a link is refused.
///
/// # Errors
/// Whatever the system says.
pub fn open_dir(dir: &Dir, entry: &[u8]) -> io::Result<Dir> {
    dir.open_dir_nofollow(name(entry)?)
}

/// Whether an error says that a link was met where none is followed.
pub fn is_link_refusal(_: &io::Error) -> bool {
    false
}

/// Opens the regular file `entry` for reading.
///
/// # Errors
/// Whatever the system says; a link is refused.
pub fn open_file(dir: &Dir, entry: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).follow(FollowSymlinks::No);
    dir.open_with(name(entry)?, &options)
}

/// Makes a new file for writing.
///
/// # Errors
/// Whatever the system says; an existing name is an error.
pub fn create_file(dir: &Dir, entry: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).follow(FollowSymlinks::No);
    dir.open_with(name(entry)?, &options)
}

/// The same: modes are set afterwards.
///
/// # Errors
/// As [`create_file`].
pub fn create_file_as(dir: &Dir, entry: &[u8], _mode: u32) -> io::Result<File> {
    create_file(dir, entry)
}

/// Whether an error of [`set_mode`] or [`finish_by_name`] says that this mode may not be changed.
pub fn is_mode_refusal(_: &io::Error) -> bool {
    false
}

/// Gives a file of our own making its final mode and mtime.
///
/// # Errors
/// Whatever the system says.
pub fn finish_by_name(dir: &Dir, entry: &[u8], mode: u32, mtime: Timestamp) -> io::Result<()> {
    set_mtime(dir, entry, mtime)?;
    set_mode(dir, entry, mode)
}

/// Sets the mtime of a name without following it.
///
/// # Errors
/// Whatever the system says.
pub fn set_mtime(dir: &Dir, entry: &[u8], mtime: Timestamp) -> io::Result<()> {
    let since = Duration::new(u64::try_from(mtime.secs).unwrap_or(0), mtime.nanos);
    let time = SystemTime::from_std(std::time::UNIX_EPOCH + since);
    dir.set_symlink_times(name(entry)?, None, Some(SystemTimeSpec::Absolute(time)))
}

/// Makes a symbolic link with any target.
///
/// # Errors
/// Whatever the system says, and a target that is not UTF-8.
pub fn symlink(dir: &Dir, entry: &[u8], target: &[u8]) -> io::Result<()> {
    let target = std::str::from_utf8(target).map_err(io::Error::other)?;
    make_link(dir, target, name(entry)?)
}

#[cfg(unix)]
fn make_link(dir: &Dir, target: &str, entry: &str) -> io::Result<()> {
    dir.symlink_contents(target, entry)
}

/// Whether a link leads to a directory must be known when it is made. Most links of a build lead to files, and a link
/// out of the tree cannot be looked at.
#[cfg(windows)]
fn make_link(dir: &Dir, target: &str, entry: &str) -> io::Result<()> {
    if dir.metadata(target).is_ok_and(|metadata| metadata.is_dir()) {
        dir.symlink_dir(target, entry)
    } else {
        dir.symlink_file(target, entry)
    }
}

/// Makes a directory.
///
/// # Errors
/// Whatever the system says.
pub fn make_dir(dir: &Dir, entry: &[u8]) -> io::Result<()> {
    dir.create_dir(name(entry)?)
}

/// The same: modes are set afterwards.
///
/// # Errors
/// As [`make_dir`].
pub fn make_dir_as(dir: &Dir, entry: &[u8], _mode: u32) -> io::Result<()> {
    make_dir(dir, entry)
}

/// Makes a directory with the mode that the user's settings give.
///
/// # Errors
/// Whatever the system says.
pub fn make_plain_dir(dir: &Dir, entry: &[u8]) -> io::Result<()> {
    make_dir(dir, entry)
}

/// Sets whether a file can be written; directories can always.
///
/// # Errors
/// Whatever the system says.
pub fn set_mode(dir: &Dir, entry: &[u8], mode: u32) -> io::Result<()> {
    let metadata = dir.symlink_metadata(name(entry)?)?;
    if !metadata.is_file() {
        return Ok(());
    }
    let mut permissions = metadata.permissions();
    permissions.set_readonly(mode & 0o200 == 0);
    dir.set_permissions(name(entry)?, permissions)
}

/// Renames, and fails with `AlreadyExists` when the new name is taken. The moment between look and rename is the race
/// that is left.
///
/// # Errors
/// Whatever the system says.
pub fn rename_new(from: &Dir, old: &[u8], to: &Dir, new: &[u8]) -> io::Result<()> {
    match look(to, new)? {
        Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
        None => from.rename(name(old)?, to, name(new)?),
    }
}

/// Exchanges two names, in three renames with a moment in which `new` does not exist.
///
/// # Errors
/// Whatever the system says.
pub fn exchange(from: &Dir, old: &[u8], to: &Dir, new: &[u8], spare: &[u8]) -> io::Result<()> {
    to.rename(name(new)?, from, name(spare)?)?;
    from.rename(name(old)?, to, name(new)?)?;
    from.rename(name(spare)?, from, name(old)?)
}

/// Hard-links a file.
///
/// # Errors
/// Whatever the system says.
pub fn hard_link(from: &Dir, old: &[u8], to: &Dir, new: &[u8]) -> io::Result<()> {
    from.hard_link(name(old)?, to, name(new)?)
}

/// Removes anything but a directory.
///
/// # Errors
/// Whatever the system says.
pub fn remove_file(dir: &Dir, entry: &[u8]) -> io::Result<()> {
    dir.remove_file_or_symlink(name(entry)?)
}

/// Removes an empty directory.
///
/// # Errors
/// Whatever the system says; `DirectoryNotEmpty` when something is in it.
pub fn remove_dir(dir: &Dir, entry: &[u8]) -> io::Result<()> {
    dir.remove_dir(name(entry)?)
}

/// The names in a directory, in no order.
///
/// # Errors
/// Whatever the system says.
pub fn names(dir: &Dir) -> io::Result<Vec<Box<[u8]>>> {
    dir.entries()?.map(|entry| Ok(entry?.file_name().as_encoded_bytes().into())).collect()
}

/// Free space on the file system of `dir`, in bytes: not known here, so the disk itself says when it is full.
///
/// # Errors
/// None.
pub fn free_space(_: &Dir) -> io::Result<u64> {
    Ok(u64::MAX)
}

/// Whether this user may make names in `dir`: not known before it is tried.
pub fn is_writable(_: &Dir) -> bool {
    true
}
