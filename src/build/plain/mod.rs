//! A build without the agent, by the plain Engine API: for Windows containers, for processors that
//! have no agent, and for `--no-agent`.
//!
//! ```text
//! create ─ PUT /archive ─ attach, start, wait ─ GET /archive ─ compare here ─ stage
//! ```
//!
//! The container is made for this build. Its working directory is an anonymous volume, which hides
//! the image's files there, as a mount would. The whole tree is sent, each output comes back whole,
//! and the rest is as in any build. It is a fallback; docs/architecture.md, "By the plain Engine
//! API", has its limits.

mod command;

use std::{slice, sync::Arc, time::SystemTime};

use futures_util::TryStreamExt as _;

use super::{
    BuildError, Finished, Interrupts, mounted, places,
    reaper::{Duty, Reaper},
    upload::{all_arrived, leave_out_unreadable, start_packing, tell_of_changes},
    warm::{HostTree, Sources, Tree, start_scan, upload::note},
};
use crate::{
    agent::channel,
    archive::{
        pack::{Holes, PackOptions},
        reader::Naming,
    },
    build::{
        built::Built,
        mount_fault::{Runner, Tail},
        reaper::dismiss,
        site::{Left, Site},
        tasks::{Running, blocking, own_place, top_entry},
    },
    engine::{Call, ContainerId, ContainerSpec, EngineError, Entrypoint, Operation, Owned, Removed, labels},
    entry::{Amount, RelPath, path::BadPath},
    outputs::{
        apply::{Scope, Staged},
        archived,
        stage::{Staging, StagingOptions, Uploaded},
        stage_dir::stage_path,
        target::Target,
    },
    plan::{Output, Outputs, Plan, Take},
    report::events::{Event, Phase, Warning},
    user,
    workspace::{
        Keeping,
        saved_state::now,
        storage::{Storage, empty_volume, labelled, remove_volumes},
    },
};

/// Carries out a plan in a container of its own.
pub(super) async fn run(
    site: &Site<'_>,
    storage: &Storage,
    tree: Tree,
    interrupts: &mut Interrupts,
) -> (Result<Finished, BuildError>, Left) {
    let name = match Keeping::one_run(site.project, &site.run, site.state) {
        Ok(keeping) => keeping.name().to_owned(),
        Err(error) => return (Err(error.into()), Left::Nothing),
    };
    let reaper = site.watch(Duty::Remove(site.place(&name)));
    let plain = Plain { site, storage, name, reaper };
    let (finished, left) = match plain.until_staged(tree, interrupts).await {
        Ok(mut built) => {
            let (exit, defect) = (built.exit, built.defect.take());
            let record = Arc::clone(&site.record);
            let applying = built.put_in_place(record, site.plan, site.locks, &site.run, site.reporter);
            let (applied, left) = tokio::join!(applying, plain.remove());
            (applied.map(|applied| Finished { exit, applied, agent: None, defect }), left)
        }
        Err(error) => (Err(error), plain.remove().await),
    };
    if left == Left::Nothing {
        dismiss(plain.reaper);
    }
    (finished, left)
}

struct Plain<'a> {
    site: &'a Site<'a>,
    storage: &'a Storage,
    name: String,
    reaper: Option<Reaper>,
}

/// A container that waits for its sources.
struct Made {
    container: ContainerId,
    /// The source root in the container, links resolved.
    workdir: String,
    ids: user::Ids,
}

impl Plain<'_> {
    async fn until_staged(&self, tree: Tree, interrupts: &mut Interrupts) -> Result<Built, BuildError> {
        let Site { plan, project, reporter, .. } = *self.site;
        let scanning = match tree {
            Tree::Sources(scanning) => Some(scanning),
            Tree::Later => {
                interrupts.unless(self.site.locks.look_at_sources(reporter)).await??;
                Some(start_scan(plan, project, reporter))
            }
            Tree::Mounted => None,
        };
        let made = interrupts.unless(self.make()).await??;
        let mut sources = None;
        match scanning {
            Some(scanning) => {
                let mut host = interrupts.unless(scanning).await???;
                host.know_products(plan, &self.site.record);
                sources = Some(interrupts.unless(self.upload(&made, host)).await??);
                self.site.locks.tree_was_sent();
            }
            None => {
                let looking = mounted::refuse_other_tree(&self.site.docker, &made.container, plan);
                interrupts.unless(looking).await??;
            }
        }
        let (tail, runner) = (Tail::default(), Runner { ids: made.ids, began: SystemTime::now() });
        let exit = command::run(self.site, &made.container, &tail, interrupts).await?;
        let watcher = sources.as_ref().map(|sources| Arc::clone(&sources.watcher));
        if let Some(watcher) = &watcher {
            watcher.ended();
        }
        let left = match sources {
            Some(_) => mounted::Ended::Collect(Box::new(plan.clone())),
            None => mounted::ended(plan, exit.code(), tail, runner, reporter).await?,
        };
        match left {
            mounted::Ended::AllIsHere { defect } => Ok(Built { exit, staged: None, defect, watcher: None }),
            mounted::Ended::Collect(left) => {
                let collecting = interrupts.unless(self.collect(&left, &made, sources.map(Arc::new)));
                Ok(Built { watcher, ..Built::after(exit, plan, reporter, collecting).await? })
            }
        }
    }

    /// Makes the container, and finds the sources' place and owner in it.
    async fn make(&self) -> Result<Made, BuildError> {
        let phase = Running::begin(Phase::Create, None, self.site.reporter);
        self.storage.provide(&self.site.docker).await?;
        let spec = self.spec()?;
        let made = self.site.docker.create(&spec).await;
        let container = made.map_err(|error| self.storage.blame(error.into()))?;
        if let Some(reaper) = &self.reaper {
            reaper.note_made();
        }
        // An archive entry would replace a link by a directory.
        let workdir = &self.site.plan.workdir.value;
        let link = self.site.docker.stat(&container, workdir).await?.map(|stat| stat.link_target);
        let workdir = link.filter(|target| !target.is_empty()).unwrap_or_else(|| workdir.clone());
        let ids = self.owner(&container).await?;
        phase.end(Amount::default());
        Ok(Made { container, workdir, ids })
    }

    fn spec(&self) -> Result<ContainerSpec, BuildError> {
        let Site { plan, image, run, project, state, .. } = self.site;
        let hiding = (!plan.route.value.is_mounted()).then(|| empty_volume(&plan.workdir.value));
        let env = plan.env.iter().map(|variable| &variable.value);
        Ok(ContainerSpec {
            entrypoint: match &plan.entrypoint {
                None => Entrypoint::OfImage,
                Some(entrypoint) if entrypoint.value.is_empty() => Entrypoint::None,
                Some(entrypoint) => Entrypoint::Program(entrypoint.value.clone()),
            },
            env: env.cloned().chain(self.storage.variables()).collect(),
            user: plan.user.as_ref().map(|user| user.value.clone()),
            working_dir: plan.command_directory(),
            labels: labelled(&[
                (labels::RUN, &run.id),
                (labels::TIER, labels::ONE_RUN),
                (labels::PROJECT, project.key()),
                (labels::STATE, &state.id()?),
                (labels::CREATED, &now().to_string()),
            ]),
            terminal: plan.terminal.value,
            stdin: plan.stdin.value,
            options: plan.container.clone(),
            platform: plan.platform.as_ref().map(|platform| platform.value.clone()),
            mounts: hiding.into_iter().chain(self.storage.mounts()).collect(),
            ..ContainerSpec::new(self.name.clone(), image.id.clone(), plan.command.clone())
        })
    }

    /// The user of the command, who owns the sources.
    async fn owner(&self, container: &ContainerId) -> Result<user::Ids, BuildError> {
        let Site { plan, image, docker, .. } = self.site;
        let spec = plan.user.as_ref().map_or(image.user.as_str(), |user| user.value.as_str());
        if matches!(spec, "" | "0" | "root") || image.os == "windows" {
            return Ok(user::ROOT);
        }
        let (passwd, group) = docker.user_tables(container).await?;
        Ok(user::resolve(spec, passwd.as_deref(), group.as_deref())?)
    }

    /// Sends the whole tree. A file that changes meanwhile is reported, and not sent again.
    async fn upload(&self, made: &Made, host: HostTree) -> Result<Sources, BuildError> {
        let Site { plan, docker, reporter, .. } = self.site;
        let strange = |why: BadPath| EngineError::BadAnswer {
            call: Call::new(Operation::Stat, &made.workdir),
            message: why.to_string(),
        };
        let options = PackOptions {
            prefix: RelPath::new(made.workdir.trim_start_matches('/').as_bytes()).map_err(strange)?,
            uid: made.ids.uid.into(),
            gid: made.ids.gid.into(),
            top: Some(top_entry(plan)?),
            holes: Holes::Zeros,
        };
        let (mut scan, mut digests) = (Arc::new(host.scan), Arc::new(host.digests));
        let total = Amount { files: scan.manifest.entries().len() as u64, bytes: scan.manifest.bytes() };
        let phase = Running::begin(Phase::Upload, Some(total), reporter);
        let mut all = (0..scan.manifest.entries().len()).collect();
        leave_out_unreadable(&plan.source.value, &scan.manifest, &digests, &mut all)?;
        let (packing, chunks) = start_packing(&plan.source.value, &scan, all, &options, reporter);
        // An engine accepts names below "/" wherever their links point; below any other directory
        // it refuses relative links that lead out of it.
        let (packed, sent) = tokio::join!(packing, docker.put(&made.container, "/", chunks));
        let packed = all_arrived(packed?, sent)?;
        tell_of_changes(&packed, &scan.manifest, reporter);
        phase.end(packed.amount);
        note(&mut scan, &mut digests, &packed);
        Ok(Sources::sent(scan, Arc::unwrap_or_clone(digests), host.rules, host.watcher))
    }

    /// Stages the outputs of `plan`; `sources` were sent, or none are mounted. Changes nothing on
    /// the host.
    async fn collect(
        &self,
        plan: &Plan,
        made: &Made,
        sources: Option<Arc<Sources>>,
    ) -> Result<Vec<Staged>, BuildError> {
        let phase = Running::begin(Phase::Collect, None, self.site.reporter);
        let whole = Output {
            spec: plan.workdir.value.clone(),
            container: plan.workdir.value.clone(),
            take: Take::Itself,
            host: plan.source.value.clone(),
            below_source: Some(RelPath::root()),
            only: Vec::new(),
        };
        let outputs = match &plan.outputs.value {
            Outputs::Everything => slice::from_ref(&whole),
            Outputs::Named(outputs) => outputs,
        };
        let mut staged = Vec::new();
        let mut sum = Amount::default();
        for output in outputs {
            let collecting = self.collect_one(staged.len(), plan, made, output, sources.clone(), sum);
            let (output, received) = collecting.await?;
            sum = sum + received;
            staged.push(output);
        }
        phase.end(sum);
        Ok(staged)
    }

    async fn collect_one(
        &self,
        number: usize,
        plan: &Plan,
        made: &Made,
        output: &Output,
        sources: Option<Arc<Sources>>,
        before: Amount,
    ) -> Result<(Staged, Amount), BuildError> {
        let (path, naming) = match (&plan.outputs.value, output.take) {
            (Outputs::Everything, _) => (made.workdir.clone(), Naming::Prefixed),
            (Outputs::Named(_), Take::Itself) => (output.container.clone(), Naming::Prefixed),
            (Outputs::Named(_), Take::Directory | Take::Contents) => {
                (format!("{}/.", output.container), Naming::Contents)
            }
        };
        let spec = output.spec.clone();
        let mut archive = match self.site.docker.get(&made.container, &path).await {
            Err(EngineError::NotThere { path, .. }) => {
                return Err(BuildError::MissingOutput { spec, path, there: None });
            }
            archive => archive?,
        };
        let own = match plan.outputs.value {
            Outputs::Everything => Some(RelPath::root()),
            Outputs::Named(_) => own_place(output, plan).cloned(),
        };
        let (scope, target) = match &own {
            Some(below) => {
                let safe = self.site.project.displaced_dir(&self.site.run.id);
                places::of_sources(below, &output.host, &safe)?
            }
            None => (Scope::Elsewhere, Target::named(&output.host)?),
        };
        // An output that lies in a cache, or is one, was named by the user.
        let in_output = |cache: &str| {
            RelPath::new(cache.strip_prefix(&*output.container)?.strip_prefix('/')?.as_bytes()).ok()
        };
        let caches: Vec<_> = self.storage.cache_paths().filter_map(in_output).collect();
        let (run, apply) = (self.site.run.id.clone(), plan.apply.value);
        let (record, reporter) = (Arc::clone(&self.site.record), self.site.reporter.clone());
        // Before it is made: a run that is killed right after must not leave an unknown stage.
        self.site.run.note_stage(&stage_path(&target, &run, number)?)?;
        let (sender, reader) = channel::to_blocking();
        let staging = blocking(move || {
            let uploaded = sources.as_ref().map(|sources| sources.uploaded()).zip(own);
            let options = StagingOptions { run: &run, record: &record, apply, only: None };
            let staging = Staging::begin(&spec, number, target, scope, None, uploaded.clone(), options)?;
            let is_left_out = |path: &RelPath| {
                let is_kept =
                    |(uploaded, at): &(Uploaded<'_>, RelPath)| uploaded.rules.ignores(&at.append(path));
                uploaded.as_ref().is_some_and(is_kept)
                    || caches.iter().any(|cache| path.strip_prefix(cache).is_some())
            };
            let progress =
                |done| reporter.emit(Event::PhaseProgress { phase: Phase::Collect, done: before + done });
            Ok(archived::stage(staging, reader, naming, &is_left_out, &progress)?)
        });
        let feeding = async move {
            // A reader that has ended reports its own reason; a broken archive lacks its end mark.
            while let Some(chunk) = archive.try_next().await?
                && sender.send(Ok(chunk)).await.is_ok()
            {}
            Ok::<_, EngineError>(())
        };
        // Both run to their end even if one fails: a stage must not outlive its staging.
        let (staged, fed) = tokio::join!(staging, feeding);
        // The engine's failure is the cause of any error of the staging.
        fed?;
        staged?
    }

    /// Removes the container. On failure the reaper tries again, and then the next start.
    async fn remove(&self) -> Left {
        let phase = Running::begin(Phase::Remove, None, self.site.reporter);
        let (docker, owned) = (&self.site.docker, Owned::by_run(&self.site.run.id));
        let removed = docker.remove(&self.name, &owned).await;
        match (removed, remove_volumes(docker, &owned).await) {
            (Ok(Removed::Now), Ok(())) => {
                phase.end(Amount::default());
                Left::Nothing
            }
            // The reaper tries again; or it was never made, or may still appear.
            (Ok(_), _) => Left::Perhaps,
            (Err(error), _) => {
                let (container, why) = (self.name.clone(), error.to_string());
                self.site.reporter.emit(Event::Warned(Warning::NotRemoved { container, why }));
                Left::Perhaps
            }
        }
    }
}
