//! Words -> workspaces. Pure, except that it resolves the directories that words name.

use std::{ffi::OsStr, path::Path};

use crate::workspace::list::{Listed, Owner};

/// The workspaces of the project with this (canonical) source root: on the engine and here.
pub(super) fn here<'a>(all: &'a [Listed], source: &Path) -> Vec<&'a Listed> {
    let source = source.to_string_lossy();
    all.iter().filter(|listed| listed.owner == Owner::Here && listed.source == source).collect()
}

/// The workspaces that `word` names: one by its name, or those of the project in that directory,
/// even if the directory was removed.
pub(super) fn named<'a>(all: &'a [Listed], word: &OsStr, started_in: &Path) -> Vec<&'a Listed> {
    if let Some(listed) = all.iter().find(|listed| word == listed.name.as_str()) {
        return vec![listed];
    }
    let path = started_in.join(word);
    here(all, &path.canonicalize().unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::{super::show::tests::workspace, *};

    #[test]
    fn a_workspace_is_named_by_its_name_or_its_projects_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("p")).unwrap();
        let at = |name: &str, below: &str| workspace(name, &root.join(below).to_string_lossy(), Owner::Here);
        let theirs = workspace("theirs", &root.join("q").to_string_lossy(), Owner::Elsewhere);
        let all = [at("one", "p"), at("two", "gone"), theirs];
        let found = |word: &str| {
            named(&all, OsStr::new(word), &root.join("p")).first().map(|listed| listed.name.as_str())
        };
        let cases = [
            ("one", Some("one")),
            (".", Some("one")),
            ("../p/", Some("one")),
            ("theirs", Some("theirs")),
            ("../q", None),
            ("three", None),
            ("", Some("one")),
        ];
        for (word, expected) in cases {
            assert_eq!(found(word), expected, "{word:?}");
        }
        let gone = root.join("gone");
        assert_eq!(named(&all, gone.as_os_str(), &root), [&all[1]]);
        assert!(here(&all, &root.join("q")).is_empty(), "of another machine, with the same path");
        let both = [at("one", "p"), at("other", "p")];
        assert_eq!(here(&both, &root.join("p")).len(), 2);
    }
}
