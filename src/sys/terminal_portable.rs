//! The terminal where it cannot be configured: input comes by line, and size changes are not seen.

use std::io;

/// A terminal in raw mode; not available here.
#[derive(Debug)]
pub enum RawTerminal {}

impl RawTerminal {
    /// Always `None`.
    ///
    /// # Errors
    /// Never fails.
    pub fn of_stdin() -> io::Result<Option<RawTerminal>> {
        Ok(None)
    }
}

/// Always false.
pub fn is_raw() -> bool {
    false
}

/// Always true: there is only one job.
pub fn is_foreground() -> bool {
    true
}

/// Returns at once: the read itself waits.
pub fn await_input() {}

/// Always `None`: the size is not known.
pub fn size() -> Option<(u16, u16)> {
    None
}

/// Changes of the terminal's size; not seen here.
#[derive(Debug)]
pub struct SizeChanges;

/// Starts listening.
///
/// # Errors
/// Never fails.
pub fn size_changes() -> io::Result<SizeChanges> {
    Ok(SizeChanges)
}

impl SizeChanges {
    /// Always `None`.
    pub async fn next(&mut self) -> Option<()> {
        None
    }
}
