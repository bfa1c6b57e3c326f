//! What a build on an engine has, whichever way its files travel.

use std::sync::Arc;

use super::locks::Locks;
use crate::{
    engine::{Docker, ImageFacts},
    outputs::record::Record,
    plan::{OnDocker, Plan},
    report::Reporter,
    state::{Project, Run, State},
};

/// What a build on an engine has, whoever runs the command there.
pub(super) struct Site<'a> {
    pub(super) plan: &'a Plan,
    pub(super) at: OnDocker<'a>,
    pub(super) state: &'a State,
    pub(super) project: &'a Project,
    pub(super) locks: &'a Locks,
    pub(super) reporter: &'a Reporter,
    pub(super) docker: Docker,
    pub(super) image: ImageFacts,
    pub(super) record: Arc<Record>,
    pub(super) run: Run,
}

/// Whether anything of a run may still be on its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// The run is over.
    Nothing,
    /// The reaper looks again, and the next start after it.
    Perhaps,
}
