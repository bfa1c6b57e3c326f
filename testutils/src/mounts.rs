//! Slow mounts on one Linux machine, for the integration tests and for `cargo xtask lab`: the very file systems that Lima and
//! Colima use, and FUSE as virtiofs and gRPC FUSE do it. Nothing here needs a network or another machine.
//!
//! A mount lasts as long as its [`SlowMount`]: it is unmounted and its processes end when that is dropped, by a panic too. When
//! the program that made it is killed, the kernel ends the file system's process, which unmounts.
//!
//! The file is compiled into the tests and into xtask (by `#[path]`): standard library, rustix and tempfile, no more.

use std::{
    fs::{self, File},
    io,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, kill_process},
};

/// Where distributions keep OpenSSH's `sftp-server`: Debian, Fedora, Arch and others. It is in no user's `PATH`.
pub const SFTP_SERVERS: [&str; 3] =
    ["/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server"];

/// Programs that mounts need, beside one of [`SFTP_SERVERS`], and their Debian packages.
pub const PROGRAMS: [(&str, &str); 4] =
    [("bindfs", "bindfs"), ("fusermount3", "fuse3"), ("setpriv", "util-linux"), ("sshfs", "sshfs")];

/// How long a file system may take to come, and to go.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory seen through a slow file system; unmounted when dropped.
#[derive(Debug)]
pub struct SlowMount {
    at: PathBuf,
    /// The file system's process, in the foreground, so that it is this program's child.
    filesystem: Child,
    servers: Vec<Pid>,
    /// The wrapper around `sftp-server`.
    _wrapper: Option<tempfile::TempDir>,
}

impl SlowMount {
    /// `backing` at `at` by sshfs, as Lima and Colima mount a home directory into their virtual machine: with `allow_other` and
    /// sshfs's own caches. `sftp-server` runs here, at the other end of a pipe instead of an SSH connection.
    ///
    /// # Errors
    /// When a program is missing, when this user may not mount, or when the mount does not come.
    pub fn sshfs(backing: &Path, at: &Path) -> io::Result<SlowMount> {
        let wrapper = tempfile::Builder::new().prefix("fastbuild-sftp-").tempdir()?;
        let (script, told) = (wrapper.path().join("sftp-server"), wrapper.path().join("pid"));
        let server = SFTP_SERVERS.into_iter().find(|path| Path::new(path).is_file());
        let server = server.ok_or_else(|| {
            io::Error::other("no sftp-server is installed (Debian's package: openssh-sftp-server)")
        })?;
        // A shell that becomes the server: the id it tells is the server's.
        fs::write(&script, format!("#!/bin/sh\necho $$ >{told:?}\nexec {server}\n"))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700))?;
        let mut sshfs = foreground("sshfs");
        sshfs.arg(joined(":", backing)).arg(at).args(["-o", "allow_other", "-o"]);
        sshfs.arg(joined("ssh_command=", &script));
        let mut mount = SlowMount::mounted(sshfs, at)?;
        let pid = fs::read_to_string(told)?;
        mount.servers.extend(pid.trim().parse().ok().and_then(Pid::from_raw));
        mount._wrapper = Some(wrapper);
        Ok(mount)
    }

    /// `backing` at `at` by bindfs, which passes each call through FUSE and changes nothing.
    ///
    /// # Errors
    /// As [`SlowMount::sshfs`].
    pub fn bindfs(backing: &Path, at: &Path) -> io::Result<SlowMount> {
        SlowMount::bindfs_with(&[], backing, at)
    }

    /// The same, but the mount denies every change of a mode or an owner. Ruby reports this as
    /// `Operation not permitted @ apply2files`.
    ///
    /// # Errors
    /// As [`SlowMount::sshfs`].
    pub fn bindfs_denying(backing: &Path, at: &Path) -> io::Result<SlowMount> {
        SlowMount::bindfs_with(&["--chmod-deny", "--chown-deny"], backing, at)
    }

    /// The same, as shares of other systems show their files: a new file belongs to root, whichever user creates it.
    /// So a build that runs as another user may not even set a time. This is why Jekyll fails with `@ apply2files` in
    /// the end.
    ///
    /// # Errors
    /// As [`SlowMount::sshfs`].
    pub fn bindfs_foreign(backing: &Path, at: &Path) -> io::Result<SlowMount> {
        let made = ["--create-for-user=root", "--create-for-group=root", "--create-with-perms=od+rwx"];
        SlowMount::bindfs_with(&[&["--chmod-deny", "--chown-deny"], &made[..]].concat(), backing, at)
    }

    fn bindfs_with(options: &[&str], backing: &Path, at: &Path) -> io::Result<SlowMount> {
        let mut bindfs = foreground("bindfs");
        bindfs.args(options).args(["-o", "allow_other"]).arg(backing).arg(at);
        let mut mount = SlowMount::mounted(bindfs, at)?;
        mount.servers.push(Pid::from_child(&mount.filesystem));
        Ok(mount)
    }

    /// Starts a file system, makes `at` where it is missing, and waits until it is a mount.
    fn mounted(mut command: Command, at: &Path) -> io::Result<SlowMount> {
        fs::create_dir_all(at)?;
        let before = fs::metadata(at)?.dev();
        // The system marks this file as changed whenever anything is mounted.
        let mounts = File::open("/proc/self/mountinfo")?;
        let filesystem = command.spawn().map_err(|error| failed(&command, &error))?;
        let mut mount = SlowMount { at: at.to_owned(), filesystem, servers: Vec::new(), _wrapper: None };
        let began = Instant::now();
        while fs::metadata(at)?.dev() == before {
            if let Some(status) = mount.filesystem.try_wait()? {
                return Err(failed(&command, &format_args!("{status}, and no mount")));
            }
            if began.elapsed() > PATIENCE {
                return Err(failed(&command, &format_args!("no mount after {PATIENCE:?}")));
            }
            // The wait is short, because the poll does not report that the process has ended.
            let short = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            match poll(&mut [PollFd::new(&mounts, PollFlags::PRI)], Some(&short)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(mount)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Processes that answer for it: `sftp-server`, or bindfs itself.
    pub fn server_pids(&self) -> Vec<u32> {
        self.servers.iter().map(|pid| pid.as_raw_nonzero().get().unsigned_abs()).collect()
    }

    /// From now on the servers do not answer. A process that asks for something that is not in a cache hangs until
    /// [`SlowMount::thaw`].
    ///
    /// # Errors
    /// When a server has ended.
    pub fn freeze(&self) -> io::Result<()> {
        for &server in &self.servers {
            kill_process(server, Signal::STOP)?;
            // It stops on its own processor, a moment later.
            while state(server)? != 'T' {
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    /// Everything that was asked meanwhile is answered.
    ///
    /// # Errors
    /// When a server has ended.
    pub fn thaw(&self) -> io::Result<()> {
        self.servers.iter().try_for_each(|&server| Ok(kill_process(server, Signal::CONT)?))
    }

    /// Waits until the file system's process has ended; false when it still runs after `patience`.
    fn ended_within(&mut self, patience: Duration) -> bool {
        let began = Instant::now();
        while !matches!(self.filesystem.try_wait(), Ok(Some(_))) {
            if began.elapsed() > patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for SlowMount {
    fn drop(&mut self) {
        // What is frozen answers no unmount, and neither do those who wait for it.
        self.thaw().ok();
        let ended = matches!(self.filesystem.try_wait(), Ok(Some(_)));
        // The unmount is lazy where the mount is still in use: by a process or a container that is just ending.
        if !ended && !unmount(&self.at, &["-u"]) {
            unmount(&self.at, &["-u", "-z"]);
        }
        if !ended && !self.ended_within(PATIENCE) {
            self.filesystem.kill().ok();
            self.filesystem.wait().ok();
        }
        // It reads the end of its input now, unless something goes wrong.
        for &server in &self.servers {
            let is_server =
                fs::read_to_string(proc(server, "comm")).is_ok_and(|name| name == "sftp-server\n");
            if is_server {
                kill_process(server, Signal::KILL).ok();
            }
        }
    }
}

/// A file system's program, which stays this process's child, ends with it, and hears nothing of the terminal's Ctrl-C.
fn foreground(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", program, "-f"]).stdin(Stdio::null()).stdout(Stdio::null());
    command.process_group(0);
    command
}

fn unmount(at: &Path, options: &[&str]) -> bool {
    let mut fusermount = Command::new("fusermount3");
    let done = fusermount.args(options).arg(at).stdin(Stdio::null()).output();
    done.is_ok_and(|output| output.status.success())
}

fn failed(command: &Command, why: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{command:?}: {why}"))
}

fn joined(option: &str, path: &Path) -> std::ffi::OsString {
    let mut joined = std::ffi::OsString::from(option);
    joined.push(path);
    joined
}

fn proc(pid: Pid, file: &str) -> String {
    format!("/proc/{}/{file}", pid.as_raw_nonzero())
}

/// The letter that the kernel gives a process's state.
fn state(pid: Pid) -> io::Result<char> {
    let stat = fs::read_to_string(proc(pid, "stat"))?;
    let after_name = stat.rsplit_once(") ").and_then(|(_, fields)| fields.chars().next());
    after_name.ok_or_else(|| io::Error::other(format!("cannot read the state of process {stat:?}")))
}
