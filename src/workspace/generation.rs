//! What a workspace is made with, as a list that can tell what has changed. Pure.
//!
//! One part of it is the workspace's *key* ([`Generation::key`]): what cannot be changed on a
//! running container. A build with another network gets another workspace beside the first one. A
//! change of the rest (image id, agent) makes the workspace anew, and what only it holds is carried
//! over.

use std::fmt;

use serde::{Deserialize, Serialize};

use sha2::{Digest as _, Sha256};

use crate::{
    agent::protocol::PROTOCOL,
    engine::ImageFacts,
    plan::Plan,
    spec::{Asked, Change, Route},
    tree::Digest,
};

/// The values whose change makes the same workspace anew.
const MADE_ANEW: [&str; 3] = ["image", "protocol", "agent"];

/// The longest value that a [`Changed`] shows.
const SHORT: usize = 32;

/// Named values, in the order in which messages list them. A label of the workspace stores them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(Vec<(String, String)>);

/// One value that has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// The name of the value: `image`, `user` and so on.
    pub what: String,
    /// What the workspace was made with.
    pub old: Option<String>,
    /// What is wanted now.
    pub new: Option<String>,
}

impl Generation {
    /// What a workspace for `plan` in `image` with `agent` inside would be made with.
    pub fn new(plan: &Plan, image: &ImageFacts, agent: &[u8]) -> Generation {
        let made =
            [("image", image.id.clone()), ("protocol", PROTOCOL.to_string()), ("agent", fingerprint(agent))];
        let made = made.into_iter().map(|(what, value)| (what.to_owned(), value));
        Generation(fixed(plan).chain(made).collect())
    }

    /// Eight hexadecimal digits: a hash of the values whose change needs another workspace of
    /// `plan`.
    pub fn key(plan: &Plan) -> String {
        let mut hasher = Sha256::new();
        for (what, value) in fixed(plan) {
            hasher.update(format!("{}:{what}{}:{value}", what.len(), value.len()));
        }
        short_digest(hasher)
    }

    /// Whether an earlier version, with one workspace for each project, made this for `plan`.
    pub fn is_of(&self, plan: &Plan) -> bool {
        let matters = |(what, _): &(String, String)| {
            !MADE_ANEW.contains(&what.as_str())
                && !["image name", "user", "memory", "cpus"].contains(&what.as_str())
        };
        self.0.iter().filter(|value| matters(value)).cloned().eq(fixed(plan).filter(matters))
    }

    /// The value of that name.
    pub fn get(&self, what: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == what).map(|(_, value)| value.as_str())
    }

    /// All values with their names.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(what, value)| (what.as_str(), value.as_str()))
    }

    /// The label's text.
    pub fn to_label(&self) -> String {
        // Pairs of strings can always be serialized.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads the label; `None` when it is not such a list, for example from another version.
    pub fn from_label(text: &str) -> Option<Generation> {
        serde_json::from_str(text).ok()
    }

    /// The values that differ between `self` and `old`.
    pub fn changed_since(&self, old: &Generation) -> Vec<Changed> {
        let all_of = |what: &str, list: &Generation| {
            list.0.iter().find(|(name, _)| name == what).map(|(_, value)| value.clone())
        };
        let gone = old.0.iter().map(|(what, _)| what).filter(|what| all_of(what, self).is_none());
        let names = self.0.iter().map(|(what, _)| what).chain(gone);
        names
            .map(|what| Changed { what: what.clone(), old: all_of(what, old), new: all_of(what, self) })
            .filter(|changed| changed.old != changed.new)
            .collect()
    }
}

/// The values that cannot be changed on an existing container.
fn fixed(plan: &Plan) -> impl Iterator<Item = (String, String)> {
    // A settings file may contain values for another route.
    let of_route = |route| (plan.route.value == route).then_some(());
    let first = [
        ("image name", plan.image.as_ref().map(|image| image.value.clone())),
        ("user", plan.user.as_ref().map(|user| user.value.clone())),
        ("platform", plan.platform.as_ref().map(|platform| platform.value.clone())),
    ];
    let is_fixed = |asked: &Asked<'_>| asked.change == Change::OtherWorkspace;
    let options = plan.container.all().filter(is_fixed).map(|asked| (asked.name, Some(asked.value)));
    let last = [
        ("working directory", Some(plan.workdir.value.clone())),
        (
            "route",
            Some(plan.route.value).filter(|route| *route != Route::Layer).map(|route| route.to_string()),
        ),
        (
            "tmpfs size",
            of_route(Route::Tmpfs).and(plan.tmpfs_size.as_ref()).map(|bytes| bytes.value.to_string()),
        ),
        ("volume options", of_route(Route::Volume).and_then(|()| volume_options(plan))),
        ("caches", caches(plan)),
    ];
    let values = first.into_iter().chain(options).chain(last);
    values.filter_map(|(what, value)| Some((what.to_owned(), value?)))
}

fn short_digest(hasher: Sha256) -> String {
    Digest(hasher.finalize().into()).to_string().chars().take(8).collect()
}

/// Options may contain passwords, and every user of the engine can read labels: so only a hash is
/// kept, which tells whether the options have changed.
fn volume_options(plan: &Plan) -> Option<String> {
    let mut hasher = Sha256::new();
    for option in &plan.volume_options {
        let (key, value) = (&option.value.key, &option.value.value);
        hasher.update(format!("{}:{key}{}:{value}", key.len(), value.len()));
    }
    let digest = Digest(hasher.finalize().into()).to_string();
    (!plan.volume_options.is_empty()).then(|| digest.chars().take(16).collect())
}

fn caches(plan: &Plan) -> Option<String> {
    let caches: Vec<_> =
        plan.caches.iter().map(|cache| format!("{}:{}", cache.value.called(), cache.value.path)).collect();
    (!caches.is_empty()).then(|| caches.join(", "))
}

/// Tells one build of the agent from another. It is not a defence: a process that could change the
/// agent in the container is root there.
fn fingerprint(agent: &[u8]) -> String {
    format!("{}-{:08x}", env!("CARGO_PKG_VERSION"), crc32fast::hash(agent))
}

/// `image`, `user (default -> app)`.
impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let shown = |value: &Option<String>| match value {
            None => Some("default".to_owned()),
            Some(value) if value.len() <= SHORT => Some(value.clone()),
            Some(_) => None,
        };
        match (shown(&self.old), shown(&self.new)) {
            (Some(old), Some(new)) => write!(f, " ({old} -> {new})"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(values: &[(&str, &str)]) -> Generation {
        Generation(values.iter().map(|(what, value)| ((*what).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn every_change_is_named() {
        let digest = "sha256:0123456789012345678901234567890123456789";
        let other = "sha256:9876543210987654321098765432109876543210";
        let old = generation(&[("image", digest), ("user", "app"), ("protocol", "1")]);
        let cases = [
            (generation(&[("image", digest), ("user", "app"), ("protocol", "1")]), vec![]),
            (generation(&[("image", other), ("user", "app"), ("protocol", "1")]), vec!["image"]),
            (
                generation(&[("image", digest), ("protocol", "2")]),
                vec!["protocol (1 -> 2)", "user (app -> default)"],
            ),
            (
                generation(&[("image", digest), ("user", "app"), ("memory", "5"), ("protocol", "1")]),
                vec!["memory (default -> 5)"],
            ),
        ];
        for (new, expected) in cases {
            let changed: Vec<_> = new.changed_since(&old).iter().map(Changed::to_string).collect();
            assert_eq!(changed, expected);
        }
    }

    #[test]
    fn a_label_is_read_as_it_was_written_and_anything_else_is_none() {
        let old = generation(&[("image", "a"), ("user", "\"\u{fc}")]);
        assert_eq!(Generation::from_label(&old.to_label()), Some(old));
        for damaged in ["", "{}", "[[\"image\"]]", "[[\"image\",1]]", "[[\"image\",\"a\"]"] {
            assert_eq!(Generation::from_label(damaged), None, "{damaged}");
        }
    }
}
