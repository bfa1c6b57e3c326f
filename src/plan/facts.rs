//! The facts about this machine that decisions need beyond the settings. They are looked up here,
//! so that all later code is a function of values. No lookup may take long; nothing is sent to an
//! engine.

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

/// The facts that were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whether the engine's address has a listener.
    pub engine: Presence,
    /// The path of the command's first word on this machine; `None` when it is not in `PATH`.
    pub command: Option<PathBuf>,
    /// This machine's properties for the build.
    pub here: Here,
    /// Files below the source root that git tracks at places that a preset would keep. Looked up
    /// only when a preset keeps any.
    pub tracked: Vec<RelPath>,
    /// Whether the source root is a git checkout.
    pub is_checkout: bool,
}

/// This machine's properties for a build, with or without a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Here {
    /// The reason why builds without a container are not possible here.
    pub hindrance: Option<String>,
    /// The file system of the source root; `None` when the system does not tell.
    pub source: Option<Ground>,
    /// The possible places of scratch directories, in order. Looked up only when a build needs one.
    pub places: Vec<Place>,
}

/// Whether an engine is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Perhaps: this is not known without a request to the engine.
    Perhaps,
    /// Certainly not.
    Absent {
        /// The evidence.
        why: String,
    },
}

impl Facts {
    /// Looks up all facts.
    ///
    /// # Errors
    /// [`PlanError::Endpoint`] when the engine's address is invalid.
    pub fn gather(settings: &Settings, env: &Environment) -> Result<Facts, PlanError> {
        let endpoint = match decide_endpoint(settings.host.as_ref(), env) {
            Ok(endpoint) => Some(endpoint.value),
            // No engine is needed.
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

/// The named place; else the cache directory and the system's directories for temporary files.
fn places(settings: &Settings, env: &Environment) -> Vec<Place> {
    match &settings.scratch {
        Some(named) => vec![place(&named.value, Some(named.reason.clone()))],
        None => scratch_roots(settings, env).iter().map(|root| place(root, None)).collect(),
    }
}

/// The same places as paths. The only check is whether the home directory exists.
pub(super) fn scratch_roots(settings: &Settings, env: &Environment) -> Vec<PathBuf> {
    if let Some(named) = &settings.scratch {
        return vec![named.value.clone()];
    }
    let cache = env.filled("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    // A missing home directory is not created for this purpose.
    let home = env.home.as_ref().filter(|home| home.is_dir());
    let cache = cache.or_else(|| Some(home?.join(".cache")));
    // These directories are shared with other users.
    let own = owner::ids().map_or_else(|| "fastbuild".to_owned(), |(user, _)| format!("fastbuild-{user}"));
    let temporary = env.filled("TMPDIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let temporary = temporary.unwrap_or_else(|| PathBuf::from("/tmp"));
    let mut roots: Vec<_> = cache.map(|cache| cache.join("fastbuild")).into_iter().collect();
    roots.extend([PathBuf::from("/var/tmp").join(&own), temporary.join(&own)]);
    roots
}

/// Creates nothing. A file system that leaves this kernel is not asked: it may be slow, and no
/// scratch directory is put there.
fn place(path: &Path, named: Option<Reason>) -> Place {
    if named.is_none()
        && let Some(found) = facts::file_system(path).filter(|found| found.class.crosses())
    {
        let ground = Ground { kind: found.kind, class: found.class };
        return Place { root: path.to_owned(), named, ground: Some(ground), free: None, obstacle: None };
    }
    let (root, obstacle) = match host_path::settle(path) {
        // In a named place, a link that its owner has set for all users is followed.
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
        // fastbuild's own directory must be owned by this user and not writable by others.
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

/// With `noexec`, neither the agent nor a build's products can run.
fn mounted_so(found: &FileSystem) -> Option<String> {
    found
        .options
        .iter()
        .any(|option| option == "noexec")
        .then(|| format!("is mounted with noexec (at {})", found.mount_point.to_string_lossy()))
}

/// A socket without a listener refuses at once. Other engines are only known by a request.
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

/// Searches as a shell on this machine would.
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
