//! Makes the user who runs fastbuild the owner of what a command made or changed in the host's own
//! tree, as with other workspaces. The command ran as another user, mostly as root.
//!
//! One walk by ctime when the command is over. Left alone: paths that are mounted below the root,
//! and a file with a name outside of the tree, because that name was there before. No link is
//! followed: a handle holds each file, and is used to examine it. Where an owner may not be changed
//! (a server that does not accept root), files stay as they are, as under any mount.

use std::{collections::HashMap, fs, io, path::Path};

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};

use crate::{
    agent::{protocol::Owner, server::clocks::wait_for_tick},
    entry::{RelPath, Stamp, Timestamp},
    sys::{
        at,
        clock::{Granularity, file_system_now, stamped_by_now},
        walk::Walk,
    },
    tree::{
        ignore::Rules,
        scan::{ScanOptions, scan},
    },
    user::Ids,
};

/// Which files get a new owner, and which owner.
#[derive(Debug)]
pub(super) struct Giving {
    to: Ids,
    /// The user who makes the files.
    runner: Ids,
    /// Only files changed since then are given.
    since: Timestamp,
}

impl Giving {
    /// Covers all that a command running as `runner` makes and changes from now on. `None` where
    /// `runner` is the owner, and where this process may not change owners or does not see the
    /// host's users.
    pub(super) fn begin(owner: &Owner, root: &Path, runner: Ids) -> Option<Giving> {
        let mapped = |table: &str, id| here(&fs::read_to_string(table).ok()?, id);
        let uid = |id| mapped("/proc/self/uid_map", id);
        let to = Ids { uid: uid(owner.uid)?, gid: mapped("/proc/self/gid_map", owner.gid)? };
        let sees_users = Some(rustix::fs::stat(root).ok()?.st_uid) == uid(owner.of_root);
        if to == runner || !sees_users || !rustix::process::geteuid().is_root() {
            return None;
        }
        let now = stamped_by_now();
        wait_for_tick(now);
        let since = match Granularity::of(root) {
            Granularity::Tick => file_system_now(),
            coarse @ Granularity::Coarse => now.before_by(coarse.span()),
        };
        Some(Giving { to, runner, since })
    }

    /// Changes the owners, where files exist and it is allowed. Paths `mounted` below the root are
    /// left alone.
    pub(super) fn give(&self, root: &Path, mounted: &[RelPath]) {
        let options = ScanOptions { rules: &Rules::none(), leave_out: mounted, progress: &|_| {} };
        let (Ok(tree), Ok(directory)) = (scan(root, &options), fs::File::open(root)) else { return };
        let (directory, entries) = (Dir::from_std_file(directory), tree.manifest.entries());
        let mut names = HashMap::<_, u64>::new();
        for entry in entries.iter().filter(|entry| entry.links > 1) {
            *names.entry((entry.stamp.dev, entry.stamp.ino)).or_default() += 1;
        }
        let has_names_outside = |stat: &Stat| {
            let Stamp { dev, ino, .. } = at::stamp(stat);
            let known = names.get(&(dev, ino)).copied().unwrap_or(1);
            FileType::from_raw_mode(stat.st_mode) != FileType::Directory && at::links(stat) > known
        };
        let mut walk = Walk::new(&directory);
        let changed = entries.iter().filter(|entry| entry.stamp.ctime >= self.since);
        for path in changed.map(|entry| &entry.path).chain(tree.skipped.iter().map(|(path, _)| path)) {
            // A path that is gone, or may not be given, stays as it is.
            let _ = self.give_one(&mut walk, path, &has_names_outside);
        }
    }

    fn give_one(
        &self,
        walk: &mut Walk<'_>,
        path: &RelPath,
        has_names_outside: &dyn Fn(&Stat) -> bool,
    ) -> io::Result<()> {
        let (dir, name) = walk.parent(path)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&handle)?;
        // A set-gid directory passes its group on, and keeps it.
        let gid = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if stat.st_mode & at::SET_GROUP != 0 => stat.st_gid,
            _ => at::group_handed_on(dir)?.unwrap_or(self.to.gid),
        };
        // In the user's own files, a group other than the command's was set on purpose.
        let is_right = stat.st_uid == self.to.uid && (stat.st_gid == gid || stat.st_gid != self.runner.gid);
        if at::stamp(&stat).ctime < self.since || is_right || has_names_outside(&stat) {
            return Ok(());
        }
        // The kernel clears the set-uid bit of a file when its owner changes.
        let (uid, gid) = (Uid::from_raw(self.to.uid), Gid::from_raw(gid));
        Ok(rustix::fs::chownat(&handle, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
    }
}

/// The host's number `id` in this user namespace. A table line: first here, first there, count.
fn here(table: &str, id: u32) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(|number| number.parse::<u32>().ok());
        let (first, there, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let behind = id.checked_sub(there).filter(|behind| *behind < count)?;
        first.checked_add(behind)
    })
}

#[cfg(test)]
mod tests {
    use super::here;

    #[test]
    fn a_users_number_is_the_one_that_it_has_in_this_namespace() {
        let all = "         0          0 4294967295\n";
        let rootless = "         0       1000          1\n         1     100000      65536\n";
        for (table, id, expected) in [
            (all, 4242, Some(4242)),
            (rootless, 1000, Some(0)),
            (rootless, 100_999, Some(1000)),
            (rootless, 1001, None),
            ("", 0, None),
        ] {
            assert_eq!(here(table, id), expected, "{table:?} {id}");
        }
    }
}
