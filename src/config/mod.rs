//! Command line, environment, `fastbuild.toml`, devcontainer and presets -> [`Settings`]. Each
//! setting has the value of the strongest source that sets it, together with that source.
//! [`crate::plan`] turns settings into the decisions for one run.
//!
//! The order, strongest first: flags, `FASTBUILD_*`, `fastbuild.toml`, the devcontainer's image,
//! the preset, defaults. Lists that only add up (excludes, environment) are joined, weakest first.
//! Outputs are not joined: a source that names outputs replaces the whole list. Only this module
//! reads the environment, through an [`Environment`] value.

mod container;
pub mod devcontainer;
mod dirs;
pub mod docker;
pub mod env_file;
pub mod file;
pub mod ignore_file;
pub mod preset;
mod source;

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use fs_err as fs;

pub use dirs::NoStateDirectory;

use crate::{
    args::{IgnoreRule, RunArgs},
    entry::host_path::below,
    environment::Environment,
    report::Verbosity,
    spec::{
        AgentUse, ApplyMode, ContainerOptions, Decision, EngineChoice, EnvVar, Explain, IfThere, Lifetime,
        OnFailure, OnLocked, Pattern, PatternKind, Progress, PullPolicy, Reason, RecoverPlan, RouteChoice,
        VolumeOption, WorkspacePlan, choices,
        units::{self, BadValue},
    },
    tree::ignore,
};
use devcontainer::{Devcontainer, DevcontainerError};
use file::{FileError, Keys};
use preset::Preset;

/// The merged settings. All sources are compared, but no value is derived from them yet.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The command and its arguments, at least one.
    pub command: Vec<String>,
    /// The directory where fastbuild was started: canonical.
    pub started_in: PathBuf,
    /// The source root: canonical.
    pub source: Decision<PathBuf>,
    /// The project's name; `None` when the file sets none.
    pub name: Option<Decision<String>>,
    /// The image; `None` when no source names one.
    pub image: Option<Decision<String>>,
    /// The project's devcontainer, when no stronger source names an image.
    pub devcontainer: Devcontainer,
    /// The working directory as it was given; `None` means the default.
    pub workdir: Option<Decision<String>>,
    /// The paths that come back; `None` means everything that the command changes.
    pub outputs: Option<Decision<Vec<OutputRequest>>>,
    /// The patterns of kept and excluded paths. Later ones win.
    pub patterns: Vec<Decision<Pattern>>,
    /// The environment variables that are passed to the command. Later ones win.
    pub env: Vec<Decision<EnvVar>>,
    /// See [`OnFailure`].
    pub on_failure: Decision<OnFailure>,
    /// See [`ApplyMode`].
    pub apply: Decision<ApplyMode>,
    /// `--tty` or `--no-tty`; `None` means that the streams decide.
    pub tty: Option<Decision<bool>>,
    /// `--stdin` or `--no-stdin`; `None` means that the terminal decides.
    pub stdin: Option<Decision<bool>>,
    /// See [`PullPolicy`].
    pub pull: Decision<PullPolicy>,
    /// The engine's address as it was given; `None` means the default.
    pub host: Option<Decision<String>>,
    /// The kind of engine.
    pub engine: Decision<EngineChoice>,
    /// The route.
    pub route: Decision<RouteChoice>,
    /// Whether a command that failed because of a mount runs again without it; `None` means that
    /// the route decides.
    pub fallback: Option<Decision<bool>>,
    /// Size limit of the tmpfs in bytes.
    pub tmpfs_size: Option<Decision<u64>>,
    /// Options for the engine's local volume driver.
    pub volume_options: Vec<Decision<VolumeOption>>,
    /// The caches that were asked for, not parsed yet.
    pub caches: Vec<Decision<CacheRequest>>,
    /// The host engine's scratch directory. It may be canonical or not.
    pub scratch: Option<Decision<PathBuf>>,
    /// The platform, `os/arch`.
    pub platform: Option<Decision<String>>,
    /// The user, `USER[:GROUP]`.
    pub user: Option<Decision<String>>,
    /// The entry point that replaces the image's; empty means no entry point.
    pub entrypoint: Option<Decision<String>>,
    /// See [`ContainerOptions`].
    pub container: ContainerOptions,
    /// See [`Lifetime`].
    pub lifetime: Decision<Lifetime>,
    /// See [`AgentUse`].
    pub agent: Decision<AgentUse>,
    /// See [`WorkspacePlan`].
    pub workspace: WorkspacePlan,
    /// See [`RecoverPlan`].
    pub recover: RecoverPlan,
    /// See [`OnLocked`].
    pub lock: Decision<OnLocked>,
    /// See [`Explain`].
    pub explain: Decision<Explain>,
    /// How the run is reported.
    pub presentation: Presentation,
}

/// See [`WorkspacePlan::grace`].
pub const GRACE: Duration = Duration::from_secs(60);
/// How long a workspace goes on running without a build.
const IDLE_STOP: Duration = Duration::from_secs(60 * 60);
/// How long a workspace is kept without a build, and a path in the safe place.
const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How many bytes all workspaces of an engine may use.
const MAX_SIZE: u64 = 20 << 30;
/// How many bytes the safe place may use.
const MAX_MOVED: u64 = 1 << 30;

/// How a run is reported. Not part of the plan, because it does not change the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presentation {
    /// The renderer.
    pub progress: Decision<Progress>,
    /// The amount of detail.
    pub verbosity: Verbosity,
    /// Whether debug logs are written.
    pub log: Log,
}

/// `-vv`: details for a developer of fastbuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// No debug logs.
    Off,
    /// Debug logs.
    Debug,
}

/// A requested `PATH[:HOST]`, not parsed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRequest {
    /// The text as it was written.
    pub spec: OsString,
    /// The base of its relative paths.
    pub anchor: Anchor,
}

/// A requested `NAME:PATH`, not parsed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRequest {
    /// The text as it was written.
    pub spec: String,
    /// The base of a relative path.
    pub anchor: Anchor,
}

/// The base of an output's relative paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anchor {
    /// PATH starts at the command's directory, HOST at the directory where fastbuild was started.
    Command,
    /// PATH starts at the source root in the container, HOST at this directory of `fastbuild.toml`.
    File(PathBuf),
}

/// The reason why there are no [`Settings`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The value of a flag or a variable is invalid.
    #[error("{origin}: {problem}")]
    Value {
        /// The flag or the variable.
        origin: String,
        /// The problem with the value.
        problem: BadValue,
    },
    /// `fastbuild.toml` is wrong.
    #[error(transparent)]
    File(#[from] FileError),
    /// `devcontainer.json` is wrong, and this build needs it.
    #[error(transparent)]
    Devcontainer(#[from] DevcontainerError),
    /// Text that cannot be passed to an engine.
    #[error("{what} is not UTF-8, and the engine takes no other text")]
    NotUtf8 {
        /// Which text.
        what: String,
    },
    /// A required file or directory cannot be read; the error names its path.
    #[error("could not read {what}")]
    Unreadable {
        /// Its kind.
        what: &'static str,
        /// The system's error, with the path.
        #[source]
        error: io::Error,
    },
    /// `-C` with a path that does not exist.
    #[error("the source root {path:?} does not exist; name a directory with -C")]
    NoSource {
        /// The path.
        path: PathBuf,
    },
    /// `-C FILE`.
    #[error("the source root {path:?} is not a directory; name one with -C")]
    SourceIsNoDirectory {
        /// The path.
        path: PathBuf,
    },
    /// The source root is `/` or the home directory.
    #[error(
        "the source root is {what}, {path:?}, and all of it would be sent; start in a project's directory, name one \
         with -C, or say --yes if this is meant"
    )]
    TooMuch {
        /// The root.
        path: PathBuf,
        /// The root in words.
        what: &'static str,
    },
    /// A line of an `--env-file`.
    #[error("{}:{line}: {problem}", .path.to_string_lossy())]
    EnvFile {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The problem.
        problem: env_file::BadLine,
    },
    /// `--fresh --no-keep`.
    #[error(
        "{fresh} starts the workspace over, and {one_run} says that none is kept, so that every build is fresh; leave \
         one of them out"
    )]
    FreshWithoutWorkspace {
        /// The source that asks to start over.
        fresh: Reason,
        /// The source that asks for no kept workspace.
        one_run: Reason,
    },
    /// `--volume-opt WORD`. The message omits the word: it may be a password without its key.
    #[error("{origin}: what is given is not a volume option; write KEY=VALUE, such as type=nfs")]
    VolumeOption {
        /// Where it was given.
        origin: String,
    },
    /// `-e =VALUE`.
    #[error("{origin}: there is no name in {word:?}; write NAME or NAME=VALUE")]
    EnvName {
        /// Where it was given.
        origin: String,
        /// The word.
        word: String,
    },
}

/// The settings that commands on workspaces need.
#[derive(Debug, Clone)]
pub struct WorkspaceSettings {
    /// The engine's address as it was given; `None` means the default.
    pub host: Option<Decision<String>>,
    /// The source root: canonical.
    pub source: Decision<PathBuf>,
    /// The directory where fastbuild was started: canonical.
    pub started_in: PathBuf,
    /// The limits.
    pub limits: WorkspacePlan,
}

impl WorkspaceSettings {
    /// Merges the sources of these few settings. `host` and `source` are the flags.
    ///
    /// # Errors
    /// As [`Settings::gather`].
    pub fn gather(
        host: &Option<String>,
        source: &Option<PathBuf>,
        env: &Environment,
    ) -> Result<WorkspaceSettings, ConfigError> {
        // Nothing is sent, so every root is allowed.
        let mut args = RunArgs::default();
        (args.host, args.source, args.yes) = (host.clone(), source.clone(), true);
        let place = source::find(&args, env)?;
        let keys = place.file.map(|file| file.keys).unwrap_or_default();
        Ok(WorkspaceSettings {
            limits: workspace_limits(env, &keys)?,
            host: self::host(&args, env, keys.host)?,
            source: place.root,
            started_in: place.started_in,
        })
    }
}

fn host(
    args: &RunArgs,
    env: &Environment,
    key: Option<Decision<String>>,
) -> Result<Option<Decision<String>>, ConfigError> {
    Ok(text("--host", &args.host)?
        .or(env.setting("FASTBUILD_HOST", units::text)?)
        .or(key)
        .or(env.setting("DOCKER_HOST", units::text)?))
}

impl Settings {
    /// Merges all sources.
    ///
    /// # Errors
    /// The first invalid value, in any source, even where a stronger source overrides it. Only the
    /// devcontainer and a missing image are checked later, when they are needed.
    pub fn gather(args: &RunArgs, env: &Environment) -> Result<Settings, ConfigError> {
        let command = command_words(&args.command)?;
        let place = source::find(args, env)?;
        let directory = place.file.as_ref().and_then(|file| file.path.parent()).map(Path::to_owned);
        let keys = place.file.map(|file| file.keys).unwrap_or_default();
        let preset = Preset::of(&command);
        let source = place.root;
        let lifetime = lifetime(args, env, &keys)?;
        let engine = flag("--engine", args.engine)
            .or(env.setting("FASTBUILD_ENGINE", choices::choose)?)
            .or(keys.engine.clone())
            .unwrap_or(Decision::default(EngineChoice::Auto, "a container engine where one is"));
        let (image, devcontainer) = match engine.value {
            EngineChoice::Host => (text("--image", &args.image)?, Devcontainer::None),
            EngineChoice::Auto | EngineChoice::Docker => image(args, env, &keys, &source.value, preset)?,
        };
        let container = container::options(&args.container, env, &keys)?;
        Ok(Settings {
            name: keys.name.clone(),
            image,
            devcontainer,
            engine,
            route: flag("--route", args.route)
                .or(env.setting("FASTBUILD_ROUTE", choices::choose)?)
                .or(keys.route.clone())
                .unwrap_or(Decision::default(RouteChoice::Auto, "none was named")),
            fallback: on_off(
                [("--fallback", args.fallback), ("--no-fallback", args.no_fallback)],
                &keys.fallback,
            ),
            tmpfs_size: flag("--tmpfs-size", args.tmpfs_size).or(keys.tmpfs_size.clone()),
            volume_options: volume_options(args, &keys)?,
            caches: caches(args, &keys, directory.as_deref()),
            scratch: scratch(args, env, &keys, &place.started_in, directory.as_deref())?,
            workspace: workspace(args, env, &keys, &lifetime)?,
            recover: recover(env, &keys)?,
            lifetime,
            agent: flag("--no-agent", args.no_agent.then_some(AgentUse::Refused))
                .unwrap_or(Decision::default(AgentUse::Wanted, "it runs wherever it can")),
            lock: flag("--no-wait", args.no_wait.then_some(OnLocked::Fail))
                .unwrap_or(Decision::default(OnLocked::Wait, "--no-wait fails instead")),
            explain: flag("--explain", args.explain.then_some(Explain::Yes))
                .unwrap_or(Decision::default(Explain::No, "--explain tells why files travel")),
            workdir: text("--workdir", &args.workdir)?
                .or(env.setting("FASTBUILD_WORKDIR", units::text)?)
                .or(keys.workdir.clone()),
            outputs: outputs(args, &keys, directory.as_deref(), preset, &command)?,
            patterns: patterns(
                args,
                &keys,
                &place.started_in,
                directory.as_deref(),
                &source.value,
                preset,
                &command,
            )?,
            env: environment(args, env, &keys, &place.started_in, directory.as_deref())?,
            on_failure: on_off(
                [
                    ("--outputs-on-failure", args.outputs_on_failure),
                    ("--no-outputs-on-failure", args.no_outputs_on_failure),
                ],
                &keys.outputs_on_failure,
            )
            .unwrap_or(Decision::default(false, "a failed build leaves this machine as it was"))
            .map(|on| if on { OnFailure::Collect } else { OnFailure::Leave }),
            apply: on_off([("--atomic", args.atomic), ("--no-atomic", args.no_atomic)], &keys.atomic)
                .unwrap_or(Decision::default(false, "each file by a rename"))
                .map(|on| if on { ApplyMode::Atomic } else { ApplyMode::PerFile }),
            tty: on_off([("--tty", args.tty), ("--no-tty", args.no_tty)], &keys.tty),
            stdin: on_off([("--stdin", args.stdin), ("--no-stdin", args.no_stdin)], &keys.stdin),
            pull: flag("--pull", args.pull)
                .or(env.setting("FASTBUILD_PULL", choices::choose)?)
                .or(keys.pull)
                .unwrap_or(Decision::default(
                    PullPolicy::Missing,
                    "asked only for what the engine does not have",
                )),
            host: host(args, env, keys.host)?,
            platform: text("--platform", &args.platform)?
                .or(env.setting("FASTBUILD_PLATFORM", units::text)?)
                .or(keys.platform)
                .or(env.setting("DOCKER_DEFAULT_PLATFORM", units::text)?),
            user: text("--user", &args.user)?.or(env.setting("FASTBUILD_USER", units::text)?).or(keys.user),
            entrypoint: flag("--entrypoint", args.entrypoint.clone()).or(keys.entrypoint),
            container,
            presentation: Presentation {
                progress: flag("--progress", args.progress)
                    .or(env.setting("FASTBUILD_PROGRESS", choices::choose)?)
                    .or(keys.progress)
                    .unwrap_or(Decision::default(Progress::Auto, "bars on a terminal, lines elsewhere")),
                verbosity: verbosity(args),
                log: log(args),
            },
            started_in: place.started_in,
            source,
            command,
        })
    }
}

fn command_words(words: &[OsString]) -> Result<Vec<String>, ConfigError> {
    let word = |word: &OsString| {
        word.to_str()
            .map(str::to_owned)
            .ok_or_else(|| ConfigError::NotUtf8 { what: format!("the command's word {word:?}") })
    };
    words.iter().map(word).collect()
}

fn image(
    args: &RunArgs,
    env: &Environment,
    keys: &Keys,
    source: &Path,
    preset: Option<&'static Preset>,
) -> Result<(Option<Decision<String>>, Devcontainer), ConfigError> {
    let named = text("--image", &args.image)?
        .or(env.setting("FASTBUILD_IMAGE", units::text)?)
        .or_else(|| keys.image.clone());
    if let Some(named) = named {
        return Ok((Some(named), Devcontainer::None));
    }
    let devcontainer = devcontainer::look(source)?;
    let image = match (&devcontainer, preset) {
        (Devcontainer::Image { image, path }, _) => {
            Some(Decision { value: image.clone(), reason: Reason::Devcontainer { path: path.clone() } })
        }
        (_, preset) => preset.map(|preset| by_preset(preset.image.to_owned(), preset)),
    };
    Ok((image, devcontainer))
}

/// The file's options, then the command line's. Of two with the same key, the later one counts.
fn volume_options(args: &RunArgs, keys: &Keys) -> Result<Vec<Decision<VolumeOption>>, ConfigError> {
    let of_file = keys.volume_opt.iter().flat_map(|words| words.value.iter().cloned());
    let of_flags = args.volume_opt.iter().filter_map(|word| flag("--volume-opt", Some(word.clone())));
    let option = |Decision { value: word, reason }: Decision<String>| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            Ok(Decision { value: VolumeOption { key: key.to_owned(), value: value.to_owned() }, reason })
        }
        _ => Err(ConfigError::VolumeOption { origin: reason.to_string() }),
    };
    of_file.chain(of_flags).map(option).collect()
}

/// The caches of the file and of the command line.
fn caches(args: &RunArgs, keys: &Keys, file_directory: Option<&Path>) -> Vec<Decision<CacheRequest>> {
    let anchor = || file_directory.map_or(Anchor::Command, |directory| Anchor::File(directory.to_owned()));
    let of_file = keys.cache.iter().flat_map(|words| words.value.iter().cloned());
    let of_file = of_file.map(|word| word.map(|spec| CacheRequest { spec, anchor: anchor() }));
    let of_flags = args.cache.iter().filter_map(|word| {
        flag("--cache", Some(CacheRequest { spec: word.clone(), anchor: Anchor::Command }))
    });
    of_file.chain(of_flags).collect()
}

/// A relative path starts at the current directory, or at the directory of the file.
fn scratch(
    args: &RunArgs,
    env: &Environment,
    keys: &Keys,
    started_in: &Path,
    file_directory: Option<&Path>,
) -> Result<Option<Decision<PathBuf>>, ConfigError> {
    let typed = flag("--scratch", args.scratch.as_ref().map(|path| started_in.join(path)));
    let of_env = env.setting("FASTBUILD_SCRATCH", units::text)?;
    let of_env = of_env.map(|path| path.map(|path| started_in.join(path)));
    let of_file = || {
        let directory = file_directory.unwrap_or(started_in);
        keys.scratch.clone().map(|path| path.map(|path| directory.join(path)))
    };
    Ok(typed.or(of_env).or_else(of_file))
}

fn outputs(
    args: &RunArgs,
    keys: &Keys,
    file_directory: Option<&Path>,
    preset: Option<&'static Preset>,
    command: &[String],
) -> Result<Option<Decision<Vec<OutputRequest>>>, ConfigError> {
    let request = |spec: &OsString| OutputRequest { spec: spec.clone(), anchor: Anchor::Command };
    if !args.output.is_empty() {
        return Ok(flag("--output", Some(args.output.iter().map(request).collect())));
    }
    if let (Some(listed), Some(directory)) = (&keys.outputs, file_directory) {
        let requests = listed.value.iter().map(|output| OutputRequest {
            spec: output.value.clone().into(),
            anchor: Anchor::File(directory.to_owned()),
        });
        return Ok(Some(Decision { value: requests.collect(), reason: listed.reason.clone() }));
    }
    let known = preset.and_then(|preset| Some((preset, preset.output(command)?)));
    Ok(known.map(|(preset, place)| by_preset(vec![request(&place.into())], preset)))
}

/// Preset, ignore file, `fastbuild.toml`, command line: the stronger source comes later and wins.
fn patterns(
    args: &RunArgs,
    keys: &Keys,
    started_in: &Path,
    file_directory: Option<&Path>,
    source: &Path,
    preset: Option<&'static Preset>,
    command: &[String],
) -> Result<Vec<Decision<Pattern>>, ConfigError> {
    let (kept, excluded) = (
        |text| Pattern { text, kind: PatternKind::Kept },
        |text| Pattern { text, kind: PatternKind::Excluded },
    );
    let building = preset.filter(|preset| preset.output(command).is_some());
    let of_preset = building.into_iter().flat_map(|preset| {
        let of_root = |text: String| match text.starts_with("**/") {
            true => text,
            false => ignore::from_below(&text, &below(source, started_in)),
        };
        preset.kept(command).map(move |text| by_preset(kept(of_root(text)), preset))
    });
    let mut patterns: Vec<_> = of_preset.collect();
    let no_ignore = on_off([("--no-ignore", args.no_ignore), ("--ignore", args.ignore)], &keys.no_ignore)
        .is_some_and(|no_ignore| no_ignore.value);
    if !no_ignore {
        patterns.extend(ignore_file::read(source)?);
    }
    let of_file = |list: &'_ Option<Decision<Vec<Decision<String>>>>| -> Vec<_> {
        list.iter().flat_map(|list| list.value.iter().cloned()).collect()
    };
    let root = file_directory.map(|directory| below(directory, source)).unwrap_or_default();
    let kept_below = of_file(&keys.keep).into_iter().filter_map(|Decision { value, reason }| {
        Some(Decision { value: kept(ignore::within(&value, &root)?), reason })
    });
    patterns.extend(kept_below);
    patterns.extend(of_file(&keys.exclude).into_iter().map(|exclude| exclude.map(excluded)));
    let exception = |pattern: String| excluded(format!("!{pattern}"));
    patterns.extend(of_file(&keys.include).into_iter().map(|include| include.map(exception)));
    for rule in &args.rules.0 {
        let (flag, value, pattern) = match rule {
            IgnoreRule::Keep(pattern) => {
                ("--keep-path", kept(ignore::from_below(pattern, &below(source, started_in))), pattern)
            }
            IgnoreRule::Exclude(pattern) => ("--exclude", excluded(pattern.clone()), pattern),
            IgnoreRule::Include(pattern) => ("--include", exception(pattern.clone()), pattern),
        };
        units::text(pattern).map_err(|problem| ConfigError::Value { origin: flag.to_owned(), problem })?;
        patterns.push(Decision { value, reason: Reason::Flag { flag } });
    }
    Ok(patterns)
}

/// Weakest first: the file's env files and variables, then those of the command line.
fn environment(
    args: &RunArgs,
    env: &Environment,
    keys: &Keys,
    started_in: &Path,
    file_directory: Option<&Path>,
) -> Result<Vec<Decision<EnvVar>>, ConfigError> {
    let mut words = Vec::new();
    for file in keys.env_file.iter().flat_map(|files| &files.value) {
        words.extend(env_file_words(&file_directory.unwrap_or(started_in).join(&file.value))?);
    }
    words.extend(keys.env.iter().flat_map(|env| env.value.iter().cloned()));
    for file in &args.env_file {
        words.extend(env_file_words(&started_in.join(file))?);
    }
    words.extend(args.env.iter().filter_map(|word| flag("--env", Some(word.clone()))));
    let crossing = words.into_iter().map(|word| cross(word, env));
    crossing.filter_map(Result::transpose).collect()
}

fn env_file_words(path: &Path) -> Result<Vec<Decision<String>>, ConfigError> {
    let bytes =
        fs::read(path).map_err(|error| ConfigError::Unreadable { what: "the environment file", error })?;
    let words = env_file::parse(&bytes).map_err(|(line, problem)| ConfigError::EnvFile {
        path: path.to_owned(),
        line,
        problem,
    })?;
    let decision = |(line, value)| {
        let reason = Reason::File { path: path.to_owned(), line: Some(line) };
        Decision { value, reason }
    };
    Ok(words.into_iter().map(decision).collect())
}

/// `NAME=VALUE` as it is, `NAME` with this machine's value; `None` when that is unset.
fn cross(word: Decision<String>, env: &Environment) -> Result<Option<Decision<EnvVar>>, ConfigError> {
    let Decision { value: word, reason } = word;
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (word.as_str(), host_value(&word, env)?),
    };
    if name.is_empty() {
        return Err(ConfigError::EnvName { origin: reason.to_string(), word });
    }
    Ok(value.map(|value| Decision { value: EnvVar { name: name.to_owned(), value }, reason }))
}

fn host_value(name: &str, env: &Environment) -> Result<Option<String>, ConfigError> {
    let not_text = || ConfigError::NotUtf8 { what: format!("the value of the environment variable {name}") };
    env.var(name).map(|value| value.to_str().map(str::to_owned).ok_or_else(not_text)).transpose()
}

fn lifetime(args: &RunArgs, env: &Environment, keys: &Keys) -> Result<Decision<Lifetime>, ConfigError> {
    let value = |keep| if keep { Lifetime::Kept } else { Lifetime::OneRun };
    let asked = on_off([("--keep", args.keep), ("--no-keep", args.no_keep)], &None);
    let asked = asked
        .or(env.setting("FASTBUILD_KEEP", units::switch)?)
        .or_else(|| keys.workspace.as_ref()?.value.keep.clone());
    Ok(match asked {
        Some(asked) => asked.map(value),
        // A CI system has its own caches between jobs, and a temporary machine keeps nothing.
        None if env.is_ci() => {
            Decision::default(Lifetime::OneRun, "CI is set; --keep keeps a workspace there too")
        }
        None => Decision::default(Lifetime::Kept, "the next build sends only what differs"),
    })
}

fn workspace(
    args: &RunArgs,
    env: &Environment,
    keys: &Keys,
    lifetime: &Decision<Lifetime>,
) -> Result<WorkspacePlan, ConfigError> {
    let limits = workspace_limits(env, keys)?;
    let if_there = flag("--fresh", args.fresh.then_some(IfThere::Fresh)).unwrap_or(limits.if_there);
    let asked_for_one_run =
        lifetime.value == Lifetime::OneRun && !matches!(lifetime.reason, Reason::Default { .. });
    if if_there.value == IfThere::Fresh && asked_for_one_run {
        let (fresh, one_run) = (if_there.reason, lifetime.reason.clone());
        return Err(ConfigError::FreshWithoutWorkspace { fresh, one_run });
    }
    let grace = flag("--grace", args.grace).unwrap_or(limits.grace);
    Ok(WorkspacePlan { if_there, grace, ..limits })
}

/// The settings of workspaces that a build's command line cannot change.
fn workspace_limits(env: &Environment, keys: &Keys) -> Result<WorkspacePlan, ConfigError> {
    let table = keys.workspace.as_ref().map(|table| table.value.clone()).unwrap_or_default();
    Ok(WorkspacePlan {
        if_there: Decision::default(IfThere::Reuse, "what it holds is checked"),
        idle_stop: env
            .setting("FASTBUILD_WORKSPACE_IDLE_STOP", units::duration)?
            .or(table.idle_stop)
            .unwrap_or(Decision::default(IDLE_STOP, "it starts again by itself")),
        grace: env
            .setting("FASTBUILD_GRACE", units::duration)?
            .or_else(|| keys.grace.clone())
            .unwrap_or(Decision::default(GRACE, "what a network may take to come back")),
        max_age: env
            .setting("FASTBUILD_WORKSPACE_MAX_AGE", units::duration)?
            .or(table.max_age)
            .unwrap_or(Decision::default(MAX_AGE, "looked at once a day")),
        max_size: env
            .setting("FASTBUILD_WORKSPACE_MAX_SIZE", units::memory)?
            .or(table.max_size)
            .unwrap_or(Decision::default(MAX_SIZE, "looked at once a day")),
    })
}

fn recover(env: &Environment, keys: &Keys) -> Result<RecoverPlan, ConfigError> {
    let table = keys.recover.as_ref().map(|table| table.value.clone()).unwrap_or_default();
    Ok(RecoverPlan {
        max_age: env
            .setting("FASTBUILD_RECOVER_MAX_AGE", units::duration)?
            .or(table.max_age)
            .unwrap_or(Decision::default(MAX_AGE, "looked at once a day")),
        max_size: env
            .setting("FASTBUILD_RECOVER_MAX_SIZE", units::memory)?
            .or(table.max_size)
            .unwrap_or(Decision::default(MAX_MOVED, "looked at once a day")),
    })
}

fn verbosity(args: &RunArgs) -> Verbosity {
    match (args.quiet, args.verbose) {
        (true, _) => Verbosity::Quiet,
        (false, 0) => Verbosity::Normal,
        (false, _) => Verbosity::Verbose,
    }
}

fn log(args: &RunArgs) -> Log {
    if args.verbose > 1 { Log::Debug } else { Log::Off }
}

fn flag<T>(flag: &'static str, value: Option<T>) -> Option<Decision<T>> {
    value.map(|value| Decision { value, reason: Reason::Flag { flag } })
}

/// A flag whose value must not be empty.
fn text(name: &'static str, value: &Option<String>) -> Result<Option<Decision<String>>, ConfigError> {
    let checked = value.as_deref().map(units::text).transpose();
    let checked = checked.map_err(|problem| ConfigError::Value { origin: name.to_owned(), problem })?;
    Ok(flag(name, checked))
}

/// A flag, its opposite, and the key for both.
fn on_off(typed: [(&'static str, bool); 2], key: &Option<Decision<bool>>) -> Option<Decision<bool>> {
    let [(on, is_on), (off, is_off)] = typed;
    flag(on, is_on.then_some(true)).or(flag(off, is_off.then_some(false))).or_else(|| key.clone())
}

fn by_preset<T>(value: T, preset: &Preset) -> Decision<T> {
    Decision { value, reason: Reason::Preset { name: preset.name } }
}

impl Environment {
    /// A setting from a variable.
    ///
    /// # Errors
    /// When the variable is not UTF-8 or `read` refuses it.
    pub fn setting<T>(
        &self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, BadValue>,
    ) -> Result<Option<Decision<T>>, ConfigError> {
        let Some(value) = self.filled(name) else { return Ok(None) };
        let text = value.to_str().ok_or_else(|| ConfigError::NotUtf8 { what: name.to_owned() })?;
        let value = read(text).map_err(|problem| ConfigError::Value { origin: name.to_owned(), problem })?;
        Ok(Some(Decision { value, reason: Reason::Env { name } }))
    }
}

#[cfg(test)]
mod tests;
