//! Rule 7: nothing is removed unless its own labels say that it is this project's, this state directory's or this run's. The
//! engine of most tests lists everything for every filter; the other one is Podman, which lists what has *one* of the
//! properties that Docker wants *all* of.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::common::proxy::{Fault, Proxy, Which};
use crate::common::{BUSYBOX, Ended, Project, docker, eventually};
use fastbuild::{bench::artifacts, engine::Docker, spec::Endpoint, state::State};

/// A run that these tests did not begin.
const OTHER_RUN: &str = "0123456789ab";

/// An engine, as its owner uses it.
struct Engine {
    /// Its client and what that has to be told.
    client: Vec<String>,
    /// For fastbuild.
    address: String,
    image: &'static str,
    _proxy: Option<Proxy>,
}

impl Engine {
    /// The system's, which lists all that it has, whatever it is asked for.
    fn unfiltered(home: &Path) -> Engine {
        let proxy = Proxy::new(home);
        proxy.on("GET", "filters=", Which::All, Fault::Unfiltered);
        let (client, address) = (vec!["docker".to_owned()], proxy.address());
        Engine { client, address, image: BUSYBOX, _proxy: Some(proxy) }
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        let output = Command::new(&self.client[0]).args(&self.client[1..]).args(args).output().unwrap();
        let ended = Ended::from(output);
        ended.exits(0);
        ended.out()
    }

    /// The names of all containers and volumes whose names hold `part`.
    fn names(&self, part: &str) -> BTreeSet<String> {
        let all =
            self.run(&["ps", "--all", "--format", "{{.Names}}"]) + &self.run(&["volume", "ls", "--quiet"]);
        all.lines().filter(|name| name.contains(part)).map(str::to_owned).collect()
    }

    #[track_caller]
    fn fastbuild(&self, project: &Project, args: &[&str]) -> Ended {
        let mut command = project.command();
        command.env("DOCKER_HOST", &self.address).env("FASTBUILD_IMAGE", self.image);
        let ended = Ended::from(command.args(args).output().unwrap());
        ended.exits(0);
        ended
    }

    fn create(&self, name: &str, labels: &[String]) {
        let labels = labels.iter().flat_map(|label| ["--label", label]);
        let args: Vec<_> = ["create", "--name", name].into_iter().chain(labels).collect();
        self.run(&[&args[..], &[self.image, "true"]].concat());
    }

    fn create_volume(&self, name: &str, labels: &[String]) {
        let labels = labels.iter().flat_map(|label| ["--label", label]);
        self.run(&["volume", "create"].into_iter().chain(labels).chain([name]).collect::<Vec<_>>());
    }

    fn remove(&self, names: &BTreeSet<String>) {
        for name in names {
            for what in [&["rm", "--force"][..], &["volume", "rm"]] {
                let mut client = Command::new(&self.client[0]);
                let _ = client.args(&self.client[1..]).args(what).arg(name).output();
            }
        }
    }
}

fn labels(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("dev.fastbuild.{name}={value}")).collect()
}

fn state_of(project: &Project) -> State {
    State::open(project.state()).unwrap()
}

/// What others have on the engine, none of it in use; gone with the test.
struct Foreign<'a> {
    engine: &'a Engine,
    names: BTreeSet<String>,
}

impl Foreign<'_> {
    fn beside<'a>(engine: &'a Engine, project: &Project) -> Foreign<'a> {
        let (key, own) = (project.key(), state_of(project).id().unwrap());
        let of_other = |tier: &str| labels(&[("tier", tier), ("state", "ffffff"), ("project", &key)]);
        let of_other_run = |tier: &str| {
            labels(&[("tier", tier), ("run", OTHER_RUN), ("state", "ffffff"), ("project", &key)])
        };
        let name = |what: &str| format!("fastbuild-{what}-of-others-{key}");
        for (what, labels) in [
            ("plain", Vec::new()),
            ("workspace", of_other("warm")),
            ("bench", of_other("bench")),
            ("run", of_other_run("cold")),
        ] {
            engine.create(&name(what), &labels);
        }
        // A container of an image that a user has made of the workspace: the labels come with it.
        let committed = format!("debugging-{key}");
        engine.create(&committed, &labels(&[("tier", "warm"), ("state", &own), ("project", &key)]));
        for (what, labels) in [
            ("data", Vec::new()),
            ("cache", of_other("cache")),
            ("volume", of_other("volume")),
            ("run-volume", of_other_run("volume")),
            ("bench-volume", of_other("bench")),
        ] {
            engine.create_volume(&name(what), &labels);
        }
        let mut names = engine.names(&format!("-of-others-{key}"));
        names.insert(committed);
        assert_eq!(names.len(), 10, "{names:?}");
        Foreign { engine, names }
    }

    #[track_caller]
    fn assert_all_there(&self) {
        let there = self.engine.names("");
        let gone: Vec<_> = self.names.difference(&there).collect();
        assert!(gone.is_empty(), "removed, and not ours: {gone:?}");
    }
}

impl Drop for Foreign<'_> {
    fn drop(&mut self) {
        self.engine.remove(&self.names);
    }
}

/// The ways in which fastbuild removes what it has on an engine.
fn removals_leave_foreign_things_alone(engine: &Engine) {
    let project = Project::new();
    let (key, id) = (project.key(), state_of(&project).id().unwrap());
    let foreign = Foreign::beside(engine, &project);
    let (workspace, cache) = (format!("fastbuild-ws-{key}-"), format!("fastbuild-cache-{key}"));
    let keep = |more: &[&str]| {
        let options = ["run", "--keep", "--route", "volume", "-o", "out"];
        engine.fastbuild(&project, &[&options[..], more, &["--", "sh", "-c", "echo built > out"]].concat());
        let is_ours = |name: &String| name.starts_with(&workspace) && name.ends_with(&id);
        assert!(engine.names("").iter().any(is_ours));
    };
    let all_but_foreign = || Vec::from_iter(&engine.names(&key) - &foreign.names);
    let is_away = |name: &String| !engine.names("").contains(name);

    keep(&["--cache", &format!("{key}:/own"), "--cache", &format!("shared:{key}:/cache")]);
    // What a kill may leave: a workspace's volume without a container.
    let left = format!("fastbuild-left-{key}");
    engine.create_volume(&left, &labels(&[("tier", "volume"), ("state", &id), ("project", &key)]));
    let would = engine.fastbuild(&project, &["workspace", "prune", "--all", "--caches", "--dry-run"]).out();
    assert!(foreign.names.iter().all(|name| !would.contains(name.as_str())), "{would}");
    engine.fastbuild(&project, &["workspace", "prune", "--all", "--caches"]);
    engine.fastbuild(&project, &["workspace", "prune", "--all", "--caches"]);
    foreign.assert_all_there();
    assert_eq!(all_but_foreign(), [""; 0], "left after a prune");
    assert!(is_away(&cache) && is_away(&left));

    keep(&[]);
    engine.fastbuild(&project, &["workspace", "rm", "--all"]);
    foreign.assert_all_there();
    assert_eq!(all_but_foreign(), [""; 0], "left after a removal");

    // A run that was killed with its reaper, and a build after it.
    let state = state_of(&project);
    let run =
        state.begin_run(&state.project(&project.root().canonicalize().unwrap()).unwrap(), &engine.address);
    let run = run.unwrap().id;
    let of_run = |tier: &str| labels(&[("tier", tier), ("run", &run), ("project", &key)]);
    engine.create(&format!("fastbuild-{key}-{run}"), &of_run("cold"));
    engine.create_volume(&format!("fastbuild-{key}-{run}"), &of_run("volume"));
    let removed = engine.fastbuild(&project, &["--no-keep", "-o", "out", "--", "touch", "out"]);
    removed.says(&[&format!("fastbuild-{key}-{run}")]);
    foreign.assert_all_there();
    assert_eq!(all_but_foreign(), [""; 0], "left of a run that was killed");
    project.assert_nothing_left_here();
}

#[test]
fn whatever_the_engine_lists_only_what_is_ours_is_removed() {
    let home = tempfile::tempdir().unwrap();
    removals_leave_foreign_things_alone(&Engine::unfiltered(home.path()));
}

#[test]
fn podmans_filters_cost_nobody_a_volume() {
    let home = tempfile::tempdir().unwrap();
    let podman = Podman::start(home.path());
    removals_leave_foreign_things_alone(&podman.engine);
}

#[tokio::test]
async fn a_sweep_after_a_dead_bench_leaves_other_images_containers_and_volumes_alone() {
    let home = tempfile::tempdir().unwrap();
    let engine = Engine::unfiltered(home.path());
    let project = Project::new();
    let (key, state) = (project.key(), state_of(&project));
    let foreign = Foreign::beside(&engine, &project);
    let of_bench = |state: &str| labels(&[("tier", "bench"), ("run", OTHER_RUN), ("state", state)]);
    let image = |name: &str, state: &str| {
        let name = format!("fastbuild/test-{name}-{key}");
        let changes = of_bench(state).into_iter().map(|label| format!("LABEL {label}"));
        let args = changes.flat_map(|change| ["--change".to_owned(), change]);
        let empty =
            Command::new("docker").arg("import").args(args).args(["-", &name]).stdin(Stdio::null()).output();
        assert!(empty.unwrap().status.success());
        name
    };
    let (own, others) = (image("own", &state.id().unwrap()), image("others", "ffffff"));
    let name = format!("fastbuild-bench-{key}");
    engine.create(&name, &of_bench(&state.id().unwrap()));
    engine.create_volume(&name, &of_bench(&state.id().unwrap()));

    let at = Endpoint::Unix(engine.address.trim_start_matches("unix://").into());
    let asked = Docker::connect(&at).await.unwrap();
    artifacts::sweep(Some(&asked), &engine.address, &state).await.unwrap();
    foreign.assert_all_there();
    assert!(!engine.names("").contains(&name));
    let images = docker(&["images", "--format", "{{.Repository}}"]);
    let has = |name: &str| images.lines().any(|image| image == name);
    assert_eq!((has(&own), has(&others), has("fastbuild/test-busybox")), (false, true, true));
    docker(&["rmi", &others]);
}

/// Other tests tidy up the system's engine as well: what they may take must not be needed any more.
fn what_never_started_goes(engine: &Engine) {
    let project = Project::new();
    let key = project.key();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let made = |name: &str, ago: u64, more: &[(&str, &str)]| {
        let name = format!("fastbuild-{name}-{key}");
        let created = (now - ago).to_string();
        engine.create(&name, &labels(&[&[("created", created.as_str())], more].concat()));
        name
    };
    let others = [("tier", "warm"), ("state", "ffffff")];
    for (way, options) in [
        ("by a prune", &["workspace", "prune"][..]),
        // The first one with this state directory is the first one of the day.
        ("by a build", &["--keep", "--", "true"]),
    ] {
        let old = made("old", 3700, &others);
        let kept =
            BTreeSet::from([made("young", 3000, &others), made("unlabelled", 3700, &[("state", "ffffff")])]);
        engine.fastbuild(&project, options);
        let left = engine.names(&key);
        engine.remove(&kept);
        assert!(!left.contains(&old), "{way}");
        assert!(kept.is_subset(&left), "{way}: {left:?}");
    }
    engine.fastbuild(&project, &["workspace", "rm", "--all"]);
}

#[test]
fn what_was_made_an_hour_ago_and_never_started_is_removed_by_anybody() {
    let home = tempfile::tempdir().unwrap();
    what_never_started_goes(&Engine::unfiltered(home.path()));
}

#[test]
fn what_was_started_is_not_removed_by_others_however_old() {
    let home = tempfile::tempdir().unwrap();
    let podman = Podman::start(home.path());
    podman
        .engine
        .create("fastbuild-started", &labels(&[("created", "1000"), ("tier", "warm"), ("state", "ffffff")]));
    podman.engine.run(&["start", "fastbuild-started"]);
    what_never_started_goes(&podman.engine);
    assert!(podman.engine.names("").contains("fastbuild-started"));
}

#[test]
fn an_engine_that_gives_root_no_rights_runs_builds_as_any_user() {
    let home = tempfile::tempdir().unwrap();
    let rights = "default_capabilities = []\nno_new_privileges = true";
    let podman = Podman::start_with(home.path(), rights);
    let project = Project::new();
    project.write("in", "text");
    for lifetime in ["--keep", "--no-keep"] {
        for user in ["0", "1000:1000"] {
            let script = ["sh", "-c", "cp in out; stat -c %u in; grep CapEff /proc/self/status"];
            let options = ["run", "-q", lifetime, "-u", user, "-o", "out", "--"];
            let ended = podman.engine.fastbuild(&project, &[&options[..], &script].concat());
            let said = ended.exits(0).out();
            assert!(said.starts_with(user.trim_end_matches(":1000")), "{lifetime} {said}");
            assert_eq!(said.contains("CapEff:\t0000000000000000"), user != "0", "{lifetime} {said}");
            assert_eq!(project.read("out"), "text");
        }
    }
}

#[test]
fn a_strangers_volume_with_the_workspaces_name_is_neither_removed_nor_used() {
    let project = Project::new();
    let options = ["--keep", "--route", "volume", "-o", "out"];
    project.sh(&options, "touch out").exits(0);
    let name = project.volumes().remove(0);
    project.fastbuild(["workspace", "rm"]).exits(0);
    docker(&["volume", "create", &name]);
    project.sh(&options, "touch out").exits(125).says(&[&name, "by its labels", "rename or remove it"]);
    assert_eq!(project.volumes(), [name.as_str()]);
    docker(&["volume", "rm", &name]);
    project.sh(&options, "touch out").exits(0);
}

#[test]
fn a_directory_of_the_users_in_a_placeholders_place_stays() {
    let project = Project::new();
    project.write("in", "text");
    let state = state_of(&project);
    let of_project = state.project(&project.root().canonicalize().unwrap()).unwrap();
    for (whose, stays) in [("the run's own", false), ("the user's", true)] {
        let run = state.begin_run(&of_project, "unix:///nowhere").unwrap();
        run.make_placeholder(&project.path("dist")).unwrap();
        drop(run);
        if stays {
            fs::remove_dir(project.path("dist")).unwrap();
            fs::create_dir(project.path("dist")).unwrap();
        }
        project.sh(&["-o", "out"], "touch out").exits(0);
        assert_eq!(project.has("dist"), stays, "{whose}");
    }
}

/// Podman with a store of its own, and one image.
struct Podman {
    engine: Engine,
    service: Child,
}

impl Podman {
    fn start(home: &Path) -> Podman {
        Podman::start_with(home, "")
    }

    /// With more in its file's section of containers.
    fn start_with(home: &Path, more: &str) -> Podman {
        let config = home.join("containers.conf");
        // As little as can be of the machine's: no bridge, no systemd, no limits that only its root may raise.
        fs::write(
            &config,
            format!("[containers]\nnetns = \"host\"\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n{more}\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\n"),
        )
        .unwrap();
        let at = |name: &str| home.join(name).to_str().unwrap().to_owned();
        let mut client: Vec<_> = ["podman", "--storage-driver", "vfs"].map(str::to_owned).into();
        for (option, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            client.extend([option.to_owned(), at(name)]);
        }
        let socket = at("podman.sock");
        let address = format!("unix://{socket}");
        let service = Command::new(&client[0])
            .args(&client[1..])
            .args(["system", "service", "--time", "0", &address])
            .env("CONTAINERS_CONF", &config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("podman");
        let client = ["podman", "--url", &address].map(str::to_owned).into();
        let engine =
            Engine { client, address, image: "localhost/fastbuild/test-busybox:latest", _proxy: None };
        let podman = Podman { engine, service };
        eventually("Podman answers", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        let image = at("image.tar");
        docker(&["save", "--output", &image, BUSYBOX]);
        podman.engine.run(&["load", "--quiet", "--input", &image]);
        podman
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let mut remove = Command::new("podman");
        let _ =
            remove.args(&self.engine.client[1..]).args(["rm", "--all", "--force", "--time", "0"]).output();
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}
