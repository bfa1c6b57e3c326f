//! The writer of fastbuild's own messages: its stderr, which the build's stderr (and on a terminal
//! its stdout) shares.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    report::{colour::Tone, look::Look},
    sys::terminal,
};

/// Whether the build's last byte on a shared target left a line open. One per run; clones share it.
#[derive(Debug, Clone, Default)]
pub struct LineState(Arc<AtomicBool>);

impl LineState {
    /// Records bytes that the build wrote there.
    pub fn wrote(&self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            self.0.store(*last != b'\n', Ordering::Release);
        }
    }
}

/// Writes to a terminal. It is in raw mode while it serves the build's own terminal, and a line
/// feed then does not return to the first column.
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

/// fastbuild's own writer. Every line begins at the left edge, even after unfinished output of the
/// build. Otherwise a warning would continue the build's last line, or a bar would erase that line.
pub struct Own {
    writer: Box<dyn Write + Send>,
    state: LineState,
    look: Look,
}

impl Own {
    /// Writes to `writer`; `state` says how the build's output to the same place ended.
    pub fn new(writer: Box<dyn Write + Send>, state: LineState) -> Own {
        Own { writer, state, look: Look::default() }
    }

    /// With lines that look so.
    #[must_use]
    pub fn with(self, look: Look) -> Own {
        Own { look, ..self }
    }

    /// How its lines look.
    pub fn look(&self) -> Look {
        self.look
    }

    /// The terminal's width; `None` without a terminal that this process may use.
    pub fn width(&self) -> Option<usize> {
        (self.look.width)()
    }

    /// Writes whole lines, line end included, in one call. Its errors cannot be reported and are
    /// dropped.
    pub fn lines(&mut self, text: &str) {
        self.toned(text, Tone::ByWords);
    }

    /// The same for the last lines of a run, whose exit code that is.
    pub fn last(&mut self, text: &str, exit_code: u8) {
        self.toned(text, if exit_code == 0 { Tone::Done } else { Tone::Failed });
    }

    fn toned(&mut self, text: &str, tone: Tone) {
        let text = self.look.written(text, tone);
        let fresh = self.state.0.swap(false, Ordering::AcqRel);
        let written = if fresh { self.write(&format!("\n{text}")) } else { self.write(&text) };
        drop(written);
    }

    /// Ends an unfinished line of the build, if there is one.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Colour, testing::Shared};

    fn written(look: Look) -> String {
        let out = Shared::default();
        let mut own = Own::new(Box::new(out.clone()), LineState::default()).with(look);
        own.lines("fastbuild: warning: /a/long/path/of/a/file was changed here while the build ran\n");
        out.text()
    }

    #[test]
    fn lines_are_wrapped_on_a_terminal_only() {
        let file = written(Look::default());
        assert_eq!(file, "fastbuild: warning: /a/long/path/of/a/file was changed here while the build ran\n");
        let narrow =
            "fastbuild: warning:\n    /a/long/path/of/a/file was changed\n    here while the build ran\n";
        assert_eq!(written(Look { width: || Some(40), ..Look::default() }), narrow);
        let coloured = written(Look { colour: Colour::On, width: || Some(40), ..Look::default() });
        assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), narrow);
    }
}
