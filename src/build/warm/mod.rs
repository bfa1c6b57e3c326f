//! The build with the agent at the other end: both ends are scanned, and only differences are sent.
//!
//! ```text
//! scan the host ┐                              ┌ look at the host's outputs ┐
//!               ├ compare ─ put right ─ run ───┤                            ├ stage ─ apply ─ record
//! workspace, attach, scan there ┘              └ scan there, compare ───────┘
//! ```
//!
//! It is the same in a kept workspace, in a one-run container and in a scratch directory. Where the
//! host's tree is mounted, nothing is compared and nothing is sent ([`super::mounted`]). The far
//! end's part is in [`crate::agent`], the way to it in [`crate::workspace`]; each step here has a
//! file below.

pub(super) mod collect;
mod command;
pub mod host_engine;
mod replies;
pub mod shell;
mod source_tree;
pub(super) mod upload;

use std::{pin::Pin, sync::Arc, time::SystemTime};

use self::{collect::Collecting, command::Ended, upload::Learned};
pub(super) use self::{source_tree::HostTree, upload::Sources};
use super::{
    BuildError, Finished, Interrupts,
    history::Moved,
    locks::{Locks, Order},
    mounted::{self, Ended as EndedMounted},
    reaper::{Reaper, dismiss},
};
use crate::{
    agent::{
        client::Session,
        protocol::{Blob, Claim, Extent, Input, Open, Reply, Request, Run as Command, User},
    },
    build::{
        built::Built,
        last::Look,
        mount_fault::{Runner, Tail},
        tasks::detached,
        warm::replies::Opened,
    },
    entry::RelPath,
    outputs::{record::Record, target::native_join},
    plan::{Outputs, Plan},
    report::{
        Reporter,
        events::{self, Event, Warning},
    },
    spec::{Lifetime, Stdin},
    state::{Project, Run},
    tree::index::{HashedAt, Index, Whose},
    user::Ids,
    workspace::{Surroundings, Workspace},
};

/// The part of the host's tree that a build scans.
pub(super) enum Tree {
    /// The source tree, under way.
    Sources(Scanning),
    /// The same, when it is this build's turn.
    Later,
    /// Nothing: it is mounted.
    Mounted,
}

impl Tree {
    /// Begins the scan, unless other builds come first.
    pub(super) fn begin(plan: &Plan, locks: &Locks, reporter: &Reporter) -> Tree {
        match plan.route.value.is_mounted() {
            true => Tree::Mounted,
            false if locks.may_look() => Tree::Sources(start_scan(plan, &locks.project, reporter)),
            false => Tree::Later,
        }
    }
}

/// The requests that can be sent right after the greeting.
pub(super) fn first_requests(plan: &Plan, surroundings: &Surroundings) -> Vec<Request> {
    vec![open(plan, surroundings)]
}

/// How the session of a successful build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goodbye {
    /// Both ends know that it is over.
    Said,
    /// The far end does not know, or is gone.
    Lost,
}

/// Begins to read the record of what fastbuild wrote.
pub(super) fn load_record(project: &Project) -> impl Future<Output = Result<Record, BuildError>> + use<> {
    let path = project.record_path();
    detached(move || Record::load(&path))
}

/// Makes sure that nothing of the session is left. If the wait is cut off, the reaper does that.
pub(super) async fn leave<T>(
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

/// The workspace was left, with or without an error.
fn let_go(left: Result<(), BuildError>, run: Run, reaper: Option<Reaper>) {
    match left {
        Ok(()) => run_is_over(run, reaper),
        // Not told that the run is over: the reaper and the next start try again.
        Err(error) => tracing::warn!(%error, "could not free the workspace"),
    }
}

/// Nothing of the run is left anywhere.
fn run_is_over(run: Run, reaper: Option<Reaper>) {
    dismiss(reaper);
    run.finish();
}

/// Scans the source tree on a thread of its own, from now on.
pub(super) fn start_scan(plan: &Plan, project: &Project, reporter: &Reporter) -> Scanning {
    let (plan, project, reporter) = (plan.clone(), project.clone(), reporter.clone());
    Box::pin(detached(move || source_tree::look(&plan, &project, &reporter)))
}

pub(super) type Scanning =
    Pin<Box<dyn Future<Output = Result<Result<HostTree, BuildError>, BuildError>> + Send>>;

/// The description of the source tree for the far end.
fn open(plan: &Plan, surroundings: &Surroundings) -> Request {
    let blobs = |paths: &[String]| paths.iter().map(|path| Blob::from(path.as_bytes())).collect();
    Request::Open(Box::new(Open {
        root: Blob::from(plan.workdir.value.as_bytes()),
        user: plan
            .user
            .as_ref()
            .map_or_else(|| surroundings.user.clone(), |user| User::Named(user.value.clone())),
        patterns: plan.ignore.lines().map(str::to_owned).collect(),
        outputs: plan.ignore.outputs.clone(),
        extent: match plan.route.value.is_mounted() {
            true => Extent::Nothing,
            false => Extent::Everything,
        },
        caches: blobs(&surroundings.caches),
        ways: blobs(&surroundings.ways),
        claim: match &plan.outputs.value {
            Outputs::Everything => Claim::Everything,
            Outputs::Named(outputs) => {
                Claim::Outputs(outputs.iter().map(|output| Blob::from(output.container.as_bytes())).collect())
            }
        },
        only: match &plan.outputs.value {
            Outputs::Everything => Vec::new(),
            Outputs::Named(outputs) => outputs.iter().flat_map(|output| output.only.clone()).collect(),
        },
    }))
}

/// A build in an entered workspace.
pub(super) struct Warm<'a> {
    pub(super) plan: &'a Plan,
    pub(super) locks: &'a Locks,
    pub(super) run: &'a Run,
    pub(super) reporter: &'a Reporter,
    pub(super) surroundings: Surroundings,
    pub(super) workspace: Workspace,
}

impl Warm<'_> {
    pub(super) async fn build(
        &mut self,
        mut session: Session,
        tree: Tree,
        record: Arc<Record>,
        interrupts: &mut Interrupts,
    ) -> Result<(Finished, Goodbye), BuildError> {
        interrupts.suspension().tell(&session.sender);
        let staged = match tree {
            Tree::Mounted => self.until_staged_mounted(&mut session, &record, interrupts).await,
            tree => self.until_staged(&mut session, tree, &record, interrupts).await,
        };
        let built = match staged {
            Err(BuildError::Session(error)) => {
                // Tells the agent that its client is gone.
                drop(session);
                return Err(self.workspace.why_over(error).await.into());
            }
            other => other,
        };
        let mut built = match built {
            // Its command has ended, and its products stay there for the next build.
            Err(error @ (BuildError::MissingOutput { .. } | BuildError::Output(_))) => {
                Self::leave_products(&session).await;
                let _ = session.close().await;
                return Err(error);
            }
            built => built?,
        };
        let (exit, defect) = (built.exit, built.defect.take());
        let undisturbed = interrupts.suspension().undisturbed().await;
        // Before the goodbye: the next client scans the tree after this apply.
        if built.staged.is_some() {
            self.locks.begin_apply(self.reporter).await?;
        }
        // The next client may use another state directory, and then waits for the goodbye alone.
        let is_awaited = self.plan.lifetime.value == Lifetime::Kept && built.changes_anything();
        let applying = built.put_in_place(record, self.plan, self.locks, self.run, self.reporter);
        let (applied, closed) = match is_awaited {
            true => {
                let applied = applying.await;
                // If the outputs cannot be written, they are in the safe place.
                if matches!(applied, Err(BuildError::Output(_))) {
                    Self::leave_products(&session).await;
                }
                (applied, session.close().await)
            }
            false => tokio::join!(applying, session.close()),
        };
        drop(undisturbed);
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
        let agent = events::AgentCost { sent: traffic.sent, received: traffic.received, peak_memory };
        Ok((Finished { exit, applied, agent: Some(agent), defect }, goodbye))
    }

    /// Says that no product comes back. If this is lost, the next build makes them again.
    async fn leave_products(session: &Session) {
        let _ = session.sender.send(&Request::LeftThere).await;
    }

    async fn until_staged(
        &mut self,
        session: &mut Session,
        tree: Tree,
        record: &Arc<Record>,
        interrupts: &mut Interrupts,
    ) -> Result<Built, BuildError> {
        let opened = |reply| match reply {
            Reply::Opened { room, others, kept, .. } => Ok(Opened { room, others, kept }),
            other => Err(other),
        };
        let (opened, order) = interrupts.unless(self.locks.turn(session, opened, self.reporter)).await??;
        let scanning = match (tree, order) {
            (Tree::Sources(scanning), Order::First) => scanning,
            // Other builds' new files must be seen.
            _ => {
                interrupts.unless(self.locks.look_at_sources(self.reporter)).await??;
                start_scan(self.plan, &self.locks.project, self.reporter)
            }
        };
        let mut host = interrupts.unless(scanning).await???;
        host.leave_out(&opened.kept, self.plan)?;
        let look = Look::of(self.plan, &opened.kept, &host.gone);
        let mut names = opened.kept.clone();
        names.retain(|name| {
            !name.starts_with('!') && self.locks.project.is_first_said(&format!("{name} stays"))
        });
        if !names.is_empty() {
            self.reporter.emit(Event::Warned(Warning::StillKept { names }));
        }
        host.know_products(self.plan, record);
        let hashed_at = host.hashed_at;
        let righting =
            upload::put_right(session, &mut self.workspace, self.plan, host, opened, self.reporter);
        let sources = {
            let _undisturbed = interrupts.suspension().undisturbed().await;
            interrupts.unless(righting).await??
        };
        self.locks.tree_was_sent();
        let sources = Arc::new(sources);
        Moved::up(&sources).note(&self.locks.project, &self.plan.command);
        look.note(&self.locks.project);
        let saving = self.save_index(&sources, hashed_at, record);

        let looking = collect::look(self.plan, record);
        let ended = self.run_command(session, None, interrupts).await?;
        sources.watcher.ended();
        let watcher = Some(Arc::clone(&sources.watcher));
        let collecting = Collecting {
            session,
            plan: self.plan,
            run: self.run,
            project: &self.locks.project,
            sources: Some(&sources),
            record: Arc::clone(record),
            reporter: self.reporter,
        };
        let collecting = interrupts.unless(collecting.collect(looking));
        let built = Built::after(ended.exit, self.plan, self.reporter, collecting).await?;
        saving.await?;
        Ok(Built { watcher, ..built })
    }

    /// As for sent sources, from an open session to staged products.
    async fn until_staged_mounted(
        &self,
        session: &mut Session,
        record: &Arc<Record>,
        interrupts: &mut Interrupts,
    ) -> Result<Built, BuildError> {
        let opened = |reply| match reply {
            Reply::Opened { uid, gid, .. } => Ok(Ids { uid, gid }),
            other => Err(other),
        };
        let (ids, _) = interrupts.unless(self.locks.turn(session, opened, self.reporter)).await??;
        let (tail, runner) = (Tail::default(), Runner { ids, began: SystemTime::now() });
        let exit = self.run_command(session, Some(&tail), interrupts).await?.exit;
        let plan = match mounted::ended(self.plan, exit.code(), tail, runner, self.reporter).await? {
            EndedMounted::AllIsHere { defect } => {
                return Ok(Built { exit, staged: None, defect, watcher: None });
            }
            EndedMounted::Collect(plan) => plan,
        };
        let looking = collect::look(&plan, record);
        let (run, record, reporter) = (self.run, Arc::clone(record), self.reporter);
        let project = &self.locks.project;
        let collecting = Collecting { session, plan: &plan, run, project, sources: None, record, reporter };
        let collecting = interrupts.unless(collecting.collect(looking));
        Built::after(exit, self.plan, self.reporter, collecting).await
    }

    async fn run_command(
        &self,
        session: &mut Session,
        tail: Option<&Tail>,
        interrupts: &mut Interrupts,
    ) -> Result<Ended, BuildError> {
        const WORTH_SAYING: u64 = 2_000_000_000;
        let ahead = session.clock_ahead;
        if ahead.unsigned_abs() > WORTH_SAYING {
            self.reporter.emit(Event::Warned(Warning::ClocksDiffer { seconds: ahead / 1_000_000_000 }));
        }
        let command = self.command(ahead);
        let ended = command::run(session, command, tail, interrupts, self.reporter).await?;
        if ended.out_of_memory {
            let limit = self.plan.container.memory.as_ref().map(|memory| memory.value);
            self.reporter.emit(Event::Warned(Warning::OutOfMemory { limit }));
        }
        Ok(ended)
    }

    /// Writes the host's index beside the build, if it has new content.
    fn save_index(
        &self,
        sources: &Arc<Sources>,
        hashed_at: HashedAt,
        record: &Arc<Record>,
    ) -> impl Future<Output = Result<(), BuildError>> + use<> {
        let saving = (sources.learned == Learned::Something).then(|| {
            let (sources, path) = (Arc::clone(sources), self.locks.project.index_path());
            let (record, root) = (Arc::clone(record), self.plan.source.value.clone());
            tokio::task::spawn_blocking(move || {
                let whose = |path: &RelPath| match record.get(&native_join(&root, path)) {
                    Some(_) => Whose::Builds,
                    None => Whose::Users,
                };
                let saved = Index::save(&path, &sources.scan.manifest, &sources.digests, &hashed_at, &whose);
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

    /// The command that `docker run` would make of the plan and the image.
    fn command(&self, clock_ahead: i64) -> Command {
        let plan = self.plan;
        let entrypoint = match &plan.entrypoint {
            None => self.surroundings.entrypoint.clone(),
            Some(entrypoint) if entrypoint.value.is_empty() => Vec::new(),
            Some(entrypoint) => vec![entrypoint.value.clone()],
        };
        let blob = |text: &String| Blob::from(text.as_bytes());
        let env = plan.env.iter().map(|env| &env.value).chain(&self.surroundings.env);
        Command {
            argv: entrypoint.iter().chain(&plan.command).map(blob).collect(),
            env: env.map(|env| (blob(&env.name), blob(&env.value))).collect(),
            home: self.surroundings.home,
            directory: Blob::from(plan.command_directory().into_bytes()),
            terminal: command::size(plan.terminal.value),
            stdin: match plan.stdin.value {
                Stdin::Forward => Input::Forwarded,
                Stdin::Empty => Input::Empty,
            },
            clock_ahead,
            owner: mounted::owner(plan),
        }
    }
}
