//! What the far end promises, asked over pipes as a client asks it. No container: the session runs as a child of the test,
//! and reaches no further than its own descendants.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::common::agent::{Agent, Client, View, hello, listing, on_terminal, path, run, tree};
use fastbuild::{
    agent::protocol::{
        Blob, Failure, Follow, Hello, Home, Input, NoStart, NotStarted, PROTOCOL, Reply, Request, Run,
        STDIN_WINDOW, Size, Status,
    },
    entry::Special,
    sys::process::{State, look},
    tree::{
        node::NodeKind,
        summary::{self, Summarizer},
    },
};
use rustix::process::{Pid, test_kill_process};

fn write(root: &Path, name: &str, content: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Gives a file an mtime that is not the present.
fn age(path: &Path, secs: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(secs, 123_456_789);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// A host tree with something of everything.
fn sample(host: &Path) {
    write(host, "src/main.c", "int main;");
    write(host, "src/deep/er/file", "deep");
    write(host, "-rf", "odd");
    write(host, "new\nline", "odd too");
    write(host, "empty", "");
    write(host, "big", &"0123456789abcdef".repeat(70_000));
    write(host, "tool", "#!/bin/sh\n");
    fs::create_dir(host.join("nothing")).unwrap();
    symlink("src/main.c", host.join("link")).unwrap();
    symlink("../../nowhere", host.join("src/dangling")).unwrap();
    fs::hard_link(host.join("tool"), host.join("src/tool-too")).unwrap();
    for (name, mode) in [("tool", 0o4755), ("empty", 0o000), ("nothing", 0o1777), ("src/deep", 0o500)] {
        fs::set_permissions(host.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    for name in ["src/main.c", "big", "nothing", "src/deep/er", "src"] {
        age(&host.join(name), 1_000_000_000);
    }
}

#[test]
fn a_tree_arrives_as_it_is_and_a_second_look_finds_nothing_to_do() {
    let agent = Agent::new();
    let view = View::sources(&[], &[]);
    sample(&agent.host());
    let mut client = agent.synced(&view);
    assert_eq!(listing(&agent.root(), &view), listing(&agent.host(), &view));
    client.bye();
    assert_eq!(client.wait(), Some(0));

    let mut client = agent.session();
    client.hello(60_000);
    let (delta, _) = client.sync(&agent.host(), &agent.root(), &view);
    assert!(delta.changes.is_empty(), "{:?}", delta.changes);
    client.bye();
}

#[test]
fn what_was_uploaded_long_enough_ago_is_not_read_again() {
    let agent = Agent::new();
    let view = View::everything();
    sample(&agent.host());
    let mut client = agent.synced(&view);
    client.sh("sleep 0.1", &agent.root());
    client.bye();
    client.wait();

    let mut client = agent.session();
    client.hello(60_000);
    let (_, hashed) = client.sync(&agent.host(), &agent.root(), &view);
    assert_eq!(hashed, 0);
    client.bye();
}

#[test]
fn an_edit_in_the_workspace_that_keeps_size_and_mtime_is_put_right() {
    let agent = Agent::new();
    let view = View::sources(&[], &[]);
    write(&agent.host(), "file", "right");
    age(&agent.host().join("file"), 1_000_000_000);
    let mut client = agent.synced(&view);
    client.sh("sleep 0.1", &agent.root());
    client.bye();
    client.wait();
    fs::write(agent.root().join("file"), "wrong").unwrap();
    age(&agent.root().join("file"), 1_000_000_000);

    let mut client = agent.synced(&view);
    assert_eq!(fs::read(agent.root().join("file")).unwrap(), b"right");
    client.bye();
}

#[test]
fn whatever_has_become_something_else_is_replaced() {
    let agent = Agent::new();
    let view = View::sources(&[], &[]);
    let (root, host) = (agent.root(), agent.host());
    for (far, near) in [
        ("dir-to-file/a/b", "dir-to-file"),
        ("file-to-dir", "file-to-dir/x/y"),
        ("link-to-file", "link-to-file"),
        ("link-to-dir", "link-to-dir/z"),
        ("same", "same"),
        ("Case", "case"),
    ] {
        write(&root, far, "far");
        write(&host, near, "near");
    }
    let outside = agent.home.path().join("outside");
    fs::create_dir(&outside).unwrap();
    write(&outside, "z", "not to be touched");
    for name in ["link-to-file", "link-to-dir"] {
        fs::remove_file(root.join(name)).unwrap();
        symlink(&outside, root.join(name)).unwrap();
    }
    write(&root, "file-to-link", "far");
    symlink("anywhere", host.join("file-to-link")).unwrap();
    write(&root, "dir-to-link/inner", "far");
    symlink("anywhere", host.join("dir-to-link")).unwrap();
    write(&root, "stale/a/b", "far");

    let mut client = agent.synced(&view);
    assert_eq!(listing(&root, &view), listing(&host, &view));
    assert_eq!(fs::read_to_string(outside.join("z")).unwrap(), "not to be touched");
    client.bye();
}

#[test]
fn what_is_no_source_stays_and_so_do_the_directories_above_it() {
    let agent = Agent::new();
    let view = View::sources(&["**/cache", "*.log"], &["out", "gone/out"]);
    let root = agent.root();
    for name in ["gone/cache/x", "gone/src", "gone/out/y", "a.log", "out/z", "cache/w", "plain/src"] {
        write(&root, name, "far");
    }
    write(&agent.host(), "kept", "near");
    let mut client = agent.synced(&view);
    for name in ["gone/cache/x", "gone/out/y", "a.log", "out/z", "cache/w", "kept"] {
        assert!(root.join(name).exists(), "{name}");
    }
    for name in ["gone/src", "plain"] {
        assert!(!root.join(name).exists(), "{name}");
    }
    client.bye();
}

#[test]
fn an_ignored_path_gives_way_when_the_host_has_a_file_above_it() {
    let agent = Agent::new();
    let view = View::sources(&["**/cache"], &[]);
    write(&agent.root(), "dir/cache/x", "far");
    write(&agent.host(), "dir", "near");
    let mut client = agent.synced(&view);
    assert_eq!(fs::read_to_string(agent.root().join("dir")).unwrap(), "near");
    client.bye();
}

#[test]
fn no_other_name_of_a_file_is_written_through() {
    let agent = Agent::new();
    let view = View::sources(&[], &[]);
    let (root, host, outside) = (agent.root(), agent.host(), agent.home.path().join("outside"));
    for name in ["content", "mode", "time"] {
        write(&outside, name, "old");
        fs::hard_link(outside.join(name), root.join(name)).unwrap();
        write(&host, name, if name == "content" { "new" } else { "old" });
    }
    fs::set_permissions(host.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    age(&host.join("time"), 7);
    let before: Vec<_> = listing(&outside, &view);
    let mut client = agent.synced(&view);
    assert_eq!(listing(&root, &view), listing(&host, &view));
    assert_eq!(listing(&outside, &view), before);
    client.bye();
}

#[test]
fn metadata_alone_changes_no_content_and_no_inode() {
    let agent = Agent::new();
    let view = View::sources(&[], &[]);
    sample(&agent.host());
    drop(agent.synced(&view));
    let inode = fs::metadata(agent.root().join("big")).unwrap().ino();
    age(&agent.host().join("big"), 5);
    fs::set_permissions(agent.host().join("big"), fs::Permissions::from_mode(0o640)).unwrap();
    drop(agent.synced(&view));
    assert_eq!(listing(&agent.root(), &view), listing(&agent.host(), &view));
    assert_eq!(fs::metadata(agent.root().join("big")).unwrap().ino(), inode);
}

#[test]
fn a_source_root_that_is_no_directory_is_told() {
    let agent = Agent::new();
    let file = agent.home.path().join("file");
    fs::write(&file, "").unwrap();
    let mut client = agent.session();
    client.hello(60_000);
    for root in [file.clone(), file.join("below")] {
        let reply = client.open(&root, &View::everything());
        assert!(matches!(reply, Reply::Failed(failed) if failed.why == Failure::RootIsNoDirectory));
        client.hello(60_000);
    }
    let mut view = View::everything();
    view.user = "nobody-of-that-name".to_owned();
    let reply = client.open(&agent.root(), &view);
    assert!(matches!(reply, Reply::Failed(failed) if failed.why == Failure::User));
}

// ---- clients that die ----------------------------------------------------------------------------------------------

#[test]
fn half_a_frame_of_a_dead_client_does_not_disturb_the_next_one() {
    let agent = Agent::new();
    let view = View::sources(&[], &[]);
    sample(&agent.host());
    let mut client = agent.session();
    client.hello(60_000);
    client.open(&agent.root(), &view);
    client.request(&Request::Apply { deletes: vec![] });
    client.write(&[3, 0, 1, 0, 9, 9]);

    client.hello(60_000);
    client.sync(&agent.host(), &agent.root(), &view);
    assert_eq!(listing(&agent.root(), &view), listing(&agent.host(), &view));
    client.bye();
}

#[test]
fn an_upload_that_breaks_off_is_made_good_by_the_next_one() {
    let agent = Agent::new();
    let view = View::sources(&[], &[]);
    sample(&agent.host());
    let (manifest, digests) = tree(&agent.host(), &view);
    let mut client = agent.session();
    client.hello(60_000);
    client.open(&agent.root(), &view);
    let (delta, _) = client.compare(&agent.host(), &manifest, &digests);
    client.request(&Request::Apply { deletes: delta.deletes });
    let mut archive = Vec::new();
    let options = fastbuild::archive::PackOptions {
        prefix: fastbuild::entry::RelPath::root(),
        uid: 0,
        gid: 0,
        top: None,
        holes: fastbuild::archive::Holes::Told,
    };
    let select = &delta.puts;
    fastbuild::archive::pack(&agent.host(), &manifest, select, &options, &mut archive, &|_| {}).unwrap();
    client.data_part(&archive[..archive.len() / 2]);

    client.hello(60_000);
    client.sync(&agent.host(), &agent.root(), &view);
    assert_eq!(listing(&agent.root(), &view), listing(&agent.host(), &view));
    client.bye();
}

fn pid_in(text: &str) -> Pid {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    Pid::from_raw(digits.parse().unwrap()).unwrap()
}

/// A command that starts another one in a session of its own, and says that one's number.
const HIDING: &str = "setsid sh -c 'echo $$; exec sleep 1000' & sleep 1000";

/// A client that is taken for dead after 300 ms, whose command runs that, and the hidden one.
fn hiding(agent: &Agent) -> (Client, Pid) {
    let mut client = agent.synced(&View::everything());
    client.hello(300);
    client.open(&agent.root(), &View::everything());
    assert_eq!(client.start(run(&["sh", "-c", HIDING], &agent.root())), Reply::Started);
    let hidden = pid_in(&client.output_until("\n"));
    (client, hidden)
}

#[test]
fn a_silent_client_is_dead_and_so_is_all_that_it_started() {
    let agent = Agent::new();
    let (mut client, hidden) = hiding(&agent);
    test_kill_process(hidden).unwrap();
    assert!(client.try_receive().is_none());
    client.wait();
    assert!(test_kill_process(hidden).is_err());
}

#[test]
fn a_client_that_gives_signs_of_life_is_not_silent() {
    let agent = Agent::new();
    let mut client = agent.session();
    client.hello(1500);
    client.open(&agent.root(), &View::everything());
    let script = "for i in 1 2 3 4 5 6; do sleep 0.5; echo $i; done";
    assert_eq!(client.start(run(&["sh", "-c", script], &agent.root())), Reply::Started);
    for number in 1..=6 {
        client.output_until(&number.to_string());
        client.request(&Request::Heartbeat);
    }
    assert_eq!(client.ended().status, Status::Code(0));
}

#[test]
fn a_client_that_pauses_is_not_silent_and_all_that_it_started_pauses_with_it() {
    let agent = Agent::new();
    let (mut client, hidden) = hiding(&agent);
    let state = || look(hidden.as_raw_pid()).unwrap().state;
    client.request(&Request::Pause);
    // One that does not pause falls silent meanwhile, for as long.
    let mut other = agent.session();
    other.hello(300);
    assert!(other.try_receive().is_none());
    assert_eq!(state(), State::Stopped);
    client.request(&Request::Resume);
    client.request(&Request::Signal(15));
    assert_eq!(client.ended().status, Status::Signal(15));
    assert!(test_kill_process(hidden).is_err());
}

#[test]
fn the_end_of_stdin_ends_all_that_runs() {
    let agent = Agent::new();
    let mut client = agent.synced(&View::everything());
    assert_eq!(client.start(run(&["sh", "-c", HIDING], &agent.root())), Reply::Started);
    let hidden = pid_in(&client.output_until("\n"));
    client.close();
    client.wait();
    assert!(test_kill_process(hidden).is_err());
}

#[test]
fn a_new_client_ends_the_run_of_the_old_one() {
    let agent = Agent::new();
    let mut client = agent.synced(&View::everything());
    assert_eq!(client.start(run(&["sh", "-c", HIDING], &agent.root())), Reply::Started);
    let hidden = pid_in(&client.output_until("\n"));
    client.hello(60_000);
    client.sync(&agent.host(), &agent.root(), &View::everything());
    assert!(test_kill_process(hidden).is_err());
    assert_eq!(client.sh("echo next", &agent.root()).stdout(), "next\n");
    client.bye();
}

#[test]
fn a_client_that_speaks_before_the_last_one_has_left_is_served_by_the_same_session() {
    let agent = Agent::new();
    let mut client = agent.session();
    client.hello(60_000);
    let bye = client.encoded(&Request::Bye);
    let next = client.opening(60_000);
    client.write(&[bye, next].concat());
    client.welcome();
    client.bye();
    assert_eq!(client.wait(), Some(0));
}

#[test]
fn a_later_protocol_is_answered_with_our_own() {
    let agent = Agent::new();
    let mut client = agent.session();
    let welcome = client.hello_with(Hello { protocol: PROTOCOL + 1, idle_stop: Some(7), ..hello(60_000) });
    assert_eq!(welcome.protocol, PROTOCOL);
    assert_eq!(fs::read_to_string(agent.home.path().join("idle-stop")).unwrap(), "7");
}

#[test]
fn nobody_but_pid_1_is_init() {
    let agent = Agent::new();
    let ended = std::process::Command::new(agent.program()).arg("init").status().unwrap();
    assert_eq!(ended.code(), Some(64));
}

// ---- runs ----------------------------------------------------------------------------------------------------------

#[test]
fn all_output_comes_before_the_end_and_apart() {
    let agent = Agent::new();
    let mut client = agent.synced(&View::everything());
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo problem >&2; exit 3";
    let ended = client.sh(script, &agent.root());
    assert_eq!(ended.status, Status::Code(3));
    assert_eq!(ended.stderr, b"problem\n");
    assert_eq!(ended.stdout().lines().count(), 20000);
    assert!(ended.stdout().ends_with("line 19999\n"));
    client.bye();
}

#[test]
fn what_a_command_leaves_behind_is_dead_when_it_is_over() {
    let agent = Agent::new();
    let mut client = agent.synced(&View::everything());
    // It holds the command's stdout open, too.
    let script = "mkfifo told; setsid sh -c 'echo $$ >told; exec sleep 1000' & read pid <told; echo $pid";
    let ended = client.sh(script, &agent.root());
    assert_eq!(ended.status, Status::Code(0));
    assert!(test_kill_process(pid_in(&ended.stdout())).is_err());
    client.bye();
}

#[test]
fn a_command_that_cannot_start_says_why() {
    let agent = Agent::new();
    let root = agent.root();
    let executable = |name: &str, content: &str, mode: u32| {
        write(&root, name, content);
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    executable("plain", "#!/bin/sh\n", 0o644);
    executable("formless", "echo not for a shell\n", 0o755);
    executable("lost", "#!/no/such/interpreter\n", 0o755);
    write(&root, "dir/file", "");
    let mut client = agent.session();
    client.hello(60_000);
    client.open(&root, &View::everything());
    let cases = [
        ("no-such-program", NoStart::NotFound),
        ("./no-such-program", NoStart::NotFound),
        ("./lost", NoStart::NoInterpreter(Some("/no/such/interpreter".to_owned()))),
        ("", NoStart::NotFound),
        ("./plain", NoStart::NotExecutable),
        ("./formless", NoStart::NoFormat),
        ("./dir", NoStart::IsDirectory),
        ("plain/x", NoStart::NotExecutable),
        ("./plain/x", NoStart::NotExecutable),
    ];
    for (name, why) in cases {
        match client.start(run(&[name], &root)) {
            Reply::NotStarted(NotStarted { why: told, .. }) => assert_eq!(told, why, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    match client.start(run(&["true"], &root.join("plain"))) {
        Reply::NotStarted(NotStarted { why, .. }) => assert_eq!(why, NoStart::Directory),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.sh("pwd", &root.join("made/on/the/way")).status, Status::Code(0));
    client.bye();
}

#[test]
fn the_program_is_looked_for_in_the_commands_own_path() {
    let agent = Agent::new();
    let root = agent.root();
    write(&root, "bin/tool", "#!/bin/sh\necho \"$HOME $0 $X\"\n");
    fs::set_permissions(root.join("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut client = agent.session();
    client.hello(60_000);
    client.open(&root, &View::everything());
    let env = [("PATH", "bin:/usr/bin:/bin"), ("X", "y"), ("HOME", "/of/the/image")];
    let env = env.map(|(name, value)| (Blob::from(name.as_bytes()), Blob::from(value.as_bytes())));
    let ended = client.run(Run { env: env.to_vec(), ..run(&["tool"], &root) });
    assert_eq!(ended.stdout(), "/of/the/image bin/tool y\n");
    let ended = client.run(Run { home: Home::OfUser, ..run(&["sh", "-c", "echo $HOME"], &root) });
    assert_eq!(ended.stdout(), "/root\n");
    client.bye();
}

#[test]
fn a_command_has_its_three_descriptors_a_session_of_its_own_and_default_signals() {
    let agent = Agent::new();
    let mut client = agent.synced(&View::everything());
    let ended = client.run(run(&["ls", "/proc/self/fd"], &agent.root()));
    // Beside the three and ls's own there are only the descriptors that the starter of these tests left open.
    let own = std::process::Command::new("ls").arg("/proc/self/fd").output().unwrap();
    assert_eq!(ended.stdout(), String::from_utf8(own.stdout).unwrap());
    let script = "read -r pid comm state ppid pgrp session rest </proc/$$/stat; \
                  [ $pid = $session ] && [ $pid = $pgrp ] && echo own; \
                  umask; readlink /proc/self/fd/0";
    assert_eq!(client.sh(script, &agent.root()).stdout(), "own\n0022\n/dev/null\n");
    let signals = ["-E", "Sig(Ign|Blk|Cgt)", "/proc/self/status"];
    let own = std::process::Command::new("grep").args(signals).output().unwrap();
    let ended = client.run(run(&[&["grep"], &signals[..]].concat(), &agent.root()));
    assert_eq!(ended.stdout(), String::from_utf8(own.stdout).unwrap());
    client.bye();
}

#[test]
fn input_arrives_whole_and_ends() {
    let agent = Agent::new();
    let mut client = agent.synced(&View::everything());
    let cat = Run { stdin: Input::Forwarded, ..run(&["cat"], &agent.root()) };
    assert_eq!(client.start(cat), Reply::Started);
    client.request(&Request::Stdin(Blob::from(b"one\n".as_slice())));
    client.request(&Request::Stdin(Blob::from(b"two\n".as_slice())));
    client.request(&Request::StdinEnd);
    let ended = client.ended();
    assert_eq!((ended.stdout().as_str(), ended.status), ("one\ntwo\n", Status::Code(0)));
    client.bye();
}

#[test]
fn a_command_that_does_not_read_holds_up_no_signal() {
    let agent = Agent::new();
    let mut client = agent.synced(&View::everything());
    let script = "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let run = Run { stdin: Input::Forwarded, ..run(&["sh", "-c", script], &agent.root()) };
    assert_eq!(client.start(run), Reply::Started);
    client.output_until("ready");
    let piece = vec![b'x'; 64 << 10];
    for _ in 0..STDIN_WINDOW / piece.len() {
        client.request(&Request::Stdin(Blob::from(piece.clone())));
    }
    client.request(&Request::Signal(15));
    let ended = client.ended();
    assert!(ended.stdout().contains("caught"), "{ended:?}");
    assert_eq!(ended.status, Status::Code(7));
    client.bye();
}

#[test]
fn signals_reach_the_group_and_kill_reaches_everybody() {
    let agent = Agent::new();
    let mut client = agent.synced(&View::everything());
    assert_eq!(client.start(run(&["sleep", "1000"], &agent.root())), Reply::Started);
    client.request(&Request::Signal(2));
    assert_eq!(client.ended().status, Status::Signal(2));
    let stubborn = format!("trap '' TERM INT; {HIDING}");
    assert_eq!(client.start(run(&["sh", "-c", &stubborn], &agent.root())), Reply::Started);
    let hidden = pid_in(&client.output_until("\n"));
    client.request(&Request::Signal(9));
    assert_eq!(client.ended().status, Status::Signal(9));
    assert!(test_kill_process(hidden).is_err());
    client.bye();
}

#[test]
fn a_terminal_is_one_with_size_signals_and_an_end_of_input() {
    let agent = Agent::new();
    let mut client = agent.synced(&View::everything());
    let script = "tty >/dev/null && echo is a tty; stty size; echo $TERM; \
                  trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done";
    let env = vec![(Blob::from(b"TERM".as_slice()), Blob::from(b"vt100".as_slice()))];
    let on_tty = on_terminal(Run { env, ..run(&["sh", "-c", script], &agent.root()) });
    assert_eq!(client.start(on_tty), Reply::Started);
    assert_eq!(client.output_until("ready\r\n"), "is a tty\r\n30 99\r\nvt100\r\nready\r\n");
    client.request(&Request::Resize(Size { rows: 40, columns: 120 }));
    let ended = client.ended();
    assert!(ended.stdout().contains("40 120"), "{ended:?}");
    assert_eq!(ended.status, Status::Code(5));

    let cat = Run { stdin: Input::Forwarded, ..run(&["cat"], &agent.root()) };
    assert_eq!(client.start(on_terminal(cat.clone())), Reply::Started);
    client.request(&Request::Stdin(Blob::from(b"echoed\n".as_slice())));
    client.request(&Request::StdinEnd);
    let ended = client.ended();
    assert_eq!(ended.status, Status::Code(0), "{ended:?}");
    assert_eq!(ended.stdout(), "echoed\r\nechoed\r\n");

    assert_eq!(client.start(on_terminal(cat)), Reply::Started);
    client.request(&Request::Stdin(Blob::from(b"\x03".as_slice())));
    assert_eq!(client.ended().status, Status::Signal(2));
    client.bye();
}

// ---- products ------------------------------------------------------------------------------------------------------

#[test]
fn what_a_command_made_has_the_near_clocks_time_where_the_far_one_is_another() {
    for ahead in [120, -120_i64] {
        let agent = Agent::new();
        let (root, host) = (agent.root(), agent.host());
        write(&host, "source", "as it was");
        age(&host.join("source"), 1_000_000_000);
        let mut client = agent.synced(&View::everything());
        let command = run(&["sh", "-c", "echo x >made; echo y >dated; touch -d @1500000000 dated"], &root);
        client.run(Run { clock_ahead: ahead * 1_000_000_000, ..command });
        let (changed, _) = client.changes();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
        let told = |name: &str| changed.iter().find(|node| node.path == path(name)).unwrap().mtime.secs;
        let off = now - told("made") - ahead;
        assert!((0..60).contains(&off), "made {off} s ago by the near clock");
        assert_eq!(told("dated"), 1_500_000_000, "a time that the command chose stays");
        let there = fs::metadata(root.join("made")).unwrap().modified().unwrap();
        assert_eq!(there.duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed(), told("made"));
        client.bye();
    }
}

#[test]
fn changes_are_what_the_command_changed() {
    let agent = Agent::new();
    let (root, host) = (agent.root(), agent.host());
    for name in ["edited", "rewritten", "touched", "chmodded", "gone", "dir/gone", "same-stamp", "kept"] {
        write(&host, name, "before");
        age(&host.join(name), 1_000_000_000);
    }
    let mut view = View::everything();
    view.patterns = vec!["ignored".to_owned()];
    write(&root, "ignored/old", "x");
    let mut client = agent.synced(&view);
    let script = "echo after >edited; cat rewritten >t; mv t rewritten; touch touched; chmod 600 chmodded; \
                  rm gone; rm -r dir; mkdir -p new/dir; echo n >new/file; ln -s new link; mkfifo pipe; \
                  printf ofteny >same-stamp; touch -d '2001-09-09 01:46:40.123456789 UTC' same-stamp; \
                  echo y >ignored/new; rm ignored/old";
    let ended = client.sh(script, &root);
    assert_eq!((ended.status, ended.stderr.as_slice()), (Status::Code(0), b"".as_slice()));
    let (changed, deleted) = client.changes();
    let names: Vec<_> = changed.iter().map(|node| node.path.to_string()).collect();
    // Of a source, another time is a change too.
    let wanted = [
        "chmodded",
        "edited",
        "link",
        "new",
        "new/dir",
        "new/file",
        "pipe",
        "rewritten",
        "same-stamp",
        "touched",
    ];
    assert_eq!(names, wanted);
    assert_eq!(deleted, ["dir", "dir/gone", "gone"]);
    assert_eq!(changed[6].kind, NodeKind::Special(Special::Fifo));
    let got = client.want(&[1, 2, 5, 8]);
    let wanted = [("edited", "after\n"), ("link", "-> new"), ("new/file", "n\n"), ("same-stamp", "ofteny")];
    assert_eq!(got, wanted.map(|(path, content)| (path.to_owned(), content.to_owned())));
    client.bye();
}

#[test]
fn named_products_are_compared_with_what_the_host_has() {
    let agent = Agent::new();
    let root = agent.root();
    let view = View::sources(&[], &["out"]);
    let mut client = agent.synced(&view);
    client.sh("mkdir -p out/d; echo a >out/a; echo b >out/d/b; chmod 4711 out/d/b; mkfifo out/p", &root);
    let out = root.join("out");
    let all = client.named(&out, Follow::Itself, None).unwrap();
    let names: Vec<_> = all.iter().map(|node| node.path.to_string()).collect();
    assert_eq!(names, [".", "a", "d", "d/b", "p"]);
    assert_eq!(all[3].mode, 0o4711);
    let got = client.want(&[1, 3]);
    assert_eq!(got, [("a", "a\n"), ("d/b", "b\n")].map(|(a, b)| (a.to_owned(), b.to_owned())));
    assert_eq!(client.want(&[0, 2]).len(), 2);

    // The host has the same, at other times and without set-uid bits.
    let mut summarizer = Summarizer::new(4);
    for node in all.iter().skip(1).filter(|node| !matches!(node.kind, NodeKind::Special(_))) {
        let what = summary::What::of_node(&node.kind);
        summarizer.add(&node.path, what, node.mode & 0o777, fastbuild::entry::Timestamp::default());
    }
    let same = client.named(&out, Follow::Contents, Some(&summarizer.finish())).unwrap();
    assert_eq!(same.iter().map(|node| node.path.to_string()).collect::<Vec<_>>(), ["."]);
    client.bye();
}

#[test]
fn a_named_product_may_be_a_file_a_link_or_nothing() {
    let agent = Agent::new();
    let root = agent.root();
    let mut client = agent.synced(&View::sources(&[], &["lib.so", "link", "p"]));
    client.sh("echo lib >lib.so; ln -s d link; mkdir d; echo x >d/x; mkfifo p", &root);
    let file = client.named(&root.join("lib.so"), Follow::Itself, None).unwrap();
    assert!(
        matches!(file[..], [ref node] if node.path.is_root() && matches!(node.kind, NodeKind::File { size: 4, .. }))
    );
    assert_eq!(client.want(&[0]), [(".".to_owned(), "lib\n".to_owned())]);
    let link = client.named(&root.join("link"), Follow::Itself, None).unwrap();
    assert!(matches!(link[..], [ref node] if matches!(node.kind, NodeKind::Symlink { .. })));
    assert_eq!(client.want(&[0]), [(".".to_owned(), "-> d".to_owned())]);
    let through = client.named(&root.join("link"), Follow::Contents, None).unwrap();
    assert_eq!(through.len(), 2);
    assert_eq!(client.want(&[1]), [("x".to_owned(), "x\n".to_owned())]);
    let fifo = client.named(&root.join("p"), Follow::Itself, None).unwrap();
    assert_eq!(fifo[0].kind, NodeKind::Special(Special::Fifo));
    assert_eq!(client.named(&root.join("lib.so"), Follow::Contents, None), None);
    assert_eq!(client.named(&root.join("none/there"), Follow::Itself, None), None);

    client.request(&Request::Look {
        path: Blob::from(root.join("d/none/there").as_os_str().as_encoded_bytes()),
    });
    match client.reply() {
        Reply::There { directory, names, more } => {
            assert_eq!(&directory[..], root.join("d").as_os_str().as_encoded_bytes());
            assert_eq!((names, more), (vec![Blob::from(b"x".as_slice())], 0));
        }
        other => panic!("{other:?}"),
    }
    client.bye();
}
