//! Where fastbuild's own words go: its stderr, which the build's stderr (and on a terminal its stdout) shares.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::colour::{Colour, Tone};
use crate::sys::terminal;

/// Whether the build's last byte on a shared screen or file left a line unfinished. One per run, shared by clones.
#[derive(Debug, Clone, Default)]
pub struct LineState(Arc<AtomicBool>);

impl LineState {
    /// Notes bytes that the build wrote there.
    pub fn wrote(&self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            self.0.store(*last != b'\n', Ordering::Release);
        }
    }
}

/// Writes to a terminal, which is raw while the build's is ours: there a line feed alone goes straight down.
pub(super) struct OnTerminal<W>(pub(super) W);

impl<W: Write> Write for OnTerminal<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !terminal::is_raw() {
            return self.0.write(bytes);
        }
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(line) => self.0.write_all(&[line, b"\r\n"].concat())?,
                None => self.0.write_all(line)?,
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// fastbuild's own writer. Every line begins at the left edge, whatever the build left there: without that, a build
/// whose output ends without a line end would have a warning glued to it, or its last line wiped by a bar.
pub struct Own {
    writer: Box<dyn Write + Send>,
    state: LineState,
    colour: Colour,
}

impl Own {
    /// Writes to `writer`; `state` tells what the build wrote to the same place.
    pub fn new(writer: Box<dyn Write + Send>, state: LineState) -> Own {
        Own { writer, state, colour: Colour::Off }
    }

    /// With lines in colour, or without.
    #[must_use]
    pub fn coloured(self, colour: Colour) -> Own {
        Own { colour, ..self }
    }

    /// Writes whole lines, line end included, in one call. Errors are dropped: this is where they would be told.
    pub fn lines(&mut self, text: &str) {
        self.toned(text, Tone::ByWords);
    }

    /// The same for the last lines of a run, whose exit code that is.
    pub fn last(&mut self, text: &str, exit_code: u8) {
        self.toned(text, if exit_code == 0 { Tone::Done } else { Tone::Failed });
    }

    fn toned(&mut self, text: &str, tone: Tone) {
        let text = self.colour.paint(text, tone);
        let fresh = self.state.0.swap(false, Ordering::AcqRel);
        let written = if fresh { self.write(&format!("\n{text}")) } else { self.write(&text) };
        drop(written);
    }

    /// Ends an unfinished line of the build's, if there is one.
    pub fn fresh_line(&mut self) {
        if self.state.0.swap(false, Ordering::AcqRel) {
            drop(self.write("\n"));
        }
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.writer.write_all(text.as_bytes())?;
        self.writer.flush()
    }
}
