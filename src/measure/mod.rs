//! What a directory costs: the seconds that one large file and many small ones take in it.
//!
//! In: a directory and [`Sizes`]; out: [`Figures`], and [`Progress`] on the way. What must hold: room is asked for before
//! anything is written; everything lies in a directory of its own, which is gone afterwards however it ended, as long as
//! this process could see to it; figures are of work that was done, for all of it is counted. Both ends measure with this:
//! fastbuild on this machine, and the agent in a container ([`wire`]). Neighbour: [`crate::bench`], which chooses the
//! places and makes tables.
//!
//! The large file is the seed's `dd bs=1M conv=fdatasync`, but for its bytes: those cannot be compressed and no block is
//! like another. Zeros would measure what a compressing disk, a sparse image or a share makes of zeros.

mod run;
mod scratch;
mod small;
pub mod wire;

pub use run::{Figures, Problem, Progress, ReadFrom, Sizes, Step, Watcher, measure};
pub use small::Small;
