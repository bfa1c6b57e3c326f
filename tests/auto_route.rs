//! `--route auto`: by what was measured, where that holds here; else by what the sources lie on. Never without a reason.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/mounts.rs"]
mod mounts;

use std::fs;

use common::{BUSYBOX, Ended, Project};
use fastbuild::{
    bench::{
        Extent, FORMAT, Measured, Report, RouteRow, Samples, Source,
        profile::{EngineId, Here, MountId, Profile},
    },
    config::Environment,
    engine::Docker,
    facts::{self, Machine},
    plan::{Endpoint, Route},
    state::profile_path,
};
use mounts::SlowMount;

/// What a bench of `project` with `sh` would hold for.
fn here(project: &Project) -> Here {
    let endpoint = Endpoint::Unix("/var/run/docker.sock".into());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let docker = runtime.block_on(Docker::connect(&endpoint)).unwrap();
    let root = project.root().canonicalize().unwrap();
    Here {
        machine: Machine::of(&Environment::default()).id,
        engine: Some(EngineId::of(endpoint.to_string(), docker.facts())),
        file_system: facts::file_system(&root).as_ref().map(MountId::from),
        image: Some(BUSYBOX.to_owned()),
        command: "sh".to_owned(),
    }
}

/// Keeps what a bench would that has found these seconds.
fn measured(project: &Project, here: Here, seconds: &[(Route, f64)]) {
    let samples = |seconds: f64| Samples(vec![seconds, seconds * 1.01, seconds * 1.02]);
    keep(project, here, seconds.iter().map(|(route, seconds)| (*route, samples(*seconds))).collect());
}

fn keep(project: &Project, here: Here, seconds: Vec<(Route, Samples)>) {
    let row = |(route, samples)| RouteRow { route, result: Measured::Done(samples), first: None };
    let report = Report {
        version: FORMAT,
        fastbuild: "0".to_owned(),
        made: 1,
        machine: String::new(),
        engine: String::new(),
        source: Source { file_system: String::new(), files: 1, bytes: 1 },
        command: Some(vec!["sh".to_owned()]),
        extent: Extent::Quick,
        disk: Vec::new(),
        routes: seconds.into_iter().map(row).collect(),
    };
    let path = profile_path(&project.state(), &project.root().canonicalize().unwrap());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    Profile::of(&report, here).unwrap().save(&path).unwrap();
}

fn plan(project: &Project, options: &[&str]) -> (String, String) {
    let words = ["plan", "--json"].iter().chain(options).chain(&["--", "sh", "-c", "true"]);
    let ended = project.fastbuild(words);
    ended.exits(0);
    let plan: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    (text(&plan["route"]["value"]), text(&plan["route"]["reason"]["why"]))
}

#[test]
fn without_a_measuring_nothing_is_mounted_and_the_file_system_is_named() {
    let project = Project::new();
    project.write("a", "a");
    let kind = facts::file_system(&project.root()).unwrap().kind;
    let (route, why) = plan(&project, &[]);
    assert_eq!(route, "layer");
    assert!(why.contains(&kind), "{why}");

    let project = Project::new();
    let backing = project.outside().join("backing");
    fs::create_dir(&backing).unwrap();
    let _mount = SlowMount::sshfs(&backing, &project.root()).unwrap();
    let (route, why) = plan(&project, &[]);
    assert_eq!(route, "layer");
    assert!(why.contains("fuse.sshfs"), "{why}");
    project.sh(&["-v"], "true").exits(0).says(&["route layer", "fuse.sshfs"]);
}

#[test]
fn the_route_that_was_measured_as_the_fastest_is_taken_and_says_so_with_figures() {
    let project = Project::new();
    project.write("a", "a");
    measured(&project, here(&project), &[(Route::Volume, 1.0), (Route::Layer, 4.0), (Route::Mount, 8.0)]);
    let (route, why) = plan(&project, &[]);
    assert_eq!(route, "volume");
    assert!(why.contains("fastbuild bench") && why.contains("4.0 times"), "{why}");
    let script = "grep ' /workspace ' /proc/mounts; echo built >out";
    let ended = project.sh(&["-v"], script);
    ended.exits(0).says(&["route volume", "fastbuild bench"]);
    assert!(!ended.out().is_empty(), "a volume is mounted there");
    // Whoever names a route gets it.
    assert_eq!(plan(&project, &["--route", "layer"]).0, "layer");
}

#[test]
fn what_is_as_fast_as_layer_does_not_replace_it() {
    let project = Project::new();
    measured(&project, here(&project), &[(Route::Mount, 1.0), (Route::Tmpfs, 1.02), (Route::Layer, 1.05)]);
    assert_eq!(plan(&project, &[]).0, "layer");
}

#[test]
fn of_the_measured_routes_only_one_that_this_build_can_take_is_taken() {
    let project = Project::new();
    measured(
        &project,
        here(&project),
        &[(Route::MountSource, 1.0), (Route::Tmpfs, 2.0), (Route::Layer, 4.0)],
    );
    assert_eq!(plan(&project, &[]).0, "tmpfs", "without outputs there is nothing to lay over the sources");
    assert_eq!(plan(&project, &["-o", "dist"]).0, "mount-source");
}

#[test]
fn a_measuring_chooses_among_the_routes_of_the_engine_and_never_another_engine() {
    let project = Project::new();
    project.write("a", "a");
    measured(&project, here(&project), &[(Route::Host, 1.0), (Route::Tmpfs, 4.0), (Route::Layer, 9.0)]);
    assert_eq!(plan(&project, &[]).0, "tmpfs");
    assert_eq!(plan(&project, &["--route", "host"]).0, "host", "whoever names it gets it");
}

#[test]
fn what_differs_by_less_than_the_rounds_of_one_route_does_not_replace_layer() {
    let project = Project::new();
    let report = |seconds: &[(Route, &[f64])]| {
        let ranking = seconds.iter().map(|(route, seconds)| (*route, Samples(seconds.to_vec()))).collect();
        keep(&project, here(&project), ranking);
        plan(&project, &[]).0
    };
    assert_eq!(report(&[(Route::Tmpfs, &[0.9, 1.0, 1.3]), (Route::Layer, &[1.2, 1.3, 1.5])]), "layer");
    assert_eq!(report(&[(Route::Tmpfs, &[0.9, 1.0, 1.1]), (Route::Layer, &[1.2, 1.3, 1.5])]), "tmpfs");
}

#[test]
fn a_measuring_from_elsewhere_is_not_used_and_that_is_said() {
    let project = Project::new();
    project.write("a", "a");
    let seconds = [(Route::Tmpfs, 1.0), (Route::Layer, 9.0)];
    let own = here(&project);
    let engine = |address: &str, version: &str| {
        Some(EngineId { address: address.to_owned(), name: "Docker".to_owned(), version: version.to_owned() })
    };
    let cases = [
        (Here { machine: "another".to_owned(), ..own.clone() }, "another machine"),
        (Here { engine: engine("tcp://192.0.2.1:2375", "1"), ..own.clone() }, "another engine"),
        (Here { image: Some("other".to_owned()), ..own.clone() }, "another image"),
        (Here { command: "make".to_owned(), ..own.clone() }, "another command"),
        (
            Here {
                file_system: Some(MountId { kind: "9p".to_owned(), mount_point: "/mnt/c".into() }),
                ..own.clone()
            },
            "another file system",
        ),
    ];
    for (here, said) in cases {
        measured(&project, here, &seconds);
        let (route, why) = plan(&project, &[]);
        assert_eq!(route, "layer", "{said}");
        assert!(why.contains("not used") && why.contains(said), "{why}");
    }
    let path = profile_path(&project.state(), &project.root().canonicalize().unwrap());
    fs::write(path, "damaged").unwrap();
    assert_eq!(plan(&project, &[]).0, "layer");
}

#[test]
fn an_engine_that_is_another_version_by_now_is_seen_when_it_answers() {
    let project = Project::new();
    project.write("a", "a");
    let mut here = here(&project);
    here.engine.as_mut().unwrap().version = "1.2.3".to_owned();
    measured(&project, here, &[(Route::Tmpfs, 1.0), (Route::Layer, 9.0)]);
    let ended: Ended = project.sh(&[], "grep ' /workspace ' /proc/mounts; true");
    ended.exits(0).says(&["measured with another engine (Docker 1.2.3", "route layer", "fastbuild bench"]);
    assert_eq!(ended.out(), "");
}
