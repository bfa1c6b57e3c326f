//! What only the workspace has -> removed by hand: leftovers, and what is kept.

use std::{io, path::Path};

use cap_std::fs::Dir;

use super::{
    failed, kept, leftovers,
    workspace::{Workspace, look},
};
use crate::{
    agent::protocol::{Cleaned, Extent, Failed},
    sys::{at, walk::Walk},
    tree::{Entry, Kind, RelPath, ignore::Rules},
};

/// Removes it at and below `paths`; all of it, where there are none.
///
/// # Errors
/// When the tree cannot be looked at or changed.
pub(super) fn clean(workspace: &Workspace, paths: &[RelPath]) -> Result<Cleaned, Failed> {
    let root = &workspace.root;
    let mut view = workspace.view.clone();
    (view.rules, view.extent) = (Rules::none(), Extent::Everything);
    let manifest = look(root, &view)?.manifest;
    let rules = Rules::new(kept::set(root)).unwrap_or_else(|_| Rules::none());
    let left = leftovers::find(root, &manifest);
    let is_meant =
        |path: &RelPath| paths.is_empty() || paths.iter().any(|meant| path.strip_prefix(meant).is_some());
    let is_only_here = |entry: &&Entry| {
        let is_kept = match entry.kind {
            Kind::Directory => rules.bars(&entry.path),
            _ => rules.ignores(&entry.path),
        };
        is_meant(&entry.path) && (is_kept || left.contains(&entry.path))
    };
    let told = |path: &RelPath, error: io::Error| failed(&format!("could not remove {path}"), &error);
    let top = Dir::open_ambient_dir(root, cap_std::ambient_authority())
        .map_err(|error| told(&RelPath::root(), error))?;
    let mut walk = Walk::new(&top);
    let mut cleaned = Cleaned::default();
    // What lies in a directory comes behind it, and goes first.
    for entry in manifest.entries().iter().rev().filter(is_only_here) {
        if remove(&mut walk, entry).map_err(|error| told(&entry.path, error))? {
            cleaned.files += 1;
            cleaned.bytes += if let Kind::File { size } = entry.kind { size } else { 0 };
        }
    }
    let entries = manifest.entries();
    let stays = |at: usize| left.contains(&entries[at].path) && !is_meant(&entries[at].path);
    leftovers::save(root, &manifest, stays).map_err(|error| told(&RelPath::root(), error))?;
    Ok(cleaned)
}

/// Says whether it went. A directory goes only when nothing is left in it.
fn remove(walk: &mut Walk<'_>, entry: &Entry) -> io::Result<bool> {
    let (dir, name) = walk.parent(&entry.path)?;
    let removed = match entry.kind {
        Kind::Directory => at::remove_dir(dir, name),
        _ => at::remove_file(dir, name),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        removed => removed.map(|()| true),
    }
}

/// Takes patterns out of the set of what is kept; gives those that were in it.
///
/// # Errors
/// When the set cannot be written.
pub(super) fn unkeep(root: &Path, patterns: &[String]) -> Result<Vec<String>, Failed> {
    kept::remove(root, patterns).map_err(|error| failed("could not note what the workspace keeps", &error))
}
