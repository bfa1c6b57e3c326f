//! Bars with whiskers, as an SVG of the full width, and the same figures as a table. Pure.

use maud::{Markup, html};

use crate::{
    bench::{
        advice::Ranked,
        figures::{seconds, spread, times},
    },
    text::one_line,
};

/// Pixels from one bar to the next: a line of text, and the bar below it.
const STEP: u32 = 46;
/// Pixels from a row's top to its text's baseline, and to its bar.
const TEXT: u32 = 16;
const TOP: u32 = 23;
/// Height of a bar in pixels.
const THICK: u32 = 14;

/// One chart.
pub(super) struct Bars {
    /// Unique on the page.
    pub(super) id: String,
    /// Its subject.
    pub(super) of: String,
    /// From top to bottom.
    pub(super) bars: Vec<Bar>,
}

pub(super) struct Bar {
    pub(super) name: String,
    /// Whether the advice is about this one.
    pub(super) chosen: bool,
    pub(super) outcome: Outcome,
}

pub(super) enum Outcome {
    Done { figures: Figures, first: Option<f64> },
    Absent { what: &'static str, why: String },
}

/// Seconds, and the ratio to the best.
#[derive(Clone, Copy)]
pub(super) struct Figures {
    median: f64,
    spread: (f64, f64),
    ratio: f64,
}

impl<T> From<&Ranked<T>> for Figures {
    fn from(row: &Ranked<T>) -> Figures {
        Figures { median: row.median, spread: row.spread, ratio: row.ratio }
    }
}

impl Outcome {
    pub(super) fn absent((what, why): (&'static str, &str)) -> Outcome {
        Outcome::Absent { what, why: one_line(why) }
    }
}

impl Bars {
    fn done(&self) -> impl Iterator<Item = (&Bar, Figures)> {
        self.bars.iter().filter_map(|bar| match bar.outcome {
            Outcome::Done { figures, .. } => Some((bar, figures)),
            Outcome::Absent { .. } => None,
        })
    }

    /// The seconds of a bar over the whole width.
    fn most(&self) -> f64 {
        self.done().map(|(_, figures)| figures.spread.1.max(figures.median)).fold(f64::MIN_POSITIVE, f64::max)
    }

    /// The chart.
    pub(super) fn picture(&self) -> Markup {
        let (title, description) = (format!("{}-title", self.id), format!("{}-description", self.id));
        let height = (STEP * self.bars.len() as u32).saturating_sub(STEP - TOP - THICK);
        let most = self.most();
        html! {
            svg role="img" aria-labelledby=(format!("{title} {description}")) height=(height) {
                title id=(title) { (self.of) }
                desc id=(description) { (self.description()) }
                @for (n, bar) in self.bars.iter().enumerate() { (bar.draw(STEP * n as u32, most)) }
            }
        }
    }

    fn description(&self) -> String {
        let told: Vec<String> = self
            .bars
            .iter()
            .map(|bar| match &bar.outcome {
                Outcome::Done { figures, .. } => {
                    format!("{} {} ({})", bar.name, seconds(figures.median), spread(figures.spread))
                }
                Outcome::Absent { what, .. } => format!("{} {what}", bar.name),
            })
            .collect();
        format!("Median seconds, with least and most: {}.", told.join("; "))
    }

    /// The same figures, and why some are missing.
    pub(super) fn table(&self) -> Markup {
        let with_first =
            self.bars.iter().any(|bar| matches!(bar.outcome, Outcome::Done { first: Some(_), .. }));
        html! {
            table {
                caption { (self.of) ", seconds" }
                thead { tr {
                    td {} th scope="col" { "median" } th scope="col" { "least – most" } th scope="col" { "ratio" }
                    @if with_first { th scope="col" { "first run" } }
                } }
                tbody { @for bar in &self.bars { (bar.row(with_first)) } }
            }
        }
    }
}

impl Bar {
    fn class(&self) -> Option<&'static str> {
        self.chosen.then_some("chosen")
    }

    fn draw(&self, y: u32, most: f64) -> Markup {
        let percent = |seconds: f64| format!("{:.2}%", (seconds / most).clamp(0.0, 1.0) * 100.0);
        html! {
            g class=[self.class()] {
                text.name x="0" y=(y + TEXT) { (self.name) }
                rect.rail x="0" y=(y + TOP) width="100%" height=(THICK) rx="3" {}
                @match &self.outcome {
                    Outcome::Done { figures, .. } => {
                        text x="100%" y=(y + TEXT) text-anchor="end" {
                            (seconds(figures.median)) " s · " (times(figures.ratio)) "×"
                        }
                        rect.bar x="0" y=(y + TOP) width=(percent(figures.median.max(most / 200.0))) height=(THICK) rx="3" {}
                        (whisker(y + TOP, percent(figures.spread.0), percent(figures.spread.1)))
                    }
                    Outcome::Absent { what, .. } => text.none x="100%" y=(y + TEXT) text-anchor="end" { (what) },
                }
            }
        }
    }

    fn row(&self, with_first: bool) -> Markup {
        html! {
            tr class=[self.class()] {
                th scope="row" { (self.name) }
                @match &self.outcome {
                    Outcome::Done { figures, first } => {
                        td { (seconds(figures.median)) }
                        td { (spread(figures.spread)) }
                        td { (times(figures.ratio)) "×" }
                        @if with_first { td { (first.map_or_else(|| "–".to_owned(), seconds)) } }
                    }
                    Outcome::Absent { what, why } => td.why colspan=(if with_first { 4 } else { 3 }) {
                        b { (what) } ": " (why)
                    },
                }
            }
        }
    }
}

fn whisker(top: u32, least: String, most: String) -> Markup {
    let (middle, up, down) = (top + THICK / 2, top + 3, top + THICK - 3);
    html! {
        line.spread x1=(least) y1=(middle) x2=(most) y2=(middle) {}
        line.spread x1=(least) y1=(up) x2=(least) y2=(down) {}
        line.spread x1=(most) y1=(up) x2=(most) y2=(down) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(name: &str, median: f64, spread: (f64, f64)) -> Bar {
        let figures = Figures { median, spread, ratio: median };
        Bar { name: name.into(), chosen: false, outcome: Outcome::Done { figures, first: None } }
    }

    #[test]
    fn bars_begin_at_zero_and_the_longest_line_ends_at_the_edge() {
        let bars =
            vec![bar("a", 1.0, (0.5, 1.5)), bar("b", 3.0, (2.0, 4.0)), bar("c", 0.001, (0.001, 0.001))];
        let picture = Bars { id: "x".into(), of: "X".into(), bars }.picture().into_string();
        let widths: Vec<&str> = picture
            .split("class=\"bar\" x=\"0\"")
            .skip(1)
            .map(|rest| rest.split("width=\"").nth(1).unwrap().split('"').next().unwrap())
            .collect();
        // Bars that are too short to see are drawn at a visible length.
        assert_eq!(widths, ["25.00%", "75.00%", "0.50%"]);
        assert!(picture.contains("x1=\"50.00%\" y1=\"76\" x2=\"100.00%\""), "{picture}");
    }

    #[test]
    fn what_could_not_be_measured_is_named_with_its_reason() {
        let absent = |what, why: &str| Bar {
            name: "tmpfs".into(),
            chosen: false,
            outcome: Outcome::absent((what, why)),
        };
        let bars = Bars { id: "x".into(), of: "X".into(), bars: vec![absent("failed", "no <space>")] };
        assert!(bars.picture().into_string().contains("tmpfs failed."));
        assert!(bars.table().into_string().contains("<b>failed</b>: no &lt;space&gt;"));
    }
}
