//! The directory of fastbuild's own files: outside the project, where the system keeps such files.

use std::path::PathBuf;

use crate::environment::Environment;

/// There is no directory for fastbuild's own files.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoStateDirectory {
    /// No variable and no home directory gives one.
    #[error(
        "no home directory, and so no place for locks and records; set FASTBUILD_STATE_DIR to a directory"
    )]
    NoHome,
    /// A relative path would differ for each current directory, and be part of the sources.
    #[error("FASTBUILD_STATE_DIR is {0:?}, which depends on the current directory; make it an absolute path")]
    Relative(PathBuf),
}

impl Environment {
    /// `FASTBUILD_STATE_DIR`, else `fastbuild` in `XDG_STATE_HOME` (an absolute path, as that
    /// standard demands), else the system's own place below the home directory.
    ///
    /// # Errors
    /// When none of them is known, or the first is a relative path.
    pub fn state_dir(&self) -> Result<PathBuf, NoStateDirectory> {
        if let Some(dir) = self.filled("FASTBUILD_STATE_DIR") {
            let dir = PathBuf::from(dir);
            return if dir.is_absolute() { Ok(dir) } else { Err(NoStateDirectory::Relative(dir)) };
        }
        let system = if cfg!(windows) { "LOCALAPPDATA" } else { "XDG_STATE_HOME" };
        if let Some(dir) = self.filled(system).map(PathBuf::from).filter(|dir| dir.is_absolute()) {
            return Ok(dir.join("fastbuild"));
        }
        let home = self.home.as_ref().ok_or(NoStateDirectory::NoHome)?;
        Ok(home.join(".local/state/fastbuild"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_dir(vars: &[(&str, &str)], home: Option<&str>) -> Result<PathBuf, NoStateDirectory> {
        let vars = vars.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Environment { vars, home: home.map(PathBuf::from), ..Environment::default() }.state_dir()
    }

    #[cfg(unix)]
    #[test]
    fn the_state_has_one_place_whatever_the_current_directory() {
        let home = Some("/home/me");
        assert_eq!(state_dir(&[("FASTBUILD_STATE_DIR", "/s")], home), Ok("/s".into()));
        assert_eq!(state_dir(&[("XDG_STATE_HOME", "/x")], home), Ok("/x/fastbuild".into()));
        assert_eq!(state_dir(&[("XDG_STATE_HOME", "x")], home), Ok("/home/me/.local/state/fastbuild".into()));
        assert_eq!(state_dir(&[], None), Err(NoStateDirectory::NoHome));
        let relative = state_dir(&[("FASTBUILD_STATE_DIR", "s")], home);
        assert_eq!(relative, Err(NoStateDirectory::Relative("s".into())));
    }
}
