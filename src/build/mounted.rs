//! What is different where the host's own tree is mounted: nothing goes in, and what the command wrote is here already, or lies in
//! volumes over the outputs. The rest is [`super::cold`]'s.
//!
//! | | `mount` | `mount-source` |
//! |---|---|---|
//! | the source tree | the host's, read and written | the host's, read-only |
//! | an output below it | the host's | an anonymous volume; comes back as from any container |
//! | an output elsewhere, or with another HOST | comes back as from any container | the same |

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use super::{
    BuildError, Built, Interrupts, Running,
    cold::Cold,
    collect::Collecting,
    detached,
    error::Listing,
    heal::{self, Mark, Runner, Tail},
};
use crate::{
    engine::{ContainerId, EngineError, Mount, MountAccess, PathKind, VolumeContents},
    facts,
    outputs::{record::Record, target::native_join, times::Times},
    plan::{OnFailure, Output, Outputs, Plan, Route},
    report::events::{Amount, Event, Phase, Warning},
    state::{Placeholder, Run},
    user::Ids,
};

/// How many names are shown in place of a missing output.
const LISTED: usize = 12;

/// How long it is looked whether a mount failed the command.
const LOOKING: Duration = Duration::from_secs(10);

impl Cold<'_> {
    /// As for sources that are sent, from the container to staged products.
    pub(super) async fn until_staged_mounted(
        &self,
        record: &Arc<Record>,
        interrupts: &mut Interrupts,
    ) -> Result<Built, BuildError> {
        let (container, ids) = interrupts.unless(self.make_mounted()).await??;
        let (tail, runner) = (Tail::default(), Runner { ids, began: SystemTime::now() });
        let exit_code = self.run_command(&container, Some(&tail), interrupts).await?;
        let defect = match exit_code {
            0 => None,
            _ => self.diagnose(tail, runner).await?,
        };
        let nothing = |defect| Ok(Built { exit_code, staged: None, times: Times::default(), defect });
        let is_left = self.plan.on_failure.value == OnFailure::Leave && self.plan.route.value == Route::Mount;
        if exit_code != 0 && (is_left || defect.is_some()) {
            // What it wrote is here.
            return nothing(defect);
        }
        let plan = match left_to_collect(self.plan) {
            // That a command which failed did not get as far as its products is no surprise.
            Err(BuildError::MissingOutput { .. }) if exit_code != 0 => return nothing(None),
            plan => plan?,
        };
        if plan.outputs.value == Outputs::Named(Vec::new()) {
            return nothing(None);
        }
        let collecting = Collecting {
            docker: &self.docker,
            container: &container,
            plan: &plan,
            run: &self.run,
            workdir: &self.plan.workdir.value,
            uploaded: None,
            own: Arc::default(),
            caches: self.storage.cache_paths().map(str::to_owned).collect(),
            record: Arc::clone(record),
            reporter: self.reporter,
        };
        let collecting = interrupts.unless(collecting.collect());
        Built::after(exit_code, self.plan, Times::default(), self.reporter, collecting).await
    }

    /// Whether the mount failed the command. One that does not answer any more is not waited for.
    async fn diagnose(&self, tail: Tail, runner: Runner) -> Result<Option<Mark>, BuildError> {
        let (plan, reporter) = (self.plan.clone(), self.reporter.clone());
        let looking = detached(move || {
            let lies_on = facts::file_system(&plan.source.value);
            let defect = heal::diagnose(&tail, &plan, &runner, lies_on.as_ref());
            let read_only = heal::read_only(&tail, &plan).filter(|_| plan.route.value == Route::MountSource);
            if let (None, Some(Mark { path, line, .. })) = (&defect, read_only) {
                reporter.emit(Event::Warned(Warning::ReadOnlySources { path, line }));
            }
            defect
        });
        match tokio::time::timeout(LOOKING, looking).await {
            Ok(found) => found,
            Err(_) => Ok(None),
        }
    }

    /// Makes the container, and looks whether the engine mounts what it is meant to.
    async fn make_mounted(&self) -> Result<(ContainerId, Ids), BuildError> {
        let phase = Running::begin(Phase::Create, None, self.reporter);
        let path = &self.plan.source.value;
        let not_mounted = |detail: String| BuildError::NotMounted { path: path.clone(), detail };
        self.storage.provide(&self.docker).await?;
        let container = match self.docker.create(&self.spec()?).await {
            Err(EngineError::Api { message, .. }) if message.contains("mount") => {
                return Err(not_mounted(message));
            }
            created => created?,
        };
        self.made.store(true, Ordering::Relaxed);
        let ids = self.owner(&container).await?;
        self.give_to(ids, &container).await?;
        if let Some((name, size)) = witness(path) {
            let seen = self.docker.stat(&container, &format!("{}/{name}", self.plan.workdir.value)).await?;
            if !seen.is_some_and(|seen| seen.kind == PathKind::File && seen.size == size) {
                return Err(not_mounted(format!("what it sees there has no {name:?} of {size} bytes")));
            }
        }
        phase.end(Amount::default());
        Ok((container, ids))
    }
}

/// What is mounted in the container for a plan, the outer ones first.
///
/// # Errors
/// [`BuildError::SourceNotText`]: engines are told paths as text.
pub fn mounts(plan: &Plan) -> Result<Vec<Mount>, BuildError> {
    let access = match plan.route.value {
        Route::Mount => MountAccess::ReadWrite,
        Route::MountSource => MountAccess::ReadOnly,
        Route::Layer | Route::Tmpfs | Route::Volume | Route::Host => return Ok(Vec::new()),
    };
    let root = &plan.source.value;
    let source = root.to_str().ok_or_else(|| BuildError::SourceNotText { path: root.clone() })?;
    let tree = Mount::Bind { source: source.to_owned(), target: plan.workdir.value.clone(), access };
    let volumes = laid_over(plan).map(|(output, _)| Mount::Volume {
        name: None,
        target: output.container.clone(),
        contents: VolumeContents::Empty,
    });
    Ok(std::iter::once(tree).chain(volumes).collect())
}

/// The outputs that lie in volumes over the source tree, and where in the tree that is.
pub fn laid_over(plan: &Plan) -> impl Iterator<Item = (&Output, PathBuf)> {
    let named = match (plan.route.value, &plan.outputs.value) {
        (Route::MountSource, Outputs::Named(named)) => named.as_slice(),
        _ => &[],
    };
    let root = &plan.source.value;
    named.iter().filter_map(move |output| Some((output, native_join(root, output.below_source.as_ref()?))))
}

/// The plan without the outputs that are in their places when the command has ended.
///
/// # Errors
/// [`BuildError::MissingOutput`] when one of those was not made.
pub fn left_to_collect(plan: &Plan) -> Result<Plan, BuildError> {
    let here = |output: &Output| {
        let below = output.below_source.as_ref();
        plan.route.value == Route::Mount
            && below.is_some_and(|below| native_join(&plan.source.value, below) == output.host)
    };
    let left = match &plan.outputs.value {
        Outputs::Everything => Vec::new(),
        Outputs::Named(named) => {
            named.iter().filter(|output| here(output)).try_for_each(refuse_missing)?;
            named.iter().filter(|output| !here(output)).cloned().collect()
        }
    };
    let mut plan = plan.clone();
    plan.outputs.value = Outputs::Named(left);
    Ok(plan)
}

fn refuse_missing(output: &Output) -> Result<(), BuildError> {
    if fs::symlink_metadata(&output.host).is_ok() {
        return Ok(());
    }
    let listed = output.host.ancestors().skip(1).find_map(|above| Some((above, fs::read_dir(above).ok()?)));
    let there = listed.map(|(directory, entries)| {
        let mut names: Vec<_> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        let more = names.len().saturating_sub(LISTED) as u64;
        names.truncate(LISTED);
        Listing { directory: directory.to_owned(), names, more: Some(more) }
    });
    Err(BuildError::MissingOutput { spec: output.spec.clone(), path: output.container.clone(), there })
}

/// A file of the source root and its size, by which to see whether the engine mounts this very directory; none where there
/// is none.
pub fn witness(source: &Path) -> Option<(String, u64)> {
    let entries = fs::read_dir(source).ok()?.flatten();
    let file = |entry: fs::DirEntry| {
        let found = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        Some((entry.file_name().into_string().ok()?, found.len()))
    };
    entries.filter_map(file).next()
}

/// Directories of the host's that were made so that a volume can be laid over them: an engine cannot make them in a tree that
/// is read-only. Those that are still empty in the end go again.
#[derive(Debug, Default)]
pub struct Placeholders(Vec<Placeholder>);

impl Placeholders {
    /// Makes what is missing.
    ///
    /// # Errors
    /// [`BuildError::NotLaidOver`] where something else than a directory is in the place.
    pub fn make(plan: &Plan, run: &Run) -> Result<Placeholders, BuildError> {
        let mut made = Placeholders::default();
        for (output, place) in laid_over(plan) {
            let wrong = |error: io::Error| BuildError::NotLaidOver {
                spec: output.spec.clone(),
                host: place.clone(),
                error,
            };
            match fs::symlink_metadata(&place) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Err(wrong(io::ErrorKind::NotADirectory.into())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    made.make_way(&place, &plan.source.value, run).map_err(wrong)?;
                }
                Err(error) => return Err(wrong(error)),
            }
        }
        Ok(made)
    }

    fn make_way(&mut self, place: &Path, root: &Path, run: &Run) -> io::Result<()> {
        let mut missing: Vec<_> =
            place.ancestors().take_while(|above| *above != root && !above.exists()).collect();
        missing.reverse();
        for directory in missing {
            self.0.push(run.make_placeholder(directory)?);
        }
        Ok(())
    }
}

impl Drop for Placeholders {
    fn drop(&mut self) {
        self.0.iter().rev().for_each(Placeholder::remove);
    }
}
