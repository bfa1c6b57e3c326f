//! Turns products into steps, with slots for the bytes they need.

use std::{
    cell::OnceCell,
    fs::File,
    io::{self, Read, Seek, Write},
};

use sha2::{Digest as _, Sha256};

use crate::{
    archive::reader::{Limits, ReadError},
    entry::{Amount, Kind, RelPath, Timestamp},
    outputs::{
        OutputError,
        apply::{Prepared, Scope, Staged},
        case_fold::same_when_folded,
        decide::{BuildHas, HostHad, ModeIs, Side, Verdict, decide},
        digest::digest_of,
        host::HostSide,
        host_error,
        ops::{Action, ChangeTime, Identity, Op, Over, Slot},
        record::{Content, Record},
        slots::SlotWriters,
        stage_dir::{Stage, stage_path},
        target::Target,
    },
    report::events::{Applied, Warning},
    spec::ApplyMode,
    sys::{
        at::{self, Look},
        extents::{self, Extents},
        walk::Walk,
    },
    tree::{Digest, Entry, Manifest, ignore::Rules, links::Groups, node::NodeKind, scan::STAGE_PREFIX},
};

/// A file up to this size, in bytes, is held in memory until it is known whether it is needed.
pub(super) const SMALL: u64 = 256 * 1024;

/// Bytes left free on the target's file system, whatever a container sends; at most 1/8 of those
/// free.
const RESERVE: u64 = 64 * 1024 * 1024;

/// An output of more entries than this is a bomb. Its bytes are counted as they are staged
/// (`Staging::take_room`), without holes: data that is only compared needs no disk space.
pub const LIMITS: Limits = Limits { entries: 10_000_000, bytes: u64::MAX };

/// The source tree as the host had it, and the workspace when the command started.
#[derive(Debug, Clone, Copy)]
pub struct Uploaded<'a> {
    /// The source tree as it was scanned.
    pub manifest: &'a Manifest,
    /// The digest of each file; `None` for one that was not uploaded.
    pub digests: &'a [Option<Digest>],
    /// The paths that are not part of it.
    pub rules: &'a Rules,
}

/// The staging of one output.
#[derive(Debug)]
pub struct Staging<'a> {
    pub(super) output: String,
    pub(super) target: Target,
    pub(super) scope: Scope,
    pub(super) apply: ApplyMode,
    pub(super) only: Option<&'a Rules>,
    pub(super) uploaded: Option<Uploaded<'a>>,
    /// The path of the output's root in the manifest.
    pub(super) uploaded_at: RelPath,
    record: &'a Record,
    /// Dropped before `stage`, so that all writing has ended when the stage is removed.
    pub(super) writers: SlotWriters,
    pub(super) stage: Stage,
    /// What the output's place held as a whole; `None` when it is looked at path by path.
    pub(super) host: Option<HostSide>,
    /// What may still be staged before the disk counts as full, in bytes.
    pub(super) room: u64,
    /// Set by [`Staging::expect`].
    pub(super) expected: Option<super::delta::Expected>,
    pub(super) ops: Vec<Op>,
    pub(super) warnings: Vec<Warning>,
    /// The newest mtime of the sources.
    newest: OnceCell<Timestamp>,
    /// Which names of the output are one file here.
    pub(super) groups: OnceCell<Groups>,
    pub(super) applied: Applied,
    pub(super) received: Amount,
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
    /// The part of the output's place that was requested, where that is not all.
    pub only: Option<&'a Rules>,
}

impl<'a> Staging<'a> {
    /// Makes the staging directory of one output.
    ///
    /// `output` is its name for messages, `number` tells the outputs of a run apart. `host` is what
    /// its place held when it was looked at as a whole ([`HostSide::look`]), for a named output.
    /// `uploaded` is the uploaded part of the target's own tree, with the output's place in it;
    /// `None` when the target lies elsewhere.
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
        let (uploaded, uploaded_at) = match uploaded {
            Some((uploaded, at)) => (Some(uploaded), at),
            None => (None, RelPath::root()),
        };
        Ok(Staging {
            output: output.to_owned(),
            target,
            scope,
            apply: options.apply,
            only: options.only,
            uploaded,
            uploaded_at,
            record: options.record,
            writers: SlotWriters::default(),
            stage,
            host,
            room: 0,
            expected: None,
            ops: Vec::new(),
            warnings: Vec::new(),
            newest: OnceCell::new(),
            groups: OnceCell::new(),
            applied: Applied::default(),
            received: Amount::default(),
        })
    }

    /// What was sent, and where the output lies in it.
    pub(in crate::outputs) fn uploaded(&self) -> Option<(Uploaded<'a>, RelPath)> {
        self.uploaded.map(|uploaded| (uploaded, self.uploaded_at.clone()))
    }

    /// Makes a file without a name on the target's file system, for data that is about to be
    /// staged. Its space is counted from now on.
    pub(in crate::outputs) fn make_spool(&mut self) -> Result<File, OutputError> {
        self.room = self.free_bytes()?;
        tempfile::tempfile_in(&self.target.base).map_err(|error| self.not_spooled(error))
    }

    pub(in crate::outputs) fn not_spooled(&self, error: io::Error) -> OutputError {
        host_error("write a file without a name in", &self.target.base)(error)
    }

    /// The bytes that may be staged before the disk counts as full.
    pub(in crate::outputs) fn free_bytes(&self) -> Result<u64, OutputError> {
        let free = at::free_space(&self.stage.dir)
            .map_err(host_error("ask for the free space of", &self.stage.path))?;
        Ok(free - RESERVE.min(free / 8))
    }

    /// Reserves space for `data` bytes of a file of this size.
    pub(in crate::outputs) fn take_room(
        &mut self,
        path: &RelPath,
        size: u64,
        data: u64,
    ) -> Result<(), OutputError> {
        self.room = self.room.checked_sub(data).ok_or_else(|| OutputError::DoesNotFit {
            output: self.output.clone(),
            path: path.clone(),
            size,
            room: self.room,
            stage: self.stage.path.clone(),
        })?;
        Ok(())
    }

    pub(in crate::outputs) fn refused(&self, source: ReadError) -> OutputError {
        OutputError::Refused { output: self.output.clone(), source: Box::new(source) }
    }

    pub(in crate::outputs) fn no_tree(&self, path: RelPath, why: &'static str) -> OutputError {
        OutputError::NoTree { output: self.output.clone(), path, why }
    }

    /// Refuses names that only fastbuild makes.
    pub(in crate::outputs) fn refuse_reserved(&self, path: &RelPath) -> Result<(), OutputError> {
        match path.components().any(|name| name.starts_with(STAGE_PREFIX.as_bytes())) {
            true => Err(self.no_tree(path.clone(), "has a name that fastbuild keeps for itself")),
            false => Ok(()),
        }
    }

    pub(in crate::outputs) fn broken_off(&self, source: io::Error) -> OutputError {
        let offset = self.received.bytes;
        let source = match source.downcast::<ReadError>() {
            Ok(error) => error,
            Err(source) => ReadError::Io { offset, source },
        };
        self.refused(source)
    }

    /// Writes data to the slot `number`. Returns its digest.
    pub(in crate::outputs) fn stage_into(
        &mut self,
        number: u64,
        (path, size): (&RelPath, u64),
        (data, extents): (&mut dyn Read, &Extents),
        mode: u32,
    ) -> Result<Digest, OutputError> {
        let name = number.to_string();
        let file = at::create_file_as(&self.stage.dir, name.as_bytes(), mode)
            .and_then(|file| file.set_len(size).map(|()| file))
            .map_err(host_error("make a file in", &self.stage.path))?;
        self.spool((path, size), (data, extents), &file)
    }

    /// Writes the content for `path` to a file on the target's file system that is long enough,
    /// without its holes. Returns its digest.
    pub(in crate::outputs) fn spool(
        &mut self,
        (path, size): (&RelPath, u64),
        (data, extents): (&mut dyn Read, &Extents),
        file: impl Write + Seek,
    ) -> Result<Digest, OutputError> {
        let mut file = extents::Writer::new(file, extents);
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
            let stored = file.stored;
            file.write_all(&buffer[..n]).map_err(host_error("write to a file in", &self.stage.path))?;
            self.take_room(path, size, file.stored - stored)?;
        }
        Ok(Digest(hasher.finalize().into()))
    }

    pub(super) fn finish_file(&self, number: u64, meta: Meta) -> Result<(), OutputError> {
        let name = number.to_string();
        let refused = &self.stage.refused;
        refused
            .finish(&self.stage.dir, name.as_bytes(), meta.mode, meta.mtime)
            .map_err(host_error("set mode and time of a file in", &self.stage.path))
    }

    pub(in crate::outputs) fn slot_id(&self, number: u64) -> Result<Identity, OutputError> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let look = at::look(&self.stage.dir, number.to_string().as_bytes())
            .and_then(|look| look.ok_or_else(missing))
            .map_err(host_error("look at a file in", &self.stage.path))?;
        Ok((&look).into())
    }

    pub(super) fn settle_directory(&mut self, path: RelPath, meta: Meta) -> Result<(), OutputError> {
        // The source root is the user's own directory, whatever mode the engine gave its copy.
        if path.is_root() && matches!(self.scope, Scope::SourceRoot | Scope::Safe) {
            return Ok(());
        }
        let is_sent = |sent: &Entry| sent.kind == Kind::Directory && sent.mode & 0o777 == meta.mode;
        let sent = self.uploaded.and_then(|uploaded| uploaded.manifest.get(&self.uploaded_at.append(&path)));
        if self.scope == Scope::Safe && sent.is_some_and(is_sent) {
            return Ok(());
        }
        let product = Product { what: &Content::Directory, mode: meta.mode, size: None };
        let settled = self.hold_against_host(&path, product)?;
        self.plan_step(&path, meta, settled, None);
        Ok(())
    }

    pub(super) fn settle_symlink(
        &mut self,
        path: RelPath,
        meta: Meta,
        target: &[u8],
    ) -> Result<(), OutputError> {
        let content = Content::Symlink(target.into());
        let settled =
            self.hold_against_host(&path, Product { what: &content, mode: meta.mode, size: None })?;
        let slot = if settled.needs_bytes() {
            let number = self.stage.number();
            at::symlink(&self.stage.dir, number.to_string().as_bytes(), target)
                .map_err(host_error("make a link in", &self.stage.path))?;
            Some(Slot { number, id: self.slot_id(number)?, what: content })
        } else {
            None
        };
        self.plan_step(&path, meta, settled, slot);
        Ok(())
    }

    pub(super) fn hold_against_host(
        &self,
        path: &RelPath,
        product: Product<'_>,
    ) -> Result<Settled, OutputError> {
        let Some(seen) = self.seen(path, Some(product))? else {
            return Ok(Settled { verdict: decide(BuildHas::It, HostHad::Nothing), seen: None });
        };
        let has_mode = matches!(product.what, Content::Symlink(_)) || seen.mode & 0o777 == product.mode;
        let host = if seen.what.as_ref() != Some(product.what) {
            seen.whose
        } else if has_mode || self.scope == Scope::Elsewhere && *product.what == Content::Directory {
            // Elsewhere, a directory of the user keeps its mode.
            HostHad::Same(ModeIs::Right)
        } else if *product.what != Content::Directory && (self.apply == ApplyMode::Atomic || seen.links > 1) {
            // Hard links would carry a new mode to the tree still in place or the file's other
            // names.
            HostHad::Builds
        } else {
            HostHad::Same(ModeIs::Wrong)
        };
        Ok(Settled { verdict: decide(BuildHas::It, host), seen: Some(seen) })
    }

    /// What the host had at `path`, which is relative to the output's root, when this build looked.
    pub(super) fn seen(
        &self,
        path: &RelPath,
        product: Option<Product<'_>>,
    ) -> Result<Option<Seen>, OutputError> {
        let place = self.target.prefix.append(path);
        match (self.scope, self.uploaded) {
            (Scope::Safe, _) => Ok(None),
            (Scope::SourceRoot | Scope::Synced, Some(uploaded)) => {
                let Some(at) = uploaded.manifest.position(&self.uploaded_at.append(path)) else {
                    return Ok(None);
                };
                let entry = &uploaded.manifest.entries()[at];
                let look = Look {
                    kind: Some(entry.kind.clone()),
                    mode: entry.mode,
                    stamp: entry.stamp,
                    links: entry.links,
                };
                Ok(Some(self.seen_as(&place, &look, uploaded.digests[at])))
            }
            _ => {
                let Some(look) = self.look(&place)? else { return Ok(None) };
                let digest = self.digest(&place, &look, product)?;
                Ok(Some(self.seen_as(&place, &look, digest)))
            }
        }
    }

    fn seen_as(&self, place: &RelPath, look: &Look, digest: Option<Digest>) -> Seen {
        let what = match &look.kind {
            Some(Kind::Directory) => Some(Content::Directory),
            Some(Kind::Symlink { target }) => Some(Content::Symlink(target.clone())),
            Some(Kind::File { .. }) => digest.map(Content::File),
            None => None,
        };
        let written = self.record.get(&self.target.absolute(place));
        let is_builds = |written: &crate::outputs::record::Written| match (&what, &written.what) {
            (Some(Content::Directory), _) => true,
            (Some(what), written_what) => {
                what == written_what && Identity::of_file(&written.stamp) == Identity::of_file(&look.stamp)
            }
            (None, _) => false,
        };
        let is_builds = written.as_ref().is_some_and(is_builds) || what == Some(Content::Directory);
        Seen {
            whose: if is_builds { HostHad::Builds } else { HostHad::Users },
            id: look.into(),
            mode: look.mode,
            mtime: look.stamp.mtime,
            ctime: look.stamp.ctime,
            links: look.links,
            what,
            is_output: written.is_some(),
        }
    }

    /// The digest of a file elsewhere, where the record knows it or it could be the product.
    fn digest(
        &self,
        place: &RelPath,
        look: &Look,
        product: Option<Product<'_>>,
    ) -> Result<Option<Digest>, OutputError> {
        let Some(Kind::File { size }) = look.kind else { return Ok(None) };
        if let Some(path) = place.strip_prefix(&self.target.prefix)
            && self.host.as_ref().is_some_and(|side| side.is_as_recorded(&path))
            && let Some(Content::File(digest)) =
                self.record.get(&self.target.absolute(place)).map(|written| written.what)
        {
            return Ok(Some(digest));
        }
        let may_be_it = product.is_none_or(|product| {
            matches!(product.what, Content::File(_)) && product.size.is_none_or(|wanted| wanted == size)
        });
        if !may_be_it {
            return Ok(None);
        }
        let mut walk = Walk::new(&self.target.dir);
        let opened = walk.parent(place).and_then(|(dir, name)| at::open_file(dir, name));
        match opened.and_then(|mut file| digest_of(&mut file)) {
            Ok(digest) => Ok(Some(digest)),
            // It is gone, or may not be read: either way fastbuild must not delete it.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
            {
                Ok(None)
            }
            Err(error) => Err(host_error("read", self.target.absolute(place))(error)),
        }
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

    pub(super) fn plan_step(&mut self, path: &RelPath, meta: Meta, settled: Settled, slot: Option<Slot>) {
        let place = self.target.prefix.append(path);
        let side = self.side(settled.seen.as_ref());
        let ctime = settled.seen.as_ref().and_then(|seen| ChangeTime::of(seen.ctime));
        let over = settled.over();
        let stays = settled.seen.as_ref().filter(|_| !settled.needs_bytes());
        let touched = stays.filter(|seen| self.is_to_be_touched(path, seen, meta.mtime));
        let touch = touched.map(|seen| Action::Touch { mtime: meta.mtime, was: seen.mtime, of: seen.id });
        let action = match (settled.verdict, settled.seen, slot) {
            (Verdict::AlreadyRight, Some(_), _) if touch.is_some() => {
                self.applied.unchanged += 1;
                self.ops.extend(touch.map(|action| Op { path: place, action, side, ctime }));
                return;
            }
            (Verdict::SetMode, Some(seen), _) => {
                // The step before it changes the ctime.
                let touch = touch.map(|action| Op { path: place.clone(), action, side, ctime: None });
                self.ops.extend(touch);
                Action::SetMode { mode: meta.mode, was: seen.mode, of: seen.id }
            }
            (Verdict::Put | Verdict::Replace | Verdict::Displace, _, Some(slot)) => {
                Action::Put { slot, over }
            }
            (Verdict::Put | Verdict::Replace | Verdict::Displace, _, None) => {
                Action::MakeDir { mode: meta.mode, mtime: meta.mtime, over }
            }
            _ => {
                self.applied.unchanged += 1;
                return;
            }
        };
        self.applied.written += 1;
        self.ops.push(Op { path: place, action, side, ctime });
    }

    /// Whose version stays when the path is changed here meanwhile.
    pub(super) fn side(&self, seen: Option<&Seen>) -> Side {
        match self.scope {
            Scope::SourceRoot if seen.is_none_or(|seen| !seen.is_output) => Side::Source,
            _ => Side::Output,
        }
    }

    /// Whether a file that the build made again with the same bytes gets the build's mtime. It does
    /// when a source is newer than the file here, or when the product was touched: otherwise tools
    /// that compare times would make it each time.
    fn is_to_be_touched(&self, path: &RelPath, seen: &Seen, mtime: Timestamp) -> bool {
        let Some(uploaded) = self.uploaded.filter(|_| matches!(seen.what, Some(Content::File(_)))) else {
            return false;
        };
        let shown = uploaded.manifest.get(&self.uploaded_at.append(path)).map(|entry| entry.mtime);
        let was_touched = seen.is_output && seen.whose == HostHad::Users;
        shown.is_some_and(|shown| shown != mtime)
            && (was_touched || *self.newest.get_or_init(|| self.newest(&uploaded)) > seen.mtime)
    }

    /// Whether a file that gets another mtime has names outside of the output, which must not get
    /// it.
    pub(super) fn would_touch_others(&self, path: &RelPath, settled: &Settled, mtime: Timestamp) -> bool {
        let has_others = |seen: &&Seen| seen.links > self.names_here(path).len().max(1) as u64;
        let seen = settled.seen.as_ref().filter(has_others);
        seen.is_some_and(|seen| self.is_to_be_touched(path, seen, mtime))
    }

    fn newest(&self, uploaded: &Uploaded<'_>) -> Timestamp {
        let entries = uploaded.manifest.entries();
        let is_product = |path: &RelPath| {
            let place = path.strip_prefix(&self.uploaded_at).map(|path| self.target.prefix.append(&path));
            self.scope == Scope::Synced && place.is_some()
                || place.is_some_and(|place| self.record.get(&self.target.absolute(&place)).is_some())
        };
        let sources =
            entries.iter().filter(|entry| entry.kind != Kind::Directory && !is_product(&entry.path));
        sources.map(|entry| entry.mtime).max().unwrap_or(Timestamp { secs: i64::MIN, nanos: 0 })
    }

    /// Ends the staging: adds deletes for the paths that are gone, and sorts the steps.
    ///
    /// # Errors
    /// [`OutputError::EverythingGone`] when the build left nothing at all of a tree, and an error
    /// when the host's file system cannot tell two names apart.
    pub fn finish(mut self) -> Result<Staged, OutputError> {
        self.check_all_arrived()?;
        self.check_not_emptied()?;
        self.check_names_differ()?;
        self.settle_slots()?;
        self.plan_deletes()?;
        // Two steps of one turn are never at the same path.
        self.ops.sort_unstable_by(|a, b| turn(a).cmp(&turn(b)).then_with(|| by_path(a, b)));
        // The steps have grown by doubling, and do not change while the record is made.
        self.ops.shrink_to_fit();
        Ok(Staged {
            target: self.target,
            scope: self.scope,
            stage: self.stage,
            apply: self.apply,
            ops: self.ops,
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
        // This frees memory, much for many products, before the deletes are planned.
        self.writers = SlotWriters::default();
        self.expected_mut().forget_arrived();
        Ok(())
    }

    /// Refuses a build that deleted every source: that is far more often a mistake than intended.
    fn check_not_emptied(&self) -> Result<(), OutputError> {
        let Some(uploaded) = self.uploaded.filter(|_| self.scope == Scope::SourceRoot) else { return Ok(()) };
        let had = uploaded.manifest.entries().len() as u64;
        let nothing_left =
            self.expected.as_ref().is_some_and(|expected| expected.leaves_nothing_of(uploaded.manifest));
        if had > 0 && nothing_left { Err(OutputError::EverythingGone { files: had }) } else { Ok(()) }
    }

    /// Refuses two products that would be one file. Only a file system that folds case is checked.
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

    pub(in crate::outputs) fn folds_case(&mut self) -> io::Result<bool> {
        let number = self.stage.number();
        let (lower, upper) = (format!("case-{number}"), format!("CASE-{number}"));
        drop(at::create_file(&self.stage.dir, lower.as_bytes())?);
        let folds = at::look(&self.stage.dir, upper.as_bytes())?.is_some();
        at::remove_file(&self.stage.dir, lower.as_bytes())?;
        Ok(folds)
    }

    fn plan_deletes(&mut self) -> Result<(), OutputError> {
        for path in self.expected.take().unwrap_or_default().gone {
            self.applied.deleted += u64::from(self.scope == Scope::Safe);
            let Some(seen) = self.seen(&path, None)? else { continue };
            let action = match decide(BuildHas::Nothing, seen.whose) {
                _ if seen.what == Some(Content::Directory) => Action::RemoveDir { mode: seen.mode },
                Verdict::Delete => Action::Delete { of: seen.id },
                Verdict::Remove => Action::Remove { of: seen.id },
                _ => continue,
            };
            self.applied.deleted += 1;
            let side = self.side(Some(&seen));
            let path = self.target.prefix.append(&path);
            self.ops.push(Op { path, action, side, ctime: ChangeTime::of(seen.ctime) });
        }
        Ok(())
    }

    /// Refuses kept paths, which never travel.
    pub(in crate::outputs) fn refuse_kept(&self, path: &RelPath, kind: &NodeKind) -> Result<(), OutputError> {
        let Some(uploaded) = self.uploaded.filter(|_| !path.is_root()) else { return Ok(()) };
        let path = self.uploaded_at.append(path);
        let is_kept = match kind {
            NodeKind::Directory => uploaded.rules.bars(&path),
            _ => uploaded.rules.ignores(&path),
        };
        match is_kept {
            true => Err(self.no_tree(path, "is kept, and does not travel")),
            false => Ok(()),
        }
    }

    /// What has been received so far.
    pub fn received(&self) -> Amount {
        self.received
    }
}

/// Reports a large file's content as it arrives: a minute without output would look like a hang.
pub(super) struct Metered<'a, R> {
    pub(super) data: R,
    pub(super) done: Amount,
    pub(super) progress: &'a dyn Fn(Amount),
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.data.read(buffer)?;
        self.done.bytes += n as u64;
        (self.progress)(self.done);
        Ok(n)
    }
}

/// What the host had at a path when this build looked.
pub(super) struct Seen {
    pub(super) whose: HostHad,
    pub(super) id: Identity,
    /// `None` where it is not known, as of a file that differs in any case.
    pub(super) what: Option<Content>,
    pub(super) mode: u32,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) links: u64,
    /// Whether a build wrote something there before.
    pub(super) is_output: bool,
}

impl Seen {
    /// The [`Over`] of a step that replaces this with the same content, or a build's content with
    /// other content of a build.
    pub(in crate::outputs) fn over_same(&self) -> Over {
        match self.whose {
            HostHad::Users => Over::Same(self.id.into()),
            _ => Over::Known(self.id.into()),
        }
    }
}

/// The mode and time that a product gets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) mtime: Timestamp,
}

/// What the build has at a path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) what: &'a Content,
    pub(super) mode: u32,
    /// Length in bytes of a file, where it is known: files that differ in it need not be read.
    pub(super) size: Option<u64>,
}

pub(super) struct Settled {
    pub(super) verdict: Verdict,
    pub(super) seen: Option<Seen>,
}

impl Settled {
    pub(in crate::outputs) fn needs_bytes(&self) -> bool {
        matches!(self.verdict, Verdict::Put | Verdict::Replace | Verdict::Displace)
    }

    fn over(&self) -> Over {
        match (self.verdict, &self.seen) {
            (
                Verdict::Replace | Verdict::Displace,
                Some(Seen { what: Some(Content::Directory), mode, .. }),
            ) => Over::EmptiedDir { mode: *mode },
            (Verdict::Displace, Some(seen)) => Over::Stranger(seen.id.into()),
            (Verdict::Replace, Some(seen)) => seen.over_same(),
            _ => Over::Nothing,
        }
    }
}

/// The order of steps: directories and files from the top down, then modes, then times, then
/// deletes from the bottom up, and last what replaces a directory emptied by those deletes.
fn turn(op: &Op) -> u8 {
    match &op.action {
        Action::MakeDir { .. }
        | Action::Put { over: Over::Nothing | Over::Known(_) | Over::Same(_) | Over::Stranger(_), .. } => 0,
        Action::SetMode { .. } => 1,
        Action::Touch { .. } => 2,
        Action::Delete { .. } | Action::Remove { .. } | Action::RemoveDir { .. } => 3,
        Action::Put { over: Over::EmptiedDir { .. }, .. } => 4,
        Action::Swap { .. } => 5,
    }
}

fn by_path(a: &Op, b: &Op) -> std::cmp::Ordering {
    match a.action {
        Action::Delete { .. } | Action::Remove { .. } | Action::RemoveDir { .. } => b.path.cmp(&a.path),
        _ => a.path.cmp(&b.path),
    }
}
