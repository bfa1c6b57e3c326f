//! The route where none is named: by what the sources lie on, never without a reason, and never on another engine. A
//! route in `fastbuild.toml`, such as `fastbuild bench --save` writes there, is taken.

use std::fs;

use crate::common::Project;
use fastbuild::{facts, state::State};
use serde_json::{Value, json};
use testutils::mounts::SlowMount;

/// Route and reason of a build.
fn plan(project: &Project, options: &[&str]) -> (String, Value) {
    let words = ["plan", "--json"].iter().chain(options).chain(&["--", "sh", "-c", "true"]);
    let ended = project.fastbuild(words);
    ended.exits(0);
    let mut plan: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let mut route = plan["route"].take();
    (route["value"].as_str().unwrap().to_owned(), route["reason"].take())
}

/// The same, where it was found.
fn found(project: &Project, options: &[&str]) -> (String, String) {
    let (route, reason) = plan(project, options);
    assert_eq!(reason["from"], "found", "{reason}");
    (route, reason["why"].as_str().unwrap().to_owned())
}

#[test]
fn nothing_is_mounted_by_itself_and_the_file_system_is_named() {
    let project = Project::new();
    project.write("a", "a");
    let kind = facts::file_system(&project.root()).unwrap().kind;
    let (route, why) = found(&project, &[]);
    assert_eq!(route, "layer");
    assert!(why.contains(&kind), "{why}");

    let project = Project::new();
    let backing = project.outside().join("backing");
    fs::create_dir(&backing).unwrap();
    let _mount = SlowMount::sshfs(&backing, &project.root()).unwrap();
    let (route, why) = found(&project, &[]);
    assert_eq!(route, "layer");
    assert!(why.contains("fuse.sshfs"), "{why}");
    project.sh(&["-v"], "true").exits(0).says(&["route layer", "fuse.sshfs"]);
}

#[test]
fn a_saved_route_is_taken_and_its_line_is_named() {
    let project = Project::new();
    project.write("a", "a").write("fastbuild.toml", "# measured\nroute = \"volume\"\n");
    let (route, reason) = plan(&project, &[]);
    assert_eq!(route, "volume");
    assert_eq!(reason["from"], "file");
    assert!(reason["path"].as_str().unwrap().ends_with("/fastbuild.toml") && reason["line"] == 2, "{reason}");
    let ended = project.sh(&["-v"], "grep ' /workspace ' /proc/mounts");
    ended.exits(0).says(&["route volume", "fastbuild.toml:2"]);
    assert!(!ended.out().is_empty(), "a volume is mounted there");
}

#[test]
fn who_names_a_route_gets_it_and_auto_goes_by_what_is_found() {
    let project = Project::new();
    project.write("fastbuild.toml", "route = \"volume\"\n");
    assert_eq!(
        plan(&project, &["--route", "tmpfs"]),
        ("tmpfs".into(), json!({"from": "flag", "flag": "--route"}))
    );
    assert_eq!(found(&project, &["--route", "auto"]).0, "layer");
}

#[test]
fn the_host_engine_is_never_taken_while_an_engine_answers() {
    let project = Project::new();
    assert_eq!(plan(&project, &["--route", "auto"]).0, "layer");
    assert_eq!(plan(&project, &[]).0, "layer");
    assert_eq!(plan(&project, &["--route", "host"]).0, "host", "whoever names it gets it");
}

/// fastbuild 0.1 kept one for `--route auto`.
#[test]
fn a_profile_that_an_earlier_version_kept_is_ignored() {
    let project = Project::new();
    let before = plan(&project, &[]);
    let of_project =
        State::open(project.state()).unwrap().project(&project.root().canonicalize().unwrap()).unwrap();
    let profile = json!({"version": 1, "ranking": [["tmpfs", [1.0]], ["layer", [9.0]]]});
    fs::write(of_project.record_path().with_file_name("profile"), profile.to_string()).unwrap();
    assert_eq!(plan(&project, &[]), before);
    project.sh(&[], "true").exits(0);
}
