//! `cargo xtask lab`: the experiments that the project began with, made repeatable on one Linux machine.
//!
//! ```text
//! options -> places (place, nested; testutils/src/mounts.rs) -> dd (disk), builds (row, site_runs), choices (auto)
//!         -> Table -> figures, page
//! ```
//!
//! In each place that a project can lie, the site of [`crate::site`] is built as the seed's author did it, by plain `docker run`,
//! and by fastbuild on each of its routes. Rounds, comparisons and clean-up are the bench's ([`crate::bench`]); here a
//! contender that fails is a result and does not end the run. Everything is taken down in every ending.

mod auto;
mod disk;
mod figures;
mod nested;
mod page;
mod place;
mod row;
mod seed;
mod site_runs;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;

use self::{
    auto::Auto,
    disk::Where,
    nested::SlowEngine,
    page::Extent,
    place::{Ground, Place},
    row::{Route, Row, State},
    site_runs::{Baked, Outcome, Outcomes},
};
use testutils::mounts;

use crate::{
    bench::{
        self, JEKYLL, Subject,
        meter::{Interrupt, Meter},
        page::Machine,
        stage::{self, Stage},
    },
    debian,
    engine::{self, Engine},
    images,
    run::{self, note, root, say, scratch_dir},
    site::Site,
};

#[derive(clap::Args)]
pub struct Options {
    /// A small site, a small file, few rounds; the result is printed and kept below target/xtask
    #[arg(long)]
    quick: bool,
    /// Rounds of builds in each place [default: 5; with --quick: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Size of the site, in files [default: 2000; with --quick: 300]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(100..=100_000))]
    files: Option<u32>,
    /// Only this place (may be repeated)
    #[arg(long, value_name = "PLACE")]
    place: Vec<Place>,
    /// The fastbuild to measure [default: this source, optimised]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Directory for lab.md [default: docs, where everything was measured]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

impl Options {
    fn site(&self) -> Site {
        Site { files: self.files.unwrap_or(if self.quick { 300 } else { 2_000 }), each: 10_000 }
    }

    fn extent(&self) -> Extent {
        Extent {
            files: self.site().count(),
            mebibytes: if self.quick { 256 } else { 1024 },
            rounds: self.rounds.unwrap_or(if self.quick { 1 } else { 5 }),
        }
    }

    fn places(&self) -> Vec<Place> {
        Place::ALL.into_iter().filter(|place| self.place.is_empty() || self.place.contains(place)).collect()
    }

    /// Partial results do not replace the page that the repository has.
    fn directory(&self) -> Result<PathBuf> {
        let partial = self.quick || self.rounds.is_some() || self.files.is_some() || !self.place.is_empty();
        match &self.to {
            Some(dir) => Ok(dir.clone()),
            None if partial => scratch_dir(),
            None => Ok(root().join("docs")),
        }
    }
}

/// Everything measured in one place.
struct Table {
    place: Place,
    rows: Outcomes,
    disk: BTreeMap<Where, Outcome>,
    /// Or why it was not measured.
    auto: Result<Auto, String>,
}

impl Table {
    /// How many times as long as `base` a contender took, within rounds.
    fn ratio(&self, row: Row, base: Row) -> Option<f64> {
        self.rows.get(&row)?.samples()?.ratio_to(self.rows.get(&base)?.samples()?)
    }
}

/// `cargo xtask lab`.
pub async fn run(options: Options) -> Result<()> {
    let engine = engine::ensure().await?;
    say("images");
    let image = images::ensure(&engine, &images::BENCH).await?;
    let program = bench::program(options.program.as_deref())?;
    mounts::PROGRAMS
        .iter()
        .chain(&[("docker", "docker.io")])
        .try_for_each(|(program, package)| debian::ensure_program(program, package))?;
    debian::ensure_any(&mounts::SFTP_SERVERS, "openssh-sftp-server")?;
    // For the route without a container. Its version is the image's where that is made from the same release.
    if let Err(error) = debian::ensure_program("jekyll", "jekyll") {
        note(format_args!("the route `host` fails here: {error:#}"));
    }
    bench::until_interrupted(move |interrupt| {
        measure(&engine, &Subject { program, image }, &options, interrupt)
    })
    .await
}

fn measure(engine: &Engine, subject: &Subject, options: &Options, interrupt: &Arc<Interrupt>) -> Result<()> {
    remove_leftovers()?;
    let (machine, dir) = (bench::heading(engine)?, options.directory()?);
    let (mut tables, mut missing) = (Vec::new(), Vec::new());
    for place in options.places() {
        say(place.name());
        match nested::missing().filter(|_| place == Place::Nested) {
            Some(why) => missing.push((place, why.to_owned())),
            None => tables.push(table(engine, subject, options, interrupt, place)?),
        }
        // After each place, so that the measurements are kept when the user interrupts a run of an hour.
        write(&dir, &machine, options, &tables, &missing)?;
    }
    println!("{}", page::page(&machine, &options.extent(), &tables, &missing));
    note(format_args!("written to lab.md in {dir:?}"));
    Ok(())
}

fn write(
    dir: &Path,
    machine: &Machine,
    options: &Options,
    tables: &[Table],
    missing: &[(Place, String)],
) -> Result<()> {
    let page = page::page(machine, &options.extent(), tables, missing);
    run::write_whole(&dir.join("lab.md"), page.as_bytes())
}

/// What labs left that were killed: limits of devices first, which are noted in their directories.
fn remove_leftovers() -> Result<()> {
    for dir in stage::leftovers()? {
        nested::remove_leftovers(&dir);
    }
    stage::remove_leftovers()?;
    site_runs::remove_leftovers()
}

fn table(
    engine: &Engine,
    subject: &Subject,
    options: &Options,
    interrupt: &Arc<Interrupt>,
    place: Place,
) -> Result<Table> {
    let dir = stage::directory()?;
    let meter = Meter::new(engine, dir.path(), Arc::clone(interrupt))?;
    let (slow, meter) = match place {
        Place::Nested => {
            let slow = SlowEngine::start(dir.path(), &subject.image, &meter)?;
            let its_own = Meter::new(&slow.engine, &slow.dir, Arc::clone(interrupt))?;
            (Some(slow), its_own)
        }
        _ => (None, meter),
    };
    let stage = Stage::new(dir, meter, subject, options.site(), JEKYLL);
    let measured = in_place(&stage, options, place);
    // Before the stage, in whose directory it lies.
    drop(slow);
    stage::remove_own();
    measured
}

fn in_place(stage: &Stage, options: &Options, place: Place) -> Result<Table> {
    note("making trees");
    let backing = stage.empty("backing")?;
    for tree in site_runs::trees(place) {
        let tree = backing.join(tree);
        stage.site.make(&tree)?;
        // Every user may build, and the build writes its products into the tree.
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs_err::set_permissions(tree, all)?;
    }
    let ground = Ground::mounted(place, backing, &stage.path("mounted"))?;
    note("dd");
    let extent = options.extent();
    let disk = disk::measure(
        stage,
        disks_of(place),
        &ground.path(""),
        extent.mebibytes,
        if options.quick { 1 } else { 3 },
    )?;
    let baked = Baked::new(stage, &ground)?;
    let projects = site_runs::projects(stage, &ground);
    let contenders = site_runs::contenders(stage, &ground, &projects, &baked);
    let rows = site_runs::rounds(stage, extent.rounds, &contenders)?;
    note("which route is taken");
    let measured: &[&str] = if options.quick { &["--quick"] } else { &[] };
    let project = projects.get(&Row::Fastbuild(Route::Auto, State::Kept));
    let auto = project.map(|project| Auto::of(stage, project, measured));
    stage.meter.check()?;
    let auto = match auto {
        Some(Ok(auto)) => Ok(auto),
        Some(Err(error)) => Err(site_runs::why(&error)),
        None => Err("auto has no project".to_owned()),
    };
    note("cleaning up");
    Ok(Table { place, rows, disk, auto })
}

/// Layer, tmpfs and volume are the engine's, so they are measured once on each.
fn disks_of(place: Place) -> &'static [Where] {
    match place {
        Place::Local | Place::Nested => &Where::ALL,
        Place::Sshfs | Place::Bindfs | Place::Denying => &[Where::BindMount],
    }
}
