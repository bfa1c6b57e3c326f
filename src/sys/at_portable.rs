//! One name in one open directory, without the `openat` family: cap-std keeps every path below its
//! handle. Names must be UTF-8, the mode only tells whether a file is writable, and exchanges are
//! renames.

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

/// Directories have no such bit here.
pub const SET_GROUP: u32 = 0;

/// Always `None`: there are no groups here.
///
/// # Errors
/// Never fails.
pub fn group_handed_on(_: &Dir) -> io::Result<Option<u32>> {
    Ok(None)
}

/// Does nothing.
///
/// # Errors
/// Never fails.
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

/// Looks at `entry` in `dir`; `None` when it does not exist.
///
/// # Errors
/// The system's error, except that the name does not exist.
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
/// The system's error.
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
/// The system's error.
pub fn open_dir(dir: &Dir, entry: &[u8]) -> io::Result<Dir> {
    dir.open_dir_nofollow(name(entry)?)
}

/// Whether an error says that a link was found where links are not followed.
pub fn is_link_refusal(_: &io::Error) -> bool {
    false
}

/// Opens the regular file `entry` for reading.
///
/// # Errors
/// The system's error; a link is refused.
pub fn open_file(dir: &Dir, entry: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).follow(FollowSymlinks::No);
    dir.open_with(name(entry)?, &options)
}

/// Creates a new file for writing.
///
/// # Errors
/// The system's error; an existing name is an error.
pub fn create_file(dir: &Dir, entry: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).follow(FollowSymlinks::No);
    dir.open_with(name(entry)?, &options)
}

/// The same as [`create_file`]: modes are set afterwards.
///
/// # Errors
/// As [`create_file`].
pub fn create_file_as(dir: &Dir, entry: &[u8], _mode: u32) -> io::Result<File> {
    create_file(dir, entry)
}

/// Whether an error of [`set_mode`] or [`finish_by_name`] says that the mode may not be changed.
pub fn is_mode_refusal(_: &io::Error) -> bool {
    false
}

/// Sets the final mode and mtime of a file that fastbuild created.
///
/// # Errors
/// The system's error.
pub fn finish_by_name(dir: &Dir, entry: &[u8], mode: u32, mtime: Timestamp) -> io::Result<()> {
    set_mtime(dir, entry, mtime)?;
    set_mode(dir, entry, mode)
}

/// Sets the mtime of a name without following it.
///
/// # Errors
/// The system's error.
pub fn set_mtime(dir: &Dir, entry: &[u8], mtime: Timestamp) -> io::Result<()> {
    let since = Duration::new(u64::try_from(mtime.secs).unwrap_or(0), mtime.nanos);
    let time = SystemTime::from_std(std::time::UNIX_EPOCH + since);
    dir.set_symlink_times(name(entry)?, None, Some(SystemTimeSpec::Absolute(time)))
}

/// Creates a symbolic link with any target.
///
/// # Errors
/// The system's error, or an error for a target that is not UTF-8.
pub fn symlink(dir: &Dir, entry: &[u8], target: &[u8]) -> io::Result<()> {
    let target = std::str::from_utf8(target).map_err(io::Error::other)?;
    make_link(dir, target, name(entry)?)
}

#[cfg(unix)]
fn make_link(dir: &Dir, target: &str, entry: &str) -> io::Result<()> {
    dir.symlink_contents(target, entry)
}

/// The kind of a link, to a directory or to a file, must be known when it is created. Most links of
/// a build lead to files, and a link that leads out of the tree cannot be looked at.
#[cfg(windows)]
fn make_link(dir: &Dir, target: &str, entry: &str) -> io::Result<()> {
    if dir.metadata(target).is_ok_and(|metadata| metadata.is_dir()) {
        dir.symlink_dir(target, entry)
    } else {
        dir.symlink_file(target, entry)
    }
}

/// Creates a directory.
///
/// # Errors
/// The system's error.
pub fn make_dir(dir: &Dir, entry: &[u8]) -> io::Result<()> {
    dir.create_dir(name(entry)?)
}

/// The same as [`make_dir`]: modes are set afterwards.
///
/// # Errors
/// As [`make_dir`].
pub fn make_dir_as(dir: &Dir, entry: &[u8], _mode: u32) -> io::Result<()> {
    make_dir(dir, entry)
}

/// Creates a directory with the mode that the user's settings give.
///
/// # Errors
/// The system's error.
pub fn make_plain_dir(dir: &Dir, entry: &[u8]) -> io::Result<()> {
    make_dir(dir, entry)
}

/// Sets whether a file is writable. Directories always are.
///
/// # Errors
/// The system's error.
pub fn set_mode(dir: &Dir, entry: &[u8], mode: u32) -> io::Result<()> {
    let metadata = dir.symlink_metadata(name(entry)?)?;
    if !metadata.is_file() {
        return Ok(());
    }
    let mut permissions = metadata.permissions();
    permissions.set_readonly(mode & 0o200 == 0);
    dir.set_permissions(name(entry)?, permissions)
}

/// Renames, and fails with `AlreadyExists` when the new name exists. A race remains between the
/// check and the rename.
///
/// # Errors
/// The system's error.
pub fn rename_new(from: &Dir, old: &[u8], to: &Dir, new: &[u8]) -> io::Result<()> {
    match look(to, new)? {
        Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
        None => from.rename(name(old)?, to, name(new)?),
    }
}

/// Exchanges two names by three renames. For a moment `new` does not exist.
///
/// # Errors
/// The system's error.
pub fn exchange(from: &Dir, old: &[u8], to: &Dir, new: &[u8], spare: &[u8]) -> io::Result<()> {
    to.rename(name(new)?, from, name(spare)?)?;
    from.rename(name(old)?, to, name(new)?)?;
    from.rename(name(spare)?, from, name(old)?)
}

/// Hard-links a file.
///
/// # Errors
/// The system's error.
pub fn hard_link(from: &Dir, old: &[u8], to: &Dir, new: &[u8]) -> io::Result<()> {
    from.hard_link(name(old)?, to, name(new)?)
}

/// Removes a name that is not a directory.
///
/// # Errors
/// The system's error.
pub fn remove_file(dir: &Dir, entry: &[u8]) -> io::Result<()> {
    dir.remove_file_or_symlink(name(entry)?)
}

/// Removes an empty directory.
///
/// # Errors
/// The system's error; `DirectoryNotEmpty` when the directory is not empty.
pub fn remove_dir(dir: &Dir, entry: &[u8]) -> io::Result<()> {
    dir.remove_dir(name(entry)?)
}

/// The names in a directory, unsorted.
///
/// # Errors
/// The system's error.
pub fn names(dir: &Dir) -> io::Result<Vec<Box<[u8]>>> {
    dir.entries()?.map(|entry| Ok(entry?.file_name().as_encoded_bytes().into())).collect()
}

/// Free space on the file system of `dir`, in bytes. Not known here: writes to a full disk just
/// fail.
///
/// # Errors
/// Never fails.
pub fn free_space(_: &Dir) -> io::Result<u64> {
    Ok(u64::MAX)
}

/// Whether this user may create names in `dir`. It is not known before the user tries.
pub fn is_writable(_: &Dir) -> bool {
    true
}
