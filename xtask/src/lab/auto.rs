//! What fastbuild takes in a place by itself and after `fastbuild bench --save`, beside what that finds there.

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::bench::{
    stage::{Project, Stage},
    stats::Samples,
};

/// The choice in one place.
#[derive(Debug, Clone, PartialEq)]
pub struct Auto {
    /// What a plain run takes before anything was measured.
    pub unmeasured: String,
    /// What it takes after `fastbuild bench --save`.
    pub measured: String,
    /// Routes with the median of their seconds, the fastest first.
    pub ranking: Vec<(String, f64)>,
}

impl Auto {
    /// Asks fastbuild, in a project of which nothing was measured yet, with options that say how much is measured.
    ///
    /// # Errors
    /// When a command fails or says what is not understood.
    pub fn of(stage: &Stage, project: &Project<'_>, extent: &[&str]) -> Result<Auto> {
        let unmeasured = plan(stage, project)?;
        // The disks are measured by the lab itself.
        let found = ask(stage, project, &[&["bench", "--no-disk", "--json", "--save"], extent].concat())?;
        let report: Report =
            serde_json::from_slice(&found).context("the JSON of `fastbuild bench` was not understood")?;
        let measured = plan(stage, project)?;
        // What follows is measured by what it says itself.
        fs_err::remove_file(project.tree.join("fastbuild.toml"))?;
        Ok(Auto { unmeasured, measured, ranking: report.ranking() })
    }

    /// How many times as long as the fastest route the one that was picked took; none when it was not measured.
    pub fn against_fastest(&self) -> Option<f64> {
        let (_, fastest) = self.ranking.first()?;
        let (_, picked) = self.ranking.iter().find(|(route, _)| *route == self.measured)?;
        Some(picked / fastest)
    }
}

#[derive(Deserialize)]
struct Plan {
    route: Decision,
}

#[derive(Deserialize)]
struct Decision {
    value: String,
}

fn plan(stage: &Stage, project: &Project<'_>) -> Result<String> {
    let plan: Plan = serde_json::from_slice(&ask(stage, project, &["plan", "--json"])?)
        .context("the JSON of `fastbuild plan` was not understood")?;
    Ok(plan.route.value)
}

fn ask(stage: &Stage, project: &Project<'_>, words: &[&str]) -> Result<Vec<u8>> {
    let mut fastbuild = project.command(words);
    if let Some(output) = stage.workload.output {
        fastbuild.args(["--output", output]);
    }
    fastbuild.arg("--").args(stage.workload.command);
    Ok(stage.meter.run(&mut fastbuild)?.stdout)
}

/// What is read of `fastbuild bench --json`; `docs/bench-json.md` has it all.
#[derive(Deserialize)]
struct Report {
    routes: Vec<Measured>,
}

#[derive(Deserialize)]
struct Measured {
    route: String,
    result: Came,
}

/// What came of one route; other fields than this one hold why there is none.
#[derive(Deserialize)]
struct Came {
    done: Option<Vec<f64>>,
}

impl Report {
    fn ranking(self) -> Vec<(String, f64)> {
        let median = |seconds: Vec<f64>| {
            let mut samples = Samples::default();
            (1..).zip(seconds).for_each(|(round, seconds)| samples.push(round, seconds));
            samples.median()
        };
        let medians = self.routes.into_iter().filter_map(|row| Some((row.route, median(row.result.done?)?)));
        let mut ranking: Vec<_> = medians.collect();
        ranking.sort_by(|(_, one), (_, other)| one.total_cmp(other));
        ranking
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: &str = r#"{"version": 1, "routes": [
        {"route": "layer", "result": {"done": [3.0, 2.0, 2.2]}, "first": 5.0},
        {"route": "tmpfs", "result": {"failed": {"why": "no space"}}, "first": null},
        {"route": "volume", "result": {"done": [2.0]}, "first": 5.0},
        {"route": "host", "result": {"not-offered": {"why": "no jekyll here"}}, "first": null}]}"#;

    #[test]
    fn routes_are_ranked_by_their_medians_and_the_pick_is_held_against_the_fastest() {
        let report: Report = serde_json::from_str(FOUND).unwrap();
        let ranking = report.ranking();
        assert_eq!(ranking, [("volume".to_owned(), 2.0), ("layer".to_owned(), 2.2)]);
        let auto = |measured: &str| Auto {
            unmeasured: "layer".into(),
            measured: measured.into(),
            ranking: ranking.clone(),
        };
        assert_eq!(auto("layer").against_fastest(), Some(1.1));
        assert_eq!(auto("volume").against_fastest(), Some(1.0));
        assert_eq!(auto("host").against_fastest(), None);
    }
}
