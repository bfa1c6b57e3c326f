//! A command that a mount fails is told from one that fails by itself, and may run once more without the mount.

use std::{fs, path::Path};

use crate::common::{Ended, Project};
use testutils::mounts::SlowMount;

/// Counts its runs in the engine-independent way: each appends to a file that no route hides.
const COUNTED: &str = "echo run >>/workspace/runs; ";

/// A project on a FUSE file system that refuses changes of modes and owners.
fn denying(project: &Project) -> SlowMount {
    let backing = project.outside().join("backing");
    fs::create_dir(&backing).unwrap();
    let mount = SlowMount::bindfs_denying(&backing, &project.root()).unwrap();
    project.write("src", "source");
    mount
}

fn runs(project: &Project) -> usize {
    project.read("runs").lines().count()
}

/// Makes a file and changes its mode, as Ruby's `apply2files` does.
const COPY: &str = "mkdir -p out; cp src out/copy; chmod 600 out/copy";

fn events(ended: &Ended) -> Vec<serde_json::Value> {
    ended.err().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn what_the_mount_refuses_is_said_and_runs_once_more_on_layer() {
    let project = Project::with_image("fastbuild/test-tools");
    let _mount = denying(&project);
    let script = format!("{COUNTED}{COPY}");
    let ended = project.sh(&["--route", "mount", "--fallback"], &script);
    ended.exits(0).says(&[
        "by a defect of the mount (route mount)",
        "Operation not permitted",
        "once more, on route layer",
        "route mount had failed it (exit 1)",
    ]);
    assert_eq!((runs(&project), project.read("out/copy")), (2, "source".to_owned()));
}

#[test]
fn the_report_keeps_both_runs() {
    let project = Project::with_image("fastbuild/test-tools");
    let _mount = denying(&project);
    let ended = project.sh(&["--route", "mount", "--fallback", "--progress", "json"], COPY);
    ended.exits(0);
    let events = events(&ended);
    let of = |name: &str| events.iter().find(|event| event["event"] == name).unwrap().clone();
    let failed = of("mount-failed");
    assert_eq!(
        (&failed["route"], &failed["exit_code"], &failed["then"]),
        (&"mount".into(), &1.into(), &"layer".into())
    );
    let finished = of("finished");
    assert_eq!((&finished["exit_code"], &finished["earlier"]["exit_code"]), (&0.into(), &1.into()));
    assert_eq!(finished["earlier"]["route"], "mount");
    assert!(finished["earlier"]["took"].as_f64().unwrap() < finished["took"].as_f64().unwrap());
}

#[test]
fn a_share_that_shows_everything_as_one_owners_fails_jekyll_and_layer_does_not() {
    let project = Project::with_image("fastbuild/demo-jekyll");
    let backing = project.outside().join("backing");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/jekyll-site");
    let copied = std::process::Command::new("cp").arg("-r").arg(example).arg(&backing).status().unwrap();
    assert!(copied.success());
    let opened = std::process::Command::new("chmod").args(["-R", "a+rwX"]).arg(&backing).status().unwrap();
    assert!(opened.success());
    let _mount = SlowMount::bindfs_foreign(&backing, &project.root()).unwrap();
    let options = ["-u", "1000:1000", "-e", "HOME=/tmp", "--route", "mount", "--", "jekyll", "build"];
    let ended = project.fastbuild(options);
    ended.exits(1).says(&["apply2files", "by a defect of the mount"]);
    // What a failed build left belongs to another user from the start, which would be reason enough to fail.
    fs::remove_dir_all(project.path("_site")).unwrap();
    let ended = project.fastbuild(["--fallback"].iter().chain(&options));
    ended.exits(0).says(&["@ apply2files", "by a defect of the mount", "once more, on route layer"]);
    assert!(project.has("_site/index.html"));
}

#[test]
fn without_the_fallback_it_is_said_and_runs_once() {
    let project = Project::with_image("fastbuild/test-tools");
    let _mount = denying(&project);
    let script = format!("{COUNTED}{COPY}");
    for options in [&["--route", "mount"][..], &["--route", "mount", "--fallback", "--no-fallback"]] {
        let before = if project.has("runs") { runs(&project) } else { 0 };
        let ended = project.sh(options, &script);
        ended.exits(1).says(&["by a defect of the mount", "--fallback", "--route layer"]);
        assert_eq!(runs(&project), before + 1);
    }
}

#[test]
fn a_command_that_fails_by_itself_is_never_run_twice() {
    let project = Project::with_image("fastbuild/test-tools");
    let _mount = denying(&project);
    let scripts = [
        "false",
        // Of other places, or of no place.
        "echo 'cp: /etc/shadow: Permission denied' >&2; exit 1",
        "echo 'Operation not permitted' >&2; exit 1",
        // A script without permission to execute.
        "echo echo >script; ./script",
        // The mount denies changes of modes and nothing else.
        "echo 'cat: /workspace/src: Permission denied' >&2; exit 1",
        // Long before the end, and dealt with.
        "cp src copy; chmod 600 copy 2>&1; yes fine | head -n 1000; exit 1",
    ];
    for (before, script) in scripts.iter().enumerate() {
        let ended = project.sh(&["--route", "mount", "--fallback"], &format!("{COUNTED}{script}"));
        assert!(!ended.err().contains("defect"), "{script}: {ended}");
        assert_ne!(ended.code, 0, "{script}: {ended}");
        assert_eq!(runs(&project), before + 1, "{script}: {ended}");
    }
}

#[test]
fn on_a_local_disk_nothing_is_the_mounts_fault() {
    let project = Project::with_image("fastbuild/test-tools");
    project.write("src", "source");
    for line in
        ["cp: 'src': Operation not permitted", "/workspace/src: Input/output error", "src: Stale file handle"]
    {
        let ended =
            project.sh(&["--route", "mount", "--fallback"], &format!("{COUNTED}echo \"{line}\" >&2; exit 4"));
        ended.exits(4);
        assert!(!ended.err().contains("defect"), "{ended}");
    }
    assert_eq!(runs(&project), 3);
}

#[test]
fn what_no_healthy_file_system_says_is_the_mounts_on_any_mount() {
    let project = Project::new();
    let backing = project.outside().join("backing");
    fs::create_dir(&backing).unwrap();
    let _mount = SlowMount::sshfs(&backing, &project.root()).unwrap();
    project.write("src", "source");
    // An sshfs cannot be made to say it at will, so the command says what `cat` would.
    let script = "test -e /workspace/second && { echo fine >out; exit 0; }; touch second; \
                  echo 'cat: /workspace/src: Stale file handle' >&2; exit 1";
    let ended = project.sh(&["--route", "mount", "--fallback"], script);
    ended.exits(0).says(&["by a defect of the mount", "Stale file handle"]);
    assert_eq!(project.read("out"), "fine\n");
}

#[test]
fn a_mount_that_hangs_is_told_in_time_and_fastbuild_ends() {
    let project = Project::new();
    let backing = project.outside().join("backing");
    fs::create_dir(&backing).unwrap();
    let mount = SlowMount::sshfs(&backing, &project.root()).unwrap();
    project.write("src", "source");
    // Started elsewhere, as from a terminal in another directory: the mount's own cache must not answer.
    let mut command = project.command();
    command.current_dir("/").arg("-C").arg(project.root()).args(["--", "true"]);
    let mut plan = project.command();
    plan.current_dir("/").args(["plan", "-C"]).arg(project.root()).args(["--", "true"]);
    mount.freeze().unwrap();
    for mut command in [command, plan] {
        let ended = Ended::from(command.output().unwrap());
        ended.exits(125).says(&["did not answer within 10 s", "sshfs", "fastbuild doctor"]);
    }
    mount.thaw().unwrap();
    project.sh(&[], "cat src").exits(0);
    assert!(Path::new(&project.path("src")).exists());
}
