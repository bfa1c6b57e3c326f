//! A connected engine, and the meaning of its answers.

use bollard::errors::Error as BollardError;

use super::{
    connect::{EngineFacts, Wire},
    container::Removed,
};
use crate::engine::error::{Call, EngineError};

/// A connected engine. A clone speaks to the same engine; each request has its own connection.
#[derive(Clone)]
pub struct Docker {
    pub(super) client: bollard::Docker,
    pub(super) wire: Wire,
    pub(super) facts: EngineFacts,
}

impl Docker {
    /// The engine's description of itself.
    pub fn facts(&self) -> &EngineFacts {
        &self.facts
    }
}

/// The meaning of an engine's answer to a removal.
pub(super) fn removed<T>(answer: Result<T, BollardError>, call: Call) -> Result<Removed, EngineError> {
    match answer {
        Ok(_) => Ok(Removed::Now),
        Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => Ok(Removed::Already),
        Err(error) => Err(failed(call)(error)),
    }
}

/// Converts bollard's error for `call` into ours.
pub(super) fn failed(call: Call) -> impl FnOnce(BollardError) -> EngineError {
    move |error| EngineError::from_bollard(call, error)
}
