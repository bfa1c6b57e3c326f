//! What is said about a command by where it runs: an image, or this machine and whoever runs fastbuild there.

use super::storage::Storage;
use crate::{
    agent::protocol::{Home, User},
    engine::ImageFacts,
    spec::EnvVar,
};

/// What a command finds where nothing in the plan says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// Who it runs as.
    pub user: User,
    /// What runs in front of it; empty is nothing.
    pub entrypoint: Vec<String>,
    /// Where its `HOME` comes from.
    pub home: Home,
    /// What its environment has whatever the plan says.
    pub env: Vec<EnvVar>,
    /// Directories that outlive what it runs in: absolute paths.
    pub caches: Vec<String>,
    /// See [`Storage::ways`].
    pub ways: Vec<String>,
}

impl Surroundings {
    /// A workspace's on this machine: as a child of the user's own shell.
    pub fn here() -> Surroundings {
        Surroundings {
            user: User::Own,
            entrypoint: Vec::new(),
            home: Home::AsSet,
            env: Vec::new(),
            caches: Vec::new(),
            ways: Vec::new(),
        }
    }

    /// A container's of `image`, with the caches of `storage`.
    pub fn of(image: &ImageFacts, storage: &Storage) -> Surroundings {
        let sets_home = image.env.iter().any(|variable| variable.starts_with("HOME="));
        Surroundings {
            user: User::Named(image.user.clone()),
            entrypoint: image.entrypoint.clone(),
            home: if sets_home { Home::AsSet } else { Home::OfUser },
            env: storage.variables().collect(),
            caches: storage.cache_paths().map(str::to_owned).collect(),
            ways: storage.ways().to_vec(),
        }
    }
}
