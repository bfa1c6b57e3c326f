//! What fastbuild remembers between runs, outside the project: locks, the record of outputs, the journal.
//!
//! ```text
//! STATE/runs/<run id>              locked while the run lives; a container whose run is not locked is a leftover
//! STATE/projects/<key>/lock        the source root's: shared while it is looked at and sent, exclusive while products are applied
//! STATE/projects/<key>/busy-*      a workspace's or scratch directory's: locked by the run that works there
//! STATE/projects/<key>/*holder     who holds one exclusively, for the message to those who wait
//! STATE/projects/<key>/outputs     what fastbuild wrote on the host (crate::outputs::record)
//! STATE/projects/<key>/index       what the sources hold (crate::tree::index)
//! STATE/projects/<key>/journal     an apply that is under way (crate::outputs::journal)
//! STATE/projects/<key>/trusted     what the settings file was when it was trusted (crate::build::trust)
//! STATE/projects/<key>/history     what went up and came back, and for which commands (crate::build::history)
//! STATE/projects/<key>/told        what its builds have said once and do not say again
//! STATE/projects/<key>/workspace-* the project's workspace on one engine (crate::workspace)
//! STATE/pruned-*                   when workspaces on one engine were last pruned (crate::workspace::daily)
//! STATE/watches/<id>               locked while that watch lives: what it builds, and what led to it (crate::watch)
//! STATE/bench/<run id>/            the builds that a bench measures have their state here (crate::bench)
//! STATE/told                       who has been told already of input that waits
//! STATE/id                         tells this directory's workspaces on an engine from another machine's
//! STATE/projects/<key>/torn-<run>  the journal of an apply that could be neither finished nor taken back
//! STATE/projects/<key>/untold      what was made good while nobody was there to be told (crate::build)
//! STATE/projects/<key>/displaced/, moved-*  the safe place (crate::outputs::safe)
//! ```
//!
//! Locks are the operating system's own: they are free the moment their holder dies, whatever it died of.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::{File, TryLockError},
    io::{self, BufRead as _, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use cap_std::{ambient_authority, fs::Dir};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use crate::{entry::Stamp, sys::at::look_at};

/// The engine of a run that brings something back from the safe place.
pub const BY_HAND: &str = "recover";

/// How much is remembered that has been said once, or to one process.
const MOST_TOLD: usize = 200;

/// A failure of the state directory.
#[derive(Debug, thiserror::Error)]
#[error("could not {what} {path:?} in fastbuild's state directory")]
pub struct StateError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl StateError {
    pub(crate) fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
        let path = path.to_owned();
        move |source| StateError { what, path, source }
    }
}

/// The state directory.
#[derive(Debug, Clone)]
pub struct State {
    root: PathBuf,
}

/// The part of the state that belongs to one source root.
#[derive(Debug, Clone)]
pub struct Project {
    dir: PathBuf,
    key: String,
}

/// Who holds a project's lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Its command line, without options.
    pub command: String,
}

/// A lock of a project's.
#[derive(Debug, Clone)]
pub struct Lock {
    path: PathBuf,
    holder: PathBuf,
}

/// A lock that is held; free when dropped.
#[derive(Debug)]
pub struct Held {
    file: File,
    of: Lock,
}

/// What a run that died without finishing may have left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadRun {
    /// Its id.
    pub id: String,
    /// Its project's [`Project::key`].
    pub project: String,
    /// The address of its engine.
    pub engine: String,
    /// The staging directories that it made.
    pub stages: Vec<PathBuf>,
    /// The directories that it made for volumes to be laid over, the outer ones first.
    pub placeholders: Vec<Placeholder>,
}

/// A directory that was made for a volume to be laid over it. Another one in its place is somebody else's, and an inode's number is
/// given away again, so the time of its making counts too, where the file system knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placeholder {
    path: PathBuf,
    inode: (u64, u64),
    made: Option<SystemTime>,
}

impl Placeholder {
    fn look(path: &Path) -> io::Result<Placeholder> {
        let Stamp { dev, ino, .. } = look_at(&Dir::open_ambient_dir(path, ambient_authority())?)?.stamp;
        let made = path.symlink_metadata()?.created().ok();
        Ok(Placeholder { path: path.to_owned(), inode: (dev, ino), made })
    }

    /// Removes it, unless there is anything in it.
    pub fn remove(&self) {
        if Placeholder::look(&self.path).is_ok_and(|found| found == *self) {
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

/// A line of a run's file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Note {
    Began {
        project: String,
        engine: String,
        #[serde(default)]
        pid: Option<u32>,
    },
    Stage {
        path: PathBuf,
    },
    Placeholder(Placeholder),
}

/// A live run; its id names everything that it makes on an engine. Ended by [`Run::finish`]; a run that is dropped
/// or killed before leaves its file behind, unlocked, which is how the next start knows that there may be leftovers.
#[derive(Debug)]
pub struct Run {
    /// Twelve hexadecimal digits, different for each run.
    pub id: String,
    path: PathBuf,
    file: Mutex<File>,
}

impl State {
    /// Takes `root`, makes it when it is missing (for its owner's eyes only).
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(root: PathBuf) -> Result<State, StateError> {
        for dir in [&root, &root.join("runs"), &root.join("projects")] {
            make_private_dir(dir).map_err(StateError::at("make the directory", dir))?;
        }
        Ok(State { root })
    }

    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The part that belongs to the source root `source` (canonical).
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn project(&self, source: &Path) -> Result<Project, StateError> {
        let key = project_key(source);
        let dir = self.root.join("projects").join(&key);
        make_private_dir(&dir).map_err(StateError::at("make the directory", &dir))?;
        // For people who look: nothing reads it.
        let note = dir.join("source");
        if !note.exists() {
            std::fs::write(&note, source.as_os_str().as_encoded_bytes())
                .map_err(StateError::at("write", &note))?;
        }
        Ok(Project { dir, key })
    }

    /// The part that belongs to the project with this key, when this state directory knows it.
    pub fn known_project(&self, key: &str) -> Option<Project> {
        let is_key = key.len() == 16 && key.bytes().all(|b| b.is_ascii_hexdigit());
        let dir = self.root.join("projects").join(key);
        (is_key && dir.is_dir()).then(|| Project { dir, key: key.to_owned() })
    }

    /// Every project that this state directory knows.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn projects(&self) -> Result<Vec<Project>, StateError> {
        let dir = self.root.join("projects");
        let entries = std::fs::read_dir(&dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.map_err(StateError::at("read", &dir))?;
        let keys = entries.iter().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(keys.filter_map(|key| self.known_project(&key)).collect())
    }

    /// When workspaces on the engine at `engine` were last pruned by themselves.
    pub fn pruned_path(&self, engine: &str) -> PathBuf {
        self.root.join(format!("pruned-{}", short_hash(engine.as_bytes())))
    }

    /// Six hexadecimal digits that tell this state directory from others that use the same engine.
    ///
    /// # Errors
    /// When they cannot be kept.
    pub fn id(&self) -> Result<String, StateError> {
        let path = self.root.join("id");
        if let Some(id) = read_state_id(&path) {
            return Ok(id);
        }
        let id = random_id()[..6].to_owned();
        // Missing or damaged. Two that start at once may both come here: what is read afterwards counts for both.
        replace_file(&path, |out| out.write_all(id.as_bytes())).map_err(StateError::at("write", &path))?;
        Ok(read_state_id(&path).unwrap_or(id))
    }

    /// Whether `who` is told for the first time; from now on it is not. Without a place to note it, everybody is told.
    pub fn is_first_told(&self, who: &str) -> bool {
        is_first(&self.root.join("told"), who)
    }

    /// Begins a run of `project` on the engine at `engine`.
    ///
    /// # Errors
    /// When its file cannot be made and locked.
    pub fn begin_run(&self, project: &Project, engine: &str) -> Result<Run, StateError> {
        let id = random_id();
        let path = self.root.join("runs").join(&id);
        let file = File::create_new(&path).map_err(StateError::at("make", &path))?;
        file.lock().map_err(StateError::at("lock", &path))?;
        let run = Run { id, path, file: Mutex::new(file) };
        let pid = Some(std::process::id());
        run.note(&Note::Began { project: project.key.clone(), engine: engine.to_owned(), pid })?;
        Ok(run)
    }

    /// Whether the run `id` began here and is over without having finished: what it left may be removed. Runs that
    /// this state directory does not know belong to somebody else, and are not dead.
    pub fn is_dead_run(&self, id: &str) -> bool {
        self.dead_run(id).is_some()
    }

    /// Whether the run `id` began here and is not over.
    pub fn is_live_run(&self, id: &str) -> bool {
        let file = is_run_id(id).then(|| File::open(self.root.join("runs").join(id)));
        matches!(file, Some(Ok(file)) if matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// The processes of the runs that are not over.
    pub fn live_processes(&self) -> Vec<u32> {
        let first = |id: String| {
            let live = self.is_live_run(&id).then(|| File::open(self.root.join("runs").join(id)).ok())?;
            let line = BufReader::new(live?).split(b'\n').next()?.ok()?;
            match serde_json::from_slice(&line) {
                Ok(Note::Began { pid, .. }) => pid,
                _ => None,
            }
        };
        self.runs().filter_map(first).collect()
    }

    /// Where benches keep the state directories of the builds that they measure, each below its run's id.
    pub fn benches_dir(&self) -> PathBuf {
        self.root.join("bench")
    }

    /// Where watches tell each other what they build.
    pub fn watches_dir(&self) -> PathBuf {
        self.root.join("watches")
    }

    fn dead_run(&self, id: &str) -> Option<DeadRun> {
        if !is_run_id(id) {
            return None;
        }
        let file = File::open(self.root.join("runs").join(id)).ok()?;
        file.try_lock().ok()?;
        let mut dead = DeadRun { id: id.to_owned(), ..DeadRun::default() };
        // A last line that a power cut broke is no note.
        for note in BufReader::new(file).split(b'\n').map_while(Result::ok) {
            match serde_json::from_slice(&note) {
                Ok(Note::Began { project, engine, .. }) => {
                    (dead.project, dead.engine) = (project, engine);
                }
                Ok(Note::Stage { path }) => dead.stages.push(path),
                Ok(Note::Placeholder(made)) => dead.placeholders.push(made),
                Err(_) => {}
            }
        }
        Some(dead)
    }

    /// Waits until the run `id` is over, one way or the other. Whoever hears in another way that its process dies (by the
    /// end of a pipe) may hear of it a moment before that process's locks are free. Blocks the thread.
    pub fn await_end_of_run(&self, id: &str) {
        let file = is_run_id(id).then(|| File::open(self.root.join("runs").join(id)));
        if let Some(Ok(file)) = file {
            // Free again at once; a file system without locks has nobody to wait for.
            let _ = file.lock();
        }
    }

    /// Forgets a dead run, once nothing of it is left.
    pub fn forget_run(&self, id: &str) {
        if self.is_dead_run(id) {
            // Left behind at worst: a small file.
            let _ = std::fs::remove_file(self.root.join("runs").join(id));
        }
    }

    /// The runs that died without finishing.
    pub fn dead_runs(&self) -> Vec<DeadRun> {
        self.runs().filter_map(|id| self.dead_run(&id)).collect()
    }

    /// The ids of all runs that are not forgotten.
    fn runs(&self) -> impl Iterator<Item = String> {
        let entries = std::fs::read_dir(self.root.join("runs")).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok())
    }
}

impl Project {
    /// The hash of the source root's path that names this project's objects.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The record of outputs.
    pub fn record_path(&self) -> PathBuf {
        self.dir.join("outputs")
    }

    /// The digest index of the source tree.
    pub fn index_path(&self) -> PathBuf {
        self.dir.join("index")
    }

    /// Whether a build of this project says `what` for the first time; from now on it is not. Without a place to note it, each says it.
    pub fn is_first_said(&self, what: &str) -> bool {
        is_first(&self.told_path(), what)
    }

    fn told_path(&self) -> PathBuf {
        self.dir.join("told")
    }

    /// When builds did not see what was changed here.
    pub fn edits_path(&self) -> PathBuf {
        self.dir.join("edits")
    }

    /// What went up and came back, and for which commands (crate::build::history).
    pub fn history_path(&self) -> PathBuf {
        self.dir.join("history")
    }

    /// What the settings file was when it was trusted (crate::build::trust).
    pub fn trusted_path(&self) -> PathBuf {
        self.dir.join("trusted")
    }

    /// The journal of an apply.
    pub fn journal_path(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// The journals of applies that were not finished: of one that died, and of those that were torn.
    pub fn journals(&self) -> Vec<PathBuf> {
        let own = self.journal_path();
        let mut journals: Vec<_> =
            self.names("torn-").map(|run| self.dir.join(format!("torn-{run}"))).collect();
        journals.extend(own.exists().then_some(own));
        journals
    }

    /// What was made good and nobody was told of.
    pub fn untold_path(&self) -> PathBuf {
        self.dir.join("untold")
    }

    /// What is known of the project's workspace `name` on the engine at `engine`.
    pub fn workspace_path(&self, engine: &str, name: &str) -> PathBuf {
        self.dir.join(format!("workspace-{}", short_hash(format!("{engine}\0{name}").as_bytes())))
    }

    /// What tells this project from another one that lay at the same path before; empty for the first one.
    pub fn id(&self) -> String {
        std::fs::read_to_string(self.dir.join("project-id")).unwrap_or_default()
    }

    /// Another project lies at the path from now on: nothing that is known of the one before holds for it. What was moved to
    /// safety stays.
    ///
    /// # Errors
    /// When the state directory does not take it.
    pub fn begin_anew(&self) -> Result<(), StateError> {
        let known = [
            self.record_path(),
            self.index_path(),
            self.edits_path(),
            self.home_path(),
            self.told_path(),
            self.history_path(),
        ];
        for path in known {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StateError::at("remove", &path)(error));
                }
                _ => {}
            }
        }
        let (path, id) = (self.dir.join("project-id"), random_id());
        replace_file(&path, |out| out.write_all(id.as_bytes())).map_err(StateError::at("write", &path))
    }

    /// Where something is known of a workspace of this project's, on whatever engine.
    ///
    /// # Errors
    /// When the state directory cannot be read.
    pub fn workspaces(&self) -> Result<Vec<PathBuf>, StateError> {
        let entries = std::fs::read_dir(&self.dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.map_err(StateError::at("read", &self.dir))?;
        let is_workspaces = |name: &OsStr| name.as_encoded_bytes().starts_with(b"workspace-");
        Ok(entries
            .iter()
            .filter(|entry| is_workspaces(&entry.file_name()))
            .map(|entry| entry.path())
            .collect())
    }

    /// What is known of the home directory of the build's user.
    pub fn home_path(&self) -> PathBuf {
        self.dir.join("home")
    }

    /// Where the user's files go that were in a product's way in the run `run`.
    pub fn displaced_dir(&self, run: &str) -> PathBuf {
        self.dir.join("displaced").join(run)
    }

    /// What is known of each of them.
    pub fn displaced_index(&self, run: &str) -> PathBuf {
        self.dir.join(format!("moved-{run}"))
    }

    /// The runs that moved any there.
    pub fn displaced_runs(&self) -> Vec<String> {
        let runs = std::fs::read_dir(self.dir.join("displaced")).into_iter().flatten().flatten();
        runs.filter_map(|run| run.file_name().into_string().ok()).filter(|run| is_run_id(run)).collect()
    }

    /// What follows `prefix` in the names of files that have it.
    fn names(&self, prefix: &str) -> impl Iterator<Item = String> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter_map(move |entry| Some(entry.file_name().to_str()?.strip_prefix(prefix)?.to_owned()))
    }

    /// Removes what processes that were killed were writing here.
    pub fn remove_halves(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        let is_half = |name: OsString| name.as_encoded_bytes().starts_with(HALF.as_bytes());
        for entry in entries.flatten().filter(|entry| is_half(entry.file_name())) {
            let half = File::options().write(true).open(entry.path());
            if half.is_ok_and(|half| half.try_lock().is_ok()) {
                // Left behind at worst: nobody reads it.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// The source root's lock: shared while the tree is looked at and sent, exclusive while products are applied. A workspace's
    /// is taken before it.
    pub fn sources(&self) -> Lock {
        Lock { path: self.dir.join("lock"), holder: self.dir.join("holder") }
    }

    /// The lock of what builds work in: the workspace of that name, which who is inside shares, or a scratch directory.
    pub fn place(&self, name: &str) -> Lock {
        self.lock_of("busy", name)
    }

    /// The lock of the way into a workspace: whoever holds it is the only one who enters, makes or removes it.
    pub fn door(&self, name: &str) -> Lock {
        self.lock_of("door", name)
    }

    /// Both locks of a place, for who removes it; says who is there otherwise, as far as that is written.
    ///
    /// # Errors
    /// As [`Lock::try_lock`].
    pub fn try_empty(&self, name: &str) -> Result<Result<[Held; 2], Option<Holder>>, StateError> {
        Ok(match self.door(name).try_lock()? {
            Ok(door) => self.place(name).try_lock()?.map(|place| [door, place]),
            Err(holder) => Err(holder),
        })
    }

    fn lock_of(&self, what: &str, name: &str) -> Lock {
        let name = format!("{what}-{}", short_hash(name.as_bytes()));
        Lock { holder: self.dir.join(format!("{name}.holder")), path: self.dir.join(name) }
    }
}

/// Notes `one` at `path`, unless it is noted there already.
fn is_first(path: &Path, one: &str) -> bool {
    let mut told: VecDeque<String> = read_json(path).unwrap_or_default();
    if told.iter().any(|known| known == one) {
        return false;
    }
    told.push_back(one.to_owned());
    // Those before are of long ago.
    told.drain(..told.len().saturating_sub(MOST_TOLD));
    let _ = replace_json(path, &told);
    true
}

impl Lock {
    /// Takes it for this run alone if it is free; otherwise says who holds it (as far as that is written already).
    ///
    /// # Errors
    /// When the lock file cannot be opened or written.
    pub fn try_lock(&self) -> Result<Result<Held, Option<Holder>>, StateError> {
        let file = self.open()?;
        match file.try_lock() {
            Ok(()) => Ok(Ok(self.hold(file)?)),
            Err(TryLockError::WouldBlock) => Ok(Err(self.holder())),
            Err(TryLockError::Error(source)) => Err(StateError::at("lock", &self.path)(source)),
        }
    }

    /// Waits until it is free. Blocks the thread: call it on one of its own.
    ///
    /// # Errors
    /// As [`Lock::try_lock`].
    pub fn lock(&self) -> Result<Held, StateError> {
        let file = self.open()?;
        file.lock().map_err(StateError::at("lock", &self.path))?;
        self.hold(file)
    }

    /// Waits until nobody holds it alone, and shares it then. Blocks the thread.
    ///
    /// # Errors
    /// As [`Lock::try_lock`].
    pub fn share(&self) -> Result<Held, StateError> {
        let file = self.open()?;
        file.lock_shared().map_err(StateError::at("lock", &self.path))?;
        Ok(Held { file, of: self.clone() })
    }

    /// Who holds it alone, as far as that is written.
    pub fn holder(&self) -> Option<Holder> {
        read_json(&self.holder)
    }

    fn open(&self) -> Result<File, StateError> {
        open_lock(&self.path).map_err(StateError::at("open", &self.path))
    }

    fn hold(&self, file: File) -> Result<Held, StateError> {
        let holder = Holder { pid: std::process::id(), command: own_command_line() };
        replace_json(&self.holder, &holder).map_err(StateError::at("write", &self.holder))?;
        Ok(Held { file, of: self.clone() })
    }
}

impl Held {
    /// Shares it from now on. Others may get it alone in between: where that matters, another lock keeps them out.
    ///
    /// # Errors
    /// The system's.
    pub fn share(&self) -> Result<(), StateError> {
        self.file.lock_shared().map_err(StateError::at("share", &self.of.path))
    }
}

impl Run {
    /// Notes that the staging directory `path` is about to be made.
    ///
    /// # Errors
    /// When the run's file cannot be written.
    pub fn note_stage(&self, path: &Path) -> Result<(), StateError> {
        self.note(&Note::Stage { path: path.to_owned() })
    }

    /// Makes the directory `path` for a volume to be laid over it, and notes which one that is.
    ///
    /// # Errors
    /// What the system says, also where there is something, and when the run's file cannot be written.
    pub fn make_placeholder(&self, path: &Path) -> io::Result<Placeholder> {
        std::fs::create_dir(path)?;
        let made = Placeholder::look(path)?;
        self.note(&Note::Placeholder(made.clone()))
            .inspect_err(|_| made.remove())
            .map_err(io::Error::other)?;
        Ok(made)
    }

    fn note(&self, note: &Note) -> Result<(), StateError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        write_line(&mut *file, note).map_err(StateError::at("write", &self.path))
    }

    /// Ends the run well: nothing of it is left on any engine.
    pub fn finish(self) {
        // A leftover empty file costs the next start one look at it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What the name of a file begins with that is not yet what it will be. Its writer keeps it locked.
const HALF: &str = ".new-";

/// An empty one.
fn begin_half(dir: &Path) -> io::Result<tempfile::NamedTempFile> {
    loop {
        let half = tempfile::Builder::new().prefix(HALF).tempfile_in(dir)?;
        // Where a file system has no locks, nobody takes it for a dead writer's.
        let _ = half.as_file().lock();
        // Somebody may have done so just before it was locked.
        if half.path().exists() {
            return Ok(half);
        }
    }
}

/// Writes a file so that a reader sees the old text or the new one and never a part. `write` gets a buffered writer, so
/// that the text need not be held in memory.
///
/// # Errors
/// Whatever the file system or `write` says.
pub fn replace_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = BufWriter::new(begin_half(dir)?);
    write(&mut file)?;
    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// [`replace_file`] with a value as JSON.
///
/// # Errors
/// Whatever the file system says.
pub fn replace_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    replace_file(path, |out| Ok(serde_json::to_writer(out, value)?))
}

/// What [`replace_json`] wrote; none when there is nothing, or nothing of that form.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Writes a value as a line of JSON, in one write.
///
/// # Errors
/// Whatever the file system says.
pub fn write_line(to: &mut (impl Write + ?Sized), value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// [`write_line`] at the end of the file at `path`.
///
/// # Errors
/// Whatever the file system says.
pub fn append_line(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write_line(&mut File::options().append(true).create(true).open(path)?, value)
}

/// [`replace_file`] with lines as [`append_line`] writes them.
///
/// # Errors
/// Whatever the file system says.
pub fn replace_lines(path: &Path, values: &[impl Serialize]) -> io::Result<()> {
    replace_file(path, |out| values.iter().try_for_each(|value| write_line(out, value)))
}

/// The values of such lines. What is none, as one that was cut short, counts for nothing.
pub fn parse_lines<T: DeserializeOwned>(text: &[u8]) -> impl Iterator<Item = T> {
    text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

/// [`parse_lines`] of the file at `path`; none where there is no file.
///
/// # Errors
/// When the file cannot be read.
pub fn read_lines<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    Ok(parse_lines(&text).collect())
}

pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

fn make_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// This program and the command it was asked to run. The options between them stay out: those who wait print this into
/// their logs, and `-e NAME=VALUE` may hold a secret.
pub fn own_command_line() -> String {
    shown_command_line(std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()))
}

fn shown_command_line(mut argv: impl Iterator<Item = String>) -> String {
    let program = argv.next().unwrap_or_default();
    [program].into_iter().chain(argv.skip_while(|word| word != "--")).collect::<Vec<_>>().join(" ")
}

/// See [`Project::key`]; `source` is canonical.
pub fn project_key(source: &Path) -> String {
    short_hash(source.as_os_str().as_encoded_bytes())
}

pub(crate) fn short_hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_state_id(path: &Path) -> Option<String> {
    let id = std::fs::read_to_string(path).ok()?;
    (id.len() == 6 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

/// Whether a run can be called so.
pub fn is_run_id(id: &str) -> bool {
    id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Unlike any other run's, here or on another machine that uses the same engine. `RandomState` is seeded by the
/// operating system's random numbers.
pub(crate) fn random_id() -> String {
    use std::hash::BuildHasher as _;
    let seed = std::hash::RandomState::new();
    let now = std::time::SystemTime::now();
    format!("{:016x}", seed.hash_one((std::process::id(), now)))[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, State) {
        let home = tempfile::tempdir().unwrap();
        let state = State::open(home.path().join("state")).unwrap();
        (home, state)
    }

    #[test]
    fn a_lock_names_its_holder_and_is_free_when_dropped() {
        let (_home, state) = state();
        let project = state.project(Path::new("/some/project")).unwrap();
        for lock in [project.sources(), project.place("one"), project.door("one")] {
            let held = lock.try_lock().unwrap().unwrap();
            let holder = lock.try_lock().unwrap().unwrap_err().unwrap();
            assert_eq!(holder.pid, std::process::id());
            assert!(project.place("another").try_lock().unwrap().is_ok());
            drop(held);
            let (one, other) = (lock.share().unwrap(), lock.share().unwrap());
            assert!(lock.try_lock().unwrap().is_err(), "it is shared");
            drop((one, other));
            let held = lock.try_lock().unwrap().unwrap();
            held.share().unwrap();
            assert!(lock.share().is_ok());
            drop(held);
            assert!(lock.try_lock().unwrap().is_ok());
        }
    }

    #[test]
    fn a_state_directory_keeps_its_id_and_replaces_a_damaged_one() {
        let (_home, state) = state();
        let id = state.id().unwrap();
        assert_eq!(state.id().unwrap(), id);
        std::fs::write(state.root().join("id"), "../../").unwrap();
        let id = state.id().unwrap();
        assert!(id.len() == 6 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        assert_eq!(state.id().unwrap(), id);
    }

    #[test]
    fn those_who_wait_are_not_told_the_values_of_options() {
        let argv = ["fastbuild", "-e", "TOKEN=hunter2", "--", "make", "--", "all"].map(str::to_owned);
        assert_eq!(shown_command_line(argv.into_iter()), "fastbuild -- make -- all");
    }

    #[test]
    fn different_projects_do_not_wait_for_each_other() {
        let (_home, state) = state();
        let _one = state.project(Path::new("/one")).unwrap().sources().try_lock().unwrap().unwrap();
        assert!(state.project(Path::new("/two")).unwrap().sources().try_lock().unwrap().is_ok());
    }

    #[test]
    fn what_somebody_is_writing_is_left_to_him_whether_his_run_has_begun_or_not() {
        let (_home, state) = state();
        let project = state.project(Path::new("/some/project")).unwrap();
        let path = project.record_path();
        let left = [".new-7-a", ".new-earlier", "kept"].map(|name| path.with_file_name(name));
        left.iter().for_each(|file| std::fs::write(file, "").unwrap());
        replace_file(&path, |out| {
            project.remove_halves();
            out.write_all(b"whole")
        })
        .unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"whole");
        assert_eq!(left.map(|file| file.exists()), [false, false, true]);
    }

    #[test]
    fn a_run_is_dead_when_it_ended_without_finishing() {
        let (_home, state) = state();
        let project = state.project(Path::new("/some/project")).unwrap();
        let run = state.begin_run(&project, "unix:///e").unwrap();
        let id = run.id.clone();
        run.note_stage(Path::new("/some/project/stage")).unwrap();
        assert!(!state.is_dead_run(&id) && state.is_live_run(&id), "it lives");
        drop(run);
        let stages = vec![PathBuf::from("/some/project/stage")];
        let (key, engine) = (project.key().to_owned(), "unix:///e".to_owned());
        assert!(!state.is_live_run(&id) && !state.is_live_run("0123456789ab"));
        assert_eq!(
            state.dead_runs(),
            [DeadRun { id: id.clone(), project: key, engine, stages, placeholders: Vec::new() }]
        );
        state.forget_run(&id);
        assert!(!state.is_dead_run(&id), "unknown runs are somebody else's");
        let run = state.begin_run(&project, "unix:///e").unwrap();
        let id = run.id.clone();
        run.finish();
        assert!(!state.is_dead_run(&id));
        assert!(!state.is_dead_run("../../etc/pas"));
    }
}
