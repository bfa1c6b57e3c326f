//! Where outputs go: what a trailing slash means, and places that cannot be written.

mod common;

use common::{Keep, Project};

const KEEPS: [Keep; 2] = [Keep::No, Keep::Yes];

#[test]
fn a_trailing_slash_follows_a_link_to_a_directory() {
    let script = "mkdir -p build-1; echo x > build-1/x; ln -sfn build-1 latest";
    for keep in KEEPS {
        let project = Project::new().keeping(keep);
        project.sh(&["-o", "latest/:got"], script).exits(0);
        assert_eq!(project.read("got/x"), "x\n", "under another name, {keep:?}");
        project.sh(&["-o", "latest/:into/"], script).exits(0);
        assert_eq!(project.read("into/latest/x"), "x\n", "into a directory, {keep:?}");
        project.sh(&["-o", "latest/"], script).exits(0);
        assert_eq!(project.read("latest/x"), "x\n", "in its own place, {keep:?}");
        assert!(project.path("latest").symlink_metadata().unwrap().is_dir(), "{keep:?}");
        assert!(!project.has("build-1"), "{keep:?}");
        project.assert_nothing_left();
    }
}

#[test]
fn a_directory_named_with_a_slash_is_synced_as_one_without() {
    for keep in KEEPS {
        let project = Project::new().keeping(keep);
        project.write("dist/mine", "a source");
        let script = "cat dist/mine; echo new > dist/new; rm -f dist/old";
        project.write("dist/old", "").sh(&["-o", "dist/"], script).exits(0);
        assert_eq!(project.tree().paths(), ["dist", "dist/mine", "dist/new"], "{keep:?}");
        let again = project.sh(&["-o", "dist/"], "cat dist/mine dist/new");
        assert_eq!(again.exits(0).out(), "a sourcenew\n", "it went up, {keep:?}");
    }
}

#[test]
fn a_slash_behind_what_is_no_directory_brings_nothing_back() {
    for keep in KEEPS {
        let project = Project::new().keeping(keep);
        project.sh(&["-o", "app/"], "echo file > app").exits(125).says(&["did not make \"app/\""]);
        project.sh(&["-o", "app/"], "ln -sfn nowhere app").exits(125).says(&["did not make \"app/\""]);
        assert_eq!(project.tree().paths(), [""; 0], "{keep:?}");
    }
}

#[test]
fn the_users_link_in_the_place_of_a_directory_is_refused_before_the_build() {
    let project = Project::new();
    project.write("real/x", "");
    std::os::unix::fs::symlink("real", project.path("latest")).unwrap();
    let ended = project.sh(&["-o", "latest/"], "echo ran");
    ended.exits(125).says(&["is a symbolic link", "name its target"]);
    assert_eq!(ended.out(), "");
}
