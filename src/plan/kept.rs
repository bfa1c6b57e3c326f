//! Resolves conflicts of kept and excluded paths with outputs below them, and with files that git
//! tracks at places that a preset would keep. Pure.
//!
//! The longer path wins. An output below a kept path gets an exception after the pattern that keeps
//! it. A kept path below an output stays kept. When the sources are mounted read-only, a kept path
//! that is written out (without wildcards) is a volume mounted over them ([`Plan::kept_over`]).

use std::path::Path;

use super::{Output, OutputError, Outputs, Plan};
use crate::{
    entry::{RelPath, host_path},
    spec::{Decision, Pattern, PatternKind, Reason, Route},
    tree::ignore::{self, Reach, Rules},
};

/// The patterns with all exceptions that they need. `tracked` are git's files at places that
/// presets keep. For a pattern that cannot be read, no exception is made; the scan of the tree
/// reports the error.
pub(super) fn settle(
    patterns: &[Decision<Pattern>],
    tracked: &[RelPath],
    outputs: &Decision<Outputs>,
    source: &Path,
) -> Result<Vec<Decision<Pattern>>, OutputError> {
    let mut patterns = with_tracked(patterns, tracked);
    let Outputs::Named(named) = &outputs.value else { return Ok(patterns) };
    for output in named {
        // An output with another host path does not make its kept path synced.
        let own = output.below_source.as_ref().filter(|below| !below.is_root());
        if let Some(below) = own.filter(|own| host_path::join(source, own).as_ref() == Some(&output.host)) {
            make_way(&mut patterns, below, output, &outputs.reason)?;
        }
    }
    Ok(patterns)
}

/// A preset's pattern does not keep paths where git tracks files. Later patterns, which a user
/// named, are stronger.
pub(super) fn with_tracked(patterns: &[Decision<Pattern>], tracked: &[RelPath]) -> Vec<Decision<Pattern>> {
    let of_preset = patterns.iter().take_while(|pattern| is_presets(&pattern.reason)).count();
    let (presets, others) = patterns.split_at(of_preset);
    let mut all = presets.to_vec();
    let found = "git tracks files there, so the preset does not keep it";
    for pattern in presets {
        for path in tracked.iter().flat_map(|file| std::iter::successors(Some(file.clone()), RelPath::parent))
        {
            let exception = Decision {
                value: Pattern { text: format!("!{}", ignore::literal(&path)), kind: PatternKind::Kept },
                reason: Reason::Found { why: found.to_owned() },
            };
            if ignore::reach(&pattern.value.text, &path) == Ok(Reach::Itself) && !all.contains(&exception) {
                all.push(exception);
            }
        }
    }
    all.extend_from_slice(others);
    all
}

impl Plan {
    /// The kept paths that are written out (no wildcards) and have no exceptions below them.
    /// `**/target` counts as the one in the command's directory.
    pub fn kept_places(&self) -> Vec<Decision<RelPath>> {
        let lines = || self.ignore.lines();
        let Ok(rules) = Rules::new(lines()) else { return Vec::new() };
        let place = |pattern: &Decision<Pattern>| {
            let text = pattern.value.text.as_str();
            let is_written_out = |text: &&str| !text.contains(['*', '?', '[']);
            let name =
                |text| RelPath::new(Some(text).filter(is_written_out)?.trim_matches('/').as_bytes()).ok();
            let path = match text.strip_prefix("**/") {
                Some(anywhere) => self.subdirectory.append(&name(anywhere)?),
                None => name(text)?,
            };
            let is_taken_back =
                |line: &str| line.starts_with('!') && ignore::reach(line, &path) == Ok(Reach::Below);
            let is_whole = rules.ignores(&path) && !lines().any(is_taken_back);
            let is_kept = pattern.value.kind == PatternKind::Kept && !path.is_root() && is_whole;
            is_kept.then(|| Decision { value: path, reason: pattern.reason.clone() })
        };
        let mut places: Vec<_> = self.ignore.patterns.iter().filter_map(place).collect();
        places.sort_by(|one, other| one.value.cmp(&other.value));
        places.dedup_by(|one, other| one.value == other.value);
        places
    }

    /// The kept paths with volumes over a read-only source tree. Outputs and caches have other
    /// volumes.
    pub fn kept_over(&self) -> Vec<Decision<RelPath>> {
        if self.route.value != Route::MountSource {
            return Vec::new();
        }
        let outputs = match &self.outputs.value {
            Outputs::Named(named) => named.as_slice(),
            Outputs::Everything => &[],
        };
        let is_output =
            |path: &RelPath| outputs.iter().any(|output| output.below_source.as_ref() == Some(path));
        let caches = || self.caches.iter().filter_map(|cache| cache.value.below_source.as_ref());
        let is_cached = |path: &RelPath| caches().any(|cache| path.strip_prefix(cache).is_some());
        let mut places = self.kept_places();
        places.retain(|Decision { value: path, .. }| !is_output(path) && !is_cached(path));
        places
    }
}

fn is_presets(reason: &Reason) -> bool {
    matches!(reason, Reason::Preset { .. })
}

/// Makes `path`, the place of `output`, synced. A kept path below it stays kept.
fn make_way(
    patterns: &mut Vec<Decision<Pattern>>,
    path: &RelPath,
    output: &Output,
    asked: &Reason,
) -> Result<(), OutputError> {
    let lines = || patterns.iter().map(|pattern| pattern.value.text.as_str());
    let Ok(reaches) = lines().map(|line| ignore::reach(line, path)).collect::<Result<Vec<_>, _>>() else {
        return Ok(());
    };
    let keeps = |at: &usize| matches!(reaches[*at], Reach::Itself | Reach::Above);
    let is_exception = |at: &usize| !ignore::parts(&patterns[*at].value.text).0.is_empty();
    let is_ignored = Rules::new(lines()).is_ok_and(|rules| rules.ignores(path));
    let last = (0..patterns.len()).rev().filter(keeps).find(|at| !is_exception(at));
    let (true, Some(last)) = (is_ignored, last) else { return Ok(()) };
    let in_force = (0..=last).rev().filter(keeps).take_while(|at| !is_exception(at));
    let names_it = |at: &usize| {
        let pattern = &patterns[*at];
        let weaker = is_presets(&pattern.reason) && !is_presets(asked);
        reaches[*at] == Reach::Itself && names_last(&pattern.value.text) && !weaker
    };
    if let Some(pattern) = in_force.clone().find(names_it).map(|at| &patterns[at]) {
        return Err(OutputError::Kept {
            spec: output.spec.clone(),
            path: path.clone(),
            kind: pattern.value.kind,
            reason: pattern.reason.clone(),
        });
    }
    let exception = Pattern { text: format!("!{}", ignore::literal(path)), ..patterns[last].value.clone() };
    let mut behind = vec![Decision { value: exception, reason: asked.clone() }];
    for at in (0..last).filter(|at| reaches[*at] == Reach::Below) {
        let within = |text: &str| match ignore::parts(text) {
            // Limits the pattern to this output.
            (sign, rest) if rest.starts_with("**/") => format!("{sign}{}/{rest}", ignore::literal(path)),
            _ => text.to_owned(),
        };
        behind.push(patterns[at].clone().map(|Pattern { text, kind }| Pattern { text: within(&text), kind }));
    }
    patterns.splice(last + 1..last + 1, behind);
    Ok(())
}

/// Whether the last component is a plain name: `target` and `**/target`, but not `*` or `*.o`.
/// Compared with those, a written-out path is the longer one.
fn names_last(pattern: &str) -> bool {
    let last = pattern.trim_ascii().trim_end_matches('/').rsplit('/').next();
    last.is_some_and(|last| !last.contains(['*', '?', '[']))
}
