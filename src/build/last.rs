//! How the last build of a project ended, and by which rules a build last looked at the tree. For
//! `fastbuild status` only; no build reads it.

use std::{fs::File, io, path::Path, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::{BuildError, Exit};
use crate::{
    entry::RelPath,
    outputs::ops::PathText,
    plan::Plan,
    state::{Project, State, project_key, read_json, replace_json},
    text::shell_words,
};

/// The end of a build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Last {
    /// When it began, in seconds since 1970.
    pub began: f64,
    /// The command.
    pub command: String,
    /// What fastbuild exited with.
    pub exit_code: u8,
    /// How long it took, with all waiting.
    pub seconds: f64,
}

impl Last {
    /// When it ended, in seconds since 1970.
    pub fn ended(&self) -> u64 {
        (self.began + self.seconds) as u64
    }
}

/// Notes how a build ended that began at `began`.
pub(super) fn note(plan: &Plan, state: &State, began: SystemTime, built: &Result<Exit, BuildError>) {
    let exit = built.as_ref().map_or_else(BuildError::exit, |exit| *exit);
    let last = Last {
        began: began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        command: shell_words(&plan.command),
        exit_code: exit.code(),
        seconds: began.elapsed().unwrap_or_default().as_secs_f64(),
    };
    if let Some(project) = state.known_project(&project_key(&plan.source.value)) {
        let path = project.last_path();
        // In place: the run is over, so no other one would remove a killed run's temporary file. A
        // truncated note is read as none.
        warn_of(&path, File::create(&path).and_then(|file| Ok(serde_json::to_writer(file, &last)?)));
    }
}

/// The last build of a project; `None` where none is noted.
pub fn of(project: &Project) -> Option<Last> {
    read_json(&project.last_path())
}

/// How a build looked at the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Look {
    /// The ignored patterns, in the order in which they are read.
    patterns: Vec<String>,
    left_out: Vec<PathText>,
    /// What the index of the tree still had.
    gone: Vec<PathText>,
}

impl Look {
    /// By a plan, and by what its workspace keeps in addition.
    pub(super) fn of(plan: &Plan, kept: &[String], gone: &[RelPath]) -> Look {
        let patterns = kept.iter().map(String::as_str).chain(plan.ignore.lines());
        let encoded = |paths: &[RelPath]| paths.iter().map(|path| path.as_bytes().into()).collect();
        Look {
            patterns: patterns.map(str::to_owned).collect(),
            left_out: encoded(&plan.ignore.outputs),
            gone: encoded(gone),
        }
    }

    pub(super) fn note(&self, project: &Project) {
        // It is the same in most builds.
        if Look::load(project).as_ref() != Some(self) {
            let path = project.looked_path();
            warn_of(&path, replace_json(&path, self));
        }
    }

    pub(super) fn load(project: &Project) -> Option<Look> {
        read_json(&project.looked_path())
    }

    pub(super) fn patterns(&self) -> impl Iterator<Item = &str> {
        self.patterns.iter().map(String::as_str)
    }

    /// What was left out whatever the patterns say, and what was known to be gone.
    pub(super) fn paths(self) -> [Vec<RelPath>; 2] {
        let decoded = |paths: Vec<PathText>| {
            paths.into_iter().filter_map(|path| RelPath::new(path.into_bytes()).ok()).collect()
        };
        [decoded(self.left_out), decoded(self.gone)]
    }
}

fn warn_of(path: &Path, noted: io::Result<()>) {
    if let Err(error) = noted {
        tracing::warn!(?path, %error, "could not note what a build was");
    }
}
