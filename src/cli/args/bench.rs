//! What `fastbuild bench` takes.

use std::path::PathBuf;

use clap::Args;

use super::RunArgs;
use crate::{
    bench::Extent,
    config::{RouteChoice, choices::choose},
    plan::Route,
};

/// What `fastbuild bench` takes.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Measure less: 128 MiB in place of 1 GiB, and as many rounds as there is time for in a minute
    #[arg(long, help_heading = "Bench")]
    quick: bool,
    /// How often each place and each route is measured, after the first run [default: 3, and 5 for the command]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Bench")]
    pub rounds: Option<u32>,
    /// Which routes the command runs on, such as layer,mount [default: all that can be taken here]
    #[arg(long, value_name = "ROUTES", value_delimiter = ',', value_parser = route, help_heading = "Bench")]
    pub routes: Vec<Route>,
    /// Measure the command alone
    #[arg(long, help_heading = "Bench")]
    no_disk: bool,
    /// Have later builds take the best route: write it into fastbuild.toml
    #[arg(long, help_heading = "Bench")]
    pub save: bool,
    /// Write a page with the result: one file, without anything from elsewhere
    #[arg(long, value_name = "FILE", help_heading = "Bench")]
    pub html: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long, help_heading = "Bench")]
    json: bool,
    /// The build that is measured.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Which parts are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// The disk, and the command if there is one.
    All,
    /// The command.
    Command,
}

/// What `fastbuild bench` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BenchFormat {
    /// Tables and the advice.
    Tables,
    /// One JSON object.
    Json,
}

impl BenchArgs {
    /// `--quick` or not.
    pub fn extent(&self) -> Extent {
        if self.quick { Extent::Quick } else { Extent::Full }
    }

    /// `--no-disk` or not.
    pub fn parts(&self) -> Parts {
        if self.no_disk { Parts::Command } else { Parts::All }
    }

    /// `--json` or not.
    pub fn format(&self) -> BenchFormat {
        if self.json { BenchFormat::Json } else { BenchFormat::Tables }
    }
}

/// A route by its name; `auto` is none that could be measured.
fn route(name: &str) -> Result<Route, String> {
    match choose::<RouteChoice>(name) {
        Ok(RouteChoice::Fixed(route)) => Ok(route),
        Ok(RouteChoice::Auto) => Err("auto is a choice among routes, and none of them".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
