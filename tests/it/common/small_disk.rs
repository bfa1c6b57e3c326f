//! A file system that is soon full. Mounting one takes root, as installing the engine does.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A tmpfs, unmounted when dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of so many MiB at `path`, which is made.
    pub fn mount(path: &Path, mebibytes: u32) -> SmallDisk {
        SmallDisk::mount_with(path, &format!("size={mebibytes}m"))
    }

    /// Mounts one with these options.
    pub fn mount_with(path: &Path, options: &str) -> SmallDisk {
        fs::create_dir_all(path).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path).output().unwrap();
        let said = String::from_utf8_lossy(&mounted.stderr);
        assert!(mounted.status.success(), "could not mount a tmpfs (this test needs root): {said}");
        SmallDisk(path.to_owned())
    }

    /// Makes it read-only.
    pub fn make_read_only(&self) {
        let status = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).status().unwrap();
        assert!(status.success());
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is just ending may still be in it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
