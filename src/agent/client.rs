//! The near end of a session: fastbuild's messages to the agent of a workspace, and the answers.
//!
//! In: a [`Duplex`] to an agent (an attach, an exec, the pipes of a child process). Out: a
//! [`Session`]. Its [`Sender`] and [`Receiver`] work at the same time: input and signals go up
//! while output comes down. Invariants: received bytes are trusted only as far as [`super::frame`]
//! and [`super::protocol`] check them. A connection that ends early is an error, never an end. A
//! dropped future of this module leaves no half frame behind. Bytes that a dead client left in the
//! stream are skipped. [`crate::workspace`] opens sessions, [`crate::build`] runs the dialogue.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{Stream as Chunks, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    process::{ChildStderr, ChildStdin, ChildStdout},
    sync::{Mutex, mpsc},
    task::AbortHandle,
    time::{MissedTickBehavior, interval_at, timeout},
};

use crate::{
    agent::{
        channel::{self, Chunk, ChunkReader},
        frame::{self, Decoder, End, FrameError, Kind, NONCE, Nonce, Received},
        protocol::{self, BadMessage, Client, Failed, Failure, Hello, PROTOCOL, Reply, Request, Welcome},
    },
    engine::{AttachInput, AttachOutput, EngineError},
    entry::Timestamp,
    spec::{SILENCE, Stream},
    text::Escaped,
};

/// How often the client sends a sign of life.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// How long a Welcome may take before the greeting is repeated. A greeting may be lost in the
/// session of a dead client that is just being ended.
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// How long it may take in all. A healthy agent needs some milliseconds; this only limits the wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the answer to a Bye may take: the far end first writes the index of a tree that may be
/// very large. Limits the wait for a dead session.
const GOODBYE: Duration = Duration::from_secs(30);

/// How long to wait for the far end's own explanation after a failed write.
const ACCOUNT: Duration = Duration::from_secs(1);

/// How many bytes of data are collected before they are written.
const COALESCE: usize = 64 << 10;

/// How much is read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// How much of the agent's standard error is kept, in bytes.
const DIAGNOSTICS: usize = 4 << 10;

/// Two streams: one to an agent, one from it.
pub struct Duplex {
    incoming: Incoming,
    outgoing: Outlet,
}

type Outlet = Box<dyn AsyncWrite + Send + Unpin>;

enum Incoming {
    Attached(AttachOutput),
    Plain { output: Inlet, diagnostics: Option<Inlet> },
}

/// One stream of an agent without a container.
struct Inlet {
    from: Box<dyn AsyncRead + Send + Unpin>,
    received: BytesMut,
}

impl Inlet {
    fn new(from: impl AsyncRead + Send + Unpin + 'static) -> Inlet {
        Inlet { from: Box::new(from), received: BytesMut::new() }
    }

    /// The next bytes; `None` at the end. May be dropped and called again without loss.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        self.received.reserve(CHUNK);
        Ok(match self.from.read_buf(&mut self.received).await? {
            0 => None,
            _ => Some(self.received.split().freeze()),
        })
    }
}

impl Duplex {
    /// The streams of an agent in a container.
    pub fn attached(input: AttachInput, output: AttachOutput) -> Duplex {
        Duplex { incoming: Incoming::Attached(output), outgoing: Box::new(input) }
    }

    /// The streams of an agent without a container.
    pub fn plain(
        input: impl AsyncWrite + Send + Unpin + 'static,
        output: impl AsyncRead + Send + Unpin + 'static,
    ) -> Duplex {
        let incoming = Incoming::Plain { output: Inlet::new(output), diagnostics: None };
        Duplex { incoming, outgoing: Box::new(input) }
    }

    /// The streams of an agent that is a child of this process.
    pub fn of_child(input: ChildStdin, output: ChildStdout, diagnostics: ChildStderr) -> Duplex {
        let diagnostics = Some(Inlet::new(diagnostics));
        let incoming = Incoming::Plain { output: Inlet::new(output), diagnostics };
        Duplex { incoming, outgoing: Box::new(input) }
    }
}

impl Incoming {
    /// The next bytes; `None` at the end. May be dropped and called again without loss.
    async fn next(&mut self) -> Result<Option<(Stream, Bytes)>, SessionError> {
        match self {
            Incoming::Attached(output) => Ok(output.next().await?),
            Incoming::Plain { output, diagnostics } => {
                let told = |source| SessionError::Read { source };
                // Diagnostics are read first, because the end of the output ends the session.
                while let Some(errors) = diagnostics {
                    tokio::select! {
                        biased;
                        said = errors.next() => match said.map_err(told)? {
                            Some(said) => return Ok(Some((Stream::Stderr, said))),
                            None => *diagnostics = None,
                        },
                        bytes = output.next() => match bytes.map_err(told)? {
                            Some(bytes) => return Ok(Some((Stream::Stdout, bytes))),
                            None => break,
                        },
                    }
                }
                Ok(output.next().await.map_err(told)?.map(|bytes| (Stream::Stdout, bytes)))
            }
        }
    }
}

/// The settings of a new session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The client that opens it.
    pub client: Client,
    /// The workspace stops after so long without a client; zero: never, `None`: as before.
    pub idle_stop: Option<Duration>,
    /// How long the Welcome may take in all.
    pub patience: Duration,
    /// How long the far end waits for a sign of life before it ends the build. Zero: for ever.
    pub silence: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { client: Client::default(), idle_stop: None, patience: PATIENCE, silence: SILENCE }
    }
}

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The engine failed, or the connection to it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The connection ended before the session. [`crate::workspace::Workspace::why_over`] finds out
    /// whether the engine, the container or the agent is gone.
    #[error("the connection to the agent ended in the middle of the session{}", said(.diagnostics))]
    Ended {
        /// The last part of the agent's standard error.
        diagnostics: String,
    },
    /// Nothing more can be sent to the agent, and it gave no reason.
    #[error("the connection to the agent takes nothing more{}", said(.diagnostics))]
    Write {
        /// The system's error.
        #[source]
        source: io::Error,
        /// The last part of the agent's standard error.
        diagnostics: String,
    },
    /// Nothing more can be received from the agent.
    #[error("the connection to the agent broke")]
    Read {
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The agent did not answer the greeting.
    #[error("the agent did not answer within {} s{}", waited.as_secs(), said(.diagnostics))]
    NoWelcome {
        /// How long fastbuild waited.
        waited: Duration,
        /// The last part of the agent's standard error.
        diagnostics: String,
    },
    /// The agent speaks another version of the protocol.
    #[error("the agent (fastbuild {version}) speaks protocol {theirs}, this fastbuild {PROTOCOL}")]
    OtherProtocol {
        /// Its protocol.
        theirs: u32,
        /// Its fastbuild's version.
        version: String,
    },
    /// The received bytes are not an agent's stream.
    #[error("the agent's stream is damaged: {detail}{}", said(.diagnostics))]
    Damaged {
        /// What is wrong with it.
        detail: String,
        /// The last part of the agent's standard error.
        diagnostics: String,
    },
    /// Another event was expected.
    #[error("the agent said {came} in place of {awaited}")]
    Unexpected {
        /// The event that came.
        came: String,
        /// The event that was expected.
        awaited: &'static str,
    },
    /// The agent failed.
    #[error("the agent gave up: {}", Escaped(.0.detail.as_bytes()))]
    Failed(Failed),
    /// The agent could not continue data that it was sending.
    #[error("the agent could not send on: {}", Escaped(.detail.as_bytes()))]
    DataFailed {
        /// The agent's reason.
        detail: String,
    },
    /// The data to send could not be read.
    #[error("what was to be sent to the agent could not be read")]
    Body {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A thread of fastbuild itself panicked.
    #[error("a thread of fastbuild's own panicked; this is a bug in fastbuild")]
    Panicked,
}

fn said(diagnostics: &str) -> String {
    if diagnostics.is_empty() { String::new() } else { format!("; it wrote: {diagnostics}") }
}

impl SessionError {
    /// What the user can do next; `None` where the message says everything.
    pub fn advice(&self) -> Option<String> {
        let text = match self {
            SessionError::Engine(error) => return error.advice(),
            SessionError::Failed(failed) => match failed.why {
                Failure::User => {
                    "name a user that the image has with -u/--user, or one by number, such as -u 1000:1000"
                }
                Failure::RootIsNoDirectory => "name another working directory with -w/--workdir",
                Failure::ReadOnly => "--no-keep builds without a workspace",
                Failure::DiskFull => {
                    "make room where the workspace lies: `fastbuild workspace prune` helps, and on an engine `docker system prune`"
                }
                Failure::Protocol | Failure::Other => {
                    "--fresh starts the workspace over; --no-keep does without one"
                }
            },
            SessionError::Ended { .. }
            | SessionError::Write { .. }
            | SessionError::Read { .. }
            | SessionError::NoWelcome { .. }
            | SessionError::OtherProtocol { .. }
            | SessionError::Damaged { .. }
            | SessionError::Unexpected { .. }
            | SessionError::DataFailed { .. } => {
                "run the build again; --fresh starts the workspace over, --no-keep does without one"
            }
            SessionError::Body { .. } | SessionError::Panicked => return None,
        };
        Some(text.to_owned())
    }
}

/// How many bytes went over the wire, without the engine's framing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// To the far end.
    pub sent: u64,
    /// From the far end.
    pub received: u64,
}

#[derive(Debug, Default)]
struct Meter {
    sent: AtomicU64,
    received: AtomicU64,
}

/// The agent's messages, in order. A [`Reply::Failed`] becomes an error and never an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An answer.
    Reply(Reply),
    /// A piece of data.
    Data(Bytes),
    /// The data is complete.
    DataEnd,
    /// Standard output of the command.
    Stdout(Bytes),
    /// Standard error of the command.
    Stderr(Bytes),
}

impl Event {
    /// For messages: the kind of event, without its content.
    fn name(&self) -> String {
        match self {
            Event::Reply(reply) => {
                let text = format!("{reply:?}");
                text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default().to_owned()
            }
            Event::Data(_) | Event::DataEnd => "data".to_owned(),
            Event::Stdout(_) | Event::Stderr(_) => "output of the command".to_owned(),
        }
    }

    /// The error for an event that came in place of the awaited one.
    pub fn in_place_of(&self, awaited: &'static str) -> SessionError {
        SessionError::Unexpected { came: self.name(), awaited }
    }
}

/// Both ends of an open session. Dropping it ends the connection. Without [`Session::close`] the
/// far end then misses the heartbeats and ends what runs, unless a signal tells it sooner.
pub struct Session {
    /// The sending half.
    pub sender: Sender,
    /// The receiving half.
    pub receiver: Receiver,
    /// The agent's version of fastbuild.
    pub version: String,
    /// How far its clock is ahead of this one, in nanoseconds. Zero where the difference is no more
    /// than the time that the greeting itself may have taken.
    pub clock_ahead: i64,
}

/// Sends to the agent. A clone sends in the same session; messages are never mixed.
#[derive(Clone)]
pub struct Sender(Arc<Shared>);

/// A [`Sender`] that does not keep the connection open.
#[derive(Debug, Clone)]
pub struct WeakSender(Weak<Shared>);

impl WeakSender {
    /// The sender; `None` when all others are dropped.
    pub fn upgrade(&self) -> Option<Sender> {
        self.0.upgrade().map(Sender)
    }
}

struct Shared {
    outgoing: Mutex<Outgoing>,
    meter: Arc<Meter>,
}

struct Outgoing {
    to: Outlet,
    session: u32,
    /// Whole frames, not yet or partly written. Those that a dropped future left go first.
    pending: BytesMut,
    /// Nothing may follow a Bye: it would disturb the next client.
    state: Speaking,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaking {
    Open,
    Over,
}

/// Receives from the agent.
pub struct Receiver {
    incoming: Incoming,
    decoder: Decoder,
    meter: Arc<Meter>,
    diagnostics: Diagnostics,
    data: Data,
    _heart: Option<Heart>,
}

/// What happens to received data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    Wanted,
    /// The reader has stopped: the rest is skipped.
    PassedOver,
}

/// Sends heartbeats until it is dropped.
struct Heart(AbortHandle);

impl Drop for Heart {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    /// Greets the agent and waits for its Welcome. The requests in `first` are sent right after the
    /// greeting, without waiting. Their replies come after the Welcome as always.
    ///
    /// # Errors
    /// [`SessionError::NoWelcome`], [`SessionError::OtherProtocol`], and errors of the connection.
    pub async fn open(
        duplex: Duplex,
        settings: &Settings,
        first: &[Request],
    ) -> Result<Session, SessionError> {
        let meter = Arc::new(Meter::default());
        let outgoing =
            Outgoing { to: duplex.outgoing, session: 0, pending: BytesMut::new(), state: Speaking::Open };
        let shared = Arc::new(Shared { outgoing: Mutex::new(outgoing), meter: Arc::clone(&meter) });
        let mut session = Session {
            sender: Sender(shared),
            receiver: Receiver {
                incoming: duplex.incoming,
                decoder: Decoder::new(End::Near([0; NONCE])),
                meter,
                diagnostics: Diagnostics::default(),
                data: Data::Wanted,
                _heart: None,
            },
            version: String::new(),
            clock_ahead: 0,
        };
        let welcome = session.greeted(settings, first).await?;
        if welcome.protocol != PROTOCOL {
            let version = Escaped(welcome.version.as_bytes()).to_string();
            return Err(SessionError::OtherProtocol { theirs: welcome.protocol, version });
        }
        session.version = welcome.version;
        session.receiver._heart = Some(session.sender.start_heart());
        Ok(session)
    }

    async fn greeted(&mut self, settings: &Settings, first: &[Request]) -> Result<Welcome, SessionError> {
        let first_wait = FIRST_WAIT.min(settings.patience / 2);
        for wait in [first_wait, settings.patience - first_wait] {
            if let Ok(welcome) = timeout(wait, self.greet(settings, first)).await {
                return welcome;
            }
        }
        let diagnostics = self.receiver.diagnostics.text();
        Err(SessionError::NoWelcome { waited: settings.patience, diagnostics })
    }

    /// Greets with a new nonce, so that answers to an earlier one, and all after them, are skipped.
    async fn greet(&mut self, settings: &Settings, first: &[Request]) -> Result<Welcome, SessionError> {
        let nonce = nonce();
        let hello = Hello {
            protocol: PROTOCOL,
            silence: settings.silence.as_millis() as u64,
            idle_stop: settings.idle_stop.map(|time| time.as_secs()),
            client: settings.client.clone(),
        };
        self.receiver.decoder = Decoder::new(End::Near(nonce));
        let asked = SystemTime::now();
        let greeted = self.sender.write(|outgoing| {
            let mut opening = frame::opening(&nonce, &protocol::encode(&hello));
            outgoing.session = frame::session_of(&nonce);
            for request in first {
                frame::push_message(&mut opening, outgoing.session, &protocol::encode(request));
            }
            outgoing.pending.extend_from_slice(&opening);
        });
        if let Err(error) = greeted.await {
            return Err(self.because(error).await);
        }
        match self.receiver.received().await? {
            Received::Welcome { message } => {
                let welcome: Welcome =
                    protocol::decode(&message).map_err(|error| self.receiver.no_message(&error))?;
                self.clock_ahead = clock_ahead(asked, SystemTime::now(), welcome.clock);
                Ok(welcome)
            }
            _ => Err(self.receiver.damaged("an answer before the Welcome".to_owned())),
        }
    }

    /// Sends one request.
    ///
    /// # Errors
    /// The error that ended the session.
    pub async fn send(&mut self, request: &Request) -> Result<(), SessionError> {
        match self.sender.send(request).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.because(error).await),
        }
    }

    /// Sends data until the far end refuses it with a reason. Returns the number of bytes sent.
    ///
    /// # Errors
    /// [`SessionError::Body`] when `data` yields an error (the far end is told), and the error that
    /// ended the session.
    pub async fn send_data(
        &mut self,
        data: impl Chunks<Item = io::Result<Bytes>>,
    ) -> Result<u64, SessionError> {
        let sent = tokio::select! {
            biased;
            sent = self.sender.send_data(data) => sent,
            event = self.receiver.next() => match event {
                Ok(event) => Err(event.in_place_of("nothing yet")),
                Err(error) => Err(error),
            },
        };
        match sent {
            Err(error @ SessionError::Write { .. }) => Err(self.because(error).await),
            sent => sent,
        }
    }

    /// See [`Receiver::reply`].
    ///
    /// # Errors
    /// See there.
    pub async fn reply<T>(
        &mut self,
        awaited: &'static str,
        take: impl FnOnce(Reply) -> Result<T, Reply>,
    ) -> Result<T, SessionError> {
        self.receiver.reply(awaited, take).await
    }

    /// See [`Receiver::receive_data`].
    ///
    /// # Errors
    /// See there.
    pub async fn receive_data<T: Send + 'static>(
        &mut self,
        read: impl FnOnce(ChunkReader) -> T + Send + 'static,
    ) -> Result<T, SessionError> {
        self.receiver.receive_data(read).await
    }

    /// How much went over the wire so far.
    pub fn traffic(&self) -> Traffic {
        self.receiver.traffic()
    }

    /// Says goodbye, and waits until the far end is done. Returns its peak memory, in KiB.
    ///
    /// # Errors
    /// The error that ended the session.
    pub async fn close(&mut self) -> Result<u64, SessionError> {
        self.receiver._heart = None;
        let message = protocol::encode(&Request::Bye);
        let said = self.sender.write(|outgoing| {
            outgoing.push_message(&message);
            outgoing.state = Speaking::Over;
        });
        if let Err(error) = said.await {
            return Err(self.because(error).await);
        }
        let closing = self.reply("a goodbye", |reply| match reply {
            Reply::Closing { peak_kib } => Ok(peak_kib),
            other => Err(other),
        });
        match timeout(GOODBYE, closing).await {
            Ok(closed) => closed,
            Err(_) => Err(SessionError::Ended { diagnostics: self.receiver.diagnostics.text() }),
        }
    }

    /// The far end's explanation of a failed write, or else the write's own error.
    async fn because(&mut self, error: SessionError) -> SessionError {
        let SessionError::Write { source, .. } = error else { return error };
        let account = timeout(ACCOUNT, async {
            loop {
                if let Err(error) = self.receiver.next().await {
                    return error;
                }
            }
        });
        match account.await {
            Ok(error) => error,
            Err(_) => SessionError::Write { source, diagnostics: self.receiver.diagnostics.text() },
        }
    }
}

impl Sender {
    /// See [`WeakSender`].
    pub fn downgrade(&self) -> WeakSender {
        WeakSender(Arc::downgrade(&self.0))
    }

    /// Sends one request.
    ///
    /// # Errors
    /// [`SessionError::Write`]. A caller that has the receiver can learn the reason from it.
    pub async fn send(&self, request: &Request) -> Result<(), SessionError> {
        let message = protocol::encode(request);
        self.write(|outgoing| outgoing.push_message(&message)).await
    }

    /// Sends all of `data`. Other messages may come in between. Returns the number of bytes sent.
    ///
    /// # Errors
    /// [`SessionError::Body`] when `data` yields an error. The far end is told that it ended.
    pub async fn send_data(&self, data: impl Chunks<Item = io::Result<Bytes>>) -> Result<u64, SessionError> {
        let mut data = std::pin::pin!(data);
        let mut sent = 0;
        while let Some(chunk) = data.next().await {
            match chunk {
                Ok(chunk) => {
                    sent += chunk.len() as u64;
                    self.push_data(&chunk).await?;
                }
                Err(source) => {
                    let why = source.to_string();
                    let why = &why.as_bytes()[..why.len().min(frame::MAX_PAYLOAD)];
                    self.write(|outgoing| outgoing.push(Kind::DataFailed, why)).await?;
                    return Err(SessionError::Body { source });
                }
            }
        }
        self.write(|outgoing| outgoing.push(Kind::DataEnd, b"")).await?;
        Ok(sent)
    }

    async fn push_data(&self, chunk: &[u8]) -> Result<(), SessionError> {
        let mut outgoing = self.0.outgoing.lock().await;
        // Avoids a second copy of a large chunk.
        for piece in chunk.chunks(COALESCE) {
            outgoing.push_bytes(Kind::Data, piece);
            if outgoing.pending.len() >= COALESCE {
                outgoing.flush(&self.0.meter).await?;
            }
        }
        Ok(())
    }

    /// Adds whole frames, and writes them with all that is pending. May be dropped at any time: the
    /// next call writes the frames that were added.
    async fn write(&self, push: impl FnOnce(&mut Outgoing)) -> Result<(), SessionError> {
        let mut outgoing = self.0.outgoing.lock().await;
        if outgoing.state == Speaking::Over {
            // A key or a signal that comes after the goodbye.
            return Ok(());
        }
        push(&mut outgoing);
        outgoing.flush(&self.0.meter).await
    }

    fn start_heart(&self) -> Heart {
        // A heartbeat must not keep a connection open that has no other sender.
        let sender = self.downgrade();
        let beats = tokio::spawn(async move {
            let mut beat = interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                beat.tick().await;
                let Some(sender) = sender.upgrade() else { return };
                if sender.send(&Request::Heartbeat).await.is_err() {
                    return;
                }
            }
        });
        Heart(beats.abort_handle())
    }
}

impl Outgoing {
    fn push_message(&mut self, message: &[u8]) {
        let mut frames = Vec::with_capacity(message.len() + 2 * frame::HEADER);
        frame::push_message(&mut frames, self.session, message);
        self.pending.extend_from_slice(&frames);
    }

    fn push(&mut self, kind: Kind, payload: &[u8]) {
        let mut frames = Vec::with_capacity(payload.len() + frame::HEADER);
        frame::push_frame(&mut frames, self.session, kind, payload);
        self.pending.extend_from_slice(&frames);
    }

    fn push_bytes(&mut self, kind: Kind, bytes: &[u8]) {
        for part in bytes.chunks(frame::MAX_PAYLOAD) {
            self.push(kind, part);
        }
    }

    /// Writes what is pending. Written bytes are not pending any more, even if dropped.
    async fn flush(&mut self, meter: &Meter) -> Result<(), SessionError> {
        let failed = |source| SessionError::Write { source, diagnostics: String::new() };
        while self.pending.has_remaining() {
            let written = self.to.write_buf(&mut self.pending).await.map_err(failed)?;
            if written == 0 {
                return Err(failed(io::ErrorKind::WriteZero.into()));
            }
            meter.sent.fetch_add(written as u64, Ordering::Relaxed);
        }
        self.to.flush().await.map_err(failed)
    }
}

impl Receiver {
    /// The agent's next message. May be dropped and called again without loss.
    ///
    /// # Errors
    /// [`SessionError::Failed`] when the agent gave up, [`SessionError::Ended`] when the connection
    /// ends.
    pub async fn next(&mut self) -> Result<Event, SessionError> {
        loop {
            let event = match self.received().await? {
                Received::Message(message) => match protocol::decode(&message) {
                    Ok(Reply::Failed(failed)) => return Err(SessionError::Failed(failed)),
                    Ok(reply) => Event::Reply(reply),
                    Err(error) => return Err(self.no_message(&error)),
                },
                Received::Data(bytes) => Event::Data(bytes.into()),
                Received::DataEnd => Event::DataEnd,
                Received::DataFailed(detail) => return Err(SessionError::DataFailed { detail }),
                Received::Stdout(bytes) => Event::Stdout(bytes.into()),
                Received::Stderr(bytes) => Event::Stderr(bytes.into()),
                Received::Hello { .. } | Received::Welcome { .. } => {
                    return Err(self.damaged("a second greeting".to_owned()));
                }
            };
            match (&event, self.data) {
                (Event::Data(_), Data::PassedOver) => {}
                (Event::DataEnd, Data::PassedOver) => self.data = Data::Wanted,
                _ => return Ok(event),
            }
        }
    }

    /// The next reply. `take` accepts it, or hands it back as not the one that was `awaited`.
    ///
    /// # Errors
    /// [`SessionError::Unexpected`], and as [`Receiver::next`].
    pub async fn reply<T>(
        &mut self,
        awaited: &'static str,
        take: impl FnOnce(Reply) -> Result<T, Reply>,
    ) -> Result<T, SessionError> {
        match self.next().await? {
            Event::Reply(reply) => take(reply).map_err(|other| Event::Reply(other).in_place_of(awaited)),
            other => Err(other.in_place_of(awaited)),
        }
    }

    /// Lets `read` read the next data, on a thread that may block, and returns its result. A reader
    /// may stop before the end of the data; the rest is skipped.
    ///
    /// # Errors
    /// As [`Receiver::next`]; then `read` sees an error, too. If this future is dropped, `read`
    /// sees an early end, which the readers of nodes and of archives tell from a real one.
    pub async fn receive_data<T: Send + 'static>(
        &mut self,
        read: impl FnOnce(ChunkReader) -> T + Send + 'static,
    ) -> Result<T, SessionError> {
        let (sender, reader) = channel::to_blocking();
        let reading = tokio::task::spawn_blocking(move || read(reader));
        let over = self.pass_data(sender).await;
        let read = reading.await.map_err(|_| SessionError::Panicked);
        over?;
        read
    }

    /// Passes the next data to a reader; see [`Receiver::receive_data`].
    ///
    /// # Errors
    /// See there.
    pub async fn pass_data(&mut self, to: mpsc::Sender<Chunk>) -> Result<(), SessionError> {
        let over = loop {
            match self.next().await {
                Ok(Event::Data(bytes)) => {
                    if to.send(Ok(bytes)).await.is_err() {
                        self.data = Data::PassedOver;
                        break Ok(());
                    }
                }
                Ok(Event::DataEnd) => break Ok(()),
                Ok(other) => break Err(other.in_place_of("data")),
                Err(error) => break Err(error),
            }
        };
        if over.is_err() {
            // A reader that has stopped does not need the error.
            let _ = to.send(Err(io::ErrorKind::UnexpectedEof.into())).await;
        }
        over
    }

    /// How much went over the wire so far.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            sent: self.meter.sent.load(Ordering::Relaxed),
            received: self.meter.received.load(Ordering::Relaxed),
        }
    }

    async fn received(&mut self) -> Result<Received, SessionError> {
        loop {
            match self.decoder.next_received() {
                Ok(Some(received)) => return Ok(received),
                Ok(None) => {}
                Err(error @ (FrameError::Damaged | FrameError::TooLong)) => {
                    return Err(self.damaged(error.to_string()));
                }
            }
            match self.incoming.next().await? {
                Some((Stream::Stdout, bytes)) => {
                    self.meter.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    self.decoder.push(&bytes);
                }
                Some((Stream::Stderr, bytes)) => self.diagnostics.push(&bytes),
                None => return Err(SessionError::Ended { diagnostics: self.diagnostics.text() }),
            }
        }
    }

    fn damaged(&self, detail: String) -> SessionError {
        SessionError::Damaged { detail, diagnostics: self.diagnostics.text() }
    }

    fn no_message(&self, error: &BadMessage) -> SessionError {
        self.damaged(error.to_string())
    }
}

/// The last part of the agent's standard error.
#[derive(Debug, Default)]
struct Diagnostics(VecDeque<u8>);

impl Diagnostics {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        self.0.drain(..self.0.len().saturating_sub(DIAGNOSTICS));
    }

    /// As one line, safe for a terminal.
    fn text(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().copied().collect();
        Escaped(bytes.trim_ascii()).to_string()
    }
}

/// Unique. `RandomState` is seeded by the operating system's random numbers.
fn nonce() -> Nonce {
    use std::hash::BuildHasher as _;
    let seed = std::hash::RandomState::new();
    let now = (std::process::id(), std::time::SystemTime::now());
    let halves = [seed.hash_one((0, now)), seed.hash_one((1, now))];
    let mut nonce = [0; NONCE];
    for (to, from) in nonce.iter_mut().zip(halves.iter().flat_map(|half| half.to_le_bytes())) {
        *to = from;
    }
    nonce
}

#[cfg(test)]
mod tests;

/// How far a clock is ahead that showed `theirs` at a moment between `asked` and `heard`.
fn clock_ahead(asked: SystemTime, heard: SystemTime, theirs: Timestamp) -> i64 {
    /// How far the clocks of synchronized machines may differ, in nanoseconds.
    const HARMLESS: i128 = 10_000_000;
    let since =
        |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128);
    let (asked, heard) = (since(asked), since(heard));
    let ahead = theirs.as_nanos() - (asked + heard) / 2;
    match ahead.abs() > HARMLESS + (heard - asked).abs() / 2 {
        true => i64::try_from(ahead).unwrap_or_default(),
        false => 0,
    }
}
