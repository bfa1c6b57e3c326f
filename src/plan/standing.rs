//! How a build treats a source path: whether it goes up and comes back, and by which rule. Pure.

use super::{Output, Outputs, Plan};
use crate::{
    entry::{RelPath, host_path},
    spec::{Decision, Pattern},
    tree::ignore::{self, Reach, Rules},
};

/// How a build treats a path.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing<'a> {
    /// The tree itself is mounted.
    Mounted,
    /// This pattern keeps or excludes the path.
    Stays(&'a Decision<Pattern>),
    /// The path is not a source.
    LeftOut(NoSource),
    /// The path goes up.
    Synced(Back<'a>),
}

/// The kind of a path of the source tree that is not a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSource {
    /// It has its own storage.
    Cache,
    /// Outputs from other places are put there.
    OutputsPlace,
    /// fastbuild's state, or a scratch directory.
    Own,
    /// A lock is about processes of this machine, and would block those of the build.
    GitLock,
}

impl NoSource {
    /// The kind, in a few words.
    pub fn name(self) -> &'static str {
        match self {
            NoSource::Cache => "a cache",
            NoSource::OutputsPlace => "an output",
            NoSource::Own => "fastbuild's own",
            NoSource::GitLock => "a lock of git's",
        }
    }
}

/// Whether changes of a path by the command come back.
#[derive(Debug, Clone, PartialEq)]
pub enum Back<'a> {
    /// All changes come back.
    All,
    /// The path is part of this output.
    With(&'a Output),
    /// The path is outside of all outputs.
    No,
}

/// How the build treats `path`, which is in the source tree.
pub fn standing<'a>(path: &RelPath, plan: &'a Plan) -> Standing<'a> {
    if plan.route.value.is_mounted() {
        return Standing::Mounted;
    }
    if let Some(place) = plan.ignore.outputs.iter().find(|place| path.strip_prefix(place).is_some()) {
        return Standing::LeftOut(left_out(place, plan));
    }
    if is_git_lock(path) {
        return Standing::LeftOut(NoSource::GitLock);
    }
    let is_ignored = Rules::new(plan.ignore.lines()).is_ok_and(|rules| rules.ignores(path));
    let matches = |pattern: &&Decision<Pattern>| {
        let text = &pattern.value.text;
        let reaches = ignore::reach(text, path);
        ignore::parts(text).0.is_empty() && matches!(reaches, Ok(Reach::Itself | Reach::Above))
    };
    if let Some(pattern) = plan.ignore.patterns.iter().rev().filter(|_| is_ignored).find(matches) {
        return Standing::Stays(pattern);
    }
    Standing::Synced(match &plan.outputs.value {
        Outputs::Everything => Back::All,
        Outputs::Named(named) => named.iter().find(|output| output.holds(path)).map_or(Back::No, Back::With),
    })
}

/// Whether a path has the name of a git lock. A directory with such a name is not a lock.
pub fn is_git_lock(path: &RelPath) -> bool {
    path.as_bytes().ends_with(b".lock") && path.components().any(|name| name == b".git")
}

/// The kind of a path in [`super::IgnorePlan::outputs`].
pub fn left_out(place: &RelPath, plan: &Plan) -> NoSource {
    let is_cache = plan.caches.iter().any(|cache| cache.value.below_source.as_ref() == Some(place));
    let is_output = matches!(&plan.outputs.value, Outputs::Named(named)
        if named.iter().any(|named| host_path::below(&plan.source.value, &named.host) == *place));
    match (is_cache, is_output) {
        (true, _) => NoSource::Cache,
        (false, true) => NoSource::OutputsPlace,
        (false, false) => NoSource::Own,
    }
}
