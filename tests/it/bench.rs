//! `fastbuild bench` against a real engine: all places and routes are measured, and whatever ends it, nothing is left.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use crate::common::process::{Watchdog, send};
use crate::common::{BUSYBOX, Ended, Project, SOCKET, docker, eventually};
use fastbuild::{
    bench::{
        DiskFigures, Measured, Place, Report, RouteRow,
        artifacts::Belongings,
        container::{self, Materials},
        disk::{Containers, Disk, PLACES, Rounds},
    },
    engine::{Docker, labels},
    measure::{Sizes, wire::Medium},
    report::{Look, Mode, Shows, Streams, Verbosity, meter::Meter},
    spec::{Endpoint, Route},
    state::State,
};
use indicatif::ProgressDrawTarget;
use rustix::process::Signal;

const TINY: Sizes = Sizes { sequential: 1 << 20, files: 20, file_bytes: 100, directories: 2 };

/// What a bench at library level needs.
struct Bench {
    project: Project,
    state: State,
    docker: Docker,
    belongings: Belongings,
}

impl Bench {
    async fn begin() -> Bench {
        let project = Project::new();
        let state = State::open(project.state()).unwrap();
        let endpoint = Endpoint::Unix(SOCKET.into());
        let docker = Docker::connect(&endpoint).await.unwrap();
        let of_project = state.project(&project.root()).unwrap();
        let belongings =
            Belongings::begin(&state, &of_project, &project.root(), &endpoint, Some(docker.clone())).unwrap();
        Bench { project, state, docker, belongings }
    }

    async fn end(self) -> Project {
        let left = self.belongings.clear().await;
        assert!(left.is_empty(), "{left:?}");
        assert_nothing_left(&self.project);
        drop(self.state);
        self.project
    }
}

fn silent() -> Meter {
    let nowhere = || Box::new(std::io::sink());
    let streams = Streams {
        stdout: nowhere(),
        stdout_shows: Shows::Elsewhere,
        stderr: nowhere(),
        own: nowhere(),
        screen: ProgressDrawTarget::hidden(),
        look: Look::default(),
    };
    Meter::new(Mode::None, Verbosity::Quiet, streams)
}

/// What carries the mark of a bench of this project's state directory, on the engine.
fn on_engine(project: &Project) -> Vec<String> {
    let Ok(id) = fs::read_to_string(project.state().join("id")) else { return Vec::new() };
    let state = format!("label={}={}", labels::STATE, id.trim());
    let listings: [&[&str]; 3] =
        [&["ps", "--all", "--quiet"], &["volume", "ls", "--quiet"], &["images", "--quiet"]];
    let list = |what: &&[&str]| docker(&[*what, &["--filter", &state]].concat());
    listings.iter().map(list).flat_map(|ids| ids.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[track_caller]
fn assert_nothing_left(project: &Project) {
    assert_eq!(on_engine(project), [""; 0]);
    project.assert_nothing_left();
    let homes = fs::read_dir(project.state().join("bench")).into_iter().flatten().count();
    assert_eq!(homes, 0, "the state of measured builds is left");
}

#[track_caller]
fn assert_positive(figures: &DiskFigures, rounds: usize) {
    let DiskFigures { sequential_bytes, write, read, files, create, stat, read_small, rename, delete } =
        figures;
    assert_eq!((*sequential_bytes, *files), (TINY.sequential, TINY.files));
    for samples in [write, read, create, stat, read_small, rename, delete] {
        assert!(samples.count() == rounds && samples.0.iter().all(|sample| *sample > 0.0), "{figures:?}");
    }
}

#[tokio::test]
async fn every_place_is_measured_in_each_round_and_nothing_stays() {
    let bench = Bench::begin().await;
    bench.project.write("file", "content");
    let before = bench.project.tree();
    let containers = Containers::On { docker: &bench.docker, image: None, no_mounts: None };
    let rounds = Rounds { most: 2, until: None };
    let meter = silent();
    let disk = Disk { belongings: &bench.belongings, containers, sizes: TINY, rounds, meter: &meter };
    let rows = disk.measure().await;
    assert_eq!(rows.iter().map(|row| row.place).collect::<Vec<_>>(), PLACES);
    for row in &rows {
        assert_positive(row.result.done().unwrap_or_else(|| panic!("{row:?}")), 2);
    }
    let project = bench.end().await;
    assert_eq!(project.tree(), before);
}

#[tokio::test]
async fn a_mount_that_the_engine_refuses_is_told_and_the_other_places_are_measured() {
    let bench = Bench::begin().await;
    let image = bench.docker.image(BUSYBOX, None).await.unwrap().unwrap();
    let materials = Materials {
        docker: &bench.docker,
        name: bench.belongings.object_name(),
        labels: bench.belongings.labels().unwrap(),
        image: &image,
        sizes: &TINY,
        bind: Path::new("/fastbuild/is/not/there"),
    };
    let places = [Place::Layer, Place::Tmpfs, Place::Volume, Place::BindMount];
    let (mut lab, refused) = materials.open(&places).await.unwrap();
    assert_eq!(refused.keys().collect::<Vec<_>>(), [&Place::BindMount]);
    assert!(refused[&Place::BindMount].contains("/fastbuild/is/not/there"), "{refused:?}");
    for place in &places[..3] {
        let directory = container::directory(*place).unwrap();
        let measured = lab.measure(directory, Medium::Disk, &TINY, &mut |_| ()).await.unwrap();
        assert_eq!(measured.unwrap().sizes, TINY, "{place}");
    }
    bench.end().await;
}

#[tokio::test]
async fn what_has_no_room_is_not_offered_with_the_sizes() {
    let bench = Bench::begin().await;
    let sizes = Sizes { sequential: 1 << 50, ..TINY };
    let no_mounts = Some("it is elsewhere".to_owned());
    let containers = Containers::On { docker: &bench.docker, image: None, no_mounts };
    let rounds = Rounds { most: 1, until: None };
    let meter = silent();
    let disk = Disk { belongings: &bench.belongings, containers, sizes, rounds, meter: &meter };
    for row in disk.measure().await {
        let Measured::NotOffered { why } = &row.result else { panic!("{row:?}") };
        let told = match row.place {
            Place::BindMount => "it is elsewhere",
            Place::Tmpfs => "it needs 1125899907 MB of memory, and ",
            _ => "it needs 1125899907 MB, and ",
        };
        assert!(why.contains(told), "{row:?}");
    }
    bench.end().await;
}

#[tokio::test]
async fn without_an_engine_the_source_directory_is_measured() {
    let bench = Bench::begin().await;
    let containers = Containers::None { why: "nobody answers".to_owned() };
    let rounds = Rounds { most: 1, until: None };
    let meter = silent();
    let disk = Disk { belongings: &bench.belongings, containers, sizes: TINY, rounds, meter: &meter };
    for row in disk.measure().await {
        match (row.place, &row.result) {
            (Place::SourceDirectory, Measured::Done(figures)) => assert_positive(figures, 1),
            (_, Measured::NotOffered { why }) => assert_eq!(why, "nobody answers"),
            _ => panic!("{row:?}"),
        }
    }
    bench.end().await;
}

fn report(ended: &Ended) -> Report {
    ended.exits(0);
    serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| panic!("{error}\n{ended}"))
}

fn row(report: &Report, route: Route) -> &RouteRow {
    report.routes.iter().find(|row| row.route == route).unwrap_or_else(|| panic!("{report:?}"))
}

#[test]
fn the_disk_alone_is_measured_without_a_command() {
    let project = Project::new();
    project.write("file", "content");
    let before = project.tree();
    let report = report(&project.fastbuild(["bench", "--quick", "--rounds", "1", "--json"]));
    assert_eq!((report.command, report.source.files, report.source.bytes), (None, 1, 7));
    assert_eq!(report.disk.len(), PLACES.len());
    assert!(report.disk.iter().all(|row| row.result.done().is_some()), "{:?}", report.disk);
    assert!(report.routes.is_empty());
    assert_eq!(project.tree(), before);
    assert_nothing_left(&project);
}

#[test]
fn the_command_is_measured_in_copies_and_the_tree_stays_as_it_is() {
    let project = Project::new();
    project.write("sub/input", "one").write("ignored/file", "two").write(".fastbuildignore", "ignored\n");
    let before = project.tree();
    let script = "pwd; ls -A ..; cat input > ../out/x; echo y > /tmp/log";
    let mut command = project.command();
    command.current_dir(project.path("sub")).args(["bench", "--no-disk", "--rounds", "2", "--json"]);
    command.args([
        "-C",
        "..",
        "--keep",
        "--routes",
        "layer,volume",
        "-o",
        "../out",
        "-o",
        "/tmp/log:../../beside/",
    ]);
    command.args(["--", "sh", "-c", &format!("mkdir -p ../out && {script}")]);
    let report = report(&command.output().unwrap().into());
    let order: Vec<_> = report.routes.iter().map(|row| row.route).collect();
    assert_eq!(order, [Route::Layer, Route::Volume]);
    let layer = row(&report, Route::Layer);
    let samples = layer.result.done().unwrap_or_else(|| panic!("{layer:?}"));
    assert!(samples.count() == 2 && samples.0.iter().all(|took| *took > 0.0), "{layer:?}");
    assert!(layer.first.is_some_and(|took| took > 0.0), "{layer:?}");
    assert!(report.disk.is_empty());
    assert_eq!(project.tree(), before);
    assert!(!project.outside().join("beside").exists());
    assert_nothing_left(&project);
}

#[test]
fn a_command_that_fails_is_a_row_that_says_why() {
    let project = Project::new();
    let options = ["bench", "--no-disk", "--rounds", "1", "--json", "--routes", "layer,mount-source"];
    let ended = project.fastbuild(options.into_iter().chain(["--", "sh", "-c", "echo it is so >&2; exit 3"]));
    ended.exits(125).says(&["nothing could be measured"]);
    let report: Report = serde_json::from_slice(&ended.stdout).unwrap();
    let Measured::Failed { why } = &row(&report, Route::Layer).result else { panic!("{report:?}") };
    assert!(why.contains("3") && why.contains("it is so"), "{why}");
    let Measured::NotOffered { why } = &row(&report, Route::MountSource).result else { panic!("{report:?}") };
    assert!(why.contains("-o"), "{why}");
    assert_nothing_left(&project);
}

#[test]
fn the_choice_is_saved_among_the_comments_and_the_page_is_written() {
    let project = Project::new();
    project.write("fastbuild.toml", "# ours\nkeep = ['x'] # for speed\n\n[env]\nA = \"b\" # c\n");
    let options =
        ["bench", "--no-disk", "--rounds", "1", "--routes", "layer", "--save", "--html", "../page.html"];
    let ended = project.fastbuild(options.into_iter().chain(["--", "true"]));
    ended.exits(0).says(&["fastbuild.toml\" says route = \"layer\" now", "page.html"]);
    assert!(ended.out().contains("layer"), "{ended}");
    let expected = "# ours\nkeep = ['x'] # for speed\nroute = \"layer\"\n\n[env]\nA = \"b\" # c\n";
    assert_eq!(project.read("fastbuild.toml"), expected);
    let page = fs::read_to_string(project.outside().join("page.html")).unwrap();
    assert!(page.starts_with("<!") && page.contains("layer"), "{page}");
    assert_nothing_left(&project);
}

#[test]
fn without_save_later_builds_are_as_they_were_and_with_it_they_stay_on_their_engine() {
    let project = Project::new();
    let bench = |options: &[&str]| {
        let common = ["bench", "--no-disk", "--rounds", "1", "--routes", "host,layer"];
        let mut command = project.command();
        command.env("FASTBUILD_SCRATCH", project.scratch()).args(common).args(options).args(["--", "true"]);
        Ended::from(command.output().unwrap()).exits(0);
    };
    let before = project.fastbuild(["plan", "--", "true"]);
    let known = || {
        let projects = fs::read_dir(project.state().join("projects")).unwrap();
        let files = projects.flat_map(|one| fs::read_dir(one.unwrap().path()).unwrap());
        files.map(|file| file.unwrap().file_name()).collect::<BTreeSet<_>>()
    };
    bench(&[]);
    let without = known();
    assert_eq!(project.fastbuild(["plan", "--", "true"]), before);
    bench(&["--save"]);
    assert_eq!(project.read("fastbuild.toml"), "route = \"layer\"\n", "host is another engine");
    assert_eq!(known(), without, "all that is kept is in the file");
    let told = project.fastbuild(["plan", "--", "true"]);
    assert!(told.out().contains("fastbuild.toml:1"), "{told}");
    assert_nothing_left(&project);
}

#[test]
fn the_host_engine_is_measured_and_its_scratch_directory_goes() {
    let project = Project::new();
    project.write("sub/input", "one");
    let before = project.tree();
    let mut command = project.command();
    command.current_dir(project.path("sub")).args(["bench", "--no-disk", "--rounds", "1", "--json"]);
    command.args(["-C", "..", "--keep", "--routes", "host", "--scratch", "../../scratch", "-o", "../out"]);
    command.args(["--", "sh", "-c", "mkdir -p ../out && cp input ../out"]);
    fs::create_dir(project.outside().join("scratch")).unwrap();
    let report = report(&command.output().unwrap().into());
    let host = row(&report, Route::Host);
    assert_eq!(host.result.done().map(|samples| samples.count()), Some(1), "{host:?}");
    assert_eq!(project.tree(), before);
    assert_eq!(fs::read_dir(project.outside().join("scratch")).unwrap().count(), 0);
    assert_nothing_left(&project);
}

/// Root's container writes into the copy of a user who is not root, as `docker run -v` does.
#[test]
fn what_a_mounted_build_wrote_as_another_user_is_removed_too() {
    let project = Project::new();
    project.write("file", "content");
    let options = ["bench", "--no-disk", "--rounds", "1", "--routes", "mount", "--json"];
    let ended = project.as_nobody(&options, "mkdir -p out/deep && echo x >out/deep/file && chmod 700 out");
    let report = report(&ended);
    assert!(row(&report, Route::Mount).result.done().is_some(), "{report:?}");
    assert!(!ended.err().contains("warning"), "{ended}");
    assert_nothing_left(&project);
}

/// A bench that has come as far as a line that says `piece`.
fn at(
    project: &Project,
    options: &[&str],
    piece: &str,
) -> (Child, Watchdog, BufReader<std::process::ChildStderr>) {
    let mut command = project.command();
    command.arg("bench").args(options).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let watchdog = Watchdog::over(&child);
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut seen = String::new();
    while !seen.lines().last().is_some_and(|line| line.contains(piece)) {
        assert_ne!(lines.read_line(&mut seen).unwrap(), 0, "it ended before {piece:?}: {seen}");
    }
    (child, watchdog, lines)
}

#[test]
fn a_bench_that_is_interrupted_leaves_nothing() {
    let sleeps = ["--no-disk", "--routes", "layer", "--", "sleep", "1000"];
    let cases: [(&[&str], &str, Signal); 3] = [
        (&[], "source directory, round 1", Signal::INT),
        (&["--quick"], "container layer, round 1", Signal::TERM),
        (&sleeps, "layer, first run", Signal::INT),
    ];
    for (options, piece, signal) in cases {
        let project = Project::new();
        project.write("file", "content");
        let before = project.tree();
        let (mut child, _watchdog, _lines) = at(&project, options, piece);
        if options == sleeps {
            // The command itself is under way.
            eventually("the command runs", || runs_in_a_workspace(&project, "sleep 1000"));
        }
        send(&child, signal);
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(signal.as_raw()), "{piece}");
        assert_eq!(project.tree(), before);
        assert_nothing_left(&project);
    }
}

/// Whether a build that the bench measures runs `command`.
fn runs_in_a_workspace(project: &Project, command: &str) -> bool {
    let entries = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten();
    let homes = entries(project.state().join("bench"));
    let mut projects = homes.flat_map(|home| entries(home.path().join("state/projects")));
    projects.any(|of_build| {
        let filter = format!("label={}={}", labels::PROJECT, of_build.file_name().to_string_lossy());
        let containers = docker(&["ps", "--quiet", "--filter", &filter]);
        containers.lines().any(|id| crate::common::processes_in(id).iter().any(|line| line.contains(command)))
    })
}

#[test]
fn what_a_killed_bench_made_is_taken_away_by_its_reaper() {
    let project = Project::new();
    project.write("file", "content");
    let before = project.tree();
    let (mut child, _watchdog, _lines) = at(&project, &["--quick"], "container layer, round 1");
    assert!(!on_engine(&project).is_empty());
    send(&child, Signal::KILL);
    child.wait().unwrap();
    eventually("nothing is left on the engine", || on_engine(&project).is_empty());
    eventually("nothing is left in the source root", || project.tree() == before);
    eventually("the run is forgotten", || fs::read_dir(project.state().join("runs")).unwrap().count() == 0);
    assert_nothing_left(&project);
}

#[test]
fn builds_of_a_killed_bench_end_too() {
    let project = Project::new();
    project.write("file", "content");
    let before = project.tree();
    let (up, scratch) = (project.outside().join("up"), project.outside().join("scratch"));
    fs::create_dir(&scratch).unwrap();
    let script = format!("touch {up:?}; exec sleep 1000");
    let options =
        ["--no-disk", "--routes", "host", "--scratch", scratch.to_str().unwrap(), "--", "sh", "-c", &script];
    let (mut child, _watchdog, _lines) = at(&project, &options, "host, first run");
    eventually("the command runs", || up.exists());
    send(&child, Signal::KILL);
    child.wait().unwrap();
    eventually("nothing is left of the build", || fs::read_dir(&scratch).unwrap().count() == 0);
    eventually("the run is forgotten", || fs::read_dir(project.state().join("runs")).unwrap().count() == 0);
    assert_eq!(project.tree(), before);
    assert_nothing_left(&project);
}
