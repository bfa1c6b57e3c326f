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
};

use super::{BuildError, error::Listing};
use crate::{
    engine::{Mount, MountAccess, VolumeContents},
    outputs::target::native_join,
    plan::{Output, Outputs, Plan, Route},
    state::Run,
};

/// How many names are shown in place of a missing output.
const LISTED: usize = 12;

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
pub struct Placeholders(Vec<PathBuf>);

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
            // Before it is made: a run that is killed right after it must not leave what nobody knows of.
            run.note_placeholder(directory).map_err(io::Error::other)?;
            fs::create_dir(directory)?;
            self.0.push(directory.to_owned());
        }
        Ok(())
    }
}

impl Drop for Placeholders {
    fn drop(&mut self) {
        for directory in self.0.iter().rev() {
            // One with products in it stays.
            let _ = fs::remove_dir(directory);
        }
    }
}
