//! Measures a directory: the seconds that one large file and many small ones take in it.
//!
//! In: a directory and [`Sizes`]; out: [`Figures`], and [`Progress`] meanwhile. Invariants: the
//! free room is checked before the first write; all files lie in a directory of its own, which is
//! removed however it ended, as long as this process could do that; figures count only completed
//! work. Both ends use this: fastbuild on this machine, and the agent in a container ([`wire`]).
//! [`crate::bench`] chooses the places and makes the tables.
//!
//! The large file is the seed's `dd bs=1M conv=fdatasync`, but its bytes cannot be compressed and
//! no two blocks are equal. With zeros, compression, a sparse image or a share would change the
//! figures.

mod run;
mod scratch;
mod small;
pub mod wire;

pub use run::{Figures, Problem, Progress, ReadFrom, Sizes, Step, Watcher, measure};
pub use small::Small;
