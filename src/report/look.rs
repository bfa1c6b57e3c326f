//! How fastbuild's own words are written where they appear.

use std::env;

use console::Term;

use super::colour::{Colour, Tone};
use crate::{sys::terminal, text::wrap};

/// See the module's header.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Whether lines have colours.
    pub colour: Colour,
    /// Whether characters beyond ASCII are shown.
    pub glyphs: Glyphs,
    /// The terminal's width in columns, looked up each time; `None` without a terminal, and while
    /// another job has it.
    pub width: fn() -> Option<usize>,
}

/// The characters that are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Glyphs {
    /// The locale is UTF-8.
    Unicode,
    /// It is another one.
    #[default]
    Ascii,
}

impl Glyphs {
    /// Decides by the first of the locale's variables that is set, as the C library does.
    fn of_locale(var: impl Fn(&str) -> Option<String>) -> Glyphs {
        let locale =
            ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(var).find(|value| !value.is_empty());
        let is_utf8 = locale.map_or(cfg!(windows), |locale| {
            let locale = locale.to_lowercase();
            locale.ends_with("utf-8") || locale.ends_with("utf8")
        });
        if is_utf8 { Glyphs::Unicode } else { Glyphs::Ascii }
    }
}

impl Default for Look {
    /// As in a file.
    fn default() -> Look {
        Look { colour: Colour::Off, glyphs: Glyphs::Ascii, width: || None }
    }
}

impl Look {
    /// As standard error and the environment have it.
    pub fn of_stderr() -> Look {
        let glyphs = Glyphs::of_locale(|name| env::var(name).ok());
        Look { colour: Colour::of_stderr(), glyphs, width }
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

fn width() -> Option<usize> {
    let (_, columns) = Term::stderr().size_checked().filter(|_| terminal::is_foreground())?;
    Some(usize::from(columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locale_says_which_characters_are_shown() {
        let cases: [(&[(&str, &str)], Glyphs); 5] = [
            (&[("LANG", "en_US.UTF-8")], Glyphs::Unicode),
            (&[("LANG", "C"), ("LC_CTYPE", "C.utf8")], Glyphs::Unicode),
            (&[("LANG", "de_DE.UTF-8"), ("LC_ALL", "C")], Glyphs::Ascii),
            (&[("LC_ALL", ""), ("LANG", "en_US.utf8")], Glyphs::Unicode),
            (&[("LANG", "de_DE@euro")], Glyphs::Ascii),
        ];
        for (set, expected) in cases {
            let var =
                |name: &str| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
            assert_eq!(Glyphs::of_locale(var), expected, "{set:?}");
        }
    }
}
