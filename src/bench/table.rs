//! A report -> plain text for a terminal: aligned, without escape codes. Pure.
//!
//! The disk part has a column for each place, so that compared figures stand side by side and all
//! fits into 80 columns. Ratios are to the fastest of the compared figures.

use std::fmt::Write as _;

use super::{
    advice::{self, Ranked},
    figures::{Amounts, Op, absence, seconds, spread, times},
    report::{DiskRow, Place, Report, RouteRow},
};
use crate::{spec::Route, text::one_line};

/// The hint for a report without a command.
pub(super) const ONLY_DISK: &str =
    "Only the disk was measured. What a build takes on each route: `fastbuild bench -- COMMAND`.";

/// All tables, with the advice at the end.
pub fn render(report: &Report) -> String {
    let mut parts = vec![disk(report), routes(report)];
    parts.push(advice::choose(report).map(|choice| choice.advice() + "\n").unwrap_or_default());
    if report.command.is_none() {
        parts.push(format!("{ONLY_DISK}\n"));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

fn disk(report: &Report) -> String {
    let mut out = String::new();
    if let Some(amounts) = Amounts::of(report) {
        let done: Vec<&DiskRow> = report.disk.iter().filter(|row| row.result.done().is_some()).collect();
        let mut table = Table::new(done.iter().map(|row| heading(row.place).to_owned()));
        for op in Op::ALL {
            match op {
                Op::Write => table.title(&format!("one file of {}", amounts.large)),
                Op::Create => table.title(&amounts.small),
                _ => {}
            }
            table.row(format!("  {}", op.verb()), across(&done, op));
        }
        out += &table.to_string();
    }
    for row in &report.disk {
        if let Some((what, why)) = absence(&row.result) {
            out += &format!("{} {what}: {}\n", row.place, one_line(why));
        }
    }
    out
}

fn heading(place: Place) -> &'static str {
    match place {
        Place::SourceDirectory => "source dir",
        Place::Layer => "layer",
        Place::Tmpfs => "tmpfs",
        Place::Volume => "volume",
        Place::BindMount => "bind mount",
    }
}

/// A cell for each place: seconds, and the ratio to the fastest.
fn across(places: &[&DiskRow], op: Op) -> Vec<String> {
    let samples: Vec<_> =
        places.iter().filter_map(|row| Some((row.place, op.of(row.result.done()?)))).collect();
    let ranking = advice::rank(samples.iter().map(|(place, samples)| (*place, samples)));
    let cell = |row: &&DiskRow| {
        let ranked = ranking.iter().find(|ranked| ranked.what == row.place);
        ranked.map_or_else(|| "–".to_owned(), |row| format!("{} {:>4}", seconds(row.median), ratio(row)))
    };
    places.iter().map(cell).collect()
}

fn ratio<T>(row: &Ranked<T>) -> String {
    format!("{}×", times(row.ratio))
}

fn routes(report: &Report) -> String {
    let ranking = advice::rank_routes(report);
    let mut out = String::new();
    if !ranking.is_empty() {
        let mut table =
            Table::new(["median", "least – most", "ratio", "first run"].map(str::to_owned).into_iter());
        for row in &ranking {
            let first = first_run(report, row.what).map_or_else(|| "–".to_owned(), seconds);
            table.row(row.what.to_string(), vec![seconds(row.median), spread(row.spread), ratio(row), first]);
        }
        out += &table.to_string();
    }
    for row in &report.routes {
        if let Some((what, why)) = absence(&row.result) {
            writeln!(out, "{} {what}: {}", row.route, one_line(why)).unwrap_or_default();
        }
    }
    out
}

/// Seconds of the first run on `route`.
pub(super) fn first_run(report: &Report, route: Route) -> Option<f64> {
    report.routes.iter().find(|row: &&RouteRow| row.route == route)?.first
}

/// Rows with a name at the left and cells at the right, under headings; titles come between rows.
struct Table {
    lines: Vec<(String, Vec<String>)>,
}

impl Table {
    fn new(headings: impl Iterator<Item = String>) -> Table {
        Table { lines: vec![("seconds".to_owned(), headings.collect())] }
    }

    fn title(&mut self, title: &str) {
        self.lines.push((title.to_owned(), Vec::new()));
    }

    fn row(&mut self, name: String, cells: Vec<String>) {
        self.lines.push((name, cells));
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let chars = |text: &String| text.chars().count();
        let columns = self.lines.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0);
        let width = |at: usize| {
            self.lines.iter().filter_map(|(_, cells)| cells.get(at)).map(chars).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let names =
            self.lines.iter().filter(|(_, cells)| !cells.is_empty()).map(|(name, _)| chars(name)).max();
        for (name, cells) in &self.lines {
            let mut line = format!("{name:0$}", names.unwrap_or(0));
            for (cell, width) in cells.iter().zip(&widths) {
                write!(line, "  {cell:>width$}")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Measured, sample};

    #[test]
    fn the_tables_have_what_was_measured_with_ratios_and_the_advice() {
        insta::assert_snapshot!(render(&sample::report()), @r"
        seconds         source dir        layer       volume  bind mount
        one file of 1.1 GB
          write          6.81 5.3×    1.34 1.0×    1.29 1.0×   7.02 5.4×
          read           4.02  13×   0.310 1.0×   0.300 1.0×   4.11  14×
        2,000 small files
          create         3.88  39×   0.112 1.1×   0.100 1.0×   4.19  42×
          stat          0.405  69×  0.0060 1.0×  0.0059 1.0×  0.437  75×
          read           1.90  60×   0.033 1.0×   0.032 1.0×   1.99  63×
          rename         1.20  47×   0.028 1.1×   0.025 1.0×   1.28  50×
          delete         1.04  27×   0.043 1.1×   0.038 1.0×   1.13  29×
          all together   8.42  42×   0.220 1.1×   0.201 1.0×   9.03  45×
        tmpfs failed: no space left on device

        seconds       median  least – most  ratio  first run
        layer           2.94   2.88 – 3.12   1.0×       5.31
        volume          2.97   2.91 – 3.20   1.0×       5.44
        mount-source    6.40   6.21 – 6.52   2.2×       6.90
        mount           11.3   11.1 – 12.4   3.8×       11.9
        tmpfs failed: exit code 1: No space left on device @ fptr_finalize_flush
        host not offered: jekyll is not on this machine

        `layer` is 3.8 times as fast as `mount` and in a draw with `volume` here (2.94 s against 11.3 s and 2.97 s; spreads overlap with `volume`): `fastbuild --route layer`, which is what fastbuild does by itself.
        ");
    }

    #[test]
    fn without_a_command_there_is_the_disk_alone_and_the_way_to_more() {
        let mut report = Report { command: None, routes: vec![], ..sample::report() };
        report.disk.truncate(2);
        insta::assert_snapshot!(render(&report), @r"
        seconds         source dir        layer
        one file of 1.1 GB
          write          6.81 5.1×    1.34 1.0×
          read           4.02  13×   0.310 1.0×
        2,000 small files
          create         3.88  35×   0.112 1.0×
          stat          0.405  68×  0.0060 1.0×
          read           1.90  58×   0.033 1.0×
          rename         1.20  43×   0.028 1.0×
          delete         1.04  25×   0.043 1.0×
          all together   8.42  38×   0.220 1.0×

        `layer` is the only route that could be measured here with 2,000 small files (0.220 s): `fastbuild --route layer`, which is what fastbuild does by itself.

        Only the disk was measured. What a build takes on each route: `fastbuild bench -- COMMAND`.
        ");
    }

    #[test]
    fn lines_fit_into_eighty_columns_whatever_is_compared() {
        let mut report = sample::report();
        report.disk[2].result = report.disk[4].result.clone();
        for line in disk(&report).lines().chain(routes(&report).lines()) {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn nothing_that_an_engine_said_moves_the_cursor_or_forges_a_line() {
        let mut report = sample::report();
        report.disk[0].result = Measured::Failed { why: "no\x1b[2J\nlayer 0.001".into() };
        report.routes[0].result = Measured::NotOffered { why: "\r\u{202e}all is well".into() };
        let text = render(&report);
        assert!(text.contains("source directory failed: no\\u{1b}[2J\\nlayer 0.001\n"), "{text}");
        assert!(text.contains("layer not offered: \\r\\u{202e}all is well\n"), "{text}");
    }

    #[test]
    fn a_report_of_nothing_is_no_table() {
        let report =
            Report { command: Some(vec!["x".into()]), disk: vec![], routes: vec![], ..sample::report() };
        assert_eq!(render(&report), "");
    }
}
