//! What [`fastbuild::workspace`] promises, asked of a real engine and the real agent.

use std::{path::PathBuf, time::Duration};

use crate::common::proxy::Proxy;
use crate::common::{BUSYBOX as IMAGE, SOCKET, docker};
use fastbuild::{
    agent::{
        client::{Duplex, Event, Session, SessionError, Settings},
        program,
        protocol::{
            Blob, Claim, Client, Extent, Home as HomeOf, Input, Open, Reply, Request, Run, Status, User,
        },
    },
    args::{Command, parse},
    build::reaper::{Duty, InContainer},
    config,
    engine::{
        Attached, ContainerFacts, ContainerSpec, Docker, EngineError, Entrypoint, ImageFacts, Life, Owned,
        Sizes, labels,
    },
    environment::Environment,
    plan::{self, Plan},
    spec::Endpoint,
    state::{Project, State},
    workspace::{
        self, How, Keeping, Line, Wanted, Why, WithoutAgent, Workspace, WorkspaceError,
        list::{self, Limits, Owner, Removal},
        storage::Storage,
    },
};

/// A project with a state directory of its own; its workspace goes when this does, however the test ends.
struct Home {
    dir: tempfile::TempDir,
    state: State,
    docker: Docker,
    image: ImageFacts,
}

impl Home {
    async fn new() -> Home {
        let dir = tempfile::Builder::new().prefix("fastbuild-test-").tempdir().unwrap();
        let state = State::open(dir.path().join("state")).unwrap();
        std::fs::create_dir(dir.path().join("project")).unwrap();
        let docker = Docker::connect(&Endpoint::Unix(SOCKET.into())).await.unwrap();
        let image = docker.image(IMAGE, None).await.unwrap().unwrap();
        Home { dir, state, docker, image }
    }

    fn source(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join("project")
    }

    fn project(&self) -> Project {
        self.state.project(&self.source()).unwrap()
    }

    fn name(&self) -> String {
        workspace::name(&self.plan(""), &self.project(), &self.state).unwrap()
    }

    fn owned(&self) -> Owned {
        Owned::by(labels::STATE, &self.state.id().unwrap())
    }

    fn engine(&self) -> String {
        self.plan("").engine.value.to_string()
    }

    fn plan(&self, options: &str) -> Plan {
        let env = Environment { cwd: self.source(), ..Environment::default() };
        let line = format!("fastbuild -i {IMAGE} {options} -- true");
        let words = line.split_whitespace().map(Into::into);
        let Command::Run(args) = parse(words).unwrap().command else { panic!("{line}") };
        plan::prepare(&config::Settings::gather(&args, &env).unwrap(), &env).unwrap()
    }

    fn wanted(&self, options: &str) -> Wanted {
        let plan = self.plan(options);
        let (project, at) = (self.project(), plan.on_docker().unwrap());
        let keeping = Keeping::kept(&plan, &project, &self.state).unwrap();
        Wanted::new(&plan, at, &self.image, &keeping, Storage::default(), &project).unwrap()
    }

    async fn ensure(&self, options: &str) -> Result<workspace::Ready, WorkspaceError> {
        let found = self.docker.look(&self.name()).await?;
        workspace::ensure(&self.docker, &self.wanted(options), found).await
    }

    async fn enter(&self, settings: &Settings) -> Result<(Workspace, Session), WorkspaceError> {
        let found = self.docker.look(&self.name()).await?;
        self.enter_by(&self.docker, found, settings).await
    }

    async fn enter_by(
        &self,
        docker: &Docker,
        found: Option<ContainerFacts>,
        settings: &Settings,
    ) -> Result<(Workspace, Session), WorkspaceError> {
        workspace::enter(docker, &self.wanted(""), found, Line::Main, settings, &[]).await
    }

    /// Makes a container with the workspace's name that never started.
    async fn create(&self, labels: impl IntoIterator<Item = (String, String)>) {
        let spec = ContainerSpec {
            entrypoint: Entrypoint::None,
            labels: labels.into_iter().collect(),
            ..ContainerSpec::new(self.name(), self.image.id.clone(), vec!["true".to_owned()])
        };
        self.docker.create(&spec).await.unwrap();
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        docker(&["rm", "--force", &self.name()]);
    }
}

/// Opens the sources and runs a shell script; gives its output and how it ended.
async fn run(session: &mut Session, script: &str) -> (Vec<u8>, Status) {
    session.send(&open_request()).await.unwrap();
    session
        .reply("Opened", |reply| match reply {
            Reply::Opened { .. } => Ok(()),
            other => Err(other),
        })
        .await
        .unwrap();
    session.send(&run_request(script)).await.unwrap();
    let mut output = Vec::new();
    loop {
        match session.receiver.next().await.unwrap() {
            Event::Stdout(bytes) => output.extend_from_slice(&bytes),
            Event::Reply(Reply::Exited { status, .. }) => return (output, status),
            Event::Reply(Reply::Started) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn open_request() -> Request {
    Request::Open(Box::new(Open {
        root: Blob::from(b"/workspace".to_vec()),
        user: User::Named(String::new()),
        patterns: Vec::new(),
        outputs: Vec::new(),
        extent: Extent::Everything,
        caches: Vec::new(),
        ways: Vec::new(),
        claim: Claim::Everything,
        only: Vec::new(),
    }))
}

fn run_request(script: &str) -> Request {
    let argv = ["sh", "-c", script].map(|word| Blob::from(word.as_bytes().to_vec()));
    Request::Run(Box::new(Run {
        argv: argv.into(),
        env: Vec::new(),
        home: HomeOf::OfUser,
        directory: Blob::from(b"/workspace".to_vec()),
        terminal: None,
        stdin: Input::Empty,
        clock_ahead: 0,
        owner: None,
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workspace_is_made_once_then_found_and_started_when_it_has_stopped() {
    let home = Home::new().await;
    let settings = Settings::default();
    let (mut workspace, mut session) = home.enter(&settings).await.unwrap();
    assert_eq!(*workspace.how(), How::Made(Why::Fresh));
    assert_eq!(session.version, env!("CARGO_PKG_VERSION"));
    let (output, status) = run(&mut session, "echo kept >/kept; echo made; exit 3").await;
    assert_eq!((output.as_slice(), status), (&b"made\n"[..], Status::Code(3)));
    session.close().await.unwrap();
    workspace.left_well().await.unwrap();

    let (mut workspace, mut session) = home.enter(&settings).await.unwrap();
    assert_eq!(*workspace.how(), How::Found);
    assert_eq!(run(&mut session, "cat /kept").await, (b"kept\n".to_vec(), Status::Code(0)));
    session.close().await.unwrap();
    workspace.left_well().await.unwrap();

    home.docker.kill(workspace.container().unwrap(), "SIGTERM").await.unwrap();
    home.docker.wait(workspace.container().unwrap()).await.unwrap();
    let (_, mut session) = home.enter(&settings).await.unwrap();
    assert_eq!(run(&mut session, "cat /kept").await, (b"kept\n".to_vec(), Status::Code(0)));
    assert_eq!(home.docker.look(&home.name()).await.unwrap().unwrap().life, Life::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_changed_is_named_and_makes_a_new_workspace() {
    let home = Home::new().await;
    let first = home.ensure("").await.unwrap();
    let second = home.ensure("-u app --network none").await.unwrap();
    let How::Made(Why::Changed(changed)) = second.how else { panic!("{:?}", second.how) };
    let changed: Vec<_> = changed.iter().map(ToString::to_string).collect();
    assert_eq!(changed, ["user (default -> app)", "network (default -> none)"]);
    assert_ne!(second.container, first.container);
    assert_eq!(home.docker.look(first.container.as_str()).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fresh_starts_over() {
    let home = Home::new().await;
    let first = home.ensure("").await.unwrap();
    let second = home.ensure("--fresh").await.unwrap();
    assert_eq!(second.how, How::Made(Why::Asked));
    assert_ne!(second.container, first.container);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_making_that_was_cut_short_is_begun_again() {
    let home = Home::new().await;
    let whole = home.ensure("").await.unwrap();
    let labels = home.docker.look(whole.container.as_str()).await.unwrap().unwrap().labels;
    home.docker.remove(whole.container.as_str(), &home.owned()).await.unwrap();
    home.create(labels).await;
    let ready = home.ensure("").await.unwrap();
    assert!(matches!(ready.how, How::Made(Why::Broken(_))), "{ready:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_is_not_ours_is_left_alone() {
    let home = Home::new().await;
    home.create([]).await;
    let error = home.ensure("").await.unwrap_err();
    assert!(matches!(error, WorkspaceError::Foreign { .. }), "{error}");
    assert!(home.docker.look(&home.name()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_do_between_look_and_deed_is_seen() {
    let home = Home::new().await;
    let (mut workspace, mut session) = home.enter(&Settings::default()).await.unwrap();
    session.close().await.unwrap();
    workspace.left_well().await.unwrap();
    let found = home.docker.look(&home.name()).await.unwrap();

    let ready = workspace::ensure(&home.docker, &home.wanted(""), None).await.unwrap();
    assert_eq!(ready.how, How::Found, "made by somebody else");

    home.docker.remove(&home.name(), &home.owned()).await.unwrap();
    let (workspace, _session) = home.enter_by(&home.docker, found, &Settings::default()).await.unwrap();
    assert_eq!(*workspace.how(), How::Made(Why::Fresh), "removed by somebody else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_client_left_running_is_ended_before_the_next_session() {
    let home = Home::new().await;
    let (_, mut session) = home.enter(&Settings::default()).await.unwrap();
    session.send(&open_request()).await.unwrap();
    session.send(&run_request("touch /alive; sleep 300 & exec sleep 300")).await.unwrap();
    while !matches!(session.receiver.next().await.unwrap(), Event::Reply(Reply::Started)) {}
    drop(session);

    let (workspace, mut session) = home.enter(&Settings::default()).await.unwrap();
    assert_eq!(*workspace.how(), How::Found);
    let (output, _) = run(&mut session, "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; done").await;
    let output = String::from_utf8_lossy(&output);
    assert!(output.contains("init") && !output.contains("sleep 300 "), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reaper_of_a_dead_client_frees_its_workspace() {
    let home = Home::new().await;
    let run = "0123456789ab".to_owned();
    let client = Client { run: run.clone(), ..Client::default() };
    let settings = Settings { client, ..Settings::default() };
    let (workspace, mut session) = home.enter(&settings).await.unwrap();
    session.send(&open_request()).await.unwrap();
    session.send(&run_request("sleep 300 & exec sleep 300")).await.unwrap();
    while !matches!(session.receiver.next().await.unwrap(), Event::Reply(Reply::Started)) {}

    let engine = home.plan("").on_docker().unwrap().endpoint.clone();
    let duty = Duty::Free(InContainer { engine, container: workspace.name().to_owned() });
    let reaped = std::process::Command::new(env!("CARGO_BIN_EXE_fastbuild"))
        .arg("__reap")
        .args([home.state.root(), &home.source()])
        .args([run, serde_json::to_string(&duty).unwrap()])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(reaped.status.success(), "{reaped:?}");
    crate::common::eventually("the build's processes end", || {
        let top = std::process::Command::new("docker").args(["top", workspace.name()]).output().unwrap();
        let top = String::from_utf8_lossy(&top.stdout).into_owned();
        top.contains("init") && !top.contains("sleep")
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_hangs_is_started_again() {
    let home = Home::new().await;
    let (mut workspace, mut session) = home.enter(&Settings::default()).await.unwrap();
    run(&mut session, "echo kept >/kept").await;
    session.close().await.unwrap();
    workspace.left_well().await.unwrap();
    home.docker.kill(workspace.container().unwrap(), "SIGSTOP").await.unwrap();
    let impatient = Settings { patience: Duration::from_secs(1), ..Settings::default() };
    let (workspace, mut session) = home.enter(&impatient).await.unwrap();
    assert!(matches!(workspace.how(), How::Restarted { .. }), "{:?}", workspace.how());
    assert_eq!(run(&mut session, "cat /kept").await, (b"kept\n".to_vec(), Status::Code(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_workspace_goes_on() {
    let home = Home::new().await;
    let (mut workspace, mut session) = home.enter(&Settings::default()).await.unwrap();
    session.close().await.unwrap();
    workspace.left_well().await.unwrap();
    let paused = std::process::Command::new("docker").args(["pause", &home.name()]).output().unwrap();
    assert!(paused.status.success(), "{paused:?}");
    let (workspace, _session) = home.enter(&Settings::default()).await.unwrap();
    assert_eq!(*workspace.how(), How::Found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_without_an_agent_is_not_warm() {
    let home = Home::new().await;
    for (os, architecture) in [("windows", "amd64"), ("linux", "s390x")] {
        let image =
            ImageFacts { os: os.to_owned(), architecture: architecture.to_owned(), ..home.image.clone() };
        let plan = home.plan("");
        let project = home.project();
        let keeping = Keeping::kept(&plan, &project, &home.state).unwrap();
        let error =
            Wanted::new(&plan, plan.on_docker().unwrap(), &image, &keeping, Storage::default(), &project)
                .unwrap_err();
        assert!(matches!(error, WorkspaceError::WithoutAgent(WithoutAgent::NoAgent(_))), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_early_is_traced_to_what_ended() {
    let home = Home::new().await;
    let (mut workspace, mut session) = home.enter(&Settings::default()).await.unwrap();
    home.docker.kill(workspace.container().unwrap(), "SIGKILL").await.unwrap();
    let error = session.receiver.next().await.unwrap_err();
    assert!(matches!(error, SessionError::Ended { .. }), "{error}");
    let error = workspace.why_over(error).await;
    assert!(matches!(&error, WorkspaceError::Stopped { state, .. } if state.exit_code == 137), "{error}");

    let (mut workspace, mut session) = home.enter(&Settings::default()).await.unwrap();
    assert_eq!(*workspace.how(), How::Started);
    home.docker.remove(&home.name(), &home.owned()).await.unwrap();
    let error = session.receiver.next().await.unwrap_err();
    let error = workspace.why_over(error).await;
    assert!(matches!(error, WorkspaceError::Engine(EngineError::NoSuchContainer { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_works_over_an_exec_too() {
    let home = Home::new().await;
    let ready = home.ensure("").await.unwrap();
    let Attached { input, output } =
        home.docker.exec(&ready.container, &[program::PATH, "session"]).await.unwrap();
    let duplex = Duplex::attached(input.unwrap(), output);
    let mut session = Session::open(duplex, &Settings::default(), &[]).await.unwrap();
    assert_eq!(run(&mut session, "echo x").await, (b"x\n".to_vec(), Status::Code(0)));
    session.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workspaces_are_listed_and_removed_when_nobody_is_at_work_in_them() {
    let home = Home::new().await;
    let engine = home.engine();
    home.ensure("").await.unwrap();
    let all = list::list(&home.docker, &home.state, &engine, Sizes::Measure).await.unwrap();
    let own: Vec<_> = all.iter().filter(|listed| listed.owner == Owner::Here).collect();
    let [listed] = own[..] else { panic!("{own:?}") };
    assert_eq!((listed.name.as_str(), listed.image.as_str()), (home.name().as_str(), IMAGE));
    assert_eq!(listed.source, home.source().to_string_lossy());
    assert!(listed.size.unwrap() > 0 && listed.made > 0, "{listed:?}");

    let lock = home.project().place(&home.name()).try_lock().unwrap().unwrap();
    let all_of_it = Limits { older_than: None, total_size: Some(0) };
    let pruned = list::prune(&home.docker, &home.state, &engine, &all_of_it).await.unwrap();
    assert_eq!((pruned.removed.len(), pruned.busy.len()), (0, 1), "{pruned:?}");
    let removed = list::remove(&home.docker, &home.state, &engine, listed).await.unwrap();
    assert!(matches!(removed, Removal::Busy(Some(_))), "{removed:?}");
    drop(lock);
    let pruned = list::prune(&home.docker, &home.state, &engine, &all_of_it).await.unwrap();
    assert_eq!((pruned.removed.len(), pruned.busy.len()), (1, 0), "{pruned:?}");
    assert_eq!(home.docker.look(&home.name()).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entering_a_running_workspace_is_one_look_and_one_attach() {
    let home = Home::new().await;
    let (mut workspace, mut session) = home.enter(&Settings::default()).await.unwrap();
    session.close().await.unwrap();
    workspace.left_well().await.unwrap();
    let proxy = Proxy::new(home.dir.path());
    let address = PathBuf::from(proxy.address().trim_start_matches("unix://"));
    let docker = Docker::connect(&Endpoint::Unix(address)).await.unwrap();
    let found = docker.look(&home.name()).await.unwrap();
    let (_, session) = home.enter_by(&docker, found, &Settings::default()).await.unwrap();
    drop(session);
    insta::assert_snapshot!(proxy.calls().replace(&home.name(), "NAME"), @r"
    GET /_ping
    GET /containers/NAME/json
    POST /containers/ID/attach?stream=1&stdout=1&stderr=1&stdin=1
    ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_workspace_can_be_found_by_its_labels() {
    let home = Home::new().await;
    let ready = home.ensure("").await.unwrap();
    let facts = home.docker.look(ready.container.as_str()).await.unwrap().unwrap();
    let label = |name: &str| facts.labels.get(name).map(String::as_str);
    assert_eq!(label(labels::TIER), Some("kept"));
    assert_eq!(label(labels::PROJECT), Some(home.project().key()));
    assert_eq!(label(labels::STATE), Some(home.state.id().unwrap().as_str()));
    assert_eq!(label(labels::VERSION), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(label(labels::RUN), None, "it would go with the run");
    assert_eq!(facts.image, home.image.id);
}
