//! Random steps, from a seed alone: small pools of names and contents, so that edits of both sides meet.

use std::fmt;

use super::ops::{Bytes, Op, Verb};
use crate::common::random::Random;

/// One step of a sequence.
#[derive(Clone)]
pub enum Step {
    /// Edits of the host's tree: by hand, by a native build.
    Host(Vec<Op>),
    Build(Build),
}

/// One call of fastbuild.
#[derive(Clone)]
pub struct Build {
    /// All changes come back when empty.
    pub outputs: &'static [&'static str],
    /// What comes back to another place.
    pub elsewhere: Option<&'static str>,
    /// Whether the outputs' directories are exchanged.
    pub atomic: bool,
    pub kept: &'static [&'static str],
    /// What the command does.
    pub ops: Vec<Op>,
    /// What is done on the host when the command has done half of it.
    pub during: Vec<Op>,
    pub end: End,
}

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    /// By a SIGKILL of itself.
    Killed,
    /// With fastbuild, which is ended by SIGKILL.
    ClientKilled,
}

/// What a sequence may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// Nothing that a mount does otherwise.
    AsOnMount,
    /// All but kept paths.
    Any,
    /// All.
    Kept,
}

/// Which permission bits may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modes {
    Any,
    /// Those that let an owner who is not root go on.
    OwnersOwn,
}

const NAMES: [&[u8]; 20] = [
    b"a",
    b"b",
    b"c",
    b"e",
    b"f",
    b"A",
    b"dir",
    b"with space",
    b".dot",
    b"-dash",
    b"new\nline",
    b"\xff\xfe\x80",
    "\u{fc}\u{308}".as_bytes(),
    b"back\\slash",
    b"*?[a]{b}",
    b"$(reboot)'\"",
    b"\x1b[31mred",
    b"!x",
    b"#x",
    &[b'n'; 255],
];

const TARGETS: [&[u8]; 9] =
    [b"a", b"b", b"../a", b"../../../outside", b"/etc/passwd", b"/nowhere/at/all", b".", b"..", &[b't'; 300]];

/// The program under the builds' command, which no edit touches.
pub const HELPER: &str = ".helper";

/// A sequence with so many builds.
pub fn steps(seed: u64, mix: Mix, modes: Modes, builds: usize) -> Vec<Step> {
    let mut known = vec![b"out".to_vec(), b"d/made".to_vec()];
    known.extend((mix == Mix::Kept).then(|| b"k".to_vec()));
    let mut maker = Maker { random: Random(seed), mix, modes, known };
    let mut steps = Vec::new();
    for _ in 0..builds {
        if maker.random.chance(70) {
            let count = 1 + maker.random.below(8);
            steps.push(Step::Host(maker.edits(count, &["", "", "d/", "out/", "d/made/", "k/"])));
        }
        steps.push(Step::Build(maker.build()));
    }
    steps
}

struct Maker {
    random: Random,
    mix: Mix,
    modes: Modes,
    /// Paths of earlier edits.
    known: Vec<Bytes>,
}

impl Maker {
    fn build(&mut self) -> Build {
        let any = self.mix != Mix::AsOnMount;
        let outputs: &[&str] = match self.random.below(8) {
            0 | 1 if any => &["out"],
            2 | 3 if any => &["out", "d/made"],
            _ => &[],
        };
        let elsewhere = (outputs == ["out"] && self.random.chance(40)).then_some("d/made");
        let kept: &[&str] = match self.random.below(3) {
            0 if self.mix == Mix::Kept => &["k"],
            1 if self.mix == Mix::Kept => &["k", "out/k"],
            _ => &[],
        };
        let count = self.random.below(10);
        let mut ops = self.edits(count, &["", "", "d/", "out/", "out/", "d/made/", "k/", "out/k/"]);
        for output in outputs.iter().copied().chain(elsewhere) {
            if self.random.chance(90) {
                let verb = if self.random.chance(20) { Verb::Mkdir } else { Verb::Write };
                let file: &[u8] = if verb == Verb::Mkdir { b"" } else { b"/always" };
                let path = [output.as_bytes(), file].concat();
                ops.push(Op { verb, path, other: Vec::new(), number: self.random.below(3) as i64, len: 5 });
            }
        }
        let count = if any && self.random.chance(15) { 1 + self.random.below(3) } else { 0 };
        let during = self.edits(count, &["", "out/"]);
        let atomic = !outputs.is_empty() && during.is_empty() && self.random.chance(20);
        let end = match self.random.below(20) {
            0..3 if any => End::Exit(1),
            3 if any => End::Killed,
            4 if any => End::ClientKilled,
            _ => End::Exit(0),
        };
        Build { outputs, elsewhere, atomic, kept, ops, during, end }
    }

    fn edits(&mut self, count: usize, below: &[&str]) -> Vec<Op> {
        (0..count).map(|_| self.edit(below)).collect()
    }

    fn edit(&mut self, below: &[&str]) -> Op {
        let new = self.random.chance(40).then(|| self.old());
        // What is kept needs its directory, and a mount has none to compare with.
        let new = new.filter(|path| self.mix != Mix::Kept || path != b"out");
        let new = new.unwrap_or_else(|| self.new_path(below));
        let old = self.old();
        let seed = self.random.next();
        let len = match self.random.below(100) {
            0..10 => 0,
            10..85 => 10 * (1 + self.random.below(4)),
            85..97 => self.random.below(20_000),
            _ => self.random.below(1 << 20),
        };
        let op = |verb, path: Bytes, other: Bytes, number| Op { verb, path, other, number, len };
        // Few contents, so that a file gets the bytes that it has, or once had.
        let content = (seed % 4) as i64;
        let made = match self.random.below(100) {
            0..22 => op(Verb::Write, new, Vec::new(), content),
            22..30 => op(Verb::Replace, new, Vec::new(), content),
            30..35 => op(Verb::Append, old, Vec::new(), content),
            35..42 => op(Verb::Stealth, old, Vec::new(), (seed >> 1) as i64),
            42..46 => op(Verb::StealthReplace, old, Vec::new(), (seed >> 1) as i64),
            46..48 => Op { len: 2 << 20, ..op(Verb::Hole, new, Vec::new(), content) },
            48..55 => op(Verb::Chmod, old, Vec::new(), self.mode()),
            55..62 => op(Verb::Touch, old, Vec::new(), moment(&mut self.random)),
            62..72 => op(Verb::Rename, old, new, 0),
            72..83 => op(Verb::Remove, old, Vec::new(), 0),
            83..88 => op(Verb::Mkdir, new, Vec::new(), 0),
            88..93 => op(Verb::Symlink, new, self.random.one(&TARGETS).to_vec(), 0),
            _ => op(Verb::Hardlink, old, new, 0),
        };
        let is_new_name = matches!(made.verb, Verb::Rename | Verb::Hardlink);
        self.known.push(if is_new_name { made.other.clone() } else { made.path.clone() });
        made
    }

    fn old(&mut self) -> Bytes {
        self.random.one(&self.known)
    }

    fn new_path(&mut self, below: &[&str]) -> Bytes {
        loop {
            let mut path = if self.random.chance(20) {
                [self.old().as_slice(), b"/"].concat()
            } else {
                self.random.one(below).as_bytes().to_vec()
            };
            let depth = if self.random.chance(1) { 12 } else { 1 + self.random.below(2) };
            let pool = if self.random.chance(60) { &NAMES[..7] } else { &NAMES };
            let names: Vec<&[u8]> = (0..depth).map(|_| self.random.one(pool)).collect();
            path.extend(names.join(b"/".as_slice()));
            // Within what a system call takes, with the root before it.
            if path.len() < 2000 {
                return path;
            }
        }
    }

    fn mode(&mut self) -> i64 {
        let own: &[i64] = &[0o755, 0o700, 0o777, 0o750, 0o775];
        let any: &[i64] = &[0o644, 0o600, 0o755, 0o4755, 0o2755, 0o1777, 0o000, 0o444, 0o555, 0o711];
        self.random.one(if self.modes == Modes::Any { any } else { own })
    }
}

fn moment(random: &mut Random) -> i64 {
    const SECOND: i64 = 1_000_000_000;
    let second = [-86_400, 0, 1, 1_000_000_000, 1_767_225_600, 2_147_483_648, 4_102_444_800];
    random.one(&second) * SECOND + random.one(&[0, 1, 500_000_000, 999_999_999])
}

/// What remains of a sequence when only those of its parts stay; a step and each of its edits are one part each.
pub fn only(steps: &[Step], parts: &[usize]) -> Vec<Step> {
    let mut next = 0;
    let mut stays = || (parts.contains(&next), next += 1).0;
    let mut kept = Vec::new();
    for step in steps {
        let step_stays = stays();
        let mut some = |ops: &[Op]| ops.iter().filter(|_| stays()).cloned().collect::<Vec<_>>();
        let step = match step {
            Step::Host(ops) => Step::Host(some(ops)),
            Step::Build(build) => {
                Step::Build(Build { ops: some(&build.ops), during: some(&build.during), ..build.clone() })
            }
        };
        kept.extend(step_stays.then_some(step));
    }
    kept
}

/// How many parts there are.
pub fn parts(steps: &[Step]) -> usize {
    let of = |step: &Step| match step {
        Step::Host(ops) => 1 + ops.len(),
        Step::Build(build) => 1 + build.ops.len() + build.during.len(),
    };
    steps.iter().map(of).sum()
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, who, ops: &[Op]| {
            ops.iter().try_for_each(|op| write!(f, "\n    {who}: {}", shown(op)))
        };
        match self {
            Step::Host(ops) => write!(f, "host edits").and_then(|()| list(f, "host", ops)),
            Step::Build(Build { outputs, elsewhere, atomic, kept, ops, during, end }) => {
                write!(f, "build, outputs {outputs:?}, elsewhere {elsewhere:?}, atomic {atomic}")?;
                write!(f, ", kept {kept:?}, {end:?}")?;
                list(f, "command", &ops[..ops.len() / 2])?;
                list(f, "host meanwhile", during)?;
                list(f, "command", &ops[ops.len() / 2..])
            }
        }
    }
}

fn shown(op: &Op) -> String {
    let Op { verb, path, other, number, len } = op;
    let (path, other) = (short(path), short(other));
    match verb {
        Verb::Remove | Verb::Mkdir => format!("{verb:?} {path}"),
        Verb::Chmod => format!("{verb:?} {path} {number:o}"),
        Verb::Touch | Verb::Stealth | Verb::StealthReplace => format!("{verb:?} {path} {number}"),
        Verb::Rename | Verb::Symlink | Verb::Hardlink => format!("{verb:?} {path} -> {other}"),
        _ => format!("{verb:?} {path} seed {number} len {len}"),
    }
}

/// Bytes for people.
pub fn short(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    text.replace(&"n".repeat(255), "nnn\u{2026}").replace(&"t".repeat(300), "ttt\u{2026}")
}
