//! The locks of a run, and its wait for its turn in a workspace.
//!
//! The source root's lock is shared while the tree is scanned and sent, and exclusive during the
//! apply, so that builds run side by side. Where the tree is mounted, and for a watch's builds, it
//! is exclusive until the run ends. A run that waits for its turn in the workspace releases it,
//! because the build before it will want to apply, and scans the tree again afterwards.
//!
//! The agent decides whose turn it is (`agent/server/turn.rs`). These locks only tell which runs of
//! this state directory are inside, so that no run stops, replaces or removes a container that
//! others use: runs inside share the place's lock, and a run that enters holds the door's. A
//! scratch directory has one build at a time, which holds the place's lock exclusively.
//!
//! | taken | while others hold |
//! |---|---|
//! | door | nothing |
//! | place | the door |
//! | source root | door and place |
//! | turn | the place |
//! | source root, to apply | place and turn |

use std::{
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{BuildError, Interrupts, recover};
use crate::{
    agent::{
        client::Session,
        protocol::{Client, Conflict, Reply},
    },
    build::tasks::detached,
    plan::{Engine, Plan},
    report::{
        Reporter,
        events::{Event, Holding, WaitsFor},
    },
    spec::{Lifetime, OnLocked},
    state::{Held, Holder, Lock, Project, Run, State, StateError, own_command_line},
    sys::process::is_stopped,
    workspace::{self, Line},
};

/// How often a holder is checked for being stopped; also the wait before a short hold is reported.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The locks of a run.
pub(super) struct Locks {
    pub(super) project: Project,
    state: State,
    place: Mutex<Option<Place>>,
    sources: Mutex<Option<Held>>,
    /// The source root's lock while products are applied.
    applying: Mutex<Option<Held>>,
    share: Share,
    on_locked: OnLocked,
}

/// A run's locks on the place that it works in.
struct Place {
    lock: Lock,
    /// Until the workspace has been entered.
    door: Option<Held>,
    inside: Held,
    line: Line,
}

/// How a run uses the source root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// It reads the tree, and later applies products.
    Parts,
    /// It works in the tree itself, or must tell its own changes from others'.
    Whole,
}

/// Whether the turn in a workspace came at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    First,
    AfterOthers,
}

/// The place that a build works in.
pub(super) enum Where {
    /// The workspace with that name.
    Workspace(String),
    /// A scratch directory.
    Directory(String),
}

impl Locks {
    /// The lock of `place`, without the source root's.
    ///
    /// # Errors
    /// As [`Locks::take`].
    pub(super) async fn of(
        place: Option<Where>,
        share: Share,
        on_locked: OnLocked,
        project: &Project,
        state: &State,
        reporter: &Reporter,
    ) -> Result<Locks, BuildError> {
        let place = match place {
            None => None,
            Some(Where::Workspace(name)) => Some(Place::enter(project, &name, on_locked, reporter).await?),
            Some(Where::Directory(path)) => {
                let lock = project.place(&path);
                let inside = take(lock.clone(), Lock::lock, Say::AtOnce, on_locked, reporter).await?;
                Some(Place { lock, door: None, inside, line: Line::Main })
            }
        };
        Ok(Locks {
            project: project.clone(),
            state: state.clone(),
            place: Mutex::new(place),
            sources: Mutex::new(None),
            applying: Mutex::new(None),
            share,
            on_locked,
        })
    }

    /// Takes the locks that a run of `plan` needs before its scan, and finishes an earlier run's
    /// work.
    ///
    /// # Errors
    /// [`BuildError::Locked`] where `--no-wait` says not to wait; those of the state and of
    /// recovery.
    pub(super) async fn take(
        plan: &Plan,
        share: Share,
        project: &Project,
        state: &State,
        interrupts: &mut Interrupts,
        reporter: &Reporter,
    ) -> Result<Locks, BuildError> {
        let on_locked = plan.lock.value;
        let is_mounted = plan.route.value.is_mounted();
        let place = match (&plan.engine.value, &plan.scratch, plan.lifetime.value) {
            (Engine::Host, Some(scratch), _) => {
                Some(Where::Directory(scratch.value.directory.to_string_lossy().into_owned()))
            }
            (Engine::Docker(_), _, Lifetime::Kept) if !is_mounted => {
                Some(Where::Workspace(workspace::name(plan, project, state)?))
            }
            _ => None,
        };
        let share = if is_mounted { Share::Whole } else { share };
        let taking = Locks::of(place, share, on_locked, project, state, reporter);
        let locks = interrupts.unless(taking).await??;
        if recover::is_owed(project, state) {
            let taking = take(project.sources(), Lock::lock, Say::AfterAWhile, on_locked, reporter);
            let _alone = interrupts.unless(taking).await??;
            let _undisturbed = interrupts.suspension().undisturbed().await;
            recover::recover(project, state, reporter)?;
        }
        // A run that has to wait for others scans the tree after them.
        if locks.line() == Line::Main {
            interrupts.unless(locks.look_at_sources(reporter)).await??;
        }
        Ok(locks)
    }

    /// Whether the source root may be scanned.
    pub(super) fn may_look(&self) -> bool {
        guard(&self.sources).is_some()
    }

    /// Waits until the source root may be scanned, unless it may already.
    ///
    /// # Errors
    /// The lock's.
    pub(super) async fn look_at_sources(&self, reporter: &Reporter) -> Result<(), BuildError> {
        if self.may_look() {
            return Ok(());
        }
        let how = if self.share == Share::Whole { Lock::lock } else { Lock::share };
        let held = take(self.project.sources(), how, Say::AfterAWhile, self.on_locked, reporter).await?;
        *guard(&self.sources) = Some(held);
        Ok(())
    }

    /// The tree was sent.
    pub(super) fn tree_was_sent(&self) {
        if self.share == Share::Parts {
            guard(&self.sources).take();
        }
    }

    /// How to reach the agent: whether other runs of this state directory are in the workspace.
    pub(super) fn line(&self) -> Line {
        guard(&self.place).as_ref().map_or(Line::Main, |place| place.line)
    }

    /// Waits until this run is alone in the workspace, because its container has to be changed.
    ///
    /// # Errors
    /// The lock's.
    pub(super) async fn be_alone(&self, reporter: &Reporter) -> Result<(), BuildError> {
        let Some(mut place) = guard(&self.place).take() else { return Ok(()) };
        // As long as the door is held, no other run enters.
        drop(place.inside);
        place.inside = take(place.lock.clone(), Lock::lock, Say::AtOnce, self.on_locked, reporter).await?;
        place.line = Line::Main;
        *guard(&self.place) = Some(place);
        Ok(())
    }

    /// The workspace was entered: other runs may follow.
    ///
    /// # Errors
    /// The lock's.
    pub(super) fn entered(&self) -> Result<(), StateError> {
        match &mut *guard(&self.place) {
            Some(place) if place.door.is_some() => {
                place.inside.share()?;
                place.door = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Waits for this client's turn: the agent opens the source root then. Returns `take` of that
    /// reply.
    ///
    /// # Errors
    /// [`BuildError::Locked`] where `--no-wait` says not to wait, and the session's.
    pub(super) async fn turn<T>(
        &self,
        session: &mut Session,
        take: impl Fn(Reply) -> Result<T, Reply>,
        reporter: &Reporter,
    ) -> Result<(T, Order), BuildError> {
        let mut wait: Option<Wait> = None;
        loop {
            let reply = session.reply("that the workspace is open", |reply| match reply {
                Reply::Waiting { client, why } => Ok(Err((client, why))),
                other => take(other).map(Ok),
            });
            tokio::select! {
                reply = reply => match reply? {
                    Ok(opened) => return Ok((opened, if wait.is_some() { Order::AfterOthers } else { Order::First })),
                    Err((Client { pid, command, .. }, _)) if self.on_locked == OnLocked::Fail => {
                        return Err(BuildError::Locked { holder: Some(Holder { pid, command }) });
                    }
                    Err((client, why)) => {
                        guard(&self.sources).take();
                        // A process on another machine or in another PID namespace cannot be
                        // checked.
                        let is_here = client.state == self.state.id()?;
                        let holder = Holder { pid: client.pid, command: client.command };
                        // A wait is reported once, and again only when the holder is stopped.
                        let said = wait.as_ref().map(|_| Holding::Runs);
                        wait.insert(Wait { holder, why: waits_for(&why), is_here, said }).tell(reporter);
                    }
                },
                () = tokio::time::sleep(LOOK_AGAIN), if wait.is_some() => {
                    if let Some(wait) = &mut wait {
                        wait.tell(reporter);
                    }
                }
            }
        }
    }

    /// Waits until the source root is locked for this run alone, for the apply, unless it is.
    ///
    /// # Errors
    /// The lock's, and recovery's.
    pub(super) async fn begin_apply(&self, reporter: &Reporter) -> Result<(), BuildError> {
        if self.share == Share::Whole || guard(&self.applying).is_some() {
            return Ok(());
        }
        self.tree_was_sent();
        let lock = self.project.sources();
        let held = detached(move || lock.lock()).await??;
        // There is one journal: another run may have died in its apply since this one began.
        if !self.project.journals().is_empty() {
            recover::recover(&self.project, &self.state, reporter)?;
        }
        *guard(&self.applying) = Some(held);
        Ok(())
    }

    /// The products are in their places, or will not be.
    pub(super) fn end_apply(&self) {
        guard(&self.applying).take();
    }
}

impl Place {
    async fn enter(
        project: &Project,
        name: &str,
        on_locked: OnLocked,
        reporter: &Reporter,
    ) -> Result<Place, BuildError> {
        let door = take(project.door(name), Lock::lock, Say::AfterAWhile, on_locked, reporter).await?;
        let lock = project.place(name);
        let (inside, line) = match lock.try_lock()? {
            Ok(alone) => (alone, Line::Main),
            // The holder shares it: an exclusive holder would also hold the door.
            Err(_) => (lock.share()?, Line::Further),
        };
        Ok(Place { lock, door: Some(door), inside, line })
    }
}

/// A run that is waited for.
struct Wait {
    holder: Holder,
    why: WaitsFor,
    /// Whether its process can be checked.
    is_here: bool,
    /// The last report.
    said: Option<Holding>,
}

impl Wait {
    fn tell(&mut self, reporter: &Reporter) {
        let Holder { pid, command } = &self.holder;
        let now = if self.is_here && is_stopped(*pid) { Holding::IsStopped } else { Holding::Runs };
        if self.said.is_none() || now == Holding::IsStopped && self.said != Some(now) {
            let (pid, command) = (*pid, command.clone());
            reporter.emit(Event::WaitingForLock { pid, command, holder: now, why: self.why.clone() });
            self.said = Some(now);
        }
    }
}

fn waits_for(why: &Conflict) -> WaitsFor {
    match why {
        Conflict::Everything => WaitsFor::OutputsToBeNamed,
        Conflict::Output(path) => WaitsFor::Output(String::from_utf8_lossy(path).into_owned()),
        Conflict::Settings => WaitsFor::OtherSettings,
    }
}

/// This process, described for the clients that wait for it.
pub(super) fn client(run: &Run, state: &State) -> Result<Client, StateError> {
    let (run, state) = (run.id.clone(), state.id()?);
    Ok(Client { run, state, pid: std::process::id(), command: own_command_line() })
}

fn guard<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When a wait is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Say {
    AtOnce,
    AfterAWhile,
}

async fn take(
    lock: Lock,
    how: fn(&Lock) -> Result<Held, StateError>,
    say: Say,
    on_locked: OnLocked,
    reporter: &Reporter,
) -> Result<Held, BuildError> {
    let wait = |holder| Wait { holder, why: WaitsFor::Turn, is_here: true, said: None };
    let mut waits: Option<Wait> = None;
    if say == Say::AtOnce {
        match lock.try_lock()? {
            Ok(held) => return Ok(held),
            Err(holder) if on_locked == OnLocked::Fail => return Err(BuildError::Locked { holder }),
            Err(holder) => waits = holder.map(wait),
        }
    }
    let holding = lock.clone();
    let mut locked = pin!(detached(move || how(&holding)));
    loop {
        if let Some(waits) = &mut waits {
            waits.tell(reporter);
        }
        tokio::select! {
            locked = &mut locked => return Ok(locked??),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        let holder = lock.holder();
        if on_locked == OnLocked::Fail {
            return Err(BuildError::Locked { holder });
        }
        if let Some(holder) = holder {
            let said = waits.take().and_then(|waits| waits.said);
            waits = Some(Wait { said, ..wait(holder) });
        }
    }
}
