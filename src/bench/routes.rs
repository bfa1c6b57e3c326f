//! The command's part: the user's own build on each route.
//!
//! The user's tree is not changed. Each route has a copy of it in the bench's stage, which no scan
//! sees. The stage is inside the source root, so that it is on the same file system. A common copy
//! is not possible: the next route would find the earlier one's products, and a workspace belongs
//! to one source root and one route at a time. Outputs outside of the source root go into the stage
//! as well.
//!
//! The first run on each route is reported separately, because it makes workspace and caches. The
//! rounds that follow are interleaved over the routes, with an [edit](super::copy::edit) before
//! each build.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    copy::{self, CopyError, Original},
    disk::Rounds,
    report::{Measured, RouteRow, Samples},
};
use crate::{
    args::RunArgs,
    bench::{
        artifacts::Belongings,
        build_process::{Build, directory_in, own_program},
    },
    build::{Interrupted, Interrupts},
    config::Settings,
    engine::Docker,
    entry::host_path,
    environment::Environment,
    plan::{self, Facts, Output, Outputs, Plan, Take},
    report::meter::Meter,
    spec::{PullPolicy, Route},
    text::numbers,
};

/// The routes to measure, and how often.
pub struct Routes<'a> {
    /// The bench's objects.
    pub belongings: &'a Belongings,
    /// The requested build.
    pub args: &'a RunArgs,
    /// The settings for it.
    pub settings: &'a Settings,
    /// The environment of the request.
    pub environment: &'a Environment,
    /// The engine, or the reason for its absence.
    pub docker: Result<&'a Docker, &'a str>,
    /// The routes.
    pub routes: &'a [Route],
    /// How often, after the first run.
    pub rounds: Rounds,
    /// The progress display.
    pub meter: &'a Meter,
}

/// One route before its row is complete.
struct Runner {
    route: Route,
    copy: PathBuf,
    build: Build,
    first: Option<Duration>,
    samples: Samples,
    failed: Option<Measured<Samples>>,
}

impl Runner {
    fn is_open(&self) -> bool {
        self.failed.is_none()
    }

    fn fail(&mut self, why: String) {
        self.failed = Some(Measured::Failed { why });
    }

    fn into_row(self) -> RouteRow {
        RouteRow {
            route: self.route,
            first: self.first.map(|took| took.as_secs_f64()),
            result: self.failed.unwrap_or(Measured::Done(self.samples)),
        }
    }
}

impl Routes<'_> {
    /// Measures all possible routes.
    ///
    /// # Errors
    /// [`Interrupted`]; then [`Belongings::clear`] removes the rest.
    pub async fn measure(
        &self,
        original: &Arc<Original>,
        interrupts: &mut Interrupts,
    ) -> Result<Vec<RouteRow>, Interrupted> {
        let mut rows = Vec::new();
        let mut plans = Vec::new();
        for &route in self.routes {
            match self.plan(route) {
                Ok(planned) => plans.push(planned),
                Err(why) => rows.push(RouteRow { route, result: Measured::NotOffered { why }, first: None }),
            }
        }
        self.meter.expect(plans.len() as u64 * (1 + u64::from(self.rounds.most)));
        interrupts.unless(self.fetch_image(&plans)).await?;
        let mut runners = self.first_runs(&plans, original, &mut rows, interrupts).await?;
        self.tell_what_is_left(&runners);
        for round in 1..=self.rounds.most {
            for runner in runners.iter_mut().filter(|runner| runner.is_open()) {
                self.again(runner, round, interrupts).await?;
            }
        }
        rows.extend(runners.into_iter().map(Runner::into_row));
        // In the requested order.
        rows.sort_by_key(|row| self.routes.iter().position(|route| *route == row.route));
        Ok(rows)
    }

    /// The plan of a build on this route, or why it is not possible.
    fn plan(&self, route: Route) -> Result<Planned, String> {
        if let (Err(why), false) = (self.docker, route == Route::Host) {
            return Err(why.to_owned());
        }
        let args = self.args.on_route(route, &self.settings.started_in);
        let settings = Settings::gather(&args, self.environment).map_err(|error| in_a_line(&error))?;
        let plan = plan::prepare(&settings, self.environment).map_err(|error| in_a_line(&error))?;
        if route == Route::Host {
            let facts = Facts::gather(&settings, self.environment).map_err(|error| in_a_line(&error))?;
            if facts.command.is_none() {
                let word = plan.command.first().map(String::as_str).unwrap_or_default();
                return Err(format!("{word:?} is not on this machine"));
            }
        }
        // The volume keeps a mirror of the sources, and this build's sources are not the user's.
        if route == Route::Volume && !plan.volume_options.is_empty() {
            return Err("its volume is a place of the user's, and a bench leaves that alone".to_owned());
        }
        Ok(Planned { route, args, plan })
    }

    /// So that no first run waits for the registry. An error here occurs there again, and is
    /// reported then.
    async fn fetch_image(&self, planned: &[Planned]) {
        let on_engine = planned.iter().find(|planned| planned.route != Route::Host);
        let (Ok(docker), Some(Planned { plan, .. })) = (self.docker, on_engine) else { return };
        let (Some(image), platform) = (&plan.image, plan.platform.as_ref()) else { return };
        let platform = platform.map(|platform| platform.value.as_str());
        let is_there = docker.image(&image.value, platform).await.is_ok_and(|found| found.is_some());
        if !is_there && plan.pull.value != PullPolicy::Never {
            self.meter.say(&format!("pulling {}", image.value));
            if let Err(error) = docker.pull(&image.value, platform, |_| ()).await {
                tracing::warn!(%error, "could not pull the image");
            }
        }
    }

    /// The runners of routes that have a copy; the rows of the others.
    async fn first_runs(
        &self,
        plans: &[Planned],
        original: &Arc<Original>,
        rows: &mut Vec<RouteRow>,
        interrupts: &mut Interrupts,
    ) -> Result<Vec<Runner>, Interrupted> {
        let mut runners = Vec::new();
        for (at, planned) in plans.iter().enumerate() {
            let route = planned.route;
            self.meter.begin(&format!("{route}, first run"));
            let left = (plans.len() - at) as u64;
            let (copy, build) = match interrupts.unless(self.prepare(planned, original, left)).await? {
                Ok(prepared) => prepared,
                Err(result) => {
                    rows.push(RouteRow { route, result, first: None });
                    self.meter.give_up(u64::from(self.rounds.most));
                    continue;
                }
            };
            let mut runner =
                Runner { route, copy, build, first: None, samples: Samples::default(), failed: None };
            match runner.build.run(interrupts).await? {
                Ok(took) => runner.first = Some(took),
                Err(why) => {
                    runner.fail(why);
                    self.meter.give_up(u64::from(self.rounds.most));
                }
            }
            runners.push(runner);
        }
        Ok(runners)
    }

    /// Makes the copy, and the build in it; or returns why it failed.
    async fn prepare(
        &self,
        planned: &Planned,
        original: &Arc<Original>,
        left: u64,
    ) -> Result<(PathBuf, Build), Measured<Samples>> {
        let failed = |why: String| Measured::Failed { why };
        let (copy, build) = self.copy_and_build(planned).map_err(|error| failed(error.to_string()))?;
        let copied = match original.refuse_without_room(&self.settings.source.value, left) {
            Ok(()) => copy::copy_on_a_thread(original, &copy, self.belongings).await,
            Err(error) => Err(error),
        };
        match copied {
            Ok(()) => Ok((copy, build)),
            Err(CopyError::NoRoom { needed, free }) => {
                let (needed, free) = (numbers::bytes(needed), numbers::bytes(free));
                let why = format!("a copy of the source tree needs {needed}, and {free} are free");
                Err(Measured::NotOffered { why })
            }
            Err(error) => Err(failed(error.to_string())),
        }
    }

    fn copy_and_build(&self, planned: &Planned) -> std::io::Result<(PathBuf, Build)> {
        let source = &self.settings.source.value;
        let place = self.belongings.stage()?.join(planned.route.name());
        // Tools name things after their working directory.
        let copy = place.join(source.file_name().unwrap_or("tree".as_ref()));
        let mut args = planned.args.clone();
        args.source = Some(copy.clone());
        args.output = outputs(&planned.plan, source, &copy, &place.join("elsewhere"));
        let build = Build {
            program: own_program()?,
            words: args.to_words(),
            directory: directory_in(&copy, source, &self.settings.started_in),
            state: self.belongings.state_of_builds(),
        };
        Ok((copy, build))
    }

    fn tell_what_is_left(&self, runners: &[Runner]) {
        let firsts: Duration =
            runners.iter().filter(|runner| runner.is_open()).filter_map(|runner| runner.first).sum();
        if self.rounds.until.is_none() && !firsts.is_zero() {
            let most = (firsts * self.rounds.most).max(Duration::from_secs(1));
            self.meter.say(&format!("at most {} more, going by the first runs", numbers::rough(most)));
        }
    }

    async fn again(
        &self,
        runner: &mut Runner,
        round: u32,
        interrupts: &mut Interrupts,
    ) -> Result<(), Interrupted> {
        let first = runner.first.unwrap_or_default();
        if self.rounds.until.is_some_and(|until| Instant::now() + first > until) {
            // Where nothing is kept, the first run is like any other; elsewhere one more is needed.
            if runner.samples.count() == 0 && runner.route.is_mounted() {
                runner.samples.push(first);
            }
            if runner.samples.count() > 0 {
                self.meter.give_up(1);
                return Ok(());
            }
        }
        self.meter.begin(&format!("{}, round {round}", runner.route));
        if let Err(error) = copy::edit(&runner.copy, round) {
            runner.fail(format!("could not edit the copy of the source tree: {error}"));
        } else {
            match runner.build.run(interrupts).await? {
                Ok(took) => runner.samples.push(took),
                Err(why) => runner.fail(format!("round {round}: {why}")),
            }
        }
        if !runner.is_open() {
            self.meter.give_up(u64::from(self.rounds.most - round));
        }
        Ok(())
    }
}

fn in_a_line(error: &dyn std::fmt::Display) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A build on a route, in the user's own tree, where it will not run.
struct Planned {
    route: Route,
    args: RunArgs,
    plan: Plan,
}

/// The plan's outputs as options of a build in `copy`: outputs in `source` go there, all others
/// into `elsewhere`. They are named by options, whether a file or a preset named them. Outputs
/// below the source root are named from the start directory, because its path differs between
/// routes.
fn outputs(plan: &Plan, source: &Path, copy: &Path, elsewhere: &Path) -> Vec<OsString> {
    let Outputs::Named(named) = &plan.outputs.value else { return Vec::new() };
    let up: PathBuf = plan.subdirectory.components().map(|_| "..").collect();
    let option = |(number, output): (usize, &Output)| {
        let host = match output.host.strip_prefix(source) {
            Ok(below) if below.as_os_str().is_empty() => copy.to_owned(),
            Ok(below) => copy.join(below),
            Err(_) => elsewhere.join(number.to_string()),
        };
        let below = output.below_source.as_ref().and_then(|below| host_path::join(&up, below));
        let mut option = match below {
            Some(path) if path.as_os_str().is_empty() => OsString::from("."),
            Some(path) => path.into_os_string(),
            None => OsString::from(&output.container),
        };
        option.push(match output.take {
            Take::Itself => ":",
            Take::Directory => "/:",
            Take::Contents => "/.:",
        });
        option.push(host);
        option
    };
    named.iter().enumerate().map(option).collect()
}
