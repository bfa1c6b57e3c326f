//! sys

pub mod source_file;
