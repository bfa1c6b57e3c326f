//! What a build asks of the engine, request by request: each one is a round trip that every user pays for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/proxy.rs"]
mod proxy;

use common::{FILLED, NONROOT, Project};
use proxy::Proxy;

/// The requests of a build that is not the first one with its image.
fn calls(project: &Project, options: &[&str], script: &str) -> String {
    project.sh(&["-q"], "true").exits(0);
    calls_at_first(project, options, script)
}

fn calls_at_first(project: &Project, options: &[&str], script: &str) -> String {
    let home = tempfile::tempdir().unwrap();
    let proxy = Proxy::new(home.path());
    let ended = common::Ended::from(
        project
            .command()
            .env("DOCKER_HOST", proxy.address())
            .args(options)
            .args(["--", "sh", "-c", script])
            .output()
            .unwrap(),
    );
    assert!(ended.code <= 1, "{ended}");
    project.assert_nothing_left();
    proxy.calls()
}

#[test]
fn a_cold_build_makes_no_request_more_than_it_needs() {
    let project = Project::new();
    project.write("in", "text");
    insta::assert_snapshot!(calls(&project, &[], "cat in >out"), @r"
    GET /_ping
    GET /images/fastbuild/test-busybox:latest/json
    POST /containers/create?name=NAME&platform=
    HEAD /containers/ID/archive?path=%2Fworkspace
    PUT /containers/ID/archive?path=%2F
    POST /containers/ID/attach?stream=1&stdout=1&stderr=1
    POST /containers/ID/start
    POST /containers/ID/wait?condition=not-running
    GET /containers/ID/archive?path=%2Fworkspace
    GET /containers/NAME/json
    DELETE /containers/ID?v=true&force=true&link=false
    ");
}

#[test]
fn what_an_image_has_in_the_working_directory_is_asked_for_once() {
    let project = Project::new();
    let asks = |calls: &str| calls.lines().filter(|line| line.ends_with("=%2Fworkspace%2F.")).count();
    let counts: Vec<_> = (0..3).map(|_| asks(&calls_at_first(&project, &[], "true"))).collect();
    assert_eq!(counts, [1, 0, 0]);
    let counts: Vec<_> = (0..3).map(|_| asks(&calls_at_first(&project, &["-i", FILLED], "true"))).collect();
    assert_eq!(counts, [1, 1, 1], "it has something there");
}

#[test]
fn each_named_output_is_one_request() {
    let project = Project::new();
    insta::assert_snapshot!(calls(&project, &["-o", "a", "-o", "b"], "echo a >a; echo b >b"), @r"
    GET /_ping
    GET /images/fastbuild/test-busybox:latest/json
    POST /containers/create?name=NAME&platform=
    HEAD /containers/ID/archive?path=%2Fworkspace
    PUT /containers/ID/archive?path=%2F
    POST /containers/ID/attach?stream=1&stdout=1&stderr=1
    POST /containers/ID/start
    POST /containers/ID/wait?condition=not-running
    GET /containers/ID/archive?path=%2Fworkspace%2Fa
    GET /containers/ID/archive?path=%2Fworkspace%2Fb
    GET /containers/NAME/json
    DELETE /containers/ID?v=true&force=true&link=false
    ");
}

#[test]
fn a_failed_command_is_asked_after_once_and_its_products_stay() {
    let project = Project::new();
    insta::assert_snapshot!(calls(&project, &[], "exit 1"), @r"
    GET /_ping
    GET /images/fastbuild/test-busybox:latest/json
    POST /containers/create?name=NAME&platform=
    HEAD /containers/ID/archive?path=%2Fworkspace
    PUT /containers/ID/archive?path=%2F
    POST /containers/ID/attach?stream=1&stdout=1&stderr=1
    POST /containers/ID/start
    POST /containers/ID/wait?condition=not-running
    GET /containers/ID/json
    GET /containers/NAME/json
    DELETE /containers/ID?v=true&force=true&link=false
    ");
}

#[test]
fn an_image_with_a_user_costs_its_two_tables() {
    let project = Project::with_image(NONROOT);
    // The two are asked for at the same time, in whatever order.
    let calls = calls(&project, &[], "true");
    let tables = calls.lines().filter(|line| line.contains("%2Fetc%2F")).count();
    assert_eq!((tables, calls.lines().count()), (2, 13), "{calls}");
}
