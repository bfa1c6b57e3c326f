//! Relative paths as bytes, and the order in which trees are kept and compared.
//!
//! File names are bytes in a container and on Linux; nothing in a tree is converted to UTF-8. A
//! [`RelPath`] cannot express an escape: no empty, `.` or `..` component, no leading slash, no NUL.
//! So it can be joined below a directory handle without another check.

use crate::text::Escaped;
use std::{cmp::Ordering, fmt, sync::Arc};

/// A path below some root, `/` between components, in bytes. The empty path is the root itself.
///
/// Cheap to clone: a large tree's paths are held by its manifest, its steps and its record at once.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RelPath(Arc<[u8]>);

/// Why bytes are not a [`RelPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// It begins with `/`.
    #[error("it is absolute")]
    Absolute,
    /// It contains a `..` component.
    #[error("it holds a \"..\" component")]
    ParentDir,
    /// It contains a `.` component or two slashes in a row.
    #[error("it holds an empty or \".\" component")]
    EmptyComponent,
    /// It contains a NUL byte, which no file system can store.
    #[error("it holds a NUL byte")]
    Nul,
}

impl RelPath {
    /// The root itself.
    pub fn root() -> RelPath {
        RelPath::default()
    }

    /// Checks the bytes; they are not changed.
    ///
    /// # Errors
    /// The rule of the module's header that the bytes break.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Result<RelPath, BadPath> {
        let bytes: Arc<[u8]> = bytes.into();
        if !bytes.is_empty() {
            check(&bytes)?;
        }
        Ok(RelPath(bytes))
    }

    /// The child `name` of this path.
    ///
    /// # Errors
    /// As [`RelPath::new`]; a name with a slash in it becomes several components.
    pub fn join(&self, name: &[u8]) -> Result<RelPath, BadPath> {
        if self.is_root() {
            return RelPath::new(name);
        }
        check(name)?;
        // The length is known from the start, so this allocates once.
        Ok(RelPath(self.0.iter().chain(b"/").chain(name).copied().collect()))
    }

    /// `self` with `tail` appended.
    pub fn append(&self, tail: &RelPath) -> RelPath {
        match (self.is_root(), tail.is_root()) {
            (true, _) => tail.clone(),
            (_, true) => self.clone(),
            _ => RelPath([&self.0, b"/".as_slice(), &tail.0].concat().into()),
        }
    }

    /// The rest of `self` below `base`; `None` when it is not below. `base` itself gives the root.
    pub fn strip_prefix(&self, base: &RelPath) -> Option<RelPath> {
        if base.is_root() {
            return Some(self.clone());
        }
        let tail = self.0.strip_prefix(&*base.0)?;
        match tail {
            [] => Some(RelPath::root()),
            [b'/', rest @ ..] => Some(RelPath(rest.into())),
            _ => None,
        }
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components from the top down; empty for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|c| !c.is_empty())
    }

    /// The path without its last component; `None` for the root.
    pub fn parent(&self) -> Option<RelPath> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|&b| b == b'/').unwrap_or(0);
        Some(RelPath(self.0[..end].into()))
    }

    /// The last component; `None` for the root.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }
}

/// Checks that these bytes are a path other than the root.
fn check(bytes: &[u8]) -> Result<(), BadPath> {
    if bytes.first() == Some(&b'/') {
        return Err(BadPath::Absolute);
    }
    for component in bytes.split(|&b| b == b'/') {
        match component {
            b"" | b"." => return Err(BadPath::EmptyComponent),
            b".." => return Err(BadPath::ParentDir),
            _ if component.contains(&0) => return Err(BadPath::Nul),
            _ => {}
        }
    }
    Ok(())
}

/// The order of every manifest: component by component. So a directory comes right before all its
/// content, and a merge of two sorted trees meets a removed directory before its children.
///
/// Comparing whole strings would put `a-b` between `a` and `a/x`, because `-` sorts before `/`.
pub fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let diff = a.iter().zip(b).position(|(x, y)| x != y);
    match diff {
        None => a.len().cmp(&b.len()),
        Some(at) => match (a[at], b[at]) {
            (b'/', _) => Ordering::Less,
            (_, b'/') => Ordering::Greater,
            (x, y) => x.cmp(&y),
        },
    }
}

impl Ord for RelPath {
    fn cmp(&self, other: &RelPath) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &RelPath) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// For messages: control characters and invalid UTF-8 are escaped, so that a name cannot move the
/// cursor or forge a line of the report.
impl RelPath {
    /// For a message: the path, or the beginning and the length of a very long one.
    pub fn brief(&self) -> String {
        const SHOWN: usize = 200;
        match self.0.len() {
            ..=SHOWN => self.to_string(),
            length => format!("{}… ({length} bytes)", Escaped(&self.0[..SHOWN])),
        }
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str(".") } else { fmt::Display::fmt(&Escaped(&self.0), f) }
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// For programs: the escaped form, equal to a path without control characters or backslashes.
impl serde::Serialize for RelPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use crate::{entry::path::*, text::Escaped};

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_could_escape_is_no_path() {
        let cases: [(&[u8], BadPath); 7] = [
            (b"/etc", BadPath::Absolute),
            (b"../x", BadPath::ParentDir),
            (b"a/../../x", BadPath::ParentDir),
            (b"a//b", BadPath::EmptyComponent),
            (b"./a", BadPath::EmptyComponent),
            (b"a/", BadPath::EmptyComponent),
            (b"a\0b", BadPath::Nul),
        ];
        for (bytes, why) in cases {
            assert_eq!(RelPath::new(bytes), Err(why), "{}", Escaped(bytes));
        }
    }

    #[test]
    fn a_directory_comes_right_before_what_lies_in_it() {
        let mut paths = [path("a-b"), path("a/x"), path("a"), path("a/x/y"), path("a.b"), path("b")];
        paths.sort();
        let shown: Vec<_> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["a", "a/x", "a/x/y", "a-b", "a.b", "b"]);
    }

    #[test]
    fn prefixes_end_at_components() {
        assert_eq!(path("a/b").strip_prefix(&path("a")), Some(path("b")));
        assert_eq!(path("ab").strip_prefix(&path("a")), None);
        assert_eq!(path("a").strip_prefix(&path("a")), Some(RelPath::root()));
        assert_eq!(path("a").parent(), Some(RelPath::root()));
        assert_eq!(path("a/b/c").parent(), Some(path("a/b")));
    }

    #[test]
    fn names_cannot_forge_a_line_of_the_report() {
        let hostile = RelPath::new(b"a\n\x1b[2Jb\xff".as_slice()).unwrap();
        assert_eq!(hostile.to_string(), "a\\n\\u{1b}[2Jb\\xff");
    }
}
