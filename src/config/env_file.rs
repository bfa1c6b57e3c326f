//! `--env-file`: docker's format -> words in the form that `--env` takes.
//!
//! A line is `NAME=VALUE`, taken literally (quotes and trailing blanks too), or `NAME`, which means
//! this machine's value. Lines that begin with `#` are comments.

/// A problem with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// The bytes are not valid text.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// `A B=1`
    #[error("the name {0:?} holds white space")]
    Blank(String),
    /// `=1`
    #[error("there is no name before `=`")]
    NoName,
}

/// The words with their line numbers, from 1.
///
/// # Errors
/// The first bad line.
pub fn parse(bytes: &[u8]) -> Result<Vec<(usize, String)>, (usize, BadLine)> {
    let mut words = Vec::new();
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    for (at, line) in text.split(|&b| b == b'\n').enumerate() {
        match parse_line(line) {
            Ok(Some(word)) => words.push((at + 1, word)),
            Ok(None) => {}
            Err(bad) => return Err((at + 1, bad)),
        }
    }
    Ok(words)
}

fn parse_line(line: &[u8]) -> Result<Option<String>, BadLine> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = str::from_utf8(line).map_err(|_| BadLine::NotUtf8)?.trim_start();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, has_value) = line.split_once('=').map_or((line, false), |(name, _)| (name, true));
    let name = if has_value { name } else { name.trim_end() };
    if name.is_empty() {
        return Err(BadLine::NoName);
    }
    if name.contains(char::is_whitespace) {
        return Err(BadLine::Blank(name.to_owned()));
    }
    Ok(Some(if has_value { line } else { name }.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_docker_reads_them() {
        let text = b"\xef\xbb\xbf# comment\n\nA=1\r\n  B = no\n";
        assert_eq!(parse(text), Err((4, BadLine::Blank("B ".into()))));
        let text = b"A=\"q\" \n  # indented\nHOST \nC=x=y#z\nD=";
        let words = [(1, "A=\"q\" ".to_owned()), (3, "HOST".into()), (4, "C=x=y#z".into()), (5, "D=".into())];
        assert_eq!(parse(text), Ok(words.to_vec()));
        assert_eq!(parse(b"=1"), Err((1, BadLine::NoName)));
        assert_eq!(parse(b"a=1\nb=\xff"), Err((2, BadLine::NotUtf8)));
    }
}
