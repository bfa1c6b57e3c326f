//! Many small files, as a site generator makes them: some thousand bytes each, a hundred to a
//! directory. They are not synced one by one, because builds do not do that.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::run::{Problem, Sizes, Step, Watcher, failed, tell};

/// How many files are done between two calls of the watcher.
const BATCH: u64 = 50;

/// How long each step took, with all small files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Small {
    /// For making them.
    pub create: Duration,
    /// For looking at each.
    pub stat: Duration,
    /// For reading each.
    pub read: Duration,
    /// For renaming each.
    pub rename: Duration,
    /// For deleting them.
    pub delete: Duration,
}

pub(super) fn measure(root: &Path, sizes: &Sizes, watcher: Watcher<'_>) -> Result<Small, Problem> {
    let count = sizes.directories.clamp(1, sizes.files.max(1));
    let directories: Vec<PathBuf> = (0..count).map(|number| root.join(format!("section-{number}"))).collect();
    let directory_of = |file: u64| &directories[(file % count) as usize];
    let names: Vec<_> =
        (0..sizes.files).map(|file| directory_of(file).join(format!("page-{file}.html"))).collect();
    let renamed: Vec<_> =
        (0..sizes.files).map(|file| directory_of(file).join(format!("page-{file}.htm"))).collect();
    let content = vec![b'x'; usize::try_from(sizes.file_bytes).unwrap_or(0)];
    let mut read = Vec::with_capacity(content.len());

    let began = Instant::now();
    directories.iter().try_for_each(fs::create_dir).map_err(failed("make a directory"))?;
    each(&names, Step::Create, watcher, |name| {
        let made = File::create_new(name).and_then(|mut file| file.write_all(&content));
        made.map_err(failed("make a small file"))
    })?;
    let create = began.elapsed();
    let stat = each(&names, Step::Stat, watcher, |name| {
        name.symlink_metadata().map(drop).map_err(failed("look at a small file"))
    })?;
    let read = each(&names, Step::ReadSmall, watcher, |name| {
        read.clear();
        let done = File::open(name).and_then(|mut file| file.read_to_end(&mut read));
        match done.map_err(failed("read a small file"))? {
            bytes if bytes == content.len() => Ok(()),
            bytes => Err(Problem::Failed {
                tried: "read a small file".to_owned(),
                said: format!("{bytes} of {} bytes came back", content.len()),
            }),
        }
    })?;
    let mut to = renamed.iter();
    let rename = each(&names, Step::Rename, watcher, |name| {
        to.next().map_or(Ok(()), |to| fs::rename(name, to)).map_err(failed("rename a small file"))
    })?;
    let began = Instant::now();
    each(&renamed, Step::Delete, watcher, |name| {
        fs::remove_file(name).map_err(failed("delete a small file"))
    })?;
    directories.iter().try_for_each(fs::remove_dir).map_err(failed("remove a directory"))?;
    Ok(Small { create, stat, read, rename, delete: began.elapsed() })
}

/// Does `work` with each, and returns the time for all.
fn each(
    names: &[PathBuf],
    step: Step,
    watcher: Watcher<'_>,
    mut work: impl FnMut(&Path) -> Result<(), Problem>,
) -> Result<Duration, Problem> {
    let began = Instant::now();
    let of = names.len() as u64;
    for (name, done) in names.iter().zip(1..) {
        work(name)?;
        if done % BATCH == 0 || done == of {
            tell(watcher, step, done, of)?;
        }
    }
    Ok(began.elapsed())
}
