//! Encodes and decodes tar headers and PAX records. Pure: works on bytes, not on streams or files.
//!
//! Entries are written as plain ustar, with a PAX header before each one that ustar cannot express:
//! names over 100 bytes, large numbers, times that are not whole seconds after 1970, and files with
//! holes, which only fastbuild's reader accepts. Names are sent as raw bytes, valid UTF-8 or not;
//! engines written in Go accept and send them so (tested with Docker 20.10).

use tar::{EntryType, Header};

use crate::{
    entry::Timestamp,
    sys::extents::{Extents, MOST_RANGES},
};

/// The block size of a tar stream, in bytes.
pub(super) const BLOCK: u64 = 512;

/// The largest value of the 12-byte fields, 11 octal digits.
const MAX_12: u64 = 0o777_7777_7777;
/// The largest value of the 8-byte fields, 7 octal digits.
const MAX_8: u64 = 0o777_7777;

/// The record for a file with holes: its length and data ranges, as `SIZE START END START END…`.
/// The entry's content is only that data.
pub(super) const HOLES: &[u8] = b"FASTBUILD.data";

/// The longest accepted file with holes, in bytes: holes are free for the sender, but hashed here.
const MOST_WITH_HOLES: u64 = 16 << 40;

/// The number of zero bytes after `size` bytes of content.
pub(super) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK
}

/// One entry to be written. The name of a directory already ends with `/`.
pub(super) struct Outgoing<'a> {
    pub(super) name: &'a [u8],
    pub(super) entry_type: EntryType,
    /// The target of a symbolic or hard link; empty for other entries.
    pub(super) link: &'a [u8],
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) size: u64,
    pub(super) mtime: Timestamp,
    /// The data ranges and the length of a file with holes.
    pub(super) holes: Option<(&'a Extents, u64)>,
}

impl Outgoing<'_> {
    /// Appends the header blocks of this entry to `blocks`: one, or three and more with PAX
    /// records.
    pub(super) fn write_to(&self, blocks: &mut Vec<u8>) {
        let records = self.records();
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            // As other writers do: readers ignore this name, and a file of this name does no harm.
            put(&mut header.as_old_mut().name, b"././@PaxHeader");
            set_numbers(&mut header, 0o644, 0, 0, records.len() as u64);
            header.set_mtime(0);
            header.set_cksum();
            blocks.extend_from_slice(header.as_bytes());
            blocks.extend_from_slice(&records);
            blocks.resize(blocks.len() + padding(records.len() as u64) as usize, 0);
        }
        blocks.extend_from_slice(self.header().as_bytes());
    }

    /// The ustar header. A value with a PAX record is truncated or zero here, as in Go's and GNU's
    /// writers.
    fn header(&self) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(self.entry_type);
        put(&mut header.as_old_mut().name, self.name);
        put(&mut header.as_old_mut().linkname, self.link);
        let fit = |value: u64, max: u64| if value > max { 0 } else { value };
        set_numbers(
            &mut header,
            self.mode,
            fit(self.uid, MAX_8),
            fit(self.gid, MAX_8),
            fit(self.size, MAX_12),
        );
        header.set_mtime(u64::try_from(self.mtime.secs).ok().filter(|&secs| secs <= MAX_12).unwrap_or(0));
        header.set_cksum();
        header
    }

    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        if self.name.len() > 100 {
            push_record(&mut records, b"path", self.name);
        }
        if self.link.len() > 100 {
            push_record(&mut records, b"linkpath", self.link);
        }
        for (key, value, max) in
            [(b"size".as_slice(), self.size, MAX_12), (b"uid", self.uid, MAX_8), (b"gid", self.gid, MAX_8)]
        {
            if value > max {
                push_record(&mut records, key, value.to_string().as_bytes());
            }
        }
        if let Some((Extents::Ranges(ranges), size)) = self.holes {
            let ends = ranges.iter().flat_map(|range| [range.start, range.end]);
            let value: Vec<_> = [size].into_iter().chain(ends).map(|number| number.to_string()).collect();
            push_record(&mut records, HOLES, value.join(" ").as_bytes());
        }
        let whole = self.mtime.nanos == 0 && u64::try_from(self.mtime.secs).is_ok_and(|secs| secs <= MAX_12);
        if !whole {
            push_record(&mut records, b"mtime", format_time(self.mtime).as_bytes());
        }
        records
    }
}

fn set_numbers(header: &mut Header, mode: u32, uid: u64, gid: u64, size: u64) {
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_size(size);
}

fn put(field: &mut [u8; 100], bytes: &[u8]) {
    let len = bytes.len().min(field.len());
    field[..len].copy_from_slice(&bytes[..len]);
}

/// Appends `LENGTH KEY=VALUE\n`; the length includes its own digits.
pub(super) fn push_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + digits(rest);
    if rest + digits(len) != len {
        len = rest + digits(len);
    }
    records.extend_from_slice(format!("{len} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// `-1.5` for half a second before 23:59:59 of the last day of 1969.
fn format_time(time: Timestamp) -> String {
    let nanos = time.as_nanos();
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let text = format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Parses an `mtime` record; digits below a nanosecond are dropped. `None` if it is not valid.
pub(super) fn parse_time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut parts = text.splitn(2, |&b| b == b'.');
    let whole = i128::from(parse_decimal(parts.next()?)?);
    let fraction = parts.next().unwrap_or(b"");
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at: usize| i128::from(fraction.get(at).map_or(0, |digit| digit - b'0'));
    let nanos = whole * 1_000_000_000 + (0..9).fold(0, |sum, at| sum * 10 + digit(at));
    Timestamp::from_nanos(if negative { -nanos } else { nanos })
}

/// Parses a [`HOLES`] record: the data ranges and the length of the file. `None` if it is not
/// valid.
pub(super) fn parse_holes(value: &[u8]) -> Option<(Extents, u64)> {
    let mut numbers =
        value.split(|byte| *byte == b' ').map(|text| Some(parse_decimal(text)?.cast_unsigned()));
    let size = numbers.next()??;
    let (mut ranges, mut last) = (Vec::new(), None);
    while let Some(start) = numbers.next() {
        let (start, end) = (start?, numbers.next()??);
        if last.is_some_and(|last| last >= start) || start >= end || ranges.len() == MOST_RANGES {
            return None;
        }
        ranges.push(start..end);
        last = Some(end);
    }
    let extents = Extents::Ranges(ranges);
    let has_holes = last.is_none_or(|last| last <= size) && extents.data(size) < size;
    (has_holes && size <= MOST_WITH_HOLES).then_some((extents, size))
}

/// Parses digits only, in the range of a file size.
pub(super) fn parse_decimal(text: &[u8]) -> Option<i64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_i64, |sum, byte| match byte {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

/// Parses a number field of a header: octal text, or base 256 if the first bit is set. `None` for
/// all other values.
///
/// The accessors of `tar::Header` accept a sign, and take the low 8 bytes of a larger number.
/// Readers that disagree on a size see different entries in one stream, so the fields are parsed
/// here.
pub(super) fn parse_field(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let sign = if first & 0x40 == 0 { 0 } else { -1_i128 };
        let start = (sign << 7) | i128::from(first & 0x7f);
        let value = rest.iter().fold(start, |sum, &byte| (sum << 8) | i128::from(byte));
        return i64::try_from(value).ok();
    }
    let text = field.split(|&b| b == 0).next().unwrap_or(b"").trim_ascii();
    text.iter().try_fold(0_i64, |sum, byte| match byte {
        b'0'..=b'7' => Some((sum << 3) | i64::from(byte - b'0')),
        _ => None,
    })
}

/// The records of a PAX header's payload, as key and value. An item `None` means that the payload
/// is malformed; no item follows it.
pub(super) fn records(mut payload: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    std::iter::from_fn(move || {
        if payload.is_empty() {
            return None;
        }
        let record = split_record(payload);
        payload = record.map_or(&[], |(_, _, rest)| rest);
        Some(record.map(|(key, value, _)| (key, value)))
    })
}

fn split_record(payload: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = payload.iter().take(20).position(|&b| b == b' ')?;
    let len = usize::try_from(parse_decimal(&payload[..space])?).ok()?;
    let (record, rest) = payload.split_at_checked(len)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&b| b == b'=')?;
    let key = &body[..equals];
    (!key.is_empty()).then_some((key, &body[equals + 1..], rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_exact_on_both_sides_of_1970() {
        let cases: [(&[u8], i64, u32); 8] = [
            (b"0", 0, 0),
            (b"1700000001.123456789", 1_700_000_001, 123_456_789),
            (b"1700000001.5", 1_700_000_001, 500_000_000),
            (b"1.0000000019", 1, 1),
            (b"-1", -1, 0),
            (b"-1.5", -2, 500_000_000),
            (b"-0.000000001", -1, 999_999_999),
            (b"99999999999999", 99_999_999_999_999, 0),
        ];
        for (text, secs, nanos) in cases {
            let time = Timestamp { secs, nanos };
            assert_eq!(parse_time(text), Some(time));
            assert_eq!(parse_time(format_time(time).as_bytes()), Some(time));
        }
        for text in ["", "-", ".5", "1.x", "1.-5", "+1", " 1", "1e3", "99999999999999999999", "--1"] {
            assert_eq!(parse_time(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn number_fields_are_octal_or_base_256_and_nothing_else() {
        let cases: [(&[u8], Option<i64>); 12] = [
            (b"00000000017\0", Some(15)),
            (b"         17 ", Some(15)),
            (b"\0\0\0\0\0\0\0\0\0\0\0\0", Some(0)),
            (b"777777777777", Some(0o777_777_777_777)),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
            (b"+0000000017\0", None),
            (b"-0000000017\0", None),
            (b"0000000001 7", None),
            (b"00000000018\0", None),
            (b"0x000000017\0", None),
        ];
        for (field, value) in cases {
            assert_eq!(parse_field(field), value, "{field:?}");
        }
    }

    #[test]
    fn a_records_length_counts_its_own_digits() {
        for len in 0..1200 {
            let value = vec![b'\n'; len];
            let mut payload = Vec::new();
            push_record(&mut payload, b"path", &value);
            push_record(&mut payload, b"size", b"1");
            let found: Vec<_> = records(&payload).collect();
            assert_eq!(found, [Some((b"path".as_slice(), &*value)), Some((b"size", b"1"))]);
        }
    }

    #[test]
    fn malformed_records_are_seen() {
        let cases: [&[u8]; 10] = [
            b"x",
            b"9 path=a",
            b"99 path=a\n",
            b"0 path=a\n",
            b"2 path=a\n",
            b"9 path a\n",
            b"7 =abc\n",
            b"-9 path=a\n",
            b"10 path=a\n\0",
            b"18446744073709551625 path=a\n",
        ];
        for payload in cases {
            assert_eq!(records(payload).last(), Some(None), "{}", payload.escape_ascii());
        }
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "it is one range that is meant")]
    fn holes_are_told_in_one_way_only() {
        let cases = [
            ("5", vec![], 5),
            ("9 0 4", vec![0..4], 9),
            ("9 4 9", vec![4..9], 9),
            ("17592186044416 1 2 3 17592186044416", vec![1..2, 3..16 << 40], 16 << 40),
        ];
        for (value, ranges, size) in cases {
            assert_eq!(parse_holes(value.as_bytes()), Some((Extents::Ranges(ranges), size)));
        }
        let refused = [
            "",
            "0",
            "x",
            "9 ",
            " 9",
            "9 1",
            "9 0 9",
            "9 2 1",
            "9 2 2",
            "9 1 2 2 3",
            "9 3 4 1 2",
            "9 1 10",
            "9  1 2",
            "9 1 2 ",
            "-9",
            "9 -1 2",
            "17592186044417",
            "18446744073709551617 1 2",
        ];
        for value in refused {
            assert_eq!(parse_holes(value.as_bytes()), None, "{value}");
        }
    }
}
