//! What the container is given: limits, network, user, environment, entry point. And rule 11: of this machine's
//! environment nothing crosses that was not named.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::MetadataExt as _,
    process::{Command, Stdio},
};

use crate::common::process::Gated;
use crate::common::{ENTRYPOINT, Ended, NONROOT, Project, docker};

/// One value of the engine's own description of this project's only container.
#[track_caller]
fn inspect(project: &Project, value: &str) -> String {
    let containers = project.containers();
    assert_eq!(containers.len(), 1);
    docker(&["inspect", "--format", &format!("{{{{{value}}}}}"), &containers[0]]).trim().to_owned()
}

/// Waits until the engine has heard that something in this project's only container was killed for want of memory.
fn until_want_of_memory_is_told(project: &Project) {
    let container = format!("container={}", project.containers()[0]);
    let mut events = Command::new("docker");
    events.args(["events", "--since", "1h", "--filter", &container, "--filter", "event=oom"]);
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(events.stdout.take().unwrap()).read_line(&mut line).unwrap();
    events.kill().unwrap();
    events.wait().unwrap();
    assert!(line.contains("oom"), "{line:?}");
}

#[test]
fn a_command_that_runs_out_of_memory_is_137_and_told_why() {
    // One block of 400 MB: the engine may lend as much swap as it gives memory.
    const EAT: [&str; 4] = ["dd", "if=/dev/zero", "of=/dev/null", "bs=400M"];
    let project = Project::new();
    let told = ["more memory than its limit of", "33.6 MB", "--memory"];
    let ended = project.fastbuild(["--memory", "32m", "--"].into_iter().chain(EAT));
    ended.exits(137).says(&told);
    // A child of the command is the one that dies. The engine hears of that by a notice of its own, and forgets it when the
    // container is over before it comes.
    let child = format!("{} count=1; code=$?", EAT.join(" "));
    let run = Gated::start_after(&project, &["-m", "32m"], &child, "exit $code");
    until_want_of_memory_is_told(&project);
    let ended = run.go_on();
    ended.exits(137).says(&[r#""warning":"out-of-memory","limit":33554432"#]);
    project.assert_nothing_left();
}

#[test]
fn a_command_that_ends_with_137_of_its_own_will_is_not_said_to_be_out_of_memory() {
    let project = Project::new();
    let ended = project.sh(&["--memory", "32m"], "exit 137");
    assert!(!ended.exits(137).err().contains("memory"), "{ended}");
}

#[test]
fn limits_and_network_reach_the_container() {
    let project = Project::new();
    let options = ["--cpus", "0.5", "--memory", "48m", "--network", "none", "--shm-size", "8m"];
    let run = Gated::start(&project, &options, "true");
    assert_eq!(inspect(&project, ".HostConfig.NanoCpus"), "500000000");
    assert_eq!(inspect(&project, ".HostConfig.Memory"), (48 << 20).to_string());
    assert_eq!(inspect(&project, ".HostConfig.NetworkMode"), "none");
    assert_eq!(inspect(&project, ".HostConfig.ShmSize"), (8 << 20).to_string());
    run.go_on().exits(0);
}

#[test]
fn without_options_there_are_no_limits_no_mounts_and_no_privileges() {
    // Zero is no limit, as docker has it.
    for options in [[].as_slice(), &["--cpus", "0", "--memory", "0"]] {
        let project = Project::new();
        let run = Gated::start(&project, options, "true");
        assert_eq!(inspect(&project, ".HostConfig.NanoCpus"), "0");
        assert_eq!(inspect(&project, ".HostConfig.Memory"), "0");
        assert_eq!(inspect(&project, "len .Mounts"), "0");
        assert_eq!(inspect(&project, ".HostConfig.Privileged"), "false");
        assert_eq!(inspect(&project, r#"index .Config.Labels "dev.fastbuild.tier""#), "one-run");
        run.go_on().exits(0);
    }
}

#[test]
fn a_container_without_a_network_has_the_loopback_only() {
    let project = Project::new();
    assert_eq!(project.sh(&["-q", "--network", "none"], "ls /sys/class/net").exits(0).out(), "lo\n");
    assert!(project.sh(&["-q"], "ls /sys/class/net").exits(0).out().contains("eth0"));
}

#[test]
fn limits_that_make_no_sense_are_refused_before_anything_happens() {
    let project = Project::new();
    for (option, value) in [("--memory", "much"), ("--memory", "-1"), ("--cpus", "many"), ("--cpus", "-0.5")]
    {
        let ended = project.fastbuild([&format!("{option}={value}"), "--", "echo", "ran"]);
        assert_eq!(ended.exits(125).says(&[value]).out(), "", "{option} {value}");
    }
    // Sensible here, and too little for an engine.
    project.fastbuild(["--memory", "1k", "--", "echo", "ran"]).exits(125).says(&["memory"]);
    project.fastbuild(["--network", "no-such-network", "--", "true"]).exits(125).says(&["no-such-network"]);
    project.assert_nothing_left();
}

#[test]
fn nothing_of_this_machines_environment_crosses_that_was_not_named() {
    let project = Project::new();
    let run = |options: &[&str]| {
        let mut command = project.command();
        command.env("SECRET_TOKEN", "hunter2").env("AWS_SECRET_ACCESS_KEY", "hunter3").env("LANG", "tlh");
        Ended::from(command.args(["-q"]).args(options).args(["--", "env"]).output().unwrap())
    };
    let unnamed = run(&[]).exits(0).out();
    for own in ["hunter2", "hunter3", "SECRET", "tlh", "FASTBUILD", "fastbuild-test"] {
        assert!(!unnamed.contains(own), "{own} crossed:\n{unnamed}");
    }
    let names = |text: &str| -> Vec<String> {
        let mut names: Vec<_> =
            text.lines().filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect();
        names.sort();
        names
    };
    assert_eq!(names(&unnamed), ["HOME", "HOSTNAME", "PATH"]);

    let named = run(&["-e", "SECRET_TOKEN"]).exits(0).out();
    assert!(named.contains("SECRET_TOKEN=hunter2\n") && !named.contains("hunter3"), "{named}");
    let unset = run(&["-e", "NOT_SET_HERE"]).exits(0).out();
    assert_eq!(names(&unset), names(&unnamed), "a variable that is not set here is not set there");
}

#[test]
fn named_variables_and_files_of_them_cross_as_they_are() {
    let project = Project::new();
    let file = project.outside().join("variables");
    std::fs::write(&file, "# a comment\n\nFROM_FILE=from the file\nBOTH=file\nFROM_HOST\n").unwrap();
    let mut command = project.command();
    command.env("FROM_HOST", "from here").args([
        "-q",
        "-e",
        "VALUE=a=b \"c\" $d",
        "-e",
        "EMPTY=",
        "-e",
        "BOTH=flag",
    ]);
    command.arg("--env-file").arg(&file).args(["--", "env"]);
    let ended = Ended::from(command.output().unwrap());
    let text = ended.exits(0).out();
    let lines: Vec<_> = text.lines().collect();
    for expected in
        ["VALUE=a=b \"c\" $d", "EMPTY=", "BOTH=flag", "FROM_FILE=from the file", "FROM_HOST=from here"]
    {
        assert!(lines.contains(&expected), "no {expected:?} in\n{text}");
    }
}

#[test]
fn an_environment_file_that_is_not_there_is_named() {
    let project = Project::new();
    let ended = project.fastbuild(["--env-file", "no-such-file", "--", "echo", "ran"]);
    assert_eq!(ended.exits(125).says(&["no-such-file"]).out(), "");
}

#[test]
fn the_user_is_the_one_that_was_asked_for_and_owns_the_sources() {
    let project = Project::new();
    project.write("dir/file", "text");
    let script =
        "echo $(id -u):$(id -g); stat -c %u:%g . dir dir/file; echo x > dir/file && echo x > dir/made";
    for (user, ids) in [("app", "1000:1001"), ("1000:1001", "1000:1001"), ("1234:77", "1234:77")] {
        let ended = project.sh(&["-q", "-u", user], script);
        assert_eq!(ended.exits(0).out(), format!("{ids}\n").repeat(4), "{user}");
    }
    project.sh(&["-u", "nobody-knows-me"], "echo ran").exits(125).says(&["nobody-knows-me"]);
    project.assert_nothing_left();
}

#[test]
fn an_image_that_is_not_root_builds_in_sources_of_its_own() {
    let project = Project::with_image(NONROOT);
    project.write("dir/file", "text").write("top", "text");
    let script = "id -u; id -g; stat -c '%u:%g %n' . dir dir/file top
        echo more >> top && echo x > made && mkdir new && echo y > new/file && rm dir/file && rmdir dir";
    let ended = project.sh(&["-q"], script);
    let owned = [".", "dir", "dir/file", "top"].map(|path| format!("1000:1001 {path}\n")).concat();
    assert_eq!(ended.exits(0).out(), format!("1000\n1001\n{owned}"));
    assert_eq!(project.tree().paths(), ["made", "new", "new/file", "top"]);
    let own = std::fs::metadata(project.root()).unwrap().uid();
    for path in ["made", "new", "new/file", "top"] {
        assert_eq!(std::fs::metadata(project.path(path)).unwrap().uid(), own, "{path} is not ours");
    }
    // The same from an empty tree, where the working directory is all that is sent.
    let empty = Project::with_image(NONROOT);
    empty.sh(&["-q"], "echo x > made").exits(0);
    assert_eq!(empty.read("made"), "x\n");
}

#[test]
fn a_user_that_is_not_root_can_write_where_the_command_runs() {
    let project = Project::with_image(NONROOT);
    project.write("fastbuild.toml", "").write("below/file", "text");
    for workdir in ["/workspace", "/made/for/this", "/tmp/deep/er", "/home/app/project"] {
        let mut command = project.command();
        command.current_dir(project.path("below")).args(["-q", "-w", workdir, "--", "sh", "-c"]);
        let ended = Ended::from(command.arg("pwd; echo x > made && echo x > ../made").output().unwrap());
        assert_eq!(ended.exits(0).out(), format!("{workdir}/below\n"));
        for made in ["made", "below/made"] {
            assert!(project.has(made), "{workdir}: no {made}");
            std::fs::remove_file(project.path(made)).unwrap();
        }
    }
}

#[test]
fn the_images_entry_point_is_honoured_replaced_or_left_out() {
    let project = Project::with_image(ENTRYPOINT);
    let run = |options: &[&str], command: &[&str]| {
        project.fastbuild(["-q"].iter().chain(options).chain(&["--"]).chain(command)).exits(0).out()
    };
    assert_eq!(run(&[], &["echo", "a  b", "c"]), "entrypoint: echo a  b c\na  b c\n");
    assert_eq!(run(&["--entrypoint", "echo"], &["x", "y"]), "x y\n");
    assert_eq!(run(&["--entrypoint", ""], &["echo", "x"]), "x\n");
    project.fastbuild(["--entrypoint", "no-such", "--", "x"]).exits(127).says(&["no-such"]);
}

#[test]
fn a_platform_that_the_image_is_not_for_is_refused() {
    let project = Project::new();
    let ended = project.fastbuild(["--platform", "linux/s390x", "--pull", "never", "--", "echo", "ran"]);
    assert_eq!(ended.exits(125).out(), "", "{ended}");
    let ended = project.fastbuild(["--platform", "no such platform", "--", "echo", "ran"]);
    assert_eq!(ended.exits(125).out(), "", "{ended}");
    project.assert_nothing_left();
    let own = docker(&["version", "--format", "{{.Server.Os}}/{{.Server.Arch}}"]);
    let ended = project.fastbuild(["-q", "--platform", own.trim(), "--", "echo", "ran"]);
    assert_eq!(
        ended.exits(0).out(),
        "ran
"
    );
}

#[test]
fn pull_never_fails_for_a_missing_image_and_says_what_to_do() {
    let project = Project::new();
    let ended =
        project.fastbuild(["--pull", "never", "-i", "fastbuild/no-such-image:1", "--", "echo", "ran"]);
    ended.exits(125).says(&["fastbuild/no-such-image:1", "--pull never", "docker pull"]);
    assert_eq!(ended.out(), "");
    project.fastbuild(["-q", "--pull", "never", "--", "true"]).exits(0);
    project.assert_nothing_left();
}
