//! Settings and facts -> the route. Pure: what was found is judged here and nowhere else.

use super::{Decision, Endpoint, Engine, Facts, Fallback, Outputs, PlanError, Reason, Route};
use crate::{
    config::{RouteChoice, Settings},
    facts::Class,
};

/// Why a route cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Not with this engine.
    #[error("{reason}: {why}; the routes that can be taken here: {}", names(can))]
    NotThere {
        /// Who asked.
        reason: Reason,
        /// What is in the way.
        why: String,
        /// Those that can.
        can: Vec<Route>,
    },
    /// A read-only source with nowhere to write to.
    #[error(
        "{reason} mounts the sources read-only and lays the outputs over them, and no output is named; name the \
         directories that the command writes with -o, or take --route layer or mount"
    )]
    NothingToWrite {
        /// Who asked.
        reason: Reason,
    },
    /// A setting of another route.
    #[error("{reason} is for --route {of}, and this build takes {taken}; leave it out, or say --route {of}")]
    OtherRoute {
        /// Who asked.
        reason: Reason,
        /// The route that it is for.
        of: Route,
        /// The route that is taken.
        taken: Route,
    },
}

fn names(routes: &[Route]) -> String {
    routes.iter().map(|route| route.name()).collect::<Vec<_>>().join(", ")
}

/// Decides how the files travel.
pub(super) fn decide(
    settings: &Settings,
    engine: &Decision<Engine>,
    outputs: &Outputs,
    facts: &Facts,
) -> Result<Decision<Route>, PlanError> {
    let Engine::Docker(endpoint) = &engine.value else {
        let reason = here(&engine.reason, facts);
        return Ok(Decision { value: Route::Host, reason });
    };
    let route = match settings.route.value {
        RouteChoice::Fixed(value) => Decision { value, reason: settings.route.reason.clone() },
        RouteChoice::Auto => {
            Decision { value: Route::Layer, reason: Reason::Default { why: "nothing is mounted" } }
        }
    };
    refuse_what_cannot_be(&route, endpoint, outputs)?;
    refuse_settings_of_others(settings, &route)?;
    Ok(route)
}

/// Whoever builds here is told what he gains by it.
fn here(reason: &Reason, facts: &Facts) -> Reason {
    let Some(source) = &facts.here.source else { return reason.clone() };
    let gain = match source.class {
        Class::Local | Class::Memory => {
            "a scratch directory gains nothing over building there, but that a failed build leaves it as it was"
        }
        class if class.crosses() => "each look at a file takes longer there",
        _ => return reason.clone(),
    };
    Reason::Found { why: format!("{reason}; the sources lie on {}: {gain}", source.in_words()) }
}

fn refuse_what_cannot_be(
    route: &Decision<Route>,
    endpoint: &Endpoint,
    outputs: &Outputs,
) -> Result<(), RouteError> {
    let reason = || route.reason.clone();
    if route.value.is_mounted() && is_elsewhere(endpoint) {
        return Err(RouteError::NotThere {
            reason: reason(),
            why: format!(
                "the engine at {endpoint} is on another machine, which does not see this one's files"
            ),
            can: vec![Route::Layer, Route::Tmpfs, Route::Volume],
        });
    }
    match (route.value, outputs) {
        (Route::MountSource, Outputs::Everything) => Err(RouteError::NothingToWrite { reason: reason() }),
        _ => Ok(()),
    }
}

/// Whether an engine is on another machine, by its address alone.
pub(crate) fn is_elsewhere(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Unix(_) | Endpoint::NamedPipe(_) => false,
        Endpoint::Tcp(address) => {
            let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let is_loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
            !(is_loopback || host == "localhost" || host == "host.docker.internal")
        }
    }
}

fn refuse_settings_of_others(settings: &Settings, route: &Decision<Route>) -> Result<(), RouteError> {
    let taken = route.value;
    let typed = |reason: &Reason| matches!(reason, Reason::Flag { .. });
    let size = settings.tmpfs_size.as_ref().map(|size| (&size.reason, Route::Tmpfs));
    let options = settings.volume_options.first().map(|option| (&option.reason, Route::Volume));
    let scratch = settings.scratch.as_ref().map(|scratch| (&scratch.reason, Route::Host));
    let strange =
        [size, options, scratch].into_iter().flatten().find(|(reason, of)| typed(reason) && *of != taken);
    match strange {
        Some((reason, of)) => Err(RouteError::OtherRoute { reason: reason.clone(), of, taken }),
        None => Ok(()),
    }
}

/// Whether a command that a mount failed runs once more.
pub(super) fn fallback(settings: &Settings) -> Decision<Fallback> {
    let value = |on| if on { Fallback::Layer } else { Fallback::None };
    match (&settings.fallback, settings.route.value) {
        (Some(asked), _) => Decision { value: value(asked.value), reason: asked.reason.clone() },
        (None, RouteChoice::Auto) => {
            Decision { value: Fallback::Layer, reason: Reason::Default { why: "nobody named a route" } }
        }
        (None, RouteChoice::Fixed(_)) => Decision {
            value: Fallback::None,
            reason: Reason::Default { why: "a route was named; --fallback goes on without it" },
        },
    }
}
