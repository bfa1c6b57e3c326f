//! A connected engine, and what its answers mean.

use bollard::errors::Error as BollardError;

use super::{
    connect::{EngineFacts, Wire},
    container::Removed,
};
use crate::engine::error::{Call, EngineError};

/// A connected engine. A clone speaks to the same one; each request has a connection of its own.
#[derive(Clone)]
pub struct Docker {
    pub(super) client: bollard::Docker,
    pub(super) wire: Wire,
    pub(super) facts: EngineFacts,
}

impl Docker {
    /// What the engine said of itself.
    pub fn facts(&self) -> &EngineFacts {
        &self.facts
    }
}

/// What an engine's answer to a removal means.
pub(super) fn removed<T>(answer: Result<T, BollardError>, call: Call) -> Result<Removed, EngineError> {
    match answer {
        Ok(_) => Ok(Removed::Now),
        Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => Ok(Removed::Already),
        Err(error) => Err(failed(call)(error)),
    }
}

/// Turns bollard's error for `call` into ours.
pub(super) fn failed(call: Call) -> impl FnOnce(BollardError) -> EngineError {
    move |error| EngineError::from_bollard(call, error)
}
