//! Checked entries of one output -> steps, with the bytes they need in slots beside the target.
//!
//! Nothing of the host's is changed here. Small files are held in memory until it is known whether anybody needs them;
//! large ones go to a slot as they arrive, unless size and mtime are those that were uploaded: then they are only
//! hashed, and in the rare case that the build changed them all the same they are asked for again
//! ([`Staging::refetch`]). So a large source tree that comes back unchanged costs no disk.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use cap_std::{ambient_authority, fs::Dir};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    OutputError,
    apply::Prepared,
    decide::{BuildHas, HostHas, Known, ModeIs, Verdict, decide},
    fold::same_when_folded,
    host_error,
    ops::{Action, Identity, Op, Over, Slot, lossless},
    record::{Content, Record},
    slots::{self, SlotWriters, SmallFile},
    target::{Target, Walk},
};
use crate::{
    archive::{
        pack::Sent,
        reader::{Incoming, IncomingKind, Limits, Naming, ReadError, Reader},
    },
    plan::ApplyMode,
    report::events::{Amount, Applied, Warning},
    sys::at::{self, Look},
    tree::{
        Digest, Kind, Manifest, RelPath, Stamp, Timestamp,
        ignore::Rules,
        scan::{STAGE_PREFIX, Scan, ScanOptions, scan},
    },
};

/// A file up to this size, in bytes, is held in memory until it is known whether it is needed.
const SMALL: u64 = 256 * 1024;

/// Left free on the target's file system, in bytes, whatever a container sends; at most an eighth of what is free.
const RESERVE: u64 = 64 * 1024 * 1024;

/// An output of more entries than this is a bomb. Its bytes are counted where they are staged ([`Staging::take_room`]):
/// what is only compared needs no disk, however much it is.
const LIMITS: Limits = Limits { entries: 10_000_000, bytes: u64::MAX };

/// Behind the name of a file whose place the user's own version keeps.
const BESIDE: &str = ".fastbuild-new";

/// What was uploaded of an output's tree, when it lies below the source root.
#[derive(Debug, Clone, Copy)]
pub struct Uploaded<'a> {
    /// The source tree as it was scanned.
    pub manifest: &'a Manifest,
    /// What was sent of each entry; none for one that was not.
    pub sent: &'a [Option<Sent>],
    /// When the scan looked, by the host's clock.
    pub looked_at: Timestamp,
}

impl Uploaded<'_> {
    /// What the host had at the manifest's entry `index`; none when it was not sent.
    fn base(&self, index: usize) -> Option<Base> {
        let entry = self.manifest.entries().get(index)?;
        let (what, mode, stamp) = match &entry.kind {
            Kind::Directory => (Content::Directory, entry.mode, entry.stamp),
            Kind::Symlink { target } => (Content::Symlink(target.clone()), entry.mode, entry.stamp),
            Kind::File { .. } => {
                let sent = self.sent.get(index)?.as_ref()?;
                (Content::File(sent.digest), sent.mode, sent.stamp)
            }
        };
        Some(Base { from: KnownFrom::Upload, what, mode, stamp, seen: self.looked_at })
    }
}

/// Which paths come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything under the working directory: what the build did not touch is left alone.
    Everything,
    /// A named output: the target becomes what the build made.
    Named,
}

/// The staging of one output.
#[derive(Debug)]
pub struct Staging<'a> {
    output: String,
    target: Target,
    scope: Scope,
    apply: ApplyMode,
    uploaded: Option<Uploaded<'a>>,
    /// The manifest's path of the output's root.
    uploaded_at: RelPath,
    record: &'a Record,
    /// Before `stage`, so that nobody writes into it any more when it is removed.
    writers: SlotWriters,
    stage: Stage,
    /// What the output's place held when the staging began; none when it is looked at path by path.
    host: Option<Scan>,
    /// What may still be staged before the disk counts as full, in bytes.
    room: u64,
    /// Every path that the container sent, relative to the output's root.
    seen: HashMap<RelPath, Seen>,
    /// Directories that the build did not get to make, because the user has something there -> where they went.
    redirects: Vec<(RelPath, RelPath)>,
    ops: Vec<Op>,
    claims: Vec<Claim>,
    forgets: Vec<RelPath>,
    refetch: Vec<(RelPath, Incoming)>,
    warnings: Vec<Warning>,
    applied: Applied,
    received: Amount,
}

/// What the container sent at one path.
#[derive(Debug, Clone)]
enum Seen {
    Directory,
    File { digest: Option<Digest>, slot: Option<u64> },
    Symlink,
}

/// A path that will be fastbuild's when the steps are done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Relative to the target's handle.
    #[serde(with = "lossless")]
    pub path: RelPath,
    /// What it will be.
    pub what: Content,
    /// Which file it is: one that somebody else has put there since is not fastbuild's. None for directories.
    pub id: Option<Identity>,
}

/// Everything about one output that [`super::apply`] needs.
#[derive(Debug)]
pub struct Staged {
    /// Where.
    pub target: Target,
    /// The slots.
    pub stage: Stage,
    /// How the output is put in place.
    pub apply: ApplyMode,
    /// The steps, in order.
    pub ops: Vec<Op>,
    /// What is fastbuild's afterwards.
    pub claims: Vec<Claim>,
    /// What is nobody's afterwards.
    pub forgets: Vec<RelPath>,
    /// What the user should know.
    pub warnings: Vec<Warning>,
    /// Counts.
    pub applied: Applied,
    /// The whole new tree, when the output is exchanged as one.
    pub prepared: Prepared,
}

/// A staging directory: removed with all that is in it when dropped.
#[derive(Debug)]
pub struct Stage {
    /// Its path, on the target's own file system.
    pub path: PathBuf,
    /// Its handle.
    pub dir: Dir,
    /// Atomic, because steps are carried out by several threads.
    next: AtomicU64,
    keep: bool,
}

impl Stage {
    fn make(path: PathBuf) -> io::Result<Stage> {
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path)?;
        let dir = Dir::open_ambient_dir(&path, ambient_authority())?;
        Ok(Stage { path, dir, next: AtomicU64::new(0), keep: false })
    }

    /// Opens one that a crash left.
    ///
    /// # Errors
    /// When it is not there.
    pub fn reopen(path: &Path) -> io::Result<Stage> {
        let dir = Dir::open_ambient_dir(path, ambient_authority())?;
        // Numbers above every slot's, and above those that an earlier recovery gave away: the journal's are far below.
        let names = at::names(&dir)?;
        let taken = names.iter().filter_map(|name| std::str::from_utf8(name).ok()?.parse::<u64>().ok());
        let next = taken.max().unwrap_or(0).max(u64::MAX / 2);
        Ok(Stage { path: path.to_owned(), dir, next: AtomicU64::new(next), keep: false })
    }

    /// A number that no slot has.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Leaves it where it is: it holds something that has no other place.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Takes [`Stage::keep`] back.
    pub fn release(&mut self) {
        self.keep = false;
    }

    /// Now, by the clock of the file system on which the stage lies.
    ///
    /// # Errors
    /// When no file can be made in it.
    pub fn now(&self) -> io::Result<Timestamp> {
        let name = self.number().to_string();
        drop(at::create_file(&self.dir, name.as_bytes())?);
        let look = at::look(&self.dir, name.as_bytes())?;
        at::remove_file(&self.dir, name.as_bytes())?;
        Ok(look.map_or(Timestamp::default(), |look| look.stamp.mtime))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = remove_stage(&self.path) {
            tracing::warn!(path = ?self.path, %error, "could not remove the staging directory");
        }
    }
}

/// Removes a staging directory and what is in it. Directories in it may be read-only: products have such.
///
/// # Errors
/// Whatever the file system says, other than that it is gone.
pub fn remove_stage(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_enterable(&Dir::open_ambient_dir(path, ambient_authority())?)?;
            std::fs::remove_dir_all(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn make_enterable(dir: &Dir) -> io::Result<()> {
    for name in at::names(dir)? {
        if let Some(Look { kind: Some(Kind::Directory), .. }) = at::look(dir, &name)? {
            at::set_mode(dir, &name, 0o700)?;
            make_enterable(&at::open_dir(dir, &name)?)?;
        }
    }
    Ok(())
}

/// Settings of a [`Staging`] that are the same for all outputs of a run.
#[derive(Debug, Clone, Copy)]
pub struct StagingOptions<'a> {
    /// The run's id.
    pub run: &'a str,
    /// What fastbuild wrote earlier.
    pub record: &'a Record,
    /// How outputs are put in place.
    pub apply: ApplyMode,
}

impl<'a> Staging<'a> {
    /// Makes the staging directory of one output.
    ///
    /// `output` is its name for messages, `number` tells the outputs of a run apart. `uploaded` is what was sent of the
    /// target's own tree, with the output's place in it; none when the target lies elsewhere.
    ///
    /// # Errors
    /// When no directory on the target's file system can be written, or the target is a link.
    pub fn begin(
        output: &str,
        number: usize,
        target: Target,
        scope: Scope,
        uploaded: Option<(Uploaded<'a>, RelPath)>,
        options: StagingOptions<'a>,
    ) -> Result<Staging<'a>, OutputError> {
        let path = stage_path(&target, options.run, number)?;
        let stage = Stage::make(path.clone()).map_err(host_error("make the staging directory", path))?;
        let host = match scope {
            // Of a whole source tree hardly anything changes; what does is looked at.
            Scope::Everything => None,
            Scope::Named => scan_target(&target),
        };
        let (uploaded, uploaded_at) = match uploaded {
            Some((uploaded, at)) => (Some(uploaded), at),
            None => (None, RelPath::root()),
        };
        Ok(Staging {
            output: output.to_owned(),
            target,
            scope,
            apply: options.apply,
            uploaded,
            uploaded_at,
            record: options.record,
            writers: SlotWriters::default(),
            stage,
            host,
            room: 0,
            seen: HashMap::new(),
            redirects: Vec::new(),
            ops: Vec::new(),
            claims: Vec::new(),
            forgets: Vec::new(),
            refetch: Vec::new(),
            warnings: Vec::new(),
            applied: Applied::default(),
            received: Amount::default(),
        })
    }

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

    /// What may be staged before the disk would be full.
    fn free_bytes(&self) -> Result<u64, OutputError> {
        let free = at::free_space(&self.stage.dir)
            .map_err(host_error("ask for the free space of", &self.stage.path))?;
        Ok(free - RESERVE.min(free / 8))
    }

    /// Sets room aside for content that is about to be staged.
    fn take_room(&mut self, path: &RelPath, size: u64) -> Result<(), OutputError> {
        self.room = self.room.checked_sub(size).ok_or_else(|| OutputError::DoesNotFit {
            output: self.output.clone(),
            path: path.clone(),
            size,
            room: self.room,
            stage: self.stage.path.clone(),
        })?;
        Ok(())
    }

    /// The files that have to be asked for one by one, with [`Staging::receive_again`]: their size and mtime were the
    /// uploaded ones, their content was not.
    pub fn refetch(&self) -> Vec<RelPath> {
        self.refetch.iter().map(|(path, _)| path.clone()).collect()
    }

    /// Takes the archive of one file of [`Staging::refetch`].
    ///
    /// # Errors
    /// As [`Staging::receive`].
    pub fn receive_again(&mut self, path: &RelPath, from: impl Read) -> Result<(), OutputError> {
        self.room = self.free_bytes()?;
        let mut reader = Reader::new(from, Naming::Prefixed, Limits { entries: 1, ..LIMITS });
        let entry = reader.next_entry().map_err(|error| self.refused(error))?;
        let Some(at) = self.refetch.iter().position(|(waiting, _)| waiting == path) else { return Ok(()) };
        let (path, expected) = self.refetch.swap_remove(at);
        match entry {
            Some(Incoming { kind: IncomingKind::File { size }, .. }) => self.take_room(&path, size)?,
            _ => return Err(self.no_tree(path, "was a file and is none any more")),
        }
        let (slot, digest) = self.stage_file(&mut reader.data())?;
        self.settle_file(path, &expected, digest, Bytes::InSlot(slot))?;
        let rest = reader.next_entry().map_err(|error| self.refused(error))?;
        match rest {
            None => Ok(()),
            Some(extra) => Err(self.no_tree(extra.path, "was not asked for")),
        }
    }

    fn refused(&self, source: ReadError) -> OutputError {
        OutputError::Refused { output: self.output.clone(), source: Box::new(source) }
    }

    fn no_tree(&self, path: RelPath, why: &'static str) -> OutputError {
        OutputError::NoTree { output: self.output.clone(), path, why }
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
                self.seen.insert(path.clone(), Seen::Directory);
                self.settle_directory(path, &entry)
            }
            IncomingKind::Symlink { target } => {
                self.seen.insert(path.clone(), Seen::Symlink);
                self.settle_symlink(path, &entry, target)
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
        if self.seen.contains_key(path) {
            return Err(self.no_tree(path.clone(), "comes twice"));
        }
        match path.parent() {
            None => {}
            Some(parent) => match self.seen.get(&parent) {
                Some(Seen::Directory) => {}
                Some(_) => {
                    return Err(self.no_tree(path.clone(), "lies below something that is no directory"));
                }
                None => return Err(self.no_tree(path.clone(), "comes before the directory that holds it")),
            },
        }
        let reserved = path.components().any(|name| name.starts_with(STAGE_PREFIX.as_bytes()));
        if reserved {
            Err(self.no_tree(path.clone(), "has a name that fastbuild keeps for itself"))
        } else {
            Ok(())
        }
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
                self.seen.insert(path.clone(), Seen::File { digest: Some(digest), slot: None });
                self.refetch.push((path, entry));
                Ok(())
            }
            None => {
                self.take_room(&path, size)?;
                let (slot, digest) = self.stage_file(&mut data)?;
                self.settle_file(path, &entry, digest, Bytes::InSlot(slot))
            }
        }
    }

    /// The digest that a large file has unless the build changed it and put size and mtime back.
    fn presumed_unchanged(&self, path: &RelPath, entry: &Incoming, size: u64) -> Option<Digest> {
        let base = self.uploaded_base(path)?;
        // Engines send whole seconds.
        match base.what {
            Content::File(digest) if base.stamp.size == size && base.stamp.mtime.secs == entry.mtime.secs => {
                Some(digest)
            }
            _ => None,
        }
    }

    fn broken_off(&self, source: io::Error) -> OutputError {
        let offset = self.received.bytes;
        let source = match source.downcast::<ReadError>() {
            Ok(error) => error,
            Err(source) => ReadError::Io { offset, source },
        };
        self.refused(source)
    }

    /// Writes data to a new slot; gives its number and digest.
    fn stage_file(&mut self, data: &mut dyn Read) -> Result<(u64, Digest), OutputError> {
        let number = self.stage.number();
        let name = number.to_string();
        let mut file = at::create_file(&self.stage.dir, name.as_bytes())
            .map_err(host_error("make a file in", &self.stage.path))?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let n = match data.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.broken_off(error)),
            };
            hasher.update(&buffer[..n]);
            file.write_all(&buffer[..n]).map_err(host_error("write to a file in", &self.stage.path))?;
        }
        Ok((number, Digest(hasher.finalize().into())))
    }

    /// A hard link is a file with its target's content; within one output it stays a link.
    fn take_hard_link(
        &mut self,
        path: RelPath,
        entry: &Incoming,
        target: &RelPath,
    ) -> Result<(), OutputError> {
        let (digest, slot) = match self.seen.get(target) {
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
        self.seen.insert(path.clone(), Seen::File { digest: Some(digest), slot: None });
        let settled = self.judge(&path, &content, entry.mode)?;
        let slot = match (settled.needs_bytes(), bytes) {
            (false, Bytes::InSlot(number)) => {
                at::remove_file(&self.stage.dir, number.to_string().as_bytes())
                    .map_err(host_error("remove a file in", &self.stage.path))?;
                if let IncomingKind::File { size } = entry.kind {
                    self.room += size;
                }
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
                self.finish_file(number, entry)?;
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
            self.refetch.push((path, entry.clone()));
            return Ok(());
        }
        let number = slot.as_ref().map(|slot| slot.number);
        self.seen.insert(path.clone(), Seen::File { digest: Some(digest), slot: number });
        self.plan_step(path, entry, content, settled, slot)
    }

    fn finish_file(&self, number: u64, entry: &Incoming) -> Result<(), OutputError> {
        at::finish_by_name(&self.stage.dir, number.to_string().as_bytes(), entry.mode, entry.mtime)
            .map_err(host_error("set mode and time of a file in", &self.stage.path))
    }

    fn slot(&self, number: u64, what: Content) -> Result<Slot, OutputError> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let look = at::look(&self.stage.dir, number.to_string().as_bytes())
            .and_then(|look| look.ok_or_else(missing))
            .map_err(host_error("look at a file in", &self.stage.path))?;
        Ok(Slot { number, id: (&look).into(), what })
    }

    fn settle_directory(&mut self, path: RelPath, entry: &Incoming) -> Result<(), OutputError> {
        // The source root is the user's own directory, whatever mode the engine gave its copy.
        if path.is_root() && self.scope == Scope::Everything {
            return Ok(());
        }
        let settled = self.judge(&path, &Content::Directory, entry.mode)?;
        self.plan_step(path, entry, Content::Directory, settled, None)
    }

    fn settle_symlink(&mut self, path: RelPath, entry: &Incoming, target: &[u8]) -> Result<(), OutputError> {
        let content = Content::Symlink(target.into());
        let settled = self.judge(&path, &content, entry.mode)?;
        let slot = if settled.needs_bytes() {
            let number = self.stage.number();
            at::symlink(&self.stage.dir, number.to_string().as_bytes(), target)
                .map_err(host_error("make a link in", &self.stage.path))?;
            Some(self.slot(number, content.clone())?)
        } else {
            None
        };
        self.plan_step(path, entry, content, settled, slot)
    }

    /// Holds a product against the host.
    fn judge(&self, path: &RelPath, product: &Content, mode: u32) -> Result<Settled, OutputError> {
        if let Some(moved) = self.redirected(path) {
            return Ok(Settled { verdict: Verdict::Put, place: moved, host: None });
        }
        let place = self.target.prefix.append(path);
        let base = self.base(path);
        let known = match &base {
            None => Known::Nothing,
            Some(base) if base.from == KnownFrom::Recorded => Known::Recorded,
            Some(base) if base.what == *product && base.mode & 0o777 == mode => Known::UploadedUnchanged,
            Some(_) => Known::Uploaded,
        };
        if known == Known::UploadedUnchanged && self.scope == Scope::Everything {
            return Ok(Settled { verdict: Verdict::Leave, place, host: None });
        }
        let host = self.look(&place)?;
        let has = self.compare(&place, host.as_ref(), base.as_ref(), Some((product, mode)))?;
        let has = match has {
            // A directory of the user's own keeps the mode that he gave it.
            HostHas::Product(ModeIs::Wrong) if base.is_none() && *product == Content::Directory => {
                HostHas::Product(ModeIs::Right)
            }
            // Hard links would carry a new mode to the tree that is still in place.
            HostHas::Product(ModeIs::Wrong)
                if self.apply == ApplyMode::Atomic && *product != Content::Directory =>
            {
                HostHas::AsKnown
            }
            other => other,
        };
        let verdict = match decide(BuildHas::It, known, has) {
            Verdict::Displace if has == HostHas::AsKnown => Verdict::Replace,
            other => other,
        };
        Ok(Settled { verdict, place, host })
    }

    /// Where a path below a redirected directory goes.
    fn redirected(&self, path: &RelPath) -> Option<RelPath> {
        self.redirects.iter().rev().find_map(|(from, to)| {
            let tail = path.strip_prefix(from)?;
            (!tail.is_root()).then(|| to.append(&tail))
        })
    }

    fn look(&self, place: &RelPath) -> Result<Option<Look>, OutputError> {
        if let Some(host) = &self.host
            && let Some(path) = place.strip_prefix(&self.target.prefix).filter(|path| !path.is_root())
            && host.skipped.iter().all(|(special, _)| *special != path)
        {
            return Ok(host.manifest.get(&path).map(|entry| Look {
                kind: Some(entry.kind.clone()),
                mode: entry.mode,
                stamp: entry.stamp,
            }));
        }
        Walk::new(&self.target.dir).look(place).map_err(host_error("look at", self.target.absolute(place)))
    }

    /// What fastbuild knows that the host had at `path`, which is relative to the output's root.
    fn base(&self, path: &RelPath) -> Option<Base> {
        if let Some(base) = self.uploaded_base(path) {
            return Some(base);
        }
        let written = self.record.get(&self.target.absolute(&self.target.prefix.append(path)))?;
        Some(Base {
            from: KnownFrom::Recorded,
            what: written.what.clone(),
            mode: written.mode,
            stamp: written.stamp,
            seen: written.seen,
        })
    }

    fn uploaded_base(&self, path: &RelPath) -> Option<Base> {
        let uploaded = self.uploaded?;
        uploaded.base(uploaded.manifest.position(&self.uploaded_at.append(path))?)
    }

    /// Says what the host has at `place`. Files are read only when their stamps do not tell.
    fn compare(
        &self,
        place: &RelPath,
        host: Option<&Look>,
        base: Option<&Base>,
        product: Option<(&Content, u32)>,
    ) -> Result<HostHas, OutputError> {
        let Some(host) = host else { return Ok(HostHas::Nothing) };
        let has = self.content(place, host, base, product.map(|(content, _)| content))?;
        let Some(has) = has else { return Ok(HostHas::Other) };
        if let Some((content, mode)) = product
            && *content == has
        {
            let mode_is = if matches!(has, Content::Symlink(_)) || host.mode & 0o777 == mode {
                ModeIs::Right
            } else {
                ModeIs::Wrong
            };
            return Ok(HostHas::Product(mode_is));
        }
        if base.is_none_or(|base| base.what != has) {
            return Ok(HostHas::Other);
        }
        let whole = has != Content::Directory || product.is_none() || self.holds_only_known(place)?;
        Ok(if whole { HostHas::AsKnown } else { HostHas::Other })
    }

    /// The content of a path of the host's, as far as it matters: none when it is certainly neither the product nor
    /// what fastbuild knows.
    fn content(
        &self,
        place: &RelPath,
        host: &Look,
        base: Option<&Base>,
        product: Option<&Content>,
    ) -> Result<Option<Content>, OutputError> {
        let size = match &host.kind {
            Some(Kind::Directory) => return Ok(Some(Content::Directory)),
            Some(Kind::Symlink { target }) => return Ok(Some(Content::Symlink(target.clone()))),
            Some(Kind::File { size }) => *size,
            None => return Ok(None),
        };
        if let Some(Base { what: Content::File(digest), stamp, seen, .. }) = base
            && *stamp == host.stamp
            && !stamp.is_racy(*seen)
        {
            return Ok(Some(Content::File(*digest)));
        }
        let wanted = base
            .is_some_and(|base| matches!(base.what, Content::File(_)) && base.stamp.size == size)
            || matches!(product, Some(Content::File(_)));
        if !wanted {
            return Ok(None);
        }
        let mut walk = Walk::new(&self.target.dir);
        let opened = walk.parent(place).and_then(|(dir, name)| at::open_file(dir, name));
        let digest = match opened.and_then(|mut file| digest_of(&mut file)) {
            Ok(digest) => digest,
            // It went away, or its owner may not read it: either way nothing that fastbuild may overwrite.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(host_error("read", self.target.absolute(place))(error)),
        };
        Ok(Some(Content::File(digest)))
    }

    /// Whether everything in a directory of the host's is as fastbuild knows it, so that it may go.
    fn holds_only_known(&self, place: &RelPath) -> Result<bool, OutputError> {
        let mut pending = vec![place.clone()];
        while let Some(directory) = pending.pop() {
            let names = Walk::new(&self.target.dir)
                .open(&directory)
                .and_then(at::names)
                .map_err(host_error("read the directory", self.target.absolute(&directory)))?;
            for name in names {
                let Ok(child) = directory.join(&name) else { return Ok(false) };
                let Some(path) = child.strip_prefix(&self.target.prefix) else { return Ok(false) };
                let base = self.base(&path);
                let host = self.look(&child)?;
                if self.compare(&child, host.as_ref(), base.as_ref(), None)? != HostHas::AsKnown {
                    return Ok(false);
                }
                if matches!(host, Some(Look { kind: Some(Kind::Directory), .. })) {
                    pending.push(child);
                }
            }
        }
        Ok(true)
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

    fn plan_step(
        &mut self,
        path: RelPath,
        entry: &Incoming,
        what: Content,
        settled: Settled,
        slot: Option<Slot>,
    ) -> Result<(), OutputError> {
        let Settled { verdict, place, host } = settled;
        let over = over(verdict, host.as_ref());
        match verdict {
            Verdict::Leave => self.applied.unchanged += 1,
            Verdict::AlreadyRight => {
                self.applied.unchanged += 1;
                self.claim(place, what, host.as_ref().map(Identity::from));
            }
            Verdict::SetMode => {
                self.applied.written += 1;
                if let Some(host) = &host {
                    let action = Action::SetMode { mode: entry.mode, was: host.mode, of: host.into() };
                    self.ops.push(Op { path: place.clone(), action });
                }
                self.claim(place, what, host.as_ref().map(Identity::from));
            }
            Verdict::Put | Verdict::Replace | Verdict::Displace => {
                self.applied.written += 1;
                let id = slot.as_ref().map(|slot| slot.id);
                let action = match slot {
                    Some(slot) => Action::Put { slot, over },
                    None => Action::MakeDir { mode: entry.mode, mtime: Some(entry.mtime), over },
                };
                self.ops.push(Op { path: place.clone(), action });
                if self.redirected(&path).is_none() {
                    self.claim(place, what, id);
                }
            }
            Verdict::Beside => self.put_beside(path, place, entry, slot)?,
            Verdict::Delete | Verdict::KeepEdited => {}
        }
        Ok(())
    }

    /// The user changed the path meanwhile: it stays, and the build's version goes to a name beside it.
    fn put_beside(
        &mut self,
        path: RelPath,
        place: RelPath,
        entry: &Incoming,
        slot: Option<Slot>,
    ) -> Result<(), OutputError> {
        self.applied.conflicts += 1;
        let beside = free_name_beside(&self.target, &place)?;
        let action = match slot {
            Some(slot) => Action::Put { slot, over: Over::Nothing },
            None => {
                self.redirects.push((path, beside.clone()));
                Action::MakeDir { mode: entry.mode, mtime: Some(entry.mtime), over: Over::Nothing }
            }
        };
        self.warnings.push(Warning::Conflict {
            path: self.target.absolute(&place),
            beside: Some(self.target.absolute(&beside)),
        });
        self.ops.push(Op { path: beside, action });
        Ok(())
    }

    fn claim(&mut self, path: RelPath, what: Content, id: Option<Identity>) {
        let id = id.filter(|_| what != Content::Directory);
        self.claims.push(Claim { path, what, id });
    }

    /// Ends the staging: what the build no longer has becomes deletes, and the steps get their order.
    ///
    /// # Errors
    /// [`OutputError::EverythingGone`] when the build left nothing at all of a tree, and two names that the host's file
    /// system cannot tell apart.
    pub fn finish(mut self) -> Result<Staged, OutputError> {
        self.check_not_emptied()?;
        self.check_names_differ()?;
        self.settle_slots()?;
        self.plan_missing_parents()?;
        self.plan_deletes()?;
        self.ops.sort_by(|a, b| turn(a).cmp(&turn(b)).then_with(|| by_path(a, b)));
        // They have grown by doubling, and stay as they are while the record is made.
        self.ops.shrink_to_fit();
        self.claims.shrink_to_fit();
        Ok(Staged {
            target: self.target,
            stage: self.stage,
            apply: self.apply,
            ops: self.ops,
            claims: self.claims,
            forgets: self.forgets,
            warnings: self.warnings,
            applied: self.applied,
            prepared: Prepared::default(),
        })
    }

    /// Waits for the last slots, whose identities are known only now.
    fn settle_slots(&mut self) -> Result<(), OutputError> {
        self.writers.settle()?;
        for op in &mut self.ops {
            if let Action::Put { slot, .. } = &mut op.action {
                slot.id = self.writers.settled(slot.id);
            }
        }
        for claim in &mut self.claims {
            claim.id = claim.id.map(|id| self.writers.settled(id));
        }
        Ok(())
    }

    /// A build that deletes every source is far more often a mistake than a wish.
    fn check_not_emptied(&self) -> Result<(), OutputError> {
        let Some(uploaded) = self.uploaded.filter(|_| self.scope == Scope::Everything) else { return Ok(()) };
        let had = uploaded.manifest.entries().len() as u64;
        let left = self.seen.keys().filter(|path| !path.is_root()).count();
        if had > 0 && left == 0 { Err(OutputError::EverythingGone { files: had }) } else { Ok(()) }
    }

    /// On a file system that folds case, two products could become one file. Only such a file system is asked to look.
    fn check_names_differ(&mut self) -> Result<(), OutputError> {
        if !self.folds_case().map_err(host_error("try names in", &self.stage.path))? {
            return Ok(());
        }
        match same_when_folded(self.seen.keys()) {
            Some(path) => Err(self.no_tree(
                path.clone(),
                "differs from another name by case only, which this host's file system cannot hold",
            )),
            None => Ok(()),
        }
    }

    fn folds_case(&mut self) -> io::Result<bool> {
        let number = self.stage.number();
        let (lower, upper) = (format!("case-{number}"), format!("CASE-{number}"));
        drop(at::create_file(&self.stage.dir, lower.as_bytes())?);
        let folds = at::look(&self.stage.dir, upper.as_bytes())?.is_some();
        at::remove_file(&self.stage.dir, lower.as_bytes())?;
        Ok(folds)
    }

    /// The directories above the output that the host does not have yet.
    fn plan_missing_parents(&mut self) -> Result<(), OutputError> {
        let Some(mut parent) = self.target.prefix.parent() else { return Ok(()) };
        while !parent.is_root() {
            if self.look(&parent)?.is_none() {
                let action = Action::MakeDir { mode: 0o777, mtime: None, over: Over::Nothing };
                self.ops.push(Op { path: parent.clone(), action });
            }
            parent = parent.parent().unwrap_or_default();
        }
        Ok(())
    }

    fn plan_deletes(&mut self) -> Result<(), OutputError> {
        for path in self.known_and_not_sent() {
            let place = self.target.prefix.append(&path);
            if self.kept_whole(&path) {
                continue;
            }
            let base = self.base(&path);
            let known = match &base {
                Some(base) if base.from == KnownFrom::Recorded => Known::Recorded,
                Some(_) => Known::Uploaded,
                None => continue,
            };
            let host = self.look(&place)?;
            let has = self.compare(&place, host.as_ref(), base.as_ref(), None)?;
            match (decide(BuildHas::Nothing, known, has), host) {
                (Verdict::Delete, Some(host)) => {
                    let action = match host.kind {
                        Some(Kind::Directory) => Action::RemoveDir { mode: host.mode },
                        _ => Action::Delete { of: (&host).into() },
                    };
                    self.applied.deleted += 1;
                    self.ops.push(Op { path: place.clone(), action });
                    self.forgets.push(place);
                }
                (Verdict::KeepEdited, _) => {
                    self.applied.conflicts += 1;
                    let path = self.target.absolute(&place);
                    self.warnings.push(Warning::Conflict { path, beside: None });
                }
                _ => self.forgets.push(place),
            }
        }
        Ok(())
    }

    /// What fastbuild knows the host had, and the build has no longer.
    fn known_and_not_sent(&self) -> Vec<RelPath> {
        let root = self.target.root();
        let recorded = self.record.below(&root).filter_map(|(tail, _)| RelPath::new(tail).ok());
        let uploaded = self.uploaded.into_iter().flat_map(|uploaded| {
            let entries = uploaded.manifest.entries().iter().enumerate();
            entries
                .filter(move |(index, _)| uploaded.base(*index).is_some())
                .filter_map(|(_, entry)| entry.path.strip_prefix(&self.uploaded_at))
        });
        let mut paths: Vec<RelPath> = match self.scope {
            // A recorded path that an ignore rule kept out of this upload was not there for the build to delete.
            Scope::Everything => uploaded.collect(),
            Scope::Named => recorded.chain(uploaded).collect(),
        };
        paths.retain(|path| !self.seen.contains_key(path));
        paths.sort();
        paths.dedup();
        paths
    }

    /// Whether a path lies in a directory of the user's that was kept because of a conflict.
    fn kept_whole(&self, path: &RelPath) -> bool {
        self.warnings.iter().any(|warning| match warning {
            Warning::Conflict { path: kept, .. } => {
                let place = self.target.absolute(&self.target.prefix.append(path));
                place != *kept && place.starts_with(kept)
            }
            _ => false,
        })
    }

    /// What has been received so far.
    pub fn received(&self) -> Amount {
        self.received
    }
}

/// A large file's content on its way, told as it comes: a minute of silence would look like a hang.
struct Metered<'a, R> {
    data: R,
    done: Amount,
    progress: &'a dyn Fn(Amount),
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.data.read(buffer)?;
        self.done.bytes += n as u64;
        (self.progress)(self.done);
        Ok(n)
    }
}

/// Knowledge of a path of the host's.
#[derive(Debug, Clone)]
struct Base {
    from: KnownFrom,
    what: Content,
    mode: u32,
    stamp: Stamp,
    /// When the stamp was taken.
    seen: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KnownFrom {
    Upload,
    Recorded,
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

struct Settled {
    verdict: Verdict,
    place: RelPath,
    host: Option<Look>,
}

impl Settled {
    fn needs_bytes(&self) -> bool {
        matches!(self.verdict, Verdict::Put | Verdict::Replace | Verdict::Displace | Verdict::Beside)
    }
}

fn over(verdict: Verdict, host: Option<&Look>) -> Over {
    match (verdict, host) {
        (Verdict::Displace, Some(host)) => Over::Stranger(host.into()),
        (Verdict::Replace, Some(host)) => match host.kind {
            Some(Kind::Directory) => Over::EmptiedDir { mode: host.mode },
            _ => Over::Known(host.into()),
        },
        _ => Over::Nothing,
    }
}

/// The order of steps: directories and files from the top down, then modes, then deletes from the bottom up, and last
/// what takes the place of a directory that those deletes have emptied.
fn turn(op: &Op) -> u8 {
    match &op.action {
        Action::MakeDir { .. }
        | Action::Put { over: Over::Nothing | Over::Known(_) | Over::Stranger(_), .. } => 0,
        Action::SetMode { .. } => 1,
        Action::Delete { .. } | Action::RemoveDir { .. } => 2,
        Action::Put { over: Over::EmptiedDir { .. }, .. } => 3,
        Action::Swap { .. } => 4,
    }
}

fn by_path(a: &Op, b: &Op) -> std::cmp::Ordering {
    match a.action {
        Action::Delete { .. } | Action::RemoveDir { .. } => b.path.cmp(&a.path),
        _ => a.path.cmp(&b.path),
    }
}

/// A name beside `place` that nobody has.
pub(super) fn free_name_beside(target: &Target, place: &RelPath) -> Result<RelPath, OutputError> {
    let name = place.file_name().unwrap_or_default();
    let parent = place.parent().unwrap_or_default();
    let mut walk = Walk::new(&target.dir);
    let mut suffix = String::from(BESIDE);
    for number in 2.. {
        // 255 bytes is the longest name that common file systems hold.
        let kept = &name[..name.len().min(255 - suffix.len())];
        let candidate = parent.join(&[kept, suffix.as_bytes()].concat()).map_err(|_| {
            OutputError::BadTarget { path: target.absolute(place), why: "has no free name beside it" }
        })?;
        if walk.look(&candidate).map_err(host_error("look at", target.absolute(&candidate)))?.is_none() {
            return Ok(candidate);
        }
        suffix.clear();
        // Writing to a String does not fail.
        let _ = write!(suffix, "{BESIDE}-{number}");
    }
    Err(OutputError::BadTarget { path: target.absolute(place), why: "has no free name beside it" })
}

/// Where the staging directory of a run's output will be, so that it can be noted before it is made.
///
/// # Errors
/// When no directory on the target's file system can be written, or the target is a link.
pub fn stage_path(target: &Target, run: &str, number: usize) -> Result<PathBuf, OutputError> {
    Ok(stage_parent(target)?.join(format!("{STAGE_PREFIX}{run}-{number}")))
}

/// Looks at all that an output's place holds, many paths at once: on a slow mount each look is a round trip. None when
/// it cannot be read as a whole. What is decided by it is checked again when it is carried out.
fn scan_target(target: &Target) -> Option<Scan> {
    match Walk::new(&target.dir).look(&target.prefix) {
        Ok(Some(Look { kind: Some(Kind::Directory), .. })) => {
            let options = ScanOptions { rules: &Rules::none(), leave_out: &[], progress: &|_| () };
            scan(&target.root(), &options).ok()
        }
        // Nothing, or a file: below it there is nothing.
        Ok(_) => Some(Scan::default()),
        Err(_) => None,
    }
}

/// A directory on the target's own file system that may be written: beside the output, or in it when it is a mount
/// point or its parent is read-only.
fn stage_parent(target: &Target) -> Result<PathBuf, OutputError> {
    let root = target.root();
    let inside = match Walk::new(&target.dir).look(&target.prefix) {
        Ok(Some(Look { kind: Some(Kind::Directory), stamp, .. })) if !target.prefix.is_root() => {
            let base = at::look_at(&target.dir).map_err(host_error("look at", &target.base))?;
            let elsewhere = base.stamp.dev != stamp.dev;
            Some(elsewhere || !at::is_writable(&target.dir))
        }
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => None,
        Err(error) => return Err(host_error("look at", root)(error)),
    };
    let (parent, dir) = match inside {
        Some(true) => {
            let mut walk = Walk::new(&target.dir);
            let writable = walk.open(&target.prefix).is_ok_and(at::is_writable);
            (root, writable)
        }
        _ => (target.base.clone(), at::is_writable(&target.dir)),
    };
    match dir {
        true => Ok(parent),
        false => Err(OutputError::BadTarget {
            path: parent,
            why: "cannot be written: it is read-only for this user",
        }),
    }
}

/// The sha256 of all that `from` has to give.
///
/// # Errors
/// What reading says.
pub(super) fn digest_of(from: &mut dyn Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(Digest(hasher.finalize().into())),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
