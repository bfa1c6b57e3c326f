//! Facts about this machine and its file systems. This module only looks them up; [`crate::plan`]
//! and `doctor` decide what a fact means for a build.
//!
//! | piece | what it tells |
//! |---|---|
//! | [`file_system()`] | the file system of a path, without calling that file system |
//! | [`Machine`] | operating system, WSL, virtualization, CI, and an anonymous id |
//! | [`FileSharing`] | how Docker Desktop shares files with its virtual machine |
//! | [`space()`] | how much space there is |
//! | [`responds()`] | whether a path answers at all |
//! | [`tracked()`], [`elsewhere()`] | files that git tracks; repository parts outside of the tree |
//! | [`folds_case()`] | whether a directory treats `A` and `a` as one name |
//!
//! The parsers are separate functions on text, so that table tests cover the output of other
//! machines. Looking up a fact never writes. A file system that hangs blocks only [`space()`] and
//! [`folds_case()`]: call [`responds()`] before them.

mod case;
mod ci;
mod desktop;
mod file_system;
mod git;
mod machine;
mod mounts;
pub mod probe;
mod virtualization;

pub use crate::sys::host::{Space, space};
pub use case::{Case, folds_case};
pub use ci::Ci;
pub use desktop::FileSharing;
pub use file_system::{Class, FileSystem, file_system, file_system_in};
pub use git::{Elsewhere, elsewhere, tracked};
pub use machine::{Machine, Wsl};
pub use probe::{NoAnswer, responds};
pub use virtualization::{Hypervisor, Virtualization};
