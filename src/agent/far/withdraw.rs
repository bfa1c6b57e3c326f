//! Ignore rules that are others than last time: what they let in then and leave out now is taken out of the workspace. It
//! came from the host, or went there, and a build must not go on seeing how it once was.
//!
//! The patterns that a tree was filled under lie beside its index. They are written when the workspace is in keeping
//! with them, and before anything goes in under them; a session that dies in between does it all again. Products that are
//! named with `-o` are no matter of rules and stay.

use std::{fs, io, path::Path};

use cap_std::fs::Dir;

use super::{
    failed,
    workspace::{View, look, place_beside_agent},
};
use crate::{
    agent::protocol::{Extent, Failed, decode, encode},
    sys::at,
    tree::{Kind, RelPath, ignore::Rules},
};

/// Takes out of `root` what `patterns` leave out and the patterns before them did not.
///
/// # Errors
/// When the tree cannot be looked at or changed, or the patterns cannot be kept.
pub(super) fn withdraw(root: &Path, view: &View, patterns: &[String]) -> Result<(), Failed> {
    let Some(kept) = place_beside_agent("patterns", root) else { return Ok(()) };
    let before: Option<Vec<String>> = match fs::read(&kept) {
        // Nothing has gone in yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) => Some(Vec::new()),
        // What cannot be read any more is taken for no patterns: then all that they leave out now goes.
        Ok(bytes) => Some(decode(&bytes).unwrap_or_default()),
    };
    if before.as_deref() == Some(patterns) {
        return Ok(());
    }
    if let Some(before) = before {
        let rules = Rules::new(&before).unwrap_or_else(|_| Rules::none());
        take_out(root, &View { rules, ..view.clone() }, view)?;
    }
    keep(&kept, patterns).map_err(|error| failed("could not keep the ignore rules", &error))
}

fn take_out(root: &Path, old: &View, new: &View) -> Result<(), Failed> {
    let everything = View {
        rules: Rules::none(),
        outputs: Vec::new(),
        caches: new.caches.clone(),
        extent: Extent::Everything,
    };
    let manifest = look(root, &everything)?.manifest;
    let (was, is) = (old.classify(&manifest), new.classify(&manifest));
    let told = |path: &RelPath, error| {
        failed(&format!("could not take out {path}, which the ignore rules leave out now"), &error)
    };
    let top = Dir::open_ambient_dir(root, cap_std::ambient_authority())
        .map_err(|error| told(&RelPath::root(), error))?;
    // What lies in a directory comes behind it, and goes first.
    for (at, entry) in manifest.entries().iter().enumerate().rev() {
        if was[at] && !is[at] {
            remove(&top, &entry.path, &entry.kind).map_err(|error| told(&entry.path, error))?;
        }
    }
    Ok(())
}

/// A directory goes only when nothing is left in it.
fn remove(top: &Dir, path: &RelPath, kind: &Kind) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let mut dir = top.try_clone()?;
    for component in parent.components() {
        dir = at::open_dir(&dir, component)?;
    }
    let removed = match kind {
        Kind::Directory => at::remove_dir(&dir, name),
        _ => at::remove_file(&dir, name),
    };
    match removed {
        Err(error) if !matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

fn keep(at: &Path, patterns: &[String]) -> io::Result<()> {
    let beside = at.with_extension("new");
    fs::write(&beside, encode(&patterns))?;
    match fs::rename(&beside, at) {
        // Somebody has put a directory there.
        Err(error) if at.is_dir() => {
            fs::remove_dir_all(at).map_err(|_| error).and_then(|()| fs::rename(beside, at))
        }
        renamed => renamed,
    }
}
