//! Stdin -> requests and data, by a thread that always reads: input that the command does not read
//! must not hold up a signal or a heartbeat. The thread also watches the client: one that is silent
//! for too long is dead, and all that it started is then ended.
//!
//! The thread reads up to a Bye and no further, so that the next client's bytes are left to the
//! next session. Other threads of a session may post events too.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::agent::{
    frame::{Decoder, End, FrameError, Nonce, Received},
    protocol::{Request, decode},
    server::{outbox::Outbox, processes, turn::Ahead},
};

/// How long a session waits for a client's Hello.
const FOR_A_HELLO: Duration = Duration::from_secs(10);

/// How many bytes may wait before the thread stops reading.
const WINDOW: usize = 4 << 20;

/// How much is read at once, in bytes.
const PIECE: usize = 256 << 10;

/// Exit code of a session whose client fell silent.
pub(super) const SILENT: i32 = 3;

/// An event of a session.
#[derive(Debug)]
pub(super) enum Event {
    /// A client's greeting, maybe in the middle of another client's session.
    Hello {
        nonce: Nonce,
        message: Vec<u8>,
    },
    Request(Request),
    Data(Vec<u8>),
    DataEnd,
    DataFailed(String),
    /// Bytes that are not a frame: only a Hello is accepted from here on.
    Damaged,
    /// A message that cannot be understood.
    Nonsense,
    /// Nothing more will come.
    Ended(InputEnd),
    /// Another client has to end before the session with this number in line.
    Ahead {
        number: u64,
        ahead: Ahead,
    },
    /// The turn of the session with this number has come.
    Turn {
        number: u64,
        righting: io::Result<File>,
    },
    /// The command's main process has stopped.
    CommandStopped,
    /// The command's main process is over, and so are all other processes.
    CommandOver(rustix::process::WaitStatus),
}

/// Why nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InputEnd {
    /// The stream is at its end.
    Eof,
    /// No client came in time.
    NoHello,
}

/// The queue of events.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// The allowed silence in milliseconds; zero while no client is known.
    silence: AtomicU64,
    /// The client has said that it will stop: its silence means nothing.
    is_paused: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    bytes: usize,
}

impl Inbox {
    /// Starts the thread that reads. It hands its decoder back when it ends.
    pub(super) fn start(
        self: &Arc<Inbox>,
        decoder: Decoder,
        outbox: &Arc<Outbox>,
    ) -> io::Result<JoinHandle<Decoder>> {
        let reading = Reading { inbox: Arc::clone(self), outbox: Arc::clone(outbox), decoder };
        thread::Builder::new().name("inbox".to_owned()).spawn(move || reading.run())
    }

    /// Waits for the next event.
    pub(super) fn next(&self) -> Event {
        let mut queue = self.lock();
        loop {
            if let Some(event) = queue.events.pop_front() {
                queue.bytes -= size_of(&event);
                self.changed.notify_all();
                return event;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds an event, even when many wait.
    pub(super) fn post(&self, event: Event) {
        let mut queue = self.lock();
        queue.bytes += size_of(&event);
        queue.events.push_back(event);
        self.changed.notify_all();
    }

    /// From now on a silence of this length means that the client is dead; zero: no silence does.
    pub(super) fn expect_life(&self, silence: Duration) {
        let millis = match silence.as_millis() {
            0 => u64::MAX,
            millis => u64::try_from(millis).unwrap_or(u64::MAX),
        };
        self.silence.store(millis, Ordering::Relaxed);
    }

    /// From now on only a Hello is expected.
    pub(super) fn expect_hello(&self) {
        self.silence.store(0, Ordering::Relaxed);
        self.is_paused.store(false, Ordering::Relaxed);
    }

    fn post_when_there_is_room(&self, event: Event) {
        let mut queue = self.lock();
        while queue.bytes > WINDOW {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        drop(queue);
        self.post(event);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size_of(event: &Event) -> usize {
    match event {
        Event::Data(bytes) => bytes.len(),
        Event::Request(Request::Stdin(bytes)) => bytes.len(),
        _ => 64,
    }
}

struct Reading {
    inbox: Arc<Inbox>,
    outbox: Arc<Outbox>,
    decoder: Decoder,
}

impl Reading {
    fn run(mut self) -> Decoder {
        let mut buffer = vec![0; PIECE];
        let mut without_hello = Instant::now();
        loop {
            match self.pass_on() {
                Passed::All => {}
                Passed::Bye => return self.decoder,
            }
            if self.inbox.silence.load(Ordering::Relaxed) > 0 {
                without_hello = Instant::now();
            }
            match self.read(&mut buffer, without_hello) {
                Ok(0) => {
                    self.end(InputEnd::Eof);
                    return self.decoder;
                }
                Ok(read) => self.decoder.push(&buffer[..read]),
                Err(end) => {
                    self.end(end);
                    return self.decoder;
                }
            }
        }
    }

    fn end(&self, end: InputEnd) {
        if end == InputEnd::Eof {
            self.outbox.close();
        }
        self.inbox.post(Event::Ended(end));
    }

    /// Decodes the bytes that are there, and posts the events.
    fn pass_on(&mut self) -> Passed {
        loop {
            let event = match self.decoder.next_received() {
                Ok(None) => return Passed::All,
                Ok(Some(received)) => understand(received),
                Err(FrameError::Damaged | FrameError::TooLong) => Event::Damaged,
            };
            match event {
                // Its arrival is all that counts.
                Event::Request(Request::Heartbeat) => {}
                Event::Request(Request::Bye) => {
                    self.inbox.post(event);
                    return Passed::Bye;
                }
                Event::Request(Request::Pause | Request::Resume) => {
                    let pauses = matches!(event, Event::Request(Request::Pause));
                    self.inbox.is_paused.store(pauses, Ordering::Relaxed);
                    self.inbox.post(event);
                }
                Event::Hello { .. } | Event::Damaged => {
                    self.inbox.is_paused.store(false, Ordering::Relaxed);
                    // Ends the writes to the old client, so that no thread waits for it.
                    self.outbox.close();
                    self.inbox.post(event);
                }
                event => self.inbox.post_when_there_is_room(event),
            }
        }
    }

    fn read(&self, buffer: &mut [u8], without_hello: Instant) -> Result<usize, InputEnd> {
        let stdin = rustix::stdio::stdin();
        loop {
            let silence = match self.inbox.silence.load(Ordering::Relaxed) {
                0 => FOR_A_HELLO.saturating_sub(without_hello.elapsed()),
                millis => Duration::from_millis(millis),
            };
            let waits = !self.inbox.is_paused.load(Ordering::Relaxed);
            let timeout = Timespec::try_from(silence).ok().filter(|_| waits);
            match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], timeout.as_ref()) {
                Ok(0) if self.inbox.silence.load(Ordering::Relaxed) == 0 => {
                    if without_hello.elapsed() >= FOR_A_HELLO {
                        return Err(InputEnd::NoHello);
                    }
                    continue;
                }
                Ok(0) => self.give_up(),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(_) => return Err(InputEnd::Eof),
            }
            match rustix::io::read(stdin, &mut *buffer) {
                Ok(read) => return Ok(read),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => return Err(InputEnd::Eof),
            }
        }
    }

    /// The client is dead: ends the session, whatever its other threads are doing.
    fn give_up(&self) -> ! {
        self.outbox.close();
        processes::clear();
        std::process::exit(SILENT)
    }
}

enum Passed {
    All,
    Bye,
}

fn understand(received: Received) -> Event {
    match received {
        Received::Hello { nonce, message } => Event::Hello { nonce, message },
        Received::Message(message) => decode(&message).map_or(Event::Nonsense, Event::Request),
        Received::Data(bytes) => Event::Data(bytes),
        Received::DataEnd => Event::DataEnd,
        Received::DataFailed(why) => Event::DataFailed(why),
        Received::Welcome { .. } | Received::Stdout(_) | Received::Stderr(_) => Event::Nonsense,
    }
}

/// A stream of data up to its end mark. Another event instead is left for [`DataIn::stop`].
#[derive(Debug)]
pub(super) struct DataIn<'a> {
    inbox: &'a Inbox,
    piece: Vec<u8>,
    at: usize,
    end: Option<DataStop>,
}

/// How a stream of data ended.
#[derive(Debug)]
pub(super) enum DataStop {
    /// Completely.
    Complete,
    /// The client broke it off.
    Failed(String),
    /// Another event came in its place.
    Interrupted(Event),
}

impl<'a> DataIn<'a> {
    pub(super) fn new(inbox: &'a Inbox) -> DataIn<'a> {
        DataIn { inbox, piece: Vec::new(), at: 0, end: None }
    }

    /// How it ended; `None` when it has not been read to its end.
    pub(super) fn stop(self) -> Option<DataStop> {
        self.end
    }

    fn fill(&mut self) {
        match self.inbox.next() {
            Event::Data(piece) => (self.piece, self.at) = (piece, 0),
            Event::DataEnd => self.end = Some(DataStop::Complete),
            Event::DataFailed(why) => self.end = Some(DataStop::Failed(why)),
            event => self.end = Some(DataStop::Interrupted(event)),
        }
    }
}

impl Read for DataIn<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match &self.end {
                None => self.fill(),
                Some(DataStop::Complete) => return Ok(0),
                Some(DataStop::Failed(why)) => return Err(io::Error::other(why.clone())),
                Some(DataStop::Interrupted(_)) => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let length = buffer.len().min(self.piece.len() - self.at);
        buffer[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// A decoder for a session's stdin.
pub(super) fn decoder() -> Decoder {
    Decoder::new(End::Far)
}
