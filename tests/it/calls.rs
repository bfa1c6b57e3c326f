//! What a build asks of the engine, request by request: each one is a round trip that every user pays for.

use crate::common::proxy::Proxy;
use crate::common::{FILLED, NONROOT, Project};

/// The requests of a build that is not the first one with its image.
fn calls(project: &Project, options: &[&str], script: &str) -> String {
    project.sh(&["-q"], "true").exits(0);
    calls_at_first(project, options, script)
}

fn calls_at_first(project: &Project, options: &[&str], script: &str) -> String {
    let home = tempfile::tempdir().unwrap();
    let proxy = Proxy::new(home.path());
    let ended = crate::common::Ended::from(
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
    // A removal that takes its time is looked after.
    let calls = proxy.calls();
    let last = "condition=removed\n";
    calls.split_once(last).map_or_else(|| calls.clone(), |(before, _)| format!("{before}{last}"))
}

#[test]
fn a_one_run_build_makes_no_request_more_than_it_needs() {
    let project = Project::new();
    project.write("in", "text");
    insta::assert_snapshot!(calls(&project, &[], "cat in >out"), @r"
    GET /_ping
    GET /images/fastbuild/test-busybox:latest/json
    POST /containers/create?name=NAME&platform=
    PUT /containers/ID/archive?path=%2F
    POST /containers/ID/start
    POST /containers/ID/attach?stream=1&stdout=1&stderr=1&stdin=1
    POST /containers/ID/wait?condition=removed
    ");
}

#[test]
fn outputs_failures_users_and_an_images_own_files_cost_no_request() {
    let project = Project::new();
    let plain = calls(&project, &[], "true");
    assert_eq!(calls(&project, &["-o", "a", "-o", "b"], "echo a >a; echo b >b"), plain);
    assert_eq!(calls(&project, &["-o", "/tmp/a:a"], "echo a >/tmp/a"), plain);
    assert_eq!(calls(&project, &[], "exit 1"), plain);
    for image in [NONROOT, FILLED] {
        let project = Project::with_image(image);
        assert_eq!(calls(&project, &[], "true").lines().count(), plain.lines().count());
    }
}
