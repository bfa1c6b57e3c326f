//! What was measured -> `docs/lab.md`, beside the seed's own figures. Pure.

use std::time::Duration;

use super::{
    Table,
    disk::Where,
    figures::{Bound, Figure, figures},
    place::Place,
    row::{Ends, Route, Row, State},
    seed::{self, Theirs},
    site_runs::Outcome,
};
use crate::bench::{
    contender::Named as _,
    page::{Machine, line, seconds, thousands},
};

/// How much was measured.
pub struct Extent {
    /// Files of the site.
    pub files: u32,
    /// What `dd` wrote.
    pub mebibytes: u32,
    /// Rounds of builds.
    pub rounds: u32,
}

/// The whole page. `missing` are places that could not be set up here, with the reason.
pub fn page(machine: &Machine, extent: &Extent, tables: &[Table], missing: &[(Place, String)]) -> String {
    let mut page = heading(machine, extent, missing);
    page += &promises(&figures(tables));
    page += &places(tables);
    page += &lab_one(tables);
    page += &disks(tables, extent);
    for table in tables {
        page += &routes(table);
    }
    page += &choices(tables);
    page += NOTES;
    page
}

fn heading(machine: &Machine, extent: &Extent, missing: &[(Place, String)]) -> String {
    let Machine { cores, kernel, engine, driver } = machine;
    let (files, rounds) = (thousands(extent.files.into()), extent.rounds);
    let mut heading = format!(
        "# The laboratory\n\n\
         Made by `cargo xtask lab`; run it to get the figures of your machine. The slow mounts that people have at home are set \
         up on one Linux machine, and the experiments that the project began with are run on them again. Times are noisy; \
         ratios within one run are what counts.\n\n\
         Machine: {cores} cores, kernel {kernel}, {engine}, storage driver {driver}. A Jekyll site of {files} files, \
         {rounds} rounds.\n"
    );
    for (place, why) in missing {
        heading += &format!("\nNot set up here: {}: {why}.\n", place.name());
    }
    heading
}

fn promises(figures: &[Figure]) -> String {
    let mut page =
        "\n## What was promised\n\n| what | promised | measured | |\n|---|---|---|---|\n".to_owned();
    for figure in figures {
        let promised = match figure.bound {
            Bound::AtLeast(limit) => format!("at least {limit:.2} ×"),
            Bound::Above(limit) => format!("more than {limit:.2} ×"),
            Bound::AtMost(limit) => format!("at most {limit:.2} ×"),
        };
        let met = match figure.met() {
            Some(true) => "met",
            Some(false) => "**not met**",
            None => "not measured",
        };
        let measured = figure.measured.map_or_else(none, |measured| format!("{measured:.2} ×"));
        line(&mut page, &[figure.about.clone(), promised, measured, met.to_owned()]);
    }
    page
}

fn places(tables: &[Table]) -> String {
    let mut page = "\n## The places\n\n| place | stands for | differs |\n|---|---|---|\n".to_owned();
    for place in tables.iter().map(|table| table.place) {
        line(&mut page, &[place.name().into(), place.stands_for().into(), place.differs().into()]);
    }
    page
}

fn lab_one(tables: &[Table]) -> String {
    let mut page = "\n## LAB 1: `jekyll build` by plain `docker run`\n\nThe seed's figures, on its author's machines:\n\n".to_owned();
    page += &theirs(&seed::JEKYLL);
    page += "\nHere: the whole site built anew, in seconds from the start of `docker run` to its end; median, and least to most.\n\n";
    page += "| source → destination |";
    tables.iter().for_each(|table| page += &format!(" {} |", table.place.name()));
    page += &format!("\n|---|{}\n", "---|".repeat(tables.len()));
    for ends in Ends::ALL {
        let cell = |table: &Table| table.rows.get(&Row::Plain(ends)).map_or_else(none, cell);
        let cells = tables.iter().map(cell);
        line(&mut page, &std::iter::once(ends.name().to_owned()).chain(cells).collect::<Vec<_>>());
    }
    page
}

fn disks(tables: &[Table], extent: &Extent) -> String {
    let bytes = u64::from(extent.mebibytes) << 20;
    let mut page =
        "\n## `dd`: one large file\n\nThe seed's figures, for 1 GB, on its author's machines:\n\n".to_owned();
    page += &theirs(&seed::DISK);
    page += &format!(
        "\nHere: {} MB until they are on the disk (`conv=fsync`), in seconds by `dd`'s own count. Layer, tmpfs and volume are \
         the engine's, wherever the sources lie.\n\n| written to |",
        thousands(bytes / 1_000_000)
    );
    tables.iter().for_each(|table| page += &format!(" {} |", table.place.name()));
    page += &format!("\n|---|{}\n", "---|".repeat(tables.len()));
    for place in Where::ALL {
        let cells = tables.iter().map(|table| table.disk.get(&place).map_or_else(none, cell));
        line(&mut page, &std::iter::once(place.name().to_owned()).chain(cells).collect::<Vec<_>>());
    }
    page
}

fn theirs(figures: &[Theirs]) -> String {
    let mut page = "| setting | what | result |\n|---|---|---|\n".to_owned();
    for Theirs { setting, what, result } in figures {
        line(&mut page, &[(*setting).to_owned(), (*what).to_owned(), (*result).to_owned()]);
    }
    page
}

fn routes(table: &Table) -> String {
    let mut page = format!(
        "\n## fastbuild on each route: {}\n\n\
         | what | n | median s | least – most s | times `mount` |\n|---|---|---|---|---|\n",
        table.place.name()
    );
    for (&row, outcome) in &table.rows {
        let base = match row {
            Row::Plain(_) => continue,
            Row::Mounted | Row::Lender => Row::Fastbuild(Route::Mount, State::Kept),
            Row::Fastbuild(_, state) => Row::Fastbuild(Route::Mount, state),
        };
        let samples = outcome.samples();
        let (least, most) = samples.and_then(|samples| samples.range()).unwrap_or_default();
        let median = match outcome {
            Outcome::Took(samples) => samples.median().map_or_else(none, seconds),
            failed => cell(failed),
        };
        let spread = samples.map_or_else(none, |_| format!("{} – {}", seconds(least), seconds(most)));
        let times = table.ratio(row, base).filter(|_| row != base);
        let times = times.map_or_else(none, |ratio| format!("{ratio:.2}"));
        let count = samples.map_or(0, |samples| samples.count()).to_string();
        line(&mut page, &[row.name(), count, median, spread, times]);
    }
    page
}

fn choices(tables: &[Table]) -> String {
    let mut page = "\n## Which route is taken\n\nBy fastbuild itself, and after `fastbuild bench --save`; and the ranking that this \
                    found, by median seconds.\n\n\
                    | place | before | after | ranking |\n|---|---|---|---|\n"
        .to_owned();
    for table in tables {
        let cells = match &table.auto {
            Ok(auto) => {
                let ranking: Vec<_> = auto
                    .ranking
                    .iter()
                    .map(|(route, median)| format!("{route} {}", seconds(*median)))
                    .collect();
                [auto.unmeasured.clone(), auto.measured.clone(), ranking.join(", ")]
            }
            Err(why) => [none(), none(), format!("not measured: {}", in_a_cell(why))],
        };
        let [before, after, ranking] = cells;
        line(&mut page, &[table.place.name().to_owned(), before, after, ranking]);
    }
    page
}

fn none() -> String {
    "–".to_owned()
}

fn cell(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Took(samples) => {
            let (least, most) = samples.range().unwrap_or_default();
            let median = samples.median().map_or_else(none, seconds);
            format!("{median} ({} – {})", seconds(least), seconds(most))
        }
        Outcome::Failed { after, said } => failed(*after, said),
    }
}

fn failed(after: Duration, said: &str) -> String {
    format!("failed after {} s: {}", seconds(after.as_secs_f64()), in_a_cell(said))
}

/// What a command said, as code, on one line and without anything that ends a table's cell.
fn in_a_cell(said: &str) -> String {
    let told: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("`{}`", told.trim().replace('`', "'").replace('|', "\\|"))
}

const NOTES: &str = "\n## How it is measured\n\n\
    - A round gives each contender of a place one turn, in an order that changes. Round 0 is not measured: workspaces and \
    products come about there. File systems are flushed before a turn. Ratios are made within rounds; the tables have \
    their median.\n\
    - Each contender has a tree of its own. One run: no workspace, and no product on this machine. Kept workspace: everything is there, and one \
    post is edited before. The page of that post must be right afterwards.\n\
    - `mount-source` has Jekyll's cache as an output too, for Jekyll writes it beside the sources.\n\
    - A contender that fails is a result, and has no further turns.\n\
    - `docker run` with the project mounted is what people do without fastbuild; `--route mount` is the same by fastbuild.\n\
    - Whatever is read a second time comes from this machine's page cache, in all places.\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::stats::Samples;

    #[test]
    fn what_a_command_said_stays_in_its_cell() {
        let said = "Operation not permitted @ apply2files - /tmp/a|b `x`\nmore";
        let cell = failed(Duration::from_millis(1500), said);
        assert_eq!(
            cell,
            "failed after 1.500 s: `Operation not permitted @ apply2files - /tmp/a\\|b 'x' more`"
        );
    }

    #[test]
    fn a_figure_that_is_not_met_is_said_to_be_so() {
        let figure = |measured| Figure { about: "x".into(), bound: Bound::AtLeast(3.0), measured };
        let page = promises(&[figure(Some(2.5)), figure(Some(3.5)), figure(None)]);
        let rows: Vec<&str> = page.lines().skip(5).collect();
        assert_eq!(
            rows,
            [
                "| x | at least 3.00 × | 2.50 × | **not met** |",
                "| x | at least 3.00 × | 3.50 × | met |",
                "| x | at least 3.00 × | – | not measured |",
            ]
        );
    }

    #[test]
    fn a_place_without_measurements_has_a_column_all_the_same() {
        let mut samples = Samples::default();
        samples.push(1, 2.0);
        let table = |place, rows| Table { place, rows, disk: Default::default(), auto: Err("x".into()) };
        let one = [(Row::Plain(Ends::VolumeToVolume), Outcome::Took(samples))].into();
        let page = lab_one(&[table(Place::Local, one), table(Place::Sshfs, Default::default())]);
        assert!(page.contains("| volume → volume | 2.000 (2.000 – 2.000) | – |\n"), "{page}");
    }
}
