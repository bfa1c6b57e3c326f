//! The terminal that fastbuild runs in (Unix).

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::termios::{OptionalActions, Termios};

static RAW: AtomicBool = AtomicBool::new(false);

/// Whether a [`RawTerminal`] is at work: then a line feed does not lead to the left edge.
pub fn is_raw() -> bool {
    RAW.load(Ordering::Acquire)
}

/// Standard input's terminal in raw mode: keys go to the command as they are pressed, Ctrl-C among them. Restored when
/// dropped.
#[derive(Debug)]
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Sets it; `None` when standard input is no terminal.
    ///
    /// # Errors
    /// Whatever `tcsetattr` says.
    pub fn of_stdin() -> io::Result<Option<RawTerminal>> {
        let stdin = rustix::stdio::stdin();
        let Ok(before) = rustix::termios::tcgetattr(stdin) else { return Ok(None) };
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(stdin, OptionalActions::Now, &raw)?;
        RAW.store(true, Ordering::Release);
        Ok(Some(RawTerminal { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to restore.
        let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
        RAW.store(false, Ordering::Release);
    }
}

/// Rows and columns of the terminal; `None` without one.
pub fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Changes of the terminal's size.
#[derive(Debug)]
pub struct SizeChanges(tokio::signal::unix::Signal);

/// Begins to listen for them. Needs a runtime.
///
/// # Errors
/// When the system does not hand the signal over.
pub fn size_changes() -> io::Result<SizeChanges> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change()).map(SizeChanges)
}

impl SizeChanges {
    /// Waits for the next one; `None` when none will come.
    pub async fn next(&mut self) -> Option<()> {
        self.0.recv().await
    }
}
