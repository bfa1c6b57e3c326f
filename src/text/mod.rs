//! Text from outside -> text that is safe to show. Pure.
//!
//! File names, engine messages and layer ids come from outside. Every byte that a renderer for
//! people prints passes through here: control characters (escape sequences begin with one) and
//! characters that reorder or break lines come out as `\u{…}`, so that no text can move the cursor,
//! forge a line or reverse a name.

pub mod numbers;
#[cfg(feature = "client")]
pub mod table;
#[cfg(feature = "client")]
pub mod wrap;

use std::fmt;

/// The limits of one text: more does not help, and a hostile engine could send megabytes.
const MOST_CHARS: usize = 4_000;
const MOST_LINES: usize = 25;

/// On one line: line ends are escaped like all control characters.
pub fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_harmless(&mut out, text);
    out
}

/// Line ends stay; further lines are indented, so that they cannot look like fastbuild's own.
pub fn indented(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, line) in text.trim_end().lines().enumerate() {
        if at == MOST_LINES {
            out.push_str("\n    …");
            break;
        }
        if at > 0 {
            out.push_str("\n    ");
        }
        push_harmless(&mut out, line);
    }
    out
}

/// A command as a user could type it: words that a shell would split are quoted.
pub fn shell_words(words: &[String]) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,@%+".contains(c);
    let quote = |word: &String| {
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

fn push_harmless(out: &mut String, text: &str) {
    for (at, c) in text.chars().enumerate() {
        match c {
            _ if at == MOST_CHARS => return out.push('…'),
            '\t' => out.push(' '),
            c if is_dangerous(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
}

/// Whether a terminal or a reader would not take `c` as a letter of the text: control characters,
/// which begin escape sequences, and characters that reorder or break lines.
pub fn is_dangerous(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Bytes for people: valid UTF-8 unchanged, dangerous characters and the rest as `\xNN` or `\u{…}`.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if is_dangerous(c) || c == '\\' {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    write!(f, "{c}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_the_cursor_or_turns_text_around_gets_through() {
        let cases = [
            ("plain – ünïcode 漢字", "plain – ünïcode 漢字"),
            ("a\x1b[2Jb", "a\\u{1b}[2Jb"),
            ("a\rb\nc\td", "a\\rb\\nc d"),
            ("c1 \u{9b}31m del \u{7f}", "c1 \\u{9b}31m del \\u{7f}"),
            ("gpj.\u{202e}exe \u{2028}", "gpj.\\u{202e}exe \\u{2028}"),
            ("C:\\dir", "C:\\dir"),
        ];
        for (given, shown) in cases {
            assert_eq!(one_line(given), shown);
        }
    }

    #[test]
    fn a_second_line_cannot_pass_for_a_line_of_fastbuild() {
        let forged = "no such image\r\nfastbuild: error: all is lost\n\n";
        assert_eq!(indented(forged), "no such image\n    fastbuild: error: all is lost");
    }

    #[test]
    fn endless_text_is_cut() {
        assert!(one_line(&"x".repeat(100_000)).chars().count() <= MOST_CHARS + 1);
        assert_eq!(indented(&"x\n".repeat(100_000)).lines().count(), MOST_LINES + 1);
    }
}
