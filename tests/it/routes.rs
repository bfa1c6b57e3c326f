//! Whatever the files travel into - the container's layer, a tmpfs, a volume, a share -, a build sees the host's tree and
//! its products come back, and what goes away goes with all that it had.

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use crate::common::other_processor::load_for_other_processor;
use crate::common::process::{Watched, noise};
use crate::common::proxy::Proxy;
use crate::common::reports;
use crate::common::reports::{event, in_workspace, json};
use crate::common::{BUSYBOX, Ended, FILLED, NONROOT, Project, Tree, docker, eventually};
use rustix::process::{Pid, Signal, kill_process};

const ROUTES: [&str; 3] = ["layer", "tmpfs", "volume"];
const KEEP: [&str; 2] = ["--keep", "--no-keep"];

/// The size of a file that is larger than all that is said beside it.
const LARGE: usize = 600_000;
/// More than the heads and lists of a small build.
const LITTLE: u64 = 100_000;

/// Prints what is mounted on the working directory.
const MOUNTED: &str = "awk -v at=\"$PWD\" '$2 == at { print \"mounted:\", $3 }' /proc/mounts";

/// A project with something of each kind in it.
fn sample(project: &Project) {
    for name in
        ["a", "dir/-dash", "dir/\u{fc}ml\u{e4}ut", "dir/q'uote", "dir/back\\slash", "dir/star*", "old"]
    {
        project.write(name, format!("content of {name}\n"));
        // Old enough to be believed by their stamps.
        let file = File::open(project.path(name)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000)).unwrap();
    }
    fs::set_permissions(project.path("a"), fs::Permissions::from_mode(0o754)).unwrap();
    fs::create_dir_all(project.path("empty/within")).unwrap();
    symlink("dir/-dash", project.path("link")).unwrap();
    symlink("/nowhere", project.path("dangling")).unwrap();
}

/// The tree, without the times that a product has of its own.
fn timeless(tree: Tree) -> Tree {
    let mut tree = tree;
    tree.0.values_mut().for_each(|node| node.mtime = 0);
    tree
}

fn sent(ended: &Ended) -> u64 {
    event(ended, "finished")["agent"]["sent"].as_u64().unwrap_or_else(|| panic!("{ended}"))
}

fn how(ended: &Ended) -> String {
    event(ended, "workspace")["how"].as_str().unwrap_or("none").to_owned()
}

/// The file system that the engine shows in the working directory's place.
fn is_where_it_should_be(route: &str, printed: &str) -> bool {
    let mounted = printed.lines().find_map(|line| line.strip_prefix("mounted: "));
    match route {
        "layer" => mounted.is_none(),
        "tmpfs" => mounted == Some("tmpfs"),
        _ => mounted.is_some_and(|kind| kind != "tmpfs" && kind != "overlay"),
    }
}

#[test]
fn on_every_route_the_command_sees_the_hosts_tree_and_the_host_gets_the_same_products() {
    let mut all = Vec::new();
    for route in ROUTES {
        for keep in KEEP {
            let project = Project::new();
            sample(&project);
            let change = "echo made > made; echo more >> a; rm old; rm -r empty/within; mkdir -p new/dir; \
                          ln -s made to-made; chmod 600 dir/-dash; printf 'odd' > 'new/o\\dd*'";
            let script = format!("{}; {MOUNTED}; {change}", reports::LIST);
            let expected = reports::host_list(&project);
            let ended = project.sh(&["--route", route, keep], &script);
            let out = ended.exits(0).out();
            assert!(is_where_it_should_be(route, &out), "{route} {keep}\n{ended}");
            let listed: String = out
                .lines()
                .filter(|line| !line.starts_with("mounted:"))
                .map(|line| line.to_owned() + "\n")
                .collect();
            assert_eq!(listed, expected, "{route} {keep}");
            project.sh(&["--route", route, keep], "echo lost > made; exit 7").exits(7);
            all.push((route, keep, timeless(project.tree())));
            if keep == "--no-keep" {
                project.assert_nothing_left();
            }
        }
    }
    for (route, keep, tree) in &all {
        assert_eq!(tree, &all[0].2, "{route} {keep} is not as layer");
    }
    assert_eq!(all[0].2.0[b"made".as_slice()].content, b"made\n");
    assert!(!all[0].2.0.contains_key(b"old".as_slice()));
}

#[test]
fn an_ordinary_user_builds_named_outputs_and_runs_programs_on_every_route() {
    for route in ROUTES {
        for keep in KEEP {
            let project = Project::with_image(NONROOT);
            sample(&project);
            let script = "set -e; [ $(id -u) = 1000 ]; [ $(stat -c %u . a dir empty/within | sort -u) = 1000 ]; \
                          cp /bin/busybox busybox; ./busybox echo it runs; mkdir out; cp a out/a; echo unasked > beside";
            let options = ["--route", route, keep, "-o", "out"];
            let ended = project.sh(&options, script);
            assert_eq!(ended.exits(0).out(), "it runs\n", "{route} {keep}\n{ended}");
            assert_eq!(project.read("out/a"), "content of a\n");
            assert!(!project.has("beside") && !project.has("busybox"), "{route} {keep}");
            // What the build no longer makes goes.
            project.sh(&options, "rm -rf out; mkdir out; echo b > out/b").exits(0);
            assert!(project.has("out/b") && !project.has("out/a"), "{route} {keep}");
        }
    }
}

#[test]
fn only_differences_travel_and_all_of_it_when_a_stop_has_emptied_the_tmpfs() {
    for route in ["tmpfs", "volume"] {
        let project = Project::new();
        project.write("large", noise(5, LARGE)).write("small", "1");
        let build = || {
            json(
                &project,
                &["--route", route, "--keep", "-o", "out"],
                "mkdir -p out; echo again >> out/log; cmp large /dev/null | head -c 0; cat small",
            )
        };
        let first = build();
        assert!(sent(first.exits(0)) > LARGE as u64, "{route} {first}");
        project.write("small", "22");
        let second = build();
        assert!(sent(second.exits(0)) < LITTLE, "{route} {second}");
        assert_eq!((second.out().as_str(), how(&second).as_str()), ("22", "found"));
        docker(&["stop", "--time", "1", &project.workspace().unwrap()]);
        let third = build();
        third.exits(0);
        assert_eq!((third.out().as_str(), how(&third).as_str()), ("22", "started"), "{third}");
        assert_eq!(sent(&third) > LARGE as u64, route == "tmpfs", "{route} {third}");
        assert_eq!(project.read("out/log"), "again\n".repeat(3), "{route}: outputs go up in every case");
        assert!(sent(build().exits(0)) < LITTLE, "{route}");
    }
}

#[test]
fn another_route_a_fresh_start_a_removal_and_a_prune_leave_no_volume() {
    let project = Project::new();
    let build = |options: &[&str]| {
        let all = [&["--keep", "-o", "out", "--exclude", "stays"], options].concat();
        json(&project, &all, "ls; touch out stays").exits(0).clone()
    };
    build(&["--route", "volume"]);
    let workspace = project.workspace().expect("a workspace");
    let name = docker(&["inspect", "--format", "{{.Name}}", &workspace]);
    let volumes = project.volumes();
    assert_eq!(volumes, [name.trim().trim_start_matches('/')], "the volume is called as the container");
    assert_eq!(build(&["--route", "volume"]).out(), "out\nstays\n");
    let layer = build(&["--route", "layer"]);
    assert_eq!((layer.out().as_str(), how(&layer).as_str()), ("out\n", "made"), "{layer}");
    assert_eq!(project.volumes(), volumes, "each route has a workspace of its own");
    assert_eq!(build(&["--route", "volume"]).out(), "out\nstays\n", "the other one was no fresh start");
    project.fastbuild(["workspace", "rm"]).exits(0);
    project.assert_nothing_left();
    build(&["--route", "volume"]);
    assert_eq!(build(&["--route", "volume", "--fresh"]).out(), "out\n", "a fresh volume holds what is here");
    let shown = project.fastbuild(["workspace", "inspect"]);
    shown.exits(0);
    assert!(shown.out().contains("made with   route volume\n"), "{shown}");
    assert!(
        shown.out().lines().any(|line| line.starts_with("size ") && line.ends_with(" + volume")),
        "{shown}"
    );
    project.fastbuild(["workspace", "rm"]).exits(0);
    project.assert_nothing_left();
    build(&["--route", "volume"]);
    project.fastbuild(["workspace", "prune", "--all"]).exits(0);
    project.assert_nothing_left();
}

#[test]
fn a_volume_whose_workspace_is_gone_is_pruned_or_started_over() {
    let project = Project::new();
    let build = || {
        project.sh(
            &["--keep", "--route", "volume", "-o", "none:none", "--exclude", "stays"],
            "ls; touch none stays",
        )
    };
    let lose_workspace = || {
        docker(&["rm", "--force", &project.workspace().unwrap()]);
    };
    let prune = |options: &[&str]| project.fastbuild(["workspace", "prune"].iter().chain(options));
    assert_eq!(build().exits(0).out(), "");
    assert_eq!(build().exits(0).out(), "none\nstays\n");
    let volume = project.volumes().remove(0);
    assert_eq!(prune(&[]).exits(0).out(), "nothing to remove\n", "it is in use");
    lose_workspace();
    assert_eq!(
        build().exits(0).out(),
        "none\n",
        "another workspace does not begin with what the lost one had"
    );
    lose_workspace();
    let expected = format!("the volume {volume}, whose workspace is gone\n");
    assert_eq!(prune(&["--dry-run"]).exits(0).out(), format!("would remove {expected}"));
    assert_eq!(project.volumes(), [volume]);
    assert_eq!(prune(&[]).exits(0).out(), format!("removed {expected}"));
    assert_eq!(project.volumes(), [""; 0]);
}

// ---- deaths --------------------------------------------------------------------------------------------------------

/// The reaper that a fastbuild has started.
fn reaper_of(parent: u32) -> Pid {
    let is_reaper = |pid: &i32| {
        let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        of("status").lines().any(|line| line == format!("PPid:\t{parent}"))
            && of("cmdline").contains("\0__reap\0")
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Pid::from_raw(pids.find(is_reaper).expect("a reaper")).unwrap()
}

/// How many volumes the engine has that no name was given to and that belong to this project.
fn anonymous(project: &Project) -> usize {
    let filter = format!("label=dev.fastbuild.project={}", project.key());
    docker(&["volume", "ls", "--quiet", "--filter", &filter]).lines().count()
}

#[test]
fn a_killed_build_leaves_neither_container_nor_volume() {
    for route in ["tmpfs", "volume"] {
        for reaper in [Reaper::Lives, Reaper::IsKilledToo] {
            let project = Project::new();
            let mut run =
                Watched::start(&project, &["--route", route, "--no-keep"], "echo up; exec sleep 1000");
            run.until_output("up\n");
            assert_eq!(anonymous(&project), usize::from(route == "volume"));
            if reaper == Reaper::IsKilledToo {
                kill_process(reaper_of(run.child().id()), Signal::KILL).unwrap();
            }
            run.signal(Signal::KILL);
            run.end();
            eventually("both are gone", || project.containers().is_empty() && anonymous(&project) == 0);
            project.sh(&[], ":").exits(0);
            project.assert_nothing_left();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reaper {
    Lives,
    IsKilledToo,
}

// ---- no room -------------------------------------------------------------------------------------------------------

fn through(proxy: &Proxy) -> u64 {
    let attached = proxy.seen().into_iter().filter(|seen| seen.path.contains("/attach"));
    attached.map(|seen| seen.sent.load(Ordering::SeqCst)).sum()
}

#[test]
fn what_does_not_fit_is_refused_with_both_sizes_before_any_of_it_is_sent() {
    let small_volume =
        ["--volume-opt", "type=tmpfs", "--volume-opt", "device=tmpfs", "--volume-opt", "o=size=64k"];
    let cases: [(&str, &[&str], &str); 2] = [
        ("tmpfs", &["--tmpfs-size", "64k"], "--tmpfs-size makes it larger"),
        ("volume", &small_volume, "make room on the engine's disk"),
    ];
    for (route, options, advice) in cases {
        for keep in KEEP {
            let project = Project::new();
            project.write("large", noise(6, LARGE)).write("small", "1");
            let before = project.tree();
            let proxy = Proxy::new(&project.outside());
            let address = proxy.address();
            let all = [&["--route", route, keep, "-H", &address], options].concat();
            let ended = project.sh(&all, "echo ran > ran");
            ended.exits(125).says(&[
                "there is no room for the sources in \"/workspace\"",
                "they need 6",
                " kB, and ",
                " are free",
                advice,
            ]);
            assert!(through(&proxy) < LITTLE, "{route} {keep}: {}\n{ended}", through(&proxy));
            assert_eq!(project.tree(), before);
            if keep == "--no-keep" {
                project.assert_nothing_left();
            } else {
                assert_eq!(in_workspace(&project, "find . -type f ! -name '.fastbuild-stage-*'"), "");
                // A place that is large enough is another workspace.
                project.sh(&["--route", "tmpfs", "--tmpfs-size", "4m", "--keep"], "echo ran > ran").exits(0);
                assert_eq!(project.read("ran"), "ran\n");
            }
        }
    }
}

// ---- shares --------------------------------------------------------------------------------------------------------

/// A directory that stands for a share of another machine's.
struct Share {
    path: PathBuf,
    options: Vec<String>,
    _home: tempfile::TempDir,
}

impl Share {
    fn new() -> Share {
        let home = tempfile::Builder::new().prefix("fastbuild-test-").tempdir().unwrap();
        let path = home.path().join("share");
        fs::create_dir(&path).unwrap();
        // The password is no use to a bind mount, and stands for one that a share needs.
        let options = [
            "type=none".to_owned(),
            "o=bind,password=hunter2".to_owned(),
            format!("device={}", path.to_str().unwrap()),
        ];
        let options = options.into_iter().flat_map(|option| ["--volume-opt".to_owned(), option]).collect();
        Share { path, options, _home: home }
    }

    fn build(&self, project: &Project, options: &[&str], script: &str) -> Ended {
        let own = self.options.iter().map(String::as_str);
        json(
            project,
            &own.chain(["--route", "volume"]).chain(options.iter().copied()).collect::<Vec<_>>(),
            script,
        )
    }

    fn names(&self) -> Vec<String> {
        names(&self.path)
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

const MARKER: &str = ".fastbuild-stage-volume";

#[test]
fn a_share_keeps_what_a_project_put_there_whatever_becomes_of_the_workspace() {
    let project = Project::new();
    let share = Share::new();
    project.write("large", noise(7, LARGE));
    for keep in KEEP {
        let ended = share.build(&project, &[keep], "ls -A; [ -e made ] && cat made; echo made > made");
        ended.exits(0);
        assert_eq!(project.read("made"), "made\n");
        assert_eq!(names(&project.root()), ["large", "made"], "the marker is no product");
        if keep == "--keep" {
            assert!(sent(&ended) > LARGE as u64, "{ended}");
            project.fastbuild(["workspace", "rm"]).exits(0);
        } else {
            assert!(sent(&ended) < LITTLE, "{ended}");
            assert!(ended.out().ends_with("large\nmade\nmade\n"), "{ended}");
        }
        project.assert_nothing_left();
        assert_eq!(share.names(), [MARKER, "large", "made"], "{keep}");
    }
    assert_eq!(fs::read(share.path.join("large")).unwrap(), noise(7, LARGE));
    // The project's files again: what is removed here is removed there.
    fs::remove_file(project.path("large")).unwrap();
    share.build(&project, &["--keep"], ":").exits(0);
    assert_eq!(share.names(), [MARKER, "made"]);
}

#[test]
fn a_share_with_anybody_elses_files_is_refused_and_nothing_in_it_is_touched() {
    let project = Project::new();
    sample(&project);
    let share = Share::new();
    let theirs = || Tree::of(&share.path);
    let refused = |who: &Project, options: &[&str], before: &Tree| {
        let ended = share.build(who, options, "rm -rf *");
        ended.exits(125).says(&[
            "the volume holds files that are not fastbuild's",
            "name an empty directory of the share",
        ]);
        assert_eq!(&theirs(), before, "{options:?} {ended}");
    };
    fs::create_dir(share.path.join("photos")).unwrap();
    fs::write(share.path.join("photos/1"), "dear").unwrap();
    let before = theirs();
    // The second one finds the workspace of the first; the third one, a workspace of which nothing is known.
    refused(&project, &["--keep"], &before);
    refused(&project, &["--keep"], &before);
    for state in fs::read_dir(project.state().join("projects")).unwrap().flatten() {
        for file in fs::read_dir(state.path()).unwrap().flatten() {
            if file.file_name().to_string_lossy().starts_with("workspace") {
                fs::remove_file(file.path()).unwrap();
            }
        }
    }
    refused(&project, &["--keep"], &before);
    refused(&project, &["--keep", "--fresh"], &before);
    refused(&project, &["--no-keep"], &before);
    project.fastbuild(["workspace", "rm"]).exits(0);
    assert_eq!(theirs(), before);

    // Another project's files count as foreign files, too.
    fs::remove_dir_all(share.path.join("photos")).unwrap();
    share.build(&project, &["--no-keep"], ":").exits(0);
    let before = theirs();
    let other = Project::new();
    refused(&other, &["--keep"], &before);
    refused(&other, &["--no-keep"], &before);
}

#[test]
fn no_password_of_a_volume_is_told_logged_or_kept() {
    let project = Project::new();
    let share = Share::new();
    let ended = share.build(&project, &["--keep", "-vv"], ":");
    ended.exits(0);
    let options: Vec<_> = share.options.iter().map(String::as_str).chain(["--route", "volume"]).collect();
    let plan =
        |form: &[&str]| project.fastbuild(["plan"].iter().chain(form).chain(&options).chain(&["--", "x"]));
    let inspect = project.fastbuild(["workspace", "inspect", "--json"]);
    let (text, as_json) = (plan(&["-v"]), plan(&["--json"]));
    let wrong = project.fastbuild(["--route", "volume", "--volume-opt", "hunter2", "--", "x"]);
    wrong.exits(125).says(&["--volume-opt: ", "write KEY=VALUE"]);
    let failed = share.build(
        &project,
        &["--no-keep", "--volume-opt", "o=rw,password=hunter2,nonsense", "--volume-opt", "type=ext4"],
        ":",
    );
    failed.exits(125).says(&["the volume "]);
    let name = project.workspace().unwrap();
    let container = docker(&["inspect", &name]);
    let labels = docker(&["volume", "inspect", "--format", "{{json .Labels}}", &project.volumes()[0]]);
    for (what, told) in [
        ("build", format!("{ended}")),
        ("plan", format!("{text}")),
        ("plan --json", format!("{as_json}")),
        ("inspect", format!("{inspect}")),
        ("a wrong option", format!("{wrong}")),
        ("a failure", format!("{failed}")),
        ("the container", container),
        ("labels of the volume", labels),
    ] {
        assert!(!told.contains("hunter2"), "{what}: {told}");
    }
    for (path, node) in Tree::of(&project.state()).0 {
        let holds = node.content.windows(7).any(|bytes| bytes == b"hunter2");
        assert!(!holds, "{}", String::from_utf8_lossy(&path));
    }
    assert!(
        text.exits(0)
            .out()
            .lines()
            .any(|line| line.starts_with("volume option ") && line.contains("device=…")),
        "{text}"
    );
}

#[test]
fn a_volume_that_cannot_be_mounted_says_why_and_leaves_nothing() {
    let nfs = ["type=nfs", "o=addr=127.0.0.1,vers=4", "device=:/none"];
    let missing = ["type=none", "o=bind", "device=/nowhere/at/all"];
    for options in [nfs, missing] {
        for keep in KEEP {
            let project = Project::new();
            project.write("a", "1");
            let options = options.iter().flat_map(|option| ["--volume-opt", option]);
            let all: Vec<_> = options.chain(["--route", "volume", keep]).collect();
            let ended = project.sh(&all, "never");
            ended.exits(125).says(&[
                "the volume of the working directory cannot be mounted: ",
                "failed to mount local volume",
                "check --volume-opt",
                "--route layer does without a volume",
            ]);
            assert_eq!((project.containers(), project.volumes()), (vec![], vec![]), "{keep} {ended}");
        }
    }
}

// ---- images --------------------------------------------------------------------------------------------------------

#[test]
fn where_no_agent_can_run_these_routes_are_errors_that_name_others() {
    let image = "fastbuild/test-no-agent-here:latest";
    load_for_other_processor(BUSYBOX, image);
    let project = Project::new();
    project.write("a", "1");
    for route in ["tmpfs", "volume"] {
        for keep in KEEP {
            let ended = project.sh(&["-i", image, "--route", route, keep], "echo ran > ran");
            ended.exits(125).says(&[
                &format!("--route {route} needs fastbuild's agent in the container"),
                "the routes that can be taken there: layer",
                "take --route layer",
            ]);
            project.assert_nothing_left();
        }
    }
    project.sh(&["-i", image, "--route", "layer"], "echo ran > ran").exits(0);
    assert_eq!(project.read("ran"), "ran\n");
    docker(&["rmi", image]);
}

#[test]
fn an_images_own_files_in_the_working_directory_are_hidden_by_what_is_mounted_there() {
    for route in ["tmpfs", "volume"] {
        for keep in KEEP {
            let project = Project::new();
            project.write("a", "1");
            let ended = json(&project, &["-i", FILLED, "--route", route, keep], "ls; echo made > made");
            assert_eq!(ended.exits(0).out(), "a\n", "{route} {keep} {ended}");
            assert_eq!(names(&project.root()), ["a", "made"], "{route} {keep}");
        }
    }
}

#[test]
fn settings_of_another_route_are_refused_when_typed_and_passed_over_in_a_file() {
    let project = Project::new();
    project
        .sh(&["--tmpfs-size", "1m"], ":")
        .exits(125)
        .says(&["--tmpfs-size is for --route tmpfs, and this build takes layer"]);
    project
        .sh(&["--route", "tmpfs", "--volume-opt", "type=nfs"], ":")
        .exits(125)
        .says(&["--volume-opt is for --route volume, and this build takes tmpfs"]);
    project.write("fastbuild.toml", "tmpfs-size = '1m'\nvolume-opt = ['type=none']\n");
    let build = || json(&project, &["--keep"], ":");
    build().exits(0);
    project.write("fastbuild.toml", "tmpfs-size = '2m'\nvolume-opt = ['type=nfs']\n");
    assert_eq!(how(build().exits(0)), "found", "what is not used makes no other workspace");
}
