//! The container's products -> staged outputs: asked for one after the other, staged on a blocking thread as they come.

use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::{
    BuildError, Running, blocking,
    channel::{self, Chunk, ChunkReader},
    error::Listing,
};
use crate::{
    archive::{
        pack::Packed,
        reader::{Limits, Naming, Reader},
    },
    engine::{ArchiveStream, ContainerId, Docker, EngineError},
    outputs::{
        own::OwnFiles,
        record::Record,
        stage::{Contents, Scope, Staged, Staging, StagingOptions, Uploaded, stage_path},
        target::{Target, native_join},
    },
    plan::{Output, Outputs, Plan, Take},
    report::{
        Reporter,
        events::{Amount, Event, Phase},
    },
    state::Run,
    tree::{RelPath, scan::Scan},
};

/// Entries that are looked at to say what is there in place of a missing output.
const LISTED_ENTRIES: u64 = 20_000;
/// Bytes that are received for it: an engine sends contents with the names.
const LISTED_BYTES: u64 = 1 << 30;
/// Names that are shown of them.
const LISTED_NAMES: usize = 12;

/// What collecting needs to know of the rest of the build.
pub struct Collecting<'a> {
    pub docker: &'a Docker,
    pub container: &'a ContainerId,
    pub plan: &'a Plan,
    pub run: &'a Run,
    /// Where the source root is in the container, every link resolved.
    pub workdir: &'a str,
    /// What went in, as far as it tells something about what comes back.
    pub uploaded: Option<(Arc<Scan>, Arc<Packed>)>,
    /// What the image has in the working directory.
    pub own: Arc<OwnFiles>,
    /// Where caches lie: absolute paths.
    pub caches: Vec<String>,
    pub record: Arc<Record>,
    pub reporter: &'a Reporter,
}

/// Where one output comes from and goes to.
struct Wanted {
    spec: String,
    container: String,
    naming: Naming,
    scope: Scope,
    target: Target,
    /// Where its target lies in the source tree that was uploaded, if it does.
    uploaded_at: Option<RelPath>,
}

impl Collecting<'_> {
    /// Stages all outputs. Nothing of the host's is changed.
    pub async fn collect(&self) -> Result<Vec<Staged>, BuildError> {
        let phase = Running::begin(Phase::Collect, None, self.reporter);
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
        Ok(Wanted { spec: output.spec.clone(), container, naming, scope: Scope::Named, target, uploaded_at })
    }

    async fn collect_one(
        &self,
        number: usize,
        wanted: Wanted,
        before: Amount,
    ) -> Result<(Staged, Amount), BuildError> {
        let archive = match self.docker.get(self.container, &wanted.container).await {
            Ok(archive) => archive,
            Err(EngineError::NotThere { path, .. }) => {
                let there = self.list_around(&path).await;
                return Err(BuildError::MissingOutput { spec: wanted.spec, path, there });
            }
            Err(error) => return Err(error.into()),
        };
        // Before it is made: a run that is killed right after it must not leave what nobody knows of.
        self.run.note_stage(&stage_path(&wanted.target, &self.run.id, number)?)?;
        let (sender, reader) = channel::to_blocking();
        let (again_sender, again) = mpsc::channel(1);
        let staging = self.stage(number, wanted, before, reader, again_sender);
        let feeding = async {
            feed(archive, sender).await?;
            self.answer_refetches(again).await
        };
        // Both run to their end, whichever fails: a staging directory must not outlive its staging.
        let (staged, fed) = tokio::join!(staging, feeding);
        // The engine's failure is the reason for whatever the staging made of the broken stream.
        fed?;
        staged
    }

    /// Stages one output on a blocking thread. Files that have to be asked for again go through `again`.
    async fn stage(
        &self,
        number: usize,
        wanted: Wanted,
        before: Amount,
        reader: ChunkReader,
        again: mpsc::Sender<Again>,
    ) -> Result<(Staged, Amount), BuildError> {
        let (uploaded, record) = (self.uploaded.clone(), Arc::clone(&self.record));
        let own = match wanted.scope {
            Scope::Everything => Arc::clone(&self.own),
            Scope::Named => Arc::new(OwnFiles::default().beside_caches(self.caches_in(&wanted.container))),
        };
        let (run, apply, reporter) = (self.run.id.clone(), self.plan.apply.value, self.reporter.clone());
        blocking(move || {
            let uploaded = uploaded.as_ref().map(|(scan, packed)| Uploaded {
                manifest: &scan.manifest,
                contents: Contents::Sent(&packed.sent),
                looked_at: scan.looked_at,
            });
            let uploaded = uploaded.zip(wanted.uploaded_at);
            let options = StagingOptions { run: &run, record: &record, apply };
            let mut staging =
                Staging::begin(&wanted.spec, number, wanted.target, wanted.scope, uploaded, options)?
                    .beside(own);
            let sum =
                |done: Amount| Amount { files: before.files + done.files, bytes: before.bytes + done.bytes };
            let progress =
                |done| reporter.emit(Event::PhaseProgress { phase: Phase::Collect, done: sum(done) });
            staging.receive(reader, wanted.naming, &progress)?;
            for path in staging.refetch() {
                let (answer, reader) = channel::to_blocking();
                let container = match path.is_root() {
                    true => wanted.container.clone(),
                    false => format!("{}/{}", wanted.container.trim_end_matches("/."), path_text(&path)?),
                };
                if again.blocking_send(Again { container, answer }).is_err() {
                    break;
                }
                staging.receive_again(&path, reader)?;
            }
            let received = sum(staging.received());
            Ok((staging.finish()?, received))
        })
        .await?
    }

    /// The caches that lie in an output, relative to it. An output that lies in a cache, or is one, was asked for by its name.
    fn caches_in(&self, output: &str) -> Vec<RelPath> {
        let below = |cache: &String| {
            let rest = cache.strip_prefix(output.trim_end_matches("/."))?.strip_prefix('/')?;
            RelPath::new(rest.as_bytes()).ok()
        };
        self.caches.iter().filter_map(below).collect()
    }

    async fn answer_refetches(&self, mut again: mpsc::Receiver<Again>) -> Result<(), BuildError> {
        while let Some(Again { container, answer }) = again.recv().await {
            feed(self.docker.get(self.container, &container).await?, answer).await?;
        }
        Ok(())
    }

    /// What lies in the nearest directory above a missing path that is there.
    async fn list_around(&self, path: &str) -> Option<Listing> {
        let mut above = path.trim_end_matches("/.").trim_end_matches('/');
        loop {
            above = &above[..above.rfind('/')?];
            let directory = if above.is_empty() { "/" } else { above };
            match self.docker.get(self.container, directory).await {
                Ok(archive) => return list(directory, archive).await,
                Err(EngineError::NotThere { .. }) if !above.is_empty() => {}
                Err(_) => return None,
            }
        }
    }
}

/// Where an output's target lies in the source tree, if it does. Only when it is the very path that went in does the
/// source tree tell what the host had there.
pub(super) fn uploaded_at(output: &Output, target: &Target, plan: &Plan) -> Option<RelPath> {
    output.below_source.clone().filter(|path| native_join(&plan.source.value, path) == target.root())
}

/// A path that has to be asked for again, and where its archive goes.
struct Again {
    container: String,
    answer: mpsc::Sender<Chunk>,
}

fn path_text(path: &RelPath) -> Result<&str, BuildError> {
    std::str::from_utf8(path.as_bytes()).map_err(|_| BuildError::NotText { path: path.clone() })
}

/// Moves an archive into the channel. A reader that went away has its own reason to tell.
pub(super) async fn feed(mut archive: ArchiveStream, to: mpsc::Sender<Chunk>) -> Result<(), BuildError> {
    while let Some(chunk) = archive.next().await {
        match chunk {
            Ok(chunk) => {
                if to.send(Ok(chunk)).await.is_err() {
                    return Ok(());
                }
            }
            Err(error) => {
                let told = std::io::Error::other(error.to_string());
                // As above.
                let _ = to.send(Err(told)).await;
                return Err(error.into());
            }
        }
    }
    Ok(())
}

async fn list(directory: &str, archive: ArchiveStream) -> Option<Listing> {
    let (sender, reader) = channel::to_blocking();
    let reading = blocking(move || {
        let limits = Limits { entries: LISTED_ENTRIES, bytes: LISTED_BYTES };
        let mut reader = Reader::new(reader, Naming::Prefixed, limits);
        let mut names = Vec::new();
        let mut more = 0;
        loop {
            match reader.next_entry() {
                Ok(Some(entry)) if entry.path.components().count() != 1 => {}
                Ok(Some(entry)) if names.len() < LISTED_NAMES => names.push(entry.path.to_string()),
                Ok(Some(_)) => more += 1,
                Ok(None) => return (names, Some(more)),
                Err(_) => return (names, None),
            }
        }
    });
    let (read, _) = tokio::join!(reading, feed(archive, sender));
    let (names, more) = read.ok()?;
    Some(Listing { directory: directory.into(), names, more })
}
