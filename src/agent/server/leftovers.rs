//! Leftovers: paths that only the workspace has, because a command made them and nothing brought
//! them back. They stay for later commands, as they would on a mount.
//!
//! A file beside the agent lists them when a command has ended by itself. Any other path that the
//! host does not have was once on the host, or a killed command made it: it is deleted. A file is
//! known by its stamp, so a leftover that a killed command wrote to is deleted as well.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{self, Write as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    agent::{
        protocol::{Blob, decode, encode},
        server::common::place_beside_agent,
    },
    entry::{Kind, RelPath, Stamp},
    sys,
    tree::Manifest,
};

/// One leftover, as stored in the file.
#[derive(Serialize, Deserialize)]
struct Listed {
    path: Blob,
    /// `None` for a directory: only its name counts.
    stamp: Option<Stamp>,
}

/// The entries of `manifest`, a scan of `root`, that are still leftovers.
pub(super) fn find(root: &Path, manifest: &Manifest) -> HashSet<RelPath> {
    let listed = place_beside_agent("leftovers", root).and_then(|place| fs::read(place).ok());
    let listed = listed.and_then(|bytes| decode::<Vec<Listed>>(&bytes).ok()).unwrap_or_default();
    let listed =
        listed.into_iter().filter_map(|one| Some((RelPath::new(one.path.into_vec()).ok()?, one.stamp)));
    let known: HashMap<_, _> = listed.collect();
    if known.is_empty() {
        return HashSet::new();
    }
    let is_one = |path: &RelPath, kind: &Kind, stamp: &Stamp| match (known.get(path), kind) {
        (Some(None), Kind::Directory) => true,
        (Some(Some(noted)), Kind::File { .. } | Kind::Symlink { .. }) => noted == stamp,
        _ => false,
    };
    let entries = manifest.entries().iter();
    let left = entries.filter(|entry| is_one(&entry.path, &entry.kind, &entry.stamp));
    left.map(|entry| entry.path.clone()).collect()
}

/// Lists the entries of `manifest`, a scan of `root`, whose positions `is_left` selects.
///
/// # Errors
/// The system's; then the list stays as it was.
pub(super) fn save(root: &Path, manifest: &Manifest, is_left: impl Fn(usize) -> bool) -> io::Result<()> {
    let Some(place) = place_beside_agent("leftovers", root) else { return Ok(()) };
    let entries = manifest.entries().iter().enumerate().filter(|(at, _)| is_left(*at));
    let listed: Vec<_> = entries
        .map(|(_, entry)| Listed {
            path: Blob::from(entry.path.as_bytes()),
            stamp: (entry.kind != Kind::Directory).then_some(entry.stamp),
        })
        .collect();
    if listed.is_empty() {
        return match fs::remove_file(place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let bytes = encode(&listed);
    if fs::read(&place).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    sys::replace_file(&place, |file| file.write_all(&bytes))
}
