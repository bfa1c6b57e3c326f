//! Where fastbuild keeps its own files: outside the project, where the system has such files.

use std::path::PathBuf;

use super::Environment;

/// There is no place for fastbuild's own files.
#[derive(Debug, thiserror::Error)]
#[error("no home directory, and so no place for locks and records; set FASTBUILD_STATE_DIR to a directory")]
pub struct NoStateDirectory;

impl Environment {
    /// `FASTBUILD_STATE_DIR`, else `fastbuild` in `XDG_STATE_HOME` (an absolute path, as that standard demands), else in
    /// the system's own place below the home directory.
    ///
    /// # Errors
    /// When none of them is known.
    pub fn state_dir(&self) -> Result<PathBuf, NoStateDirectory> {
        if let Some(dir) = self.filled("FASTBUILD_STATE_DIR") {
            return Ok(self.cwd.join(dir));
        }
        let system = if cfg!(windows) { "LOCALAPPDATA" } else { "XDG_STATE_HOME" };
        if let Some(dir) = self.filled(system).map(PathBuf::from).filter(|dir| dir.is_absolute()) {
            return Ok(dir.join("fastbuild"));
        }
        let home = self.home.as_ref().ok_or(NoStateDirectory)?;
        Ok(home.join(".local/state/fastbuild"))
    }
}
