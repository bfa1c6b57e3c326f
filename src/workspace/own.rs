//! Files that an image has of its own where the sources go.
//!
//! A workspace's source tree becomes the host's, and what the host has not is deleted there; so it cannot keep an image's own
//! files apart from sources that the host once had, and a cold build, which shows them, does instead. That an image has such
//! files is seen when a new workspace is first compared. It depends on nothing but the image, the working directory, and
//! what is left out of the source tree, so a note of these needs no other proof, and spares the next build a workspace that is made in
//! vain. What lies in places that are left out stays in a workspace as caches do, for as long as they are left out.
//!
//! A cold build notes likewise that there is nothing at all, which the engine takes its time to tell.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    engine::ImageFacts,
    plan::Plan,
    state::{StateError, read_json, replace_json},
    tree::{Digest, RelPath},
};

/// What decides whether there are such files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    image: String,
    directory: String,
    left_out: LeftOut,
}

/// What is left out of a source tree, in brief.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeftOut(String);

impl LeftOut {
    fn nothing() -> LeftOut {
        LeftOut(String::new())
    }

    /// Of the source tree of `plan`.
    pub fn of(plan: &Plan) -> LeftOut {
        let patterns = plan.ignore.patterns.iter().map(|pattern| pattern.value.as_bytes());
        let outputs = plan.ignore.outputs.iter().map(RelPath::as_bytes);
        let mut hasher = Sha256::new();
        let marked = patterns.map(|pattern| (b'p', pattern)).chain(outputs.map(|output| (b'o', output)));
        for (mark, bytes) in marked {
            hasher.update([mark]);
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
        LeftOut(Digest(hasher.finalize().into()).to_string())
    }
}

/// Such files, found.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    place: Place,
    entries: u64,
}

impl Place {
    /// The working directory of `plan` in `image`.
    pub fn new(plan: &Plan, image: &ImageFacts) -> Place {
        Place { left_out: LeftOut::of(plan), ..Place::whole(plan, image) }
    }

    /// The same with all that is left out.
    pub fn whole(plan: &Plan, image: &ImageFacts) -> Place {
        let (image, directory) = (image.id.clone(), plan.workdir.value.clone());
        Place { image, directory, left_out: LeftOut::nothing() }
    }

    /// What is left out there.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// The working directory.
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// How many files of its own the image is known to have here; none when it is not known.
    pub fn known(&self, path: &Path) -> Option<u64> {
        let note: Note = read_json(path)?;
        (note.place == *self).then_some(note.entries)
    }

    /// Notes that it has so many.
    ///
    /// # Errors
    /// When the state directory does not take it.
    pub fn note(&self, path: &Path, entries: u64) -> Result<(), StateError> {
        let note = Note { place: self.clone(), entries };
        replace_json(path, &note).map_err(StateError::at("write", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_of_a_place_is_known_of_that_place_alone() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path().join("own");
        let text = |text: &str| text.to_owned();
        let place = Place { image: text("i"), directory: text("/d"), left_out: LeftOut(text("p")) };
        assert_eq!(place.known(&at), None);
        place.note(&at, 3).unwrap();
        assert_eq!(place.known(&at), Some(3));
        let others = [
            Place { image: text("j"), ..place.clone() },
            Place { directory: text("/e"), ..place.clone() },
            Place { left_out: LeftOut(text("q")), ..place.clone() },
        ];
        assert!(others.iter().all(|other| other.known(&at).is_none()));
        std::fs::write(&at, "damaged").unwrap();
        assert_eq!(place.known(&at), None);
    }
}
