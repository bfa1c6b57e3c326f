//! Rule 6: a container is hostile input. The products of a real build are replaced, on their way, by archives that no
//! honest engine sends; whatever they try, the host stays as it was, and the error names the entry.

use std::{
    fs,
    os::unix::fs::symlink as host_symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::common::proxy::{Fault, Proxy, Which};
use crate::common::raw_tar::{Raw, dir, file, hard_link, open_stream, pax, raw, stream, symlink};
use crate::common::small_disk::SmallDisk;
use crate::common::{Ended, Project, Tree};
use fastbuild::{
    archive::reader::Naming,
    outputs::{
        OutputError,
        apply::{Books, Outcome, Scope, apply},
        archived,
        host::HostSide,
        record::Record,
        safe::Place,
        stage::{Staging, StagingOptions},
        target::Target,
    },
    spec::ApplyMode,
};
use proptest::prelude::*;
use tar::EntryType;

/// A project with products of an earlier build, and files beside it that must stay untouched.
fn victim() -> Project {
    let project = Project::new();
    project.write("source", "text").write("out/old", "old").write("out/dir/inner", "inner");
    let canary = project.outside().join("canary");
    fs::create_dir_all(canary.join("dir")).unwrap();
    fs::write(canary.join("file"), "canary").unwrap();
    fs::write(canary.join("dir/file"), "canary").unwrap();
    host_symlink(&canary, project.path("out/to-canary")).unwrap();
    project
}

/// Everything that must stay as it is.
fn untouchable(project: &Project) -> (Tree, Tree) {
    (project.tree(), Tree::of(&project.outside().join("canary")))
}

/// Runs a real build whose products are replaced by `archive`.
fn collect(project: &Project, options: &[&str], archive: Vec<u8>) -> Ended {
    let home = tempfile::tempdir().unwrap();
    let proxy = Proxy::new(home.path());
    proxy.on("GET", "/archive", Which::All, Fault::Body(Arc::new(archive)));
    let mut command = project.command();
    command.env("DOCKER_HOST", proxy.address()).arg("--no-agent").args(options).args([
        "--",
        "sh",
        "-c",
        "mkdir -p out",
    ]);
    let ended = Ended::from(command.output().unwrap());
    assert!(proxy.count("GET", "/archive") > 0, "the products were not asked for\n{ended}");
    ended
}

/// The archive is refused with each of `says`, and nothing has changed.
#[track_caller]
fn is_refused(what: &str, archive: Vec<u8>, says: &[&str]) {
    let project = victim();
    let before = untouchable(&project);
    let ended = collect(&project, &["-o", "out"], archive);
    assert_eq!(ended.code, 125, "{what}: {ended}");
    for part in says {
        assert!(ended.err().contains(part), "{what}: standard error lacks {part:?}\n{ended}");
    }
    assert!(untouchable(&project) == before, "{what}: something on the host has changed");
    project.assert_nothing_left();
}

fn out(entries: &[Raw]) -> Vec<u8> {
    stream(&[&[dir("out/")], entries].concat())
}

#[test]
fn an_honest_archive_is_applied() {
    // Without this one, all the others could pass because nothing ever is.
    let project = victim();
    let entries = [
        dir("out/sub/"),
        file("out/sub/f", "new"),
        hard_link("out/h", "out/sub/f"),
        symlink("out/l", "/etc"),
    ];
    collect(&project, &["-o", "out"], out(&entries)).exits(0);
    assert_eq!((project.read("out/sub/f"), project.read("out/h")), ("new".into(), "new".into()));
    assert_eq!(fs::read_link(project.path("out/l")).unwrap(), Path::new("/etc"));
    assert!(!project.has("out/old"), "the archive is all that the build has there");
    project.assert_nothing_left();
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let canary = "/tmp/../tmp/canary";
    is_refused("parent", out(&[file("out/../../canary/file", "x")]), &["entry 2", "out/../../canary/file"]);
    is_refused("parent at once", out(&[file("../canary/file", "x")]), &["entry 2", "\"../canary/file\""]);
    is_refused("parent at the end", out(&[dir("out/x/..")]), &["\"out/x/..\""]);
    is_refused("absolute", out(&[file(canary, "x")]), &[canary]);
    is_refused(
        "another prefix",
        out(&[file("canary/file", "x")]),
        &["\"canary/file\"", "does not lie in the output"],
    );
    is_refused("empty component", out(&[file("out//x", "x")]), &["\"out//x\""]);
    is_refused("dot", out(&[file("out/./x", "x")]), &["\"out/./x\""]);
    is_refused("file with a slash", out(&[file("out/x/", "x")]), &["\"out/x/\""]);
    is_refused("no name", out(&[file("", "x")]), &["name is empty"]);
    let nul = [pax(&[("path", b"out/x\0y")]), file("out/x", "x")];
    is_refused("NUL", out(&nul), &["out/x\\u{0}y", "NUL"]);
}

#[test]
fn names_in_extended_headers_are_held_to_the_same_rules() {
    let escape = [pax(&[("path", b"out/../../canary/file")]), file("out/fine", "x")];
    is_refused("PAX", out(&escape), &["out/../../canary/file"]);
    let long = [raw(EntryType::GNULongName, "././@LongLink").data("/canary/file\0"), file("out/fine", "x")];
    is_refused("GNU", out(&long), &["\"/canary/file\""]);
    let link = [file("out/f", "x"), pax(&[("linkpath", b"../canary/file")]), hard_link("out/l", "out/f")];
    is_refused("PAX link", out(&link), &["\"out/l\"", "hard link"]);
    let twice = [pax(&[("path", b"out/a")]), pax(&[("path", b"out/b")]), file("out/c", "x")];
    is_refused("two headers", out(&twice), &["several extended headers"]);
    let global =
        [raw(EntryType::XGlobalHeader, "g").data(b"23 path=../canary/file\n"), file("out/fine", "x")];
    is_refused("global", out(&global), &["global header"]);
    let endless = vec![b'x'; 70_000];
    let endless = [pax(&[("path", &[b"out/", endless.as_slice()].concat())]), file("out/x", "x")];
    is_refused("70 kB", out(&endless), &["entry 2", "path is too long"]);
}

#[test]
fn nothing_goes_through_a_link_of_the_archives_own() {
    let to_canary = symlink("out/l", "../../canary");
    let below = [to_canary.clone(), file("out/l/file", "x")];
    is_refused("file below a link", out(&below), &["\"l/file\"", "below something that is not a directory"]);
    let deeper = [to_canary.clone(), dir("out/l/dir"), file("out/l/dir/file", "x")];
    is_refused("directory below a link", out(&deeper), &["\"l/dir\""]);
    let replaced = [to_canary.clone(), dir("out/l"), file("out/l/file", "x")];
    is_refused("link, then a directory", out(&replaced), &["\"l\"", "comes twice"]);
    let swapped = [dir("out/l"), to_canary.clone(), file("out/l/file", "x")];
    is_refused("directory, then a link", out(&swapped), &["\"l\"", "comes twice"]);
    is_refused("file over a link", out(&[to_canary.clone(), file("out/l", "x")]), &["\"l\"", "comes twice"]);
    let hard = [to_canary, hard_link("out/h", "out/l"), file("out/h/file", "x")];
    is_refused("hard link to a link", out(&hard), &["\"h/file\"", "below something that is not a directory"]);
    let root = stream(&[symlink("out", "../canary"), file("out/file", "x")]);
    is_refused("the output itself", root, &["\"file\"", "below something that is not a directory"]);
}

#[test]
fn hard_links_reach_only_what_came_before_them() {
    for (what, target) in [
        ("outside", "../canary/file"),
        ("parent", "out/../../canary/file"),
        ("absolute", "/etc/passwd"),
        ("another prefix", "canary/file"),
        ("nothing", "out/nothing"),
        ("itself", "out/h"),
        ("the output", "out"),
        ("an old file of the host's", "out/old"),
        ("through a link of the host's", "out/to-canary/file"),
        ("a directory", "out/d"),
        ("empty", ""),
    ] {
        let archive = out(&[dir("out/d"), hard_link("out/h", target)]);
        is_refused(what, archive, &["h\"", "hard link"]);
    }
}

#[test]
fn an_archive_that_is_no_tree_is_refused() {
    is_refused("twice", out(&[file("out/f", "1"), file("out/f", "2")]), &["\"f\"", "comes twice"]);
    let dir_then_file = [dir("out/d"), file("out/d/f", "1"), file("out/d", "2")];
    is_refused("file where a directory was", out(&dir_then_file), &["\"d\"", "comes twice"]);
    is_refused("orphan", out(&[file("out/no/dir/f", "1")]), &["\"no/dir/f\"", "without the directory"]);
    is_refused("below a file", out(&[file("out/f", "1"), file("out/f/x", "1")]), &["\"f/x\""]);
    is_refused("without a root", stream(&[file("out/f", "1")]), &["\"f\"", "without the directory"]);
    let reserved = out(&[
        dir("out/.fastbuild-stage-0123456789ab-0"),
        file("out/.fastbuild-stage-0123456789ab-0/1", "x"),
    ]);
    is_refused("reserved", reserved, &[".fastbuild-stage-0123456789ab-0", "keeps for itself"]);
    is_refused("nothing at all", stream(&[]), &["is missing, as all others are"]);
}

#[test]
fn sizes_that_lie_are_refused() {
    // CVE-2025-62518: a reader that believes the header takes the smuggled block for an entry.
    let smuggled = file("out/smuggled", "evil").bytes();
    let outer = file("out/f", &smuggled).header(|header| header.set_size(0));
    let desync = [pax(&[("size", smuggled.len().to_string().as_bytes())]), outer];
    let project = victim();
    collect(&project, &["-o", "out"], out(&desync)).exits(0);
    assert!(!project.has("out/smuggled"), "content was taken for an entry");
    assert_eq!(project.read("out/f").len(), smuggled.len());
    let conflict = [pax(&[("size", b"4")]), file("out/f", "content")];
    is_refused("two sizes", out(&conflict), &["\"out/f\"", "its header says 7 bytes, its PAX record 4"]);
    let longer = file("out/f", "content").header(|header| header.set_size(5000));
    is_refused("longer than the stream", out(&[longer]), &["out", "stopped coming"]);
    let negative = file("out/f", "content").header(|header| header.as_old_mut().size = [0xff; 12]);
    is_refused("negative", out(&[negative]), &["\"out/f\"", "size"]);
    let with_data = dir("out/d").data("content");
    is_refused("directory with content", out(&[with_data]), &["\"out/d\"", "7 bytes of content"]);
    let link_with_data = [file("out/a", "x"), hard_link("out/f", "out/a").data("content")];
    is_refused("link with content", out(&link_with_data), &["\"out/f\"", "7 bytes of content"]);
}

#[test]
fn what_is_damaged_or_not_understood_is_refused() {
    let mut checksum = out(&[file("out/f", "content")]);
    checksum[512 + 100] ^= 1;
    is_refused("checksum", checksum, &["entry 2", "\"out/f\"", "checksum"]);
    let sparse = [raw(EntryType::GNUSparse, "out/f")];
    is_refused("GNU sparse", out(&sparse), &["\"out/f\"", "type 'S'"]);
    let sparse = [pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")]), file("out/f", "x")];
    is_refused("PAX sparse", out(&sparse), &["sparse"]);
    is_refused("unknown type", out(&[raw(EntryType::new(b'Q'), "out/f")]), &["\"out/f\"", "type 'Q'"]);
    let mut garbage = out(&[file("out/f", "x")]);
    garbage.extend_from_slice(&file("out/more", "evil").bytes());
    is_refused("behind the end", garbage, &["behind the end"]);
    is_refused("no archive", b"not a tar\n".repeat(100), &["checksum"]);
    let endless = raw(EntryType::XHeader, "PaxHeaders/x").header(|header| header.set_size(1 << 40));
    is_refused("endless header", out(&[endless]), &["extended header of 1099511627776 bytes"]);
}

#[test]
fn a_stream_that_ends_early_is_no_archive() {
    let whole = out(&[file("out/f", [7; 2000]), dir("out/d")]);
    // In a header, behind it, in content, in padding, between entries, before the second zero block.
    for cut in [300, 512, 1024, 2000, 3060, 3072, 3584, 4095] {
        is_refused(&format!("cut at {cut}"), whole[..cut].to_vec(), &["\"out\"", "stopped coming"]);
    }
}

#[test]
fn depth_is_bounded() {
    let name = format!("out{}", "/d".repeat(2000));
    let one = [pax(&[("path", name.as_bytes())]), dir("out/d")];
    is_refused("one deep name", out(&one), &["entry 2", "too deep"]);
    let step = |depth: usize| {
        let name = format!("out{}", "/d".repeat(depth));
        open_stream(&[pax(&[("path", name.as_bytes())]), dir("out/d")])
    };
    let mut all = open_stream(&[dir("out/")]);
    (1..=2000).for_each(|depth| all.extend(step(depth)));
    all.extend([0; 1024]);
    is_refused("a deep tree", all, &["too deep"]);
}

#[test]
fn names_cannot_forge_the_report() {
    let forged = "out/../\x1b[2J\rx\nfastbuild: done in 0.1 s\n\u{9b}31m";
    for progress in ["plain", "json"] {
        let project = victim();
        let before = untouchable(&project);
        let archive = out(&[pax(&[("path", forged.as_bytes())]), file("out/f", "x")]);
        let ended = collect(&project, &["-o", "out", "--progress", progress], archive);
        ended.exits(125).says(&["fastbuild: done in 0.1 s"]);
        let harmless = |c: char| c == '\n' || !c.is_control();
        assert!(ended.err().chars().all(harmless), "control characters got through\n{:?}", ended.err());
        assert!(
            !ended.err().lines().any(|line| line.starts_with("fastbuild: done")),
            "a line was forged\n{ended}"
        );
        assert!(untouchable(&project) == before);
    }
    // As a name that is taken: in a warning, and on the disk as it is.
    let project = victim();
    let fifo = [pax(&[("path", b"out/a\n\x1b[2Jb")]), raw(EntryType::Fifo, "out/f")];
    let ended = collect(&project, &["-o", "out"], out(&fifo));
    ended.exits(0).says(&["a\\n\\u{1b}[2Jb is a"]);
    assert!(!ended.err().contains('\x1b'));
}

#[test]
fn devices_and_fifos_do_not_cross_and_are_told() {
    let project = victim();
    let entries = [
        raw(EntryType::Char, "out/null").header(|header| header.set_device_major(1).unwrap()),
        raw(EntryType::Block, "out/sda").header(|header| header.set_device_major(8).unwrap()),
        raw(EntryType::Fifo, "out/pipe"),
        file("out/f", "new"),
    ];
    let ended = collect(&project, &["-o", "out"], out(&entries));
    ended.exits(0).says(&["null is a device", "sda is a device", "pipe is a", "not brought back"]);
    assert_eq!(project.read("out/f"), "new");
    for name in ["null", "sda", "pipe"] {
        assert!(!project.has(format!("out/{name}")), "{name} has crossed");
    }
    // Nor can anything be reached through one.
    is_refused("below a device", out(&[entries[0].clone(), file("out/null/x", "x")]), &["\"null/x\""]);
    is_refused(
        "link to a device",
        out(&[entries[0].clone(), hard_link("out/h", "out/null")]),
        &["\"h\"", "hard link"],
    );
}

#[test]
fn set_uid_set_gid_and_sticky_bits_do_not_cross() {
    use std::os::unix::fs::PermissionsExt as _;
    let project = victim();
    let bits = |raw: Raw| raw.header(|header| header.set_mode(0o107_755));
    collect(&project, &["-o", "out"], out(&[bits(file("out/tool", "x")), bits(dir("out/d"))])).exits(0);
    for name in ["out/tool", "out/d"] {
        assert_eq!(fs::metadata(project.path(name)).unwrap().permissions().mode() & 0o7777, 0o755, "{name}");
    }
}

#[test]
fn the_source_root_is_as_safe_as_a_named_output() {
    // Without -o, the whole working directory comes back, over the user's sources.
    for (entries, says) in [
        (vec![file("workspace/../canary/file", "x")], "workspace/../canary/file"),
        (vec![symlink("workspace/l", "../canary"), file("workspace/l/file", "x")], "\"l/file\""),
        (vec![hard_link("workspace/h", "workspace/../canary/file")], "\"workspace/h\""),
        (vec![file("workspace/source", "1"), file("workspace/source", "2")], "\"source\""),
    ] {
        let project = victim();
        let before = untouchable(&project);
        let archive = stream(&[vec![dir("workspace/")], entries].concat());
        collect(&project, &[], archive).exits(125).says(&[says]);
        assert!(untouchable(&project) == before, "{says}");
        project.assert_nothing_left();
    }
    let project = victim();
    let before = untouchable(&project);
    for (archive, says) in [
        (stream(&[symlink("workspace", "canary")]), "no directory any more"),
        (stream(&[dir("workspace/")]), "left nothing in its working directory"),
    ] {
        collect(&project, &[], archive).exits(125).says(&[says]);
        assert!(untouchable(&project) == before, "{says}");
    }
    project.assert_nothing_left();
}

#[test]
fn a_bomb_ends_where_the_disk_would() {
    let project = victim();
    let disk = SmallDisk::mount(&project.outside().join("disk"), 16);
    fs::write(disk.path().join("mine"), "mine").unwrap();
    let before = Tree::of(disk.path());
    let output = format!("out:{}/out", disk.path().to_str().unwrap());
    let huge = file("out/huge", "").header(|header| header.set_size(1 << 42));
    let many: Vec<Raw> = (0..40).map(|n| file(format!("out/f{n}"), vec![n; 1 << 20])).collect();
    let small: Vec<Raw> = (0..400).map(|n| file(format!("out/f{n}"), vec![n as u8; 100 << 10])).collect();
    for (what, archive, said) in [
        // What is zeros takes no room, so nothing is refused for what it claims to be.
        ("one that claims 4 TiB", out(&[huge]), "stopped coming"),
        ("40 of 1 MiB", out(&many), "no space"),
        ("400 of 100 KiB", out(&small), "no space"),
    ] {
        let ended = collect(&project, &["-o", &output], archive);
        ended.exits(125).says(&[said]);
        assert!(Tree::of(disk.path()) == before, "{what}: something is left on the disk");
        project.assert_nothing_left();
    }
}

#[test]
fn a_link_of_the_hosts_below_the_output_is_never_followed() {
    let project = victim();
    let before = Tree::of(&project.outside().join("canary"));
    // `out/to-canary` is a link to the canary directory on the host; the container has a directory there.
    let entries =
        [dir("out/to-canary"), file("out/to-canary/file", "evil"), file("out/to-canary/new", "evil")];
    collect(&project, &["-o", "out"], out(&entries));
    assert!(Tree::of(&project.outside().join("canary")) == before, "the link was followed");
    project.assert_nothing_left();
}

/// What a run does with an archive once it is here, without an engine.
fn receive(
    target: &Path,
    archive: &[u8],
    naming: Naming,
    apply_mode: ApplyMode,
) -> Result<Outcome, OutputError> {
    let record = Record::default();
    let options = StagingOptions { run: "0123456789ab", record: &record, apply: apply_mode, only: None };
    let place = Target::named(target)?;
    let host = HostSide::look(&place, &record)?;
    let staging = Staging::begin("out", 0, place, Scope::Elsewhere, host, None, options)?;
    let (staged, _) = archived::stage(staging, archive, naming, &|_| false, &|_| {})?;
    let home = target.parent().unwrap().parent().unwrap();
    let books = Books {
        run: "0123456789ab".to_owned(),
        journal: home.join("journal"),
        record: home.join("record"),
        displaced: Place { dir: home.join("displaced"), index: home.join("moved"), command: String::new() },
    };
    apply(vec![staged], record, &books)
}

/// Swaps a directory for a link to the canary and back, as fast as it can, until dropped.
struct Racer {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Racer {
    fn start(sub: PathBuf, link: PathBuf) -> Racer {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, swaps) = (Arc::clone(&stop), Arc::clone(&swaps));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let exchange = rustix::fs::RenameFlags::EXCHANGE;
                    let cwd = rustix::fs::CWD;
                    if rustix::fs::renameat_with(cwd, &sub, cwd, &link, exchange).is_ok() {
                        swaps.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        Racer { stop, swaps, thread: Some(thread) }
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

#[test]
fn a_link_that_was_moved_to_safety_is_not_followed_there() {
    let home = tempfile::tempdir().unwrap();
    let (project, canary) = (home.path().join("project"), home.path().join("canary"));
    fs::create_dir_all(project.join("out")).unwrap();
    fs::create_dir(&canary).unwrap();
    let sub = project.join("out/sub");
    let archive = out(&[dir("out/sub"), file("out/sub/f", "new")]);
    host_symlink(&canary, &sub).unwrap();
    receive(&project.join("out"), &archive, Naming::Prefixed, ApplyMode::PerFile).unwrap();
    // Where `out/sub` is kept now is a link to the canary; `out/sub/f` is to be kept below it.
    fs::write(sub.join("f"), "the user's").unwrap();
    receive(&project.join("out"), &archive, Naming::Prefixed, ApplyMode::PerFile).unwrap();
    assert!(Tree::of(&canary).0.is_empty(), "the link was followed");
    let kept = Tree::of(&home.path().join("displaced"));
    assert!(kept.0.values().any(|node| node.content == b"the user's"), "the user's file is lost");
}

#[test]
fn a_directory_that_becomes_a_link_meanwhile_leads_nowhere() {
    let home = tempfile::tempdir().unwrap();
    let (project, canary) = (home.path().join("project"), home.path().join("canary"));
    fs::create_dir_all(canary.join("deep")).unwrap();
    for name in ["f", "deep/f", "deep/g"] {
        fs::write(canary.join(name), "canary").unwrap();
    }
    let before = Tree::of(&canary);
    let (sub, link) = (project.join("out/sub"), home.path().join("link"));
    let (mut applied, mut swaps) = (0, 0);
    for round in 0..300 {
        // The round before may have moved the link to safety.
        let _ = fs::remove_dir_all(&project);
        let _ = fs::remove_file(&link).or_else(|_| fs::remove_dir_all(&link));
        fs::create_dir_all(sub.join("deep")).unwrap();
        fs::write(sub.join("deep/f"), "old").unwrap();
        host_symlink(&canary, &link).unwrap();
        let racer = Racer::start(sub.clone(), link.clone());
        let mut entries = vec![dir("out/"), dir("out/sub"), dir("out/sub/deep"), file("out/sub/f", "new")];
        entries.extend(["f", "g"].map(|name| file(format!("out/sub/deep/{name}"), "new")));
        let mode = if round % 4 == 0 { ApplyMode::Atomic } else { ApplyMode::PerFile };
        applied +=
            u64::from(receive(&project.join("out"), &stream(&entries), Naming::Prefixed, mode).is_ok());
        swaps += racer.swaps.load(Ordering::Relaxed);
        drop(racer);
        assert!(Tree::of(&canary) == before, "round {round} wrote through the link");
    }
    assert!(swaps > 100 && applied > 10, "nothing was raced: {swaps} swaps, {applied} applied");
}

/// One of everything that is taken, and the names of what lies on the host.
fn valid() -> Vec<u8> {
    out(&[
        dir("out/dir/"),
        file("out/dir/inner", "new"),
        pax(&[("path", b"out/long\xff"), ("mtime", b"1.5"), ("size", b"3")]),
        file("out/l", "abc"),
        file("out/f", [9; 600]),
        hard_link("out/hard", "out/f"),
        symlink("out/soft", "../../canary"),
        dir("out/soft-dir"),
        file("out/soft-dir/file", "x"),
        symlink("out/to-canary", "elsewhere"),
        raw(EntryType::Char, "out/dev"),
    ])
}

/// Makes the checksums right again, so that mutations get past them.
fn mend(bytes: &mut [u8]) {
    for block in bytes.as_chunks_mut::<512>().0 {
        if block[257..262] == *b"ustar" {
            let mut header = tar::Header::from_byte_slice(block).clone();
            header.set_cksum();
            *block = *header.as_bytes();
        }
    }
}

/// A byte somewhere in a header's fields that matter, and what becomes of it.
fn edit() -> impl Strategy<Value = (usize, usize, u8)> {
    // Name, mode, size, type, link name.
    let field = prop_oneof![0_usize..24, 100_usize..108, 124_usize..136, Just(156), 157_usize..181];
    let value = prop_oneof![any::<u8>(), prop::sample::select(b"/.\0out012345xgLKdirsoft".as_slice())];
    (0_usize..64, field, value)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn no_mutated_archive_reaches_what_lies_beside_the_output(
        edits in prop::collection::vec(edit(), 0..6),
        order in prop::collection::vec((0_usize..64, 0_usize..64), 0..3),
        cut in prop::option::weighted(0.1, 0_usize..20_000),
        mended in prop::bool::weighted(0.9),
        atomic in any::<bool>(),
        naming in prop::sample::select([Naming::Prefixed, Naming::Prefixed, Naming::Contents].as_slice()),
    ) {
        let mut bytes = valid();
        let blocks = bytes.len() / 512;
        for (block, at, byte) in edits {
            bytes[block % blocks * 512 + at] = byte;
        }
        for (a, b) in order {
            for at in 0..512 {
                bytes.swap(a % blocks * 512 + at, b % blocks * 512 + at);
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut % (blocks * 512));
        }
        if mended {
            mend(&mut bytes);
        }
        assault(&bytes, naming, atomic)?;
    }

    #[test]
    fn no_sequence_of_hostile_entries_reaches_what_lies_beside_the_output(
        entries in prop::collection::vec((any_kind(), any_name(), any_name()), 1..12),
        rooted in prop::bool::weighted(0.9),
        atomic in any::<bool>(),
    ) {
        let mut all = if rooted { vec![dir("out/"), dir("out/dir"), dir("out/to-canary")] } else { Vec::new() };
        for (kind, name, link) in entries {
            let content = if kind == EntryType::Regular { "evil" } else { "" };
            all.push(raw(kind, name).link(link).data(content));
            // A prefix of it is seldom what is refused, so this one is tried by itself, too.
            assault(&stream(&all), Naming::Prefixed, atomic)?;
        }
    }
}

fn any_kind() -> impl Strategy<Value = EntryType> {
    let kinds =
        [EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Link, EntryType::Fifo];
    prop::sample::select(kinds.to_vec())
}

fn any_name() -> impl Strategy<Value = String> {
    let parts = ["dir", "inner", "to-canary", "file", "l", "old"].map(str::to_owned).to_vec();
    let below = prop::collection::vec(prop::sample::select(parts), 1..4)
        .prop_map(|parts| format!("out/{}", parts.join("/")));
    let odd = prop::sample::select(vec![
        "out",
        "out/..",
        "../canary/file",
        "/tmp",
        "out/to-canary/../../canary/file",
        ".",
    ]);
    prop_oneof![8 => below, 1 => odd.prop_map(str::to_owned)]
}

/// Receives and applies a stream in-process, on a host with links of its own; whatever comes of it, only the output may
/// have changed, and nothing at all if it was refused.
fn assault(bytes: &[u8], naming: Naming, atomic: bool) -> Result<(), TestCaseError> {
    let home = tempfile::tempdir().unwrap();
    let (project, canary) = (home.path().join("project"), home.path().join("canary"));
    fs::create_dir_all(project.join("out/dir")).unwrap();
    fs::create_dir_all(canary.join("dir")).unwrap();
    fs::write(project.join("out/dir/inner"), "old").unwrap();
    fs::write(project.join("source"), "source").unwrap();
    fs::write(canary.join("file"), "canary").unwrap();
    fs::write(canary.join("dir/file"), "canary").unwrap();
    host_symlink(&canary, project.join("out/to-canary")).unwrap();
    let (canary_before, whole_before) = (Tree::of(&canary), Tree::of(&project));
    let mode = if atomic { ApplyMode::Atomic } else { ApplyMode::PerFile };
    let received = receive(&project.join("out"), bytes, naming, mode);
    prop_assert!(Tree::of(&canary) == canary_before, "the canary has changed");
    if received.is_err() {
        prop_assert!(
            Tree::of(&project) == whole_before,
            "refused, and yet something has changed: {received:?}"
        );
    }
    let beside: Vec<_> = fs::read_dir(&project).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    prop_assert!(
        beside.iter().all(|name| name == "out" || name == "source"),
        "beside the output: {beside:?}"
    );
    prop_assert_eq!(fs::read_to_string(project.join("source")).unwrap(), "source");
    Ok(())
}
