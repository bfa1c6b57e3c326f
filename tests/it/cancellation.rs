//! Rules 9 and 7: signals reach the build, a second one ends it, and nothing of it outlives fastbuild, however
//! fastbuild itself ends.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{Arc, Mutex, mpsc},
};

use crate::common::process::Watched;
use crate::common::proxy::{Fault, Proxy, Which};
use crate::common::{Ended, Project, Tree, docker, eventually};
use rustix::process::Signal;

/// A command that says `ready`, and then waits without end in steps short enough for traps to be looked at.
const WAIT: &str = "echo ready; while :; do usleep 50000; done";

/// Seconds of uploading or collecting, in bytes.
const LONG: u64 = 2 << 30;

#[test]
fn a_signal_reaches_the_build_whose_exit_code_it_is_then() {
    let signals = [(Signal::INT, "INT", 41), (Signal::TERM, "TERM", 42), (Signal::HUP, "HUP", 43)];
    for (signal, name, code) in signals {
        let project = Project::new();
        let script = format!("trap 'echo marker > marker; echo got {name}; exit {code}' {name}; {WAIT}");
        let mut run = Watched::start(&project, &["--outputs-on-failure"], &script);
        run.until_output("ready\n");
        run.signal(signal);
        let ended = run.end();
        assert_eq!(ended.exits(code).out(), format!("got {name}\n"));
        ended.says(&["\"signalled\"", &format!("\"SIG{name}\"")]);
        assert_eq!(project.read("marker"), "marker\n");
        project.assert_nothing_left();
    }
}

#[test]
fn a_build_that_handles_the_signal_and_ends_well_brings_its_products_back() {
    let project = Project::new();
    let mut run = Watched::start(&project, &[], &format!("trap 'echo x > made; exit 0' INT; {WAIT}"));
    run.until_output("ready\n");
    run.signal(Signal::INT);
    run.end().exits(0);
    assert_eq!(project.read("made"), "x\n");
    project.assert_nothing_left();
}

#[test]
fn a_second_interrupt_ends_a_command_that_ignores_the_first() {
    let project = Project::new();
    project.write("source", "text");
    let before = project.tree();
    let mut run = Watched::start(&project, &[], &format!("trap '' INT; echo x > made; {WAIT}"));
    run.until_output("ready\n");
    run.signal(Signal::INT);
    run.until("the signal's arrival", |event| event["warning"] == "signalled");
    assert_eq!(project.containers().len(), 1, "one signal alone is the command's own business");
    run.insists(Signal::INT);
    run.end().exits(130);
    assert_eq!(project.tree(), before);
    project.assert_nothing_left();
}

#[test]
fn a_command_that_ignores_sigterm_is_killed_when_its_grace_is_over() {
    let project = Project::new();
    let mut run = Watched::start(&project, &[], &format!("trap '' TERM; {WAIT}"));
    run.until_output("ready\n");
    run.signal(Signal::TERM);
    run.end().exits(143);
    project.assert_nothing_left();
}

#[test]
fn without_an_agent_a_signal_between_the_commands_end_and_its_exit_code_ends_the_run() {
    let project = Project::new();
    project.write("source", "text");
    let before = project.tree();
    let proxy = Proxy::new(&project.outside());
    // The exit code is held back. When the streams have ended and it does not come, the container is looked at; that
    // is the event by which the streams' end is known here.
    let (looked_at, is_looked_at) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let hold = move |_: &str| {
        let _ = released.lock().unwrap().recv();
    };
    let tell = move |path: &str| {
        if path.ends_with("/json") {
            looked_at.send(()).unwrap();
        }
    };
    proxy.on("POST", "/wait", Which::All, Fault::First(Arc::new(hold)));
    proxy.on("GET", "/containers/", Which::All, Fault::First(Arc::new(tell)));
    let mut run = Watched::start(&project, &["--no-agent", "-H", &proxy.address()], "echo changed > source");
    run.until_phase("build");
    while is_looked_at.try_recv().is_ok() {}
    is_looked_at.recv().unwrap();
    run.signal(Signal::TERM);
    let ended = run.end();
    drop(release);
    ended.exits(143).says(&["ended by SIGTERM"]);
    assert!(!ended.err().contains("signalled"), "nobody was there to get it: {ended}");
    assert!(!ended.err().contains("panicked"), "{ended}");
    assert_eq!(project.tree(), before);
    project.assert_nothing_left();
}

#[test]
fn no_process_of_the_build_outlives_it() {
    let project = Project::new();
    // No other command line on this machine holds the project's key.
    let mark = format!("marked-{}", project.key());
    let script = format!("setsid sh -c 'while :; do sleep 1; done; : {mark}' & {WAIT}");
    let mut run = Watched::start(&project, &[], &format!("trap 'exit 6' INT; {script}"));
    run.until_output("ready\n");
    eventually("the detached process runs, and can be seen from here", || processes_with(&mark) > 0);
    run.signal(Signal::INT);
    run.end().exits(6);
    eventually("the detached process is gone", || processes_with(&mark) == 0);
    project.assert_nothing_left();
}

/// How many processes outside of this test have `mark` on their command line and run a detached loop of the build's.
fn processes_with(mark: &str) -> usize {
    let own = std::process::id().to_string();
    let is_ours = |pid: &Path| {
        let line = std::fs::read(pid.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.starts_with("sh\0-c\0while") && line.contains(mark)
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter(|entry| entry.file_name().to_str() != Some(&own) && is_ours(&entry.path())).count()
}

#[test]
fn an_interrupt_during_the_upload_leaves_nothing() {
    let project = Project::new();
    project.write("source", "text");
    sparse(&project, "big", LONG);
    let before = small_tree(&project);
    let mut run = Watched::start(&project, &[], "echo the command ran");
    run.until_amid("upload");
    run.signal(Signal::INT);
    let ended = run.end();
    assert_eq!(ended.exits(130).out(), "");
    ended.says(&["SIGINT", "the host's files are as they were"]);
    assert_eq!(small_tree(&project), before);
    eventually("the container is gone", || project.containers().is_empty());
    project.assert_nothing_left();
}

#[test]
fn an_interrupt_during_the_collect_leaves_the_host_as_it_was() {
    let project = Project::new();
    project.write("source", "text");
    let before = project.tree();
    let mut run = Watched::start(&project, &[], &format!("echo changed > source; {}", make_big()));
    run.until_amid("collect");
    assert!(!project.stages().is_empty(), "nothing is being staged");
    run.signal(Signal::INT);
    let ended = run.end();
    ended.exits(130).says(&["SIGINT", "the host's files are as they were"]);
    // On a slow disk the reaper removes it, after the end of the run.
    eventually("the staging directory is gone", || project.stages().is_empty());
    assert_eq!(project.tree(), before);
    project.assert_nothing_left();
}

#[test]
fn killed_while_it_scans_it_leaves_nothing() {
    let project = Project::new();
    for n in 0..2_000 {
        project.write(format!("dir{}/file{n}", n % 50), "text");
    }
    killed_amid(&project, "true", |run| {
        run.until_phase("scan");
    });
}

#[test]
fn killed_while_it_makes_the_container_it_leaves_nothing() {
    killed_amid(&Project::new(), "true", |run| {
        run.until_phase("workspace");
    });
}

#[test]
fn killed_while_it_uploads_it_leaves_nothing() {
    let project = Project::new();
    sparse(&project, "big", LONG);
    killed_amid(&project, "true", |run| run.until_amid("upload"));
}

#[test]
fn killed_while_the_command_runs_it_leaves_nothing() {
    killed_amid(&Project::new(), &format!("echo x > made; {WAIT}"), |run| run.until_output("ready\n"));
}

#[test]
fn killed_while_it_collects_it_leaves_nothing() {
    killed_amid(&Project::new(), &make_big(), |run| run.until_amid("collect"));
}

/// Kills fastbuild once `reached` has returned; its reaper leaves nothing, and the host is as it was.
fn killed_amid(project: &Project, script: &str, reached: impl FnOnce(&mut Watched)) {
    project.write("source", "text");
    let before = small_tree(project);
    let mut run = Watched::start(project, &[], &format!("echo changed > source; {script}"));
    reached(&mut run);
    run.signal(Signal::KILL);
    run.end().exits(137);
    reaped(project);
    assert_eq!(small_tree(project), before);
    project.assert_nothing_left();
}

/// Waits until the reaper has done its work: the run's file is the last thing that it removes.
fn reaped(project: &Project) {
    let runs = || std::fs::read_dir(project.state().join("runs")).into_iter().flatten().count();
    eventually("the reaper has removed what the killed run left", || runs() == 0);
}

#[test]
fn when_the_reaper_is_killed_too_the_container_ends_and_goes_by_itself() {
    let project = Project::new();
    let mut run = Watched::start(&project, &[], WAIT);
    run.until_output("ready\n");
    assert_eq!(project.containers().len(), 1);
    let reaper = reaper_of(run.child().id());
    rustix::process::kill_process(reaper, Signal::KILL).unwrap();
    run.signal(Signal::KILL);
    run.end().exits(137);
    eventually("the container is gone", || project.containers().is_empty());

    let ended = project.sh(&[], "echo the next one");
    assert_eq!(ended.exits(0).out(), "the next one\n");
    project.assert_nothing_left();
}

#[test]
fn a_volume_goes_with_the_run_whose_container_somebody_else_has_removed_without_it() {
    let project = Project::new();
    project.write("source", "text");
    for who in ["client", "reaper"] {
        let mut run = Watched::start(&project, &["--route", "volume"], WAIT);
        run.until_output("ready\n");
        assert_eq!(project.volumes().len(), 1);
        if who == "reaper" {
            // Whatever it does next it does after the kill.
            run.signal(Signal::STOP);
        }
        docker(&["rm", "--force", &project.containers()[0]]);
        if who == "reaper" {
            run.signal(Signal::KILL);
        }
        run.end();
        reaped(&project);
        project.assert_nothing_left();
    }
}

#[test]
fn without_an_agent_the_next_start_removes_what_a_run_and_its_reaper_left_and_says_so() {
    let project = Project::new();
    let mut run = Watched::start(&project, &["--no-agent"], WAIT);
    run.until_output("ready\n");
    let left = project.containers();
    assert_eq!(left.len(), 1);
    let reaper = reaper_of(run.child().id());
    rustix::process::kill_process(reaper, Signal::KILL).unwrap();
    run.signal(Signal::KILL);
    run.end().exits(137);
    assert_eq!(project.containers(), left, "somebody else has removed the container");

    let ended = project.sh(&[], "echo the next one");
    assert_eq!(ended.exits(0).out(), "the next one\n");
    ended.says(&["was left by an earlier run that was killed; it was removed", &project.key()]);
    project.assert_nothing_left();

    let ended = project.sh(&[], "true");
    assert!(!ended.exits(0).err().contains("was left"), "told twice: {ended}");
}

#[test]
fn a_container_of_a_run_that_lives_is_no_leftover() {
    let (one, other) = (Project::new(), Project::new());
    let mut run = Watched::start(&one, &[], &format!("trap 'exit 9' INT; {WAIT}"));
    run.until_output("ready\n");
    // Another project, one state directory.
    let ended: Ended =
        other.command().env("FASTBUILD_STATE_DIR", one.state()).args(["--", "true"]).output().unwrap().into();
    assert!(!ended.exits(0).err().contains("was left"), "{ended}");
    assert_eq!(one.containers().len(), 1);
    run.signal(Signal::INT);
    run.end().exits(9);
    one.assert_nothing_left();
}

#[test]
fn ctrl_c_for_the_whole_process_group_does_not_end_the_reaper() {
    use std::os::unix::process::CommandExt as _;
    let project = Project::new();
    let mut command = project.command();
    command.args(["--progress", "json", "--", "sh", "-c", &format!("trap '' INT; {WAIT}")]);
    let mut run = Watched::spawn(command.process_group(0));
    run.until_output("ready\n");
    let group = rustix::process::Pid::from_child(run.child());
    rustix::process::kill_process_group(group, Signal::INT).unwrap();
    run.until("the signal's arrival", |event| event["warning"] == "signalled");
    run.signal(Signal::KILL);
    run.end().exits(137);
    reaped(&project);
    project.assert_nothing_left();
}

#[test]
fn the_reaper_ends_with_the_run() {
    let project = Project::new();
    let mut run = Watched::start(&project, &[], &format!("trap 'exit 8' INT; {WAIT}"));
    run.until_output("ready\n");
    let reaper = reaper_of(run.child().id());
    run.signal(Signal::INT);
    run.end().exits(8);
    eventually("the reaper has ended", || rustix::process::test_kill_process(reaper).is_err());
}

#[test]
fn an_interrupt_at_the_beginning_of_any_phase_gives_all_or_nothing() {
    for phase in ["scan", "workspace", "compare", "start", "build", "collect", "apply", "remove"] {
        let project = Project::new();
        project.write("source", "text").write("old", "text");
        let before = project.tree();
        let mut run = Watched::start(&project, &[], "echo changed > source; echo x > made; rm old");
        run.until_phase(phase);
        run.signal(Signal::INT);
        let ended = run.end();
        match ended.code {
            0 => assert_eq!(
                (project.read("source").as_str(), project.read("made").as_str(), project.has("old")),
                ("changed\n", "x\n", false),
                "{phase}: {ended}"
            ),
            130 => assert_eq!(project.tree(), before, "{phase}: {ended}"),
            _ => panic!("{phase}: {ended}"),
        }
        // A creation that was cut off may still come about: then the reaper waits for it.
        reaped(&project);
        project.assert_nothing_left();
    }
}

/// The reaper that the fastbuild with process id `parent` started.
fn reaper_of(parent: u32) -> rustix::process::Pid {
    let is_reaper = |pid: u32| {
        let of = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let is_child = of("status").lines().any(|line| line == format!("PPid:\t{parent}"));
        is_child && of("cmdline").contains("\0__reap\0")
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let reaper = pids.into_iter().find(|pid| is_reaper(*pid)).expect("a reaper");
    rustix::process::Pid::from_raw(reaper.try_into().unwrap()).unwrap()
}

/// A command that makes a product of [`LONG`] bytes.
fn make_big() -> String {
    format!("truncate -s {LONG} made")
}

/// A file of the host's that takes no room here and `len` bytes on its way.
fn sparse(project: &Project, path: &str, len: u64) {
    File::create(project.path(path)).unwrap().write_all_at(b"!", len - 1).unwrap();
}

/// The tree without what is too big to be read into memory.
fn small_tree(project: &Project) -> Tree {
    let big = project.path("big");
    let aside = project.outside().join("aside");
    let moved = std::fs::rename(&big, &aside).is_ok();
    let tree = project.tree();
    if moved {
        std::fs::rename(&aside, &big).unwrap();
    }
    tree
}
