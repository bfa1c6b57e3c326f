//! `fastbuild bench`: what this machine's places and routes cost, and which route to take because of it.
//!
//! | step | module |
//! |---|---|
//! | what was measured, as data | [`mod@report`] |
//!
//! Everything after the measuring is pure.

pub mod report;

pub use report::{DiskFigures, DiskRow, Extent, FORMAT, Measured, Place, Report, RouteRow, Samples, Source};
