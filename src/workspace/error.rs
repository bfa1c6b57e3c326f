//! Why a workspace could not be entered, or was left early, and what to do about it.

use std::path::PathBuf;

use super::scratch::ScratchError;
use crate::{
    agent::{client::SessionError, program::NoAgent},
    engine::{ContainerState, EngineError},
    state::StateError,
    text::numbers::counted_as,
    user::UserError,
};

/// Why the agent does not run here. The engine may work: a build by the plain API needs no agent.
#[derive(Debug, thiserror::Error)]
pub enum WithoutAgent {
    /// There is no agent for the image.
    #[error(transparent)]
    NoAgent(#[from] NoAgent),
    /// The agent cannot be copied there.
    #[error("the container's root is read-only: {message}")]
    ReadOnlyRoot {
        /// What the engine said.
        message: String,
    },
    /// The agent was copied there and does not start.
    #[error("the agent does not start: {detail}")]
    NotStarted {
        /// What the engine said.
        detail: String,
    },
    /// `--no-agent`.
    #[error("--no-agent says not to use it")]
    Refused,
    /// The agent was started, in a workspace made for it, and does not answer correctly.
    #[error("the agent does not work there: {detail}")]
    NoAnswer {
        /// How the failure shows.
        detail: String,
    },
}

/// Why a workspace could not be entered, or was left early.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// A build without the agent may work.
    #[error(transparent)]
    WithoutAgent(#[from] WithoutAgent),
    /// The engine's error, or the container is gone.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The scratch directory's error, where there is no container.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// The agent's error, or the connection's, while engine and container work.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The container ended in the middle of a session.
    #[error("the workspace {name} was stopped while the build ran ({})", ended(.state))]
    Stopped {
        /// The workspace.
        name: String,
        /// Its current state.
        state: ContainerState,
    },
    /// A volume cannot be mounted.
    #[error("the volume of the working directory cannot be mounted: {message}")]
    Volume {
        /// What the engine said.
        message: String,
    },
    /// The engine must get the mount's source by name.
    #[error(
        "the source root {path:?} is not UTF-8, and the engine is to mount it; --route layer takes any path"
    )]
    SourceNotText {
        /// The source root.
        path: PathBuf,
    },
    /// The engine does not see the source root, or sees something else in its place.
    #[error("the engine cannot mount the source root {path:?}: {detail}")]
    NotMounted {
        /// The source root.
        path: PathBuf,
        /// What the engine said, or what it sees.
        detail: String,
    },
    /// A share that a volume stands for holds files that fastbuild did not put there.
    #[error("the volume holds files that are not fastbuild's ({}), and they would be taken for old sources", counted_as(*.entries, "entry", "entries"))]
    StrangeShare {
        /// How many.
        entries: u64,
    },
    /// The image's user cannot be resolved.
    #[error(transparent)]
    User(#[from] UserError),
    /// The name belongs to a container or a volume whose labels are not the workspace's.
    #[error("the container or volume {name} is not this workspace's by its labels, and has its name")]
    Foreign {
        /// The name.
        name: String,
    },
}

fn ended(state: &ContainerState) -> String {
    if state.oom_killed { "for want of memory".to_owned() } else { format!("exit code {}", state.exit_code) }
}

impl WorkspaceError {
    /// What the user could do next; `None` when the message is enough.
    pub fn advice(&self) -> Option<String> {
        match self {
            WorkspaceError::Engine(error) => error.advice(),
            WorkspaceError::Scratch(error) => error.advice(),
            WorkspaceError::Session(error) => error.advice(),
            WorkspaceError::WithoutAgent(_) | WorkspaceError::SourceNotText { .. } => None,
            WorkspaceError::NotMounted { .. } => Some(
                "does it run on this machine, and does it share that directory (Docker Desktop: Settings, Resources, \
                 File sharing)? --route layer needs no mount"
                    .to_owned(),
            ),
            WorkspaceError::State(_) => Some(
                "check its permissions and the disk, or name another directory in FASTBUILD_STATE_DIR".to_owned(),
            ),
            WorkspaceError::Stopped { state, .. } if state.oom_killed => {
                Some("give it more memory (-m/--memory), or run fewer jobs at once".to_owned())
            }
            WorkspaceError::Stopped { .. } => {
                Some("it was stopped or killed (by `docker stop`, or a restart of the engine?); run the build again".to_owned())
            }
            WorkspaceError::Foreign { .. } => Some("see whose it is, and rename or remove it".to_owned()),
            WorkspaceError::Volume { .. } => Some(
                "check --volume-opt, and that the engine's machine reaches what it names; --route layer does without a volume"
                    .to_owned(),
            ),
            WorkspaceError::StrangeShare { .. } => {
                Some("name an empty directory of the share with --volume-opt device=…".to_owned())
            }
            WorkspaceError::User(_) => {
                Some("name a user that the image has with -u/--user, or one by number, such as -u 1000:1000".to_owned())
            }
        }
    }
}
