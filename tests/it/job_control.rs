//! Rule 9: in a shell, fastbuild behaves as its command would. Each promise is tried where it is made: by a shell, in a
//! pseudo-terminal, against the engine and without one.

use std::{fs, io::Write as _, os::unix::process::ExitStatusExt as _, process::Stdio};

use crate::common::process::{Gated, Watched, beside, send};
use crate::common::pty::{Pty, Session};
use crate::common::{Project, eventually, processes_in, read_until};
use rustix::process::Signal;

/// Says `ready`, which a command line that is typed does not hold yet, and waits without end. In the container and here there are
/// other sleeps.
const WAIT: &str = "echo read\\y; while :; do usleep 50000 2>/dev/null || sleep 0.05; done";

/// Whether the command has a terminal, or not.
const TERMINALS: [&str; 2] = ["-q", "-q --no-tty"];

type Place = fn() -> Project;

const PLACES: [Place; 2] = [Project::kept, Project::here];

/// `PROGRAM ARGS…` in a session of its own, whose terminal is `pty`.
fn at(pty: &Pty, project: &Project, program: &str, args: &[&str]) -> Session {
    let args: Vec<_> = ["--ctty", program].iter().chain(args).copied().collect();
    let mut command = beside(project, "setsid", &args);
    command.env("TERM", "xterm").env("PS1", "$ ");
    command.stdin(pty.stream()).stdout(pty.stream()).stderr(pty.stream());
    pty.spawn(command)
}

/// A user's shell, with a prompt on the screen.
fn shell(pty: &Pty, project: &Project) -> Session {
    let shell = at(pty, project, "bash", &["--norc", "-i"]);
    prompt(pty);
    shell
}

/// A script in the project, by its name.
fn script(project: &Project, text: &str) -> String {
    let path = project.outside().join("script");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A word on the command line of the build's processes that no others have.
fn mark(project: &Project) -> String {
    format!("marked-{}", project.key())
}

/// What `/proc` says of the states of the build's own shells.
fn states(project: &Project) -> Vec<char> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let state = |pid: &fs::DirEntry| {
        let line = fs::read(pid.path().join("cmdline")).unwrap_or_default();
        let is_one = line.starts_with(b"sh\0-c\0") && String::from_utf8_lossy(&line).contains(&mark(project));
        let stat = fs::read_to_string(pid.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).filter(|_| is_one)
    };
    entries.filter_map(|pid| state(&pid)).collect()
}

fn until_stopped(project: &Project) {
    eventually("the build is stopped", || {
        let states = states(project);
        // One that has a child which is stopped before its exec waits for that.
        states.contains(&'T') && states.iter().all(|state| matches!(state, 'T' | 'D'))
    });
}

fn until_going_on(project: &Project) {
    eventually("the build goes on", || {
        let states = states(project);
        !states.is_empty() && states.iter().all(|state| *state != 'T')
    });
}

/// Until the shell is there again.
fn prompt(pty: &Pty) {
    pty.until("$ ");
}

/// Types a question whose answer is not in it, at a prompt, and waits for the next prompt.
fn asks(pty: &Pty, question: &str, answer: &str) {
    pty.types(format!("{question}\n").as_bytes());
    pty.until(answer);
    prompt(pty);
}

#[test]
fn ctrl_z_stops_the_build_and_gives_the_terminal_back_and_fg_takes_it_up() {
    for place in PLACES {
        for options in TERMINALS {
            let (project, pty) = (place(), Pty::new());
            let bash = shell(&pty, &project);
            pty.types(format!("$FASTBUILD {options} -- sh -c ': {}; {WAIT}'\n", mark(&project)).as_bytes());
            pty.until("ready");
            for _ in 0..2 {
                pty.types(b"\x1a");
                pty.until("Stopped");
                prompt(&pty);
                until_stopped(&project);
                asks(&pty, "stty -a | grep -q ' icanon' && echo \"co\"oked", "cooked");
                pty.types(b"fg\n");
                until_going_on(&project);
            }
            pty.types(b"\x03");
            prompt(&pty);
            asks(&pty, "echo \"rc=<$?>\"", "rc=<130>");
            drop(bash);
        }
    }
}

#[test]
fn in_the_background_a_build_runs_and_leaves_keys_and_terminal_to_others() {
    for place in PLACES {
        for (options, terminal) in [("-q", "no"), ("-q -t", "yes")] {
            let (project, pty) = (place(), Pty::new());
            let bash = shell(&pty, &project);
            let build = "test -t 1 && echo yes > made || echo no > made; read -r line";
            pty.types(format!("$FASTBUILD {options} -- sh -c '{build}; : ' &\n").as_bytes());
            prompt(&pty);
            if terminal == "no" {
                asks(&pty, "wait $!; echo \"rc=<$?>\"", "rc=<0>");
            } else {
                // It waits for keys, which are the shell's until it is in the foreground.
                asks(&pty, "echo \"the shell\" reads", "the shell reads");
                asks(&pty, "jobs", "Running");
                pty.types(b"fg\n");
                pty.until("fg\r\n");
                pty.types(b"a line\r");
                prompt(&pty);
                asks(&pty, "echo \"rc=<$?>\"", "rc=<0>");
            }
            assert_eq!(project.read("made"), format!("{terminal}\n"));
            drop(bash);
        }
    }
}

#[test]
fn bg_takes_a_build_with_a_terminal_up_without_touching_ours_and_fg_hands_the_keys_over() {
    for place in PLACES {
        let (project, pty) = (place(), Pty::new());
        let bash = shell(&pty, &project);
        let build = format!(": {}; echo read\\y; read -r line; echo \"got <$line>\"", mark(&project));
        pty.types(format!("$FASTBUILD -q -- sh -c '{build}'\n").as_bytes());
        pty.until("ready");
        pty.types(b"\x1a");
        pty.until("Stopped");
        prompt(&pty);
        pty.types(b"bg\n");
        prompt(&pty);
        until_going_on(&project);
        asks(&pty, "jobs", "Running");
        asks(&pty, "echo \"the shell\" reads", "the shell reads");
        pty.types(b"fg\n");
        pty.until("fg\r\n");
        pty.types(b"a word\r");
        pty.until("got <a word>");
        prompt(&pty);
        asks(&pty, "echo \"rc=<$?>\"", "rc=<0>");
        drop(bash);
    }
}

#[test]
fn one_ctrl_c_ends_the_build_and_the_loop_or_script_or_make_around_it() {
    let build = |options: &str| format!("\"$FASTBUILD\" {options} -- sh -c '{WAIT}'");
    for place in PLACES {
        for options in TERMINALS {
            let each = format!("for i in 1 2; do {}; echo went on; done", build(options));
            let makefile = format!(
                "all: one two\none:\n\t@{}\ntwo:\n\t@echo went on\n",
                build(options).replace('$', "$$")
            );
            for (program, text) in [("bash", &each), ("sh", &each), ("make", &makefile)] {
                let (project, pty) = (place(), Pty::new());
                let file = script(&project, text);
                let args = if program == "make" { vec!["-f", &file] } else { vec![file.as_str()] };
                let before = pty.modes();
                let session = at(&pty, &project, program, &args);
                pty.until("ready");
                pty.types(b"\x03");
                session.ends();
                assert!(!pty.seen().contains("went on"), "{program} {options}: {}", pty.seen());
                assert_eq!(pty.modes(), before);
                project.assert_nothing_left();
            }
        }
    }
}

#[test]
fn a_loop_in_an_interactive_shell_ends_with_ctrl_c() {
    for options in TERMINALS {
        let (project, pty) = (Project::kept(), Pty::new());
        let bash = shell(&pty, &project);
        let build = format!("$FASTBUILD {options} -- sh -c '{WAIT}'");
        pty.types(format!("for i in 1 2; do {build}; echo \"went\" on; done\n").as_bytes());
        pty.until("ready");
        pty.types(b"\x03");
        prompt(&pty);
        asks(&pty, "echo \"rc=<$?>\"", "rc=<130>");
        assert!(!pty.seen().contains("went on"), "{}", pty.seen());
        drop(bash);
    }
}

#[test]
fn a_command_that_catches_ctrl_c_and_ends_well_ends_no_script() {
    for options in TERMINALS {
        let (project, pty) = (Project::kept(), Pty::new());
        let build = format!("trap \"echo x > made; exit 0\" INT; {WAIT}");
        let text = format!("\"$FASTBUILD\" {options} -- sh -c '{build}'; echo \"rc=<$?>\"");
        let session = at(&pty, &project, "bash", &[&script(&project, &text)]);
        pty.until("ready");
        pty.types(b"\x03");
        pty.until("rc=<0>");
        session.exits(0);
        assert_eq!(project.read("made"), "x\n");
    }
}

#[test]
fn below_timeout_on_a_terminal_a_build_runs_in_the_background_and_ends_by_its_signal() {
    let (project, pty) = (Project::kept(), Pty::new());
    let text = format!(
        "timeout 60 \"$FASTBUILD\" -q -- sh -c 'echo built'; echo \"rc=<$?>\"\n\
         timeout 60 \"$FASTBUILD\" -q -- sh -c ': {}; {WAIT}' & wait $!; echo \"rc=<$?>\"",
        mark(&project)
    );
    let session = at(&pty, &project, "bash", &[&script(&project, &text)]);
    pty.until("built");
    pty.until("rc=<0>");
    pty.until("ready");
    let timeout =
        |line: &[u8]| line.starts_with(b"timeout\0") && line.windows(6).any(|word| word == b"marked");
    let pids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_ours = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        timeout(&line) && String::from_utf8_lossy(&line).contains(&mark(&project))
    };
    let timeout = pids.into_iter().find(is_ours).and_then(rustix::process::Pid::from_raw).unwrap();
    // As when its time is over: the program and its group get it.
    rustix::process::kill_process(timeout, Signal::TERM).unwrap();
    pty.until("rc=<143>");
    session.exits(0);
    project.assert_nothing_left();
}

#[test]
fn fastbuild_dies_of_the_signal_that_ended_its_command() {
    let signals =
        [(Signal::INT, "INT"), (Signal::TERM, "TERM"), (Signal::HUP, "HUP"), (Signal::QUIT, "QUIT")];
    for (signal, name) in signals {
        let code = 128 + signal.as_raw();
        for (script, died, exited) in [
            ("echo ready; exec sleep 1000".to_owned(), Some(signal.as_raw()), None),
            (format!("trap 'exit {code}' {name}; {WAIT}"), Some(signal.as_raw()), None),
            (format!("trap 'exit 3' {name}; {WAIT}"), None, Some(3)),
        ] {
            let project = Project::kept();
            let mut child = project.start(&["-q"], &script);
            read_until(child.stdout.as_mut().unwrap(), "ready");
            if script.contains("exec") {
                // A shell that is about to become another program may lose a signal.
                let workspace = project.workspace().unwrap();
                let sleeps = |line: &String| line.ends_with("sleep 1000") && !line.contains("sh -c");
                eventually("it sleeps", || processes_in(&workspace).iter().any(sleeps));
            }
            send(&child, signal);
            let status = child.wait().unwrap();
            assert_eq!((status.signal(), status.code()), (died, exited), "{script}");
            assert!(!status.core_dumped());
            project.assert_nothing_left();
        }
    }
}

#[test]
fn a_second_signal_ends_a_command_that_heeds_none_and_fastbuild_dies_of_it() {
    let project = Project::kept();
    let mut run = Watched::start(&project, &[], &format!("trap '' INT; echo x > made; {WAIT}"));
    run.until_output("ready\n");
    run.insists(Signal::INT);
    assert_eq!(run.end().code, 130);
    assert!(!project.has("made"));
    project.assert_nothing_left();
}

#[test]
fn a_signal_that_a_wrapper_sends_twice_is_one() {
    let project = Project::kept();
    let build = format!("trap 'usleep 300000; echo x > made; exit 0' TERM; {WAIT}");
    let mut run = Watched::start(&project, &[], &build);
    run.until_output("ready\n");
    run.signal(Signal::TERM);
    run.until("the signal's arrival", |event| event["warning"] == "signalled");
    run.signal(Signal::TERM);
    run.end().exits(0);
    assert_eq!(project.read("made"), "x\n");
}

#[test]
fn a_signal_while_another_build_is_waited_for_ends_fastbuild_at_once() {
    let project = Project::kept();
    let first = Gated::start(&project, &[], "true");
    let mut second = Watched::start(&project, &[], "echo ran");
    second.until("the wait", |event| event["event"] == "waiting-for-lock");
    second.signal(Signal::TERM);
    assert_eq!(second.end().exits(143).out(), "");
    first.go_on().exits(0);
}

#[test]
fn signals_that_were_ignored_at_the_start_stay_ignored() {
    let project = Project::kept();
    let build = "trap 'echo one came' HUP INT QUIT; echo up; read -r go; echo went";
    let line = "trap '' HUP INT QUIT; exec \"$FASTBUILD\" \"$@\"";
    let mut command = beside(&project, "sh", &["-c", line, "sh", "--progress", "json", "--stdin"]);
    let mut run = Watched::spawn(command.stdin(Stdio::piped()).args(["--", "sh", "-c", build]));
    run.until_output("up\n");
    let ignored = [Signal::HUP, Signal::INT, Signal::QUIT];
    ignored.into_iter().for_each(|signal| run.signal(signal));
    run.stdin().write_all(b"go\n").unwrap();
    assert_eq!(run.end().exits(0).out(), "went\n");
}

#[test]
fn who_waits_for_a_stopped_build_is_told_so() {
    let project = Project::kept();
    let first = Gated::start(&project, &[], "true");
    let pid = first.run.child().id();
    let mut second = project.command().args(["--progress", "plain", "--", "true"]).spawn().unwrap();
    let stderr = second.stderr.as_mut().unwrap();
    read_until(stderr, &format!("process {pid}"));
    first.run.signal(Signal::STOP);
    read_until(stderr, &format!("stopped by Ctrl-Z (pid {pid})"));
    first.run.signal(Signal::CONT);
    first.go_on().exits(0);
    assert!(second.wait().unwrap().success());
}
