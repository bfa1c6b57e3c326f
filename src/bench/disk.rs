//! The disk part: the speed of places, by [`crate::measure`]. This process measures the source
//! directory, the agent in one container measures the others. Rounds are interleaved over the
//! places, so that a busy moment of the machine affects all of them.
//!
//! A place that is not available is a row that says why; the others are still measured.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::report::{DiskFigures, DiskRow, Measured, Place};
use crate::{
    bench::{
        artifacts::Belongings,
        container::{self, Lab, LabError, Materials},
    },
    engine::{Docker, ImageFacts},
    measure::{self, Figures, Problem, Progress, ReadFrom, Sizes, wire::Medium},
    report::meter::Meter,
};

/// Every place, in the order of rows.
pub const PLACES: [Place; 5] =
    [Place::SourceDirectory, Place::Layer, Place::Tmpfs, Place::Volume, Place::BindMount];

/// How often each place is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rounds {
    /// At most.
    pub most: u32,
    /// No round is begun that would end later, judged by the round before; but one is always made.
    pub until: Option<Instant>,
}

impl Rounds {
    /// Whether there is time for another one after `done`, of which the last took `last`.
    pub fn have_room_for_another(&self, done: u32, last: Duration) -> bool {
        done < self.most && self.until.is_none_or(|until| Instant::now() + last <= until)
    }
}

/// The containers for places other than the source directory.
pub enum Containers<'a> {
    /// On this engine.
    On {
        /// The engine.
        docker: &'a Docker,
        /// The image of the builds, if it is there; without it an empty one is made.
        image: Option<&'a ImageFacts>,
        /// Why no directory of this machine can be mounted; none when it can.
        no_mounts: Option<String>,
    },
    /// There is no engine.
    None {
        /// In words.
        why: String,
    },
}

/// The places to measure, and how often.
pub struct Disk<'a> {
    /// The bench's objects.
    pub belongings: &'a Belongings,
    /// The containers of the places.
    pub containers: Containers<'a>,
    /// How much.
    pub sizes: Sizes,
    /// How often.
    pub rounds: Rounds,
    /// The progress display.
    pub meter: &'a Meter,
}

/// The rows so far.
struct Rows(BTreeMap<Place, Measured<DiskFigures>>);

impl Rows {
    /// Those that can still be measured.
    fn open(&self) -> Vec<Place> {
        PLACES.into_iter().filter(|place| self.is_open(*place)).collect()
    }

    fn is_open(&self, place: Place) -> bool {
        matches!(self.0.get(&place), None | Some(Measured::Done(_)))
    }

    fn fail(&mut self, place: Place, why: String) {
        self.0.insert(place, Measured::Failed { why });
    }

    fn not_offered(&mut self, place: Place, why: &str) {
        self.0.insert(place, Measured::NotOffered { why: why.to_owned() });
    }

    fn note(&mut self, place: Place, measured: Result<Figures, Problem>) {
        match measured {
            Ok(figures) => match self.0.entry(place).or_insert_with(|| Measured::Done(empty(&figures.sizes)))
            {
                Measured::Done(row) => add(row, &figures),
                Measured::Failed { .. } | Measured::NotOffered { .. } => {}
            },
            Err(problem @ (Problem::NoRoom { .. } | Problem::NoMemory { .. })) => {
                self.not_offered(place, &problem.to_string());
            }
            Err(problem) => self.fail(place, problem.to_string()),
        }
    }

    fn into_rows(mut self) -> Vec<DiskRow> {
        let row = |place| Some(DiskRow { place, result: self.0.remove(&place)? });
        PLACES.into_iter().filter_map(row).collect()
    }
}

fn empty(sizes: &Sizes) -> DiskFigures {
    DiskFigures { sequential_bytes: sizes.sequential, files: sizes.files, ..DiskFigures::default() }
}

fn add(row: &mut DiskFigures, figures: &Figures) {
    row.write.push(figures.write);
    row.read.push(figures.read);
    row.create.push(figures.small.create);
    row.stat.push(figures.small.stat);
    row.read_small.push(figures.small.read);
    row.rename.push(figures.small.rename);
    row.delete.push(figures.small.delete);
}

impl Disk<'_> {
    /// Measures all available places. Dropping it cuts it off; [`Belongings::clear`] removes the
    /// rest.
    pub async fn measure(&self) -> Vec<DiskRow> {
        let mut rows = Rows(BTreeMap::new());
        let here = match self.belongings.stage() {
            Ok(stage) => Some(stage.to_owned()),
            Err(error) => {
                let why = format!("could not make a directory in the source root: {error}");
                rows.fail(Place::SourceDirectory, why.clone());
                rows.fail(Place::BindMount, why);
                None
            }
        };
        let mut lab = self.lab(here.as_deref(), &mut rows).await;
        self.meter.expect(rows.open().len() as u64 * u64::from(self.rounds.most));
        let (mut done, mut began) = (0, Instant::now());
        loop {
            self.round(done + 1, here.as_deref(), &mut lab, &mut rows).await;
            done += 1;
            let last = std::mem::replace(&mut began, Instant::now()).elapsed();
            if !self.rounds.have_room_for_another(done, last) || rows.open().is_empty() {
                break;
            }
        }
        self.meter.give_up(rows.open().len() as u64 * u64::from(self.rounds.most.saturating_sub(done)));
        if let Some(lab) = lab {
            // If it cannot be removed now, it is removed with the rest, which reports errors.
            let _removed = lab.remove().await;
        }
        rows.into_rows()
    }

    async fn round(&self, round: u32, here: Option<&Path>, lab: &mut Option<Lab>, rows: &mut Rows) {
        for place in rows.open() {
            self.meter.begin(&format!("{place}, round {round}"));
            let mut told =
                |progress: Progress| self.meter.moved(progress.done, progress.of, progress.step.doing());
            let measured = match (container::directory(place), here, lab.as_mut()) {
                (None, Some(here), _) => {
                    on_this_machine(here.to_owned(), self.sizes, self.belongings, &mut told).await
                }
                (Some(directory), _, Some(lab)) => {
                    match lab.measure(directory, medium(place), &self.sizes, &mut told).await {
                        Ok(measured) => measured,
                        Err(error) => {
                            for place in
                                rows.open().into_iter().filter(|place| container::directory(*place).is_some())
                            {
                                rows.fail(place, error.to_string());
                            }
                            continue;
                        }
                    }
                }
                // An open place has one or the other.
                _ => continue,
            };
            if let Ok(Figures { read_from: ReadFrom::PerhapsMemory, .. }) = measured
                && round == 1
            {
                self.meter.say(&format!(
                    "{place}: the system cannot be told to forget what was written, so the file may have been read \
                     from memory"
                ));
            }
            rows.note(place, measured);
        }
    }

    /// The container; none when it cannot be had, which the rows then say.
    async fn lab(&self, here: Option<&Path>, rows: &mut Rows) -> Option<Lab> {
        let inside = || PLACES.into_iter().filter(|place| container::directory(*place).is_some());
        let (docker, image, no_mounts) = match &self.containers {
            Containers::On { docker, image, no_mounts } => (docker, image, no_mounts),
            Containers::None { why } => {
                inside().for_each(|place| rows.not_offered(place, why));
                return None;
            }
        };
        if let Some(why) = no_mounts {
            rows.not_offered(Place::BindMount, why);
        } else if here.is_some_and(|here| here.to_str().is_none()) {
            rows.not_offered(Place::BindMount, "an engine takes no name that is not UTF-8");
        }
        let places: Vec<_> = inside().filter(|place| rows.is_open(*place)).collect();
        match self.open(docker, *image, here, &places).await {
            Ok((lab, refused)) => {
                refused.into_iter().for_each(|(place, why)| rows.fail(place, why));
                Some(lab)
            }
            Err(error) => {
                for place in places {
                    match &error {
                        LabError::NoAgent(why) => rows.not_offered(place, &why.to_string()),
                        error => rows.fail(place, error.to_string()),
                    }
                }
                None
            }
        }
    }

    async fn open(
        &self,
        docker: &Docker,
        image: Option<&ImageFacts>,
        here: Option<&Path>,
        places: &[Place],
    ) -> Result<(Lab, BTreeMap<Place, String>), LabError> {
        self.meter.say("preparing a container");
        let (name, labels) = (self.belongings.object_name(), self.belongings.labels()?);
        let image = match image {
            Some(image) if can_run_agent(image) => image.clone(),
            _ => container::empty_image(docker, &name, &labels).await?,
        };
        let materials = Materials {
            docker,
            name,
            labels,
            image: &image,
            sizes: &self.sizes,
            bind: here.unwrap_or(Path::new("")),
        };
        materials.open(places).await
    }
}

/// An image in which no agent runs cannot be used to measure the engine's disk.
fn can_run_agent(image: &ImageFacts) -> bool {
    crate::agent::program::for_platform(&image.os, &image.architecture).is_ok()
}

fn medium(place: Place) -> Medium {
    match place {
        Place::Tmpfs => Medium::Memory,
        Place::SourceDirectory | Place::Layer | Place::Volume | Place::BindMount => Medium::Disk,
    }
}

/// Measures a directory of this machine on a thread that ends soon after the future is dropped.
pub async fn on_this_machine(
    directory: PathBuf,
    sizes: Sizes,
    belongings: &Belongings,
    told: &mut dyn FnMut(Progress),
) -> Result<Figures, Problem> {
    let (sender, mut progress) = mpsc::unbounded_channel();
    let work = belongings.on_a_thread("measure", move |stop| {
        let mut watcher = |progress| match (stop.load(Ordering::Relaxed), sender.send(progress)) {
            (false, Ok(())) => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        };
        measure::measure(&directory, &sizes, &mut watcher)
    });
    // The channel ends with the work.
    let tell = async {
        while let Some(progress) = progress.recv().await {
            told(progress);
        }
    };
    tokio::join!(work, tell).0.unwrap_or_else(|error| {
        Err(Problem::Failed { tried: "measure on a thread".to_owned(), said: error.to_string() })
    })
}
