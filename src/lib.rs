//! fastbuild runs a build in a container's own layer instead of on a slow mount, and brings the
//! products back.
//!
//! The table lists the modules in the order of the data flow. `docs/architecture.md` describes it
//! in full, and shows the floor of each module.
//!
//! | step | module |
//! |---|---|
//! | command line -> commands and their options | [`args`], [`cli`] |
//! | options, `fastbuild.toml`, environment, presets -> settings | [`config`], [`environment`] |
//! | the vocabulary of a build | [`spec`] |
//! | this machine and its file systems, looked up | [`facts`] |
//! | settings -> plan, pure | [`plan`] |
//! | host tree -> manifest | [`tree`], [`entry`] |
//! | manifest -> tar stream, and tar stream -> checked entries | [`archive`] |
//! | where the build runs | [`engine`] |
//! | what a build runs in, kept or for one run, and the way into it | [`workspace`] |
//! | the program at the other end, and the stream between | [`agent`] |
//! | the pipeline itself | [`build`] |
//! | what came back -> stage, verify, apply | [`outputs`] |
//! | where fastbuild keeps its own files | [`state`] |
//! | a build at each change | [`watch`] |
//! | what a directory costs | [`measure`] |
//! | what places and routes cost on this machine | [`mod@bench`] |
//! | facts -> what costs time here, and what to do | [`doctor`] |
//! | events -> what people and programs read | [`report`], [`text`] |
//! | what only one operating system has | [`sys`] |
//! | who runs the command, as an image's tables have it | [`user`] |

#![forbid(unsafe_code)]
// Here and not for the workspace: tests may unwrap, and xtask prints to its user.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr))]

pub mod agent;
pub mod archive;
#[cfg(feature = "client")]
pub mod args;
#[cfg(feature = "client")]
pub mod bench;
#[cfg(feature = "client")]
pub mod build;
#[cfg(feature = "client")]
pub mod cli;
#[cfg(feature = "client")]
pub mod config;
#[cfg(feature = "client")]
pub mod doctor;
#[cfg(feature = "client")]
pub mod engine;
pub mod entry;
#[cfg(feature = "client")]
pub mod environment;
#[cfg(feature = "client")]
pub mod facts;
pub mod measure;
#[cfg(feature = "client")]
pub mod outputs;
#[cfg(feature = "client")]
pub mod plan;
#[cfg(feature = "client")]
pub mod report;
#[cfg(feature = "client")]
pub mod spec;
#[cfg(feature = "client")]
pub mod state;
pub mod sys;
pub mod text;
pub mod tree;
pub mod user;
#[cfg(feature = "client")]
pub mod watch;
#[cfg(feature = "client")]
pub mod workspace;
