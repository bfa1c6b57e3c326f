//! A command's result, and putting its products in place.

use std::sync::Arc;

use super::{
    BuildError, Exit, Interrupted,
    history::Moved,
    locks::Locks,
    places,
    tasks::{Running, blocking},
};
use crate::{
    build::{blind_times::Watcher, mount_fault},
    entry::Amount,
    outputs::{
        apply::{self, Books, Outcome, Staged},
        record::Record,
        safe::Place,
    },
    plan::Plan,
    report::{
        Reporter,
        events::{AgentCost, Applied, Event, Phase, Warning},
    },
    spec::OnFailure,
    state::Run,
};

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How fastbuild ends.
    pub exit: Exit,
    /// The changes to the host's files; none when nothing was collected.
    pub applied: Option<Applied>,
    /// The agent's resource use; none without the agent.
    pub agent: Option<AgentCost>,
    /// The sign of the mount's defect, if that defect made the command fail.
    pub defect: Option<mount_fault::Mark>,
}

/// The result of a container, before any of the host's files is changed.
pub(super) struct Built {
    pub(super) exit: Exit,
    /// None when the products stay where they are.
    pub(super) staged: Option<Vec<Staged>>,
    pub(super) defect: Option<mount_fault::Mark>,
    /// Is told when all products are in place; none where the host's tree is mounted.
    pub(super) watcher: Option<Arc<Watcher>>,
}

impl Built {
    /// Collects a command's products, unless it failed and they are to stay.
    pub(super) async fn after(
        exit: Exit,
        plan: &Plan,
        reporter: &Reporter,
        collecting: impl Future<Output = Result<Result<Vec<Staged>, BuildError>, Interrupted>>,
    ) -> Result<Built, BuildError> {
        let left = || {
            // A user who ended the command by a signal knows this.
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
            // The command's failure is what matters; missing products are expected then.
            (Err(BuildError::MissingOutput { .. }), 1..) => left(),
            (Err(error), _) => Err(error),
        }
    }

    /// Whether there are products to put in place.
    pub(super) fn changes_anything(&self) -> bool {
        self.staged.iter().flatten().any(|output| !output.ops.is_empty())
    }

    /// Puts the products in place. From here on no signal interrupts the work.
    pub(super) async fn put_in_place(
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
