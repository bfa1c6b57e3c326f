//! All workspaces of an engine, and which of them to remove. Only the choice ([`to_go`]) is pure.

use std::{borrow::Cow, path::PathBuf, time::Duration};

use super::{
    Generation, Mark, WorkspaceError,
    scratch::{self, Known, Life},
};
use crate::{
    agent::protocol::Held,
    args::Caches,
    engine::{
        ContainerId, ContainerSummary, Docker, EngineError, Owned, Removed, Sizes, VolumeFacts, labels,
    },
    spec::Route,
    state::{Holder, Project, State, StateError},
    workspace::saved_state::now,
};

/// How many times a listing is requested: Docker fails a listing while a container vanishes.
const ASKED: u32 = 3;

/// A live fastbuild starts a container within this time after making it.
const STARTS_WITHIN: Duration = Duration::from_secs(60 * 60);

/// Which state directory owns a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// This state directory's.
    Here,
    /// Another one's: of another user or machine that uses the same engine.
    Elsewhere,
}

/// A workspace, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its container's name, or its directory's path.
    pub name: String,
    /// What it is.
    pub place: Place,
    /// Its project's key.
    pub project: String,
    /// The source root on its host.
    pub source: String,
    /// The image, as it was named.
    pub image: String,
    /// The version of fastbuild that made it.
    pub version: String,
    /// Which state directory owns it.
    pub owner: Owner,
    /// The engine's word for its state.
    pub state: String,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// The last use as far as known here, or else when it was made, in seconds since 1970.
    pub last_used: u64,
    /// The size of its layer without [`Listed::beside`], in bytes; `None` where it was not
    /// measured.
    pub size: Option<u64>,
    /// The route of its storage beside the layer, where that holds the sources.
    pub beside: Option<Route>,
    /// How much only it has; `None` where that was not measured, or it cannot tell.
    pub held: Option<Held>,
    /// The path of its tree.
    pub workdir: String,
}

/// What a workspace is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A container of an engine.
    Container(ContainerId),
    /// A directory of this machine.
    Directory(PathBuf),
}

impl Place {
    /// The container's id, or the directory's path.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Place::Container(container) => container.as_str().into(),
            Place::Directory(directory) => directory.to_string_lossy(),
        }
    }

    /// The kind of engine that has it, as `--engine` names it.
    pub fn engine(&self) -> &'static str {
        match self {
            Place::Container(_) => "docker",
            Place::Directory(_) => "host",
        }
    }
}

/// The limits up to which workspaces may stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Workspaces that were used no longer ago than this may stay.
    pub older_than: Option<Duration>,
    /// Workspaces may stay while their total size is at most this, in bytes.
    pub total_size: Option<u64>,
}

/// Why a workspace is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlived {
    /// It has not been used for this long.
    Age(Duration),
    /// The total size is too large, and of the remaining ones this was used least recently.
    Size,
}

/// The result of a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Gone,
    /// A run is working in it; the run's process, as far as it is known.
    Busy(Option<Holder>),
}

/// The result of a pruning.
#[derive(Debug, Default)]
pub struct Pruned {
    /// The removed workspaces, and why.
    pub removed: Vec<(Listed, Outlived)>,
    /// Workspaces that were due to be removed but are in use.
    pub busy: Vec<Listed>,
    /// Workspaces that were due to be removed but could not be.
    pub failed: Vec<(Listed, WorkspaceError)>,
}

/// All workspaces of the engine at `engine`, the most recently used first.
///
/// # Errors
/// The engine's, and the state directory's.
pub async fn list(
    docker: &Docker,
    state: &State,
    engine: &str,
    sizes: Sizes,
) -> Result<Vec<Listed>, WorkspaceError> {
    let own = state.id()?;
    let found = listed(docker, &[labels::TIER.to_owned()], sizes).await?.into_iter();
    let kept = found.filter(|container| labels::is_kept_workspace(&container.labels));
    let mut all: Vec<_> = kept.map(|container| Listed::of(container, &own, state, engine)).collect();
    all.sort_by(|a, b| b.last_used.cmp(&a.last_used).then_with(|| a.name.cmp(&b.name)));
    Ok(all)
}

async fn listed(
    docker: &Docker,
    filter: &[String],
    sizes: Sizes,
) -> Result<Vec<ContainerSummary>, EngineError> {
    let mut asked = 1;
    loop {
        match docker.list(filter, sizes).await {
            Err(EngineError::NoSuchContainer { .. } | EngineError::Api { .. }) if asked < ASKED => asked += 1,
            answer => return answer,
        }
    }
}

impl Listed {
    fn of(container: ContainerSummary, own: &str, state: &State, engine: &str) -> Listed {
        let label = |name: &str| container.labels.get(name).cloned().unwrap_or_default();
        let owner = if label(labels::STATE) == own { Owner::Here } else { Owner::Elsewhere };
        let project = label(labels::PROJECT);
        let made = label(labels::CREATED).parse().ok();
        let made = made.or_else(|| u64::try_from(container.created).ok()).unwrap_or(0);
        let mark = match owner {
            Owner::Here => {
                let known = state.known_project(&project);
                known.and_then(|project| Mark::load(&project.workspace_path(engine, &container.name)))
            }
            Owner::Elsewhere => None,
        };
        let mark = mark.filter(|mark| mark.container == container.id.as_str());
        Listed {
            source: label(labels::SOURCE),
            image: label(labels::IMAGE),
            version: label(labels::VERSION),
            name: container.name,
            place: Place::Container(container.id),
            project,
            owner,
            state: container.state,
            made,
            last_used: mark.map_or(made, |mark| mark.last_used.max(made)),
            size: container.size,
            beside: beside(&label(labels::GENERATION)),
            held: None,
            workdir: workdir(&label(labels::GENERATION)).unwrap_or_default(),
        }
    }
}

fn workdir(generation: &str) -> Option<String> {
    Generation::from_label(generation)?.get("working directory").map(ToOwned::to_owned)
}

fn beside(generation: &str) -> Option<Route> {
    let made_with = Generation::from_label(generation)?;
    let route = made_with.get("route")?;
    [Route::Tmpfs, Route::Volume].into_iter().find(|one| one.name() == route)
}

/// Asks this state directory's running workspaces what only they have, and saves it for
/// `fastbuild plan`.
pub async fn weigh(docker: &Docker, state: &State, engine: &str, all: &mut [Listed]) {
    let ours = all.iter_mut().filter(|one| one.owner == Owner::Here && one.state == "running");
    let weighing = ours.map(async |one| {
        let Place::Container(container) = &one.place else { return };
        one.held = super::weigh(docker, container, &one.workdir).await;
        let path = state.known_project(&one.project).map(|project| project.workspace_path(engine, &one.name));
        let mark = path.as_deref().and_then(Mark::load).filter(|mark| mark.container == container.as_str());
        if let (Some(path), Some(mark), Some(held)) = (path, mark, one.held)
            && let Err(error) = mark.note_held(&path, held)
        {
            tracing::warn!(%error, "could not note what only a workspace has");
        }
    });
    futures_util::future::join_all(weighing).await;
}

/// All scratch directories of this state directory's projects, the most recently used first. Blocks
/// the thread; measuring the sizes walks through all of them.
///
/// # Errors
/// The state directory's.
pub fn list_here(state: &State, sizes: Sizes) -> Result<Vec<Listed>, StateError> {
    let mut all: Vec<_> = scratch::known(state)?.iter().map(|known| Listed::here(known, sizes)).collect();
    all.sort_by(|a, b| b.last_used.cmp(&a.last_used).then_with(|| a.name.cmp(&b.name)));
    Ok(all)
}

impl Listed {
    fn here(known: &Known, sizes: Sizes) -> Listed {
        let Mark { name, source, made, last_used, .. } = known.mark.clone();
        Listed {
            place: Place::Directory(known.directory().to_owned()),
            project: known.project.key().to_owned(),
            version: known.made_by.clone(),
            owner: Owner::Here,
            state: match known.life {
                Life::Running => "running",
                Life::Idle => "idle",
            }
            .to_owned(),
            image: String::new(),
            size: matches!(sizes, Sizes::Measure).then(|| known.size()),
            beside: None,
            held: None,
            workdir: String::new(),
            last_used: last_used.max(made),
            name,
            source,
            made,
        }
    }
}

/// Removes a scratch directory and its mark, unless a run is working in it. Blocks the thread.
///
/// # Errors
/// The system's, and the state directory's.
pub fn remove_here(state: &State, listed: &Listed) -> Result<Removal, WorkspaceError> {
    let Some(project) = state.known_project(&listed.project) else { return Ok(Removal::Gone) };
    match project.try_empty(&listed.name)? {
        Err(holder) => Ok(Removal::Busy(holder)),
        Ok(_locks) => {
            scratch::remove_of(&project, listed.name.as_ref())?;
            Ok(Removal::Gone)
        }
    }
}

/// [`prune`] for the scratch directories of this machine. Blocks the thread.
///
/// # Errors
/// The state directory's.
pub fn prune_here(state: &State, limits: &Limits) -> Result<Pruned, StateError> {
    let sizes = if limits.total_size.is_some() { Sizes::Measure } else { Sizes::Skip };
    let all = list_here(state, sizes)?;
    let mut pruned = Pruned::default();
    for (i, why) in to_go(&all, limits, now()) {
        pruned.add(all[i].clone(), why, remove_here(state, &all[i]));
    }
    Ok(pruned)
}

impl Pruned {
    fn add(&mut self, listed: Listed, why: Outlived, removal: Result<Removal, WorkspaceError>) {
        match removal {
            Ok(Removal::Gone) => self.removed.push((listed, why)),
            Ok(Removal::Busy(_)) => self.busy.push(listed),
            Err(error) => self.failed.push((listed, error)),
        }
    }
}

/// Which of `all` to remove, and why. First those of this state directory that are too old; then,
/// while its rest is too large, the least recently used one. Unmeasured ones count as 0 bytes.
pub fn to_go(all: &[Listed], limits: &Limits, now: u64) -> Vec<(usize, Outlived)> {
    let mut own: Vec<usize> = (0..all.len()).filter(|&i| all[i].owner == Owner::Here).collect();
    own.sort_by_key(|&i| all[i].last_used);
    let age = |i: usize| Duration::from_secs(now.saturating_sub(all[i].last_used));
    let is_old = |i: usize| limits.older_than.is_some_and(|limit| age(i) > limit);
    let (old, left): (Vec<_>, Vec<_>) = own.into_iter().partition(|&i| is_old(i));
    let mut go: Vec<_> = old.into_iter().map(|i| (i, Outlived::Age(age(i)))).collect();
    let size = |i: usize| all[i].size.unwrap_or(0);
    let mut total = left.iter().fold(0_u64, |total, &i| total.saturating_add(size(i)));
    for i in left {
        if limits.total_size.is_none_or(|limit| total <= limit) {
            break;
        }
        // The removal of an empty one would free nothing.
        if size(i) > 0 {
            total -= size(i).min(total);
            go.push((i, Outlived::Size));
        }
    }
    go
}

/// Removes a workspace and what the state directory knows of it, unless a run is working in it.
///
/// # Errors
/// The engine's, and the state directory's.
pub async fn remove(
    docker: &Docker,
    state: &State,
    engine: &str,
    listed: &Listed,
) -> Result<Removal, WorkspaceError> {
    let project = match listed.owner {
        Owner::Here => state.known_project(&listed.project),
        // Its locks are not known here. The caller has named it explicitly.
        Owner::Elsewhere => None,
    };
    let _locks = match project.as_ref().map(|project| project.try_empty(&listed.name)).transpose()? {
        Some(Err(holder)) => return Ok(Removal::Busy(holder)),
        Some(Ok(locks)) => Some(locks),
        None => None,
    };
    let mut owned = Owned::by(labels::PROJECT, &listed.project);
    if listed.owner == Owner::Here {
        owned = owned.and(labels::STATE, &state.id()?);
    }
    let container = docker.remove(&listed.place.text(), &owned).await?;
    // A workspace on a volume has a volume with its own name.
    let volume = docker.remove_volume(&listed.name, &owned).await?;
    if [container, volume].contains(&Removed::NotOurs) {
        return Err(WorkspaceError::Foreign { name: listed.name.clone() });
    }
    if let Some(project) = project {
        forget(&project, engine, &listed.name)?;
    }
    Ok(Removal::Gone)
}

fn forget(project: &Project, engine: &str, name: &str) -> Result<(), StateError> {
    let path = project.workspace_path(engine, name);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StateError::at("remove", &path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes workspaces over `limits`, and containers that were never started. Sizes are measured
/// only if a limit needs them.
///
/// # Errors
/// When the engine cannot list its workspaces.
pub async fn prune(
    docker: &Docker,
    state: &State,
    engine: &str,
    limits: &Limits,
) -> Result<Pruned, WorkspaceError> {
    let sizes = if limits.total_size.is_some() { Sizes::Measure } else { Sizes::Skip };
    let all = list(docker, state, engine, sizes).await?;
    remove_never_started(docker).await;
    let mut pruned = Pruned::default();
    for (i, why) in to_go(&all, limits, now()) {
        pruned.add(all[i].clone(), why, remove(docker, state, engine, &all[i]).await);
    }
    Ok(pruned)
}

/// Removes the containers that any fastbuild made more than an hour ago and never started: their
/// makers are dead. Best effort: the next run tries again.
pub async fn remove_never_started(docker: &Docker) {
    let is_old = |container: &ContainerSummary| {
        let made = container.labels.get(labels::CREATED).and_then(|made| made.parse().ok());
        made.is_some_and(|made: u64| now().saturating_sub(made) > STARTS_WITHIN.as_secs())
    };
    let all = listed(docker, &[labels::TIER.to_owned(), labels::CREATED.to_owned()], Sizes::Skip).await;
    for old in all.into_iter().flatten().filter(|found| found.state == "created" && is_old(found)) {
        // Podman may report "created" for a container that ran before its machine was restarted.
        let found = docker.look(old.id.as_str()).await.ok().flatten();
        if found.is_some_and(|found| found.started_at.starts_with("0001-")) {
            let removed = docker.remove(old.id.as_str(), &Owned::of(&old.labels)).await;
            tracing::info!(container = old.name, ?removed, "it was made and never started");
        }
    }
}

/// A volume that no container uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unused {
    /// The volume of a workspace of this state directory whose container is gone.
    OfWorkspace {
        /// The volume.
        name: String,
        /// The project's key.
        project: String,
    },
    /// A cache that a build of this state directory made.
    Cache {
        /// The volume.
        name: String,
    },
}

impl Unused {
    /// The volume's name.
    pub fn name(&self) -> &str {
        match self {
            Unused::OfWorkspace { name, .. } | Unused::Cache { name } => name,
        }
    }
}

/// The volumes of this state directory that no container uses.
///
/// # Errors
/// The engine's, and the state directory's.
pub async fn unused_volumes(
    docker: &Docker,
    state: &State,
    caches: Caches,
) -> Result<Vec<Unused>, WorkspaceError> {
    let owned = Owned::by(labels::STATE, &state.id()?);
    let own = |tier: &str| owned.clone().and(labels::TIER, tier).to_filter();
    let found = docker.list_unused_volumes(&own(labels::VOLUME)).await?;
    let mut unused: Vec<_> = found.into_iter().map(Unused::of_workspace).collect();
    if caches == Caches::Included {
        let found = docker.list_unused_volumes(&own(labels::CACHE)).await?;
        unused.extend(found.into_iter().map(|volume| Unused::Cache { name: volume.name }));
    }
    unused.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(unused)
}

impl Unused {
    fn of_workspace(volume: VolumeFacts) -> Unused {
        let project = volume.labels.get(labels::PROJECT).cloned().unwrap_or_default();
        Unused::OfWorkspace { name: volume.name, project }
    }
}

/// Removes an unused volume, unless it is in use by now.
///
/// # Errors
/// The engine's, and the state directory's.
pub async fn remove_unused(
    docker: &Docker,
    state: &State,
    unused: &Unused,
) -> Result<Removal, WorkspaceError> {
    let project = match unused {
        Unused::OfWorkspace { project, .. } => state.known_project(project),
        Unused::Cache { .. } => None,
    };
    // A run may have made it and be about to make its container.
    let _locks = match project.as_ref().map(|project| project.try_empty(unused.name())).transpose()? {
        Some(Err(holder)) => return Ok(Removal::Busy(holder)),
        Some(Ok(locks)) => Some(locks),
        None => None,
    };
    match docker.remove_volume(unused.name(), &Owned::by(labels::STATE, &state.id()?)).await {
        Ok(Removed::Now | Removed::Already) => Ok(Removal::Gone),
        Ok(Removed::NotOurs) => Err(WorkspaceError::Foreign { name: unused.name().to_owned() }),
        Err(EngineError::Api { status: 409, .. }) => Ok(Removal::Busy(None)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(name: &str, last_used: u64, size: Option<u64>, owner: Owner) -> Listed {
        Listed {
            name: name.to_owned(),
            place: Place::Container(ContainerId::new(name)),
            project: String::new(),
            source: String::new(),
            image: String::new(),
            version: String::new(),
            owner,
            state: "exited".to_owned(),
            made: 0,
            last_used,
            size,
            beside: None,
            held: None,
            workdir: String::new(),
        }
    }

    #[test]
    fn the_old_go_first_and_then_the_least_recently_used() {
        let all = [
            workspace("new", 90, Some(10), Owner::Here),
            workspace("old", 10, Some(10), Owner::Here),
            workspace("theirs", 1, Some(1000), Owner::Elsewhere),
            workspace("middle", 50, Some(30), Owner::Here),
            workspace("empty", 40, None, Owner::Here),
        ];
        let age = |seconds| Some(Duration::from_secs(seconds));
        let cases: [(Limits, &[(&str, &str)]); 8] = [
            (Limits::default(), &[]),
            (Limits { older_than: age(90), total_size: None }, &[]),
            (Limits { older_than: age(89), total_size: None }, &[("old", "age")]),
            (
                Limits { older_than: age(49), total_size: None },
                &[("old", "age"), ("empty", "age"), ("middle", "age")],
            ),
            (Limits { older_than: None, total_size: Some(50) }, &[]),
            (Limits { older_than: None, total_size: Some(49) }, &[("old", "size")]),
            (
                Limits { older_than: None, total_size: Some(0) },
                &[("old", "size"), ("middle", "size"), ("new", "size")],
            ),
            (Limits { older_than: age(80), total_size: Some(20) }, &[("old", "age"), ("middle", "size")]),
        ];
        for (limits, expected) in cases {
            let gone: Vec<_> = to_go(&all, &limits, 100)
                .into_iter()
                .map(|(i, why)| {
                    let why = match why {
                        Outlived::Age(_) => "age",
                        Outlived::Size => "size",
                    };
                    (all[i].name.as_str(), why)
                })
                .collect();
            assert_eq!(gone, expected, "{limits:?}");
        }
    }
}
