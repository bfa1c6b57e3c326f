//! From a plan to an exit code: locks, recovery, the build, and a second one after a mount failed.

use std::time::{Instant, SystemTime};

use super::{
    BuildError, Exit, Finished, Interrupts, container, last,
    locks::{Locks, Share},
    places, trust, warm,
};
use crate::{
    build::mount_fault,
    plan::Plan,
    report::{
        Reporter,
        events::{Earlier, Event, Warning},
    },
    spec::Fallback,
    state::State,
    workspace,
};

/// Carries out a plan; returns how fastbuild ends.
///
/// # Errors
/// When fastbuild itself could not do its part; [`BuildError::exit`] says how to end then.
pub async fn run(plan: &Plan, state: &State, reporter: &Reporter) -> Result<Exit, BuildError> {
    let interrupts = Interrupts::listen().map_err(BuildError::Signals)?;
    let began = SystemTime::now();
    let built = carry_out(plan, state, interrupts, reporter, Share::Parts, &mut None).await;
    last::note(plan, state, began, &built);
    built.map_err(|error| error.of_engine(&plan.engine.reason))
}

/// As [`run`], for a caller that gets signals already; locks the source root until after `looked`.
///
/// # Errors
/// As [`run`].
pub async fn run_alone<T>(
    plan: &Plan,
    state: &State,
    interrupts: Interrupts,
    reporter: &Reporter,
    looked: impl FnOnce() -> T,
) -> (Result<Exit, BuildError>, T) {
    let mut locks = None;
    let began = SystemTime::now();
    let built = carry_out(plan, state, interrupts, reporter, Share::Whole, &mut locks).await;
    last::note(plan, state, began, &built);
    let looked = looked();
    drop(locks);
    (built.map_err(|error| error.of_engine(&plan.engine.reason)), looked)
}

async fn carry_out(
    plan: &Plan,
    state: &State,
    mut interrupts: Interrupts,
    reporter: &Reporter,
    share: Share,
    held: &mut Option<Locks>,
) -> Result<Exit, BuildError> {
    let began = Instant::now();
    reporter.emit(Event::Planned {
        image: plan.image.as_ref().map(|image| image.value.clone()),
        engine: plan.engine.value.to_string(),
        route: plan.route.value,
        because: plan.route.reason.to_string(),
        source: plan.source.value.clone(),
        command: plan.command.clone(),
    });
    trust::check(plan, state)?;
    places::check(plan, reporter)?;
    workspace::auto_prune::look_after_safe_place(state, &plan.recover);
    let project = state.project(&plan.source.value)?;
    let locks = held.insert(Locks::take(plan, share, &project, state, &mut interrupts, reporter).await?);
    let mut finished = match plan.on_docker() {
        Some(at) => match container::run(plan, at, state, locks, &mut interrupts, reporter).await {
            Err(BuildError::OtherProject) => {
                reporter.emit(Event::Warned(Warning::OtherProject));
                project.begin_anew()?;
                *held = None;
                let locks = Locks::take(plan, share, &project, state, &mut interrupts, reporter).await?;
                container::run(plan, at, state, held.insert(locks), &mut interrupts, reporter).await?
            }
            finished => finished?,
        },
        None => here(plan, state, locks, &mut interrupts, reporter).await?,
    };
    let mut earlier = None;
    if let (Some(mark), Some(at)) = (finished.defect.take(), plan.on_docker()) {
        let (route, exit_code, then) = (plan.route.value, finished.exit.code(), plan.fallback.value);
        let mount_fault::Mark { path, line, .. } = mark;
        reporter.emit(Event::MountFailed { route, exit_code, path, line, then });
        if then == Fallback::Layer {
            earlier = Some(Earlier { route, exit_code, took: began.elapsed() });
            let plan = plan.on_layer();
            *held = None;
            let locks = Locks::take(&plan, share, &project, state, &mut interrupts, reporter).await?;
            finished =
                container::run(&plan, at, state, held.insert(locks), &mut interrupts, reporter).await?;
        }
    }
    reporter.emit(Event::Finished {
        earlier,
        exit_code: finished.exit.code(),
        applied: finished.applied,
        agent: finished.agent,
        took: began.elapsed(),
    });
    Ok(finished.exit)
}

/// On this machine, in the scratch directory that the plan names.
async fn here(
    plan: &Plan,
    state: &State,
    locks: &Locks,
    interrupts: &mut Interrupts,
    reporter: &Reporter,
) -> Result<Finished, BuildError> {
    let scratch = plan.scratch.as_ref().ok_or(BuildError::NowhereToBuild)?;
    warm::host_engine::run(plan, &scratch.value, state, locks, interrupts, reporter).await
}
