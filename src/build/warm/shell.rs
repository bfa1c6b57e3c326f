//! A manual action in a workspace as it is: a command for looking around, or removing what only it
//! has. Nothing is sent, and nothing comes back.
//!
//! It is a session like a build's, with the project's lock. It runs as the build's user in the
//! working directory, both as when the workspace was made; changed settings do not change the
//! workspace.

use std::path::PathBuf;

use super::super::{
    BuildError, Exit, Interrupts,
    locks::{Locks, Share, Where, client},
    reaper::{Charge, Duty, InContainer, Reaper},
};
use super::{command, let_go};
use crate::{
    agent::{
        client::{Session, Settings},
        protocol::{
            Blob, Claim, Cleaned, Client, Extent, Home, Input, Open, Reply, Request, Run as Command, User,
        },
    },
    build::tasks::blocking,
    config::GRACE,
    engine::{ContainerFacts, Docker, Sizes, labels},
    entry::RelPath,
    report::Reporter,
    spec::{Endpoint, OnLocked, Terminal},
    state::{Project, State},
    workspace::{
        self, Existing, Generation, How, Surroundings, Workspace, WorkspaceError,
        list::{self, Owner},
        scratch::{self, Known},
        storage::Storage,
    },
};

/// A shell of the image's: bash where it has one.
const ANY_SHELL: [&str; 3] = ["sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash; exec sh"];

/// The action to run.
#[derive(Debug, Clone)]
pub struct Shell {
    /// The engine.
    pub engine: Endpoint,
    /// The source root of the workspace's project: canonical.
    pub source: PathBuf,
    /// The start directory, below the source root.
    pub subdirectory: RelPath,
    /// In place of the build's user.
    pub user: Option<String>,
    /// The action.
    pub errand: Errand,
}

/// A manual action in a workspace.
#[derive(Debug, Clone)]
pub enum Errand {
    /// Run a command.
    Command {
        /// The command; a shell where it is empty.
        command: Vec<String>,
        /// Whether it has a terminal.
        terminal: Terminal,
    },
    /// Remove leftovers and kept paths, at and below these paths; all of them, where there are
    /// none.
    Clean(Vec<RelPath>),
    /// Keep these paths no longer.
    Unkeep(Vec<String>),
}

/// The result of an action.
#[derive(Debug, Clone)]
pub enum Done {
    /// How fastbuild ends, as the command did.
    Exit(Exit),
    /// The removed paths.
    Cleaned(Cleaned),
    /// The paths that were kept until now.
    Unkept(Vec<String>),
}

/// Carries out the action; returns its result.
///
/// # Errors
/// [`BuildError::NoWorkspace`], and when fastbuild, the engine or the agent failed.
pub async fn run(shell: &Shell, state: &State, reporter: &Reporter) -> Result<Done, BuildError> {
    let mut interrupts = Interrupts::listen().map_err(BuildError::Signals)?;
    let project = state.project(&shell.source)?;
    let engine = shell.engine.to_string();
    let looking = async {
        let docker = Docker::connect(&shell.engine).await?;
        let all = list::list(&docker, state, &engine, Sizes::Skip).await?;
        // The one that was used last.
        let ours = all.into_iter().find(|one| one.project == project.key() && one.owner == Owner::Here);
        let found = match &ours {
            Some(ours) => docker.look(&ours.name).await?,
            None => None,
        };
        Ok::<_, BuildError>(found.zip(ours).map(|(found, ours)| (docker, found, ours.name)))
    };
    let found = match interrupts.unless(looking).await? {
        Ok(Some((docker, found, name))) => Found::Container(docker, found, name),
        other => match scratch::known_of(&project)?.into_iter().next() {
            Some(known) => Found::Directory(known),
            None => {
                other?;
                return Err(BuildError::NoWorkspace { source_root: shell.source.clone(), engine });
            }
        },
    };
    let taking = Locks::of(Some(found.site()), Share::Parts, OnLocked::Wait, &project, state, reporter);
    let locks = interrupts.unless(taking).await??;
    let run = state.begin_run(&project, &found.engine(shell))?;
    let reaper = Reaper::watch(&Charge {
        state: state.root().to_owned(),
        source: shell.source.clone(),
        run: run.id.clone(),
        duty: match &found {
            Found::Container(_, _, name) => {
                Duty::Free(InContainer { engine: shell.engine.clone(), container: name.clone() })
            }
            Found::Directory(_) => Duty::Keep,
        },
    });
    let client = client(&run, state)?;
    let entered = match found {
        Found::Container(docker, found, name) => {
            let entering = Entering { shell, docker: &docker, project: &project, locks: &locks, client };
            entering.enter(&name, found, &mut interrupts).await
        }
        Found::Directory(known) => enter_here(shell, known, client, &mut interrupts).await,
    };
    let (mut workspace, mut session, command) = entered?;
    let ended = in_session(&mut session, shell, command, &locks, &mut interrupts, reporter).await;
    let closed = match &ended {
        Ok(_) => session.close().await.map(|_| ()).map_err(BuildError::from),
        Err(_) => Ok(()),
    };
    drop(session);
    let left = match (&ended, closed) {
        (Ok(_), Ok(())) => workspace.left_well().await.map_err(BuildError::from),
        (Err(_), _) => workspace.free().await.map_err(BuildError::from),
        (Ok(_), Err(error)) => Err(error),
    };
    let_go(left, run, reaper);
    match ended {
        Err(BuildError::Session(error)) => Err(workspace.why_over(error).await.into()),
        ended => ended,
    }
}

/// The place of the project's workspace.
enum Found {
    Container(Docker, ContainerFacts, String),
    Directory(Known),
}

impl Found {
    /// The place to lock.
    fn site(&self) -> Where {
        match self {
            Found::Container(_, _, name) => Where::Workspace(name.clone()),
            Found::Directory(known) => Where::Directory(known.directory().to_string_lossy().into_owned()),
        }
    }

    fn engine(&self, shell: &Shell) -> String {
        match self {
            Found::Container(..) => shell.engine.to_string(),
            Found::Directory(_) => scratch::engine(),
        }
    }
}

async fn enter_here(
    shell: &Shell,
    known: Known,
    client: Client,
    interrupts: &mut Interrupts,
) -> Result<(Workspace, Session, Command), BuildError> {
    if shell.user.is_some() {
        return Err(BuildError::OtherUserHere);
    }
    let wanted = known.wanted();
    let held = blocking(move || known.hold()).await?.map_err(WorkspaceError::from)?;
    let held = held.ok_or_else(|| BuildError::NoWorkspace {
        source_root: shell.source.clone(),
        engine: scratch::engine(),
    })?;
    let (workdir, Surroundings { user, home, .. }) = (wanted.tree(), Surroundings::here());
    let settings = Settings { client, ..Settings::default() };
    let first = [opening(&workdir, user)];
    let entering = workspace::enter_here(&wanted, held, How::Found, &settings, &first);
    let (workspace, session) = interrupts.unless(entering).await??;
    Ok((workspace, session, shell.command(&workdir, home)))
}

struct Entering<'a> {
    shell: &'a Shell,
    docker: &'a Docker,
    project: &'a Project,
    locks: &'a Locks,
    client: Client,
}

impl Entering<'_> {
    async fn enter(
        self,
        name: &str,
        found: ContainerFacts,
        interrupts: &mut Interrupts,
    ) -> Result<(Workspace, Session, Command), BuildError> {
        let Entering { shell, docker, project, locks, client } = self;
        let made_with = found.labels.get(labels::GENERATION).and_then(|label| Generation::from_label(label));
        let made_with = |what: &str| made_with.as_ref().and_then(|made_with| made_with.get(what));
        let workdir = made_with("working directory").unwrap_or("/").to_owned();
        let image = interrupts.unless(docker.image(&found.image, None)).await??;
        let user = shell.user.clone().or_else(|| made_with("user").map(str::to_owned));
        let user = user.or_else(|| image.as_ref().map(|image| image.user.clone())).unwrap_or_default();
        let home =
            image.as_ref().map_or(Home::OfUser, |image| Surroundings::of(image, &Storage::default()).home);
        let opening = opening(&workdir, User::Named(user));
        let engine = shell.engine.to_string();
        let settings = Settings { client, silence: shell.engine.silence(GRACE), ..Settings::default() };
        let first = [opening];
        let line = locks.line();
        let existing = Existing { name, found, project, engine: &engine };
        let entering = workspace::enter_found(docker, existing, line, &settings, &first);
        let (workspace, session) = interrupts.unless(entering).await??;
        locks.entered()?;
        Ok((workspace, session, shell.command(&workdir, home)))
    }
}

/// Nothing is compared, so no scan is needed.
fn opening(workdir: &str, user: User) -> Request {
    Request::Open(Box::new(Open {
        root: Blob::from(workdir.as_bytes()),
        user,
        patterns: Vec::new(),
        outputs: Vec::new(),
        extent: Extent::Nothing,
        caches: Vec::new(),
        ways: Vec::new(),
        claim: Claim::Everything,
        only: Vec::new(),
    }))
}

async fn in_session(
    session: &mut Session,
    shell: &Shell,
    command: Command,
    locks: &Locks,
    interrupts: &mut Interrupts,
    reporter: &Reporter,
) -> Result<Done, BuildError> {
    interrupts.suspension().tell(&session.sender);
    let opened = |reply| match reply {
        Reply::Opened { .. } => Ok(()),
        other => Err(other),
    };
    interrupts.unless(locks.turn(session, opened, reporter)).await??;
    match &shell.errand {
        Errand::Command { .. } => {
            Ok(Done::Exit(command::run(session, command, None, interrupts, reporter).await?.exit))
        }
        Errand::Clean(paths) => {
            session.send(&Request::Clean { paths: paths.clone() }).await?;
            let cleaned = session.reply("that it is removed", |reply| match reply {
                Reply::Cleaned(cleaned) => Ok(Done::Cleaned(cleaned)),
                other => Err(other),
            });
            Ok(cleaned.await?)
        }
        Errand::Unkeep(patterns) => {
            session.send(&Request::Unkeep(patterns.clone())).await?;
            let unkept = session.reply("that it is kept no longer", |reply| match reply {
                Reply::Unkept(unkept) => Ok(Done::Unkept(unkept)),
                other => Err(other),
            });
            Ok(unkept.await?)
        }
    }
}

impl Shell {
    fn command(&self, workdir: &str, home: Home) -> Command {
        let (command, terminal) = match &self.errand {
            Errand::Command { command, terminal } => (command.as_slice(), *terminal),
            Errand::Clean(_) | Errand::Unkeep(_) => (&[][..], Terminal::None),
        };
        let given = command.iter().map(|word| Blob::from(word.as_bytes()));
        let argv = if command.is_empty() {
            ANY_SHELL.iter().map(|word| Blob::from(word.as_bytes())).collect()
        } else {
            given.collect()
        };
        let mut directory = workdir.as_bytes().to_vec();
        for component in self.subdirectory.components() {
            directory.push(b'/');
            directory.extend_from_slice(component);
        }
        Command {
            argv,
            env: Vec::new(),
            home,
            directory: Blob::from(directory),
            terminal: super::command::size(terminal),
            stdin: Input::Forwarded,
            clock_ahead: 0,
            owner: None,
        }
    }
}
