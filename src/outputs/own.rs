//! What an image has of its own in the working directory, where that is its own directory and no mount hides it.
//!
//! A cold build's archive holds it all. What the command left as it was is no product: it neither made nor changed it, so it
//! does not come back. Neither do caches, and the directories that lead to them, which the engine makes. In: the archive of the directory before anything was put there. Out: whether a product is that.

use std::{collections::HashMap, io::Read};

use super::{
    record::Content,
    stage::{LIMITS, digest_of},
};
use crate::{
    archive::reader::{IncomingKind, Naming, ReadError, Reader},
    tree::{Digest, RelPath},
};

/// Paths of an image's own, and of caches, relative to the working directory.
#[derive(Debug, Default)]
pub struct OwnFiles {
    files: HashMap<RelPath, Own>,
    caches: Vec<RelPath>,
}

#[derive(Debug)]
struct Own {
    what: Content,
    mode: u32,
    size: u64,
}

impl OwnFiles {
    /// Reads an archive of the directory's contents.
    ///
    /// # Errors
    /// When it is none, or cut short.
    pub fn read(from: impl Read) -> Result<OwnFiles, ReadError> {
        let mut reader = Reader::new(from, Naming::Contents, LIMITS);
        let mut own: HashMap<RelPath, Own> = HashMap::new();
        while let Some(entry) = reader.next_entry()? {
            let (what, size) = match &entry.kind {
                IncomingKind::Directory => (Content::Directory, 0),
                IncomingKind::Symlink { target } => (Content::Symlink(target.clone()), 0),
                IncomingKind::File { size } => match digest_of(&mut reader.data()) {
                    Ok(digest) => (Content::File(digest), *size),
                    Err(source) => return Err(ReadError::Io { offset: 0, source }),
                },
                IncomingKind::HardLink { target } => match own.get(target) {
                    Some(Own { what, size, .. }) => (what.clone(), *size),
                    None => continue,
                },
                IncomingKind::Special(_) => continue,
            };
            own.insert(entry.path, Own { what, mode: entry.mode, size });
        }
        Ok(OwnFiles { files: own, caches: Vec::new() })
    }

    /// The same beside `caches`, paths below the working directory.
    pub fn beside_caches(self, caches: Vec<RelPath>) -> OwnFiles {
        OwnFiles { caches, ..self }
    }

    /// How many the image has, the directory itself left out.
    pub fn count(&self) -> u64 {
        let is_image = |(path, own): &(&RelPath, &Own)| !path.is_root() && !self.is_caches(path, &own.what);
        self.files.iter().filter(is_image).count() as u64
    }

    /// Whether this is a cache, of a cache, or a directory that leads to one.
    fn is_caches(&self, path: &RelPath, what: &Content) -> bool {
        let leads_there = *what == Content::Directory;
        self.caches.iter().any(|cache| {
            path.strip_prefix(cache).is_some() || leads_there && cache.strip_prefix(path).is_some()
        })
    }

    /// Whether a cache or the image has exactly this at `path`.
    pub(super) fn holds(&self, path: &RelPath, what: &Content, mode: u32) -> bool {
        if self.is_caches(path, what) {
            return true;
        }
        let same_mode = |own: &Own| own.mode == mode || matches!(what, Content::Symlink(_));
        self.files.get(path).is_some_and(|own| own.what == *what && same_mode(own))
    }

    /// The digest of the image's file at `path`, if it has one of that size.
    pub(super) fn digest(&self, path: &RelPath, size: u64) -> Option<Digest> {
        match self.files.get(path) {
            Some(Own { what: Content::File(digest), size: own, .. }) if *own == size => Some(*digest),
            _ => None,
        }
    }
}
