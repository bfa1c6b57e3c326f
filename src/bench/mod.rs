//! `fastbuild bench`: measures this machine's places and routes, and advises which route to take.
//!
//! | step | module |
//! |---|---|
//! | the whole bench, from the settings to a report | [`run`] |
//! | the objects that a bench makes, and their removal | [`artifacts`] |
//! | places are measured | [`disk`], in the container of [`container`] |
//! | the command is run on each route, in copies of the tree | [`routes`], [`copy`], [`build_process`] |
//! | the measurements, as data | [`mod@report`] |
//! | the route to take, and why | [`advice`] |
//! | the output for people and programs | [`table`], [`html`], [`json`] |
//! | the choice for later builds | `fastbuild.toml`, by [`save`] |
//!
//! All steps after the measuring are pure, except for the last.

pub mod advice;
pub mod artifacts;
pub mod build_process;
pub mod container;
pub mod copy;
pub mod disk;
mod figures;
pub mod html;
pub mod json;
pub mod report;
pub mod routes;
pub mod run;
#[cfg(test)]
mod sample;
pub mod save;
pub mod table;

pub use advice::Choice;
pub use report::{DiskFigures, DiskRow, FORMAT, Measured, Place, Report, RouteRow, Samples, Source};
