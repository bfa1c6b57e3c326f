//! `fastbuild bench`: measures, reports, saves the choice. The work is done in [`crate::bench`].

use std::time::Duration;

use super::{
    Failure, print,
    run::{await_root, meter},
};
use crate::{
    args::{BenchArgs, PlanFormat},
    bench::{
        Choice, Report, advice, html, json,
        run::{self, BenchError, Request},
        save::{Saved, save},
        table,
    },
    build::{Exit, Interrupted, Interrupts},
    config::{Settings, file},
    environment::Environment,
    report::meter::Meter,
    spec::PROJECT_FILE,
    state::State,
};

/// How long the end of the process waits for threads whose result is not needed.
const TIDY_UP: Duration = Duration::from_secs(5);

/// Measures; returns how to end.
///
/// # Errors
/// Any failure to measure, to print or to write the result.
pub fn run(args: &BenchArgs) -> Result<Exit, Failure> {
    let environment = Environment::of_process().map_err(Failure::CurrentDirectory)?;
    await_root(&args.run, &environment)?;
    let settings = Settings::gather(&args.run, &environment)?;
    let meter = meter(&settings.presentation, &environment);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::Runtime)?;
    let state = State::open(environment.state_dir()?)?;
    let request = Request { args, settings: &settings, environment: &environment };
    let measured = runtime.block_on(async {
        let mut interrupts = Interrupts::listen().map_err(Failure::Runtime)?;
        Ok::<_, Failure>(run::run(&request, &state, &meter, &mut interrupts).await)
    });
    meter.clear();
    runtime.shutdown_timeout(TIDY_UP);
    let report = match measured? {
        Ok(report) => report,
        Err(BenchError::Interrupted(Interrupted(signal))) => {
            meter.say(&format!("cut off by {signal}; nothing is left of it"));
            return Ok(Exit::Signal(signal));
        }
        Err(error) => return Err(error.into()),
    };
    tell(args, &report, &settings, &meter)
}

fn tell(args: &BenchArgs, report: &Report, settings: &Settings, meter: &Meter) -> Result<Exit, Failure> {
    print(match args.format {
        PlanFormat::Text => table::render(report),
        PlanFormat::Json => json::render(report).map_err(|error| Failure::Stdout(error.into()))?,
    })?;
    if let Some(path) = &args.html {
        let path = settings.started_in.join(path);
        std::fs::write(&path, html::render(report))
            .map_err(|source| Failure::Page { path: path.clone(), source })?;
        meter.say(&format!("the page is {path:?}"));
    }
    if args.save {
        keep(report, settings, meter)?;
    }
    if run::has_figures(report) { Ok(Exit::Code(0)) } else { Err(Failure::NothingMeasured) }
}

/// Writes the choice to the file of the build's settings, or to a new one in the source root.
fn keep(report: &Report, settings: &Settings, meter: &Meter) -> Result<(), Failure> {
    let source = &settings.source.value;
    let Some(Choice { route, .. }) = advice::choose_to_save(report, settings.engine.value) else {
        meter.say("nothing to save: what was measured tells nothing about routes");
        return Ok(());
    };
    let found = file::ConfigFile::find_upwards(source).map_err(crate::config::ConfigError::from)?;
    let path = found.map_or_else(|| source.join(PROJECT_FILE), |found| found.path);
    let Saved { path, before } = save(&path, route)?;
    let was = match before {
        Some(before) if before == route.name() => " (as it was)".to_owned(),
        Some(before) => format!(" (it was {before:?})"),
        None => String::new(),
    };
    meter.say(&format!("{path:?} says route = {:?} now{was}", route.name()));
    Ok(())
}
