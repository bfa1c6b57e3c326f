//! What differs between operating systems, kept in small pieces so that everything else compiles on each of them.
//!
//! | piece | what it is for |
//! |---|---|
//! | [`at`] | one name in one open directory: look, rename, exchange, remove, never following a link |
//! | `changes` | whether the system tells of changes in a directory |
//! | [`clock`] | the clock of a file system, and how finely it tells moments apart |
//! | [`metadata`] | directories read by handle, and what `lstat` says of their entries |
//! | [`source_file`] | a source file opened for reading, and what the system says of it |
//! | [`terminal`] | raw mode, size, and changes of the size |

#[cfg(unix)]
#[path = "at_unix.rs"]
pub mod at;
#[cfg(not(unix))]
#[path = "at_portable.rs"]
pub mod at;
#[cfg(feature = "client")]
pub mod changes;
pub mod clock;
pub mod metadata;
pub mod source_file;
#[cfg(all(unix, feature = "client"))]
#[path = "terminal_unix.rs"]
pub mod terminal;
#[cfg(all(not(unix), feature = "client"))]
#[path = "terminal_portable.rs"]
pub mod terminal;
