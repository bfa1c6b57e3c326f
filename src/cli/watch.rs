//! `fastbuild watch`: settings and plan of each build, and [`watch::run`].

use super::{
    Failure,
    run::{self, execute},
};
use crate::{
    args::WatchArgs,
    build::{Exit, notice},
    environment::Environment,
    report::{Reporter, Surroundings},
    state::State,
    watch::{self, Screen},
};

/// Builds at each change; returns how to end.
///
/// # Errors
/// Any failure before there is a reporter.
pub fn run(args: &WatchArgs) -> Result<Exit, Failure> {
    let environment = Environment::of_process().map_err(Failure::CurrentDirectory)?;
    let (settings, plan) = run::decide(&args.run, &environment)?;
    let plan = plan.watched()?;
    let first = plan.engine.value.clone();
    let mut again = || Ok(run::decide(&args.run, &environment)?.1.watched_on(&first)?);
    let surroundings = Surroundings::of_stdout(|name| environment.var(name).map(ToOwned::to_owned));
    let is_cleared = args.clear && surroundings == Surroundings::Screen;
    let screen = if is_cleared { Screen::Cleared } else { Screen::Kept };
    let work = async |state: &State, reporter: &Reporter| {
        screen.before_build(reporter);
        notice::of_place(&plan, reporter);
        watch::run(plan, &mut again, screen, state, reporter).await
    };
    execute(&settings.presentation, &environment, work)
}
