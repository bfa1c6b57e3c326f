//! Rules 3, 4, 7 and 8 by chance: builds that are killed at a random moment, on a random route and for a random lifetime, once or twice
//! in a row. Nothing is left of them, and the next build is right. `tests/it/cancellation.rs` and `tests/it/workspace_kills.rs` hold the same
//! at places that are chosen. Some have another build beside them, which comes to no harm.
//!
//! `FASTBUILD_KILLS_SEED` draws another sequence, `FASTBUILD_KILLS_ROUNDS` makes it longer (`cargo xtask kills`).
//! `FASTBUILD_KILLS_ENGINE` is the address of an engine that is one of the victims. A process outside of the test
//! must start it again.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::common::process::{Watchdog, noise, send};
use crate::common::random::Random;
use crate::common::reports;
use crate::common::{Ended, Project, docker, eventually};
use rustix::process::{Pid, Signal, kill_process};

/// Rounds in one project, from an empty workspace on.
const OF_ONE_PROJECT: usize = 20;

/// Files that builds read.
const SOURCES: usize = 30;

const ROUTES: [&str; 5] = ["layer", "tmpfs", "volume", "mount-source", "mount"];
const LIFETIMES: [&str; 2] = ["--keep", "--no-keep"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Client,
    Reaper,
    ClientAndReaper,
    KilledContainer,
    RemovedContainer,
    Engine,
}

/// The last one only where there is one to be killed.
const VICTIMS: [Victim; 6] = [
    Victim::Client,
    Victim::Reaper,
    Victim::ClientAndReaper,
    Victim::KilledContainer,
    Victim::RemovedContainer,
    Victim::Engine,
];

/// Whether there is anything that only the next build finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Perhaps,
}

#[test]
fn whatever_is_killed_and_whenever_nothing_is_left_and_the_next_build_is_right() {
    let said = |name: &str| std::env::var(name).ok().map(|said| said.parse::<u64>().unwrap());
    let rounds = said("FASTBUILD_KILLS_ROUNDS").unwrap_or(5) as usize;
    let seed = said("FASTBUILD_KILLS_SEED").unwrap_or(4);
    println!("FASTBUILD_KILLS_SEED={seed}");
    let mut round = 0;
    while round < rounds {
        let mut sequence = Sequence::new(seed.wrapping_add(round as u64));
        for round in round..rounds.min(round + OF_ONE_PROJECT) {
            sequence.log = format!("FASTBUILD_KILLS_SEED={seed}, round {round}\n");
            sequence.round();
        }
        round += OF_ONE_PROJECT;
    }
}

/// What a build is to be, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct How {
    route: &'static str,
    lifetime: &'static str,
}

impl How {
    fn options(&self, output: &'static str) -> Vec<&'static str> {
        vec!["--route", self.route, self.lifetime, "-o", output]
    }
}

struct Sequence {
    project: Project,
    random: Random,
    /// How long undisturbed builds take.
    lasts: BTreeMap<How, Duration>,
    log: String,
    /// The address of the engine that may be killed.
    engine: Option<String>,
}

/// A failure names its round.
impl Drop for Sequence {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let filter = format!("label=dev.fastbuild.project={}", self.project.key());
            let format = "{{.Names}} {{.Status}}, created {{.RunningFor}}";
            eprintln!("{}", self.log);
            eprintln!("{}", docker(&["ps", "--all", "--format", format, "--filter", &filter]));
        }
    }
}

impl Sequence {
    fn new(seed: u64) -> Sequence {
        let project = Project::kept();
        let engine = std::env::var("FASTBUILD_KILLS_ENGINE").ok();
        let mut sequence =
            Sequence { project, random: Random(seed), lasts: BTreeMap::new(), log: String::new(), engine };
        for number in 0..SOURCES {
            sequence.write_source(number);
        }
        sequence
    }

    fn write_source(&mut self, number: usize) {
        let size = self.random.below(20_000);
        self.project.write(format!("src/{number:02}"), noise(self.random.next(), size));
    }

    fn round(&mut self) {
        let mut left = Left::Nothing;
        for _ in 0..1 + self.random.below(2) {
            self.edit();
            left = self.killed_build(left);
        }
        self.next_build();
    }

    fn edit(&mut self) {
        for output in ["out", "beside"] {
            let _ = fs::remove_dir_all(self.project.path(output));
        }
        for _ in 0..self.random.below(4) {
            let number = self.random.below(SOURCES);
            if self.random.chance(30) {
                let _ = fs::remove_file(self.project.path(format!("src/{number:02}")));
            } else {
                self.write_source(number);
            }
        }
    }

    fn how(&mut self) -> How {
        How { route: self.random.one(&ROUTES), lifetime: self.random.one(&LIFETIMES) }
    }

    /// All sources, one after the other.
    fn made(&self) -> Vec<u8> {
        let mut paths: Vec<_> = fs::read_dir(self.project.path("src")).unwrap().flatten().collect();
        paths.sort_by_key(fs::DirEntry::file_name);
        paths.iter().flat_map(|path| fs::read(path.path()).unwrap()).collect()
    }

    /// In the command lines of what the builds run.
    fn mark(&self) -> String {
        format!("runs-for-ever-{}", self.project.key())
    }

    /// `left` is what the one before may have left.
    fn killed_build(&mut self, left: Left) -> Left {
        let victims = if self.engine.is_some() { &VICTIMS[..] } else { &VICTIMS[..VICTIMS.len() - 1] };
        let (how, victim, is_accompanied) = (self.how(), self.random.one(victims), self.random.chance(30));
        // What it does to the sources beside the outputs must be put right; who is at work beside it sees it until it ends.
        let is_careful = is_accompanied || how.route.starts_with("mount");
        let spoil = if is_careful { "" } else { "echo spoilt > src/00; rm -f src/01;" };
        let mark = self.mark();
        let script = format!(
            "mkdir -p out; rm -rf out/*; cat src/* > out/made; {spoil} seq 1 20000 > out/list; \
             setsid sh -c 'while :; do sleep 1; done; : {mark}' & sleep 0.1"
        );
        let lasts = self.lasts.get(&how).copied().unwrap_or(Duration::from_millis(1500));
        let moment = lasts.mul_f64(self.random.below(1000) as f64 / 1000.0);
        writeln!(self.log, "{how:?}: {victim:?} after {moment:?} of {lasts:?}").unwrap();
        let (before, made) = (self.sources(), self.made());

        let start_beside =
            || self.project.start(&how.options("beside"), "mkdir -p beside; cat src/* > beside/made");
        let beside = is_accompanied.then(start_beside);
        let run = self.project.start(&how.options("out"), &script);
        let _watchdogs: Vec<_> = beside.iter().chain([&run]).map(Watchdog::over).collect();
        // Any moment is the right one.
        std::thread::sleep(moment);
        let reaper = reaper_of(run.id());
        match victim {
            Victim::Client => send(&run, Signal::KILL),
            Victim::Reaper => kill(reaper),
            Victim::ClientAndReaper => {
                kill(reaper);
                send(&run, Signal::KILL);
            }
            Victim::KilledContainer => self.end_containers(&["kill"]),
            Victim::RemovedContainer => self.end_containers(&["rm", "--force"]),
            Victim::Engine => self.kill_engine(),
        }
        let ended = Ended::of(run);
        writeln!(self.log, "{ended}").unwrap();
        let beside = beside.map(Ended::of);
        if victim == Victim::RemovedContainer {
            // A build does not look for the volume of a workspace that was removed from outside.
            for volume in self.project.volumes().iter().filter(|name| name.starts_with("fastbuild-ws-")) {
                let _ = Command::new("docker").args(["volume", "rm", volume]).output().unwrap();
            }
        }
        assert_eq!(self.sources(), before, "a source has changed");
        let is_everybodys =
            matches!(victim, Victim::KilledContainer | Victim::RemovedContainer | Victim::Engine);
        let is_right = |ended: &Ended, output: &str, may_fail: bool| {
            let came_back = fs::read(self.project.path(output)).ok();
            if ended.code == 0 {
                return assert!(came_back.as_ref() == Some(&made), "it says that all is well");
            }
            assert!(may_fail, "an exit code that nobody expects");
            let whole = came_back.is_none_or(|came_back| came_back == made);
            assert!(whole || how.route == "mount", "a part of a product came back");
        };
        let is_killed = ended.code == 137 && matches!(victim, Victim::Client | Victim::ClientAndReaper);
        is_right(&ended, "out/made", is_killed || is_everybodys);
        if let Some(beside) = beside {
            writeln!(self.log, "beside it: {beside}").unwrap();
            is_right(&beside, "beside/made", is_everybodys);
        }
        let has_nobody = match victim {
            Victim::ClientAndReaper => true,
            // One that comes back late finds no reaper any more.
            Victim::Engine => true,
            Victim::Client => reaper.is_none(),
            _ => false,
        };
        if has_nobody {
            return Left::Perhaps;
        }
        // A killed build need not have come to what an earlier one left.
        if left == Left::Nothing {
            if victim != Victim::Reaper {
                // The last thing that a reaper removes, which has more to do where a build failed.
                let runs = || fs::read_dir(self.project.state().join("runs")).into_iter().flatten().count();
                eventually("the reaper is done", || runs() == 0);
            }
            self.nothing_is_left();
        }
        left
    }

    fn end_containers(&self, how: &[&str]) {
        for container in self.project.containers() {
            let _ = Command::new("docker").args(how).arg(container).output().unwrap();
        }
    }

    /// Kills the engine, and waits until another one answers.
    fn kill_engine(&self) {
        let address = format!("\0unix://{}\0", self.engine.as_ref().unwrap().trim_start_matches("unix://"));
        let dockerd = || find(|_, command| command.starts_with("dockerd\0") && command.contains(&address));
        let killed = dockerd();
        assert!(killed.is_some(), "no engine listens at {address:?}");
        kill(killed);
        let answers = || Command::new("docker").arg("version").output().unwrap().status.success();
        eventually("the next engine answers", || {
            dockerd().is_some_and(|now| Some(now) != killed) && answers()
        });
    }

    fn next_build(&mut self) {
        let how = self.how();
        writeln!(self.log, "{how:?}: nobody").unwrap();
        let _ = fs::remove_dir_all(self.project.path("out"));
        let list = reports::LIST.replace("-mindepth 1", "-mindepth 1 ! -path './out*'");
        let began = Instant::now();
        let script = format!("mkdir -p out; rm -rf out/*; cat src/* > out/made; {list}");
        let ended = self.project.sh(&how.options("out"), &script);
        self.lasts.insert(how, began.elapsed());
        writeln!(self.log, "{ended}").unwrap();
        ended.exits(0);
        let mut host = Command::new("busybox");
        host.args(["sh", "-c", &list]).current_dir(self.project.root()).env_clear().stdin(Stdio::null());
        assert_eq!(ended.out(), Ended::from(host.output().unwrap()).exits(0).out(), "another tree");
        assert!(fs::read(self.project.path("out/made")).unwrap() == self.made(), "another product");
        assert!(!self.project.has("out/list"), "of an earlier build");
        self.nothing_is_left();
        // One for each of the routes, and none that no build takes up.
        let names: Vec<_> = self.project.workspaces().into_iter().map(|(_, name)| name).collect();
        assert!(names.len() <= 3 && names.iter().all(|name| !name.ends_with("-old")), "{names:?}");
    }

    fn sources(&self) -> BTreeMap<Vec<u8>, crate::common::Node> {
        let mut tree = self.project.tree().0;
        // The next run clears away what lies beside the outputs for a while.
        let others: [&[u8]; 3] = [b"out", b"beside", b".fastbuild-stage-"];
        tree.retain(|path, _| !others.iter().any(|name| path.starts_with(name)));
        tree
    }

    fn nothing_is_left(&self) {
        // One-run containers go by themselves, a moment later.
        let once = |id: &String| self.project.workspaces().iter().all(|(workspace, _)| workspace != id);
        eventually("one-run containers are gone", || !self.project.containers().iter().any(once));
        // A workspace that no later build came to misses its client by itself.
        let is_idle = |(id, _): &(String, String)| crate::common::processes_in(id).len() <= 1;
        eventually("nothing runs in workspaces", || self.project.workspaces().iter().all(is_idle));
        self.project.assert_nothing_left();
        let mark = self.mark();
        let lines = || {
            fs::read_dir("/proc")
                .unwrap()
                .flatten()
                .filter_map(|pid| fs::read(pid.path().join("cmdline")).ok())
        };
        let left: Vec<_> = lines().map(|line| String::from_utf8_lossy(&line).into_owned()).collect();
        let left: Vec<_> = left.into_iter().filter(|line| line.contains(&mark)).collect();
        assert_eq!(left, [""; 0], "processes are left");
    }
}

/// The reaper of the fastbuild with process id `parent`, where it has one already, or still.
fn reaper_of(parent: u32) -> Option<Pid> {
    find(|status, command| {
        command.contains("\0__reap\0") && status.lines().any(|line| line == format!("PPid:\t{parent}"))
    })
}

/// A process by what `/proc` has of it: its status, and its command line.
fn find(is_it: impl Fn(&str, &str) -> bool) -> Option<Pid> {
    let is_it = |pid: &i32| {
        let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        is_it(&of("status"), &of("cmdline"))
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Pid::from_raw(pids.find(is_it)?)
}

fn kill(process: Option<Pid>) {
    if let Some(process) = process {
        // It may just have ended.
        let _ = kill_process(process, Signal::KILL);
    }
}
