//! `cargo xtask demo`: the example site built by fastbuild, on a machine that has nothing of it yet.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::{
    engine, images,
    run::{self, Timings, cargo, note, root, say, target_dir},
};

/// Engine and image while cargo builds the program, then the build itself; ends with where to look.
pub async fn run() -> Result<()> {
    let mut timings = Timings::default();
    say("fastbuild itself (a minute or two the first time); meanwhile an engine, and an image with Jekyll");
    let program = tokio::task::spawn_blocking(|| build(Profile::Demo));
    let engine = timings.part("engine", engine::ensure()).await?;
    timings.part("image", images::ensure(&engine, &images::DEMO_JEKYLL)).await?;
    let program = timings.part("cargo build, the rest", async { program.await? }).await?;
    let site = root().join("examples/jekyll-site");
    let index = site.join("_site/index.html");
    timings
        .part("fastbuild", async {
            say(format_args!("fastbuild -- jekyll build, in {site:?}"));
            let mut fastbuild = std::process::Command::new(&program);
            fastbuild.args(["--", "jekyll", "build"]).current_dir(&site);
            run::run(engine.point(&mut fastbuild))?;
            ensure!(index.is_file(), "fastbuild ended well and brought no {index:?} back");
            Ok(())
        })
        .await?;
    say("done");
    timings.print();
    note("");
    note(format_args!("look at {index:?}"));
    note("by hand: cd examples/jekyll-site && fastbuild -- jekyll build");
    Ok(())
}

/// How the program is built.
#[derive(Debug, Clone, Copy)]
pub enum Profile {
    /// Optimised, and soon ready.
    Demo,
    /// As users get it.
    Release,
}

/// Builds the program and gives its path.
///
/// # Errors
/// Cargo's.
pub fn build(profile: Profile) -> Result<PathBuf> {
    let profile = match profile {
        Profile::Demo => "demo",
        Profile::Release => "release",
    };
    run::run(cargo().args(["build", "--profile", profile, "--package", "fastbuild", "--bin", "fastbuild"]))?;
    Ok(target_dir().join(profile).join(format!("fastbuild{}", std::env::consts::EXE_SUFFIX)))
}
