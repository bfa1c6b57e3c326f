//! The nested case: an engine whose own storage is slow, while what it mounts is not.
//!
//! A second `dockerd` keeps its data on a loop device that writes no faster than the seed's nested container did; its volumes
//! lie on this machine's disk. It has namespaces of its own: one of mounts, so that nothing stays mounted when the daemon is
//! gone, however it went; and one of networks, for a daemon that is to have none removes `docker0`, which is the other
//! engine's. What does outlive it is the limit, which belongs to the device: [`Limit`] takes it
//! back, and [`remove_leftovers`] after a lab that was killed.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    bench::meter::Meter,
    debian,
    engine::{self, Engine, Starting},
    run::{self, note},
};

/// Bytes a second: the seed wrote 1 GB into a nested container in 66.82 s.
pub const WRITES: u64 = 16_000_000;
/// Bytes that may wait to be written before a writer has to wait too: the page cache of a large machine would hide the device.
const DIRTY: u64 = 2_000_000;
/// Bytes of the device: the bench's image, its containers and 1 GB of `dd`.
const SIZE: u64 = 8_000_000_000;

const LIMITS: &str = "/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device";
/// Everything of the engine's, in the directory of its lab.
const DIRECTORY: &str = "nested";
/// In there: the device that has a limit, as `MAJOR:MINOR`.
const LIMITED: &str = "limited-device";

/// How long a daemon may take to end.
const END: Duration = Duration::from_secs(60);

/// Why there is no such engine here; none when there can be one.
pub fn missing() -> Option<&'static str> {
    if !debian::is_root() {
        return Some("only root may start a second engine");
    }
    (!Path::new(LIMITS).exists())
        .then_some("this kernel's cgroups (of version 1) limit no block devices as a whole")
}

/// The engine; it ends when this is dropped.
pub struct SlowEngine {
    /// Connected.
    pub engine: Engine,
    /// For files that have to do with it.
    pub dir: PathBuf,
    // Taken back first: a daemon on a slow device is long in ending.
    limit: Option<Limit>,
    _daemon: Daemon,
}

impl SlowEngine {
    /// Starts one that has `image` of the engine of `meter`, with everything of its own in the lab's directory.
    ///
    /// # Errors
    /// What was missing, or what the daemon said.
    pub fn start(lab: &Path, image: &str, meter: &Meter) -> Result<SlowEngine> {
        let dir = lab.join(DIRECTORY);
        fs_err::create_dir(&dir)?;
        for (program, package) in
            [("mkfs.ext4", "e2fsprogs"), ("losetup", "mount"), ("unshare", "util-linux")]
        {
            debian::ensure_program(program, package)?;
        }
        let disk = dir.join("disk.img");
        fs_err::File::create(&disk)?.into_file().set_len(SIZE)?;
        run::capture(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"])
                .arg(&disk),
        )?;
        let address = format!("unix://{}", dir.join("dockerd.sock").to_string_lossy());
        let mut daemon = Daemon::start(&dir, &disk, &address)?;
        let runtime = tokio::runtime::Handle::current();
        let engine = runtime.block_on(engine::wait(&address, Some(&mut daemon.0)))?;
        note(format_args!("a second engine: copying {image} to it"));
        let mut load = Command::new("docker");
        meter.pipe(
            Command::new("docker").args(["save", image]),
            load.args(["--host", &address, "load", "--quiet"]),
        )?;
        rustix::fs::sync();
        let limit = Some(Limit::set(&dir, &device_of(&disk)?)?);
        Ok(SlowEngine { engine, dir, limit, _daemon: daemon })
    }
}

impl Drop for SlowEngine {
    fn drop(&mut self) {
        self.limit.take();
    }
}

/// A `dockerd`, ended when dropped, and with it its containers.
struct Daemon(Starting);

/// `sh -c` with the disk, where it is mounted, where volumes lie, and the daemon's command line.
const IN_NAMESPACE: &str = "set -e; mount -o loop \"$1\" \"$2\"; mkdir \"$2/volumes\"; mount --bind \"$3\" \"$2/volumes\"; \
                            shift 3; exec \"$@\"";

impl Daemon {
    fn start(dir: &Path, disk: &Path, address: &str) -> Result<Daemon> {
        use std::os::unix::process::CommandExt as _;
        let (root, volumes, run) = (dir.join("docker"), dir.join("volumes"), dir.join("run"));
        for made in [&root, &volumes, &run] {
            fs_err::create_dir(made)?;
        }
        let log = dir.join("dockerd.log");
        let out = fs_err::File::create(&log)?.into_file();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "private", "--net"]);
        command.args(["sh", "-c", IN_NAMESPACE, "sh"]).args([disk, &root, &volumes]);
        command.args([
            "dockerd",
            "--host",
            address,
            "--bridge",
            "none",
            "--iptables=false",
            "--ip6tables=false",
        ]);
        command.args(["--ip-forward=false", "--ip-masq=false", "--data-root"]).arg(&root);
        command.arg("--exec-root").arg(&run).arg("--pidfile").arg(dir.join("dockerd.pid"));
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
        let child = command.spawn().context("cannot start a second dockerd through setpriv")?;
        Ok(Daemon(Starting { child, log }))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let child = &mut self.0.child;
        rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::TERM)
            .ok();
        let begun = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if begun.elapsed() > END {
                note(format_args!("the second dockerd did not end within {} s; it is killed", END.as_secs()));
                child.kill().ok();
                child.wait().ok();
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The loop device of an image file, as the kernel names it.
fn device_of(disk: &Path) -> Result<String> {
    let listed = run::capture(
        Command::new("losetup").args(["--noheadings", "--output", "MAJ:MIN", "--associated"]).arg(disk),
    )?;
    let device = String::from_utf8_lossy(&listed.stdout).trim().to_owned();
    ensure!(!device.is_empty(), "no loop device holds {disk:?}");
    Ok(device)
}

/// A device that writes slowly; as before when dropped.
struct Limit {
    device: String,
    noted: PathBuf,
}

impl Limit {
    fn set(dir: &Path, device: &str) -> Result<Limit> {
        let noted = dir.join(LIMITED);
        fs_err::write(&noted, device)?;
        let limit = Limit { device: device.to_owned(), noted };
        fs_err::write(LIMITS, format!("{device} {WRITES}"))?;
        for (file, value) in [("strict_limit", 1), ("max_bytes", DIRTY)] {
            let path = format!("/sys/class/bdi/{device}/{file}");
            if let Err(error) = fs_err::write(path, value.to_string()) {
                bail!("this kernel does not keep a device's unwritten bytes small: {error}");
            }
        }
        Ok(limit)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        take_back(&self.device);
        fs_err::remove_file(&self.noted).ok();
    }
}

fn take_back(device: &str) {
    let file = |name: &str| format!("/sys/class/bdi/{device}/{name}");
    for (path, value) in [
        (LIMITS.to_owned(), format!("{device} 0")),
        (file("strict_limit"), "0".into()),
        (file("max_ratio"), "100".into()),
    ] {
        if let Err(error) = fs_err::write(path, value) {
            note(format_args!("could not take back the limit of device {device}: {error}"));
        }
    }
}

/// Takes back what a lab that was killed left in its directory.
pub fn remove_leftovers(lab: &Path) {
    if let Ok(device) = fs_err::read_to_string(lab.join(DIRECTORY).join(LIMITED)) {
        take_back(device.trim());
    }
}
