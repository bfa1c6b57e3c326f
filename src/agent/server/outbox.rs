//! Replies, data and the command's output -> stdout, whole frames only, from any thread.

use std::{
    io::{self, Write},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use crate::agent::{
    frame::{Kind, Nonce, push_bytes, push_frame, push_message, push_welcome, session_of},
    protocol::{Reply, encode},
};

/// How much of a stream is collected before it is written, in bytes.
const BULK: usize = 128 << 10;

/// The output to the client. Everything but data is written at once.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    /// The client is gone, or another one has come: nothing more is written.
    over: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    session: u32,
}

impl Outbox {
    /// Starts with a new client. Unsent output for the client before is dropped.
    pub(super) fn welcome(&self, nonce: &Nonce, message: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        self.over.store(false, Ordering::Relaxed);
        state.waiting.clear();
        state.session = session_of(nonce);
        push_welcome(&mut state.waiting, nonce, message);
        self.flush(&mut state)
    }

    /// Makes all later writes fail, so that writers to a client that is gone come to an end.
    pub(super) fn close(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(super) fn reply(&self, reply: &Reply) -> io::Result<()> {
        let mut state = self.lock();
        let session = state.session;
        push_message(&mut state.waiting, session, &encode(reply));
        self.flush(&mut state)
    }

    /// A reply that data follows. It is written together with the data.
    pub(super) fn reply_before_data(&self, reply: &Reply) {
        let mut state = self.lock();
        let session = state.session;
        push_message(&mut state.waiting, session, &encode(reply));
    }

    /// Output of the command.
    pub(super) fn output(&self, kind: Kind, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let session = state.session;
        push_bytes(&mut state.waiting, session, kind, bytes);
        self.flush(&mut state)
    }

    /// A stream of data. [`DataOut::finish`] or [`DataOut::fail`] must end it.
    pub(super) fn data(&self) -> DataOut<'_> {
        DataOut(self)
    }

    fn flush(&self, state: &mut State) -> io::Result<()> {
        let written = self.write_all(&state.waiting);
        state.waiting.clear();
        state.waiting.shrink_to(2 * BULK);
        written
    }

    fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        let stdout = rustix::stdio::stdout();
        while !bytes.is_empty() {
            if self.over.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            match rustix::io::write(stdout, bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::INTR) => {}
                // Some engines pass pipes that do not block.
                Err(Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], None)?;
                }
                Err(errno) => {
                    self.close();
                    return Err(errno.into());
                }
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream of data.
#[derive(Debug)]
pub(super) struct DataOut<'a>(&'a Outbox);

impl DataOut<'_> {
    pub(super) fn finish(self) -> io::Result<()> {
        self.end(Kind::DataEnd, b"")
    }

    /// Breaks the stream off.
    pub(super) fn fail(self, why: &str) -> io::Result<()> {
        let mut end = why.len().min(1000);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        self.end(Kind::DataFailed, &why.as_bytes()[..end])
    }

    fn end(&self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        let session = state.session;
        push_frame(&mut state.waiting, session, kind, payload);
        self.0.flush(&mut state)
    }
}

impl Write for DataOut<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        let session = state.session;
        push_bytes(&mut state.waiting, session, Kind::Data, bytes);
        if state.waiting.len() >= BULK {
            self.0.flush(&mut state)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut state = self.0.lock();
        self.0.flush(&mut state)
    }
}
