//! `cargo xtask model`: the property tests with many cases, and then the model test (`tests/model.rs`) for as long as is asked
//! for; each time from other seeds.

use anyhow::Result;
use clap::Args;

use crate::{
    engine, images,
    run::{self, cargo, say},
    test::PROPERTY_SEED,
};

/// What `model` takes.
#[derive(Debug, Args)]
pub struct Options {
    /// How long each of its tests goes on; they run side by side
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
}

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
    say(format_args!("{} minutes of random edits and builds", options.minutes));
    let mut model = cargo();
    model.args(["test", "--test", "model", "--", "--test-threads", "8"]);
    model.env("FASTBUILD_MODEL_MINUTES", options.minutes.to_string()).env_remove("FASTBUILD_MODEL_SEED");
    run::run(engine.point(&mut model))
}
