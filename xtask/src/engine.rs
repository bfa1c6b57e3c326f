//! A container engine that answers: found, or on Debian and Ubuntu installed and started.
//!
//! An engine is known by its answer to a ping and by nothing else: a socket file, a pid file or an installed client
//! proves nothing on a machine that was restarted. Neighbours: [`crate::debian`] installs, everyone else takes the
//! [`Engine`] that [`ensure`] hands out.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bollard::Docker;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::{
    debian,
    run::{self, found, note, say},
};

const PING: Duration = Duration::from_secs(10);
const START: Duration = Duration::from_secs(90);
const DENIED: &str = "Permission denied";
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// An engine that answered.
pub struct Engine {
    /// The connection, its API version negotiated.
    pub docker: Docker,
    /// Its address as `DOCKER_HOST` has it.
    pub address: String,
    /// Name and version, for people.
    pub version: String,
}

impl Engine {
    /// Points a child process to this engine. An engine at the default address needs no variable, and programs and
    /// tests then run as they would by hand.
    pub fn point<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if self.address != default_address() {
            command.env("DOCKER_HOST", &self.address);
        }
        command
    }
}

/// An address that was tried, and what came back.
struct NoAnswer {
    address: String,
    why: String,
}

/// Finds the engine that answers, or makes one where that is possible.
///
/// # Errors
/// What was tried, what came back, and what to install.
pub async fn ensure() -> Result<Engine> {
    say("engine");
    let tried = match find().await {
        Ok(engine) => return Ok(announced(engine)),
        Err(tried) => tried,
    };
    for NoAnswer { address, why } in &tried {
        note(format_args!("{address}: {why}"));
    }
    if let Some(host) = docker_host() {
        bail!("the engine that DOCKER_HOST names ({host}) does not answer. Start it, or unset DOCKER_HOST");
    }
    if tried.iter().any(|none| none.why.contains(DENIED)) {
        bail!(
            "there is an engine, and its socket is closed to this user. Run this as root, or join the group that owns \
             the socket and log in again: sudo usermod -aG docker $USER"
        );
    }
    if debian::installable().is_none() {
        bail!("no container engine answers.\n{}", advice());
    }
    if !found("dockerd") {
        debian::install(&["docker.io"])?;
    }
    start().await.map(announced)
}

fn announced(engine: Engine) -> Engine {
    note(format_args!("{} at {}", engine.version, engine.address));
    engine
}

fn docker_host() -> Option<String> {
    std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty())
}

fn default_address() -> String {
    format!("unix://{DEFAULT_SOCKET}")
}

async fn find() -> Result<Engine, Vec<NoAnswer>> {
    let mut tried = Vec::new();
    for address in candidates() {
        match connect(&address).await {
            Ok(engine) => return Ok(engine),
            Err(error) => tried.push(NoAnswer { address, why: format!("{error:#}") }),
        }
    }
    Err(tried)
}

/// `DOCKER_HOST` alone when it is set, because the user then means that engine. Else the places where engines listen.
fn candidates() -> Vec<String> {
    if let Some(host) = docker_host() {
        return vec![host];
    }
    let below =
        |variable: &str, path: &str| std::env::var_os(variable).map(|dir| PathBuf::from(dir).join(path));
    let sockets = [
        Some(PathBuf::from(DEFAULT_SOCKET)),
        below("XDG_RUNTIME_DIR", "docker.sock"),
        below("HOME", ".docker/run/docker.sock"),
        below("HOME", ".docker/desktop/docker.sock"),
        below("HOME", ".colima/default/docker.sock"),
        below("XDG_RUNTIME_DIR", "podman/podman.sock"),
        Some(PathBuf::from("/run/podman/podman.sock")),
    ];
    let known = sockets.into_iter().flatten().enumerate();
    known
        .filter(|(n, path)| *n == 0 || path.exists())
        .map(|(_, path)| format!("unix://{}", path.to_string_lossy()))
        .collect()
}

/// Connects to the engine at this address, as `DOCKER_HOST` has it.
///
/// # Errors
/// What came back instead of an answer.
pub async fn connect(address: &str) -> Result<Engine> {
    let docker = Docker::connect_with_host(address)?;
    let docker = timeout(PING, docker.negotiate_version())
        .await
        .with_context(|| format!("no answer within {} s", PING.as_secs()))?
        .map_err(|error| anyhow::anyhow!("{}", root_cause(&error)))?;
    let version = docker.version().await?;
    let name = version.platform.map(|platform| platform.name).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| "Docker Engine".to_owned());
    let number = version.version.unwrap_or_default();
    Ok(Engine { docker, address: address.to_owned(), version: format!("{name} {number}") })
}

/// What the system said, without the layers of client that it came through.
fn root_cause(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

fn advice() -> &'static str {
    if cfg!(target_os = "linux") {
        "Install one and start it, then run this again:\n  \
         Debian, Ubuntu:  sudo apt-get install docker.io   (or run this command as root: it does that by itself)\n  \
         Fedora:          sudo dnf install moby-engine && sudo systemctl start docker\n  \
         Arch:            sudo pacman -S docker && sudo systemctl start docker\n\
         To use an engine elsewhere, set DOCKER_HOST to its address."
    } else {
        "Install Docker Desktop, Colima or Podman, start it, then run this again.\n\
         To use an engine elsewhere, set DOCKER_HOST to its address."
    }
}

async fn start() -> Result<Engine> {
    if Path::new("/run/systemd/system").is_dir() {
        run::run(Command::new("systemctl").args(["start", "docker"]))?;
        return wait(&default_address(), None).await;
    }
    if living("/var/run/docker.pid", "dockerd") {
        note("dockerd is there already and does not answer yet");
        return wait(&default_address(), None).await;
    }
    living("/var/run/docker/containerd/containerd.pid", "containerd");
    wait(&default_address(), Some(&mut spawn()?)).await
}

/// Whether the process of a pid file is `program` still. A file that names another process, or none, is removed: the
/// engine itself would believe it as soon as anything at all runs under that number.
fn living(pid_file: &str, program: &str) -> bool {
    let Ok(pid) = fs_err::read_to_string(pid_file) else { return false };
    let name = fs_err::read_to_string(format!("/proc/{}/comm", pid.trim())).unwrap_or_default();
    if name.trim() == program {
        return true;
    }
    note(format_args!("removing {pid_file}: process {} is no {program}", pid.trim()));
    fs_err::remove_file(pid_file).ok();
    false
}

/// A `dockerd` that is being started.
pub struct Starting {
    /// The process.
    pub child: Child,
    /// What it says.
    pub log: PathBuf,
}

impl Starting {
    fn tail(&self) -> String {
        run::last_lines(&fs_err::read(&self.log).unwrap_or_default(), 15)
    }
}

/// Starts `dockerd` in a session of its own with none of this process's streams: it lives on when this one ends, and
/// a reader of this process's output does not wait for it.
fn spawn() -> Result<Starting> {
    let log = run::scratch_dir()?.join("dockerd.log");
    let out = fs_err::File::create(&log)?.into_file();
    say(format_args!("starting dockerd, its log is {log:?}"));
    let child = Command::new("setsid")
        .arg("dockerd")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .context("cannot start dockerd through setsid (Debian's package: util-linux)")?;
    Ok(Starting { child, log })
}

/// Waits until an engine answers at `address`.
///
/// # Errors
/// When its process ends, or when it does not answer for long; with its last words.
pub async fn wait(address: &str, mut starting: Option<&mut Starting>) -> Result<Engine> {
    let deadline = Instant::now() + START;
    let mut tick = interval(Duration::from_millis(100));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let why = match connect(address).await {
            Ok(engine) => return Ok(engine),
            Err(error) => error,
        };
        if let Some(dockerd) = &mut starting
            && let Some(status) = dockerd.child.try_wait()?
        {
            bail!("dockerd ended with {status}. Its last words:\n{}", dockerd.tail());
        }
        if Instant::now() > deadline {
            let tail =
                starting.map(|dockerd| format!(" Its last words:\n{}", dockerd.tail())).unwrap_or_default();
            bail!("dockerd does not answer after {} s: {why:#}.{tail}", START.as_secs());
        }
    }
}
