//! What a container says it made -> steps, with the bytes they need in slots beside the target.
//!
//! Products come as a list of what differs, of which only those contents are asked for that are needed
//! ([`delta`](Staging::expect)). Each product is held against the host and what fastbuild knows here, by the one table in
//! [`super::decide`], and becomes a step. Nothing of the host's is changed.
//!
//! | file | what |
//! |---|---|
//! | `stage/delta.rs` | a list of nodes, then the contents that were asked for |
//! | `stage/parents.rs` | directories that something needs and nothing names |
//! | [`dir`] | the staging directory and its place |

mod delta;
pub mod dir;
mod parents;
#[cfg(all(test, unix))]
mod tests;

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs::File,
    io::{self, Read, Write},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use self::parents::Opened;
pub use self::{
    delta::{LINK_TO_NOTHING, Listed, Wanted},
    dir::{Stage, remove_stage, stage_path},
};
use super::{
    OutputError,
    apply::Prepared,
    decide::{BuildHas, HostHas, Known, ModeIs, Verdict, decide},
    fold::same_when_folded,
    host::HostSide,
    host_error,
    ops::{Action, Afterwards, Identity, Op, Over, Slot, lossless},
    record::{Content, Record},
    slots::SlotWriters,
    target::{Target, Walk},
    times::MadeAgain,
};
use crate::{
    archive::reader::{Limits, ReadError},
    plan::ApplyMode,
    report::events::{Amount, Applied, Warning},
    sys::at::{self, Look},
    tree::{Digest, Kind, Manifest, RelPath, Stamp, Timestamp, scan::STAGE_PREFIX},
};

/// A file up to this size, in bytes, is held in memory until it is known whether it is needed.
const SMALL: u64 = 256 * 1024;

/// Left free on the target's file system, in bytes, whatever a container sends; at most an eighth of what is free.
const RESERVE: u64 = 64 * 1024 * 1024;

/// An output of more entries than this is a bomb. Its bytes are counted where they are staged (`Staging::take_room`):
/// what is only compared needs no disk, however much it is.
pub const LIMITS: Limits = Limits { entries: 10_000_000, bytes: u64::MAX };

/// Behind the name of a file whose place the user's own version keeps.
const BESIDE: &str = ".fastbuild-new";

/// What was uploaded of an output's tree, when it lies below the source root.
#[derive(Debug, Clone, Copy)]
pub struct Uploaded<'a> {
    /// The source tree as it was scanned.
    pub manifest: &'a Manifest,
    /// The digest of each file; none for one that did not go in.
    pub digests: &'a [Option<Digest>],
    /// When the scan looked, by the host's clock.
    pub looked_at: Timestamp,
}

impl Uploaded<'_> {
    /// What the host had at the manifest's entry `index`; none when it did not go in.
    fn base(&self, index: usize) -> Option<Base> {
        let entry = self.manifest.entries().get(index)?;
        let what = match &entry.kind {
            Kind::Directory => Content::Directory,
            Kind::Symlink { target } => Content::Symlink(target.clone()),
            Kind::File { .. } => Content::File((*self.digests.get(index)?)?),
        };
        let (mode, stamp) = (entry.mode, entry.stamp);
        Some(Base { from: KnownFrom::Upload, what, mode, stamp, seen: self.looked_at })
    }

    /// When the file at `index` was last changed, as the container was told.
    fn mtime(&self, index: usize) -> Option<Timestamp> {
        self.manifest.entries().get(index).map(|entry| entry.mtime)
    }

    /// Whether the host had anything at `index` that went in.
    fn went_in(&self, index: usize) -> bool {
        self.base(index).is_some()
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
    /// What the output's place held when it was looked at as a whole; none when it is looked at path by path.
    host: Option<HostSide>,
    /// A moment before anything was looked at: what is found right is known to have been so then.
    looked_at: Timestamp,
    /// What may still be staged before the disk counts as full, in bytes.
    room: u64,
    /// Set by [`Staging::expect`].
    expected: Option<delta::Expected>,
    /// Directories that the build did not get to make, because the user has something there -> where they went.
    redirects: Vec<(RelPath, RelPath)>,
    /// Directories that the build left as they were, and that were therefore not looked at.
    left: HashSet<RelPath>,
    ops: Vec<Op>,
    claims: Vec<Claim>,
    forgets: Vec<RelPath>,
    warnings: Vec<Warning>,
    made_again: Vec<MadeAgain>,
    applied: Applied,
    received: Amount,
}

/// A path that is right already, and will be fastbuild's when the steps are done. What steps put in place is claimed by
/// themselves ([`Afterwards`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Relative to the target's handle.
    #[serde(with = "lossless")]
    pub path: RelPath,
    /// What it is.
    pub what: Content,
    /// What was compared.
    pub is: Found,
}

/// By what it is known that a path is still what was compared. One that somebody else has put there since, or written to,
/// is not fastbuild's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// A directory, which is nothing but its name.
    Directory,
    /// This file, not written to since.
    File(Identity),
    /// The same with the moment of its last change of any kind, and a moment before it was compared.
    Untouched(Stamp, Timestamp),
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
    /// What is fastbuild's afterwards, beside what the steps put there.
    pub claims: Vec<Claim>,
    /// What is nobody's afterwards.
    pub forgets: Vec<RelPath>,
    /// What the user should know.
    pub warnings: Vec<Warning>,
    /// Sources that the build made again with the same bytes.
    pub made_again: Vec<MadeAgain>,
    /// Counts.
    pub applied: Applied,
    /// The whole new tree, when the output is exchanged as one.
    pub prepared: Prepared,
}

impl Staged {
    /// Another run has applied its products since this was compared, and `record` has them: of two builds that write the same file the
    /// later one wins, and nothing of a user's is in its way.
    pub fn come_after(&mut self, record: &Record) {
        let mut walk = Walk::new(&self.target.dir);
        for op in &mut self.ops {
            let Some(written) = record.get(&self.target.absolute(&op.path)) else { continue };
            let Ok(Some(look)) = walk.look(&op.path) else { continue };
            match &mut op.action {
                _ if look.stamp != written.stamp || look.kind == Some(Kind::Directory) => {}
                Action::Put { over: over @ (Over::Nothing | Over::Known(_)), .. } => {
                    *over = Over::Known(Identity::from(&look));
                }
                Action::Delete { of } => *of = Identity::from(&look),
                _ => {}
            }
        }
    }
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
    /// `output` is its name for messages, `number` tells the outputs of a run apart. `host` is what its place held when it was
    /// looked at as a whole ([`HostSide::look`]), for a named output. `uploaded` is what was sent of the target's own tree, with
    /// the output's place in it; none when the target lies elsewhere.
    ///
    /// # Errors
    /// When no directory on the target's file system can be written, or the target is a link.
    pub fn begin(
        output: &str,
        number: usize,
        target: Target,
        scope: Scope,
        host: Option<HostSide>,
        uploaded: Option<(Uploaded<'a>, RelPath)>,
        options: StagingOptions<'a>,
    ) -> Result<Staging<'a>, OutputError> {
        let path = stage_path(&target, options.run, number)?;
        let stage = Stage::make(path.clone()).map_err(host_error("make the staging directory", path))?;
        let looked_at = stage.now().map_err(host_error("make a file in", &stage.path))?;
        let looked_at = host.as_ref().map_or(looked_at, |host| looked_at.min(host.looked_at()));
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
            looked_at,
            room: 0,
            expected: None,
            redirects: Vec::new(),
            left: HashSet::new(),
            ops: Vec::new(),
            claims: Vec::new(),
            forgets: Vec::new(),
            warnings: Vec::new(),
            made_again: Vec::new(),
            applied: Applied::default(),
            received: Amount::default(),
        })
    }

    /// Which paths come back.
    pub(super) fn scope(&self) -> Scope {
        self.scope
    }

    /// What was sent of a whole source tree.
    pub(super) fn uploaded(&self) -> Option<Uploaded<'a>> {
        self.uploaded
    }

    /// A file without a name on the target's file system, for what is about to be staged; what it takes is counted from now on.
    pub(super) fn make_spool(&mut self) -> Result<File, OutputError> {
        self.room = self.free_bytes()?;
        tempfile::tempfile_in(&self.target.base).map_err(|error| self.not_spooled(error))
    }

    pub(super) fn not_spooled(&self, error: io::Error) -> OutputError {
        host_error("write a file without a name in", &self.target.base)(error)
    }

    /// What may be staged before the disk would be full.
    fn free_bytes(&self) -> Result<u64, OutputError> {
        let free = at::free_space(&self.stage.dir)
            .map_err(host_error("ask for the free space of", &self.stage.path))?;
        Ok(free - RESERVE.min(free / 8))
    }

    /// Sets room aside for content that is about to be staged.
    pub(super) fn take_room(&mut self, path: &RelPath, size: u64) -> Result<(), OutputError> {
        self.room = self.room.checked_sub(size).ok_or_else(|| OutputError::DoesNotFit {
            output: self.output.clone(),
            path: path.clone(),
            size,
            room: self.room,
            stage: self.stage.path.clone(),
        })?;
        Ok(())
    }

    pub(super) fn refused(&self, source: ReadError) -> OutputError {
        OutputError::Refused { output: self.output.clone(), source: Box::new(source) }
    }

    pub(super) fn no_tree(&self, path: RelPath, why: &'static str) -> OutputError {
        OutputError::NoTree { output: self.output.clone(), path, why }
    }

    /// A tree has no place for what only fastbuild makes.
    fn refuse_reserved(&self, path: &RelPath) -> Result<(), OutputError> {
        match path.components().any(|name| name.starts_with(STAGE_PREFIX.as_bytes())) {
            true => Err(self.no_tree(path.clone(), "has a name that fastbuild keeps for itself")),
            false => Ok(()),
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

    /// Writes data to the slot `number`; gives its digest.
    fn stage_into(&mut self, number: u64, data: &mut dyn Read, mode: u32) -> Result<Digest, OutputError> {
        let name = number.to_string();
        let mut file = at::create_file_as(&self.stage.dir, name.as_bytes(), mode)
            .map_err(host_error("make a file in", &self.stage.path))?;
        self.spool(data, &mut file)
    }

    /// Writes data to a file on the target's file system; gives its digest.
    pub(super) fn spool(&self, data: &mut dyn Read, file: &mut dyn Write) -> Result<Digest, OutputError> {
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
        Ok(Digest(hasher.finalize().into()))
    }

    fn finish_file(&self, number: u64, meta: Meta) -> Result<(), OutputError> {
        let name = number.to_string();
        let refused = &self.stage.refused;
        refused
            .finish(&self.stage.dir, name.as_bytes(), meta.mode, meta.mtime)
            .map_err(host_error("set mode and time of a file in", &self.stage.path))
    }

    fn slot_id(&self, number: u64) -> Result<Identity, OutputError> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let look = at::look(&self.stage.dir, number.to_string().as_bytes())
            .and_then(|look| look.ok_or_else(missing))
            .map_err(host_error("look at a file in", &self.stage.path))?;
        Ok((&look).into())
    }

    fn settle_directory(&mut self, path: RelPath, meta: Meta) -> Result<(), OutputError> {
        // The source root is the user's own directory, whatever mode the engine gave its copy.
        if path.is_root() && self.scope == Scope::Everything {
            return Ok(());
        }
        let product = Product { what: &Content::Directory, mode: meta.mode, size: None };
        let settled = self.judge(&path, product)?;
        if settled.verdict == Verdict::Leave {
            self.left.insert(path.clone());
        }
        self.plan_step(path, meta, Content::Directory, settled, None)
    }

    fn settle_symlink(&mut self, path: RelPath, meta: Meta, target: &[u8]) -> Result<(), OutputError> {
        let content = Content::Symlink(target.into());
        let settled = self.judge(&path, Product { what: &content, mode: meta.mode, size: None })?;
        let slot = if settled.needs_bytes() {
            let number = self.stage.number();
            at::symlink(&self.stage.dir, number.to_string().as_bytes(), target)
                .map_err(host_error("make a link in", &self.stage.path))?;
            Some(Slot { number, id: self.slot_id(number)?, what: content.clone() })
        } else {
            None
        };
        self.plan_step(path, meta, content, settled, slot)
    }

    /// Holds a product against the host, and sees to the directories above it when something has to be done there.
    fn judge(&mut self, path: &RelPath, product: Product<'_>) -> Result<Settled, OutputError> {
        let settled = self.hold_against_host(path, product)?;
        match settled.verdict {
            Verdict::Leave | Verdict::AlreadyRight => Ok(settled),
            _ => match self.open_left(path)? {
                Opened::InPlace => Ok(settled),
                Opened::Elsewhere => self.hold_against_host(path, product),
            },
        }
    }

    fn hold_against_host(&self, path: &RelPath, product: Product<'_>) -> Result<Settled, OutputError> {
        let place = self.target.prefix.append(path);
        let base = self.base(path);
        let known = match &base {
            None => Known::Nothing,
            Some(base) if base.from == KnownFrom::Recorded => Known::Recorded,
            Some(base) if base.what == *product.what && base.mode & 0o777 == product.mode => {
                Known::UploadedUnchanged
            }
            Some(_) => Known::Uploaded,
        };
        if known == Known::UploadedUnchanged && self.scope == Scope::Everything {
            return Ok(Settled { verdict: Verdict::Leave, place, host: None });
        }
        if let Some(moved) = self.redirected(path) {
            return Ok(Settled { verdict: Verdict::Put, place: moved, host: None });
        }
        let host = self.look(&place)?;
        let has = self.compare(&place, host.as_ref(), base.as_ref(), Some(product))?;
        let has = match has {
            // A directory of the user's own keeps the mode that he gave it.
            HostHas::Product(ModeIs::Wrong) if base.is_none() && *product.what == Content::Directory => {
                HostHas::Product(ModeIs::Right)
            }
            // Hard links would carry a new mode to the tree that is still in place, or to where the file's other names lie.
            HostHas::Product(ModeIs::Wrong)
                if *product.what != Content::Directory
                    && (self.apply == ApplyMode::Atomic
                        || host.as_ref().is_some_and(|host| host.links > 1)) =>
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
            && let Some(look) = host.look_below(&path)
        {
            return Ok(look);
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
            what: written.what,
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
        product: Option<Product<'_>>,
    ) -> Result<HostHas, OutputError> {
        let Some(host) = host else { return Ok(HostHas::Nothing) };
        let has = self.content(place, host, base, product)?;
        let Some(has) = has else { return Ok(HostHas::Other) };
        if let Some(product) = product
            && *product.what == has
        {
            let mode_is = if matches!(has, Content::Symlink(_)) || host.mode & 0o777 == product.mode {
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
        product: Option<Product<'_>>,
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
        if let Some(path) = place.strip_prefix(&self.target.prefix)
            && self.host.as_ref().is_some_and(|side| side.is_as_recorded(&path))
        {
            return Ok(self.record.get(&self.target.absolute(place)).map(|written| written.what));
        }
        let may_be_it = |product: Product<'_>| {
            matches!(product.what, Content::File(_)) && product.size.is_none_or(|wanted| wanted == size)
        };
        let wanted = base
            .is_some_and(|base| matches!(base.what, Content::File(_)) && base.stamp.size == size)
            || product.is_some_and(may_be_it);
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

    fn plan_step(
        &mut self,
        path: RelPath,
        meta: Meta,
        what: Content,
        settled: Settled,
        slot: Option<Slot>,
    ) -> Result<(), OutputError> {
        let Settled { verdict, place, host } = settled;
        let over = over(verdict, host.as_ref());
        match verdict {
            Verdict::Leave => {
                self.applied.unchanged += 1;
                if let Content::File(_) = what {
                    self.note_time(&path, meta.mtime);
                }
            }
            Verdict::AlreadyRight => {
                self.applied.unchanged += 1;
                self.claim_found(place, what, host.as_ref());
            }
            Verdict::SetMode => {
                self.applied.written += 1;
                if let Some(host) = &host {
                    let action = Action::SetMode { mode: meta.mode, was: host.mode, of: host.into() };
                    self.ops.push(Op { path: place.clone(), action, then: Afterwards::Nobodys });
                    let is = match what {
                        Content::Directory => Found::Directory,
                        _ => Found::File(host.into()),
                    };
                    self.claims.push(Claim { path: place, what, is });
                }
            }
            Verdict::Put | Verdict::Replace | Verdict::Displace => {
                self.applied.written += 1;
                let then = match self.redirected(&path) {
                    None => Afterwards::Fastbuilds,
                    Some(_) => Afterwards::Nobodys,
                };
                let action = match slot {
                    Some(slot) => Action::Put { slot, over },
                    None => Action::MakeDir { mode: meta.mode, mtime: Some(meta.mtime), over },
                };
                self.ops.push(Op { path: place, action, then });
            }
            Verdict::Beside => self.put_beside(path, place, meta, slot)?,
            Verdict::Delete | Verdict::KeepEdited => {}
        }
        Ok(())
    }

    /// The user changed the path meanwhile: it stays, and the build's version goes to a name beside it.
    fn put_beside(
        &mut self,
        path: RelPath,
        place: RelPath,
        meta: Meta,
        slot: Option<Slot>,
    ) -> Result<(), OutputError> {
        self.applied.conflicts += 1;
        let beside = free_name_beside(&self.target, &place)?;
        let action = match slot {
            Some(slot) => Action::Put { slot, over: Over::Nothing },
            None => {
                self.redirects.push((path, beside.clone()));
                Action::MakeDir { mode: meta.mode, mtime: Some(meta.mtime), over: Over::Nothing }
            }
        };
        self.warnings.push(Warning::Conflict {
            path: self.target.absolute(&place),
            beside: Some(self.target.absolute(&beside)),
        });
        self.ops.push(Op { path: beside, action, then: Afterwards::Nobodys });
        Ok(())
    }

    /// Notes what is right already, unless the record says so already and will be believed.
    fn claim_found(&mut self, path: RelPath, what: Content, host: Option<&Look>) {
        let Some(host) = host else { return };
        let noted = self.record.get(&self.target.absolute(&path));
        let is = match what {
            Content::Directory => Found::Directory,
            _ => Found::Untouched(host.stamp, self.looked_at),
        };
        let is_noted = noted.is_some_and(|noted| {
            let stands =
                what == Content::Directory || noted.stamp == host.stamp && !host.stamp.is_racy(noted.seen);
            noted.what == what && noted.mode == host.mode && stands
        });
        if !is_noted {
            self.claims.push(Claim { path, what, is });
        }
    }

    /// Notes when the build made a file that it left as it went in but for that.
    fn note_time(&mut self, path: &RelPath, mtime: Timestamp) {
        let Some(uploaded) = self.uploaded else { return };
        let path = self.uploaded_at.append(path);
        let Some(index) = uploaded.manifest.position(&path).filter(|at| uploaded.mtime(*at) != Some(mtime))
        else {
            return;
        };
        if let Some(Base { stamp, what: Content::File(digest), .. }) = uploaded.base(index) {
            self.made_again.push(MadeAgain { path, stamp, digest, mtime });
        }
    }

    /// Ends the staging: what the build no longer has becomes deletes, and the steps get their order.
    ///
    /// # Errors
    /// [`OutputError::EverythingGone`] when the build left nothing at all of a tree, and two names that the host's file
    /// system cannot tell apart.
    pub fn finish(mut self) -> Result<Staged, OutputError> {
        self.check_all_arrived()?;
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
            made_again: self.made_again,
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
        Ok(())
    }

    /// A build that deletes every source is far more often a mistake than a wish.
    fn check_not_emptied(&self) -> Result<(), OutputError> {
        let Some(uploaded) = self.uploaded.filter(|_| self.scope == Scope::Everything) else { return Ok(()) };
        let had = uploaded.manifest.entries().len() as u64;
        let nothing_left =
            self.expected.as_ref().is_some_and(|expected| expected.leaves_nothing_of(uploaded.manifest));
        if had > 0 && nothing_left { Err(OutputError::EverythingGone { files: had }) } else { Ok(()) }
    }

    /// On a file system that folds case, two products could become one file. Only such a file system is asked to look.
    fn check_names_differ(&self) -> Result<(), OutputError> {
        let expected = self.expected.as_ref().filter(|expected| expected.compares_names());
        let same = expected.and_then(|expected| same_when_folded(self.new_tree(expected).iter()).cloned());
        match same {
            Some(path) => Err(self.no_tree(
                path,
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

    fn plan_deletes(&mut self) -> Result<(), OutputError> {
        for path in self.expected.take().unwrap_or_default().gone {
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
                    self.ops.push(Op { path: place.clone(), action, then: Afterwards::Nobodys });
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

/// What a product is told to be, beside its content.
#[derive(Debug, Clone, Copy)]
struct Meta {
    mode: u32,
    mtime: Timestamp,
}

/// What the build has at a path.
#[derive(Debug, Clone, Copy)]
struct Product<'a> {
    what: &'a Content,
    mode: u32,
    /// Length in bytes of a file, where it is known: files that differ in it need not be read.
    size: Option<u64>,
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
