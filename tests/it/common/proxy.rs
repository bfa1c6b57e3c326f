//! A proxy in front of the real engine's socket: every byte passes as it is, hijacked streams too, until a rule says
//! otherwise. Rules name a request by method, a part of its path and which of those it is; so a test can break one
//! single request of a real build, answer it in the engine's place, or do something just before the engine sees it.
//!
//! fastbuild has one connection for each request, and the proxy relies on it: the first head of a connection decides
//! what becomes of the connection.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use super::SOCKET;

/// What happens to a request.
#[derive(Clone)]
pub enum Fault {
    /// The connection ends before anything of the answer has come; the engine never sees the request.
    Close,
    /// The engine gets head and so many bytes of the body, then both sides lose the connection.
    CutRequest(u64),
    /// The engine does what it was asked, and of its answer only so many bytes arrive.
    CutAnswer(u64),
    /// As [`Fault::CutAnswer`], counted from the end of the answer's head.
    CutBody(u64),
    /// The engine is not asked; status 200 and this body, in chunks.
    Body(Arc<Vec<u8>>),
    /// The engine is not asked; this status with a message as engines word it.
    Status(u16, String),
    /// This is done with the request's path, then the request goes on as it is.
    First(Arc<dyn Fn(&str) + Send + Sync>),
    /// The engine is asked for everything, whatever the client wants to be listed.
    Unfiltered,
    /// What passes is shown to this, which may hold it back.
    Hold(Arc<dyn Hold>),
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the engine.
    Up,
    /// From it.
    Down,
}

/// What becomes of what was held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It goes on its way.
    GoOn,
    /// It is lost, and the connection with it.
    Cut,
}

/// Holds a connection back at some place of its stream, heads not counted.
pub trait Hold: Send + Sync {
    /// How many of these bytes may go on at once.
    fn let_pass(&self, way: Way, bytes: &[u8]) -> usize;

    /// Called when not all of them may: returns when it is known what becomes of the rest.
    fn wait(&self) -> Then;
}

/// Which of the requests that match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// This one, from 1.
    Nth(usize),
    /// All of them.
    All,
}

struct Rule {
    method: &'static str,
    part: &'static str,
    which: Which,
    hits: usize,
    fault: Fault,
}

/// A request that came.
#[derive(Debug)]
pub struct Seen {
    /// Its method.
    pub method: String,
    /// Its path and query without the API's version.
    pub path: String,
    /// Bytes from the client, head included.
    pub sent: AtomicU64,
    /// Bytes to the client, head included.
    pub received: AtomicU64,
}

#[derive(Default)]
struct Shared {
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Arc<Seen>>>,
    open: Mutex<Vec<UnixStream>>,
    gone: AtomicBool,
}

/// The proxy; ends when dropped.
pub struct Proxy {
    socket: PathBuf,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Listens on a socket of its own in `dir`.
    pub fn new(dir: &Path) -> Proxy {
        let socket = dir.join("engine.sock");
        // Of one that was there before.
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let shared = Arc::new(Shared::default());
        let proxy = Proxy { socket, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if shared.gone.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                // A connection that breaks is what this is for.
                thread::spawn(move || drop(serve(client, &shared)));
            }
        });
        proxy
    }

    /// The address for `-H` and `DOCKER_HOST`.
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket.to_str().unwrap())
    }

    /// Adds a rule; the first one that fits a request decides. `part` is a part of the path.
    pub fn on(&self, method: &'static str, part: &'static str, which: Which, fault: Fault) -> &Proxy {
        self.shared.rules.lock().unwrap().push(Rule { method, part, which, hits: 0, fault });
        self
    }

    /// The engine is gone from here on: no connection lives, and none can be made.
    pub fn die(&self) {
        self.shared.die(&self.socket);
    }

    /// The requests so far, in order.
    pub fn seen(&self) -> Vec<Arc<Seen>> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How many requests so far had this method and this part in their path.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.method == method && seen.path.contains(part)).count()
    }

    /// The requests so far, a line each, with ids and names replaced by what they are.
    pub fn calls(&self) -> String {
        let mut lines = String::new();
        for seen in self.seen() {
            writeln!(lines, "{} {}", seen.method, without_ids(&seen.path)).unwrap();
        }
        lines
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.die(&self.socket);
    }
}

impl Shared {
    fn fault_for(&self, method: &str, path: &str) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap();
        let mut found = None;
        for rule in rules.iter_mut().filter(|rule| rule.method == method && path.contains(rule.part)) {
            rule.hits += 1;
            if found.is_none() && (rule.which == Which::All || rule.which == Which::Nth(rule.hits)) {
                found = Some(rule.fault.clone());
            }
        }
        found
    }

    fn die(&self, socket: &Path) {
        self.gone.store(true, Ordering::SeqCst);
        for open in self.open.lock().unwrap().drain(..) {
            let _ = open.shutdown(Shutdown::Both);
        }
        // Wakes the listener, which then goes away.
        let _ = UnixStream::connect(socket);
    }
}

fn serve(mut client: UnixStream, shared: &Shared) -> io::Result<()> {
    let (mut head, rest) = read_head(&mut client)?;
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    let mut words = line.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let path = without_version(words.next().unwrap_or_default()).to_owned();
    let seen = Arc::new(Seen { method, path, sent: AtomicU64::new(0), received: AtomicU64::new(0) });
    shared.seen.lock().unwrap().push(Arc::clone(&seen));
    let fault = shared.fault_for(&seen.method, &seen.path);
    let (mut request_limit, mut answer_limit, mut counted_from) = (u64::MAX, u64::MAX, CountedFrom::Start);
    let mut hold = None;
    match fault {
        None => {}
        Some(Fault::Close) => return client.shutdown(Shutdown::Both),
        Some(Fault::CutRequest(limit)) => request_limit = limit,
        Some(Fault::CutAnswer(limit)) => answer_limit = limit,
        Some(Fault::CutBody(limit)) => (answer_limit, counted_from) = (limit, CountedFrom::Body),
        Some(Fault::Body(body)) => return answer_with(&mut client, &body),
        Some(Fault::Status(status, message)) => {
            // The engine reads a body before it answers; a client that is still writing would see a broken pipe.
            return refuse(client, status, &message);
        }
        Some(Fault::First(action)) => action(&seen.path),
        Some(Fault::Unfiltered) => {
            // Engines pass over what they do not know.
            head = String::from_utf8_lossy(&head).replacen("filters=", "unheard=", 1).into_bytes();
        }
        Some(Fault::Hold(by)) => (hold, counted_from) = (Some(by), CountedFrom::Body),
    }
    let mut engine = UnixStream::connect(SOCKET)?;
    shared.open.lock().unwrap().extend([client.try_clone()?, engine.try_clone()?]);
    if shared.gone.load(Ordering::SeqCst) {
        // It went while this connection was made.
        break_both(&client, &engine);
    }
    engine.write_all(&head)?;
    seen.sent.fetch_add(head.len() as u64, Ordering::SeqCst);
    let upwards = {
        let (client, engine, seen) = (client.try_clone()?, engine.try_clone()?, Arc::clone(&seen));
        let hold = hold.clone();
        move || {
            let mut request = rest.as_slice().chain(&client);
            let whole = match hold {
                Some(hold) => relay_held(&mut request, &engine, Way::Up, &*hold),
                None => relay(&mut request, &engine, request_limit, &seen.sent),
            };
            match whole {
                Whole::Yes => drop(engine.shutdown(Shutdown::Write)),
                Whole::Cut => break_both(&client, &engine),
            }
        }
    };
    thread::spawn(upwards);
    if let CountedFrom::Body = counted_from {
        let (head, rest) = read_head(&mut engine)?;
        client.write_all(&head)?;
        let mut body = rest.as_slice().chain(&engine);
        let whole = match hold {
            Some(hold) => relay_held(&mut body, &client, Way::Down, &*hold),
            None => relay(&mut body, &client, answer_limit, &seen.received),
        };
        if let Whole::Cut = whole {
            break_both(&client, &engine);
        }
        return client.shutdown(Shutdown::Write);
    }
    match relay(&mut &engine, &client, answer_limit, &seen.received) {
        Whole::Yes => client.shutdown(Shutdown::Write),
        Whole::Cut => {
            break_both(&client, &engine);
            Ok(())
        }
    }
}

#[derive(Clone, Copy)]
enum CountedFrom {
    Start,
    Body,
}

enum Whole {
    Yes,
    Cut,
}

fn break_both(client: &UnixStream, engine: &UnixStream) {
    let _ = client.shutdown(Shutdown::Both);
    let _ = engine.shutdown(Shutdown::Both);
}

/// Moves bytes until the source ends, a side breaks, or `limit` is reached.
fn relay(from: &mut dyn Read, mut to: &UnixStream, limit: u64, count: &AtomicU64) -> Whole {
    let mut buffer = vec![0; 64 * 1024];
    let mut moved = 0;
    loop {
        if moved == limit {
            return Whole::Cut;
        }
        let room = usize::try_from(limit - moved).unwrap_or(usize::MAX).min(buffer.len());
        match from.read(&mut buffer[..room]) {
            Ok(0) | Err(_) => return Whole::Yes,
            Ok(n) if to.write_all(&buffer[..n]).is_err() => {
                return if n == 0 { Whole::Yes } else { Whole::Cut };
            }
            Ok(n) => {
                moved += n as u64;
                count.fetch_add(n as u64, Ordering::SeqCst);
            }
        }
    }
}

/// Moves bytes until the source ends, a side breaks, or what was held back is lost.
fn relay_held(from: &mut dyn Read, mut to: &UnixStream, way: Way, hold: &dyn Hold) -> Whole {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) | Err(_) => return Whole::Yes,
            Ok(read) => read,
        };
        let (at_once, held) = buffer[..read].split_at(hold.let_pass(way, &buffer[..read]));
        let mut whole = to.write_all(at_once).is_ok();
        if !held.is_empty() {
            whole = whole && hold.wait() == Then::GoOn && to.write_all(held).is_ok();
        }
        if !whole {
            return Whole::Cut;
        }
    }
}

/// Reads to the empty line; gives the head with it, and what came behind it.
fn read_head(from: &mut UnixStream) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            return Ok((read, rest));
        }
        match from.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => read.extend_from_slice(&buffer[..n]),
        }
    }
}

fn answer_with(client: &mut UnixStream, body: &[u8]) -> io::Result<()> {
    write!(
        client,
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )?;
    for chunk in body.chunks(16 * 1024) {
        write!(client, "{:x}\r\n", chunk.len())?;
        client.write_all(chunk)?;
        client.write_all(b"\r\n")?;
    }
    client.write_all(b"0\r\n\r\n")?;
    client.shutdown(Shutdown::Write)
}

fn refuse(mut client: UnixStream, status: u16, message: &str) -> io::Result<()> {
    let body = serde_json::json!({ "message": message }).to_string();
    write!(
        client,
        "HTTP/1.1 {status} Fault\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    client.shutdown(Shutdown::Write)?;
    io::copy(&mut client, &mut io::sink()).map(drop)
}

/// `/v1.41/containers/…` -> `/containers/…`.
fn without_version(path: &str) -> &str {
    match path.strip_prefix("/v1.").and_then(|rest| rest.find('/').map(|slash| &rest[slash..])) {
        Some(rest) => rest,
        None => path,
    }
}

/// Container ids become `ID`, names of ours `NAME`.
fn without_ids(path: &str) -> String {
    let id = regex::Regex::new("[0-9a-f]{64}").unwrap();
    let name = regex::Regex::new("fastbuild-[0-9a-f]{16}-[0-9a-f]{12}").unwrap();
    name.replace_all(&id.replace_all(path, "ID"), "NAME").into_owned()
}
