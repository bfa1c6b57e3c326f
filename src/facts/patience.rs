//! Whether a path answers at all. A network that went away, or the machine around a virtual one that sleeps, leaves a
//! system call waiting for ever and takes no signal; so it is made on a thread that can be left behind.

use std::{
    io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use super::file_system;

/// A path does not answer as one should.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Not in time.
    #[error("{} did not answer within {} s", subject(path, kind_and_place.as_ref()), limit.as_secs_f64())]
    TimedOut {
        /// The path.
        path: PathBuf,
        /// The kind of its file system, and where that is mounted; none where it is not known.
        kind_and_place: Option<(String, PathBuf)>,
        /// How long was waited.
        limit: Duration,
    },
    /// An error came back.
    #[error("{} does not work", subject(path, kind_and_place.as_ref()))]
    Failed {
        /// The path.
        path: PathBuf,
        /// As above.
        kind_and_place: Option<(String, PathBuf)>,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// `the file system of "/p" (fuse.sshfs, mounted at "/m")`.
fn subject(path: &Path, kind_and_place: Option<&(String, PathBuf)>) -> String {
    match kind_and_place {
        Some((kind, place)) => format!("the file system of {path:?} ({kind}, mounted at {place:?})"),
        None => format!("the file system of {path:?}"),
    }
}

/// Looks at `path`, and at the first entry of a directory, for no longer than `limit`. After that, a thread of this
/// process goes on waiting; it is no hindrance to the process's end.
///
/// # Errors
/// [`NoAnswer`].
pub fn responds(path: &Path, limit: Duration) -> Result<(), NoAnswer> {
    let asked = path.to_owned();
    let answer = within(limit, move || ask(&asked));
    let whose = || file_system(path).map(|found| (found.kind, found.mount_point));
    match answer {
        Some(Ok(())) => Ok(()),
        Some(Err(source)) => Err(NoAnswer::Failed { path: path.to_owned(), kind_and_place: whose(), source }),
        None => Err(NoAnswer::TimedOut { path: path.to_owned(), kind_and_place: whose(), limit }),
    }
}

fn ask(path: &Path) -> io::Result<()> {
    if path.metadata()?.is_dir() {
        path.read_dir()?.next().transpose()?;
    }
    Ok(())
}

/// What `work` gives, if it does so before `limit` is over. If not, its thread is left behind. None as well when there
/// is no thread to be had, or when `work` panics.
pub fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (told, answer) = mpsc::sync_channel(1);
    // Nobody may be listening any more.
    let thread = thread::Builder::new().name("patience".to_owned()).spawn(move || drop(told.send(work())));
    thread.ok()?;
    answer.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn work_that_never_ends_is_left_behind() {
        let (_kept, never) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(1), move || never.recv()), None);
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
    }

    #[test]
    fn the_message_names_path_kind_place_and_limit() {
        let told = NoAnswer::TimedOut {
            path: "/p".into(),
            kind_and_place: Some(("fuse.sshfs".to_owned(), "/m".into())),
            limit: Duration::from_secs(10),
        };
        assert_eq!(
            told.to_string(),
            r#"the file system of "/p" (fuse.sshfs, mounted at "/m") did not answer within 10 s"#
        );
    }
}
