//! Detects whether a directory treats `A` and `a` as one name, without writing: it looks up an
//! existing name in the other case.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    io,
    path::Path,
};

use serde::Serialize;

use crate::sys::host::{self, Identity};

/// How a directory treats the case of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// `A` and `a` are two names.
    Kept,
    /// They are one name.
    Folded,
}

/// The maximum number of names tried: each is a look-up, and the first conclusive one decides.
const MOST_TRIED: usize = 32;

/// Whether the directory `dir` folds case. It reads the directory. `None` where neither a name in
/// it nor its own name is conclusive: names without letters, or names that exist in both cases.
///
/// # Errors
/// When the directory cannot be read.
pub fn folds_case(dir: &Path) -> io::Result<Option<Case>> {
    let names: HashSet<OsString> =
        dir.read_dir()?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    let turned = names.iter().filter_map(|name| Some((name, turned_around(name)?)));
    for (name, turned) in turned.take(MOST_TRIED) {
        let found = verdict(
            host::identity(&dir.join(name)),
            host::identity(&dir.join(&turned)),
            if names.contains(&turned) { Listed::Both } else { Listed::One },
        );
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(by_own_name(dir))
}

/// How the parent directory treats the name of `dir`, if both are on one file system.
fn by_own_name(dir: &Path) -> Option<Case> {
    let (parent, name) = (dir.parent()?, dir.file_name()?);
    let (own, around) = (host::identity(dir).ok()?, host::identity(parent).ok()?);
    if !own.is_beside(around) {
        return None;
    }
    let turned = turned_around(name)?;
    // Only a full listing, perhaps of a million names, shows both names: so far only `Kept` is
    // certain.
    match verdict(Ok(own), host::identity(&parent.join(&turned)), Listed::One)? {
        Case::Kept => Some(Case::Kept),
        Case::Folded => {
            parent.read_dir().ok()?.flatten().all(|entry| entry.file_name() != turned).then_some(Case::Folded)
        }
    }
}

/// Whether a name is listed in the other case as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listed {
    One,
    Both,
}

/// The result of two look-ups: of an existing name, and of the same name in the other case.
fn verdict(own: io::Result<Identity>, turned: io::Result<Identity>, listed: Listed) -> Option<Case> {
    let own = own.ok()?;
    match (turned, listed) {
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => Some(Case::Kept),
        (Err(_), _) => None,
        // Two links to one file look like one name found twice; only the listing tells them apart.
        (Ok(turned), Listed::Both) => (turned != own).then_some(Case::Kept),
        (Ok(turned), Listed::One) => (turned == own).then_some(Case::Folded),
    }
}

/// `name` with its ASCII letters in the other case; `None` without ASCII letters.
fn turned_around(name: &OsStr) -> Option<OsString> {
    let turn = |c: char| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
    let name = name.to_str()?;
    let turned: String = name.chars().map(turn).collect();
    (turned != name).then(|| turned.into())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn two_look_ups_tell() {
        let (a, b) = (Identity::new(1, 1), Identity::new(1, 2));
        let missing = || Err(io::ErrorKind::NotFound.into());
        let failed = || Err(io::ErrorKind::PermissionDenied.into());
        let cases = [
            (Ok(a), missing(), Listed::One, Some(Case::Kept)),
            (Ok(a), Ok(a), Listed::One, Some(Case::Folded)),
            (Ok(a), Ok(b), Listed::Both, Some(Case::Kept)),
            // Links to one file, each with its own name.
            (Ok(a), Ok(a), Listed::Both, None),
            // Created between the two look-ups.
            (Ok(a), Ok(b), Listed::One, None),
            (Ok(a), failed(), Listed::One, None),
            (missing(), Ok(a), Listed::One, None),
        ];
        for (own, turned, listed, expected) in cases {
            let row = format!("{own:?} {turned:?} {listed:?}");
            assert_eq!(verdict(own, turned, listed), expected, "{row}");
        }
    }

    #[test]
    fn only_letters_have_a_case() {
        assert_eq!(turned_around(OsStr::new("Gemfile.lock")), Some("gEMFILE.LOCK".into()));
        assert_eq!(turned_around(OsStr::new("1234_ü")), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machines_directories_tell_and_nothing_is_written() {
        let dir = tempfile::Builder::new().prefix("case").tempdir().unwrap();
        assert_eq!(folds_case(dir.path()).unwrap(), Some(Case::Kept), "by its own name");
        let inner = dir.path().join("123");
        std::fs::create_dir(&inner).unwrap();
        assert_eq!(folds_case(&inner).unwrap(), None);
        std::fs::write(inner.join("a"), "").unwrap();
        std::fs::hard_link(inner.join("a"), inner.join("A")).unwrap();
        assert_eq!(folds_case(&inner).unwrap(), None, "two links to one file");
        std::fs::write(inner.join("b"), "").unwrap();
        assert_eq!(folds_case(&inner).unwrap(), Some(Case::Kept));
        assert_eq!(inner.read_dir().unwrap().count(), 3);
        assert!(folds_case(&dir.path().join("gone")).is_err());
    }
}
