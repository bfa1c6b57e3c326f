//! Settings -> plan: every decision about one build, each with its reason, made before anything is touched.
//!
//! Pure but for looking at the host's own metadata: no engine is asked and nothing is written. `fastbuild plan` prints
//! it, [`crate::build`] carries it out.

mod caches;
mod container_path;
mod endpoint;
mod engine;
pub mod facts;
mod host_path;
mod kept;
mod make;
mod outputs;
mod route;
mod scratch;
pub mod standing;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize, Serializer};

use crate::tree::{RelPath, ignore::Rules};

pub use caches::{Cache, CacheError, CachePath, Sharing};
pub use endpoint::{BadEndpoint, decide as decide_endpoint};
pub use engine::EngineError;
pub use facts::Facts;
pub(crate) use host_path::join as join_host_path;
pub use make::{OnDocker, PlanError, below, make, prepare};
pub use outputs::OutputError;
pub use route::RouteError;
pub(crate) use route::{is_elsewhere, is_loopback};
pub use scratch::{Ground, Place, Scratch, TREE as SCRATCH_TREE};

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision<T> {
    /// What was decided.
    pub value: T,
    /// Why.
    pub reason: Reason,
}

impl<T> Decision<T> {
    /// Of something that nothing names; `why` tells in a few words why the default is what it is.
    pub fn default(value: T, why: &'static str) -> Decision<T> {
        Decision { value, reason: Reason::Default { why } }
    }

    /// Another value for the same reason.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Decision<U> {
        Decision { value: change(self.value), reason: self.reason }
    }
}

/// Where a decision came from, strongest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Reason {
    /// A flag of the command line, as it is spelled: `--image`.
    Flag {
        /// The flag.
        flag: &'static str,
    },
    /// An environment variable.
    Env {
        /// Its name.
        name: &'static str,
    },
    /// A line of `fastbuild.toml` or of an ignore file.
    File {
        /// The file.
        #[serde(serialize_with = "shown_path")]
        path: PathBuf,
        /// The line, from 1; none when the whole file is meant.
        line: Option<usize>,
    },
    /// The project's `devcontainer.json`.
    Devcontainer {
        /// The file.
        #[serde(serialize_with = "shown_path")]
        path: PathBuf,
    },
    /// The docker client's current context.
    Context {
        /// Its name.
        name: String,
    },
    /// The preset of the command's first word.
    Preset {
        /// The preset's name.
        name: &'static str,
    },
    /// What was found here decided.
    Found {
        /// What that was, and what follows from it.
        why: String,
    },
    /// Nothing named it.
    Default {
        /// Why the default is what it is, in a few words.
        why: &'static str,
    },
}

/// A path that is no text would make the whole plan unprintable.
fn shown_path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

fn shown_decision<S: Serializer>(decision: &Decision<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    decision.clone().map(|path| path.to_string_lossy().into_owned()).serialize(serializer)
}

fn shown_seconds<S: Serializer>(decision: &Decision<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    decision.clone().map(|span| span.as_secs()).serialize(serializer)
}

/// For people: `preset jekyll`, `/p/fastbuild.toml:3`.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Flag { flag } => f.write_str(flag),
            Reason::Env { name } => f.write_str(name),
            Reason::File { path, line: None } => f.write_str(&path.to_string_lossy()),
            Reason::File { path, line: Some(line) } => write!(f, "{}:{line}", path.to_string_lossy()),
            Reason::Devcontainer { path } => f.write_str(&path.to_string_lossy()),
            Reason::Context { name } => write!(f, "docker context {name:?}"),
            Reason::Preset { name } => write!(f, "preset {name}"),
            Reason::Found { why } => f.write_str(why),
            Reason::Default { why } => f.write_str(why),
        }
    }
}

/// Everything that [`crate::build::run`] needs to know.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The command and its arguments, at least one.
    pub command: Vec<String>,
    /// What the project is called wherever it is built; none where nobody says.
    pub name: Option<Decision<String>>,
    /// The engine.
    pub engine: Decision<Engine>,
    /// The image, as a reference; none on an engine without images.
    pub image: Option<Decision<String>>,
    /// When to ask the registry.
    pub pull: Decision<PullPolicy>,
    /// `os/arch[/variant]` asked of the engine.
    pub platform: Option<Decision<String>>,
    /// The source root: absolute, canonical.
    #[serde(serialize_with = "shown_decision")]
    pub source: Decision<PathBuf>,
    /// Where below the source root the command runs.
    pub subdirectory: RelPath,
    /// The container's path of the source root: absolute, `/` between components, no trailing slash. A Windows path stays
    /// as it was written (`C:\src`).
    pub workdir: Decision<String>,
    /// What neither goes in nor comes back.
    pub ignore: IgnorePlan,
    /// What comes back.
    pub outputs: Decision<Outputs>,
    /// What to do with the products of a failed build.
    pub on_failure: Decision<OnFailure>,
    /// How products are put in place.
    pub apply: Decision<ApplyMode>,
    /// How the files travel.
    pub route: Decision<Route>,
    /// What to do when a mount fails the command.
    pub fallback: Decision<Fallback>,
    /// How large a tmpfs may become, in bytes; the engine's own limit where nothing is said.
    pub tmpfs_size: Option<Decision<u64>>,
    /// What the engine's local volume driver is told of a workspace's volume: `type=nfs`, `o=addr=…`.
    pub volume_options: Vec<Decision<VolumeOption>>,
    /// Directories that are kept across workspaces.
    pub caches: Vec<Decision<Cache>>,
    /// Where the host engine builds; none in a container.
    pub scratch: Option<Decision<Scratch>>,
    /// Whether a workspace is kept.
    pub lifetime: Decision<Lifetime>,
    /// Whether the agent runs the command.
    pub agent: Decision<AgentUse>,
    /// What becomes of the workspace, where one is kept.
    pub workspace: WorkspacePlan,
    /// What the safe place keeps.
    pub recover: RecoverPlan,
    /// What to do when another run holds the project's lock.
    pub lock: Decision<OnLocked>,
    /// Whether to tell why each file travels.
    pub explain: Decision<Explain>,
    /// `USER[:GROUP]` in place of the image's.
    pub user: Option<Decision<String>>,
    /// In place of the image's entry point; empty means none.
    pub entrypoint: Option<Decision<String>>,
    /// The environment that crosses: names with values, in order, later ones win.
    pub env: Vec<Decision<EnvVar>>,
    /// Terminal or separate streams.
    pub terminal: Decision<Terminal>,
    /// What the command reads.
    pub stdin: Decision<Stdin>,
    /// The engine's network mode.
    pub network: Option<Decision<String>>,
    /// Memory limit in bytes.
    pub memory: Option<Decision<u64>>,
    /// Processor limit in billionths of a processor.
    pub nano_cpus: Option<Decision<i64>>,
    /// Handed to Windows engines.
    pub isolation: Option<Decision<Isolation>>,
}

/// `NAME=VALUE`. The value is left out of [`Serialize`] and `Debug`: a plan is printed, and values may be secrets.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct EnvVar {
    /// The name.
    pub name: String,
    /// The value.
    #[serde(skip)]
    pub value: String,
}

impl fmt::Debug for EnvVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

/// Where a build runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// A container of a Docker-compatible engine.
    Docker(Endpoint),
    /// A scratch directory of this machine; no container.
    Host,
}

/// As the address alone; the host engine as `{"scheme": "host"}`.
impl Serialize for Engine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Host {
            scheme: &'static str,
        }
        match self {
            Engine::Docker(endpoint) => endpoint.serialize(serializer),
            Engine::Host => Host { scheme: "host" }.serialize(serializer),
        }
    }
}

/// The address, or `host`.
impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Engine::Docker(endpoint) => endpoint.fmt(f),
            Engine::Host => f.write_str("host"),
        }
    }
}

/// The address of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "scheme", content = "address", rename_all = "kebab-case")]
pub enum Endpoint {
    /// A Unix socket.
    Unix(#[serde(serialize_with = "shown_path")] PathBuf),
    /// `HOST:PORT`, not encrypted.
    Tcp(String),
    /// A Windows named pipe.
    NamedPipe(String),
}

/// What neither goes in nor comes back, in the order in which the rules are read (later ones win).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct IgnorePlan {
    /// What is kept and what is excluded: one mechanism, in one order.
    pub patterns: Vec<Decision<Pattern>>,
    /// Paths below the source root that do not go in: outputs, caches, and what fastbuild keeps for itself.
    pub outputs: Vec<RelPath>,
}

impl IgnorePlan {
    /// The patterns, as they are read.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.patterns.iter().map(|pattern| pattern.value.text.as_str())
    }
}

/// One line about paths that stay where they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pattern {
    /// As BuildKit reads a line of `.dockerignore`, `!` for an exception.
    pub text: String,
    /// What its paths are to whoever named them. It makes no difference to a build.
    pub kind: PatternKind,
}

/// What paths that stay where they are are to whoever named them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PatternKind {
    /// The build's own, for the next one.
    Kept,
    /// No part of the build.
    Excluded,
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outputs {
    /// Whatever the command creates, changes or deletes under the working directory.
    Everything,
    /// These.
    Named(Vec<Output>),
}

/// One path that comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Output {
    /// As it was asked for: `PATH[:HOST]`.
    pub spec: String,
    /// The container's path: absolute, `/` between components, no trailing slash.
    pub container: String,
    /// The path itself, or what lies in it.
    pub take: Take,
    /// The absolute host path that `container` becomes.
    #[serde(serialize_with = "shown_path")]
    pub host: PathBuf,
    /// Where `container` lies below the source root, when it does.
    pub below_source: Option<RelPath>,
    /// Of the source root, the patterns of what comes back, in the syntax of ignore rules; all does where there are none. They are said to
    /// be one output, so that a path is in one place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
}

impl Output {
    /// Whether a path of the source tree is part of it.
    pub fn holds(&self, path: &RelPath) -> bool {
        let below = self.below_source.as_ref().is_some_and(|below| path.strip_prefix(below).is_some());
        below && (self.only.is_empty() || Rules::new(&self.only).is_ok_and(|only| only.ignores(path)))
    }
}

/// `PATH`, `PATH/` or `PATH/.`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Take {
    /// File, directory or link, whatever it is.
    Itself,
    /// It must be a directory (or a link to one), and that directory is meant.
    Directory,
    /// It must be a directory (or a link to one), and its entries are meant.
    Contents,
}

/// `--pull`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// Pull when the engine does not have the image.
    Missing,
    /// Pull first.
    Always,
    /// Fail when the engine does not have it.
    Never,
}

/// `--no-agent`, for whoever wants to see what happens where no agent can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentUse {
    /// Wherever it can.
    Wanted,
    /// Never: by the plain Engine API.
    Refused,
}

/// `--outputs-on-failure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The host stays as it was.
    Leave,
    /// Products come back all the same.
    Collect,
}

/// `--atomic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApplyMode {
    /// File by file, each by a rename.
    PerFile,
    /// Each output directory is exchanged as one.
    Atomic,
}

/// How the files travel, and where the command works on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// Into the container's own layer.
    Layer,
    /// Into a tmpfs of the container's.
    Tmpfs,
    /// Into a volume that the engine manages.
    Volume,
    /// The sources are mounted read-only, the outputs lie in the engine's own storage.
    MountSource,
    /// Everything is mounted.
    Mount,
    /// Into a scratch directory of this machine.
    Host,
}

impl Route {
    /// All of them, the one that is the default first.
    pub const ALL: [Route; 6] =
        [Route::Layer, Route::Tmpfs, Route::Volume, Route::MountSource, Route::Mount, Route::Host];

    /// As it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Route::Layer => "layer",
            Route::Tmpfs => "tmpfs",
            Route::Volume => "volume",
            Route::MountSource => "mount-source",
            Route::Mount => "mount",
            Route::Host => "host",
        }
    }

    /// Whether the command works on the host's own files, so that nothing goes in.
    pub fn is_mounted(self) -> bool {
        matches!(self, Route::MountSource | Route::Mount)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// `--fallback`: what to do when it was the mount that failed the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fallback {
    /// The failure is told, and that is all.
    None,
    /// The command runs once more, on [`Route::Layer`].
    Layer,
}

/// `--volume-opt KEY=VALUE`. The value is left out of [`Serialize`] and `Debug`: a password for a share may stand in it.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct VolumeOption {
    /// `type`, `device`, `o`.
    pub key: String,
    /// What the driver makes of it.
    #[serde(skip)]
    pub value: String,
}

impl fmt::Debug for VolumeOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.key)
    }
}

/// Whether a workspace is kept between builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifetime {
    /// In a workspace that stays for the next build.
    Kept,
    /// In a container that goes with the run.
    OneRun,
}

/// What becomes of the project's workspace.
#[derive(Debug, Clone, Serialize)]
pub struct WorkspacePlan {
    /// Whether the one that is there is used.
    pub if_there: Decision<IfThere>,
    /// After how long without a build it stops by itself; zero is never.
    #[serde(serialize_with = "shown_seconds")]
    pub idle_stop: Decision<Duration>,
    /// How long a build goes on over a network when its client is not heard of any more; zero is for ever.
    #[serde(serialize_with = "shown_seconds")]
    pub grace: Decision<Duration>,
    /// Workspaces that were not used for so long are removed by themselves; zero is never.
    #[serde(serialize_with = "shown_seconds")]
    pub max_age: Decision<Duration>,
    /// While all workspaces of an engine hold more bytes than this, the one that was not used for the longest time is
    /// removed; zero is no limit.
    pub max_size: Decision<u64>,
}

/// How much is kept of what was moved to the safe place, and for how long.
#[derive(Debug, Clone, Serialize)]
pub struct RecoverPlan {
    /// What was moved before that goes; zero is never.
    #[serde(serialize_with = "shown_seconds")]
    pub max_age: Decision<Duration>,
    /// While all that the state directory has is more bytes than this, the oldest goes; zero is no limit.
    pub max_size: Decision<u64>,
}

/// `--fresh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IfThere {
    /// The workspace is removed and made anew, with all that builds left in it.
    Fresh,
    /// The workspace is used again.
    Reuse,
}

/// `--no-wait`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnLocked {
    /// Wait until the other run has ended.
    Wait,
    /// Fail at once.
    Fail,
}

/// `--explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Explain {
    /// Only how many files travel is told.
    No,
    /// Each file that travels is named, with the reason.
    Yes,
}

/// `-t`, `--no-tty`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Terminal {
    /// The command gets a pseudo-terminal.
    Allocate,
    /// Standard output and standard error stay apart.
    None,
}

/// `--stdin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stdin {
    /// The command reads end of file at once.
    Empty,
    /// The command reads what fastbuild reads.
    Forward,
}

/// `--isolation`, for Windows engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// Shares the host's kernel.
    Process,
    /// A small virtual machine of its own.
    Hyperv,
}
