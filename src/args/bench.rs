//! The arguments of `fastbuild bench`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::{
    args::{Extent, PlanFormat, RunArgs, either},
    spec::{Route, RouteChoice, choices::choose},
};

/// What `fastbuild bench` takes.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Measure less, for about a minute
    ///
    /// 128 MiB in place of 1 GiB, and as many rounds as there is time for.
    #[arg(long = "quick", action = ArgAction::SetTrue, value_parser = either(Extent::Quick, Extent::Full), help_heading = "Bench")]
    pub extent: Extent,
    /// How often each place and each route is measured
    ///
    /// The first run is not counted. [default: 3, and 5 for the command]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Bench")]
    pub rounds: Option<u32>,
    /// Which routes the command runs on, as layer,mount
    ///
    /// [default: all that can be taken here]
    #[arg(long, value_name = "ROUTES", value_delimiter = ',', value_parser = route, help_heading = "Bench")]
    pub routes: Vec<Route>,
    /// Measure the command alone
    #[arg(long = "no-disk", action = ArgAction::SetTrue, value_parser = either(Parts::Command, Parts::All), help_heading = "Bench")]
    pub parts: Parts,
    /// Write the best route into fastbuild.toml
    ///
    /// Later builds take it.
    #[arg(long, help_heading = "Bench")]
    pub save: bool,
    /// Write a page with the result
    ///
    /// It is one file, and needs nothing from elsewhere.
    #[arg(long, value_name = "FILE", help_heading = "Bench")]
    pub html: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long = "json", action = ArgAction::SetTrue, value_parser = either(PlanFormat::Json, PlanFormat::Text), help_heading = "Bench")]
    pub format: PlanFormat,
    /// The build that is measured.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The parts that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// The disk, and the command if one is given.
    All,
    /// Only the command.
    Command,
}

/// A route by its name; `auto` cannot be measured.
fn route(name: &str) -> Result<Route, String> {
    match choose::<RouteChoice>(name) {
        Ok(RouteChoice::Fixed(route)) => Ok(route),
        Ok(RouteChoice::Auto) => Err("auto chooses among the routes; it is not one".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
