//! `.fastbuildignore` -> patterns with their line numbers. [`crate::tree::ignore`] decides which
//! lines count and what a pattern means. `.dockerignore` is not read: it is written for images, and
//! hides files that builds need.

use std::{io, path::Path};

use fs_err as fs;

use super::ConfigError;
use crate::{
    spec::{Decision, Pattern, PatternKind, Reason},
    tree::ignore,
};

/// The file's name.
pub const NAME: &str = ".fastbuildignore";

/// The patterns of the source root's ignore file. Empty when there is no file.
///
/// # Errors
/// When the file cannot be read, or a pattern is not UTF-8. To continue could send excluded files.
pub fn read(source: &Path) -> Result<Vec<Decision<Pattern>>, ConfigError> {
    let path = source.join(NAME);
    match fs::read(&path) {
        Ok(bytes) => parse(&path, &bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(ConfigError::Unreadable { what: "the ignore file", error }),
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Decision<Pattern>>, ConfigError> {
    let mut patterns = Vec::new();
    for (number, line) in ignore::lines(bytes) {
        let place = || format!("{}:{number}", path.to_string_lossy());
        let pattern = str::from_utf8(line).map_err(|_| ConfigError::NotUtf8 { what: place() })?.trim();
        if !pattern.is_empty() {
            let reason = Reason::File { path: path.to_owned(), line: Some(number) };
            let value = Pattern { text: pattern.to_owned(), kind: PatternKind::Excluded };
            patterns.push(Decision { value, reason });
        }
    }
    Ok(patterns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_blank_lines_are_no_patterns_and_lines_are_kept() {
        let text = b"\xef\xbb\xbf# c\n\n  a b \r\n #x\n!y\n";
        let patterns = parse(Path::new("/p/.fastbuildignore"), text).unwrap();
        let shown: Vec<_> = patterns
            .iter()
            .map(|pattern| match &pattern.reason {
                Reason::File { line, .. } => (line.unwrap(), pattern.value.text.as_str()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(shown, [(3, "a b"), (4, "#x"), (5, "!y")]);
    }

    #[test]
    fn a_pattern_that_is_no_text_is_an_error_with_its_line() {
        let error = parse(Path::new("/p/.fastbuildignore"), b"a\n\xff").unwrap_err();
        assert!(error.to_string().contains("/p/.fastbuildignore:2"), "{error}");
    }

    #[test]
    fn dockers_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".dockerignore"), "theirs").unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
        fs::write(dir.path().join(NAME), "ours").unwrap();
        assert_eq!(read(dir.path()).unwrap()[0].value.text, "ours");
    }
}
