//! The specification of a workspace: container, storage, generation; and whether one found meets
//! it.

use std::path::PathBuf;

use crate::{
    agent::program,
    engine::{
        ContainerFacts, ContainerSpec, Docker, Entrypoint, ImageFacts, Life, Limits, Owned, Removed, Serves,
        labels,
    },
    plan::{OnDocker, Plan},
    spec::{IfThere, Stdin, Terminal},
    state::{Project, Run, State, StateError},
    workspace::{
        Generation, Mark, Why, WithoutAgent, WorkspaceError, name,
        share_marker::Marker,
        storage::{Storage, remove_volumes},
    },
};

/// How long a workspace is meant to live.
#[derive(Debug)]
pub enum Keeping<'a> {
    /// Until it is removed: a kept workspace of the project.
    Kept {
        /// See [`name`].
        name: String,
        /// The state directory that knows it.
        state: String,
    },
    /// For the builds of one run, under a name of its own.
    OneRun {
        /// The name.
        name: String,
        /// The run.
        run: &'a Run,
        /// The state directory that knows it.
        state: String,
    },
}

impl<'a> Keeping<'a> {
    /// Until it is removed.
    ///
    /// # Errors
    /// As [`name`].
    pub fn kept(plan: &Plan, project: &Project, state: &State) -> Result<Keeping<'a>, StateError> {
        Ok(Keeping::Kept { name: name(plan, project, state)?, state: state.id()? })
    }

    /// For `run` alone.
    ///
    /// # Errors
    /// When the state directory cannot keep its id.
    pub fn one_run(project: &Project, run: &'a Run, state: &State) -> Result<Keeping<'a>, StateError> {
        let name = format!("fastbuild-{}-{}", project.key(), run.id);
        Ok(Keeping::OneRun { name, run, state: state.id()? })
    }

    /// The workspace's name.
    pub fn name(&self) -> &str {
        match self {
            Keeping::Kept { name, .. } | Keeping::OneRun { name, .. } => name,
        }
    }

    /// The label that says who owns it.
    pub(super) fn label(&self) -> (&'static str, &str) {
        match self {
            Keeping::Kept { state, .. } => (labels::STATE, state),
            Keeping::OneRun { run, .. } => (labels::RUN, &run.id),
        }
    }

    /// The state directory that knows it.
    pub(super) fn state(&self) -> &str {
        match self {
            Keeping::Kept { state, .. } | Keeping::OneRun { state, .. } => state,
        }
    }

    fn tier(&self) -> &'static str {
        match self {
            Keeping::Kept { .. } => labels::KEPT,
            Keeping::OneRun { .. } => labels::ONE_RUN,
        }
    }
}

/// The specification of a workspace.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub(super) name: String,
    /// The state directory that asks for it.
    pub(super) state: String,
    pub(super) owned: Owned,
    pub(super) generation: Generation,
    pub(super) if_there: IfThere,
    pub(super) spec: ContainerSpec,
    pub(super) storage: Storage,
    pub(super) marker: Option<Marker>,
    pub(super) agent: &'static [u8],
    /// `None` where nothing is recorded for later builds.
    pub(super) mark_path: Option<PathBuf>,
    /// The mark to use when nothing else is known of the workspace.
    pub(super) mark: Mark,
    pub(super) limits: Limits,
    /// Names of containers that may hold this workspace's contents from before it was made anew.
    pub(super) predecessors: Vec<String>,
    pub(super) plan: Plan,
}

/// The name of a workspace while its replacement is being made.
pub(super) fn aside(name: &str) -> String {
    format!("{name}-old")
}

impl Wanted {
    /// Decides what the workspace of `plan` in `image` is made with.
    ///
    /// # Errors
    /// [`WithoutAgent::NoAgent`] when there is no agent for such an image; the state directory's.
    pub fn new(
        plan: &Plan,
        at: OnDocker<'_>,
        image: &ImageFacts,
        keeping: &Keeping<'_>,
        storage: Storage,
        project: &Project,
    ) -> Result<Wanted, WorkspaceError> {
        let agent = program::for_platform(&image.os, &image.architecture).map_err(WithoutAgent::from)?;
        let name = keeping.name().to_owned();
        let generation = Generation::new(plan, image, agent);
        let engine = at.endpoint.to_string();
        let mark =
            Mark::new(name.clone(), String::new(), engine.clone(), at.image.to_owned(), &plan.source.value);
        let labels = [
            (labels::TIER, keeping.tier().to_owned()),
            (labels::PROJECT, project.key().to_owned()),
            (labels::VERSION, env!("CARGO_PKG_VERSION").to_owned()),
            (labels::STATE, keeping.state().to_owned()),
            (keeping.label().0, keeping.label().1.to_owned()),
            (labels::SOURCE, mark.source.clone()),
            (labels::IMAGE, mark.image.clone()),
            (labels::GENERATION, generation.to_label()),
            (labels::CREATED, mark.made.to_string()),
        ];
        let spec = ContainerSpec {
            name: name.clone(),
            image: image.id.clone(),
            command: match keeping {
                Keeping::Kept { .. } => vec!["init".to_owned()],
                Keeping::OneRun { .. } => vec!["init".to_owned(), "once".to_owned()],
            },
            entrypoint: Entrypoint::Program(program::PATH.to_owned()),
            // Environment, directory and user belong to one build; they are given when it runs.
            env: Vec::new(),
            user: Some("0:0".to_owned()),
            working_dir: "/".to_owned(),
            labels: labels
                .map(|(label, value)| (label.to_owned(), value))
                .into_iter()
                .chain(plan.name.as_ref().map(|name| (labels::NAME.to_owned(), name.value.clone())))
                .collect(),
            terminal: Terminal::None,
            stdin: Stdin::Forward,
            serves: match keeping {
                Keeping::Kept { .. } => Serves::ManyClients,
                Keeping::OneRun { .. } => Serves::OneClient,
            },
            options: plan.container.clone(),
            platform: plan.platform.as_ref().map(|platform| platform.value.clone()),
            mounts: storage.mounts(),
        };
        let if_there = plan.workspace.if_there.value;
        Ok(Wanted {
            name,
            state: keeping.state().to_owned(),
            owned: match (keeping, &plan.name) {
                // A named project is the same one for every state directory.
                (Keeping::Kept { .. }, Some(name)) => Owned::by(labels::NAME, &name.value),
                _ => Owned::by(keeping.label().0, keeping.label().1),
            }
            .and(labels::PROJECT, project.key()),
            limits: spec.limits(),
            predecessors: match keeping {
                Keeping::Kept { name, state } => {
                    vec![aside(name), format!("fastbuild-ws-{}-{state}", project.key())]
                }
                Keeping::OneRun { .. } => Vec::new(),
            },
            plan: plan.clone(),
            generation,
            if_there,
            spec,
            marker: storage.is_shared().then(|| Marker::new(plan, keeping, project)),
            storage,
            agent,
            mark_path: match keeping {
                Keeping::Kept { name, .. } => Some(project.workspace_path(&engine, name)),
                Keeping::OneRun { .. } => None,
            },
            mark,
        })
    }

    /// The container's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Removes the workspace with all its contents; a share stays as it is.
    ///
    /// # Errors
    /// The engine's; [`WorkspaceError::Foreign`] where another object has its name.
    pub async fn remove(&self, docker: &Docker) -> Result<Removed, WorkspaceError> {
        let removed = docker.remove(&self.name, &self.owned).await?;
        // The removed workspace may have been made for another route than the wanted one. A one-run
        // container has no volume with its name.
        let volume = match self.spec.serves {
            Serves::ManyClients => docker.remove_volume(&self.name, &self.owned).await?,
            Serves::OneClient | Serves::OneCommand => {
                remove_volumes(docker, &self.owned).await?;
                Removed::Already
            }
        };
        if [removed, volume].contains(&Removed::NotOurs) {
            return Err(WorkspaceError::Foreign { name: self.name.clone() });
        }
        Ok(removed)
    }

    /// What is known of the workspace in the state directory.
    pub(super) fn known_mark(&self) -> Option<Mark> {
        Mark::load(self.mark_path.as_deref()?)
    }

    /// Whether the container that was found meets the specification and runs.
    pub fn is_ready(&self, found: Option<&ContainerFacts>) -> bool {
        found.is_some_and(|found| {
            found.life == Life::Running && found.limits == self.limits && self.judge(found).is_none()
        })
    }

    /// The reason why the container that was found does not meet the specification.
    pub(super) fn judge(&self, found: &ContainerFacts) -> Option<Why> {
        if self.if_there == IfThere::Fresh {
            return Some(Why::Asked);
        }
        if found.life == Life::Created {
            return Some(Why::Broken("its making was cut short".to_owned()));
        }
        let label = found.labels.get(labels::GENERATION);
        let Some(made_with) = label.and_then(|label| Generation::from_label(label)) else {
            return Some(Why::Broken("it does not say what it was made with".to_owned()));
        };
        let changed = self.generation.changed_since(&made_with);
        if !changed.is_empty() {
            return Some(Why::Changed(changed));
        }
        (found.life == Life::Dead).then(|| Why::Broken("it is being removed".to_owned()))
    }
}
