//! One measured build: this very program as a child process, from its start to its end.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    build::{Interrupted, Interrupts},
    sys::child::ask_to_end,
};

/// How long a child that was asked to end may take; then it is killed, and its reaper tidies up after it.
const ENDING: Duration = Duration::from_secs(20);

/// How long after a child's end its last words may take, which others may hold the other end of.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How much of what a child wrote is kept, in bytes.
const TAIL: usize = 8 << 10;

/// How many lines of it are told, and how long each may be.
const LINES: usize = 3;
const LINE_CHARS: usize = 200;

/// A build as it is run again and again.
#[derive(Debug, Clone)]
pub struct Build {
    /// fastbuild.
    pub program: PathBuf,
    /// Its options, and the command.
    pub words: Vec<OsString>,
    /// Where it is started.
    pub directory: PathBuf,
    /// Its state directory.
    pub state: PathBuf,
}

impl Build {
    /// Runs it once; gives the time from start to end, or why it did not end well.
    ///
    /// # Errors
    /// [`Interrupted`], after the child has ended.
    pub async fn run(&self, interrupts: &mut Interrupts) -> Result<Result<Duration, String>, Interrupted> {
        let began = Instant::now();
        let mut child = match self.command().spawn() {
            Ok(child) => child,
            Err(error) => return Ok(Err(format!("could not start {:?}: {error}", self.program))),
        };
        let (out, err) = (tail(child.stdout.take()), tail(child.stderr.take()));
        let status = match interrupts.unless(child.wait()).await {
            Ok(status) => status,
            Err(interrupted) => {
                end(&mut child).await;
                return Err(interrupted);
            }
        };
        let took = began.elapsed();
        match status {
            Ok(status) if status.success() => Ok(Ok(took)),
            Ok(status) => {
                let said = last_words(err).await;
                let said = if said.is_empty() { last_words(out).await } else { said };
                Ok(Err(why(&status.to_string(), &said)))
            }
            Err(error) => Ok(Err(format!("could not wait for the build: {error}"))),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.words)
            .current_dir(&self.directory)
            .env("FASTBUILD_STATE_DIR", &self.state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // Ctrl-C goes to the whole group in the foreground; who measures tells its builds itself.
        #[cfg(unix)]
        command.process_group(0);
        command
    }
}

async fn end(child: &mut Child) {
    ask_to_end(child);
    if timeout(ENDING, child.wait()).await.is_err() {
        // It has ended meanwhile, or is one that nobody can kill.
        let _ = child.kill().await;
    }
}

/// Reads a stream to its end, and keeps the end.
fn tail(stream: Option<impl AsyncRead + Unpin + Send + 'static>) -> JoinHandle<Vec<u8>> {
    tokio::spawn(async move {
        let (mut kept, mut chunk) = (Vec::new(), vec![0; TAIL]);
        let Some(mut stream) = stream else { return kept };
        while let Ok(read @ 1..) = stream.read(&mut chunk).await {
            kept.extend_from_slice(&chunk[..read]);
            kept.drain(..kept.len().saturating_sub(TAIL));
        }
        kept
    })
}

async fn last_words(tail: JoinHandle<Vec<u8>>) -> String {
    let bytes = timeout(LAST_WORDS, tail).await.ok().and_then(Result::ok).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// `exit status: 2: cc: no such file; make: *** [all] Error 1`
fn why(status: &str, said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines.iter().skip(lines.len().saturating_sub(LINES));
    let told: Vec<String> = last
        .map(|line| line.strip_prefix("fastbuild: error: ").unwrap_or(line))
        .map(|line| line.chars().take(LINE_CHARS).collect())
        .collect();
    if told.is_empty() { status.to_owned() } else { format!("{status}: {}", told.join("; ")) }
}

/// This program.
///
/// # Errors
/// When the system does not tell.
pub fn own_program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

/// Where below `copy` a build starts that was asked for in `started_in` below `source`.
pub fn directory_in(copy: &Path, source: &Path, started_in: &Path) -> PathBuf {
    started_in.strip_prefix(source).map_or_else(|_| copy.to_owned(), |below| copy.join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_by_the_last_lines() {
        assert_eq!(why("exit status: 1", ""), "exit status: 1");
        assert_eq!(why("exit status: 125", "fastbuild: error: no engine\n"), "exit status: 125: no engine");
        let said = "a\n\nb\n c \nd\n";
        assert_eq!(why("exit status: 2", said), "exit status: 2: b; c; d");
        assert_eq!(why("x", &"y".repeat(1000)).len(), "x: ".len() + LINE_CHARS);
    }

    #[test]
    fn a_build_starts_where_it_was_asked_for() {
        let directory = |started_in: &str| directory_in("/copy".as_ref(), "/p".as_ref(), started_in.as_ref());
        assert_eq!(directory("/p/docs/book"), Path::new("/copy/docs/book"));
        assert_eq!(directory("/elsewhere"), Path::new("/copy"));
    }
}
