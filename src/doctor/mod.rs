//! What a user has -> what it costs him, and what to do about it.
//!
//! [`gather()`] looks facts up ([`crate::facts`], the engine) and judges nothing; [`findings()`] judges them and is
//! pure, so each case is a row of a table in the tests. Every sentence of `fastbuild doctor` is in here; how it is
//! written out is in [`crate::cli::doctor`].
//!
//! The figures are measurements, told with what was measured: the cases that fastbuild began with (LCOW, Hyper-V, a
//! nested virtual machine, WSL 2), and a site of 2,003 files built on sshfs, on bindfs and without a mount. What nobody
//! measured has no figure, and what cannot be known is not claimed.

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

/// All that is looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// This machine.
    pub machine: Machine,
    /// Whether the variable `CI` says that nobody sits here, which keeps no workspace.
    pub unattended: bool,
    /// The engine.
    pub engine: Engine,
    /// How Docker Desktop hands out files, where its settings tell.
    pub sharing: Option<FileSharing>,
    /// The source root.
    pub source: Source,
    /// Where there has to be room.
    pub rooms: Vec<Room>,
}

/// What came of the look at an engine.
#[derive(Debug, Clone, PartialEq)]
pub enum Engine {
    /// There is none to be talked to.
    None {
        /// Its address; none where the settings name none that can be used.
        address: Option<String>,
        /// What went wrong.
        why: String,
        /// What a user could do about it.
        advice: Option<String>,
    },
    /// One that answers, though not to the question what it is.
    Taciturn {
        /// Its address.
        address: String,
        /// What its greeting told.
        greeting: EngineFacts,
        /// What came of the question.
        why: String,
    },
    /// One that answers.
    There {
        /// Its address.
        address: String,
        /// What its greeting told.
        greeting: EngineFacts,
        /// What it says of itself.
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
    /// What it lies on.
    pub file_system: Option<FileSystem>,
    /// What it makes of the case of names.
    pub case: Option<Case>,
}

/// Where there has to be room.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Room {
    /// What for.
    pub what_for: Needs,
    /// Where: a directory on this machine.
    pub path: String,
    /// How much there is.
    #[serde(flatten)]
    pub space: Space,
}

/// What needs room.
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

/// How much a finding asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be.
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
    /// Whether there is an engine, and which.
    Engine,
    /// Where it is.
    Location,
    /// How mounts reach it.
    FileSharing,
    /// With whose rights it runs.
    Rootless,
    /// What keeps its containers.
    StorageDriver,
    /// How Windows containers are isolated.
    Isolation,
    /// That its containers are Windows'.
    WindowsContainers,
    /// How much room there is.
    Space,
    /// What the sources lie on.
    Source,
    /// What it makes of the case of names.
    Case,
    /// What is under this machine.
    Virtualization,
    /// Linux in Windows.
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

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub topic: Topic,
    /// How much it asks for.
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

    /// The same, with what to do.
    fn to(self, act: impl Into<String>) -> Finding {
        Finding { act: Some(act.into()), ..self }
    }
}

/// What the facts come to: the engine first, then the sources, then the machine.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = engine::findings(&facts.engine, facts.sharing);
    found.extend(facts.rooms.iter().filter_map(place::room));
    found.extend(place::source(&facts.source));
    found.extend(machine::findings(facts));
    found
}

/// What a build of 2,003 files takes, in seconds, by where its files lie.
mod measured {
    /// In a container's own layer, or on a local disk.
    pub(super) const NATIVE: &str = "5.7 s";
    /// On a bind mount of an sshfs mount.
    pub(super) const SSHFS: &str = "11.3 s";
    /// On a bind mount of a FUSE mount that does nothing but hand calls through.
    pub(super) const FUSE: &str = "7.1 s";
}

/// What all mounts that cross have in common as a cure.
const KEEP_TO_LAYER: &str = "build by `--route layer` (which `auto` takes): it mounts nothing";
