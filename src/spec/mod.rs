//! The words of a build, as people, files and programs say them: where it runs, how its files travel, what comes back, and why each
//! of it was decided. Plain data and its text; the plan is made of it ([`crate::plan`]), and floors below the plan speak it.

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

/// How long the far end waits for a sign of life before it ends the build, where the engine is on this machine.
pub const SILENCE: Duration = Duration::from_secs(15);

/// The file's name.
pub const PROJECT_FILE: &str = "fastbuild.toml";

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
pub(crate) fn shown_path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
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
    /// How long the far end waits for a sign of life before it takes its client for dead. `grace` is for networks, which may come back.
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
    /// A container engine where one is, else this machine.
    Auto,
    /// A container engine.
    Docker,
    /// This machine, without a container.
    Host,
}

/// `--route`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteChoice {
    /// By what is known of file system and engine.
    Auto,
    /// This one.
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
    /// Bars for a person at a terminal, lines for everybody else.
    #[default]
    Auto,
    /// Bars, where there is a terminal to draw them on.
    Bar,
    /// Lines.
    Plain,
    /// One JSON object a line.
    Json,
    /// Warnings, errors and the summary.
    None,
}
