//! Warm workspaces: the second build costs what changed and is never wrong.

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use crate::common::other_processor::load_for_other_processor;
use crate::common::process::{Gated, Watched, noise};
use crate::common::proxy;
use crate::common::proxy::Proxy;
use crate::common::reports;
use crate::common::reports::{
    collected, event, events, in_workspace, json, sees_the_host, uploaded, uploaded_bytes,
};
use crate::common::{
    BUSYBOX, EMPTY, ENTRYPOINT, Ended, FILLED, Lifetime, NONROOT, Project, docker, eventually, processes_in,
};

/// A project of some files of each kind.
fn sample() -> Project {
    let project = Project::kept();
    for n in 0..40 {
        project.write(format!("dir{}/file{n}", n % 4), format!("content of {n}\n"));
    }
    fs::create_dir(project.path("empty")).unwrap();
    symlink("dir0/file0", project.path("link")).unwrap();
    symlink("/nowhere", project.path("dangling")).unwrap();
    // Old enough to be believed by their stamps.
    for n in 0..40 {
        set_mtime(&project.path(format!("dir{}/file{n}", n % 4)), 1_700_000_000);
    }
    project
}

fn set_mtime(path: &Path, secs: u64) {
    File::open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(secs)).unwrap();
}

fn how(ended: &Ended) -> String {
    event(ended, "workspace")["how"].as_str().unwrap_or("without the agent").to_owned()
}

// ---- what travels --------------------------------------------------------------------------------------------------

#[test]
fn a_second_build_finds_its_workspace_and_nothing_travels() {
    let project = sample();
    let first = sees_the_host(&project, &[]);
    assert_eq!((how(&first), uploaded(&first)), ("made".into(), 47));
    let second = sees_the_host(&project, &[]);
    assert_eq!((how(&second), uploaded(&second), collected(&second)), ("found".into(), 0, 0), "{second}");
    project.assert_nothing_left();
}

#[test]
fn one_edited_line_costs_little_on_the_wire_however_large_the_tree() {
    const FILES: u64 = 3_000;
    let project = Project::kept();
    for n in 0..FILES {
        project.write(format!("d{}/f{n}", n % 30), format!("{n}\n"));
    }
    project.write("large", noise(3, 4 << 20));
    let proxy = Proxy::new(&project.outside());
    sees_the_host(&project, &["-H", &proxy.address()]);
    let before = bytes(&proxy);
    project.write("d7/f7", "edited\n");
    let ended = json(&project, &["-H", &proxy.address()], "cat d7/f7");
    assert_eq!(ended.exits(0).out(), "edited\n");
    assert_eq!(uploaded(&ended), 1, "{ended}");
    let moved = bytes(&proxy) - before;
    assert!(moved < 64 * 1024 + 40 * FILES, "{moved} bytes");
}

fn bytes(proxy: &Proxy) -> u64 {
    let of = |seen: &proxy::Seen| seen.sent.load(Ordering::SeqCst) + seen.received.load(Ordering::SeqCst);
    proxy.seen().iter().map(|seen| of(seen)).sum()
}

#[test]
fn an_edit_that_keeps_size_and_mtime_is_seen() {
    let project = sample();
    sees_the_host(&project, &[]);
    for (round, content) in ["CONTENT of 4\n", "content OF 4\n", "content of 4\n"].iter().enumerate() {
        project.write("dir0/file4", content);
        set_mtime(&project.path("dir0/file4"), 1_700_000_000);
        let ended = sees_the_host(&project, &[]);
        assert_eq!(uploaded(&ended), 1, "{round}: {ended}");
    }
}

/// What is done to the host's tree, and how many files and bytes may travel for it.
type Edit = (&'static str, fn(&Project), u64, u64);

#[test]
fn each_kind_of_edit_arrives_and_costs_no_more_than_it_must() {
    let edits: [Edit; 16] = [
        ("content", |p| fs::write(p.path("dir0/file0"), "other").unwrap(), 1, 5),
        (
            "mode",
            |p| fs::set_permissions(p.path("dir1/file1"), fs::Permissions::from_mode(0o750)).unwrap(),
            0,
            0,
        ),
        ("mtime", |p| set_mtime(&p.path("dir1/file1"), 1_600_000_000), 0, 0),
        (
            "a directory's mode",
            |p| fs::set_permissions(p.path("dir1"), fs::Permissions::from_mode(0o700)).unwrap(),
            0,
            0,
        ),
        ("a directory's mtime", |p| set_mtime(&p.path("dir1"), 1_600_000_000), 0, 0),
        ("another name", |p| fs::rename(p.path("dir2/file2"), p.path("renamed")).unwrap(), 1, 13),
        ("another case", |p| fs::rename(p.path("dir2/file6"), p.path("dir2/FILE6")).unwrap(), 1, 13),
        ("a directory's other case", |p| fs::rename(p.path("dir3"), p.path("DIR3")).unwrap(), 11, 150),
        ("a deleted file", |p| fs::remove_file(p.path("dir0/file8")).unwrap(), 0, 0),
        ("a deleted directory", |p| fs::remove_dir_all(p.path("DIR3")).unwrap(), 0, 0),
        (
            "a file becomes a directory",
            |p| {
                fs::remove_file(p.path("dir0/file0")).unwrap();
                p.write("dir0/file0/in/it", "x");
            },
            3,
            1,
        ),
        (
            "a directory becomes a link",
            |p| {
                fs::remove_dir_all(p.path("dir0")).unwrap();
                symlink("dir1", p.path("dir0")).unwrap();
            },
            1,
            0,
        ),
        (
            "a link becomes a file",
            |p| {
                fs::remove_file(p.path("link")).unwrap();
                p.write("link", "no link");
            },
            1,
            7,
        ),
        (
            "a link leads elsewhere",
            |p| {
                fs::remove_file(p.path("dangling")).unwrap();
                symlink("../..", p.path("dangling")).unwrap();
            },
            1,
            0,
        ),
        (
            "a file becomes a link",
            |p| {
                fs::remove_file(p.path("renamed")).unwrap();
                symlink("renamed", p.path("renamed")).unwrap();
            },
            1,
            0,
        ),
        ("an empty file", |p| fs::write(p.path("nothing"), "").unwrap(), 1, 0),
    ];
    let project = sample();
    sees_the_host(&project, &[]);
    for (what, edit, files, bytes) in edits {
        edit(&project);
        let ended = sees_the_host(&project, &[]);
        assert_eq!(how(&ended), "found", "{what}");
        assert!(uploaded_bytes(&ended) <= bytes, "{what}: {} bytes went up", uploaded_bytes(&ended));
        // Directories above an edit may be set right with it.
        assert!(uploaded(&ended) <= files + 2, "{what}: {} files went up", uploaded(&ended));
        let again = sees_the_host(&project, &[]);
        assert_eq!(uploaded(&again), 0, "{what}: something travels each time");
    }
    project.assert_nothing_left();
}

#[test]
fn explain_says_why_each_file_travels() {
    let project = sample();
    sees_the_host(&project, &[]);
    project.write("dir0/file0", "other").write("new", "x");
    fs::remove_file(project.path("dir1/file1")).unwrap();
    fs::set_permissions(project.path("dir2/file2"), fs::Permissions::from_mode(0o700)).unwrap();
    set_mtime(&project.path("dir3/file3"), 1_500_000_000);
    let ended = json(&project, &["--explain"], "echo x > product");
    let told: Vec<_> = events(ended.exits(0))
        .into_iter()
        .filter(|event| event["event"] == "travelled")
        .map(|event| {
            [&event["direction"], &event["path"], &event["why"]].map(|v| v.as_str().unwrap().to_owned())
        })
        .collect();
    for expected in [
        ["up", "dir0/file0", "content"],
        ["up", "new", "new"],
        ["up", "dir1/file1", "deleted"],
        ["up", "dir2/file2", "mode"],
        ["up", "dir3/file3", "mtime"],
        ["down", "product", "new"],
    ] {
        assert!(told.iter().any(|told| told == &expected), "{expected:?} is missing in {told:#?}");
    }
}

// ---- what is in the workspace is checked ----------------------------------------------------------------------------

#[test]
fn whatever_was_done_to_the_sources_in_the_workspace_is_put_right() {
    let deeds = [
        "echo altered > dir0/file0",
        "printf 'CONTENT of 1\\n' > dir1/file1; touch -d @1700000000 dir1/file1",
        "rm dir2/file2",
        "rm -r dir3",
        "mkdir more; echo x > more/file; echo x > dir0/more; ln -s / dir0/root",
        "chmod 777 dir0/file4; chmod 700 dir1",
        "touch dir0/file8 dir2",
        "mv dir0/file4 dir0/elsewhere; mv dir1 dirx",
        "rm link; echo x > link; rm dangling; mkdir dangling; echo y > dangling/z",
        "rm dir0/file0; mkdir -p dir0/file0/deep/er",
        "ln -f dir0/file8 dir0/file12; echo through >> dir0/file12",
        "rm -rf ..?* .[!.]* *",
        "chown -R 1000:1000 .; chmod -R 000 dir2",
        "mkfifo pipe; rm dir0/file16; mkfifo dir0/file16",
        "rm -r /workspace",
    ];
    let project = sample();
    sees_the_host(&project, &[]);
    for deed in deeds {
        let before = project.tree();
        in_workspace(&project, deed);
        let ended = sees_the_host(&project, &[]);
        assert_eq!(how(&ended), "found", "{deed}");
        assert_eq!(project.tree(), before, "{deed}: the host was changed");
        assert!(uploaded(&sees_the_host(&project, &[])) == 0, "{deed}: something travels each time");
    }
    project.assert_nothing_left();
}

#[test]
fn what_the_command_did_to_the_sources_in_a_failed_build_is_put_right() {
    let project = sample();
    sees_the_host(&project, &[]);
    let before = project.tree();
    json(&project, &[], "rm -r dir0; echo altered > dir1/file1; echo x > new; exit 3").exits(3);
    assert_eq!(project.tree(), before);
    sees_the_host(&project, &[]);
    // What it made is there, as it would lie on a mount, and comes back with a build that succeeds.
    assert_eq!(project.read("new"), "x\n");
    fs::remove_file(project.path("new")).unwrap();
    sees_the_host(&project, &[]);
    assert_eq!(project.tree(), before);
}

#[test]
fn what_is_excluded_stays_in_the_workspace_and_fresh_starts_over() {
    let project = sample();
    let options = ["--exclude", "cache", "-o", "out"];
    let script =
        "mkdir -p cache out; date >> cache/log; echo x >> out/made; wc -l < cache/log; wc -l < out/made";
    let run = |more: &[&str]| json(&project, &[&options, more].concat(), script).exits(0).out();
    assert_eq!(run(&[]), "1\n1\n");
    assert_eq!(run(&[]), "2\n2\n");
    assert_eq!(project.read("out/made"), "x\nx\n");
    assert!(!project.has("cache"));
    // The product is the host's, and goes in.
    assert_eq!(run(&["--fresh"]), "1\n3\n");
    assert_eq!(run(&[]), "2\n4\n");
}

#[test]
fn state_that_is_damaged_cut_short_or_anothers_is_thrown_away() {
    let project = sample();
    let other = sample();
    other.write("dir0/file0", "CONTENT of 0\n");
    set_mtime(&other.path("dir0/file0"), 1_700_000_000);
    for project in [&project, &other] {
        sees_the_host(project, &[]);
        sees_the_host(project, &[]);
    }
    let files = |project: &Project| {
        let dir = fs::read_dir(project.state().join("projects")).unwrap().next().unwrap().unwrap().path();
        let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.is_file() && !path.ends_with("lock"));
        files
    };
    let names: Vec<_> = files(&project).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert!(names.iter().any(|name| name == "index"), "{names:?}");
    for (round, name) in names.iter().enumerate() {
        let path = |project: &Project| files(project)[0].with_file_name(name);
        let whole = fs::read(path(&project)).unwrap();
        let anothers = fs::read(path(&other)).unwrap_or_default();
        let mut flipped = whole.clone();
        if let Some(byte) = flipped.get_mut(whole.len() / 2) {
            *byte ^= 0x40;
        }
        for (what, bytes) in [
            ("cut short", whole[..whole.len() / 2].to_vec()),
            ("flipped", flipped),
            ("empty", Vec::new()),
            ("another project's", anothers),
            ("noise", noise(9, 5_000)),
        ] {
            fs::write(path(&project), bytes).unwrap();
            // An edit that only a digest shows.
            project.write("dir0/file0", format!("Content {:02}0\n", round));
            set_mtime(&project.path("dir0/file0"), 1_700_000_000);
            let ended = json(&project, &[], reports::LIST);
            assert_eq!(
                ended.exits(0).out(),
                reports::host_list(&project),
                "{name:?} {what}: {}",
                ended.err()
            );
        }
    }
}

#[test]
fn the_agents_own_state_may_be_damaged_too() {
    let project = sample();
    sees_the_host(&project, &[]);
    sees_the_host(&project, &[]);
    let files = in_workspace(&project, "ls /.fastbuild");
    assert!(files.contains("index-"), "{files}");
    for damage in ["truncate -s 50 $f", "echo x > $f", ": > $f", "rm -f $f", "rm -f $f; mkdir $f"] {
        let all = format!("for f in /.fastbuild/*; do case $f in */agent) ;; *) {damage};; esac; done");
        in_workspace(&project, &all);
        in_workspace(&project, "printf 'CONTENT of 0\\n' > dir0/file0; touch -d @1700000000 dir0/file0");
        sees_the_host(&project, &[]);
    }
}

// ---- when a workspace is used, and when not -------------------------------------------------------------------------

#[test]
fn no_keep_and_ci_leave_nothing_and_the_workspace_alone() {
    let project = sample();
    let run = |options: &[&str], ci: Option<&str>| {
        let mut command = project.command();
        command.env_remove("FASTBUILD_KEEP").envs(ci.map(|ci| ("CI", ci)));
        command.args(["--progress", "json"]).args(options).args(["--", "true"]);
        let ended = Ended::from(command.output().unwrap());
        how(ended.exits(0))
    };
    assert_eq!(run(&["--no-keep"], None), "made");
    assert_eq!(run(&[], Some("true")), "made");
    project.assert_nothing_left();
    assert_eq!(project.workspace(), None);
    assert_eq!(run(&["--keep"], Some("true")), "made");
    let workspace = project.workspace();
    assert_eq!(run(&["--no-keep"], None), "made");
    assert_eq!(project.workspace(), workspace);
    assert_eq!(run(&[], Some("false")), "found");
    assert_eq!(run(&[], None), "found");
}

#[test]
fn a_workspace_of_which_nothing_is_known_any_more_is_not_taken_for_the_images() {
    let project = sample();
    sees_the_host(&project, &[]);
    for shell_first in [false, true] {
        let marks = fs::read_dir(project.state().join("projects")).unwrap().next().unwrap().unwrap().path();
        for file in fs::read_dir(marks).unwrap().map(|file| file.unwrap().path()) {
            if file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("workspace-")) {
                fs::remove_file(file).unwrap();
            }
        }
        if shell_first {
            project.fastbuild(["workspace", "shell", "--", "true"]).exits(0);
        }
        project.write("dir0/file1", format!("{shell_first}"));
        assert_eq!(how(&sees_the_host(&project, &[])), "found");
    }
}

#[test]
fn a_workspace_that_stopped_is_started_and_one_that_was_removed_is_made() {
    let project = sample();
    json(&project, &["-o", "out"], "mkdir -p out; echo x > out/kept").exits(0);
    docker(&["stop", "--time", "5", &project.workspace().unwrap()]);
    let ended = json(&project, &["-o", "out"], "cat out/kept");
    assert_eq!((ended.exits(0).out(), how(&ended)), ("x\n".into(), "started".into()));
    docker(&["rm", "--force", &project.workspace().unwrap()]);
    let ended = json(&project, &["-o", "out"], "echo new > out/kept");
    assert_eq!(how(ended.exits(0)), "made");
    assert_eq!(project.read("out/kept"), "new\n");
    sees_the_host(&project, &[]);
}

#[test]
fn an_idle_workspace_stops_by_itself_and_is_started_by_the_next_build() {
    let project = sample();
    let mut command = project.command();
    command.env("FASTBUILD_WORKSPACE_IDLE_STOP", "1s").args(["--", "true"]);
    Ended::from(command.output().unwrap()).exits(0);
    let workspace = project.workspace().unwrap();
    eventually("it has stopped", || processes_in(&workspace).is_empty());
    let state = docker(&["inspect", "--format", "{{.State.ExitCode}}", &workspace]);
    assert_eq!(state.trim(), "0");
    assert_eq!(how(&sees_the_host(&project, &[])), "started");
}

#[test]
fn where_the_agent_cannot_run_the_build_goes_without_and_says_why() {
    let image = "fastbuild/test-other-processor:latest";
    load_for_other_processor(BUSYBOX, image);
    let project = sample();
    let ended = json(&project, &["-i", image], "echo x > made");
    assert_eq!(event(ended.exits(0), "without-agent")["why"], "no-agent", "{ended}");
    assert_eq!(project.read("made"), "x\n");
    project.assert_nothing_left();
    docker(&["rmi", image]);
}

// ---- projects and runs at the same time -----------------------------------------------------------------------------

#[test]
fn two_projects_build_at_once_and_two_runs_of_one_do_not() {
    let (one, other) = (sample(), sample());
    let first = Gated::start(&one, &[], "echo first > made");
    sees_the_host(&other, &[]);
    let refused = one.sh(&["--no-wait"], "true");
    refused.exits(125).says(&[&first.run.child().id().to_string(), "echo up"]);
    let mut waits = Watched::start(&one, &[], "cat made; echo second > made");
    waits.until("it waits", |event| event["event"] == "waiting-for-lock");
    first.go_on().exits(0);
    assert_eq!(waits.end().exits(0).out(), "first\n");
    assert_eq!(one.read("made"), "second\n");
    assert_eq!((one.containers().len(), other.containers().len()), (1, 1));
}

// ---- the command's world is that of `docker run` --------------------------------------------------------------------

/// What a command can see of itself, less what differs between any two containers. Signals 32 and 33 are the C library's
/// own, and what is inherited of them depends on who started whom.
const WORLD: &str = "env | grep -v ^HOSTNAME= | sort; id; pwd; umask; ulimit -a; nice; \
    ls /proc/self/fd | wc -l; readlink /proc/self/fd/0; grep -E '^(Sig(Ign|Blk)|Cap|NoNewPrivs|Seccomp)' /proc/self/status | sed 's/0000000[01][08]/-/'; \
    grep -v '^Limit' /proc/self/limits; stat -c '%n %A %u %g' /tmp /dev/null /dev/shm; cat /proc/mounts | awk '{print $2, $3}' | sort";

#[test]
fn the_command_sees_what_docker_run_would_show_it() {
    for image in [BUSYBOX, NONROOT, FILLED] {
        for user in [None, Some("app"), Some("1234:4321"), Some("0:0")] {
            let user: Vec<_> = user.into_iter().flat_map(|user| ["-u", user]).collect();
            let project = Project::with_image(image).keeping(Lifetime::Kept);
            let ended = project.sh(&[&["-q"], user.as_slice()].concat(), WORLD);
            let like = ["run", "--rm", "-w", "/workspace"];
            let words = [like.as_slice(), &user, &[image, "sh", "-c", WORLD]].concat();
            let docker = Command::new("docker").args(words).stdin(Stdio::null()).output().unwrap();
            let (ours, theirs) = (ended.exits(0).out(), Ended::from(docker).exits(0).out());
            let differ = |ours: &str, theirs: &str| {
                let only = |a: &str, b: &str| -> Vec<String> {
                    a.lines()
                        .filter(|line| !b.lines().any(|other| other == *line))
                        .map(str::to_owned)
                        .collect()
                };
                (only(ours, theirs), only(theirs, ours))
            };
            assert_eq!(differ(&ours, &theirs), (vec![], vec![]), "{image} {user:?}: ours, then docker's");
        }
    }
}

#[test]
fn the_images_entry_point_is_run_and_can_be_replaced() {
    let project = Project::with_image(ENTRYPOINT).keeping(Lifetime::Kept);
    let ended = project.fastbuild(["-q", "--", "echo", "a b", "c"]);
    assert_eq!(ended.exits(0).out(), "entrypoint: echo a b c\na b c\n");
    let ended = project.fastbuild(["-q", "--entrypoint", "", "--", "echo", "a b"]);
    assert_eq!(ended.exits(0).out(), "a b\n");
    let ended = project.fastbuild(["-q", "--entrypoint", "/bin/echo", "--", "a", "b"]);
    assert_eq!(ended.exits(0).out(), "a b\n");
}

#[test]
fn an_image_of_one_static_program_and_one_of_an_ordinary_user_are_warm() {
    let project = Project::with_image(EMPTY).keeping(Lifetime::Kept);
    project.write("in", "text\n");
    for expected in ["made", "found"] {
        let ended = project.fastbuild(["--progress", "json", "--", "/busybox", "cp", "in", "out"]);
        assert_eq!(how(ended.exits(0)), expected, "{ended}");
    }
    assert_eq!(project.read("out"), "text\n");

    let project = Project::with_image(NONROOT).keeping(Lifetime::Kept);
    project.write("dir/in", "text\n").write("stays", "");
    let script = "id -un; echo more >> dir/in; mkdir dir/sub; echo x > dir/sub/new; stat -c %U dir/in .";
    assert_eq!(project.sh(&["-q"], script).exits(0).out(), "app\napp\napp\n");
    assert_eq!(project.read("dir/in"), "text\nmore\n");
    assert_eq!(project.sh(&["-q"], "cat dir/sub/new; rm -r dir").exits(0).out(), "x\n");
    assert!(!project.has("dir"));
    project.assert_nothing_left();
}

#[test]
fn what_the_command_leaves_running_is_dead_when_fastbuild_returns() {
    let project = sample();
    let script =
        "setsid sh -c 'sleep 1; echo late > late; while :; do sleep 1; done' & (sleep 100 &) & echo x > made";
    json(&project, &[], script).exits(0);
    let workspace = project.workspace().unwrap();
    assert_eq!(processes_in(&workspace), ["/.fastbuild/agent init"]);
    assert_eq!(project.read("made"), "x\n");
    assert!(!project.has("late"));
}
