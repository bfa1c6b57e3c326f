//! Paths inside a container, as text for the engine's API. Pure and lexical; follows no links.

use std::fmt;

use crate::entry::RelPath;

/// An absolute path without `.`, `..` or empty components.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContainerPath {
    /// `C:` on Windows, else empty.
    drive: String,
    components: Vec<String>,
}

/// There are more `..` than directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AboveRoot;

impl ContainerPath {
    /// Parses an absolute path, Windows paths too; `None` when the path is relative.
    pub(super) fn absolute(text: &str) -> Option<Result<ContainerPath, AboveRoot>> {
        let (drive, tail) = match drive(text) {
            Some(drive) => (drive, &text[drive.len()..]),
            None => ("", text),
        };
        if drive.is_empty() && !text.starts_with('/') {
            return None;
        }
        let root = ContainerPath { drive: drive.to_owned(), components: Vec::new() };
        Some(root.join(tail))
    }

    /// The path that `relative` leads to from here.
    pub(super) fn join(&self, relative: &str) -> Result<ContainerPath, AboveRoot> {
        let mut joined = self.clone();
        let windows = !self.drive.is_empty();
        for component in relative.split(|c| c == '/' || (windows && c == '\\')) {
            match component {
                "" | "." => {}
                ".." => {
                    joined.components.pop().ok_or(AboveRoot)?;
                }
                name => joined.components.push(name.to_owned()),
            }
        }
        Ok(joined)
    }

    /// `below` joined to this path; a component that is not UTF-8 is converted to text.
    pub(super) fn descend(&self, below: &RelPath) -> ContainerPath {
        let mut joined = self.clone();
        joined.components.extend(below.components().map(|name| String::from_utf8_lossy(name).into_owned()));
        joined
    }

    pub(super) fn is_root(&self) -> bool {
        self.components.is_empty()
    }

    pub(super) fn file_name(&self) -> Option<&str> {
        self.components.last().map(String::as_str)
    }

    /// The part below `base`; `None` when this path is not below it.
    pub(super) fn below(&self, base: &ContainerPath) -> Option<RelPath> {
        let tail = self.components.strip_prefix(base.components.as_slice())?;
        let same_drive = self.drive.eq_ignore_ascii_case(&base.drive);
        RelPath::new(tail.join("/").into_bytes()).ok().filter(|_| same_drive)
    }
}

/// `C:` of `C:\x` and `C:/x`.
fn drive(text: &str) -> Option<&str> {
    let [letter, b':', b'/' | b'\\', ..] = text.as_bytes() else { return None };
    letter.is_ascii_alphabetic().then(|| &text[..2])
}

/// With `/` between components, which Windows engines take as well.
impl fmt::Display for ContainerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.drive, self.components.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn absolute(text: &str) -> String {
        ContainerPath::absolute(text).unwrap().unwrap().to_string()
    }

    #[test]
    fn paths_are_made_plain() {
        let cases = [
            ("/", "/"),
            ("//a/./b//", "/a/b"),
            ("/a/../b", "/b"),
            (r"C:\src\..\out", "C:/out"),
            ("c:/x", "c:/x"),
            (r"/a\b", r"/a\b"),
        ];
        for (text, plain) in cases {
            assert_eq!(absolute(text), plain);
        }
        assert_eq!(ContainerPath::absolute("/.."), Some(Err(AboveRoot)));
        assert_eq!(ContainerPath::absolute("a/b"), None);
        assert_eq!(ContainerPath::absolute("C:x"), None);
    }

    #[test]
    fn below_ends_at_components() {
        let base = ContainerPath::absolute("/work").unwrap().unwrap();
        let below =
            |text: &str| ContainerPath::absolute(text).unwrap().unwrap().below(&base).map(|p| p.to_string());
        assert_eq!(below("/work/a/b").as_deref(), Some("a/b"));
        assert_eq!(below("/work").as_deref(), Some("."));
        assert_eq!(below("/workspace"), None);
        assert_eq!(below("C:/work/a"), None);
    }
}
