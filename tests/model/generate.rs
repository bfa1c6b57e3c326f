//! Random edits, from a seed: small pools of names and contents, so that edits of both sides meet.

use super::{
    ops::{Bytes, Content, Listing, Op},
    random::Random,
};

/// Which permission bits may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modes {
    /// All that a host may have.
    Any,
    /// Those that cross from a container: no set-uid bits.
    Plain,
    /// Those that let an owner who is not root go on.
    OwnersOwn,
}

/// Where edits go.
#[derive(Debug, Clone, Copy)]
pub struct Where {
    /// The modes.
    pub modes: Modes,
    /// New paths begin with one of these, each an empty string or a directory with its slash.
    pub below: &'static [&'static str],
    /// Whether this path may be edited at all.
    pub allowed: fn(&[u8]) -> bool,
}

const NAMES: [&[u8]; 19] = [
    b"a",
    b"b",
    b"c",
    b"A",
    b"B",
    b"d",
    b"with space",
    b".dot",
    b"-dash",
    b"new\nline",
    b"\xff\xfe\x80",
    "\u{fc}\u{308}".as_bytes(),
    b"x.ign",
    b"cache",
    b"back\\slash",
    b"*?[a]{b}",
    b"$(reboot)'\"",
    b"\x1b[31mred",
    &[b'n'; 255],
];

const TARGETS: [&[u8]; 11] = [
    b"a",
    b"b",
    b"../a",
    b"../../../outside",
    b"/etc/passwd",
    b"/nowhere/at/all",
    b".",
    b"..",
    b"new\nline",
    b"\xff\xfe\x80",
    &[b't'; 300],
];

/// The program under the builds' command, which no edit touches.
pub const HELPER: &[u8] = b".helper";

/// Some edits of a tree that looks like `tree`.
pub fn edits(random: &mut Random, tree: &Listing, within: Where, count: usize) -> Vec<Op> {
    let paths: Vec<_> = tree.0.keys().filter(|path| is_free(path, within)).cloned().collect();
    (0..count).map(|_| edit(random, &paths, within)).collect()
}

fn is_free(path: &[u8], within: Where) -> bool {
    path != HELPER && (within.allowed)(path)
}

fn edit(random: &mut Random, paths: &[Bytes], within: Where) -> Op {
    let path = some_path(random, paths, within);
    let seed = random.next();
    match random.below(100) {
        0..20 => Op::Write(path, content(random, seed)),
        20..28 => Op::Replace(path, content(random, seed)),
        28..33 => Op::Append(old_path(random, paths, within), content(random, seed)),
        33..43 => Op::Stealth(old_path(random, paths, within), seed),
        43..48 => Op::StealthReplace(old_path(random, paths, within), seed),
        48..56 => Op::Chmod(old_path(random, paths, within), mode(random, within.modes)),
        56..63 => Op::Touch(old_path(random, paths, within), moment(random)),
        63..72 => Op::Rename(old_path(random, paths, within), path),
        72..82 => Op::Remove(old_path(random, paths, within)),
        82..88 => Op::Mkdir(path),
        88..94 => Op::Symlink(path, random.one(&TARGETS).to_vec()),
        _ => Op::Hardlink(old_path(random, paths, within), path),
    }
}

fn some_path(random: &mut Random, paths: &[Bytes], within: Where) -> Bytes {
    if random.chance(40) { old_path(random, paths, within) } else { new_path(random, paths, within) }
}

fn old_path(random: &mut Random, paths: &[Bytes], within: Where) -> Bytes {
    if paths.is_empty() { new_path(random, paths, within) } else { random.one(paths) }
}

fn new_path(random: &mut Random, paths: &[Bytes], within: Where) -> Bytes {
    loop {
        let mut path = if !paths.is_empty() && random.chance(30) {
            [random.one(paths).as_slice(), b"/"].concat()
        } else {
            random.one(within.below).as_bytes().to_vec()
        };
        let depth = if random.chance(2) { 15 } else { 1 + random.below(3) };
        let names: Vec<&[u8]> = (0..depth).map(|_| random.one(&NAMES)).collect();
        path.extend(names.join(b"/".as_slice()));
        // Within what a system call takes, with the root before it.
        if path.len() < 2000 && is_free(&path, within) {
            return path;
        }
    }
}

fn content(random: &mut Random, seed: u64) -> Content {
    let len = match random.below(100) {
        0..10 => 0,
        10..75 => 1 + random.below(200),
        75..93 => random.below(20_000),
        93..99 => random.below(300_000),
        _ => random.below(3 << 20),
    };
    // Few contents for short files, so that a file gets the bytes that it has, or once had.
    Content { seed: seed % 7, len: if len < 40 { len / 10 } else { len } }
}

fn mode(random: &mut Random, modes: Modes) -> u32 {
    let own: &[u32] = &[0o755, 0o700, 0o777, 0o750, 0o775];
    let plain: &[u32] = &[0o644, 0o600, 0o755, 0o700, 0o777, 0o444, 0o555, 0o400, 0o000, 0o111];
    let any: &[u32] = &[0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o6755, 0o000, 0o444, 0o555, 0o711];
    random.one(match modes {
        Modes::Any => any,
        Modes::Plain => plain,
        Modes::OwnersOwn => own,
    })
}

fn moment(random: &mut Random) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    let second = [0, 1, 1_000_000_000, 1_767_225_600, 2_147_483_648, 4_102_444_800];
    random.one(&second) * SECOND + random.one(&[0, 1, 500_000_000, 999_999_999])
}
