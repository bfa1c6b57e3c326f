//! The source tree as a watch sees it, without unwatched names and unreadable paths.

use std::collections::BTreeSet;

use crate::{
    build::BuildError,
    plan::Plan,
    tree::{
        Manifest,
        ignore::Rules,
        scan::{ScanError, ScanOptions, scan},
    },
};

/// Names that start no build, in any directory: files of version control, editors and desktops. A
/// build that another change starts uploads them. `docs/usage.md` has the same list.
const UNWATCHED: &str = "\
    .git .hg .svn .jj .bzr \
    .*.sw[a-px] .sw[a-px] .*.swpx 4913 5036 *~ .*.kate-swp .#* #*# \
    *___jb_tmp___ *___jb_old___ .idea .~lock.*# ~$* .goutputstream-* .subl*.tmp \
    .DS_Store ._* .AppleDouble .fseventsd .Spotlight-V100 .Trashes Thumbs.db ehthumbs.db desktop.ini .directory .Trash-* \
    .nfs* .fuse_hidden* .syncthing.* .~tmp~";

/// The result of a look.
pub(super) struct Looked {
    pub(super) manifest: Manifest,
    /// What had to be left out, and why.
    pub(super) unreadable: Vec<ScanError>,
}

/// Reads the metadata of all files that may start a build of this plan.
///
/// # Errors
/// A pattern that is not valid, and a source root that cannot be looked at.
pub(super) fn look(plan: &Plan) -> Result<Looked, BuildError> {
    let given = plan.ignore.lines().map(str::to_owned);
    let rules = Rules::new(given.chain(UNWATCHED.split_whitespace().map(|name| format!("**/{name}"))))?;
    let mut leave_out = plan.ignore.outputs.clone();
    let mut unreadable = Vec::new();
    loop {
        let options = ScanOptions { rules: &rules, leave_out: &leave_out, progress: &|_| () };
        match scan(&plan.source.value, &options) {
            Ok(found) => return Ok(Looked { manifest: found.manifest, unreadable }),
            Err(error) => match &error {
                ScanError::Unreadable { path, .. } | ScanError::Hidden { path, .. }
                    if !path.is_root() && !leave_out.contains(path) =>
                {
                    leave_out.push(path.clone());
                    unreadable.push(error);
                }
                _ => return Err(error.into()),
            },
        }
    }
}

/// The errors that were reported, so that each is reported once while it lasts.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeSet<String>);

impl Told {
    /// Records an error that was reported elsewhere.
    pub(super) fn note(&mut self, error: &impl std::error::Error) {
        self.0.insert(error.to_string());
    }

    /// Those of `now` that were not among the errors of the last call.
    pub(super) fn news<E: std::error::Error>(&mut self, now: Vec<E>) -> Vec<E> {
        let before = std::mem::replace(&mut self.0, now.iter().map(ToString::to_string).collect());
        now.into_iter().filter(|error| !before.contains(&error.to_string())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::ignore::Verdict;

    fn is_unwatched(name: &str) -> bool {
        let rules = Rules::new(UNWATCHED.split_whitespace().map(|name| format!("**/{name}"))).unwrap();
        rules.verdict(&rules.top(), name.as_bytes()) == Verdict::Ignored
    }

    #[test]
    fn what_editors_and_desktops_write_for_themselves_starts_nothing_and_what_people_write_does() {
        for name in [
            ".git",
            ".a.txt.swp",
            ".a.txt.swo",
            ".swp",
            "4913",
            "a.txt~",
            ".#a.txt",
            "#a.txt#",
            ".a.kate-swp",
            "a.txt___jb_tmp___",
            "a.txt___jb_old___",
            ".~lock.a.odt#",
            ".goutputstream-X1Y2Z3",
            ".DS_Store",
            "Thumbs.db",
        ] {
            assert!(is_unwatched(name), "{name}");
        }
        for name in
            ["a.txt", ".gitignore", ".github", ".env", "a.swp.c", "logo.swf", ".x.svg", "#a", "a#", "4914"]
        {
            assert!(!is_unwatched(name), "{name}");
        }
    }

    #[test]
    fn the_documentation_has_the_whole_list() {
        let usage = include_str!("../../docs/usage.md");
        for name in UNWATCHED.split_whitespace() {
            assert!(usage.contains(&format!("`{name}`")), "{name}");
        }
    }
}
