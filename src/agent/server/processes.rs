//! Killing and reaping: before a process is over, all its descendants are dead.
//!
//! A session and the agent's first process are subreapers (PID 1 always is one), so no process can
//! escape by a double fork or a session of its own. Other processes of the container, which came by
//! an exec, are not descendants and are left alone.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, getpid, kill_process, test_kill_process_group, wait},
};

/// How long to wait for a process in an uninterruptible wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills and reaps all descendants of this process, and returns when none is left.
pub(super) fn clear() {
    let deadline = Instant::now() + PATIENCE;
    while kill() == Found::Somebody && Instant::now() < deadline {
        reap();
        std::thread::sleep(Duration::from_micros(300));
    }
    reap();
}

/// Whether a [`kill`] found a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Somebody,
    Nobody,
}

/// Kills all descendants of this process, and does not wait.
pub(super) fn kill() -> Found {
    let found = descendants().unwrap_or_default();
    for pid in &found {
        let _ = kill_process(*pid, Signal::KILL); // it may be dead already
    }
    if found.is_empty() { Found::Nobody } else { Found::Somebody }
}

/// Whether this process is the only one in its PID namespace, except PID 1.
pub(super) fn is_alone() -> bool {
    test_kill_process_group(Pid::INIT) == Err(Errno::SRCH)
}

/// Reaps all dead children.
pub(super) fn reap() {
    while let Ok(Some(_)) | Err(Errno::INTR) = wait(WaitOptions::NOHANG) {}
}

/// Whether PID 1 is this same program: then the namespace is a workspace's.
pub(super) fn init_is_this_program() -> io::Result<bool> {
    let (init, own) = (fs::metadata("/proc/1/exe")?, fs::metadata("/proc/self/exe")?);
    let argv = fs::read("/proc/1/cmdline")?;
    let is_init = argv.split(|&byte| byte == 0).nth(1) == Some(b"init");
    Ok(is_init && init.dev() == own.dev() && init.ino() == own.ino())
}

/// All descendants of this process.
fn descendants() -> io::Result<Vec<Pid>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if let Some(parent) = parent_of(pid) {
            all.push((pid, parent));
        }
    }
    let mut found = vec![getpid().as_raw_pid()];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    Ok(found.into_iter().skip(1).filter_map(Pid::from_raw).collect())
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses too.
    let behind = &stat[stat.iter().rposition(|&byte| byte == b')')? + 1..];
    str::from_utf8(behind).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}
