//! Both ends of a build's one stream: the agent in the workspace ([`server`]), and fastbuild itself.
//!
//! ```text
//!   fastbuild (near)                               workspace container
//!   ----------------                               -------------------
//!   filler, MAGIC, Hello{nonce}        -------->   init (PID 1) sees input, starts a session
//!                                      <--------   Welcome{nonce}
//!   Open{root, user, rules, claim}     -------->   scan, digests from the index
//!   (scans the host meanwhile)         <--------   Opened{room, kept}, at this client's turn
//!   Compare{one hash per bucket}       -------->
//!                                      <--------   Differing + nodes of the buckets that differ
//!   Apply{deletes} + tar + Settle      -------->   put right, by directory handles
//!                                      <--------   Applied
//!   Run{argv, env, ...}                -------->   as the build's user, in a session of its own
//!   Stdin, Signal, Resize, Heartbeat   -------->
//!                                      <--------   stdout and stderr as they come, Exited
//!   Collect{an output}                 -------->   scan again, once for all outputs
//!                                      <--------   Products + nodes + deleted paths
//!   Want{indices}                      -------->
//!                                      <--------   tar
//!   (the same for each output)
//!   Beside                             -------->   where outputs are named
//!                                      <--------   Beside{changed, made}
//!   Bye                                -------->   writes index and leftovers, the process ends
//! ```
//!
//! `LeftThere` comes before `Bye` where the products did not reach the host. A manual cleanup sends
//! Open, Clean or Unkeep, Bye.
//!
//! [`frame`] is the wire: frames with a checksum, and how each end skips the bytes of a dead
//! client. [`protocol`] is their content. Both are pure. The far end is one small static program
//! that needs nothing of the image. It is the same crate without the code for engines and users.

#[cfg(feature = "client")]
pub mod channel;
#[cfg(feature = "client")]
pub mod client;
pub mod frame;
#[cfg(feature = "client")]
pub mod program;
pub mod protocol;
#[cfg(target_os = "linux")]
pub mod server;
