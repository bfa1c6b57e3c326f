//! Puts what came back from a container on the host: stage beside the target, verify, apply.
//!
//! ```text
//! archive::Reader --Incoming--> stage --(decide: pure)--> ops --> journal --> apply --> record
//!                                 |                                             |
//!                       slots in .fastbuild-stage-*                    renames, deletes last
//! ```
//!
//! [`stage`] receives products. It compares each one with what the host has and with what fastbuild
//! knows ([`record`], or the manifest that was uploaded). [`decide`] then says what to do. The
//! bytes that will be needed are kept in numbered slots of a staging directory on the target's own
//! file system. The host's files are only read until all archives have ended without an error.
//! [`apply`] then renames slots into place, one reversible step after the other. A failure takes
//! all earlier steps back; a crash leaves the [`journal`] for the next start.
//!
//! A container is hostile input. Its names become [`crate::entry::RelPath`]s in [`crate::archive`].
//! Here they are used one component at a time, below a directory handle ([`crate::sys::at`]).

pub mod apply;
pub mod archived;
mod case_fold;
pub mod decide;
mod digest;
pub mod host;
pub mod journal;
mod modes;
pub mod ops;
pub mod record;
pub mod safe;
mod slots;
pub mod stage;
pub mod stage_dir;
pub mod target;

use std::{io, path::PathBuf};

use crate::{archive::reader::ReadError, entry::RelPath, tree::node::NodeError};

/// Why products did not reach the host. Unless an error says otherwise, the host is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The archive from the container cannot be trusted.
    #[error("what the container sent for {output:?} was refused")]
    Refused {
        /// The output, as it was asked for.
        output: String,
        /// The entry and what is wrong with it.
        source: Box<ReadError>,
    },
    /// The list from the container cannot be read.
    #[error("the list of products that the container sent for {output:?} was refused")]
    BadList {
        /// The output, as it was asked for.
        output: String,
        /// The entry and what is wrong with it.
        source: NodeError,
    },
    /// The archive or the list is well formed, but it does not describe a tree.
    #[error("what the container sent for {output:?} was refused: the entry \"{path}\" {why}")]
    NoTree {
        /// The output, as it was asked for.
        output: String,
        /// The entry.
        path: RelPath,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The disk is full, or would be.
    #[error(
        "no space left on the disk while products were staged in {stage:?}; the host's files are as they were"
    )]
    DiskFull {
        /// The staging directory.
        stage: PathBuf,
    },
    /// A product is larger than the disk space that may be used.
    #[error(
        "no space for the products: \"{path}\" of {output:?} has {size} bytes, and {room} may still be used in {stage:?}; \
             the host's files are as they were"
    )]
    DoesNotFit {
        /// The output, as it was asked for.
        output: String,
        /// The entry.
        path: RelPath,
        /// Its length in bytes.
        size: u64,
        /// The space that may be used, in bytes.
        room: u64,
        /// The staging directory.
        stage: PathBuf,
    },
    /// Another operation on the host failed.
    #[error("could not {what} {path:?}")]
    Host {
        /// The operation that failed.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// An output cannot be put in the requested place.
    #[error("the output target {path:?} {why}")]
    BadTarget {
        /// The host's path.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// A symbolic link of the user is in an output's place.
    #[error(
        "the output target {path:?} is a symbolic link to {to:?}, which would be replaced and not followed"
    )]
    StrangeLink {
        /// The host's path.
        path: PathBuf,
        /// The link's target.
        to: PathBuf,
    },
    /// A step failed while products were put in place. The earlier steps were taken back.
    #[error(
        "could not {what} {path:?} while products were put in place; everything done before it was taken back"
    )]
    TakenBack {
        /// The operation that failed.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// As [`OutputError::TakenBack`], but taking the steps back failed too. The staging directory
    /// holds the missing files.
    #[error(
        "could not {what} {path:?} while products were put in place, and could not take everything back: {undo}; \
             the old files are in {stage:?}"
    )]
    Torn {
        /// The operation that failed.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// Why it could not be taken back.
        undo: io::Error,
        /// Where the old files are.
        stage: PathBuf,
        /// The system's first error.
        source: io::Error,
    },
    /// The build left nothing in its working directory.
    #[error(
        "the build left nothing in its working directory; nothing was deleted on the host, which has {} there", crate::text::numbers::counted(*.files, "file")
    )]
    EverythingGone {
        /// How many files the host has.
        files: u64,
    },
    /// The record or the journal could not be written or read.
    #[error("could not {what} fastbuild's own {path:?}")]
    Bookkeeping {
        /// The operation that failed.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl OutputError {
    /// What a user could do next; `None` when the message is enough.
    pub fn advice(&self) -> Option<String> {
        let text = match self {
            OutputError::Refused { .. } | OutputError::BadList { .. } | OutputError::NoTree { .. } => {
                "the host is as it was; nothing from this container can be trusted further than this entry"
            }
            OutputError::DiskFull { .. } | OutputError::DoesNotFit { .. } => {
                "free some space, or name only what is needed with -o"
            }
            OutputError::StrangeLink { to, .. } => {
                return Some(format!(
                    "name its target, -o PATH:{}, or remove the link",
                    to.to_string_lossy()
                ));
            }
            OutputError::BadTarget { .. } => "name another place: -o PATH:HOST",
            OutputError::EverythingGone { .. } => {
                "if that is what the build should do, delete them by hand; to bring back one path only, name it with -o"
            }
            OutputError::TakenBack { .. } | OutputError::Host { .. } => {
                "check the permissions there, and run the build again"
            }
            OutputError::Torn { .. } | OutputError::Bookkeeping { .. } => return None,
        };
        Some(text.to_owned())
    }
}

/// Makes a closure for `map_err` that adds the operation and its path.
pub(crate) fn host_error(
    what: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> OutputError {
    let path = path.into();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OutputError::DiskFull { stage: path },
        _ => OutputError::Host { what, path, source },
    }
}
