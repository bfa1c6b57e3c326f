//! Rule 8: two runs in one workspace do not mix, and the one that waits says for whom; runs in different ones go on side by side.

use crate::common::process::{Gated, Watched};
use crate::common::{Ended, Project};
use rustix::process::Signal;

/// Its builds are kept, all in one workspace.
fn kept() -> Project {
    Project::kept()
}

fn is_waiting(event: &serde_json::Value) -> bool {
    event["event"] == "waiting-for-lock"
}

#[test]
fn a_second_run_waits_names_the_holder_and_sees_what_the_first_one_made() {
    let project = kept();
    project.write("log", "begin\n");
    let first = Gated::start(&project, &[], "echo one >> log; seq 1 20000 > first");
    let mut second = Watched::start(&project, &[], "echo two >> log; cp first second");
    let waiting = second.until("it waits", is_waiting);
    assert_eq!(waiting["pid"], first.run.child().id());
    let command = waiting["command"].as_str().unwrap();
    assert!(command.contains("-- sh -c") && command.contains("echo one >> log"), "{command}");

    first.go_on().exits(0);
    second.end().exits(0);
    let whole: String = (1..=20_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(project.read("log"), "begin\none\ntwo\n");
    assert!(project.read("first") == whole && project.read("second") == whole, "an output is not whole");
    project.assert_nothing_left();
}

#[test]
fn the_message_for_people_names_process_and_command() {
    let project = kept();
    let first = Gated::start(&project, &[], "true");
    let mut second = project.start(&["--progress", "plain"], "true");
    let told = crate::common::read_until(second.stderr.as_mut().unwrap(), "echo up;");
    let told = String::from_utf8(told).unwrap();
    assert!(told.contains(&first.run.child().id().to_string()), "{told}");
    first.go_on().exits(0);
    Ended::of(second).exits(0);
}

#[test]
fn a_run_that_is_not_to_wait_fails_at_once_and_names_the_holder() {
    let project = kept();
    let first = Gated::start(&project, &[], "true");
    let second = project.sh(&["--no-wait"], "true");
    let pid = first.run.child().id();
    let said = format!("fastbuild: error: another run works in this project: process {pid}, ");
    second.exits(125).says(&[&said, "-- sh -c", "leave out --no-wait"]);
    first.go_on().exits(0);
    project.sh(&["--no-wait"], "true").exits(0);
}

#[test]
fn runs_of_one_project_that_start_together_all_come_to_their_turn() {
    let project = kept();
    project.write("count", "0\n");
    let script = r#"n=$(cat count); usleep 50000; echo $((n + 1)) > count"#;
    let runs: Vec<_> = (0..4).map(|_| project.start(&["-q"], script)).collect();
    for run in runs {
        Ended::of(run).exits(0);
    }
    assert_eq!(project.read("count"), "4\n", "two runs read the same count");
    project.assert_nothing_left();
}

#[test]
fn a_subdirectory_of_the_project_shares_its_lock() {
    let project = kept();
    project.write("fastbuild.toml", "").write("below/file", "text");
    let first = Gated::start(&project, &[], "true");
    let mut command = project.command();
    command.current_dir(project.path("below")).args(["--progress", "json", "--", "true"]);
    let mut second = Watched::spawn(&mut command);
    second.until("it waits", is_waiting);
    first.go_on().exits(0);
    second.end().exits(0);
}

#[test]
fn runs_in_different_workspaces_and_for_one_run_go_on_side_by_side() {
    let project = kept();
    project.write("shared", "from here\n");
    let all: [&[&str]; 4] = [&[], &["--network", "none"], &["--no-keep"], &["--no-keep"]];
    let begun: Vec<_> = (0..)
        .zip(all)
        .map(|(n, options)| {
            let made = format!("mkdir -p out; cp shared out/{n}; echo {n} > own-{n}");
            Gated::start(&project, &[&["--no-wait"], options].concat(), &made)
        })
        .collect();
    for run in begun {
        let ended = run.go_on();
        assert!(!ended.exits(0).err().contains(r#""warning":"conflict""#), "{ended}");
    }
    for n in 0..4 {
        assert_eq!(project.read(format!("out/{n}")), "from here\n");
        assert_eq!(project.read(format!("own-{n}")), format!("{n}\n"));
    }
    // What each run wrote is known as a build's, whichever run wrote last.
    let ended = project.sh(&["-q"], "ls out own-*; rm -rf out own-*");
    assert_eq!(ended.exits(0).out(), "own-0\nown-1\nown-2\nown-3\n\nout:\n0\n1\n2\n3\n");
    assert_eq!(project.tree().0.len(), 1, "{:?}", project.tree());
    project.assert_nothing_left();
}

#[test]
fn runs_that_write_the_same_file_side_by_side_leave_one_of_them_whole() {
    let project = Project::new();
    let runs: Vec<_> =
        (0..4).map(|n| Gated::start(&project, &[], &format!("seq {n} 20000 > made"))).collect();
    for run in runs {
        run.go_on().exits(0);
    }
    let whole = |n: u32| (n..=20_000).map(|n| format!("{n}\n")).collect::<String>();
    assert_eq!(project.read("made"), whole(3), "the last one's");
    project.assert_nothing_left();
}

#[test]
fn a_build_in_the_mounted_tree_is_alone_in_it() {
    let project = Project::new();
    let first = Gated::start(&project, &["--route", "mount"], "echo first > made");
    let mut second = Watched::start(&project, &[], "cat made");
    second.until("it waits", is_waiting);
    first.go_on().exits(0);
    assert_eq!(second.end().exits(0).out(), "first\n");
    project.assert_nothing_left();
}

#[test]
fn different_projects_run_at_the_same_time() {
    let (one, other) = (Project::new(), Project::new());
    // One state directory, as one user has.
    let first = Gated::start(&one, &[], "echo first > made");
    let mut command = other.command();
    command.env("FASTBUILD_STATE_DIR", one.state()).args(["--", "sh", "-c", "echo other > made"]);
    Ended::from(command.output().unwrap()).exits(0);
    assert_eq!(other.read("made"), "other\n");
    first.go_on().exits(0);
    assert_eq!(one.read("made"), "first\n");
}

#[test]
fn a_lock_whose_holder_was_killed_is_free() {
    let project = kept();
    let first = Gated::start(&project, &[], "echo first > made");
    let mut waiting = Watched::start(&project, &[], "echo second > made");
    waiting.until("it waits", is_waiting);
    first.run.signal(Signal::KILL);
    waiting.end().exits(0);
    assert_eq!(project.read("made"), "second\n");
    first.run.end().exits(137);

    let ended = project.sh(&[], "true");
    assert!(!ended.exits(0).err().contains("wait"), "{ended}");
    crate::common::eventually("the reaper has done its work", || {
        std::fs::read_dir(project.state().join("runs")).into_iter().flatten().count() == 0
    });
    project.assert_nothing_left();
}

#[test]
fn a_run_that_waits_can_be_interrupted() {
    let project = kept();
    let first = Gated::start(&project, &[], "echo first > made");
    let mut second = Watched::start(&project, &[], "echo second > made");
    second.until("it waits", is_waiting);
    second.signal(Signal::INT);
    let ended = second.end();
    ended.exits(130).says(&["SIGINT"]);
    first.go_on().exits(0);
    assert_eq!(project.read("made"), "first\n");
    project.assert_nothing_left();
}
