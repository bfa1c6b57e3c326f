//! `cargo xtask bench`: fastbuild beside what people would use instead, for trees of several sizes, in one run.
//!
//! ```text
//! options -> stages (stage) -> contenders (ours, others: contender) -> rounds -> Table (stats) -> page, figures, plot
//! ```
//!
//! In a round every contender has at most one turn, in an order that changes, so that a slow minute of the machine meets them
//! all; those that take long have it in some of the rounds. Before a turn the file systems are flushed, so nobody pays for
//! what another one wrote. After a turn its result is looked at, and a wrong one ends the bench: nothing is measured that
//! did not work. Memory and bytes are counted in turns of their own after the rounds (see [`meter`]).

mod contender;
mod figures;
mod idle;
mod meter;
mod others;
mod ours;
mod page;
mod plot;
mod proxy;
mod stage;
mod stats;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result, anyhow};

use self::{
    contender::{Contender, Pace, What},
    idle::Idle,
    meter::{Interrupt, Meter},
    stage::{Edited, Project, Stage, Workload},
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
    /// Rounds for each table [default: by size, from 21 down to 9; with --quick: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// A small tree, few rounds; the result is printed and kept below target/xtask
    #[arg(long)]
    quick: bool,
    /// Only contenders whose name contains this, beside the base line (may be repeated)
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
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

const SIZES: [u32; 3] = [2_000, 20_000, 100_000];
const TRUE: Workload = Workload { command: &["true"], output: None, edited: Edited::Anything };
const JEKYLL: Workload =
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
            let rounds = match files {
                _ if self.quick => 3,
                ..=5_000 => 21,
                5_001..=50_000 => 15,
                _ => 9,
            };
            let rounds = self.rounds.unwrap_or(rounds);
            let count = page::thousands(u64::from(site.count()));
            let plan = |title: String, workload| Plan { title, site, workload, rounds, seldom: 3 };
            plans.push(plan(format!("`true`, {count} files"), TRUE));
            if files <= 5_000 {
                plans.push(Plan {
                    seldom: 2,
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
    say("fastbuild itself, optimised");
    demo::build_fastbuild()?;
    for (program, package) in [("docker", "docker.io"), ("git", "git"), ("rsync", "rsync"), ("time", "time")]
    {
        debian::ensure_program(program, package)?;
    }
    let interrupt = Arc::new(Interrupt::default());
    let listening = tokio::spawn(listen(Arc::clone(&interrupt)));
    let engine = Arc::new(engine);
    let measured = {
        let engine = Arc::clone(&engine);
        // Blocking, start to end: what is measured are processes, one after the other.
        tokio::task::spawn_blocking(move || measure(&engine, &image, &options, &interrupt)).await
    };
    listening.abort();
    measured.map_err(|panic| anyhow!(panic))?
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

fn measure(engine: &Engine, image: &str, options: &Options, interrupt: &Arc<Interrupt>) -> Result<()> {
    stage::remove_leftovers()?;
    let _cache = stage::BuildCache::remember()?;
    let mut tables = Vec::new();
    for plan in options.plans() {
        tables.push(table(engine, image, options, interrupt, &plan)?);
    }
    let mut page = page::page(&heading(engine)?, &tables);
    if options.memory {
        page += &memory::measure(engine, image)?;
    }
    println!("{page}");
    let dir = options.directory()?;
    run::write_whole(&dir.join("benchmarks.md"), page.as_bytes())?;
    run::write_whole(&dir.join("benchmarks.svg"), plot::svg(&tables).as_bytes())?;
    note(format_args!("written to benchmarks.md and benchmarks.svg in {dir:?}"));
    Ok(())
}

fn heading(engine: &Engine) -> Result<page::Machine> {
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
    image: &str,
    options: &Options,
    interrupt: &Arc<Interrupt>,
    plan: &Plan,
) -> Result<Table> {
    say(&plan.title);
    let dir = stage::directory()?;
    let meter = Meter::new(engine, dir.path(), Arc::clone(interrupt))?;
    let stage = Stage::new(dir, meter, image.to_owned(), plan.site, plan.workload);
    note("making trees and containers");
    let whole = plan.workload.output.is_none();
    let any = |whats: &[What]| whats.iter().any(|&what| options.wants(what));
    let project = |name, whats: &[What]| any(whats).then(|| Project::new(&stage, name)).transpose();

    let kept = Project::new(&stage, "kept")?;
    let git = project("git", if whole { &[What::WarmCheckout] } else { &[] })?;
    let first = project("first", if whole { &[What::First, What::FirstTar] } else { &[] })?;
    let upload = project("upload", if whole { &[What::Upload, What::UploadTar] } else { &[] })?;
    let collect = project("collect", if whole { &[What::Collect, What::CollectTar] } else { &[] })?;
    let shared = stage.tree("shared")?;
    let mounted = stage.tree("mounted")?;
    let [by_cp, by_tar, by_rsync] = [stage.container(&[])?, stage.container(&[])?, stage.container(&[])?];
    let with_mount = stage.container(&["-v", &others::mount_of(&mounted)])?;
    let by_hand = RefCell::new(None);
    let client = any(&[What::BuildKit]).then(|| others::buildkit_client(&stage)).transpose()?.flatten();

    let mut contenders = ours::kept(&stage, &kept);
    contenders.push(ours::cold(&stage, &kept));
    if whole {
        contenders.extend(ours::kept_further(&stage, &kept));
    }
    if let Some(project) = &git {
        contenders.push(ours::checkout(&stage, project)?);
    }
    if let Some(project) = &first {
        contenders.extend(ours::first(&stage, project, &by_hand));
    }
    if let Some(project) = &upload {
        contenders.extend(ours::upload(&stage, project)?);
    }
    if let Some(project) = &collect {
        contenders.extend(ours::collect(&stage, project)?);
    }
    if any(&[What::Floor]) && plan.site.files <= FLOOR_UP_TO {
        contenders.push(others::floor(&stage, &engine.docker, &shared)?);
    }
    contenders.push(others::docker_cp(&stage, &shared, &by_cp));
    contenders.push(others::tar(&stage, &shared, &by_tar));
    contenders.push(others::rsync(&stage, &shared, &by_rsync)?);
    contenders.extend(others::mounted(&stage, &mounted, &with_mount));
    match &client {
        Some(client) => contenders.push(others::buildkit(&stage, &shared, client)?),
        None => note("BuildKit is left out: no docker client in PATH builds with it"),
    }
    contenders.retain(|contender| options.wants(contender.what));

    let samples = rounds(&stage, plan, &contenders, &shared)?;
    note("counting bytes and memory");
    let accounts = accounts(&stage, plan, &contenders, &shared)?;
    let idle = kept.find_workspace().and_then(|()| idle::look(&stage, &kept.workspace()))?;
    let state = kept.state_bytes().map(Some)?;
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
            if contender.what.pace() == Pace::Seldom && round % plan.seldom != 0 {
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
        let far_peak = contender.project.and_then(|project| project.last().far_peak);
        accounts.insert(contender.what, Account { near, far_peak });
    }
    Ok(accounts)
}
