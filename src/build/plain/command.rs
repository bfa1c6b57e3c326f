//! The command as the container's own process: attached before it starts, its output passed on byte for byte, signals and
//! keys handed to it by the engine.

use std::io;

use tokio::{
    io::AsyncWriteExt as _,
    sync::{mpsc, oneshot},
    time::Duration,
};

use super::super::{
    BuildError, Exit, Interrupts, Running,
    command::{CtrlC, Passing, own_input, refused},
    ending::{Ending, Wish},
    heal::Tail,
};
use crate::{
    agent::protocol::Status,
    engine::{AttachInput, AttachOutput, Call, ContainerId, Delivery, Docker, EngineError, Operation},
    plan::{Plan, Stdin, Terminal},
    report::{
        Reporter,
        events::{Amount, Event, Phase, Warning},
    },
    sys::terminal::{self, RawTerminal},
};

/// An engine ends the streams when the process has ended, even if the process closed its own before; the answer to the
/// wait comes right behind. When it does not within this time, the engine is asked whether the process still runs: then
/// it was the connection that ended, and output is lost.
const STREAMS_FIRST: Duration = Duration::from_secs(2);

/// What a command exits with that SIGKILL ended.
const KILLED: u8 = 137;

/// Runs the container's command to its end; gives how fastbuild ends.
pub async fn run(
    docker: &Docker,
    container: &ContainerId,
    plan: &Plan,
    tail: Option<&Tail>,
    interrupts: &mut Interrupts,
    reporter: &Reporter,
) -> Result<Exit, BuildError> {
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
    let (killers, mut kills) = mpsc::channel::<()>(1);
    if let Some(input) = attached.input {
        let keys = raw.as_ref().map(|_| CtrlC::default());
        forward_input(input, keys, killers.clone());
    }
    if terminal == Terminal::Allocate {
        follow_size(docker.clone(), container.clone());
    }
    let (closed, output_closed) = oneshot::channel();
    let (silent, streams_ended) = oneshot::channel::<()>();
    let output = Output::pass_on(attached.output, tail.cloned(), reporter.clone(), closed, silent);
    let mut ending = Ending::default();
    let code = {
        let waiting = docker.wait(container);
        let ended_first = async {
            // Nothing is ever sent: it is dropped with the streams.
            let _ = streams_ended.await;
            tokio::time::sleep(STREAMS_FIRST).await;
        };
        let output_closed = refused(output_closed);
        tokio::pin!(waiting, ended_first, output_closed);
        let mut looked = false;
        loop {
            tokio::select! {
                code = &mut waiting => break code?,
                signal = interrupts.next() => {
                    let doing = carry_out(ending.on_signal(signal), docker, container, reporter);
                    // An engine that does not answer holds up nobody who asks again.
                    interrupts.unless(doing).await??;
                }
                () = ending.grace_is_over() => carry_out(ending.kill(), docker, container, reporter).await?,
                Some(()) = kills.recv() => carry_out(ending.kill(), docker, container, reporter).await?,
                () = &mut ended_first, if !looked => {
                    looked = true;
                    if docker.state(container).await?.running {
                        return Err(output.lost().await);
                    }
                }
                error = &mut output_closed => {
                    carry_out(ending.kill(), docker, container, reporter).await?;
                    return Err(BuildError::OutputClosed(error));
                }
            }
        }
    };
    // The streams end with the process. Somebody who does not read what we pass on can hold that up for ever: then a
    // signal ends it.
    if let Ok(drained) = interrupts.unless(output.drained()).await {
        drained?;
    }
    drop(raw);
    phase.end(Amount::default());
    // Unix has 8 bits; a Windows process may end with 32, of which none but zero may look like zero.
    Ok(ending.exit(Status::Code(u8::try_from(code).unwrap_or(255)), None))
}

/// Does to the container's process what is wished.
///
/// # Errors
/// [`BuildError::Interrupted`] when the command has ended already, and the signal is for what comes after it; and when its end is
/// waited for no longer.
async fn carry_out(
    wish: Wish,
    docker: &Docker,
    container: &ContainerId,
    reporter: &Reporter,
) -> Result<(), BuildError> {
    match wish {
        Wish::Nothing => {}
        Wish::GiveUp(signal) => return Err(BuildError::Interrupted(signal)),
        Wish::Kill => {
            docker.kill(container, "SIGKILL").await?;
        }
        Wish::Hand(signal) => {
            if docker.kill(container, signal.name()).await? == Delivery::NotRunning {
                return Err(BuildError::Interrupted(signal));
            }
            reporter.emit(Event::Warned(Warning::Signalled { signal: signal.name() }));
        }
    }
    Ok(())
}

/// The build's output on its way out.
struct Output {
    reading: tokio::task::JoinHandle<Result<(), EngineError>>,
    passing: Passing,
}

impl Output {
    /// `closed` gets the error when nobody takes the output any more; `silent` is dropped when no more of it comes.
    fn pass_on(
        mut from: AttachOutput,
        tail: Option<Tail>,
        reporter: Reporter,
        closed: oneshot::Sender<io::Error>,
        silent: oneshot::Sender<()>,
    ) -> Output {
        let (sender, passing) = Passing::begin(reporter, closed);
        let reading = tokio::spawn(async move {
            let _silent = silent;
            while let Some(chunk) = from.next().await? {
                if let Some(tail) = &tail {
                    tail.push(&chunk.1);
                }
                if sender.send(chunk).await.is_err() {
                    break;
                }
            }
            Ok(())
        });
        Output { reading, passing }
    }

    /// Why the streams ended before the command.
    async fn lost(self) -> BuildError {
        match self.reading.await {
            Ok(Err(error)) => error.into(),
            _ => BuildError::OutputLost,
        }
    }

    async fn drained(self) -> Result<(), BuildError> {
        self.reading.await.map_err(|_| BuildError::Panicked)??;
        self.passing.drained().await
    }
}

/// Hands what we read to the command.
fn forward_input(mut to: AttachInput, mut keys: Option<CtrlC>, kill: mpsc::Sender<()>) {
    let mut read = own_input();
    tokio::spawn(async move {
        while let Some(bytes) = read.recv().await {
            if keys.as_mut().is_some_and(|keys| keys.twice(&bytes)) {
                // Full means that it has been asked for already.
                let _ = kill.try_send(());
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The command may have ended first, and its end of the stream with it.
        let _ = to.shutdown().await;
    });
}

/// Tells the command's terminal our terminal's size, now and at each change, until the runtime ends.
fn follow_size(docker: Docker, container: ContainerId) {
    tokio::spawn(async move {
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
    });
}

/// What the engine knows of a command that failed: whether memory was the reason.
///
/// # Errors
/// When the command was killed because somebody removed its container: that is no result of the command's.
pub async fn explain_failure(
    docker: &Docker,
    container: &ContainerId,
    exit_code: u8,
    plan: &Plan,
    reporter: &Reporter,
) -> Result<(), EngineError> {
    match docker.state(container).await {
        Ok(state) if state.oom_killed => {
            let limit = plan.memory.as_ref().map(|memory| memory.value);
            reporter.emit(Event::Warned(Warning::OutOfMemory { limit }));
            Ok(())
        }
        Err(error @ EngineError::NoSuchContainer { .. }) if exit_code == KILLED => Err(error),
        Ok(state) if state.removing && exit_code == KILLED => {
            Err(EngineError::NoSuchContainer { call: Call::new(Operation::Wait, container) })
        }
        // Its exit code is known, and that is what counts.
        _ => Ok(()),
    }
}
