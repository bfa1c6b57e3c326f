//! What the place of execution says about a command: an image, or this machine and its user.

use crate::{
    agent::protocol::{Home, User},
    engine::ImageFacts,
    spec::EnvVar,
    workspace::storage::Storage,
};

/// The command's settings where the plan says nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// The user that it runs as.
    pub user: User,
    /// The program in front of it; empty for none.
    pub entrypoint: Vec<String>,
    /// Where its `HOME` comes from.
    pub home: Home,
    /// Environment variables that it has whatever the plan says.
    pub env: Vec<EnvVar>,
    /// Directories that outlive the container or directory that it runs in: absolute paths.
    pub caches: Vec<String>,
    /// See [`Storage::ways`].
    pub ways: Vec<String>,
}

impl Surroundings {
    /// Of a workspace on this machine: the command runs as a child of the user's own shell would.
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

    /// Of a container of `image`, with the caches of `storage`.
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
