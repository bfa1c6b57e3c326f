//! Modes of products, where modes may not be changed.
//!
//! Some file systems refuse every change of a mode, even of the user's own new file: shares that
//! have no modes, and mounts into virtual machines that refuse. A build on such a mount fails
//! (`Operation not permitted @ apply2files`). Its products still come back, with the mode that a
//! new file gets there, and the user is told how many differ.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cap_std::fs::Dir;

use crate::{entry::Timestamp, sys::at};

/// Counts products whose mode is not the build's. Clones share the count.
#[derive(Debug, Clone, Default)]
pub(super) struct Refused(Arc<AtomicU64>);

impl Refused {
    /// [`at::finish_by_name`], but the file keeps its first mode where no other is allowed.
    ///
    /// # Errors
    /// Any other error of the system.
    pub fn finish(&self, dir: &Dir, entry: &[u8], mode: u32, mtime: Timestamp) -> io::Result<()> {
        match at::finish_by_name(dir, entry, mode, mtime) {
            Err(error) if at::is_mode_refusal(&error) => {
                at::set_mtime(dir, entry, mtime)?;
                self.note_unless_right(dir, entry, mode)
            }
            other => other,
        }
    }

    /// [`at::set_mode`]. Returns whether the mode is set now.
    ///
    /// # Errors
    /// Any other error of the system.
    pub fn set_mode(&self, dir: &Dir, entry: &[u8], mode: u32) -> io::Result<bool> {
        match at::set_mode(dir, entry, mode) {
            Ok(()) => Ok(true),
            Err(error) if at::is_mode_refusal(&error) => {
                self.note_unless_right(dir, entry, mode)?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn note_unless_right(&self, dir: &Dir, entry: &[u8], mode: u32) -> io::Result<()> {
        let is_right = at::look(dir, entry)?.is_some_and(|look| look.mode & 0o777 == mode & 0o777);
        if !is_right {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The number of these products.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
