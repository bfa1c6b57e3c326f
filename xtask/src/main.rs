//! `cargo xtask`: what a developer, CI and a new user run. Each command ensures what it needs, prints what it does and
//! fails with a reason; each may be run again at once.
//!
//! | command | module |
//! |---|---|
//! | `engine`: a container engine that answers | [`engine`] |
//! | `images`: the images of the demo, the examples and the tests | [`images`], [`debian`], [`busybox`] |
//! | `demo`: the first of the README's two commands | [`demo`] |
//! | `test`: the second; CI runs exactly this | [`mod@test`] |
//! | `differential`: random steps with fastbuild and on a bind mount, as many as are asked for | [`differential`] |
//! | `kills`: builds that are killed at random, as often as is asked for | [`kills`] |
//! | `hosts`: the types of the client for Windows and macOS | [`hosts`] |
//! | `layers`: which folder imports from which | [`layers`] |
//! | `lab`: the seed's experiments, on slow mounts | [`mod@lab`], [`testutils::mounts`] |
//! | `bench`: fastbuild beside what people use instead | [`mod@bench`], [`site`], [`memory`] |
//! | `picture`: the page of `fastbuild bench` for the docs | [`picture`] |
//!
//! Everything that is made lies in the engine under `fastbuild/…` and below `target/xtask/`.

#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used)]

mod bench;
mod busybox;
mod debian;
mod demo;
mod differential;
mod engine;
mod hosts;
mod images;
mod kills;
mod lab;
mod layers;
mod memory;
#[cfg(unix)]
mod picture;
mod run;
mod site;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Engine, images, demo, tests and benchmarks of fastbuild"
)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Make sure that a container engine answers
    Engine,
    /// Make sure that the images of the demo, the examples and the tests are there
    Images,
    /// Build the example Jekyll site with fastbuild, with whatever that needs
    Demo,
    /// Engine, images, formatting, lints, docs and all tests
    Test,
    /// Do random steps with fastbuild and on a bind mount, and hold one against the other
    Differential(differential::Options),
    /// Kill builds at random moments, and hold that nothing is left and the next build is right
    Kills(kills::Options),
    /// Measure fastbuild beside what people use instead
    Bench(bench::Options),
    /// Hold that folders import each other in one direction, as the table in the documentation has it
    Layers,
    /// Check the types of the client for Windows and macOS
    Hosts,
    /// Set up the slow mounts that people have, and measure builds on them
    Lab(lab::Options),
    /// Draw the page of a report of `fastbuild bench --json`, by day and by night, for the docs
    #[cfg(unix)]
    Picture(picture::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Engine => engine::ensure().await.map(drop),
        Task::Images => images::run().await,
        Task::Demo => demo::run().await,
        Task::Test => test::run().await,
        Task::Differential(options) => differential::run(options).await,
        Task::Kills(options) => kills::run(options).await,
        Task::Bench(options) => bench::run(options).await,
        Task::Layers => layers::run(),
        Task::Hosts => hosts::run(),
        Task::Lab(options) => lab::run(options).await,
        #[cfg(unix)]
        Task::Picture(options) => picture::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
