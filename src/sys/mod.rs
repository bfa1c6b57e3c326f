//! sys

pub mod metadata;
