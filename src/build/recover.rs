//! What an earlier run of a project was kept from finishing on the host -> finished, or cleared away.

use std::path::Path;

use super::BuildError;
use crate::{
    outputs::apply,
    report::{
        Reporter,
        events::{Event, Warning},
    },
    state::{DeadRun, Placeholder, Project, State},
    tree::scan::STAGE_PREFIX,
};

/// Whether there is anything to be made good.
pub fn is_owed(project: &Project, state: &State) -> bool {
    project.journal_path().exists() || !dead_runs(project, state).is_empty()
}

fn dead_runs(project: &Project, state: &State) -> Vec<DeadRun> {
    state.dead_runs().into_iter().filter(|run| run.project == project.key()).collect()
}

/// Makes good what an earlier run of this project was kept from finishing. The source root's lock is held alone.
///
/// # Errors
/// When products that were cut short while they were put in place cannot be put there now either.
pub fn recover(project: &Project, state: &State, reporter: &Reporter) -> Result<(), BuildError> {
    let mut clear: fn(&Path, &Reporter) = clear_stage;
    if project.journal_path().exists() {
        match apply::recover(&project.journal_path(), &project.record_path()).map_err(BuildError::Recover)? {
            Some(apply::Recovered { files, lost }) => {
                reporter.emit(Event::Warned(Warning::Recovered { files, lost }));
            }
            // Damaged, or another version's: what it says of the stage is lost, and the stage may hold the only copy
            // of a file of the user's.
            None => clear = keep_stage,
        }
    }
    let dead = dead_runs(project, state);
    if !dead.is_empty() {
        project.remove_halves();
    }
    for run in dead {
        run.placeholders.iter().rev().for_each(Placeholder::remove);
        let ours = format!("{STAGE_PREFIX}{}", run.id);
        for stage in run.stages {
            // The path comes from a file: only what carries the run's own name is touched.
            if stage.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&ours)) {
                clear(&stage, reporter);
            }
        }
    }
    Ok(())
}

fn clear_stage(stage: &Path, _: &Reporter) {
    if let Err(error) = crate::outputs::stage::remove_stage(stage) {
        tracing::warn!(path = ?stage, %error, "could not remove a staging directory that a killed run left");
    }
}

/// Gives a stage a name that is not fastbuild's to remove, and tells the user where it is.
fn keep_stage(stage: &Path, reporter: &Reporter) {
    let name =
        stage.file_name().unwrap_or_default().to_string_lossy().replacen(STAGE_PREFIX, "fastbuild-kept-", 1);
    let kept = stage.with_file_name(name);
    if std::fs::rename(stage, &kept).is_ok() {
        reporter.emit(Event::Warned(Warning::StageKept { path: kept }));
    }
}
