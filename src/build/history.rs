//! Which paths were sent, came back and were deleted, when, and for which command: a line in the
//! project's state for each build that moved any. For `fastbuild why` only; no build reads it.

use std::{collections::HashSet, fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::warm::upload::Sources;
use crate::{
    entry::Timestamp,
    outputs::{
        apply::Staged,
        ops::{Action, PathText},
    },
    state::{Project, append_line, read_lines, replace_file},
    sys::metadata,
    text::shell_words,
};

/// How many paths a line names at most.
const MOST_NAMED: usize = 5_000;

/// The size from which the older half of the lines is deleted, in bytes.
const LONGEST: u64 = 8 << 20;

/// How a path moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Travel {
    /// It was sent to the workspace.
    Up,
    /// It came back.
    Down,
    /// It was deleted here.
    Deleted,
}

/// Paths of one build that moved in the same way: below the source root, or absolute.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Moved {
    travel: Travel,
    paths: Vec<PathText>,
    /// How many more there were.
    more: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    at: Timestamp,
    command: String,
    #[serde(flatten)]
    moved: Moved,
}

/// The last time that a path moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trip {
    /// When.
    pub at: Timestamp,
    /// The build's command.
    pub command: String,
    /// How certain that is.
    pub named: Named,
}

/// See [`Trip::named`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// The path was noted.
    Itself,
    /// This many were not noted, and the path may be one of them.
    Among(u64),
}

impl Moved {
    fn of<T>(travel: Travel, mut all: impl Iterator<Item = T>, name: impl Fn(T) -> Vec<u8>) -> Moved {
        let named = all.by_ref().take(MOST_NAMED);
        let paths = named.map(|one| PathText::from(name(one).as_slice())).collect();
        Moved { travel, paths, more: all.count() as u64 }
    }

    /// The sent paths.
    pub(super) fn up(sources: &Sources) -> Moved {
        let sent = sources.scan.manifest.entries().iter().zip(&sources.sent).filter(|(_, sent)| **sent);
        Moved::of(Travel::Up, sent, |(entry, _)| entry.path.as_bytes().to_owned())
    }

    /// The paths that steps bring back, and those that they delete.
    pub(super) fn down(staged: &[Staged], source: &Path) -> [Moved; 2] {
        let deletes = |action: &Action| {
            matches!(action, Action::Delete { .. } | Action::Remove { .. } | Action::RemoveDir { .. })
        };
        [(Travel::Down, false), (Travel::Deleted, true)].map(|(travel, is_meant)| {
            let steps = staged.iter().flat_map(|output| output.ops.iter().map(move |op| (output, op)));
            let meant = steps.filter(|(_, op)| deletes(&op.action) == is_meant);
            Moved::of(travel, meant, |(output, op)| name_of(&output.target.absolute(&op.path), source))
        })
    }

    /// Notes them for a build's command, with the present time.
    pub(super) fn note(self, project: &Project, command: &[String]) {
        if self.paths.is_empty() {
            return;
        }
        let path = project.history_path();
        let line = Line { at: metadata::now(), command: shell_words(command), moved: self };
        if let Err(error) = shorten(&path).and_then(|()| append_line(&path, &line)) {
            tracing::warn!(?path, %error, "could not note what a build moved");
        }
    }
}

fn shorten(path: &Path) -> io::Result<()> {
    if !fs::metadata(path).is_ok_and(|file| file.len() > LONGEST) {
        return Ok(());
    }
    let text = fs::read(path)?;
    let half = &text[text.len() / 2..];
    let whole = half.iter().position(|byte| *byte == b'\n').map_or(half.len(), |end| end + 1);
    replace_file(path, |out| out.write_all(&half[whole..]))
}

/// The name of a path: relative to the source root where it lies below it, else absolute.
fn name_of(path: &Path, source: &Path) -> Vec<u8> {
    let names = |below: &Path| {
        below.components().map(|name| name.as_os_str().as_encoded_bytes()).collect::<Vec<_>>().join(&b'/')
    };
    path.strip_prefix(source).map_or_else(|_| path.as_os_str().as_encoded_bytes().to_owned(), names)
}

/// The paths below the source root that builds deleted since then.
pub(super) fn deleted_since(project: &Project, moment: Timestamp) -> HashSet<Box<[u8]>> {
    let lines: Vec<Line> = read_lines(&project.history_path()).unwrap_or_default();
    let is_meant = |line: &Line| line.moved.travel == Travel::Deleted && line.at >= moment;
    lines.into_iter().filter(is_meant).flat_map(|line| line.moved.paths).map(PathText::into_bytes).collect()
}

/// The last time that `travel` happened to the path, which is absolute.
///
/// # Errors
/// When the state directory cannot be read.
pub fn last(project: &Project, source: &Path, path: &Path, travel: Travel) -> io::Result<Option<Trip>> {
    let name = name_of(path, source);
    let lines: Vec<Line> = read_lines(&project.history_path())?;
    let trip = |Line { at, command, moved }: Line| {
        let is_it = moved.paths.into_iter().any(|path| *path.into_bytes() == *name);
        let named = match (is_it, moved.more) {
            (true, _) => Named::Itself,
            (false, 0) => return None,
            (false, more) => Named::Among(more),
        };
        Some(Trip { at, command, named })
    };
    Ok(lines.into_iter().rev().filter(|line| line.moved.travel == travel).find_map(trip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;

    #[test]
    fn the_last_time_is_told_and_what_was_not_named_is_told_as_a_guess() {
        let home = tempfile::tempdir().unwrap();
        let source = Path::new("/src");
        let project = State::open(home.path().join("state")).unwrap().project(source).unwrap();
        let many = Moved::of(Travel::Up, 0..=MOST_NAMED, |n| format!("many/{n}").into_bytes());
        let some = |names: &[&[u8]]| Moved::of(Travel::Down, names.iter(), |name| name.to_vec());
        many.note(&project, &[]);
        some(&[b"out/\xff", b"/else/where"]).note(&project, &["make".to_owned()]);
        some(&[]).note(&project, &[]);
        let named = |path: &str, travel| {
            last(&project, source, Path::new(path), travel).unwrap().map(|trip| trip.named)
        };
        assert_eq!(named("/src/many/7", Travel::Up), Some(Named::Itself));
        assert_eq!(named("/src/other", Travel::Up), Some(Named::Among(1)));
        assert_eq!(named("/src/other", Travel::Down), None);
        let trip = last(&project, source, Path::new("/else/where"), Travel::Down).unwrap().unwrap();
        assert_eq!((trip.named, &*trip.command), (Named::Itself, "make"));
        #[cfg(unix)]
        {
            let odd = std::os::unix::ffi::OsStrExt::from_bytes(b"/src/out/\xff");
            let odd = Path::new::<std::ffi::OsStr>(odd);
            assert!(last(&project, source, odd, Travel::Down).unwrap().is_some());
        }
    }

    #[test]
    fn the_older_half_goes_when_it_has_become_long() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        let line = "x".repeat(1 << 20) + "\n";
        fs::write(&file, line.repeat(9)).unwrap();
        shorten(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 4);
    }
}
