//! Outputs of a project's file that go outside of the project. A user who builds fetched sources
//! did not ask for that: refused until the user names them on the command line, or trusts that very
//! file.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::BuildError;
use crate::{
    args::Trust,
    plan::{Outputs, Plan},
    spec::Reason,
    state::{State, StateError},
};

/// Refuses an output of an untrusted file that goes outside of the project.
///
/// # Errors
/// [`BuildError::Untrusted`].
pub(super) fn check(plan: &Plan, state: &State) -> Result<(), BuildError> {
    let (Outputs::Named(outputs), Reason::File { path: file, .. }) =
        (&plan.outputs.value, &plan.outputs.reason)
    else {
        return Ok(());
    };
    let project = [Some(plan.source.value.as_path()), file.parent()];
    let is_inside = |host: &Path| project.iter().flatten().any(|directory| host.starts_with(directory));
    let Some(outside) = outputs.iter().find(|output| !is_inside(&output.host)) else { return Ok(()) };
    let trusted = fs::read_to_string(trusted_path(file, state)?).unwrap_or_default();
    match digest(file) {
        Ok(digest) if digest == trusted => Ok(()),
        _ => Err(BuildError::Untrusted {
            spec: outside.spec.clone(),
            host: outside.host.clone(),
            by: plan.outputs.reason.clone(),
        }),
    }
}

/// Remembers that the user trusts `file` as it is now, or forgets it.
///
/// # Errors
/// When the file cannot be read or the state cannot be written.
pub fn trust(file: &Path, trust: Trust, state: &State) -> Result<(), BuildError> {
    let path = trusted_path(file, state)?;
    let done = match trust {
        Trust::Give => digest(file).and_then(|digest| fs::write(&path, digest)),
        Trust::Revoke => fs::remove_file(&path),
    };
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StateError::at("write", &path)(error).into())
        }
        _ => Ok(()),
    }
}

fn trusted_path(file: &Path, state: &State) -> Result<PathBuf, BuildError> {
    Ok(state.project(file.parent().unwrap_or(file))?.trusted_path())
}

fn digest(file: &Path) -> io::Result<String> {
    Ok(Sha256::digest(fs::read(file)?).iter().map(|byte| format!("{byte:02x}")).collect())
}
