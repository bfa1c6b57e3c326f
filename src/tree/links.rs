//! Groups the names of a tree that are one file (hard links). A group is identified by its first
//! name. Names outside of the tree do not count, so a file with one name here is in no group.

use std::collections::HashMap;

use super::Manifest;
use crate::entry::{Kind, RelPath};

/// The groups of one tree. Without hard links it is empty, and costs one check per entry.
#[derive(Debug, Default)]
pub struct Groups {
    /// Each further name with the first name of its file, ascending.
    further: Vec<(usize, usize)>,
    /// The same pairs, sorted by first name.
    by_first: Vec<(usize, usize)>,
}

impl Groups {
    /// The groups among all entries.
    pub fn of(manifest: &Manifest) -> Groups {
        Groups::among(manifest, |_| true)
    }

    /// The groups among the entries for which `is_of_tree` is true.
    pub fn among(manifest: &Manifest, is_of_tree: impl Fn(usize) -> bool) -> Groups {
        let mut firsts = HashMap::new();
        let mut further = Vec::new();
        for (at, entry) in manifest.entries().iter().enumerate() {
            let is_linked =
                entry.links > 1 && entry.stamp.ino != 0 && matches!(entry.kind, Kind::File { .. });
            if is_linked && is_of_tree(at) {
                // Names that must have different times cannot be one file.
                let file = (entry.stamp.dev, entry.stamp.ino, entry.mtime);
                let first = *firsts.entry(file).or_insert(at);
                if first != at {
                    further.push((at, first));
                }
            }
        }
        let mut by_first: Vec<_> = further.iter().map(|(at, first)| (*first, *at)).collect();
        by_first.sort_unstable();
        Groups { further, by_first }
    }

    /// The index of the first name of the file at `at`, if `at` is a further name.
    pub fn first(&self, at: usize) -> Option<usize> {
        let found = self.further.binary_search_by_key(&at, |(further, _)| *further).ok()?;
        Some(self.further[found].1)
    }

    /// The same, as a path.
    pub fn first_name<'a>(&self, manifest: &'a Manifest, at: usize) -> Option<&'a RelPath> {
        self.first(at).map(|first| &manifest.entries()[first].path)
    }

    /// The indices of all names of the file at `at`, ascending; empty if it has only one.
    pub fn names(&self, at: usize) -> Vec<usize> {
        let first = self.first(at).unwrap_or(at);
        let from = self.by_first.partition_point(|(of, _)| *of < first);
        let further = self.by_first[from..].iter().take_while(|(of, _)| *of == first).map(|(_, at)| *at);
        let names: Vec<_> = [first].into_iter().chain(further).collect();
        if names.len() > 1 { names } else { Vec::new() }
    }

    /// Adds the indices of all other names of the same files. `places` is and stays ascending.
    pub fn complete(&self, places: &mut Vec<usize>) {
        let head = |at: usize| self.first(at).unwrap_or(at);
        let mut heads: Vec<_> = places.iter().map(|at| head(*at)).collect();
        heads.sort_unstable();
        let more = self.further.iter().filter(|(_, first)| heads.binary_search(first).is_ok());
        let more: Vec<_> = more.flat_map(|(further, first)| [*further, *first]).collect();
        if !more.is_empty() {
            places.extend(more);
            places.sort_unstable();
            places.dedup();
        }
    }
}
