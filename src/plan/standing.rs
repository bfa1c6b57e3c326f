//! What a build is to a path of the source tree: whether it goes up and comes back, and who says so. Pure.

use super::{Output, Outputs, Plan};
use crate::{
    entry::{RelPath, host_path},
    spec::{Decision, Pattern},
    tree::ignore::{self, Reach, Rules},
};

/// What becomes of a path.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing<'a> {
    /// The tree itself is mounted.
    Mounted,
    /// It is kept or excluded, by this pattern.
    Stays(&'a Decision<Pattern>),
    /// It is no source.
    LeftOut(NoSource),
    /// It goes up.
    Synced(Back<'a>),
}

/// What a path of the source tree is that is no source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSource {
    /// It has storage of its own.
    Cache,
    /// What comes from elsewhere is put there.
    OutputsPlace,
    /// State, or a scratch directory.
    Own,
    /// It is about this machine's processes, and would stop those of the build.
    GitLock,
}

impl NoSource {
    /// In two words.
    pub fn name(self) -> &'static str {
        match self {
            NoSource::Cache => "a cache",
            NoSource::OutputsPlace => "an output",
            NoSource::Own => "fastbuild's own",
            NoSource::GitLock => "a lock of git's",
        }
    }
}

/// Whether what a command makes of a path comes back.
#[derive(Debug, Clone, PartialEq)]
pub enum Back<'a> {
    /// All does.
    All,
    /// It is part of this output.
    With(&'a Output),
    /// It lies beside all outputs.
    No,
}

/// What becomes of `path`, which lies in the source tree.
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

/// Whether a path is where git has a lock; a directory of such a name is none.
pub fn is_git_lock(path: &RelPath) -> bool {
    path.as_bytes().ends_with(b".lock") && path.components().any(|name| name == b".git")
}

/// What a path is that [`super::IgnorePlan::outputs`] leaves out.
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
