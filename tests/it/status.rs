//! `fastbuild status`: what is known of a project now, told without changing anything or waiting for a build.

use std::{fs, time::Instant};

use crate::common::{BUSYBOX, Ended, Project, Tree, process::Gated};
use serde_json::{Value, json};

fn status(project: &Project) -> Value {
    read(&project.fastbuild(["status", "--json"]))
}

fn read(ended: &Ended) -> Value {
    serde_json::from_slice(&ended.exits(0).stdout).unwrap()
}

fn paths(status: &Value, kind: &str) -> Vec<String> {
    let of_kind = &status["tree"][kind];
    let first: Vec<String> = serde_json::from_value(of_kind["first"].clone()).unwrap();
    assert_eq!(of_kind["count"], first.len(), "{status}");
    first
}

fn nothing_differs(status: &Value) -> bool {
    ["added", "changed", "deleted"].iter().all(|kind| paths(status, kind).is_empty())
}

#[test]
fn a_project_that_was_never_built_has_an_engine_and_nothing_else() {
    let project = Project::new();
    let known = status(&project);
    assert_eq!(known["engine"]["name"], "Docker", "{known}");
    assert_eq!((&known["workspaces"], &known["running"]), (&json!([]), &json!([])));
    assert!(known["last_build"].is_null() && known["tree"].is_null(), "{known}");
    let text = project.fastbuild(["status"]).exits(0).out();
    for part in ["workspace   none", "last build  none is noted", "no build has sent this project yet"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn what_changed_here_since_the_last_build_is_counted_and_named() {
    let project = Project::kept();
    project
        .write("same", "1")
        .write("edited", "1")
        .write("touched", "1")
        .write("gone", "1")
        .write("left.log", "");
    let options = ["--exclude", "*.log", "-o", "out"];
    project.sh(&options, "echo built > out; echo > beside").exits(0);
    let known = status(&project);
    assert!(nothing_differs(&known), "{known}");
    assert_eq!(
        (&known["tree"]["sources"]["files"], &known["tree"]["products"]["files"]),
        (&4.into(), &1.into())
    );
    let last = &known["last_build"];
    assert_eq!(
        (&last["exit_code"], &last["command"]),
        (&0.into(), &"sh -c 'echo built > out; echo > beside'".into())
    );
    assert!(last["seconds"].as_f64().unwrap() > 0.0);
    let workspace = &known["workspaces"][0];
    assert_eq!((&workspace["state"], &workspace["image"]), (&"running".into(), &BUSYBOX.into()));
    assert_eq!(workspace["held"], json!({ "kept": 0, "leftovers": 1 }), "{known}");

    project.write("edited", "2").write("new", "").write("touched", "1").write("more.log", "");
    fs::remove_file(project.path("gone")).unwrap();
    let before = (project.tree(), Tree::of(&project.state()));
    let known = status(&project);
    let named = ["added", "changed", "deleted"].map(|kind| paths(&known, kind));
    assert_eq!(named, [["new"], ["edited"], ["gone"]], "what was excluded is no difference: {known}");
    assert!((project.tree(), Tree::of(&project.state())) == before, "it changes nothing");
    let text = project.fastbuild(["status"]).exits(0).out();
    assert!(text.contains("changed     1 file: edited\n"), "{text}");

    project.write("out", "mine");
    assert_eq!(paths(&status(&project), "changed"), ["edited", "out"]);
    fs::remove_file(project.path("out")).unwrap();
    assert_eq!(paths(&status(&project), "deleted"), ["gone", "out"]);

    project.sh(&options, "exit 3").exits(3);
    let known = status(&project);
    assert_eq!(known["last_build"]["exit_code"], 3);
    assert!(nothing_differs(&known), "that build has seen it all: {known}");
    project.sh(&[], "rm same").exits(0);
    for _ in 0..2 {
        let known = status(&project);
        assert_eq!(paths(&known, "deleted"), Vec::<String>::new(), "a build did that: {known}");
        project.sh(&[], "true").exits(0);
    }
}

#[test]
fn a_build_that_goes_on_is_named_and_not_waited_for() {
    let project = Project::new();
    project.write("src", "");
    let running = Gated::start(&project, &["--keep"], "echo made > made");
    let began = Instant::now();
    let known = status(&project);
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    let live = &known["running"][0];
    assert_eq!(live["pid"], running.run.child().id(), "{known}");
    assert!(live["command"].as_str().unwrap().contains("-- sh -c"), "{known}");
    assert!(live["since"].as_u64().unwrap() > 1_700_000_000);
    let text = project.fastbuild(["status"]).exits(0).out();
    assert!(text.contains(&format!("process {}, ", running.run.child().id())), "{text}");
    running.go_on().exits(0);
    let known = status(&project);
    assert_eq!((&known["running"], project.read("made")), (&json!([]), "made\n".to_owned()));
    assert!(nothing_differs(&known), "{known}");
}

#[test]
fn without_an_engine_it_says_what_this_machine_knows() {
    let project = Project::new();
    project.write("src", "1");
    project.sh(&["--keep"], "echo made > made").exits(0);
    project.write("src", "22");
    let engine = format!("unix://{}", project.outside().join("none").to_str().unwrap());
    let known = read(&project.fastbuild(["status", "--json", "-H", &engine]));
    assert!(known["engine"]["no_answer"].is_string() && known["engine"]["name"].is_null(), "{known}");
    assert!(known["workspaces"][0]["state"].is_null(), "{known}");
    assert_eq!(paths(&known, "changed"), ["src"]);
    let text = project.fastbuild(["status", "-H", &engine]).exits(0).out();
    assert!(text.contains("this is what this machine knows") && text.contains("state not known"), "{text}");
}
