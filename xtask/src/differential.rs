//! `cargo xtask differential`: the property tests with many cases, and then the differential test (`tests/it/differential.rs`) for as many
//! steps as are asked for; each time from other seeds.

use anyhow::Result;
use clap::Args;

use crate::{
    engine, images,
    run::{self, cargo, say},
    test::PROPERTY_SEED,
};

/// What `differential` takes.
#[derive(Debug, Args)]
pub struct Options {
    /// Steps of all its tests together
    #[arg(long, default_value_t = 10_000)]
    steps: usize,
}

/// Its tests that are about fastbuild, and have as many steps each.
const SUBJECTS: usize = 6;

/// Cases of each property test, whatever it asks for by itself.
const CASES: &str = "2000";

/// Runs it; a failure names the seed that shows it again.
pub async fn run(options: Options) -> Result<()> {
    let engine = engine::ensure().await?;
    images::ensure_all(&engine).await?;
    say("the property tests");
    let mut properties = cargo();
    properties.args(["test", "--release", "--lib"]).env("PROPTEST_CASES", CASES).env_remove(PROPERTY_SEED);
    run::run(engine.point(&mut properties))?;
    say(format_args!("{} random steps", options.steps));
    let mut differential = cargo();
    differential.args([
        "test",
        "--test",
        "it",
        "--",
        "differential::",
        "--skip",
        "second_bind_mount",
        "--test-threads",
        "4",
    ]);
    differential.env("FASTBUILD_DIFFERENTIAL_STEPS", options.steps.div_ceil(SUBJECTS).to_string());
    differential.env_remove("FASTBUILD_DIFFERENTIAL_SEED");
    run::run(engine.point(&mut differential))
}
