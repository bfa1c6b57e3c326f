//! The workspace of a project on an engine: finding or making it, entering it, leaving it.
//!
//! In: a plan, the image's facts, an engine. Out: an open [`Session`] with the agent inside, and
//! how the workspace came about ([`How`]). Invariants: a workspace is used only when everything it
//! was made with ([`Generation`]) equals what is wanted now. No session is joined: one client
//! attaches, and the others come by an exec. Reasons why the agent cannot run there
//! ([`WithoutAgent`]) are kept apart from failures of the engine, so that the build can go on
//! without the agent. This module does not print and does not decide about builds; [`crate::build`]
//! does. The caller holds the project's lock.
//!
//! The engine gets as few requests as possible: a workspace that exists and runs costs one look
//! ([`Docker::look`], in parallel with the image's) and one attach.
//!
//! | piece | what it is for |
//! |---|---|
//! | [`spec`] | the specification of a workspace |
//! | [`mod@ensure`] | its container: found as specified, started, or made |
//! | [`generation`] | the values whose change requires a new workspace |
//! | [`saved_state`] | what the state directory knows of a workspace |
//! | [`storage`] | tmpfs, volume and caches beside the layer |
//! | [`share_marker`] | which project's sources a share holds |
//! | [`auto_prune`] | the automatic limits |
//! | [`list`] | all workspaces of an engine, and which of them to remove |
//! | [`scratch`] | a workspace without a container: a directory of this machine |
//! | [`command_defaults`] | what the image or the machine says about a command |

pub mod auto_prune;
pub mod command_defaults;
pub mod ensure;
pub mod error;
mod events;
pub mod generation;
pub mod list;
pub mod saved_state;
pub mod scratch;
pub mod share_marker;
pub mod spec;
pub mod storage;

use std::{path::PathBuf, time::Duration};

pub use command_defaults::Surroundings;
pub(crate) use ensure::agent_archive;
pub use ensure::{Maker, Ready, ensure};
use ensure::{make_anew, not_started, refuse_foreign};
pub use error::{WithoutAgent, WorkspaceError};
pub use generation::{Changed, Generation};
pub use saved_state::Mark;
use scratch::{Child, ScratchError};
use share_marker::Marker;
pub use share_marker::Share;
pub use spec::{Keeping, Wanted};
use storage::remove_volumes;

use tokio::time::timeout;

use crate::{
    agent::{
        client::{Duplex, Session, SessionError, Settings},
        program,
        protocol::{Held, Request, decode},
    },
    engine::{
        Attached, Call, Cause, ContainerFacts, ContainerId, ContainerState, Docker, EngineError, Life,
        Obituary, Operation, Owned, Reach, Removed, Serves, StartError, labels,
    },
    plan::Plan,
    spec::{Stdin, Stream, Terminal},
    state::{Project, State, StateError},
};

/// The interval at which a state that changes by itself is checked.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// How long the agent may take to end a session, including processes that cannot be killed.
const FREEING: Duration = Duration::from_secs(15);

/// How long a workspace may take to report how much only it has.
const WEIGHING: Duration = Duration::from_secs(30);

/// How long a one-run container may take to end by itself before it is removed.
const ENDS_BY_ITSELF: Duration = Duration::from_secs(20);

/// How a workspace came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// It existed and was running.
    Found,
    /// It existed and had stopped.
    Started,
    /// It existed, but its agent did not answer.
    Restarted {
        /// What the failure looked like, in words.
        because: String,
    },
    /// It is new.
    Made(Why),
}

/// Why a workspace was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// No workspace existed.
    Fresh,
    /// The existing one was made with other values.
    Changed(Vec<Changed>),
    /// `--fresh`.
    Asked,
    /// The existing one was unusable, for this reason.
    Broken(String),
}

/// The name of a plan's workspace, on every engine: from the source root, the values that cannot be
/// changed on a container, and the project's name, or without one this state directory's id.
///
/// # Errors
/// When the state directory cannot keep its id.
pub fn name(plan: &Plan, project: &Project, state: &State) -> Result<String, StateError> {
    Ok(format!("fastbuild-ws-{}-{}-{}", project.key(), Generation::key(plan), owner(plan, project, state)?))
}

/// Tells a project from others with the same source root: its name, or else its state directory.
fn owner(plan: &Plan, project: &Project, state: &State) -> Result<String, StateError> {
    let id: String = project.id().chars().take(6).collect();
    Ok(match &plan.name {
        Some(name) => format!("{}{id}", name.value),
        None => format!("{}{id}", state.id()?),
    })
}

/// A workspace with a session open in it.
pub struct Workspace {
    name: String,
    how: How,
    mark: Mark,
    mark_path: Option<PathBuf>,
    far: Far,
    /// Which project a share in the working directory's place belongs to.
    share: Share,
}

/// The far end of the session.
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
    owned: Owned,
    marker: Option<Marker>,
    reach: Reach,
    /// The run that this client belongs to.
    run: String,
    /// In seconds since 1970, by this machine's clock.
    made: u64,
}

/// How a client reaches the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// The only client of its state directory; it may attach.
    Main,
    /// One of several clients; it must not disturb the others.
    Further,
}

impl Line {
    fn reach(self, docker: &Docker, serves: Serves, maker: Maker) -> Reach {
        match (serves, self, maker) {
            // Podman ends the process's input with the first attach, as a one-run container needs.
            (Serves::OneClient, ..) => Reach::Attach,
            (_, Line::Main, Maker::Here) => docker.facts().reach(),
            (_, Line::Further, _) | (_, _, Maker::Elsewhere) => Reach::Exec,
        }
    }
}

/// Enters the workspace: makes it ready, and opens a session. `found` is what [`Docker::look`]
/// found at [`Wanted::name`]; a further client needs the wanted one. For `first` see
/// [`Session::open`].
///
/// # Errors
/// [`WithoutAgent`] when the agent cannot run there or does not answer even in a new workspace
/// (which is removed), and the engine's.
pub async fn enter(
    docker: &Docker,
    wanted: &Wanted,
    found: Option<ContainerFacts>,
    line: Line,
    settings: &Settings,
    first: &[Request],
) -> Result<(Workspace, Session), WorkspaceError> {
    let ready = ensure(docker, wanted, found).await?;
    let (mut workspace, container) = Workspace::of(docker, wanted, ready, line, settings);
    let trouble = match container.open(&workspace.name, settings, first).await {
        Ok(session) => return Ok((workspace, session)),
        Err(error) if line == Line::Further => return Err(workspace.why_not_entered(error).await),
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
            // If the engine is gone, its error is the reason.
            wanted.remove(docker).await?;
            return Err(WithoutAgent::NoAnswer { detail }.into());
        }
        (_, trouble) => trouble,
    };
    let why = match trouble {
        Trouble::Gone => Why::Fresh,
        Trouble::Agent(because) | Trouble::Useless(because) => Why::Broken(because),
    };
    let ready = make_anew(docker, wanted, why).await?;
    let (workspace, container) = Workspace::of(docker, wanted, ready, line, settings);
    match container.open(&workspace.name, settings, first).await {
        Ok(session) => Ok((workspace, session)),
        Err(error) => match Trouble::of(error)? {
            Trouble::Gone => Err(gone(&workspace.name).into()),
            Trouble::Agent(detail) | Trouble::Useless(detail) => {
                wanted.remove(docker).await?;
                Err(WithoutAgent::NoAnswer { detail }.into())
            }
        },
    }
}

/// A workspace to enter as it is.
pub struct Existing<'a> {
    /// Its name.
    pub name: &'a str,
    /// The result of [`Docker::look`] for it.
    pub found: ContainerFacts,
    /// The project that owns it.
    pub project: &'a Project,
    /// The engine's address.
    pub engine: &'a str,
}

/// Enters a workspace whatever it was made with, for clients that only look at it.
///
/// # Errors
/// [`WorkspaceError::Foreign`], the engine's, and the agent's when a restart does not help.
pub async fn enter_found(
    docker: &Docker,
    existing: Existing<'_>,
    line: Line,
    settings: &Settings,
    first: &[Request],
) -> Result<(Workspace, Session), WorkspaceError> {
    let Existing { name, found, project, engine } = existing;
    refuse_foreign(&found, name)?;
    let how = match found.life {
        Life::Running => How::Found,
        Life::Paused => docker.unpause(&found.id).await.map(|()| How::Found)?,
        Life::Created | Life::Exited | Life::Dead => {
            docker.start(&found.id).await.map_err(not_started)?;
            How::Started
        }
    };
    let mark_path = project.workspace_path(engine, name);
    let label = |label: &str| found.labels.get(label).cloned().unwrap_or_default();
    let known = Mark::load(&mark_path).filter(|mark| mark.container == found.id.as_str());
    let mark = known.unwrap_or_else(|| {
        let (container, source) = (found.id.as_str().to_owned(), label(labels::SOURCE));
        Mark::new(name.to_owned(), container, engine.to_owned(), label(labels::IMAGE), source.as_ref())
    });
    let container = Container {
        docker: docker.clone(),
        owned: Owned::of(&found.labels),
        reach: line.reach(docker, Serves::ManyClients, Maker::of(&found, &settings.client.state)),
        run: settings.client.run.clone(),
        id: found.id,
        marker: None,
        made: mark.made,
    };
    let (mark_path, far) = (Some(mark_path), Far::Container(container.clone()));
    let mut workspace = Workspace { name: name.to_owned(), how, mark, mark_path, far, share: Share::Ours };
    let error = match container.open(name, settings, first).await {
        Ok(session) => return Ok((workspace, session)),
        Err(error) if line == Line::Further => return Err(workspace.why_not_entered(error).await),
        Err(error) => error,
    };
    let because = match Trouble::of(error)? {
        Trouble::Agent(because) => because,
        Trouble::Gone => return Err(gone(name).into()),
        Trouble::Useless(detail) => return Err(WithoutAgent::NoAnswer { detail }.into()),
    };
    let session = workspace.open_after_restart(&container, because, settings, first).await?;
    Ok((workspace, session))
}

/// Enters a scratch directory of this machine: starts the agent in it, and opens a session. `how`
/// says how the directory came about.
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
    let mut workspace = Workspace { name, how, mark, mark_path, far: Far::Child(child), share: Share::Ours };
    match Session::open(duplex, settings, first).await {
        Ok(session) => Ok((workspace, session)),
        Err(error) => Err(workspace.why_over(error).await),
    }
}

/// Why a session does not open, and what may help.
enum Trouble {
    /// The container was removed in the meantime: make another one.
    Gone,
    /// The agent does not answer correctly: restart it.
    Agent(String),
    /// The agent speaks another protocol, or it cannot be restarted: make another workspace.
    Useless(String),
}

impl Trouble {
    /// A failure of the engine is returned as an error: the workspace is not its cause.
    fn of(error: WorkspaceError) -> Result<Trouble, WorkspaceError> {
        match error {
            WorkspaceError::Engine(EngineError::NoSuchContainer { .. }) => Ok(Trouble::Gone),
            WorkspaceError::WithoutAgent(why) => Ok(Trouble::Useless(why.to_string())),
            // The engine refuses the attach or exec: the container has stopped, or is about to go.
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
    fn of(
        docker: &Docker,
        wanted: &Wanted,
        ready: Ready,
        line: Line,
        settings: &Settings,
    ) -> (Workspace, Container) {
        let mut fresh = wanted.mark.clone();
        fresh.container = ready.container.as_str().to_owned();
        let known = wanted
            .known_mark()
            .filter(|mark| mark.container == fresh.container && mark.engine == fresh.engine);
        let mark = known.unwrap_or(fresh);
        let marker = wanted.marker.clone();
        let container = Container {
            docker: docker.clone(),
            id: ready.container,
            owned: wanted.owned.clone(),
            marker,
            reach: line.reach(docker, wanted.spec.serves, ready.maker),
            run: settings.client.run.clone(),
            made: mark.made,
        };
        let workspace = Workspace {
            name: wanted.name.clone(),
            how: ready.how,
            mark,
            mark_path: wanted.mark_path.clone(),
            far: Far::Container(container.clone()),
            share: ready.share,
        };
        (workspace, container)
    }

    /// Its container; `None` where it is a directory of this machine.
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

    /// What is known of the workspace. [`Workspace::left_well`] saves it.
    pub fn mark(&mut self) -> &mut Mark {
        &mut self.mark
    }

    /// Claims a share in the working directory's place, which held `entries`, for this project.
    ///
    /// # Errors
    /// [`WorkspaceError::StrangeShare`]; the engine's when the marker cannot be written.
    pub async fn claim_share(&mut self, entries: u64) -> Result<(), WorkspaceError> {
        let (Far::Container(Container { docker, id, marker: Some(marker), .. }), Share::New) =
            (&self.far, self.share)
        else {
            return Ok(());
        };
        if entries > 0 {
            return Err(WorkspaceError::StrangeShare { entries });
        }
        marker.put(docker, id).await?;
        self.share = Share::Ours;
        Ok(())
    }

    /// Saves what is known of the workspace, after everything of the session has ended.
    ///
    /// # Errors
    /// The state directory's; on this machine also the agent's, when it does not end.
    pub async fn left_well(&mut self) -> Result<(), WorkspaceError> {
        if let Far::Child(child) = &mut self.far {
            child.end().await?;
        }
        if let Some(path) = &self.mark_path {
            self.mark.save(path)?;
        }
        Ok(())
    }

    /// Ends this client's session, and waits until all of it has ended. Its streams are closed.
    ///
    /// # Errors
    /// The engine's, and the agent's when it does not answer or end; not when the container has
    /// stopped.
    pub async fn free(&mut self) -> Result<(), WorkspaceError> {
        match &self.far {
            Far::Container(Container { docker, id, run, .. }) => end_session(docker, id, run).await?,
            // The end of its stream is enough to end it.
            Far::Child(_) => {}
        }
        self.left_well().await
    }

    /// Waits until a one-run container is gone after its client's goodbye, or the end of the
    /// streams.
    ///
    /// # Errors
    /// The engine's.
    pub async fn until_gone(&self) -> Result<(), EngineError> {
        let Far::Container(Container { docker, id, owned, .. }) = &self.far else { return Ok(()) };
        match timeout(ENDS_BY_ITSELF, docker.gone(id)).await {
            Ok(Ok(Removed::Now | Removed::NotOurs)) => return Ok(()),
            Ok(Ok(Removed::Already)) => return remove_volumes(docker, owned).await,
            Ok(Err(error)) => tracing::warn!(%error, "could not wait for a container to go"),
            Err(_) => {}
        }
        docker.remove(id.as_str(), owned).await?;
        remove_volumes(docker, owned).await
    }

    /// Finds out why a session did not open, where this client must not repair it.
    async fn why_not_entered(&mut self, error: WorkspaceError) -> WorkspaceError {
        match error {
            WorkspaceError::Session(error) => self.why_over(error).await,
            error => error,
        }
    }

    /// Finds out why a session ended early: the engine, the container, or the agent itself.
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
    async fn why_over(&self, name: &str, error: SessionError) -> WorkspaceError {
        match self.docker.state(&self.id).await {
            Err(EngineError::NoSuchContainer { .. }) => self.why_gone(name).await,
            Err(engine) => engine.into(),
            Ok(state) if state.removing => self.why_gone(name).await,
            Ok(state) if !state.running => WorkspaceError::Stopped { name: name.to_owned(), state },
            Ok(_) => error.into(),
        }
    }

    /// A one-run container is removed with its first process. Only engine events tell how that
    /// ended.
    async fn why_gone(&self, name: &str) -> WorkspaceError {
        match self.docker.obituary(&self.id, self.made).await {
            Some(Obituary { exit_code, cause: cause @ (Cause::OutOfMemory | Cause::Stopped) }) => {
                let state = ContainerState {
                    running: false,
                    removing: true,
                    exit_code,
                    oom_killed: cause == Cause::OutOfMemory,
                    error: String::new(),
                };
                WorkspaceError::Stopped { name: name.to_owned(), state }
            }
            _ => gone(name).into(),
        }
    }

    async fn open(
        &self,
        name: &str,
        settings: &Settings,
        first: &[Request],
    ) -> Result<Session, WorkspaceError> {
        let Attached { input, output } = match self.reach {
            Reach::Attach => {
                self.docker.attach(&self.id, Terminal::None, Stdin::Forward).await.map_err(|error| {
                    match error {
                        // Refused now; a restart may help.
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

/// How much only the workspace with its tree at `workdir` has; `None` if it does not run, or its
/// agent cannot tell. A build may be running in it.
pub(crate) async fn weigh(docker: &Docker, container: &ContainerId, workdir: &str) -> Option<Held> {
    let weighing = async {
        let mut output = docker.exec(container, &[program::PATH, "weigh", workdir]).await.ok()?.output;
        let mut told = Vec::new();
        while let Some((stream, bytes)) = output.next().await.ok()? {
            if stream == Stream::Stdout {
                told.extend_from_slice(&bytes);
            }
        }
        decode(&told).ok()
    };
    timeout(WEIGHING, weighing).await.ok().flatten()
}

/// Ends the session of a run whose client is gone, with every process in it, and waits until it is
/// over. A workspace that is gone or has stopped is not an error.
pub(crate) async fn end_session(
    docker: &Docker,
    container: &ContainerId,
    run: &str,
) -> Result<(), WorkspaceError> {
    let ending = async {
        let mut ended = match docker.exec(container, &[program::PATH, "end", run]).await {
            Ok(Attached { output, .. }) => output,
            // It does not run, or does not exist.
            Err(EngineError::Api { status: 409, .. } | EngineError::NoSuchContainer { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        while ended.next().await?.is_some() {}
        Ok(())
    };
    match timeout(FREEING, ending).await {
        Ok(ended) => Ok(ended?),
        Err(_) => {
            let diagnostics = String::new();
            Err(SessionError::NoWelcome { waited: FREEING, diagnostics }.into())
        }
    }
}
