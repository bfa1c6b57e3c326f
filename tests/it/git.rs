//! A repository of git's in the source tree: it is in the build as a mount would show it, and a git that is at work here is not disturbed.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use crate::common::{Lifetime, Project};

/// An image that has git.
const TOOLS: &str = "fastbuild/test-tools:latest";

/// Prints whether git finds the tree as it was committed.
const IS_CLEAN: &str = "git status --short; git diff-index --quiet HEAD -- && echo clean";

fn git(directory: &Path, args: &[&str]) -> String {
    let mut git = Command::new("git");
    for who in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{who}_NAME"), "n").env(format!("GIT_{who}_EMAIL"), "n@example.com");
    }
    let output = git.args(args).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A checkout with one commit of `f`.
fn checkout(directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("f"), "1\n").unwrap();
    git(directory, &["init", "-q", "-b", "main"]);
    git(directory, &["add", "."]);
    git(directory, &["commit", "-q", "-m", "first"]);
}

#[test]
fn a_clean_checkout_is_clean_in_the_build_and_here_after_it() {
    for keep in [Lifetime::OneRun, Lifetime::Kept] {
        let project = Project::with_image(TOOLS).keeping(keep);
        checkout(&project.root());
        for _ in 0..2 {
            assert_eq!(project.sh(&[], IS_CLEAN).exits(0).out(), "clean\n");
            assert_eq!(git(&project.root(), &["status", "--short"]), "");
            git(&project.root(), &["diff-index", "--quiet", "HEAD", "--"]);
        }
    }
}

#[test]
fn a_commit_of_a_build_comes_back_whole() {
    for keep in [Lifetime::OneRun, Lifetime::Kept] {
        let project = Project::with_image(TOOLS).keeping(keep);
        checkout(&project.root());
        let script = "echo 2 >f && git -c user.name=n -c user.email=n@example.com commit -q -a -m second && git tag v1";
        project.sh(&[], script).exits(0);
        git(&project.root(), &["fsck", "--strict"]);
        assert_eq!(git(&project.root(), &["log", "--format=%s"]), "second\nfirst\n");
        assert_eq!(git(&project.root(), &["describe", "--tags", "--dirty"]), "v1\n");
        // And the other way round.
        project.write("f", "3\n");
        git(&project.root(), &["commit", "-q", "-a", "-m", "third"]);
        assert_eq!(
            project.sh(&["-q"], "git log --format=%s -1; git fsck --strict").exits(0).out(),
            "third\n"
        );
    }
}

#[test]
fn while_git_is_at_work_here_nothing_of_its_repository_comes_back_or_is_lost() {
    for keep in [Lifetime::OneRun, Lifetime::Kept] {
        let project = Project::new().keeping(keep);
        project.write(".git/index", "here").write(".git/old", "here").write(".git/refs/heads/main.lock", "");
        project.write("sub/.git/index", "here").write("sub/yarn.lock", "");
        let before = project.tree();
        let script = "find . -name '*.lock'; echo new >.git/index; rm .git/old; mkdir -p .git/objects/ab; echo o >.git/objects/ab/cd; \
                      echo new >sub/.git/index; echo made >made";
        let ended = project.sh(&[], script);
        ended.exits(0).says(&["main.lock", "fastbuild recover get", ".git"]);
        assert_eq!(ended.out(), "./sub/yarn.lock\n", "locks never go up");
        assert_eq!((project.read("made"), project.read("sub/.git/index")), ("made\n".into(), "new\n".into()));
        for (path, node) in &before.0 {
            if path.starts_with(b".git") {
                assert_eq!(project.tree().0.get(path), Some(node), "{}", path.escape_ascii());
            }
        }
        assert!(!project.has(".git/objects"));
        let safe: Vec<_> = project.safe().into_iter().filter(|(path, _)| path.starts_with(".git")).collect();
        let held = |path: &str, content: &str| (path.to_owned(), content.to_owned());
        assert_eq!(safe, [held(".git/index", "new\n"), held(".git/objects/ab/cd", "o\n")]);
        // The next build sees what is here; when git is done, what was made can be had.
        assert_eq!(project.sh(&["-q"], "cat .git/index; ls .git").exits(0).out(), "hereindex\nold\nrefs\n");
        fs::remove_file(project.path(".git/refs/heads/main.lock")).unwrap();
        project.fastbuild(["recover", "get", ".git"]).exits(0);
        assert_eq!(
            (project.read(".git/index"), project.read(".git/objects/ab/cd")),
            ("new\n".into(), "o\n".into())
        );
        project.sh(&["-q"], "echo newer >.git/index").exits(0);
        assert_eq!(project.read(".git/index"), "newer\n");
    }
}

#[test]
fn a_repository_that_lies_elsewhere_is_said_to_be_missing_in_the_build() {
    let project = Project::new();
    let main = project.outside().join("main");
    checkout(&main);
    fs::remove_dir(project.root()).unwrap();
    git(&main, &["worktree", "add", "-q", project.root().to_str().unwrap()]);
    let said = |project: &Project, parts: &[&str]| {
        let plan = project.fastbuild(["plan", "--", "make"]).exits(0).out();
        let ended = project.sh(&[], "exit 3");
        for part in parts {
            assert!(plan.contains(part), "{plan}");
        }
        ended.exits(3).says(parts);
    };
    said(&project, &[".git", "/main/.git/worktrees/", "-e"]);
    for options in [&["-q"][..], &[]] {
        let again = project.sh(options, "exit 3").err();
        assert!(!again.contains(".git"), "it is said once: {again}");
    }

    let linked = Project::new();
    symlink(main.join(".git"), linked.path(".git")).unwrap();
    said(&linked, &[".git", "/main/.git"]);

    let borrowing = Project::new();
    fs::remove_dir(borrowing.root()).unwrap();
    git(&main, &["clone", "-q", "--shared", ".", borrowing.root().to_str().unwrap()]);
    said(&borrowing, &["objects", "/main/.git/objects", "git repack -a -d"]);

    let whole = Project::new();
    checkout(&whole.root());
    let below = |path: &str| whole.path(path);
    fs::create_dir(below("sub")).unwrap();
    fs::rename(below(".git"), below("sub/repository")).unwrap();
    fs::write(below(".git"), "gitdir: sub/repository\n").unwrap();
    let failed = whole.sh(&[], "exit 3").exits(3).err();
    assert!(!failed.contains(".git"), "{failed}");
}
