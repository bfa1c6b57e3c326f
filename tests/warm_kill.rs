//! Rules 4, 7, 8 and 9 in a workspace: whatever is killed, and whenever, the host is as it was or as the build made it,
//! nothing of the build runs any more, and the next plain run is right.

mod common;
#[path = "common/process.rs"]
mod process;
#[path = "common/proxy.rs"]
mod proxy;
#[path = "common/warm.rs"]
mod warm;

use common::{Ended, Project, docker, eventually, processes_in};
use process::Watched;
use proxy::{Fault, Proxy, Which};
use rustix::process::Signal;
use warm::{event, in_workspace, sees_the_host};

/// The phases of a warm build, in order.
const PHASES: [&str; 8] = ["scan", "workspace", "compare", "upload", "start", "build", "collect", "apply"];

/// Changes, makes and deletes something, and has a process beside it that would go on for ever.
const SCRIPT: &str = "echo changed > source; echo x > made; rm -f old; \
                      setsid sh -c 'while :; do sleep 1; done' & echo ready";

/// Waits without end in steps short enough for traps to be looked at.
const WAIT: &str = "while :; do usleep 50000; done";

/// A project with a workspace in which one build has run.
fn project() -> Project {
    let project = Project::new();
    project.write("source", "text").write("old", "text").write("dir/other", "text");
    sees_the_host(&project, &[]);
    project
}

/// Gives the sources other contents, so that something has to go up.
fn edit(project: &Project, what: &str) {
    let _ = std::fs::remove_file(project.path("made"));
    project.write("source", format!("text for {what}")).write("old", format!("old for {what}"));
}

/// Nothing of the build runs, the lock is free, and the next run sees what the host has.
#[track_caller]
fn all_is_well(project: &Project, what: &str) -> Ended {
    let ended = sees_the_host(project, &["--no-wait"]);
    assert!(!ended.err().contains("\"conflict\""), "{what}: {ended}");
    project.assert_nothing_left();
    ended
}

#[track_caller]
fn nothing_runs(project: &Project, what: &str) {
    let Some(workspace) = project.workspace() else { return };
    let running = processes_in(&workspace);
    assert!(running.is_empty() || running == ["/.fastbuild/agent init"], "{what}: {running:?}");
}

/// The host has all of the products or none, before the next run as well as after it.
#[track_caller]
fn all_or_nothing(project: &Project, before: &common::Tree, what: &str) {
    let now = project.tree();
    if now != *before {
        let products = (project.read("source"), project.read("made"), project.has("old"));
        assert_eq!(products, ("changed\n".into(), "x\n".into(), false), "{what}");
    }
}

/// Waits until the reaper has done its work: the run's file is the last thing that it removes.
fn reaped(project: &Project) {
    let runs = || std::fs::read_dir(project.state().join("runs")).into_iter().flatten().count();
    eventually("the reaper has done its work", || runs() == 0);
}

#[test]
fn killed_at_the_beginning_of_any_phase() {
    let project = project();
    for phase in PHASES {
        edit(&project, phase);
        let before = project.tree();
        let mut run = Watched::start(&project, &[], &format!("{SCRIPT}; sleep 0.2"));
        run.until_phase(phase);
        run.signal(Signal::KILL);
        run.end().exits(137);
        reaped(&project);
        nothing_runs(&project, phase);
        all_or_nothing(&project, &before, phase);
        all_is_well(&project, phase);
    }
}

#[test]
fn killed_with_its_reaper_at_the_beginning_of_any_phase() {
    let project = project();
    for phase in PHASES {
        edit(&project, phase);
        let before = project.tree();
        let mut run = Watched::start(&project, &[], SCRIPT);
        run.until_phase(phase);
        if let Some(reaper) = reaper_of(run.child().id()) {
            let _ = rustix::process::kill_process(reaper, Signal::KILL);
        }
        run.signal(Signal::KILL);
        run.end().exits(137);
        // Nobody is there to tidy up: the next run does, and finishes what was being put in place.
        let next = sees_the_host_or_says_so(&project, phase);
        all_or_nothing(&project, &before, phase);
        assert!(!next.err().contains("\"conflict\""), "{phase}: {next}");
        all_is_well(&project, phase);
    }
}

/// As [`sees_the_host`], for a run that may begin with putting something in place.
fn sees_the_host_or_says_so(project: &Project, what: &str) -> Ended {
    let ended = warm::json(project, &["--no-wait"], warm::LIST);
    assert_eq!(ended.exits(0).out(), warm::host_list(project), "{what}: {}", ended.err());
    ended
}

#[test]
fn interrupted_at_the_beginning_of_any_phase() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let project = project();
        for phase in PHASES {
            let what = format!("{signal:?} at {phase}");
            edit(&project, phase);
            let before = project.tree();
            let mut run = Watched::start(&project, &[], SCRIPT);
            run.until_phase(phase);
            run.signal(signal);
            let ended = run.end();
            assert!([0, code].contains(&ended.code), "{what}: {ended}");
            nothing_runs(&project, &what);
            if ended.code == code {
                assert_eq!(project.tree(), before, "{what}: {ended}");
            }
            all_or_nothing(&project, &before, &what);
            reaped(&project);
            all_is_well(&project, &what);
        }
    }
}

#[test]
fn an_interrupt_reaches_the_command_and_all_that_it_started_is_dead_afterwards() {
    let project = project();
    let script = format!("trap 'echo got it; exit 7' INT; {SCRIPT}; {WAIT}");
    let mut run = Watched::start(&project, &["--outputs-on-failure"], &script);
    run.until_output("ready\n");
    run.signal(Signal::INT);
    let ended = run.end();
    assert_eq!(ended.exits(7).out(), "got it\n");
    nothing_runs(&project, "a trap that ends the command");
    assert_eq!(project.read("made"), "x\n");
    all_is_well(&project, "a trap that ends the command");

    let mut run = Watched::start(&project, &[], &format!("trap '' INT TERM; {SCRIPT}; {WAIT}"));
    run.until_output("ready\n");
    run.signal(Signal::INT);
    run.until("the signal's arrival", |event| event["warning"] == "signalled");
    run.signal(Signal::INT);
    run.end().exits(137);
    nothing_runs(&project, "a second interrupt");
    all_is_well(&project, "a second interrupt");
}

#[test]
fn the_workspace_is_killed_in_the_middle_of_a_build() {
    type End = fn(&str);
    let ends: [(End, &str, &str); 3] = [
        (|workspace| drop(docker(&["kill", workspace])), "kill", "started"),
        (|workspace| drop(docker(&["stop", "--time", "0", workspace])), "stop", "started"),
        (|workspace| drop(docker(&["rm", "--force", workspace])), "rm", "made"),
    ];
    for (end, name, how) in ends {
        let project = project();
        edit(&project, name);
        let before = project.tree();
        let mut run = Watched::start(&project, &[], &format!("{SCRIPT}; {WAIT}"));
        run.until_output("ready\n");
        end(&project.workspace().unwrap());
        let ended = run.end();
        ended.exits(125).says(&["workspace", "run the build again"]);
        assert_eq!(project.tree(), before, "{name}: {ended}");
        reaped(&project);
        assert_eq!(event(&all_is_well(&project, name), "workspace")["how"], how, "{name}");
    }
}

#[test]
fn the_workspace_is_killed_at_the_beginning_of_any_phase() {
    let project = project();
    for phase in ["workspace", "compare", "upload", "start", "build", "collect", "apply"] {
        edit(&project, phase);
        let before = project.tree();
        let workspace = project.workspace().unwrap();
        let mut run = Watched::start(&project, &[], SCRIPT);
        run.until_phase(phase);
        docker(&["kill", &workspace]);
        let ended = run.end();
        assert!([0, 125].contains(&ended.code), "{phase}: {ended}");
        if ended.code != 0 {
            assert_eq!(project.tree(), before, "{phase}: {ended}");
        }
        all_or_nothing(&project, &before, phase);
        reaped(&project);
        all_is_well(&project, phase);
    }
}

#[test]
fn the_session_is_killed_in_the_middle_of_a_build() {
    let project = project();
    edit(&project, "session");
    let before = project.tree();
    let mut run = Watched::start(&project, &[], &format!("{SCRIPT}; {WAIT}"));
    run.until_output("ready\n");
    let kill = "for p in /proc/[0-9]*; do if grep -q session $p/cmdline && ! grep -q grep $p/cmdline; then \
                kill -9 ${p#/proc/}; fi; done 2>/dev/null; true";
    // The shell that runs this may go with it.
    let workspace = project.workspace().unwrap();
    let _ = std::process::Command::new("docker").args(["exec", &workspace, "sh", "-c", kill]).output();
    let ended = run.end();
    ended.exits(125);
    assert_eq!(project.tree(), before, "{ended}");
    nothing_runs(&project, "the session is gone");
    reaped(&project);
    all_is_well(&project, "the session is gone");
}

#[test]
fn the_connection_is_cut_in_the_middle_of_the_session() {
    for after in [0, 150, 400, 1_000, 4_000] {
        let project = project();
        edit(&project, "cut");
        let before = project.tree();
        let proxy = Proxy::new(&project.outside());
        proxy.on("POST", "/attach", Which::Nth(1), Fault::CutAnswer(after));
        let ended = warm::json(&project, &["-H", &proxy.address()], &format!("seq 1 2000; {SCRIPT}"));
        assert!([0, 125].contains(&ended.code), "{after}: {ended}");
        nothing_runs(&project, &format!("cut after {after}"));
        all_or_nothing(&project, &before, &format!("cut after {after}"));
        if ended.code != 0 {
            assert_eq!(project.tree(), before, "{after}: {ended}");
        }
        reaped(&project);
        all_is_well(&project, &format!("cut after {after}"));
    }
}

#[test]
fn an_upload_is_cut_and_the_next_run_makes_it_good() {
    for after in [60_000, 1_000_000] {
        let project = project();
        project.write("large", process::noise(after, 3_000_000));
        let proxy = Proxy::new(&project.outside());
        proxy.on("POST", "/attach", Which::Nth(1), Fault::CutRequest(after));
        let ended = warm::json(&project, &["-H", &proxy.address()], SCRIPT);
        assert!([0, 125].contains(&ended.code), "{after}: {ended}");
        nothing_runs(&project, &format!("cut after {after}"));
        all_is_well(&project, &format!("cut after {after}"));
    }
}

#[test]
fn the_engine_is_gone_in_the_middle_of_a_build_and_nothing_of_it_goes_on() {
    let project = project();
    edit(&project, "gone");
    let before = project.tree();
    let proxy = Proxy::new(&project.outside());
    let mut run = Watched::start(&project, &["-H", &proxy.address()], &format!("{SCRIPT}; {WAIT}"));
    run.until_output("ready\n");
    drop(proxy);
    let ended = run.end();
    ended.exits(125);
    assert_eq!(project.tree(), before, "{ended}");
    let workspace = project.workspace().unwrap();
    eventually("the agent has missed its client", || processes_in(&workspace) == ["/.fastbuild/agent init"]);
    all_is_well(&project, "the engine was gone");
}

#[test]
fn what_a_killed_build_was_making_is_no_product_of_the_next_one() {
    let project = project();
    let mut run = Watched::start(&project, &[], &format!("echo half > half; {SCRIPT}; {WAIT}"));
    run.until_output("ready\n");
    run.signal(Signal::KILL);
    run.end().exits(137);
    reaped(&project);
    let ended = sees_the_host(&project, &[]);
    assert_eq!(event(&ended, "finished")["applied"]["written"], 0, "{ended}");
    assert!(!project.has("half"), "{ended}");
    assert_eq!(in_workspace(&project, "ls"), "dir\nold\nsource\n");
}

/// The reaper that the fastbuild with process id `parent` started, if it has come so far.
fn reaper_of(parent: u32) -> Option<rustix::process::Pid> {
    let is_reaper = |pid: u32| {
        let of = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let is_child = of("status").lines().any(|line| line == format!("PPid:\t{parent}"));
        is_child && of("cmdline").contains("\0__reap\0")
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.into_iter().find(|pid| is_reaper(*pid)).and_then(|pid| rustix::process::Pid::from_raw(pid as i32))
}
