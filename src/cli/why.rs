//! `fastbuild why PATH`: what builds do with a path, by which rule, and when it last went up and
//! came back. No engine is asked.

use std::path::Path;

use serde::Serialize;

use super::{
    Failure, print, run, width,
    workspace::show::{ago, json},
};
use crate::{
    args::{PlanFormat, WhyArgs},
    build::history::{self, Named, Travel},
    entry::{RelPath, Timestamp},
    environment::Environment,
    outputs::{record::Record, target::Target},
    plan::{
        Outputs, Plan,
        standing::{Back, NoSource, Standing, standing},
    },
    report::events::path_text,
    spec::PatternKind,
    state::{State, StateError, project_key},
    sys::source_file,
    text::{
        numbers::{bytes, count},
        one_line,
        table::facts,
    },
    workspace::saved_state::now,
};

/// The known data about one path.
#[derive(Debug, Serialize)]
struct Known {
    path: String,
    kind: &'static str,
    because: String,
    here: String,
    /// The last transfers or deletion: the time in seconds since 1970, and the build's command.
    #[serde(skip_serializing_if = "Option::is_none")]
    went_up: Option<Trip>,
    #[serde(skip_serializing_if = "Option::is_none")]
    came_back: Option<Trip>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<Trip>,
}

#[derive(Debug, Serialize)]
struct Trip {
    at: i64,
    command: String,
    /// When the path itself was not recorded: how many paths were not recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    among: Option<u64>,
}

/// Prints the known data about each path.
///
/// # Errors
/// Any failure to decide about the paths, or to print the result.
pub fn run(args: &WhyArgs) -> Result<(), Failure> {
    let environment = Environment::of_process().map_err(Failure::CurrentDirectory)?;
    let (_, plan) = run::decide(&args.as_run(), &environment)?;
    let state = State::open(environment.state_dir()?)?;
    let paths = args.paths.iter().map(|path| look(&environment.cwd.join(path), &plan, &state));
    let known = paths.collect::<Result<Vec<_>, _>>()?;
    print(match args.format {
        PlanFormat::Json => json(&known),
        PlanFormat::Text => known.iter().map(|known| known.text(width())).collect::<Vec<_>>().join("\n"),
    })
}

fn look(path: &Path, plan: &Plan, state: &State) -> Result<Known, Failure> {
    let source = &plan.source.value;
    // Links in the directory's path are resolved. A link at the path itself is not.
    let path = match path.canonicalize() {
        Ok(directory) if path.symlink_metadata().is_ok_and(|found| found.is_dir()) => directory,
        _ => Target::named(path).map_or_else(|_| path.to_owned(), |target| target.root()),
    };
    let below =
        path.strip_prefix(source).ok().map(|below| RelPath::new(below.as_os_str().as_encoded_bytes()));
    let (kind, because) = match below {
        Some(Ok(below)) => kind(&standing(&below, plan), plan),
        _ => ("outside", format!("it does not lie in the source root, {}", path_text(source))),
    };
    let project = state.known_project(&project_key(source));
    let trip = |travel| {
        let Some(project) = &project else { return Ok(None) };
        let last = history::last(project, source, &path, travel);
        let trip = last.map_err(StateError::at("read", &project.history_path()))?.map(|trip| Trip {
            at: trip.at.secs,
            command: trip.command,
            among: match trip.named {
                Named::Itself => None,
                Named::Among(others) => Some(others),
            },
        });
        Ok::<_, StateError>(trip)
    };
    let record = project.as_ref().map(|project| Record::load(&project.record_path())).unwrap_or_default();
    Ok(Known {
        kind,
        because,
        here: here(&path, &record),
        went_up: trip(Travel::Up)?,
        came_back: trip(Travel::Down)?,
        deleted: trip(Travel::Deleted)?,
        path: path_text(&path),
    })
}

/// A word and a sentence.
fn kind(standing: &Standing<'_>, plan: &Plan) -> (&'static str, String) {
    match standing {
        Standing::Mounted => ("mounted", format!("--route {} has the source tree itself", plan.route.value)),
        Standing::LeftOut(what) => {
            let why = match what {
                NoSource::Cache => "it is a cache, with storage of its own",
                NoSource::OutputsPlace => "what comes back from elsewhere is put there, and never goes up",
                NoSource::Own => "it is fastbuild's own",
                NoSource::GitLock => "it is a lock of git's, for this machine alone",
            };
            ("left out", why.to_owned())
        }
        Standing::Stays(pattern) => {
            let (kind, what) = match pattern.value.kind {
                PatternKind::Kept => ("kept", "what lies here and in the workspace stays, each for itself"),
                PatternKind::Excluded => ("excluded", "it neither goes up nor comes back"),
            };
            (kind, format!("{} ({}): {what}", pattern.value.text, pattern.reason))
        }
        Standing::Synced(back) => {
            let back = match back {
                Back::All => "and all that the command changes comes back".to_owned(),
                Back::With(output) => format!("and comes back with the output {}", output.spec),
                Back::No => format!("and lies beside what comes back: {}", specs(&plan.outputs.value)),
            };
            ("synced", format!("it goes up, {back} ({})", plan.outputs.reason))
        }
    }
}

fn specs(outputs: &Outputs) -> String {
    match outputs {
        Outputs::Everything => "everything".to_owned(),
        Outputs::Named(named) => named.iter().map(|output| &*output.spec).collect::<Vec<_>>().join(", "),
    }
}

/// The file's state on the host, and who wrote it.
fn here(path: &Path, record: &Record) -> String {
    let (Ok(found), Ok(facts)) = (path.symlink_metadata(), source_file::facts_at(path)) else {
        return "nothing".to_owned();
    };
    let what = match found.file_type() {
        kind if kind.is_dir() => return "a directory".to_owned(),
        kind if kind.is_symlink() => "a symbolic link".to_owned(),
        kind if kind.is_file() => format!("a file of {}", bytes(found.len())),
        _ => return "nothing that travels".to_owned(),
    };
    let whose = match record.get(path) {
        None => "no build wrote it",
        Some(written) if written.stamp == facts.stamp => "as a build wrote it",
        Some(_) => "changed since a build wrote it",
    };
    format!("{what}, changed {}; {whose}", when(facts.stamp.mtime))
}

fn when(moment: Timestamp) -> String {
    ago(moment.secs.try_into().unwrap_or(0), now())
}

impl Known {
    fn text(&self, width: Option<usize>) -> String {
        let trip = |trip: &Option<Trip>| match trip {
            None => "never, as far as is known".to_owned(),
            Some(Trip { at, command, among }) => {
                let at = ago((*at).try_into().unwrap_or(0), now());
                let among =
                    among.map(|others| format!(", perhaps: one of {} that are not noted", count(others)));
                format!("{at}, by {}{}", one_line(command), among.unwrap_or_default())
            }
        };
        let mut rows = vec![
            ("  kind", format!("{}: {}", self.kind, one_line(&self.because))),
            ("  here", self.here.clone()),
            ("  went up", trip(&self.went_up)),
            ("  came back", trip(&self.came_back)),
        ];
        if self.deleted.is_some() {
            rows.push(("  deleted", trip(&self.deleted)));
        }
        format!("{}\n{}", self.path, facts(&rows, width))
    }
}
