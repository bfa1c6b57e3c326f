//! Finds the file system of a path in the kernel's table of mounts. The file system itself is not
//! called, so one that hangs blocks no caller.
//!
//! The table is walked as the kernel does: from the root, each time to the mount on the current one
//! that the path reaches first. So a mount hidden by another is not found, even if its path is
//! longer.

use std::path::{Component, Path, PathBuf};

use serde::Serialize;

use crate::facts::mounts;

/// The file system of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Its type as the kernel names it: `ext4`, `fuse.sshfs`, `9p`.
    pub kind: String,
    /// The class of this type.
    pub class: Class,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The source of the mount: a device, a server's path, or any word.
    pub device: String,
    /// The mount's options, then the file system's own.
    pub options: Vec<String>,
}

/// Which side executes a file system's operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// This kernel, from a device of this machine.
    Local,
    /// This kernel, from memory.
    Memory,
    /// This kernel, from other directories stacked on each other.
    Layered,
    /// Another process of this machine.
    Fuse,
    /// Another machine.
    Network,
    /// The host of this virtual machine.
    VirtualMachine,
    /// Not known.
    Unknown,
}

impl Class {
    /// Whether each operation waits for another process or machine. False for unknown file systems.
    pub fn crosses(self) -> bool {
        matches!(self, Class::Fuse | Class::Network | Class::VirtualMachine)
    }

    /// The class of a type. The mount's source (`device`) identifies a FUSE file system without a
    /// name.
    pub fn of(kind: &str, device: &str) -> Class {
        let kind = kind.to_ascii_lowercase();
        let Some(helper) = kind.strip_prefix("fuse") else { return Class::of_kernels(&kind) };
        // `fuse.sshfs`; with a plain `fuse`, `device` may begin with the program
        // (`sshfs#me@host:`).
        let helper = match helper.strip_prefix('.') {
            Some(helper) => helper.to_owned(),
            None => device.split_once('#').map(|(helper, _)| helper.to_ascii_lowercase()).unwrap_or_default(),
        };
        Class::of_helper(&helper)
    }

    fn of_kernels(kind: &str) -> Class {
        match kind {
            "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "zfs" | "f2fs" | "jfs" | "reiserfs" | "bcachefs"
            | "nilfs2" | "ntfs" | "ntfs3" | "vfat" | "msdos" | "exfat" | "hfs" | "hfsplus" | "apfs"
            | "ufs" | "squashfs" | "erofs" | "iso9660" | "udf" | "lxfs" | "wslfs" | "refs" => Class::Local,
            "tmpfs" | "ramfs" | "devtmpfs" | "rootfs" | "hugetlbfs" => Class::Memory,
            "overlay" | "overlayfs" | "aufs" | "unionfs" | "ecryptfs" | "shiftfs" => Class::Layered,
            "nfs" | "nfs3" | "nfs4" | "cifs" | "smb2" | "smb3" | "smbfs" | "afs" | "afpfs" | "webdav"
            | "ceph" | "lustre" | "gpfs" | "beegfs" | "glusterfs" | "coda" | "ncpfs" | "orangefs"
            | "pvfs2" | "gfs2" | "ocfs2" => Class::Network,
            "9p" | "drvfs" | "virtiofs" | "vboxsf" | "vmhgfs" | "prl_fs" | "fakeowner" | "osxfs"
            | "grpcfuse" => Class::VirtualMachine,
            "macfuse" | "osxfuse" => Class::Fuse,
            _ => Class::Unknown,
        }
    }

    fn of_helper(helper: &str) -> Class {
        match helper {
            "sshfs" | "s3fs" | "s3fs-fuse" | "rclone" | "gcsfuse" | "glusterfs" | "ceph" | "ceph-fuse"
            | "davfs" | "davfs2" | "juicefs" | "goofys" | "blobfuse" | "blobfuse2" | "curlftpfs"
            | "smbnetfs" | "mount-s3" | "moosefs" | "mfs" | "seaweedfs" => Class::Network,
            "grpcfuse" | "osxfs" | "vmhgfs-fuse" | "prl_fsd" | "virtiofs" => Class::VirtualMachine,
            _ => Class::Fuse,
        }
    }
}

impl FileSystem {
    /// Whether it is a Windows drive seen from WSL: `/mnt/c`.
    pub fn is_windows_drive(&self) -> bool {
        let letter =
            |device: &str| matches!(device.as_bytes(), [drive, b':', ..] if drive.is_ascii_alphabetic());
        let named = || self.options.iter().any(|option| option.contains("aname=drvfs"));
        match self.kind.as_str() {
            "drvfs" => true,
            "9p" | "virtiofs" => self.device.starts_with("drvfs") || letter(&self.device) || named(),
            _ => false,
        }
    }
}

/// The file system of `path`; `None` where it is not known. Links are not followed, because that
/// would call the file systems: use a canonical path. A relative path starts at the current
/// directory.
///
/// On Linux this reads only the kernel's table and never blocks. On macOS it calls the file system;
/// elsewhere the result is `None`.
pub fn file_system(path: &Path) -> Option<FileSystem> {
    mounts::file_system(&std::path::absolute(path).ok()?)
}

/// The same, but never calls the file system, which may be the one that does not answer.
pub(super) fn file_system_unasked(path: &Path) -> Option<FileSystem> {
    if cfg!(target_os = "macos") { None } else { file_system(path) }
}

/// The same, from the text of a Linux `/proc/PID/mountinfo`. `path` is absolute.
pub fn file_system_in(mountinfo: &[u8], path: &Path) -> Option<FileSystem> {
    let path = without_dots(path);
    let mounts: Vec<Mount> = mountinfo.split(|&b| b == b'\n').filter_map(Mount::parse).collect();
    let has_id = |id| mounts.iter().any(|mount| mount.id == id);
    let mut found: Option<&Mount> = None;
    loop {
        let hangs_here = |mount: &&Mount| match found {
            Some(found) => mount.parent == found.id && mount.id != found.id,
            // A root whose parent is not shown: of the system, of a container or of a chroot.
            None => !has_id(mount.parent) || mount.parent == mount.id,
        };
        let met = mounts.iter().filter(hangs_here).filter(|mount| path.starts_with(&mount.point));
        // The later of two mounts in one place covers the other; `min_by_key` takes the first.
        match met.rev().min_by_key(|mount| mount.point.components().count()) {
            Some(next) => found = Some(next),
            None => return found.map(Mount::file_system),
        }
    }
}

/// Removes `..` and `.` without looking at the file system.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            component => plain.push(component),
        }
    }
    plain
}

/// A line of the table.
struct Mount<'a> {
    id: u32,
    parent: u32,
    point: PathBuf,
    options: &'a [u8],
    kind: &'a [u8],
    device: &'a [u8],
    super_options: &'a [u8],
}

impl Mount<'_> {
    /// `36 35 98:0 /root /point rw,noatime master:1 - ext4 /dev/sda1 rw,errors=continue`
    /// (proc_pid_mountinfo(5)). Before the lone `-` come any number of fields; an empty device
    /// leaves two spaces.
    fn parse(line: &[u8]) -> Option<Mount<'_>> {
        let mut fields = line.split(|&b| b == b' ');
        let (id, parent) = (number(fields.next()?)?, number(fields.next()?)?);
        let (_device_number, _root) = (fields.next()?, fields.next()?);
        let (point, options) = (mounts::path_from(unescaped(fields.next()?))?, fields.next()?);
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let (kind, device) = (fields.next()?, fields.next()?);
        Some(Mount {
            id,
            parent,
            point,
            options,
            kind,
            device,
            super_options: fields.next().unwrap_or_default(),
        })
    }

    fn file_system(&self) -> FileSystem {
        let text = |field| String::from_utf8_lossy(&unescaped(field)).into_owned();
        let (kind, device) = (text(self.kind), text(self.device));
        let options = [self.options, self.super_options].map(text).join(",");
        FileSystem {
            class: Class::of(&kind, &device),
            options: options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect(),
            mount_point: self.point.clone(),
            kind,
            device,
        }
    }
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// The kernel writes space, tab, newline, backslash and `#` as `\` and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.first_chunk::<3>().filter(|digits| byte == b'\\' && digits.iter().all(is_octal));
        let value = digits.map(|digits| digits.iter().fold(0, |value, &b| value * 8 + u32::from(b - b'0')));
        let decoded = value.and_then(|value| u8::try_from(value).ok());
        plain.push(decoded.unwrap_or(byte));
        rest = if decoded.is_some() { &tail[3..] } else { tail };
    }
    plain
}

fn is_octal(byte: &u8) -> bool {
    (b'0'..=b'7').contains(byte)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// Lines as seen on real machines; each is mounted on the root line before it.
    fn one(line: &str, path: &str) -> FileSystem {
        let table = format!("1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n{line}\n");
        file_system_in(table.as_bytes(), Path::new(path)).unwrap()
    }

    /// Mounts of all classes, and the expected results.
    const SEEN: &str = r"
        76 1 0:40 / /mnt/c rw,noatime - 9p C:\134 rw,dirsync,aname=drvfs;path=C:\;uid=1000;gid=1000;symlinkroot=/mnt/,mmap,access=client,msize=65536,trans=fd,rfd=8,wfd=8
        77 1 0:41 / /mnt/d rw,noatime - drvfs D:\134 rw,uid=1000,gid=1000,case=off
        812 1 0:52 /Users /Users rw,relatime - fakeowner /run/host_mark/Users rw,fakeowner
        300 1 0:45 / /host_mnt rw,nosuid,nodev,relatime - fuse.grpcfuse grpcfuse rw,user_id=0,group_id=0,allow_other,max_read=1048576
        301 1 0:46 / /Users rw,nosuid,nodev,relatime - fuse.osxfs osxfs rw,user_id=0,group_id=0,allow_other,max_read=1048576
        120 1 0:39 / /Users/me rw,nosuid,nodev,relatime shared:61 - fuse.sshfs :/Users/me rw,user_id=501,group_id=1000,allow_other
        121 1 0:34 / /Users/me rw,relatime shared:62 - virtiofs mount0 rw
        122 1 0:35 / /tmp/lima rw,relatime - 9p mount1 rw,sync,dirsync,access=any,trans=virtio,version=9p2000.L
        500 1 0:60 / /srv/nfs rw,relatime shared:200 - nfs4 nas:/export/home rw,vers=4.2,rsize=1048576,hard,proto=tcp,timeo=600,addr=10.0.0.2
        501 1 0:61 / /srv/cifs rw,relatime - cifs //nas/share\040one rw,vers=3.1.1,cache=strict,username=me
        502 1 0:62 / /slow rw,nosuid,nodev,relatime shared:2 - fuse /data rw,user_id=0,group_id=0,default_permissions,allow_other
        503 1 0:63 / /old rw,relatime - fuse sshfs#me@host:/src rw,user_id=0,group_id=0
        504 1 8:17 / /media/usb rw,nosuid,nodev,relatime - fuseblk /dev/sdb1 rw,user_id=0,group_id=0,blksize=4096
        505 1 0:70 / /var/lib/docker/overlay2/ab/merged rw,relatime - overlay overlay rw,lowerdir=/l/A:/l/B,upperdir=/u,workdir=/w
        506 1 0:26 /@home /home rw,noatime shared:9 - btrfs /dev/nvme0n1p2 rw,ssd,space_cache=v2,subvolid=257,subvol=/@home
        507 1 0:48 / /tank/src rw,xattr shared:10 - zfs tank/src rw,xattr,posixacl
        508 1 0:27 / /tmp rw,nosuid,nodev shared:11 - tmpfs tmpfs rw,size=8G
        509 1 0:80 / /shared rw,nodev,relatime - vboxsf shared rw,iocharset=utf8
        510 1 0:81 / /odd rw - somethingfs none rw
    ";

    #[test]
    fn what_others_mount_is_told_by_kind() {
        let told = SEEN.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| {
            let point = line.split(' ').nth(4).unwrap();
            let found = one(line, &format!("{point}/below"));
            assert_eq!(one(line, point), found);
            let FileSystem { kind, class, mount_point, device, .. } = found;
            format!("{}: {kind} {class:?} {device}", mount_point.to_string_lossy())
        });
        insta::assert_snapshot!(told.collect::<Vec<_>>().join("\n"), @r"
        /mnt/c: 9p VirtualMachine C:\
        /mnt/d: drvfs VirtualMachine D:\
        /Users: fakeowner VirtualMachine /run/host_mark/Users
        /host_mnt: fuse.grpcfuse VirtualMachine grpcfuse
        /Users: fuse.osxfs VirtualMachine osxfs
        /Users/me: fuse.sshfs Network :/Users/me
        /Users/me: virtiofs VirtualMachine mount0
        /tmp/lima: 9p VirtualMachine mount1
        /srv/nfs: nfs4 Network nas:/export/home
        /srv/cifs: cifs Network //nas/share one
        /slow: fuse Fuse /data
        /old: fuse Network sshfs#me@host:/src
        /media/usb: fuseblk Fuse /dev/sdb1
        /var/lib/docker/overlay2/ab/merged: overlay Layered overlay
        /home: btrfs Local /dev/nvme0n1p2
        /tank/src: zfs Local tank/src
        /tmp: tmpfs Memory tmpfs
        /shared: vboxsf VirtualMachine shared
        /odd: somethingfs Unknown none
        ");
        let elsewhere = one("511 1 0:82 / /empty rw -  tmpfs  rw", "/else");
        assert_eq!((elsewhere.class, elsewhere.device.as_str()), (Class::Local, "/dev/sda1"));
    }

    #[test]
    fn a_name_that_only_begins_alike_is_another_directory() {
        let found = one("9 1 0:9 / /mnt/c rw - 9p C:\\134 rw", "/mnt/cd/x");
        assert_eq!(found.mount_point, Path::new("/"));
        assert_eq!(one("9 1 0:9 / /mnt/c rw - 9p C:\\134 rw", "/mnt/x/../c/y").kind, "9p");
    }

    #[test]
    fn options_of_the_mount_and_of_the_file_system_are_both_there() {
        let found = one("9 1 0:9 / /n ro,nosuid - nfs nas:/x rw,hard", "/n");
        assert_eq!(found.options, ["ro", "nosuid", "rw", "hard"]);
    }

    #[test]
    fn a_windows_drive_is_known_from_wsl_1_and_2() {
        let drive = |line: &str| one(line, "/mnt/c").is_windows_drive();
        assert!(drive("9 1 0:9 / /mnt/c rw - drvfs C:\\134 rw"));
        assert!(drive("9 1 0:9 / /mnt/c rw - 9p C:\\134 rw"));
        assert!(drive("9 1 0:9 / /mnt/c rw - 9p drvfs rw,aname=drvfs;path=C:\\"));
        assert!(drive("9 1 0:9 / /mnt/c rw - virtiofs drvfsaC rw"));
        assert!(!drive("9 1 0:9 / /mnt/c rw - 9p mount1 rw,trans=virtio"));
        assert!(!drive("9 1 0:9 / /mnt/c rw - ext4 /dev/sdb rw"));
    }

    #[test]
    fn the_mount_on_top_is_found_and_not_the_one_with_the_longest_name() {
        let root = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n";
        let cases = [
            // Two mounts in one place: the second is mounted on the first.
            ("2 1 0:2 / /a rw - tmpfs t rw\n3 2 0:3 / /a rw - nfs n rw", "nfs"),
            // The order of the lines does not matter.
            ("3 2 0:3 / /a rw - nfs n rw\n2 1 0:2 / /a rw - tmpfs t rw", "nfs"),
            // A deeper mount is hidden by a later one above it.
            ("2 1 0:2 / /a/b rw - nfs n rw\n3 1 0:3 / /a rw - tmpfs t rw", "tmpfs"),
            // It is visible when it is mounted on the later one.
            ("3 1 0:3 / /a rw - tmpfs t rw\n2 3 0:2 / /a/b rw - nfs n rw", "nfs"),
            // A new root over the old one.
            ("2 1 0:2 / / rw - overlay o rw", "overlay"),
        ];
        for (lines, kind) in cases {
            let found = file_system_in(format!("{root}{lines}\n").as_bytes(), Path::new("/a/b/c"));
            assert_eq!(found.unwrap().kind, kind, "{lines}");
        }
    }

    #[test]
    fn a_table_without_its_root_still_tells_what_it_has() {
        let chroot = b"7 5 0:7 / /data rw - nfs4 nas:/x rw\n";
        assert_eq!(file_system_in(chroot, Path::new("/data/x")).unwrap().kind, "nfs4");
        assert_eq!(file_system_in(chroot, Path::new("/home")), None);
        let own_parent = b"1 1 0:1 / / rw - rootfs rootfs rw\n2 1 0:2 / /d rw - ext4 /dev/a rw\n";
        assert_eq!(file_system_in(own_parent, Path::new("/d")).unwrap().kind, "ext4");
        assert_eq!(file_system_in(own_parent, Path::new("/x")).unwrap().kind, "rootfs");
    }

    #[test]
    fn text_that_is_no_table_tells_nothing() {
        for text in ["", "\n\n", "1", "a b c d e f - g h i", "1 0 8:1 / / rw shared:1", "1 0 8:1 / / rw -"] {
            assert_eq!(file_system_in(text.as_bytes(), Path::new("/x")), None, "{text:?}");
        }
    }

    #[test]
    fn escapes_of_the_kernel_are_undone_and_nothing_else() {
        use std::os::unix::ffi::OsStrExt as _;
        let cases: [(&[u8], &[u8]); 6] = [
            (br"a\040b\011c\134d\043", b"a b\tc\\d#"),
            (br"\04", br"\04"),
            (br"\088", br"\088"),
            (br"\777", br"\777"),
            (b"\xff\\040", b"\xff "),
            (br"\\040", b"\\ "),
        ];
        for (given, plain) in cases {
            assert_eq!(unescaped(given), plain);
        }
        let table = b"1 0 8:1 / / rw - ext4 d rw\n2 1 0:2 / /a\\040\xff rw - nfs n rw\n";
        let path = Path::new(std::ffi::OsStr::from_bytes(b"/a \xff/x"));
        assert_eq!(file_system_in(table, path).unwrap().kind, "nfs");
    }

    #[test]
    fn only_what_leaves_this_kernel_crosses() {
        let crossing = [Class::Fuse, Class::Network, Class::VirtualMachine];
        let own = [Class::Local, Class::Memory, Class::Layered, Class::Unknown];
        assert!(crossing.into_iter().all(Class::crosses));
        assert!(!own.into_iter().any(Class::crosses));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machines_own_table_is_read() {
        let found = file_system(Path::new("/proc/self")).unwrap();
        assert_eq!((found.kind.as_str(), found.mount_point.as_path()), ("proc", Path::new("/proc")));
    }
}
