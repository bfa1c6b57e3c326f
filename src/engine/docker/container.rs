//! Containers, without their files ([`super::archive`]) and streams ([`super::attach`]).

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::{Duration, SystemTime},
};

use bollard::{
    errors::Error as BollardError,
    models::{
        ContainerCreateBody, ContainerUpdateBody, HealthConfig, HostConfig, HostConfigIsolationEnum,
        HostConfigLogConfig, Mount as MountBody, MountType, MountVolumeOptions,
        MountVolumeOptionsDriverConfig,
    },
    query_parameters::{
        CreateContainerOptionsBuilder, EventsOptionsBuilder, KillContainerOptionsBuilder,
        ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, RenameContainerOptionsBuilder,
        ResizeContainerTTYOptionsBuilder, RestartContainerOptionsBuilder, StartContainerOptions,
        WaitContainerOptionsBuilder,
    },
};
use futures_util::StreamExt;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use super::{
    client::{Docker, failed, removed},
    owned::{Owned, carries},
};
use crate::{
    engine::{
        error::{Call, EngineError, Operation, StartError, plain, why_not_started},
        labels,
    },
    spec::{ContainerOptions, Decision, EnvVar, Isolation, Stdin, Terminal, VolumeOption},
};

/// How long an engine may take to list past events.
const EVENTS: Duration = Duration::from_secs(5);

/// The interval of checks for a container that is gone although the engine did not report it.
const MISSED: Duration = Duration::from_millis(500);

/// A container's id, as its engine gave it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContainerId(String);

impl ContainerId {
    /// Takes an id (or a name; engines take both) that was stored earlier.
    pub fn new(id: impl Into<String>) -> ContainerId {
        ContainerId(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The twelve digits that `docker ps` shows.
impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get(..12).filter(|_| self.0.len() == 64).unwrap_or(&self.0))
    }
}

/// The program in front of the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entrypoint {
    /// The image's own, if it has one.
    OfImage,
    /// None, even if the image has one.
    None,
    /// This program, instead of the image's.
    Program(String),
}

/// The purpose of a container's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// One command. The container ends with it.
    OneCommand,
    /// One client of the agent. The process's input ends with that client's attach, and the engine
    /// removes the container when the process has ended.
    OneClient,
    /// One client of the agent after the other, each with its own attach. The process's input does
    /// not end with an attach.
    ManyClients,
}

/// A separate file system at a path of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// In memory.
    Tmpfs {
        /// The path in the container.
        target: String,
        /// How many bytes it may hold; half of the engine's memory if `None`.
        size: Option<u64>,
    },
    /// A volume of the engine.
    Volume {
        /// The volume's name; `None` makes an anonymous volume that is removed with the container.
        name: Option<String>,
        /// The path in the container.
        target: String,
        /// Its first contents.
        contents: VolumeContents,
        /// For the engine's local driver, if the volume is anonymous; others were made before.
        options: Vec<VolumeOption>,
    },
    /// A directory of the engine's machine.
    Bind {
        /// The directory on that machine: absolute. It must exist.
        source: String,
        /// The path in the container.
        target: String,
        /// What the container may do with the directory.
        access: MountAccess,
    },
}

/// The contents of a volume when it is mounted for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeContents {
    /// Nothing.
    Empty,
    /// A copy of the image's files at that path.
    OfImage,
}

/// What a container may do with a [`Mount::Bind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountAccess {
    /// Read.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

/// All settings of a container that are decided before it is made.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// Its name.
    pub name: String,
    /// The image: a reference, or better an id.
    pub image: String,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// The program in front of it.
    pub entrypoint: Entrypoint,
    /// Added to the image's own variables; later ones win.
    pub env: Vec<EnvVar>,
    /// `USER[:GROUP]`; the image's if `None`.
    pub user: Option<String>,
    /// The directory in which the command runs. The engine makes it, owned by root, if it is
    /// missing.
    pub working_dir: String,
    /// The labels by which the container is found again.
    pub labels: BTreeMap<String, String>,
    /// Pseudo-terminal or separate streams.
    pub terminal: Terminal,
    /// Whether it gets input.
    pub stdin: Stdin,
    /// Whether it serves one command, one client or many.
    pub serves: Serves,
    /// More options.
    pub options: ContainerOptions,
    /// `os/arch[/variant]`.
    pub platform: Option<String>,
    /// Its mounts, the outer ones first.
    pub mounts: Vec<Mount>,
}

/// The capabilities of root that the agent needs: it writes sources for the build's user, switches
/// to that user, and ends the processes of that user. Docker grants them anyway; Podman may be
/// configured to grant none (`default_capabilities` in its containers.conf).
const OF_THE_AGENT: [&str; 7] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"];

/// The state of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState {
    /// Whether its process runs now.
    pub running: bool,
    /// Whether it is being removed.
    pub removing: bool,
    /// The exit code of the process; 0 before its end. 126 and 127 if it could not be started.
    pub exit_code: i64,
    /// Whether the process was killed because memory ran out.
    pub oom_killed: bool,
    /// The engine's message about a start that failed; empty otherwise.
    pub error: String,
}

/// How the process of a removed container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Obituary {
    /// Its exit code.
    pub exit_code: i64,
    /// The cause.
    pub cause: Cause,
}

/// See [`Obituary::cause`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The system killed a process of the container because memory ran out.
    OutOfMemory,
    /// The container was stopped by a request.
    Stopped,
    /// A cause that the engine's events do not name.
    Unknown,
}

/// The life cycle of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Made, but never started.
    Created,
    /// Its process runs.
    Running,
    /// Its process is frozen.
    Paused,
    /// Its process has ended; it can be started again.
    Exited,
    /// Half removed, or being removed: it cannot be used any more.
    Dead,
}

/// The limits of a container; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory, in bytes.
    pub memory: Option<u64>,
    /// Billionths of a processor.
    pub nano_cpus: Option<i64>,
}

/// The engine's data about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerFacts {
    /// Its id.
    pub id: ContainerId,
    /// All its labels.
    pub labels: BTreeMap<String, String>,
    /// Its place in the life cycle.
    pub life: Life,
    /// The id of its image.
    pub image: String,
    /// Its limits.
    pub limits: Limits,
    /// The start time of its process, as the engine writes it (RFC 3339).
    pub started_at: String,
}

/// Whether an engine measures containers. For that it has to look at all their files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizes {
    /// Measure every container.
    Measure,
    /// Do not measure.
    Skip,
}

/// A container found by its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSummary {
    /// Its id.
    pub id: ContainerId,
    /// Its name, without the slash that engines put in front.
    pub name: String,
    /// All its labels.
    pub labels: BTreeMap<String, String>,
    /// The engine's word: `created`, `running`, `exited` and so on.
    pub state: String,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// The size of its own layer, in bytes; `None` if it was not measured.
    pub size: Option<u64>,
}

/// The result of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The process got it.
    Delivered,
    /// The process had ended before, or was not started.
    NotRunning,
}

/// The result of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// This call removed it.
    Now,
    /// It was gone before, or another removal is in progress.
    Already,
    /// It exists, and stays: its labels do not say that it belongs to the required owner.
    NotOurs,
}

impl Docker {
    /// Makes a container; no process runs yet.
    ///
    /// # Errors
    /// [`EngineError::NameTaken`], [`WorkingDirectory`](EngineError::WorkingDirectory) when it is a
    /// file, [`ImageNotFound`](EngineError::ImageNotFound), and the errors common to all requests.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, EngineError> {
        let options = CreateContainerOptionsBuilder::new()
            .name(&spec.name)
            .platform(spec.platform.as_deref().unwrap_or(""))
            .build();
        match self.client.create_container(Some(options), spec.to_body()).await {
            Ok(made) => Ok(ContainerId(made.id)),
            Err(error) => Err(match failed(Call::new(Operation::Create, &spec.name))(error) {
                EngineError::ImageNotFound { message, .. } => {
                    EngineError::ImageNotFound { reference: spec.image.clone(), message }
                }
                error => error,
            }),
        }
    }

    /// Starts the container's process. Attach before: output before an attach is lost.
    ///
    /// # Errors
    /// [`StartError::CommandNotFound`] and [`StartError::NotExecutable`] are the command's fault,
    /// other errors are not.
    pub async fn start(&self, id: &ContainerId) -> Result<(), StartError> {
        let Err(error) = self.client.start_container(id.as_str(), None::<StartContainerOptions>).await else {
            return Ok(());
        };
        let error = failed(Call::new(Operation::Start, id))(error);
        Err(self.explain_start(id, error).await)
    }

    /// A failed start -> the error that explains it.
    pub(super) async fn explain_start(&self, id: &ContainerId, error: EngineError) -> StartError {
        if !matches!(error, EngineError::Api { .. }) {
            return StartError::Other(error);
        }
        let inspected = self.inspect(id).await;
        // It is being removed by another request. A container that the engine removes because its
        // start failed has a different answer.
        if matches!(error, EngineError::Api { status: 409, .. })
            && inspected.as_ref().map_or(true, |found| found.state.life() == Life::Dead)
        {
            return StartError::Other(EngineError::NoSuchContainer { call: Call::new(Operation::Start, id) });
        }
        let inspected = inspected.unwrap_or_default();
        why_not_started(inspected.path, inspected.state.exit_code, error)
    }

    /// Waits for the end of a process that [`Docker::start`] has started; returns its exit code.
    ///
    /// The condition is `not-running`, requested after the start: for a process that has ended
    /// already the answer comes at once, so no end is missed, and a lost request can be sent again.
    /// `next-exit` would have to reach the engine before the start, which only the answer's headers
    /// confirm (one more round trip). Podman implements it by polling, which may miss a short
    /// process. Before a start, `not-running` would be true at once.
    ///
    /// # Errors
    /// [`EngineError::Gone`] when the engine ends before the process does.
    pub async fn wait(&self, id: &ContainerId) -> Result<i64, EngineError> {
        let call = || Call::new(Operation::Wait, id);
        let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
        let mut answers = Box::pin(self.client.wait_container(id.as_str(), Some(options)));
        match answers.next().await {
            Some(Ok(ended)) => Ok(ended.status_code),
            // bollard reports an exit code other than 0 in this way.
            Some(Err(BollardError::DockerContainerWaitError { code, .. })) => Ok(code),
            Some(Err(error)) => Err(failed(call())(error)),
            None => Err(EngineError::Gone {
                call: call(),
                detail: "the answer ended before the exit code".to_owned(),
            }),
        }
    }

    /// Waits until the container is gone for any reason; reports whether it existed until then.
    ///
    /// # Errors
    /// The errors common to all requests, and the engine's error about a removal that failed. A
    /// container that is gone is not an error.
    pub async fn gone(&self, id: &ContainerId) -> Result<Removed, EngineError> {
        let options = WaitContainerOptionsBuilder::new().condition("removed").build();
        let mut answers = Box::pin(self.client.wait_container(id.as_str(), Some(options)));
        let answer = loop {
            match tokio::time::timeout(MISSED, answers.next()).await {
                Ok(answer) => break answer,
                // Docker never answers a request that comes at the very moment of the removal.
                Err(_) if self.look(id.as_str()).await?.is_none() => return Ok(Removed::Already),
                Err(_) => {}
            }
        };
        match answer {
            Some(Ok(_) | Err(BollardError::DockerContainerWaitError { .. })) => Ok(Removed::Now),
            Some(Err(BollardError::DockerResponseServerError { status_code: 404, .. })) => {
                Ok(Removed::Already)
            }
            Some(Err(error)) => Err(failed(Call::new(Operation::Wait, id))(error)),
            None => Err(EngineError::Gone {
                call: Call::new(Operation::Wait, id),
                detail: "the answer ended before the container was removed".to_owned(),
            }),
        }
    }

    /// How the process of a removed container ended, according to the engine's events since `since`
    /// (seconds since 1970); `None` if the engine has no such events.
    pub async fn obituary(&self, id: &ContainerId, since: u64) -> Option<Obituary> {
        let filters = [("container", vec![id.as_str()])].into();
        let until = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs() + 1;
        let options = EventsOptionsBuilder::new()
            .since(&since.to_string())
            .until(&until.to_string())
            .filters(&filters)
            .build();
        let events = self.client.events(Some(options)).filter_map(async |event| event.ok());
        let events: Vec<_> = tokio::time::timeout(EVENTS, events.collect()).await.ok()?;
        let has = |action: &str| events.iter().any(|event| event.action.as_deref() == Some(action));
        let died = events.iter().rev().find(|event| event.action.as_deref() == Some("die"))?;
        let attributes = died.actor.as_ref().and_then(|actor| actor.attributes.as_ref());
        let code = attributes.and_then(|attributes| attributes.get("exitCode")?.parse().ok());
        Some(Obituary {
            exit_code: code.unwrap_or(0),
            cause: match (has("oom"), has("stop")) {
                (true, _) => Cause::OutOfMemory,
                (false, true) => Cause::Stopped,
                (false, false) => Cause::Unknown,
            },
        })
    }

    /// Sends a signal, such as `SIGINT`, to the container's process.
    ///
    /// # Errors
    /// A container that is gone, a signal that the engine does not know. A process that has ended
    /// is not an error: a signal often crosses with an exit.
    pub async fn kill(&self, id: &ContainerId, signal: &str) -> Result<Delivery, EngineError> {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        match self.client.kill_container(id.as_str(), Some(options)).await {
            Ok(()) => Ok(Delivery::Delivered),
            Err(error) if is_not_running(&error) => Ok(Delivery::NotRunning),
            Err(error) => Err(failed(Call::new(Operation::Kill, id))(error)),
        }
    }

    /// Sets the terminal's size in characters. No effect before the start and after the end.
    ///
    /// # Errors
    /// The errors common to all requests.
    pub async fn resize(&self, id: &ContainerId, rows: u16, cols: u16) -> Result<(), EngineError> {
        let options = ResizeContainerTTYOptionsBuilder::new().h(rows.into()).w(cols.into()).build();
        match self.client.resize_container_tty(id.as_str(), options).await {
            Err(error) if !is_not_running(&error) => Err(failed(Call::new(Operation::Resize, id))(error)),
            _ => Ok(()),
        }
    }

    /// The state of the container.
    ///
    /// # Errors
    /// The errors common to all requests.
    pub async fn state(&self, id: &ContainerId) -> Result<ContainerState, EngineError> {
        let state = self.inspect(id).await?.state;
        Ok(ContainerState {
            running: state.running,
            removing: state.life() == Life::Dead,
            exit_code: state.exit_code.unwrap_or(0),
            oom_killed: state.oom_killed,
            error: plain(&state.error),
        })
    }

    /// The engine's data about a container, by id or name; `None` if it does not exist.
    ///
    /// # Errors
    /// The errors common to all requests.
    pub async fn look(&self, id_or_name: &str) -> Result<Option<ContainerFacts>, EngineError> {
        match self.inspect(&ContainerId::new(id_or_name)).await {
            Ok(found) => Ok(Some(ContainerFacts::from(found))),
            Err(EngineError::NoSuchContainer { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Kills the container's process and starts it again.
    ///
    /// # Errors
    /// The errors common to all requests, and the errors of a start.
    pub async fn restart(&self, id: &ContainerId) -> Result<(), StartError> {
        let options = RestartContainerOptionsBuilder::new().t(0).build();
        let Err(error) = self.client.restart_container(id.as_str(), Some(options)).await else {
            return Ok(());
        };
        let error = failed(Call::new(Operation::Restart, id))(error);
        Err(self.explain_start(id, error).await)
    }

    /// Lets a frozen container's process continue.
    ///
    /// # Errors
    /// The errors common to all requests.
    pub async fn unpause(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.client.unpause_container(id.as_str()).await.map_err(failed(Call::new(Operation::Unpause, id)))
    }

    /// Gives a container another name, running or not.
    ///
    /// # Errors
    /// [`EngineError::NameTaken`], and the errors common to all requests.
    pub async fn rename(&self, id: &ContainerId, name: &str) -> Result<(), EngineError> {
        let options = RenameContainerOptionsBuilder::new().name(name).build();
        let renamed = self.client.rename_container(id.as_str(), options).await;
        renamed.map_err(failed(Call::new(Operation::Rename, id)))
    }

    /// Sets a container's limits, running or not.
    ///
    /// # Errors
    /// The errors common to all requests; [`EngineError::Api`] for a limit that the engine rejects.
    pub async fn set_limits(&self, id: &ContainerId, limits: Limits) -> Result<(), EngineError> {
        let memory = limits.memory.map(to_i64);
        let body = ContainerUpdateBody {
            memory,
            // The value that an engine sets itself when it makes a container.
            memory_swap: memory.map(|bytes| bytes.saturating_mul(2)),
            nano_cpus: limits.nano_cpus,
            ..ContainerUpdateBody::default()
        };
        let updated = self.client.update_container(id.as_str(), body).await;
        updated.map_err(failed(Call::new(Operation::Update, id)))
    }

    /// Removes a container with its anonymous volumes, by id or name, running or not, if it is
    /// `owned`. Waits for a removal that is already in progress.
    ///
    /// # Errors
    /// The errors common to all requests. A container that is gone is not an error.
    pub async fn remove(&self, id_or_name: &str, owned: &Owned) -> Result<Removed, EngineError> {
        let Some(found) = self.look(id_or_name).await? else { return Ok(Removed::Already) };
        if !owned.is_said_by(&found.labels) {
            return Ok(Removed::NotOurs);
        }
        if self.facts.name.eq_ignore_ascii_case("libpod") && found.life == Life::Running {
            // Podman would ask the process to end first, and wait ten seconds for a process that
            // ignores this. The result of the kill does not matter: the removal reports errors.
            let _killed = self.kill(&found.id, "SIGKILL").await;
        }
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.client.remove_container(found.id.as_str(), Some(options)).await {
            Err(BollardError::DockerResponseServerError { status_code: 409, message })
                if message.contains("already in progress") =>
            {
                // The removal of a large layer takes time.
                self.gone(&found.id).await.map(|_| Removed::Already)
            }
            answer => removed(answer, Call::new(Operation::Remove, id_or_name)),
        }
    }

    /// All of fastbuild's containers, running or not, that carry each of `labels` (`NAME` or
    /// `NAME=VALUE`). An image that a user made of a workspace (`docker commit`) passes the labels
    /// on to its containers, so the name is checked too.
    ///
    /// # Errors
    /// The errors common to all requests.
    pub async fn list(&self, labels: &[String], sizes: Sizes) -> Result<Vec<ContainerSummary>, EngineError> {
        let filters = [("label", labels.to_vec())].into();
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .size(sizes == Sizes::Measure)
            .filters(&filters)
            .build();
        let call = Call::new(Operation::List, "");
        let query = serde_urlencoded::to_string(options)
            .map_err(|error| EngineError::BadAnswer { call: call.clone(), message: error.to_string() })?;
        let found: Vec<Listed> = self.ask(call, &format!("/containers/json?{query}")).await?;
        let found = found.into_iter().map(ContainerSummary::from);
        let is_meant =
            |found: &ContainerSummary| found.name.starts_with("fastbuild-") && carries(&found.labels, labels);
        Ok(found.filter(is_meant).collect())
    }

    async fn inspect(&self, id: &ContainerId) -> Result<Inspected, EngineError> {
        let path = format!("/containers/{}/json", id.as_str());
        self.ask(Call::new(Operation::InspectContainer, id), &path).await
    }
}

/// Docker answers 409; Podman, and older Dockers for some requests, 500.
fn is_not_running(error: &BollardError) -> bool {
    let BollardError::DockerResponseServerError { status_code: 409 | 500, message } = error else {
        return false;
    };
    let message = message.to_lowercase();
    ["is not running", "can only kill running containers", "container state improper", "no such process"]
        .iter()
        .any(|words| message.contains(words))
}

impl ContainerSpec {
    /// A container for one command without input, in `/`; all else as the image and the engine have
    /// it.
    pub fn new(name: String, image: String, command: Vec<String>) -> ContainerSpec {
        ContainerSpec {
            name,
            image,
            command,
            entrypoint: Entrypoint::OfImage,
            env: Vec::new(),
            user: None,
            working_dir: "/".to_owned(),
            labels: BTreeMap::new(),
            terminal: Terminal::None,
            stdin: Stdin::Empty,
            serves: Serves::OneCommand,
            options: ContainerOptions::default(),
            platform: None,
            mounts: Vec::new(),
        }
    }

    fn to_body(&self) -> ContainerCreateBody {
        let forward = self.stdin == Stdin::Forward;
        let runs_agent = self.serves != Serves::OneCommand;
        ContainerCreateBody {
            image: Some(self.image.clone()),
            cmd: Some(self.command.clone()),
            entrypoint: match &self.entrypoint {
                Entrypoint::OfImage => None,
                // As Docker's own client does it: an empty list would count as not given.
                Entrypoint::None => Some(vec![String::new()]),
                Entrypoint::Program(program) => Some(vec![program.clone()]),
            },
            env: Some(self.env.iter().map(|var| format!("{}={}", var.name, var.value)).collect()),
            user: self.user.clone(),
            working_dir: Some(self.working_dir.clone()),
            labels: Some(self.labels.clone().into_iter().collect()),
            tty: Some(self.terminal == Terminal::Allocate),
            attach_stdin: Some(forward),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            open_stdin: Some(forward),
            // The process reads end of file when our half of the attached connection ends.
            stdin_once: Some(forward && self.serves != Serves::ManyClients),
            // The image's health check is not meant for the agent. A stop must send SIGTERM to the
            // agent, even if the image sets another signal.
            healthcheck: runs_agent
                .then(|| HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
            stop_signal: runs_agent.then(|| "SIGTERM".to_owned()),
            host_config: Some(self.to_host_config()),
            ..ContainerCreateBody::default()
        }
    }

    /// The container's limits.
    pub fn limits(&self) -> Limits {
        let ContainerOptions { memory, nano_cpus, .. } = &self.options;
        Limits { memory: value(memory), nano_cpus: value(nano_cpus) }
    }

    fn to_host_config(&self) -> HostConfig {
        let ContainerOptions { network, memory, nano_cpus, shm_size, isolation } = &self.options;
        HostConfig {
            network_mode: value(network),
            memory: value(memory).map(to_i64),
            nano_cpus: value(nano_cpus),
            shm_size: value(shm_size).map(to_i64),
            isolation: value(isolation).map(|isolation| match isolation {
                Isolation::Process => HostConfigIsolationEnum::PROCESS,
                Isolation::Hyperv => HostConfigIsolationEnum::HYPERV,
            }),
            tmpfs: Some(self.mounts.iter().filter_map(Mount::to_tmpfs).collect()),
            mounts: Some(self.mounts.iter().filter_map(|mount| mount.to_body(&self.labels)).collect()),
            // The output goes to the attached connection. A second copy on the engine's disk would
            // never be read, would slow a verbose build down, and would stay readable for others
            // until the container is removed. Podman knows this driver by the same name.
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            // The agent sends its products before it ends; without it they stay in the container.
            auto_remove: Some(self.serves == Serves::OneClient),
            cap_add: (self.serves != Serves::OneCommand).then(|| OF_THE_AGENT.map(str::to_owned).into()),
            ..HostConfig::default()
        }
    }
}

/// A size in the API's type.
fn to_i64(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn value<T: Clone>(decision: &Option<Decision<T>>) -> Option<T> {
    decision.as_ref().map(|decision| decision.value.clone())
}

impl Mount {
    /// In the older form, because only there programs can be allowed to run from it (builds do).
    fn to_tmpfs(&self) -> Option<(String, String)> {
        let Mount::Tmpfs { target, size } = self else { return None };
        let size = size.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
        Some((target.clone(), format!("rw,exec,mode=0755{size}")))
    }

    /// An anonymous volume gets its container's labels, to be found if it outlives the container.
    fn to_body(&self, labels: &BTreeMap<String, String>) -> Option<MountBody> {
        let (typ, source, target, read_only) = match self {
            Mount::Tmpfs { .. } => return None,
            Mount::Volume { name, target, .. } => (MountType::VOLUME, name.clone(), target, false),
            Mount::Bind { source, target, access } => {
                (MountType::BIND, Some(source.clone()), target, *access == MountAccess::ReadOnly)
            }
        };
        Some(MountBody {
            typ: Some(typ),
            source,
            target: Some(target.clone()),
            read_only: Some(read_only),
            volume_options: match self {
                Mount::Volume { name, contents, options, .. } => Some(MountVolumeOptions {
                    no_copy: Some(*contents == VolumeContents::Empty),
                    labels: name.is_none().then(|| volume_labels(labels)),
                    driver_config: (!options.is_empty()).then(|| MountVolumeOptionsDriverConfig {
                        name: Some("local".to_owned()),
                        options: Some(options.iter().map(|o| (o.key.clone(), o.value.clone())).collect()),
                    }),
                    ..MountVolumeOptions::default()
                }),
                Mount::Tmpfs { .. } | Mount::Bind { .. } => None,
            },
            ..MountBody::default()
        })
    }
}

fn volume_labels(of_container: &BTreeMap<String, String>) -> HashMap<String, String> {
    let tier = (labels::TIER.to_owned(), labels::VOLUME.to_owned());
    of_container.clone().into_iter().chain([tier]).collect()
}

/// An engine's answer about one container. Missing and `null` values are those of a new container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Inspected {
    id: String,
    image: String,
    path: String,
    #[serde(deserialize_with = "or_default")]
    config: Configured,
    #[serde(deserialize_with = "or_default")]
    host_config: Allowed,
    #[serde(deserialize_with = "or_default")]
    state: InspectedState,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Configured {
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Allowed {
    memory: Option<i64>,
    nano_cpus: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct InspectedState {
    status: String,
    running: bool,
    exit_code: Option<i64>,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    #[serde(deserialize_with = "or_default")]
    error: String,
    #[serde(deserialize_with = "or_default")]
    started_at: String,
}

/// One container of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Listed {
    id: String,
    #[serde(deserialize_with = "or_default")]
    names: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
    state: String,
    created: i64,
    size_rw: Option<i64>,
}

/// Go writes an empty list, map or pointer as `null`.
fn or_default<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

impl InspectedState {
    fn life(&self) -> Life {
        match self.status.as_str() {
            "created" => Life::Created,
            "running" | "restarting" | "stopping" => Life::Running,
            "paused" => Life::Paused,
            "exited" => Life::Exited,
            "removing" | "dead" => Life::Dead,
            // Podman's additional words are "configured", "initialized" and "stopped".
            _ if self.running => Life::Running,
            _ => Life::Exited,
        }
    }
}

impl From<Inspected> for ContainerFacts {
    fn from(found: Inspected) -> ContainerFacts {
        let Allowed { memory, nano_cpus } = found.host_config;
        ContainerFacts {
            life: found.state.life(),
            id: ContainerId(found.id),
            labels: found.config.labels,
            image: found.image,
            limits: Limits {
                memory: memory.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0),
                nano_cpus: nano_cpus.filter(|nano| *nano > 0),
            },
            started_at: found.state.started_at,
        }
    }
}

impl From<Listed> for ContainerSummary {
    fn from(found: Listed) -> ContainerSummary {
        let name = found.names.into_iter().next().unwrap_or_default();
        ContainerSummary {
            id: ContainerId(found.id),
            name: name.trim_start_matches('/').to_owned(),
            labels: found.labels,
            state: found.state,
            created: found.created,
            size: found.size_rw.and_then(|size| u64::try_from(size).ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_read_in_each_engines_words() {
        let facts = |status: &str, running: bool| {
            let found = serde_json::json!({
                "Id": "c", "Image": "sha256:i", "Path": "sh", "Config": {"Labels": null}, "HostConfig": {"Memory": 0},
                "State": {"Status": status, "Running": running, "ExitCode": 3, "StartedAt": "0001-01-01T00:00:00Z"},
            });
            ContainerFacts::from(serde_json::from_value::<Inspected>(found).unwrap())
        };
        assert_eq!(facts("created", false).life, Life::Created);
        assert_eq!(facts("stopping", true).life, Life::Running);
        assert_eq!(facts("stopped", false).life, Life::Exited);
        assert_eq!(facts("a word of tomorrow's", true).life, Life::Running);
        assert_eq!(facts("removing", false).life, Life::Dead);
        assert_eq!(facts("exited", false).limits, Limits::default());
    }

    #[test]
    fn a_word_that_nobody_knows_costs_no_listing() {
        let found = serde_json::json!([
            {"Id": "a", "Names": ["/fastbuild-a"], "Labels": null, "State": "stopped", "Created": 7},
            {"Id": "b", "Names": null, "Labels": {"k": "v"}, "State": "exited", "Created": 8, "SizeRw": 9},
        ]);
        let found: Vec<Listed> = serde_json::from_value(found).unwrap();
        let found: Vec<_> = found.into_iter().map(ContainerSummary::from).collect();
        assert_eq!((found[0].name.as_str(), found[0].state.as_str()), ("fastbuild-a", "stopped"));
        assert_eq!((found[1].name.as_str(), found[1].size), ("", Some(9)));
    }
}
