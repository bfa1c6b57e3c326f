//! Carries out steps one after the other, each reversible: a replaced file is exchanged with its
//! slot, a deleted file is renamed into the staging directory, and what comes out is checked before
//! anything else happens. Missing directories on the path are made.

use std::{collections::BTreeMap, io, thread};

use crate::{
    entry::{Kind, RelPath, Timestamp},
    outputs::{
        decide::Side,
        digest::digest_of,
        ops::{Action, Identity, Op, Over, SHADOW, Slot},
        record::Content,
        safe::{Displaced, Why},
        stage_dir::Stage,
        target::Target,
    },
    sys::{
        at::{self, Look},
        latency::Pace,
        walk::Walk,
    },
};

/// What the steps of one output left to be done.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub made: Vec<Made>,
    /// Read-only directories that were made writable for a while, and the mode to restore.
    pub loosened: BTreeMap<RelPath, u32>,
    /// Files that go to the safe place; they are in the stage until then.
    pub displaced: Vec<Displaced>,
    pub conflicts: Vec<Conflict>,
    /// Directories that were made and that no step names.
    pub parents: Vec<RelPath>,
    /// Products that gave way.
    pub given_way: u64,
    /// Paths that were to be deleted but stay.
    pub stayed: u64,
}

impl Done {
    pub fn absorb(&mut self, other: Done) {
        self.made.extend(other.made);
        self.loosened.extend(other.loosened);
        self.displaced.extend(other.displaced);
        self.conflicts.extend(other.conflicts);
        self.parents.extend(other.parents);
        self.given_way += other.given_way;
        self.stayed += other.stayed;
    }
}

#[derive(Debug)]
pub(super) struct Made {
    pub path: RelPath,
    pub mode: u32,
    pub mtime: Timestamp,
}

/// A path that was changed after it was compared.
#[derive(Debug)]
pub(super) struct Conflict {
    pub path: RelPath,
    /// Whose version is in its place; the other one is in the safe place.
    pub stands: Side,
}

/// A step that was done, and how to take it back.
#[derive(Debug)]
pub(super) enum Undo {
    /// `path` and the stage's `name` were exchanged.
    Exchanged { path: RelPath, name: StageName },
    /// The stage's `name` was renamed to `path`.
    Put { path: RelPath, name: StageName },
    /// `path` was renamed to the stage's `name`.
    TakenOut { path: RelPath, name: StageName },
    /// `path` was made.
    MadeDir { path: RelPath },
    /// `path` was an empty directory of this mode.
    RemovedDir { path: RelPath, mode: u32 },
    /// `path` had this mode.
    Mode { path: RelPath, was: u32 },
    /// `path` had this mtime.
    Time { path: RelPath, was: Timestamp },
    /// `path` of the old tree, in the stage after an exchange, was renamed to `name` there.
    Rescued { path: RelPath, name: StageName },
}

/// A name in the staging directory. It is small, because there is one for each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StageName {
    /// A number that the stage assigned.
    Number(u64),
    /// [`SHADOW`].
    Shadow,
}

impl StageName {
    /// From the name itself.
    pub fn of(name: &[u8]) -> StageName {
        let number = std::str::from_utf8(name).ok().and_then(|text| text.parse().ok());
        number.map_or(StageName::Shadow, StageName::Number)
    }

    /// The name itself.
    pub fn bytes(self) -> Vec<u8> {
        match self {
            StageName::Number(number) => number.to_string().into_bytes(),
            StageName::Shadow => SHADOW.to_owned(),
        }
    }
}

/// The bits that the owner needs to change a directory's entries, and to move it.
const WRITABLE: u32 = 0o700;

/// From this many steps on several threads share them, where the file system is slow.
const WORTH_SHARING: usize = 64;
/// How many threads: each step is a round trip or two where the target lies on a mount.
const THREADS: usize = 8;
/// Calls that put a file in place.
const CALLS: u32 = 2;

/// A step that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub what: &'static str,
    pub path: RelPath,
    pub source: io::Error,
}

/// Whether steps may have been carried out before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    First,
    Again,
}

/// Carries out the steps of one output.
pub(super) struct Executor<'a> {
    attempt: Attempt,
    target: &'a Target,
    stage: &'a Stage,
    walk: Walk<'a>,
    pub undo: Vec<Undo>,
    done: Done,
    /// Paths where a directory could not be made, because something else is there now.
    blocked: Vec<RelPath>,
    /// The directory of the last put, and the group that it hands on, if it does.
    group: Option<(RelPath, Option<u32>)>,
    /// The mode of the prepared tree, as it was found first.
    prepared_mode: Option<u32>,
}

impl<'a> Executor<'a> {
    pub fn new(target: &'a Target, stage: &'a Stage, attempt: Attempt) -> Executor<'a> {
        Executor {
            attempt,
            target,
            stage,
            walk: Walk::new(&target.dir),
            undo: Vec::new(),
            done: Done::default(),
            blocked: Vec::new(),
            group: None,
            prepared_mode: None,
        }
    }

    pub fn into_done(self) -> Done {
        self.done
    }

    /// Carries steps out: directories first, from the top down; then their contents, in any order;
    /// then the rest in the given order.
    pub fn carry_out_all(&mut self, ops: &[Op]) -> Result<(), Failed> {
        let is_put = |op: &&Op| matches!(&op.action, Action::Put { over, .. } if !matches!(over, Over::EmptiedDir { .. }));
        let is_directory = |op: &&Op| matches!(op.action, Action::MakeDir { .. });
        let puts: Vec<&Op> = ops.iter().filter(is_put).collect();
        ops.iter().filter(is_directory).try_for_each(|op| self.carry_out(op))?;
        self.put_all(&puts)?;
        ops.iter().filter(|op| !is_put(op) && !is_directory(op)).try_for_each(|op| self.carry_out(op))
    }

    /// Carries out independent steps: one by one on a local disk, where renames wait for each other
    /// in the kernel, and several at once where the file system is slow.
    fn put_all(&mut self, ops: &[&Op]) -> Result<(), Failed> {
        let mut pace = Pace::default();
        for (done, op) in ops.iter().enumerate() {
            if pace.is_slow() && ops.len() - done >= WORTH_SHARING {
                return self.share(&ops[done..]);
            }
            pace.time(CALLS, || self.carry_out(op))?;
        }
        Ok(())
    }

    /// Carries out steps that do not depend on each other, on several threads. If one thread fails,
    /// the steps of all threads can be taken back.
    fn share(&mut self, ops: &[&Op]) -> Result<(), Failed> {
        let (target, stage, attempt) = (self.target, self.stage, self.attempt);
        let blocked = &self.blocked;
        let parts = thread::scope(|scope| {
            let work = |part: &'_ [&Op]| {
                let mut executor = Executor::new(target, stage, attempt);
                executor.blocked.clone_from(blocked);
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

    pub fn carry_out(&mut self, op: &Op) -> Result<(), Failed> {
        let done = match self.try_once(op) {
            // Products may include read-only directories, which their owner may still change. A
            // step that was denied has done nothing.
            Err((_, error)) if error.kind() == io::ErrorKind::PermissionDenied && self.loosen(&op.path) => {
                self.try_once(op)
            }
            other => other,
        };
        done.map_err(|(what, source)| Failed { what, path: op.path.clone(), source })
    }

    /// Makes the directory that holds `path`, and `path` itself if it is one, writable for its
    /// owner. Returns whether that changed anything.
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
        let (path, side) = (&op.path, self.side(op.side));
        if self.blocked.iter().any(|blocked| path.strip_prefix(blocked).is_some()) {
            if let Action::Put { slot, .. } = &op.action {
                self.give_way(path, slot);
            }
            return Ok(());
        }
        let (what, done) = match &op.action {
            Action::MakeDir { mode, mtime, over } => {
                ("make the directory", self.make_dir(op, (*mode, *mtime), over, side))
            }
            Action::Put { slot, over } => ("put", self.put(op, slot, over, side)),
            Action::SetMode { mode, was, of } => ("set the mode of", self.set_mode(op, *mode, *was, *of)),
            Action::Touch { mtime, was, of } => ("set the time of", self.touch(op, *mtime, *was, *of)),
            Action::Delete { of } => ("delete", self.delete(op, *of, Whose::Builds, side)),
            Action::Remove { of } => ("move to the safe place", self.delete(op, *of, Whose::Users, side)),
            Action::RemoveDir { mode } => ("remove the directory", self.remove_dir(path, *mode).map(drop)),
            Action::Swap { shadow } => ("exchange", self.swap(path, *shadow)),
        };
        done.map_err(|error| (what, error))
    }

    /// A second try does not touch anything that was written since the first.
    fn side(&self, side: Side) -> Side {
        match self.attempt {
            Attempt::First => side,
            Attempt::Again => Side::Source,
        }
    }

    fn look(&mut self, path: &RelPath) -> io::Result<Option<Look>> {
        self.walk.look(path)
    }

    fn put(&mut self, op: &Op, slot: &Slot, over: &Over, side: Side) -> io::Result<()> {
        let (path, name) = (&op.path, slot.name());
        if self.attempt == Attempt::Again {
            let staged = at::look(&self.stage.dir, &name)?;
            if staged.is_none_or(|look| !slot.is(&look)) {
                // Done before a crash; the file that the exchange took out is among the strays.
                return Ok(());
            }
        }
        self.hand_group_on(path, &name);
        match over {
            Over::Nothing => self.put_new(path, slot, side),
            Over::EmptiedDir { mode } => match self.remove_dir(path, *mode)? {
                Removed::Gone => self.put_new(path, slot, side),
                Removed::NotEmpty => self.settle_conflict(path, slot, side),
            },
            Over::Known(expected) | Over::Same(expected) | Over::Stranger(expected) => {
                match (self.look(path)?, side) {
                    (Some(found), _) if op.has_met(&found, **expected) => {
                        self.replace(path, slot, **expected, over, side)
                    }
                    (None, Side::Output) => self.put_new(path, slot, side),
                    _ => self.settle_conflict(path, slot, side),
                }
            }
        }
    }

    /// Gives a slot the group that a file made at `path` would get, where the stage hands on
    /// another one. Without permission to set it, the slot keeps its group.
    fn hand_group_on(&mut self, path: &RelPath, name: &[u8]) {
        let Some(parent) = path.parent() else { return };
        if self.group.as_ref().is_none_or(|(known, _)| *known != parent) {
            let group = self.walk.open(&parent).and_then(at::group_handed_on).unwrap_or(self.stage.group);
            self.group = Some((parent, group));
        }
        let group = self.group.as_ref().and_then(|(_, group)| *group);
        if group != self.stage.group
            && let Err(error) = at::set_group(&self.stage.dir, name, group)
        {
            tracing::debug!(%path, %error, "could not hand the directory's group on");
        }
    }

    fn put_new(&mut self, path: &RelPath, slot: &Slot, side: Side) -> io::Result<()> {
        match self.rename_in(path, &slot.name()) {
            Ok(()) => {
                self.undo.push(Undo::Put { path: path.clone(), name: StageName::Number(slot.number) });
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.settle_conflict(path, slot, side)
            }
            // Something on the path is not a directory.
            Err(error) if is_no_directory(&error) => {
                self.give_way(path, slot);
                self.conflict(path, Side::Source);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Renames the stage's `name` to `path`, where nothing is.
    fn rename_in(&mut self, path: &RelPath, name: &[u8]) -> io::Result<()> {
        let put = |executor: &mut Self| {
            let (dir, entry) = executor.walk.parent(path)?;
            at::rename_new(&executor.stage.dir, name, dir, entry)
        };
        match put(self) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_parents(path).and_then(|()| put(self))
            }
            done => done,
        }
    }

    /// Makes the directories above `path`, with the mode that the umask gives.
    fn make_parents(&mut self, path: &RelPath) -> io::Result<()> {
        let above: Vec<_> = std::iter::successors(path.parent(), RelPath::parent).collect();
        for directory in above.into_iter().rev().filter(|directory| !directory.is_root()) {
            self.walk.forget();
            if self.look(&directory)?.is_none() {
                let (dir, entry) = self.walk.parent(&directory)?;
                match at::make_plain_dir(dir, entry) {
                    // Another thread has made it.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                    made => made?,
                }
                self.undo.push(Undo::MadeDir { path: directory.clone() });
                self.done.parents.push(directory);
            }
        }
        self.walk.forget();
        Ok(())
    }

    fn replace(
        &mut self,
        path: &RelPath,
        slot: &Slot,
        expected: Identity,
        over: &Over,
        side: Side,
    ) -> io::Result<()> {
        let (name, spare) = (slot.name(), self.stage.number().to_string());
        let (dir, entry) = self.walk.parent(path)?;
        at::exchange(&self.stage.dir, &name, dir, entry, spare.as_bytes())?;
        let came_out = at::look(&self.stage.dir, &name)?.map(|look| Identity::from(&look));
        if came_out != Some(expected) {
            at::exchange(&self.stage.dir, &name, dir, entry, spare.as_bytes())?;
            return self.settle_conflict(path, slot, side);
        }
        self.walk.forget();
        self.undo.push(Undo::Exchanged { path: path.clone(), name: StageName::of(&name) });
        if let Over::Stranger(_) = over {
            self.displace(path, name, Why::Replaced);
        }
        Ok(())
    }

    /// The path was changed since it was compared: one of the two versions gives way.
    fn settle_conflict(&mut self, path: &RelPath, slot: &Slot, side: Side) -> io::Result<()> {
        let found = self.look(path)?;
        if found.as_ref().is_some_and(|found| self.holds_the_same(path, found, &slot.what)) {
            return Ok(());
        }
        match (side, found) {
            (Side::Output, Some(found)) => match self.take_out(path, Identity::from(&found))? {
                Some(name) => {
                    self.displace(path, name, Why::ChangedMeanwhile);
                    let (dir, entry) = self.walk.parent(path)?;
                    at::rename_new(&self.stage.dir, &slot.name(), dir, entry)?;
                    self.undo.push(Undo::Put { path: path.clone(), name: StageName::Number(slot.number) });
                }
                None => self.give_way(path, slot),
            },
            _ => self.give_way(path, slot),
        }
        self.conflict(path, side);
        Ok(())
    }

    fn holds_the_same(&mut self, path: &RelPath, found: &Look, what: &Content) -> bool {
        match (&found.kind, what) {
            (Some(Kind::Symlink { target }), Content::Symlink(wanted)) => target == wanted,
            (Some(Kind::File { .. }), Content::File(digest)) => {
                let opened = self.walk.parent(path).and_then(|(dir, name)| at::open_file(dir, name));
                opened.and_then(|mut file| digest_of(&mut file)).is_ok_and(|found| found == *digest)
            }
            _ => false,
        }
    }

    fn displace(&mut self, path: &RelPath, name: Vec<u8>, why: Why) {
        self.done.displaced.push(Displaced { path: path.clone(), name, why });
    }

    /// The host's version stays, and the build's goes to the safe place.
    fn give_way(&mut self, path: &RelPath, slot: &Slot) {
        self.done.given_way += 1;
        self.displace(path, slot.name(), Why::GaveWay);
    }

    fn conflict(&mut self, path: &RelPath, stands: Side) {
        self.done.conflicts.push(Conflict { path: path.clone(), stands });
    }

    fn make_dir(
        &mut self,
        op: &Op,
        (mode, mtime): (u32, Timestamp),
        over: &Over,
        side: Side,
    ) -> io::Result<()> {
        let path = &op.path;
        match self.look(path)? {
            Some(Look { kind: Some(Kind::Directory), .. }) => {
                // Made before a crash, which came before its mode was set.
                if self.attempt == Attempt::Again {
                    self.done.made.push(Made { path: path.clone(), mode, mtime });
                }
                return Ok(());
            }
            Some(look) => {
                let found = Identity::from(&look);
                let (taken, is_late) = match (over, side) {
                    (Over::Known(expected) | Over::Stranger(expected), _)
                        if op.has_met(&look, **expected) =>
                    {
                        (self.take_out(path, found)?, false)
                    }
                    (_, Side::Output) => (self.take_out(path, found)?, true),
                    (_, Side::Source) => (None, true),
                };
                if is_late {
                    self.conflict(path, side);
                }
                match (taken, over) {
                    (Some(_), Over::Known(_)) if !is_late => {}
                    (Some(name), _) if is_late => self.displace(path, name, Why::ChangedMeanwhile),
                    (Some(name), _) => self.displace(path, name, Why::Replaced),
                    (None, _) => {
                        self.blocked.push(path.clone());
                        return Ok(());
                    }
                }
            }
            None => {}
        }
        let make = |executor: &mut Self| {
            let (dir, entry) = executor.walk.parent(path)?;
            at::make_dir_as(dir, entry, mode)
        };
        match make(self) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_parents(path)?;
                make(self)?;
            }
            // Something on the path is not a directory.
            Err(error) if is_no_directory(&error) => {
                self.blocked.push(path.clone());
                self.conflict(path, Side::Source);
                return Ok(());
            }
            made => made?,
        }
        self.done.made.push(Made { path: path.clone(), mode, mtime });
        self.undo.push(Undo::MadeDir { path: path.clone() });
        Ok(())
    }

    /// Renames `path` into the stage. `None` if it was not the expected file and was put back.
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
        self.undo.push(Undo::TakenOut { path: path.clone(), name: StageName::of(&name) });
        Ok(Some(name))
    }

    fn delete(&mut self, op: &Op, of: Identity, whose: Whose, side: Side) -> io::Result<()> {
        let path = &op.path;
        let Some(look) = self.look(path)? else { return Ok(()) };
        let (found, is_same) = (Identity::from(&look), op.has_met(&look, of));
        let taken = match side {
            _ if is_same => self.take_out(path, of)?,
            Side::Output => self.take_out(path, found)?,
            Side::Source => None,
        };
        if taken.is_none() {
            self.done.stayed += 1;
        }
        if taken.is_none() || !is_same {
            self.conflict(path, if taken.is_some() { Side::Output } else { Side::Source });
        }
        if let Some(name) = taken.filter(|_| whose == Whose::Users || !is_same) {
            let why = if is_same { Why::Deleted } else { Why::ChangedMeanwhile };
            self.displace(path, name, why);
        }
        Ok(())
    }

    fn remove_dir(&mut self, path: &RelPath, mode: u32) -> io::Result<Removed> {
        match self.look(path)? {
            None => return Ok(Removed::Gone),
            Some(Look { kind: Some(Kind::Directory), .. }) => {}
            // Something else was put there meanwhile.
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

    fn set_mode(&mut self, op: &Op, mode: u32, was: u32, of: Identity) -> io::Result<()> {
        let path = &op.path;
        let mode = match self.look(path)? {
            Some(Look { kind: Some(Kind::Directory), mode: found, .. }) => mode | found & at::SET_GROUP,
            Some(found) if op.has_met(&found, of) => mode,
            Some(found) if found.mode & 0o777 != mode => {
                self.conflict(path, Side::Source);
                return Ok(());
            }
            _ => return Ok(()),
        };
        let (dir, entry) = self.walk.parent(path)?;
        if !self.stage.refused.set_mode(dir, entry, mode)? {
            return Ok(());
        }
        self.undo.push(Undo::Mode { path: path.clone(), was });
        if let Some(loosened) = self.done.loosened.get_mut(path) {
            *loosened = mode;
        }
        Ok(())
    }

    fn touch(&mut self, op: &Op, mtime: Timestamp, was: Timestamp, of: Identity) -> io::Result<()> {
        let path = &op.path;
        if self.look(path)?.is_some_and(|found| op.has_met(&found, of)) {
            let (dir, entry) = self.walk.parent(path)?;
            at::set_mtime(dir, entry, mtime)?;
            self.undo.push(Undo::Time { path: path.clone(), was });
        }
        Ok(())
    }

    fn swap(&mut self, path: &RelPath, shadow: u64) -> io::Result<()> {
        let Some(prepared) = at::look(&self.stage.dir, SHADOW)?.filter(|look| look.stamp.ino == shadow)
        else {
            return Ok(());
        };
        // A directory that its owner may not write to cannot be moved into another one. A second
        // try finds the mode that the first one gave it.
        let mode = *self.prepared_mode.get_or_insert(prepared.mode);
        if prepared.mode & WRITABLE != WRITABLE {
            at::set_mode(&self.stage.dir, SHADOW, prepared.mode | WRITABLE)?;
        }
        let spare = self.stage.number().to_string();
        match self.look(path)? {
            Some(_) => {
                let (dir, entry) = self.walk.parent(path)?;
                at::exchange(&self.stage.dir, SHADOW, dir, entry, spare.as_bytes())?;
                self.undo.push(Undo::Exchanged { path: path.clone(), name: StageName::Shadow });
            }
            None => {
                self.rename_in(path, SHADOW)?;
                self.undo.push(Undo::Put { path: path.clone(), name: StageName::Shadow });
            }
        }
        self.walk.forget();
        self.done.loosened.insert(path.clone(), mode);
        Ok(())
    }

    /// Takes steps back, the last one first.
    pub fn take_back(&mut self, undo: Vec<Undo>) -> io::Result<()> {
        for step in undo.into_iter().rev() {
            self.walk.forget();
            match step {
                Undo::Exchanged { path, name } => {
                    let spare = self.stage.number().to_string();
                    let (dir, entry) = self.walk.parent(&path)?;
                    at::exchange(&self.stage.dir, &name.bytes(), dir, entry, spare.as_bytes())?;
                }
                Undo::Put { path, name } => {
                    let (dir, entry) = self.walk.parent(&path)?;
                    at::rename_new(dir, entry, &self.stage.dir, &name.bytes())?;
                }
                Undo::TakenOut { path, name } => {
                    let (dir, entry) = self.walk.parent(&path)?;
                    at::rename_new(&self.stage.dir, &name.bytes(), dir, entry)?;
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
                Undo::Time { path, was } => {
                    let (dir, entry) = self.walk.parent(&path)?;
                    at::set_mtime(dir, entry, was)?;
                }
                Undo::Rescued { path, name } => {
                    let mut old = Walk::new(&self.stage.dir);
                    let path = RelPath::new(SHADOW).unwrap_or_default().append(&path);
                    let (dir, entry) = old.parent(&path)?;
                    at::rename_new(&self.stage.dir, &name.bytes(), dir, entry)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether something on the path is not a directory.
fn is_no_directory(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotADirectory || at::is_link_refusal(error)
}

/// Whose file a step takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Builds,
    Users,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removed {
    Gone,
    NotEmpty,
}
