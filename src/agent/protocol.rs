//! The messages between the two ends, as data. Pure.
//!
//! Messages travel as [`super::frame::Kind::Message`]. Where a message says that data follows, the
//! next frames are that data, up to a [`super::frame::Kind::DataEnd`]. Lists of nodes travel as
//! data, encoded by [`crate::tree::node`]. Contents travel as tar streams, written by
//! [`crate::archive::pack`](mod@crate::archive::pack) and read by [`crate::archive::reader`].
//!
//! The near end trusts no input (a container is hostile). The far end trusts its client.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use crate::{
    entry::{RelPath, Timestamp},
    tree::Digest,
};

/// The version of this protocol. A workspace whose agent speaks another version is made anew.
pub const PROTOCOL: u32 = 6;

/// A message that cannot be decoded.
#[derive(Debug, thiserror::Error)]
#[error("invalid message: {0}")]
pub struct BadMessage(#[from] postcard::Error);

/// Encodes a message.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    // Writing to memory cannot fail, and every type below can be encoded.
    postcard::to_stdvec(message).unwrap_or_default()
}

/// Decodes a message.
///
/// # Errors
/// [`BadMessage`] when the bytes are not a message of this type.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadMessage> {
    Ok(postcard::from_bytes(bytes)?)
}

/// Some bytes: a path, a name, a piece of input.
pub type Blob = serde_bytes::ByteBuf;

/// The first message of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the client.
    pub protocol: u32,
    /// The client counts as dead after so many milliseconds without a frame. Zero: never.
    pub silence: u64,
    /// The workspace stops after so many seconds without a client; zero: never, `None`: as before.
    pub idle_stop: Option<u64>,
    /// The client.
    pub client: Client,
}

/// The client at the near end. Waiting clients see it, and it identifies a dead client's session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// The run's id.
    pub run: String,
    /// The id of its state directory. Clients with the same id run on the same machine.
    pub state: String,
    /// Its process id.
    pub pid: u32,
    /// Its command line, without the values of options.
    pub command: String,
}

/// The answer to a [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`PROTOCOL`] of the far end.
    pub protocol: u32,
    /// Its version of fastbuild.
    pub version: String,
    /// Its clock.
    pub clock: Timestamp,
}

/// The near end's messages after its [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Names the source root, and has it scanned. Answered by [`Reply::Opened`] when it is this
    /// client's turn (see [`Open::claim`]). If the client has to wait, [`Reply::Waiting`] comes
    /// before. The scan goes on after [`Reply::Opened`].
    Open(Box<Open>),
    /// Asks what differs from the host's tree. Answered by [`Reply::Differing`], and nodes as data:
    /// everything that the far end has of the source tree in the buckets that differ. Leftovers,
    /// which the host never had, are not included.
    Compare(Compare),
    /// Makes the source tree equal to the host's. A tar stream follows as data (its names are
    /// relative to the source root), then [`Request::Settle`].
    Apply {
        /// Paths to delete, with everything of the source tree below them. Paths outside the source
        /// tree stay, leftovers too, and the directories above them.
        #[serde(with = "paths")]
        deletes: Vec<RelPath>,
    },
    /// Modes and times of paths whose content is right already. Answered by [`Reply::Applied`].
    Settle {
        /// The paths: directories, files and links.
        metas: Vec<Meta>,
    },
    /// Runs the command. Answered by [`Reply::Started`] or [`Reply::NotStarted`]. Then its output
    /// comes, then [`Reply::Exited`].
    Run(Box<Run>),
    /// Input for the command. At most [`STDIN_WINDOW`] bytes may be unconfirmed;
    /// [`Reply::StdinTaken`] confirms them.
    Stdin(Blob),
    /// The command's input has ended.
    StdinEnd,
    /// A signal for the command, by its number on Linux. It goes to the command's process group, or
    /// to the foreground group of its terminal. SIGKILL ends every process of the workspace.
    Signal(i32),
    /// The terminal's size.
    Resize(Size),
    /// The client is alive.
    Heartbeat,
    /// The client is about to stop, as after Ctrl-Z. All processes of the command stop too, and no
    /// time limit counts from here on. Never comes in the middle of data.
    Pause,
    /// The client has continued, and the command continues too.
    Resume,
    /// Asks what the command made. Answered by one [`Reply::Products`] for each query, in order,
    /// each followed by nodes as data.
    Collect(Vec<Query>),
    /// Asks which of the command's changes no output brings back. Answered by [`Reply::Beside`].
    Beside,
    /// Asks for contents: nodes of the query `query`, by their positions in its list. A tar stream
    /// of exactly those follows as data, in their order. Each name begins with one component that
    /// stands for the query's path (or is it), as in [`crate::archive::reader::Naming::Prefixed`].
    Want {
        /// The index of the query.
        query: u32,
        /// Positions in the list that was sent, ascending.
        nodes: Vec<u32>,
    },
    /// Lists the nearest directory above a missing absolute path. Answered by [`Reply::There`].
    Look {
        /// The path.
        path: Blob,
    },
    /// The build failed after its command. The collected products stay for the next build.
    LeftThere,
    /// Removes leftovers and kept paths at and below `paths`, or all of them where `paths` is
    /// empty. Answered by [`Reply::Cleaned`].
    Clean {
        /// The paths, below the source root.
        #[serde(with = "paths")]
        paths: Vec<RelPath>,
    },
    /// Removes these patterns from the set that the workspace keeps. Answered by [`Reply::Unkept`].
    Unkeep(Vec<String>),
    /// The client is done. Answered by [`Reply::Closing`]; this client sends nothing more.
    Bye,
}

/// See [`Request::Open`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The source root's absolute path in the workspace. Made if missing; a link is followed.
    pub root: Blob,
    /// The user who runs the command and owns the sources.
    pub user: User,
    /// Patterns, read by [`crate::tree::ignore`], of paths that are not part of the source tree.
    pub patterns: Vec<String>,
    /// Paths below the root that are not part of it either, with everything below them.
    #[serde(with = "paths")]
    pub outputs: Vec<RelPath>,
    /// How much of the workspace is scanned.
    pub extent: Extent,
    /// Absolute paths of the caches. No scan includes them, and they belong to the user.
    pub caches: Vec<Blob>,
    /// Absolute paths of the directories that lead to the caches from the root or from the user's
    /// home. An engine makes missing ones as root's; they are to belong to the user too.
    pub ways: Vec<Blob>,
    /// The part of the workspace that this client claims for itself alone.
    pub claim: Claim,
    /// Where the root is one of the outputs: patterns of the paths in it that come back; empty
    /// means all. A pattern that is the name of an existing path means that path alone.
    pub only: Vec<String>,
}

/// The part of the workspace that a client claims for itself alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// The whole workspace.
    Everything,
    /// All at and below these absolute paths. Clients with other claims may work meanwhile.
    Outputs(Vec<Blob>),
}

/// Why two clients cannot work in a workspace at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Conflict {
    /// One of them claims everything.
    Everything,
    /// An output of one is, contains or lies in this output of the other.
    Output(Blob),
    /// Their source trees are defined differently, or they run as different users.
    Settings,
}

/// The name of an agent's file that holds `what` about the tree at `root`.
pub fn name_for_root(what: &str, root: &[u8]) -> String {
    let digest = Digest(Sha256::digest(root).into()).to_string();
    format!("{what}-{}", &digest[..16])
}

/// The name, for [`name_for_root`], of the patterns that a workspace keeps.
pub const KEPT: &str = "kept";

/// How much a place can still take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Bytes, for the user who runs the agent.
    pub bytes: u64,
    /// Files and directories; `None` where the file system does not count them.
    pub files: Option<u64>,
    /// The least space that a file takes, in bytes.
    pub block: u64,
}

/// See [`Open::user`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// `USER[:GROUP]` by the workspace's own tables; empty is root. It starts as engines start it.
    Named(String),
    /// The user who runs the agent. The command starts as a child of that user's shell would: with
    /// the same groups, umask and OOM score, and with its start directory in `PWD`.
    Own,
}

/// See [`Open::extent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Extent {
    /// All of the source tree below the root.
    Everything,
    /// Nothing is scanned or changed: the host's tree is mounted there, or the client only looks.
    Nothing,
}

/// See [`Request::Compare`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The root's own mode; the far end sets it.
    pub mode: u32,
    /// The root's own mtime; the far end sets it before the command runs.
    pub mtime: Timestamp,
    /// [`crate::tree::summary::Summary::to_bytes`] of the host's tree.
    pub summary: Blob,
}

/// See [`Request::Settle`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The path.
    #[serde(with = "path")]
    pub path: RelPath,
    /// Permission bits; not for links.
    pub mode: u32,
    /// Last change.
    pub mtime: Timestamp,
}

/// See [`Request::Run`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The program (searched in the command's own `PATH`) and its arguments.
    pub argv: Vec<Blob>,
    /// Added to the container's own environment; later ones win.
    pub env: Vec<(Blob, Blob)>,
    /// Where `HOME` comes from.
    pub home: Home,
    /// The absolute path of the start directory. Made as root when it is missing, as engines do.
    pub directory: Blob,
    /// A pseudo-terminal of this size, or separate streams.
    pub terminal: Option<Size>,
    /// Whether [`Request::Stdin`] will come. Otherwise the command reads end of file at once.
    pub stdin: Input,
    /// How far the far clock is ahead of the near one, in nanoseconds; zero where they agree. The
    /// mtimes that the command sets are moved by that much, to the near clock's time.
    pub clock_ahead: i64,
    /// Who is to own all that the command makes or changes, if the root is the host's own tree.
    pub owner: Option<Owner>,
}

/// See [`Run::owner`]. All numbers are the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// The owner of the source root. It shows whether the far end sees the host's users.
    pub of_root: u32,
}

/// See [`Run::home`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Home {
    /// The image or the caller sets it.
    AsSet,
    /// The user's directory in `/etc/passwd`, or `/` if that has no entry, as with engines.
    OfUser,
}

/// See [`Run::stdin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Nothing.
    Empty,
    /// What the client sends.
    Forwarded,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// How much of the command's input may be unconfirmed, in bytes.
pub const STDIN_WINDOW: usize = 256 << 10;

/// One thing to collect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// All paths at and below a path of the source tree that differ from right before the command
    /// started, or are leftovers of an earlier command. For a file, another mtime alone counts.
    Changes {
        /// The path, below the source root.
        #[serde(with = "path")]
        below: RelPath,
        /// With [`Follow::Contents`], a link is [`Products::Missing`]: its target must be named.
        take: Follow,
    },
    /// A path, compared with what the host has in its place. A product's time does not count, and
    /// its set-uid bits are not transferred. So in this summary every mtime is zero, modes are
    /// masked with `0o777`, and unsent paths are left out. The nodes carry true times.
    Named {
        /// The absolute path.
        path: Blob,
        /// Whether a link there is meant itself, or the directory that it leads to.
        take: Follow,
        /// [`crate::tree::summary::Summary::to_bytes`] of the host's tree; if empty, all differs.
        summary: Blob,
    },
}

/// See [`Query::Named`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Follow {
    /// The path itself: file, directory or link.
    Itself,
    /// The entries of a directory, or of a directory that a link leads to.
    Contents,
}

/// The far end's messages after its [`Welcome`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The root exists and is being scanned.
    Opened {
        /// The user who owns the sources and runs the command.
        uid: u32,
        /// That user's group.
        gid: u32,
        /// The free space below the root.
        room: Room,
        /// Outputs below the root that other clients are making right now.
        #[serde(with = "paths")]
        others: Vec<RelPath>,
        /// Patterns that the client does not name but the workspace still keeps: an earlier client
        /// named them, and paths match them. They stand before the client's own.
        kept: Vec<String>,
    },
    /// Another client works there and has to end first.
    Waiting {
        /// That client.
        client: Client,
        /// Why it has to be waited for.
        why: Conflict,
    },
    /// Nodes follow as data.
    Differing {
        /// [`crate::tree::summary::Differing::to_bytes`]. Where the far end has nothing in a
        /// bucket, it lists no nodes.
        differing: Blob,
        /// How many entries the far end's source tree has.
        entries: u64,
        /// How many files had to be read, because their digests were not known.
        hashed: u64,
    },
    /// The source tree is right.
    Applied,
    /// The command runs.
    Started,
    /// The command does not run, and why.
    NotStarted(NotStarted),
    /// So many bytes of input have reached the command, or were dropped if it no longer reads.
    StdinTaken(u64),
    /// The command has stopped by itself, or its terminal's suspend key was pressed. The client
    /// answers with [`Request::Pause`]; [`Request::Resume`] continues the command.
    Stopped,
    /// The command and all its processes are over, and all output was sent.
    Exited {
        /// How it ended.
        status: Status,
        /// How many processes of the workspace were killed meanwhile for lack of memory.
        oom_kills: u64,
    },
    /// Nodes follow as data. More data follows them: the paths that existed when the command
    /// started and are gone, as nodes of directories.
    Products(Products),
    /// Changes of the command that no output brings back.
    Beside(Beside),
    /// What exists in place of a missing path.
    There {
        /// The nearest directory above it.
        directory: Blob,
        /// Some of its names, sorted.
        names: Vec<Blob>,
        /// How many more there are.
        more: u64,
    },
    /// How much was removed.
    Cleaned(Cleaned),
    /// The patterns that were in the set.
    Unkept(Vec<String>),
    /// The session is over.
    Closing {
        /// The session's peak memory, in KiB.
        peak_kib: u64,
    },
    /// The far end failed; the session is over.
    Failed(Failed),
}

/// See [`Reply::Products`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Products {
    /// No path matches this pattern of [`Open::only`].
    Unmatched(String),
    /// The path exists.
    There {
        /// As in [`Reply::Differing`], with as many buckets as the query's summary has (one where
        /// that is empty); empty for [`Query::Changes`].
        differing: Blob,
        /// How many files had to be read, because their digests were not known.
        hashed: u64,
    },
    /// The path does not exist, or with [`Follow::Contents`] is not a directory. No data follows.
    Missing,
}

/// See [`Request::Clean`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleaned {
    /// Files, links and directories.
    pub files: u64,
    /// The files' lengths.
    pub bytes: u64,
}

/// The bytes in files that only a workspace has: `agent weigh` writes this, [`encode`]d.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Kept files.
    pub kept: u64,
    /// Leftovers: files that builds left beside their outputs.
    pub leftovers: u64,
}

/// See [`Request::Beside`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// The first changed or deleted sources, in order. The next start restores them.
    #[serde(with = "paths")]
    pub changed: Vec<RelPath>,
    /// How many more there are.
    pub more: u64,
    /// Names in the source root with new paths at or below them, but none before the command.
    #[serde(with = "paths")]
    pub made: Vec<RelPath>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// By itself.
    Code(u8),
    /// By a signal, by its number on Linux.
    Signal(u8),
}

/// Why a command did not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotStarted {
    /// What this means for the exit code.
    pub why: NoStart,
    /// The system's error.
    pub detail: String,
}

/// See [`NotStarted::why`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoStart {
    /// The program does not exist: 127.
    NotFound,
    /// The program exists, but what the system would run it by does not: 127. The interpreter in a
    /// script's first line; `None` for a program whose loader is missing.
    NoInterpreter(Option<String>),
    /// It cannot be executed: 126.
    NotExecutable,
    /// It is a directory: 126.
    IsDirectory,
    /// It is neither a program nor a script that names its interpreter: 126.
    NoFormat,
    /// Its directory cannot be entered: 126.
    Directory,
    /// The far end failed: 125.
    Other,
}

/// Why the far end gave up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The kind of failure.
    pub why: Failure,
    /// What was tried, where, and the error, in words.
    pub detail: String,
}

/// See [`Failed::why`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The workspace does not know the user.
    User,
    /// The source root is not a directory.
    RootIsNoDirectory,
    /// The file system of the workspace is read-only.
    ReadOnly,
    /// It is full.
    DiskFull,
    /// The client sent a message that makes no sense.
    Protocol,
    /// Anything else.
    Other,
}

/// [`RelPath`] as bytes.
mod path {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    use super::{Blob, RelPath};

    pub fn serialize<S: Serializer>(path: &RelPath, serializer: S) -> Result<S::Ok, S::Error> {
        serde_bytes::Bytes::new(path.as_bytes()).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RelPath, D::Error> {
        RelPath::new(Blob::deserialize(deserializer)?.into_vec()).map_err(D::Error::custom)
    }
}

/// [`RelPath`]s as bytes.
mod paths {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _, ser::SerializeSeq as _};

    use super::{Blob, RelPath};

    pub fn serialize<S: Serializer>(paths: &[RelPath], serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(paths.len()))?;
        for path in paths {
            seq.serialize_element(serde_bytes::Bytes::new(path.as_bytes()))?;
        }
        seq.end()
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RelPath>, D::Error> {
        let blobs = Vec::<Blob>::deserialize(deserializer)?;
        blobs.into_iter().map(|blob| RelPath::new(blob.into_vec()).map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_as_they_went() {
        let path = RelPath::new(b"a/\xff".as_slice()).unwrap();
        let request = Request::Apply { deletes: vec![path.clone(), RelPath::root()] };
        assert_eq!(decode::<Request>(&encode(&request)).unwrap(), request);
        let meta = Meta { path, mode: 0o4755, mtime: Timestamp { secs: -1, nanos: 5 } };
        let request = Request::Settle { metas: vec![meta] };
        assert_eq!(decode::<Request>(&encode(&request)).unwrap(), request);
        let reply = Reply::Exited { status: Status::Signal(9), oom_kills: 1 };
        assert_eq!(decode::<Reply>(&encode(&reply)).unwrap(), reply);
    }

    #[test]
    fn a_path_that_leads_out_is_no_message() {
        #[derive(Serialize)]
        enum Evil<'a> {
            _A,
            _B,
            Apply { deletes: Vec<&'a serde_bytes::Bytes> },
        }
        let evil = Evil::Apply { deletes: vec![serde_bytes::Bytes::new(b"../etc")] };
        assert!(decode::<Request>(&encode(&evil)).is_err());
    }
}
