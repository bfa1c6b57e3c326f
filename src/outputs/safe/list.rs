//! Lists what is in the safe place, puts it back, and removes it when it was kept for long enough.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use cap_std::{ambient_authority, fs::Dir};
use serde::{Serialize, Serializer};

use super::{Line, Place, Why, copy_entry, is_same};
use crate::{
    entry::{Kind, Timestamp},
    outputs::{
        stage_dir::{Stage, remove_stage},
        target::Target,
    },
    report::events::as_text,
    state::{Project, State, StateError, read_lines},
    sys::{
        at::{self, Look},
        metadata,
    },
};

/// Entries moved in the last day stay, however large they are. In seconds.
const DAY: i64 = 24 * 60 * 60;

/// Something in the safe place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Eight hexadecimal digits that name it.
    pub id: String,
    /// The absolute path that it had.
    #[serde(serialize_with = "as_text")]
    pub path: PathBuf,
    /// When it was moved.
    #[serde(serialize_with = "as_seconds")]
    pub moved: Timestamp,
    /// Its size in bytes.
    pub bytes: u64,
    /// Why it was moved; `None` where a crash lost its line.
    pub why: Option<Why>,
    /// The command line that moved it; `None` as above.
    pub command: Option<String>,
    /// Where it lies.
    #[serde(serialize_with = "as_text")]
    pub place: PathBuf,
    /// The run's part of the safe place.
    #[serde(skip)]
    run: (PathBuf, PathBuf),
}

fn as_seconds<S: Serializer>(moment: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(moment.secs)
}

/// Why something was not put in its place.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// Something is at the path, and is not moved away.
    #[error("{0:?} is there")]
    IsThere(PathBuf),
    /// The path leads to another place than before.
    #[error("{0:?} is not where it was: a directory on the way is a link now, or a file")]
    LeadsElsewhere(PathBuf),
    /// The system reported an error.
    #[error("could not put {path:?} back")]
    System {
        /// The destination.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// The result of [`Entry::put`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The path was free.
    Alone,
    /// The file that was there is now in the safe place.
    InPlaceOf,
    /// The same content was there already.
    WasThere,
}

/// Whether a file in the way may be moved to the safe place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InTheWay {
    /// It is moved.
    Moves,
    /// It stays, and nothing is put.
    Stays,
}

/// All entries in the safe place of a project, the oldest first.
///
/// # Errors
/// When the state directory cannot be read.
pub fn entries(project: &Project) -> Result<Vec<Entry>, StateError> {
    let mut all = Vec::new();
    for run in project.displaced_runs() {
        all.extend(of_run(&Place::of(project, &run))?);
    }
    all.sort_by(|a, b| (a.moved, &a.place).cmp(&(b.moved, &b.place)));
    Ok(all)
}

/// All entries of one run.
///
/// # Errors
/// When the state directory cannot be read.
pub fn of_run(run: &Place) -> Result<Vec<Entry>, StateError> {
    read(&run.dir, &run.index).map_err(StateError::at("read", &run.dir))
}

fn read(dir: &Path, index: &Path) -> io::Result<Vec<Entry>> {
    let lines: Vec<Line> = read_lines(index)?;
    // A line may be about a file that never arrived or was put back.
    let mut told: BTreeMap<_, _> = lines.into_iter().map(|line| (dir.join(&line.place), line)).collect();
    told.retain(|place, _| place.starts_with(dir) && place.symlink_metadata().is_ok());
    let mut untold = Vec::new();
    find_untold(dir, &told, &mut untold)?;
    let entry = |place: PathBuf, line: Option<Line>| {
        let below = place.strip_prefix(dir).unwrap_or(&place);
        let (path, moved, why, command) = match line {
            Some(Line { path, moved, why, command, .. }) => (path, moved, Some(why), Some(command)),
            None => (Path::new("/").join(below), changed(&place), None, None),
        };
        let id = crate::state::short_hash(place.as_os_str().as_encoded_bytes())[..8].to_owned();
        let run = (dir.to_owned(), index.to_owned());
        Entry { id, path, moved, bytes: weigh(&place), why, command, place, run }
    };
    let untold: Vec<_> = untold.into_iter().map(|place| (place, None)).collect();
    let told = told.into_iter().map(|(place, line)| (place, Some(line)));
    Ok(told.chain(untold).map(|(place, line)| entry(place, line)).collect())
}

/// Finds files without a line. Directories may be there only for their contents: not listed.
fn find_untold(dir: &Path, told: &BTreeMap<PathBuf, Line>, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for child in fs::read_dir(dir)? {
        let child = child?;
        if told.contains_key(&child.path()) {
            continue;
        }
        match child.file_type()?.is_dir() {
            true => find_untold(&child.path(), told, found)?,
            false => found.push(child.path()),
        }
    }
    Ok(())
}

fn weigh(place: &Path) -> u64 {
    let Ok(metadata) = place.symlink_metadata() else { return 0 };
    match metadata.is_dir() {
        true => fs::read_dir(place).into_iter().flatten().flatten().map(|child| weigh(&child.path())).sum(),
        false => metadata.len(),
    }
}

/// The ctime of its inode, which is when it got its name here.
fn changed(place: &Path) -> Timestamp {
    let stamp = look(place).ok().and_then(|(dir, name)| Some(at::look(&dir, &name).ok()??.stamp));
    stamp.map_or(Timestamp::default(), |stamp| stamp.ctime)
}

fn look(path: &Path) -> io::Result<(Dir, Vec<u8>)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    Ok((Dir::open_ambient_dir(parent, ambient_authority())?, name.as_encoded_bytes().to_owned()))
}

impl Entry {
    /// Whether its original path has the same content.
    fn lies_there_too(&self) -> bool {
        let same = look(&self.place).and_then(|(dir, name)| {
            let (there, at) = look(&self.path)?;
            is_same((&dir, &name), (&there, &at))
        });
        same.unwrap_or(false)
    }

    /// Moves it from the safe place to `path`, through a staging directory that is made at `stage`.
    /// A file in the way is moved to `safe` first.
    ///
    /// # Errors
    /// See [`PutError`]. The entry is then still in the safe place.
    pub fn put(&self, path: &Path, stage: PathBuf, way: InTheWay, safe: &Place) -> Result<Put, PutError> {
        // A product may be a link now, and lead anywhere.
        let leads_there = Target::named(path).is_ok_and(|target| target.root() == path);
        if !leads_there {
            return Err(PutError::LeadsElsewhere(path.to_owned()));
        }
        match self.put_there(path, stage, way, safe) {
            Ok(Some(put)) => self.remove().map(|()| put),
            Ok(None) => return Err(PutError::IsThere(path.to_owned())),
            Err(source) => Err(source),
        }
        .map_err(|source| PutError::System { path: path.to_owned(), source })
    }

    fn put_there(&self, path: &Path, stage: PathBuf, way: InTheWay, safe: &Place) -> io::Result<Option<Put>> {
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        let ((from, name), (to, as_name)) = (look(&self.place)?, look(path)?);
        if is_same((&from, &name), (&to, &as_name))? {
            return Ok(Some(Put::WasThere));
        }
        let stage = Stage::make(stage)?;
        copy_entry(&from, &name, &stage.dir, b"1")?;
        match at::rename_new(&stage.dir, b"1", &to, &as_name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            put => return put.map(|()| Some(Put::Alone)),
        }
        let is_directory = matches!(at::look(&to, &as_name)?, Some(Look { kind: Some(Kind::Directory), .. }));
        if way == InTheWay::Stays || is_directory {
            return Ok(None);
        }
        safe.save(&to, &as_name, path, Why::GaveWay)?;
        at::exchange(&stage.dir, b"1", &to, &as_name, b"2")?;
        // It may have been written to since.
        safe.save(&stage.dir, b"1", path, Why::GaveWay)?;
        Ok(Some(Put::InPlaceOf))
    }

    /// Deletes it from the safe place.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn remove(&self) -> io::Result<()> {
        match self.place.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => remove_stage(&self.place)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => fs::remove_file(&self.place)?,
        }
        let (dir, index) = &self.run;
        let above = self.place.ancestors().skip(1).take_while(|above| above.starts_with(dir));
        // Parent directories are removed up to the first that is not empty.
        let emptied = above.take_while(|above| fs::remove_dir(above).is_ok()).count() > 0;
        if emptied && !dir.exists() {
            fs::remove_file(index)?;
        }
        Ok(())
    }
}

/// How much is kept, and for how long. Zero means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest age, counted from the move.
    pub max_age: Duration,
    /// The largest total size in the state directory, in bytes.
    pub max_size: u64,
}

/// Removes the entries of every project's safe place that exceed the limits.
///
/// # Errors
/// When the state directory cannot be read, or an entry cannot be removed.
pub fn prune(state: &State, limits: Limits) -> Result<(), StateError> {
    let mut all = Vec::new();
    for project in state.projects()? {
        all.extend(entries(&project)?);
    }
    all.sort_by_key(|entry| entry.moved);
    let going = to_go(&all, limits, metadata::now(), Entry::lies_there_too);
    going.into_iter().try_for_each(|entry| entry.remove().map_err(StateError::at("remove", &entry.place)))
}

/// The entries of `all`, which has the oldest first, that exceed the limits. When the total is too
/// large, entries whose content is also at their original path go before any only copy.
fn to_go(all: &[Entry], limits: Limits, now: Timestamp, has_twin: fn(&Entry) -> bool) -> Vec<&Entry> {
    let age = |entry: &Entry| now.secs.saturating_sub(entry.moved.secs);
    let max_age = i64::try_from(limits.max_age.as_secs()).unwrap_or(i64::MAX);
    let oldest = if max_age == 0 { i64::MAX } else { max_age.max(DAY) };
    let (mut going, stays): (Vec<_>, Vec<_>) = all.iter().partition(|entry| age(entry) > oldest);
    let mut held: u64 = stays.iter().map(|entry| entry.bytes).sum();
    if limits.max_size > 0 && held > limits.max_size {
        let (twins, only): (Vec<_>, Vec<_>) = stays.into_iter().partition(|entry| has_twin(entry));
        for entry in twins.into_iter().chain(only.into_iter().filter(|entry| age(entry) > DAY)) {
            if held <= limits.max_size {
                break;
            }
            held -= entry.bytes;
            going.push(entry);
        }
    }
    going
}
