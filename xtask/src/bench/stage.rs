//! What the contenders of one table share: trees, containers, the command; and how each result is looked at.
//!
//! Everything on the engine carries [`LABEL`] or fastbuild's own project label, everything on disk lies in one directory, and
//! each owner removes its own when dropped, so an error and an interrupt leave nothing. What a killed bench left is
//! found by the next one ([`remove_leftovers`]).

use std::{
    cell::RefCell,
    collections::BTreeSet,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{Subject, meter::Meter};
use crate::{
    run::{self, note, scratch_dir},
    site::{self, Site},
};

/// Where the tree lies in a container.
pub const WORKDIR: &str = "/workspace";
/// On each container that the bench makes; its value is the bench's process id.
const LABEL: &str = "dev.fastbuild.bench";
/// On each container that fastbuild makes; its value is the name of the project's directory in the state.
const LABEL_PROJECT: &str = "dev.fastbuild.project";
/// What tells a kept workspace from the container of one run.
const KEPT: &str = "label=dev.fastbuild.tier=kept";
const DIRECTORY: &str = "bench-";

/// What is built, and what of it comes back.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// Program and arguments.
    pub command: &'static [&'static str],
    /// Below the working directory; none: all of it comes back.
    pub output: Option<&'static str>,
    /// What is edited before each build.
    pub edited: Edited,
}

/// Which files are edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edited {
    /// Any.
    Anything,
    /// Posts of the site.
    Posts,
}

/// What all contenders of one table have in common.
pub struct Stage {
    /// Holds all trees.
    dir: tempfile::TempDir,
    /// Runs their children.
    pub meter: Meter,
    /// fastbuild.
    program: PathBuf,
    /// The image of all containers.
    pub image: String,
    /// What the trees are.
    pub site: Site,
    /// What is built.
    pub workload: Workload,
}

/// A directory for one table; what lies in it goes with it.
pub fn directory() -> Result<tempfile::TempDir> {
    let prefix = format!("{DIRECTORY}{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir_in(scratch_dir()?)?)
}

impl Stage {
    /// A stage in a directory of [`directory`].
    pub fn new(
        dir: tempfile::TempDir,
        meter: Meter,
        subject: &Subject,
        site: Site,
        workload: Workload,
    ) -> Stage {
        let (program, image) = (subject.program.clone(), subject.image.clone());
        Stage { dir, meter, program, image, site, workload }
    }

    /// A path of the stage's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a tree.
    pub fn tree(&self, name: &str) -> Result<PathBuf> {
        let tree = self.path(name);
        self.site.make(&tree)?;
        Ok(tree)
    }

    /// An empty directory under this name, whatever was there.
    pub fn empty(&self, name: &str) -> Result<PathBuf> {
        let dir = self.path(name);
        if dir.exists() {
            fs_err::remove_dir_all(&dir)?;
        }
        fs_err::create_dir(&dir)?;
        Ok(dir)
    }

    /// The file that is edited in this round, another one in each.
    pub fn edited(&self, round: u32) -> String {
        match self.workload.edited {
            Edited::Anything => site::path(round % self.site.files),
            Edited::Posts => self.site.post(round),
        }
    }

    /// Edits it.
    pub fn edit(&self, tree: &Path, round: u32) -> Result<()> {
        site::edit(&tree.join(self.edited(round)), &stamp(round))
    }

    /// What comes back, as a container's path.
    pub fn container_output(&self) -> String {
        self.workload.output.map_or_else(|| WORKDIR.to_owned(), |output| format!("{WORKDIR}/{output}"))
    }

    /// Runs the docker client; what it printed comes back, trimmed.
    pub fn docker<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<String> {
        let output = self.meter.run(&mut docker(words))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The same on the way out, when an interrupt has ended everything else.
    pub fn docker_always(&self, words: &[&str]) -> Result<()> {
        let engine = self.meter.address();
        quiet_docker(&[&["--host", engine], words].concat()).map(drop)
    }

    /// Runs the command in a running container.
    pub fn exec(&self, container: &str) -> Result<()> {
        self.docker(["exec", "-w", WORKDIR, container].iter().chain(self.workload.command)).map(drop)
    }

    /// The label of the bench's own containers.
    pub fn label(&self) -> (String, String) {
        (LABEL.to_owned(), std::process::id().to_string())
    }

    /// A running container that does nothing, with more options for `docker run`.
    pub fn container(&self, options: &[&str]) -> Result<Container> {
        let (label, pid) = self.label();
        let label = format!("{label}={pid}");
        let create = ["run", "-d", "--init", "--label", &label, "-w", WORKDIR];
        let sleep = [self.image.as_str(), "sleep", "infinity"];
        let id = self.docker(create.iter().chain(options).chain(&sleep))?;
        Ok(Container { id, engine: self.meter.address().to_owned() })
    }

    /// Fails unless both directories hold the same files with the same bytes. Directories are on this machine.
    pub fn same(&self, one: &Path, other: &Path) -> Result<()> {
        let (expected, found) = (self.digest(one)?, self.digest(other)?);
        ensure!(expected == found, "{other:?} is not what {one:?} is");
        Ok(())
    }

    /// Fails unless the container's directory holds the same files with the same bytes as this machine's.
    pub fn same_in(&self, container: &str, tree: &Path) -> Result<()> {
        let found = self.docker(["exec", "-w", WORKDIR, container, "sh", "-c", DIGEST])?;
        ensure!(self.digest(tree)? == found, "{WORKDIR} of container {container} is not what {tree:?} is");
        Ok(())
    }

    /// Fails unless the container has this machine's version of each path.
    pub fn same_files_in(&self, container: &str, tree: &Path, paths: &[String]) -> Result<()> {
        let mut expected = Vec::new();
        for path in paths {
            expected.extend(fs_err::read(tree.join(path))?);
        }
        let mut cat = docker(["exec", "-w", WORKDIR, container, "cat"]);
        let found = self.meter.run(cat.args(paths))?.stdout;
        ensure!(found == expected, "container {container} has not this machine's version of {paths:?}");
        Ok(())
    }

    /// Fails unless `out` is what the build makes of the tree in this round.
    pub fn built(&self, tree: &Path, out: &Path, round: u32) -> Result<()> {
        if self.workload.output.is_none() {
            return self.same(tree, out);
        }
        let mut grep = Command::new("grep");
        grep.args(["-rqF", "-e", &stamp(round)]).arg(out);
        self.meter.run(&mut grep).with_context(|| format!("the edit of round {round} is not in {out:?}"))?;
        Ok(())
    }

    fn digest(&self, dir: &Path) -> Result<String> {
        let output = self.meter.run(Command::new("sh").args(["-c", DIGEST]).current_dir(dir))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// What the edits of a round say.
pub fn stamp(round: u32) -> String {
    format!("round {round} of the bench")
}

/// One digest of all files and their names, the same on both sides.
const DIGEST: &str = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum";

/// A command line of the docker client.
pub fn docker<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("docker");
    command.args(words);
    command
}

/// A container of the bench's own; removed when dropped.
pub struct Container {
    /// Its id.
    pub id: String,
    /// Where it is, as `DOCKER_HOST` has it.
    engine: String,
}

impl Drop for Container {
    fn drop(&mut self) {
        let removed = quiet_docker(&["--host", &self.engine, "rm", "-f", "-v", &self.id]);
        said_unless_removed(&self.id, "a container of the bench", removed);
    }
}

/// Removes a container, outside of any meter: this has to work after an interrupt too.
fn remove(id: &str, what: &str) {
    said_unless_removed(id, what, quiet_docker(&["rm", "-f", "-v", id]));
}

fn said_unless_removed(id: &str, what: &str, removed: Result<String>) {
    if let Err(error) = removed {
        note(format_args!("could not remove container {id} ({what}): {error:#}"));
    }
}

/// The docker client, not metered, and out of the terminal's reach; what it printed comes back, trimmed.
///
/// # Errors
/// When it ends badly; with its last words.
pub fn quiet_docker(words: &[&str]) -> Result<String> {
    use std::os::unix::process::CommandExt as _;
    let output = run::capture(docker(words).process_group(0))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What BuildKit had in its cache before the bench; what came since is removed when this is dropped.
pub struct BuildCache {
    before: BTreeSet<String>,
}

impl BuildCache {
    /// # Errors
    /// When the engine cannot be asked.
    pub fn remember() -> Result<BuildCache> {
        Ok(BuildCache { before: build_records()? })
    }

    /// A record that others build on goes after them, and what an image has too stays with the image.
    fn prune(&self) -> Result<()> {
        let mut left = usize::MAX;
        loop {
            let records = build_records()?;
            let ours: Vec<&String> = records.difference(&self.before).collect();
            if ours.len() >= left || ours.is_empty() {
                return Ok(());
            }
            left = ours.len();
            for id in ours {
                quiet_docker(&["builder", "prune", "--force", "--all", "--filter", &format!("id={id}")])?;
            }
        }
    }
}

impl Drop for BuildCache {
    fn drop(&mut self) {
        if let Err(error) = self.prune() {
            note(format_args!("could not clear BuildKit's cache of what the bench left in it: {error:#}"));
        }
    }
}

fn build_records() -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Record {
        #[serde(rename = "ID")]
        id: String,
    }
    let listed = quiet_docker(&["system", "df", "-v", "--format", "{{json .BuildCache}}"])?;
    let records: Vec<Record> =
        serde_json::from_str(&listed).with_context(|| format!("the build cache was listed as {listed:?}"))?;
    Ok(records.into_iter().map(|record| record.id).collect())
}

/// Removes this process's own containers, of which a client was ended before its time.
pub fn remove_own() {
    let own = format!("label={LABEL}={}", std::process::id());
    match quiet_docker(&["ps", "-a", "-q", "--filter", &own]) {
        Ok(ids) => ids.lines().for_each(|id| remove(id, "of a command that was ended")),
        Err(error) => note(format_args!("could not list the containers that are left: {error:#}")),
    }
}

/// Directories of benches that were killed.
///
/// # Errors
/// When the scratch directory cannot be read.
pub fn leftovers() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(scratch_dir()?)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(DIRECTORY).and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
        if pid.is_some_and(is_dead) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Whether no process has this id.
pub fn is_dead(pid: &str) -> bool {
    !Path::new("/proc").join(pid).exists()
}

/// Removes the containers and directories of benches that were killed.
///
/// # Errors
/// When the engine cannot list its containers.
pub fn remove_leftovers() -> Result<()> {
    let format = format!("{{{{.ID}}}} {{{{.Label \"{LABEL}\"}}}}");
    let listed = quiet_docker(&["ps", "-a", "--filter", &format!("label={LABEL}"), "--format", &format])?;
    for (id, pid) in listed.lines().filter_map(|line| line.split_once(' ')) {
        if is_dead(pid) {
            remove(id, "left by a killed bench");
        }
    }
    for dir in leftovers()? {
        remove_workspaces(&dir);
        fs_err::remove_dir_all(dir)?;
    }
    Ok(())
}

/// Every state directory below `dir` is a project's of the bench.
fn remove_workspaces(dir: &Path) {
    let states = fs_err::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    for state in states.filter(|path| path.extension() == Some(OsStr::new(STATE))) {
        remove_containers_of(&state);
    }
}

const STATE: &str = "state";

/// A source tree that fastbuild builds, with state and workspace of its own.
pub struct Project<'a> {
    stage: &'a Stage,
    /// The source root.
    pub tree: PathBuf,
    state: PathBuf,
    options: Vec<String>,
    /// What the last run reported.
    last: RefCell<Report>,
    workspace: RefCell<String>,
}

impl<'a> Project<'a> {
    /// Makes the tree.
    pub fn new(stage: &'a Stage, name: &str) -> Result<Project<'a>> {
        let tree = stage.tree(name)?;
        Ok(Project::of(stage, name, tree, &["--image", &stage.image]))
    }

    /// One whose tree is there, wherever it lies, with options for each run of fastbuild.
    pub fn of(stage: &'a Stage, name: &str, tree: PathBuf, options: &[&str]) -> Project<'a> {
        let state = stage.path(name).with_extension(STATE);
        let options = options.iter().map(ToString::to_string).collect();
        Project { stage, tree, state, options, last: RefCell::default(), workspace: RefCell::default() }
    }

    /// What the last run reported.
    pub fn last(&self) -> Report {
        self.last.borrow().clone()
    }

    /// Runs fastbuild.
    pub fn fastbuild(&self, options: &[&str], command: &[&str]) -> Result<()> {
        let mut fastbuild = self.command(&[]);
        fastbuild.args(["--progress", "json"]).args(options).arg("--").args(command);
        *self.last.borrow_mut() = Report::read(&self.stage.meter.run(&mut fastbuild)?.stderr)?;
        Ok(())
    }

    /// fastbuild, with `words` first and this project's options behind them, and with its own state.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut fastbuild = Command::new(&self.stage.program);
        fastbuild.args(words).arg("--source").arg(&self.tree).args(&self.options);
        // Nothing of the user's settings decides here, and no index or cache of another project is met.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name == "CI" || name.starts_with("FASTBUILD_")) {
                fastbuild.env_remove(name);
            }
        }
        fastbuild.env("FASTBUILD_STATE_DIR", &self.state).env("XDG_CACHE_HOME", self.state.join("cache"));
        fastbuild
    }

    /// Runs the stage's own command, output included.
    pub fn build(&self, options: &[&str]) -> Result<()> {
        let output = self.stage.workload.output.map(|output| ["--output", output]);
        let options: Vec<&str> = options.iter().copied().chain(output.into_iter().flatten()).collect();
        self.fastbuild(&options, self.stage.workload.command)
    }

    /// The container that was this project's workspace when it was last looked for.
    pub fn workspace(&self) -> String {
        self.workspace.borrow().clone()
    }

    /// Looks for the container that is this project's workspace, running.
    pub fn find_workspace(&self) -> Result<()> {
        let key = key(&self.state)?;
        let project = format!("label={LABEL_PROJECT}={key}");
        let ids = self.stage.docker(["ps", "-q", "--no-trunc", "--filter", &project, "--filter", KEPT])?;
        let one = ids.lines().next();
        let id = one.with_context(|| format!("fastbuild keeps no workspace running for {:?}", self.tree))?;
        *self.workspace.borrow_mut() = id.to_owned();
        Ok(())
    }

    /// Forgets the project on both ends, but for the tree: the next build is its first.
    pub fn forget(&self) -> Result<()> {
        remove_containers_of(&self.state);
        if self.state.exists() {
            fs_err::remove_dir_all(&self.state)?;
        }
        Ok(())
    }

    /// Bytes that this machine keeps about the project.
    pub fn state_bytes(&self) -> Result<u64> {
        let (mut bytes, mut open) = (0, vec![self.state.clone()]);
        while let Some(dir) = open.pop() {
            for entry in fs_err::read_dir(dir)? {
                let entry = entry?;
                match entry.metadata()? {
                    metadata if metadata.is_dir() => open.push(entry.path()),
                    metadata => bytes += metadata.len(),
                }
            }
        }
        Ok(bytes)
    }
}

impl Drop for Project<'_> {
    fn drop(&mut self) {
        remove_containers_of(&self.state);
    }
}

/// The key that labels a project's containers: its directory's name in a state that knows one project.
fn key(state: &Path) -> Result<String> {
    let mut keys = fs_err::read_dir(state.join("projects"))?;
    let key = keys.next().with_context(|| format!("{state:?} knows no project"))??.file_name();
    ensure!(keys.next().is_none(), "{state:?} knows more than one project");
    Ok(key.to_string_lossy().into_owned())
}

fn remove_containers_of(state: &Path) {
    let Ok(key) = key(state) else { return };
    match quiet_docker(&["ps", "-a", "-q", "--filter", &format!("label={LABEL_PROJECT}={key}")]) {
        Ok(ids) => ids.lines().for_each(|id| remove(id, "a workspace of the bench")),
        Err(error) => note(format_args!("could not list the containers of project {key}: {error:#}")),
    }
}

/// What fastbuild reported of one run, as far as the bench looks at it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Files that went up.
    pub uploaded: u64,
    /// What the agent cost; none when it did not run the build.
    pub agent: Option<Agent>,
    /// Why it did not.
    without_agent: Option<String>,
}

/// fastbuild's own account of a build with the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Agent {
    /// Bytes to the workspace, without what the engine's protocol adds.
    pub sent: u64,
    /// Bytes from it.
    pub received: u64,
    /// The far end's peak memory, in bytes.
    pub peak_memory: u64,
}

/// The events that [`Report`] is made of; `docs/events.md` has them.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event {
    PhaseEnded {
        phase: String,
        done: Amount,
    },
    WithoutAgent {
        detail: String,
    },
    Finished {
        agent: Option<Agent>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Amount {
    files: u64,
}

impl Report {
    /// Reads what fastbuild wrote to standard error; lines that are not its own are the build's.
    ///
    /// # Errors
    /// When a line of fastbuild's is no event, or when the stream does not end with a result.
    fn read(stderr: &[u8]) -> Result<Report> {
        let (mut report, mut finished) = (Report::default(), false);
        for line in stderr.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{\"fastbuild\":2,"))
        {
            let event = serde_json::from_slice(line)
                .with_context(|| format!("fastbuild reported {:?}", String::from_utf8_lossy(line)))?;
            match event {
                Event::PhaseEnded { phase, done } if phase == "upload" => report.uploaded += done.files,
                Event::WithoutAgent { detail } => report.without_agent = Some(detail),
                Event::Finished { agent } => (report.agent, finished) = (agent, true),
                Event::PhaseEnded { .. } | Event::Other => {}
            }
        }
        ensure!(finished, "fastbuild ended well and reported no result");
        Ok(report)
    }

    /// # Errors
    /// When the agent did not run the build.
    pub fn by_agent(&self) -> Result<()> {
        let why = self.without_agent.as_deref().unwrap_or("fastbuild does not say why");
        ensure!(self.agent.is_some(), "the agent did not run the build: {why}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_from_between_the_builds_own_lines() {
        let report = Report::read(
            b"warning: x\n\
              {\"fastbuild\":2,\"time\":0.1,\"event\":\"planned\",\"image\":\"x\"}\n\
              {\"fastbuild\":2,\"time\":0.2,\"event\":\"phase-ended\",\"phase\":\"upload\",\"done\":{\"files\":3,\"bytes\":9},\"took\":1}\n\
              {\"fastbuild\":2,\"time\":0.3,\"event\":\"finished\",\"exit_code\":0,\"agent\":{\"sent\":5,\"received\":6,\"peak_memory\":7}}\n",
        )
        .unwrap();
        assert_eq!(
            report,
            Report {
                uploaded: 3,
                agent: Some(Agent { sent: 5, received: 6, peak_memory: 7 }),
                without_agent: None
            }
        );
        assert!(report.by_agent().is_ok() && Report::default().by_agent().is_err());
        assert!(Report::read(b"no event\n").is_err());
    }
}
