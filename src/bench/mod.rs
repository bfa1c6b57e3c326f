//! `fastbuild bench`: what this machine's places and routes cost, and which route to take because of it.
//!
//! | step | module |
//! |---|---|
//! | what was measured, as data | [`mod@report`] |
//! | which route to take, and why | [`advice`] |
//! | what people and programs read | [`table`], [`html`], [`json`] |
//!
//! Everything after the measuring is pure.

pub mod advice;
mod figures;
pub mod html;
pub mod json;
pub mod report;
#[cfg(test)]
mod sample;
pub mod table;

pub use advice::Choice;
pub use report::{DiskFigures, DiskRow, Extent, FORMAT, Measured, Place, Report, RouteRow, Samples, Source};
