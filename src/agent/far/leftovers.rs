//! Paths that only the workspace has, because a command made them there and nothing brought them back. They stay for the commands
//! that come after, as they would on a mount.
//!
//! They are listed in a file beside the agent when a command has ended by itself. Whatever else the workspace has and the host has not,
//! the host once had, or a command made it that was killed: that goes. A file is known by its stamp, so that what a killed
//! command wrote into one makes it go as well.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{self, Write as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    agent::{
        far::ground::place_beside_agent,
        protocol::{Blob, decode, encode},
    },
    entry::{Kind, RelPath, Stamp},
    sys,
    tree::Manifest,
};

/// One of them, as it lies in the file.
#[derive(Serialize, Deserialize)]
struct Listed {
    path: Blob,
    /// None for a directory, which is nothing but its name.
    stamp: Option<Stamp>,
}

/// Those of `manifest`, a scan of `root`, that are leftovers still.
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

/// Lists those of `manifest`, a scan of `root`, that `is_left` names by their places.
///
/// # Errors
/// The system's; the list is as it was then.
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
