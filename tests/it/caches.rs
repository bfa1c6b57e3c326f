//! `--cache NAME:PATH`: a directory that outlives workspaces and is neither source nor product. It belongs to one
//! project, or (`shared:NAME:PATH`) to all projects that name it.

use std::{collections::BTreeSet, fs};

use crate::common::cache::Cache;
use crate::common::{BUSYBOX, Ended, FILLED, NONROOT, Project, docker};

const KEEP: [&str; 2] = ["--keep", "--no-keep"];

/// Prints whether a directory is a mount, which each cache is.
fn is_mount(directory: &str) -> String {
    format!(
        "awk -v at={directory} '$2 == at {{ found = 1 }} END {{ print found ? \"kept\" : \"lost\" }}' /proc/mounts"
    )
}

fn build(project: &Project, options: &[&str], caches: &[&str], script: &str) -> Ended {
    let caches: Vec<_> = caches.iter().map(|cache| format!("--cache={cache}")).collect();
    let all = caches.iter().map(String::as_str).chain(options.iter().copied());
    project.sh(&all.collect::<Vec<_>>(), script)
}

#[test]
fn a_shared_cache_outlives_its_workspace_and_is_that_of_all_projects_and_routes() {
    let (project, other) = (Project::new(), Project::new());
    let cache = Cache::new(&project, "shared");
    build(&project, &["--keep"], &[&cache.shared_at("/var/cache/one")], "echo 1 >> /var/cache/one/log")
        .exits(0);
    assert!(cache.is_there());
    project.fastbuild(["workspace", "rm"]).exits(0);
    build(&other, &["--no-keep"], &[&cache.shared_at("/elsewhere")], "echo 2 >> /elsewhere/log").exits(0);
    for route in ["layer", "tmpfs", "volume"] {
        build(&other, &["--keep", "--route", route], &[&cache.shared_at("deep/er")], "echo 3 >> deep/er/log")
            .exits(0);
    }
    build(&other, &["--keep", "--fresh"], &[&cache.shared_at("deep/er")], "echo 4 >> deep/er/log").exits(0);
    let ended =
        build(&project, &["--no-keep"], &[&cache.shared_at("/var/cache/one")], "cat /var/cache/one/log");
    assert_eq!(ended.exits(0).out(), "1\n2\n3\n3\n3\n4\n");
    assert!(!other.has("deep") && !project.has("var"));
    other.fastbuild(["workspace", "rm"]).exits(0);
    for project in [&project, &other] {
        project.assert_nothing_left();
    }
}

#[test]
fn a_cache_is_its_projects_own() {
    let (project, other) = (Project::new(), Project::new());
    let cache = Cache::new(&project, "own");
    let log = |project: &Project, options: &[&str], cache: &str, word: &str| {
        let script = format!("echo {word} >> /cache/log; cat /cache/log");
        build(project, options, &[cache], &script).exits(0).out()
    };
    let own = cache.at("/cache");
    assert_eq!(log(&project, &["--no-keep"], &own, "mine"), "mine\n");
    assert_eq!(log(&other, &["--no-keep"], &own, "theirs"), "theirs\n");
    assert_eq!(log(&project, &["--keep"], &own, "again"), "mine\nagain\n", "whatever workspace it is in");
    assert_eq!(log(&project, &["--no-keep"], &cache.shared_at("/cache"), "all"), "all\n");
    // By its name, another home finds the project and its caches.
    project.write("fastbuild.toml", "name = 'blog'");
    let in_another_home = |word: &str| {
        let script = format!("echo {word} >> /cache/log; cat /cache/log");
        let mut command = project.command();
        command.env("FASTBUILD_STATE_DIR", project.outside().join(word));
        command.args(["--cache", &own, "--", "sh", "-c", &script]);
        Ended::from(command.output().unwrap()).exits(0).out()
    };
    assert_eq!((in_another_home("one"), in_another_home("two")), ("one\n".into(), "one\ntwo\n".into()));
    project.fastbuild(["workspace", "rm"]).exits(0);
}

#[test]
fn a_cache_below_home_has_its_place_where_the_user_has_none() {
    // The image has no user with that number. The home of the image's root is not used.
    let cases: [(&[&str], &str); 4] = [
        (&["-u", "4321"], "/tmp/home"),
        (&["-u", "4321:4321", "--route", "tmpfs"], "/tmp/home"),
        (&["-u", "4321", "-e", "HOME=/var/mine"], "/var/mine"),
        (&["-u", "app"], "/home/app"),
    ];
    for keep in KEEP {
        for (options, home) in cases {
            let project = Project::new();
            let cache = Cache::new(&project, "home");
            let options = [&[keep], options].concat();
            let is_cache = is_mount(&format!("{home}/.cache/deep"));
            let script = format!("set -e; echo $HOME; touch ~/.cache/deep/mine; {is_cache}");
            let ended = build(&project, &options, &[&cache.at("~/.cache/deep")], &script);
            assert_eq!(ended.exits(0).out(), format!("{home}\nkept\n"), "{options:?} {ended}");
            if home != "/var/mine" {
                // What is not root's to give is to be written to, too.
                build(&project, &options, &[&cache.at("~/.cache/deep")], "touch ~/beside ~/.cache/beside")
                    .exits(0);
            }
        }
    }
    let project = Project::new();
    assert_eq!(
        build(&project, &["-u", "4321"], &[], "echo $HOME").exits(0).out(),
        "/\n",
        "as docker run has it"
    );
}

#[test]
fn a_cache_lies_where_it_is_said_and_is_the_builds_users() {
    let cases: [(&str, &[&str], &str, &str); 9] = [
        (BUSYBOX, &[], "~/.cache/deep/x", "/root/.cache/deep/x"),
        (NONROOT, &[], "~/.cache/deep/x", "/home/app/.cache/deep/x"),
        (BUSYBOX, &["-u", "app"], "~/.cache/deep/x", "/home/app/.cache/deep/x"),
        (BUSYBOX, &["-u", "1000:1001"], "~/x", "/home/app/x"),
        (FILLED, &["-w", "/src"], "~/.cache/x", "/root/.cache/x"),
        (NONROOT, &[], "/var/cache/deep/x", "/var/cache/deep/x"),
        (NONROOT, &[], "deps/deep/x", "/workspace/sub/deps/deep/x"),
        (NONROOT, &[], "../x", "/workspace/x"),
        (NONROOT, &["--route", "tmpfs"], "./deps//deep/x/", "/workspace/sub/deps/deep/x"),
    ];
    for (image, options, path, expected) in cases {
        let project = Project::with_image(image);
        project.write("sub/source", "text");
        let cache = Cache::new(&project, "place");
        for keep in KEEP {
            let beside = if path.starts_with('/') { ":" } else { &format!("touch {expected}/../beside") };
            let script = format!("set -e; {}; touch {expected}/mine; {beside}", is_mount(expected));
            let mut command = project.command();
            command.current_dir(project.path("sub")).args(options).args([
                keep,
                "-C",
                "..",
                "--cache",
                &cache.at(path),
            ]);
            let ended = Ended::from(
                command
                    .args(["-o", "made:made", "--", "sh", "-c", &format!("{script}; touch made")])
                    .output()
                    .unwrap(),
            );
            assert_eq!(ended.exits(0).out(), "kept\n", "{image} {options:?} {path} {keep}\n{ended}");
        }
    }
}

#[test]
fn a_relative_cache_of_the_project_file_lies_below_the_source_root() {
    let project = Project::new();
    let cache = Cache::new(&project, "file");
    project
        .write("fastbuild.toml", format!("cache = ['{}']\n", cache.at("node_modules")))
        .write("sub/source", "text");
    let mut command = project.command();
    command.current_dir(project.path("sub")).args(["--", "sh", "-c", &is_mount("/workspace/node_modules")]);
    assert_eq!(Ended::from(command.output().unwrap()).exits(0).out(), "kept\n");
}

#[test]
fn a_cache_is_no_product_and_no_comparison_of_sources_empties_it() {
    for keep in KEEP {
        let project = Project::new();
        project.write("source", "text").write("vendor/gems/of-the-host", "stays here");
        let (gems, bare) = (Cache::new(&project, "gems"), Cache::new(&project, "bare"));
        let caches = [gems.at("vendor/gems"), bare.at("only/a/way")];
        let caches = caches.each_ref().map(String::as_str);
        for round in 0..3 {
            project.write("source", round.to_string());
            let script = "ls -A vendor/gems; echo x > vendor/gems/f; echo x > only/a/way/f; echo $(cat source) > vendor/own";
            let ended = build(&project, &[keep], &caches, script);
            assert_eq!(ended.exits(0).out(), if round == 0 { "" } else { "f\n" }, "{keep} {round} {ended}");
            assert_eq!(project.read("vendor/own"), format!("{round}\n"));
        }
        let names: BTreeSet<_> =
            project.tree().0.into_keys().map(|path| String::from_utf8(path).unwrap()).collect();
        let expected = ["source", "vendor", "vendor/gems", "vendor/gems/of-the-host", "vendor/own"];
        assert_eq!(names, expected.map(str::to_owned).into(), "{keep}");
    }
}

#[test]
fn a_cache_below_an_output_stays_out_of_it_and_an_output_in_a_cache_comes_back() {
    for keep in KEEP {
        let project = Project::new();
        project.write("source", "text");
        let cache = Cache::new(&project, "registry");
        let script = "echo x > target/registry/index/f; mkdir -p target/app; cp source target/app/bin; ls target/registry/index";
        for _ in 0..2 {
            let caches = cache.at("target/registry/index");
            build(&project, &[keep, "-o", "target"], &[&caches], script).exits(0);
            assert_eq!(project.read("target/app/bin"), "text");
            assert!(!project.has("target/registry"), "{keep}");
        }
        // What is asked for by its name lies in the cache here.
        let caches = cache.at("cached");
        let script = "mkdir -p cached/release; cp source cached/release/bin";
        build(&project, &[keep, "-o", "cached/release"], &[&caches], script).exits(0);
        assert_eq!(project.read("cached/release/bin"), "text", "{keep}");
        assert!(!project.has("cached/f"));
    }
}

#[test]
fn an_output_outside_of_the_sources_leaves_its_caches_out_too() {
    for keep in KEEP {
        let project = Project::new();
        let cache = Cache::new(&project, "outside");
        let script = "echo x > /opt/out/kept/f; echo y > /opt/out/made";
        build(&project, &[keep, "-o", "/opt/out:out"], &[&cache.at("/opt/out/kept")], script).exits(0);
        assert_eq!(project.read("out/made"), "y\n");
        assert!(!project.has("out/kept"), "{keep}");
    }
}

#[test]
fn a_new_cache_begins_with_what_the_image_has_there() {
    for keep in KEEP {
        let project = Project::with_image(FILLED);
        let cache = Cache::new(&project, "image");
        let look = || {
            build(&project, &[keep, "-w", "/src"], &[&cache.at("/volume")], "ls /volume; touch /volume/mine")
        };
        assert_eq!(look().exits(0).out(), "from-image.txt\n", "{keep}");
        assert_eq!(look().exits(0).out(), "from-image.txt\nmine\n", "{keep}");
    }
}

#[test]
fn other_caches_make_another_workspace_and_are_shown_with_it() {
    let project = Project::new();
    let (one, two) = (Cache::new(&project, "one"), Cache::new(&project, "two"));
    build(&project, &["--keep"], &[&one.at("~/one")], ":").exits(0);
    let shown = project.fastbuild(["workspace", "inspect"]);
    let expected = format!("made with   caches {}\n", one.at("~/one"));
    assert!(shown.exits(0).out().contains(&expected), "{shown}");
    let first = project.workspace();
    build(&project, &["--keep"], &[&one.at("~/one")], ":").exits(0);
    assert_eq!(project.workspace(), first);
    build(&project, &["--keep"], &[&one.at("~/one"), &two.at("~/two")], ":").exits(0);
    assert_ne!(project.workspace(), first);
    let plan = project.fastbuild(["plan", "-v", "--cache", &one.at("x"), "--", "make"]);
    let line = format!("{} at /workspace/x", one.name());
    assert!(
        plan.exits(0).out().lines().any(|text| text.starts_with("cache ") && text.contains(&line)),
        "{plan}"
    );
}

#[test]
fn caches_that_no_workspace_has_are_pruned_when_they_are_asked_for() {
    let project = Project::new();
    let (used, unused) = (Cache::new(&project, "used"), Cache::new(&project, "unused"));
    build(&project, &["--no-keep"], &[&unused.at("/x"), &unused.shared_at("/y")], ":").exits(0);
    build(&project, &["--keep"], &[&used.at("/x")], ":").exits(0);
    // Made from elsewhere.
    let other = Project::new();
    let theirs = Cache::new(&other, "theirs");
    build(&other, &["--no-keep"], &[&theirs.at("/x")], ":").exits(0);
    let prune = |options: &[&str]| project.fastbuild(["workspace", "prune"].iter().chain(options));
    assert_eq!(prune(&[]).exits(0).out(), "nothing to remove\n");
    let lines = |done: &str, cache: &Cache| -> String {
        cache.volumes().iter().map(|volume| format!("{done} the cache {volume}\n")).collect()
    };
    assert_eq!(unused.volumes().len(), 2, "the project's and the one of all");
    assert_eq!(prune(&["--caches", "--dry-run"]).exits(0).out(), lines("would remove", &unused));
    let removed = lines("removed", &unused);
    assert_eq!(prune(&["--caches"]).exits(0).out(), removed);
    assert!(!unused.is_there() && used.is_there() && theirs.is_there());
    project.fastbuild(["workspace", "rm"]).exits(0);
    let removed = lines("removed", &used);
    assert_eq!(prune(&["--caches"]).exits(0).out(), removed);
    assert!(!used.is_there() && theirs.is_there());
}

#[test]
fn what_is_no_cache_is_refused_in_words_before_anything_is_done() {
    let project = Project::new();
    let cases = [
        ("x", "there is no colon in it"),
        (":p", "it has no name"),
        ("shared:p", "a shared one has a name, too"),
        ("-a:p", "a name begins with a letter or a digit"),
        ("a b:p", "a name has letters, digits, dots, dashes and underlines only"),
        ("a:/", "the sources would lie in it"),
        ("a:", "the sources would lie in it"),
        ("a:.", "the sources would lie in it"),
        ("a:..", "the sources would lie in it"),
        ("a:/workspace", "the sources would lie in it"),
        ("a:../..", "leads above the root"),
        ("a:~/", "the path below the home directory is none"),
        ("a:~/../x", "the path below the home directory is none"),
    ];
    for (given, problem) in cases {
        let ended = build(&project, &["--keep"], &[given], "never");
        ended.exits(125).says(&["--cache: ", &format!("{given:?}"), problem, "write NAME:PATH"]);
    }
    let twice = build(&project, &["--keep"], &["a:x", "b:./x"], "never");
    twice.exits(125).says(&["\"b:./x\"", "another cache lies there"]);
    assert_eq!(project.containers(), [""; 0]);
    assert!(!docker(&["volume", "ls", "--quiet"]).lines().any(|name| name.contains(&project.key())));
    assert!(fs::read_dir(project.root()).unwrap().next().is_none());
}
