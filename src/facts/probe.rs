//! Checks whether a path answers at all. After the loss of a network, or during the sleep of a
//! virtual machine's host, a system call can block for ever.
//!
//! Such a call cannot be cancelled. On FUSE it cannot even be killed: once the file system's
//! process has read a request, the kernel waits for the reply, and a process with a thread in such
//! a call never ends (measured). So a second process of this program makes the call, and is left
//! behind if it blocks. It does not hold fastbuild's standard streams, so no process waits for
//! their end.

use std::{
    ffi::OsString,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::{
    facts::{FileSystem, file_system::file_system_unasked},
    spec::PROJECT_FILE,
};

/// The hidden command of the checking process; its only argument is the path.
pub const COMMAND: &str = "__ask";

/// A path does not answer, or answers with an error.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// No answer in time.
    #[error("{} did not answer within {} s", subject(path, file_system.as_deref()), limit.as_secs_f64())]
    TimedOut {
        /// The path.
        path: PathBuf,
        /// Its file system, where known.
        file_system: Option<Box<FileSystem>>,
        /// The time limit.
        limit: Duration,
    },
    /// The answer was an error.
    #[error("{} does not work", subject(path, file_system.as_deref()))]
    Failed {
        /// The path.
        path: PathBuf,
        /// Its file system, where known.
        file_system: Option<Box<FileSystem>>,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

impl NoAnswer {
    /// The file system of the path, where known.
    pub fn file_system(&self) -> Option<&FileSystem> {
        match self {
            NoAnswer::TimedOut { file_system, .. } | NoAnswer::Failed { file_system, .. } => {
                file_system.as_deref()
            }
        }
    }
}

/// `the file system of "/p" (fuse.sshfs, mounted at "/m")`.
fn subject(path: &Path, file_system: Option<&FileSystem>) -> String {
    match file_system {
        Some(FileSystem { kind, mount_point, .. }) => {
            format!("the file system of {path:?} ({kind}, mounted at {mount_point:?})")
        }
        None => format!("the file system of {path:?}"),
    }
}

/// Looks at `path`, at the first entry of a directory, and for the project file in each directory
/// from `path` upwards. Waits at most `limit`; the checking process waits on until the file system
/// answers or is unmounted. Starting it takes some milliseconds.
///
/// # Errors
/// [`NoAnswer`].
pub fn responds(path: &Path, limit: Duration) -> Result<(), NoAnswer> {
    let asked = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let told = match ask_elsewhere(&asked, limit) {
        Asked::Answered(answer) => Some(answer),
        Asked::Waiting => None,
        // A thread is good enough if the file system answers.
        Asked::NotStarted => within(limit, {
            let asked = asked.clone();
            move || look(&asked)
        }),
    };
    let (path, whose) = (path.to_owned(), || file_system_unasked(&asked).map(Box::new));
    match told {
        Some(Ok(())) => Ok(()),
        Some(Err(source)) => Err(NoAnswer::Failed { path, file_system: whose(), source }),
        None => Err(NoAnswer::TimedOut { path, file_system: whose(), limit }),
    }
}

/// The result of a check.
enum Asked {
    Answered(io::Result<()>),
    Waiting,
    NotStarted,
}

/// Starts a checking process and reads its reply.
fn ask_elsewhere(path: &Path, limit: Duration) -> Asked {
    let Ok(program) = std::env::current_exe() else { return Asked::NotStarted };
    let mut command = Command::new(program);
    command.arg(COMMAND).arg(path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    if let Some(root) = path.ancestors().last() {
        command.current_dir(root);
    }
    let Ok(mut asking) = command.spawn() else { return Asked::NotStarted };
    let Some(mut pipe) = asking.stdout.take() else { return Asked::NotStarted };
    let read = move || {
        let mut said = String::new();
        pipe.read_to_string(&mut said).map(|_| said)
    };
    let Some(said) = within(limit, read) else { return Asked::Waiting };
    // The process closes its output last, so it ends now.
    let _ = asking.wait();
    match said.ok().as_deref().and_then(read_reply) {
        Some(answer) => Asked::Answered(answer),
        // Another program that uses this library and does not have this command.
        None => Asked::NotStarted,
    }
}

/// The main function of the checking process: looks at the path and prints the result.
///
/// # Errors
/// When it does not have exactly one argument, or its output cannot be written.
pub fn main(words: &[OsString]) -> io::Result<()> {
    let [path] = words else { return Err(io::ErrorKind::InvalidInput.into()) };
    let reply = reply(&look(Path::new(path)));
    io::stdout().lock().write_all(reply.as_bytes())
}

fn look(path: &Path) -> io::Result<()> {
    if path.metadata()?.is_dir() {
        path.read_dir()?.next().transpose()?;
    }
    // The search for the settings looks there next. Only an answer matters, not its content.
    for directory in path.canonicalize()?.ancestors() {
        let _ = directory.join(PROJECT_FILE).symlink_metadata();
    }
    Ok(())
}

const WELL: &str = "answered";
const FAILED: &str = "failed with ";

fn reply(looked: &io::Result<()>) -> String {
    match looked {
        Ok(()) => format!("{WELL}\n"),
        Err(error) => format!("{FAILED}{}\n", error.raw_os_error().unwrap_or_default()),
    }
}

/// `None` when the text is not such a reply.
fn read_reply(said: &str) -> Option<io::Result<()>> {
    let line = said.strip_suffix('\n')?;
    if line == WELL {
        return Some(Ok(()));
    }
    match line.strip_prefix(FAILED)?.parse().ok()? {
        0 => Some(Err(io::ErrorKind::Other.into())),
        code => Some(Err(io::Error::from_raw_os_error(code))),
    }
}

/// The result of `work` if it is done within `limit`. If not, its thread is left behind. Also
/// `None` when no thread can be started, or when `work` panics.
fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (told, answer) = mpsc::sync_channel(1);
    // Sending fails when the receiver has given up.
    let thread = thread::Builder::new().name("patience".to_owned()).spawn(move || drop(told.send(work())));
    thread.ok()?;
    answer.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Class;

    #[test]
    fn what_is_there_answers() {
        let dir = tempfile::TempDir::new().unwrap();
        let limit = Duration::from_secs(60);
        responds(dir.path(), limit).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        responds(&file, limit).unwrap();
        let gone = responds(&dir.path().join("gone"), limit).unwrap_err();
        assert!(matches!(&gone, NoAnswer::Failed { source, .. } if source.kind() == io::ErrorKind::NotFound));
    }

    #[test]
    fn a_reply_is_read_as_it_was_meant() {
        assert!(matches!(read_reply(&reply(&Ok(()))), Some(Ok(()))));
        let (gone, odd) = (io::Error::from_raw_os_error(2), io::Error::other("odd"));
        let read = |error| read_reply(&reply(&Err(error))).unwrap().unwrap_err();
        assert_eq!((read(gone).raw_os_error(), read(odd).kind()), (Some(2), io::ErrorKind::Other));
        for said in ["", "answered", "failed with \n", "running 0 tests\n", "answered\nanswered\n"] {
            assert!(read_reply(said).is_none(), "{said:?}");
        }
    }

    #[test]
    fn work_that_never_ends_is_left_behind() {
        let (_kept, never) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(1), move || never.recv()), None);
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
    }

    #[test]
    fn the_message_names_path_kind_place_and_limit() {
        let told = NoAnswer::TimedOut {
            path: "/p".into(),
            file_system: Some(Box::new(FileSystem {
                kind: "fuse.sshfs".to_owned(),
                class: Class::Network,
                mount_point: "/m".into(),
                device: String::new(),
                options: Vec::new(),
            })),
            limit: Duration::from_secs(10),
        };
        assert_eq!(
            told.to_string(),
            r#"the file system of "/p" (fuse.sshfs, mounted at "/m") did not answer within 10 s"#
        );
    }
}
