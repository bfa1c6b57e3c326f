//! The terminal that fastbuild runs in, where it cannot be set: keys come line by line, and its size is not followed.

use std::io;

/// A terminal in raw mode; there is none here.
#[derive(Debug)]
pub enum RawTerminal {}

impl RawTerminal {
    /// Never one.
    ///
    /// # Errors
    /// None.
    pub fn of_stdin() -> io::Result<Option<RawTerminal>> {
        Ok(None)
    }
}

/// Never.
pub fn is_raw() -> bool {
    false
}

/// There is but one job.
pub fn is_foreground() -> bool {
    true
}

/// At once: whoever reads waits.
pub fn await_input() {}

/// Not known.
pub fn size() -> Option<(u16, u16)> {
    None
}

/// Changes of the terminal's size: none are seen.
#[derive(Debug)]
pub struct SizeChanges;

/// Begins to listen.
///
/// # Errors
/// None.
pub fn size_changes() -> io::Result<SizeChanges> {
    Ok(SizeChanges)
}

impl SizeChanges {
    /// None will come.
    pub async fn next(&mut self) -> Option<()> {
        None
    }
}
