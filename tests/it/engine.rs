//! What [`fastbuild::engine`] promises, asked of a real engine at the default socket; faults come from a proxy in front
//! of it. The runtime has a thread of its own, because [`Container`]'s `drop` blocks the test's, and connections that
//! a test gave up must be closed for the engine to let go of the container.

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bytes::Bytes;
use fastbuild::{
    engine::{
        Attached, ContainerId, ContainerSpec, Delivery, Docker, EngineError, Entrypoint, Owned, PathKind,
        Removed, Sizes, StartError,
    },
    spec::{ContainerOptions, Decision, Endpoint, EnvVar, Stdin, Stream, Terminal},
};
use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

const IMAGE: &str = "fastbuild/test-busybox:latest";
const SOCKET: &str = "/var/run/docker.sock";
const LABEL: &str = "fastbuild.test=engine";

fn asked<T>(value: T) -> Option<Decision<T>> {
    Some(Decision::default(value, "a test wants it"))
}

fn with_memory(bytes: u64) -> ContainerOptions {
    ContainerOptions { memory: asked(bytes), ..ContainerOptions::without_network() }
}

async fn engine() -> Docker {
    Docker::connect(&Endpoint::Unix(SOCKET.into())).await.unwrap()
}

fn spec(command: &[&str]) -> ContainerSpec {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    ContainerSpec {
        working_dir: "/workspace".to_owned(),
        labels: [("fastbuild.test".to_owned(), "engine".to_owned())].into(),
        options: ContainerOptions::without_network(),
        ..ContainerSpec::new(
            format!("fastbuild-test-engine-{}-{number}", std::process::id()),
            IMAGE.to_owned(),
            command.iter().map(|&word| word.to_owned()).collect(),
        )
    }
}

/// What each of those says of itself.
fn mine() -> Owned {
    Owned::by("fastbuild.test", "engine")
}

/// A container that goes when the test does, however it ends.
struct Container {
    id: ContainerId,
    terminal: Terminal,
    stdin: Stdin,
}

impl Container {
    async fn new(docker: &Docker, spec: &ContainerSpec) -> Container {
        let id = docker.create(spec).await.unwrap();
        Container { id, terminal: spec.terminal, stdin: spec.stdin }
    }

    async fn attach(&self, docker: &Docker) -> Attached {
        docker.attach(&self.id, self.terminal, self.stdin).await.unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let id = self.id.clone();
        let remove = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { engine().await.remove(id.as_str(), &mine()).await }).unwrap();
        };
        // A runtime cannot be entered from inside of another one's thread.
        std::thread::spawn(remove).join().unwrap();
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Output {
    out: Vec<u8>,
    err: Vec<u8>,
}

async fn read_all(attached: &mut Attached) -> Result<Output, EngineError> {
    let mut output = Output::default();
    while let Some((stream, chunk)) = attached.output.next().await? {
        match stream {
            Stream::Stdout => output.out.extend_from_slice(&chunk),
            Stream::Stderr => output.err.extend_from_slice(&chunk),
        }
    }
    Ok(output)
}

/// Attach, start, read to the end, wait.
async fn run(docker: &Docker, spec: &ContainerSpec) -> (Output, i64) {
    let container = Container::new(docker, spec).await;
    let mut attached = container.attach(docker).await;
    docker.start(&container.id).await.unwrap();
    let output = read_all(&mut attached).await.unwrap();
    (output, docker.wait(&container.id).await.unwrap())
}

/// Bytes that look random and are the same each time.
fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let step = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_be_bytes()[3]
    };
    std::iter::repeat_with(step).take(length).collect()
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

fn body(bytes: Vec<u8>) -> impl futures_util::Stream<Item = Result<Bytes, io::Error>> + Send + 'static {
    let chunks: Vec<_> = bytes.chunks(30_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    stream::iter(chunks)
}

/// A socket in a directory of its own.
struct Socket {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Socket {
    fn new() -> Socket {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine.sock");
        Socket { _dir: dir, path }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.path.clone())
    }
}

/// An engine that answers every request with the same bytes and hangs up.
fn answering(answer: &'static str) -> Socket {
    let socket = Socket::new();
    let listener = UnixListener::bind(&socket.path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = client.read(&mut request).await;
            let _ = client.write_all(answer.as_bytes()).await;
        }
    });
    socket
}

/// The real engine, but answers to requests whose first line holds `needle` end after `bytes` bytes.
fn cutting(needle: &'static str, bytes: u64) -> Socket {
    let socket = Socket::new();
    let listener = UnixListener::bind(&socket.path).unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(relay(client, needle, bytes));
        }
    });
    socket
}

async fn relay(client: UnixStream, needle: &str, bytes: u64) -> io::Result<()> {
    let mut engine = UnixStream::connect(Path::new(SOCKET)).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let mut first = vec![0; 64 * 1024];
    let length = from_client.read(&mut first).await?;
    engine.write_all(&first[..length]).await?;
    let line = String::from_utf8_lossy(&first[..length]).lines().next().unwrap_or_default().to_owned();
    let limit = if line.contains(needle) { bytes } else { u64::MAX };
    let (from_engine, mut to_engine) = engine.into_split();
    let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_engine).await });
    tokio::io::copy(&mut from_engine.take(limit), &mut to_client).await?;
    up.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_engine_tells_what_it_is() {
    let facts = engine().await.facts().clone();
    assert_eq!(facts.os, "linux");
    assert!(!facts.version.is_empty() && !facts.name.is_empty(), "{facts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_way_of_having_no_engine_has_its_own_error_and_advice() {
    async fn error(endpoint: Endpoint) -> EngineError {
        Docker::connect(&endpoint).await.err().unwrap()
    }
    // Bound and dropped, so that no process listens there.
    let stale = Socket::new();
    drop(UnixListener::bind(&stale.path).unwrap());
    let web = answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    let tls = answering("HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n");
    let smtp = answering("220 mail ESMTP\r\n");
    let old = answering("HTTP/1.1 200 OK\r\nApi-Version: 1.39\r\nContent-Length: 2\r\n\r\nOK");

    let missing = error(Endpoint::Unix("/nonexistent/engine.sock".into())).await;
    assert!(matches!(missing, EngineError::SocketMissing { .. }), "{missing:?}");
    let refused = [error(stale.endpoint()).await, error(Endpoint::Tcp("127.0.0.1:1".to_owned())).await];
    assert!(refused.iter().all(|error| matches!(error, EngineError::Refused { .. })), "{refused:?}");
    let no_host = error(Endpoint::Tcp("no-such-host.invalid:2375".to_owned())).await;
    assert!(matches!(no_host, EngineError::HostNotFound { .. }), "{no_host:?}");
    let wrong = [error(web.endpoint()).await, error(smtp.endpoint()).await, error(tls.endpoint()).await];
    assert!(wrong.iter().all(|error| matches!(error, EngineError::WrongApi { .. })), "{wrong:?}");
    assert!(wrong[2].advice().unwrap().contains("TLS"), "{wrong:?}");
    let old = error(old.endpoint()).await;
    assert!(matches!(old, EngineError::ApiTooOld { .. }), "{old:?}");
    for error in [missing, no_host, old].iter().chain(&refused).chain(&wrong) {
        assert!(error.advice().is_some(), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_image_that_is_there_tells_its_facts_and_one_that_is_not_is_none() {
    let docker = engine().await;
    let facts = docker.image(IMAGE, None).await.unwrap().unwrap();
    assert_eq!(facts.os, "linux");
    assert_eq!(docker.image(&facts.id, Some("linux")).await.unwrap(), Some(facts.clone()));
    assert_eq!(docker.image(IMAGE, Some("windows/amd64")).await.unwrap(), None);
    assert_eq!(docker.image("fastbuild-test/no-such-image:9", None).await.unwrap(), None);
    let bad = docker.image("UPPER:::x", None).await.unwrap_err();
    assert!(matches!(bad, EngineError::BadReference { .. }), "{bad:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn pulls_that_cannot_succeed_say_why() {
    let docker = engine().await;
    let unreachable = docker.pull("localhost:1/x", None, |_| {}).await.unwrap_err();
    assert!(matches!(unreachable, EngineError::RegistryUnreachable { .. }), "{unreachable:?}");
    let id = docker.image(IMAGE, None).await.unwrap().unwrap().id;
    let by_id = docker.pull(&id, None, |_| {}).await.unwrap_err();
    assert!(matches!(by_id, EngineError::PullById { .. }), "{by_id:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn output_arrives_byte_for_byte_on_its_own_stream() {
    let docker = engine().await;
    let (out, err) = (noise(1 << 20, 1), noise(1 << 20, 2));
    let spec = spec(&["sh", "-c", "cat /tmp/out & cat /tmp/err >&2; wait"]);
    let container = Container::new(&docker, &spec).await;
    let archive = tar_of(&[("tmp/out", &out), ("tmp/err", &err)]);
    docker.put(&container.id, "/", body(archive)).await.unwrap();

    let mut attached = container.attach(&docker).await;
    docker.start(&container.id).await.unwrap();
    let output = read_all(&mut attached).await.unwrap();

    assert!(output == Output { out, err });
    assert_eq!(docker.wait(&container.id).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn output_of_a_command_that_ends_at_once_is_complete() {
    let docker = engine().await;
    for round in 0..50 {
        let (output, code) = run(&docker, &spec(&["echo", "-n", "x"])).await;
        assert_eq!((output.out.as_slice(), code), (&b"x"[..], 0), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_terminals_bytes_are_never_taken_for_frames() {
    let docker = engine().await;
    let script = r"stty raw; printf '\001\000\000\000\000\000\000\003abc\002\000'; printf '\000' >&2";
    let spec = ContainerSpec { terminal: Terminal::Allocate, ..spec(&["sh", "-c", script]) };
    let (output, _) = run(&docker, &spec).await;
    assert_eq!(output.out, b"\x01\0\0\0\0\0\0\x03abc\x02\0\0");
    assert_eq!(output.err, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn input_reaches_the_command_and_its_end_too() {
    let docker = engine().await;
    let spec = ContainerSpec { stdin: Stdin::Forward, ..spec(&["cat"]) };
    let container = Container::new(&docker, &spec).await;
    let mut attached = container.attach(&docker).await;
    docker.start(&container.id).await.unwrap();

    let sent = noise(1 << 20, 3);
    let mut input = attached.input.take().unwrap();
    let writing = {
        let sent = sent.clone();
        tokio::spawn(async move {
            input.write_all(&sent).await.unwrap();
            input.shutdown().await.unwrap();
            input
        })
    };
    let output = read_all(&mut attached).await.unwrap();
    writing.await.unwrap();

    assert!(output == Output { out: sent, err: Vec::new() });
    assert_eq!(docker.wait(&container.id).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_command_that_leaves_its_input_unread_ends_well() {
    let docker = engine().await;
    let spec = ContainerSpec { stdin: Stdin::Forward, ..spec(&["head", "-c", "3"]) };
    let container = Container::new(&docker, &spec).await;
    let mut attached = container.attach(&docker).await;
    docker.start(&container.id).await.unwrap();

    let mut input = attached.input.take().unwrap();
    let writing = tokio::spawn(async move { input.write_all(&vec![b'a'; 8 << 20]).await });
    let output = read_all(&mut attached).await.unwrap();

    assert_eq!(output.out, b"aaa");
    assert_eq!(docker.wait(&container.id).await.unwrap(), 0);
    writing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_container_is_made_as_its_spec_says() {
    let docker = engine().await;
    let env = vec![EnvVar { name: "A".to_owned(), value: "b c\n".to_owned() }];
    let spec = ContainerSpec {
        env,
        user: Some("app".to_owned()),
        working_dir: "/new/dir".to_owned(),
        options: ContainerOptions { nano_cpus: asked(500_000_000), ..with_memory(64 << 20) },
        entrypoint: Entrypoint::Program("sh".to_owned()),
        ..spec(&["-c", "pwd; id -u; id -g; printf %s \"$A\"; cat"])
    };
    let (output, code) = run(&docker, &spec).await;
    assert_eq!(String::from_utf8(output.out).unwrap(), "/new/dir\n1000\n1001\nb c\n");
    assert_eq!(code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_entry_point_means_none() {
    let docker = engine().await;
    let spec = ContainerSpec { entrypoint: Entrypoint::None, ..spec(&["echo", "x"]) };
    assert_eq!(run(&docker, &spec).await.0.out, b"x\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_container_that_cannot_be_made_says_why() {
    let docker = engine().await;
    let good = spec(&["true"]);
    let _container = Container::new(&docker, &good).await;
    let taken = docker.create(&good).await.unwrap_err();
    assert!(matches!(taken, EngineError::NameTaken { .. }), "{taken:?}");
    let file = ContainerSpec { working_dir: "/etc/passwd".to_owned(), ..spec(&["true"]) };
    let file = docker.create(&file).await.unwrap_err();
    assert!(matches!(file, EngineError::WorkingDirectory { .. }), "{file:?}");
    let no_image = ContainerSpec { image: "fastbuild-test/no-such:1".to_owned(), ..spec(&["true"]) };
    match docker.create(&no_image).await.unwrap_err() {
        EngineError::ImageNotFound { reference, .. } => assert_eq!(reference, "fastbuild-test/no-such:1"),
        error => panic!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_command_that_is_missing_is_told_from_one_that_cannot_run() {
    let docker = engine().await;
    for (command, expected) in
        [("no-such-command", 127), ("/no/such/command", 127), ("/etc/passwd", 126), ("/etc", 126)]
    {
        let container = Container::new(&docker, &spec(&[command])).await;
        let (what, code) = match docker.start(&container.id).await.unwrap_err() {
            StartError::CommandNotFound { what, .. } => (what, 127),
            StartError::NotExecutable { what, .. } => (what, 126),
            error => panic!("{command}: {error:?}"),
        };
        assert_eq!((what.as_str(), code), (command, expected));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn exit_codes_come_back_as_they_are() {
    let docker = engine().await;
    for code in [0, 1, 7, 125, 126, 127, 255] {
        let exit = format!("exit {code}");
        assert_eq!(run(&docker, &spec(&["sh", "-c", &exit])).await.1, code);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_wait_may_begin_long_after_the_end() {
    let docker = engine().await;
    let container = Container::new(&docker, &spec(&["sh", "-c", "exit 3"])).await;
    docker.start(&container.id).await.unwrap();
    assert_eq!(docker.wait(&container.id).await.unwrap(), 3);
    assert_eq!(docker.wait(&container.id).await.unwrap(), 3);
    let state = docker.state(&container.id).await.unwrap();
    assert_eq!((state.running, state.exit_code, state.oom_killed), (false, 3, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_signal_reaches_the_command_and_one_too_late_is_no_error() {
    let docker = engine().await;
    let script = "trap 'exit 42' INT; echo ready; while :; do sleep 0.05; done";
    let container = Container::new(&docker, &spec(&["sh", "-c", script])).await;
    assert_eq!(docker.kill(&container.id, "SIGINT").await.unwrap(), Delivery::NotRunning);
    let mut attached = container.attach(&docker).await;
    docker.start(&container.id).await.unwrap();
    let (_, ready) = attached.output.next().await.unwrap().unwrap();
    assert_eq!(ready, "ready\n");
    assert_eq!(docker.kill(&container.id, "SIGINT").await.unwrap(), Delivery::Delivered);
    assert_eq!(docker.wait(&container.id).await.unwrap(), 42);
    assert_eq!(docker.kill(&container.id, "SIGKILL").await.unwrap(), Delivery::NotRunning);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_terminal_has_the_size_it_is_told() {
    let docker = engine().await;
    let spec = ContainerSpec {
        terminal: Terminal::Allocate,
        stdin: Stdin::Forward,
        ..spec(&["sh", "-c", "read line; stty size"])
    };
    let container = Container::new(&docker, &spec).await;
    docker.resize(&container.id, 1, 1).await.unwrap();
    let mut attached = container.attach(&docker).await;
    docker.start(&container.id).await.unwrap();
    docker.resize(&container.id, 33, 99).await.unwrap();
    attached.input.as_mut().unwrap().write_all(b"\r").await.unwrap();
    let output = String::from_utf8(read_all(&mut attached).await.unwrap().out).unwrap();
    assert!(output.contains("33 99"), "{output:?}");
    docker.resize(&container.id, 1, 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn keys_that_would_detach_reach_the_command() {
    let docker = engine().await;
    let spec = ContainerSpec {
        terminal: Terminal::Allocate,
        stdin: Stdin::Forward,
        ..spec(&["sh", "-c", "stty raw -echo; echo ready; head -c 3"])
    };
    let container = Container::new(&docker, &spec).await;
    let mut attached = container.attach(&docker).await;
    docker.start(&container.id).await.unwrap();
    let mut out = Vec::new();
    while !out.ends_with(b"ready\n") {
        out.extend_from_slice(&attached.output.next().await.unwrap().unwrap().1);
    }
    attached.input.as_mut().unwrap().write_all(b"\x10\x11x").await.unwrap();
    assert_eq!(read_all(&mut attached).await.unwrap().out, b"\x10\x11x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_path_tells_what_it_is() {
    let docker = engine().await;
    let container = Container::new(&docker, &spec(&["true"])).await;
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    archive.append_link(&mut header, "tmp/link", "../etc/passwd").unwrap();
    archive.append_link(&mut header, "tmp/broken", "nowhere").unwrap();
    docker.put(&container.id, "/", body(archive.into_inner().unwrap())).await.unwrap();

    let stat = async |path| docker.stat(&container.id, path).await.unwrap();
    let link = stat("/tmp/link").await.unwrap();
    assert_eq!((link.kind, link.link_target.as_str()), (PathKind::Link, "/etc/passwd"));
    let file = stat("/etc/passwd").await.unwrap();
    assert_eq!((file.kind, file.link_target.as_str()), (PathKind::File, ""));
    assert_eq!(stat("/etc").await.unwrap().kind, PathKind::Other);
    assert_eq!(stat("/nope").await, None);
    assert_eq!(stat("/etc/passwd/x").await, None);

    let read = async |path, max| docker.read_small_file(&container.id, path, max).await;
    let passwd = read("/etc/passwd", 1 << 20).await.unwrap().unwrap();
    assert_eq!(passwd.len() as u64, file.size);
    assert_eq!(read("/tmp/link", 1 << 20).await.unwrap(), Some(passwd));
    assert_eq!(read("/tmp/broken", 1 << 20).await.unwrap(), None);
    assert_eq!(read("/nope", 1 << 20).await.unwrap(), None);
    for (path, max) in [("/etc/passwd", 3), ("/etc", 1 << 20), ("/bin/busybox", 1 << 10)] {
        let error = read(path, max).await.unwrap_err();
        assert!(matches!(error, EngineError::NotASmallFile { .. }), "{path}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_put_can_be_got() {
    let docker = engine().await;
    let container = Container::new(&docker, &spec(&["true"])).await;
    let content = noise(300_000, 4);
    docker.put(&container.id, "/tmp", body(tar_of(&[("f", &content)]))).await.unwrap();
    assert!(docker.read_small_file(&container.id, "/tmp/f", 300_000).await.unwrap() == Some(content));
    match docker.get(&container.id, "/tmp/nope").await.err().unwrap() {
        EngineError::NotThere { path, .. } => assert_eq!(path, "/tmp/nope"),
        error => panic!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_upload_whose_source_fails_fails_with_the_sources_error() {
    let docker = engine().await;
    let container = Container::new(&docker, &spec(&["true"])).await;
    let mut archive = tar_of(&[("whole", b"1"), ("half", &noise(200_000, 5))]);
    archive.truncate(100_000);
    let failing = body(archive).chain(stream::iter([Err(io::Error::other("the disk fell off"))]));
    match docker.put(&container.id, "/tmp", failing).await.unwrap_err() {
        EngineError::Body { source, .. } => assert_eq!(source.to_string(), "the disk fell off"),
        error => panic!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_upload_whose_source_fails_never_looks_whole_to_the_engine() {
    let socket = Socket::new();
    let listener = UnixListener::bind(&socket.path).unwrap();
    let engine = tokio::spawn(async move {
        let greeting = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK";
        let (mut client, _) = listener.accept().await.unwrap();
        client.read_exact(&mut [0; 8]).await.unwrap();
        client.write_all(greeting).await.unwrap();
        let (mut client, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        client.read_to_end(&mut request).await.unwrap();
        request
    });
    let docker = Docker::connect(&socket.endpoint()).await.unwrap();
    let failing =
        body(tar_of(&[("f", &vec![b'1'; 1 << 20])])).chain(stream::iter([Err(io::Error::other("no"))]));
    let error = docker.put(&ContainerId::new("x"), "/", failing).await.unwrap_err();
    assert!(matches!(error, EngineError::Body { .. }), "{error:?}");
    let request = String::from_utf8(engine.await.unwrap()).unwrap();
    assert!(request.starts_with("PUT /v1.41/containers/x/archive?path=%2F"), "{request:?}");
    assert!(request.contains("transfer-encoding: chunked"), "{request:?}");
    assert!(!request.ends_with("\r\n0\r\n\r\n"), "the end of a chunked body was sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_command_ended_for_want_of_memory_is_told_as_such() {
    let docker = engine().await;
    let spec = ContainerSpec {
        options: with_memory(16 << 20),
        ..spec(&["sh", "-c", "x=x; while :; do x=$x$x; done"])
    };
    let container = Container::new(&docker, &spec).await;
    docker.start(&container.id).await.unwrap();
    assert_eq!(docker.wait(&container.id).await.unwrap(), 137);
    assert!(docker.state(&container.id).await.unwrap().oom_killed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_engine_that_refuses_an_upload_early_is_heard() {
    let docker = engine().await;
    let container = Container::new(&docker, &spec(&["true"])).await;
    let endless = || {
        let chunk = Bytes::from(vec![0x55; 1 << 16]);
        stream::repeat_with(move || Ok(chunk.clone())).take(4_000)
    };
    for round in 0..10 {
        let error = docker.put(&container.id, "/nope", endless()).await.unwrap_err();
        assert!(matches!(error, EngineError::NotThere { .. }), "round {round}: {error:?}");
        let error = docker.put(&container.id, "/tmp", endless()).await.unwrap_err();
        assert!(matches!(error, EngineError::Api { .. }), "round {round}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_cut_short_is_an_error_and_never_an_end() {
    let docker = engine().await;
    let container =
        Container::new(&docker, &spec(&["sh", "-c", "head -c 200000 /dev/zero; sleep 0.2; exit 5"])).await;
    let content = noise(1 << 20, 6);
    docker.put(&container.id, "/tmp", body(tar_of(&[("f", &content)]))).await.unwrap();

    let cut = cutting("/archive", 200_000);
    let proxied = Docker::connect(&cut.endpoint()).await.unwrap();
    let mut archive = proxied.get(&container.id, "/tmp/f").await.unwrap();
    let end = loop {
        match archive.next().await {
            Some(Ok(_)) => {}
            end => break end,
        }
    };
    assert!(matches!(end, Some(Err(EngineError::Gone { .. }))), "{end:?}");

    let cut = cutting("/attach", 100_000);
    let proxied = Docker::connect(&cut.endpoint()).await.unwrap();
    let mut attached = container.attach(&proxied).await;
    docker.start(&container.id).await.unwrap();
    let error = read_all(&mut attached).await.unwrap_err();
    assert!(matches!(error, EngineError::Frame { .. }), "{error:?}");

    let cut = cutting("/wait", 20);
    let proxied = Docker::connect(&cut.endpoint()).await.unwrap();
    let error = proxied.wait(&container.id).await.unwrap_err();
    assert!(matches!(error, EngineError::Gone { .. }), "{error:?}");
    assert_eq!(docker.wait(&container.id).await.unwrap(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn requests_to_an_engine_that_has_gone_say_so() {
    // Ten bytes of the answer: by then, the engine has done what it was asked, and nothing is left to happen later.
    let socket = cutting("/containers/", 10);
    let docker = Docker::connect(&socket.endpoint()).await.unwrap();
    let id = ContainerId::new("x");
    let spec = spec(&["true"]);
    let _made = Container { id: ContainerId::new(&spec.name), terminal: spec.terminal, stdin: spec.stdin };
    let gone = [
        docker.create(&spec).await.err().unwrap(),
        docker.state(&id).await.err().unwrap(),
        docker.stat(&id, "/").await.err().unwrap(),
        docker.get(&id, "/").await.err().unwrap(),
        docker.put(&id, "/", body(vec![0; 1 << 20])).await.err().unwrap(),
        attach_error(docker.attach(&id, Terminal::None, Stdin::Empty).await),
        docker.wait(&id).await.err().unwrap(),
        docker.kill(&id, "SIGINT").await.err().unwrap(),
        docker.remove("x", &mine()).await.err().unwrap(),
        docker.list(&[], Sizes::Skip).await.err().unwrap(),
    ];
    for error in gone {
        assert!(matches!(error, EngineError::Gone { .. }), "{error:?}");
    }
    std::fs::remove_file(&socket.path).unwrap();
    let error = docker.image(IMAGE, None).await.unwrap_err();
    assert!(matches!(error, EngineError::Gone { .. }), "{error:?}");
}

fn attach_error(attached: Result<fastbuild::engine::Attached, StartError>) -> EngineError {
    match attached {
        Err(StartError::Other(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn requests_to_a_container_that_has_gone_say_so() {
    let docker = engine().await;
    let id = ContainerId::new("fastbuild-test-no-such-container");
    let gone = [
        docker.state(&id).await.err().unwrap(),
        docker.stat(&id, "/").await.err().unwrap(),
        docker.get(&id, "/").await.err().unwrap(),
        docker.put(&id, "/", body(vec![0; 10_000])).await.err().unwrap(),
        attach_error(docker.attach(&id, Terminal::None, Stdin::Empty).await),
        docker.wait(&id).await.err().unwrap(),
        docker.kill(&id, "SIGINT").await.err().unwrap(),
        docker.resize(&id, 1, 1).await.err().unwrap(),
    ];
    for error in gone {
        assert!(matches!(error, EngineError::NoSuchContainer { .. }), "{error:?}");
    }
    let start = docker.start(&id).await.unwrap_err();
    assert!(matches!(start, StartError::Other(EngineError::NoSuchContainer { .. })), "{start:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_container_is_found_by_its_label_and_removed_once() {
    let docker = engine().await;
    let mut spec = spec(&["sleep", "60"]);
    spec.labels.insert("fastbuild.test.one".to_owned(), spec.name.clone());
    let container = Container::new(&docker, &spec).await;
    docker.start(&container.id).await.unwrap();

    let labels = [LABEL.to_owned(), format!("fastbuild.test.one={}", spec.name)];
    let found = docker.list(&labels, Sizes::Skip).await.unwrap();
    let [one] = &found[..] else { panic!("{found:?}") };
    assert_eq!((&one.id, &one.name, one.state.as_str()), (&container.id, &spec.name, "running"));
    assert_eq!(one.labels["fastbuild.test.one"], spec.name);

    for foreign in
        [Owned::by_run("another"), mine().and("fastbuild.test.one", "another"), Owned::of(&[].into())]
    {
        assert_eq!(docker.remove(&spec.name, &foreign).await.unwrap(), Removed::NotOurs, "{foreign:?}");
    }
    assert!(docker.state(&container.id).await.unwrap().running);
    let owned = Owned::of(&spec.labels);
    assert_eq!(docker.remove(&spec.name, &owned).await.unwrap(), Removed::Now);
    assert_eq!(docker.remove(&spec.name, &owned).await.unwrap(), Removed::Already);
    assert_eq!(docker.list(&labels, Sizes::Skip).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_container_removed_while_it_runs_ends_output_and_wait() {
    let docker = engine().await;
    let container = Container::new(&docker, &spec(&["sh", "-c", "echo ready; sleep 60"])).await;
    let mut attached = container.attach(&docker).await;
    docker.start(&container.id).await.unwrap();
    attached.output.next().await.unwrap().unwrap();
    let waiting = {
        let (docker, id) = (docker.clone(), container.id.clone());
        tokio::spawn(async move { docker.wait(&id).await })
    };
    docker.remove(container.id.as_str(), &mine()).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), async {
        read_all(&mut attached).await.unwrap();
        waiting.await.unwrap()
    });
    match ended.await.unwrap() {
        Ok(137) | Err(EngineError::NoSuchContainer { .. }) => {}
        other => panic!("{other:?}"),
    }
}
