//! fastbuild: parses the command line, calls the command, returns the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    fastbuild::cli::main(std::env::args_os())
}
