//! The events of a build, as facts: no wording, colours or handles. Renderers read nothing else.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use crate::{
    entry::RelPath,
    spec::{Fallback, Route},
    text::Escaped,
};
pub use crate::{
    entry::{Amount, Special},
    tree::delta::Why,
};

/// The steps of a build, in the order of the summary line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Reading the source tree's metadata.
    Scan,
    /// Fetching the image from its registry.
    Pull,
    /// Making the container.
    Create,
    /// Finding, starting or making the workspace, and reaching the agent in it.
    Workspace,
    /// Comparing the source tree with the tree in the workspace.
    Compare,
    /// Sending the sources, or only those that differ.
    Upload,
    /// Starting the command.
    Start,
    /// The command itself.
    Build,
    /// Receiving and staging the products.
    Collect,
    /// Putting the products in their places.
    Apply,
    /// Removing the container.
    Remove,
}

/// The result of an apply on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Paths made or replaced.
    pub written: u64,
    /// Paths deleted.
    pub deleted: u64,
    /// Paths that already had the right content and were not touched.
    pub unchanged: u64,
    /// Paths where the host's version was kept because it changed while the build ran.
    pub conflicts: u64,
}

/// How a run got its workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "how", rename_all = "kebab-case")]
pub enum Reached {
    /// It was running.
    Found,
    /// It had stopped, and was started.
    Started,
    /// Its agent did not answer, and it was started again.
    Restarted {
        /// The sign of that.
        reason: String,
    },
    /// No usable workspace existed.
    Made(MadeBecause),
}

/// Why a workspace was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum MadeBecause {
    /// No workspace existed.
    Missing,
    /// `--fresh` was given.
    Asked,
    /// The settings of the old one differ from the requested ones.
    Changed {
        /// Each thing that changed.
        changes: Vec<Changed>,
    },
    /// The old one could not be used any more.
    Broken {
        /// Why it could not be used.
        reason: String,
    },
}

/// A change that required a new workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// The setting: `image`, `user`, `platform`, ...
    pub what: String,
    /// The old value, if it is short and known.
    pub old: Option<String>,
    /// The new value, if it is short and known.
    pub new: Option<String>,
}

/// Why the agent does not run a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WithoutAgent {
    /// No agent exists for the image.
    NoAgent,
    /// The container's file system is read-only.
    ReadOnly,
    /// The agent was copied into the container and does not start.
    NotStarted,
    /// The settings exclude it.
    Refused,
    /// The agent was started and does not answer as it should.
    NoAnswer,
}

/// Why a workspace was removed automatically.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// It was not used for too long.
    Age,
    /// All workspaces together were too large, and this one was unused for the longest time.
    Size,
}

/// A run of the command that failed because of a mount, before the run that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Earlier {
    /// Its route.
    pub route: Route,
    /// The command's exit code.
    pub exit_code: u8,
    /// Its wall time.
    #[serde(serialize_with = "as_seconds")]
    pub took: Duration,
}

/// How `watch` notices that sources changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Noticing {
    /// The system reports changes.
    Told,
    /// By a check once a second: the system does not report all changes on this file system, or it
    /// refused to report them.
    Looking,
}

/// The direction in which a file travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From this machine into the workspace.
    Up,
    /// From the workspace to this machine.
    Down,
}

/// The cost of a build with the agent, on the wire and in the workspace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct AgentCost {
    /// Bytes sent to the workspace, without the engine's own.
    pub sent: u64,
    /// Bytes received from the workspace.
    pub received: u64,
    /// The agent's peak memory, in bytes; `None` if the agent was lost before it could report it.
    pub peak_memory: Option<u64>,
}

/// A fact that a user should know and that does not fail the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "warning", rename_all = "kebab-case")]
pub enum Warning {
    /// No engine was found, and the user named neither an engine nor an image: the build runs
    /// without a container. Shown even if warnings are off, because the place of a build must not
    /// change silently.
    BuildsHere {
        /// Why there is no container.
        why: String,
    },
    /// Standard input holds bytes, and the command does not read them.
    InputWaiting,
    /// In CI, the kept workspace can be found again only with this home directory.
    NotFoundAgain,
    /// The command failed, and its words look like a mistake, or its git finds no repository.
    Meant {
        /// What to do.
        hint: String,
    },
    /// The project has a `.dockerignore` and no `.fastbuildignore`. Shown once.
    DockerignoreNotRead(
        /// What it would have excluded.
        Amount,
    ),
    /// Kept paths also exist on this machine. Shown once for each.
    KeptHere {
        /// The paths, below the source root.
        paths: Vec<RelPath>,
    },
    /// A socket, fifo or device in the source tree was left out.
    Skipped {
        /// Below the source root.
        path: RelPath,
        /// Its type.
        special: Special,
    },
    /// The command failed after it tried to write to sources that are mounted read-only.
    ReadOnlySources {
        /// Below the source root; `None` if the command's output does not show it.
        path: Option<RelPath>,
        /// The line of its output that says so.
        line: String,
    },
    /// A source file was deleted before it was sent.
    Vanished {
        /// Below the source root.
        path: RelPath,
    },
    /// A source file changed during each attempt to send it.
    Unstable {
        /// Below the source root.
        path: RelPath,
    },
    /// A device, fifo or socket among the products was left out.
    SpecialOutput {
        /// Below the output's root.
        path: RelPath,
        /// Its type.
        special: Special,
    },
    /// A path changed here while the build ran. One version stands, the other is in the safe place.
    Conflict {
        /// The host's path.
        #[serde(serialize_with = "as_text")]
        path: PathBuf,
        /// The version that is kept in place.
        stands: Stands,
    },
    /// Git is at work here, so nothing of the repository came back: it is in the safe place.
    GitLocked {
        /// The `.git`.
        #[serde(serialize_with = "as_text")]
        repository: PathBuf,
        /// The lock.
        #[serde(serialize_with = "as_text")]
        lock: PathBuf,
        /// How many paths the command changed there.
        paths: u64,
    },
    /// The workspace still has kept paths that an earlier build named and this one does not.
    StillKept {
        /// The paths, as the earlier build named them.
        names: Vec<String>,
    },
    /// The clock of the build's machine differs from this machine's. This one gives files their
    /// times.
    ClocksDiffer {
        /// How many seconds it is ahead.
        seconds: i64,
    },
    /// Changes of the command in the workspace that no output brings back.
    Beside {
        /// Sources that will be reset to the host's version in the next build: the first of them.
        changed: Vec<RelPath>,
        /// How many more there are.
        more: u64,
        /// Names in the source root at or below which new paths stay in the workspace.
        made: Vec<RelPath>,
    },
    /// The source root is not writable and no output is named: changes cannot come back.
    NotWritable {
        /// The source root.
        #[serde(serialize_with = "as_text")]
        path: PathBuf,
    },
    /// Files were moved to the safe place: files that a build replaced or deleted but no build
    /// wrote, and the losing versions of conflicts.
    Displaced {
        /// How many files.
        files: u64,
        /// The first ten of them.
        #[serde(serialize_with = "as_texts")]
        paths: Vec<PathBuf>,
        /// The directory that holds them now.
        #[serde(serialize_with = "as_text")]
        to: PathBuf,
    },
    /// Products have another mode than in the build: their place does not allow a change of it.
    ModesRefused {
        /// How many files and directories.
        paths: u64,
    },
    /// A container of an earlier run that was killed was removed.
    LeftoverRemoved {
        /// Its name.
        container: String,
    },
    /// The command was killed because it used more memory than the container may.
    OutOfMemory {
        /// The container's limit in bytes, if it has one.
        limit: Option<u64>,
    },
    /// An earlier run was interrupted while it applied its products. The apply was finished now.
    Recovered {
        /// Paths put in place now.
        files: u64,
        /// Paths that could not be finished: staged bytes were lost or the host's were changed.
        lost: u64,
    },
    /// An earlier run was interrupted while it applied its products, and its journal cannot be
    /// read. Its staged files are kept.
    StageKept {
        /// The directory.
        #[serde(serialize_with = "as_text")]
        path: PathBuf,
    },
    /// A signal was passed on to the build.
    Signalled {
        /// The signal's name, such as `SIGINT`.
        signal: &'static str,
    },
    /// The command failed, and its products were not brought back.
    OutputsLeft,
    /// `watch`: the system could not be asked to report changes.
    NotTold {
        /// The system's message.
        why: String,
    },
    /// `watch`: two watches trigger each other's builds. This one waits for an edit by the user.
    Circle {
        /// The last change of the other one, below the source root.
        path: RelPath,
    },
    /// Hardly any file of the last upload still exists here: the path now holds another project.
    OtherProject,
    /// The container could not be removed now.
    NotRemoved {
        /// Its name.
        container: String,
        /// The engine's message.
        why: String,
    },
}

/// The version of a path that is kept in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stands {
    /// The host's.
    Host,
    /// The build's.
    Build,
}

/// The state of a run that holds a project's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holding {
    /// It works.
    Runs,
    /// It is stopped and can be continued.
    IsStopped,
}

/// Why a run waits for another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "why", content = "output", rename_all = "kebab-case")]
pub enum WaitsFor {
    /// The other one uses the workspace exclusively for now.
    Turn,
    /// One of them names no outputs. Only builds that name theirs can share a workspace.
    OutputsToBeNamed,
    /// Both make this path in the workspace.
    Output(String),
    /// They exclude different files, or run as different users.
    OtherSettings,
}

/// One fact. Renderers get them in the order in which they happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Everything is decided; nothing has been changed.
    Planned {
        /// The image of the build; `None` on the host engine.
        image: Option<String>,
        /// The engine's address, or `host`.
        engine: String,
        /// How the files travel.
        route: Route,
        /// Why this route was chosen.
        because: String,
        /// The source root.
        #[serde(serialize_with = "as_text")]
        source: PathBuf,
        /// The command.
        command: Vec<String>,
    },
    /// Another run holds this project's lock; this one waits.
    WaitingForLock {
        /// The holder's process id.
        pid: u32,
        /// The holder's command line, without options: their values may be secret.
        command: String,
        /// The holder's state.
        holder: Holding,
        /// Why the two cannot run at the same time.
        #[serde(flatten)]
        why: WaitsFor,
    },
    /// The workspace is ready, and its agent answers.
    Workspace {
        /// The container's name.
        name: String,
        /// How the run got it.
        #[serde(flatten)]
        how: Reached,
    },
    /// The agent cannot run the build. It uses the plain Engine API instead, and nothing is kept.
    WithoutAgent {
        /// Why the agent cannot run it.
        why: WithoutAgent,
        /// The sign of that, in words.
        detail: String,
    },
    /// Why a file travels; only with `--explain`.
    Travelled {
        /// The direction.
        direction: Direction,
        /// Below the source root, or below the output.
        path: RelPath,
        /// The strongest reason.
        why: Why,
    },
    /// A workspace was removed because of the automatic limits.
    WorkspaceRemoved {
        /// The container's name.
        name: String,
        /// The source root that it belonged to.
        source: String,
        /// The limit.
        limit: Limit,
    },
    /// `watch`: sources were changed, and a build begins.
    SourcesChanged {
        /// The first ones, below the source root.
        paths: Vec<RelPath>,
        /// How many more there are.
        more: u64,
    },
    /// `watch`: there is nothing to do until a source changes.
    Watching {
        /// How changes are noticed.
        by: Noticing,
    },
    /// `watch`: a build is over.
    WatchBuilt {
        /// Its number in this watch, from 1.
        build: u64,
        /// This machine's time of day, `HH:MM:SS`.
        clock: String,
        /// fastbuild's exit code; `None` if the build came to no result.
        exit_code: Option<u8>,
        /// How many changed paths started it; none for the first one.
        changed: u64,
        /// Its wall time.
        #[serde(serialize_with = "as_seconds")]
        took: Duration,
        /// How the changes are noticed that are waited for now; `None` if the next build begins at
        /// once.
        waits: Option<Noticing>,
    },
    /// The command failed, and the cause seems to be the mount and not the command.
    MountFailed {
        /// The route.
        route: Route,
        /// The command's exit code.
        exit_code: u8,
        /// The path at which it failed, below the source root.
        path: RelPath,
        /// The line of its output about the path.
        line: String,
        /// The next step.
        then: Fallback,
    },
    /// A phase began.
    PhaseStarted {
        /// The phase.
        phase: Phase,
        /// How much there is to do, if it is known in advance.
        total: Option<Amount>,
    },
    /// A phase made progress. This may come often; renderers drop most of them.
    PhaseProgress {
        /// The phase.
        phase: Phase,
        /// The amount done since the phase began.
        done: Amount,
    },
    /// A layer of an image that is being pulled made progress.
    PullProgress {
        /// The layer's id, as the engine names it; empty for messages about the whole image.
        layer: String,
        /// The current step, in the engine's words.
        status: String,
        /// Bytes done.
        current: u64,
        /// Bytes in total, if the registry said so.
        total: Option<u64>,
    },
    /// A phase ended successfully.
    PhaseEnded {
        /// The phase.
        phase: Phase,
        /// The amount that it moved.
        done: Amount,
        /// Its wall time.
        #[serde(serialize_with = "as_seconds")]
        took: Duration,
    },
    /// The build's own output begins: everything that is drawn must be gone before this returns.
    BuildOutputBegins,
    /// See [`Warning`].
    Warned(Warning),
    /// The last event of a run that reached a result.
    Finished {
        /// fastbuild's exit code.
        exit_code: u8,
        /// The result on the host; `None` if nothing was collected.
        applied: Option<Applied>,
        /// The cost of the agent; `None` without it.
        agent: Option<AgentCost>,
        /// The run before this one, which failed because of a mount.
        earlier: Option<Earlier>,
        /// The wall time of the whole run.
        #[serde(serialize_with = "as_seconds")]
        took: Duration,
    },
}

/// The error that fastbuild ends with, as text: the error, its causes, and the advice to the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename = "error")]
pub struct Failure {
    /// The outermost error.
    pub message: String,
    /// Its causes, outermost first, without those that `message` or an earlier cause quotes.
    pub causes: Vec<String>,
    /// What to do next.
    pub advice: Option<String>,
}

impl Failure {
    /// Reads the chain of `error`.
    pub fn new(error: &(dyn std::error::Error + 'static), advice: Option<&str>) -> Failure {
        let message = error.to_string();
        let mut causes: Vec<String> = Vec::new();
        let mut next = error.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // Many errors quote their source; a repetition only pushes the advice off the screen.
            if !causes.last().unwrap_or(&message).contains(&text) {
                causes.push(text);
            }
            next = cause.source();
        }
        Failure { message, causes, advice: advice.map(str::to_owned) }
    }
}

/// A path as shown text ([`Escaped`]): serde's own form fails on names that are not UTF-8.
pub fn path_text(path: &Path) -> String {
    Escaped(path.as_os_str().as_encoded_bytes()).to_string()
}

/// The same as a serializer, for JSON.
pub(crate) fn as_text<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path_text(path))
}

fn as_texts<S: serde::Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path_text(path)))
}

fn as_seconds<S: serde::Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // Whole microseconds; more digits are not significant.
    serializer.serialize_f64(took.as_micros() as f64 / 1e6)
}
