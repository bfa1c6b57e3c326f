//! Events -> one JSON object a line, for programs. `docs/events.md` is the contract; a change that breaks readers
//! raises [`SCHEMA`].

use std::{collections::HashMap, io, time::Duration};

use serde::Serialize;

use super::{
    Renderer, Verbosity,
    events::{Event, Failure, Phase},
    own::Own,
    text,
};

/// The number in each line's `fastbuild` field.
pub const SCHEMA: u8 = 1;

/// Progress of one phase, or of a pull, is told at most this often.
const EVERY: Duration = Duration::from_millis(100);

/// The renderer of `json`.
pub struct Json {
    own: Own,
    verbosity: Verbosity,
    progress: HashMap<Phase, Duration>,
    statuses: HashMap<String, String>,
}

#[derive(Serialize)]
struct Line<'a, T> {
    fastbuild: u8,
    time: f64,
    #[serde(flatten)]
    fact: &'a T,
}

impl Json {
    /// Writes lines to `own`; under [`Verbosity::Quiet`] only errors.
    pub fn new(own: Own, verbosity: Verbosity) -> Json {
        Json { own, verbosity, progress: HashMap::new(), statuses: HashMap::new() }
    }

    fn write(&mut self, at: Duration, fact: &impl Serialize) {
        // Whole microseconds: more digits would be noise.
        let line = Line { fastbuild: SCHEMA, time: at.as_micros() as f64 / 1e6, fact };
        let mut bytes = Vec::new();
        // Cannot fail: no map has keys that are not strings, and paths are turned into text. Were it to, a reader is
        // better off without a half line.
        if line.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Harmless)).is_err() {
            return;
        }
        bytes.push(b'\n');
        self.own.lines(&String::from_utf8_lossy(&bytes));
    }

    fn is_due(&mut self, at: Duration, phase: Phase) -> bool {
        let due = self.progress.get(&phase).is_none_or(|last| at.saturating_sub(*last) >= EVERY);
        if due {
            self.progress.insert(phase, at);
        }
        due
    }

    /// A layer's new status is always told; bytes within one status are thinned out.
    fn is_wanted(&mut self, at: Duration, event: &Event) -> bool {
        match event {
            Event::PhaseProgress { phase, .. } => self.is_due(at, *phase),
            Event::PullProgress { layer, status, .. } => {
                self.statuses.insert(layer.clone(), status.clone()).as_ref() != Some(status)
                    || self.is_due(at, Phase::Pull)
            }
            _ => true,
        }
    }
}

impl Renderer for Json {
    fn event(&mut self, at: Duration, event: &Event) {
        if self.verbosity != Verbosity::Quiet && self.is_wanted(at, event) {
            self.write(at, event);
        }
    }

    fn failure(&mut self, at: Duration, failure: &Failure) {
        self.write(at, failure);
    }

    fn clear(&mut self) {}
}

/// Compact JSON that also escapes what JSON would let through and a terminal would obey: DEL, the C1 controls (one of
/// them begins an escape sequence), and characters that reorder text.
struct Harmless;

impl serde_json::ser::Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| text::is_dangerous(*c)) {
            // All of them lie below U+10000, so one escape is enough.
            write!(writer, "{}\\u{:04x}", &rest[..at], u32::from(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}
