//! The safe place: what a build would have taken from the user is there, is listed, comes back, and goes when its time has come.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    path::{Path, PathBuf},
};

use crate::common::{Ended, Project, Tree};
use serde_json::Value;

/// A build that replaces the user's `out/a`, and deletes his `docs`.
const TAKES: &str = "echo product > out/a; rm -rf docs";

fn project() -> Project {
    let project = Project::here();
    project.write("out/a", "mine").write("docs/intro.md", "written by hand").write("docs/deep/x", "x");
    project
}

fn recover<Word: AsRef<OsStr>>(project: &Project, words: impl IntoIterator<Item = Word>) -> Ended {
    let words = words.into_iter().map(|word| word.as_ref().to_owned());
    project.fastbuild(["recover".into()].into_iter().chain(words))
}

/// What `recover ls` tells programs.
fn listed(project: &Project, options: &[&str]) -> Vec<Value> {
    let ended = recover(project, [&["ls", "--format", "json"], options].concat());
    serde_json::from_str(&ended.exits(0).out()).unwrap()
}

/// Of each thing in the safe place, the path below the project and one other field.
fn by(project: &Project, field: &str) -> Vec<(String, Value)> {
    let root = project.root().canonicalize().unwrap();
    let path = |one: &Value| Path::new(one["path"].as_str().unwrap()).strip_prefix(&root).unwrap().to_owned();
    let mut all: Vec<_> = listed(project, &[])
        .iter()
        .map(|one| (path(one).to_str().unwrap().to_owned(), one[field].clone()))
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn id_of(project: &Project, path: &str) -> String {
    let all = by(project, "id");
    all.iter().find(|(known, _)| known == path).unwrap().1.as_str().unwrap().to_owned()
}

/// The lines about what was moved.
fn indexes(project: &Project) -> Vec<PathBuf> {
    let key = project.state().join("projects").join(project.key());
    let all = fs::read_dir(key).unwrap().flatten().map(|entry| entry.path());
    all.filter(|path| path.file_name().unwrap().as_bytes().starts_with(b"moved-")).collect()
}

/// As if everything had been moved so long ago, and the limits were due.
fn age(project: &Project, days: u64) {
    for index in indexes(project) {
        let lines = fs::read_to_string(&index).unwrap();
        let older = |line: &str| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line["moved"]["secs"] = (line["moved"]["secs"].as_u64().unwrap() - days * 86_400).into();
            format!("{line}\n")
        };
        fs::write(&index, lines.lines().map(older).collect::<String>()).unwrap();
    }
    for stamp in fs::read_dir(project.state()).unwrap().flatten() {
        if stamp.file_name().as_bytes().starts_with(b"pruned-") {
            fs::remove_file(stamp.path()).unwrap();
        }
    }
}

/// A build beside which the limits are looked after.
fn build_with_limits(project: &Project, limits: &[(&str, &str)]) {
    let mut command = project.command();
    command.envs(limits.iter().map(|(name, limit)| (format!("FASTBUILD_RECOVER_{name}"), limit)));
    Ended::from(command.args(["-o", "none", "--", "touch", "none"]).output().unwrap()).exits(0);
}

#[test]
fn what_a_build_takes_from_the_user_is_told_and_listed_with_reason_and_command() {
    let project = project();
    let root = project.root().canonicalize().unwrap();
    let ended = project.sh(&[], TAKES);
    ended.exits(0).says(&["gave way", root.join("out/a").to_str().unwrap(), "recover get"]);
    assert_eq!(
        by(&project, "why"),
        [("docs/deep/x", "deleted"), ("docs/intro.md", "deleted"), ("out/a", "replaced")]
            .map(|(path, why)| (path.to_owned(), why.into()))
    );
    for one in listed(&project, &[]) {
        assert!(one["command"].as_str().unwrap().ends_with(&format!(" -- sh -c {TAKES}")), "{one}");
        assert!(Path::new(one["place"].as_str().unwrap()).is_file(), "{one}");
    }
    let table = recover(&project, ["ls"]).exits(0).out();
    assert!(table.starts_with("ID ") && table.lines().count() == 4, "{table}");
    for part in ["a build replaced it", "a build deleted it", "docs/intro.md", &id_of(&project, "out/a")] {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }
    recover(&project, ["ls", "--format", "xml"]).exits(125).says(&["a table, or json"]);
}

#[test]
fn a_warning_names_ten_paths_and_counts_the_rest() {
    let project = Project::here();
    for number in 0..12 {
        project.write(format!("docs/{number}"), "mine");
    }
    let ended = project.sh(&[], "rm -rf docs; touch made");
    ended.exits(0).says(&["12 files gave way", "and 2 more"]);
    assert_eq!(ended.err().matches("/docs/").count(), 10, "{ended}");
}

#[test]
fn a_file_comes_back_to_its_place_and_what_is_there_takes_its_place_in_the_safe_place() {
    let project = project();
    project.sh(&["-q"], TAKES).exits(0);
    let id = id_of(&project, "out/a");
    assert!(
        recover(&project, ["get", &id]).exits(0).out().contains("what was there is in the safe place now")
    );
    assert_eq!(project.read("out/a"), "mine");
    assert!(by(&project, "why").contains(&("out/a".to_owned(), "gave-way".into())));
    // And back again, by its path.
    recover(&project, ["get", "out/a"]).exits(0);
    assert_eq!(project.read("out/a"), "product\n");
    recover(&project, ["get", "./docs/../out/a"]).exits(125);
    fs::create_dir(project.path("docs")).unwrap();
    recover(&project, ["get", "./docs/../out/a"]).exits(0);
    assert_eq!(project.read("out/a"), "mine");
    project.assert_nothing_left_here();
}

#[test]
fn a_directory_comes_back_with_all_that_was_in_it_and_with_its_last_version() {
    let project = project();
    project.sh(&["-q"], TAKES).exits(0);
    project.write("docs/intro.md", "written again");
    project.sh(&["-q"], "rm -rf docs").exits(0);
    assert!(!project.has("docs"));
    recover(&project, ["get", "docs"]).exits(0);
    assert_eq!(Tree::of(&project.path("docs")).paths(), ["deep", "deep/x", "intro.md"]);
    assert_eq!(project.read("docs/intro.md"), "written again");
    // What a build made of it next is seen as the user's again.
    assert_eq!(by(&project, "why").iter().filter(|(path, _)| path == "docs/intro.md").count(), 1);
    project.sh(&[], "cat docs/intro.md").exits(0);
}

#[test]
fn what_is_put_elsewhere_overwrites_nothing() {
    let project = project();
    project.sh(&["-q"], TAKES).exits(0);
    let elsewhere = project.outside().join("elsewhere");
    fs::write(&elsewhere, "another").unwrap();
    let to =
        |to: &Path| recover(&project, ["get".as_ref(), "out/a".as_ref(), "--to".as_ref(), to.as_os_str()]);
    to(&elsewhere).exits(125).says(&["is there", "name another place"]);
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "another");
    assert_eq!(listed(&project, &[]).len(), 3, "it is still in the safe place");
    to(&project.outside()).exits(0);
    assert_eq!(fs::read_to_string(project.outside().join("a")).unwrap(), "mine");
    recover(&project, ["get", "docs", "--to", "x"]).exits(125).says(&["2 things", "by its ID"]);
    project.assert_nothing_left_here();
}

#[test]
fn a_link_that_a_build_made_on_the_way_is_not_followed() {
    let project = project();
    let canary = project.outside().join("canary");
    fs::create_dir(&canary).unwrap();
    project.sh(&["-q"], &format!("rm -rf docs; ln -s {} docs", canary.to_str().unwrap())).exits(0);
    assert!(project.path("docs").is_symlink());
    let id = id_of(&project, "docs/intro.md");
    recover(&project, ["get", &id]).exits(125).says(&["a directory on the way is a link", "--to HOST"]);
    assert!(Tree::of(&canary).0.is_empty());
    recover(&project, ["get", &id, "--to", "intro.md"]).exits(0);
    assert_eq!(project.read("intro.md"), "written by hand");
}

#[test]
fn what_is_removed_from_the_safe_place_is_gone_and_another_projects_is_not() {
    let project = project();
    project.sh(&["-q"], TAKES).exits(0);
    let other = project.outside().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("mine"), "mine").unwrap();
    let mut command = project.command();
    command.current_dir(&other).args(["-q", "--", "sh", "-c", "rm mine; touch made"]);
    Ended::from(command.output().unwrap()).exits(0);
    assert_eq!((listed(&project, &[]).len(), listed(&project, &["--all"]).len()), (3, 4));

    let freed = recover(&project, ["rm", "docs"]).exits(0).out();
    assert!(freed.contains("docs/intro.md") && freed.ends_with("2 things, 16 B\n"), "{freed}");
    assert_eq!(by(&project, "why").len(), 1);
    recover(&project, ["rm", "docs"]).exits(125).says(&["nothing in the safe place", "recover ls --all"]);
    recover(&project, ["rm", "--all"]).exits(0);
    assert_eq!((listed(&project, &[]).len(), listed(&project, &["--all"]).len()), (0, 1));
    assert!(indexes(&project).is_empty(), "nothing of it is left");
    recover(&project, ["rm"]).exits(125);
}

#[test]
fn what_has_lost_its_line_to_a_crash_is_listed_by_its_place_and_comes_back() {
    let project = project();
    project.sh(&["-q"], TAKES).exits(0);
    indexes(&project).iter().for_each(|index| fs::remove_file(index).unwrap());
    assert_eq!(
        by(&project, "why"),
        ["docs/deep/x", "docs/intro.md", "out/a"].map(|path| (path.to_owned(), Value::Null))
    );
    recover(&project, ["get", "docs/intro.md"]).exits(0);
    assert_eq!(project.read("docs/intro.md"), "written by hand");
}

#[test]
fn names_that_are_no_text_links_and_modes_come_back_as_they_were() {
    let project = Project::here();
    let name = OsStr::from_bytes(b"docs/\xff");
    project.write("docs/x", "x");
    fs::write(project.path(name), "bytes").unwrap();
    symlink("nowhere", project.path("docs/link")).unwrap();
    project.write("docs/run", "#!/bin/sh");
    fs::set_permissions(project.path("docs/run"), std::os::unix::fs::PermissionsExt::from_mode(0o751))
        .unwrap();
    let before = Tree::of(&project.path("docs"));
    project.sh(&["-q"], "rm -rf docs; touch made").exits(0);
    recover(&project, ["get".as_ref(), name]).exits(0);
    recover(&project, ["get", "docs"]).exits(0);
    let after = Tree::of(&project.path("docs"));
    for (path, node) in &before.0 {
        let found = &after.0[path];
        assert_eq!((found.kind, found.mode, &found.content), (node.kind, node.mode, &node.content));
    }
}

#[test]
fn what_is_older_than_the_limit_goes_and_what_was_moved_today_stays() {
    let project = project();
    project.sh(&["-q"], TAKES).exits(0);
    age(&project, 31);
    project.write("today", "mine");
    project.sh(&["-q"], "rm today").exits(0);
    // That one has looked after the limits already, as each first build of a day does.
    assert_eq!(by(&project, "why").len(), 1);
    age(&project, 0);
    build_with_limits(&project, &[("MAX_AGE", "1m"), ("MAX_SIZE", "1")]);
    assert_eq!(by(&project, "why"), [("today".to_owned(), "deleted".into())]);
    age(&project, 2);
    build_with_limits(&project, &[("MAX_AGE", "0"), ("MAX_SIZE", "0")]);
    assert_eq!(by(&project, "why").len(), 1, "zero is no limit");
    age(&project, 0);
    build_with_limits(&project, &[("MAX_AGE", "0"), ("MAX_SIZE", "1")]);
    assert!(by(&project, "why").is_empty());
}

#[test]
fn what_lies_at_its_path_too_goes_before_an_only_copy() {
    let project = Project::here();
    project.write("a", "first").write("b", "other");
    project.sh(&["-q"], "rm a b; touch made").exits(0);
    // The one that is the newer, and has a twin.
    project.write("b", "other");
    age(&project, 2);
    build_with_limits(&project, &[("MAX_SIZE", "9")]);
    assert_eq!(by(&project, "why"), [("a".to_owned(), "deleted".into())]);
}
