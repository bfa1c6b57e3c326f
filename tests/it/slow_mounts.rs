//! Projects that lie on slow mounts: sshfs, as Lima and Colima mount them; FUSE; and FUSE that refuses changes of modes and
//! owners. A build there brings what it brings on a local disk.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use crate::common::{BUSYBOX, Project, Tree, docker};
use testutils::mounts::SlowMount;

/// A way to mount one directory on another.
type Mount = fn(&Path, &Path) -> io::Result<SlowMount>;

/// A project whose source root is a mount of a directory beside it.
struct Mounted {
    // Unmounted before the project's directory goes.
    mount: SlowMount,
    project: Project,
}

impl Mounted {
    fn new(mount: Mount) -> Mounted {
        let project = Project::new();
        let backing = project.outside().join("backing");
        fs::create_dir(&backing).unwrap();
        let mount = mount(&backing, &project.root()).unwrap();
        Mounted { mount, project }
    }

    fn backing(&self) -> PathBuf {
        self.project.outside().join("backing")
    }
}

const MOUNTS: [(&str, Mount); 3] = [
    ("sshfs", SlowMount::sshfs),
    ("bindfs", SlowMount::bindfs),
    ("bindfs that denies", SlowMount::bindfs_denying),
];

#[test]
fn a_container_sees_a_mount_and_its_writes_come_through() {
    for (name, mount) in MOUNTS {
        let mounted = Mounted::new(mount);
        mounted.project.write("in", "from here");
        let volume = format!("{}:/mounted", mounted.mount.path().to_str().unwrap());
        let script = "cat /mounted/in; echo from there >/mounted/out; chmod 600 /mounted/out || echo denied";
        let said = docker(&["run", "--rm", "-v", &volume, BUSYBOX, "sh", "-c", script]);
        let denied = if name == "bindfs that denies" { "denied\n" } else { "" };
        assert_eq!(said, format!("from here{denied}"), "{name}");
        assert_eq!(fs::read_to_string(mounted.backing().join("out")).unwrap(), "from there\n", "{name}");
    }
}

/// A source tree with something of everything that file systems differ in.
fn fill(root: &Path) {
    fs::create_dir_all(root.join("sub/empty")).unwrap();
    for (path, content, mode) in [
        ("kept", "kept", 0o644),
        ("edited", "before", 0o640),
        ("deleted", "deleted", 0o644),
        ("sub/script", "#!/bin/sh\necho made by a script\n", 0o755),
    ] {
        fs::write(root.join(path), content).unwrap();
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    // No link leads upwards: an sshfs of 2026 and later does not let any process read such links.
    std::os::unix::fs::symlink("script", root.join("sub/link")).unwrap();
}

const BUILD: &str =
    "test -e deleted || touch deleted; test \"$(stat -c %a edited sub/script | xargs)\" = '640 755' || exit 9
    echo after >edited; rm deleted; mkdir -p out/deep; sub/script >out/deep/made; sub/script >out/tool
    chmod 755 out/tool; chmod 600 out/deep/made; ln -s deep/made out/link; echo said; exit 0";

#[test]
fn a_build_on_a_slow_mount_brings_what_it_brings_on_a_local_disk() {
    let local = Project::new();
    fill(&local.root());
    local.sh(&[], BUILD).exits(0);
    let expected = without_times(local.tree());
    for (name, mount) in MOUNTS {
        let mounted = Mounted::new(mount);
        fill(&mounted.backing());
        let project = &mounted.project;
        for tier in ["--no-keep", "--keep", "--keep"] {
            let ended = project.sh(&[tier], BUILD);
            assert_eq!(ended.exits(0).out(), "said\n", "{name}, {tier}");
            assert_eq!(without_times(project.tree()), expected, "{name}, {tier}: {ended}");
        }
        project.sh(&[], "exit 7").exits(7);
        project.assert_nothing_left_here();
    }
}

#[test]
fn products_whose_mode_may_not_be_set_come_back_and_are_told() {
    let mounted = Mounted::new(SlowMount::bindfs_denying);
    let project = &mounted.project;
    // A mode that a new file does not get, since the umask takes some of it away.
    let script = "mkdir out; echo made >out/made; chmod 622 out/made; echo plain >out/plain";
    for apply in [&[][..], &["--atomic"]] {
        let ended = project.sh(&[&["-o", "out"], apply].concat(), script);
        ended.exits(0).says(&["1 product has another mode than in the build"]);
        assert_eq!(project.read("out/made"), "made\n");
        let made = fs::metadata(project.path("out/made")).unwrap();
        assert_ne!(made.permissions().mode() & 0o777, 0o622);
        fs::remove_dir_all(project.path("out")).unwrap();
    }
    project.assert_nothing_left();
}

/// Some products are made again by each build, at another second.
fn without_times(mut tree: Tree) -> Tree {
    tree.0.values_mut().for_each(|node| node.mtime = 0);
    tree
}

#[test]
fn a_mount_and_its_processes_go_when_its_owner_panics() {
    for (name, mount) in MOUNTS {
        let project = Project::new();
        let backing = project.outside().join("backing");
        fs::create_dir(&backing).unwrap();
        let (told, hear) = std::sync::mpsc::channel();
        let at = project.root();
        let panicked = std::thread::spawn(move || {
            let mount = mount(&backing, &at).unwrap();
            mount.freeze().unwrap();
            told.send(mount.server_pids()).unwrap();
            std::panic::resume_unwind(Box::new("the owner panics"));
        });
        panicked.join().unwrap_err();
        let servers = hear.recv().unwrap();
        assert_eq!(servers.len(), 1, "{name}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(project.root().to_str().unwrap()), "{name} is mounted still");
        for pid in servers {
            crate::common::eventually("the server ends", || ended(pid));
        }
    }
}

/// Whether a process is gone, or waits for its parent to notice.
fn ended(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('Z')),
        Err(_) => true,
    }
}
