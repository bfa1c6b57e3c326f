//! `fastbuild trust`: a project's file may bring products to places outside of the project.

use super::{Failure, print};
use crate::{
    args::{Trust, TrustArgs},
    build::trust::trust,
    config::{ConfigError, file::ConfigFile},
    environment::Environment,
    state::State,
};

/// Trusts the nearest file in its present state, or revokes that.
///
/// # Errors
/// When there is no file, or the state cannot be written.
pub fn run(args: &TrustArgs) -> Result<(), Failure> {
    let environment = Environment::of_process().map_err(Failure::CurrentDirectory)?;
    let start = args.source.as_ref().map_or_else(|| environment.cwd.clone(), |dir| environment.cwd.join(dir));
    let missing = || Failure::NoFile { start: start.clone() };
    let directory = start.canonicalize().map_err(|_| missing())?;
    let file = ConfigFile::find_upwards(&directory).map_err(ConfigError::from)?.ok_or_else(missing)?.path;
    trust(&file, args.trust, &State::open(environment.state_dir()?)?)?;
    let said = match args.trust {
        Trust::Give => "is trusted as it is now; with any change to it that ends",
        Trust::Revoke => "is trusted no longer",
    };
    print(format!("{} {said}\n", file.to_string_lossy()))
}
