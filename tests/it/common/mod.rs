//! A hermetic home for tests: a project in a directory of its own, a state directory of its own, a clean environment,
//! the real binary, a real engine. What a user would see is in [`Ended`]: both streams and the exit code.
//!
//! The images come from `cargo xtask images`; a test whose image is missing fails and says so.

pub mod agent;
pub mod cache;
pub mod dialogue;
pub mod other_processor;
pub mod process;
pub mod proxy;
pub mod pty;
pub mod random;
pub mod raw_tar;
pub mod registry;
pub mod reports;
pub mod small_disk;
pub mod tracer;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fmt, fs,
    io::Read as _,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _},
        process::ExitStatusExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

/// Small, with a shell; has a user `app` (1000:1001) and runs as root.
pub const BUSYBOX: &str = "fastbuild/test-busybox:latest";
/// The same, running as `app`.
pub const NONROOT: &str = "fastbuild/test-nonroot:latest";
/// The same, with an entry point that prints its arguments and runs them.
pub const ENTRYPOINT: &str = "fastbuild/test-entrypoint:latest";
/// One static program and nothing else: no shell, no libc.
pub const EMPTY: &str = "fastbuild/test-empty:latest";
/// Small, with files of its own in `/workspace` and `/volume`, variables, and a working directory.
pub const FILLED: &str = "fastbuild/test-workdir:latest";

/// The engine's socket.
pub const SOCKET: &str = "/var/run/docker.sock";

/// Makes a test of each promise for each lifetime that it holds for: `promises! { one_run OneRun,
/// kept Kept: a, b }` makes `one_run::a`, `one_run::b`, `kept::a` and `kept::b`, and each calls its
/// function with the [`Lifetime`].
macro_rules! promises {
    ($($module:ident $lifetime:ident),+: $($promise:ident),+ $(,)?) => {
        promises!(@ [$($module $lifetime)+] ($($promise)+));
    };
    (@ [$($module:ident $lifetime:ident)+] $promises:tt) => {
        $(promises!(@@ $module $lifetime $promises);)+
    };
    (@@ $module:ident $lifetime:ident ($($promise:ident)+)) => {
        mod $module {
            $(#[test]
            fn $promise() {
                super::$promise(crate::common::Lifetime::$lifetime)
            })+
        }
    };
}

/// A source tree and a state directory, both gone when dropped.
pub struct Project {
    home: tempfile::TempDir,
    image: &'static str,
    keep: Lifetime,
    place: Place,
}

/// Where the builds of a project run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In containers.
    Engine,
    /// On this machine, which has no engine as far as they know.
    Machine,
}

/// Which lifetime the workspaces of a project have, unless an option says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Cold: nothing is kept on the engine.
    OneRun,
    /// Warm: the workspace is kept until the project is dropped.
    Kept,
    /// Warm, and each build starts the workspace over.
    Fresh,
}

impl Lifetime {
    /// Whether builds run in workspaces.
    pub fn is_warm(self) -> bool {
        self != Lifetime::OneRun
    }
}

impl Default for Project {
    fn default() -> Project {
        Project::new()
    }
}

impl Project {
    /// An empty source tree, built in [`BUSYBOX`].
    pub fn new() -> Project {
        Project::with_image(BUSYBOX)
    }

    /// An empty source tree, built in `image`.
    pub fn with_image(image: &'static str) -> Project {
        let home = tempfile::Builder::new().prefix("fastbuild-test-").tempdir().unwrap();
        // Users of other ids must be able to come here in some tests.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(home.path().join("project")).unwrap();
        Project { home, image, keep: Lifetime::OneRun, place: Place::Engine }
    }

    /// An empty source tree, built in a workspace in [`BUSYBOX`].
    pub fn kept() -> Project {
        Project::new().keeping(Lifetime::Kept)
    }

    /// An empty source tree, built without a container in [`Project::scratch`], which is kept.
    pub fn here() -> Project {
        let mut project = Project::new();
        (project.keep, project.place) = (Lifetime::Kept, Place::Machine);
        project
    }

    /// The same with builds of another tier than this test program's.
    pub fn keeping(mut self, keep: Lifetime) -> Project {
        self.keep = keep;
        self
    }

    /// Where scratch directories lie.
    pub fn scratch(&self) -> PathBuf {
        self.home.path().join("scratch")
    }

    /// The build's tree in it.
    pub fn scratch_tree(&self) -> PathBuf {
        self.scratch().join(self.key()).join("tree")
    }

    /// The source root.
    pub fn root(&self) -> PathBuf {
        self.home.path().join("project")
    }

    /// Beside the source root, where no build reaches.
    pub fn outside(&self) -> PathBuf {
        self.home.path().to_owned()
    }

    /// fastbuild's state directory.
    pub fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// A path below the source root.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root().join(path)
    }

    /// Writes a file, and its directories.
    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> &Project {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// Reads a file as text, escaping what is none.
    pub fn read(&self, path: impl AsRef<Path>) -> String {
        let path = self.path(path);
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("could not read {path:?}: {error}"));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether something is at a path, a dangling link included.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// The whole source tree, to be compared.
    pub fn tree(&self) -> Tree {
        Tree::of(&self.root())
    }

    /// fastbuild in the source root, in a clean environment but for `DOCKER_HOST`, with the image in `FASTBUILD_IMAGE`. Nothing is kept
    /// on the engine unless a test says `--keep`.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fastbuild"));
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.home.path().join("home"))
            .env("FASTBUILD_STATE_DIR", self.state())
            .env("FASTBUILD_IMAGE", self.image)
            .env("FASTBUILD_KEEP", if self.keep.is_warm() { "yes" } else { "no" })
            .current_dir(self.root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // The engine that [`docker`] asks.
        command.envs(std::env::var_os("DOCKER_HOST").map(|host| ("DOCKER_HOST", host)));
        if self.keep == Lifetime::Fresh {
            command.arg("--fresh");
        }
        if self.place == Place::Machine {
            command.env("FASTBUILD_ENGINE", "host").env("FASTBUILD_SCRATCH", self.scratch());
            command.env(
                "DOCKER_HOST",
                format!("unix://{}", self.home.path().join("no-engine").to_str().unwrap()),
            );
        }
        command
    }

    /// The same where no engine is at any of the usual places, and neither an engine nor an image is named.
    pub fn command_without_engine(&self) -> Command {
        let own = self.command();
        let mut command = Command::new("unshare");
        let script = "mount -t tmpfs none /run && exec \"$@\"";
        command.args(["--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_fastbuild")]);
        command.env_clear().current_dir(self.root()).stdin(Stdio::null());
        let names = ["FASTBUILD_IMAGE", "FASTBUILD_ENGINE", "DOCKER_HOST"];
        let vars = own.get_envs().filter_map(|(name, value)| Some((name, value?)));
        command.envs(vars.filter(|(name, _)| names.iter().all(|left_out| name != left_out)));
        command.env("FASTBUILD_SCRATCH", self.scratch());
        command
    }

    /// Runs `fastbuild ARGS…` to its end.
    pub fn fastbuild(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ended {
        let output = self.command().args(args).output().unwrap();
        Ended::from(output)
    }

    /// Runs `fastbuild OPTIONS… -- sh -c SCRIPT` to its end.
    pub fn sh(&self, options: &[&str], script: &str) -> Ended {
        self.fastbuild(options.iter().copied().chain(["--", "sh", "-c", script]))
    }

    /// Starts `fastbuild OPTIONS… -- sh -c SCRIPT`.
    pub fn start(&self, options: &[&str], script: &str) -> Child {
        self.command().args(options).args(["--", "sh", "-c", script]).spawn().unwrap()
    }

    /// Runs `fastbuild OPTIONS… -- sh -c SCRIPT` as an ordinary user that may talk to the engine. The project becomes that
    /// user's.
    pub fn as_nobody(&self, options: &[&str], script: &str) -> Ended {
        let own = Command::new("chown").args(["-hR", "65534:65534"]).arg(self.outside()).status().unwrap();
        assert!(own.success());
        self.still_as_nobody(options, script)
    }

    /// The same, with everything whose it is.
    pub fn still_as_nobody(&self, options: &[&str], script: &str) -> Ended {
        const NOBODY: &str = "65534";
        let group = fs::metadata(SOCKET).unwrap().gid().to_string();
        let as_root = self.command();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--groups", &group]).arg(as_root.get_program());
        command.args(as_root.get_args());
        command.args(options).args(["--", "sh", "-c", script]).current_dir(self.root()).env_clear();
        command.envs(as_root.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Ended::from(command.stdin(Stdio::null()).output().unwrap())
    }

    /// The key in the names and labels of this project's containers.
    pub fn key(&self) -> String {
        use sha2::{Digest as _, Sha256};
        let root = self.root().canonicalize().unwrap();
        Sha256::digest(root.as_os_str().as_bytes())[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Ids of this project's containers that exist now, running or not.
    pub fn containers(&self) -> Vec<String> {
        let filter = format!("label=dev.fastbuild.project={}", self.key());
        docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter])
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Names of this project's volumes, caches not among them.
    pub fn volumes(&self) -> Vec<String> {
        // Some have a name that tells, and some nothing but labels.
        let filters = [format!("name={}", self.key()), format!("label=dev.fastbuild.project={}", self.key())];
        let all = filters.map(|filter| docker(&["volume", "ls", "--quiet", "--filter", &filter])).concat();
        let all: BTreeSet<_> = all.lines().filter(|name| !name.starts_with("fastbuild-cache-")).collect();
        all.into_iter().map(str::to_owned).collect()
    }

    /// What builds moved to the safe place: the path below the source root, and the content or a link's target.
    pub fn safe(&self) -> Vec<(String, String)> {
        let root = self.root().canonicalize().unwrap();
        let below = [&root.as_os_str().as_bytes()[1..], b"/"].concat();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut found = Vec::new();
        for project in fs::read_dir(self.state().join("projects")).into_iter().flatten().flatten() {
            for run in fs::read_dir(project.path().join("displaced")).into_iter().flatten().flatten() {
                let files = Tree::of(&run.path()).0.into_iter().filter(|(_, node)| node.kind != 'd');
                found.extend(files.map(|(path, node)| {
                    (text(path.strip_prefix(below.as_slice()).unwrap_or(&path)), text(&node.content))
                }));
            }
        }
        found.sort();
        found
    }

    /// Leftovers of staging anywhere below the home.
    pub fn stages(&self) -> Vec<PathBuf> {
        fn visit(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_name().to_string_lossy().starts_with(".fastbuild-stage-") {
                    found.push(path);
                } else if path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
                    visit(&path, found);
                }
            }
        }
        let mut found = Vec::new();
        visit(self.home.path(), &mut found);
        found
    }

    /// Ids and names of the project's workspaces.
    pub fn workspaces(&self) -> Vec<(String, String)> {
        let (project, tier) =
            (format!("label=dev.fastbuild.project={}", self.key()), "label=dev.fastbuild.tier=kept");
        let format = "{{.ID}} {{.Names}}";
        let found = docker(&[
            "ps",
            "--all",
            "--no-trunc",
            "--format",
            format,
            "--filter",
            &project,
            "--filter",
            tier,
        ]);
        let pairs = found.lines().filter_map(|line| line.split_once(' '));
        pairs.map(|(id, name)| (id.to_owned(), name.to_owned())).collect()
    }

    /// The workspace, when there is one; the one that was made last of several.
    pub fn workspace(&self) -> Option<String> {
        self.workspaces().into_iter().next().map(|(id, _)| id)
    }

    /// Nothing is left of any run: no container (but workspaces, in which nothing runs), no volume but theirs, no staging
    /// directory, no run's file, no journal, nothing half-written.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let workspaces = if self.keep.is_warm() { self.workspaces() } else { Vec::new() };
        let mut containers = self.containers();
        containers.retain(|container| workspaces.iter().all(|(id, _)| id != container));
        assert_eq!(containers, [""; 0], "containers are left");
        let mut volumes = self.volumes();
        volumes.retain(|volume| workspaces.iter().all(|(_, name)| name != volume));
        assert_eq!(volumes, [""; 0], "volumes are left");
        for (id, name) in workspaces {
            // A process of the engine's is listed for a moment after its streams have ended, and the
            // reaper may still be ending a session.
            eventually(&format!("nothing runs in {name}"), || {
                let running = processes_in(&id);
                running.is_empty() || running == ["/.fastbuild/agent init"]
            });
        }
        self.assert_nothing_left_here();
    }

    /// The same without a look at the engine.
    #[track_caller]
    pub fn assert_nothing_left_here(&self) {
        let stages = self.stages();
        assert!(stages.is_empty(), "staging directories are left: {stages:?}");
        let runs: Vec<_> = fs::read_dir(self.state().join("runs")).into_iter().flatten().flatten().collect();
        assert!(runs.is_empty(), "runs are left: {runs:?}");
        let journals = fs::read_dir(self.state().join("projects")).into_iter().flatten().flatten();
        for project in journals {
            assert!(!project.path().join("journal").exists(), "a journal is left in {:?}", project.path());
            let files = fs::read_dir(project.path()).unwrap().flatten().map(|file| file.file_name());
            let halves: Vec<_> = files.filter(|name| name.to_string_lossy().starts_with(".new-")).collect();
            assert!(halves.is_empty(), "half-written files are left in {:?}: {halves:?}", project.path());
        }
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // Workspaces, of directories below the project too, and what a failed test left must not stay on the engine.
        let mut left = self.containers();
        if let Ok(state) = fs::read_to_string(self.state().join("id")) {
            let filter = format!("label=dev.fastbuild.state={}", state.trim());
            let all = docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]);
            left.extend(all.lines().map(str::to_owned));
        }
        for container in left {
            let _ = Command::new("docker").args(["rm", "--force", "--volumes", &container]).output();
        }
        for volume in self.volumes() {
            let _ = Command::new("docker").args(["volume", "rm", "--force", &volume]).output();
        }
    }
}

/// How a run came out, as a user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The exit code; 128 + n after signal n.
    pub code: i32,
    /// Standard output, byte for byte.
    pub stdout: Vec<u8>,
    /// Standard error, byte for byte.
    pub stderr: Vec<u8>,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        let signal = output.status.signal().map(|signal| 128 + signal);
        let code = output.status.code().or(signal).unwrap();
        Ended { code, stdout: output.stdout, stderr: output.stderr }
    }
}

impl Ended {
    /// Waits for a child whose streams are piped.
    pub fn of(child: Child) -> Ended {
        child.wait_with_output().unwrap().into()
    }

    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Asserts the exit code; on failure shows everything.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Ended {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// Asserts that standard error holds each of `parts`; on failure shows everything.
    #[track_caller]
    pub fn says(&self, parts: &[&str]) -> &Ended {
        for part in parts {
            assert!(self.err().contains(part), "standard error lacks {part:?}\n{self}");
        }
        self
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit {}\n--- stdout\n{}\n--- stderr\n{}\n---", self.code, self.out(), self.err())
    }
}

/// Reads until `needle` has come, and gives everything read; panics at the end of the stream.
#[track_caller]
pub fn read_until(stream: &mut impl std::io::Read, needle: &str) -> Vec<u8> {
    let mut read = Vec::new();
    let mut byte = [0];
    while !read.ends_with(needle.as_bytes()) {
        match stream.read(&mut byte).unwrap() {
            0 => panic!("the stream ended before {needle:?}: {:?}", String::from_utf8_lossy(&read)),
            _ => read.push(byte[0]),
        }
    }
    read
}

/// Runs the `docker` client; panics when it fails.
#[track_caller]
pub fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().expect("the docker client");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The command lines of what runs in a container, its first process first; none when it has stopped.
pub fn processes_in(container: &str) -> Vec<String> {
    let top = Command::new("docker").args(["top", container, "-eo", "pid,args"]).output().unwrap();
    let said = String::from_utf8_lossy(&top.stderr);
    // The last of it may end between the engine's two looks.
    if said.contains("is not running") || said.contains("ttrpc: closed") {
        return Vec::new();
    }
    assert!(top.status.success(), "docker top: {said}");
    let top = String::from_utf8_lossy(&top.stdout);
    let mut lines: Vec<_> = top.lines().skip(1).map(|line| line.trim().to_owned()).collect();
    lines.sort_by_key(|line| line.split(' ').next().and_then(|pid| pid.parse::<u32>().ok()));
    lines.iter().filter_map(|line| line.split_once(' ')).map(|(_, args)| args.trim().to_owned()).collect()
}

/// Waits until `done` says so, looking again at short intervals, for what has no event to wait for; panics after a
/// minute.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !done() {
        assert!(began.elapsed().as_secs() < 60, "it did not come about within a minute: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// A tree as data: path -> what is there. Equal trees have equal content, modes, links and whole-second mtimes of files.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tree(pub BTreeMap<Vec<u8>, Node>);

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `d`, `f`, `l` or `s` for anything else.
    pub kind: char,
    /// Permission bits.
    pub mode: u32,
    /// Content or link target.
    pub content: Vec<u8>,
    /// Seconds; zero for all but files.
    pub mtime: i64,
}

impl Tree {
    /// The tree below `root`, without it.
    pub fn of(root: &Path) -> Tree {
        let mut tree = Tree::default();
        tree.add(root, &mut Vec::new());
        tree
    }

    fn add(&mut self, dir: &Path, path: &mut Vec<u8>) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let len = path.len();
            if len > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(entry.file_name().as_bytes());
            let metadata = entry.path().symlink_metadata().unwrap();
            let (kind, content, mtime) = if metadata.is_dir() {
                ('d', Vec::new(), 0)
            } else if metadata.is_symlink() {
                ('l', fs::read_link(entry.path()).unwrap().as_os_str().as_bytes().to_vec(), 0)
            } else if metadata.is_file() {
                let mut content = Vec::new();
                if let Ok(mut file) = fs::File::open(entry.path()) {
                    file.read_to_end(&mut content).unwrap();
                }
                ('f', content, metadata.mtime())
            } else {
                ('s', Vec::new(), 0)
            };
            let mode = if kind == 'l' { 0o777 } else { metadata.mode() & 0o7777 };
            self.0.insert(path.clone(), Node { kind, mode, content, mtime });
            if kind == 'd' {
                self.add(&entry.path(), path);
            }
            path.truncate(len);
        }
    }

    /// The paths, escaped.
    pub fn paths(&self) -> Vec<String> {
        self.0.keys().map(|path| path.escape_ascii().to_string()).collect()
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, node) in &self.0 {
            let shown = &node.content[..node.content.len().min(40)];
            let (path, shown) = (path.escape_ascii(), shown.escape_ascii());
            writeln!(f, "{} {:04o} {} {path} \"{shown}\"", node.kind, node.mode, node.mtime)?;
        }
        Ok(())
    }
}
