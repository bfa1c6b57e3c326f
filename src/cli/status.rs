//! `fastbuild status`: what is known of this project now. [`crate::build::status`] looks it up; the
//! result goes to standard output.
//!
//! `--json` prints one object. New keys may be added; existing keys stay. Times are seconds since
//! 1970, sizes bytes, and what is not known is null:
//!
//! | key | what it holds |
//! |---|---|
//! | `source` | the source root |
//! | `engine` | `address`; of one that answers `name`, `version`, `api`; else `no_answer`, the reason |
//! | `workspaces[]` | `name`, `engine`, `image`, `state`, `size`, `last_used`, `held`, `held_at` |
//! | `last_build` | `began`, `command`, `exit_code`, `seconds` |
//! | `running[]` | `pid`, `command`, `since` of each run of this project |
//! | `tree` | `sources`, `products` (`files`, `bytes`); `added`, `changed`, `deleted` (`count`, `first`) |
//! | `tree_unknown` | why there is no `tree` |

use std::{cmp::min, time::Duration};

use super::{
    Failure, print, run, width,
    workspace::{
        Engine, Place,
        show::{self, ago, json},
        to_its_end,
    },
};
use crate::{
    args::{LookArgs, PlanFormat, RunArgs},
    build::{
        last::Last,
        status::{self, Paths, Status, Tree, Workspace},
    },
    entry::Amount,
    environment::Environment,
    report::events::path_text,
    state::Live,
    text::{
        numbers::{bytes, count, counted, seconds},
        one_line,
        table::facts,
    },
    workspace::saved_state::now,
};

/// Looks up and prints what is known of the project.
///
/// # Errors
/// When the settings are wrong, the source root does not answer, or the state directory or
/// standard output fails. An engine that does not answer is not an error.
pub fn run(args: &LookArgs) -> Result<(), Failure> {
    let environment = Environment::of_process().map_err(Failure::CurrentDirectory)?;
    run::await_root(&RunArgs { source: args.place.source.clone(), ..RunArgs::default() }, &environment)?;
    let status = to_its_end(async {
        let place = Place::of(&args.place).await?;
        let docker = match &place.docker {
            Engine::Answers(docker) => Ok(&**docker),
            Engine::IsSilent(why) => Err(&**why),
        };
        Ok(status::gather(docker, &place.engine, &place.state, place.source()).await?)
    })?;
    print(match args.format {
        PlanFormat::Json => json(&status),
        PlanFormat::Text => text(&status, now(), width()),
    })
}

fn text(status: &Status, now: u64, width: Option<usize>) -> String {
    let mut rows = vec![("project", path_text(&status.source)), ("engine", engine(&status.engine))];
    if status.workspaces.is_empty() {
        rows.push(("workspace", "none".to_owned()));
    }
    for workspace in &status.workspaces {
        rows.push(("workspace", title(workspace, now)));
        if let Some(held) = workspace.held {
            let at = workspace.held_at.map(|at| format!(" (measured {})", ago(at, now)));
            rows.push(("only there", format!("{}{}", show::held(held), at.unwrap_or_default())));
        }
    }
    rows.push((
        "last build",
        status.last_build.as_ref().map_or_else(|| "none is noted".to_owned(), |last| ended(last, now)),
    ));
    if status.running.is_empty() {
        rows.push(("running", "nothing".to_owned()));
    }
    rows.extend(status.running.iter().map(|live| ("running", goes_on(live, now))));
    match &status.tree {
        Some(tree) => rows.extend(here(tree)),
        None => rows.push(("here", format!("not known: {}", status.tree_unknown.as_deref().unwrap_or("-")))),
    }
    rows.iter_mut().for_each(|(_, value)| *value = one_line(value));
    facts(&rows, width)
}

fn engine(engine: &status::Engine) -> String {
    match (&engine.greeting, &engine.no_answer) {
        (_, Some(why)) => format!("none answers, so this is what this machine knows: {why}"),
        (Some(greeting), None) => {
            format!("{} {} (API {}) at {}", greeting.name, greeting.version, greeting.api, engine.address)
        }
        (None, None) => engine.address.clone(),
    }
}

fn title(workspace: &Workspace, now: u64) -> String {
    let state = match workspace.state.as_deref() {
        None => format!("state not known, on {}", workspace.engine),
        Some(state) => show::state(state).to_owned(),
    };
    let image = Some(&*workspace.image).filter(|image| !image.is_empty()).map(|image| format!(", {image}"));
    let size = workspace.size.map(|size| format!(", {}", bytes(size)));
    let (image, size) = (image.unwrap_or_default(), size.unwrap_or_default());
    format!("{state}{image}{size}, used {}: {}", ago(workspace.last_used, now), workspace.name)
}

fn ended(last: &Last, now: u64) -> String {
    let Last { command, exit_code, seconds: took, .. } = last;
    let took = Duration::try_from_secs_f64(*took).unwrap_or_default();
    format!("{}: {command}, exit code {exit_code} after {} s", ago(last.ended(), now), seconds(took))
}

fn goes_on(live: &Live, now: u64) -> String {
    let process = live.pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
    let since = (live.since > 0).then(|| format!(", began {}", ago(min(live.since, now), now)));
    format!("{process}, {}{}", live.command, since.unwrap_or_default())
}

fn here(tree: &Tree) -> [(&'static str, String); 5] {
    let amount = |Amount { files, bytes: size }| format!("{}, {}", counted(files, "file"), bytes(size));
    let paths = |paths: &Paths| match paths.first.len() as u64 {
        0 => "none since the last build".to_owned(),
        named => {
            let more = Some(paths.count - named).filter(|more| *more > 0);
            let more = more.map(|more| format!(" and {} more", count(more))).unwrap_or_default();
            format!("{}: {}{more}", counted(paths.count, "file"), paths.first.join(", "))
        }
    };
    [
        ("sources", amount(tree.sources)),
        ("products", amount(tree.products)),
        ("added", paths(&tree.added)),
        ("changed", paths(&tree.changed)),
        ("deleted", paths(&tree.deleted)),
    ]
}
