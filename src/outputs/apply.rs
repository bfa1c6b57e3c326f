//! Steps -> the host, all or nothing.
//!
//! Each step is one rename (or mkdir, rmdir, chmod) below directory handles and can be taken back: a file that is
//! replaced is *exchanged* with its slot, a file that is deleted is renamed into the staging directory. What comes out
//! of an exchange is looked at before anything else happens: if somebody changed it since it was compared, it goes back,
//! and the build's version is put beside it. So no edit of the user's is lost to the moment between look and rename.
//!
//! When a step fails, all steps before it are taken back. When fastbuild dies, the journal has the steps that are
//! missing ([`recover`]), and the staging directory what they brought out: it is removed only when the record is written
//! and the journal gone, and before that everything in it that is neither a product nor known is moved to safety.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    thread,
};

use cap_std::fs::Dir;
use serde::{Deserialize, Serialize};

use super::{
    OutputError, host_error,
    journal::{self, Journal},
    ops::{Action, Afterwards, Identity, Op, Over, SHADOW, Slot, lossless},
    record::{Content, Record, Written},
    stage::{Claim, Found, Stage, Staged, digest_of, free_name_beside},
    target::{Target, Walk, is_absence},
};
use crate::{
    plan::ApplyMode,
    report::events::{Applied, Warning},
    sys::at::{self, Look},
    tree::{Kind, RelPath, Timestamp},
};

#[cfg(all(test, unix))]
pub(super) mod tests;

/// Where an apply keeps its books.
#[derive(Debug, Clone)]
pub struct Books {
    /// The run's id.
    pub run: String,
    /// The journal's place.
    pub journal: PathBuf,
    /// The record's place.
    pub record: PathBuf,
    /// Where the user's files go that are in the way.
    pub displaced: PathBuf,
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
/// [`OutputError::TakenBack`]: the host is as it was. [`OutputError::Torn`]: it is not, and the error says where the
/// rest lies.
pub fn apply(mut outputs: Vec<Staged>, mut record: Record, books: &Books) -> Result<Outcome, OutputError> {
    for output in &mut outputs {
        if output.apply == ApplyMode::Atomic {
            prepare_swap(output)?;
        }
    }
    if outputs.iter().all(|output| output.ops.is_empty()) {
        return finish(&mut outputs, &[], &mut record, books);
    }
    journal_of(&outputs, books).commit(&books.journal).map_err(bookkeeping("write", &books.journal))?;
    let applied = carry_out(&mut outputs, &books.displaced).and_then(|(undo, done)| {
        // Products that no record knows would be strangers to the next run.
        finish(&mut outputs, &done, &mut record, books)
            .map_err(|error| take_all_back(&mut outputs, undo, error))
    });
    // Before the stages go: a journal without its stage would be taken for one that came to its end. Done, taken back,
    // or torn with the stage kept: in no case is there something that a next start should finish.
    Journal::remove(&books.journal).map_err(bookkeeping("remove", &books.journal))?;
    applied
}

fn journal_of<'a>(outputs: &'a [Staged], books: &Books) -> Journal<'a> {
    let entries = outputs.iter().map(|output| journal::Entry {
        base: output.target.base.clone(),
        root: output.target.prefix.clone(),
        stage: output.stage.path.clone(),
        ops: Cow::Borrowed(&output.ops),
        claims: Cow::Borrowed(&output.claims),
        forgets: output.forgets.iter().cloned().map(journal::Path).collect(),
        displaced: Cow::Borrowed(&output.prepared.done.displaced),
        linked: output.prepared.linked.iter().map(|(path, id)| (journal::Path(path.clone()), *id)).collect(),
    });
    Journal::new(books.run.clone(), books.displaced.clone(), entries.collect())
}

/// What [`recover`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// Steps carried out now.
    pub files: u64,
    /// Steps that could not be: their bytes were lost.
    pub lost: u64,
}

/// Finishes what a run that died had begun to put in place. The project's lock must be held.
///
/// # Errors
/// When a step fails; the journal stays, and the next start tries again.
pub fn recover(journal_path: &Path, record_path: &Path) -> Result<Option<Recovered>, OutputError> {
    let Some(journal) = Journal::load(journal_path) else {
        // Damaged or of another version: nothing that can be carried out. Its stage is removed with its run's.
        Journal::remove(journal_path).map_err(bookkeeping("remove", journal_path))?;
        return Ok(None);
    };
    let mut record = Record::load(record_path);
    let mut recovered = Recovered { files: 0, lost: 0 };
    let mut stages = Vec::new();
    for entry in &journal.entries {
        // Without its stage or its base there is nothing left to do: the run had come to its end, or somebody tidied up.
        let (Ok(mut stage), Ok(target)) = (Stage::reopen(&entry.stage), Target::directory(&entry.base))
        else {
            continue;
        };
        // It may hold the only copy of a file of the user's: it goes when all is done, and not by an error on the way.
        stage.keep();
        let part = finish_entry(entry, &target, &mut stage, &journal.displaced, &mut record)?;
        recovered.files += part.files;
        recovered.lost += part.lost;
        stages.push(stage);
    }
    record.save(record_path).map_err(bookkeeping("write", record_path))?;
    Journal::remove(journal_path).map_err(bookkeeping("remove", journal_path))?;
    stages.iter_mut().for_each(Stage::release);
    Ok(Some(recovered))
}

/// Carries out what is missing of one output's steps.
fn finish_entry(
    entry: &journal::Entry<'_>,
    target: &Target,
    stage: &mut Stage,
    displaced: &Path,
    record: &mut Record,
) -> Result<Recovered, OutputError> {
    let (whole, lost): (Vec<_>, Vec<_>) = entry.ops.iter().cloned().partition(|op| is_whole(op, stage));
    let mut executor = Executor::new(target, stage, Attempt::Again);
    executor.carry_out_all(&whole).map_err(|Failed { what, path, source }| OutputError::Host {
        what,
        path: target.absolute(&path),
        source,
    })?;
    let files = executor.undo.len() as u64;
    let mut undo = std::mem::take(&mut executor.undo);
    let mut done = executor.into_done();
    let linked = entry.linked.iter().map(|(path, id)| (path.0.clone(), *id)).collect();
    rescue(target, &entry.root, stage, &linked, &mut done, &mut undo)?;
    let strays = strays(entry, &done.displaced, stage)
        .map_err(host_error("look at the files in", stage.path.clone()))?;
    save_displaced(stage, &strays, target, displaced)?;
    settle_directories(target, &done);
    for path in &entry.forgets {
        record.forget(&target.absolute(&path.0));
    }
    let seen = stage.now().map_err(host_error("make a file in", &stage.path))?;
    note_claims(record, target, (&entry.ops, &entry.claims), &done.conflicts, seen);
    Ok(Recovered { files, lost: lost.len() as u64 })
}

/// What lies in the stage of a run that died and is neither a product nor anything that fastbuild knew: the user's files
/// that were in the way, and edits that came between look and rename.
fn strays(entry: &journal::Entry<'_>, displaced: &[Displaced], stage: &Stage) -> io::Result<Vec<Displaced>> {
    let mut ours = HashSet::new();
    let mut slots = HashSet::new();
    let mut paths = HashMap::new();
    let mut names: HashMap<Vec<u8>, &RelPath> = HashMap::new();
    for op in entry.ops.iter() {
        let over = match &op.action {
            Action::Put { slot, over } => {
                slots.insert((slot.id.dev, slot.id.ino));
                names.insert(slot.name(), &op.path);
                *over
            }
            Action::MakeDir { over, .. } => *over,
            Action::Delete { of } => Over::Known(*of),
            _ => Over::Nothing,
        };
        match over {
            Over::Known(id) => drop(ours.insert(id)),
            Over::Stranger(id) => drop(paths.insert(id, &op.path)),
            Over::Nothing | Over::EmptiedDir { .. } => {}
        }
    }
    names.extend(
        entry.displaced.iter().chain(displaced).map(|displaced| (displaced.name.clone(), &displaced.path)),
    );
    let mut strays = Vec::new();
    for name in at::names(&stage.dir)? {
        let Some(look) = at::look(&stage.dir, &name)? else { continue };
        let id = Identity::from(&look);
        if &*name == SHADOW || ours.contains(&id) || slots.contains(&(id.dev, id.ino)) {
            continue;
        }
        let path = match paths.get(&id).or_else(|| names.get(&*name)) {
            Some(path) => (*path).clone(),
            None => entry.root.join(&[b"unknown-", &*name].concat()).map_err(io::Error::other)?,
        };
        strays.push(Displaced { path, name: name.into() });
    }
    Ok(strays)
}

/// Whether a step's bytes are still what was staged, which a power cut does not promise.
fn is_whole(op: &Op, stage: &Stage) -> bool {
    let Action::Put { slot: slot @ Slot { what: Content::File(digest), .. }, .. } = &op.action else {
        return true;
    };
    match at::look(&stage.dir, &slot.name()) {
        Ok(Some(look)) if slot.is(&look) => at::open_file(&stage.dir, &slot.name())
            .and_then(|mut file| digest_of(&mut file))
            .is_ok_and(|d| d == *digest),
        // It is in place already.
        _ => true,
    }
}

fn bookkeeping(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OutputError {
    let path = path.to_owned();
    move |source| OutputError::Bookkeeping { what, path, source }
}

/// What the steps of one output left to be done.
#[derive(Debug, Default)]
struct Done {
    made: Vec<Made>,
    /// Read-only directories that were made writable for a while, and the mode that they get back.
    loosened: BTreeMap<RelPath, u32>,
    displaced: Vec<Displaced>,
    conflicts: Vec<LateConflict>,
    displaced_files: u64,
}

impl Done {
    fn absorb(&mut self, other: Done) {
        self.made.extend(other.made);
        self.loosened.extend(other.loosened);
        self.displaced.extend(other.displaced);
        self.conflicts.extend(other.conflicts);
        self.displaced_files += other.displaced_files;
    }
}

/// A file of the user's that was in a product's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Displaced {
    /// Where it was.
    #[serde(with = "lossless")]
    pub path: RelPath,
    /// Its name in the staging directory.
    pub name: Vec<u8>,
}

#[derive(Debug)]
struct Made {
    path: RelPath,
    mode: u32,
    mtime: Timestamp,
}

/// The user changed a path after it was compared.
#[derive(Debug)]
struct LateConflict {
    path: RelPath,
    beside: Option<RelPath>,
}

/// For each output, how to take its steps back and what they left to be done.
type CarriedOut = (Vec<Vec<Undo>>, Vec<Done>);

fn carry_out(outputs: &mut [Staged], displaced: &Path) -> Result<CarriedOut, OutputError> {
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
    for (output, undo) in outputs.iter_mut().zip(undos).rev() {
        let mut executor = Executor::new(&output.target, &output.stage, Attempt::First);
        if let Err(undo) = executor.take_back(undo) {
            output.stage.keep();
            return OutputError::Torn { what, path, undo, stage: output.stage.path.clone(), source };
        }
    }
    OutputError::TakenBack { what, path, source }
}

/// After the last step: directories get mode and time, the record is written.
fn finish(
    outputs: &mut [Staged],
    done: &[Done],
    record: &mut Record,
    books: &Books,
) -> Result<Outcome, OutputError> {
    let mut outcome = Outcome::default();
    let mut displaced = 0;
    let nothing = Done::default();
    for (output, done) in outputs.iter_mut().zip(done.iter().chain(std::iter::repeat(&nothing))) {
        settle_directories(&output.target, done);
        for path in &output.forgets {
            record.forget(&output.target.absolute(path));
        }
        let seen = output.stage.now().map_err(host_error("make a file in", &output.stage.path))?;
        note_claims(record, &output.target, (&output.ops, &output.claims), &done.conflicts, seen);
        let late = done.conflicts.len() as u64;
        let beside = done.conflicts.iter().filter(|late| late.beside.is_some()).count() as u64;
        outcome.applied.written += output.applied.written.saturating_sub(beside);
        outcome.applied.deleted += output.applied.deleted.saturating_sub(late - beside);
        outcome.applied.unchanged += output.applied.unchanged;
        outcome.applied.conflicts += output.applied.conflicts + late;
        outcome.warnings.append(&mut output.warnings);
        outcome.warnings.extend(done.conflicts.iter().map(|late| Warning::Conflict {
            path: output.target.absolute(&late.path),
            beside: late.beside.as_ref().map(|beside| output.target.absolute(beside)),
        }));
        displaced += done.displaced_files;
    }
    if displaced > 0 {
        outcome.warnings.push(Warning::Displaced { files: displaced, to: books.displaced.clone() });
    }
    record.save(&books.record).map_err(bookkeeping("write", &books.record))?;
    Ok(outcome)
}

/// Deepest first: a directory may be read-only, and its time changes with its entries.
fn settle_directories(target: &Target, done: &Done) {
    let mut walk = Walk::new(&target.dir);
    for (path, mode) in done.loosened.iter().rev() {
        // It may be gone by now, or replaced.
        if matches!(walk.look(path), Ok(Some(Look { kind: Some(Kind::Directory), .. }))) {
            let settled = walk.parent(path).and_then(|(dir, name)| at::set_mode(dir, name, *mode));
            warn_unsettled(path, settled);
        }
    }
    for Made { path, mode, mtime } in done.made.iter().rev() {
        let settled = walk.parent(path).and_then(|(dir, name)| {
            at::set_mode(dir, name, *mode).and_then(|()| at::set_mtime(dir, name, *mtime))
        });
        warn_unsettled(path, settled);
    }
}

fn warn_unsettled(path: &RelPath, settled: io::Result<()>) {
    if let Err(error) = settled {
        tracing::warn!(%path, %error, "could not set mode and time of a directory");
    }
}

/// Notes what is fastbuild's now: what the steps put in place, and what was right already.
fn note_claims(
    record: &mut Record,
    target: &Target,
    (ops, claims): (&[Op], &[Claim]),
    late: &[LateConflict],
    seen: Timestamp,
) {
    let late: HashSet<&RelPath> = late.iter().map(|late| &late.path).collect();
    let mut walk = Walk::new(&target.dir);
    let mut note = |path: &RelPath, what: &Content, is: Found| {
        let Ok(Some(look)) = walk.look(path) else { return };
        let (still, seen) = match is {
            Found::Directory => (true, seen),
            Found::File(id) => (id == Identity::from(&look), seen),
            Found::Untouched(stamp, since) => (stamp == look.stamp, since),
        };
        if still && !late.contains(path) {
            let entry = Written { what: what.clone(), mode: look.mode, stamp: look.stamp, seen };
            record.set(&target.absolute(path), entry);
        }
    };
    for (path, what, is) in ops.iter().filter_map(claimed_by) {
        note(path, what, is);
    }
    for Claim { path, what, is } in claims {
        note(path, what, *is);
    }
}

/// What a step makes fastbuild's.
fn claimed_by(op: &Op) -> Option<(&RelPath, &Content, Found)> {
    match (&op.action, op.then) {
        (Action::Put { slot, .. }, Afterwards::Fastbuilds) => {
            Some((&op.path, &slot.what, Found::File(slot.id)))
        }
        (Action::MakeDir { .. }, Afterwards::Fastbuilds) => {
            Some((&op.path, &Content::Directory, Found::Directory))
        }
        _ => None,
    }
}

/// A step that was done, and how to take it back.
#[derive(Debug)]
enum Undo {
    /// `path` and the stage's `name` were exchanged.
    Exchanged { path: RelPath, name: Vec<u8> },
    /// The stage's `name` was renamed to `path`.
    Put { path: RelPath, name: Vec<u8> },
    /// `path` was renamed to the stage's `name`.
    TakenOut { path: RelPath, name: Vec<u8> },
    /// `path` was made.
    MadeDir { path: RelPath },
    /// `path` was an empty directory of this mode.
    RemovedDir { path: RelPath, mode: u32 },
    /// `path` had this mode.
    Mode { path: RelPath, was: u32 },
    /// `path` of the old tree, which an exchange had brought into the stage, was renamed to the stage's `name`.
    Rescued { path: RelPath, name: Vec<u8> },
}

/// What the owner needs to change a directory's entries, and to move it.
const WRITABLE: u32 = 0o700;

/// Steps of one kind from which on several threads share them.
const WORTH_SHARING: usize = 64;
/// How many: each step is a round trip or two where the target lies on a mount.
const THREADS: usize = 8;

/// A step that did not go.
#[derive(Debug)]
struct Failed {
    what: &'static str,
    path: RelPath,
    source: io::Error,
}

/// Whether steps may have been carried out before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    Again,
}

/// Carries out the steps of one output.
struct Executor<'a> {
    attempt: Attempt,
    target: &'a Target,
    stage: &'a Stage,
    walk: Walk<'a>,
    undo: Vec<Undo>,
    done: Done,
    /// The mode of the prepared tree, as it was found first.
    prepared_mode: Option<u32>,
}

impl<'a> Executor<'a> {
    fn new(target: &'a Target, stage: &'a Stage, attempt: Attempt) -> Executor<'a> {
        Executor {
            attempt,
            target,
            stage,
            walk: Walk::new(&target.dir),
            undo: Vec::new(),
            done: Done::default(),
            prepared_mode: None,
        }
    }

    fn into_done(self) -> Done {
        self.done
    }

    /// Carries steps out: directories first, from the top down; then what goes into them, in any order; then the rest
    /// in the order that it has.
    fn carry_out_all(&mut self, ops: &[Op]) -> Result<(), Failed> {
        let is_put = |op: &&Op| {
            matches!(op.action, Action::Put { over: Over::Nothing | Over::Known(_) | Over::Stranger(_), .. })
        };
        let is_directory = |op: &&Op| matches!(op.action, Action::MakeDir { .. });
        let puts: Vec<&Op> = ops.iter().filter(is_put).collect();
        ops.iter().filter(is_directory).try_for_each(|op| self.carry_out(op))?;
        if puts.len() < WORTH_SHARING {
            puts.into_iter().try_for_each(|op| self.carry_out(op))?;
        } else {
            self.share(&puts)?;
        }
        ops.iter().filter(|op| !is_put(op) && !is_directory(op)).try_for_each(|op| self.carry_out(op))
    }

    /// Carries out steps that do not depend on each other. What each thread did can be taken back whichever of them
    /// fails.
    fn share(&mut self, ops: &[&Op]) -> Result<(), Failed> {
        let (target, stage, attempt) = (self.target, self.stage, self.attempt);
        let parts = thread::scope(|scope| {
            let work = |part: &'_ [&Op]| {
                let mut executor = Executor::new(target, stage, attempt);
                let failed = part.iter().try_for_each(|op| executor.carry_out(op)).err();
                (executor.undo, executor.done, failed)
            };
            let threads: Vec<_> =
                ops.chunks(ops.len().div_ceil(THREADS)).map(|part| scope.spawn(move || work(part))).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined.collect::<Result<Vec<_>, _>>().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let mut failure = None;
        for (undo, done, failed) in parts {
            self.undo.extend(undo);
            self.done.absorb(done);
            failure = failure.or(failed);
        }
        self.walk.forget();
        failure.map_or(Ok(()), Err)
    }

    fn carry_out(&mut self, op: &Op) -> Result<(), Failed> {
        let done = match self.try_once(op) {
            // Products have read-only directories, which their owner may still change. A step that was denied has
            // done nothing.
            Err((_, error)) if error.kind() == io::ErrorKind::PermissionDenied && self.loosen(&op.path) => {
                self.try_once(op)
            }
            other => other,
        };
        done.map_err(|(what, source)| Failed { what, path: op.path.clone(), source })
    }

    /// Makes the directory that holds `path`, and `path` itself if it is one, writable for its owner. Says whether
    /// that changed anything.
    fn loosen(&mut self, path: &RelPath) -> bool {
        let mut changed = false;
        for path in path.parent().into_iter().chain([path.clone()]).filter(|path| !path.is_root()) {
            let Ok(Some(Look { kind: Some(Kind::Directory), mode, .. })) = self.look(&path) else { continue };
            if mode & WRITABLE == WRITABLE {
                continue;
            }
            let set =
                self.walk.parent(&path).and_then(|(dir, name)| at::set_mode(dir, name, mode | WRITABLE));
            if set.is_ok() {
                self.undo.push(Undo::Mode { path: path.clone(), was: mode });
                self.done.loosened.entry(path).or_insert(mode);
                changed = true;
            }
        }
        changed
    }

    fn try_once(&mut self, op: &Op) -> Result<(), (&'static str, io::Error)> {
        let path = &op.path;
        match &op.action {
            Action::MakeDir { mode, mtime, over } => {
                self.make_dir(path, *mode, *mtime, *over).map_err(|error| ("make the directory", error))
            }
            Action::Put { slot, over } => self.put(path, slot, *over).map_err(|error| ("put", error)),
            Action::SetMode { mode, was, of } => {
                self.set_mode(path, *mode, *was, *of).map_err(|error| ("set the mode of", error))
            }
            Action::Delete { of } => self.delete(path, *of).map_err(|error| ("delete", error)),
            Action::RemoveDir { mode } => {
                self.remove_dir(path, *mode).map(drop).map_err(|error| ("remove the directory", error))
            }
            Action::Swap { shadow } => self.swap(path, *shadow).map_err(|error| ("exchange", error)),
        }
    }

    fn look(&mut self, path: &RelPath) -> io::Result<Option<Look>> {
        self.walk.look(path)
    }

    fn put(&mut self, path: &RelPath, slot: &Slot, over: Over) -> io::Result<()> {
        let name = slot.name();
        if self.attempt == Attempt::Again {
            let staged = at::look(&self.stage.dir, &name)?;
            if staged.is_none_or(|look| !slot.is(&look)) {
                // Done before a crash; what the exchange brought out is among the strays.
                return Ok(());
            }
        }
        match over {
            Over::Nothing => self.put_new(path, name),
            Over::EmptiedDir { mode } => match self.remove_dir(path, mode)? {
                Removed::Gone => self.put_new(path, name),
                Removed::NotEmpty => self.put_beside(path, name),
            },
            Over::Known(expected) | Over::Stranger(expected) => {
                let found = self.look(path)?.map(|look| Identity::from(&look));
                match found {
                    None => self.put_new(path, name),
                    Some(found) if found == expected => self.replace(path, name, expected, over),
                    Some(_) => self.put_beside(path, name),
                }
            }
        }
    }

    fn put_new(&mut self, path: &RelPath, name: Vec<u8>) -> io::Result<()> {
        let (dir, entry) = self.walk.parent(path)?;
        match at::rename_new(&self.stage.dir, &name, dir, entry) {
            Ok(()) => {
                self.undo.push(Undo::Put { path: path.clone(), name });
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.put_beside(path, name),
            Err(error) => Err(error),
        }
    }

    fn replace(&mut self, path: &RelPath, name: Vec<u8>, expected: Identity, over: Over) -> io::Result<()> {
        let spare = self.stage.number().to_string();
        let (dir, entry) = self.walk.parent(path)?;
        at::exchange(&self.stage.dir, &name, dir, entry, spare.as_bytes())?;
        let came_out = at::look(&self.stage.dir, &name)?.map(|look| Identity::from(&look));
        if came_out != Some(expected) {
            at::exchange(&self.stage.dir, &name, dir, entry, spare.as_bytes())?;
            return self.put_beside(path, name);
        }
        self.walk.forget();
        self.undo.push(Undo::Exchanged { path: path.clone(), name: name.clone() });
        if let Over::Stranger(_) = over {
            self.displace(path, name);
        }
        Ok(())
    }

    fn displace(&mut self, path: &RelPath, name: Vec<u8>) {
        self.done.displaced_files += 1;
        self.done.displaced.push(Displaced { path: path.clone(), name });
    }

    fn put_beside(&mut self, path: &RelPath, name: Vec<u8>) -> io::Result<()> {
        let beside = free_name_beside(self.target, path).map_err(io::Error::other)?;
        let (dir, entry) = self.walk.parent(&beside)?;
        at::rename_new(&self.stage.dir, &name, dir, entry)?;
        self.undo.push(Undo::Put { path: beside.clone(), name });
        self.done.conflicts.push(LateConflict { path: path.clone(), beside: Some(beside) });
        Ok(())
    }

    fn make_dir(
        &mut self,
        path: &RelPath,
        mode: u32,
        mtime: Option<Timestamp>,
        over: Over,
    ) -> io::Result<()> {
        match self.look(path)? {
            Some(Look { kind: Some(Kind::Directory), .. }) => {
                // Made before a crash, which came before it got its mode.
                if let (Attempt::Again, Some(mtime)) = (self.attempt, mtime) {
                    self.done.made.push(Made { path: path.clone(), mode, mtime });
                }
                return Ok(());
            }
            Some(found) => match over {
                Over::Known(expected) | Over::Stranger(expected) if expected == Identity::from(&found) => {
                    let name = self.take_out(path, expected)?.ok_or(io::ErrorKind::AlreadyExists)?;
                    if let Over::Stranger(_) = over {
                        self.displace(path, name);
                    }
                }
                _ => return Err(io::ErrorKind::AlreadyExists.into()),
            },
            None => {}
        }
        let (dir, entry) = self.walk.parent(path)?;
        match mtime {
            Some(mtime) => {
                at::make_dir(dir, entry)?;
                self.done.made.push(Made { path: path.clone(), mode, mtime });
            }
            None => at::make_plain_dir(dir, entry)?,
        }
        self.undo.push(Undo::MadeDir { path: path.clone() });
        Ok(())
    }

    /// Renames `path` into the stage; `None` when it was not what was expected and lies where it was again.
    fn take_out(&mut self, path: &RelPath, expected: Identity) -> io::Result<Option<Vec<u8>>> {
        let name = self.stage.number().to_string().into_bytes();
        let (dir, entry) = self.walk.parent(path)?;
        at::rename_new(dir, entry, &self.stage.dir, &name)?;
        let came_out = at::look(&self.stage.dir, &name)?.map(|look| Identity::from(&look));
        if came_out != Some(expected) {
            at::rename_new(&self.stage.dir, &name, dir, entry)?;
            return Ok(None);
        }
        self.walk.forget();
        self.undo.push(Undo::TakenOut { path: path.clone(), name: name.clone() });
        Ok(Some(name))
    }

    fn delete(&mut self, path: &RelPath, of: Identity) -> io::Result<()> {
        let taken = match self.look(path)? {
            None => return Ok(()),
            Some(found) if Identity::from(&found) == of => self.take_out(path, of)?,
            Some(_) => None,
        };
        if taken.is_none() {
            self.done.conflicts.push(LateConflict { path: path.clone(), beside: None });
        }
        Ok(())
    }

    fn remove_dir(&mut self, path: &RelPath, mode: u32) -> io::Result<Removed> {
        match self.look(path)? {
            None => return Ok(Removed::Gone),
            Some(Look { kind: Some(Kind::Directory), .. }) => {}
            // Somebody put something else there meanwhile.
            Some(_) => return Ok(Removed::NotEmpty),
        }
        self.walk.forget();
        let (dir, entry) = self.walk.parent(path)?;
        match at::remove_dir(dir, entry) {
            Ok(()) => {
                self.undo.push(Undo::RemovedDir { path: path.clone(), mode });
                Ok(Removed::Gone)
            }
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(Removed::NotEmpty),
            Err(error) => Err(error),
        }
    }

    fn set_mode(&mut self, path: &RelPath, mode: u32, was: u32, of: Identity) -> io::Result<()> {
        match self.look(path)? {
            Some(Look { kind: Some(Kind::Directory), .. }) => {}
            Some(found) if Identity::from(&found) == of => {}
            _ => return Ok(()),
        }
        let (dir, entry) = self.walk.parent(path)?;
        at::set_mode(dir, entry, mode)?;
        self.undo.push(Undo::Mode { path: path.clone(), was });
        if let Some(loosened) = self.done.loosened.get_mut(path) {
            *loosened = mode;
        }
        Ok(())
    }

    fn swap(&mut self, path: &RelPath, shadow: u64) -> io::Result<()> {
        let Some(prepared) = at::look(&self.stage.dir, SHADOW)?.filter(|look| look.stamp.ino == shadow)
        else {
            return Ok(());
        };
        // A directory that its owner may not write to cannot be moved into another one. A second try finds the mode that
        // the first one gave it.
        let mode = *self.prepared_mode.get_or_insert(prepared.mode);
        if prepared.mode & WRITABLE != WRITABLE {
            at::set_mode(&self.stage.dir, SHADOW, prepared.mode | WRITABLE)?;
        }
        let spare = self.stage.number().to_string();
        let found = self.look(path)?;
        let (dir, entry) = self.walk.parent(path)?;
        match found {
            Some(_) => {
                at::exchange(&self.stage.dir, SHADOW, dir, entry, spare.as_bytes())?;
                self.undo.push(Undo::Exchanged { path: path.clone(), name: SHADOW.to_owned() });
            }
            None => {
                at::rename_new(&self.stage.dir, SHADOW, dir, entry)?;
                self.undo.push(Undo::Put { path: path.clone(), name: SHADOW.to_owned() });
            }
        }
        self.walk.forget();
        self.done.loosened.insert(path.clone(), mode);
        Ok(())
    }

    /// Takes steps back, the last one first.
    fn take_back(&mut self, undo: Vec<Undo>) -> io::Result<()> {
        for step in undo.into_iter().rev() {
            self.walk.forget();
            match step {
                Undo::Exchanged { path, name } => {
                    let spare = self.stage.number().to_string();
                    let (dir, entry) = self.walk.parent(&path)?;
                    at::exchange(&self.stage.dir, &name, dir, entry, spare.as_bytes())?;
                }
                Undo::Put { path, name } => {
                    let (dir, entry) = self.walk.parent(&path)?;
                    at::rename_new(dir, entry, &self.stage.dir, &name)?;
                }
                Undo::TakenOut { path, name } => {
                    let (dir, entry) = self.walk.parent(&path)?;
                    at::rename_new(&self.stage.dir, &name, dir, entry)?;
                }
                Undo::MadeDir { path } => {
                    let (dir, entry) = self.walk.parent(&path)?;
                    at::remove_dir(dir, entry)?;
                }
                Undo::RemovedDir { path, mode } => {
                    let (dir, entry) = self.walk.parent(&path)?;
                    at::make_dir(dir, entry)?;
                    at::set_mode(dir, entry, mode)?;
                }
                Undo::Mode { path, was } => {
                    let (dir, entry) = self.walk.parent(&path)?;
                    at::set_mode(dir, entry, was)?;
                }
                Undo::Rescued { path, name } => {
                    let mut old = Walk::new(&self.stage.dir);
                    let path = RelPath::new(SHADOW).unwrap_or_default().append(&path);
                    let (dir, entry) = old.parent(&path)?;
                    at::rename_new(&self.stage.dir, &name, dir, entry)?;
                }
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removed {
    Gone,
    NotEmpty,
}

/// Saves the user's files that were in the way. They stay in the stage as well until all is done, so that a failure
/// can still put them back.
fn save_displaced(
    stage: &Stage,
    displaced: &[Displaced],
    target: &Target,
    to: &Path,
) -> Result<(), OutputError> {
    for Displaced { path, name } in displaced {
        let absolute = target.absolute(path);
        let below =
            absolute.strip_prefix(absolute.ancestors().last().unwrap_or(Path::new("/"))).unwrap_or(&absolute);
        safe_place(to, below.parent().unwrap_or(Path::new("")))
            .and_then(|dir| save_entry(&stage.dir, name, &dir, path.file_name().unwrap_or(b"output")))
            .map_err(|source| OutputError::Host { what: "move to safety", path: absolute, source })?;
    }
    Ok(())
}

/// The directory `below` in `to`, made where it is missing. A link that was saved there before is not followed: what was
/// below it by then goes to `to` itself.
fn safe_place(to: &Path, below: &Path) -> io::Result<Dir> {
    std::fs::create_dir_all(to)?;
    let top = Dir::open_ambient_dir(to, cap_std::ambient_authority())?;
    let mut here = top.try_clone()?;
    for component in below.components() {
        let name = component.as_os_str().as_encoded_bytes();
        match at::make_plain_dir(&here, name) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        here = match at::open_dir(&here, name) {
            Ok(dir) => dir,
            Err(error) if is_absence(&error) => return Ok(top),
            Err(error) => return Err(error),
        };
    }
    Ok(here)
}

/// [`copy_entry`] under a free name: a try that a crash cut short may have left something under the first ones.
fn save_entry(from: &Dir, name: &[u8], to: &Dir, as_name: &[u8]) -> io::Result<()> {
    let mut candidate = as_name.to_owned();
    for number in 2.. {
        match at::look(to, &candidate)? {
            None => break,
            // Saved already.
            Some(saved) if at::look(from, name)?.is_some_and(|look| look.stamp.ino == saved.stamp.ino) => {
                return Ok(());
            }
            Some(_) => {
                candidate = [&as_name[..as_name.len().min(240)], format!("-{number}").as_bytes()].concat()
            }
        }
    }
    copy_entry(from, name, to, &candidate)
}

/// Copies a file, a link or a directory with all that is in it; a file by a hard link where that works, and a socket,
/// fifo or device by nothing else.
fn copy_entry(from: &Dir, name: &[u8], to: &Dir, as_name: &[u8]) -> io::Result<()> {
    let Some(look) = at::look(from, name)? else { return Ok(()) };
    match &look.kind {
        Some(Kind::Directory) => {
            at::make_dir(to, as_name)?;
            let (inner_from, inner_to) = (at::open_dir(from, name)?, at::open_dir(to, as_name)?);
            for child in at::names(&inner_from)? {
                copy_entry(&inner_from, &child, &inner_to, &child)?;
            }
            at::finish_by_name(to, as_name, look.mode, look.stamp.mtime)
        }
        Some(Kind::Symlink { target }) => {
            at::hard_link(from, name, to, as_name).or_else(|_| at::symlink(to, as_name, target))
        }
        Some(Kind::File { .. }) => match at::hard_link(from, name, to, as_name) {
            Ok(()) => Ok(()),
            Err(_) => {
                let mut source = at::open_file(from, name)?;
                let mut copy = at::create_file(to, as_name)?;
                io::copy(&mut source, &mut copy)?;
                at::finish_by_name(to, as_name, look.mode, look.stamp.mtime)
            }
        },
        None => at::hard_link(from, name, to, as_name),
    }
}

/// A whole new tree that waits for its exchange.
#[derive(Debug, Default)]
pub struct Prepared {
    done: Done,
    /// What the old tree held when its files were linked, by path below the output's root.
    linked: HashMap<RelPath, Identity>,
}

/// Builds an output's whole new tree in the stage, from hard links to what stays and slots for what is new, so that
/// the one step that is left is to exchange it for the old one.
fn prepare_swap(output: &mut Staged) -> Result<(), OutputError> {
    let root = output.target.prefix.clone();
    // A file or link in the directory's place is exchanged for it by its own step; there is no new tree to prepare, and
    // what the user has in the old one decides, at that step, where the file goes.
    let becomes_no_directory =
        output.ops.iter().any(|op| op.path == root && matches!(op.action, Action::Put { .. }));
    if output.ops.is_empty() || becomes_no_directory {
        return Ok(());
    }
    let failed = |what: &'static str, stage: &Stage| host_error(what, stage.path.clone());
    let mut copied = HashMap::new();
    let mut walk = Walk::new(&output.target.dir);
    let old = walk.look(&root).map_err(host_error("look at", output.target.root()))?;
    match &old {
        None => {}
        Some(Look { kind: Some(Kind::Directory), .. }) => {
            let links = &mut Links { old: &mut output.prepared.linked, copied: &mut copied };
            walk.parent(&root)
                .and_then(|(dir, name)| {
                    link_tree(dir, name, &output.stage.dir, SHADOW, &RelPath::root(), links)
                })
                .map_err(failed("link what stays into", &output.stage))?;
        }
        Some(_) => {
            let why = "is a file, and --atomic exchanges directories";
            return Err(OutputError::BadTarget { path: output.target.root(), why });
        }
    }
    let dir = output.stage.dir.try_clone().map_err(failed("open", &output.stage))?;
    let shadow = Target { base: output.stage.path.clone(), dir, prefix: RelPath::root() };
    let shadow_root = RelPath::new(SHADOW).unwrap_or_default();
    let (inside, outside): (Vec<Op>, Vec<Op>) =
        std::mem::take(&mut output.ops).into_iter().partition(|op| op.path.strip_prefix(&root).is_some());
    let claims: Vec<_> = inside
        .iter()
        .filter_map(claimed_by)
        .map(|(path, what, is)| Claim { path: path.clone(), what: what.clone(), is })
        .collect();
    let moved = inside.into_iter().map(|mut op| {
        op.action.translate(&copied);
        let tail = op.path.strip_prefix(&root).unwrap_or_default();
        Op { path: shadow_root.append(&tail), ..op }
    });
    let in_place = |path: &RelPath| root.append(&path.strip_prefix(&shadow_root).unwrap_or_default());
    let mut executor = Executor::new(&shadow, &output.stage, Attempt::First);
    executor.carry_out_all(&moved.collect::<Vec<_>>()).map_err(|Failed { what, path, source }| {
        OutputError::Host { what, path: output.target.absolute(&in_place(&path)), source }
    })?;
    let done = executor.into_done();
    settle_directories(&shadow, &done);
    for claim in &mut output.claims {
        // A further name changes the moment of a file's last change.
        let id = match claim.is {
            Found::Directory => continue,
            Found::File(id) => id,
            Found::Untouched(stamp, _) => Identity::of_file(&stamp),
        };
        claim.is = Found::File(copied.get(&id).copied().unwrap_or(id));
    }
    output.claims.extend(claims);
    output.prepared.done = Done {
        made: Vec::new(),
        loosened: BTreeMap::new(),
        displaced: done
            .displaced
            .into_iter()
            .map(|Displaced { path, name }| Displaced { path: in_place(&path), name })
            .collect(),
        displaced_files: done.displaced_files,
        conflicts: done
            .conflicts
            .into_iter()
            .map(|late| LateConflict {
                path: in_place(&late.path),
                beside: late.beside.as_ref().map(in_place),
            })
            .collect(),
    };
    output.ops = outside;
    drop_replaced(output).map_err(failed("remove a file in", &output.stage))?;
    let look =
        at::look(&output.stage.dir, SHADOW).map_err(failed("look at the new tree in", &output.stage))?;
    if let Some(look) = look {
        let action = Action::Swap { shadow: look.stamp.ino };
        output.ops.push(Op { path: root, action, then: Afterwards::Nobodys });
    }
    Ok(())
}

/// What the new tree's steps left in the stage of the old one's links is of no more use, and a recovery must not take it
/// for the user's.
fn drop_replaced(output: &Staged) -> io::Result<()> {
    let displaced = output.prepared.done.displaced.iter().map(|displaced| displaced.name.clone());
    // What is put beside the output is no part of the new tree.
    let outside = output.ops.iter().filter_map(|op| match &op.action {
        Action::Put { slot, .. } => Some(slot.name()),
        _ => None,
    });
    let kept: HashSet<Vec<u8>> = displaced.chain(outside).collect();
    for name in at::names(&output.stage.dir)? {
        if &*name != SHADOW && !kept.contains(&*name) {
            at::remove_file(&output.stage.dir, &name)?;
        }
    }
    Ok(())
}

/// What [`link_tree`] found out.
struct Links<'a> {
    /// What was there, by path.
    old: &'a mut HashMap<RelPath, Identity>,
    /// What is a copy in the new tree, because it could not be linked: original -> copy.
    copied: &'a mut HashMap<Identity, Identity>,
}

/// Makes `to_name` a copy of the directory `name` whose files are hard links to the originals (or copies, where links
/// are not to be had).
fn link_tree(
    from: &Dir,
    name: &[u8],
    to: &Dir,
    to_name: &[u8],
    path: &RelPath,
    links: &mut Links<'_>,
) -> io::Result<()> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let look = at::look(from, name)?.ok_or_else(missing)?;
    at::make_dir(to, to_name)?;
    let (inner_from, inner_to) = (at::open_dir(from, name)?, at::open_dir(to, to_name)?);
    for child in at::names(&inner_from)? {
        let Some(child_look) = at::look(&inner_from, &child)? else { continue };
        let child_path = path.join(&child).map_err(io::Error::other)?;
        let id = Identity::from(&child_look);
        links.old.insert(child_path.clone(), id);
        match child_look.kind {
            Some(Kind::Directory) => link_tree(&inner_from, &child, &inner_to, &child, &child_path, links)?,
            _ => copy_entry(&inner_from, &child, &inner_to, &child)?,
        }
        if let Some(copy) =
            at::look(&inner_to, &child)?.map(|look| Identity::from(&look)).filter(|copy| *copy != id)
        {
            links.copied.insert(id, copy);
        }
    }
    at::finish_by_name(to, to_name, look.mode, look.stamp.mtime)
}

/// After an exchange: what somebody wrote into the old tree between link and exchange is saved. Each move is noted in
/// `undo`, behind the exchange: a run that is taken back throws the new tree away, and must find these files in the old
/// one again.
fn rescue(
    target: &Target,
    root: &RelPath,
    stage: &mut Stage,
    linked: &HashMap<RelPath, Identity>,
    done: &mut Done,
    undo: &mut Vec<Undo>,
) -> Result<(), OutputError> {
    if linked.is_empty() {
        return Ok(());
    }
    let failed = host_error("look at the old files in", stage.path.clone());
    let old = match at::open_dir(&stage.dir, SHADOW) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let mut pending = vec![(RelPath::root(), old)];
    let mut strays = Vec::new();
    while let Some((path, dir)) = pending.pop() {
        for name in at::names(&dir).map_err(host_error("read", stage.path.clone()))? {
            let Ok(child) = path.join(&name) else { continue };
            let Ok(Some(look)) = at::look(&dir, &name) else { continue };
            if linked.get(&child) != Some(&Identity::from(&look)) {
                // Written to in place: the new tree has the same file, and with it the edit.
                let new = Walk::new(&target.dir).look(&root.append(&child));
                if look.kind != Some(Kind::Directory)
                    && matches!(&new, Ok(Some(new)) if (new.stamp.dev, new.stamp.ino) == (look.stamp.dev, look.stamp.ino))
                {
                    continue;
                }
                let number = stage.number().to_string().into_bytes();
                at::rename_new(&dir, &name, &stage.dir, &number)
                    .map_err(host_error("move a file in", stage.path.clone()))?;
                undo.push(Undo::Rescued { path: child.clone(), name: number.clone() });
                strays.push((root.append(&child), number));
            } else if look.kind == Some(Kind::Directory) {
                pending.push((
                    child,
                    at::open_dir(&dir, &name).map_err(host_error("open", stage.path.clone()))?,
                ));
            }
        }
    }
    let mut walk = Walk::new(&target.dir);
    for (path, number) in strays {
        let back = walk.parent(&path).and_then(|(dir, name)| at::rename_new(&stage.dir, &number, dir, name));
        match back {
            Ok(()) => undo.push(Undo::Put { path, name: number }),
            Err(_) => {
                done.displaced_files += 1;
                done.displaced.push(Displaced { path, name: number });
            }
        }
    }
    Ok(())
}
