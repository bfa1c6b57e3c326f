//! What a run that died had begun -> finished. The journal has the steps that may be missing, and the staging directory what
//! the others brought out.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
};

use super::{
    atomic::rescue,
    bookkeeping,
    displaced::{Displaced, save_displaced},
    note, settle_directories,
    steps::{Attempt, Executor, Failed},
};
use crate::{
    outputs::{
        OutputError, host_error,
        journal::{self, Journal},
        ops::{Action, Identity, Op, Over, SHADOW, Slot},
        record::{Content, Record},
        stage::{Stage, digest_of},
        target::Target,
    },
    sys::at,
    tree::RelPath,
};

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
    let mut strays = strays(entry, &done.displaced, stage)
        .map_err(host_error("look at the files in", stage.path.clone()))?;
    // Products that give way to what somebody has written since.
    let slots: HashSet<_> = strays.iter().map(|stray| stray.name.clone()).collect();
    strays.extend(done.displaced.iter().filter(|product| !slots.contains(&product.name)).cloned());
    save_displaced(stage, &strays, target, displaced)?;
    settle_directories(target, stage, &done);
    note(record, target, stage, entry.ops.iter().chain(entry.inside.iter()), &done)?;
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
            Action::Remove { of } => Over::Stranger(*of),
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
