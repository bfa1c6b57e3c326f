//! What the user's set-up is -> what it costs, and what to do about it.
//!
//! [`gather()`] collects facts ([`crate::facts`], the engine) and does not judge; [`findings()`]
//! judges them and is pure, so each case is a row of a table in the tests. Every sentence of
//! `fastbuild doctor` is in this module; the output format is in [`crate::cli::doctor`].
//!
//! The figures are measurements, given with what was measured: the cases that fastbuild began with
//! (LCOW, Hyper-V, a nested virtual machine, WSL 2), and a site of 2,003 files on sshfs, on bindfs
//! and without a mount. Cases without a measurement have no figure. Unknown facts are not claimed.

mod engine;
mod gather;
mod machine;
mod place;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::Serialize;

pub use gather::gather;

use crate::{
    engine::{EngineFacts, EngineInfo, Whereabouts},
    facts::{Case, FileSharing, FileSystem, Machine, Space},
};

/// All facts that findings are based on.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// This machine.
    pub machine: Machine,
    /// Whether the variable `CI` says that the session is unattended; then no workspace is kept.
    pub unattended: bool,
    /// The engine.
    pub engine: Engine,
    /// How Docker Desktop shares files, where its settings tell.
    pub sharing: Option<FileSharing>,
    /// The source root.
    pub source: Source,
    /// The places that need free space.
    pub rooms: Vec<Room>,
}

/// The result of the look at an engine.
#[derive(Debug, Clone, PartialEq)]
pub enum Engine {
    /// No engine could be reached.
    None {
        /// Its address; `None` where the settings name no usable one.
        address: Option<String>,
        /// What went wrong.
        why: String,
        /// What the user could do about it.
        advice: Option<String>,
    },
    /// An engine that answers, but not to the request for information about itself.
    Taciturn {
        /// Its address.
        address: String,
        /// What its greeting said.
        greeting: EngineFacts,
        /// Why it did not answer that request.
        why: String,
    },
    /// An engine that answers.
    There {
        /// Its address.
        address: String,
        /// What its greeting said.
        greeting: EngineFacts,
        /// What it says about itself.
        info: Box<EngineInfo>,
        /// Where it is.
        whereabouts: Whereabouts,
    },
}

/// The source root.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Its path.
    pub path: PathBuf,
    /// Why it could not be looked at.
    pub no_answer: Option<String>,
    /// The file system that it is on.
    pub file_system: Option<FileSystem>,
    /// How that treats upper and lower case in names.
    pub case: Option<Case>,
}

/// A place that needs free space.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Room {
    /// What the space is needed for.
    pub what_for: Needs,
    /// The place: a directory on this machine.
    pub path: String,
    /// How much space there is.
    #[serde(flatten)]
    pub space: Space,
}

/// What needs free space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Needs {
    /// The engine's images and containers.
    Engine,
    /// fastbuild's own files.
    State,
    /// The sources, and the products beside them.
    Source,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Everything is fine.
    Good,
    /// Worth knowing.
    Note,
    /// Something should be done.
    Advice,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// Whether an engine was found, and which.
    Engine,
    /// Where it is.
    Location,
    /// How mounts reach it.
    FileSharing,
    /// With which rights it runs.
    Rootless,
    /// The driver that stores its containers.
    StorageDriver,
    /// How Windows containers are isolated.
    Isolation,
    /// Its containers are Windows containers.
    WindowsContainers,
    /// How much free space there is.
    Space,
    /// The file system of the sources.
    Source,
    /// How that treats upper and lower case in names.
    Case,
    /// The virtual machine around this machine.
    Virtualization,
    /// Linux in Windows (WSL).
    Wsl,
    /// The CI service.
    Ci,
}

impl Topic {
    /// Its name, in text and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Topic::Engine => "engine",
            Topic::Location => "location",
            Topic::FileSharing => "file-sharing",
            Topic::Rootless => "rootless",
            Topic::StorageDriver => "storage-driver",
            Topic::Isolation => "isolation",
            Topic::WindowsContainers => "windows-containers",
            Topic::Space => "space",
            Topic::Source => "source",
            Topic::Case => "case",
            Topic::Virtualization => "virtualization",
            Topic::Wsl => "wsl",
            Topic::Ci => "ci",
        }
    }
}

/// One fact that was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub topic: Topic,
    /// How much it matters.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// Why it matters, with the figure where there is one.
    pub why: Option<String>,
    /// What to do.
    #[serde(rename = "do")]
    pub act: Option<String>,
}

impl Finding {
    fn good(topic: Topic, what: impl Into<String>) -> Finding {
        Finding { topic, severity: Severity::Good, what: what.into(), why: None, act: None }
    }

    fn note(topic: Topic, what: impl Into<String>, why: impl Into<String>) -> Finding {
        Finding { severity: Severity::Note, why: Some(why.into()), ..Finding::good(topic, what) }
    }

    fn advice(
        topic: Topic,
        what: impl Into<String>,
        why: impl Into<String>,
        act: impl Into<String>,
    ) -> Finding {
        Finding { severity: Severity::Advice, ..Finding::note(topic, what, why).to(act) }
    }

    /// The same, with an action.
    fn to(self, act: impl Into<String>) -> Finding {
        Finding { act: Some(act.into()), ..self }
    }
}

/// Judges the facts: the engine first, then the sources, then the machine.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = engine::findings(&facts.engine, facts.sharing);
    found.extend(facts.rooms.iter().filter_map(place::room));
    found.extend(place::source(&facts.source));
    found.extend(machine::findings(facts));
    found
}

/// How long a build of 2,003 files takes, in seconds, by the place of its files.
mod measured {
    /// In a container's own layer, or on a local disk.
    pub(super) const NATIVE: &str = "5.7 s";
    /// On a bind mount of an sshfs mount.
    pub(super) const SSHFS: &str = "11.3 s";
    /// On a bind mount of a FUSE mount that only passes calls on.
    pub(super) const FUSE: &str = "7.1 s";
}

/// The advice for all mounts that cross a boundary.
const KEEP_TO_LAYER: &str = "build by `--route layer` (which `auto` takes): it mounts nothing";
