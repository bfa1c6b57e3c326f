//! The two locks of a run. The workspace's (or scratch directory's) is held to the run's end: one build at a time works there. The
//! source root's is shared while the tree is looked at and sent, and exclusive while products are applied, so that builds in
//! different workspaces go on side by side. Where the tree itself is mounted, and for a watch's builds, it is exclusive to the run's end.
//!
//! The workspace's is always taken first: who holds the source root's waits for nobody but who applies. Each wait says for whom.

use std::{
    pin::pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{BuildError, Interrupts, detached, recover};
use crate::{
    plan::{Engine, OnLocked, Plan, Tier},
    report::{
        Reporter,
        events::{Event, Holding},
    },
    state::{Held, Holder, Lock, Project, State},
    sys::process::is_stopped,
    workspace,
};

/// How often it is looked whether the holder of a lock was stopped; who applies products is waited for so long in silence.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a run holds.
pub(super) struct Locks {
    pub(super) project: Project,
    state: State,
    _place: Option<Held>,
    sources: Mutex<Option<Held>>,
    share: Share,
}

/// How a run uses the source root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// It reads the tree, and later applies products.
    Parts,
    /// It works in the tree itself, or has to tell its own changes from others'.
    Whole,
}

impl Locks {
    /// Takes what a run of `plan` needs before it looks at the tree, and makes good what an earlier run was kept from finishing.
    ///
    /// # Errors
    /// [`BuildError::Locked`] where `--no-wait` says not to wait; the state directory's; what recovery fails with.
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
        let place = match (&plan.engine.value, &plan.scratch, plan.tier.value) {
            (Engine::Host, Some(scratch), _) => Some(scratch.value.directory.to_string_lossy().into_owned()),
            (Engine::Docker(_), _, Tier::Warm) if !is_mounted => Some(workspace::name(plan, project, state)?),
            _ => None,
        };
        let place = match place {
            Some(name) => {
                let taking = take(project.place(&name), Lock::lock, Say::AtOnce, on_locked, reporter);
                Some(interrupts.unless(taking).await??)
            }
            None => None,
        };
        let share = if is_mounted { Share::Whole } else { share };
        let alone = share == Share::Whole || recover::is_owed(project, state);
        let how = if alone { Lock::lock } else { Lock::share };
        let taking = take(project.sources(), how, Say::AfterAWhile, on_locked, reporter);
        let mut held = interrupts.unless(taking).await??;
        if alone {
            {
                let _undisturbed = interrupts.suspension().undisturbed().await;
                recover::recover(project, state, reporter)?;
            }
            if share == Share::Parts {
                drop(held);
                let taking = take(project.sources(), Lock::share, Say::AfterAWhile, on_locked, reporter);
                held = interrupts.unless(taking).await??;
            }
        }
        let sources = Mutex::new(Some(held));
        Ok(Locks { project: project.clone(), state: state.clone(), _place: place, sources, share })
    }

    /// The tree was looked at and sent.
    pub(super) fn tree_was_sent(&self) {
        if self.share == Share::Parts {
            self.sources.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// Waits until the source root is this run's alone, so that products can be applied; it is as long as what this gives is held.
    ///
    /// # Errors
    /// The lock's, and what recovery fails with.
    pub(super) async fn apply(&self, reporter: &Reporter) -> Result<Option<Held>, BuildError> {
        if self.share == Share::Whole {
            return Ok(None);
        }
        self.tree_was_sent();
        let lock = self.project.sources();
        let held = detached(move || lock.lock()).await??;
        // There is one journal: that of a run that died in the middle of its apply since this one began comes first.
        if self.project.journal_path().exists() {
            recover::recover(&self.project, &self.state, reporter)?;
        }
        Ok(Some(held))
    }
}

/// Takes the lock of what a workspace's own command works in, for `fastbuild workspace shell`.
pub(super) async fn take_place(
    project: &Project,
    name: &str,
    reporter: &Reporter,
) -> Result<Held, BuildError> {
    take(project.place(name), Lock::lock, Say::AtOnce, OnLocked::Wait, reporter).await
}

/// When a wait is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Say {
    AtOnce,
    AfterAWhile,
}

async fn take(
    lock: Lock,
    how: fn(&Lock) -> Result<Held, crate::state::StateError>,
    say: Say,
    on_locked: OnLocked,
    reporter: &Reporter,
) -> Result<Held, BuildError> {
    if say == Say::AtOnce {
        match lock.try_lock()? {
            Ok(held) => return Ok(held),
            Err(holder) if on_locked == OnLocked::Fail => return Err(BuildError::Locked { holder }),
            Err(holder) => tell(holder.as_ref(), &mut None, reporter),
        }
    }
    let holding = lock.clone();
    let mut locked = pin!(detached(move || how(&holding)));
    let mut said = (say == Say::AtOnce).then_some(Holding::Runs);
    loop {
        tokio::select! {
            locked = &mut locked => return Ok(locked??),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        let holder = lock.holder();
        if on_locked == OnLocked::Fail {
            return Err(BuildError::Locked { holder });
        }
        tell(holder.as_ref(), &mut said, reporter);
    }
}

fn tell(holder: Option<&Holder>, said: &mut Option<Holding>, reporter: &Reporter) {
    let Some(Holder { pid, command }) = holder else { return };
    let now = if is_stopped(*pid) { Holding::IsStopped } else { Holding::Runs };
    if said.is_none() || now == Holding::IsStopped && *said != Some(now) {
        reporter.emit(Event::WaitingForLock { pid: *pid, command: command.clone(), holder: now });
        *said = Some(now);
    }
}
