//! Finds names that a case-insensitive file system cannot tell apart. Pure.
//!
//! Each such file system has its own table: NTFS folds single UTF-16 units to upper case, APFS and
//! ext4's `casefold` use Unicode's full case folding. This module uses the coarsest folding that
//! needs no table of its own: each character to lower, upper and lower case again. Like full
//! folding, it makes one of `ß`, `ẞ` and `ss`, of `σ` and `ς`, of `k` and the Kelvin sign. Unlike
//! full folding, it also makes one of `ı` and `i`. So it may refuse a tree that a file system could
//! hold. The opposite mistake is worse: one product would take another's place. Composed and
//! decomposed characters stay different. Where the file system treats them as equal, the second
//! product meets the first at its rename, and is handled as a conflict.

use std::collections::HashSet;

use crate::entry::RelPath;

/// The first path, in byte order, that folds to the same as an earlier one.
pub fn same_when_folded<'a>(paths: impl Iterator<Item = &'a RelPath>) -> Option<&'a RelPath> {
    let mut paths: Vec<_> = paths.collect();
    paths.sort_unstable_by_key(|path| path.as_bytes());
    let mut seen = HashSet::with_capacity(paths.len());
    paths.into_iter().find(|path| !seen.insert(folded(path.as_bytes())))
}

/// Bytes that are not UTF-8 have no case.
fn folded(name: &[u8]) -> Vec<u8> {
    let mut folded = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        let same_case = chunk.valid().chars().flat_map(char::to_lowercase);
        let same_case = same_case.flat_map(char::to_uppercase).flat_map(char::to_lowercase);
        folded.extend_from_slice(same_case.collect::<String>().as_bytes());
        folded.extend_from_slice(chunk.invalid());
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(names: &[&[u8]]) -> Option<Vec<u8>> {
        let paths: Vec<_> = names.iter().map(|name| RelPath::new(*name).unwrap()).collect();
        same_when_folded(paths.iter()).map(|path| path.as_bytes().to_vec())
    }

    #[test]
    fn names_that_differ_by_case_only_are_found() {
        let cases: &[(&str, &str)] = &[
            ("README", "readme"),
            ("a/B/c", "a/b/c"),
            ("Ü", "ü"),
            ("Straße", "STRASSE"),
            ("ẞ", "ß"),
            ("ΟΔΟΣ", "οδος"),
            ("οδοσ", "οδος"),
            ("\u{212a}", "k"),
            ("Я", "я"),
        ];
        for (a, b) in cases {
            let larger = a.max(b).as_bytes().to_vec();
            assert_eq!(same(&[a.as_bytes(), b.as_bytes()]), Some(larger.clone()), "{a} {b}");
            assert_eq!(same(&[b.as_bytes(), b"other", a.as_bytes()]), Some(larger), "{b} {a}");
        }
    }

    #[test]
    fn names_that_differ_otherwise_too_are_no_matter() {
        let cases: &[&[&[u8]]] = &[
            &[],
            &[b""],
            &[b"a", b"b"],
            &[b"a/x", b"b/X"],
            &[b"a", b"a/a", b"a/a/a"],
            &["u".as_bytes(), "ü".as_bytes()],
            // Composed, decomposed.
            &["\u{fc}".as_bytes(), "u\u{308}".as_bytes()],
            // Not UTF-8, and not the same: as text both would be one replacement character.
            &[b"\xff", b"\xfe"],
            &[b"a\xc3", b"A\xe9"],
        ];
        for names in cases {
            assert_eq!(same(names), None, "{names:?}");
        }
        assert_eq!(same(&[b"\xffA", b"\xffa"]), Some(b"\xffa".to_vec()));
    }
}
