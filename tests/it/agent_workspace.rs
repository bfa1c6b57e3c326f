//! The far end as PID 1 of a container: what init promises, and what only a PID namespace of its own can show.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use crate::common::agent::{Agent, AtTheEnd, Client, View, hello, on_terminal, path, run};
use crate::common::{BUSYBOX, EMPTY, NONROOT, SOCKET};
use fastbuild::{
    agent::protocol::{Blob, Follow, Hello, Home, Reply, Request, Run, Status},
    tree::node::NodeKind,
};

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// By the API, for the command line always has stdin closed when the first client goes.
fn create(image: &str) -> String {
    let spec = serde_json::json!({
        "Image": image,
        "User": "0",
        "Entrypoint": ["/.fastbuild/agent"],
        "Cmd": ["init"],
        "OpenStdin": true,
        "StdinOnce": false,
        "HostConfig": { "LogConfig": { "Type": "none" } },
    });
    let spec = spec.to_string();
    let mut stream = std::os::unix::net::UnixStream::connect(SOCKET).unwrap();
    let head = "POST /containers/create HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length:";
    write!(stream, "{head} {}\r\n\r\n{spec}", spec.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    body["Id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// A container whose main process is the agent; removed when dropped.
struct Workspace {
    agent: Agent,
    id: String,
}

impl Workspace {
    fn new(image: &str) -> Workspace {
        let agent = Agent::new();
        let id = create(image);
        let workspace = Workspace { agent, id };
        workspace.put_agent();
        docker(&["start", &workspace.id]);
        workspace
    }

    fn put_agent(&self) {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        let bytes = fs::read(self.agent.program()).unwrap();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, ".fastbuild/agent", bytes.as_slice()).unwrap();
        let mut copy = Command::new("docker")
            .args(["cp", "-", &format!("{}:/", self.id)])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        copy.stdin.take().unwrap().write_all(&archive.into_inner().unwrap()).unwrap();
        assert!(copy.wait().unwrap().success());
    }

    fn attach(&self) -> Client {
        let mut client = Client::over(Command::new("docker").args(["attach", "--sig-proxy=false", &self.id]));
        client.end = AtTheEnd::Kill;
        client
    }

    fn attached(&self) -> Client {
        let mut client = self.attach();
        client.hello(60_000);
        client
    }

    fn state(&self) -> String {
        docker(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", &self.id])
    }

    /// The programs of all processes.
    fn processes(&self) -> Vec<String> {
        let top = docker(&["top", &self.id, "-o", "pid,args"]);
        let of = |line: &str| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ");
        top.lines().skip(1).map(of).collect()
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", &self.id]).output();
    }
}

const INIT: &str = "/.fastbuild/agent init";
const ROOT: &str = "/workspace";

#[test]
fn a_build_goes_round_in_an_image_that_holds_one_static_program() {
    let workspace = Workspace::new(EMPTY);
    let host = workspace.agent.host();
    fs::write(host.join("file"), "content").unwrap();
    let mut client = workspace.attached();
    client.sync(&host, Path::new(ROOT), &View::everything());
    let started = client.start(run(&["/no-such-program"], Path::new(ROOT)));
    assert!(matches!(started, Reply::NotStarted(_)), "{started:?}");
    let nodes = client.named(Path::new("/workspace/file"), Follow::Itself, None).unwrap();
    assert!(matches!(nodes[0].kind, NodeKind::File { size: 7, .. }));
    assert_eq!(client.want(&[0]), [(".".to_owned(), "content".to_owned())]);
    client.bye();
}

#[test]
fn sources_belong_to_the_user_and_so_does_the_command() {
    let workspace = Workspace::new(NONROOT);
    let host = workspace.agent.host();
    fs::create_dir(host.join("dir")).unwrap();
    fs::write(host.join("dir/file"), "content").unwrap();
    std::os::unix::fs::symlink("dir", host.join("link")).unwrap();
    let mut client = workspace.attached();
    let view = View { user: "app".to_owned(), ..View::everything() };
    client.sync(&host, Path::new(ROOT), &view);
    let script = "id; echo $HOME; echo x >dir/product && echo out >/dev/stdout; stat -c '%U %n' . dir dir/file link; \
                  cat /proc/self/oom_score_adj; grep ^Cap /proc/self/status";
    let run = Run { home: Home::OfUser, ..run(&["sh", "-c", script], Path::new(ROOT)) };
    let ended = client.run(run.clone());
    let id = docker(&["run", "--rm", NONROOT, "sh", "-c", "id; echo $HOME"]);
    let wanted = format!("{id}\nout\napp .\napp dir\napp dir/file\napp link\n100\n");
    assert!(ended.stdout().starts_with(&wanted), "{ended:?} {wanted}");
    assert!(ended.stdout().contains("CapEff:\t0000000000000000"), "{ended:?}");
    let ended = client.run(on_terminal(run));
    assert_eq!(ended.status, Status::Code(0), "{ended:?}");
    let (changed, _) = client.changes();
    assert_eq!(changed[0].path, path("dir/product"));
    client.bye();
}

#[test]
fn whoever_lives_in_the_workspace_when_a_command_is_over_is_dead() {
    let workspace = Workspace::new(BUSYBOX);
    let mut client = workspace.attached();
    client.sync(&workspace.agent.host(), Path::new(ROOT), &View::everything());
    let script = "setsid sh -c 'while :; do sleep 1; done' & (setsid sleep 1000 &) ; exec 1>&- 2>&-; exit 4";
    let ended = client.sh(script, Path::new(ROOT));
    assert_eq!(ended.status, Status::Code(4));
    let left = workspace.processes();
    assert_eq!(left, [INIT, "/proc/self/exe session"]);
    client.bye();
}

#[test]
fn a_client_that_is_killed_leaves_nothing_that_runs_and_the_next_one_is_served() {
    let workspace = Workspace::new(BUSYBOX);
    let mut client = workspace.attached();
    client.sync(&workspace.agent.host(), Path::new(ROOT), &View::everything());
    let script = "trap '' TERM HUP; echo begun; while :; do echo noise noise noise noise; done";
    assert_eq!(client.start(run(&["sh", "-c", script], Path::new(ROOT))), Reply::Started);
    client.output_until("begun");
    client.child.kill().unwrap();
    client.wait();
    drop(client);
    docker(&["exec", &workspace.id, "/.fastbuild/agent", "end", "run"]);
    assert_eq!(workspace.processes(), [INIT]);

    let mut client = workspace.attached();
    client.sync(&workspace.agent.host(), Path::new(ROOT), &View::everything());
    assert_eq!(client.sh("echo next", Path::new(ROOT)).stdout(), "next\n");
    assert_eq!(workspace.processes(), [INIT, "/proc/self/exe session"]);
    client.bye();
}

#[test]
fn a_client_that_dies_in_the_middle_of_an_upload_does_not_disturb_the_next_one() {
    let workspace = Workspace::new(BUSYBOX);
    let host = workspace.agent.host();
    fs::write(host.join("file"), "content").unwrap();
    let mut client = workspace.attached();
    client.open(Path::new(ROOT), &View::everything());
    client.request(&Request::Apply { deletes: vec![] });
    client.data_part(&vec![b'x'; 300_000]);
    client.write(&[3, 255, 1, 0]);
    client.child.kill().unwrap();
    client.wait();
    drop(client);
    let mut client = workspace.attached();
    client.sync(&host, Path::new(ROOT), &View::everything());
    assert_eq!(client.sh("cat file", Path::new(ROOT)).stdout(), "content");
    client.bye();
}

#[test]
fn a_session_comes_over_an_exec_as_well() {
    let workspace = Workspace::new(BUSYBOX);
    let mut client = Client::over(Command::new("docker").args([
        "exec",
        "-i",
        &workspace.id,
        "/.fastbuild/agent",
        "session",
    ]));
    client.hello(60_000);
    client.sync(&workspace.agent.host(), Path::new(ROOT), &View::everything());
    let ended = client.sh("(setsid sleep 1000 &); echo there", Path::new(ROOT));
    assert_eq!(ended.stdout(), "there\n");
    assert_eq!(workspace.processes(), [INIT, "/.fastbuild/agent session"]);
    client.bye();
    assert_eq!(client.wait(), Some(0));
}

#[test]
fn an_idle_workspace_stops_by_itself_and_a_stop_is_heard_at_once() {
    let workspace = Workspace::new(BUSYBOX);
    let mut client = workspace.attach();
    client.hello_with(Hello { idle_stop: Some(1), ..hello(60_000) });
    client.bye();
    assert_eq!(docker(&["wait", &workspace.id]), "0");
    docker(&["start", &workspace.id]);
    let mut client = workspace.attach();
    client.hello_with(Hello { idle_stop: Some(0), ..hello(60_000) });
    client.bye();
    // Ten seconds, and then SIGKILL, is what a main process gets that does not listen.
    docker(&["stop", "-t", "600", &workspace.id]);
    assert_eq!(workspace.state(), "exited 0");
}

#[test]
fn a_workspace_without_stdin_waits_without_spinning() {
    let agent = Agent::new();
    let id =
        docker(&["create", "--log-driver", "none", "--entrypoint", "/.fastbuild/agent", BUSYBOX, "init"]);
    let workspace = Workspace { agent, id };
    workspace.put_agent();
    docker(&["start", &workspace.id]);
    let mut client = Client::over(Command::new("docker").args([
        "exec",
        "-i",
        &workspace.id,
        "/.fastbuild/agent",
        "session",
    ]));
    client.hello(60_000);
    client.open(Path::new(ROOT), &View::everything());
    // Time that PID 1 has used, in ticks of a hundredth of a second; a second of spinning would be a hundred.
    let script = "sleep 1; cut -d' ' -f14,15 /proc/1/stat; ls -l /proc/1/fd | grep -c /dev/null";
    let stdout = client.sh(script, Path::new(ROOT)).stdout();
    let mut numbers = stdout.split_whitespace().map(|number| number.parse::<u32>().unwrap());
    assert!(numbers.next().unwrap() + numbers.next().unwrap() < 20, "{stdout}");
    client.bye();
}

#[test]
fn the_environment_is_the_images_with_what_is_asked_for_on_top() {
    let workspace = Workspace::new(BUSYBOX);
    let mut client = workspace.attached();
    client.open(Path::new(ROOT), &View::everything());
    let mut run = run(&["env"], Path::new("/"));
    run.env = vec![(Blob::from(b"X".as_slice()), Blob::from(b"y\nz".as_slice()))];
    let here = client.run(run).stdout().replace(&workspace.id[..12], "HOST");
    let theirs = docker(&["run", "--rm", "--hostname", "HOST", "-e", "X=y\nz", BUSYBOX, "env"]);
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&here), sorted(&theirs));
    client.bye();
}
