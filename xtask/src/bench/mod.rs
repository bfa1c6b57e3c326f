//! `cargo xtask bench`: fastbuild beside what people would use instead, for trees of several sizes, in one run.
//!
//! ```text
//! options -> stages (stage) -> contenders (ours, others: contender) -> rounds -> Table (stats) -> page, figures, plot
//! ```
//!
//! In a round every contender has at most one turn, in an order that changes, so that a slow minute of the machine
//! meets them all; those that take long have it in some of the rounds. Before a turn the file systems are flushed, so a
//! contender does not pay for what another one wrote. After a turn its result is looked at, and a wrong one ends the
//! bench: nothing is measured that did not work. Memory and bytes are counted in turns of their own after the rounds
//! (see [`meter`]).

pub mod contender;
mod figures;
mod idle;
pub mod meter;
mod others;
mod ours;
pub mod page;
mod plot;
mod proxy;
pub mod stage;
pub mod stats;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, ensure};

use self::{
    contender::{Contender, Pace, What},
    idle::Idle,
    meter::{Interrupt, Meter},
    stage::{Container, Edited, Project, Stage, Workload},
    stats::Samples,
};
use crate::{
    debian, demo,
    engine::{self, Engine},
    images, memory,
    run::{self, note, root, say, scratch_dir},
    site::Site,
};

#[derive(clap::Args)]
pub struct Options {
    /// Size of the trees, in files (may be repeated) [default: 2000, 20000 and 100000; with --quick: 2000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    files: Vec<u32>,
    /// Rounds for each table [default: by size, from 21 down to 7; with --quick: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// A small tree, few rounds; the result is printed and kept below target/xtask
    #[arg(long)]
    quick: bool,
    /// Only contenders whose name contains this, beside the base line (may be repeated)
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// The fastbuild to measure [default: this source, optimised]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Measure peak memory with a 3 GB file and with 100,000 new products too
    #[arg(long)]
    memory: bool,
    /// Directory for benchmarks.md and benchmarks.svg [default: docs, where everything was measured]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// What is measured for one size of tree.
struct Plan {
    title: String,
    site: Site,
    workload: Workload,
    /// Rounds in all.
    rounds: u32,
    /// Every how many rounds those that take long have their turn.
    seldom: u32,
}

impl Plan {
    /// In round 0, which is not measured, every contender has a turn.
    fn seldom_have_a_turn(&self, round: u32) -> bool {
        round == 0 || (round - 1).is_multiple_of(self.seldom)
    }
}

const SIZES: [u32; 3] = [2_000, 20_000, 100_000];
const TRUE: Workload = Workload { command: &["true"], output: None, edited: Edited::Anything };
/// A site is made of a tree of [`Site`].
pub const JEKYLL: Workload =
    Workload { command: &["jekyll", "build", "--quiet"], output: Some("_site"), edited: Edited::Posts };
/// The largest tree of which the floor's tar is held in memory, in files.
const FLOOR_UP_TO: u32 = 20_000;

impl Options {
    fn plans(&self) -> Vec<Plan> {
        let sizes = match (&self.files[..], self.quick) {
            ([], true) => &SIZES[..1],
            ([], false) => &SIZES[..],
            (chosen, _) => chosen,
        };
        let mut plans = Vec::new();
        for &files in sizes {
            let site = Site { files, each: if files > FLOOR_UP_TO { 2_000 } else { 10_000 } };
            // At 100,000 files those that take long take minutes, and have one turn.
            let (rounds, seldom) = match files {
                _ if self.quick => (3, 1),
                ..=5_000 => (21, 3),
                5_001..=50_000 => (12, 4),
                _ => (7, 7),
            };
            let rounds = self.rounds.unwrap_or(rounds);
            let count = page::thousands(u64::from(site.count()));
            let plan = |title: String, workload| Plan { title, site, workload, rounds, seldom };
            plans.push(plan(format!("`true`, {count} files"), TRUE));
            if files <= 5_000 {
                plans.push(Plan {
                    seldom: seldom.min(2),
                    rounds: rounds.div_ceil(2),
                    ..plan(format!("`jekyll build`, {count} files"), JEKYLL)
                });
            }
        }
        plans
    }

    fn wants(&self, what: What) -> bool {
        what == What::Exec
            || self.only.is_empty()
            || self.only.iter().any(|text| what.name().contains(text.as_str()))
    }

    /// Partial results do not replace the page that the repository has.
    fn directory(&self) -> Result<PathBuf> {
        let partial = self.quick || !self.files.is_empty() || !self.only.is_empty() || self.rounds.is_some();
        match &self.to {
            Some(dir) => Ok(dir.clone()),
            None if partial => scratch_dir(),
            None => Ok(root().join("docs")),
        }
    }
}

/// What is measured, and in which image.
pub struct Subject {
    /// fastbuild.
    pub program: PathBuf,
    /// Of all containers.
    pub image: String,
}

/// Everything measured on one stage.
pub struct Table {
    /// What was built, of how many files.
    title: String,
    site: Site,
    workload: Workload,
    samples: BTreeMap<What, Samples>,
    accounts: BTreeMap<What, Account>,
    /// Bytes that this machine keeps about the kept project.
    state: Option<u64>,
    idle: Option<Idle>,
}

impl Table {
    /// How many times `base` this took, within rounds.
    fn ratio(&self, what: What, base: What) -> Option<f64> {
        self.samples.get(&what)?.ratio_to(self.samples.get(&base)?)
    }

    /// How many seconds more than `base` this took, within rounds.
    fn above(&self, what: What, base: What) -> Option<f64> {
        self.samples.get(&what)?.above(self.samples.get(&base)?)
    }
}

/// What a contender used.
#[derive(Debug, Clone, Copy)]
struct Account {
    /// On this side, and on the wire.
    near: meter::Account,
    /// Peak memory of fastbuild's far end, in bytes.
    far_peak: Option<u64>,
}

/// `cargo xtask bench`.
pub async fn run(options: Options) -> Result<()> {
    let engine = engine::ensure().await?;
    say("images");
    let image = images::ensure(&engine, &images::BENCH).await?;
    let program = program(options.program.as_deref())?;
    for (program, package) in [("docker", "docker.io"), ("git", "git"), ("rsync", "rsync"), ("time", "time")]
    {
        debian::ensure_program(program, package)?;
    }
    until_interrupted(move |interrupt| measure(&engine, &Subject { program, image }, &options, interrupt))
        .await
}

/// Runs `work` on a thread of its own, from start to end: what is measured are processes, one after the other. An
/// interrupt reaches `work` through its argument.
///
/// # Errors
/// Those of `work`.
pub async fn until_interrupted<T: Send + 'static>(
    work: impl FnOnce(&Arc<Interrupt>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let interrupt = Arc::new(Interrupt::default());
    let listening = tokio::spawn(listen(Arc::clone(&interrupt)));
    let done = tokio::task::spawn_blocking(move || work(&interrupt)).await;
    listening.abort();
    done.map_err(|panic| anyhow!(panic))?
}

/// The fastbuild to measure: one that was given, else this source, optimised.
pub fn program(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(given) = given {
        return Ok(std::path::absolute(given)?);
    }
    say("fastbuild itself, optimised");
    demo::build(demo::Profile::Release)
}

/// Hands every wish to end to `interrupt`.
async fn listen(interrupt: Arc<Interrupt>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, _ = hup.recv() => {} }
        note("interrupted: ending what runs, and cleaning up");
        interrupt.fire();
    }
}

fn measure(engine: &Engine, subject: &Subject, options: &Options, interrupt: &Arc<Interrupt>) -> Result<()> {
    stage::remove_leftovers()?;
    let _cache = stage::BuildCache::remember()?;
    let (heading, dir) = (heading(engine)?, options.directory()?);
    let mut tables = Vec::new();
    let mut page = String::new();
    // After each table, so that the measurements are kept when the user interrupts a run of an hour.
    for plan in options.plans() {
        tables.push(table(engine, subject, options, interrupt, &plan)?);
        page = page::page(&heading, &tables);
        write(&dir, &page, &tables)?;
    }
    if options.memory {
        page += &memory::measure(engine, &subject.program, &subject.image)?;
        write(&dir, &page, &tables)?;
    }
    println!("{page}");
    note(format_args!("written to benchmarks.md and benchmarks.svg in {dir:?}"));
    Ok(())
}

fn write(dir: &Path, page: &str, tables: &[Table]) -> Result<()> {
    run::write_whole(&dir.join("benchmarks.md"), page.as_bytes())?;
    run::write_whole(&dir.join("benchmarks.svg"), plot::svg(tables).as_bytes())
}

/// Where is measured.
///
/// # Errors
/// When the engine does not tell.
pub fn heading(engine: &Engine) -> Result<page::Machine> {
    let info = tokio::runtime::Handle::current().block_on(engine.docker.info())?;
    Ok(page::Machine {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: info.kernel_version.unwrap_or_default(),
        engine: engine.version.clone(),
        driver: info.driver.unwrap_or_default(),
    })
}

fn table(
    engine: &Engine,
    subject: &Subject,
    options: &Options,
    interrupt: &Arc<Interrupt>,
    plan: &Plan,
) -> Result<Table> {
    say(&plan.title);
    let dir = stage::directory()?;
    let meter = Meter::new(engine, dir.path(), Arc::clone(interrupt))?;
    let stage = Stage::new(dir, meter, subject, plan.site, plan.workload);
    note("making trees and containers");
    let ground = Ground::new(&stage, options)?;
    let mut contenders = ground.ours(&stage)?;
    contenders.extend(ground.others(&stage, engine, options)?);
    contenders.retain(|contender| options.wants(contender.what));

    let samples = rounds(&stage, plan, &contenders, &ground.shared)?;
    note("counting bytes and memory");
    let accounts = accounts(&stage, plan, &contenders, &ground.shared)?;
    let idle = ground.kept.find_workspace().and_then(|()| idle::look(&stage, &ground.kept.workspace()))?;
    let state = Some(ground.kept.state_bytes()?);
    note("cleaning up");
    Ok(Table {
        title: plan.title.clone(),
        site: plan.site,
        workload: plan.workload,
        samples,
        accounts,
        state,
        idle,
    })
}

/// The trees and containers of one table. Contenders that would disturb each other have their own.
struct Ground<'a> {
    kept: Project<'a>,
    /// These five exist for a command of which everything comes back, and only where the options want them.
    products: Option<Project<'a>>,
    git: Option<Project<'a>>,
    first: Option<Project<'a>>,
    upload: Option<Project<'a>>,
    collect: Option<Project<'a>>,
    /// The last container that a first build by hand made.
    by_hand: RefCell<Option<Container>>,
    /// All the others' tree, edited once in a round.
    shared: PathBuf,
    mounted: PathBuf,
    by_cp: Container,
    by_tar: Container,
    by_rsync: Container,
    with_mount: Container,
    /// A docker client that builds with BuildKit.
    client: Option<PathBuf>,
}

impl<'a> Ground<'a> {
    fn new(stage: &'a Stage, options: &Options) -> Result<Ground<'a>> {
        let any = |whats: &[What]| whats.iter().any(|&what| options.wants(what));
        let whole = stage.workload.output.is_none();
        let project =
            |name, whats: &[What]| (whole && any(whats)).then(|| Project::new(stage, name)).transpose();
        let mounted = stage.tree("mounted")?;
        Ok(Ground {
            kept: Project::new(stage, "kept")?,
            products: project("products", &[What::KeptProducts])?,
            git: project("git", &[What::KeptCheckout])?,
            first: project("first", &[What::First, What::FirstTar])?,
            upload: project("upload", &[What::Upload, What::UploadTar])?,
            collect: project("collect", &[What::Collect, What::CollectTar])?,
            by_hand: RefCell::new(None),
            shared: stage.tree("shared")?,
            by_cp: stage.container(&[])?,
            by_tar: stage.container(&[])?,
            by_rsync: stage.container(&[])?,
            with_mount: stage.container(&["-v", &others::mount_of(&mounted)])?,
            mounted,
            client: any(&[What::BuildKit]).then(|| others::buildkit_client(stage)).transpose()?.flatten(),
        })
    }

    fn ours<'g>(&'g self, stage: &'g Stage) -> Result<Vec<Contender<'g>>> {
        let mut contenders = ours::kept(stage, &self.kept);
        contenders.push(ours::one_run(stage, &self.kept));
        if stage.workload.output.is_none() {
            contenders.extend(ours::kept_further(stage, &self.kept));
        }
        if let Some(project) = &self.products {
            contenders.push(ours::products(project)?);
        }
        if let Some(project) = &self.git {
            contenders.push(ours::checkout(stage, project)?);
        }
        if let Some(project) = &self.first {
            contenders.extend(ours::first(stage, project, &self.by_hand));
        }
        if let Some(project) = &self.upload {
            contenders.extend(ours::upload(stage, project)?);
        }
        if let Some(project) = &self.collect {
            contenders.extend(ours::collect(stage, project)?);
        }
        Ok(contenders)
    }

    fn others<'g>(
        &'g self,
        stage: &'g Stage,
        engine: &'g Engine,
        options: &Options,
    ) -> Result<Vec<Contender<'g>>> {
        let mut contenders = vec![
            others::docker_cp(stage, &self.shared, &self.by_cp),
            others::tar(stage, &self.shared, &self.by_tar),
            others::rsync(stage, &self.shared, &self.by_rsync)?,
        ];
        contenders.extend(others::mounted(stage, &self.mounted, &self.with_mount));
        if options.wants(What::Floor) && stage.site.files <= FLOOR_UP_TO {
            contenders.push(others::floor(stage, &engine.docker, &self.shared)?);
        }
        match &self.client {
            Some(client) => contenders.push(others::buildkit(stage, &self.shared, client)?),
            None if !options.wants(What::BuildKit) => {}
            None => note("BuildKit is left out: no docker client in PATH builds with it"),
        }
        Ok(contenders)
    }
}

/// Round 0 is not measured: files come into the page cache, workspaces are made, each contender is seen to work.
fn rounds(
    stage: &Stage,
    plan: &Plan,
    contenders: &[Contender<'_>],
    shared: &Path,
) -> Result<BTreeMap<What, Samples>> {
    let mut samples = BTreeMap::<What, Samples>::new();
    for round in 0..=plan.rounds {
        stage.edit(shared, round)?;
        let begun = Instant::now();
        for n in stats::order(contenders.len(), round) {
            let contender = &contenders[n];
            if contender.what.pace() == Pace::Seldom && !plan.seldom_have_a_turn(round) {
                continue;
            }
            stage.meter.check()?;
            let took = contender.turn(round, |timed| {
                rustix::fs::sync();
                let begun = Instant::now();
                timed()?;
                Ok(begun.elapsed())
            })?;
            if round > 0 {
                samples.entry(contender.what).or_default().push(round, took.as_secs_f64());
            }
        }
        note(format_args!("round {round} of {}: {:.1} s", plan.rounds, begun.elapsed().as_secs_f64()));
    }
    Ok(samples)
}

/// Each contender twice more, the second time counted: the first one settles what a new address of the engine brings.
fn accounts(
    stage: &Stage,
    plan: &Plan,
    contenders: &[Contender<'_>],
    shared: &Path,
) -> Result<BTreeMap<What, Account>> {
    let mut accounts = BTreeMap::new();
    let mut round = plan.rounds;
    for contender in contenders {
        let mut counted = None;
        for _ in 0..2 {
            round += 1;
            stage.edit(shared, round)?;
            counted = Some(contender.turn(round, |timed| stage.meter.account(timed))?);
        }
        let near = counted.context("nothing was counted")?;
        let said = contender.project.and_then(|project| project.last().agent);
        accounts.insert(contender.what, Account { near, far_peak: said.map(|agent| agent.peak_memory) });
        if let (Some(said), Some(passed)) = (said, near.wire) {
            let said = said.sent + said.received;
            let name = contender.what.name();
            ensure!(said <= passed, "{name}: fastbuild counts {said} bytes on the wire, and {passed} passed");
        }
    }
    Ok(accounts)
}
