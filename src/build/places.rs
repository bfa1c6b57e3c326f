//! Places of outputs that this user may not write, known before the build and not after it.
//!
//! A named one is an error. Without `-o` no output was asked for, and a command that changes
//! nothing has its own exit code; its changes go to the safe place.

use std::path::Path;

use super::BuildError;
use crate::{
    build::tasks::own_place,
    entry::RelPath,
    outputs::{
        OutputError,
        apply::{Scope, Staged},
        stage_dir::refuse_unwritable,
        target::Target,
    },
    plan::{Outputs, Plan},
    report::{
        Reporter,
        events::{Event, Warning},
    },
    spec::Route,
    sys::at,
};

/// Makes sure that each named output can be put in place; warns if the source root is not writable.
///
/// # Errors
/// [`OutputError::BadTarget`], before anything has been asked of an engine.
pub(super) fn check(plan: &Plan, reporter: &Reporter) -> Result<(), BuildError> {
    match &plan.outputs.value {
        // Here the command itself writes to the host's tree, as its own user.
        _ if plan.route.value == Route::Mount => {}
        Outputs::Everything => {
            if !at::is_writable(&Target::directory(&plan.source.value)?.dir) {
                reporter.emit(Event::Warned(Warning::NotWritable { path: plan.source.value.clone() }));
            }
        }
        Outputs::Named(outputs) => {
            for output in outputs {
                let is_whole = own_place(output, plan).is_some_and(RelPath::is_root);
                let of = if is_whole { Target::directory } else { Target::named };
                refuse_unwritable(&of(&output.host)?)?;
            }
        }
    }
    Ok(())
}

/// The target of `below` in the source tree; `host` is its path here, `safe` the run's safe place.
pub(super) fn of_sources(below: &RelPath, host: &Path, safe: &Path) -> Result<(Scope, Target), OutputError> {
    if !below.is_root() {
        return Ok((Scope::Synced, Target::named(host)?));
    }
    let target = Target::directory(host)?;
    if at::is_writable(&target.dir) {
        return Ok((Scope::SourceRoot, target));
    }
    let absolute = host.strip_prefix(host.ancestors().last().unwrap_or(host)).unwrap_or(host);
    Ok((Scope::Safe, Target::named(&safe.join(absolute))?))
}

/// The error to report when all else is in place, for changes that could not be put there.
pub(super) fn not_brought_back(staged: &[Staged], plan: &Plan) -> Option<BuildError> {
    let kept = staged.iter().find(|output| output.scope == Scope::Safe)?;
    let paths = kept.ops.len() as u64 + kept.applied.deleted;
    let (source_root, to) = (plan.source.value.clone(), (!kept.ops.is_empty()).then(|| kept.target.root()));
    (paths > 0).then_some(BuildError::NotBroughtBack { source_root, paths, to })
}
