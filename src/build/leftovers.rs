//! Removes what killed runs left on an engine, beside a build.

use std::collections::{BTreeMap, BTreeSet};

use tokio::task::JoinHandle;

use crate::{
    engine::{ContainerSummary, Docker, Owned, Removed, Sizes, labels},
    report::{
        Reporter,
        events::{Event, Warning},
    },
    state::{DeadRun, Project, State},
    workspace::storage::remove_volumes,
};

/// All containers of fastbuild. Docker fails a listing when a container vanishes during it, which
/// happens during removals; then the list is requested again.
async fn list_ours(docker: &Docker) -> Option<Vec<ContainerSummary>> {
    for _ in 0..3 {
        if let Ok(containers) = docker.list(&[labels::RUN.to_owned()], Sizes::Skip).await {
            return Some(containers);
        }
    }
    None
}

/// Removes what our killed runs left on this engine, beside the build.
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
        // Another project's next run clears the leftovers beside that project's outputs.
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
        for (run, names) in left {
            let mut gone = true;
            for container in names {
                match docker.remove(&container, &Owned::by_run(run)).await {
                    Ok(Removed::Now) => reporter.emit(Event::Warned(Warning::LeftoverRemoved { container })),
                    Ok(Removed::Already | Removed::NotOurs) => {}
                    Err(_) => gone = false,
                }
            }
            gone &= remove_volumes(&docker, &Owned::by_run(run)).await.is_ok();
            if gone && !owed.contains(run) {
                state.forget_run(run);
            }
        }
    })
}
