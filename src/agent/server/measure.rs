//! Measures directories of the container, one after the other, on request. The caller decides about
//! rounds and order, because places of other machines may come in between.

use std::{
    fs, io,
    ops::ControlFlow,
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{
    agent::server::free_space,
    measure::{
        Figures, Problem, Progress, Sizes, measure,
        wire::{self, Ask, Medium, Told},
    },
};

/// How long no progress is reported, so that reports do not change the figures.
const SILENT_FOR: Duration = Duration::from_millis(100);

/// Serves stdin until its end, or until a signal. After a signal it removes the files that it is
/// making: on a mount, the caller might not be able to.
pub(super) fn run() -> ExitCode {
    let signals = Signals::default();
    if signals.listen().is_err() {
        return ExitCode::FAILURE;
    }
    match serve(&signals, &mut io::stdin().lock(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        // The caller does not listen any more.
        Err(_) => ExitCode::FAILURE,
    }
}

/// What the signals have set.
#[derive(Debug, Default)]
struct Signals {
    /// Nothing is being measured: a signal may end the process at once.
    idle: Arc<AtomicBool>,
    /// A signal has come.
    enough: Arc<AtomicBool>,
}

impl Signals {
    fn listen(&self) -> io::Result<()> {
        self.idle.store(true, Ordering::SeqCst);
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register_conditional_shutdown(signal, 0, Arc::clone(&self.idle))?;
            signal_hook::flag::register(signal, Arc::clone(&self.enough))?;
        }
        Ok(())
    }

    fn is_enough(&self) -> bool {
        self.enough.load(Ordering::SeqCst)
    }
}

fn serve(signals: &Signals, asked: &mut impl io::BufRead, told: &mut impl io::Write) -> io::Result<()> {
    while let Some(ask) = wire::read::<Ask>(asked)? {
        signals.idle.store(false, Ordering::SeqCst);
        let answer = match ask {
            Ask::Measure { directory, medium, sizes } => {
                match measure_in(signals, Path::new(&directory), medium, &sizes, told) {
                    Ok(figures) => Told::Done(figures),
                    Err(problem) => Told::Failed(problem),
                }
            }
            Ask::Empty { directory } => match empty(Path::new(&directory)) {
                Ok(()) => Told::Emptied,
                Err(error) => Told::Failed(failed("empty", Path::new(&directory), &error)),
            },
        };
        signals.idle.store(true, Ordering::SeqCst);
        if signals.is_enough() {
            return Ok(());
        }
        wire::write(told, &answer)?;
    }
    Ok(())
}

fn failed(tried: &str, directory: &Path, error: &io::Error) -> Problem {
    Problem::Failed { tried: format!("{tried} {directory:?}"), said: error.to_string() }
}

/// Empties a directory. Links in it are not followed.
fn empty(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn measure_in(
    signals: &Signals,
    directory: &Path,
    medium: Medium,
    sizes: &Sizes,
    told: &mut impl io::Write,
) -> Result<Figures, Problem> {
    fs::create_dir_all(directory).map_err(|error| failed("make", directory, &error))?;
    if medium == Medium::Memory {
        refuse_without_memory(directory, sizes.room())?;
    }
    let mut last = Instant::now();
    let mut watcher = |progress: Progress| {
        if signals.is_enough() {
            return ControlFlow::Break(());
        }
        if last.elapsed() < SILENT_FOR {
            return ControlFlow::Continue(());
        }
        last = Instant::now();
        match wire::write(told, &Told::Moved(progress)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    measure(directory, sizes, &mut watcher)
}

/// A file system in memory takes it from all processes, and may promise more than there is.
fn refuse_without_memory(directory: &Path, needed: u64) -> Result<(), Problem> {
    let free = free_space::below(directory)
        .map_err(|error| failed("ask how much memory there is for", directory, &error))?;
    if free.bytes < needed { Err(Problem::NoMemory { needed, free: free.bytes }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_question_has_an_answer_and_the_end_of_them_is_no_failure() {
        let home = tempfile::tempdir().unwrap();
        let tiny = Sizes { sequential: 10, files: 3, file_bytes: 1, directories: 1 };
        let ask = |directory: &str, sizes| Ask::Measure {
            directory: home.path().join(directory).to_str().unwrap().to_owned(),
            medium: Medium::Memory,
            sizes,
        };
        let vast = Sizes { sequential: 1 << 60, ..tiny };
        let mut asked = Vec::new();
        for ask in [ask("new/place", tiny), ask("new", vast)] {
            wire::write(&mut asked, &ask).unwrap();
        }
        let mut told = Vec::new();
        serve(&Signals::default(), &mut asked.as_slice(), &mut told).unwrap();
        let mut told = told.as_slice();
        let all = std::iter::from_fn(|| wire::read::<Told>(&mut told).unwrap());
        // A busy machine reports progress, too.
        let mut answers = all.filter(|told| !matches!(told, Told::Moved(_)));
        assert!(matches!(answers.next(), Some(Told::Done(figures)) if figures.sizes == tiny));
        assert!(matches!(answers.next(), Some(Told::Failed(Problem::NoMemory { .. }))));
        assert_eq!(answers.next(), None);
        assert_eq!(fs::read_dir(home.path().join("new/place")).unwrap().count(), 0);
    }

    #[test]
    fn when_it_is_enough_nothing_stays_and_nothing_more_is_said() {
        let home = tempfile::tempdir().unwrap();
        let signals = Signals::default();
        signals.enough.store(true, Ordering::SeqCst);
        let mut asked = Vec::new();
        let directory = home.path().to_str().unwrap().to_owned();
        let ask = Ask::Measure { directory, medium: Medium::Disk, sizes: Sizes::QUICK };
        wire::write(&mut asked, &ask).unwrap();
        let mut told = Vec::new();
        serve(&signals, &mut asked.as_slice(), &mut told).unwrap();
        assert!(told.is_empty());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_emptied_stays_itself_and_links_out_of_it_are_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let (full, beside) = (home.path().join("full"), home.path().join("beside"));
        fs::create_dir_all(full.join("deep/deeper")).unwrap();
        fs::create_dir(&beside).unwrap();
        fs::write(beside.join("file"), "").unwrap();
        std::os::unix::fs::symlink(&beside, full.join("link")).unwrap();
        let mut asked = Vec::new();
        for directory in [&full, &home.path().join("gone")] {
            let directory = directory.to_str().unwrap().to_owned();
            wire::write(&mut asked, &Ask::Empty { directory }).unwrap();
        }
        let mut told = Vec::new();
        serve(&Signals::default(), &mut asked.as_slice(), &mut told).unwrap();
        let mut told = told.as_slice();
        assert_eq!(wire::read(&mut told).unwrap(), Some(Told::Emptied));
        assert!(matches!(wire::read(&mut told).unwrap(), Some(Told::Failed(_))));
        assert_eq!(fs::read_dir(&full).unwrap().count(), 0);
        assert!(beside.join("file").exists());
    }
}
