//! A build in a container: the steps around the command, for each way to run it. It connects,
//! begins to scan the sources, gets the image, removes what dead runs left, and goes on with the
//! agent ([`super::warm`]) in the project's kept workspace or in a one-run container; without an
//! agent, by the plain Engine API ([`super::plain`]).
//!
//! If it turns out that there is no agent, nothing is looked up again: a [`Site`] is handed on.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{
    BuildError, Finished, Interrupted, Interrupts, image, leftovers,
    locks::{Locks, client},
    mounted::{self, Placeholders},
    plain,
    reaper::{Charge, Duty, InContainer, Reaper},
    warm::{self, Goodbye, Tree, Warm},
};
use crate::{
    agent::{
        client::{Session, SessionError, Settings},
        protocol::Failure,
    },
    build::{
        reaper::dismiss,
        site::{Left, Site},
        tasks::{Running, refuse_strange_links},
    },
    engine::{ContainerFacts, Docker, EngineError, Removed},
    entry::Amount,
    plan::{OnDocker, Output, Outputs, Plan},
    report::{
        Reporter,
        events::{Event, Phase, Warning},
    },
    spec::{AgentUse, Lifetime, Route},
    state::State,
    workspace::{
        self, How, Keeping, Line, Surroundings, Wanted, Why, WithoutAgent, Workspace, WorkspaceError,
        auto_prune, storage::Storage,
    },
};

/// For so long no signal cuts off the wait for a one-run container's end. Engines take a quarter.
const A_MOMENT: Duration = Duration::from_secs(1);

/// How a build with the agent ended.
enum Outcome {
    Finished(Finished),
    /// Nothing was done.
    WithoutAgent(WithoutAgent, Tree),
}

/// Carries a plan out in a container.
///
/// # Errors
/// When fastbuild, the engine or the agent could not do their part. Then nothing of the build runs
/// any more, as far as the engine can be reached.
pub async fn run(
    plan: &Plan,
    at: OnDocker<'_>,
    state: &State,
    locks: &Locks,
    interrupts: &mut Interrupts,
    reporter: &Reporter,
) -> Result<Finished, BuildError> {
    let project = &locks.project;
    let loading = warm::load_record(project);
    let tree = Tree::begin(plan, locks, reporter);
    let docker = interrupts.unless(Docker::connect(at.endpoint)).await??;
    let is_kept = plan.lifetime.value == Lifetime::Kept && !plan.route.value.is_mounted();
    let kept = match is_kept {
        true => Some(Keeping::kept(plan, project, state)?),
        false => None,
    };
    let looking = async {
        match &kept {
            Some(kept) => Ok(docker.look(kept.name()).await?),
            None => Ok(None),
        }
    };
    let asking = async { tokio::try_join!(image::ensure(&docker, at.image, plan, reporter), looking) };
    let (image, found) = interrupts.unless(asking).await??;
    let record = Arc::new(loading.await?);
    refuse_strange_links(plan, &record)?;
    let engine = plan.engine.value.to_string();
    let run = state.begin_run(project, &engine)?;
    let leftovers = leftovers::remove(&docker, state, project, &engine, reporter);
    // A machine that keeps nothing has nothing to tidy up, and starts anew each time.
    let limiting = is_kept.then(|| auto_prune::look_after(&docker, state, plan, reporter)).flatten();
    let site = Site { plan, at, state, project, locks, reporter, docker, image, record, run };
    let (finished, left) = site.build(kept, found, tree, interrupts).await;
    // This takes a moment, and has usually ended long before.
    let _ = interrupts.unless(leftovers).await;
    if let Some(limiting) = limiting {
        // This runs once a day. Engines need time to measure, and began when the command did.
        let _ = interrupts.unless(limiting).await;
    }
    if left == Left::Nothing {
        site.run.finish();
    }
    finished
}

impl Site<'_> {
    async fn build(
        &self,
        kept: Option<Keeping<'_>>,
        found: Option<ContainerFacts>,
        tree: Tree,
        interrupts: &mut Interrupts,
    ) -> (Result<Finished, BuildError>, Left) {
        // Until the products are in their places.
        let _placeholders = match Placeholders::make(self.plan, &self.run) {
            Ok(placeholders) => placeholders,
            Err(error) => return (Err(error), Left::Nothing),
        };
        let keeping = match kept {
            Some(kept) => Ok(kept),
            None => Keeping::one_run(self.project, &self.run, self.state),
        };
        let keeping = match keeping {
            Ok(keeping) => keeping,
            Err(error) => return (Err(error.into()), Left::Nothing),
        };
        let storage = match self.storage(&keeping, interrupts).await {
            Ok(storage) => storage,
            Err(error) => return (Err(error), Left::Perhaps),
        };
        let surroundings = Surroundings::of(&self.image, &storage);
        let wanted = match self.plan.agent.value {
            AgentUse::Refused => Err(WithoutAgent::Refused.into()),
            AgentUse::Wanted => {
                Wanted::new(self.plan, self.at, &self.image, &keeping, storage.clone(), self.project)
            }
        };
        let (why, tree) = match wanted {
            Ok(wanted) => {
                match self.with_agent(&wanted, &keeping, surroundings, found, tree, interrupts).await {
                    (Ok(Outcome::WithoutAgent(why, tree)), Left::Nothing) => (why, tree),
                    (Ok(Outcome::WithoutAgent(why, _)), left) => {
                        return (Err(WorkspaceError::from(why).into()), left);
                    }
                    (Ok(Outcome::Finished(finished)), left) => return (Ok(finished), left),
                    (Err(error), left) => return (Err(error), left),
                }
            }
            Err(WorkspaceError::WithoutAgent(why)) => (why, tree),
            Err(error) => return (Err(error.into()), Left::Nothing),
        };
        if matches!(self.plan.route.value, Route::Tmpfs | Route::Volume) {
            let route = self.plan.route.value;
            return (Err(BuildError::RouteNeedsAgent { route, why }), Left::Nothing);
        }
        if let Outputs::Named(named) = &self.plan.outputs.value
            && let Some(Output { spec, .. }) = named.iter().find(|output| !output.only.is_empty())
        {
            return (Err(BuildError::PatternNeedsAgent { spec: spec.clone(), why }), Left::Nothing);
        }
        self.reporter.emit(Event::WithoutAgent { why: (&why).into(), detail: why.to_string() });
        plain::run(self, &storage, tree, interrupts).await
    }

    async fn storage(
        &self,
        keeping: &Keeping<'_>,
        interrupts: &mut Interrupts,
    ) -> Result<Storage, BuildError> {
        let (docker, plan, image) = (&self.docker, self.plan, &self.image);
        let providing = Storage::of(docker, plan, image, keeping, (self.project, self.state), &self.run);
        Ok(interrupts.unless(providing).await??)
    }

    async fn with_agent(
        &self,
        wanted: &Wanted,
        keeping: &Keeping<'_>,
        surroundings: Surroundings,
        found: Option<ContainerFacts>,
        tree: Tree,
        interrupts: &mut Interrupts,
    ) -> (Result<Outcome, BuildError>, Left) {
        let reaper = self.watch(match keeping {
            Keeping::Kept { .. } => Duty::Free(self.place(keeping.name())),
            Keeping::OneRun { .. } => Duty::Remove(self.place(keeping.name())),
        });
        let (outcome, left) = match self.enter(wanted, found, &surroundings, interrupts).await {
            Ok((workspace, session)) => {
                if let Some(reaper) = &reaper {
                    reaper.note_made();
                }
                let (plan, locks, reporter) = (self.plan, self.locks, self.reporter);
                let mut warm = Warm { plan, locks, run: &self.run, reporter, surroundings, workspace };
                let built = warm.build(session, tree, Arc::clone(&self.record), interrupts).await;
                let left = match keeping {
                    Keeping::Kept { .. } if is_for_nobody(&warm.workspace, &built) => {
                        wanted.remove(&self.docker).await.map(drop).map_err(BuildError::from)
                    }
                    Keeping::Kept { .. } => warm::leave(&mut warm.workspace, &built, interrupts).await,
                    Keeping::OneRun { .. } => self.see_off(&warm.workspace, interrupts).await,
                };
                (built.map(|(finished, _): (_, Goodbye)| Outcome::Finished(finished)), left)
            }
            Err(BuildError::Workspace(WorkspaceError::WithoutAgent(why))) => {
                (Ok(Outcome::WithoutAgent(why, tree)), Ok(()))
            }
            Err(error) => {
                let left = match keeping {
                    // The reaper ends what runs in it.
                    Keeping::Kept { .. } => Left::Perhaps,
                    Keeping::OneRun { .. } => self.abandon(wanted, &error).await,
                };
                if left == Left::Nothing {
                    dismiss(reaper);
                }
                return (Err(error), left);
            }
        };
        match left {
            Ok(()) => {
                dismiss(reaper);
                (outcome, Left::Nothing)
            }
            // Not told that the run is over: the reaper and the next start try again.
            Err(error) => {
                tracing::warn!(%error, "could not leave the container as it should be");
                (outcome, Left::Perhaps)
            }
        }
    }

    async fn enter(
        &self,
        wanted: &Wanted,
        found: Option<ContainerFacts>,
        surroundings: &Surroundings,
        interrupts: &mut Interrupts,
    ) -> Result<(Workspace, Session), BuildError> {
        let (plan, reporter) = (self.plan, self.reporter);
        let phase = Running::begin(Phase::Workspace, None, reporter);
        let settings = Settings {
            client: client(&self.run, self.state)?,
            idle_stop: Some(plan.workspace.idle_stop.value),
            silence: self.at.endpoint.silence(plan.workspace.grace.value),
            ..Settings::default()
        };
        let first = warm::first_requests(plan, surroundings);
        let entering = async {
            let found = self.until_ready(wanted, found).await?;
            let line = self.locks.line();
            let (workspace, session) =
                workspace::enter(&self.docker, wanted, found, line, &settings, &first).await?;
            self.locks.entered()?;
            if let (true, Some(container)) = (plan.route.value.is_mounted(), workspace.container()) {
                mounted::refuse_other_tree(&self.docker, container, plan).await?;
            }
            Ok::<_, BuildError>((workspace, session))
        };
        let (workspace, session) = interrupts.unless(entering).await??;
        phase.end(Amount::default());
        reporter.emit(Event::Workspace { name: wanted.name().to_owned(), how: workspace.how().into() });
        Ok((workspace, session))
    }

    /// Waits until this run is alone in a workspace whose container has to be changed.
    async fn until_ready(
        &self,
        wanted: &Wanted,
        found: Option<ContainerFacts>,
    ) -> Result<Option<ContainerFacts>, BuildError> {
        if self.locks.line() == Line::Main || wanted.is_ready(found.as_ref()) {
            return Ok(found);
        }
        self.locks.be_alone(self.reporter).await?;
        Ok(self.docker.look(wanted.name()).await?)
    }

    /// A one-run container goes by itself when its client is gone; this waits for that.
    async fn see_off(&self, workspace: &Workspace, interrupts: &mut Interrupts) -> Result<(), BuildError> {
        let phase = Running::begin(Phase::Remove, None, self.reporter);
        let mut going = pin!(workspace.until_gone());
        // Even after three Ctrl-C nothing is left behind, unless the engine is slow.
        let gone = match timeout(A_MOMENT, &mut going).await {
            Ok(gone) => Ok(gone),
            Err(_) => interrupts.unless(going).await.map_err(|Interrupted(signal)| signal),
        };
        match gone {
            Ok(Ok(())) => {
                phase.end(Amount::default());
                Ok(())
            }
            Ok(Err(error)) => {
                let container = workspace.name().to_owned();
                self.reporter.emit(Event::Warned(Warning::NotRemoved { container, why: error.to_string() }));
                Err(error.into())
            }
            Err(signal) => Err(BuildError::Interrupted(signal)),
        }
    }

    /// Removes a one-run container that was not entered because of `error`. If it is not known
    /// whether the engine received the request to make it, it may still appear.
    async fn abandon(&self, wanted: &Wanted, error: &BuildError) -> Left {
        let may_come_about = matches!(
            error,
            BuildError::Interrupted(_)
                | BuildError::Workspace(WorkspaceError::Engine(EngineError::Gone { .. }))
        );
        match wanted.remove(&self.docker).await {
            Ok(Removed::Now) => Left::Nothing,
            Ok(Removed::Already | Removed::NotOurs) if !may_come_about => Left::Nothing,
            Ok(_) | Err(_) => Left::Perhaps,
        }
    }

    /// Starts the reaper that does `duty` when this process has died.
    pub(super) fn watch(&self, duty: Duty) -> Option<Reaper> {
        Reaper::watch(&Charge {
            state: self.state.root().to_owned(),
            source: self.plan.source.value.clone(),
            run: self.run.id.clone(),
            duty,
        })
    }

    pub(super) fn place(&self, container: &str) -> InContainer {
        InContainer { engine: self.at.endpoint.clone(), container: container.to_owned() }
    }
}

/// Whether the workspace is new and its image does not know its user: no build can ever run in it.
fn is_for_nobody<T>(workspace: &Workspace, built: &Result<T, BuildError>) -> bool {
    let is_new = matches!(workspace.how(), How::Made(Why::Fresh));
    is_new
        && matches!(built, Err(BuildError::Workspace(WorkspaceError::Session(SessionError::Failed(failed))))
            if failed.why == Failure::User)
}
