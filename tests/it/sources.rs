//! Rule 3: what the build sees is exactly the host's tree, less what is kept or excluded.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use crate::common::{Ended, FILLED, Lifetime, NONROOT, Project, Tree, eventually};
use rustix::fs::{Mode, OFlags};

fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn set_mtime(path: impl AsRef<Path>, nanos: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// The paths that the build sees below its directory, sorted, without itself.
fn seen(project: &Project, options: &[&str]) -> Vec<String> {
    let options: Vec<_> = ["-q"].iter().chain(options).copied().collect();
    let ended = project.sh(&options, "find . -mindepth 1 | sort");
    ended.exits(0).out().lines().map(|line| line.trim_start_matches("./").to_owned()).collect()
}

// ---- the tree -----------------------------------------------------------------------------------------------------

/// What both sides can say of a path: kind and mode, size of files, mtime in seconds, link target. NUL-separated, so
/// that any name will do.
const DESCRIBE: &str = r#"find . -mindepth 1 -print0 | sort -z | xargs -0 -n 1 sh -c '
    p=$0; t=; [ -h "$p" ] && t=$(readlink "$p"; echo .); m=$(stat -c %Y "$p"); [ -h "$p" ] && m=
    s=; [ -f "$p" ] && [ ! -h "$p" ] && s=$(stat -c %s "$p"; sha256sum < "$p")
    printf "%s|%s|%s|%s|%s\0" "$p" "$(stat -c "%F %a" "$p")" "$s" "$m" "$t"'"#;

fn describe_here(project: &Project) -> Vec<String> {
    let shell =
        Command::new("busybox").args(["sh", "-c", DESCRIBE]).current_dir(project.root()).output().unwrap();
    assert!(shell.status.success() && shell.stderr.is_empty(), "{}", String::from_utf8_lossy(&shell.stderr));
    lines(&shell.stdout)
}

fn lines(described: &[u8]) -> Vec<String> {
    described.split(|&b| b == 0).map(|line| line.escape_ascii().to_string()).collect()
}

fn make_every_kind_of_thing(project: &Project) {
    project
        .write("plain", "text")
        .write("empty", "")
        .write("binary", [0, 159, 146, 150, 255])
        .write("large", vec![3; 1 << 20]);
    for (name, mode) in
        [("secret", 0o600), ("program", 0o755), ("suid", 0o4755), ("sgid", 0o2755), ("none", 0o000)]
    {
        project.write(name, name);
        chmod(project.path(name), mode);
    }
    for (name, mode) in [("closed", 0o700), ("sticky", 0o1777), ("read-only", 0o555), ("empty/er", 0o750)] {
        fs::remove_file(project.path("empty")).ok();
        fs::create_dir_all(project.path(name)).unwrap();
        chmod(project.path(name), mode);
    }
    for (name, target) in [
        ("to-file", "plain"),
        ("to-dir", "closed"),
        ("up", "../../outside"),
        ("absolute", "/etc/passwd"),
        ("dangling", "no such thing"),
        ("loop", "loop"),
        ("loop-a", "loop-b"),
        ("loop-b", "loop-a"),
        ("closed/up", "../.."),
        ("closed/into", "../read-only/x"),
    ] {
        symlink(target, project.path(name)).unwrap();
    }
    set_mtime(project.path("plain"), 981_173_106_123_456_789);
    set_mtime(project.path("secret"), 1);
    set_mtime(project.path("sticky"), 1_000_000_000_000_000_000);
}

fn content_modes_links_empty_directories_and_times_are_the_hosts(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    make_every_kind_of_thing(&project);
    let here = describe_here(&project);
    let there = project.sh(&["-q"], DESCRIBE);
    assert_eq!(lines(&there.exits(0).stdout), here);
    assert!(here.len() > 20);
    assert_eq!(describe_here(&project), here, "and a build that only looks changes nothing");
    project.assert_nothing_left();
}

fn what_the_image_has_in_the_working_directory_is_hidden_as_a_mount_hides_it(lifetime: Lifetime) {
    let project = Project::with_image(FILLED).keeping(lifetime);
    let here = || seen_here(&project);
    project.write("mine", "").write("from-image.txt", "the user's\n");
    let look = "find . -mindepth 1 | sort; cat from-image.txt 2>/dev/null; true";
    for _ in 0..2 {
        assert_eq!(project.sh(&["-q"], look).exits(0).out(), "./from-image.txt\n./mine\nthe user's\n");
        assert_eq!(here(), ["from-image.txt", "mine"]);
    }
    fs::remove_file(project.path("from-image.txt")).unwrap();
    assert_eq!(project.sh(&["-q"], look).exits(0).out(), "./mine\n");
    project.sh(&["-q"], "mkdir from-image; echo new > from-image/new").exits(0);
    assert_eq!(here(), ["from-image", "from-image/new", "mine"]);
    project.assert_nothing_left();
}

fn an_excluded_path_begins_with_what_the_image_has_there(lifetime: Lifetime) {
    let project = Project::with_image(FILLED).keeping(lifetime);
    project.write("mine", "").write("from-image.txt", "the user's\n");
    let excluding = ["-q", "--exclude", "from-image*"];
    let ended = project.sh(&excluding, "cat from-image.txt; ls from-image");
    assert_eq!(ended.exits(0).out(), "the image's own\ndeep.txt\n");
    assert_eq!(seen_here(&project), ["from-image.txt", "mine"]);
    assert_eq!(project.read("from-image.txt"), "the user's\n");
}

/// The paths below the source root, sorted.
fn seen_here(project: &Project) -> Vec<String> {
    let tree = Tree::of(&project.root());
    tree.0.into_keys().map(|path| path.escape_ascii().to_string()).filter(|path| !path.is_empty()).collect()
}

fn a_directory_of_the_systems_may_be_the_working_directory(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("mine", "text\n");
    for _ in 0..2 {
        // What the engine mounts there stays; what the image has there is hidden.
        let ended = project.sh(&["-q", "-w", "/etc"], "ls -d passwd hosts mine 2>/dev/null; cp mine made");
        assert_eq!(ended.exits(0).out(), "hosts\nmine\n");
    }
    assert_eq!(project.read("made"), "text\n");
    assert_eq!(seen_here(&project), ["made", "mine"]);
}

fn names_are_the_hosts_byte_for_byte(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    let mut long = b"long-".to_vec();
    long.resize(255, b'x');
    let mut long_bad = vec![0xfe; 254];
    long_bad.push(b'y');
    let names: Vec<Vec<u8>> = vec![
        b"new\nline".to_vec(),
        b"tab\tand\rreturn\x1b[31m\x07".to_vec(),
        b"invalid \xff\xfe utf-8 \xc3".to_vec(),
        b"-dash".to_vec(),
        b"--".to_vec(),
        b"  spaces  ".to_vec(),
        b"quotes'\"`$(touch x)\\".to_vec(),
        b"*?[a]{b,c}~!#&;|<>".to_vec(),
        "snow ☃ and Å".as_bytes().to_vec(),
        b"...".to_vec(),
        b"C:\\windows:a".to_vec(),
        long,
        long_bad,
    ];
    for name in &names {
        let name = OsStr::from_bytes(name);
        project.write(name, name.as_bytes());
        // The same as a directory, as deep as its path is long in a plain tar header.
        let mut inner = OsString::from("d/");
        inner.push(name);
        project.write(Path::new(&inner).join("file"), name.as_bytes());
        let mut link = OsString::from_vec(b"l/".to_vec());
        link.push(name);
        fs::create_dir_all(project.path("l")).unwrap();
        symlink(name, project.path(&link)).unwrap();
    }
    let here = describe_here(&project);
    assert_eq!(lines(&project.sh(&["-q"], DESCRIBE).exits(0).stdout), here);
    // And back: what the build writes under such names arrives under them.
    project.sh(&["-q"], "for f in * ...; do [ -f \"$f\" ] && echo changed > \"./$f\"; done; true").exits(0);
    for name in &names {
        assert_eq!(project.read(OsStr::from_bytes(name)), "changed\n", "{}", name.escape_ascii());
    }
    project.assert_nothing_left();
}

fn a_path_of_four_thousand_bytes_arrives(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    // Made from within, as the whole would be too long for one call.
    let name = "d".repeat(200);
    let make = format!("for i in $(seq 18); do mkdir {name} && cd {name}; done; echo deep > file");
    assert!(Command::new("sh").args(["-c", &make]).current_dir(project.root()).status().unwrap().success());
    let ended =
        project.sh(&["-q"], &format!("for i in $(seq 18); do cd {name}; done; cat file; echo back > file"));
    assert_eq!(ended.exits(0).out(), "deep\n");
    let look = format!("for i in $(seq 18); do cd {name}; done; cat file");
    let back = Command::new("sh").args(["-c", &look]).current_dir(project.root()).output().unwrap();
    assert_eq!(back.stdout, b"back\n");
}

fn mtimes_keep_their_nanoseconds(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("a", "").write("b", vec![1; 300_000]).write("d/x", "");
    set_mtime(project.path("a"), 1_600_000_000_000_000_001);
    set_mtime(project.path("b"), 1_600_000_000_987_654_321);
    set_mtime(project.path("d"), 1_600_000_000_000_000_002);
    let ended = project.sh(&["-q"], "stat -c '%n %y' a b d | cut -d ' ' -f 1,3");
    assert_eq!(ended.exits(0).out(), "a 12:26:40.000000001\nb 12:26:40.987654321\nd 12:26:40.000000002\n");
}

fn hard_links_are_one_file(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("a", "one").write("z/b", "other");
    fs::hard_link(project.path("a"), project.path("z/a")).unwrap();
    fs::hard_link(project.path("a"), project.path("a2")).unwrap();
    let inode = fs::metadata(project.path("a")).unwrap().ino();
    let ended = project.sh(&["-q"], "stat -c %h a z/b; echo two > z/a; cat a a2");
    assert_eq!(ended.exits(0).out(), "3\n1\ntwo\ntwo\n");
    assert_eq!(project.read("a2"), "two\n");
    let inodes = ["a", "a2", "z/a"].map(|path| fs::metadata(project.path(path)).unwrap().ino());
    assert!(
        inodes.iter().all(|ino| *ino == inodes[0]),
        "they come back as one file: {inodes:?}, was {inode}"
    );
}

/// A kept workspace, and the same without a container.
fn kept() -> [Project; 2] {
    [Project::kept(), Project::here()]
}

/// Which of these names are one file, as `aab`: each by the letter of the first.
fn which_are_one(inodes: &[u64]) -> String {
    let first = |ino: &u64| inodes.iter().position(|other| other == ino).unwrap_or_default();
    inodes.iter().map(|ino| char::from(b'a' + first(ino) as u8)).collect()
}

#[test]
fn names_that_are_parted_or_joined_here_without_another_change_are_so_in_the_build() {
    for project in kept() {
        let at = |name: &str| project.path(name);
        let link = |from: &str, to: &str| {
            let _ = fs::remove_file(at(to));
            fs::hard_link(at(from), at(to)).unwrap();
        };
        // Same bytes, same time, another file.
        let part = |name: &str| {
            let copy = Command::new("cp").arg("-p").arg(at(name)).arg(at("new")).status().unwrap();
            assert!(copy.success());
            fs::rename(at("new"), at(name)).unwrap();
        };
        let steps: [(&str, &dyn Fn()); 6] = [
            ("aaa", &|| ["b", "c"].into_iter().for_each(|name| link("a", name))),
            ("aba", &|| part("b")),
            ("abb", &|| link("b", "c")),
            ("abb", &|| chmod(at("b"), 0o600)),
            ("aba", &|| (link("c", "a"), part("b")).1),
            ("abc", &|| ["a", "c"].into_iter().for_each(part)),
        ];
        project.write("a", "one\n");
        for (wanted, step) in steps {
            step();
            let here = ["a", "b", "c"].map(|name| fs::metadata(at(name)).unwrap().ino());
            assert_eq!(which_are_one(&here), wanted);
            let there = project.sh(&["-q"], "stat -c %i a b c");
            let there: Vec<_> = there.exits(0).out().lines().map(|line| line.parse().unwrap()).collect();
            assert_eq!(which_are_one(&there), wanted);
        }
        project.sh(&["-q"], "echo two >> a").exits(0);
        assert_eq!(["a", "b", "c"].map(|name| project.read(name)), ["one\ntwo\n", "one\n", "one\n"]);
    }
}

#[test]
fn mode_and_time_of_a_file_with_several_names_change_without_parting_them_or_sending_it_again() {
    for project in kept() {
        project.write("a", vec![7; 300_000]).write("z/other", "");
        fs::hard_link(project.path("a"), project.path("z/b")).unwrap();
        let look = "stat -c '%i %h %a %Y' a z/b";
        let before = project.sh(&["-q"], look).exits(0).out();
        chmod(project.path("a"), 0o751);
        set_mtime(project.path("a"), 1_500_000_000_000_000_000);
        let ended = project.sh(&["--progress", "json"], look);
        let inode = before.split(' ').next().unwrap();
        assert_eq!(ended.exits(0).out(), format!("{inode} 2 751 1500000000\n").repeat(2));
        assert_eq!(sent(&ended, "upload"), 0);
    }
}

/// Bytes of content that a phase moved.
fn sent(ended: &Ended, phase: &str) -> u64 {
    let events = ended.err();
    let mut events = events.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let phase = events.rfind(|event| event["event"] == "phase-ended" && event["phase"] == phase);
    phase.map_or(0, |event| event["done"]["bytes"].as_u64().unwrap())
}

#[test]
fn holes_of_a_source_are_holes_in_the_build_and_no_bytes_of_the_way() {
    let one_run = Project::new();
    for project in kept().into_iter().chain([one_run]) {
        let file = fs::File::create(project.path("disk")).unwrap();
        file.set_len(64 << 20).unwrap();
        for at in [0, 10 << 20, (64 << 20) - 5] {
            std::os::unix::fs::FileExt::write_all_at(&file, b"data\n", at).unwrap();
        }
        let sum = Command::new("sha256sum").arg(project.path("disk")).output().unwrap().stdout;
        let sum = String::from_utf8(sum).unwrap().split(' ').next().unwrap().to_owned();
        let ended = project.sh(&["--progress", "json"], "stat -c %s disk; sha256sum < disk; du -k disk");
        let out = ended.exits(0).out();
        let [size, there, disk] = out.lines().collect::<Vec<_>>()[..] else { panic!("{out}") };
        assert_eq!((size, there), ("67108864", &*format!("{sum}  -")));
        let disk: u64 = disk.split('\t').next().unwrap().parse().unwrap();
        assert!(disk <= 64, "{disk} KiB in the build");
        let finished = ended.err();
        let finished = finished.lines().find(|line| line.contains("\"finished\"")).unwrap();
        let finished: serde_json::Value = serde_json::from_str(finished).unwrap();
        let sent = finished["agent"]["sent"].as_u64().unwrap();
        assert!(sent < 100_000, "{sent} bytes sent");
    }
    // An engine's archive has no holes; the content is the same.
    let plain = Project::new();
    fs::File::create(plain.path("disk")).unwrap().set_len(3 << 20).unwrap();
    let ended = plain.sh(&["-q", "--no-agent"], "stat -c %s disk; tr -d '\\0' < disk | wc -c");
    assert_eq!(ended.exits(0).out(), "3145728\n0\n");
}

fn sockets_and_pipes_are_left_out_with_a_warning(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("file", "");
    let _socket = UnixListener::bind(project.path("socket")).unwrap();
    assert!(Command::new("mkfifo").arg(project.path("pipe")).status().unwrap().success());
    let ended = project.sh(&[], "find . -mindepth 1");
    ended.exits(0).says(&["socket is a socket", "pipe is a named pipe"]);
    assert_eq!(ended.out(), "./file\n");
    assert!(project.has("socket") && project.has("pipe"), "they are still here");
    project.assert_nothing_left();
}

fn the_sources_belong_to_the_images_user(lifetime: Lifetime) {
    let project = Project::with_image(NONROOT).keeping(lifetime);
    project.write("dir/file", "x");
    chmod(project.path("dir"), 0o700);
    chmod(project.path("dir/file"), 0o600);
    let ended = project.sh(&["-q"], "id -u; stat -c '%u %a' . dir dir/file | sort | uniq -c | wc -l; stat -c %u . dir dir/file; echo y > dir/file; mkdir new");
    let out = ended.exits(0).out();
    assert_eq!(out.lines().next(), Some("1000"));
    assert_eq!(out.lines().skip(2).collect::<Vec<_>>(), ["1000"; 3]);
    assert_eq!((project.read("dir/file"), project.has("new")), ("y\n".into(), true));
    assert_eq!(
        fs::metadata(project.path("dir/file")).unwrap().uid(),
        fs::metadata(project.root()).unwrap().uid()
    );
}

// ---- what is left out ---------------------------------------------------------------------------------------------

fn ignore_files_and_flags_take_things_out(lifetime: Lifetime) {
    let with = |ignore: &str| {
        let project = Project::new().keeping(lifetime);
        let files = ["a.log", "b.tmp", "keep/a.log", "node_modules/x/y", "src/c"];
        for file in &files {
            project.write(file, "");
        }
        project.write(".dockerignore", "src\n").write(".fastbuildignore", ignore);
        project
    };
    let project = with("# comment\n*.log\nnode_modules\n");
    assert_eq!(
        seen(&project, &[]),
        [".dockerignore", ".fastbuildignore", "b.tmp", "keep", "keep/a.log", "src", "src/c"],
        "a pattern without slashes means the top, as BuildKit has it"
    );
    assert!(project.has("node_modules/x/y") && project.has("a.log"), "what did not go in is still here");
    project.assert_nothing_left();
    let ignore = "**/*.log\n!keep/*.log\n";
    let all = seen(&with(ignore), &[]);
    assert!(all.contains(&"keep/a.log".into()) && !all.contains(&"a.log".into()));
    let options =
        ["--exclude", "node_modules", "--exclude", "src", "--include", "src/c", "--include", "a.log"];
    assert_eq!(
        seen(&with(ignore), &options),
        [".dockerignore", ".fastbuildignore", "a.log", "b.tmp", "keep", "keep/a.log", "src", "src/c"]
    );
    let everything = seen(&with(ignore), &["--no-ignore"]);
    assert_eq!(everything.len(), 11, "{everything:?}");
    assert!(!seen(&with(ignore), &["--no-ignore", "--exclude", "b.*"]).contains(&"b.tmp".into()));
}

fn an_ignored_directory_is_not_entered(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("src", "").write("private/x", "");
    // Not even its owner may read it, so entering it would fail for an ordinary user.
    chmod(project.path("private"), 0o000);
    let ended = project.as_nobody(&["-q", "--exclude", "private"], "ls");
    assert_eq!(ended.exits(0).out(), "src\n");
    project.as_nobody(&[], "ls").exits(125).says(&["private", "--exclude"]);
}

fn named_outputs_go_in_like_everything_else_and_where_they_go_elsewhere_does_not(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("src", "s").write("out/old", "old");
    let script = "ls -A . out; mkdir -p out; echo new > out/new; rm -f out/old";
    let ended = project.sh(&["-q", "-o", "out"], script);
    assert_eq!(ended.exits(0).out(), ".:\nout\nsrc\n\nout:\nold\n");
    assert_eq!(project.tree().paths(), ["out", "out/new", "src"]);
    project.write("elsewhere/old", "old");
    for _ in 0..2 {
        let ended = project.sh(&["-q", "-o", "out:elsewhere"], "ls -A; ls out");
        assert_eq!(ended.exits(0).out(), "out\nsrc\nnew\n", "it would grow with each build");
    }
    let elsewhere = Tree::of(&project.path("elsewhere")).paths();
    assert_eq!(elsewhere, ["new", "old"], "no command deleted the other one");
}

// ---- where --------------------------------------------------------------------------------------------------------

fn the_command_runs_in_the_matching_subdirectory(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("fastbuild.toml", "").write("deep/er/file", "").write("top", "t");
    let run = |options: &[&str], below: &str| {
        let mut command = project.command();
        command.args(["-q"]).args(options).args(["--", "sh", "-c", "pwd; cat /workspace/top; echo x > made"]);
        Ended::from(command.current_dir(project.path(below)).output().unwrap())
    };
    assert_eq!(run(&[], "deep/er").exits(0).out(), "/workspace/deep/er\nt");
    assert_eq!(project.read("deep/er/made"), "x\n");
    assert_eq!(run(&[], "").exits(0).out(), "/workspace\nt");
    assert_eq!(run(&["-C", ".."], "deep").exits(0).out(), "/workspace/deep\nt");
    assert_eq!(run(&["-C", "../.."], "deep/er").exits(0).out(), "/workspace/deep/er\nt");
}

fn source_and_working_directory_are_as_named(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("inner/file", "").write("outer", "");
    let ended =
        project.fastbuild(["-q", "-C", "inner", "-w", "/some/new place", "--", "sh", "-c", "pwd; ls"]);
    assert_eq!(ended.exits(0).out(), "/some/new place\nfile\n");
    project.sh(&["-C", "no-such"], "true").exits(125).says(&["no-such"]);
    project.sh(&["-C", "outer"], "true").exits(125).says(&["outer", "directory"]);
    project.sh(&["-w", "relative"], "true").exits(125).says(&["absolute"]);
    project.sh(&["-w", "/"], "true").exits(125).says(&["root"]);
    project.sh(&["-w", "/etc/passwd"], "true").exits(125).says(&["/etc/passwd", "-w"]);
    project.sh(&["-w", "/etc/passwd/below"], "true").exits(125).says(&["/etc/passwd"]);
    // A container whose making failed may still come about, so its reaper looks again for some seconds.
    eventually("nothing is left", || fs::read_dir(project.state().join("runs")).unwrap().next().is_none());
    project.assert_nothing_left();
}

fn the_root_and_the_home_directory_are_refused_without_yes(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("file", "");
    let mut command = project.command();
    let home = Ended::from(command.env("HOME", project.root()).args(["--", "true"]).output().unwrap());
    home.exits(125).says(&["--yes", "-C"]);
    project.fastbuild(["-C", "/", "--", "true"]).exits(125).says(&["\"/\"", "--yes"]);
    let mut command = project.command();
    command.env("HOME", project.root()).args(["-q", "--yes", "--", "ls"]);
    assert_eq!(Ended::from(command.output().unwrap()).exits(0).out(), "file\n");
}

// ---- ordinary users, and trees that do not keep still --------------------------------------------------------------

fn an_unreadable_file_is_an_error_that_names_it(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    project.write("readable", "").write("dir/secret", "x");
    chmod(project.path("dir/secret"), 0o000);
    project.as_nobody(&[], "true").exits(125).says(&["dir/secret", "--exclude"]);
    assert_eq!(project.as_nobody(&["-q", "--exclude", "dir/secret"], "ls").exits(0).out(), "dir\nreadable\n");
    project.assert_nothing_left();
}

fn a_tree_that_changes_while_it_is_uploaded_does_not_break_the_build(lifetime: Lifetime) {
    let project = Project::new().keeping(lifetime);
    for dir in 0..40 {
        for file in 0..50 {
            project.write(format!("d{dir}/f{file}"), vec![b'x'; 2000]);
        }
    }
    project.write("large", vec![b'x'; 8 << 20]).write("steady", "steady");
    let done = AtomicBool::new(false);
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0_usize.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let path = project.path(format!("d{}/f{}", round % 40, round / 40 % 50));
                let _ = match round % 5 {
                    0 => fs::remove_file(&path),
                    1 => fs::write(&path, vec![b'y'; round % 300_000]),
                    2 => fs::write(&path, "short"),
                    3 => fs::remove_file(&path).and_then(|()| fs::create_dir(&path)),
                    _ => fs::OpenOptions::new().append(true).open(project.path("large")).and_then(
                        |mut large| std::io::Write::write_all(&mut large, &vec![b'z'; round % 5000]),
                    ),
                };
            }
        });
        let ended = project.sh(&["-o", "/tmp/out"], "cat steady; find . -type f | wc -l > /tmp/out");
        done.store(true, Ordering::Relaxed);
        ended
    });
    assert_eq!(ended.exits(0).out(), "steady");
    assert!(ended.err().contains("kept changing") || ended.err().contains("deleted while"), "{ended}");
    let count: u32 = project.read("out").trim().parse().unwrap();
    assert!((1000..=2002).contains(&count), "{count}");
    project.assert_nothing_left();
}

fn what_no_program_could_open_by_name_is_one_short_error_before_the_build(lifetime: Lifetime) {
    for keep in [Lifetime::OneRun, Lifetime::Kept] {
        let project = Project::new().keeping(lifetime).keeping(keep);
        let mut at = rustix::fs::open(project.root(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        for name in std::iter::once("deep".to_owned()).chain(std::iter::repeat_n("d".repeat(200), 25)) {
            rustix::fs::mkdirat(&at, &*name, Mode::from_raw_mode(0o755)).unwrap();
            at = rustix::fs::openat(&at, &*name, OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let ended = project.sh(&[], "echo ran");
        ended.exits(125).says(&["paths of the source tree are too long", "\"deep\"", "--exclude deep"]);
        assert!(ended.err().len() < 500 && ended.out().is_empty(), "{ended}");
        project.sh(&["--exclude", "deep"], "test ! -e deep").exits(0);
    }
}

promises! {
    one_run OneRun, kept Kept:
    the_sources_belong_to_the_images_user,
    an_excluded_path_begins_with_what_the_image_has_there,
    what_the_image_has_in_the_working_directory_is_hidden_as_a_mount_hides_it,
    content_modes_links_empty_directories_and_times_are_the_hosts,
    a_directory_of_the_systems_may_be_the_working_directory,
    names_are_the_hosts_byte_for_byte,
    a_path_of_four_thousand_bytes_arrives,
    mtimes_keep_their_nanoseconds,
    hard_links_are_one_file,
    sockets_and_pipes_are_left_out_with_a_warning,
    ignore_files_and_flags_take_things_out,
    an_ignored_directory_is_not_entered,
    named_outputs_go_in_like_everything_else_and_where_they_go_elsewhere_does_not,
    the_command_runs_in_the_matching_subdirectory,
    source_and_working_directory_are_as_named,
    the_root_and_the_home_directory_are_refused_without_yes,
    an_unreadable_file_is_an_error_that_names_it,
    a_tree_that_changes_while_it_is_uploaded_does_not_break_the_build,
    what_no_program_could_open_by_name_is_one_short_error_before_the_build,
}
