//! Rule 13: a build never changes its place in silence. An engine or an image that is named anywhere is used, or the build
//! fails. This machine itself is taken only where neither is named, and that is announced.

use std::{fs, path::PathBuf, process::Command};

use crate::common::{BUSYBOX, Ended, Project, SOCKET};
use sha2::{Digest as _, Sha256};

fn run(mut command: Command, args: &[&str]) -> Ended {
    command.args(args).output().unwrap().into()
}

/// Under which docker keeps a context.
fn key(name: &str) -> String {
    Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A configuration directory of the docker client with these contexts.
fn contexts(project: &Project, current: &str, contexts: &[(&str, &str)]) -> PathBuf {
    let directory = project.outside().join("docker");
    for (name, address) in contexts {
        let meta = directory.join("contexts/meta").join(key(name));
        fs::create_dir_all(&meta).unwrap();
        let text = format!(r#"{{"Name":"{name}","Endpoints":{{"docker":{{"Host":"{address}"}}}}}}"#);
        fs::write(meta.join("meta.json"), text).unwrap();
    }
    fs::write(directory.join("config.json"), format!(r#"{{"currentContext":"{current}"}}"#)).unwrap();
    directory
}

#[test]
fn where_nobody_names_an_engine_or_an_image_this_machine_builds_and_says_so_first() {
    let project = Project::new();
    for options in [&["--"][..], &["-q", "--"]] {
        let ended =
            run(project.command_without_engine(), &[options, &["sh", "-c", "echo the command >&2"]].concat());
        ended.exits(0).says(&["on this machine, without a container", "there is no /var/run/docker.sock"]);
        assert!(ended.err().ends_with("the command\n") || options.len() == 1, "it is said before: {ended}");
    }
    let json = run(project.command_without_engine(), &["-q", "--progress", "json", "--", "true"]);
    json.exits(0).says(&["\"warning\":\"builds-here\""]);
}

#[test]
fn an_engine_or_an_image_that_is_named_anywhere_is_used_or_the_build_fails() {
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)], &'a [&'a str]);
    let rows: [Row<'_>; 9] = [
        (&[], &[], &["-i", BUSYBOX]),
        (&[], &[], &["-H", "unix:///no.sock"]),
        (&[], &[("FASTBUILD_IMAGE", BUSYBOX)], &[]),
        (&[], &[("FASTBUILD_HOST", "unix:///no.sock")], &[]),
        (&[], &[("DOCKER_HOST", "unix:///no.sock")], &[]),
        (&[("fastbuild.toml", "image = 'x'")], &[], &[]),
        (&[("fastbuild.toml", "host = 'unix:///no.sock'")], &[], &[]),
        (&[(".devcontainer.json", r#"{"image": "x"}"#)], &[], &[]),
        (&[(".devcontainer.json", r#"{"build": {"dockerfile": "Dockerfile"}}"#)], &[], &[]),
    ];
    for (files, vars, options) in rows {
        let project = Project::new();
        files.iter().for_each(|(name, text)| {
            project.write(name, text);
        });
        let mut command = project.command_without_engine();
        command.envs(vars.iter().copied());
        let ended = run(command, &[options, &["--", "sh", "-c", "echo made > made"]].concat());
        assert!(!project.has("made"), "{files:?} {vars:?} {options:?}: {ended}");
        ended.exits(125);
    }
}

#[test]
fn the_current_docker_context_is_used_and_named_in_errors() {
    let project = Project::new();
    let at = |current: &str, variables: &[(&str, &str)]| {
        let gone = [
            ("gone", "unix:///gone.sock"),
            ("there", "unix:///var/run/docker.sock"),
            ("far", "ssh://me@far"),
        ];
        let mut command = project.command();
        command.env("DOCKER_CONFIG", contexts(&project, current, &gone)).envs(variables.iter().copied());
        run(command, &["--", "true"])
    };
    at("gone", &[]).exits(125).says(&["unix:///gone.sock does not exist", "docker context \"gone\""]);
    at("there", &[]).exits(0);
    at("gone", &[("DOCKER_CONTEXT", "there")]).exits(0);
    at("gone", &[("DOCKER_HOST", &format!("unix://{SOCKET}"))]).exits(0);
    at("default", &[]).exits(0);
    at("far", &[]).exits(125).says(&["docker context \"far\"", "ssh is not supported yet"]);
    fs::create_dir_all(project.outside().join(format!("docker/contexts/tls/{}/docker", key("far")))).unwrap();
    at("far", &[]).exits(125).says(&["docker context \"far\"", "TLS is not supported yet"]);
    at("nowhere", &[]).exits(125).says(&["docker context \"nowhere\"", "docker context ls"]);
}

#[test]
fn the_proxies_of_dockers_own_configuration_are_the_commands_unless_it_is_given_others() {
    let project = Project::new();
    let directory = project.outside().join("docker");
    fs::create_dir(&directory).unwrap();
    let config =
        r#"{"proxies":{"default":{"httpProxy":"http://p:1","noProxy":"a"},"tcp://x":{"noProxy":"b"}}}"#;
    fs::write(directory.join("config.json"), config).unwrap();
    let script = "echo $HTTP_PROXY $http_proxy $NO_PROXY";
    let mut command = project.command();
    command.env("DOCKER_CONFIG", &directory);
    let ended = run(command, &["-e", "HTTP_PROXY=mine", "--", "sh", "-c", script]);
    let docker = Command::new("docker")
        .env("DOCKER_CONFIG", &directory)
        .args(["run", "--rm", "-e", "HTTP_PROXY=mine", BUSYBOX, "sh", "-c", script])
        .output()
        .unwrap();
    assert_eq!(ended.exits(0).stdout, docker.stdout);
    assert_eq!(ended.out(), "mine http://p:1 a\n");
}

#[test]
fn a_workspace_kept_in_ci_without_a_name_is_said_not_to_be_found_again() {
    let project = Project::new();
    let build = || {
        let mut command = project.command();
        command.env("CI", "true").env_remove("FASTBUILD_KEEP");
        run(command, &["--keep", "--", "true"])
    };
    build().exits(0).says(&["will not find this workspace again; name ="]);
    assert!(!build().err().contains("will not find"), "this state directory is kept, as it seems");
    let named = Project::new();
    named.write("fastbuild.toml", "name = \"blog\"\n");
    let mut command = named.command();
    command.env("CI", "true");
    let ended = run(command, &["--keep", "--", "true"]);
    assert!(!ended.exits(0).err().contains("will not find"), "{ended}");
    let plan = named.fastbuild(["plan", "--json", "--", "true"]).out();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&plan).unwrap()["name"]["value"], "blog");
}
