//! Settings -> [`Plan`].

use std::path::{Path, PathBuf};

use super::{
    CacheError, Engine, EngineError, Facts, IgnorePlan, Output, OutputError, Outputs, Plan, RouteError,
    Scratch, caches,
    container_path::ContainerPath,
    endpoint::BadEndpoint,
    engine, facts, kept,
    outputs::{self, Places},
    route, scratch,
};
use crate::{
    config::{Settings, docker::DockerConfig},
    entry::{RelPath, host_path},
    environment::{Environment, Terminals},
    spec::{ApplyMode, ContainerOptions, Decision, Endpoint, EnvVar, Reason, Route, Stdin, Terminal},
    state::project_key,
};

const DEFAULT_WORKDIR: &str = "/workspace";

/// The reason why there is no [`Plan`].
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The working directory cannot hold the sources.
    #[error("working directory {given:?} ({reason}): {problem}")]
    Workdir {
        /// The text as it was given.
        given: String,
        /// The source of the setting.
        reason: Reason,
        /// The problem.
        problem: &'static str,
    },
    /// The current directory's name is not UTF-8, and the engine must start the command there.
    #[error(
        "the command would start in {subdirectory:?}, which is not UTF-8, and the engine takes no other name"
    )]
    SubdirectoryNotUtf8 {
        /// The path below the source root.
        subdirectory: PathBuf,
    },
    /// See [`BadEndpoint`].
    #[error("{reason}: {address}: {problem}")]
    Endpoint {
        /// The source that named the address.
        reason: Reason,
        /// The text as it was given.
        address: String,
        /// The problem.
        problem: BadEndpoint,
    },
    /// The docker context is unknown to docker too, or names no engine.
    #[error("{reason}: there is no such context, or it names no engine; `docker context ls` lists them")]
    NoContext {
        /// The docker context.
        reason: Reason,
    },
    /// `--atomic` exchanges output directories, and no output is named.
    #[error("{reason} needs outputs to exchange, and none is named; name them with -o, or say --no-atomic")]
    NothingToExchange {
        /// The source of the request.
        reason: Reason,
    },
    /// `--atomic` would exchange the sources' directory, with the files that did not go in.
    #[error(
        "{reason} would exchange {host:?} as one, and the sources lie in it; name outputs below it, or say \
         --no-atomic"
    )]
    ExchangesSources {
        /// The source of the request.
        reason: Reason,
        /// The directory.
        host: PathBuf,
    },
    /// Standard input can be read only once, and a watched command runs many times.
    #[error("{reason}: a watched command runs again and again, and reads nothing; leave it out")]
    WatchedStdin {
        /// The source of the request.
        reason: Reason,
    },
    /// See [`OutputError`].
    #[error(transparent)]
    Output(#[from] OutputError),
    /// See [`EngineError`].
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// See [`RouteError`].
    #[error(transparent)]
    Route(#[from] RouteError),
    /// See [`CacheError`].
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// No source names an image, and the engine needs one.
    #[error(
        "no image to run {command:?} in{note}. Name one in one of three ways:\n  \
         fastbuild -i IMAGE -- {command} …\n  \
         FASTBUILD_IMAGE=IMAGE in the environment\n  \
         image = \"IMAGE\" in fastbuild.toml{}",
        or_here(here)
    )]
    NoImage {
        /// The command's first word.
        command: String,
        /// The project's devcontainer, after a colon.
        note: String,
        /// The command's path on this machine.
        here: Option<PathBuf>,
    },
}

fn or_here(here: &Option<PathBuf>) -> String {
    let proposal = |path: &PathBuf| {
        format!(
            "\n{} is on this machine: --engine host runs it here, without a container",
            path.to_string_lossy()
        )
    };
    here.as_ref().map(proposal).unwrap_or_default()
}

/// Looks up the facts and makes all decisions about one run.
///
/// # Errors
/// As [`make`].
pub fn prepare(settings: &Settings, env: &Environment) -> Result<Plan, PlanError> {
    make(settings, env, &Facts::gather(settings, env)?)
}

/// Makes all decisions about one run.
///
/// # Errors
/// See [`PlanError`]. In any case, nothing is changed.
pub fn make(settings: &Settings, env: &Environment, facts: &Facts) -> Result<Plan, PlanError> {
    let engine = engine::decide(settings, env, facts)?;
    let proxies = match &engine.value {
        Engine::Docker(endpoint) => DockerConfig::of(env).proxies(&endpoint.to_string()),
        Engine::Host => Vec::new(),
    };
    let image = image(settings, &engine.value, facts)?;
    let subdirectory = subdirectory(settings)?;
    let scratch = match engine.value {
        Engine::Host => Some(scratch(settings, facts)?),
        Engine::Docker(_) => None,
    };
    let (workdir, workdir_path) = workdir(settings, scratch.as_ref())?;
    let command_directory = workdir_path.descend(&subdirectory);
    let places = Places {
        workdir: &workdir_path,
        command: &command_directory,
        source: &settings.source.value,
        started_in: &settings.started_in,
    };
    let outputs = outputs(settings, &places)?;
    refuse_wrong_exchange(settings, &subdirectory, &outputs.value)?;
    let route = route::decide(settings, &engine, &outputs.value, facts)?;
    let caches = caches::resolve_all(&settings.caches, &workdir_path, &command_directory)?;
    // Container options in files and variables are for other builds; typed ones were refused above.
    let in_container = engine.value != Engine::Host;
    let terminal = terminal(settings, env.terminals);
    let mut left_out = taken_places(&outputs.value, &settings.source.value);
    left_out.extend(caches.iter().filter_map(|cache| cache.value.below_source.clone()));
    left_out.extend(own_places(settings, env));
    let patterns = match route.value.is_mounted() {
        true => kept::with_tracked(&settings.patterns, &facts.tracked),
        false => kept::settle(&settings.patterns, &facts.tracked, &outputs, &settings.source.value)?,
    };
    let git = (facts.is_checkout && !route.value.is_mounted()).then(git);
    Ok(Plan {
        engine,
        ignore: IgnorePlan { patterns, outputs: left_out },
        outputs,
        stdin: stdin(settings, terminal.value, env.terminals),
        terminal,
        workdir,
        subdirectory,
        command: settings.command.clone(),
        name: settings.name.clone(),
        image,
        pull: settings.pull.clone(),
        platform: settings.platform.clone().filter(|_| in_container),
        source: settings.source.clone(),
        on_failure: settings.on_failure.clone(),
        apply: settings.apply.clone(),
        route,
        fallback: route::fallback(settings),
        tmpfs_size: settings.tmpfs_size.clone().filter(|_| in_container),
        volume_options: if in_container { settings.volume_options.clone() } else { Vec::new() },
        caches: if in_container { caches } else { Vec::new() },
        scratch,
        lifetime: settings.lifetime.clone(),
        agent: settings.agent.clone(),
        workspace: settings.workspace.clone(),
        recover: settings.recover.clone(),
        lock: settings.lock.clone(),
        explain: settings.explain.clone(),
        user: settings.user.clone().filter(|_| in_container),
        entrypoint: settings.entrypoint.clone().filter(|_| in_container),
        env: git.into_iter().flatten().chain(proxies).chain(settings.env.iter().cloned()).collect(),
        container: if in_container { settings.container.clone() } else { ContainerOptions::default() },
    })
}

/// Git settings for a build in a checkout. Git's index holds the host's file metadata, and a copy
/// shares only size and mtime, so git compares only these. With `GIT_OPTIONAL_LOCKS=0`, commands
/// that only read do not write the index.
fn git() -> impl Iterator<Item = Decision<EnvVar>> {
    let variables = [
        ("GIT_OPTIONAL_LOCKS", "0"),
        ("GIT_CONFIG_COUNT", "2"),
        ("GIT_CONFIG_KEY_0", "core.checkStat"),
        ("GIT_CONFIG_VALUE_0", "minimal"),
        ("GIT_CONFIG_KEY_1", "core.trustctime"),
        ("GIT_CONFIG_VALUE_1", "false"),
    ];
    let variable = |(name, value): (&str, &str)| EnvVar { name: name.to_owned(), value: value.to_owned() };
    let why = "the source tree is a git checkout";
    let decision =
        move |variable| Decision { value: variable, reason: Reason::Found { why: why.to_owned() } };
    variables.map(variable).into_iter().map(decision)
}

/// The image, if the engine uses images.
fn image(settings: &Settings, engine: &Engine, facts: &Facts) -> Result<Option<Decision<String>>, PlanError> {
    if *engine == Engine::Host {
        engine::refuse_for_host(settings)?;
        return Ok(None);
    }
    match &settings.image {
        Some(image) => Ok(Some(image.clone())),
        None => Err(PlanError::NoImage {
            command: settings.command.first().cloned().unwrap_or_default(),
            note: settings.devcontainer.why_no_image(),
            here: facts.command.clone(),
        }),
    }
}

/// Where fastbuild was started below the source root; the root itself when started elsewhere.
fn subdirectory(settings: &Settings) -> Result<RelPath, PlanError> {
    let Ok(below) = settings.started_in.strip_prefix(&settings.source.value) else {
        return Ok(RelPath::root());
    };
    let path = host_path::to_rel_path(below).filter(|path| str::from_utf8(path.as_bytes()).is_ok());
    path.ok_or_else(|| PlanError::SubdirectoryNotUtf8 { subdirectory: below.to_owned() })
}

fn scratch(settings: &Settings, facts: &Facts) -> Result<Decision<Scratch>, PlanError> {
    let source = &settings.source.value;
    scratch::choose(&facts.here.places, source, &project_key(source), settings.lifetime.value)
}

fn workdir(
    settings: &Settings,
    scratch: Option<&Decision<Scratch>>,
) -> Result<(Decision<String>, ContainerPath), PlanError> {
    let asked = match (scratch, &settings.workdir) {
        (Some(scratch), _) => Decision::default(scratch.value.tree(), "in the scratch directory"),
        (None, Some(asked)) => asked.clone(),
        (None, None) => Decision::default(DEFAULT_WORKDIR.to_owned(), "where nothing names another"),
    };
    let refuse =
        |problem| PlanError::Workdir { given: asked.value.clone(), reason: asked.reason.clone(), problem };
    let path = ContainerPath::absolute(&asked.value)
        .ok_or_else(|| refuse("it must be absolute, such as /workspace"))?
        .map_err(|_| refuse("it leads above the root"))?;
    if path.is_root() {
        return Err(refuse("it must not be the root, where the image's own files are; take one below it"));
    }
    // A Windows path stays as it was written: its engine may show it to the build.
    let value = if asked.value.starts_with('/') {
        path.to_string()
    } else {
        asked.value.trim_end_matches(['/', '\\']).to_owned()
    };
    Ok((Decision { value, reason: asked.reason }, path))
}

fn outputs(settings: &Settings, places: &Places<'_>) -> Result<Decision<Outputs>, PlanError> {
    let Some(asked) = &settings.outputs else {
        return Ok(Decision::default(
            Outputs::Everything,
            "no output is named, so all that the command changes comes back",
        ));
    };
    let value = Outputs::Named(outputs::resolve(&asked.value, places)?);
    Ok(Decision { value, reason: asked.reason.clone() })
}

fn refuse_wrong_exchange(
    settings: &Settings,
    subdirectory: &RelPath,
    outputs: &Outputs,
) -> Result<(), PlanError> {
    if settings.apply.value != ApplyMode::Atomic {
        return Ok(());
    }
    let reason = settings.apply.reason.clone();
    let Outputs::Named(named) = outputs else { return Err(PlanError::NothingToExchange { reason }) };
    let root = &settings.source.value;
    let here = host_path::join(root, subdirectory).unwrap_or_else(|| root.clone());
    match named.iter().find(|output| here.starts_with(&output.host)) {
        Some(output) => Err(PlanError::ExchangesSources { reason, host: output.host.clone() }),
        None => Ok(()),
    }
}

/// Places below the source root that receive outputs from other places. Their content came back
/// from a build, so it is not a source.
fn taken_places(outputs: &Outputs, source: &Path) -> Vec<RelPath> {
    let Outputs::Named(named) = outputs else { return Vec::new() };
    let place = |output: &Output| {
        let below = host_path::to_rel_path(output.host.strip_prefix(source).ok()?)?;
        (!below.is_root() && output.below_source.as_ref() != Some(&below)).then_some(below)
    };
    named.iter().filter_map(place).collect()
}

/// fastbuild's own directories below the source root: state and scratch. They are never sources,
/// and no build may delete them.
fn own_places(settings: &Settings, env: &Environment) -> Vec<RelPath> {
    let root = &settings.source.value;
    let below = |place: PathBuf| {
        let place = place.canonicalize().ok().or_else(|| host_path::settle(&place).ok().flatten())?;
        host_path::to_rel_path(place.strip_prefix(root).ok()?).filter(|below| !below.is_root())
    };
    let places = env.state_dir().into_iter().chain(facts::scratch_roots(settings, env));
    places.filter_map(below).collect()
}

fn terminal(settings: &Settings, terminals: Terminals) -> Decision<Terminal> {
    let value = |tty| if tty { Terminal::Allocate } else { Terminal::None };
    match &settings.tty {
        Some(asked) => asked.clone().map(value),
        None if terminals.is_ours() => {
            Decision::default(Terminal::Allocate, "standard input, output and error are terminals")
        }
        None if terminals.background => Decision::default(Terminal::None, "another job has the terminal"),
        None => {
            Decision::default(Terminal::None, "not all of standard input, output and error are terminals")
        }
    }
}

/// A command without a terminal has no input unless a setting asks for it. Otherwise a tool that
/// reads ahead would consume the lines of a `while read` loop around it.
fn stdin(settings: &Settings, terminal: Terminal, terminals: Terminals) -> Decision<Stdin> {
    match &settings.stdin {
        Some(asked) => asked.clone().map(|on| if on { Stdin::Forward } else { Stdin::Empty }),
        None if terminal == Terminal::Allocate && terminals.stdin => {
            Decision::default(Stdin::Forward, "the command has a terminal")
        }
        None => Decision::default(Stdin::Empty, "without a terminal, only --stdin hands it over"),
    }
}

/// The additional data for a build on a container engine.
#[derive(Debug, Clone, Copy)]
pub struct OnDocker<'a> {
    /// The engine's address.
    pub endpoint: &'a Endpoint,
    /// The image's reference.
    pub image: &'a str,
}

impl Plan {
    /// The container engine and the image; `None` on the host engine, which has neither.
    pub fn on_docker(&self) -> Option<OnDocker<'_>> {
        match (&self.engine.value, &self.image) {
            (Engine::Docker(endpoint), Some(image)) => Some(OnDocker { endpoint, image: &image.value }),
            _ => None,
        }
    }

    /// The plan of one build of a watch. It reads no input, so Ctrl-C is not sent to it as a key.
    ///
    /// # Errors
    /// [`PlanError::WatchedStdin`] when the command line asks for input.
    pub fn watched(self) -> Result<Plan, PlanError> {
        match self.stdin {
            Decision { value: Stdin::Forward, reason: reason @ Reason::Flag { .. } } => {
                Err(PlanError::WatchedStdin { reason })
            }
            _ => Ok(Plan {
                stdin: Decision::default(Stdin::Empty, "a watched command runs again and again"),
                ..self
            }),
        }
    }

    /// The plan of a later build of a watch. The watch began on the engine `first`.
    ///
    /// # Errors
    /// When it would run on this machine only because that engine is gone.
    pub fn watched_on(self, first: &Engine) -> Result<Plan, PlanError> {
        match (first, &self.engine) {
            (Engine::Docker(_), Decision { value: Engine::Host, reason: Reason::Found { why } }) => {
                Err(EngineError::Gone { why: why.clone() }.into())
            }
            _ => self.watched(),
        }
    }

    /// The same build without a mount, after it failed because of the mount.
    pub fn on_layer(&self) -> Plan {
        let reason = Reason::Found { why: format!("{} failed the command", self.route.value) };
        Plan { route: Decision { value: Route::Layer, reason }, ..self.clone() }
    }

    /// The command's directory in the container: workdir and subdirectory.
    pub fn command_directory(&self) -> String {
        if self.subdirectory.is_root() {
            return self.workdir.value.clone();
        }
        let separator = if self.workdir.value.contains('\\') { '\\' } else { '/' };
        let below: Vec<_> = self.subdirectory.components().map(String::from_utf8_lossy).collect();
        format!("{}{separator}{}", self.workdir.value, below.join(&separator.to_string()))
    }
}
