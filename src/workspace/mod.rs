//! The workspace of a project on an engine: found or made, entered, and left.
//!
//! In: a plan, the image's facts, an engine. Out: an open [`Session`] with the agent inside, and how the workspace came
//! about ([`How`]). What must hold: a workspace is used only when all that it was made with ([`Generation`]) is what is
//! wanted now; nobody's session is joined, for what a dead client left is ended first; whatever keeps the agent from
//! running there is told apart ([`NotWarm`]) from an engine that fails, so that the build can go on cold. Nothing here
//! prints or decides about builds; [`crate::build`] does. The caller holds the project's lock.
//!
//! An engine is asked as little as can be: a workspace that is there and running costs one look ([`Docker::look`],
//! beside the image's) and one attach.
//!
//! | piece | what it is for |
//! |---|---|
//! | [`generation`] | what makes a new workspace when it changes |
//! | [`mark`] | what the state directory knows of a workspace |
//! | [`own`] | what an image has where the sources go |
//! | [`storage`] | tmpfs, volume and caches beside the layer |
//! | [`daily`] | the automatic limits |
//! | [`list`] | all workspaces of an engine, and which of them go |
//! | [`scratch`] | a workspace without a container: a directory of this machine |
//! | [`surroundings`] | what image or machine have to say about a command |

pub mod daily;
pub mod generation;
pub mod list;
pub mod mark;
pub mod own;
pub mod scratch;
pub mod storage;
pub mod surroundings;
mod told;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use bytes::Bytes;
use futures_util::stream;

pub use generation::{Changed, Generation};
pub use mark::{Holds, LastSession, Mark};
use own::Place;
use scratch::{Child, ScratchError};
use storage::Storage;
pub use surroundings::Surroundings;

use crate::{
    agent::{
        near::{Duplex, Session, SessionError, Settings},
        program::{self, NoAgent},
        protocol::Request,
    },
    engine::{
        Attached, Call, ContainerFacts, ContainerId, ContainerSpec, ContainerState, Delivery, Docker,
        EngineError, Entrypoint, ImageFacts, Life, Operation, Reach, Serves, StartError, labels,
    },
    plan::{Lifetime, OnDocker, Plan, Stdin, Terminal},
    report::numbers::counted_as,
    state::{Project, Run, State, StateError},
    tree::scan::STAGE_PREFIX,
    user::{self, UserError},
};

/// How often, and how long after each other, it is looked whether a session is over that was told to be.
const LOOKS_UNTIL_GONE: u32 = 200;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// How often a container that vanishes is looked at again.
const LOOKS: u32 = 3;

/// How often, each time after [`BETWEEN_LOOKS`], a name is looked at that is taken and has no container yet: the engine is
/// still making the one that a client asked for who died meanwhile.
const LOOKS_FOR_NAME: u32 = 500;

/// How long the agent may take to end what a session left.
const FREEING: Duration = Duration::from_secs(5);

/// The signal that tells the agent that its client is dead.
pub const CLIENT_IS_DEAD: &str = "SIGUSR1";

/// Why there is no warm build here, though the engine may be well: a cold one needs no agent.
#[derive(Debug, thiserror::Error)]
pub enum NotWarm {
    /// There is no agent for the image.
    #[error(transparent)]
    NoAgent(#[from] NoAgent),
    /// The agent cannot be put there.
    #[error("the container's root is read-only: {message}")]
    ReadOnlyRoot {
        /// What the engine said.
        message: String,
    },
    /// The agent was put there and does not start.
    #[error("the agent does not start: {detail}")]
    NotStarted {
        /// What the engine said.
        detail: String,
    },
    /// The image has files of its own where the sources go.
    #[error(
        "the image has files of its own in {directory:?} ({}), and a workspace could not tell them from sources that \
         were removed here; -w names another directory, or leave them out of the sources with --exclude",
        counted_as(*.entries, "entry", "entries")
    )]
    OwnFiles {
        /// The working directory.
        directory: String,
        /// How many, directories and links among them.
        entries: u64,
    },
    /// The agent was started, in a workspace made for it, and does not answer as it should.
    #[error("the agent does not work there: {detail}")]
    NoAnswer {
        /// How that shows.
        detail: String,
    },
}

/// Why a workspace could not be entered, or was left before its time.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// A cold build may do.
    #[error(transparent)]
    NotWarm(#[from] NotWarm),
    /// The engine, or the container is gone.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The scratch directory, where there is no container.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// The agent, or the connection to it, while engine and container are well.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The container ended in the middle of a session.
    #[error("the workspace {name} was stopped while the build ran ({})", ended(.state))]
    Stopped {
        /// The workspace.
        name: String,
        /// How it is now.
        state: ContainerState,
    },
    /// A volume cannot be mounted.
    #[error("the volume {name} cannot be mounted: {message}")]
    Volume {
        /// The volume.
        name: String,
        /// What the engine said.
        message: String,
    },
    /// A share that a volume stands for holds something that fastbuild did not put there.
    #[error("the volume holds files that are not fastbuild's ({}), and they would be taken for old sources", counted_as(*.entries, "entry", "entries"))]
    StrangeShare {
        /// How many.
        entries: u64,
    },
    /// The image's user.
    #[error(transparent)]
    User(#[from] UserError),
    /// A container that is not fastbuild's has the workspace's name.
    #[error("the container {name} is no workspace of fastbuild's, and has the name of one")]
    Foreign {
        /// The name.
        name: String,
    },
}

fn ended(state: &ContainerState) -> String {
    if state.oom_killed { "for want of memory".to_owned() } else { format!("exit code {}", state.exit_code) }
}

impl WorkspaceError {
    /// What a user could do next; none when the message says it all.
    pub fn advice(&self) -> Option<String> {
        match self {
            WorkspaceError::Engine(error) => error.advice(),
            WorkspaceError::Scratch(error) => error.advice(),
            WorkspaceError::Session(error) => error.advice(),
            WorkspaceError::NotWarm(_) => Some("--no-keep builds without a workspace".to_owned()),
            WorkspaceError::State(_) => Some(
                "check its permissions and the disk, or name another directory in FASTBUILD_STATE_DIR".to_owned(),
            ),
            WorkspaceError::Stopped { state, .. } if state.oom_killed => {
                Some("give it more memory (-m/--memory), or run fewer jobs at once".to_owned())
            }
            WorkspaceError::Stopped { .. } => {
                Some("somebody stopped or killed it (`docker stop`, a restart of the engine?); run the build again".to_owned())
            }
            WorkspaceError::Foreign { .. } => Some("rename or remove that container".to_owned()),
            WorkspaceError::Volume { .. } => Some(
                "check --volume-opt, and that the engine's machine reaches what it names; --route layer does without a volume"
                    .to_owned(),
            ),
            WorkspaceError::StrangeShare { .. } => {
                Some("name an empty directory of the share with --volume-opt device=…".to_owned())
            }
            WorkspaceError::User(_) => {
                Some("name a user that the image has with -u/--user, or one by number, such as -u 1000:1000".to_owned())
            }
        }
    }
}

/// How a workspace came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// It was there, running.
    Found,
    /// It was there, and had stopped.
    Started,
    /// It was there, and its agent did not answer; what that looked like.
    Restarted {
        /// In words.
        because: String,
    },
    /// It is new.
    Made(Why),
}

/// Why a workspace was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// There was none.
    Fresh,
    /// The one that was there was made with other values.
    Changed(Vec<Changed>),
    /// `--fresh`.
    Asked,
    /// The one that was there was no use; how that showed.
    Broken(String),
}

/// A workspace that is ready for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Its container.
    pub container: ContainerId,
    /// How it came about.
    pub how: How,
    /// Whether its working directory, where that is a share, holds what fastbuild put there.
    pub share: Share,
}

/// What a share held when a workspace was made on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Nothing that is known, or it is no share.
    New,
    /// This project's sources and products.
    Ours,
}

/// A file in a share that says whose sources are there: everything else in it would be taken for files that were removed here. Its
/// name is one that scans leave out.
#[derive(Debug, Clone)]
struct Marker {
    directory: String,
    name: String,
    content: String,
}

/// The most of a marker that is read, in bytes.
const MARKER_SIZE: u64 = 4 << 10;

impl Marker {
    fn new(plan: &Plan, keeping: &Keeping<'_>, project: &Project) -> Marker {
        let owner = match keeping {
            Keeping::Kept { state, .. } => state.as_str(),
            Keeping::OneRun { .. } => "",
        };
        Marker {
            directory: plan.workdir.value.clone(),
            name: format!("{STAGE_PREFIX}volume"),
            content: format!("{}\n{owner}\n", project.key()),
        }
    }

    async fn look(&self, docker: &Docker, container: &ContainerId) -> Result<Share, EngineError> {
        let path = format!("{}/{}", self.directory, self.name);
        let found = docker.read_small_file(container, &path, MARKER_SIZE).await?;
        // Whoever builds without a workspace does so as the project's, whatever state directory he has.
        let project = |text: &[u8]| text.split(|byte| *byte == b'\n').next().map(<[u8]>::to_vec);
        let is_ours = found.is_some_and(|found| project(&found) == project(self.content.as_bytes()));
        Ok(if is_ours { Share::Ours } else { Share::New })
    }

    async fn put(&self, docker: &Docker, container: &ContainerId) -> Result<(), EngineError> {
        let file = archive(user::ROOT, &[(tar::EntryType::Regular, &self.name, self.content.as_bytes())]);
        docker.put(container, &self.directory, stream::iter([Ok(file)])).await
    }
}

/// The name of a project's workspace, on whatever engine.
///
/// # Errors
/// When the state directory cannot keep its id.
pub fn name(project: &Project, state: &State) -> Result<String, StateError> {
    Ok(format!("fastbuild-ws-{}-{}", project.key(), state.id()?))
}

/// For how long a workspace is made.
#[derive(Debug)]
pub enum Keeping<'a> {
    /// Until it is removed: the project's own.
    Kept {
        /// See [`name`].
        name: String,
        /// The state directory that knows it.
        state: String,
    },
    /// For the builds of one run, and under a name of its own.
    OneRun {
        /// The name.
        name: String,
        /// The run.
        run: &'a Run,
    },
}

impl<'a> Keeping<'a> {
    /// Until it is removed.
    ///
    /// # Errors
    /// As [`name`].
    pub fn kept(project: &Project, state: &State) -> Result<Keeping<'a>, StateError> {
        Ok(Keeping::Kept { name: name(project, state)?, state: state.id()? })
    }

    /// For `run` alone.
    pub fn one_run(project: &Project, run: &'a Run) -> Keeping<'a> {
        Keeping::OneRun { name: format!("fastbuild-{}-{}", project.key(), run.id), run }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        match self {
            Keeping::Kept { name, .. } | Keeping::OneRun { name, .. } => name,
        }
    }

    /// Whose it is.
    fn label(&self) -> (&'static str, &str) {
        match self {
            Keeping::Kept { state, .. } => (labels::STATE, state),
            Keeping::OneRun { run, .. } => (labels::RUN, &run.id),
        }
    }

    fn tier(&self) -> &'static str {
        match self {
            Keeping::Kept { .. } => labels::WARM,
            Keeping::OneRun { .. } => labels::COLD,
        }
    }
}

/// What a workspace is to be.
#[derive(Debug, Clone)]
pub struct Wanted {
    name: String,
    generation: Generation,
    lifetime: Lifetime,
    spec: ContainerSpec,
    storage: Storage,
    marker: Option<Marker>,
    agent: &'static [u8],
    /// None where nothing is worth knowing later.
    mark_path: Option<PathBuf>,
    /// As it would be if nothing else were known of it.
    mark: Mark,
    place: Place,
    own_files_path: PathBuf,
}

impl Wanted {
    /// Decides what the workspace of `plan` in `image` is made with.
    ///
    /// # Errors
    /// [`NotWarm::NoAgent`] when no agent runs in such an image; the state directory's.
    pub fn new(
        plan: &Plan,
        at: OnDocker<'_>,
        image: &ImageFacts,
        keeping: &Keeping<'_>,
        storage: Storage,
        project: &Project,
    ) -> Result<Wanted, WorkspaceError> {
        let agent = program::for_platform(&image.os, &image.architecture).map_err(NotWarm::from)?;
        let (place, own_files_path) = (Place::new(plan, image), project.own_files_path());
        let name = keeping.name().to_owned();
        let generation = Generation::new(plan, image, agent);
        let engine = at.endpoint.to_string();
        let mark =
            Mark::new(name.clone(), String::new(), engine.clone(), at.image.to_owned(), &plan.source.value);
        let labels = [
            (labels::TIER, keeping.tier().to_owned()),
            (labels::PROJECT, project.key().to_owned()),
            (labels::VERSION, env!("CARGO_PKG_VERSION").to_owned()),
            (keeping.label().0, keeping.label().1.to_owned()),
            (labels::SOURCE, mark.source.clone()),
            (labels::IMAGE, mark.image.clone()),
            (labels::GENERATION, generation.to_label()),
            (labels::CREATED, mark.made.to_string()),
        ];
        let spec = ContainerSpec {
            name: name.clone(),
            image: image.id.clone(),
            command: vec!["init".to_owned()],
            entrypoint: Entrypoint::Program(program::PATH.to_owned()),
            // What belongs to one build (environment, directory, user) is said when it runs.
            env: Vec::new(),
            user: Some("0:0".to_owned()),
            working_dir: "/".to_owned(),
            labels: labels.map(|(label, value)| (label.to_owned(), value)).into(),
            terminal: Terminal::None,
            stdin: Stdin::Forward,
            serves: Serves::ManyClients,
            network: plan.network.as_ref().map(|network| network.value.clone()),
            memory: plan.memory.as_ref().map(|memory| memory.value),
            nano_cpus: plan.nano_cpus.as_ref().map(|cpus| cpus.value),
            isolation: plan.isolation.as_ref().map(|isolation| isolation.value),
            platform: plan.platform.as_ref().map(|platform| platform.value.clone()),
            mounts: storage.mounts(),
        };
        let lifetime = plan.workspace.lifetime.value;
        Ok(Wanted {
            name,
            generation,
            lifetime,
            spec,
            marker: storage.is_shared().then(|| Marker::new(plan, keeping, project)),
            storage,
            agent,
            mark_path: match keeping {
                Keeping::Kept { .. } => Some(project.workspace_path(&engine)),
                Keeping::OneRun { .. } => None,
            },
            mark,
            place,
            own_files_path,
        })
    }

    /// The container's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Removes the workspace that was made of an image with so many files of its own among the sources, and notes that it is not to
    /// be made again.
    ///
    /// # Errors
    /// The engine's and the state directory's.
    pub async fn give_up(&self, docker: &Docker, entries: u64) -> Result<(), WorkspaceError> {
        self.remove(docker).await?;
        Ok(self.place.note(&self.own_files_path, entries)?)
    }

    /// Removes the workspace with all that is in it; a share stays as it is.
    ///
    /// # Errors
    /// The engine's.
    pub async fn remove(&self, docker: &Docker) -> Result<(), EngineError> {
        docker.remove(&self.name).await?;
        // The one that is removed may have been made for another route than is wanted now.
        docker.remove_volume(&self.name).await.map(drop)
    }

    /// What is known of the workspace in the state directory.
    fn known_mark(&self) -> Option<Mark> {
        Mark::load(self.mark_path.as_deref()?)
    }

    /// What keeps a container that was found from being the wanted one.
    fn judge(&self, found: &ContainerFacts) -> Option<Why> {
        if self.lifetime == Lifetime::Fresh {
            return Some(Why::Asked);
        }
        let label = found.labels.get(labels::GENERATION);
        let Some(made_with) = label.and_then(|label| Generation::from_label(label)) else {
            return Some(Why::Broken("it does not say what it was made with".to_owned()));
        };
        let changed = self.generation.changed_since(&made_with);
        if !changed.is_empty() {
            return Some(Why::Changed(changed));
        }
        let mark = self.known_mark().filter(|mark| mark.container == found.id.as_str());
        if let Some(Mark { holds: Holds::SourcesBesideOwn(left_out), .. }) = mark
            && left_out != *self.place.left_out()
        {
            let why = "what is left out of the sources has changed, where the image has files of its own";
            return Some(Why::Broken(why.to_owned()));
        }
        match found.life {
            Life::Created => Some(Why::Broken("its making was cut short".to_owned())),
            Life::Dead => Some(Why::Broken("it is being removed".to_owned())),
            Life::Running | Life::Paused | Life::Exited => None,
        }
    }
}

/// Has a workspace ready for a session. `found` is what [`Docker::look`] said of [`Wanted::name`].
///
/// # Errors
/// [`NotWarm`] when the agent cannot run there, [`WorkspaceError::Foreign`], and the engine's.
pub async fn ensure(
    docker: &Docker,
    wanted: &Wanted,
    found: Option<ContainerFacts>,
) -> Result<Ready, WorkspaceError> {
    let (mut found, mut looks, mut looks_for_name) = (found, 1, 0);
    loop {
        match ensure_once(docker, wanted, found).await {
            // Somebody else is making it.
            Err(WorkspaceError::Engine(EngineError::NameTaken { .. })) if looks_for_name < LOOKS_FOR_NAME => {
                looks_for_name += 1;
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
            // Somebody removed it in between.
            Err(WorkspaceError::Engine(EngineError::NoSuchContainer { .. })) if looks < LOOKS => looks += 1,
            ready => return ready,
        }
        found = docker.look(&wanted.name).await?;
    }
}

async fn ensure_once(
    docker: &Docker,
    wanted: &Wanted,
    found: Option<ContainerFacts>,
) -> Result<Ready, WorkspaceError> {
    let Some(found) = found else { return make(docker, wanted, Why::Fresh).await };
    refuse_foreign(&found, &wanted.name)?;
    if let Some(why) = wanted.judge(&found) {
        return make_anew(docker, wanted, why).await;
    }
    let container = found.id;
    let share = share_of(docker, wanted, &container).await?;
    match found.life {
        Life::Paused => docker.unpause(&container).await?,
        Life::Exited => {
            return match docker.start(&container).await.map_err(not_started) {
                Ok(()) => Ok(Ready { container, how: How::Started, share }),
                Err(WorkspaceError::NotWarm(why)) => {
                    make_anew(docker, wanted, Why::Broken(why.to_string())).await
                }
                Err(error) => Err(error),
            };
        }
        Life::Created | Life::Running | Life::Dead => {}
    }
    Ok(Ready { container, how: How::Found, share })
}

/// Whose a share is in a workspace that is there: where nothing is known of the workspace, the run that made it was killed, and
/// may not have come to look at what the share holds.
async fn share_of(docker: &Docker, wanted: &Wanted, container: &ContainerId) -> Result<Share, EngineError> {
    let is_known = || wanted.known_mark().is_some_and(|mark| mark.container == container.as_str());
    match &wanted.marker {
        Some(marker) if !is_known() => marker.look(docker, container).await,
        _ => Ok(Share::Ours),
    }
}

/// What is not fastbuild's is not touched, whatever its name.
fn refuse_foreign(found: &ContainerFacts, name: &str) -> Result<(), WorkspaceError> {
    match found.labels.get(labels::TIER) {
        Some(tier) if tier == labels::WARM => Ok(()),
        _ => Err(WorkspaceError::Foreign { name: name.to_owned() }),
    }
}

async fn make_anew(docker: &Docker, wanted: &Wanted, why: Why) -> Result<Ready, WorkspaceError> {
    wanted.remove(docker).await?;
    make(docker, wanted, why).await
}

/// What is made and cannot be used is removed again; what is made when this is dropped is found by the next run.
async fn make(docker: &Docker, wanted: &Wanted, why: Why) -> Result<Ready, WorkspaceError> {
    if wanted.lifetime != Lifetime::Fresh
        && let Some(entries) = wanted.place.known(&wanted.own_files_path)
    {
        return Err(NotWarm::OwnFiles { directory: wanted.place.directory().to_owned(), entries }.into());
    }
    wanted.storage.provide(docker).await.map_err(|error| wanted.storage.blame(error.into()))?;
    let container = match docker.create(&wanted.spec).await {
        Ok(container) => container,
        // The volume is in use there.
        Err(error @ EngineError::NameTaken { .. }) => return Err(error.into()),
        Err(error) => {
            remove_useless(docker, wanted).await;
            return Err(wanted.storage.blame(error.into()));
        }
    };
    match furnish(docker, wanted, &container).await {
        Ok(share) => Ok(Ready { container, how: How::Made(why), share }),
        Err(error) => {
            remove_useless(docker, wanted).await;
            Err(wanted.storage.blame(error))
        }
    }
}

async fn furnish(docker: &Docker, wanted: &Wanted, container: &ContainerId) -> Result<Share, WorkspaceError> {
    let share = match &wanted.marker {
        Some(marker) => marker.look(docker, container).await?,
        None => Share::New,
    };
    let archive = agent_archive(wanted.agent);
    docker.put(container, "/", stream::iter([Ok(archive)])).await.map_err(|error| match error {
        EngineError::ReadOnly { message, .. } => WorkspaceError::from(NotWarm::ReadOnlyRoot { message }),
        error => error.into(),
    })?;
    docker.start(container).await.map_err(not_started)?;
    Ok(share)
}

async fn remove_useless(docker: &Docker, wanted: &Wanted) {
    if let Err(error) = wanted.remove(docker).await {
        tracing::warn!(workspace = wanted.name, %error, "could not remove a workspace that is of no use; the next run tries again");
    }
}

/// Why a start failed: the agent's matter, or the engine's.
fn not_started(error: StartError) -> WorkspaceError {
    match error {
        StartError::CommandNotFound { message, .. } | StartError::NotExecutable { message, .. } => {
            NotWarm::NotStarted { detail: message }.into()
        }
        StartError::Other(EngineError::Api { message, .. }) => NotWarm::NotStarted { detail: message }.into(),
        StartError::Other(EngineError::ReadOnly { message, .. }) => NotWarm::ReadOnlyRoot { message }.into(),
        StartError::Other(error) => error.into(),
    }
}

/// `/.fastbuild/agent`, as the engine unpacks it.
pub(crate) fn agent_archive(agent: &[u8]) -> Bytes {
    let path = program::PATH.trim_start_matches('/');
    let directory = path.split_once('/').map_or("", |(directory, _)| directory);
    archive(
        user::ROOT,
        &[(tar::EntryType::Directory, directory, b""), (tar::EntryType::Regular, path, agent)],
    )
}

/// Directories at absolute paths, as the engine unpacks them below `/`; their contents stay as they are.
pub fn directories(paths: &[String], owner: user::Ids) -> Bytes {
    let entries: Vec<_> = paths
        .iter()
        .map(|path| (tar::EntryType::Directory, path.trim_start_matches('/'), b"".as_slice()))
        .collect();
    archive(owner, &entries)
}

/// An archive of a few entries that everybody may read and run.
fn archive(owner: user::Ids, entries: &[(tar::EntryType, &str, &[u8])]) -> Bytes {
    let mut archive = tar::Builder::new(Vec::new());
    for (kind, path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_uid(owner.uid.into());
        header.set_gid(owner.gid.into());
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        // To memory, of paths that are relative.
        let _ = archive.append_data(&mut header, path, *content);
    }
    archive.into_inner().unwrap_or_default().into()
}

/// A workspace with a session open in it.
pub struct Workspace {
    name: String,
    how: How,
    mark: Mark,
    mark_path: Option<PathBuf>,
    far: Far,
}

/// What the session goes to.
enum Far {
    /// A container with the agent as its first process.
    Container(Container),
    /// An agent on this machine.
    Child(Child),
}

/// A container on its engine.
#[derive(Clone)]
struct Container {
    docker: Docker,
    id: ContainerId,
    marker: Option<Marker>,
}

/// Enters the workspace: has it ready, ends what a dead client left, and opens a session. `found` is what
/// [`Docker::look`] said of [`Wanted::name`]; see [`Session::open`] for `first`.
///
/// # Errors
/// [`NotWarm`] when the agent cannot run there or does not answer even in a new workspace (which is removed), and the
/// engine's.
pub async fn enter(
    docker: &Docker,
    wanted: &Wanted,
    found: Option<ContainerFacts>,
    settings: &Settings,
    first: &[Request],
) -> Result<(Workspace, Session), WorkspaceError> {
    let ready = ensure(docker, wanted, found).await?;
    let (mut workspace, container) = Workspace::of(docker, wanted, ready);
    workspace.prepare(&container).await?;
    let trouble = match container.open(&workspace.name, settings, first).await {
        Ok(session) => return Ok((workspace, session)),
        Err(error) => Trouble::of(error)?,
    };
    let trouble = match (&workspace.how, trouble) {
        (How::Found | How::Started, Trouble::Agent(because)) => {
            match workspace.open_after_restart(&container, because, settings, first).await {
                Ok(session) => return Ok((workspace, session)),
                Err(error) => Trouble::of(error)?,
            }
        }
        (How::Made(_), Trouble::Agent(detail) | Trouble::Useless(detail)) => {
            remove_useless(docker, wanted).await;
            return Err(NotWarm::NoAnswer { detail }.into());
        }
        (_, trouble) => trouble,
    };
    let why = match trouble {
        Trouble::Gone => Why::Fresh,
        Trouble::Agent(because) | Trouble::Useless(because) => Why::Broken(because),
    };
    let ready = make_anew(docker, wanted, why).await?;
    let (mut workspace, container) = Workspace::of(docker, wanted, ready);
    workspace.prepare(&container).await?;
    match container.open(&workspace.name, settings, first).await {
        Ok(session) => Ok((workspace, session)),
        Err(error) => match Trouble::of(error)? {
            Trouble::Gone => Err(gone(&workspace.name).into()),
            Trouble::Agent(detail) | Trouble::Useless(detail) => {
                remove_useless(docker, wanted).await;
                Err(NotWarm::NoAnswer { detail }.into())
            }
        },
    }
}

/// Enters a workspace as it is, whatever it was made with: for who wants to look at it. `found` is what [`Docker::look`] said
/// of `name`.
///
/// # Errors
/// [`WorkspaceError::Foreign`]; the agent's when it does not answer even after a restart, and the engine's.
pub async fn enter_found(
    docker: &Docker,
    name: &str,
    found: ContainerFacts,
    project: &Project,
    engine: &str,
    settings: &Settings,
    first: &[Request],
) -> Result<(Workspace, Session), WorkspaceError> {
    refuse_foreign(&found, name)?;
    let how = match found.life {
        Life::Running => How::Found,
        Life::Paused => docker.unpause(&found.id).await.map(|()| How::Found)?,
        Life::Created | Life::Exited | Life::Dead => {
            docker.start(&found.id).await.map_err(not_started)?;
            How::Started
        }
    };
    let mark_path = project.workspace_path(engine);
    let label = |label: &str| found.labels.get(label).cloned().unwrap_or_default();
    let known = Mark::load(&mark_path).filter(|mark| mark.container == found.id.as_str());
    let mark = known.unwrap_or_else(|| {
        let (container, source) = (found.id.as_str().to_owned(), label(labels::SOURCE));
        Mark::new(name.to_owned(), container, engine.to_owned(), label(labels::IMAGE), source.as_ref())
    });
    let container = Container { docker: docker.clone(), id: found.id, marker: None };
    let (mark_path, far) = (Some(mark_path), Far::Container(container.clone()));
    let mut workspace = Workspace { name: name.to_owned(), how, mark, mark_path, far };
    workspace.prepare(&container).await?;
    let error = match container.open(name, settings, first).await {
        Ok(session) => return Ok((workspace, session)),
        Err(error) => error,
    };
    let because = match Trouble::of(error)? {
        Trouble::Agent(because) => because,
        Trouble::Gone => return Err(gone(name).into()),
        Trouble::Useless(detail) => return Err(NotWarm::NoAnswer { detail }.into()),
    };
    let session = workspace.open_after_restart(&container, because, settings, first).await?;
    Ok((workspace, session))
}

/// Enters a scratch directory of this machine: starts the agent in it, and opens a session. `how` is how it came about.
///
/// # Errors
/// The agent's, and the state directory's.
pub async fn enter_here(
    wanted: &scratch::Wanted,
    held: scratch::Held,
    how: How,
    settings: &Settings,
    first: &[Request],
) -> Result<(Workspace, Session), WorkspaceError> {
    let mut fresh = wanted.mark.clone();
    fresh.container = held.id().to_owned();
    let known = Mark::load(&wanted.mark_path).filter(|mark| mark.container == fresh.container);
    let (name, mark_path) = (held.name(), Some(wanted.mark_path.clone()));
    let (child, duplex) = held.start()?;
    let mark = known.unwrap_or(fresh);
    let mut workspace = Workspace { name, how, mark, mark_path, far: Far::Child(child) };
    workspace.save_mark(LastSession::Open)?;
    match Session::open(duplex, settings, first).await {
        Ok(session) => Ok((workspace, session)),
        Err(error) => Err(workspace.why_over(error).await),
    }
}

/// A session that does not open, and what may help.
enum Trouble {
    /// The container was removed meanwhile: make another one.
    Gone,
    /// The agent does not answer as it should: start it again.
    Agent(String),
    /// It answers, and cannot be talked to; or it cannot be started again: make another one.
    Useless(String),
}

impl Trouble {
    /// Engines that fail are no trouble of the workspace's.
    fn of(error: WorkspaceError) -> Result<Trouble, WorkspaceError> {
        match error {
            WorkspaceError::Engine(EngineError::NoSuchContainer { .. }) => Ok(Trouble::Gone),
            WorkspaceError::NotWarm(why) => Ok(Trouble::Useless(why.to_string())),
            // An attach or exec that the engine refuses: the container has just stopped, or is about to go.
            WorkspaceError::Engine(error @ EngineError::Api { .. }) => Ok(Trouble::Agent(error.to_string())),
            WorkspaceError::Session(error @ SessionError::OtherProtocol { .. }) => {
                Ok(Trouble::Useless(error.to_string()))
            }
            WorkspaceError::Session(
                error @ (SessionError::NoWelcome { .. }
                | SessionError::Ended { .. }
                | SessionError::Write { .. }
                | SessionError::Read { .. }
                | SessionError::Damaged { .. }),
            ) => Ok(Trouble::Agent(error.to_string())),
            error => Err(error),
        }
    }
}

impl Workspace {
    fn of(docker: &Docker, wanted: &Wanted, ready: Ready) -> (Workspace, Container) {
        let mut fresh = wanted.mark.clone();
        fresh.container = ready.container.as_str().to_owned();
        if ready.share == Share::New {
            fresh.holds = Holds::Image;
        }
        // Where nothing is known of this very container, a session may be open in it.
        let known = wanted
            .known_mark()
            .filter(|mark| mark.container == fresh.container && mark.engine == fresh.engine);
        let mut mark = known.unwrap_or(fresh);
        if wanted.storage.is_forgotten_by_a_stop() && ready.how != How::Found {
            mark.seeds.clear();
        }
        let marker = wanted.marker.clone();
        let container = Container { docker: docker.clone(), id: ready.container, marker };
        let workspace = Workspace {
            name: wanted.name.clone(),
            how: ready.how,
            mark,
            mark_path: wanted.mark_path.clone(),
            far: Far::Container(container.clone()),
        };
        (workspace, container)
    }

    /// Its container; none where it is a directory of this machine.
    pub fn container(&self) -> Option<&ContainerId> {
        match &self.far {
            Far::Container(container) => Some(&container.id),
            Far::Child(_) => None,
        }
    }

    /// Its container's name, or its directory's path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it came about.
    pub fn how(&self) -> &How {
        &self.how
    }

    /// What is known of it; `seeds` are for the caller to keep. Saved by [`Workspace::left_well`].
    pub fn mark(&mut self) -> &mut Mark {
        &mut self.mark
    }

    /// Whether no build has put anything there yet.
    pub fn is_of_image_alone(&self) -> bool {
        self.mark.holds == Holds::Image
    }

    /// What `entries` in the place of the sources are that no build has put there.
    pub fn strange_files(&self, directory: &str, entries: u64) -> WorkspaceError {
        match &self.far {
            Far::Container(Container { marker: Some(_), .. }) => WorkspaceError::StrangeShare { entries },
            _ => NotWarm::OwnFiles { directory: directory.to_owned(), entries }.into(),
        }
    }

    /// Notes what its source tree comes from, from now on.
    ///
    /// # Errors
    /// The state directory's; the engine's where a share is to say whose it is.
    pub async fn take_over(&mut self, holds: Holds) -> Result<(), WorkspaceError> {
        if let Far::Container(Container { docker, id, marker: Some(marker) }) = &self.far {
            marker.put(docker, id).await?;
        }
        self.mark.holds = holds;
        Ok(self.save_mark(LastSession::Open)?)
    }

    /// Notes that the session came to its end, once nothing of it is left in the workspace.
    ///
    /// # Errors
    /// The state directory's; then the next run signals the agent in vain, and that is all. On this machine also the
    /// agent's, when it does not end.
    pub async fn left_well(&mut self) -> Result<(), WorkspaceError> {
        if let Far::Child(child) = &mut self.far {
            child.end().await?;
        }
        Ok(self.save_mark(LastSession::Ended)?)
    }

    /// Ends what a dead client left, and notes that a session is about to begin: a client that dies must not leave a mark
    /// that says all is well.
    async fn prepare(&mut self, container: &Container) -> Result<(), WorkspaceError> {
        if self.how == How::Found && self.mark.session == LastSession::Open {
            end_session(&container.docker, &container.id).await?;
        }
        Ok(self.save_mark(LastSession::Open)?)
    }

    fn save_mark(&mut self, session: LastSession) -> Result<(), StateError> {
        match &self.mark_path {
            Some(path) => self.mark.save(path, session),
            None => Ok(()),
        }
    }

    /// Ends whatever session is open, and waits until nothing of it is left. The streams of this client's own are closed.
    ///
    /// # Errors
    /// The engine's, and the agent's when it does not answer or end. Where the container has stopped, nothing runs in it.
    pub async fn free(&mut self) -> Result<(), WorkspaceError> {
        match &self.far {
            Far::Container(container) => container.free(&self.name).await?,
            // That its stream has ended is all that it has to know.
            Far::Child(_) => {}
        }
        self.left_well().await
    }

    /// What is behind a session that ended before its time: the engine, the container, or the agent itself.
    pub async fn why_over(&mut self, error: SessionError) -> WorkspaceError {
        let may_be_more = matches!(
            error,
            SessionError::Ended { .. }
                | SessionError::Write { .. }
                | SessionError::Read { .. }
                | SessionError::Damaged { .. }
                | SessionError::Engine(EngineError::Gone { .. } | EngineError::Frame { .. })
        );
        match &mut self.far {
            _ if !may_be_more => error.into(),
            Far::Container(container) => container.why_over(&self.name, error).await,
            Far::Child(child) => match child.end().await {
                Ok(status) if !status.success() => ScratchError::Ended { status }.into(),
                _ => error.into(),
            },
        }
    }

    async fn open_after_restart(
        &mut self,
        container: &Container,
        because: String,
        settings: &Settings,
        first: &[Request],
    ) -> Result<Session, WorkspaceError> {
        container.docker.restart(&container.id).await.map_err(not_started)?;
        let session = container.open(&self.name, settings, first).await?;
        self.how = How::Restarted { because };
        Ok(session)
    }
}

impl Container {
    /// See [`Workspace::free`]: the agent welcomes nobody before it is free.
    async fn free(&self, name: &str) -> Result<(), WorkspaceError> {
        end_session(&self.docker, &self.id).await?;
        if self.docker.state(&self.id).await.is_ok_and(|state| state.running) {
            let settings = Settings { patience: FREEING, ..Settings::default() };
            self.open(name, &settings, &[]).await?.close().await?;
        }
        Ok(())
    }

    async fn why_over(&self, name: &str, error: SessionError) -> WorkspaceError {
        match self.docker.state(&self.id).await {
            Err(engine) => engine.into(),
            Ok(state) if state.removing => gone(name).into(),
            Ok(state) if !state.running => WorkspaceError::Stopped { name: name.to_owned(), state },
            Ok(_) => error.into(),
        }
    }

    async fn open(
        &self,
        name: &str,
        settings: &Settings,
        first: &[Request],
    ) -> Result<Session, WorkspaceError> {
        let Attached { input, output } = match self.docker.facts().reach() {
            Reach::Attach => {
                self.docker.attach(&self.id, Terminal::None, Stdin::Forward).await.map_err(|error| {
                    match error {
                        // Refused now; a restart may do.
                        StartError::Other(error) => error.into(),
                        error => not_started(error),
                    }
                })?
            }
            Reach::Exec => self.docker.exec(&self.id, &[program::PATH, "session"]).await?,
        };
        let call = || Call::new(Operation::Attach, name);
        let input = input.ok_or_else(|| EngineError::BadAnswer {
            call: call(),
            message: "there is nothing to write to".to_owned(),
        })?;
        Ok(Session::open(Duplex::attached(input, output), settings, first).await?)
    }
}

fn gone(name: &str) -> EngineError {
    EngineError::NoSuchContainer { call: Call::new(Operation::Attach, name) }
}

/// Ends whatever session is open, with everything that runs in it: for a client that cannot say so any more. A workspace that
/// is gone or has stopped is no error.
pub(crate) async fn end_session(docker: &Docker, container: &ContainerId) -> Result<(), EngineError> {
    let before = processes(docker, container).await?;
    match docker.kill(container, CLIENT_IS_DEAD).await {
        Ok(Delivery::Delivered) => until_gone(docker, container, &before).await,
        Ok(Delivery::NotRunning) | Err(EngineError::NoSuchContainer { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits until of those processes only the agent's first one is left. The signal is on its way when the engine says that it
/// was sent: a session that is about to be ended would else welcome the next client, and take it along. What a dead client
/// left unread may make a new session begin, which waits for the next client and is not waited for; where no session was
/// seen, one may just have been beginning, and everybody is.
async fn until_gone(
    docker: &Docker,
    container: &ContainerId,
    those: &BTreeSet<String>,
) -> Result<(), EngineError> {
    for _ in 0..LOOKS_UNTIL_GONE {
        let mut left = processes(docker, container).await?;
        if those.len() > 1 {
            left.retain(|process| those.contains(process));
        }
        if left.len() <= 1 {
            break;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Ok(())
}

/// What runs in the workspace. Where the engine does not tell, what [`until_gone`] guards against has to be risked.
async fn processes(docker: &Docker, container: &ContainerId) -> Result<BTreeSet<String>, EngineError> {
    match docker.processes(container).await {
        Err(EngineError::Api { .. } | EngineError::NoSuchContainer { .. }) => Ok(BTreeSet::new()),
        told => told,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_agent_travels_as_a_program_that_everybody_may_run() {
        let archive = agent_archive(b"\x7fELF");
        let mut archive = tar::Archive::new(&*archive);
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                let header = entry.header();
                (header.path().unwrap().into_owned(), header.mode().unwrap(), header.uid().unwrap(), content)
            })
            .collect();
        assert_eq!(
            entries,
            [
                (PathBuf::from(".fastbuild"), 0o755, 0, Vec::new()),
                (PathBuf::from(".fastbuild/agent"), 0o755, 0, b"\x7fELF".to_vec()),
            ]
        );
    }
}
