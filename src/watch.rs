//! `fastbuild watch`: a build, and another one each time that the sources have changed since.
//!
//! A notice of a change (`changes`) is only a hint to look. A scan of the source tree (`look`,
//! which leaves out what editors and the like write for themselves) is compared with the tree when
//! the last build began (`difference`), without what that build itself put in place (`Ours`; on a
//! mount, `mounted`). So a product, a file under the ignore rules, and a file that was renamed and
//! back do not start a build, and a change during a build is not lost. One build runs at a time,
//! each with its own project lock; between builds the lock is free. The plan is made anew for each
//! build, because `fastbuild.toml` may be what changed. Where a change comes from another watch's
//! build, `rounds` tells whether the two trigger each other.
//!
//! Neighbours: [`crate::build`] builds, [`crate::tree::scan`](mod@crate::tree::scan) looks.

mod changes;
mod difference;
mod look;
mod mounted;
mod rounds;

use std::{
    cell::OnceCell,
    convert::Infallible,
    error::Error,
    path::Path,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use self::{
    changes::Changes,
    difference::{Contents, Ours, difference},
    look::{Looked, Told},
    mounted::Mounted,
    rounds::{Rounds, Through},
};
use crate::{
    build::{self, BuildError, Exit, Interrupted, Interrupts, Signal},
    entry::RelPath,
    outputs::record::Record,
    plan::Plan,
    report::{
        Reporter,
        events::{Event, Noticing, Warning},
    },
    state::{State, StateError},
    tree::{Digest, Entry, Manifest, hash::hash_files, index::Index},
};

/// How many of the changed paths an event names.
const NAMED: usize = 10;

/// What becomes of the terminal's screen before each build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    /// It is cleared.
    Cleared,
    /// It scrolls.
    Kept,
}

impl Screen {
    /// Makes it so.
    pub fn before_build(self, reporter: &Reporter) {
        if self == Screen::Cleared {
            reporter.clear_screen();
        }
    }
}

/// Builds once and then at each change, until a signal comes. Returns how to exit then: with 0
/// after Ctrl-C, the normal end of a watch. `again` makes the plan of a later build.
///
/// # Errors
/// When the state directory cannot be used. A failed build is reported and does not end the watch,
/// and neither does a source tree that cannot be looked at.
pub async fn run(
    plan: Plan,
    again: &mut dyn FnMut() -> Result<Plan, Box<dyn Error>>,
    screen: Screen,
    state: &State,
    reporter: &Reporter,
) -> Result<Exit, BuildError> {
    let mut watch = Watch {
        // A script starts `fastbuild watch &` with SIGINT ignored, but only a signal ends a watch.
        interrupts: Interrupts::listen_even_to(&[Signal::Interrupt]).map_err(BuildError::Signals)?,
        changes: Changes::of(&plan.source.value, reporter),
        rounds: Rounds::begin(state).map_err(StateError::at("write to", &state.watches_dir()))?,
        mounted: Mounted::default(),
        told: Told::default(),
        builds: 0,
        changed: 0,
        plan,
        again,
        screen,
        state,
        reporter,
    };
    match watch.until_interrupted().await {
        Err(Ended::By(Signal::Interrupt)) => Ok(Exit::Code(0)),
        Err(Ended::By(signal)) => Ok(Exit::Signal(signal)),
        Err(Ended::Failed(error)) => Err(error),
    }
}

struct Watch<'a> {
    plan: Plan,
    again: &'a mut dyn FnMut() -> Result<Plan, Box<dyn Error>>,
    interrupts: Interrupts,
    changes: Changes,
    rounds: Rounds,
    mounted: Mounted,
    told: Told,
    /// The builds so far.
    builds: u64,
    /// How many changed paths started the last one.
    changed: u64,
    screen: Screen,
    state: &'a State,
    reporter: &'a Reporter,
}

/// Why a watch is over.
enum Ended {
    By(Signal),
    Failed(BuildError),
}

impl From<Interrupted> for Ended {
    fn from(Interrupted(signal): Interrupted) -> Ended {
        Ended::By(signal)
    }
}

impl From<BuildError> for Ended {
    fn from(error: BuildError) -> Ended {
        Ended::Failed(error)
    }
}

impl Watch<'_> {
    async fn until_interrupted(&mut self) -> Result<Infallible, Ended> {
        let mut before = self.look().await?;
        let mut through = Through::default();
        loop {
            (before, through) = self.build_and_wait(before, &through).await?;
            match (self.again)() {
                Ok(plan) => self.follow_plan(plan),
                // The next build uses the old plan: a mistake in fastbuild.toml does not end the
                // watch.
                Err(error) => self.reporter.error(&*error, None),
            }
        }
    }

    fn follow_plan(&mut self, plan: Plan) {
        if plan.source.value != self.plan.source.value {
            self.changes = Changes::of(&plan.source.value, self.reporter);
        }
        self.plan = plan;
    }

    /// Runs one build, caused by the changes in `through`, and waits for the changes that start the
    /// next one. Returns the tree for that build to begin with, and the builds that led to it.
    async fn build_and_wait(
        &mut self,
        before: Manifest,
        through: &Through,
    ) -> Result<(Manifest, Through), Ended> {
        let mut ours = Ours::before(self.plan.source.value.clone(), self.record()?);
        self.rounds.build_begins(through);
        self.builds += 1;
        let began = Instant::now();
        // Files that others put in place after this build do not count as its own.
        let (built, after) = {
            let (interrupts, record) = (self.interrupts.clone(), || self.record());
            build::run_alone(&self.plan, self.state, interrupts, self.reporter, record).await
        };
        self.rounds.build_ended();
        let took = began.elapsed();
        if let Some(signal) = self.interrupts.come().await {
            self.reporter.clear();
            return Err(Ended::By(signal));
        }
        let exit_code = built.as_ref().ok().map(|exit| exit.code());
        if let Err(error) = built {
            self.reporter.error(&error, error.advice().as_deref());
            self.told.note(&error);
        }
        ours.after(after?);
        self.changes.forget();
        let mut seen = self.look().await?;
        let mut changed = self.difference((&before, &seen), &ours)?;
        changed = self.mounted.edited_during(&self.plan, changed, (&before, &seen));
        drop(before);
        let mut in_circle = false;
        let mut is_told = false;
        loop {
            if !changed.is_empty() {
                let through = self.rounds.led_to(changed.iter().filter_map(|path| seen.get(path)));
                if !self.rounds.is_circle(&through) {
                    if !is_told {
                        self.tell_built(exit_code, took, None);
                    }
                    self.tell_changed(changed);
                    return Ok((seen, through));
                }
                if !std::mem::replace(&mut in_circle, true) {
                    self.reporter.emit(Event::Warned(Warning::Circle { path: changed.swap_remove(0) }));
                }
            }
            if !std::mem::replace(&mut is_told, true) {
                let by = self.changes.noticing();
                self.tell_built(exit_code, took, Some(by));
                self.reporter.emit(Event::Watching { by });
            }
            self.interrupts.unless(self.changes.next()).await?;
            let now = self.look().await?;
            changed = self.difference((&seen, &now), &ours)?;
            self.mounted.edited_between(&changed);
            seen = now;
        }
    }

    /// Scans the source tree and watches all its directories. Errors are reported; the scan is
    /// retried.
    async fn look(&mut self) -> Result<Manifest, Ended> {
        let mut was_lost = false;
        loop {
            let plan = self.plan.clone();
            let looking = tokio::task::spawn_blocking(move || look::look(&plan));
            match self.interrupts.unless(looking).await?.map_err(|_| BuildError::Panicked)? {
                Ok(Looked { manifest, unreadable }) => {
                    self.told.news(unreadable).iter().for_each(|error| self.reporter.error(error, None));
                    if std::mem::take(&mut was_lost) {
                        // A root that exists again is another directory.
                        self.changes = Changes::of(&self.plan.source.value, self.reporter);
                    }
                    // Another look finds files that came into a new directory before it was
                    // watched.
                    if self.changes.follow(&manifest, self.reporter) == changes::Followed::Known {
                        return Ok(manifest);
                    }
                }
                Err(error) => {
                    let tell = |error: &BuildError| self.reporter.error(error, error.advice().as_deref());
                    self.told.news(vec![error]).iter().for_each(tell);
                    was_lost = true;
                    self.interrupts.unless(sleep(changes::TICK)).await?;
                    // The ignore rules may be the cause.
                    if let Ok(plan) = (self.again)() {
                        self.follow_plan(plan);
                    }
                }
            }
        }
    }

    fn difference(&self, trees: (&Manifest, &Manifest), ours: &Ours) -> Result<Vec<RelPath>, BuildError> {
        let index = self.state.project(&self.plan.source.value)?.index_path();
        let held = Held { root: &self.plan.source.value, index: &index, trees, before: OnceCell::new() };
        Ok(tokio::task::block_in_place(|| difference(trees.0, trees.1, ours, &held)))
    }

    fn record(&self) -> Result<Record, BuildError> {
        Ok(Record::load(&self.state.project(&self.plan.source.value)?.record_path()))
    }

    fn tell_built(&self, exit_code: Option<u8>, took: Duration, waits: Option<Noticing>) {
        let clock = chrono::Local::now().format("%H:%M:%S").to_string();
        let (build, changed) = (self.builds, self.changed);
        self.reporter.emit(Event::WatchBuilt { build, clock, exit_code, changed, took, waits });
    }

    fn tell_changed(&mut self, mut changed: Vec<RelPath>) {
        self.screen.before_build(self.reporter);
        self.changed = changed.len() as u64;
        let more = changed.len().saturating_sub(NAMED) as u64;
        changed.truncate(NAMED);
        self.reporter.emit(Event::SourcesChanged { paths: changed, more });
    }
}

/// What files held, by the index that the last build left, and what they hold now.
struct Held<'a> {
    root: &'a Path,
    index: &'a Path,
    trees: (&'a Manifest, &'a Manifest),
    /// For each entry of the first tree.
    before: OnceCell<Vec<Option<Digest>>>,
}

impl Contents for Held<'_> {
    fn before(&self, entry: &Entry) -> Option<Digest> {
        let digests = self.before.get_or_init(|| Index::load(self.index).noted_digests(self.trees.0));
        self.trees.0.position(&entry.path).and_then(|at| digests[at])
    }

    fn now(&self, entry: &Entry) -> Option<Digest> {
        let at = self.trees.1.position(&entry.path)?;
        let read = hash_files(self.root, self.trees.1, &[at], &|_| ());
        read.digests.first().map(|(_, digest)| *digest)
    }
}
