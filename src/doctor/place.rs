//! Findings about what the sources lie on, and about room. Pure.

use super::{Finding, KEEP_TO_LAYER, Needs, Room, Source, Topic, measured};
use crate::{
    facts::{Case, Class, FileSystem},
    report::events::path_text,
    text::numbers,
};

/// Below this, the engine's space is short: for a common image with its tools, and a build's files.
const LITTLE_FOR_ENGINE: u64 = 5_000_000_000;
/// Below this, the host's space is short: for the files of fastbuild and its builds.
const LITTLE_FOR_HOST: u64 = 1_000_000_000;

pub(super) fn source(source: &Source) -> Vec<Finding> {
    if let Some(why) = &source.no_answer {
        return vec![Finding::advice(
            Topic::Source,
            why,
            "a build would wait for it, or fail with it",
            "see whether the machine or the network behind it is there; unmount it (`umount -l`) and mount \
             it again",
        )];
    }
    let lies_on = match &source.file_system {
        Some(found) => lies_on(&path_text(&source.path), found),
        None => Finding::note(
            Topic::Source,
            format!("what {} lies on is not known", path_text(&source.path)),
            "this system does not tell, so whether file operations there are slow is not known either",
        )
        .to("measure it: `fastbuild bench`"),
    };
    let folded = (source.case == Some(Case::Folded)).then(|| {
        Finding::note(
            Topic::Case,
            "the sources' directory takes upper case for lower case",
            "a Linux container does not: a name written in the wrong case is found here and not there, and \
             two products whose names differ in case only are one file here",
        )
        .to("write names as they are; keep sources that need both on a file system that tells them apart")
    });
    [Some(lies_on), folded].into_iter().flatten().collect()
}

fn lies_on(path: &str, found: &FileSystem) -> Finding {
    let FileSystem { kind, class, mount_point, device, .. } = found;
    let what = format!("{path} lies on {kind} ({device}, mounted at {})", path_text(mount_point));
    if found.is_windows_drive() {
        return windows_drive(what);
    }
    let (native, fuse, sshfs) = (measured::NATIVE, measured::FUSE, measured::SSHFS);
    match class {
        Class::Local => Finding::good(Topic::Source, format!("{path} lies on {kind}, a local file system")),
        Class::Memory => Finding::good(Topic::Source, format!("{path} lies on {kind}, in memory")),
        Class::Layered => Finding::good(Topic::Source, format!("{path} lies on {kind}, a local file system")),
        Class::Unknown => {
            Finding::note(Topic::Source, what, "whether file operations there are slow is not known")
                .to("measure it: `fastbuild bench`")
        }
        Class::Network if kind == "fuse.sshfs" || device.starts_with("sshfs#") => Finding::advice(
            Topic::Source,
            what,
            format!(
                "each file operation asks another machine: a build of 2,003 files on sshfs took {sshfs}, \
                 and {native} without"
            ),
            KEEP_TO_LAYER,
        ),
        Class::Network => Finding::advice(
            Topic::Source,
            what,
            format!(
                "each file operation asks another machine; on sshfs, which does so too, a build of 2,003 \
                 files took {sshfs}, and {native} without"
            ),
            KEEP_TO_LAYER,
        ),
        Class::Fuse => Finding::advice(
            Topic::Source,
            what,
            format!(
                "each file operation goes through another process: a build of 2,003 files on the least of \
                 FUSE, bindfs, took {fuse}, and {native} without"
            ),
            KEEP_TO_LAYER,
        ),
        Class::VirtualMachine => Finding::advice(
            Topic::Source,
            what,
            format!(
                "each file operation leaves this virtual machine for the one around it; where nothing but \
                 another process lay in between, a build of 2,003 files took {fuse}, and {native} without"
            ),
            format!("{KEEP_TO_LAYER}; or keep the sources on this machine's own disk"),
        ),
    }
}

fn windows_drive(what: String) -> Finding {
    Finding::advice(
        Topic::Source,
        format!("{what}, a drive of Windows"),
        "each file operation leaves Linux for Windows: a blog on WSL 2 was built 18 times faster once its \
         files had left /mnt/c",
        format!(
            "keep the sources in Linux, below your home directory there; until then, {KEEP_TO_LAYER}; \
                 with the tools in Linux, `--engine host` works on Linux' own disk, without a container"
        ),
    )
}

pub(super) fn room(room: &Room) -> Option<Finding> {
    let Room { what_for, path, space } = room;
    let (free, total) = (numbers::bytes(space.free), numbers::bytes(space.total));
    let what = |whose: &str| format!("{free} of {total} are free {whose} ({path})");
    match what_for {
        Needs::Engine if space.free >= LITTLE_FOR_ENGINE => {
            Some(Finding::good(Topic::Space, what("where the engine keeps its containers")))
        }
        Needs::Engine => Some(Finding::advice(
            Topic::Space,
            what("where the engine keeps its containers"),
            "images, workspaces and all that builds write lie there, and a build that fills the disk fails",
            "`fastbuild workspace prune --all` removes workspaces; `docker system df` tells what else there is",
        )),
        Needs::State | Needs::Source if space.free >= LITTLE_FOR_HOST => None,
        Needs::State => Some(Finding::advice(
            Topic::Space,
            what("for fastbuild's own files"),
            "the record of what builds brought back is kept there, and a build that cannot write it fails",
            "free some, or name another directory in FASTBUILD_STATE_DIR",
        )),
        Needs::Source => Some(Finding::advice(
            Topic::Space,
            what("beside the sources"),
            "products arrive there as a whole before the old ones go, so both need room for a moment",
            "free some, or let products come back to another disk (`-o PATH:HOST`)",
        )),
    }
}
