//! `fastbuild bench --json` on standard input -> its page on standard output: the page of a report that was kept.
//!
//!     cargo run --example bench_page <report.json >report.html

use std::io;

use fastbuild::bench::{Report, html};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let report: Report = serde_json::from_reader(io::stdin().lock())?;
    io::Write::write_all(&mut io::stdout().lock(), html::render(&report).as_bytes())?;
    Ok(())
}
