//! What the tests of fastbuild and its xtask share: slow mounts, and a browser that looks at a page.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[cfg(unix)]
pub mod chromium;
pub mod mounts;
