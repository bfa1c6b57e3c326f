//! Every source and its rank, through the program's interfaces: argv, an [`Environment`], files.

use std::ffi::OsString;

use super::*;
use crate::{
    args::{Command, parse},
    entry::RelPath,
    environment::{Environment, Terminals},
    plan::{
        self, Facts, Outputs, Plan,
        facts::{Here, Presence},
    },
    spec::{Stdin, Terminal},
};

/// A project on disk and the environment of a run in it.
struct Project {
    dir: tempfile::TempDir,
    env: Environment,
}

impl Project {
    fn new(files: &[(&str, &str)]) -> Project {
        let dir = tempfile::tempdir().unwrap();
        let cwd = fs::canonicalize(dir.path()).unwrap().join("p");
        fs::create_dir(&cwd).unwrap();
        let env = Environment { cwd, ..Environment::default() };
        let project = Project { dir, env };
        files.iter().for_each(|(name, text)| project.write(name, text));
        project
    }

    fn path(&self, below: &str) -> PathBuf {
        let root = fs::canonicalize(self.dir.path()).unwrap().join("p");
        if below.is_empty() { root } else { root.join(below) }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn with_var(mut self, name: &str, value: &str) -> Project {
        self.env.vars.insert(name.into(), value.into());
        self
    }

    fn started_in(mut self, below: &str) -> Project {
        self.env.cwd = self.path(below);
        fs::create_dir_all(&self.env.cwd).unwrap();
        self
    }

    fn settings(&self, line: &str) -> Result<Settings, ConfigError> {
        let words = std::iter::once("fastbuild").chain(line.split_whitespace()).map(OsString::from);
        let Command::Run(args) = parse(words).unwrap().command else { panic!("{line}") };
        Settings::gather(&args, &self.env)
    }

    fn plan(&self, line: &str) -> Plan {
        plan::make(&self.settings(line).unwrap(), &self.env, &facts()).unwrap()
    }

    fn error(&self, line: &str) -> String {
        let error = match self.settings(line) {
            Ok(settings) => anyhow::Error::from(plan::make(&settings, &self.env, &facts()).unwrap_err()),
            Err(error) => anyhow::Error::from(error),
        };
        format!("{error:#}").replace(&*self.path("").to_string_lossy(), "P")
    }
}

/// Facts that do not influence any decision.
fn facts() -> Facts {
    Facts {
        engine: Presence::Perhaps,
        command: None,
        here: Here::default(),
        tracked: Vec::new(),
        is_checkout: false,
    }
}

fn why<T>(decision: &Decision<T>) -> String {
    match &decision.reason {
        Reason::File { path, line } => format!("{}:{line:?}", path.file_name().unwrap().to_string_lossy()),
        Reason::Devcontainer { .. } => "devcontainer".to_owned(),
        other => other.to_string(),
    }
}

#[test]
fn the_strongest_source_names_the_image() {
    let mut project = Project::new(&[]);
    let image = |project: &Project, line: &str| {
        let image = project.settings(line).unwrap().image.unwrap();
        (image.value.clone(), why(&image))
    };
    let expect = |name: &str, why: &str| (name.to_owned(), why.to_owned());
    assert_eq!(image(&project, "-- jekyll build"), expect("docker.io/jekyll/jekyll:4.2.2", "preset jekyll"));
    project.write(".devcontainer.json", r#"{"image": "dev"}"#);
    assert_eq!(image(&project, "-- jekyll build"), expect("dev", "devcontainer"));
    project.write(".devcontainer/devcontainer.json", "{\"image\": \"dev2\",}");
    assert_eq!(image(&project, "-- jekyll build"), expect("dev2", "devcontainer"));
    project.write("fastbuild.toml", "\nimage = 'file'");
    assert_eq!(image(&project, "-- jekyll build"), expect("file", "fastbuild.toml:Some(2)"));
    project = project.with_var("FASTBUILD_IMAGE", "var");
    assert_eq!(image(&project, "-- jekyll build"), expect("var", "FASTBUILD_IMAGE"));
    assert_eq!(image(&project, "-i flag -- jekyll build"), expect("flag", "--image"));
    project = project.with_var("FASTBUILD_IMAGE", "");
    assert_eq!(image(&project, "-- make").0, "file", "an empty variable counts as none");
}

/// A setting, and its values by the file, with the variable too, and with the flag too.
struct Ranked {
    key: &'static str,
    variable: Option<(&'static str, &'static str)>,
    flag: &'static str,
    read: fn(&Settings) -> String,
    expected: [&'static str; 3],
}

#[test]
fn each_setting_has_its_flag_variable_and_key() {
    let case = |key, variable, flag, read, expected| Ranked { key, variable, flag, read, expected };
    let text = ["f", "e", "a"];
    let cases = [
        case("workdir = 'f'", Some(("FASTBUILD_WORKDIR", "e")), "-w a", |s| text_of(&s.workdir), text),
        case("user = 'f'", Some(("FASTBUILD_USER", "e")), "-u a", |s| text_of(&s.user), text),
        case(
            "platform = 'f'",
            Some(("FASTBUILD_PLATFORM", "e")),
            "--platform a",
            |s| text_of(&s.platform),
            text,
        ),
        case(
            "network = 'f'",
            Some(("FASTBUILD_NETWORK", "e")),
            "--network a",
            |s| text_of(&s.container.network),
            text,
        ),
        case("host = 'f'", Some(("FASTBUILD_HOST", "e")), "-H a", |s| text_of(&s.host), text),
        case("entrypoint = 'f'", None, "--entrypoint=", |s| text_of(&s.entrypoint), ["f", "f", ""]),
        case(
            "pull = 'never'",
            Some(("FASTBUILD_PULL", "always")),
            "--pull missing",
            |s| format!("{:?}", s.pull.value),
            ["Never", "Always", "Missing"],
        ),
        case(
            "memory = '1k'",
            Some(("FASTBUILD_MEMORY", "2k")),
            "-m 3k",
            |s| s.container.memory.as_ref().unwrap().value.to_string(),
            ["1024", "2048", "3072"],
        ),
        case(
            "cpus = 1.5",
            Some(("FASTBUILD_CPUS", "2")),
            "--cpus .5",
            |s| s.container.nano_cpus.as_ref().unwrap().value.to_string(),
            ["1500000000", "2000000000", "500000000"],
        ),
        case(
            "shm-size = '1k'",
            Some(("FASTBUILD_SHM_SIZE", "2k")),
            "--shm-size 3k",
            |s| s.container.shm_size.as_ref().unwrap().value.to_string(),
            ["1024", "2048", "3072"],
        ),
        case(
            "isolation = 'hyperv'",
            Some(("FASTBUILD_ISOLATION", "process")),
            "--isolation hyperv",
            |s| format!("{:?}", s.container.isolation.as_ref().unwrap().value),
            ["Hyperv", "Process", "Hyperv"],
        ),
        case(
            "progress = 'bar'",
            Some(("FASTBUILD_PROGRESS", "json")),
            "--progress none",
            |s| format!("{:?}", s.presentation.progress.value),
            ["Bar", "Json", "None"],
        ),
    ];
    for Ranked { key, variable, flag, read, expected: [by_file, by_variable, by_flag] } in cases {
        let mut project = Project::new(&[("fastbuild.toml", key)]);
        assert_eq!(read(&project.settings("-i x -- make").unwrap()), by_file, "{key}");
        if let Some((name, value)) = variable {
            project = project.with_var(name, value);
        }
        assert_eq!(read(&project.settings("-i x -- make").unwrap()), by_variable, "{key}");
        assert_eq!(read(&project.settings(&format!("-i x {flag} -- make")).unwrap()), by_flag, "{key}");
    }
}

fn text_of(setting: &Option<Decision<String>>) -> String {
    setting.as_ref().unwrap().value.clone()
}

#[test]
fn a_switch_of_the_file_is_taken_back_by_the_command_line() {
    let project = Project::new(&[
        (
            "fastbuild.toml",
            "outputs-on-failure = true\noutputs = []\natomic = true\nstdin = true\ntty = true\nno-ignore = true",
        ),
        (".fastbuildignore", "x"),
    ]);
    let plan = project.plan("-i x -- make");
    assert_eq!(plan.on_failure.value, OnFailure::Collect);
    assert_eq!((plan.apply.value, why(&plan.apply)), (ApplyMode::Atomic, "fastbuild.toml:Some(3)".into()));
    assert_eq!((plan.stdin.value, plan.terminal.value), (Stdin::Forward, Terminal::Allocate));
    assert_eq!(plan.ignore.patterns, []);
    let plan = project.plan("-i x --no-outputs-on-failure --no-atomic --no-stdin --no-tty --ignore -- make");
    assert_eq!(plan.on_failure.value, OnFailure::Leave);
    assert_eq!(plan.apply.value, ApplyMode::PerFile);
    assert_eq!((plan.stdin.value, plan.terminal.value), (Stdin::Empty, Terminal::None));
    assert_eq!(plan.ignore.patterns.len(), 1);
}

#[test]
fn dockers_own_variables_come_last() {
    let project =
        Project::new(&[]).with_var("DOCKER_HOST", "tcp://d").with_var("DOCKER_DEFAULT_PLATFORM", "linux/d");
    let plan = project.plan("-i x -- make");
    assert_eq!(
        (plan.engine.value.to_string(), why(&plan.engine)),
        ("tcp://d:2375".into(), "DOCKER_HOST".into())
    );
    assert_eq!(plan.platform.unwrap().value, "linux/d");
    project.write("fastbuild.toml", "host = 'tcp://f'\nplatform = 'linux/f'");
    let plan = project.plan("-i x -- make");
    assert_eq!(
        (plan.engine.value.to_string(), plan.platform.unwrap().value),
        ("tcp://f:2375".into(), "linux/f".into())
    );
}

#[test]
fn variables_cross_only_when_named_and_later_ones_come_later() {
    let project = Project::new(&[
        ("fastbuild.toml", "env = ['HOME', 'A=file', 'UNSET']\nenv-file = 'f.env'"),
        ("f.env", "A=file's env-file\nHOME"),
        ("sub/a.env", "# c\nA=env-file"),
    ])
    .with_var("HOME", "/h")
    .with_var("SECRET", "s")
    .with_var("FILLED", "")
    .started_in("sub");
    let plan = project.plan("-i x -e A=flag --env-file a.env -e FILLED -e B=x=y -e MISSING -- make");
    let shown: Vec<_> = plan.env.iter().map(|v| format!("{}={}", v.value.name, v.value.value)).collect();
    assert_eq!(
        shown,
        ["A=file's env-file", "HOME=/h", "HOME=/h", "A=file", "A=env-file", "A=flag", "FILLED=", "B=x=y"]
    );
    assert_eq!(why(&plan.env[4]), "a.env:Some(2)");
}

#[test]
fn patterns_are_joined_weakest_first() {
    let project = Project::new(&[
        (".fastbuildignore", "# c\na\n!b"),
        (".dockerignore", "not read"),
        ("fastbuild.toml", "exclude = ['c']\ninclude = ['c/d']\nkeep = ['k', '!k/x']"),
    ]);
    let patterns = |line: &str| -> Vec<_> {
        let plan = project.plan(line);
        plan.ignore.patterns.iter().map(|p| format!("{} {}", p.value.text, why(p))).collect()
    };
    let file = [
        "k fastbuild.toml:Some(3)",
        "!k/x fastbuild.toml:Some(3)",
        "c fastbuild.toml:Some(1)",
        "!c/d fastbuild.toml:Some(2)",
    ];
    let flags = ["e --exclude", "!e/f --include", "l --keep-path", "g --exclude"];
    let line = "-i x --exclude e --include e/f --keep-path l --exclude g";
    let ignored = ["a .fastbuildignore:Some(2)", "!b .fastbuildignore:Some(3)"];
    assert_eq!(patterns(&format!("{line} -- make")), [&ignored[..], &file, &flags].concat());
    assert_eq!(patterns(&format!("{line} --no-ignore -- make")), [&file[..], &flags].concat());
}

#[test]
fn the_source_root_is_found_upwards_and_the_command_runs_where_one_stands() {
    let project = Project::new(&[("inner/fastbuild.toml", "")]).started_in("inner/a/b");
    let place = |project: &Project, line: &str| {
        let plan = project.plan(line);
        (plan.source.value, plan.subdirectory.to_string(), plan.workdir.value)
    };
    let workspace = || "/workspace".to_owned();
    assert_eq!(place(&project, "-i x -- make"), (project.path("inner"), "a/b".into(), workspace()));
    assert_eq!(place(&project, "-i x -C .. -- make"), (project.path("inner/a"), "b".into(), workspace()));
    fs::create_dir_all(project.path("elsewhere")).unwrap();
    let line = "-i x -C ../../../elsewhere -w /src/ -- make";
    assert_eq!(place(&project, line), (project.path("elsewhere"), ".".into(), "/src".into()));
    fs::remove_file(project.path("inner/fastbuild.toml")).unwrap();
    assert_eq!(place(&project, "-i x -- make"), (project.path("inner/a/b"), ".".into(), workspace()));
}

#[test]
fn a_file_above_the_named_root_still_counts() {
    let project = Project::new(&[("fastbuild.toml", "image = 'f'\noutputs = ['/o/x:kept/']"), ("sub/x", "")]);
    let plan = project.plan("-C sub -- make");
    assert_eq!((plan.source.value, plan.image.unwrap().value.as_str()), (project.path("sub"), "f"));
    let Outputs::Named(named) = plan.outputs.value else { panic!() };
    assert_eq!(named[0].host, project.path("kept/x"));
}

#[test]
fn a_build_of_a_preset_keeps_what_its_tool_leaves_for_the_next_one() {
    let project = Project::new(&[]);
    let patterns = |line: &str| -> Vec<_> {
        let plan = project.plan(line);
        plan.ignore.patterns.iter().map(|pattern| (pattern.value.text.clone(), why(pattern))).collect()
    };
    let preset = |pattern: &str| (pattern.to_owned(), "preset jekyll".to_owned());
    let kept = vec![preset("**/.jekyll-cache"), preset("**/.sass-cache")];
    assert_eq!(patterns("-- jekyll build"), kept);
    let with_mine = [kept, vec![("!.sass-cache".to_owned(), "--include".to_owned())]].concat();
    assert_eq!(
        patterns("--include .sass-cache -- jekyll build"),
        with_mine,
        "what is said by hand is stronger"
    );
    // For this command, all changes come back.
    assert_eq!(patterns("-- jekyll new ."), []);
    assert_eq!(patterns("-i x -- make"), []);
}

#[test]
fn who_names_outputs_names_all() {
    let project = Project::new(&[]).started_in("docs");
    let outputs = |line: &str| {
        let plan = project.plan(line);
        let shown = match &plan.outputs.value {
            Outputs::Everything => vec!["everything".to_owned()],
            Outputs::Named(named) => named.iter().map(|o| o.container.clone()).collect(),
        };
        (shown, why(&plan.outputs))
    };
    assert_eq!(outputs("-i x -- make").0, ["everything"]);
    assert_eq!(outputs("-- jekyll build").0, ["/workspace/_site"]);
    project.write("fastbuild.toml", "outputs = ['_site', 'log']");
    let by_file = (vec!["/workspace/_site".into(), "/workspace/log".into()], "fastbuild.toml:Some(1)".into());
    assert_eq!(outputs("-- jekyll build -d x"), by_file, "below the file's directory, not below docs");
    assert_eq!(
        outputs("-o a -o /b -- jekyll build"),
        (vec!["/workspace/docs/a".into(), "/b".into()], "--output".into())
    );
    project.write("fastbuild.toml", "");
    assert_eq!(outputs("-- jekyll build -d x"), (vec!["/workspace/docs/x".into()], "preset jekyll".into()));
    project.write("fastbuild.toml", "outputs = []");
    assert_eq!(outputs("-i x -- make test").0, [] as [String; 0]);
}

#[test]
fn what_an_output_puts_here_from_elsewhere_does_not_go_in() {
    let project = Project::new(&[("fastbuild.toml", "")]).started_in("sub/deep");
    let left_out = |line: &str| project.plan(line).ignore.outputs;
    let path = |text: &str| RelPath::new(text.as_bytes()).unwrap();
    assert_eq!(
        left_out("-i x -o a -o ../b:/tmp/elsewhere -o /out -o ../c:../d -- make"),
        [path("sub/deep/out"), path("sub/d")]
    );
    for own in [".", "..", "../..", "../.", "/workspace", "a/"] {
        assert_eq!(left_out(&format!("-i x -o {own} -- make")), [], "{own}");
    }
    assert_eq!(left_out("-- jekyll build"), []);
}

#[test]
fn terminals_decide_what_nobody_decided() {
    let plan = |stdin, stdout, stderr, line: &str| {
        let mut project = Project::new(&[]);
        project.env.terminals = Terminals { stdin, stdout, stderr, ..Terminals::default() };
        let plan = project.plan(line);
        (plan.terminal.value, plan.stdin.value)
    };
    use {Stdin as S, Terminal as T};
    assert_eq!(plan(true, true, true, "-i x -- make"), (T::Allocate, S::Forward));
    assert_eq!(plan(true, true, false, "-i x -- make"), (T::None, S::Empty));
    assert_eq!(plan(false, true, true, "-i x -- make"), (T::None, S::Empty));
    assert_eq!(plan(true, true, true, "-i x --no-tty -- make"), (T::None, S::Empty));
    assert_eq!(plan(true, true, true, "-i x --no-tty --stdin -- make"), (T::None, S::Forward));
    assert_eq!(plan(true, true, true, "-i x --no-stdin -- make"), (T::Allocate, S::Empty));
    assert_eq!(plan(false, false, false, "-i x -t -- make"), (T::Allocate, S::Empty));
    assert_eq!(plan(false, false, false, "-i x -t --stdin -- make"), (T::Allocate, S::Forward));
    assert_eq!(plan(true, false, false, "-i x -t -- make"), (T::Allocate, S::Forward));
}

#[test]
fn a_job_in_the_background_leaves_the_terminal_alone_unless_it_is_asked() {
    let mut project = Project::new(&[]);
    project.env.terminals = Terminals { stdin: true, stdout: true, stderr: true, background: true };
    assert_eq!(project.plan("-i x -- make").terminal.value, Terminal::None);
    assert_eq!(project.plan("-i x -t -- make").terminal.value, Terminal::Allocate);
}

#[test]
fn grace_has_an_option_a_variable_and_a_key() {
    let grace = |project: &Project, line: &str| project.plan(line).workspace.grace.value.as_secs();
    let mut project = Project::new(&[]);
    assert_eq!(grace(&project, "-i x -- make"), 60);
    project.write("fastbuild.toml", "grace = '2m'");
    assert_eq!(grace(&project, "-i x -- make"), 120);
    project = project.with_var("FASTBUILD_GRACE", "3m");
    assert_eq!(grace(&project, "-i x -- make"), 180);
    assert_eq!(grace(&project, "-i x --grace 90s -- make"), 90);
}

#[test]
fn working_directories_are_absolute_and_below_the_root() {
    let project = Project::new(&[]);
    for (given, kept) in
        [("/a//b/", "/a/b"), ("/a/../b", "/b"), (r"C:\src\", r"C:\src"), ("C:/src", "C:/src")]
    {
        assert_eq!(project.plan(&format!("-i x -w {given} -- make")).workdir.value, kept);
    }
    for (given, said) in [
        ("a", "must be absolute"),
        ("/", "must not be the root"),
        (r"C:\", "must not be the root"),
        ("/..", "above"),
    ] {
        let error = project.error(&format!("-i x -w {given} -- make"));
        assert!(error.contains(said) && error.contains("(--workdir)"), "{error}");
    }
}

#[test]
fn the_command_starts_in_the_matching_directory() {
    let project = Project::new(&[("fastbuild.toml", "")]).started_in("a/b");
    assert_eq!(project.plan("-i x -- make").command_directory(), "/workspace/a/b");
    assert_eq!(project.plan(r"-i x -w C:\src -- make").command_directory(), r"C:\src\a\b");
    assert_eq!(project.plan("-i x -C . -- make").command_directory(), "/workspace");
}

#[test]
fn an_image_that_nobody_names_is_asked_for_in_three_ways() {
    let project = Project::new(&[]);
    insta::assert_snapshot!(project.error("-- make all"), @r#"
    no image to run "make" in. Name one in one of three ways:
      fastbuild -i IMAGE -- make …
      FASTBUILD_IMAGE=IMAGE in the environment
      image = "IMAGE" in fastbuild.toml
    "#);
    project.write(".devcontainer/devcontainer.json", r#"{"build": {"dockerfile": "Dockerfile"}}"#);
    let error = project.error("-- make all");
    assert!(error.contains(r#": there is "P/.devcontainer/devcontainer.json", but it builds its image from a Dockerfile. Name"#), "{error}");
}

#[test]
fn a_broken_devcontainer_matters_only_when_it_is_asked() {
    let project = Project::new(&[(".devcontainer.json", "{\n\"image\": }")]);
    assert!(project.error("-- make").starts_with("P/.devcontainer.json:2: "));
    assert!(project.settings("-i x -- make").is_ok());
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let project =
        Project::new(&[("file", ""), ("bad.env", "A=1\n B C=2"), ("sub/fastbuild.toml", "imge = 'x'")]);
    let cases = [
        ("-C file -i x -- make", "the source root \"P/file\" is not a directory"),
        ("-C missing -i x -- make", "the source root \"P/missing\" does not exist; name a directory with -C"),
        (
            "-C / -i x -- make",
            "the source root is the root of the file system, \"/\", and all of it would be sent",
        ),
        ("-C sub -- make", "P/sub/fastbuild.toml:1:1: there is no key \"imge\"; did you mean image?"),
        ("-i x --env-file bad.env -- make", "P/bad.env:2: the name \"B C\" holds white space"),
        (
            "-i x --env-file no.env -- make",
            "could not read the environment file: failed to open file `P/no.env`",
        ),
        ("-i x -e =1 -- make", "--env: there is no name in \"=1\""),
        ("-i x --exclude= -- make", "--exclude: the value is empty"),
        ("--image= -- make", "--image: the value is empty"),
        (
            "-i x -H ssh://me@far -- make",
            "--host: ssh://me@far: an engine over ssh is not supported yet; forward",
        ),
        ("-i x -o a: -- make", "output \"a:\": HOST is empty"),
    ];
    for (line, said) in cases {
        let error = project.error(line);
        assert!(error.starts_with(said), "{line} said\n{error}");
    }
    let project = project.with_var("FASTBUILD_CPUS", "many");
    assert!(
        project.error("-i x -- make").starts_with("FASTBUILD_CPUS: invalid number of processors \"many\"")
    );
}

#[test]
fn the_home_directory_is_sent_only_on_purpose() {
    let mut project = Project::new(&[]);
    project.env.home = Some(project.path(""));
    assert!(project.error("-i x -- make").starts_with("the source root is the home directory, \"P\""));
    assert!(project.settings("-i x --yes -- make").is_ok());
    let project = project.started_in("project");
    assert!(project.settings("-i x -- make").is_ok());
    project.write("fastbuild.toml", "");
    assert!(
        project.error("-i x -- make").starts_with("the source root is the home directory"),
        "found upwards, too"
    );
}

#[cfg(unix)]
#[test]
fn names_that_are_no_text_work_where_the_engine_need_not_know_them() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = |text: &[u8]| OsString::from_vec(text.to_vec());
    let mut project = Project::new(&[]);
    project.env.cwd.push(bytes(b"\xff"));
    fs::create_dir(&project.env.cwd).unwrap();
    assert_eq!(project.plan("-i x -o a -- make").source.value, project.env.cwd);
    let (image, command) = (Some("x".into()), vec!["make".into()]);
    let mut args = RunArgs { image, command, output: vec![bytes(b"a:\xfe")], ..RunArgs::default() };
    let plan = plan::make(&Settings::gather(&args, &project.env).unwrap(), &project.env, &facts()).unwrap();
    let Outputs::Named(named) = plan.outputs.value else { panic!() };
    assert_eq!(named[0].host, project.env.cwd.join(bytes(b"\xfe")));

    project.write("fastbuild.toml", "");
    assert!(
        project.error("-i x -- make").starts_with("the command would start in \"\\xFF\", which is not UTF-8")
    );
    args.command = vec![bytes(b"\xff")];
    let error = Settings::gather(&args, &project.env).unwrap_err().to_string();
    assert!(error.starts_with(r#"the command's word "\xFF" is not UTF-8"#), "{error}");
}

#[test]
fn sources_are_never_exchanged_as_one() {
    let project = Project::new(&[("fastbuild.toml", "")]).started_in("sub");
    for outputs in ["-o ..", "-o /out/.:..", "-o /out/.:../..", "-o .", "-o /workspace/."] {
        let error = project.error(&format!("-i x --atomic {outputs} -- make"));
        assert!(error.starts_with("--atomic would exchange"), "{outputs} said {error}");
    }
    assert!(project.error("-i x --atomic -- make").starts_with("--atomic needs outputs to exchange"));
    assert_eq!(project.plan("--atomic -- jekyll build").apply.value, ApplyMode::Atomic);
}

#[test]
fn quiet_and_verbose_are_degrees() {
    let project = Project::new(&[]);
    let cases = [
        ("", Verbosity::Normal),
        ("-q", Verbosity::Quiet),
        ("-v", Verbosity::Verbose),
        ("-vv", Verbosity::Verbose),
    ];
    for (flag, expected) in cases {
        assert_eq!(
            project.settings(&format!("-i x {flag} -- make")).unwrap().presentation.verbosity,
            expected
        );
    }
}

#[test]
fn a_workspace_is_kept_unless_somebody_says_no() {
    let lifetime = |project: &Project, flags: &str| {
        let plan = project.plan(&format!("-i x {flags} -- make"));
        (plan.lifetime.value, why(&plan.lifetime))
    };
    let mut project = Project::new(&[]);
    assert_eq!(lifetime(&project, "").0, Lifetime::Kept);
    for ci in ["", "false", "0"] {
        project = project.with_var("CI", ci);
        assert_eq!(lifetime(&project, "").0, Lifetime::Kept, "CI={ci}");
    }
    project = project.with_var("CI", "true");
    assert_eq!(
        lifetime(&project, ""),
        (Lifetime::OneRun, "CI is set; --keep keeps a workspace there too".into())
    );
    assert_eq!(lifetime(&project, "--fresh").0, Lifetime::OneRun, "which is as fresh as can be");
    project.write("fastbuild.toml", "workspace.keep = true");
    assert_eq!(lifetime(&project, ""), (Lifetime::Kept, "fastbuild.toml:Some(1)".into()));
    project = project.with_var("FASTBUILD_KEEP", "no");
    assert_eq!(lifetime(&project, ""), (Lifetime::OneRun, "FASTBUILD_KEEP".into()));
    assert_eq!(lifetime(&project, "--keep"), (Lifetime::Kept, "--keep".into()));
    assert_eq!(lifetime(&project, "--keep --no-keep"), (Lifetime::OneRun, "--no-keep".into()));
    project = project.with_var("FASTBUILD_KEEP", "perhaps");
    assert!(project.error("-i x -- make").starts_with("FASTBUILD_KEEP: \"perhaps\" is neither yes nor no"));
}

#[test]
fn a_workspace_that_is_not_kept_cannot_be_started_over() {
    let project = Project::new(&[]);
    assert_eq!(project.plan("-i x --fresh -- make").workspace.if_there.value, IfThere::Fresh);
    let error = project.error("-i x --fresh --no-keep -- make");
    assert!(error.starts_with("--fresh starts the workspace over, and --no-keep says"), "{error}");
    project.write("fastbuild.toml", "workspace.keep = false");
    let error = project.error("-i x --fresh -- make");
    assert!(error.contains("fastbuild.toml:1 says that none is kept"), "{error}");
}

#[test]
fn limits_of_workspaces_have_variables_and_keys() {
    let limits = |project: &Project| {
        let plan = project.plan("-i x -- make").workspace;
        (plan.idle_stop.value.as_secs(), plan.max_age.value.as_secs(), plan.max_size.value)
    };
    let mut project = Project::new(&[]);
    assert_eq!(limits(&project), (3600, 30 * 86_400, 20 << 30));
    project.write("fastbuild.toml", "[workspace]\nidle-stop = '15m'\nmax-age = '7d'\nmax-size = '1g'");
    assert_eq!(limits(&project), (900, 7 * 86_400, 1 << 30));
    assert_eq!(why(&project.plan("-i x -- make").workspace.max_age), "fastbuild.toml:Some(3)");
    for (name, value) in [("IDLE_STOP", "0"), ("MAX_AGE", "12h"), ("MAX_SIZE", "5m")] {
        project = project.with_var(&format!("FASTBUILD_WORKSPACE_{name}"), value);
    }
    assert_eq!(limits(&project), (0, 43_200, 5 << 20));
    project = project.with_var("FASTBUILD_WORKSPACE_MAX_AGE", "a week");
    assert!(
        project
            .error("-i x -- make")
            .contains("invalid duration \"a week\": expected a whole number with s, m, h or d")
    );
}
