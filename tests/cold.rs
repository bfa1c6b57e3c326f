//! Promises of the cold tier alone: what a fresh container has that a workspace has not, and the other way round.

mod common;
#[path = "common/process.rs"]
mod process;

use std::fs;

use common::{Ended, Project, docker, eventually};
use process::noise;

#[test]
fn a_reader_that_takes_its_time_gets_everything() {
    let project = Project::new();
    // More than a pipe holds, and less than what lies between the command and us: the command ends, its output waits.
    let bytes = noise(5, 500_000);
    project.write("bytes", &bytes);
    let child = project.start(&["-q"], "cat bytes");
    let running = || -> Vec<String> {
        let ids = project.containers();
        let state = |id: &String| docker(&["inspect", "--format", "{{.State.Status}}", id]);
        ids.iter().map(|id| state(id).trim().to_owned()).collect()
    };
    eventually("the command has ended", || running() == ["exited"]);
    // There is no event that tells that nothing happens.
    for _ in 0..20 {
        assert_eq!(running(), ["exited"], "fastbuild did not wait for its reader");
    }
    let ended = Ended::of(child);
    assert!(ended.exits(0).stdout == bytes, "{} bytes", ended.stdout.len());
}

#[test]
fn a_missing_output_is_an_error_that_lists_what_is_there() {
    let project = Project::new();
    project.write("src", "");
    project.sh(&["-o", "dist/site"], "mkdir -p dist/other; echo > dist/made").exits(125).says(&[
        "did not make",
        "dist/site",
        "/workspace/dist",
        "made",
        "other",
    ]);
    project.sh(&["-o", "nothing"], "true").exits(125).says(&["/workspace", "src"]);
    // Names come with contents: nobody waits for those of a huge file.
    let huge = "mkdir a; truncate -s 300G big";
    project.sh(&["-o", "nothing"], huge).exits(125).says(&["\"/workspace\" holds a and more"]);
    project.assert_nothing_left();
}

#[test]
fn a_hundred_thousand_files_in_one_directory_go_in_and_their_products_come_back() {
    const FILES: usize = 100_000;
    let project = Project::new();
    fs::create_dir(project.path("many")).unwrap();
    for file in 0..FILES {
        fs::write(project.path(format!("many/{file}")), "x").unwrap();
    }
    let ended = project.sh(&["-q"], "ls many | wc -l; echo new > many/new; rm many/7; echo y > many/8");
    assert_eq!(ended.exits(0).out().trim(), FILES.to_string());
    assert_eq!(fs::read_dir(project.path("many")).unwrap().count(), FILES);
    assert_eq!((project.read("many/new"), project.read("many/8")), ("new\n".into(), "y\n".into()));
    assert!(!project.has("many/7"));
    project.assert_nothing_left();
}
