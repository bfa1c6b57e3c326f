//! `fastbuild bench`: what this machine's places and routes cost, and which route to take because of it.
//!
//! | step | module |
//! |---|---|
//! | all of it, from the settings to a report | [`work`] |
//! | what a bench makes, and how it goes again | [`belongings`] |
//! | places are measured | [`disk`], in the container of [`lab`] |
//! | the command is run on each route, in copies of the tree | [`routes`], [`copy`], [`child`] |
//! | what was measured, as data | [`mod@report`] |
//! | which route to take, and why | [`advice`] |
//! | what people and programs read | [`table`], [`html`], [`json`] |
//! | what later builds know of it | `fastbuild.toml`, by [`save`] |
//!
//! Everything after the measuring is pure but for the last.

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
