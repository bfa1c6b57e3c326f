//! fastbuild: parse, call, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    fastbuild::cli::main(std::env::args_os())
}
