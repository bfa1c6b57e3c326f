//! Settings and facts -> the engine: a container engine, or this machine itself. Pure.

use std::path::PathBuf;

use super::{Engine, Facts, PlanError, decide_endpoint, facts::Presence};
use crate::{
    config::{Settings, devcontainer::Devcontainer},
    environment::Environment,
    spec::{Decision, EngineChoice, Reason, Route, RouteChoice},
};

/// A request that an engine cannot fulfil.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Two settings exclude each other.
    #[error("{engine} names an engine, and {route} a route, that do not go together; leave one of them out")]
    RouteOfAnother {
        /// The source that named the engine.
        engine: Reason,
        /// The source that named the route.
        route: Reason,
    },
    /// A setting applies only to containers.
    #[error(
        "{reason} is for containers, and the host engine has none; leave it out, or build with --engine docker"
    )]
    NoContainer {
        /// The source of the request.
        reason: Reason,
    },
    /// Builds without a container cannot run on this machine.
    #[error("{reason}: {why}; leave it out, and build in a container: --engine docker")]
    NotHere {
        /// The source of the request.
        reason: Reason,
        /// The obstacle.
        why: String,
    },
    /// The engine existed when the watch began, and is gone.
    #[error("the engine is gone: {why}; a watch stays where it began")]
    Gone {
        /// The evidence.
        why: String,
    },
    /// The scratch directory that a setting names cannot be used.
    #[error("{reason}: {path:?} {why}; name another directory")]
    Scratch {
        /// The source that named it.
        reason: Reason,
        /// The directory.
        path: PathBuf,
        /// The problem, to follow the path.
        why: String,
    },
    /// This machine has no place for a scratch directory.
    #[error(
        "there is no place for a scratch directory on this machine: {}; name one with --scratch",
        places(tried)
    )]
    NoScratch {
        /// Each place, with its problem.
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
            let named = docker()?;
            match without_engine(settings, &named.reason, facts) {
                Some(why) => host(&Reason::Found { why }),
                None => Ok(named),
            }
        }
    }
}

/// Whether a setting asks to build on this machine.
pub(super) fn asks_for_host(settings: &Settings) -> bool {
    settings.engine.value == EngineChoice::Host || settings.route.value == RouteChoice::Fixed(Route::Host)
}

/// The reason to build here although no setting says so. The engine is absent, no setting names an
/// engine or an image, and the command exists on this machine. A build never moves because an
/// engine is down for a moment: if a setting names one, it is used, or the build fails. A preset's
/// image does not count as named.
fn without_engine(settings: &Settings, engine: &Reason, facts: &Facts) -> Option<String> {
    let (Presence::Absent { why }, Some(command)) = (&facts.engine, &facts.command) else { return None };
    let image_is_named =
        settings.image.as_ref().is_some_and(|image| !matches!(image.reason, Reason::Preset { .. }));
    let is_named = !matches!(engine, Reason::Default { .. })
        || image_is_named
        || settings.devcontainer != Devcontainer::None;
    let can_build_here = facts.here.hindrance.is_none();
    (can_build_here && !is_named)
        .then(|| format!("{why}, and {} is on this machine", command.to_string_lossy()))
}

/// The command line must not ask the host engine for container options. In files they are ignored:
/// they may be for other machines.
pub(super) fn refuse_for_host(settings: &Settings) -> Result<(), PlanError> {
    let typed =
        |reason: Option<&Reason>| reason.filter(|reason| matches!(reason, Reason::Flag { .. })).cloned();
    let asked = [
        settings.image.as_ref().map(|asked| &asked.reason),
        settings.workdir.as_ref().map(|asked| &asked.reason),
        settings.user.as_ref().map(|asked| &asked.reason),
        settings.entrypoint.as_ref().map(|asked| &asked.reason),
        settings.platform.as_ref().map(|asked| &asked.reason),
        settings.host.as_ref().map(|asked| &asked.reason),
        settings.caches.first().map(|asked| &asked.reason),
        settings.tmpfs_size.as_ref().map(|asked| &asked.reason),
        settings.volume_options.first().map(|asked| &asked.reason),
    ];
    let options = settings.container.all().map(|asked| Some(asked.reason));
    match asked.into_iter().chain(options).find_map(typed) {
        Some(reason) => Err(EngineError::NoContainer { reason }.into()),
        None => Ok(()),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::{
        args::{Command, parse},
        plan::{Ground, Place, Plan, facts::Here, make},
        spec::Endpoint,
    };

    /// The machine of most rows: no engine answers, the command exists, and there is a scratch
    /// place.
    fn without_docker() -> Facts {
        let ground =
            |kind: &str| Some(Ground { kind: kind.to_owned(), class: crate::facts::Class::of(kind, "") });
        let place = Place {
            root: "/c".into(),
            named: None,
            ground: ground("ext4"),
            free: Some(64_000_000_000),
            obstacle: None,
        };
        Facts {
            engine: Presence::Absent { why: "there is no /s".to_owned() },
            command: Some("/bin/jekyll".into()),
            here: Here { hindrance: None, source: ground("9p"), places: vec![place] },
            tracked: Vec::new(),
            is_checkout: false,
        }
    }

    /// Most lines run `jekyll`: its preset names an image, so that builds in a container have one.
    fn plan(line: &str, vars: &[(&str, &str)], facts: &Facts) -> Result<Plan, PlanError> {
        let dir = tempfile::tempdir().unwrap();
        let vars = vars.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let env = Environment { cwd: dir.path().to_owned(), vars, ..Environment::default() };
        let words = std::iter::once("fastbuild").chain(line.split_whitespace()).map(Into::into);
        let Command::Run(args) = parse(words).unwrap().command else { panic!("{line}") };
        make(&Settings::gather(&args, &env).unwrap(), &env, facts)
    }

    /// The decision: engine, route and reason, or the error's first line.
    fn decided(line: &str, vars: &[(&str, &str)], facts: &Facts) -> String {
        match plan(line, vars, facts) {
            Ok(plan) => {
                let engine = match plan.engine.value {
                    Engine::Docker(_) => "docker",
                    Engine::Host => "host",
                };
                format!("{engine} {} ({})", plan.route.value, plan.route.reason)
            }
            Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
        }
    }

    #[test]
    fn a_build_runs_here_where_it_is_told_to_or_where_nothing_else_is() {
        let slow = "; the sources lie on 9p, a file system of the machine around this virtual one: each look at a file takes longer there";
        let bare = without_docker();
        let answering = Facts { engine: Presence::Perhaps, ..bare.clone() };
        let elsewhere = Facts { command: None, ..bare.clone() };
        let hindrance = Some("builds without a container need Linux".to_owned());
        let not_linux = Facts { here: Here { hindrance, ..bare.here.clone() }, ..bare.clone() };
        let local = Some(Ground { kind: "xfs".to_owned(), class: crate::facts::Class::Local });
        let fast = Facts { here: Here { source: local, ..bare.here.clone() }, ..bare.clone() };
        let found = format!("host host (there is no /s, and /bin/jekyll is on this machine{slow})");
        let layer = "docker layer (the sources lie on 9p, a file system of the machine around this virtual one, where a \
                     mount leaves this kernel for each file)";
        type Vars<'a> = &'a [(&'a str, &'a str)];
        let cases: [(&str, Vars<'_>, &Facts, &str); 21] = [
            ("-- jekyll", &[], &bare, &found),
            ("-- jekyll", &[("DOCKER_HOST", "unix:///s")], &bare, layer),
            ("-- jekyll", &[("DOCKER_CONTEXT", "default")], &bare, &found),
            ("-- jekyll", &[], &answering, layer),
            ("-- jekyll", &[], &not_linux, layer),
            ("-- jekyll", &[], &elsewhere, layer),
            ("-i x -- jekyll", &[], &bare, layer),
            ("-- jekyll", &[("FASTBUILD_IMAGE", "x")], &bare, layer),
            ("-H unix:///s -- jekyll", &[], &bare, layer),
            ("-- jekyll", &[("FASTBUILD_HOST", "unix:///s")], &bare, layer),
            ("--engine docker -- jekyll", &[], &bare, layer),
            ("--route layer -- jekyll", &[], &bare, "docker layer (--route)"),
            ("--engine host -- jekyll", &[], &answering, &format!("host host (--engine{slow})")),
            ("--route host -- jekyll", &[], &answering, &format!("host host (--route{slow})")),
            (
                "-- jekyll",
                &[("FASTBUILD_ENGINE", "host")],
                &elsewhere,
                &format!("host host (FASTBUILD_ENGINE{slow})"),
            ),
            (
                "--engine host -- jekyll",
                &[],
                &fast,
                "host host (--engine; the sources lie on xfs, a local disk: a scratch directory gains nothing over \
                 building there, but that a failed build leaves it as it was)",
            ),
            (
                "--engine host -- jekyll",
                &[],
                &not_linux,
                "--engine: builds without a container need Linux; leave it out, and build in a container: --engine docker",
            ),
            (
                "--engine docker --route host -- jekyll",
                &[],
                &bare,
                "--engine names an engine, and --route a route, that do not go together; leave one of them out",
            ),
            (
                "--engine host --route tmpfs -- jekyll",
                &[],
                &bare,
                "--route: the host engine has no container; the routes that can be taken here: host",
            ),
            (
                "--engine host -m 1g -- jekyll",
                &[],
                &bare,
                "--memory is for containers, and the host engine has none; leave it out, or build with --engine docker",
            ),
            (
                "--engine docker --scratch /x -- jekyll",
                &[],
                &bare,
                "--scratch is for --route host, and this build takes layer; leave it out, or say --route host",
            ),
        ];
        for (line, vars, facts, expected) in cases {
            assert_eq!(decided(line, vars, facts), expected, "{line} {vars:?}");
        }
    }

    #[test]
    fn a_watch_that_began_in_a_container_does_not_move_here_when_the_engine_goes() {
        let there = Engine::Docker(Endpoint::Unix("/s".into()));
        let gone = || plan("-- jekyll", &[], &without_docker()).unwrap();
        let said = gone().watched_on(&there).unwrap_err().to_string();
        assert!(said.starts_with("the engine is gone: there is no /s"), "{said}");
        assert!(gone().watched_on(&Engine::Host).is_ok());
        assert!(plan("--engine host -- jekyll", &[], &without_docker()).unwrap().watched_on(&there).is_ok());
    }

    #[test]
    fn what_a_variable_says_of_containers_stands_for_other_builds() {
        let vars = [("FASTBUILD_ENGINE", "host"), ("FASTBUILD_MEMORY", "1g"), ("FASTBUILD_USER", "app")];
        let plan = plan("-- jekyll", &vars, &without_docker()).unwrap();
        assert_eq!(
            (plan.engine.value, plan.container.memory, plan.user, plan.image),
            (Engine::Host, None, None, None)
        );
    }
}
