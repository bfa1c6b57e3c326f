//! A few hashes of a tree, which two ends compare instead of the tree itself.
//!
//! Paths are distributed to buckets by a hash of the path alone, so both ends distribute alike
//! whatever they have. Each bucket's hash covers its entries in order: path, kind, mode, mtime,
//! size, content or target, and for a further name the first one. An edit changes one or two
//! buckets; only those are listed. Sixteen bytes of a SHA-256 are still safe against forgery.
//!
//! A bucket with an unknown digest has no hash, and differs from every bucket, even from its like.

use sha2::{Digest as _, Sha256};

use super::{Digest, Manifest, links::Groups, node::NodeKind};
use crate::entry::{Kind, RelPath, Timestamp};

/// The target number of entries per bucket, for a tree that does not change.
const PER_BUCKET: usize = 32;

/// The maximum number of buckets.
const MOST_BUCKETS: usize = 1 << 16;

/// The length of a bucket's hash in bytes.
const HASH: usize = 16;

/// The value for a bucket without a hash. A real hash of this value would only cause extra work.
const UNKNOWN: [u8; HASH] = [0; HASH];

/// One hash for each bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    hashes: Vec<[u8; HASH]>,
}

/// Takes entries in the order of their tree.
#[derive(Debug)]
pub struct Summarizer {
    /// `None` for a bucket whose data are not all known.
    buckets: Vec<Option<Sha256>>,
}

/// The relevant data of an entry.
#[derive(Debug, Clone, Copy)]
pub enum What<'a> {
    /// A directory.
    Directory,
    /// A file with this length and, where known, this digest.
    File(u64, Option<Digest>),
    /// A link with this target.
    Symlink(&'a [u8]),
    /// An entry that does not travel.
    Special,
}

impl<'a> What<'a> {
    /// From an entry of a manifest.
    pub fn of(kind: &'a Kind, digest: Option<Digest>) -> What<'a> {
        match kind {
            Kind::Directory => What::Directory,
            Kind::File { size } => What::File(*size, digest),
            Kind::Symlink { target } => What::Symlink(target),
        }
    }

    /// From a node.
    pub fn of_node(kind: &'a NodeKind) -> What<'a> {
        match kind {
            NodeKind::Directory => What::Directory,
            NodeKind::File { size, digest } => What::File(*size, Some(*digest)),
            NodeKind::Symlink { target } => What::Symlink(target),
            NodeKind::Special(_) => What::Special,
        }
    }
}

/// The number of buckets for a tree with this many entries.
pub fn buckets_for(entries: usize) -> usize {
    (entries / PER_BUCKET).next_power_of_two().min(MOST_BUCKETS)
}

/// The bucket of `path` among `buckets`, which is a power of two.
pub fn bucket_of(path: &RelPath, buckets: usize) -> usize {
    // FNV-1a, folded, because its low bits alone are poorly distributed.
    let hash = path.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    ((hash ^ (hash >> 32)) as usize) & (buckets - 1)
}

impl Summarizer {
    /// Without entries. `buckets` must be a power of two.
    pub fn new(buckets: usize) -> Summarizer {
        Summarizer { buckets: vec![Some(Sha256::new()); buckets.max(1)] }
    }

    /// Adds the next entry.
    pub fn add(&mut self, path: &RelPath, what: What<'_>, mode: u32, mtime: Timestamp) {
        let at = bucket_of(path, self.buckets.len());
        let slot = &mut self.buckets[at];
        if matches!(what, What::File(_, None)) {
            *slot = None;
        }
        let Some(bucket) = slot else { return };
        let mut line = [0u8; 64];
        let (tag, size) = match what {
            What::Directory => (1, 0),
            What::File(size, _) => (2, size),
            What::Symlink(target) => (3, target.len() as u64),
            What::Special => (4, 0),
        };
        line[0] = tag;
        line[1..9].copy_from_slice(&(path.as_bytes().len() as u64).to_le_bytes());
        // The permission bits of a link cannot be set, so they are not compared.
        let mode = if matches!(what, What::Symlink(_)) { 0 } else { mode };
        line[9..13].copy_from_slice(&mode.to_le_bytes());
        line[13..21].copy_from_slice(&mtime.secs.to_le_bytes());
        line[21..25].copy_from_slice(&mtime.nanos.to_le_bytes());
        line[25..33].copy_from_slice(&size.to_le_bytes());
        bucket.update(&line[..33]);
        bucket.update(path.as_bytes());
        match what {
            What::File(_, Some(digest)) => bucket.update(digest.0),
            What::Symlink(target) => bucket.update(target),
            What::Directory | What::File(_, None) | What::Special => {}
        }
    }

    /// Adds that the entry at `path`, the last one added, is a further name of `first`, if given.
    pub fn link(&mut self, path: &RelPath, first: Option<&RelPath>) {
        let at = bucket_of(path, self.buckets.len());
        let (Some(first), Some(bucket)) = (first, &mut self.buckets[at]) else { return };
        bucket.update([5]);
        bucket.update((first.as_bytes().len() as u64).to_le_bytes());
        bucket.update(first.as_bytes());
    }

    /// Finishes the summary. A bucket with a file of unknown content becomes `UNKNOWN`, which
    /// [`Summary::differing`] treats as different from every bucket of the other end.
    pub fn finish(self) -> Summary {
        let cut = |hash: Option<Sha256>| {
            let mut short = UNKNOWN;
            if let Some(hash) = hash {
                short.copy_from_slice(&hash.finalize()[..HASH]);
            }
            short
        };
        Summary { hashes: self.buckets.into_iter().map(cut).collect() }
    }
}

/// The summary of a tree with this number of buckets (a power of two). `digests` has one for each
/// entry, or `None` where a file's content is not known.
pub fn of(manifest: &Manifest, digests: &[Option<Digest>], buckets: usize) -> Summary {
    let (mut summarizer, groups) = (Summarizer::new(buckets), Groups::of(manifest));
    for (at, (entry, digest)) in manifest.entries().iter().zip(digests).enumerate() {
        summarizer.add(&entry.path, What::of(&entry.kind, *digest), entry.mode, entry.mtime);
        summarizer.link(&entry.path, groups.first_name(manifest, at));
    }
    summarizer.finish()
}

impl Summary {
    /// Encodes it for the other end.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.hashes.concat()
    }

    /// Decodes the other end's bytes; `None` when they are not a summary.
    pub fn from_bytes(bytes: &[u8]) -> Option<Summary> {
        let (hashes, rest) = bytes.as_chunks::<HASH>();
        let fits = rest.is_empty() && hashes.len().is_power_of_two() && hashes.len() <= MOST_BUCKETS;
        fits.then(|| Summary { hashes: hashes.to_vec() })
    }

    /// The number of buckets.
    pub fn buckets(&self) -> usize {
        self.hashes.len()
    }

    /// The buckets that differ from the other end's, or that are not fully known at either end; all
    /// of them when the other end has another number of buckets.
    pub fn differing(&self, other: &Summary) -> Differing {
        let same = self.buckets() == other.buckets();
        let pairs = self.hashes.iter().zip(other.hashes.iter().map(Some).chain(std::iter::repeat(None)));
        Differing { buckets: pairs.map(|(a, b)| !same || Some(a) != b || *a == UNKNOWN).collect() }
    }
}

/// Which buckets of two summaries differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differing {
    buckets: Vec<bool>,
}

impl Differing {
    /// All buckets (their number is a power of two).
    pub fn all(buckets: usize) -> Differing {
        Differing { buckets: vec![true; buckets.max(1)] }
    }

    /// Whether any bucket differs.
    pub fn any(&self) -> bool {
        self.buckets.contains(&true)
    }

    /// Whether the bucket of `path` differs.
    pub fn holds(&self, path: &RelPath) -> bool {
        self.buckets[bucket_of(path, self.buckets.len())]
    }

    /// Whether the bucket with this number ([`bucket_of`]) differs.
    pub fn holds_bucket(&self, bucket: usize) -> bool {
        self.buckets.get(bucket).copied().unwrap_or(true)
    }

    /// Encodes one bit for each bucket, the lowest first.
    pub fn to_bytes(&self) -> Vec<u8> {
        let byte = |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
        self.buckets.chunks(8).map(byte).collect()
    }

    /// Decodes the other end's bytes; `None` if they do not fit this many buckets (a power of two).
    pub fn from_bytes(bytes: &[u8], buckets: usize) -> Option<Differing> {
        let fits = buckets.is_power_of_two() && buckets <= MOST_BUCKETS && bytes.len() == buckets.div_ceil(8);
        let bit = |at: usize| bytes[at / 8] >> (at % 8) & 1 == 1;
        fits.then(|| Differing { buckets: (0..buckets).map(bit).collect() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{entry::Stamp, tree::Entry};

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry {
            path: RelPath::new(path.as_bytes()).unwrap(),
            kind,
            mode: 0o644,
            mtime: Timestamp { secs: 5, nanos: 6 },
            stamp: Stamp::default(),
            links: 1,
        }
    }

    fn file(path: &str, size: u64) -> Entry {
        entry(path, Kind::File { size })
    }

    fn link(path: &str, target: &str) -> Entry {
        entry(path, Kind::Symlink { target: target.as_bytes().into() })
    }

    const ONE: Option<Digest> = Some(Digest([1; 32]));
    const TWO: Option<Digest> = Some(Digest([2; 32]));

    fn of_one(entry: Entry, digest: Option<Digest>) -> Summary {
        of(&Manifest::from_entries(vec![entry]), &[digest], 1)
    }

    #[test]
    fn whatever_matters_of_an_entry_makes_a_difference() {
        let plain = file("a/b", 3);
        let others = [
            (plain.clone(), TWO),
            (file("a/c", 3), ONE),
            (file("a", 3), ONE),
            (file("a/b", 4), ONE),
            (Entry { mode: 0o755, ..plain.clone() }, ONE),
            (Entry { mode: 0o4644, ..plain.clone() }, ONE),
            (Entry { mtime: Timestamp { secs: 6, nanos: 6 }, ..plain.clone() }, ONE),
            (Entry { mtime: Timestamp { secs: 5, nanos: 7 }, ..plain.clone() }, ONE),
            (entry("a/b", Kind::Directory), None),
            (link("a/b", "abc"), None),
            (link("a/b", "abd"), None),
        ];
        let (dev, ino) = (1, 2);
        let linked =
            |path: &str| Entry { stamp: Stamp { dev, ino, ..Stamp::default() }, links: 2, ..file(path, 3) };
        let two = |a, b| of(&Manifest::from_entries(vec![a, b]), &[ONE, ONE], 1);
        let pairs = [
            two(linked("a"), linked("a/b")),
            two(linked("a"), file("a/b", 3)),
            two(linked("A"), linked("a/b")),
        ];
        let mut all: Vec<Summary> = others.into_iter().map(|(entry, digest)| of_one(entry, digest)).collect();
        all.extend(pairs);
        all.push(of_one(plain, ONE));
        all.push(of(&Manifest::default(), &[], 1));
        for (at, one) in all.iter().enumerate() {
            for (other_at, other) in all.iter().enumerate() {
                assert_eq!(one.differing(other).any(), at != other_at, "{at} and {other_at}");
            }
        }
    }

    #[test]
    fn what_does_not_matter_makes_none() {
        let stamp = Stamp { dev: 1, ino: 2, ..Stamp::default() };
        let elsewhere = Entry { stamp, links: 4, ..file("a", 3) };
        assert_eq!(of_one(elsewhere, ONE), of_one(file("a", 3), ONE));
        let open = Entry { mode: 0o777, ..link("l", "x") };
        assert_eq!(of_one(open, None), of_one(link("l", "x"), None));
    }

    #[test]
    fn an_unknown_content_differs_from_everything_and_from_itself() {
        let unknown = of_one(file("a", 3), None);
        let known = of_one(file("a", 3), ONE);
        let nothing = of(&Manifest::default(), &[], 1);
        for (one, other) in
            [(&unknown, &unknown), (&unknown, &known), (&known, &unknown), (&unknown, &nothing)]
        {
            assert!(one.differing(other).any());
        }
        // And after other entries of its bucket, or before them.
        for unknown_at in 0..3 {
            let digests: Vec<_> = (0..3).map(|at| if at == unknown_at { None } else { ONE }).collect();
            let manifest = Manifest::from_entries(vec![file("a", 1), file("b", 1), file("c", 1)]);
            let summary = of(&manifest, &digests, 1);
            assert!(summary.differing(&summary.clone()).any());
        }
    }

    #[test]
    fn another_number_of_buckets_makes_all_of_them_differ() {
        let manifest = Manifest::from_entries(vec![file("a", 1)]);
        let [two, four] = [2, 4].map(|buckets| of(&manifest, &[ONE], buckets));
        assert_eq!(two.differing(&four), Differing::all(2));
        assert_eq!(four.differing(&two), Differing::all(4));
    }

    #[test]
    fn a_bucket_holds_some_thirty_entries_however_large_the_tree() {
        for entries in [0, 1, 33, 2_000, 100_000, 1_000_000] {
            let buckets = buckets_for(entries);
            assert!(buckets.is_power_of_two() && entries / buckets < 2 * PER_BUCKET, "{entries}: {buckets}");
        }
        assert_eq!(buckets_for(usize::MAX / 2), MOST_BUCKETS);
        let mut sizes = [0u32; 64];
        for dir in 0..40 {
            for number in 0..50 {
                sizes[bucket_of(&RelPath::new(format!("d{dir}/f{number}").as_bytes()).unwrap(), 64)] += 1;
            }
        }
        assert!(sizes.iter().all(|size| (5..100).contains(size)), "{sizes:?}");
    }

    proptest! {
        #[test]
        fn exactly_the_buckets_of_what_changed_differ(
            sizes in prop::collection::btree_map("[ab]{1,3}", 0..9u64, 0..30),
            changed in prop::collection::btree_map("[ab]{1,3}", 0..9u64, 0..4),
        ) {
            const BUCKETS: usize = 8;
            let summary = |sizes: &std::collections::BTreeMap<String, u64>| {
                let entries = sizes.iter().map(|(name, size)| file(name, *size)).collect();
                of(&Manifest::from_entries(entries), &vec![ONE; sizes.len()], BUCKETS)
            };
            let mut other = sizes.clone();
            other.extend(changed.clone());
            let mut wanted = vec![false; BUCKETS];
            for (name, size) in &changed {
                let at = bucket_of(&RelPath::new(name.as_bytes()).unwrap(), BUCKETS);
                wanted[at] |= sizes.get(name) != Some(size);
            }
            let sent = Summary::from_bytes(&summary(&sizes).to_bytes()).unwrap();
            prop_assert_eq!(summary(&other).differing(&sent).buckets, wanted);
        }

        #[test]
        fn any_bytes_are_a_summary_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(summary) = Summary::from_bytes(&bytes) {
                prop_assert_eq!(summary.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn differing_buckets_come_back_as_they_went() {
        for buckets in [1, 2, 8, 16, 64] {
            for odd in 0..buckets {
                let differing =
                    Differing { buckets: (0..buckets).map(|at| at == odd || at % 3 == 0).collect() };
                assert_eq!(Differing::from_bytes(&differing.to_bytes(), buckets), Some(differing));
            }
        }
        assert_eq!(Differing::from_bytes(&[0, 0], 8), None);
    }
}
