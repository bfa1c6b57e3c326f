//! A bench from its settings to its report.
//!
//! ```text
//! connect -> sweep -> begin -> estimate -> places -> routes -> clear
//! ```
//!
//! Invariants: for every outcome, [`Belongings::clear`] is called; a signal cuts off the work under
//! way and is returned as [`BenchError::Interrupted`].

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    args::{BenchArgs, Extent, Parts},
    bench::{
        FORMAT, Measured, Report, Source,
        artifacts::{self, Belongings},
        copy::{CopyError, Original},
        disk::{Containers, Disk, PLACES, Rounds, on_this_machine},
        report::{DiskRow, RouteRow},
        routes::Routes,
    },
    build::{Interrupted, Interrupts},
    config::Settings,
    engine::Docker,
    environment::Environment,
    facts::{self, Machine},
    measure::{Figures, Sizes, Small},
    plan::{self, PlanError},
    report::meter::Meter,
    spec::{self, Endpoint, EngineChoice, Route},
    state::{State, StateError},
    sys::host,
    text::numbers,
};

/// The time limit of `--quick`, without the time to clean up.
const QUICK: Duration = Duration::from_secs(50);
/// The disk part's share of it.
const QUICK_DISK: Duration = Duration::from_secs(20);
/// The time limit of one round in the source directory then.
const QUICK_ROUND: Duration = Duration::from_secs(5);

/// How often each place is measured by default.
const DISK_ROUNDS: u32 = 3;
/// How often the command is run on each route by default, after the first run.
const COMMAND_ROUNDS: u32 = 5;

/// The sizes for estimating the time.
const PROBE: Sizes = Sizes { sequential: 8 << 20, files: 100, file_bytes: 5000, directories: 2 };

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A signal.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The source tree.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A thread failed.
    #[error("a part of fastbuild failed; please report this as a bug")]
    Panicked,
}

/// The request for a bench.
pub struct Request<'a> {
    /// The arguments.
    pub args: &'a BenchArgs,
    /// The build's settings.
    pub settings: &'a Settings,
    /// The environment of the request.
    pub environment: &'a Environment,
}

/// An engine that answers, or the reason for its absence.
struct Found {
    endpoint: Endpoint,
    docker: Result<Docker, String>,
}

/// Runs a bench.
///
/// # Errors
/// [`BenchError`]. A place or a route that cannot be measured is not an error: it is a row of the
/// report.
pub async fn run(
    request: &Request<'_>,
    state: &State,
    meter: &Meter,
    interrupts: &mut Interrupts,
) -> Result<Report, BenchError> {
    let began = Instant::now();
    let source = &request.settings.source.value;
    let project = state.project(source)?;
    let found = interrupts.unless(find_engine(request.settings, request.environment)).await??;
    let docker = found.docker.as_ref().ok();
    let address = found.endpoint.to_string();
    let swept = artifacts::sweep(docker, &address, state);
    if let Err(left) = interrupts.unless(swept).await? {
        tracing::warn!(error = ?left, "what an earlier bench left is still there");
    }
    let belongings = Belongings::begin(state, &project, source, &found.endpoint, docker.cloned())?;
    let work = Work { request, found: &found, belongings: &belongings, meter, began };
    let measured = work.measure(interrupts).await;
    meter.say("tidying up");
    // A second signal does not wait for it: the reaper does the rest.
    for left in interrupts.unless(belongings.clear()).await? {
        meter.say(&format!("warning: {}", told(&left)));
    }
    measured
}

/// The error with its cause.
fn told(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

async fn find_engine(settings: &Settings, environment: &Environment) -> Result<Found, PlanError> {
    let endpoint = plan::decide_endpoint(settings.host.as_ref(), environment)?.value;
    let docker = match settings.engine.value {
        EngineChoice::Host => Err("the host engine has no containers".to_owned()),
        EngineChoice::Auto | EngineChoice::Docker => {
            Docker::connect(&endpoint).await.map_err(|error| error.to_string())
        }
    };
    Ok(Found { endpoint, docker })
}

struct Work<'a> {
    request: &'a Request<'a>,
    found: &'a Found,
    belongings: &'a Belongings,
    meter: &'a Meter,
    began: Instant,
}

impl Work<'_> {
    async fn measure(&self, interrupts: &mut Interrupts) -> Result<Report, BenchError> {
        let original = interrupts.unless(self.original()).await??;
        let disk = match self.request.args.parts {
            Parts::All => {
                let probed = interrupts.unless(self.probe()).await?;
                let sizes = self.sizes(probed.as_ref());
                self.meter.say(&self.estimate_of_disk(probed.as_ref(), &sizes));
                interrupts.unless(self.disk(sizes)).await?
            }
            Parts::Command => Vec::new(),
        };
        let routes = match self.request.settings.command.is_empty() {
            true => Vec::new(),
            false => self.routes(&original, interrupts).await?,
        };
        let engine = interrupts.unless(self.engine_in_words()).await?;
        Ok(self.report(engine, &original, disk, routes))
    }

    /// The time for a small measurement of the source directory.
    async fn probe(&self) -> Option<Figures> {
        let stage = self.belongings.stage().ok()?.to_owned();
        on_this_machine(stage, PROBE, self.belongings, &mut |_| ()).await.ok()
    }

    /// A very slow place is measured with smaller sizes where time is short.
    fn sizes(&self, probed: Option<&Figures>) -> Sizes {
        let sizes = match self.request.args.extent {
            Extent::Quick => Sizes::QUICK,
            Extent::Full => Sizes::FULL,
        };
        match (self.request.args.extent, probed.map(|probed| expected(probed, &sizes))) {
            (Extent::Quick, Some(round)) if round > QUICK_ROUND => {
                shrunk(&sizes, QUICK_ROUND.as_secs_f64() / round.as_secs_f64())
            }
            _ => sizes,
        }
    }

    fn disk_rounds(&self) -> u32 {
        self.request.args.rounds.unwrap_or(DISK_ROUNDS)
    }

    fn command_rounds(&self) -> u32 {
        self.request.args.rounds.unwrap_or(COMMAND_ROUNDS)
    }

    fn until(&self, budget: Duration) -> Option<Instant> {
        (self.request.args.extent == Extent::Quick).then(|| self.began + budget)
    }

    /// Before the slow steps. The command's time is not known before its first run.
    fn estimate_of_disk(&self, probed: Option<&Figures>, sizes: &Sizes) -> String {
        let places = if self.found.docker.is_ok() { PLACES.len() as u32 } else { 1 };
        let rounds = self.disk_rounds();
        let all = probed.map(|probed| expected(probed, sizes) * places * rounds);
        let time = match (self.request.args.extent, all) {
            (_, None) => "a time that cannot be told".to_owned(),
            (Extent::Quick, Some(all)) => format!("about {}", rough(all.min(QUICK_DISK))),
            (Extent::Full, Some(all)) => format!("about {}", rough(all)),
        };
        let at_most = if self.request.args.extent == Extent::Quick { " at most" } else { "" };
        let rounds = numbers::counted(rounds.into(), "round");
        let places = numbers::counted(places.into(), "place");
        let mut told = format!("the disk takes {time}: {places}, {rounds}{at_most}");
        if !self.request.settings.command.is_empty() {
            let routes = numbers::counted(self.route_list().len() as u64, "route");
            let runs = numbers::counted(self.command_rounds().into(), "run");
            told += &format!("; then the command runs on up to {routes}, once, and {runs} more{at_most}");
        }
        told
    }

    /// The tree that builds start from, as it is now: without the stage.
    async fn original(&self) -> Result<Arc<Original>, BenchError> {
        let source = self.request.settings.source.value.clone();
        let looked = tokio::task::spawn_blocking(move || Original::look(&source)).await;
        Ok(Arc::new(looked.map_err(|_| BenchError::Panicked)??))
    }

    async fn disk(&self, sizes: Sizes) -> Vec<DiskRow> {
        let image = match (&self.found.docker, &self.request.settings.image) {
            (Ok(docker), Some(image)) => docker.image(&image.value, None).await.ok().flatten(),
            _ => None,
        };
        let containers = match &self.found.docker {
            Err(why) => Containers::None { why: why.clone() },
            Ok(docker) if docker.facts().os == "windows" => {
                let why = "what measures there is a Linux program, and this engine's containers are Windows'";
                Containers::None { why: why.to_owned() }
            }
            Ok(docker) => Containers::On {
                docker,
                image: image.as_ref(),
                no_mounts: spec::is_elsewhere(&self.found.endpoint).then(|| {
                    format!(
                        "the engine at {} is on another machine, which does not see this one's files",
                        self.found.endpoint
                    )
                }),
            },
        };
        let rounds = Rounds { most: self.disk_rounds(), until: self.until(QUICK_DISK) };
        Disk { belongings: self.belongings, containers, sizes, rounds, meter: self.meter }.measure().await
    }

    fn route_list(&self) -> &[Route] {
        let routes = &self.request.args.routes;
        if routes.is_empty() { &Route::ALL } else { routes }
    }

    async fn routes(
        &self,
        original: &Arc<Original>,
        interrupts: &mut Interrupts,
    ) -> Result<Vec<RouteRow>, Interrupted> {
        let routes = Routes {
            belongings: self.belongings,
            args: &self.request.args.run,
            settings: self.request.settings,
            environment: self.request.environment,
            docker: self.found.docker.as_ref().map_err(String::as_str),
            routes: self.route_list(),
            rounds: Rounds { most: self.command_rounds(), until: self.until(QUICK) },
            meter: self.meter,
        };
        routes.measure(original, interrupts).await
    }

    async fn engine_in_words(&self) -> String {
        let Ok(docker) = &self.found.docker else { return "none".to_owned() };
        let facts = docker.facts();
        let name = format!("{} {}", facts.name, facts.version);
        match docker.info().await {
            Ok(info) if !info.storage_driver.is_empty() => format!("{name}, {}", info.storage_driver),
            _ => name,
        }
    }

    fn report(
        &self,
        engine: String,
        original: &Original,
        disk: Vec<DiskRow>,
        routes: Vec<RouteRow>,
    ) -> Report {
        let settings = self.request.settings;
        let amount = original.amount();
        Report {
            version: FORMAT,
            fastbuild: env!("CARGO_PKG_VERSION").to_owned(),
            made: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            machine: machine_in_words(&Machine::of(self.request.environment)),
            engine,
            source: Source {
                file_system: facts::file_system(&settings.source.value)
                    .map_or_else(|| "unknown".to_owned(), |found| found.kind),
                files: amount.files,
                bytes: amount.bytes,
            },
            command: (!settings.command.is_empty()).then(|| settings.command.clone()),
            extent: self.request.args.extent,
            disk,
            routes,
        }
    }
}

/// The time of one round of `sizes`, estimated from a smaller round.
fn expected(probed: &Figures, sizes: &Sizes) -> Duration {
    let large = (probed.write + probed.read).mul_f64(ratio(sizes.sequential, probed.sizes.sequential));
    let Small { create, stat, read, rename, delete } = probed.small;
    let small = create + stat + read + rename + delete;
    large + small.mul_f64(ratio(sizes.files, probed.sizes.files))
}

fn ratio(of: u64, to: u64) -> f64 {
    of as f64 / to.max(1) as f64
}

/// A part of `sizes`, but not less than can be measured.
fn shrunk(sizes: &Sizes, part: f64) -> Sizes {
    let of = |whole: u64, least: u64| ((whole as f64 * part) as u64).max(least).min(whole);
    Sizes { sequential: of(sizes.sequential, 8 << 20), files: of(sizes.files, 100), ..*sizes }
}

fn rough(span: Duration) -> String {
    numbers::rough(span.max(Duration::from_secs(1)))
}

fn machine_in_words(machine: &Machine) -> String {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut words = format!(
        "{} {}, {}, {}",
        machine.os,
        machine.kernel,
        machine.arch,
        numbers::counted(processors as u64, "processor")
    );
    if let Some(memory) = host::memory() {
        words += &format!(", {} of memory", numbers::bytes(memory));
    }
    words
}

/// Whether there is any measurement.
pub fn has_figures(report: &Report) -> bool {
    report.disk.iter().any(|row| matches!(row.result, Measured::Done(_)))
        || report.routes.iter().any(|row| matches!(row.result, Measured::Done(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::ReadFrom;

    fn figures(millis: u64) -> Figures {
        let took = Duration::from_millis(millis);
        Figures {
            sizes: PROBE,
            write: took,
            read: took,
            read_from: ReadFrom::Disk,
            small: Small { create: took, stat: took, read: took, rename: took, delete: took },
        }
    }

    #[test]
    fn a_round_is_expected_to_take_what_a_little_took_so_many_times() {
        assert_eq!(expected(&figures(10), &PROBE), Duration::from_millis(70));
        let more = Sizes { sequential: PROBE.sequential * 16, files: PROBE.files * 20, ..PROBE };
        assert_eq!(expected(&figures(10), &more), Duration::from_millis(2 * 160 + 5 * 200));
    }

    #[test]
    fn what_is_shrunk_can_still_be_measured() {
        let half = shrunk(&Sizes::QUICK, 0.5);
        assert_eq!((half.sequential, half.files), (64 << 20, 1000));
        let least = shrunk(&Sizes::QUICK, 0.0001);
        assert_eq!((least.sequential, least.files), (8 << 20, 100));
        assert_eq!(shrunk(&PROBE, 0.0001).files, PROBE.files);
    }
}
