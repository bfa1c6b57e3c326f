//! The scratch directories that a state directory knows by their marks: to list, enter or remove.

use std::{
    fs::{File, TryLockError},
    path::Path,
};

use crate::{
    spec::{IfThere, Lifetime},
    state::{Project, State, StateError, read_json},
    sys::owner,
    workspace::scratch::{Held, Label, Mark, OWN, ScratchError, Wanted, engine, mark_path, take},
};

/// A scratch directory that this state directory knows.
#[derive(Debug, Clone)]
pub struct Known {
    /// The project that owns it.
    pub project: Project,
    /// What is known of it; its name is its path.
    pub mark: Mark,
    /// The version of fastbuild that made it; empty where its label does not say.
    pub made_by: String,
    /// Whether anything runs in it.
    pub life: Life,
}

/// See [`Known::life`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// An agent and its processes run in it.
    Running,
    /// Nothing runs in it.
    Idle,
}

impl Known {
    /// Where it is.
    pub fn directory(&self) -> &Path {
        Path::new(&self.mark.name)
    }

    /// How many bytes its files take. Blocks the thread for a while.
    pub fn size(&self) -> u64 {
        owner::size_below(self.directory())
    }
}

/// All scratch directories of this state directory's projects that exist.
///
/// # Errors
/// When the state directory cannot be read.
pub fn known(state: &State) -> Result<Vec<Known>, StateError> {
    let mut all = Vec::new();
    for project in state.projects()? {
        all.extend(known_of(&project)?);
    }
    Ok(all)
}

/// Those of one project, the most recently used first.
///
/// # Errors
/// As [`known`].
pub fn known_of(project: &Project) -> Result<Vec<Known>, StateError> {
    let marks = project.workspaces()?.into_iter().filter_map(|path| Mark::load(&path));
    let ours = marks.filter(|mark| mark.engine == engine() && Path::new(&mark.name).is_dir());
    let mut all: Vec<_> = ours.map(|mark| Known::of(project, mark)).collect();
    all.sort_by_key(|known| std::cmp::Reverse(known.mark.last_used));
    Ok(all)
}

impl Known {
    fn of(project: &Project, mark: Mark) -> Known {
        let own = Path::new(&mark.name).join(OWN);
        let label = read_json::<Label>(&own.join("label")).filter(|label| label.id == mark.container);
        let turn = File::open(own.join("turn")).map(|turn| turn.try_lock());
        let life = match turn {
            Ok(Err(TryLockError::WouldBlock)) => Life::Running,
            _ => Life::Idle,
        };
        let made_by = label.map(|label| label.made_by).unwrap_or_default();
        Known { project: project.clone(), mark, made_by, life }
    }

    /// Takes it whatever it was made for, for clients that only look at it. Blocks the thread.
    ///
    /// # Errors
    /// As [`Wanted::find`].
    pub fn hold(&self) -> Result<Option<Held>, ScratchError> {
        let taken = take(self.directory())?;
        Ok(taken.filter(|(_, label)| label.is_some()).map(|(held, _)| held))
    }

    /// For [`crate::workspace::enter_here`].
    pub fn wanted(&self) -> Wanted {
        Wanted {
            directory: self.directory().to_owned(),
            root: self.directory().parent().unwrap_or(self.directory()).to_owned(),
            if_there: IfThere::Reuse,
            lifetime: Lifetime::Kept,
            mark_path: mark_path(&self.project, self.directory()),
            mark: self.mark.clone(),
        }
    }
}
