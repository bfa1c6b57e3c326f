//! Tables -> one SVG: bars of median seconds on a logarithmic scale, one panel a table. Pure. It is readable on light and on
//! dark pages, and runs no script.

use std::fmt::Write as _;

use super::{Table, What};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 80.0;
const BAR: f64 = 14.0;
const STEP: f64 = 20.0;
const TITLE: f64 = 44.0;
const FOOT: f64 = 26.0;

const STYLE: &str = "svg{background:#fff;font:12px system-ui,sans-serif}text{fill:#24292f}.h{font-size:15px;font-weight:600}\
    .q{fill:#656d76;font-size:11px}.g{stroke:#d8dee4}.s{stroke:#24292f;stroke-opacity:.55}.e{stroke:#cf222e;stroke-dasharray:4 3}\
    .a{fill:#0969da}.o{fill:#afb8c1}.b{fill:#cf222e}\
    @media(prefers-color-scheme:dark){svg{background:#0d1117}text{fill:#e6edf3}.q{fill:#8d96a0}.g{stroke:#30363d}\
    .s{stroke:#e6edf3}.e{stroke:#ff7b72}.a{fill:#4493f8}.o{fill:#484f58}.b{fill:#ff7b72}}";

/// The picture.
pub fn svg(tables: &[Table]) -> String {
    let mut body = String::new();
    let mut top = 0.0;
    for table in tables {
        top = panel(&mut body, table, top);
    }
    let height = top + FOOT;
    put(
        &mut body,
        12.0,
        height - 8.0,
        "q",
        "Median seconds, logarithmic; thin lines from least to most; dashed: docker exec.",
    );
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\
         <title>Median seconds of each contender</title><style>{STYLE}</style>\n{body}</svg>\n"
    )
}

/// Draws a table from `top` down; where the next one begins comes back.
fn panel(body: &mut String, table: &Table, top: f64) -> f64 {
    let Some(scale) = Scale::of(table) else { return top };
    put(body, 12.0, top + 28.0, "h", &table.title.replace('`', ""));
    let bottom = top + TITLE + STEP * table.samples.len() as f64;
    for power in scale.powers() {
        let x = scale.x(power);
        stroke(body, "g", (x, top + TITLE - 4.0), (x, bottom));
        put(body, x + 3.0, bottom + 11.0, "q", &format!("{power} s"));
    }
    for (n, (&what, samples)) in table.samples.iter().enumerate() {
        let (Some(median), Some((least, most))) = (samples.median(), samples.range()) else { continue };
        let y = top + TITLE + STEP * n as f64;
        let class = if what == What::Exec {
            "b"
        } else if what.is_fastbuild() {
            "a"
        } else {
            "o"
        };
        put(body, 12.0, y + 11.0, "n", what.short_name());
        let _ = writeln!(
            body,
            "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>",
            (scale.x(median) - LEFT).max(1.0)
        );
        let middle = y + BAR / 2.0;
        stroke(body, "s", (scale.x(least), middle), (scale.x(most), middle));
        put(body, scale.x(most.max(median)) + 6.0, y + 11.0, "q", &format!("{median:.3} s"));
    }
    if let Some(exec) = table.samples.get(&What::Exec).and_then(super::Samples::median) {
        let x = scale.x(exec);
        stroke(body, "e", (x, top + TITLE - 4.0), (x, bottom));
    }
    bottom + FOOT
}

/// Seconds -> places, by powers of ten.
struct Scale {
    from: i32,
    to: i32,
}

impl Scale {
    fn of(table: &Table) -> Option<Scale> {
        let ranges = || table.samples.values().filter_map(super::Samples::range);
        let least = ranges().map(|(least, _)| least).min_by(f64::total_cmp)?;
        let most = ranges().map(|(_, most)| most).max_by(f64::total_cmp)?;
        let power = |seconds: f64| seconds.max(1e-4).log10();
        let from = power(least).floor() as i32;
        Some(Scale { from, to: (power(most).ceil() as i32).max(from + 1) })
    }

    fn powers(&self) -> impl Iterator<Item = f64> {
        (self.from..=self.to).map(|power| 10f64.powi(power))
    }

    fn x(&self, seconds: f64) -> f64 {
        let share = (seconds.max(1e-4).log10() - f64::from(self.from)) / f64::from(self.to - self.from);
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }
}

fn put(body: &mut String, x: f64, y: f64, class: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(body, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
}

fn stroke(body: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = writeln!(
        body,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_times_as_much_is_as_far_everywhere() {
        let scale = Scale { from: -2, to: 2 };
        let steps: Vec<f64> = scale.powers().map(|power| scale.x(power)).collect();
        assert_eq!((steps[0], steps[4]), (LEFT, WIDTH - RIGHT));
        assert!((steps[1] - steps[0] - (steps[3] - steps[2])).abs() < 1e-9);
    }
}
