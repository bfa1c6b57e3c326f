//! What deciding has to know of the surroundings beyond the settings: looked up here, so that everything behind it is a
//! function of values. Nothing is asked that could take its time, and no engine is told anything.

use std::path::{Path, PathBuf};

use super::{Endpoint, PlanError, decide_endpoint};
use crate::config::{Environment, Settings};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whether somebody is behind the engine's address.
    pub engine: Presence,
    /// Where the command's first word is on this machine; none when it is nowhere in `PATH`.
    pub command: Option<PathBuf>,
}

/// Whether an engine is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// As far as can be told without a word to it.
    Perhaps,
    /// Surely not.
    Absent {
        /// How that shows.
        why: String,
    },
}

impl Facts {
    /// Looks around.
    ///
    /// # Errors
    /// [`PlanError::Endpoint`] when the engine's address is none.
    pub fn gather(settings: &Settings, env: &Environment) -> Result<Facts, PlanError> {
        let endpoint = decide_endpoint(settings.host.as_ref(), env)?.value;
        let word = settings.command.first().map(String::as_str).unwrap_or_default();
        Ok(Facts { engine: presence(&endpoint), command: find_command(word, &settings.started_in, env) })
    }
}

/// A socket that nobody listens on tells so at once; anything farther away is only known by asking it.
fn presence(endpoint: &Endpoint) -> Presence {
    #[cfg(unix)]
    if let Endpoint::Unix(path) = endpoint {
        use std::io::ErrorKind::{ConnectionRefused, NotFound};
        return match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == NotFound => {
                Presence::Absent { why: format!("there is no {}", path.to_string_lossy()) }
            }
            Err(error) if error.kind() == ConnectionRefused => {
                Presence::Absent { why: format!("nobody answers at {}", path.to_string_lossy()) }
            }
            _ => Presence::Perhaps,
        };
    }
    let _ = endpoint;
    Presence::Perhaps
}

/// As a shell here would find it.
fn find_command(word: &str, started_in: &Path, env: &Environment) -> Option<PathBuf> {
    if word.is_empty() {
        return None;
    }
    if word.contains('/') {
        return Some(started_in.join(word)).filter(|path| is_program(path));
    }
    let path = env.var("PATH")?;
    std::env::split_paths(path).map(|directory| directory.join(word)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    #[cfg(unix)]
    return path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    #[cfg(not(unix))]
    return path.is_file() || path.with_extension("exe").is_file();
}
