//! Measures, or removes by hand, what only the workspace has: leftovers and kept paths.

use std::{collections::HashSet, io, path::Path};

use cap_std::fs::Dir;

use crate::{
    agent::{
        protocol::{Cleaned, Extent, Failed, Held},
        server::{
            common::failed,
            kept, leftovers,
            workspace::{View, Workspace, caches_below, look, mounts},
        },
    },
    entry::{Kind, RelPath},
    sys::{at, walk::Walk},
    tree::{Entry, Manifest, ignore::Rules},
};

/// The whole tree, and which of its paths the host does not have.
struct There {
    manifest: Manifest,
    kept: Rules,
    left: HashSet<RelPath>,
}

impl There {
    fn look(root: &Path, view: View) -> Result<There, Failed> {
        let view = View { rules: Rules::none(), extent: Extent::Everything, ..view };
        let manifest = look(root, &view)?.manifest;
        let kept = Rules::new(kept::set(root)).unwrap_or_else(|_| Rules::none());
        Ok(There { left: leftovers::find(root, &manifest), manifest, kept })
    }

    fn is_kept(&self, entry: &Entry) -> bool {
        match entry.kind {
            Kind::Directory => self.kept.bars(&entry.path),
            _ => self.kept.ignores(&entry.path),
        }
    }
}

/// How many bytes only the workspace has.
///
/// # Errors
/// When the tree cannot be looked at.
pub(super) fn weigh(root: &Path) -> Result<Held, Failed> {
    let caches = caches_below(&mounts(), root);
    let view = View { rules: Rules::none(), outputs: Vec::new(), caches, extent: Extent::Everything };
    let there = There::look(root, view)?;
    let mut held = Held::default();
    for entry in there.manifest.entries() {
        let Kind::File { size } = entry.kind else { continue };
        match (there.is_kept(entry), there.left.contains(&entry.path)) {
            (true, _) => held.kept += size,
            (false, true) => held.leftovers += size,
            (false, false) => {}
        }
    }
    Ok(held)
}

/// Removes leftovers and kept paths at and below `paths`, or all of them where `paths` is empty.
///
/// # Errors
/// When the tree cannot be looked at or changed.
pub(super) fn clean(workspace: &Workspace, paths: &[RelPath]) -> Result<Cleaned, Failed> {
    let root = &workspace.root;
    let there = There::look(root, workspace.view.clone())?;
    let is_meant =
        |path: &RelPath| paths.is_empty() || paths.iter().any(|meant| path.strip_prefix(meant).is_some());
    let is_only_here =
        |entry: &&Entry| is_meant(&entry.path) && (there.is_kept(entry) || there.left.contains(&entry.path));
    let told = |path: &RelPath, error: io::Error| failed(&format!("could not remove {path}"), &error);
    let top = Dir::open_ambient_dir(root, cap_std::ambient_authority())
        .map_err(|error| told(&RelPath::root(), error))?;
    let mut walk = Walk::new(&top);
    let mut cleaned = Cleaned::default();
    // The entries of a directory come after it in the list, and must be removed before it.
    let entries = there.manifest.entries();
    for entry in entries.iter().rev().filter(is_only_here) {
        if remove(&mut walk, entry).map_err(|error| told(&entry.path, error))? {
            cleaned.files += 1;
            cleaned.bytes += if let Kind::File { size } = entry.kind { size } else { 0 };
        }
    }
    let stays = |at: usize| there.left.contains(&entries[at].path) && !is_meant(&entries[at].path);
    leftovers::save(root, &there.manifest, stays).map_err(|error| told(&RelPath::root(), error))?;
    Ok(cleaned)
}

/// Returns whether it was removed. A directory is removed only when it is empty.
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

/// Removes patterns from the set that the workspace keeps; returns those that were in it.
///
/// # Errors
/// When the set cannot be written.
pub(super) fn unkeep(root: &Path, patterns: &[String]) -> Result<Vec<String>, Failed> {
    kept::remove(root, patterns).map_err(|error| failed("could not note what the workspace keeps", &error))
}
