//! Files that a build made again with the same bytes -> the mtimes that it gave them, for the builds that come after it.
//!
//! Such a file is not touched on the host (rule 4 of what fastbuild promises: watchers see true changes only), and so keeps
//! an mtime that is older than what it was made from. A `make` that saw that one would make it again in each build. On a
//! mount it would see the time at which the file was last made; so that is what it is shown. What is kept here: for the
//! file with this stamp on the host, the build's own mtime is that. Whoever touches or edits the file gives it another stamp,
//! and then the host's mtime counts again, as it does when the file here is lost or damaged: at worst something is made once
//! more.
//!
//! In: a scan, whose entries get their [`Entry::mtime`](crate::tree::Entry::mtime) ([`Times::show`]), so that all that
//! compares, packs or sums up a tree goes by it without knowing; and what a staging found ([`MadeAgain`]). Where a change
//! could hide behind the stamp, for it might have come in the same tick of the file system's clock, the file is read
//! once more before it is shown so.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::{
    sys::clock::Granularity,
    tree::{Digest, Kind, Manifest, RelPath, Stamp, Timestamp, hash::hash_files, scan::Scan},
};

/// How the file begins; the last byte is the version of its format.
const MAGIC: &[u8; 8] = b"fbtimes\x02";

/// Bytes of the sha256 at its end, which is of everything before.
const SEAL: usize = 32;

/// A file of the source tree that a build made again with the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeAgain {
    /// Below the source root.
    pub path: RelPath,
    /// What the host said of its file when that had these bytes.
    pub stamp: Stamp,
    /// Of these bytes.
    pub digest: Digest,
    /// When the build made it.
    pub mtime: Timestamp,
}

/// The mtimes that builds gave to files that the host keeps under older ones.
#[derive(Debug, Clone, Default)]
pub struct Times {
    made: BTreeMap<RelPath, Made>,
    /// When the scan looked that they were last shown to.
    looked_at: Timestamp,
    saved: Saved,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    stamp: Stamp,
    mtime: Timestamp,
    trust: Trust,
}

/// Whether the stamp alone vouches for the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Trust {
    /// It was old enough when the file was known to be right.
    Stamp,
    /// It was not: the file must have this content still.
    Content(Digest),
}

/// Whether the file has what is in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Saved {
    #[default]
    Yes,
    NotYet,
}

impl Times {
    /// Reads what [`Times::save`] wrote; empty when there is nothing, or nothing that can be trusted.
    pub fn load(path: &Path) -> Times {
        let made = fs::read(path).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Times { made, ..Times::default() }
    }

    /// Gives those files of a scan of `root` their mtimes that are as they were when a build made them again. The others
    /// are forgotten.
    pub fn show(&mut self, scan: &mut Scan, root: &Path) {
        self.looked_at = scan.looked_at;
        if self.made.is_empty() {
            return;
        }
        let contents = self.read_again(&scan.manifest, root);
        let settled = settled(scan.looked_at, root);
        let mut entries = std::mem::take(&mut scan.manifest).into_entries();
        let Times { made, saved, .. } = self;
        made.retain(|path, made| {
            let found = entries.binary_search_by(|entry| entry.path.cmp(path)).ok();
            let found = found.filter(|at| entries[*at].stamp == made.stamp);
            let right = found.filter(|at| match made.trust {
                Trust::Stamp => matches!(entries[*at].kind, Kind::File { .. }),
                Trust::Content(digest) => contents.get(at) == Some(&digest),
            });
            let Some(at) = right else {
                *saved = Saved::NotYet;
                return false;
            };
            entries[at].mtime = made.mtime;
            if made.trust != Trust::Stamp && settled(&made.stamp) {
                made.trust = Trust::Stamp;
                *saved = Saved::NotYet;
            }
            true
        });
        scan.manifest = Manifest::from_entries(entries);
    }

    /// The contents of the files that their stamps do not vouch for, by their places.
    fn read_again(&self, manifest: &Manifest, root: &Path) -> HashMap<usize, Digest> {
        let doubtful = self.made.iter().filter(|(_, made)| made.trust != Trust::Stamp);
        let places: Vec<_> = doubtful
            .filter_map(|(path, made)| {
                let at = manifest.position(path)?;
                let entry = &manifest.entries()[at];
                let may_be_it = entry.stamp == made.stamp && matches!(entry.kind, Kind::File { .. });
                may_be_it.then_some(at)
            })
            .collect();
        match places.is_empty() {
            true => HashMap::new(),
            false => hash_files(root, manifest, &places, &|_| ()).digests.into_iter().collect(),
        }
    }

    /// Takes what a build made again. Its sources were scanned with [`Times::show`], below `root`.
    pub fn note(&mut self, made: Vec<MadeAgain>, root: &Path) {
        if made.is_empty() {
            return;
        }
        let settled = settled(self.looked_at, root);
        for MadeAgain { path, stamp, digest, mtime } in made {
            let trust = if settled(&stamp) { Trust::Stamp } else { Trust::Content(digest) };
            self.made.insert(path, Made { stamp, mtime, trust });
            self.saved = Saved::NotYet;
        }
    }

    /// Writes to `path` what has changed since it was read; nothing when nothing has.
    ///
    /// # Errors
    /// Whatever the file system says. The file is then as it was.
    pub fn save(&mut self, path: &Path) -> io::Result<()> {
        if self.saved == Saved::Yes {
            return Ok(());
        }
        crate::state::replace_file(path, |out| out.write_all(&self.encode()?))?;
        self.saved = Saved::Yes;
        Ok(())
    }

    fn encode(&self) -> io::Result<Vec<u8>> {
        let made: Vec<_> = self.made.iter().map(|(path, made)| (Bytes::new(path.as_bytes()), made)).collect();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(postcard::to_stdvec(&made).map_err(io::Error::other)?);
        let seal = Sha256::digest(&bytes);
        bytes.extend_from_slice(&seal);
        Ok(bytes)
    }
}

/// Whether a change after `looked_at` must have given another stamp, on the file system of `root`.
fn settled(looked_at: Timestamp, root: &Path) -> impl Fn(&Stamp) -> bool {
    let latest = looked_at.before_by(Granularity::of(root).span());
    move |stamp| stamp.mtime.max(stamp.ctime) < latest
}

fn decode(bytes: &[u8]) -> Option<BTreeMap<RelPath, Made>> {
    let (sealed, seal) = bytes.split_at_checked(bytes.len().checked_sub(SEAL)?)?;
    if Sha256::digest(sealed)[..] != *seal {
        return None;
    }
    let made: Vec<(&Bytes, Made)> = postcard::from_bytes(sealed.strip_prefix(MAGIC)?).ok()?;
    made.into_iter().map(|(path, made)| Some((RelPath::new(&**path).ok()?, made))).collect()
}

// Two attributes, because clippy knows a test module by a plain `cfg(test)`.
#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use crate::tree::{
        ignore::Rules,
        scan::{ScanOptions, scan},
    };

    const DIGEST: Digest = Digest([7; 32]);

    fn time(secs: i64) -> Timestamp {
        Timestamp { secs, nanos: 5 }
    }

    /// A source tree of some files, which a build is to make again.
    struct Sources(tempfile::TempDir);

    impl Sources {
        fn new(files: &[&str]) -> Sources {
            let sources = Sources(tempfile::tempdir().unwrap());
            files.iter().for_each(|file| sources.write(file, "made"));
            sources
        }

        fn write(&self, file: &str, content: &str) {
            let path = self.0.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        /// A scan as it would be `later` seconds from now.
        fn scan(&self, later: i64) -> Scan {
            let options = ScanOptions { rules: &Rules::none(), leave_out: &[], progress: &|_| () };
            let mut scan = scan(self.0.path(), &options).unwrap();
            scan.looked_at.secs += later;
            scan
        }

        /// Times after a build that made all files again, so many seconds from now.
        fn made_again(&self, later: i64, made: i64) -> Times {
            let (mut times, mut scan) = (Times::default(), self.scan(later));
            times.show(&mut scan, self.0.path());
            let files = scan.manifest.entries().iter().filter(|entry| entry.kind != Kind::Directory);
            let files = files.map(|entry| MadeAgain {
                path: entry.path.clone(),
                stamp: entry.stamp,
                digest: Digest(Sha256::digest("made").into()),
                mtime: time(made),
            });
            times.note(files.collect(), self.0.path());
            times
        }

        /// The paths that a later scan shows as made then.
        fn shown(&self, times: &mut Times, made: i64) -> String {
            let mut scan = self.scan(60);
            times.show(&mut scan, self.0.path());
            let entries = scan.manifest.entries().iter().filter(|entry| entry.mtime == time(made));
            entries.map(|entry| entry.path.to_string()).collect::<Vec<_>>().join(" ")
        }
    }

    #[test]
    fn a_file_as_it_was_is_shown_as_the_build_made_it_and_any_other_as_the_host_has_it() {
        let sources = Sources::new(&["a", "b", "d/c", "d/e", "f", "g"]);
        let mut times = sources.made_again(60, 200);
        assert_eq!(sources.shown(&mut times, 200), "a b d/c d/e f g");
        let touched = fs::File::open(sources.0.path().join("b")).unwrap();
        touched.set_modified(std::time::UNIX_EPOCH).unwrap();
        sources.write("d/c", "edited");
        fs::remove_file(sources.0.path().join("f")).unwrap();
        fs::create_dir(sources.0.path().join("f")).unwrap();
        fs::rename(sources.0.path().join("g"), sources.0.path().join("h")).unwrap();
        assert_eq!(sources.shown(&mut times, 200), "a d/e");
        assert_eq!(times.made.len(), 2, "forgotten");
    }

    #[test]
    fn the_latest_time_counts() {
        let sources = Sources::new(&["a"]);
        let mut times = sources.made_again(60, 200);
        let again = sources
            .made_again(60, 201)
            .made
            .into_iter()
            .map(|(path, Made { stamp, .. })| MadeAgain { path, stamp, digest: DIGEST, mtime: time(201) });
        times.note(again.collect(), sources.0.path());
        assert_eq!(sources.shown(&mut times, 201), "a");
    }

    #[test]
    fn where_an_edit_could_hide_behind_the_stamp_the_content_decides() {
        let sources = Sources::new(&["a"]);
        let fresh = || sources.made_again(0, 200);
        assert!(matches!(fresh().made.values().next(), Some(Made { trust: Trust::Content(_), .. })));
        let mut times = fresh();
        assert_eq!(sources.shown(&mut times, 200), "a");
        assert_eq!(times.made.values().next().map(|made| made.trust), Some(Trust::Stamp), "read each time");
        let mut times = fresh();
        times.made.values_mut().for_each(|made| made.trust = Trust::Content(DIGEST));
        assert_eq!(sources.shown(&mut times, 200), "");
    }

    #[test]
    fn times_come_back_as_they_were_saved_and_damaged_ones_not_at_all() {
        use std::os::unix::ffi::OsStrExt as _;
        let sources = Sources::new(&["a", "d/ab", "d/ac"]);
        sources.write("x", "made");
        let strange = sources.0.path().join(std::ffi::OsStr::from_bytes(b"\xff\n"));
        fs::write(strange, "made").unwrap();
        let home = tempfile::tempdir().unwrap();
        let at = home.path().join("times");
        let mut times = sources.made_again(60, -7);
        for (made, ino) in times.made.values_mut().zip([0, u64::MAX, 5]) {
            made.stamp.ino = ino;
        }
        if let Some(made) = times.made.values_mut().next() {
            made.trust = Trust::Content(DIGEST);
        }
        times.save(&at).unwrap();
        assert_eq!(Times::load(&at).made, times.made);

        let whole = fs::read(&at).unwrap();
        for byte in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[byte] ^= 1;
            fs::write(&at, &damaged).unwrap();
            assert!(Times::load(&at).made.is_empty(), "byte {byte} flipped");
            fs::write(&at, &whole[..byte]).unwrap();
            assert!(Times::load(&at).made.is_empty(), "cut to {byte} bytes");
        }
    }

    #[test]
    fn a_build_that_makes_nothing_again_writes_nothing() {
        let sources = Sources::new(&["a"]);
        let at = sources.0.path().join("times");
        let mut none = Times::load(&at);
        assert_eq!(sources.shown(&mut none, 200), "");
        none.save(&at).unwrap();
        assert!(!at.exists());
        sources.made_again(60, 200).save(&at).unwrap();
        let mut times = Times::load(&at);
        assert_eq!(sources.shown(&mut times, 200), "a");
        fs::remove_file(&at).unwrap();
        times.save(&at).unwrap();
        assert!(!at.exists());
    }
}
