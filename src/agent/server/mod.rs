//! The far end: one small static program inside a workspace. Its first argument names its role:
//!
//! | argument | role |
//! |---|---|
//! | `init` | PID 1 of a kept workspace: starts sessions for clients, reaps, stops when idle |
//! | `init once` | PID 1 of a one-run container: the same for one client, then it ends |
//! | `session` | serves one client after the other on stdin and stdout; dialogue: [`super`] |
//! | `exec` | becomes the command: gives up privileges, takes a terminal, and executes |
//! | `measure` | measures directories on request, for `fastbuild bench`; see [`crate::measure`] |
//! | `weigh` | writes how many bytes only the workspace at a path has |
//! | `end` | ends the session of a run whose client is dead |
//! | `supervisor` | replaces `init` where there is no container: one session, of which no process stays |
//!
//! In: frames of a trusted client. Out: frames, and a tree that is equal to the host's. Invariants:
//! however a session ends, no process that it started outlives it. No write leaves the source root
//! through a link. The host compares with the files on this disk, never with a memory of them.
//! Neighbours: [`crate::tree`] scans and summarises, [`crate::archive`] reads and writes contents,
//! [`crate::user`] tells who the user is.
//!
//! | file | purpose |
//! |---|---|
//! | `common` | helpers for all files |
//! | `inbox` | stdin -> requests and data, and the watch over a silent client |
//! | `outbox` | replies, data and output -> stdout |
//! | `workspace` | the tree: opened, scanned, compared |
//! | `turn` | which clients may work in the workspace at the same time, and which wait |
//! | `clocks` | the times that a command gave -> the host's time |
//! | `clean` | measures, or removes by hand, what only the workspace has |
//! | `kept` | which paths the workspace keeps, named by any client |
//! | `leftovers` | which paths only the workspace has, and may keep |
//! | `apply` | deletes, a tar stream and metadata -> the disk |
//! | `command` | one run of the command, from outside |
//! | `collect` | what the command made |
//! | `owners` | gives what the command made in the host's own tree to the user |
//! | `processes` | killing and reaping |
//! | `pause` | stopping and continuing |
//! | `free_space` | the free space at the tree's place |
//! | `writers` | small files -> the disk |

mod apply;
mod clean;
mod clocks;
mod collect;
mod command;
mod common;
mod exec;
mod free_space;
mod inbox;
mod init;
mod kept;
mod leftovers;
mod measure;
mod outbox;
mod owners;
mod pause;
mod processes;
mod session;
mod supervisor;
mod turn;
mod workspace;
mod writers;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use crate::agent::{
    protocol::encode,
    server::{
        common::USAGE,
        init::{Lifetime, ONCE},
    },
};

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
        Some("keep") => supervisor::run(),
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
