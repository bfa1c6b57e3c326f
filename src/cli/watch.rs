//! `fastbuild watch`: settings and plan of each build, and [`watch::run`].

use super::{
    Failure, RunArgs,
    run::{self, execute},
};
use crate::{
    config::{Environment, Settings},
    plan::Plan,
    report::Reporter,
    state::State,
    watch,
};

/// Builds at each change; gives what to exit with.
///
/// # Errors
/// Before there is a reporter: what keeps fastbuild from knowing what to do.
pub fn run(args: &RunArgs) -> Result<u8, Failure> {
    let environment = Environment::of_process().map_err(Failure::CurrentDirectory)?;
    let (settings, plan) = plan(args, &environment)?;
    let mut again = || Ok(self::plan(args, &environment)?.1);
    let work = async |state: &State, reporter: &Reporter| watch::run(plan, &mut again, state, reporter).await;
    execute(&settings.presentation, &environment, work)
}

fn plan(args: &RunArgs, environment: &Environment) -> Result<(Settings, Plan), Failure> {
    let (settings, plan) = run::decide(args, environment)?;
    Ok((settings, plan.watched()?))
}
