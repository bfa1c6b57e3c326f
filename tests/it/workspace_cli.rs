//! `fastbuild workspace`: what is kept on the engine is listed, shown, entered and removed by name or by project.

use crate::common::process::Gated;
use crate::common::{BUSYBOX, EMPTY, Ended, NONROOT, Project};

fn workspace(project: &Project, args: &[&str]) -> Ended {
    project.fastbuild(["workspace"].iter().chain(args))
}

/// A build that keeps its workspace; gives the workspace's name.
#[track_caller]
fn kept(project: &Project) -> String {
    project.sh(&["--keep", "-o", "out"], "echo built > out").exits(0);
    own_name(project).expect("the build kept no workspace")
}

fn own_name(project: &Project) -> Option<String> {
    let begins = format!("fastbuild-ws-{}-", project.key());
    let names = workspace(project, &["ls", "-q"]);
    names.exits(0);
    names.out().lines().find(|name| name.starts_with(&begins)).map(str::to_owned)
}

fn json(ended: &Ended) -> serde_json::Value {
    ended.exits(0);
    serde_json::from_slice(&ended.stdout).unwrap()
}

#[test]
fn what_only_a_workspace_has_is_weighed_in_the_list_and_remembered_for_the_plan() {
    let project = Project::new();
    let plan = || json(&project.fastbuild(["plan", "--keep", "--json", "-i", BUSYBOX, "--", "x"]));
    assert!(plan()["held"].is_null(), "nobody has asked yet");
    let script = "mkdir target; head -c 70000 /dev/zero > target/x; head -c 300 /dev/zero > left; echo > out";
    project.write("src", "is no part of it");
    project.sh(&["--keep", "--keep-path", "target", "-o", "out"], script).exits(0);
    let name = own_name(&project).unwrap();
    let all = json(&workspace(&project, &["ls", "--json"]));
    let own = all.as_array().unwrap().iter().find(|one| one["name"] == name.as_str()).unwrap();
    let held = serde_json::json!({ "kept": 70000, "leftovers": 300 });
    assert_eq!(own["held"], held);
    assert_eq!(plan()["held"], held);
    project.sh(&["--keep", "--keep-path", "target", "-o", "out"], "true").exits(0);
    assert_eq!(plan()["held"], held, "a build forgets nothing");
    project.fastbuild(["clean", "--all"]).exits(0);
    let shown = workspace(&project, &["inspect"]);
    assert!(shown.exits(0).out().contains("0 B kept, 0 B left beside outputs"), "{shown}");
}

#[test]
fn a_kept_workspace_is_listed_and_shown() {
    let project = Project::new();
    let name = kept(&project);
    let source = project.root().canonicalize().unwrap().to_string_lossy().into_owned();

    let table = workspace(&project, &["ls"]).out();
    let row = table.lines().find(|row| row.contains(&name)).unwrap();
    assert!(table.starts_with("SOURCE "), "{table}");
    for part in [&source, BUSYBOX, "running", " ago "] {
        assert!(row.contains(part), "{part} is not in\n{table}");
    }
    let all = json(&workspace(&project, &["ls", "--json"]));
    let own = all.as_array().unwrap().iter().find(|one| one["name"] == name.as_str()).unwrap();
    assert_eq!((&own["source"], &own["owner"]), (&source.clone().into(), &"here".into()));
    assert!(own["size"].as_u64().is_some_and(|size| size > 0), "{own}");

    for by in [vec!["inspect"], vec!["inspect", "."], vec!["inspect", &name]] {
        let shown = workspace(&project, &by);
        shown.exits(0);
        for part in [&name, &source, "made with   working directory /workspace"] {
            assert!(shown.out().contains(part), "{part:?} is not in\n{shown}");
        }
    }
    let facts = json(&workspace(&project, &["inspect", "--json"]));
    assert_eq!(facts["made_with"]["working directory"], "/workspace");
}

#[test]
fn a_project_without_a_workspace_is_told_how_to_get_one() {
    let project = Project::new();
    for command in ["inspect", "rm", "shell"] {
        workspace(&project, &[command])
            .exits(125)
            .says(&["there is no workspace of ", "a build makes one: fastbuild -- COMMAND"]);
    }
    workspace(&project, &["rm", "nothing-like-this"])
        .exits(125)
        .says(&["no workspace is called \"nothing-like-this\"", "`fastbuild workspace ls` lists them"]);
}

#[test]
fn a_command_in_the_workspace_runs_as_the_builds_user_where_the_build_runs() {
    let project = Project::with_image(NONROOT);
    project.write("sub/in", "from here");
    kept(&project);
    let shell = workspace(&project, &["shell", "--", "sh", "-c", "pwd; id -un; cat sub/in out; exit 5"]);
    assert_eq!(shell.exits(5).out(), "/workspace\napp\nfrom herebuilt\n");

    let mut below = project.command();
    let below = below.args(["workspace", "shell", "-C", "..", "--", "pwd"]).current_dir(project.path("sub"));
    let below = Ended::from(below.output().unwrap());
    assert_eq!(below.exits(0).out(), "/workspace/sub\n");

    workspace(&project, &["shell", "-u", "root", "--", "id", "-u"]).exits(0);
    workspace(&project, &["shell", "--", "no-such-program"]).exits(127);
    // Nothing that was done there went anywhere.
    assert!(!project.has("sub/out"));
    project.sh(&["--keep", "-o", "out"], "cat sub/in > out").exits(0);
    assert_eq!(project.read("out"), "from here");
}

#[test]
fn a_shell_reads_what_it_is_given() {
    use std::{io::Write as _, process::Stdio};
    let project = Project::new();
    kept(&project);
    let mut command = project.command();
    let mut child = command.args(["workspace", "shell"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"cat out\nexit 6\n").unwrap();
    assert_eq!(Ended::of(child).exits(6).out(), "built\n");
}

#[test]
fn a_workspace_without_a_shell_says_so() {
    let project = Project::with_image(EMPTY);
    project.fastbuild(["--keep", "--", "/busybox", "true"]).exits(0);
    workspace(&project, &["shell"]).exits(127).says(&["sh"]);
    assert_eq!(workspace(&project, &["shell", "--", "/busybox", "echo", "hi"]).exits(0).out(), "hi\n");
}

#[test]
fn a_removed_workspace_is_gone_and_the_next_build_makes_another() {
    let project = Project::new();
    let name = kept(&project);
    assert!(workspace(&project, &["rm"]).exits(0).out().starts_with(&format!("removed {name} (")));
    assert_eq!(own_name(&project), None);
    let name = kept(&project);
    workspace(&project, &["rm", &name]).exits(0);
    kept(&project);
    workspace(&project, &["rm", "--all"]).exits(0);
    project.assert_nothing_left();
}

#[test]
fn a_workspace_in_use_stays_and_its_user_is_named() {
    let project = Project::new();
    kept(&project);
    let running = Gated::start(&project, &["--keep", "-o", "out"], "echo done > out");
    let pid = format!("process {}", running.run.child().id());
    workspace(&project, &["rm"]).exits(125).says(&["is in use by ", &pid, "wait for that run to end"]);
    let left = workspace(&project, &["prune", "--all"]);
    assert!(left.exits(0).out().contains(": it is in use\n"), "{left}");
    running.go_on().exits(0);
    assert_eq!(project.read("out"), "done\n");
    workspace(&project, &["prune", "--all"]).exits(0);
    project.assert_nothing_left();
}

#[test]
fn a_prune_removes_what_its_limits_say_and_a_dry_run_nothing() {
    let project = Project::new();
    let name = kept(&project);
    assert_eq!(workspace(&project, &["prune"]).exits(0).out(), "nothing to remove\n");
    assert_eq!(workspace(&project, &["prune", "--older-than", "1d"]).exits(0).out(), "nothing to remove\n");
    let would = workspace(&project, &["prune", "--max-size", "1", "--dry-run"]);
    assert!(would.exits(0).out().starts_with(&format!("would remove {name} (")), "{would}");
    assert_eq!(own_name(&project).as_ref(), Some(&name));
    workspace(&project, &["prune", "--max-size", "1"]).exits(0);
    assert_eq!(own_name(&project), None);
}

#[test]
fn a_build_removes_others_workspaces_above_the_limit_once_a_day_and_never_its_own() {
    let project = Project::new();
    let name = kept(&project);
    let other = project.outside().join("other");
    std::fs::create_dir(&other).unwrap();
    let build = |limit: &str| {
        let mut command = project.command();
        command.env("FASTBUILD_WORKSPACE_MAX_SIZE", limit).current_dir(&other);
        Ended::from(command.args(["--keep", "-o", "out", "--", "touch", "out"]).output().unwrap())
    };
    // The first build looked after the limits already, and found nothing; a day has passed since.
    for stamp in std::fs::read_dir(project.state()).unwrap().flatten() {
        if stamp.file_name().to_string_lossy().starts_with("pruned-") {
            std::fs::write(stamp.path(), "1000\n").unwrap();
        }
    }
    let first = build("1");
    first.exits(0).says(&[&format!("workspace {name} of "), "held too much"]);
    assert_eq!(own_name(&project), None);
    assert!(
        json(&workspace(&project, &["ls", "--json"]))
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["owner"] == "here"),
        "the build's own is gone"
    );

    let name = kept(&project);
    build("1").exits(0);
    assert_eq!(own_name(&project), Some(name), "it was looked after within the last day");
    workspace(&project, &["rm", "--all"]).exits(0);
}
