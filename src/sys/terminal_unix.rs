//! The terminal that fastbuild runs in (Unix). From the background it is never touched: whoever does is stopped.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    stdio,
    termios::{LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

static RAW: AtomicBool = AtomicBool::new(false);

static KEPT: Mutex<Kept> = Mutex::new(Kept { wanted: false, before: None });

/// How often it is looked whether fastbuild is in the foreground again: a shell tells only those that it had stopped.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

struct Kept {
    /// There is a [`RawTerminal`].
    wanted: bool,
    /// How the terminal was before it was made raw.
    before: Option<Termios>,
}

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a [`RawTerminal`] is at work: then a line feed does not lead to the left edge.
pub fn is_raw() -> bool {
    RAW.load(Ordering::Acquire)
}

/// Whether this process may use its terminal: not where another job is in the foreground. True without a terminal.
pub fn is_foreground() -> bool {
    let streams: [BorrowedFd<'_>; 3] = [stdio::stdin(), stdio::stdout(), stdio::stderr()];
    let own = rustix::process::getpgrp();
    // A terminal of another session has no foreground for this one.
    streams.into_iter().all(|stream| tcgetpgrp(stream).map_or(true, |foreground| foreground == own))
}

/// Standard input's terminal in raw mode: keys go to the command as they are pressed, Ctrl-C among them, unless others are in the
/// foreground too (`make`, a script). Those write lines of their own, and a signal of the terminal's is for all of them. Restored when
/// dropped. Whenever fastbuild is in the background, it is as it was.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Sets it; `None` when standard input is no terminal.
    ///
    /// # Errors
    /// Whatever `tcsetattr` says.
    pub fn of_stdin() -> io::Result<Option<RawTerminal>> {
        if !isatty(stdio::stdin()) {
            return Ok(None);
        }
        kept().wanted = true;
        let raw = RawTerminal(());
        take_up()?;
        Ok(Some(raw))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        kept().wanted = false;
        let_go();
    }
}

/// Makes the terminal raw where it is to be and is not: a shell sets it to its own liking while it is in the foreground.
///
/// # Errors
/// Whatever `tcsetattr` says.
pub fn take_up() -> io::Result<()> {
    let mut kept = kept();
    if !kept.wanted || !is_foreground() {
        return Ok(());
    }
    let now = tcgetattr(stdio::stdin())?;
    if kept.before.is_some() && !now.local_modes.contains(LocalModes::ICANON) {
        return Ok(());
    }
    let mut raw = now.clone();
    raw.make_raw();
    let is_shared = rustix::process::getpgrp() != rustix::process::getpid();
    if is_shared {
        raw.output_modes = now.output_modes;
        raw.local_modes |= now.local_modes & LocalModes::ISIG;
    }
    tcsetattr(stdio::stdin(), OptionalActions::Now, &raw)?;
    kept.before = Some(now);
    RAW.store(!is_shared, Ordering::Release);
    Ok(())
}

/// Sets the terminal to what it was before it was made raw.
pub fn let_go() {
    if let Some(before) = kept().before.take()
        && is_foreground()
    {
        // The terminal may be gone; then there is nothing to restore.
        let _ = tcsetattr(stdio::stdin(), OptionalActions::Now, &before);
    }
    RAW.store(false, Ordering::Release);
}

/// Blocks until standard input can be read: where it is a terminal, not before there is a key and fastbuild is in the foreground.
pub fn await_input() {
    let stdin = stdio::stdin();
    while isatty(stdin) {
        if !is_foreground() {
            thread::sleep(LOOK_AGAIN);
            continue;
        }
        // One that is gone says so when it is read.
        let _ = take_up();
        let ready = poll(&mut [PollFd::new(&stdin, PollFlags::IN)], None);
        if ready.is_ok() && is_foreground() {
            return;
        }
    }
}

/// Rows and columns of the terminal; `None` without one.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(stdio::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Changes of the terminal's size.
#[derive(Debug)]
pub struct SizeChanges {
    told: Signal,
    /// What changed while this process was stopped or in the background is not told.
    taken_up: Signal,
}

/// Begins to listen for them. Needs a runtime.
///
/// # Errors
/// When the system does not hand the signals over.
pub fn size_changes() -> io::Result<SizeChanges> {
    let taken_up = signal(SignalKind::from_raw(signal_hook::consts::SIGCONT))?;
    Ok(SizeChanges { told: signal(SignalKind::window_change())?, taken_up })
}

impl SizeChanges {
    /// Waits for what may be the next one; `None` when none will come.
    pub async fn next(&mut self) -> Option<()> {
        tokio::select! {
            told = self.told.recv() => told,
            taken_up = self.taken_up.recv() => {
                // After a SIGSTOP nobody else does.
                let _ = take_up();
                taken_up
            }
        }
    }
}
