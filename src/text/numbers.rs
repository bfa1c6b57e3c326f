//! Numbers -> text for people. Pure.
//!
//! Units are decimal (1 kB = 1,000 B, 1 MB = 1,000,000 B), as for disks and networks, and as
//! `docker images` and `docker pull` print them. Digits are grouped by commas in every locale,
//! because scripts and bug reports read them too.

use std::time::Duration;

/// `2003` -> `2,003`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 file`, `2,003 files`: the noun gets an `s` for every number except one.
pub fn counted(n: u64, noun: &str) -> String {
    counted_as(n, noun, &format!("{noun}s"))
}

/// `1 entry`, `2,003 entries`: for nouns with an irregular plural.
pub fn counted_as(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// `20_100_000` -> `20.1 MB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if n < 1000 {
        return format!("{n} B");
    }
    // In tenths of the unit, rounded to nearest: 999,950 is `1.0 MB`, never `1000.0 kB`.
    let mut tenths = u128::from(n);
    let mut per_tenth: u128 = 100;
    for unit in UNITS {
        tenths = (u128::from(n) + per_tenth / 2) / per_tenth;
        if tenths < 10_000 {
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
        per_tenth *= 1000;
    }
    format!("{}.{} EB", tenths / 10, tenths % 10)
}

/// Seconds without a unit: `0.02`, `6.21`, `12.9`, `135`. Builds vary too much for more digits.
pub fn seconds(took: Duration) -> String {
    let secs = took.as_secs_f64();
    // The bounds are the values where rounding would add a digit: 9.996 is `10.0`.
    if secs < 9.995 {
        format!("{secs:.2}")
    } else if secs < 99.95 {
        format!("{secs:.1}")
    } else {
        count(secs.round() as u64)
    }
}

/// As [`seconds`], with milliseconds below one second: `0.031`. For very short times.
pub fn fine_seconds(took: Duration) -> String {
    let secs = took.as_secs_f64();
    if secs < 0.9995 { format!("{secs:.3}") } else { seconds(took) }
}

/// A duration in its largest unit: `12s`, `5m`, `3h`, `6d`.
pub fn rough(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [("d", 24 * 60 * 60), ("h", 60 * 60), ("m", 60), ("s", 1)];
    let (name, unit) = units.into_iter().find(|(_, unit)| seconds >= *unit).unwrap_or(("s", 1));
    format!("{}{name}", count(seconds / unit))
}

/// A duration that is watched: `12 s`, `2 min 05 s`, `1 h 02 min`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{} h {minutes:02} min", count(hours)),
    }
}

/// Bytes moved in a time -> `12.3 MB/s`; `None` if either is zero.
pub fn rate(moved: u64, took: Duration) -> Option<String> {
    let secs = took.as_secs_f64();
    (moved > 0 && secs > 0.0).then(|| format!("{}/s", bytes((moved as f64 / secs) as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (2003, "2,003"), (1_234_567, "1,234,567")]
        {
            assert_eq!(count(n), text);
        }
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!((counted(1, "file"), counted(0, "file")), ("1 file".into(), "0 files".into()));
    }

    #[test]
    fn bytes_have_decimal_units_and_never_four_digits() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1049, "1.0 kB"),
            (1050, "1.1 kB"),
            (20_100_000, "20.1 MB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (3 << 30, "3.2 GB"),
            (u64::MAX, "18.4 EB"),
        ];
        for (n, text) in cases {
            assert_eq!(bytes(n), text, "{n}");
        }
    }

    #[test]
    fn seconds_have_two_decimals_below_ten() {
        let cases = [(0, "0.00"), (4, "0.00"), (5, "0.01"), (6210, "6.21"), (9994, "9.99"), (9996, "10.0")];
        let more = [(12_860, "12.9"), (99_960, "100"), (135_490, "135"), (3_600_000, "3,600")];
        for (millis, text) in cases.into_iter().chain(more) {
            assert_eq!(seconds(Duration::from_millis(millis)), text, "{millis}");
        }
    }

    #[test]
    fn less_than_a_second_has_three_decimals() {
        for (micros, text) in
            [(400, "0.000"), (31_400, "0.031"), (999_400, "0.999"), (999_600, "1.00"), (6_210_000, "6.21")]
        {
            assert_eq!(fine_seconds(Duration::from_micros(micros)), text, "{micros}");
        }
    }

    #[test]
    fn a_rough_time_has_one_unit() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (119, "1m"), (7200, "2h"), (86_400 * 1234, "1,234d")]
        {
            assert_eq!(rough(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_watched_time_has_seconds_below_an_hour() {
        for (seconds, text) in [(0, "0 s"), (59, "59 s"), (125, "2 min 05 s"), (3_720, "1 h 02 min")] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_rate_needs_a_time_and_bytes() {
        assert_eq!(rate(20_000_000, Duration::from_secs(2)).as_deref(), Some("10.0 MB/s"));
        assert_eq!(rate(0, Duration::from_secs(2)), None);
        assert_eq!(rate(5, Duration::ZERO), None);
    }
}
