//! Staging and applying on a real disk, without an engine: tests make what a container sends.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    entry::{Kind, RelPath, Timestamp},
    outputs::{
        apply::Scope,
        digest::digest_of,
        ops::{Action, Op},
        stage::{Listed, Staging, StagingOptions, Uploaded},
        stage_dir::Stage,
        target::{Target, native_join},
    },
    tree::{
        Digest,
        ignore::Rules,
        node::{Node as Listing, NodeKind, NodeReader, NodeWriter},
        scan::{Scan, ScanOptions, scan},
        summary::{Differing, Summarizer, Summary, What},
    },
};

/// What the build made, or what is on the host: path -> node. Parents are always there.
pub type Nodes = BTreeMap<String, Node>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Dir(u32),
    File(String, u32),
    Link(String),
}

pub fn file(content: &str) -> Node {
    Node::File(content.to_owned(), 0o644)
}

pub fn nodes<const N: usize>(list: [(&str, Node); N]) -> Nodes {
    let mut nodes = Nodes::new();
    for (path, node) in list {
        add(&mut nodes, path, node);
    }
    nodes
}

/// Adds a node and its parents. Nodes in their way, and nodes below, are removed.
pub fn add(nodes: &mut Nodes, path: &str, node: Node) {
    for (at, _) in path.match_indices('/') {
        if !matches!(nodes.get(&path[..at]), Some(Node::Dir(_))) {
            nodes.insert(path[..at].to_owned(), Node::Dir(0o755));
        }
    }
    if !matches!(node, Node::Dir(_)) {
        remove(nodes, path);
    }
    nodes.insert(path.to_owned(), node);
}

fn remove(nodes: &mut Nodes, path: &str) {
    let below = format!("{path}/");
    nodes.retain(|other, _| other != path && !other.starts_with(&below));
}

/// Products as the far end lists them, the root first.
pub fn listing_of(products: &Nodes) -> Vec<Listing> {
    let top = ("".to_owned(), Node::Dir(0o755));
    let listing = |(path, node): (&String, &Node)| Listing {
        path: RelPath::new(path.as_bytes()).unwrap(),
        kind: match node {
            Node::Dir(_) => NodeKind::Directory,
            Node::File(content, _) => NodeKind::File {
                size: content.len() as u64,
                digest: digest_of(&mut content.as_bytes()).unwrap(),
            },
            Node::Link(target) => NodeKind::Symlink { target: target.as_bytes().into() },
        },
        mode: match node {
            Node::Dir(mode) | Node::File(_, mode) => *mode,
            Node::Link(_) => 0o777,
        },
        mtime: Timestamp { secs: 1_500_000_000, nanos: 0 },
        link: None,
    };
    let mut list: Vec<_> = products.iter().chain([(&top.0, &top.1)]).map(listing).collect();
    list.sort_by(|a, b| a.path.cmp(&b.path));
    list
}

/// Nodes on the wire.
pub fn wire(nodes: &[Listing]) -> Vec<u8> {
    let mut writer = NodeWriter::new(Vec::new());
    nodes.iter().for_each(|node| writer.write(node).unwrap());
    writer.finish().unwrap()
}

/// What the far end finds different from the host's summary.
pub fn differing(host: &[u8], list: &[Listing]) -> Differing {
    let Some(host) = Summary::from_bytes(host).filter(|_| !host.is_empty()) else { return Differing::all(1) };
    let mut summarizer = Summarizer::new(host.buckets());
    for node in list.iter().filter(|node| !node.path.is_root()) {
        summarizer.add(&node.path, What::of_node(&node.kind), node.mode, Timestamp::default());
    }
    summarizer.finish().differing(&host)
}

/// The contents that were asked for, as the far end packs them.
pub fn contents_of(list: &[Listing], wanted: &[u32], products: &Nodes) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for node in wanted.iter().map(|at| &list[*at as usize]) {
        let path = node.path.as_bytes();
        let path = std::str::from_utf8(path).unwrap();
        let Some(Node::File(content, mode)) = products.get(path) else { panic!("{path} is no file") };
        let mut header = tar::Header::new_ustar();
        header.set_mode(*mode);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, format!("out/{path}"), content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn read_tree(root: &Path) -> Nodes {
    fn visit(dir: &Path, prefix: &str, found: &mut Nodes) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            let metadata = entry.path().symlink_metadata().unwrap();
            let mode = metadata.mode() & 0o7777;
            if metadata.is_dir() {
                found.insert(path.clone(), Node::Dir(mode));
                visit(&entry.path(), &format!("{path}/"), found);
            } else if metadata.is_symlink() {
                let target = fs::read_link(entry.path()).unwrap();
                found.insert(path, Node::Link(target.to_str().unwrap().to_owned()));
            } else {
                found.insert(path, Node::File(fs::read_to_string(entry.path()).unwrap(), mode));
            }
        }
    }
    let mut found = Nodes::new();
    visit(root, "", &mut found);
    found
}

/// A host: a directory with a canary beside the output, and fastbuild's own files elsewhere.
pub struct Host {
    home: TempDir,
    runs: u32,
}

impl Host {
    pub fn new() -> Host {
        let home = tempfile::tempdir().unwrap();
        for dir in ["host", "host/canary", "state"] {
            fs::create_dir(home.path().join(dir)).unwrap();
        }
        fs::write(home.path().join("host/canary/bird"), "sings").unwrap();
        Host { home, runs: 0 }
    }

    fn base(&self) -> PathBuf {
        self.home.path().canonicalize().unwrap().join("host")
    }

    pub fn output(&self, name: &str) -> PathBuf {
        self.base().join(name)
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.base().join("out").join(path)
    }

    pub fn books(&self) -> Books {
        let state = self.home.path().join("state");
        Books {
            run: format!("run{}", self.runs),
            journal: state.join("journal"),
            record: state.join("outputs"),
            displaced: Place {
                dir: state.join("displaced"),
                index: state.join("moved"),
                command: String::new(),
            },
        }
    }

    pub fn record(&self) -> Record {
        Record::load(&self.books().record)
    }

    /// Receives what the build has left at the output `name`: `products`, in place of everything
    /// that the host has there.
    fn stage_at(&mut self, name: &str, products: &Nodes, mode: ApplyMode) -> Staged {
        self.runs += 1;
        let (record, run) = (self.record(), self.books().run);
        let options = StagingOptions { run: &run, record: &record, apply: mode, only: None };
        let target = Target::named(&self.output(name)).unwrap();
        let went_in = WentIn::of(&self.base(), &[]);
        let at = RelPath::new(name.as_bytes()).unwrap();
        let had = read_tree(&self.output(name));
        went_in.stage(name, target, Scope::Synced, at, (&had, products), options).unwrap()
    }

    fn stage(&mut self, products: &Nodes, mode: ApplyMode) -> Staged {
        self.stage_at("out", products, mode)
    }

    pub fn apply(&mut self, staged: Vec<Staged>) -> Result<Outcome, OutputError> {
        let applied = apply(staged, self.record(), &self.books());
        self.assert_tidy();
        applied
    }

    pub fn build(&mut self, products: &Nodes, mode: ApplyMode) -> Outcome {
        let staged = self.stage(products, mode);
        self.apply(vec![staged]).unwrap()
    }

    #[track_caller]
    fn assert_tidy(&self) {
        assert!(!self.books().journal.exists());
        let names: BTreeSet<_> =
            fs::read_dir(self.base()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let stages: Vec<_> = names.iter().filter(|name| name.to_str().unwrap().starts_with('.')).collect();
        assert!(stages.is_empty(), "{stages:?}");
        assert_eq!(fs::read_to_string(self.base().join("canary/bird")).unwrap(), "sings");
    }

    pub fn tree(&self) -> Nodes {
        read_tree(&self.output("out"))
    }

    /// Contents of the user's files that were moved to safety.
    pub fn displaced(&self) -> BTreeSet<String> {
        contents(&read_tree(&self.books().displaced.dir))
    }

    /// Makes a user's edit. An edit that is not possible is skipped.
    pub fn edit(&self, edit: &Edit) {
        let path = |path: &str| self.path(path);
        match edit {
            Edit::Write(at, content) => {
                let _ = fs::create_dir_all(path(at).parent().unwrap());
                if !path(at).is_symlink() {
                    let _ = fs::write(path(at), content);
                }
            }
            Edit::Link(at, target) => drop(symlink(target, path(at))),
            Edit::Remove(at) => match path(at).symlink_metadata() {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path(at)).unwrap(),
                Ok(_) => fs::remove_file(path(at)).unwrap(),
                Err(_) => {}
            },
            Edit::MakeDir(at) => drop(fs::create_dir_all(path(at))),
        }
    }
}

fn contents(nodes: &Nodes) -> BTreeSet<String> {
    let content = |node: &Node| match node {
        Node::File(content, _) => Some(content.clone()),
        Node::Link(target) => Some(target.clone()),
        Node::Dir(_) => None,
    };
    nodes.values().filter_map(content).collect()
}

/// Contents that the user made: they begin with `u`, those of products with `p`.
fn users(nodes: &Nodes) -> BTreeSet<String> {
    contents(nodes).into_iter().filter(|content| content.starts_with('u')).collect()
}

#[derive(Debug, Clone)]
pub enum Edit {
    Write(String, String),
    Link(String, String),
    Remove(String),
    MakeDir(String),
}

fn any_path() -> impl Strategy<Value = String> {
    let name = || prop_oneof![Just("a"), Just("b"), Just("a-b")];
    prop::collection::vec(name(), 1..4).prop_map(|names| names.join("/"))
}

pub fn any_products() -> impl Strategy<Value = Nodes> {
    let node = prop_oneof![
        4 => (0..3, prop_oneof![Just(0o644), Just(0o755), Just(0o400)]).prop_map(|(n, mode)| Node::File(format!("p{n}"), mode)),
        1 => (0..2).prop_map(|n| Node::Link(format!("p-target-{n}"))),
        2 => prop_oneof![Just(0o755), Just(0o700), Just(0o555)].prop_map(Node::Dir),
    ];
    prop::collection::vec((any_path(), node), 0..8).prop_map(|list| {
        let mut nodes = Nodes::new();
        list.into_iter().for_each(|(path, node)| add(&mut nodes, &path, node));
        nodes
    })
}

/// A source tree as it was uploaded.
pub struct WentIn {
    scan: Scan,
    digests: Vec<Option<Digest>>,
    rules: Rules,
}

impl WentIn {
    pub fn of(root: &Path, kept: &[&str]) -> WentIn {
        let rules = Rules::new(kept).unwrap();
        let scan = scan(root, &ScanOptions { rules: &rules, leave_out: &[], progress: &|_| {} }).unwrap();
        let digest = |entry: &crate::tree::Entry| {
            let file = || fs::File::open(native_join(root, &entry.path)).unwrap();
            matches!(entry.kind, Kind::File { .. }).then(|| digest_of(&mut file()).unwrap())
        };
        let digests = scan.manifest.entries().iter().map(digest).collect();
        WentIn { scan, digests, rules }
    }

    /// Stages the differences of a tree at `at` that was `before` and is `after`.
    pub fn stage(
        &self,
        name: &str,
        target: Target,
        scope: Scope,
        at: RelPath,
        (before, after): (&Nodes, &Nodes),
        options: StagingOptions<'_>,
    ) -> Result<Staged, OutputError> {
        let WentIn { scan, digests, rules } = self;
        let uploaded = Uploaded { manifest: &scan.manifest, digests, rules };
        let mut staging = Staging::begin(name, 0, target, scope, None, Some((uploaded, at)), options)?;
        let is_other = |(path, node): &(&String, &Node)| before.get(*path) != Some(node);
        let changed: Nodes =
            after.iter().filter(is_other).map(|(path, node)| (path.clone(), node.clone())).collect();
        let mut list = listing_of(&changed);
        // The far end lists the root only when it changed.
        list.retain(|node| !node.path.is_root() || before.is_empty() && scope == Scope::Synced);
        let gone = before.keys().filter(|path| !after.contains_key(*path));
        let node = |path: &String| Listing {
            path: RelPath::new(path.as_bytes()).unwrap(),
            kind: NodeKind::Directory,
            mode: 0,
            mtime: Timestamp::default(),
            link: None,
        };
        let mut gone: Vec<_> = gone.map(node).collect();
        gone.sort_by(|a, b| a.path.cmp(&b.path));
        staging.expect(&mut NodeReader::new(&*wire(&list)), Listed::Changes)?;
        staging.expect_gone(&mut NodeReader::new(&*wire(&gone)))?;
        let contents = contents_of(&list, &staging.wanted().nodes, &changed);
        staging.receive_wanted(&*contents, &|_| {})?;
        staging.finish()
    }
}

/// Each edit has its own content, so that the loss of one is noticed.
pub fn any_edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = (any_path(), 0..6);
    prop::collection::vec(edit, 0..5).prop_map(|edits| {
        let numbered = edits.into_iter().enumerate();
        let edit = |(number, (path, kind))| match kind {
            0..3 => Edit::Write(path, format!("u{number}")),
            3 => Edit::Link(path, format!("u{number}")),
            4 => Edit::Remove(path),
            _ => Edit::MakeDir(path),
        };
        numbered.map(edit).collect()
    })
}

fn any_mode() -> impl Strategy<Value = ApplyMode> {
    prop_oneof![Just(ApplyMode::PerFile), Just(ApplyMode::Atomic)]
}

/// The state before the build in question: an earlier build's products, edited since.
fn host_with(earlier: &Nodes, edits: &[Edit]) -> Host {
    let mut host = Host::new();
    host.build(earlier, ApplyMode::PerFile);
    edits.iter().for_each(|edit| host.edit(edit));
    host
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn products_replace_products_whatever_they_were(
        first in any_products(), second in any_products(), mode in any_mode()
    ) {
        let mut host = Host::new();
        host.build(&first, mode);
        prop_assert_eq!(&host.tree(), &first);
        let outcome = host.build(&second, mode);
        prop_assert_eq!(&host.tree(), &second);
        prop_assert!(outcome.warnings.is_empty(), "{:?}", outcome.warnings);
        prop_assert_eq!(host.displaced().len(), 0);
        let again = host.build(&second, mode);
        prop_assert_eq!((again.applied.written, again.applied.deleted), (0, 0));
    }

    #[test]
    fn nothing_of_the_users_is_lost_and_every_product_arrives(
        earlier in any_products(), edits in any_edits(), late in any_edits(), products in any_products(),
        mode in any_mode()
    ) {
        let mut host = host_with(&earlier, &edits);
        let staged = host.stage(&products, mode);
        let compared = contents(&host.tree());
        // Edits between staging and applying have contents of their own.
        for edit in &late {
            let edit = match edit.clone() {
                Edit::Write(path, content) => Edit::Write(path, format!("{content}-late")),
                other => other,
            };
            host.edit(&edit);
        }
        let before = host.tree();
        match host.apply(vec![staged]) {
            Ok(_) => {
                let everywhere: BTreeSet<_> = contents(&host.tree()).union(&host.displaced()).cloned().collect();
                for content in users(&before) {
                    prop_assert!(everywhere.contains(&content), "{} is lost", content);
                }
                // Content that was right when compared and edited since counts as edited later.
                let was_right = |content: &String| !late.is_empty() && compared.contains(content);
                for content in contents(&products).into_iter().filter(|content| !was_right(content)) {
                    prop_assert!(everywhere.contains(&content), "{} did not arrive", content);
                }
            }
            // Taken back, because a directory's place was taken meanwhile.
            Err(OutputError::TakenBack { .. } | OutputError::Host { .. } | OutputError::BadTarget { .. }) if !late.is_empty() => {
                prop_assert_eq!(host.tree(), before);
            }
            Err(error) => prop_assert!(false, "{:?}", error),
        }
    }

}

proptest! {
    // Each case makes some twenty crashes.
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_recovery_after_any_step_comes_to_the_same_tree(
        earlier in any_products(), edits in any_edits(), products in any_products(), mode in any_mode()
    ) {
        let mut whole = host_with(&earlier, &edits);
        let staged = whole.stage(&products, mode);
        whole.apply(vec![staged]).unwrap();
        let mut steps = 1;
        let mut done = 0;
        while done <= steps {
            for done_again in [0, 1, 3] {
                let mut host = host_with(&earlier, &edits);
                let mut staged = host.stage(&products, mode);
                if mode == ApplyMode::Atomic {
                    prepare_swap(&mut staged).unwrap();
                }
                steps = staged.ops.len();
                crash_after(&host, staged, done, done_again);
                finish_dead(&host).unwrap();
                host.assert_tidy();
                prop_assert_eq!(host.tree(), whole.tree(), "after {} of {} steps", done, steps);
                prop_assert_eq!(host.displaced(), whole.displaced(), "after {} of {} steps", done, steps);
                let known = |host: &Host| {
                    let output = host.output("out");
                    host.record().below(&output).map(|(path, entry)| (path.to_owned(), entry.what.clone())).collect::<Vec<_>>()
                };
                prop_assert_eq!(known(&host), known(&whole), "after {} of {} steps", done, steps);
            }
            done += 1;
        }
    }
}

/// The journal is written, `done` steps are carried out, and the process dies. The next one dies
/// too, after carrying out `done_again` steps.
fn crash_after(host: &Host, mut staged: Staged, done: usize, done_again: usize) {
    let books = host.books();
    journal_of(std::slice::from_ref(&staged), &books).commit(&books.journal).unwrap();
    staged.stage.keep();
    let mut executor = Executor::new(&staged.target, &staged.stage, Attempt::First);
    for op in staged.ops.iter().take(done) {
        executor.carry_out(op).unwrap();
    }
    drop(executor);
    let mut again = Stage::reopen(&staged.stage.path).unwrap();
    again.keep();
    let mut executor = Executor::new(&staged.target, &again, Attempt::Again);
    for op in staged.ops.iter().take(done_again) {
        executor.carry_out(op).unwrap();
    }
}

#[test]
fn of_an_output_that_is_edited_meanwhile_the_builds_version_stands() {
    for mode in [ApplyMode::PerFile, ApplyMode::Atomic] {
        let old = nodes([("replaced", file("p0")), ("deleted", file("p0")), ("d/x", file("p0"))]);
        let mut host = host_with(&old, &[]);
        let new = nodes([("replaced", file("p1")), ("new", file("p1")), ("d/x", file("p1"))]);
        let staged = host.stage(&new, mode);
        for path in ["replaced", "deleted", "new"] {
            host.edit(&Edit::Write(path.into(), format!("u-{path}")));
        }
        let outcome = host.apply(vec![staged]).unwrap();
        assert_eq!(host.tree(), new);
        let safe = ["u-replaced", "u-deleted", "u-new"].map(str::to_owned);
        assert_eq!(host.displaced(), safe.into());
        assert_eq!((outcome.applied.conflicts, outcome.applied.deleted), (3, 1));
    }
}

#[test]
fn an_edit_that_keeps_size_and_mtime_is_one() {
    let had = ["replaced", "deleted", "mode"].map(|path| (path, file("p0")));
    let mut host = host_with(&nodes(had), &[]);
    let made = nodes([("replaced", file("p1")), ("mode", Node::File("p0".into(), 0o755))]);
    let staged = host.stage(&made, ApplyMode::PerFile);
    for (path, edit) in [("replaced", "u1"), ("deleted", "u2"), ("mode", "u3")] {
        let was = host.path(path).metadata().unwrap();
        // Until the clock has ticked.
        while was.ctime_nsec() == host.path(path).metadata().unwrap().ctime_nsec() {
            fs::write(host.path(path), edit).unwrap();
            fs::File::open(host.path(path)).unwrap().set_modified(was.modified().unwrap()).unwrap();
        }
    }
    let outcome = host.apply(vec![staged]).unwrap();
    // A mode alone has nothing to put.
    let left = nodes([("replaced", file("p1")), ("mode", file("u3"))]);
    assert_eq!((host.tree(), outcome.applied.conflicts), (left, 3));
    assert_eq!(host.displaced(), ["u1", "u2"].map(str::to_owned).into());
}

#[test]
fn of_a_source_that_is_edited_meanwhile_the_hosts_version_stands() {
    let mut host = Host::new();
    fs::create_dir(host.output("out")).unwrap();
    for path in ["replaced", "deleted", "gone", "same", "d/x"] {
        host.edit(&Edit::Write(path.into(), "u0".into()));
    }
    let went_in = WentIn::of(&host.path(""), &[]);
    let had = host.tree();
    let mut built =
        nodes([("replaced", file("p1")), ("new", file("p1")), ("gone", file("p1")), ("d", file("p2"))]);
    built.insert("same".into(), file("p3"));
    let (record, run) = (host.record(), host.books().run);
    let options = StagingOptions { run: &run, record: &record, apply: ApplyMode::PerFile, only: None };
    let target = Target::directory(&host.path("").canonicalize().unwrap()).unwrap();
    let staged =
        went_in.stage("/w", target, Scope::SourceRoot, RelPath::root(), (&had, &built), options).unwrap();
    for path in ["replaced", "deleted", "new", "d/y"] {
        host.edit(&Edit::Write(path.into(), format!("u-{path}")));
    }
    host.edit(&Edit::Remove("gone".into()));
    // A user's change that equals the build's is not a conflict.
    host.edit(&Edit::Write("same".into(), "p3".into()));
    let outcome = host.apply(vec![staged]).unwrap();
    let tree = host.tree();
    for path in ["replaced", "deleted", "new", "d/y"] {
        assert_eq!(tree.get(path), Some(&file(&format!("u-{path}"))), "{path}");
    }
    assert_eq!((tree.get("gone"), tree.get("same")), (None, Some(&file("p3"))));
    let safe: BTreeSet<_> = ["p1", "p2", "u0"].map(str::to_owned).into();
    assert_eq!(host.displaced(), safe, "the build's, and what it deleted");
    assert_eq!(outcome.applied.conflicts, 5);
}

/// Removes a file from the stage that a step is to put in place.
fn lose_product(staged: &Staged) {
    let number = staged.ops.iter().find_map(|op| match &op.action {
        Action::Put { slot, .. } => Some(slot.number),
        _ => None,
    });
    fs::remove_file(staged.stage.path.join(number.unwrap().to_string())).unwrap();
}

#[test]
fn a_step_that_fails_takes_all_outputs_back() {
    let mut host = Host::new();
    let old = nodes([
        ("a", file("p0")),
        ("gone/deep/x", file("p0")),
        ("kind", Node::Link("p-target".into())),
        ("mode", file("p0")),
        ("turn/into/file", file("p0")),
    ]);
    host.build(&old, ApplyMode::PerFile);
    host.edit(&Edit::Write("way".into(), "u-way".into()));
    host.edit(&Edit::Write("dir".into(), "u-dir".into()));
    let before = (host.tree(), host.record());
    let inode = fs::metadata(host.path("a")).unwrap().ino();
    let new = nodes([
        ("a", file("p1")),
        ("dir/x", file("p1")),
        ("fresh/x", file("p1")),
        ("kind", file("p1")),
        ("mode", Node::File("p0".into(), 0o755)),
        ("turn", file("p1")),
        ("way", file("p1")),
    ]);
    let first = host.stage(&new, ApplyMode::PerFile);
    let second = host.stage_at("second", &nodes([("x/y", file("p1"))]), ApplyMode::PerFile);
    lose_product(&second);
    let error = host.apply(vec![first, second]).unwrap_err();
    assert!(matches!(error, OutputError::TakenBack { .. }), "{error}");
    assert_eq!((host.tree(), host.record()), before);
    assert_eq!(fs::metadata(host.path("a")).unwrap().ino(), inode, "it is the old file itself");
    assert!(!host.output("second").exists());
}

/// The next start.
fn finish_dead(host: &Host) -> Result<Option<Recovered>, OutputError> {
    recover(&host.books().journal, &host.books().record, |_| Ok(()))
}

#[test]
fn a_recovery_that_cannot_save_keeps_the_users_files_for_the_next_one() {
    let mut host = Host::new();
    fs::create_dir(host.output("out")).unwrap();
    host.edit(&Edit::Write("a".into(), "u-a".into()));
    let staged = host.stage(&nodes([("a", file("p1")), ("z", file("p1"))]), ApplyMode::PerFile);
    crash_after(&host, staged, 1, 0);
    // The next start finds a file where it has to make a directory, until the file is removed.
    let dir = host.books().displaced.dir;
    fs::write(&dir, "in the way").unwrap();
    for _ in 0..2 {
        finish_dead(&host).unwrap_err();
    }
    fs::remove_file(dir).unwrap();
    finish_dead(&host).unwrap();
    host.assert_tidy();
    assert_eq!(host.displaced(), ["u-a".to_owned()].into());
    assert_eq!(host.tree(), nodes([("a", file("p1")), ("z", file("p1"))]));
}

#[test]
fn a_recovery_goes_on_where_somebody_has_been_meanwhile() {
    let in_the_way = Edit::Write("z".into(), "u-z".into());
    let users = |more: &[&str]| -> BTreeSet<_> { more.iter().map(|content| (*content).to_owned()).collect() };
    for (edit, tree, safe) in [
        // A product that has no place any more is kept in the safe place.
        (
            in_the_way,
            nodes([("a", file("p1")), ("b", file("p1")), ("z", file("u-z"))]),
            users(&["u-a", "p1"]),
        ),
        (Edit::Remove("".into()), nodes([("b", file("p1")), ("z/x", file("p1"))]), users(&["u-a"])),
    ] {
        let mut host = Host::new();
        fs::create_dir(host.output("out")).unwrap();
        host.edit(&Edit::Write("a".into(), "u-a".into()));
        let new = nodes([("a", file("p1")), ("b", file("p1")), ("z/x", file("p1"))]);
        let staged = host.stage(&new, ApplyMode::PerFile);
        let at_a = |op: &Op| op.path == RelPath::new(b"out/a".as_slice()).unwrap();
        let steps = staged.ops.iter().position(at_a).unwrap() + 1;
        crash_after(&host, staged, steps, 0);
        host.edit(&Edit::Remove("z".into()));
        host.edit(&edit);
        finish_dead(&host).unwrap().unwrap();
        host.assert_tidy();
        assert_eq!((host.tree(), host.displaced()), (tree, safe));
    }
}

/// A directory may be filled by the user while it is taken back.
#[test]
fn an_apply_that_is_torn_is_finished_by_the_next_start_and_costs_nothing() {
    for _ in 0..20 {
        let mut host = Host::new();
        fs::create_dir(host.output("out")).unwrap();
        host.edit(&Edit::Write("a".into(), "u-a".into()));
        let mut new = nodes([("a", file("p1")), ("new/x", file("p1"))]);
        (0..500).for_each(|number| add(&mut new, &format!("n{number}"), file("p1")));
        let staged = host.stage(&new, ApplyMode::PerFile);
        let books = host.books();
        let stage = staged.stage.path.clone();
        // The record cannot be written, so all is taken back, except where something is in the way.
        let record = Books { record: host.output("canary"), ..books.clone() };
        let users = host.path("new/u");
        let user = std::thread::spawn(move || while fs::write(&users, "u-new").is_err() {});
        let error = apply(vec![staged], host.record(), &record).unwrap_err();
        if matches!(error, OutputError::TakenBack { .. }) {
            // The user came too late, and retries until there is a directory to write to.
            let _ = fs::create_dir(host.path("new"));
            user.join().unwrap();
            continue;
        }
        user.join().unwrap();
        assert!(matches!(error, OutputError::Torn { .. }), "{error}");
        assert!(stage.exists() && !books.journal.exists());
        let torn = books.journal.with_file_name(format!("torn-{}", books.run));
        recover(&torn, &books.record, |_| Ok(())).unwrap().unwrap();
        host.assert_tidy();
        add(&mut new, "new/u", file("u-new"));
        assert_eq!(host.tree(), new);
        assert_eq!(host.displaced(), ["u-a".to_owned()].into());
        return;
    }
    panic!("nobody came in time");
}

#[test]
fn an_exchange_that_comes_late_takes_over_what_the_user_did_meanwhile() {
    let old = [("a", file("p0")), ("d/gone", file("u0")), ("d/moved", file("u1")), ("mine", file("u2"))];
    let mut host = Host::new();
    host.build(&nodes([("a", file("p0"))]), ApplyMode::Atomic);
    for (path, node) in &old[1..] {
        let Node::File(content, _) = node else { continue };
        host.edit(&Edit::Write((*path).into(), content.clone()));
    }
    let mut new = nodes(old.clone());
    new.insert("a".into(), file("p1"));
    let mut staged = host.stage(&new, ApplyMode::Atomic);
    prepare_swap(&mut staged).unwrap();
    crash_after(&host, staged, 0, 0);
    host.edit(&Edit::Remove("d/gone".into()));
    fs::rename(host.path("d/moved"), host.path("moved")).unwrap();
    // As editors save.
    fs::write(host.path("mine.new"), "u-new").unwrap();
    fs::rename(host.path("mine.new"), host.path("mine")).unwrap();
    finish_dead(&host).unwrap();
    host.assert_tidy();
    let mut expected = nodes([("a", file("p1")), ("mine", file("u-new")), ("moved", file("u1"))]);
    add(&mut expected, "d", Node::Dir(0o755));
    assert_eq!(host.tree(), expected);
    assert!(host.displaced().is_empty());
}

#[test]
fn an_old_tree_that_the_user_removed_does_not_come_back_with_the_new_one() {
    let mut host = Host::new();
    host.build(&nodes([("a", file("p0"))]), ApplyMode::Atomic);
    host.edit(&Edit::Write("mine".into(), "u0".into()));
    let mut staged = host.stage(&nodes([("a", file("p1"))]), ApplyMode::Atomic);
    prepare_swap(&mut staged).unwrap();
    crash_after(&host, staged, 0, 0);
    host.edit(&Edit::Remove("".into()));
    assert_eq!(finish_dead(&host).unwrap().unwrap().lost, 1);
    host.assert_tidy();
    assert!(host.tree().is_empty());
}

#[test]
fn what_a_power_cut_took_from_the_stage_is_lost_and_not_put_in_place() {
    let mut host = Host::new();
    host.build(&nodes([("a", file("p0")), ("b", file("p0"))]), ApplyMode::PerFile);
    let staged = host.stage(&nodes([("a", file("p1")), ("b", file("p1"))]), ApplyMode::PerFile);
    let slot = match &staged.ops[0].action {
        Action::Put { slot, .. } => staged.stage.path.join(slot.number.to_string()),
        other => panic!("{other:?}"),
    };
    crash_after(&host, staged, 0, 0);
    fs::write(slot, "").unwrap();
    let recovered = finish_dead(&host).unwrap().unwrap();
    assert_eq!(recovered.lost, 1);
    assert_eq!(host.tree(), nodes([("a", file("p0")), ("b", file("p1"))]));
    assert!(host.displaced().is_empty());
}

#[test]
fn an_exchange_keeps_what_was_written_to_the_old_tree_after_it_was_prepared() {
    let mut host = Host::new();
    host.build(&nodes([("a", file("p0")), ("b", file("p0"))]), ApplyMode::Atomic);
    let mut staged = host.stage(&nodes([("a", file("p1")), ("b", file("p1"))]), ApplyMode::Atomic);
    prepare_swap(&mut staged).unwrap();
    crash_after(&host, staged, 0, 0);
    // Hours may pass between a power cut and the next start.
    host.edit(&Edit::Write("new".into(), "u-new".into()));
    fs::remove_file(host.path("a")).unwrap();
    host.edit(&Edit::Write("a".into(), "u-a".into()));
    finish_dead(&host).unwrap();
    host.assert_tidy();
    assert_eq!(host.tree(), nodes([("a", file("p1")), ("b", file("p1")), ("new", file("u-new"))]));
    assert_eq!(host.displaced(), ["u-a".to_owned()].into());
}

/// An output that waits for its exchange, and the user's edits of the old tree until then: the new
/// tree has room for the strays `new` and `dir/new`, but not for `a` and `gone/new`.
fn exchange_with_strays(host: &mut Host) -> Staged {
    let old = [("a", file("p0")), ("b", file("p0")), ("dir/x", file("p0")), ("gone/x", file("p0"))];
    host.build(&nodes(old), ApplyMode::Atomic);
    let new = nodes([("a", file("p1")), ("b", file("p1")), ("dir/x", file("p1"))]);
    let mut staged = host.stage(&new, ApplyMode::Atomic);
    prepare_swap(&mut staged).unwrap();
    for path in ["new", "dir/new", "made/new", "gone/new"] {
        host.edit(&Edit::Write(path.into(), format!("u-{path}")));
    }
    host.edit(&Edit::Remove("a".into()));
    host.edit(&Edit::Write("a".into(), "u-a".into()));
    // This test is only about the exchange: the tree is not prepared a second time.
    staged.apply = ApplyMode::PerFile;
    staged
}

#[test]
fn strays_that_an_exchange_met_are_back_in_the_old_tree_when_another_output_fails() {
    let mut host = Host::new();
    let first = exchange_with_strays(&mut host);
    let before = (host.tree(), host.record());
    let second = host.stage_at("second", &nodes([("x/y", file("p1"))]), ApplyMode::PerFile);
    lose_product(&second);
    let error = host.apply(vec![first, second]).unwrap_err();
    assert!(matches!(error, OutputError::TakenBack { .. }), "{error}");
    assert_eq!((host.tree(), host.record()), before);
}

#[test]
fn strays_that_an_exchange_met_are_back_in_the_old_tree_when_the_record_cannot_be_written() {
    let mut host = Host::new();
    let staged = exchange_with_strays(&mut host);
    let (before, record) = (host.tree(), host.record());
    // A directory is where the record should be written.
    let books = Books { record: host.output("canary"), ..host.books() };
    let error = apply(vec![staged], record, &books).unwrap_err();
    assert!(matches!(error, OutputError::TakenBack { .. }), "{error}");
    host.assert_tidy();
    assert_eq!(host.tree(), before);
}

#[test]
fn strays_that_an_exchange_met_are_back_in_the_old_tree_when_they_cannot_be_saved() {
    let mut host = Host::new();
    let staged = exchange_with_strays(&mut host);
    let before = (host.tree(), host.record());
    fs::write(host.books().displaced.dir, "a file where the directory should be").unwrap();
    let error = host.apply(vec![staged]).unwrap_err();
    assert!(matches!(error, OutputError::TakenBack { .. }), "{error}");
    assert_eq!((host.tree(), host.record()), before);
}

#[test]
fn strays_that_an_exchange_met_are_kept_when_it_holds() {
    let mut host = Host::new();
    let staged = exchange_with_strays(&mut host);
    host.apply(vec![staged]).unwrap();
    let mut expected = nodes([("a", file("p1")), ("b", file("p1")), ("dir/x", file("p1"))]);
    for path in ["new", "dir/new", "made/new"] {
        add(&mut expected, path, file(&format!("u-{path}")));
    }
    assert_eq!(host.tree(), expected);
    assert_eq!(host.displaced(), ["u-a".to_owned(), "u-gone/new".to_owned()].into());
}

#[test]
fn a_mode_alone_is_set_without_touching_the_file() {
    let mut host = Host::new();
    host.build(&nodes([("a", file("p0"))]), ApplyMode::PerFile);
    let inode = fs::metadata(host.path("a")).unwrap().ino();
    host.build(&nodes([("a", Node::File("p0".into(), 0o755))]), ApplyMode::PerFile);
    let metadata = fs::metadata(host.path("a")).unwrap();
    assert_eq!((metadata.ino(), metadata.permissions().mode() & 0o777), (inode, 0o755));
}

#[test]
fn a_new_mode_does_not_reach_a_products_other_names() {
    let mut host = Host::new();
    host.build(&nodes([("a", file("p0"))]), ApplyMode::PerFile);
    // The user gives the product a second name, outside of the output.
    let other = host.base().join("canary/copy");
    fs::hard_link(host.path("a"), &other).unwrap();
    host.build(&nodes([("a", Node::File("p0".into(), 0o755))]), ApplyMode::PerFile);
    assert_eq!(host.tree(), nodes([("a", Node::File("p0".into(), 0o755))]));
    assert_eq!(other.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::read_to_string(&other).unwrap(), "p0");
}
