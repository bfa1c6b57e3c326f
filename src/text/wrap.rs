//! Text -> lines of a terminal's width. Pure.
//!
//! Widths are columns: a letter of Chinese takes two, an escape sequence of colours none.

use console::measure_text_width;

/// Narrower terminals break lines by themselves: words would not fit.
const NARROWEST: usize = 40;

/// What further lines of a wrapped line have before them, besides what it has itself.
const INDENT: &str = "    ";

/// `lines`, each with its line end, wrapped by words to `width` columns; further lines are indented.
/// A word that is longer, such as a path, stays in one piece, and a number stays with its unit.
pub fn wrapped(lines: &str, width: usize) -> String {
    if width < NARROWEST {
        return lines.to_owned();
    }
    lines.split_inclusive('\n').map(|line| wrapped_line(line, width)).collect()
}

fn wrapped_line(line: &str, width: usize) -> String {
    let text = line.trim_start_matches(' ');
    let indent = &line[..line.len() - text.len()];
    let mut out = indent.to_owned();
    let mut column = indent.len();
    for (at, word) in pieces(text).enumerate() {
        let taken = measure_text_width(word.trim_end());
        if at > 0 && column + taken > width {
            out.truncate(out.trim_end_matches(' ').len());
            out.extend(["\n", indent, INDENT]);
            column = indent.len() + INDENT.len();
        }
        out.push_str(word);
        column += taken + (word.len() - word.trim_end_matches(' ').len());
    }
    out
}

/// The words of `text`, each with the blanks behind it; a number and the word behind it are one.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut was_number = false;
    text.split_inclusive(move |c: char| {
        let is_end = c == ' ' && !was_number;
        was_number = c.is_ascii_digit();
        is_end
    })
}

/// A command as `text`, in at most `room` columns: `sh -c 'echo …'`. Its end goes first.
pub fn shortened(text: &str, room: usize) -> String {
    if measure_text_width(text) <= room {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut column = 0;
    for c in text.chars() {
        column += measure_text_width(c.encode_utf8(&mut [0; 4]));
        // The dots, and a quote.
        if column + 2 > room {
            break;
        }
        out.push(c);
    }
    let is_quoted = out.matches('\'').count() % 2 == 1;
    out.push_str(if is_quoted { "…'" } else { "…" });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_by_words_and_long_words_stay_whole() {
        let text = "fastbuild: warning: the command could not write /a/very/long/path/that/is/longer/than/a/line here\n  \
                    caused by: something that takes more than one line\nshort\n";
        let expected = "fastbuild: warning: the command could
    not write
    /a/very/long/path/that/is/longer/than/a/line
    here
  caused by: something that takes more
      than one line
short
";
        assert_eq!(wrapped(text, 40), expected);
        let size = "fastbuild: make: 1.12 s, 2 files sent (1 MB)\n";
        assert_eq!(wrapped(size, 42), "fastbuild: make: 1.12 s, 2 files sent\n    (1 MB)\n");
        assert_eq!(wrapped(text, 200), text);
        assert_eq!(wrapped(text, 39), text, "too narrow");
    }

    #[test]
    fn columns_count_and_not_characters() {
        let words = "漢字漢字漢字 ".repeat(4);
        assert_eq!(wrapped(words.trim_end(), 40).lines().count(), 2);
        let dim = format!("\x1b[2m{}\x1b[0m", "x".repeat(40));
        assert_eq!(wrapped(&format!("{dim} y"), 42), format!("{dim} y"));
    }

    #[test]
    fn a_long_command_loses_its_end() {
        let command = "sh -c 'echo one; echo two'";
        assert_eq!(shortened(command, 26), command);
        assert_eq!(shortened(command, 25), "sh -c 'echo one; echo t…'");
        assert_eq!(shortened("make --directory=somewhere/else", 20), "make --directory=s…");
        assert!(measure_text_width(&shortened(&"漢".repeat(50), 21)) <= 21);
    }
}
