//! Real builds in a workspace, twice and after an edit: their products are those of the same build on a bind mount, and
//! tools that go by times do again what they must and nothing else.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::common::reports::{event, json, uploaded};
use crate::common::{Ended, Lifetime, Project, Tree, docker};

const JEKYLL: &str = "fastbuild/demo-jekyll:latest";
/// Rust, npm with a bundler, a C compiler, and Lua's sources in `/usr/src/lua`.
const TOOLS: &str = "fastbuild/test-tools:latest";

/// A copy of the project in which the same commands run in the usual way: on a bind mount.
struct Mounted {
    home: tempfile::TempDir,
    image: &'static str,
}

impl Mounted {
    fn copy_of(project: &Project, image: &'static str) -> Mounted {
        let home = tempfile::Builder::new().prefix("fastbuild-test-").tempdir().unwrap();
        let mounted = Mounted { home, image };
        copy(&project.root(), &mounted.root());
        mounted
    }

    fn root(&self) -> PathBuf {
        self.home.path().join("project")
    }

    fn sh(&self, script: &str) -> Ended {
        let volume = format!("{}:/workspace", self.root().display_lossy());
        let words = ["run", "--rm", "-v", &volume, "-w", "/workspace", self.image, "sh", "-c", script];
        Ended::from(Command::new("docker").args(words).output().unwrap())
    }

    fn write(&self, path: &str, content: &str) {
        fs::write(self.root().join(path), content).unwrap();
    }
}

trait DisplayLossy {
    fn display_lossy(&self) -> String;
}

impl DisplayLossy for Path {
    fn display_lossy(&self) -> String {
        self.to_string_lossy().into_owned()
    }
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success(), "could not copy {from:?} to {to:?}");
}

/// Content by path below `root`, of files and links.
fn contents(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let nodes = Tree::of(root).0.into_iter().filter(|(_, node)| node.kind != 'd');
    nodes.map(|(path, node)| (path.escape_ascii().to_string(), node.content)).collect()
}

/// Both trees hold the same; on failure only names are told.
#[track_caller]
fn assert_same(ours: &Path, theirs: &Path, alter: impl Fn(Vec<u8>) -> Vec<u8>) {
    let (ours, theirs) = (contents(ours), contents(theirs));
    assert!(!theirs.is_empty(), "the build on the bind mount made nothing");
    let names: Vec<_> = ours.keys().chain(theirs.keys()).collect();
    let differ: Vec<_> = names
        .into_iter()
        .filter(|name| ours.get(*name).cloned().map(&alter) != theirs.get(*name).cloned().map(&alter))
        .collect();
    assert!(differ.is_empty(), "these differ: {differ:?}");
}

fn as_it_is(content: Vec<u8>) -> Vec<u8> {
    content
}

/// How many lines of the build's output begin so.
fn lines_with(ended: &Ended, start: &str) -> usize {
    let all = format!("{}{}", ended.out(), ended.err());
    all.lines().filter(|line| line.trim_start().starts_with(start)).count()
}

#[test]
fn jekyll_builds_the_same_site_as_on_a_bind_mount() {
    let project = Project::with_image(JEKYLL).keeping(Lifetime::Kept);
    fs::remove_dir(project.root()).unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/jekyll-site"), &project.root());
    let _ = fs::remove_file(project.path("fastbuild.toml"));
    let mounted = Mounted::copy_of(&project, JEKYLL);
    // Jekyll writes the moment of the build into its feed.
    let without_moments = |content: Vec<u8>| {
        let moment = regex::bytes::Regex::new(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d").unwrap();
        moment.replace_all(&content, b"MOMENT").into_owned()
    };
    let build = || json(&project, &["-o", "_site"], "jekyll build");
    let same = || {
        mounted.sh("jekyll build").exits(0);
        assert_same(&project.path("_site"), &mounted.root().join("_site"), without_moments);
    };
    build().exits(0);
    same();
    let again = build();
    assert_eq!(uploaded(again.exits(0)), 0, "{again}");
    let post = fs::read_dir(project.path("_posts")).unwrap().next().unwrap().unwrap().file_name();
    let post = format!("_posts/{}", post.to_string_lossy());
    let edited = project.read(&post) + "\nOne more paragraph, with an *emphasis*.\n";
    project.write(&post, &edited);
    mounted.write(&post, &edited);
    let ended = build();
    assert_eq!(uploaded(ended.exits(0)), 1, "{ended}");
    same();
}

const MAKE: &str = "make -C src posix CFLAGS='-O0 -DLUA_COMPAT_5_3 -DLUA_USE_POSIX'";

/// Lua's own sources, here and where they are built on a bind mount.
fn lua() -> (Project, Mounted) {
    let project = Project::with_image(TOOLS).keeping(Lifetime::Kept);
    let container = docker(&["create", TOOLS, "true"]);
    docker(&["cp", &format!("{}:/usr/src/lua/.", container.trim()), &project.root().display_lossy()]);
    docker(&["rm", container.trim()]);
    let mounted = Mounted::copy_of(&project, TOOLS);
    (project, mounted)
}

#[test]
fn make_compiles_what_was_edited_and_nothing_else() {
    let (project, mounted) = lua();
    let (build, on_mount) = (|| json(&project, &[], MAKE), || mounted.sh(MAKE));
    let compiled = |ended: &Ended| lines_with(ended.exits(0), "gcc");

    let first = build();
    assert!(compiled(&first) > 30, "{first}");
    on_mount().exits(0);
    assert_same(&project.root(), &mounted.root(), as_it_is);
    let nothing = build();
    assert_eq!((compiled(&nothing), uploaded(&nothing)), (0, 0), "{nothing}");

    let edits = [
        ("one unit's content", "src/lapi.c", "\nint added;\n"),
        ("one unit's time", "src/lobject.c", ""),
        ("a header's time", "src/lgc.h", ""),
    ];
    for (what, path, more) in edits {
        let content = project.read(path) + more;
        project.write(path, &content);
        mounted.write(path, &content);
        let (ended, theirs) = (build(), on_mount());
        assert_eq!(compiled(&ended), compiled(&theirs), "{what}: {ended}");
        assert!(compiled(&theirs) > 0, "{what}: {theirs}");
        assert!((units(&ended) == 1) == (path != "src/lgc.h"), "{what}: {ended}");
        assert_same(&project.root(), &mounted.root(), as_it_is);
        assert_eq!((compiled(&build()), compiled(&on_mount())), (0, 0), "{what}");
    }
}

/// How many units a build with `make` compiles.
fn units(ended: &Ended) -> usize {
    ended.exits(0).out().lines().filter(|line| line.contains(" -c ")).count()
}

#[test]
fn a_unit_that_compiles_to_the_same_bytes_is_compiled_once_in_either_tier() {
    let (project, mounted) = lua();
    let build = |options: &[&str]| json(&project, options, MAKE);
    build(&[]).exits(0);
    let object = project.path("src/lapi.o");
    let made = fs::metadata(&object).unwrap();
    let touch = |path: &str| project.write(path, project.read(path));

    touch("src/lapi.c");
    let again = build(&[]);
    assert_eq!(units(&again), 1, "{again}");
    let now = fs::metadata(&object).unwrap();
    assert_eq!(now.ino(), made.ino(), "the same bytes are not written again");
    let source = fs::metadata(project.path("src/lapi.c")).unwrap();
    assert!(
        now.modified().unwrap() > source.modified().unwrap(),
        "a make that runs here would make it again"
    );
    for options in [&[][..], &[], &["--fresh"], &["--no-keep"]] {
        let nothing = build(options);
        assert_eq!(lines_with(nothing.exits(0), "gcc"), 0, "{options:?}: {nothing}");
    }
    assert_eq!(uploaded(&build(&[])), 0);

    // What the user touches counts again, be it the source or the product.
    touch("src/lapi.c");
    assert_eq!(units(&build(&[])), 1);
    assert_eq!(units(&build(&[])), 0);
    touch("src/lua.h");
    let all = units(&build(&[]));
    assert!(all > 20, "{all}");
    assert_eq!(units(&build(&[])), 0);
    let (old, file) =
        (made.modified().unwrap() - std::time::Duration::from_secs(3600), fs::File::open(&object).unwrap());
    file.set_modified(old).unwrap();
    assert_eq!(units(&build(&[])), 1);
    assert_eq!(units(&build(&[])), 0);

    // An edit of a product is seen, and the product made again only when what it is made from is newer.
    let right = fs::read(&object).unwrap();
    fs::write(&object, b"not an object").unwrap();
    assert_ne!(build(&[]).code, 0, "an edit was not seen");
    fs::write(&object, &right).unwrap();
    assert_eq!(units(&build(&[])), 0);
    mounted.sh(MAKE).exits(0);
    assert_same(&project.root(), &mounted.root(), as_it_is);
}

#[test]
fn cargo_compiles_what_was_edited_and_nothing_else() {
    const CARGO: &str = "cargo build --offline";
    const COMPILES: &str = "Compiling";
    let project = Project::with_image(TOOLS).keeping(Lifetime::Kept);
    project
        .write("Cargo.toml", "[workspace]\nmembers = [\"app\", \"words\"]\n")
        .write("app/Cargo.toml", "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[dependencies]\nwords = { path = \"../words\" }\n")
        .write("app/src/main.rs", "fn main() { println!(\"{}\", words::greeting()); }\n")
        .write("words/Cargo.toml", "[package]\nname = \"words\"\nversion = \"0.1.0\"\nedition = \"2021\"\n")
        .write("words/src/lib.rs", "pub fn greeting() -> &'static str { \"hello\" }\n");
    let mounted = Mounted::copy_of(&project, TOOLS);
    let options = ["-o", "target/debug/app:app.bin", "-o", "Cargo.lock", "--keep-path", "target"];
    let build = || json(&project, &options, CARGO);
    let same = || {
        let theirs = mounted.sh(&format!("{CARGO} && target/debug/app"));
        let ours = Command::new(project.path("app.bin")).output();
        // The program is for the image; it runs here where the C library is no older.
        if let Ok(ours) = ours.map(Ended::from)
            && ours.code == 0
        {
            assert_eq!(ours.out(), theirs.exits(0).out());
        }
        let theirs = fs::read(mounted.root().join("target/debug/app")).unwrap();
        assert!(fs::read(project.path("app.bin")).unwrap() == theirs, "the programs differ");
    };
    let first = build();
    assert_eq!(lines_with(first.exits(0), COMPILES), 2, "{first}");
    same();
    let nothing = build();
    assert_eq!(lines_with(nothing.exits(0), COMPILES), 0, "{nothing}");
    assert_eq!(event(&nothing, "finished")["applied"]["written"], 0, "{nothing}");

    let main = project.read("app/src/main.rs");
    project.write("app/src/main.rs", &main);
    mounted.write("app/src/main.rs", &main);
    let touched = build();
    assert_eq!(lines_with(touched.exits(0), COMPILES), 1, "{touched}");
    let library = "pub fn greeting() -> &'static str { \"good morning\" }\n";
    project.write("words/src/lib.rs", library);
    mounted.write("words/src/lib.rs", library);
    let edited = build();
    assert_eq!(lines_with(edited.exits(0), COMPILES), 2, "{edited}");
    same();
}

#[test]
fn npm_and_a_bundler_make_the_same_bundle_as_on_a_bind_mount() {
    const BUILD: &str = "npm install --offline --no-audit --no-fund && npm run build";
    let project = Project::with_image(TOOLS).keeping(Lifetime::Kept);
    project
        .write(
            "package.json",
            r#"{"name":"page","version":"1.0.0","private":true,"dependencies":{"greeting":"file:./greeting"},
               "scripts":{"build":"esbuild src/index.js --bundle --minify --sourcemap --outfile=dist/bundle.js"}}"#,
        )
        .write("greeting/package.json", r#"{"name":"greeting","version":"1.0.0","main":"index.js"}"#)
        .write("greeting/index.js", "exports.greeting = (name) => `hello, ${name}`;\n")
        .write("src/index.js", "import { greeting } from 'greeting';\nconsole.log(greeting('world'));\n");
    let mounted = Mounted::copy_of(&project, TOOLS);
    let build =
        || json(&project, &["--exclude", "node_modules", "-o", "dist", "-o", "package-lock.json"], BUILD);
    let same = || {
        mounted.sh(BUILD).exits(0);
        assert_same(&project.path("dist"), &mounted.root().join("dist"), as_it_is);
        assert_eq!(
            project.read("package-lock.json"),
            fs::read_to_string(mounted.root().join("package-lock.json")).unwrap()
        );
    };
    build().exits(0);
    same();
    let again = build();
    assert_eq!(uploaded(again.exits(0)), 0, "{again}");
    assert_eq!(event(&again, "finished")["applied"]["written"], 0, "{again}");
    let edited = "exports.greeting = (name) => `good morning, ${name}`;\n";
    project.write("greeting/index.js", edited);
    mounted.write("greeting/index.js", edited);
    let ended = build();
    assert_eq!(uploaded(ended.exits(0)), 1, "{ended}");
    same();
    assert!(!project.has("node_modules"));
}
