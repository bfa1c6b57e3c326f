//! Signals that ask fastbuild to end: they cut off whatever waits, or are handed to the build.

use std::{fmt, io};

use tokio::sync::watch;

/// A signal that asks to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// `kill`, and what CI systems send.
    Terminate,
    /// The terminal is gone.
    HangUp,
}

impl Signal {
    /// Its name, as engines take it.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
            Signal::HangUp => "SIGHUP",
        }
    }

    /// Its number, as Linux counts them.
    pub fn number(self) -> u8 {
        match self {
            Signal::HangUp => 1,
            Signal::Interrupt => 2,
            Signal::Terminate => 15,
        }
    }

    /// What a process exits with that it ended: 128 and its number.
    pub fn exit_code(self) -> u8 {
        128 + self.number()
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Work was cut off by a signal.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("cut off by {0}")]
pub struct Interrupted(pub Signal);

/// The signals that have come. Of clones, each takes all signals that its original had not taken.
#[derive(Debug, Clone)]
pub struct Interrupts {
    received: watch::Receiver<Received>,
    /// How many of them [`Interrupts::next`] has given.
    taken: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Received {
    count: usize,
    last: Option<Signal>,
}

impl Interrupts {
    /// Takes the signals over from the system, which would end the process. Needs a runtime.
    ///
    /// # Errors
    /// When the system does not let go of one.
    pub fn listen() -> io::Result<Interrupts> {
        let (sender, received) = watch::channel(Received::default());
        let mut signals = Signals::new()?;
        tokio::spawn(async move {
            while let Some(signal) = signals.next().await {
                sender.send_modify(|received| {
                    received.count += 1;
                    received.last = Some(signal);
                });
            }
        });
        Ok(Interrupts { received, taken: 0 })
    }

    /// Waits for a signal that has not been taken yet. Two that came before anybody asked are given one after the other:
    /// the second one means more than the first.
    pub async fn next(&mut self) -> Signal {
        loop {
            let Received { count, last } = *self.received.borrow_and_update();
            if let Some(signal) = last.filter(|_| count > self.taken) {
                self.taken += 1;
                return signal;
            }
            if self.received.changed().await.is_err() {
                // The listening task is gone, with the runtime: no more signals will come.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The next signal if it has come already.
    pub async fn come(&mut self) -> Option<Signal> {
        self.unless(std::future::ready(())).await.err().map(|Interrupted(signal)| signal)
    }

    /// `work`, unless a signal comes before its end; then it is dropped.
    ///
    /// # Errors
    /// [`Interrupted`] by the signal.
    pub async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Interrupted> {
        tokio::select! {
            biased;
            signal = self.next() => Err(Interrupted(signal)),
            done = work => Ok(done),
        }
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Option<Signal> {
        tokio::select! {
            came = self.interrupt.recv() => came.map(|()| Signal::Interrupt),
            came = self.terminate.recv() => came.map(|()| Signal::Terminate),
            came = self.hang_up.recv() => came.map(|()| Signal::HangUp),
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals)
    }

    async fn next(&mut self) -> Option<Signal> {
        tokio::signal::ctrl_c().await.ok().map(|()| Signal::Interrupt)
    }
}
