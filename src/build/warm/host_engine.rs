//! A build without a container: the warm pipeline in a scratch directory of this machine, which is
//! removed with a build that keeps nothing.

use std::sync::Arc;

use crate::{
    agent::{
        client::{Session, Settings},
        protocol::Client,
    },
    build::{
        BuildError, Finished, Interrupts,
        locks::{Locks, client},
        reaper::{Charge, Duty, Reaper},
        tasks::{Running, blocking, refuse_strange_links},
        warm::{Tree, Warm, first_requests, leave, let_go, load_record},
    },
    entry::{Amount, Kind},
    plan::{Plan, Scratch},
    report::{
        Reporter,
        events::{Event, Phase},
    },
    spec::Lifetime,
    state::{Project, State},
    workspace::{
        self, How, Surroundings, Workspace, WorkspaceError, auto_prune,
        scratch::{self, Found, Held, Wanted},
    },
};

/// Carries out a plan in `scratch`.
///
/// # Errors
/// When fastbuild or the agent could not do their part. No process of the build runs any more then.
pub async fn run(
    plan: &Plan,
    scratch: &Scratch,
    state: &State,
    locks: &Locks,
    interrupts: &mut Interrupts,
    reporter: &Reporter,
) -> Result<Finished, BuildError> {
    let project = &locks.project;
    let loading = load_record(project);
    let tree = Tree::begin(plan, locks, reporter);
    let record = Arc::new(loading.await?);
    refuse_strange_links(plan, &record)?;
    forget_dead_runs(state, project);
    let wanted = Wanted::new(plan, scratch, project);
    let run = state.begin_run(project, &scratch::engine())?;
    let reaper = Reaper::watch(&Charge {
        state: state.root().to_owned(),
        source: plan.source.value.clone(),
        run: run.id.clone(),
        duty: match plan.lifetime.value {
            Lifetime::Kept => Duty::Keep,
            Lifetime::OneRun => Duty::Clear(scratch.directory.clone()),
        },
    });
    let limiting = auto_prune::look_after_here(state, plan, reporter);

    let surroundings = Surroundings::here();
    let client = client(&run, state)?;
    let entering = Entering { plan, client, surroundings: &surroundings, reporter };
    let entered = entering.enter(wanted.clone(), tree, interrupts).await;
    let (built, left) = match entered {
        Ok((workspace, session, tree)) => {
            let mut warm = Warm { plan, locks, run: &run, reporter, surroundings, workspace };
            let built = warm.build(session, tree, record, interrupts).await;
            let left = leave(&mut warm.workspace, &built, interrupts).await;
            (built, left)
        }
        Err(error) => (Err(error), Ok(())),
    };
    if let Some(limiting) = limiting {
        let _ = interrupts.unless(limiting).await;
    }
    let left = match (left, plan.lifetime.value) {
        (Ok(()), Lifetime::OneRun) => {
            let removed = blocking(move || wanted.remove()).await?;
            removed.map_err(|error| WorkspaceError::from(error).into())
        }
        (left, _) => left,
    };
    let_go(left, run, reaper);
    built.map(|(finished, _)| finished)
}

/// Forgets killed runs of this project. Their leftovers here are recovered: the project's lock is
/// held, and their work is finished.
fn forget_dead_runs(state: &State, project: &Project) {
    let engine = scratch::engine();
    let dead = state.dead_runs().into_iter();
    for run in dead.filter(|run| run.engine == engine && run.project == project.key()) {
        state.forget_run(&run.id);
    }
}

struct Entering<'a> {
    plan: &'a Plan,
    client: Client,
    surroundings: &'a Surroundings,
    reporter: &'a Reporter,
}

impl Entering<'_> {
    async fn enter(
        &self,
        wanted: Wanted,
        tree: Tree,
        interrupts: &mut Interrupts,
    ) -> Result<(Workspace, Session, Tree), BuildError> {
        let phase = Running::begin(Phase::Workspace, None, self.reporter);
        let finding = blocking({
            let wanted = wanted.clone();
            move || wanted.find()
        });
        let found = interrupts.unless(finding).await??.map_err(WorkspaceError::from)?;
        let (wanted, held, how, tree) = match found {
            Found::Held(held) => (wanted, held, How::Found, tree),
            Found::Nothing(why) => {
                let tree = interrupts.unless(self.check_room(&wanted, tree)).await??;
                let (wanted, held) = make(wanted).await?;
                (wanted, held, How::Made(why), tree)
            }
        };
        let settings = Settings { client: self.client.clone(), ..Settings::default() };
        let first = first_requests(self.plan, self.surroundings);
        let entering = workspace::enter_here(&wanted, held, how, &settings, &first);
        let (workspace, session) = interrupts.unless(entering).await??;
        phase.end(Amount::default());
        let (name, how) = (workspace.name().to_owned(), workspace.how().into());
        self.reporter.emit(Event::Workspace { name, how });
        Ok((workspace, session, tree))
    }

    /// Whether a directory that is still to be made has room for the sources. If they are not
    /// scanned yet, they are measured before they are sent.
    async fn check_room(&self, wanted: &Wanted, tree: Tree) -> Result<Tree, BuildError> {
        let Tree::Sources(scanning) = tree else { return Ok(tree) };
        let host = scanning.await??;
        let room = wanted.room().map_err(WorkspaceError::from)?;
        let files = || {
            host.scan.manifest.entries().iter().filter_map(|entry| match entry.kind {
                Kind::File { size } => Some(size),
                Kind::Directory | Kind::Symlink { .. } => None,
            })
        };
        let needed = Amount {
            files: files().count() as u64,
            bytes: files().map(|size| size.next_multiple_of(room.block)).sum(),
        };
        if needed.bytes > room.bytes {
            let (place, route) = (self.plan.workdir.value.clone(), self.plan.route.value);
            return Err(BuildError::NoRoom { place, route, needed, room });
        }
        Ok(Tree::Sources(Box::pin(std::future::ready(Ok(Ok(host))))))
    }
}

async fn make(mut wanted: Wanted) -> Result<(Wanted, Held), BuildError> {
    let made = blocking(move || {
        let held = wanted.make()?;
        Ok::<_, WorkspaceError>((wanted, held))
    });
    Ok(made.await??)
}
