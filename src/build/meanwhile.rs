//! Sources that were changed here while a command ran. The command may have read the version before, and what it made of that is
//! younger than the edit; so the next builds are shown a later mtime, until one has succeeded with it. On a mount the tool would have
//! read the edit itself, or seen it as later than its product. The files here are not touched.
//!
//! In: for each build, from when to when it was blind: from its look at the tree to the end of its command. Out: the mtimes of a scan's
//! entries. When a file was last changed is its ctime's to tell. Doing too much is right, too little is not.
//!
//! A file below a directory that was renamed keeps its ctime. It is known by its path, which the index of what was seen last does
//! not have, and by a directory above it that changed in that time and of which the index has nothing. The next look writes the index,
//! so what is found is noted at once.

use std::{
    cell::LazyCell,
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    state::{append_line, read_lines, replace_lines},
    sys::clock::{self, Granularity},
    tree::{Entry, Kind, Manifest, Stamp, Timestamp, index::Index, scan::Scan},
};

/// When a build did not see what was changed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Blind {
    from: Timestamp,
    /// None while the command runs.
    until: Option<Timestamp>,
    /// The inode of a directory that was renamed in that time: what lies below it is meant, and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moved: Option<u64>,
}

/// A build that looks at its sources, and later ends.
#[derive(Debug)]
pub(super) struct Watcher {
    place: PathBuf,
    /// What was noted when this build looked.
    noted: Vec<Blind>,
    looked_at: Timestamp,
}

impl Watcher {
    /// Shows what was changed while earlier builds' commands ran as later than all that they made. `place` is the project's list of
    /// those, `index` what the latest of them saw.
    pub(super) fn show(place: PathBuf, scan: &mut Scan, root: &Path, index: &Index) -> Watcher {
        let noted: Vec<Blind> = read_lines(&place).unwrap_or_default();
        let mut watcher = Watcher { noted, place, looked_at: scan.looked_at };
        let earlier = ended(&watcher.noted, scan.looked_at);
        if !earlier.is_empty() {
            // Where this machine's clock stamps changes, one that comes after the look is never stamped earlier.
            let blur = match Granularity::of(root) {
                Granularity::Tick => Duration::ZERO,
                Granularity::Coarse => Granularity::Coarse.span(),
            };
            let (later, moved) = later(&scan.manifest, &earlier, blur, index);
            // Before anybody writes the index.
            watcher.note(&moved);
            watcher.noted.extend(moved);
            let mut entries = std::mem::take(&mut scan.manifest).into_entries();
            for (at, entry) in
                entries.iter_mut().enumerate().filter(|(_, entry)| entry.kind != Kind::Directory)
            {
                entry.mtime =
                    later.get(&file_of(at, entry)).copied().map_or(entry.mtime, |time| time.max(entry.mtime));
            }
            scan.manifest = Manifest::from_entries(entries);
        }
        // A build that is killed notes nothing at its end.
        watcher.note(&[watcher.own(None)]);
        watcher
    }

    fn own(&self, until: Option<Timestamp>) -> Blind {
        Blind { from: self.looked_at, until, moved: None }
    }

    /// Notes that the command has ended, now.
    pub(super) fn ended(&self) {
        self.note(&[self.own(Some(clock::stamped_by_now()))]);
    }

    fn note(&self, blind: &[Blind]) {
        self.tell(blind.iter().try_for_each(|blind| append_line(&self.place, blind)));
    }

    /// Notes that what the command saw is built, and its products are in place. Builds that ran beside this one may have noted
    /// something too; what this one saw is done with.
    pub(super) fn built(&self) {
        let left = read_lines(&self.place).and_then(|mut all: Vec<Blind>| {
            all.retain(|blind| !self.noted.contains(blind) && *blind != self.own(None));
            replace_lines(&self.place, &all)
        });
        self.tell(left);
    }

    fn tell(&self, noted: io::Result<()>) {
        if let Err(error) = noted {
            tracing::warn!(path = ?self.place, %error, "could not note when a build did not see its sources");
        }
    }
}

/// The times that are over. A build that was killed saw nothing until now; of one that runs yet, it is the same for the time being.
fn ended(noted: &[Blind], now: Timestamp) -> Vec<Blind> {
    let has_end = |open: &Blind| noted.iter().any(|blind| blind.from == open.from && blind.until.is_some());
    let over = noted.iter().filter(|blind| blind.until.is_some() || !has_end(blind));
    over.map(|blind| Blind { until: blind.until.or(Some(now)), ..*blind }).collect()
}

/// What is shown later, and when that is: all names of a file at the same time. With it, renamed directories that were found.
fn later(
    manifest: &Manifest,
    earlier: &[Blind],
    blur: Duration,
    index: &Index,
) -> (HashMap<(u64, u64), Timestamp>, Vec<Blind>) {
    let entries = manifest.entries();
    let known = LazyCell::new(|| known(manifest, index));
    let (mut later, mut moved) = (HashMap::new(), Vec::new());
    walk(manifest, |at, above| {
        let (entry, changed) = (&entries[at], entries[at].stamp.ctime);
        for blind in earlier {
            let Some(until) = blind.until else { continue };
            let from = blind.from.before_by(blur);
            let renamed = || {
                let is_new = |directory: &&usize| {
                    let Stamp { ino, ctime, .. } = entries[**directory].stamp;
                    ino != 0 && (from..=until).contains(&ctime) && !known[**directory]
                };
                let may_have_moved = changed < from && matches!(entry.kind, Kind::File { .. });
                above.iter().rev().find(is_new).filter(|_| may_have_moved && !known[at])
            };
            let is_meant = match blind.moved {
                Some(ino) => above.iter().any(|directory| entries[*directory].stamp.ino == ino),
                None if from <= changed => changed <= until,
                None => renamed().is_some_and(|directory| {
                    let found = Blind { moved: Some(entries[*directory].stamp.ino), ..*blind };
                    if !moved.contains(&found) {
                        moved.push(found);
                    }
                    true
                }),
            };
            if is_meant {
                let time = later.entry(file_of(at, entry)).or_insert(until);
                *time = until.max(*time);
            }
        }
    });
    (later, moved)
}

/// Of each file, whether the index has it; of each directory, whether it has anything below it.
fn known(manifest: &Manifest, index: &Index) -> Vec<bool> {
    let noted = index.noted_digests(manifest);
    let mut known = vec![false; noted.len()];
    walk(manifest, |at, above| {
        if noted[at].is_some() {
            above.iter().chain([&at]).for_each(|at| known[*at] = true);
        }
    });
    known
}

/// Calls `each` for all but directories, with those above.
fn walk(manifest: &Manifest, mut each: impl FnMut(usize, &[usize])) {
    let mut above = Vec::new();
    for (at, entry) in manifest.entries().iter().enumerate() {
        above.truncate(entry.path.components().count().saturating_sub(1));
        match entry.kind {
            Kind::Directory => above.push(at),
            _ => each(at, &above),
        }
    }
}

/// Device and inode; the place where the system has none.
fn file_of(at: usize, entry: &Entry) -> (u64, u64) {
    match entry.stamp.ino {
        0 => (u64::MAX, at as u64),
        ino => (entry.stamp.dev, ino),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::tree::{
        Digest,
        ignore::Rules,
        index::{HashedAt, Whose},
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
        let show = |scan: &mut Scan| Watcher::show(place(), scan, root.path(), &Index::default());
        let first = show(&mut look(root.path()));
        std::fs::write(&file, "edited").unwrap();
        File::open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        first.ended();
        first.built();

        let mut seen = look(root.path());
        let second = show(&mut seen);
        assert!(seen.manifest.entries()[0].mtime > first.looked_at);
        second.ended();
        let mut seen = look(root.path());
        let mut third = show(&mut seen);
        assert!(seen.manifest.entries()[0].mtime > first.looked_at);
        // As if it had come later.
        third.looked_at.secs += 60;
        third.ended();
        third.built();
        let mut seen = look(root.path());
        show(&mut seen);
        assert_eq!(seen.manifest.entries()[0].mtime, Timestamp::default());
    }

    #[test]
    fn an_edit_during_a_build_that_is_killed_is_shown_as_later() {
        let (home, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let show =
            |scan: &mut Scan| Watcher::show(home.path().join("edits"), scan, root.path(), &Index::default());
        let tick = || {
            let now = clock::stamped_by_now();
            while clock::file_system_now() <= now {}
        };
        let is_later = || {
            tick();
            let mut seen = look(root.path());
            let watcher = show(&mut seen);
            (seen.manifest.entries().iter().all(|entry| entry.mtime > entry.stamp.mtime), watcher)
        };
        let file = root.path().join("file");
        let first = show(&mut look(root.path()));
        std::fs::write(&file, "edited").unwrap();
        first.ended();
        let (later, second) = is_later();
        assert!(later);
        second.ended();
        second.built();

        let (later, _killed) = is_later();
        assert!(!later);
        std::fs::write(&file, "edited while a build ran that was killed").unwrap();
        let (later, last) = is_later();
        assert!(later);
        last.ended();
        last.built();
        assert!(!is_later().0);
    }

    #[test]
    fn a_build_beside_another_one_does_not_take_away_what_that_one_did_not_see() {
        let (home, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let index = Index::default();
        let watcher =
            || Watcher::show(home.path().join("edits"), &mut look(root.path()), root.path(), &index);
        let (one, other) = (watcher(), watcher());
        [&one, &other].iter().for_each(|build| build.ended());
        [&one, &other].iter().for_each(|build| build.built());
        assert_eq!(ended(&watcher().noted, Timestamp::default()).len(), 2);
    }

    #[test]
    fn what_was_moved_with_its_directory_while_a_command_ran_is_shown_as_later_and_its_neighbours_are_not() {
        let (home, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (edits, index) = (home.path().join("edits"), home.path().join("index"));
        let path = |path: &str| root.path().join(path);
        std::fs::create_dir_all(path("here/deep")).unwrap();
        std::fs::create_dir(path("there")).unwrap();
        ["here/deep/moved", "there/stays"].iter().for_each(|file| std::fs::write(path(file), file).unwrap());
        std::fs::hard_link(path("here/deep/moved"), path("other name")).unwrap();
        let show = || {
            let written = clock::stamped_by_now();
            while clock::file_system_now() <= written {}
            let (mut scan, hashed_at) = (look(root.path()), HashedAt::now(root.path()));
            let watcher = Watcher::show(edits.clone(), &mut scan, root.path(), &Index::load(&index));
            let digests = vec![Some(Digest([1; 32])); scan.manifest.entries().len()];
            Index::save(&index, &scan.manifest, &digests, &hashed_at, &|_| Whose::Users).unwrap();
            let later = scan.manifest.entries().iter().filter(|entry| entry.mtime > entry.stamp.mtime);
            (watcher, later.map(|entry| entry.path.to_string()).collect::<Vec<_>>())
        };
        let (first, _) = show();

        std::fs::rename(path("here"), path("there/here")).unwrap();
        first.ended();
        first.built();
        // The first of them is killed.
        for _ in 0..2 {
            let (_, later) = show();
            assert_eq!(later, ["other name", "there/here/deep/moved"]);
        }
        show().0.built();
        assert!(show().1.is_empty());
    }
}
