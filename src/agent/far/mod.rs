//! The far end: what runs inside a workspace.

use std::{ffi::OsString, process::ExitCode};

/// The agent's `main`.
pub fn main(_argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::FAILURE
}
