//! Operations on one name in one open directory (Unix).
//!
//! Every function takes a directory handle and a *single* name, and never follows a link in that
//! name. [`open_dir`] walks one component at a time. So no path from a container can lead out of
//! the handle it started from, even when another process swaps files meanwhile.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt as _};

use cap_std::fs::{Dir, File};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, Timestamps},
    io::Errno,
};

pub use super::Look;
use crate::entry::{Kind, Stamp, Timestamp};

/// The flags for opening a directory below a handle.
const DIRECTORY: OFlags =
    OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);

/// Set-group-id bit of a directory: entries created in it get its group.
pub const SET_GROUP: u32 = 0o2000;

fn name(bytes: &[u8]) -> io::Result<&OsStr> {
    if bytes.is_empty() || bytes.contains(&b'/') || bytes == b"." || bytes == b".." {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a single file name"));
    }
    Ok(OsStr::from_bytes(bytes))
}

/// Looks at `entry` in `dir`; `None` when it does not exist.
///
/// # Errors
/// The error of `lstat` or `readlink`, except that the name does not exist.
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
    Ok(Some(Look { kind, mode: mode_of(&stat) & 0o7777, stamp: stamp(&stat), links }))
}

/// Looks at an open directory.
///
/// # Errors
/// The error of `fstat`.
pub fn look_at(dir: &Dir) -> io::Result<Look> {
    let stat = rustix::fs::fstat(dir)?;
    Ok(Look { kind: Some(Kind::Directory), mode: mode_of(&stat) & 0o7777, stamp: stamp(&stat), links: 1 })
}

/// Looks at an open regular file.
///
/// # Errors
/// The error of `fstat`.
pub fn look_at_file(file: &File) -> io::Result<Look> {
    let stat = rustix::fs::fstat(file)?;
    let kind = Kind::File { size: stat.st_size as u64 };
    Ok(Look { kind: Some(kind), mode: mode_of(&stat) & 0o7777, stamp: stamp(&stat), links: links(&stat) })
}

/// Type and permissions of the file; macOS has them in 16 bits.
#[allow(clippy::unnecessary_cast, reason = "the widths differ between systems")]
fn mode_of(stat: &Stat) -> u32 {
    stat.st_mode as u32
}

/// The same in the system's own width.
#[allow(clippy::unnecessary_cast, reason = "the widths differ between systems")]
fn raw_mode(mode: u32) -> Mode {
    Mode::from_raw_mode(mode as rustix::fs::RawMode)
}

/// The number of hard links of the file.
#[allow(clippy::unnecessary_cast, reason = "the widths differ between systems")]
pub fn links(stat: &Stat) -> u64 {
    stat.st_nlink as u64
}

/// The stamp of the file.
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
/// The error of `openat`.
pub fn open_dir(dir: &Dir, entry: &[u8]) -> io::Result<Dir> {
    let fd = rustix::fs::openat(dir, name(entry)?, DIRECTORY, Mode::empty())?;
    Ok(Dir::from_std_file(fd.into()))
}

/// Whether an error says that a link was found where links are not followed.
pub fn is_link_refusal(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// Opens the regular file `entry` for reading.
///
/// # Errors
/// The error of `openat`; a link is refused, and a fifo does not block.
pub fn open_file(dir: &Dir, entry: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name(entry)?, flags, Mode::empty())?;
    Ok(File::from_std(fd.into()))
}

/// Creates a new file for writing. Only its owner can read it until [`finish_by_name`].
///
/// # Errors
/// The error of `openat`; an existing name is an error.
pub fn create_file(dir: &Dir, entry: &[u8]) -> io::Result<File> {
    create_file_as(dir, entry, 0o600)
}

/// Creates a new file for writing, with as much of its mode as the user's umask allows. On a file
/// system that refuses changes of modes, the file keeps this mode.
///
/// # Errors
/// As [`create_file`].
pub fn create_file_as(dir: &Dir, entry: &[u8], mode: u32) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name(entry)?, flags, raw_mode(mode))?;
    Ok(File::from_std(fd.into()))
}

/// Sets the final mode and mtime of a new file by name: its mode may already forbid opening it.
///
/// # Errors
/// The error of `fchmodat` or `utimensat`.
pub fn finish_by_name(dir: &Dir, entry: &[u8], mode: u32, mtime: Timestamp) -> io::Result<()> {
    rustix::fs::chmodat(dir, name(entry)?, raw_mode(mode), AtFlags::empty())?;
    set_mtime(dir, entry, mtime)
}

/// Whether an error of [`set_mode`] or [`finish_by_name`] says that the mode may not be changed, by
/// this user or by any user.
pub fn is_mode_refusal(error: &io::Error) -> bool {
    let refusals = [Errno::PERM, Errno::NOTSUP, Errno::OPNOTSUPP];
    refusals.iter().any(|refusal| error.raw_os_error() == Some(refusal.raw_os_error()))
}

/// Sets the mtime and leaves the access time as it is.
pub fn mtime_alone(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: rustix::fs::Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    }
}

/// Sets the mtime of a name without following it.
///
/// # Errors
/// The error of `utimensat`.
pub fn set_mtime(dir: &Dir, entry: &[u8], mtime: Timestamp) -> io::Result<()> {
    Ok(rustix::fs::utimensat(dir, name(entry)?, &mtime_alone(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Creates a symbolic link with any target.
///
/// # Errors
/// The error of `symlinkat`.
pub fn symlink(dir: &Dir, entry: &[u8], target: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::symlinkat(OsStr::from_bytes(target), dir, name(entry)?)?)
}

/// The group that a set-gid directory gives to entries created in it; `None` without that bit.
///
/// # Errors
/// The error of `fstat`.
pub fn group_handed_on(dir: &Dir) -> io::Result<Option<u32>> {
    let stat = rustix::fs::fstat(dir)?;
    Ok((mode_of(&stat) & SET_GROUP != 0).then_some(stat.st_gid))
}

/// Sets the group of a name that fastbuild created. With `None` it stays this user's group.
///
/// # Errors
/// The error of `fchownat`; this user may not set every group.
pub fn set_group(dir: &Dir, entry: &[u8], group: Option<u32>) -> io::Result<()> {
    let group = group.map_or_else(rustix::process::getegid, rustix::fs::Gid::from_raw);
    Ok(rustix::fs::chownat(dir, name(entry)?, None, Some(group), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Creates a directory that only its owner may enter. [`set_mode`] sets its final mode.
///
/// # Errors
/// The error of `mkdirat`.
pub fn make_dir(dir: &Dir, entry: &[u8]) -> io::Result<()> {
    make_dir_as(dir, entry, 0o700)
}

/// Creates a directory that its owner may write to; the user's umask applies to its mode.
///
/// # Errors
/// As [`make_dir`].
pub fn make_dir_as(dir: &Dir, entry: &[u8], mode: u32) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(dir, name(entry)?, Mode::RWXU | raw_mode(mode))?)
}

/// Creates a directory with the mode that the user's umask gives.
///
/// # Errors
/// The error of `mkdirat`.
pub fn make_plain_dir(dir: &Dir, entry: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(dir, name(entry)?, raw_mode(0o777))?)
}

/// Sets the mode of a file or directory; a link is refused.
///
/// # Errors
/// The system's error. A file that its owner may not read is changed by name.
pub fn set_mode(dir: &Dir, entry: &[u8], mode: u32) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name(entry)?, flags, Mode::empty()) {
        Ok(fd) => Ok(rustix::fs::fchmod(fd, raw_mode(mode))?),
        Err(Errno::ACCESS) => {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            Ok(rustix::fs::chmodat(dir, name(entry)?, raw_mode(mode), flags)?)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Renames, and fails with `AlreadyExists` when the new name exists.
///
/// # Errors
/// The error of `renameat2`. Where the system or file system has no `RENAME_NOREPLACE`, the name is
/// checked first; a race remains between the check and the rename.
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
/// The error of `renameat2`. Where the exchange is not supported, the old file is moved to `spare`
/// (in `from`) and back to `old`'s name: three renames, and for a moment `new` does not exist.
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
        // FUSE and old kernels report unknown flags as EINVAL.
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
/// The error of `linkat`.
pub fn hard_link(from: &Dir, old: &[u8], to: &Dir, new: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::linkat(from, name(old)?, to, name(new)?, AtFlags::empty())?)
}

/// Removes a name that is not a directory.
///
/// # Errors
/// The error of `unlinkat`.
pub fn remove_file(dir: &Dir, entry: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(dir, name(entry)?, AtFlags::empty())?)
}

/// Removes an empty directory.
///
/// # Errors
/// The error of `unlinkat`; `DirectoryNotEmpty` when the directory is not empty.
pub fn remove_dir(dir: &Dir, entry: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(dir, name(entry)?, AtFlags::REMOVEDIR)?)
}

/// The names in a directory, without `.` and `..`, unsorted.
///
/// # Errors
/// The error of `getdents`.
pub fn names(dir: &Dir) -> io::Result<Vec<Box<[u8]>>> {
    let mut names = Vec::new();
    // Opened again for reading: the handle may be O_PATH only.
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
/// The error of `fstatvfs`.
pub fn free_space(dir: &Dir) -> io::Result<u64> {
    let stat = rustix::fs::fstatvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether this user may create and remove names in `dir`.
pub fn is_writable(dir: &Dir) -> bool {
    rustix::fs::accessat(
        dir,
        c".",
        rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
        AtFlags::EACCESS,
    )
    .is_ok()
}
