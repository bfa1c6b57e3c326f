//! The promises of a build, kept in a workspace: the very tests of the cold tier once more. What these files hold is true of
//! both tiers; what is only true of one of them has a file of its own.

#![allow(clippy::duplicate_mod, reason = "each of these files is a program of its own as well")]

#[path = "exit_code.rs"]
mod exit_code;
#[path = "sources.rs"]
mod sources;
#[path = "streams.rs"]
mod streams;
#[path = "terminal.rs"]
mod terminal;
