//! Sources that were changed here while a command ran. The command may have read the earlier
//! version, and its products are younger than the edit. So the next builds are shown a later mtime,
//! until one has succeeded with it. On a mount the tool would have read the edit itself, or seen it
//! as later than its product. The files here are not changed.
//!
//! In: for each build, its blind time: from its scan of the tree to the end of its command. Out:
//! the mtimes of a scan's entries. The ctime tells when a file was last changed. A file that was
//! linked, renamed or given another mode since has a later one, and is known by an mtime in that
//! time. Too many later mtimes do no harm, too few do. But a build's applied products are not
//! edits: the record tells.
//!
//! A file below a renamed directory keeps its ctime. It is known by its path, which the index of
//! the last scan lacks, and by a directory above it that changed in that time, or when the products
//! were put in place. The next scan writes the index, so files that are found by what it lacks are
//! noted at once.

use std::{
    cell::LazyCell,
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    entry::{Kind, Stamp, Timestamp},
    outputs::{
        record::{Record, Written},
        target::native_join,
    },
    state::{append_line, read_lines, replace_lines},
    sys::clock::{self, Granularity},
    tree::{Entry, Manifest, index::Index, scan::Scan},
};

/// The time in which a build did not see changes here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Blind {
    from: Timestamp,
    /// None while the command runs.
    until: Option<Timestamp>,
    /// When its products were in place. Applying them changes directories, but none of their other
    /// files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    applied: Option<Timestamp>,
    /// The inodes of files whose change in that time was found by what the index lacks. If there
    /// are any, only these files are meant; otherwise all files that changed in that time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    files: Vec<u64>,
}

/// A build that scans its sources, and later ends.
#[derive(Debug)]
pub(super) struct Watcher {
    place: PathBuf,
    /// The entries at the time of this build's scan.
    noted: Vec<Blind>,
    looked_at: Timestamp,
}

impl Watcher {
    /// Shows files that changed during earlier builds' commands as later than their products.
    /// `place` is the project's list of builds, `index` their last scan, `record` what they wrote
    /// here.
    pub(super) fn show(
        place: PathBuf,
        scan: &mut Scan,
        root: &Path,
        index: &Index,
        record: impl FnOnce() -> Record,
    ) -> Watcher {
        let noted: Vec<Blind> = read_lines(&place).unwrap_or_default();
        let mut watcher = Watcher { noted, place, looked_at: scan.looked_at };
        let earlier = ended(&watcher.noted, scan.looked_at);
        if !earlier.is_empty() {
            // If this machine's clock stamps changes, none after the scan has an earlier stamp.
            let blur = match Granularity::of(root) {
                Granularity::Tick => Duration::ZERO,
                Granularity::Coarse => Granularity::Coarse.span(),
            };
            let mut edits = edits(&scan.manifest, &earlier, blur, index);
            if !edits.is_empty() {
                leave_products(&mut edits, scan.manifest.entries(), root, &record());
            }
            if !edits.is_empty() {
                watcher.show_later(scan, &edits, &earlier);
            }
        }
        // A build that is killed notes nothing at its end.
        watcher.note(&[watcher.own(None)]);
        watcher
    }

    /// Gives these files their later mtimes, and notes those that only the index tells of.
    fn show_later(&mut self, scan: &mut Scan, edits: &[Edit], earlier: &[Blind]) {
        let mut later = HashMap::<File, Timestamp>::new();
        let mut found = vec![Vec::new(); earlier.len()];
        for Edit { at, blind, by_index, until, .. } in edits {
            let entry = &scan.manifest.entries()[*at];
            let time = later.entry(file_of(*at, entry)).or_insert(*until);
            *time = (*until).max(*time);
            found[*blind].extend((*by_index && entry.stamp.ino != 0).then_some(entry.stamp.ino));
        }
        let found = earlier.iter().zip(found).filter(|(_, files)| !files.is_empty());
        let found: Vec<_> = found.map(|(blind, files)| Blind { files, ..blind.clone() }).collect();
        // Before the index is written.
        self.note(&found);
        self.noted.extend(found);
        let mut entries = std::mem::take(&mut scan.manifest).into_entries();
        for (at, entry) in entries.iter_mut().enumerate().filter(|(_, entry)| entry.kind != Kind::Directory) {
            let time = later.get(&file_of(at, entry)).copied();
            entry.mtime = time.map_or(entry.mtime, |time| time.max(entry.mtime));
        }
        scan.manifest = Manifest::from_entries(entries);
    }

    fn own(&self, until: Option<Timestamp>) -> Blind {
        Blind { from: self.looked_at, until, applied: None, files: Vec::new() }
    }

    /// Notes that the command has ended, now.
    pub(super) fn ended(&self) {
        self.note(&[self.own(Some(clock::stamped_by_now()))]);
    }

    fn note(&self, blind: &[Blind]) {
        self.tell(blind.iter().try_for_each(|blind| append_line(&self.place, blind)));
    }

    /// Notes that the version which the command saw is built, with its products in place. Builds
    /// beside this one may have added entries; only those that this one saw are removed.
    pub(super) fn built(&self) {
        let left = read_lines(&self.place).and_then(|mut all: Vec<Blind>| {
            all.retain(|blind| !self.noted.contains(blind) && *blind != self.own(None));
            let own = all.iter_mut().filter(|blind| blind.from == self.looked_at && blind.files.is_empty());
            own.for_each(|own| own.applied = Some(clock::stamped_by_now()));
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

/// The blind times, with an end: now for a killed build, and for one that still runs.
fn ended(noted: &[Blind], now: Timestamp) -> Vec<Blind> {
    let has_end = |open: &Blind| noted.iter().any(|blind| blind.from == open.from && blind.until.is_some());
    let over = noted.iter().filter(|blind| blind.until.is_some() || !has_end(blind));
    over.map(|blind| Blind { until: blind.until.or(Some(now)), ..blind.clone() }).collect()
}

/// The sign that a file was changed in a build's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// The time of its last change or move.
    Changed,
    /// The time of its last write; it was changed in another way since.
    Written,
}

/// A file that was changed in a build's time.
#[derive(Debug, Clone, Copy)]
struct Edit {
    /// The entry.
    at: usize,
    sign: Sign,
    /// The index of the blind time.
    blind: usize,
    /// The end of that time.
    until: Timestamp,
    /// Whether it is known by what the index lacks.
    by_index: bool,
}

fn edits(manifest: &Manifest, earlier: &[Blind], blur: Duration, index: &Index) -> Vec<Edit> {
    let entries = manifest.entries();
    // Exactly as the last scan saw it.
    let known = LazyCell::new(|| {
        Vec::from_iter(index.noted_digests(manifest).into_iter().map(|noted| noted.is_some()))
    });
    let meant: Vec<HashSet<_>> = earlier.iter().map(|blind| blind.files.iter().copied().collect()).collect();
    let mut edits = Vec::new();
    walk(manifest, |at, above| {
        let (entry, Stamp { ctime: changed, mtime: written, ino, .. }) = (&entries[at], entries[at].stamp);
        for (blind, (Blind { from, until, applied, .. }, meant)) in earlier.iter().zip(&meant).enumerate() {
            let Some(until) = *until else { continue };
            let time = from.before_by(blur)..=until;
            let may_have_moved = || {
                let span = *time.start()..=applied.unwrap_or(until);
                let has_changed = |directory: &usize| span.contains(&entries[*directory].stamp.ctime);
                changed < *time.start()
                    && matches!(entry.kind, Kind::File { .. })
                    && above.iter().any(has_changed)
            };
            let (sign, by_index) = if !meant.is_empty() {
                match meant.contains(&ino) {
                    true => (Sign::Written, false),
                    false => continue,
                }
            } else if time.contains(&changed) {
                (Sign::Changed, false)
            } else if changed > until && time.contains(&written) && !known[at] {
                (Sign::Written, true)
            } else if may_have_moved() && !known[at] {
                (Sign::Changed, true)
            } else {
                continue;
            };
            edits.push(Edit { at, sign, blind, until, by_index });
        }
    });
    edits
}

/// Removes builds' products, under all their names; an earlier build may have written them.
fn leave_products(edits: &mut Vec<Edit>, entries: &[Entry], root: &Path, record: &Record) {
    let file = |edit: &Edit| file_of(edit.at, &entries[edit.at]);
    let is_changed = |edit: &&Edit| edit.sign == Sign::Changed;
    let changed: HashSet<_> = edits.iter().filter(is_changed).map(file).collect();
    let is_product = |edit: &&Edit| {
        let now = entries[edit.at].stamp;
        let written = record.get(&native_join(root, &entries[edit.at].path));
        written.is_some_and(|Written { stamp, .. }| match changed.contains(&file(edit)) {
            true => stamp == now,
            false => (stamp.size, stamp.mtime) == (now.size, now.mtime),
        })
    };
    let products: HashSet<_> = edits.iter().filter(is_product).map(file).collect();
    edits.retain(|edit| !products.contains(&file(edit)));
}

/// Calls `each` for all entries but directories, with the directories above.
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
type File = (u64, u64);

fn file_of(at: usize, entry: &Entry) -> File {
    match entry.stamp.ino {
        0 => (u64::MAX, at as u64),
        ino => (entry.stamp.dev, ino),
    }
}

#[cfg(test)]
mod tests {
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
        let show =
            |scan: &mut Scan| Watcher::show(place(), scan, root.path(), &Index::default(), Record::default);
        let first = show(&mut look(root.path()));
        std::fs::write(&file, "edited").unwrap();
        std::fs::File::open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
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
        let show = |scan: &mut Scan| {
            Watcher::show(home.path().join("edits"), scan, root.path(), &Index::default(), Record::default)
        };
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
        let watcher = || {
            Watcher::show(
                home.path().join("edits"),
                &mut look(root.path()),
                root.path(),
                &index,
                Record::default,
            )
        };
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
            let watcher =
                Watcher::show(edits.clone(), &mut scan, root.path(), &Index::load(&index), Record::default);
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
