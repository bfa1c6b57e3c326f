//! A report -> one self-contained page without requests or scripts. Pure.
//!
//! Every text passes through `maud`, which escapes it, and texts from outside first through
//! [`one_line`]. The page's own policy forbids scripts and requests. Bars are SVG without a view
//! box: lengths are in percent and text in pixels, so that a phone shows shorter bars and the same
//! letters.

mod bars;

use std::time::{Duration, UNIX_EPOCH};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::bars::{Bar, Bars, Outcome};
use super::{
    advice::{self, Choice},
    figures::{Amounts, Op, absence},
    report::{DiskRow, Report, Source},
    table::{ONLY_DISK, first_run},
};
use crate::{
    args::Extent,
    spec::Route,
    text::{numbers, one_line, shell_words},
};

const STYLE: &str = include_str!("page.css");
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// The page.
pub fn render(report: &Report) -> String {
    let choice = advice::choose(report);
    let command = report.command.as_ref().map(|words| one_line(&shell_words(words)));
    page(report, choice.as_ref(), command.as_deref()).into_string()
}

fn page(report: &Report, choice: Option<&Choice>, command: Option<&str>) -> Markup {
    let chosen = choice.map(|choice| choice.route);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "fastbuild bench" @if let Some(command) = command { ": " (command) } }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (headline(choice, command))
                    (routes(report, chosen))
                    (disk(report, chosen))
                    (circumstances(report, command))
                }
            }
        }
    }
}

fn headline(choice: Option<&Choice>, command: Option<&str>) -> Markup {
    html! {
        header {
            p.quiet { "fastbuild bench" @if let Some(command) = command { " of " code { (command) } } }
            h1 {
                @match choice {
                    Some(choice) => (sentence(&choice.advice())),
                    None => "Nothing could be measured here, so there is no advice.",
                }
            }
            @if command.is_none() { p { (marked(ONLY_DISK)) } }
        }
    }
}

/// The advice, with its figures less prominent than its text.
fn sentence(text: &str) -> Markup {
    let parts = text.split_once(" (").and_then(|(said, rest)| Some((said, rest.split_once(')')?)));
    html! {
        @match parts {
            Some((said, (figures, rest))) => {
                (marked(said)) " " span.figures { "(" (marked(figures)) ")" } (marked(rest))
            }
            None => (marked(text)),
        }
    }
}

/// Text in backticks is code.
fn marked(text: &str) -> Markup {
    html! {
        @for (at, part) in text.split('`').enumerate() {
            @if at % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn routes(report: &Report, chosen: Option<Route>) -> Markup {
    let ranking = advice::rank_routes(report);
    let done = ranking.iter().map(|row| Bar {
        name: row.what.to_string(),
        chosen: Some(row.what) == chosen,
        outcome: Outcome::Done { figures: row.into(), first: first_run(report, row.what) },
    });
    let absent = report.routes.iter().filter_map(|row| {
        let outcome = Outcome::absent(absence(&row.result)?);
        Some(Bar { name: row.route.to_string(), chosen: false, outcome })
    });
    let bars = Bars {
        id: "routes".to_owned(),
        of: "The command on each route".to_owned(),
        bars: done.chain(absent).collect(),
    };
    html! {
        @if !bars.bars.is_empty() {
            section {
                h2 { (bars.of) }
                p.quiet {
                    "Seconds of a whole run, with the way there and back: median of the runs, and a line from the least to the \
                     most. The first run, in which nothing is there yet, is told apart."
                }
                figure.card { (bars.picture()) }
                (bars.table())
            }
        }
    }
}

fn disk(report: &Report, chosen: Option<Route>) -> Markup {
    const SMALL: [Op; 6] = [Op::Small, Op::Create, Op::Stat, Op::ReadSmall, Op::Rename, Op::Delete];
    const LARGE: [Op; 2] = [Op::Write, Op::Read];
    let Some(amounts) = Amounts::of(report) else { return absent_places(report) };
    html! {
        section {
            h2 { "The disk in each place" }
            p.quiet { "Seconds. Each picture has a scale of its own, which begins at zero." }
            @for (title, ops) in [(amounts.small, &SMALL[..]), (format!("One file of {}", amounts.large), &LARGE[..])] {
                h3 { (title) }
                div.grid { @for op in ops { (multiple(report, *op, &title, chosen)) } }
            }
            (absent_places(report))
        }
    }
}

/// One chart of the disk part, with its figures to unfold.
fn multiple(report: &Report, op: Op, title: &str, chosen: Option<Route>) -> Markup {
    let samples: Vec<_> =
        report.disk.iter().filter_map(|row| Some((row.place, op.of(row.result.done()?)))).collect();
    let ranking = advice::rank(samples.iter().map(|(place, samples)| (*place, samples)));
    let bar = |row: &DiskRow| {
        let ranked = ranking.iter().find(|ranked| ranked.what == row.place)?;
        Some(Bar {
            name: row.place.to_string(),
            chosen: chosen.is_some() && advice::route_of(row.place) == chosen,
            outcome: Outcome::Done { figures: ranked.into(), first: None },
        })
    };
    let bars = Bars {
        id: format!("{op:?}").to_lowercase(),
        of: format!("{title}: {}", op.verb()),
        bars: report.disk.iter().filter_map(bar).collect(),
    };
    html! {
        figure.card {
            h4 { (op.verb()) }
            (bars.picture())
            details { summary { "Figures" } (bars.table()) }
        }
    }
}

fn absent_places(report: &Report) -> Markup {
    html! {
        @for row in &report.disk {
            @if let Some((what, why)) = absence(&row.result) {
                p.quiet { b { (row.place) } " " (what) ": " (one_line(why)) }
            }
        }
    }
}

fn circumstances(report: &Report, command: Option<&str>) -> Markup {
    let Source { file_system, files, bytes } = &report.source;
    let extent = match report.extent {
        Extent::Quick => "quick: less data and fewer rounds",
        Extent::Full => "full",
    };
    html! {
        section {
            h2 { "What was measured, where and when" }
            div.card { dl {
                dt { "Command" } dd { @match command { Some(command) => code { (command) }, None => "none, the disk alone" } }
                dt { "Source" } dd { (one_line(file_system)) ", " (numbers::counted(*files, "file")) ", " (numbers::bytes(*bytes)) }
                dt { "Machine" } dd { (one_line(&report.machine)) }
                dt { "Engine" } dd { (one_line(&report.engine)) }
                dt { "Extent" } dd { (extent) }
                dt { "When" } dd { (date(report.made)) }
                dt { "By" } dd { "fastbuild " (one_line(&report.fastbuild)) }
            } }
            p.quiet { "Times are those of this machine at that time; ratios are what carries over." }
        }
    }
}

/// `Thu, 26 Nov 2026 10:04:02 GMT`
fn date(made: u64) -> String {
    const END_OF_9999: u64 = 253_402_300_799;
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(made.min(END_OF_9999)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Measured, sample};

    #[test]
    fn texts_from_outside_stay_text() {
        let hostile = "<script>alert(1)</script>\"><img src=x onerror=alert(1)>&'\u{202e}\x1b[2J";
        let mut report = sample::report();
        report.command = Some(vec![hostile.into(), hostile.into()]);
        for text in [&mut report.machine, &mut report.engine, &mut report.fastbuild] {
            *text = hostile.into();
        }
        report.source.file_system = hostile.into();
        report.disk[0].result = Measured::Failed { why: hostile.into() };
        report.routes[1].result = Measured::NotOffered { why: hostile.into() };
        let page = render(&report);
        for never in ["<script", "<img", "\u{202e}", "\x1b"] {
            assert!(!page.contains(never), "{never:?}");
        }
        // In the title, the headline, the circumstances, the table and the note.
        assert_eq!(page.matches("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&gt;&lt;img").count(), 12);
    }

    #[test]
    fn the_page_has_no_address_but_that_of_an_empty_icon() {
        let page = render(&sample::report());
        for never in ["http:", "https:", "url(", "@import", "<script", " src=", "style="] {
            assert!(!page.contains(never), "{never}");
        }
        assert_eq!(page.matches("href=").count(), 1);
    }

    #[test]
    fn no_report_breaks_the_page() {
        let empty =
            Report { command: None, disk: vec![], routes: vec![], made: u64::MAX, ..sample::report() };
        let page = render(&empty);
        assert!(page.contains("Nothing could be measured here"), "{page}");
        assert!(page.contains("Fri, 31 Dec 9999 23:59:59 GMT"), "{page}");
        let mut odd = sample::report();
        odd.routes[0].result = Measured::Done(crate::bench::Samples(vec![f64::NAN, -1.0, 1e300]));
        odd.routes[2].result = Measured::Done(crate::bench::Samples(vec![]));
        assert!(!render(&odd).contains("NaN"));
    }
}
