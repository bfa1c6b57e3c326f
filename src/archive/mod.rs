//! A manifest -> a tar stream ([`mod@pack`]), and a tar stream -> checked entries ([`reader`]).
//!
//! Both directions stream: memory grows neither with the size of files nor with their number (but for a few words per
//! entry). Nothing here writes to a disk; the only disk access is reading sources. What a container sent is written by
//! [`crate::outputs`], from the entries that [`reader`] has checked. The tar stream itself is the engine's business,
//! see [`crate::engine`].
//!
//! | file | what |
//! |---|---|
//! | [`mod@pack`] | order of the entries, headers, hard links, the account of what was really sent |
//! | `prefetch` | reads and hashes ahead of the stream, on several threads, inside a bounded window |
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
