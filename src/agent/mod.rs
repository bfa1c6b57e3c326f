//! Both ends of the one stream that a build is: the agent in the workspace ([`far`]), and fastbuild itself.
//!
//! ```text
//!   fastbuild (near)                                    workspace container
//!   ----------------                                    -------------------
//!   filler, MAGIC, Hello{nonce}        ------------->   init (PID 1) sees its stdin readable, starts a session
//!                                      <-------------   Welcome{nonce}
//!   Open{root, user, rules, claim}     ------------->   scan, digests from the index
//!   (scans the host meanwhile)         <-------------   Opened{room, kept}, when it is this client's turn
//!   Compare{one hash per bucket}       ------------->
//!                                      <-------------   Differing + nodes of the buckets that differ
//!   Apply{deletes} + tar + Settle      ------------->   put right, by directory handles
//!                                      <-------------   Applied
//!   Run{argv, env, ...}                ------------->   as the build's user, in a session of its own
//!   Stdin, Signal, Resize, Heartbeat   ------------->
//!                                      <-------------   stdout and stderr as they come, Exited
//!   Collect{an output}                 ------------->   scan again, once for all outputs
//!                                      <-------------   Products + nodes + what is gone
//!   Want{indices}                      ------------->
//!                                      <-------------   tar
//!   (the same for each output)
//!   Beside                             ------------->   where outputs are named
//!                                      <-------------   Beside{changed, made}
//!   Bye                                ------------->   index and leftovers are written, the session's process ends
//! ```
//!
//! `LeftThere` comes before `Bye` where the products did not reach the host. Whoever cleans up by hand says Open, Clean or Unkeep, Bye.
//!
//! [`frame`] is the wire: frames with a checksum, and how each end finds its place behind what a dead client left.
//! [`protocol`] is what the frames say. Both are pure. The far end is one small static program without any need of the
//! image; it is the same crate, built without what talks to engines and people.

#[cfg(unix)]
#[cfg(feature = "client")]
pub mod channel;
pub mod far;
pub mod frame;
#[cfg(feature = "client")]
pub mod near;
#[cfg(feature = "client")]
pub mod program;
pub mod protocol;
