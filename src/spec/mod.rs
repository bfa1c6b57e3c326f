//! The vocabulary of a build: where it runs, how its files travel, what comes back, and the reason
//! of each decision. Plain data and its text. The plan ([`crate::plan`]) consists of these types,
//! and modules below the plan use them.

pub mod choices;
mod container;
pub mod units;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize, Serializer};

pub use container::{Asked, Change, ContainerOptions};

/// How long an agent on this machine waits for a sign of life before it ends the build.
pub const SILENCE: Duration = Duration::from_secs(15);

/// The name of the project's file.
pub const PROJECT_FILE: &str = "fastbuild.toml";

/// A value and its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision<T> {
    /// The value.
    pub value: T,
    /// The reason.
    pub reason: Reason,
}

impl<T> Decision<T> {
    /// A setting that no source names; `why` is a short reason for the default.
    pub fn default(value: T, why: &'static str) -> Decision<T> {
        Decision { value, reason: Reason::Default { why } }
    }

    /// Another value for the same reason.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Decision<U> {
        Decision { value: change(self.value), reason: self.reason }
    }
}

/// The source of a decision, strongest first.
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
        /// The line, from 1; `None` when the whole file is meant.
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
    /// Something that was found on this machine decided.
    Found {
        /// The fact, and its consequence.
        why: String,
    },
    /// No source named it.
    Default {
        /// A short reason for the default.
        why: &'static str,
    },
}

/// Shown as UTF-8 text, because a path that is not UTF-8 would make the whole plan unprintable.
pub(crate) fn shown_path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// For users: `preset jekyll`, `/p/fastbuild.toml:3`.
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

/// `NAME=VALUE`. [`Serialize`] and `Debug` omit the value: a plan is printed, and values may be
/// secrets.
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

/// One pattern for paths that are kept or excluded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pattern {
    /// In BuildKit's syntax for a line of `.dockerignore`; `!` marks an exception.
    pub text: String,
    /// The purpose of the paths. It does not change a build.
    pub kind: PatternKind,
}

/// The purpose of paths that do not travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PatternKind {
    /// The build's own files, for the next build.
    Kept,
    /// Not part of the build.
    Excluded,
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

/// `--no-agent`, to see how a build runs without an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentUse {
    /// The agent is used wherever it can run.
    Wanted,
    /// Never: the build uses the plain Engine API.
    Refused,
}

/// `--outputs-on-failure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The host stays as it was.
    Leave,
    /// The products come back as well.
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
    /// Into the writable layer of the container.
    Layer,
    /// Into a tmpfs of the container.
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
    /// All routes, the default first.
    pub const ALL: [Route; 6] =
        [Route::Layer, Route::Tmpfs, Route::Volume, Route::MountSource, Route::Mount, Route::Host];

    /// The name as it is typed.
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

    /// Whether the command works on the host's own files. Then nothing is sent.
    pub fn is_mounted(self) -> bool {
        matches!(self, Route::MountSource | Route::Mount)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// `--fallback`: the reaction when a mount made the command fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fallback {
    /// Only the failure is reported.
    None,
    /// The command runs once more, on [`Route::Layer`].
    Layer,
}

/// `--volume-opt KEY=VALUE`. [`Serialize`] and `Debug` omit the value: it may hold the password of
/// a share.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct VolumeOption {
    /// `type`, `device`, `o`.
    pub key: String,
    /// The value, which the driver interprets.
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
    /// In a container that is removed after the run.
    OneRun,
}

/// How the project's workspace is reused, stopped and removed.
#[derive(Debug, Clone, Serialize)]
pub struct WorkspacePlan {
    /// Whether an existing workspace is used.
    pub if_there: Decision<IfThere>,
    /// How long the workspace runs without a build before it stops; zero means never.
    #[serde(serialize_with = "shown_seconds")]
    pub idle_stop: Decision<Duration>,
    /// How long a build over a network goes on without its client's sign of life; zero means
    /// forever.
    #[serde(serialize_with = "shown_seconds")]
    pub grace: Decision<Duration>,
    /// Workspaces that were unused for this long are removed automatically; zero means never.
    #[serde(serialize_with = "shown_seconds")]
    pub max_age: Decision<Duration>,
    /// While all workspaces of an engine use more bytes than this, the one that was unused for the
    /// longest time is removed; zero means no limit.
    pub max_size: Decision<u64>,
}

/// The limits of the safe place: how much it keeps, and for how long.
#[derive(Debug, Clone, Serialize)]
pub struct RecoverPlan {
    /// Content older than this is removed; zero means never.
    #[serde(serialize_with = "shown_seconds")]
    pub max_age: Decision<Duration>,
    /// While the safe places of the state directory hold more bytes than this, the oldest content
    /// is removed; zero means no limit.
    pub max_size: Decision<u64>,
}

pub(crate) fn shown_seconds<S: Serializer>(
    decision: &Decision<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    decision.clone().map(|span| span.as_secs()).serialize(serializer)
}

/// `--fresh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IfThere {
    /// The workspace is removed with everything that builds left in it, and made again.
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
    /// Only the number of files is reported.
    No,
    /// Each file that travels is reported, with the reason.
    Yes,
}

/// `-t`, `--no-tty`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Terminal {
    /// The command gets a pseudo-terminal.
    Allocate,
    /// Standard output and standard error stay separate.
    None,
}

/// `--stdin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stdin {
    /// The command reads end of file at once.
    Empty,
    /// The command reads fastbuild's standard input.
    Forward,
}

/// `--isolation`, for Windows engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// Shares the host's kernel.
    Process,
    /// A small virtual machine for each container.
    Hyperv,
}

/// Whether an engine is on another machine, by its address alone.
pub(crate) fn is_elsewhere(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Unix(_) | Endpoint::NamedPipe(_) => false,
        Endpoint::Tcp(address) => {
            !(is_loopback(address)
                || address.rsplit_once(':').is_some_and(|(host, _)| host == "host.docker.internal"))
        }
    }
}

/// Whether `HOST:PORT` is an address of this machine.
pub(crate) fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

impl Endpoint {
    /// How long the agent waits for a sign of life before it treats its client as dead. `grace` is
    /// for networks, where a lost connection may come back.
    pub fn silence(&self, grace: Duration) -> Duration {
        match self {
            Endpoint::Tcp(_) => grace,
            Endpoint::Unix(_) | Endpoint::NamedPipe(_) => SILENCE,
        }
    }
}

/// `--engine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineChoice {
    /// A container engine if one is present, else this machine.
    Auto,
    /// A container engine.
    Docker,
    /// This machine, without a container.
    Host,
}

/// `--route`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteChoice {
    /// Chosen from the file system and the engine.
    Auto,
    /// This route.
    Fixed(Route),
}

/// One of the build's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Standard output, and everything when there is a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// `--progress`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// Bars for a user at a terminal, lines otherwise.
    #[default]
    Auto,
    /// Bars, if there is a terminal.
    Bar,
    /// Lines.
    Plain,
    /// One JSON object per line.
    Json,
    /// Warnings, errors and the summary.
    None,
}
