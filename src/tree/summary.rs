//! A tree -> a few hashes that two ends compare in place of the tree itself.
//!
//! Paths are dealt out to buckets by a hash of the path alone, so that both ends deal alike whatever they hold. Each bucket's
//! hash covers everything that matters of its entries, in their order: path, kind, mode, mtime, size, content or
//! target. An edit changes one bucket or two, and only those are listed. A sha256 is cut to sixteen bytes, which is
//! still more than anybody could forge.
//!
//! A file whose digest is not known has a hash that equals no other, so its bucket always differs.

use sha2::{Digest as _, Sha256};

use super::{Digest, Kind, RelPath, Timestamp, node::NodeKind};

/// How many entries share a bucket, when the tree does not change.
const PER_BUCKET: usize = 32;

/// The most buckets that a summary has.
const MOST_BUCKETS: usize = 1 << 16;

/// Bytes of a bucket's hash.
const HASH: usize = 16;

/// One hash for each bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    hashes: Vec<[u8; HASH]>,
}

/// Takes entries in the order of their tree.
#[derive(Debug)]
pub struct Summarizer {
    buckets: Vec<Sha256>,
}

/// What of an entry matters.
#[derive(Debug, Clone, Copy)]
pub enum What<'a> {
    /// A directory.
    Directory,
    /// A file of this length and, where it is known, this digest.
    File(u64, Option<Digest>),
    /// A link with this target.
    Symlink(&'a [u8]),
    /// Something that does not travel.
    Special,
}

impl<'a> What<'a> {
    /// Of an entry of a manifest.
    pub fn of(kind: &'a Kind, digest: Option<Digest>) -> What<'a> {
        match kind {
            Kind::Directory => What::Directory,
            Kind::File { size } => What::File(*size, digest),
            Kind::Symlink { target } => What::Symlink(target),
        }
    }

    /// Of a node.
    pub fn of_node(kind: &'a NodeKind) -> What<'a> {
        match kind {
            NodeKind::Directory => What::Directory,
            NodeKind::File { size, digest } => What::File(*size, Some(*digest)),
            NodeKind::Symlink { target } => What::Symlink(target),
            NodeKind::Special(_) => What::Special,
        }
    }
}

/// How many buckets suit a tree of so many entries.
pub fn buckets_for(entries: usize) -> usize {
    (entries / PER_BUCKET).next_power_of_two().min(MOST_BUCKETS)
}

/// The bucket of `path` among `buckets`, which is a power of two.
pub fn bucket_of(path: &RelPath, buckets: usize) -> usize {
    // FNV-1a, with its bits folded, because the low ones alone are poor.
    let hash = path.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    ((hash ^ (hash >> 32)) as usize) & (buckets - 1)
}

impl Summarizer {
    /// No entry yet. `buckets` is a power of two.
    pub fn new(buckets: usize) -> Summarizer {
        Summarizer { buckets: vec![Sha256::new(); buckets.max(1)] }
    }

    /// Takes the next entry.
    pub fn add(&mut self, path: &RelPath, what: What<'_>, mode: u32, mtime: Timestamp) {
        let at = bucket_of(path, self.buckets.len());
        let bucket = &mut self.buckets[at];
        let mut line = [0u8; 64];
        let (tag, size) = match what {
            What::Directory => (1, 0),
            What::File(size, Some(_)) => (2, size),
            What::Symlink(target) => (3, target.len() as u64),
            What::File(size, None) => (4, size),
            What::Special => (5, 0),
        };
        line[0] = tag;
        line[1..9].copy_from_slice(&(path.as_bytes().len() as u64).to_le_bytes());
        // Nobody compares the permission bits of a link: they cannot be set.
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

    /// All entries have been taken. `unknown` is different at the two ends: a bucket with a file of unknown content
    /// never equals another, see [`Summary::differing`].
    pub fn finish(self) -> Summary {
        let cut = |hash: Sha256| {
            let mut short = [0; HASH];
            short.copy_from_slice(&hash.finalize()[..HASH]);
            short
        };
        Summary { hashes: self.buckets.into_iter().map(cut).collect() }
    }
}

impl Summary {
    /// As bytes, for the other end.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.hashes.concat()
    }

    /// From the other end's bytes; none when they are no summary.
    pub fn from_bytes(bytes: &[u8]) -> Option<Summary> {
        let (hashes, rest) = bytes.as_chunks::<HASH>();
        let fits = rest.is_empty() && hashes.len().is_power_of_two() && hashes.len() <= MOST_BUCKETS;
        fits.then(|| Summary { hashes: hashes.to_vec() })
    }

    /// How many buckets there are.
    pub fn buckets(&self) -> usize {
        self.hashes.len()
    }

    /// Which buckets differ from the other end's; all of them when that has not as many.
    pub fn differing(&self, other: &Summary) -> Differing {
        let same = self.buckets() == other.buckets();
        let pairs = self.hashes.iter().zip(other.hashes.iter().map(Some).chain(std::iter::repeat(None)));
        Differing { buckets: pairs.map(|(a, b)| !same || Some(a) != b).collect() }
    }
}

/// Which buckets of two summaries differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differing {
    buckets: Vec<bool>,
}

impl Differing {
    /// All of so many (a power of two).
    pub fn all(buckets: usize) -> Differing {
        Differing { buckets: vec![true; buckets.max(1)] }
    }

    /// Whether there is any.
    pub fn any(&self) -> bool {
        self.buckets.contains(&true)
    }

    /// Whether `path` lies in one.
    pub fn holds(&self, path: &RelPath) -> bool {
        self.buckets[bucket_of(path, self.buckets.len())]
    }

    /// Whether the bucket of that number is one.
    pub fn holds_bucket(&self, bucket: usize) -> bool {
        self.buckets.get(bucket).copied().unwrap_or(true)
    }

    /// As bytes, one bit for each bucket, the lowest first.
    pub fn to_bytes(&self) -> Vec<u8> {
        let byte = |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
        self.buckets.chunks(8).map(byte).collect()
    }

    /// From the other end's bytes; none when they do not fit so many buckets (a power of two).
    pub fn from_bytes(bytes: &[u8], buckets: usize) -> Option<Differing> {
        let fits = buckets.is_power_of_two() && buckets <= MOST_BUCKETS && bytes.len() == buckets.div_ceil(8);
        let bit = |at: usize| bytes[at / 8] >> (at % 8) & 1 == 1;
        fits.then(|| Differing { buckets: (0..buckets).map(bit).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
