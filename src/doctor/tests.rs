//! Facts of other machines -> findings.

use std::path::Path;

use super::*;
use crate::{
    engine::{ApiVersion, EngineKind, Rights},
    facts::{Ci, Class, Hypervisor, Virtualization, Wsl, file_system_in},
    spec::Isolation,
};

/// A physical machine with Docker on it and the sources on its disk: nothing to advise.
fn facts() -> Facts {
    Facts {
        machine: Machine {
            os: "linux",
            arch: "x86_64",
            kernel: "6.1".to_owned(),
            name: "pc".to_owned(),
            wsl: None,
            virtualization: Virtualization::None,
            ci: None,
            id: "0123456789abcdef".to_owned(),
        },
        unattended: false,
        engine: engine(|_| ()),
        sharing: None,
        source: source("1 0 8:1 / / rw - ext4 /dev/sda1 rw"),
        rooms: Vec::new(),
    }
}

fn info() -> EngineInfo {
    EngineInfo {
        kind: EngineKind::Docker,
        version: "27.3.1".to_owned(),
        system: "Debian GNU/Linux 12 (bookworm)".to_owned(),
        os: "linux".to_owned(),
        arch: "x86_64".to_owned(),
        kernel: "6.1".to_owned(),
        name: "pc".to_owned(),
        storage_driver: "overlay2".to_owned(),
        backing: Some("extfs".to_owned()),
        root_dir: "/var/lib/docker".to_owned(),
        rights: Rights::Root,
        isolation: None,
        cgroup_version: Some("2".to_owned()),
        cpus: Some(8),
        memory: Some(16_000_000_000),
        images: Some(1),
    }
}

fn greeting() -> EngineFacts {
    EngineFacts {
        name: "Docker".to_owned(),
        version: "27.3.1".to_owned(),
        api: ApiVersion { major: 1, minor: 47 },
        os: "linux".to_owned(),
    }
}

fn engine_at(whereabouts: Whereabouts, change: impl FnOnce(&mut EngineInfo)) -> Engine {
    let mut info = info();
    change(&mut info);
    Engine::There {
        address: "unix:///var/run/docker.sock".to_owned(),
        greeting: greeting(),
        info: Box::new(info),
        whereabouts,
    }
}

fn engine(change: impl FnOnce(&mut EngineInfo)) -> Engine {
    engine_at(Whereabouts::Here, change)
}

fn source(mountinfo: &str) -> Source {
    let path = Path::new("/src");
    let file_system = file_system_in(mountinfo.as_bytes(), path);
    Source { path: path.to_owned(), no_answer: None, file_system, case: Some(Case::Kept) }
}

/// The one finding about `topic`; its severity, and all that it says.
#[track_caller]
fn about(facts: &Facts, topic: Topic) -> Option<(Severity, String)> {
    let mut found = findings(facts).into_iter().filter(|finding| finding.topic == topic);
    let one = found.next();
    assert!(found.next().is_none(), "two findings about {topic:?}");
    let one = one?;
    // A verdict without a reason does not help the user.
    assert!(one.severity == Severity::Good || one.why.is_some(), "{one:?} has no reason");
    assert!(one.severity != Severity::Advice || one.act.is_some(), "{one:?} does not say what to do");
    let said = [Some(one.what), one.why, one.act].into_iter().flatten().collect::<Vec<_>>().join(" | ");
    Some((one.severity, said))
}

/// Asserts the severity of what is found about `topic`, and that it says each of `parts`.
#[track_caller]
fn says(facts: &Facts, topic: Topic, severity: Severity, parts: &[&str]) {
    let (found, said) = about(facts, topic).unwrap_or_else(|| panic!("nothing about {topic:?}"));
    assert_eq!(found, severity, "{said}");
    for part in parts {
        assert!(said.contains(part), "{said:?} lacks {part:?}");
    }
}

#[test]
fn a_good_machine_has_nothing_but_good_findings() {
    let found = findings(&facts());
    assert!(found.iter().all(|finding| finding.severity == Severity::Good), "{found:?}");
    let topics: Vec<_> = found.iter().map(|finding| finding.topic.name()).collect();
    assert_eq!(topics, ["engine", "storage-driver", "source"]);
    let what = "Docker 27.3.1 (API 1.47) on this machine: 8 processors, 16.0 GB of memory, 1 image";
    assert_eq!(found[0].what, what);
}

#[test]
fn an_engine_that_is_not_there_is_advice_with_its_errors_own_words() {
    let mut facts = facts();
    let none = |advice: Option<&str>| Engine::None {
        address: None,
        why: "no engine: it hides".to_owned(),
        advice: advice.map(str::to_owned),
    };
    facts.engine = none(Some("look for it"));
    says(&facts, Topic::Engine, Severity::Advice, &["no engine: it hides", "look for it"]);
    facts.engine = none(None);
    says(&facts, Topic::Engine, Severity::Advice, &["DOCKER_HOST", "--engine host"]);
    facts.engine =
        Engine::Taciturn { address: "tcp://x:1".into(), greeting: greeting(), why: "it refuses".into() };
    says(&facts, Topic::Engine, Severity::Advice, &["Docker 27.3.1 at tcp://x:1", "it refuses"]);
    assert_eq!(about(&facts, Topic::StorageDriver), None, "what is not known is not claimed");
}

#[test]
fn where_the_engine_is_decides_what_mounts_cost() {
    use EngineKind::{Colima, Docker, DockerDesktop, Lima, OrbStack, Podman};
    use Severity::{Advice, Note};
    use Topic::{FileSharing as Sharing, Location};
    use Whereabouts::{AnotherKernel, Network, SameKernel};
    type Row = (Whereabouts, EngineKind, Option<FileSharing>, Topic, Severity, &'static [&'static str]);
    let cases: [Row; 11] = [
        (Network, Docker, None, Location, Advice, &["not encrypted", "ssh -nNT"]),
        (
            SameKernel,
            DockerDesktop,
            None,
            Location,
            Note,
            &["another system on this kernel", "--route layer"],
        ),
        (AnotherKernel, Docker, None, Location, Note, &["another kernel", "forwarded socket"]),
        (AnotherKernel, Podman, None, Location, Note, &["another kernel"]),
        (AnotherKernel, Colima, None, Sharing, Note, &["Colima", "11.3 s", "5.7 s"]),
        (AnotherKernel, Lima, None, Sharing, Note, &["sshfs", "11.3 s"]),
        (AnotherKernel, OrbStack, None, Sharing, Note, &["OrbStack", "7.1 s"]),
        (AnotherKernel, DockerDesktop, None, Sharing, Note, &["this machine's files |", "7.1 s"]),
        (AnotherKernel, DockerDesktop, Some(FileSharing::Virtiofs), Sharing, Note, &["by VirtioFS"]),
        (
            AnotherKernel,
            DockerDesktop,
            Some(FileSharing::GrpcFuse),
            Sharing,
            Advice,
            &["by gRPC FUSE", "7.1 s", "5.7 s", "choose VirtioFS", "--route layer"],
        ),
        (AnotherKernel, DockerDesktop, Some(FileSharing::Osxfs), Sharing, Advice, &["by osxfs"]),
    ];
    for (whereabouts, kind, sharing, topic, severity, parts) in cases {
        let mut facts = facts();
        facts.engine = engine_at(whereabouts, |info| info.kind = kind);
        facts.sharing = sharing;
        says(&facts, topic, severity, parts);
    }
}

#[test]
fn docker_desktops_settings_say_nothing_of_another_engine() {
    let mut facts = facts();
    facts.sharing = Some(FileSharing::Osxfs);
    assert_eq!(about(&facts, Topic::FileSharing), None);
    facts.engine = engine_at(Whereabouts::AnotherKernel, |info| info.kind = EngineKind::Colima);
    let (severity, said) = about(&facts, Topic::FileSharing).unwrap();
    assert!(severity == Severity::Note && !said.contains("osxfs"), "{said}");
}

#[test]
fn storage_drivers_are_judged_by_name_and_engine() {
    use EngineKind::{Docker, Podman};
    use Severity::{Advice, Good, Note};
    let cases: [(&str, EngineKind, Severity, &[&str]); 12] = [
        ("overlay2", Docker, Good, &["overlay2 on extfs"]),
        ("overlayfs", Docker, Good, &[]),
        ("btrfs", Docker, Good, &[]),
        ("zfs", Docker, Good, &[]),
        ("windowsfilter", Docker, Good, &[]),
        ("overlay", Podman, Good, &[]),
        ("overlay", Docker, Advice, &["Docker 24", "overlay2"]),
        ("aufs", Docker, Advice, &["Docker 24", "daemon.json"]),
        ("devicemapper", Docker, Advice, &["Docker 25", "daemon.json"]),
        ("vfs", Podman, Advice, &["full copy", "storage.conf"]),
        ("fuse-overlayfs", Docker, Advice, &["7.1 s", "5.7 s", "5.13", "--route volume"]),
        ("stargz", Docker, Note, &["not known"]),
    ];
    for (driver, kind, severity, parts) in cases {
        let mut facts = facts();
        facts.engine = engine(|info| (info.storage_driver, info.kind) = (driver.to_owned(), kind));
        says(&facts, Topic::StorageDriver, severity, parts);
    }
    let mut silent = facts();
    silent.engine = engine(|info| info.storage_driver.clear());
    assert_eq!(about(&silent, Topic::StorageDriver), None);
}

#[test]
fn windows_engines_are_told_what_isolation_costs() {
    use Severity::{Advice, Good, Note};
    let figures = &["5.90 s", "1.57 s", "66.82 s", "3.39 s", "--isolation process"][..];
    let cases = [
        (Some(Isolation::Process), Good, &[][..]),
        (Some(Isolation::Hyperv), Advice, figures),
        (None, Note, figures),
    ];
    for (isolation, severity, parts) in cases {
        let mut facts = facts();
        facts.engine = engine_at(Whereabouts::AnotherKernel, |info| {
            (info.os, info.isolation, info.storage_driver) =
                ("windows".to_owned(), isolation, "windowsfilter".to_owned());
        });
        says(&facts, Topic::Isolation, severity, parts);
        says(&facts, Topic::WindowsContainers, Note, &["no workspace is kept"]);
    }
    assert_eq!(about(&facts(), Topic::Isolation), None);
    let mut lcow = facts();
    lcow.engine = engine(|info| info.storage_driver = "windowsfilter (windows) lcow (linux)".to_owned());
    says(&lcow, Topic::StorageDriver, Advice, &["135.49 s", "12.86 s", "apply2files", "--route layer"]);
}

#[test]
fn a_rootless_engine_is_noted() {
    let mut facts = facts();
    facts.engine = engine(|info| info.rights = Rights::Rootless);
    says(&facts, Topic::Rootless, Severity::Note, &["rootless"]);
}

#[test]
fn the_sources_file_system_is_told_with_its_figure() {
    use Severity::{Advice, Good, Note};
    let cases: [(&str, Severity, &[&str]); 16] = [
        ("ext4 /dev/sdb1", Good, &["/src lies on ext4, a local file system"]),
        ("btrfs /dev/sdb1", Good, &["btrfs"]),
        ("tmpfs tmpfs", Good, &["in memory"]),
        ("overlay overlay", Good, &["overlay"]),
        (
            "fuse.sshfs :/Users/me",
            Advice,
            &["fuse.sshfs (:/Users/me, mounted at /src)", "11.3 s", "5.7 s", "--route layer"],
        ),
        ("fuse sshfs#me@host:/src", Advice, &["11.3 s"]),
        ("nfs4 nas:/home", Advice, &["nfs4 (nas:/home", "asks another machine", "11.3 s"]),
        ("cifs //nas/share", Advice, &["cifs", "--route layer"]),
        ("fuse /data", Advice, &["another process", "bindfs", "7.1 s", "5.7 s"]),
        ("fuse.grpcfuse grpcfuse", Advice, &["leaves this virtual machine", "7.1 s"]),
        ("virtiofs mount0", Advice, &["leaves this virtual machine", "this machine's own disk"]),
        ("9p mount1", Advice, &["leaves this virtual machine"]),
        ("fakeowner /run/host_mark/Users", Advice, &["leaves this virtual machine"]),
        ("9p C:\\134", Advice, &["a drive of Windows", "18 times", "--route layer", "--engine host"]),
        ("drvfs C:\\134", Advice, &["18 times"]),
        ("somethingfs x", Note, &["not known", "fastbuild bench"]),
    ];
    for (mounted, severity, parts) in cases {
        let mut facts = facts();
        facts.source =
            source(&format!("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:9 / /src rw - {mounted} rw"));
        says(&facts, Topic::Source, severity, parts);
    }
    let mut unknown = facts();
    unknown.source.file_system = None;
    says(&unknown, Topic::Source, Note, &["not known"]);
}

#[test]
fn sources_that_do_not_answer_are_the_only_thing_said_of_them() {
    let mut facts = facts();
    let why = r#"the file system of "/src" (fuse.sshfs, mounted at "/src") did not answer within 10 s"#;
    facts.source.no_answer = Some(why.to_owned());
    facts.source.case = None;
    says(&facts, Topic::Source, Severity::Advice, &[why, "umount -l"]);
}

#[test]
fn a_directory_that_folds_case_is_noted() {
    let mut facts = facts();
    facts.source.case = Some(Case::Folded);
    says(&facts, Topic::Case, Severity::Note, &["upper case for lower case"]);
    facts.source.case = None;
    assert_eq!(about(&facts, Topic::Case), None);
}

#[test]
fn room_is_told_where_it_is_short_and_of_the_engine_always() {
    const GB: u64 = 1_000_000_000;
    let cases = [
        (Needs::Engine, 100 * GB, Some(Severity::Good), "100.0 GB of 500.0 GB"),
        (Needs::Engine, 5 * GB, Some(Severity::Good), "5.0 GB"),
        (Needs::Engine, 5 * GB - 1, Some(Severity::Advice), "workspace prune"),
        (Needs::State, GB, None, ""),
        (Needs::State, GB - 1, Some(Severity::Advice), "FASTBUILD_STATE_DIR"),
        (Needs::Source, GB, None, ""),
        (Needs::Source, 0, Some(Severity::Advice), "0 B of 500.0 GB"),
    ];
    for (what_for, free, severity, part) in cases {
        let mut facts = facts();
        facts.rooms.push(Room {
            what_for,
            path: "/there".to_owned(),
            space: Space { free, total: 500 * GB },
        });
        let found = about(&facts, Topic::Space);
        assert_eq!(found.as_ref().map(|(severity, _)| *severity), severity, "{what_for:?} {free}");
        assert!(found.is_none_or(|(_, said)| said.contains(part) && said.contains("/there")));
    }
}

#[test]
fn a_machine_in_a_machine_is_told_and_only_where_it_is_certain() {
    use EngineKind::{Docker, DockerDesktop};
    use Severity::{Advice, Good, Note};
    use Whereabouts::{AnotherKernel, Here, Network};
    let guest = |nests| Virtualization::Guest { hypervisor: Hypervisor::HyperV, nests };
    let figures = &["66.82 s", "3.39 s"][..];
    let cases = [
        (guest(true), AnotherKernel, DockerDesktop, Some((Advice, figures))),
        (guest(true), Here, Docker, Some((Good, &["virtual (Hyper-V)", "nothing is nested"][..]))),
        // A forwarded socket looks the same.
        (guest(true), AnotherKernel, Docker, Some((Note, figures))),
        (guest(true), Network, Docker, Some((Note, figures))),
        (guest(false), Network, Docker, Some((Good, &["virtual (Hyper-V)"][..]))),
        (Virtualization::None, AnotherKernel, DockerDesktop, None),
        (Virtualization::Unknown, AnotherKernel, DockerDesktop, None),
    ];
    for (virtualization, whereabouts, kind, expected) in cases {
        let mut facts = facts();
        facts.machine.virtualization = virtualization;
        facts.engine = engine_at(whereabouts, |info| info.kind = kind);
        match expected {
            Some((severity, parts)) => says(&facts, Topic::Virtualization, severity, parts),
            None => assert_eq!(about(&facts, Topic::Virtualization), None),
        }
    }
}

#[test]
fn wsl_is_told_by_its_version_and_where_the_sources_are() {
    let mut facts = facts();
    facts.machine.virtualization = Virtualization::Guest { hypervisor: Hypervisor::HyperV, nests: true };
    facts.machine.wsl = Some(Wsl::Two);
    says(&facts, Topic::Wsl, Severity::Good, &["WSL 2"]);
    assert_eq!(about(&facts, Topic::Virtualization), None);
    facts.source = source("1 0 8:1 / / rw - ext4 /dev/sdc rw\n2 1 0:9 / /src rw - 9p C:\\134 rw,aname=drvfs");
    assert_eq!(about(&facts, Topic::Wsl), None, "the sources' own finding says it");
    says(&facts, Topic::Source, Severity::Advice, &["18 times", "/mnt/c"]);
    facts.machine.wsl = Some(Wsl::One);
    says(&facts, Topic::Wsl, Severity::Advice, &["WSL 1", "--set-version"]);
}

#[test]
fn ci_is_told_with_what_it_changes() {
    let mut facts = facts();
    (facts.machine.ci, facts.unattended) = (Some(Ci::GithubActions), true);
    says(&facts, Topic::Ci, Severity::Note, &["GitHub Actions", "for one run", "--keep"]);
    (facts.machine.ci, facts.unattended) = (Some(Ci::Jenkins), false);
    says(&facts, Topic::Ci, Severity::Note, &["Jenkins", "CI is not set", "CI=true"]);
    (facts.machine.ci, facts.unattended) = (Some(Ci::Other), true);
    says(&facts, Topic::Ci, Severity::Note, &["CI is set: each build is for one run"]);
}

#[test]
fn every_class_that_crosses_is_advised_against() {
    for class in
        [Class::Fuse, Class::Network, Class::VirtualMachine, Class::Local, Class::Memory, Class::Layered]
    {
        let mut facts = facts();
        facts.source.file_system.as_mut().unwrap().class = class;
        let (severity, _) = about(&facts, Topic::Source).unwrap();
        assert_eq!(severity == Severity::Advice, class.crosses(), "{class:?}");
    }
}
