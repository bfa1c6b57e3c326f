//! Rule 1: the command's exit code is fastbuild's; fastbuild's own failures use Docker's numbers.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::common::{ENTRYPOINT, Lifetime, Project};
use fastbuild::engine::words;

fn the_commands_exit_code_is_fastbuilds(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    for code in [0, 1, 2, 77, 255] {
        project.sh(&["-q"], &format!("exit {code}")).exits(code);
    }
    project.assert_nothing_left();
}

fn a_command_that_is_not_there_is_127_and_one_that_cannot_be_executed_126(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project
        .fastbuild(["--", "no-such-command"])
        .exits(127)
        .says(&["no-such-command", "was not found in the image"]);
    project.fastbuild(["--", "/etc/passwd"]).exits(126).says(&["/etc/passwd", "cannot be executed"]);
    project.assert_nothing_left();
}

/// The codes are those of an engine that finds the program and cannot run it; `docker run` itself has 1 or 255, by its age, where
/// a script's interpreter is missing.
fn a_file_that_cannot_be_run_has_one_code_on_each_path_and_a_hint_that_names_the_cause(lifetime: Lifetime) {
    let rows = [
        ("crlf", "#!/bin/sh\r\necho hi\r\n", 0o755, 127, "CR LF"),
        ("missing", "#!/no/such\n", 0o755, 127, "names the interpreter \"/no/such\", which is not there"),
        ("env-crlf", "#!/usr/bin/env sh\r\n", 0o755, 127, "CR LF"),
        ("nothing", "echo hi\n", 0o755, 126, "a script begins with a line such as #!/bin/sh"),
        ("plain", "#!/bin/sh\n", 0o644, 126, "chmod +x"),
    ];
    let paths = [
        (Project::new().keeping(lifetime), "--keep"),
        (Project::here(), "--keep"),
        (Project::here(), "--no-keep"),
    ];
    for (project, keep) in paths {
        project.write("directory/x", "");
        for (name, text, mode, code, hint) in rows {
            project.write(name, text);
            fs::set_permissions(project.path(name), fs::Permissions::from_mode(mode)).unwrap();
            let ended = project.fastbuild([keep, "--", &format!("./{name}")]);
            ended.exits(code).says(&[hint]);
        }
        project.fastbuild([keep, "--", "./directory"]).exits(126).says(&["irectory", "name a program in it"]);
        project.fastbuild([keep, "--", "./absent"]).exits(127).says(&["check the name"]);
    }
}

fn words_that_a_shell_would_understand_get_a_hint(lifetime: Lifetime) {
    let rows = [
        (&["make all"][..], "leave out the quotes: -- make all"),
        (&["cd", "x"], "cd is a word of shells, and no program"),
        (&["export", "A=1"], "export is a word of shells"),
        (&["source", "x"], "source is a word of shells"),
        (&["FOO=1", "make"], "FOO is a variable for the command: -e FOO=1"),
        (&["make && make test"], "sh -c 'make && make test'"),
    ];
    let projects = [
        Project::new().keeping(lifetime),
        Project::here(),
        Project::with_image(ENTRYPOINT).keeping(lifetime),
    ];
    for project in projects {
        for (command, hint) in rows {
            project.fastbuild(["--"].iter().chain(command)).exits(127).says(&[hint]);
        }
    }
}

#[test]
fn a_word_is_taken_for_what_a_shell_would_take_it_for() {
    let cases = [
        ("cd", "cd is a word of shells, and no program: sh -c 'cd …', or start fastbuild in that directory"),
        ("cd sub", "sh -c 'cd sub', or start"),
        (".", "sh -c '. …'"),
        ("FOO=1 make", "that is a line for a shell: sh -c 'FOO=1 make'"),
        ("make | tee log", "sh -c 'make | tee log'"),
        ("make >log", "sh -c 'make >log'"),
        ("&&", "that is a line for a shell"),
        ("~/bin/x", "in place of ~: sh -c"),
        ("", "empty"),
    ];
    for (word, expected) in cases {
        let said = words::meant(word).unwrap_or_default();
        assert!(said.contains(expected), "{word:?}: {said:?} lacks {expected:?}");
    }
    for word in ["make", "./build.sh", "/opt/x-1.2/bin/y", "2=3", "a:b", "exportfs"] {
        assert_eq!(words::meant(word), None, "{word}");
    }
}

fn a_command_that_a_signal_ends_is_128_and_its_number(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.sh(&["-q"], "sh -c 'kill -TERM $$'; exit $?").exits(143);
    project.sh(&["-q"], "sh -c 'kill -KILL $$'; exit $?").exits(137);
}

promises! {
    one_run OneRun, kept Kept:
    the_commands_exit_code_is_fastbuilds,
    a_command_that_is_not_there_is_127_and_one_that_cannot_be_executed_126,
    a_file_that_cannot_be_run_has_one_code_on_each_path_and_a_hint_that_names_the_cause,
    words_that_a_shell_would_understand_get_a_hint,
    a_command_that_a_signal_ends_is_128_and_its_number,
}
