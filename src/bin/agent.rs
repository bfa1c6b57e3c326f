//! The agent alone: what runs inside a workspace. Everything is in [`fastbuild::agent::far`].

use std::process::ExitCode;

fn main() -> ExitCode {
    fastbuild::agent::far::main(std::env::args_os())
}
