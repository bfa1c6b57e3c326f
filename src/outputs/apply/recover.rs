//! Finishes the apply of a run that died. The journal has the steps that may be missing, and the
//! staging directory has the files that the other steps took out.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
};

use super::{
    atomic::rescue,
    settle::{bookkeeping, note, settle_directories},
    steps::{Attempt, Executor},
};
use crate::{
    entry::RelPath,
    outputs::{
        OutputError,
        digest::digest_of,
        host_error,
        journal::{self, Journal},
        ops::{Action, Identity, Op, Over, SHADOW, Slot},
        record::{Content, Record},
        safe::{Displaced, Place, Why, save_displaced},
        stage_dir::Stage,
        target::Target,
    },
    sys::{at, walk::Walk},
};

/// What [`recover`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The run that had begun it.
    pub run: String,
    /// Steps carried out now.
    pub files: u64,
    /// Steps that could not be carried out: their bytes were lost, or the host has changed.
    pub lost: u64,
}

/// Finishes, as far as possible, what a run that died had begun to put in place, and removes the
/// journal when `told` has noted it. The project's lock must be held. `None` when the journal is
/// damaged or another version's: then nothing was done, and the contents of its stage are unknown.
///
/// # Errors
/// When a file of the user cannot be moved to the safe place, or record or journal cannot be
/// written. Then the journal and the stages stay, and the next start tries again.
pub fn recover(
    journal_path: &Path,
    record_path: &Path,
    told: impl FnOnce(&Recovered) -> io::Result<()>,
) -> Result<Option<Recovered>, OutputError> {
    let Some(journal) = Journal::load(journal_path) else { return Ok(None) };
    let mut record = Record::load(record_path);
    let mut recovered = Recovered { run: journal.run.clone(), files: 0, lost: 0 };
    let mut stages = Vec::new();
    for entry in &journal.entries {
        // Without its stage there is nothing to do: the run had ended, or the stage was deleted.
        let mut stage = match Stage::reopen(&entry.stage) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            stage => stage.map_err(host_error("open", &entry.stage))?,
        };
        // It may hold the only copy of a user's file: it goes when all is done, not after an error.
        stage.keep();
        let target = Target::directory(&entry.base)?;
        let (files, lost) = finish_entry(entry, &target, &mut stage, &journal.displaced, &mut record)?;
        recovered.files += files;
        recovered.lost += lost;
        stages.push(stage);
    }
    record.save(record_path).map_err(bookkeeping("write", record_path))?;
    told(&recovered).map_err(bookkeeping("write beside", journal_path))?;
    Journal::remove(journal_path).map_err(bookkeeping("remove", journal_path))?;
    stages.iter_mut().for_each(Stage::release);
    Ok(Some(recovered))
}

/// Carries out the missing steps of one output. Returns how many it did, and how many are lost.
fn finish_entry(
    entry: &journal::Entry<'_>,
    target: &Target,
    stage: &mut Stage,
    displaced: &Place,
    record: &mut Record,
) -> Result<(u64, u64), OutputError> {
    let (whole, lost): (Vec<_>, Vec<_>) = entry
        .ops
        .iter()
        .cloned()
        .partition(|op| is_whole(op, stage) && !has_lost_its_tree(op, entry, target));
    let mut executor = Executor::new(target, stage, Attempt::Again);
    let mut lost = lost.len() as u64;
    if executor.carry_out_all(&whole).is_err() {
        // A directory may have been removed or replaced, or the disk may have changed. Steps that
        // fail are given up: the build can be run again, but not if each start failed here.
        lost += whole.iter().filter(|op| executor.carry_out(op).is_err()).count() as u64;
    }
    let files = executor.undo.len() as u64;
    let mut undo = std::mem::take(&mut executor.undo);
    let mut done = executor.into_done();
    let linked = entry.linked.iter().map(|(path, id)| (path.0.clone(), *id)).collect();
    rescue(target, &entry.root, stage, &linked, &mut done, &mut undo)?;
    let strays = strays(entry, &done.displaced, stage)
        .map_err(host_error("look at the files in", stage.path.clone()))?;
    save_displaced(stage, &strays, target, displaced)?;
    settle_directories(target, stage, &done);
    note(record, target, stage, entry.ops.iter().chain(entry.inside.iter()), &done)?;
    Ok((files, lost))
}

/// Whether a prepared tree waits for its exchange, and the old tree was removed since. The exchange
/// would bring back what the new tree has of the old one.
fn has_lost_its_tree(op: &Op, entry: &journal::Entry<'_>, target: &Target) -> bool {
    matches!(op.action, Action::Swap { .. })
        && !entry.linked.is_empty()
        && matches!(Walk::new(&target.dir).look(&op.path), Ok(None))
}

/// The contents of a dead run's stage that are neither products nor known to fastbuild: the user's
/// files that were in the way, and edits made between look and rename.
fn strays(entry: &journal::Entry<'_>, displaced: &[Displaced], stage: &Stage) -> io::Result<Vec<Displaced>> {
    let mut ours = HashSet::new();
    let mut slots = HashSet::new();
    let mut paths = HashMap::new();
    let mut names: HashMap<Vec<u8>, &RelPath> = HashMap::new();
    // Versions that were replaced or deleted since.
    ours.extend(entry.linked.iter().flat_map(|(_, linked)| [linked.old, linked.new]));
    for op in entry.ops.iter() {
        let mut why = Why::Replaced;
        let over = match &op.action {
            Action::Put { slot, over } => {
                slots.insert((slot.id.dev, slot.id.ino));
                names.insert(slot.name(), &op.path);
                over.clone()
            }
            Action::MakeDir { over, .. } => over.clone(),
            Action::Delete { of } => Over::Known((*of).into()),
            Action::Remove { of } => {
                why = Why::Deleted;
                Over::Stranger((*of).into())
            }
            _ => Over::Nothing,
        };
        match over {
            Over::Known(id) | Over::Same(id) => drop(ours.insert(*id)),
            Over::Stranger(id) => drop(paths.insert(*id, (&op.path, why))),
            Over::Nothing | Over::EmptiedDir { .. } => {}
        }
    }
    let known: HashMap<_, _> =
        entry.displaced.iter().chain(displaced).map(|displaced| (&*displaced.name, displaced)).collect();
    let mut strays = Vec::new();
    for name in at::names(&stage.dir)? {
        if let Some(displaced) = known.get(&*name) {
            strays.push((*displaced).clone());
            continue;
        }
        let Some(look) = at::look(&stage.dir, &name)? else { continue };
        let id = Identity::from(&look);
        if &*name == SHADOW || ours.contains(&id) || slots.contains(&(id.dev, id.ino)) {
            continue;
        }
        let (path, why) = match (paths.get(&id), names.get(&*name)) {
            (Some((path, why)), _) => ((*path).clone(), *why),
            (None, Some(path)) => ((*path).clone(), Why::ChangedMeanwhile),
            (None, None) => {
                let unknown = entry.root.join(&[b"unknown-", &*name].concat()).map_err(io::Error::other)?;
                (unknown, Why::ChangedMeanwhile)
            }
        };
        strays.push(Displaced { path, name: name.into(), why });
    }
    Ok(strays)
}

/// Whether a step's bytes are still the staged ones, which is not certain after a power cut.
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
