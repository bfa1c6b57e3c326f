//! Whether the system tells of changes in a directory (inotify and its like), which it cannot for changes that others
//! make on the far side of a mount.

use std::path::Path;

/// How changes of files come to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hearing {
    /// The system tells of every change, whoever made it.
    All,
    /// Only of this machine's own changes: somebody else's can only be looked for.
    OnlyOwn,
}

/// Of the file system at `path`. One that is not known is taken for a local one.
pub fn hearing(path: &Path) -> Hearing {
    imp::hearing(path)
}

#[cfg(target_os = "linux")]
mod imp {
    use super::{Hearing, Path};

    const FUSE: u32 = 0x6573_5546;
    const NFS: u32 = 0x6969;
    const SMB: u32 = 0x517b;
    const CIFS: u32 = 0xff53_4d42;
    const SMB2: u32 = 0xfe53_4d42;
    const PLAN_9: u32 = 0x0102_1997;
    const CEPH: u32 = 0x00c3_6400;
    const AFS: u32 = 0x5346_414f;
    const VBOXSF: u32 = 0x786f_4256;

    pub(super) fn hearing(path: &Path) -> Hearing {
        match crate::sys::file_system_magic(path) {
            Some(FUSE | NFS | SMB | CIFS | SMB2 | PLAN_9 | CEPH | AFS | VBOXSF) => Hearing::OnlyOwn,
            _ => Hearing::All,
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use super::{Hearing, Path};

    pub(super) fn hearing(_: &Path) -> Hearing {
        Hearing::All
    }
}
