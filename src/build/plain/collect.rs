//! The container's products -> staged outputs: asked for one after the other, staged on a blocking thread as they come.

use std::{io, sync::Arc};

use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::super::{
    BuildError, Running, blocking,
    channel::{self, Chunk, ChunkReader},
    container::Site,
    warm::{Sources, collect::uploaded_at},
};
use crate::{
    archive::reader::Naming,
    engine::{ArchiveStream, ContainerId, EngineError},
    outputs::{
        archived,
        host::HostSide,
        stage::{Scope, Staged, Staging, StagingOptions, stage_path},
        target::Target,
    },
    plan::{Output, Outputs, Plan, Take},
    report::events::{Amount, Event, Phase},
    tree::RelPath,
};

/// What collecting needs to know of the rest of the build.
pub(super) struct Collecting<'a> {
    pub(super) site: &'a Site<'a>,
    /// Whose outputs come back.
    pub(super) plan: &'a Plan,
    pub(super) container: &'a ContainerId,
    /// Where the source root is in the container, links resolved.
    pub(super) workdir: &'a str,
    /// What went in; none where the host's tree is mounted.
    pub(super) sources: Option<Arc<Sources>>,
    /// Where caches lie: absolute paths. They are no part of any output.
    pub(super) caches: Vec<String>,
}

/// Where one output comes from and goes to.
struct Wanted {
    spec: String,
    container: String,
    naming: Naming,
    scope: Scope,
    target: Target,
    /// Where its target lies in the source tree, if it does.
    uploaded_at: Option<RelPath>,
    /// Caches in it, relative to it.
    caches: Vec<RelPath>,
}

impl Collecting<'_> {
    /// Stages all outputs. Nothing of the host's is changed.
    pub(super) async fn collect(&self) -> Result<Vec<Staged>, BuildError> {
        let phase = Running::begin(Phase::Collect, None, self.site.reporter);
        let mut staged = Vec::new();
        let mut sum = Amount::default();
        for (number, wanted) in self.wanted()?.into_iter().enumerate() {
            let (output, received) = self.collect_one(number, wanted, sum).await?;
            sum = received;
            staged.push(output);
        }
        phase.end(sum);
        Ok(staged)
    }

    fn wanted(&self) -> Result<Vec<Wanted>, BuildError> {
        match &self.plan.outputs.value {
            Outputs::Everything => Ok(vec![Wanted {
                spec: self.plan.workdir.value.clone(),
                container: self.workdir.to_owned(),
                naming: Naming::Prefixed,
                scope: Scope::Everything,
                target: Target::directory(&self.plan.source.value)?,
                uploaded_at: Some(RelPath::root()),
                caches: self.caches_in(&self.plan.workdir.value),
            }]),
            Outputs::Named(outputs) => outputs.iter().map(|output| self.named(output)).collect(),
        }
    }

    fn named(&self, output: &Output) -> Result<Wanted, BuildError> {
        let (container, naming) = match output.take {
            Take::Itself => (output.container.clone(), Naming::Prefixed),
            Take::Contents => (format!("{}/.", output.container), Naming::Contents),
        };
        let target = Target::named(&output.host)?;
        let uploaded_at = uploaded_at(output, &target, self.plan);
        let caches = self.caches_in(&output.container);
        let (spec, scope) = (output.spec.clone(), Scope::Named);
        Ok(Wanted { spec, container, naming, scope, target, uploaded_at, caches })
    }

    /// An output that lies in a cache, or is one, was asked for by its name.
    fn caches_in(&self, output: &str) -> Vec<RelPath> {
        let below = |cache: &String| {
            RelPath::new(cache.strip_prefix(output)?.strip_prefix('/')?.as_bytes().to_vec()).ok()
        };
        self.caches.iter().filter_map(below).collect()
    }

    async fn collect_one(
        &self,
        number: usize,
        wanted: Wanted,
        before: Amount,
    ) -> Result<(Staged, Amount), BuildError> {
        let archive = match self.site.docker.get(self.container, &wanted.container).await {
            Ok(archive) => archive,
            Err(EngineError::NotThere { path, .. }) => {
                return Err(BuildError::MissingOutput { spec: wanted.spec, path, there: None });
            }
            Err(error) => return Err(error.into()),
        };
        // Before it is made: a run that is killed right after it must not leave what nobody knows of.
        self.site.run.note_stage(&stage_path(&wanted.target, &self.site.run.id, number)?)?;
        let (sender, reader) = channel::to_blocking();
        let staging = self.stage(number, wanted, before, reader);
        // Both run to their end, whichever fails: a staging directory must not outlive its staging.
        let (staged, fed) = tokio::join!(staging, feed(archive, sender));
        // The engine's failure is the reason for whatever the staging made of the broken stream.
        fed?;
        staged
    }

    /// Stages one output on a blocking thread.
    async fn stage(
        &self,
        number: usize,
        wanted: Wanted,
        before: Amount,
        reader: ChunkReader,
    ) -> Result<(Staged, Amount), BuildError> {
        let (sources, record) = (self.sources.clone(), Arc::clone(&self.site.record));
        let (run, apply) = (self.site.run.id.clone(), self.plan.apply.value);
        let reporter = self.site.reporter.clone();
        blocking(move || {
            let Wanted { spec, naming, scope, target, uploaded_at, caches, .. } = wanted;
            let sum =
                |done: Amount| Amount { files: before.files + done.files, bytes: before.bytes + done.bytes };
            let progress =
                |done| reporter.emit(Event::PhaseProgress { phase: Phase::Collect, done: sum(done) });
            let uploaded = sources.as_ref().map(|sources| sources.uploaded()).zip(uploaded_at);
            let options = StagingOptions { run: &run, record: &record, apply };
            let host = match scope {
                Scope::Named => HostSide::look(&target, &record)?,
                // Of a whole source tree hardly anything changes; what does is looked at.
                Scope::Everything => None,
            };
            let staging = Staging::begin(&spec, number, target, scope, host, uploaded, options)?;
            let (staged, received) = archived::stage(staging, reader, naming, &caches, &progress)?;
            Ok((staged, sum(received)))
        })
        .await?
    }
}

/// Moves an archive into the channel. A reader that went away has its own reason to tell.
async fn feed(mut archive: ArchiveStream, to: mpsc::Sender<Chunk>) -> Result<(), BuildError> {
    while let Some(chunk) = archive.next().await {
        match chunk {
            Ok(chunk) => {
                if to.send(Ok(chunk)).await.is_err() {
                    return Ok(());
                }
            }
            Err(error) => {
                // As above.
                let _ = to.send(Err(io::Error::other(error.to_string()))).await;
                return Err(error.into());
            }
        }
    }
    Ok(())
}
