//! What is wrong with a scratch directory, and what to do about it.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use crate::{agent::program::NoAgent, sys::owner::NotOwn};

/// What is wrong with a scratch directory.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// It is not private to this user.
    #[error("the scratch directory {path:?} {why}, so nothing is put there")]
    NotOwn {
        /// The directory, or the one above it.
        path: PathBuf,
        /// What is wrong with it.
        why: NotOwn,
    },
    /// Something else has its name.
    #[error("{path:?} has the name of a scratch directory but was not created by fastbuild")]
    Foreign {
        /// Its path.
        path: PathBuf,
    },
    /// It belongs to another project.
    #[error("the scratch directory {path:?} belongs to the sources in {source_root:?}")]
    OfAnother {
        /// Its path.
        path: PathBuf,
        /// That project's source root.
        source_root: String,
    },
    /// Another fastbuild is working in it.
    #[error("the scratch directory {path:?} is in use by a fastbuild with another state directory")]
    Busy {
        /// Its path.
        path: PathBuf,
    },
    /// The system refuses it.
    #[error("could not {what} {path:?}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// There is no agent for this machine.
    #[error(transparent)]
    NoAgent(#[from] NoAgent),
    /// The agent was ended in the middle of a session.
    #[error("the agent that ran the build was ended ({status}), and the build with it")]
    Ended {
        /// How it ended, in the system's words.
        status: ExitStatus,
    },
    /// A process of the build cannot be ended.
    #[error("a process of the build in {path:?} does not end")]
    Lives {
        /// The scratch directory.
        path: PathBuf,
    },
}

impl ScratchError {
    pub(super) fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ScratchError {
        let path = path.to_owned();
        move |source| ScratchError::Io { what, path, source }
    }

    /// What the user could do next; `None` when the message is enough.
    pub fn advice(&self) -> Option<String> {
        let text = match self {
            ScratchError::NotOwn { .. } | ScratchError::OfAnother { .. } | ScratchError::Io { .. } => {
                "name another directory with --scratch"
            }
            ScratchError::Foreign { .. } => {
                "look what it is, and remove it; or name another directory with --scratch"
            }
            ScratchError::Busy { .. } => "wait for that run to end",
            ScratchError::NoAgent(_) => "build in a container: --engine docker",
            ScratchError::Ended { .. } => "it was killed, or memory was short; run the build again",
            ScratchError::Lives { .. } => {
                "it waits for a disk or a device, or is another user's; look with `ps`"
            }
        };
        Some(text.to_owned())
    }
}
