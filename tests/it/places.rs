//! Where outputs go: what a trailing slash means, and places that cannot be written.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::common::{Ended, Lifetime, Project, SOCKET};

/// Who is neither root nor the owner of anything.
const GUEST: u32 = 4242;
/// A group that the guest is in.
const TEAM: u32 = 4343;

const KEEPS: [Lifetime; 2] = [Lifetime::OneRun, Lifetime::Kept];

#[test]
fn a_trailing_slash_follows_a_link_to_a_directory() {
    let script = "mkdir -p build-1; echo x > build-1/x; ln -sfn build-1 latest";
    for keep in KEEPS {
        let project = Project::new().keeping(keep);
        project.sh(&["-o", "latest/:got"], script).exits(0);
        assert_eq!(project.read("got/x"), "x\n", "under another name, {keep:?}");
        project.sh(&["-o", "latest/:into/"], script).exits(0);
        assert_eq!(project.read("into/latest/x"), "x\n", "into a directory, {keep:?}");
        project.sh(&["-o", "latest/"], script).exits(0);
        assert_eq!(project.read("latest/x"), "x\n", "in its own place, {keep:?}");
        assert!(project.path("latest").symlink_metadata().unwrap().is_dir(), "{keep:?}");
        assert!(!project.has("build-1"), "{keep:?}");
        project.assert_nothing_left();
    }
}

#[test]
fn a_link_to_a_directory_is_followed_whatever_it_is_called() {
    for keep in KEEPS {
        let project = Project::new().keeping(keep);
        let script =
            "mkdir -p build-1; echo x > build-1/x; ln -sfn build-1 'o\\dd'; ln -sfn build-1 'two\nlines'";
        project.sh(&["-o", "o\\dd/", "-o", "two\nlines/"], script).exits(0);
        assert_eq!(project.read("o\\dd/x"), "x\n", "{keep:?}");
        assert_eq!(project.read("two\nlines/x"), "x\n", "{keep:?}");
    }
}

#[test]
fn a_pattern_brings_back_what_it_matches_and_the_way_there() {
    for keep in KEEPS {
        let project = Project::new().keeping(keep);
        project.write("a.c", "").write("old.o", "").write("sub/b.c", "").write("sub/gone.o", "");
        let script = "echo a > a.o; echo b > sub/b.o; echo > a.log; echo more >> a.c; rm sub/gone.o
            mkdir -p new/way empty; echo c > new/way/c.o; echo > new/way/c.log; mkdir all.o; echo > all.o/x";
        let ended = project.sh(&["-o", "**/*.o"], script);
        ended.exits(0).says(&["a.c", "a.log", "empty"]);
        let there = project.tree().paths();
        let expected = [
            "a.c",
            "a.o",
            "all.o",
            "all.o/x",
            "new",
            "new/way",
            "new/way/c.o",
            "old.o",
            "sub",
            "sub/b.c",
            "sub/b.o",
        ];
        assert_eq!(there, expected, "{keep:?}");
        assert_eq!(project.read("a.c"), "", "{keep:?}");
        if keep == Lifetime::Kept {
            // What did not match is a leftover, and what did is the host's.
            fs::remove_file(project.path("a.o")).unwrap();
            let left = project.sh(&["-o", "*.log"], "ls a.o new/way/c.log").exits(1).out();
            assert_eq!(left, "new/way/c.log\n");
            project.sh(&["-o", "*.log"], "true").exits(0);
            assert!(project.has("a.log") && !project.has("new/way/c.log"));
        }
    }
}

#[test]
fn patterns_stand_beside_other_outputs_and_each_has_to_match_something() {
    for keep in KEEPS {
        let project = Project::new().keeping(keep);
        let script = "mkdir -p dist/deep; echo > dist/deep/x.o; echo > dist/y; echo > z.o; echo > z.a";
        project.sh(&["-o", "**/*.o", "-o", "dist"], script).exits(0);
        assert_eq!(
            project.tree().paths(),
            ["dist", "dist/deep", "dist/deep/x.o", "dist/y", "z.o"],
            "{keep:?}"
        );
        let ended = project.sh(&["-o", "*.o", "-o", "*.so"], "echo more > z.o");
        ended.exits(125).says(&["the build did not make \"*.so\""]);
        assert_eq!(project.read("z.o"), "\n", "nothing came back, {keep:?}");
        project.assert_nothing_left();
    }
}

#[test]
fn of_a_file_with_several_names_those_that_match_come_back_as_one_file() {
    for keep in KEEPS {
        let project = Project::new().keeping(keep);
        let script = "echo x > a; ln a b.o; ln a c.o; ln a d.txt";
        project.sh(&["-o", "*.o"], script).exits(0);
        assert_eq!(project.tree().paths(), ["b.o", "c.o"], "{keep:?}");
        let inode = |name: &str| project.path(name).metadata().unwrap().ino();
        assert_eq!(inode("b.o"), inode("c.o"), "{keep:?}");
        project.assert_nothing_left();
    }
}

#[test]
fn what_is_called_like_a_pattern_is_no_pattern() {
    for keep in KEEPS {
        let project = Project::new().keeping(keep);
        project.sh(&["-o", "[id].js"], "echo > '[id].js'; echo > i.js").exits(0);
        assert_eq!(project.tree().paths(), ["[id].js"], "made by the command, {keep:?}");
        project.sh(&["-o", "[id].js"], "echo 2 > '[id].js'; echo 2 > d.js").exits(0);
        assert_eq!(project.tree().paths(), ["[id].js"], "here before, {keep:?}");
        project.sh(&["-o", "[ab].js"], "echo > a.js; echo > c.js").exits(0);
        assert_eq!(project.tree().paths(), ["[id].js", "a.js"], "a pattern, {keep:?}");
    }
}

#[test]
fn a_pattern_takes_nothing_out_of_what_is_kept() {
    let project = Project::kept();
    let script = "mkdir -p target; echo > target/x.o; echo > y.o";
    project.sh(&["--keep-path", "target", "-o", "**/*.o"], script).exits(0);
    assert_eq!(project.tree().paths(), ["y.o"]);
}

#[test]
fn a_directory_named_with_a_slash_is_synced_as_one_without() {
    for keep in KEEPS {
        let project = Project::new().keeping(keep);
        project.write("dist/mine", "a source");
        let script = "cat dist/mine; echo new > dist/new; rm -f dist/old";
        project.write("dist/old", "").sh(&["-o", "dist/"], script).exits(0);
        assert_eq!(project.tree().paths(), ["dist", "dist/mine", "dist/new"], "{keep:?}");
        let again = project.sh(&["-o", "dist/"], "cat dist/mine dist/new");
        assert_eq!(again.exits(0).out(), "a sourcenew\n", "it went up, {keep:?}");
    }
}

#[test]
fn a_slash_behind_what_is_no_directory_brings_nothing_back() {
    for keep in KEEPS {
        let project = Project::new().keeping(keep);
        project.sh(&["-o", "app/"], "echo file > app").exits(125).says(&["did not make \"app/\""]);
        project.sh(&["-o", "app/"], "ln -sfn nowhere app").exits(125).says(&["did not make \"app/\""]);
        assert_eq!(project.tree().paths(), [""; 0], "{keep:?}");
    }
}

#[test]
fn the_users_link_in_the_place_of_a_directory_is_refused_before_the_build() {
    let project = Project::new();
    project.write("real/x", "");
    std::os::unix::fs::symlink("real", project.path("latest")).unwrap();
    let ended = project.sh(&["-o", "latest/"], "echo ran");
    ended.exits(125).says(&["is a symbolic link", "name its target"]);
    assert_eq!(ended.out(), "");
}

/// Runs `fastbuild OPTIONS… -- sh -c SCRIPT` as an ordinary user in a project that stays root's, but for what that user is given.
fn as_guest(project: &Project, given: &[&str], options: &[&str], script: &str) -> Ended {
    let own = |path: PathBuf| std::os::unix::fs::chown(path, Some(GUEST), Some(GUEST)).unwrap();
    for name in ["home", "state"] {
        fs::create_dir_all(project.outside().join(name)).unwrap();
        own(project.outside().join(name));
    }
    given.iter().for_each(|path| own(project.path(path)));
    let as_root = project.command();
    let engine = fs::metadata(SOCKET).unwrap().gid();
    let mut command = Command::new("setpriv");
    command.args([
        format!("--reuid={GUEST}"),
        format!("--regid={GUEST}"),
        format!("--groups={engine},{TEAM}"),
    ]);
    command
        .arg(as_root.get_program())
        .args(as_root.get_args())
        .args(options)
        .args(["--", "sh", "-c", script]);
    command.current_dir(project.root()).env_clear().stdin(Stdio::null());
    command.envs(as_root.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Ended::from(command.output().unwrap())
}

#[test]
fn an_output_that_cannot_be_written_is_an_error_before_the_build() {
    let project = Project::new();
    project.write("dist/old", "root made it");
    for options in [&["-o", "out"][..], &["-o", "dist"], &["-o", "/tmp/x:sub/x"], &["-o", "."]] {
        let ended = as_guest(&project, &[], options, "echo ran; mkdir -p out dist; echo x > dist/old");
        ended.exits(125).says(&["cannot be written", "-o PATH:HOST"]);
        assert_eq!(ended.out(), "", "{options:?}");
    }
    // The root is the guest's, and the output is not.
    let ended = as_guest(&project, &["."], &["-o", "dist"], "echo ran");
    ended.exits(125).says(&["dist", "cannot be written"]);
    as_guest(&project, &["."], &["-o", "out"], "echo x > out").exits(0);
    assert_eq!(project.read("out"), "x\n");
}

#[test]
fn a_command_that_changes_nothing_in_a_tree_that_cannot_be_written_has_its_own_exit_code() {
    for keep in KEEPS {
        let project = Project::new().keeping(keep);
        project.write("a", "data");
        for code in [0, 7] {
            let ended = as_guest(&project, &[], &[], &format!("cat a; exit {code}"));
            ended.exits(code).says(&["may not be written by this user"]);
            assert_eq!(ended.out(), "data");
        }
        project.assert_nothing_left();
    }
}

#[test]
fn what_a_command_changes_in_a_tree_that_cannot_be_written_goes_to_the_safe_place() {
    for options in [&["--no-keep"][..], &["--keep"], &["--no-agent"]] {
        let project = Project::kept();
        project.write("src/a", "old").write("src/b", "");
        let before = project.tree();
        let ended = as_guest(&project, &[], options, "echo new > src/a; echo app > app; rm src/b");
        ended.exits(125).says(&["paths in", "may not write", "what it made is in", "-o PATH:HOST"]);
        assert_eq!(project.tree(), before, "{options:?}");
        let err = ended.err();
        let place = PathBuf::from(err.split_once("is in \"").unwrap().1.split_once('"').unwrap().0);
        assert_eq!(fs::read_to_string(place.join("src/a")).unwrap(), "new\n", "{options:?}");
        assert_eq!(fs::read_to_string(place.join("app")).unwrap(), "app\n", "{options:?}");
        project.assert_nothing_left();
        let again = as_guest(&project, &[], options, "cat src/a; ls src");
        assert_eq!(again.exits(0).out(), "olda\nb\n", "the next build sees the tree, {options:?}");
    }
}

#[test]
fn what_comes_back_gets_the_group_that_a_set_gid_directory_hands_on() {
    for atomic in [false, true] {
        let project = Project::new();
        project.write("ours/old", "");
        let (root, ours) = (project.root(), project.path("ours"));
        for path in [&root, &ours] {
            std::os::unix::fs::chown(path, Some(GUEST), Some(TEAM)).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o2775)).unwrap();
        }
        fs::create_dir(project.path("mine")).unwrap();
        std::os::unix::fs::chown(project.path("mine"), Some(GUEST), Some(GUEST)).unwrap();
        let options = if atomic { &["--atomic", "-o", "ours"][..] } else { &[] };
        let script = "mkdir -p ours/new/deep mine; chmod 775 ours; touch ours/new/deep/x ours/y mine/z";
        as_guest(&project, &[], options, script).exits(0);
        for path in ["ours", "ours/new", "ours/new/deep", "ours/new/deep/x", "ours/y"] {
            let found = fs::metadata(project.path(path)).unwrap();
            assert_eq!(found.gid(), TEAM, "{path}");
            assert_eq!(found.mode() & 0o2000 != 0, found.is_dir(), "{path} is {:o}", found.mode());
        }
        if !atomic {
            assert_eq!(fs::metadata(project.path("mine/z")).unwrap().gid(), GUEST);
        }
    }
}

#[test]
fn a_product_that_its_owner_may_not_read_is_compared_and_replaced() {
    for options in [&["--no-keep"][..], &["--keep"], &["--no-agent"], &["--no-keep", "-o", "rootfs:there"]] {
        let project = Project::kept();
        let output = if options.contains(&"-o") { &[][..] } else { &["-o", "rootfs"] };
        let place = if output.is_empty() { "there/etc" } else { "rootfs/etc" };
        for content in [1, 1, 2] {
            let script = format!(
                "mkdir -p rootfs/etc; rm -f rootfs/etc/shadow; echo {content} > rootfs/etc/shadow; chmod 000 rootfs/etc/shadow"
            );
            let ended = as_guest(&project, &["."], &[options, output].concat(), &script);
            assert!(!ended.exits(0).err().contains("warning"), "{options:?} {ended}");
            assert_eq!(project.read(format!("{place}/shadow")), format!("{content}\n"), "{options:?}");
            assert_eq!(fs::read_dir(project.path(place)).unwrap().count(), 1, "{options:?}");
        }
    }
}

#[test]
fn sources_that_cannot_be_read_are_all_named_with_what_leaves_them_out() {
    for options in [&["--no-keep"][..], &["--keep"], &["--no-agent"]] {
        let project = Project::kept();
        project.write("a/key", "").write("b", "").write("c", "");
        for path in ["a/key", "b"] {
            fs::set_permissions(project.path(path), fs::Permissions::from_mode(0o600)).unwrap();
        }
        let ended = as_guest(&project, &["."], options, "true");
        ended.exits(125).says(&["2 sources cannot be read", "a/key, b", "--exclude a/key --exclude b"]);
        let left_out = [options, &["--exclude", "a/key", "--exclude", "b"]].concat();
        as_guest(&project, &["."], &left_out, "true").exits(0);
    }
}
