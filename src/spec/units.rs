//! Text -> numbers with units, in docker's syntax. Pure.

use std::time::Duration;

/// A value that does not fit its setting. The text is the same for a flag, a variable and a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadValue {
    /// The name is not one of the setting's names.
    #[error("invalid value {given:?}: expected one of {choices}{}", did_you_mean(*nearest))]
    Choice {
        /// What was given.
        given: String,
        /// The names, with commas.
        choices: String,
        /// The one that was probably meant.
        nearest: Option<&'static str>,
    },
    /// The text is not a size.
    #[error("invalid size {0:?}: expected bytes, or a number with b, k, m, g or t, such as 512m or 1.5g")]
    Memory(String),
    /// The text is not a length of time.
    #[error("invalid duration {0:?}: expected a whole number with s, m, h or d, such as 90s, 15m, 12h or 7d")]
    Duration(String),
    /// The text is neither yes nor no.
    #[error("{0:?} is neither yes nor no: write yes, true, on or 1, or no, false, off or 0")]
    Switch(String),
    /// The text is not a number of processors.
    #[error("invalid number of processors {0:?}: expected a decimal of at most nine places, such as 1.5")]
    Cpus(String),
    /// The text is not a valid project name.
    #[error("invalid name {0:?}: expected 1 to 64 of a-z, 0-9, dot, underscore and hyphen")]
    Name(String),
    /// The value is empty.
    #[error("the value is empty")]
    Empty,
}

/// The end of an error's first sentence.
pub(crate) fn did_you_mean(word: Option<&str>) -> String {
    word.map(|word| format!("; did you mean {word}?")).unwrap_or_default()
}

/// A size in bytes. Units are powers of 1024, in either case, with or without a `b` or `ib` after
/// them. Fractions of bytes are cut off.
///
/// # Errors
/// [`BadValue::Memory`].
pub fn memory(text: &str) -> Result<u64, BadValue> {
    let bad = || BadValue::Memory(text.to_owned());
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad()),
    };
    let billionths = u128::try_from(fixed_point(number).ok_or_else(bad)?).map_err(|_| bad())?;
    u64::try_from((billionths << shift) / 1_000_000_000).map_err(|_| bad())
}

/// A length of time: a whole number of seconds, minutes, hours or days. Zero needs no unit.
///
/// # Errors
/// [`BadValue::Duration`].
pub fn duration(text: &str) -> Result<Duration, BadValue> {
    let bad = || BadValue::Duration(text.to_owned());
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let seconds = match unit.trim_start() {
        "" if number == 0 => 1,
        "s" => 1,
        "m" | "min" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(bad()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(bad)
}

/// A variable that switches something on or off.
///
/// # Errors
/// [`BadValue::Switch`].
pub fn switch(text: &str) -> Result<bool, BadValue> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" | "1" => Ok(true),
        "no" | "false" | "off" | "0" => Ok(false),
        _ => Err(BadValue::Switch(text.to_owned())),
    }
}

/// A decimal number of processors, in billionths.
///
/// # Errors
/// [`BadValue::Cpus`].
pub fn nano_cpus(text: &str) -> Result<i64, BadValue> {
    fixed_point(text.trim()).ok_or_else(|| BadValue::Cpus(text.to_owned()))
}

/// Text that must not be empty. An unset shell variable produces empty text.
///
/// # Errors
/// [`BadValue::Empty`].
pub fn text(text: &str) -> Result<String, BadValue> {
    if text.is_empty() { Err(BadValue::Empty) } else { Ok(text.to_owned()) }
}

/// A name that is valid in a label, a container's name and a path.
///
/// # Errors
/// [`BadValue::Name`].
pub fn name(text: &str) -> Result<String, BadValue> {
    let may_stand = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    if (1..=64).contains(&text.len()) && text.bytes().all(may_stand) {
        Ok(text.to_owned())
    } else {
        Err(BadValue::Name(text.to_owned()))
    }
}

/// A non-negative decimal in billionths, exactly: binary fractions would change 0.1.
fn fixed_point(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits_only = whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit());
    if !digits_only || whole.len() + fraction.len() == 0 || fraction.len() > 9 {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: i64 = format!("{fraction:0<9}").parse().ok()?;
    whole.checked_mul(1_000_000_000)?.checked_add(fraction)
}

/// Billionths as a decimal without trailing zeros.
pub fn cpus_text(nano: i64) -> String {
    let text = format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A memory limit for `--memory`, in the largest power of 1024 that needs at most two decimals.
pub fn memory_text(bytes: u64) -> String {
    let shown = [('g', 30), ('m', 20), ('k', 10)].into_iter().find_map(|(unit, shift)| {
        let hundredths = u128::from(bytes) * 100;
        let exact = bytes >> shift > 0 && hundredths % (1 << shift) == 0;
        let text = || format!("{}.{:02}", (hundredths >> shift) / 100, (hundredths >> shift) % 100);
        exact.then(|| format!("{}{unit}", text().trim_end_matches('0').trim_end_matches('.')))
    });
    shown.unwrap_or_else(|| format!("{bytes}b"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        let cases = [
            ("0", 0),
            ("1048576", 1 << 20),
            ("64b", 64),
            ("6k", 6 << 10),
            ("512m", 512 << 20),
            ("512MB", 512 << 20),
            ("2g", 2 << 30),
            ("2 GiB", 2 << 30),
            ("1.5g", 3 << 29),
            (".5k", 512),
            ("1t", 1 << 40),
        ];
        for (text, bytes) in cases {
            assert_eq!(memory(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "m", "-1", "1x", "1mm", "1.2.3m", "1,5g", "99999999999999999999", "9000000000t", "0x10"]
        {
            assert_eq!(memory(text), Err(BadValue::Memory(text.into())), "{text}");
        }
    }

    #[test]
    fn lengths_of_time_have_a_unit() {
        let cases = [
            ("90s", 90),
            ("15m", 900),
            ("15 min", 900),
            ("12H", 43_200),
            ("7d", 604_800),
            ("0", 0),
            ("0d", 0),
        ];
        for (text, seconds) in cases {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in
            ["", "s", "90", "-1s", "1.5h", "1w", "1h30m", "99999999999999999999s", "9999999999999999999d"]
        {
            assert_eq!(duration(text), Err(BadValue::Duration(text.into())), "{text}");
        }
    }

    #[test]
    fn a_switch_is_yes_or_no_in_the_usual_words() {
        for (on, words) in [(true, ["yes", "True", "on", "1"]), (false, ["no", "FALSE", "off", "0"])] {
            assert_eq!(words.map(switch), [(); 4].map(|()| Ok(on)));
        }
        assert_eq!(switch("maybe"), Err(BadValue::Switch("maybe".into())));
    }

    #[test]
    fn processors_are_counted_exactly() {
        let cases = [
            ("1", 1_000_000_000),
            ("0.1", 100_000_000),
            ("1.5", 1_500_000_000),
            ("0.000000001", 1),
            ("2.", 2_000_000_000),
        ];
        for (text, nano) in cases {
            assert_eq!(nano_cpus(text), Ok(nano), "{text}");
        }
        for text in ["", ".", "-1", "1e3", "0.0000000001", "inf", "99999999999"] {
            assert_eq!(nano_cpus(text), Err(BadValue::Cpus(text.into())), "{text}");
        }
    }

    #[test]
    fn memory_is_shown_as_it_could_be_typed() {
        let cases =
            [(3 << 29, "1.5g"), (512 << 20, "512m"), (1 << 30, "1g"), (6 << 20, "6m"), (1023, "1023b")];
        for (bytes, text) in cases {
            assert_eq!(memory_text(bytes), text);
            assert_eq!(memory(text), Ok(bytes), "and comes back as it was");
        }
    }

    #[test]
    fn processors_have_no_needless_zeros() {
        for (nano, text) in [(1_500_000_000, "1.5"), (0, "0"), (1, "0.000000001")] {
            assert_eq!(cpus_text(nano), text);
        }
    }
}
