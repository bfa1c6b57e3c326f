//! `fastbuild [run]`: settings, plan, build, exit code.

use std::{process, time::Duration};

use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use super::Failure;
use crate::{
    args::RunArgs,
    build::{self, BuildError, Exit, notice},
    config::{Log, Presentation, Settings},
    environment::Environment,
    facts,
    plan::{self, Plan},
    report::{Mode, Reporter, Streams, Surroundings, meter::Meter},
    state::State,
};

/// How long the source root's file system may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// How long the end of the process waits for threads that clean up after an interrupted build.
const TIDY_UP: Duration = Duration::from_secs(5);

/// Runs a build; returns how to end.
///
/// # Errors
/// Any failure before there is a reporter.
pub fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let environment = Environment::of_process().map_err(Failure::CurrentDirectory)?;
    let (settings, plan) = decide(args, &environment)?;
    let work = async |state: &State, reporter: &Reporter| {
        notice::before(&plan, &environment, state, reporter);
        let exit = build::run(&plan, state, reporter).await?;
        notice::after(&plan, exit.code(), state, reporter);
        Ok(exit)
    };
    execute(&settings.presentation, &environment, work)
}

/// Checks that the source root answers: access to a mount that hangs never returns. A local disk is
/// not checked.
///
/// # Errors
/// When it does not answer.
pub(super) fn await_root(args: &RunArgs, environment: &Environment) -> Result<(), Failure> {
    let given = args.source.as_ref().map(|given| environment.cwd.join(given));
    let root = given.unwrap_or_else(|| environment.cwd.clone());
    if facts::file_system(&root).is_some_and(|lies_on| lies_on.class.crosses()) {
        facts::responds(&root, ANSWER)?;
    }
    Ok(())
}

/// Settings and plan of a command line.
///
/// # Errors
/// Any failure to decide, including a source root that does not answer.
pub(super) fn decide(args: &RunArgs, environment: &Environment) -> Result<(Settings, Plan), Failure> {
    await_root(args, environment)?;
    let settings = Settings::gather(args, environment)?;
    let plan = plan::prepare(&settings, environment)?;
    Ok((settings, plan))
}

/// Runs `work` with a reporter, threads and state; reports its failure, and returns how to end.
///
/// # Errors
/// Any failure before there is a reporter.
pub(super) fn execute(
    presentation: &Presentation,
    environment: &Environment,
    work: impl AsyncFnOnce(&State, &Reporter) -> Result<Exit, BuildError>,
) -> Result<Exit, Failure> {
    log_to_stderr(presentation.log);
    let reporter = reporter(presentation, environment);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::Runtime)?;
    let ran = State::open(environment.state_dir()?)
        .map_err(BuildError::from)
        .and_then(|state| runtime.block_on(work(&state, &reporter)));
    let exit = match ran {
        Ok(exit) => exit,
        Err(error) => {
            reporter.error(&error, error.advice().as_deref());
            error.exit()
        }
    };
    reporter.clear();
    runtime.shutdown_timeout(TIDY_UP);
    Ok(exit)
}

/// Ends the process with the command's result, even if threads wait for input forever. Before that,
/// cleanup is complete and the terminal is restored.
pub fn exit(exit: impl Into<Exit>) -> ! {
    let exit = exit.into();
    #[cfg(unix)]
    match exit {
        Exit::Code(_) => {}
        Exit::Signal(signal) => crate::sys::process::die_of(signal.number()),
        Exit::Key(signal) => {
            crate::sys::process::tell_group(signal.number());
            crate::sys::process::die_of(signal.number());
        }
    }
    process::exit(exit.code().into())
}

fn reporter(presentation: &Presentation, environment: &Environment) -> Reporter {
    Reporter::new(mode(presentation, environment), presentation.verbosity, Streams::of_process())
}

/// The progress display of a bench.
pub(super) fn meter(presentation: &Presentation, environment: &Environment) -> Meter {
    log_to_stderr(presentation.log);
    Meter::new(mode(presentation, environment), presentation.verbosity, Streams::of_process())
}

fn mode(presentation: &Presentation, environment: &Environment) -> Mode {
    let surroundings = Surroundings::of_stderr(|name| environment.var(name).map(ToOwned::to_owned));
    presentation.progress.value.resolve(surroundings)
}

/// Only fastbuild's own logs: bollard logs request bodies, with environment values.
fn log_to_stderr(log: Log) {
    let own = match log {
        Log::Debug => Targets::new().with_target("fastbuild", LevelFilter::DEBUG),
        Log::Off => return,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time();
    tracing_subscriber::registry().with(lines.with_filter(own)).init();
}
