//! What a container says it made -> steps, with the bytes they need in slots beside the target.
//!
//! Products come as a list of what differs, of which only those contents are asked for that are needed
//! ([`delta`](Staging::expect)). Each product is held against what the host had when this build looked, by the one table in
//! [`super::decide`], and becomes a step. Nothing of the host's is changed, and of the source tree nothing is looked at again: a
//! step finds out by itself whether it meets what it expects.
//!
//! | file | what |
//! |---|---|
//! | `stage/delta.rs` | a list of nodes, then the contents that were asked for |
//! | `stage/links.rs` | which names are one file |
//! | `stage/staging.rs` | one product after the other, held against the host |

mod delta;
mod links;
mod staging;
#[cfg(all(test, unix))]
mod tests;

pub use delta::{LINK_TO_NOTHING, Listed, Wanted};
pub use staging::{LIMITS, Staging, StagingOptions, Uploaded};
