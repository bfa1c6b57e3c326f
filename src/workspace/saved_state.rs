//! What the state directory knows of a project's workspace on one engine. It is a hint: a mark that
//! is missing, damaged or of another container costs a file sent twice, never a wrong build.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{
    agent::protocol::Held,
    state::{StateError, read_json, replace_json},
};

/// The version of the file's format; a file of another version is ignored.
const VERSION: u32 = 2;

/// What is known of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    version: u32,
    /// The container's name.
    pub name: String,
    /// The container's id: another one with the same name is another workspace.
    pub container: String,
    /// The engine's address.
    pub engine: String,
    /// The image, as it was named.
    pub image: String,
    /// The source root, as text to show.
    pub source: String,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// When a build last ended there, in seconds since 1970.
    pub last_used: u64,
    /// How much only the workspace had when last measured, and when, in seconds since 1970.
    #[serde(default)]
    pub held: Option<(Held, u64)>,
}

impl Mark {
    /// The mark of a workspace of which nothing else is known: it may be full of sources.
    pub fn new(name: String, container: String, engine: String, image: String, source: &Path) -> Mark {
        let now = now();
        Mark {
            version: VERSION,
            name,
            container,
            engine,
            image,
            source: source.to_string_lossy().into_owned(),
            made: now,
            last_used: now,
            held: None,
        }
    }

    /// Reads a mark; `None` if no usable one exists.
    pub fn load(path: &Path) -> Option<Mark> {
        let mark: Mark = read_json(path)?;
        Some(mark).filter(|mark| mark.version == VERSION)
    }

    /// Writes it with the current time as the time of last use.
    ///
    /// # Errors
    /// When the state directory cannot be written.
    pub fn save(&mut self, path: &Path) -> Result<(), StateError> {
        self.last_used = now();
        // Another process may have measured in the meantime.
        self.held =
            Mark::load(path).filter(|there| there.container == self.container).and_then(|there| there.held);
        self.write(path)
    }

    /// Records how much only the workspace has, in the mark at `path`.
    ///
    /// # Errors
    /// When the state directory cannot be written.
    pub fn note_held(mut self, path: &Path, held: Held) -> Result<(), StateError> {
        self.held = Some((held, now()));
        self.write(path)
    }

    fn write(&self, path: &Path) -> Result<(), StateError> {
        replace_json(path, self).map_err(StateError::at("write", path))
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_a_damaged_or_other_one_is_none() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("mark");
        let text = |text: &str| text.to_owned();
        let mut mark = Mark::new(text("n"), text("c"), text("e"), text("i"), Path::new("/p"));
        mark.save(&path).unwrap();
        assert_eq!(Mark::load(&path), Some(mark));

        let good = std::fs::read_to_string(&path).unwrap();
        let damaged =
            [&good[..good.len() - 1], "", "{}", &good.replace("made", "maid"), &good.replacen('2', "1", 1)];
        for damaged in damaged {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(Mark::load(&path), None, "{damaged}");
        }
        assert_eq!(Mark::load(&home.path().join("none")), None);
    }
}
