//! Errors between fastbuild and an engine: each kind with its evidence (request, object, answer)
//! and its advice. Wording only; [`crate::build`] decides what to do about an error.

use std::{error::Error as StdError, fmt, io, path::Path, time::Duration};

use bollard::errors::Error as BollardError;

use super::{reference::BadReference, words};
use crate::{engine::version::ApiVersion, text::Escaped};

/// A request, described for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The operation of the request.
    pub operation: Operation,
    /// The object of the request: a container's id or name, an image's reference.
    pub object: String,
    /// The path inside the container, for requests that have one.
    pub path: Option<String>,
}

/// The requests that fastbuild sends to an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Inspect an image.
    InspectImage,
    /// Pull an image from its registry.
    Pull,
    /// Import an empty image.
    ImportImage,
    /// Remove an image.
    RemoveImage,
    /// List images.
    ListImages,
    /// Create a container.
    Create,
    /// Look at a path in a container.
    Stat,
    /// Copy files into a container.
    Put,
    /// Copy files out of a container.
    Get,
    /// Attach to the streams of a container's process.
    Attach,
    /// Start a container's process.
    Start,
    /// Start a container's process again.
    Restart,
    /// Run another program in a container.
    Exec,
    /// Let a frozen container continue.
    Unpause,
    /// Give a container another name.
    Rename,
    /// Set other limits for a container.
    Update,
    /// Wait for the exit code of a container's process.
    Wait,
    /// Send a signal to a container's process.
    Kill,
    /// Resize a container's terminal.
    Resize,
    /// Inspect a container.
    InspectContainer,
    /// Remove a container.
    Remove,
    /// List containers.
    List,
    /// Create a volume.
    CreateVolume,
    /// Inspect a volume.
    InspectVolume,
    /// Remove a volume.
    RemoveVolume,
    /// List volumes.
    ListVolumes,
    /// Ask for the engine's description of itself.
    Info,
}

impl Call {
    /// A request without a path.
    pub(crate) fn new(operation: Operation, object: impl fmt::Display) -> Call {
        Call { operation, object: object.to_string(), path: None }
    }

    pub(super) fn at(operation: Operation, object: impl fmt::Display, path: &str) -> Call {
        Call { path: Some(path.to_owned()), ..Call::new(operation, object) }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { object, path, .. } = self;
        let path = path.as_deref().unwrap_or("/");
        match self.operation {
            Operation::InspectImage => write!(f, "look up image {object:?}"),
            Operation::Pull => write!(f, "pull image {object:?}"),
            Operation::ImportImage => write!(f, "make the empty image {object:?}"),
            Operation::RemoveImage => write!(f, "remove image {object}"),
            Operation::ListImages => write!(f, "list images"),
            Operation::Create => write!(f, "create container {object:?}"),
            Operation::Stat => write!(f, "look at {path:?} in container {object}"),
            Operation::Put => write!(f, "send files to {path:?} in container {object}"),
            Operation::Get => write!(f, "fetch {path:?} from container {object}"),
            Operation::Attach => write!(f, "attach to container {object}"),
            Operation::Start => write!(f, "start container {object}"),
            Operation::Restart => write!(f, "restart container {object}"),
            Operation::Exec => write!(f, "run the agent in container {object}"),
            Operation::Unpause => write!(f, "unpause container {object}"),
            Operation::Rename => write!(f, "rename container {object}"),
            Operation::Update => write!(f, "set the limits of container {object}"),
            Operation::Wait => write!(f, "wait for container {object}"),
            Operation::Kill => write!(f, "send a signal to container {object}"),
            Operation::Resize => write!(f, "resize the terminal of container {object}"),
            Operation::InspectContainer => write!(f, "look up container {object}"),
            Operation::Remove => write!(f, "remove container {object}"),
            Operation::List => write!(f, "list containers"),
            Operation::CreateVolume => write!(f, "create volume {object}"),
            Operation::InspectVolume => write!(f, "look up volume {object}"),
            Operation::RemoveVolume => write!(f, "remove volume {object}"),
            Operation::ListVolumes => write!(f, "list volumes"),
            Operation::Info => write!(f, "ask the engine about itself"),
        }
    }
}

/// How the byte stream of an attached container is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// A header that no engine writes.
    #[error("a frame begins with {header:02x?}, which names neither standard output nor standard error")]
    Header {
        /// The header's bytes.
        header: [u8; 8],
    },
    /// The stream ended inside a frame's header.
    #[error("the stream ended after {have} of the 8 bytes of a frame's header")]
    CutHeader {
        /// How many bytes of the header arrived.
        have: usize,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended {missing} bytes before the end of a frame")]
    CutPayload {
        /// How many bytes did not arrive.
        missing: u32,
    },
}

/// Why a request to an engine failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No socket (or pipe) exists at the address.
    #[error("no engine: {address} does not exist")]
    SocketMissing {
        /// The engine's address.
        address: String,
    },
    /// This user may not open the address.
    #[error("no engine: permission denied on {address}")]
    PermissionDenied {
        /// The engine's address.
        address: String,
    },
    /// No process listens at the address.
    #[error("no engine: {address} refused the connection")]
    Refused {
        /// The engine's address.
        address: String,
    },
    /// The host name in the address cannot be resolved.
    #[error("no engine: the host of {address} was not found")]
    HostNotFound {
        /// The engine's address.
        address: String,
        /// The resolver's error.
        #[source]
        source: io::Error,
    },
    /// Another error while connecting.
    #[error("no engine: could not connect to {address}")]
    Unreachable {
        /// The engine's address.
        address: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// No answer in time, with or without a connection.
    #[error("no engine: {address} did not answer within {} s", waited.as_secs())]
    NoAnswer {
        /// The engine's address.
        address: String,
        /// How long fastbuild waited.
        waited: Duration,
    },
    /// A server answers, but it does not speak the Engine API.
    #[error("wrong API: {address} answers, but not as a Docker-compatible engine: {answer}")]
    WrongApi {
        /// The engine's address.
        address: String,
        /// The beginning of its answer.
        answer: String,
    },
    /// The engine is too old for fastbuild.
    #[error("wrong API: the engine at {address} speaks version {found}, fastbuild needs {needed} or newer")]
    ApiTooOld {
        /// The engine's address.
        address: String,
        /// The newest version that the engine speaks.
        found: ApiVersion,
        /// The version that fastbuild needs.
        needed: ApiVersion,
    },
    /// The engine went away during a request, or since the last one.
    #[error("the engine went away: could not {call}: {detail}")]
    Gone {
        /// The request.
        call: Call,
        /// How the failure showed itself.
        detail: String,
    },
    /// The container does not exist, or no longer exists.
    #[error("could not {call}: the container is gone")]
    NoSuchContainer {
        /// The request.
        call: Call,
    },
    /// The container exists, but the path in it does not.
    #[error("{path:?} is not in container {container}")]
    NotThere {
        /// The container.
        container: String,
        /// The path.
        path: String,
    },
    /// A path that should be a small file is something else.
    #[error("{path:?} in container {container} is not a file of at most {max} bytes")]
    NotASmallFile {
        /// The container.
        container: String,
        /// The path.
        path: String,
        /// The limit, in bytes.
        max: u64,
    },
    /// The image's name is invalid.
    #[error("{reference:?} is not the name of an image: {why}")]
    BadReference {
        /// The name that was given.
        reference: String,
        /// Which rule it breaks.
        why: BadReference,
    },
    /// A name that passed our own check but that the engine rejects: engines have different rules.
    #[error("the engine does not take {reference:?} for the name of an image: {message}")]
    ReferenceRefused {
        /// The name that was given.
        reference: String,
        /// The engine's message.
        message: String,
    },
    /// A pull of an image's id was requested.
    #[error("the engine does not have image {reference}, and an id cannot be pulled")]
    PullById {
        /// The id.
        reference: String,
    },
    /// Neither the engine nor the registry has the image.
    #[error("image {reference:?} was not found: {message}")]
    ImageNotFound {
        /// The image.
        reference: String,
        /// The engine's message.
        message: String,
    },
    /// The image exists, but not for the platform.
    #[error("image {reference:?} does not exist for the platform: {message}")]
    NoSuchPlatform {
        /// The image.
        reference: String,
        /// The engine's message.
        message: String,
    },
    /// The registry denies this user access to the image.
    #[error("the registry does not give out image {reference:?}: {message}")]
    AccessDenied {
        /// The image.
        reference: String,
        /// The engine's message.
        message: String,
    },
    /// The registry's rate limit is reached.
    #[error("the registry limits pulls: image {reference:?}: {message}")]
    RateLimited {
        /// The image.
        reference: String,
        /// The engine's message.
        message: String,
    },
    /// The engine cannot reach the registry.
    #[error("the engine does not reach the registry of image {reference:?}: {message}")]
    RegistryUnreachable {
        /// The image.
        reference: String,
        /// The engine's message.
        message: String,
    },
    /// The container's name is in use.
    #[error("could not {call}: the name is in use")]
    NameTaken {
        /// The request.
        call: Call,
        /// The engine's message.
        message: String,
    },
    /// The working directory is a file, or the command's user may not enter it.
    #[error("could not {call}: the working directory cannot be used: {message}")]
    WorkingDirectory {
        /// The request.
        call: Call,
        /// The engine's message.
        message: String,
    },
    /// The engine's disk is full.
    #[error("could not {call}: the engine's disk is full: {message}")]
    NoSpace {
        /// The request.
        call: Call,
        /// The engine's message.
        message: String,
    },
    /// The path in the container is read-only.
    #[error("could not {call}: it is read-only there: {message}")]
    ReadOnly {
        /// The request.
        call: Call,
        /// The engine's message.
        message: String,
    },
    /// The data to send could not be read; the engine did not refuse anything.
    #[error("could not {call}: what was to be sent could not be read")]
    Body {
        /// The request.
        call: Call,
        /// Why the body ended early.
        #[source]
        source: io::Error,
    },
    /// The streams of an attached container are damaged.
    #[error("the output of container {container} is damaged")]
    Frame {
        /// The container.
        container: String,
        /// The damage.
        #[source]
        source: BadFrame,
    },
    /// The engine's answer cannot be read.
    #[error("could not {call}: the engine's answer cannot be read: {message}")]
    BadAnswer {
        /// The request.
        call: Call,
        /// What is wrong with the answer.
        message: String,
    },
    /// The engine refused for a reason that has no variant of its own here.
    #[error("could not {call}: the engine answered {status}: {message}")]
    Api {
        /// The request.
        call: Call,
        /// The HTTP status.
        status: u16,
        /// The engine's message.
        message: String,
    },
}

/// Why a container's process did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Exit code 127.
    #[error("command {what:?} was not found in the image: {message}")]
    CommandNotFound {
        /// The program.
        what: String,
        /// The engine's message.
        message: String,
    },
    /// Exit code 127: the program exists, but its interpreter or loader does not.
    #[error("command {what:?} cannot be executed: {}", missing(interpreter.as_deref()))]
    NoInterpreter {
        /// The program.
        what: String,
        /// The interpreter in a script's first line; `None` for a program whose loader is missing.
        interpreter: Option<String>,
    },
    /// Exit code 126.
    #[error("command {what:?} cannot be executed: {message}")]
    NotExecutable {
        /// The program.
        what: String,
        /// The engine's message.
        message: String,
        /// Why it cannot be executed.
        defect: Defect,
    },
    /// Anything else.
    #[error(transparent)]
    Other(#[from] EngineError),
}

/// See [`StartError::NotExecutable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// The file is not marked as executable, or this user may not execute it.
    Mode,
    /// The file is a directory.
    Directory,
    /// The kernel knows neither the file's format nor an interpreter for it.
    Format,
    /// The working directory of the command cannot be entered.
    WorkingDirectory,
}

fn missing(interpreter: Option<&str>) -> String {
    match interpreter {
        Some(interpreter) => {
            format!("its first line names the interpreter {interpreter:?}, which is not there")
        }
        None => "the loader that it needs is not there".to_owned(),
    }
}

impl StartError {
    /// What a user can do next; `None` when the message is enough.
    pub fn advice(&self) -> Option<String> {
        let text = match self {
            StartError::CommandNotFound { what, .. } => return Some(words::advice(what)),
            StartError::NoInterpreter { interpreter: Some(interpreter), .. }
                if interpreter.ends_with('\r') =>
            {
                words::CR_LF
            }
            StartError::NoInterpreter { interpreter: Some(_), .. } => {
                "install that interpreter in the image, name the one that is there in the script's first line, or run the \
                 script by it: sh SCRIPT"
            }
            StartError::NoInterpreter { interpreter: None, .. } => {
                "the program was probably linked against another C library than the image has (glibc against musl): build it \
                 in this image, or link it statically"
            }
            StartError::NotExecutable { defect: Defect::Mode, .. } => {
                "make it executable (chmod +x), or run it by its interpreter: sh SCRIPT"
            }
            StartError::NotExecutable { defect: Defect::Directory, .. } => "name a program in it",
            StartError::NotExecutable { defect: Defect::Format, .. } => {
                "a script begins with a line such as #!/bin/sh, or is run by its interpreter: sh SCRIPT; a program must be made \
                 for the image's processor"
            }
            StartError::NotExecutable { defect: Defect::WorkingDirectory, .. } => {
                "name a directory with -w/--workdir that the command's user may enter"
            }
            StartError::Other(error) => return error.advice(),
        };
        Some(text.to_owned())
    }
}

impl EngineError {
    /// What a user can do next; `None` when the message is enough.
    pub fn advice(&self) -> Option<String> {
        let text = match self {
            EngineError::SocketMissing { .. } => {
                "is Docker or Podman installed and running? If it listens elsewhere, name it with -H/--host or DOCKER_HOST"
            }
            EngineError::PermissionDenied { .. } => {
                "add your user to the \"docker\" group and log in again, run a rootless engine, or name another engine \
                 with -H/--host or DOCKER_HOST"
            }
            EngineError::Refused { .. } => {
                "the engine is not running, or listens elsewhere: start it, or name the right address with -H/--host \
                 or DOCKER_HOST"
            }
            EngineError::HostNotFound { .. } => "check the host's name in -H/--host or DOCKER_HOST",
            EngineError::Unreachable { source, .. } if source.kind() == io::ErrorKind::Unsupported => {
                "name the engine by another kind of address with -H/--host or DOCKER_HOST"
            }
            EngineError::Unreachable { .. } => {
                "check the address in -H/--host or DOCKER_HOST, and that a network leads there"
            }
            EngineError::NoAnswer { .. } => {
                "is the engine overloaded, or just starting? `docker version` should answer too"
            }
            EngineError::WrongApi { answer, .. } if answer.contains("HTTPS") || answer.contains("TLS") => {
                "the engine wants TLS, which fastbuild does not speak yet: name its socket, or a port without TLS"
            }
            EngineError::WrongApi { .. } => {
                "check the address in -H/--host or DOCKER_HOST: it must be an engine's API, not a registry or a web server"
            }
            EngineError::ApiTooOld { .. } => {
                "update the engine: Docker 19.03, or Podman 3, is the oldest that will do"
            }
            EngineError::Gone { .. } => {
                "was the engine stopped or restarted? Its own log tells; on Linux: `journalctl -u docker`"
            }
            EngineError::NoSuchContainer { .. } => {
                "it was removed while the build ran (by a prune job?); run the build again"
            }
            EngineError::BadReference { .. } | EngineError::ReferenceRefused { .. } => {
                "an image is named as in `docker pull`: [REGISTRY/]NAME[:TAG][@DIGEST]"
            }
            EngineError::PullById { .. } => {
                "name the image by its tag or digest, or load it into the engine before"
            }
            EngineError::ImageNotFound { .. } => {
                "check the name and the tag; an image only built here needs no pull"
            }
            EngineError::NoSuchPlatform { .. } => {
                "leave out --platform, or name one that the image is made for"
            }
            EngineError::AccessDenied { .. } => {
                "check the name; if the image is private, log in with `docker login` as the user who runs fastbuild"
            }
            EngineError::RateLimited { .. } => {
                "log in with `docker login`, wait, or use a mirror; --pull never uses what is there"
            }
            EngineError::RegistryUnreachable { .. } => {
                "check the engine's network and proxy; --pull never uses an image that the engine has already, and \
                 `docker load` brings it another one"
            }
            EngineError::NameTaken { .. } => {
                "another container has that name; remove it, or wait for the run that owns it"
            }
            EngineError::WorkingDirectory { .. } => {
                "name a directory with -w/--workdir that the command's user may enter"
            }
            EngineError::NoSpace { .. } => {
                "free space where the engine keeps its containers (`docker system df`, `docker system prune`), or leave out \
                 large directories with --exclude"
            }
            EngineError::ReadOnly { .. } => "name a directory with -w/--workdir that can be written",
            EngineError::Frame { .. } | EngineError::BadAnswer { .. } => {
                "is there a proxy between fastbuild and the engine? Try the engine's own socket"
            }
            EngineError::NotThere { .. }
            | EngineError::NotASmallFile { .. }
            | EngineError::Body { .. }
            | EngineError::Api { .. } => return None,
        };
        Some(text.to_owned())
    }

    /// Whether no engine could be reached at the address.
    pub fn is_absence(&self) -> bool {
        matches!(
            self,
            EngineError::SocketMissing { .. }
                | EngineError::PermissionDenied { .. }
                | EngineError::Refused { .. }
                | EngineError::HostNotFound { .. }
                | EngineError::Unreachable { .. }
                | EngineError::NoAnswer { .. }
        )
    }

    /// Converts bollard's errors. No other place does.
    pub(super) fn from_bollard(call: Call, error: BollardError) -> EngineError {
        match error {
            BollardError::DockerResponseServerError { status_code, message } => {
                EngineError::from_answer(call, status_code, &message)
            }
            // The engine answered at `connect`, so a broken connection means that it went away.
            error @ (BollardError::IOError { .. } | BollardError::HyperResponseError { .. }) => {
                EngineError::Gone { call, detail: chain(&error) }
            }
            error => EngineError::BadAnswer { call, message: chain(&error) },
        }
    }

    /// An unsuccessful answer -> its kind, which the message identifies better than the status.
    pub(super) fn from_answer(call: Call, status: u16, message: &str) -> EngineError {
        let lower = message.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        let message = plain(message);
        if says(&["no space left on device", "disk quota exceeded", "not enough space on the disk"]) {
            return EngineError::NoSpace { call, message };
        }
        if says(&["read-only file system", "marked read-only", "is read only"]) {
            return EngineError::ReadOnly { call, message };
        }
        let is_about_an_image =
            matches!(call.operation, Operation::InspectImage | Operation::Pull | Operation::Create);
        match status {
            _ if is_about_an_image && says(BAD_REFERENCE) => {
                EngineError::ReferenceRefused { reference: call.object, message }
            }
            404 if says(&["no such image", "image not known", "unable to find image"]) => {
                EngineError::ImageNotFound { reference: call.object, message }
            }
            404 if says(&["no such container"]) => EngineError::NoSuchContainer { call },
            // The answer to a HEAD request has no message; a 404 about a path is handled before.
            404 if message.is_empty() && call.path.is_none() => EngineError::NoSuchContainer { call },
            _ if says(&["name is already in use", "name already in use", "already in use by container"])
                || says(&["is already in use"]) && call.operation == Operation::Create =>
            {
                EngineError::NameTaken { call, message }
            }
            _ if is_about_the_working_directory(&lower)
                || call.operation == Operation::Create && lower.ends_with("not a directory") =>
            {
                EngineError::WorkingDirectory { call, message }
            }
            _ => EngineError::Api { call, status, message },
        }
    }

    /// A failed pull -> its kind.
    pub(super) fn from_pull(call: Call, status: u16, message: &str) -> EngineError {
        let lower = message.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        let (reference, text) = (call.object.clone(), plain(message));
        // The network comes first: "lookup HOST: no such host" also looks like a missing image.
        if says(UNREACHABLE) {
            EngineError::RegistryUnreachable { reference, message: text }
        } else if says(&["toomanyrequests", "rate limit", "too many requests"]) {
            EngineError::RateLimited { reference, message: text }
        } else if says(&[
            "no matching manifest",
            "no image found in manifest list",
            "no image found in image index",
        ]) || says(&[
            "does not match the specified platform",
            "does not provide the specified platform",
        ]) {
            EngineError::NoSuchPlatform { reference, message: text }
        } else if says(&["denied", "unauthorized", "authentication required", "forbidden", "no basic auth"]) {
            EngineError::AccessDenied { reference, message: text }
        } else if says(&["manifest unknown", "not found", "name unknown", "no such image", "does not exist"])
        {
            EngineError::ImageNotFound { reference, message: text }
        } else {
            EngineError::from_answer(call, status, message)
        }
    }
}

/// How engines word that an image's name is invalid.
const BAD_REFERENCE: &[&str] = &[
    "invalid reference format",
    "repository name must be lowercase",
    "invalid checksum digest",
    "unsupported digest algorithm",
    "invalid tag format",
];

/// How engines word that a registry cannot be reached.
const UNREACHABLE: &[&str] = &[
    "dial tcp",
    "no such host",
    "connection refused",
    "connection reset",
    "i/o timeout",
    "handshake timeout",
    "client.timeout",
    "context deadline exceeded",
    "network is unreachable",
    "no route to host",
    "server misbehaving",
    "proxyconnect",
    "x509:",
    "http response to https client",
    "pinging container registry",
    "unexpected eof",
];

/// Docker makes the directory when it creates the container, runc enters it when it starts the
/// command, and Podman looks for it between the two.
fn is_about_the_working_directory(lower: &str) -> bool {
    lower.contains("cannot mkdir") && lower.contains("is not a directory")
        || lower.contains("chdir to cwd")
        || lower.contains("cwd") && (lower.contains("not a directory") || lower.contains("permission denied"))
        || lower.contains("workdir")
            && (lower.contains("does not exist") || lower.contains("not a directory"))
        || lower.contains("working directory")
            && (lower.contains("invalid") || lower.contains("not a directory"))
}

/// Why a start failed, from the container's exit code and the engine's message. It is the command's
/// fault only where the message names the command. Docker also reports 126 and 127 for a working
/// directory that cannot be used, and for helper programs of its own that are missing; some engines
/// leave the code at 0.
pub(super) fn why_not_started(what: String, exit_code: Option<i64>, error: EngineError) -> StartError {
    let EngineError::Api { message, .. } = &error else {
        return StartError::Other(error);
    };
    let lower = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    // The same words and code are used if the engine's own helper (`apparmor_parser`, a hook) is
    // missing.
    let name = plain(&what).to_lowercase();
    let quoted = ['"', '`', '\''].iter().any(|quote| lower.contains(&format!("{quote}{name}{quote}")));
    let is_about_it = quoted || says(&["createprocess"]) && lower.contains(&name);
    let not_found = says(&["executable", "command that was not found"])
        && says(&["not found", "no such file"])
        || says(&["no such file or directory", "system cannot find the"]) && says(&["exec", "createprocess"]);
    let not_executable =
        says(&["permission denied", "is a directory", "exec format error", "not executable"])
            && says(&["exec", "oci permission denied"]);
    let message = message.clone();
    match () {
        () if (not_found || exit_code == Some(127)) && is_about_it => {
            StartError::CommandNotFound { what, message }
        }
        () if is_about_it && (not_executable || exit_code == Some(126))
            || says(&["oci permission denied"]) =>
        {
            let defect = match () {
                () if says(&["is a directory"]) => Defect::Directory,
                () if says(&["exec format error"]) => Defect::Format,
                () => Defect::Mode,
            };
            StartError::NotExecutable { what, message, defect }
        }
        _ => StartError::Other(error),
    }
}

/// An engine's message, made safe for one line of a terminal.
pub(super) fn plain(message: &str) -> String {
    Escaped(message.trim().as_bytes()).to_string()
}

/// An error and its causes in one line; hyper's top-level message says little.
pub(super) fn chain(error: &dyn StdError) -> String {
    let mut text = plain(&error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = plain(&error.to_string());
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// A socket's path, in the form of [`EngineError`]'s addresses.
pub(super) fn socket_address(path: &Path) -> String {
    format!("unix://{}", Escaped(path.as_os_str().as_encoded_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(operation: Operation) -> Call {
        Call::new(operation, "x")
    }

    /// The name of an error's variant, for the tables below.
    fn kind(error: &dyn fmt::Debug) -> String {
        let text = format!("{error:?}");
        text.split([' ', '(', '{']).next().unwrap().to_owned()
    }

    #[test]
    fn answers_are_told_apart_by_status_and_message() {
        use Operation::{Create, InspectContainer, InspectImage, Kill, Put, Start, Wait};
        let cases = [
            (Kill, 404, "No such container: x", "NoSuchContainer"),
            (Wait, 404, "no container with name or ID \"x\" found: no such container", "NoSuchContainer"),
            (InspectContainer, 404, "", "NoSuchContainer"),
            (Create, 404, "No such image: x:latest", "ImageNotFound"),
            (
                Create,
                409,
                "Conflict. The container name \"/x\" is already in use by container \"1\"",
                "NameTaken",
            ),
            (
                Create,
                500,
                "creating container storage: the container name \"x\" is already in use by 1",
                "NameTaken",
            ),
            (Create, 400, "Cannot mkdir: /etc/passwd is not a directory", "WorkingDirectory"),
            (Create, 500, "lstat /overlay2/1/merged/bin/sh/x: not a directory", "WorkingDirectory"),
            (Start, 500, "workdir \"/x\" does not exist on container 1", "WorkingDirectory"),
            (Put, 500, "write /f: no space left on device", "NoSpace"),
            (Put, 403, "container rootfs is marked read-only", "ReadOnly"),
            (Put, 500, "mkdir /x: read-only file system", "ReadOnly"),
            (
                InspectImage,
                400,
                "no such image: A/b: invalid reference format: repository name must be lowercase",
                "ReferenceRefused",
            ),
            (InspectImage, 400, "no such image: a@b: invalid checksum digest length", "ReferenceRefused"),
            (Kill, 400, "invalid reference format", "Api"),
            (Kill, 500, "something new", "Api"),
        ];
        for (operation, status, message, expected) in cases {
            let error = EngineError::from_answer(call(operation), status, message);
            assert_eq!(kind(&error), expected, "{status} {message}");
        }
    }

    #[test]
    fn pulls_fail_for_reasons_that_are_told_apart() {
        let cases = [
            (
                "Get \"http://localhost:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
                "RegistryUnreachable",
            ),
            ("Get \"https://r/v2/\": dial tcp: lookup r on 10.0.0.1:53: no such host", "RegistryUnreachable"),
            ("Get \"https://r/v2/\": x509: certificate signed by unknown authority", "RegistryUnreachable"),
            ("manifest for x:9 not found: manifest unknown: manifest unknown", "ImageNotFound"),
            (
                "pull access denied for x, repository does not exist or may require 'docker login'",
                "AccessDenied",
            ),
            ("unauthorized: authentication required", "AccessDenied"),
            ("no matching manifest for windows/amd64 in the manifest list entries", "NoSuchPlatform"),
            ("toomanyrequests: You have reached your pull rate limit.", "RateLimited"),
            ("invalid reference format: repository name must be lowercase", "ReferenceRefused"),
            ("invalid tag format", "ReferenceRefused"),
            ("failed to register layer: write /x: no space left on device", "NoSpace"),
            ("something new", "Api"),
        ];
        for (message, expected) in cases {
            assert_eq!(
                kind(&EngineError::from_pull(call(Operation::Pull), 500, message)),
                expected,
                "{message}"
            );
        }
    }

    #[test]
    fn starts_fail_for_reasons_that_are_told_apart() {
        let runc = |what: &str| {
            format!(
                "OCI runtime create failed: runc create failed: unable to start container process: {what}: unknown"
            )
        };
        let cases = [
            (Some(127), runc("exec: \"nope\": executable file not found in $PATH"), "CommandNotFound"),
            (Some(0), runc("exec: \"nope\": executable file not found in $PATH"), "CommandNotFound"),
            (None, runc("exec: \"/nope\": stat /nope: no such file or directory"), "CommandNotFound"),
            (None, "crun: executable file `nope` not found in $PATH: No such file or directory: OCI runtime attempted to invoke a command that was not found".to_owned(), "CommandNotFound"),
            (Some(126), runc("exec: \"/etc\": permission denied"), "NotExecutable"),
            (None, runc("exec: \"/etc\": is a directory"), "NotExecutable"),
            (None, "crun: open executable: Permission denied: OCI permission denied".to_owned(), "NotExecutable"),
            (Some(126), runc("exec: \"/x\": chdir to cwd (\"/root/x\") set in config.json failed: permission denied"), "Other"),
            (Some(127), "AppArmor enabled on system but the docker-default profile could not be loaded: exec: \"apparmor_parser\": executable file not found in $PATH".to_owned(), "Other"),
            (Some(127), runc("error running hook: exec: \"nvidia-hook\": executable file not found in $PATH"), "Other"),
            (Some(126), runc("fork/exec /usr/bin/runc: permission denied"), "Other"),
            (Some(128), "error while creating mount source path '/x': mkdir /x: no such file or directory".to_owned(), "Other"),
            (Some(0), "driver failed programming external connectivity".to_owned(), "Other"),
            (Some(127), "OCI runtime create failed: unable to retrieve OCI runtime error (open /run/x/log.json: no such file or directory): runc did not terminate successfully: exit status 1".to_owned(), "Other"),
        ];
        // The command of each row is the one that its message names, if it names one of these.
        let what = |message: &str| {
            let named = ["/nope", "nope", "/etc"].into_iter().find(|name| message.contains(name));
            named.unwrap_or("x").to_owned()
        };
        for (exit_code, message, expected) in cases {
            let error = EngineError::from_answer(call(Operation::Start), 400, &message);
            assert_eq!(
                kind(&why_not_started(what(&message), exit_code, error)),
                expected,
                "{exit_code:?} {message}"
            );
        }
    }

    #[test]
    fn an_engines_words_cannot_move_the_cursor() {
        let error = EngineError::from_answer(call(Operation::Kill), 500, "no\n\x1b[2Jway\n");
        assert_eq!(
            error.to_string(),
            "could not send a signal to container x: the engine answered 500: no\\n\\u{1b}[2Jway"
        );
    }
}
