//! The warm tier: the workspace is kept, both ends are scanned for each build, and only differences travel.
//!
//! ```text
//! scan the host ┐                              ┌ look at the host's outputs ┐
//!               ├ compare ─ put right ─ run ───┤                            ├ stage ─ apply ─ record
//! workspace, attach, scan there ┘              └ scan there, compare ───────┘
//! ```
//!
//! What the far end does is in [`crate::agent`]; how it is reached, in [`crate::workspace`]; each step here is one file below.

mod collect;
mod command;
pub mod here;
mod host;
pub mod shell;
mod upload;

use std::{io::BufReader, pin::Pin, sync::Arc};

use self::{
    collect::Collecting,
    host::HostTree,
    upload::{Learned, Sources},
};
use super::{
    BuildError, Built, Finished, Interrupts, Running,
    channel::ChunkReader,
    cold, detached, image,
    reaper::{Charge, Duty, InContainer, Reaper},
    refuse_strange_links,
};
use crate::{
    agent::{
        near::{Session, SessionError, Settings},
        protocol::{Blob, Extent, Input, Open, Reply, Request, Run as Command, User},
    },
    engine::Docker,
    outputs::record::Record,
    plan::{OnDocker, Outputs, Plan, SeedOutputs, Stdin, Tier},
    report::{
        Reporter,
        events::{self, Amount, Event, Phase, Warning},
    },
    state::{Project, Run, State},
    tree::{
        RelPath,
        index::{HashedAt, Index},
        node::{Node, NodeError, NodeReader},
    },
    workspace::{
        self, Keeping, NotWarm, Surroundings, Wanted, Workspace, WorkspaceError, daily, storage::Storage,
    },
};

/// What became of a warm build.
#[derive(Debug)]
pub enum Outcome {
    /// It ran.
    Finished(Finished),
    /// No workspace can be had, and nothing was done.
    NotWarm(NotWarm),
}

/// Carries a plan out in the project's workspace.
///
/// # Errors
/// When fastbuild, the engine or the agent could not do their part. Nothing of the build runs any more then, as far as the
/// engine can be reached.
pub async fn run(
    plan: &Plan,
    at: OnDocker<'_>,
    state: &State,
    project: &Project,
    interrupts: &mut Interrupts,
    reporter: &Reporter,
) -> Result<Outcome, BuildError> {
    let loading = load_record(project);
    let scanning = look_ahead(plan, project, reporter);
    let docker = interrupts.unless(Docker::connect(at.endpoint)).await??;
    let kept = match plan.tier.value {
        Tier::Warm => Some(Keeping::kept(project, state)?),
        Tier::Cold => None,
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
    let run = state.begin_run(project, &plan.engine.value.to_string())?;
    let keeping = kept.unwrap_or_else(|| Keeping::one_run(project, &run));
    let name = keeping.name().to_owned();
    let providing = Storage::of(&docker, plan, &image, &keeping, (project, state), &run);
    let storage = interrupts.unless(providing).await??;
    let surroundings = Surroundings::of(&image, &storage);
    let wanted = match Wanted::new(plan, at, &image, &keeping, storage, project) {
        Ok(wanted) => wanted,
        Err(WorkspaceError::NotWarm(why)) => {
            run.finish();
            return Ok(Outcome::NotWarm(why));
        }
        Err(error) => return Err(error.into()),
    };
    let leftovers = cold::remove_leftovers(&docker, state, project, &plan.engine.value.to_string(), reporter);
    let limiting = daily::look_after(&docker, state, plan, reporter);
    let place = InContainer { engine: at.endpoint.clone(), container: name.clone() };
    let reaper = Reaper::watch(&Charge {
        state: state.root().to_owned(),
        source: plan.source.value.clone(),
        run: run.id.clone(),
        duty: match keeping {
            Keeping::Kept { .. } => Duty::Free(place),
            Keeping::OneRun { .. } => Duty::Remove(place),
        },
    });

    let phase = Running::begin(Phase::Workspace, None, reporter);
    let settings = Settings { idle_stop: Some(plan.workspace.idle_stop.value), ..Settings::default() };
    let first: Vec<_> = scanning.iter().map(|_| open(plan, &surroundings, &plan.ignore.outputs)).collect();
    let entering = workspace::enter(&docker, &wanted, found, &settings, &first);
    let (workspace, session) = match interrupts.unless(entering).await? {
        Ok(entered) => entered,
        Err(WorkspaceError::NotWarm(why)) => {
            run_is_over(run, reaper);
            return Ok(Outcome::NotWarm(why));
        }
        Err(error) => return Err(error.into()),
    };
    phase.end(Amount::default());
    reporter.emit(Event::Workspace { name, how: workspace.how().into() });

    let is_kept = matches!(keeping, Keeping::Kept { .. });
    let mut warm = Warm { plan, project, run: &run, reporter, surroundings, workspace };
    let built = match warm.build(session, scanning, record, interrupts).await {
        Err(BuildError::Workspace(WorkspaceError::NotWarm(why @ NotWarm::OwnFiles { entries, .. }))) => {
            interrupts.unless(wanted.give_up(&docker, entries)).await??;
            run_is_over(run, reaper);
            return Ok(Outcome::NotWarm(why));
        }
        built => built,
    };
    let left = match is_kept {
        true => leave(&mut warm.workspace, &built, interrupts).await,
        false => remove(&wanted, &docker, reporter).await,
    };
    // A moment's work, and long done.
    let _ = interrupts.unless(leftovers).await;
    if let Some(limiting) = limiting {
        // Once a day; engines take their time to measure, and began when the command did.
        let _ = interrupts.unless(limiting).await;
    }
    let_go(left, run, reaper);
    built.map(|(finished, _)| Outcome::Finished(finished))
}

/// Removes a workspace that nobody comes back to.
async fn remove(wanted: &Wanted, docker: &Docker, reporter: &Reporter) -> Result<(), BuildError> {
    let phase = Running::begin(Phase::Remove, None, reporter);
    let removed = wanted.remove(docker).await;
    match &removed {
        Ok(()) => phase.end(Amount::default()),
        Err(error) => {
            let container = wanted.name().to_owned();
            reporter.emit(Event::Warned(Warning::NotRemoved { container, why: error.to_string() }));
        }
    }
    Ok(removed?)
}

/// How the session of a build that succeeded came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goodbye {
    /// Both ends know that it is over.
    Said,
    /// The far end does not, or is gone.
    Lost,
}

/// Reads what fastbuild wrote before, from now on.
fn load_record(project: &Project) -> impl Future<Output = Result<Record, BuildError>> + use<> {
    let path = project.record_path();
    detached(move || Record::load(&path))
}

/// Begins to look at the source tree. What is seeded depends on how the workspace comes about; everything else can be looked
/// at meanwhile.
fn look_ahead(plan: &Plan, project: &Project, reporter: &Reporter) -> Option<Scanning> {
    match plan.seed.value {
        SeedOutputs::No => Some(start_scan(plan, project, plan.ignore.outputs.clone(), reporter)),
        SeedOutputs::Yes => None,
    }
}

/// Sees to it that nothing of the session is left. Whoever does not wait for that leaves it to the reaper.
async fn leave<T>(
    workspace: &mut Workspace,
    built: &Result<(T, Goodbye), BuildError>,
    interrupts: &mut Interrupts,
) -> Result<(), BuildError> {
    let left = match built {
        Ok((_, Goodbye::Said)) => interrupts.unless(workspace.left_well()).await,
        Ok((_, Goodbye::Lost)) | Err(_) => interrupts.unless(workspace.free()).await,
    };
    Ok(left??)
}

/// The workspace was left, well or not.
fn let_go(left: Result<(), BuildError>, run: Run, reaper: Option<Reaper>) {
    match left {
        Ok(()) => run_is_over(run, reaper),
        // Neither is told that all is well: the reaper tries again, and the next start after it.
        Err(error) => tracing::warn!(%error, "could not free the workspace"),
    }
}

/// Nothing of the run is left anywhere.
fn run_is_over(run: Run, reaper: Option<Reaper>) {
    if let Some(reaper) = reaper {
        reaper.dismiss();
    }
    run.finish();
}

/// Looks at the source tree on a thread of its own, from now on.
fn start_scan(plan: &Plan, project: &Project, outputs: Vec<RelPath>, reporter: &Reporter) -> Scanning {
    let (plan, project, reporter) = (plan.clone(), project.clone(), reporter.clone());
    Box::pin(detached(move || host::look(&plan, &outputs, &project, &reporter)))
}

type Scanning = Pin<Box<dyn Future<Output = Result<Result<HostTree, BuildError>, BuildError>> + Send>>;

/// What the far end is told of the source tree; `outputs` are no part of it.
fn open(plan: &Plan, surroundings: &Surroundings, outputs: &[RelPath]) -> Request {
    let blobs = |paths: &[String]| paths.iter().map(|path| Blob::from(path.as_bytes())).collect();
    Request::Open(Box::new(Open {
        root: Blob::from(plan.workdir.value.as_bytes()),
        user: plan
            .user
            .as_ref()
            .map_or_else(|| surroundings.user.clone(), |user| User::Named(user.value.clone())),
        patterns: plan.ignore.patterns.iter().map(|pattern| pattern.value.clone()).collect(),
        outputs: outputs.to_vec(),
        extent: match plan.outputs.value {
            Outputs::Everything => Extent::Everything,
            Outputs::Named(_) => Extent::Sources,
        },
        caches: blobs(&surroundings.caches),
        ways: blobs(&surroundings.ways),
    }))
}

/// Decodes nodes as they come.
fn node_reader(from: ChunkReader) -> NodeReader<BufReader<ChunkReader>> {
    NodeReader::new(BufReader::new(from))
}

/// The same, for who takes them one by one.
fn nodes(from: ChunkReader) -> impl Iterator<Item = Result<Node, NodeError>> {
    let mut reader = node_reader(from);
    std::iter::from_fn(move || reader.next_node().transpose())
}

/// What came is well formed and makes no sense.
fn nonsense(detail: impl ToString) -> SessionError {
    SessionError::Damaged { detail: detail.to_string(), diagnostics: String::new() }
}

struct Warm<'a> {
    plan: &'a Plan,
    project: &'a Project,
    run: &'a Run,
    reporter: &'a Reporter,
    surroundings: Surroundings,
    workspace: Workspace,
}

impl Warm<'_> {
    async fn build(
        &mut self,
        mut session: Session,
        scanning: Option<Scanning>,
        record: Arc<Record>,
        interrupts: &mut Interrupts,
    ) -> Result<(Finished, Goodbye), BuildError> {
        let built = match self.until_staged(&mut session, scanning, &record, interrupts).await {
            Err(BuildError::Session(error)) => {
                // The agent hears that nobody is there any more.
                drop(session);
                return Err(self.workspace.why_over(error).await.into());
            }
            other => other,
        };
        let built = built?;
        let exit_code = built.exit_code;
        let applying = built.put_in_place(record, self.project, self.run, self.plan, self.reporter);
        let (applied, closed) = tokio::join!(applying, session.close());
        let applied = applied?;
        let traffic = session.traffic();
        // The products are in place, and a build that has changed the host has not failed.
        let (goodbye, peak_memory) = match closed {
            Ok(peak_kib) => (Goodbye::Said, Some(peak_kib.saturating_mul(1024))),
            Err(error) => {
                tracing::warn!(%error, "the workspace was lost when all was done");
                (Goodbye::Lost, None)
            }
        };
        let warm = events::Warm { sent: traffic.sent, received: traffic.received, peak_memory };
        Ok((Finished { exit_code, applied, warm: Some(warm), defect: None }, goodbye))
    }

    async fn until_staged(
        &mut self,
        session: &mut Session,
        scanning: Option<Scanning>,
        record: &Arc<Record>,
        interrupts: &mut Interrupts,
    ) -> Result<Built, BuildError> {
        let (scanning, seeded) = match scanning {
            Some(scanning) => (scanning, Vec::new()),
            None => interrupts.unless(self.seed(session, record)).await??,
        };
        let opened = session.reply("that the workspace is being looked at", |reply| match reply {
            Reply::Opened { room, .. } => Ok(room),
            other => Err(other),
        });
        let room = interrupts.unless(opened).await??;
        let mut host = interrupts.unless(scanning).await???;
        let (hashed_at, times) = (host.hashed_at, std::mem::take(&mut host.times));
        let righting = upload::put_right(session, &mut self.workspace, self.plan, host, room, self.reporter);
        let sources = interrupts.unless(righting).await??;
        self.workspace.mark().seeds.extend(seeded.into_iter().map(|spec| (spec, String::new())));
        let sources = Arc::new(sources);
        let saving = self.save_index(&sources, hashed_at);

        let looking = collect::look(self.plan, record);
        let ended = command::run(session, self.command(), interrupts, self.reporter).await?;
        if ended.out_of_memory {
            let limit = self.plan.memory.as_ref().map(|memory| memory.value);
            self.reporter.emit(Event::Warned(Warning::OutOfMemory { limit }));
        }
        let collecting = Collecting {
            session,
            plan: self.plan,
            run: self.run,
            sources: &sources,
            record: Arc::clone(record),
            reporter: self.reporter,
        };
        let collecting = interrupts.unless(collecting.collect(looking));
        let built = Built::after(ended.exit_code, self.plan, times, self.reporter, collecting).await?;
        saving.await?;
        Ok(built)
    }

    /// Decides which outputs go in from the host: those that are not as fastbuild left them there, or that this workspace
    /// never had. The others are the workspace's own, which may be further than what came back. Gives the scan
    /// that follows from it, and the names of all seeded outputs.
    async fn seed(
        &mut self,
        session: &mut Session,
        record: &Arc<Record>,
    ) -> Result<(Scanning, Vec<String>), BuildError> {
        let mut own = Vec::new();
        let mut seeded = Vec::new();
        let named = match &self.plan.outputs.value {
            Outputs::Named(outputs) => outputs.as_slice(),
            Outputs::Everything => &[],
        };
        for output in named {
            let Some(below) = output.below_source.clone() else { continue };
            let known = self.workspace.mark().seeds.contains_key(&output.spec);
            if known && collect::is_as_left(output, record).await? {
                own.push(below);
            }
            seeded.push(output.spec.clone());
        }
        session.send(&open(self.plan, &self.surroundings, &own)).await?;
        Ok((start_scan(self.plan, self.project, own, self.reporter), seeded))
    }

    /// Writes the host's index beside the build, when there is anything new in it.
    fn save_index(
        &self,
        sources: &Arc<Sources>,
        hashed_at: HashedAt,
    ) -> impl Future<Output = Result<(), BuildError>> + use<> {
        let saving = (sources.learned == Learned::Something).then(|| {
            let (sources, path) = (Arc::clone(sources), self.project.index_path());
            tokio::task::spawn_blocking(move || {
                let saved = Index::save(&path, &sources.scan.manifest, &sources.digests, &hashed_at);
                if let Err(error) = saved {
                    // The next build reads the files again.
                    tracing::warn!(?path, %error, "could not write the index of the sources");
                }
            })
        });
        async {
            match saving {
                Some(saving) => saving.await.map_err(|_| BuildError::Panicked),
                None => Ok(()),
            }
        }
    }

    /// What `docker run` would make of the plan and the image.
    fn command(&self) -> Command {
        let plan = self.plan;
        let entrypoint = match &plan.entrypoint {
            None => self.surroundings.entrypoint.clone(),
            Some(entrypoint) if entrypoint.value.is_empty() => Vec::new(),
            Some(entrypoint) => vec![entrypoint.value.clone()],
        };
        let blob = |text: &String| Blob::from(text.as_bytes());
        Command {
            argv: entrypoint.iter().chain(&plan.command).map(blob).collect(),
            env: plan.env.iter().map(|env| (blob(&env.value.name), blob(&env.value.value))).collect(),
            home: self.surroundings.home,
            directory: Blob::from(plan.command_directory().into_bytes()),
            terminal: command::size(plan.terminal.value),
            stdin: match plan.stdin.value {
                Stdin::Forward => Input::Forwarded,
                Stdin::Empty => Input::Empty,
            },
        }
    }
}
