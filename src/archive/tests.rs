//! Valid streams through both directions, and invalid streams that the reader must refuse.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    path::Path,
};

use sha2::Digest as _;
use tar::EntryType;

use super::{pax::Outgoing, *};
use crate::entry::{Amount, RelPath, Special, Timestamp, path::BadPath};

const LIMITS: Limits = Limits { entries: 10_000, bytes: 1 << 30 };
const TOP: TopEntry = TopEntry { mode: 0o750, mtime: Timestamp { secs: 1_600_000_000, nanos: 0 } };

/// Every entry of a stream with its content.
fn read_all(stream: &[u8], naming: Naming, limits: Limits) -> Result<Vec<(Incoming, Vec<u8>)>, ReadError> {
    let mut reader = Reader::new(stream, naming, limits);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        reader.data().read_to_end(&mut data).map_err(|error| match error.downcast::<ReadError>() {
            Ok(error) => error,
            Err(source) => ReadError::Io { offset: 0, source },
        })?;
        found.push((entry, data));
    }
    Ok(found)
}

fn path(text: impl AsRef<[u8]>) -> RelPath {
    RelPath::new(text.as_ref()).unwrap()
}

/// Trees on a real disk through both directions. Unix only, because of odd names, links and modes.
#[cfg(unix)]
mod round_trip {
    use std::{
        ffi::OsStr,
        os::unix::{
            ffi::OsStrExt as _,
            fs::{PermissionsExt as _, symlink},
        },
        path::PathBuf,
        process::{Command, Stdio},
        time::{Duration, SystemTime},
    };

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        entry::Kind,
        sys::source_file,
        tree::{Entry, Manifest},
    };

    fn options() -> PackOptions {
        PackOptions {
            prefix: path("home/app src"),
            uid: 1000,
            gid: 1001,
            top: Some(TOP),
            holes: Holes::Zeros,
        }
    }

    fn below(root: &Path, name: &[u8]) -> PathBuf {
        root.join(OsStr::from_bytes(name))
    }

    /// The result of a scan.
    fn scan(root: &Path) -> Manifest {
        let mut entries = Vec::new();
        let mut open = vec![RelPath::root()];
        while let Some(directory) = open.pop() {
            for found in fs::read_dir(below(root, directory.as_bytes())).unwrap() {
                let found = directory.join(found.unwrap().file_name().as_bytes()).unwrap();
                let entry = entry(root, found);
                if entry.kind == Kind::Directory {
                    open.push(entry.path.clone());
                }
                entries.push(entry);
            }
        }
        Manifest::from_entries(entries)
    }

    fn entry(root: &Path, path: RelPath) -> Entry {
        use std::os::unix::fs::MetadataExt as _;
        let host = below(root, path.as_bytes());
        let metadata = host.symlink_metadata().unwrap();
        let source_file::Facts { mode, stamp, .. } = source_file::facts_at(&host).unwrap();
        let kind = match metadata.file_type() {
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_symlink() => {
                Kind::Symlink { target: fs::read_link(&host).unwrap().as_os_str().as_bytes().into() }
            }
            _ => Kind::File { size: stamp.size },
        };
        Entry { path, kind, mode: mode.unwrap(), mtime: stamp.mtime, stamp, links: metadata.nlink() }
    }

    fn pack_all(root: &Path, manifest: &Manifest) -> (Packed, Vec<u8>) {
        pack_selected(root, manifest, &all_of(manifest))
    }

    fn all_of(manifest: &Manifest) -> Vec<usize> {
        (0..manifest.entries().len()).collect()
    }

    fn pack_selected(root: &Path, manifest: &Manifest, select: &[usize]) -> (Packed, Vec<u8>) {
        let mut stream = Vec::new();
        let packed = pack(root, manifest, select, &options(), &mut stream, &|_| {}).unwrap();
        (packed, stream)
    }

    /// The entries of a stream that fastbuild packed, without the prefix.
    fn unpacked(stream: &[u8]) -> BTreeMap<RelPath, (Incoming, Vec<u8>)> {
        let mut entries = BTreeMap::new();
        let prefix = path("app src");
        for (mut entry, data) in read_all(stream, Naming::Prefixed, LIMITS).unwrap() {
            entry.path = entry.path.strip_prefix(&prefix).unwrap();
            if let IncomingKind::HardLink { target } = &mut entry.kind {
                *target = target.strip_prefix(&prefix).unwrap();
            }
            let twice = entries.insert(entry.path.clone(), (entry, data));
            assert!(twice.is_none());
        }
        entries
    }

    fn digest(data: &[u8]) -> crate::tree::Digest {
        crate::tree::Digest(sha2::Sha256::digest(data).into())
    }

    /// Each entry equals the manifest's, and each file equals the one on the disk.
    fn assert_same(root: &Path, manifest: &Manifest, packed: &Packed, stream: &[u8]) {
        let mut found = unpacked(stream);
        let (top, _) = found.remove(&RelPath::root()).unwrap();
        assert_eq!((top.kind, top.mode, top.mtime), (IncomingKind::Directory, TOP.mode, TOP.mtime));
        assert_eq!(packed.sent.len(), manifest.entries().len());
        for (entry, sent) in manifest.entries().iter().zip(&packed.sent) {
            let (came, data) = found.remove(&entry.path).unwrap();
            assert_eq!((came.mode, came.mtime), (entry.mode & 0o777, entry.mtime), "{:?}", entry.path);
            match (&entry.kind, came.kind) {
                (Kind::Directory, IncomingKind::Directory) => assert_eq!(*sent, None),
                (Kind::Symlink { target }, IncomingKind::Symlink { target: came }) => {
                    assert_eq!(came, *target)
                }
                (Kind::File { size }, kind) => {
                    let content = fs::read(below(root, entry.path.as_bytes())).unwrap();
                    let sent = sent.unwrap();
                    assert_eq!(
                        (sent.digest, sent.stamp, sent.mode),
                        (digest(&content), entry.stamp, entry.mode)
                    );
                    match kind {
                        IncomingKind::File { size: came } => assert!(came == *size && data == content),
                        IncomingKind::HardLink { target } => {
                            let target = manifest.get(&target).unwrap();
                            assert!(target.path < entry.path && target.stamp.ino == entry.stamp.ino);
                        }
                        other => panic!("{:?} came as {other:?}", entry.path),
                    }
                }
                (expected, came) => panic!("{:?}: {expected:?} came as {came:?}", entry.path),
            }
        }
        assert!(found.is_empty(), "{found:?}");
        assert_eq!((&packed.vanished, &packed.unstable), (&vec![], &vec![]));
        assert_eq!(packed.amount.files, manifest.entries().len() as u64);
    }

    fn set_time(path: &Path, secs: i64, nanos: u32) {
        let whole = Duration::from_secs(secs.unsigned_abs());
        let time = if secs < 0 { SystemTime::UNIX_EPOCH - whole } else { SystemTime::UNIX_EPOCH + whole };
        fs::File::open(path).unwrap().set_modified(time + Duration::from_nanos(nanos.into())).unwrap();
    }

    #[derive(Debug, Clone)]
    enum Make {
        File {
            size: usize,
            mode: u32,
            secs: i64,
            nanos: u32,
        },
        Directory {
            mode: u32,
        },
        Symlink(Vec<u8>),
        /// Another name of an earlier file.
        HardLink(prop::sample::Index),
    }

    fn a_name() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            4 => prop::sample::select(b"abc.-_ ".as_slice()),
            1 => prop::sample::select(b"\n\t\\=\x1b\xff\xc3\x01".as_slice()),
        ];
        prop_oneof![
            8 => prop::collection::vec(byte, 1..6),
            1 => Just(b"-rf".to_vec()),
            1 => (prop::sample::select([98, 99, 100, 101, 255].as_slice())).prop_map(|len| vec![b'n'; len]),
            1 => Just([&[0xff; 254], b"\n".as_slice()].concat()),
        ]
        .prop_filter("names of their own", |name| name != b"." && name != b"..")
    }

    fn a_thing() -> impl Strategy<Value = Make> {
        let size = prop_oneof![
            6 => 0_usize..2000,
            2 => prop::sample::select([511, 512, 513, 262_143, 262_144, 262_145, 700_000].as_slice()),
        ];
        // The owner must have read access, because tests may run as another user than root.
        let mode = (0_u32..0o10000).prop_map(|mode| mode | 0o400);
        let secs = prop_oneof![3 => 0_i64..4_000_000_000, 1 => -4_000_i64..0];
        let nanos = prop_oneof![Just(0), 0_u32..1_000_000_000];
        let target = prop_oneof![
            Just(b"../../../etc/passwd".to_vec()),
            Just(b"/".to_vec()),
            Just([b"t".as_slice(); 300].concat()),
            prop::collection::vec(1_u8..=255, 1..120),
        ];
        prop_oneof![
            6 => (size, mode, secs, nanos).prop_map(|(size, mode, secs, nanos)| Make::File { size, mode, secs, nanos }),
            2 => (0_u32..0o10000).prop_map(|mode| Make::Directory { mode: mode | 0o700 }),
            1 => target.prop_map(Make::Symlink),
            1 => any::<prop::sample::Index>().prop_map(Make::HardLink),
        ]
    }

    /// Creates entries in the tree; one whose name already exists is left out.
    fn make(root: &Path, things: &[(prop::sample::Index, Vec<u8>, Make)]) {
        let mut directories = vec![root.to_owned()];
        let mut files: Vec<PathBuf> = Vec::new();
        for (parent, name, thing) in things {
            let path = below(&directories[parent.index(directories.len())], name);
            if path.symlink_metadata().is_ok() || path.as_os_str().len() > 3000 {
                continue;
            }
            match thing {
                Make::File { size, mode, secs, nanos } => {
                    let content: Vec<u8> = (0..*size).map(|at| (at * 31 + files.len()) as u8).collect();
                    fs::write(&path, content).unwrap();
                    set_time(&path, *secs, *nanos);
                    fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
                    files.push(path);
                }
                Make::Directory { mode } => {
                    fs::create_dir(&path).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
                    directories.push(path);
                }
                Make::Symlink(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
                Make::HardLink(_) if files.is_empty() => {}
                Make::HardLink(file) => fs::hard_link(&files[file.index(files.len())], &path).unwrap(),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

        #[test]
        fn every_tree_comes_back_as_it_was(
            things in prop::collection::vec((any::<prop::sample::Index>(), a_name(), a_thing()), 0..40),
        ) {
            let root = TempDir::new().unwrap();
            make(root.path(), &things);
            let manifest = scan(root.path());
            let (packed, stream) = pack_all(root.path(), &manifest);
            assert_same(root.path(), &manifest, &packed, &stream);
        }
    }

    /// A tree with one entry of each kind that is hard to send.
    fn odd_tree() -> TempDir {
        let root = TempDir::new().unwrap();
        let at = |name: &[u8]| below(root.path(), name);
        let deep = [b'd'; 200];
        fs::create_dir(at(&deep)).unwrap();
        fs::write(at(&[&deep, b"/".as_slice(), &[0xff; 255]].concat()), "long").unwrap();
        fs::write(at(b"-rf\n\t\xff"), "odd").unwrap();
        fs::write(at(b"nanos"), "ns").unwrap();
        set_time(&at(b"nanos"), 1_700_000_001, 123_456_789);
        fs::hard_link(at(b"nanos"), at(b"second")).unwrap();
        symlink("../../../etc/passwd", at(b"out")).unwrap();
        symlink(OsStr::from_bytes(&[b'l'; 300]), at(b"long link")).unwrap();
        fs::create_dir(at(b"empty")).unwrap();
        fs::write(at(b"suid"), "").unwrap();
        fs::set_permissions(at(b"suid"), fs::Permissions::from_mode(0o6755)).unwrap();
        root
    }

    #[test]
    fn gnu_tar_unpacks_what_we_send() {
        let root = odd_tree();
        let manifest = scan(root.path());
        let (_, stream) = pack_all(root.path(), &manifest);
        let target = TempDir::new().unwrap();
        let mut tar = Command::new("tar")
            .args(["-x", "-p", "-f", "-", "--no-same-owner", "-C"])
            .arg(target.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(&stream).unwrap();
        let output = tar.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stderr, b"", "{output:?}");

        let there = scan(&target.path().join("home/app src"));
        let told = |entry: &Entry| {
            // The time of a link is not kept everywhere.
            let mtime = if matches!(entry.kind, Kind::Symlink { .. }) { TOP.mtime } else { entry.mtime };
            (entry.path.clone(), entry.kind.clone(), entry.mode, mtime, entry.links)
        };
        let told = |manifest: &Manifest| manifest.entries().iter().map(told).collect::<Vec<_>>();
        assert_eq!(told(&there), told(&manifest));
    }

    #[test]
    fn names_belong_to_the_user_that_was_named_and_set_uid_goes_up() {
        let root = odd_tree();
        let manifest = scan(root.path());
        let options = PackOptions { uid: 3_000_000, prefix: RelPath::root(), ..options() };
        let mut stream = Vec::new();
        pack(root.path(), &manifest, &all_of(&manifest), &options, &mut stream, &|_| {}).unwrap();
        let mut archive = tar::Archive::new(stream.as_slice());
        let mut modes = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let uid = entry.pax_extensions().unwrap().unwrap().find_map(|record| {
                let record = record.unwrap();
                (record.key_bytes() == b"uid").then(|| record.value_bytes().to_vec())
            });
            assert_eq!(uid.as_deref(), Some(b"3000000".as_slice()));
            assert_eq!(entry.header().gid().unwrap(), 1001);
            modes.insert(entry.path_bytes().into_owned(), entry.header().mode().unwrap());
        }
        assert_eq!(modes.len(), manifest.entries().len(), "no entry for the root itself");
        assert_eq!(modes.get(b"suid".as_slice()), Some(&0o6755));
    }

    #[test]
    fn only_what_is_selected_goes() {
        let root = odd_tree();
        let manifest = scan(root.path());
        let at = |name: &str| manifest.position(&path(name)).unwrap();
        let chosen = [at("second"), at("empty"), at("second"), usize::MAX];
        let (packed, stream) = pack_selected(root.path(), &manifest, &chosen);
        let found = unpacked(&stream);
        let names: Vec<_> = found.keys().map(ToString::to_string).collect();
        assert_eq!(names, [".", "empty", "second"]);
        assert_eq!(found[&path("second")].1, b"ns", "its first name does not go, so it is a file of its own");
        assert_eq!(packed.amount, Amount { files: 2, bytes: 2 });
        assert_eq!(packed.sent.iter().flatten().count(), 1);
    }

    #[test]
    fn an_edit_since_the_scan_is_what_goes() {
        let root = TempDir::new().unwrap();
        let file = root.path().join("f");
        fs::write(&file, "old").unwrap();
        let manifest = scan(root.path());
        fs::write(&file, "newer").unwrap();
        set_time(&file, 1_000_000_000, 5);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let (packed, stream) = pack_all(root.path(), &manifest);
        let (came, data) = &unpacked(&stream)[&path("f")];
        assert_eq!(data, b"newer");
        assert_eq!((came.mode, came.mtime), (0o600, Timestamp { secs: 1_000_000_000, nanos: 5 }));
        let sent = packed.sent[0].unwrap();
        assert_eq!(
            sent,
            Sent {
                mode: 0o600,
                stamp: source_file::facts_at(&file).unwrap().stamp,
                digest: digest(b"newer")
            }
        );
        assert_eq!(packed.unstable, [0usize; 0]);
    }

    #[test]
    fn what_vanished_or_is_no_file_any_more_is_told_and_breaks_nothing() {
        let root = TempDir::new().unwrap();
        for name in ["dir", "fifo", "gone", "link", "stays", "under/x"] {
            fs::create_dir_all(root.path().join(name).parent().unwrap()).unwrap();
            fs::write(root.path().join(name), name).unwrap();
        }
        let secret = TempDir::new().unwrap();
        fs::write(secret.path().join("secret"), "secret").unwrap();
        let manifest = scan(root.path());
        for name in ["dir", "fifo", "gone", "link", "under/x"] {
            fs::remove_file(root.path().join(name)).unwrap();
        }
        fs::create_dir(root.path().join("dir")).unwrap();
        symlink(secret.path().join("secret"), root.path().join("link")).unwrap();
        assert!(Command::new("mkfifo").arg(root.path().join("fifo")).status().unwrap().success());
        fs::remove_dir(root.path().join("under")).unwrap();
        fs::write(root.path().join("under"), "now a file").unwrap();

        let (packed, stream) = pack_all(root.path(), &manifest);
        let names = |indices: &[usize]| {
            indices.iter().map(|&index| manifest.entries()[index].path.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(&packed.vanished), ["gone", "under/x"]);
        assert_eq!(names(&packed.unstable), ["dir", "fifo", "link"]);
        let found: Vec<_> = unpacked(&stream).into_keys().map(|path| path.to_string()).collect();
        assert_eq!(found, [".", "stays", "under"]);
        assert_eq!(packed.sent.iter().flatten().count(), 1);
    }

    #[test]
    fn a_name_that_is_no_longer_the_same_file_goes_as_a_file_of_its_own() {
        let root = TempDir::new().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at("a"), "shared").unwrap();
        for name in ["b", "c", "d"] {
            fs::hard_link(at("a"), at(name)).unwrap();
        }
        let manifest = scan(root.path());
        // Saved as an editor does: the name now belongs to another file.
        fs::write(at("b.new"), "edited").unwrap();
        fs::rename(at("b.new"), at("b")).unwrap();
        fs::remove_file(at("a")).unwrap();

        let (packed, stream) = pack_all(root.path(), &manifest);
        let found = unpacked(&stream);
        assert_eq!(found[&path("b")].1, b"edited");
        assert_eq!(found[&path("c")].1, b"shared", "its first name is gone");
        assert_eq!(found[&path("d")].0.kind, IncomingKind::HardLink { target: path("c") });
        assert_eq!((packed.vanished, packed.unstable), (vec![0], vec![]));
        assert_eq!(packed.sent[3], packed.sent[2]);
    }

    /// Changes the tree when this many bytes have come.
    struct Meddler<F> {
        stream: Vec<u8>,
        after: usize,
        meddle: Option<F>,
    }

    impl<F: FnOnce()> io::Write for Meddler<F> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.stream.extend_from_slice(bytes);
            if self.stream.len() >= self.after
                && let Some(meddle) = self.meddle.take()
            {
                meddle();
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Entries and their content, by path.
    type Found = BTreeMap<RelPath, (Incoming, Vec<u8>)>;

    /// Packs two large files, and changes the first one in the middle of the transfer.
    fn meddled(meddle: impl FnOnce(fs::File)) -> (u64, Packed, Found) {
        let root = TempDir::new().unwrap();
        let size = 8 << 20;
        fs::write(root.path().join("large"), vec![7; size]).unwrap();
        fs::write(root.path().join("other"), vec![8; 300_000]).unwrap();
        let manifest = scan(root.path());
        let file = fs::OpenOptions::new().append(true).open(root.path().join("large")).unwrap();
        let mut out = Meddler { stream: Vec::new(), after: 1 << 20, meddle: Some(move || meddle(file)) };
        let packed = pack(root.path(), &manifest, &all_of(&manifest), &options(), &mut out, &|_| {}).unwrap();
        assert!(out.meddle.is_none());
        (size as u64, packed, unpacked(&out.stream))
    }

    #[test]
    fn a_large_file_that_shrinks_is_padded_and_told() {
        let (size, packed, found) = meddled(|file| file.set_len(100).unwrap());
        let data = &found[&path("large")].1;
        assert_eq!(data.len() as u64, size);
        assert_eq!((data[0], data.last()), (7, Some(&0)));
        assert_eq!(packed.sent[0].unwrap().digest, digest(data), "the digest is that of what went");
        assert_eq!(packed.unstable, [0]);
        assert_eq!(found[&path("other")].1, vec![8; 300_000]);
    }

    #[test]
    fn a_large_file_that_grows_is_cut_and_told() {
        let (size, packed, found) = meddled(|mut file| file.write_all(&[9; 100_000]).unwrap());
        assert!(found[&path("large")].1 == vec![7; size as usize]);
        assert_eq!(packed.unstable, [0]);
        assert_eq!(found[&path("other")].1, vec![8; 300_000]);
    }

    #[test]
    fn all_names_of_a_file_that_changed_are_sent_again_together() {
        let root = TempDir::new().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at("a"), "one").unwrap();
        fs::hard_link(at("a"), at("b")).unwrap();
        (0..30).for_each(|n| fs::write(at(&format!("large{n:02}")), vec![7; 300_000]).unwrap());
        fs::hard_link(at("a"), at("z")).unwrap();
        let manifest = scan(root.path());
        // "b" is already sent, and "z" is not read.
        let edit = || fs::write(at("a"), "edited").unwrap();
        let mut out = Meddler { stream: Vec::new(), after: 1 << 20, meddle: Some(edit) };
        let packed = pack(root.path(), &manifest, &all_of(&manifest), &options(), &mut out, &|_| {}).unwrap();
        assert_eq!(packed.unstable, [0, 1, 32]);
    }

    #[test]
    fn holes_are_told_and_take_no_bytes() {
        use std::{io::Seek as _, os::unix::fs::FileExt as _};

        let root = TempDir::new().unwrap();
        let cases: [(&str, u64, &[u64]); 5] = [
            ("all-hole", 3 << 20, &[]),
            ("at-both-ends", 1 << 20, &[0, (1 << 20) - 1]),
            ("in-the-middle", (5 << 20) + 7, &[2 << 20, 4 << 20]),
            ("small", 40_000, &[20_000]),
            ("whole", 1, &[0]),
        ];
        for (name, size, data) in cases {
            let file = fs::File::create(root.path().join(name)).unwrap();
            file.set_len(size).unwrap();
            data.iter().for_each(|at| file.write_all_at(b"x", *at).unwrap());
        }
        let manifest = scan(root.path());
        let options = PackOptions { prefix: RelPath::root(), top: None, holes: Holes::Told, ..options() };
        let mut stream = Vec::new();
        let all = all_of(&manifest);
        let packed = pack(root.path(), &manifest, &all, &options, &mut stream, &|_| {}).unwrap();
        assert_eq!(packed.amount.bytes, manifest.bytes());
        assert!(stream.len() < 100_000, "{} bytes", stream.len());

        let mut reader = Reader::new(stream.as_slice(), Naming::Contents, LIMITS).with_holes();
        let mut sent = packed.sent.iter();
        while let Some(entry) = reader.next_entry().unwrap() {
            let (extents, mut copy) = (reader.extents(), tempfile::tempfile().unwrap());
            let before = fs::File::open(below(root.path(), entry.path.as_bytes())).unwrap();
            copy.set_len(before.metadata().unwrap().len()).unwrap();
            let mut writer = crate::sys::extents::Writer::new(&copy, &extents);
            io::copy(&mut reader.data(), &mut writer).unwrap();
            copy.rewind().unwrap();
            let mut content = Vec::new();
            copy.read_to_end(&mut content).unwrap();
            assert_eq!(digest(&content), sent.next().unwrap().unwrap().digest, "{:?}", entry.path);
            let extents =
                |file: &fs::File| crate::sys::extents::Extents::of(file, &source_file::facts(file).unwrap());
            assert_eq!(extents(&copy), extents(&before), "{:?}", entry.path);
        }
        let refused = read_all(&stream, Naming::Contents, LIMITS).unwrap_err();
        assert!(matches!(refused, ReadError::Refused { why: Refusal::Sparse, .. }), "{refused}");
    }

    #[test]
    fn an_upload_that_breaks_off_ends_the_reading_too() {
        struct Full(usize);
        impl io::Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::BrokenPipe)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let root = TempDir::new().unwrap();
        for number in 0..40 {
            let size = if number % 2 == 0 { 3 << 20 } else { 1000 };
            fs::write(root.path().join(number.to_string()), vec![1; size]).unwrap();
        }
        let manifest = scan(root.path());
        for room in [0, 1 << 20, 5 << 20] {
            let result =
                pack(root.path(), &manifest, &all_of(&manifest), &options(), &mut Full(room), &|_| {});
            assert!(matches!(result, Err(PackError::Write(_))), "{result:?}");
        }
    }

    #[test]
    fn progress_only_grows_and_ends_at_the_sum() {
        let root = TempDir::new().unwrap();
        for number in 0..500 {
            fs::write(root.path().join(number.to_string()), vec![1; 10]).unwrap();
        }
        fs::write(root.path().join("large"), vec![1; 5 << 20]).unwrap();
        let manifest = scan(root.path());
        let seen = std::sync::Mutex::new(vec![Amount::default()]);
        let note = |amount| seen.lock().unwrap().push(amount);
        pack(root.path(), &manifest, &all_of(&manifest), &options(), &mut io::sink(), &note).unwrap();
        let seen = seen.into_inner().unwrap();
        assert!(seen.is_sorted_by(|a, b| a.files <= b.files && a.bytes <= b.bytes));
        assert!(seen.len() > 5, "{seen:?}");
        assert_eq!(seen.last(), Some(&Amount { files: 501, bytes: manifest.bytes() }));
    }

    #[test]
    fn an_unreadable_file_is_named_with_the_way_out() {
        // Constructed by hand: the tests may run as root, who may read everything.
        let denied = PackError::unreadable("/tree/k\u{e9}y\n".into(), io::ErrorKind::PermissionDenied.into());
        assert!(matches!(denied, PackError::Denied { .. }));
        let broken = PackError::unreadable("/tree/k\u{e9}y\n".into(), io::ErrorKind::TimedOut.into());
        assert!(matches!(broken, PackError::Read { .. }));
        for error in [denied.to_string(), broken.to_string()] {
            assert!(error.starts_with("cannot read \"/tree/k\u{e9}y\\n\": "), "{error}");
            assert!(error.contains("--exclude"), "{error}");
        }
    }

    #[test]
    fn a_nine_gigabyte_header_is_understood() {
        let mut blocks = Vec::new();
        let outgoing = Outgoing {
            name: b"huge",
            entry_type: EntryType::Regular,
            link: b"",
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 9 << 30,
            mtime: Timestamp::default(),
            holes: None,
        };
        outgoing.write_to(&mut blocks);
        let limits = Limits { bytes: 10 << 30, ..LIMITS };
        let mut reader = Reader::new(blocks.as_slice(), Naming::Contents, limits);
        assert_eq!(reader.next_entry().unwrap().unwrap().kind, IncomingKind::File { size: 9 << 30 });
        let error = reader.data().read(&mut [0; 10]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(error.downcast::<ReadError>().is_ok());
    }
}

mod hostile {
    use proptest::prelude::*;

    use super::*;

    /// One entry of a generated stream; every field can be overridden, also with invalid values.
    struct Raw {
        kind: u8,
        name: Vec<u8>,
        link: Vec<u8>,
        data: Vec<u8>,
    }

    fn raw(kind: u8, name: impl AsRef<[u8]>) -> Raw {
        Raw { kind, name: name.as_ref().to_vec(), link: Vec::new(), data: Vec::new() }
    }

    impl Raw {
        fn link(mut self, link: impl AsRef<[u8]>) -> Raw {
            self.link = link.as_ref().to_vec();
            self
        }

        fn data(mut self, data: impl AsRef<[u8]>) -> Raw {
            self.data = data.as_ref().to_vec();
            self
        }

        fn bytes(&self) -> Vec<u8> {
            self.with(|_| {})
        }

        /// With the header changed before its checksum is computed.
        fn with(&self, change: impl FnOnce(&mut tar::Header)) -> Vec<u8> {
            let mut header = tar::Header::new_ustar();
            header.as_old_mut().name[..self.name.len()].copy_from_slice(&self.name);
            header.as_old_mut().linkname[..self.link.len()].copy_from_slice(&self.link);
            header.as_old_mut().linkflag[0] = self.kind;
            header.set_mode(0o644);
            header.set_mtime(1);
            header.set_size(self.data.len() as u64);
            change(&mut header);
            header.set_cksum();
            let mut bytes = header.as_bytes().to_vec();
            bytes.extend_from_slice(&self.data);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            bytes
        }
    }

    fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (key, value) in records {
            super::super::pax::push_record(&mut payload, key.as_bytes(), value);
        }
        raw(b'x', "pax").data(payload).bytes()
    }

    fn stream(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = entries.concat();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn refusal(entries: &[Vec<u8>]) -> Option<Refusal> {
        match read_all(&stream(entries), Naming::Contents, LIMITS) {
            Ok(_) => None,
            Err(ReadError::Refused { why, .. }) => Some(why),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn whatever_could_be_misunderstood_is_refused() {
        use Refusal::*;
        let file = || raw(b'0', "./f").data("data").bytes();
        let long = |kind: u8, name: &[u8]| raw(kind, "././@LongLink").data(name).bytes();
        let deep = "d/".repeat(1000) + "f";
        let sized = |kind, size| vec![raw(kind, "f").with(|h| h.as_old_mut().size = size)];
        let damaged = |at: std::ops::Range<usize>| {
            let mut file = file();
            file[at].fill(b'x');
            vec![file]
        };
        let cases: Vec<(&str, Vec<Vec<u8>>, Refusal)> = vec![
            ("absolute", vec![raw(b'0', "/etc/passwd").bytes()], Name(BadPath::Absolute)),
            ("absolute by PAX", vec![pax(&[("path", b"/x")]), file()], Name(BadPath::Absolute)),
            ("absolute behind the dot", vec![raw(b'0', ".//x").bytes()], Name(BadPath::Absolute)),
            ("parent", vec![raw(b'0', "../x").bytes()], Name(BadPath::ParentDir)),
            ("parent behind the dot", vec![raw(b'5', "./../").bytes()], Name(BadPath::ParentDir)),
            ("parent inside", vec![raw(b'0', "a/../../x").bytes()], Name(BadPath::ParentDir)),
            ("parent by PAX", vec![pax(&[("path", b"a/..")]), file()], Name(BadPath::ParentDir)),
            ("parent by GNU", vec![long(b'L', b"../x\0"), file()], Name(BadPath::ParentDir)),
            ("NUL", vec![pax(&[("path", b"a\0b")]), file()], Name(BadPath::Nul)),
            ("empty", vec![raw(b'0', "").bytes()], EmptyName),
            ("empty by PAX", vec![pax(&[("path", b"")]), file()], MalformedPax),
            ("file at the root", vec![raw(b'0', "./").bytes()], EmptyName),
            ("file that is the root", vec![raw(b'0', ".").bytes()], Name(BadPath::EmptyComponent)),
            ("two slashes", vec![raw(b'0', "a//b").bytes()], Name(BadPath::EmptyComponent)),
            ("slash behind a file", vec![raw(b'0', "a/").bytes()], Name(BadPath::EmptyComponent)),
            ("slash behind an old file", vec![raw(0, "a/").bytes()], Name(BadPath::EmptyComponent)),
            ("slash behind a link", vec![raw(b'2', "a/").link("b").bytes()], Name(BadPath::EmptyComponent)),
            ("deep", vec![pax(&[("path", deep.as_bytes())]), file()], NameTooDeep),
            ("long", vec![pax(&[("path", &[b'n'; 65_537])]), file()], NameTooLong),
            ("link out", vec![raw(b'1', "a").link("../b").bytes()], LinkTarget(BadPath::ParentDir)),
            ("absolute link", vec![raw(b'1', "a").link("/b").bytes()], LinkTarget(BadPath::Absolute)),
            (
                "link out by PAX",
                vec![pax(&[("linkpath", b"x/../../b")]), raw(b'1', "a").link("b").bytes()],
                LinkTarget(BadPath::ParentDir),
            ),
            (
                "link out by GNU",
                vec![long(b'K', b"/b\0"), raw(b'1', "a").bytes()],
                LinkTarget(BadPath::Absolute),
            ),
            ("link to itself", vec![raw(b'1', "a").link("./a").bytes()], NoLinkTarget),
            ("link to the root", vec![raw(b'1', "a").link(".").bytes()], LinkTarget(BadPath::EmptyComponent)),
            ("link to nothing", vec![raw(b'1', "a").bytes()], NoLinkTarget),
            ("symlink to nothing", vec![raw(b'2', "a").bytes()], SymlinkTarget),
            ("symlink with NUL", vec![pax(&[("linkpath", b"a\0b")]), raw(b'2', "a").bytes()], SymlinkTarget),
            ("checksum", damaged(0..1), Checksum),
            ("no checksum", damaged(148..156), Checksum),
            ("negative size", sized(b'0', [0xff; 12]), Number("size")),
            ("size beyond 64 bits", sized(b'0', *b"\x80\0\0\x01\0\0\0\0\0\0\0\x04"), Number("size")),
            ("size with a sign", sized(b'0', *b"+0000000004\0"), Number("size")),
            ("negative size by PAX", vec![pax(&[("size", b"-4")]), file()], Number("size")),
            ("huge size by PAX", vec![pax(&[("size", b"99999999999999999999")]), file()], Number("size")),
            ("two sizes", vec![pax(&[("size", b"512")]), file()], SizeConflict { header: 4, record: 512 }),
            ("size zero by PAX", vec![pax(&[("size", b"0")]), file()], SizeConflict { header: 4, record: 0 }),
            ("mode", vec![raw(b'0', "f").with(|h| h.as_old_mut().mode = *b"rw-r--r-")], Number("mode")),
            (
                "mtime",
                vec![raw(b'0', "f").with(|h| h.as_old_mut().mtime = *b"yesterday   ")],
                Number("mtime"),
            ),
            ("mtime by PAX", vec![pax(&[("mtime", b"1e9")]), file()], Number("mtime")),
            ("directory with content", vec![raw(b'5', "d/").data("x").bytes()], ContentOfNoFile(1)),
            (
                "link with content",
                vec![file(), raw(b'1', "g").link("f").data("x").bytes()],
                ContentOfNoFile(1),
            ),
            ("symlink with content", vec![raw(b'2', "g").link("f").data("x").bytes()], ContentOfNoFile(1)),
            ("device with content", vec![raw(b'3', "g").data("x").bytes()], ContentOfNoFile(1)),
            (
                "link with content by PAX",
                vec![pax(&[("size", b"512")]), raw(b'1', "g").link("f").bytes()],
                ContentOfNoFile(512),
            ),
            ("sparse", vec![raw(b'S', "s").data("x").bytes()], Type(b'S')),
            ("sparse by PAX", vec![pax(&[("GNU.sparse.major", b"1")]), file()], Sparse),
            ("holes from elsewhere", vec![pax(&[("FASTBUILD.data", b"9 0 4")]), file()], Sparse),
            ("contiguous", vec![raw(b'7', "s").data("x").bytes()], Type(b'7')),
            ("volume", vec![raw(b'V', "s").bytes()], Type(b'V')),
            ("unknown", vec![raw(b'Z', "s").bytes()], Type(b'Z')),
            ("two PAX headers", vec![pax(&[("path", b"a")]), pax(&[("path", b"b")]), file()], ExtensionTwice),
            ("two long names", vec![long(b'L', b"a\0"), long(b'L', b"b\0"), file()], ExtensionTwice),
            ("PAX and long name", vec![pax(&[("mtime", b"1")]), long(b'L', b"b\0"), file()], ExtensionTwice),
            ("long name and PAX", vec![long(b'K', b"b\0"), pax(&[("mtime", b"1")]), file()], ExtensionTwice),
            (
                "global between",
                vec![pax(&[("path", b"a")]), raw(b'g', "pax").bytes(), file()],
                ExtensionTwice,
            ),
            ("PAX at the end", vec![pax(&[("path", b"a")])], ExtensionAlone),
            ("PAX path twice", vec![pax(&[("path", b"a"), ("path", b"b")]), file()], MalformedPax),
            ("PAX garbage", vec![raw(b'x', "pax").data("garbage").bytes(), file()], MalformedPax),
            ("PAX length", vec![raw(b'x', "pax").data("99 path=a\n").bytes(), file()], MalformedPax),
            (
                "PAX too long",
                vec![raw(b'x', "pax").data(vec![b'a'; (1 << 20) + 1]).bytes(), file()],
                ExtensionTooLong((1 << 20) + 1),
            ),
            ("PAX endless", sized(b'x', *b"77777777777\0"), ExtensionTooLong(0o777_7777_7777)),
            ("long name empty", vec![long(b'L', b"\0"), file()], MalformedLongName),
            ("long name and more", vec![long(b'L', b"a\0b\0"), file()], MalformedLongName),
            ("global name", vec![raw(b'g', "pax").data("10 path=a\n").bytes(), file()], GlobalHeader),
        ];
        for (what, entries, expected) in cases {
            assert_eq!(refusal(&entries), Some(expected), "{what}");
        }
    }

    #[test]
    fn what_engines_and_gnu_tar_send_is_taken() {
        let special = |what| Incoming { kind: IncomingKind::Special(what), ..file(b"f", 0) };
        let three = *b"\x80\0\0\0\0\0\0\0\0\0\0\x03";
        let in_base_256 = raw(b'0', "f").data("abc").with(|h| h.as_old_mut().size = three);
        let cases: Vec<(&str, Vec<Vec<u8>>, Incoming)> = vec![
            ("root", vec![raw(b'5', "./").bytes()], directory("")),
            ("bare root", vec![raw(b'5', ".").bytes()], directory("")),
            ("plain name", vec![raw(b'5', "d").bytes()], directory("d")),
            ("raw name", vec![raw(b'0', b"./\xff\n").bytes()], file(b"\xff\n", 0)),
            ("old type", vec![raw(0, "f").bytes()], file(b"f", 0)),
            ("old header", vec![raw(b'0', "f").with(|h| h.as_mut_bytes()[257..].fill(0))], file(b"f", 0)),
            (
                "prefix field",
                vec![raw(b'0', "f").with(|h| h.as_ustar_mut().unwrap().prefix[..3].copy_from_slice(b"./p"))],
                file(b"p/f", 0),
            ),
            (
                "comment for all",
                vec![raw(b'g', "pax").data("13 comment=x\n").bytes(), raw(b'0', "f").bytes()],
                file(b"f", 0),
            ),
            (
                "long name and link",
                vec![
                    raw(b'L', "././@LongLink").data("name\0").bytes(),
                    raw(b'K', "././@LongLink").data("target\0").bytes(),
                    raw(b'2', "n").link("t").bytes(),
                ],
                Incoming { kind: IncomingKind::Symlink { target: (*b"target").into() }, ..file(b"name", 0) },
            ),
            (
                "size in PAX alone, as Go has it",
                vec![pax(&[("size", b"3")]), raw(b'0', "f").data("abc").with(|h| h.set_size(0))],
                file(b"f", 3),
            ),
            ("size in base 256", vec![in_base_256], file(b"f", 3)),
            (
                "moment in PAX",
                vec![pax(&[("mtime", b"-1.5"), ("atime", b"junk")]), raw(b'0', "f").bytes()],
                Incoming { mtime: Timestamp { secs: -2, nanos: 500_000_000 }, ..file(b"f", 0) },
            ),
            (
                "set-uid",
                vec![raw(b'0', "f").with(|h| h.set_mode(0o106_755))],
                Incoming { mode: 0o755, ..file(b"f", 0) },
            ),
            ("device", vec![raw(b'3', "f").bytes()], special(Special::Device)),
            ("fifo", vec![raw(b'6', "f").bytes()], special(Special::Fifo)),
        ];
        for (what, entries, expected) in cases {
            let found = read_all(&stream(&entries), Naming::Contents, LIMITS).unwrap();
            assert_eq!(found.len(), 1, "{what}");
            assert_eq!(found[0].0, expected, "{what}");
        }
    }

    fn file(name: &[u8], size: u64) -> Incoming {
        let mtime = Timestamp { secs: 1, nanos: 0 };
        Incoming { path: path(name), kind: IncomingKind::File { size }, mode: 0o644, mtime }
    }

    fn directory(name: &str) -> Incoming {
        Incoming { kind: IncomingKind::Directory, ..file(name.as_bytes(), 0) }
    }

    #[test]
    fn every_name_lies_below_the_first_ones_prefix() {
        let prefixed = |entries: &[Vec<u8>]| read_all(&stream(entries), Naming::Prefixed, LIMITS);
        let site = || raw(b'5', "_site/").bytes();

        let found =
            prefixed(&[site(), raw(b'0', "_site/f").bytes(), raw(b'1', "_site/g").link("_site/f").bytes()])
                .unwrap();
        let kinds: Vec<_> = found.into_iter().map(|(entry, _)| (entry.path, entry.kind)).collect();
        assert_eq!(
            kinds,
            [
                (RelPath::root(), IncomingKind::Directory),
                (path("f"), IncomingKind::File { size: 0 }),
                (path("g"), IncomingKind::HardLink { target: path("f") }),
            ]
        );
        let alone = prefixed(&[raw(b'2', "link").link("/etc/passwd").bytes()]).unwrap();
        assert!(alone[0].0.path.is_root());

        let cases: [(Vec<u8>, Refusal); 7] = [
            (raw(b'0', "_site2/f").bytes(), Refusal::OutsideName),
            (raw(b'0', "f").bytes(), Refusal::OutsideName),
            (raw(b'0', "./_site/f").bytes(), Refusal::Name(BadPath::EmptyComponent)),
            (raw(b'0', "_site/../f").bytes(), Refusal::Name(BadPath::ParentDir)),
            (raw(b'1', "_site/g").link("f").bytes(), Refusal::OutsideLinkTarget),
            (raw(b'1', "_site/g").link("_site").bytes(), Refusal::NoLinkTarget),
            (raw(b'1', "_site/g").link("_site/../../f").bytes(), Refusal::LinkTarget(BadPath::ParentDir)),
        ];
        for (entry, expected) in cases {
            match prefixed(&[site(), entry]) {
                Err(ReadError::Refused { why, number: 2, .. }) => assert_eq!(why, expected),
                other => panic!("{expected:?}: {other:?}"),
            }
        }
        for name in ["..", "../x", "/", "."] {
            assert!(prefixed(&[raw(b'5', name).bytes()]).is_err(), "{name}");
        }
    }

    #[test]
    fn a_stream_that_is_cut_anywhere_is_no_stream() {
        let whole = stream(&[
            pax(&[("mtime", b"1.5")]),
            raw(b'0', "f").data([b'x'; 700]).bytes(),
            raw(b'5', "d/").bytes(),
        ]);
        assert_eq!(read_all(&whole, Naming::Contents, LIMITS).unwrap().len(), 2);
        for cut in 0..whole.len() {
            let result = read_all(&whole[..cut], Naming::Contents, LIMITS);
            assert!(matches!(result, Err(ReadError::Truncated { .. })), "{cut}: {result:?}");
        }
    }

    #[test]
    fn only_zeros_may_follow_the_end() {
        let mut padded = stream(&[raw(b'0', "f").bytes()]);
        padded.resize(10_240, 0);
        assert_eq!(read_all(&padded, Naming::Contents, LIMITS).unwrap().len(), 1);

        let second = raw(b'0', "g").bytes();
        for at in [1024, 1536, 9_000] {
            let mut smuggled = padded.clone();
            smuggled[at..at + 512].copy_from_slice(&second);
            let result = read_all(&smuggled, Naming::Contents, LIMITS);
            assert!(
                at == 512 && result.is_ok() || matches!(result, Err(ReadError::BehindEnd { .. })),
                "{at}"
            );
        }
        let endless = Reader::new(io::repeat(0), Naming::Contents, LIMITS).next_entry();
        assert!(matches!(endless, Err(ReadError::BehindEnd { .. })));
    }

    #[test]
    fn limits_count_what_is_declared_before_it_is_read() {
        let huge = raw(b'0', "huge").with(|header| header.set_size(1 << 31));
        let result = read_all(&huge, Naming::Contents, LIMITS);
        assert!(
            matches!(result, Err(ReadError::TooManyBytes { limit, number: 1, .. }) if limit == LIMITS.bytes)
        );

        let twice = stream(&[raw(b'0', "a").data([1; 600]).bytes(), raw(b'0', "b").data([1; 600]).bytes()]);
        let fits = |bytes| read_all(&twice, Naming::Contents, Limits { bytes, ..LIMITS });
        assert!(fits(1200).is_ok());
        assert!(matches!(fits(1199), Err(ReadError::TooManyBytes { number: 2, .. })));

        let fits = |entries| read_all(&twice, Naming::Contents, Limits { entries, ..LIMITS });
        assert!(fits(2).is_ok());
        assert!(matches!(fits(1), Err(ReadError::TooManyEntries { limit: 1 })));

        let globals = raw(b'g', "pax").bytes().repeat(3);
        let result = read_all(&globals, Naming::Contents, Limits { entries: 2, ..LIMITS });
        assert!(matches!(result, Err(ReadError::TooManyEntries { .. })), "global headers without end");
    }

    #[test]
    fn an_error_is_the_end_and_names_the_entry() {
        let name = [b'n'; 90].as_slice();
        let long = pax(&[("path", [b"../\x1b[2J\n".as_slice(), &name.repeat(90)].concat().as_slice())]);
        let bytes = stream(&[raw(b'0', "good").bytes(), long, raw(b'0', "x").bytes()]);
        let mut reader = Reader::new(bytes.as_slice(), Naming::Contents, LIMITS);
        assert!(reader.next_entry().unwrap().is_some());
        let error = reader.next_entry().unwrap_err().to_string();
        assert!(error.starts_with("entry 2 of the products, \"../\\u{1b}[2J\\nnnn"), "{error}");
        assert!(error.ends_with("is refused: its name is not taken: it holds a \"..\" component"), "{error}");
        assert!(error.len() < 400, "{error}");
        assert!(matches!(reader.next_entry(), Err(ReadError::AfterError)));
    }

    #[test]
    fn content_that_was_not_read_is_skipped() {
        let bytes = stream(&[raw(b'0', "a").data([7; 5000]).bytes(), raw(b'0', "b").data("bb").bytes()]);
        let mut reader = Reader::new(bytes.as_slice(), Naming::Contents, LIMITS);
        assert_eq!(reader.next_entry().unwrap().unwrap().path, path("a"));
        let mut some = [0; 10];
        reader.data().read_exact(&mut some).unwrap();
        assert_eq!(reader.next_entry().unwrap().unwrap().path, path("b"));
        assert_eq!(io::read_to_string(reader.data()).unwrap(), "bb");
        assert_eq!(reader.next_entry().unwrap(), None);
        assert_eq!(reader.next_entry().unwrap(), None);
    }

    /// A stream with one entry of each kind, for mutations.
    fn valid() -> Vec<u8> {
        stream(&[
            raw(b'5', "out/").bytes(),
            pax(&[("path", b"out/long\xff"), ("mtime", b"1.5"), ("size", b"3")]),
            raw(b'0', "out/l").data("abc").bytes(),
            raw(b'L', "././@LongLink").data("out/gnu\0").bytes(),
            raw(b'0', "out/g").data([9; 600]).bytes(),
            raw(b'1', "out/hard").link("out/gnu").bytes(),
            raw(b'2', "out/soft").link("../../etc/passwd").bytes(),
            raw(b'3', "out/dev").bytes(),
        ])
    }

    /// The same for readers that accept holes.
    fn valid_with_holes() -> Vec<u8> {
        stream(&[
            raw(b'5', "out/").bytes(),
            pax(&[("FASTBUILD.data", b"600 3 6 50 51")]),
            raw(b'0', "out/h").data("abcd").bytes(),
            raw(b'0', "out/i").data("abc").bytes(),
        ])
    }

    #[test]
    fn a_file_is_as_long_as_its_holes_say_and_has_no_more_data_than_they_leave() {
        let bytes = valid_with_holes();
        let mut reader = Reader::new(bytes.as_slice(), Naming::Prefixed, LIMITS).with_holes();
        reader.next_entry().unwrap();
        assert_eq!(reader.next_entry().unwrap().unwrap().kind, IncomingKind::File { size: 600 });
        let mut content = Vec::new();
        reader.data().read_to_end(&mut content).unwrap();
        let mut wanted = vec![0; 600];
        wanted[3..6].copy_from_slice(b"abc");
        wanted[50] = b'd';
        assert_eq!(content, wanted);
        assert_eq!(reader.next_entry().unwrap().unwrap().kind, IncomingKind::File { size: 3 });
        let too_much = [pax(&[("FASTBUILD.data", b"600 3 6")]), raw(b'0', "f").data("abcd").bytes()];
        let link = [pax(&[("FASTBUILD.data", b"600")]), raw(b'2', "f").link("x").bytes()];
        for entries in [too_much, link] {
            let bytes = stream(&entries);
            let mut reader = Reader::new(bytes.as_slice(), Naming::Contents, LIMITS).with_holes();
            reader.next_entry().unwrap_err();
        }
    }

    /// Corrects the checksums, so that mutations get past that check.
    fn mend(bytes: &mut [u8]) {
        for block in bytes.as_chunks_mut::<512>().0 {
            if block[257..262] == *b"ustar" {
                let mut header = tar::Header::from_byte_slice(block).clone();
                header.set_cksum();
                *block = *header.as_bytes();
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        #[test]
        fn no_mutation_panics_or_leads_out(
            edits in prop::collection::vec((0_usize..20_000, prop_oneof![
                any::<u8>(), Just(b'/'), Just(b'.'), Just(0), prop::sample::select(b"0123456xgLK".as_slice()),
            ]), 1..12),
            cut in prop::option::of(0_usize..20_000),
            mended in any::<bool>(),
            holes in any::<bool>(),
            naming in prop::sample::select([Naming::Prefixed, Naming::Contents].as_slice()),
        ) {
            let mut bytes = if holes { valid_with_holes() } else { valid() };
            let len = bytes.len();
            for (at, byte) in edits {
                bytes[at % len] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut % len);
            }
            if mended {
                mend(&mut bytes);
            }
            let limits = Limits { entries: 100, bytes: 1 << 16 };
            let reader = Reader::new(bytes.as_slice(), naming, limits);
            let mut reader = if holes { reader.with_holes() } else { reader };
            let mut total = 0;
            while let Ok(Some(entry)) = reader.next_entry() {
                let mut paths = vec![entry.path.clone()];
                if let IncomingKind::HardLink { target } = &entry.kind {
                    paths.push(target.clone());
                }
                for path in paths {
                    prop_assert!(!path.as_bytes().starts_with(b"/"));
                    prop_assert!(path.components().all(|c| c != b".." && c != b"." && !c.contains(&0)));
                }
                prop_assert!(entry.mode <= 0o777 && entry.mtime.nanos < 1_000_000_000);
                let Ok(read) = io::copy(&mut reader.data(), &mut io::sink()) else { break };
                total += read;
                let size = if let IncomingKind::File { size } = entry.kind { size } else { 0 };
                prop_assert_eq!(read, size);
            }
            prop_assert!(total <= limits.bytes);
        }
    }
}
