//! The command as the container's main process: attached before it starts, its output passed on
//! byte for byte, signals and keys handed to it by the engine.

use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt as _,
    sync::mpsc,
    time::{Duration, timeout},
};

use super::super::{
    BuildError, Exit, Interrupts,
    command::{CtrlC, attend, own_input},
};
use crate::{
    agent::protocol::Status,
    build::{mount_fault::Tail, site::Site, tasks::Running},
    engine::{AttachInput, AttachOutput, Call, ContainerId, Docker, EngineError, Operation},
    entry::Amount,
    report::events::{Event, Phase, Warning},
    spec::{Stdin, Stream, Terminal},
    sys::terminal::{self, RawTerminal},
};

/// An engine ends the streams when the process has ended, even if the process closed its own
/// before, and reports the exit code at once. If it does not within this time, it is asked whether
/// the process still runs: if so, the connection ended, and output is lost.
const EXIT_CODE: Duration = Duration::from_secs(2);

/// The exit code of a command that SIGKILL ended.
const KILLED: u8 = 137;

/// Runs the container's command to its end; returns how fastbuild ends.
pub async fn run(
    site: &Site<'_>,
    container: &ContainerId,
    tail: &Tail,
    interrupts: &mut Interrupts,
) -> Result<Exit, BuildError> {
    let Site { plan, docker, reporter, .. } = site;
    let (terminal, stdin) = (plan.terminal.value, plan.stdin.value);
    let phase = Running::begin(Phase::Start, None, reporter);
    let raw = match (terminal, stdin) {
        (Terminal::Allocate, Stdin::Forward) => RawTerminal::of_stdin().map_err(BuildError::Terminal)?,
        _ => None,
    };
    let attached = interrupts.unless(docker.attach(container, terminal, stdin)).await??;
    interrupts.unless(docker.start(container)).await??;
    phase.end(Amount::default());

    let phase = Running::begin(Phase::Build, None, reporter);
    let (killers, kills) = mpsc::channel(1);
    if let Some(input) = attached.input {
        tokio::spawn(forward_input(input, raw.as_ref().map(|_| CtrlC::default()), killers.clone()));
    }
    if terminal == Terminal::Allocate {
        tokio::spawn(follow_size(docker.clone(), container.clone()));
    }
    let follow = |output| follow(docker, container, attached.output, tail, output);
    let tell = async |signal: u8| Ok(docker.kill(container, &signal.to_string()).await?);
    let (code, ending) = attend(follow, tell, kills, interrupts, reporter).await?;
    drop((raw, killers));
    phase.end(Amount::default());
    // Unix has 8 bits; a Windows process may end with 32, and only zero may become zero.
    let exit = ending.exit(Status::Code(u8::try_from(code).unwrap_or(255)), None);
    if exit.code() == 0 {
        return Ok(exit);
    }
    let was_killed = exit.code() == KILLED;
    match docker.state(container).await {
        Ok(state) if state.oom_killed => {
            let limit = plan.container.memory.as_ref().map(|memory| memory.value);
            reporter.emit(Event::Warned(Warning::OutOfMemory { limit }));
        }
        // The container was removed from outside: that is not a result of the command.
        Err(error @ EngineError::NoSuchContainer { .. }) if was_killed => return Err(error.into()),
        Ok(state) if state.removing && was_killed => {
            let call = Call::new(Operation::Wait, container);
            return Err(EngineError::NoSuchContainer { call }.into());
        }
        // Its exit code is known, which is enough.
        _ => {}
    }
    Ok(exit)
}

/// Passes the command's output on; then asks for its exit code and returns it. The container stays.
async fn follow(
    docker: &Docker,
    container: &ContainerId,
    mut from: AttachOutput,
    tail: &Tail,
    to: mpsc::Sender<(Stream, Bytes)>,
) -> Result<i64, BuildError> {
    while let Some(chunk) = from.next().await? {
        tail.push(&chunk.1);
        // A writer that has ended reports its reason through its own channel.
        let _ = to.send(chunk).await;
    }
    let waiting = docker.wait(container);
    tokio::pin!(waiting);
    match timeout(EXIT_CODE, &mut waiting).await {
        Ok(code) => Ok(code?),
        Err(_) if docker.state(container).await?.running => Err(BuildError::OutputLost),
        Err(_) => Ok(waiting.await?),
    }
}

/// Passes our input to the command.
async fn forward_input(mut to: AttachInput, mut keys: Option<CtrlC>, kill: mpsc::Sender<()>) {
    let mut read = own_input();
    while let Some(bytes) = read.recv().await {
        if keys.as_mut().is_some_and(|keys| keys.twice(&bytes)) {
            // Full means that it has been requested already.
            let _ = kill.try_send(());
        }
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // The command may have ended first, and its stream with it.
    let _ = to.shutdown().await;
}

/// Tells the command's terminal our terminal's size, now and at changes, until the runtime ends.
async fn follow_size(docker: Docker, container: ContainerId) {
    let Ok(mut changes) = terminal::size_changes() else { return };
    loop {
        if let Some((rows, columns)) = terminal::size() {
            // A command that has just ended has no terminal any more.
            let _ = docker.resize(&container, rows, columns).await;
        }
        if changes.next().await.is_none() {
            return;
        }
    }
}
