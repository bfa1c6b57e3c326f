//! How a command is brought to its end, with the agent and without. The first signal is passed to
//! it. A second one kills it, and so does the end of the time that a supervisor leaves. One more
//! means that the engine does not report its death: then the engine is left, and the run is treated
//! like that of a dead client. Pure but for the clock; the code that runs the command carries out
//! the wish.

use std::time::Duration;

use tokio::time::Instant;

use crate::{agent::protocol::Status, build::Signal};

/// How long a command may take to end after SIGTERM or SIGHUP before it is killed. CI systems kill
/// fastbuild itself some ten seconds after they asked.
const GRACE: Duration = Duration::from_secs(8);

/// SIGKILL, as Linux counts.
pub(super) const KILL: u8 = 9;

/// How fastbuild itself ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Code(u8),
    /// By a signal, as a shell's command does, so that loops, scripts and `make` end too.
    Signal(Signal),
    /// By a key of a raw terminal: the other foreground processes have not had the signal.
    Key(Signal),
}

impl Exit {
    /// The exit code that shells report.
    pub fn code(self) -> u8 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) | Exit::Key(signal) => signal.exit_code(),
        }
    }
}

impl From<u8> for Exit {
    fn from(code: u8) -> Exit {
        Exit::Code(code)
    }
}

/// How far the end of the command has been asked for.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// The latest signal that came.
    handed: Option<Signal>,
    asked: bool,
    killed: bool,
    deadline: Option<Instant>,
}

/// The next action on the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// It is told, and decides itself what to do.
    Hand(Signal),
    /// It is killed.
    Kill,
    /// It was killed before.
    Nothing,
    /// It was killed before, and the sender of the signal no longer waits for its end.
    GiveUp(Signal),
}

impl Ending {
    /// Whether any signal has come.
    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    /// The first signal is for the command; a second one ends it, and one more ends the wait.
    /// SIGQUIT alone does not ask the command to end: some commands print their progress.
    pub(super) fn on_signal(&mut self, signal: Signal) -> Wish {
        self.handed = Some(signal);
        if self.killed {
            return Wish::GiveUp(signal);
        }
        if self.asked {
            return self.kill();
        }
        if signal == Signal::Quit {
            return Wish::Hand(signal);
        }
        self.asked = true;
        if signal != Signal::Interrupt {
            self.deadline = Some(Instant::now() + GRACE);
        }
        Wish::Hand(signal)
    }

    /// The command has to end now.
    pub(super) fn kill(&mut self) -> Wish {
        self.deadline = None;
        if std::mem::replace(&mut self.killed, true) { Wish::Nothing } else { Wish::Kill }
    }

    /// How fastbuild ends after a command that ended with `status`. `key` is the signal of the last
    /// key, if it was for the command. A command that was not told to end gives an exit code.
    pub(super) fn exit(&self, status: Status, key: Option<Signal>) -> Exit {
        let (code, signal) = match status {
            Status::Code(code) => (code, code.checked_sub(128)),
            Status::Signal(signal) => (signal.saturating_add(128), Some(signal)),
        };
        let by = match signal {
            Some(KILL) if self.killed => Some(self.handed.or(key).unwrap_or(Signal::Interrupt)),
            signal => signal.and_then(Signal::of_number),
        };
        match by {
            Some(signal) if self.handed.is_some() => Exit::Signal(signal),
            Some(signal) if self.killed || key == Some(signal) => Exit::Key(signal),
            _ => Exit::Code(code),
        }
    }

    /// Waits until the time that a supervisor leaves is over; for ever when no supervisor asked.
    pub(super) async fn grace_is_over(&self) {
        match self.deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_signal_kills_and_nothing_is_killed_twice_and_the_third_waits_no_longer() {
        for first in [Signal::Interrupt, Signal::Terminate, Signal::HangUp] {
            let mut ending = Ending::default();
            assert_eq!(ending.on_signal(first), Wish::Hand(first));
            assert_eq!(ending.deadline.is_some(), first != Signal::Interrupt, "only supervisors set a time");
            assert_eq!(ending.on_signal(Signal::Interrupt), Wish::Kill);
            assert_eq!(ending.deadline, None);
            assert_eq!(ending.kill(), Wish::Nothing);
            assert_eq!(ending.on_signal(first), Wish::GiveUp(first));
        }
    }

    #[test]
    fn fastbuild_dies_of_a_signal_that_it_handed_on_and_the_command_ended_by() {
        let after = |signals: &[Signal]| {
            let mut ending = Ending::default();
            for signal in signals {
                let _ = ending.on_signal(*signal);
            }
            ending
        };
        let (int, term) = (Signal::Interrupt, Signal::Terminate);
        let cases = [
            (after(&[int]), Status::Signal(2), None, Exit::Signal(int)),
            (after(&[int]), Status::Code(130), None, Exit::Signal(int)),
            (after(&[int]), Status::Code(143), None, Exit::Signal(term)),
            (after(&[int]), Status::Code(0), None, Exit::Code(0)),
            (after(&[int]), Status::Code(2), None, Exit::Code(2)),
            (after(&[int]), Status::Signal(9), None, Exit::Code(137)),
            (after(&[int, term]), Status::Signal(9), None, Exit::Signal(term)),
            (after(&[Signal::Quit, Signal::Quit]), Status::Signal(3), None, Exit::Signal(Signal::Quit)),
            (after(&[]), Status::Code(130), None, Exit::Code(130)),
            (after(&[]), Status::Signal(2), Some(int), Exit::Key(int)),
            (after(&[]), Status::Signal(3), Some(int), Exit::Code(131)),
        ];
        for (ending, status, key, exit) in cases {
            assert_eq!(ending.exit(status, key), exit, "{ending:?} {status:?} {key:?}");
        }
        let mut ending = Ending::default();
        ending.kill();
        assert_eq!(ending.exit(Status::Signal(9), Some(int)), Exit::Key(int), "two of those keys");
    }
}
