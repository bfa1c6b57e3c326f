//! Rule 1: the command's exit code is fastbuild's; fastbuild's own failures use Docker's numbers.

mod common;

use common::Project;

#[test]
fn the_commands_exit_code_is_fastbuilds() {
    let project = Project::new();
    for code in [0, 1, 2, 77, 255] {
        project.sh(&["-q"], &format!("exit {code}")).exits(code);
    }
    project.assert_nothing_left();
}

#[test]
fn a_command_that_is_not_there_is_127_and_one_that_cannot_be_executed_126() {
    let project = Project::new();
    project
        .fastbuild(["--", "no-such-command"])
        .exits(127)
        .says(&["no-such-command", "was not found in the image"]);
    project.fastbuild(["--", "/etc/passwd"]).exits(126).says(&["/etc/passwd", "cannot be executed"]);
    project.assert_nothing_left();
}

#[test]
fn a_command_that_a_signal_ends_is_128_and_its_number() {
    let project = Project::new();
    project.sh(&["-q"], "sh -c 'kill -TERM $$'; exit $?").exits(143);
    project.sh(&["-q"], "sh -c 'kill -KILL $$'; exit $?").exits(137);
}
