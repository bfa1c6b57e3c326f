//! The user of this process, and the checks of directories that must be private.

use std::{
    fmt,
    fs::{self, Metadata},
    io,
    path::Path,
};

/// Why a directory does not count as the user's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotOwn {
    /// It is a symbolic link; its creator decides where it leads.
    Link,
    /// It is not a directory.
    NoDirectory,
    /// It belongs to another user, with this id.
    OfAnother(u32),
    /// Every user may create files there and remove other users' files.
    Everybodys,
    /// The current user may not write there.
    NotWritable,
}

/// For messages, after a path: `belongs to another user (65534)`.
impl fmt::Display for NotOwn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotOwn::Link => f.write_str("is a symbolic link"),
            NotOwn::NoDirectory => f.write_str("is not a directory"),
            NotOwn::OfAnother(user) => write!(f, "belongs to another user ({user})"),
            NotOwn::Everybodys => f.write_str("lets everybody remove what is in it (chmod +t would not)"),
            NotOwn::NotWritable => f.write_str("cannot be written to"),
        }
    }
}

/// User and group of this process; `None` where the system has no such ids.
pub fn ids() -> Option<(u32, u32)> {
    #[cfg(unix)]
    return Some((rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    #[cfg(not(unix))]
    return None;
}

/// The id of the owner of `path`; `None` if the path does not exist or the system has no such ids.
#[cfg_attr(not(unix), allow(unused_variables, reason = "only Unix has owners"))]
pub fn of(path: &Path) -> Option<u32> {
    #[cfg(unix)]
    return path.metadata().ok().map(|found| std::os::unix::fs::MetadataExt::uid(&found));
    #[cfg(not(unix))]
    return None;
}

/// Which owners a directory may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Own,
    OwnOrRoots,
}

/// Whether `path` is a directory that this user owns and can write to, and that not all users can
/// write to unless it is sticky.
///
/// # Errors
/// The system's error; [`io::ErrorKind::NotFound`] when it does not exist.
pub fn is_own(path: &Path) -> io::Result<Result<(), NotOwn>> {
    look(path, Whose::Own)
}

/// Whether files that this user creates in the directory `path` are safe: only the user and root
/// can replace them.
///
/// # Errors
/// As [`is_own`].
pub fn is_safe(path: &Path) -> io::Result<Result<(), NotOwn>> {
    look(path, Whose::OwnOrRoots)
}

fn look(path: &Path, whose: Whose) -> io::Result<Result<(), NotOwn>> {
    let found = path.symlink_metadata()?;
    Ok(if found.is_symlink() {
        Err(NotOwn::Link)
    } else if !found.is_dir() {
        Err(NotOwn::NoDirectory)
    } else {
        allows(path, &found, whose)
    })
}

#[cfg(unix)]
fn allows(path: &Path, found: &Metadata, whose: Whose) -> Result<(), NotOwn> {
    use rustix::fs::{Access, access};
    use std::os::unix::fs::MetadataExt as _;

    const STICKY: u32 = 0o1000;
    const EVERYBODY_WRITES: u32 = 0o002;

    let me = rustix::process::geteuid().as_raw();
    if found.uid() != me && !(whose == Whose::OwnOrRoots && found.uid() == 0) {
        Err(NotOwn::OfAnother(found.uid()))
    } else if found.mode() & (EVERYBODY_WRITES | STICKY) == EVERYBODY_WRITES {
        Err(NotOwn::Everybodys)
    } else if access(path, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        Err(NotOwn::NotWritable)
    } else {
        Ok(())
    }
}

#[cfg(not(unix))]
fn allows(_: &Path, _: &Metadata, _: Whose) -> Result<(), NotOwn> {
    Ok(())
}

/// Creates a directory that only this user can access. Missing parents are created in the same way.
///
/// # Errors
/// The system's error; [`io::ErrorKind::AlreadyExists`] when the path exists.
pub fn make_private(path: &Path) -> io::Result<()> {
    if let Some(above) = path.parent()
        && !above.as_os_str().is_empty()
        && above.symlink_metadata().is_err()
    {
        match make_private(above) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
    }
    #[allow(unused_mut, reason = "only Unix has modes")]
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Whether this user may execute the regular file at `path`.
pub fn is_executable(path: &Path) -> bool {
    #[cfg(unix)]
    if rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_err() {
        return false;
    }
    path.symlink_metadata().is_ok_and(|found| found.is_file())
}

/// Makes the file at `path` executable for its owner only.
///
/// # Errors
/// The system's error.
#[cfg_attr(not(unix), allow(unused_variables, reason = "only Unix has modes"))]
pub fn make_executable(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}

/// Lets the owner enter all directories from `path` downwards, so that they can be emptied.
///
/// # Errors
/// The system's error.
pub fn open_up(path: &Path) -> io::Result<()> {
    if !path.symlink_metadata()?.is_dir() {
        return Ok(());
    }
    make_executable(path)?;
    path.read_dir()?.try_for_each(|entry| open_up(&entry?.path()))
}

/// Disk space, in bytes, of the files at and below `path`, as far as they can be looked at.
pub fn size_below(path: &Path) -> u64 {
    let Ok(found) = path.symlink_metadata() else { return 0 };
    let below = |entry: io::Result<fs::DirEntry>| entry.map_or(0, |entry| size_below(&entry.path()));
    let inner =
        if found.is_dir() { path.read_dir().map_or(0, |entries| entries.map(below).sum()) } else { 0 };
    // Block counts are in units of 512 bytes on every disk.
    #[cfg(unix)]
    let own = std::os::unix::fs::MetadataExt::blocks(&found) * 512;
    #[cfg(not(unix))]
    let own = found.len();
    own.saturating_add(inner)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_is_ones_own_or_it_is_said_why_not() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        make_private(&at("a/b")).unwrap();
        assert_eq!(at("a/b").metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(make_private(&at("a/b")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("a", at("link")).unwrap();
        fs::create_dir(at("open")).unwrap();
        fs::set_permissions(at("open"), fs::Permissions::from_mode(0o777)).unwrap();
        fs::create_dir(at("sticky")).unwrap();
        fs::set_permissions(at("sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
        let cases = [
            ("a", Ok(())),
            ("sticky", Ok(())),
            ("file", Err(NotOwn::NoDirectory)),
            ("link", Err(NotOwn::Link)),
            ("open", Err(NotOwn::Everybodys)),
        ];
        for (name, expected) in cases {
            assert_eq!(is_own(&at(name)).unwrap(), expected, "{name}");
            assert_eq!(is_safe(&at(name)).unwrap(), expected, "{name}");
        }
        assert_eq!(is_own(&at("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
