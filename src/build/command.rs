//! Attends a command, for each way to run it: a thread that may block writes its output, signals
//! and the end of its time are passed on, and a thread reads our input and watches the keys.

use std::io;

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, Instant},
};

use super::{BuildError, Interrupts};
use crate::{
    build::shutdown::{Ending, KILL, Wish},
    engine::Delivery,
    report::{
        Reporter,
        events::{Event, Warning},
    },
    spec::Stream,
    sys::terminal,
};

/// Chunks of output that may wait for a slow reader of ours, before the build has to wait.
const OUTPUT_WAITING: usize = 64;

/// Two Ctrl-C within this time end a command that has a terminal. The command handles a single one.
const TWICE: Duration = Duration::from_secs(2);

/// Attends a command until it ends. `follow` puts its output into the channel and returns how it
/// ended, `tell` passes it a signal by number, and a message from `kills` ends it.
///
/// # Errors
/// [`BuildError::Interrupted`] when a signal ends the wait, and when the command had already ended
/// when a signal came: that signal is for the steps that follow. [`BuildError::OutputClosed`].
pub(super) async fn attend<T, E: Into<BuildError>, F: Future<Output = Result<T, E>>>(
    follow: impl FnOnce(mpsc::Sender<(Stream, Bytes)>) -> F,
    tell: impl AsyncFn(u8) -> Result<Delivery, BuildError>,
    mut kills: mpsc::Receiver<()>,
    interrupts: &mut Interrupts,
    reporter: &Reporter,
) -> Result<(T, Ending), BuildError> {
    let carry_out = async |wish| {
        match wish {
            Wish::Nothing => {}
            Wish::GiveUp(signal) => return Err(BuildError::Interrupted(signal)),
            Wish::Kill => {
                tell(KILL).await?;
            }
            Wish::Hand(signal) => match tell(signal.number()).await? {
                Delivery::NotRunning => return Err(BuildError::Interrupted(signal)),
                Delivery::Delivered => {
                    reporter.emit(Event::Warned(Warning::Signalled { signal: signal.name() }));
                }
            },
        }
        Ok(())
    };
    let (closed, output_closed) = oneshot::channel();
    let (output, passing) = Passing::begin(reporter.clone(), closed);
    let mut ending = Ending::default();
    let ended = {
        // One future for the whole loop: a signal must not lose a chunk that waits.
        let (following, output_closed) = (follow(output), refused(output_closed));
        tokio::pin!(following, output_closed);
        loop {
            tokio::select! {
                biased;
                signal = interrupts.next() => {
                    let doing = carry_out(ending.on_signal(signal));
                    // A further signal ends the wait if there is no answer.
                    interrupts.unless(doing).await??;
                }
                () = ending.grace_is_over() => carry_out(ending.kill()).await?,
                Some(()) = kills.recv() => carry_out(ending.kill()).await?,
                // A command that was told to end may do so though its output is refused.
                error = &mut output_closed, if !ending.is_asked() => return Err(BuildError::OutputClosed(error)),
                ended = &mut following => break ended.map_err(Into::into)?,
            }
        }
    };
    // A reader that does not read our output can block this for ever: then a signal ends it.
    if let Ok(drained) = interrupts.unless(passing.drained()).await
        && !ending.is_asked()
    {
        drained?;
    }
    Ok((ended, ending))
}

/// Waits until the output is refused, and returns why; waits for ever when all of it was taken.
async fn refused(closed: oneshot::Receiver<io::Error>) -> io::Error {
    match closed.await {
        Ok(error) => error,
        Err(_) => std::future::pending().await,
    }
}

/// A thread that writes the build's output, because our stdout may block. One thread for both
/// streams, so that output to the same place keeps its order.
struct Passing {
    writing: oneshot::Receiver<()>,
}

impl Passing {
    /// Writes all that is sent; `closed` gets the error when the output is refused.
    fn begin(
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
    async fn drained(self) -> Result<(), BuildError> {
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

/// Our input. Reading blocks and cannot be cancelled, so a thread does it that is never joined.
pub(super) fn own_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel::<Vec<u8>>(1);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            terminal::await_input();
            match io::Read::read(&mut stdin, &mut buffer) {
                Ok(n @ 1..) if sender.blocking_send(buffer[..n].to_vec()).is_ok() => {}
                // An error is an end: there is nothing more to read, and no receiver to tell.
                _ => return,
            }
        }
    });
    receiver
}
