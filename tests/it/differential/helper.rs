//! The command of the differential test's builds, one static program: tells what it sees, edits as it is told, tells what it
//! left.
//!
//! It reads edits from standard input, a line each. At `pause` it says `paused`, and goes on when there is more to read. The
//! last line says how it ends: `exit CODE`, `kill` (by a SIGKILL of itself) or `hang`. On standard output come the listing
//! before, a line `--`, the listing after, and a line `--`.

mod ops;

use std::{
    io::{Write as _, stdin, stdout},
    path::Path,
    process::exit,
};

unsafe extern "C" {
    fn kill(process: i32, signal: i32) -> i32;
}

fn main() {
    let say = |text: &str| stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush()).unwrap();
    let tell = || say(&(ops::Listing::of(Path::new(".")).unwrap().to_text() + "--\n"));
    tell();
    for line in stdin().lines() {
        let line = line.unwrap();
        if let Some(op) = ops::Op::parse(&line) {
            op.apply(Path::new("."));
        } else if line == "pause" {
            say("paused\n");
        } else {
            tell();
            match line.as_str() {
                "hang" => loop {
                    std::thread::park();
                },
                "kill" => drop(unsafe { kill(std::process::id() as i32, 9) }),
                line => exit(line.strip_prefix("exit ").unwrap().parse().unwrap()),
            }
        }
    }
    panic!("the edits have no end")
}
