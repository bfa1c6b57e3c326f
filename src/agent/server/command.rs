//! One run of the command, seen from the session: [`super::exec`] starts it, its streams are
//! carried, signals are passed on. When its main process is over, all other processes of the
//! workspace are dead before the client hears of it.
//!
//! Each stream has a thread, and so has the wait for the end; the session's own thread takes
//! requests. All output is sent before [`Reply::Exited`]: then no process is left to write any.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, net::UnixStream},
    },
    process::{Command, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
};

use rustix::{
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process_group, wait},
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcgetpgrp, tcsetwinsize},
};

use crate::{
    agent::{
        frame::Kind,
        protocol::{
            Failed, Home, Input, NoStart, NotStarted, Reply, Request, Run, Size, Status, decode, encode,
        },
        server::{
            exec::{self, Manners, Spec, Who},
            inbox::{Event, Inbox},
            outbox::Outbox,
            pause::{self, Paused},
            processes,
        },
    },
    user::Account,
};

/// How much of the output is read at once, in bytes.
const PIECE: usize = 64 << 10;

/// The byte that ends a terminal's input.
const END_OF_INPUT: u8 = 4;

/// A command that runs.
pub(super) struct Running {
    /// The main process, whose group and session have the same number.
    pid: Pid,
    terminal: Option<OwnedFd>,
    input: Option<Sender<Vec<u8>>>,
    feeding: Option<JoinHandle<()>>,
    outputs: Vec<JoinHandle<()>>,
    /// The stopped processes, while the client is stopped.
    paused: Option<Paused>,
    /// Ends with the last child; it must not reap children of the next run.
    waiting: Option<JoinHandle<()>>,
    oom_kills_before: u64,
}

/// The command's own ends of its streams, and the session's.
struct Streams {
    stdout: OwnedFd,
    stderr: OwnedFd,
    stdin: exec::Stdin,
    /// Held open until the command has opened it too.
    stdin_theirs: Option<OwnedFd>,
    stdin_ours: Option<OwnedFd>,
    outputs: Vec<(Kind, OwnedFd)>,
    terminal: Option<OwnedFd>,
}

/// A command that was started, but has no threads for its streams yet.
pub(super) struct Launched {
    pid: Pid,
    terminal: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    outputs: Vec<(Kind, OwnedFd)>,
    oom_kills_before: u64,
}

impl Launched {
    /// Starts the command.
    pub(super) fn start(run: &Run, account: &Account, manners: Manners) -> Result<Launched, NotStarted> {
        let oom_kills_before = oom_kills();
        let streams =
            Streams::open(run).map_err(|error| not_started("could not make its streams", &error))?;
        let Streams { stdout, stderr, stdin, stdin_theirs, stdin_ours, outputs, terminal } = streams;
        let pid = launch(run, account, manners, stdin, stdout, stderr)?;
        drop(stdin_theirs);
        Ok(Launched { pid, terminal, stdin: stdin_ours, outputs, oom_kills_before })
    }

    /// Tells the client that the command runs, and starts to forward its output.
    pub(super) fn attend(self, inbox: &Arc<Inbox>, outbox: &Arc<Outbox>) -> Result<Running, Failed> {
        // A failure means that the client is gone, which the inbox reports.
        let _ = outbox.reply(&Reply::Started);
        let told =
            |error: io::Error| super::common::failed("could not start a thread for the command", &error);
        let waiting = wait_for(self.pid, inbox).map_err(told)?;
        let mut running = Running {
            pid: self.pid,
            terminal: self.terminal,
            input: None,
            feeding: None,
            outputs: Vec::new(),
            paused: None,
            waiting: Some(waiting),
            oom_kills_before: self.oom_kills_before,
        };
        for (kind, from) in self.outputs {
            running.outputs.push(forward(kind, from, outbox).map_err(told)?);
        }
        if let Some(to) = self.stdin {
            let (sender, receiver) = channel();
            running.input = Some(sender);
            let terminal_of = running.terminal.as_ref().map(|_| running.pid);
            running.feeding = Some(feed(receiver, to, terminal_of, outbox).map_err(told)?);
        }
        Ok(running)
    }
}

impl Running {
    /// Handles a request for a running command; returns others.
    pub(super) fn take(&mut self, request: Request) -> Option<Request> {
        match request {
            Request::Stdin(bytes) => {
                if let Some(input) = &self.input {
                    // A failure means that the input is not read any more. Nothing is to be done.
                    let _ = input.send(bytes.into_vec());
                }
            }
            Request::StdinEnd => {
                if let Some(input) = self.input.take()
                    && self.terminal.is_some()
                {
                    let _ = input.send(vec![END_OF_INPUT]);
                }
            }
            Request::Signal(number) => self.signal(number),
            Request::Resize(size) => {
                if let Some(terminal) = &self.terminal {
                    let _ = tcsetwinsize(terminal, winsize(size));
                }
            }
            Request::Pause => drop(self.paused.get_or_insert_with(Paused::everybody)),
            Request::Resume => self.paused.take().unwrap_or_default().take_up(self.pid),
            other => return Some(other),
        }
        None
    }

    /// After [`Event::CommandStopped`]: whether the client does not know of it yet.
    pub(super) fn has_stopped_by_itself(&self) -> bool {
        self.paused.is_none() && pause::is_stopped(self.pid)
    }

    fn signal(&self, number: i32) {
        let Some(signal) = Signal::from_named_raw(number) else { return };
        if signal == Signal::KILL {
            // The thread that waits for the main process does the rest.
            processes::kill();
            return;
        }
        let foreground = self.terminal.as_ref().and_then(|terminal| tcgetpgrp(terminal).ok());
        let _ = kill_process_group(foreground.unwrap_or(self.pid), signal); // it may be over
    }

    /// After [`Event::CommandOver`]: waits until all output is sent, and reports the end.
    pub(super) fn finish(mut self, status: WaitStatus) -> Reply {
        let oom_kills = oom_kills().saturating_sub(self.oom_kills_before);
        self.join();
        let status = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Status::Code(code as u8),
            (None, Some(signal)) => Status::Signal(signal as u8),
            (None, None) => Status::Code(0),
        };
        Reply::Exited { status, oom_kills }
    }

    /// Ends it, because its client is gone.
    pub(super) fn abandon(mut self) {
        processes::clear();
        self.join();
    }

    fn join(&mut self) {
        drop(self.input.take());
        let threads =
            [self.waiting.take(), self.feeding.take()].into_iter().flatten().chain(self.outputs.drain(..));
        for thread in threads {
            let _ = thread.join(); // a panic there was reported on stderr
        }
    }
}

impl Streams {
    fn open(run: &Run) -> io::Result<Streams> {
        match run.terminal {
            Some(size) => Streams::terminal(size, run.stdin),
            None => Streams::pipes(run.stdin),
        }
    }

    fn pipes(input: Input) -> io::Result<Streams> {
        let (out_ours, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (error_ours, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stdin, stdin_theirs, stdin_ours) = match input {
            Input::Empty => (exec::Stdin::Null, None, None),
            Input::Forwarded => {
                let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
                let stdin = exec::Stdin::Of { pid: getpid().as_raw_pid(), fd: theirs.as_raw_fd() };
                (stdin, Some(theirs), Some(ours))
            }
        };
        let outputs = vec![(Kind::Stdout, out_ours), (Kind::Stderr, error_ours)];
        Ok(Streams { stdout, stderr, stdin, stdin_theirs, stdin_ours, outputs, terminal: None })
    }

    fn terminal(size: Size, input: Input) -> io::Result<Streams> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags)?;
        unlockpt(&ours)?;
        tcsetwinsize(&ours, winsize(size))?;
        let stdout = ioctl_tiocgptpeer(&ours, flags)?;
        let stderr = stdout.try_clone()?;
        let stdin_ours = match input {
            Input::Empty => None,
            Input::Forwarded => Some(ours.try_clone()?),
        };
        let outputs = vec![(Kind::Stdout, ours.try_clone()?)];
        let stdin = exec::Stdin::Terminal;
        Ok(Streams { stdout, stderr, stdin, stdin_theirs: None, stdin_ours, outputs, terminal: Some(ours) })
    }
}

fn winsize(size: Size) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Starts the process that becomes the command, and waits until it has, or reports why not.
fn launch(
    run: &Run,
    account: &Account,
    manners: Manners,
    stdin: exec::Stdin,
    stdout: OwnedFd,
    stderr: OwnedFd,
) -> Result<Pid, NotStarted> {
    let switches = manners == Manners::OfEngines && rustix::process::geteuid().is_root();
    let spec = Spec {
        argv: run.argv.clone(),
        directory: run.directory.clone(),
        user: switches.then(|| Who {
            uid: account.ids.uid,
            gid: account.ids.gid,
            groups: account.groups.clone(),
        }),
        manners,
        stdin,
    };
    let told = |error: io::Error| not_started("could not start a process", &error);
    let (mut ours, theirs) = UnixStream::pair().map_err(told)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("exec").stdin(OwnedFd::from(theirs)).stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr));
    set_environment(&mut command, run, account, manners);
    let child = command.spawn().map_err(told)?;
    drop(command);
    let mut report = Vec::new();
    let asked = ours
        .write_all(&encode(&spec))
        .and_then(|()| ours.shutdown(Shutdown::Write))
        .and_then(|()| ours.read_to_end(&mut report));
    let pid = Pid::from_child(&child);
    match (asked, report.as_slice()) {
        (Ok(_), []) => Ok(pid),
        (Ok(_), report) => Err(decode(report).unwrap_or_else(|error| NotStarted {
            why: NoStart::Other,
            detail: format!("the process that was to become it said nothing of sense: {error}"),
        })),
        (Err(error), _) => Err(told(error)),
    }
}

/// The agent's own environment, then additions like those of engines or shells, then the client's.
fn set_environment(command: &mut Command, run: &Run, account: &Account, manners: Manners) {
    use std::ffi::OsStr;
    if manners == Manners::OfAgent {
        // The shell that started fastbuild left its own values. By them, a tool would find the
        // host's tree, which it must leave alone.
        command.env("PWD", OsStr::from_bytes(&run.directory)).env_remove("OLDPWD");
    }
    if run.home == Home::OfUser {
        command.env("HOME", OsStr::from_bytes(&account.home));
    }
    if run.terminal.is_some() && std::env::var_os("TERM").is_none() {
        command.env("TERM", "xterm");
    }
    for (name, value) in &run.env {
        command.env(OsStr::from_bytes(name), OsStr::from_bytes(value));
    }
}

/// Waits for the main process, ends all others, and tells the session. Reaps orphans.
fn wait_for(pid: Pid, inbox: &Arc<Inbox>) -> io::Result<JoinHandle<()>> {
    let inbox = Arc::clone(inbox);
    thread::Builder::new().name("wait".to_owned()).spawn(move || {
        loop {
            match wait(WaitOptions::UNTRACED) {
                Ok(Some((who, status))) if who == pid && status.stopped() => {
                    inbox.post(Event::CommandStopped);
                }
                Ok(Some((who, status))) if who == pid && (status.exited() || status.signaled()) => {
                    processes::clear();
                    return inbox.post(Event::CommandOver(status));
                }
                Ok(_) | Err(Errno::INTR) => {}
                // The session has cleared the workspace itself.
                Err(_) => return,
            }
        }
    })
}

/// Forwards the command's output as it comes.
fn forward(kind: Kind, from: OwnedFd, outbox: &Arc<Outbox>) -> io::Result<JoinHandle<()>> {
    let outbox = Arc::clone(outbox);
    thread::Builder::new().name("output".to_owned()).spawn(move || {
        let mut from = File::from(from);
        let mut buffer = vec![0; PIECE];
        loop {
            match from.read(&mut buffer) {
                // A terminal that no process has open any more gives an error, which is an end too.
                Ok(0) => return,
                Ok(read) => {
                    // Without a client, the session ends the command; until then it must not block.
                    let _ = outbox.output(kind, &buffer[..read]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    })
}

/// Gives the command its input, and confirms it. `terminal_of` is the command if input is keys.
fn feed(
    from: Receiver<Vec<u8>>,
    to: OwnedFd,
    terminal_of: Option<Pid>,
    outbox: &Arc<Outbox>,
) -> io::Result<JoinHandle<()>> {
    let outbox = Arc::clone(outbox);
    thread::Builder::new().name("input".to_owned()).spawn(move || {
        let mut to = File::from(to);
        for bytes in from {
            let suspends = terminal_of.is_some_and(|command| pause::suspends(&to, &bytes, command));
            // Input that is not read any more counts as taken.
            let _ = to.write_all(&bytes);
            if suspends {
                let _ = outbox.reply(&Reply::Stopped);
            }
            let _ = outbox.reply(&Reply::StdinTaken(bytes.len() as u64));
        }
    })
}

/// How many processes of the workspace the OOM killer has ended so far, by cgroups v1 or v2.
fn oom_kills() -> u64 {
    const PLACES: [&str; 2] = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"];
    let text = PLACES.iter().find_map(|place| std::fs::read_to_string(place).ok()).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn not_started(tried: &str, error: &io::Error) -> NotStarted {
    NotStarted { why: NoStart::Other, detail: format!("{tried}: {error}") }
}
