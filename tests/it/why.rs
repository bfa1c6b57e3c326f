//! `fastbuild why`: what builds do with a path, and when it last went up and came back.

use crate::common::{Ended, Lifetime, Project};
use serde_json::Value;

fn why(project: &Project, args: &[&str]) -> Vec<Value> {
    let ended = project.fastbuild([&["why", "--json"][..], args].concat());
    serde_json::from_str(&ended.exits(0).out()).unwrap()
}

#[test]
fn a_path_is_what_options_and_files_make_of_it_and_that_is_said() {
    let project = Project::new();
    project
        .write("fastbuild.toml", "keep = [\"target\"]\noutputs = [\"out\", \"lib:got\"]\n")
        .write("src/a", "");
    let options = ["--exclude", "*.log", "--cache", "c:store"];
    let paths = ["src/a", "out/x", "target/x", "a.log", "got/x", "store/x", ".git/index.lock", "/else/where"];
    let known = why(&project, &[&options[..], &paths].concat());
    let kinds: Vec<_> = known.iter().map(|known| known["kind"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        ["synced", "synced", "kept", "excluded", "left out", "left out", "left out", "outside"]
    );
    let because = |at: usize| known[at]["because"].as_str().unwrap();
    assert!(because(0).contains("beside what comes back: out, lib:got"), "{}", because(0));
    assert!(
        because(1).contains("with the output out") && because(1).contains("fastbuild.toml:2"),
        "{}",
        because(1)
    );
    assert!(because(2).contains("target") && because(2).contains("fastbuild.toml:1"), "{}", because(2));
    assert!(because(3).contains("*.log (--exclude)"), "{}", because(3));
    let mounted = why(&project, &["--route", "mount", "src/a"]);
    assert_eq!(mounted[0]["kind"], "mounted");
}

#[test]
fn it_is_told_when_a_path_went_up_came_back_and_was_deleted_and_by_which_command() {
    for keep in [Lifetime::OneRun, Lifetime::Kept] {
        let project = Project::new().keeping(keep);
        project.write("src", "1").write("gone", "");
        project.sh(&["-o", "out"], "mkdir out; cp src out/made").exits(0);
        project.sh(&["-o", "gone"], "rm gone; touch gone; rm gone").exits(125);
        project.sh(&[], "rm gone").exits(0);
        let known = why(&project, &["src", "out/made", "gone", "other"]);
        let by = |at: usize, what: &str| known[at][what]["command"].as_str().map(ToOwned::to_owned);
        assert!(by(0, "went_up").is_some() && by(0, "came_back").is_none(), "{known:?}");
        assert_eq!(by(1, "came_back").unwrap(), "sh -c 'mkdir out; cp src out/made'", "{keep:?}");
        assert_eq!(by(2, "deleted").unwrap(), "sh -c 'rm gone'");
        assert!(["went_up", "came_back", "deleted"].iter().all(|what| by(3, what).is_none()), "{known:?}");
        let here = |at: usize| known[at]["here"].as_str().unwrap();
        assert!(
            here(0).ends_with("no build wrote it") && here(1).ends_with("as a build wrote it"),
            "{known:?}"
        );
        let text = project.fastbuild(["why", "out/made"]);
        assert!(text.exits(0).out().contains("came back  "), "{}", text.out());
    }
}

#[test]
fn nobody_asks_about_nothing() {
    let said = |ended: Ended| ended.exits(125).err();
    assert!(said(Project::new().fastbuild(["why"])).contains("PATH"));
}
