//! Builds of one project whose named outputs do not overlap go on side by side in one workspace; all others one after the other, and who
//! waits says for whom and why.

use crate::common::process::{Gated, Watched, beside};
use crate::common::pty::Pty;
use crate::common::{Ended, Project, eventually, processes_in};
use rustix::process::Signal;

/// Its builds are kept, all in one workspace.
fn kept() -> Project {
    Project::kept()
}

fn is_waiting(event: &serde_json::Value) -> bool {
    event["event"] == "waiting-for-lock"
}

#[test]
fn builds_with_different_outputs_run_side_by_side_in_one_workspace() {
    let project = kept();
    project.write("in", "one\n").write("gone", "").write("lib/code", "x");
    let first = Gated::start_after(
        &project,
        &["--no-wait", "-o", "first"],
        "echo begun > first; echo mine > scratch; echo changed > lib/code",
        "cat in scratch lib/code > first",
    );
    let workspace = project.workspace();
    // Between the two, the host changes: the second one sees it, and the first one's own files stay as they are.
    project.write("in", "two\n").write("new", "");
    std::fs::remove_file(project.path("gone")).unwrap();
    let second = Gated::start_after(
        &project,
        &["--no-wait", "-o", "second/"],
        "ls > seen",
        "mkdir second; cp in seen second",
    );
    first.go_on().exits(0);
    assert_eq!(project.read("first"), "two\nmine\nchanged\n");
    second.go_on().exits(0);
    assert_eq!(project.read("second/in"), "two\n");
    assert_eq!(project.read("second/seen"), "first\nin\nlib\nnew\nscratch\nseen\n");
    assert_eq!(project.workspace(), workspace, "one workspace");

    // Who is alone puts all right again.
    let third = project.sh(&["-q", "-o", "third"], "cat lib/code > third; ls");
    assert_eq!(third.exits(0).out(), "first\nin\nlib\nnew\nsecond\nthird\n");
    assert_eq!(project.read("third"), "x");
    project.assert_nothing_left();
}

#[test]
fn what_one_build_makes_another_one_neither_sends_nor_deletes() {
    let project = kept();
    project.write("a", "of before\n").write("dir/b", "of before\n").write("other", "1");
    let first = Gated::start_after(
        &project,
        &["-o", "a", "-o", "dir"],
        "echo now > a; rm -r dir; mkdir dir; echo now > dir/b",
        "true",
    );
    project.write("a", "edited here\n").write("other", "2");
    std::fs::remove_dir_all(project.path("dir")).unwrap();
    let second = project.sh(&["--no-wait", "-o", "c"], "cat a dir/b other > c");
    second.exits(0);
    assert_eq!(project.read("c"), "now\nnow\n2");
    first.go_on().exits(0);
    assert_eq!(project.read("dir/b"), "now\n");
    project.assert_nothing_left();
}

#[test]
fn outputs_outside_of_the_tree_count_as_any_other() {
    let project = kept();
    let first = Gated::start_after(
        &project,
        &["-o", "/tmp/made:made"],
        "echo mine > scratch",
        "mkdir -p /tmp; cp scratch /tmp/made",
    );
    project.sh(&["--no-wait", "-o", "second"], "touch second").exits(0);
    first.go_on().exits(0);
    assert_eq!(project.read("made"), "mine\n");
    project.assert_nothing_left();
}

#[test]
fn where_it_is_not_known_what_the_host_had_a_build_waits_until_it_is_alone() {
    let project = kept();
    let first = Gated::start(&project, &["-o", "first"], "touch first");
    let damage = "for f in /.fastbuild/host-*; do : > $f; done";
    crate::common::docker(&["exec", &project.workspace().unwrap(), "sh", "-c", damage]);
    let mut second = Watched::start(&project, &["-o", "second"], "touch second");
    assert_eq!(second.until("it waits", is_waiting)["pid"], first.run.child().id());
    first.go_on().exits(0);
    second.end().exits(0);
    project.sh(&["-q"], "ls").exits(0);
    project.assert_nothing_left();
}

#[test]
fn who_waits_says_for_whom_and_what_would_let_them_run_together() {
    let project = kept();
    let cases: [(&[&str], &[&str], &str, &str); 4] = [
        (&[], &[], "outputs-to-be-named", "run side by side"),
        (&["-o", "a"], &[], "outputs-to-be-named", "run side by side"),
        (&["-o", "d/a"], &["-o", "d"], "output", "both make /workspace/d"),
        (&["-o", "a"], &["-o", "b", "--exclude", "x"], "other-settings", "leaves out other files"),
    ];
    for (one, other, why, told) in cases {
        let first = Gated::start(&project, one, "mkdir -p d; touch a d/a");
        let mut second = Watched::start(&project, other, "mkdir -p d; touch b");
        let waiting = second.until("it waits", is_waiting);
        assert_eq!(
            (waiting["pid"].as_u64(), waiting["why"].as_str()),
            (Some(first.run.child().id().into()), Some(why))
        );
        let mut command = project.command();
        command.args(["--no-wait"]).args(other).args(["--", "true"]);
        let refused = Ended::from(command.output().unwrap());
        refused.exits(125).says(&["another run works in this project", "leave out --no-wait"]);
        let mut told_to_people =
            project.start(&[&["--progress", "plain"], other].concat(), "mkdir -p d; touch b");
        let said = crate::common::read_until(told_to_people.stderr.as_mut().unwrap(), told);
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains(&first.run.child().id().to_string()), "{said}");
        first.go_on().exits(0);
        second.end().exits(0);
        Ended::of(told_to_people).exits(0);
    }
    project.assert_nothing_left();
}

#[test]
fn builds_that_wait_go_in_the_order_in_which_they_came_and_each_says_so_once() {
    let project = kept();
    let first = Gated::start(&project, &[], "true");
    let mut second = Gated::start_only(&project, &[], "true");
    assert_eq!(second.run.until("it waits", is_waiting)["pid"], first.run.child().id());
    let mut third = Watched::start(&project, &["-o", "x"], "touch x");
    assert_eq!(third.until("it waits", is_waiting)["pid"], first.run.child().id());
    first.go_on().exits(0);
    second.run.until_output("up\n");
    second.run.signal(Signal::STOP);
    let waiting = third.until("who it waits for now stands still", is_waiting);
    assert_eq!(
        (&waiting["pid"], &waiting["holder"]),
        (&second.run.child().id().into(), &"is-stopped".into())
    );
    second.run.signal(Signal::CONT);
    second.go_on().exits(0);
    assert!(!third.end().exits(0).err().contains("waiting-for-lock"));
    project.assert_nothing_left();
}

#[test]
fn the_end_of_one_client_ends_what_it_started_and_nothing_else() {
    for signal in [Signal::TERM, Signal::KILL] {
        // Who came first is the container's main client, and the other one came by an exec.
        for dies_first in [true, false] {
            let project = kept();
            let daemon = |name: &str| format!("{{ setsid sh -c ': {name}; while :; do sleep 1; done' & }}");
            let first = Gated::start_after(&project, &["-o", "a"], &daemon("FIRST"), "touch a");
            let second = Gated::start_after(&project, &["-o", "b"], &daemon("SECOND"), "touch b");
            let workspace = project.workspace().unwrap();
            let is_there = |name: &str| processes_in(&workspace).iter().any(|line| line.contains(name));
            let (dying, going_on, dead, alive) = match dies_first {
                true => (first, second, "FIRST", "SECOND"),
                false => (second, first, "SECOND", "FIRST"),
            };
            dying.run.signal(signal);
            eventually("all that the dead one started is gone", || !is_there(dead));
            assert!(is_there(alive), "{signal:?}: a build died with another one's client");
            drop(dying);
            // A third one finds its place beside the one that is left.
            project.sh(&["--no-wait", "-o", "c"], "touch c").exits(0);
            going_on.go_on().exits(0);
            project.sh(&["-q"], "ls").exits(0);
            eventually("nothing runs there", || processes_in(&workspace).len() == 1);
            eventually("the reaper has done its work", || {
                std::fs::read_dir(project.state().join("runs")).into_iter().flatten().count() == 0
            });
            project.assert_nothing_left();
        }
    }
}

#[test]
fn a_workspace_is_not_replaced_or_removed_under_a_build() {
    let project = kept();
    let first = Gated::start(&project, &["-o", "a"], "touch a");
    let removed = project.fastbuild(["workspace", "rm"]);
    assert!(removed.err().contains("is in use") || removed.err().contains("works in"), "{removed}");
    let mut second = Watched::start(&project, &["-m", "1g", "-o", "b"], "touch b");
    assert_eq!(second.until("it waits", is_waiting)["pid"], first.run.child().id());
    first.go_on().exits(0);
    second.end().exits(0);
    project.assert_nothing_left();
}

/// A job of CI, with a home of its own and the project's name.
fn job(project: &Project, number: u32) -> std::process::Command {
    let mut command = project.command();
    let home = project.outside().join(format!("job-{number}"));
    command.env("HOME", &home).env_remove("FASTBUILD_STATE_DIR").args([
        "--progress",
        "json",
        "--stdin",
        "--keep",
    ]);
    command.stdin(std::process::Stdio::piped());
    command
}

#[test]
fn jobs_with_homes_of_their_own_share_a_named_projects_workspace_by_the_same_rule() {
    use std::io::Write as _;
    let project = kept();
    project.write("fastbuild.toml", format!("name = \"side-by-side-{}\"\n", project.key()));
    let start = |number, options: &[&str], script: &str| {
        let mut run = Watched::spawn(job(&project, number).args(options).args(["--", "sh", "-c", script]));
        let gate = run.stdin();
        (run, gate)
    };
    let (mut first, mut gate) = start(1, &["-o", "a"], "echo up; read -r go; touch a");
    first.until_output("up\n");
    // Another machine's process number says nothing here, but who it is is said all the same.
    let (mut second, _gate) = start(2, &[], "ls");
    let waiting = second.until("it waits", is_waiting);
    assert!(waiting["command"].as_str().unwrap().contains("-- sh -c echo up"), "{waiting}");
    let (third, _gate_of_third) = start(3, &["--no-wait", "-o", "b"], "touch b");
    third.end().exits(125).says(&["works in this project"]);
    gate.write_all(b"go\n").unwrap();
    first.end().exits(0);
    assert!(second.end().exits(0).out().contains("a\n"));
    crate::common::docker(&["rm", "-f", &project.workspaces()[0].0]);
}

const MAKEFILE: &str = "all: a b c d\na b c d:\n\t@$$FASTBUILD -o $@ -- sh -c 'WORK'\n";

#[test]
fn make_with_four_jobs_builds_four_targets_at_once_in_one_container() {
    let project = kept();
    // Each waits until all four are there: one after the other they would never end.
    let work = "touch here-$@; while [ $$(ls here-* | wc -l) -lt 4 ]; do usleep 20000; done; echo $@ > $@; rm -f here-$@-";
    project.write("Makefile", MAKEFILE.replace("WORK", work));
    project.sh(&["-q", "-o", "x"], "touch x").exits(0);
    let made = Ended::from(beside(&project, "make", &["-j4"]).output().unwrap());
    made.exits(0);
    for target in ["a", "b", "c", "d"] {
        assert_eq!(project.read(target), format!("{target}\n"));
    }
    assert_eq!(project.workspaces().len(), 1);
    project.assert_nothing_left();
}

#[test]
fn on_a_terminal_make_with_four_jobs_draws_no_stairs_and_ends_with_one_ctrl_c() {
    let project = kept();
    let work = "touch here-$@; while [ $$(ls here-* | wc -l) -lt 4 ]; do usleep 20000; done; echo one-$@; echo two-$@; : MARK; while :; do sleep 1; done";
    project.write("Makefile", MAKEFILE.replace("WORK", work));
    project.sh(&["-q", "-o", "x"], "touch x").exits(0);
    let pty = Pty::new();
    let mut command = beside(&project, "setsid", &["--ctty", "make", "-j4"]);
    command.env("TERM", "xterm").stdin(pty.stream()).stdout(pty.stream()).stderr(pty.stream());
    let session = pty.spawn(command);
    let all = ["a", "b", "c", "d"].map(|target| format!("two-{target}\r"));
    eventually("all four have written", || all.iter().all(|line| pty.seen().contains(line)));
    let text = pty.seen();
    for line in text.split('\n').filter(|line| line.contains("one-") || line.contains("two-")) {
        assert!(line.ends_with('\r'), "a line does not end at the left edge: {line:?} in {text:?}");
    }
    pty.types(b"\x03");
    session.exits(130);
    let workspace = project.workspace().unwrap();
    eventually("all four are gone", || !processes_in(&workspace).iter().any(|line| line.contains("MARK")));
    project.assert_nothing_left();
}
