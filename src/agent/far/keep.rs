//! The first process of a workspace without a container. Like `init`, it starts a session and does next to nothing else:
//! when the session is over, in whatever way, everybody whom it started is dead before the client sees its stream end.
//!
//! A container ends with its first process. Here nothing does, so two things stand in for it. The processes of a session
//! that was itself killed become this one's, which is a subreaper too. And each keeper waits for its turn at a lock
//! beside the agent, which the system frees when the one before it is dead: so no session begins in a tree while
//! another is at its end. Only whoever kills both of them at the same moment gets away with a process.

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

use super::processes;
use crate::agent::far::ground::state_directory;

/// The file in the agent's directory that is locked while a session lives.
const TURN: &str = "turn";

/// What a session that a signal ended is said to have exited with.
const KILLED: u8 = 137;

/// Keeps one session.
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
            // The client shows it. Where nobody reads it any more, it is of no use.
            let _ = io::Write::write_all(&mut io::stderr(), format!("no session: {error}").as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// Signals that are meant for the build come by way of the client; whoever sends them to everything that is called
/// fastbuild must not leave the command without anybody who ends it. They are what they were again behind an exec.
pub(super) fn outlive_friendly_signals() {
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        // Without it, such a signal ends the session, and this is about whom it leaves.
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

/// Waits for the session, and for whoever became this process's child meanwhile.
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
