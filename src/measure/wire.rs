//! How fastbuild and the agent talk about measuring: values in postcard's encoding, each stuffed so that it holds no zero
//! byte, and a zero byte behind it. So a stream needs neither lengths nor a beginning.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::run::{Figures, Problem, Progress, Sizes};

/// What the agent is asked for. After the last one its input ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// That it measures a directory.
    Measure {
        /// Which; made where it is not there.
        directory: String,
        /// What it is in.
        medium: Medium,
        /// How much.
        sizes: Sizes,
    },
    /// That it removes all that is in a directory, which may be another user's than who asks.
    Empty {
        /// Which.
        directory: String,
    },
}

/// What keeps a directory's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Medium {
    /// A disk, as far as is known.
    Disk,
    /// The machine's memory, which a file system in it may promise more of than there is.
    Memory,
}

/// What the agent says. Each [`Ask::Measure`] is answered by a number of [`Told::Moved`] and one of [`Told::Done`] and
/// [`Told::Failed`], each [`Ask::Empty`] by [`Told::Emptied`] or [`Told::Failed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// It got further.
    Moved(Progress),
    /// It was measured.
    Done(Figures),
    /// Nothing is in it any more.
    Emptied,
    /// It was not done.
    Failed(Problem),
}

/// What ends a value.
pub const END: u8 = 0;

/// A value as it travels, its end included.
///
/// # Errors
/// None for the types here.
pub fn encoded(value: &impl Serialize) -> io::Result<Vec<u8>> {
    postcard::to_stdvec_cobs(value).map_err(io::Error::other)
}

/// A value from its bytes, with or without its end.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] when it is none.
pub fn decoded<T: DeserializeOwned>(bytes: &mut [u8]) -> io::Result<T> {
    postcard::from_bytes_cobs(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Writes a value.
///
/// # Errors
/// The stream's.
pub fn write(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    out.write_all(&encoded(value)?)?;
    out.flush()
}

/// Reads a value; none at the end of the stream.
///
/// # Errors
/// The stream's, and [`decoded`]'s.
pub fn read<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut bytes = Vec::new();
    match from.read_until(END, &mut bytes)? {
        0 => Ok(None),
        _ => decoded(&mut bytes).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Step;

    #[test]
    fn what_is_written_is_read_and_the_end_is_no_value() {
        let directory = || "/a/0/b".to_owned();
        let asks = [
            Ask::Measure { directory: directory(), medium: Medium::Memory, sizes: Sizes::FULL },
            Ask::Empty { directory: directory() },
        ];
        let mut stream = Vec::new();
        asks.iter().for_each(|ask| write(&mut stream, ask).unwrap());
        let mut stream = stream.as_slice();
        assert_eq!(read(&mut stream).unwrap(), Some(asks[0].clone()));
        assert_eq!(read(&mut stream).unwrap(), Some(asks[1].clone()));
        assert_eq!(read::<Ask>(&mut stream).unwrap(), None);
    }

    #[test]
    fn a_value_has_one_zero_and_that_at_its_end() {
        let told = Told::Moved(Progress { step: Step::Write, done: 0, of: 1 << 30 });
        let bytes = encoded(&told).unwrap();
        assert_eq!(bytes.iter().position(|&byte| byte == END), Some(bytes.len() - 1));
    }

    #[test]
    fn what_is_no_value_is_an_error() {
        for bytes in [&b"\xff\xff\x00"[..], b"\x00", b"\x02\x09\x00"] {
            read::<Told>(&mut &bytes[..]).unwrap_err();
        }
    }
}
