//! The command line: what users type -> [`args::Cli`], and what they read of a plan. Thin: nothing is decided here.

pub mod args;
pub mod plan;

pub use args::{Cli, Command, PlanArgs, PlanFormat, RunArgs, UsageError};
