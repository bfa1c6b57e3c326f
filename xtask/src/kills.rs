//! `cargo xtask kills`: builds that are killed at random (`tests/kills.rs`), as many rounds as are asked for.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;

use crate::{
    engine, images,
    run::{self, cargo, say},
};

/// What `kills` takes.
#[derive(Debug, Args)]
pub struct Options {
    /// How many times one or two builds are killed, and another one has to be right
    #[arg(long, default_value_t = 300)]
    rounds: u64,
    /// The sequence to go through; another one each time unless it is given
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs it; a failure names the seed and the round.
pub async fn run(options: Options) -> Result<()> {
    let engine = engine::ensure().await?;
    images::ensure_all(&engine).await?;
    let drawn = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = options.seed.unwrap_or_else(drawn).to_string();
    let rounds = options.rounds.to_string();
    say(format_args!("{rounds} rounds of builds that are killed; seed {seed}"));
    let mut kills = cargo();
    kills.args(["test", "--test", "kills", "--", "--nocapture"]);
    kills.env("FASTBUILD_KILLS_ROUNDS", rounds).env("FASTBUILD_KILLS_SEED", seed);
    run::run(engine.point(&mut kills))
}
