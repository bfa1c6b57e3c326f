//! Images that the engine has to fetch: when it is asked to, what is told meanwhile, with whose credentials, and what a
//! user reads when it does not work. Against a real registry on a loopback port.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _};

use crate::common::registry;
use crate::common::registry::{MEMBER, ODD_MEMBER, Registry, WRONG};
use crate::common::{Ended, Project, docker};

/// `fastbuild OPTIONS… -i IMAGE -- cat /what`
fn cat(project: &Project, options: &[&str], image: &str) -> Ended {
    project.fastbuild(options.iter().chain(&["-i", image, "--", "cat", "/what"]))
}

/// A run's JSON events.
fn events(ended: &Ended) -> Vec<serde_json::Value> {
    ended.err().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn assert_refused(ended: &Ended, image: &str, parts: &[&str]) {
    ended.exits(125).says(&[image]).says(parts);
    assert!(ended.stdout.is_empty(), "{ended}");
}

#[test]
fn a_missing_image_is_pulled_once_and_its_layers_are_told() {
    let registry = Registry::for_all();
    let image = registry.publish("missing", "one");
    image.take_off_engine();
    let project = Project::new();
    let pulled = cat(&project, &["--progress", "json"], &image.reference);
    assert_eq!(pulled.exits(0).out(), "one");
    let events_of_pull: Vec<_> = events(&pulled)
        .into_iter()
        .skip_while(|event| event["event"] != "phase-started" || event["phase"] != "pull")
        .take_while(|event| event["event"] != "phase-ended" || event["phase"] != "pull")
        .collect();
    let layers: Vec<_> = events_of_pull.iter().filter(|event| event["event"] == "pull-progress").collect();
    let has = |status: &str| layers.iter().any(|event| event["status"] == status && event["layer"] != "");
    assert!(has("Already exists") && has("Pull complete"), "{pulled}");
    let ids: BTreeSet<_> = layers.iter().filter_map(|event| event["layer"].as_str()).collect();
    assert_eq!(ids.iter().filter(|id| !id.is_empty()).count(), 2, "the base and one more: {pulled}");
    // The engine and fastbuild thin out what lies between; the layer has a mebibyte.
    let is_on_the_way = |event: &&serde_json::Value| {
        event["status"] == "Downloading"
            && event["current"].as_u64() > Some(0)
            && event["total"].as_u64() >= Some(1 << 20)
    };
    assert!(layers.iter().any(is_on_the_way), "{pulled}");

    let again = cat(&project, &["--progress", "json", "--pull", "missing"], &image.reference);
    assert_eq!(again.exits(0).out(), "one");
    let about_pulls =
        |event: &serde_json::Value| event["event"] == "pull-progress" || event["phase"] == "pull";
    assert!(!events(&again).iter().any(about_pulls), "{again}");
    project.assert_nothing_left();
}

#[test]
fn a_pull_in_plain_lines_has_no_escape_codes_and_leaves_stdout_to_the_build() {
    let registry = Registry::for_all();
    let image = registry.publish("plain", "one");
    image.take_off_engine();
    let project = Project::new();
    let pulled = cat(&project, &["--progress", "plain"], &image.reference);
    assert_eq!(pulled.exits(0).out(), "one");
    pulled.says(&["fastbuild: pulling the image\n", "fastbuild: cat ", " s\n"]);
    assert!(!pulled.err().contains(['\x1b', '\r']), "{pulled}");
    let again = cat(&project, &["--progress", "plain"], &image.reference);
    assert!(!again.exits(0).err().contains("pull"), "{again}");
}

#[test]
fn pull_always_gets_what_the_registry_has_now_and_pull_missing_stays_with_what_is_there() {
    let mut registry = Registry::for_all();
    let old = registry.publish("tag", "old");
    let new = registry.publish("tag", "new");
    assert_eq!(old.reference, new.reference);
    docker(&["tag", &old.id, &old.reference]);
    let project = Project::new();
    let run = |policy: &str| cat(&project, &["--pull", policy], &new.reference);
    assert_eq!(run("missing").exits(0).out(), "old");
    assert_eq!(run("never").exits(0).out(), "old");
    assert_eq!(run("always").exits(0).out(), "new");
    assert_eq!(run("missing").exits(0).out(), "new");
    registry.stop();
    assert_eq!(run("missing").exits(0).out(), "new");
    let unreachable = run("always");
    let parts = ["does not reach the registry", "--pull never uses an image that the engine has already"];
    assert_refused(&unreachable, &new.reference, &parts);
    project.assert_nothing_left();
}

#[test]
fn pull_never_asks_no_registry_and_says_how_to_get_the_image() {
    let registry = Registry::for_all();
    let image = registry.publish("never", "one");
    image.take_off_engine();
    let project = Project::new();
    let refused = cat(&project, &["--pull", "never"], &image.reference);
    let advice = format!("try: pull it (docker pull {}), or leave out --pull never", image.reference);
    assert_refused(&refused, &image.reference, &["the engine does not have image", &advice]);
    assert!(!image.is_on_engine());
    docker(&["pull", &image.reference]);
    assert_eq!(cat(&project, &["--pull", "never"], &image.reference).exits(0).out(), "one");
}

#[test]
fn an_image_that_cannot_be_had_is_told_apart_by_the_reason() {
    let registry = Registry::for_all();
    let image = registry.publish("there", "one");
    let project = Project::new();
    let not_found = ["was not found", "try: check the name and the tag"];
    let other_platform = ["does not exist for the platform", "try: leave out --platform"];
    let no_registry = ["does not reach the registry", "try: check the engine's network"];
    let cases: &[(String, &[&str], &[&str])] = &[
        (format!("{}/absent:1", registry.address), &[], &not_found),
        (format!("{}/there:2", registry.address), &[], &not_found),
        (format!("{}/there@sha256:{}", registry.address, "0".repeat(64)), &[], &not_found),
        (image.reference.clone(), &["--platform", "linux/s390x"], &other_platform),
        // No process listens there.
        ("127.0.0.1:1/any:1".to_owned(), &[], &no_registry),
    ];
    for (reference, options, parts) in cases {
        assert_refused(&cat(&project, options, reference), reference, parts);
    }
    project.assert_nothing_left();
}

#[test]
fn a_name_that_only_the_engine_refuses_gets_the_advice_too() {
    let project = Project::new();
    for image in ["UPPER/case", "busybox@sha1:0123456789012345678901234567890123456789"] {
        for policy in ["missing", "always", "never"] {
            let refused = cat(&project, &["--pull", policy], image);
            let parts = ["for the name of an image", "try: an image is named as in `docker pull`"];
            assert_refused(&refused, image, &parts);
        }
    }
}

#[test]
fn a_private_image_is_pulled_with_what_docker_login_left() {
    let registry = Registry::for_members();
    let image = registry.publish("private", "one");
    let home = |project: &Project| project.outside().join("home/.docker");

    for (what, login) in [("no credentials", None), ("a wrong password", Some(WRONG))] {
        image.take_off_engine();
        let project = Project::new();
        if let Some(member) = login {
            registry.log_in(&home(&project), &member);
        }
        let denied = cat(&project, &[], &image.reference);
        let parts = ["the registry does not give out image", "log in with `docker login`"];
        assert_refused(&denied, &image.reference, &parts);
        assert!(!image.is_on_engine(), "{what}");
    }
    for member in [MEMBER, ODD_MEMBER] {
        let project = Project::new();
        registry.log_in(&home(&project), &member);
        assert_eq!(cat(&project, &[], &image.reference).exits(0).out(), "one", "{}", member.auth);
        image.take_off_engine();
    }
    let project = Project::new();
    registry.log_in(&home(&project), &WRONG);
    registry.log_in(&project.outside().join("elsewhere"), &MEMBER);
    let mut command = project.command();
    command.env("DOCKER_CONFIG", project.outside().join("elsewhere"));
    command.args(["-i", &image.reference, "--", "cat", "/what"]);
    assert_eq!(
        Ended::from(command.output().unwrap()).exits(0).out(),
        "one",
        "DOCKER_CONFIG goes before HOME"
    );
}

/// Makes `script` the credential helper for `registry`, and runs `cat` with it.
fn cat_with_helper(project: &Project, registry: &Registry, script: &str, image: &str) -> Ended {
    let (home, bin) = (project.outside().join("home/.docker"), project.outside().join("bin"));
    fs::create_dir_all(&home).unwrap();
    fs::create_dir_all(&bin).unwrap();
    let config = serde_json::json!({"credHelpers": {&registry.address: "test"}});
    fs::write(home.join("config.json"), config.to_string()).unwrap();
    let helper = bin.join("docker-credential-test");
    fs::write(&helper, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = project.command();
    command.env("PATH", format!("{}:/usr/bin:/bin", bin.to_str().unwrap()));
    command.args(["-vv", "-i", image, "--", "cat", "/what"]);
    Ended::from(command.output().unwrap())
}

#[test]
fn a_credential_helper_is_asked_and_a_broken_one_hinders_no_public_pull() {
    let (private, public) = (Registry::for_members(), Registry::for_all());
    let images = [private.publish("helped", "one"), public.publish("anyones", "two")];
    images.iter().for_each(registry::Published::take_off_engine);
    let project = Project::new();
    let helper = format!(
        "test \"$1 $(cat)\" = 'get {}' && echo '{{\"Username\":\"tester\",\"Secret\":\"secret\"}}'",
        private.address
    );
    let helped = cat_with_helper(&project, &private, &helper, &images[0].reference);
    assert_eq!(helped.exits(0).out(), "one");

    let broken = "cat >/dev/null; echo a-secret; echo the keyring is locked >&2; exit 1";
    let anonymous = cat_with_helper(&project, &public, broken, &images[1].reference);
    assert_eq!(anonymous.exits(0).out(), "two");
    anonymous.says(&["the keyring is locked"]);
    assert!(!anonymous.err().contains("a-secret"), "{anonymous}");
    project.assert_nothing_left();
}
