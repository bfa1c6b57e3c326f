//! Caches of tests: their volumes are the whole engine's, so each test has names of its own and removes them.

use std::process::Command;

use super::{Project, docker};

/// A cache that no other test has. It is removed when dropped, with every container that has it.
pub struct Cache(String);

impl Cache {
    /// One for a test of `project`.
    pub fn new(project: &Project, name: &str) -> Cache {
        Cache(format!("test-{}-{name}", project.key()))
    }

    /// What `--cache` calls it.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// `NAME:PATH`: a project's own.
    pub fn at(&self, path: &str) -> String {
        format!("{}:{path}", self.0)
    }

    /// `shared:NAME:PATH`: for all projects.
    pub fn shared_at(&self, path: &str) -> String {
        format!("shared:{}:{path}", self.0)
    }

    /// What fastbuild calls the volumes of that name, without its prefix: one for each project that has it, and the shared one.
    pub fn volumes(&self) -> Vec<String> {
        let filter = format!("name=fastbuild-cache-.*{}$", self.0);
        let found = docker(&["volume", "ls", "--quiet", "--filter", &filter]);
        found.lines().map(|name| name.trim_start_matches("fastbuild-cache-").to_owned()).collect()
    }

    /// Whether the engine has one.
    pub fn is_there(&self) -> bool {
        !self.volumes().is_empty()
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        for volume in self.volumes().iter().map(|name| format!("fastbuild-cache-{name}")) {
            let filter = format!("volume={volume}");
            let users = Command::new("docker").args(["ps", "--all", "--quiet", "--filter", &filter]).output();
            let users =
                users.map(|users| String::from_utf8_lossy(&users.stdout).into_owned()).unwrap_or_default();
            for container in users.lines() {
                let _ = Command::new("docker").args(["rm", "--force", "--volumes", container]).output();
            }
            let _ = Command::new("docker").args(["volume", "rm", "--force", &volume]).output();
        }
    }
}
