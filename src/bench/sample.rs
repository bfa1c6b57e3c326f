//! The report for this module's tests: the example of `docs/bench-json.md`.

use super::Report;

pub(super) const DOCUMENT: &str = include_str!("../../docs/bench-json.md");

/// The example's text.
pub(super) fn json() -> &'static str {
    DOCUMENT.split("```json\n").nth(1).unwrap().split("```").next().unwrap()
}

/// The example as data.
pub(super) fn report() -> Report {
    serde_json::from_str(json()).unwrap()
}
