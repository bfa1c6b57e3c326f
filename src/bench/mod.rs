//! `fastbuild bench`: measures this machine's places and routes, and advises which route to take.
//!
//! | step | module |
//! |---|---|
//! | the whole bench, from the settings to a report | [`work`] |
//! | the objects that a bench makes, and their removal | [`belongings`] |
//! | places are measured | [`disk`], in the container of [`lab`] |
//! | the command is run on each route, in copies of the tree | [`routes`], [`copy`], [`child`] |
//! | the measurements, as data | [`mod@report`] |
//! | the route to take, and why | [`advice`] |
//! | the output for people and programs | [`table`], [`html`], [`json`] |
//! | the choice for later builds | `fastbuild.toml`, by [`save`] |
//!
//! All steps after the measuring are pure, except for the last.

pub mod advice;
pub mod belongings;
pub mod child;
pub mod copy;
pub mod disk;
mod figures;
pub mod html;
pub mod json;
pub mod lab;
pub mod report;
pub mod routes;
#[cfg(test)]
mod sample;
pub mod save;
pub mod table;
pub mod work;

pub use advice::Choice;
pub use report::{DiskFigures, DiskRow, FORMAT, Measured, Place, Report, RouteRow, Samples, Source};
