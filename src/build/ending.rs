//! How a command is brought to its end, in either tier: the first signal is handed to it, a second one kills it, and so does
//! the end of the time that a supervisor leaves. One more means that the engine does not say that it is dead: then whoever
//! runs it goes, and what a dead client's run gets is done. Pure but for the clock; who runs the command does what is wished.

use std::time::Duration;

use tokio::time::Instant;

use super::Signal;

/// How long a command may take to end after SIGTERM or SIGHUP before it is killed. CI systems kill fastbuild itself
/// some ten seconds after they asked.
const GRACE: Duration = Duration::from_secs(8);

/// How far the end of the command has been asked for.
#[derive(Debug, Default)]
pub(super) struct Ending {
    asked: bool,
    killed: bool,
    deadline: Option<Instant>,
}

/// What is to be done to the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// It is told, and goes on as it likes.
    Hand(Signal),
    /// It is killed.
    Kill,
    /// It was killed before.
    Nothing,
    /// It was killed before, and whoever gave the signal waits no longer for that.
    GiveUp(Signal),
}

impl Ending {
    /// Whether any signal has come.
    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    /// The first signal is for the command; a second one ends it, and one more ends the waiting.
    pub(super) fn on_signal(&mut self, signal: Signal) -> Wish {
        if self.killed {
            return Wish::GiveUp(signal);
        }
        if self.asked {
            return self.kill();
        }
        self.asked = true;
        if signal != Signal::Interrupt {
            self.deadline = Some(Instant::now() + GRACE);
        }
        Wish::Hand(signal)
    }

    /// It is to end now.
    pub(super) fn kill(&mut self) -> Wish {
        self.deadline = None;
        if std::mem::replace(&mut self.killed, true) { Wish::Nothing } else { Wish::Kill }
    }

    /// Waits until the time that a supervisor leaves is over; for ever when none asked.
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
}
