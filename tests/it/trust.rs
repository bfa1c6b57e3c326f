//! A project's file decides nothing outside of its project. Outputs that go elsewhere are refused until the user has
//! allowed them.

use std::fs;

use crate::common::{Ended, Project};

/// A project whose file brings a product to a place beside it.
fn reaching_out() -> Project {
    let project = Project::new();
    project.write("fastbuild.toml", "# theirs\noutputs = [\"app:../elsewhere/app\"]\n");
    fs::create_dir(project.outside().join("elsewhere")).unwrap();
    project
}

fn build(project: &Project, options: &[&str]) -> Ended {
    project.sh(options, "echo ran; echo x > app")
}

#[track_caller]
fn is_refused(project: &Project) {
    let ended = build(project, &[]);
    ended.exits(125).says(&["app:../elsewhere/app", "fastbuild.toml:2", "-o", "fastbuild trust"]);
    assert_eq!(ended.out(), "", "nothing ran");
    assert!(!project.outside().join("elsewhere/app").exists());
}

#[test]
fn an_output_of_the_file_that_goes_outside_is_refused_before_the_build() {
    is_refused(&reaching_out());
    let through_a_link = reaching_out();
    std::os::unix::fs::symlink("../elsewhere", through_a_link.path("out")).unwrap();
    through_a_link.write("fastbuild.toml", "outputs = ['app:out/app']");
    build(&through_a_link, &[]).exits(125).says(&["outside of the project"]);
}

#[test]
fn the_same_on_the_command_line_is_enough() {
    let project = reaching_out();
    build(&project, &["-o", "app:../elsewhere/app"]).exits(0);
    assert!(project.outside().join("elsewhere/app").exists());
}

#[test]
fn a_file_is_trusted_as_it_was_and_no_longer_than_is_wished() {
    let project = reaching_out();
    let nested = project.path("nested");
    fs::create_dir(&nested).unwrap();
    let trust = |options: &[&str]| project.fastbuild([&["trust"], options].concat());
    assert!(trust(&["-C", "nested"]).exits(0).out().contains("is trusted as it is now"));
    build(&project, &[]).exits(0);
    let product = project.outside().join("elsewhere/app");
    fs::remove_file(&product).unwrap();
    assert!(trust(&["--revoke"]).exits(0).out().contains("no longer"));
    is_refused(&project);
    trust(&[]).exits(0);
    project.write("fastbuild.toml", "# theirs, new\noutputs = [\"app:../elsewhere/app\"]\n");
    is_refused(&project);
}

#[test]
fn outputs_inside_of_the_project_need_no_trust() {
    let project = Project::new();
    project.write("fastbuild.toml", "outputs = ['app', '/tmp/log:logs/']").write("sub/x", "");
    project.sh(&[], "echo x > app; echo y > /tmp/log").exits(0);
    assert_eq!(project.read("logs/log"), "y\n");
    project.fastbuild(["-C", "sub", "--", "sh", "-c", "echo x > app; echo z > /tmp/log"]).exits(0);
    assert_eq!(project.read("logs/log"), "z\n", "the file lies above the source root");
}

#[test]
fn without_a_file_there_is_nothing_to_trust() {
    Project::new().fastbuild(["trust"]).exits(125).says(&["no fastbuild.toml"]);
}
