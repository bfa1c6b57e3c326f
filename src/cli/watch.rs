//! `fastbuild watch`: settings and plan of each build, and [`watch::run`].

use super::{
    Failure,
    run::{self, execute},
};
use crate::{
    args::RunArgs,
    build::{Exit, notice},
    environment::Environment,
    report::Reporter,
    state::State,
    watch,
};

/// Builds at each change; returns how to end.
///
/// # Errors
/// Any failure before there is a reporter.
pub fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let environment = Environment::of_process().map_err(Failure::CurrentDirectory)?;
    let (settings, plan) = run::decide(args, &environment)?;
    let plan = plan.watched()?;
    let first = plan.engine.value.clone();
    let mut again = || Ok(run::decide(args, &environment)?.1.watched_on(&first)?);
    let work = async |state: &State, reporter: &Reporter| {
        notice::of_place(&plan, reporter);
        watch::run(plan, &mut again, state, reporter).await
    };
    execute(&settings.presentation, &environment, work)
}
