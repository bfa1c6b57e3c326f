//! Disks that are full or read-only, wherever fastbuild writes: it says so with 125, the host stays as it was, and
//! nothing is left.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::common::small_disk::SmallDisk;
use crate::common::{Ended, Project, Tree};

#[test]
fn products_that_do_not_fit_are_told_and_change_nothing() {
    let project = Project::new();
    project.write("source", "text");
    let disk = SmallDisk::mount(&project.outside().join("disk"), 10);
    fs::write(disk.path().join("mine"), "mine").unwrap();
    let before = (project.tree(), Tree::of(disk.path()));
    let output = format!("out:{}/out", disk.path().to_str().unwrap());
    for (what, script) in [
        ("one large file", "mkdir out; dd if=/dev/zero of=out/large bs=1M count=20 2>/dev/null"),
        (
            "many small files",
            "mkdir out; for i in $(seq 200); do dd if=/dev/zero of=out/$i bs=100k count=1 2>/dev/null; done",
        ),
    ] {
        let ended = project.sh(&["-o", &output], script);
        ended.exits(125).says(&["no space for the products", "may still be used", "free some space"]);
        assert!((project.tree(), Tree::of(disk.path())) == before, "{what}: something has changed");
        project.assert_nothing_left();
    }
    project.sh(&["-o", &output], "mkdir out; echo small >out/small").exits(0);
    assert_eq!(fs::read_to_string(disk.path().join("out/small")).unwrap(), "small\n");
}

#[test]
fn a_tree_larger_than_the_free_disk_comes_back_if_it_did_not_change() {
    let project = Project::new();
    let disk = SmallDisk::mount(&project.root().join("sub"), 60);
    // 40 MiB are used, and some 20 MiB are free.
    project.write("sub/large", vec![7; 30 << 20]);
    for n in 0..100 {
        project.write(format!("sub/{n}"), vec![n; 100 << 10]);
    }
    let ended = Ended::from(
        project
            .command()
            .current_dir(disk.path())
            .args(["--", "sh", "-c", "echo new >new"])
            .output()
            .unwrap(),
    );
    ended.exits(0);
    assert_eq!(project.read("sub/new"), "new\n");
    // What does change must fit.
    let before = Tree::of(disk.path());
    let script = "for i in $(seq 0 99); do echo more >>$i; done; echo more >>large";
    let mut command = project.command();
    let ended =
        Ended::from(command.current_dir(disk.path()).args(["--", "sh", "-c", script]).output().unwrap());
    ended.exits(125).says(&["no space for the products"]);
    assert!(Tree::of(disk.path()) == before);
}

#[test]
fn a_disk_that_others_fill_meanwhile_is_told() {
    // Inodes are not counted before: the file system itself says that it is full.
    let project = Project::new();
    let disk = SmallDisk::mount_with(&project.outside().join("disk"), "size=100m,nr_inodes=20");
    let before = Tree::of(disk.path());
    let output = format!("out:{}/out", disk.path().to_str().unwrap());
    let ended = project.sh(&["-o", &output], "mkdir out; for i in $(seq 50); do echo $i >out/$i; done");
    ended.exits(125).says(&["no space left on the disk while products were staged"]);
    assert!(Tree::of(disk.path()) == before);
    project.assert_nothing_left();
}

#[test]
fn a_state_directory_that_cannot_be_written_is_told_before_anything_runs() {
    let project = Project::new();
    let disk = SmallDisk::mount(&project.outside().join("disk"), 1);
    disk.make_read_only();
    let mut command = project.command();
    command.env("FASTBUILD_STATE_DIR", disk.path().join("state")).args(["--", "sh", "-c", "echo ran"]);
    let ended = Ended::from(command.output().unwrap());
    ended.exits(125).says(&["fastbuild's state directory", "disk/state", "Read-only file system"]);
    assert_eq!(ended.out(), "");
    project.assert_nothing_left();
}

#[test]
fn a_state_directory_that_fills_at_any_moment_leaves_all_or_nothing() {
    let mut outcomes = Vec::new();
    // One inode more each time: the run gets a little further.
    for inodes in 3..32 {
        let project = Project::new();
        project.write("source", "text");
        let disk =
            SmallDisk::mount_with(&project.outside().join("disk"), &format!("size=1m,nr_inodes={inodes}"));
        let before = project.tree();
        let run = |state: std::path::PathBuf| {
            let mut command = project.command();
            command.env("FASTBUILD_STATE_DIR", state).args([
                "--",
                "sh",
                "-c",
                "echo new >new; echo more >>source",
            ]);
            Ended::from(command.output().unwrap())
        };
        let ended = run(disk.path().join("state"));
        outcomes.push(ended.code);
        if ended.code == 125 {
            ended.says(&["/disk/state", "No space left on device"]);
            assert!(project.tree() == before, "with {inodes} inodes the host has changed\n{ended}");
        } else {
            ended.exits(0);
            assert_eq!((project.read("new"), project.read("source")), ("new\n".into(), "textmore\n".into()));
        }
        crate::common::eventually("the container is removed", || project.containers().is_empty());
        assert!(project.stages().is_empty(), "{:?}", project.stages());
    }
    assert_eq!((outcomes.first(), outcomes.last()), (Some(&125), Some(&0)), "{outcomes:?}");
}

#[test]
fn an_output_directory_that_is_read_only_is_told() {
    let project = Project::new();
    project.write("source", "text");
    let disk = SmallDisk::mount(&project.outside().join("disk"), 80);
    fs::create_dir(disk.path().join("out")).unwrap();
    fs::write(disk.path().join("out/old"), "old").unwrap();
    disk.make_read_only();
    let before = (project.tree(), Tree::of(disk.path()));
    for target in ["out", "new", "new/below"] {
        let output = format!("out:{}/{target}", disk.path().to_str().unwrap());
        let ended = project.sh(&["-o", &output], "mkdir out; echo new >out/new");
        ended.exits(125).says(&["output target", "read-only", "name another place"]);
        assert!((project.tree(), Tree::of(disk.path())) == before, "{target}");
        project.assert_nothing_left();
    }
}

#[test]
fn a_full_standard_output_ends_the_build() {
    let project = Project::new();
    project.write("source", "text");
    let before = project.tree();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = project.command();
    command.args(["--", "sh", "-c", "echo new >new; while :; do echo much; done"]).stdout(full);
    let ended = Ended::from(command.output().unwrap());
    ended.exits(125).says(&["could not pass on the build's output", "No space left on device"]);
    assert!(project.tree() == before);
    project.assert_nothing_left();
}

#[test]
fn a_full_standard_error_ends_the_build_too() {
    let project = Project::new();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = project.command();
    command.args(["--", "sh", "-c", "while :; do echo much >&2; done"]).stderr(full).stdout(Stdio::null());
    let ended = Ended::from(command.output().unwrap());
    ended.exits(125);
    project.assert_nothing_left();
}

#[test]
fn a_reader_that_goes_away_ends_the_build_as_a_broken_pipe_does() {
    let project = Project::new();
    let mut child = project.start(&["-q"], "while :; do echo much; done");
    crate::common::read_until(child.stdout.as_mut().unwrap(), "much\n");
    drop(child.stdout.take());
    Ended::of(child).exits(141);
    project.assert_nothing_left();
    // As a shell sees it.
    let script = format!(
        "FASTBUILD_KEEP=no FASTBUILD_IMAGE={} FASTBUILD_STATE_DIR={:?} {:?} -q -- yes | head -1",
        crate::common::BUSYBOX,
        project.state(),
        env!("CARGO_BIN_EXE_fastbuild")
    );
    let output = Command::new("sh").args(["-c", &script]).current_dir(project.root()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "y\n");
    crate::common::eventually("the container is removed", || project.containers().is_empty());
}
