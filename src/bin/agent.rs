//! The agent alone: what runs inside a workspace. Everything is in [`fastbuild::agent::server`].

use std::process::ExitCode;

fn main() -> ExitCode {
    fastbuild::agent::server::main(std::env::args_os())
}
