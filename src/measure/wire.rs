//! The protocol of fastbuild and the agent for measuring: values in postcard's encoding, each
//! stuffed to have no zero byte, with a zero byte behind it. So a stream needs neither lengths nor
//! a header.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::run::{Figures, Problem, Progress, Sizes};

/// The agent's requests. After the last one its input ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Measure a directory.
    Measure {
        /// The directory; made if it does not exist.
        directory: String,
        /// The medium of the directory.
        medium: Medium,
        /// The sizes.
        sizes: Sizes,
    },
    /// Remove all that is in a directory, which may belong to another user than fastbuild's.
    Empty {
        /// The directory.
        directory: String,
    },
}

/// The storage of a directory's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Medium {
    /// A disk, as far as is known.
    Disk,
    /// The machine's memory, of which a file system may promise more than there is.
    Memory,
}

/// The agent's replies. Each [`Ask::Measure`] is answered by a number of [`Told::Moved`] and one of
/// [`Told::Done`] and [`Told::Failed`], each [`Ask::Empty`] by [`Told::Emptied`] or
/// [`Told::Failed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// The progress.
    Moved(Progress),
    /// The results.
    Done(Figures),
    /// The directory is empty now.
    Emptied,
    /// The request failed.
    Failed(Problem),
}

/// The end of a value.
pub const END: u8 = 0;

/// An encoded value with its end.
///
/// # Errors
/// None for the types here.
pub fn encoded(value: &impl Serialize) -> io::Result<Vec<u8>> {
    postcard::to_stdvec_cobs(value).map_err(io::Error::other)
}

/// A value from its bytes, with or without its end.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] when the bytes are not such a value.
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
