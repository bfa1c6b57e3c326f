//! Compares two manifests of one source tree, before a build and after it -> the paths that others
//! changed. Pure, except for the contents of files whose stamps are not enough ([`Contents`]).

use std::{
    cmp::Ordering,
    path::{Path, PathBuf},
};

use crate::{
    entry::host_path,
    entry::{Kind, RelPath, Stamp},
    outputs::record::{Content, Record, Written},
    tree::{Digest, Entry, Manifest},
};

/// File contents, read only if just the ctime differs, as after `ln` or a `chmod` to the same mode.
pub(super) trait Contents {
    /// The digest of the file when it had this stamp, where that is known.
    fn before(&self, entry: &Entry) -> Option<Digest>;
    /// The digest of the file now.
    fn now(&self, entry: &Entry) -> Option<Digest>;
}

/// What fastbuild itself put in place, by its records before and after the build.
#[derive(Debug)]
pub(super) struct Ours {
    root: PathBuf,
    before: Record,
    after: Record,
}

impl Ours {
    /// The record of the source root `root` before the build.
    pub(super) fn before(root: PathBuf, before: Record) -> Ours {
        Ours { root, before, after: Record::default() }
    }

    /// Adds the record after the build.
    pub(super) fn after(&mut self, after: Record) {
        self.after = after;
    }

    /// Whether the current entry is what fastbuild wrote.
    fn wrote(&self, entry: &Entry, contents: &dyn Contents) -> bool {
        self.at(&entry.path, &self.after).is_some_and(|written| match (&written.what, &entry.kind) {
            (Content::Directory, Kind::Directory) => written.mode == entry.mode,
            (Content::File(digest), Kind::File { .. }) => match compare(&written.stamp, &entry.stamp) {
                Stamps::Same => true,
                Stamps::OtherCtime => written.mode == entry.mode && contents.now(entry) == Some(*digest),
                Stamps::Other => false,
            },
            (Content::Symlink(wrote), Kind::Symlink { target }) => wrote == target,
            _ => false,
        })
    }

    /// Whether fastbuild deleted the path: it is in its record before the build, and not after it.
    fn deleted(&self, path: &RelPath) -> bool {
        self.at(path, &self.before).is_some() && self.at(path, &self.after).is_none()
    }

    /// Whether a new directory holds what fastbuild wrote: a volume's place, on route
    /// `mount-source`.
    fn needed(&self, made: &Entry) -> bool {
        let place = host_path::join(&self.root, &made.path).filter(|_| made.kind == Kind::Directory);
        place.is_some_and(|place: PathBuf| self.after.below(&place).next().is_some())
    }

    fn at(&self, path: &RelPath, record: &Record) -> Option<Written> {
        host_path::join(&self.root, path).and_then(|path: PathBuf| record.get(Path::new(&path)))
    }
}

/// The paths at which the trees differ for another reason than fastbuild's own writes, in order.
pub(super) fn difference(
    before: &Manifest,
    after: &Manifest,
    ours: &Ours,
    contents: &dyn Contents,
) -> Vec<RelPath> {
    let mut changed = Vec::new();
    let (mut old, mut new) = (before.entries().iter().peekable(), after.entries().iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changed,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.path.cmp(&new.path),
        };
        let old = if order.is_le() { old.next() } else { None };
        let new = if order.is_ge() { new.next() } else { None };
        let path = match (old, new) {
            (Some(gone), None) => (!ours.deleted(&gone.path)).then_some(&gone.path),
            (None, Some(made)) => (!ours.wrote(made, contents) && !ours.needed(made)).then_some(&made.path),
            (Some(old), Some(new)) => {
                (differ(old, new, contents) && !ours.wrote(new, contents)).then_some(&new.path)
            }
            (None, None) => None,
        };
        changed.extend(path.cloned());
    }
}

/// Whether a build could see a difference. A directory's times also change with entries that are
/// not part of the build, so they are ignored. For an edit that keeps size and mtime the content
/// decides; where the earlier content is not known, a file counts as changed only if it was
/// replaced.
fn differ(old: &Entry, new: &Entry, contents: &dyn Contents) -> bool {
    if old.mode != new.mode && !matches!(new.kind, Kind::Symlink { .. }) {
        return true;
    }
    match (&old.kind, &new.kind) {
        (Kind::Directory, Kind::Directory) => false,
        (Kind::File { .. }, Kind::File { .. }) => match compare(&old.stamp, &new.stamp) {
            Stamps::Same => false,
            Stamps::Other => true,
            Stamps::OtherCtime => match contents.before(old) {
                Some(before) => contents.now(new) != Some(before),
                None => old.stamp.ino != new.stamp.ino,
            },
        },
        (Kind::Symlink { target: old }, Kind::Symlink { target: new }) => old != new,
        _ => true,
    }
}

enum Stamps {
    Same,
    OtherCtime,
    Other,
}

/// File systems in user space may renumber their inodes at any time, so this proves nothing.
fn compare(old: &Stamp, new: &Stamp) -> Stamps {
    match ((old.size, old.mtime) == (new.size, new.mtime), old.ctime == new.ctime) {
        (true, true) => Stamps::Same,
        (true, false) => Stamps::OtherCtime,
        (false, _) => Stamps::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{entry::Timestamp, tree::Digest};

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn stamp(tick: i64) -> Stamp {
        let time = Timestamp { secs: tick, nanos: 0 };
        Stamp { dev: 1, ino: 1, size: 3, mtime: time, ctime: time }
    }

    fn file(name: &str, tick: i64) -> Entry {
        let stamp = stamp(tick);
        let kind = Kind::File { size: 3 };
        Entry { path: path(name), kind, mode: 0o644, mtime: stamp.mtime, stamp, links: 1 }
    }

    fn directory(name: &str, tick: i64) -> Entry {
        Entry { kind: Kind::Directory, mode: 0o755, ..file(name, tick) }
    }

    fn link(name: &str, target: &str) -> Entry {
        Entry { kind: Kind::Symlink { target: target.as_bytes().into() }, ..file(name, 0) }
    }

    fn written(what: Content, mode: u32, tick: i64) -> Written {
        Written { what, mode, stamp: stamp(tick), seen: Timestamp::default() }
    }

    fn record(entries: &[(&str, Written)]) -> Record {
        let mut record = Record::default();
        entries.iter().for_each(|(name, written)| record.set(&Path::new("/p").join(name), written.clone()));
        record
    }

    /// What files held, and what they hold.
    struct Held(Option<u8>, u8);

    impl Contents for Held {
        fn before(&self, _: &Entry) -> Option<Digest> {
            self.0.map(|byte| Digest([byte; 32]))
        }

        fn now(&self, _: &Entry) -> Option<Digest> {
            Some(Digest([self.1; 32]))
        }
    }

    fn changed_holding(held: &Held, before: Vec<Entry>, after: Vec<Entry>, ours: &Ours) -> Vec<String> {
        let [before, after] = [before, after].map(Manifest::from_entries);
        difference(&before, &after, ours, held).iter().map(ToString::to_string).collect()
    }

    fn changed(before: Vec<Entry>, after: Vec<Entry>, ours: &Ours) -> Vec<String> {
        changed_holding(&Held(None, 0), before, after, ours)
    }

    fn nobodys() -> Ours {
        Ours::before("/p".into(), Record::default())
    }

    #[test]
    fn whatever_a_build_can_see_counts() {
        type Case = (&'static str, Vec<Entry>, Vec<Entry>, Vec<&'static str>);
        let cases: Vec<Case> = vec![
            ("nothing", vec![file("a", 1)], vec![file("a", 1)], vec![]),
            ("an edit", vec![file("a", 1)], vec![file("a", 2)], vec!["a"]),
            ("made", vec![], vec![directory("d", 1), file("d/a", 1)], vec!["d", "d/a"]),
            ("deleted", vec![file("a", 1), file("b", 1)], vec![file("b", 1)], vec!["a"]),
            ("renamed", vec![file("a", 1), file("z", 1)], vec![file("b", 1), file("z", 1)], vec!["a", "b"]),
            ("mode", vec![file("a", 1)], vec![Entry { mode: 0o755, ..file("a", 1) }], vec!["a"]),
            ("type", vec![file("a", 1)], vec![link("a", "b")], vec!["a"]),
            ("target", vec![link("a", "b")], vec![link("a", "c")], vec!["a"]),
            ("a directory's time", vec![directory("d", 1)], vec![directory("d", 2)], vec![]),
        ];
        for (what, before, after, expected) in cases {
            assert_eq!(changed(before, after, &nobodys()), expected, "{what}");
        }
        let renumbered = Entry { stamp: Stamp { ino: 9, ..stamp(1) }, ..file("a", 1) };
        assert_eq!(changed(vec![file("a", 1)], vec![renumbered], &nobodys()), [""; 0]);
    }

    #[test]
    fn where_only_the_ctime_is_another_the_content_decides() {
        let touched = |ino| Stamp { ino, ctime: Timestamp { secs: 9, nanos: 0 }, ..stamp(1) };
        let after = |ino| vec![Entry { stamp: touched(ino), ..file("a", 1) }];
        let changed =
            |held, ino| !changed_holding(&held, vec![file("a", 1)], after(ino), &nobodys()).is_empty();
        assert!(!changed(Held(Some(7), 7), 1), "chmod to the same mode");
        assert!(changed(Held(Some(7), 8), 1), "an edit that keeps size and mtime");
        assert!(!changed(Held(None, 8), 1), "not known, and the same file");
        assert!(changed(Held(None, 8), 2), "not known, and another one in its place");

        let mut ours = nobodys();
        ours.after(record(&[("a", written(Content::File(Digest([7; 32])), 0o644, 1))]));
        let product = |held| changed_holding(&held, vec![], after(1), &ours).is_empty();
        assert!(product(Held(None, 7)) && !product(Held(None, 8)));
    }

    #[test]
    fn what_fastbuild_put_in_place_does_not_count_until_somebody_changes_it() {
        let digest = Digest([7; 32]);
        let mut ours = Ours::before(
            "/p".into(),
            record(&[
                ("old", written(Content::File(digest), 0o644, 1)),
                ("kept", written(Content::File(digest), 0o644, 1)),
            ]),
        );
        ours.after(record(&[
            ("kept", written(Content::File(digest), 0o644, 1)),
            ("out", written(Content::Directory, 0o755, 5)),
            ("out/a", written(Content::File(digest), 0o644, 5)),
            ("out/l", written(Content::Symlink(b"a".as_slice().into()), 0o777, 5)),
        ]));
        let before = || vec![file("old", 1), file("kept", 1)];
        let after =
            |tick| vec![file("kept", 1), directory("out", 6), file("out/a", tick), link("out/l", "a")];
        assert_eq!(changed(before(), after(5), &ours), [""; 0], "products came, an old one went");
        assert_eq!(changed(before(), after(6), &ours), ["out/a"], "edited after it was put in place");
        assert_eq!(changed(before(), vec![], &ours), ["kept"], "a product that somebody else deleted");
    }
}
