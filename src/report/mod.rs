//! report
pub mod events;
