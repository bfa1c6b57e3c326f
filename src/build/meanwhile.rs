//! Sources that were changed here while a command ran. The command may have read the version before, and what it made of that is
//! younger than the edit; so the next builds are shown a later mtime, until one has succeeded with it. On a mount the tool would have
//! read the edit itself, or seen it as later than its product. The files here are not touched.
//!
//! In: for each build, from when to when it was blind: from its look at the tree to the end of its command. Out: the mtimes of a scan's
//! entries. When a file was last changed is its ctime's to tell. Doing too much is right, too little is not.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::Exit;
use crate::{
    state::{append_line, read_lines, replace_lines},
    sys::clock::{self, Granularity},
    tree::{Kind, Manifest, Timestamp, scan::Scan},
};

/// When a build did not see what was changed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Blind {
    from: Timestamp,
    until: Timestamp,
}

/// How a command came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// What it saw is built.
    Well,
    /// Who comes next is shown the same again.
    Badly,
}

impl From<Exit> for Came {
    fn from(exit: Exit) -> Came {
        if exit.code() == 0 { Came::Well } else { Came::Badly }
    }
}

/// A build that looks at its sources, and later ends.
#[derive(Debug)]
pub(super) struct Watcher {
    place: PathBuf,
    earlier: Vec<Blind>,
    looked_at: Timestamp,
}

impl Watcher {
    /// Shows what was changed while earlier builds' commands ran as later than all that they made. `place` is the project's list of
    /// those.
    pub(super) fn show(place: PathBuf, scan: &mut Scan, root: &Path) -> Watcher {
        let earlier: Vec<Blind> = read_lines(&place).unwrap_or_default();
        if !earlier.is_empty() {
            // Where this machine's clock stamps changes, one that comes after the look is never stamped earlier.
            let blur = match Granularity::of(root) {
                Granularity::Tick => Duration::ZERO,
                Granularity::Coarse => Granularity::Coarse.span(),
            };
            let mut entries = std::mem::take(&mut scan.manifest).into_entries();
            for entry in entries.iter_mut().filter(|entry| entry.kind != Kind::Directory) {
                let changed = entry.stamp.ctime;
                let blind = earlier
                    .iter()
                    .filter(|blind| blind.from.before_by(blur) <= changed && changed <= blind.until);
                entry.mtime = blind.map(|blind| blind.until).fold(entry.mtime, Timestamp::max);
            }
            scan.manifest = Manifest::from_entries(entries);
        }
        Watcher { place, earlier, looked_at: scan.looked_at }
    }

    /// Notes that the command has ended, now.
    pub(super) fn ended(&self, came: Came) {
        if let Err(error) = self.note(came) {
            tracing::warn!(path = ?self.place, %error, "could not note when a build did not see its sources");
        }
    }

    fn note(&self, came: Came) -> io::Result<()> {
        let own = Blind { from: self.looked_at, until: clock::stamped_by_now() };
        match came {
            // Builds that ran beside this one may have written too; those that it saw are done with.
            Came::Well => {
                let mut all: Vec<Blind> = read_lines(&self.place)?;
                all.retain(|blind| !self.earlier.contains(blind));
                all.push(own);
                replace_lines(&self.place, &all)
            }
            Came::Badly => append_line(&self.place, &own),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::tree::{
        ignore::Rules,
        scan::{ScanOptions, scan},
    };

    fn look(root: &Path) -> Scan {
        scan(root, &ScanOptions { rules: &Rules::none(), leave_out: &[], progress: &|_| () }).unwrap()
    }

    #[test]
    fn what_was_changed_while_a_command_ran_is_shown_as_later_until_a_build_succeeds_with_it() {
        let (home, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = || home.path().join("edits");
        let file = root.path().join("file");
        let show = |scan: &mut Scan| Watcher::show(place(), scan, root.path());
        let first = show(&mut look(root.path()));
        std::fs::write(&file, "edited").unwrap();
        File::open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        first.ended(Came::Well);

        let mut seen = look(root.path());
        let second = show(&mut seen);
        assert!(seen.manifest.entries()[0].mtime > first.looked_at);
        second.ended(Came::Badly);
        let mut seen = look(root.path());
        let mut third = show(&mut seen);
        assert!(seen.manifest.entries()[0].mtime > first.looked_at);
        // As if it had come later.
        third.looked_at.secs += 60;
        third.ended(Came::Well);
        let mut seen = look(root.path());
        show(&mut seen);
        assert_eq!(seen.manifest.entries()[0].mtime, Timestamp::default());
    }

    #[test]
    fn a_build_beside_another_one_does_not_take_away_what_that_one_did_not_see() {
        let (home, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let watcher = || Watcher::show(home.path().join("edits"), &mut look(root.path()), root.path());
        let (one, other) = (watcher(), watcher());
        one.ended(Came::Well);
        other.ended(Came::Well);
        assert_eq!(watcher().earlier.len(), 2);
    }
}
