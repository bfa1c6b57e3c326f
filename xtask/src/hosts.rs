//! `cargo xtask hosts`: the client is type-checked for the other host systems, so that nothing is written for Linux alone.
//!
//! Where rustup has a target's standard library, that is all it takes. Elsewhere, as root on Debian, a directory with the
//! Rust of a later release checks the standard library from its source first. Directory and results lie in the user's cache,
//! since they depend on nothing of a checkout.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    debian,
    run::{self, cargo, note, say},
};

/// The client's other hosts.
const TARGETS: [&str; 2] = ["x86_64-pc-windows-gnu", "aarch64-apple-darwin"];

/// The first Debian whose Rust is as new as the crate's `rust-version`.
const SUITE: &str = "forky";

/// What a check needs there; dlltool makes the import libraries of Windows.
const PACKAGES: [&str; 6] =
    ["binutils-mingw-w64-x86-64", "ca-certificates", "cargo", "gcc", "libc6-dev", "rust-src"];

/// Checks the client for each of [`TARGETS`].
///
/// # Errors
/// What does not compile or is warned of, and what is missing for the check.
pub fn run() -> Result<()> {
    for target in TARGETS {
        say(format_args!("the client on {target}"));
        if has_library(target)? {
            run::run(check(&mut cargo(), target))?;
        } else {
            run::run(check(&mut elsewhere()?, target).arg("-Zbuild-std=std,panic_unwind"))?;
        }
    }
    Ok(())
}

fn check<'a>(command: &'a mut Command, target: &str) -> &'a mut Command {
    // The agent is a Linux program, and none is needed for a look at types.
    command.env("FASTBUILD_AGENT", "none").env("RUSTFLAGS", "-Dwarnings");
    command.args(["check", "--quiet", "--locked", "--bin", "fastbuild", "--target", target])
}

/// Whether the toolchain here has the target's standard library.
fn has_library(target: &str) -> Result<bool> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = run::capture(Command::new(rustc).args(["--print", "sysroot"]))?.stdout;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot).trim());
    Ok(sysroot.join("lib/rustlib").join(target).is_dir())
}

/// `cargo` in the directory of the later Debian.
fn elsewhere() -> Result<Command> {
    let home = PathBuf::from(env::var_os("HOME").context("HOME is not set")?);
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
    let root = cache.join("fastbuild-xtask").join(SUITE);
    ensure_debian(&root)?;
    let registry =
        env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from).join("registry");
    let mut command = Command::new("unshare");
    let script = run::root().join("xtask/src/hosts.sh");
    command.args(["--mount", "sh"]).args([script, root, run::root(), registry]);
    Ok(command)
}

fn ensure_debian(root: &Path) -> Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    if debian::installable().is_none() {
        bail!(
            "there is no standard library of {} here: `rustup target add {}`, or run this as root on Debian",
            TARGETS.join(" or "),
            TARGETS.join(" ")
        );
    }
    debian::ensure_program("mmdebstrap", "mmdebstrap")?;
    note(format_args!("Debian {SUITE} with its Rust, at {root:?}; once, some two minutes"));
    fs_err::create_dir_all(root.parent().unwrap_or(root))?;
    let begun = root.with_extension(format!("{}.tmp", std::process::id()));
    let mut bootstrap = Command::new("mmdebstrap");
    bootstrap.args(["--quiet", "--variant=minbase", "--aptopt=Acquire::Check-Valid-Until \"false\""]);
    bootstrap.arg(format!("--include={}", PACKAGES.join(","))).arg(SUITE).arg(&begun);
    run::capture(&mut bootstrap)?;
    Ok(fs_err::rename(&begun, root)?)
}
