//! What killed runs left on an engine -> nothing, beside a build.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::task::JoinHandle;

use crate::{
    engine::{ContainerSummary, Docker, Owned, Removed, Sizes, labels},
    report::{
        Reporter,
        events::{Event, Warning},
    },
    state::{DeadRun, Project, State},
};

/// How often, and how long after each other, a volume is removed that is in use.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// All containers of fastbuild's. Docker fails a listing in which a container vanishes, which those do that are being
/// removed; then it is asked again.
async fn list_ours(docker: &Docker) -> Option<Vec<ContainerSummary>> {
    for _ in 0..3 {
        if let Ok(containers) = docker.list(&[labels::RUN.to_owned()], Sizes::Skip).await {
            return Some(containers);
        }
    }
    None
}

/// Whether it is gone. A container that goes by itself has its volumes a moment longer than its name.
async fn remove_volume(docker: &Docker, volume: &str, run: &str) -> bool {
    for _ in 0..LOOKS {
        if docker.remove_volume(volume, &Owned::by_run(run)).await.is_ok() {
            return true;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    false
}

/// Removes the volumes that a run's container has left: whoever removes one by hand seldom takes them along. Whether they are gone.
pub(super) async fn remove_volumes(docker: &Docker, run: &str) -> bool {
    let of_run = [format!("{}={run}", labels::RUN), format!("{}={}", labels::TIER, labels::VOLUME)];
    let Ok(volumes) = docker.list_volumes(&of_run).await else { return false };
    let mut gone = true;
    for volume in volumes {
        gone &= remove_volume(docker, &volume.name, run).await;
    }
    gone
}

/// Removes what killed runs of ours left on this engine, beside the build.
pub(super) fn remove(
    docker: &Docker,
    state: &State,
    project: &Project,
    engine: &str,
    reporter: &Reporter,
) -> JoinHandle<()> {
    let (docker, state, engine, reporter) =
        (docker.clone(), state.clone(), engine.to_owned(), reporter.clone());
    let own = project.key().to_owned();
    tokio::spawn(async move {
        let dead: Vec<_> = state.dead_runs().into_iter().filter(|run| run.engine == engine).collect();
        if dead.is_empty() {
            return;
        }
        let Some(containers) = list_ours(&docker).await else { return };
        // What such a run left beside another project's outputs is for that project's next run to clear.
        let is_owed =
            |run: &&DeadRun| run.project != own && !(run.stages.is_empty() && run.placeholders.is_empty());
        let owed: BTreeSet<_> = dead.iter().filter(is_owed).map(|run| run.id.as_str()).collect();
        let mut left: BTreeMap<_, _> = dead.iter().map(|run| (run.id.as_str(), Vec::new())).collect();
        for container in containers {
            let run = container.labels.get(labels::RUN).cloned().unwrap_or_default();
            if let Some(names) = left.get_mut(run.as_str()) {
                names.push(container.name);
            }
        }
        let filter = [labels::RUN.to_owned(), format!("{}={}", labels::TIER, labels::VOLUME)];
        // Where they cannot be listed, the next start looks again.
        let Ok(volumes) = docker.list_volumes(&filter).await else { return };
        for (run, names) in left {
            let mut gone = true;
            for container in names {
                match docker.remove(&container, &Owned::by_run(run)).await {
                    Ok(Removed::Now) => reporter.emit(Event::Warned(Warning::LeftoverRemoved { container })),
                    Ok(Removed::Already | Removed::NotOurs) => {}
                    Err(_) => gone = false,
                }
            }
            for volume in
                volumes.iter().filter(|volume| volume.labels.get(labels::RUN).is_some_and(|of| of == run))
            {
                gone &= remove_volume(&docker, &volume.name, run).await;
            }
            if gone && !owed.contains(run) {
                state.forget_run(run);
            }
        }
    })
}
