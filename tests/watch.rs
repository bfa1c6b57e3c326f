//! `fastbuild watch`: a build at each change and at nothing else.

mod common;
#[path = "common/process.rs"]
mod process;

use common::Project;
use process::Watched;
use rustix::process::Signal;
use serde_json::Value;

/// A watch whose events are read one by one.
struct Watch(Watched);

impl Watch {
    fn start(project: &Project, options: &[&str], script: &str) -> Watch {
        let mut command = project.command();
        command.args(["watch", "--progress", "json"]).args(options).args(["--", "sh", "-c", script]);
        Watch(Watched::spawn(&mut command))
    }

    /// Waits until a build has ended, and gives its exit code.
    #[track_caller]
    fn built(&mut self) -> u64 {
        self.0.until("a build has ended", |event| event["event"] == "finished")["exit_code"].as_u64().unwrap()
    }

    /// Waits until there is nothing to do.
    #[track_caller]
    fn idle(&mut self) -> Value {
        // Whatever else begins a build first is not what was waited for.
        let next = |event: &Value| ["watching", "sources-changed"].iter().any(|name| event["event"] == *name);
        let event = self.0.until("it waits", next);
        assert_eq!(event["event"], "watching", "{event}");
        event
    }

    /// Waits for the next change, and gives the paths that it names.
    #[track_caller]
    fn changed(&mut self) -> Vec<String> {
        let event = self.0.until("a change", |event| event["event"] == "sources-changed");
        assert_eq!(event["more"], 0, "{event}");
        event["paths"].as_array().unwrap().iter().map(|path| path.as_str().unwrap().to_owned()).collect()
    }

    #[track_caller]
    fn end(self) {
        self.0.signal(Signal::INT);
        self.0.end().exits(0);
    }
}

#[test]
fn it_builds_once_and_then_at_each_change() {
    let project = Project::new();
    project.write("in", "one").write("d/deep", "x");
    let mut watch = Watch::start(&project, &["-o", "out"], "cat in d/* > out");
    assert_eq!((watch.built(), project.read("out").as_str()), (0, "onex"));
    assert_eq!(watch.idle()["by"], "told");

    project.write("in", "two");
    assert_eq!(watch.changed(), ["in"]);
    assert_eq!((watch.built(), project.read("out").as_str()), (0, "twox"));
    watch.idle();

    std::fs::remove_file(project.path("d/deep")).unwrap();
    assert_eq!(watch.changed(), ["d/deep"]);
    assert_ne!(watch.built(), 0, "cat finds nothing in d");
    watch.idle();
    watch.end();
    project.assert_nothing_left();
}

#[test]
fn what_happens_in_new_and_renamed_directories_is_seen() {
    let project = Project::new();
    let mut watch = Watch::start(&project, &["-o", "out"], "touch out");
    watch.idle();
    project.write("a/b/c", "1");
    // The directory may have been seen before what came into it.
    while !watch.changed().contains(&"a/b/c".to_owned()) {}
    watch.idle();
    project.write("a/b/c", "two");
    assert_eq!(watch.changed(), ["a/b/c"]);
    watch.idle();
    std::fs::rename(project.path("a"), project.path("z")).unwrap();
    assert_eq!(watch.changed(), ["a", "a/b", "a/b/c", "z", "z/b", "z/b/c"]);
    watch.idle();
    project.write("z/b/c", "three");
    assert_eq!(watch.changed(), ["z/b/c"]);
    watch.idle();
    watch.end();
}

#[test]
fn neither_products_nor_ignored_files_nor_what_is_as_it_was_start_a_build() {
    let project = Project::new();
    project.write("in", "1").write(".fastbuildignore", "*.tmp\ncache\n").write("cache/x", "1");
    // Without -o everything that the command changes comes back, into the source tree.
    let mut watch =
        Watch::start(&project, &[], "cat in >> log; mkdir -p made; date +%s%N > made/$(date +%s%N)");
    assert_eq!(watch.built(), 0);
    watch.idle();

    project.write("scratch.tmp", "1").write("cache/y", "1");
    std::fs::create_dir(project.path("gone")).unwrap();
    std::fs::remove_dir(project.path("gone")).unwrap();
    project.write("in", "2");
    assert_eq!(watch.changed(), ["in"]);
    watch.built();
    watch.idle();
    assert_eq!(project.read("log"), "12");

    project.write("log", "edited: a product of this build's, and a source of the next one");
    assert_eq!(watch.changed(), ["log"]);
    watch.built();
    watch.idle();
    watch.end();
}

#[test]
fn a_change_during_a_build_starts_the_next_one_right_after_it() {
    let project = Project::new();
    project.write("in", "1");
    let script = "cp in out; echo up; while [ ! -e /tmp/go ]; do usleep 10000; done";
    let mut watch = Watch::start(&project, &["-o", "out"], script);
    watch.0.until_output("up\n");
    project.write("in", "2").write("more", "3");
    // The build ends with it, and the container with that, which may be before the exec has said that it is done.
    let go = || {
        let container = &project.containers()[0];
        std::process::Command::new("docker").args(["exec", container, "touch", "/tmp/go"]).output().unwrap();
    };
    go();
    assert_eq!((watch.built(), project.read("out").as_str()), (0, "1"));
    let next = watch.0.until("what comes next", |event| {
        ["watching", "sources-changed"].iter().any(|name| event["event"] == *name)
    });
    assert_eq!(next["event"], "sources-changed", "{next}");
    assert_eq!(next["paths"], serde_json::json!(["in", "more"]));
    watch.0.until_output("up\n");
    go();
    assert_eq!((watch.built(), project.read("out").as_str()), (0, "2"));
    watch.idle();
    watch.end();
}

#[test]
fn the_lock_is_free_between_builds() {
    let project = Project::new();
    let mut watch = Watch::start(&project, &["-o", "out"], "touch out");
    watch.idle();
    project.sh(&["--no-wait", "-o", "other"], "touch other").exits(0);
    // Not fastbuild's in this watch's view, and so a change.
    assert_eq!(watch.changed(), ["other"]);
    watch.idle();
    watch.end();
}

#[test]
fn ctrl_c_ends_it_in_the_middle_of_a_build_too() {
    let project = Project::new();
    project.write("out", "as it was");
    let script = "trap 'exit 7' INT; echo new > out; echo up; while :; do usleep 10000; done";
    let mut watch = Watch::start(&project, &["-o", "out"], script);
    watch.0.until_output("up\n");
    watch.end();
    assert_eq!(project.read("out"), "as it was");
    project.assert_nothing_left();
}

#[test]
fn a_supervisors_signal_ends_it_with_that_signals_code() {
    let project = Project::new();
    let mut watch = Watch::start(&project, &["-o", "out"], "touch out");
    watch.idle();
    watch.0.signal(Signal::TERM);
    watch.0.end().exits(143);
}

#[test]
fn a_configuration_that_was_changed_counts_for_the_next_build() {
    let project = Project::new();
    project.write("fastbuild.toml", "env = ['A=1']");
    let mut watch = Watch::start(&project, &["-o", "out"], "echo $A > out");
    watch.idle();
    project.write("fastbuild.toml", "env = ['A=2'");
    watch.0.until("the error is told", |event| event["event"] == "error");
    watch.idle();
    project.write("fastbuild.toml", "env = ['A=2']");
    watch.changed();
    watch.built();
    assert_eq!(project.read("out"), "2\n");
    watch.idle();
    watch.end();
}

#[test]
fn people_are_told_what_started_the_build() {
    let project = Project::new();
    let mut command = project.command();
    let script = "cat in* > out";
    let mut child = command.args(["watch", "-o", "out", "--", "sh", "-c", script]).spawn().unwrap();
    let _watchdog = process::Watchdog::over(&child);
    let mut stderr = child.stderr.take().unwrap();
    common::read_until(&mut stderr, "fastbuild: waiting for changes; Ctrl-C ends this\n");
    project.write("in1", "1");
    let told = common::read_until(&mut stderr, "waiting for changes");
    let told = String::from_utf8(told).unwrap();
    assert!(told.starts_with("fastbuild: changed: in1\n"), "{told}");
    process::send(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_watched_command_reads_nothing() {
    let project = Project::new();
    let ended = project.fastbuild(["watch", "--stdin", "--", "cat"]);
    ended.exits(125).says(&["--stdin: a watched command runs again and again"]);
}

#[test]
fn builds_in_a_workspace_are_watched_in_the_same_way() {
    let project = Project::new();
    project.write("in", "1");
    let script = "cat in >> log; cp log out; test -e stop && { trap 'exit 3' INT; echo up; while :; do usleep 10000; done; } || true";
    let mut watch = Watch::start(&project, &["--keep"], script);
    assert_eq!(watch.built(), 0);
    watch.idle();
    project.write("in", "2");
    assert_eq!(watch.changed(), ["in"]);
    assert_eq!(watch.built(), 0);
    watch.idle();
    assert_eq!((project.read("log"), project.read("out")), ("12".into(), "12".into()));
    project.write("stop", "");
    assert_eq!(watch.changed(), ["stop"]);
    watch.0.until_output("up\n");
    watch.end();
    assert_eq!(project.read("log"), "12", "a build that was cut off brings nothing back");
    assert_eq!(project.containers().len(), 1, "the workspace is kept");
}
