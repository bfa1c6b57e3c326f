//! Settings and facts -> the engine: a container's, or this machine itself. Pure.

use std::path::PathBuf;

use super::{Decision, Engine, Facts, PlanError, Reason, Route, decide_endpoint, facts::Presence};
use crate::config::{EngineChoice, Environment, RouteChoice, Settings};

/// What an engine cannot do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Two settings that exclude each other.
    #[error("{engine} names an engine, and {route} a route, that do not go together; leave one of them out")]
    RouteOfAnother {
        /// Who named the engine.
        engine: Reason,
        /// Who named the route.
        route: Reason,
    },
    /// Something that only a container has.
    #[error(
        "{reason} is for containers, and the host engine has none; leave it out, or build with --engine docker"
    )]
    NoContainer {
        /// Who asked.
        reason: Reason,
    },
    /// No build runs on this machine itself.
    #[error("{reason}: {why}; leave it out, and build in a container: --engine docker")]
    NotHere {
        /// Who asked.
        reason: Reason,
        /// What is in the way.
        why: String,
    },
    /// The scratch directory that somebody named.
    #[error("{reason}: {path:?} {why}; name another directory")]
    Scratch {
        /// Who named it.
        reason: Reason,
        /// The directory.
        path: PathBuf,
        /// What is wrong with it, behind the path.
        why: String,
    },
    /// Nowhere on this machine.
    #[error(
        "there is no place for a scratch directory on this machine: {}; name one with --scratch",
        places(tried)
    )]
    NoScratch {
        /// Each place, and what is wrong with it.
        tried: Vec<(PathBuf, String)>,
    },
}

fn places(tried: &[(PathBuf, String)]) -> String {
    tried.iter().map(|(path, why)| format!("{} {why}", path.to_string_lossy())).collect::<Vec<_>>().join(", ")
}

/// Decides where the build runs.
pub(super) fn decide(
    settings: &Settings,
    env: &Environment,
    facts: &Facts,
) -> Result<Decision<Engine>, PlanError> {
    let docker = || {
        decide_endpoint(settings.host.as_ref(), env)
            .map(|endpoint| Decision { value: Engine::Docker(endpoint.value), reason: endpoint.reason })
    };
    let host = |reason: &Reason| match &facts.here.hindrance {
        None => Ok(Decision { value: Engine::Host, reason: reason.clone() }),
        Some(why) => Err(EngineError::NotHere { reason: reason.clone(), why: why.clone() }.into()),
    };
    let (engine, route) = (&settings.engine, &settings.route);
    match (engine.value, route.value) {
        (EngineChoice::Docker, RouteChoice::Fixed(Route::Host)) => {
            let (engine, route) = (engine.reason.clone(), route.reason.clone());
            Err(EngineError::RouteOfAnother { engine, route }.into())
        }
        (EngineChoice::Docker, _) => docker(),
        (EngineChoice::Host, RouteChoice::Auto | RouteChoice::Fixed(Route::Host)) => host(&engine.reason),
        (EngineChoice::Host, RouteChoice::Fixed(_)) => Err(PlanError::Route(super::RouteError::NotThere {
            reason: route.reason.clone(),
            why: "the host engine has no container".to_owned(),
            can: vec![Route::Host],
        })),
        (EngineChoice::Auto, RouteChoice::Fixed(Route::Host)) => host(&route.reason),
        (EngineChoice::Auto, RouteChoice::Fixed(_)) => docker(),
        (EngineChoice::Auto, RouteChoice::Auto) => {
            let measured =
                facts.measured.choose(|route| route != Route::Host || can_build_here(settings, facts));
            match (without_engine(settings, facts), measured) {
                (Some(why), _) => host(&Reason::Found { why }),
                (None, Some(choice)) if choice.route == Route::Host => {
                    host(&super::measured::decision(choice).reason)
                }
                (None, _) => docker(),
            }
        }
    }
}

/// Whether a build without a container is possible, and nothing was typed that only a container has.
fn can_build_here(settings: &Settings, facts: &Facts) -> bool {
    facts.command.is_some() && facts.here.hindrance.is_none() && refuse_for_host(settings).is_ok()
}

/// Why the build runs here although nobody said so: no engine is there, nobody named one or an image of his own, and the
/// command is at hand.
fn without_engine(settings: &Settings, facts: &Facts) -> Option<String> {
    let (Presence::Absent { why }, Some(command)) = (&facts.engine, &facts.command) else { return None };
    let asks_for_container = |reason: &Reason| matches!(reason, Reason::Flag { .. } | Reason::Env { .. });
    if facts.here.hindrance.is_some()
        || settings.host.as_ref().is_some_and(|host| !is_everybodys(&host.reason))
        || settings.image.as_ref().is_some_and(|image| asks_for_container(&image.reason))
    {
        return None;
    }
    Some(format!("{why}, and {} is on this machine", command.to_string_lossy()))
}

/// Whether it is said to all programs of this machine alike, be an engine there or not.
fn is_everybodys(reason: &Reason) -> bool {
    matches!(reason, Reason::Env { name: "DOCKER_HOST" })
}

/// What only containers have must not be asked of the host engine on the command line; in files it stands for other machines.
pub(super) fn refuse_for_host(settings: &Settings) -> Result<(), PlanError> {
    let typed =
        |reason: Option<&Reason>| reason.filter(|reason| matches!(reason, Reason::Flag { .. })).cloned();
    let asked = [
        settings.image.as_ref().map(|asked| &asked.reason),
        settings.workdir.as_ref().map(|asked| &asked.reason),
        settings.user.as_ref().map(|asked| &asked.reason),
        settings.entrypoint.as_ref().map(|asked| &asked.reason),
        settings.platform.as_ref().map(|asked| &asked.reason),
        settings.network.as_ref().map(|asked| &asked.reason),
        settings.memory.as_ref().map(|asked| &asked.reason),
        settings.nano_cpus.as_ref().map(|asked| &asked.reason),
        settings.isolation.as_ref().map(|asked| &asked.reason),
        settings.host.as_ref().map(|asked| &asked.reason),
        settings.caches.first().map(|asked| &asked.reason),
        settings.volume_options.first().map(|asked| &asked.reason),
    ];
    match asked.into_iter().find_map(typed) {
        Some(reason) => Err(EngineError::NoContainer { reason }.into()),
        None => Ok(()),
    }
}
