//! The objects that a bench makes to measure with, and their removal.
//!
//! | where | what | found by |
//! |---|---|---|
//! | on the engine | a container, a volume, an image | labels [`labels::RUN`], [`labels::TIER`] |
//! | on the engine | workspaces of the measured builds | the id of their own state directory |
//! | on this machine | scratch directories of those builds | the same state directory |
//! | in the source root | the *stage*: for measuring and tree copies | a name that scans skip |
//! | in the state directory | the *home*: those builds' state and a note | its name, the run's id |
//!
//! They are removed however a bench ends: by [`Belongings::clear`] where this process can, by a
//! reaper if it was killed, and by the next bench if the reaper was killed too ([`sweep`]). The
//! next build also removes a container and the stage. The objects of a live bench are left alone.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    bench::{
        container::{self, LabError, Materials},
        report::Place,
    },
    build::reaper::{Charge, Duty, Reaper},
    engine::{self, ContainerId, Docker, EngineError, Owned, labels},
    measure::Sizes,
    outputs::stage_dir::remove_stage,
    spec::Endpoint,
    state::{Project, Run, State, StateError, is_run_id, read_json, replace_json},
    sys::child::ask_other_to_end,
    tree::scan::STAGE_PREFIX,
    workspace::{
        WorkspaceError,
        list::{self, Removal},
        saved_state::now,
        storage::labelled,
    },
};

/// How long a measuring process may take to remove its own files.
const CLEARING: Duration = Duration::from_secs(10);

/// How often a request is tried that an engine may refuse for a moment.
const TRIES: u32 = 20;
/// The time between.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// All that a bench has made, or may have made.
pub struct Belongings {
    run: Run,
    state: State,
    stage: PathBuf,
    home: PathBuf,
    engine: Option<Docker>,
    reaper: Option<Reaper>,
    /// Held by the thread of this process that writes into the stage.
    stage_use: Arc<Semaphore>,
}

/// The data about a dead bench for the next bench.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// The engine's address.
    engine: String,
    stage: PathBuf,
}

/// An object that could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum Left {
    /// On the engine.
    #[error("what the bench made on the engine could not be removed; the next bench tries again")]
    OnEngine(#[source] EngineError),
    /// A workspace without a container.
    #[error("a scratch directory could not be removed; the next bench tries again")]
    Scratch(#[source] WorkspaceError),
    /// The same, while a build works in it.
    #[error("a build still works in {name}; the next bench removes it")]
    InUse {
        /// Where.
        name: String,
    },
    /// Here.
    #[error("could not remove {path:?}; the next bench tries again")]
    Here {
        /// Where.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl Belongings {
    /// Begins a run, and makes sure that all that it makes is removed. `docker` is at `endpoint`.
    ///
    /// # Errors
    /// When the note cannot be written to the state directory.
    pub fn begin(
        state: &State,
        project: &Project,
        source: &Path,
        endpoint: &Endpoint,
        docker: Option<Docker>,
    ) -> Result<Belongings, StateError> {
        let address = endpoint.to_string();
        let run = state.begin_run(project, &address)?;
        let stage = source.join(stage_name(&run.id));
        let home = state.benches_dir().join(&run.id);
        std::fs::create_dir_all(&home).map_err(StateError::at("make the directory", &home))?;
        run.note_stage(&stage)?;
        let note = home.join(NOTE);
        replace_json(&note, &Note { engine: address, stage: stage.clone() })
            .map_err(StateError::at("write", &note))?;
        let reaper = Reaper::watch(&Charge {
            state: state.root().to_owned(),
            source: source.to_owned(),
            run: run.id.clone(),
            duty: Duty::Sweep(endpoint.clone()),
        });
        let stage_use = Arc::new(Semaphore::new(1));
        Ok(Belongings { run, state: state.clone(), stage, home, engine: docker, reaper, stage_use })
    }

    /// The bench's directory in the source root; made when it does not exist.
    ///
    /// # Errors
    /// The system's error.
    pub fn stage(&self) -> io::Result<&Path> {
        match std::fs::create_dir(&self.stage) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(&self.stage),
        }
    }

    async fn use_stage(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.stage_use).acquire_owned().await.ok()
    }

    /// Works in the stage on a thread of its own, which must end soon after its flag is set: when
    /// the future is dropped. The stage is not removed meanwhile.
    ///
    /// # Errors
    /// When no thread can be started, or it panics.
    pub async fn on_a_thread<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> io::Result<T> {
        struct StopWhenDropped(Arc<AtomicBool>);
        impl Drop for StopWhenDropped {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let stop = StopWhenDropped(Arc::default());
        let (stopped, in_use) = (Arc::clone(&stop.0), self.use_stage().await);
        let (end, ended) = tokio::sync::oneshot::channel();
        let work = move || {
            let done = work(&stopped);
            drop(in_use);
            // The receiver may be gone.
            let _ = end.send(done);
        };
        // Not one of the runtime's: its end waits for those, and a file system may hang.
        std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        ended.await.map_err(|_| io::Error::other("it panicked"))
    }

    /// The state directory of the measured builds.
    pub fn state_of_builds(&self) -> PathBuf {
        state_of_builds(&self.home)
    }

    /// The name of the bench's objects on an engine.
    pub fn object_name(&self) -> String {
        object_name(&self.run.id)
    }

    /// Their labels.
    ///
    /// # Errors
    /// When the state directory has no id.
    pub fn labels(&self) -> Result<BTreeMap<String, String>, StateError> {
        labels_of(&self.run.id, &self.state)
    }

    /// Removes all of it; returns what could not be removed.
    pub async fn clear(self) -> Vec<Left> {
        let mut left = Vec::new();
        if let Some(docker) = &self.engine {
            let cleared = clear_engine(docker, &of_run(&self.run.id)).await;
            left.extend(cleared.err().map(Left::OnEngine));
            left.extend(clear_builds(docker, &self.home).await.err().map(Left::OnEngine));
        }
        left.extend(clear_scratch(&self.home).await.err());
        // A thread that uses it ends soon after it is told to, unless its file system hangs.
        let _unused = timeout(CLEARING, self.use_stage()).await;
        left.extend(
            remove_stage_in_any_way(self.engine.as_ref(), &self.run.id, &self.state, &self.stage).await,
        );
        // The home holds all that the next bench would need.
        if left.is_empty() {
            left.extend(remove(&self.home).await);
        }
        if left.is_empty() {
            self.run.finish();
            if let Some(reaper) = &self.reaper {
                reaper.dismiss();
            }
        }
        left
    }
}

const NOTE: &str = "note";

fn stage_name(run: &str) -> String {
    format!("{STAGE_PREFIX}{run}-bench")
}

fn object_name(run: &str) -> String {
    format!("fastbuild-bench-{run}")
}

fn state_of_builds(home: &Path) -> PathBuf {
    home.join("state")
}

fn of_run(run: &str) -> Owned {
    Owned::by_run(run).and(labels::TIER, labels::BENCH)
}

fn labels_of(run: &str, state: &State) -> Result<BTreeMap<String, String>, StateError> {
    Ok(labelled(&[
        (labels::RUN, run),
        (labels::TIER, labels::BENCH),
        (labels::STATE, &state.id()?),
        (labels::CREATED, &now().to_string()),
    ]))
}

/// Files that containers wrote on a mount belong to their users, and only they may remove them:
/// then a container does it.
async fn remove_stage_in_any_way(
    docker: Option<&Docker>,
    run: &str,
    state: &State,
    stage: &Path,
) -> Option<Left> {
    let left = remove(stage).await?;
    // Systems report another user's files with many different errors.
    let Some(docker) = docker else { return Some(left) };
    let emptied = empty_by_container(docker, run, state, stage).await;
    let cleared = clear_engine(docker, &of_run(run)).await;
    if let Err(error) = emptied {
        tracing::warn!(%error, "no container could remove what containers have made");
    }
    match cleared {
        Ok(()) => remove(stage).await,
        Err(error) => Some(Left::OnEngine(error)),
    }
}

async fn empty_by_container(docker: &Docker, run: &str, state: &State, stage: &Path) -> Result<(), LabError> {
    let (name, labels) = (object_name(run), labels_of(run, state)?);
    let image = container::empty_image(docker, &name, &labels).await?;
    let sizes = Sizes { sequential: 0, files: 0, file_bytes: 0, directories: 0 };
    let place = Place::BindMount;
    let materials = Materials { docker, name, labels, image: &image, sizes: &sizes, bind: stage };
    let (mut lab, _) = materials.open(&[place]).await?;
    if let Some(directory) = container::directory(place)
        && let Err(problem) = lab.empty(directory).await?
    {
        tracing::warn!(%problem, "a container could not remove what containers have made");
    }
    lab.remove().await
}

async fn remove(path: &Path) -> Option<Left> {
    let going = path.to_owned();
    let removed = tokio::task::spawn_blocking(move || remove_stage(&going)).await;
    let source = match removed {
        Ok(Ok(())) => return None,
        Ok(Err(error)) => error,
        Err(error) => io::Error::other(error),
    };
    Some(Left::Here { path: path.to_owned(), source })
}

/// Removes dead benches' objects; `docker` is at `address`. Those on another engine stay for a
/// bench there.
///
/// # Errors
/// The first object that could not be removed; all others are gone.
pub async fn sweep(docker: Option<&Docker>, address: &str, state: &State) -> Result<(), Left> {
    let mut result = Ok(());
    if let Some(docker) = docker {
        result = sweep_engine(docker, state).await.map_err(Left::OnEngine);
    }
    for home in dead_homes(state) {
        let swept = sweep_home(docker, address, state, &home).await;
        result = result.and(swept);
    }
    result
}

/// The same, for the reaper: whether all was removed.
pub async fn sweep_at(engine: &Endpoint, state: &State) -> bool {
    let docker = Docker::connect(engine).await.ok();
    sweep(docker.as_ref(), &engine.to_string(), state).await.is_ok()
}

/// By the labels alone, because the state directory may have lost its entries.
async fn sweep_engine(docker: &Docker, state: &State) -> Result<(), EngineError> {
    let Ok(id) = state.id() else { return Ok(()) };
    let ours = Owned::by(labels::STATE, &id).and(labels::TIER, labels::BENCH).to_filter();
    let containers = containers(docker, &ours).await?.into_iter().map(|container| container.labels);
    let volumes = docker.list_volumes(&ours).await?.into_iter().map(|volume| volume.labels);
    let images = docker.list_images(&ours).await?.into_iter().map(|(_, labels)| labels);
    let runs = containers.chain(volumes).chain(images).filter_map(|labels| labels.get(labels::RUN).cloned());
    let dead: std::collections::BTreeSet<_> = runs.filter(|run| !state.is_live_run(run)).collect();
    for run in dead {
        clear_engine(docker, &of_run(&run).and(labels::STATE, &id)).await?;
    }
    Ok(())
}

/// Builds do not notice that the bench which measures them is dead.
fn end_builds(home: &Path) {
    let path = state_of_builds(home);
    if path.is_dir()
        && let Ok(state) = State::open(path)
    {
        state.live_processes().into_iter().for_each(ask_other_to_end);
    }
}

fn dead_homes(state: &State) -> Vec<PathBuf> {
    let homes = std::fs::read_dir(state.benches_dir()).into_iter().flatten().flatten();
    let is_dead = |run: &str| is_run_id(run) && !state.is_live_run(run);
    let dead = homes.filter(|home| home.file_name().to_str().is_some_and(is_dead));
    dead.map(|home| home.path()).collect()
}

async fn sweep_home(docker: Option<&Docker>, address: &str, state: &State, home: &Path) -> Result<(), Left> {
    let run = home.file_name().unwrap_or_default().to_string_lossy();
    end_builds(home);
    // A bench that died before it wrote its note has made no other object.
    if let Some(note) = read_json::<Note>(&home.join(NOTE)) {
        // The path comes from a file: only a stage with the run's own name is touched.
        if note.stage.file_name().is_some_and(|name| *name == *stage_name(&run)) {
            let removed = remove_stage_in_any_way(docker, &run, state, &note.stage).await;
            removed.map_or(Ok(()), Err)?;
        }
        clear_scratch(home).await?;
        match docker.filter(|_| note.engine == address) {
            Some(docker) => clear_builds(docker, home).await.map_err(Left::OnEngine)?,
            None if state_of_builds(home).exists() => return Ok(()),
            None => {}
        }
    }
    remove(home).await.map_or(Ok(()), Err)
}

/// The measured builds' objects on the engine: workspaces, and all others with their label.
async fn clear_builds(docker: &Docker, home: &Path) -> Result<(), EngineError> {
    let state = state_of_builds(home);
    if !state.is_dir() {
        return Ok(());
    }
    let Ok(id) = State::open(state).and_then(|state| state.id()) else { return Ok(()) };
    clear_engine(docker, &Owned::by(labels::STATE, &id)).await
}

/// The measured builds' directories on this machine.
async fn clear_scratch(home: &Path) -> Result<(), Left> {
    let path = state_of_builds(home);
    if !path.is_dir() {
        return Ok(());
    }
    let work = move || {
        let state = State::open(path).map_err(WorkspaceError::from)?;
        for listed in list::list_here(&state, engine::Sizes::Skip).map_err(WorkspaceError::from)? {
            if let Removal::Busy(_) = list::remove_here(&state, &listed)? {
                return Ok(Some(listed.name));
            }
        }
        Ok(None)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(None)) => Ok(()),
        Ok(Ok(Some(name))) => Err(Left::InUse { name }),
        Ok(Err(error)) => Err(Left::Scratch(error)),
        Err(error) => Err(Left::Here { path: home.to_owned(), source: io::Error::other(error) }),
    }
}

/// Removes all containers, volumes and a bench's images that are `owned`. Other images are the
/// user's copies of a container, with its labels.
async fn clear_engine(docker: &Docker, owned: &Owned) -> Result<(), EngineError> {
    let mut tries = 1;
    loop {
        match clear_engine_once(docker, owned).await {
            // A container that is being removed by another process still holds its volumes for a
            // moment.
            Err(_) if tries < TRIES => tries += 1,
            ended => return ended,
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
}

async fn clear_engine_once(docker: &Docker, owned: &Owned) -> Result<(), EngineError> {
    for container in containers(docker, &owned.to_filter()).await? {
        if container.labels.get(labels::TIER).is_some_and(|tier| tier == labels::BENCH) {
            let_it_clear(docker, &container.id).await;
        }
        docker.remove(container.id.as_str(), owned).await?;
    }
    for volume in docker.list_volumes(&owned.to_filter()).await? {
        docker.remove_volume(&volume.name, owned).await?;
    }
    let images = owned.clone().and(labels::TIER, labels::BENCH);
    for (image, _) in docker.list_images(&images.to_filter()).await? {
        docker.remove_image(&image, &images).await?;
    }
    Ok(())
}

/// Files that an agent made on a mount belong to its user, who may not be this process's.
async fn let_it_clear(docker: &Docker, container: &ContainerId) {
    if docker.kill(container, "SIGTERM").await.is_ok() {
        // If it does not, the stage may keep files of another user, and that is reported then.
        let _ended = timeout(CLEARING, docker.wait(container)).await;
    }
}

/// Docker fails a listing in which a container vanishes; the caller asks again.
async fn containers(
    docker: &Docker,
    labels: &[String],
) -> Result<Vec<engine::ContainerSummary>, EngineError> {
    docker.list(labels, engine::Sizes::Skip).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint::Unix("/not/there.sock".into())
    }

    struct Home {
        home: tempfile::TempDir,
        state: State,
    }

    impl Home {
        fn new() -> Home {
            let home = tempfile::tempdir().unwrap();
            let state = State::open(home.path().join("state")).unwrap();
            std::fs::create_dir(home.path().join("source")).unwrap();
            Home { home, state }
        }

        fn source(&self) -> PathBuf {
            self.home.path().join("source")
        }

        /// As [`Belongings::begin`], without a reaper: the test program cannot be one.
        fn begin(&self) -> Belongings {
            let project = self.state.project(&self.source()).unwrap();
            let run = self.state.begin_run(&project, &endpoint().to_string()).unwrap();
            let home = self.state.benches_dir().join(&run.id);
            std::fs::create_dir_all(home.join("state")).unwrap();
            let stage = self.source().join(stage_name(&run.id));
            let note = Note { engine: endpoint().to_string(), stage: stage.clone() };
            replace_json(&home.join(NOTE), &note).unwrap();
            let stage_use = Arc::new(Semaphore::new(1));
            Belongings { run, state: self.state.clone(), stage, home, engine: None, reaper: None, stage_use }
        }

        fn left(&self) -> (usize, usize) {
            let count = |path: &Path| std::fs::read_dir(path).into_iter().flatten().count();
            (count(&self.source()), count(&self.state.benches_dir()))
        }
    }

    #[tokio::test]
    async fn what_is_cleared_is_gone_and_so_is_the_note_of_it() {
        let home = Home::new();
        let belongings = home.begin();
        std::fs::write(belongings.stage().unwrap().join("file"), "x").unwrap();
        assert!(belongings.clear().await.is_empty());
        assert_eq!(home.left(), (0, 0));
        assert!(home.state.dead_runs().is_empty());
    }

    #[tokio::test]
    async fn a_sweep_takes_the_dead_ones_stage_and_leaves_what_a_live_one_has() {
        let home = Home::new();
        let (dead, live) = (home.begin(), home.begin());
        dead.stage().unwrap();
        live.stage().unwrap();
        std::fs::remove_dir(dead.state_of_builds()).unwrap();
        drop(dead);
        sweep(None, "", &home.state).await.unwrap();
        assert_eq!(home.left(), (1, 1));
        assert!(live.stage.is_dir() && live.home.is_dir());
    }

    #[tokio::test]
    async fn what_is_known_of_builds_on_an_engine_that_is_away_is_kept() {
        let home = Home::new();
        let dead = home.begin();
        dead.stage().unwrap();
        drop(dead);
        sweep(None, &endpoint().to_string(), &home.state).await.unwrap();
        assert_eq!(home.left(), (0, 1));
    }

    #[tokio::test]
    async fn a_note_that_names_a_strangers_directory_removes_nothing() {
        let home = Home::new();
        let dead = home.begin();
        let note = Note { engine: String::new(), stage: home.source() };
        replace_json(&dead.home.join(NOTE), &note).unwrap();
        std::fs::write(home.source().join("file"), "x").unwrap();
        drop(dead);
        sweep(None, "", &home.state).await.unwrap();
        assert_eq!(home.left().0, 1);
    }
}
