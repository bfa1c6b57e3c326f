//! `fastbuild doctor`: what it finds on this machine, with the real engine and real mounts, and how it ends. The facts of
//! other machines are rows of the tables in `src/doctor/tests.rs`.

use std::{
    fs, io,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::Command,
};

use crate::common::{Ended, Project, Tree, docker, eventually};
use serde_json::Value;
use testutils::mounts::SlowMount;

/// `fastbuild doctor ARGS…` beside the project, without an image or any other setting.
fn doctor(project: &Project, args: &[&str]) -> Ended {
    let mut command = project.command();
    command.env_remove("FASTBUILD_IMAGE").current_dir(project.outside());
    let root = project.root();
    Ended::from(command.arg("doctor").arg("-C").arg(root).args(args).output().unwrap())
}

#[track_caller]
fn json(ended: &Ended) -> Value {
    assert_eq!(ended.err(), "");
    serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| panic!("{error}\n{ended}"))
}

/// Severity and text of what was found about `topic`.
#[track_caller]
fn found(report: &Value, topic: &str) -> (String, String) {
    let all = report["findings"].as_array().unwrap();
    let one = all.iter().find(|finding| finding["topic"] == topic);
    let one = one.unwrap_or_else(|| panic!("nothing about {topic}: {report:#}"));
    let text = |key: &str| one[key].as_str().unwrap_or_default();
    (text("severity").to_owned(), [text("what"), text("why"), text("do")].join(" | "))
}

#[test]
fn this_machine_is_described_as_it_is_and_nothing_is_touched() {
    let project = Project::new();
    project.write("Gemfile", "");
    let before = Tree::of(&project.outside());
    let ended = doctor(&project, &["--json"]);
    let report = json(&ended);
    ended.exits(0);
    assert_eq!(report["advice"], 0);
    let told = docker(&["info", "--format", "{{.ServerVersion}} {{.Driver}} {{.DockerRootDir}} {{.NCPU}}"]);
    let engine = &report["engine"];
    let text = |key: &str| engine[key].as_str().unwrap();
    let found = [text("version"), text("storage_driver"), text("root_dir"), &engine["cpus"].to_string()];
    assert_eq!(found.join(" "), told.trim());
    assert_eq!((text("whereabouts"), text("kind"), text("rights")), ("here", "docker", "root"));
    assert_eq!((&report["source"]["answers"], &report["source"]["case"]), (&true.into(), &"kept".into()));
    let source = report["source"]["path"].as_str().unwrap();
    assert_eq!(source, project.root().canonicalize().unwrap().to_str().unwrap());
    assert_eq!(report["source"]["file_system"]["crosses"], false);
    assert_eq!(Tree::of(&project.outside()), before);
}

#[test]
fn text_says_on_standard_output_what_json_says() {
    let project = Project::new();
    let report = json(&doctor(&project, &["--json"]));
    let ended = doctor(&project, &[]);
    ended.exits(0);
    let told = ended.out();
    assert!(told.ends_with("\n\nnothing to advise\n") && ended.stderr.is_empty(), "{ended}");
    let squeezed = told.split_whitespace().collect::<Vec<_>>().join(" ");
    for finding in report["findings"].as_array().unwrap() {
        // How much is free changes between two looks.
        if finding["topic"] != "space" {
            assert!(squeezed.contains(finding["what"].as_str().unwrap()), "{told} lacks {finding}");
        }
    }
    assert!(told.lines().all(|line| line.chars().count() <= 100), "{told}");
}

#[test]
fn the_keys_of_the_report_are_those_that_are_promised() {
    let project = Project::new();
    let report = json(&doctor(&project, &["--json"]));
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(keys(&report), "advice engine file_sharing findings machine rooms source");
    assert_eq!(keys(&report["machine"]), "arch ci id kernel os virtualization wsl");
    assert_eq!(keys(&report["source"]), "answers case file_system path");
    assert_eq!(keys(&report["source"]["file_system"]), "class crosses device kind mount_point");
    assert_eq!(
        keys(&report["engine"]),
        "address answers api arch backing cgroup_version cpus images isolation kernel kind memory name os rights \
         root_dir storage_driver system version whereabouts"
    );
    assert_eq!(keys(&report["findings"][0]), "do severity topic what why");
    assert_eq!(keys(&report["rooms"][0]), "free path total what_for");
    let none = json(&doctor(&project, &["--json", "-H", "unix:///nowhere.sock"]));
    assert_eq!(keys(&none), keys(&report));
    assert_eq!(keys(&none["engine"]), "address answers");
}

#[test]
fn no_engine_is_a_finding_and_no_failure() {
    let project = Project::new();
    let ended = doctor(&project, &["--json", "-H", "unix:///nowhere.sock"]);
    ended.exits(1);
    let report = json(&ended);
    let (severity, said) = found(&report, "engine");
    assert!(severity == "advice" && said.contains("unix:///nowhere.sock does not exist"), "{said}");
    assert_eq!((&report["advice"], &report["engine"]["answers"]), (&1.into(), &false.into()));
    let ended = doctor(&project, &["-H", "ssh://me@builder"]);
    ended.exits(1);
    assert!(ended.out().contains("ADVICE  engine") && ended.out().contains("ssh -nNT"), "{ended}");
    assert!(ended.out().ends_with("\n1 piece of advice\n"), "{ended}");
}

#[test]
fn an_engine_that_never_answers_is_waited_for_no_longer_than_the_limit() {
    let project = Project::new();
    let socket = project.outside().join("silent.sock");
    // Connections queue up here, and no process accepts them.
    let _silent = UnixListener::bind(&socket).unwrap();
    let ended = doctor(&project, &["-H", &format!("unix://{}", socket.to_str().unwrap())]);
    ended.exits(1);
    let told = ended.out().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(told.contains("silent.sock did not answer within 10 s"), "{ended}");
}

#[test]
fn wrong_settings_are_a_failure_of_fastbuilds_own() {
    let project = Project::new();
    project.write("fastbuild.toml", "imgae = 'x'");
    doctor(&project, &[]).exits(125).says(&["imgae"]);
    let ended = doctor(&project, &["-C", "/not/there"]);
    ended.exits(125).says(&["\"/not/there\" does not exist"]);
    assert!(ended.stdout.is_empty(), "{ended}");
    doctor(&project, &["--", "make"]).exits(125);
}

#[test]
fn the_engine_that_the_settings_name_is_the_one_that_is_looked_at() {
    let project = Project::new();
    project.write("fastbuild.toml", "host = 'unix:///from/the/file.sock'");
    let report = json(doctor(&project, &["--json"]).exits(1));
    assert_eq!(report["engine"]["address"], "unix:///from/the/file.sock");
}

#[test]
fn ci_is_told_and_is_nothing_wrong() {
    let project = Project::new();
    let mut command = project.command();
    command.arg("doctor").arg("--json").env("CI", "true").env("GITLAB_CI", "true");
    let ended = Ended::from(command.output().unwrap());
    let report = json(ended.exits(0));
    assert_eq!(report["machine"]["ci"], "gitlab");
    let (severity, said) = found(&report, "ci");
    assert!(severity == "note" && said.contains("GitLab CI") && said.contains("for one run"), "{said}");
}

/// A project whose source root is a mount of a directory beside it.
fn on(mount: fn(&Path, &Path) -> io::Result<SlowMount>) -> (SlowMount, Project) {
    let project = Project::new();
    let backing = project.outside().join("backing");
    fs::create_dir(&backing).unwrap();
    fs::write(backing.join("Gemfile"), "").unwrap();
    (mount(&backing, &project.root()).unwrap(), project)
}

#[test]
fn sources_on_a_slow_mount_are_advised_against_with_the_figure() {
    for (mount, class, figure) in
        [(SlowMount::bindfs as fn(&_, &_) -> _, "fuse", "7.1 s"), (SlowMount::sshfs, "network", "11.3 s")]
    {
        let (mounted, project) = on(mount);
        let ended = doctor(&project, &["--json"]);
        let report = json(ended.exits(1));
        let file_system = &report["source"]["file_system"];
        assert_eq!((&file_system["class"], &file_system["crosses"]), (&class.into(), &true.into()));
        let at = mounted.path().canonicalize().unwrap();
        assert_eq!(file_system["mount_point"], at.to_str().unwrap());
        let (severity, said) = found(&report, "source");
        assert!(severity == "advice" && said.contains(figure) && said.contains("--route layer"), "{said}");
        assert_eq!((&report["advice"], &report["source"]["case"]), (&1.into(), &"kept".into()));
    }
}

#[test]
fn sources_on_a_mount_that_hangs_are_a_finding_and_hold_up_nothing() {
    let (mounted, project) = on(SlowMount::sshfs);
    project.write("sub/file", "");
    mounted.freeze().unwrap();
    // Its end is awaited too, which a thread inside of the file system would never let come.
    let ended = doctor(&project, &["--json"]);
    let report = json(ended.exits(1));
    let (severity, said) = found(&report, "source");
    assert_eq!(severity, "advice");
    let at = project.root();
    let expected =
        format!("the file system of {at:?} (fuse.sshfs, mounted at {at:?}) did not answer within 10 s");
    assert!(said.contains(&expected), "{said}");
    assert_eq!((&report["source"]["answers"], &report["engine"]["answers"]), (&false.into(), &true.into()));
    assert!(
        report["rooms"].as_array().unwrap().iter().all(|room| room["what_for"] != "source"),
        "{report:#}"
    );
    // What was left waiting goes as soon as it is answered.
    mounted.thaw().unwrap();
    eventually("the process that asked has ended", || asking(&project) == 0);
    let ended = doctor(&project, &["--json"]);
    assert_eq!(json(ended.exits(1))["source"]["answers"], true);
}

/// How many processes ask for the project's source root.
fn asking(project: &Project) -> usize {
    let wanted = format!("__ask\0{}\0", project.root().to_str().unwrap());
    let all = fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).ends_with(&wanted)).count()
}

/// A mount that no process serves any more, and that stays one until it is unmounted.
struct Dead(PathBuf);

impl Drop for Dead {
    fn drop(&mut self) {
        Command::new("fusermount3").args(["-u", "-z"]).arg(&self.0).output().ok();
    }
}

#[test]
fn a_mount_whose_far_end_has_died_is_a_finding() {
    let (mounted, project) = on(SlowMount::bindfs);
    let _dead = Dead(mounted.path().to_owned());
    let server = mounted.server_pids()[0].to_string();
    assert!(Command::new("kill").args(["-KILL", &server]).status().unwrap().success());
    eventually("the mount is dead", || fs::read_dir(project.root()).is_err());
    let report = json(doctor(&project, &["--json"]).exits(1));
    let (severity, said) = found(&report, "source");
    assert!(severity == "advice" && said.contains("does not work: "), "{said}");
    assert_eq!(report["source"]["answers"], false);
}
