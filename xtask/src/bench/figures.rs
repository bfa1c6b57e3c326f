//! Tables -> the list of what was promised, what was measured, and whether it holds. Pure.

use super::{Table, What, stage::Edited};

/// A promise and what became of it.
pub struct Figure {
    /// What it is about.
    pub about: String,
    /// The most that is allowed.
    pub limit: f64,
    /// What was measured; none when it was not.
    pub measured: Option<f64>,
    /// Of both.
    pub unit: Unit,
}

/// The unit of a [`Figure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Times as much.
    Times,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Bytes.
    Bytes,
    /// 10⁶ bytes.
    Megabytes,
    /// Percent of one processor.
    Percent,
}

impl Figure {
    /// Whether it holds; none when it was not measured.
    pub fn met(&self) -> Option<bool> {
        self.measured.map(|measured| measured <= self.limit)
    }
}

/// The most that a one-run build may take, as a share of its floor.
const FLOOR: f64 = 0.8;

/// All of them, in the tables' order.
pub fn figures(tables: &[Table]) -> Vec<Figure> {
    tables
        .iter()
        .flat_map(|table| match table.workload.edited {
            Edited::Anything => of_true(table),
            Edited::Posts => of_jekyll(table),
        })
        .collect()
}

fn of_true(table: &Table) -> Vec<Figure> {
    let files = table.site.count();
    let at = |about: &str| format!("{about}, {} files", super::page::thousands(u64::from(files)));
    let ratio = |about: &str, what, base, limit| Figure {
        about: at(about),
        limit,
        measured: table.ratio(what, base),
        unit: Unit::Times,
    };
    let added = |about: &str, what| Figure {
        about: at(about),
        limit: 10.0,
        measured: table.above(what, What::KeptNoop).map(|seconds| seconds * 1e3),
        unit: Unit::Milliseconds,
    };
    let used = |about: &str, limit, measured, unit| Figure { about: at(about), limit, measured, unit };
    let one = table.accounts.get(&What::KeptOne);
    let peak = |near: bool| {
        let of = |account: &super::Account| if near { account.near.peak } else { account.far_peak };
        let kept = table.accounts.iter().filter(|(what, _)| what.is_fastbuild() && **what != What::OneRun);
        kept.filter_map(|(_, account)| of(account)).max().map(|bytes| bytes as f64 / 1e6)
    };
    let mut figures = vec![
        against_exec(table),
        ratio("as many products with `-o`, against none", What::KeptProducts, What::KeptNoop, 1.3),
        added("one edited file adds to that", What::KeptOne),
        added("one changed product adds to that", What::KeptProduct),
        ratio("whole tree up, against `tar` piped in", What::Upload, What::UploadTar, 1.0),
        ratio("first build, against `docker run`, `tar`, `docker exec`", What::First, What::FirstTar, 1.0),
        ratio("as many products back, against `tar` piped out", What::Collect, What::CollectTar, 1.0),
        ratio("one run, against its floor", What::OneRun, What::Floor, FLOOR),
        used(
            "on the wire for one edited file",
            64e3 + 40.0 * f64::from(files),
            one.and_then(|account| account.near.wire).map(|bytes| bytes as f64),
            Unit::Bytes,
        ),
        used("most memory of this side, kept workspace", 100.0, peak(true), Unit::Megabytes),
        used("most memory of the far side, kept workspace", 100.0, peak(false), Unit::Megabytes),
        used(
            "state on this machine for each file",
            200.0,
            table.state.map(|bytes| bytes as f64 / f64::from(files)),
            Unit::Bytes,
        ),
        used("an idle workspace's processor time", 0.0, table.idle.map(|idle| idle.cpu), Unit::Percent),
        used(
            "an idle workspace's memory",
            10.0,
            table.idle.map(|idle| idle.rss as f64 / 1e6),
            Unit::Megabytes,
        ),
    ];
    figures.retain(|figure| figure.measured.is_some() || figure.limit != FLOOR);
    figures
}

/// The promise depends on the size: a share of `docker exec`, or so much above it.
fn against_exec(table: &Table) -> Figure {
    let files = table.site.files;
    let about = format!(
        "nothing changed, against `docker exec`, {} files",
        super::page::thousands(table.site.count().into())
    );
    if files > 20_000 {
        let measured = table.above(What::KeptNoop, What::Exec);
        return Figure {
            about: about.replace("against", "above"),
            limit: 0.5,
            measured,
            unit: Unit::Seconds,
        };
    }
    let limit = if files > 2_000 { 1.0 } else { 0.5 };
    Figure { about, limit, measured: table.ratio(What::KeptNoop, What::Exec), unit: Unit::Times }
}

fn of_jekyll(table: &Table) -> Vec<Figure> {
    let about = "`jekyll build`, one post edited, against `docker exec` of it".to_owned();
    vec![Figure { about, limit: 1.0, measured: table.ratio(What::KeptOne, What::Exec), unit: Unit::Times }]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        bench::{Samples, TRUE},
        site::Site,
    };

    fn table(files: u32, measured: &[(What, f64)]) -> Table {
        let mut samples = BTreeMap::<What, Samples>::new();
        for &(what, seconds) in measured {
            samples.entry(what).or_default().push(1, seconds);
        }
        let site = Site { files, each: 1 };
        let accounts = BTreeMap::new();
        Table { title: String::new(), site, workload: TRUE, samples, accounts, state: None, idle: None }
    }

    #[test]
    fn the_promise_against_docker_exec_depends_on_the_size() {
        for (files, limit, measured, unit, met) in [
            (2_000, 0.5, 0.6, Unit::Times, false),
            (20_000, 1.0, 0.6, Unit::Times, true),
            (100_000, 0.5, -0.04, Unit::Seconds, true),
        ] {
            let figure = against_exec(&table(files, &[(What::Exec, 0.1), (What::KeptNoop, 0.06)]));
            let found = figure.measured.unwrap();
            assert!((found - measured).abs() < 1e-9, "{files} files: {found}");
            assert_eq!((figure.limit, figure.unit, figure.met()), (limit, unit, Some(met)), "{files} files");
        }
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        assert!(figures(&[table(2_000, &[])]).iter().all(|figure| figure.met().is_none()));
    }
}
