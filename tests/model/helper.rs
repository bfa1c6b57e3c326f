//! The command of the model's builds, one static program: writes what it sees, edits as it is told, writes what it left.
//!
//! `helper` reads edits from standard input, a line each, up to a line `end CODE`, and exits with that code. On standard
//! output come the listing before, a line `--`, and the listing after. `helper hang` says nothing more after the edits and
//! waits to be killed, after a line `ready`.

mod ops;

use std::{
    io::{Write as _, stdin, stdout},
    path::Path,
    process::exit,
};

fn main() {
    let root = std::env::args_os().nth(1).unwrap_or_else(|| ".".into());
    let root = Path::new(&root);
    let listing = || match ops::Listing::of(root) {
        Ok(listing) => listing.to_text(),
        Err(error) => fail(&format!("could not list: {error}")),
    };
    print!("{}--\n", listing());
    let mut code = None;
    for line in stdin().lines() {
        let line = line.unwrap_or_else(|error| fail(&format!("could not read edits: {error}")));
        if let Some(last) = line.strip_prefix("end ") {
            code = last.parse().ok();
            break;
        }
        if line == "hang" {
            println!("ready");
            loop {
                std::thread::park();
            }
        }
        match ops::Op::parse(&line) {
            Some(op) => op.apply(root),
            None => fail(&format!("no edit: {line}")),
        }
    }
    print!("{}", listing());
    let _ = stdout().flush();
    exit(code.unwrap_or_else(|| fail("the edits have no end")))
}

fn fail(why: &str) -> ! {
    eprintln!("helper: {why}");
    exit(99)
}
