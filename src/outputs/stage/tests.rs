//! What a container may say, what it may not, and what follows. These tests act as the far end.

use std::{fs, os::unix::fs::MetadataExt as _};

use super::{staging::*, *};
use crate::{
    entry::{RelPath, Special, Timestamp},
    outputs::{
        OutputError,
        apply::{
            Scope, Staged,
            tests::{Edit, Host, Node, Nodes, WentIn, differing, file, listing_of, nodes, wire},
        },
        host::HostSide,
        record::Record,
        target::Target,
    },
    spec::ApplyMode,
    tree::{
        Digest,
        ignore::Rules,
        node::{Node as Listing, NodeKind, NodeReader},
        summary::Differing,
    },
};

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn options<'a>(record: &'a Record, run: &'a str) -> StagingOptions<'a> {
    StagingOptions { run, record, apply: ApplyMode::PerFile, only: None }
}

/// Lists `list` for the output `out`. Returns what was wanted, or why it was refused.
fn listed(host: &Host, list: &[Listing]) -> Result<Vec<u32>, OutputError> {
    let record = host.record();
    let target = Target::named(&host.output("out")).unwrap();
    let side = HostSide::look(&target, &record).unwrap().unwrap();
    let differing = differing(side.summary(), list);
    let mut staging =
        Staging::begin("out", 0, target, Scope::Elsewhere, Some(side), None, options(&record, "run"))
            .unwrap();
    staging.expect(&mut NodeReader::new(&*wire(list)), Listed::Buckets(&differing))?;
    Ok(staging.wanted().nodes)
}

fn node(at: &str, kind: NodeKind) -> Listing {
    Listing { path: path(at), kind, mode: 0o755, mtime: Timestamp::default(), link: None }
}

fn a_file(at: &str) -> Listing {
    node(at, NodeKind::File { size: 1, digest: Digest([7; 32]) })
}

fn a_directory(at: &str) -> Listing {
    node(at, NodeKind::Directory)
}

fn a_link(at: &str, target: &str) -> Listing {
    node(at, NodeKind::Symlink { target: target.as_bytes().into() })
}

#[test]
fn what_was_not_asked_for_is_refused() {
    let host = Host::new();
    let record = host.record();
    let only = Rules::new(["**/*.o", "!dist", "!dist/**"]).unwrap();
    let take = |list: &[Listing], gone: &[Listing]| {
        let target = Target::named(&host.output("out")).unwrap();
        let options = StagingOptions { only: Some(&only), ..options(&record, "run") };
        let mut staging = Staging::begin("out", 0, target, Scope::Synced, None, None, options).unwrap();
        staging.expect(&mut NodeReader::new(&*wire(list)), Listed::Changes)?;
        staging.expect_gone(&mut NodeReader::new(&*wire(gone)))
    };
    let fine = take(&[a_directory("a"), a_file("a/b.o"), a_file("c.o")], &[a_directory("d/e.o")]);
    assert!(fine.is_ok(), "{fine:?}");
    for (list, gone) in [
        (&[a_file("a.c")][..], &[][..]),
        (&[a_link("a", "b.o")], &[]),
        (&[a_directory("dist"), a_file("dist/a.o")], &[]),
        (&[], &[a_directory("a.c")]),
        (&[], &[a_directory("dist/a.o")]),
    ] {
        let refused = take(list, gone);
        assert!(matches!(refused, Err(OutputError::NoTree { .. })), "{list:?} {gone:?}: {refused:?}");
    }
}

#[test]
fn a_list_that_is_no_tree_is_refused_before_anything_is_asked_for() {
    let host = Host::new();
    let deep = vec!["d"; 1001].join("/");
    let hostile: &[(&str, &[Listing])] = &[
        ("nothing at all", &[]),
        ("no root", &[a_file("a")]),
        ("an orphan", &[a_directory(""), a_file("a/b")]),
        ("below a file", &[a_directory(""), a_file("a"), a_file("a/b")]),
        ("below a link", &[a_directory(""), a_link("a", "/etc"), a_file("a/passwd")]),
        (
            "below a link's directory",
            &[a_directory(""), a_link("a", "/etc"), a_directory("a/b"), a_file("a/b/c")],
        ),
        ("below a root that is a file", &[a_file(""), a_file("a")]),
        ("below a socket", &[a_directory(""), node("a", NodeKind::Special(Special::Socket)), a_file("a/b")]),
        ("a stage", &[a_directory(""), a_directory(".fastbuild-stage-x"), a_file(".fastbuild-stage-x/1")]),
        ("too deep", &[a_directory(""), a_file(&deep)]),
        ("a link to nowhere", &[a_directory(""), a_link("a", "")]),
        ("a link that no file system holds", &[a_directory(""), a_link("a", "x\0y")]),
    ];
    for (what, list) in hostile {
        let refused = listed(&host, list);
        assert!(matches!(refused, Err(OutputError::NoTree { .. })), "{what}: {refused:?}");
    }
    let unsorted = [a_directory(""), a_file("b"), a_file("a")];
    assert!(matches!(listed(&host, &unsorted), Err(OutputError::BadList { .. })));
    let fine = [a_directory(""), a_directory("a"), a_file("a/b"), a_file("a-b"), a_link("b", "../../etc")];
    assert_eq!(listed(&host, &fine).unwrap(), [2, 3]);
    assert!(host.tree().is_empty());
}

/// A tar stream of entries: a name, and what it is.
enum Sends<'a> {
    File(&'a str, &'a str),
    HardLink(&'a str, &'a str),
    Link(&'a str, &'a str),
}

fn stream(entries: &[Sends<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(0);
        match entry {
            Sends::File(name, content) => {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, format!("out/{name}"), content.as_bytes()).unwrap();
            }
            Sends::HardLink(name, to) => {
                header.set_entry_type(tar::EntryType::Link);
                builder.append_link(&mut header, format!("out/{name}"), format!("out/{to}")).unwrap();
            }
            Sends::Link(name, to) => {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, format!("out/{name}"), to).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

/// `a`, `b` and `large` are wanted; `entries` arrive.
fn answered(host: &Host, large: &str, entries: &[Sends<'_>]) -> Result<Staged, OutputError> {
    let record = host.record();
    let products = nodes([("a", file("p1")), ("b", file("p1")), ("large", file(large))]);
    let list = listing_of(&products);
    let target = Target::named(&host.output("out")).unwrap();
    let side = HostSide::look(&target, &record).unwrap().unwrap();
    let mut staging =
        Staging::begin("out", 0, target, Scope::Elsewhere, Some(side), None, options(&record, "run"))
            .unwrap();
    staging.expect(&mut NodeReader::new(&*wire(&list)), Listed::Buckets(&Differing::all(1))).unwrap();
    assert_eq!(staging.wanted().nodes, [1, 2, 3]);
    staging.receive_wanted(&*stream(entries), &|_| {})?;
    staging.finish()
}

#[test]
fn contents_that_are_not_what_was_announced_are_refused() {
    use Sends::{File, HardLink, Link};
    let host = Host::new();
    let large = "x".repeat(SMALL as usize + 1);
    let other = "y".repeat(SMALL as usize + 1);
    let hostile: &[(&str, &[Sends<'_>])] = &[
        ("other bytes", &[File("a", "p2"), File("b", "p1"), File("large", &large)]),
        ("more bytes", &[File("a", "p1+"), File("b", "p1"), File("large", &large)]),
        ("other bytes of a large one", &[File("a", "p1"), File("b", "p1"), File("large", &other)]),
        ("out of turn", &[File("b", "p1"), File("a", "p1"), File("large", &large)]),
        ("one is missing", &[File("a", "p1"), File("large", &large)]),
        ("the last is missing", &[File("a", "p1"), File("b", "p1")]),
        ("nothing", &[]),
        ("one more", &[File("a", "p1"), File("b", "p1"), File("large", &large), File("z", "p1")]),
        ("twice", &[File("a", "p1"), File("a", "p1"), File("b", "p1"), File("large", &large)]),
        ("a link", &[Link("a", "p1"), File("b", "p1"), File("large", &large)]),
        ("a hard link to what was not sent", &[File("a", "p1"), HardLink("b", "c"), File("large", &large)]),
        ("a hard link to what comes later", &[HardLink("a", "b"), File("b", "p1"), File("large", &large)]),
        ("a hard link to other bytes", &[File("a", "p1"), File("b", "p1"), HardLink("large", "b")]),
    ];
    for (what, entries) in hostile {
        let refused = answered(&host, &large, entries);
        let expected = matches!(refused, Err(OutputError::NoTree { .. } | OutputError::Refused { .. }));
        assert!(expected, "{what}: {refused:?}");
    }
    assert!(host.tree().is_empty());
    let honest = [File("a", "p1"), HardLink("b", "a"), File("large", &large)];
    let mut host = host;
    let staged = answered(&host, &large, &honest).unwrap();
    host.apply(vec![staged]).unwrap();
    assert_eq!(fs::metadata(host.path("a")).unwrap().ino(), fs::metadata(host.path("b")).unwrap().ino());
    assert_eq!(fs::read_to_string(host.path("large")).unwrap(), large);
    // Times come from the list, to the nanosecond.
    assert_eq!(fs::metadata(host.path("large")).unwrap().mtime(), 1_500_000_000);
}

#[test]
fn what_is_said_to_be_gone_and_no_build_wrote_is_in_the_safe_place() {
    let mut host = Host::new();
    host.build(&nodes([("p", file("p1"))]), ApplyMode::PerFile);
    for number in 0..100 {
        host.edit(&Edit::Write(format!("u{number}"), format!("u{number}")));
    }
    // First all is said to be alike, then nothing is listed, and then all is said to be gone.
    let all: Vec<_> = host.tree().keys().map(|path| a_directory(path)).collect();
    for (nothing_differs, gone, left) in [(true, &[][..], 101), (false, &[], 101), (false, &all, 0)] {
        let record = host.record();
        let target = Target::named(&host.output("out")).unwrap();
        let side = HostSide::look(&target, &record).unwrap().unwrap();
        let buckets = side.buckets();
        let claim = match nothing_differs {
            true => Differing::from_bytes(&vec![0; buckets.div_ceil(8)], buckets).unwrap(),
            false => Differing::all(buckets),
        };
        let options = options(&record, "run");
        let mut staging =
            Staging::begin("out", 0, target, Scope::Elsewhere, Some(side), None, options).unwrap();
        let list = wire(&[a_directory("")]);
        staging.expect(&mut NodeReader::new(&*list), Listed::Buckets(&claim)).unwrap();
        staging.expect_gone(&mut NodeReader::new(&*wire(gone))).unwrap();
        let staged = staging.finish().unwrap();
        host.apply(vec![staged]).unwrap();
        assert_eq!(host.tree().len(), left);
    }
    assert_eq!(host.displaced().len(), 100);
}

// ---- everything under the working directory -----------------------------------------------------

fn stage(host: &Host, kept: &[&str], before: &Nodes, after: &Nodes) -> Result<Staged, OutputError> {
    let (record, books) = (host.record(), host.books());
    let target = Target::directory(&host.path("").canonicalize().unwrap()).unwrap();
    let (options, at) = (options(&record, &books.run), RelPath::root());
    WentIn::of(&host.path(""), kept).stage("/w", target, Scope::SourceRoot, at, (before, after), options)
}

fn source(nodes: &Nodes) -> Host {
    let host = Host::new();
    fs::create_dir(host.path("")).unwrap();
    for (path, node) in nodes {
        match node {
            Node::Dir(_) => fs::create_dir_all(host.path(path)).unwrap(),
            Node::File(content, _) => host.edit(&Edit::Write(path.clone(), content.clone())),
            Node::Link(target) => host.edit(&Edit::Link(path.clone(), target.clone())),
        }
    }
    host
}

#[test]
fn what_is_kept_is_refused() {
    let before = nodes([("cache/old", file("u1")), ("src", file("u1"))]);
    let host = source(&before);
    let mut after = before.clone();
    after.insert("cache/new".into(), file("p2"));
    let refused = stage(&host, &["cache"], &before, &after);
    assert!(matches!(refused, Err(OutputError::NoTree { .. })), "{refused:?}");
}

#[test]
fn a_build_that_deletes_every_source_is_not_believed() {
    let before = nodes([("a", file("u1")), ("b/c", file("u2"))]);
    let host = source(&before);
    let refused = stage(&host, &[], &before, &Nodes::new());
    assert!(matches!(refused, Err(OutputError::EverythingGone { files: 3 })), "{refused:?}");
    assert_eq!(host.tree(), before);
}

#[test]
fn a_directory_that_is_gone_and_holds_something_is_refused() {
    let before = nodes([("d/a", file("u1"))]);
    let host = source(&before);
    let after = nodes([("d/b", file("p1"))]);
    let mut lying = after.clone();
    lying.remove("d");
    let refused = stage(&host, &[], &before, &lying);
    assert!(matches!(refused, Err(OutputError::NoTree { .. })), "{refused:?}");
}
