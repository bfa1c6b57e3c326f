//! Signals that ask fastbuild to end: they cut off waits, or go to the build. And Ctrl-Z, see
//! [`super::suspend`].

use std::{
    fmt, io,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};

use super::suspend::Suspension;

/// Two of a kind within this time are one: `timeout` and wrappers also send what the group gets.
const TWICE_SENT: Duration = Duration::from_millis(100);

/// A signal that asks to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// `kill`, and what CI systems send.
    Terminate,
    /// The terminal is gone.
    HangUp,
    /// Ctrl-\\: some commands print their progress, and go on.
    Quit,
}

impl Signal {
    /// Its name, as engines take it.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
            Signal::HangUp => "SIGHUP",
            Signal::Quit => "SIGQUIT",
        }
    }

    /// Its number, as Linux counts them.
    pub fn number(self) -> u8 {
        match self {
            Signal::HangUp => 1,
            Signal::Interrupt => 2,
            Signal::Quit => 3,
            Signal::Terminate => 15,
        }
    }

    const ALL: [Signal; 4] = [Signal::Interrupt, Signal::Terminate, Signal::HangUp, Signal::Quit];

    /// The signal with this number.
    pub fn of_number(number: u8) -> Option<Signal> {
        Signal::ALL.into_iter().find(|signal| signal.number() == number)
    }

    /// The signal that a terminal makes of a key, unless it is raw.
    pub fn of_key(key: u8) -> Option<Signal> {
        match key {
            3 => Some(Signal::Interrupt),
            28 => Some(Signal::Quit),
            _ => None,
        }
    }

    /// The exit code of a process that the signal ended: 128 and its number.
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

/// The signals that have come. A clone gets all signals that its original had not taken.
#[derive(Debug, Clone)]
pub struct Interrupts {
    received: watch::Receiver<Received>,
    /// How many of them [`Interrupts::next`] has given.
    taken: usize,
    suspension: Suspension,
}

#[derive(Debug, Clone, Copy, Default)]
struct Received {
    count: usize,
    last: Option<Signal>,
}

impl Interrupts {
    /// Takes over the signals, which would otherwise end or stop the process. A signal that was
    /// ignored at the start stays ignored. Needs a runtime.
    ///
    /// # Errors
    /// When the system does not hand over a signal.
    pub fn listen() -> io::Result<Interrupts> {
        Interrupts::listen_even_to(&[])
    }

    /// As [`Interrupts::listen`], and to these also where they were ignored.
    ///
    /// # Errors
    /// As there.
    pub fn listen_even_to(heeded: &'static [Signal]) -> io::Result<Interrupts> {
        let (sender, received) = watch::channel(Received::default());
        let suspension = Suspension::default();
        let mut signals = signals(&suspension, heeded)?;
        tokio::spawn(async move {
            let mut counted = None;
            while let Some(signal) = signals.recv().await {
                let is_repeated = |(last, at): (Signal, Instant)| last == signal && at.elapsed() < TWICE_SENT;
                if counted.is_some_and(is_repeated) {
                    continue;
                }
                counted = Some((signal, Instant::now()));
                sender.send_modify(|received| {
                    received.count += 1;
                    received.last = Some(signal);
                });
            }
        });
        Ok(Interrupts { received, taken: 0, suspension })
    }

    /// The shared state for Ctrl-Z.
    pub fn suspension(&self) -> &Suspension {
        &self.suspension
    }

    /// Waits for a signal that has not been taken. Two that came before this call are given one
    /// after the other: the second one means more than the first.
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

/// Each of [`Signal::ALL`] that was not ignored at the start, or is in `heeded`. Handles Ctrl-Z
/// too.
#[cfg(unix)]
fn signals(suspension: &Suspension, heeded: &[Signal]) -> io::Result<mpsc::Receiver<Signal>> {
    use signal_hook::consts::SIGTSTP;
    use tokio::signal::unix::{SignalKind, signal};

    use crate::sys::process;
    let (sender, signals) = mpsc::channel(1);
    let is_heeded = |ours: &Signal| heeded.contains(ours) || !process::ignores(ours.number().into());
    for ours in Signal::ALL.into_iter().filter(is_heeded) {
        let (mut arrivals, sender) = (signal(SignalKind::from_raw(ours.number().into()))?, sender.clone());
        tokio::spawn(
            async move { while arrivals.recv().await.is_some() && sender.send(ours).await.is_ok() {} },
        );
    }
    if !process::ignores(SIGTSTP) {
        let (mut arrivals, suspension) = (signal(SignalKind::from_raw(SIGTSTP))?, suspension.clone());
        tokio::spawn(async move {
            while arrivals.recv().await.is_some() {
                suspension.suspend().await;
            }
        });
    }
    Ok(signals)
}

#[cfg(not(unix))]
fn signals(_: &Suspension, _: &[Signal]) -> io::Result<mpsc::Receiver<Signal>> {
    let (sender, signals) = mpsc::channel(1);
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() && sender.send(Signal::Interrupt).await.is_ok() {}
    });
    Ok(signals)
}
