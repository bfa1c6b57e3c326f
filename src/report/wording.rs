//! Facts -> sentences. Pure, and the only module with product text for events.
//!
//! Sentences come without the prefix `fastbuild: ` and without a line end. Names in them are
//! escaped by [`RelPath`]'s own `Display` or by [`path_text`]. Renderers pass the whole text
//! through [`text`](crate::text) again, which escapes the engine's messages.

use std::{
    mem::{Discriminant, discriminant},
    time::Duration,
};

use super::{
    Verbosity,
    events::{
        Applied, Changed, Direction, Earlier, Event, Failure, Holding, Limit, MadeBecause, Noticing, Phase,
        Reached, Special, Stands, WaitsFor, Warning, Why, path_text,
    },
};
use crate::{
    entry::{Amount, RelPath},
    spec::{Fallback, Route},
    text::{
        indented,
        numbers::{self, bytes, count, counted, counted_as, fine_seconds, seconds},
        one_line, shell_words, wrap,
    },
};

/// A failed command's products stay in the workspace: a part of the summary.
const LEFT: &str = "products not brought back (--outputs-on-failure brings them)";

/// The least and the most columns of a command in the summary; a terminal may have room for more.
const COMMAND: (usize, usize) = (20, 60);

/// The sentence of a warning.
pub fn sentence(warning: &Warning) -> String {
    match warning {
        Warning::BuildsHere { why } => {
            format!(
                "this build runs on this machine, without a container: {why}; --engine docker insists on one"
            )
        }
        Warning::InputWaiting => {
            "standard input has bytes waiting that the command does not get; --stdin hands them over"
                .to_owned()
        }
        Warning::NotFoundAgain => {
            "a CI job with a home directory of its own will not find this workspace again; name = \"…\" in \
                                   fastbuild.toml lets it be found by that name"
                .to_owned()
        }
        Warning::Meant { hint } => hint.clone(),
        Warning::DockerignoreNotRead(Amount { files, bytes: size }) => format!(
            ".dockerignore is written for images and is not read: {} of what it names ({}) went in; `cp .dockerignore \
             .fastbuildignore` leaves it out here too",
            counted_as(*files, "entry", "entries"),
            bytes(*size)
        ),
        Warning::KeptHere { paths } => {
            let paths: Vec<_> = paths.iter().map(RelPath::to_string).collect();
            format!(
                "{} here {} this machine's own: the build has another one, which is kept in the workspace; neither is copied",
                paths.join(", "),
                if paths.len() == 1 { "is" } else { "are" }
            )
        }
        Warning::Skipped { path, special } => format!("{path} is a {}; it was not sent", kind(*special)),
        Warning::ReadOnlySources { path, line } => {
            let what = path.as_ref().map_or_else(|| "something".to_owned(), RelPath::to_string);
            format!(
                "the command could not write {what}, for the sources are mounted read-only ({line}); -o names \
                 the directory of an output, --keep-path one that is the build's own; --route layer or mount lets it write anywhere"
            )
        }
        Warning::Vanished { path } => format!("{path} was deleted while it was being read; it was not sent"),
        Warning::Unstable { path } => {
            format!("{path} kept changing while it was sent; the build may have seen an unfinished version")
        }
        Warning::SpecialOutput { path, special } => {
            format!("{path} is a {} among the build's products; it was not brought back", kind(*special))
        }
        Warning::Conflict { path, stands: Stands::Host } => format!(
            "{} was changed here while the build ran; it stays, and the build's version is in the safe place",
            path_text(path)
        ),
        Warning::Conflict { path, stands: Stands::Build } => format!(
            "{} was changed here while the build ran; the build's version stands, and the other is in the safe place",
            path_text(path)
        ),
        Warning::GitLocked { repository, lock, paths } => format!(
            "git is at work here ({}), so {} that the command changed in {} did not come back; when it is done (or the lock \
             is removed, if no git runs), `fastbuild recover get {}` brings the files",
            path_text(lock),
            counted(*paths, "path"),
            path_text(repository),
            shell_words(&[path_text(repository)]),
        ),
        Warning::StillKept { names } => format!(
            "the workspace still keeps {}, which this build does not name; `fastbuild workspace unkeep` ends that",
            names.join(", ")
        ),
        Warning::ClocksDiffer { seconds } => format!(
            "the clock where the build runs is {} {} this machine's; files that come back have this machine's time",
            counted(seconds.unsigned_abs(), "second"),
            if *seconds > 0 { "ahead of" } else { "behind" }
        ),
        Warning::Beside { changed, more, made } => beside(changed, *more, made),
        Warning::NotWritable { path } => format!(
            "{} may not be written by this user: what the command changes goes to the safe place, and is an error then",
            path_text(path)
        ),
        Warning::Displaced { files, to, .. } => format!(
            "{} gave way and {} now in the safe place, {}",
            counted(*files, "file"),
            if *files == 1 { "is" } else { "are" },
            path_text(to)
        ),
        Warning::ModesRefused { paths } => format!(
            "{} another mode than in the build: the file system or the owner does not allow the change",
            counted_as(*paths, "product has", "products have")
        ),
        Warning::LeftoverRemoved { container } => {
            format!("container {container} was left by an earlier run that was killed; it was removed")
        }
        Warning::OutOfMemory { limit: Some(limit) } => format!(
            "the command was killed because it used more memory than its limit of {}; --memory raises it",
            bytes(*limit)
        ),
        Warning::OutOfMemory { limit: None } => {
            "the command was killed because the engine's machine ran out of memory".to_owned()
        }
        Warning::Recovered { files, lost: 0 } => format!(
            "an earlier run was cut short while it put its products in place; {} put in place now",
            were(*files)
        ),
        Warning::Recovered { files, lost } => format!(
            "an earlier run was cut short while it put its products in place; {} put in place now, {lost} could not \
             be; build again to get them",
            were(*files),
            lost = count(*lost)
        ),
        Warning::StageKept { path } => format!(
            "an earlier run was cut short while it put its products in place, and its journal cannot be read; what it \
             held is in {}: look whether a file of yours is among it, then remove it",
            path_text(path)
        ),
        Warning::Signalled { signal } => format!("{signal} was sent to the build"),
        Warning::OutputsLeft => LEFT.to_owned(),
        Warning::NotTold { why } => {
            format!("the system does not tell of changes: {why}; fastbuild looks once a second instead")
        }
        Warning::Circle { path } => format!(
            "{path} comes from another watch, and what it is made from comes from this one: they have built three times in \
             a row without an edit of yours; this one waits for one"
        ),
        Warning::OtherProject => {
            "another project lies at this path now: hardly a file of what was sent last is left. It gets a workspace of its own".to_owned()
        }
        Warning::NotRemoved { container, why } => {
            format!("container {container} could not be removed: {why}; the next run tries again")
        }
    }
}

fn were(files: u64) -> String {
    format!("{} {}", counted(files, "path"), if files == 1 { "was" } else { "were" })
}

/// The changes that no output brings back, and what to do about them.
fn beside(changed: &[RelPath], more: u64, made: &[RelPath]) -> String {
    let names = |paths: &[RelPath]| paths.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    let changed = (!changed.is_empty()).then(|| {
        format!(
            "the command changed {}{rest}, which no output brings back: the next build starts with what is here; name it \
             with -o, or leave -o out, to have it",
            names(changed)
        )
    });
    let made = (!made.is_empty()).then(|| {
        format!(
            "new in the workspace, and brought back by no output: {}; the next builds find it there",
            names(made)
        )
    });
    changed.into_iter().chain(made).collect::<Vec<_>>().join("; ")
}

fn kind(special: Special) -> &'static str {
    match special {
        Special::Socket => "socket",
        Special::Fifo => "named pipe",
        Special::Device => "device",
    }
}

/// The activity of fastbuild in a phase.
pub fn doing(phase: Phase) -> &'static str {
    match phase {
        Phase::Scan => "scanning",
        Phase::Pull => "pulling the image",
        Phase::Create => "creating the container",
        Phase::Workspace => "preparing the workspace",
        Phase::Compare => "comparing",
        Phase::Upload => "uploading",
        Phase::Start => "starting the command",
        Phase::Build => "building",
        Phase::Collect => "collecting",
        Phase::Apply => "putting products in place",
        Phase::Remove => "removing the container",
    }
}

/// A phase's word in the summary.
pub fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Scan => "scan",
        Phase::Pull => "pull",
        Phase::Create => "create",
        Phase::Workspace => "workspace",
        Phase::Compare => "compare",
        Phase::Upload => "upload",
        Phase::Start => "start",
        Phase::Build => "build",
        Phase::Collect => "collect",
        Phase::Apply => "apply",
        Phase::Remove => "remove",
    }
}

/// `2,003 files, 20.1 MB`. A zero part is left out; if both are zero, the text is empty.
pub fn amount(amount: Amount) -> String {
    progress(amount, None)
}

/// `1,203 of 2,003 files, 12.0 MB of 20.1 MB`; without a total, as [`amount`].
pub fn progress(done: Amount, total: Option<Amount>) -> String {
    join(progress_parts(done, total).map(|part| Some(part).filter(|part| !part.is_empty())))
}

/// Files and bytes of [`progress`]; what is not known is empty.
pub fn progress_parts(done: Amount, total: Option<Amount>) -> [String; 2] {
    let part = |is_told: bool, text: String| if is_told { text } else { String::new() };
    match total {
        None => [part(done.files > 0, counted(done.files, "file")), part(done.bytes > 0, bytes(done.bytes))],
        Some(total) => [
            part(total.files > 0, format!("{} of {}", count(done.files), counted(total.files, "file"))),
            part(total.bytes > 0, format!("{} of {}", bytes(done.bytes), bytes(total.bytes))),
        ],
    }
}

/// Lines about an event, ready to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// While the run lasts.
    Said(String),
    /// At the end of a run.
    Last {
        /// The lines.
        lines: String,
        /// How fastbuild ends.
        exit_code: u8,
    },
}

/// The line of `-v` before anything is changed.
fn planned(
    image: Option<&str>,
    engine: &str,
    route: Route,
    because: &str,
    source: &std::path::Path,
    command: &[String],
) -> String {
    let place = image.map_or_else(|| "on this machine".to_owned(), |image| format!("in {image} on {engine}"));
    let (command, source) = (command.join(" "), path_text(source));
    format!("running {command} {place}, sources from {source}, route {route} ({because})")
}

/// A failure that the command did not cause.
fn mount_failed(route: Route, exit_code: u8, path: &RelPath, line: &str, then: Fallback) -> String {
    let then = match then {
        Fallback::Layer => "it runs once more, on route layer",
        Fallback::None => {
            "--fallback runs it once more without the mount, --route layer does without one from the start"
        }
    };
    format!(
        "the command failed (exit {exit_code}) at {path} by a defect of the mount (route {route}): {line}; {then}"
    )
}

/// The end of a summary of a run that had another run before it.
fn before(earlier: Option<Earlier>) -> String {
    let tell = |Earlier { route, exit_code, took }| {
        format!("; before that, route {route} had failed it (exit {exit_code}) after {} s", seconds(took))
    };
    earlier.map(tell).unwrap_or_default()
}

/// Why the run waits.
fn waiting(pid: u32, command: &str, holder: Holding) -> String {
    match holder {
        Holding::Runs => format!("waiting for another run in this project to end: process {pid}, {command}"),
        Holding::IsStopped => format!(
            "waiting for another run in this project, which is stopped by Ctrl-Z (pid {pid}): {command}; `fg` in its shell \
             takes it up, and so does `kill -CONT {pid}`"
        ),
    }
}

/// Why two runs cannot run at the same time.
fn side_by_side(why: &WaitsFor) -> String {
    match why {
        WaitsFor::Turn => String::new(),
        WaitsFor::OutputsToBeNamed => {
            "; builds whose outputs are all named with -o run side by side".to_owned()
        }
        WaitsFor::Output(path) => format!("; both make {}", path_text(path.as_ref())),
        WaitsFor::OtherSettings => "; it leaves out other files, or runs as another user".to_owned(),
    }
}

/// A workspace that is news for the waiting user: made or restarted although one existed.
fn made_anew(how: &Reached) -> Option<String> {
    let why = match how {
        Reached::Made(MadeBecause::Changed { changes }) => {
            changes.iter().map(changed).collect::<Vec<_>>().join(", ")
        }
        Reached::Made(MadeBecause::Broken { reason }) => reason.clone(),
        Reached::Restarted { reason } => return Some(format!("the workspace was restarted: {reason}")),
        Reached::Made(MadeBecause::Asked | MadeBecause::Missing) | Reached::Found | Reached::Started => {
            return None;
        }
    };
    Some(format!("the workspace was made anew: {why}"))
}

fn changed(Changed { what, old, new }: &Changed) -> String {
    match (old, new) {
        (Some(old), Some(new)) => format!("{what} is {new} and was {old}"),
        (None, Some(new)) => format!("{what} is {new} now"),
        (Some(old), None) => format!("{what} was {old}"),
        (None, None) => format!("{what} is another"),
    }
}

/// The line of `-v` about a workspace.
fn workspace(name: &str, how: &Reached) -> String {
    let how = match how {
        Reached::Found => "was ready",
        Reached::Restarted { .. } => "was restarted",
        Reached::Started => "was started again",
        Reached::Made(MadeBecause::Missing) => "was made: there was none",
        Reached::Made(MadeBecause::Asked) => "was made: --fresh starts it over",
        Reached::Made(MadeBecause::Changed { .. } | MadeBecause::Broken { .. }) => "was made",
    };
    format!("workspace {name} {how}")
}

/// A line of `--explain`.
fn travelled(direction: Direction, path: &crate::entry::RelPath, why: Why) -> String {
    let direction = match direction {
        Direction::Up => "up",
        Direction::Down => "back",
    };
    let why = match why {
        Why::New => "new",
        Why::Content => "content differs",
        Why::Mode => "mode differs",
        Why::Type => "type differs",
        Why::Links => "hard links differ",
        Why::Mtime => "mtime differs",
        Why::Deleted => "deleted",
    };
    format!("{direction}: {path} ({why})")
}

/// The line about a removed workspace.
fn workspace_removed(name: &str, source: &str, limit: Limit) -> String {
    let why = match limit {
        Limit::Age => "it was not used for a long time",
        Limit::Size => "all workspaces together held too much",
    };
    format!("workspace {name} of {source} was removed: {why}")
}

/// The change that made `watch` build again.
fn sources_changed(paths: &[crate::entry::RelPath], more: u64) -> String {
    let [first, rest @ ..] = paths else { return "changed".to_owned() };
    let more = more.saturating_add(rest.len() as u64);
    let more = if more > 0 { format!(" and {} more", count(more)) } else { String::new() };
    format!("changed: {first}{more}")
}

/// What `watch` tells when a build is over.
fn watch_built(
    build: u64,
    exit_code: Option<u8>,
    changed: u64,
    took: Duration,
    waits: Option<Noticing>,
) -> String {
    let result = match exit_code {
        Some(0) => "ok in".to_owned(),
        Some(code) => format!("exit {code} after"),
        None => "failed after".to_owned(),
    };
    let changed = (changed > 0).then(|| format!("{} changed", counted(changed, "file")));
    let result = join([Some(format!("{result} {} s", seconds(took))), changed]);
    let waits = match waits {
        Some(Noticing::Told) => "; waiting for changes",
        Some(Noticing::Looking) => "; waiting for changes, by looking once a second",
        None => "",
    };
    let end = if build == 1 && !waits.is_empty() { "; Ctrl-C ends this" } else { "" };
    format!("{result}{waits}{end}")
}

/// The line of `-v` at the end of a phase.
fn ended(phase: Phase, done: Amount, took: Duration) -> String {
    let moved = parenthesis(amount(done));
    format!("{} took {} s{moved}", name(phase), seconds(took))
}

/// An error, its causes and the advice: the printed lines, with prefix and line ends.
pub fn failure(failure: &Failure) -> String {
    let mut text = format!("fastbuild: error: {}\n", indented(&failure.message));
    for cause in &failure.causes {
        text.push_str(&format!("  caused by: {}\n", indented(cause)));
    }
    if let Some(advice) = &failure.advice {
        text.push_str(&format!("  try: {}\n", indented(advice)));
    }
    text
}

/// One line of fastbuild, ready to print.
pub fn line(sentence: &str) -> String {
    format!("fastbuild: {}\n", one_line(sentence))
}

/// A warning's line, ready to print.
pub fn warning_line(warning: &Warning) -> String {
    let mut lines = line(&format!("warning: {}", sentence(warning)));
    if let Warning::Displaced { files, paths, .. } = warning {
        lines.extend(paths.iter().map(|path| line(&format!("  {}", path_text(path)))));
        let more = files.saturating_sub(paths.len() as u64);
        lines.extend((more > 0).then(|| line(&format!("  and {} more", count(more)))));
        lines += &line("`fastbuild recover ls` lists them, and `fastbuild recover get PATH` puts one back");
    }
    lines
}

/// How many warnings of one kind are shown.
const MOST_OF_A_KIND: u64 = 3;

/// Collects the data of the summary line, and the warnings that are too many to show.
#[derive(Debug, Default)]
pub struct Summary {
    verbosity: Verbosity,
    /// Each kind, with its count and the last sentence.
    warned: Vec<(Discriminant<Warning>, u64, String)>,
    command: Vec<String>,
    parts: Vec<(Phase, Amount, Duration)>,
    /// The build runs without a container.
    is_here: bool,
    /// The command failed, and its products were not brought back.
    outputs_left: bool,
}

impl Summary {
    /// The summary of a run that has not begun.
    pub fn new(verbosity: Verbosity) -> Summary {
        Summary { verbosity, ..Summary::default() }
    }

    /// Takes every event and keeps the phases that ended. Phases of one kind are added up; a new
    /// run starts empty.
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Planned { route, command, .. } => {
                let (command, is_here) = (command.clone(), *route == Route::Host);
                *self = Summary { command, is_here, ..Summary::new(self.verbosity) };
            }
            Event::Warned(Warning::OutputsLeft) => self.outputs_left = true,
            // The run that counts is the next one.
            Event::MountFailed { then: Fallback::Layer, .. } => self.outputs_left = false,
            Event::PhaseEnded { phase, done, took } => self.add(*phase, *done, *took),
            _ => {}
        }
    }

    fn add(&mut self, phase: Phase, done: Amount, took: Duration) {
        match self.parts.iter_mut().find(|part| part.0 == phase) {
            Some((_, moved, sum)) => {
                moved.files += done.files;
                moved.bytes += done.bytes;
                *sum += took;
            }
            None => self.parts.push((phase, done, took)),
        }
        self.parts.sort_by_key(|part| part.0);
    }

    /// The text that all renderers for people share; `None` if each has its own, or none. `width`
    /// is the terminal's, if there is one.
    pub fn news(&mut self, event: &Event, width: Option<usize>) -> Option<News> {
        let said = |sentence: String| News::Said(line(&sentence));
        let is_verbose = self.verbosity == Verbosity::Verbose;
        let detail = |sentence: String| is_verbose.then(|| said(sentence));
        Some(match event {
            Event::Planned { image, engine, route, because, source, command, .. } => {
                return detail(planned(image.as_deref(), engine, *route, because, source, command));
            }
            Event::WaitingForLock { pid, command, holder, why } => {
                said(format!("{}{}", waiting(*pid, command, *holder), side_by_side(why)))
            }
            Event::Workspace { name, how } => match made_anew(how) {
                Some(sentence) => said(sentence),
                None => return detail(workspace(name, how)),
            },
            Event::WithoutAgent { detail, .. } => {
                said(format!("no workspace can be kept, so this build is for one run: {detail}"))
            }
            Event::Travelled { direction, path, why } => said(travelled(*direction, path, *why)),
            Event::MountFailed { route, exit_code, path, line, then } => {
                said(mount_failed(*route, *exit_code, path, line, *then))
            }
            Event::WorkspaceRemoved { name, source, limit } => said(workspace_removed(name, source, *limit)),
            Event::SourcesChanged { paths, more } => said(sources_changed(paths, *more)),
            Event::WatchBuilt { build, clock, exit_code, changed, took, waits } => {
                let result = watch_built(*build, *exit_code, *changed, *took, *waits);
                let lines = line(&format!("#{build} {clock} {result}"));
                News::Last { lines, exit_code: exit_code.unwrap_or(1) }
            }
            Event::PhaseEnded { phase, done, took } => return detail(ended(*phase, *done, *took)),
            Event::Warned(Warning::OutputsLeft) => return None,
            Event::Warned(warning) => News::Said(self.warning(warning)?),
            Event::Finished { exit_code, applied, took, earlier, .. } => {
                let result = self.result(*exit_code, *applied, *took);
                let left = if self.outputs_left { format!("; {LEFT}") } else { String::new() };
                let command = command(&self.command, room(&result, width));
                let sentence = format!("{command}: {result}{left}{}", before(*earlier));
                News::Last { lines: self.more_warnings() + &line(&sentence), exit_code: *exit_code }
            }
            Event::BuildOutputBegins
            | Event::Watching { .. }
            | Event::PhaseStarted { .. }
            | Event::PhaseProgress { .. }
            | Event::PullProgress { .. } => return None,
        })
    }

    /// The last lines of a run that failed.
    pub fn failure(&mut self, error: &Failure) -> String {
        self.more_warnings() + &failure(error)
    }

    /// A warning's line; `None` beyond its kind's limit, which [`Summary::more_warnings`] counts.
    fn warning(&mut self, warning: &Warning) -> Option<String> {
        let (kind, said) = (discriminant(warning), sentence(warning));
        let Some((_, count, last)) = self.warned.iter_mut().find(|(known, ..)| *known == kind) else {
            self.warned.push((kind, 1, said));
            return Some(warning_line(warning));
        };
        (*count, *last) = (*count + 1, said);
        (*count <= MOST_OF_A_KIND).then(|| warning_line(warning))
    }

    /// The lines about the warnings that were not shown, before the run's last line.
    fn more_warnings(&mut self) -> String {
        let told = |(_, number, last): (_, u64, String)| {
            let more = number.checked_sub(MOST_OF_A_KIND).filter(|more| *more > 0)?;
            Some(line(&format!("warning: and {} more of this kind; the last: {last}", count(more))))
        };
        std::mem::take(&mut self.warned).into_iter().filter_map(told).collect()
    }

    /// The result, without the command: `1.12 s, 2 files sent (3.0 kB), 13 received (33.0 kB)`. What
    /// is zero is left out. `-v` adds the seconds of each phase; some phases run at the same time.
    fn result(&self, exit_code: u8, applied: Option<Applied>, took: Duration) -> String {
        let moved =
            |phase| self.parts.iter().find(|part| part.0 == phase && part.1.files > 0).map(|part| part.1);
        let size = |done: Amount| parenthesis(if done.bytes > 0 { bytes(done.bytes) } else { String::new() });
        let (sent, received) = (moved(Phase::Upload), moved(Phase::Collect));
        let files = |n: u64| if sent.is_some() { count(n) } else { counted(n, "file") };
        let seconds_of = |(phase, _, took): &(Phase, Amount, Duration)| {
            format!("{} {}", name(*phase), fine_seconds(*took))
        };
        let parts = match self.verbosity {
            Verbosity::Verbose => self.parts.iter().map(seconds_of).collect::<Vec<_>>().join(", "),
            Verbosity::Normal | Verbosity::Quiet => String::new(),
        };
        let exit = if exit_code == 0 { String::new() } else { format!("exit {exit_code} after ") };
        let here = if self.is_here { " on this machine" } else { "" };
        let Applied { deleted, conflicts, .. } = applied.unwrap_or_default();
        join([
            Some(format!("{exit}{} s{here}{}", seconds(took), parenthesis(parts))),
            sent.map(|done| format!("{} sent{}", counted(done.files, "file"), size(done))),
            received.map(|done| format!("{} received{}", files(done.files), size(done))),
            (deleted > 0).then(|| format!("{} deleted", count(deleted))),
            (conflicts > 0).then(|| counted(conflicts, "conflict")),
        ])
    }
}

/// A command as a user could type it, in at most `room` columns.
fn command(words: &[String], room: usize) -> String {
    wrap::shortened(&one_line(&shell_words(words)), room)
}

/// The line about a command that has written nothing for so long, in at most `room` columns.
pub fn running(words: &[String], took: Duration, room: usize) -> String {
    let took = numbers::span(took);
    let room = room.saturating_sub("running , ".len() + took.len());
    format!("running {}, {took}", command(words, room.min(COMMAND.1)))
}

/// The columns that `result` leaves for the command before it.
fn room(result: &str, width: Option<usize>) -> usize {
    let fixed = "fastbuild: : ".len() + result.len();
    width.map_or(COMMAND.1, |width| width.saturating_sub(fixed).max(COMMAND.0))
}

fn join<const N: usize>(parts: [Option<String>; N]) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn parenthesis(inner: String) -> String {
    if inner.is_empty() { inner } else { format!(" ({inner})") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::RelPath;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn every_warning_names_its_subject_and_what_became_of_it() {
        let container = || "fastbuild-1".to_owned();
        let warnings = [
            Warning::Skipped { path: path("src/x.sock"), special: Special::Socket },
            Warning::Skipped { path: path("a\n\x1b[2J"), special: Special::Fifo },
            Warning::Vanished { path: path("tmp/a") },
            Warning::Unstable { path: path("log") },
            Warning::SpecialOutput { path: path("_site/null"), special: Special::Device },
            Warning::Conflict { path: "/p/a".into(), stands: Stands::Host },
            Warning::Conflict { path: "/p/a".into(), stands: Stands::Build },
            Warning::Beside { changed: vec![path("package.json")], more: 0, made: Vec::new() },
            Warning::Beside { changed: vec![path("a"), path("b")], more: 7, made: vec![path("obj")] },
            Warning::Beside { changed: Vec::new(), more: 0, made: vec![path("a.o"), path("b.o")] },
            Warning::NotWritable { path: "/p".into() },
            Warning::StillKept { names: vec!["target".to_owned(), "node_modules".to_owned()] },
            Warning::ClocksDiffer { seconds: -120 },
            Warning::Displaced { files: 1, paths: vec!["/p/a".into()], to: "/state/old".into() },
            Warning::Displaced {
                files: 1200,
                paths: vec!["/p/a".into(), "/p/b".into()],
                to: "/state/old".into(),
            },
            Warning::ModesRefused { paths: 1 },
            Warning::ModesRefused { paths: 1200 },
            Warning::LeftoverRemoved { container: container() },
            Warning::OutOfMemory { limit: Some(64_000_000) },
            Warning::OutOfMemory { limit: None },
            Warning::Recovered { files: 1, lost: 0 },
            Warning::Recovered { files: 20, lost: 3 },
            Warning::NotTold { why: "out of watches".into() },
            Warning::Circle { path: path("x") },
            Warning::Signalled { signal: "SIGINT" },
            Warning::OutputsLeft,
            Warning::NotRemoved { container: container(), why: "engine is gone".into() },
        ];
        insta::assert_snapshot!(warnings.iter().map(sentence).collect::<Vec<_>>().join("\n"), @r#"
        src/x.sock is a socket; it was not sent
        a\n\u{1b}[2J is a named pipe; it was not sent
        tmp/a was deleted while it was being read; it was not sent
        log kept changing while it was sent; the build may have seen an unfinished version
        _site/null is a device among the build's products; it was not brought back
        /p/a was changed here while the build ran; it stays, and the build's version is in the safe place
        /p/a was changed here while the build ran; the build's version stands, and the other is in the safe place
        the command changed package.json, which no output brings back: the next build starts with what is here; name it with -o, or leave -o out, to have it
        the command changed a, b and 7 more, which no output brings back: the next build starts with what is here; name it with -o, or leave -o out, to have it; new in the workspace, and brought back by no output: obj; the next builds find it there
        new in the workspace, and brought back by no output: a.o, b.o; the next builds find it there
        /p may not be written by this user: what the command changes goes to the safe place, and is an error then
        the workspace still keeps target, node_modules, which this build does not name; `fastbuild workspace unkeep` ends that
        the clock where the build runs is 120 seconds behind this machine's; files that come back have this machine's time
        1 file gave way and is now in the safe place, /state/old
        1,200 files gave way and are now in the safe place, /state/old
        1 product has another mode than in the build: the file system or the owner does not allow the change
        1,200 products have another mode than in the build: the file system or the owner does not allow the change
        container fastbuild-1 was left by an earlier run that was killed; it was removed
        the command was killed because it used more memory than its limit of 64.0 MB; --memory raises it
        the command was killed because the engine's machine ran out of memory
        an earlier run was cut short while it put its products in place; 1 path was put in place now
        an earlier run was cut short while it put its products in place; 20 paths were put in place now, 3 could not be; build again to get them
        the system does not tell of changes: out of watches; fastbuild looks once a second instead
        x comes from another watch, and what it is made from comes from this one: they have built three times in a row without an edit of yours; this one waits for one
        SIGINT was sent to the build
        products not brought back (--outputs-on-failure brings them)
        container fastbuild-1 could not be removed: engine is gone; the next run tries again
        "#);
    }

    #[test]
    fn a_warning_is_one_line_whatever_the_engine_says() {
        let why = "no\nfastbuild: error: forged\x1b[2J".to_owned();
        let line = warning_line(&Warning::NotRemoved { container: "c".into(), why });
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(
            line,
            "fastbuild: warning: container c could not be removed: no\\nfastbuild: error: forged\\u{1b}[2J; the next \
             run tries again\n"
        );
    }

    #[test]
    fn progress_leaves_out_what_nobody_knows() {
        let some = |files, bytes| Amount { files, bytes };
        let cases = [
            (
                some(1203, 10_100_000),
                Some(some(2003, 20_100_000)),
                "1,203 of 2,003 files, 10.1 MB of 20.1 MB",
            ),
            (some(0, 5), Some(some(0, 10)), "5 B of 10 B"),
            (some(3, 0), Some(some(4, 0)), "3 of 4 files"),
            (some(1, 2000), None, "1 file, 2.0 kB"),
            (some(0, 0), None, ""),
            (some(7, 7), Some(some(0, 0)), ""),
        ];
        for (done, total, expected) in cases {
            assert_eq!(progress(done, total), expected);
        }
    }

    /// The last line of a run of `command` with these phases.
    fn last(verbosity: Verbosity, width: Option<usize>, command: &[&str], events: &[Event]) -> String {
        let mut summary = Summary::new(verbosity);
        let mut lines = String::new();
        for event in [&[crate::report::testing::planned(command)], events].concat() {
            summary.note(&event);
            if let Some(News::Last { lines: last, .. }) = summary.news(&event, width) {
                lines = last;
            }
        }
        lines
    }

    fn done(phase: Phase, millis: u64, files: u64, bytes: u64) -> Event {
        Event::PhaseEnded { phase, done: Amount { files, bytes }, took: Duration::from_millis(millis) }
    }

    fn finished(exit_code: u8, applied: Option<Applied>, earlier: Option<Earlier>) -> Event {
        Event::Finished { exit_code, applied, agent: None, earlier, took: Duration::from_millis(1_120) }
    }

    #[test]
    fn a_watch_tells_number_time_and_result_of_a_build_and_whether_it_waits() {
        let told = |build, exit_code, changed, waits| {
            let (clock, took) = ("14:02:11".to_owned(), Duration::from_millis(210));
            let event = Event::WatchBuilt { build, clock, exit_code, changed, took, waits };
            match Summary::default().news(&event, None) {
                Some(News::Last { lines, .. }) => lines,
                other => panic!("{other:?}"),
            }
        };
        insta::assert_snapshot!(
            told(1, Some(0), 0, Some(Noticing::Told))
                + &told(3, Some(0), 2, Some(Noticing::Looking))
                + &told(1_200, Some(3), 1, None)
                + &told(4, None, 1, Some(Noticing::Told)),
            @"
        fastbuild: #1 14:02:11 ok in 0.21 s; waiting for changes; Ctrl-C ends this
        fastbuild: #3 14:02:11 ok in 0.21 s, 2 files changed; waiting for changes, by looking once a second
        fastbuild: #1200 14:02:11 exit 3 after 0.21 s, 1 file changed
        fastbuild: #4 14:02:11 failed after 0.21 s, 1 file changed; waiting for changes
        "
        );
    }

    #[test]
    fn the_summary_tells_what_ran_how_long_and_what_was_moved() {
        let events = [
            done(Phase::Scan, 20, 2003, 20_100_000),
            done(Phase::Upload, 480, 2, 3_000),
            done(Phase::Build, 400, 0, 0),
            done(Phase::Collect, 100, 12, 30_000),
            done(Phase::Collect, 100, 1, 3_000),
            done(Phase::Apply, 30, 13, 0),
            finished(0, Some(Applied { written: 13, deleted: 2, unchanged: 7, conflicts: 1 }), None),
        ];
        let last = |verbosity| last(verbosity, None, &["jekyll", "build"], &events);
        assert_eq!(
            last(Verbosity::Normal),
            "fastbuild: jekyll build: 1.12 s, 2 files sent (3.0 kB), 13 received (33.0 kB), 2 deleted, 1 conflict\n"
        );
        assert_eq!(
            last(Verbosity::Verbose),
            "fastbuild: jekyll build: 1.12 s (scan 0.020, upload 0.480, build 0.400, collect 0.200, apply 0.030), \
             2 files sent (3.0 kB), 13 received (33.0 kB), 2 deleted, 1 conflict\n"
        );
    }

    #[test]
    fn the_summary_leaves_out_what_is_zero() {
        let last = |events: &[Event]| last(Verbosity::Normal, None, &["make"], events);
        let applied = Some(Applied::default());
        let nothing =
            [done(Phase::Upload, 1, 0, 0), done(Phase::Collect, 1, 0, 0), finished(0, applied, None)];
        assert_eq!(last(&nothing), "fastbuild: make: 1.12 s\n");
        let only_back = [done(Phase::Collect, 1, 1, 0), finished(0, applied, None)];
        assert_eq!(last(&only_back), "fastbuild: make: 1.12 s, 1 file received\n");
    }

    #[test]
    fn the_summary_of_a_failed_command_tells_what_became_of_its_products() {
        let left = Event::Warned(Warning::OutputsLeft);
        let last = |events: &[Event]| last(Verbosity::Normal, None, &["sh", "-c", "exit 3"], events);
        assert_eq!(
            last(&[left.clone(), finished(3, None, None)]),
            "fastbuild: sh -c 'exit 3': exit 3 after 1.12 s; products not brought back (--outputs-on-failure brings \
             them)\n"
        );
        let brought = [done(Phase::Collect, 1, 1, 7), finished(3, Some(Applied::default()), None)];
        assert_eq!(last(&brought), "fastbuild: sh -c 'exit 3': exit 3 after 1.12 s, 1 file received (7 B)\n");
        let mount_failed = Event::MountFailed {
            route: Route::Mount,
            exit_code: 1,
            path: path("a"),
            line: "EROFS".into(),
            then: Fallback::Layer,
        };
        let earlier = Earlier { route: Route::Mount, exit_code: 1, took: Duration::from_secs(3) };
        assert_eq!(
            last(&[left, mount_failed, finished(0, None, Some(earlier))]),
            "fastbuild: sh -c 'exit 3': 1.12 s; before that, route mount had failed it (exit 1) after 3.00 s\n"
        );
    }

    #[test]
    fn the_summary_shortens_a_long_command_to_what_the_terminal_has_room_for() {
        let script = format!("echo {}", "word ".repeat(30));
        let last = |width| last(Verbosity::Normal, width, &["sh", "-c", &script], &[finished(0, None, None)]);
        assert_eq!(last(Some(40)), "fastbuild: sh -c 'echo word wo…': 1.12 s\n");
        for width in [80, 120] {
            assert_eq!(last(Some(width)).trim_end().chars().count(), width);
        }
        assert_eq!(last(None).trim_end().chars().count(), "fastbuild: : 1.12 s".len() + 60);
    }

    #[test]
    fn a_new_run_has_a_summary_of_its_own() {
        let events = [
            done(Phase::Upload, 1, 1, 1),
            Event::Warned(Warning::OutputsLeft),
            crate::report::testing::planned(&["true"]),
            finished(1, None, None),
        ];
        let line = last(Verbosity::Verbose, None, &["make"], &events);
        assert_eq!(line, "fastbuild: true: exit 1 after 1.12 s\n");
    }

    #[test]
    fn a_new_workspace_in_place_of_an_old_one_says_what_changed() {
        let change = |what: &str, old: Option<&str>, new: Option<&str>| Changed {
            what: what.into(),
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
        };
        let changes = vec![
            change("image", Some("a:1"), Some("a:2")),
            change("user", None, Some("app")),
            change("network", Some("none"), None),
            change("agent", None, None),
        ];
        let cases = [
            (Reached::Found, None),
            (Reached::Started, None),
            (
                Reached::Restarted { reason: "no answer".into() },
                Some("the workspace was restarted: no answer"),
            ),
            (Reached::Made(MadeBecause::Missing), None),
            (Reached::Made(MadeBecause::Asked), None),
            (
                Reached::Made(MadeBecause::Changed { changes }),
                Some(
                    "the workspace was made anew: image is a:2 and was a:1, user is app now, network was none, agent \
                     is another",
                ),
            ),
            (
                Reached::Made(MadeBecause::Broken { reason: "it does not answer".into() }),
                Some("the workspace was made anew: it does not answer"),
            ),
        ];
        for (how, said) in cases {
            assert_eq!(made_anew(&how).as_deref(), said);
        }
    }

    #[test]
    fn what_changed_is_named_and_the_rest_counted() {
        let paths = [path("a\n\x1b[2J"), path("_posts/x.md")];
        assert_eq!(sources_changed(&paths[1..], 0), "changed: _posts/x.md");
        assert_eq!(sources_changed(&paths, 1200), "changed: a\\n\\u{1b}[2J and 1,201 more");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Told {
        text: &'static str,
        #[source]
        source: Option<Box<Told>>,
    }

    fn told(chain: &[&'static str]) -> Told {
        let source = (chain.len() > 1).then(|| Box::new(told(&chain[1..])));
        Told { text: chain[0], source }
    }

    #[test]
    fn an_error_tells_its_causes_and_what_to_try() {
        let error =
            told(&["could not create the container", "the engine said 500: oops\x1b[0m", "disk full"]);
        let shown = failure(&Failure::new(&error, Some("docker info, and look at the engine's log")));
        assert_eq!(
            shown,
            "fastbuild: error: could not create the container\n\
             \u{20} caused by: the engine said 500: oops\\u{1b}[0m\n\
             \u{20} caused by: disk full\n\
             \u{20} try: docker info, and look at the engine's log\n"
        );
    }

    #[test]
    fn a_cause_that_was_quoted_already_is_not_told_again() {
        let error = told(&["could not read a: permission denied", "permission denied"]);
        assert_eq!(
            failure(&Failure::new(&error, None)),
            "fastbuild: error: could not read a: permission denied\n"
        );
    }
}
