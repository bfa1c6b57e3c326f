//! Whose an object on an engine is, by its own labels. No engine's filter is trusted with that: Podman gives what has *one* of
//! the properties that Docker wants *all* of, and what a removal takes too much never comes back.

use std::collections::BTreeMap;

use crate::engine::labels;

/// What an object has to say of itself, all of it, before it is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned(BTreeMap<String, String>);

impl Owned {
    /// It says this.
    pub fn by(label: &str, value: &str) -> Owned {
        Owned([(label.to_owned(), value.to_owned())].into())
    }

    /// It goes with the run `id`.
    pub fn by_run(id: &str) -> Owned {
        Owned::by(labels::RUN, id)
    }

    /// It was made with these labels, by whatever version of fastbuild. Nothing is owned by none.
    pub fn of(labels: &BTreeMap<String, String>) -> Owned {
        let labels = labels.iter().filter(|(label, _)| *label != labels::VERSION);
        Owned(labels.map(|(label, value)| (label.clone(), value.clone())).collect())
    }

    /// This as well.
    #[must_use]
    pub fn and(mut self, label: &str, value: &str) -> Owned {
        self.0.insert(label.to_owned(), value.to_owned());
        self
    }

    /// For a listing of what may be owned.
    pub fn to_filter(&self) -> Vec<String> {
        self.0.iter().map(|(label, value)| format!("{label}={value}")).collect()
    }

    /// Whether these labels say all of it.
    pub fn is_said_by(&self, found: &BTreeMap<String, String>) -> bool {
        !self.0.is_empty() && self.0.iter().all(|(label, value)| found.get(label) == Some(value))
    }
}

/// Whether an object that an engine has listed carries each of `wanted` (`NAME` or `NAME=VALUE`).
pub(super) fn carries(found: &BTreeMap<String, String>, wanted: &[String]) -> bool {
    wanted.iter().all(|wanted| match wanted.split_once('=') {
        Some((label, value)) => found.get(label).is_some_and(|found| found == value),
        None => found.contains_key(wanted),
    })
}
