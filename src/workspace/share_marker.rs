//! A working directory on a share (`--volume-opt`): a file in it says whose sources the share
//! holds, because a workspace deletes what the host does not have.

use futures_util::stream;

use crate::{
    engine::{ContainerId, Docker, EngineError},
    plan::Plan,
    state::Project,
    tree::scan::STAGE_PREFIX,
    user,
    workspace::{Keeping, ensure::archive},
};

/// What a share held when a workspace was made on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Nothing that is known.
    New,
    /// This project's sources and products; or it is not a share.
    Ours,
}

/// A file in a share that says whose sources the share holds: without it, everything else there
/// would be taken for files that were deleted on this host. Scans leave out its name.
#[derive(Debug, Clone)]
pub(super) struct Marker {
    directory: String,
    name: String,
    content: String,
}

/// How much of a marker is read at most, in bytes.
const MARKER_SIZE: u64 = 4 << 10;

impl Marker {
    pub(super) fn new(plan: &Plan, keeping: &Keeping<'_>, project: &Project) -> Marker {
        let owner = match keeping {
            Keeping::Kept { state, .. } => state.as_str(),
            Keeping::OneRun { .. } => "",
        };
        Marker {
            directory: plan.workdir.value.clone(),
            name: format!("{STAGE_PREFIX}volume"),
            content: format!("{}\n{owner}\n", project.key()),
        }
    }

    pub(super) async fn look(&self, docker: &Docker, container: &ContainerId) -> Result<Share, EngineError> {
        let path = format!("{}/{}", self.directory, self.name);
        let found = docker.read_small_file(container, &path, MARKER_SIZE).await?;
        // Only the project's key counts: one-run builds may have any state directory.
        let project = |text: &[u8]| text.split(|byte| *byte == b'\n').next().map(<[u8]>::to_vec);
        let is_ours = found.is_some_and(|found| project(&found) == project(self.content.as_bytes()));
        Ok(if is_ours { Share::Ours } else { Share::New })
    }

    pub(super) async fn put(&self, docker: &Docker, container: &ContainerId) -> Result<(), EngineError> {
        let file = archive(user::ROOT, &[(tar::EntryType::Regular, &self.name, self.content.as_bytes())]);
        docker.put(container, &self.directory, stream::iter([Ok(file)])).await
    }
}
