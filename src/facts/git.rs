//! Which files of a tree git tracks, from the user's own git: only git knows all forms of its
//! index. Also which parts of a repository are outside of the tree.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::entry::RelPath;

/// Variables that a git hook sets and that would point git to another repository.
const OF_ANOTHER: [&str; 4] = ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"];

/// The files below `root` that git tracks and that `patterns` match (`.dockerignore` syntax). Empty
/// without git or a repository, or where git refuses to read another user's repository.
pub fn tracked(root: &Path, patterns: &[&str]) -> Vec<RelPath> {
    let is_repository = || root.ancestors().any(|above| above.join(".git").symlink_metadata().is_ok());
    if patterns.is_empty() || !is_repository() {
        return Vec::new();
    }
    let mut git = Command::new("git");
    // No program that the repository's configuration names is run, and nothing is fetched.
    git.args(["-c", "core.fsmonitor=false", "ls-files", "-z", "--"]).env("GIT_NO_LAZY_FETCH", "1");
    git.args(
        patterns.iter().flat_map(|pattern| [format!(":(glob){pattern}"), format!(":(glob){pattern}/**")]),
    );
    for name in OF_ANOTHER {
        git.env_remove(name);
    }
    let listed = git.current_dir(root).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let listed = listed.ok().filter(|listed| listed.status.success()).map(|listed| listed.stdout);
    let paths = listed.unwrap_or_default();
    paths
        .split(|byte| *byte == 0)
        .filter_map(|path| RelPath::new(path).ok())
        .filter(|p| !p.is_root())
        .collect()
}

/// Which part of a source tree's repository is outside of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    /// All of it: `.git` is a link, or the file of a worktree or submodule.
    Repository(PathBuf),
    /// Objects that it borrows from another repository.
    Objects(PathBuf),
}

/// Which part of the repository in `root` is outside of it; `None` if there is no such part.
pub fn elsewhere(root: &Path) -> Option<Elsewhere> {
    let root = root.canonicalize().ok()?;
    let outside = |path: &Path| path.canonicalize().ok().filter(|path| !path.starts_with(&root));
    let named = fs::read_to_string(root.join(".git")).unwrap_or_default();
    let git = root.join(named.strip_prefix("gitdir:").map_or(".git", str::trim));
    if let Some(path) = outside(&git) {
        return Some(Elsewhere::Repository(path));
    }
    let objects = git.join("objects");
    let borrowed = fs::read_to_string(objects.join("info/alternates")).ok()?;
    borrowed.lines().find_map(|line| outside(&objects.join(line))).map(Elsewhere::Objects)
}
