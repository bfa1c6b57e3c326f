//! Where a build runs. In: an [`crate::spec::Endpoint`] and the plan's values; out: facts, byte streams, exit codes.
//!
//! Nothing here prints, decides or retries: [`crate::build`] does. What must hold: the build's bytes pass unchanged, a
//! stream that was cut short is an error and never an end, and every error keeps what was tried and what came back.
//! There is one kind of engine, [`Docker`].

mod docker;
mod error;
pub mod labels;
mod reference;
mod version;
pub mod words;

pub use docker::{
    ArchiveStream, AttachInput, AttachOutput, Attached, Cause, ContainerFacts, ContainerId, ContainerSpec,
    ContainerState, ContainerSummary, Delivery, Docker, EngineFacts, EngineInfo, EngineKind, Entrypoint,
    ImageFacts, Life, Limits, Mount, MountAccess, Obituary, Owned, PathKind, PathStat, PullProgress, Reach,
    Removed, Rights, Serves, Sizes, VolumeContents, VolumeFacts, VolumeSpec, Whereabouts,
};
pub use error::{BadFrame, Call, Defect, EngineError, Operation, StartError};
pub use reference::{BadReference, Reference};
pub use version::ApiVersion;
