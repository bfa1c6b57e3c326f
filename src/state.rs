//! What fastbuild remembers between runs, outside the project: locks, the record of outputs, the
//! journal.
//!
//! ```text
//! STATE/runs/<run id>              locked by a live run; otherwise its containers are leftovers
//! STATE/projects/<key>/lock        the sources': shared in scan and upload, exclusive in apply
//! STATE/projects/<key>/busy-*      a workspace's or scratch directory's: locked by the run there
//! STATE/projects/<key>/*holder     who holds a lock exclusively, for the message to waiting runs
//! STATE/projects/<key>/outputs     what fastbuild wrote on the host (crate::outputs::record)
//! STATE/projects/<key>/index       what the sources hold (crate::tree::index)
//! STATE/projects/<key>/journal     an apply that is in progress (crate::outputs::journal)
//! STATE/projects/<key>/trusted     the settings file when it was trusted (crate::build::trust)
//! STATE/projects/<key>/history     uploads, products and their commands (crate::build::history)
//! STATE/projects/<key>/last        how its last build ended (crate::build::last)
//! STATE/projects/<key>/looked      what a build sent nothing of (crate::build::last)
//! STATE/projects/<key>/told        messages of its builds that are shown only once
//! STATE/projects/<key>/workspace-* the project's workspace on one engine (crate::workspace)
//! STATE/pruned-*                   time of an engine's last pruning (crate::workspace::auto_prune)
//! STATE/watches/<id>               locked by a watch: its builds and their causes (crate::watch)
//! STATE/bench/<run id>/            the state of the builds that a bench measures (crate::bench)
//! STATE/told                       processes that were told of waiting input
//! STATE/id                         tells this directory's workspaces from another machine's
//! STATE/projects/<key>/torn-<run>  the journal of an apply that cannot be finished or undone
//! STATE/projects/<key>/untold      repairs that were not reported yet (crate::build)
//! STATE/projects/<key>/displaced/, moved-*  the safe place (crate::outputs::safe)
//! ```
//!
//! Locks are the operating system's own: they are free as soon as their holder dies, for any
//! reason.

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

/// The engine of a run that restores files from the safe place.
pub const BY_HAND: &str = "recover";

/// How many messages or processes a file of told messages remembers.
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

/// The process that holds a project's lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Its command line, without options.
    pub command: String,
}

/// A lock of a project.
#[derive(Debug, Clone)]
pub struct Lock {
    path: PathBuf,
    holder: PathBuf,
}

/// A lock that is held; dropping it frees it.
#[derive(Debug)]
pub struct Held {
    file: File,
    of: Lock,
}

/// What a run that died before it finished may have left.
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
    /// The directories that it made for volumes to be mounted over, the outer ones first.
    pub placeholders: Vec<Placeholder>,
}

/// A directory that was made as a mount point for a volume. Another directory in its place belongs
/// to others. Inode numbers are reused, so the creation time is compared too, where it is known.
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

    /// Removes it, if it is the same directory and empty.
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
        #[serde(default)]
        command: String,
        #[serde(default)]
        since: u64,
    },
    Stage {
        path: PathBuf,
    },
    Placeholder(Placeholder),
}

/// A run that goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Live {
    /// Its process on this machine.
    pub pid: Option<u32>,
    /// Its command line, without options.
    pub command: String,
    /// When it began, in seconds since 1970; 0 where that is not known.
    pub since: u64,
}

/// A live run; its id names everything that it makes on an engine. [`Run::finish`] ends it. A
/// dropped or killed run leaves its file, unlocked: so the next start knows that there may be
/// leftovers.
#[derive(Debug)]
pub struct Run {
    /// Twelve hexadecimal digits, different for each run.
    pub id: String,
    path: PathBuf,
    file: Mutex<File>,
}

impl State {
    /// Opens `root`, and makes it if it is missing (readable by its owner only).
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(root: PathBuf) -> Result<State, StateError> {
        for dir in [&root, &root.join("runs"), &root.join("projects")] {
            make_private_dir(dir).map_err(StateError::at("make the directory", dir))?;
        }
        Ok(State { root })
    }

    /// The directory's path.
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
        // Information for users; no code reads it.
        let note = dir.join("source");
        if !note.exists() {
            std::fs::write(&note, source.as_os_str().as_encoded_bytes())
                .map_err(StateError::at("write", &note))?;
        }
        Ok(Project { dir, key })
    }

    /// The part that belongs to the project with this key, if this state directory knows it.
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

    /// The time of the last automatic pruning on the engine at `engine`.
    pub fn pruned_path(&self, engine: &str) -> PathBuf {
        self.root.join(format!("pruned-{}", short_hash(engine.as_bytes())))
    }

    /// Six hexadecimal digits that tell this state directory from others that use the same engine.
    ///
    /// # Errors
    /// When they cannot be saved.
    pub fn id(&self) -> Result<String, StateError> {
        let path = self.root.join("id");
        if let Some(id) = read_state_id(&path) {
            return Ok(id);
        }
        let id = random_id()[..6].to_owned();
        // Missing or damaged. Two processes may get here at once: both use what is read afterwards.
        replace_file(&path, |out| out.write_all(id.as_bytes())).map_err(StateError::at("write", &path))?;
        Ok(read_state_id(&path).unwrap_or(id))
    }

    /// Whether `who` is told for the first time, and notes it; true if it cannot be noted.
    pub fn is_first_told(&self, who: &str) -> bool {
        is_first(&self.root.join("told"), who)
    }

    /// Begins a run of `project` on the engine at `engine`.
    ///
    /// # Errors
    /// When its file cannot be made or locked.
    pub fn begin_run(&self, project: &Project, engine: &str) -> Result<Run, StateError> {
        let id = random_id();
        let path = self.root.join("runs").join(&id);
        let file = File::create_new(&path).map_err(StateError::at("make", &path))?;
        file.lock().map_err(StateError::at("lock", &path))?;
        let run = Run { id, path, file: Mutex::new(file) };
        run.note(&Note::Began {
            project: project.key.clone(),
            engine: engine.to_owned(),
            pid: Some(std::process::id()),
            command: own_command_line(),
            since: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        })?;
        Ok(run)
    }

    /// Whether the run `id` began here and ended without finishing: its leftovers may be removed.
    /// Runs that this state directory does not know belong to others, and do not count as dead.
    pub fn is_dead_run(&self, id: &str) -> bool {
        self.dead_run(id).is_some()
    }

    /// Whether the run `id` began here and is still alive.
    pub fn is_live_run(&self, id: &str) -> bool {
        let file = is_run_id(id).then(|| File::open(self.root.join("runs").join(id)));
        matches!(file, Some(Ok(file)) if matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// The processes of the live runs.
    pub fn live_processes(&self) -> Vec<u32> {
        self.live().filter_map(|(_, live)| live.pid).collect()
    }

    /// The live runs of a project, the first first.
    pub fn live_runs(&self, project: &Project) -> Vec<Live> {
        let own = self.live().filter(|(key, _)| *key == project.key);
        let mut own: Vec<_> = own.map(|(_, live)| live).collect();
        own.sort_by_key(|live| live.since);
        own
    }

    /// The live runs, with their projects' keys.
    fn live(&self) -> impl Iterator<Item = (String, Live)> {
        self.runs().filter_map(|id| {
            let live = self.is_live_run(&id).then(|| File::open(self.root.join("runs").join(id)).ok())??;
            let line = BufReader::new(live).split(b'\n').next()?.ok()?;
            match serde_json::from_slice(&line) {
                Ok(Note::Began { project, pid, command, since, .. }) => {
                    Some((project, Live { pid, command, since }))
                }
                _ => None,
            }
        })
    }

    /// Where benches keep the state directories of the builds that they measure, by their runs'
    /// ids.
    pub fn benches_dir(&self) -> PathBuf {
        self.root.join("bench")
    }

    /// Where watches publish their builds for each other.
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
        // A last line that a power cut damaged is not a note.
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

    /// Waits until the run `id` is over, in any way. A process that learns of its death in another
    /// way (by the end of a pipe) may do so a moment before its locks are free. Blocks the thread.
    pub fn await_end_of_run(&self, id: &str) {
        let file = is_run_id(id).then(|| File::open(self.root.join("runs").join(id)));
        if let Some(Ok(file)) = file {
            // It is freed again at once. A file system without locks cannot block.
            let _ = file.lock();
        }
    }

    /// Forgets a dead run, after all that it left has been removed.
    pub fn forget_run(&self, id: &str) {
        if self.is_dead_run(id) {
            // At worst a small file stays.
            let _ = std::fs::remove_file(self.root.join("runs").join(id));
        }
    }

    /// The runs that died before they finished.
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

    /// Whether a build of this project says `what` for the first time; true if it cannot be noted.
    pub fn is_first_said(&self, what: &str) -> bool {
        is_first(&self.told_path(), what)
    }

    fn told_path(&self) -> PathBuf {
        self.dir.join("told")
    }

    /// The times during which builds did not see changes on the host.
    pub fn edits_path(&self) -> PathBuf {
        self.dir.join("edits")
    }

    /// Uploads, products and their commands (crate::build::history).
    pub fn history_path(&self) -> PathBuf {
        self.dir.join("history")
    }

    /// How the last build ended (crate::build::last).
    pub fn last_path(&self) -> PathBuf {
        self.dir.join("last")
    }

    /// What a build sent nothing of (crate::build::last).
    pub fn looked_path(&self) -> PathBuf {
        self.dir.join("looked")
    }

    /// The settings file as it was when it was trusted (crate::build::trust).
    pub fn trusted_path(&self) -> PathBuf {
        self.dir.join("trusted")
    }

    /// The journal of an apply.
    pub fn journal_path(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// The journals of unfinished applies: of one that died, and of those that are torn.
    pub fn journals(&self) -> Vec<PathBuf> {
        let own = self.journal_path();
        let mut journals: Vec<_> =
            self.names("torn-").map(|run| self.dir.join(format!("torn-{run}"))).collect();
        journals.extend(own.exists().then_some(own));
        journals
    }

    /// The repairs that were not reported yet.
    pub fn untold_path(&self) -> PathBuf {
        self.dir.join("untold")
    }

    /// The mark of the project's workspace `name` on the engine at `engine`.
    pub fn workspace_path(&self, engine: &str, name: &str) -> PathBuf {
        self.dir.join(format!("workspace-{}", short_hash(format!("{engine}\0{name}").as_bytes())))
    }

    /// Tells this project from an earlier one at the same path; empty for the first one.
    pub fn id(&self) -> String {
        std::fs::read_to_string(self.dir.join("project-id")).unwrap_or_default()
    }

    /// Starts a new project at the path: forgets the one before, except the files in its safe
    /// place.
    ///
    /// # Errors
    /// When the state directory cannot be changed.
    pub fn begin_anew(&self) -> Result<(), StateError> {
        let known = [
            self.record_path(),
            self.index_path(),
            self.edits_path(),
            self.home_path(),
            self.told_path(),
            self.history_path(),
            self.last_path(),
            self.looked_path(),
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

    /// The marks of this project's workspaces, on all engines.
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

    /// The home directory of the build's user, if known.
    pub fn home_path(&self) -> PathBuf {
        self.dir.join("home")
    }

    /// Where the user's files go that were in the way of a product in the run `run`.
    pub fn displaced_dir(&self, run: &str) -> PathBuf {
        self.dir.join("displaced").join(run)
    }

    /// The index of those files.
    pub fn displaced_index(&self, run: &str) -> PathBuf {
        self.dir.join(format!("moved-{run}"))
    }

    /// The runs that moved files there.
    pub fn displaced_runs(&self) -> Vec<String> {
        let runs = std::fs::read_dir(self.dir.join("displaced")).into_iter().flatten().flatten();
        runs.filter_map(|run| run.file_name().into_string().ok()).filter(|run| is_run_id(run)).collect()
    }

    /// The rest of the names that begin with `prefix`.
    fn names(&self, prefix: &str) -> impl Iterator<Item = String> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter_map(move |entry| Some(entry.file_name().to_str()?.strip_prefix(prefix)?.to_owned()))
    }

    /// Removes the temporary files of writers that were killed.
    pub fn remove_halves(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        let is_half = |name: OsString| name.as_encoded_bytes().starts_with(HALF.as_bytes());
        for entry in entries.flatten().filter(|entry| is_half(entry.file_name())) {
            let half = File::options().write(true).open(entry.path());
            if half.is_ok_and(|half| half.try_lock().is_ok()) {
                // At worst it stays: no code reads it.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// The source root's lock: shared during scan and upload, exclusive during an apply. A
    /// workspace's lock is taken before it.
    pub fn sources(&self) -> Lock {
        Lock { path: self.dir.join("lock"), holder: self.dir.join("holder") }
    }

    /// The lock of the workspace `name`, shared by the runs inside, or of a scratch directory.
    pub fn place(&self, name: &str) -> Lock {
        self.lock_of("busy", name)
    }

    /// The lock of a workspace's entrance: only its holder enters, makes or removes the workspace.
    pub fn door(&self, name: &str) -> Lock {
        self.lock_of("door", name)
    }

    /// Takes both locks of a place, for its removal; or else returns their holder, if recorded.
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
    // The oldest ones are dropped.
    told.drain(..told.len().saturating_sub(MOST_TOLD));
    let _ = replace_json(path, &told);
    true
}

impl Lock {
    /// Takes it for this run alone if it is free; otherwise returns its holder (if recorded).
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

    /// Waits until it is free. Blocks the thread, so call it on a separate one.
    ///
    /// # Errors
    /// As [`Lock::try_lock`].
    pub fn lock(&self) -> Result<Held, StateError> {
        let file = self.open()?;
        file.lock().map_err(StateError::at("lock", &self.path))?;
        self.hold(file)
    }

    /// Waits until it is not held exclusively, and then shares it. Blocks the thread.
    ///
    /// # Errors
    /// As [`Lock::try_lock`].
    pub fn share(&self) -> Result<Held, StateError> {
        let file = self.open()?;
        file.lock_shared().map_err(StateError::at("lock", &self.path))?;
        Ok(Held { file, of: self.clone() })
    }

    /// The exclusive holder, if it is recorded.
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
    /// Shares it from now on. Others may take it exclusively in between, unless another lock
    /// prevents it.
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

    /// Makes the directory `path` as a mount point for a volume, and notes which one it is.
    ///
    /// # Errors
    /// The system's, also where the path exists; and when the run's file cannot be written.
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

    /// Finishes the run: it has left nothing on any engine.
    pub fn finish(self) {
        // If the file stays, it costs the next start one look.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The prefix of temporary files, until they get their final name. The writer keeps them locked.
const HALF: &str = ".new-";

/// Makes an empty temporary file.
fn begin_half(dir: &Path) -> io::Result<tempfile::NamedTempFile> {
    loop {
        let half = tempfile::Builder::new().prefix(HALF).tempfile_in(dir)?;
        // On a file system without locks, other processes do not take it for a dead writer's.
        let _ = half.as_file().lock();
        // Another process may have removed it just before the lock.
        if half.path().exists() {
            return Ok(half);
        }
    }
}

/// Writes a file so that a reader sees the old text or the new one, never a part. `write` gets a
/// buffered writer, so the text need not be in memory.
///
/// # Errors
/// All errors of the file system and of `write`.
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
/// All errors of the file system.
pub fn replace_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    replace_file(path, |out| Ok(serde_json::to_writer(out, value)?))
}

/// Reads what [`replace_json`] wrote; `None` when the file is missing or has another form.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Writes a value as a line of JSON, in one write.
///
/// # Errors
/// All errors of the file system.
pub fn write_line(to: &mut (impl Write + ?Sized), value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// [`write_line`] at the end of the file at `path`.
///
/// # Errors
/// All errors of the file system.
pub fn append_line(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write_line(&mut File::options().append(true).create(true).open(path)?, value)
}

/// [`replace_file`] with lines as [`append_line`] writes them.
///
/// # Errors
/// All errors of the file system.
pub fn replace_lines(path: &Path, values: &[impl Serialize]) -> io::Result<()> {
    replace_file(path, |out| values.iter().try_for_each(|value| write_line(out, value)))
}

/// The values of such lines. Invalid lines, such as a truncated one, are skipped.
pub fn parse_lines<T: DeserializeOwned>(text: &[u8]) -> impl Iterator<Item = T> {
    text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

/// [`parse_lines`] of the file at `path`; empty if it does not exist.
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

/// This program and the command that it runs, without the options between them: waiting runs print
/// this into their logs, and `-e NAME=VALUE` may hold a secret.
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

/// Whether `id` has the form of a run's id.
pub fn is_run_id(id: &str) -> bool {
    id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// An id that is unique, also among other machines that use the same engine. `RandomState` is
/// seeded by the operating system's random numbers.
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
