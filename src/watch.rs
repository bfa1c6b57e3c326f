//! `fastbuild watch`: a build, and another one each time that the sources have changed since.
//!
//! What tells of a change (`changes`) is only a hint to look: whether something did change is decided by scanning the
//! source tree and comparing it with what it was when the last build began (`difference`), less what that build itself
//! put in place (`Ours`). So a product, a file under the ignore rules, and a file that was renamed and back do not
//! start a build, and a change that comes while one runs is not lost. One build runs at a time, each with the project's
//! lock of its own; between them the lock is free. The plan is made anew for each, since `fastbuild.toml` may be what was
//! changed.
//!
//! Neighbours: [`crate::build`] does the builds, [`crate::tree::scan`](mod@crate::tree::scan) looks.

mod changes;
mod difference;

use std::error::Error;

use self::{
    changes::Changes,
    difference::{Ours, difference},
};
use crate::{
    build::{self, BuildError, Interrupted, Interrupts, Signal, sources},
    outputs::record::Record,
    plan::Plan,
    report::{Reporter, events::Event},
    state::State,
    tree::{Manifest, RelPath},
};

/// How many of the paths that changed are named.
const NAMED: usize = 10;

/// Builds once, then at each change, until a signal comes; gives what to exit with then: 0 after Ctrl-C, which is how a
/// watch ends well. `again` makes the plan of a later build.
///
/// # Errors
/// When the sources cannot be looked at. A build that fails, for whatever reason, is told and does not end the watch.
pub async fn run(
    plan: Plan,
    again: &mut dyn FnMut() -> Result<Plan, Box<dyn Error>>,
    state: &State,
    reporter: &Reporter,
) -> Result<u8, BuildError> {
    let mut watch = Watch {
        interrupts: Interrupts::listen().map_err(BuildError::Signals)?,
        changes: Changes::of(&plan.source.value, reporter),
        state,
        reporter,
    };
    match watch.until_interrupted(plan, again).await {
        Ended::By(Signal::Interrupt) => Ok(0),
        Ended::By(signal) => Ok(signal.exit_code()),
        Ended::Failed(error) => Err(error),
    }
}

struct Watch<'a> {
    interrupts: Interrupts,
    changes: Changes,
    state: &'a State,
    reporter: &'a Reporter,
}

/// Why a watch is over.
enum Ended {
    By(Signal),
    Failed(BuildError),
}

impl From<Interrupted> for Ended {
    fn from(Interrupted(signal): Interrupted) -> Ended {
        Ended::By(signal)
    }
}

impl From<BuildError> for Ended {
    fn from(error: BuildError) -> Ended {
        Ended::Failed(error)
    }
}

impl Watch<'_> {
    async fn until_interrupted(
        &mut self,
        mut plan: Plan,
        again: &mut dyn FnMut() -> Result<Plan, Box<dyn Error>>,
    ) -> Ended {
        let mut before = match self.look(&plan).await {
            Ok(before) => before,
            Err(ended) => return ended,
        };
        loop {
            before = match self.build_and_wait(&plan, before).await {
                Ok(seen) => seen,
                Err(ended) => return ended,
            };
            match again() {
                Ok(new) => plan = new,
                // The build that follows is by the old plan: a typing error in fastbuild.toml stops nobody.
                Err(error) => self.reporter.error(&*error, None),
            }
        }
    }

    /// One build, and the wait for what starts the next one; gives the tree that this one is to begin with.
    async fn build_and_wait(&mut self, plan: &Plan, before: Manifest) -> Result<Manifest, Ended> {
        let mut ours = self.ours_before(plan)?;
        let built = build::run_under(plan, self.state, self.interrupts.clone(), self.reporter).await;
        if let Some(signal) = self.interrupts.come().await {
            self.reporter.clear();
            return Err(Ended::By(signal));
        }
        if let Err(error) = built {
            self.reporter.error(&error, error.advice().as_deref());
        }
        self.note_ours(plan, &mut ours)?;
        self.changes.forget();
        let mut seen = self.look(plan).await?;
        let mut changed = difference(&before, &seen, &ours);
        if changed.is_empty() {
            self.reporter.emit(Event::Watching { by: self.changes.noticing() });
        }
        while changed.is_empty() {
            self.interrupts.unless(self.changes.next()).await?;
            let now = self.look(plan).await?;
            changed = difference(&seen, &now, &ours);
            if !changed.is_empty() {
                seen = now;
            }
        }
        self.tell(changed);
        Ok(seen)
    }

    /// The source tree as it is now, with an ear to every directory in it.
    async fn look(&mut self, plan: &Plan) -> Result<Manifest, Ended> {
        loop {
            let plan = plan.clone();
            let looking = tokio::task::spawn_blocking(move || sources::look(&plan, &|_| ()));
            let looked = self.interrupts.unless(looking).await?.map_err(|_| BuildError::Panicked)?;
            let manifest = looked?.manifest;
            // What was put into a new directory before anybody listened is seen by looking again.
            if self.changes.follow(&manifest, self.reporter) == changes::Followed::Known {
                return Ok(manifest);
            }
        }
    }

    fn ours_before(&self, plan: &Plan) -> Result<Ours, BuildError> {
        Ok(Ours::before(plan.source.value.clone(), self.record(plan)?))
    }

    fn note_ours(&self, plan: &Plan, ours: &mut Ours) -> Result<(), BuildError> {
        ours.after(self.record(plan)?);
        Ok(())
    }

    fn record(&self, plan: &Plan) -> Result<Record, BuildError> {
        Ok(Record::load(&self.state.project(&plan.source.value)?.record_path()))
    }

    fn tell(&self, mut changed: Vec<RelPath>) {
        let more = changed.len().saturating_sub(NAMED) as u64;
        changed.truncate(NAMED);
        self.reporter.emit(Event::SourcesChanged { paths: changed, more });
    }
}
