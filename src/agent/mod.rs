//! Both ends of the one stream that a build is: the agent in the workspace ([`far`]), and fastbuild itself.
//!
//! ```text
//!   fastbuild (near)                                    workspace container
//!   ----------------                                    -------------------
//!   filler, MAGIC, Hello{nonce}        ------------->   init (PID 1) sees its stdin readable, starts a session
//!                                      <-------------   Welcome{nonce}
//!   Open{root, user, rules}            ------------->   scan, digests from the index
//!   (scans the host meanwhile)
//!   Compare{one hash per bucket}       ------------->
//!                                      <-------------   Differing + nodes of the buckets that differ
//!   Apply{deletes} + tar + Settle      ------------->   put right, by directory handles
//!                                      <-------------   Applied
//!   Run{argv, env, ...}                ------------->   as the build's user, in a session of its own
//!   Stdin, Signal, Resize, Heartbeat   ------------->
//!                                      <-------------   stdout and stderr as they come, Exited
//!   Collect{outputs}                   ------------->   scan again
//!                                      <-------------   Products + nodes
//!   Want{indices}                      ------------->
//!                                      <-------------   tar
//!   Bye                                ------------->   the index is written, the session's process ends
//! ```
//!
//! [`frame`] is the wire: frames with a checksum, and how each end finds its place behind what a dead client left.
//! [`protocol`] is what the frames say. Both are pure. The far end is one small static program without any need of the
//! image; it is the same crate, built without what talks to engines and people.

#[cfg(unix)]
pub mod far;
pub mod frame;
#[cfg(feature = "client")]
pub mod near;
#[cfg(feature = "client")]
pub mod program;
pub mod protocol;
