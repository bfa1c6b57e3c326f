//! Which workspace is a build's: one for each project, image, user and network, found again by each build that asks for the same;
//! what only it holds outlives its container, and a mistaken option costs nothing.

use std::{collections::BTreeMap, fs, path::Path};

use crate::common::reports::{events, json};
use crate::common::{BUSYBOX, Ended, FILLED, NONROOT, Project, docker};

/// Its builds are kept.
fn kept() -> Project {
    let project = Project::kept();
    for n in 0..20 {
        project.write(format!("src/{n}"), format!("content of {n}\n"));
    }
    project
}

/// What is told of the workspace that the command ran in.
fn workspace(ended: &Ended) -> serde_json::Value {
    events(ended.exits(0)).into_iter().rfind(|event| event["event"] == "workspace").unwrap()
}

fn how(ended: &Ended) -> String {
    workspace(ended)["how"].as_str().unwrap().to_owned()
}

/// What of a workspace changed, when that is why it was made anew.
fn changes(ended: &Ended) -> Vec<String> {
    let changes = workspace(ended)["changes"].clone();
    let what = |change: &serde_json::Value| change["what"].as_str().unwrap().to_owned();
    changes.as_array().into_iter().flatten().map(what).collect()
}

/// An image of this project's own, which is gone with it.
struct OwnImage(String);

impl OwnImage {
    fn new(project: &Project) -> OwnImage {
        let image = OwnImage(format!("fastbuild/test-identity-{}:latest", project.key()));
        docker(&["tag", BUSYBOX, &image.0]);
        image
    }

    /// Gives the name to another image, made of a container of `from`.
    fn renew(&self, from: &str) {
        let container = docker(&["create", from, "true"]);
        docker(&["commit", "--change", "ENV RENEWED=yes", container.trim(), &self.0]);
        docker(&["rm", container.trim()]);
    }
}

impl Drop for OwnImage {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker").args(["rmi", "--force", &self.0]).output();
    }
}

#[test]
fn builds_with_other_settings_in_turn_find_their_workspaces_again() {
    let project = kept();
    let settings = [
        &[][..],
        &["--network", "none"],
        &["-u", "app"],
        &["-i", NONROOT],
        &["-i", FILLED, "--network", "none"],
        &["--route", "tmpfs"],
        &["--route", "volume"],
        &["-w", "/elsewhere"],
    ];
    for options in settings {
        assert_eq!(how(&json(&project, options, "true")), "made", "{options:?}");
    }
    let made = project.workspaces();
    assert_eq!(made.len(), settings.len());
    for (number, options) in settings.iter().enumerate() {
        project.write("src/0", format!("before build {number}"));
        let ended = json(&project, options, "cat src/0; cp src/0 made");
        assert_eq!((how(&ended).as_str(), ended.out()), ("found", project.read("src/0")), "{options:?}");
        assert_eq!(project.read("made"), project.read("src/0"));
    }
    assert_eq!(project.workspaces(), made, "the second round made or removed a container");
    project.assert_nothing_left();
}

#[test]
fn a_mistaken_option_fails_with_its_own_error_and_costs_nothing() {
    let mistakes = [
        (["-u", "ghost"], "ghost"),
        (["--network", "nonet"], "nonet"),
        (["-m", "1k"], "memory"),
        (["-i", "fastbuild/test-no-such-image"], "fastbuild/test-no-such-image"),
    ];
    for lifetime in ["--keep", "--no-keep"] {
        let project = kept();
        let mistaken = |options: &[&str], said: &str| {
            let ended = project.sh(&[&[lifetime], options].concat(), "echo ran");
            ended.exits(125).says(&["fastbuild: error: ", said]);
            assert_eq!(ended.out(), "");
            assert!(
                !ended.err().contains("for one run"),
                "the option is at fault, and not the agent: {ended}"
            );
            project.assert_nothing_left();
        };
        for (options, said) in &mistakes {
            mistaken(options, said);
            assert_eq!(project.containers(), [""; 0], "{options:?} leaves a container");
        }
        json(&project, &["--exclude", "cache"], "mkdir cache; echo kept > cache/x").exits(0);
        let made = project.workspaces();
        for (options, said) in &mistakes {
            mistaken(options, said);
            assert_eq!(project.workspaces(), made, "{options:?} makes or removes a workspace");
            let ended = json(&project, &["--exclude", "cache"], "cat cache/x");
            assert_eq!((how(&ended).as_str(), ended.out().as_str()), ("found", "kept\n"), "{options:?}");
        }
    }
}

#[test]
fn a_workspace_whose_network_was_made_anew_is_made_anew_with_all_that_it_holds() {
    let project = kept();
    let network = format!("fastbuild-test-{}", project.key());
    docker(&["network", "create", &network]);
    let options = ["--network", &network, "--exclude", "cache"];
    json(&project, &options, "mkdir cache; echo kept > cache/x").exits(0);
    docker(&["stop", "--time", "0", &project.workspace().unwrap()]);
    docker(&["network", "rm", &network]);
    let gone = json(&project, &options, "true");
    gone.exits(125).says(&[&network, "not found"]);
    docker(&["network", "create", &network]);
    assert_eq!(json(&project, &options, "cat cache/x").exits(0).out(), "kept\n");
    docker(&["rm", "--force", &project.workspace().unwrap()]);
    docker(&["network", "rm", &network]);
    project.assert_nothing_left();
}

#[test]
fn what_only_the_workspace_holds_survives_a_new_image_of_that_name() {
    for route in ["layer", "volume"] {
        let project = kept();
        let image = OwnImage::new(&project);
        let options = ["-i", &image.0, "--exclude", "cache", "--route", route];
        json(&project, &options, "mkdir cache; echo kept > cache/x; touch -d @1700000000 cache/x").exits(0);
        for _ in 0..2 {
            image.renew(&image.0);
            project.write("src/0", "edited");
            let ended = json(&project, &options, "cat cache/x; stat -c %Y cache/x; cat src/0; echo $RENEWED");
            assert_eq!((how(&ended).as_str(), changes(&ended)), ("made", vec!["image".to_owned()]));
            assert_eq!(ended.out(), "kept\n1700000000\neditedyes\n", "{route}: {ended}");
            assert_eq!(project.workspaces().len(), 1);
            assert_eq!(how(&json(&project, &options, "true")), "found");
        }
        project.assert_nothing_left();
    }
}

#[test]
fn a_new_workspace_that_cannot_be_made_leaves_the_old_one_with_all_that_it_holds() {
    let project = kept();
    let image = OwnImage::new(&project);
    let options = ["-i", &image.0, "--exclude", "cache"];
    json(&project, &options, "mkdir cache; echo kept > cache/x").exits(0);
    let made = project.workspaces();
    image.renew(&image.0);
    // No engine starts that.
    let refused = project.sh(&[&options[..], &["-m", "1k"]].concat(), "true");
    refused.exits(125).says(&["memory"]);
    assert_eq!(project.workspaces(), made, "{refused}");
    assert_eq!(json(&project, &options, "cat cache/x").exits(0).out(), "kept\n");
    assert_eq!(project.workspaces().len(), 1);
}

/// What `docker create` is told for a container like `container`, as the version before this one would have made it.
fn labels_of_the_version_before(container: &str) -> Vec<String> {
    let labels = docker(&["inspect", "--format", "{{json .Config.Labels}}", container]);
    let mut labels: BTreeMap<String, String> = serde_json::from_str(&labels).unwrap();
    let generation = labels.get_mut("dev.fastbuild.generation").unwrap();
    let mut values: Vec<(String, String)> = serde_json::from_str(generation).unwrap();
    values.retain(|(what, _)| what != "image name");
    for (what, value) in &mut values {
        match what.as_str() {
            "agent" => "0.0.9-00000000".clone_into(value),
            "protocol" => "1".clone_into(value),
            _ => {}
        }
    }
    // It kept these there, and the image first.
    let image = values.iter().position(|(what, _)| what == "image").unwrap();
    values[..=image].rotate_right(1);
    *generation = serde_json::to_string(&values).unwrap();
    *labels.get_mut("dev.fastbuild.tier").unwrap() = "warm".to_owned();
    labels.iter().flat_map(|(label, value)| ["--label".to_owned(), format!("{label}={value}")]).collect()
}

#[test]
fn a_workspace_of_an_earlier_version_is_taken_over_with_what_only_it_holds() {
    for options in [&["--exclude", "cache"][..], &["--exclude", "cache", "--network", "none"]] {
        let project = kept();
        json(&project, options, "mkdir cache; echo kept > cache/x").exits(0);
        let (id, _) = project.workspaces().remove(0);
        let snapshot = format!("fastbuild/test-identity-{}:old", project.key());
        docker(&["commit", &id, &snapshot]);
        let state = fs::read_to_string(project.state().join("id")).unwrap();
        let name = format!("fastbuild-ws-{}-{}", project.key(), state.trim());
        let labels = labels_of_the_version_before(&id);
        docker(&["rm", "--force", &id]);
        let mut create = vec!["create", "--name", &name, "--entrypoint", "/.fastbuild/agent"];
        create.extend(labels.iter().map(String::as_str));
        create.extend([&snapshot, "init"]);
        docker(&create);
        for list in [&["ls", "-q"][..], &["prune", "--all", "--dry-run"]] {
            let listed = project.fastbuild(["workspace"].iter().chain(list));
            assert!(listed.exits(0).out().contains(&name), "{list:?}: {listed}");
        }

        project.write("src/0", "edited");
        fs::remove_file(project.path("src/1")).unwrap();
        let ended = json(&project, options, "cat cache/x src/0; test ! -e src/1");
        assert_eq!((how(&ended).as_str(), ended.out().as_str()), ("made", "kept\nedited"), "{ended}");
        let names: Vec<_> = project.workspaces().into_iter().map(|(_, name)| name).collect();
        assert!(names.len() == 1 && names[0] != name, "{names:?}");
        assert_eq!(how(&json(&project, options, "true")), "found");
        project.assert_nothing_left();
        docker(&["rmi", "--force", &snapshot]);
    }
}

#[test]
fn memory_and_cpus_are_set_on_the_workspace_that_is_there() {
    let project = kept();
    json(&project, &["--exclude", "cache"], "mkdir cache; echo kept > cache/x").exits(0);
    let made = project.workspaces();
    let limits = || {
        let id = project.workspace().unwrap();
        docker(&["inspect", "--format", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}", &id])
    };
    for (options, expected) in [
        (&["-m", "300m"][..], "314572800 0\n"),
        (&["-m", "200m"], "209715200 0\n"),
        (&["-m", "400m", "--cpus", "1"], "419430400 1000000000\n"),
        (&["-m", "400m", "--cpus", "1.5"], "419430400 1500000000\n"),
    ] {
        let ended = json(&project, &[&["--exclude", "cache"], options].concat(), "cat cache/x");
        assert_eq!((how(&ended).as_str(), limits().as_str()), ("found", expected), "{options:?}");
        assert_eq!(project.workspaces(), made);
    }
    // No engine takes a limit away again: what it holds goes into another one.
    let ended = json(&project, &["--exclude", "cache"], "cat cache/x");
    assert_eq!((ended.exits(0).out().as_str(), limits().as_str()), ("kept\n", "0 0\n"));
    assert_eq!(project.workspaces().len(), 1);
    project.assert_nothing_left();
}

/// A build as a CI job has it: with a home of its own.
fn job(project: &Project, number: u32, script: &str) -> Ended {
    let mut command = project.command();
    let home = project.outside().join(format!("job-{number}"));
    command.env("HOME", &home).env_remove("FASTBUILD_STATE_DIR").env("CI", "true");
    command.args(["--keep", "--progress", "json", "--exclude", "cache", "--", "sh", "-c", script]);
    Ended::from(command.output().unwrap())
}

#[test]
fn a_named_project_finds_its_workspace_from_another_home() {
    let project = kept();
    project.write("fastbuild.toml", "name = \"shop\"\n");
    assert_eq!(how(&job(&project, 0, "mkdir cache; echo kept > cache/x")), "made");
    let made = project.workspaces();
    fs::remove_file(project.path("src/1")).unwrap();
    project.write("src/0", "edited").write("src/new", "new");
    let ended = job(&project, 1, "cat cache/x src/0 src/new; test ! -e src/1");
    assert_eq!((how(&ended).as_str(), ended.out().as_str()), ("found", "kept\neditednew"), "{ended}");
    assert_eq!(project.workspaces(), made);
    // The first one is told what the second one did to it.
    project.write("src/0", "content of 0\n");
    assert_eq!(job(&project, 0, "cat src/0").exits(0).out(), "content of 0\n");
    assert_eq!(project.workspaces(), made);

    // Without a name each has one of its own, and a line says so.
    fs::remove_file(project.path("fastbuild.toml")).unwrap();
    for number in [2, 3] {
        let ended = job(&project, number, "test ! -e cache");
        assert_eq!(how(&ended), "made", "{ended}");
        ended.says(&["not-found-again"]);
    }
    for (id, _) in project.workspaces() {
        docker(&["rm", "--force", &id]);
    }
}

/// Everything that is not fastbuild's, below a root.
fn replace_all(project: &Project, with: &str, count: usize) {
    fs::remove_dir_all(project.path("src")).unwrap();
    for n in 0..count {
        project.write(format!("{with}/{n}"), format!("{with} {n}\n"));
    }
}

#[test]
fn another_project_at_that_path_has_a_workspace_of_its_own() {
    let project = kept();
    let list = "find . -type f | sort";
    json(&project, &["--exclude", "cache"], "mkdir cache; echo first > cache/x; echo made > leftover")
        .exits(0);
    let first = project.workspaces();
    fs::remove_file(project.path("leftover")).unwrap();
    replace_all(&project, "other", 20);
    let ended = json(&project, &["--exclude", "cache"], list);
    assert_eq!(how(&ended), "made", "{ended}");
    let files: Vec<_> = (0..20).map(|n| format!("./other/{n}")).collect();
    let mut found: Vec<_> = ended.out().lines().map(str::to_owned).collect();
    found.sort_by_key(|path| Path::new(path).file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap());
    assert_eq!(found, files, "{ended}");
    assert!(project.workspaces().iter().any(|workspace| !first.contains(workspace)));
    assert_eq!(how(&json(&project, &["--exclude", "cache"], list)), "found");
    project.assert_nothing_left();
}

#[test]
fn a_project_of_which_much_was_edited_is_the_same() {
    let project = kept();
    let options = ["--exclude", "cache"];
    json(&project, &options, "mkdir cache; echo kept > cache/x").exits(0);
    let made = project.workspaces();
    for n in 0..8 {
        project.write(format!("src/{n}"), "edited");
    }
    (8..16).for_each(|n| fs::remove_file(project.path(format!("src/{n}"))).unwrap());
    let ended = json(&project, &options, "cat cache/x src/7; ls src | wc -l");
    assert_eq!((how(&ended).as_str(), ended.out().as_str()), ("found", "kept\nedited12\n"), "{ended}");
    assert_eq!(project.workspaces(), made);
}

#[test]
fn what_other_outputs_leave_out_of_the_sources_is_the_same_project() {
    let project = kept();
    json(&project, &["-o", "out"], "mkdir out; for i in $(seq 200); do echo $i > out/$i; done").exits(0);
    // Of another build's outputs they are sources, and of the next one's not.
    json(&project, &["-o", "/tmp/none"], "exit 3").exits(3);
    let ended = json(&project, &["-o", "out"], "rm -rf out; mkdir out; touch out/new");
    assert!(!ended.exits(0).err().contains("other-project"), "{ended}");
    assert_eq!(
        fs::read_dir(project.path("out")).unwrap().count(),
        1,
        "what an earlier build made is this one's to delete"
    );
}
