//! Figures -> the words that the tables, the page and the advice share. Pure.

use std::time::Duration;

use super::report::{DiskFigures, Measured, Report, Samples};
use crate::text::numbers;

/// The operations of the disk part in each place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Write,
    Read,
    Create,
    Stat,
    ReadSmall,
    Rename,
    Delete,
    Small,
}

impl Op {
    /// In the order in which they are done; the sum of all small-file operations comes last.
    pub(super) const ALL: [Op; 8] =
        [Op::Write, Op::Read, Op::Create, Op::Stat, Op::ReadSmall, Op::Rename, Op::Delete, Op::Small];

    pub(super) fn of(self, figures: &DiskFigures) -> Samples {
        match self {
            Op::Write => figures.write.clone(),
            Op::Read => figures.read.clone(),
            Op::Create => figures.create.clone(),
            Op::Stat => figures.stat.clone(),
            Op::ReadSmall => figures.read_small.clone(),
            Op::Rename => figures.rename.clone(),
            Op::Delete => figures.delete.clone(),
            Op::Small => figures.small(),
        }
    }

    pub(super) fn verb(self) -> &'static str {
        match self {
            Op::Write => "write",
            Op::Read | Op::ReadSmall => "read",
            Op::Create => "create",
            Op::Stat => "stat",
            Op::Rename => "rename",
            Op::Delete => "delete",
            Op::Small => "all together",
        }
    }
}

/// The amounts of the disk part; none when no place was measured.
pub(super) struct Amounts {
    /// `1.1 GB`
    pub(super) large: String,
    /// `2,000 small files`
    pub(super) small: String,
}

impl Amounts {
    /// All places have the same.
    pub(super) fn of(report: &Report) -> Option<Amounts> {
        let figures = report.disk.iter().find_map(|row| row.result.done())?;
        Some(Amounts {
            large: numbers::bytes(figures.sequential_bytes),
            small: numbers::counted(figures.files, "small file"),
        })
    }
}

/// Why there is no figure, for people; none when it was measured.
pub(super) fn absence<T>(result: &Measured<T>) -> Option<(&'static str, &str)> {
    match result {
        Measured::Done(_) => None,
        Measured::Failed { why } => Some(("failed", why)),
        Measured::NotOffered { why } => Some(("not offered", why)),
    }
}

/// `0.0021`, `0.031`, `2.94`, `12.9`: without a unit, and with at least two significant digits.
pub(super) fn seconds(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        Ok(took) if seconds < 0.009_95 => format!("{:.4}", took.as_secs_f64()),
        Ok(took) => numbers::fine_seconds(took),
        // An impossible time, in a report that was written by hand.
        Err(_) => "–".to_owned(),
    }
}

/// `2.88 – 3.12`
pub(super) fn spread((least, most): (f64, f64)) -> String {
    format!("{} – {}", seconds(least), seconds(most))
}

/// `3.8`, `20`: two digits tell as much as the noise of a build allows.
pub(super) fn times(ratio: f64) -> String {
    if ratio < 9.95 { format!("{ratio:.1}") } else { numbers::count(ratio.round() as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_never_lose_what_they_tell() {
        let cases = [(0.0, "0.0000"), (0.002_14, "0.0021"), (0.00994, "0.0099"), (0.00996, "0.010")];
        let more = [(0.031_4, "0.031"), (2.944, "2.94"), (12.86, "12.9"), (135.49, "135"), (-1.0, "–")];
        for (given, text) in cases.into_iter().chain(more).chain([(f64::NAN, "–"), (1e300, "–")]) {
            assert_eq!(seconds(given), text, "{given}");
        }
    }

    #[test]
    fn ratios_have_two_digits() {
        for (ratio, text) in [(1.0, "1.0"), (3.84, "3.8"), (9.96, "10"), (19.7, "20"), (1234.0, "1,234")] {
            assert_eq!(times(ratio), text);
        }
    }
}
