//! Serves one client after the other on stdin and stdout. This thread handles requests in order;
//! [`super`] lists the other parts.
//!
//! | end of a client's session | what follows |
//! |---|---|
//! | Bye | the index is written; goes on if the next client already sends, else this process ends |
//! | another client's Hello | that client is served |
//! | bytes that are not a frame | waits for the next Hello |
//! | silence, the end of stdin, no Hello in time | this process ends |
//!
//! In each case all processes that were started are dead first.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    io::{self, Read as _},
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use signal_hook::consts::SIGUSR1;

use crate::{
    agent::{
        frame::Nonce,
        protocol::{
            Blob, Claim, Client, Extent, Failed, Failure, Hello, Meta, Open, PROTOCOL, Query, Reply, Request,
            Room, Run, Status, Welcome, decode, encode,
        },
        server::{
            apply::{Applier, Halt},
            clean,
            clocks::{Span, wait_for_tick},
            collect::Collected,
            command::Launched,
            common::failed,
            free_space,
            inbox::{self, DataStop, Event, Inbox, InputEnd},
            init::{self, Lifetime},
            outbox::Outbox,
            owners::Giving,
            processes, supervisor,
            turn::{Ahead, Ask, Turn},
            workspace::{Ending, Others, Workspace, caches_below, nonsense, read_host, root_of},
        },
    },
    entry::RelPath,
    sys::metadata,
    tree::Digest,
};

/// Exit code: nothing more will come on stdin.
pub(super) const AT_ITS_END: u8 = 4;

/// Exit code: no client sent a Hello.
const NO_HELLO: u8 = 5;

/// The allowed silence of a client that names none.
const SILENCE: Duration = Duration::from_secs(60);

/// How many names of a directory are listed in place of a missing path.
const NAMES: usize = 20;

/// Serves until there is no client to serve.
pub(super) fn run(lifetime: Lifetime) -> ExitCode {
    // Orphans become children of this process, which can then wait for them.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    supervisor::outlive_friendly_signals();
    end_with_any_thread();
    let place = Place::default();
    if end_when_told(Arc::clone(&place)).is_err() {
        return ExitCode::FAILURE;
    }
    init::tell_of_client();
    let outbox = Arc::new(Outbox::default());
    let mut decoder = inbox::decoder();
    loop {
        let inbox = Arc::new(Inbox::default());
        let Ok(reading) = inbox.start(decoder, &outbox) else { return ExitCode::FAILURE };
        let mut session = Session {
            inbox,
            outbox: Arc::clone(&outbox),
            client: Client::default(),
            turn: None,
            place: Arc::clone(&place),
            workspace: None,
            collected: Vec::new(),
        };
        let over = session.serve_all(lifetime);
        init::tell_of_client();
        match over {
            InputOver::Bye => {}
            InputOver::End(end) => {
                return ExitCode::from(if end == InputEnd::Eof { AT_ITS_END } else { NO_HELLO });
            }
        }
        decoder = match reading.join() {
            Ok(decoder) if decoder.has_rest() => decoder,
            _ => return ExitCode::SUCCESS,
        };
    }
}

/// Other threads would wait for one that panics. init (or the engine) cleans up after this.
fn end_with_any_thread() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::exit(101);
    }));
}

/// The current client's file in the queue.
type Place = Arc<Mutex<Option<PathBuf>>>;

/// Ends this process, and all that it started, when its client is dead and [`turn::end`] says so.
fn end_when_told(place: Place) -> io::Result<()> {
    let (mut told, tell) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGUSR1, tell)?;
    thread::Builder::new().name("end".to_owned()).spawn(move || {
        while matches!(told.read(&mut [0]), Ok(1)) {
            let place = place.lock().unwrap_or_else(PoisonError::into_inner);
            if place.as_ref().is_some_and(|place| !place.exists()) {
                processes::clear();
                std::process::exit(0);
            }
        }
    })?;
    Ok(())
}

struct Session {
    inbox: Arc<Inbox>,
    outbox: Arc<Outbox>,
    client: Client,
    turn: Option<Turn>,
    place: Place,
    workspace: Option<Workspace>,
    /// One for each query of the latest Collect.
    collected: Vec<Collected>,
}

/// Why no more of stdin is read.
enum InputOver {
    Bye,
    End(InputEnd),
}

/// Why a client is not served any more.
#[derive(Debug)]
enum Stop {
    Bye,
    /// Another client has come.
    Next(Greeting),
    /// The bytes are not a frame.
    Lost,
    End(InputEnd),
    Failed(Failed),
}

#[derive(Debug)]
struct Greeting {
    nonce: Nonce,
    message: Vec<u8>,
}

impl From<Failed> for Stop {
    fn from(failed: Failed) -> Stop {
        Stop::Failed(failed)
    }
}

impl From<DataStop> for Stop {
    fn from(stop: DataStop) -> Stop {
        match stop {
            DataStop::Complete => Stop::Failed(nonsense("data came where none was expected")),
            DataStop::Failed(why) => {
                Stop::Failed(Failed { why: Failure::Other, detail: format!("the client broke off: {why}") })
            }
            DataStop::Interrupted(event) => match end_of(event) {
                Ok(stop) => stop,
                Err(_) => Stop::Failed(nonsense("a request came in the middle of data")),
            },
        }
    }
}

/// How an event ends the client's session; if it does not, the event.
fn end_of(event: Event) -> Result<Stop, Event> {
    match event {
        Event::Hello { nonce, message } => Ok(Stop::Next(Greeting { nonce, message })),
        Event::Damaged => Ok(Stop::Lost),
        Event::Ended(end) => Ok(Stop::End(end)),
        Event::Request(Request::Bye) => Ok(Stop::Bye),
        Event::Nonsense => Ok(Stop::Failed(nonsense("a message that cannot be understood"))),
        other => Err(other),
    }
}

impl Session {
    fn serve_all(&mut self, lifetime: Lifetime) -> InputOver {
        let mut next = None;
        loop {
            let stop = match next.take() {
                Some(greeting) => self.serve(&greeting),
                None => self.wait_for_hello(),
            };
            processes::clear();
            match stop {
                Stop::Next(greeting) => next = Some(greeting),
                Stop::Lost | Stop::Failed(_) => self.forget(),
                Stop::End(end) => return InputOver::End(end),
                Stop::Bye => {
                    let _ = self.outbox.reply(&Reply::Closing { peak_kib: peak_kib() });
                    match (lifetime, &self.workspace) {
                        (Lifetime::OneRun, Some(workspace)) => workspace.discard(),
                        _ => self.save(),
                    }
                    return InputOver::Bye;
                }
            }
        }
    }

    fn wait_for_hello(&self) -> Stop {
        self.inbox.expect_hello();
        loop {
            match end_of(self.inbox.next()) {
                // From a client that is not known.
                Ok(Stop::Failed(_) | Stop::Lost) | Err(_) => {}
                Ok(stop) => return stop,
            }
        }
    }

    /// Serves one client, from its Hello on.
    fn serve(&mut self, greeting: &Greeting) -> Stop {
        self.forget();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let welcome = Welcome { protocol: PROTOCOL, version, clock: metadata::now() };
        let hello = decode::<Hello>(&greeting.message).ok();
        let silence = hello.as_ref().map_or(SILENCE, |hello| Duration::from_millis(hello.silence));
        self.inbox.expect_life(silence);
        if let Some(Hello { idle_stop, client, .. }) = hello {
            self.client = client;
            if let Some(seconds) = idle_stop {
                init::set_idle_stop(seconds);
            }
        }
        // A failure means that the client is gone, which the inbox reports.
        let _ = self.outbox.welcome(&greeting.nonce, &encode(&welcome));
        let stop = self.requests();
        let Stop::Failed(failed) = stop else { return stop };
        processes::clear();
        let _ = self.outbox.reply(&Reply::Failed(failed));
        // Later messages of this client are ignored.
        loop {
            match end_of(self.inbox.next()) {
                Ok(Stop::Failed(_)) | Err(_) => {}
                Ok(stop) => return stop,
            }
        }
    }

    fn forget(&mut self) {
        self.workspace = None;
        self.collected.clear();
        self.take_place(None);
    }

    fn take_place(&mut self, turn: Option<Turn>) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        *place = turn.as_ref().map(|turn| turn.path.clone());
        self.turn = turn;
    }

    fn save(&mut self) {
        if let Some(workspace) = &mut self.workspace {
            workspace.save();
        }
        self.collected.iter_mut().for_each(Collected::save);
    }

    fn requests(&mut self) -> Stop {
        loop {
            let request = match self.request() {
                Ok(request) => request,
                Err(stop) => return stop,
            };
            if let Err(stop) = self.answer(request) {
                return stop;
            }
        }
    }

    /// The next request.
    fn request(&self) -> Result<Request, Stop> {
        loop {
            match end_of(self.inbox.next()) {
                Ok(stop) => return Err(stop),
                Err(Event::Request(request)) => return Ok(request),
                // Of a command that was over before this client came, or of an earlier client.
                Err(
                    Event::CommandOver(_) | Event::CommandStopped | Event::Ahead { .. } | Event::Turn { .. },
                ) => {}
                Err(_) => return Err(nonsense("data came where none was expected").into()),
            }
        }
    }

    fn answer(&mut self, request: Request) -> Result<(), Stop> {
        match request {
            Request::Open(open) => {
                let others = self.wait_for_turn(&open)?;
                let outputs = others.as_ref().map_or_else(Vec::new, |others| others.outputs.clone());
                let workspace = Workspace::open(*open, others)?;
                let ids = workspace.account.ids;
                let room = match workspace.view.extent {
                    Extent::Nothing => Room { bytes: u64::MAX, files: None, block: 1 },
                    Extent::Everything => free_space::below(&workspace.root)
                        .map_err(|error| failed("could not see what room there is", &error))?,
                };
                let kept = workspace.kept.clone();
                self.workspace = Some(workspace);
                self.reply(&Reply::Opened { uid: ids.uid, gid: ids.gid, room, others: outputs, kept });
            }
            Request::Compare(compare) => opened(&mut self.workspace)?.compare(&compare, &self.outbox)?,
            Request::Apply { deletes } => self.apply(&deletes)?,
            Request::Settle { metas } => {
                let applier = Applier::new(opened(&mut self.workspace)?)?;
                self.settle(applier, metas)?;
            }
            Request::Run(run) => self.run(&run)?,
            Request::Collect(queries) => self.collect(queries)?,
            Request::Beside => {
                let beside = opened(&mut self.workspace)?.beside()?;
                self.reply(&Reply::Beside(beside));
            }
            Request::Want { query, nodes } => self.want(query, &nodes)?,
            Request::LeftThere => opened(&mut self.workspace)?.brought_back.clear(),
            Request::Clean { paths } => {
                let cleaned = clean::clean(opened(&mut self.workspace)?, &paths)?;
                self.reply(&Reply::Cleaned(cleaned));
            }
            Request::Unkeep(patterns) => {
                let unkept = clean::unkeep(&opened(&mut self.workspace)?.root, &patterns)?;
                self.reply(&Reply::Unkept(unkept));
            }
            Request::Look { path } => {
                let there = look(&path);
                self.reply(&there);
            }
            // For a command that is over, or handled by the inbox already.
            Request::Stdin(_)
            | Request::StdinEnd
            | Request::Signal(_)
            | Request::Resize(_)
            | Request::Pause
            | Request::Resume
            | Request::Heartbeat
            | Request::Bye => {}
        }
        Ok(())
    }

    /// A reply that cannot be written means that the client is gone, which the inbox reports.
    fn reply(&self, reply: &Reply) {
        let _ = self.outbox.reply(reply);
    }

    /// Returns what is known of clients that work at the same time.
    fn wait_for_turn(&mut self, open: &Open) -> Result<Option<Others>, Stop> {
        self.wait_in_line(open, open.claim.clone())?;
        let outputs = self.turn.as_ref().map_or(Ok(None), Turn::others);
        let outputs = outputs.map_err(|error| failed("could not see who else is at work", &error))?;
        let Some(outputs) = outputs else { return Ok(None) };
        let root = root_of(open);
        if let Ok(host) = read_host(&root) {
            let outputs: Vec<_> = outputs.iter().map(|path| PathBuf::from(OsStr::from_bytes(path))).collect();
            return Ok(Some(Others { outputs: caches_below(&outputs, &root), host }));
        }
        // What the host had when they began is unknown: nothing can be put right beside them.
        self.wait_in_line(open, Claim::Everything)?;
        Ok(None)
    }

    fn wait_in_line(&mut self, open: &Open, claim: Claim) -> Result<(), Stop> {
        let told = |error| Stop::from(failed("could not get in line for the workspace", &error));
        self.take_place(None);
        let settings = encode(&(&open.root, &open.user, &open.patterns, &open.caches));
        let ask = Ask::new(self.client.clone(), claim, Digest(Sha256::digest(settings).into()));
        let turn = Turn::queue(&ask, &self.inbox).map_err(told)?;
        self.take_place(Some(turn));
        while let Some(turn) = &mut self.turn
            && !turn.has_come()
        {
            let own = turn.number;
            match end_of(self.inbox.next()) {
                Ok(stop) => return Err(stop),
                Err(Event::Turn { number, righting }) if number == own => {
                    turn.take(righting).map_err(told)?;
                }
                Err(Event::Ahead { number, ahead: Ahead { client, why } }) if number == own => {
                    self.reply(&Reply::Waiting { client, why });
                }
                Err(Event::Request(Request::Pause | Request::Resume)) => {}
                Err(Event::Request(_)) => return Err(nonsense("a request before its turn").into()),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn apply(&mut self, deletes: &[RelPath]) -> Result<(), Stop> {
        let workspace = opened(&mut self.workspace)?;
        // Nothing is written before the scan is over, because the scan would see half of it.
        workspace.tree()?;
        let mut applier = Applier::new(workspace)?;
        applier.delete(deletes, workspace.tree()?)?;
        applier.unpack(&self.inbox).map_err(|halt| match halt {
            Halt::Failed(failed) => Stop::Failed(failed),
            Halt::Interrupted(stop) => Stop::from(stop),
        })?;
        match self.request()? {
            Request::Settle { metas } => self.settle(applier, metas),
            _ => Err(nonsense("an upload has to be settled").into()),
        }
    }

    fn settle(&mut self, applier: Applier, metas: Vec<Meta>) -> Result<(), Stop> {
        let workspace = opened(&mut self.workspace)?;
        let tree = workspace.take_tree()?;
        let had_leftovers = !tree.leftovers.is_empty();
        let tree = applier.settle(metas, tree)?;
        let has_leftovers = !tree.leftovers.is_empty();
        workspace.put_tree(tree);
        if had_leftovers || has_leftovers {
            let listed = workspace.list_leftovers();
            listed.map_err(|error| failed("could not list what only the workspace has", &error))?;
        }
        workspace.settle_root()?;
        self.reply(&Reply::Applied);
        Ok(())
    }

    fn run(&mut self, run: &Run) -> Result<(), Stop> {
        let workspace = opened(&mut self.workspace)?;
        workspace.settle_root()?;
        let newest = workspace.tree()?.manifest.entries().iter().map(|entry| entry.stamp.ctime).max();
        wait_for_tick(newest.unwrap_or_default());
        workspace.span = Some(Span::begin(run.clock_ahead));
        let giving =
            run.owner.as_ref().and_then(|owner| Giving::begin(owner, &workspace.root, workspace.account.ids));
        let give = |workspace: &Workspace| {
            if let Some(giving) = &giving {
                giving.give(&workspace.root, &workspace.view.caches);
            }
        };
        let launched = match Launched::start(run, &workspace.account, workspace.manners) {
            Ok(launched) => launched,
            Err(not_started) => {
                processes::clear();
                self.reply(&Reply::NotStarted(not_started));
                return Ok(());
            }
        };
        let mut running = launched.attend(&self.inbox, &self.outbox)?;
        if let Some(turn) = &mut self.turn {
            let noted = workspace.note_host().and_then(|()| turn.tree_is_right());
            noted.map_err(|error| failed("could not note what the host has", &error))?;
        }
        let stop = loop {
            match end_of(self.inbox.next()) {
                Ok(stop) => break stop,
                Err(Event::CommandOver(status)) => {
                    let exited = running.finish(status);
                    workspace.ending = ending(&exited);
                    give(workspace);
                    let _ = self.outbox.reply(&exited);
                    return Ok(());
                }
                Err(Event::CommandStopped) => {
                    if running.has_stopped_by_itself() {
                        let _ = self.outbox.reply(&Reply::Stopped);
                    }
                }
                Err(Event::Request(request)) => {
                    if running.take(request).is_some() {
                        break nonsense("a request that has to wait for the command's end").into();
                    }
                }
                Err(_) => break nonsense("data came while the command ran").into(),
            }
        };
        running.abandon();
        give(workspace);
        Err(stop)
    }

    fn collect(&mut self, queries: Vec<Query>) -> Result<(), Stop> {
        let workspace = opened(&mut self.workspace)?;
        self.collected.iter_mut().for_each(Collected::save);
        self.collected.clear();
        for query in queries {
            let collected = match query {
                Query::Changes { below, take } => Collected::changes(below, take, workspace, &self.outbox)?,
                Query::Named { path, take, summary } => {
                    let path = Path::new(OsStr::from_bytes(&path));
                    Collected::named(path, take, &summary, workspace, &self.outbox)?
                }
            };
            self.collected.push(collected);
        }
        Ok(())
    }

    fn want(&mut self, query: u32, nodes: &[u32]) -> Result<(), Stop> {
        let workspace = opened(&mut self.workspace)?;
        let collected = usize::try_from(query).ok().and_then(|query| self.collected.get(query));
        collected.ok_or_else(|| nonsense("no such query"))?.send(nodes, workspace, &self.outbox)?;
        Ok(())
    }
}

fn opened(workspace: &mut Option<Workspace>) -> Result<&mut Workspace, Failed> {
    workspace.as_mut().ok_or_else(|| nonsense("no source root is open"))
}

/// How a command ended, from its reply. A shell reports a killed child by its own exit code.
fn ending(exited: &Reply) -> Ending {
    const KILLED: u8 = 9;
    match exited {
        Reply::Exited { status: Status::Signal(KILLED), .. } => Ending::Cut,
        Reply::Exited { status: Status::Code(code), .. } if *code == 128 + KILLED => Ending::Cut,
        Reply::Exited { oom_kills: 1.., .. } => Ending::Cut,
        _ => Ending::ByItself,
    }
}

/// Lists what exists in place of a path.
fn look(path: &Blob) -> Reply {
    let path = Path::new(OsStr::from_bytes(path));
    let listed = path.ancestors().skip(1).find_map(|above| Some((above, names(above).ok()?)));
    let (directory, all) = listed.unwrap_or((Path::new("/"), BTreeSet::new()));
    let more = all.len().saturating_sub(NAMES) as u64;
    let names = all.into_iter().take(NAMES).map(Blob::from).collect();
    Reply::There { directory: Blob::from(directory.as_os_str().as_bytes()), names, more }
}

fn names(directory: &Path) -> io::Result<BTreeSet<Vec<u8>>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().into_vec())).collect()
}

/// The peak memory of this process.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}
