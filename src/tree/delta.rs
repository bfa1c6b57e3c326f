//! Compares two trees: what must be done so that the far tree equals the near one. Pure: nothing is
//! opened here, so each case is a row or a generated tree in the tests below.
//!
//! In: the host's manifest with its known digests, and the far end's nodes of the buckets that
//! differ ([`super::summary`]). Both are sorted by [`crate::entry::path::compare`] and are merged
//! in one pass. Out: a [`Delta`]. All its deletes come before its puts: a path whose kind changes
//! is in both.

use serde::Serialize;

use super::{
    Digest, Entry, Manifest,
    links::Groups,
    node::{Node, NodeKind},
};
use crate::entry::{Kind, RelPath};

/// What must be done at the far end. Indices refer to the host's manifest, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Paths to delete, each with everything below it; none is below another.
    pub deletes: Vec<RelPath>,
    /// Entries to send whole: new, or other content, kind or link target; all names of a file
    /// together.
    pub puts: Vec<usize>,
    /// Files with the same size at both ends whose digest is not known here, with the far end's
    /// digest. [`Delta::resolve`] turns them into puts or removes them.
    pub unsure: Vec<(usize, Digest)>,
    /// Entries where only mode or mtime differ (for those in `unsure`, as far as is known).
    pub metas: Vec<usize>,
    /// The reason for each path listed above, except for those only in `unsure`.
    pub changes: Vec<Change>,
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The path.
    pub path: RelPath,
    /// What differs.
    pub why: Why,
}

/// What differs between the two ends. Of several reasons, the one with the largest effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Only the source side has it.
    New,
    /// A file's bytes, or a link's target.
    Content,
    /// Permission bits.
    Mode,
    /// The kind: file, directory or link.
    Type,
    /// The set of names of the same file.
    Links,
    /// The time of its last change.
    Mtime,
    /// Only the target side has it. A directory stands for everything in it.
    Deleted,
}

impl Delta {
    /// Whether the ends are equal, as far as is known.
    pub fn is_empty(&self) -> bool {
        self.deletes.is_empty() && self.puts.is_empty() && self.unsure.is_empty() && self.metas.is_empty()
    }

    /// Decides `unsure` by the host's `digests`. Without a digest, a file becomes a put.
    pub fn resolve(&mut self, host: &Manifest, digests: &[Option<Digest>]) {
        let unsure = std::mem::take(&mut self.unsure);
        let differing = unsure.into_iter().filter(|(at, far)| digests[*at] != Some(*far));
        let puts: Vec<usize> = differing.map(|(at, _)| at).collect();
        if puts.is_empty() {
            return;
        }
        let path = |at: &usize| &host.entries()[*at].path;
        self.changes.retain(|change| puts.binary_search_by(|at| path(at).cmp(&change.path)).is_err());
        self.changes.extend(puts.iter().map(|at| Change { path: path(at).clone(), why: Why::Content }));
        self.changes.sort_by(|a, b| a.path.cmp(&b.path));
        self.puts.extend(puts);
        self.puts.sort_unstable();
        self.keep_together(&Groups::of(host));
    }

    /// The names of one file stay one file only when they are sent together.
    fn keep_together(&mut self, groups: &Groups) {
        groups.complete(&mut self.puts);
        self.metas.retain(|at| self.puts.binary_search(at).is_err());
        self.unsure.retain(|(at, _)| self.puts.binary_search(at).is_err());
    }

    fn change(&mut self, path: &RelPath, why: Why) {
        self.changes.push(Change { path: path.clone(), why });
    }

    /// A path that only the far end has. The paths below it come next, and are deleted with it.
    fn delete(&mut self, path: &RelPath) {
        self.deletes.push(path.clone());
        self.change(path, Why::Deleted);
    }

    fn put(&mut self, at: usize, entry: &Entry, why: Why) {
        self.puts.push(at);
        self.change(&entry.path, why);
    }

    fn replace(&mut self, at: usize, entry: &Entry) {
        self.deletes.push(entry.path.clone());
        self.put(at, entry, Why::Type);
    }

    /// Compares a path that both ends have.
    fn compare(
        &mut self,
        at: usize,
        entry: &Entry,
        digest: Option<Digest>,
        link: Option<&RelPath>,
        far: &Node,
    ) {
        match content(&entry.kind, digest, &far.kind) {
            Content::OtherKind => self.replace(at, entry),
            Content::Differs => self.put(at, entry, Why::Content),
            _ if link != far.link.as_ref() => self.put(at, entry, Why::Links),
            Content::Unsure(far_digest) => {
                self.unsure.push((at, far_digest));
                self.compare_meta(at, entry, far);
            }
            Content::Same => self.compare_meta(at, entry, far),
        }
    }

    fn compare_meta(&mut self, at: usize, entry: &Entry, far: &Node) {
        // The mode of a link has no meaning and cannot be set.
        let has_mode = !matches!(entry.kind, Kind::Symlink { .. });
        let why = match (has_mode && entry.mode != far.mode, entry.mtime != far.mtime) {
            (true, _) => Why::Mode,
            (false, true) => Why::Mtime,
            (false, false) => return,
        };
        self.metas.push(at);
        self.change(&entry.path, why);
    }
}

/// The result of comparing the contents of one path.
enum Content {
    Same,
    Differs,
    OtherKind,
    /// The far end's digest; the host's is not known.
    Unsure(Digest),
}

fn content(host: &Kind, digest: Option<Digest>, far: &NodeKind) -> Content {
    let same = match (host, far) {
        (Kind::Directory, NodeKind::Directory) => true,
        (Kind::Symlink { target }, NodeKind::Symlink { target: far }) => target == far,
        (Kind::File { size }, NodeKind::File { size: far_size, digest: far }) => match digest {
            _ if size != far_size => false,
            None => return Content::Unsure(*far),
            Some(digest) => digest == *far,
        },
        _ => return Content::OtherKind,
    };
    if same { Content::Same } else { Content::Differs }
}

/// What must be done so that the far end's tree equals the host's.
///
/// `digests` has one for each entry of `host`, or `None` where a file's content is not known. `far`
/// gives, in order, all nodes of the far end in the buckets for which `in_bucket` is true. Other
/// buckets are equal at both ends and are skipped; so is the root, which is neither put nor
/// deleted.
///
/// # Errors
/// Those of `far`.
pub fn delta<E>(
    host: &Manifest,
    digests: &[Option<Digest>],
    in_bucket: &dyn Fn(&RelPath) -> bool,
    far: impl Iterator<Item = Result<Node, E>>,
) -> Result<Delta, E> {
    let (mut delta, groups) = (Delta::default(), Groups::of(host));
    let mut near = host.entries().iter().enumerate().filter(|(_, entry)| in_bucket(&entry.path)).peekable();
    // The deleted path that includes the paths below it.
    let mut going = None;
    for node in far {
        let node = node?;
        if node.path.is_root() || !in_bucket(&node.path) {
            continue;
        }
        while let Some((at, entry)) = near.next_if(|(_, entry)| entry.path < node.path) {
            delta.put(at, entry, Why::New);
        }
        let same = near.next_if(|(_, entry)| entry.path == node.path);
        if going.as_ref().is_some_and(|going| is_below(&node.path, going)) {
            if let Some((at, entry)) = same {
                delta.put(at, entry, Why::New);
            }
            continue;
        }
        match same {
            Some((at, entry)) => delta.compare(at, entry, digests[at], groups.first_name(host, at), &node),
            None => delta.delete(&node.path),
        }
        if delta.deletes.last() == Some(&node.path) {
            going = Some(node.path);
        }
    }
    for (at, entry) in near {
        delta.put(at, entry, Why::New);
    }
    delta.keep_together(&groups);
    Ok(delta)
}

/// Whether `path` is below `above`.
fn is_below(path: &RelPath, above: &RelPath) -> bool {
    path.as_bytes().strip_prefix(above.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'/'))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        convert::Infallible,
    };

    use proptest::prelude::*;

    use super::*;
    use crate::{
        entry::{Special, Stamp, Timestamp},
        tree::summary::{self, Summarizer, What},
    };

    /// One path of a test tree.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Thing {
        what: Is,
        mode: u32,
        mtime: i64,
        /// Names with the same number are one file.
        file: Option<u64>,
    }

    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Is {
        Dir,
        /// Content and size.
        File(u8, u64),
        Link(&'static str),
        Fifo,
    }

    type Tree = BTreeMap<RelPath, Thing>;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    /// `name/`, `name=content`, `name->target`, `name|` (a fifo); after a space a mode, after `@`
    /// an mtime, after `#` a number shared by the names of one file.
    fn tree(lines: &[&str]) -> Tree {
        let thing = |line: &&str| {
            let (line, file) = line.split_once('#').map_or((*line, None), |(l, f)| (l, f.parse().ok()));
            let (line, mtime) = line.split_once('@').map_or((line, 0), |(l, t)| (l, t.parse().unwrap()));
            let (line, mode) = line
                .split_once(' ')
                .map_or((line, 0o644), |(l, mode)| (l, u32::from_str_radix(mode, 8).unwrap()));
            let (name, what) = if let Some(name) = line.strip_suffix('/') {
                (name, Is::Dir)
            } else if let Some(name) = line.strip_suffix('|') {
                (name, Is::Fifo)
            } else if line.contains("->") {
                let (name, target) = line.split_once("->").unwrap();
                (name, Is::Link(if target == "x" { "x" } else { "other" }))
            } else {
                let (name, content) = line.split_once('=').unwrap();
                (name, Is::File(content.bytes().last().unwrap_or(0), content.len() as u64))
            };
            (path(name), Thing { what, mode, mtime, file })
        };
        lines.iter().map(thing).collect()
    }

    fn time(secs: i64) -> Timestamp {
        Timestamp { secs, nanos: 0 }
    }

    fn digest(content: u8) -> Digest {
        Digest([content; 32])
    }

    fn digest_of(thing: &Thing) -> Option<Digest> {
        match thing.what {
            Is::File(content, _) => Some(digest(content)),
            _ => None,
        }
    }

    fn kind(what: &Is) -> Kind {
        match what {
            Is::Dir => Kind::Directory,
            Is::File(_, size) => Kind::File { size: *size },
            Is::Link(target) => Kind::Symlink { target: target.as_bytes().into() },
            Is::Fifo => unreachable!("a manifest has none"),
        }
    }

    /// The host's side, without entries that cannot travel.
    fn manifest(tree: &Tree) -> (Manifest, Vec<Option<Digest>>) {
        let host = tree.iter().filter(|(_, thing)| thing.what != Is::Fifo);
        let entries = host.clone().map(|(path, thing)| Entry {
            path: path.clone(),
            kind: kind(&thing.what),
            mode: thing.mode,
            mtime: time(thing.mtime),
            stamp: Stamp { ino: thing.file.unwrap_or(0), ..Stamp::default() },
            links: 2,
        });
        (Manifest::from_entries(entries.collect()), host.map(|(_, thing)| digest_of(thing)).collect())
    }

    /// The first name of the file at `path`, if `path` is a further name.
    fn first(tree: &Tree, path: &RelPath) -> Option<RelPath> {
        let file = tree[path].file?;
        let first = tree.iter().find(|(_, thing)| thing.file == Some(file))?.0;
        (first != path).then(|| first.clone())
    }

    fn nodes(tree: &Tree) -> Vec<Node> {
        let node = |(path, thing): (&RelPath, &Thing)| Node {
            path: path.clone(),
            kind: match &thing.what {
                Is::Dir => NodeKind::Directory,
                Is::File(content, size) => NodeKind::File { size: *size, digest: digest(*content) },
                Is::Link(target) => NodeKind::Symlink { target: target.as_bytes().into() },
                Is::Fifo => NodeKind::Special(Special::Fifo),
            },
            mode: thing.mode,
            mtime: time(thing.mtime),
            link: first(tree, path),
        };
        tree.iter().map(node).collect()
    }

    fn delta_of(host: &Manifest, digests: &[Option<Digest>], far: &[Node]) -> Delta {
        let far = far.iter().cloned().map(Ok::<_, Infallible>);
        let Ok(delta) = delta(host, digests, &|_| true, far);
        delta
    }

    /// As words: deletes, puts, metas and reasons.
    fn told(host: &[&str], far: &[&str]) -> [String; 4] {
        let (host, digests) = manifest(&tree(host));
        let delta = delta_of(&host, &digests, &nodes(&tree(far)));
        assert_eq!(delta.unsure, []);
        let names = |all: &[usize]| {
            all.iter().map(|at| host.entries()[*at].path.to_string()).collect::<Vec<_>>().join(" ")
        };
        let deletes: Vec<_> = delta.deletes.iter().map(ToString::to_string).collect();
        let changes: Vec<_> =
            delta.changes.iter().map(|Change { path, why }| format!("{path}:{why:?}")).collect();
        [deletes.join(" "), names(&delta.puts), names(&delta.metas), changes.join(" ")]
    }

    #[test]
    fn each_difference_is_put_right_and_named() {
        type Case = (&'static [&'static str], &'static [&'static str], [&'static str; 4]);
        #[rustfmt::skip]
        let cases: &[Case] = &[
            (&["a=1", "d/", "l->x"], &["a=1", "d/", "l->x"], ["", "", "", ""]),
            (&["a=1"], &[], ["", "a", "", "a:New"]),
            (&[], &["a=1"], ["a", "", "", "a:Deleted"]),
            (&["a=2"], &["a=1"], ["", "a", "", "a:Content"]),
            (&["a=12"], &["a=2"], ["", "a", "", "a:Content"]),
            (&["l->x"], &["l->y"], ["", "l", "", "l:Content"]),
            (&["a=1 755"], &["a=1"], ["", "", "a", "a:Mode"]),
            (&["a=1 755@5"], &["a=1"], ["", "", "a", "a:Mode"]),
            (&["a=1@5"], &["a=1"], ["", "", "a", "a:Mtime"]),
            (&["a=2 755@5"], &["a=1"], ["", "a", "", "a:Content"]),
            (&["d/ 755"], &["d/ 700"], ["", "", "d", "d:Mode"]),
            (&["d/@1"], &["d/@2"], ["", "", "d", "d:Mtime"]),
            (&["l->x 777"], &["l->x 755"], ["", "", "", ""]),
            (&["l->x@1"], &["l->x@2"], ["", "", "l", "l:Mtime"]),
            // Kinds.
            (&["a=1"], &["a->x"], ["a", "a", "", "a:Type"]),
            (&["a->x"], &["a=1"], ["a", "a", "", "a:Type"]),
            (&["a=1"], &["a|"], ["a", "a", "", "a:Type"]),
            (&[], &["a|"], ["a", "", "", "a:Deleted"]),
            (&["a=1"], &["a/", "a/b/", "a/b/c=1", "a-b=1"], ["a a-b", "a", "", "a:Type a-b:Deleted"]),
            (&["a/", "a/b=1", "a-b=1"], &["a=1", "a-b=1"], ["a", "a a/b", "", "a:Type a/b:New"]),
            (&["a->x"], &["a/", "a/b=1"], ["a", "a", "", "a:Type"]),
            // The names of one file travel together; a separated name travels alone.
            (&["a=1#1", "b=1#1"], &["a=1#7", "b=1#7"], ["", "", "", ""]),
            (&["a=1#1"], &["a=1"], ["", "", "", ""]),
            (&["a=1#1", "b=1#1", "c=1"], &["a=1", "b=1", "c=1"], ["", "a b", "", "b:Links"]),
            (&["a=1", "b=1"], &["a=1#1", "b=1#1"], ["", "b", "", "b:Links"]),
            (&["a=1", "b=1#1", "c=1#1"], &["a=1#1", "b=1#1", "c=1#1"], ["", "b c", "", "b:Links c:Links"]),
            (&["a=1#1", "b=1#1"], &["a=1#1", "b=1#1", "c=1#1"], ["c", "", "", "c:Deleted"]),
            (&["b=1#1", "c=1#1"], &["a=1#1", "b=1#1", "c=1#1"], ["a", "b c", "", "a:Deleted b:Links c:Links"]),
            (&["a=1#1", "b=1#1"], &["a=1 755"], ["", "a b", "", "a:Mode b:New"]),
            (&["a=1 755#1", "b=1 755#1"], &["a=1#1", "b=1#1"], ["", "", "a b", "a:Mode b:Mode"]),
            // Paths below a deleted directory go with it; its neighbours do not.
            (&["b=1"], &["a/", "a/x/", "a/x/y=1", "a/z=1", "a.c=1", "b=1"],
                ["a a.c", "", "", "a:Deleted a.c:Deleted"]),
            (&["a/", "a/b=1"], &["a/", "a/b=1", "a/c/", "a/c/d=1", "a/e=1"],
                ["a/c a/e", "", "", "a/c:Deleted a/e:Deleted"]),
            // Renames, also of case only.
            (&["new=1"], &["old=1"], ["old", "new", "", "new:New old:Deleted"]),
            (&["Readme=1"], &["README=1"], ["README", "Readme", "", "README:Deleted Readme:New"]),
            (&["D/", "D/a=1"], &["d/", "d/a=1"], ["d", "D D/a", "", "D:New D/a:New d:Deleted"]),
        ];
        for (host, far, wanted) in cases {
            assert_eq!(told(host, far), *wanted, "{far:?} -> {host:?}");
        }
    }

    #[test]
    fn a_file_of_unknown_content_is_decided_once_it_is_hashed() {
        let (host, known) = manifest(&tree(&["a=1", "b=2 755", "c=3", "d=4", "longer=55"]));
        let far = nodes(&tree(&["a=1", "b=1", "c=1", "d=4 700", "longer=5"]));
        let unsure = delta_of(&host, &[None; 5], &far);
        assert_eq!(unsure.unsure.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!((&unsure.puts[..], &unsure.metas[..]), (&[4][..], &[1, 3][..]));
        let mut delta = unsure;
        delta.resolve(&host, &[known[0], known[1], None, known[3], None]);
        assert_eq!(delta.unsure, []);
        assert_eq!((&delta.puts[..], &delta.metas[..]), (&[1, 2, 4][..], &[3][..]));
        let whys: Vec<_> = delta.changes.iter().map(|change| (change.path.to_string(), change.why)).collect();
        let wanted = [("b", Why::Content), ("c", Why::Content), ("d", Why::Mode), ("longer", Why::Content)];
        assert_eq!(whys, wanted.map(|(path, why)| (path.to_owned(), why)));
    }

    #[test]
    fn a_list_that_breaks_off_is_no_delta() {
        let (host, digests) = manifest(&tree(&["a=1"]));
        let far = [Err("cut off")].into_iter();
        assert_eq!(delta(&host, &digests, &|_| true, far), Err("cut off"));
    }

    #[test]
    fn what_was_not_asked_for_and_the_root_itself_change_nothing() {
        let (host, digests) = manifest(&tree(&["mine=1", "other=1"]));
        let mut far = nodes(&tree(&["mine=1", "other=2", "stray=1"]));
        far.insert(
            0,
            Node { path: RelPath::root(), kind: NodeKind::Directory, mode: 0, mtime: time(9), link: None },
        );
        let asked = |at: &RelPath| *at == path("mine");
        let Ok(delta) = delta(&host, &digests, &asked, far.into_iter().map(Ok::<_, Infallible>));
        assert!(delta.is_empty(), "{delta:?}");
    }

    #[cfg(feature = "client")]
    #[test]
    fn programs_read_reasons_as_words() {
        let change = Change { path: path("a/b"), why: Why::Mtime };
        assert_eq!(serde_json::to_string(&change).unwrap(), r#"{"path":"a/b","why":"mtime"}"#);
    }

    /// Paths of all depths that often collide, with neighbours that sort right after a directory.
    fn any_tree() -> impl Strategy<Value = Tree> {
        let name = prop::sample::select(vec!["a", "a-", "A", "b", "b.c"]);
        let at = prop::collection::vec(name, 1..4).prop_map(|names| path(&names.join("/")));
        let what = prop_oneof![
            Just(Is::Dir),
            (0..3u8, 1..3u64).prop_map(|(content, size)| Is::File(content, size)),
            prop::sample::select(vec!["x", "y"]).prop_map(Is::Link),
            Just(Is::Fifo),
        ];
        let mode = prop::sample::select(vec![0o644, 0o755]);
        let thing = (what, mode, 0..2i64, prop::option::of(1..4u64));
        let thing = thing.prop_map(|(what, mode, mtime, file)| Thing { what, mode, mtime, file });
        prop::collection::btree_map(at, thing, 0..14).prop_map(|mut tree| {
            // A path with others below it is a directory.
            let above: BTreeSet<_> = tree.keys().flat_map(parents).collect();
            for path in above {
                let thing =
                    tree.entry(path).or_insert(Thing { what: Is::Dir, mode: 0o755, mtime: 0, file: None });
                thing.what = Is::Dir;
            }
            one_file_is_one(&mut tree);
            tree
        })
    }

    /// All names of one file have equal data.
    fn one_file_is_one(tree: &mut Tree) {
        let mut files = BTreeMap::new();
        for thing in tree.values_mut() {
            match (&thing.what, thing.file) {
                (Is::File(..), Some(file)) => *thing = files.entry(file).or_insert(thing.clone()).clone(),
                _ => thing.file = None,
            }
        }
    }

    fn parents(path: &RelPath) -> Vec<RelPath> {
        std::iter::successors(path.parent(), RelPath::parent).filter(|path| !path.is_root()).collect()
    }

    /// The simplest possible far end.
    fn apply(delta: &Delta, host: &Tree, entries: &[Entry], far: &mut Tree) {
        for gone in &delta.deletes {
            assert!(far.contains_key(gone), "nothing to delete at {gone}");
            far.retain(|path, _| path != gone && !is_below(path, gone));
        }
        let (mut unused, mut made) = (100.., BTreeMap::new());
        for at in &delta.puts {
            let path = &entries[*at].path;
            let parent = path.parent().filter(|parent| !parent.is_root());
            assert!(parent.is_none_or(|parent| far[&parent].what == Is::Dir), "no directory for {path}");
            let new = unused.next().filter(|_| matches!(host[path].what, Is::File(..)));
            let file = host[path].file.map_or(new, |file| *made.entry(file).or_insert(new));
            far.insert(path.clone(), Thing { file, ..host[path].clone() });
        }
        for at in &delta.metas {
            let path = &entries[*at].path;
            let thing = far.get_mut(path).unwrap();
            (thing.mode, thing.mtime) = (host[path].mode, host[path].mtime);
        }
        // A change of mode or time applies to all names of the file.
        let mut together = far.clone();
        one_file_is_one(&mut together);
        assert_eq!(*far, together);
    }

    /// The relevant part: no fifos, no modes of links; which names are one file, but not which.
    fn essence(tree: &Tree) -> Tree {
        let mut tree = tree.clone();
        tree.retain(|_, thing| thing.what != Is::Fifo);
        for thing in tree.values_mut().filter(|thing| matches!(thing.what, Is::Link(_))) {
            thing.mode = 0;
        }
        let firsts: Vec<_> = tree.keys().map(|path| first(&tree, path)).collect();
        let number =
            |first: Option<RelPath>| first.and_then(|first| tree.keys().position(|path| *path == first));
        let files: Vec<_> = firsts.into_iter().map(|first| number(first).map(|at| at as u64)).collect();
        tree.values_mut().zip(files).for_each(|(thing, file)| thing.file = file);
        tree
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn the_delta_of_the_differing_buckets_makes_the_far_tree_the_host_s(
            host in any_tree(),
            far in any_tree(),
            mixed in prop::collection::vec(0..3u8, 60),
            unknown in prop::collection::vec(prop::bool::weighted(0.2), 60),
            buckets in prop::sample::select(vec![1, 4, 16]),
        ) {
            // Half of the trees have much in common.
            let mut far = far;
            for ((path, thing), mix) in host.iter().zip(mixed) {
                let is_free = parents(path).iter().all(|parent| far.get(parent).is_some_and(|p| p.what == Is::Dir));
                let is_leaf = !far.keys().any(|other| is_below(other, path)) || thing.what == Is::Dir;
                if mix > 0 && is_free && is_leaf {
                    far.insert(path.clone(), thing.clone());
                }
            }
            one_file_is_one(&mut far);
            let (manifest, known) = manifest(&host);
            let digests: Vec<_> =
                known.iter().zip(&unknown).map(|(digest, unknown)| digest.filter(|_| !unknown)).collect();
            let ours = summary::of(&manifest, &digests, buckets);
            let mut summarizer = Summarizer::new(buckets);
            let nodes = nodes(&far);
            for node in &nodes {
                summarizer.add(&node.path, What::of_node(&node.kind), node.mode, node.mtime);
                summarizer.link(&node.path, node.link.as_ref());
            }
            let differing = ours.differing(&summarizer.finish());
            let listed = nodes.into_iter().filter(|node| differing.holds(&node.path)).map(Ok::<_, Infallible>);
            let Ok(mut delta) = delta(&manifest, &digests, &|path| differing.holds(path), listed);

            delta.resolve(&manifest, &known);
            prop_assert!(delta.changes.is_sorted_by(|a, b| a.path < b.path));
            prop_assert!(delta.puts.is_sorted_by(|a, b| a < b));
            apply(&delta, &host, manifest.entries(), &mut far);
            prop_assert_eq!(essence(&far), essence(&host));
            if delta.is_empty() {
                prop_assert_eq!(&delta.changes, &[]);
            }
        }
    }
}
