//! argv -> [`Cli`]. Knows the spelling of every flag and nothing of what flags mean together: that is
//! [`crate::config`].
//!
//! `run` is what happens when no subcommand is named, so clap gets its flags at the top level as well; a subcommand
//! behind options is moved before them first. Every word after `--` belongs to the build, `plan` and `run` too.

mod bench;
mod container;
mod words;

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use clap::{
    Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand,
    builder::{BoolValueParser, TypedValueParser},
};

use serde::{Deserialize, Serialize};

pub use bench::{BenchArgs, Parts};
pub use container::ContainerArgs;

use crate::spec::{EngineChoice, Progress, PullPolicy, RouteChoice, choices::choose, units};

/// What becomes of the trust in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It is trusted as it is now.
    Give,
    /// It is trusted no longer.
    Revoke,
}

/// Which volumes are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caches {
    /// Those of caches as well.
    Included,
    /// Workspaces' alone.
    Kept,
}

/// How much was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extent {
    /// `--quick`: less data and fewer rounds.
    Quick,
    /// All of it.
    Full,
}

/// What fastbuild's own failures exit with, as Docker has it.
pub const OWN_FAILURE: u8 = 125;

/// A parsed command line.
#[derive(Debug, Clone)]
pub struct Cli {
    /// What to do.
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Clone)]
pub enum Command {
    /// Run a build.
    Run(Box<RunArgs>),
    /// Run a build, and another at each change of the sources.
    Watch(Box<WatchArgs>),
    /// Say what a run would do.
    Plan(Box<PlanArgs>),
    /// Measure places and routes.
    Bench(Box<BenchArgs>),
    /// List, inspect, enter or remove workspaces.
    Workspace(WorkspaceCommand),
    /// List, bring back or remove what builds moved to the safe place.
    Recover(RecoverCommand),
    /// Remove what only a workspace has.
    Clean(CleanArgs),
    /// Trust a project's file, or take that back.
    Trust(TrustArgs),
    /// Say what builds do with paths.
    Why(Box<WhyArgs>),
    /// Say what may cost time here, and what to do about it.
    Doctor(LookArgs),
    /// Say what is known of the project now.
    Status(LookArgs),
    /// Not for people: look at a path, which may take for ever.
    Ask(Vec<OsString>),
    /// Not for people: wait for the parent's end, then remove its container. Its words are the reaper's own.
    Reap(Vec<OsString>),
}

/// Why there is no [`Cli`].
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// clap's refusal; `--help` and `--version` come this way too.
    #[error(transparent)]
    Clap(#[from] clap::Error),
    /// Nothing to run.
    #[error(
        "there is no command to run: write it after `--`, as in `fastbuild -- jekyll build` (`fastbuild --help` \
         shows more)"
    )]
    NoCommand,
    /// Not a word was typed.
    #[error("{BEGINNING}")]
    Nothing,
    /// A word behind an output, as a shell leaves them when it has looked up a pattern.
    #[error(
        "{word:?} stands before `--`, and behind an output: if that was a pattern, quote it, so that the shell leaves it alone, as \
         in `fastbuild -o '**/*.o' -- {line}`; otherwise name each output with -o"
    )]
    BehindOutput {
        /// The word.
        word: String,
        /// The command.
        line: String,
    },
    /// The first word of a command that was typed without `--` is nearly a subcommand.
    #[error(
        "there is no subcommand {word:?}; did you mean `fastbuild {nearest}`? A program of that name is run by `fastbuild -- {line}`"
    )]
    NearlySubcommand {
        /// The word.
        word: String,
        /// What was probably meant.
        nearest: &'static str,
        /// The word and what follows, as a proposal.
        line: String,
    },
}

impl UsageError {
    /// What to exit with: 0 when the user asked for help or the version, else 125.
    pub fn exit_code(&self) -> u8 {
        match self {
            UsageError::Clap(error) if !error.use_stderr() => 0,
            _ => OWN_FAILURE,
        }
    }

    /// Help and version go to standard output, errors to standard error.
    ///
    /// # Errors
    /// When the stream cannot be written to.
    pub fn print(&self) -> io::Result<()> {
        match self {
            UsageError::Clap(error) if !error.use_stderr() => error.print(),
            UsageError::Clap(error) => write!(io::stderr(), "fastbuild: {}", error.render()),
            UsageError::Nothing => writeln!(io::stderr(), "{self}"),
            own => writeln!(io::stderr(), "fastbuild: error: {own}"),
        }
    }
}

const BEGINNING: &str = "\
fastbuild runs a build in a container without a mount: the sources go in, the products come back.

  fastbuild -- jekyll build                  the preset knows the image
  fastbuild -i gcc:14 -- make                in this image; all that changes comes back
  fastbuild -i node:22 -o dist -- npm run build

`image = \"gcc:14\"` in a file fastbuild.toml saves the option.
`fastbuild plan -- COMMAND` says what a build would do, `fastbuild doctor` what is wrong here,
and `fastbuild --help` has every option.";

const USAGE: &str = "fastbuild [run] [OPTIONS] -- COMMAND…
       fastbuild watch [OPTIONS] -- COMMAND…
       fastbuild plan [OPTIONS] [--json] -- COMMAND…
       fastbuild bench [OPTIONS] [-- COMMAND…]
       fastbuild doctor [OPTIONS] [--json]
       fastbuild status [OPTIONS] [--json]
       fastbuild workspace ls|inspect|shell|unkeep|rm|prune [OPTIONS]
       fastbuild clean [OPTIONS] PATH…|--all
       fastbuild recover ls|get|rm [OPTIONS]
       fastbuild why [OPTIONS] PATH… [-- COMMAND…]
       fastbuild trust [--revoke] [-C DIR]";

const SHORT_USAGE: &str = "fastbuild [OPTIONS] -- COMMAND…
       fastbuild SUBCOMMAND [OPTIONS] …";

/// The options of a build that `-h` shows, by their ids.
const DAILY: [&str; 14] = [
    "image",
    "env",
    "user",
    "source",
    "keep-path",
    "exclude",
    "output",
    "no_keep",
    "fresh",
    "route",
    "engine",
    "host",
    "quiet",
    "verbose",
];

const EXAMPLES: &str = "\
Examples:
  fastbuild -- jekyll build
      The preset knows image and output: the site comes back as _site.
  fastbuild -i node:22 --exclude node_modules -o dist -- sh -c 'npm ci && npm run build'
      node_modules stays here, and of all that the build makes only dist comes back.
  fastbuild -i gcc:14 -e CFLAGS -o /usr/local/bin/app:bin/ -- make install
      CFLAGS crosses; a file from anywhere in the container is put into bin.";

const WATCHING: &str = "\
Ignored files and what the build itself brings back start no build. A change during a build starts the next one right \
after it; a build that fails ends nothing. The command reads nothing. Ctrl-C ends the watch, with exit code 0, and \
with it the build that is under way.";

const BENCHING: &str = "\
Without a command, the disk alone is measured: a large file and many small ones in the source directory, and in a \
container its layer, a tmpfs, a volume and a mount of the source directory. With one, the command is run on each route \
as well, in copies of the source tree, after an edit each time; the source tree itself is not touched. Everything \
that this makes is removed, when it is interrupted too.";

const EXPLAINING: &str = "\
What decides is what a build of COMMAND with the same options would go by; without it, no preset counts. No image or engine is needed.";

const STANDING: &str = "\
Nothing is changed, and no build is waited for. Without an engine that answers, it shows what this machine knows.";

const DIAGNOSIS: &str = "\
Nothing is changed, and no command, image or engine is needed. Exit codes: 0 when there is nothing to advise, 1 when \
there is, 125 when fastbuild itself failed.";

const ENVIRONMENT: &str = "\
Settings come from, strongest first: options, FASTBUILD_* variables, the nearest fastbuild.toml upwards, the image of \
the project's devcontainer.json, the preset of the command's first word. `fastbuild plan` tells which one decided. \
What fastbuild.toml switched on is switched off by --no-atomic, --no-fallback, --no-outputs-on-failure, \
--no-stdin and --no-tty; --ignore takes its no-ignore back.

Environment:
  FASTBUILD_IMAGE, FASTBUILD_WORKDIR, FASTBUILD_USER, FASTBUILD_PLATFORM,
  FASTBUILD_PULL, FASTBUILD_NETWORK, FASTBUILD_MEMORY, FASTBUILD_CPUS,
  FASTBUILD_SHM_SIZE, FASTBUILD_ISOLATION, FASTBUILD_HOST, FASTBUILD_ENGINE,
  FASTBUILD_ROUTE, FASTBUILD_SCRATCH, FASTBUILD_PROGRESS, FASTBUILD_GRACE
      As the option of the same name. An empty variable counts as none.
  DOCKER_HOST, DOCKER_DEFAULT_PLATFORM
      As for docker, where nothing above says otherwise.
  FASTBUILD_KEEP
      yes or no: as --keep and --no-keep.
  FASTBUILD_WORKSPACE_IDLE_STOP, FASTBUILD_WORKSPACE_MAX_AGE,
  FASTBUILD_WORKSPACE_MAX_SIZE
      When a workspace stops [default: after 1h without a build] and when it is
      removed by itself [default: after 30d, and when all of them hold more than
      20g]; 0 is never.
  FASTBUILD_RECOVER_MAX_AGE, FASTBUILD_RECOVER_MAX_SIZE
      When what was moved to the safe place is removed by itself [default: after
      30d, and when all of it is more than 1g]; 0 is never.
  CI
      Where it is set (and not to false or 0), nothing is kept unless --keep
      says so.
  FASTBUILD_STATE_DIR
      Where fastbuild keeps its own files [default: fastbuild in XDG_STATE_HOME,
      else ~/.local/state/fastbuild].

Exit codes:
  the command's own; 125 when fastbuild or the engine failed, 126 when the
  command cannot be invoked, 127 when it was not found, 128+n when signal n
  ended it";

#[derive(Debug, Parser)]
#[command(
    name = "fastbuild",
    version,
    about = "Run a build in a container's own layer instead of on a slow mount, and bring the products back",
    override_usage = USAGE,
    after_help = EXAMPLES,
    after_long_help = long_help_tail(),
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    propagate_version = true,
    disable_help_subcommand = true
)]
struct Grammar {
    #[command(subcommand)]
    command: Option<Sub>,
    #[command(flatten)]
    run: RunArgs,
}

/// [`EXAMPLES`] and [`ENVIRONMENT`]: what `--help` shows below the options, `-h` only the first.
fn long_help_tail() -> String {
    format!("{EXAMPLES}\n\n{ENVIRONMENT}")
}

/// Which help a command line may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Help {
    /// `-h`: the daily options, as one list.
    Short,
    /// `--help`: all.
    Long,
}

impl Help {
    fn asked(argv: &[OsString]) -> Help {
        let before = argv.iter().take_while(|word| *word != "--").map(|word| word.as_encoded_bytes());
        let is_short =
            |word: &[u8]| matches!(word, [b'-', letter, .., b'h'] if *letter != b'-') || word == b"-h";
        if before.into_iter().any(is_short) { Help::Short } else { Help::Long }
    }
}

fn grammar(help: Help) -> clap::Command {
    let run = RunArgs::augment_args(clap::Command::new("run"));
    let all = run.get_arguments().map(|arg| arg.get_id().as_str());
    let rare: Vec<_> = all.filter(|id| !DAILY.contains(id)).collect();
    match help {
        Help::Short => shortened(Grammar::command().override_usage(SHORT_USAGE).after_help(""), &rare),
        Help::Long => Grammar::command(),
    }
}

/// Without the rare options of builds, and without headings, which take as many lines as the options.
fn shortened(command: clap::Command, rare: &[&str]) -> clap::Command {
    let is_rare = |arg: &Arg| arg.get_help_heading().is_some() && rare.contains(&arg.get_id().as_str());
    if !command.get_arguments().any(is_rare) {
        return command.mut_subcommands(|below| shortened(below, rare));
    }
    let name = command.get_name();
    let line = match name {
        "fastbuild" => {
            "`fastbuild --help` shows all options, with examples, variables and exit codes.".to_owned()
        }
        _ => format!("`fastbuild {name} --help` shows all options."),
    };
    let before = command.get_after_help().map(ToString::to_string).filter(|text| !text.is_empty());
    let after = before.into_iter().chain([line]).collect::<Vec<_>>().join("\n\n");
    let command = command.after_help(after).mut_args(|arg| {
        let is_rare = is_rare(&arg);
        arg.hide_short_help(is_rare).help_heading(None)
    });
    command.mut_subcommands(|below| shortened(below, rare))
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Run a command in a container, and bring its products back
    #[command(override_usage = "fastbuild [run] [OPTIONS] -- COMMAND…", after_help = EXAMPLES, args_override_self = true)]
    Run(Box<RunArgs>),
    /// Run the command, and again each time that the sources have changed
    #[command(
        override_usage = "fastbuild watch [OPTIONS] -- COMMAND…",
        after_help = WATCHING,
        args_override_self = true
    )]
    Watch(Box<WatchArgs>),
    /// Say what a run would do and who decided that, and touch nothing
    #[command(override_usage = "fastbuild plan [OPTIONS] [--json] -- COMMAND…", args_override_self = true)]
    Plan(Box<PlanArgs>),
    /// Measure what disk and routes cost here, and say which route to take
    #[command(
        override_usage = "fastbuild bench [OPTIONS] [-- COMMAND…]",
        after_help = BENCHING,
        args_override_self = true
    )]
    Bench(Box<BenchArgs>),
    /// List, inspect, enter and remove the workspaces of builds
    Workspace {
        #[command(subcommand)]
        command: WorkspaceCommand,
    },
    /// List, bring back and remove what builds moved to the safe place
    Recover {
        #[command(subcommand)]
        command: RecoverCommand,
    },
    /// Remove what only this project's workspace has
    ///
    /// That is what is kept there, and what builds left beside their outputs.
    #[command(args_override_self = true)]
    Clean(CleanArgs),
    /// Let fastbuild.toml, as it is now, bring outputs out of the project
    #[command(args_override_self = true)]
    Trust(TrustArgs),
    /// Say what builds do with a path, and when it last travelled
    #[command(
        override_usage = "fastbuild why [OPTIONS] PATH… [-- COMMAND…]",
        after_help = EXPLAINING,
        args_override_self = true
    )]
    Why(Box<WhyArgs>),
    /// Say what may cost time on this machine, and what to do about it
    #[command(after_help = DIAGNOSIS, args_override_self = true)]
    Doctor(LookArgs),
    /// Show this project's workspace, its builds, and what changed here
    #[command(after_help = STANDING, args_override_self = true)]
    Status(LookArgs),
    #[command(name = "__ask", hide = true, disable_help_flag = true)]
    Ask {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    #[command(name = "__reap", hide = true, disable_help_flag = true)]
    Reap {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
}

/// A flag that chooses between two.
fn either<T: Copy + Send + Sync + 'static>(given: T, absent: T) -> impl TypedValueParser<Value = T> {
    BoolValueParser::new().map(move |is_given| if is_given { given } else { absent })
}

/// What `fastbuild watch` takes.
#[derive(Debug, Clone, Args)]
pub struct WatchArgs {
    /// Clear the screen before each build, if standard output is a terminal
    #[arg(long)]
    pub clear: bool,
    /// The run that is repeated.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What `fastbuild plan` takes.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// Print the plan as JSON
    #[arg(long = "json", action = ArgAction::SetTrue, value_parser = either(PlanFormat::Json, PlanFormat::Text))]
    pub format: PlanFormat,
    /// The run that is planned.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What `fastbuild why` takes.
#[derive(Debug, Clone, Args)]
pub struct WhyArgs {
    /// Files and directories, here or gone
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Print an array of JSON objects
    #[arg(long = "json", action = ArgAction::SetTrue, value_parser = either(PlanFormat::Json, PlanFormat::Text))]
    pub format: PlanFormat,
    /// The run that is asked about.
    #[command(flatten)]
    run: RunArgs,
}

impl WhyArgs {
    /// That run. Which image it has makes no difference, nor which command where none is named.
    pub fn as_run(&self) -> RunArgs {
        let mut run = self.run.clone();
        if run.command.is_empty() {
            run.command.push("true".into());
        }
        run.image.get_or_insert_with(|| "none".to_owned());
        run
    }
}

/// What `fastbuild plan` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanFormat {
    /// An aligned table.
    Text,
    /// One JSON object.
    Json,
}

/// What `fastbuild doctor` and `fastbuild status` take.
#[derive(Debug, Clone, Args)]
pub struct LookArgs {
    /// Print a JSON object
    #[arg(long = "json", action = ArgAction::SetTrue, value_parser = either(PlanFormat::Json, PlanFormat::Text))]
    pub format: PlanFormat,
    /// Where.
    #[command(flatten)]
    pub place: Where,
}

/// What `fastbuild workspace` does.
#[derive(Debug, Clone, Subcommand)]
pub enum WorkspaceCommand {
    /// List the workspaces on the engine, the last used first
    #[command(args_override_self = true)]
    Ls(LsArgs),
    /// Show all that is known of a workspace
    #[command(args_override_self = true)]
    Inspect(InspectArgs),
    /// Run a shell, or the command after `--`, in this project's workspace as it is; nothing goes in or comes back
    #[command(args_override_self = true)]
    Shell(ShellArgs),
    /// Keep paths no longer: the next build has there what is here
    #[command(args_override_self = true)]
    Unkeep(UnkeepArgs),
    /// Remove workspaces, with all that builds left in them; the next build makes a new one
    #[command(args_override_self = true)]
    Rm(RmArgs),
    /// Remove workspaces that were not used for long, or while all of them hold too much
    #[command(args_override_self = true)]
    Prune(PruneArgs),
}

/// What `fastbuild recover` does.
#[derive(Debug, Clone, Subcommand)]
pub enum RecoverCommand {
    /// List what was moved, the last first: when, why, from where, and by which command
    #[command(args_override_self = true)]
    Ls(MovedArgs),
    /// Put things back where they were; what is there now is moved to the safe place in their stead
    #[command(args_override_self = true)]
    Get(GetArgs),
    /// Remove things from the safe place for ever
    #[command(args_override_self = true)]
    Rm(ForgetArgs),
}

/// What `fastbuild recover ls` takes.
#[derive(Debug, Clone, Args)]
pub struct MovedArgs {
    /// List what was moved in all projects
    #[arg(short, long)]
    pub all: bool,
    /// Print an array of JSON objects
    #[arg(long, value_name = "json", default_value = "table", hide_default_value = true, value_parser = list_format)]
    pub format: ListFormat,
    /// Source root of the project that is meant [default: as for a build]
    #[arg(short = 'C', long, value_name = "DIR")]
    pub source: Option<PathBuf>,
}

fn list_format(word: &str) -> Result<ListFormat, &'static str> {
    match word {
        "json" => Ok(ListFormat::Json),
        "table" => Ok(ListFormat::Table),
        _ => Err("a listing is a table, or json"),
    }
}

/// What `fastbuild recover get` takes.
#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// What `recover ls` calls it, or the path that it had: the last version is meant then, and of a directory all that was in it
    #[arg(required = true, value_name = "ID|PATH")]
    pub words: Vec<OsString>,
    /// Put it there, where nothing may be; into it, if that is a directory
    #[arg(long, value_name = "HOST")]
    pub to: Option<PathBuf>,
}

/// What `fastbuild recover rm` takes.
#[derive(Debug, Clone, Args)]
pub struct ForgetArgs {
    /// What `recover ls` calls it, or the path that it had: all versions are meant then
    #[arg(conflicts_with = "all", required_unless_present = "all", value_name = "ID|PATH")]
    pub words: Vec<OsString>,
    /// Remove all that was moved in this project
    #[arg(short, long)]
    pub all: bool,
    /// Source root of the project that --all means [default: as for a build]
    #[arg(short = 'C', long, value_name = "DIR")]
    pub source: Option<PathBuf>,
}

/// Where workspaces are looked for.
#[derive(Debug, Clone, Default, Args)]
pub struct Where {
    /// Address of the engine [default: DOCKER_HOST, else this machine's]
    #[arg(short = 'H', long, value_name = "ADDRESS")]
    pub host: Option<String>,
    /// Source root of the project that is meant where none is named [default: as for a build]
    #[arg(short = 'C', long, value_name = "DIR")]
    pub source: Option<PathBuf>,
}

/// How a listing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListFormat {
    /// An aligned table.
    Table,
    /// A JSON array.
    Json,
    /// A name a line.
    Names,
}

/// What `fastbuild workspace ls` takes.
#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Print an array of JSON objects
    #[arg(long, overrides_with = "quiet")]
    json: bool,
    /// Print only names, and measure nothing
    #[arg(short, long, overrides_with = "json")]
    quiet: bool,
    /// Where.
    #[command(flatten)]
    pub place: Where,
}

impl LsArgs {
    /// `--json`, `--quiet` or neither.
    pub fn format(&self) -> ListFormat {
        match (self.json, self.quiet) {
            (true, _) => ListFormat::Json,
            (_, true) => ListFormat::Names,
            _ => ListFormat::Table,
        }
    }
}

/// What `fastbuild workspace inspect` takes.
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// A workspace's name, or its project's directory [default: this project's]
    pub workspace: Option<OsString>,
    /// Print a JSON object
    #[arg(long = "json", action = ArgAction::SetTrue, value_parser = either(PlanFormat::Json, PlanFormat::Text))]
    pub format: PlanFormat,
    /// Where.
    #[command(flatten)]
    pub place: Where,
}

/// What `fastbuild workspace unkeep` takes.
#[derive(Debug, Clone, Args)]
pub struct UnkeepArgs {
    /// As it was named: a path below the source root, or a pattern
    #[arg(required = true, value_name = "PATH")]
    pub patterns: Vec<String>,
    /// Where.
    #[command(flatten)]
    pub place: Where,
}

/// What `fastbuild trust` takes.
#[derive(Debug, Clone, Args)]
pub struct TrustArgs {
    /// Trust it no longer
    #[arg(long = "revoke", action = ArgAction::SetTrue, value_parser = either(Trust::Revoke, Trust::Give))]
    pub trust: Trust,
    /// Where the file is looked for, upwards from there [default: the current directory]
    #[arg(short = 'C', long, value_name = "DIR")]
    pub source: Option<PathBuf>,
}

/// What `fastbuild clean` takes.
#[derive(Debug, Clone, Args)]
pub struct CleanArgs {
    /// What is removed, with all below it, as far as only the workspace has it
    #[arg(conflicts_with = "all", required_unless_present = "all", value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Remove all that only the workspace has
    #[arg(short, long)]
    pub all: bool,
    /// Where.
    #[command(flatten)]
    pub place: Where,
}

/// What `fastbuild workspace shell` takes.
#[derive(Debug, Clone, Args)]
pub struct ShellArgs {
    /// User (and group) in place of the build's
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// The command and its arguments [default: bash if the image has it, else sh]
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Where.
    #[command(flatten)]
    pub place: Where,
}

/// What `fastbuild workspace rm` takes.
#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// Names of workspaces, or directories of projects [default: this project's]
    #[arg(conflicts_with = "all")]
    pub workspaces: Vec<OsString>,
    /// Remove every workspace that was made from here
    #[arg(short, long)]
    pub all: bool,
    /// Where.
    #[command(flatten)]
    pub place: Where,
}

/// What `fastbuild workspace prune` takes.
#[derive(Debug, Clone, Args)]
pub struct PruneArgs {
    /// Remove what was not used for so long: 12h, 7d
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub older_than: Option<Duration>,
    /// While all together hold more, remove the one that was not used for the longest time: 5g
    #[arg(long, value_name = "SIZE", value_parser = units::memory)]
    pub max_size: Option<u64>,
    /// Remove all that are not in use
    #[arg(short, long, conflicts_with_all = ["older_than", "max_size"])]
    pub all: bool,
    /// Remove the caches (--cache) that were made from here and that no workspace has, too
    #[arg(long, action = ArgAction::SetTrue, value_parser = either(Caches::Included, Caches::Kept))]
    pub caches: Caches,
    /// Only say what would be removed
    #[arg(short = 'n', long = "dry-run", action = ArgAction::SetTrue, value_parser = either(Earnest::DryRun, Earnest::Removing))]
    pub earnest: Earnest,
    /// Where.
    #[command(flatten)]
    pub place: Where,
}

/// Whether a removal is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earnest {
    /// It is.
    Removing,
    /// It is only told.
    DryRun,
}

/// What `fastbuild [run]` takes. A field is what was typed, `None` when it was not.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// Image to run the command in
    #[arg(short, long, value_name = "IMAGE", help_heading = "What runs, and where")]
    pub image: Option<String>,
    /// Directory in the container that stands for the source root [default: /workspace]
    #[arg(short, long, value_name = "DIR", help_heading = "What runs, and where")]
    pub workdir: Option<String>,
    /// Variable for the command (may be repeated)
    ///
    /// Without a value, it has this machine's.
    #[arg(short, long, value_name = "NAME[=VALUE]", help_heading = "What runs, and where")]
    pub env: Vec<String>,
    /// File of environment variables, in docker's format (may be repeated)
    #[arg(long, value_name = "FILE", help_heading = "What runs, and where")]
    pub env_file: Vec<PathBuf>,
    /// User (and group) in place of the image's
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "What runs, and where")]
    pub user: Option<String>,
    /// Program in place of the image's entry point; an empty one means none
    #[arg(long, value_name = "PROGRAM", help_heading = "What runs, and where")]
    pub entrypoint: Option<String>,

    /// Source root: what the build sees
    ///
    /// [default: the directory of the nearest fastbuild.toml upwards, else this one]
    #[arg(short = 'C', long, value_name = "DIR", help_heading = "What goes in")]
    pub source: Option<PathBuf>,
    /// What `--keep-path`, `--exclude` and `--include` said, in their common order.
    #[command(flatten)]
    pub rules: IgnoreRules,
    /// Do not read .fastbuildignore
    #[arg(long, overrides_with = "ignore", help_heading = "What goes in")]
    pub(crate) no_ignore: bool,
    #[arg(long, hide = true, overrides_with = "no_ignore")]
    pub(crate) ignore: bool,
    /// Take `/` or the home directory as source root all the same
    #[arg(long, help_heading = "What goes in")]
    pub yes: bool,

    /// Path that comes back, and what it becomes here
    ///
    /// May be repeated. [default: the preset's, else all changes]
    ///
    /// A relative PATH starts at the command's directory. A PATH with `*`, `?` or `[` is a pattern, as those of ignore files are
    /// (`**/*.o`, quoted), unless there is something that is called so. `PATH/` follows a link to a directory, `PATH/.`
    /// means the contents of PATH, `HOST/` (and a HOST that ends in `.` or `..`) means into HOST. Without HOST, what lies below the source root comes back in its place,
    /// anything else by its name into the current directory. The first colon divides, but for one of a drive letter
    /// with a backslash (C:\out).
    #[arg(short, long, value_name = "PATH[:HOST]", help_heading = "What comes back")]
    pub output: Vec<OsString>,
    /// Bring products back even if the command fails
    #[arg(long, overrides_with = "no_outputs_on_failure", help_heading = "What comes back")]
    pub(crate) outputs_on_failure: bool,
    #[arg(long, hide = true, overrides_with = "outputs_on_failure")]
    pub(crate) no_outputs_on_failure: bool,
    /// Exchange each output directory as one
    #[arg(long, overrides_with = "no_atomic", help_heading = "What comes back")]
    pub(crate) atomic: bool,
    #[arg(long, hide = true, overrides_with = "atomic")]
    pub(crate) no_atomic: bool,

    /// Keep the workspace for the next build, in CI too
    #[arg(long, overrides_with = "no_keep", help_heading = "Workspace")]
    pub(crate) keep: bool,
    /// Build in a fresh container that is gone afterwards
    ///
    /// Nothing is left on the engine. [default where CI is set]
    #[arg(long, overrides_with = "keep", help_heading = "Workspace")]
    pub(crate) no_keep: bool,
    /// Build by the plain Engine API, as where no agent can run
    #[arg(long, hide = true)]
    pub no_agent: bool,
    /// Start over, with nothing of earlier builds
    #[arg(long, help_heading = "Workspace")]
    pub fresh: bool,
    /// How long a build goes on when its client is not heard of any more over a network, such as 90s or 15m [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = units::duration, help_heading = "Workspace")]
    pub grace: Option<Duration>,
    /// Fail at once if another run works in this project, instead of waiting for it
    #[arg(long, help_heading = "Workspace")]
    pub no_wait: bool,
    /// Say for each file that travels why it does
    #[arg(long, help_heading = "Workspace")]
    pub explain: bool,

    /// How the files travel [default: auto]
    ///
    /// One of auto, layer, tmpfs, volume, mount-source, mount and host. layer: into the container's own layer. tmpfs, volume: into a tmpfs or an engine-managed volume in its place.
    /// mount-source: the sources are mounted read-only, each output lies in the engine's own storage. mount: everything
    /// is mounted, as with `docker run -v`. host: no container, a scratch directory of this machine. auto goes by what
    /// is found here.
    #[arg(long, value_name = "ROUTE", value_parser = choose::<RouteChoice>, help_heading = "Route")]
    pub route: Option<RouteChoice>,
    /// If the mount itself fails the command, run it once more on layer [default with --route auto]
    #[arg(long, overrides_with = "no_fallback", help_heading = "Route")]
    pub(crate) fallback: bool,
    #[arg(long, hide = true, overrides_with = "fallback")]
    pub(crate) no_fallback: bool,
    /// Directory that is kept in a volume across workspaces, this project's own, or, such as shared:cargo:~/.cargo, one of all
    /// projects (may be repeated)
    #[arg(long, value_name = "[shared:]NAME:PATH", help_heading = "Route")]
    pub cache: Vec<String>,
    /// Option for the volume of --route volume, such as type=nfs (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Route")]
    pub volume_opt: Vec<String>,
    /// How large the tmpfs of --route tmpfs may become [default: half of the memory]
    #[arg(long, value_name = "SIZE", value_parser = units::memory, help_heading = "Route")]
    pub tmpfs_size: Option<u64>,
    /// Where --route host puts its scratch directory [default: the fastest local file system with room]
    #[arg(long, value_name = "DIR", help_heading = "Route")]
    pub scratch: Option<PathBuf>,

    /// Where to build: auto, docker or host
    ///
    /// [default: auto, a container engine where one is]
    #[arg(long, value_name = "ENGINE", value_parser = choose::<EngineChoice>, help_heading = "Engine")]
    pub engine: Option<EngineChoice>,
    /// Address of the engine
    ///
    /// [default: DOCKER_HOST, else this machine's]
    #[arg(short = 'H', long, value_name = "ADDRESS", help_heading = "Engine")]
    pub host: Option<String>,
    /// Platform of the image
    #[arg(long, value_name = "OS/ARCH", help_heading = "Engine")]
    pub platform: Option<String>,
    /// When to ask the registry: missing, always or never [default: missing]
    #[arg(long, value_name = "WHEN", value_parser = choose::<PullPolicy>, help_heading = "Engine")]
    pub pull: Option<PullPolicy>,
    /// What else the container is made with.
    #[command(flatten)]
    pub container: ContainerArgs,

    /// Give the command a terminal [default: if standard input, output and error are all terminals]
    #[arg(short, long, overrides_with = "no_tty", help_heading = "Terminal and report")]
    pub(crate) tty: bool,
    /// Keep standard output and standard error apart, on a terminal too
    #[arg(long, overrides_with = "tty", help_heading = "Terminal and report")]
    pub(crate) no_tty: bool,
    /// Hand standard input to the command [default: only if it has a terminal]
    #[arg(long, overrides_with = "no_stdin", help_heading = "Terminal and report")]
    pub(crate) stdin: bool,
    #[arg(long, hide = true, overrides_with = "stdin")]
    pub(crate) no_stdin: bool,
    /// How to report: auto, bar, plain, json or none [default: auto]
    #[arg(long, value_name = "HOW", value_parser = choose::<Progress>, help_heading = "Terminal and report")]
    pub progress: Option<Progress>,
    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Terminal and report")]
    pub quiet: bool,
    /// Say more; twice, still more
    #[arg(short, long, action = ArgAction::Count, help_heading = "Terminal and report")]
    pub verbose: u8,

    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND", num_args = 0.., hide = true)]
    pub command: Vec<OsString>,
}

/// One `--keep-path`, `--exclude` or `--include`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IgnoreRule {
    /// What matches stays in the workspace.
    Keep(String),
    /// Leave out what matches.
    Exclude(String),
    /// An exception from the rules before it.
    Include(String),
}

/// `--keep-path`, `--exclude` and `--include` in the order in which they were typed: later rules win, so the order between
/// them matters, which clap's derive does not keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoreRules(pub Vec<IgnoreRule>);

impl Args for IgnoreRules {
    fn augment_args(command: clap::Command) -> clap::Command {
        let pattern = |name: &'static str, value: &'static str, help: &'static str, more: &'static str| {
            Arg::new(name)
                .long(name)
                .value_name(value)
                .help(help)
                .long_help(format!("{help}{more}"))
                .action(ArgAction::Append)
                .allow_hyphen_values(true)
                .help_heading("What goes in")
        };
        let kept = "\n\nA path or pattern: it is neither sent nor brought back. May be repeated.";
        let syntax = "\n\nIn .dockerignore's syntax. May be repeated.";
        command
            .arg(pattern("keep-path", "PATH", "Path that stays in the workspace", kept))
            .arg(pattern("exclude", "PATTERN", "Leave out what matches", syntax))
            .arg(pattern("include", "PATTERN", "Exception from the rules before it (may be repeated)", ""))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        IgnoreRules::augment_args(command)
    }
}

impl FromArgMatches for IgnoreRules {
    fn from_arg_matches(matches: &ArgMatches) -> Result<IgnoreRules, clap::Error> {
        let typed = |name, rule: fn(String) -> IgnoreRule| {
            let values = matches.get_many::<String>(name).unwrap_or_default().cloned();
            matches.indices_of(name).into_iter().flatten().zip(values.map(rule)).collect::<Vec<_>>()
        };
        let mut rules = typed("keep-path", IgnoreRule::Keep);
        rules.extend(typed("exclude", IgnoreRule::Exclude));
        rules.extend(typed("include", IgnoreRule::Include));
        rules.sort_by_key(|(at, _)| *at);
        Ok(IgnoreRules(rules.into_iter().map(|(_, rule)| rule).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = IgnoreRules::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Reads a command line, the program's own name first.
///
/// # Errors
/// See [`UsageError`]; `--help` and `--version` are "errors" that exit with 0.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Cli, UsageError> {
    let argv: Vec<_> = argv.into_iter().collect();
    if argv.len() < 2 {
        return Err(UsageError::Nothing);
    }
    let words = in_order(argv)?;
    let matches = grammar(Help::asked(&words)).try_get_matches_from(words);
    let grammar = matches.and_then(|found| Grammar::from_arg_matches(&found)).map_err(without_dashes_tip)?;
    let command = match grammar.command {
        None => Command::Run(Box::new(grammar.run)),
        Some(Sub::Run(run)) => Command::Run(run),
        Some(Sub::Watch(watch)) => Command::Watch(watch),
        Some(Sub::Bench(bench)) => Command::Bench(bench),
        Some(Sub::Workspace { command }) => Command::Workspace(command),
        Some(Sub::Recover { command }) => Command::Recover(command),
        Some(Sub::Clean(clean)) => Command::Clean(clean),
        Some(Sub::Trust(trust)) => Command::Trust(trust),
        Some(Sub::Why(why)) => Command::Why(why),
        Some(Sub::Plan(plan)) => Command::Plan(plan),
        Some(Sub::Doctor(doctor)) => Command::Doctor(doctor),
        Some(Sub::Status(status)) => Command::Status(status),
        Some(Sub::Ask { words }) => Command::Ask(words),
        Some(Sub::Reap { words }) => Command::Reap(words),
    };
    match &command {
        Command::Run(run) if run.command.is_empty() => Err(UsageError::NoCommand),
        Command::Watch(watch) if watch.run.command.is_empty() => Err(UsageError::NoCommand),
        Command::Plan(plan) if plan.run.command.is_empty() => Err(UsageError::NoCommand),
        Command::Bench(bench) if bench.run.command.is_empty() && bench.parts == Parts::Command => {
            Err(UsageError::NoCommand)
        }
        _ => Ok(Cli { command }),
    }
}

/// clap proposes `-- --WORD` for an option that it does not know. Here that would make the option the command.
fn without_dashes_tip(mut error: clap::Error) -> clap::Error {
    if error.kind() == clap::error::ErrorKind::UnknownArgument {
        error.remove(clap::error::ContextKind::Suggested);
    }
    error
}

/// Moves a subcommand that stands behind options (`fastbuild -C dir plan -- make`) before them, and writes the `--` that may be
/// left out: the first word that is neither an option nor a subcommand begins the command, and all behind it is the command's.
/// Whatever else is wrong is left for clap to say.
fn in_order(mut argv: Vec<OsString>) -> Result<Vec<OsString>, UsageError> {
    let options = Options::all();
    let mut subcommand = None;
    let mut at = 1;
    while let Some(word) = argv.get(at) {
        match options.classify(word) {
            Word::Dashes | Word::Unknown | Word::Help => break,
            Word::Option => at += 1,
            // clap never takes `--` for a value either, and says so better.
            Word::OptionThenValue if argv.get(at + 1).is_some_and(|value| value == "--") => break,
            Word::OptionThenValue => at += 2,
            // These have a grammar of their own, and no command of the build's behind it.
            Word::Plain if subcommand.is_none() && has_own_grammar(word) => {
                let word = argv.remove(at);
                argv.insert(1, word);
                return Ok(argv);
            }
            Word::Plain if subcommand.is_none() && is_subcommand(word) => {
                subcommand = Some(at);
                at += 1;
            }
            // As with docker and cargo: `fastbuild help plan` is `fastbuild plan --help`.
            Word::Plain if subcommand.is_none() && word == "help" => {
                argv.remove(at);
                let of_one = argv.get(at).is_some_and(|next| is_subcommand(next) || has_own_grammar(next));
                argv.insert(if of_one { at + 1 } else { at }, "--help".into());
            }
            Word::Plain => {
                refuse_looked_up_pattern(&argv, at)?;
                if subcommand.is_none() {
                    refuse_nearly_subcommand(&argv, at)?;
                }
                argv.insert(at, "--".into());
                break;
            }
        }
    }
    if let Some(at) = subcommand {
        let word = argv.remove(at);
        argv.insert(1, word);
    }
    Ok(argv)
}

/// Subcommands behind which a command of the build's may stand.
const WITH_COMMAND: [&str; 4] = ["run", "watch", "plan", "bench"];

/// The others, that people type.
const ALONE: [&str; 7] = ["workspace", "clean", "recover", "trust", "why", "doctor", "status"];

/// Programs of builds whose names are nearly a subcommand's.
const PROGRAMS: [&str; 14] = [
    "brunch", "bun", "clang", "clear", "docker", "grunt", "just", "patch", "rustc", "stat", "test", "true",
    "trunk", "which",
];

fn is_subcommand(word: &OsStr) -> bool {
    WITH_COMMAND.iter().any(|name| word == *name)
}

fn has_own_grammar(word: &OsStr) -> bool {
    ALONE.iter().chain(&["__ask", "__reap"]).any(|name| word == *name)
}

/// A word that stands between an output and `--`.
fn refuse_looked_up_pattern(argv: &[OsString], at: usize) -> Result<(), UsageError> {
    let is_output = at >= 2 && (argv[at - 2] == "-o" || argv[at - 2] == "--output");
    match argv.iter().skip(at).position(|word| word == "--") {
        Some(behind) if is_output => {
            let word = argv[at].to_string_lossy().into_owned();
            Err(UsageError::BehindOutput { word, line: spaced(&argv[at + behind + 1..]) })
        }
        _ => Ok(()),
    }
}

/// A program without `--` before it whose name is probably a misspelt subcommand.
fn refuse_nearly_subcommand(argv: &[OsString], at: usize) -> Result<(), UsageError> {
    let word = argv[at].to_string_lossy().into_owned();
    if word.contains('/') || PROGRAMS.contains(&&*word) {
        return Ok(());
    }
    // Of three letters, two are nearly all.
    let is_near = |name: &str| strsim::damerau_levenshtein(&word, name) <= if name.len() > 3 { 2 } else { 1 };
    match WITH_COMMAND.into_iter().chain(ALONE).find(|name| is_near(name)) {
        Some(nearest) => Err(UsageError::NearlySubcommand { word, nearest, line: spaced(&argv[at..]) }),
        None => Ok(()),
    }
}

fn spaced(words: &[OsString]) -> String {
    words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// What a word before `--` is.
enum Word {
    /// `--`.
    Dashes,
    /// An option that is complete.
    Option,
    /// An option whose value is the next word.
    OptionThenValue,
    /// Asks for help or the version.
    Help,
    /// Looks like an option, but does not exist.
    Unknown,
    /// No option.
    Plain,
}

/// Every option by its spelling, read from clap's definition so that there is no second list.
struct Options(Vec<Arg>);

impl Options {
    fn all() -> Options {
        let mut grammar = Grammar::command();
        grammar.build();
        let richest = ["plan", "bench", "watch"].into_iter().filter_map(|name| grammar.find_subcommand(name));
        Options(richest.flat_map(clap::Command::get_arguments).cloned().collect())
    }

    fn classify(&self, word: &OsStr) -> Word {
        let bytes = word.as_encoded_bytes();
        match bytes {
            b"--" => Word::Dashes,
            b"-h" | b"--help" | b"-V" | b"--version" => Word::Help,
            [b'-', b'-', long @ ..] => self.classify_long(long),
            [b'-', short @ ..] if !short.is_empty() => self.classify_short(short),
            _ => Word::Plain,
        }
    }

    fn classify_long(&self, long: &[u8]) -> Word {
        let name = long.split(|&b| b == b'=').next().unwrap_or_default();
        match self.0.iter().find(|arg| arg.get_long().is_some_and(|known| known.as_bytes() == name)) {
            None => Word::Unknown,
            Some(arg) if takes_value(arg) && name.len() == long.len() => Word::OptionThenValue,
            Some(_) => Word::Option,
        }
    }

    /// A bundle of single letters: the first that takes a value has the rest for it, or else the next word.
    fn classify_short(&self, letters: &[u8]) -> Word {
        for (at, letter) in letters.iter().enumerate() {
            match self.0.iter().find(|arg| arg.get_short() == Some(char::from(*letter))) {
                None => return Word::Unknown,
                Some(arg) if takes_value(arg) && at + 1 == letters.len() => return Word::OptionThenValue,
                Some(arg) if takes_value(arg) => return Word::Option,
                Some(_) => {}
            }
        }
        Word::Option
    }
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(line: &[&str]) -> Result<Cli, UsageError> {
        parse(std::iter::once("fastbuild").chain(line.iter().copied()).map(OsString::from))
    }

    fn run(line: &[&str]) -> RunArgs {
        match parse_words(line).unwrap().command {
            Command::Run(run) => *run,
            other => panic!("{line:?} gave {other:?}"),
        }
    }

    #[test]
    fn the_grammar_is_sound() {
        Grammar::command().debug_assert();
    }

    #[test]
    fn run_is_what_happens_without_a_subcommand() {
        for line in [
            &["-i", "img", "--", "make", "all"][..],
            &["run", "-i", "img", "--", "make", "all"],
            &["-i", "img", "run", "--", "make", "all"],
            &["-iimg", "--", "make", "all"],
            &["--image=img", "--", "make", "all"],
            &["-vi", "img", "run", "--", "make", "all"],
        ] {
            let args = run(line);
            assert_eq!(args.image.as_deref(), Some("img"), "{line:?}");
            assert_eq!(args.command, ["make", "all"], "{line:?}");
        }
    }

    #[test]
    fn words_after_the_dashes_belong_to_the_build() {
        for command in
            [&["plan"][..], &["run", "--", "x"], &["--help"], &["-i", "x"], &["__reap"], &["--", "--"]]
        {
            let line = [&["-i", "img", "--"], command].concat();
            assert_eq!(run(&line).command, command);
            assert_eq!(run(&[&["--"], command].concat()).command, command);
        }
    }

    #[test]
    fn the_dashes_may_be_left_out() {
        for (line, command) in [
            (&["make", "all"][..], &["make", "all"][..]),
            (&["-i", "img", "make", "-j2"], &["make", "-j2"]),
            (&["run", "npm", "run", "build", "--", "--prod"], &["npm", "run", "build", "--", "--prod"]),
            (&["-o", "dist", "npm", "run", "build"], &["npm", "run", "build"]),
            (&["run", "plna"], &["plna"]),
            (&["sh", "-c", "true"], &["sh", "-c", "true"]),
            (&["./plan"], &["./plan"]),
            (&["clang", "x.c"], &["clang", "x.c"]),
            (&["true"], &["true"]),
            (&["make", "--help"], &["make", "--help"]),
            (&["--", "plna"], &["plna"]),
        ] {
            assert_eq!(run(line).command, command, "{line:?}");
        }
        let Command::Plan(plan) = parse_words(&["plan", "make", "--json"]).unwrap().command else { panic!() };
        assert_eq!(
            (plan.format, &*plan.run.command),
            (PlanFormat::Text, &["make".into(), "--json".into()][..])
        );
    }

    #[test]
    fn plan_takes_the_flags_of_run_before_and_behind_it() {
        for line in [
            &["plan", "-C", "run", "--json", "--", "plan"][..],
            &["-C", "run", "plan", "--json", "--", "plan"],
        ] {
            let Command::Plan(plan) = parse_words(line).unwrap().command else { panic!("{line:?}") };
            assert_eq!(plan.format, PlanFormat::Json);
            assert_eq!(plan.run.source, Some(PathBuf::from("run")));
            assert_eq!(plan.run.command, ["plan"]);
        }
    }

    #[test]
    fn watch_takes_the_flags_of_run_before_and_behind_it() {
        let before_and_behind = [
            &["watch", "-i", "img", "--", "make"][..],
            &["-i", "img", "watch", "--", "make"],
            &["--clear", "watch", "-i", "img", "make"],
        ];
        for line in before_and_behind {
            let Command::Watch(watch) = parse_words(line).unwrap().command else { panic!("{line:?}") };
            let (run, clear) = (watch.run, watch.clear);
            assert_eq!(clear, line.contains(&"--clear"));
            assert_eq!((run.image.as_deref(), run.command), (Some("img"), vec!["make".into()]));
        }
        assert_eq!(run(&["--", "watch"]).command, ["watch"]);
        assert!(matches!(parse_words(&["watch"]), Err(UsageError::NoCommand)));
    }

    #[test]
    fn workspace_has_commands_of_its_own() {
        let Command::Workspace(WorkspaceCommand::Rm(rm)) =
            parse_words(&["workspace", "rm", "-H", "tcp://x", "a", "b"]).unwrap().command
        else {
            panic!()
        };
        assert_eq!(
            (rm.workspaces, rm.place.host.as_deref()),
            (vec!["a".into(), "b".into()], Some("tcp://x"))
        );
        let Command::Workspace(WorkspaceCommand::Prune(prune)) =
            parse_words(&["workspace", "prune", "--older-than", "7d", "-n"]).unwrap().command
        else {
            panic!()
        };
        assert_eq!((prune.older_than, prune.earnest), (Some(Duration::from_secs(604_800)), Earnest::DryRun));
        let Command::Workspace(WorkspaceCommand::Ls(ls)) =
            parse_words(&["workspace", "ls", "-q", "--json"]).unwrap().command
        else {
            panic!()
        };
        assert_eq!(ls.format(), ListFormat::Json);
        for (line, said) in [
            (&["workspace", "prune", "--older-than", "7"][..], "invalid duration"),
            (&["workspace", "prune", "--all", "--max-size", "1g"], "cannot be used with"),
            (&["workspace", "rm", "--all", "x"], "cannot be used with"),
            (&["workspace"], "Usage: fastbuild workspace <COMMAND>"),
            (&["workspace", "list"], "unrecognized subcommand"),
        ] {
            let error = parse_words(line).unwrap_err();
            assert!(error.to_string().contains(said) && error.exit_code() == 125, "{line:?} said {error}");
        }
        assert_eq!(parse_words(&["help", "workspace"]).unwrap_err().exit_code(), 0);
        assert_eq!(parse_words(&["workspace", "prune", "--help"]).unwrap_err().exit_code(), 0);
    }

    #[test]
    fn doctor_needs_no_command() {
        let doctor = |line: &[&str]| match parse_words(line).unwrap().command {
            Command::Doctor(doctor) => doctor,
            other => panic!("{line:?} gave {other:?}"),
        };
        assert_eq!(doctor(&["doctor"]).format, PlanFormat::Text);
        for line in [
            &["doctor", "-C", "dir", "-H", "tcp://x", "--json"][..],
            &["-C", "dir", "-H", "tcp://x", "doctor", "--json"],
        ] {
            let there = doctor(line);
            assert_eq!(there.format, PlanFormat::Json);
            assert_eq!(
                (there.place.source, there.place.host.as_deref()),
                (Some("dir".into()), Some("tcp://x"))
            );
        }
        assert_eq!(run(&["--", "doctor"]).command, ["doctor"]);
        assert_eq!(parse_words(&["doctor", "--", "make"]).unwrap_err().exit_code(), 125);
        assert_eq!(parse_words(&["help", "doctor"]).unwrap_err().exit_code(), 0);
    }

    #[test]
    fn the_reaper_gets_its_words_as_they_are() {
        let Command::Reap(words) = parse_words(&["__reap", "--help", "-x", "y"]).unwrap().command else {
            panic!()
        };
        assert_eq!(words, ["--help", "-x", "y"]);
    }

    #[test]
    fn excludes_and_includes_keep_their_common_order() {
        let args = run(&["--exclude", "a", "--include", "a/b", "--exclude=-c", "--include", "d", "--", "x"]);
        let expected = [
            IgnoreRule::Exclude("a".into()),
            IgnoreRule::Include("a/b".into()),
            IgnoreRule::Exclude("-c".into()),
            IgnoreRule::Include("d".into()),
        ];
        assert_eq!(args.rules.0, expected);
    }

    #[test]
    fn the_last_of_two_opposite_flags_wins() {
        let args = run(&["--atomic", "--no-atomic", "--no-tty", "-t", "--no-ignore", "--ignore", "--", "x"]);
        assert!(args.no_atomic && !args.atomic && args.tty && !args.no_tty && args.ignore && !args.no_ignore);
        assert!(!args.stdin && !args.no_stdin);
        assert_eq!(run(&["-i", "a", "-i", "b", "--", "x"]).image.as_deref(), Some("b"));
        assert_eq!(run(&["-o", "a", "-o", "b", "--", "x"]).output, ["a", "b"]);
    }

    #[test]
    fn wrong_usage_exits_with_125_and_says_what_to_write() {
        let cases: [(&[&str], &str); 15] = [
            (&[], "fastbuild -- jekyll build"),
            (&["--"], "there is no command to run"),
            (&["plan", "-i", "x"], "there is no command to run"),
            (&["run"], "there is no command to run"),
            (
                &["plna", "x"],
                "did you mean `fastbuild plan`? A program of that name is run by `fastbuild -- plna x`",
            ),
            (&["-i", "img", "wacth", "--", "x"], "did you mean `fastbuild watch`?"),
            (&["docter"], "did you mean `fastbuild doctor`?"),
            (&["rnu", "make"], "did you mean `fastbuild run`?"),
            (&["-o", "a.o", "b.o", "--", "make", "x"], "as in `fastbuild -o '**/*.o' -- make x`"),
            (&["--imge", "x", "--", "y"], "a similar argument exists: '--image'"),
            (
                &["--pull", "nevr", "--", "y"],
                "invalid value \"nevr\": expected one of missing, always, never; did you mean never?",
            ),
            (&["-m", "2x", "--", "y"], "2x"),
            (&["--cpus", "-1", "--", "y"], "-1"),
            (&["-q", "-v", "--", "y"], "cannot be used with"),
            (&["-i", "--", "y"], "a value is required"),
        ];
        for (line, said) in cases {
            let error = parse_words(line).unwrap_err();
            assert_eq!(error.exit_code(), 125, "{line:?}");
            assert!(error.to_string().contains(said), "{line:?} said {error}");
        }
    }

    #[test]
    fn an_option_that_is_none_is_not_proposed_as_the_command() {
        let told = parse_words(&["--exlude", "x", "--", "make"]).unwrap_err().to_string();
        assert!(told.contains("'--exclude'") && !told.contains("'-- --exlude'"), "{told}");
    }

    #[test]
    fn help_is_there_by_the_word_too() {
        let help = |line: &[&str]| parse_words(line).unwrap_err().to_string();
        assert_eq!(help(&["help"]), help(&["--help"]));
        assert_eq!(help(&["help", "plan"]), help(&["plan", "--help"]));
        assert_eq!(run(&["--", "help"]).command, ["help"]);
    }

    #[test]
    fn help_and_version_exit_with_0() {
        for line in [
            &["--help"][..],
            &["-h"],
            &["-V"],
            &["plan", "-V"],
            &["watch", "--help"],
            &["plan", "--help"],
            &["run", "-h"],
            &["-i", "x", "--help"],
        ] {
            assert_eq!(parse_words(line).unwrap_err().exit_code(), 0, "{line:?}");
        }
    }

    /// The help of a command and those below it, as on a terminal with so many columns.
    fn helps(command: clap::Command, columns: usize) -> Vec<(String, String)> {
        let below = command.get_subcommands().filter(|below| !below.is_hide_set()).cloned();
        let of_below = below.flat_map(|below| helps(below, columns)).collect::<Vec<_>>();
        let help = command.clone().term_width(columns).render_help().to_string();
        [vec![(command.get_name().to_owned(), help)], of_below].concat()
    }

    #[test]
    fn the_short_help_fits_on_a_screen_and_names_the_long_one() {
        let all = helps(grammar(Help::Short), 80);
        assert!(all.len() > 18, "{all:?}");
        for (name, help) in all {
            assert!(help.lines().count() <= 40, "{name} has {}:\n{help}", help.lines().count());
            assert!(help.lines().all(|line| line.chars().count() <= 80), "{name}:\n{help}");
            if help.contains("--image") {
                let last = help.trim_end().lines().last().unwrap();
                assert!(last.contains("--help` shows all options"), "{name}:\n{help}");
            }
        }
        for (name, help) in helps(grammar(Help::Short), 40) {
            assert!(help.lines().all(|line| line.chars().count() <= 60), "{name}:\n{help}");
        }
        assert_eq!(Help::asked(&["fastbuild", "-vh"].map(OsString::from)), Help::Short);
        assert_eq!(Help::asked(&["fastbuild", "--", "-h"].map(OsString::from)), Help::Long);
    }

    #[test]
    fn the_long_help_has_every_option_and_variable() {
        let help = parse_words(&["--help"]).unwrap_err().to_string();
        let options = RunArgs::augment_args(clap::Command::new("run"));
        for long in options.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(Arg::get_long) {
            assert!(help.contains(&format!("--{long}")), "{long}");
        }
        assert!(help.contains("FASTBUILD_SHM_SIZE"), "{help}");
    }

    #[test]
    fn help_shows_three_examples_and_groups() {
        let help = parse_words(&["--help"]).unwrap_err().to_string();
        assert_eq!(help.matches("\n  fastbuild ").count(), 3, "{help}");
        for heading in
            ["What runs, and where:", "What goes in:", "What comes back:", "Engine:", "FASTBUILD_IMAGE"]
        {
            assert!(help.contains(heading), "{heading} is not in\n{help}");
        }
    }
}
