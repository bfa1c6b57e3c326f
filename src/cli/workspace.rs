//! `fastbuild workspace`: lists, shows and removes kept workspaces on an engine. The work is done
//! in [`crate::workspace::list`]; the output goes to standard output.

mod select;
pub(super) mod show;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use self::select::{here, named};
use super::{Failure, print, run::execute, width};
use crate::{
    agent::protocol::Cleaned,
    args::{
        Caches, CleanArgs, Earnest, InspectArgs, ListFormat, LsArgs, PlanFormat, PruneArgs, RmArgs,
        ShellArgs, UnkeepArgs, Where, WorkspaceCommand,
    },
    build::{
        BuildError, Exit,
        shell::{self, Done, Errand, Shell},
    },
    config::{Log, Presentation, WorkspaceSettings},
    engine::{Docker, Sizes, labels},
    entry::host_path,
    environment::Environment,
    plan,
    report::{Reporter, Verbosity},
    spec::{Decision, Endpoint, Progress, Terminal, WorkspacePlan},
    state::State,
    text::{numbers, one_line},
    workspace::{
        Generation, WorkspaceError, auto_prune,
        list::{self, Limits, Listed, Outlived, Owner, Removal, Unused},
        saved_state::now,
    },
};

/// Runs the command; returns how to end.
///
/// # Errors
/// When the engine, the state directory or standard output fails, when a workspace does not exist,
/// and when one that is to be removed is in use.
pub fn run(command: &WorkspaceCommand) -> Result<Exit, Failure> {
    match command {
        WorkspaceCommand::Ls(args) => to_its_end(ls(args)).map(|()| Exit::Code(0)),
        WorkspaceCommand::Inspect(args) => to_its_end(inspect(args)).map(|()| Exit::Code(0)),
        WorkspaceCommand::Shell(args) => shell(args),
        WorkspaceCommand::Unkeep(args) => unkeep(args),
        WorkspaceCommand::Rm(args) => to_its_end(rm(args)).map(|()| Exit::Code(0)),
        WorkspaceCommand::Prune(args) => to_its_end(prune(args)).map(|()| Exit::Code(0)),
    }
}

pub(super) fn to_its_end<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    runtime.block_on(work)
}

/// This machine, and an engine with workspaces on it.
pub(super) struct Place {
    pub(super) docker: Engine,
    pub(super) state: State,
    endpoint: Endpoint,
    pub(super) engine: String,
    settings: WorkspaceSettings,
}

/// See [`Place::docker`].
pub(super) enum Engine {
    Answers(Box<Docker>),
    /// The engine does not answer; this is the error text.
    IsSilent(String),
}

impl Place {
    pub(super) async fn of(place: &Where) -> Result<Place, Failure> {
        let environment = Environment::of_process().map_err(Failure::CurrentDirectory)?;
        let settings = WorkspaceSettings::gather(&place.host, &place.source, &environment)?;
        let endpoint = plan::decide_endpoint(settings.host.as_ref(), &environment)?.value;
        let state = State::open(environment.state_dir()?)?;
        let docker = match Docker::connect(&endpoint).await {
            Ok(docker) => Engine::Answers(Box::new(docker)),
            Err(error) => Engine::IsSilent(error.to_string()),
        };
        Ok(Place { docker, state, engine: endpoint.to_string(), endpoint, settings })
    }

    /// The engine, for operations that need it.
    async fn docker(&self) -> Result<Docker, WorkspaceError> {
        match &self.docker {
            Engine::Answers(docker) => Ok((**docker).clone()),
            Engine::IsSilent(_) => Ok(Docker::connect(&self.endpoint).await?),
        }
    }

    /// The workspaces of the engine and of this machine. If the engine does not answer, this is an
    /// error when this machine has none, else a note beside the list.
    async fn list(&self, sizes: Sizes) -> Result<Vec<Listed>, Failure> {
        let state = self.state.clone();
        let listing = tokio::task::spawn_blocking(move || list::list_here(&state, sizes));
        let here = listing.await.map_err(|_| BuildError::Panicked)??;
        if let Engine::IsSilent(why) = &self.docker
            && !here.is_empty()
        {
            note(&format!("without those on {}: {why}", self.engine));
            return Ok(here);
        }
        let docker = self.docker().await?;
        let mut all = list::list(&docker, &self.state, &self.engine, sizes).await?;
        if matches!(sizes, Sizes::Measure) {
            list::weigh(&docker, &self.state, &self.engine, &mut all).await;
        }
        all.extend(here);
        Ok(all)
    }

    /// Removes one of the listed workspaces.
    async fn remove(&self, listed: &Listed) -> Result<Removal, WorkspaceError> {
        match &listed.place {
            list::Place::Container(_) => {
                list::remove(&self.docker().await?, &self.state, &self.engine, listed).await
            }
            list::Place::Directory(_) => list::remove_here(&self.state, listed),
        }
    }

    /// The volumes without a container. If the engine does not answer, [`Place::list`] reported it.
    async fn unused_volumes(&self, caches: Caches) -> Result<Vec<Unused>, WorkspaceError> {
        match &self.docker {
            Engine::Answers(docker) => list::unused_volumes(docker, &self.state, caches).await,
            Engine::IsSilent(_) => Ok(Vec::new()),
        }
    }

    pub(super) fn source(&self) -> &Path {
        &self.settings.source.value
    }

    /// This project's workspaces on the engine and on this machine, at least one.
    fn here<'a>(&self, all: &'a [Listed]) -> Result<Vec<&'a Listed>, Failure> {
        at_least_one(here(all, self.source())).ok_or_else(|| {
            let source_root = self.source().to_owned();
            BuildError::NoWorkspace { source_root, engine: self.engine.clone() }.into()
        })
    }

    /// The workspaces that a word names, at least one.
    fn named<'a>(&self, all: &'a [Listed], word: &std::ffi::OsStr) -> Result<Vec<&'a Listed>, Failure> {
        at_least_one(named(all, word, &self.settings.started_in))
            .ok_or_else(|| Failure::NoSuchWorkspace { word: word.to_owned() })
    }
}

fn at_least_one<T>(found: Vec<T>) -> Option<Vec<T>> {
    Some(found).filter(|found| !found.is_empty())
}

/// Runs a shell or a command in this project's workspace; returns how to end.
fn shell(args: &ShellArgs) -> Result<Exit, Failure> {
    by_hand(&args.place, args.user.clone(), |_, environment| {
        let terminal = if environment.terminals.is_ours() { Terminal::Allocate } else { Terminal::None };
        Errand::Command { command: args.command.clone(), terminal }
    })
}

/// Removes the files that only this project's workspace has.
///
/// # Errors
/// As [`run`].
pub fn clean(args: &CleanArgs) -> Result<Exit, Failure> {
    by_hand(&args.place, None, |settings, _| {
        let below =
            |path: &PathBuf| host_path::below(&settings.source.value, &settings.started_in.join(path));
        Errand::Clean(args.paths.iter().map(below).collect())
    })
}

fn unkeep(args: &UnkeepArgs) -> Result<Exit, Failure> {
    by_hand(&args.place, None, |_, _| Errand::Unkeep(args.patterns.clone()))
}

/// Runs an action in the workspace that was used last; returns how to end.
fn by_hand(
    place: &Where,
    user: Option<String>,
    errand: impl FnOnce(&WorkspaceSettings, &Environment) -> Errand,
) -> Result<Exit, Failure> {
    let environment = Environment::of_process().map_err(Failure::CurrentDirectory)?;
    let settings = WorkspaceSettings::gather(&place.host, &place.source, &environment)?;
    let shell = Shell {
        engine: plan::decide_endpoint(settings.host.as_ref(), &environment)?.value,
        subdirectory: host_path::below(&settings.source.value, &settings.started_in),
        errand: errand(&settings, &environment),
        source: settings.source.value,
        user,
    };
    let presentation = Presentation {
        progress: Decision::default(Progress::None, "the shell has the screen"),
        verbosity: Verbosity::Normal,
        log: Log::Off,
    };
    let mut said = String::new();
    let work = async |state: &State, reporter: &Reporter| {
        Ok(match shell::run(&shell, state, reporter).await? {
            Done::Exit(exit) => exit,
            Done::Cleaned(Cleaned { files, bytes }) => {
                let what = numbers::counted(files, "path");
                said = format!("removed {what} with {}\n", numbers::bytes(bytes));
                Exit::Code(0)
            }
            Done::Unkept(patterns) => {
                said = patterns.iter().map(|pattern| format!("{pattern} is kept no longer\n")).collect();
                Exit::Code(0)
            }
        })
    };
    let exit = execute(&presentation, &environment, work)?;
    print(said)?;
    Ok(exit)
}

async fn ls(args: &LsArgs) -> Result<(), Failure> {
    let place = Place::of(&args.place).await?;
    let sizes = if args.format() == ListFormat::Names { Sizes::Skip } else { Sizes::Measure };
    let all = place.list(sizes).await?;
    print(match args.format() {
        ListFormat::Table => show::table(&all, &here(&all, place.source()), now(), width()),
        ListFormat::Json => show::json_list(&all),
        ListFormat::Names => all.iter().map(|workspace| format!("{}\n", workspace.name)).collect(),
    })
}

async fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let place = Place::of(&args.place).await?;
    let all = place.list(Sizes::Measure).await?;
    let found = match &args.workspace {
        Some(word) => place.named(&all, word)?,
        None => place.here(&all)?,
    };
    // With two workspaces, a user who means the other one names it.
    let Some(listed) = found.first() else { return Ok(()) };
    let found = match &listed.place {
        list::Place::Container(container) => {
            place.docker().await?.look(container.as_str()).await.map_err(WorkspaceError::from)?
        }
        list::Place::Directory(_) => None,
    };
    let made_with = found
        .as_ref()
        .and_then(|found| found.labels.get(labels::GENERATION))
        .and_then(|label| Generation::from_label(label));
    let facts = show::Facts {
        listed,
        started: found.as_ref().map(|found| found.started_at.as_str()),
        made_with: made_with.as_ref(),
    };
    print(match args.format {
        PlanFormat::Text => facts.text(now(), width()),
        PlanFormat::Json => facts.json(),
    })
}

async fn rm(args: &RmArgs) -> Result<(), Failure> {
    let place = Place::of(&args.place).await?;
    let all = place.list(Sizes::Skip).await?;
    let going: Vec<&Listed> = match (args.all, args.workspaces.as_slice()) {
        (true, _) => all.iter().filter(|listed| listed.owner == Owner::Here).collect(),
        (false, []) => place.here(&all)?,
        // All words are resolved before anything is removed.
        (false, words) => {
            let named = words.iter().map(|word| place.named(&all, word));
            named.collect::<Result<Vec<_>, _>>()?.concat()
        }
    };
    let mut in_use = Vec::new();
    for listed in going {
        match place.remove(listed).await? {
            Removal::Gone => print(format!("removed {}\n", show::title(listed)))?,
            Removal::Busy(holder) => in_use.push((listed.source.clone(), holder)),
        }
    }
    if in_use.is_empty() { Ok(()) } else { Err(Failure::InUse { in_use }) }
}

async fn prune(args: &PruneArgs) -> Result<(), Failure> {
    let place = Place::of(&args.place).await?;
    let limits = limits(args, &place.settings.limits);
    let sizes = if limits.total_size.is_some() { Sizes::Measure } else { Sizes::Skip };
    let all = place.list(sizes).await?;
    let going = if args.all {
        let own = all.iter().filter(|listed| listed.owner == Owner::Here);
        own.map(|listed| (listed, None)).collect()
    } else {
        let going = list::to_go(&all, &limits, now()).into_iter();
        going.map(|(at, why)| (&all[at], Some(why))).collect::<Vec<_>>()
    };
    let unused = place.unused_volumes(args.caches).await?;
    if let (Earnest::Removing, Engine::Answers(docker)) = (args.earnest, &place.docker) {
        list::remove_never_started(docker).await;
    }
    if going.is_empty() && unused.is_empty() {
        return print("nothing to remove\n");
    }
    let mut failed = None;
    for (listed, why) in going {
        let about = format!("{}{}", show::title(listed), why.map(reason).unwrap_or_default());
        if args.earnest == Earnest::DryRun {
            print(format!("would remove {about}\n"))?;
            continue;
        }
        match place.remove(listed).await {
            Ok(Removal::Gone) => print(format!("removed {about}\n"))?,
            Ok(Removal::Busy(_)) => print(format!("left {}: it is in use\n", show::title(listed)))?,
            // The others can be removed all the same.
            Err(error) => failed = Some(error),
        }
    }
    for volume in &unused {
        let title = show::volume(volume);
        if args.earnest == Earnest::DryRun {
            print(format!("would remove {title}\n"))?;
            continue;
        }
        match list::remove_unused(&place.docker().await?, &place.state, volume).await {
            Ok(Removal::Gone) => print(format!("removed {title}\n"))?,
            Ok(Removal::Busy(_)) => print(format!("left {title}: it is in use\n"))?,
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// The limits of the command line; if it has none, the automatic limits of the settings.
fn limits(args: &PruneArgs, automatic: &WorkspacePlan) -> Limits {
    match (args.older_than, args.max_size) {
        (None, None) => auto_prune::limits(automatic),
        (older_than, total_size) => Limits { older_than, total_size },
    }
}

fn reason(why: Outlived) -> String {
    match why {
        Outlived::Age(age) => {
            format!(", not used for {}", numbers::rough(Duration::from_secs(age.as_secs())))
        }
        Outlived::Size => ", for all of them hold too much".to_owned(),
    }
}

/// Output that is not part of the answer. A closed standard error is not a failure.
fn note(text: &str) {
    let _ = writeln!(io::stderr(), "fastbuild: note: {}", one_line(text));
}
