//! How fastbuild's own words are written where they appear.

use console::Term;

use super::colour::{Colour, Tone};
use crate::text::wrap;

/// See the module's header.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Whether lines have colours.
    pub colour: Colour,
    /// The terminal's width in columns, looked up each time; `None` without a terminal.
    pub width: fn() -> Option<usize>,
}

impl Default for Look {
    /// As in a file.
    fn default() -> Look {
        Look { colour: Colour::Off, width: || None }
    }
}

impl Look {
    /// As standard error and the environment have it.
    pub fn of_stderr() -> Look {
        let width = || Term::stderr().size_checked().map(|(_, columns)| usize::from(columns));
        Look { colour: Colour::of_stderr(), width }
    }

    /// `lines`, each with its end, in colour and wrapped to the terminal's width. `tone` is that of
    /// the last one.
    pub fn written(&self, lines: &str, tone: Tone) -> String {
        let painted = self.colour.paint(lines, tone);
        match (self.width)() {
            Some(width) => wrap::wrapped(&painted, width),
            None => painted,
        }
    }
}
