//! How much room there is.

use std::{io, path::Path};

/// The room of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What whoever runs fastbuild may still use.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// Of the file system at `path`, which is asked.
///
/// # Errors
/// What the system says; [`io::ErrorKind::Unsupported`] where it cannot be asked.
pub fn space(path: &Path) -> io::Result<Space> {
    crate::sys::host::space(path).map(|(free, total)| Space { free, total })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn free_room_is_part_of_all_of_it() {
        let found = space(&std::env::temp_dir()).unwrap();
        assert!(found.free <= found.total && found.total > 0, "{found:?}");
        assert_eq!(space(Path::new("/not/there")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
