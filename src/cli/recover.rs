//! `fastbuild recover`: lists, puts back and removes the files that builds moved to the safe place.
//! The work is done in [`crate::outputs::safe::list`]; the output goes to standard output.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use super::{
    Failure, print, width,
    workspace::show::{ago, json},
};
use crate::{
    args::{ForgetArgs, GetArgs, ListFormat, MovedArgs, RecoverCommand},
    config::WorkspaceSettings,
    environment::Environment,
    outputs::{
        safe::{
            Place, Why,
            list::{self, Entry, InTheWay, Put, PutError},
        },
        target::Target,
    },
    report::events::path_text,
    state::{BY_HAND, Project, State, StateError, project_key},
    text::{
        numbers::{bytes, counted},
        one_line,
        table::{Column, Fit, listing},
    },
    tree::scan::STAGE_PREFIX,
    workspace::saved_state::now,
};

/// Runs the command.
///
/// # Errors
/// When the state or standard output fails, a word names nothing, or a file cannot be put back.
pub fn run(command: &RecoverCommand) -> Result<(), Failure> {
    let environment = Environment::of_process().map_err(Failure::CurrentDirectory)?;
    let state = State::open(environment.state_dir()?)?;
    match command {
        RecoverCommand::Ls(args) => ls(args, &environment, &state),
        RecoverCommand::Get(args) => get(args, &environment.cwd, &state),
        RecoverCommand::Rm(args) => rm(args, &environment, &state),
    }
}

/// An entry in the safe place of a project.
type Moved = (Project, Entry);

/// The entries of all these projects.
fn entries(projects: Vec<Project>) -> Result<Vec<Moved>, StateError> {
    let mut all = Vec::new();
    for project in projects {
        let entries = list::entries(&project)?;
        all.extend(entries.into_iter().map(|entry| (project.clone(), entry)));
    }
    all.sort_by_key(|(_, entry)| entry.moved);
    Ok(all)
}

fn of_this_project(
    source: &Option<PathBuf>,
    environment: &Environment,
    state: &State,
) -> Result<Vec<Moved>, Failure> {
    let settings = WorkspaceSettings::gather(&None, source, environment)?;
    let project = state.known_project(&project_key(&settings.source.value));
    Ok(entries(project.into_iter().collect())?)
}

/// The entries that each word names: the one with that name, else all from that path or below it.
fn named(words: &[impl AsRef<OsStr>], cwd: &Path, state: &State) -> Result<Vec<Moved>, Failure> {
    let all = entries(state.projects()?)?;
    let mut found = Vec::new();
    for word in words.iter().map(AsRef::as_ref) {
        let path = cwd.join(word);
        let path = match path.symlink_metadata() {
            Ok(there) if there.is_dir() => path.canonicalize().unwrap_or(path),
            _ => Target::named(&path).map_or(path, |target| target.root()),
        };
        let before = found.len();
        match all.iter().find(|(_, entry)| word == entry.id.as_str()) {
            Some(one) => found.push(one.clone()),
            None => found.extend(all.iter().filter(|(_, entry)| entry.path.starts_with(&path)).cloned()),
        }
        if found.len() == before {
            return Err(Failure::NotInSafePlace { word: word.to_owned() });
        }
    }
    Ok(found)
}

fn ls(args: &MovedArgs, environment: &Environment, state: &State) -> Result<(), Failure> {
    let mut all = match args.all {
        true => entries(state.projects()?)?,
        false => of_this_project(&args.source, environment, state)?,
    };
    all.reverse();
    let all: Vec<_> = all.iter().map(|(_, entry)| entry).collect();
    print(match args.format {
        ListFormat::Json => json(&all),
        ListFormat::Table | ListFormat::Names => table(&all, now(), width()),
    })
}

fn get(args: &GetArgs, cwd: &Path, state: &State) -> Result<(), Failure> {
    let found = named(&args.words, cwd, state)?;
    // For each path, the version that was moved last.
    let last: BTreeMap<_, _> = found.into_iter().map(|moved| (moved.1.path.clone(), moved)).collect();
    if args.to.is_some() && last.len() > 1 {
        return Err(Failure::SeveralToOne { count: last.len() });
    }
    for (path, (project, entry)) in last {
        let (to, way) = match &args.to {
            Some(to) => (place_for(&path, &cwd.join(to))?, InTheWay::Stays),
            None => (path, InTheWay::Moves),
        };
        let _alone = project.sources().lock()?;
        let run = state.begin_run(&project, BY_HAND)?;
        let stage = to.with_file_name(format!("{STAGE_PREFIX}{}-0", run.id));
        run.note_stage(&stage)?;
        let put = entry.put(&to, stage, way, &Place::of(&project, &run.id));
        run.finish();
        print(format!(
            "put back {}{}\n",
            path_text(&to),
            match put? {
                Put::Alone => "",
                Put::InPlaceOf => "; what was there is in the safe place now",
                Put::WasThere => ": the same was there",
            }
        ))?;
    }
    Ok(())
}

/// The destination with `--to` of the entry from `path`, as for `cp`.
fn place_for(path: &Path, to: &Path) -> Result<PathBuf, PutError> {
    let into = if to.is_dir() { to.join(path.file_name().unwrap_or_default()) } else { to.to_owned() };
    // The user chose the directories, including links on the way.
    Target::named(&into).map(|target| target.root()).map_err(|_| PutError::LeadsElsewhere(into))
}

fn rm(args: &ForgetArgs, environment: &Environment, state: &State) -> Result<(), Failure> {
    let going = match args.all {
        true => of_this_project(&args.source, environment, state)?,
        false => named(&args.words, &environment.cwd, state)?,
    };
    let mut freed = 0;
    for (_, entry) in &going {
        entry.remove().map_err(StateError::at("remove", &entry.place))?;
        freed += entry.bytes;
        print(format!("removed {} {}\n", entry.id, path_text(&entry.path)))?;
    }
    print(format!("{}, {}\n", counted(going.len() as u64, "thing"), bytes(freed)))
}

const COLUMNS: [Column; 6] = [
    Column { heading: "ID", fit: Fit::Whole },
    Column { heading: "MOVED", fit: Fit::Spare(1) },
    Column { heading: "SIZE", fit: Fit::Spare(2) },
    Column { heading: "WHY", fit: Fit::Spare(3) },
    Column { heading: "COMMAND", fit: Fit::Spare(4) },
    Column { heading: "PATH", fit: Fit::Path },
];

fn table(all: &[&Entry], now: u64, width: Option<usize>) -> String {
    let rows = all.iter().map(|entry| {
        let why = entry.why.map_or("not known", reason);
        let command = entry.command.as_deref().map_or_else(|| "-".to_owned(), one_line);
        let moved = ago(entry.moved.secs.try_into().unwrap_or(0), now);
        [entry.id.clone(), moved, bytes(entry.bytes), why.to_owned(), command, path_text(&entry.path)]
    });
    listing(&COLUMNS, &rows.collect::<Vec<_>>(), width)
}

fn reason(why: Why) -> &'static str {
    match why {
        Why::Replaced => "a build replaced it",
        Why::Deleted => "a build deleted it",
        Why::ChangedMeanwhile => "changed here during a build",
        Why::GaveWay => "gave way to another version",
    }
}
