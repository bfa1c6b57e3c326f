//! Tables -> `docs/benchmarks.md`. Pure.

use std::fmt::Write as _;

use super::{
    Table, What,
    figures::{self, Figure, Unit},
};

/// Where it was measured.
pub struct Machine {
    /// Processors.
    pub cores: usize,
    /// The engine's.
    pub kernel: String,
    /// Name and version.
    pub engine: String,
    /// Storage driver.
    pub driver: String,
}

/// The whole page, but for what `--memory` adds.
pub fn page(machine: &Machine, tables: &[Table]) -> String {
    let mut page = heading(machine);
    page += &promises(&figures::figures(tables));
    for table in tables {
        page += &section(table);
    }
    page += NOTES;
    page
}

fn heading(machine: &Machine) -> String {
    let Machine { cores, kernel, engine, driver } = machine;
    format!(
        "# Benchmarks\n\n\
         Made by `cargo xtask bench`; run it to get the figures of your machine. Times are noisy, ratios within one run \
         are what counts.\n\n\
         Machine: {cores} cores, kernel {kernel}, {engine}, storage driver {driver}.\n\n\
         ![Median seconds of each contender, on a logarithmic scale](benchmarks.svg)\n"
    )
}

fn promises(figures: &[Figure]) -> String {
    let mut page =
        "\n## What was promised\n\n| what | at most | measured | |\n|---|---|---|---|\n".to_owned();
    for figure in figures {
        let met = match figure.met() {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "not measured",
        };
        let measured =
            figure.measured.map_or_else(|| "–".to_owned(), |measured| amount(measured, figure.unit));
        line(&mut page, &[figure.about.clone(), amount(figure.limit, figure.unit), measured, met.to_owned()]);
    }
    page
}

fn amount(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Times => format!("{value:.2} ×"),
        Unit::Seconds => format!("{value:.3} s"),
        Unit::Milliseconds => format!("{value:.1} ms"),
        Unit::Bytes => format!("{} B", thousands(value.max(0.0).round() as u64)),
        Unit::Megabytes => format!("{value:.1} MB"),
        Unit::Percent => format!("{value:.1} %"),
    }
}

fn section(table: &Table) -> String {
    let mut page = format!(
        "\n## {}\n\nFiles of {} bytes. `n` is how many rounds a contender had a turn in.\n\n\
         | what | n | median s | least – most s | above `docker exec`, s | times it | wire, kB | peak here, MB | peak there, MB |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        table.title,
        thousands(table.site.each as u64),
    );
    for (&what, samples) in &table.samples {
        let (least, most) = samples.range().unwrap_or_default();
        let account = table.accounts.get(&what);
        let or_none = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
        let compared = (what != What::Exec).then_some(What::Exec);
        line(
            &mut page,
            &[
                what.name().to_owned(),
                samples.count().to_string(),
                or_none(samples.median().map(seconds)),
                format!("{} – {}", seconds(least), seconds(most)),
                or_none(compared.and_then(|base| table.above(what, base)).map(seconds)),
                or_none(compared.and_then(|base| table.ratio(what, base)).map(|ratio| format!("{ratio:.2}"))),
                or_none(account.and_then(|a| a.near.wire).map(|bytes| thousands(bytes.div_ceil(1000)))),
                or_none(account.and_then(|a| a.near.peak).map(|bytes| format!("{:.1}", bytes as f64 / 1e6))),
                or_none(account.and_then(|a| a.far_peak).map(|bytes| format!("{:.1}", bytes as f64 / 1e6))),
            ],
        );
    }
    page
}

const NOTES: &str = "\n## How it is measured\n\n\
    - A round gives each contender one turn, in an order that changes; slow ones have theirs in some of the rounds. \
    File systems are flushed before a turn. What a turn made is compared with what it should be, and a wrong result ends \
    the bench. Comparisons are made within a round; the table has their median.\n\
    - `docker exec` runs in the container that fastbuild keeps: it moves no file, so it is what the others are measured against.\n\
    - fastbuild scans both ends and compares all of the tree in each build. `rsync` compares sizes and times alone. A mount lies \
    on a local disk here; on a mount that crosses a virtual machine or a network it would be another row.\n\
    - All of the others start with one file edited. With `true` the whole tree is what comes back; with `jekyll build` it is `_site`.\n\
    - Bytes on the wire, both ways, are counted by a proxy in front of the engine's socket; the peak here is that of the \
    largest process on this side (docker's client for most of the others). Both are counted in turns that are not timed.\n";

/// A line of a table.
pub fn line(page: &mut String, cells: &[String]) {
    // Writing to a string cannot fail.
    writeln!(page, "| {} |", cells.join(" | ")).unwrap_or_default();
}

/// Three figures that tell something.
pub fn seconds(value: f64) -> String {
    if value.abs() < 10.0 { format!("{value:.3}") } else { format!("{value:.1}") }
}

/// `1234567` as `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (100_003, "100,003"), (1_234_567, "1,234,567")]
        {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn a_promise_is_met_missed_or_not_measured() {
        let figure = |measured| Figure { about: "x".into(), limit: 10.0, measured, unit: Unit::Milliseconds };
        let page = promises(&[figure(Some(9.96)), figure(Some(-3.0)), figure(Some(10.4)), figure(None)]);
        let rows: Vec<&str> = page.lines().skip(5).collect();
        assert_eq!(
            rows,
            [
                "| x | 10.0 ms | 10.0 ms | met |",
                "| x | 10.0 ms | -3.0 ms | met |",
                "| x | 10.0 ms | 10.4 ms | **missed** |",
                "| x | 10.0 ms | – | not measured |",
            ]
        );
    }
}
