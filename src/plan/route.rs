//! Settings and facts -> the route. Pure: only this module judges the facts for it.

use super::{Engine, Facts, Outputs, PlanError};
use crate::{
    config::Settings,
    facts::Class,
    spec::{Decision, Endpoint, Fallback, Reason, Route, RouteChoice, is_elsewhere},
};

/// The reason why a route cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// This engine does not allow the route.
    #[error("{reason}: {why}; the routes that can be taken here: {}", names(can))]
    NotThere {
        /// The source of the request.
        reason: Reason,
        /// The obstacle.
        why: String,
        /// The routes that can be taken.
        can: Vec<Route>,
    },
    /// The sources are read-only, and there is no output to write to.
    #[error(
        "{reason} mounts the sources read-only and lays the outputs over them; name each directory that the command writes \
         with -o (a pattern names none), or take --route layer or mount"
    )]
    NothingToWrite {
        /// The source of the request.
        reason: Reason,
    },
    /// The setting belongs to another route.
    #[error("{reason} is for --route {of}, and this build takes {taken}; leave it out, or say --route {of}")]
    OtherRoute {
        /// The source of the request.
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

/// Decides the route.
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
        RouteChoice::Auto => by_file_system(facts),
    };
    refuse_what_cannot_be(&route, endpoint, outputs)?;
    refuse_settings_of_others(settings, &route)?;
    Ok(route)
}

/// The route when no setting names one: nothing is mounted, on any file system. On a local disk a
/// mount would cost almost nothing. But a layer costs little there, too, and a failed build leaves
/// this machine's files unchanged.
fn by_file_system(facts: &Facts) -> Decision<Route> {
    let why = match &facts.here.source {
        Some(source) if source.class.crosses() => {
            format!(
                "the sources lie on {}, where a mount leaves this kernel for each file",
                source.in_words()
            )
        }
        Some(source) => format!("nothing is mounted; the sources lie on {}", source.in_words()),
        None => {
            return Decision::default(Route::Layer, "nothing is mounted");
        }
    };
    Decision { value: Route::Layer, reason: Reason::Found { why } }
}

/// The reason for a build on this machine, with its benefit for the user.
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
        (Route::MountSource, Outputs::Named(named)) if named.iter().any(|output| !output.only.is_empty()) => {
            Err(RouteError::NothingToWrite { reason: reason() })
        }
        _ => Ok(()),
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

/// Whether a command that failed because of a mount runs once more.
pub(super) fn fallback(settings: &Settings) -> Decision<Fallback> {
    let value = |on| if on { Fallback::Layer } else { Fallback::None };
    match (&settings.fallback, settings.route.value) {
        (Some(asked), _) => asked.clone().map(value),
        (None, RouteChoice::Auto) => Decision::default(Fallback::Layer, "no route was named"),
        (None, RouteChoice::Fixed(_)) => {
            Decision::default(Fallback::None, "a route was named; --fallback goes on without it")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::{
        args::{Command, parse},
        environment::Environment,
        plan::{
            endpoint,
            engine::decide as decide_engine,
            facts::{Here, Presence},
        },
        spec::is_elsewhere,
    };

    const DEFAULT: &str = "unix:///run/engine.sock";

    /// The route of a command line, with or without outputs, on the engine at an address; else the
    /// error.
    fn decided(line: &str, address: &str, file: &str) -> Result<String, String> {
        let home = tempfile::tempdir().unwrap();
        let cwd = home.path().canonicalize().unwrap();
        std::fs::write(cwd.join("fastbuild.toml"), file).unwrap();
        let env = Environment { cwd, ..Environment::default() };
        let line = format!("fastbuild -i image -H {address} {line} -- make");
        let Command::Run(args) = parse(line.split_whitespace().map(OsString::from)).unwrap().command else {
            panic!("{line}")
        };
        let settings = Settings::gather(&args, &env).unwrap();
        let facts = Facts {
            engine: Presence::Perhaps,
            command: None,
            here: Here::default(),
            tracked: Vec::new(),
            is_checkout: false,
        };
        let engine = decide_engine(&settings, &env, &facts).unwrap();
        let outputs = match settings.outputs {
            Some(_) => Outputs::Named(Vec::new()),
            None => Outputs::Everything,
        };
        match decide(&settings, &engine, &outputs, &facts) {
            Ok(route) => Ok(route.value.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn each_route_is_taken_when_it_is_named_and_can_be() {
        let cases = [
            ("", "layer"),
            ("--route auto", "layer"),
            ("--route layer", "layer"),
            ("--route tmpfs", "tmpfs"),
            ("--route tmpfs --tmpfs-size 1g", "tmpfs"),
            ("--route volume", "volume"),
            ("--route volume --volume-opt type=nfs", "volume"),
            ("--route mount", "mount"),
            ("--route mount-source -o out", "mount-source"),
        ];
        for (line, route) in cases {
            assert_eq!(decided(line, DEFAULT, "").as_deref(), Ok(route), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_who_asked_and_what_can() {
        let far = "tcp://builder:2375";
        let cases = [
            ("--route mount", far, "--route: the engine at tcp://builder:2375 is on another machine"),
            ("--route mount-source -o out", far, "can be taken here: layer, tmpfs, volume"),
            ("--route mount-source", DEFAULT, "--route mounts the sources read-only"),
            ("--tmpfs-size 1g", DEFAULT, "--tmpfs-size is for --route tmpfs, and this build takes layer"),
            (
                "--route volume --tmpfs-size 1g",
                DEFAULT,
                "--tmpfs-size is for --route tmpfs, and this build takes volume",
            ),
            (
                "--volume-opt o=bind",
                DEFAULT,
                "--volume-opt is for --route volume, and this build takes layer",
            ),
            (
                "--route tmpfs --volume-opt o=bind",
                DEFAULT,
                "--volume-opt is for --route volume, and this build takes tmpfs",
            ),
        ];
        for (line, address, expected) in cases {
            let said = decided(line, address, "").unwrap_err();
            assert!(said.contains(expected), "{line}: {said}");
        }
    }

    #[test]
    fn a_file_may_say_what_another_route_would_need() {
        let file = "tmpfs-size = '1g'\nvolume-opt = 'type=nfs'\n";
        for route in ["layer", "tmpfs", "volume", "mount"] {
            assert_eq!(decided(&format!("--route {route}"), DEFAULT, file).as_deref(), Ok(route));
        }
    }

    #[test]
    fn an_engine_is_elsewhere_by_its_address() {
        let cases = [
            ("unix:///run/x.sock", false),
            ("npipe:////./pipe/docker_engine", false),
            ("tcp://localhost:2375", false),
            ("tcp://127.0.0.1:2375", false),
            ("tcp://127.1.2.3", false),
            ("tcp://[::1]:2375", false),
            ("tcp://host.docker.internal:2375", false),
            ("tcp://10.0.0.1:2375", true),
            ("tcp://[fe80::1]:2375", true),
            ("tcp://builder", true),
            ("tcp://localhost.example:2375", true),
        ];
        for (address, expected) in cases {
            assert_eq!(is_elsewhere(&endpoint::parse(address).unwrap()), expected, "{address}");
        }
    }
}
