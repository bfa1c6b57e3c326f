//! The tests' images: trees around one static busybox, each a tar made in memory.
//!
//! The program comes from Debian's `busybox-static` (fetched and unpacked, not installed: it would push out another
//! busybox), or else from the public `busybox` image.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, anyhow};
use bollard::{
    Docker,
    models::ContainerCreateBody,
    query_parameters::{
        CreateImageOptionsBuilder, DownloadFromContainerOptionsBuilder, RemoveContainerOptionsBuilder,
    },
};
use futures_util::TryStreamExt;
use std::io::Read;

use crate::{
    debian,
    run::{self, note, scratch_dir},
};

const PUBLIC: &str = "busybox:1.36-musl";

const APPLETS: &str = "[ awk base64 basename cat chgrp chmod chown cmp cp cut date dd df diff dirname du echo env expr \
    fallocate false find fold getopt grep groups gunzip gzip head hexdump hostname id kill less ln ls md5sum mkdir mkfifo \
    mknod mktemp more mv nc nice nl nohup nproc od paste pidof printf ps pwd readlink realpath renice rm rmdir sed seq \
    setsid sh sha1sum sha256sum shuf sleep sort split stat stty sync tac tail tar tee test time timeout touch tr true \
    truncate tty uname uniq unlink usleep vi wc which whoami xargs yes";

/// A tree around busybox.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `/bin` with the applets, `/etc/passwd` with `root` and `app` (1000:1001, home `/home/app`), `/tmp`, and
    /// `/bin/noexec`, which is no program.
    Shell,
    /// [`Layout::Shell`] and `/entrypoint.sh`: prints `entrypoint:` and its arguments, then becomes them.
    EntryPoint,
    /// [`Layout::Shell`] and files of the image's own in `/workspace`, `/elsewhere` and `/volume`.
    FilledWorkspace,
    /// Nothing but `/busybox`: no `sh`, no `/etc`, no `/tmp`.
    OneProgram,
}

impl Layout {
    /// The tree with `program` as busybox. Equal arguments give equal bytes.
    pub fn tar(self, program: &[u8]) -> Result<Vec<u8>> {
        let mut tree = Tree(tar::Builder::new(Vec::new()));
        if self == Layout::OneProgram {
            tree.file("busybox", 0o755, program)?;
            return Ok(tree.0.into_inner()?);
        }
        shell(&mut tree, program)?;
        match self {
            Layout::EntryPoint => {
                tree.file("entrypoint.sh", 0o755, b"#!/bin/sh\necho \"entrypoint: $*\"\nexec \"$@\"\n")?;
            }
            Layout::FilledWorkspace => {
                tree.dir("workspace", 0o755, ROOT)?;
                tree.file("workspace/from-image.txt", 0o644, b"the image's own\n")?;
                tree.dir("workspace/from-image", 0o755, ROOT)?;
                tree.file("workspace/from-image/deep.txt", 0o644, b"the image's own\n")?;
                tree.dir("elsewhere", 0o755, ROOT)?;
                tree.dir("volume", 0o755, ROOT)?;
                tree.file("volume/from-image.txt", 0o644, b"the image's own\n")?;
            }
            Layout::Shell | Layout::OneProgram => {}
        }
        Ok(tree.0.into_inner()?)
    }
}

fn shell(tree: &mut Tree, program: &[u8]) -> Result<()> {
    for dir in ["bin", "etc", "dev", "proc", "sys", "home", "root", "usr"] {
        tree.dir(dir, 0o755, ROOT)?;
    }
    tree.dir("tmp", 0o1777, ROOT)?;
    tree.dir("home/app", 0o755, APP)?;
    tree.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n",
    )?;
    tree.file("etc/group", 0o644, b"root:x:0:\napp:x:1001:\n")?;
    tree.file("bin/noexec", 0o644, b"this is no program\n")?;
    tree.file("bin/busybox", 0o755, program)?;
    for applet in APPLETS.split_whitespace() {
        tree.link(&format!("bin/{applet}"), "busybox")?;
    }
    tree.link("usr/bin", "../bin")
}

type Owner = (u64, u64);
const ROOT: Owner = (0, 0);
const APP: Owner = (1000, 1001);

struct Tree(tar::Builder<Vec<u8>>);

impl Tree {
    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let mut header = header(tar::EntryType::Regular, mode, ROOT);
        header.set_size(content.len() as u64);
        Ok(self.0.append_data(&mut header, path, content)?)
    }

    fn dir(&mut self, path: &str, mode: u32, owner: Owner) -> Result<()> {
        Ok(self.0.append_data(&mut header(tar::EntryType::Directory, mode, owner), path, std::io::empty())?)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        Ok(self.0.append_link(&mut header(tar::EntryType::Symlink, 0o777, ROOT), path, target)?)
    }
}

fn header(kind: tar::EntryType, mode: u32, (uid, gid): Owner) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_mtime(1_767_225_600); // the first of January 2026
    header.set_size(0);
    header
}

/// A static busybox for the engine's machine, kept below `target/xtask/`.
pub async fn program(docker: &Docker) -> Result<Vec<u8>> {
    let kept = scratch_dir()?.join("busybox");
    if let Ok(program) = fs_err::read(&kept) {
        return Ok(program);
    }
    let program = match debian::release() {
        Some(_) => from_debian().context("could not get Debian's busybox-static")?,
        None => from_image(docker).await.with_context(|| format!("could not get busybox from {PUBLIC}"))?,
    };
    run::write_whole(&kept, &program)?;
    Ok(program)
}

fn from_debian() -> Result<Vec<u8>> {
    note("apt-get download busybox-static");
    let dir = tempfile::tempdir_in(scratch_dir()?)?;
    // As root, apt downloads as a user of its own, who has to reach the directory.
    let download = || {
        run::capture(
            Command::new("apt-get")
                .args(["-q", "-o", "APT::Sandbox::User=root", "download", "busybox-static"])
                .current_dir(dir.path()),
        )
    };
    if download().is_err() {
        if debian::is_root() {
            debian::refresh_lists()?;
        }
        download()?;
    }
    let package = fs_err::read_dir(dir.path())?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| anyhow!("apt-get download left no package in {:?}", dir.path()))?;
    run::capture(Command::new("dpkg-deb").arg("--extract").arg(package).arg(dir.path()))?;
    let inside = ["bin/busybox", "usr/bin/busybox"].map(|path| dir.path().join(path));
    let program =
        inside.iter().find(|path| path.is_file()).ok_or_else(|| anyhow!("the package holds no busybox"))?;
    Ok(fs_err::read(program)?)
}

async fn from_image(docker: &Docker) -> Result<Vec<u8>> {
    note(format_args!("pulling {PUBLIC}"));
    let options = CreateImageOptionsBuilder::new().from_image(PUBLIC).build();
    docker.create_image(Some(options), None, None).try_collect::<Vec<_>>().await?;
    let body = ContainerCreateBody { image: Some(PUBLIC.to_owned()), ..ContainerCreateBody::default() };
    let container = docker.create_container(None, body).await?.id;
    let options = DownloadFromContainerOptionsBuilder::new().path("/bin/busybox").build();
    let tar = docker.download_from_container(&container, Some(options)).try_collect::<Vec<_>>().await;
    let force = RemoveContainerOptionsBuilder::new().force(true).build();
    docker.remove_container(&container, Some(force)).await?;
    only_file(&tar?.concat()).context("the engine's archive of /bin/busybox")
}

fn only_file(tar: &[u8]) -> Result<Vec<u8>> {
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file()
            && entry.path()?.file_name() == Path::new("busybox").file_name()
        {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            return Ok(content);
        }
    }
    Err(anyhow!("holds no file of that name"))
}
