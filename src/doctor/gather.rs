//! Collects the facts that [`super::findings`] judges. A missing answer is a fact, too.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::timeout;

use super::{Engine, Facts, Needs, Room, Source};
use crate::{
    args::Where,
    config::{ConfigError, WorkspaceSettings},
    engine::{Docker, EngineError, Whereabouts},
    environment::Environment,
    facts::{self, FileSharing, Machine, NoAnswer},
    plan,
    report::events::{Failure, path_text},
    spec::Decision,
};

/// How long the sources' file system may take to answer, and how long the engine.
const LIMIT: Duration = Duration::from_secs(10);

/// Looks at the machine, the engine and the source root that `place` and the settings name.
///
/// # Errors
/// When the settings are wrong, or the source root does not exist.
pub async fn gather(place: &Where, environment: &Environment) -> Result<Facts, ConfigError> {
    let machine = Machine::of(environment);
    let cwd = &environment.cwd;
    let asked = place.source.as_ref().map_or_else(|| cwd.clone(), |source| cwd.join(source));
    let (host, source) = match facts::responds(&asked, LIMIT) {
        // The error of the settings describes it better.
        Err(NoAnswer::Failed { source: error, .. }) if is_a_mistake(&error) => settled(place, environment)?,
        Ok(()) => settled(place, environment)?,
        Err(no_answer) => (host_alone(place, environment)?, silent(asked, &no_answer)),
    };
    let engine = engine(host.as_ref(), environment, &machine).await;
    let rooms = rooms(&engine, &source, environment);
    Ok(Facts {
        unattended: environment.is_ci(),
        sharing: FileSharing::of(environment),
        machine,
        engine,
        source,
        rooms,
    })
}

/// Whether the user named a wrong directory, as opposed to one that does not work.
fn is_a_mistake(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

type Host = Option<Decision<String>>;

fn settled(place: &Where, environment: &Environment) -> Result<(Host, Source), ConfigError> {
    let settings = WorkspaceSettings::gather(&place.host, &place.source, environment)?;
    let path = settings.source.value;
    // It may be another directory than the tested one, further up and on another file system.
    let source = match facts::responds(&path, LIMIT) {
        Ok(()) => Source {
            no_answer: None,
            file_system: facts::file_system(&path),
            case: facts::folds_case(&path).ok().flatten(),
            path,
        },
        Err(no_answer) => silent(path, &no_answer),
    };
    Ok((settings.host, source))
}

/// The engine's address, from places other than a `fastbuild.toml` that cannot be read.
fn host_alone(place: &Where, environment: &Environment) -> Result<Host, ConfigError> {
    let root = environment.cwd.ancestors().last().unwrap_or(Path::new("/")).to_owned();
    let elsewhere = Environment { cwd: root.clone(), ..environment.clone() };
    WorkspaceSettings::gather(&place.host, &Some(root), &elsewhere).map(|settings| settings.host)
}

fn silent(path: PathBuf, no_answer: &NoAnswer) -> Source {
    Source {
        no_answer: Some(sentence(no_answer)),
        file_system: no_answer.file_system().cloned(),
        case: None,
        path,
    }
}

/// An error and its causes.
fn sentence(error: &(dyn Error + 'static)) -> String {
    let Failure { message, causes, .. } = Failure::new(error, None);
    [vec![message], causes].concat().join(": ")
}

async fn engine(host: Option<&Decision<String>>, environment: &Environment, machine: &Machine) -> Engine {
    let endpoint = match plan::decide_endpoint(host, environment) {
        Ok(decision) => decision.value,
        Err(error) => return Engine::None { address: None, why: sentence(&error), advice: None },
    };
    let address = endpoint.to_string();
    let late = || EngineError::NoAnswer { address: address.clone(), waited: LIMIT };
    let docker = match timeout(LIMIT, Docker::connect(&endpoint)).await.unwrap_or_else(|_| Err(late())) {
        Ok(docker) => docker,
        Err(error) => {
            let (why, advice) = (sentence(&error), error.advice());
            return Engine::None { address: Some(address), why, advice };
        }
    };
    let greeting = docker.facts().clone();
    match timeout(LIMIT, docker.info()).await.unwrap_or_else(|_| Err(late())) {
        Ok(info) => {
            let whereabouts = info.whereabouts(&endpoint, machine);
            Engine::There { address, greeting, info: Box::new(info), whereabouts }
        }
        Err(error) => Engine::Taciturn { address, greeting, why: sentence(&error) },
    }
}

fn rooms(engine: &Engine, source: &Source, environment: &Environment) -> Vec<Room> {
    let of_engine = match engine {
        // On another machine, this path is another directory.
        Engine::There { info, whereabouts: Whereabouts::Here, .. } => Some(PathBuf::from(&info.root_dir)),
        Engine::None { .. } | Engine::Taciturn { .. } | Engine::There { .. } => None,
    };
    let of_state = environment.state_dir().ok().and_then(|dir| nearest(&dir));
    let of_source = source.no_answer.is_none().then(|| source.path.clone());
    let wanted = [(Needs::Engine, of_engine), (Needs::State, of_state), (Needs::Source, of_source)];
    wanted.into_iter().filter_map(|(what_for, path)| room(what_for, &path?)).collect()
}

/// The nearest directory that exists.
fn nearest(dir: &Path) -> Option<PathBuf> {
    dir.ancestors().find(|dir| dir.exists()).map(Path::to_owned)
}

fn room(what_for: Needs, path: &Path) -> Option<Room> {
    // Not every user may read an engine's directory, and not every system tells the space.
    let space = facts::space(path).ok().filter(|space| space.total > 0)?;
    Some(Room { what_for, path: path_text(path), space })
}
