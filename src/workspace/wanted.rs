//! What a workspace is to be: its container, its storage, what it is made with, and whether one that was found is that.

use std::path::PathBuf;

use super::{
    Generation, Holds, Mark, NotWarm, Why, WorkspaceError, name, own::Place, share::Marker, storage::Storage,
};
use crate::{
    agent::program,
    engine::{
        ContainerFacts, ContainerSpec, Docker, Entrypoint, ImageFacts, Life, Owned, Removed, Serves, labels,
    },
    plan::{Lifetime, OnDocker, Plan, Stdin, Terminal},
    state::{Project, Run, State, StateError},
};

/// For how long a workspace is made.
#[derive(Debug)]
pub enum Keeping<'a> {
    /// Until it is removed: the project's own.
    Kept {
        /// See [`name`].
        name: String,
        /// The state directory that knows it.
        state: String,
    },
    /// For the builds of one run, and under a name of its own.
    OneRun {
        /// The name.
        name: String,
        /// The run.
        run: &'a Run,
    },
}

impl<'a> Keeping<'a> {
    /// Until it is removed.
    ///
    /// # Errors
    /// As [`name`].
    pub fn kept(project: &Project, state: &State) -> Result<Keeping<'a>, StateError> {
        Ok(Keeping::Kept { name: name(project, state)?, state: state.id()? })
    }

    /// For `run` alone.
    pub fn one_run(project: &Project, run: &'a Run) -> Keeping<'a> {
        Keeping::OneRun { name: format!("fastbuild-{}-{}", project.key(), run.id), run }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        match self {
            Keeping::Kept { name, .. } | Keeping::OneRun { name, .. } => name,
        }
    }

    /// Whose it is.
    pub(super) fn label(&self) -> (&'static str, &str) {
        match self {
            Keeping::Kept { state, .. } => (labels::STATE, state),
            Keeping::OneRun { run, .. } => (labels::RUN, &run.id),
        }
    }

    fn tier(&self) -> &'static str {
        match self {
            Keeping::Kept { .. } => labels::WARM,
            Keeping::OneRun { .. } => labels::COLD,
        }
    }
}

/// What a workspace is to be.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub(super) name: String,
    owned: Owned,
    pub(super) generation: Generation,
    pub(super) lifetime: Lifetime,
    pub(super) spec: ContainerSpec,
    pub(super) storage: Storage,
    pub(super) marker: Option<Marker>,
    pub(super) agent: &'static [u8],
    /// None where nothing is worth knowing later.
    pub(super) mark_path: Option<PathBuf>,
    /// As it would be if nothing else were known of it.
    pub(super) mark: Mark,
    pub(super) place: Place,
    pub(super) own_files_path: PathBuf,
}

impl Wanted {
    /// Decides what the workspace of `plan` in `image` is made with.
    ///
    /// # Errors
    /// [`NotWarm::NoAgent`] when no agent runs in such an image; the state directory's.
    pub fn new(
        plan: &Plan,
        at: OnDocker<'_>,
        image: &ImageFacts,
        keeping: &Keeping<'_>,
        storage: Storage,
        project: &Project,
    ) -> Result<Wanted, WorkspaceError> {
        let agent = program::for_platform(&image.os, &image.architecture).map_err(NotWarm::from)?;
        let (place, own_files_path) = (Place::new(plan, image), project.own_files_path());
        let name = keeping.name().to_owned();
        let generation = Generation::new(plan, image, agent);
        let engine = at.endpoint.to_string();
        let mark =
            Mark::new(name.clone(), String::new(), engine.clone(), at.image.to_owned(), &plan.source.value);
        let labels = [
            (labels::TIER, keeping.tier().to_owned()),
            (labels::PROJECT, project.key().to_owned()),
            (labels::VERSION, env!("CARGO_PKG_VERSION").to_owned()),
            (keeping.label().0, keeping.label().1.to_owned()),
            (labels::SOURCE, mark.source.clone()),
            (labels::IMAGE, mark.image.clone()),
            (labels::GENERATION, generation.to_label()),
            (labels::CREATED, mark.made.to_string()),
        ];
        let spec = ContainerSpec {
            name: name.clone(),
            image: image.id.clone(),
            command: vec!["init".to_owned()],
            entrypoint: Entrypoint::Program(program::PATH.to_owned()),
            // What belongs to one build (environment, directory, user) is said when it runs.
            env: Vec::new(),
            user: Some("0:0".to_owned()),
            working_dir: "/".to_owned(),
            labels: labels.map(|(label, value)| (label.to_owned(), value)).into(),
            terminal: Terminal::None,
            stdin: Stdin::Forward,
            serves: Serves::ManyClients,
            network: plan.network.as_ref().map(|network| network.value.clone()),
            memory: plan.memory.as_ref().map(|memory| memory.value),
            nano_cpus: plan.nano_cpus.as_ref().map(|cpus| cpus.value),
            isolation: plan.isolation.as_ref().map(|isolation| isolation.value),
            platform: plan.platform.as_ref().map(|platform| platform.value.clone()),
            mounts: storage.mounts(),
        };
        let lifetime = plan.workspace.lifetime.value;
        Ok(Wanted {
            name,
            owned: Owned::by(keeping.label().0, keeping.label().1).and(labels::PROJECT, project.key()),
            generation,
            lifetime,
            spec,
            marker: storage.is_shared().then(|| Marker::new(plan, keeping, project)),
            storage,
            agent,
            mark_path: match keeping {
                Keeping::Kept { .. } => Some(project.workspace_path(&engine)),
                Keeping::OneRun { .. } => None,
            },
            mark,
            place,
            own_files_path,
        })
    }

    /// The container's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Removes the workspace that was made of an image with so many files of its own among the sources, and notes that it is not to
    /// be made again.
    ///
    /// # Errors
    /// The engine's and the state directory's.
    pub async fn give_up(&self, docker: &Docker, entries: u64) -> Result<(), WorkspaceError> {
        self.remove(docker).await?;
        Ok(self.place.note(&self.own_files_path, entries)?)
    }

    /// Removes the workspace with all that is in it; a share stays as it is.
    ///
    /// # Errors
    /// The engine's; [`WorkspaceError::Foreign`] where something else has its name.
    pub async fn remove(&self, docker: &Docker) -> Result<(), WorkspaceError> {
        let container = docker.remove(&self.name, &self.owned).await?;
        // The one that is removed may have been made for another route than is wanted now.
        let volume = docker.remove_volume(&self.name, &self.owned).await?;
        if [container, volume].contains(&Removed::NotOurs) {
            return Err(WorkspaceError::Foreign { name: self.name.clone() });
        }
        Ok(())
    }

    /// What is known of the workspace in the state directory.
    pub(super) fn known_mark(&self) -> Option<Mark> {
        Mark::load(self.mark_path.as_deref()?)
    }

    /// What keeps a container that was found from being the wanted one.
    pub(super) fn judge(&self, found: &ContainerFacts) -> Option<Why> {
        if self.lifetime == Lifetime::Fresh {
            return Some(Why::Asked);
        }
        let label = found.labels.get(labels::GENERATION);
        let Some(made_with) = label.and_then(|label| Generation::from_label(label)) else {
            return Some(Why::Broken("it does not say what it was made with".to_owned()));
        };
        let changed = self.generation.changed_since(&made_with);
        if !changed.is_empty() {
            return Some(Why::Changed(changed));
        }
        let mark = self.known_mark().filter(|mark| mark.container == found.id.as_str());
        if let Some(Mark { holds: Holds::SourcesBesideOwn(left_out), .. }) = mark
            && left_out != *self.place.left_out()
        {
            let why = "what is left out of the sources has changed, where the image has files of its own";
            return Some(Why::Broken(why.to_owned()));
        }
        match found.life {
            Life::Created => Some(Why::Broken("its making was cut short".to_owned())),
            Life::Dead => Some(Why::Broken("it is being removed".to_owned())),
            Life::Running | Life::Paused | Life::Exited => None,
        }
    }
}
