//! Rule 4 when fastbuild dies: each file is the old or the new one, and the next start finishes what was cut short.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::common::process::Gated;
use crate::common::{Project, Tree, eventually, read_until};

const FILES: usize = 1500;

/// Some thousand products of one version: half of them in every version, a part only in its own.
fn build(version: u32) -> String {
    format!(
        "rm -rf out/turn out/link out/sub/v2 out/sub/v1/[0-9]*; mkdir -p out/sub/v{version} out/turn; cd out
         seq {FILES} | while read i; do echo {version} $i > $i; done
         seq 300 | while read i; do echo {version} > sub/v{version}/$i; done
         ln -s {version} link; echo {version} > way; chmod 750 sub
         [ {version} = 1 ] && echo file > turn/x || {{ mkdir turn/x; echo {version} > turn/x/y; }}"
    )
}

/// What the build of `version` makes, as the host should have it.
fn products(version: u32) -> BTreeMap<String, String> {
    let mut products: BTreeMap<_, _> =
        (1..=FILES).map(|file| (file.to_string(), format!("{version} {file}\n"))).collect();
    products.extend((1..=300).map(|file| (format!("sub/v{version}/{file}"), format!("{version}\n"))));
    products.insert("link".into(), version.to_string());
    products.insert("way".into(), format!("{version}\n"));
    let (turned, content) = if version == 1 { ("turn/x", "file\n") } else { ("turn/x/y", "2\n") };
    products.insert(turned.into(), content.into());
    products
}

/// Files and links below `out`, with content or target.
fn found(project: &Project) -> BTreeMap<String, String> {
    let tree = Tree::of(&project.path("out")).0.into_iter().filter(|(_, node)| node.kind != 'd');
    let text = |bytes| String::from_utf8(bytes).unwrap();
    tree.map(|(path, node)| (text(path), text(node.content))).collect()
}

fn start(project: &Project, options: &[&str], script: &str) -> Child {
    let mut command = project.command();
    command.args(["--progress", "json"]).args(options).args(["--", "sh", "-c", script]);
    command.stdout(Stdio::null()).spawn().unwrap()
}

/// Reads the child's events until `phase` has begun.
fn await_phase(child: &mut Child, phase: &str) {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let began = format!("\"phase\":\"{phase}\"");
    let line = lines
        .by_ref()
        .map_while(Result::ok)
        .find(|line| line.contains("phase-started") && line.contains(&began));
    assert!(line.is_some(), "the phase {phase} never began");
    // The rest is read as well: a full pipe would hold the child up.
    std::thread::spawn(move || lines.for_each(drop));
}

/// The reapers of this project's runs.
fn reapers(project: &Project) -> Vec<u32> {
    let state = project.state();
    let ours = |pid: &u32| {
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
        let mut words = line.split(|&b| b == 0).skip(1);
        words.next() == Some(b"__reap") && words.next() == Some(state.as_os_str().as_bytes())
    };
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(ours).collect()
}

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

/// Kills fastbuild so that nothing of it is left to tidy up.
fn kill_with_reaper(project: &Project, mut child: Child) {
    let reapers = reapers(project);
    // The reaper first, or it would begin at once.
    reapers.into_iter().for_each(kill);
    child.kill().unwrap();
    child.wait().unwrap();
}

fn journal(project: &Project) -> Option<PathBuf> {
    let projects = fs::read_dir(project.state().join("projects")).unwrap().flatten();
    projects.map(|project| project.path().join("journal")).find(|journal| journal.exists())
}

fn displaced(project: &Project) -> Vec<String> {
    let mut found = Vec::new();
    for key in fs::read_dir(project.state().join("projects")).unwrap().flatten() {
        let tree = Tree::of(&key.path().join("displaced"));
        let files = tree.0.into_values().filter(|node| node.kind == 'f');
        found.extend(files.map(|node| String::from_utf8(node.content).unwrap()));
    }
    found.sort();
    found
}

/// A project whose products are of version 1, with files of the user's among them.
fn project_of_version_1() -> Project {
    let project = Project::new();
    // A tenth of what is sent stays as it is: with less, this would be another project.
    for file in 0..300 {
        project.write(format!("src/{file}"), "s");
    }
    project.sh(&["-q", "-o", "out"], &build(1)).exits(0);
    assert_eq!(found(&project), products(1));
    project.write("out/mine", "mine").write("out/sub/v1/mine", "mine").write("out/sub/v2", "in the way");
    project.write("out/7", "my edit");
    project
}

/// What `project_of_version_1` must have become when version 2 is in place.
fn assert_version_2(project: &Project) {
    let mut expected = products(2);
    expected.insert("mine".into(), "mine".into());
    expected.insert("sub/v1/mine".into(), "mine".into());
    assert_eq!(found(project), expected);
    assert_eq!(displaced(project), ["in the way", "my edit"]);
    let modes = Tree::of(&project.path("out")).0;
    assert_eq!(modes[b"sub".as_slice()].mode, 0o750);
    assert_eq!(modes[b"sub/v2".as_slice()].mode, 0o755);
}

/// Every file is wholly one or wholly the other version, and nothing of the user's is gone.
fn assert_whole_files(project: &Project) {
    let (old, new) = (products(1), products(2));
    let found = found(project);
    for (path, content) in &found {
        let whole = old.get(path) == Some(content) || new.get(path) == Some(content);
        let user = matches!(&**content, "mine" | "my edit" | "in the way");
        assert!(whole || user, "{path} holds {content:?}");
    }
    assert_eq!(found["mine"], "mine");
    for (path, _) in old.iter().filter(|(path, _)| new.contains_key(*path)) {
        assert!(found.contains_key(path), "{path} is missing, and both versions have it");
    }
}

/// Kills fastbuild when the file `seen` has its new content; false when it was done before.
fn kill_at(project: &Project, options: &[&str], seen: &str) -> bool {
    let mut child = start(project, options, &build(2));
    await_phase(&mut child, "apply");
    let new = &products(2)[seen];
    let path = project.path("out").join(seen);
    while fs::read_to_string(&path).ok().as_ref() != Some(new) && child.try_wait().unwrap().is_none() {}
    kill_with_reaper(project, child);
    journal(project).is_some()
}

/// A removal that a killed run had asked for may still be under way. Then no client can ask for it again, and this
/// waits for its end.
#[track_caller]
fn assert_nothing_left_soon(project: &Project) {
    eventually("the containers are gone", || project.containers().is_empty());
    // One start may be unable to clear something away, such as a container that is already being removed. The next
    // start does.
    project.sh(&["-q"], "true").exits(0);
    project.assert_nothing_left();
}

/// What `journal` says is lost, what it was about is not.
#[test]
fn a_journal_that_cannot_be_read_costs_no_file() {
    let project = project_of_version_1();
    let mut child = start(&project, &["-o", "out"], &build(2));
    await_phase(&mut child, "apply");
    while journal(&project).is_none() && child.try_wait().unwrap().is_none() {}
    kill_with_reaper(&project, child);
    let Some(journal) = journal(&project) else { return };
    let staged: usize = project.stages().iter().map(|stage| fs::read_dir(stage).unwrap().count()).sum();
    fs::write(journal, "{").unwrap();
    project.sh(&["-o", "/tmp/x:x"], "echo > /tmp/x").exits(0).says(&["cannot be read", "fastbuild-kept-"]);
    let kept = fs::read_dir(project.root()).unwrap().flatten();
    let kept = kept.filter(|entry| entry.file_name().to_string_lossy().starts_with("fastbuild-kept-"));
    let kept: usize = kept.map(|stage| fs::read_dir(stage.path()).unwrap().count()).sum();
    assert_eq!(kept, staged);
    assert_nothing_left_soon(&project);
}

#[test]
fn files_are_whole_after_a_kill_and_the_next_run_finishes_the_apply() {
    let mut cut_short = 0;
    // In the order in which steps are carried out: early, in the middle, late.
    for seen in ["1", "1250", "999"] {
        let project = project_of_version_1();
        let cut = kill_at(&project, &["-o", "out"], seen);
        assert_whole_files(&project);
        if cut {
            cut_short += 1;
            // Any run finishes it, one that fails as well.
            let ended = project.sh(&["-o", "/tmp/none"], "exit 3");
            ended.exits(3).says(&["an earlier run was cut short"]);
        }
        assert_version_2(&project);
        // What was recorded is as good as after a run that was not killed: nothing is the user's that was not before.
        project.sh(&["-q", "-o", "out"], "rm -rf out/*").exits(0);
        assert!(found(&project).is_empty());
        assert_eq!(displaced(&project), ["in the way", "mine", "mine", "my edit"]);
        assert_nothing_left_soon(&project);
    }
    assert!(cut_short > 0, "no kill came in time");
}

#[test]
fn who_removes_the_output_after_a_kill_can_build_again() {
    let project = project_of_version_1();
    kill_at(&project, &["-o", "out"], "1250");
    fs::remove_dir_all(project.path("out")).unwrap();
    for _ in 0..2 {
        project.sh(&["-q", "-o", "out"], &build(2)).exits(0);
        let found = found(&project);
        assert!(products(2).iter().all(|(path, content)| found.get(path) == Some(content)));
    }
    assert_nothing_left_soon(&project);
}

#[test]
fn a_run_that_began_before_the_kill_finishes_the_dead_ones_apply_before_its_own() {
    let mut cut_short = 0;
    for seen in ["1", "1250"] {
        let project = project_of_version_1();
        let late = Gated::start(&project, &["-o", "late"], "echo late > late");
        cut_short += u32::from(kill_at(&project, &["-o", "out"], seen));
        late.go_on().exits(0);
        assert_version_2(&project);
        assert_eq!(project.read("late"), "late\n");
        assert_nothing_left_soon(&project);
    }
    assert!(cut_short > 0, "no kill came in time");
}

#[test]
fn the_reaper_finishes_the_apply_when_only_fastbuild_dies() {
    let project = project_of_version_1();
    let mut child = start(&project, &["-o", "out"], &build(2));
    await_phase(&mut child, "apply");
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the reaper is done", || reapers(&project).is_empty());
    let version_2 = project.read("out/1") == "2 1\n";
    match version_2 {
        true => {
            assert_version_2(&project);
            // No client was there to report it to.
            project.sh(&[], "true").exits(0).says(&["displaced", "/out/7", "/out/sub/v2", "recover get"]);
            assert!(!project.sh(&[], "true").exits(0).err().contains("displaced"), "it is told once");
        }
        // Killed before the journal was written: as good as a kill while staging.
        false => assert_whole_files(&project),
    }
    assert_nothing_left_soon(&project);
}

#[test]
fn a_run_that_is_killed_while_it_stages_leaves_the_host_as_it_was() {
    let project = project_of_version_1();
    let before = project.tree();
    let mut child = start(
        &project,
        &["-o", "out"],
        &format!("{}; dd if=/dev/zero of=zeros bs=1M count=400 2>&1", build(2)),
    );
    await_phase(&mut child, "collect");
    while project.stages().is_empty() && child.try_wait().unwrap().is_none() {}
    kill_with_reaper(&project, child);
    let stages = project.stages();
    assert_eq!(stages.len(), 1, "it was killed while it staged");
    let mut after = project.tree();
    after.0.retain(|path, _| !path.starts_with(b".fastbuild-stage-"));
    assert_eq!(after, before);
    project.sh(&["-q", "-o", "/tmp/x:x"], "echo > /tmp/x").exits(0);
    assert_eq!(found(&project)["1"], "1 1\n");
    assert_nothing_left_soon(&project);
}

#[test]
fn an_exchange_that_is_killed_is_done_or_not() {
    let project = project_of_version_1();
    let before = found(&project);
    let mut child = start(&project, &["--atomic", "-o", "out"], &build(2));
    await_phase(&mut child, "apply");
    // The moment in which the whole new tree is prepared and not yet in place is short; until then nothing may show.
    while journal(&project).is_none() && child.try_wait().unwrap().is_none() {
        assert_eq!(project.read("out/mine"), "mine");
    }
    kill_with_reaper(&project, child);
    let cut = journal(&project).is_some();
    let now = found(&project);
    assert!(now == before || now["1"] == "2 1\n", "a mixture");
    project.write("out/mine", "edited since");
    project.sh(&["-q", "-o", "/tmp/x:x"], "echo > /tmp/x").exits(0);
    assert_eq!(project.read("out/mine"), "edited since", "cut: {cut}");
    project.write("out/mine", "mine");
    assert_version_2(&project);
    assert_nothing_left_soon(&project);
}

#[test]
fn what_a_killed_run_left_in_its_project_is_not_forgotten_by_a_run_of_another() {
    let project = Project::new();
    project.write("a", "a");
    let mut child =
        project.start(&["--route", "mount-source", "-o", "deep/out"], "echo ready; cat /dev/zero >/dev/null");
    read_until(child.stdout.as_mut().unwrap(), "ready");
    // The reaper is killed, too: no process cleans up before the next start.
    kill_with_reaper(&project, child);
    let other = project.outside().join("other");
    fs::create_dir(&other).unwrap();
    let mut command = project.command();
    command.current_dir(&other).args(["--", "true"]);
    crate::common::Ended::from(command.output().unwrap()).exits(0);
    assert!(project.has("deep/out"), "another project's run has no business there");
    project.sh(&[], "true").exits(0);
    assert_eq!(project.tree().paths(), ["a"]);
    project.assert_nothing_left();
}
