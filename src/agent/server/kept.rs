//! Which paths the workspace keeps: all that any client has named. A pattern leaves the set only by
//! hand (`workspace unkeep`), never because it is missing from a command line or a file; otherwise
//! its paths would be taken for paths that the host once had.
//!
//! In: a client's patterns. Out: those of earlier clients that it does not name. A pattern that
//! matches nothing is dropped, because nothing can be lost. The set is in a file beside the agent,
//! and is carried over when the workspace is made anew.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use crate::{
    agent::{
        protocol::{Failed, KEPT, decode, encode},
        server::{
            common::{failed, place_beside_agent},
            workspace::{View, look},
        },
    },
    sys,
    tree::ignore::Rules,
};

/// Adds `patterns` to the set of the tree at `root`, and returns the ones that stand before them.
///
/// # Errors
/// When the set cannot be written, or the tree cannot be looked at.
pub(super) fn add(root: &Path, patterns: &[String], view: &View) -> Result<Vec<String>, Failed> {
    let Some(place) = place_beside_agent(KEPT, root) else { return Ok(Vec::new()) };
    let set = read(&place);
    let mut earlier: Vec<_> = set.iter().filter(|pattern| !patterns.contains(pattern)).cloned().collect();
    if earlier.iter().any(|pattern| !is_exception(pattern)) {
        let tree = look(root, view)?;
        earlier.retain(|pattern| {
            let rules = Rules::new([pattern]).unwrap_or_else(|_| Rules::none());
            let mut entries = tree.manifest.entries().iter();
            is_exception(pattern) || entries.any(|entry| rules.ignores(&entry.path))
        });
    }
    // Exceptions alone have no effect.
    if earlier.iter().all(|pattern| is_exception(pattern)) {
        earlier.clear();
    }
    let all: Vec<_> = earlier.iter().chain(patterns).cloned().collect();
    if all != set {
        write(&place, &all).map_err(|error| failed("could not note what the workspace keeps", &error))?;
    }
    Ok(earlier)
}

/// The whole set.
pub(super) fn set(root: &Path) -> Vec<String> {
    place_beside_agent(KEPT, root).map(|place| read(&place)).unwrap_or_default()
}

fn is_exception(pattern: &str) -> bool {
    pattern.starts_with('!')
}

fn read(place: &Path) -> Vec<String> {
    fs::read(place).ok().and_then(|bytes| decode(&bytes).ok()).unwrap_or_default()
}

fn write(place: &Path, set: &[String]) -> io::Result<()> {
    sys::replace_file(place, |file| file.write_all(&encode(&set)))
}

/// Removes patterns from the set of the tree at `root`; returns those that were in it.
///
/// # Errors
/// When the set cannot be written.
pub(super) fn remove(root: &Path, patterns: &[String]) -> io::Result<Vec<String>> {
    let Some(place) = place_beside_agent(KEPT, root) else { return Ok(Vec::new()) };
    let (out, left): (Vec<_>, Vec<_>) =
        read(&place).into_iter().partition(|pattern| patterns.contains(pattern));
    if !out.is_empty() {
        write(&place, &left)?;
    }
    Ok(out)
}
