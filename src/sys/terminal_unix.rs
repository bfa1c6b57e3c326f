//! The terminal (Unix). It is not touched from the background: the system stops processes that do.

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

/// How often to check for the foreground. A shell notifies only jobs that it had stopped.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

struct Kept {
    /// Whether there is a [`RawTerminal`].
    wanted: bool,
    /// The settings of the terminal before it was made raw.
    before: Option<Termios>,
}

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a [`RawTerminal`] is active: then a line feed does not move to the first column.
pub fn is_raw() -> bool {
    RAW.load(Ordering::Acquire)
}

/// Whether this process may use its terminal: no other job is in the foreground, or no terminal
/// exists.
pub fn is_foreground() -> bool {
    let streams: [BorrowedFd<'_>; 3] = [stdio::stdin(), stdio::stdout(), stdio::stderr()];
    let own = rustix::process::getpgrp();
    // A terminal of another session has no foreground group for this one.
    streams.into_iter().all(|stream| tcgetpgrp(stream).map_or(true, |foreground| foreground == own))
}

/// Standard input's terminal in raw mode: each key goes to the command at once. So does Ctrl-C,
/// unless others are in the foreground too (`make`, a script): they write lines of their own, and a
/// signal from the terminal is for all of them. Restored when dropped and while in the background.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Makes the terminal raw; `None` when standard input is not a terminal.
    ///
    /// # Errors
    /// The error of `tcsetattr`.
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

/// Makes the terminal raw where it must be and is not: a shell in the foreground changes its
/// settings.
///
/// # Errors
/// The error of `tcsetattr`.
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

/// Restores the settings from before raw mode.
pub fn let_go() {
    if let Some(before) = kept().before.take()
        && is_foreground()
    {
        // If the terminal no longer exists, nothing needs to be restored.
        let _ = tcsetattr(stdio::stdin(), OptionalActions::Now, &before);
    }
    RAW.store(false, Ordering::Release);
}

/// Blocks until standard input can be read; a terminal needs a key press and the foreground.
pub fn await_input() {
    let stdin = stdio::stdin();
    while isatty(stdin) {
        if !is_foreground() {
            thread::sleep(LOOK_AGAIN);
            continue;
        }
        // An error for a lost terminal comes again on the next read.
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
    /// Changes while this process was stopped or in the background are not signalled.
    taken_up: Signal,
}

/// Starts listening for changes of the size. Needs a runtime.
///
/// # Errors
/// When the system does not allow the signal handlers.
pub fn size_changes() -> io::Result<SizeChanges> {
    let taken_up = signal(SignalKind::from_raw(signal_hook::consts::SIGCONT))?;
    Ok(SizeChanges { told: signal(SignalKind::window_change())?, taken_up })
}

impl SizeChanges {
    /// Waits for the next possible change; `None` when no more can come.
    pub async fn next(&mut self) -> Option<()> {
        tokio::select! {
            told = self.told.recv() => told,
            taken_up = self.taken_up.recv() => {
                // After a SIGSTOP no other code does this.
                let _ = take_up();
                taken_up
            }
        }
    }
}
