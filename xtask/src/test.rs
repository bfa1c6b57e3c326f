//! `cargo xtask test`: everything that has to hold before a change lands. CI runs exactly this.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use testutils::mounts;

use crate::{
    debian, engine, hosts, images, layers,
    run::{self, Timings, cargo, say},
};

/// Programs that the integration tests start, beside those of [`mounts`], and their Debian packages.
const PROGRAMS: [(&str, &str); 7] = [
    ("busybox", "busybox-static"),
    ("chromium", "chromium"),
    ("docker", "docker.io"),
    ("docker-registry", "docker-registry"),
    ("make", "make"),
    ("podman", "podman"),
    ("script", "bsdutils"),
];

/// What proptest draws its cases from.
pub const PROPERTY_SEED: &str = "PROPTEST_RNG_SEED";

/// Each step in turn; the first that fails ends it.
pub async fn run() -> Result<()> {
    let mut timings = Timings::default();
    let engine = timings.part("engine", engine::ensure()).await?;
    timings.part("images", images::ensure_all(&engine)).await?;
    timings
        .part("programs", async {
            let mut programs = PROGRAMS.iter().chain(&mounts::PROGRAMS);
            programs.try_for_each(|(program, package)| debian::ensure_program(program, package))?;
            debian::ensure_any(&mounts::SFTP_SERVERS, "openssh-sftp-server")
        })
        .await?;
    timings.part("format", async { step("format", cargo().args(["fmt", "--all", "--check"])) }).await?;
    timings.part("layers", async { layers::run() }).await?;
    timings
        .part("lints", async {
            let mut clippy = cargo();
            clippy.args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]);
            step("lints", &mut clippy)
        })
        .await?;
    timings
        .part("docs", async {
            let mut doc = cargo();
            doc.args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings");
            step("docs", &mut doc)
        })
        .await?;
    timings.part("other hosts", async { hosts::run() }).await?;
    // The doc tests run first, so that the result of the tests stands at the end of the output.
    timings
        .part("doc tests", async {
            let mut doc_tests = cargo();
            doc_tests.args(["test", "--workspace", "--doc", "--quiet"]);
            step("doc tests", engine.point(&mut doc_tests))
        })
        .await?;
    timings.part("tests", async { step("tests", engine.point(&mut tests())) }).await?;
    say("everything holds");
    timings.print();
    Ok(())
}

fn step(name: &str, command: &mut Command) -> Result<()> {
    say(name);
    if let Some(component) = missing_component(name) {
        bail!("cargo has no {component} here: `rustup component add {component}`");
    }
    run::run(command)
}

fn missing_component(step: &str) -> Option<&'static str> {
    let (subcommand, component) = match step {
        "format" => ("fmt", "rustfmt"),
        "lints" => ("clippy", "clippy"),
        _ => return None,
    };
    (!answers(subcommand)).then_some(component)
}

fn tests() -> Command {
    let mut command = cargo();
    if answers("nextest") {
        command.args(["nextest", "run", "--workspace"]);
        if std::env::var_os("CI").is_some() {
            command.args(["--profile", "ci"]);
        }
    } else {
        command.args(["test", "--workspace", "--all-targets"]);
    }
    // The same cases each time: whether a change lands must not depend on luck. `cargo xtask differential` draws others.
    if std::env::var_os(PROPERTY_SEED).is_none() {
        command.env(PROPERTY_SEED, "4");
    }
    command
}

fn answers(subcommand: &str) -> bool {
    let asked = cargo().args([subcommand, "--version"]).stdin(Stdio::null()).output();
    asked.is_ok_and(|output| output.status.success())
}
