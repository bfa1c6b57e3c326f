//! One name in one open directory (Unix).
//!
//! Every function takes a directory handle and a *single* name, and none follows a link in that name: together with
//! [`open_dir`], which walks one component at a time, no path from a container can lead out of the handle it started
//! from, whatever somebody swaps meanwhile.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt as _};

use cap_std::fs::{Dir, File};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, Timestamps},
    io::Errno,
};

pub use super::Look;
use crate::entry::{Kind, Stamp, Timestamp};

/// How a directory below a handle is opened.
const DIRECTORY: OFlags =
    OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);

/// Of a directory: what is made in it gets its group.
pub const SET_GROUP: u32 = 0o2000;

fn name(bytes: &[u8]) -> io::Result<&OsStr> {
    if bytes.is_empty() || bytes.contains(&b'/') || bytes == b"." || bytes == b".." {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a single file name"));
    }
    Ok(OsStr::from_bytes(bytes))
}

/// Looks at `entry` in `dir`; `None` when there is nothing.
///
/// # Errors
/// Whatever `lstat` or `readlink` says, other than that the name does not exist.
pub fn look(dir: &Dir, entry: &[u8]) -> io::Result<Option<Look>> {
    let entry = name(entry)?;
    let stat = match rustix::fs::statat(dir, entry, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Some(Kind::Directory),
        FileType::RegularFile => Some(Kind::File { size: stat.st_size as u64 }),
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(dir, entry, Vec::new())?.into_bytes();
            Some(Kind::Symlink { target: target.into() })
        }
        _ => None,
    };
    let links = if let Some(Kind::Directory) = kind { 1 } else { links(&stat) };
    Ok(Some(Look { kind, mode: stat.st_mode & 0o7777, stamp: stamp(&stat), links }))
}

/// Looks at an open directory.
///
/// # Errors
/// Whatever `fstat` says.
pub fn look_at(dir: &Dir) -> io::Result<Look> {
    let stat = rustix::fs::fstat(dir)?;
    Ok(Look { kind: Some(Kind::Directory), mode: stat.st_mode & 0o7777, stamp: stamp(&stat), links: 1 })
}

/// Looks at an open regular file.
///
/// # Errors
/// Whatever `fstat` says.
pub fn look_at_file(file: &File) -> io::Result<Look> {
    let stat = rustix::fs::fstat(file)?;
    let kind = Kind::File { size: stat.st_size as u64 };
    Ok(Look { kind: Some(kind), mode: stat.st_mode & 0o7777, stamp: stamp(&stat), links: links(&stat) })
}

/// How many names what was looked at has.
#[allow(clippy::unnecessary_cast, reason = "the widths differ between systems")]
pub fn links(stat: &Stat) -> u64 {
    stat.st_nlink as u64
}

/// The stamp of what was looked at.
#[allow(clippy::unnecessary_cast, reason = "the widths differ between systems")]
pub fn stamp(stat: &Stat) -> Stamp {
    let time = |secs: i64, nanos: i64| Timestamp { secs, nanos: nanos as u32 };
    Stamp {
        dev: stat.st_dev as u64,
        ino: stat.st_ino as u64,
        size: stat.st_size as u64,
        mtime: time(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        ctime: time(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
    }
}

/// Opens the directory `entry` of `dir`; a link is refused with `ELOOP` or `ENOTDIR`.
///
/// # Errors
/// Whatever `openat` says.
pub fn open_dir(dir: &Dir, entry: &[u8]) -> io::Result<Dir> {
    let fd = rustix::fs::openat(dir, name(entry)?, DIRECTORY, Mode::empty())?;
    Ok(Dir::from_std_file(fd.into()))
}

/// Whether an error says that a link was met where none is followed.
pub fn is_link_refusal(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// Opens the regular file `entry` for reading.
///
/// # Errors
/// Whatever `openat` says; a link is refused, and a fifo does not block.
pub fn open_file(dir: &Dir, entry: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name(entry)?, flags, Mode::empty())?;
    Ok(File::from_std(fd.into()))
}

/// Makes a new file for writing, readable by its owner alone until [`finish_by_name`].
///
/// # Errors
/// Whatever `openat` says; an existing name is an error.
pub fn create_file(dir: &Dir, entry: &[u8]) -> io::Result<File> {
    create_file_as(dir, entry, 0o600)
}

/// Makes a new file for writing, with as much of its mode as the user's umask lets through: on a file system that refuses
/// changes of modes it is the only one that the file ever gets.
///
/// # Errors
/// As [`create_file`].
pub fn create_file_as(dir: &Dir, entry: &[u8], mode: u32) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name(entry)?, flags, Mode::from_raw_mode(mode))?;
    Ok(File::from_std(fd.into()))
}

/// Gives a file of our own making its final mode and mtime, by name: its mode may already forbid opening it.
///
/// # Errors
/// Whatever `fchmodat` or `utimensat` says.
pub fn finish_by_name(dir: &Dir, entry: &[u8], mode: u32, mtime: Timestamp) -> io::Result<()> {
    rustix::fs::chmodat(dir, name(entry)?, Mode::from_raw_mode(mode), AtFlags::empty())?;
    set_mtime(dir, entry, mtime)
}

/// Whether an error of [`set_mode`] or [`finish_by_name`] says that this mode may not be changed, by this user or by anybody.
pub fn is_mode_refusal(error: &io::Error) -> bool {
    let refusals = [Errno::PERM, Errno::NOTSUP, Errno::OPNOTSUPP];
    refusals.iter().any(|refusal| error.raw_os_error() == Some(refusal.raw_os_error()))
}

/// For setting the mtime and leaving the time of the last access as it is.
pub fn mtime_alone(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: rustix::fs::Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    }
}

/// Sets the mtime of a name without following it.
///
/// # Errors
/// Whatever `utimensat` says.
pub fn set_mtime(dir: &Dir, entry: &[u8], mtime: Timestamp) -> io::Result<()> {
    Ok(rustix::fs::utimensat(dir, name(entry)?, &mtime_alone(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Makes a symbolic link with any target.
///
/// # Errors
/// Whatever `symlinkat` says.
pub fn symlink(dir: &Dir, entry: &[u8], target: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::symlinkat(OsStr::from_bytes(target), dir, name(entry)?)?)
}

/// The group that a set-gid directory hands on to what is made in it; none where it is not one.
///
/// # Errors
/// Whatever `fstat` says.
pub fn group_handed_on(dir: &Dir) -> io::Result<Option<u32>> {
    let stat = rustix::fs::fstat(dir)?;
    Ok((stat.st_mode & SET_GROUP != 0).then_some(stat.st_gid))
}

/// Gives a name of our own making a group; none is this user's.
///
/// # Errors
/// Whatever `fchownat` says; not every group is one that this user may give.
pub fn set_group(dir: &Dir, entry: &[u8], group: Option<u32>) -> io::Result<()> {
    let group = group.map_or_else(rustix::process::getegid, rustix::fs::Gid::from_raw);
    Ok(rustix::fs::chownat(dir, name(entry)?, None, Some(group), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Makes a directory that only its owner may enter; its final mode comes by [`set_mode`].
///
/// # Errors
/// Whatever `mkdirat` says.
pub fn make_dir(dir: &Dir, entry: &[u8]) -> io::Result<()> {
    make_dir_as(dir, entry, 0o700)
}

/// Makes a directory that its owner may fill, with as much of its mode as the user's umask lets through.
///
/// # Errors
/// As [`make_dir`].
pub fn make_dir_as(dir: &Dir, entry: &[u8], mode: u32) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(dir, name(entry)?, Mode::RWXU | Mode::from_raw_mode(mode))?)
}

/// Makes a directory with the mode that the user's umask gives.
///
/// # Errors
/// Whatever `mkdirat` says.
pub fn make_plain_dir(dir: &Dir, entry: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(dir, name(entry)?, Mode::from_raw_mode(0o777))?)
}

/// Sets the mode of a file or directory; a link is refused.
///
/// # Errors
/// Whatever the system says. A file that its own owner may not read is changed by name, for it cannot be opened.
pub fn set_mode(dir: &Dir, entry: &[u8], mode: u32) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name(entry)?, flags, Mode::empty()) {
        Ok(fd) => Ok(rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?),
        Err(Errno::ACCESS) => {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            Ok(rustix::fs::chmodat(dir, name(entry)?, Mode::from_raw_mode(mode), flags)?)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Renames, and fails with `AlreadyExists` when the new name is taken.
///
/// # Errors
/// Whatever `renameat2` says. Where the system or file system has no `RENAME_NOREPLACE`, the name is looked at first;
/// the moment between is the race that is left.
pub fn rename_new(from: &Dir, old: &[u8], to: &Dir, new: &[u8]) -> io::Result<()> {
    match rename_flagged(from, old, to, new, Rename::NoReplace)? {
        Support::Done => Ok(()),
        Support::Missing if look(to, new)?.is_some() => Err(io::ErrorKind::AlreadyExists.into()),
        Support::Missing => Ok(rustix::fs::renameat(from, name(old)?, to, name(new)?)?),
    }
}

/// Exchanges two names in one step. Both must exist.
///
/// # Errors
/// Whatever `renameat2` says. Where exchange is missing, the old file is moved to `spare` (in `from`) and back to
/// `old`'s name, three renames with a moment in which `new` does not exist.
pub fn exchange(from: &Dir, old: &[u8], to: &Dir, new: &[u8], spare: &[u8]) -> io::Result<()> {
    match rename_flagged(from, old, to, new, Rename::Exchange)? {
        Support::Done => Ok(()),
        Support::Missing => {
            rustix::fs::renameat(to, name(new)?, from, name(spare)?)?;
            rustix::fs::renameat(from, name(old)?, to, name(new)?)?;
            Ok(rustix::fs::renameat(from, name(spare)?, from, name(old)?)?)
        }
    }
}

enum Rename {
    NoReplace,
    Exchange,
}

enum Support {
    Done,
    Missing,
}

#[cfg(any(target_os = "linux", target_os = "macos"))]
fn rename_flagged(from: &Dir, old: &[u8], to: &Dir, new: &[u8], how: Rename) -> io::Result<Support> {
    let flags = match how {
        Rename::NoReplace => RenameFlags::NOREPLACE,
        Rename::Exchange => RenameFlags::EXCHANGE,
    };
    match rustix::fs::renameat_with(from, name(old)?, to, name(new)?, flags) {
        Ok(()) => Ok(Support::Done),
        // EINVAL is what FUSE and old kernels say of flags that they do not know.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(Support::Missing),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn rename_flagged(_: &Dir, _: &[u8], _: &Dir, _: &[u8], _: Rename) -> io::Result<Support> {
    Ok(Support::Missing)
}

/// Hard-links a file or symbolic link, without following it.
///
/// # Errors
/// Whatever `linkat` says.
pub fn hard_link(from: &Dir, old: &[u8], to: &Dir, new: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::linkat(from, name(old)?, to, name(new)?, AtFlags::empty())?)
}

/// Removes anything but a directory.
///
/// # Errors
/// Whatever `unlinkat` says.
pub fn remove_file(dir: &Dir, entry: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(dir, name(entry)?, AtFlags::empty())?)
}

/// Removes an empty directory.
///
/// # Errors
/// Whatever `unlinkat` says; `DirectoryNotEmpty` when something is in it.
pub fn remove_dir(dir: &Dir, entry: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(dir, name(entry)?, AtFlags::REMOVEDIR)?)
}

/// The names in a directory, without `.` and `..`, in no order.
///
/// # Errors
/// Whatever `getdents` says.
pub fn names(dir: &Dir) -> io::Result<Vec<Box<[u8]>>> {
    let mut names = Vec::new();
    // Opened anew and for reading: the handle may be one that only stands for the directory (O_PATH).
    let readable = rustix::fs::openat(dir, c".", DIRECTORY, Mode::empty())?;
    for entry in rustix::fs::Dir::new(readable)? {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            other => names.push(other.into()),
        }
    }
    Ok(names)
}

/// Free space for this user on the file system of `dir`, in bytes.
///
/// # Errors
/// Whatever `fstatvfs` says.
pub fn free_space(dir: &Dir) -> io::Result<u64> {
    let stat = rustix::fs::fstatvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether this user may make and remove names in `dir`.
pub fn is_writable(dir: &Dir) -> bool {
    rustix::fs::accessat(
        dir,
        c".",
        rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
        AtFlags::EACCESS,
    )
    .is_ok()
}
