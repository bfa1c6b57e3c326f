//! Rule 2: the build's stdout and stderr pass through byte for byte, live and apart; everything that fastbuild says goes
//! to stderr; piped and redirected runs hold no escape codes.

use std::{
    fs,
    io::{Read as _, Write as _},
    process::Stdio,
};

use crate::common::process::{Watched, beside, noise};
use crate::common::{Ended, Lifetime, Project, eventually, read_until};

fn every_byte_value_passes_on_both_streams(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let bytes: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    project.write("bytes", &bytes);
    let ended = project.sh(&["-q"], "cat bytes; cat bytes >&2");
    ended.exits(0);
    assert_eq!(ended.stdout, bytes);
    assert_eq!(ended.stderr, bytes);
}

fn a_megabyte_on_each_stream_at_once_arrives_whole_and_apart(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let (out, err) = (noise(1, 1 << 20), noise(2, 1 << 20));
    project.write("out", &out).write("err", &err);
    let ended = project.sh(&["-q"], "cat out & cat err >&2; wait");
    ended.exits(0);
    assert!(ended.stdout == out, "stdout differs: {} bytes", ended.stdout.len());
    assert!(ended.stderr == err, "stderr differs: {} bytes", ended.stderr.len());
}

fn output_is_seen_while_the_command_still_runs(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let script = "printf 'half a line'; read -r go; echo on-stderr >&2; read -r go; echo end";
    let mut child = project
        .command()
        .args(["-q", "--stdin", "--", "sh", "-c", script])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    read_until(child.stdout.as_mut().unwrap(), "half a line");
    stdin.write_all(b"go\n").unwrap();
    read_until(child.stderr.as_mut().unwrap(), "on-stderr\n");
    stdin.write_all(b"go\n").unwrap();
    let ended = Ended::of(child);
    assert_eq!(ended.exits(0).out(), "end\n");
}

fn output_is_whole_when_the_command_ends_at_once(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    for run in 0..12 {
        let ended = project.fastbuild(["-q", "--", "echo", &format!("run {run}")]);
        assert_eq!(ended.exits(0).out(), format!("run {run}\n"));
    }
    let ended = project.sh(&["-q"], "seq 1 50000; seq 1 50000 >&2");
    let expected: String = (1..=50_000).map(|n| format!("{n}\n")).collect();
    assert!(ended.out() == expected, "stdout differs: {} bytes", ended.stdout.len());
    assert!(ended.err() == expected, "stderr differs: {} bytes", ended.stderr.len());
}

fn stdout_holds_the_builds_own_bytes_and_nothing_else(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("source", "text");
    let reports: [&[&str]; 7] = [
        &[],
        &["-v"],
        &["-vv"],
        &["--progress", "bar"],
        &["--progress", "plain"],
        &["--progress", "json"],
        &["--progress", "none"],
    ];
    for options in reports {
        let ended = project.sh(options, "echo the build; echo made > made; exit 3");
        assert_eq!(ended.exits(3).out(), "the build\n", "{options:?}: {ended}");
    }
    let failures: [&[&str]; 4] = [
        &["--", "no-such-command"],
        &["--pull", "never", "-i", "fastbuild/no-such-image", "--", "true"],
        &["-o", "not-made", "--", "true"],
        &["-H", "unix:///no/such/socket", "--", "true"],
    ];
    for args in failures {
        let ended = project.fastbuild(args);
        assert_ne!(ended.code, 0, "{args:?}");
        assert_eq!(ended.out(), "", "{args:?}: {ended}");
        assert_ne!(ended.err(), "", "{args:?}");
    }
}

fn piped_runs_hold_no_escape_codes_but_for_colours_that_are_asked_for(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("big", noise(3, 8 << 20));
    for progress in ["auto", "bar", "plain", "json", "none"] {
        let mut command = project.command();
        command.env("TERM", "xterm-256color").env("COLORTERM", "truecolor").env("FORCE_COLOR", "1");
        let output = command.args(["-vv", "--progress", progress, "--", "sh", "-c", "echo x > new"]).output();
        let ended = Ended::from(output.unwrap());
        ended.exits(0);
        let control = |byte: &u8| *byte < b' ' && *byte != b'\n';
        assert!(!ended.stderr.iter().any(control), "{progress}: {:?}", ended.err());
        assert_eq!(ended.out(), "", "{progress}");
    }
    for (variables, coloured) in [
        ([("CLICOLOR_FORCE", "1"), ("TERM", "xterm")], true),
        ([("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false),
    ] {
        let mut command = project.command();
        let ended = Ended::from(command.envs(variables).args(["--", "true"]).output().unwrap());
        assert_eq!(ended.exits(0).err().contains("\u{1b}[32mfastbuild:"), coloured, "{ended}");
    }
}

fn a_loop_around_fastbuild_keeps_its_lines(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let script = r#"printf 'one\ntwo\nthree\n' | while read -r line; do
        "$FASTBUILD" -q -- sh -c 'cat; echo "command $1"' sh "$line" || exit 9
    done"#;
    let ended = Ended::from(beside(&project, "sh", &["-c", script]).output().unwrap());
    assert_eq!(ended.exits(0).out(), "command one\ncommand two\ncommand three\n");
}

const WAITING: &str = "standard input has bytes waiting";

fn input_that_waits_and_is_not_handed_over_is_told_once_to_each_process_and_stays_unread(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let script = r#"printf 'one\ntwo\nthree\n' | while read -r line; do
        "$FASTBUILD" -- echo "command $line" || exit 9
    done"#;
    let told = |script: &str| {
        let ended = Ended::from(beside(&project, "sh", &["-c", script]).output().unwrap());
        ended.exits(0);
        (ended.out(), ended.err().matches(WAITING).count())
    };
    let lines = "command one\ncommand two\ncommand three\n".to_owned();
    assert_eq!(told(script), (lines.clone(), 1));
    assert_eq!(told(script), (lines, 1), "another process is told, too");
    project.write("input", "text");
    assert_eq!(told(r#"{ "$FASTBUILD" -- true; cat; } < input"#), ("text".to_owned(), 1));
    assert_eq!(told(r#"echo x | "$FASTBUILD" --stdin -- cat"#), ("x\n".to_owned(), 0));
    assert_eq!(told(r#"echo x | "$FASTBUILD" --no-stdin -- cat"#).1, 0, "whoever says so knows");
}

fn input_without_bytes_is_no_word_worth(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("empty", "");
    for input in ["</dev/null", "<&-", "<empty", "</dev/zero"] {
        let script = format!(r#""$FASTBUILD" -- true {input}"#);
        let ended = Ended::from(beside(&project, "sh", &["-c", &script]).output().unwrap());
        assert!(!ended.exits(0).err().contains(WAITING), "{input}: {ended}");
    }
    // A pipe that another process holds open and writes nothing into.
    let mut child = project.command().args(["--", "true"]).stdin(Stdio::piped()).spawn().unwrap();
    let held = child.stdin.take().unwrap();
    let ended = Ended::of(child);
    drop(held);
    assert!(!ended.exits(0).err().contains(WAITING), "{ended}");
}

fn many_warnings_of_one_kind_are_three_and_a_count_and_json_has_all(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let sockets: Vec<_> = (0..20)
        .map(|n| std::os::unix::net::UnixListener::bind(project.path(format!("s{n:02}"))).unwrap())
        .collect();
    let ended = project.fastbuild(["--", "true"]);
    ended.exits(0).says(&["and 17 more of this kind"]);
    assert_eq!(
        ended.err().matches("is a socket; it was not sent").count(),
        4,
        "three, and the last: {ended}"
    );
    let json = project.fastbuild(["--progress", "json", "--", "true"]);
    assert_eq!(json.exits(0).err().matches("\"warning\":\"skipped\"").count(), 20);
    drop(sockets);
}

fn stdin_hands_over_bytes_and_the_end_of_file(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let bytes = noise(4, 1 << 20);
    let mut child = project
        .command()
        .args(["-q", "--stdin", "--", "sh", "-c", "cat; echo after the end >&2"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent = bytes.clone();
    let writing = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let ended = Ended::of(child);
    writing.join().unwrap();
    ended.exits(0);
    assert!(ended.stdout == bytes, "{} bytes came back", ended.stdout.len());
    assert_eq!(ended.err(), "after the end\n");
}

fn a_command_that_leaves_its_input_unread_ends_as_it_likes(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let mut child = project
        .command()
        .args(["-q", "--stdin", "--", "sh", "-c", "exit 5"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // Stays open: the end of the command is the end of the run.
    let stdin = child.stdin.take().unwrap();
    Ended::of(child).exits(5);
    drop(stdin);
    project.assert_nothing_left();
}

fn quiet_leaves_stderr_to_the_build(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("source", "text");
    let ended = project.sh(&["-q"], "echo only this >&2; echo made > made; exit 4");
    ended.exits(4);
    assert_eq!((ended.out().as_str(), ended.err().as_str()), ("", "only this\n"));
}

fn json_progress_is_one_event_a_line_and_leaves_the_builds_bytes_alone(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("source", "text");
    let ended = project.sh(&["--progress", "json"], r#"printf '{"not":"ours"}\n\000\377'; echo x > made"#);
    ended.exits(0);
    assert_eq!(ended.stdout, b"{\"not\":\"ours\"}\n\0\xff");
    let events = events(&ended.err());
    let phases: Vec<_> = events
        .iter()
        .filter(|event| event["event"] == "phase-ended")
        .map(|event| event["phase"].as_str().unwrap())
        .collect();
    let goes = (!lifetime.is_warm()).then_some("remove");
    let phases_of_each = ["scan", "workspace", "compare", "upload", "start", "build", "collect", "apply"];
    for phase in phases_of_each.into_iter().chain(goes) {
        assert_eq!(phases.iter().filter(|ended| **ended == phase).count(), 1, "{phase}: {ended}");
    }
    let last = events.last().unwrap();
    assert_eq!((&last["event"], &last["exit_code"]), (&"finished".into(), &0.into()), "{ended}");
    assert_eq!(last["applied"]["written"], 1, "{ended}");
}

fn json_lines_begin_on_lines_of_their_own_beside_the_builds_stderr(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let ended = project.sh(&["--progress", "json"], "printf unfinished >&2; exit 2");
    ended.exits(2);
    let (own, of_the_build): (Vec<_>, Vec<_>) =
        ended.err().lines().map(str::to_owned).partition(|line| line.starts_with('{'));
    assert_eq!(of_the_build, ["unfinished"], "{ended}");
    let events = events(&own.join("\n"));
    assert_eq!(events.last().unwrap()["exit_code"], 2);
}

fn an_error_under_json_is_an_event(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let ended = project.fastbuild(["--progress", "json", "--", "no-such-command"]);
    ended.exits(127);
    let events = events(&ended.err());
    let error = events.iter().find(|event| event["event"] == "error");
    let message = error.expect("an error event")["message"].as_str().unwrap();
    assert!(message.contains("no-such-command"), "{message}");
}

/// Each line as JSON, after its schema has been looked at.
#[track_caller]
fn events(lines: &str) -> Vec<serde_json::Value> {
    let parsed = lines.lines().map(|line| {
        let event: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        assert_eq!(event["fastbuild"], 2, "{line}");
        assert!(event["time"].is_number() && event["event"].is_string(), "{line}");
        event
    });
    parsed.collect()
}

fn a_reader_that_stops_reading_ends_the_build(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let mut run = Watched::start(&project, &["--outputs-on-failure"], "echo x > made; yes");
    run.until_output("y\n");
    run.close_stdout();
    run.end().exits(141);
    assert!(!project.has("made"), "the products of a build that was ended came back");
    project.assert_nothing_left();
}

fn head_gets_its_lines_and_the_pipeline_ends(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let script = r#""$FASTBUILD" -q -- yes | head -n 3"#;
    let ended = Ended::from(beside(&project, "sh", &["-c", script]).output().unwrap());
    assert_eq!(ended.exits(0).out(), "y\ny\ny\n");
    eventually("fastbuild has tidied up", || {
        fs::read_dir(project.state().join("runs")).into_iter().flatten().count() == 0
    });
    project.assert_nothing_left();
}

fn streams_that_the_command_joins_keep_their_order(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let script = "exec 2>&1; i=0; while [ $i -lt 3000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done";
    let ended = project.sh(&["-q"], script);
    let expected: String = (0..3000).map(|n| format!("out {n}\nerr {n}\n")).collect();
    assert!(ended.exits(0).out() == expected, "the order is lost");
}

fn streams_joined_on_this_side_are_both_whole(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = project.command();
    command.args(["-q", "--", "sh", "-c", "seq 1 5000 & seq 100001 105000 >&2; wait"]);
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut child = command.spawn().unwrap();
    // Ours of the pipe's writing ends.
    drop(command);
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert!(child.wait().unwrap().success());
    // Chunks of the one may break lines of the other; no byte is lost or doubled for that.
    let mut expected: Vec<u8> =
        (1..=5_000).chain(100_001..=105_000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    read.sort_unstable();
    expected.sort_unstable();
    assert!(read == expected, "{} bytes in place of {}", read.len(), expected.len());
}

promises! {
    one_run OneRun, kept Kept:
    every_byte_value_passes_on_both_streams,
    a_megabyte_on_each_stream_at_once_arrives_whole_and_apart,
    output_is_seen_while_the_command_still_runs,
    output_is_whole_when_the_command_ends_at_once,
    stdout_holds_the_builds_own_bytes_and_nothing_else,
    piped_runs_hold_no_escape_codes_but_for_colours_that_are_asked_for,
    a_loop_around_fastbuild_keeps_its_lines,
    input_that_waits_and_is_not_handed_over_is_told_once_to_each_process_and_stays_unread,
    input_without_bytes_is_no_word_worth,
    many_warnings_of_one_kind_are_three_and_a_count_and_json_has_all,
    stdin_hands_over_bytes_and_the_end_of_file,
    a_command_that_leaves_its_input_unread_ends_as_it_likes,
    quiet_leaves_stderr_to_the_build,
    json_progress_is_one_event_a_line_and_leaves_the_builds_bytes_alone,
    json_lines_begin_on_lines_of_their_own_beside_the_builds_stderr,
    an_error_under_json_is_an_event,
    a_reader_that_stops_reading_ends_the_build,
    head_gets_its_lines_and_the_pipeline_ends,
    streams_that_the_command_joins_keep_their_order,
    streams_joined_on_this_side_are_both_whole,
}
