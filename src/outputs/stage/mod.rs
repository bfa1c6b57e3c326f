//! Turns what a container says it made into steps, with their bytes in slots beside the target.
//!
//! Products come as a list of what differs, and only the contents that are needed are requested
//! ([`delta`](Staging::expect)). Each product is compared with what the host had when this build
//! looked, by the one table in [`super::decide`], and becomes a step. Nothing on the host is
//! changed, and the source tree is not looked at again: each step checks what it meets.
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
