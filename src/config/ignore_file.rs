//! `.fastbuildignore`, else `.dockerignore` -> patterns with their lines. Which lines count and what a pattern means is
//! decided in [`crate::tree::ignore`].

use std::{io, path::Path};

use fs_err as fs;

use super::ConfigError;
use crate::{
    plan::{Decision, Reason},
    tree::ignore,
};

/// The files, the first that exists is read.
const NAMES: [&str; 2] = [".fastbuildignore", ".dockerignore"];

/// The patterns of the source root's ignore file, none without one.
///
/// # Errors
/// When the file is there and cannot be read, or a pattern is not UTF-8: going on would send what should stay here.
pub fn read(source: &Path) -> Result<Vec<Decision<String>>, ConfigError> {
    for name in NAMES {
        let path = source.join(name);
        match fs::read(&path) {
            Ok(bytes) => return parse(&path, &bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(ConfigError::Unreadable { what: "the ignore file", error }),
        }
    }
    Ok(Vec::new())
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Decision<String>>, ConfigError> {
    let mut patterns = Vec::new();
    for (number, line) in ignore::lines(bytes) {
        let place = || format!("{}:{number}", path.to_string_lossy());
        let pattern = str::from_utf8(line).map_err(|_| ConfigError::NotUtf8 { what: place() })?.trim();
        if !pattern.is_empty() {
            let reason = Reason::File { path: path.to_owned(), line: Some(number) };
            patterns.push(Decision { value: pattern.to_owned(), reason });
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
        let patterns = parse(Path::new("/p/.dockerignore"), text).unwrap();
        let shown: Vec<_> = patterns
            .iter()
            .map(|pattern| match &pattern.reason {
                Reason::File { line, .. } => (line.unwrap(), pattern.value.as_str()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(shown, [(3, "a b"), (4, "#x"), (5, "!y")]);
    }

    #[test]
    fn a_pattern_that_is_no_text_is_an_error_with_its_line() {
        let error = parse(Path::new("/p/.dockerignore"), b"a\n\xff").unwrap_err();
        assert!(error.to_string().contains("/p/.dockerignore:2"), "{error}");
    }

    #[test]
    fn fastbuilds_own_file_is_read_in_place_of_dockers() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".dockerignore"), "theirs").unwrap();
        assert_eq!(read(dir.path()).unwrap()[0].value, "theirs");
        fs::write(dir.path().join(".fastbuildignore"), "").unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
    }
}
