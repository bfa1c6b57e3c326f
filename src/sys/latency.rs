//! Detects slow file systems, on which a call waits for an answer from elsewhere.
//!
//! On a mount that crosses a network or a virtual machine each call is a round trip of 0.2 to 2 ms,
//! and many parallel calls make it faster. On a local disk more threads than processors only slow
//! each other down. Where a kernel lock is involved (a rename between directories locks the whole
//! file system), they wait for each other.

use std::{
    thread,
    time::{Duration, Instant},
};

/// A longer answer was waited for, not computed: a local one takes 1 to 20 µs, FUSE 50 µs or more.
const SLOW_ANSWER: Duration = Duration::from_micros(50);

/// How many answers are timed together, and how many groups in a row must be slow.
const GROUP: u32 = 8;
const IN_A_ROW: u32 = 3;

/// The timing of one thread's calls.
///
/// The scheduler may suspend a thread: on a busy machine, one answer in some thousands takes as
/// long as ten thousand others, and more threads would add load. So several groups must be slow in
/// a row.
#[derive(Debug)]
pub struct Pace {
    since: Instant,
    answers: u32,
    slow_in_a_row: u32,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { since: Instant::now(), answers: 0, slow_in_a_row: 0 }
    }
}

impl Pace {
    /// Starts the timing: calls to the file system follow.
    pub fn begin(&mut self) {
        self.since = Instant::now();
        self.answers = 0;
    }

    /// This many answers have come since the last call.
    pub fn answered(&mut self, answers: u32) {
        self.answers += answers;
        if self.answers >= GROUP {
            self.end();
            self.begin();
        }
    }

    /// Ends the timing: no calls to the file system follow.
    pub fn end(&mut self) {
        if self.answers > 0 {
            let is_slow = self.since.elapsed() > SLOW_ANSWER * self.answers;
            self.slow_in_a_row = if is_slow { self.slow_in_a_row + 1 } else { 0 };
            self.answers = 0;
        }
    }

    /// Times calls that give this many answers, and nothing else.
    pub fn time<T>(&mut self, answers: u32, calls: impl FnOnce() -> T) -> T {
        self.begin();
        let done = calls();
        self.answered(answers);
        self.end();
        done
    }

    /// Whether the file system is slow, as measured by this thread.
    pub fn is_slow(&self) -> bool {
        self.slow_in_a_row >= IN_A_ROW
    }
}

/// The number of threads that can compute at the same time.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
