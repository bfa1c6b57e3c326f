//! `dd`, as the seed's author measured disks: one large file of zeros, until it is on the disk.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};

use super::site_runs::{Outcome, outcome_of};
use crate::bench::{
    stage::{Stage, docker},
    stats::{self, Samples},
};

/// Where a container writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Where {
    /// Into its own layer.
    Layer,
    /// Into a tmpfs.
    Tmpfs,
    /// Into a volume of the engine's.
    Volume,
    /// Into the place that is mounted.
    BindMount,
}

impl Where {
    /// All of them.
    pub const ALL: [Where; 4] = [Where::Layer, Where::Tmpfs, Where::Volume, Where::BindMount];

    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Where::Layer => "container layer",
            Where::Tmpfs => "tmpfs",
            Where::Volume => "named volume",
            Where::BindMount => "bind mount",
        }
    }
}

const AT: &str = "/written";
const FILE: &str = "large";

/// What a container took to write `mebibytes` in each of `places`, in seconds that `dd` itself counted; `mounted` is the bind
/// mount's directory.
///
/// # Errors
/// When the lab is interrupted.
pub fn measure(
    stage: &Stage,
    places: &[Where],
    mounted: &Path,
    mebibytes: u32,
    rounds: u32,
) -> Result<BTreeMap<Where, Outcome>> {
    let mut outcomes = BTreeMap::new();
    for round in 1..=rounds {
        for n in stats::order(places.len(), round) {
            let place = places[n];
            if let Some(Outcome::Failed { .. }) = outcomes.get(&place) {
                continue;
            }
            rustix::fs::sync();
            let begun = std::time::Instant::now();
            let wrote = write(stage, place, mounted, mebibytes);
            stage.meter.check()?;
            match wrote {
                Ok(seconds) => {
                    let outcome = outcomes.entry(place).or_insert_with(|| Outcome::Took(Samples::default()));
                    if let Outcome::Took(samples) = outcome {
                        samples.push(round, seconds);
                    }
                }
                Err(error) => drop(outcomes.insert(place, outcome_of(&error, begun.elapsed()))),
            }
        }
    }
    Ok(outcomes)
}

fn write(stage: &Stage, place: Where, mounted: &Path, mebibytes: u32) -> Result<f64> {
    let (label, pid) = stage.label();
    let mut run = docker(["run", "--rm", "--init", "-e", "LC_ALL=C", "--label", &format!("{label}={pid}")]);
    match place {
        Where::Layer => run.args(["-w", AT]),
        Where::Tmpfs => run.arg("--tmpfs").arg(format!("{AT}:size={}m", mebibytes + 64)),
        Where::Volume => run.args(["-v", AT]),
        Where::BindMount => run.arg("-v").arg(format!("{}:{AT}", mounted.to_string_lossy())),
    };
    run.args([&stage.image, "dd", "if=/dev/zero", "bs=1M", "conv=fsync"]);
    run.args([format!("of={AT}/{FILE}"), format!("count={mebibytes}")]);
    let said = stage.meter.run(&mut run)?.stderr;
    if let Where::BindMount = place {
        fs_err::remove_file(mounted.join(FILE))?;
    }
    let said = String::from_utf8_lossy(&said);
    seconds(&said).with_context(|| format!("dd said {said:?}"))
}

/// `268435456 bytes (268 MB, 256 MiB) copied, 1.20328 s, 223 MB/s`: the seconds.
fn seconds(said: &str) -> Option<f64> {
    let line = said.lines().find(|line| line.contains(" copied, "))?;
    line.split(", ").find_map(|part| part.strip_suffix(" s")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seconds_are_found_in_what_dd_says() {
        let said = "256+0 records in\n256+0 records out\n\
                    268435456 bytes (268 MB, 256 MiB) copied, 1.20328 s, 223 MB/s\n";
        assert_eq!(seconds(said), Some(1.20328));
        assert_eq!(seconds("dd: failed to open '/x': Permission denied\n"), None);
    }
}
