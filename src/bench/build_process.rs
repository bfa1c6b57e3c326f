//! One measured build: this program as a child process, from its start to its end.

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

/// The time for a child to end when asked; then it is killed, and its reaper cleans up.
const ENDING: Duration = Duration::from_secs(20);

/// The time after a child's end to read its output, which other processes may hold open.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Bytes of a child's output that are kept.
const TAIL: usize = 8 << 10;

/// How many of its lines are shown, and their length.
const LINES: usize = 3;
const LINE_CHARS: usize = 500;

/// The beginning of fastbuild's own lines.
const OWN: &str = "fastbuild: ";

/// A build as it is run again and again.
#[derive(Debug, Clone)]
pub struct Build {
    /// The fastbuild program.
    pub program: PathBuf,
    /// Its options and the command.
    pub words: Vec<OsString>,
    /// The directory in which it is started.
    pub directory: PathBuf,
    /// Its state directory.
    pub state: PathBuf,
}

impl Build {
    /// Runs it once; returns its time from start to end, or why it failed.
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
        // Ctrl-C goes to the whole foreground group; the bench itself tells its builds.
        #[cfg(unix)]
        command.process_group(0);
        command
    }
}

async fn end(child: &mut Child) {
    ask_to_end(child);
    if timeout(ENDING, child.wait()).await.is_err() {
        // It has just ended, or cannot be killed.
        let _ = child.kill().await;
    }
}

/// Reads a stream to its end, and keeps the last bytes.
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

/// `exit status: 2: cc: no such file; make: *** [all] Error 1`. fastbuild's own lines come first;
/// of the command's lines the last ones, without indented ones, which continue the line above.
fn why(status: &str, said: &str) -> String {
    let of_own = |marks: &str| {
        let lines = said.lines();
        lines.filter_map(|line| line.strip_prefix(OWN)?.strip_prefix(marks)).collect::<Vec<_>>()
    };
    let of_command = || {
        let mut lines: Vec<&str> = said.lines().filter(|line| !line.starts_with(OWN)).collect();
        lines.retain(|line| !line.trim().is_empty());
        if lines.iter().any(|line| !line.starts_with([' ', '\t'])) {
            lines.retain(|line| !line.starts_with([' ', '\t']));
        }
        lines.split_off(lines.len().saturating_sub(LINES))
    };
    let told = [of_own("error: "), of_own("warning: ")].into_iter().find(|lines| !lines.is_empty());
    let told = told.unwrap_or_else(of_command);
    let told: Vec<String> = told.iter().map(|line| line.trim().chars().take(LINE_CHARS).collect()).collect();
    if told.is_empty() { status.to_owned() } else { format!("{status}: {}", told.join("; ")) }
}

/// This program.
///
/// # Errors
/// When the system does not report it.
pub fn own_program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

/// The directory below `copy` for a build that was requested in `started_in` below `source`.
pub fn directory_in(copy: &Path, source: &Path, started_in: &Path) -> PathBuf {
    started_in.strip_prefix(source).map_or_else(|_| copy.to_owned(), |below| copy.join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_by_the_last_lines() {
        let cases = [
            ("", "x"),
            ("fastbuild: make: exit 1 after 0.10 s\n", "x"),
            ("a\nfastbuild: error: no engine\n", "x: no engine"),
            ("a\n\nb\n\x20 c \nd\ne\nfastbuild: make: 0.10 s\n", "x: b; d; e"),
            ("no such file (Errno)\n\tfrom here\n\tfrom there\n", "x: no such file (Errno)"),
            (" set in\n", "x: set in"),
            (
                "EROFS\nfastbuild: warning: the command could not write a\nfastbuild: make: exit 1 after 0.10 s; products \
                 not brought back (--outputs-on-failure brings them)\n",
                "x: the command could not write a",
            ),
        ];
        for (said, told) in cases {
            assert_eq!(why("x", said), told, "{said}");
        }
        assert_eq!(why("x", &"y".repeat(1000)).len(), "x: ".len() + LINE_CHARS);
    }

    #[test]
    fn a_build_starts_where_it_was_asked_for() {
        let directory = |started_in: &str| directory_in("/copy".as_ref(), "/p".as_ref(), started_in.as_ref());
        assert_eq!(directory("/p/docs/book"), Path::new("/copy/docs/book"));
        assert_eq!(directory("/elsewhere"), Path::new("/copy"));
    }
}
