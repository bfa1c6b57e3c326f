//! Carries out the steps on the host, all or nothing.
//!
//! Each step is one rename (or mkdir, rmdir, chmod) below directory handles and can be taken back:
//! a replaced file is *exchanged* with its slot, a deleted file is renamed into the staging
//! directory. What comes out of an exchange is checked before anything else happens. If it was
//! changed since it was compared, one of the two versions gives way and goes to the safe place
//! ([`Side`]). So no edit of the user is lost between look and rename.
//!
//! When a step fails, all steps before it are taken back. When fastbuild dies, the journal has the
//! missing steps ([`recover`]), and the staging directory has the files that earlier steps took
//! out. The staging directory is removed only when the record is written and the journal is gone.
//! Before that, everything in it that is neither a product nor known is moved to the safe place.
//!
//! | file | what |
//! |---|---|
//! | `apply/steps.rs` | carries steps out and takes them back |
//! | `apply/atomic.rs` | `--atomic`: the whole new tree, and its exchange |
//! | `apply/git.rs` | what waits for git |
//! | `apply/recover.rs` | what a run that died had begun |

mod atomic;
mod git;
mod recover;
mod settle;
mod staged;
mod steps;

use std::{borrow::Cow, io, path::PathBuf};

use self::{
    atomic::{prepare_swap, rescue},
    settle::{bookkeeping, note, settle_directories},
    steps::{Attempt, Conflict, Done, Executor, Failed, Undo},
};
pub use self::{
    recover::{Recovered, recover},
    staged::{Prepared, Scope, Staged},
};
use super::{
    OutputError,
    decide::Side,
    journal::{self, Journal},
    record::Record,
    safe::{Place, Why, save_displaced},
};
use crate::{
    report::events::{Applied, Stands, Warning},
    spec::ApplyMode,
};

#[cfg(all(test, unix))]
pub(super) mod tests;

/// The files in which an apply keeps its records.
#[derive(Debug, Clone)]
pub struct Books {
    /// The run's id.
    pub run: String,
    /// The journal's place.
    pub journal: PathBuf,
    /// The record's place.
    pub record: PathBuf,
    /// Where the user's files in the way are moved.
    pub displaced: Place,
}

/// What an apply did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Counts.
    pub applied: Applied,
    /// What the user should know.
    pub warnings: Vec<Warning>,
}

/// Puts all outputs of a run in place.
///
/// # Errors
/// [`OutputError::TakenBack`]: the host is unchanged. [`OutputError::Torn`]: it is not, and the
/// error says where the rest lies.
pub fn apply(mut outputs: Vec<Staged>, mut record: Record, books: &Books) -> Result<Outcome, OutputError> {
    for output in &mut outputs {
        git::hold_back(output);
        if output.apply == ApplyMode::Atomic {
            prepare_swap(output)?;
        }
    }
    if outputs.iter().all(|output| output.ops.is_empty() && output.prepared.done.displaced.is_empty()) {
        return finish(&mut outputs, &[], &mut record, books);
    }
    journal_of(&outputs, books).commit(&books.journal).map_err(bookkeeping("write", &books.journal))?;
    let applied = carry_out(&mut outputs, &books.displaced).and_then(|(undo, done)| {
        // The next run would take products without a record for the user's files.
        finish(&mut outputs, &done, &mut record, books)
            .map_err(|error| take_all_back(&mut outputs, undo, error))
    });
    // Before the stages are removed: a journal without its stage would count as finished. When all
    // is done or taken back, the next start has nothing to finish. After a torn apply it has, and
    // until then the stages are not leftovers.
    match &applied {
        Err(OutputError::Torn { .. }) => {
            let torn = books.journal.with_file_name(format!("torn-{}", books.run));
            std::fs::rename(&books.journal, torn).map_err(bookkeeping("rename", &books.journal))?;
        }
        _ => Journal::remove(&books.journal).map_err(bookkeeping("remove", &books.journal))?,
    }
    applied
}

fn journal_of<'a>(outputs: &'a [Staged], books: &Books) -> Journal<'a> {
    let entries = outputs.iter().map(|output| journal::Entry {
        base: output.target.base.clone(),
        root: output.target.prefix.clone(),
        stage: output.stage.path.clone(),
        ops: Cow::Borrowed(&output.ops),
        inside: Cow::Borrowed(&output.prepared.inside),
        displaced: Cow::Borrowed(&output.prepared.done.displaced),
        linked: output.prepared.linked.iter().map(|(path, id)| (journal::Path(path.clone()), *id)).collect(),
    });
    Journal::new(books.run.clone(), books.displaced.clone(), entries.collect())
}

/// For each output: how to take its steps back, and what they left to be done.
type CarriedOut = (Vec<Vec<Undo>>, Vec<Done>);

fn carry_out(outputs: &mut [Staged], displaced: &Place) -> Result<CarriedOut, OutputError> {
    let (mut undos, mut finished) = (Vec::new(), Vec::new());
    for index in 0..outputs.len() {
        let output = &mut outputs[index];
        let mut executor = Executor::new(&output.target, &output.stage, Attempt::First);
        let failure = executor.carry_out_all(&output.ops).err();
        let mut undo = std::mem::take(&mut executor.undo);
        let mut done = executor.into_done();
        done.absorb(std::mem::take(&mut output.prepared.done));
        let saved = match &failure {
            None => rescue(
                &output.target,
                &output.target.prefix,
                &mut output.stage,
                &output.prepared.linked,
                &mut done,
                &mut undo,
            )
            .and_then(|()| save_displaced(&output.stage, &done.displaced, &output.target, displaced)),
            Some(_) => Ok(()),
        };
        undos.push(undo);
        finished.push(done);
        if let Some(Failed { what, path, source }) = failure {
            let path = output.target.absolute(&path);
            return Err(take_back(outputs, undos, what, path, source));
        }
        if let Err(error) = saved {
            return Err(take_all_back(outputs, undos, error));
        }
    }
    Ok((undos, finished))
}

/// [`take_back`] because of an error that came after the steps.
fn take_all_back(outputs: &mut [Staged], undos: Vec<Vec<Undo>>, error: OutputError) -> OutputError {
    match error {
        OutputError::Host { what, path, source } | OutputError::Bookkeeping { what, path, source } => {
            take_back(outputs, undos, what, path, source)
        }
        OutputError::DiskFull { stage } => {
            take_back(outputs, undos, "make a file in", stage, io::ErrorKind::StorageFull.into())
        }
        other => other,
    }
}

fn take_back(
    outputs: &mut [Staged],
    undos: Vec<Vec<Undo>>,
    what: &'static str,
    path: PathBuf,
    source: io::Error,
) -> OutputError {
    for (output, undo) in outputs.iter().zip(undos).rev() {
        let mut executor = Executor::new(&output.target, &output.stage, Attempt::First);
        if let Err(undo) = executor.take_back(undo) {
            let stage = output.stage.path.clone();
            outputs.iter_mut().for_each(|output| output.stage.keep());
            return OutputError::Torn { what, path, undo, stage, source };
        }
    }
    OutputError::TakenBack { what, path, source }
}

/// After the last step: sets mode and time of directories, and writes the record.
fn finish(
    outputs: &mut [Staged],
    done: &[Done],
    record: &mut Record,
    books: &Books,
) -> Result<Outcome, OutputError> {
    let mut outcome = Outcome::default();
    let (mut displaced, mut refused) = (Vec::new(), 0);
    let nothing = Done::default();
    for (output, done) in outputs.iter_mut().zip(done.iter().chain(std::iter::repeat(&nothing))) {
        settle_directories(&output.target, &output.stage, done);
        let ops = output.ops.iter().chain(&output.prepared.inside);
        note(record, &output.target, &output.stage, ops, done)?;
        outcome.applied.written += output.applied.written.saturating_sub(done.given_way);
        outcome.applied.deleted += output.applied.deleted.saturating_sub(done.stayed);
        outcome.applied.unchanged += output.applied.unchanged;
        outcome.applied.conflicts += done.conflicts.len() as u64;
        outcome.warnings.append(&mut output.warnings);
        outcome.warnings.extend(done.conflicts.iter().map(|Conflict { path, stands }| Warning::Conflict {
            path: output.target.absolute(path),
            stands: match stands {
                Side::Source => Stands::Host,
                Side::Output => Stands::Build,
            },
        }));
        // Products that gave way are reported as conflicts.
        let users = done.displaced.iter().filter(|displaced| displaced.why != Why::GaveWay);
        displaced.extend(users.map(|displaced| output.target.absolute(&displaced.path)));
        refused += output.stage.refused.count();
    }
    if refused > 0 {
        outcome.warnings.push(Warning::ModesRefused { paths: refused });
    }
    if !displaced.is_empty() {
        outcome.warnings.push(books.displaced.warning(displaced));
    }
    record.save(&books.record).map_err(bookkeeping("write", &books.record))?;
    Ok(outcome)
}
