//! The pipeline: a plan is carried out.
//!
//! ```text
//! lock -> recover -> (scan | connect, image, workspace) -> put right -> run -> collect -> (apply | goodbye) -> report
//! ```
//!
//! [`run`] is the one entry point; it takes the locks, makes good what an earlier run was kept from finishing,
//! and hands over to `container`, or to `warm::here` where there is no container. Either runs the command under the agent
//! (`warm`). What may be cut off by a signal is; what must not be (putting products in place) is not.
//! Events tell all along; nothing here prints.

mod command;
mod container;
mod ending;
mod error;
mod heal;
pub mod history;
mod image;
mod interrupt;
mod leftovers;
mod locks;
mod meanwhile;
mod mounted;
pub mod notice;
mod places;
mod plain;
pub mod reaper;
mod recover;
mod site;
pub mod sources;
mod suspend;
pub mod trust;
mod upload;
mod warm;

pub use warm::shell;

use std::{sync::Arc, time::Instant};

use tokio::sync::oneshot;

pub use ending::Exit;
pub use error::BuildError;
use history::Moved;
pub use interrupt::{Interrupted, Interrupts, Signal};
use locks::{Locks, Share};
use meanwhile::Watcher;
pub use suspend::Suspension;

use crate::{
    archive::pack::TopEntry,
    entry::{Amount, RelPath},
    outputs::{
        apply::{self, Books, Outcome, Staged},
        record::Record,
        safe::Place,
        target::{Target, native_join, refuse_strange_link},
    },
    plan::{Output, Outputs, Plan, Take},
    report::{
        Reporter,
        events::{AgentCost, Applied, Earlier, Event, Phase, Warning},
    },
    spec::{Fallback, OnFailure},
    state::{Run, State},
    sys::at,
    workspace,
};

/// Carries a plan out; gives how fastbuild ends.
///
/// # Errors
/// When fastbuild itself could not do its part; [`BuildError::exit`] says how to end then.
pub async fn run(plan: &Plan, state: &State, reporter: &Reporter) -> Result<Exit, BuildError> {
    let interrupts = Interrupts::listen().map_err(BuildError::Signals)?;
    let built = carry_out(plan, state, interrupts, reporter, Share::Parts, &mut None).await;
    built.map_err(|error| error.of_engine(&plan.engine.reason))
}

/// As [`run`], for who listens to signals already, and alone in the source root until `looked` has been called.
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
    let built = carry_out(plan, state, interrupts, reporter, Share::Whole, &mut locks).await;
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
    workspace::daily::look_after_safe_place(state, &plan.recover);
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
        let heal::Mark { path, line, .. } = mark;
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
    warm::here::run(plan, &scratch.value, state, locks, interrupts, reporter).await
}

/// How a run came out.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How fastbuild ends.
    pub exit: Exit,
    /// What became of the host's files; none when nothing was collected.
    pub applied: Option<Applied>,
    /// What the agent cost; none without it.
    pub agent: Option<AgentCost>,
    /// Where the command failed by the mount's own defect, how that showed.
    pub defect: Option<heal::Mark>,
}

/// What a container came to, before anything of the host's is changed.
struct Built {
    exit: Exit,
    /// None when the products stay where they are.
    staged: Option<Vec<Staged>>,
    defect: Option<heal::Mark>,
    /// To be told that all is in place; none where the host's tree is mounted.
    watcher: Option<Arc<Watcher>>,
}

impl Built {
    /// Has the products of a command that ended with `exit` collected, unless it failed and they are to stay.
    async fn after(
        exit: Exit,
        plan: &Plan,
        reporter: &Reporter,
        collecting: impl Future<Output = Result<Result<Vec<Staged>, BuildError>, Interrupted>>,
    ) -> Result<Built, BuildError> {
        let left = || {
            // Whoever ended it by a signal knows.
            if matches!(exit, Exit::Code(_)) {
                reporter.emit(Event::Warned(Warning::OutputsLeft));
            }
            Ok(Built { exit, staged: None, defect: None, watcher: None })
        };
        if exit.code() != 0 && plan.on_failure.value == OnFailure::Leave {
            return left();
        }
        match (collecting.await?, exit.code()) {
            (Ok(staged), _) => Ok(Built { exit, staged: Some(staged), defect: None, watcher: None }),
            // The command's failure is the news; that it did not get as far as its products is no surprise.
            (Err(BuildError::MissingOutput { .. }), 1..) => left(),
            (Err(error), _) => Err(error),
        }
    }

    /// Whether there is anything to be put in place.
    fn changes_anything(&self) -> bool {
        self.staged.iter().flatten().any(|output| !output.ops.is_empty())
    }

    /// Puts the products in place. From here on nothing is cut off by a signal.
    async fn put_in_place(
        self,
        record: Arc<Record>,
        plan: &Plan,
        locks: &Locks,
        run: &Run,
        reporter: &Reporter,
    ) -> Result<Option<Applied>, BuildError> {
        let Built { exit, staged: Some(mut staged), watcher, .. } = self else { return Ok(None) };
        let moved = Moved::down(&staged, &plan.source.value);
        let not_brought_back = places::not_brought_back(&staged, plan);
        let project = &locks.project;
        locks.begin_apply(reporter).await?;
        let phase = Running::begin(Phase::Apply, None, reporter);
        let books = Books {
            run: run.id.clone(),
            journal: project.journal_path(),
            record: project.record_path(),
            displaced: Place::of(project, &run.id),
        };
        let applying = blocking(move || {
            let record = match record.written_since(&books.record) {
                Some(record) => {
                    staged.iter_mut().for_each(|output| output.come_after(&record));
                    record
                }
                None => Arc::unwrap_or_clone(record),
            };
            apply::apply(staged, record, &books)
        });
        let applied = applying.await;
        locks.end_apply();
        let Outcome { applied, warnings } = applied??;
        if let Some(watcher) = watcher.filter(|_| exit.code() == 0) {
            watcher.built();
        }
        for warning in warnings {
            reporter.emit(Event::Warned(warning));
        }
        phase.end(Amount { files: applied.written + applied.deleted, bytes: 0 });
        moved.into_iter().for_each(|moved| moved.note(project, &plan.command));
        not_brought_back.map_or(Ok(Some(applied)), Err)
    }
}

/// Refuses outputs that go to a place which is a link that fastbuild did not put there. In the source tree a link is what it is.
fn refuse_strange_links(plan: &Plan, record: &Record) -> Result<(), BuildError> {
    let Outputs::Named(outputs) = &plan.outputs.value else { return Ok(()) };
    let stays = |output: &Output| output.take == Take::Itself && own_place(output, plan).is_some();
    let mut replaced = outputs.iter().filter(|output| !stays(output));
    Ok(replaced.try_for_each(|output| refuse_strange_link(&output.host, record))?)
}

/// Where an output lies in the source tree, if what comes back of it are that tree's own changes.
fn own_place<'a>(output: &'a Output, plan: &Plan) -> Option<&'a RelPath> {
    let below = output.below_source.as_ref()?;
    let left_out = plan.ignore.outputs.iter().any(|place| below.strip_prefix(place).is_some());
    let is_own = output.take != Take::Contents && !left_out && !plan.route.value.is_mounted();
    (is_own && native_join(&plan.source.value, below) == output.host).then_some(below)
}

/// The source root's own mode and time.
fn top_entry(plan: &Plan) -> Result<TopEntry, BuildError> {
    let target = Target::directory(&plan.source.value)?;
    let look = at::look_at(&target.dir).map_err(crate::outputs::host_error("look at", &target.base))?;
    Ok(TopEntry { mode: look.mode, mtime: look.stamp.mtime })
}

/// Runs `work` on a thread of its own from now on; the future gives what it came to. A thread that nobody waits for
/// any more does not hold up the end of the process, so this is for work that only looks.
fn detached<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, BuildError>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || sender.send(work()).is_ok());
    async { receiver.await.map_err(|_| BuildError::Panicked) }
}

/// Runs `work` on a thread that the end of the process waits for: it has something to tidy up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, BuildError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| BuildError::Panicked)
}

/// A phase that has begun: ends itself with its time.
struct Running<'a> {
    phase: Phase,
    began: Instant,
    reporter: &'a Reporter,
}

impl<'a> Running<'a> {
    fn begin(phase: Phase, total: Option<Amount>, reporter: &'a Reporter) -> Running<'a> {
        reporter.emit(Event::PhaseStarted { phase, total });
        Running { phase, began: Instant::now(), reporter }
    }

    fn end(self, done: Amount) {
        self.reporter.emit(Event::PhaseEnded { phase: self.phase, done, took: self.began.elapsed() });
    }
}
