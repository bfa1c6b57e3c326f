//! `--cache NAME:PATH` -> [`Cache`]: a directory that is kept in a named volume, across workspaces and projects. Pure.

use std::fmt;

use serde::Serialize;

use super::{Decision, Reason, container_path::ContainerPath};
use crate::{
    config::{Anchor, CacheRequest},
    tree::RelPath,
};

/// The longest name: engines take 255 bytes, and fastbuild puts a prefix before it.
const LONGEST: usize = 128;

/// A cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// What it is called on the engine, behind fastbuild's prefix. Two projects that use one name share it.
    pub name: String,
    /// Where the command sees it.
    pub path: CachePath,
    /// Where that lies below the source root, when it does: no part of the sources then.
    pub below_source: Option<RelPath>,
}

/// Where a cache lies in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CachePath {
    /// An absolute path.
    Absolute(String),
    /// Below the home directory of the build's user, which only the image tells.
    Home(String),
}

impl fmt::Display for CachePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CachePath::Absolute(path) => f.write_str(path),
            CachePath::Home(below) => write!(f, "~/{below}"),
        }
    }
}

/// Why a cache is none.
#[derive(Debug, thiserror::Error)]
#[error("{reason}: {given:?}: {problem}; write NAME:PATH, such as cargo:~/.cargo or modules:node_modules")]
pub struct CacheError {
    /// Who asked.
    pub reason: Reason,
    /// As it was given.
    pub given: String,
    /// What is wrong.
    pub problem: &'static str,
}

/// Reads what was asked for. `workdir` is the source root's place in the container; relative paths start there in a file, and
/// at `command`, the command's directory, otherwise.
pub(super) fn resolve(
    asked: &Decision<CacheRequest>,
    workdir: &ContainerPath,
    command: &ContainerPath,
) -> Result<Decision<Cache>, CacheError> {
    let CacheRequest { spec: given, anchor } = &asked.value;
    let from = if *anchor == Anchor::Command { command } else { workdir };
    let refuse = |problem| CacheError { reason: asked.reason.clone(), given: given.clone(), problem };
    let (name, path) = given.split_once(':').ok_or_else(|| refuse("there is no colon in it"))?;
    check_name(name).map_err(&refuse)?;
    let (path, below_source) = if let Some(below) = path.strip_prefix("~/") {
        let below = RelPath::new(below.trim_end_matches('/').as_bytes())
            .ok()
            .filter(|below| !below.is_root())
            .ok_or_else(|| refuse("the path below the home directory is none"))?;
        (CachePath::Home(below.to_string()), None)
    } else {
        let path = ContainerPath::absolute(path).unwrap_or_else(|| from.join(path));
        let path = path.map_err(|_| refuse("the path leads above the root"))?;
        if path.is_root() || path == *workdir || workdir.below(&path).is_some() {
            return Err(refuse("the sources would lie in it"));
        }
        (CachePath::Absolute(path.to_string()), path.below(workdir))
    };
    Ok(Decision { value: Cache { name: name.to_owned(), path, below_source }, reason: asked.reason.clone() })
}

fn check_name(name: &str) -> Result<(), &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    match name.chars().next() {
        None => Err("it has no name"),
        Some(first) if !first.is_ascii_alphanumeric() => Err("a name begins with a letter or a digit"),
        Some(_) if !name.chars().all(fits) => {
            Err("a name has letters, digits, dots, dashes and underlines only")
        }
        Some(_) if name.len() > LONGEST => Err("the name is too long"),
        Some(_) => Ok(()),
    }
}
