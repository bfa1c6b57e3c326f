//! The cold tier: a fresh container, everything uploaded, plain Engine API, nothing needed in the image.
//!
//! Each step of the data's way is a call below; what can overlap does: the host is scanned while the container is made,
//! and the container is removed while its products are put in place.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::stream;
use tokio::task::JoinHandle;

use super::{
    BuildError, Built, Finished, Interrupts, Running, blocking, channel,
    collect::{Collecting, feed},
    command, detached,
    heal::Tail,
    image,
    mounted::{self, Placeholders},
    reaper::{Charge, Duty, InContainer, Reaper},
    refuse_strange_links, sources, top_entry, upload,
};
use crate::{
    archive::pack::PackOptions,
    engine::{
        ContainerId, ContainerSpec, ContainerSummary, Docker, EngineError, Entrypoint, ImageFacts, Owned,
        PathKind, Removed, Serves, Sizes, labels,
    },
    outputs::{OutputError, own::OwnFiles, record::Record, times::Times},
    plan::{OnDocker, Outputs, Plan},
    report::{
        Reporter,
        events::{Amount, Event, Phase, Warning},
    },
    state::{DeadRun, Project, Run, State},
    tree::{RelPath, scan::Scan},
    user,
    workspace::{self, Keeping, mark::now, own::Place, storage::Storage},
};

/// The mode of the directories that an engine makes on the way to a mount.
const MADE_BY_ENGINE: u32 = 0o755;

/// Carries a plan out in a container of its own.
///
/// # Errors
/// When fastbuild or the engine could not do their part. The container is gone all the same, or left to the reaper.
pub async fn run(
    plan: &Plan,
    at: OnDocker<'_>,
    state: &State,
    project: &Project,
    interrupts: &mut Interrupts,
    reporter: &Reporter,
) -> Result<Finished, BuildError> {
    let record = Arc::new(Record::load(&project.record_path()));
    refuse_strange_links(plan, &record)?;
    let scanning = (!plan.route.value.is_mounted()).then(|| {
        let (plan, reporter, path) = (plan.clone(), reporter.clone(), project.times_path());
        detached(move || {
            let mut times = Times::load(&path);
            let mut scan = sources::report_scan(&plan, &plan.ignore.outputs, &reporter)?;
            times.show(&mut scan, &plan.source.value);
            Ok((scan, times))
        })
    });
    let docker = interrupts.unless(Docker::connect(at.endpoint)).await??;
    let image = interrupts.unless(image::ensure(&docker, at.image, plan, reporter)).await??;
    let run = state.begin_run(project, &plan.engine.value.to_string())?;
    // Until the products are in their places.
    let _placeholders = match Placeholders::make(plan, &run) {
        Ok(placeholders) => placeholders,
        Err(error) => {
            run.finish();
            return Err(error);
        }
    };
    let keeping = Keeping::one_run(project, &run);
    let providing = Storage::of(&docker, plan, &image, &keeping, (project, state), &run);
    let storage = interrupts.unless(providing).await??;
    let name = keeping.name().to_owned();
    let leftovers = remove_leftovers(&docker, state, project, &plan.engine.value.to_string(), reporter);
    let cold = Cold {
        reaper: Reaper::watch(&Charge {
            state: state.root().to_owned(),
            source: plan.source.value.clone(),
            run: run.id.clone(),
            duty: Duty::Remove(InContainer { engine: at.endpoint.clone(), container: name.clone() }),
        }),
        made: AtomicBool::new(false),
        name,
        docker,
        image,
        storage,
        owner: state.id()?,
        plan,
        project,
        run,
        reporter,
    };
    let finished = cold.build(record, scanning, interrupts).await;
    // A moment's work, and long done.
    let _ = interrupts.unless(leftovers).await;
    finished
}

/// A build in a container of its own, under way.
pub(super) struct Cold<'a> {
    pub(super) docker: Docker,
    pub(super) image: ImageFacts,
    pub(super) storage: Storage,
    name: String,
    /// The state directory that the container belongs to.
    owner: String,
    reaper: Option<Reaper>,
    /// Set once the engine has said that it made the container.
    pub(super) made: AtomicBool,
    pub(super) run: Run,
    pub(super) plan: &'a Plan,
    project: &'a Project,
    pub(super) reporter: &'a Reporter,
}

impl Cold<'_> {
    async fn build(
        self,
        record: Arc<Record>,
        scanning: Option<impl Future<Output = Result<Result<(Scan, Times), BuildError>, BuildError>>>,
        interrupts: &mut Interrupts,
    ) -> Result<Finished, BuildError> {
        let built = match scanning {
            Some(scanning) => self.until_staged(&record, scanning, interrupts).await,
            None => self.until_staged_mounted(&record, interrupts).await,
        };
        let finished = match built {
            Ok(mut built) => {
                let (exit_code, defect) = (built.exit_code, built.defect.take());
                let applying = built.put_in_place(record, self.project, &self.run, self.plan, self.reporter);
                let (applied, ()) = tokio::join!(applying, self.remove());
                applied.map(|applied| Finished { exit_code, applied, warm: None, defect })
            }
            Err(error) => {
                self.remove().await;
                Err(error)
            }
        };
        self.run_is_over();
        finished
    }

    async fn until_staged(
        &self,
        record: &Arc<Record>,
        scanning: impl Future<Output = Result<Result<(Scan, Times), BuildError>, BuildError>>,
        interrupts: &mut Interrupts,
    ) -> Result<Built, BuildError> {
        let scanning = async { scanning.await? };
        let ((scan, times), made) =
            interrupts.unless(async { tokio::try_join!(scanning, self.make()) }).await??;
        let Made { container, workdir, own, options } = made;
        let scan = Arc::new(scan);
        let source = &self.plan.source.value;
        let uploading = upload::upload(&self.docker, &container, source, &scan, &options, self.reporter);
        let packed = Arc::new(interrupts.unless(uploading).await??);
        // A large tree's books would be in the way of its products'.
        let uploaded = self.plan.outputs_go_in().then_some((scan, packed));
        let exit_code = self.run_command(&container, None, interrupts).await?;
        let collecting = Collecting {
            docker: &self.docker,
            container: &container,
            plan: self.plan,
            run: &self.run,
            workdir: &workdir,
            uploaded,
            own: Arc::new(own),
            caches: self.storage.cache_paths().map(str::to_owned).collect(),
            record: Arc::clone(record),
            reporter: self.reporter,
        };
        let collecting = interrupts.unless(collecting.collect());
        Built::after(exit_code, self.plan, times, self.reporter, collecting).await
    }

    /// `tail` is for who wants to know what the command wrote last.
    pub(super) async fn run_command(
        &self,
        container: &ContainerId,
        tail: Option<&Tail>,
        interrupts: &mut Interrupts,
    ) -> Result<u8, BuildError> {
        let (docker, plan, reporter) = (&self.docker, self.plan, self.reporter);
        let exit_code = command::run(docker, container, plan, tail, interrupts, reporter).await?;
        if exit_code != 0 {
            command::explain_failure(docker, container, exit_code, plan, reporter).await?;
        }
        Ok(exit_code)
    }

    /// Makes the container, and finds out where and for whom the sources go in it.
    async fn make(&self) -> Result<Made, BuildError> {
        let phase = Running::begin(Phase::Create, None, self.reporter);
        self.storage.provide(&self.docker).await?;
        let container = self.docker.create(&self.spec()?).await?;
        self.made.store(true, Ordering::Relaxed);
        let looking = async {
            let (workdir, there) = self.workdir(&container).await?;
            let own = self.own_files(&container, &workdir, there).await?;
            Ok::<_, BuildError>((workdir, own))
        };
        let ((workdir, own), ids) = tokio::try_join!(looking, self.owner(&container))?;
        self.give_to(ids, &container).await?;
        let options = PackOptions {
            prefix: RelPath::new(workdir.trim_start_matches('/').as_bytes())
                .map_err(|_| BuildError::WorkdirIsNoDirectory { path: workdir.clone() })?,
            uid: ids.uid.into(),
            gid: ids.gid.into(),
            top: Some(top_entry(self.plan)?),
        };
        phase.end(Amount::default());
        Ok(Made { container, workdir, own, options })
    }

    pub(super) fn spec(&self) -> Result<ContainerSpec, BuildError> {
        let plan = self.plan;
        let labels = [
            (labels::RUN, self.run.id.as_str()),
            (labels::TIER, labels::COLD),
            (labels::PROJECT, self.project.key()),
            (labels::STATE, &self.owner),
            (labels::VERSION, env!("CARGO_PKG_VERSION")),
            (labels::CREATED, &now().to_string()),
        ];
        Ok(ContainerSpec {
            name: self.name.clone(),
            image: self.image.id.clone(),
            command: plan.command.clone(),
            entrypoint: match &plan.entrypoint {
                None => Entrypoint::OfImage,
                Some(entrypoint) if entrypoint.value.is_empty() => Entrypoint::None,
                Some(entrypoint) => Entrypoint::Program(entrypoint.value.clone()),
            },
            env: plan.env.iter().map(|variable| variable.value.clone()).collect(),
            user: plan.user.as_ref().map(|user| user.value.clone()),
            working_dir: plan.command_directory(),
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            terminal: plan.terminal.value,
            stdin: plan.stdin.value,
            serves: Serves::OneCommand,
            network: plan.network.as_ref().map(|network| network.value.clone()),
            memory: plan.memory.as_ref().map(|memory| memory.value),
            nano_cpus: plan.nano_cpus.as_ref().map(|cpus| cpus.value),
            isolation: plan.isolation.as_ref().map(|isolation| isolation.value),
            platform: plan.platform.as_ref().map(|platform| platform.value.clone()),
            mounts: mounted::mounts(plan)?.into_iter().chain(self.storage.mounts()).collect(),
        })
    }

    /// The working directory with its links resolved: an archive entry would replace a link by a directory.
    async fn workdir(&self, container: &ContainerId) -> Result<(String, Before), BuildError> {
        let path = &self.plan.workdir.value;
        let Some(stat) = self.docker.stat(container, path).await? else {
            return Ok((path.clone(), Before::Nothing));
        };
        match stat.kind {
            PathKind::Directory => Ok((path.clone(), Before::Directory)),
            PathKind::Link if !stat.link_target.is_empty() => Ok((stat.link_target, Before::Directory)),
            _ => Err(BuildError::WorkdirIsNoDirectory { path: path.clone() }),
        }
    }

    /// What the image and caches have in the working directory, as far as that could come back by mistake.
    async fn own_files(
        &self,
        container: &ContainerId,
        workdir: &str,
        there: Before,
    ) -> Result<OwnFiles, BuildError> {
        let caches = OwnFiles::default().beside_caches(self.caches_below());
        // Engines make the directory with the container, so that it is there mostly, and empty.
        let (place, notes) = (Place::whole(self.plan, &self.image), self.project.workdir_path());
        if there == Before::Nothing
            || self.plan.outputs.value != Outputs::Everything
            || place.known(&notes) == Some(0)
        {
            return Ok(caches);
        }
        let archive = match self.docker.get(container, &format!("{workdir}/.")).await {
            Ok(archive) => archive,
            // A link that leads nowhere, or to no directory: putting the sources there tells.
            Err(EngineError::NotThere { .. }) => return Ok(caches),
            Err(error) => return Err(error.into()),
        };
        let (sender, reader) = channel::to_blocking();
        let reading = blocking(move || OwnFiles::read(reader));
        let (own, fed) = tokio::join!(reading, feed(archive, sender));
        fed?;
        let own = own?.map(|own| own.beside_caches(self.caches_below())).map_err(|source| {
            let output = self.plan.workdir.value.clone();
            OutputError::Refused { output, source: Box::new(source) }
        })?;
        place.note(&notes, own.count())?;
        Ok(own)
    }

    /// Who runs the command, and so owns the sources.
    pub(super) async fn owner(&self, container: &ContainerId) -> Result<user::Ids, BuildError> {
        let spec = self.plan.user.as_ref().map_or(self.image.user.as_str(), |user| user.value.as_str());
        if is_root(spec) || self.image.os == "windows" {
            return Ok(user::ROOT);
        }
        let (passwd, group) = self.docker.user_tables(container).await?;
        Ok(user::resolve(spec, passwd.as_deref(), group.as_deref())?)
    }

    fn caches_below(&self) -> Vec<RelPath> {
        self.plan.caches.iter().filter_map(|cache| cache.value.below_source.clone()).collect()
    }

    /// A cache is the build's user's, whoever made it (the agent does the same), and so is a volume over an output.
    pub(super) async fn give_to(&self, ids: user::Ids, container: &ContainerId) -> Result<(), BuildError> {
        if ids == user::ROOT {
            return Ok(());
        }
        let outputs = mounted::laid_over(self.plan).map(|(output, _)| output.container.clone());
        let caches = self.storage.cache_paths().map(str::to_owned);
        let paths: Vec<_> =
            self.ways_made_by_engine(container).await?.into_iter().chain(outputs).chain(caches).collect();
        if paths.is_empty() {
            return Ok(());
        }
        let archive = workspace::directories(&paths, ids);
        Ok(self.docker.put(container, "/", stream::iter([Ok(archive)])).await?)
    }

    /// The directories that lead to caches and are not the host's, where the engine may have made them: any other one is the image's own, and
    /// has a mode that an archive would change.
    async fn ways_made_by_engine(&self, container: &ContainerId) -> Result<Vec<String>, BuildError> {
        let root = &self.plan.workdir.value;
        let is_hosts = |way: &str| {
            self.plan.route.value.is_mounted()
                && way.strip_prefix(root.as_str()).is_some_and(|rest| rest.starts_with('/'))
        };
        let mut ways = self.storage.ways_to_caches();
        ways.retain(|way| !is_hosts(way));
        let mut made = Vec::new();
        for way in ways {
            let stat = self.docker.stat(container, &way).await?;
            if stat.is_some_and(|stat| stat.kind == PathKind::Directory && stat.mode == MADE_BY_ENGINE) {
                made.push(way);
            }
        }
        Ok(made)
    }

    /// Removes the container. When that fails, the reaper tries again, and the next start after it.
    async fn remove(&self) {
        let phase = Running::begin(Phase::Remove, None, self.reporter);
        match self.docker.remove(&self.name, &Owned::by_run(&self.run.id)).await {
            Ok(removed) if removed == Removed::Now || self.made.load(Ordering::Relaxed) => {
                if let Some(reaper) = &self.reaper {
                    reaper.dismiss();
                }
                phase.end(Amount::default());
            }
            // Never made, or its making was cut off and may still come about: the reaper looks again.
            Ok(_) => phase.end(Amount::default()),
            Err(error) => {
                let container = self.name.clone();
                self.reporter.emit(Event::Warned(Warning::NotRemoved { container, why: error.to_string() }));
            }
        }
    }

    /// Ends the run's file when nothing is left; otherwise the reaper or the next start does.
    fn run_is_over(self) {
        if self.reaper.as_ref().is_none_or(Reaper::is_dismissed) {
            self.run.finish();
        }
    }
}

fn is_root(user: &str) -> bool {
    matches!(user, "" | "0" | "root" | "0:0")
}

/// A container that waits for its sources.
struct Made {
    container: ContainerId,
    /// The source root in the container, links resolved.
    workdir: String,
    own: OwnFiles,
    options: PackOptions,
}

/// What is at the place of the sources before they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Directory,
}

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

/// Removes what killed runs of ours left on this engine, beside the build.
pub(super) fn remove_leftovers(
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
                gone &= docker.remove_volume(&volume.name, &Owned::by_run(run)).await.is_ok();
            }
            if gone && !owed.contains(run) {
                state.forget_run(run);
            }
        }
    })
}
