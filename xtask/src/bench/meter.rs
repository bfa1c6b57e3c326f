//! The children of the bench: started, waited for, counted, and ended when the bench is interrupted.
//!
//! Each child leads a process group of its own, so Ctrl-C on the terminal reaches the bench alone; [`Interrupt`] then ends
//! the group that runs, the step fails, and whatever was made is removed on the way out. A second mode of running, the
//! *accounting*, is for what would disturb the times: GNU `time` around each child, and the counting proxy as engine.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use super::proxy::Proxy;
use crate::{engine::Engine, run::last_lines};

/// The wish to end, and who has to hear it.
#[derive(Default)]
pub struct Interrupt {
    hit: AtomicBool,
    /// Leaders of the process groups that run now.
    groups: Mutex<Vec<Pid>>,
}

impl Interrupt {
    /// Ends what runs; nothing new starts.
    pub fn fire(&self) {
        self.hit.store(true, Ordering::SeqCst);
        for group in self.groups().iter() {
            kill_process_group(*group, Signal::TERM).ok();
        }
    }

    /// # Errors
    /// When there was an interrupt.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.hit.load(Ordering::SeqCst), "interrupted");
        Ok(())
    }

    fn spawn(&self, command: &mut Command) -> Result<Child> {
        use std::os::unix::process::CommandExt as _;
        let mut groups = self.groups();
        self.check()?;
        let child = command.process_group(0).spawn().with_context(|| format!("cannot run {command:?}"))?;
        groups.extend(Pid::from_raw(child.id().cast_signed()));
        Ok(child)
    }

    /// To be called as soon as the child was waited for: from then on another process may get its id.
    fn forget(&self, child: u32) {
        self.groups().retain(|group| group.as_raw_nonzero().get().cast_unsigned() != child);
    }

    fn groups(&self) -> std::sync::MutexGuard<'_, Vec<Pid>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a contender used, beside time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Account {
    /// Bytes between this machine and the engine, both ways; none where the engine has no socket of its own.
    pub wire: Option<u64>,
    /// Peak memory of the largest process on this side, in bytes.
    pub peak: Option<u64>,
}

/// Runs children.
pub struct Meter {
    interrupt: Arc<Interrupt>,
    /// Where the engine is, for `DOCKER_HOST`.
    engine: String,
    /// Where `time` writes.
    peaks: PathBuf,
    proxy: Option<Proxy>,
    accounting: AtomicBool,
}

impl Meter {
    /// A meter that keeps its own files in `dir`.
    ///
    /// # Errors
    /// When the proxy cannot listen.
    pub fn new(engine: &Engine, dir: &Path, interrupt: Arc<Interrupt>) -> Result<Meter> {
        let runtime = tokio::runtime::Handle::current();
        let proxy = match engine.address.strip_prefix("unix://") {
            Some(socket) => Some(Proxy::start(&runtime, dir.join("engine.sock"), socket.into())?),
            None => None,
        };
        Ok(Meter {
            interrupt,
            engine: engine.address.clone(),
            peaks: dir.join("peaks"),
            proxy,
            accounting: AtomicBool::new(false),
        })
    }

    /// Where the engine is, as `DOCKER_HOST` has it.
    pub fn address(&self) -> &str {
        &self.engine
    }

    /// # Errors
    /// When the bench was interrupted.
    pub fn check(&self) -> Result<()> {
        self.interrupt.check()
    }

    /// Runs `work`, with every child of it counted.
    ///
    /// # Errors
    /// Those of `work`, and when what `time` wrote cannot be read.
    pub fn account(&self, work: impl FnOnce() -> Result<()>) -> Result<Account> {
        fs_err::write(&self.peaks, "")?;
        self.proxy.as_ref().map(Proxy::take);
        self.accounting.store(true, Ordering::SeqCst);
        let done = work();
        self.accounting.store(false, Ordering::SeqCst);
        done?;
        let kib = fs_err::read_to_string(&self.peaks)?
            .lines()
            .map(|line| line.parse::<u64>().with_context(|| format!("time reported {line:?}")))
            .collect::<Result<Vec<_>>>()?;
        Ok(Account {
            wire: self.proxy.as_ref().map(Proxy::take),
            peak: kib.into_iter().max().map(|k| k << 10),
        })
    }

    /// Runs `command` to its end.
    ///
    /// # Errors
    /// When it cannot be started, ends badly or is interrupted; with its last words.
    pub fn run(&self, command: &mut Command) -> Result<Output> {
        let mut command = self.pointed(command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.interrupt.spawn(&mut command)?;
        self.finish(&command, child)
    }

    /// Runs `from | to` to the end of both.
    ///
    /// # Errors
    /// As [`Meter::run`], for each of the two.
    pub fn pipe(&self, from: &mut Command, to: &mut Command) -> Result<()> {
        let (mut from, mut to) = (self.pointed(from), self.pointed(to));
        from.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut writing = self.interrupt.spawn(&mut from)?;
        let stream = writing.stdout.take().context("a child without the pipe that was asked for")?;
        to.stdin(stream).stdout(Stdio::piped()).stderr(Stdio::piped());
        let reading = self.interrupt.spawn(&mut to);
        // The command holds the reading end as well; a writer whose reader is gone has to see that.
        to.stdin(Stdio::null());
        let read = reading.and_then(|child| self.finish(&to, child));
        let wrote = self.finish(&from, writing);
        read.and(wrote).map(drop)
    }

    fn finish(&self, command: &Command, child: Child) -> Result<Output> {
        let id = child.id();
        let output = child.wait_with_output();
        self.interrupt.forget(id);
        let output = output.with_context(|| format!("cannot wait for {command:?}"))?;
        self.check()?;
        if !output.status.success() {
            let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
            bail!("{command:?} ended with {}:\n{}", output.status, last_lines(said, 40));
        }
        Ok(output)
    }

    /// The same command, for this engine; within [`Meter::account`] for the proxy and below `time`.
    fn pointed(&self, command: &Command) -> Command {
        let accounting = self.accounting.load(Ordering::SeqCst);
        let mut pointed = if accounting {
            let mut time = Command::new("time");
            time.args(["--quiet", "--format=%M", "--append", "--output"]).arg(&self.peaks);
            time.arg(command.get_program());
            time
        } else {
            Command::new(command.get_program())
        };
        pointed.args(command.get_args());
        for (name, value) in command.get_envs() {
            set(&mut pointed, name, value);
        }
        if let Some(dir) = command.get_current_dir() {
            pointed.current_dir(dir);
        }
        match &self.proxy {
            Some(proxy) if accounting => pointed.env("DOCKER_HOST", proxy.address()),
            _ => pointed.env("DOCKER_HOST", &self.engine),
        };
        pointed
    }
}

fn set(command: &mut Command, name: &OsStr, value: Option<&OsStr>) {
    match value {
        Some(value) => command.env(name, value),
        None => command.env_remove(name),
    };
}
