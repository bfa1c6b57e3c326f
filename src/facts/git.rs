//! Which files of a tree git tracks: the user's own git is asked, for it alone knows all forms of its index. And what of a repository lies
//! outside of the tree.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::entry::RelPath;

/// Variables by which a hook's git would speak of another repository than the one that lies here.
const OF_ANOTHER: [&str; 4] = ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"];

/// The files below `root` that git tracks and that `patterns`, as of a `.dockerignore`, match. None without git or a repository, or
/// where git refuses to read one of somebody else's.
pub fn tracked(root: &Path, patterns: &[&str]) -> Vec<RelPath> {
    let is_repository = || root.ancestors().any(|above| above.join(".git").symlink_metadata().is_ok());
    if patterns.is_empty() || !is_repository() {
        return Vec::new();
    }
    let mut git = Command::new("git");
    // Nothing that a repository's configuration names is run, and nothing is fetched.
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

/// What of a source tree's repository lies outside of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    /// All of it: `.git` is a link, or the file of a worktree or submodule.
    Repository(PathBuf),
    /// Objects that it borrows from another one.
    Objects(PathBuf),
}

/// What of the repository in `root` lies outside of it; none where there is none.
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
