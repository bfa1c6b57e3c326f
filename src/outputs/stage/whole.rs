//! A whole archive of an output -> steps: what it does not hold is gone.
//!
//! Small files are held in memory until it is known whether anybody needs them; large ones go to a slot as they arrive,
//! unless size and mtime are those that were uploaded: then they are only hashed, and in the rare case that the build
//! changed them all the same they are asked for again ([`Staging::refetch`]). So a large source tree that comes back
//! unchanged costs no disk.

use std::{collections::HashMap, io::Read};

use sha2::{Digest as _, Sha256};

use super::{LIMITS, Meta, Metered, Product, SMALL, Scope, Staging, digest_of};
use crate::{
    archive::reader::{Incoming, IncomingKind, Limits, Naming, Reader},
    outputs::{
        OutputError, host_error,
        ops::Slot,
        record::Content,
        slots::{self, SmallFile},
        target::Walk,
    },
    report::events::{Amount, Warning},
    sys::at,
    tree::{Digest, RelPath},
};

/// What an archive held so far.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    /// Every path, relative to the output's root.
    seen: HashMap<RelPath, Seen>,
    refetch: Vec<(RelPath, Incoming)>,
}

/// What the container sent at one path.
#[derive(Debug, Clone)]
enum Seen {
    Directory,
    File { digest: Option<Digest>, slot: Option<u64> },
    Symlink,
}

impl Arrived {
    /// Whether it held `path`.
    pub fn holds(&self, path: &RelPath) -> bool {
        self.seen.contains_key(path)
    }

    /// Every path that it held.
    pub fn paths(&self) -> impl Iterator<Item = &RelPath> {
        self.seen.keys()
    }
}

impl Staging<'_> {
    /// Takes a whole archive.
    ///
    /// # Errors
    /// [`OutputError::Refused`] and [`OutputError::NoTree`] for what is hostile or cut short; whatever the host's disk
    /// says.
    pub fn receive(
        &mut self,
        from: impl Read,
        naming: Naming,
        progress: &dyn Fn(Amount),
    ) -> Result<(), OutputError> {
        self.room = self.free_bytes()?;
        let mut reader = Reader::new(from, naming, LIMITS);
        while let Some(entry) = reader.next_entry().map_err(|error| self.refused(error))? {
            self.take(entry, &mut reader, progress)?;
            progress(self.received);
        }
        if self.received.files == 0 {
            // Whatever is there has an entry. Without one, everything would count as deleted by the build.
            return Err(self.no_tree(RelPath::root(), "is missing, as all others are: the archive is empty"));
        }
        Ok(())
    }

    /// The files that have to be asked for one by one, with [`Staging::receive_again`]: their size and mtime were the
    /// uploaded ones, their content was not.
    pub fn refetch(&self) -> Vec<RelPath> {
        self.arrived.refetch.iter().map(|(path, _)| path.clone()).collect()
    }

    /// Takes the archive of one file of [`Staging::refetch`].
    ///
    /// # Errors
    /// As [`Staging::receive`].
    pub fn receive_again(&mut self, path: &RelPath, from: impl Read) -> Result<(), OutputError> {
        self.room = self.free_bytes()?;
        let mut reader = Reader::new(from, Naming::Prefixed, Limits { entries: 1, ..LIMITS });
        let entry = reader.next_entry().map_err(|error| self.refused(error))?;
        let Some(at) = self.arrived.refetch.iter().position(|(waiting, _)| waiting == path) else {
            return Ok(());
        };
        let (path, expected) = self.arrived.refetch.swap_remove(at);
        match entry {
            Some(Incoming { kind: IncomingKind::File { size }, .. }) => self.take_room(&path, size)?,
            _ => return Err(self.no_tree(path, "was a file and is none any more")),
        }
        let (slot, digest) = self.stage_file(&mut reader.data(), expected.mode)?;
        self.settle_file(path, &expected, digest, Bytes::InSlot(slot))?;
        let rest = reader.next_entry().map_err(|error| self.refused(error))?;
        match rest {
            None => Ok(()),
            Some(extra) => Err(self.no_tree(extra.path, "was not asked for")),
        }
    }

    fn take<R: Read>(
        &mut self,
        entry: Incoming,
        reader: &mut Reader<R>,
        progress: &dyn Fn(Amount),
    ) -> Result<(), OutputError> {
        self.check_place(&entry)?;
        self.received.files += 1;
        let path = entry.path.clone();
        if path.is_root() && self.scope == Scope::Everything && entry.kind != IncomingKind::Directory {
            return Err(self.no_tree(path, "is the working directory, and no directory any more"));
        }
        match &entry.kind {
            IncomingKind::Directory => {
                self.arrived.seen.insert(path.clone(), Seen::Directory);
                self.settle_directory(path, Meta::from(&entry))
            }
            IncomingKind::Symlink { target } => {
                self.arrived.seen.insert(path.clone(), Seen::Symlink);
                self.settle_symlink(path, Meta::from(&entry), target)
            }
            IncomingKind::File { size } => {
                let size = *size;
                self.received.bytes += size;
                self.take_file(path, entry, size, reader, progress)
            }
            IncomingKind::HardLink { target } => self.take_hard_link(path, &entry, target),
            IncomingKind::Special(special) => {
                self.warnings.push(Warning::SpecialOutput { path, special: *special });
                Ok(())
            }
        }
    }

    /// A tree has each path once, below directories, and its root first.
    fn check_place(&self, entry: &Incoming) -> Result<(), OutputError> {
        let path = &entry.path;
        if self.arrived.seen.contains_key(path) {
            return Err(self.no_tree(path.clone(), "comes twice"));
        }
        match path.parent() {
            None => {}
            Some(parent) => match self.arrived.seen.get(&parent) {
                Some(Seen::Directory) => {}
                Some(_) => {
                    return Err(self.no_tree(path.clone(), "lies below something that is no directory"));
                }
                None => return Err(self.no_tree(path.clone(), "comes before the directory that holds it")),
            },
        }
        self.refuse_reserved(path)
    }

    fn take_file<R: Read>(
        &mut self,
        path: RelPath,
        entry: Incoming,
        size: u64,
        reader: &mut Reader<R>,
        progress: &dyn Fn(Amount),
    ) -> Result<(), OutputError> {
        if size <= SMALL {
            let mut bytes = Vec::with_capacity(size as usize);
            reader.data().read_to_end(&mut bytes).map_err(|error| self.broken_off(error))?;
            let digest = Digest(Sha256::digest(&bytes).into());
            return self.settle_file(path, &entry, digest, Bytes::InMemory(bytes));
        }
        let done = Amount { bytes: self.received.bytes - size, ..self.received };
        let mut data = Metered { data: reader.data(), done, progress };
        match self.presumed_unchanged(&path, &entry, size) {
            Some(expected) => {
                let digest = digest_of(&mut data).map_err(|error| self.broken_off(error))?;
                if digest == expected {
                    return self.settle_file(path, &entry, digest, Bytes::Elsewhere);
                }
                self.arrived.seen.insert(path.clone(), Seen::File { digest: Some(digest), slot: None });
                self.arrived.refetch.push((path, entry));
                Ok(())
            }
            None => {
                self.take_room(&path, size)?;
                let (slot, digest) = self.stage_file(&mut data, entry.mode)?;
                self.settle_file(path, &entry, digest, Bytes::InSlot(slot))
            }
        }
    }

    /// The digest that a large file has unless the build changed it and put size and mtime back.
    fn presumed_unchanged(&self, path: &RelPath, entry: &Incoming, size: u64) -> Option<Digest> {
        let uploaded = self.uploaded?;
        let Some(index) = uploaded.manifest.position(&self.uploaded_at.append(path)) else {
            return self.own.digest(path, size);
        };
        let base = uploaded.base(index)?;
        match base.what {
            Content::File(digest) if base.stamp.size == size && uploaded.has_mtime(index, entry.mtime) => {
                Some(digest)
            }
            _ => None,
        }
    }

    /// A hard link is a file with its target's content; within one output it stays a link.
    fn take_hard_link(
        &mut self,
        path: RelPath,
        entry: &Incoming,
        target: &RelPath,
    ) -> Result<(), OutputError> {
        let (digest, slot) = match self.arrived.seen.get(target) {
            Some(Seen::File { digest: Some(digest), slot }) => (*digest, *slot),
            Some(Seen::File { digest: None, .. }) | Some(_) => {
                return Err(self.no_tree(path, "is a hard link to something that is no file"));
            }
            None => return Err(self.no_tree(path, "is a hard link to something that was not sent before it")),
        };
        if let Some(slot) = slot {
            self.writers.settle()?;
            let number = self.stage.number();
            at::hard_link(
                &self.stage.dir,
                slot.to_string().as_bytes(),
                &self.stage.dir,
                number.to_string().as_bytes(),
            )
            .map_err(host_error("make a hard link in", &self.stage.path))?;
            return self.settle_file(path, entry, digest, Bytes::InSlot(number));
        }
        // The target's bytes were not needed, so this run has no copy of them; the host's own file is linked if
        // somebody needs them under the new name.
        let target = self.target.prefix.append(target);
        self.settle_file(path, entry, digest, Bytes::OnHost(target))
    }

    /// Decides about a file whose content is known, and keeps its bytes if they are needed.
    fn settle_file(
        &mut self,
        path: RelPath,
        entry: &Incoming,
        digest: Digest,
        bytes: Bytes,
    ) -> Result<(), OutputError> {
        let content = Content::File(digest);
        self.arrived.seen.insert(path.clone(), Seen::File { digest: Some(digest), slot: None });
        let size = match &entry.kind {
            IncomingKind::File { size } => Some(*size),
            // A hard link's is its target's.
            _ => None,
        };
        let settled = self.judge(&path, Product { what: &content, mode: entry.mode, size })?;
        let slot = match (settled.needs_bytes(), bytes) {
            (false, Bytes::InSlot(number)) => {
                at::remove_file(&self.stage.dir, number.to_string().as_bytes())
                    .map_err(host_error("remove a file in", &self.stage.path))?;
                self.room += size.unwrap_or(0);
                None
            }
            (false, _) => None,
            (true, Bytes::InMemory(bytes)) => {
                self.take_room(&path, bytes.len() as u64)?;
                let number = self.stage.number();
                let file = SmallFile { number, bytes, mode: entry.mode, mtime: entry.mtime };
                self.writers.write(&self.stage, file)?;
                Some(Slot { number, id: slots::pending(number), what: content.clone() })
            }
            (true, Bytes::InSlot(number)) => {
                self.finish_file(number, Meta::from(entry))?;
                Some(self.slot(number, content.clone())?)
            }
            // The link is the host's own file: mode and time are not the build's to set.
            (true, Bytes::OnHost(target)) => match self.link_from_host(&target, digest) {
                Some(number) => Some(self.slot(number, content.clone())?),
                None => None,
            },
            (true, Bytes::Elsewhere) => None,
        };
        if settled.needs_bytes() && slot.is_none() {
            self.arrived.refetch.push((path, entry.clone()));
            return Ok(());
        }
        let number = slot.as_ref().map(|slot| slot.number);
        self.arrived.seen.insert(path.clone(), Seen::File { digest: Some(digest), slot: number });
        self.plan_step(path, Meta::from(entry), content, settled, slot)
    }

    /// Links the host's own file to a new slot, if it still has the content.
    fn link_from_host(&mut self, place: &RelPath, digest: Digest) -> Option<u64> {
        let number = self.stage.number();
        let name = number.to_string();
        let mut walk = Walk::new(&self.target.dir);
        let linked = walk
            .parent(place)
            .and_then(|(dir, entry)| at::hard_link(dir, entry, &self.stage.dir, name.as_bytes()))
            .and_then(|()| at::open_file(&self.stage.dir, name.as_bytes()))
            .and_then(|mut file| digest_of(&mut file));
        match linked {
            Ok(found) if found == digest => Some(number),
            // Links are not to be had here, or somebody changed the file since: the container still has it.
            _ => {
                let _ = at::remove_file(&self.stage.dir, name.as_bytes());
                None
            }
        }
    }
}

/// Where a file's bytes are when it is decided whether they are needed.
enum Bytes {
    InMemory(Vec<u8>),
    InSlot(u64),
    /// The host has the very same content at this place (relative to the target's handle).
    OnHost(RelPath),
    /// Nowhere: they were only hashed.
    Elsewhere,
}
