//! What the two ends say to each other, as data. Pure.
//!
//! Messages travel as [`super::frame::Kind::Message`]; where one says that data follows, the next frames are that data, up to
//! a [`super::frame::Kind::DataEnd`]. Lists of nodes travel as data, encoded by [`crate::tree::node`]; contents travel as tar
//! streams, written by [`crate::archive::pack`](mod@crate::archive::pack) and read by [`crate::archive::reader`].
//!
//! The near end believes nothing of what comes (a container is hostile input); the far end believes its client.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use crate::{
    entry::{RelPath, Timestamp},
    tree::Digest,
};

/// The version of all of this. A workspace whose agent speaks another one is made anew.
pub const PROTOCOL: u32 = 6;

/// A message that cannot be read.
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
/// [`BadMessage`] when the bytes are no such message.
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
    /// After how many milliseconds without a frame from the client the far end takes it for dead; zero is never.
    pub silence: u64,
    /// After how many seconds without a client the workspace stops by itself; zero is never. None leaves it as it is.
    pub idle_stop: Option<u64>,
    /// Who it is.
    pub client: Client,
}

/// Who is at the near end, for those who wait and for who ends the session of a dead one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// The run's id.
    pub run: String,
    /// The id of its state directory: where it is the same, so is the machine.
    pub state: String,
    /// Its process.
    pub pid: u32,
    /// Its command line, without the values of options.
    pub command: String,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`PROTOCOL`] of the far end.
    pub protocol: u32,
    /// Its version of fastbuild.
    pub version: String,
    /// Its clock.
    pub clock: Timestamp,
}

/// What the near end says after its [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Names the source root, and has it scanned. Answered by [`Reply::Opened`] when it is this client's turn (see [`Open::claim`]), and
    /// by [`Reply::Waiting`] before, where that is not at once; the scan goes on meanwhile.
    Open(Box<Open>),
    /// Asks what differs from the host's tree. Answered by [`Reply::Differing`], and nodes as data: all that the far end
    /// has of the source tree in the buckets that differ. Leftovers, which the host never had, are no part of it.
    Compare(Compare),
    /// Puts the source tree right. A tar stream follows as data (its names are relative to the source root), then
    /// [`Request::Settle`].
    Apply {
        /// Paths that go, with everything of the source tree below them. What is not of the source tree stays, leftovers too, and
        /// the directories above it.
        #[serde(with = "paths")]
        deletes: Vec<RelPath>,
    },
    /// Modes and times of paths whose content is right already. Answered by [`Reply::Applied`].
    Settle {
        /// The paths; directories as well as files and links.
        metas: Vec<Meta>,
    },
    /// Runs the command. Answered by [`Reply::Started`] or [`Reply::NotStarted`]; then its output comes, then
    /// [`Reply::Exited`].
    Run(Box<Run>),
    /// What the command reads. At most [`STDIN_WINDOW`] bytes may be under way; [`Reply::StdinTaken`] tells.
    Stdin(Blob),
    /// The command's input has ended.
    StdinEnd,
    /// A signal for the command (its process group; the terminal's foreground group when there is one), by number as
    /// Linux counts them. SIGKILL ends every process of the workspace.
    Signal(i32),
    /// The terminal's size.
    Resize(Size),
    /// The client lives.
    Heartbeat,
    /// The client is about to stop, as after Ctrl-Z. What the command started stops too, and no limit of time counts from here on.
    /// Never comes in the middle of data.
    Pause,
    /// The client has been taken up again, and so is the command.
    Resume,
    /// Asks what the command made. Answered by [`Reply::Products`] for each, in turn, each followed by nodes as data.
    Collect(Vec<Query>),
    /// Asks what the command changed that no output brings back. Answered by [`Reply::Beside`].
    Beside,
    /// Asks for contents: nodes of the query `query`, by their places in its list. A tar stream of exactly those follows
    /// as data, in their order; every name begins with one component that stands for the query's path (or is it), as
    /// [`crate::archive::reader::Naming::Prefixed`] has it.
    Want {
        /// The index of the query.
        query: u32,
        /// Ascending places in the list that was sent.
        nodes: Vec<u32>,
    },
    /// What lies in the nearest directory above an absolute path that is missing. Answered by [`Reply::There`].
    Look {
        /// The path.
        path: Blob,
    },
    /// What was collected has not come back: the build has failed after its command. It stays for the next one.
    LeftThere,
    /// Removes leftovers and what is kept, at and below these paths; all of it, where there are none. Answered by [`Reply::Cleaned`].
    Clean {
        /// The paths, below the source root.
        #[serde(with = "paths")]
        paths: Vec<RelPath>,
    },
    /// Takes these patterns out of the set of what the workspace keeps. Answered by [`Reply::Unkept`].
    Unkeep(Vec<String>),
    /// All is done. Answered by [`Reply::Closing`]; nothing of this client's follows.
    Bye,
}

/// See [`Request::Open`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The absolute path of the source root in the workspace. It is made when it is missing; a link there is followed.
    pub root: Blob,
    /// Who the command runs as, and whose the sources are.
    pub user: User,
    /// What is no part of the source tree: patterns as [`crate::tree::ignore`] reads them.
    pub patterns: Vec<String>,
    /// Paths below the root that are no part of it either, with all below them.
    #[serde(with = "paths")]
    pub outputs: Vec<RelPath>,
    /// How much of the workspace is looked at.
    pub extent: Extent,
    /// Absolute paths of directories that have a life of their own: no part of anything that is looked at, and the user's.
    pub caches: Vec<Blob>,
    /// Absolute paths of the directories that lead to them from the root or from the user's home: an engine makes those that are
    /// missing, as root's, and they are to be the user's as well.
    pub ways: Vec<Blob>,
    /// What of it is this client's alone.
    pub claim: Claim,
    /// Where the root is one of the outputs: patterns of what comes back of it. All does where there are none. A pattern that is the name of
    /// something there means that alone.
    pub only: Vec<String>,
}

/// What of the workspace is a client's alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// All of it.
    Everything,
    /// What lies at and below these absolute paths: others may be at work who claim other ones.
    Outputs(Vec<Blob>),
}

/// Why two clients cannot be at work in a workspace at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Conflict {
    /// One of them claims everything.
    Everything,
    /// An output of one is, holds or lies in this output of the other.
    Output(Blob),
    /// They have different ideas of what the source tree is, or run as different users.
    Settings,
}

/// The name of a file of the agent's that tells something about the tree at `root`.
pub fn name_for_root(what: &str, root: &[u8]) -> String {
    let digest = Digest(Sha256::digest(root).into()).to_string();
    format!("{what}-{}", &digest[..16])
}

/// What [`name_for_root`] calls the patterns that a workspace keeps.
pub const KEPT: &str = "kept";

/// What a place can take yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Bytes, for whoever runs the agent.
    pub bytes: u64,
    /// Files and directories; none where the file system does not count them.
    pub files: Option<u64>,
    /// What a file takes at least, in bytes.
    pub block: u64,
}

/// See [`Open::user`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// `USER[:GROUP]` by the workspace's own tables; empty is root. The command starts as engines start it.
    Named(String),
    /// Whoever runs the agent. The command starts as a child of his shell would: with his groups, his file mode creation
    /// mask, his chance to be ended for want of memory, and a `PWD` that is where it starts.
    Own,
}

/// See [`Open::extent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Extent {
    /// Everything below the root that is source tree.
    Everything,
    /// Nothing at all, and nothing of it is changed: the host's own tree is mounted there, or the client only looks around.
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
    /// Which.
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
    /// The program (looked for in the command's own `PATH`) and its arguments.
    pub argv: Vec<Blob>,
    /// On top of the container's own environment; later ones win.
    pub env: Vec<(Blob, Blob)>,
    /// Where `HOME` comes from.
    pub home: Home,
    /// The absolute path of the directory to start in. Made, as root, when it is missing, as engines do.
    pub directory: Blob,
    /// A pseudo-terminal of this size, or separate streams.
    pub terminal: Option<Size>,
    /// Whether [`Request::Stdin`] will come; otherwise the command reads end of file at once.
    pub stdin: Input,
    /// How far the far clock is ahead of the near one, in nanoseconds; zero where they agree. The mtimes that the command gives are moved
    /// by that much, so that they are the near clock's.
    pub clock_ahead: i64,
    /// Whose everything is to be that the command makes or changes below the source root, where that is the host's own tree.
    pub owner: Option<Owner>,
}

/// See [`Run::owner`]. All numbers are the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// Whose the source root is, which shows whether the far end sees the host's users.
    pub of_root: u32,
}

/// See [`Run::home`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Home {
    /// The image or the caller sets it.
    AsSet,
    /// The user's directory in `/etc/passwd`, `/` when there is none, as engines have it.
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

/// How much of the command's input may be under way, in bytes.
pub const STDIN_WINDOW: usize = 256 << 10;

/// One thing to collect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// What lies at and below a path of the source tree and is not what was there right before the command started, or is a
    /// leftover of an earlier one. Of a file, another mtime alone counts.
    Changes {
        /// The path, below the source root.
        #[serde(with = "path")]
        below: RelPath,
        /// With [`Follow::Contents`], a link there is [`Products::Missing`]: what it leads to is to be named.
        take: Follow,
    },
    /// A path, compared with what the host has in its place. What a product's time is does not matter, and its set-uid
    /// bits do not cross: in this summary every mtime is zero, modes are masked with `0o777`, and what does not travel is
    /// left out. The nodes carry the true times.
    Named {
        /// The absolute path.
        path: Blob,
        /// Whether a link there is itself meant, or the directory that it leads to.
        take: Follow,
        /// [`crate::tree::summary::Summary::to_bytes`] of what the host has below it. An empty one makes everything differ.
        summary: Blob,
    },
}

/// See [`Query::Named`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Follow {
    /// File, directory or link, whatever it is.
    Itself,
    /// It must be a directory, or a link to one, and its entries are meant.
    Contents,
}

/// What the far end says after its [`Welcome`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The root is there and being scanned.
    Opened {
        /// Whose the sources are, and who runs the command.
        uid: u32,
        /// That user's group.
        gid: u32,
        /// What there is room for below the root.
        room: Room,
        /// Outputs below the root that others are making right now.
        #[serde(with = "paths")]
        others: Vec<RelPath>,
        /// Patterns that the client does not name, and that the workspace keeps all the same: an earlier one named them, and there is
        /// something in their places. They stand before the client's own.
        kept: Vec<String>,
    },
    /// Somebody else is at work there, and has to end first.
    Waiting {
        /// Who.
        client: Client,
        /// Why that has to be waited for.
        why: Conflict,
    },
    /// Nodes follow as data.
    Differing {
        /// [`crate::tree::summary::Differing::to_bytes`]: a bucket of which the far end has nothing lists no nodes.
        differing: Blob,
        /// How many entries the far end's source tree has in all.
        entries: u64,
        /// How many files had to be read, because their digests were not known.
        hashed: u64,
    },
    /// The source tree is as it should be.
    Applied,
    /// The command runs.
    Started,
    /// It does not, and why.
    NotStarted(NotStarted),
    /// So many bytes of input have reached the command (or nobody: it does not read any more).
    StdinTaken(u64),
    /// The command has stopped by itself, or its terminal's key for that was pressed, which [`Request::Pause`] is the answer to.
    /// [`Request::Resume`] takes it up again.
    Stopped,
    /// The command and everything that it started are over, and all output was sent.
    Exited {
        /// How it ended.
        status: Status,
        /// How many processes of the workspace were ended for want of memory meanwhile.
        oom_kills: u64,
    },
    /// Nodes follow as data, and more data behind them: the paths that were there when the command started and are gone, as nodes of
    /// directories.
    Products(Products),
    /// What the command changed and no output brings back.
    Beside(Beside),
    /// What is there in place of a missing path.
    There {
        /// The nearest directory above it.
        directory: Blob,
        /// Some of its names, sorted.
        names: Vec<Blob>,
        /// How many more there are.
        more: u64,
    },
    /// So much is gone.
    Cleaned(Cleaned),
    /// The patterns that were in the set.
    Unkept(Vec<String>),
    /// The session is over.
    Closing {
        /// The most memory that the session's process had, in KiB.
        peak_kib: u64,
    },
    /// The far end could not do its part; the session is over.
    Failed(Failed),
}

/// See [`Reply::Products`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Products {
    /// Nothing is there that this one of [`Open::only`] matches.
    Unmatched(String),
    /// The path is there.
    There {
        /// As in [`Reply::Differing`], for as many buckets as the query's summary has (one, when that is empty); empty for
        /// [`Query::Changes`].
        differing: Blob,
        /// How many files had to be read, because their digests were not known.
        hashed: u64,
    },
    /// Nothing is there, or with [`Follow::Contents`] no directory. No data follows.
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

/// What only a workspace has, in bytes of its files: what `agent weigh` writes, [`encode`]d.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What is kept there.
    pub kept: u64,
    /// What builds left beside their outputs.
    pub leftovers: u64,
}

/// See [`Request::Beside`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// Sources that were changed or deleted, and so are put right at the next start: the first of them, in order.
    #[serde(with = "paths")]
    pub changed: Vec<RelPath>,
    /// How many more there are.
    pub more: u64,
    /// Names in the source root at or below which there is something new, of which there was nothing new when the command started.
    #[serde(with = "paths")]
    pub made: Vec<RelPath>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// By itself.
    Code(u8),
    /// By a signal, as Linux counts them.
    Signal(u8),
}

/// Why a command did not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotStarted {
    /// What this means for the exit code.
    pub why: NoStart,
    /// What the system said.
    pub detail: String,
}

/// See [`NotStarted::why`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoStart {
    /// There is no such program: 127.
    NotFound,
    /// It is there, and what the system would run it by is not: 127. What a script's first line names, to the line's end; none
    /// for a program whose loader is missing.
    NoInterpreter(Option<String>),
    /// It cannot be executed: 126.
    NotExecutable,
    /// It is a directory: 126.
    IsDirectory,
    /// It is no program, and no script that names its interpreter: 126.
    NoFormat,
    /// Its directory cannot be entered: 126.
    Directory,
    /// The far end could not do its part: 125.
    Other,
}

/// Why the far end gave up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Which sort of failure.
    pub why: Failure,
    /// What was tried, where, and what came back, in words.
    pub detail: String,
}

/// See [`Failed::why`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The user is not known in the workspace.
    User,
    /// The source root is something that is not a directory.
    RootIsNoDirectory,
    /// The file system of the workspace is read-only.
    ReadOnly,
    /// It is full.
    DiskFull,
    /// The client said something that makes no sense.
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

/// Many of them.
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
