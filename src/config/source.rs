//! The place of the sources: `-C`, else the directory of the nearest `fastbuild.toml` upwards, else
//! the current directory.

use std::{
    io,
    path::{Path, PathBuf},
};

use fs_err as fs;

use super::{ConfigError, file::ConfigFile};
use crate::{
    args::RunArgs,
    environment::Environment,
    spec::{Decision, Reason},
};

/// The directories that all other paths are relative to, all canonical.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The source root.
    pub(super) root: Decision<PathBuf>,
    /// The directory where fastbuild was started.
    pub(super) started_in: PathBuf,
    /// The configuration.
    pub(super) file: Option<ConfigFile>,
}

/// Finds the source root and the configuration. Each can determine the other.
pub(super) fn find(args: &RunArgs, env: &Environment) -> Result<Place, ConfigError> {
    let started_in = directory(&env.cwd)?;
    let named = args.source.as_ref().map(|source| directory(&started_in.join(source))).transpose()?;
    let file = ConfigFile::find_upwards(named.as_ref().unwrap_or(&started_in))?;
    let root = match (named, &file) {
        (Some(value), _) => Decision { value, reason: Reason::Flag { flag: "--source" } },
        (None, Some(file)) => Decision {
            value: file.path.parent().unwrap_or(&started_in).to_owned(),
            reason: Reason::File { path: file.path.clone(), line: None },
        },
        (None, None) => Decision::default(started_in.clone(), "the current directory"),
    };
    if !args.yes {
        refuse_too_much(&root.value, env)?;
    }
    Ok(Place { root, started_in, file })
}

fn directory(path: &Path) -> Result<PathBuf, ConfigError> {
    let found = fs::canonicalize(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ConfigError::NoSource { path: path.to_owned() },
        _ => ConfigError::Unreadable { what: "the source root", error },
    })?;
    if found.is_dir() { Ok(found) } else { Err(ConfigError::SourceIsNoDirectory { path: path.to_owned() }) }
}

/// Refuses to send `/` or the home directory: this is far more often a mistake than intended.
fn refuse_too_much(root: &Path, env: &Environment) -> Result<(), ConfigError> {
    let is_home =
        || env.home.as_ref().and_then(|home| fs::canonicalize(home).ok()).is_some_and(|home| home == root);
    let what = match root.parent() {
        None => "the root of the file system",
        Some(_) if is_home() => "the home directory",
        Some(_) => return Ok(()),
    };
    Err(ConfigError::TooMuch { path: root.to_owned(), what })
}
