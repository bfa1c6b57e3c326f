//! Findings about the engine. Pure.

use super::{Engine, Finding, KEEP_TO_LAYER, Topic, measured};
use crate::{
    engine::{EngineFacts, EngineInfo, EngineKind, Rights, Whereabouts},
    facts::FileSharing,
    spec::Isolation,
    text::numbers,
};

pub(super) fn findings(engine: &Engine, sharing: Option<FileSharing>) -> Vec<Finding> {
    match engine {
        Engine::None { why, advice, .. } => vec![none(why, advice.as_deref())],
        Engine::Taciturn { address, greeting, why } => vec![taciturn(address, greeting, why)],
        Engine::There { address, greeting, info, whereabouts } => {
            let mut found = vec![there(address, greeting, info, *whereabouts)];
            found.extend(location(info.kind, *whereabouts, sharing));
            found.extend(rights(info.rights));
            if is_lcow(info) {
                found.push(lcow());
            } else {
                found.extend(storage_driver(info));
            }
            if info.os == "windows" {
                found.push(isolation(info.isolation));
                found.push(windows_containers());
            }
            found
        }
    }
}

fn none(why: &str, advice: Option<&str>) -> Finding {
    let act = advice.unwrap_or("name an engine with -H/--host or DOCKER_HOST");
    Finding::advice(
        Topic::Engine,
        why,
        "a build in a container needs an engine to run it",
        format!("{act}; a command whose tools are all on this machine can run without one: `--engine host`"),
    )
}

fn taciturn(address: &str, greeting: &EngineFacts, why: &str) -> Finding {
    let EngineFacts { name, version, .. } = greeting;
    Finding::advice(
        Topic::Engine,
        format!("{name} {version} at {address} does not say what it is: {why}"),
        "storage driver, isolation and where the engine is are not known",
        "look into the engine's own log; `docker info` asks the same",
    )
}

fn there(address: &str, greeting: &EngineFacts, info: &EngineInfo, whereabouts: Whereabouts) -> Finding {
    let place = match whereabouts {
        Whereabouts::Here => "on this machine".to_owned(),
        Whereabouts::SameKernel => "on this machine's kernel, in another system".to_owned(),
        Whereabouts::AnotherKernel => format!("behind {address}, with a kernel of its own"),
        Whereabouts::Network => format!("on another machine, {address}"),
    };
    let holds = [
        info.cpus.map(|cpus| numbers::counted(cpus, "processor")),
        info.memory.map(|bytes| format!("{} of memory", numbers::bytes(bytes))),
        info.images.map(|images| numbers::counted(images, "image")),
    ];
    let holds: Vec<String> = holds.into_iter().flatten().collect();
    let what = format!("{} {} (API {}) {place}", info.kind.name(), info.version, greeting.api);
    Finding::good(Topic::Engine, [what, holds.join(", ")].join(": ").trim_end_matches(": "))
}

/// What lies between the engine and this machine's files.
fn location(kind: EngineKind, whereabouts: Whereabouts, sharing: Option<FileSharing>) -> Option<Finding> {
    match whereabouts {
        Whereabouts::Here => None,
        Whereabouts::SameKernel => Some(
            Finding::note(
                Topic::Location,
                "the engine is in another system on this kernel: around the container that this is, or in \
                 another distribution of WSL",
                "its mounts take paths of that system, where this one's may not exist",
            )
            .to(KEEP_TO_LAYER),
        ),
        Whereabouts::AnotherKernel if is_virtual_machine(kind) => Some(file_sharing(kind, sharing)),
        Whereabouts::AnotherKernel => Some(
            Finding::note(
                Topic::Location,
                "the engine has another kernel than this machine: it is in a virtual machine, or at the \
                 other end of a forwarded socket",
                "its mounts show another system's files, or cross over to this one's with each file operation",
            )
            .to(KEEP_TO_LAYER),
        ),
        Whereabouts::Network => Some(Finding::advice(
            Topic::Location,
            "the engine is on another machine, and the connection to it is not encrypted",
            "who reaches that port is root there, and reads all that travels; mounts show that machine's \
             files, so only routes that upload build what lies here",
            "forward its socket: `ssh -nNT -L /tmp/engine.sock:/var/run/docker.sock USER@HOST`, then `-H \
             unix:///tmp/engine.sock`",
        )),
    }
}

/// Whether such an engine, with another kernel than ours, certainly runs in a VM on this machine.
pub(super) fn is_virtual_machine(kind: EngineKind) -> bool {
    match kind {
        EngineKind::DockerDesktop
        | EngineKind::Colima
        | EngineKind::Lima
        | EngineKind::RancherDesktop
        | EngineKind::OrbStack
        | EngineKind::Minikube => true,
        EngineKind::Docker | EngineKind::Podman | EngineKind::Other => false,
    }
}

fn file_sharing(kind: EngineKind, sharing: Option<FileSharing>) -> Finding {
    let sharing = sharing.filter(|_| kind == EngineKind::DockerDesktop);
    let by = sharing.map(|sharing| format!(" by {}", sharing.name())).unwrap_or_default();
    let what =
        format!("{} runs in a virtual machine, whose mounts see this machine's files{by}", kind.name());
    let why = match kind {
        EngineKind::Colima | EngineKind::Lima => format!(
            "each file operation crosses over; by sshfs, which it may be, a build of 2,003 files took {}, \
             and {} without a mount",
            measured::SSHFS,
            measured::NATIVE
        ),
        _ => format!(
            "each file operation crosses over; FUSE alone, without a virtual machine, took {} for a build \
             of 2,003 files, and {} without a mount",
            measured::FUSE,
            measured::NATIVE
        ),
    };
    let note = Finding::note(Topic::FileSharing, what, why);
    match sharing {
        Some(FileSharing::GrpcFuse | FileSharing::Osxfs) => Finding {
            severity: super::Severity::Advice,
            ..note.to(format!(
                "choose VirtioFS in Docker Desktop's settings (General), for what has to be mounted; \
                 {KEEP_TO_LAYER}"
            ))
        },
        Some(FileSharing::Virtiofs) | None => note.to(KEEP_TO_LAYER),
    }
}

fn rights(rights: Rights) -> Option<Finding> {
    (rights == Rights::Rootless).then(|| {
        Finding::note(
            Topic::Rootless,
            "the engine is rootless",
            "root in its containers is an ordinary user outside; on mounts, files of the containers' other \
             users belong to ids that no user here has. What fastbuild brings back belongs to you",
        )
    })
}

fn storage_driver(info: &EngineInfo) -> Option<Finding> {
    let driver = info.storage_driver.as_str();
    let on = info.backing.as_ref().map(|backing| format!(" on {backing}")).unwrap_or_default();
    let what = format!("{driver}{on}");
    let found = match (driver, info.kind) {
        ("", _) => return None,
        ("overlay", EngineKind::Podman)
        | ("overlay2" | "overlayfs" | "btrfs" | "zfs" | "windowsfilter", _) => {
            Finding::good(Topic::StorageDriver, what)
        }
        ("vfs", kind) => Finding::advice(
            Topic::StorageDriver,
            what,
            "it has no layers: each new container is a full copy of its image, and takes as long and as \
             much room as that does",
            other_driver(kind),
        ),
        ("fuse-overlayfs", kind) => Finding::advice(
            Topic::StorageDriver,
            what,
            format!(
                "each file operation in a container's own layer goes through another process: a build of \
                 2,003 files took {} over FUSE, and {} without",
                measured::FUSE,
                measured::NATIVE
            ),
            format!(
                "{}, which rootless engines can have from Linux 5.13 on; or `--route volume`",
                other_driver(kind)
            ),
        ),
        ("overlay" | "aufs", _) => outdated(what, "24"),
        ("devicemapper", _) => outdated(what, "25"),
        _ => Finding::note(
            Topic::StorageDriver,
            what,
            "what files in a container's own layer cost with it is not known",
        )
        .to("measure it: `fastbuild bench`"),
    };
    Some(found)
}

fn outdated(what: String, gone_in: &str) -> Finding {
    Finding::advice(
        Topic::StorageDriver,
        what,
        format!("Docker {gone_in} no longer has it, and leaves its images and containers behind"),
        other_driver(EngineKind::Docker),
    )
}

fn other_driver(kind: EngineKind) -> &'static str {
    match kind {
        EngineKind::Podman => "set driver = \"overlay\" in storage.conf (images have to be pulled again)",
        _ => {
            "set \"storage-driver\": \"overlay2\" in the engine's daemon.json (images have to be pulled again)"
        }
    }
}

/// Windows engines name a driver for each kind: `windowsfilter (windows) lcow (linux)`.
fn is_lcow(info: &EngineInfo) -> bool {
    info.storage_driver.contains("lcow")
}

fn lcow() -> Finding {
    Finding::advice(
        Topic::StorageDriver,
        "the engine runs Linux containers on Windows by LCOW, each in a virtual machine of its own",
        "a site took 135.49 s with its sources on a volume, and 12.86 s in the container's own layer; with \
         sources and products on volumes it failed at random with `Operation not permitted @ apply2files`",
        format!("{KEEP_TO_LAYER}; or move to WSL 2 or Docker Desktop, for LCOW was given up"),
    )
}

fn isolation(isolation: Option<Isolation>) -> Finding {
    const FIGURE: &str = "writing 1 GB into a container took 5.90 s with Hyper-V isolation, and 1.57 s \
                          with process isolation; on a machine that was itself virtual 66.82 s, and 3.39 s \
                          on a volume";
    const PROCESS: &str = "`--isolation process`, or isolation = \"process\" in fastbuild.toml, where the \
                           image's Windows is of the host's version";
    match isolation {
        Some(Isolation::Process) => Finding::good(Topic::Isolation, "containers are isolated as processes"),
        Some(Isolation::Hyperv) => Finding::advice(
            Topic::Isolation,
            "containers are isolated by Hyper-V, each in a virtual machine of its own",
            FIGURE,
            format!("{PROCESS}; where Hyper-V has to be and the machine is virtual, `--route volume`"),
        ),
        None => Finding::note(
            Topic::Isolation,
            "containers are isolated as Windows has it by default: as processes on Windows Server, by \
             Hyper-V elsewhere",
            FIGURE,
        )
        .to(PROCESS),
    }
}

fn windows_containers() -> Finding {
    Finding::note(
        Topic::WindowsContainers,
        "the engine runs Windows containers",
        "fastbuild's agent is a Linux program, so no workspace is kept, and each build uploads everything",
    )
    .to("where the build's tools run on Linux, let the engine run Linux containers")
}
