//! A command failed with the host's tree mounted -> whether the mount's own defect made it fail.
//!
//! Two conditions must hold, because a build that fails by its own fault is never run twice. The
//! last lines that it wrote must name a path of the tree with an error that mounts are known for
//! ([`marks`], pure). And the path itself must not explain the error ([`blame`], pure over the
//! [`Scene`]): the same operations fail here too, or no healthy or no local file system gives it.

use std::{
    collections::VecDeque,
    fs, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use crate::{
    entry::RelPath,
    facts::{Class, FileSystem},
    outputs::target::native_join,
    plan::Plan,
    tree::scan::STAGE_PREFIX,
    user::{Ids, ROOT},
};

/// Bytes of a command's output that are kept: an interpreter's backtrace follows its error.
const KEPT: usize = 64 << 10;
/// How many of the last lines are examined.
const LINES: usize = 200;
/// The longest line that is shown, in characters.
const TOLD: usize = 300;

/// The end of a command's output, both streams in the order in which they came. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    /// Takes another piece.
    pub fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = &bytes[bytes.len().saturating_sub(KEPT)..];
        let over = (kept.len() + bytes.len()).saturating_sub(KEPT);
        kept.drain(..over);
        kept.extend(bytes);
    }

    fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept.iter().copied().collect::<Vec<_>>()).into_owned()
    }
}

/// An error that mounts are known for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// `EPERM`
    NotPermitted,
    /// `EACCES`
    Denied,
    /// `EIO`
    Io,
    /// `ESTALE`
    Stale,
    /// `EROFS`
    ReadOnly,
}

impl Defect {
    /// The words of the C library and of interpreters, which quote the name.
    const WORDS: [(&str, Defect); 13] = [
        ("Operation not permitted", Defect::NotPermitted),
        ("operation not permitted", Defect::NotPermitted),
        ("EPERM", Defect::NotPermitted),
        ("Permission denied", Defect::Denied),
        ("permission denied", Defect::Denied),
        ("EACCES", Defect::Denied),
        ("Input/output error", Defect::Io),
        ("i/o error", Defect::Io),
        ("Stale file handle", Defect::Stale),
        ("ESTALE", Defect::Stale),
        ("Read-only file system", Defect::ReadOnly),
        ("read-only file system", Defect::ReadOnly),
        ("EROFS", Defect::ReadOnly),
    ];

    fn of_line(line: &str) -> Option<Defect> {
        Defect::WORDS.iter().find(|(words, _)| line.contains(words)).map(|(_, defect)| *defect)
    }
}

/// A line that names such an error and a path of the mounted tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The error.
    pub defect: Defect,
    /// The path, below the source root.
    pub path: RelPath,
    /// The line, shortened.
    pub line: String,
}

/// The names by which a command's output is understood.
pub struct Names<'a> {
    /// The source root's place in the container.
    pub workdir: &'a str,
    /// The command's directory below it.
    pub directory: &'a RelPath,
    /// Whether such a path is below the source root. Other words are not paths.
    pub exists: &'a dyn Fn(&RelPath) -> bool,
}

/// The lines that may show a mount's defect, the last one first.
pub fn marks(text: &str, names: &Names<'_>) -> Vec<Mark> {
    let lines = text.lines().rev().take(LINES);
    let mark = |line: &str| {
        let defect = Defect::of_line(line)?;
        let path = words(line).find_map(|word| names.path(word))?;
        Some(Mark { defect, path, line: line.trim().chars().take(TOLD).collect() })
    };
    lines.filter_map(mark).collect()
}

/// A path that a command could not write where the tree is read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwritten {
    /// Below the source root; none where it is not named, or cannot be told from other words.
    pub path: Option<RelPath>,
    /// The line, shortened.
    pub line: String,
}

/// The path that was not written, by the last line that names it or has the error. None elsewhere.
pub fn unwritten(text: &str, names: &Names<'_>) -> Option<Unwritten> {
    let lines: Vec<_> = text.lines().rev().take(LINES).collect();
    let mut without_name = None;
    for (at, line) in lines.iter().enumerate() {
        let Some((before, after)) = around_error(line) else { continue };
        let shown = || line.trim().chars().take(TOLD).collect();
        let word = name_of_unwritten(before, after);
        if word.is_some_and(|word| names.lies_elsewhere(word)) {
            continue;
        }
        let new = |word: &str| {
            names.below(word).filter(|path| path.parent().is_some_and(|above| (names.exists)(&above)))
        };
        // Cargo names the path on the lines before.
        let told = if before.trim().is_empty() { 5 } else { 1 };
        let mut around = lines[at..].iter().take(told).flat_map(|line| words(line));
        match word.and_then(new).or_else(|| around.find_map(|word| names.path(word))) {
            None => without_name = without_name.or_else(|| Some(Unwritten { path: None, line: shown() })),
            path => return Some(Unwritten { path, line: shown() }),
        }
    }
    without_name
}

/// The text before and behind the words for a read-only file system.
fn around_error(line: &str) -> Option<(&str, &str)> {
    let words =
        Defect::WORDS.iter().filter(|(_, defect)| *defect == Defect::ReadOnly).map(|(words, _)| *words);
    let first = words.filter_map(|words| Some((line.find(words)?, words))).min()?;
    Some((&line[..first.0], &line[first.0 + first.1.len()..]))
}

/// The name is quoted, or follows the error (Python, node, Ruby), or is the last word before it.
fn name_of_unwritten<'a>(before: &'a str, after: &'a str) -> Option<&'a str> {
    let behind = quoted(after).or_else(|| words(after.split_once(" - ")?.1).next());
    let mut parts: Vec<_> = before.trim_end_matches([' ', ':', '(']).split(": ").collect();
    // tar writes the failed operation behind the name.
    if parts.len() > 1 {
        parts.pop_if(|part| part.starts_with("Cannot "));
    }
    let part = parts.pop()?;
    let last = || {
        let all: Vec<_> = words(part).collect();
        let last = all.iter().rfind(|word| word.contains(['.', '/'])).or(all.last())?;
        let is_name = !["failed", "rror", "xception"].iter().any(|end| last.ends_with(end))
            && !part.ends_with([')', ']']);
        // A single word at the beginning of a line is the program that reports.
        (is_name && (all.len() > 1 || !parts.is_empty())).then_some(*last)
    };
    behind.or_else(|| quoted(part)).or_else(last)
}

/// The last name in quotes.
fn quoted(text: &str) -> Option<&str> {
    let (head, tail) = text.rsplit_once(['\'', '’'])?;
    let (_, name) = head.rsplit_once(['\'', '‘', '`'])?;
    (!tail.starts_with(char::is_alphanumeric)).then_some(name)
}

/// Words that may be paths: between blanks, quotes, brackets; without a final colon or full stop.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let divides = |c: char| {
        c.is_whitespace()
            || matches!(
                c,
                '\'' | '"' | '`' | '(' | ')' | '[' | ']' | '<' | '>' | ',' | ';' | '‘' | '’' | '“' | '”'
            )
    };
    line.split(divides).map(|word| word.trim_end_matches([':', '.'])).filter(|word| !word.is_empty())
}

impl Names<'_> {
    /// The path below the source root that a word names, if the path or its directory exists.
    fn path(&self, word: &str) -> Option<RelPath> {
        let below = self.below(word)?;
        let is_certain = word.starts_with('/');
        let is_there =
            (self.exists)(&below) || is_certain && below.parent().is_none_or(|above| (self.exists)(&above));
        is_there.then_some(below)
    }

    /// The path below the source root that a word would name, whether it exists or not.
    fn below(&self, word: &str) -> Option<RelPath> {
        let word = word.replace("/./", "/");
        match word.strip_prefix(self.workdir) {
            Some("") => Some(RelPath::root()),
            Some(below) => RelPath::new(below.strip_prefix('/')?.as_bytes()).ok(),
            None if word.starts_with('/') => None,
            None => {
                let path = RelPath::new(word.strip_prefix("./").unwrap_or(&word).as_bytes()).ok()?;
                (!path.is_root()).then(|| self.directory.append(&path))
            }
        }
    }

    fn lies_elsewhere(&self, word: &str) -> bool {
        let is_end = |rest: &str| rest.is_empty() || rest.starts_with('/');
        word.starts_with('/') && !word.strip_prefix(self.workdir).is_some_and(is_end)
    }
}

/// The user of the command, and its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runner {
    /// In the container, and so in the mount.
    pub ids: Ids,
    /// Right before it started.
    pub began: SystemTime,
}

/// The facts about a path that a mark names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// The kind of the source tree's file system.
    pub class: Class,
    /// The user of the command.
    pub user: User,
    /// The kind of file at the path.
    pub there: There,
    /// The owner of that file.
    pub owner: Owner,
    /// Whether making, changing and moving a file in that directory failed here, too.
    pub fails_here: Option<Defect>,
}

/// The user of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// A user to whom a healthy file system denies nothing.
    Root,
    /// Another user.
    Other,
}

/// The owner of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The runner, as far as can be told; or the path does not exist.
    Runner,
    /// Another user, though it changed while the command ran: a share that shows one owner for all.
    Strange,
}

/// The kind of file at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    /// A file that no user may execute.
    PlainFile,
    /// Anything else, or nothing.
    Other,
}

/// Whether the mount is to blame for a mark.
pub fn blame(defect: Defect, scene: &Scene) -> Blame {
    let crosses = scene.class.crosses();
    match defect {
        // The route is read-only by design; this is not a defect.
        Defect::ReadOnly => Blame::Command,
        Defect::Io | Defect::Stale if crosses => Blame::Mount,
        // A program that no user may execute: the most frequent mistake.
        Defect::Denied if scene.there == There::PlainFile => Blame::Command,
        _ if scene.fails_here == Some(defect) => Blame::Mount,
        // The command does not own what it made.
        Defect::NotPermitted | Defect::Denied if crosses && scene.owner == Owner::Strange => Blame::Mount,
        // Behind a virtual machine or a network, what works from here may still fail from there.
        Defect::NotPermitted | Defect::Denied
            if scene.user == User::Root && matches!(scene.class, Class::VirtualMachine | Class::Network) =>
        {
            Blame::Mount
        }
        _ => Blame::Command,
    }
}

/// The cause of the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The mount.
    Mount,
    /// The command, or the file as it is.
    Command,
}

/// The first mark of the mount's own defect in a failed command's output.
pub fn diagnose(tail: &Tail, plan: &Plan, runner: &Runner, file_system: Option<&FileSystem>) -> Option<Mark> {
    let class = file_system.map_or(Class::Unknown, |found| found.class);
    found(tail, plan, marks).into_iter().find(|mark| {
        let scene = Scene::look(mark, &plan.source.value, class, runner);
        blame(mark.defect, &scene) == Blame::Mount
    })
}

/// The path that a failed command tried to write where the mount is read-only.
pub fn read_only(tail: &Tail, plan: &Plan) -> Option<Unwritten> {
    found(tail, plan, unwritten)
}

fn found<T>(tail: &Tail, plan: &Plan, find: impl FnOnce(&str, &Names<'_>) -> T) -> T {
    let root = &plan.source.value;
    let exists = |path: &RelPath| fs::symlink_metadata(native_join(root, path)).is_ok();
    let names = Names { workdir: &plan.workdir.value, directory: &plan.subdirectory, exists: &exists };
    find(&tail.text(), &names)
}

impl Scene {
    fn look(mark: &Mark, root: &Path, class: Class, runner: &Runner) -> Scene {
        let path = native_join(root, &mark.path);
        let found = fs::symlink_metadata(&path);
        let there = match &found {
            Ok(found) if found.is_file() && !is_executable(found) => There::PlainFile,
            _ => There::Other,
        };
        let directory = match &found {
            Ok(found) if found.is_dir() => Some(path.as_path()),
            _ => path.ancestors().skip(1).find(|above| above.is_dir()),
        };
        let fails_here =
            directory.and_then(|directory| try_out(directory).err()).and_then(|error| defect_of(&error));
        let user = if runner.ids == ROOT { User::Root } else { User::Other };
        let owner = match &found {
            Ok(found) if is_strange(found, runner) => Owner::Strange,
            _ => Owner::Runner,
        };
        Scene { class, user, there, owner, fails_here }
    }
}

/// Does to a file of our own what builds do to theirs. Scans leave its name out.
fn try_out(directory: &Path) -> io::Result<()> {
    let path = directory.join(format!("{STAGE_PREFIX}trial-{}", std::process::id()));
    let moved = path.with_extension("moved");
    let file = fs::File::create_new(&path)?;
    let tried = try_on(&file, &path, &moved);
    // One of the two exists, or neither.
    let _ = fs::remove_file(&path);
    let _ = fs::remove_file(&moved);
    tried
}

fn try_on(file: &fs::File, path: &Path, moved: &Path) -> io::Result<()> {
    let metadata = file.metadata()?;
    fs::set_permissions(path, metadata.permissions())?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
        fs::set_permissions(path, fs::Permissions::from_mode(0o640))?;
        chown(path, Some(metadata.uid()), Some(metadata.gid()))?;
    }
    file.set_modified(SystemTime::UNIX_EPOCH)?;
    fs::rename(path, moved)?;
    fs::remove_file(moved)
}

#[cfg(unix)]
fn defect_of(error: &io::Error) -> Option<Defect> {
    use rustix::io::Errno;
    match error.raw_os_error().map(Errno::from_raw_os_error)? {
        Errno::PERM => Some(Defect::NotPermitted),
        Errno::ACCESS => Some(Defect::Denied),
        Errno::IO => Some(Defect::Io),
        Errno::STALE => Some(Defect::Stale),
        Errno::ROFS => Some(Defect::ReadOnly),
        _ => None,
    }
}

#[cfg(not(unix))]
fn defect_of(error: &io::Error) -> Option<Defect> {
    (error.kind() == io::ErrorKind::PermissionDenied).then_some(Defect::Denied)
}

/// File systems' clocks are coarser than ours: a change in the second of the start counts.
#[cfg(unix)]
fn is_strange(found: &fs::Metadata, runner: &Runner) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let began = runner.began.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let changed = u64::try_from(found.ctime()).unwrap_or(0);
    found.uid() != runner.ids.uid && changed >= began
}

#[cfg(not(unix))]
fn is_strange(_: &fs::Metadata, _: &Runner) -> bool {
    false
}

fn is_executable(found: &fs::Metadata) -> bool {
    #[cfg(unix)]
    return std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o111 != 0;
    #[cfg(not(unix))]
    {
        let _ = found;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn marks_of(text: &str) -> Vec<(Defect, String)> {
        let there = ["_site", "_site/index.html", "docs", "docs/run.sh", "docs/a"];
        let exists = |path: &RelPath| path.is_root() || there.contains(&&*path.to_string());
        let names = Names { workdir: "/workspace", directory: &path("docs"), exists: &exists };
        marks(text, &names).into_iter().map(|mark| (mark.defect, mark.path.to_string())).collect()
    }

    #[test]
    fn only_lines_with_such_an_error_and_a_path_of_the_tree_are_marks() {
        let cases: &[(&str, Option<(Defect, &str)>)] = &[
            (
                "jekyll: Operation not permitted @ apply2files - /workspace/_site/index.html (Errno::EPERM)",
                Some((Defect::NotPermitted, "_site/index.html")),
            ),
            (
                "Error: EPERM: operation not permitted, chmod '/workspace/_site/x'",
                Some((Defect::NotPermitted, "_site/x")),
            ),
            ("sh: ./run.sh: Permission denied", Some((Defect::Denied, "docs/run.sh"))),
            ("cp: cannot create regular file ‘a’: Permission denied", Some((Defect::Denied, "docs/a"))),
            ("cat: /workspace/docs/a: Input/output error", Some((Defect::Io, "docs/a"))),
            ("open /workspace/_site: Stale file handle", Some((Defect::Stale, "_site"))),
            ("touch: cannot touch '/workspace/new': Read-only file system", Some((Defect::ReadOnly, "new"))),
            // Elsewhere, no such place, or not an error.
            ("touch: /etc/passwd: Permission denied", None),
            ("mkdir: /workspaces: Permission denied", None),
            ("ping: socket: Operation not permitted", None),
            ("/workspace/far/away/x: Permission denied", None),
            ("wrote /workspace/_site/index.html", None),
            ("", None),
        ];
        for (line, expected) in cases {
            let expected: Vec<_> =
                expected.iter().map(|(defect, path)| (*defect, (*path).to_owned())).collect();
            assert_eq!(marks_of(line), expected, "{line}");
        }
        let trace = format!("x /workspace/docs/a: Input/output error\n{}", "\tfrom somewhere\n".repeat(60));
        assert_eq!(marks_of(&trace).len(), 1, "the trace of calls stands behind it");
    }

    #[test]
    fn what_could_not_be_written_is_named_as_tools_name_it_and_told_without_a_name_otherwise() {
        let there = ["docs", "docs/sub", "docs/output", "docs/a.c"];
        let exists = |path: &RelPath| path.is_root() || there.contains(&&*path.to_string());
        let names = Names { workdir: "/workspace", directory: &path("docs"), exists: &exists };
        let named = |text: &str| unwritten(text, &names).map(|found| found.path.map(|path| path.to_string()));
        let cases = [
            ("mkdir: cannot create directory ‘build’: Read-only file system", "docs/build"),
            ("mkdir: can't create directory 'build': Read-only file system", "docs/build"),
            ("sh: 1: cannot create log: Read-only file system", "docs/log"),
            ("/bin/sh: can't create sub/log.txt: Read-only file system", "docs/sub/log.txt"),
            ("bash: line 1: log.txt: Read-only file system", "docs/log.txt"),
            ("touch: x: Read-only file system", "docs/x"),
            ("mv: cannot move 'a.c' to 'b.c': Read-only file system", "docs/b.c"),
            ("tar: x: Cannot open: Read-only file system", "docs/x"),
            ("OSError: [Errno 30] Read-only file system: 'build'", "docs/build"),
            ("Fatal error: can't create a.o: Read-only file system", "docs/a.o"),
            ("/usr/bin/ld: cannot open output file a.out: Read-only file system", "docs/a.out"),
            ("a.c:1:1: fatal error: opening dependency file x.d: Read-only file system", "docs/x.d"),
            ("cc1: fatal error: cannot open ‘a.s’ for writing: Read-only file system", "docs/a.s"),
            ("Error: EROFS: read-only file system, mkdir 'build'\n  code: 'EROFS',", "docs/build"),
            ("open build: read-only file system", "docs/build"),
            ("Cannot open x.pl: Read-only file system at -e line 1.", "docs/x.pl"),
            ("  failed to make directory '/workspace/./x': Read-only file system; class=Os (2)", "x"),
            ("mkdir /workspace/docs/sub/x: read-only file system", "docs/sub/x"),
            ("error: could not write output to a.o: Read-only file system", "docs/a.o"),
            (
                "error: failed to write /workspace/docs/Cargo.lock\n\nCaused by:\n  Read-only file system (os error 30)",
                "docs/Cargo.lock",
            ),
            ("-e:1:in `mkdir': Read-only file system @ dir_s_mkdir - build (Errno::EROFS)", "docs/build"),
            ("java.nio.file.FileSystemException: build: Read-only file system", "docs/build"),
            (
                "Exception in thread \"main\" java.io.FileNotFoundException: x.txt (Read-only file system)",
                "docs/x.txt",
            ),
            (
                "fatal: Unable to create '/workspace/docs/index.lock': Read-only file system",
                "docs/index.lock",
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(named(line), Some(Some(expected.to_owned())), "{line}");
        }
        for line in [
            "CMake Error: : System Error: Read-only file system",
            "Exception in thread \"main\" java.io.IOException: Read-only file system",
            "OSError: [Errno 30] Read-only file system",
            "PHP Warning:  mkdir(): Read-only file system in x.php on line 3",
            "mkdir failed: Read-only file system at -e line 1.",
            "Error: EROFS: read-only file system, write",
            "touch: far/away: Read-only file system",
            "touch: '/workspace/docs/../x': Read-only file system",
        ] {
            assert_eq!(named(line), Some(None), "{line}");
        }
        for line in [
            "sh: cannot create /proc/sys/kernel/x: Read-only file system",
            "OSError: [Errno 30] Read-only file system: '/etc/x'",
            "touch: x: Permission denied",
        ] {
            assert_eq!(named(line), None, "{line}");
        }
    }

    #[test]
    fn a_build_that_fails_by_its_own_fault_is_never_the_mounts() {
        let scene =
            |class, user, there, fails_here| Scene { class, user, there, owner: Owner::Runner, fails_here };
        let strange = |scene| Scene { owner: Owner::Strange, ..scene };
        use Blame::{Command, Mount};
        use Class::{Fuse, Local, Network, VirtualMachine};
        use Defect::{Denied, Io, NotPermitted, ReadOnly, Stale};
        let cases = [
            // The same fails here: whatever the cause, it is not the command.
            (NotPermitted, scene(Fuse, User::Root, There::PlainFile, Some(NotPermitted)), Mount),
            (NotPermitted, scene(Fuse, User::Other, There::Other, Some(NotPermitted)), Mount),
            (Denied, scene(Fuse, User::Root, There::Other, Some(Denied)), Mount),
            (NotPermitted, scene(Fuse, User::Root, There::Other, Some(Denied)), Command),
            // It works here.
            (NotPermitted, scene(Fuse, User::Root, There::PlainFile, None), Command),
            (NotPermitted, scene(Local, User::Root, There::PlainFile, None), Command),
            (Denied, scene(Local, User::Other, There::Other, None), Command),
            (Io, scene(Local, User::Root, There::PlainFile, None), Command),
            // Errors that no healthy file system gives.
            (Io, scene(Fuse, User::Other, There::PlainFile, None), Mount),
            (Stale, scene(Network, User::Other, There::Other, None), Mount),
            // Behind a virtual machine or a network the result may differ.
            (NotPermitted, scene(VirtualMachine, User::Root, There::PlainFile, None), Mount),
            (Denied, scene(Network, User::Root, There::Other, None), Mount),
            (Denied, scene(VirtualMachine, User::Other, There::Other, None), Command),
            // A script that no user may execute.
            (Denied, scene(VirtualMachine, User::Root, There::PlainFile, None), Command),
            // Another user owns what the command made.
            (NotPermitted, strange(scene(Fuse, User::Other, There::PlainFile, None)), Mount),
            (Denied, strange(scene(Network, User::Other, There::Other, None)), Mount),
            (NotPermitted, strange(scene(Local, User::Other, There::PlainFile, None)), Command),
            (ReadOnly, scene(VirtualMachine, User::Root, There::Other, Some(ReadOnly)), Command),
        ];
        for (defect, scene, expected) in cases {
            assert_eq!(blame(defect, &scene), expected, "{defect:?} {scene:?}");
        }
    }

    #[test]
    fn only_the_end_of_the_output_is_kept() {
        let tail = Tail::default();
        tail.push(&vec![b'a'; KEPT - 1]);
        tail.push(b"bc");
        assert_eq!((tail.text().len(), tail.text().ends_with("abc")), (KEPT, true));
        tail.push(&vec![b'd'; KEPT * 2]);
        assert_eq!(tail.text(), "d".repeat(KEPT));
    }

    #[test]
    fn a_healthy_directory_fails_nothing_and_keeps_nothing() {
        let dir = tempfile::tempdir().unwrap();
        try_out(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
