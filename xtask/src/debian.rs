//! What xtask installs by itself, and only as root on Debian or its relatives; elsewhere it says what is missing.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{self, found, note, say};

/// What `/etc/os-release` says of a Debian-like host.
pub struct Release {
    /// `debian`, `ubuntu`, …
    pub id: String,
    /// The suite that apt and mmdebstrap know: `bookworm`.
    pub codename: String,
}

/// The host's release, when it installs by apt.
pub fn release() -> Option<Release> {
    let text = fs_err::read_to_string("/etc/os-release").ok()?;
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|v| v.trim_matches('"').to_owned())
    };
    let release = Release { id: value("ID")?, codename: value("VERSION_CODENAME")? };
    found("apt-get").then_some(release)
}

/// Whether this process may install packages and start an engine.
pub fn is_root() -> bool {
    #[cfg(unix)]
    return rustix::process::geteuid().is_root();
    #[cfg(not(unix))]
    return false;
}

/// The host's release, when xtask may install packages here.
pub fn installable() -> Option<Release> {
    if is_root() { release() } else { None }
}

/// Makes sure that `program` is in `PATH`, from Debian's `package`.
///
/// # Errors
/// Names the package when it is missing and xtask may not install it, else what apt said.
pub fn ensure_program(program: &str, package: &str) -> Result<()> {
    ensure_any(&[program], package)
}

/// Makes sure that one of `programs` is there, from Debian's `package`. One that is an absolute path need not be in `PATH`:
/// distributions keep what only other programs start in places of their own.
///
/// # Errors
/// As [`ensure_program`].
pub fn ensure_any(programs: &[&str], package: &str) -> Result<()> {
    let any_found = || programs.iter().any(|program| found(program));
    if any_found() {
        return Ok(());
    }
    let wanted = programs.join("`, `");
    if installable().is_none() {
        bail!(
            "`{wanted}` is not installed. Install it (Debian's package: {package}), or run this as root there"
        );
    }
    install(&[package])?;
    if !any_found() {
        bail!("apt-get installed {package}, and yet there is no `{wanted}`");
    }
    Ok(())
}

/// Installs packages.
///
/// # Errors
/// What apt said last.
pub fn install(packages: &[&str]) -> Result<()> {
    say(format_args!("installing {} by apt-get", packages.join(", ")));
    refresh_lists()?;
    run::capture(apt_get().args(["install", "-y", "-q", "--no-install-recommends"]).args(packages))
        .with_context(|| format!("could not install {}", packages.join(", ")))?;
    Ok(())
}

/// Brings apt's package lists up to date.
///
/// # Errors
/// What apt said last.
pub fn refresh_lists() -> Result<()> {
    note("apt-get update");
    run::capture(apt_get().args(["update", "-q"])).context("could not fetch the package lists")?;
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
