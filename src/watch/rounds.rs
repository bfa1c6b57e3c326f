//! Which watches a change came through, so that watches that trigger each other come to an end.
//!
//! Each watch keeps a file in the state directory, locked while it lives. It writes a line when one
//! of its builds begins, with the watches whose builds led to it since the user's last edit, and a
//! line when the build ends. A change that is dated within a build belongs to that build. So a
//! chain of watches, each using the products of the one before, goes on as long as the user edits.
//! A watch detects a circle when it is itself among the watches that led to its build.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Seek as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    entry::Timestamp,
    state::{self, State},
    sys::clock,
    tree::Entry,
};

/// How many builds without an edit by the user are done in a row.
pub(super) const MOST: usize = 3;

/// The watches whose builds led to a change, the first one first; empty when the user edited it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Through(Vec<String>);

/// A line of a watch's file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Began { at: Timestamp, through: Through },
    Ended { at: Timestamp },
}

/// A build of a watch.
#[derive(Debug)]
struct Round {
    began: Timestamp,
    /// `None` while it is running.
    ended: Option<Timestamp>,
    through: Through,
}

/// The rounds of one watch, in a file for the other watches.
pub(super) struct Rounds {
    id: String,
    path: PathBuf,
    file: File,
}

impl Rounds {
    /// Begins the rounds of a new watch.
    ///
    /// # Errors
    /// When the file cannot be made in the state directory.
    pub(super) fn begin(state: &State) -> io::Result<Rounds> {
        let directory = state.watches_dir();
        fs::create_dir_all(&directory)?;
        let id = state::random_id();
        let path = directory.join(&id);
        let file = File::create_new(&path)?;
        file.lock()?;
        Ok(Rounds { id, path, file })
    }

    /// The watches through whose builds these changes came.
    pub(super) fn led_to<'a>(&self, changed: impl Iterator<Item = &'a Entry>) -> Through {
        through(&self.others(), changed)
    }

    /// Whether this watch has triggered itself often enough.
    pub(super) fn is_circle(&self, through: &Through) -> bool {
        // The first one began with an edit by the user, or with the watch itself.
        through.0.iter().skip(1).filter(|id| **id == self.id).count() >= MOST
    }

    /// Records that a build begins, and which watches led to it.
    pub(super) fn build_begins(&mut self, through: &Through) {
        if through.0.is_empty() {
            // Lines from before an edit are not needed any more.
            let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
            self.warn_of(emptied);
        }
        let mut through = through.clone();
        through.0.push(self.id.clone());
        self.note(&Line::Began { at: clock::file_system_now(), through });
    }

    /// Records that the build has ended.
    pub(super) fn build_ended(&mut self) {
        self.note(&Line::Ended { at: clock::stamped_by_now() });
    }

    fn note(&mut self, line: &Line) {
        let noted = state::write_line(&mut self.file, line);
        self.warn_of(noted);
    }

    fn warn_of(&self, noted: io::Result<()>) {
        if let Err(error) = noted {
            // Other watches will take its products for edits by the user.
            tracing::warn!(path = ?self.path, %error, "could not write what this watch builds");
        }
    }

    fn others(&self) -> Vec<Round> {
        let files = self.path.parent().and_then(|directory| fs::read_dir(directory).ok());
        let paths = files.into_iter().flatten().flatten().map(|file| file.path());
        paths.filter(|path| *path != self.path).flat_map(|path| rounds_in(&path)).collect()
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        // At worst it stays, and the next watch removes it.
        let _ = fs::remove_file(&self.path);
    }
}

/// The rounds of a live watch; a dead one's file is removed. An empty file may be about to be
/// locked.
fn rounds_in(path: &Path) -> Vec<Round> {
    let (Ok(file), Ok(lines)) = (File::open(path), fs::read(path)) else { return Vec::new() };
    if !lines.is_empty() && !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        let _ = fs::remove_file(path);
        return Vec::new();
    }
    let mut rounds: Vec<Round> = Vec::new();
    for line in state::parse_lines(&lines) {
        match line {
            Line::Began { at, through } => rounds.push(Round { began: at, ended: None, through }),
            Line::Ended { at } => rounds.iter_mut().for_each(|round| _ = round.ended.get_or_insert(at)),
        }
    }
    rounds
}

/// The longest chain of watches to any of the changes; empty when one of them is an edit by the
/// user. Deleted paths have no date, and are attributed like the others.
fn through<'a>(rounds: &[Round], changed: impl Iterator<Item = &'a Entry>) -> Through {
    let mut longest = Through::default();
    for entry in changed {
        let at = entry.stamp.ctime;
        let during = |round: &&Round| round.began <= at && round.ended.is_none_or(|ended| at <= ended);
        let Some(led) =
            rounds.iter().filter(during).map(|round| &round.through).max_by_key(|led| led.0.len())
        else {
            return Through::default();
        };
        if led.0.len() > longest.0.len() {
            longest = led.clone();
        }
    }
    longest
}
