//! The automatic limits: once a day, a build removes an engine's workspaces that exceed them.

use std::{path::Path, time::Duration};

use crate::{
    engine::Docker,
    outputs::safe::list as safe,
    plan::Plan,
    report::{
        Reporter,
        events::{Event, Limit},
    },
    spec::{RecoverPlan, WorkspacePlan},
    state::{State, replace_file},
    workspace::{
        list::{Limits, Outlived, Pruned, prune, prune_here},
        saved_state::now,
        scratch,
    },
};

/// How often the limits are applied.
const EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// The limits of a plan; zero means no limit.
pub fn limits(plan: &WorkspacePlan) -> Limits {
    Limits {
        older_than: Some(plan.max_age.value).filter(|age| !age.is_zero()),
        total_size: Some(plan.max_size.value).filter(|bytes| *bytes > 0),
    }
}

/// Starts to remove the workspaces that exceed the plan's limits, in parallel with the build, and
/// reports them. `None` if done within the last day. The caller's project lock protects its
/// workspace.
pub fn look_after(
    docker: &Docker,
    state: &State,
    plan: &Plan,
    reporter: &Reporter,
) -> Option<tokio::task::JoinHandle<()>> {
    let engine = plan.engine.value.to_string();
    let limits = limits(&plan.workspace);
    if !is_due(&state.pruned_path(&engine), now()) {
        return None;
    }
    let (docker, state, reporter) = (docker.clone(), state.clone(), reporter.clone());
    Some(tokio::spawn(async move {
        match prune(&docker, &state, &engine, &limits).await {
            Ok(pruned) => tell(pruned, &reporter),
            // Best effort: retried tomorrow.
            Err(error) => tracing::warn!(%error, "could not look after the limits of workspaces"),
        }
    }))
}

/// The same for the scratch directories of this machine.
pub fn look_after_here(
    state: &State,
    plan: &Plan,
    reporter: &Reporter,
) -> Option<tokio::task::JoinHandle<()>> {
    let limits = limits(&plan.workspace);
    if limits == Limits::default() || !is_due(&state.pruned_path(&scratch::engine()), now()) {
        return None;
    }
    let (state, reporter) = (state.clone(), reporter.clone());
    Some(tokio::task::spawn_blocking(move || match prune_here(&state, &limits) {
        Ok(pruned) => tell(pruned, &reporter),
        Err(error) => tracing::warn!(%error, "could not look after the limits of scratch directories"),
    }))
}

/// The same for the safe place, not reported: the user was told when the files were moved there.
pub fn look_after_safe_place(state: &State, plan: &RecoverPlan) {
    if !is_due(&state.pruned_path("the safe place"), now()) {
        return;
    }
    let (state, max_age, max_size) = (state.clone(), plan.max_age.value, plan.max_size.value);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = safe::prune(&state, safe::Limits { max_age, max_size }) {
            tracing::warn!(%error, "could not look after the limits of the safe place");
        }
    });
}

fn tell(pruned: Pruned, reporter: &Reporter) {
    for (workspace, why) in pruned.removed {
        let limit = match why {
            Outlived::Age(_) => Limit::Age,
            Outlived::Size => Limit::Size,
        };
        reporter.emit(Event::WorkspaceRemoved { name: workspace.name, source: workspace.source, limit });
    }
    for (workspace, error) in pruned.failed {
        tracing::warn!(workspace = workspace.name, %error, "could not remove a workspace");
    }
}

/// Whether a day has passed since the time in the file at `stamp`. Writes `now` there before the
/// work, so that builds that start meanwhile do not repeat it. Never due if that cannot be written.
fn is_due(stamp: &Path, now: u64) -> bool {
    let last: Option<u64> = std::fs::read_to_string(stamp).ok().and_then(|text| text.trim().parse().ok());
    // A time in the future was written by a wrong clock.
    let is_fresh = last.is_some_and(|last| last <= now && now - last < EVERY.as_secs());
    !is_fresh && replace_file(stamp, |out| writeln!(out, "{now}")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_looked_after_once_a_day() {
        let home = tempfile::tempdir().unwrap();
        let stamp = home.path().join("pruned");
        let day = EVERY.as_secs();
        for (now, due) in
            [(1000, true), (1001, false), (1000 + day - 1, false), (1000 + day, true), (5, true), (6, false)]
        {
            assert_eq!(is_due(&stamp, now), due, "{now}");
        }
        std::fs::write(&stamp, "damaged").unwrap();
        assert!(is_due(&stamp, 7));
        assert!(!is_due(&home.path().join("no/such/directory"), 7));
    }
}
