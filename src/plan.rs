//! Settings -> plan: every decision about one build, each with its reason, made before anything is touched.
//!
//! Pure but for looking at the host's own metadata: no engine is asked and nothing is written. `fastbuild plan` prints
//! it, [`crate::build`] carries it out.

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
    /// What else the container is made with.
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
