//! Kills a process right before one of its own system calls: the one way to stop it at a place that no other process
//! can see.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    process::Child,
    thread::{self, JoinHandle},
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// A process that is traced on a thread of its own: the system knows one thread as the tracer.
pub struct Traced(JoinHandle<Vec<String>>);

impl Traced {
    /// Traces `child` and kills it when it is about to change a file system for the `nth` time, counted from the first change
    /// that `first` takes, which is number 0. Comes back when it is traced.
    pub fn kill_before(child: &Child, first: fn(&str) -> bool, nth: usize) -> Traced {
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let (traced, is_traced) = std::sync::mpsc::channel();
        let tracing = thread::spawn(move || {
            seize_all(pid);
            traced.send(()).unwrap();
            // The end of this thread lets all go that are still traced.
            follow(pid, first, nth)
        });
        is_traced.recv().expect("the tracer");
        Traced(tracing)
    }

    /// The changes that it made, a word and a path each. The last one is the one before which it was killed, when there are
    /// more than `nth`.
    pub fn calls(self) -> Vec<String> {
        self.0.join().unwrap()
    }
}

fn seize_all(pid: Pid) {
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEEXIT;
    let mut seized = Vec::new();
    loop {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let threads = threads.map(|thread| thread.file_name().to_str().unwrap().parse().unwrap());
        let new: Vec<_> = threads.map(Pid::from_raw).filter(|thread| !seized.contains(thread)).collect();
        if new.is_empty() {
            return;
        }
        for thread in new {
            // A thread that is just ending, or that was made by one that is traced.
            if ptrace::seize(thread, options).is_ok() {
                ptrace::interrupt(thread).unwrap();
            }
            seized.push(thread);
        }
    }
}

fn follow(pid: Pid, first: fn(&str) -> bool, nth: usize) -> Vec<String> {
    let mut calls = Vec::new();
    loop {
        // Of this thread's tracees alone: the test waits for children of its own.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let (thread, signal) = match waitpid(None, Some(flags)) {
            Ok(WaitStatus::PtraceSyscall(thread)) => {
                if let Some(call) = change_of_files(pid, thread)
                    && (!calls.is_empty() || first(&call))
                {
                    calls.push(call);
                    if calls.len() > nth {
                        kill(pid, Signal::SIGKILL).unwrap();
                        return calls;
                    }
                }
                (thread, None)
            }
            Ok(WaitStatus::PtraceEvent(thread, _, libc::PTRACE_EVENT_EXIT)) if thread == pid => return calls,
            Ok(WaitStatus::PtraceEvent(thread, ..)) => (thread, None),
            Ok(WaitStatus::Stopped(thread, signal)) => (thread, Some(signal)),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(error) => panic!("could not wait for a thread: {error}"),
        };
        // It may have been killed in between.
        let _ = ptrace::syscall(thread, signal);
    }
}

/// The call that `thread` is about to make, with the path that it makes, when it changes a file system.
fn change_of_files(pid: Pid, thread: Pid) -> Option<String> {
    if ptrace::syscall_info(thread).ok()?.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    let call = fs::read_to_string(format!("/proc/{pid}/task/{thread}/syscall")).ok()?;
    let (number, arguments) = call.split_once(' ')?;
    let number: i64 = number.parse().ok()?;
    let arguments: Vec<u64> = arguments
        .split_whitespace()
        .filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok())
        .collect();
    let (_, name, path) = CHANGES.iter().find(|(known, ..)| *known == number)?;
    if number == libc::SYS_openat && arguments.get(2)? & libc::O_CREAT as u64 == 0 {
        return None;
    }
    Some(format!("{name} {}", text_at(pid, *arguments.get(*path)?)))
}

/// The text at an address of the process's.
fn text_at(pid: Pid, address: u64) -> String {
    let mut text = vec![0; 4096];
    let memory = fs::File::open(format!("/proc/{pid}/mem"));
    // Up to the end of what is mapped there.
    let read = memory.and_then(|memory| memory.read_at(&mut text, address)).unwrap_or(0);
    let text = text[..read].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// The calls that change a file system, and which of their arguments is the path that they make or change.
const CHANGES: &[(i64, &str, usize)] = &[
    (libc::SYS_fchmodat, "fchmodat", 1),
    (libc::SYS_linkat, "linkat", 3),
    (libc::SYS_mkdirat, "mkdirat", 1),
    (libc::SYS_openat, "openat", 1),
    (libc::SYS_renameat, "renameat", 3),
    (libc::SYS_renameat2, "renameat2", 3),
    (libc::SYS_symlinkat, "symlinkat", 2),
    (libc::SYS_unlinkat, "unlinkat", 1),
    (libc::SYS_utimensat, "utimensat", 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, "chmod", 0),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir", 0),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename", 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir", 0),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink", 0),
];
