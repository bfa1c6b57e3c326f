//! The mount's rule: whatever is done to the files, here or by a command, the next build gives what it would have given on a bind
//! mount. Each test is a promise, held in a kept workspace, in containers of one run and on this machine, where it makes sense there.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt},
    process::{Command, Stdio},
    time::SystemTime,
};

use crate::common::process::Gated;
use crate::common::reports::{event, events, json};
use crate::common::{Ended, Lifetime, Project, eventually};
use rustix::process::Signal;
use serde_json::Value;

/// Has `make`.
const TOOLS: &str = "fastbuild/test-tools:latest";

/// Where a build has its workspace, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Kept,
    OneRun,
    Host,
}

/// Holds `promise` in a new project of each form.
fn each_of(forms: &[Form], promise: impl Fn(&Project)) {
    for form in forms {
        eprintln!("{form:?}");
        let project = match form {
            Form::Kept => Project::kept(),
            Form::OneRun => Project::new(),
            Form::Host => Project::here(),
        };
        promise(&project);
        project.assert_nothing_left();
    }
}

fn everywhere(promise: impl Fn(&Project)) {
    each_of(&[Form::Kept, Form::OneRun, Form::Host], promise);
}

/// Where something is left in the workspace from one build to the next.
fn where_it_stays(promise: impl Fn(&Project)) {
    each_of(&[Form::Kept, Form::Host], promise);
}

/// What a build says that it changed, or made new, beside its outputs.
fn beside(ended: &Ended, what: &str) -> Vec<String> {
    let warned = events(ended).into_iter().find(|event| event["warning"] == "beside").unwrap_or_default();
    let paths = warned[what].as_array().cloned().unwrap_or_default();
    paths.iter().map(|path| path.as_str().unwrap().to_owned()).collect()
}

// ---- what is here goes up ------------------------------------------------------------------------------------------

#[test]
fn a_users_file_in_an_output_directory_stays_whatever_is_built_around_it() {
    everywhere(|project| {
        project.write("out/mine", "mine");
        project.sh(&["-q"], "cat out/mine; echo 1 > out/made").exits(0);
        project.write("out/mine", "edited");
        project.sh(&["-q", "-o", "out"], "echo 2 > out/made").exits(0);
        let ended = project.sh(&["-q", "--no-keep", "-o", "out"], "cat out/mine; echo 3 > out/made");
        assert_eq!(ended.exits(0).out(), "edited");
        assert_eq!((project.read("out/mine"), project.read("out/made")), ("edited".into(), "3\n".into()));
        assert_eq!(project.safe(), []);
    });
}

#[test]
fn a_product_that_was_deleted_here_with_its_source_stays_away() {
    everywhere(|project| {
        project.write("src/page", "1").write("src/other", "2");
        let script = "mkdir -p public; cp src/* public";
        project.sh(&["-q", "-o", "public"], script).exits(0);
        fs::remove_dir_all(project.path("public")).unwrap();
        fs::remove_file(project.path("src/page")).unwrap();
        project.sh(&["-q", "-o", "public"], script).exits(0);
        assert_eq!(project.tree().paths(), ["public", "public/other", "src", "src/other"]);
    });
}

#[test]
fn a_product_that_was_edited_or_made_here_goes_up_and_the_builds_rewriting_of_it_stands() {
    everywhere(|project| {
        project.sh(&["-q", "-o", "app"], "echo built > app").exits(0);
        for native in ["stripped", "made by a native tool"] {
            project.write("app", native);
            let ended = project.sh(&["-q", "-o", "app"], "cat app; touch app");
            assert_eq!((ended.exits(0).out(), project.read("app")), (native.into(), native.into()));
            project.sh(&["-q", "-o", "app"], "echo built > app").exits(0);
            assert_eq!(project.read("app"), "built\n");
            fs::remove_file(project.path("app")).unwrap();
        }
        let safe = ["made by a native tool", "stripped"].map(|old| ("app".to_owned(), old.to_owned()));
        assert_eq!(project.safe(), safe);
    });
}

#[test]
fn two_commands_that_write_into_one_output_give_what_both_made() {
    everywhere(|project| {
        project.sh(&["-q", "-o", "dist"], "mkdir -p dist; echo 1 > dist/one; echo 1 > dist/both").exits(0);
        project.sh(&["-q", "-o", "dist"], "mkdir -p dist; echo 2 > dist/two; echo 2 > dist/both").exits(0);
        assert_eq!(project.tree().paths(), ["dist", "dist/both", "dist/one", "dist/two"]);
        assert_eq!(project.read("dist/both"), "2\n", "the later one wins");
    });
}

// ---- what a command deletes and changes ----------------------------------------------------------------------------

#[test]
fn what_a_command_deletes_is_deleted_here_and_the_users_own_is_in_the_safe_place() {
    everywhere(|project| {
        project.write("docs/intro.md", "by hand").write("src/a", "a").write("src/b", "b");
        let ended = project.sh(&["-o", "docs"], "rm -rf docs; mkdir docs; echo x > docs/made");
        ended.exits(0).says(&["displaced"]);
        assert_eq!(project.tree().paths(), ["docs", "docs/made", "src", "src/a", "src/b"]);
        assert_eq!(project.safe(), [("docs/intro.md".to_owned(), "by hand".to_owned())]);
        project.sh(&["-q"], "rm src/b; mv src/a src/moved").exits(0);
        assert_eq!(project.tree().paths(), ["docs", "docs/made", "src", "src/moved"]);
        let safe: Vec<_> = project.safe().into_iter().map(|(path, _)| path).collect();
        assert_eq!(safe, ["docs/intro.md", "src/a", "src/b"]);
    });
}

#[test]
fn a_users_file_that_got_another_mode_or_name_from_a_command_is_the_users_still() {
    let cases: [(&[&str], &str); 3] = [
        (&["--atomic"], "chmod 600 out/own"),
        (&[], "chmod 600 out/own"),
        (&[], "rm out/name; ln out/own out/name"),
    ];
    for (options, command) in cases {
        everywhere(|project| {
            project.write("out/own", "by hand").write("out/name", "by hand");
            fs::hard_link(project.path("out/own"), project.path("out/other")).unwrap();
            project.sh(&[&["-q", "-o", "out"], options].concat(), command).exits(0);
            project.sh(&["-q", "-o", "out"], "rm -rf out; mkdir out; echo x > out/made").exits(0);
            assert_eq!(project.tree().paths(), ["out", "out/made"]);
            let safe: Vec<_> = project.safe().into_iter().map(|(path, _)| path).collect();
            assert_eq!(safe, ["out/name", "out/other", "out/own"], "{command}");
        });
    }
}

#[test]
fn sources_that_a_command_changed_beside_its_outputs_are_named_and_put_right() {
    everywhere(|project| {
        project.write("src/a", "a\n").write("src/b", "b\n");
        let script = "echo more >> src/a; rm src/b; cat src/a > out";
        for _ in 0..2 {
            let ended = json(project, &["-o", "out"], script);
            assert_eq!(beside(ended.exits(0), "changed"), ["src/a", "src/b"], "{ended}");
            assert_eq!((project.read("src/a"), project.read("out")), ("a\n".into(), "a\nmore\n".into()));
        }
        let ended = json(project, &["-o", "out"], "cat src/*");
        assert_eq!((ended.exits(0).out(), beside(&ended, "changed")), ("a\nb\n".into(), vec![]));
        project.sh(&["-o", "out"], script).exits(0).says(&["the command changed src/a, src/b", "-o"]);
    });
}

#[test]
fn a_conflict_is_only_what_was_changed_here_while_the_build_ran() {
    everywhere(|project| {
        project.write("src", "1");
        project.sh(&["-q"], "echo 1 > made").exits(0);
        project.write("src", "edited before").write("made", "edited before");
        let ended = json(project, &[], "echo 2 > src; echo 2 > made").exits(0).clone();
        assert!(events(&ended).iter().all(|event| event["warning"] != "conflict"), "{ended}");
        assert_eq!((project.read("src"), project.read("made")), ("2\n".into(), "2\n".into()));
        project.write("other", "1");
        let gated = Gated::start(project, &[], "echo 3 > other; echo 3 > made");
        project.write("other", "edited meanwhile").write("made", "edited meanwhile");
        let ended = gated.go_on();
        let mut conflicts: Vec<_> =
            events(ended.exits(0)).into_iter().filter(|event| event["warning"] == "conflict").collect();
        conflicts.sort_by_key(|conflict| conflict["path"].to_string());
        let stands: Vec<_> = conflicts.iter().map(|conflict| &conflict["stands"]).collect();
        assert_eq!(stands, ["build", "host"], "of a product, and of a source");
        assert_eq!((project.read("other"), project.read("made")), ("edited meanwhile".into(), "3\n".into()));
        let safe = project.safe();
        for expected in [("made", "edited before"), ("made", "edited meanwhile"), ("other", "3\n")] {
            let found = safe.iter().any(|(path, content)| (path.as_str(), content.as_str()) == expected);
            assert!(found, "{expected:?} is not in {safe:?}");
        }
    });
}

// ---- leftovers -----------------------------------------------------------------------------------------------------

#[test]
fn what_a_command_makes_beside_its_outputs_stays_for_the_next_and_is_named_once() {
    where_it_stays(|project| {
        project.write("src/a", "a\n").write("src/b", "b\n");
        let script = "mkdir -p obj; for c in src/*; do o=obj/${c##*/}; [ -e $o ] || { cp $c $o; echo $c; }; done; \
                      cat obj/* > app";
        let ended = json(project, &["-o", "app"], script);
        assert_eq!(
            (ended.exits(0).out(), beside(&ended, "made")),
            ("src/a\nsrc/b\n".into(), vec!["obj".into()])
        );
        project.write("src/c", "c\n");
        let ended = json(project, &["-o", "app"], script);
        assert_eq!((ended.exits(0).out(), beside(&ended, "made")), ("src/c\n".into(), vec![]), "{ended}");
        assert_eq!((project.read("app"), project.has("obj")), ("a\nb\nc\n".into(), false));
        // A build that brings everything back brings these too.
        project.sh(&["-q"], "true").exits(0);
        assert_eq!(project.read("obj/a"), "a\n");
    });
}

#[test]
fn what_a_failed_build_got_done_is_found_by_the_next_and_comes_back_with_it() {
    where_it_stays(|project| {
        project.sh(&[], "mkdir obj; echo 1 > obj/1; echo 2 > obj/2; exit 1").exits(1);
        assert_eq!(project.tree().paths(), [""; 0]);
        let ended = project.sh(&["-q"], "ls obj; echo 3 > obj/3");
        assert_eq!(ended.exits(0).out(), "1\n2\n");
        assert_eq!(project.tree().paths(), ["obj", "obj/1", "obj/2", "obj/3"]);
        project.sh(&["-o", "app"], "echo app > app; exit 1").exits(1);
        assert!(!project.has("app"));
        project.sh(&["-q", "-o", "app"], "[ -e app ] || echo made again; true").exits(0);
        assert_eq!(project.read("app"), "app\n", "it was up to date");
    });
}

#[test]
fn what_the_host_has_takes_a_leftovers_place() {
    where_it_stays(|project| {
        project.sh(&["-o", "app"], "mkdir obj; echo theirs > obj/1; echo theirs > obj/2; touch app").exits(0);
        project.write("obj/1", "mine");
        let ended = project.sh(&["-q", "-o", "app"], "cat obj/1 obj/2");
        assert_eq!(ended.exits(0).out(), "minetheirs\n");
        fs::remove_dir_all(project.path("obj")).unwrap();
        // What was here and was deleted here goes there; the other one was never here.
        let ended = project.sh(&["-q", "-o", "app"], "ls obj");
        assert_eq!(ended.exits(0).out(), "2\n");
    });
}

#[test]
fn a_leftover_stays_when_another_name_of_it_goes() {
    where_it_stays(|project| {
        project.write("source", "old");
        project.sh(&["-q", "-o", "app"], "ln source leftover; touch app").exits(0);
        project.write("source", "new");
        // The build is killed, so that it does not note the leftover once more.
        project.sh(&[], "kill -9 $$").exits(137);
        assert_eq!(project.sh(&["-q", "-o", "app"], "cat source leftover").exits(0).out(), "newold");
    });
}

#[test]
fn a_file_that_a_command_moves_with_its_directory_stays_one_with_its_other_names() {
    everywhere(|project| {
        project.write("z", "one file");
        fs::create_dir(project.path("old")).unwrap();
        fs::hard_link(project.path("z"), project.path("old/name")).unwrap();
        project.sh(&["-q"], "mv old new").exits(0);
        let inodes = ["z", "new/name"].map(|path| fs::metadata(project.path(path)).unwrap().ino());
        assert_eq!((inodes[0], project.has("old")), (inodes[1], false));
    });
}

#[test]
fn a_product_that_gets_a_new_time_does_not_hand_it_to_a_name_beside_the_outputs() {
    everywhere(|project| {
        project.write("out/product", "as it was").write("source", "");
        let mtime = |path: &str| fs::metadata(project.path(path)).unwrap().modified().unwrap();
        fs::File::open(project.path("out/product")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        fs::hard_link(project.path("out/product"), project.path("other")).unwrap();
        project.write("out/alone", "");
        fs::File::open(project.path("out/alone")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        project.sh(&["-q", "-o", "out"], "touch out/*; chmod 755 out/alone").exits(0);
        assert_eq!(mtime("other"), SystemTime::UNIX_EPOCH);
        for product in ["out/product", "out/alone"] {
            assert!(mtime(product) > SystemTime::UNIX_EPOCH, "{product}");
        }
    });
}

#[test]
fn what_a_build_made_that_was_ended_by_sigkill_goes() {
    where_it_stays(|project| {
        project.sh(&["-q", "-o", "app"], "echo whole > whole; touch app").exits(0);
        project.sh(&[], "echo half > half; echo half >> whole; kill -9 $$").exits(137);
        assert_eq!(project.sh(&["-q", "-o", "app"], "ls").exits(0).out(), "app\n");
        // And so where fastbuild is killed.
        let gated = Gated::start_after(project, &[], "echo half > half", "true");
        gated.run.signal(Signal::KILL);
        drop(gated);
        let runs = || fs::read_dir(project.state().join("runs")).into_iter().flatten().count();
        eventually("the reaper is done", || runs() == 0);
        assert_eq!(project.sh(&["-q", "-o", "app"], "ls").exits(0).out(), "app\n");
    });
}

// ---- times ---------------------------------------------------------------------------------------------------------

#[test]
fn make_settles_here_and_in_the_next_build_when_it_makes_the_same_bytes_again() {
    for keep in [Lifetime::Kept, Lifetime::OneRun] {
        let project = Project::with_image(TOOLS).keeping(keep);
        project.write("Makefile", "app: a.o b.o\n\tcat a.o b.o > app\n%.o: %.c\n\tcp $< $@\n");
        project.write("a.c", "a").write("b.c", "b");
        tick(&project);
        project.sh(&["-q"], "make").exits(0);
        let products = ["a.o", "b.o", "app"];
        let inodes = || products.map(|path| fs::metadata(project.path(path)).unwrap().ino());
        let mtime = |path: &str| fs::metadata(project.path(path)).unwrap().modified().unwrap();
        let (before, b) = (inodes(), mtime("b.o"));
        fs::File::open(project.path("a.c")).unwrap().set_modified(SystemTime::now()).unwrap();
        tick(&project);
        // It goes up for a build that fails.
        project.sh(&["-q"], "exit 3").exits(3);
        let ended = project.sh(&["-q"], "make");
        assert_eq!(ended.exits(0).out(), "cp a.c a.o\ncat a.o b.o > app\n");
        assert_eq!((inodes(), mtime("b.o")), (before, b), "{keep:?}: the same files, and b.o was not made");
        assert!(mtime("a.o") > mtime("a.c") && mtime("app") >= mtime("a.o"), "{keep:?}");
        let volume = format!("{}:/workspace", project.root().to_str().unwrap());
        let words = ["run", "--rm", "-v", &volume, "-w", "/workspace", TOOLS, "make", "-q"];
        let here = Command::new("docker").args(words).stdin(Stdio::null()).output().unwrap();
        Ended::from(here).exits(0);
        let ended = project.sh(&["-q"], "make");
        assert_eq!(ended.exits(0).out(), "make: 'app' is up to date.\n", "{keep:?}");
        assert_eq!(project.safe(), []);
    }
}

/// Waits until the file system's clock has moved on: whatever was changed in the tick of a build's look counts as changed after it.
fn tick(project: &Project) {
    let now = || {
        let file = project.outside().join("tick");
        fs::write(&file, "").unwrap();
        fs::metadata(file).unwrap().modified().unwrap()
    };
    let before = now();
    eventually("the clock ticks", || now() > before);
}

#[test]
fn an_edit_made_here_while_a_command_runs_is_compiled_by_the_next_build() {
    // By times, to the nanosecond.
    let make = "if [ ! -e x.o ] || stat -c '%y %n' x.c x.o | sort | tail -n 1 | grep -q 'x.c$'; \
                then cp x.c x.o; echo made; fi";
    // A name or a mode that it gets afterwards hides nothing.
    let nothing = |_: &Project| {};
    let chmod = |project: &Project| {
        fs::set_permissions(project.path("x.c"), PermissionsExt::from_mode(0o640)).unwrap();
    };
    let link = |project: &Project| {
        fs::hard_link(project.path("x.c"), project.path("other")).unwrap();
        fs::remove_file(project.path("other")).unwrap();
    };
    let all: &[_] = &["-q"];
    let cases = [(all, nothing as fn(&Project)), (&["-q", "-o", "x.o"], chmod), (all, link)];
    for (options, afterwards) in cases {
        everywhere(|project| {
            project.write("x.c", "one");
            tick(project);
            let gated = Gated::start(project, &options[1..], make);
            project.write("x.c", "two");
            tick(project);
            assert_eq!(gated.go_on().exits(0).out(), "made\n");
            assert_eq!(project.read("x.o"), "one");
            tick(project);
            afterwards(project);
            assert_eq!(project.sh(options, make).exits(0).out(), "made\n");
            assert_eq!((project.read("x.c"), project.read("x.o")), ("two".into(), "two".into()));
            assert_eq!(project.sh(options, make).exits(0).out(), "", "and only once");
        });
    }
}

// ---- what a project is ---------------------------------------------------------------------------------------------

#[test]
fn a_project_is_the_same_when_all_of_its_products_change_or_go() {
    let project = Project::kept();
    project.write("src", "s");
    let script = "echo kept > /kept; mkdir -p out; for i in $(seq 60); do cat /proc/sys/kernel/random/uuid > out/$i; done";
    let is_the_same = |ended: Ended| {
        let other = events(ended.exits(0)).into_iter().find(|event| event["warning"] == "other-project");
        assert_eq!(other, None::<Value>, "{ended}");
        event(&ended, "workspace")["how"].as_str().unwrap().to_owned()
    };
    assert_eq!(is_the_same(json(&project, &[], script)), "made");
    for _ in 0..2 {
        assert_eq!(is_the_same(json(&project, &[], script)), "found", "all have changed");
    }
    is_the_same(json(&project, &["-o", "out"], "rm -r out; mkdir out"));
    assert_eq!(is_the_same(json(&project, &[], script)), "found", "a command has deleted all");
    is_the_same(json(&project, &[], "true"));
    fs::remove_dir_all(project.path("out")).unwrap();
    assert_eq!(is_the_same(json(&project, &[], "ls /kept")), "found", "all were deleted here");
    project.assert_nothing_left();
}
