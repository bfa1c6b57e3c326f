//! The pipeline: carries out a plan.
//!
//! ```text
//! lock -> recover -> (scan | connect, image, workspace) -> put right -> run -> collect -> (apply | goodbye) -> report
//! ```
//!
//! [`run`] is the one entry point; it takes the locks, finishes what an earlier run could not, and
//! hands over to `container`, or to `warm::host_engine` where there is no container. Either runs the
//! command under the agent (`warm`). A signal interrupts all steps but putting products in place.
//! Events report every step; no code here prints.

mod blind_times;
mod built;
mod command;
mod container;
mod error;
pub mod history;
mod image;
mod interrupt;
pub mod last;
mod leftovers;
mod locks;
mod mount_fault;
mod mounted;
pub mod notice;
mod places;
mod plain;
pub mod reaper;
mod recover;
mod run;
mod shutdown;
mod site;
pub mod sources;
pub mod status;
mod suspend;
mod tasks;
pub mod trust;
mod upload;
mod warm;

pub use built::Finished;
pub use error::BuildError;
pub use interrupt::{Interrupted, Interrupts, Signal};
pub use run::{run, run_alone};
pub use shutdown::Exit;
pub use suspend::Suspension;
pub use warm::shell;
