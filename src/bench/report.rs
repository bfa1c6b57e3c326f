//! The measurements of a bench, as data. The measuring fills it in; all output for people and
//! programs is made from it.
//!
//! All times are in seconds, all sizes in bytes. In JSON, values are in kebab case and fields in
//! snake case; `docs/bench-json.md` describes the format, and [`FORMAT`] is its version.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{args::Extent, spec::Route};

/// The version of the JSON format. Within a version fields and values may be added.
pub const FORMAT: u32 = 1;

/// All results of one bench.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`] of the fastbuild that made it.
    pub version: u32,
    /// The version of fastbuild.
    pub fastbuild: String,
    /// When it was made, in seconds since 1970 (UTC).
    pub made: u64,
    /// The machine in words: operating system, processors, memory.
    pub machine: String,
    /// The engine in words: name, version, storage driver.
    pub engine: String,
    /// The source directory.
    pub source: Source,
    /// The command that was run on each route, with arguments; none if only the disk was measured.
    pub command: Option<Vec<String>>,
    /// How much was measured.
    pub extent: Extent,
    /// The disk part, a row for each place.
    pub disk: Vec<DiskRow>,
    /// The command's part, a row for each route; empty without a command.
    pub routes: Vec<RouteRow>,
}

/// The sources of the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The kind of its file system, as the system names it: `ext4`, `fuse.sshfs`.
    pub file_system: String,
    /// How many files, links and directories a build sends.
    pub files: u64,
    /// Their content in bytes.
    pub bytes: u64,
}

/// One place of the disk part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiskRow {
    /// Where the files were.
    pub place: Place,
    /// Its result.
    pub result: Measured<DiskFigures>,
}

/// Where files can be while a build works on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The source directory, from this machine itself.
    SourceDirectory,
    /// A container's own layer.
    Layer,
    /// A tmpfs of a container.
    Tmpfs,
    /// A named volume.
    Volume,
    /// The source directory, mounted into a container.
    BindMount,
}

impl Place {
    /// The name for people.
    pub fn words(self) -> &'static str {
        match self {
            Place::SourceDirectory => "source directory",
            Place::Layer => "container layer",
            Place::Tmpfs => "tmpfs",
            Place::Volume => "named volume",
            Place::BindMount => "bind mount",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.words())
    }
}

/// Times of the disk part in one place, with a sample for each round.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DiskFigures {
    /// The size in bytes of the file that was written and read from end to end.
    pub sequential_bytes: u64,
    /// Seconds to write that file, until it is on the disk.
    pub write: Samples,
    /// Seconds to read it.
    pub read: Samples,
    /// How many small files there were.
    pub files: u64,
    /// Seconds to make all of the small files.
    pub create: Samples,
    /// Seconds to ask for the metadata of each of them.
    pub stat: Samples,
    /// Seconds to read each of them.
    pub read_small: Samples,
    /// Seconds to rename each of them.
    pub rename: Samples,
    /// Seconds to delete them all.
    pub delete: Samples,
}

impl DiskFigures {
    /// Seconds of the small files' part as a whole, round by round.
    pub fn small(&self) -> Samples {
        let parts = [&self.create, &self.stat, &self.read_small, &self.rename, &self.delete];
        let rounds = parts.iter().map(|part| part.count()).min().unwrap_or(0);
        Samples((0..rounds).map(|round| parts.iter().map(|part| part.0[round]).sum()).collect())
    }
}

/// One route of the command's part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteRow {
    /// How the files travelled.
    pub route: Route,
    /// Seconds of a whole run, the first one left out.
    pub result: Measured<Samples>,
    /// Seconds of the first run, without any workspace or cache; none when it failed.
    pub first: Option<f64>,
}

/// The result of a measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measured<T> {
    /// It succeeded.
    Done(T),
    /// It was tried and failed.
    Failed {
        /// The error.
        why: String,
    },
    /// It is not available on this machine.
    NotOffered {
        /// The missing requirement.
        why: String,
    },
}

impl<T> Measured<T> {
    /// The measured value, if there is one.
    pub fn done(&self) -> Option<&T> {
        match self {
            Measured::Done(value) => Some(value),
            Measured::Failed { .. } | Measured::NotOffered { .. } => None,
        }
    }
}

/// Seconds in the order in which they were measured.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64());
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The median in seconds; none without samples.
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[middle - 1], upper) })
    }

    /// The least and the most in seconds, not quartiles: with the five or ten rounds that a user
    /// waits for, quartiles would hide too much. None without samples.
    pub fn spread(&self) -> Option<(f64, f64)> {
        let least = self.0.iter().copied().min_by(f64::total_cmp)?;
        let most = self.0.iter().copied().max_by(f64::total_cmp)?;
        Some((least, most))
    }

    /// As [`Samples::spread`], without one least and one most of five or more.
    pub fn core(&self) -> Option<(f64, f64)> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let cut = usize::from(sorted.len() >= 5);
        Some((*sorted.get(cut)?, sorted[sorted.len() - 1 - cut]))
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<T: IntoIterator<Item = Duration>>(times: T) -> Self {
        Samples(times.into_iter().map(|took| took.as_secs_f64()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_measured_has_neither_median_nor_spread() {
        let none = Samples::default();
        assert_eq!((none.median(), none.spread(), none.count()), (None, None, 0));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let cases: [(&[f64], f64, (f64, f64)); 3] = [
            (&[4.0, 1.0, 3.0, 2.0], 2.5, (1.0, 4.0)),
            (&[9.0, 1.0, 2.0], 2.0, (1.0, 9.0)),
            (&[0.5], 0.5, (0.5, 0.5)),
        ];
        for (samples, median, spread) in cases {
            let samples = Samples(samples.to_vec());
            assert_eq!((samples.median(), samples.spread()), (Some(median), Some(spread)), "{samples:?}");
        }
    }

    #[test]
    fn samples_keep_their_order() {
        let mut samples: Samples =
            [Duration::from_millis(300), Duration::from_millis(100)].into_iter().collect();
        samples.push(Duration::from_millis(200));
        assert_eq!(samples, Samples(vec![0.3, 0.1, 0.2]));
    }
}
