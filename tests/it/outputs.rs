//! Rules 4 and 5: the host changes only when everything has arrived, and only where no other party decides.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::common::{Ended, Lifetime, Project, Tree, read_until};

/// Inode and mtime in nanoseconds: both stay the same exactly when the file is neither written to nor replaced.
fn untouched(path: impl AsRef<Path>) -> (u64, i64, i64) {
    let metadata = path.as_ref().symlink_metadata().unwrap();
    (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
}

fn mode(path: impl AsRef<Path>) -> u32 {
    path.as_ref().symlink_metadata().unwrap().mode() & 0o7777
}

fn link(path: impl AsRef<Path>) -> String {
    fs::read_link(path).unwrap().to_string_lossy().into_owned()
}

/// The contents of all that was moved to safety.
fn saved(project: &Project) -> Vec<String> {
    project.safe().into_iter().map(|(_, content)| content).collect()
}

fn owned<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.map(|(path, content)| (path.to_owned(), content.to_owned())).to_vec()
}

// ---- everything that changed --------------------------------------------------------------------------------------

fn without_outputs_all_that_the_build_made_changed_and_deleted_comes_back(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("keep", "kept").write("change", "old").write("delete", "x").write("gone/a/b", "x");
    project.write("mode", "m");
    symlink("keep", project.path("retarget")).unwrap();
    project
        .sh(
            &["-q"],
            "echo new > change; rm delete; rm -r gone; mkdir -p made/deep/empty; echo p > made/deep/p; \
             chmod 755 mode; ln -sfn made retarget; ln -s /nowhere/at/all dangling; chmod 750 made",
        )
        .exits(0);
    let tree = project.tree();
    assert_eq!(
        tree.paths(),
        [
            "change",
            "dangling",
            "keep",
            "made",
            "made/deep",
            "made/deep/empty",
            "made/deep/p",
            "mode",
            "retarget"
        ]
    );
    assert_eq!((project.read("change"), project.read("keep")), ("new\n".into(), "kept".into()));
    assert_eq!((mode(project.path("mode")), mode(project.path("made"))), (0o755, 0o750));
    assert_eq!(link(project.path("retarget")), "made");
    assert_eq!(link(project.path("dangling")), "/nowhere/at/all");
    project.assert_nothing_left();
}

fn what_is_made_again_with_the_same_bytes_is_not_touched_here_unless_a_source_is_newer(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("touched", "same").write("rewritten", "same").write("mode", "m").write("dir/x", "x");
    let large = vec![7; 700_000];
    project.write("large", &large);
    let paths = ["touched", "rewritten", "large", "dir/x"];
    let set_mtime = |path: &str, secs| {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(secs);
        fs::File::open(project.path(path)).unwrap().set_modified(time).unwrap();
    };
    paths.iter().chain(&["mode"]).for_each(|path| set_mtime(path, 1_500_000_000));
    let stamps = || paths.map(|path| untouched(project.path(path)));
    let before = stamps();
    let script = "touch touched dir/x; printf same > new; mv new rewritten; cp large l; mv l large; chmod 700 mode; \
                  echo p > p";
    project.sh(&["-q"], script).exits(0);
    assert_eq!(stamps(), before, "nothing that went up is newer");
    assert_eq!(mode(project.path("mode")), 0o700, "only the mode changed, and it came back");
    assert_eq!(project.read("p"), "p\n");

    project.write("newer", "a source");
    project.sh(&["-q"], script).exits(0);
    let newer = untouched(project.path("newer"));
    for (path, (before, after)) in paths.iter().zip(before.iter().zip(stamps())) {
        assert_eq!(after.0, before.0, "{path}: another file is in its place");
        assert!((after.1, after.2) > (newer.1, newer.2), "{path}: whoever goes by times makes it each time");
    }
    assert_eq!(saved(&project), [""; 0]);
}

fn a_large_file_that_the_build_edits_under_its_old_size_and_mtime_comes_back(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("large", vec![b'a'; 400_000]);
    let script = "touch -r large ref; printf b | dd of=large bs=1 seek=399999 conv=notrunc 2>/dev/null; \
                  touch -r ref large; rm ref";
    project.sh(&["-q"], script).exits(0);
    assert!(project.read("large").ends_with("ab"));
}

fn deleting_everything_in_the_working_directory_is_refused(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("a", "1").write("b/c", "2");
    let before = project.tree();
    project.sh(&[], "rm -rf ./*").exits(125).says(&["left nothing", "-o"]);
    assert_eq!(project.tree(), before);
    project.assert_nothing_left();
}

// ---- named outputs ------------------------------------------------------------------------------------------------

fn host_becomes_path_and_the_same_command_twice_gives_the_same_tree(lifetime: Lifetime) {
    // spec -> where the product's file is found, below the directory that holds the project.
    let table: &[(&str, &str)] = &[
        ("out", "project/out/f"),
        ("out/", "project/out/f"),
        ("out:dist", "project/dist/f"),
        ("out:deep/er/dist", "project/deep/er/dist/f"),
        ("out/.:dist", "project/dist/f"),
        ("out:dist/", "project/dist/out/f"),
        ("out:.", "project/out/f"),
        ("out:../beside", "beside/f"),
        ("/tmp/abs:dist", "project/dist/f"),
        ("/tmp/abs", "project/abs/f"),
        ("/tmp/abs/.:dist", "project/dist/f"),
        ("out/f:one", "project/one"),
        ("out/f:into/", "project/into/f"),
        ("/tmp/abs/f", "project/f"),
    ];
    let script = "mkdir -p out /tmp/abs; echo content > out/f; echo content > /tmp/abs/f; ln -s f out/link; \
                  echo other > left-behind";
    std::thread::scope(|scope| {
        for rows in table.chunks(5) {
            scope.spawn(move || {
                for (spec, place) in rows {
                    let project = Project::new().keeping(lifetime);
                    project.write("src", "s");
                    project.sh(&["-q", "-o", spec], script).exits(0);
                    let found = project.outside().join(place);
                    assert_eq!(fs::read_to_string(&found).unwrap(), "content\n", "{spec}");
                    assert!(!project.has("left-behind"), "{spec}: only what is named comes back");
                    let first = (Tree::of(&project.root()).paths(), untouched(&found));
                    project.sh(&["-q", "-o", spec], script).exits(0);
                    assert_eq!(
                        (Tree::of(&project.root()).paths(), untouched(&found)),
                        first,
                        "{spec}, again"
                    );
                    assert!(project.safe().is_empty(), "{spec}");
                    project.assert_nothing_left();
                }
            });
        }
    });
}

fn several_outputs_come_back_and_all_or_none(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.sh(&["-q", "-o", "a", "-o", "/tmp/b:b"], "mkdir a; echo 1 > a/x; echo 2 > /tmp/b").exits(0);
    assert_eq!((project.read("a/x"), project.read("b")), ("1\n".into(), "2\n".into()));
    let before = project.tree();
    project.sh(&["-o", "a", "-o", "/tmp/b:b"], "echo 3 > a/x; mkdir found; echo > seen").exits(125).says(&[
        "did not make",
        "/tmp/b",
        "-o",
    ]);
    assert_eq!(project.tree(), before, "the first output was made, and yet nothing comes back");
    project.assert_nothing_left();
}

fn what_a_command_does_not_make_again_stays_and_what_it_deletes_goes(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project
        .sh(&["-q", "-o", "out"], "mkdir -p out/d/e; echo 1 > out/a; echo 2 > out/d/e/b; echo 3 > out/d/c")
        .exits(0);
    project.write("out/mine", "mine").write("out/d/mine", "mine");
    let all = Tree::of(&project.path("out"));
    project.sh(&["-q", "-o", "out"], "mkdir -p out; echo 1 > out/a").exits(0);
    assert_eq!(Tree::of(&project.path("out")).paths(), all.paths(), "nobody owns what is here");
    project.sh(&["-q", "-o", "out"], "rm -r out/d/e out/d/c").exits(0);
    assert_eq!(Tree::of(&project.path("out")).paths(), ["a", "d", "d/mine", "mine"]);
    assert_eq!(saved(&project), [""; 0], "it was the build's own");
    project.sh(&["-o", "out"], "rm -r out/d").exits(0).says(&["now in"]);
    assert_eq!(Tree::of(&project.path("out")).paths(), ["a", "mine"]);
    assert_eq!(project.safe(), owned([("out/d/mine", "mine")]));
    project.assert_nothing_left();
}

fn an_edit_of_a_product_goes_up_and_what_the_command_makes_of_it_stands(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.sh(&["-q", "-o", "out"], "mkdir out; echo 1 > out/a; echo 1 > out/b").exits(0);
    // As long as the product, so that the size tells nothing.
    project.write("out/a", "2\n");
    let look = project.sh(&["-q", "-o", "out"], "cat out/a; mkdir -p out");
    assert_eq!(look.exits(0).out(), "2\n");
    assert_eq!((project.read("out/a"), saved(&project)), ("2\n".into(), vec![]));
    let script = "cat out/a; echo 3 > out/a; echo 3 > out/b";
    let ended = project.sh(&["-o", "out"], script);
    assert_eq!(ended.exits(0).says(&["1 file gave way", "now in"]).out(), "2\n");
    assert_eq!(Tree::of(&project.path("out")).paths(), ["a", "b"], "nothing is put beside");
    assert_eq!((project.read("out/a"), project.read("out/b")), ("3\n".into(), "3\n".into()));
    assert_eq!(project.safe(), owned([("out/a", "2\n")]));
}

fn a_product_that_the_user_deleted_is_made_again(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let script = "mkdir -p out; echo 1 > out/a; echo 2 > out/b";
    project.sh(&["-q", "-o", "out"], script).exits(0);
    fs::remove_file(project.path("out/a")).unwrap();
    project.sh(&["-q", "-o", "out"], script).exits(0);
    assert_eq!(project.read("out/a"), "1\n");
}

fn a_users_file_in_a_products_way_is_moved_to_safety_and_said(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project
        .write("out/a", "mine")
        .write("out/dir", "a file of mine")
        .write("out/file/deep", "in a directory of mine");
    let script = "rm -r out; mkdir -p out/dir; echo product > out/a; echo product > out/dir/x; echo product > out/file";
    project.sh(&["-o", "out"], script).exits(0).says(&["3 files gave way", "displaced"]);
    assert_eq!(Tree::of(&project.path("out")).paths(), ["a", "dir", "dir/x", "file"]);
    assert_eq!((project.read("out/a"), project.read("out/file")), ("product\n".into(), "product\n".into()));
    let safe =
        [("out/a", "mine"), ("out/dir", "a file of mine"), ("out/file/deep", "in a directory of mine")];
    assert_eq!(project.safe(), owned(safe));
    project.assert_nothing_left();
}

fn a_users_identical_file_is_not_touched(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("out/a", "same");
    let before = untouched(project.path("out/a"));
    project.sh(&["-q", "-o", "out"], "rm -r out; mkdir out; printf same > out/a").exits(0);
    assert_eq!(untouched(project.path("out/a")), before);
    assert!(project.safe().is_empty());
}

// ---- meanwhile ----------------------------------------------------------------------------------------------------

/// Runs `script`, which prints `ready` and then waits for a line, and calls `meanwhile` in between.
fn during(project: &Project, options: &[&str], script: &str, meanwhile: impl FnOnce()) -> Ended {
    let options: Vec<_> = ["--stdin"].iter().chain(options).copied().collect();
    let mut command = project.command();
    command.args(options).args(["--", "sh", "-c", script]).stdin(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    read_until(child.stdout.as_mut().unwrap(), "ready\n");
    meanwhile();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"go\n").unwrap();
    Ended::of(child)
}

fn a_source_that_was_changed_during_the_build_keeps_the_hosts_version(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("src", "old").write("deleted", "old").write("quiet", "old").write("late", "old");
    let ended = during(
        &project,
        &["--progress", "json"],
        "echo ready; read line; echo build > src; rm deleted; echo build > late; echo p > made",
        || {
            project.write("src", "my edit").write("deleted", "my edit").write("quiet", "my edit");
            fs::remove_file(project.path("late")).unwrap();
            project.write("made", "mine, too");
        },
    );
    assert_eq!(conflicts(ended.exits(0), "host"), ["deleted", "late", "made", "src"]);
    assert_eq!(project.tree().paths(), ["deleted", "made", "quiet", "src"], "nothing is put beside");
    for edited in ["src", "deleted", "quiet"] {
        assert_eq!(project.read(edited), "my edit", "{edited}");
    }
    assert_eq!(project.read("made"), "mine, too");
    assert_eq!(project.safe(), owned([("late", "build\n"), ("made", "p\n"), ("src", "build\n")]));
    project.assert_nothing_left();
}

fn an_output_that_was_changed_during_the_build_is_the_builds(lifetime: Lifetime) {
    for named in [true, false] {
        let project = Project::new().keeping(lifetime);
        let make = "mkdir -p out; for name in edited deleted gone; do echo 1 > out/$name; done";
        project.sh(&["-q", "-o", "out"], make).exits(0);
        let script = "echo ready; read line; for name in edited deleted; do echo 2 > out/$name; done; rm out/gone; \
                      echo 2 > out/made";
        let options: &[&str] =
            if named { &["--progress", "json", "-o", "out"] } else { &["--progress", "json"] };
        let ended = during(&project, options, script, || {
            project
                .write("out/edited", "my edit")
                .write("out/gone", "my edit, too")
                .write("out/mine", "mine");
            fs::remove_file(project.path("out/deleted")).unwrap();
            if named {
                project.write("out/made", "mine, too");
            }
        });
        let mut told = conflicts(ended.exits(0), "build");
        told.retain(|path| path != "out/deleted");
        assert_eq!(
            told,
            if named { vec!["out/edited", "out/gone", "out/made"] } else { vec!["out/edited", "out/gone"] }
        );
        assert_eq!(Tree::of(&project.path("out")).paths(), ["deleted", "edited", "made", "mine"]);
        for name in ["deleted", "edited", "made"] {
            assert_eq!(project.read(Path::new("out").join(name)), "2\n", "{name}");
        }
        let safe = if named {
            vec!["my edit", "my edit, too", "mine, too"]
        } else {
            vec!["my edit", "my edit, too"]
        };
        assert_eq!(saved(&project), safe);
        project.assert_nothing_left();
    }
}

/// The paths that were changed here meanwhile, and whose version stands.
fn conflicts(ended: &Ended, stands: &str) -> Vec<String> {
    let told = ended.err();
    let events = told.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let told = events.filter(|event| event["warning"] == "conflict" && event["stands"] == stands);
    let paths =
        told.map(|event| event["path"].as_str().unwrap().split_once("/project/").unwrap().1.to_owned());
    let mut paths: Vec<_> = paths.collect();
    paths.sort();
    paths
}

fn an_edit_that_keeps_size_and_mtime_is_a_change_as_well(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("src", "old");
    let before = fs::metadata(project.path("src")).unwrap().modified().unwrap();
    let options = &["--progress", "json"];
    let ended = during(&project, options, "echo ready; read line; echo build > src", || {
        project.write("src", "new");
        fs::File::options().write(true).open(project.path("src")).unwrap().set_modified(before).unwrap();
    });
    assert_eq!(conflicts(ended.exits(0), "host"), ["src"]);
    assert_eq!((project.read("src"), saved(&project)), ("new".into(), vec!["build\n".into()]));
}

// ---- failed builds ------------------------------------------------------------------------------------------------

fn a_failed_build_leaves_the_host_as_it_was_unless_asked_otherwise(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("src", "old");
    let before = project.tree();
    let script = "echo new > src; mkdir -p out; echo 1 > out/a; exit 3";
    project.sh(&[], script).exits(3).says(&["not brought back", "--outputs-on-failure"]);
    project.sh(&["-o", "out"], script).exits(3);
    assert_eq!(project.tree(), before);
    project.sh(&["-o", "out", "--outputs-on-failure"], script).exits(3);
    assert_eq!((project.read("out/a"), project.read("src")), ("1\n".into(), "old".into()));
    project.sh(&["-q", "--outputs-on-failure"], script).exits(3);
    assert_eq!(project.read("src"), "new\n");
    project.sh(&["-o", "none", "--outputs-on-failure"], script).exits(3);
    project.assert_nothing_left();
}

// ---- targets ------------------------------------------------------------------------------------------------------

fn an_output_that_is_a_link_comes_back_as_one_each_time(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let script = |to: &str| format!("mkdir -p releases/{to}; ln -sfn releases/{to} current");
    for to in ["1", "1", "2"] {
        project.sh(&["-o", "current"], &script(to)).exits(0);
        assert_eq!(link(project.path("current")), format!("releases/{to}"));
    }
    project.assert_nothing_left();
}

fn a_file_or_a_link_in_an_outputs_place_is_kept_safe_and_no_link_is_followed(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("out", "mine").write("elsewhere/precious", "p");
    symlink("elsewhere", project.path("link")).unwrap();
    let script = "rm -rf out link; mkdir out link; echo 1 > out/a; echo 1 > link/a";
    project.sh(&["-o", "link", "-o", "out"], script).exits(0).says(&["2 files gave way"]);
    assert_eq!((project.read("out/a"), project.read("link/a")), ("1\n".into(), "1\n".into()));
    assert_eq!(Tree::of(&project.path("elsewhere")).paths(), ["precious"]);
    assert_eq!(saved(&project), ["elsewhere", "mine"]);
    symlink("elsewhere", project.path("other")).unwrap();
    let there = "mkdir -p /tmp/x; echo 1 > /tmp/x/a";
    project.sh(&["-o", "/tmp/x:other"], there).exits(125).says(&["symbolic link", "elsewhere"]);
    assert_eq!(Tree::of(&project.path("elsewhere")).paths(), ["precious"]);
    project.sh(&["-o", "out:elsewhere/precious/x"], "true").exits(125).says(&["elsewhere/precious/x"]);
    project.assert_nothing_left();
}

struct Mount(PathBuf);

impl Mount {
    fn read_only(at: PathBuf) -> Mount {
        fs::create_dir_all(&at).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "ro", "none"]).arg(&at).status().unwrap();
        assert!(mounted.success(), "this test needs to mount a tmpfs");
        Mount(at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn a_read_only_target_is_an_error_that_names_it(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("src", "s");
    let mount = Mount::read_only(project.outside().join("mount"));
    let said = project.sh(&["-o", "out:../mount/out"], "mkdir out; echo 1 > out/a");
    said.exits(125).says(&["mount", "read-only", "-o"]);
    project
        .sh(&["-o", "out/.:../mount"], "mkdir out; echo 1 > out/a")
        .exits(125)
        .says(&["mount", "read-only"]);
    drop(mount);
    fs::create_dir(project.path("locked")).unwrap();
    fs::set_permissions(project.path("locked"), fs::Permissions::from_mode(0o555)).unwrap();
    let ended = project.as_nobody(&["-o", "out:locked/out"], "mkdir out; echo 1 > out/a");
    ended.exits(125).says(&["locked", "read-only"]);
    assert_eq!(project.tree().paths(), ["locked", "src"]);
    project.assert_nothing_left();
}

fn an_output_can_be_a_mount_of_its_own(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let at = project.path("out");
    fs::create_dir(&at).unwrap();
    assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&at).status().unwrap().success());
    let mount = Mount(at);
    project.sh(&["-q", "-o", "out"], "mkdir out; echo 1 > out/a; echo 1 > out/b").exits(0);
    project.sh(&["-q", "-o", "out"], "rm out/b; echo 2 > out/a").exits(0);
    let tree = Tree::of(&project.path("out"));
    assert_eq!((tree.paths(), project.read("out/a")), (vec!["a".to_owned()], "2\n".to_owned()));
    project.assert_nothing_left();
    drop(mount);
}

fn a_full_disk_leaves_the_host_as_it_was(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let at = project.path("out");
    fs::create_dir(&at).unwrap();
    let size = ["-t", "tmpfs", "-o", "size=16m", "none"];
    assert!(Command::new("mount").args(size).arg(&at).status().unwrap().success());
    let mount = Mount(at);
    project
        .sh(&["-q", "-o", "out"], "mkdir out; dd if=/dev/zero of=out/a bs=1M count=6 2>/dev/null")
        .exits(0);
    let before = Tree::of(&project.path("out"));
    let large = "for i in a b c d; do dd if=/dev/urandom of=out/$i bs=1M count=6 2>/dev/null; done";
    project.sh(&["-o", "out"], large).exits(125).says(&["no space for the products", "-o"]);
    assert_eq!(Tree::of(&project.path("out")), before);
    project.assert_nothing_left();
    drop(mount);
}

fn an_output_may_be_the_sources_themselves(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("src", "s").write("old", "o").write("ignored", "i").write("same", "=");
    let before = untouched(project.path("same"));
    let script = "echo new > src; rm old; echo made > made; touch same";
    project.sh(&["-q", "-o", ".", "--exclude", "ignored"], script).exits(0);
    assert_eq!(project.tree().paths(), ["ignored", "made", "same", "src"]);
    assert_eq!((project.read("src"), untouched(project.path("same"))), ("new\n".into(), before));
    assert_eq!(saved(&project), ["o", "s"], "no build wrote these");
    project.assert_nothing_left();
}

// ---- kinds --------------------------------------------------------------------------------------------------------

fn links_names_modes_and_empty_directories_come_back_as_they_are(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let script = r#"rm -rf out; mkdir -p out/empty out/ro && cd out
        echo x > a; ln a hard; ln -s /etc/passwd absolute; ln -s ../../../up outside; ln -s loop loop
        echo x > "$(printf 'new\nline\tand \377')"; echo x > -dash; echo x > suid; chmod 4755 suid
        echo x > secret; chmod 600 secret; echo x > ro/file; chmod 444 ro/file; chmod 555 ro
        mkdir sticky; chmod 1777 sticky; touch -d '2001-02-03 04:05:06' a; mkfifo pipe"#;
    project
        .sh(&["-o", "out"], script)
        .exits(0)
        .says(&["out/pipe", "named pipe"].map(|s| s.trim_start_matches("out/")));
    let out = project.path("out");
    for (name, target) in [("absolute", "/etc/passwd"), ("outside", "../../../up"), ("loop", "loop")] {
        assert_eq!(link(out.join(name)), target);
    }
    assert_eq!(untouched(out.join("a")).0, untouched(out.join("hard")).0, "hard links stay hard links");
    assert_eq!(untouched(out.join("a")).1, 981_173_106);
    let strange = <OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"new\nline\tand \xff");
    assert_eq!(fs::read_to_string(out.join(strange)).unwrap(), "x\n");
    assert_eq!(fs::read_to_string(out.join("-dash")).unwrap(), "x\n");
    assert_eq!(mode(out.join("suid")), 0o755, "set-uid does not cross");
    assert_eq!(mode(out.join("sticky")) & 0o777, 0o777);
    assert_eq!((mode(out.join("secret")), mode(out.join("ro"))), (0o600, 0o555));
    assert!(out.join("empty").is_dir() && !out.join("pipe").exists());
    // Unchanged, hard links and all: nothing is touched.
    let before = ["a", "hard", "absolute", "ro/file", "suid"].map(|name| untouched(out.join(name)));
    project.sh(&["-q", "-o", "out"], script).exits(0);
    assert_eq!(["a", "hard", "absolute", "ro/file", "suid"].map(|name| untouched(out.join(name))), before);
    project.assert_nothing_left();
}

const SHAPES: [&str; 4] =
    ["echo file > out/x", "ln -s /target out/x", "mkdir -p out/x/deep; echo 1 > out/x/deep/f", "true"];

fn shape(project: &Project) -> String {
    let path = project.path("out/x");
    match path.symlink_metadata() {
        Err(_) => "nothing".to_owned(),
        Ok(metadata) if metadata.is_symlink() => link(path),
        Ok(metadata) if metadata.is_file() => project.read("out/x"),
        Ok(_) => Tree::of(&path).paths().join(" "),
    }
}

fn assert_each_becomes_each(lifetime: Lifetime, options: &[&str]) {
    let expected = ["file\n", "/target", "deep deep/f", "nothing"];
    let project = Project::new().keeping(lifetime);
    // A walk over every ordered pair of the four shapes.
    for at in [0, 1, 0, 2, 0, 3, 1, 2, 1, 3, 2, 3, 0] {
        project.sh(options, &format!("mkdir -p out; rm -rf out/x; {}", SHAPES[at])).exits(0);
        assert_eq!(shape(&project), expected[at]);
    }
    assert!(project.safe().is_empty(), "all of it was fastbuild's own");
    project.assert_nothing_left();
}

fn a_product_may_become_another_kind_of_thing(lifetime: Lifetime) {
    assert_each_becomes_each(lifetime, &["-q", "-o", "out"]);
}

fn a_product_may_become_another_kind_of_thing_in_an_exchange(lifetime: Lifetime) {
    assert_each_becomes_each(lifetime, &["-q", "--atomic", "-o", "out"]);
}

fn a_source_may_become_another_kind_of_thing(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("out/x", "file");
    for (script, expected) in [
        ("rm out/x; mkdir -p out/x/deep; echo 1 > out/x/deep/f", "deep deep/f"),
        ("rm -r out/x; ln -s /target out/x", "/target"),
        ("rm out/x; echo file > out/x", "file\n"),
    ] {
        project.sh(&["-q"], script).exits(0);
        assert_eq!(shape(&project), expected);
    }
    assert_eq!(saved(&project), ["file"], "the rest was the build's own");
}

fn a_read_only_directory_of_products_gets_its_next_content(lifetime: Lifetime) {
    let script = |content: &str| {
        format!(
            "rm -rf out; mkdir -p out/ro/sub; echo {content} > out/ro/a; echo {content} > out/ro/sub/{content}; \
                 chmod 555 out/ro/sub out/ro"
        )
    };
    let root = Project::new().keeping(lifetime);
    let ordinary = Project::new().keeping(lifetime);
    for content in ["one", "two"] {
        root.sh(&["-q", "-o", "out"], &script(content)).exits(0);
        ordinary.as_nobody(&["-q", "-o", "out"], &script(content)).exits(0);
        for project in [&root, &ordinary] {
            assert_eq!(project.read("out/ro/a"), format!("{content}\n"));
            assert_eq!(Tree::of(&project.path("out/ro/sub")).paths(), [content]);
            assert_eq!((mode(project.path("out/ro")), mode(project.path("out/ro/sub"))), (0o555, 0o555));
            project.assert_nothing_left();
        }
    }
    assert_eq!(
        fs::metadata(ordinary.path("out/ro/a")).unwrap().uid(),
        65534,
        "products belong to who runs fastbuild"
    );
    ordinary.as_nobody(&["-q", "-o", "out"], "rm -r out; mkdir out").exits(0);
    assert!(!ordinary.has("out/ro"));
    for content in ["one", "two"] {
        ordinary
            .as_nobody(&["-q", "--atomic", "-o", "out"], &format!("{}; chmod 555 out", script(content)))
            .exits(0);
        assert_eq!(ordinary.read("out/ro/a"), format!("{content}\n"));
        assert_eq!(Tree::of(&ordinary.path("out/ro/sub")).paths(), [content]);
        assert_eq!((mode(ordinary.path("out")), mode(ordinary.path("out/ro"))), (0o555, 0o555));
        ordinary.assert_nothing_left();
    }
}

// ---- --atomic -----------------------------------------------------------------------------------------------------

fn site(version: u32) -> String {
    format!(
        "mkdir -p _site/sub; for page in index page sub/deep; do echo {version} > _site/$page.html; done; \
         echo same > _site/same; ln -sfn {version} _site/link; for i in $(seq 200); do echo {version} > _site/$i; done"
    )
}

fn an_atomic_output_is_never_seen_half_done(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let options = ["-q", "--atomic", "-o", "_site"];
    project.sh(&options, &site(0)).exits(0);
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = std::collections::BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                // One handle: a reader that has opened the directory reads one version to its end.
                let site =
                    cap_std::fs::Dir::open_ambient_dir(project.path("_site"), cap_std::ambient_authority())
                        .expect("the directory is always there");
                let pages = ["index.html", "page.html", "sub/deep.html", "200"];
                let pages = pages.map(|page| site.read_to_string(page).expect("every page is always there"));
                assert!(pages.iter().all(|page| *page == pages[0]), "a mixture: {pages:?}");
                seen.insert(pages[0].clone());
            }
            seen
        });
        for version in 1..4 {
            project.sh(&options, &site(version)).exits(0);
        }
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap()
    });
    assert!(seen.contains("1\n") && seen.contains("2\n"), "the watcher watched: {seen:?}");
    assert_eq!(link(project.path("_site/link")), "3");
    project.assert_nothing_left();
}

fn an_exchange_carries_the_users_files_along_and_does_not_touch_what_is_right(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let options = ["-q", "--atomic", "-o", "_site"];
    project.sh(&options, &site(1)).exits(0);
    project.write("_site/mine", "mine").write("_site/own/deep", "mine").write("_site/page.html", "my edit");
    symlink("/mine", project.path("_site/my-link")).unwrap();
    fs::remove_file(project.path("_site/7")).unwrap();
    let before = ["same", "mine", "own/deep"].map(|name| untouched(project.path("_site").join(name)));
    project
        .sh(&["--atomic", "-o", "_site"], &format!("{}; rm _site/sub/deep.html _site/8", site(2)))
        .exits(0)
        .says(&["1 file gave way"]);
    let after = ["same", "mine", "own/deep"].map(|name| untouched(project.path("_site").join(name)));
    assert_eq!(before, after);
    let read = |name: &str| project.read(Path::new("_site").join(name));
    assert_eq!((read("index.html"), read("7")), ("2\n".into(), "2\n".into()));
    assert_eq!((read("page.html"), saved(&project)), ("2\n".into(), vec!["my edit".into()]));
    assert_eq!(
        (link(project.path("_site/link")), link(project.path("_site/my-link"))),
        ("2".into(), "/mine".into())
    );
    assert!(!project.has("_site/8") && !project.has("_site/sub/deep.html"));
    project.assert_nothing_left();
}

fn an_exchange_moves_to_safety_what_is_in_its_way(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("out/a", "mine").write("out/dir", "a file").write("out/file/deep", "in a directory");
    let script = "rm -r out; mkdir -p out/dir; echo product > out/a; echo product > out/dir/x; echo product > out/file";
    project.sh(&["--atomic", "-o", "out"], script).exits(0).says(&["gave way"]);
    assert_eq!(Tree::of(&project.path("out")).paths(), ["a", "dir", "dir/x", "file"]);
    assert_eq!(saved(&project), ["mine", "a file", "in a directory"]);
    project.assert_nothing_left();
}

fn a_file_in_the_place_of_an_exchanged_directory_moves_to_safety_what_the_user_has_in_it(lifetime: Lifetime) {
    for users in ["out/mine", "out/made"] {
        let project = Project::new().keeping(lifetime);
        project.sh(&["-q", "--atomic", "-o", "out"], "mkdir out; echo 1 > out/made").exits(0);
        project.write(users, "the user's");
        let ended = project.sh(&["--atomic", "-o", "out"], "rm -r out; echo 2 > out");
        ended.exits(0).says(&["1 file gave way"]);
        assert_eq!(
            (project.read("out"), saved(&project)),
            ("2\n".into(), vec!["the user's".into()]),
            "{users}"
        );
        project.assert_nothing_left();
    }
}

fn an_exchanged_directory_gets_the_directories_above_it(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.sh(&["-q", "--atomic", "-o", "a/b/out"], "mkdir -p a/b/out; echo 1 > a/b/out/f").exits(0);
    assert_eq!(project.read("a/b/out/f"), "1\n");
    project.assert_nothing_left();
}

fn an_exchanged_directory_may_become_a_file(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.sh(&["-q", "--atomic", "-o", "out"], "mkdir out; echo 1 > out/made").exits(0);
    project.sh(&["-q", "--atomic", "-o", "out"], "rm -r out; echo 2 > out").exits(0);
    assert_eq!(project.read("out"), "2\n");
    project.assert_nothing_left();
}

fn a_users_socket_is_no_less_his_than_a_file(lifetime: Lifetime) {
    use std::os::unix::{fs::FileTypeExt as _, net::UnixListener};
    let is_socket = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    for options in [["-o", "out", "--no-atomic"], ["-o", "out", "--atomic"]] {
        let project = Project::new().keeping(lifetime);
        project.write("out/mine", "mine");
        let _beside = UnixListener::bind(project.path("out/beside")).unwrap();
        let _in_the_way = UnixListener::bind(project.path("out/in-the-way")).unwrap();
        let script = "echo product > out/in-the-way; echo product > out/made";
        let ended = project.sh(&options, script);
        ended.exits(0).says(&["1 file gave way"]);
        assert!(is_socket(&project.path("out/beside")), "{options:?}: {ended}");
        assert_eq!(project.read("out/in-the-way"), "product\n");
        let told = ended.err();
        let kept =
            told.split_once("is now in the safe place, ").and_then(|(_, rest)| rest.lines().next()).unwrap();
        let place = project.path("out/in-the-way").canonicalize().unwrap();
        let kept = Path::new(kept).join(place.strip_prefix("/").unwrap());
        assert!(is_socket(&kept), "{options:?}: {kept:?} {ended}");
        project.assert_nothing_left();
    }
}

fn an_atomic_output_that_fails_leaves_the_old_one(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let options = ["-q", "--atomic", "-o", "_site"];
    project.sh(&options, &site(1)).exits(0);
    let before = project.tree();
    project.sh(&options, &format!("{}; exit 1", site(2))).exits(1);
    project.sh(&options, "rm -r _site").exits(125);
    assert_eq!(project.tree(), before);
    project.sh(&["--atomic"], "true").exits(125).says(&["-o"]);
    project.assert_nothing_left();
}

fn a_missing_output_is_an_error_that_lists_what_is_there(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("src", "");
    project.sh(&["-o", "dist/site"], "mkdir -p dist/other; echo > dist/made").exits(125).says(&[
        "did not make",
        "dist/site",
        "/workspace/dist",
        "made",
        "other",
    ]);
    project.sh(&["-o", "nothing"], "true").exits(125).says(&["/workspace", "src"]);
    project.assert_nothing_left();
}

// ---- names of one file, and holes ------------------------------------------------------------------------------------

/// A kept workspace, one run, no container, and no agent, with the options that make it so.
fn places() -> [(Project, &'static [&'static str]); 4] {
    let one_run = Project::new;
    [(Project::kept(), &[]), (one_run(), &[]), (Project::here(), &[]), (one_run(), &["--no-agent"])]
}

/// Which of these names are one file here, as `aab`: each by the letter of the first.
fn which_are_one(project: &Project, names: &str) -> String {
    let inodes: Vec<_> = names.chars().map(|name| untouched(project.path(format!("out/{name}"))).0).collect();
    let first = |ino: &u64| names.chars().nth(inodes.iter().position(|other| other == ino).unwrap());
    inodes.iter().filter_map(first).collect()
}

#[test]
fn names_that_the_build_links_or_parts_are_one_file_or_two_here() {
    for (project, options) in places() {
        for scope in [&["-o", "out"][..], &[]] {
            let options = [&["-q"], options, scope].concat();
            let inode = |name: &str| untouched(project.path("out").join(name)).0;
            // What the build does, which names are one file then, and those that are the same file as before.
            let steps = [
                ("for n in a b c; do echo one > $n; touch -d @1600000000 $n; done", "abc", "abc", ""),
                ("ln -f a b", "abc", "aac", "ac"),
                ("ln c d", "abcd", "aacc", "abc"),
                ("ln a 0", "0abcd", "000cc", "abcd"),
                ("rm 0; cp -p b n; mv n b", "abcd", "abcc", "acd"),
                ("chmod 600 c", "abcd", "abcc", "ab"),
                ("echo two > c", "abcd", "abcc", "ab"),
                ("ln -f c a; ln -f c b", "abcd", "aaaa", ""),
                ("rm a", "bcd", "bbb", "bcd"),
                ("echo s > s", "s", "s", ""),
                ("ln s r; chmod 640 s", "rs", "rr", "s"),
                ("ln s t", "rst", if options.contains(&"--no-agent") { "rrt" } else { "rrr" }, "rs"),
            ];
            for (script, names, wanted, same) in steps {
                let before: Vec<_> = same
                    .chars()
                    .map(|name| project.has(format!("out/{name}")).then(|| inode(&name.to_string())))
                    .collect();
                project.sh(&options, &format!("mkdir -p out; cd out; {script}")).exits(0);
                assert_eq!(which_are_one(&project, names), wanted, "{options:?}: {script}");
                for (name, before) in same.chars().zip(before).filter(|(_, before)| before.is_some()) {
                    assert_eq!(Some(inode(&name.to_string())), before, "{options:?}: {script}: {name}");
                }
            }
            assert_eq!((project.read("out/b"), mode(project.path("out/d"))), ("two\n".to_owned(), 0o600));
            assert_eq!(project.safe(), []);
            fs::remove_dir_all(project.path("out")).unwrap();
        }
    }
}

#[test]
fn a_file_with_a_name_outside_of_the_tree_is_parted_from_it() {
    for (project, options) in places() {
        let outside = project.outside().join("outside");
        project.write("a", "mine\n");
        fs::hard_link(project.path("a"), &outside).unwrap();
        project.sh(&[&["-q"], options].concat(), "ln a b; echo more >> a").exits(0);
        assert_eq!(fs::read_to_string(&outside).unwrap(), "mine\n");
        assert_eq!(
            (project.read("a"), untouched(project.path("a")).0),
            ("mine\nmore\n".into(), untouched(project.path("b")).0)
        );
    }
}

#[test]
fn holes_of_a_product_are_holes_here() {
    for (project, options) in places() {
        let options = [&["--progress", "json"], options].concat();
        let make = "truncate -s 64M disk; for at in 9999 40000000; do echo x | dd of=disk bs=1 seek=$at conv=notrunc; done; \
                    truncate -s 40k small; sha256sum < disk >&2";
        let ended = project.sh(&options, make);
        ended.exits(0).says(&[&sum(&project.path("disk"))]);
        let [disk, small] = ["disk", "small"].map(|name| fs::metadata(project.path(name)).unwrap());
        assert_eq!((disk.len(), small.len()), (64 << 20, 40 << 10));
        assert!(disk.blocks() * 512 <= 256 << 10, "{} blocks: {options:?}", disk.blocks());
        if !options.contains(&"--no-agent") {
            assert_eq!(small.blocks(), 0);
            let finished = ended.err();
            let finished = finished.lines().find(|line| line.contains("\"finished\"")).unwrap();
            let finished: serde_json::Value = serde_json::from_str(finished).unwrap();
            let received = finished["agent"]["received"].as_u64().unwrap();
            assert!(received < 100_000, "{received} bytes came");
        }
    }
}

fn sum(path: &Path) -> String {
    let sum = Command::new("sha256sum").arg(path).output().unwrap().stdout;
    String::from_utf8(sum).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn a_symbolic_link_with_two_names_comes_back() {
    for (project, options) in places() {
        let script = "mkdir out; echo x > out/lib.so.1; ln -s lib.so.1 out/lib.so; cp -al out snapshot";
        project.sh(&[&["-q"], options].concat(), script).exits(0);
        assert_eq!(["out", "snapshot"].map(|at| link(project.path(at).join("lib.so"))), ["lib.so.1"; 2]);
        project.sh(&[&["-q"], options].concat(), "[ -L snapshot/lib.so ]").exits(0);
    }
}

promises! {
    one_run OneRun, fresh Fresh:
    without_outputs_all_that_the_build_made_changed_and_deleted_comes_back,
    what_is_made_again_with_the_same_bytes_is_not_touched_here_unless_a_source_is_newer,
    a_large_file_that_the_build_edits_under_its_old_size_and_mtime_comes_back,
    deleting_everything_in_the_working_directory_is_refused,
    host_becomes_path_and_the_same_command_twice_gives_the_same_tree,
    several_outputs_come_back_and_all_or_none,
    what_a_command_does_not_make_again_stays_and_what_it_deletes_goes,
    an_edit_of_a_product_goes_up_and_what_the_command_makes_of_it_stands,
    a_product_that_the_user_deleted_is_made_again,
    a_users_file_in_a_products_way_is_moved_to_safety_and_said,
    a_users_identical_file_is_not_touched,
    a_source_that_was_changed_during_the_build_keeps_the_hosts_version,
    an_output_that_was_changed_during_the_build_is_the_builds,
    an_edit_that_keeps_size_and_mtime_is_a_change_as_well,
    a_failed_build_leaves_the_host_as_it_was_unless_asked_otherwise,
    an_output_that_is_a_link_comes_back_as_one_each_time,
    a_file_or_a_link_in_an_outputs_place_is_kept_safe_and_no_link_is_followed,
    a_read_only_target_is_an_error_that_names_it,
    an_output_can_be_a_mount_of_its_own,
    a_full_disk_leaves_the_host_as_it_was,
    an_output_may_be_the_sources_themselves,
    links_names_modes_and_empty_directories_come_back_as_they_are,
    a_product_may_become_another_kind_of_thing,
    a_product_may_become_another_kind_of_thing_in_an_exchange,
    a_source_may_become_another_kind_of_thing,
    a_read_only_directory_of_products_gets_its_next_content,
    an_atomic_output_is_never_seen_half_done,
    an_exchange_carries_the_users_files_along_and_does_not_touch_what_is_right,
    an_exchange_moves_to_safety_what_is_in_its_way,
    a_file_in_the_place_of_an_exchanged_directory_moves_to_safety_what_the_user_has_in_it,
    an_exchanged_directory_gets_the_directories_above_it,
    an_exchanged_directory_may_become_a_file,
    a_users_socket_is_no_less_his_than_a_file,
    an_atomic_output_that_fails_leaves_the_old_one,
    a_missing_output_is_an_error_that_lists_what_is_there,
}
