//! What handing a command's streams on needs, whoever runs it: a writer of its output that may block, a reader of our own
//! input, and an eye on the keys.

use std::io;

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, Instant},
};

use super::BuildError;
use crate::{
    report::{Reporter, events::Stream},
    sys::terminal,
};

/// Chunks of output that may wait for a slow reader of ours, before the build has to wait.
const OUTPUT_WAITING: usize = 64;

/// Two Ctrl-C within this time end a command that has a terminal; a single one is the command's own business.
const TWICE: Duration = Duration::from_secs(2);

/// Waits until nobody takes the output any more, and gives why; for ever when all of it has been taken.
pub(super) async fn refused(closed: oneshot::Receiver<io::Error>) -> io::Error {
    match closed.await {
        Ok(error) => error,
        Err(_) => std::future::pending().await,
    }
}

/// A thread of its own that writes the build's output, because our stdout may block; one for both streams, so that what
/// goes to one place keeps its order.
pub(super) struct Passing {
    writing: oneshot::Receiver<()>,
}

impl Passing {
    /// What is sent is written; `closed` gets the error when nobody takes it any more.
    pub(super) fn begin(
        reporter: Reporter,
        closed: oneshot::Sender<io::Error>,
    ) -> (mpsc::Sender<(Stream, Bytes)>, Passing) {
        let (sender, mut receiver) = mpsc::channel::<(Stream, Bytes)>(OUTPUT_WAITING);
        let (done, writing) = oneshot::channel();
        std::thread::spawn(move || {
            while let Some((stream, bytes)) = receiver.blocking_recv() {
                if let Err(error) = reporter.build_output(stream, &bytes) {
                    // The other side may have given up waiting already.
                    let _ = closed.send(error);
                    return;
                }
            }
            let _ = done.send(());
        });
        (sender, Passing { writing })
    }

    /// Waits until everything is written. The sender must have been dropped.
    pub(super) async fn drained(self) -> Result<(), BuildError> {
        self.writing.await.map_err(|_| BuildError::Panicked)
    }
}

/// Watches the keys for two Ctrl-C in a row.
#[derive(Debug, Default)]
pub(super) struct CtrlC {
    last: Option<Instant>,
}

impl CtrlC {
    pub(super) fn twice(&mut self, keys: &[u8]) -> bool {
        const CTRL_C: u8 = 3;
        let mut twice = false;
        for &key in keys {
            if key != CTRL_C {
                self.last = None;
                continue;
            }
            let now = Instant::now();
            twice |= self.last.is_some_and(|last| now - last < TWICE);
            self.last = Some(now);
        }
        twice
    }
}

/// What we read. Reading blocks and cannot be called off, so it has a thread that nobody waits for.
pub(super) fn own_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel::<Vec<u8>>(1);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            terminal::await_input();
            match io::Read::read(&mut stdin, &mut buffer) {
                Ok(n @ 1..) if sender.blocking_send(buffer[..n].to_vec()).is_ok() => {}
                // An error is an end: there is nothing more to be read, and nobody to tell.
                _ => return,
            }
        }
    });
    receiver
}
