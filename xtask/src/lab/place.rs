//! The five places where a project can lie, and what each stands for.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use testutils::mounts::SlowMount;

/// Where the sources lie, and on which engine they are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Place {
    /// A local disk.
    Local,
    /// sshfs.
    Sshfs,
    /// bindfs.
    Bindfs,
    /// bindfs that refuses changes of modes and owners.
    Denying,
    /// A local disk, and an engine whose own storage is slow.
    Nested,
}

impl Place {
    /// All of them, in the page's order.
    pub const ALL: [Place; 5] = [Place::Local, Place::Sshfs, Place::Bindfs, Place::Denying, Place::Nested];

    /// For headings.
    pub fn name(self) -> &'static str {
        match self {
            Place::Local => "local disk",
            Place::Sshfs => "sshfs",
            Place::Bindfs => "bindfs",
            Place::Denying => "bindfs that denies",
            Place::Nested => "nested: a slow engine",
        }
    }

    /// The user of all containers, where it is not the image's.
    pub fn user(self) -> Option<&'static str> {
        (self == Place::Denying).then_some("1000:1000")
    }

    /// Which machines of users it stands for.
    pub fn stands_for(self) -> &'static str {
        match self {
            Place::Local => {
                "Linux, or WSL2 with the files in its own file system: a bind mount costs nothing there."
            }
            Place::Sshfs => {
                "The mount of Lima and Colima (`mountType: sshfs`): the same program with the same options. LCOW's 9P is \
                 of its kind: each call is a message to a server and waits for the answer."
            }
            Place::Bindfs => {
                "FUSE, as Docker Desktop's gRPC FUSE and virtiofs are: each call leaves the kernel for a process."
            }
            Place::Denying => {
                "LCOW's volume to volume, and shares that show all files as root's and let nobody change a mode or an owner; \
                 builds run as another user there, as in the image `jekyll/jekyll`: `Operation not permitted @ apply2files`."
            }
            Place::Nested => {
                "The Azure machine with nested Hyper-V: the container's own layer is the slow part, and a volume is not."
            }
        }
    }

    /// Where it differs from those.
    pub fn differs(self) -> &'static str {
        match self {
            Place::Local => "Nothing.",
            Place::Sshfs => {
                "The server is on this machine, at the end of a pipe: no virtual machine, no SSH and no cipher between \
                 them, so the real one is slower. It runs as root, so it grants changes of owners. fastbuild itself reads and \
                 writes through the mount here, as somebody inside the virtual machine would; on the Mac, where people run it, \
                 it has the local disk."
            }
            Place::Bindfs => {
                "One process and one context switch for each call; a real one crosses into another machine, and has a file \
                 system of another system below it."
            }
            Place::Denying => "It refuses each time, where LCOW failed at random.",
            Place::Nested => {
                "Only writes are slow, and by a limit: as many bytes a second as the seed's nested container wrote. A real one \
                 is slow in reading, in starting and in computing as well. Sources, volumes and bind mounts lie on the local disk."
            }
        }
    }
}

/// A place that is set up: whatever lies below `backing` is seen below `at`.
pub struct Ground {
    /// Which one.
    pub place: Place,
    mount: Option<SlowMount>,
    backing: PathBuf,
}

impl Ground {
    /// Mounts what the place needs, once `backing` is filled: what is made behind a mount's back is not always seen on it.
    ///
    /// # Errors
    /// When the mount does not come.
    pub fn mounted(place: Place, backing: PathBuf, at: &Path) -> Result<Ground> {
        let mount = match place {
            Place::Local | Place::Nested => None,
            Place::Sshfs => Some(SlowMount::sshfs(&backing, at)),
            Place::Bindfs => Some(SlowMount::bindfs(&backing, at)),
            Place::Denying => Some(SlowMount::bindfs_foreign(&backing, at)),
        };
        let mount = mount.transpose().with_context(|| format!("{} could not be set up", place.name()))?;
        Ok(Ground { place, mount, backing })
    }

    /// A path as it is on the other side of the mount: on the machine that lends the directory.
    pub fn behind(&self, name: &str) -> PathBuf {
        self.backing.join(name)
    }

    /// A path as those see it who work there.
    pub fn path(&self, name: &str) -> PathBuf {
        self.mount.as_ref().map_or(self.backing.as_path(), SlowMount::path).join(name)
    }
}
