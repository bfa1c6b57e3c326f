//! Shared by the pipeline's steps: work on threads, phases that report themselves, outputs' places.

use std::time::Instant;

use tokio::sync::oneshot;

use super::BuildError;
use crate::{
    archive::pack::TopEntry,
    entry::{Amount, RelPath},
    outputs::{
        record::Record,
        target::{Target, native_join, refuse_strange_link},
    },
    plan::{Output, Outputs, Plan, Take},
    report::{
        Reporter,
        events::{Event, Phase},
    },
    sys::at,
};

/// Refuses outputs whose place is a link that fastbuild did not make. The source tree's links may
/// stay.
pub(super) fn refuse_strange_links(plan: &Plan, record: &Record) -> Result<(), BuildError> {
    let Outputs::Named(outputs) = &plan.outputs.value else { return Ok(()) };
    let stays = |output: &Output| output.take == Take::Itself && own_place(output, plan).is_some();
    let mut replaced = outputs.iter().filter(|output| !stays(output));
    Ok(replaced.try_for_each(|output| refuse_strange_link(&output.host, record))?)
}

/// An output's path in the source tree, if its products are changes of that tree.
pub(super) fn own_place<'a>(output: &'a Output, plan: &Plan) -> Option<&'a RelPath> {
    let below = output.below_source.as_ref()?;
    let is_own =
        output.take != Take::Contents && !plan.ignore.leaves_out(below) && !plan.route.value.is_mounted();
    (is_own && native_join(&plan.source.value, below) == output.host).then_some(below)
}

/// The source root's own mode and time.
pub(super) fn top_entry(plan: &Plan) -> Result<TopEntry, BuildError> {
    let target = Target::directory(&plan.source.value)?;
    let look = at::look_at(&target.dir).map_err(crate::outputs::host_error("look at", &target.base))?;
    Ok(TopEntry { mode: look.mode, mtime: look.stamp.mtime })
}

/// Runs `work` on a thread of its own from now on; the future gives its result. The end of the
/// process does not wait for the thread, so this is for work that only reads.
pub(super) fn detached<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, BuildError>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || sender.send(work()).is_ok());
    async { receiver.await.map_err(|_| BuildError::Panicked) }
}

/// Runs `work` on a thread that the end of the process waits for, because it has to clean up.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BuildError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| BuildError::Panicked)
}

/// A phase that has begun: reports its end with its time.
pub(super) struct Running<'a> {
    phase: Phase,
    began: Instant,
    reporter: &'a Reporter,
}

impl<'a> Running<'a> {
    pub(super) fn begin(phase: Phase, total: Option<Amount>, reporter: &'a Reporter) -> Running<'a> {
        reporter.emit(Event::PhaseStarted { phase, total });
        Running { phase, began: Instant::now(), reporter }
    }

    pub(super) fn end(self, done: Amount) {
        self.reporter.emit(Event::PhaseEnded { phase: self.phase, done, took: self.began.elapsed() });
    }
}
