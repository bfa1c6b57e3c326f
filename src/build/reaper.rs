//! Removes a one-run container, or ends the processes in a workspace, when fastbuild itself no
//! longer can; and finishes the work that was begun on the host.
//!
//! A second process of the same program, in a process group of its own, waits on a pipe. When
//! fastbuild is done it writes a word into it. When fastbuild dies, for any reason, the pipe ends
//! without that word; the reaper then does its [`Duty`] and finishes or removes a half-done apply.
//! It costs a sleeping process, and no call to the engine while there is no failure.

use std::{
    ffi::OsString,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::BuildError;
use crate::{
    engine::{ContainerId, Docker, Owned, Removed},
    spec::Endpoint,
    state::{Project, State},
    workspace::{self, WorkspaceError, scratch, storage::remove_volumes},
};

/// The hidden command that makes a process the reaper.
pub const COMMAND: &str = "__reap";

/// A run writes this when there is nothing to reap.
const DONE: &[u8] = b"done";
/// A run writes this when its container has been made.
const MADE: &[u8] = b"made";

/// A creation that was under way when fastbuild died may still complete: the reaper checks this
/// many times, with this much time between.
const LOOKS: u32 = 20;
/// See [`LOOKS`].
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// The work to do when fastbuild is dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Duty {
    /// Remove a one-run container.
    Remove(InContainer),
    /// Keep a workspace, and end the processes in it.
    Free(InContainer),
    /// Keep a scratch directory of this machine; the processes in it end by themselves.
    Keep,
    /// Remove a scratch directory.
    Clear(PathBuf),
    /// Remove all that a bench made on this engine and here.
    Sweep(Endpoint),
}

/// Where a build was when its client died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InContainer {
    /// The engine.
    pub engine: Endpoint,
    /// The container's name.
    pub container: String,
}

/// The near end of the pipe.
pub struct Reaper {
    pipe: Mutex<Option<ChildStdin>>,
}

impl Reaper {
    /// Starts a reaper. Without one, the next start finds a killed run's leftovers; so a reaper
    /// that cannot be started does not stop a build from running.
    pub fn watch(charge: &Charge) -> Option<Reaper> {
        match Reaper::spawn(charge) {
            Ok(reaper) => Some(reaper),
            Err(error) => {
                tracing::warn!(%error, "no reaper; what a killed run leaves is removed at the next start");
                None
            }
        }
    }

    fn spawn(charge: &Charge) -> std::io::Result<Reaper> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(COMMAND)
            .args(charge.to_args()?)
            .current_dir(&charge.state)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Ctrl-C goes to the whole foreground group; the reaper must outlive it.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let pipe = command.spawn()?.stdin.take();
        Ok(Reaper { pipe: Mutex::new(pipe) })
    }

    /// Tells it that the container has been made: if it is absent from now on, it is gone.
    pub fn note_made(&self) {
        if let Ok(mut pipe) = self.pipe.lock()
            && let Some(pipe) = pipe.as_mut()
        {
            // As in `dismiss`.
            let _ = pipe.write_all(MADE);
        }
    }

    /// Tells it that there is nothing left to do.
    pub fn dismiss(&self) {
        let pipe = self.pipe.lock().ok().and_then(|mut pipe| pipe.take());
        if let Some(mut pipe) = pipe {
            // A reaper that has died need not be told.
            let _ = pipe.write_all(DONE);
        }
    }
}

/// The reaper's main. `sweep` removes dead benches' leftovers, and says whether it could.
///
/// # Errors
/// When the run's leftovers cannot be removed now; the next start tries again. For debugging only.
pub fn main(args: Vec<OsString>, sweep: impl AsyncFn(&Endpoint, &State) -> bool) -> Result<(), BuildError> {
    let Some(charge) = Charge::parse(args) else { return Ok(()) };
    let mut word = Vec::new();
    // An error is an end too: fastbuild has died.
    let _ = std::io::stdin().read_to_end(&mut word);
    if word.ends_with(DONE) {
        return Ok(());
    }
    let making = if word.ends_with(MADE) { Making::Over } else { Making::Perhaps };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(BuildError::Signals)?;
    match &charge.duty {
        Duty::Remove(one_run) => {
            let removed = runtime.block_on(one_run.remove(&Owned::by_run(&charge.run), making));
            charge.clear_host(removed)
        }
        Duty::Free(workspace) => charge.free_workspace(workspace, &runtime),
        Duty::Keep => charge.finish_here(None),
        Duty::Clear(scratch) => charge.finish_here(Some(scratch)),
        Duty::Sweep(engine) => charge.sweep(engine, sweep, &runtime),
    }
}

/// A reaper's task.
#[derive(Debug)]
pub struct Charge {
    /// The root of the state directory.
    pub state: PathBuf,
    /// The run's source root.
    pub source: PathBuf,
    /// Its id.
    pub run: String,
    /// The duty.
    pub duty: Duty,
}

/// Whether a container that a dead client asked for may still appear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Making {
    Over,
    Perhaps,
}

/// Whether anything of the run can still be on the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnEngine {
    Nothing,
    Perhaps,
}

impl Charge {
    /// As [`Charge::parse`] takes them.
    fn to_args(&self) -> serde_json::Result<[OsString; 4]> {
        Ok([
            self.state.clone().into(),
            self.source.clone().into(),
            self.run.clone().into(),
            serde_json::to_string(&self.duty)?.into(),
        ])
    }

    fn parse(args: Vec<OsString>) -> Option<Charge> {
        let [state, source, run, duty] = <[OsString; 4]>::try_from(args).ok()?;
        Some(Charge {
            state: state.into(),
            source: source.into(),
            run: run.into_string().ok()?,
            duty: serde_json::from_str(duty.to_str()?).ok()?,
        })
    }

    /// The project's state, once the run has ended: its lock outlives its end of the pipe by a moment.
    fn after_the_run(&self) -> Result<(State, Project), BuildError> {
        let state = State::open(self.state.clone())?;
        let project = state.project(&self.source)?;
        state.await_end_of_run(&self.run);
        Ok((state, project))
    }

    /// Finishes an apply, or removes the stage.
    fn clear_host(&self, on_engine: OnEngine) -> Result<(), BuildError> {
        let (state, project) = self.after_the_run()?;
        put_host_right(&project, &state)?;
        if on_engine == OnEngine::Nothing {
            state.forget_run(&self.run);
        }
        Ok(())
    }

    /// Removes what the bench made. The builds that it measured may not have ended and may make
    /// more, so this repeats for a while.
    fn sweep(
        &self,
        engine: &Endpoint,
        sweep: impl AsyncFn(&Endpoint, &State) -> bool,
        runtime: &tokio::runtime::Runtime,
    ) -> Result<(), BuildError> {
        let state = State::open(self.state.clone())?;
        state.await_end_of_run(&self.run);
        let swept = runtime.block_on(async {
            let mut swept = OnEngine::Perhaps;
            for _ in 0..LOOKS {
                swept = if sweep(engine, &state).await { OnEngine::Nothing } else { OnEngine::Perhaps };
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
            swept
        });
        if swept == OnEngine::Nothing {
            state.forget_run(&self.run);
        }
        Ok(())
    }

    /// Recovers the host, then ends the dead client's session, holding no lock meanwhile.
    fn free_workspace(
        &self,
        workspace: &InContainer,
        runtime: &tokio::runtime::Runtime,
    ) -> Result<(), BuildError> {
        let (state, project) = self.after_the_run()?;
        // Before the engine is asked, which may take long.
        let recovered = put_host_right(&project, &state);
        runtime.block_on(workspace.end_session(&self.run));
        recovered?;
        // No object of the run is on the engine.
        state.forget_run(&self.run);
        Ok(())
    }

    /// Recovers the host after a build without a container, and removes the build's scratch
    /// directory. The agent has seen its client's stream end; a removal waits for it.
    fn finish_here(&self, scratch: Option<&Path>) -> Result<(), BuildError> {
        let (state, project) = self.after_the_run()?;
        let recovered = put_host_right(&project, &state);
        if let Some(scratch) = scratch {
            let _lock = project.place(&scratch.to_string_lossy()).lock()?;
            scratch::remove_of(&project, scratch).map_err(WorkspaceError::from)?;
        }
        recovered?;
        state.forget_run(&self.run);
        Ok(())
    }
}

fn put_host_right(project: &Project, state: &State) -> Result<(), BuildError> {
    let _lock = project.sources().lock()?;
    super::recover::put_right(project, state)
}

impl InContainer {
    async fn remove(&self, owned: &Owned, making: Making) -> OnEngine {
        for _ in 0..LOOKS {
            if let Ok(docker) = Docker::connect(&self.engine).await
                && let Ok(removed) = docker.remove(&self.container, owned).await
                && (removed == Removed::Now || making == Making::Over)
                && remove_volumes(&docker, owned).await.is_ok()
            {
                return OnEngine::Nothing;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        // The container never existed, or the engine cannot be reached.
        match Docker::connect(&self.engine).await {
            Ok(docker) if remove_volumes(&docker, owned).await.is_ok() => OnEngine::Nothing,
            _ => OnEngine::Perhaps,
        }
    }

    /// Without an engine, the agent itself notices that its client is gone.
    async fn end_session(&self, run: &str) {
        for _ in 0..LOOKS {
            if let Ok(docker) = Docker::connect(&self.engine).await
                && workspace::end_session(&docker, &ContainerId::new(&self.container), run).await.is_ok()
            {
                break;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }
}

/// Tells a reaper that there is nothing left to do.
pub(super) fn dismiss(reaper: Option<Reaper>) {
    if let Some(reaper) = reaper {
        reaper.dismiss();
    }
}
