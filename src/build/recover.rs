//! Finishes what an earlier run of a project could not finish on the host, or removes it. Each
//! result is noted first, and reported at a start with a reporter: the reaper has none.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::BuildError;
use crate::{
    outputs::{
        apply::{self, Recovered},
        journal::Journal,
        ops::native,
        safe::{Place, Why, list},
    },
    report::{
        Reporter,
        events::{Event, Warning},
    },
    state::{BY_HAND, DeadRun, Placeholder, Project, State, StateError, append_line, read_lines},
    tree::scan::STAGE_PREFIX,
};

/// A result of recovery.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Note {
    /// Products were put in place.
    Finished { files: u64, lost: u64 },
    /// This run moved something to the safe place.
    Moved { run: String },
    /// A stage is kept.
    Kept {
        #[serde(with = "native")]
        path: PathBuf,
    },
}

/// Whether there is work to finish, or a result to report.
pub fn is_owed(project: &Project, state: &State) -> bool {
    !project.journals().is_empty() || project.untold_path().exists() || !dead_runs(project, state).is_empty()
}

fn dead_runs(project: &Project, state: &State) -> Vec<DeadRun> {
    state.dead_runs().into_iter().filter(|run| run.project == project.key()).collect()
}

/// Finishes an earlier run's work in this project, and reports it. Needs the exclusive source lock.
///
/// # Errors
/// See [`put_right`].
pub fn recover(project: &Project, state: &State, reporter: &Reporter) -> Result<(), BuildError> {
    put_right(project, state)?;
    tell(project, reporter)
}

/// Finishes it; the next start reports it.
///
/// # Errors
/// When possibly the only copy of a user's file cannot be moved to safety, or the state fails.
pub fn put_right(project: &Project, state: &State) -> Result<(), BuildError> {
    let dead = dead_runs(project, state);
    // Before all else: a run that died at its very end may not have told the user.
    for DeadRun { id, .. } in dead.iter().filter(|run| project.displaced_dir(&run.id).exists()) {
        note(project, &Note::Moved { run: id.clone() })
            .map_err(StateError::at("write", &project.untold_path()))?;
    }
    let noted = |Recovered { run, files, lost }: &Recovered| {
        note(project, &Note::Finished { files: *files, lost: *lost })?;
        match project.displaced_dir(run).exists() {
            true => note(project, &Note::Moved { run: run.clone() }),
            false => Ok(()),
        }
    };
    let mut unreadable = Vec::new();
    for journal in project.journals() {
        if apply::recover(&journal, &project.record_path(), noted).map_err(BuildError::Recover)?.is_none() {
            unreadable.push(journal);
        }
    }
    if !dead.is_empty() {
        project.remove_halves();
    }
    for run in dead {
        run.placeholders.iter().rev().for_each(Placeholder::remove);
        let ours = format!("{STAGE_PREFIX}{}", run.id);
        for stage in run.stages {
            // The path comes from a file: only a stage with the run's own name is touched.
            if stage.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&ours)) {
                match unreadable.is_empty() {
                    true => clear_stage(&stage),
                    // Its journal is lost, and it may hold the only copy of a user's file.
                    false => keep_stage(project, &stage)
                        .map_err(StateError::at("note what is kept in", &project.untold_path()))?,
                }
            }
        }
        if run.engine == BY_HAND {
            state.forget_run(&run.id);
        }
    }
    for journal in unreadable {
        Journal::remove(&journal).map_err(StateError::at("remove", &journal))?;
    }
    Ok(())
}

fn note(project: &Project, note: &Note) -> io::Result<()> {
    append_line(&project.untold_path(), note)
}

fn tell(project: &Project, reporter: &Reporter) -> Result<(), BuildError> {
    let path = project.untold_path();
    if !path.exists() {
        return Ok(());
    }
    let mut moved = BTreeSet::new();
    for note in read_lines(&path).map_err(StateError::at("read", &path))? {
        match note {
            Note::Finished { files, lost } => {
                reporter.emit(Event::Warned(Warning::Recovered { files, lost }));
            }
            Note::Kept { path } => reporter.emit(Event::Warned(Warning::StageKept { path })),
            Note::Moved { run } => drop(moved.insert(run)),
        }
    }
    for run in moved {
        let place = Place::of(project, &run);
        let is_products = |entry: &list::Entry| entry.why == Some(Why::GaveWay);
        let users = list::of_run(&place)?.into_iter().filter(|entry| !is_products(entry));
        let paths: Vec<_> = users.map(|entry| entry.path).collect();
        if !paths.is_empty() {
            reporter.emit(Event::Warned(place.warning(paths)));
        }
    }
    std::fs::remove_file(&path).map_err(StateError::at("remove", &path))?;
    Ok(())
}

fn clear_stage(stage: &Path) {
    if let Err(error) = crate::outputs::stage_dir::remove_stage(stage) {
        tracing::warn!(path = ?stage, %error, "could not remove a staging directory that a killed run left");
    }
}

/// Renames a stage so that fastbuild does not remove it.
fn keep_stage(project: &Project, stage: &Path) -> io::Result<()> {
    let name =
        stage.file_name().unwrap_or_default().to_string_lossy().replacen(STAGE_PREFIX, "fastbuild-kept-", 1);
    let kept = stage.with_file_name(name);
    match std::fs::rename(stage, &kept) {
        Ok(()) => note(project, &Note::Kept { path: kept }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
