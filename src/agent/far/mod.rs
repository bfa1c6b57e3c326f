//! The far end: what runs inside a workspace. One small static program with several faces, by its first argument:
//!
//! | argument | what it is |
//! |---|---|
//! | `init` | PID 1 of a kept workspace: starts a session when a client speaks, reaps, stops when idle |
//! | `init once` | PID 1 of a one-run container: the same for one client, and it ends with that client |
//! | `session` | serves one client after the other on stdin and stdout, see [`super`] for the dialogue |
//! | `exec` | becomes the command: gives up privileges, takes a terminal, and executes |
//! | `measure` | measures directories as it is asked to on stdin, for `fastbuild bench`; see [`crate::measure`] |
//! | `weigh` | writes how much only the workspace at a path has |
//! | `end` | ends the session of a run whose client is dead |
//! | `keep` | in the place of `init` where there is no container: one session, and nobody of it is left behind |
//!
//! In: frames of a client that is believed. Out: frames, and a workspace put right. What must hold: whatever way a session
//! ends, no process that it started outlives it; no write leaves the source root through a link; what the host
//! compares is what lies on this disk, never what is remembered of it. Neighbours: [`crate::tree`] scans and
//! summarises, [`crate::archive`] reads and writes contents, [`crate::user`] tells who the user is.
//!
//! | file | what |
//! |---|---|
//! | `ground` | what all of them stand on |
//! | `inbox` | stdin -> requests and data, and the watch over a silent client |
//! | `outbox` | replies, data and output -> stdout |
//! | `workspace` | the tree: opened, scanned, compared |
//! | `turn` | who may be at work in the workspace at the same time, and who waits |
//! | `clocks` | the times that a command gave -> the host's time |
//! | `clean` | what only the workspace has -> weighed, or removed by hand |
//! | `kept` | which paths the workspace keeps, whoever named them |
//! | `leftovers` | which paths only the workspace has, and may keep |
//! | `apply` | deletes, a tar stream and metadata -> the disk |
//! | `command` | one run of the command, from outside |
//! | `collect` | what the command made |
//! | `owners` | what the command made in the host's own tree -> its user's |
//! | `processes` | killing and reaping |
//! | `pause` | stopping, and taking up again |
//! | `room` | what the place of the tree can take yet |
//! | `writers` | small files -> the disk |

mod apply;
mod clean;
mod clocks;
mod collect;
mod command;
mod exec;
mod ground;
mod inbox;
mod init;
mod keep;
mod kept;
mod leftovers;
mod measure;
mod outbox;
mod owners;
mod pause;
mod processes;
mod room;
mod session;
mod turn;
mod workspace;
mod writers;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use self::{
    ground::USAGE,
    init::{Lifetime, ONCE},
};
use super::protocol::encode;

/// The agent's `main`.
pub fn main(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<_> = argv.into_iter().skip(1).collect();
    let word = |at: usize| words.get(at).and_then(|word| word.to_str());
    let lifetime = if word(1) == Some(ONCE) { Lifetime::OneRun } else { Lifetime::Kept };
    match word(0) {
        Some("init") => init::run(lifetime),
        Some("session") => session::run(lifetime),
        Some("exec") => exec::run(),
        Some("measure") => measure::run(),
        Some("keep") => keep::run(),
        Some("weigh") => {
            let held = words.get(1).map(|root| clean::weigh(Path::new(root)));
            match held.map(|held| held.map(|held| io::stdout().write_all(&encode(&held)))) {
                Some(Ok(Ok(()))) => ExitCode::SUCCESS,
                Some(_) => ExitCode::FAILURE,
                None => ExitCode::from(USAGE),
            }
        }
        Some("end") => match word(1).map(turn::end) {
            Some(Ok(())) => ExitCode::SUCCESS,
            Some(Err(_)) => ExitCode::FAILURE,
            None => ExitCode::from(USAGE),
        },
        _ => ExitCode::from(USAGE),
    }
}
