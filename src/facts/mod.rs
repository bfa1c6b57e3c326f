//! This machine and its file systems -> values. Looked up, never judged: what a fact means for a build is for
//! [`crate::plan`] and `doctor` to say.
//!
//! | piece | what it tells |
//! |---|---|
//! | [`file_system()`] | what a path lies on, without asking that file system |
//! | [`Machine`] | operating system, WSL, virtualization, CI, and an id that tells nothing |
//! | [`FileSharing`] | how Docker Desktop's virtual machine sees this machine's files |
//! | [`space()`] | how much room there is |
//! | [`responds()`] | whether a path answers at all |
//! | [`tracked()`], [`elsewhere()`] | which files git tracks, and what of a repository lies outside of the tree |
//! | [`folds_case()`] | whether a directory takes `A` for `a` |
//!
//! Each has a pure half that takes text, so that what other machines say are rows of a table here. Nothing is written
//! to find something out. A file system that hangs holds up only what has to ask it: [`space()`] and [`folds_case()`],
//! which are for those who have [`responds()`] behind them.

mod case;
mod ci;
mod desktop;
mod file_system;
mod git;
mod machine;
mod mounts;
pub mod patience;
mod virtualization;

pub use crate::sys::host::{Space, space};
pub use case::{Case, folds_case};
pub use ci::Ci;
pub use desktop::FileSharing;
pub use file_system::{Class, FileSystem, file_system, file_system_in};
pub use git::{Elsewhere, elsewhere, tracked};
pub use machine::{Machine, Wsl};
pub use patience::{NoAnswer, responds};
pub use virtualization::{Hypervisor, Virtualization};
