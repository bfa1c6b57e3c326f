//! Why fastbuild could not do its part, and the exit code for it.

use std::{io, path::PathBuf};

use super::{
    Exit,
    interrupt::{Interrupted, Signal},
};
use crate::{
    agent::{client::SessionError, protocol::Room},
    archive::pack::PackError,
    engine::{EngineError, StartError},
    entry::{Amount, RelPath},
    outputs::OutputError,
    spec::{Reason, Route},
    state::{Holder, StateError},
    text::{
        numbers::{bytes, count, counted, counted_as},
        shell_words,
    },
    tree::scan::ScanError,
    user::UserError,
    workspace::{WithoutAgent, WorkspaceError},
};

/// A failure of fastbuild or of the engine. The command's own failure is not an error.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// There is no engine at the address that the user named.
    #[error("{source} ({reason} names it)")]
    NotReached {
        /// Where the address was named.
        reason: Reason,
        /// The failed attempt.
        source: Box<EngineError>,
    },
    /// The command did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The workspace, or the agent in it.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The session with the agent. [`WorkspaceError`] gives its cause.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The agent could not start the command.
    #[error("could not start the command {what:?} in the workspace: {detail}")]
    NotStarted {
        /// The program.
        what: String,
        /// The attempt, and the system's error.
        detail: String,
    },
    /// The source tree could not be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A pattern of the ignore rules.
    #[error(transparent)]
    Pattern(#[from] crate::tree::ignore::BadPattern),
    /// A source file could not be sent.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The products did not reach the host.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// An earlier run's products cannot be finished.
    #[error(
        "an earlier run was cut short while it put its products in place, and they cannot be put there now"
    )]
    Recover(#[source] OutputError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// A command on the project's workspace, which does not exist.
    #[error("there is no workspace of {source_root:?} on {engine}")]
    NoWorkspace {
        /// The source root.
        source_root: PathBuf,
        /// The engine's address.
        engine: String,
    },
    /// Another run holds the project's lock, and `--no-wait` says not to wait.
    #[error("another run works in this project{}", holder_text(holder))]
    Locked {
        /// Its holder, as far as it has been written already.
        holder: Option<Holder>,
    },
    /// A shell where only the user who starts it is possible.
    #[error(
        "the workspace is a directory of this machine, and commands there run as the user who starts them"
    )]
    OtherUserHere,
    /// Hardly any of the files sent to the workspace are here now. Builds start afresh then.
    #[error("another project lies at this path now")]
    OtherProject,
    /// A plan with neither an image nor a scratch directory. No code makes one.
    #[error("the plan has no place to build in; this is a bug in fastbuild")]
    NowhereToBuild,
    /// The image's user.
    #[error(transparent)]
    User(#[from] UserError),
    /// A signal ended it before the command ran or after it ended.
    #[error("ended by {0}; the host's files are as they were")]
    Interrupted(Signal),
    /// The image is not there, and `--pull never` says not to ask for it.
    #[error("the engine does not have image {image:?}, and --pull never says not to fetch it")]
    ImageMissing {
        /// The image.
        image: String,
    },
    /// A named output was not made.
    #[error("the build did not make {spec:?}: {path:?} is not there{}", listing(.there))]
    MissingOutput {
        /// As it was asked for.
        spec: String,
        /// The container's path.
        path: String,
        /// The files that are there instead.
        there: Option<Listing>,
    },
    /// A project's file puts a product outside of the project, and is not trusted.
    #[error(
        "output {spec:?} of {by} goes to {host:?}, outside of the project; a project's file alone may not decide that"
    )]
    Untrusted {
        /// As it was asked for.
        spec: String,
        /// Where it goes.
        host: PathBuf,
        /// The file and the line.
        by: Reason,
    },
    /// Sources that this user may not read.
    #[error(
        "{} cannot be read by this user: {}",
        counted(paths.len() as u64, "source"),
        paths.iter().map(RelPath::to_string).collect::<Vec<_>>().join(", ")
    )]
    Unreadable {
        /// All of them.
        paths: Vec<RelPath>,
    },
    /// Sources whose names are longer than what programs can open, here or in the workspace.
    #[error(
        "{} too long to be opened by name: the first has {length} bytes, of at most {limit} with the directory before it, and lies \
         in {:?}",
        counted_as(*paths, "path of the source tree is", "paths of the source tree are"),
        top.to_string()
    )]
    TooLong {
        /// How many.
        paths: u64,
        /// Of the first one, in bytes.
        length: usize,
        /// The system's limit.
        limit: usize,
        /// The directory of the source root that it lies in.
        top: RelPath,
    },
    /// Without `-o`, a command changed paths that this user may not write.
    #[error(
        "the command changed {} in {source_root:?}, where this user may not write; they were not brought back{}",
        counted(*paths, "path"),
        to.as_ref().map_or_else(String::new, |to| format!(", and what it made is in {to:?}"))
    )]
    NotBroughtBack {
        /// The source root.
        source_root: PathBuf,
        /// How many.
        paths: u64,
        /// The safe place that has them; none where the command only deleted.
        to: Option<PathBuf>,
    },
    /// A volume cannot be laid over an output or a cache in the host's own tree.
    #[error("{spec:?}: no volume can be laid over {host:?}, as a mounted source tree needs it: {error}")]
    NotLaidOver {
        /// As it was asked for.
        spec: String,
        /// The place in the source tree.
        host: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The sources do not fit. Nothing of them was sent.
    #[error("there is no room for the sources in {place:?} ({}): {}", route_place(*route), sizes(needed, room))]
    NoRoom {
        /// The working directory.
        place: String,
        /// The route, which determines its storage.
        route: Route,
        /// The size of the upload, in whole blocks of the file system.
        needed: Amount,
        /// The free room.
        room: Room,
    },
    /// A route that only the agent makes possible.
    #[error(
        "--route {route} needs fastbuild's agent in the container: {why}; the routes that can be taken there: layer, mount-source, mount"
    )]
    RouteNeedsAgent {
        /// The route.
        route: Route,
        /// Why the agent is not there.
        #[source]
        why: WithoutAgent,
    },
    /// Patterns, and a container without the agent.
    #[error("output {spec:?} is a pattern, and needs fastbuild's agent in the container: {why}")]
    PatternNeedsAgent {
        /// As it was written.
        spec: String,
        /// Why the agent is not there.
        #[source]
        why: WithoutAgent,
    },
    /// The reader of the build's output stopped.
    #[error("could not pass on the build's output: {0}")]
    OutputClosed(io::Error),
    /// The streams ended, the command did not.
    #[error(
        "the connection that carried the build's output ended while the command still ran; what it wrote since is lost"
    )]
    OutputLost,
    /// The system did not hand over its signals.
    #[error("could not take over signals: {0}")]
    Signals(#[source] io::Error),
    /// The terminal could not be set.
    #[error("could not set the terminal up: {0}")]
    Terminal(#[source] io::Error),
    /// A thread of fastbuild ended badly.
    #[error("a thread of fastbuild's own panicked; this is a bug in fastbuild")]
    Panicked,
}

/// The content of a directory of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The directory.
    pub directory: PathBuf,
    /// Names in it, the first ones.
    pub names: Vec<String>,
    /// How many more there are; none when it was not read to its end.
    pub more: Option<u64>,
}

fn no_room_advice(route: Route) -> &'static str {
    match route {
        Route::Tmpfs => {
            "--tmpfs-size makes it larger, as far as there is memory; --route layer does without; --exclude leaves out what \
             the build does not need"
        }
        Route::Host => {
            "name a larger place with --scratch, or make room; --exclude leaves out what the build does not need"
        }
        Route::Layer | Route::Volume | Route::MountSource | Route::Mount => {
            "make room on the engine's disk: `fastbuild workspace prune` and `docker system prune` help; --exclude leaves \
             out what the build does not need"
        }
    }
}

fn route_place(route: Route) -> &'static str {
    match route {
        Route::Layer => "the container's own layer",
        Route::Tmpfs => "a tmpfs",
        Route::Volume => "a volume",
        Route::MountSource | Route::Mount => "a mount",
        Route::Host => "a scratch directory of this machine",
    }
}

fn sizes(needed: &Amount, room: &Room) -> String {
    match room.files {
        Some(files) if needed.files > files => {
            format!("{} are to go in, and there is room for {}", counted(needed.files, "file"), count(files))
        }
        _ => format!("they need {}, and {} are free", bytes(needed.bytes), bytes(room.bytes)),
    }
}

fn holder_text(holder: &Option<Holder>) -> String {
    holder.as_ref().map(|Holder { pid, command }| format!(": process {pid}, {command}")).unwrap_or_default()
}

fn listing(there: &Option<Listing>) -> String {
    match there {
        None => String::new(),
        Some(Listing { directory, names, more: Some(_) }) if names.is_empty() => {
            format!("; {directory:?} is empty")
        }
        Some(Listing { directory, names, more }) => {
            let more = match more {
                Some(0) => String::new(),
                Some(more) => format!(" and {more} more"),
                None => " and more".to_owned(),
            };
            format!("; {directory:?} holds {}{more}", names.join(", "))
        }
    }
}

impl From<Interrupted> for BuildError {
    fn from(Interrupted(signal): Interrupted) -> BuildError {
        BuildError::Interrupted(signal)
    }
}

impl BuildError {
    /// Adds where the engine was named, if there is no engine.
    pub(super) fn of_engine(self, named_by: &Reason) -> BuildError {
        match self {
            BuildError::Engine(source)
                if source.is_absence() && !matches!(named_by, Reason::Default { .. }) =>
            {
                BuildError::NotReached { reason: named_by.clone(), source: Box::new(source) }
            }
            other => other,
        }
    }

    /// How fastbuild ends: with Docker's numbers, or by the signal that ended it.
    pub fn exit(&self) -> Exit {
        Exit::Code(match self {
            BuildError::Start(StartError::CommandNotFound { .. } | StartError::NoInterpreter { .. }) => 127,
            BuildError::Start(StartError::NotExecutable { .. }) => 126,
            BuildError::Interrupted(signal) => return Exit::Signal(*signal),
            // As if the build itself had written into the closed pipe: 128 + SIGPIPE.
            BuildError::OutputClosed(error) if error.kind() == io::ErrorKind::BrokenPipe => 141,
            _ => 125,
        })
    }

    /// What a user could do next; none when the message is enough.
    pub fn advice(&self) -> Option<String> {
        match self {
            BuildError::Engine(error) => error.advice(),
            BuildError::NotReached { source, .. } => source.advice(),
            BuildError::Start(error) => error.advice(),
            BuildError::Workspace(error) => error.advice(),
            BuildError::Session(error) => error.advice(),
            BuildError::ImageMissing { image } => {
                Some(format!("pull it (docker pull {image}), or leave out --pull never"))
            }
            BuildError::MissingOutput { .. } => {
                Some("check where the command writes, and name that path with -o; relative paths start where it runs".to_owned())
            }
            BuildError::OutputLost => Some(
                "is there a proxy between fastbuild and the engine that ends quiet connections? Try the engine's own socket"
                    .to_owned(),
            ),
            BuildError::State(_) => {
                Some("check its permissions and the disk, or name another directory in FASTBUILD_STATE_DIR".to_owned())
            }
            BuildError::NoWorkspace { .. } => Some(
                "a build makes one: fastbuild -- COMMAND (unless --no-keep, FASTBUILD_KEEP or CI says otherwise); \
                 `fastbuild workspace ls` lists those of other projects"
                    .to_owned(),
            ),
            BuildError::OtherUserHere => Some("leave out -u/--user".to_owned()),
            BuildError::Locked { .. } => Some("wait for it to end, or leave out --no-wait".to_owned()),
            BuildError::User(_) => {
                Some("name a user that the image has with -u/--user, or one by number, such as -u 1000:1000".to_owned())
            }
            BuildError::Untrusted { .. } => Some(
                "say it on the command line with -o, or trust the file as it is now: fastbuild trust".to_owned(),
            ),
            BuildError::Unreadable { paths } => {
                let options: Vec<_> = paths.iter().map(|path| format!("--exclude {path}")).collect();
                Some(format!("make them readable, or leave them out: {}", options.join(" ")))
            }
            BuildError::TooLong { top, .. } => {
                Some(format!("shorten it, or leave it out: --exclude {}", shell_words(&[top.to_string()])))
            }
            BuildError::NotBroughtBack { .. } => {
                Some("name a place that can be written: -o PATH:HOST".to_owned())
            }
            BuildError::NotLaidOver { .. } => {
                Some("that needs a directory, or a place for one; name that, or take --route layer".to_owned())
            }
            BuildError::NoRoom { route, .. } => Some(no_room_advice(*route).to_owned()),
            BuildError::RouteNeedsAgent { .. } => Some("take --route layer".to_owned()),
            BuildError::PatternNeedsAgent { .. } => Some("name files and directories with -o".to_owned()),
            BuildError::Output(error) | BuildError::Recover(error) => error.advice(),
            _ => None,
        }
    }
}
