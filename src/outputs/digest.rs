//! The digest of a stream.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::tree::Digest;

/// The SHA-256 of everything that `from` yields.
///
/// # Errors
/// When `from` cannot be read.
pub(super) fn digest_of(from: &mut dyn Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(Digest(hasher.finalize().into())),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
