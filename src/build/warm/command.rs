//! The command in a workspace: the agent starts it, and its output is passed on as it comes;
//! signals, keys and the terminal's size are passed to it.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use bytes::Bytes;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};

use super::super::{
    BuildError, Exit, Interrupts, Signal, Suspension,
    command::{CtrlC, attend, own_input},
};
use crate::{
    agent::{
        client::{self, Receiver, Sender, Session, SessionError},
        protocol::{Blob, Input, NoStart, NotStarted, Reply, Request, Run, STDIN_WINDOW, Size, Status},
    },
    build::{mount_fault::Tail, tasks::Running},
    engine::{Defect, Delivery, StartError},
    entry::Amount,
    report::{Reporter, events::Phase},
    spec::{Stream, Terminal},
    sys::terminal::{self, RawTerminal},
};

/// How the command ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// How fastbuild ends.
    pub exit: Exit,
    /// Whether processes were killed because memory ran out.
    pub out_of_memory: bool,
}

/// Runs the command to its end. `tail` keeps its last output.
pub async fn run(
    session: &mut Session,
    run: Run,
    tail: Option<&Tail>,
    interrupts: &mut Interrupts,
    reporter: &Reporter,
) -> Result<Ended, BuildError> {
    let phase = Running::begin(Phase::Start, None, reporter);
    let (terminal, stdin) = (run.terminal, run.stdin);
    let raw = match (terminal, stdin) {
        (Some(_), Input::Forwarded) => RawTerminal::of_stdin().map_err(BuildError::Terminal)?,
        _ => None,
    };
    let program = run.argv.first().map(|word| String::from_utf8_lossy(word).into_owned()).unwrap_or_default();
    session.send(&Request::Run(Box::new(run))).await?;
    let started = session.reply("whether the command runs", |reply| match reply {
        Reply::Started => Ok(Ok(())),
        Reply::NotStarted(why) => Ok(Err(why)),
        other => Err(other),
    });
    interrupts.unless(started).await??.map_err(|why| not_started(program, why))?;
    phase.end(Amount::default());

    let phase = Running::begin(Phase::Build, None, reporter);
    let Session { sender, receiver, .. } = session;
    let (killers, kills) = mpsc::channel::<()>(1);
    let input = Arc::new(Semaphore::new(0));
    let last_key = Arc::new(AtomicU8::new(0));
    let keys = raw.as_ref().map(|_| Keys { last: Arc::clone(&last_key), ..Keys::default() });
    let helpers = Helpers::start(terminal, stdin, keys, sender, &input, killers);
    let suspension = interrupts.suspension().clone();
    let tell = async |signal: u8| {
        sender.send(&Request::Signal(signal.into())).await?;
        Ok(Delivery::Delivered)
    };
    let attending = attend(
        |output| listen(receiver, output, tail, &input, &suspension),
        tell,
        kills,
        interrupts,
        reporter,
    );
    let ended = attending.await;
    drop((helpers, raw));
    let ((status, oom_kills), ending) = ended?;
    phase.end(Amount::default());
    let key = Signal::of_key(last_key.load(Ordering::Relaxed));
    Ok(Ended { exit: ending.exit(status, key), out_of_memory: oom_kills > 0 })
}

/// Reads replies to the command's end. Returns how it ended, and the number of out-of-memory kills.
async fn listen(
    receiver: &mut Receiver,
    output: mpsc::Sender<(Stream, Bytes)>,
    tail: Option<&Tail>,
    input: &Semaphore,
    suspension: &Suspension,
) -> Result<(Status, u64), SessionError> {
    loop {
        let (stream, bytes) = match receiver.next().await? {
            client::Event::Stdout(bytes) => (Stream::Stdout, bytes),
            client::Event::Stderr(bytes) => (Stream::Stderr, bytes),
            client::Event::Reply(Reply::StdinTaken(taken)) => {
                input.add_permits(usize::try_from(taken).unwrap_or(0).min(STDIN_WINDOW));
                continue;
            }
            client::Event::Reply(Reply::Stopped) => {
                suspension.suspend().await;
                continue;
            }
            client::Event::Reply(Reply::Exited { status, oom_kills }) => return Ok((status, oom_kills)),
            other => return Err(other.in_place_of("output of the command, or its end")),
        };
        if let Some(tail) = tail {
            tail.push(&bytes);
        }
        // A writer that has ended reports its reason through its own channel.
        let _ = output.send((stream, bytes)).await;
    }
}

fn not_started(what: String, NotStarted { why, detail }: NotStarted) -> BuildError {
    match why {
        NoStart::NotFound => StartError::CommandNotFound { what, message: detail }.into(),
        NoStart::NoInterpreter(interpreter) => StartError::NoInterpreter { what, interpreter }.into(),
        NoStart::NotExecutable => unusable(what, detail, Defect::Mode),
        NoStart::IsDirectory => unusable(what, detail, Defect::Directory),
        NoStart::NoFormat => unusable(what, detail, Defect::Format),
        NoStart::Directory => unusable(what, detail, Defect::WorkingDirectory),
        NoStart::Other => BuildError::NotStarted { what, detail },
    }
}

fn unusable(what: String, message: String, defect: Defect) -> BuildError {
    StartError::NotExecutable { what, message, defect }.into()
}

/// The tasks that pass input and sizes to the command, until dropped.
struct Helpers(Vec<JoinHandle<()>>);

impl Helpers {
    fn start(
        terminal: Option<Size>,
        stdin: Input,
        keys: Option<Keys>,
        sender: &Sender,
        input: &Arc<Semaphore>,
        killers: mpsc::Sender<()>,
    ) -> Helpers {
        let mut helpers = Vec::new();
        if stdin == Input::Forwarded {
            input.add_permits(STDIN_WINDOW);
            helpers.push(tokio::spawn(forward_input(sender.clone(), Arc::clone(input), keys, killers)));
        }
        if terminal.is_some() {
            helpers.push(tokio::spawn(follow_size(sender.clone())));
        }
        Helpers(helpers)
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// The patterns to watch for in the keys of a raw terminal.
#[derive(Debug, Default)]
struct Keys {
    ctrl_c: CtrlC,
    last: Arc<AtomicU8>,
}

/// Passes our input to the command, never more at once than it takes.
async fn forward_input(to: Sender, window: Arc<Semaphore>, mut keys: Option<Keys>, kill: mpsc::Sender<()>) {
    let mut read = own_input();
    while let Some(bytes) = read.recv().await {
        if let Some(keys) = &mut keys {
            keys.last.store(bytes.last().copied().unwrap_or_default(), Ordering::Relaxed);
            if keys.ctrl_c.twice(&bytes) {
                // Full means that it has been requested already.
                let _ = kill.try_send(());
            }
        }
        let permits = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let Ok(room) = window.acquire_many(permits).await else { return };
        room.forget();
        if to.send(&Request::Stdin(Blob::from(bytes))).await.is_err() {
            return;
        }
    }
    // A raw terminal ends by a hang-up, of which a signal tells the command. An end-of-file key
    // would be echoed then, to a terminal that takes no more output.
    if keys.is_none() {
        // The command may have ended first.
        let _ = to.send(&Request::StdinEnd).await;
    }
}

/// Tells the command's terminal our terminal's size at each change.
async fn follow_size(to: Sender) {
    let Ok(mut changes) = terminal::size_changes() else { return };
    while changes.next().await.is_some() {
        // A command that has just ended has no terminal any more.
        let _ = to.send(&Request::Resize(own_size())).await;
    }
}

/// The size of the terminal that a command gets, if it gets one.
pub fn size(terminal: Terminal) -> Option<Size> {
    (terminal == Terminal::Allocate).then(own_size)
}

/// Our terminal's size; the usual one if it cannot be read.
fn own_size() -> Size {
    let (rows, columns) = terminal::size().unwrap_or((24, 80));
    Size { rows, columns }
}
