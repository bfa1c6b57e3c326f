//! The command's products -> staged outputs. The workspace reports the differences, the staging
//! selects the contents that it needs, and only those are sent.
//!
//! In the source tree the workspace itself knows what changed since the command started, and at
//! that time the host had the same. For an output elsewhere, its place on the host is scanned while
//! the command runs, and the workspace gets a summary.

use std::{path::Path, pin::Pin, sync::Arc};

use tokio::sync::{mpsc, oneshot};

use super::{
    super::{BuildError, error::Listing, places},
    upload::Sources,
};
use crate::{
    agent::{
        channel::{self, ChunkReader},
        client::Session,
        protocol::{Beside, Blob, Follow, Products, Query, Reply, Request},
    },
    build::{
        tasks::{Running, blocking, detached, own_place},
        warm::replies::{node_reader, nonsense},
    },
    entry::{Amount, RelPath},
    outputs::{
        OutputError,
        apply::{Scope, Staged},
        host::HostSide,
        ops::{Action, Over},
        record::Record,
        stage::{Listed, Staging, StagingOptions},
        stage_dir::stage_path,
        target::Target,
    },
    plan::{Output, Outputs, Plan, Take},
    report::{
        Reporter,
        events::{Direction, Event, Phase, Warning, Why},
    },
    spec::Explain,
    state::{Project, Run},
    text::Escaped,
    tree::{
        ignore::{self, Rules},
        summary::Differing,
    },
};

/// The scans of the outputs' places on the host, under way.
pub struct Looking(Vec<Option<Look>>);

type Look = Pin<Box<dyn Future<Output = Result<Result<Option<HostSide>, OutputError>, BuildError>> + Send>>;

/// Begins to scan one output's place.
fn look_at(output: &Output, record: &Arc<Record>) -> Look {
    let (host, record) = (output.host.clone(), Arc::clone(record));
    Box::pin(detached(move || Target::named(&host).and_then(|target| HostSide::look(&target, &record))))
}

/// Begins to scan the places of all outputs outside of the source tree.
pub fn look(plan: &Plan, record: &Arc<Record>) -> Looking {
    let Outputs::Named(outputs) = &plan.outputs.value else { return Looking(Vec::new()) };
    let look = |output: &Output| own_place(output, plan).is_none().then(|| look_at(output, record));
    Looking(outputs.iter().map(look).collect())
}

/// The data that collecting needs from the rest of the build.
pub struct Collecting<'a> {
    pub session: &'a mut Session,
    pub plan: &'a Plan,
    pub run: &'a Run,
    pub project: &'a Project,
    /// The sources that were sent; none where the host's tree is mounted.
    pub sources: Option<&'a Arc<Sources>>,
    pub record: Arc<Record>,
    pub reporter: &'a Reporter,
}

/// One output's origin and target.
struct Wanted {
    spec: String,
    query: Query,
    scope: Scope,
    target: Target,
    /// Its target's path in the source tree, if it lies there.
    uploaded_at: Option<RelPath>,
    host: Option<HostSide>,
    /// The requested part, if it is not all.
    only: Option<Rules>,
}

impl Collecting<'_> {
    /// Stages all outputs. Changes nothing on the host.
    pub async fn collect(mut self, looking: Looking) -> Result<Vec<Staged>, BuildError> {
        let phase = Running::begin(Phase::Collect, None, self.reporter);
        let mut staged = Vec::new();
        let mut sum = Amount::default();
        for (number, wanted) in self.wanted(looking).await?.into_iter().enumerate() {
            let (output, received) = self.collect_one(number, wanted, sum).await?;
            sum = received;
            self.explain(&output);
            staged.push(output);
        }
        self.tell_of_beside().await?;
        phase.end(sum);
        Ok(staged)
    }

    /// Reports the command's changes that no output brings back.
    async fn tell_of_beside(&mut self) -> Result<(), BuildError> {
        if self.plan.outputs.value == Outputs::Everything || self.plan.route.value.is_mounted() {
            return Ok(());
        }
        self.session.send(&Request::Beside).await?;
        let beside = self.session.reply("what else the command changed", |reply| match reply {
            Reply::Beside(beside) => Ok(beside),
            other => Err(other),
        });
        let Beside { changed, more, made } = beside.await?;
        if !changed.is_empty() || !made.is_empty() {
            self.reporter.emit(Event::Warned(Warning::Beside { changed, more, made }));
        }
        Ok(())
    }

    async fn wanted(&self, looking: Looking) -> Result<Vec<Wanted>, BuildError> {
        let Outputs::Named(outputs) = &self.plan.outputs.value else {
            return Ok(vec![self.own(
                self.plan.workdir.value.clone(),
                RelPath::root(),
                Take::Itself,
                &self.plan.source.value,
                None,
            )?]);
        };
        let mut all = Vec::new();
        for (output, looking) in outputs.iter().zip(looking.0) {
            all.push(match (own_place(output, self.plan), looking) {
                (Some(below), _) => {
                    let (below, only) = (below.clone(), selected(&output.only)?);
                    self.own(output.spec.clone(), below, output.take, &output.host, only)?
                }
                (None, Some(looking)) => Self::elsewhere(output, looking.await??)?,
                (None, None) => Self::elsewhere(output, None)?,
            });
        }
        Ok(all)
    }

    /// The output at `below` in the source tree; `host` is its path here.
    fn own(
        &self,
        spec: String,
        below: RelPath,
        take: Take,
        host: &Path,
        only: Option<Rules>,
    ) -> Result<Wanted, BuildError> {
        let (scope, target) = places::of_sources(&below, host, &self.project.displaced_dir(&self.run.id))?;
        let query = Query::Changes { below: below.clone(), take: take.into() };
        Ok(Wanted { spec, query, scope, target, uploaded_at: Some(below), host: None, only })
    }

    fn elsewhere(output: &Output, host: Option<HostSide>) -> Result<Wanted, BuildError> {
        let query = Query::Named {
            path: Blob::from(output.container.as_bytes()),
            take: output.take.into(),
            summary: Blob::from(host.as_ref().map_or(b"".as_slice(), HostSide::summary)),
        };
        let (spec, target) = (output.spec.clone(), Target::named(&output.host)?);
        Ok(Wanted { spec, query, scope: Scope::Elsewhere, target, uploaded_at: None, host, only: None })
    }

    async fn collect_one(
        &mut self,
        number: usize,
        mut wanted: Wanted,
        before: Amount,
    ) -> Result<(Staged, Amount), BuildError> {
        let differing = self.ask(&mut wanted).await?;
        // Before it is made: a run that is killed right after must not leave an unknown stage.
        self.run.note_stage(&stage_path(&wanted.target, &self.run.id, number)?)?;
        let (pieces, received) = mpsc::channel(1);
        let (ask, asked) = oneshot::channel();
        let staging = self.stage(number, wanted, differing, before, received, ask);
        let session = &mut *self.session;
        let feeding = async {
            feed(session, &pieces).await?;
            feed(session, &pieces).await?;
            // A staging that failed asks for nothing, and reports the reason itself.
            let nodes = asked.await.unwrap_or_default();
            if !nodes.is_empty() {
                session.send(&Request::Want { query: 0, nodes }).await?;
                feed(session, &pieces).await?;
            }
            drop(pieces);
            Ok::<_, BuildError>(())
        };
        // Both run to their end even if one fails: a stage must not outlive its staging.
        let (staged, fed) = tokio::join!(staging, feeding);
        // The session's failure is the cause of any error of the staging.
        fed?;
        staged
    }

    /// Asks for the differences; returns their buckets, if there are any. Where a link leads to the
    /// directory that is meant, asks for the link's target.
    async fn ask(&mut self, wanted: &mut Wanted) -> Result<Option<Differing>, BuildError> {
        self.session.send(&Request::Collect(vec![wanted.query.clone()])).await?;
        let products = self.session.reply("what the command made", |reply| match reply {
            Reply::Products(products) => Ok(products),
            other => Err(other),
        });
        match (products.await?, &wanted.query) {
            (Products::There { .. }, Query::Changes { .. }) => Ok(None),
            (Products::There { differing, .. }, Query::Named { summary, .. }) => {
                let buckets = (summary.len() / 16).max(1);
                let differing = Differing::from_bytes(&differing, buckets);
                Ok(Some(differing.ok_or_else(|| nonsense("buckets that do not fit the summary"))?))
            }
            (Products::Missing, Query::Changes { below, take: take @ Follow::Contents }) => {
                let path = self.at_far_end(below);
                let summary = Blob::from(b"".as_slice());
                wanted.query = Query::Named { path, take: *take, summary };
                (wanted.scope, wanted.uploaded_at) = (Scope::Elsewhere, None);
                Box::pin(self.ask(wanted)).await
            }
            (Products::Unmatched(pattern), _) => {
                let path = format!("{}/{pattern}", self.plan.workdir.value);
                let there = self.list_around(Blob::from(path.as_bytes())).await?;
                Err(BuildError::MissingOutput { spec: pattern, path, there: Some(there) })
            }
            (Products::Missing, query) => {
                let path = match query {
                    Query::Changes { below, .. } => self.at_far_end(below),
                    Query::Named { path, .. } => path.clone(),
                };
                let there = self.list_around(path.clone()).await?;
                let path = String::from_utf8_lossy(&path).into_owned();
                Err(BuildError::MissingOutput { spec: wanted.spec.clone(), path, there: Some(there) })
            }
        }
    }

    /// The absolute path of `below` in the workspace.
    fn at_far_end(&self, below: &RelPath) -> Blob {
        Blob::from([self.plan.workdir.value.as_bytes(), b"/", below.as_bytes()].concat())
    }

    async fn list_around(&mut self, path: Blob) -> Result<Listing, BuildError> {
        self.session.send(&Request::Look { path }).await?;
        let there = self.session.reply("what is there", |reply| match reply {
            Reply::There { directory, names, more } => Ok((directory, names, more)),
            other => Err(other),
        });
        let (directory, names, more) = there.await?;
        Ok(Listing {
            directory: String::from_utf8_lossy(&directory).into_owned().into(),
            names: names.iter().map(|name| Escaped(name).to_string()).collect(),
            more: Some(more),
        })
    }

    /// Stages one output on a blocking thread: the nodes first, then the requested contents.
    fn stage(
        &self,
        number: usize,
        wanted: Wanted,
        differing: Option<Differing>,
        before: Amount,
        mut pieces: mpsc::Receiver<ChunkReader>,
        ask: oneshot::Sender<Vec<u32>>,
    ) -> impl Future<Output = Result<(Staged, Amount), BuildError>> + use<> {
        let (sources, record) = (self.sources.map(Arc::clone), Arc::clone(&self.record));
        let (run, apply, reporter) = (self.run.id.clone(), self.plan.apply.value, self.reporter.clone());
        let staging = blocking(move || {
            let uploaded = sources.as_ref().map(|sources| sources.uploaded()).zip(wanted.uploaded_at);
            let Wanted { spec, scope, target, host, only, .. } = wanted;
            let options = StagingOptions { run: &run, record: &record, apply, only: only.as_ref() };
            let mut staging = Staging::begin(&spec, number, target, scope, host, uploaded, options)?;
            let mut piece = || pieces.blocking_recv().ok_or(BuildError::Panicked);
            match &differing {
                Some(differing) => staging.expect(&mut node_reader(piece()?), Listed::Buckets(differing))?,
                None => staging.expect(&mut node_reader(piece()?), Listed::Changes)?,
            }
            staging.expect_gone(&mut node_reader(piece()?))?;
            let sum =
                |done: Amount| Amount { files: before.files + done.files, bytes: before.bytes + done.bytes };
            let wanted = staging.wanted();
            // The other side waits for it, or has failed and reports that.
            let _ = ask.send(wanted.nodes.clone());
            if !wanted.nodes.is_empty() {
                let progress =
                    |done| reporter.emit(Event::PhaseProgress { phase: Phase::Collect, done: sum(done) });
                staging.receive_wanted(piece()?, &progress)?;
            }
            // Nodes that were only compared were not sent.
            let files = wanted.nodes.len() as u64;
            let received = sum(Amount { files, bytes: staging.received().bytes });
            Ok((staging.finish()?, received))
        });
        async { staging.await? }
    }

    fn explain(&self, staged: &Staged) {
        if self.plan.explain.value == Explain::No {
            return;
        }
        for op in &staged.ops {
            let why = match op.action {
                Action::MakeDir { over: Over::Nothing, .. } | Action::Put { over: Over::Nothing, .. } => {
                    Why::New
                }
                Action::Put { over: Over::EmptiedDir { .. }, .. } | Action::MakeDir { .. } => Why::Type,
                Action::Put { .. } | Action::Swap { .. } => Why::Content,
                Action::SetMode { .. } => Why::Mode,
                Action::Touch { .. } => Why::Mtime,
                Action::Delete { .. } | Action::Remove { .. } | Action::RemoveDir { .. } => Why::Deleted,
            };
            let path = op.path.strip_prefix(&staged.target.prefix).unwrap_or_else(|| op.path.clone());
            self.reporter.emit(Event::Travelled { direction: Direction::Down, path, why });
        }
    }
}

/// The most that patterns can select: the far end knows which of them are names of files there.
fn selected(patterns: &[String]) -> Result<Option<Rules>, BuildError> {
    let paths = patterns.iter().filter_map(|pattern| RelPath::new(pattern.as_bytes()).ok());
    let names: Vec<_> = paths.map(|path| ignore::literal(&path)).collect();
    let rules = Rules::new(names.iter().chain(patterns)).map_err(nonsense)?;
    Ok((!patterns.is_empty()).then_some(rules))
}

impl From<Take> for Follow {
    fn from(take: Take) -> Follow {
        match take {
            Take::Itself => Follow::Itself,
            Take::Directory | Take::Contents => Follow::Contents,
        }
    }
}

/// Passes the next data to the receiver of `pieces`.
async fn feed(session: &mut Session, pieces: &mpsc::Sender<ChunkReader>) -> Result<(), BuildError> {
    let (sender, reader) = channel::to_blocking();
    // A staging that failed has dropped its end; then the data is skipped.
    let _ = pieces.send(reader).await;
    Ok(session.receiver.pass_data(sender).await?)
}
