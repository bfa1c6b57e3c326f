//! What the documents name exists: paths of this repository, commands and options, and keys of `fastbuild.toml`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Options of other programs, which stand alone in a sentence about these.
const OTHERS_OPTIONS: [&str; 2] = ["--destination", "--no-default-features"];

/// Where paths of the repository begin; others are examples of a user's.
const BEGINNINGS: [&str; 7] = ["src/", "docs/", "tests/", "xtask/", "examples/", ".github/", ".ci/"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents, with their names.
fn documents() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for directory in [root().to_owned(), root().join("docs")] {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            // What has been is told by names that have been.
            if path.extension().is_some_and(|extension| extension == "md") && !path.ends_with("CHANGELOG.md")
            {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(found.len() > 5);
    found
}

/// What stands between backticks, with its document and line.
fn spans() -> Vec<(String, String)> {
    let mut spans = Vec::new();
    for (name, text) in documents() {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with("```")) {
            let odd = line.split('`').skip(1).step_by(2);
            spans.extend(odd.map(|span| (format!("{name}:{}", number + 1), span.to_owned())));
        }
    }
    spans
}

fn fastbuild(words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fastbuild"));
    let output = command.args(words).stdin(Stdio::null()).output().unwrap();
    [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat()
}

/// The subcommands that a help names.
fn subcommands(help: &str) -> BTreeSet<String> {
    let listed =
        help.split("Commands:\n").nth(1).unwrap_or_default().lines().take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn option(word: &str) -> &str {
    let end = word.find(|c: char| c != '-' && !c.is_ascii_lowercase()).unwrap_or(word.len());
    &word[..end]
}

#[test]
fn every_path_that_a_document_names_exists() {
    let mut all = Vec::new();
    let mut pending = vec![root().to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let below = path.strip_prefix(root()).unwrap().to_owned();
            if path.is_dir() && !below.starts_with("target") && !below.starts_with(".git")
                || below.ends_with(".github")
            {
                pending.push(path);
            }
            all.push(below);
        }
    }
    let is_path = |span: &str| {
        let is_plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
        is_plain && (span.ends_with(".rs") || BEGINNINGS.iter().any(|beginning| span.starts_with(beginning)))
    };
    let missing: Vec<_> = spans()
        .into_iter()
        .filter(|(_, span)| {
            is_path(span) && !all.iter().any(|path| path.ends_with(span.trim_end_matches('/')))
        })
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_command_and_option_that_a_document_names_exists() {
    let help = fastbuild(&["--help"]);
    let commands = subcommands(&help);
    let mut helps = help;
    for command in &commands {
        let help = fastbuild(&[command, "--help"]);
        helps.extend(subcommands(&help).iter().map(|below| fastbuild(&[command, below, "--help"])));
        helps.push_str(&help);
    }
    let known: BTreeSet<_> = helps
        .split(|c: char| c.is_whitespace() || "[]<>=,.;:`()".contains(c))
        .filter(|word| word.starts_with("--"))
        .collect();
    // One that no help shows is not unexpected.
    let exists = |option: &str| {
        known.contains(option) || !fastbuild(&["plan", option, "--", "true"]).contains("unexpected argument")
    };
    let tasks = fs::read_to_string(root().join("xtask/src/main.rs")).unwrap();
    let is_wrong = |span: &str| {
        let words: Vec<_> = span.split_whitespace().collect();
        let options = |words: &[&str]| {
            let words = words.iter().take_while(|word| **word != "--");
            let mut options =
                words.filter(|word| word.starts_with("--") && word.len() > 2).map(|word| option(word));
            options.any(|option| !OTHERS_OPTIONS.contains(&option) && !exists(option))
        };
        match &words[..] {
            ["cargo", "xtask", task, ..] => !tasks.contains(&format!("| `{task}`:")),
            ["fastbuild", rest @ ..] => {
                let is_command =
                    |word: &&str| !word.starts_with('-') && word.chars().all(|c| c.is_ascii_lowercase());
                rest.first().filter(|word| is_command(word)).is_some_and(|word| !commands.contains(*word))
                    || options(rest)
            }
            [first, ..] if first.starts_with("--") => options(&words[..1]),
            _ => false,
        }
    };
    let wrong: Vec<_> = spans().into_iter().filter(|(_, span)| is_wrong(span)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_file_that_a_document_shows_is_understood() {
    let mut shown = 0;
    for (name, text) in documents() {
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            let project = tempfile::tempdir().unwrap();
            fs::write(project.path().join("fastbuild.toml"), block).unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_fastbuild"));
            command
                .args(["plan", "--image", "i", "--", "true"])
                .current_dir(project.path())
                .stdin(Stdio::null());
            let output = command.env("FASTBUILD_STATE_DIR", project.path().join("state")).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}:\n{block}\n{said}");
            shown += 1;
        }
    }
    assert!(shown > 0, "no document shows a file");
}
