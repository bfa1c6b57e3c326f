//! The command line: what users type -> [`args::Cli`] -> one thin file per command.

pub mod bench;
pub mod doctor;
pub mod plan;
pub mod recover;
pub mod run;
pub mod status;
pub mod trust;
pub mod watch;
pub mod why;
pub mod workspace;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use crate::{
    args::{self, Command, OWN_FAILURE},
    bench::{artifacts, run::BenchError, save::SaveError},
    build::reaper,
    config::{ConfigError, NoStateDirectory},
    facts::{NoAnswer, probe},
    outputs::safe::list::PutError,
    plan::PlanError,
    report::{Look, Tone, events, wording},
    state::{Holder, StateError},
    workspace::WorkspaceError,
};

/// A failure before a build. A build that began fails with [`crate::build::BuildError`].
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The settings are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The plan cannot be made.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The ignore rules or the source tree are wrong.
    #[error(transparent)]
    Sources(#[from] crate::build::BuildError),
    /// There is no place for fastbuild's own files.
    #[error(transparent)]
    StateDirectory(#[from] NoStateDirectory),
    /// The current directory cannot be read.
    #[error("could not read the current directory: {0}; it may have been removed: change to one that exists")]
    CurrentDirectory(#[source] io::Error),
    /// The source root is on a file system that hangs.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// Threads cannot be started.
    #[error("could not start fastbuild's threads: {0}; see the limit on processes (ulimit -u)")]
    Runtime(#[source] io::Error),
    /// A workspace or its engine fails.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The state directory fails.
    #[error(transparent)]
    State(#[from] StateError),
    /// The word names no workspace.
    #[error("no workspace is called {word:?}, and none belongs to a project there")]
    NoSuchWorkspace {
        /// The word.
        word: OsString,
    },
    /// The word names nothing in the safe place.
    #[error("nothing in the safe place is called {word:?} or was at that path")]
    NotInSafePlace {
        /// The word.
        word: OsString,
    },
    /// Several entries would go to one place.
    #[error("{count} things in the safe place are meant, and --to takes one")]
    SeveralToOne {
        /// How many.
        count: usize,
    },
    /// An entry could not be put back.
    #[error(transparent)]
    Put(#[from] PutError),
    /// Some of the workspaces to remove are in use.
    #[error("{}", busy(in_use))]
    InUse {
        /// Source root and holder of each.
        in_use: Vec<(String, Option<Holder>)>,
    },
    /// There is no file to trust.
    #[error("there is no fastbuild.toml in {start:?} or above it")]
    NoFile {
        /// The directory where the search began.
        start: PathBuf,
    },
    /// A bench failed.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// No place and no route could be measured. Each row has its reason.
    #[error("nothing could be measured; each row above says why")]
    NothingMeasured,
    /// The choice of a bench could not be saved.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The page of a bench could not be written.
    #[error("could not write the page {path:?}")]
    Page {
        /// The path of the page.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Standard output cannot be written to.
    #[error("could not write to standard output: {0}")]
    Stdout(#[source] io::Error),
}

fn busy(in_use: &[(String, Option<Holder>)]) -> String {
    let one = |(source, holder): &(String, Option<Holder>)| {
        let by = holder.as_ref().map(|Holder { pid, command }| format!(" by process {pid}, {command}"));
        format!("the workspace of {source} is in use{}", by.unwrap_or_default())
    };
    in_use.iter().map(one).collect::<Vec<_>>().join("\n")
}

impl Failure {
    /// The user's possible next step; `None` when the message is sufficient.
    fn advice(&self) -> Option<String> {
        match self {
            Failure::Sources(error) => error.advice(),
            Failure::Workspace(error) => error.advice(),
            Failure::NoAnswer(_) => Some(
                "see whether its server or its virtual machine is alive, and mount it anew; `fastbuild doctor` tells what it is"
                    .to_owned(),
            ),
            Failure::NoSuchWorkspace { .. } => Some("`fastbuild workspace ls` lists them".to_owned()),
            Failure::NotInSafePlace { .. } => Some("`fastbuild recover ls --all` lists all that is there".to_owned()),
            Failure::SeveralToOne { .. } => {
                Some("name one by its ID, which `fastbuild recover ls` shows".to_owned())
            }
            Failure::Put(PutError::IsThere(_) | PutError::LeadsElsewhere(_)) => {
                Some("name another place: `fastbuild recover get ID --to HOST`".to_owned())
            }
            Failure::InUse { .. } => Some("wait for that run to end, or end it".to_owned()),
            _ => None,
        }
    }
}

/// The main function of fastbuild. Its own panic must not look like the command's exit code.
pub fn main(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let argv: Vec<_> = argv.into_iter().collect();
    std::panic::catch_unwind(|| parse_and_run(argv)).unwrap_or(OWN_FAILURE.into())
}

fn parse_and_run(argv: Vec<OsString>) -> ExitCode {
    let cli = match args::parse(argv) {
        Ok(cli) => cli,
        Err(error) => {
            // A failed write is ignored: the exit code still reports the error.
            let _ = error.print();
            return error.exit_code().into();
        }
    };
    let done = match cli.command {
        Command::Run(args) => run::run(&args).map(|code| run::exit(code)),
        Command::Watch(args) => watch::run(&args).map(|code| run::exit(code)),
        Command::Workspace(command) => workspace::run(&command).map(|code| run::exit(code)),
        Command::Recover(command) => recover::run(&command),
        Command::Clean(args) => workspace::clean(&args).map(|code| run::exit(code)),
        Command::Plan(args) => plan::run(&args),
        Command::Bench(args) => bench::run(&args).map(|code| run::exit(code)),
        Command::Trust(args) => trust::run(&args),
        Command::Why(args) => why::run(&args),
        Command::Doctor(args) => doctor::run(&args).map(|code| run::exit(code)),
        Command::Status(args) => status::run(&args),
        Command::Ask(words) => return if probe::main(&words).is_ok() { 0 } else { OWN_FAILURE }.into(),
        Command::Reap(words) => {
            return if reaper::main(words, artifacts::sweep_at).is_ok() { 0 } else { OWN_FAILURE }.into();
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // A failed write is ignored here, too.
            let _ = write_failure(&failure);
            OWN_FAILURE.into()
        }
    }
}

/// The columns of the terminal that shows a result; `None` where it goes elsewhere.
fn width() -> Option<usize> {
    console::Term::stdout().size_checked().map(|(_, columns)| columns.into())
}

/// Prints a command's result to standard output.
fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        // The reader closed the pipe and needs no more.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Failure::Stdout),
    }
}

fn write_failure(failure: &Failure) -> io::Result<()> {
    let told = wording::failure(&events::Failure::new(failure, failure.advice().as_deref()));
    io::stderr().lock().write_all(Look::of_stderr().written(&told, Tone::ByWords).as_bytes())
}
