//! `fastbuild plan`: a [`Plan`] -> a table, one decision per line, or JSON. Has no escape codes;
//! control characters in foreign text are escaped. Environment values are omitted. Without `-v`
//! the table has the decisions that matter most, and those that the user may not expect: by a file,
//! a variable, or something that was found on this machine.

use std::{
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;

use super::{Failure, run, workspace::show};
use crate::{
    agent::protocol::Held,
    args::{PlanArgs, PlanFormat},
    build::{notice, sources},
    entry::RelPath,
    environment::Environment,
    plan::{Engine, Output, Outputs, Plan, Take, standing::left_out},
    spec::{
        ApplyMode, Decision, Endpoint, Explain, Fallback, IfThere, Lifetime, OnFailure, OnLocked, Pattern,
        PatternKind, Reason, Route, Stdin, Terminal, choices::name_of, units::memory_text,
    },
    state::{State, project_key},
    text::{
        numbers::{self, counted},
        shell_words,
        table::{facts, hanging, padded},
    },
    tree::{ignore, scan::largest_directory},
    workspace::{Mark, saved_state::now},
};

/// Longer values do not push the reasons of all other lines to the right.
const VALUE_COLUMN: usize = 44;
/// The first values of one kind; the others are counted.
const NAMED: usize = 3;
/// An upload below this size, in bytes, gives no hint about its largest directory.
const WORTH_A_HINT: u64 = 50 * 1024 * 1024;

/// The files that a run would send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UploadEstimate {
    /// Files, links and directories.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// The top-level directory that holds the most bytes, and how many.
    pub largest: Option<(RelPath, u64)>,
}

/// The data that is looked up for a plan.
#[derive(Debug, Default)]
pub struct Seen {
    /// The files that a build would send into an empty workspace.
    pub upload: Option<UploadEstimate>,
    /// The files that only the workspace had, and the time, in seconds since 1970.
    pub held: Option<(Held, u64)>,
}

impl UploadEstimate {
    /// The directory with most of the upload, if it is large enough for a hint.
    pub fn dominant(&self) -> Option<&(RelPath, u64)> {
        self.largest.as_ref().filter(|(_, bytes)| *bytes > WORTH_A_HINT && *bytes > self.bytes / 2)
    }
}

/// Makes settings and plan, scans the source tree, and prints the result to standard output.
///
/// # Errors
/// Any failure to decide, or to print the result.
pub fn run(args: &PlanArgs) -> Result<(), Failure> {
    let environment = Environment::of_process().map_err(Failure::CurrentDirectory)?;
    let (_, plan) = run::decide(&args.run, &environment)?;
    let plan = as_it_runs(plan);
    let estimate = match plan.route.value.is_mounted() {
        true => None,
        false => Some(estimate(&plan)?),
    };
    let seen = Seen { upload: estimate, held: held(&plan, &environment)? };
    let form = match (args.format, args.run.verbose) {
        (PlanFormat::Json, _) => Form::Json,
        (PlanFormat::Text, 0) => Form::Short { width: super::width() },
        (PlanFormat::Text, _) => Form::Long { width: super::width() },
    };
    let mut shown = Vec::new();
    print(&plan, &seen, form, &mut shown).map_err(Failure::Stdout)?;
    super::print(shown)
}

/// How a plan is shown; as wide as the terminal, if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One JSON object.
    Json,
    /// What matters most, and what is unexpected.
    Short {
        /// In columns.
        width: Option<usize>,
    },
    /// Every decision.
    Long {
        /// In columns.
        width: Option<usize>,
    },
}

/// The files that only the last used workspace had, when they were last measured.
fn held(plan: &Plan, environment: &Environment) -> Result<Option<(Held, u64)>, Failure> {
    let root = environment.state_dir()?;
    if plan.lifetime.value == Lifetime::OneRun || !root.exists() {
        return Ok(None);
    }
    let Some(project) = State::open(root)?.known_project(&project_key(&plan.source.value)) else {
        return Ok(None);
    };
    let marks = project.workspaces()?.into_iter().filter_map(|path| Mark::load(&path));
    Ok(marks.max_by_key(|mark| mark.last_used).and_then(|mark| mark.held))
}

fn estimate(plan: &Plan) -> Result<UploadEstimate, Failure> {
    let scan = sources::look(plan, &|_| ())?;
    Ok(UploadEstimate {
        files: scan.manifest.entries().len() as u64,
        bytes: scan.manifest.bytes(),
        largest: largest_directory(&scan.manifest),
    })
}

/// The plan without parts that its route does not use, so that it shows only what happens. Where
/// the sources are mounted, nothing is sent and no workspace is kept. On route mount the command
/// writes its files directly to the host.
fn as_it_runs(mut plan: Plan) -> Plan {
    if !plan.route.value.is_mounted() {
        return plan;
    }
    plan.lifetime =
        Decision::default(Lifetime::OneRun, "where the sources are mounted, no workspace is kept");
    let kept = plan.kept_over().into_iter();
    let pattern = |path: RelPath| Pattern { text: ignore::literal(&path), kind: PatternKind::Kept };
    plan.ignore.patterns = kept.map(|place| place.map(pattern)).collect();
    if plan.route.value == Route::Mount {
        plan.ignore.outputs.clear();
        if let Reason::Default { why } = &mut plan.on_failure.reason {
            *why = "the command writes into the source tree itself";
        }
        if outputs_are_sources(&plan) {
            plan.apply = Decision::default(ApplyMode::PerFile, "as the command writes it");
        }
    }
    plan
}

/// Whether all outputs lie in the source tree.
fn outputs_are_sources(plan: &Plan) -> bool {
    match &plan.outputs.value {
        Outputs::Everything => true,
        Outputs::Named(outputs) => outputs.iter().all(|output| output.below_source.is_some()),
    }
}

/// Prints the actions of a run.
///
/// # Errors
/// When `out` cannot be written to.
pub fn print(plan: &Plan, seen: &Seen, form: Form, out: &mut impl Write) -> io::Result<()> {
    match form {
        Form::Json => json(plan, seen, out),
        Form::Short { width } => {
            let (all, mut table) = (every_decision(plan, seen), Table::default());
            what_matters(plan, seen.upload.as_ref(), &mut table);
            let shown = table.add_unexpected(&all);
            out.write_all(table.text(width).as_bytes())?;
            let more = counted(all.0.len().saturating_sub(shown) as u64, "more decision");
            note(&format!("`fastbuild plan -v` shows {more}"), width, out)?;
            hints(plan, seen, width, out)
        }
        Form::Long { width } => {
            out.write_all(every_decision(plan, seen).text(width).as_bytes())?;
            hints(plan, seen, width, out)
        }
    }
}

/// A paragraph below the table.
fn note(text: &str, width: Option<usize>, out: &mut impl Write) -> io::Result<()> {
    write!(out, "\n{}", hanging("", &harmless(text.to_owned()), width))
}

/// The plan's own fields, and `upload` beside them.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    upload: Option<&'a UploadEstimate>,
    /// The files that only the workspace had when they were last measured.
    held: Option<Held>,
}

fn json(plan: &Plan, seen: &Seen, out: &mut impl Write) -> io::Result<()> {
    let held = seen.held.map(|(held, _)| held);
    serde_json::to_writer_pretty(&mut *out, &Document { plan, upload: seen.upload.as_ref(), held })?;
    writeln!(out)
}

fn every_decision(plan: &Plan, seen: &Seen) -> Table {
    let estimate = seen.upload.as_ref();
    let mut table = Table::default();
    what_runs(plan, &mut table);
    if let Some((held, at)) = seen.held {
        table.row("has alone", show::held(held), Some(format!("as it was {}", show::ago(at, now()))));
    }
    what_goes_in(plan, estimate, &mut table);
    what_comes_back(plan, &mut table);
    what_limits(plan, &mut table);
    table
}

/// The six decisions that most users look for.
fn what_matters(plan: &Plan, estimate: Option<&UploadEstimate>, table: &mut Table) {
    table.row("command", shell_words(&plan.command), Some(format!("in {}", plan.command_directory())));
    match &plan.image {
        Some(image) => table.decision("image", image, Clone::clone),
        None => table.fact("image", "none".to_owned()),
    }
    table.decision("engine", &plan.engine, ToString::to_string);
    table.decision("route", &plan.route, Route::to_string);
    let source = plan.source.value.to_string_lossy();
    let goes_in = match estimate {
        Some(estimate) => format!("{} of {source}", amount(estimate)),
        None => format!("nothing: {source} is mounted"),
    };
    table.row("goes in", goes_in, Some(plan.source.reason.to_string()));
    let comes_back = products(plan).join(", ");
    table.row("comes back", comes_back, Some(plan.outputs.reason.to_string()));
}

fn amount(estimate: &UploadEstimate) -> String {
    format!("{}, {}", counted(estimate.files, "file"), numbers::bytes(estimate.bytes))
}

fn hints(plan: &Plan, seen: &Seen, width: Option<usize>, out: &mut impl Write) -> io::Result<()> {
    if let Some(hint) = notice::of_repository(plan) {
        note(&hint, width, out)?;
    }
    let Some((directory, bytes)) = seen.upload.as_ref().and_then(UploadEstimate::dominant) else {
        return Ok(());
    };
    let pattern = shell_words(&[directory.to_string()]);
    let hint = format!(
        "{directory} makes up {} of the upload. If the build does not need it, leave it out with `--exclude {pattern}`",
        numbers::bytes(*bytes)
    );
    note(&hint, width, out)
}

fn what_runs(plan: &Plan, table: &mut Table) {
    table.fact("command", shell_words(&plan.command));
    table.decision("engine", &plan.engine, ToString::to_string);
    if let Some(image) = &plan.image {
        table.decision("image", image, Clone::clone);
        table.decision("pull", &plan.pull, |policy| name_of(*policy));
    }
    table.optional("platform", plan.platform.as_ref(), Clone::clone);
    table.decision("workdir", &plan.workdir, Clone::clone);
    table.fact("runs in", plan.command_directory());
    table.optional("user", plan.user.as_ref(), Clone::clone);
    table.optional("entrypoint", plan.entrypoint.as_ref(), |program| {
        if program.is_empty() { "none".to_owned() } else { program.clone() }
    });
    for variable in &plan.env {
        table.decision("env", variable, |variable| variable.name.clone());
    }
    table.decision("terminal", &plan.terminal, |terminal| match terminal {
        Terminal::Allocate => "yes",
        Terminal::None => "no, output and error stay apart",
    });
    table.decision("stdin", &plan.stdin, |stdin| match stdin {
        Stdin::Empty => "empty",
        Stdin::Forward => "handed over",
    });
    table.decision("workspace", &plan.lifetime, |lifetime| match lifetime {
        Lifetime::Kept => "kept",
        Lifetime::OneRun => "one-run",
    });
    if plan.lifetime.value == Lifetime::OneRun && !plan.route.value.is_mounted() {
        // With CI set, that is a default.
        table.expect(&plan.lifetime.reason, |reason| matches!(reason, Reason::Flag { .. }));
    }
    if plan.lifetime.value == Lifetime::Kept {
        what_is_kept(plan, table);
    }
    table.decision("if locked", &plan.lock, |lock| match lock {
        OnLocked::Wait => "wait",
        OnLocked::Fail => "fail at once",
    });
    let (age, size) = (&plan.recover.max_age, &plan.recover.max_size);
    if [&age.reason, &size.reason].iter().any(|reason| !matches!(reason, Reason::Default { .. })) {
        limits(["safe for", "safe size"], age, size, table);
    }
    if plan.explain.value == Explain::Yes {
        table.decision("explain", &plan.explain, |_| "each file that travels");
    }
}

fn what_is_kept(plan: &Plan, table: &mut Table) {
    let workspace = &plan.workspace;
    table.decision("if there", &workspace.if_there, |if_there| match if_there {
        IfThere::Fresh => "made anew",
        IfThere::Reuse => "used again",
    });
    // Without a container, no process goes on running.
    if plan.engine.value != Engine::Host {
        table.decision("idle stop", &workspace.idle_stop, |idle| match idle {
            &Duration::ZERO => "never".to_owned(),
            idle => format!("after {}", span(*idle)),
        });
    }
    if matches!(plan.engine.value, Engine::Docker(Endpoint::Tcp(_))) {
        table.decision("grace", &workspace.grace, |grace| match grace {
            &Duration::ZERO => "for ever".to_owned(),
            grace => span(*grace),
        });
    }
    limits(["max age", "max size"], &workspace.max_age, &workspace.max_size, table);
}

fn limits(
    [age, size]: [&'static str; 2],
    max_age: &Decision<Duration>,
    max_size: &Decision<u64>,
    table: &mut Table,
) {
    table.decision(age, max_age, |age| match age {
        &Duration::ZERO => "no limit".to_owned(),
        age => span(*age),
    });
    table.decision(size, max_size, |bytes| match bytes {
        0 => "no limit".to_owned(),
        bytes => memory_text(*bytes),
    });
}

fn what_goes_in(plan: &Plan, estimate: Option<&UploadEstimate>, table: &mut Table) {
    table.optional("name", plan.name.as_ref(), Clone::clone);
    table.decision("source", &plan.source, |path| path.to_string_lossy().into_owned());
    for pattern in &plan.ignore.patterns {
        let (name, text) = match (ignore::parts(&pattern.value.text), pattern.value.kind) {
            (("", text), PatternKind::Kept) => ("keeps", text),
            (("", text), PatternKind::Excluded) => ("leaves out", text),
            ((_, text), _) => ("takes in", text),
        };
        table.decided(name, text.to_owned(), &pattern.reason);
    }
    for output in &plan.ignore.outputs {
        table.row("leaves out", output.to_string(), Some(left_out(output, plan).name().to_owned()));
    }
    table.decision("route", &plan.route, Route::to_string);
    if plan.route.value.is_mounted() {
        table.decision("fallback", &plan.fallback, |fallback| match fallback {
            Fallback::None => "none",
            Fallback::Layer => "layer, if the mount fails the command",
        });
    }
    // A file may contain settings of another route.
    match plan.route.value {
        Route::Tmpfs => table.optional("tmpfs size", plan.tmpfs_size.as_ref(), |bytes| memory_text(*bytes)),
        Route::Volume => {
            // The value may contain a password.
            plan.volume_options.iter().for_each(|option| {
                table.decision("volume option", option, |option| format!("{}=…", option.key));
            });
        }
        Route::Layer | Route::MountSource | Route::Mount | Route::Host => {}
    }
    for cache in &plan.caches {
        table.decision("cache", cache, |cache| format!("{} at {}", cache.called(), cache.path));
    }
    if let Some(Decision { value: scratch, reason }) = &plan.scratch {
        let said = match reason {
            Reason::Found { why } => why.clone(),
            named => format!("{named}: {}", scratch.in_words()),
        };
        table.row("scratch", scratch.root.to_string_lossy().into_owned(), Some(said));
        table.expect(reason, |reason| matches!(reason, Reason::Flag { .. }));
    }
    if plan.route.value.is_mounted() {
        table.row("upload", "nothing".to_owned(), Some("the sources are mounted".to_owned()));
    }
    if let Some(estimate) = estimate {
        table.fact("upload", amount(estimate));
    }
}

fn what_comes_back(plan: &Plan, table: &mut Table) {
    products(plan).into_iter().for_each(|product| table.decided("output", product, &plan.outputs.reason));
    let in_place = plan.route.value == Route::Mount;
    table.decision("on failure", &plan.on_failure, |value| match value {
        _ if in_place => "what the command wrote stays",
        OnFailure::Leave => "nothing comes back",
        OnFailure::Collect => "outputs come back",
    });
    table.decision("apply", &plan.apply, |mode| match mode {
        _ if in_place && outputs_are_sources(plan) => "in place",
        ApplyMode::PerFile => "file by file",
        ApplyMode::Atomic => "each directory as one",
    });
}

fn what_limits(plan: &Plan, table: &mut Table) {
    for asked in plan.container.all() {
        table.decided(asked.name, asked.value, asked.reason);
    }
}

fn products(plan: &Plan) -> Vec<String> {
    match &plan.outputs.value {
        Outputs::Everything => vec![format!("all that changes below {}", plan.workdir.value)],
        Outputs::Named(named) if named.is_empty() => vec!["nothing".to_owned()],
        Outputs::Named(named) => named.iter().map(product).collect(),
    }
}

fn product(output: &Output) -> String {
    if !output.only.is_empty() {
        let patterns = output.only.iter().filter(|pattern| !pattern.starts_with('!'));
        return format!("what matches {}", shell_words(&patterns.cloned().collect::<Vec<_>>()));
    }
    let tail = match output.take {
        Take::Itself => "",
        Take::Directory => "/",
        Take::Contents => "/.",
    };
    format!("{}{tail} -> {}", output.container.trim_end_matches('/'), output.host.to_string_lossy())
}

/// A length of time in the syntax of `fastbuild.toml`: in the largest unit that needs no fraction.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [("d", 24 * 60 * 60), ("h", 60 * 60), ("m", 60)];
    let exact = units.into_iter().find(|(_, unit)| seconds >= *unit && seconds.is_multiple_of(*unit));
    exact.map_or_else(|| format!("{seconds}s"), |(name, unit)| format!("{}{name}", seconds / unit))
}

/// Escapes control characters, which could move the cursor or forge a line. Backslashes stay,
/// because Windows paths contain them, and users copy the quoted command.
fn harmless(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    text.chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}

/// Rows of name, value and reason.
#[derive(Default)]
struct Table(Vec<Row>);

struct Row {
    name: &'static str,
    value: String,
    reason: Option<String>,
    /// The path or the words of the reason, where the user may not expect it.
    unexpected: Option<String>,
}

impl Table {
    fn row(&mut self, name: &'static str, value: String, reason: Option<String>) {
        self.0.push(Row { name, value: harmless(value), reason: reason.map(harmless), unexpected: None });
    }

    /// A value that follows from other lines and needs no reason.
    fn fact(&mut self, name: &'static str, value: String) {
        self.row(name, value, None);
    }

    fn decided(&mut self, name: &'static str, value: String, reason: &Reason) {
        self.row(name, value, Some(reason.to_string()));
        self.expect(reason, |reason| match reason {
            Reason::Flag { .. } | Reason::Preset { .. } | Reason::Default { .. } => true,
            // Those that git needs.
            Reason::Found { .. } => name == "env",
            Reason::Env { .. }
            | Reason::File { .. }
            | Reason::Devcontainer { .. }
            | Reason::Context { .. } => false,
        });
    }

    /// Whether the last row's reason is one that users expect.
    fn expect(&mut self, reason: &Reason, is_expected: impl Fn(&Reason) -> bool) {
        let short = match reason {
            Reason::File { path, .. } => path.to_string_lossy().into_owned(),
            other => other.to_string(),
        };
        if let Some(last) = self.0.last_mut() {
            last.unexpected = (!is_expected(reason)).then(|| harmless(short));
        }
    }

    fn decision<T, S: Into<String>>(
        &mut self,
        name: &'static str,
        decision: &Decision<T>,
        show: impl Fn(&T) -> S,
    ) {
        self.decided(name, show(&decision.value).into(), &decision.reason);
    }

    fn optional<T, S: Into<String>>(
        &mut self,
        name: &'static str,
        decision: Option<&Decision<T>>,
        show: impl Fn(&T) -> S,
    ) {
        if let Some(decision) = decision {
            self.decision(name, decision, show);
        }
    }

    /// Adds a row for each kind of unexpected decision; returns how many of `all` are shown then.
    fn add_unexpected(&mut self, all: &Table) -> usize {
        const ABOVE: [&str; 8] =
            ["command", "runs in", "image", "engine", "route", "source", "upload", "output"];
        let (above, others): (Vec<_>, Vec<_>) = all.0.iter().partition(|row| ABOVE.contains(&row.name));
        let unexpected: Vec<_> = others.into_iter().filter(|row| row.unexpected.is_some()).collect();
        let mut names: Vec<_> = unexpected.iter().map(|row| row.name).collect();
        names.dedup();
        for name in names {
            let same = || unexpected.iter().filter(|row| row.name == name);
            let values: Vec<_> = same().map(|row| &*row.value).collect();
            let mut reasons: Vec<_> = same().filter_map(|row| row.unexpected.as_deref()).collect();
            reasons.dedup();
            self.row(name, first_of(&values), Some(first_of(&reasons)));
        }
        above.len() + unexpected.len()
    }

    fn text(&self, width: Option<usize>) -> String {
        let widths = self.0.iter().map(|row| row.value.chars().count());
        let value_width = widths.filter(|width| *width <= VALUE_COLUMN).max().unwrap_or(0);
        let name_width = self.0.iter().map(|row| row.name.len()).max().unwrap_or(0);
        let beside = |Row { name, value, reason, .. }: &Row| {
            let Some(reason) = reason else { return (*name, value.clone()) };
            let text = format!("{}  ({reason})", padded(value, value_width));
            match width.is_some_and(|width| name_width + 2 + text.chars().count() > width) {
                true => (*name, format!("{value} ({reason})")),
                false => (*name, text),
            }
        };
        facts(&self.0.iter().map(beside).collect::<Vec<_>>(), width)
    }
}

fn first_of(values: &[&str]) -> String {
    let named = values.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match values.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{
        plan::{IgnorePlan, Output, Take},
        spec::{
            AgentUse, ContainerOptions, Endpoint, EnvVar, PullPolicy, Reason, RecoverPlan, WorkspacePlan,
        },
    };

    fn plan() -> Plan {
        fn default<T>(value: T) -> Decision<T> {
            Decision { value, reason: Reason::Default { why: "default" } }
        }
        let preset = Reason::Preset { name: "jekyll" };
        let line = |line| Reason::File { path: PathBuf::from("/p/.fastbuildignore"), line: Some(line) };
        let pattern = |text: &str, kind| Pattern { text: text.to_owned(), kind };
        Plan {
            name: None,
            command: ["jekyll", "build", "it's"].map(String::from).to_vec(),
            engine: default(Engine::Docker(Endpoint::Unix(PathBuf::from("/var/run/docker.sock")))),
            image: Some(Decision { value: "jekyll:4".into(), reason: preset.clone() }),
            pull: default(PullPolicy::Missing),
            platform: None,
            source: default(PathBuf::from("/p")),
            subdirectory: RelPath::new(b"docs".as_slice()).unwrap(),
            workdir: default("/workspace".into()),
            ignore: IgnorePlan {
                patterns: vec![
                    Decision { value: pattern("**/.cache", PatternKind::Kept), reason: preset.clone() },
                    Decision { value: pattern("vendor\u{1b}[2J", PatternKind::Excluded), reason: line(3) },
                    Decision {
                        value: pattern("!vendor/keep", PatternKind::Excluded),
                        reason: Reason::Flag { flag: "--include" },
                    },
                ],
                outputs: vec![RelPath::new(b"docs/_site".as_slice()).unwrap()],
            },
            outputs: Decision {
                value: Outputs::Named(vec![Output {
                    spec: "_site".into(),
                    container: "/workspace/docs/_site".into(),
                    take: Take::Itself,
                    host: PathBuf::from("/p/docs/_site"),
                    below_source: Some(RelPath::new(b"docs/_site".as_slice()).unwrap()),
                    only: Vec::new(),
                }]),
                reason: preset,
            },
            on_failure: default(OnFailure::Leave),
            apply: default(ApplyMode::PerFile),
            route: default(Route::Layer),
            fallback: default(Fallback::Layer),
            tmpfs_size: None,
            volume_options: Vec::new(),
            caches: Vec::new(),
            scratch: None,
            lifetime: default(Lifetime::Kept),
            agent: default(AgentUse::Wanted),
            workspace: WorkspacePlan {
                if_there: default(IfThere::Reuse),
                idle_stop: default(Duration::from_secs(5400)),
                grace: default(Duration::from_secs(60)),
                max_age: default(Duration::ZERO),
                max_size: default(20 << 30),
            },
            recover: RecoverPlan { max_age: default(Duration::ZERO), max_size: default(1 << 30) },
            lock: default(OnLocked::Wait),
            explain: Decision { value: Explain::Yes, reason: Reason::Flag { flag: "--explain" } },
            user: None,
            entrypoint: Some(Decision {
                value: String::new(),
                reason: Reason::Flag { flag: "--entrypoint" },
            }),
            env: vec![default(EnvVar { name: "TOKEN".into(), value: "hunter2".into() })],
            terminal: default(Terminal::None),
            stdin: default(Stdin::Empty),
            container: ContainerOptions {
                memory: Some(Decision { value: 3 << 29, reason: Reason::Env { name: "FASTBUILD_MEMORY" } }),
                nano_cpus: Some(default(1_500_000_000)),
                ..ContainerOptions::default()
            },
        }
    }

    fn estimate(largest: u64, bytes: u64) -> UploadEstimate {
        let directory = RelPath::new(b"node modules".as_slice()).unwrap();
        UploadEstimate { files: 7, bytes, largest: Some((directory, largest)) }
    }

    const LONG: Form = Form::Long { width: None };

    fn printed(upload: Option<UploadEstimate>, form: Form) -> String {
        let mut out = Vec::new();
        print(&plan(), &Seen { upload, held: None }, form, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_short_plan_has_what_matters_and_what_is_unexpected() {
        insta::assert_snapshot!(printed(Some(estimate(1, 100 << 20)), Form::Short { width: None }), @r"
        command     jekyll build 'it'\''s'                  (in /workspace/docs)
        image       jekyll:4                                (preset jekyll)
        engine      unix:///var/run/docker.sock             (default)
        route       layer                                   (default)
        goes in     7 files, 104.9 MB of /p                 (default)
        comes back  /workspace/docs/_site -> /p/docs/_site  (preset jekyll)
        leaves out  vendor\u{1b}[2J                         (/p/.fastbuildignore)
        memory      1.5g                                    (FASTBUILD_MEMORY)

        `fastbuild plan -v` shows 19 more decisions
        ");
        insta::assert_snapshot!(printed(Some(estimate(1, 100 << 20)), Form::Short { width: Some(60) }), @r"
        command     jekyll build 'it'\''s' (in /workspace/docs)
        image       jekyll:4 (preset jekyll)
        engine      unix:///var/run/docker.sock (default)
        route       layer (default)
        goes in     7 files, 104.9 MB of /p (default)
        comes back  /workspace/docs/_site -> /p/docs/_site (preset
                    jekyll)
        leaves out  vendor\u{1b}[2J (/p/.fastbuildignore)
        memory      1.5g (FASTBUILD_MEMORY)

        `fastbuild plan -v` shows 19 more decisions
        ");
        for form in [|width| Form::Short { width }, |width| Form::Long { width }] {
            for width in [40, 80, 200] {
                let shown = printed(Some(estimate(1, 100 << 20)), form(Some(width)));
                assert!(shown.lines().all(|line| line.chars().count() <= width), "{width}\n{shown}");
            }
        }
    }

    #[test]
    fn a_plan_is_a_decision_a_line_with_its_reason() {
        insta::assert_snapshot!(printed(Some(estimate(60 << 20, 100 << 20)), LONG), @r"
        command     jekyll build 'it'\''s'
        engine      unix:///var/run/docker.sock             (default)
        image       jekyll:4                                (preset jekyll)
        pull        missing                                 (default)
        workdir     /workspace                              (default)
        runs in     /workspace/docs
        entrypoint  none                                    (--entrypoint)
        env         TOKEN                                   (default)
        terminal    no, output and error stay apart         (default)
        stdin       empty                                   (default)
        workspace   kept                                    (default)
        if there    used again                              (default)
        idle stop   after 90m                               (default)
        max age     no limit                                (default)
        max size    20g                                     (default)
        if locked   wait                                    (default)
        explain     each file that travels                  (--explain)
        source      /p                                      (default)
        keeps       **/.cache                               (preset jekyll)
        leaves out  vendor\u{1b}[2J                         (/p/.fastbuildignore:3)
        takes in    vendor/keep                             (--include)
        leaves out  docs/_site                              (an output)
        route       layer                                   (default)
        upload      7 files, 104.9 MB
        output      /workspace/docs/_site -> /p/docs/_site  (preset jekyll)
        on failure  nothing comes back                      (default)
        apply       file by file                            (default)
        memory      1.5g                                    (FASTBUILD_MEMORY)
        cpus        1.5                                     (default)

        node modules makes up 62.9 MB of the upload. If the build does not need it, leave it out with `--exclude 'node modules'`
        ");
    }

    #[test]
    fn only_a_directory_that_makes_up_most_of_much_is_worth_a_hint() {
        assert!(estimate(60 << 20, 100 << 20).dominant().is_some());
        assert!(estimate(60 << 20, 120 << 20).dominant().is_none(), "half is not most");
        assert!(estimate(40 << 20, 41 << 20).dominant().is_none(), "little is no matter");
        let none = UploadEstimate { files: 0, bytes: 0, largest: None };
        assert!(none.dominant().is_none());
    }

    #[test]
    fn json_holds_the_same_and_no_value_of_a_variable() {
        for form in [Form::Json, LONG, Form::Short { width: None }] {
            let text = printed(None, form);
            assert!(!text.contains("hunter2"), "{text}");
            assert!(text.contains("TOKEN") || matches!(form, Form::Short { .. }), "{text}");
        }
        let value: serde_json::Value =
            serde_json::from_str(&printed(Some(estimate(1, 2)), Form::Json)).unwrap();
        assert_eq!(value["image"]["value"], "jekyll:4");
        assert_eq!(value["image"]["reason"]["from"], "preset");
        assert_eq!(value["upload"]["bytes"], 2);
        assert_eq!(value["outputs"]["value"]["named"][0]["host"], "/p/docs/_site");
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_no_text_is_printed_all_the_same() {
        use std::os::unix::ffi::OsStringExt;
        let mut plan = plan();
        plan.source.value = PathBuf::from(std::ffi::OsString::from_vec(b"/p\xff".to_vec()));
        plan.source.reason = Reason::File { path: plan.source.value.clone(), line: None };
        for form in [Form::Json, LONG] {
            let mut out = Vec::new();
            print(&plan, &Seen::default(), form, &mut out).unwrap();
            assert!(String::from_utf8(out).unwrap().contains("/p\u{fffd}"));
        }
    }

    #[test]
    fn lengths_of_time_are_shown_as_they_could_be_typed() {
        for (seconds, text) in [(90, "90s"), (900, "15m"), (5400, "90m"), (43_200, "12h"), (604_800, "7d")] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
            assert_eq!(crate::spec::units::duration(text), Ok(Duration::from_secs(seconds)));
        }
    }
}
