//! When to look for changes: on notices of the system (inotify and its like), or once a second.
//!
//! On Linux each directory of the source tree gets its own watch: a watch of the whole tree would
//! use up the system's watches on `node_modules`, whatever the ignore rules say. On other systems
//! one watch of the root works best. On file systems that do not report others' changes, and when
//! the system runs out of watches, the tree is polled once a second.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{
    ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    entry::host_path,
    entry::{Kind, RelPath},
    facts,
    report::{
        Reporter,
        events::{self, Noticing, Warning},
    },
    tree::{Manifest, scan::STAGE_PREFIX},
};

/// The pause that ends a burst of changes: a save is several changes, a `git checkout` is many.
const QUIET: Duration = Duration::from_millis(50);
/// The longest burst: after this time the tree is looked at anyway.
const BURST: Duration = Duration::from_secs(1);
/// The polling interval.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// The system watches a directory with everything below it.
const WHOLE_TREE: bool = cfg!(not(target_os = "linux"));

/// The source of notices about changes below one root.
pub(super) struct Changes {
    root: PathBuf,
    source: Source,
}

enum Source {
    Told(Box<Told>),
    Looking,
}

struct Told {
    watcher: RecommendedWatcher,
    happened: watch::Receiver<()>,
    /// The watched directories and their inodes: another directory may have taken the same name.
    directories: HashMap<RelPath, u64>,
}

/// The result of [`Changes::follow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Followed {
    /// Every directory was watched already.
    Known,
    /// Some directories were new: earlier changes in them were not noticed.
    New,
}

impl Changes {
    /// Watches the directory `root`.
    pub(super) fn of(root: &Path, reporter: &Reporter) -> Changes {
        let source = match hears_of_all(root) {
            true => listen(root).map_or_else(|error| give_up(&error, reporter), Source::Told),
            false => Source::Looking,
        };
        Changes { root: root.to_owned(), source }
    }

    /// How changes are noticed.
    pub(super) fn noticing(&self) -> Noticing {
        match self.source {
            Source::Told(_) => Noticing::Told,
            Source::Looking => Noticing::Looking,
        }
    }

    /// Watches the directories of `manifest`, and no others.
    pub(super) fn follow(&mut self, manifest: &Manifest, reporter: &Reporter) -> Followed {
        let Source::Told(told) = &mut self.source else { return Followed::Known };
        if other_file_systems(&self.root, manifest).any(|directory| !hears_of_all(&directory)) {
            self.source = Source::Looking;
            return Followed::New;
        }
        if WHOLE_TREE {
            return Followed::Known;
        }
        match told.follow(&self.root, manifest) {
            Ok(followed) => followed,
            Err(error) => {
                self.source = give_up(&error, reporter);
                Followed::New
            }
        }
    }

    /// Forgets the notices so far.
    pub(super) fn forget(&mut self) {
        if let Source::Told(told) = &mut self.source {
            told.happened.mark_unchanged();
        }
    }

    /// Waits until a look is worthwhile: something changed, and then nothing more for a moment.
    pub(super) async fn next(&mut self) {
        match &mut self.source {
            Source::Looking => sleep(TICK).await,
            Source::Told(told) => {
                told.event().await;
                let deadline = Instant::now() + BURST;
                while Instant::now() < deadline && timeout(QUIET, told.event()).await.is_ok() {}
            }
        }
    }
}

/// Whether the system reports every change there. It cannot report changes on the far side of a
/// mount. An unknown file system is taken for a local one.
fn hears_of_all(directory: &Path) -> bool {
    facts::file_system(directory).is_none_or(|found| !found.class.crosses())
}

fn listen(root: &Path) -> Result<Box<Told>, notify::Error> {
    let (sender, happened) = watch::channel(());
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.as_ref().map_or(true, matters) {
            sender.send_replace(());
        }
    })?;
    let mode = if WHOLE_TREE { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
    watcher.watch(root, mode)?;
    Ok(Box::new(Told { watcher, happened, directories: HashMap::new() }))
}

/// Reads are not changes (our own scans read), and fastbuild's staging directories are internal.
fn matters(event: &Event) -> bool {
    let is_read = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    };
    let is_stage = |path: &PathBuf| {
        path.components().any(|name| name.as_os_str().as_encoded_bytes().starts_with(STAGE_PREFIX.as_bytes()))
    };
    !is_read && (event.paths.is_empty() || !event.paths.iter().all(is_stage))
}

fn give_up(error: &notify::Error, reporter: &Reporter) -> Source {
    let why = match &error.kind {
        ErrorKind::MaxFilesWatch => {
            "there are more directories than it watches (the limit is fs.inotify.max_user_watches)".to_owned()
        }
        _ => error.to_string(),
    };
    reporter.emit(events::Event::Warned(Warning::NotTold { why }));
    Source::Looking
}

/// One directory of each file system that is mounted below the root.
fn other_file_systems(root: &Path, manifest: &Manifest) -> impl Iterator<Item = PathBuf> {
    let mut known = Vec::new();
    let directories = manifest.entries().iter().filter(|entry| entry.kind == Kind::Directory);
    directories.filter_map(move |entry| {
        if known.contains(&entry.stamp.dev) {
            return None;
        }
        known.push(entry.stamp.dev);
        host_path::join(root, &entry.path)
    })
}

impl Told {
    /// Waits for something to happen.
    async fn event(&mut self) {
        if self.happened.changed().await.is_err() {
            // The watcher lives as long as `self`, so this cannot happen.
            std::future::pending::<()>().await;
        }
    }

    fn follow(&mut self, root: &Path, manifest: &Manifest) -> Result<Followed, notify::Error> {
        let is_directory = |entry: &&crate::tree::Entry| entry.kind == Kind::Directory;
        let there: HashMap<_, _> = manifest
            .entries()
            .iter()
            .filter(is_directory)
            .map(|entry| (&entry.path, entry.stamp.ino))
            .collect();
        // Removed ones first: a renamed directory keeps its inode, and would lose its new watch.
        let gone = self.directories.iter().filter(|(path, inode)| there.get(path) != Some(inode));
        for path in gone.map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            self.directories.remove(&path);
            // Most likely the watch is gone with the directory.
            let _ = host_path::join(root, &path).map(|path| self.watcher.unwatch(&path));
        }
        let mut followed = Followed::Known;
        for (path, inode) in there {
            if self.directories.contains_key(path) {
                continue;
            }
            let Some(place) = host_path::join(root, path) else { continue };
            match self.watcher.watch(&place, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.directories.insert(path.clone(), inode);
                    followed = Followed::New;
                }
                // Gone or closed since: the directory above reports that.
                Err(error) if is_out_of_reach(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(followed)
    }
}

fn is_out_of_reach(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::PathNotFound => true,
        ErrorKind::Io(error) => {
            use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
            matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
        }
        _ => false,
    }
}
