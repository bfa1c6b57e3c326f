//! A project's workspace on this machine: a directory on a fast local file system, and the agent as
//! a child process.
//!
//! ```text
//! ROOT/<project key>/              owned by this user, mode 0700; one-run: the key and `.once`
//!   tree/                          the working directory: sources, the build's caches, products
//!   .fastbuild/label               the owner; written first, trusted only in this user's directory
//!   .fastbuild/lock                locked by the fastbuild that works there
//!   .fastbuild/turn                locked by the agent ([`crate::agent::server`]) that runs there
//!   .fastbuild/agent               the agent; its index of the tree lies beside it
//! ```
//!
//! In: a plan's [`Scratch`]. Out: a held directory, and a child process to talk to. Invariants:
//! nothing is written into a directory that this user does not own. Nothing is deleted from a
//! directory without the project's label. A directory is listed (by its [`Mark`]) before it is
//! made. The caller holds the project's lock; the lock in the directory is for a fastbuild with
//! another state directory.

mod error;
mod list;

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

pub use error::ScratchError;
pub use list::{Known, Life, known, known_of};
use serde::{Deserialize, Serialize};
use tokio::{process, time::timeout};

use super::{Mark, Why, WorkspaceError};
use crate::{
    agent::{client::Duplex, program, protocol::Room},
    facts,
    plan::{Engine, Plan, SCRATCH_TREE as TREE, Scratch},
    spec::{IfThere, Lifetime},
    state::{Project, open_lock, read_json, replace_json},
    sys::owner::{self, NotOwn},
};

/// The directory of fastbuild's own files in a scratch directory.
const OWN: &str = ".fastbuild";

/// The version of a label's format.
const VERSION: u32 = 1;

/// How long an agent may take to end without its client; unkillable processes get 10 s of that.
const ENDING: Duration = Duration::from_secs(20);

/// The smallest space that a file takes on most disks, in bytes.
const BLOCK: u64 = 4096;

/// Says who owns a scratch directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Label {
    version: u32,
    /// Unique. Records about a directory with another id do not apply to this one.
    id: String,
    /// The source root.
    source: String,
    /// The version of fastbuild that made it.
    made_by: String,
    standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Standing {
    Whole,
    /// Its removal has begun: the rest is of no use.
    Going,
}

/// The specification of a build's scratch directory.
#[derive(Debug, Clone)]
pub struct Wanted {
    directory: PathBuf,
    root: PathBuf,
    if_there: IfThere,
    lifetime: Lifetime,
    pub(super) mark: Mark,
    pub(super) mark_path: PathBuf,
}

/// A scratch directory in which no other fastbuild works.
#[derive(Debug)]
pub struct Held {
    directory: PathBuf,
    id: String,
    _lock: File,
}

/// What was found in the place.
#[derive(Debug)]
pub enum Found {
    /// The wanted directory.
    Held(Held),
    /// No usable directory, and nothing in the way; why a new one is needed.
    Nothing(Why),
}

impl Wanted {
    /// Decides what a build of `plan` in `scratch` needs.
    pub fn new(plan: &Plan, scratch: &Scratch, project: &Project) -> Wanted {
        let directory = scratch.directory.clone();
        Wanted {
            mark: new_mark(&directory, &plan.source.value),
            mark_path: mark_path(project, &directory),
            root: scratch.root.clone(),
            if_there: plan.workspace.if_there.value,
            lifetime: plan.lifetime.value,
            directory,
        }
    }

    /// The project's tree in it.
    pub fn tree(&self) -> String {
        self.directory.join(TREE).to_string_lossy().into_owned()
    }

    /// Takes the existing directory, or removes it if it must not be used again. Blocks the thread.
    ///
    /// # Errors
    /// The reason why it cannot be used; the directory is unchanged then.
    pub fn find(&self) -> Result<Found, ScratchError> {
        let Some((held, label)) = take(&self.directory)? else { return Ok(Found::Nothing(Why::Fresh)) };
        let why = match label {
            Some(label) if label.source != self.mark.source => {
                let path = self.directory.clone();
                return Err(ScratchError::OfAnother { path, source_root: label.source });
            }
            Some(_) if self.lifetime == Lifetime::OneRun => Why::Fresh,
            Some(_) if self.if_there == IfThere::Fresh => Why::Asked,
            // A build may have put a link there, and its target would be overwritten by the
            // sources.
            Some(_) if !self.has_real_tree() => {
                Why::Broken("its tree is not a directory any more".to_owned())
            }
            Some(Label { version: VERSION, standing: Standing::Whole, .. }) => return Ok(Found::Held(held)),
            Some(_) | None => Why::Broken("its making or its removal was cut short".to_owned()),
        };
        clear(held)?;
        Ok(Found::Nothing(why))
    }

    fn has_real_tree(&self) -> bool {
        match self.directory.join(TREE).symlink_metadata() {
            Ok(found) => found.is_dir(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// The free space in its place. Blocks the thread.
    ///
    /// # Errors
    /// What the system says.
    pub fn room(&self) -> Result<Room, ScratchError> {
        let there = self.directory.ancestors().find(|path| path.is_dir()).unwrap_or(&self.directory);
        let free = facts::space(there).map_err(ScratchError::at("ask for the room at", there))?.free;
        Ok(Room { bytes: free, files: None, block: BLOCK })
    }

    /// Makes it. Blocks the thread.
    ///
    /// # Errors
    /// When it cannot be private to this user, and the system's.
    pub fn make(&mut self) -> Result<Held, WorkspaceError> {
        refuse_unsafe(&self.root)?;
        self.mark = new_mark(&self.directory, Path::new(&self.mark.source));
        self.mark.container = new_id();
        // Before it is made, so that `fastbuild workspace` lists every directory that exists.
        self.mark.save(&self.mark_path)?;
        Ok(self.make_now()?)
    }

    fn make_now(&self) -> Result<Held, ScratchError> {
        let own = self.directory.join(OWN);
        owner::make_private(&own).map_err(ScratchError::at("make", &own))?;
        refuse_unsafe(&self.root)?;
        for path in [&self.directory, &own] {
            refuse_others(path)?;
        }
        let lock = lock(&self.directory)?;
        let label = Label {
            version: VERSION,
            id: self.mark.container.clone(),
            source: self.mark.source.clone(),
            made_by: env!("CARGO_PKG_VERSION").to_owned(),
            standing: Standing::Whole,
        };
        write_label(&self.directory, &label)?;
        Ok(Held { directory: self.directory.clone(), id: label.id, _lock: lock })
    }

    /// Removes it with all its contents, after its build.
    ///
    /// # Errors
    /// When it does not belong to fastbuild, when a process works in it, and the system's.
    pub fn remove(&self) -> Result<(), ScratchError> {
        remove(&self.directory)?;
        forget(&self.mark_path)
    }
}

/// Removes a project's scratch directory and its mark, under the project's lock. Blocks the thread.
///
/// # Errors
/// As [`Wanted::remove`].
pub fn remove_of(project: &Project, directory: &Path) -> Result<(), ScratchError> {
    remove(directory)?;
    forget(&mark_path(project, directory))
}

impl Held {
    /// Unique.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn name(&self) -> String {
        self.directory.to_string_lossy().into_owned()
    }

    /// Starts the agent in it.
    pub(super) fn start(self) -> Result<(Child, Duplex), ScratchError> {
        let program = put_agent(&self.directory)?;
        let told = |error| ScratchError::at("start the agent", &program)(error);
        let mut command = process::Command::new(&program);
        command.arg("keep").current_dir(&self.directory);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C goes to the whole foreground group. The command gets it once, through its client.
        #[cfg(unix)]
        command.process_group(0);
        let mut process = command.spawn().map_err(told)?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (process.stdin.take(), process.stdout.take(), process.stderr.take())
        else {
            return Err(told(io::ErrorKind::BrokenPipe.into()));
        };
        Ok((Child { process, held: self }, Duplex::of_child(stdin, stdout, stderr)))
    }
}

/// An agent that is a child of this process. Without its client it ends its processes, then itself.
#[derive(Debug)]
pub(super) struct Child {
    process: process::Child,
    held: Held,
}

impl Child {
    /// Waits until it and its processes have ended, after a goodbye or the end of its streams.
    pub(super) async fn end(&mut self) -> Result<ExitStatus, ScratchError> {
        match timeout(ENDING, self.process.wait()).await {
            Ok(status) => status.map_err(ScratchError::at("wait for the agent in", &self.held.directory)),
            Err(_) => Err(ScratchError::Lives { path: self.held.directory.clone() }),
        }
    }
}

// ---- taking a directory ----------------------------------------------------------------------

/// Takes a directory that belongs to this user and to fastbuild; `None` where it does not exist. A
/// label that was never written, or cannot be read, is `None`.
fn take(directory: &Path) -> Result<Option<(Held, Option<Label>)>, ScratchError> {
    match owner::is_own(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ScratchError::at("look at", directory)(error)),
        Ok(Err(why)) => return Err(ScratchError::NotOwn { path: directory.to_owned(), why }),
        Ok(Ok(())) => {}
    }
    let own = directory.join(OWN);
    let foreign = || ScratchError::Foreign { path: directory.to_owned() };
    if !own.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        // An empty directory does not name its owner: it may be used, and stays.
        return if names(directory)?.is_empty() { Ok(None) } else { Err(foreign()) };
    }
    refuse_others(&own)?;
    let lock = lock(directory)?;
    let label: Option<Label> = read_json(&own.join("label"));
    if label.is_none() && names(directory)?.iter().any(|name| name != OWN) {
        return Err(foreign());
    }
    let id = label.as_ref().map(|label| label.id.clone()).unwrap_or_default();
    Ok(Some((Held { directory: directory.to_owned(), id, _lock: lock }, label)))
}

fn names(directory: &Path) -> Result<Vec<std::ffi::OsString>, ScratchError> {
    let read =
        || -> io::Result<Vec<_>> { fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect() };
    read().map_err(ScratchError::at("read", directory))
}

fn refuse_others(path: &Path) -> Result<(), ScratchError> {
    refuse(path, owner::is_own(path))
}

fn refuse_unsafe(root: &Path) -> Result<(), ScratchError> {
    match owner::is_safe(root) {
        // It will be made.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        looked => refuse(root, looked),
    }
}

fn refuse(path: &Path, looked: io::Result<Result<(), NotOwn>>) -> Result<(), ScratchError> {
    match looked.map_err(ScratchError::at("look at", path))? {
        Ok(()) => Ok(()),
        Err(why) => Err(ScratchError::NotOwn { path: path.to_owned(), why }),
    }
}

fn lock(directory: &Path) -> Result<File, ScratchError> {
    let path = directory.join(OWN).join("lock");
    let file = open_lock(&path).map_err(ScratchError::at("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ScratchError::Busy { path: directory.to_owned() }),
        Err(TryLockError::Error(error)) => Err(ScratchError::at("lock", &path)(error)),
    }
}

fn write_label(directory: &Path, label: &Label) -> Result<(), ScratchError> {
    let path = directory.join(OWN).join("label");
    replace_json(&path, label).map_err(ScratchError::at("write", &path))
}

/// Puts the agent into the directory, unless it is already there and correct.
fn put_agent(directory: &Path) -> Result<PathBuf, ScratchError> {
    let agent = program::for_this_machine()?;
    let own = directory.join(OWN);
    let path = own.join("agent");
    if owner::is_executable(&path) && fs::read(&path).is_ok_and(|found| found == agent) {
        return Ok(path);
    }
    let put = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&own)?;
        file.write_all(agent)?;
        owner::make_executable(file.path())?;
        // Closed before it is executed.
        file.into_temp_path().persist(&path)?;
        Ok(())
    };
    put().map_err(ScratchError::at("write", &path))?;
    Ok(path)
}

// ---- removal ---------------------------------------------------------------------------------

/// Removes a scratch directory with its contents; it may be missing. Blocks the thread.
fn remove(directory: &Path) -> Result<(), ScratchError> {
    match take(directory)? {
        Some((held, _)) => clear(held),
        None => Ok(()),
    }
}

fn clear(held: Held) -> Result<(), ScratchError> {
    let Held { directory, id, _lock } = &held;
    let own = directory.join(OWN);
    if let Some(label) = read_json::<Label>(&own.join("label")) {
        write_label(directory, &Label { id: id.clone(), standing: Standing::Going, ..label })?;
    }
    // The agent of a dead client is about to end, and may still be writing.
    let turn = own.join("turn");
    open_lock(&turn).and_then(|turn| turn.lock()).map_err(ScratchError::at("wait for the agent in", &own))?;
    // The label goes last.
    for name in names(directory)?.iter().filter(|name| *name != OWN) {
        remove_all(&directory.join(name))?;
    }
    remove_all(&own)?;
    fs::remove_dir(directory).map_err(ScratchError::at("remove", directory))
}

/// Removes a file or a directory with its contents, even below directories closed to their owner.
fn remove_all(path: &Path) -> Result<(), ScratchError> {
    let remove = || match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    let removed = match remove() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            owner::open_up(path).and_then(|()| remove())
        }
        removed => removed,
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ScratchError::at("remove", path)(error)),
        _ => Ok(()),
    }
}

fn forget(mark_path: &Path) -> Result<(), ScratchError> {
    match fs::remove_file(mark_path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ScratchError::at("remove", mark_path)(error))
        }
        _ => Ok(()),
    }
}

// ---- marks -----------------------------------------------------------------------------------

/// The host engine's address, where engines have addresses.
pub fn engine() -> String {
    Engine::Host.to_string()
}

fn new_mark(directory: &Path, source: &Path) -> Mark {
    let name = directory.to_string_lossy().into_owned();
    Mark::new(name, String::new(), engine(), String::new(), source)
}

/// The same for one scratch directory: a project can have many, and each has its own mark.
pub fn engine_at(directory: &Path) -> String {
    format!("{}:{}", engine(), directory.to_string_lossy())
}

fn mark_path(project: &Project, directory: &Path) -> PathBuf {
    project.workspace_path(&engine_at(directory), "")
}

fn new_id() -> String {
    crate::state::random_id()
}
