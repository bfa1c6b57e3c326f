//! `cargo xtask demo`: the example site built by fastbuild, on a machine that has nothing of it yet.

use anyhow::{Result, ensure};

use crate::{
    engine, images,
    run::{self, Timings, cargo, note, root, say, target_dir},
};

/// Engine, image, program, the build itself; ends with where to look.
pub async fn run() -> Result<()> {
    let mut timings = Timings::default();
    let engine = timings.part("engine", engine::ensure()).await?;
    timings
        .part("image", async {
            say("image");
            images::ensure(&engine, &images::DEMO_JEKYLL).await
        })
        .await?;
    timings
        .part("cargo build", async {
            say("fastbuild itself, optimised (a few minutes the first time)");
            build_fastbuild()
        })
        .await?;
    let site = root().join("examples/jekyll-site");
    let index = site.join("_site/index.html");
    timings
        .part("fastbuild", async {
            say(format_args!("fastbuild -- jekyll build, in {site:?}"));
            let mut fastbuild = std::process::Command::new(fastbuild());
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

/// The optimised program.
pub fn fastbuild() -> std::path::PathBuf {
    target_dir().join("release").join(format!("fastbuild{}", std::env::consts::EXE_SUFFIX))
}

/// Builds it.
pub fn build_fastbuild() -> Result<()> {
    run::run(cargo().args(["build", "--release", "--package", "fastbuild", "--bin", "fastbuild"]))
}
