//! What came back from a container -> the host's files: stage beside the target, verify, apply, all or nothing.
//!
//! ```text
//! archive::Reader --Incoming--> stage --(decide: pure)--> ops --> journal --> apply --> record
//!                                 |                                             |
//!                       slots in .fastbuild-stage-*                    renames, deletes last
//! ```
//!
//! [`stage`] receives: it holds every product against what the host has and what fastbuild knows ([`record`], or the
//! manifest that was uploaded), asks [`decide`] what that means, and keeps the bytes that will be needed in numbered
//! slots of a staging directory on the target's own file system. The host's files are only looked at until all
//! archives have ended well. [`apply`] then renames slots into place, one reversible step after the other: a failure
//! on the way takes all of them back, a crash leaves [`journal`] for the next start.
//!
//! A container is hostile input. Its names become [`crate::entry::RelPath`]s in [`crate::archive`] before they get here, and
//! here they are only ever used one component at a time below a directory handle ([`crate::sys::at`]).

pub mod apply;
pub mod archived;
pub mod decide;
mod digest;
mod fold;
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

/// Why products did not reach the host. Unless an error says otherwise, the host is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// What the container sent is not an archive that may be trusted.
    #[error("what the container sent for {output:?} was refused")]
    Refused {
        /// The output, as it was asked for.
        output: String,
        /// What was wrong with which entry.
        source: Box<ReadError>,
    },
    /// What the container listed cannot be read.
    #[error("the list of products that the container sent for {output:?} was refused")]
    BadList {
        /// The output, as it was asked for.
        output: String,
        /// What was wrong with which entry.
        source: NodeError,
    },
    /// The archive or the list is well formed and still no tree.
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
    /// A product is larger than what may be used of the disk.
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
        /// What may be used, in bytes.
        room: u64,
        /// The staging directory.
        stage: PathBuf,
    },
    /// Something else went wrong on the host.
    #[error("could not {what} {path:?}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An output cannot be put where it was asked to go.
    #[error("the output target {path:?} {why}")]
    BadTarget {
        /// The host's path.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// A link of the user's is in an output's place.
    #[error(
        "the output target {path:?} is a symbolic link to {to:?}, which would be replaced and not followed"
    )]
    StrangeLink {
        /// The host's path.
        path: PathBuf,
        /// Where it leads.
        to: PathBuf,
    },
    /// Putting the products in place failed on the way, and what had been done was taken back.
    #[error(
        "could not {what} {path:?} while products were put in place; everything done before it was taken back"
    )]
    TakenBack {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// As [`OutputError::TakenBack`], but taking it back failed too. The staging directory holds what is missing.
    #[error(
        "could not {what} {path:?} while products were put in place, and could not take everything back: {undo}; \
             the old files are in {stage:?}"
    )]
    Torn {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it could not be taken back.
        undo: io::Error,
        /// Where the old files are.
        stage: PathBuf,
        /// What the system said at first.
        source: io::Error,
    },
    /// The build deleted all there was.
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
        /// What was tried.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl OutputError {
    /// What a user could do next; none when the message says it all.
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

/// Makes the closure for `map_err` that says what was tried where.
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
