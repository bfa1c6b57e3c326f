//! The data of a build on an engine, for each route of its files.

use std::sync::Arc;

use super::locks::Locks;
use crate::{
    engine::{Docker, ImageFacts},
    outputs::record::Record,
    plan::{OnDocker, Plan},
    report::Reporter,
    state::{Project, Run, State},
};

/// The data of a build on an engine, with the agent and without.
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
    /// The reaper checks again, and then the next start.
    Perhaps,
}
