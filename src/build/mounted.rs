//! The differences where the host's tree is mounted: nothing is sent, and the products are here
//! already, or in volumes over the outputs. The agent runs the command as everywhere.
//!
//! | | `mount` | `mount-source` |
//! |---|---|---|
//! | the source tree | the host's, read and written | the host's, read-only |
//! | an output below it | the host's | an anonymous volume; comes back as from any container |
//! | a kept path below it | the host's | an anonymous volume |
//! | an output elsewhere, or with another HOST | comes back as from any container | the same |

use std::{fs, io, path::Path, time::Duration};

use super::{BuildError, error::Listing};
use crate::{
    agent::protocol::Owner,
    build::{
        mount_fault::{self, Mark, Runner, Tail, Unwritten},
        tasks::detached,
    },
    engine::{ContainerId, Docker, PathKind},
    facts,
    outputs::target::native_join,
    plan::{Output, Outputs, Plan},
    report::{
        Reporter,
        events::{Event, Warning},
    },
    spec::{Decision, OnFailure, Route},
    state::{Placeholder, Run},
    sys,
    workspace::{WorkspaceError, storage::laid_over},
};

/// How many names are shown for a missing output.
const LISTED: usize = 12;

/// The time limit for checking whether a mount failed the command.
const LOOKING: Duration = Duration::from_secs(10);

/// The work left when a command has ended on a mounted tree.
pub(super) enum Ended {
    /// None: its products are here, or stay where they are.
    AllIsHere {
        /// Where the mount itself failed the command, the sign of it.
        defect: Option<Mark>,
    },
    /// The outputs of this plan come back.
    Collect(Box<Plan>),
}

/// Finds the work left when the command has exited with `exit_code`.
///
/// # Errors
/// [`BuildError::MissingOutput`] when an output that would be here was not made.
pub(super) async fn ended(
    plan: &Plan,
    exit_code: u8,
    tail: Tail,
    runner: Runner,
    reporter: &Reporter,
) -> Result<Ended, BuildError> {
    let defect = match exit_code {
        0 => None,
        _ => diagnose(plan, tail, runner, reporter).await?,
    };
    let is_left = plan.on_failure.value == OnFailure::Leave && plan.route.value == Route::Mount;
    if exit_code != 0 && (is_left || defect.is_some()) {
        // Its products are here.
        return Ok(Ended::AllIsHere { defect });
    }
    let left = match left_to_collect(plan) {
        // A command that failed is expected to lack products.
        Err(BuildError::MissingOutput { .. }) if exit_code != 0 => None,
        left => Some(left?),
    };
    let left = left.filter(|plan| plan.outputs.value != Outputs::Named(Vec::new()));
    Ok(left.map_or(Ended::AllIsHere { defect: None }, |plan| Ended::Collect(Box::new(plan))))
}

/// Whether the mount failed the command. A mount that no longer answers is not waited for.
async fn diagnose(
    plan: &Plan,
    tail: Tail,
    runner: Runner,
    reporter: &Reporter,
) -> Result<Option<Mark>, BuildError> {
    let (plan, reporter) = (plan.clone(), reporter.clone());
    let looking = detached(move || {
        let lies_on = facts::file_system(&plan.source.value);
        let defect = mount_fault::diagnose(&tail, &plan, &runner, lies_on.as_ref());
        let read_only = match plan.route.value {
            Route::MountSource => mount_fault::read_only(&tail, &plan),
            _ => None,
        };
        if let (None, Some(Unwritten { path, line })) = (&defect, read_only) {
            reporter.emit(Event::Warned(Warning::ReadOnlySources { path, line }));
        }
        defect
    });
    match tokio::time::timeout(LOOKING, looking).await {
        Ok(found) => found,
        Err(_) => Ok(None),
    }
}

/// Makes sure that the container's working directory is the host's source tree: an engine on
/// another machine may mount a directory of the same name there.
///
/// # Errors
/// [`WorkspaceError::NotMounted`], and the engine's.
pub(super) async fn refuse_other_tree(
    docker: &Docker,
    container: &ContainerId,
    plan: &Plan,
) -> Result<(), BuildError> {
    let path = &plan.source.value;
    let Some((name, size)) = witness(path) else { return Ok(()) };
    let seen = docker.stat(container, &format!("{}/{name}", plan.workdir.value)).await?;
    if seen.is_some_and(|seen| seen.kind == PathKind::File && seen.size == size) {
        return Ok(());
    }
    let detail = format!("what it sees there has no {name:?} of {size} bytes");
    Err(WorkspaceError::NotMounted { path: path.clone(), detail }.into())
}

/// The owner of files that the command makes in the source tree, if that is the host's and has
/// owners.
pub(super) fn owner(plan: &Plan) -> Option<Owner> {
    let (uid, gid) = sys::owner::ids().filter(|_| plan.route.value == Route::Mount)?;
    Some(Owner { uid, gid, of_root: sys::owner::of(&plan.source.value)? })
}

/// The plan without the outputs that are already in place when the command has ended.
///
/// # Errors
/// [`BuildError::MissingOutput`] when one of those was not made.
fn left_to_collect(plan: &Plan) -> Result<Plan, BuildError> {
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

/// A file of the source root and its size, to check whether the engine mounts this very directory;
/// none where the root has no file.
fn witness(source: &Path) -> Option<(String, u64)> {
    let entries = fs::read_dir(source).ok()?.flatten();
    let file = |entry: fs::DirEntry| {
        let found = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        Some((entry.file_name().into_string().ok()?, found.len()))
    };
    entries.filter_map(file).next()
}

/// Directories made on the host so that a volume can be laid over them: an engine cannot make them
/// in a read-only tree. Those that are still empty at the end are removed.
#[derive(Debug, Default)]
pub struct Placeholders(Vec<Placeholder>);

impl Placeholders {
    /// Makes the missing directories.
    ///
    /// # Errors
    /// [`BuildError::NotLaidOver`] where something other than a directory is in the place.
    pub fn make(plan: &Plan, run: &Run) -> Result<Placeholders, BuildError> {
        let (mut made, root) = (Placeholders::default(), &plan.source.value);
        if !plan.route.value.is_mounted() {
            return Ok(made);
        }
        let outputs = laid_over(plan).map(|(output, place)| (output.spec.clone(), place));
        let caches = plan.caches.iter().filter_map(|Decision { value: cache, .. }| {
            Some((cache.called(), native_join(root, cache.below_source.as_ref()?)))
        });
        for (spec, place) in outputs.chain(caches) {
            let wrong = |error: io::Error| BuildError::NotLaidOver { spec, host: place.clone(), error };
            match fs::symlink_metadata(&place) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Err(wrong(io::ErrorKind::NotADirectory.into())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    made.make_way(&place, root, run).map_err(wrong)?;
                }
                Err(error) => return Err(wrong(error)),
            }
        }
        for kept in plan.kept_over() {
            // On failure there is no volume, and the command gets the tree's error.
            let _ = made.make_way(&native_join(root, &kept.value), root, run);
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
