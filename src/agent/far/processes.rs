//! Killing and reaping: whatever a session started, and whatever that started, is dead before it is over.
//!
//! In a workspace that is everybody in the PID namespace but PID 1 and the session itself, so nothing can hide by a double
//! fork or a session of its own. Anywhere else (the host engine, and tests) it is the descendants alone, which stay such
//! because the session is a subreaper, and [`super::keep`] another one behind it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{
        Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, test_kill_process_group, wait,
    },
};

/// What a process in an uninterruptible wait gets before it is left to itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Everybody in the PID namespace.
    Namespace,
    /// All that descends from this process.
    Descendants,
}

impl Reach {
    /// Everybody only where PID 1 is known to be this very program: then the namespace is a workspace's.
    pub(super) fn of_this_process() -> Reach {
        if getpid().is_init() || init_is_this_program().unwrap_or(false) {
            Reach::Namespace
        } else {
            Reach::Descendants
        }
    }

    /// Kills everybody, reaps what can be reaped, and returns when nobody is left.
    pub(super) fn clear(self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.kill_all();
            reap();
            if found == Found::Nobody || Instant::now() > deadline {
                return;
            }
            // Children of others are not waited for; a moment is all that can be given.
            if self.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// Whether nobody is left, the dead that nobody has waited for included.
    pub(super) fn is_empty(self) -> bool {
        match self {
            Reach::Namespace => test_kill_process_group(Pid::INIT) == Err(Errno::SRCH),
            Reach::Descendants => descendants().is_ok_and(|found| found.is_empty()),
        }
    }

    /// Kills everybody, and does not wait.
    pub(super) fn kill(self) {
        self.kill_all();
    }

    fn kill_all(self) -> Found {
        match self {
            // A group of number 1 is kill(2)'s -1: everybody.
            Reach::Namespace => match kill_process_group(Pid::INIT, Signal::KILL) {
                Err(Errno::SRCH) => Found::Nobody,
                _ => Found::Somebody,
            },
            Reach::Descendants => {
                let found = descendants().unwrap_or_default();
                for pid in &found {
                    let _ = kill_process(*pid, Signal::KILL); // it may be dead meanwhile
                }
                if found.is_empty() { Found::Nobody } else { Found::Somebody }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Somebody,
    Nobody,
}

/// Waits for all children that are dead.
pub(super) fn reap() {
    while let Ok(Some(_)) | Err(Errno::INTR) = wait(WaitOptions::NOHANG) {}
}

fn init_is_this_program() -> io::Result<bool> {
    let (init, own) = (fs::metadata("/proc/1/exe")?, fs::metadata("/proc/self/exe")?);
    let argv = fs::read("/proc/1/cmdline")?;
    let is_init = argv.split(|&byte| byte == 0).nth(1) == Some(b"init");
    Ok(is_init && init.dev() == own.dev() && init.ino() == own.ino())
}

/// All processes that descend from this one.
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
