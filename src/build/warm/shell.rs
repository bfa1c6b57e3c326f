//! A command in a workspace as it is: nothing goes in, nothing comes back. For looking around by hand.
//!
//! It is a session like a build's, with the project's lock, and runs as the build's user in the working directory, both
//! as the workspace was made with; what is in the workspace stays as it is, whatever has changed in the settings since.

use std::path::PathBuf;

use super::super::{
    BuildError, Interrupts,
    reaper::{Charge, Duty, Reaper},
    take_lock,
};
use super::{command, home, let_go};
use crate::{
    agent::{
        near::{Session, Settings},
        protocol::{Blob, Extent, Home, Input, Open, Reply, Request, Run as Command},
    },
    engine::{ContainerFacts, Docker, labels},
    plan::{Endpoint, OnLocked, Terminal},
    report::Reporter,
    state::{Project, State},
    tree::RelPath,
    workspace::{self, Generation, Workspace},
};

/// A shell of the image's: bash where it has one.
const ANY_SHELL: [&str; 3] = ["sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash; exec sh"];

/// What is to run.
#[derive(Debug, Clone)]
pub struct Shell {
    /// The engine.
    pub engine: Endpoint,
    /// The source root of the workspace's project: canonical.
    pub source: PathBuf,
    /// Where below the source root it starts.
    pub subdirectory: RelPath,
    /// The command; a shell where it is empty.
    pub command: Vec<String>,
    /// In place of the build's user.
    pub user: Option<String>,
    /// Whether it has a terminal.
    pub terminal: Terminal,
}

/// Runs it; gives its exit code.
///
/// # Errors
/// [`BuildError::NoWorkspace`], and when fastbuild, the engine or the agent could not do their part.
pub async fn run(shell: &Shell, state: &State, reporter: &Reporter) -> Result<u8, BuildError> {
    let mut interrupts = Interrupts::listen().map_err(BuildError::Signals)?;
    let project = state.project(&shell.source)?;
    let _lock = interrupts.unless(take_lock(&project, OnLocked::Wait, reporter)).await??;
    let docker = interrupts.unless(Docker::connect(&shell.engine)).await??;
    let name = workspace::name(&project, state)?;
    let found = interrupts.unless(docker.look(&name)).await??;
    let found = found.ok_or_else(|| BuildError::NoWorkspace {
        source_root: shell.source.clone(),
        engine: shell.engine.to_string(),
    })?;
    let run = state.begin_run(&project, &shell.engine.to_string())?;
    let reaper = Reaper::watch(&Charge {
        state: state.root().to_owned(),
        source: shell.source.clone(),
        engine: shell.engine.clone(),
        run: run.id.clone(),
        container: name.clone(),
        duty: Duty::Free,
    });
    let entered = enter(shell, &docker, &project, &name, found, &mut interrupts);
    let (mut workspace, mut session, command) = entered.await?;
    let ended = in_session(&mut session, command, &mut interrupts, reporter).await;
    let left = match &ended {
        Ok(_) => session.close().await.map_err(BuildError::from).and_then(|_| Ok(workspace.left_well()?)),
        Err(_) => workspace.free().await.map_err(BuildError::from),
    };
    let_go(left, run, reaper);
    match ended {
        Err(BuildError::Session(error)) => Err(workspace.why_over(error).await.into()),
        ended => ended,
    }
}

async fn enter(
    shell: &Shell,
    docker: &Docker,
    project: &Project,
    name: &str,
    found: ContainerFacts,
    interrupts: &mut Interrupts,
) -> Result<(Workspace, Session, Command), BuildError> {
    let made_with = found.labels.get(labels::GENERATION).and_then(|label| Generation::from_label(label));
    let made_with = |what: &str| made_with.as_ref().and_then(|made_with| made_with.get(what));
    let workdir = made_with("working directory").unwrap_or("/").to_owned();
    let user = shell.user.clone().or_else(|| made_with("user").map(str::to_owned)).unwrap_or_default();
    let image = interrupts.unless(docker.image(&found.image, None)).await??;
    let home = image.as_ref().map_or(Home::OfUser, home);
    let opening = Request::Open(Box::new(Open {
        root: Blob::from(workdir.as_bytes()),
        user,
        // Nothing is compared, so nothing need be looked at.
        patterns: Vec::new(),
        outputs: vec![RelPath::root()],
        extent: Extent::Sources,
        caches: Vec::new(),
        ways: Vec::new(),
    }));
    let engine = shell.engine.to_string();
    let settings = Settings::default();
    let first = [opening];
    let entering = workspace::enter_found(docker, name, found, project, &engine, &settings, &first);
    let (workspace, session) = interrupts.unless(entering).await??;
    Ok((workspace, session, shell.command(&workdir, home)))
}

async fn in_session(
    session: &mut Session,
    command: Command,
    interrupts: &mut Interrupts,
    reporter: &Reporter,
) -> Result<u8, BuildError> {
    let opened = session.reply("that the workspace is open", |reply| match reply {
        Reply::Opened { .. } => Ok(()),
        other => Err(other),
    });
    interrupts.unless(opened).await??;
    Ok(command::run(session, command, interrupts, reporter).await?.exit_code)
}

impl Shell {
    fn command(&self, workdir: &str, home: Home) -> Command {
        let given = self.command.iter().map(|word| Blob::from(word.as_bytes()));
        let argv = if self.command.is_empty() {
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
            terminal: command::size(self.terminal),
            stdin: Input::Forwarded,
        }
    }
}
