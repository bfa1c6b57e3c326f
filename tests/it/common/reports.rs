//! What warm tests ask of a run and of a workspace.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Ended, Project, docker};

/// Prints each path of the source tree with what a build can see of it. For names without spaces, and on both sides the
/// same busybox's applets.
pub const LIST: &str = "find . -mindepth 1 | sort | while read -r p; do stat -c '%n %f %Y' \"$p\"; \
                        if [ -L \"$p\" ]; then readlink \"$p\"; elif [ -f \"$p\" ]; then sha256sum < \"$p\"; fi; done";

/// The events of a run with `--progress json`.
pub fn events(ended: &Ended) -> Vec<Value> {
    let err = ended.err();
    let own = err.lines().filter(|line| line.starts_with("{\"fastbuild\":"));
    own.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The first event of that name; null when there is none.
pub fn event(ended: &Ended, name: &str) -> Value {
    events(ended).into_iter().find(|event| event["event"] == name).unwrap_or_default()
}

/// How many files went up.
#[track_caller]
pub fn uploaded(ended: &Ended) -> u64 {
    moved(ended, "upload", "files")
}

/// How many bytes of files went up.
#[track_caller]
pub fn uploaded_bytes(ended: &Ended) -> u64 {
    moved(ended, "upload", "bytes")
}

/// How many products came back.
#[track_caller]
pub fn collected(ended: &Ended) -> u64 {
    moved(ended, "collect", "files")
}

/// A phase that did not come about moved nothing; the run must have come to its end.
#[track_caller]
fn moved(ended: &Ended, phase: &str, what: &str) -> u64 {
    assert_eq!(event(ended, "finished")["event"], "finished", "{ended}");
    let of = |event: &Value| event["event"] == "phase-ended" && event["phase"] == phase;
    events(ended).iter().find(|event| of(event)).map_or(0, |event| event["done"][what].as_u64().unwrap())
}

/// Runs `fastbuild --progress json OPTIONS… -- sh -c SCRIPT`.
pub fn json(project: &Project, options: &[&str], script: &str) -> Ended {
    let options: Vec<_> = ["--progress", "json"].iter().chain(options).copied().collect();
    project.sh(&options, script)
}

/// Runs a shell's script in the running workspace, as root and in the source root.
#[track_caller]
pub fn in_workspace(project: &Project, script: &str) -> String {
    let workspace = project.workspace().expect("a workspace");
    docker(&["exec", "-u", "0", "-w", "/workspace", &workspace, "sh", "-c", script])
}

/// What [`LIST`] prints of the host's tree.
pub fn host_list(project: &Project) -> String {
    let mut list = Command::new("busybox");
    list.args(["sh", "-c", LIST]).current_dir(project.root()).env_clear().stdin(Stdio::null());
    Ended::from(list.output().unwrap()).exits(0).out()
}

/// A build sees what the host has.
#[track_caller]
pub fn sees_the_host(project: &Project, options: &[&str]) -> Ended {
    let ended = json(project, options, LIST);
    assert_eq!(ended.exits(0).out(), host_list(project), "{}", ended.err());
    ended
}
