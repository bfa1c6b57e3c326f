//! Colours of fastbuild's own lines, as cargo has them: a bold red `error:`, a yellow `warning:`, notes dim, the last line green
//! or red. `NO_COLOR`, `CLICOLOR`, `CLICOLOR_FORCE` and `TERM` decide together with the stream.

use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// What every line of fastbuild's own begins with.
const PREFIX: &str = "fastbuild: ";

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const DONE: Style = AnsiColor::Green.on_default().bold();
const NOTE: Style = Style::new().dimmed();

/// Whether lines have colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Colour {
    /// They have.
    On,
    /// They have none.
    #[default]
    Off,
}

/// What a line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// What its words say: an error, a warning or a note.
    ByWords,
    /// The end of a run that succeeded.
    Done,
    /// The end of a run that failed.
    Failed,
}

impl Colour {
    /// As standard error and the environment have it.
    pub fn of_stderr() -> Colour {
        match AutoStream::choice(&io::stderr()) {
            ColorChoice::Never => Colour::Off,
            _ => Colour::On,
        }
    }

    /// `lines`, each with its end, as they are written. `tone` is that of the last one.
    pub fn paint(self, lines: &str, tone: Tone) -> String {
        if self == Colour::Off {
            return lines.to_owned();
        }
        let count = lines.split_inclusive('\n').count();
        let paint = |(at, line)| paint_line(line, if at + 1 == count { tone } else { Tone::ByWords });
        lines.split_inclusive('\n').enumerate().map(paint).collect()
    }
}

impl Colour {
    /// What is done of a bar.
    pub fn done(self, text: &str) -> String {
        self.styled(text, AnsiColor::Green.on_default())
    }

    /// What matters less than the lines around it.
    pub fn dim(self, text: &str) -> String {
        self.styled(text, NOTE)
    }

    fn styled(self, text: &str, style: Style) -> String {
        match self {
            Colour::On => format!("{style}{text}{style:#}"),
            Colour::Off => text.to_owned(),
        }
    }
}

fn paint_line(line: &str, tone: Tone) -> String {
    let (text, end) = line.strip_suffix('\n').map_or((line, ""), |text| (text, "\n"));
    let whole = |style: Style| format!("{style}{text}{style:#}{end}");
    let Some(words) = text.strip_prefix(PREFIX) else { return line.to_owned() };
    let word = |word: &str, style: Style| {
        let rest = words.strip_prefix(word)?;
        Some(format!("{PREFIX}{style}{word}{style:#}{rest}{end}"))
    };
    let name = PREFIX.trim_end();
    match tone {
        Tone::Done => format!("{DONE}{name}{DONE:#} {words}{end}"),
        Tone::Failed => format!("{ERROR}{name}{ERROR:#} {words}{end}"),
        Tone::ByWords => {
            word("error:", ERROR).or_else(|| word("warning:", WARNING)).unwrap_or_else(|| whole(NOTE))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_the_colour_of_what_it_tells() {
        let lines = "fastbuild: scanning\nfastbuild: warning: x\nfastbuild: error: y\n  caused by: z\nfastbuild: 1.2 s\n";
        let painted = "\u{1b}[2mfastbuild: scanning\u{1b}[0m\n\
                       fastbuild: \u{1b}[1m\u{1b}[33mwarning:\u{1b}[0m x\n\
                       fastbuild: \u{1b}[1m\u{1b}[31merror:\u{1b}[0m y\n\
                       \u{20} caused by: z\n\
                       \u{1b}[1m\u{1b}[32mfastbuild:\u{1b}[0m 1.2 s\n";
        assert_eq!(Colour::On.paint(lines, Tone::Done), painted);
        assert_eq!(Colour::Off.paint(lines, Tone::Done), lines);
        assert!(Colour::On.paint("fastbuild: 1 s; exit 2\n", Tone::Failed).contains("[31mfastbuild:"));
    }
}
