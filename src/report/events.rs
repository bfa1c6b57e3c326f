//! What happens during a build, as facts: no wording, no colour, no handle. Every renderer reads these and nothing else.

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
    /// Comparing the source tree with what the workspace holds.
    Compare,
    /// Sending the sources, or what differs of them.
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

/// What became of a path of the host's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Paths made or replaced.
    pub written: u64,
    /// Paths deleted.
    pub deleted: u64,
    /// Paths whose content was already right and that were not touched.
    pub unchanged: u64,
    /// Paths where the host's version was kept because somebody changed it meanwhile.
    pub conflicts: u64,
}

/// How a run came to its workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "how", rename_all = "kebab-case")]
pub enum Reached {
    /// It was running.
    Found,
    /// It had stopped, and was started.
    Started,
    /// Its agent did not answer, and it was started again.
    Restarted {
        /// How that showed.
        reason: String,
    },
    /// There was none that could be used.
    Made(MadeBecause),
}

/// Why a workspace was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum MadeBecause {
    /// There was none.
    Missing,
    /// `--fresh`.
    Asked,
    /// What the old one was made for is not what is asked for now.
    Changed {
        /// Each thing that changed.
        changes: Vec<Changed>,
    },
    /// The old one could not be used any more.
    Broken {
        /// What was the matter.
        reason: String,
    },
}

/// Something that made a new workspace necessary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Which: `image`, `user`, `platform`, ...
    pub what: String,
    /// What it was, where that is short and known.
    pub old: Option<String>,
    /// What it is now, where that is short and known.
    pub new: Option<String>,
}

/// Why the agent does not run a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WithoutAgent {
    /// There is no agent for the image.
    NoAgent,
    /// The container's file system is read-only.
    ReadOnly,
    /// The agent was put there and does not start.
    NotStarted,
    /// It was not to be used.
    Refused,
    /// The agent was started and does not answer as it should.
    NoAnswer,
}

/// Why a workspace was removed by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// It was not used for too long.
    Age,
    /// All workspaces together held too much, and it was not used for the longest time.
    Size,
}

/// A run of the command that a mount failed, before the one that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Earlier {
    /// The route that it took.
    pub route: Route,
    /// What the command exited with.
    pub exit_code: u8,
    /// Its wall time.
    #[serde(serialize_with = "as_seconds")]
    pub took: Duration,
}

/// How `watch` notices that sources change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Noticing {
    /// The system tells.
    Told,
    /// By looking once a second: the file system is one of which the system does not hear all, or it refused to tell.
    Looking,
}

/// Which way a file travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From this machine into the workspace.
    Up,
    /// From the workspace to this machine.
    Down,
}

/// What a build with the agent took on the way to the workspace, and there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct AgentCost {
    /// Bytes on the wire to the workspace, without the engine's own.
    pub sent: u64,
    /// Bytes on the wire from the workspace.
    pub received: u64,
    /// The most memory that the agent had, in bytes; none when it was lost before it could say.
    pub peak_memory: Option<u64>,
}

/// Something that a user should know and that does not fail the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "warning", rename_all = "kebab-case")]
pub enum Warning {
    /// No engine is there, and nobody named one or an image: the build runs without a container. Told also where warnings are not
    /// wanted, for no build changes its place in silence.
    BuildsHere {
        /// How it came to that.
        why: String,
    },
    /// Standard input holds bytes, and the command reads none of them.
    InputWaiting,
    /// In CI, the workspace that is kept is found again only from here.
    NotFoundAgain,
    /// The command failed, and its words look as if they were meant otherwise, or its git finds no repository.
    Meant {
        /// What to do.
        hint: String,
    },
    /// The project has a `.dockerignore` and no `.fastbuildignore`. Told once.
    DockerignoreNotRead(
        /// What it would have kept out.
        Amount,
    ),
    /// This machine has something of its own at paths that are kept. Told once for each.
    KeptHere {
        /// Below the source root.
        paths: Vec<RelPath>,
    },
    /// A socket, fifo or device in the source tree was left out.
    Skipped {
        /// Below the source root.
        path: RelPath,
        /// What it is.
        special: Special,
    },
    /// The command failed after it had tried to write to sources that are mounted read-only.
    ReadOnlySources {
        /// Below the source root; none where that cannot be told from what it wrote.
        path: Option<RelPath>,
        /// What it wrote of that.
        line: String,
    },
    /// A source file was gone when its turn to be sent came.
    Vanished {
        /// Below the source root.
        path: RelPath,
    },
    /// A source file kept changing while it was sent, each time that it was tried.
    Unstable {
        /// Below the source root.
        path: RelPath,
    },
    /// A device, fifo or socket among the products was left out.
    SpecialOutput {
        /// Below the output's root.
        path: RelPath,
        /// What it is.
        special: Special,
    },
    /// A path was changed here while the build ran. One version stands, the other is in the safe place.
    Conflict {
        /// The host's path.
        #[serde(serialize_with = "as_text")]
        path: PathBuf,
        /// Whose version stands.
        stands: Stands,
    },
    /// Git is at work here, so nothing of the repository was brought back: it is in the safe place.
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
    /// The workspace keeps what an earlier build named, and this one does not.
    StillKept {
        /// As it was named then.
        names: Vec<String>,
    },
    /// The clock where the build runs is not this machine's. Times of files are told by this machine's.
    ClocksDiffer {
        /// By how many seconds it is ahead.
        seconds: i64,
    },
    /// What the command changed in the workspace and no output brings back.
    Beside {
        /// Sources that will be as they are here in the next build: the first of them.
        changed: Vec<RelPath>,
        /// How many more there are.
        more: u64,
        /// Names in the source root at or below which something new stays in the workspace.
        made: Vec<RelPath>,
    },
    /// The source root may not be written, and no output is named: what the command changes cannot come back.
    NotWritable {
        /// The source root.
        #[serde(serialize_with = "as_text")]
        path: PathBuf,
    },
    /// What a build replaced or deleted and no build wrote, and what gave way in a conflict, was moved to the safe place.
    Displaced {
        /// How many.
        files: u64,
        /// The first ten of them.
        #[serde(serialize_with = "as_texts")]
        paths: Vec<PathBuf>,
        /// The directory that holds them now.
        #[serde(serialize_with = "as_text")]
        to: PathBuf,
    },
    /// Products have another mode than the build gave them: where they lie, it may not be changed.
    ModesRefused {
        /// How many files and directories.
        paths: u64,
    },
    /// A container that an earlier, killed run had left was removed.
    LeftoverRemoved {
        /// Its name.
        container: String,
    },
    /// The command was ended because it used more memory than the container may.
    OutOfMemory {
        /// The container's limit in bytes, when it has one.
        limit: Option<u64>,
    },
    /// An earlier run was cut short while it applied its products; it was finished now.
    Recovered {
        /// Paths put in place now.
        files: u64,
        /// Paths that could not be finished, because their staged bytes were lost or the host's were changed.
        lost: u64,
    },
    /// An earlier run was cut short while it applied its products, and its journal cannot be read: what it held is kept.
    StageKept {
        /// The directory.
        #[serde(serialize_with = "as_text")]
        path: PathBuf,
    },
    /// A signal was handed to the build.
    Signalled {
        /// The signal's name, such as `SIGINT`.
        signal: &'static str,
    },
    /// The command failed, and its products were not brought back.
    OutputsLeft,
    /// `watch`: the system could not be asked to tell of changes.
    NotTold {
        /// What it said.
        why: String,
    },
    /// `watch`: another watch's builds start this one's, and the other way round; this one waits for somebody's edit.
    Circle {
        /// What the other one changed last, below the source root.
        path: RelPath,
    },
    /// Hardly anything of what was sent last is here any more: the project at this path is another one.
    OtherProject,
    /// The container could not be removed now.
    NotRemoved {
        /// Its name.
        container: String,
        /// What the engine said.
        why: String,
    },
}

/// Whose version of a path stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stands {
    /// What the host has.
    Host,
    /// What the build made.
    Build,
}

/// What a run does that holds a project's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holding {
    /// It works.
    Runs,
    /// It waits to be taken up again.
    IsStopped,
}

/// Why a run waits for another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "why", content = "output", rename_all = "kebab-case")]
pub enum WaitsFor {
    /// The other one has the place to itself for now.
    Turn,
    /// One of them names no outputs: those who do share a workspace.
    OutputsToBeNamed,
    /// Both make what lies at this path in the workspace.
    Output(String),
    /// They leave out other files, or run as different users.
    OtherSettings,
}

/// One fact. Renderers get them in the order in which they happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Everything is decided; nothing has been touched.
    Planned {
        /// The image that will be used; none on the host engine.
        image: Option<String>,
        /// The engine's address, or `host`.
        engine: String,
        /// How the files travel.
        route: Route,
        /// Why they travel so.
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
        /// What it does.
        holder: Holding,
        /// Why the two cannot run at the same time.
        #[serde(flatten)]
        why: WaitsFor,
    },
    /// The workspace is there, and its agent answers.
    Workspace {
        /// The container's name.
        name: String,
        /// How it was come by.
        #[serde(flatten)]
        how: Reached,
    },
    /// The agent cannot run the build, which goes by the plain Engine API: nothing is kept.
    WithoutAgent {
        /// What keeps the agent from running it.
        why: WithoutAgent,
        /// How that shows, in words.
        detail: String,
    },
    /// Why a file travels; only where `--explain` asks for it.
    Travelled {
        /// Which way.
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
        /// Which limit.
        limit: Limit,
    },
    /// `watch`: sources were changed, and a build begins.
    SourcesChanged {
        /// The first ones, below the source root.
        paths: Vec<RelPath>,
        /// How many more there are.
        more: u64,
    },
    /// `watch`: nothing is to be done until something changes.
    Watching {
        /// How changes are noticed.
        by: Noticing,
    },
    /// The command failed, and by all that can be seen the mount did it, not the command.
    MountFailed {
        /// The route.
        route: Route,
        /// What the command exited with.
        exit_code: u8,
        /// The path that it failed at, below the source root.
        path: RelPath,
        /// What it wrote of that.
        line: String,
        /// What is done about it.
        then: Fallback,
    },
    /// A phase began.
    PhaseStarted {
        /// Which.
        phase: Phase,
        /// How much there is to do, where it is known before.
        total: Option<Amount>,
    },
    /// A phase got further. May come often; renderers thin it out.
    PhaseProgress {
        /// Which.
        phase: Phase,
        /// Done so far, from the phase's beginning.
        done: Amount,
    },
    /// A layer of an image being pulled got further.
    PullProgress {
        /// The layer's id, as the engine names it; empty for words about the whole image.
        layer: String,
        /// What is being done to it, in the engine's words.
        status: String,
        /// Bytes done.
        current: u64,
        /// Bytes in all, where the registry said.
        total: Option<u64>,
    },
    /// A phase is over, well.
    PhaseEnded {
        /// Which.
        phase: Phase,
        /// What it moved.
        done: Amount,
        /// Its wall time.
        #[serde(serialize_with = "as_seconds")]
        took: Duration,
    },
    /// The build's own output begins: whatever is drawn must be gone before this returns.
    BuildOutputBegins,
    /// See [`Warning`].
    Warned(Warning),
    /// The last event of a run that got as far as a result.
    Finished {
        /// What fastbuild exits with.
        exit_code: u8,
        /// What became of the host's files; none when nothing was collected.
        applied: Option<Applied>,
        /// What the agent cost; none without it.
        agent: Option<AgentCost>,
        /// The run before this one, which a mount failed.
        earlier: Option<Earlier>,
        /// Wall time of it all.
        #[serde(serialize_with = "as_seconds")]
        took: Duration,
    },
}

/// What fastbuild failed with, as text: the error, what caused it, and what the user can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename = "error")]
pub struct Failure {
    /// The outermost error.
    pub message: String,
    /// What led to it, outermost first; those that `message` or an earlier cause already quotes are left out.
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
            // Many errors word their source into their own text; saying it twice only pushes the advice off the screen.
            if !causes.last().unwrap_or(&message).contains(&text) {
                causes.push(text);
            }
            next = cause.source();
        }
        Failure { message, causes, advice: advice.map(str::to_owned) }
    }
}

/// A path as the text that people see too ([`Escaped`]): serde's own form fails on names that are not UTF-8.
pub fn path_text(path: &Path) -> String {
    Escaped(path.as_os_str().as_encoded_bytes()).to_string()
}

/// For JSON.
pub(crate) fn as_text<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path_text(path))
}

fn as_texts<S: serde::Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path_text(path)))
}

fn as_seconds<S: serde::Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // Whole microseconds: more digits would be noise.
    serializer.serialize_f64(took.as_micros() as f64 / 1e6)
}
