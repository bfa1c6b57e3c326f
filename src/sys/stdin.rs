//! Standard input, looked at and not read; and who has started this process.

#[cfg(unix)]
use rustix::fs::FileType;

/// Whether a pipe, a socket or a file has bytes that nobody has read. Devices, a terminal and a closed input have none.
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

/// Nobody has asked for it yet.
#[cfg(not(unix))]
pub fn has_waiting() -> bool {
    false
}

/// A word for the process that has started this one, which no later process has; as far as the system tells when it began.
#[cfg(unix)]
pub fn parent() -> Option<String> {
    let parent = rustix::process::getppid()?.as_raw_nonzero();
    let stat = std::fs::read(format!("/proc/{parent}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything. Of what follows it, the twentieth is the start.
    let behind = stat.iter().rposition(|byte| *byte == b')').map_or(&[][..], |at| &stat[at + 1..]);
    let began = String::from_utf8_lossy(behind).split_whitespace().nth(19).unwrap_or_default().to_owned();
    Some(format!("{parent}-{began}"))
}

/// See above.
#[cfg(not(unix))]
pub fn parent() -> Option<String> {
    None
}
