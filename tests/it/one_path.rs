//! One path: a build keeps the same promises for each lifetime, on each route and engine, with the agent and without. Each test is
//! a promise, held in every [`Cell`] of one table; a failure names the cells in which it is broken.

use std::{
    fs,
    os::unix::fs::symlink,
    panic::{AssertUnwindSafe, catch_unwind},
    process::{Command, Stdio},
};

use crate::common::process::{Watched, noise};
use crate::common::{Ended, Lifetime, Project, Tree};
use rustix::process::Signal;

/// Where, how and for how long a build has its workspace.
#[derive(Debug, Clone, Copy)]
struct Cell {
    place: Where,
    route: &'static str,
    lifetime: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Docker,
    /// The plain API of the same engine.
    DockerWithoutAgent,
    Host,
}

fn table() -> Vec<Cell> {
    let all = ["layer", "tmpfs", "volume", "mount-source", "mount"];
    let rows: [(Where, &[&str]); 3] =
        [(Where::Docker, &all), (Where::DockerWithoutAgent, &["layer", "mount"]), (Where::Host, &["host"])];
    let cells = rows.iter().flat_map(|(place, routes)| routes.iter().map(|route| (*place, *route)));
    let lifetimes = ["--keep", "--no-keep"];
    cells.flat_map(|(place, route)| lifetimes.map(|lifetime| Cell { place, route, lifetime })).collect()
}

impl Cell {
    fn project(&self) -> Project {
        let keep = if self.lifetime == "--keep" { Lifetime::Kept } else { Lifetime::OneRun };
        let project = if self.place == Where::Host { Project::here() } else { Project::new() }.keeping(keep);
        project.write("a", "one\n").write("gone", "x").write("sub/b", "two\n").write("plain", "text\n");
        symlink("a", project.path("link")).unwrap();
        project
    }

    fn options<'a>(&self, more: &[&'a str]) -> Vec<&'a str> {
        let agent = if self.place == Where::DockerWithoutAgent { &["--no-agent"][..] } else { &[] };
        [&["--route", self.route, self.lifetime], agent, more].concat()
    }

    fn sh(&self, project: &Project, more: &[&str], script: &str) -> Ended {
        project.sh(&self.options(more), script)
    }

    /// Whether what a command writes beside the outputs is refused, and outputs have to be named.
    fn is_read_only(&self) -> bool {
        self.route == "mount-source"
    }

    /// Whether what a command that fails has written is the host's by then.
    fn writes_on_the_host(&self) -> bool {
        self.route == "mount"
    }

    #[track_caller]
    fn nothing_left(&self, project: &Project) {
        project.assert_nothing_left();
        if self.place == Where::Host && self.lifetime == "--no-keep" {
            assert_eq!(Tree::of(&project.scratch()).paths(), [""; 0], "a scratch directory is left");
        }
    }
}

/// Holds `promise` in a new project of each cell.
fn everywhere(promise: impl Fn(&Cell, &Project)) {
    let is_broken = |cell: &Cell| {
        let project = cell.project();
        let held = catch_unwind(AssertUnwindSafe(|| {
            promise(cell, &project);
            cell.nothing_left(&project);
        }));
        held.inspect_err(|_| eprintln!("in {cell:?}\n")).is_err()
    };
    let broken: Vec<_> = table().into_iter().filter(is_broken).collect();
    assert!(broken.is_empty(), "the promise is broken in {broken:#?}");
}

/// What a script makes of the same tree with nothing of fastbuild's in between.
fn oracle(project: &Project, script: &str) -> Tree {
    let copy = project.outside().join("oracle");
    let _ = fs::remove_dir_all(&copy);
    assert!(Command::new("cp").arg("-a").arg(project.root()).arg(&copy).status().unwrap().success());
    let mut run = Command::new("busybox");
    run.args(["sh", "-c", script]).current_dir(&copy).stdin(Stdio::null());
    Ended::from(run.output().unwrap()).exits(0);
    Tree::of(&copy)
}

/// Products of each kind below `out`. Only what a script sets itself has the same time on both sides.
const PRODUCTS: &str = "mkdir -p out/empty out/sub; cat a sub/b link > out/sub/all; cp a 'out/two words'; \
                        ln -s ../a out/link; ln -s nowhere out/dangling; echo run > out/tool; chmod 755 out/tool; \
                        chmod 700 out/sub; printf 'x\\000\\377' > \"out/$(printf '\\377')\"; \
                        find out -type f | while read -r f; do touch -d @1700000000 \"$f\"; done";

#[test]
fn named_outputs_are_what_the_command_made() {
    everywhere(|cell, project| {
        for round in 0..2 {
            let script = format!("{PRODUCTS}; [ {round} = 0 ] && touch -d @1700000000 out/early; true");
            let _ = fs::remove_dir_all(project.path("out"));
            let script = format!("rm -rf out/*; {script}");
            let expected = oracle(project, &script);
            cell.sh(project, &["-o", "out"], &script).exits(0);
            assert_eq!(project.tree(), expected, "round {round}");
        }
    });
}

#[test]
fn without_named_outputs_all_changes_come_back() {
    everywhere(|cell, project| {
        if cell.is_read_only() {
            project
                .sh(&cell.options(&[]), "true")
                .exits(125)
                .says(&["name each directory that the command writes"]);
            return;
        }
        let script = format!(
            "{PRODUCTS}; rm gone link; echo more >> a; touch -d @1700000001 a; mv sub moved; mkdir a-dir; chmod 640 plain"
        );
        let expected = oracle(project, &script);
        cell.sh(project, &[], &script).exits(0);
        assert_eq!(project.tree(), expected);
        // And what the host does then is what the next command sees.
        project.write("a", "edited\n");
        fs::remove_dir_all(project.path("moved")).unwrap();
        let ended = cell.sh(project, &[], "cat a out/sub/all; test ! -e moved");
        assert_eq!(ended.exits(0).out(), "edited\none\ntwo\none\n");
    });
}

#[test]
fn the_exit_code_is_the_commands() {
    everywhere(|cell, project| {
        for code in [0, 7] {
            cell.sh(project, &["-o", "out"], &format!("mkdir -p out; exit {code}")).exits(code);
        }
        for (command, code) in [("./plain", 126), ("no-such-program-anywhere", 127)] {
            let words = cell.options(&["-o", "out", "--", command]);
            project.fastbuild(words).exits(code).says(&[command.trim_start_matches("./")]);
        }
        // Once in a workspace that is new, and once in one that is there.
        let times = if cell.lifetime == "--keep" { 2 } else { 1 };
        for _ in 0..times {
            let wait = "echo ready; while :; do sleep 0.05; done";
            let mut run = Watched::start(project, &cell.options(&["-o", "out"]), wait);
            run.until_output("ready\n");
            run.signal(Signal::INT);
            run.end().exits(130);
            cell.nothing_left(project);
        }
    });
}

#[test]
fn streams_are_the_commands_byte_for_byte_and_apart() {
    everywhere(|cell, project| {
        let (out, err) = (noise(1, 300_000), noise(2, 300_000));
        project.write("stdout", &out).write("stderr", &err);
        let script = "cat stderr >&2 & cat stdout; wait; mkdir -p out; exit 5";
        let ended = cell.sh(project, &["-q", "-o", "out"], script);
        assert_eq!(ended.code, 5);
        assert!(ended.stdout == out, "{} bytes of stdout", ended.stdout.len());
        assert!(ended.stderr == err, "{} bytes of stderr", ended.stderr.len());
    });
}

#[test]
fn a_command_that_closes_its_streams_goes_on_to_its_end() {
    everywhere(|cell, project| {
        let script = "echo said; exec >&- 2>&-; sleep 0.2; mkdir -p out; cat a > out/late; exit 0";
        assert_eq!(cell.sh(project, &["-o", "out"], script).exits(0).out(), "said\n");
        assert_eq!(project.read("out/late"), "one\n");
        cell.sh(project, &["-o", "out"], "exec <&- >&- 2>&-; sleep 0.2; exit 9").exits(9);
    });
}

#[test]
fn an_absolute_output_comes_back_beside_one_of_the_tree() {
    everywhere(|cell, project| {
        let far = format!("/tmp/made-far-{}", project.key());
        let output = format!("{far}:far");
        let script = format!("rm -rf {far}; mkdir -p out {far}/d; cat a > {far}/d/x; cat sub/b > out/y");
        let ended = cell.sh(project, &["-o", &output, "-o", "out"], &script);
        // On this machine it is this machine's.
        let _ = fs::remove_dir_all(&far);
        ended.exits(0);
        assert_eq!((project.read("far/d/x"), project.read("out/y")), ("one\n".into(), "two\n".into()));
        let missing = cell.sh(project, &["-o", "/nothing-there:x", "-o", "out"], "mkdir -p out");
        missing.exits(125).says(&["did not make", "/nothing-there"]);
        assert!(!project.has("x"));
    });
}

#[test]
fn a_failed_build_leaves_the_host_as_it_was() {
    everywhere(|cell, project| {
        let spoil = if cell.is_read_only() { "" } else { "echo spoilt > a; rm gone;" };
        let script = format!("{spoil} mkdir -p out; echo x > out/x; exit 3");
        let before = project.tree();
        cell.sh(project, &["-o", "out"], &script).exits(3);
        if cell.writes_on_the_host() {
            assert_eq!((project.read("a").as_str(), project.has("gone")), ("spoilt\n", false));
            return;
        }
        assert_eq!(project.tree(), before);
        // Nor does the next build see any of it among its sources.
        let ended = cell.sh(project, &["-o", "out"], "cat a gone; mkdir -p out; echo well > out/x");
        assert_eq!(ended.exits(0).out(), "one\nx");
        assert_eq!(project.read("out/x"), "well\n");
    });
}
