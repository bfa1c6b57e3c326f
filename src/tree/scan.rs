//! s
pub const STAGE_PREFIX: &str = ".fastbuild-stage-";
