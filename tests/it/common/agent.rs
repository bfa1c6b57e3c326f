//! A near end for tests: the agent as a child process, and a synchronous client that speaks to it over pipes.

use std::{
    collections::VecDeque,
    fs,
    io::{Read as _, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

use fastbuild::{
    agent::{
        frame::{
            Decoder, End, Kind, Nonce, Received, opening, push_bytes, push_frame, push_message, session_of,
        },
        program,
        protocol::{
            Blob, Claim, Client as Client_, Compare, Extent, Follow, Hello, Home, Input, Meta, Open,
            PROTOCOL, Products, Query, Reply, Request, Run, Size, Status, User, Welcome, decode, encode,
        },
    },
    archive::{
        IncomingKind, Limits, Naming, Reader,
        pack::{Holes, PackOptions, pack},
    },
    entry::{Kind as TreeKind, RelPath, Timestamp},
    tree::{
        Digest, Manifest,
        delta::{Delta, delta},
        hash::hash_files,
        ignore::Rules,
        node::{Node, NodeReader},
        scan::{ScanOptions, scan},
        summary::{self, Differing, Summary},
    },
};

use super::process::Watchdog;

/// The agent in a directory of its own, where it also keeps its state.
pub struct Agent {
    pub home: tempfile::TempDir,
}

impl Agent {
    pub fn new() -> Agent {
        let home = tempfile::tempdir().unwrap();
        let bytes = program::for_platform("linux", architecture()).unwrap();
        let path = home.path().join("agent");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(home.path().join("root")).unwrap();
        fs::create_dir(home.path().join("host")).unwrap();
        Agent { home }
    }

    pub fn program(&self) -> PathBuf {
        self.home.path().join("agent")
    }

    /// The source root of the workspace.
    pub fn root(&self) -> PathBuf {
        self.home.path().join("root")
    }

    /// The source root of the host.
    pub fn host(&self) -> PathBuf {
        self.home.path().join("host")
    }

    pub fn session(&self) -> Client {
        Client::over(Command::new(self.program()).arg("session"))
    }

    /// Has `root` made what `host` is, and gives the client back, ready to run something.
    pub fn synced(&self, view: &View) -> Client {
        let mut client = self.session();
        client.hello(60_000);
        client.sync(&self.host(), &self.root(), view);
        client
    }
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }
}

/// What of the trees is compared.
#[derive(Clone)]
pub struct View {
    pub patterns: Vec<String>,
    pub outputs: Vec<RelPath>,
    pub extent: Extent,
    pub user: String,
    pub claim: Claim,
}

impl View {
    pub fn everything() -> View {
        View {
            patterns: Vec::new(),
            outputs: Vec::new(),
            extent: Extent::Everything,
            user: String::new(),
            claim: Claim::Everything,
        }
    }

    pub fn sources(patterns: &[&str], outputs: &[&str]) -> View {
        let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let outputs = outputs.iter().map(|output| path(output)).collect();
        View { patterns, outputs, ..View::everything() }
    }
}

/// Of the run `run`.
pub fn hello(silence: u64) -> Hello {
    let client = Client_ { run: "run".to_owned(), pid: 1, ..Client_::default() };
    Hello { protocol: PROTOCOL, silence, idle_stop: None, client }
}

pub fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

pub fn run(argv: &[&str], directory: &Path) -> Run {
    Run {
        argv: argv.iter().map(|argument| Blob::from(argument.as_bytes())).collect(),
        env: Vec::new(),
        home: Home::AsSet,
        directory: Blob::from(directory.as_os_str().as_bytes()),
        terminal: None,
        stdin: Input::Empty,
        clock_ahead: 0,
        owner: None,
    }
}

pub fn on_terminal(run: Run) -> Run {
    Run { terminal: Some(Size { rows: 30, columns: 99 }), ..run }
}

/// What a command did.
#[derive(Debug)]
pub struct Ended {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub status: Status,
}

impl Ended {
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// What becomes of the child when its client is dropped.
#[derive(PartialEq, Eq)]
pub enum AtTheEnd {
    Wait,
    Kill,
}

/// One end of a session.
pub struct Client {
    pub child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    decoder: Decoder,
    nonce: Nonce,
    received: VecDeque<Received>,
    pub end: AtTheEnd,
    _watchdog: Watchdog,
}

static NEXT: AtomicU8 = AtomicU8::new(1);

impl Client {
    pub fn over(command: &mut Command) -> Client {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        let nonce = [0; 16];
        Client {
            _watchdog: Watchdog::over(&child),
            child,
            stdin,
            stdout,
            decoder: Decoder::new(End::Near(nonce)),
            nonce,
            received: VecDeque::new(),
            end: AtTheEnd::Wait,
        }
    }

    /// Speaks as a new client from here on.
    pub fn hello(&mut self, silence: u64) -> Welcome {
        self.hello_with(hello(silence))
    }

    pub fn hello_with(&mut self, hello: Hello) -> Welcome {
        let opening = self.opening_with(&hello);
        self.write(&opening);
        self.welcome()
    }

    /// What a new client says first.
    pub fn opening(&mut self, silence: u64) -> Vec<u8> {
        self.opening_with(&hello(silence))
    }

    fn opening_with(&mut self, hello: &Hello) -> Vec<u8> {
        self.nonce = [NEXT.fetch_add(1, Ordering::Relaxed); 16];
        self.decoder = Decoder::new(End::Near(self.nonce));
        self.received.clear();
        opening(&self.nonce, &encode(hello))
    }

    pub fn welcome(&mut self) -> Welcome {
        match self.receive() {
            Received::Welcome { message } => decode(&message).unwrap(),
            other => panic!("no welcome but {other:?}"),
        }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(bytes).unwrap();
        stdin.flush().unwrap();
    }

    pub fn close(&mut self) {
        self.stdin = None;
    }

    pub fn request(&mut self, request: &Request) {
        let bytes = self.encoded(request);
        self.write(&bytes);
    }

    pub fn encoded(&self, request: &Request) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_message(&mut bytes, session_of(&self.nonce), &encode(request));
        bytes
    }

    pub fn data(&mut self, content: &[u8]) {
        let mut bytes = Vec::new();
        push_bytes(&mut bytes, session_of(&self.nonce), Kind::Data, content);
        push_frame(&mut bytes, session_of(&self.nonce), Kind::DataEnd, b"");
        self.write(&bytes);
    }

    /// Data that does not end.
    pub fn data_part(&mut self, content: &[u8]) {
        let mut bytes = Vec::new();
        push_bytes(&mut bytes, session_of(&self.nonce), Kind::Data, content);
        self.write(&bytes);
    }

    /// None when the agent has ended.
    pub fn try_receive(&mut self) -> Option<Received> {
        loop {
            if let Some(received) = self.received.pop_front() {
                return Some(received);
            }
            if let Some(received) = self.decoder.next_received().unwrap() {
                return Some(received);
            }
            let mut buffer = vec![0; 1 << 16];
            match self.stdout.read(&mut buffer).unwrap() {
                0 => return None,
                read => self.decoder.push(&buffer[..read]),
            }
        }
    }

    pub fn receive(&mut self) -> Received {
        self.try_receive().expect("the agent ended")
    }

    pub fn reply(&mut self) -> Reply {
        match self.receive() {
            Received::Message(message) => decode(&message).unwrap(),
            other => panic!("no message but {other:?}"),
        }
    }

    pub fn data_in(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.receive() {
                Received::Data(bytes) => all.extend(bytes),
                Received::DataEnd => return all,
                other => panic!("no data but {other:?}"),
            }
        }
    }

    pub fn nodes(&mut self) -> Vec<Node> {
        let data = self.data_in();
        let mut reader = NodeReader::new(data.as_slice());
        std::iter::from_fn(|| reader.next_node().unwrap()).collect()
    }

    pub fn open(&mut self, root: &Path, view: &View) -> Reply {
        self.request(&Request::Open(Box::new(Open {
            root: Blob::from(root.as_os_str().as_bytes()),
            user: User::Named(view.user.clone()),
            patterns: view.patterns.clone(),
            outputs: view.outputs.clone(),
            extent: view.extent,
            caches: Vec::new(),
            ways: Vec::new(),
            claim: view.claim.clone(),
            only: Vec::new(),
        })));
        self.reply()
    }

    /// Makes `root` what `host` is. Says what had to be done, and how many files the far end had to read.
    pub fn sync(&mut self, host: &Path, root: &Path, view: &View) -> (Delta, u64) {
        let opened = self.open(root, view);
        assert!(matches!(opened, Reply::Opened { .. }), "{opened:?}");
        let (manifest, digests) = tree(host, view);
        let (delta, hashed) = self.compare(host, &manifest, &digests);
        self.apply(host, &manifest, &delta);
        assert_eq!(self.reply(), Reply::Applied);
        (delta, hashed)
    }

    pub fn compare(&mut self, host: &Path, manifest: &Manifest, digests: &[Option<Digest>]) -> (Delta, u64) {
        let buckets = summary::buckets_for(manifest.entries().len());
        let (mode, mtime) = mode_and_mtime(host);
        let summary = summary::of(manifest, digests, buckets);
        self.request(&Request::Compare(Compare { mode, mtime, summary: summary.to_bytes().into() }));
        let Reply::Differing { differing, hashed, .. } = self.reply() else { panic!("not compared") };
        let differing = Differing::from_bytes(&differing, buckets).unwrap();
        let nodes = self.nodes();
        assert!(nodes.iter().all(|node| differing.holds(&node.path)), "{nodes:?}");
        let far = nodes.into_iter().map(Ok::<_, std::convert::Infallible>);
        let delta = delta(manifest, digests, &|path| differing.holds(path), far).unwrap();
        (delta, hashed)
    }

    pub fn apply(&mut self, host: &Path, manifest: &Manifest, delta: &Delta) {
        self.request(&Request::Apply { deletes: delta.deletes.clone() });
        let mut archive = Vec::new();
        let options = PackOptions { prefix: RelPath::root(), uid: 0, gid: 0, top: None, holes: Holes::Told };
        let select = &delta.puts;
        pack(host, manifest, select, &options, &mut archive, &|_| {}).unwrap();
        self.data(&archive);
        let meta = |&at: &usize| {
            let entry = &manifest.entries()[at];
            Meta { path: entry.path.clone(), mode: entry.mode, mtime: entry.mtime }
        };
        self.request(&Request::Settle { metas: delta.metas.iter().map(meta).collect() });
    }

    pub fn start(&mut self, run: Run) -> Reply {
        self.request(&Request::Run(Box::new(run)));
        self.reply()
    }

    /// What comes up to the end.
    pub fn ended(&mut self) -> Ended {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match self.receive() {
                Received::Stdout(bytes) => stdout.extend(bytes),
                Received::Stderr(bytes) => stderr.extend(bytes),
                Received::Message(message) => match decode(&message).unwrap() {
                    Reply::Exited { status, .. } => return Ended { stdout, stderr, status },
                    Reply::StdinTaken(_) => {}
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn run(&mut self, run: Run) -> Ended {
        assert_eq!(self.start(run), Reply::Started);
        self.ended()
    }

    pub fn sh(&mut self, script: &str, directory: &Path) -> Ended {
        self.run(run(&["sh", "-c", script], directory))
    }

    /// Reads output until it holds `wanted`.
    pub fn output_until(&mut self, wanted: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(wanted) {
            match self.receive() {
                Received::Stdout(bytes) => seen.push_str(&String::from_utf8_lossy(&bytes)),
                other => panic!("no output but {other:?}, after {seen:?}"),
            }
        }
        seen
    }

    /// Nodes that the command changed, and paths that it deleted.
    pub fn changes(&mut self) -> (Vec<Node>, Vec<String>) {
        self.request(&Request::Collect(vec![Query::Changes {
            below: RelPath::root(),
            take: Follow::Itself,
        }]));
        let reply = self.reply();
        assert!(matches!(reply, Reply::Products(Products::There { .. })), "{reply:?}");
        let changed = self.nodes();
        let deleted = self.nodes().into_iter().map(|node| node.path.to_string()).collect();
        (changed, deleted)
    }

    /// The nodes at a path that differ from those of `summary`; none when it is missing.
    pub fn named(&mut self, path: &Path, take: Follow, summary: Option<&Summary>) -> Option<Vec<Node>> {
        let summary = summary.map(Summary::to_bytes).unwrap_or_default();
        let path = Blob::from(path.as_os_str().as_bytes());
        self.request(&Request::Collect(vec![Query::Named { path, take, summary: summary.into() }]));
        match self.reply() {
            Reply::Products(Products::Missing) => None,
            Reply::Products(Products::There { .. }) => {
                let nodes = self.nodes();
                self.nodes();
                Some(nodes)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Path and content of nodes of the first query.
    pub fn want(&mut self, nodes: &[u32]) -> Vec<(String, String)> {
        self.request(&Request::Want { query: 0, nodes: nodes.to_vec() });
        let archive = self.data_in();
        let limits = Limits { entries: 1000, bytes: 1 << 30 };
        let mut reader = Reader::new(archive.as_slice(), Naming::Prefixed, limits);
        let mut all = Vec::new();
        while let Some(incoming) = reader.next_entry().unwrap() {
            let mut content = Vec::new();
            reader.data().read_to_end(&mut content).unwrap();
            let content = match incoming.kind {
                IncomingKind::File { .. } => String::from_utf8_lossy(&content).into_owned(),
                IncomingKind::Symlink { target } => format!("-> {}", String::from_utf8_lossy(&target)),
                IncomingKind::HardLink { target } => format!("= {target}"),
                other => format!("{other:?}"),
            };
            all.push((incoming.path.to_string(), content));
        }
        all
    }

    /// Ends the session as it should end.
    pub fn bye(&mut self) {
        self.request(&Request::Bye);
        let reply = self.reply();
        assert!(matches!(reply, Reply::Closing { peak_kib } if peak_kib > 0), "{reply:?}");
    }

    /// Waits for the agent to end, and gives its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stdin = None;
        // A session ends by itself when its stdin ends; an attach would wait for the container.
        if self.end == AtTheEnd::Kill {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// What a host knows of its tree.
pub fn tree(root: &Path, view: &View) -> (Manifest, Vec<Option<Digest>>) {
    let rules = Rules::new(&view.patterns).unwrap();
    let options = ScanOptions { rules: &rules, leave_out: &view.outputs, progress: &|_| {} };
    let manifest = scan(root, &options).unwrap().manifest;
    let is_file = |at: &usize| matches!(manifest.entries()[*at].kind, TreeKind::File { .. });
    let files: Vec<usize> = (0..manifest.entries().len()).filter(is_file).collect();
    let mut digests = vec![None; manifest.entries().len()];
    for (at, digest) in hash_files(root, &manifest, &files, &|_| {}).digests {
        digests[at] = Some(digest);
    }
    (manifest, digests)
}

/// Everything that a build could see of a tree: path, kind, content, mode, mtime.
pub fn listing(root: &Path, view: &View) -> Vec<String> {
    let (manifest, digests) = tree(root, view);
    let line = |(entry, digest): (&fastbuild::tree::Entry, &Option<Digest>)| {
        let fastbuild::tree::Entry { path, kind, mode, mtime, .. } = entry;
        let mode = if matches!(kind, TreeKind::Symlink { .. }) { 0 } else { *mode };
        format!("{path} {kind:?} {mode:o} {}.{} {digest:?}", mtime.secs, mtime.nanos)
    };
    manifest.entries().iter().zip(&digests).map(line).collect()
}

pub fn mode_and_mtime(path: &Path) -> (u32, Timestamp) {
    use std::os::unix::fs::MetadataExt as _;
    let found = fs::metadata(path).unwrap();
    (found.mode() & 0o7777, Timestamp { secs: found.mtime(), nanos: found.mtime_nsec() as u32 })
}
