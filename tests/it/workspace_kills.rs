//! Rules 4, 7, 8 and 9 in a workspace: whatever is killed, and whenever, the host is as it was or as the build made it,
//! nothing of the build runs any more, and the next plain run is right.
//!
//! Nothing here is a matter of time. The dialogue with the agent passes through a proxy that holds it back at a place
//! ([`Held`]), so that both ends stand there when one of them is killed.

use std::{
    os::fd::OwnedFd,
    process::Command,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use crate::common::dialogue::{Held, Place};
use crate::common::process;
use crate::common::process::Watched;
use crate::common::proxy::{Fault, Proxy, Then, Which};
use crate::common::reports;
use crate::common::tracer::Traced;
use crate::common::{Ended, Project, Tree, docker, eventually, processes_in};
use fastbuild::agent::protocol::{Reply, Request};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal},
};

/// The places at which the dialogue is held, in order.
const PLACES: [(&str, Place); 12] = [
    ("while both ends are scanned", Place::Reply(|reply| matches!(reply, Reply::Opened { .. }))),
    ("while the trees are compared", Place::Reply(|reply| matches!(reply, Reply::Differing { .. }))),
    ("before the upload", Place::Request(|request| matches!(request, Request::Apply { .. }))),
    ("in the middle of the upload", Place::DataUp(SOME)),
    ("before what went up is settled", Place::Request(|request| matches!(request, Request::Settle { .. }))),
    ("after the upload", Place::Reply(|reply| matches!(reply, Reply::Applied))),
    ("before the command", Place::Request(|request| matches!(request, Request::Run(_)))),
    ("while the command runs", Place::Output),
    ("after the command", Place::Reply(|reply| matches!(reply, Reply::Exited { .. }))),
    ("while the products are listed", Place::Reply(|reply| matches!(reply, Reply::Products(_)))),
    ("in the middle of the products", Place::DataDown(SOME)),
    ("at the end of the products", Place::EndOfData(SOME)),
];

/// The size of the largest source and product; more than lists amount to.
const LARGE: usize = 200_000;
/// In the middle of it.
const SOME: usize = LARGE / 2;

/// In the command line of what a build leaves running.
const MARK: &str = "runs-for-ever";

/// Changes, makes and deletes something, and has a process beside it that would go on for ever.
const SCRIPT: &str = "echo changed > source; cp large made; rm -f old; \
                      setsid sh -c 'while :; do sleep 1; done' runs-for-ever & echo ready";

/// A project with a workspace in which one build has run.
struct Kept {
    project: Project,
    proxy: Proxy,
}

impl Kept {
    fn new() -> Kept {
        let kept = Kept::unbuilt();
        kept.next_run("the first build");
        kept
    }

    /// One without a workspace.
    fn unbuilt() -> Kept {
        let project = Project::kept();
        let proxy = Proxy::new(&project.outside());
        let kept = Kept { project, proxy };
        kept.edit("the first build");
        kept
    }

    /// Gives the sources other contents, so that something has to go up.
    fn edit(&self, what: &str) {
        let project = &self.project;
        for product in ["made", "next"] {
            let _ = std::fs::remove_file(project.path(product));
        }
        let seed = what.bytes().fold(7, |seed, byte| seed * 31 % 1_000_003 + u64::from(byte));
        project.write("source", format!("text for {what}")).write("old", format!("old for {what}"));
        project.write("dir/same", "text").write("large", process::noise(seed, LARGE));
    }

    /// Starts a build and comes back when it stands at `place`.
    fn stand_at(&self, (what, place): (&str, Place)) -> Standing<'_> {
        self.edit(what);
        let before = self.project.tree();
        let held = Held::next(&self.proxy, place);
        let tail = if matches!(place, Place::Output) { "; exec sleep 1000" } else { "" };
        let run = Watched::start(&self.project, &["-H", &self.proxy.address()], &format!("{SCRIPT}{tail}"));
        held.reached();
        Standing {
            kept: self,
            what: what.to_owned(),
            before,
            held,
            reaper: Reaper::of(run.child().id()),
            run: Some(run),
        }
    }

    /// The next plain run succeeds; its command sees the host's tree and nothing of an earlier command, and what it makes
    /// comes back, and nothing else.
    #[track_caller]
    fn next_run(&self, what: &str) {
        self.next_run_at(&["-H", &self.proxy.address()], what);
    }

    /// The same with these options.
    #[track_caller]
    fn next_run_at(&self, options: &[&str], what: &str) {
        let project = &self.project;
        let look = format!("grep -ls '[r]{}' /proc/[0-9]*/cmdline; {}", &MARK[1..], reports::LIST);
        let ended = reports::json(project, options, &format!("{look}; cat source large > next"));
        ended.exits(0);
        assert_eq!(reports::event(&ended, "finished")["applied"]["written"], 1, "{what}: {ended}");
        let made = [project.read("source"), project.read("large")].concat();
        assert!(project.read("next") == made, "{what}: the next build's product is another one\n{ended}");
        std::fs::remove_file(project.path("next")).unwrap();
        assert_eq!(ended.out(), reports::host_list(project), "{what}: {}", ended.err());
    }
}

/// A build that stands at a place.
struct Standing<'a> {
    kept: &'a Kept,
    what: String,
    before: Tree,
    held: Arc<Held>,
    reaper: Reaper,
    run: Option<Watched>,
}

/// A request that is kept from the engine for a while.
struct Stopped {
    came: mpsc::Receiver<()>,
    go_on: mpsc::Sender<()>,
}

impl Stopped {
    /// Stops the next request of its kind.
    fn next(proxy: &Proxy, method: &'static str, part: &'static str) -> Stopped {
        let ((come, came), (go_on, gate)) = (mpsc::channel(), mpsc::channel());
        let gate = Mutex::new(gate);
        let stop = move |_: &str| {
            come.send(()).unwrap();
            gate.lock().unwrap().recv().unwrap();
        };
        proxy.on(method, part, Which::Nth(1), Fault::First(Arc::new(stop)));
        Stopped { came, go_on }
    }

    fn came(&self) {
        self.came.recv_timeout(Duration::from_secs(60)).expect("the request");
    }

    fn go_on(self) {
        self.go_on.send(()).unwrap();
    }
}

/// A process that is watched after its parent's death.
struct Reaper(OwnedFd);

impl Reaper {
    /// The reaper that the fastbuild with process id `parent` started.
    #[track_caller]
    fn of(parent: u32) -> Reaper {
        let is_reaper = |pid: &u32| {
            let of = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let is_child = of("status").lines().any(|line| line == format!("PPid:\t{parent}"));
            is_child && of("cmdline").contains("\0__reap\0")
        };
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let pid = pids.find(is_reaper).expect("a reaper");
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        Reaper(pidfd_open(pid, PidfdFlags::empty()).unwrap())
    }

    fn kill(&self) {
        pidfd_send_signal(&self.0, Signal::KILL).unwrap();
        self.end();
    }

    /// Waits for its end.
    fn end(&self) {
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None).unwrap();
    }
}

impl Standing<'_> {
    fn run(&self) -> &Watched {
        self.run.as_ref().unwrap()
    }

    /// Waits for fastbuild's end.
    #[track_caller]
    fn end(&mut self) -> Ended {
        self.run.take().unwrap().end()
    }

    /// The host has what it had, but for what is being staged.
    #[track_caller]
    fn host_is_as_it_was(&self) {
        assert_eq!(self.host(), self.before, "{}", self.what);
    }

    /// The host has what it had when the build failed, and all products when it did not.
    #[track_caller]
    fn host_is_as_told(&self, ended: &Ended) {
        match ended.code {
            0 => assert!(self.host_has_all(), "{}: {:?}", self.what, self.host()),
            _ => self.host_is_as_it_was(),
        }
    }

    fn host(&self) -> Tree {
        let mut now = self.kept.project.tree();
        now.0.retain(|path, _| !path.starts_with(b".fastbuild-stage-"));
        now
    }

    /// Whether the host has exactly what the build made of it.
    fn host_has_all(&self) -> bool {
        let (mut now, mut then) = (self.host(), self.before.clone());
        for tree in [&mut now, &mut then] {
            // Products have times of their own.
            tree.0.values_mut().for_each(|node| node.mtime = 0);
        }
        let large = then.0[b"large".as_slice()].clone();
        then.0.insert(b"made".to_vec(), large);
        then.0.remove(b"old".as_slice());
        then.0.get_mut(b"source".as_slice()).unwrap().content = b"changed\n".to_vec();
        now == then
    }

    /// Whether each file of the host's is wholly the old or wholly the new one.
    fn host_is_whole(&self) -> bool {
        let old = |name: &str| self.before.0.get(name.as_bytes()).map(|node| node.content.clone());
        let large = old("large");
        let may_be = |name: &str| match name {
            "source" => vec![old(name), Some(b"changed\n".to_vec())],
            "made" => vec![None, large.clone()],
            "old" => vec![old(name), None],
            _ => vec![old(name)],
        };
        let now = self.host();
        let is_now = |name: &str| now.0.get(name.as_bytes()).map(|node| node.content.clone());
        let names = ["dir", "dir/same", "large", "made", "old", "source"];
        names.iter().all(|name| may_be(name).contains(&is_now(name)))
            && now.paths().iter().all(|path| names.contains(&&**path))
    }
}

#[test]
fn fastbuild_is_killed_at_each_place_and_its_reaper_tidies_up() {
    let kept = Kept::new();
    for place in PLACES {
        let mut at = kept.stand_at(place);
        at.run().signal(Signal::KILL);
        at.end().exits(137);
        at.held.then(Then::Cut);
        kept.next_run(place.0);
        at.reaper.end();
        at.host_is_as_it_was();
        kept.project.assert_nothing_left_here();
    }
    kept.project.assert_nothing_left();
}

#[test]
fn fastbuild_is_killed_with_its_reaper_at_each_place_and_the_next_run_tidies_up() {
    let kept = Kept::new();
    for place in PLACES {
        let mut at = kept.stand_at(place);
        at.reaper.kill();
        at.run().signal(Signal::KILL);
        at.end().exits(137);
        at.held.then(Then::Cut);
        at.host_is_as_it_was();
        kept.next_run(place.0);
        kept.project.assert_nothing_left_here();
    }
    kept.project.assert_nothing_left();
}

#[test]
fn the_connection_is_cut_at_each_place() {
    let kept = Kept::new();
    for place in PLACES {
        let mut at = kept.stand_at(place);
        at.held.then(Then::Cut);
        at.end().exits(125);
        at.host_is_as_it_was();
        kept.project.assert_nothing_left();
        kept.next_run(place.0);
    }
}

#[test]
fn fastbuild_is_told_to_end_at_each_place() {
    let kept = Kept::new();
    for place in PLACES {
        let mut at = kept.stand_at(place);
        at.run().signal(Signal::TERM);
        let is_the_commands = matches!(place.0, "while the command runs" | "after the command");
        if is_the_commands {
            // It has its end before it, or behind it.
            at.held.then(Then::GoOn);
        }
        let ended = at.end();
        assert!(ended.code == 143 || is_the_commands && ended.code == 0, "{}: {ended}", place.0);
        at.held.then(Then::Cut);
        at.host_is_as_told(&ended);
        kept.project.assert_nothing_left();
        if is_the_commands && ended.code != 0 {
            // What a command made that ended by itself stays for the next one.
            kept.project.fastbuild(["clean", "--all"]).exits(0);
        }
        kept.next_run(place.0);
    }
}

#[test]
fn the_session_is_killed_at_each_place() {
    the_workspace_ends_at_each_place(|workspace| {
        kill_process(session_in(workspace), Signal::KILL).unwrap();
        // The workspace's first process does not outlive a session that was killed.
        docker(&["wait", workspace]);
    });
}

#[test]
fn the_container_is_killed_at_each_place() {
    the_workspace_ends_at_each_place(|workspace| drop(docker(&["kill", workspace])));
}

fn the_workspace_ends_at_each_place(end: impl Fn(&str)) {
    let kept = Kept::new();
    for place in PLACES {
        let mut at = kept.stand_at(place);
        end(&kept.project.workspace().unwrap());
        at.held.then(Then::GoOn);
        let ended = at.end();
        at.host_is_as_told(&ended);
        kept.next_run(place.0);
        kept.project.assert_nothing_left_here();
    }
    kept.project.assert_nothing_left();
}

#[test]
fn the_engine_is_gone_at_each_place_and_comes_back() {
    let mut kept = Kept::new();
    for place in PLACES {
        let mut at = kept.stand_at(place);
        kept.proxy.die();
        at.held.then(Then::Cut);
        at.end().exits(125);
        at.host_is_as_it_was();
        let reaper = at.reaper;
        // As after a restart: at the same address.
        kept.proxy = Proxy::new(&kept.project.outside());
        kept.next_run(place.0);
        reaper.end();
        kept.project.assert_nothing_left_here();
    }
    kept.project.assert_nothing_left();
}

/// Killed before the journal is there, and before each change that it makes from then on.
#[test]
fn fastbuild_is_killed_before_each_of_its_steps_on_the_host() {
    let is_journal = |call: &str| call.starts_with("rename") && call.ends_with("/journal");
    let kept = Kept::new();
    let mut in_between = 0;
    for nth in 0.. {
        let mut at = kept.stand_at(("at the end of the products", Place::EndOfData(SOME)));
        let traced = Traced::kill_before(at.run().child(), is_journal, nth);
        // By turns the next run finishes what was begun, and the reaper.
        let reaper_too = nth % 2 == 0;
        if reaper_too {
            at.reaper.kill();
        }
        at.held.then(Then::GoOn);
        let ended = at.end();
        let mut calls = traced.calls();
        let killed = if calls.len() > nth { calls.pop() } else { None };
        let what = format!("killed before {killed:?}, after {calls:?}");
        if reaper_too {
            assert!(at.host_is_whole(), "{what}: {:?}", at.host());
            in_between += usize::from(!at.host_has_all() && at.host() != at.before);
        }
        kept.next_run(&what);
        at.reaper.end();
        kept.project.assert_nothing_left_here();
        match nth {
            0 => at.host_is_as_it_was(),
            _ => assert!(at.host_has_all(), "{what}: {:?}", at.host()),
        }
        if killed.is_none() {
            ended.exits(0);
            break;
        }
        ended.exits(137);
    }
    assert!(in_between > 0, "no kill came between two steps");
    kept.project.assert_nothing_left();
}

/// The products are in place, and only the goodbye is missing.
#[test]
fn a_build_whose_goodbye_is_lost_has_not_failed() {
    let kept = Kept::new();
    type End = fn(&Standing);
    let ends: [(&str, End); 2] = [
        ("the connection is cut", |_| {}),
        ("the container is killed", |at| drop(docker(&["kill", &at.kept.project.workspace().unwrap()]))),
    ];
    for (what, end) in ends {
        let mut at = kept.stand_at((what, Place::Reply(|reply| matches!(reply, Reply::Closing { .. }))));
        at.run
            .as_mut()
            .unwrap()
            .until("the products", |event| event["event"] == "phase-ended" && event["phase"] == "apply");
        end(&at);
        at.held.then(Then::Cut);
        let ended = at.end();
        ended.exits(0);
        assert_eq!(reports::event(&ended, "finished")["applied"]["written"], 2, "{what}: {ended}");
        assert!(at.host_has_all(), "{what}: {:?}", at.host());
        kept.next_run(what);
        at.reaper.end();
        kept.project.assert_nothing_left_here();
    }
    kept.project.assert_nothing_left();
}

/// The engine does what it was asked for after the death of who asked.
#[test]
fn fastbuild_is_killed_while_its_workspace_is_made() {
    for (method, part) in [("POST", "/containers/create"), ("PUT", "/archive"), ("POST", "/start")] {
        let kept = Kept::unbuilt();
        let request = Stopped::next(&kept.proxy, method, part);
        let run = Watched::start(&kept.project, &["-H", &kept.proxy.address()], SCRIPT);
        request.came();
        let reaper = Reaper::of(run.child().id());
        run.signal(Signal::KILL);
        run.end().exits(137);
        request.go_on();
        kept.next_run(part);
        reaper.end();
        kept.project.assert_nothing_left();
    }
}

/// The first signal is for the command, the second one kills it, and neither of them is heard of.
#[test]
fn whoever_asks_a_third_time_does_not_wait_for_a_connection_that_stands_still() {
    let kept = Kept::new();
    let mut at = kept.stand_at(("while the command runs", Place::Output));
    at.run.as_mut().unwrap().insists(Signal::INT);
    at.end().exits(130);
    at.host_is_as_it_was();
    at.held.then(Then::Cut);
    at.reaper.end();
    kept.project.assert_nothing_left();
    kept.next_run("the connection moves again");
}

/// The reaper's first question is not answered; it has finished what it does on the host by then.
#[test]
fn while_its_engine_does_not_answer_a_reaper_keeps_no_run_waiting() {
    let kept = Kept::new();
    let mut at = kept.stand_at(("while the command runs", Place::Output));
    let question = Stopped::next(&kept.proxy, "GET", "/_ping");
    at.run().signal(Signal::KILL);
    at.end().exits(137);
    at.held.then(Then::Cut);
    question.came();
    // By the engine's own socket.
    kept.next_run_at(&["--no-wait"], "by another way");
    question.go_on();
    at.reaper.end();
    at.host_is_as_it_was();
    kept.project.assert_nothing_left();
}

/// Neither client nor engine can tell the agent that its client is dead: it misses the client by itself.
#[test]
fn nothing_runs_on_when_client_and_engine_do_not_meet_again() {
    let mut kept = Kept::new();
    let mut at = kept.stand_at(("while the command runs", Place::Output));
    let workspace = kept.project.workspace().unwrap();
    // A process that a user starts there by hand to look around. It is not one of the build's.
    let mut witness = Command::new("docker");
    let mut witness = witness.args(["exec", &workspace, "sleep", "1000"]).spawn().unwrap();
    eventually("the witness runs", || processes_in(&workspace).contains(&"sleep 1000".to_owned()));
    kept.proxy.die();
    at.reaper.kill();
    at.held.then(Then::Cut);
    at.end().exits(125);
    at.host_is_as_it_was();
    let others = ["/.fastbuild/agent init", "sleep 1000"];
    eventually("the last of the build's is gone", || processes_in(&workspace) == others);
    kill_process(process_in(&workspace, "sleep 1000"), Signal::KILL).unwrap();
    witness.wait().unwrap();
    kept.proxy = Proxy::new(&kept.project.outside());
    kept.next_run("the engine is back");
    kept.project.assert_nothing_left();
}

/// What lies in the stream makes another session begin. The next run does not wait for that session.
#[test]
fn what_a_dead_client_left_unread_is_not_waited_for() {
    let kept = Kept::new();
    let mut at = kept.stand_at(("before the upload", PLACES[2].1));
    let session = session_in(&kept.project.workspace().unwrap());
    kill_process(session, Signal::STOP).unwrap();
    at.held.then(Then::GoOn);
    let stdin = std::fs::File::open(format!("/proc/{}/fd/0", session.as_raw_pid())).unwrap();
    eventually("something is there to be read", || rustix::io::ioctl_fionread(&stdin).unwrap() > 0);
    drop(stdin);
    at.reaper.kill();
    at.run().signal(Signal::KILL);
    at.end().exits(137);

    kept.next_run("the next run");
    at.host_is_as_it_was();
    kept.project.assert_nothing_left();
}

/// The process of the workspace that serves the client, as this machine counts it.
fn session_in(workspace: &str) -> Pid {
    process_in(workspace, " session")
}

fn process_in(workspace: &str, command: &str) -> Pid {
    let top = docker(&["top", workspace, "-eo", "pid,args"]);
    let found = top.lines().find(|line| line.ends_with(command)).expect("it runs");
    let pid = found.split_whitespace().next().unwrap().parse().unwrap();
    Pid::from_raw(pid).unwrap()
}
