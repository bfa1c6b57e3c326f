//! What is known of a project now, for `fastbuild status`. Only reads: it waits for no build, and
//! takes no lock that a build waits for.

use std::{
    collections::{BTreeSet, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use tokio::time::timeout;

use super::{
    BuildError, history,
    last::{self, Last, Look},
    sources,
};
use crate::{
    agent::protocol::Held,
    engine::{Docker, EngineFacts, Sizes},
    entry::{Amount, Kind, RelPath, Timestamp},
    outputs::{
        record::{Content, Record},
        target::native_join,
    },
    state::{Live, Project, State, StateError, project_key},
    sys::owner,
    tree::{
        hash::hash_files,
        ignore::Rules,
        index::{Differences, Index},
    },
    workspace::{
        self, Mark,
        list::{self, Listed, Place},
        scratch,
    },
};

/// How long the engine may take for an answer.
const LIMIT: Duration = Duration::from_secs(10);

/// How many paths of a kind are named.
const NAMED: usize = 5;

/// All that is known of a project.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The source root.
    #[serde(serialize_with = "crate::report::events::as_text")]
    pub source: PathBuf,
    /// The engine that this project's builds use.
    pub engine: Engine,
    /// The workspaces that were made from here.
    pub workspaces: Vec<Workspace>,
    /// The build that ended last.
    pub last_build: Option<Last>,
    /// The runs of this state directory that go on now.
    pub running: Vec<Live>,
    /// What lies here; `None` where no build has noted what it sent, or the tree cannot be read.
    pub tree: Option<Tree>,
    /// Why the tree is not known.
    pub tree_unknown: Option<String>,
}

/// See [`Status::engine`].
#[derive(Debug, Serialize)]
pub struct Engine {
    /// Its address.
    pub address: String,
    /// Its greeting.
    #[serde(flatten)]
    pub greeting: Option<EngineFacts>,
    /// Why it does not answer.
    pub no_answer: Option<String>,
}

/// A workspace, as far as it is known.
#[derive(Debug, Serialize)]
pub struct Workspace {
    /// Its container's name, or its directory's path.
    pub name: String,
    /// The address of its engine.
    pub engine: String,
    /// The image, as it was named; empty without one.
    pub image: String,
    /// The engine's word for its state; `None` where the engine was not asked.
    pub state: Option<String>,
    /// The size of its layer in bytes.
    pub size: Option<u64>,
    /// When a build last ended there, in seconds since 1970.
    pub last_used: u64,
    /// The bytes that only it has.
    pub held: Option<Held>,
    /// When they were measured, in seconds since 1970, if that was not now.
    pub held_at: Option<u64>,
}

/// What lies here.
#[derive(Debug, Serialize)]
pub struct Tree {
    /// What goes in and no build wrote.
    pub sources: Amount,
    /// What builds wrote below the source root and is here.
    pub products: Amount,
    /// Files that are here since a build sent the sources last.
    pub added: Paths,
    /// Files that have another content since then.
    pub changed: Paths,
    /// Files that are gone since then, other than by a build.
    pub deleted: Paths,
}

/// Some paths, below the source root.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Paths {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Vec<String>,
}

impl Paths {
    fn of(paths: &BTreeSet<RelPath>) -> Paths {
        let first = paths.iter().take(NAMED).map(ToString::to_string).collect();
        Paths { count: paths.len() as u64, first }
    }
}

/// Looks up what is known of the project at `source`. `docker` is the engine at `address`, or why
/// it does not answer.
///
/// # Errors
/// The state directory's.
pub async fn gather(
    docker: Result<&Docker, &str>,
    address: &str,
    state: &State,
    source: &Path,
) -> Result<Status, BuildError> {
    let engine = Engine {
        address: address.to_owned(),
        greeting: docker.ok().map(|docker| docker.facts().clone()),
        no_answer: docker.err().map(str::to_owned),
    };
    let source = source.to_owned();
    let tree_unknown = Some("no build has sent this project yet".to_owned());
    let mut status = Status {
        source,
        engine,
        workspaces: Vec::new(),
        last_build: None,
        running: Vec::new(),
        tree: None,
        tree_unknown,
    };
    let Some(project) = state.known_project(&project_key(&status.source)) else { return Ok(status) };
    status.last_build = last::of(&project);
    status.running = state.live_runs(&project);
    let (source, of) = (status.source.clone(), project.clone());
    let looking = tokio::task::spawn_blocking(move || tree(&of, &source));
    status.workspaces = workspaces(docker.ok(), &mut status.engine, state, &project).await?;
    match looking.await.map_err(|_| BuildError::Panicked)? {
        Ok(None) => {}
        Ok(tree) => (status.tree, status.tree_unknown) = (tree, None),
        Err(error) => status.tree_unknown = Some(error.to_string()),
    }
    Ok(status)
}

/// The engine's, those of this machine, and those that only the state directory knows of.
async fn workspaces(
    docker: Option<&Docker>,
    engine: &mut Engine,
    state: &State,
    project: &Project,
) -> Result<Vec<Workspace>, StateError> {
    let marks = project.workspaces()?.into_iter().filter_map(|path| Mark::load(&path)).collect::<Vec<_>>();
    let mut listed = list::list_here(state, Sizes::Skip)?;
    if let Some(docker) = docker {
        match timeout(LIMIT, list::list(docker, state, &engine.address, Sizes::Measure)).await {
            Ok(Ok(there)) => listed.extend(there),
            Ok(Err(error)) => engine.no_answer = Some(error.to_string()),
            Err(_) => engine.no_answer = Some(format!("it did not answer within {} s", LIMIT.as_secs())),
        }
    }
    listed.retain(|one| one.owner == list::Owner::Here && one.project == project.key());
    let mut all = Vec::new();
    for one in &listed {
        let mark = marks.iter().find(|mark| mark.name == one.name);
        all.push(Workspace::of(one, mark, docker, &engine.address).await);
    }
    let is_gone = |mark: &Mark| {
        mark.engine == scratch::engine() || mark.engine == engine.address && engine.no_answer.is_none()
    };
    let is_listed = |mark: &Mark| listed.iter().any(|one| one.name == mark.name);
    all.extend(marks.iter().filter(|mark| !is_listed(mark) && !is_gone(mark)).map(Workspace::remembered));
    all.sort_by_key(|one| std::cmp::Reverse(one.last_used));
    Ok(all)
}

impl Workspace {
    async fn of(one: &Listed, mark: Option<&Mark>, docker: Option<&Docker>, engine: &str) -> Workspace {
        let (engine, held) = match (&one.place, docker) {
            (Place::Container(container), Some(docker)) if one.state == "running" => {
                let weighing = timeout(LIMIT, workspace::weigh(docker, container, &one.workdir));
                (engine, weighing.await.ok().flatten())
            }
            (Place::Container(_), _) => (engine, None),
            (Place::Directory(_), _) => (one.place.engine(), None),
        };
        let size = match &one.place {
            // Of this project's alone: that takes a walk.
            Place::Directory(directory) => Some(owner::size_below(directory)),
            Place::Container(_) => one.size,
        };
        let remembered = mark.and_then(|mark| mark.held).filter(|_| held.is_none());
        Workspace {
            name: one.name.clone(),
            engine: engine.to_owned(),
            image: one.image.clone(),
            state: Some(one.state.clone()),
            size,
            last_used: one.last_used,
            held: held.or(remembered.map(|(held, _)| held)),
            held_at: remembered.map(|(_, at)| at),
        }
    }

    fn remembered(mark: &Mark) -> Workspace {
        Workspace {
            name: mark.name.clone(),
            engine: mark.engine.clone(),
            image: mark.image.clone(),
            state: None,
            size: None,
            last_used: mark.last_used,
            held: mark.held.map(|(held, _)| held),
            held_at: mark.held.map(|(_, at)| at),
        }
    }
}

/// Scans the source root as the last build did, and compares it with what that sent. `None` where
/// that was not noted. Blocks the thread.
fn tree(project: &Project, root: &Path) -> Result<Option<Tree>, BuildError> {
    let Some(look) = Look::load(project) else { return Ok(None) };
    let rules = Rules::new(look.patterns())?;
    let [left_out, known_gone] = look.paths();
    let manifest = sources::scan_by(root, &rules, &left_out, &|_| ())?.manifest;
    let (record, index) = (Record::load(&project.record_path()), Index::load(&project.index_path()));
    let size = |kind: &Kind| if let Kind::File { size } = kind { *size } else { 0 };
    let entries = manifest.entries();
    let one = |bytes| Amount { files: 1, bytes };
    let sources = entries.iter().filter(|entry| entry.kind != Kind::Directory);
    let sources = sources.filter(|entry| record.get(&native_join(root, &entry.path)).is_none());
    let sources = sources.fold(Amount::default(), |sum, entry| sum + one(size(&entry.kind)));

    let Differences { new, other, gone } = index.differences(&manifest);
    let by_builds = |at: &usize| record.get(&native_join(root, &entries[*at].path));
    let is_as_written = |at: &usize| by_builds(at).is_some_and(|written| written.stamp == entries[*at].stamp);
    let path = |at: usize| entries[at].path.clone();
    let (mut changed, added): (Vec<_>, Vec<_>) =
        new.into_iter().filter(|at| !is_as_written(at)).partition(|at| by_builds(at).is_some());
    let other = other.into_iter().filter(|(at, _)| !is_as_written(at));
    let (unsure, sure): (Vec<_>, Vec<_>) = other.partition(|(_, digest)| digest.is_some());
    changed.extend(sure.into_iter().map(|(at, _)| at));
    let places: Vec<_> = unsure.iter().map(|(at, _)| *at).collect();
    let now = hash_files(root, &manifest, &places, &|_| ()).digests;
    let is_same = |at: usize, digest| now.iter().any(|(there, now)| *there == at && Some(*now) == digest);
    changed.extend(unsure.into_iter().filter(|(at, digest)| !is_same(*at, *digest)).map(|(at, _)| at));

    let known_gone: HashSet<_> = known_gone.into_iter().collect();
    let by_builds = history::deleted_since(project, index.saved_at());
    let is_left_out = |path: &RelPath| {
        rules.ignores(path) || left_out.iter().any(|outer| path.strip_prefix(outer).is_some())
    };
    let is_news = |path: &RelPath| {
        !is_left_out(path) && !known_gone.contains(path) && !by_builds.contains(path.as_bytes())
    };
    let mut deleted: BTreeSet<_> = gone.into_iter().filter(is_news).collect();
    // Of those that the last build made; the index has the earlier ones.
    let began = last::of(project).map_or(f64::INFINITY, |last| last.began);
    let since = |moment: Timestamp| moment.secs as f64 + f64::from(moment.nanos) / 1e9 >= began;
    let mut products = Amount::default();
    for (path, written) in record.below(root).filter(|(_, written)| written.what != Content::Directory) {
        match native_join(root, &path).symlink_metadata() {
            Ok(found) if found.is_file() => products = products + one(found.len()),
            Ok(_) => products = products + one(0),
            Err(_) if is_news(&path) && since(written.seen) => _ = deleted.insert(path),
            Err(_) => {}
        }
    }
    let paths = |places: Vec<usize>| Paths::of(&places.into_iter().map(path).collect());
    Ok(Some(Tree {
        sources,
        products,
        added: paths(added),
        changed: paths(changed),
        deleted: Paths::of(&deleted),
    }))
}
