//! Whose an object on an engine is, by its own labels. No engine's filter is trusted with that: Podman gives what has *one* of
//! the properties that Docker wants *all* of, and what a removal takes too much never comes back.

use std::collections::BTreeMap;

use crate::engine::labels;

/// What an object has to say of itself, all of it, before it is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned(BTreeMap<String, String>);

impl Owned {
    /// It goes with the run `id`.
    pub fn by_run(id: &str) -> Owned {
        Owned::of(&BTreeMap::new()).and(labels::RUN, id)
    }

    /// The state directory `id` knows it.
    pub fn by_state(id: &str) -> Owned {
        Owned::of(&BTreeMap::new()).and(labels::STATE, id)
    }

    /// It was made with these labels, by whatever version of fastbuild. Nothing is owned by none.
    pub fn of(labels: &BTreeMap<String, String>) -> Owned {
        let kept = labels.iter().filter(|(label, _)| *label != labels::VERSION);
        Owned(kept.map(|(label, value)| (label.clone(), value.clone())).collect())
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

    pub(super) fn is_said_by(&self, found: &BTreeMap<String, String>) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_owned_only_by_all_that_it_has_to_say() {
        let labels = |text: &str| {
            let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
            pairs.map(|(label, value)| (label.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>()
        };
        let (run, state) = (labels::RUN, labels::STATE);
        let owned = Owned::by_run("r").and(state, "s");
        assert!(owned.is_said_by(&labels(&format!("{run}=r {state}=s other=x"))));
        for foreign in ["", &format!("{run}=r"), &format!("{run}=r {state}="), &format!("{run}=r2 {state}=s")]
        {
            assert!(!owned.is_said_by(&labels(foreign)), "{foreign:?}");
            assert!(!carries(&labels(foreign), &owned.to_filter()), "{foreign:?}");
            assert!(!Owned::of(&BTreeMap::new()).is_said_by(&labels(foreign)), "{foreign:?}");
        }
        assert!(carries(&labels("a=1 b="), &["a=1".to_owned(), "b".to_owned()]));
        assert!(!carries(&labels("a=1 b="), &["c".to_owned()]));
    }
}
