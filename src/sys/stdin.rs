//! Looks at standard input without reading it; and identifies the parent process.

#[cfg(unix)]
use rustix::fs::FileType;

/// Whether a pipe, socket or file has unread bytes. False for devices, terminals and closed input.
#[cfg(unix)]
pub fn has_waiting() -> bool {
    let stdin = rustix::stdio::stdin();
    let Ok(stat) = rustix::fs::fstat(stdin) else { return false };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo | FileType::Socket => rustix::io::ioctl_fionread(stdin).is_ok_and(|bytes| bytes > 0),
        FileType::RegularFile => {
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            rustix::fs::tell(stdin).is_ok_and(|position| position < size)
        }
        _ => false,
    }
}

/// Not implemented on this system.
#[cfg(not(unix))]
pub fn has_waiting() -> bool {
    false
}

/// An identifier of the parent process that no later process has, if its start time is known.
#[cfg(unix)]
pub fn parent() -> Option<String> {
    let parent = rustix::process::getppid()?.as_raw_nonzero();
    let stat = std::fs::read(format!("/proc/{parent}/stat")).unwrap_or_default();
    // The name, in parentheses, may contain anything. The start time is the 20th field after it.
    let behind = stat.iter().rposition(|byte| *byte == b')').map_or(&[][..], |at| &stat[at + 1..]);
    let began = String::from_utf8_lossy(behind).split_whitespace().nth(19).unwrap_or_default().to_owned();
    Some(format!("{parent}-{began}"))
}

/// Not known on this system.
#[cfg(not(unix))]
pub fn parent() -> Option<String> {
    None
}
