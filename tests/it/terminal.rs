//! A build at a person's terminal: what `docker run -it` gives, without asking for it.

use std::{fs::File, process::Command};

use crate::common::process::{FASTBUILD, beside};
use crate::common::pty;
use crate::common::pty::{Pty, Session};
use crate::common::{Ended, Lifetime, Project, eventually, read_until};
use rustix::termios::LocalModes;

/// See the test of the same name in `cancellation.rs`.
const WAIT: &str = "echo ready; while :; do usleep 50000; done";

/// Tells which of the streams are terminals.
const WHICH: &str = "for fd in 0 1 2; do test -t $fd && echo \"<$fd tty>\" || echo \"<$fd no>\"; done";

/// `fastbuild OPTIONS… -- sh -c SCRIPT` in a session of its own, whose terminal is `pty`.
fn at(pty: &Pty, project: &Project, options: &[&str], script: &str) -> Command {
    let mut command = beside(project, "setsid", &["--ctty", FASTBUILD]);
    command.args(options).args(["--", "sh", "-c", script]).env("TERM", "xterm");
    command.stdin(pty.stream()).stdout(pty.stream()).stderr(pty.stream());
    command
}

fn start(pty: &Pty, project: &Project, options: &[&str], script: &str) -> Session {
    pty.spawn(at(pty, project, options, script))
}

fn the_command_has_a_terminal_when_all_three_streams_are_one(lifetime: Lifetime) {
    let (project, pty) = (Project::new().keeping(lifetime), Pty::new());
    start(&pty, &project, &[], WHICH).exits(0);
    pty.until("<0 tty>\r\n<1 tty>\r\n<2 tty>\r\n");
    project.assert_nothing_left();
}

fn one_redirected_stream_is_enough_to_have_no_terminal(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let log = |name: &str| project.outside().join(name);
    let pty = Pty::new();
    let mut command = at(&pty, &project, &["-q"], &format!("({WHICH}) >&2"));
    command.stdout(File::create(log("stdout")).unwrap());
    pty.spawn(command).exits(0);
    pty.until("<0 no>\r\n<1 no>\r\n<2 no>\r\n");

    let mut command = at(&pty, &project, &["-q"], WHICH);
    command.stderr(File::create(log("stderr")).unwrap());
    pty.spawn(command).exits(0);
    pty.until("<0 no>\r\n<1 no>\r\n<2 no>\r\n");

    let script = "exec \"$FASTBUILD\" -q -- sh -c \"$1\" </dev/null";
    let mut command = beside(&project, "setsid", &["--ctty", "sh", "-c", script, "sh", WHICH]);
    command.stdin(pty.stream()).stdout(pty.stream()).stderr(pty.stream());
    pty.spawn(command).exits(0);
    pty.until("<0 no>\r\n<1 no>\r\n<2 no>\r\n");
}

fn no_tty_keeps_the_terminal_from_the_command(lifetime: Lifetime) {
    let (project, pty) = (Project::new().keeping(lifetime), Pty::new());
    start(&pty, &project, &["-q", "--no-tty"], WHICH).exits(0);
    pty.until("<0 no>\r\n<1 no>\r\n<2 no>\r\n");
}

fn t_gives_the_command_a_terminal_in_a_pipe_too(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let ended = project.sh(&["-q", "-t"], "test -t 1 && test -t 2 && echo both");
    assert_eq!(ended.exits(0).out(), "both\r\n");
    assert_eq!(ended.err(), "");
    project.assert_nothing_left();
}

fn keys_reach_the_command_and_its_end_of_file_too(lifetime: Lifetime) {
    let (project, pty) = (Project::new().keeping(lifetime), Pty::new());
    let session = start(&pty, &project, &["-q"], "echo ready; read -r line; echo \"<$line>\"; cat; echo end");
    pty.until("ready");
    pty.types(b"typed here\r");
    pty.until("<typed here>");
    // Ctrl-P, where Docker's client would begin to look for a detach sequence, and Ctrl-D.
    pty.types(b"p\x10q\r");
    pty.until("p^Pq\r\np\x10q\r\n");
    pty.types(b"\x04");
    pty.until("end\r\n");
    session.exits(0);
}

fn the_terminals_size_is_handed_over_and_followed(lifetime: Lifetime) {
    let (project, pty) = (Project::new().keeping(lifetime), Pty::new());
    pty.resize(41, 103);
    let script = "trap 'echo a WINCH came' WINCH
        until [ \"$(stty size)\" = '41 103' ]; do usleep 20000; done; echo first size
        until [ \"$(stty size)\" = '52 117' ]; do usleep 20000; done; echo second size";
    let session = start(&pty, &project, &["-q"], script);
    pty.until("first size");
    pty.resize(52, 117);
    pty.until("a WINCH came");
    pty.until("second size");
    session.exits(0);
}

fn lines_of_fastbuilds_begin_at_the_left_edge_while_the_terminal_is_the_commands(lifetime: Lifetime) {
    let (project, pty) = (Project::new().keeping(lifetime), Pty::new());
    start(&pty, &project, &["-v", "--progress", "plain"], "echo ready").exits(0);
    pty.until("start took");
    pty.until("build took");
    let seen = pty.seen();
    assert!(!seen.replace("\r\n", "").contains('\n'), "{seen:?}");
    project.assert_nothing_left();
}

fn ctrl_c_is_the_commands_sigint(lifetime: Lifetime) {
    for options in [["-q"].as_slice(), &["-q", "--no-tty"]] {
        let (project, pty) = (Project::new().keeping(lifetime), Pty::new());
        let session = start(&pty, &project, options, &format!("trap 'echo got it; exit 7' INT; {WAIT}"));
        pty.until("ready");
        pty.types(b"\x03");
        pty.until("got it");
        session.exits(7);
        project.assert_nothing_left();
    }
}

fn two_ctrl_c_end_a_command_that_ignores_them(lifetime: Lifetime) {
    let (project, pty) = (Project::new().keeping(lifetime), Pty::new());
    let before = pty.modes();
    let session = start(&pty, &project, &["-q"], &format!("trap '' INT; {WAIT}"));
    pty.until("ready");
    // Keys are counted, however close they come.
    pty.types(b"\x03\x03");
    session.exits(130);
    assert_eq!(pty.modes(), before);
    project.assert_nothing_left();
}

fn two_ctrl_c_end_a_command_without_a_terminal_that_ignores_them(lifetime: Lifetime) {
    let (project, pty) = (Project::new().keeping(lifetime), Pty::new());
    let mut session = start(&pty, &project, &["--no-tty"], &format!("trap '' INT; {WAIT}"));
    pty.until("ready");
    // Here they are signals, and two that arrive at once are one.
    pty.types(b"\x03");
    pty.until("SIGINT was sent to the build");
    eventually("the second one ends it", || {
        let is_over = session.is_over();
        if !is_over {
            pty.types(b"\x03");
        }
        is_over
    });
    session.exits(130);
    project.assert_nothing_left();
}

fn the_terminal_is_as_it_was_afterwards(lifetime: Lifetime) {
    let ends: [(&str, &[&str], i32); 4] = [
        ("exit 3", &[], 3),
        ("stty raw -echo; echo x", &[], 0),
        ("true", &["-o", "not-made"], 125),
        ("true", &["-w", "/etc/passwd"], 125),
    ];
    for (script, options, code) in ends {
        let (project, pty) = (Project::new().keeping(lifetime), Pty::new());
        let before = pty.modes();
        start(&pty, &project, options, script).exits(code);
        assert_eq!(pty.modes(), before, "{script:?} {options:?}");
    }
}

fn the_terminal_is_as_it_was_when_the_command_is_not_found(lifetime: Lifetime) {
    let (project, pty) = (Project::new().keeping(lifetime), Pty::new());
    let before = pty.modes();
    let mut command = beside(&project, "setsid", &["--ctty", FASTBUILD, "--", "no-such-command"]);
    command.stdin(pty.stream()).stdout(pty.stream()).stderr(pty.stream());
    pty.spawn(command).exits(127);
    pty.until("no-such-command");
    assert_eq!(pty.modes(), before);
}

fn the_terminal_is_raw_while_the_command_runs_and_as_it_was_after_a_signal_or_the_containers_end(
    lifetime: Lifetime,
) {
    type End = fn(&Project, &Session);
    let ends: [(End, i32); 3] = [
        (|_, session| session.signal(rustix::process::Signal::TERM), 5),
        (|_, session| session.signal(rustix::process::Signal::HUP), 6),
        (|project, _| drop(crate::common::docker(&["kill", &project.containers()[0]])), 125),
    ];
    for (end, code) in ends {
        let (project, pty) = (Project::new().keeping(lifetime), Pty::new());
        let before = pty.modes();
        let cooked = LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHO;
        assert!(before.local.contains(cooked));
        let session =
            start(&pty, &project, &["-q"], &format!("trap 'exit 5' TERM; trap 'exit 6' HUP; {WAIT}"));
        pty.until("ready");
        assert!(
            !pty.modes().local.intersects(cooked),
            "keys would not reach the command as they are pressed"
        );
        end(&project, &session);
        session.exits(code);
        assert_eq!(pty.modes(), before);
        project.assert_nothing_left();
    }
}

fn a_terminal_that_is_closed_hangs_the_build_up(lifetime: Lifetime) {
    let (project, pty) = (Project::new().keeping(lifetime), Pty::unread());
    let script = "trap 'echo x > made; exit 6' HUP; echo ready; while :; do usleep 50000; done";
    let session = start(&pty, &project, &["-q", "--outputs-on-failure"], script);
    read_until(&mut pty.keyboard(), "ready");
    drop(pty);
    session.exits(6);
    assert_eq!(project.read("made"), "x\n");
    project.assert_nothing_left();
}

fn a_build_that_writes_to_a_closed_terminal_for_ever_is_ended(lifetime: Lifetime) {
    let (project, pty) = (Project::new().keeping(lifetime), Pty::unread());
    let session = start(&pty, &project, &["-q"], "trap '' HUP; echo ready; while :; do echo more; done");
    read_until(&mut pty.keyboard(), "ready");
    drop(pty);
    session.ends();
    eventually("the reaper is done", || {
        std::fs::read_dir(project.state().join("runs")).into_iter().flatten().count() == 0
    });
    project.assert_nothing_left();
}

fn bars_are_gone_when_the_builds_own_output_begins(lifetime: Lifetime) {
    let (project, pty) = (Project::new().keeping(lifetime), Pty::new());
    pty.resize(24, 80);
    project.write("kept", "text");
    File::create(project.path("big")).unwrap().set_len(300 << 20).unwrap();
    let script = "echo THE BUILD BEGINS; read -r go; rm big; echo THE BUILD ENDS";
    let session = start(&pty, &project, &[], script);
    pty.until("THE BUILD BEGINS");
    let seen = pty.seen();
    assert!(seen.contains("upload") && seen.contains("MB"), "no bar was seen: {seen:?}");
    let screen = pty::screen(&seen);
    assert_eq!(screen, ["THE BUILD BEGINS"], "{seen:?}");

    pty.types(b"go\r");
    session.exits(0);
    eventually("the summary is on the screen", || pty.seen().contains("1 deleted"));
    let screen = pty::screen(&pty.seen());
    assert_eq!(screen[..3], ["THE BUILD BEGINS", "go", "THE BUILD ENDS"], "{screen:?}");
    assert!(screen[3..].concat().starts_with("fastbuild: "), "{screen:?}");
}

fn a_silent_command_is_said_to_run_until_its_first_byte(lifetime: Lifetime) {
    let (project, pty) = (Project::new().keeping(lifetime), Pty::new());
    let script = "trap 'echo THE BUILD; exit 3' TERM; while :; do usleep 50000; done";
    let session = start(&pty, &project, &["--no-tty"], script);
    pty.until("running sh -c");
    pty.until(", 1 s");
    session.signal(rustix::process::Signal::TERM);
    session.exits(3);
    pty.until("brings them)");
    let screen = pty::screen(&pty.seen());
    assert_eq!(screen[0], "fastbuild: warning: SIGTERM was sent to the build", "{screen:?}");
    // Before it, the shell tells what became of usleep.
    assert!(screen.iter().any(|line| line == "THE BUILD"), "{screen:?}");
    assert!(!screen.concat().contains("running"), "{screen:?}");
}

fn a_silent_command_with_the_terminal_is_said_to_run_until_a_key_is_echoed(lifetime: Lifetime) {
    let (project, pty) = (Project::new().keeping(lifetime), Pty::new());
    let session = start(&pty, &project, &[], "read line; echo \"<$line>\"");
    pty.until("running sh -c");
    pty.types(b"x\r");
    pty.until("<x>");
    session.exits(0);
    let screen = pty::screen(&pty.seen());
    assert_eq!(screen[..2], ["x", "<x>"], "{screen:?}");
}

fn a_run_without_a_screen_draws_nothing(lifetime: Lifetime) {
    let (project, pty) = (Project::new().keeping(lifetime), Pty::new());
    project.write("source", "text");
    let mut command = at(&pty, &project, &["--no-tty"], "echo the build; exit 2");
    command.env("TERM", "dumb");
    pty.spawn(command).exits(2);
    pty.until("the build\r\n");
    let ended = Ended { code: 2, stdout: Vec::new(), stderr: pty.seen().into_bytes() };
    assert!(!ended.err().contains('\x1b'), "{ended}");
}

promises! {
    one_run OneRun, kept Kept:
    the_command_has_a_terminal_when_all_three_streams_are_one,
    one_redirected_stream_is_enough_to_have_no_terminal,
    no_tty_keeps_the_terminal_from_the_command,
    t_gives_the_command_a_terminal_in_a_pipe_too,
    keys_reach_the_command_and_its_end_of_file_too,
    the_terminals_size_is_handed_over_and_followed,
    lines_of_fastbuilds_begin_at_the_left_edge_while_the_terminal_is_the_commands,
    ctrl_c_is_the_commands_sigint,
    two_ctrl_c_end_a_command_that_ignores_them,
    two_ctrl_c_end_a_command_without_a_terminal_that_ignores_them,
    the_terminal_is_as_it_was_afterwards,
    the_terminal_is_as_it_was_when_the_command_is_not_found,
    the_terminal_is_raw_while_the_command_runs_and_as_it_was_after_a_signal_or_the_containers_end,
    a_terminal_that_is_closed_hangs_the_build_up,
    a_build_that_writes_to_a_closed_terminal_for_ever_is_ended,
    bars_are_gone_when_the_builds_own_output_begins,
    a_silent_command_is_said_to_run_until_its_first_byte,
    a_silent_command_with_the_terminal_is_said_to_run_until_a_key_is_echoed,
    a_run_without_a_screen_draws_nothing,
}
