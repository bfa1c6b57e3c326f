//! The owner of an object on an engine, according to its labels. The filters of engines are not
//! trusted for this: Podman returns objects that have *one* of the properties of which Docker
//! requires *all*, and an object that was removed by mistake cannot be restored.

use std::collections::BTreeMap;

use crate::engine::labels;

/// The labels that an object must carry, all of them, before it is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned(BTreeMap<String, String>);

impl Owned {
    /// Requires this label.
    pub fn by(label: &str, value: &str) -> Owned {
        Owned([(label.to_owned(), value.to_owned())].into())
    }

    /// Requires that the object belongs to the run `id`.
    pub fn by_run(id: &str) -> Owned {
        Owned::by(labels::RUN, id)
    }

    /// Requires these labels, except the version of fastbuild. An empty set owns no object.
    pub fn of(labels: &BTreeMap<String, String>) -> Owned {
        let labels = labels.iter().filter(|(label, _)| *label != labels::VERSION);
        Owned(labels.map(|(label, value)| (label.clone(), value.clone())).collect())
    }

    /// Requires this label too.
    #[must_use]
    pub fn and(mut self, label: &str, value: &str) -> Owned {
        self.0.insert(label.to_owned(), value.to_owned());
        self
    }

    /// The filter for a list of objects that may be owned.
    pub fn to_filter(&self) -> Vec<String> {
        self.0.iter().map(|(label, value)| format!("{label}={value}")).collect()
    }

    /// Whether `found` has all the required labels.
    pub fn is_said_by(&self, found: &BTreeMap<String, String>) -> bool {
        !self.0.is_empty() && self.0.iter().all(|(label, value)| found.get(label) == Some(value))
    }
}

/// Whether an object in an engine's list carries each of `wanted` (`NAME` or `NAME=VALUE`).
pub(super) fn carries(found: &BTreeMap<String, String>, wanted: &[String]) -> bool {
    wanted.iter().all(|wanted| match wanted.split_once('=') {
        Some((label, value)) => found.get(label).is_some_and(|found| found == value),
        None => found.contains_key(wanted),
    })
}
