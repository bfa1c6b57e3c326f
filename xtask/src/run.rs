//! Child processes, steps and places: everything here says what it does, and its errors keep the evidence.

use std::{
    ffi::OsStr,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// The repository's root.
pub fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(here).parent().map(PathBuf::from).unwrap_or_default()
}

/// Cargo's target directory: the one that this program was built into.
pub fn target_dir() -> PathBuf {
    let built_into = std::env::current_exe().ok().and_then(|exe| exe.ancestors().nth(2).map(PathBuf::from));
    built_into.unwrap_or_else(|| root().join("target"))
}

/// Where xtask keeps what it makes. Everything in it can be made again.
pub fn scratch_dir() -> Result<PathBuf> {
    let dir = target_dir().join("xtask");
    fs_err::create_dir_all(&dir)?;
    Ok(dir)
}

/// Writes a file that others see whole or not at all.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    fs_err::write(&beside, content)?;
    Ok(fs_err::rename(&beside, path)?)
}

/// The cargo that runs this program.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Tells what happens next.
pub fn say(what: impl std::fmt::Display) {
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[1m==> {what}\x1b[0m");
    } else {
        eprintln!("==> {what}");
    }
}

/// Tells a detail of what was said last.
pub fn note(what: impl std::fmt::Display) {
    eprintln!("    {what}");
}

/// Named parts of a task and how long each took.
#[derive(Default)]
pub struct Timings(Vec<(&'static str, Duration)>);

impl Timings {
    /// Runs `part`, and keeps its wall time when it went well.
    pub async fn part<T>(&mut self, name: &'static str, part: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = Instant::now();
        let value = part.await.with_context(|| format!("{name} failed"))?;
        self.0.push((name, begun.elapsed()));
        Ok(value)
    }

    /// One line a part.
    pub fn print(&self) {
        let width = self.0.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, took) in &self.0 {
            note(format_args!("{name:width$} {:>8.2} s", took.as_secs_f64()));
        }
        let total: Duration = self.0.iter().map(|(_, took)| *took).sum();
        note(format_args!("{:width$} {:>8.2} s", "total", total.as_secs_f64()));
    }
}

/// Runs `command` with this terminal's streams, and fails with the command and its status.
pub fn run(command: &mut Command) -> Result<()> {
    note(format_args!("$ {}", shown(command)));
    std::io::stderr().flush().ok();
    let status = command.status().with_context(|| format!("cannot run `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs `command` silently; what it printed comes back, or lies in the error when it failed.
pub fn capture(command: &mut Command) -> Result<Output> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{}`", shown(command)))?;
    if !output.status.success() {
        let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        bail!("`{}` ended with {}:\n{}", shown(command), output.status, last_lines(said, 20));
    }
    Ok(output)
}

/// Whether `program` is in `PATH`, or is there when it is an absolute path.
pub fn found(program: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else { return false };
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// The last `count` lines of what a program printed, indented.
pub fn last_lines(bytes: &[u8], count: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(count)..];
    tail.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// The command as a shell would take it, near enough for a person to run it again.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let mut line: Vec<String> = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", quoted(name), quoted(value?))))
        .collect();
    line.extend(words.map(quoted));
    line.join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
