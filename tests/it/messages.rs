//! What users see, one text for each area: both streams and the exit code of each command line. Read
//! `messages/*.snap` as one text; `INSTA_UPDATE=always cargo test --test it messages::` writes them anew.
//!
//! What differs from run to run stands there as a word: `[seconds]`, `[home]`, `[id]`.

use std::process::Command;

use regex::Regex;

use crate::common::{Ended, Project};

/// Runs each line of `script` by a shell in `project`, with `fastbuild` in `PATH`, and writes down what came of it.
fn transcript(project: &Project, script: &str) -> String {
    let bin = project.outside().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let own = project.command();
    let _ = std::os::unix::fs::symlink(own.get_program(), bin.join("fastbuild"));
    let mut told = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).env_clear().current_dir(project.root());
        shell.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", bin.to_str().unwrap()));
        let Ended { code, stdout, stderr } = Ended::from(shell.output().unwrap());
        told += &format!("$ {line}\n");
        for (mark, stream) in [("", stdout), ("! ", stderr)] {
            for line in String::from_utf8(stream).unwrap().lines() {
                told += format!("{mark}{line}").trim_end();
                told.push('\n');
            }
        }
        told += &format!("[exit {code}]\n\n");
    }
    steady(told, project)
}

/// `told` without what differs from run to run.
fn steady(told: String, project: &Project) -> String {
    let told = told.replace(project.outside().to_str().unwrap(), "[home]").replace(&project.key(), "[key]");
    let rules = [
        (r"fastbuild-ws-[0-9a-z\[\]-]+", "[workspace]"),
        (r"\b\d+\.\d+ s\b", "[seconds]"),
        (r"\b\d+s ago\b", "[ago]"),
        (r"\b[0-9a-f]{12,64}\b", "[id]"),
        (r"Docker \S+ \(API \S+\)", "Docker [version]"),
        (r"the sources lie on [^)]+", "the sources lie on [disk]"),
        (r"\d+\.\d MB", "[size]"),
    ];
    rules.iter().fold(told, |told, (pattern, word)| {
        Regex::new(pattern).unwrap().replace_all(&told, *word).into_owned()
    })
}

/// Holds the area's text against the one that was read and agreed to.
#[track_caller]
fn assert_told(area: &str, told: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("messages");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(area, told));
}

#[test]
fn of_command_lines_that_cannot_be_right() {
    let project = Project::new();
    project.write("file", "");
    let told = transcript(
        &project,
        "
        fastbuild
        fastbuild --
        fastbuild --imagine busybox -- true
        fastbuild stauts
        fastbuild watch
        fastbuild clean
        fastbuild why
        fastbuild workspace
        fastbuild recover get
        fastbuild --memory lots -- true
        fastbuild --cpus some -- true
        fastbuild --grace soon -- true
        fastbuild --route train -- true
        fastbuild --platform linux -- true
        fastbuild --cache :x -- true
        fastbuild -e =x -- true
        fastbuild --env-file missing -- true
        fastbuild -C missing -- true
        fastbuild -C file -- true
        fastbuild -C / -- true
        fastbuild -o ../beside -- true
        fastbuild -o '' -- true
        fastbuild -w relative -- true
        fastbuild --keep --no-keep --fresh -- true
        fastbuild trust
        ",
    );
    assert_told("command_lines", &told);
}

#[test]
fn of_settings_that_cannot_be_right() {
    let project = Project::new();
    let told = transcript(
        &project,
        r#"
        echo 'image = ' > fastbuild.toml; fastbuild -- true
        echo 'imge = "busybox"' > fastbuild.toml; fastbuild -- true
        echo 'image = 7' > fastbuild.toml; fastbuild -- true
        echo 'memory = "lots"' > fastbuild.toml; fastbuild -- true
        echo 'route = "train"' > fastbuild.toml; fastbuild -- true
        echo 'outputs = ["../beside"]' > fastbuild.toml; fastbuild -- true
        echo 'outputs = ["out:/elsewhere"]' > fastbuild.toml; fastbuild -- true
        echo '' > fastbuild.toml; FASTBUILD_KEEP=perhaps fastbuild -- true
        FASTBUILD_MEMORY=lots fastbuild -- true
        FASTBUILD_IMAGE= fastbuild -- true
        env -u FASTBUILD_IMAGE fastbuild -- ./configure
        "#,
    );
    assert_told("settings", &told);
}

#[test]
fn of_engines_and_images_that_are_not_there() {
    let project = Project::new();
    let told = transcript(
        &project,
        "
        DOCKER_HOST=unix:///nowhere.sock fastbuild -- true
        DOCKER_HOST=unix:///nowhere.sock fastbuild status
        DOCKER_HOST=unix:///nowhere.sock fastbuild workspace ls
        DOCKER_HOST=gopher://engine fastbuild -- true
        fastbuild -H tcp://127.0.0.1:1 -- true
        fastbuild -i fastbuild/no-such-image --pull never -- true
        fastbuild -i 'Not An Image' -- true
        fastbuild --network no-such-network -- true
        fastbuild -u no-such-user -- true
        ",
    );
    assert_told("engines", &told);
}

#[test]
fn of_builds() {
    let project = Project::new();
    project.write("src/main", "text\n").write("script", "echo\n");
    let told = transcript(
        &project,
        "
        fastbuild -- sh -c 'mkdir out; cp src/main out/'
        fastbuild -o out -- sh -c 'mkdir -p out; cp src/main out/'
        fastbuild -- true
        fastbuild -q -- sh -c 'echo product > out/b'
        fastbuild -- sh -c 'rm -r out'
        fastbuild -- sh -c 'echo told; echo complaint >&2; exit 3'
        fastbuild -q -- sh -c 'exit 3'
        fastbuild -- sh -c 'kill -9 $$'
        fastbuild -- no-such-program
        fastbuild -- ./script
        fastbuild -- 'make all'
        fastbuild -- cd src
        fastbuild -o missing -- true
        fastbuild --no-agent -- sh -c 'echo product > out'
        fastbuild --outputs-on-failure -- sh -c 'echo part > part; exit 1'
        ",
    );
    assert_told("builds", &told);
}

#[test]
fn of_what_is_asked_about_a_project() {
    let project = Project::kept();
    project.write("src/main", "text\n");
    let told = transcript(
        &project,
        "
        fastbuild status
        fastbuild recover ls
        fastbuild plan -- make
        fastbuild --exclude build -- sh -c 'mkdir build; echo object > build/o; echo product > app'
        fastbuild why app
        fastbuild why build/o
        fastbuild why src/main
        fastbuild why nothing
        echo more >> src/main; echo new > src/new; fastbuild status
        echo mine > app; fastbuild -- sh -c 'rm app'
        fastbuild workspace rm nothing
        fastbuild trust --revoke
        ",
    );
    assert_told("questions", &told);
}
