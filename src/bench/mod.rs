//! `fastbuild bench`: what this machine's places and routes cost, and which route to take because of it.
//!
//! | step | module |
//! |---|---|
//! | what a bench makes, and how it goes again | [`belongings`] |
//! | places are measured | [`disk`], in the container of [`lab`] |
//! | what was measured, as data | [`mod@report`] |
//! | which route to take, and why | [`advice`] |
//! | what people and programs read | [`table`], [`html`], [`json`] |
//!
//! Everything after the measuring is pure.

pub mod advice;
pub mod belongings;
pub mod copy;
pub mod disk;
mod figures;
pub mod html;
pub mod json;
pub mod lab;
pub mod report;
#[cfg(test)]
mod sample;
pub mod table;

pub use advice::Choice;
pub use report::{DiskFigures, DiskRow, Extent, FORMAT, Measured, Place, Report, RouteRow, Samples, Source};
