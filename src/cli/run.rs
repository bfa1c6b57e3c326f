//! `fastbuild [run]`: settings, plan, build, exit code.

use std::{process, time::Duration};

use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use super::Failure;
#[cfg(unix)]
use crate::{
    args::RunArgs,
    build::{self, BuildError, Exit, notice},
    config::{Log, Presentation, Settings},
    environment::Environment,
    facts,
    plan::{self, Plan},
    report::{Mode, Reporter, Streams, Surroundings, meter::Meter},
    state::State,
    sys,
};

/// How long the source root's file system may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// How long the end of the process waits for threads that tidy up after a build that was cut off.
const TIDY_UP: Duration = Duration::from_secs(5);

/// Runs a build; gives how to end.
///
/// # Errors
/// Before there is a reporter: what keeps fastbuild from knowing what to do.
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

/// Looks whether the source root answers: whoever asks a mount that hangs never ends. A local disk is not asked.
///
/// # Errors
/// When it does not.
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
/// What keeps fastbuild from knowing what to do, a source root that does not answer among it.
pub(super) fn decide(args: &RunArgs, environment: &Environment) -> Result<(Settings, Plan), Failure> {
    await_root(args, environment)?;
    let settings = Settings::gather(args, environment)?;
    let plan = plan::prepare(&settings, environment)?;
    Ok((settings, plan))
}

/// Does `work` with a reporter, threads and the state directory; tells its failure, and gives how to end.
///
/// # Errors
/// Before there is a reporter.
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

/// Ends the process as its command has ended, though there may be threads that wait for input for ever. Everything is tidied up, and
/// the terminal is as it was.
pub fn exit(exit: impl Into<Exit>) -> ! {
    let exit = exit.into();
    #[cfg(unix)]
    match exit {
        Exit::Code(_) => {}
        Exit::Signal(signal) => sys::process::die_of(signal.number()),
        Exit::Key(signal) => {
            sys::process::tell_group(signal.number());
            sys::process::die_of(signal.number());
        }
    }
    process::exit(exit.code().into())
}

fn reporter(presentation: &Presentation, environment: &Environment) -> Reporter {
    Reporter::new(mode(presentation, environment), presentation.verbosity, Streams::of_process())
}

/// What a bench tells how far it is with.
pub(super) fn meter(presentation: &Presentation, environment: &Environment) -> Meter {
    log_to_stderr(presentation.log);
    Meter::new(mode(presentation, environment), presentation.verbosity, Streams::of_process())
}

fn mode(presentation: &Presentation, environment: &Environment) -> Mode {
    let surroundings = Surroundings::of_stderr(|name| environment.var(name).map(ToOwned::to_owned));
    presentation.progress.value.resolve(surroundings)
}

/// Only fastbuild's own: bollard logs request bodies, and with them the values of environment variables.
fn log_to_stderr(log: Log) {
    let own = match log {
        Log::Debug => Targets::new().with_target("fastbuild", LevelFilter::DEBUG),
        Log::Off => return,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time();
    tracing_subscriber::registry().with(lines.with_filter(own)).init();
}
