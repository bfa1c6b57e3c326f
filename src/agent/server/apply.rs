//! Writes deletes, a tar stream and metadata to the disk, by directory handles, and updates the
//! tree.
//!
//! In: the differences that the client found. The client is trusted, but no link in the workspace
//! is followed on the way to a path, because the command may have left it there. Out: the source
//! tree as the host has it. Paths of the root that are not source tree stay, and so do leftovers,
//! and the directories above them, unless the host has something else in their place.
//!
//! A file is never written in place: it may have other names anywhere. Its mtime is set last, so
//! that a half-written file shows in the next scan. A client that dies in the middle leaves a
//! half-updated tree, which that scan sees too. One thread reads the frames. Another decodes the
//! archive and makes everything but small files, which [`super::writers`] makes.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashSet},
    io::{self, Read, Write as _},
    os::fd::AsFd,
    sync::Arc,
};

use cap_std::fs::{Dir, File};
use rustix::fs::{AtFlags, Gid, Mode, Uid};
use sha2::{Digest as _, Sha256};

use crate::{
    agent::{
        protocol::{Failed, Failure, Meta},
        server::{
            common::failed,
            inbox::{DataIn, DataStop, Inbox},
            workspace::{Company, Tree, Workspace, nonsense},
            writers::{NewFile, Writers, Written},
        },
    },
    archive::{Incoming, IncomingKind, Limits, Naming, ReadError, Reader},
    entry::{Kind, RelPath, Timestamp},
    sys::{
        self,
        at::{self, Look},
        extents::{self, Extents},
        source_file,
    },
    tree::{Digest, Entry, Manifest},
    user::Ids,
};

/// How much of a file is read at once, in bytes.
const PIECE: usize = 256 << 10;

/// Files up to this many bytes are passed to [`Writers`] whole.
const SMALL: u64 = 64 << 10;

/// Where others are at work: a file's name until it is complete, before a number. If one is left
/// there, it is not a source, and the next build that is alone removes it.
const UNDER: &str = ".fastbuild-put~";

/// Makes a source root equal to the host's.
pub(super) struct Applier {
    root: Arc<Dir>,
    company: Company,
    /// How many names of [`UNDER`] were used.
    under: u64,
    /// `None` where files already get the right owner, or cannot get another.
    owner: Option<Ids>,
    /// Directories that hold only leftovers now.
    left: Vec<RelPath>,
    /// The directory of the latest path, and those above it.
    open: Vec<(Box<[u8]>, Arc<Dir>)>,
    /// Directories in which names were added or removed, with their mtime before.
    touched: BTreeMap<RelPath, Touched>,
    /// The latest of them: most paths come directory by directory.
    touched_last: Option<RelPath>,
    /// Modes and times of directories in the archive, to be set when no more is written into them.
    directories: Vec<Meta>,
    removed: HashSet<RelPath>,
    written: Vec<Written>,
    /// Hard links that were made, and their targets.
    links: Vec<(RelPath, RelPath)>,
    /// Paths whose metadata have changed since they were scanned or written.
    stale: BTreeSet<RelPath>,
    /// Names, by device and inode, of files that have several names and are to get other metadata.
    linked: BTreeMap<(u64, u64), Vec<Meta>>,
}

/// Where a path is written.
struct Spot<'a> {
    dir: Arc<Dir>,
    name: &'a [u8],
    /// The name until it is complete.
    under: Cow<'a, [u8]>,
}

/// A directory as it was before its names changed.
struct Touched {
    mtime: Timestamp,
    /// The mode to restore, where write permission was added.
    mode: Option<u32>,
}

/// Why an upload was not applied.
#[derive(Debug)]
pub(super) enum Halt {
    Failed(Failed),
    /// Something else came in the middle of the data.
    Interrupted(DataStop),
}

impl Applier {
    /// Nothing applied yet.
    pub(super) fn new(workspace: &Workspace) -> Result<Applier, Failed> {
        // Not an O_PATH handle: this one must be able to set mode and time.
        let root = std::fs::File::open(&workspace.root)
            .map(Dir::from_std_file)
            .map_err(|error| failed(&format!("could not open {:?}", workspace.root), &error))?;
        let owner = rustix::process::geteuid().is_root().then_some(workspace.account.ids);
        Ok(Applier {
            root: Arc::new(root),
            company: workspace.company,
            under: 0,
            owner: owner.filter(|ids| (ids.uid, ids.gid) != own_ids()),
            left: Vec::new(),
            open: Vec::new(),
            touched: BTreeMap::new(),
            touched_last: None,
            directories: Vec::new(),
            removed: HashSet::new(),
            written: Vec::new(),
            links: Vec::new(),
            stale: BTreeSet::new(),
            linked: BTreeMap::new(),
        })
    }

    /// Removes paths of `tree`, with everything of it below them.
    pub(super) fn delete(&mut self, paths: &[RelPath], tree: &Tree) -> Result<(), Failed> {
        for path in paths {
            for path in tree.paths_to_delete(path) {
                self.delete_one(path, tree)
                    .map_err(|error| failed(&format!("could not delete {path}"), &error))?;
            }
        }
        Ok(())
    }

    /// Unpacks the archive that comes next.
    pub(super) fn unpack(&mut self, inbox: &Inbox) -> Result<(), Halt> {
        let mut data = DataIn::new(inbox);
        match (self.unpack_from(&mut data), data.stop()) {
            (Ok(()), Some(DataStop::Complete)) => Ok(()),
            // This is why the archive broke off.
            (_, Some(stop @ (DataStop::Failed(_) | DataStop::Interrupted(_)))) => {
                Err(Halt::Interrupted(stop))
            }
            (Err(failed), _) => Err(Halt::Failed(failed)),
            (Ok(()), None) => Err(Halt::Failed(nonsense("there is more behind the end of the archive"))),
        }
    }

    fn unpack_from(&mut self, data: impl Read) -> Result<(), Failed> {
        let mut writers = Writers::new(self.owner);
        let taken = self.take(data, &mut writers);
        // If a writer failed, that is why no more was taken.
        self.written.extend(writers.finish()?);
        // The targets of the links exist now.
        for (path, target) in taken? {
            self.put_hard_link(&path, &target).map_err(|error| not_written(&path, &error))?;
        }
        Ok(())
    }

    /// Writes everything but hard links, and returns those.
    fn take(&mut self, data: impl Read, writers: &mut Writers) -> Result<Vec<(RelPath, RelPath)>, Failed> {
        let limits = Limits { entries: u64::MAX, bytes: u64::MAX };
        let mut reader = Reader::new(data, Naming::Contents, limits).believing().with_holes();
        let told = |error: ReadError| Failed { why: Failure::Protocol, detail: error.to_string() };
        let mut links = Vec::new();
        while let Some(incoming) = reader.next_entry().map_err(told)? {
            let put = match incoming.kind {
                IncomingKind::Directory => self.put_directory(&incoming),
                IncomingKind::File { size } => self.put_file(&incoming, size, &mut reader, writers),
                IncomingKind::Symlink { ref target } => self.put_symlink(&incoming, target),
                IncomingKind::HardLink { ref target } => {
                    links.push((incoming.path.clone(), target.clone()));
                    Ok(())
                }
                IncomingKind::Special(_) => Ok(()),
            };
            put.map_err(|error| not_written(&incoming.path, &error))?;
        }
        Ok(links)
    }

    /// Sets modes and times, those of directories last, and updates `tree` to the disk's state.
    pub(super) fn settle(mut self, metas: Vec<Meta>, tree: Tree) -> Result<Tree, Failed> {
        for meta in metas {
            self.settle_one(meta.clone())
                .map_err(|error| failed(&format!("could not set mode and time of {}", meta.path), &error))?;
        }
        for (_, names) in std::mem::take(&mut self.linked) {
            let told = |error| failed(&format!("could not set mode and time of {}", names[0].path), &error);
            self.settle_linked(&names).map_err(told)?;
        }
        self.settle_directories()
            .map_err(|error| failed("could not set modes and times of directories", &error))?;
        self.remember(tree).map_err(|error| failed("could not look at what was written", &error))
    }

    // ---- deletes --------------------------------------------------------------------------------

    fn delete_one(&mut self, path: &RelPath, tree: &Tree) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let dir = match self.directory(&parent, Missing::Fail) {
            Ok(dir) => dir,
            Err(error) if sys::is_absence(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(look) = at::look(&dir, name)? else { return Ok(()) };
        self.touch(&dir, path)?;
        if look.kind != Some(Kind::Directory) {
            at::remove_file(&dir, name)?;
            self.removed.insert(path.clone());
            return Ok(());
        }
        match at::remove_dir(&dir, name) {
            Ok(()) => {
                self.removed.insert(path.clone());
                self.open.clear();
            }
            // It holds paths that stay.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                let lies_in = |left: &RelPath| left.strip_prefix(path).is_some();
                if tree.leftovers.iter().chain(&self.left).any(lies_in) {
                    self.left.push(path.clone());
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Removes `name` in `dir`, which is `path`, with everything in it: something else takes its
    /// place.
    fn clear(&mut self, dir: &Dir, path: &RelPath, name: &[u8]) -> io::Result<()> {
        let Some(look) = at::look(dir, name)? else { return Ok(()) };
        self.touch(dir, path)?;
        if look.kind == Some(Kind::Directory) {
            let inner = at::open_dir(dir, name)?;
            for child in at::names(&inner)? {
                self.clear(&inner, &path.join(&child).map_err(io::Error::other)?, &child)?;
            }
            at::remove_dir(dir, name)?;
            self.open.clear();
        } else {
            at::remove_file(dir, name)?;
        }
        self.removed.insert(path.clone());
        Ok(())
    }

    // ---- puts -----------------------------------------------------------------------------------

    fn put_directory(&mut self, incoming: &Incoming) -> io::Result<()> {
        let Incoming { path, mode, mtime, .. } = incoming;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        self.directories.push(Meta { path: path.clone(), mode: *mode, mtime: *mtime });
        let dir = self.directory(&parent, Missing::Make)?;
        match at::look(&dir, name)?.map(|look| look.kind) {
            Some(Some(Kind::Directory)) => {
                self.stale.insert(path.clone());
                return Ok(());
            }
            Some(_) => self.clear(&dir, path, name)?,
            None => {}
        }
        self.make_directory(&dir, path, name)
    }

    fn make_directory(&mut self, dir: &Dir, path: &RelPath, name: &[u8]) -> io::Result<()> {
        self.touch(dir, path)?;
        at::make_dir(dir, name)?;
        self.give_away(dir, name)?;
        let look = at::look(dir, name)?.ok_or(io::ErrorKind::NotFound)?;
        self.written.push(Written { path: path.clone(), look, digest: None });
        self.stale.insert(path.clone());
        Ok(())
    }

    fn put_file(
        &mut self,
        incoming: &Incoming,
        size: u64,
        content: &mut Reader<impl Read>,
        writers: &mut Writers,
    ) -> io::Result<()> {
        let Incoming { path, mode, mtime, .. } = incoming;
        let Spot { dir, under, .. } = self.place(path)?;
        let under = (self.company == Company::Others).then(|| under.into_owned().into());
        let file = NewFile { dir, path: path.clone(), under, mode: *mode, mtime: *mtime };
        let extents = content.extents();
        if size > SMALL || extents != Extents::whole(size) {
            let written = file.write(|file| copy(content.data(), size, &extents, file), self.owner)?;
            self.written.push(written);
            return Ok(());
        }
        let mut whole = Vec::with_capacity(size as usize);
        content.data().read_to_end(&mut whole)?;
        writers.write(file, whole)
    }

    fn put_symlink(&mut self, incoming: &Incoming, target: &[u8]) -> io::Result<()> {
        let Incoming { path, mtime, .. } = incoming;
        let Spot { dir, name, under } = self.place(path)?;
        at::symlink(&dir, &under, target)?;
        self.give_away(&dir, &under)?;
        at::set_mtime(&dir, &under, *mtime)?;
        put_in_place(&dir, &under, name)?;
        let look = at::look(&dir, name)?.ok_or(io::ErrorKind::NotFound)?;
        self.written.push(Written { path: path.clone(), look, digest: None });
        Ok(())
    }

    fn put_hard_link(&mut self, path: &RelPath, target: &RelPath) -> io::Result<()> {
        let Spot { dir, name, under } = self.place(path)?;
        let (Some(from), Some(old)) = (target.parent(), target.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let from = self.directory(&from, Missing::Fail)?;
        at::hard_link(&from, old, &dir, &under)?;
        put_in_place(&dir, &under, name)?;
        let look = at::look(&dir, name)?.ok_or(io::ErrorKind::NotFound)?;
        self.written.push(Written { path: path.clone(), look, digest: None });
        self.links.push((path.clone(), target.clone()));
        // The link changed the file's ctime.
        self.stale.extend([path.clone(), target.clone()]);
        Ok(())
    }

    /// Where a path is written. Only something that a rename replaces may be left there.
    fn place<'a>(&mut self, path: &'a RelPath) -> io::Result<Spot<'a>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the root itself is a directory"));
        };
        let dir = self.directory(&parent, Missing::Make)?;
        self.touch(&dir, path)?;
        let is_directory = || Ok::<_, io::Error>(at::look(&dir, name)?.map(|look| look.kind));
        if self.company == Company::Nobody || is_directory()? == Some(Some(Kind::Directory)) {
            self.clear(&dir, path, name)?;
        }
        let under = match self.company {
            Company::Nobody => Cow::Borrowed(name),
            Company::Others => {
                self.under += 1;
                Cow::Owned(format!("{UNDER}{}", self.under).into_bytes())
            }
        };
        Ok(Spot { dir, name, under })
    }

    /// Makes the user the owner of a name, even of a link.
    fn give_away(&self, dir: &Dir, name: &[u8]) -> io::Result<()> {
        let Some(Ids { uid, gid }) = self.owner else { return Ok(()) };
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        Ok(rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    // ---- metadata -------------------------------------------------------------------------------

    fn settle_one(&mut self, meta: Meta) -> io::Result<()> {
        let (Some(parent), Some(name)) = (meta.path.parent(), meta.path.file_name()) else { return Ok(()) };
        let dir = self.directory(&parent, Missing::Fail)?;
        let Some(look) = at::look(&dir, name)? else { return Err(io::ErrorKind::NotFound.into()) };
        self.stale.insert(meta.path.clone());
        match look.kind {
            Some(Kind::Directory) => self.directories.push(meta),
            Some(Kind::Symlink { .. }) => {
                self.give_away(&dir, name)?;
                at::set_mtime(&dir, name, meta.mtime)?;
            }
            Some(Kind::File { .. }) if look.mode == meta.mode && look.stamp.mtime == meta.mtime => {}
            Some(Kind::File { .. }) if look.links > 1 => {
                self.linked.entry((look.stamp.dev, look.stamp.ino)).or_default().push(meta);
            }
            Some(Kind::File { .. }) => self.finish(&dir, name, &meta)?,
            None => return Err(io::Error::other("it is neither file nor directory")),
        }
        Ok(())
    }

    fn finish(&self, dir: &Dir, name: &[u8], meta: &Meta) -> io::Result<()> {
        // A user who changed it by hand, as root, may have made it anew.
        self.give_away(dir, name)?;
        at::finish_by_name(dir, name, meta.mode & 0o7777, meta.mtime)
    }

    /// Names of one file. If the file has other names, which may be anywhere, these are separated
    /// from them.
    fn settle_linked(&mut self, names: &[Meta]) -> io::Result<()> {
        let Some((first, others)) = names.split_first() else { return Ok(()) };
        let (Some(parent), Some(name)) = (first.path.parent(), first.path.file_name()) else { return Ok(()) };
        let dir = self.directory(&parent, Missing::Fail)?;
        let links = at::look(&dir, name)?.map_or(0, |look| look.links);
        if links > names.len() as u64 {
            self.part(&dir, &first.path, name)?;
            for other in others {
                self.put_hard_link(&other.path, &first.path)?;
            }
        }
        self.finish(&dir, name, first)
    }

    /// Gives a name a file of its own.
    fn part(&mut self, dir: &Dir, path: &RelPath, name: &[u8]) -> io::Result<()> {
        let old = at::open_file(dir, name)?.into_std();
        let facts = source_file::facts(&old)?;
        self.touch(dir, path)?;
        at::remove_file(dir, name)?;
        let new = at::create_file(dir, name)?;
        copy(&old, facts.stamp.size, &Extents::of(&old, &facts), &new)?;
        own(&new, self.owner)
    }

    /// Deepest first. Setting the metadata of entries does not change the directory's times; making
    /// entries would.
    fn settle_directories(&mut self) -> io::Result<()> {
        let mut wanted: BTreeMap<RelPath, (Option<u32>, Timestamp)> = BTreeMap::new();
        for (path, Touched { mtime, mode }) in std::mem::take(&mut self.touched) {
            wanted.insert(path, (mode, mtime));
        }
        let mut made = BTreeSet::new();
        for Meta { path, mode, mtime } in std::mem::take(&mut self.directories) {
            made.insert(path.clone());
            wanted.insert(path, (Some(mode & 0o7777), mtime));
        }
        for (path, (mode, mtime)) in wanted.into_iter().rev() {
            let dir = match self.directory(&path, Missing::Fail) {
                Ok(dir) => dir,
                // It was touched, and removed later.
                Err(error) if sys::is_absence(&error) && !made.contains(&path) => continue,
                Err(error) => return Err(error),
            };
            if let Some(mode) = mode {
                own(&*dir, self.owner)?;
                rustix::fs::fchmod(&*dir, Mode::from_raw_mode(mode))?;
            }
            rustix::fs::futimens(&*dir, &at::mtime_alone(mtime))?;
            if made.contains(&path) && !path.is_root() {
                self.stale.insert(path);
            }
        }
        Ok(())
    }

    // ---- what is on the disk now ----------------------------------------------------------------

    fn remember(mut self, mut tree: Tree) -> io::Result<Tree> {
        tree.leftovers.extend(std::mem::take(&mut self.left));
        if self.written.is_empty() && self.removed.is_empty() && self.stale.is_empty() {
            return Ok(tree);
        }
        let mut written = std::mem::take(&mut self.written);
        // For a path that came twice, the second one counts.
        written.reverse();
        written.sort_by(|a, b| a.path.cmp(&b.path));
        written.dedup_by(|a, b| a.path == b.path);
        for (path, target) in &self.links {
            let find = |path: &RelPath| written.binary_search_by(|written| written.path.cmp(path)).ok();
            let digest = match find(target) {
                Some(at) => written[at].digest,
                None => tree.manifest.position(target).and_then(|at| tree.digests[at]),
            };
            if let Some(at) = find(path) {
                written[at].digest = digest;
            }
        }

        let Tree { manifest, digests, mut specials, mut leftovers, hashed, fresh, unsaved: _ } = tree;
        let is_hosts = |path: &RelPath| self.removed.contains(path) || self.stale.contains(path);
        leftovers.retain(|path| !is_hosts(path));
        for written in &written {
            leftovers.remove(&written.path);
        }
        let fresh: HashSet<usize> = fresh.into_iter().collect();
        specials.retain(|(path, _)| !self.removed.contains(path));
        let is_new = |path: &RelPath| written.binary_search_by(|written| written.path.cmp(path)).is_ok();
        let old: Vec<_> = manifest
            .into_entries()
            .into_iter()
            .zip(digests)
            .enumerate()
            .filter(|(_, (entry, _))| !self.removed.contains(&entry.path) && !is_new(&entry.path))
            .map(|(at, (entry, digest))| (entry, digest, fresh.contains(&at)))
            .collect();
        let new = written.into_iter().filter_map(|written| {
            let Look { kind, mode, stamp, links } = written.look;
            let entry = Entry { path: written.path, kind: kind?, mode, mtime: stamp.mtime, stamp, links };
            Some((entry, written.digest, false))
        });
        let mut all: Vec<_> = old.into_iter().chain(new).collect();
        all.sort_by(|a, b| a.0.path.cmp(&b.0.path));
        for path in std::mem::take(&mut self.stale) {
            if let Ok(at) = all.binary_search_by(|(entry, ..)| entry.path.cmp(&path)) {
                self.refresh(&mut all[at].0)?;
            }
        }
        // If another name of theirs was removed, that changed the file.
        for (entry, ..) in &mut all {
            if entry.links > 1 && leftovers.contains(&entry.path) {
                self.refresh(entry)?;
            }
        }

        let fresh = all.iter().enumerate().filter(|(_, (.., fresh))| *fresh).map(|(at, _)| at).collect();
        let digests = all.iter().map(|(_, digest, _)| *digest).collect();
        let manifest = Manifest::from_entries(all.into_iter().map(|(entry, ..)| entry).collect());
        Ok(Tree { manifest, digests, specials, leftovers, hashed, fresh, unsaved: true })
    }

    fn refresh(&mut self, entry: &mut Entry) -> io::Result<()> {
        let (Some(parent), Some(name)) = (entry.path.parent(), entry.path.file_name()) else { return Ok(()) };
        let dir = self.directory(&parent, Missing::Fail)?;
        if let Some(Look { kind: Some(kind), mode, stamp, links }) = at::look(&dir, name)? {
            *entry = Entry { path: entry.path.clone(), kind, mode, mtime: stamp.mtime, stamp, links };
        }
        Ok(())
    }

    // ---- handles --------------------------------------------------------------------------------

    /// The directory at `path`, opened from the root without following links. Reuses handles.
    fn directory(&mut self, path: &RelPath, missing: Missing) -> io::Result<Arc<Dir>> {
        let same = self.open.iter().zip(path.components()).take_while(|((open, _), name)| **open == **name);
        let shared = same.count();
        self.open.truncate(shared);
        let mut here = RelPath::root();
        for (depth, name) in path.components().enumerate() {
            here = here.join(name).map_err(io::Error::other)?;
            if depth < shared {
                continue;
            }
            let above = Arc::clone(self.open.last().map_or(&self.root, |(_, dir)| dir));
            let opened = match (at::open_dir(&above, name), missing) {
                (Err(error), Missing::Make) if error.kind() == io::ErrorKind::NotFound => {
                    self.make_directory(&above, &here, name)?;
                    rustix::fs::chmodat(&*above, name, Mode::from_raw_mode(0o755), AtFlags::empty())?;
                    at::open_dir(&above, name)
                }
                (opened, _) => opened,
            };
            self.open.push((name.into(), Arc::new(opened?)));
        }
        Ok(Arc::clone(self.open.last().map_or(&self.root, |(_, dir)| dir)))
    }

    /// Notes the mtime of `dir`, which holds `path`, before its names change.
    fn touch(&mut self, dir: &Dir, path: &RelPath) -> io::Result<()> {
        let Some(parent) = path.parent() else { return Ok(()) };
        if self.touched_last.as_ref() == Some(&parent) {
            return Ok(());
        }
        if !self.touched.contains_key(&parent) {
            let look = at::look_at(dir)?;
            let mode = open_up(dir, look.mode)?;
            self.touched.insert(parent.clone(), Touched { mtime: look.stamp.mtime, mode });
        }
        self.touched_last = Some(parent);
        Ok(())
    }
}

/// What to do about a missing directory on the way.
#[derive(Clone, Copy)]
enum Missing {
    Make,
    Fail,
}

/// Lets the owner change names in a directory whose mode forbids it, as it once allowed on the host
/// when its files were made. Returns the mode before. Root does not need this.
fn open_up(dir: &Dir, mode: u32) -> io::Result<Option<u32>> {
    const OWNERS: u32 = 0o300;
    if mode & OWNERS == OWNERS || rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    rustix::fs::fchmod(dir, Mode::from_raw_mode(mode & 0o7777 | OWNERS))?;
    Ok(Some(mode & 0o7777))
}

fn copy(mut content: impl Read, size: u64, extents: &Extents, file: &File) -> io::Result<Digest> {
    file.set_len(size)?;
    let mut file = extents::Writer::new(file, extents);
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; PIECE]);
    loop {
        let read = match content.read(&mut buffer) {
            Ok(0) => return Ok(Digest(hasher.finalize().into())),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        file.write_all(&buffer[..read])?;
        hasher.update(&buffer[..read]);
    }
}

/// Renames `under` to its final name.
pub(super) fn put_in_place(dir: &Dir, under: &[u8], name: &[u8]) -> io::Result<()> {
    if under == name {
        return Ok(());
    }
    rustix::fs::renameat(dir, under, dir, name)?;
    // Where both were names of one file, the rename has left `under` in place.
    match at::remove_file(dir, under) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes `owner`, if there is one, the owner of something open.
pub(super) fn own(open: impl AsFd, owner: Option<Ids>) -> io::Result<()> {
    let Some(Ids { uid, gid }) = owner else { return Ok(()) };
    Ok(rustix::fs::fchown(open, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
}

/// The failure for a path that could not be written.
pub(super) fn not_written(path: &RelPath, error: &io::Error) -> Failed {
    failed(&format!("could not write {path}"), error)
}

fn own_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}
