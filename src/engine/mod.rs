//! The engine that a build runs on. In: an [`crate::spec::Endpoint`] and the plan's values; out:
//! facts, byte streams, exit codes.
//!
//! This module does not print, decide or retry; [`crate::build`] does. Invariants: the build's
//! bytes pass unchanged; a stream that was cut short is an error, never a normal end; every error
//! keeps the request and the answer. The only kind of engine is [`Docker`].

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
