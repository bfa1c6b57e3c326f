//! Settings -> plan: every decision about one build, with its reason, made before any change.
//!
//! Pure, except that it reads the host's own metadata. No engine is asked and nothing is written.
//! `fastbuild plan` prints the plan, [`crate::build`] carries it out.

mod caches;
mod container_path;
mod endpoint;
mod engine;
pub mod facts;
mod kept;
mod make;
mod outputs;
mod route;
mod scratch;
pub mod standing;

use std::{fmt, path::PathBuf};

use serde::{Serialize, Serializer};

use crate::{
    entry::RelPath,
    spec::{
        AgentUse, ApplyMode, ContainerOptions, Decision, Endpoint, EnvVar, Explain, Fallback, Lifetime,
        OnFailure, OnLocked, Pattern, PullPolicy, RecoverPlan, Route, Stdin, Terminal, VolumeOption,
        WorkspacePlan, shown_path,
    },
    tree::ignore::Rules,
};

pub use caches::{Cache, CacheError, CachePath, Sharing};
pub use endpoint::{BadEndpoint, decide as decide_endpoint};
pub use engine::EngineError;
pub use facts::Facts;
pub use make::{OnDocker, PlanError, make, prepare};
pub use outputs::OutputError;
pub use route::RouteError;
pub use scratch::{Ground, Place, Scratch, TREE as SCRATCH_TREE};

fn shown_decision<S: Serializer>(decision: &Decision<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    decision.clone().map(|path| path.to_string_lossy().into_owned()).serialize(serializer)
}

/// Everything that [`crate::build::run`] needs to know.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The command and its arguments, at least one.
    pub command: Vec<String>,
    /// The project's name on every machine; `None` when no source sets one.
    pub name: Option<Decision<String>>,
    /// The engine.
    pub engine: Decision<Engine>,
    /// The image's reference; `None` on an engine without images.
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
    /// The source root's path in the container: absolute, `/` between components, no trailing
    /// slash. A Windows path stays as it was written (`C:\src`).
    pub workdir: Decision<String>,
    /// The paths that neither go in nor come back.
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
    /// Size limit of the tmpfs in bytes; `None` means the engine's own limit.
    pub tmpfs_size: Option<Decision<u64>>,
    /// Options for the local volume driver of a workspace's volume: `type=nfs`, `o=addr=…`.
    pub volume_options: Vec<Decision<VolumeOption>>,
    /// Directories that are kept across workspaces.
    pub caches: Vec<Decision<Cache>>,
    /// Where the host engine builds; `None` in a container.
    pub scratch: Option<Decision<Scratch>>,
    /// Whether a workspace is kept.
    pub lifetime: Decision<Lifetime>,
    /// Whether the agent runs the command.
    pub agent: Decision<AgentUse>,
    /// How the workspace is reused, stopped and removed, where one is kept.
    pub workspace: WorkspacePlan,
    /// The limits of the safe place.
    pub recover: RecoverPlan,
    /// What to do when another run holds the project's lock.
    pub lock: Decision<OnLocked>,
    /// Whether to report why each file travels.
    pub explain: Decision<Explain>,
    /// `USER[:GROUP]` in place of the image's.
    pub user: Option<Decision<String>>,
    /// The entry point that replaces the image's; empty means no entry point.
    pub entrypoint: Option<Decision<String>>,
    /// The environment variables that are passed to the command, in order. Later ones win.
    pub env: Vec<Decision<EnvVar>>,
    /// A terminal or separate streams.
    pub terminal: Decision<Terminal>,
    /// The command's standard input.
    pub stdin: Decision<Stdin>,
    /// Further options of the container.
    #[serde(flatten)]
    pub container: ContainerOptions,
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

/// The paths that neither go in nor come back, by rules in reading order (later ones win).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct IgnorePlan {
    /// Kept and excluded paths: one mechanism, in one order.
    pub patterns: Vec<Decision<Pattern>>,
    /// Paths below the source root that do not go in: outputs, caches, and fastbuild's own files.
    pub outputs: Vec<RelPath>,
}

impl IgnorePlan {
    /// The patterns, in the order in which they are read.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.patterns.iter().map(|pattern| pattern.value.text.as_str())
    }

    /// Whether a path is at or below one of [`IgnorePlan::outputs`].
    pub fn leaves_out(&self, path: &RelPath) -> bool {
        self.outputs.iter().any(|outer| path.strip_prefix(outer).is_some())
    }
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outputs {
    /// Everything that the command creates, changes or deletes under the working directory.
    Everything,
    /// Only these.
    Named(Vec<Output>),
}

/// One path that comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Output {
    /// The text of the request: `PATH[:HOST]`.
    pub spec: String,
    /// The container's path: absolute, `/` between components, no trailing slash.
    pub container: String,
    /// Whether the path itself or its content comes back.
    pub take: Take,
    /// The absolute host path where `container` is put.
    #[serde(serialize_with = "shown_path")]
    pub host: PathBuf,
    /// Where `container` lies below the source root, when it does.
    pub below_source: Option<RelPath>,
    /// For the source root: patterns of the paths that come back, in the syntax of ignore rules; if
    /// empty, all come back. All patterns form one output, so that each path belongs to one output.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
}

impl Output {
    /// Whether a path of the source tree is part of this output.
    pub fn holds(&self, path: &RelPath) -> bool {
        let below = self.below_source.as_ref().is_some_and(|below| path.strip_prefix(below).is_some());
        below && (self.only.is_empty() || Rules::new(&self.only).is_ok_and(|only| only.ignores(path)))
    }
}

/// `PATH`, `PATH/` or `PATH/.`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Take {
    /// A file, directory or link.
    Itself,
    /// A directory (or a link to one); the directory itself is meant.
    Directory,
    /// A directory (or a link to one); its entries are meant.
    Contents,
}
