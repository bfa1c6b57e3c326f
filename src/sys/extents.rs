//! Where a file has data. The ranges between are holes: they read as zeros and take no disk space.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    ops::Range,
};

use super::source_file::Facts;

/// The maximum number of ranges; everything after the last one counts as data.
pub const MOST_RANGES: usize = 8192;

/// Block size, in bytes, where holes can be found only by looking for zeros.
const BLOCK: u64 = 64 << 10;

/// The content of a hole, one piece at a time.
pub static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Where a file has data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extents {
    /// In these ranges: ascending, not empty, and not adjacent to each other.
    Ranges(Vec<Range<u64>>),
    /// Not known. Any block of zeros may be a hole.
    Unknown,
}

/// What a file has at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// This many bytes of data.
    Data(usize),
    /// This many bytes of a hole.
    Hole(usize),
}

impl Extents {
    /// A file without holes.
    pub fn whole(size: u64) -> Extents {
        Extents::Ranges(std::iter::once(0..size).filter(|range| !range.is_empty()).collect())
    }

    /// The extents of an open file with the metadata `facts`. May move the file's read position.
    pub fn of(file: &File, facts: &Facts) -> Extents {
        let size = facts.stamp.size;
        match facts.allocated < size {
            // If the file system cannot answer, the file counts as one without holes.
            true => find(file, size).unwrap_or_else(|_| Extents::whole(size)),
            false => Extents::whole(size),
        }
    }

    /// Bytes of data in a file of this size.
    pub fn data(&self, size: u64) -> u64 {
        match self {
            Extents::Ranges(ranges) => ranges.iter().map(|range| range.end - range.start).sum(),
            Extents::Unknown => size,
        }
    }

    /// What the file has at `at`, for at most `most` bytes. Without known ranges it is data.
    pub fn step(&self, at: u64, most: usize) -> Step {
        let Extents::Ranges(ranges) = self else { return Step::Data(most) };
        let up_to = |end: u64| usize::try_from(end - at).map_or(most, |length| length.min(most));
        match ranges.get(ranges.partition_point(|range| range.end <= at)) {
            Some(range) if range.start <= at => Step::Data(up_to(range.end)),
            Some(range) => Step::Hole(up_to(range.start)),
            None => Step::Hole(most),
        }
    }
}

#[cfg(target_os = "linux")]
fn find(mut file: &File, size: u64) -> io::Result<Extents> {
    use rustix::{fs::SeekFrom as Place, io::Errno};

    let (mut ranges, mut at) = (Vec::new(), 0);
    while at < size && ranges.len() < MOST_RANGES {
        let start = match rustix::fs::seek(file, Place::Data(at)) {
            Err(Errno::NXIO) => break,
            start => start?.min(size),
        };
        at = match ranges.len() + 1 {
            MOST_RANGES => size,
            _ => rustix::fs::seek(file, Place::Hole(start))?.min(size),
        };
        match ranges.last_mut() {
            // Another process filled the hole meanwhile.
            Some(Range { end, .. }) if *end == start => *end = at,
            _ if start < at => ranges.push(start..at),
            _ => {}
        }
    }
    file.rewind()?;
    Ok(Extents::Ranges(ranges))
}

#[cfg(not(target_os = "linux"))]
fn find(_: &File, size: u64) -> io::Result<Extents> {
    Ok(Extents::whole(size))
}

/// Writes the content of a file that already has its length, from its position, without the holes.
#[derive(Debug)]
pub struct Writer<'a, F> {
    file: F,
    extents: &'a Extents,
    at: u64,
    /// Bytes of a hole over which the file position has not been moved.
    skipped: u64,
    /// Bytes of data written.
    pub stored: u64,
}

impl<'a, F: Write + Seek> Writer<'a, F> {
    /// Nothing written yet.
    pub fn new(file: F, extents: &'a Extents) -> Writer<'a, F> {
        Writer { file, extents, at: 0, skipped: 0, stored: 0 }
    }

    fn next(&self, bytes: &[u8]) -> Step {
        if *self.extents != Extents::Unknown {
            return self.extents.step(self.at, bytes.len());
        }
        let length = bytes.len().min((BLOCK - self.at % BLOCK) as usize);
        match bytes[..length] == ZEROS[..length] {
            true => Step::Hole(length),
            false => Step::Data(length),
        }
    }
}

impl<F: Write + Seek> Write for Writer<'_, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = match self.next(bytes) {
            Step::Hole(length) => {
                self.skipped += length as u64;
                length
            }
            Step::Data(most) => {
                if self.skipped > 0 {
                    self.file.seek(SeekFrom::Current(self.skipped.cast_signed()))?;
                    self.skipped = 0;
                }
                let written = self.file.write(&bytes[..most])?;
                self.stored += written as u64;
                written
            }
        };
        self.at += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
