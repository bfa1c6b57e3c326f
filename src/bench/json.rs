//! A report -> `fastbuild bench --json`: its fields and the resulting choice. Pure. The contract is
//! `docs/bench-json.md`. Such a document can be read as a [`Report`] again; the choice is computed
//! anew.

use serde::Serialize;

use super::{
    advice::{self, Choice},
    report::Report,
};

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    report: &'a Report,
    choice: Option<Choice>,
}

/// The document, with a line end.
///
/// # Errors
/// None for any report: each of its values can be written as JSON.
pub fn render(report: &Report) -> serde_json::Result<String> {
    let document = Document { report, choice: advice::choose(report) };
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::bench::sample;

    #[test]
    fn the_example_is_what_the_program_writes() {
        let example: Value = serde_json::from_str(sample::json()).unwrap();
        let written: Value = serde_json::from_str(&render(&sample::report()).unwrap()).unwrap();
        assert_eq!(example, written);
    }

    #[test]
    fn a_written_report_can_be_read_again() {
        let report = sample::report();
        assert_eq!(serde_json::from_str::<Report>(&render(&report).unwrap()).unwrap(), report);
    }

    #[test]
    fn every_field_is_described() {
        let described = sample::DOCUMENT.split("## Example").next().unwrap();
        assert_described(&serde_json::from_str(sample::json()).unwrap(), described);
    }

    fn assert_described(value: &Value, described: &str) {
        let within: Vec<&Value> = match value {
            Value::Object(fields) => {
                for field in fields.keys() {
                    assert!(described.contains(&format!("`{field}`")), "{field}");
                }
                fields.values().collect()
            }
            Value::Array(values) => values.iter().collect(),
            _ => return,
        };
        within.into_iter().for_each(|value| assert_described(value, described));
    }
}
