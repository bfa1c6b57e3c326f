//! The steps that change the host, as data: [`super::stage`] makes them, [`super::journal`] keeps
//! them, [`super::apply`] carries them out. Each can be tried again after a crash, and detects by
//! itself whether it was already done.

use std::{collections::HashMap, num::NonZeroI64};

use serde::{Deserialize, Serialize};

use super::{decide::Side, record::Content};
use crate::{
    entry::{RelPath, Stamp, Timestamp},
    sys::at::Look,
};

/// One step at one path, relative to the target's handle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// The path.
    #[serde(with = "lossless")]
    pub path: RelPath,
    /// The action.
    pub action: Action,
    /// Whose version stays when the path has changed and is not what the step expects.
    pub side: Side,
    /// The expected ctime, which reveals an edit that restored size and mtime. `None`: not known.
    #[serde(default)]
    pub ctime: Option<ChangeTime>,
}

/// A ctime, in nanoseconds since 1970. It is small, for there may be a million steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeTime(NonZeroI64);

impl ChangeTime {
    /// `None` where it does not fit, before 1678 and after 2262.
    pub fn of(ctime: Timestamp) -> Option<ChangeTime> {
        i64::try_from(ctime.as_nanos()).ok().and_then(NonZeroI64::new).map(ChangeTime)
    }
}

impl Op {
    /// Whether `found` is what the step expects, which is `of`. With several names the ctime does
    /// not count, because a step at one name changes it for all of them.
    pub fn has_met(&self, found: &Look, of: Identity) -> bool {
        let is_same_time = self.ctime.is_none_or(|ctime| Some(ctime) == ChangeTime::of(found.stamp.ctime));
        Identity::from(found) == of && (found.links > 1 || is_same_time)
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Makes a directory. Mode and mtime are set when everything in it is done.
    MakeDir {
        /// Permission bits.
        mode: u32,
        /// Last change.
        mtime: Timestamp,
        /// What may be in its place.
        over: Over,
    },
    /// Renames a slot into place.
    Put {
        /// The slot.
        slot: Slot,
        /// What may be in its place.
        over: Over,
    },
    /// Sets the permission bits of an existing path.
    SetMode {
        /// The bits.
        mode: u32,
        /// The bits before.
        was: u32,
        /// The expected file or directory.
        of: Identity,
    },
    /// Sets the mtime of a file that has the right content.
    Touch {
        /// The time.
        mtime: Timestamp,
        /// The time before.
        was: Timestamp,
        /// The expected file or directory.
        of: Identity,
    },
    /// Deletes a file or link that a build wrote.
    Delete {
        /// The expected file or link.
        of: Identity,
    },
    /// Moves a file or link of the user to the safe place.
    Remove {
        /// The expected file or link.
        of: Identity,
    },
    /// Removes a directory if it is empty.
    RemoveDir {
        /// Its permission bits, in case it must be made again.
        mode: u32,
    },
    /// Exchanges the tree in place for a whole new one, which is prepared in the staging directory
    /// under the name [`SHADOW`].
    Swap {
        /// The prepared tree's inode, which tells a second try whether the first one succeeded.
        shadow: u64,
    },
}

/// The name of the prepared tree in the staging directory.
pub const SHADOW: &[u8] = b"tree";

/// What may be in a step's way. Most new files have nothing there, so the identities are boxed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Over {
    /// Nothing.
    Nothing,
    /// A file or link that a build wrote, which may be deleted.
    Known(Box<Identity>),
    /// A file of the user with the same content, which may be deleted. The new file is the user's.
    Same(Box<Identity>),
    /// Something of the user, which is moved to the safe place.
    Stranger(Box<Identity>),
    /// A directory that earlier deletes will have emptied.
    EmptiedDir {
        /// Its permission bits.
        mode: u32,
    },
}

/// Identifies a file: unchanged when the file is renamed, changed when it is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Size in bytes; zero for a directory, whose size and mtime change with its entries.
    pub size: u64,
    /// Last change of the content; zero for a directory.
    pub mtime: Timestamp,
}

impl From<&Look> for Identity {
    fn from(look: &Look) -> Identity {
        let stamp = look.stamp;
        match look.kind {
            Some(crate::entry::Kind::Directory) => {
                Identity { dev: stamp.dev, ino: stamp.ino, size: 0, mtime: Timestamp::default() }
            }
            _ => Identity::of_file(&stamp),
        }
    }
}

impl Identity {
    /// The identity of a file or link with this stamp.
    pub fn of_file(stamp: &Stamp) -> Identity {
        Identity { dev: stamp.dev, ino: stamp.ino, size: stamp.size, mtime: stamp.mtime }
    }
}

/// A file or link in the staging directory, waiting for its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its number, which is its name.
    pub number: u64,
    /// Its identity. It tells a second try whether the first one put it in place.
    pub id: Identity,
    /// Its content, which is verified after a crash.
    pub what: Content,
}

impl Slot {
    /// Its name in the staging directory.
    pub fn name(&self) -> Vec<u8> {
        self.number.to_string().into_bytes()
    }

    /// Whether `look` is of this slot's file. Size and time do not count: a slot may be another
    /// name of a file of the host, which the user may still write to.
    pub fn is(&self, look: &Look) -> bool {
        (look.stamp.dev, look.stamp.ino) == (self.id.dev, self.id.ino)
    }
}

impl Action {
    /// Replaces the expected originals by their copies.
    pub fn translate(&mut self, copies: &HashMap<Identity, Identity>) {
        let id = match self {
            Action::MakeDir { over: Over::Known(id) | Over::Stranger(id), .. }
            | Action::Put { over: Over::Known(id) | Over::Same(id) | Over::Stranger(id), .. } => &mut **id,
            Action::SetMode { of: id, .. }
            | Action::Touch { of: id, .. }
            | Action::Delete { of: id }
            | Action::Remove { of: id } => id,
            _ => return,
        };
        *id = copies.get(id).copied().unwrap_or(*id);
    }
}

/// [`RelPath`] in JSON, byte for byte.
pub(super) mod lossless {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    use super::{PathText, RelPath};

    pub fn serialize<S: Serializer>(path: &RelPath, serializer: S) -> Result<S::Ok, S::Error> {
        PathText::from(path.as_bytes()).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RelPath, D::Error> {
        RelPath::new(PathText::deserialize(deserializer)?.into_bytes()).map_err(D::Error::custom)
    }
}

/// A path of the host in JSON, byte for byte: serde's own form fails on names that are not UTF-8.
pub(crate) mod native {
    use std::{
        ffi::OsString,
        path::{Path, PathBuf},
    };

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::PathText;

    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        PathText::from(path.as_os_str().as_encoded_bytes()).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Ok(native(PathText::deserialize(deserializer)?.into_bytes().into()).into())
    }

    #[cfg(unix)]
    fn native(bytes: Vec<u8>) -> OsString {
        std::os::unix::ffi::OsStringExt::from_vec(bytes)
    }

    #[cfg(not(unix))]
    fn native(bytes: Vec<u8>) -> OsString {
        String::from_utf8_lossy(&bytes).into_owned().into()
    }
}

/// A path in JSON: text where it is UTF-8, otherwise bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum PathText {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&[u8]> for PathText {
    fn from(bytes: &[u8]) -> PathText {
        match std::str::from_utf8(bytes) {
            Ok(text) => PathText::Text(text.to_owned()),
            Err(_) => PathText::Bytes(bytes.to_owned()),
        }
    }
}

impl PathText {
    pub(crate) fn into_bytes(self) -> Box<[u8]> {
        match self {
            PathText::Text(text) => text.into_bytes().into(),
            PathText::Bytes(bytes) => bytes.into(),
        }
    }
}
