//! Stops the processes of a session while its client is stopped, and continues them. The kernel
//! does not do this: signals of a terminal reach fastbuild alone, and a terminal in the workspace
//! does not stop a group that no shell of the same session waits for.

use std::fs::{self, File};

use rustix::{
    process::{Pid, Signal, getpid, kill_process, kill_process_group},
    termios::{LocalModes, SpecialCodeIndex, tcgetattr, tcgetpgrp},
};

use crate::sys::process::{Look, State, has_default, look};

/// How many rounds look for processes that were made while the others were being stopped.
const ROUNDS: usize = 20;

/// The stopped processes, parents first.
#[derive(Debug, Default)]
pub(super) struct Paused(Vec<Pid>);

impl Paused {
    /// Stops all descendants of this process. Parents go first, so that a shell does not see its
    /// children stop before it stops itself.
    pub(super) fn everybody() -> Paused {
        let mut paused = Paused::default();
        for _ in 0..ROUNDS {
            let mut all_stand = true;
            for (pid, state) in descendants() {
                if state == State::Running {
                    all_stand = false;
                    let _ = kill_process(pid, Signal::STOP); // it may have ended
                    paused.0.push(pid);
                }
            }
            if all_stand {
                break;
            }
        }
        paused
    }

    /// Continues them, and the command's own group where it had stopped before.
    pub(super) fn take_up(self, command: Pid) {
        if !self.0.contains(&command) {
            let _ = kill_process_group(command, Signal::CONT);
        }
        for pid in self.0.into_iter().rev() {
            let _ = kill_process(pid, Signal::CONT); // it may have been killed
        }
    }
}

/// Whether the command's main process is stopped.
pub(super) fn is_stopped(command: Pid) -> bool {
    look(command.as_raw_pid()).is_some_and(|look| look.state == State::Stopped)
}

/// Whether one of `keys` is the suspend key, and the command would stop by it if a shell were
/// there: it is in the foreground itself, and does not catch the key's signal.
pub(super) fn suspends(terminal: &File, keys: &[u8], command: Pid) -> bool {
    let is_key = tcgetattr(terminal).is_ok_and(|modes| {
        modes.local_modes.contains(LocalModes::ISIG)
            && keys.contains(&modes.special_codes[SpecialCodeIndex::VSUSP])
    });
    is_key && tcgetpgrp(terminal) == Ok(command) && has_default(command, signal_hook::consts::SIGTSTP)
}

fn descendants() -> Vec<(Pid, State)> {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let pids = names.filter_map(|name| name.to_str()?.parse::<i32>().ok());
    let all: Vec<(i32, Look)> = pids.filter_map(|pid| Some((pid, look(pid)?))).collect();
    let mut found = vec![(getpid().as_raw_pid(), State::Dead)];
    let mut at = 0;
    while let Some(&(above, _)) = found.get(at) {
        found.extend(
            all.iter().filter(|(_, look)| look.parent == above).map(|(pid, look)| (*pid, look.state)),
        );
        at += 1;
    }
    found.into_iter().skip(1).filter_map(|(pid, state)| Some((Pid::from_raw(pid)?, state))).collect()
}
