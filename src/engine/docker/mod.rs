//! A Docker-compatible engine: Docker, Podman, Docker Desktop, Colima.
//!
//! Requests with small JSON answers go through bollard, over our own wire ([`connect`]). Exceptions
//! are answers that bollard rejects because an engine uses words of its own ([`answer`]). An attach
//! does not use bollard at all, because bollard guesses by the first byte whether it reads frames
//! or a terminal.

mod answer;
mod archive;
mod attach;
mod client;
mod connect;
mod container;
mod image;
mod info;
mod owned;
mod volume;

pub use archive::{ArchiveStream, PathKind, PathStat};
pub use attach::{AttachInput, AttachOutput, Attached};
pub use client::Docker;
pub use connect::{EngineFacts, Reach};
pub use container::{
    Cause, ContainerFacts, ContainerId, ContainerSpec, ContainerState, ContainerSummary, Delivery,
    Entrypoint, Life, Limits, Mount, MountAccess, Obituary, Removed, Serves, Sizes, VolumeContents,
};
pub use image::{ImageFacts, PullProgress};
pub use info::{EngineInfo, EngineKind, Rights, Whereabouts};
pub use owned::Owned;
pub use volume::{VolumeFacts, VolumeSpec};
