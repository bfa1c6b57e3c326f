//! Packs a manifest into a tar stream ([`mod@pack`]), and reads a tar stream into checked entries
//! ([`reader`]).
//!
//! Both directions stream: memory does not grow with the size of files or their number, except for
//! a few words per entry. Only sources are read; nothing is written to a disk. [`crate::outputs`]
//! writes what a container sent, from the entries that [`reader`] has checked. [`crate::engine`]
//! transports the tar stream.
//!
//! | file | what |
//! |---|---|
//! | [`mod@pack`] | order of entries, headers, hard links, the record of what was really sent |
//! | `prefetch` | reads and hashes ahead of the stream, on several threads, in a limited window |
//! | `pax` | headers and PAX records, as bytes, both ways |
//! | [`reader`] | the strict reader for streams from a hostile container |

pub mod pack;
mod pax;
mod prefetch;
pub mod reader;

#[cfg(test)]
mod tests;

pub use pack::{Holes, PackError, PackOptions, Packed, Sent, TopEntry, pack};
pub use reader::{Incoming, IncomingKind, Limits, Naming, ReadError, Reader, Refusal};
