//! What deciding has to know of the surroundings beyond the settings: looked up here, so that everything behind it is a
//! function of values. Nothing is asked that could take its time, and no engine is told anything.

use std::path::{Path, PathBuf};

use super::{
    Engine, PlanError, decide_endpoint, engine,
    scratch::{Ground, Place},
};
use crate::{
    agent::program::{self, NoAgent},
    config::Settings,
    entry::{RelPath, host_path},
    environment::Environment,
    facts::{self, FileSystem},
    spec::{Endpoint, Reason},
    sys::owner,
};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whether somebody is behind the engine's address.
    pub engine: Presence,
    /// Where the command's first word is on this machine; none when it is nowhere in `PATH`.
    pub command: Option<PathBuf>,
    /// What this machine has for the build.
    pub here: Here,
    /// Files below the source root that git tracks where a preset would keep its tool's own. Looked up only where one would.
    pub tracked: Vec<RelPath>,
    /// Whether the source root is a checkout of git.
    pub is_checkout: bool,
}

/// What this machine has for a build, and for one without a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Here {
    /// Why there are none without a container.
    pub hindrance: Option<String>,
    /// What the source root lies on; none where the system does not tell.
    pub source: Option<Ground>,
    /// Where scratch directories can lie, in the order in which they are thought of. Looked up only where one is wanted.
    pub places: Vec<Place>,
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
        let endpoint = match decide_endpoint(settings.host.as_ref(), env) {
            Ok(endpoint) => Some(endpoint.value),
            // Nobody is going to be asked there.
            Err(_) if engine::asks_for_host(settings) => None,
            Err(error) => return Err(error),
        };
        let word = settings.command.first().map(String::as_str).unwrap_or_default();
        let lies_on = facts::file_system(&settings.source.value);
        let mut facts = Facts {
            command: find_command(word, &settings.started_in, env),
            here: Here {
                hindrance: hindrance(),
                source: lies_on.map(|found| Ground { kind: found.kind, class: found.class }),
                ..Here::default()
            },
            engine: endpoint.as_ref().map_or(Presence::Perhaps, presence),
            tracked: facts::tracked(&settings.source.value, &presets_patterns(settings)),
            is_checkout: settings.source.value.join(".git").exists(),
        };
        if engine::decide(settings, env, &facts)?.value == Engine::Host {
            facts.here.places = places(settings, env);
        }
        Ok(facts)
    }
}

fn presets_patterns(settings: &Settings) -> Vec<&str> {
    let of_preset =
        settings.patterns.iter().filter(|pattern| matches!(pattern.reason, Reason::Preset { .. }));
    of_preset.map(|pattern| pattern.value.text.as_str()).collect()
}

fn hindrance() -> Option<String> {
    match program::for_this_machine() {
        Ok(_) => None,
        Err(NoAgent::NotBuiltIn) => Some(NoAgent::NotBuiltIn.to_string()),
        Err(NoAgent::OtherPlatform { os, architecture }) => {
            Some(format!("builds without a container need Linux, and this machine is {os}/{architecture}"))
        }
    }
}

/// The place that is named; else the cache directory, and where the system keeps what need not last.
fn places(settings: &Settings, env: &Environment) -> Vec<Place> {
    match &settings.scratch {
        Some(named) => vec![place(&named.value, Some(named.reason.clone()))],
        None => scratch_roots(settings, env).iter().map(|root| place(root, None)).collect(),
    }
}

/// The same as paths: nothing is looked at but whether there is a home.
pub(super) fn scratch_roots(settings: &Settings, env: &Environment) -> Vec<PathBuf> {
    if let Some(named) = &settings.scratch {
        return vec![named.value.clone()];
    }
    let cache = env.filled("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    // A home that is not there is not made for it.
    let home = env.home.as_ref().filter(|home| home.is_dir());
    let cache = cache.or_else(|| Some(home?.join(".cache")));
    // Others have directories there too.
    let own = owner::ids().map_or_else(|| "fastbuild".to_owned(), |(user, _)| format!("fastbuild-{user}"));
    let temporary = env.filled("TMPDIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let temporary = temporary.unwrap_or_else(|| PathBuf::from("/tmp"));
    let mut roots: Vec<_> = cache.map(|cache| cache.join("fastbuild")).into_iter().collect();
    roots.extend([PathBuf::from("/var/tmp").join(&own), temporary.join(&own)]);
    roots
}

/// Nothing is made. A file system that leaves this kernel is asked nothing: it may take its time, and nobody goes there.
fn place(path: &Path, named: Option<Reason>) -> Place {
    if named.is_none()
        && let Some(found) = facts::file_system(path).filter(|found| found.class.crosses())
    {
        let ground = Ground { kind: found.kind, class: found.class };
        return Place { root: path.to_owned(), named, ground: Some(ground), free: None, obstacle: None };
    }
    let (root, obstacle) = match host_path::settle(path) {
        // A link that its owner has set for all users of the machine leads where it leads.
        Ok(Some(root)) if named.is_some() => (root.canonicalize().unwrap_or(root), None),
        Ok(Some(root)) => (root, None),
        Ok(None) => (path.to_owned(), Some("is not a directory for fastbuild alone".to_owned())),
        Err(error) => (path.to_owned(), Some(format!("cannot be looked at: {error}"))),
    };
    let there = root.ancestors().find(|above| above.symlink_metadata().is_ok()).unwrap_or(&root);
    let found = facts::file_system(there);
    let obstacle = obstacle
        .or_else(|| obstacle_of(&root, there, named.as_ref()))
        .or_else(|| mounted_so(found.as_ref()?));
    Place {
        free: facts::space(there).ok().map(|space| space.free),
        ground: found.map(|found| Ground { kind: found.kind, class: found.class }),
        named,
        obstacle,
        root,
    }
}

fn obstacle_of(root: &Path, there: &Path, named: Option<&Reason>) -> Option<String> {
    let looked = match named {
        // What fastbuild makes for itself is its user's and nobody else's.
        None if there == root => owner::is_own(root),
        _ => owner::is_safe(there),
    };
    match looked {
        Ok(Ok(())) => None,
        Ok(Err(why)) if there == root => Some(why.to_string()),
        Ok(Err(why)) => Some(format!("cannot be made: {} {why}", there.to_string_lossy())),
        Err(error) => Some(format!("cannot be looked at: {error}")),
    }
}

/// Neither the agent nor what a build makes could run there.
fn mounted_so(found: &FileSystem) -> Option<String> {
    found
        .options
        .iter()
        .any(|option| option == "noexec")
        .then(|| format!("is mounted with noexec (at {})", found.mount_point.to_string_lossy()))
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
                Presence::Absent { why: format!("nothing answers at {}", path.to_string_lossy()) }
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
