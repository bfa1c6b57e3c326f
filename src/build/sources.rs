//! The host's source tree -> a manifest, by a plan's own rules. `fastbuild plan` looks at it too.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::BuildError;
use crate::{
    build::tasks::Running,
    config::ignore_file,
    entry::{Amount, Kind, RelPath},
    outputs::target::native_join,
    plan::{Plan, standing::is_git_lock},
    report::{
        Reporter,
        events::{Event, Phase, Warning},
    },
    state::Project,
    sys::LONGEST_PATH,
    tree::{
        Entry, Manifest,
        ignore::{self, Rules},
        scan::{Scan, ScanOptions, scan},
    },
};

/// The longest path that a Linux container's programs can open, in bytes.
const LONGEST_THERE: usize = 4095;

/// Reads the metadata of everything that a build of this plan sends into a new workspace.
///
/// # Errors
/// An invalid pattern, and a directory that cannot be read.
pub fn look(plan: &Plan, progress: &(dyn Fn(Amount) + Sync)) -> Result<Scan, BuildError> {
    let found = scan_by(&plan.source.value, &rules(plan)?, &plan.ignore.outputs, progress)?;
    refuse_too_long(&found.manifest, plan)?;
    Ok(found)
}

/// Scans the source root without what `rules` and `leave_out` name, and without git's locks.
pub(super) fn scan_by(
    root: &Path,
    rules: &Rules,
    leave_out: &[RelPath],
    progress: &(dyn Fn(Amount) + Sync),
) -> Result<Scan, BuildError> {
    let mut found = scan(root, &ScanOptions { rules, leave_out, progress })?;
    leave_out_locks(&mut found.manifest);
    Ok(found)
}

/// Refuses paths that a walk by directories finds, but that no program can open by name.
fn refuse_too_long(manifest: &Manifest, plan: &Plan) -> Result<(), BuildError> {
    let before = |root: usize| root + "/".len();
    let here = LONGEST_PATH.saturating_sub(before(plan.source.value.as_os_str().len()));
    let there = LONGEST_THERE.saturating_sub(before(plan.workdir.value.len()));
    let mut long = manifest
        .entries()
        .iter()
        .map(|entry| &entry.path)
        .filter(|path| path.as_bytes().len() > here.min(there));
    let Some(first) = long.next() else { return Ok(()) };
    Err(BuildError::TooLong {
        length: first.as_bytes().len(),
        limit: if here < there { LONGEST_PATH } else { LONGEST_THERE },
        top: first.components().next().and_then(|top| RelPath::new(top).ok()).unwrap_or_default(),
        paths: 1 + long.count() as u64,
    })
}

/// See [`crate::plan::standing::NoSource::GitLock`].
fn leave_out_locks(manifest: &mut Manifest) {
    let is_lock = |entry: &Entry| entry.kind != Kind::Directory && is_git_lock(&entry.path);
    if manifest.entries().iter().any(is_lock) {
        let mut entries = std::mem::take(manifest).into_entries();
        entries.retain(|entry| !is_lock(entry));
        *manifest = Manifest::from_entries(entries);
    }
}

/// The paths that are not part of the source tree.
///
/// # Errors
/// An invalid pattern.
pub(super) fn rules(plan: &Plan) -> Result<Rules, BuildError> {
    Ok(Rules::new(plan.ignore.lines())?)
}

/// [`look`] as a phase of a build.
pub(super) fn report_scan(plan: &Plan, project: &Project, reporter: &Reporter) -> Result<Scan, BuildError> {
    let phase = Running::begin(Phase::Scan, None, reporter);
    let scan = look(plan, &|done| reporter.emit(Event::PhaseProgress { phase: Phase::Scan, done }))?;
    for (path, special) in &scan.skipped {
        reporter.emit(Event::Warned(Warning::Skipped { path: path.clone(), special: *special }));
    }
    phase.end(Amount { files: scan.manifest.entries().len() as u64, bytes: scan.manifest.bytes() });
    if let Some(without) = by_dockerignore(plan, project, &scan) {
        reporter.emit(Event::Warned(Warning::DockerignoreNotRead(without)));
    }
    let mut paths = kept_here(plan);
    paths.retain(|path| project.is_first_said(&format!("{path} is kept")));
    if !paths.is_empty() {
        reporter.emit(Event::Warned(Warning::KeptHere { paths }));
    }
    Ok(scan)
}

/// The ignore file of image builds.
const DOCKERS: &str = ".dockerignore";

/// The amount that `.dockerignore` would exclude, if fastbuild has no ignore file; reported once.
fn by_dockerignore(plan: &Plan, project: &Project, scan: &Scan) -> Option<Amount> {
    let root = &plan.source.value;
    scan.manifest.get(&RelPath::new(DOCKERS.as_bytes()).ok()?)?;
    if root.join(ignore_file::NAME).symlink_metadata().is_ok() || !project.is_first_said(DOCKERS) {
        return None;
    }
    let lines = fs::read(root.join(DOCKERS)).ok()?;
    let rules = Rules::new(ignore::lines(&lines).map(|(_, line)| line)).unwrap_or_default();
    let ignored = scan.manifest.entries().iter().filter(|entry| rules.ignores(&entry.path));
    let size = |kind: &Kind| if let Kind::File { size } = kind { *size } else { 0 };
    Some(ignored.fold(Amount::default(), |sum, entry| sum + Amount { files: 1, bytes: size(&entry.kind) }))
}

/// Kept paths that exist on this machine too.
fn kept_here(plan: &Plan) -> Vec<RelPath> {
    let is_here = |path: &RelPath| {
        let place: PathBuf = native_join(&plan.source.value, path);
        place.symlink_metadata().is_ok_and(|found| {
            !found.is_dir() || fs::read_dir(&place).is_ok_and(|mut entries| entries.next().is_some())
        })
    };
    plan.kept_places().into_iter().map(|kept| kept.value).filter(is_here).collect()
}
