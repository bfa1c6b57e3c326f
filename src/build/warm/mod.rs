//! The warm tier: the workspace is kept, both ends are scanned for each build, and only differences travel.
//!
//! ```text
//! scan the host ┐                              ┌ look at the host's outputs ┐
//!               ├ compare ─ put right ─ run ───┤                            ├ stage ─ apply ─ record
//! workspace, attach, scan there ┘              └ scan there, compare ───────┘
//! ```
//!
//! What the far end does is in [`crate::agent`]; each step here is one file below.

mod collect;
mod command;
mod host;
mod upload;

use std::{io::BufReader, sync::Arc};

use self::{
    collect::Collecting,
    host::HostTree,
    upload::{Learned, Sources},
};
use super::{
    BuildError, Finished, Interrupts, channel::ChunkReader, detached, image, put_in_place, reaper::Reaper,
};
use crate::{
    agent::{
        near::Session,
        protocol::{Blob, Extent, Home, Input, Open, Reply, Request, Run as Command},
    },
    engine::{Docker, ImageFacts},
    outputs::{record::Record, stage::Staged, target::refuse_strange_link},
    plan::{OnFailure, Outputs, Plan, SeedOutputs, Stdin, Terminal},
    report::{
        Reporter,
        events::{Event, Warning},
    },
    state::{Project, Run, State},
    tree::{
        RelPath,
        index::Index,
        node::{Node, NodeError, NodeReader},
    },
    workspace::{self, NotWarm, Workspace},
};

/// What became of a warm build.
#[derive(Debug)]
pub enum Outcome {
    /// It ran.
    Finished(Finished),
    /// No workspace can be had; nothing has been done.
    NotWarm(NotWarm),
}

/// Carries a plan out in the project's workspace.
///
/// # Errors
/// When fastbuild, the engine or the agent could not do their part. Nothing of the build runs any more then.
pub async fn run(
    plan: &Plan,
    state: &State,
    project: &Project,
    interrupts: &mut Interrupts,
    reporter: &Reporter,
) -> Result<Outcome, BuildError> {
    let loading = detached({
        let path = project.record_path();
        move || Record::load(&path)
    });
    let docker = interrupts.unless(Docker::connect(&plan.engine.value)).await??;
    let image = interrupts.unless(image::ensure(&docker, plan, reporter)).await??;
    todo!()
}
