//! Places on this machine -> the scratch directory of a project, for builds without a container.
//! Pure; [`super::facts`] looks up the possible places.
//!
//! A place that a setting names is taken or refused. Otherwise a local disk is preferred to memory,
//! and memory to layers of an overlay. A place with little space comes after all places with more.
//! File systems whose operations leave this kernel (a network, FUSE, the host of a virtual machine)
//! are never chosen: builds should avoid exactly these.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{EngineError, PlanError};
use crate::{
    facts::Class,
    spec::{Decision, Lifetime, Reason},
    text::numbers,
};

/// A place with less free space than this comes last, in bytes.
const ROOMY: u64 = 1 << 30;

/// The name of a project's tree in its scratch directory.
pub const TREE: &str = "tree";

/// The suffix of a scratch directory that is removed with its build. The kept one never has it.
const ONCE: &str = ".once";

/// A possible place of scratch directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The directory above them: absolute, its links resolved as far as it exists.
    pub root: PathBuf,
    /// The source that named it; `None` for a place that is always considered.
    pub named: Option<Reason>,
    /// Its file system; `None` when the system does not tell.
    pub ground: Option<Ground>,
    /// Free bytes; `None` when they were not looked up.
    pub free: Option<u64>,
    /// The reason why the place cannot be used, to follow the path.
    pub obstacle: Option<String>,
}

/// A file system, with the properties that matter here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ground {
    /// The kernel's name for it.
    pub kind: String,
    /// What handles its operations.
    #[serde(skip)]
    pub class: Class,
}

impl Ground {
    /// `ext4, a local disk`.
    pub fn in_words(&self) -> String {
        let what = match self.class {
            Class::Local => "a local disk",
            Class::Memory => "memory",
            Class::Layered => "layers of directories",
            Class::Fuse => "a program's file system",
            Class::Network => "a file system of the network's",
            Class::VirtualMachine => "a file system of the machine around this virtual one",
            Class::Unknown => "of a kind that is not known here",
        };
        format!("{}, {what}", self.kind)
    }
}

/// The scratch directory of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Scratch {
    /// The directory above the scratch directories of all projects.
    #[serde(serialize_with = "super::shown_path")]
    pub root: PathBuf,
    /// The project's own directory.
    #[serde(serialize_with = "super::shown_path")]
    pub directory: PathBuf,
    /// Its file system; `None` when the system does not tell.
    pub ground: Option<Ground>,
    /// Bytes that were free; `None` when they were not looked up.
    pub free: Option<u64>,
}

impl Scratch {
    /// The project's tree: the working directory of its builds. Always UTF-8, because other places
    /// are refused.
    pub fn tree(&self) -> String {
        self.directory.join(TREE).to_string_lossy().into_owned()
    }

    /// `ext4, a local disk, 64 GB free`; empty when nothing is known.
    pub fn in_words(&self) -> String {
        let free = self.free.map(|bytes| format!("{} free", numbers::bytes(bytes)));
        let parts = [self.ground.as_ref().map(Ground::in_words), free];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// Decides where the project `key` with this source root is built.
pub(super) fn choose(
    places: &[Place],
    source: &Path,
    key: &str,
    lifetime: Lifetime,
) -> Result<Decision<Scratch>, PlanError> {
    let name = match lifetime {
        Lifetime::Kept => key.to_owned(),
        Lifetime::OneRun => format!("{key}{ONCE}"),
    };
    if let Some((place, reason)) = places.iter().find_map(|place| Some((place, place.named.clone()?))) {
        return match obstacle(place, source) {
            None => Ok(Decision { value: place.scratch(&name), reason }),
            Some(why) => Err(EngineError::Scratch { reason, path: place.root.clone(), why }.into()),
        };
    }
    let judged: Vec<_> = places.iter().map(|place| (place, unfit(place, source))).collect();
    let fit = judged.iter().enumerate().filter(|(_, (_, unfit))| unfit.is_none());
    let Some((at, (place, _))) = fit.min_by_key(|(at, (place, _))| (place.is_cramped(), place.rank(), *at))
    else {
        let tried = judged.into_iter().map(|(place, why)| (place.root.clone(), why.unwrap_or_default()));
        return Err(EngineError::NoScratch { tried: tried.collect() }.into());
    };
    let scratch = place.scratch(&name);
    let passed_over = judged[..at].iter().map(|(place, why)| {
        let why = why.clone().unwrap_or_else(|| format!("is {}", place.scratch("").in_words()));
        format!("; {} {why}", place.root.to_string_lossy())
    });
    let why = format!("{}{}", scratch.in_words(), passed_over.collect::<String>());
    Ok(Decision { value: scratch, reason: Reason::Found { why } })
}

impl Place {
    fn scratch(&self, name: &str) -> Scratch {
        Scratch {
            directory: self.root.join(name),
            root: self.root.clone(),
            ground: self.ground.clone(),
            free: self.free,
        }
    }

    fn rank(&self) -> u8 {
        match self.ground.as_ref().map(|ground| ground.class) {
            Some(Class::Local) => 0,
            Some(Class::Memory) => 1,
            Some(Class::Layered) => 2,
            _ => 3,
        }
    }

    fn is_cramped(&self) -> bool {
        self.free.is_none_or(|free| free < ROOMY)
    }
}

/// The reason why a place cannot be used, to follow its path.
fn obstacle(place: &Place, source: &Path) -> Option<String> {
    if place.root.starts_with(source) {
        return Some("lies among the sources".to_owned());
    }
    if place.root.to_str().is_none() {
        return Some("is not UTF-8".to_owned());
    }
    place.obstacle.clone()
}

/// The reason why a place is not chosen unless a setting names it.
fn unfit(place: &Place, source: &Path) -> Option<String> {
    let crossing = || place.ground.as_ref().filter(|ground| ground.class.crosses());
    obstacle(place, source).or_else(|| Some(format!("is {}", crossing()?.in_words())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(root: &str, kind: &str, free: u64) -> Place {
        Place {
            root: root.into(),
            named: None,
            ground: Some(Ground { kind: kind.to_owned(), class: Class::of(kind, "") }),
            free: Some(free),
            obstacle: None,
        }
    }

    fn choice(places: &[Place]) -> String {
        match choose(places, Path::new("/home/me/p"), "k", Lifetime::Kept) {
            Ok(Decision { value, reason }) => {
                format!("{} ({reason})", value.directory.to_string_lossy())
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_fastest_place_with_room_is_chosen_and_said_why() {
        const GB: u64 = 1_000_000_000;
        let obstacle = |place: Place, why: &str| Place { obstacle: Some(why.to_owned()), ..place };
        let named = |place: Place| Place { named: Some(Reason::Flag { flag: "--scratch" }), ..place };
        let cases = [
            vec![place("/c", "ext4", 64 * GB), place("/v", "xfs", 90 * GB)],
            vec![place("/c", "nfs", 64 * GB), place("/v", "ext4", 9 * GB)],
            vec![
                place("/c", "overlay", 64 * GB),
                place("/v", "overlay", 9 * GB),
                place("/t", "tmpfs", 4 * GB),
            ],
            vec![place("/c", "ext4", GB / 2), place("/v", "overlay", 9 * GB)],
            vec![place("/c", "ext4", 5), place("/v", "tmpfs", 6)],
            vec![obstacle(place("/c", "ext4", 9 * GB), "is a symbolic link"), place("/v", "btrfs", 9 * GB)],
            vec![place("/home/me/p/.cache", "ext4", 9 * GB)],
            vec![place("/c", "fuse.sshfs", 9 * GB), place("/v", "9p", 9 * GB)],
            // A named place is taken whenever it can be used.
            vec![named(place("/n", "nfs", 5))],
            vec![named(obstacle(place("/n", "ext4", 9 * GB), "belongs to another user (7)"))],
        ];
        insta::assert_snapshot!(cases.map(|places| choice(&places)).join("\n"), @r#"
        /c/k (ext4, a local disk, 64.0 GB free)
        /v/k (ext4, a local disk, 9.0 GB free; /c is nfs, a file system of the network's)
        /t/k (tmpfs, memory, 4.0 GB free; /c is overlay, layers of directories, 64.0 GB free; /v is overlay, layers of directories, 9.0 GB free)
        /v/k (overlay, layers of directories, 9.0 GB free; /c is ext4, a local disk, 500.0 MB free)
        /c/k (ext4, a local disk, 5 B free)
        /v/k (btrfs, a local disk, 9.0 GB free; /c is a symbolic link)
        there is no place for a scratch directory on this machine: /home/me/p/.cache lies among the sources; name one with --scratch
        there is no place for a scratch directory on this machine: /c is fuse.sshfs, a file system of the network's, /v is 9p, a file system of the machine around this virtual one; name one with --scratch
        /n/k (--scratch)
        --scratch: "/n" belongs to another user (7); name another directory
        "#);
    }

    #[test]
    fn what_goes_with_its_build_is_never_what_is_kept() {
        let places = [place("/c", "ext4", 1)];
        let directory = |lifetime| choose(&places, Path::new("/p"), "k", lifetime).unwrap().value;
        assert_eq!(directory(Lifetime::Kept).tree(), "/c/k/tree");
        assert_eq!(directory(Lifetime::OneRun).tree(), "/c/k.once/tree");
    }
}
