//! Caches of tests: their volumes are the whole engine's, so each test has names of its own and removes them.

#![allow(dead_code, reason = "each test file uses a part of this")]

use std::process::Command;

use super::common::{Project, docker};

/// A cache that nobody else has; gone when dropped, with whatever container has it.
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

    /// `NAME:PATH`.
    pub fn at(&self, path: &str) -> String {
        format!("{}:{path}", self.0)
    }

    /// Its volume's name.
    pub fn volume(&self) -> String {
        format!("fastbuild-cache-{}", self.0)
    }

    /// Whether the engine has it.
    pub fn is_there(&self) -> bool {
        let filter = format!("name={}", self.volume());
        docker(&["volume", "ls", "--quiet", "--filter", &filter]).lines().any(|name| name == self.volume())
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let filter = format!("volume={}", self.volume());
        let users = Command::new("docker").args(["ps", "--all", "--quiet", "--filter", &filter]).output();
        let users =
            users.map(|users| String::from_utf8_lossy(&users.stdout).into_owned()).unwrap_or_default();
        for container in users.lines() {
            let _ = Command::new("docker").args(["rm", "--force", "--volumes", container]).output();
        }
        let _ = Command::new("docker").args(["volume", "rm", "--force", &self.volume()]).output();
    }
}
