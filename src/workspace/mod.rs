//! The workspace of a project on an engine: found or made, entered, and left.
//!
//! In: a plan, the image's facts, an engine. Out: an open [`Session`] with the agent inside, and how the workspace came
//! about ([`How`]). What must hold: a workspace is used only when all that it was made with ([`Generation`]) is what is
//! wanted now; nobody's session is joined, for who attaches is alone, and others come by an exec; whatever keeps the agent from
//! running there is told apart ([`WithoutAgent`]) from an engine that fails, so that the build can go on without it. Nothing here
//! prints or decides about builds; [`crate::build`] does. The caller holds the project's lock.
//!
//! An engine is asked as little as can be: a workspace that is there and running costs one look ([`Docker::look`],
//! beside the image's) and one attach.
//!
//! | piece | what it is for |
//! |---|---|
//! | [`wanted`] | what a workspace is to be |
//! | [`made`] | its container: found so, started, or made |
//! | [`generation`] | what makes a new workspace when it changes |
//! | [`mark`] | what the state directory knows of a workspace |
//! | [`storage`] | tmpfs, volume and caches beside the layer |
//! | [`share`] | whose sources a share holds |
//! | [`daily`] | the automatic limits |
//! | [`list`] | all workspaces of an engine, and which of them go |
//! | [`scratch`] | a workspace without a container: a directory of this machine |
//! | [`surroundings`] | what image or machine have to say about a command |

pub mod daily;
pub mod error;
pub mod generation;
pub mod list;
pub mod made;
pub mod mark;
pub mod scratch;
pub mod share;
pub mod storage;
pub mod surroundings;
mod told;
pub mod wanted;

use std::{path::PathBuf, time::Duration};

pub use error::{WithoutAgent, WorkspaceError};
pub use generation::{Changed, Generation};
pub(crate) use made::agent_archive;
pub use made::{Maker, Ready, ensure};
use made::{make_anew, not_started, refuse_foreign};
pub use mark::Mark;
use scratch::{Child, ScratchError};
use share::Marker;
pub use share::Share;
use storage::remove_volumes;
pub use surroundings::Surroundings;
pub use wanted::{Keeping, Wanted};

use tokio::time::timeout;

use crate::{
    agent::{
        near::{Duplex, Session, SessionError, Settings},
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

/// How long it takes until something that changes by itself is looked at again.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// How long the agent may take to end a session, and what runs in it that cannot be killed.
const FREEING: Duration = Duration::from_secs(15);

/// How long a workspace may take to tell how much only it has.
const WEIGHING: Duration = Duration::from_secs(30);

/// How long a one-run container may take to go by itself before it is removed.
const ENDS_BY_ITSELF: Duration = Duration::from_secs(20);

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

/// The name of a plan's workspace, on whatever engine: by the source root, by what cannot be changed on a container, and by
/// the project's name; one without a name is this state directory's.
///
/// # Errors
/// When the state directory cannot keep its id.
pub fn name(plan: &Plan, project: &Project, state: &State) -> Result<String, StateError> {
    Ok(format!("fastbuild-ws-{}-{}-{}", project.key(), Generation::key(plan), owner(plan, project, state)?))
}

/// What tells a project from others with its source root: its name, else whose state directory it is.
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
    /// Whose a share in the working directory's place is.
    share: Share,
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
    owned: Owned,
    marker: Option<Marker>,
    reach: Reach,
    /// The run whose client this is.
    run: String,
    /// In seconds since 1970, by this machine's clock.
    made: u64,
}

/// How a client comes to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// The only one of its state directory, which may attach.
    Main,
    /// Beside others, which must not be disturbed.
    Further,
}

impl Line {
    fn reach(self, docker: &Docker, serves: Serves, maker: Maker) -> Reach {
        match (serves, self, maker) {
            // Podman ends what the process reads with the first attach, which is just what a one-run container needs.
            (Serves::OneClient, ..) => Reach::Attach,
            (_, Line::Main, Maker::Here) => docker.facts().reach(),
            (_, Line::Further, _) | (_, _, Maker::Elsewhere) => Reach::Exec,
        }
    }
}

/// Enters the workspace: has it ready, and opens a session. `found` is what [`Docker::look`] said of [`Wanted::name`], and for a further
/// client has to be the wanted one; see [`Session::open`] for `first`.
///
/// # Errors
/// [`WithoutAgent`] when the agent cannot run there or does not answer even in a new workspace (which is removed), and the
/// engine's.
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
            // Where the engine is gone, that is why.
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

/// A workspace that is entered as it is.
pub struct Existing<'a> {
    /// Its name.
    pub name: &'a str,
    /// What [`Docker::look`] said of it.
    pub found: ContainerFacts,
    /// Whose it is.
    pub project: &'a Project,
    /// The engine's address.
    pub engine: &'a str,
}

/// Enters a workspace whatever it was made with: for who wants to look at it.
///
/// # Errors
/// [`WorkspaceError::Foreign`]; the agent's when it does not answer even after a restart, and the engine's.
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
    let mut workspace = Workspace { name, how, mark, mark_path, far: Far::Child(child), share: Share::Ours };
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
            WorkspaceError::WithoutAgent(why) => Ok(Trouble::Useless(why.to_string())),
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

    /// What is known of it. Saved by [`Workspace::left_well`].
    pub fn mark(&mut self) -> &mut Mark {
        &mut self.mark
    }

    /// Makes sure that a share in the working directory's place, in which `entries` were found, is this project's from now on.
    ///
    /// # Errors
    /// [`WorkspaceError::StrangeShare`]; the engine's when the share does not take the note.
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

    /// Notes what is known of the workspace, once nothing of the session is left in it.
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

    /// Ends this client's session, and waits until nothing of it is left. Its streams are closed.
    ///
    /// # Errors
    /// The engine's, and the agent's when it does not answer or end. Where the container has stopped, nothing runs in it.
    pub async fn free(&mut self) -> Result<(), WorkspaceError> {
        match &self.far {
            Far::Container(Container { docker, id, run, .. }) => end_session(docker, id, run).await?,
            // That its stream has ended is all that it has to know.
            Far::Child(_) => {}
        }
        self.left_well().await
    }

    /// Waits until a one-run container is gone whose client has said goodbye, or has closed the streams.
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

    /// What is behind a session that did not open, where nothing is to be done about it.
    async fn why_not_entered(&mut self, error: WorkspaceError) -> WorkspaceError {
        match error {
            WorkspaceError::Session(error) => self.why_over(error).await,
            error => error,
        }
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
    async fn why_over(&self, name: &str, error: SessionError) -> WorkspaceError {
        match self.docker.state(&self.id).await {
            Err(EngineError::NoSuchContainer { .. }) => self.why_gone(name).await,
            Err(engine) => engine.into(),
            Ok(state) if state.removing => self.why_gone(name).await,
            Ok(state) if !state.running => WorkspaceError::Stopped { name: name.to_owned(), state },
            Ok(_) => error.into(),
        }
    }

    /// A one-run container goes with its first process, and only the engine's events tell why that ended.
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

/// How much only the workspace has whose tree lies at `workdir`; none where it does not run, or its agent cannot tell. A build may be at
/// work there.
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

/// Ends the session of a run whose client is gone, with everything that runs in it, and waits until it is over. A workspace that is gone
/// or has stopped is no error.
pub(crate) async fn end_session(
    docker: &Docker,
    container: &ContainerId,
    run: &str,
) -> Result<(), WorkspaceError> {
    let ending = async {
        let mut ended = match docker.exec(container, &[program::PATH, "end", run]).await {
            Ok(Attached { output, .. }) => output,
            // It does not run, or there is none.
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
