//! Tells a file system whose answers are waited for from one whose answers are computed.
//!
//! On a mount that crosses a network or a virtual machine each call is a round trip of 0.2 to 2 ms, and what counts is how
//! many are under way at once; on a local disk more threads than processors only get in each other's way, and where a lock
//! of the kernel's is at stake (a rename from one directory to another takes one for the whole file system), they
//! wait for each other.

use std::{
    thread,
    time::{Duration, Instant},
};

/// An answer that takes longer was waited for, not computed: a local one takes 1 to 20 µs, one through FUSE 50 and more.
const SLOW_ANSWER: Duration = Duration::from_micros(50);

/// How many answers are timed together, and how many times in a row they have to be slow.
const GROUP: u32 = 8;
const IN_A_ROW: u32 = 3;

/// One thread's answers.
///
/// A thread may be put off for a while: on a busy machine, one answer in some thousands takes as long as ten thousand others,
/// and more threads would make it busier. So several groups of answers must be slow in a row.
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
    /// What comes now is a question.
    pub fn begin(&mut self) {
        self.since = Instant::now();
        self.answers = 0;
    }

    /// So many answers have come since the last one.
    pub fn answered(&mut self, answers: u32) {
        self.answers += answers;
        if self.answers >= GROUP {
            self.end();
            self.begin();
        }
    }

    /// What comes now is none.
    pub fn end(&mut self) {
        if self.answers > 0 {
            let is_slow = self.since.elapsed() > SLOW_ANSWER * self.answers;
            self.slow_in_a_row = if is_slow { self.slow_in_a_row + 1 } else { 0 };
            self.answers = 0;
        }
    }

    /// Times calls that have so many answers, and nothing around them.
    pub fn time<T>(&mut self, answers: u32, calls: impl FnOnce() -> T) -> T {
        self.begin();
        let done = calls();
        self.answered(answers);
        self.end();
        done
    }

    /// Whether the file system is slow, as far as this thread has seen.
    pub fn is_slow(&self) -> bool {
        self.slow_in_a_row >= IN_A_ROW
    }
}

/// As many threads as have something to compute.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
