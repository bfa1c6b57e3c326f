//! What is kept (`keep`, `--keep-path`, presets) or excluded: neither sent nor brought back, and the build's own from one build to the
//! next.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use crate::common::{Ended, Project};
use fastbuild::{
    entry::RelPath,
    tree::ignore::{Rules, Verdict},
};

fn kept() -> Project {
    Project::kept()
}

/// Two builds, with `target` kept in either way.
fn the_hosts_own_stays_apart(outputs: &[&str]) {
    for (key, options) in [("keep = ['target']\n", &[][..]), ("", &["--keep-path", "target"])] {
        let project = kept();
        project.write("fastbuild.toml", key).write("target/of-the-host", "mine").write("src", "s");
        let options = [options, outputs].concat();
        let script = "ls -A target; mkdir -p target; echo x >> target/object; cp src out; cat target/object";
        let first = project.sh(&options, script);
        assert_eq!(first.exits(0).out(), "x\n", "{first}");
        first.says(&["target here is this machine's own"]);
        let second = project.sh(&options, script);
        assert_eq!(second.exits(0).out(), "object\nx\nx\n", "{second}");
        assert!(!second.err().contains("this machine's own"), "it is said once: {second}");
        assert_eq!(fs::read_dir(project.path("target")).unwrap().count(), 1, "{outputs:?}");
        assert_eq!((project.read("target/of-the-host"), project.read("out")), ("mine".into(), "s".into()));
    }
}

#[test]
fn a_build_finds_what_it_kept_and_the_hosts_own_is_untouched_and_not_sent() {
    the_hosts_own_stays_apart(&["-o", "out"]);
}

#[test]
#[ignore = "the far end still brings back what it made at excluded paths"]
fn what_is_kept_does_not_come_back_where_everything_does() {
    the_hosts_own_stays_apart(&[]);
}

#[test]
fn a_path_of_the_command_line_starts_where_the_command_does() {
    let project = kept();
    project.write("sub/target/x", "").write("target/x", "").write("sub/y", "");
    let mut command = project.command();
    command.current_dir(project.path("sub")).args(["-C", "..", "-q", "--keep-path", "target", "--"]);
    command.args(["sh", "-c", "cd ..; find . -type f | sort"]);
    let out = command.output().unwrap().stdout;
    assert_eq!(String::from_utf8(out).unwrap(), "./sub/y\n./target/x\n");
}

#[test]
fn an_output_below_a_kept_path_goes_up_and_comes_back() {
    let project = kept();
    project.write("fastbuild.toml", "keep = ['build']\noutputs = ['build/a*p']\n");
    project.write("build/a*p/old", "old").write("build/axp", "host's").write("src", "1");
    let script =
        "cat build/*/old; ls build; mkdir -p 'build/a*p'; cp src 'build/a*p/new'; echo x >> build/object";
    project.sh(&["-q"], script).exits(0);
    let second = project.sh(&["-q"], script);
    assert_eq!(second.exits(0).out(), "olda*p\nobject\n");
    let paths =
        ["build", "build/a*p", "build/a*p/new", "build/a*p/old", "build/axp", "fastbuild.toml", "src"];
    assert_eq!(project.tree().paths(), paths);
}

#[test]
fn a_kept_path_below_an_output_does_not_go_up_and_stays_for_the_next_build() {
    let project = kept();
    project.write("dist/cache/of-the-host", "").write("dist/page", "old");
    let options = ["-q", "-o", "dist/page", "--keep-path", "dist/cache"];
    let script = "ls dist dist/cache; mkdir -p dist/cache; echo new > dist/page; touch dist/cache/object";
    project.sh(&options, script).exits(0);
    let second = project.sh(&options, script);
    assert_eq!(second.exits(0).out(), "dist:\ncache\npage\n\ndist/cache:\nobject\n");
    assert_eq!(project.tree().paths(), ["dist", "dist/cache", "dist/cache/of-the-host", "dist/page"]);
    assert_eq!(project.read("dist/page"), "new\n");
}

#[test]
#[ignore = "the far end still collects all of a named output"]
fn a_kept_path_below_a_named_output_does_not_come_back() {
    for keep in ["--keep", "--no-keep"] {
        let project = kept();
        project.write("src", "s");
        let options = [keep, "-q", "-o", "dist", "--keep-path", "dist/cache"];
        project.sh(&options, "mkdir -p dist/cache; touch dist/cache/object dist/page").exits(0);
        assert_eq!(project.tree().paths(), ["dist", "dist/page", "src"], "{keep}");
    }
}

/// The patterns of the plan of a build with these options, started in `directory`.
fn patterns(directory: &Path, project: &Project, options: &str) -> Vec<String> {
    let mut command = project.command();
    command.current_dir(directory).args(["plan", "--json"]).args(options.split_whitespace());
    let ended = Ended::from(command.args(["--", "make"]).output().unwrap());
    let plan: serde_json::Value = serde_json::from_slice(&ended.exits(0).stdout).unwrap();
    let patterns = plan["ignore"]["patterns"].as_array().unwrap().iter();
    patterns.map(|pattern| pattern["value"]["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn kept_paths_start_where_they_are_said() {
    let project = Project::new();
    let below = project.path("s*b");
    project.write("fastbuild.toml", "keep = ['s*b/target', '!*/x/', '**/obj', 'other']").write("s*b/x", "");
    let of_file = ["s*b/target", "!*/x/", "**/obj", "other"];
    let of_line = ["s\\*b/x", "s\\*b/../y", "/z", "!s\\*b/x/w", "s\\*b/**/v"];
    let line = "--keep-path x --keep-path ../y --keep-path /z --keep-path !x/w --keep-path **/v";
    assert_eq!(patterns(&below, &project, line), [&of_file[..], &of_line].concat());
    // The root lies below the file here, and what the file keeps beside it is no part of it.
    let expected = ["target", "!x", "**/obj", "/x"];
    assert_eq!(patterns(&below, &project, "-C . --keep-path /x"), expected);
}

#[test]
fn the_longer_path_decides_between_what_is_kept_and_what_comes_back() {
    use Verdict::{Ignored, Kept as Synced};
    // Command line, and paths with what becomes of them.
    type Case<'a> = (&'a str, &'a [(&'a str, Verdict)]);
    let cases: &[Case<'_>] = &[
        ("-o dist --keep-path dist/cache", &[("dist/x", Synced), ("dist/cache/x", Ignored)]),
        (
            "-o build/app --keep-path build",
            &[("build/app/x", Synced), ("build/appendix", Ignored), ("build/x", Ignored)],
        ),
        ("-o build/app --exclude build", &[("build/app", Synced), ("build/x", Ignored)]),
        ("-o build/app/. --keep-path build", &[("build/app/x", Synced), ("build/x", Ignored)]),
        // A pattern selects what comes back, and takes nothing out of what is kept.
        ("-o build/a*p --keep-path build", &[("build/a*p", Ignored), ("build/axp", Ignored)]),
        ("-o build/[a] --keep-path build", &[("build/[a]", Ignored), ("build/a", Ignored)]),
        ("-o ./build//!a --keep-path ./build/", &[("build/!a", Synced), ("build/a", Ignored)]),
        // A longer one in the output stays kept, wherever it stands in the order.
        (
            "-o build/app --keep-path build/app/cache --keep-path build",
            &[("build/app/x", Synced), ("build/app/cache/x", Ignored), ("build/x", Ignored)],
        ),
        (
            "-o build/app --keep-path build --keep-path build/app/cache --include build/app/cache/mine",
            &[("build/app/cache/x", Ignored), ("build/app/cache/mine", Synced)],
        ),
        (
            "-o build/app --keep-path **/cache --keep-path build",
            &[("build/app/x", Synced), ("build/app/a/cache", Ignored), ("build/x", Ignored)],
        ),
        // What is said before, and taken back by the kept path, is not said anew.
        ("-o build/app --include build/x --keep-path build", &[("build/app", Synced), ("build/x", Ignored)]),
        (
            "-o build/app -o build/lib --keep-path build",
            &[("build/app", Synced), ("build/lib", Synced), ("build/x", Ignored)],
        ),
        // A path that is written out is longer than a pattern.
        ("-o dist --exclude * --include src", &[("dist/x", Synced), ("src", Synced), ("other", Ignored)]),
        ("-o main.o --exclude *.o", &[("main.o", Synced), ("other.o", Ignored)]),
        ("-o a/obj/x --keep-path **/obj", &[("a/obj/x", Synced), ("a/obj/y", Ignored)]),
        // Taken back by hand already.
        ("-o dist --keep-path dist --include dist", &[("dist", Synced)]),
        // It is taken from there, and does not go in.
        ("-o build/app:app --keep-path build", &[("build/app", Ignored)]),
        ("-o . --keep-path build", &[("build/app", Ignored), ("x", Synced)]),
    ];
    let project = Project::new();
    for (line, expected) in cases {
        let rules = Rules::new(patterns(&project.root(), &project, line)).unwrap();
        for (path, verdict) in *expected {
            assert_eq!(rules.verdict_of(&RelPath::new(path.as_bytes()).unwrap()), *verdict, "{line}: {path}");
        }
    }
}

#[test]
fn an_output_that_is_kept_is_refused_before_anything_is_done() {
    let project = kept();
    project.write("fastbuild.toml", "keep = ['target']\n");
    let refused = project.sh(&["-o", "target"], "never");
    refused.exits(125).says(&["target is kept in the workspace", "fastbuild.toml:1", "--include target"]);
    let refused = project.sh(&["-o", "a/obj/.", "--exclude", "**/obj"], "never");
    refused.exits(125).says(&["a/obj is excluded (--exclude)"]);
    assert_eq!(project.containers(), [""; 0]);
    // A preset is weaker than what is typed.
    project.fastbuild(["plan", "-o", ".jekyll-cache", "--", "jekyll", "build"]).exits(0);
    project.sh(&["-q", "-o", "target", "--include", "target"], "mkdir -p target; touch target/app").exits(0);
    assert!(project.has("target/app"));
}

#[test]
fn the_switch_that_keep_was_is_said_to_be_below_workspace() {
    let project = kept();
    project.write("fastbuild.toml", "keep = false\n");
    project.sh(&[], ":").exits(125).says(&[
        "fastbuild.toml:1:8",
        "list of paths",
        "[workspace]",
        "keep = true or false",
    ]);
    project.write("fastbuild.toml", "[workspace]\nkeep = false\n");
    let plan = project.fastbuild(["plan", "--", "make"]);
    assert!(plan.exits(0).out().contains("kept"), "the variable of these tests is stronger: {plan}");
}

#[test]
fn a_dockerignore_is_not_read_and_the_first_build_says_so() {
    let project = Project::new();
    project
        .write(".dockerignore", "# for the image\ntests\n*.md\n")
        .write("tests/a", "12345")
        .write("b.md", "123");
    let said = "3 entries of what it names (8 B) went in; `cp .dockerignore .fastbuildignore`";
    let first = project.sh(&[], "find . -type f | wc -l");
    assert_eq!(first.exits(0).out(), "3\n");
    first.says(&[".dockerignore", "is not read", said]);
    for options in [&[][..], &["--no-ignore"]] {
        let later = project.sh(options, ":");
        assert!(!later.exits(0).err().contains("dockerignore"), "{later}");
    }
    // Who has made ours of it knows.
    let project = Project::new();
    project.write(".dockerignore", "tests\n").write(".fastbuildignore", "tests\n").write("tests/a", "");
    let ended = project.sh(&[], "ls -A");
    assert_eq!(ended.exits(0).out(), ".dockerignore\n.fastbuildignore\n");
    assert!(!ended.err().contains("not read"), "{ended}");
}

/// With a `jekyll` that tells what it finds in its caches, the one of the host and the one that its own build before made.
fn jekyll_project() -> Project {
    let project = kept();
    let script =
        "cat .jekyll-cache/* a/.jekyll-cache/*; mkdir -p .jekyll-cache _site; echo made > .jekyll-cache/x";
    project.write("bin/jekyll", format!("#!/bin/sh\n{script}\n"));
    project.write("a/.jekyll-cache/x", "tracked\n").write(".jekyll-cache/x", "host's\n");
    fs::set_permissions(project.path("bin/jekyll"), fs::Permissions::from_mode(0o755)).unwrap();
    project
}

fn jekyll_build(project: &Project, options: &[&str]) -> String {
    let all = ["-q", "--exclude", ".git"].iter().chain(options).chain(&["--", "bin/jekyll", "build"]);
    project.fastbuild(all).exits(0).out()
}

fn git(project: &Project, args: &[&str]) {
    let done = Command::new("git").args(args).current_dir(project.root()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn what_a_preset_keeps_is_synced_where_git_tracks_files_in_it() {
    let project = jekyll_project();
    assert_eq!(jekyll_build(&project, &[]), "", "nothing is tracked yet");
    git(&project, &["init", "--quiet"]);
    git(&project, &["add", "a"]);
    assert_eq!(jekyll_build(&project, &[]), "made\ntracked\n");
    let plan = project.fastbuild(["plan", "--", "jekyll", "build"]).exits(0).out();
    let said = |line: &str| line.contains("a/.jekyll-cache ") && line.contains("git tracks files there");
    assert!(plan.lines().any(|line| line.starts_with("takes in") && said(line)), "{plan}");
    assert_eq!(project.read(".jekyll-cache/x"), "host's\n");
}

#[test]
fn what_is_kept_by_name_is_kept_whatever_git_tracks() {
    let project = jekyll_project();
    git(&project, &["init", "--quiet"]);
    git(&project, &["add", "a"]);
    let options = ["--keep-path", "a/.jekyll-cache"];
    assert_eq!(jekyll_build(&project, &options), "");
    assert_eq!(jekyll_build(&project, &options), "made\n");
}
