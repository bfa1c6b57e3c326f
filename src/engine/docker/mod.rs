//! A Docker-compatible engine: Docker, Podman, Docker Desktop, Colima.
//!
//! Requests with small JSON answers go through bollard, over our own wire ([`connect`]), but for those whose answers it refuses
//! where an engine has words of its own ([`answer`]); an attach is our own from the first byte to the last, because bollard
//! guesses by the first byte whether it reads frames or a terminal.

mod answer;
mod archive;
mod attach;
mod connect;
mod container;
mod image;
mod info;
mod owned;
mod volume;

use bollard::errors::Error as BollardError;

pub use archive::{ArchiveStream, PathKind, PathStat};
pub use attach::{AttachInput, AttachOutput, Attached};
pub use connect::{ApiVersion, EngineFacts, Reach};
pub use container::{
    Cause, ContainerFacts, ContainerId, ContainerSpec, ContainerState, ContainerSummary, Delivery,
    Entrypoint, Life, Limits, Mount, MountAccess, Obituary, Removed, Serves, Sizes, VolumeContents,
};
pub use image::{ImageFacts, PullProgress};
pub use info::{EngineInfo, EngineKind, Rights, Whereabouts};
pub use owned::Owned;
pub use volume::{VolumeFacts, VolumeSpec};

use self::connect::Wire;
use super::error::{Call, EngineError};

/// A connected engine. A clone speaks to the same one; each request has a connection of its own.
#[derive(Clone)]
pub struct Docker {
    client: bollard::Docker,
    wire: Wire,
    facts: EngineFacts,
}

impl Docker {
    /// What the engine said of itself.
    pub fn facts(&self) -> &EngineFacts {
        &self.facts
    }
}

/// What an engine's answer to a removal means.
fn removed<T>(answer: Result<T, BollardError>, call: Call) -> Result<Removed, EngineError> {
    match answer {
        Ok(_) => Ok(Removed::Now),
        Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => Ok(Removed::Already),
        Err(error) => Err(failed(call)(error)),
    }
}

/// Turns bollard's error for `call` into ours.
fn failed(call: Call) -> impl FnOnce(BollardError) -> EngineError {
    move |error| EngineError::from_bollard(call, error)
}
