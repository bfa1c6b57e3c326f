//! The pipeline: a plan is carried out.
//!
//! ```text
//! lock -> recover -> (scan | connect, image, workspace) -> put right -> run -> collect -> (apply | goodbye) -> report
//! ```
//!
//! [`run`] is the one entry point; it takes the locks, makes good what an earlier run was kept from finishing,
//! and hands over to `container`, or to `warm::here` where there is no container. Either runs the command under the agent
//! (`warm`). What may be cut off by a signal is; what must not be (putting products in place) is not.
//! Events tell all along; nothing here prints.

mod built;
mod command;
mod container;
mod ending;
mod error;
mod heal;
pub mod history;
mod image;
mod interrupt;
mod leftovers;
mod locks;
mod meanwhile;
mod mounted;
pub mod notice;
mod places;
mod plain;
pub mod reaper;
mod recover;
mod run;
mod site;
pub mod sources;
mod suspend;
mod tasks;
pub mod trust;
mod upload;
mod warm;

pub use built::Finished;
pub use ending::Exit;
pub use error::BuildError;
pub use interrupt::{Interrupted, Interrupts, Signal};
pub use run::{run, run_alone};
pub use suspend::Suspension;
pub use warm::shell;
