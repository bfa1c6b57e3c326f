//! Builds without the agent, by the plain Engine API: as on Windows engines and on processors that there is no agent for.

use std::{fs, os::unix::fs::MetadataExt as _};

use crate::common::cache::Cache;
use crate::common::process::noise;
use crate::common::{Ended, FILLED, NONROOT, Project, docker, eventually};

/// A build without the agent.
fn sh(project: &Project, options: &[&str], script: &str) -> Ended {
    project.sh(&[&["--no-agent"], options].concat(), script)
}

#[test]
fn it_says_why_no_agent_runs_the_command_and_gives_what_one_would_give() {
    let project = Project::new();
    project.write("in/a", "one").write("in/b", "two").write("old", "x").write("kept", "as it was");
    std::os::unix::fs::symlink("a", project.path("in/link")).unwrap();
    let script = "cat in/a in/b in/link; echo err >&2; echo new > made; rm old; mkdir -p d/e; ln -s ../made d/l; \
                  echo more >> in/a; exit 0";
    let ended = sh(&project, &[], script);
    assert_eq!(ended.exits(0).out(), "onetwoone");
    ended.says(&["--no-agent", "err\n"]);
    assert_eq!((project.read("made").as_str(), project.read("in/a").as_str()), ("new\n", "onemore\n"));
    assert!(!project.has("old") && project.path("d/e").is_dir());
    assert_eq!(fs::read_link(project.path("d/l")).unwrap().to_str(), Some("../made"));
    assert_eq!(project.read("kept"), "as it was");
    project.assert_nothing_left();
}

#[test]
fn named_outputs_come_from_anywhere_and_only_what_changed_is_written() {
    let project = Project::new();
    let script = "mkdir -p site/deep; echo a > site/deep/a; echo b > /tmp/b; ln site/deep/a site/again; echo x > beside";
    let options = ["-o", "site", "-o", "/tmp/b:else/b"];
    sh(&project, &options, script).exits(0);
    assert_eq!((project.read("site/deep/a").as_str(), project.read("else/b").as_str()), ("a\n", "b\n"));
    assert!(!project.has("beside"));
    let inode = |path: &str| fs::metadata(project.path(path)).unwrap().ino();
    let before = inode("site/deep/a");
    sh(&project, &options, script).exits(0);
    assert_eq!(inode("site/deep/a"), before, "equal bytes keep their inode");
    project.assert_nothing_left();
}

#[test]
fn what_is_ignored_and_what_a_cache_holds_neither_goes_in_nor_comes_back() {
    let project = Project::new();
    project.write(".fastbuildignore", "logs\n*.tmp\n!keep.tmp\n").write("logs/here", "x").write("a.tmp", "x");
    let cache = Cache::new(&project, "plain");
    let options = ["--cache", &cache.at("deep/cache")];
    let script = "test ! -e logs; test ! -e a.tmp; mkdir -p logs; echo y > logs/there; echo y > a.tmp; \
                  echo k > keep.tmp; echo c > deep/cache/c; echo d > deep/d";
    sh(&project, &options, script).exits(0);
    assert_eq!((project.read("logs/here").as_str(), project.read("a.tmp").as_str()), ("x", "x"));
    assert_eq!((project.read("keep.tmp").as_str(), project.read("deep/d").as_str()), ("k\n", "d\n"));
    assert!(!project.has("logs/there") && !project.has("deep/cache"));
    project.assert_nothing_left();
}

#[test]
fn exit_codes_users_and_an_images_own_files_are_as_under_a_mount() {
    let project = Project::new();
    project.write("src", "s");
    sh(&project, &[], "exit 7").exits(7);
    project.fastbuild(["--no-agent", "--", "no-such-command"]).exits(127);
    project.fastbuild(["--no-agent", "--", "./src"]).exits(126);
    let ended = sh(&project, &["-i", NONROOT], "id -un; echo mine > made; stat -c %U src");
    assert_eq!(ended.exits(0).out(), "app\napp\n");
    assert_eq!(project.read("made"), "mine\n");
    // The image has files of its own there.
    let ended = sh(&project, &["-i", FILLED], "ls");
    assert_eq!(ended.exits(0).out(), "made\nsrc\n");
    project.assert_nothing_left();
}

#[test]
fn a_failed_build_leaves_the_host_as_it_was_and_a_mounted_one_wrote_there() {
    let project = Project::new();
    project.write("src", "s");
    let before = project.tree();
    sh(&project, &[], "echo x > made; exit 3").exits(3);
    assert!(project.tree() == before);
    sh(&project, &["--route", "mount"], "echo x > made; exit 3").exits(3);
    assert_eq!(project.read("made"), "x\n");
    sh(&project, &["--route", "mount-source", "-o", "out"], "echo y > out/y; cat src > out/src").exits(0);
    assert_eq!(project.read("out/src"), "s");
    project.assert_nothing_left();
}

#[test]
fn a_reader_that_takes_its_time_gets_everything() {
    let project = Project::new();
    // More than a pipe holds, and less than what lies between the command and us: the command ends, its output waits.
    let bytes = noise(5, 500_000);
    project.write("bytes", &bytes);
    let child = project.start(&["-q", "--no-agent"], "cat bytes");
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
