//! `fastbuild watch`: a build at each change and at nothing else.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use crate::common::{
    Project,
    process::{self, FASTBUILD, Watched, beside},
    pty::Pty,
};
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

    /// Builds once for `path`, which starts it, and for nothing before.
    #[track_caller]
    fn builds_for(&mut self, project: &Project, path: &str, content: &str) {
        project.write(path, content);
        assert_eq!(self.changed(), [path]);
        self.built();
        self.idle();
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
    let first = crate::common::read_until(&mut stderr, " s; waiting for changes; Ctrl-C ends this\n");
    assert!(String::from_utf8(first).unwrap().contains("\nfastbuild: #1 "));
    project.write("in1", "1");
    let told = crate::common::read_until(&mut stderr, "waiting for changes\n");
    let told = String::from_utf8(told).unwrap();
    assert!(told.starts_with("fastbuild: changed: in1\n"), "{told}");
    assert!(told.contains("\nfastbuild: #2 "), "{told}");
    assert!(told.ends_with(" s, 1 file changed; waiting for changes\n"), "{told}");
    process::send(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_screen_is_cleared_before_each_build_if_stdout_is_one() {
    let project = Project::new();
    let pty = Pty::new();
    let mut command = beside(&project, "setsid", &["--ctty", FASTBUILD]);
    command
        .args(["watch", "--clear", "-o", "out", "--", "sh", "-c", "cat in* > out; echo BUILT"])
        .env("TERM", "xterm");
    command.stdin(pty.stream()).stdout(pty.stream()).stderr(pty.stream());
    let session = pty.spawn(command);
    pty.until("\x1b[H\x1b[2J");
    pty.until("BUILT");
    pty.until("waiting for changes");
    project.write("in1", "1");
    pty.until("\x1b[H\x1b[2J");
    pty.until("changed: in1");
    pty.until("BUILT");
    pty.until("waiting for changes");
    pty.types(b"\x03");
    session.exits(0);

    let mut command = project.command();
    command.args(["watch", "--clear", "-o", "out", "--", "sh", "-c", "true"]);
    let mut child = command.env("TERM", "xterm").spawn().unwrap();
    let _watchdog = process::Watchdog::over(&child);
    crate::common::read_until(&mut child.stderr.take().unwrap(), "waiting for changes");
    process::send(&child, Signal::INT);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(ended.stdout).unwrap(), "");
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

#[test]
fn what_version_control_and_editors_write_for_themselves_starts_nothing() {
    let project = Project::new();
    project
        .write("in", "1")
        .write(".git/HEAD", "ref: refs/heads/main\n")
        .write("d/.git", "gitdir: ../.git\n");
    let mut watch = Watch::start(&project, &["-o", "out"], "cat in > out; cat .in.swp >> out || true");
    watch.idle();
    for own in [
        ".git/index.lock",
        ".git/objects/ab/cd",
        ".in.swp",
        "4913",
        "in~",
        "#in#",
        ".~lock.in#",
        ".DS_Store",
        "d/Thumbs.db",
    ] {
        project.write(own, "own");
    }
    std::os::unix::fs::symlink("me@here.1", project.path(".#in")).unwrap();
    std::fs::remove_file(project.path(".git/HEAD")).unwrap();
    project.write("in", "2");
    assert_eq!(watch.changed(), ["in"]);
    watch.built();
    assert_eq!(project.read("out"), "2own", "they go up with a build that something else starts");
    watch.idle();
    watch.end();
}

#[test]
fn a_chmod_to_the_same_mode_starts_nothing_and_a_touch_does() {
    use std::os::unix::fs::PermissionsExt as _;
    let project = Project::new();
    project.write("in", "1").write("other", "1");
    let mut watch = Watch::start(&project, &["--keep"], "cp in out");
    watch.idle();
    let mode = |path: &str, mode| {
        std::fs::set_permissions(project.path(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("in", 0o644);
    mode("out", 0o644);
    // By its content alone: neither size nor time tells.
    let before = std::fs::metadata(project.path("other")).unwrap().modified().unwrap();
    std::fs::write(project.path("other"), "2").unwrap();
    std::fs::File::options().write(true).open(project.path("other")).unwrap().set_modified(before).unwrap();
    assert_eq!(watch.changed(), ["other"]);
    watch.idle();
    mode("in", 0o755);
    assert_eq!(watch.changed(), ["in"]);
    watch.idle();
    std::fs::File::options()
        .write(true)
        .open(project.path("in"))
        .unwrap()
        .set_modified(std::time::SystemTime::now())
        .unwrap();
    assert_eq!(watch.changed(), ["in"]);
    watch.idle();
    watch.end();
}

#[test]
fn products_start_nothing_on_any_route() {
    for (route, options) in [
        ("layer", [].as_slice()),
        ("tmpfs", &[]),
        ("volume", &[]),
        ("mount-source", &["-o", "log", "-o", "made"]),
        ("mount", &[]),
        ("mount", &["-o", "made"]),
    ] {
        let project = Project::new();
        // One product is there already, and each build writes it anew where it is.
        project.write("in", "1").write("made/old", "from an earlier build");
        let options = [&["--route", route], options].concat();
        let script = "mkdir -p log made; cat in >> log/all; u=$(cat /proc/sys/kernel/random/uuid); echo $u > made/old; echo > made/$u";
        let mut watch = Watch::start(&project, &options, script);
        assert_eq!(watch.built(), 0, "{route}");
        watch.idle();
        watch.builds_for(&project, "in", "2");
        watch.builds_for(&project, "in", "3");
        watch.end();
    }
    let project = Project::here();
    project.write("in", "1");
    let mut watch = Watch::start(&project, &[], "cat in >> log; date > $(date +%s%N)");
    watch.idle();
    watch.builds_for(&project, "in", "2");
    watch.end();
}

#[test]
fn an_edit_while_a_build_writes_into_the_mounted_tree_starts_the_next_one() {
    let project = Project::new();
    project.write("in", "1").write("more", "1");
    let script = "cat in more > out; echo up; while [ -e wait ]; do usleep 10000; done";
    let mut watch = Watch::start(&project, &["--route", "mount"], script);
    watch.idle();
    project.write("wait", "");
    assert_eq!(watch.changed(), ["wait"]);
    watch.0.until_output("up\nup\n");
    project.write("more", "2");
    std::fs::remove_file(project.path("wait")).unwrap();
    watch.built();
    assert_eq!(watch.changed(), ["more"]);
    watch.built();
    assert_eq!(project.read("out"), "12");
    watch.idle();
    watch.end();
}

#[test]
fn a_state_directory_in_the_tree_is_no_source_and_starts_nothing() {
    for outputs in [["-o", "out"].as_slice(), &[]] {
        let project = Project::new();
        project.write("in", "1").write(".cache/own", "1");
        let state = project.path(".cache/fastbuild");
        let mut command = project.command();
        command
            .env("FASTBUILD_STATE_DIR", &state)
            .args(["watch", "--keep", "--progress", "json"])
            .args(outputs);
        command.args(["--", "sh", "-c", "find . -path '*cache*' | sort > out"]);
        let mut watch = Watch(Watched::spawn(&mut command));
        assert_eq!(watch.built(), 0);
        assert_eq!(project.read("out"), "./.cache\n./.cache/own\n");
        watch.idle();
        watch.builds_for(&project, "in", "2");
        assert!(state.join("projects").is_dir(), "no build deletes it");
        watch.end();
        let plan = project
            .command()
            .env("FASTBUILD_STATE_DIR", &state)
            .args(["plan", "-v", "--", "true"])
            .output()
            .unwrap();
        let plan = String::from_utf8(plan.stdout).unwrap();
        assert!(
            plan.lines().any(|line| line.contains(".cache/fastbuild") && line.contains("fastbuild's own")),
            "{plan}"
        );
        let removed = project.command().env("FASTBUILD_STATE_DIR", &state).args(["workspace", "rm"]).output();
        assert!(removed.unwrap().status.success());
    }
}

#[test]
fn a_scripts_watch_in_the_background_ends_at_sigint() {
    let project = Project::new();
    let script = "trap '' INT; exec \"$FASTBUILD\" watch --progress json -- touch made";
    let mut watch = Watch(Watched::spawn(&mut process::beside(&project, "sh", &["-c", script])));
    assert_eq!(watch.built(), 0);
    watch.idle();
    watch.0.signal(Signal::INT);
    watch.0.end().exits(0);
    project.assert_nothing_left();
}

#[test]
fn two_watches_that_feed_each_other_come_to_rest_and_go_on_at_an_edit() {
    let project = Project::new();
    project.write("x", "0").write("y", "0");
    let mut one = Watch::start(&project, &["-o", "x"], "cat /proc/sys/kernel/random/uuid > x");
    one.idle();
    let mut other = Watch::start(&project, &["-o", "y"], "cat /proc/sys/kernel/random/uuid > y");
    let is_circle = |event: &Value| event["warning"] == "circle";
    // Whichever of them is the first to see it stops both.
    let (circles, told) = std::sync::mpsc::channel();
    let over = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for watch in [&mut one, &mut other] {
            let (circles, over) = (circles.clone(), &over);
            scope.spawn(move || {
                let ended =
                    |event: &Value| event["event"] == "sources-changed" && event["paths"][0] == "stop";
                let event =
                    watch.0.until("a circle, or the end of it", |event| is_circle(event) || ended(event));
                if is_circle(&event) {
                    circles.send(event).unwrap();
                    watch.0.until("an edit counts", ended);
                }
                over.fetch_add(1, Ordering::Relaxed);
            });
        }
        let circle = told.recv().unwrap();
        assert!(["x", "y"].iter().any(|path| circle["path"] == *path), "{circle}");
        // An edit may come to a build that has begun for what the other one made, and is not told then.
        let (mut edits, mut edited) = (0, Instant::now());
        crate::common::eventually("an edit counts", || {
            if edits == 0 || edited.elapsed() > Duration::from_secs(1) {
                (edits, edited) = (edits + 1, Instant::now());
                project.write("stop", edits.to_string());
            }
            over.load(Ordering::Relaxed) == 2
        });
    });
    for watch in [one, other] {
        watch.end();
    }
}

#[test]
fn a_directory_that_cannot_be_read_is_told_once_and_ends_nothing() {
    let project = Project::new();
    project.write("in", "1");
    let group =
        std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(crate::common::SOCKET).unwrap()).to_string();
    let own = |user: &str, path: std::path::PathBuf| {
        assert!(std::process::Command::new("chown").args(["-R", user]).arg(path).status().unwrap().success());
    };
    own("65534:65534", project.outside());
    let like = project.command();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--groups", &group]).arg(like.get_program());
    command.args(["watch", "--progress", "json", "-o", "out", "--", "sh", "-c", "cp in out"]).env_clear();
    command
        .envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(project.root());
    let mut watch = Watch(Watched::spawn(&mut command));
    assert_eq!(watch.built(), 0);
    watch.idle();

    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().mode(0o700).create(project.path("theirs")).unwrap();
    let told = watch.0.until("it is told", |event| event["event"] == "error");
    assert!(told["message"].as_str().unwrap().contains("theirs"), "{told}");
    // The next thing that is said is that a build begins.
    project.write("in", "2");
    let next = watch.0.until("the next thing", |_| true);
    assert_eq!((&next["event"], &next["paths"]), (&"sources-changed".into(), &serde_json::json!(["in"])));
    watch.0.until("the build needs it", |event| event["event"] == "error");
    watch.idle();
    std::fs::remove_dir(project.path("theirs")).unwrap();
    project.write("in", "3");
    assert_eq!(watch.changed(), ["in"]);
    assert_eq!((watch.built(), project.read("out").as_str()), (0, "3"));
    watch.end();
}

#[test]
fn a_source_root_that_goes_and_comes_back_ends_nothing() {
    let project = Project::new();
    project.write("in", "1");
    let mut watch = Watch::start(&project, &["-o", "out"], "cp in out");
    watch.idle();
    let aside = project.outside().join("aside");
    std::fs::rename(project.root(), &aside).unwrap();
    watch.0.until("it is told", |event| event["event"] == "error");
    std::fs::rename(&aside, project.root()).unwrap();
    project.write("in", "2");
    assert_eq!(watch.changed(), ["in"]);
    assert_eq!((watch.built(), project.read("out").as_str()), (0, "2"));
    watch.idle();
    watch.end();
}

#[test]
fn rules_that_cannot_be_read_are_told_and_those_that_follow_count() {
    let project = Project::new();
    project.write("in", "1");
    let mut watch = Watch::start(&project, &["-o", "out"], "cp in out");
    watch.idle();
    project.write(".fastbuildignore", "[\n");
    watch.changed();
    watch.0.until("it is told", |event| event["event"] == "error");
    project.write(".fastbuildignore", "x\n");
    watch.changed();
    assert_eq!(watch.built(), 0);
    watch.idle();
    watch.end();
}

#[test]
fn an_engine_that_goes_fails_the_build_and_the_watch_stays_with_it() {
    let project = Project::new();
    let socket = project.outside().join("engine.sock");
    std::os::unix::fs::symlink(crate::common::SOCKET, &socket).unwrap();
    project.write("in", "1").write("fastbuild.toml", format!("image = '{}'\n", crate::common::BUSYBOX));
    let mut command = project.command();
    // No engine is named, and so a build that begins without one runs on this machine.
    command.env_remove("FASTBUILD_IMAGE").env("DOCKER_HOST", format!("unix://{}", socket.to_str().unwrap()));
    command.args(["watch", "--progress", "json", "-o", "out", "--", "sh", "-c", "cp in out"]);
    let mut watch = Watch(Watched::spawn(&mut command));
    assert_eq!(watch.built(), 0);
    watch.idle();
    std::fs::remove_file(&socket).unwrap();
    project.write("in", "2");
    let planned = watch.0.until("a build begins", |event| event["event"] == "planned");
    assert!(planned["engine"].as_str().unwrap().ends_with("engine.sock"), "{planned}");
    watch.0.until("it fails", |event| event["event"] == "error");
    watch.idle();
    std::os::unix::fs::symlink(crate::common::SOCKET, &socket).unwrap();
    project.write("in", "3");
    assert_eq!((watch.built(), project.read("out").as_str()), (0, "3"));
    watch.idle();
    watch.end();
}
