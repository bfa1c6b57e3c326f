//! The host's source tree -> a manifest, by a plan's own rules. `fastbuild plan` looks at it too.

use super::{BuildError, Running};
use crate::{
    plan::Plan,
    report::{
        Reporter,
        events::{Amount, Event, Phase, Warning},
    },
    tree::{
        ignore::Rules,
        scan::{Scan, ScanOptions, scan},
    },
};

/// Reads the metadata of everything that a build of this plan sends into a new workspace.
///
/// # Errors
/// A pattern that is none, and a directory that cannot be read.
pub fn look(plan: &Plan, progress: &(dyn Fn(Amount) + Sync)) -> Result<Scan, BuildError> {
    let rules = rules(plan)?;
    let options = ScanOptions { rules: &rules, leave_out: &plan.ignore.outputs, progress };
    Ok(scan(&plan.source.value, &options)?)
}

/// What is no part of the source tree.
///
/// # Errors
/// A pattern that is none.
pub(super) fn rules(plan: &Plan) -> Result<Rules, BuildError> {
    Ok(Rules::new(plan.ignore.patterns.iter().map(|pattern| pattern.value.as_str()))?)
}

/// [`look`] as a phase of a build.
pub(super) fn report_scan(plan: &Plan, reporter: &Reporter) -> Result<Scan, BuildError> {
    let phase = Running::begin(Phase::Scan, None, reporter);
    let scan = look(plan, &|done| reporter.emit(Event::PhaseProgress { phase: Phase::Scan, done }))?;
    for (path, special) in &scan.skipped {
        reporter.emit(Event::Warned(Warning::Skipped { path: path.clone(), special: *special }));
    }
    phase.end(Amount { files: scan.manifest.entries().len() as u64, bytes: scan.manifest.bytes() });
    Ok(scan)
}
