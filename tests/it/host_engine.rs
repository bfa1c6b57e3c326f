//! Builds without a container, on a machine that has no engine as far as they know: the same promises as in one, and those
//! that a directory and a child process have to keep by themselves.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::common::process::{FASTBUILD, Gated, Watched, beside, noise};
use crate::common::pty::Pty;
use crate::common::reports::{event, json, uploaded};
use crate::common::small_disk::SmallDisk;
use crate::common::{Ended, Project, Tree, eventually};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A command that says `ready`, and then waits without end in steps short enough for traps to be looked at.
const WAIT: &str = "echo ready; while :; do sleep 0.05; done";

/// The command lines of this machine's processes that name `marker`, each with its number.
fn processes(marker: &str) -> Vec<(i32, String)> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let lines = pids.filter_map(|pid: i32| Some((pid, fs::read(format!("/proc/{pid}/cmdline")).ok()?)));
    let text = lines.map(|(pid, line)| (pid, String::from_utf8_lossy(&line).replace('\0', " ")));
    text.filter(|(_, line)| line.contains(marker)).collect()
}

/// The agents of this project's builds: what runs a program in its scratch directories.
fn agents(project: &Project, face: &str) -> Vec<i32> {
    let is_ours = |pid: &i32| {
        let program = fs::read_link(format!("/proc/{pid}/exe"));
        program.is_ok_and(|program| program.starts_with(project.outside()))
    };
    processes(face).into_iter().map(|(pid, _)| pid).filter(is_ours).collect()
}

/// A word that no other test's processes have in their command lines.
fn marker(project: &Project) -> String {
    format!("marker-{}", project.key())
}

#[track_caller]
fn nothing_runs(project: &Project) {
    eventually("the end of all processes of the build", || {
        processes(&marker(project)).is_empty() && agents(project, "").is_empty()
    });
}

fn project() -> Project {
    let project = Project::here();
    project.write("a", "one").write("sub/b", "two");
    project
}

// ---- the promises of every build -----------------------------------------------------------------------------------

#[test]
fn sources_go_in_products_come_back_and_the_exit_code_is_the_commands() {
    let project = project();
    symlink("a", project.path("link")).unwrap();
    fs::create_dir(project.path("empty")).unwrap();
    let script =
        "cat a sub/b link; test -d empty; rm a; echo made > out; echo err >&2; mkdir d; echo x > d/y";
    let ended = project.sh(&[], script);
    assert_eq!(ended.exits(0).out(), "onetwoone");
    ended.says(&["err\n"]);
    assert_eq!(
        (project.read("out"), project.read("d/y"), project.has("a")),
        ("made\n".into(), "x\n".into(), false)
    );
    let before = project.tree();
    project.sh(&[], "echo spoilt > out; exit 7").exits(7);
    assert_eq!(project.tree(), before, "a failed build leaves the host as it was");
    project.assert_nothing_left_here();
    nothing_runs(&project);
}

#[test]
fn a_command_that_cannot_run_has_the_exit_codes_that_engines_give() {
    let project = project();
    project.fastbuild(["--", "no-such-program-anywhere"]).exits(127);
    project.fastbuild(["--", "./a"]).exits(126);
    project.sh(&[], "kill -9 $$").exits(137);
    nothing_runs(&project);
}

#[test]
fn a_second_run_sends_only_what_differs_and_what_is_ignored_stays() {
    let project = project();
    project.write("large", noise(1, 1 << 20)).write(".fastbuildignore", "cache\n");
    let first = json(&project, &["-o", "out"], "mkdir -p cache; echo kept > cache/x; cat a > out");
    assert_eq!(uploaded(first.exits(0)), 5);
    assert!(!project.has("cache"), "what is ignored does not come back with named outputs");
    project.write("a", "other");
    fs::remove_file(project.path("sub/b")).unwrap();
    let second = json(&project, &["-o", "out"], "cat cache/x; test ! -e sub/b; cat a > out");
    assert_eq!(second.exits(0).out(), "kept\n");
    assert_eq!(uploaded(&second), 1);
    let sent = event(&second, "finished")["agent"]["sent"].as_u64().unwrap();
    assert!((1..64 << 10).contains(&sent), "{sent} bytes were sent for one small file");
    assert_eq!(event(&second, "workspace")["how"], "found");
    assert_eq!(project.read("out"), "other");
}

#[test]
fn absolute_outputs_are_this_machines() {
    let project = project();
    let made = project.outside().join("made-elsewhere");
    let output = format!("{}:logs/", made.to_str().unwrap());
    project.sh(&["-o", &output], &format!("mkdir -p {0}; echo log > {0}/x", made.to_str().unwrap())).exits(0);
    assert_eq!(project.read("logs/made-elsewhere/x"), "log\n");
    project.sh(&["-o", "nothing"], "true").exits(125).says(&["\"nothing\""]);
}

#[test]
fn a_command_reads_what_it_is_given_and_nothing_else() {
    let project = project();
    assert_eq!(project.sh(&[], "cat; echo end").exits(0).out(), "end\n");
    let mut child = project.command();
    let mut child = child.args(["--stdin", "--", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&noise(3, 1 << 20)).unwrap();
    assert_eq!(Ended::of(child).exits(0).stdout, noise(3, 1 << 20));
}

#[test]
fn the_command_has_a_terminal_when_fastbuild_has_one() {
    let (project, pty) = (project(), Pty::new());
    let mut command = beside(&project, "setsid", &["--ctty", FASTBUILD, "--", "sh", "-c"]);
    command.arg("test -t 0 && test -t 1 && test -t 2 && echo \"<three $TERM>\"").env("TERM", "xterm");
    command.stdin(pty.stream()).stdout(pty.stream()).stderr(pty.stream());
    pty.spawn(command).exits(0);
    pty.until("<three xterm>\r\n");
}

// ---- the command is a child of its user's ----------------------------------------------------------------------------

#[test]
fn the_command_has_the_whole_environment_and_all_that_a_shell_would_hand_down() {
    let project = project();
    let mut command = project.command();
    // Another mask than engines give, and a directory below the root.
    let script = format!("umask 077; exec {FASTBUILD} -e LATER=this -- sh -c \"$1\"");
    let mut inner = Command::new("sh");
    inner.args(["-c", &script, "sh"]).env_clear();
    inner.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    inner.arg("umask; echo \"$OWN|$LATER|$HOME|$OLDPWD\"; pwd; echo \"$PWD\"; touch made; cat /proc/self/oom_score_adj");
    let home = project.outside();
    inner.env("OWN", "of the user").env("HOME", &home).env("OLDPWD", "/elsewhere").env("LATER", "not this");
    inner.current_dir(project.path("sub")).stdin(Stdio::null());
    let _ = command.current_dir("/");
    inner.args(["-C", ".."]);
    let ended = Ended::from(inner.output().unwrap());
    let own_score = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let tree = project.outside().join("scratch").join(key_of(&project.path("sub"))).join("tree");
    let tree = tree.to_str().unwrap();
    let expected = format!("0077\nof the user|this|{}|\n{tree}\n{tree}\n{own_score}", home.to_str().unwrap());
    assert_eq!(ended.exits(0).out(), expected);
    assert_eq!(project.path("sub/made").metadata().unwrap().mode() & 0o777, 0o600);
}

fn key_of(source: &Path) -> String {
    fastbuild::state::project_key(&source.canonicalize().unwrap())
}

#[test]
fn the_command_starts_where_fastbuild_was_started() {
    let project = project();
    project.write("fastbuild.toml", "");
    let mut command = project.command();
    command.args(["--", "sh", "-c", "cat b; pwd; echo made > here"]).current_dir(project.path("sub"));
    let ended = Ended::from(command.output().unwrap());
    let tree = project.scratch_tree();
    assert_eq!(ended.exits(0).out(), format!("two{}\n", tree.join("sub").to_str().unwrap()));
    assert_eq!(project.read("sub/here"), "made\n");
}

/// Runs it as a user and a group that no table knows, with a further group. The project becomes that user's.
fn as_stranger(project: &Project, options: &[&str], script: &str) -> Ended {
    let own = Command::new("chown").args(["-hR", "12345:23456"]).arg(project.outside()).status().unwrap();
    assert!(own.success());
    let as_root = project.command();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "12345", "--regid", "23456", "--groups", "34567", FASTBUILD]).args(options);
    command.args(["--", "sh", "-c", script]).current_dir(project.root()).env_clear();
    command.envs(as_root.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Ended::from(command.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn a_user_whom_no_table_knows_builds_with_his_own_groups() {
    let project = project();
    project.write("locked/deep/x", "1").write("locked/y", "2");
    for directory in ["locked/deep", "locked"] {
        fs::set_permissions(project.path(directory), fs::Permissions::from_mode(0o555)).unwrap();
    }
    let ended = as_stranger(&project, &[], "id -u; id -g; id -G; cat locked/deep/x; echo made > out");
    assert_eq!(ended.exits(0).out(), "12345\n23456\n23456 34567\n1");
    let made = project.path("out").metadata().unwrap();
    assert_eq!((made.uid(), made.gid()), (12345, 23456));
    let scratch = project.scratch_tree().parent().unwrap().metadata().unwrap();
    assert_eq!((scratch.uid(), scratch.mode() & 0o7777), (12345, 0o700));

    // A directory that does not let its owner in is changed all the same, as the host's was.
    project.write("locked/deep/x", "3");
    fs::remove_file(project.path("locked/y")).unwrap();
    let again =
        as_stranger(&project, &[], "cat locked/deep/x; test ! -e locked/y; stat -c %a locked locked/deep");
    assert_eq!(again.exits(0).out(), "3555\n555\n");
    let gone = as_stranger(&project, &["--fresh"], "cat locked/deep/x");
    assert_eq!(gone.exits(0).out(), "3");
    nothing_runs(&project);
}

// ---- rule 9 --------------------------------------------------------------------------------------------------------

#[test]
fn an_interrupt_of_the_whole_foreground_reaches_the_command_once() {
    let project = project();
    let mut command = project.command();
    let script = format!("trap 'echo int >> count; test -e second && exit 5; touch second' INT; {WAIT}");
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.args(["--progress", "json", "--outputs-on-failure", "--", "sh", "-c", &script]);
    let mut run = Watched::spawn(&mut command);
    run.until_output("ready\n");
    // As a terminal does, on Ctrl-C.
    kill_process_group(Pid::from_child(run.child()), Signal::INT).unwrap();
    run.until("the signal's arrival", |event| event["warning"] == "signalled");
    eventually("the command's own answer", || project.scratch_tree().join("count").exists());
    assert_eq!(fs::read_to_string(project.scratch_tree().join("count")).unwrap(), "int\n");
    run.insists(Signal::INT);
    run.end().exits(130);
    nothing_runs(&project);
    project.assert_nothing_left_here();
}

#[test]
fn a_signal_reaches_the_build_whose_exit_code_it_is_then() {
    let project = project();
    let mut run = Watched::start(&project, &[], &format!("trap 'exit 42' TERM; {WAIT}"));
    run.until_output("ready\n");
    run.signal(Signal::TERM);
    run.end().exits(42);
    nothing_runs(&project);
}

/// A command that leaves its session, its group and its parent, twice, and then waits.
fn daemon(project: &Project) -> String {
    let sleep = format!("exec sh -c \"sleep 100000; : {}\"", marker(project));
    format!(
        "setsid sh -c 'setsid sh -c '\\''{sleep}'\\'' & setsid sh -c '\\''{sleep}'\\'' &' & sleep 0.2; {WAIT}"
    )
}

#[test]
fn no_process_of_a_build_outlives_a_fastbuild_that_is_killed() {
    let project = project();
    let before = project.tree();
    let mut run = Watched::start(&project, &[], &daemon(&project));
    run.until_output("ready\n");
    eventually("both daemons", || processes(&marker(&project)).len() >= 3);
    run.signal(Signal::KILL);
    run.end().exits(137);
    nothing_runs(&project);
    assert_eq!(project.tree(), before);
    // The reaper has put the books right, and the next build finds nothing in its way.
    eventually("the end of the dead run", || {
        fs::read_dir(project.state().join("runs")).unwrap().next().is_none()
    });
    assert_eq!(project.sh(&[], "cat a").exits(0).out(), "one");
}

#[test]
fn what_a_command_leaves_running_ends_with_it() {
    let project = project();
    let script = daemon(&project).replace(WAIT, "exit 3");
    project.sh(&[], &script).exits(3);
    assert_eq!(processes(&marker(&project)), []);
}

#[test]
fn no_process_of_a_build_outlives_an_agent_that_is_killed() {
    for face in ["session", "keep"] {
        let project = project();
        let mut run = Watched::start(&project, &[], &daemon(&project));
        run.until_output("ready\n");
        eventually("both daemons", || processes(&marker(&project)).len() >= 3);
        let ours = agents(&project, face);
        assert_eq!(ours.len(), 1, "{ours:?}");
        kill_process(Pid::from_raw(ours[0]).unwrap(), Signal::KILL).unwrap();
        if face == "session" {
            run.end().exits(125).says(&["the agent that ran the build was ended"]);
        } else {
            // The agent that is left ends the rest, as long as there is a client.
            run.signal(Signal::TERM);
            run.end().exits(143);
        }
        nothing_runs(&project);
        assert_eq!(project.sh(&[], "cat a").exits(0).out(), "one");
    }
}

#[test]
fn signals_to_everything_that_is_called_fastbuild_end_the_build_as_one_to_it_does() {
    let project = project();
    let mut run = Watched::start(&project, &[], &format!("{}; : {}", daemon(&project), marker(&project)));
    run.until_output("ready\n");
    let ours = agents(&project, "");
    assert_eq!(ours.len(), 2, "a keeper and a session");
    ours.iter().for_each(|pid| kill_process(Pid::from_raw(*pid).unwrap(), Signal::TERM).unwrap());
    run.signal(Signal::TERM);
    run.end().exits(143);
    nothing_runs(&project);
}

// ---- the scratch directory -------------------------------------------------------------------------------------------

#[test]
fn sources_without_room_are_refused_with_the_sizes_before_anything_is_written() {
    let project = project();
    let disk = SmallDisk::mount(&project.outside().join("small"), 6);
    let scratch = disk.path().to_str().unwrap();
    project.write("large", noise(2, 8 << 20));
    let refused = project.sh(&["--scratch", scratch], "true");
    refused.exits(125).says(&["there is no room for the sources", "they need ", " are free", "--scratch"]);
    assert_eq!(Tree::of(disk.path()).paths(), [""; 0], "something was written");
    project.assert_nothing_left_here();

    // What is added later is refused likewise, and what is there stays as it is.
    fs::remove_file(project.path("large")).unwrap();
    project.sh(&["--scratch", scratch], "true").exits(0);
    let before = Tree::of(&disk.path().join(project.key()).join("tree"));
    project.write("large", noise(2, 8 << 20));
    project.sh(&["--scratch", scratch], "true").exits(125).says(&["there is no room for the sources"]);
    assert_eq!(Tree::of(&disk.path().join(project.key()).join("tree")), before);
    nothing_runs(&project);
}

#[test]
fn a_scratch_directory_that_others_have_a_hand_in_is_refused() {
    let project = project();
    let at = |name: &str| project.outside().join(name);
    for name in ["foreign", "open", "sticky", "real"] {
        fs::create_dir(at(name)).unwrap();
    }
    std::os::unix::fs::chown(at("foreign"), Some(12345), None).unwrap();
    fs::set_permissions(at("open"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(at("sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
    let build = |name: &str| project.sh(&["--scratch", at(name).to_str().unwrap()], "cat a");
    build("foreign").exits(125).says(&["--scratch: ", "belongs to another user (12345)"]);
    build("open").exits(125).says(&["lets everybody remove what is in it"]);
    assert_eq!(build("sticky").exits(0).out(), "one");

    // The project's own place in it, squatted by a link, by another user, by something else.
    let own = |name: &str| at(name).join(project.key());
    symlink(at("foreign"), own("real")).unwrap();
    build("real").exits(125).says(&["is a symbolic link, so nothing is put there"]);
    fs::remove_file(own("real")).unwrap();
    fs::create_dir(own("real")).unwrap();
    std::os::unix::fs::chown(own("real"), Some(12345), None).unwrap();
    build("real").exits(125).says(&["belongs to another user (12345), so nothing is put there"]);
    std::os::unix::fs::chown(own("real"), Some(0), None).unwrap();
    fs::write(own("real").join("precious"), "mine").unwrap();
    build("real").exits(125).says(&["was not created by fastbuild"]);
    assert_eq!(fs::read_to_string(own("real").join("precious")).unwrap(), "mine");
    assert_eq!(fs::read_dir(at("foreign")).unwrap().count(), 0);
    // Among the sources it would be a source.
    project.sh(&["--scratch", "below"], "true").exits(125).says(&["lies among the sources"]);
}

#[test]
fn a_link_in_the_place_of_the_tree_is_never_taken_for_the_sources() {
    let project = project();
    let precious = project.outside().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("x"), "mine").unwrap();
    let script = format!("cd .. && mv tree moved && ln -s {} tree", precious.to_str().unwrap());
    project.sh(&["-o", "out"], &script);
    let again = json(&project, &["-o", "out"], "cat a > out");
    assert_eq!(event(again.exits(0), "workspace")["why"], "broken");
    assert_eq!(fs::read_to_string(precious.join("x")).unwrap(), "mine");
    assert_eq!(fs::read_dir(&precious).unwrap().count(), 1);
}

#[test]
fn an_address_of_an_engine_that_is_none_does_not_matter_here() {
    let project = project();
    let mut command = project.command();
    command.env("DOCKER_HOST", "no-scheme:\\nothing").args(["--", "cat", "a"]);
    assert_eq!(Ended::from(command.output().unwrap()).exits(0).out(), "one");
}

#[test]
fn a_scratch_directory_is_its_users_alone_and_survives_a_lost_state_directory() {
    let project = project();
    project.sh(&["-o", "out"], "echo cached > cached; cat a > out").exits(0);
    let scratch = project.scratch().join(project.key());
    for directory in [&scratch, &scratch.join(".fastbuild")] {
        assert_eq!(directory.metadata().unwrap().mode() & 0o777, 0o700);
    }
    fs::remove_dir_all(project.state()).unwrap();
    project.write("a", "new");
    assert_eq!(project.sh(&["-o", "out"], "cat a; cat a > out").exits(0).out(), "new");

    // A run with another state directory does not work in the project at the same time.
    let gated = Gated::start(&project, &["-o", "out"], "cat a > out");
    let mut other = project.command();
    other.env("FASTBUILD_STATE_DIR", project.outside().join("other-state")).args(["--", "true"]);
    Ended::from(other.output().unwrap())
        .exits(125)
        .says(&["in use by a fastbuild with another state directory"]);
    gated.go_on().exits(0);
}

#[test]
fn without_keeping_the_scratch_directory_goes_with_the_build_and_the_kept_one_stays() {
    let project = project();
    project.write(".fastbuildignore", "cache\n");
    project.sh(&["-o", "out"], "echo kept > cache; echo 1 > out").exits(0);
    let ended = project.sh(&["--no-keep", "-o", "out"], "cat cache; pwd; echo 2 > out");
    let once = project.scratch().join(format!("{}.once", project.key()));
    assert_eq!(ended.exits(0).out(), format!("{}\n", once.join("tree").to_str().unwrap()));
    assert_eq!(project.read("out"), "2\n");
    assert!(!once.exists());
    project.sh(&["--no-keep"], "exit 9").exits(9);
    assert!(!once.exists());
    // Killed in the middle of it, the reaper removes it.
    let mut run = Watched::start(&project, &["--no-keep"], &daemon(&project));
    run.until_output("ready\n");
    run.signal(Signal::KILL);
    run.end().exits(137);
    eventually("the scratch directory's end", || !once.exists());
    nothing_runs(&project);
    assert_eq!(project.sh(&["-o", "out"], "cat cache; echo 3 > out").exits(0).out(), "kept\n");
    let fresh = json(&project, &["--fresh", "-o", "out"], "cat cache; echo 4 > out");
    assert_eq!((fresh.exits(0).out().as_str(), &event(&fresh, "workspace")["why"]), ("", &"asked".into()));
}

#[test]
fn a_scratch_directory_whose_making_or_removal_was_cut_short_is_made_anew() {
    let project = project();
    project.sh(&[], "true").exits(0);
    let own = project.scratch().join(project.key()).join(".fastbuild");
    let label = fs::read_to_string(own.join("label")).unwrap();
    fs::write(own.join("label"), label.replace("whole", "going")).unwrap();
    let again = json(&project, &[], "cat a");
    assert_eq!(
        (again.exits(0).out().as_str(), &event(&again, "workspace")["why"]),
        ("one", &"broken".into())
    );
    fs::remove_dir_all(project.scratch().join(project.key())).unwrap();
    fs::create_dir_all(&own).unwrap();
    for directory in [own.parent().unwrap(), &own] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    }
    assert_eq!(project.sh(&[], "cat a").exits(0).out(), "one");
    // An agent that is another one, or may not be executed, is put right.
    fs::write(own.join("agent"), "no program").unwrap();
    assert_eq!(project.sh(&[], "cat a").exits(0).out(), "one");
}

// ---- how it is chosen and told -----------------------------------------------------------------------------------------

fn plan(project: &Project, change: impl Fn(&mut Command), options: &[&str]) -> Ended {
    let mut command = project.command_without_engine();
    change(&mut command);
    Ended::from(command.arg("plan").args(options).args(["--", "sh", "-c", "true"]).output().unwrap())
}

#[test]
fn where_no_engine_answers_a_command_that_is_here_is_built_here_and_the_plan_says_so() {
    let project = project();
    let nothing = |_: &mut Command| ();
    let planned = plan(&project, nothing, &[]);
    let out = planned.exits(0).out();
    for part in
        ["engine      host", "there is no ", "/bin/sh is on this machine", "scratch     ", "route       host"]
    {
        assert!(out.contains(part), "{part:?} is not in\n{out}");
    }
    // A user who names an image, or an engine, wants a container, and is told why there is none.
    let named = plan(&project, nothing, &["-i", "some-image"]);
    let out = named.exits(0).out();
    assert!(out.contains("some-image") && !out.contains("engine      host"), "{out}");
    let by_variable = plan(&project, |command| _ = command.env("FASTBUILD_IMAGE", "some-image"), &[]);
    assert!(by_variable.exits(0).out().contains("some-image"));
    let socket = format!("unix://{}", project.outside().join("no-engine").to_str().unwrap());
    plan(&project, nothing, &["--host", &socket]).exits(125).says(&["no image to run"]);
    let mut build = project.command();
    build.args(["-i", "some-image", "--engine", "docker", "--", "true"]);
    Ended::from(build.output().unwrap()).exits(125);
}

#[test]
fn what_only_containers_have_is_refused_when_it_is_typed() {
    let project = project();
    for (flag, value) in [("-m", "1g"), ("-u", "root"), ("-w", "/x"), ("--cache", "c:/c"), ("-i", "busybox")]
    {
        project.sh(&[flag, value], "true").exits(125).says(&["is for containers"]);
    }
    project.sh(&["--route", "layer"], "true").exits(125).says(&["the host engine has no container"]);
}

#[test]
fn the_places_that_are_thought_of_are_the_users_cache_and_the_systems_own() {
    let project = project();
    let home = project.outside().join("home");
    fs::create_dir(&home).unwrap();
    let unnamed = |command: &mut Command| _ = command.env_remove("FASTBUILD_SCRATCH");
    let root = |planned: &Ended| {
        let value: serde_json::Value = serde_json::from_slice(&planned.exits(0).stdout).unwrap();
        PathBuf::from(value["scratch"]["value"]["root"].as_str().unwrap())
    };
    assert_eq!(root(&plan(&project, unnamed, &["--json"])), home.join(".cache/fastbuild"));
    let set = |command: &mut Command| {
        unnamed(command);
        command.env("XDG_CACHE_HOME", project.outside().join("xdg"));
    };
    assert_eq!(root(&plan(&project, set, &["--json"])), project.outside().join("xdg/fastbuild"));
    // A link in its place may be a trap that another user set. It is passed over.
    fs::create_dir(project.outside().join("xdg")).unwrap();
    symlink(&home, project.outside().join("xdg/fastbuild")).unwrap();
    assert_ne!(root(&plan(&project, set, &["--json"])), project.outside().join("xdg/fastbuild"));
    assert!(plan(&project, set, &[]).out().contains("xdg/fastbuild is a symbolic link"));
    assert!(home.read_dir().unwrap().next().is_none(), "a plan makes nothing");
}

// ---- fastbuild workspace -----------------------------------------------------------------------------------------------

#[test]
fn scratch_directories_are_listed_shown_entered_and_removed_without_an_engine() {
    let project = project();
    let workspace = |args: &[&str]| project.fastbuild(["workspace"].iter().chain(args));
    workspace(&["ls"]).exits(125);
    project.sh(&["-o", "out"], "cat a > out").exits(0);
    let directory = project.scratch().join(project.key());
    let listed = workspace(&["ls"]);
    let out = listed.exits(0).out();
    for part in ["ENGINE", "host", "idle", directory.to_str().unwrap()] {
        assert!(out.contains(part), "{part:?} is not in\n{out}");
    }
    listed.says(&["without those on unix://"]);
    let shown = workspace(&["inspect"]);
    assert!(shown.exits(0).out().contains("last used   0s ago"), "{shown}");
    let status = project.fastbuild(["status"]).exits(0).out();
    for part in [
        "none answers, so this is what this machine knows",
        "workspace   idle, ",
        directory.to_str().unwrap(),
    ] {
        assert!(status.contains(part), "{part:?} is not in\n{status}");
    }
    let shell = workspace(&["shell", "--", "sh", "-c", "pwd; cat out; exit 5"]);
    assert_eq!(shell.exits(5).out(), format!("{}\none", project.scratch_tree().to_str().unwrap()));
    workspace(&["shell", "-u", "root", "--", "true"]).exits(125).says(&["leave out -u/--user"]);

    let gated = Gated::start(&project, &["-o", "out"], "cat a > out");
    assert!(workspace(&["ls"]).out().contains("running"));
    workspace(&["rm"]).exits(125).says(&["is in use"]);
    gated.go_on().exits(0);
    assert!(
        workspace(&["rm"]).exits(0).out().starts_with(&format!("removed {}", directory.to_str().unwrap()))
    );
    assert!(!directory.exists());

    project.sh(&["-o", "out"], "cat a > out").exits(0);
    assert!(workspace(&["prune", "--older-than", "1h"]).exits(0).out().contains("nothing to remove"));
    assert!(workspace(&["prune", "--max-size", "1k"]).exits(0).out().contains("all of them hold too much"));
    assert!(!directory.exists());
    nothing_runs(&project);
}
