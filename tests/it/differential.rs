//! The mount's rule against a mount: random steps are done on a bind mount, and with each kind of workspace that fastbuild
//! has. The command of each build tells what it sees at its start and leaves at its end; that, and the host's tree
//! afterwards, are what they would be on the mount but for the rule's three differences: kept paths never travel, with `-o`
//! only those changes come back, and a command that fails brings nothing back.
//!
//! After those the mount's tree and the host's are no longer the same. So the mounted directory stands for what the
//! workspace holds: before each command it is made what the rule says, and afterwards the host is held against what the
//! rule makes of it (`differential/rule.rs`).
//!
//! A finding is shrunk, and names what shows it again: `FASTBUILD_DIFFERENTIAL_SEED`, `FASTBUILD_DIFFERENTIAL_PARTS`.
//! `FASTBUILD_DIFFERENTIAL_STEPS` goes on with other seeds for so many steps (`cargo xtask differential`).

mod ops;
mod rule;
mod steps;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _},
        process::ExitStatusExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use crate::common::random::Random;
use crate::common::{BUSYBOX, EMPTY, Ended, NONROOT, Project};
use ops::{Bytes, Listing, Op};
use rule::{Lifetime, Trees, Workspace};
use steps::{Build, End, HELPER, Mix, Modes, Step};

/// What does the steps.
#[derive(Debug, Clone, Copy)]
struct Subject {
    place: Place,
    lifetime: Lifetime,
    options: &'static [&'static str],
    mix: Mix,
    modes: Modes,
    /// Builds in one project.
    builds: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Image(&'static str),
    /// Without a container.
    Here,
    /// No fastbuild at all, but another bind mount.
    Mount,
}

/// Where outputs go that do not come back to their own places.
const ELSEWHERE: &str = "elsewhere";

const KEPT: Subject = Subject {
    place: Place::Image(BUSYBOX),
    lifetime: Lifetime::Kept,
    options: &["--keep"],
    mix: Mix::Any,
    modes: Modes::Any,
    builds: 12,
};

#[test]
fn a_second_bind_mount_is_as_a_bind_mount() {
    let lifetime = Lifetime::Mount;
    go(&Subject { place: Place::Mount, lifetime, mix: Mix::AsOnMount, ..KEPT }, 1);
}

#[test]
fn a_kept_workspace_is_as_a_bind_mount() {
    go(&KEPT, 3);
}

#[test]
fn a_kept_workspace_with_kept_paths_is_as_a_bind_mount() {
    go(&Subject { place: Place::Image(EMPTY), mix: Mix::Kept, ..KEPT }, 2);
}

#[test]
fn a_kept_workspace_of_a_user_who_is_not_root_is_as_a_bind_mount() {
    go(&Subject { place: Place::Image(NONROOT), modes: Modes::OwnersOwn, ..KEPT }, 2);
}

#[test]
fn a_one_run_container_is_as_a_bind_mount() {
    let options = &["--no-keep"];
    go(&Subject { lifetime: Lifetime::OneRun, options, mix: Mix::Kept, builds: 8, ..KEPT }, 2);
}

#[test]
fn the_host_engine_is_as_a_bind_mount() {
    go(&Subject { place: Place::Here, mix: Mix::Kept, ..KEPT }, 3);
}

#[test]
fn a_volume_is_as_a_bind_mount() {
    go(&Subject { options: &["--keep", "--route", "volume"], mix: Mix::Kept, ..KEPT }, 2);
}

/// Runs some sequences, or one that is named, or as many as are asked for.
fn go(subject: &Subject, sequences: u64) {
    let variable = |name| std::env::var(format!("FASTBUILD_DIFFERENTIAL_{name}")).ok();
    let sequence = |seed| steps::steps(seed, subject.mix, subject.modes, subject.builds);
    if let Some(seed) = variable("SEED") {
        let seed = seed.parse().unwrap();
        let steps = sequence(seed);
        let Some(parts) = variable("PARTS") else { return hold(subject, seed, &steps) };
        let parts: Vec<_> = parts.split(',').map(|part| part.parse().unwrap()).collect();
        let steps = steps::only(&steps, &parts);
        return run(subject, &steps).unwrap_or_else(|finding| panic!("{}{finding}", told(&steps)));
    }
    let Some(asked) = variable("STEPS") else {
        return (0..sequences).for_each(|seed| hold(subject, seed, &sequence(seed)));
    };
    let mut left = asked.parse::<usize>().unwrap();
    let mut seeds = Random(rule::now() as u64);
    while left > 0 {
        let seed = seeds.next() >> 16;
        let steps = sequence(seed);
        hold(subject, seed, &steps);
        left = left.saturating_sub(steps.len());
    }
}

/// Runs a sequence; what it finds is shrunk first.
fn hold(subject: &Subject, seed: u64, steps: &[Step]) {
    let Err(mut finding) = run(subject, steps) else { return };
    let mut parts: Vec<_> = (0..steps::parts(steps)).collect();
    let mut size = parts.len();
    let until = Instant::now() + Duration::from_secs(100);
    while size > 0 {
        let mut at = 0;
        while at < parts.len() && Instant::now() < until {
            let mut fewer = parts.clone();
            fewer.drain(at..fewer.len().min(at + size));
            match run(subject, &steps::only(steps, &fewer)) {
                Err(other) => (parts, finding) = (fewer, other),
                Ok(()) => at += size,
            }
        }
        size /= 2;
    }
    let shortest = steps::only(steps, &parts);
    let parts: Vec<_> = parts.iter().map(usize::to_string).collect();
    panic!(
        "{subject:?}\nFASTBUILD_DIFFERENTIAL_SEED={seed} FASTBUILD_DIFFERENTIAL_PARTS={}\n{}{finding}",
        parts.join(","),
        told(&shortest)
    )
}

fn told(steps: &[Step]) -> String {
    steps.iter().enumerate().fold(String::new(), |mut told, (number, step)| {
        writeln!(told, "{number}: {step}").unwrap();
        told
    })
}

/// Does the steps in a new project; a difference is an error.
fn run(subject: &Subject, steps: &[Step]) -> Result<(), String> {
    let mut twins = Twins::new(subject);
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Host(ops) => ops.iter().for_each(|op| op.apply(&twins.project.root())),
            Step::Build(build) => {
                twins.build(build).map_err(|finding| format!("DIFFERENCE in step {number}:\n{finding}"))?;
            }
        }
    }
    Ok(())
}

/// A project and its mounted twin.
struct Twins<'a> {
    subject: &'a Subject,
    project: Project,
    mount: Mount,
    workspace: Workspace,
}

impl<'a> Twins<'a> {
    fn new(subject: &'a Subject) -> Twins<'a> {
        let project = match subject.place {
            Place::Image(image) => Project::with_image(image),
            Place::Here => Project::here(),
            Place::Mount => Project::new(),
        };
        fs::copy(helper(), project.path(HELPER)).unwrap();
        fs::create_dir(project.outside().join(ELSEWHERE)).unwrap();
        Twins { subject, project, mount: Mount::new(), workspace: Workspace::new(subject.lifetime) }
    }

    fn build(&mut self, build: &Build) -> Result<(), String> {
        let root = self.project.root();
        let look = Listing::of(&root).unwrap();
        let elsewhere = || Listing::of(&self.project.outside().join(ELSEWHERE)).unwrap();
        let elsewhere_before = elsewhere();
        // A file's time is that of the clock's last tick.
        let began = rule::now() - 10_000_000;
        let mut mid = look.clone();
        self.mount.take(&root);
        self.workspace.keep(build.kept);
        let shared = self.shared(&look);
        let said = self.mount.dir.path().join("stderr");
        let mut child = self.start(build, &look).stderr(fs::File::create(&said).unwrap()).spawn().unwrap();
        let mut ends = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let ran = dialogue(&mut ends, build, || {
            build.during.iter().for_each(|op| op.apply(&root));
            mid = Listing::of(&root).unwrap();
        });
        if build.end == End::ClientKilled || ran.is_none() {
            child.kill().unwrap();
        }
        drop(ends);
        let status = child.wait().unwrap();
        let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap();
        let said = || fs::read_to_string(&said).unwrap();
        let Some((saw, left)) = ran else { return Err(format!("exit {code} before its time\n{}", said())) };
        let after = Listing::of(&root).unwrap();
        let mut wrong = self.workspace.wrong_at_start(&look, &saw);
        if wrong.is_empty() {
            self.mount.become_what_it_saw(&self.workspace, &saw);
            let (mount_saw, mount_left) = self.mount.run(build);
            let started = rule::not_as_on_mount(&saw, &mount_saw, began);
            assert_eq!(started, [""; 0], "the mount was not made what the command saw");
            wrong.extend(rule::not_as_on_mount(&left, &mount_left, began));
        }
        let trees =
            Trees { look: &look, shared: &shared, mid: &mid, after: &after, saw: &saw, left: &left, began };
        let expected = self.workspace.code(build, &left);
        wrong.extend((code != expected).then(|| format!("exit {code}, and not {expected}")));
        wrong.extend(self.workspace.wrong_at_end(build, &trees));
        wrong.extend(self.workspace.wrong_elsewhere(build, (&saw, &left), &elsewhere_before, &elsewhere()));
        if self.subject.place != Place::Mount {
            // What a workspace holds is not given back.
            let mut everywhere = Listing::of(&self.project.outside()).unwrap();
            everywhere
                .0
                .retain(|path, _| !path.starts_with(b"scratch") && !path.starts_with(ELSEWHERE.as_bytes()));
            wrong.extend(self.workspace.lost(&trees, build, &everywhere));
        }
        self.workspace.end(build, &trees);
        if wrong.is_empty() { Ok(()) } else { Err(format!("{}\n{}", wrong.join("\n"), said())) }
    }

    /// Files of the host's that have names which are kept, or lie outside of the tree.
    fn shared(&self, look: &Listing) -> BTreeSet<Bytes> {
        let mut files = BTreeMap::<_, (u64, Vec<&Bytes>)>::new();
        for path in look.0.keys().filter(|path| !self.workspace.keeps(path)) {
            let found = self.project.root().join(OsStr::from_bytes(path)).symlink_metadata().unwrap();
            files.entry((found.dev(), found.ino())).or_insert((found.nlink(), Vec::new())).1.push(path);
        }
        let shared = files.into_values().filter(|(links, names)| *links > names.len() as u64);
        shared.flat_map(|(_, names)| names).cloned().collect()
    }

    fn start(&self, build: &Build, look: &Listing) -> Command {
        let mut command = if self.subject.place == Place::Mount {
            let mut docker = Command::new("docker");
            let volume = format!("{}:/workspace", self.project.root().to_str().unwrap());
            docker.args(["run", "--rm", "-i", "-w", "/workspace", "-v", &volume, BUSYBOX, "./.helper"]);
            docker
        } else {
            let mut fastbuild = self.project.command();
            fastbuild.args(["--progress", "none", "--stdin"]).args(self.subject.options);
            fastbuild.args(build.outputs.iter().flat_map(|output| ["-o", output]));
            if let Some(path) = build.elsewhere {
                let place = self.project.outside().join(ELSEWHERE).join("made");
                fastbuild.args(["-o", &format!("{path}:{}", place.to_str().unwrap())]);
            }
            // What is exchanged are directories.
            let is_no_file =
                |output: &&str| look.0.get(output.as_bytes()).is_none_or(|node| node.kind == 'd');
            fastbuild.args((build.atomic && build.outputs.iter().all(is_no_file)).then_some("--atomic"));
            fastbuild
                .args(build.kept.iter().flat_map(|kept| ["--keep-path", kept]))
                .args(["--", "./.helper"]);
            fastbuild
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }
}

/// Tells the helper what to do; gives the listings before and after, or none where it ended too early.
fn dialogue(
    (stdin, stdout): &mut (ChildStdin, BufReader<ChildStdout>),
    build: &Build,
    meanwhile: impl FnOnce(),
) -> Option<(Listing, Listing)> {
    let saw = listing(stdout)?;
    let (first, last) = build.ops.split_at(build.ops.len() / 2);
    let lines = |ops: &[Op]| ops.iter().map(|op| op.line() + "\n").collect::<String>();
    if !build.during.is_empty() {
        stdin.write_all((lines(first) + "pause\n").as_bytes()).ok()?;
        let mut line = String::new();
        stdout.read_line(&mut line).ok().filter(|_| line == "paused\n")?;
        meanwhile();
        stdin.write_all(lines(last).as_bytes()).ok()?;
    } else {
        stdin.write_all(lines(&build.ops).as_bytes()).ok()?;
    }
    let end = match build.end {
        End::Exit(code) => format!("exit {code}\n"),
        End::Killed => String::from("kill\n"),
        End::ClientKilled => String::from("hang\n"),
    };
    stdin.write_all(end.as_bytes()).ok()?;
    Some((saw, listing(stdout)?))
}

fn listing(from: &mut impl BufRead) -> Option<Listing> {
    let mut text = String::new();
    while !text.ends_with("--\n") {
        from.read_line(&mut text).ok().filter(|read| *read > 0)?;
    }
    Listing::parse(text.strip_suffix("--\n")?)
}

/// A directory that is bind-mounted in a container, which runs one command after the other in it.
struct Mount {
    dir: tempfile::TempDir,
    container: Child,
    ends: Option<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Mount {
    fn new() -> Mount {
        let dir = tempfile::Builder::new().prefix("fastbuild-mount-").tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        let script = "while read -r line; do (cd tree && ./.helper); echo; done";
        let volume = format!("{}:/mount", dir.path().to_str().unwrap());
        let mut docker = Command::new("docker");
        docker.args(["run", "--rm", "-i", "-w", "/mount", "-v", &volume, BUSYBOX, "sh", "-c", script]);
        let pipes = docker.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut container = pipes.spawn().unwrap();
        let ends = (container.stdin.take().unwrap(), BufReader::new(container.stdout.take().unwrap()));
        Mount { dir, container, ends: Some(ends) }
    }

    /// A copy of the host's tree for what comes next.
    fn take(&self, host: &Path) {
        let copied =
            Command::new("cp").arg("-aT").arg(host).arg(self.dir.path().join("next")).status().unwrap();
        assert!(copied.success());
    }

    /// That copy with what stays of the workspace's own, which the mount has from earlier commands.
    fn become_what_it_saw(&self, workspace: &Workspace, saw: &Listing) {
        let (old, new) = (self.dir.path().join("tree"), self.dir.path().join("next"));
        let at = |path: &[u8]| new.join(OsStr::from_bytes(path));
        for kept in workspace.kept() {
            ops::remove(&at(kept.as_bytes())).unwrap_or_default();
        }
        for (path, node) in &saw.0 {
            if at(path).symlink_metadata().is_ok() {
                continue;
            } else if node.kind == 'd' {
                fs::create_dir(at(path)).unwrap();
            } else {
                fs::rename(old.join(OsStr::from_bytes(path)), at(path)).unwrap();
            }
        }
        for (path, node) in saw.0.iter().filter(|(_, node)| !node.group.is_empty()) {
            let [own, first] = [path, &node.group].map(|path| at(path).symlink_metadata().unwrap().ino());
            if own != first {
                fs::remove_file(at(path)).unwrap();
                fs::hard_link(at(&node.group), at(path)).unwrap();
            }
        }
        for (path, node) in saw.0.iter().rev().filter(|(_, node)| node.kind != 'l') {
            fs::set_permissions(at(path), fs::Permissions::from_mode(node.mode)).unwrap();
            ops::set_mtime(&at(path), node.mtime).unwrap();
        }
        fs::remove_dir_all(&old).unwrap();
        fs::rename(new, old).unwrap();
    }

    /// What the build's command sees there, and leaves.
    fn run(&mut self, build: &Build) -> (Listing, Listing) {
        let ends = self.ends.as_mut().unwrap();
        ends.0.write_all(b"\n").unwrap();
        let end = if build.end == End::ClientKilled { End::Exit(0) } else { build.end };
        let ran = dialogue(ends, &Build { during: Vec::new(), end, ..build.clone() }, || {}).unwrap();
        ends.1.read_line(&mut String::new()).unwrap();
        ran
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // At its end the container's program ends, and the container goes.
        self.ends = None;
        let _ = self.container.wait();
    }
}

/// The static program that the builds run, compiled once for a test process.
fn helper() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let name = format!("differential-helper-{}", std::process::id());
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/differential/helper.rs");
        let mut compile = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        compile.args([
            "--edition",
            "2024",
            "-O",
            "-Cstrip=symbols",
            "-Ctarget-feature=+crt-static",
            "-Awarnings",
        ]);
        Ended::from(compile.arg(source).arg("-o").arg(&program).output().unwrap()).exits(0);
        program
    })
}
