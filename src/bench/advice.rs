//! The measurements -> the route to take, and why, in one sentence. Pure.
//!
//! The fastest route wins, unless a route that keeps the build away from this machine's files is as
//! fast: within a tenth of it, or nearer than the rounds of one route are to each other, which is
//! the spread on a busy machine. Among those, `layer` comes first, because it is fastbuild's
//! default and needs neither memory nor a volume.

use serde::{Deserialize, Serialize};

use super::{
    figures::{self, times},
    report::{DiskFigures, Place, Report, RouteRow, Samples},
};
use crate::{
    spec::{EngineChoice, Route},
    text::numbers,
};

/// A route that takes at most this many times as long as the fastest counts as equal.
const NEAR: f64 = 1.1;

/// The route to take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The route.
    pub route: Route,
    /// Why, with the figures: a clause without a full stop. Names of routes stand in backticks.
    pub reason: String,
}

impl Choice {
    /// One sentence: the reason, and how to get it.
    pub fn advice(&self) -> String {
        let own = match self.route {
            Route::Layer => ", which is what fastbuild does by itself",
            // A measurement never selects another engine.
            Route::Host => "",
            _ => "; `--save` has later builds take it",
        };
        format!("{}: `fastbuild --route {}`{own}.", self.reason, self.route)
    }
}

/// One row of a ranking.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked<T> {
    /// The measured thing.
    pub what: T,
    /// Its median in seconds, above zero.
    pub median: f64,
    /// Least and most, in seconds.
    pub spread: (f64, f64),
    /// The same without one round at either end, if there are enough: one slow round is not a
    /// spread.
    core: (f64, f64),
    /// How many times the best median this is; 1 for the best.
    pub ratio: f64,
}

/// Fastest first, equal ones in the order given. Leaves out empty samples and impossible times.
pub fn rank<'a, T>(measured: impl IntoIterator<Item = (T, &'a Samples)>) -> Vec<Ranked<T>> {
    let mut ranking: Vec<Ranked<T>> = measured
        .into_iter()
        .filter_map(|(what, samples)| {
            let spread = samples.spread().filter(|(least, most)| *least > 0.0 && most.is_finite())?;
            Some(Ranked { what, median: samples.median()?, spread, core: samples.core()?, ratio: 1.0 })
        })
        .collect();
    ranking.sort_by(|a, b| a.median.total_cmp(&b.median));
    let best = ranking.first().map_or(1.0, |first| first.median);
    ranking.iter_mut().for_each(|row| row.ratio = row.median / best);
    ranking
}

/// The routes on which the command ran, fastest first.
pub fn rank_routes(report: &Report) -> Vec<Ranked<Route>> {
    let done = |row: &RouteRow| Some((row.route, row.result.done()?.clone()));
    let measured: Vec<(Route, Samples)> = report.routes.iter().filter_map(done).collect();
    rank(measured.iter().map(|(route, samples)| (*route, samples)))
}

/// The route to take by the measurements: by the command if it ran on any route, else by the small
/// files of the disk part. None when these do not tell.
pub fn choose(report: &Report) -> Option<Choice> {
    choose_from(&rank_routes(report)).or_else(|| choose_by_disk(report))
}

/// The route to save: as [`choose`], but only of the build's engine, because a measurement must not
/// move a project to another engine.
pub fn choose_to_save(report: &Report, engine: EngineChoice) -> Option<Choice> {
    let is_of_engine = |route: Route| engine == EngineChoice::Host || route != Route::Host;
    let mut ranking = rank_routes(report);
    ranking.retain(|row| is_of_engine(row.what));
    choose_from(&ranking).or_else(|| choose_by_disk(report))
}

fn choose_from(ranking: &[Ranked<Route>]) -> Option<Choice> {
    let chosen = pick(ranking)?;
    Some(Choice { route: chosen.what, reason: reason(chosen, ranking, "") })
}

fn pick(ranking: &[Ranked<Route>]) -> Option<&Ranked<Route>> {
    let best = ranking.first()?;
    let as_good = |row: &&Ranked<Route>| row.ratio <= NEAR || is_draw(best, row);
    let safe = || ranking.iter().filter(as_good).filter(|row| keeps_host_safe(row.what));
    safe().find(|row| row.what == Route::Layer).or_else(|| safe().next()).or(Some(best))
}

/// Whether a failed build leaves this machine's files as they were.
fn keeps_host_safe(route: Route) -> bool {
    route != Route::Mount
}

/// The routes to compare `chosen` with: the usual `mount`, the default, the fastest, and those as
/// fast as the fastest; if there are none, the next in the ranking.
fn baselines<'a>(chosen: &Ranked<Route>, ranking: &'a [Ranked<Route>]) -> Vec<&'a Ranked<Route>> {
    let others = || ranking.iter().filter(|row| row.what != chosen.what);
    let told = |row: &&Ranked<Route>| {
        let known = matches!(row.what, Route::Mount | Route::Layer);
        known || row.ratio == 1.0 || (chosen.ratio == 1.0 && is_draw(chosen, row))
    };
    let mut baselines: Vec<_> = others().filter(told).collect();
    if baselines.is_empty() {
        baselines.extend(others().next());
    }
    baselines.sort_by_key(|row| (row.what != Route::Mount, row.what != Route::Layer));
    baselines
}

/// `of` names the subject of the times if it is not the command: ` with 2,000 small files`.
fn reason(chosen: &Ranked<Route>, ranking: &[Ranked<Route>], of: &str) -> String {
    let baselines = baselines(chosen, ranking);
    let own = seconds(chosen.median);
    if baselines.is_empty() {
        return format!("`{}` is the only route that could be measured here{of} ({own})", chosen.what);
    }
    let said: Vec<String> = baselines.iter().map(|row| compared(chosen, row)).collect();
    let others: Vec<String> = baselines.iter().map(|row| seconds(row.median)).collect();
    let blurred: Vec<String> = baselines
        .iter()
        .filter(|row| spreads_overlap(chosen, row))
        .map(|row| format!("`{}`", row.what))
        .collect();
    let doubt = if blurred.is_empty() {
        String::new()
    } else {
        format!("; spreads overlap with {}", listed(&blurred))
    };
    let mut reason =
        format!("`{}` is {} here{of} ({own} against {}{doubt})", chosen.what, listed(&said), listed(&others));
    if baselines.iter().any(|row| row.what == Route::Mount && row.median <= chosen.median * NEAR) {
        reason += ", and leaves this machine's files alone until the build has ended well";
    }
    reason
}

fn spreads_overlap(one: &Ranked<Route>, other: &Ranked<Route>) -> bool {
    one.spread.0 <= other.spread.1 && other.spread.0 <= one.spread.1
}

/// Whether the difference is no larger than the spread between the rounds of one route.
fn is_draw(one: &Ranked<Route>, other: &Ranked<Route>) -> bool {
    one.core.0 <= other.core.1 && other.core.0 <= one.core.1
}

/// How `chosen` compares with `other`.
fn compared(chosen: &Ranked<Route>, other: &Ranked<Route>) -> String {
    let (ratio, name) = (other.median / chosen.median, other.what);
    let percent = |ratio: f64| ((ratio - 1.0) * 100.0).round().max(1.0);
    match ratio {
        _ if is_draw(chosen, other) => format!("in a draw with `{name}`"),
        NEAR.. => format!("{} times as fast as `{name}`", times(ratio)),
        ..1.0 => format!("{} % slower than `{name}`", percent(ratio.recip())),
        _ => format!("{} % faster than `{name}`", percent(ratio)),
    }
}

fn seconds(seconds: f64) -> String {
    format!("{} s", figures::seconds(seconds))
}

fn listed(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// The route on which files lie at a place. The host route's directory is not in the disk part.
pub(super) fn route_of(place: Place) -> Option<Route> {
    match place {
        Place::SourceDirectory => None,
        Place::Layer => Some(Route::Layer),
        Place::Tmpfs => Some(Route::Tmpfs),
        Place::Volume => Some(Route::Volume),
        Place::BindMount => Some(Route::Mount),
    }
}

/// Small files decide, because builds consist of them; the large file is only reported. A route on
/// which the command failed is not advised.
fn choose_by_disk(report: &Report) -> Option<Choice> {
    let failed = |route| report.routes.iter().any(|row| row.route == route && row.result.done().is_none());
    let figures: Vec<(Route, &DiskFigures)> = report
        .disk
        .iter()
        .filter_map(|row| Some((route_of(row.place)?, row.result.done()?)))
        .filter(|(route, _)| !failed(*route))
        .collect();
    let small: Vec<(Route, Samples)> = figures.iter().map(|(route, of)| (*route, of.small())).collect();
    let ranking = rank(small.iter().map(|(route, samples)| (*route, samples)));
    let chosen = pick(&ranking)?;
    let of = |route: Route| figures.iter().find(|(r, _)| *r == route).map(|(_, figures)| *figures);
    let files = of(chosen.what)?.files;
    let mut reason = reason(chosen, &ranking, &format!(" with {}", numbers::counted(files, "small file")));
    if let Some(other) = baselines(chosen, &ranking).first().and_then(|row| of(row.what)) {
        reason += &large(of(chosen.what)?, other).unwrap_or_default();
    }
    Some(Choice { route: chosen.what, reason })
}

fn large(chosen: &DiskFigures, other: &DiskFigures) -> Option<String> {
    let against = |mine: &Samples, its: &Samples| {
        Some(format!("{} against {}", seconds(mine.median()?), seconds(its.median()?)))
    };
    Some(format!(
        "; a file of {} takes {} to write and {} to read",
        numbers::bytes(chosen.sequential_bytes),
        against(&chosen.write, &other.write)?,
        against(&chosen.read, &other.read)?
    ))
}

#[cfg(test)]
mod tests {
    use super::{super::Measured, *};
    use crate::bench::sample;

    fn around(median: f64, by: f64) -> Samples {
        Samples(vec![median + by, median, median - by])
    }

    fn choose_among(measured: &[(Route, Samples)]) -> Option<Choice> {
        choose_from(&rank(measured.iter().map(|(route, samples)| (*route, samples))))
    }

    /// A route, its median, and the distance of samples from it.
    type Row = (Route, f64, f64);

    fn choice(measured: &[Row]) -> (Route, String) {
        let measured: Vec<(Route, Samples)> =
            measured.iter().map(|&(route, median, by)| (route, around(median, by))).collect();
        let choice = choose_among(&measured).unwrap();
        (choice.route, choice.reason)
    }

    #[test]
    fn the_fastest_route_is_chosen_or_a_safe_one_near_it_and_the_reason_has_the_figures() {
        use Route::{Host, Layer, Mount, MountSource, Tmpfs, Volume};
        let cases: &[&[Row]] = &[
            &[(Layer, 1.2, 0.1), (Mount, 4.92, 0.1)],
            &[(Mount, 1.0, 0.1), (Layer, 1.09, 0.1)],
            &[(Mount, 1.0, 0.01), (Host, 1.08, 0.01), (Volume, 1.05, 0.01)],
            &[(Mount, 1.0, 0.01), (Layer, 1.2, 0.01)],
            &[(Tmpfs, 1.0, 0.2), (Layer, 1.2, 0.2)],
            &[(Layer, 1.05, 0.01), (Tmpfs, 1.0, 0.01), (Mount, 9.0, 0.5)],
            &[(Layer, 66.82, 1.0), (Volume, 3.39, 0.1)],
            &[(Layer, 1.5, 0.01), (Tmpfs, 1.0, 0.01), (Mount, 9.0, 0.5)],
            &[(MountSource, 1.0, 0.01), (Host, 1.5, 0.01)],
            &[(Layer, 1.0, 0.01), (Mount, 1.04, 0.01)],
            &[(Host, 1.0, 0.1)],
        ];
        let told = cases.iter().map(|measured| {
            let (route, reason) = choice(measured);
            assert!(reason.starts_with(&format!("`{route}` is")));
            reason
        });
        insta::assert_snapshot!(told.collect::<Vec<_>>().join("\n"), @r"
        `layer` is 4.1 times as fast as `mount` here (1.20 s against 4.92 s)
        `layer` is in a draw with `mount` here (1.09 s against 1.00 s; spreads overlap with `mount`), and leaves this machine's files alone until the build has ended well
        `volume` is 5 % slower than `mount` here (1.05 s against 1.00 s), and leaves this machine's files alone until the build has ended well
        `mount` is 1.2 times as fast as `layer` here (1.00 s against 1.20 s)
        `layer` is in a draw with `tmpfs` here (1.20 s against 1.00 s; spreads overlap with `tmpfs`)
        `layer` is 8.6 times as fast as `mount` and 5 % slower than `tmpfs` here (1.05 s against 9.00 s and 1.00 s)
        `volume` is 20 times as fast as `layer` here (3.39 s against 66.8 s)
        `tmpfs` is 9.0 times as fast as `mount` and 1.5 times as fast as `layer` here (1.00 s against 9.00 s and 1.50 s)
        `mount-source` is 1.5 times as fast as `host` here (1.00 s against 1.50 s)
        `layer` is 4 % faster than `mount` here (1.00 s against 1.04 s), and leaves this machine's files alone until the build has ended well
        `host` is the only route that could be measured here (1.00 s)
        ");
    }

    #[test]
    fn a_route_that_is_slower_by_more_than_a_tenth_and_the_spread_is_never_chosen() {
        for percent in 0..80 {
            let layer = 1.0 + f64::from(percent) / 100.0;
            for (spread, draw) in [(0.01, NEAR), (0.1, 1.2), (0.3, 1.6)] {
                let (route, _) = choice(&[(Route::Layer, layer, spread), (Route::Tmpfs, 1.0, spread)]);
                let expected = if layer <= draw { Route::Layer } else { Route::Tmpfs };
                assert!(route == expected || (layer - draw).abs() < 0.005, "{layer} +- {spread}: {route}");
            }
        }
    }

    #[test]
    fn one_slow_round_among_many_makes_no_draw() {
        let layer = Samples(vec![4.0, 4.1, 4.2, 4.1, 0.9]);
        let tmpfs = Samples(vec![1.0, 1.0, 1.1, 1.0, 9.0]);
        let choice = choose_among(&[(Route::Layer, layer), (Route::Tmpfs, tmpfs)]).unwrap();
        assert_eq!(choice.route, Route::Tmpfs, "{}", choice.reason);
    }

    #[test]
    fn what_was_not_measured_or_cannot_be_true_chooses_nothing() {
        let empty = Samples::default();
        let odd = [vec![0.0], vec![f64::NAN], vec![f64::INFINITY], vec![-1.0]];
        for samples in odd.map(Samples).into_iter().chain([empty]) {
            assert_eq!(choose_among(&[(Route::Layer, samples.clone())]), None, "{samples:?}");
        }
        assert_eq!(choose_among(&[]), None);
    }

    #[test]
    fn the_advice_is_one_sentence_that_can_be_followed() {
        let advice = |route| Choice { route, reason: "x".into() }.advice();
        assert_eq!(
            advice(Route::Layer),
            "x: `fastbuild --route layer`, which is what fastbuild does by itself."
        );
        assert_eq!(advice(Route::Host), "x: `fastbuild --route host`.");
        assert_eq!(advice(Route::Tmpfs), "x: `fastbuild --route tmpfs`; `--save` has later builds take it.");
    }

    #[test]
    fn a_ranking_has_the_ratio_to_the_best_and_leaves_out_what_has_no_figure() {
        let (a, b, none) = (around(4.0, 1.0), around(1.0, 0.5), Samples::default());
        let ranking = rank([('a', &a), ('n', &none), ('b', &b)]);
        let rows: Vec<_> = ranking.iter().map(|row| (row.what, row.ratio, row.spread)).collect();
        assert_eq!(rows, [('b', 1.0, (0.5, 1.5)), ('a', 4.0, (3.0, 5.0))]);
    }

    #[test]
    fn without_a_command_small_files_decide_and_the_large_file_is_told() {
        let report = Report { command: None, routes: vec![], ..sample::report() };
        let choice = choose(&report).unwrap();
        assert_eq!(choice.route, Route::Layer);
        assert_eq!(
            choice.reason,
            "`layer` is 41 times as fast as `mount` and 10 % slower than `volume` here with 2,000 small files (0.220 s \
             against 9.03 s and 0.201 s); a file of 1.1 GB takes 1.34 s against 7.02 s to write and 0.310 s against 4.11 s to \
             read"
        );
    }

    #[test]
    fn a_route_that_failed_with_the_command_is_not_advised_because_of_the_disk() {
        let mut report = sample::report();
        let failed =
            |route| RouteRow { route, result: Measured::Failed { why: "exit code 1".into() }, first: None };
        report.routes = vec![failed(Route::Layer), failed(Route::Tmpfs)];
        assert_eq!(choose(&report).map(|choice| choice.route), Some(Route::Volume));
        report.routes = [Route::Layer, Route::Tmpfs, Route::Volume, Route::Mount].map(failed).into();
        assert_eq!(choose(&report), None);
    }
}
