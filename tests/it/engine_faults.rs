//! No engine, another thing in its place, an engine that goes away, a container that is removed from outside: each is
//! told with its own words and exit code 125, nothing hangs, and the host stays as it was.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::net::UnixListener,
    process::Command,
    sync::Arc,
    thread,
};

use crate::common::proxy::{Fault, Hold, Proxy, Then, Way, Which};
use crate::common::{Ended, Project, SOCKET, eventually};

fn project() -> Project {
    let project = Project::new();
    project.write("source", "text").write("out/old", "old");
    project
}

/// Runs a build that would change `source` and make `out/new`, on the engine at `address`.
fn build_at(project: &Project, address: &str, options: &[&str]) -> Ended {
    let mut command = project.command();
    command.env("DOCKER_HOST", address).args(options);
    command.args(["--", "sh", "-c", "echo changed >source; echo new >out/new; echo built"]);
    Ended::from(command.output().unwrap())
}

#[test]
fn without_an_engine_each_reason_has_its_own_words() {
    let project = project();
    let before = project.tree();
    let nowhere = format!("unix://{}/none.sock", project.outside().to_str().unwrap());
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (address, says) in [
        (nowhere, ["none.sock does not exist", "installed and running"]),
        (format!("tcp://{closed}"), ["refused the connection", "not running"]),
        (
            "tcp://no-such-host.invalid:2375".to_owned(),
            ["no-such-host.invalid:2375 was not found", "check the host's name"],
        ),
    ] {
        build_at(&project, &address, &[]).exits(125).says(&["no engine: "]).says(&says);
    }
    // A socket whose listener died, as a stopped engine leaves it.
    let dead = project.outside().join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    build_at(&project, &format!("unix://{}", dead.to_str().unwrap()), &[])
        .exits(125)
        .says(&["refused the connection"]);
    assert!(project.tree() == before);
    project.assert_nothing_left();
}

#[test]
fn a_socket_that_may_not_be_opened_is_told_with_the_group_to_join() {
    let project = project();
    // Tests may run as root, who may open everything.
    let mut command = Command::new("setpriv");
    let program = project.outside().join("fastbuild");
    fs::copy(env!("CARGO_BIN_EXE_fastbuild"), &program).unwrap();
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["-i", "any", "--", "true"])
        .env_clear()
        .env("DOCKER_HOST", format!("unix://{SOCKET}"))
        .env("FASTBUILD_STATE_DIR", tempfile::tempdir_in("/tmp").unwrap().path())
        .current_dir(project.root());
    let output = command.output().unwrap();
    let ended = Ended::from(output);
    ended.exits(125).says(&["no engine: permission denied on", "\"docker\" group"]);
}

/// Answers every connection with `answer`, once its request's head has come.
fn serve(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(answer.as_bytes());
        }
    });
    format!("tcp://{address}")
}

#[test]
fn what_is_no_engine_is_told_with_what_it_answered() {
    let project = project();
    for (answer, says) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n<h1>Hello</h1>\n", "<h1>Hello</h1>"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status 404"),
        (
            "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
            "does not speak yet",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", "not as a Docker-compatible engine"),
        ("", "not as a Docker-compatible engine"),
        ("HTTP/1.1 200 OK\r\nApi-Version: two\r\nContent-Length: 2\r\n\r\nOK", "\"two\" as its API version"),
    ] {
        build_at(&project, &serve(answer), &[]).exits(125).says(&["wrong API: ", says]);
    }
    project.assert_nothing_left();
}

#[test]
fn an_api_that_is_too_old_is_told_with_what_is_needed() {
    let project = project();
    let old = serve("HTTP/1.1 200 OK\r\nApi-Version: 1.29\r\nContent-Length: 2\r\n\r\nOK");
    build_at(&project, &old, &[]).exits(125).says(&[
        "speaks version 1.29",
        "needs 1.40",
        "update the engine",
    ]);
}

#[test]
fn what_cannot_be_an_image_is_told_before_anything_is_asked_for() {
    let project = project();
    for image in ["library/UPPER", "a b", "name:", "-x", "http://x/y", "x@sha256:short"] {
        let ended = build_at(&project, &format!("unix://{SOCKET}"), &[&format!("--image={image}")]);
        ended.exits(125).says(&["is not the name of an image", "[REGISTRY/]NAME[:TAG][@DIGEST]"]);
    }
    project.assert_nothing_left();
}

#[test]
fn an_image_that_nobody_has_is_told_by_what_the_registry_said() {
    let project = project();
    // Nothing listens on port 1: the engine's own error.
    let local = |options: &[&str]| build_at(&project, &format!("unix://{SOCKET}"), options);
    local(&["-i", "localhost:1/none:1"])
        .exits(125)
        .says(&["does not reach the registry", "localhost:1/none:1"]);
    local(&["-i", "localhost:1/none:1", "--pull", "never"])
        .exits(125)
        .says(&["--pull never", "localhost:1/none:1"]);
    for (status, message, says) in [
        (404, "manifest for none:9 not found: manifest unknown: manifest unknown", "was not found"),
        (
            404,
            "pull access denied for none, repository does not exist or may require 'docker login'",
            "docker login",
        ),
        (500, "toomanyrequests: You have reached your pull rate limit.", "limits pulls"),
        (
            500,
            "Get \"https://r/v2/\": x509: certificate signed by unknown authority",
            "does not reach the registry",
        ),
        (500, "failed to register layer: write /x: no space left on device", "the engine's disk is full"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let proxy = Proxy::new(home.path());
        proxy.on("POST", "/images/create", Which::All, Fault::Status(status, message.to_owned()));
        build_at(&project, &proxy.address(), &["-i", "none:9"]).exits(125).says(&["none:9", says]);
    }
    // A pull that fails in its stream, after status 200.
    let home = tempfile::tempdir().unwrap();
    let proxy = Proxy::new(home.path());
    let lines = concat!(
        "{\"status\":\"Pulling from none\",\"id\":\"9\"}\r\n",
        "{\"errorDetail\":{\"message\":\"unauthorized: authentication required\"},",
        "\"error\":\"unauthorized: authentication required\"}\r\n"
    );
    proxy.on("POST", "/images/create", Which::All, Fault::Body(Arc::new(lines.as_bytes().to_vec())));
    build_at(&project, &proxy.address(), &["-i", "none:9"]).exits(125).says(&["does not give out image"]);
    project.assert_nothing_left();
}

/// Who runs the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Agent,
    Engine,
}

impl By {
    fn options(self) -> &'static [&'static str] {
        match self {
            By::Agent => &[],
            By::Engine => &["--no-agent"],
        }
    }
}

/// A build through a proxy that breaks one request; the host stays as it was, nothing is left, and 125 comes with the
/// words of what was tried.
#[track_caller]
fn breaks(by: By, method: &'static str, part: &'static str, fault: Fault, says: &[&str]) {
    let project = project();
    let before = project.tree();
    let home = tempfile::tempdir().unwrap();
    let proxy = Proxy::new(home.path());
    proxy.on(method, part, Which::Nth(1), fault);
    let ended = build_at(&project, &proxy.address(), by.options());
    assert!(proxy.count(method, part) > 0, "{method} {part} was not asked\n{ended}");
    assert_eq!(ended.code, 125, "{method} {part}: {ended}");
    for says in says {
        assert!(ended.err().contains(says), "{method} {part}: standard error lacks {says:?}\n{ended}");
    }
    assert!(project.tree() == before, "{method} {part}: the host has changed\n{ended}");
    // What was lost with an answer is removed by the reaper, after fastbuild's end.
    eventually("the container is removed", || project.containers().is_empty());
    eventually("the reaper is done", || {
        fs::read_dir(project.state().join("runs")).into_iter().flatten().flatten().count() == 0
    });
    project.assert_nothing_left();
}

#[test]
fn a_lost_request_names_what_was_tried() {
    for (method, part, says) in [
        ("GET", "/_ping", "not as a Docker-compatible engine"),
        ("GET", "/images/", "could not look up image"),
        ("POST", "/containers/create", "could not create container"),
        ("PUT", "/archive", "could not send files to"),
        ("POST", "/attach", "could not attach to container"),
        ("POST", "/start", "could not start container"),
    ] {
        breaks(By::Agent, method, part, Fault::Close, &[says]);
        breaks(By::Engine, method, part, Fault::Close, &[says]);
    }
    for (method, part, says) in [
        ("HEAD", "/archive", "could not look at \"/workspace\""),
        ("POST", "/wait", "could not wait for container"),
        ("GET", "/archive", "could not fetch \"/workspace\""),
    ] {
        breaks(By::Engine, method, part, Fault::Close, &[says]);
    }
}

#[test]
fn an_answer_lost_after_the_deed_leaves_nothing_behind() {
    for (method, part, says) in [
        ("POST", "/containers/create", "could not create container"),
        ("PUT", "/archive", "could not send files to"),
        ("POST", "/attach", "could not attach to container"),
        ("POST", "/start", "could not start container"),
    ] {
        breaks(By::Agent, method, part, Fault::CutAnswer(0), &["the engine went away", says]);
        breaks(By::Engine, method, part, Fault::CutAnswer(0), &["the engine went away", says]);
    }
    let says = ["the engine went away", "could not wait for container"];
    breaks(By::Engine, "POST", "/wait", Fault::CutAnswer(0), &says);
}

#[test]
fn a_stream_that_is_cut_is_no_success() {
    for by in [By::Agent, By::Engine] {
        breaks(by, "PUT", "/archive", Fault::CutRequest(700), &["could not send files to"]);
        // In the middle of the frame that holds the build's output.
        breaks(by, "POST", "/attach", Fault::CutBody(10), &["output of container", "damaged"]);
    }
    breaks(By::Engine, "GET", "/archive", Fault::CutBody(0), &["could not fetch \"/workspace\""]);
    breaks(By::Engine, "GET", "/archive", Fault::CutBody(700), &["could not fetch \"/workspace\""]);
}

#[test]
fn output_that_stops_between_two_frames_is_no_success() {
    // The build says much more than that, and none of the rest would ever arrive.
    let project = project();
    let before = project.tree();
    let home = tempfile::tempdir().unwrap();
    let proxy = Proxy::new(home.path());
    proxy.on("POST", "/attach", Which::All, Fault::CutBody(8 + 6));
    let mut command = project.command();
    command.env("DOCKER_HOST", proxy.address());
    command.args(["--no-agent", "--", "sh", "-c", "echo first; sleep 10; echo second; echo new >out/new"]);
    let ended = Ended::from(command.output().unwrap());
    ended.exits(125).says(&["the build's output ended while the command still ran"]);
    assert!(project.tree() == before);
    eventually("the container is removed", || project.containers().is_empty());
}

#[test]
fn a_command_that_closes_its_own_streams_runs_to_its_end() {
    let project = project();
    let ended = project.sh(&["-q"], "echo said; exec >&- 2>&-; sleep 4; echo new >out/new; exit 3");
    ended.exits(3);
    assert_eq!(ended.out(), "said\n");
}

#[test]
fn an_engine_that_refuses_is_quoted() {
    for (method, part, message, says) in [
        ("POST", "/containers/create", "no space left on device", "the engine's disk is full"),
        ("PUT", "/archive", "write /workspace/source: no space left on device", "the engine's disk is full"),
        ("PUT", "/archive", "something new", "the engine answered 500: something new"),
        ("POST", "/attach", "something new", "could not attach"),
        ("POST", "/start", "driver failed programming external connectivity", "driver failed programming"),
        ("POST", "/wait", "something new", "could not wait"),
        ("GET", "/archive", "something new", "could not fetch"),
    ] {
        breaks(By::Engine, method, part, Fault::Status(500, message.to_owned()), &[says, message]);
    }
}

#[test]
fn an_engine_that_refuses_a_large_upload_at_once_is_quoted_too() {
    let project = project();
    project.write("large", vec![7; 20 << 20]);
    let proxy = Proxy::new(&project.outside());
    proxy.on(
        "PUT",
        "/archive",
        Which::All,
        Fault::Status(500, "write /x: no space left on device".to_owned()),
    );
    build_at(&project, &proxy.address(), &[])
        .exits(125)
        .says(&["the engine's disk is full", "docker system prune"]);
    project.assert_nothing_left();
}

#[test]
fn a_container_removed_by_hand_is_told_in_each_phase() {
    let remove: Fault = Fault::First(Arc::new(|path: &str| {
        let id = path.split('/').nth(2).unwrap();
        let output = Command::new("docker").args(["rm", "--force", id]).output().unwrap();
        assert!(output.status.success());
    }));
    for (method, part) in [
        ("HEAD", "/archive"),
        ("PUT", "/archive"),
        ("POST", "/attach"),
        ("POST", "/start"),
        ("POST", "/wait"),
        ("GET", "/archive"),
    ] {
        breaks(By::Engine, method, part, remove.clone(), &["the container is gone", "it was removed"]);
    }
}

#[test]
fn a_container_removed_while_the_command_runs_is_no_result_of_the_commands() {
    let project = project();
    let before = project.tree();
    let mut child = project.start(&[], "echo up; sleep 60; echo new >out/new");
    crate::common::read_until(child.stdout.as_mut().unwrap(), "up\n");
    for container in project.containers() {
        crate::common::docker(&["rm", "--force", &container]);
    }
    let ended = Ended::of(child);
    ended.exits(125).says(&["the container is gone"]);
    assert!(project.tree() == before);
    project.assert_nothing_left();
}

#[test]
fn an_engine_that_dies_while_the_command_runs_is_told_and_the_container_goes_by_itself() {
    let project = project();
    let before = project.tree();
    let home = tempfile::tempdir().unwrap();
    let proxy = Proxy::new(home.path());
    let mut command = project.command();
    command.env("DOCKER_HOST", proxy.address());
    command.args(["--", "sh", "-c", "echo up; sleep 60; echo new >out/new"]);
    let mut child = command.spawn().unwrap();
    crate::common::read_until(child.stdout.as_mut().unwrap(), "up\n");
    drop(proxy);
    let ended = Ended::of(child);
    ended.exits(125).says(&["could not be removed"]);
    assert!(project.tree() == before);
    // The container hears that its client is gone.
    eventually("the container goes by itself", || project.containers().is_empty());
}

#[test]
fn products_are_brought_back_although_the_container_cannot_be_removed() {
    for fault in [Fault::Close, Fault::Status(500, "driver is busy".to_owned())] {
        let project = project();
        let home = tempfile::tempdir().unwrap();
        let proxy = Proxy::new(home.path());
        proxy.on("DELETE", "/containers/", Which::Nth(1), fault);
        let ended = build_at(&project, &proxy.address(), By::Engine.options());
        ended.exits(0).says(&["could not be removed", "could not remove container"]);
        assert_eq!(project.read("out/new"), "new\n");
        eventually("the reaper removes it", || project.containers().is_empty());
        eventually("the reaper is done", || {
            fs::read_dir(project.state().join("runs")).into_iter().flatten().flatten().count() == 0
        });
        project.assert_nothing_left();
    }
}

/// Lets no answer come.
struct NoAnswer;

impl Hold for NoAnswer {
    fn let_pass(&self, way: Way, bytes: &[u8]) -> usize {
        if way == Way::Up { bytes.len() } else { 0 }
    }

    fn wait(&self) -> Then {
        loop {
            thread::park();
        }
    }
}

#[test]
fn an_engine_that_never_tells_of_the_containers_end_holds_up_no_build() {
    let project = project();
    let home = tempfile::tempdir().unwrap();
    let proxy = Proxy::new(home.path());
    // Docker itself does so to who asks in the moment of the removal.
    proxy.on("POST", "/wait", Which::All, Fault::Hold(Arc::new(NoAnswer)));
    build_at(&project, &proxy.address(), By::Agent.options()).exits(0);
    assert_eq!(project.read("out/new"), "new\n");
    project.assert_nothing_left();
}

#[test]
fn the_commands_own_failure_outlives_a_lost_look_at_its_reason() {
    let project = project();
    let home = tempfile::tempdir().unwrap();
    let proxy = Proxy::new(home.path());
    proxy.on("GET", "/json", Which::Nth(2), Fault::Close);
    let mut command = project.command();
    command.env("DOCKER_HOST", proxy.address()).args(["--no-agent", "--", "sh", "-c", "exit 7"]);
    Ended::from(command.output().unwrap()).exits(7);
    project.assert_nothing_left();
}
