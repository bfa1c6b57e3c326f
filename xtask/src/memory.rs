//! fastbuild's peak memory, with one large file and with very many small ones, there and back again.
//!
//! Measured by GNU `time`: the kernel keeps the peak of a process that has ended (`ru_maxrss`), and a small parent
//! matters, for a child's peak begins with what its parent held when it was forked.

use std::{fmt::Write as _, path::Path, process::Command, time::Instant};

use anyhow::{Context, Result, ensure};

use crate::{
    debian,
    engine::Engine,
    run::{self, note, say, scratch_dir},
    site,
};

const LARGE: u64 = 3_000_000_000;
const MANY: u32 = 100_000;

enum Tree {
    Large,
    Many,
}

impl Tree {
    fn make(&self, dir: &Path) -> Result<()> {
        match self {
            Tree::Large => site::large_file(&dir.join("large"), LARGE),
            Tree::Many => site::many_files(&dir.join("many"), MANY),
        }
    }

    /// Whether as much came back as went up.
    fn check(&self, dir: &Path) -> Result<()> {
        let (expected, found) = match self {
            Tree::Large => (LARGE, fs_err::metadata(dir.join("large"))?.len()),
            Tree::Many => (u64::from(MANY), fs_err::read_dir(dir.join("many"))?.count() as u64),
        };
        ensure!(found == expected, "{found} in place of {expected}");
        Ok(())
    }
}

/// Runs both and gives the section of the page.
pub fn measure(engine: &Engine, program: &Path, image: &str) -> Result<String> {
    say("peak memory");
    debian::ensure_program("time", "time")?;
    let mut page =
        "\n## Peak memory of fastbuild\n\nThe files go up, are copied there, and the copy comes back.\n\n\
                    | what | peak, MB | seconds |\n|---|---|---|\n"
            .to_owned();
    for (what, tree) in [("one file of 3 GB", Tree::Large), ("100,000 files in one directory", Tree::Many)] {
        let dir = tempfile::Builder::new().prefix("memory-").tempdir_in(scratch_dir()?)?;
        note(format_args!("making {what}"));
        fs_err::create_dir(dir.path().join("source"))?;
        tree.make(&dir.path().join("source"))?;
        let begun = Instant::now();
        let peak = peak(engine, program, image, dir.path()).with_context(|| what.to_owned())?;
        let seconds = begun.elapsed().as_secs_f64();
        tree.check(&dir.path().join("source/out"))
            .context("fastbuild ended well, and yet what came back is wrong")?;
        note(format_args!("{what}: {peak:.1} MB, {seconds:.1} s"));
        writeln!(page, "| {what} | {peak:.1} | {seconds:.1} |").unwrap_or_default();
    }
    Ok(page)
}

/// Megabytes.
fn peak(engine: &Engine, program: &Path, image: &str, dir: &Path) -> Result<f64> {
    let report = dir.join("peak");
    let mut command = Command::new("time");
    command.args(["--quiet", "--format=%M"]).arg("--output").arg(&report).arg(program);
    command.arg("--source").arg(dir.join("source")).args([
        "--image",
        image,
        "--quiet",
        "--no-keep",
        "--output",
        "out",
    ]);
    command.args(["--", "sh", "-c", "mkdir ../copy && cp -r . ../copy/ && mv ../copy out"]);
    command.env("FASTBUILD_STATE_DIR", dir.join("state"));
    run::capture(engine.point(&mut command))?;
    let text = fs_err::read_to_string(&report)?;
    let kib: f64 = text.trim().parse().with_context(|| format!("time reported {text:?}"))?;
    Ok(kib * 1024.0 / 1e6)
}
