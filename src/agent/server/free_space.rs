//! The free space for the source tree: one that does not fit is refused before it is sent.

use std::{fs, io, path::Path};

use rustix::fs::{FsWord, StatVfs, statfs, statvfs};

use crate::agent::protocol::Room;

/// `f_type` of a tmpfs: `TMPFS_MAGIC` of Linux's `magic.h`.
const TMPFS: FsWord = 0x0102_1994;

/// The free space below `root`. A tmpfs needs memory too, which may be the smaller limit.
pub(super) fn below(root: &Path) -> io::Result<Room> {
    let room = of_file_system(&statvfs(root)?);
    if statfs(root)?.f_type != TMPFS {
        return Ok(room);
    }
    let read = |path: &str| fs::read_to_string(path).ok();
    let memory = [
        read("/proc/meminfo").as_deref().and_then(available),
        limit_left(read("/sys/fs/cgroup/memory.max"), read("/sys/fs/cgroup/memory.current")),
        limit_left(
            read("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
            read("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        ),
    ];
    Ok(Room { bytes: memory.into_iter().flatten().fold(room.bytes, u64::min), ..room })
}

fn of_file_system(stat: &StatVfs) -> Room {
    let block = stat.f_frsize.max(1);
    // A file system without a total number of files (btrfs) cannot run out of them.
    let files = (stat.f_files > 0).then_some(stat.f_favail);
    Room { bytes: stat.f_bavail.saturating_mul(block), files, block }
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What a container's limit leaves; `None` for `max`. A number beyond all memory has no effect.
fn limit_left(limit: Option<String>, used: Option<String>) -> Option<u64> {
    let limit: u64 = limit?.trim().parse().ok()?;
    Some(limit.saturating_sub(used?.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_free_is_read_from_what_the_kernel_says() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:     20 kB\n"), Some(20 << 10));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(limit_left(text("100\n"), text("30\n")), Some(70));
        assert_eq!(limit_left(text("100\n"), text("130\n")), Some(0));
        assert_eq!(limit_left(text("max\n"), text("30\n")), None);
        assert_eq!(limit_left(None, text("30\n")), None);
    }

    #[test]
    fn a_real_place_has_room() {
        let room = below(&std::env::temp_dir()).unwrap();
        assert!(room.bytes > 0 && room.block > 0, "{room:?}");
    }
}
