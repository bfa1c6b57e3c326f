//! A build without the agent, by the plain Engine API: for Windows containers, for processors that there is no agent for, and
//! for `--no-agent`.
//!
//! ```text
//! create ─ PUT /archive ─ attach, start, wait ─ GET /archive ─ compare here ─ stage
//! ```
//!
//! The container is one for this build. Its working directory is an anonymous volume, which hides what the image has there, as a
//! mount would. Everything goes up, all of an output comes back ([`collect`]), and from there on a build is as any other.
//! What only the agent can do is missing: a command that is the container's first process may not hear signals that it does
//! not handle, and caches belong to whoever the engine makes them for.

mod collect;
mod command;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use self::collect::Collecting;
use super::{
    BuildError, Built, Finished, Interrupts, Running,
    container::{Left, Site, dismiss},
    heal::{Runner, Tail},
    leftovers, mounted,
    reaper::{Duty, Reaper},
    top_entry,
    upload::{Selection, TRIES, all_arrived, start_packing, tell_of_changes},
    warm::{HostTree, Sources, Tree, start_scan, upload::note},
};
use crate::{
    archive::pack::{PackOptions, Packed},
    engine::{
        ContainerId, ContainerSpec, Entrypoint, Mount, Owned, PathKind, Removed, Serves, VolumeContents,
        labels,
    },
    outputs::times::Times,
    report::events::{Amount, Event, Phase, Warning},
    tree::{RelPath, scan::Scan},
    user,
    workspace::{Keeping, mark::now, storage::Storage},
};

/// Carries a plan out in a container of its own.
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
    let plain = Plain { site, storage, name, reaper, made: AtomicBool::new(false) };
    let (finished, left) = match plain.until_staged(tree, interrupts).await {
        Ok(mut built) => {
            let (exit, defect) = (built.exit, built.defect.take());
            let record = Arc::clone(&site.record);
            let _alone = match built.alone(site.locks, site.reporter).await {
                Ok(alone) => alone,
                Err(error) => return (Err(error), plain.remove().await),
            };
            let applying = built.put_in_place(record, site.locks, &site.run, site.plan, site.reporter);
            let (applied, left) = tokio::join!(applying, plain.remove());
            (applied.map(|applied| Finished { exit, applied, warm: None, defect }), left)
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
    /// Set once the engine has said that it made the container.
    made: AtomicBool,
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
                Some(start_scan(plan, project, plan.ignore.outputs.clone(), reporter))
            }
            Tree::Mounted => None,
        };
        let made = interrupts.unless(self.make()).await??;
        let (sources, times) = match scanning {
            Some(scanning) => {
                let host = interrupts.unless(scanning).await???;
                let (sources, times) = interrupts.unless(self.upload(&made, host)).await??;
                self.site.locks.tree_was_sent();
                (Some(sources), times)
            }
            None => {
                interrupts
                    .unless(mounted::refuse_other_tree(&self.site.docker, &made.container, plan))
                    .await??;
                (None, Times::default())
            }
        };
        let (tail, runner) = (Tail::default(), Runner { ids: made.ids, began: SystemTime::now() });
        let container = &made.container;
        let exit =
            command::run(&self.site.docker, container, plan, Some(&tail), interrupts, reporter).await?;
        let exit_code = exit.code();
        if exit_code != 0 {
            command::explain_failure(&self.site.docker, container, exit_code, plan, reporter).await?;
        }
        let collected_by = match sources {
            Some(_) => plan.clone(),
            None => match mounted::ended(plan, exit_code, tail, runner, reporter).await? {
                mounted::Ended::AllIsHere { defect } => {
                    return Ok(Built { exit, staged: None, times, defect });
                }
                mounted::Ended::Collect(plan) => *plan,
            },
        };
        let collecting = Collecting {
            site: self.site,
            plan: &collected_by,
            container,
            workdir: &made.workdir,
            sources: sources.map(Arc::new),
            caches: self.storage.cache_paths().map(str::to_owned).collect(),
        };
        let collecting = interrupts.unless(collecting.collect());
        Built::after(exit, plan, times, reporter, collecting).await
    }

    /// Makes the container, and finds out where and for whom the sources go in it.
    async fn make(&self) -> Result<Made, BuildError> {
        let phase = Running::begin(Phase::Create, None, self.site.reporter);
        self.storage.provide(&self.site.docker).await?;
        let spec = self.spec()?;
        let made = self.site.docker.create(&spec).await;
        let container = made.map_err(|error| self.storage.blame(error.into()))?;
        self.made.store(true, Ordering::Relaxed);
        if let Some(reaper) = &self.reaper {
            reaper.note_made();
        }
        let (workdir, ids) = tokio::try_join!(self.workdir(&container), self.owner(&container))?;
        phase.end(Amount::default());
        Ok(Made { container, workdir, ids })
    }

    fn spec(&self) -> Result<ContainerSpec, BuildError> {
        let Site { plan, image, run, project, state, .. } = self.site;
        let labels = [
            (labels::RUN, run.id.clone()),
            (labels::TIER, labels::COLD.to_owned()),
            (labels::PROJECT, project.key().to_owned()),
            (labels::STATE, state.id()?),
            (labels::VERSION, env!("CARGO_PKG_VERSION").to_owned()),
            (labels::CREATED, now().to_string()),
        ];
        let hiding = (!plan.route.value.is_mounted()).then(|| Mount::Volume {
            name: None,
            target: plan.workdir.value.clone(),
            contents: VolumeContents::Empty,
            options: Vec::new(),
        });
        Ok(ContainerSpec {
            name: self.name.clone(),
            image: image.id.clone(),
            command: plan.command.clone(),
            entrypoint: match &plan.entrypoint {
                None => Entrypoint::OfImage,
                Some(entrypoint) if entrypoint.value.is_empty() => Entrypoint::None,
                Some(entrypoint) => Entrypoint::Program(entrypoint.value.clone()),
            },
            env: plan.env.iter().map(|variable| variable.value.clone()).collect(),
            user: plan.user.as_ref().map(|user| user.value.clone()),
            working_dir: plan.command_directory(),
            labels: labels.map(|(name, value)| (name.to_owned(), value)).into(),
            terminal: plan.terminal.value,
            stdin: plan.stdin.value,
            serves: Serves::OneCommand,
            network: plan.network.as_ref().map(|network| network.value.clone()),
            memory: plan.memory.as_ref().map(|memory| memory.value),
            nano_cpus: plan.nano_cpus.as_ref().map(|cpus| cpus.value),
            isolation: plan.isolation.as_ref().map(|isolation| isolation.value),
            platform: plan.platform.as_ref().map(|platform| platform.value.clone()),
            mounts: hiding.into_iter().chain(self.storage.mounts()).collect(),
        })
    }

    /// The working directory with its links resolved: an archive entry would replace a link by a directory.
    async fn workdir(&self, container: &ContainerId) -> Result<String, BuildError> {
        let path = &self.site.plan.workdir.value;
        let Some(stat) = self.site.docker.stat(container, path).await? else { return Ok(path.clone()) };
        match stat.kind {
            PathKind::Directory => Ok(path.clone()),
            PathKind::Link if !stat.link_target.is_empty() => Ok(stat.link_target),
            _ => Err(BuildError::WorkdirIsNoDirectory { path: path.clone() }),
        }
    }

    /// Who runs the command, and so owns the sources.
    async fn owner(&self, container: &ContainerId) -> Result<user::Ids, BuildError> {
        let Site { plan, image, docker, .. } = self.site;
        let spec = plan.user.as_ref().map_or(image.user.as_str(), |user| user.value.as_str());
        if matches!(spec, "" | "0" | "root" | "0:0") || image.os == "windows" {
            return Ok(user::ROOT);
        }
        let (passwd, group) = docker.user_tables(container).await?;
        Ok(user::resolve(spec, passwd.as_deref(), group.as_deref())?)
    }

    /// Sends the whole tree, and files that changed meanwhile once more.
    async fn upload(&self, made: &Made, host: HostTree) -> Result<(Sources, Times), BuildError> {
        let options = PackOptions {
            prefix: RelPath::new(made.workdir.trim_start_matches('/').as_bytes())
                .map_err(|_| BuildError::WorkdirIsNoDirectory { path: made.workdir.clone() })?,
            uid: made.ids.uid.into(),
            gid: made.ids.gid.into(),
            top: Some(top_entry(self.site.plan)?),
        };
        let mut scan = Arc::new(host.scan);
        let mut digests = Arc::new(host.digests);
        let total = Amount { files: scan.manifest.entries().len() as u64, bytes: scan.manifest.bytes() };
        let phase = Running::begin(Phase::Upload, Some(total), self.site.reporter);
        let mut packed = self.send(made, &scan, Selection::All, &options).await?;
        for _ in 1..TRIES {
            if packed.unstable.is_empty() {
                break;
            }
            let again = std::mem::take(&mut packed.unstable);
            let second = self.send(made, &scan, Selection::Only(again), &options).await?;
            packed.absorb(second);
        }
        tell_of_changes(&packed, &scan.manifest, self.site.reporter);
        phase.end(packed.amount);
        note(&mut scan, &mut digests, &packed);
        Ok((Sources::sent(scan, Arc::unwrap_or_clone(digests)), host.times))
    }

    async fn send(
        &self,
        made: &Made,
        scan: &Arc<Scan>,
        selection: Selection,
        options: &PackOptions,
    ) -> Result<Packed, BuildError> {
        let root = &self.site.plan.source.value;
        let (packing, chunks) = start_packing(root, scan, selection, options, self.site.reporter);
        // An engine takes names below "/" whatever their links point to; below any other directory it refuses relative
        // links that lead out of it.
        let (packed, sent) = tokio::join!(packing, self.site.docker.put(&made.container, "/", chunks));
        all_arrived(packed?, sent)
    }

    /// Removes the container. When that fails, the reaper tries again, and the next start after it.
    async fn remove(&self) -> Left {
        let phase = Running::begin(Phase::Remove, None, self.site.reporter);
        let (docker, run) = (&self.site.docker, &self.site.run.id);
        match docker.remove(&self.name, &Owned::by_run(run)).await {
            // Never made, or its making was cut off and may still come about.
            Ok(Removed::Already) if !self.made.load(Ordering::Relaxed) => Left::Perhaps,
            Ok(Removed::Already) if !leftovers::remove_volumes(docker, run).await => Left::Perhaps,
            Ok(_) => {
                phase.end(Amount::default());
                Left::Nothing
            }
            Err(error) => {
                let container = self.name.clone();
                let why = error.to_string();
                self.site.reporter.emit(Event::Warned(Warning::NotRemoved { container, why }));
                Left::Perhaps
            }
        }
    }
}
