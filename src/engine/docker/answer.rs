//! Requests that do not go through bollard, and their answers.
//!
//! The answers about a container are read into types of our own. Bollard's types enumerate the
//! words that Docker uses, and reject a whole answer for one word of another engine. Podman, for
//! example, calls a container `stopped` from the end of its process until its clean-up is done.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    client::Docker,
    connect::{DialError, WireError},
};
use crate::engine::error::{Call, EngineError, chain};

/// How many bytes of an error's answer are read.
const MAX_ERROR: usize = 64 << 10;

/// How many bytes of an answer are read: enough to list some ten thousand containers.
const MAX_ANSWER: usize = 64 << 20;

impl Docker {
    /// The JSON at `path`: an Engine API path without the version.
    pub(super) async fn ask<T: DeserializeOwned>(&self, call: Call, path: &str) -> Result<T, EngineError> {
        let mut request = Request::new(Empty::<Bytes>::new());
        // An id that is not valid in a path becomes a request that the engine rejects as unknown.
        *request.uri_mut() = path.parse().unwrap_or_default();
        let response = match self.wire.send(request).await {
            Ok(response) => response,
            Err(error) => return Err(EngineError::Gone { call, detail: detail(error) }),
        };
        if !response.status().is_success() {
            return Err(refused(call, response).await);
        }
        match body(response, MAX_ANSWER).await {
            Ok(body) => serde_json::from_slice(&body)
                .map_err(|error| EngineError::BadAnswer { call, message: error.to_string() }),
            Err(detail) => Err(EngineError::Gone { call, detail }),
        }
    }
}

/// Why there is no answer, as text.
pub(super) fn detail(error: WireError) -> String {
    match error {
        WireError::Dial(DialError::Lookup(error) | DialError::Connect(error)) => chain(&error),
        WireError::Http(error) => chain(&error),
    }
}

/// An unsuccessful answer -> the error it stands for.
pub(super) async fn refused(call: Call, response: Response<Incoming>) -> EngineError {
    #[derive(Deserialize)]
    struct Answer {
        message: String,
    }
    let status = response.status();
    match body(response, MAX_ERROR).await {
        Ok(body) => {
            let message = serde_json::from_slice::<Answer>(&body)
                .map_or_else(|_| String::from_utf8_lossy(&body).into_owned(), |answer| answer.message);
            EngineError::from_answer(call, status.as_u16(), &message)
        }
        Err(detail) => EngineError::Gone { call, detail },
    }
}

async fn body(response: Response<Incoming>, limit: usize) -> Result<Bytes, String> {
    let read = Limited::new(response.into_body(), limit).collect().await;
    read.map(|body| body.to_bytes()).map_err(|error| chain(error.as_ref()))
}
