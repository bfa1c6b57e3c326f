//! `mount` and `mount-source`: nothing goes in, and outputs, exit code and rules are those of every other route.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
};

use crate::common::cache::Cache;
use crate::common::{Project, docker, read_until};

/// What is mounted below the working directory, a line each.
const MOUNTS: &str = "grep ' /workspace' /proc/mounts";

#[test]
fn on_mount_the_command_works_on_the_hosts_own_files() {
    let project = Project::new();
    project.write("a", "old").write("gone", "x");
    let inode = fs::metadata(project.path("a")).unwrap().ino();
    let ended = project
        .sh(&["--route", "mount"], "stat -c %i a; echo new >a; rm gone; mkdir d; echo made >d/b; exit 3");
    ended.exits(3);
    assert_eq!(ended.out(), format!("{inode}\n"));
    assert_eq!((project.read("a"), project.read("d/b")), ("new\n".into(), "made\n".into()));
    assert!(!project.has("gone"));
    project.assert_nothing_left();
}

#[test]
fn what_the_plan_of_a_mounted_route_says_holds() {
    for route in ["mount", "mount-source"] {
        let project = Project::new();
        project.write(".fastbuildignore", "left-out\n").write("left-out", "seen").write("out/old", "old");
        let options = ["--keep", "--route", route, "-o", "out"];
        let plan = project.fastbuild(["plan", "--json"].iter().chain(&options).chain(&["--", "sh"]));
        let plan: serde_json::Value = serde_json::from_slice(&plan.exits(0).stdout).unwrap();
        assert_eq!(
            (plan["lifetime"]["value"].as_str(), &plan["upload"]),
            (Some("one-run"), &serde_json::Value::Null)
        );
        assert_eq!(plan["ignore"]["patterns"], serde_json::json!([]));
        let ended =
            project.sh(&options, "cat left-out; cat out/old; mkdir -p out && echo x > out/made; exit 3");
        // On mount-source an output is a directory of the engine's own, which begins empty.
        assert_eq!(ended.exits(3).out(), if route == "mount" { "seenold" } else { "seen" });
        let undone = plan["on_failure"]["reason"]["why"] == "a failed build leaves this machine as it was";
        assert_eq!(project.has("out/made"), !undone, "{plan}");
        assert_eq!(project.containers(), [""; 0]);
    }
}

#[test]
fn on_mount_an_output_that_is_in_its_place_stays_and_any_other_comes_back() {
    let project = Project::new();
    project.write("out/old", "old");
    let options = ["--route", "mount", "-o", "out", "-o", "elsewhere:here", "-o", "/tmp/far:far"];
    project
        .sh(&options, "rm -r out; mkdir out; echo 1 >out/new; echo 2 >elsewhere; echo 3 >/tmp/far")
        .exits(0);
    assert_eq!(project.tree().paths(), ["elsewhere", "far", "here", "out", "out/new"]);
    assert_eq!((project.read("here"), project.read("far")), ("2\n".into(), "3\n".into()));
}

#[test]
fn what_a_command_makes_and_changes_in_the_mounted_tree_belongs_to_whoever_runs_fastbuild() {
    let project = Project::new();
    let outside = project.outside().join("outside");
    project
        .write("a", "a")
        .write("foreign", "f")
        .write("written", "w")
        .write("shared", "s")
        .write("group/x", "x")
        .write("own-group", "g");
    fs::write(&outside, "o").unwrap();
    fs::hard_link(project.path("shared"), project.outside().join("other-name")).unwrap();
    project.as_nobody(&["--route", "mount"], "true").exits(0);
    for path in ["foreign", "written", "shared"] {
        chown(project.path(path), Some(1), Some(1)).unwrap();
    }
    for path in ["group", "own-group"] {
        chown(project.path(path), None, Some(77)).unwrap();
    }
    fs::set_permissions(project.path("group"), fs::Permissions::from_mode(0o2775)).unwrap();
    chown(&outside, Some(1), Some(1)).unwrap();
    let script = "mkdir -p out/deep; cp a out/deep/a; chmod 4750 out/deep/a; ln out/deep/a out/b; ln -s ../../outside out/link; \
                  mkfifo out/fifo; echo >>written; echo >>shared; echo >>own-group; touch group/made; chown 5:5 a; exit 3";
    project.still_as_nobody(&["--route", "mount"], script).exits(3);
    let owner = |path: &str| {
        let found = project.path(path).symlink_metadata().unwrap();
        (found.uid(), found.gid())
    };
    for path in ["out", "out/deep", "out/deep/a", "out/b", "out/link", "out/fifo", "written", "a"] {
        assert_eq!(owner(path), (65534, 65534), "{path}");
    }
    assert_eq!(owner("group/made"), (65534, 77), "the directory hands its group on");
    assert_eq!(owner("own-group"), (65534, 77), "it was the user's, with a group of his choice");
    assert_eq!(owner("foreign"), (1, 1), "it was not touched");
    assert_eq!(owner("shared"), (1, 1), "it has a name that is not of this tree");
    assert_eq!(owner("../outside"), (1, 1), "links are not followed");
    let mode = |path: &str| project.path(path).symlink_metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode("out/deep/a"), mode("group")), (0o750, 0o2775));
    // And any other route goes on from there.
    project.still_as_nobody(&["-q", "-o", "out"], "rm out/fifo; echo 2 >out/deep/a").exits(0);
    assert_eq!(project.read("out/deep/a"), "2\n");
    project.assert_nothing_left();
}

#[test]
fn a_cache_in_a_mounted_tree_is_the_builds_and_leaves_no_directory_here() {
    let project = Project::new();
    project.write("a", "a").write("there/x", "the host's");
    for route in ["mount", "mount-source"] {
        let cache = Cache::new(&project, route);
        let places = [cache.at("deep/modules"), cache.shared_at("there")];
        let options = ["--route", route, "-o", "out", "--cache", &places[0], "--cache", &places[1]];
        let script = "mkdir -p out; cat deep/modules/kept 2>/dev/null; ls there; echo $0 >deep/modules/kept; echo >out/$0";
        assert_eq!(project.as_nobody(&options, script).exits(0).out(), "", "{route}");
        assert_eq!(project.as_nobody(&options, script).exits(0).out(), "sh\n", "{route}");
        assert_eq!(project.tree().paths(), ["a", "out", "out/sh", "there", "there/x"], "{route}");
        assert_eq!(project.path("there/x").metadata().unwrap().uid(), 65534);
        project.assert_nothing_left();
    }
    project.write("file", "f");
    let ended = project.sh(&["--route", "mount-source", "-o", "out", "--cache", "c:file"], "true");
    ended.exits(125).says(&["\"c\"", "laid over", "file", "--route layer"]);
}

#[test]
fn what_is_kept_lies_over_sources_that_are_mounted_read_only() {
    let project = Project::new();
    project.write("a", "a").write("target/mine", "the host's").write("lib/x", "x").write("state", "a file");
    project.write(
        "fastbuild.toml",
        "keep = [\"target\", \"lib/gen\", \"**/tmp\", \"state\", \"dist/cache\", \"*.log\"]\n",
    );
    let before = project.tree();
    let options = ["--route", "mount-source", "-o", "dist", "-o", "target/app"];
    let script = "ls target; for d in target lib/gen tmp dist/cache; do echo >$d/new || exit 1; done; cat state; echo >dist/a; \
                  echo >target/app/b";
    assert_eq!(project.sh(&options, script).exits(0).out(), "app\na file");
    let made: Vec<_> =
        project.tree().paths().into_iter().filter(|path| !before.paths().contains(path)).collect();
    assert_eq!(made, ["dist", "dist/a", "target/app", "target/app/b"]);
    assert_eq!(project.read("target/mine"), "the host's");
    project.sh(&options, "echo >state").exits(1).says(&["could not write state", "--route layer"]);
    let plan = project.fastbuild(["plan", "-v"].iter().chain(&options).chain(&["--", "sh"]));
    let plan = plan.exits(0).out();
    let kept: Vec<_> =
        plan.lines().filter_map(|line| line.strip_prefix("keeps ")?.split_whitespace().next()).collect();
    assert_eq!(kept, ["dist/cache", "lib/gen", "state", "target", "tmp"]);
    project.assert_nothing_left();
}

#[test]
fn what_a_preset_keeps_lies_over_mounted_sources_unless_git_tracks_files_there() {
    let project = Project::new();
    project.write("bin/jekyll", "#!/bin/sh\necho >$3/.jekyll-cache/x && echo >_site/made\n");
    project.write("docs/index.html", "");
    fs::set_permissions(project.path("bin/jekyll"), fs::Permissions::from_mode(0o755)).unwrap();
    let build = |source: &str| {
        project.fastbuild(["--route", "mount-source", "--", "bin/jekyll", "build", "-s", source])
    };
    for source in [".", "docs"] {
        build(source).exits(0);
    }
    let made = ["_site", "_site/made", "bin", "bin/jekyll", "docs", "docs/index.html"];
    assert_eq!(project.tree().paths(), made);
    project.write("docs/.jekyll-cache/tracked", "t");
    for args in [&["init", "-q"][..], &["add", "docs"]] {
        let git = std::process::Command::new("git").args(args).current_dir(project.root()).status();
        assert!(git.unwrap().success());
    }
    build("docs").exits(1).says(&["could not write docs/.jekyll-cache/x"]);
}

#[test]
fn an_output_that_is_not_there_is_missing_on_every_route() {
    let project = Project::new();
    project.write("a", "a");
    for route in ["mount", "mount-source"] {
        let options = ["--route", route, "-o", if route == "mount" { "nothing" } else { "/nothing" }];
        project.sh(&options, "true").exits(125).says(&["did not make", "nothing"]);
    }
    assert_eq!(project.tree().paths(), ["a"]);
}

#[test]
fn on_mount_source_nothing_but_outputs_can_be_written() {
    let project = Project::new();
    project.write("src/a", "a").write("dist/old", "old");
    let ended = project.sh(&["--route", "mount-source", "-o", "dist", "-o", "deep/er/out"], MOUNTS);
    ended.exits(0);
    let mounts = ended.out();
    let options = |place: &str| {
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(place));
        line.and_then(|line| line.split(' ').nth(3)).unwrap_or_default().to_owned()
    };
    assert!(options("/workspace").starts_with("ro"), "{mounts}");
    assert!(options("/workspace/dist").starts_with("rw"), "{mounts}");
    assert!(options("/workspace/deep/er/out").starts_with("rw"), "{mounts}");

    let script = "ls dist; mkdir -p dist/sub; cat src/a >dist/sub/copy; echo deep >deep/er/out/b";
    let ended = project.sh(&["--route", "mount-source", "-o", "dist", "-o", "deep/er/out"], script);
    ended.exits(0);
    assert_eq!(ended.out(), "", "the build starts without the old outputs");
    assert_eq!(
        project.tree().paths(),
        [
            "deep",
            "deep/er",
            "deep/er/out",
            "deep/er/out/b",
            "dist",
            "dist/old",
            "dist/sub",
            "dist/sub/copy",
            "src",
            "src/a"
        ],
        "what fastbuild did not make stays"
    );
    project.assert_nothing_left();
}

#[test]
fn what_a_build_does_not_make_again_stays_and_what_is_right_is_not_touched() {
    let project = Project::new();
    project.write("a", "a");
    let options = ["--route", "mount-source", "-o", "dist"];
    project.sh(&options, "echo 1 >dist/one; echo 2 >dist/two").exits(0);
    let inode = |path: &str| fs::metadata(project.path(path)).unwrap().ino();
    let before = inode("dist/one");
    project.sh(&options, "echo 1 >dist/one; echo 3 >dist/three").exits(0);
    assert_eq!(project.tree().paths(), ["a", "dist", "dist/one", "dist/three", "dist/two"]);
    assert_eq!(inode("dist/one"), before);
    // And the next route goes on from there.
    let ended = project.sh(&["--route", "layer", "-o", "dist"], "cd dist; ls; rm one two; echo 4 >four");
    assert_eq!(ended.exits(0).out(), "one\nthree\ntwo\n");
    assert_eq!(project.tree().paths(), ["a", "dist", "dist/four", "dist/three"]);
    assert_eq!(project.safe(), [], "a build had made them");
}

#[test]
fn a_write_beside_the_outputs_is_told_with_its_path_and_the_host_stays_as_it_was() {
    let project = Project::new();
    project.write("cache/x", "x");
    let before = project.tree();
    for (script, path) in [
        ("echo y >cache/x", "cache/x"),
        ("cd cache && touch /workspace/new", "new"),
        ("rm -r cache", "cache"),
        ("mkdir build", "build"),
        ("echo x >log.txt", "log.txt"),
    ] {
        let ended = project.sh(&["--route", "mount-source", "-o", "dist"], script);
        ended.exits(1).says(&[
            &format!("could not write {path}"),
            "read-only",
            "-o",
            "--route layer or mount",
        ]);
    }
    assert!(project.tree() == before, "{:?}", project.tree());
    project.assert_nothing_left();
}

#[test]
fn the_images_own_user_can_write_its_outputs() {
    let project = Project::with_image("fastbuild/test-nonroot");
    project.write("a", "a");
    let ended = project.sh(&["--route", "mount-source", "-o", "dist"], "id -un; cp a dist/b");
    ended.exits(0);
    assert_eq!((ended.out(), project.read("dist/b")), ("app\n".into(), "a".into()));
    assert_eq!(fs::metadata(project.path("dist/b")).unwrap().uid(), rustix::process::getuid().as_raw());
}

#[test]
fn an_output_that_is_no_directory_cannot_be_laid_over() {
    let project = Project::new();
    project.write("file", "f");
    symlink("file", project.path("link")).unwrap();
    let before = project.tree();
    project
        .sh(&["--route", "mount-source", "-o", "file"], "true")
        .exits(125)
        .says(&["laid over", "--route layer"]);
    project
        .sh(&["--route", "mount-source"], "true")
        .exits(125)
        .says(&["name each directory that the command writes", "-o"]);
    assert!(project.tree() == before);
    project.assert_nothing_left();
}

#[test]
fn what_was_made_for_a_killed_build_goes_with_the_next_one() {
    let project = Project::new();
    project.write("a", "a");
    let mut child =
        project.start(&["--route", "mount-source", "-o", "deep/out"], "echo ready; cat /dev/zero >/dev/null");
    read_until(child.stdout.as_mut().unwrap(), "ready");
    assert!(project.has("deep/out"));
    let volumes = || {
        docker(&["volume", "ls", "-q", "--filter", &format!("label=dev.fastbuild.project={}", project.key())])
    };
    assert_eq!(volumes().lines().count(), 1, "a volume without a name is labelled, too");
    child.kill().unwrap();
    child.wait().unwrap();
    crate::common::eventually("the reaper is done", || project.containers().is_empty());
    project.sh(&["--route", "layer", "-o", "/etc/hostname:"], "true").exits(125);
    project.sh(&["--route", "mount"], "true").exits(0);
    assert_eq!(project.tree().paths(), ["a"]);
    assert_eq!(volumes(), "");
    project.assert_nothing_left();
}

#[test]
fn a_route_that_this_engine_cannot_do_is_an_error_that_names_those_it_can() {
    let project = Project::new();
    project.write("a", "a");
    for route in ["mount", "mount-source"] {
        let options = ["--route", route, "-H", "tcp://192.0.2.1:2375", "-o", "dist"];
        let ended = project.sh(&options, "true");
        ended.exits(125).says(&["another machine", "layer, tmpfs, volume"]);
    }
    project.sh(&["--engine", "docker", "--route", "host"], "true").exits(125).says(&["do not go together"]);
    project
        .sh(&["--route", "fast"], "true")
        .exits(125)
        .says(&["auto, layer, tmpfs, volume, mount-source, mount, host"]);
    project.sh(&["--tmpfs-size", "1g"], "true").exits(125).says(&["--tmpfs-size is for --route tmpfs"]);
}

#[test]
fn an_engine_that_sees_other_files_at_that_path_builds_nothing() {
    // A mount namespace of its own hides the project from the engine, as a container around fastbuild does.
    let project = Project::new();
    project.write("a", "from here");
    let hidden = project.outside().join("hidden");
    fs::create_dir(&hidden).unwrap();
    fs::write(hidden.join("a"), "somebody else's").unwrap();
    let mut inside = std::process::Command::new("unshare");
    let script = "mount --bind \"$0\" \"$1\" && cd \"$1\" && shift && exec \"$@\"";
    inside.args(["--mount", "sh", "-c", script]).arg(&hidden).arg(project.root());
    let fastbuild = project.command();
    inside
        .arg(fastbuild.get_program())
        .envs(fastbuild.get_envs().filter_map(|(name, value)| Some((name, value?))));
    inside.args(["--route", "mount", "--", "sh", "-c", "echo written >a"]);
    let ended = crate::common::Ended::from(inside.output().unwrap());
    ended.exits(125).says(&["cannot mount the source root", "--route layer"]);
    assert_eq!(project.read("a"), "from here");
    assert_eq!(
        docker(&["ps", "-aq", "--filter", &format!("label=dev.fastbuild.project={}", project.key())]),
        ""
    );
}
