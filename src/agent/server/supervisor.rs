//! The first process of a workspace without a container. Like `init`, it only starts a session.
//! However that ends, all its processes are dead before the client's stream ends.
//!
//! A container ends with its first process. Here two things replace that. The processes of a
//! session that was itself killed become children of this process, which is a subreaper too. And
//! each keeper waits for its turn at a lock beside the agent, which the system frees when the
//! keeper before it is dead. So no session begins in a tree while another one is ending. A process
//! can escape only if keeper and session are killed at the same moment.

use std::{
    fs::File,
    io,
    process::{Command, ExitCode},
    sync::Arc,
};

use rustix::{
    io::Errno,
    process::{Pid, WaitOptions, getpid, set_child_subreaper, wait},
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::agent::server::{common::state_directory, processes};

/// The file in the agent's directory that is locked while a session lives.
const TURN: &str = "turn";

/// The exit code that is reported for a session that a signal ended.
const KILLED: u8 = 137;

/// Runs one session.
pub(super) fn run() -> ExitCode {
    outlive_friendly_signals();
    let kept = || -> io::Result<u8> {
        set_child_subreaper(Some(getpid()))?;
        let _turn = take_turn()?;
        let session = Command::new("/proc/self/exe").arg("session").spawn()?;
        let code = end_of(Pid::from_child(&session));
        processes::clear();
        Ok(code)
    };
    match kept() {
        Ok(code) => code.into(),
        Err(error) => {
            // The client shows it. If the client does not read any more, it is not needed.
            let _ = io::Write::write_all(&mut io::stderr(), format!("no session: {error}").as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// Signals for the build come through the client. A signal to all processes called fastbuild must
/// not leave the command without a process that ends it. An exec restores the signals' former
/// effect.
pub(super) fn outlive_friendly_signals() {
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        // If this fails, such a signal ends this process, and what it started is left behind.
        let _ = signal_hook::flag::register(signal, Arc::default());
    }
}

/// Waits until the keeper before this one is dead.
fn take_turn() -> io::Result<File> {
    let directory = state_directory().ok_or(io::ErrorKind::NotFound)?;
    let turn = File::options().write(true).create(true).truncate(false).open(directory.join(TURN))?;
    turn.lock()?;
    Ok(turn)
}

/// Waits for the session, and reaps processes that became children of this one meanwhile.
fn end_of(session: Pid) -> u8 {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == session => {
                if let Some(code) = status.exit_status() {
                    return u8::try_from(code).unwrap_or(KILLED);
                }
                if status.signaled() {
                    return KILLED;
                }
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return KILLED,
        }
    }
}
