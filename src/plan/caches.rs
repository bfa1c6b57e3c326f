//! `--cache NAME:PATH`, `--cache shared:NAME:PATH` -> [`Cache`]: a directory in a named volume that
//! is kept across the workspaces of one project or of all projects. Pure.

use std::fmt;

use serde::Serialize;

use super::container_path::ContainerPath;
use crate::{
    config::{Anchor, CacheRequest},
    entry::RelPath,
    spec::{Decision, Reason},
};

/// The longest name: engines allow 255 bytes, and fastbuild adds a prefix.
const LONGEST: usize = 128;

/// The prefix of a cache for all projects.
const SHARED: &str = "shared";

/// Which projects use a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// This project: the content is made from its sources.
    Project,
    /// Every project that names it.
    All,
}

/// A cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// Its name among the caches of the same sharing.
    pub name: String,
    /// Which projects use it.
    pub sharing: Sharing,
    /// Its path for the command.
    pub path: CachePath,
    /// Its path below the source root, if it is there. That path is then not part of the sources.
    pub below_source: Option<RelPath>,
}

impl Cache {
    /// The name as it is typed: `NAME`, or `shared:NAME`.
    pub fn called(&self) -> String {
        match self.sharing {
            Sharing::Project => self.name.clone(),
            Sharing::All => format!("{SHARED}:{}", self.name),
        }
    }
}

/// The path of a cache in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CachePath {
    /// An absolute path.
    Absolute(String),
    /// Below the home directory of the build's user, which is known only from the image.
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

/// The reason why a cache is refused.
#[derive(Debug, thiserror::Error)]
#[error(
    "{reason}: {given:?}: {problem}; write NAME:PATH for a cache of this project, such as \
         modules:node_modules, or shared:NAME:PATH for one of all, such as shared:cargo:~/.cargo"
)]
pub struct CacheError {
    /// The source of the request.
    pub reason: Reason,
    /// The text as it was given.
    pub given: String,
    /// The problem.
    pub problem: &'static str,
}

/// Parses all requests, as [`resolve`]. Of a cache named twice for one path, the last reason
/// counts.
pub(super) fn resolve_all(
    asked: &[Decision<CacheRequest>],
    workdir: &ContainerPath,
    command: &ContainerPath,
) -> Result<Vec<Decision<Cache>>, CacheError> {
    let mut all: Vec<Decision<Cache>> = Vec::new();
    for asked in asked {
        let cache = resolve(asked, workdir, command)?;
        match all.iter_mut().find(|other| other.value.path == cache.value.path) {
            None => all.push(cache),
            Some(other) if other.value == cache.value => *other = cache,
            Some(_) => {
                let (reason, given) = (asked.reason.clone(), asked.value.spec.clone());
                return Err(CacheError { reason, given, problem: "another cache lies there already" });
            }
        }
    }
    Ok(all)
}

/// Parses one request. `workdir` is the source root's place in the container. Relative paths start
/// there in a file, and at `command`, the command's directory, otherwise.
fn resolve(
    asked: &Decision<CacheRequest>,
    workdir: &ContainerPath,
    command: &ContainerPath,
) -> Result<Decision<Cache>, CacheError> {
    let CacheRequest { spec: given, anchor } = &asked.value;
    let from = if *anchor == Anchor::Command { command } else { workdir };
    let refuse = |problem| CacheError { reason: asked.reason.clone(), given: given.clone(), problem };
    let (name, path) = given.split_once(':').ok_or_else(|| refuse("there is no colon in it"))?;
    let (sharing, (name, path)) = match name {
        SHARED => (Sharing::All, path.split_once(':').ok_or_else(|| refuse("a shared one has a name, too"))?),
        _ => (Sharing::Project, (name, path)),
    };
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
        if command.below(&path).is_some() {
            return Err(refuse("the command would start in it"));
        }
        (CachePath::Absolute(path.to_string()), path.below(workdir))
    };
    Ok(Decision {
        value: Cache { name: name.to_owned(), sharing, path, below_source },
        reason: asked.reason.clone(),
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ContainerPath {
        ContainerPath::absolute(text).unwrap().unwrap()
    }

    fn asked(spec: &str, anchor: Anchor) -> Decision<CacheRequest> {
        Decision {
            value: CacheRequest { spec: spec.to_owned(), anchor },
            reason: Reason::Flag { flag: "--cache" },
        }
    }

    fn resolved(specs: &[&str]) -> Result<Vec<Decision<Cache>>, CacheError> {
        let all: Vec<_> = specs.iter().map(|spec| asked(spec, Anchor::Command)).collect();
        resolve_all(&all, &path("/w"), &path("/w/sub"))
    }

    #[test]
    fn each_path_means_one_place() {
        let cases = [
            ("c:/var/x", "/var/x", None),
            ("c:/var//./x/", "/var/x", None),
            ("c:x", "/w/sub/x", Some("sub/x")),
            ("c:../x", "/w/x", Some("x")),
            ("c:../../x", "/x", None),
            ("c:/w/x", "/w/x", Some("x")),
            ("c:/world", "/world", None),
            ("c:~/.cargo/registry/", "~/.cargo/registry", None),
            ("c:a:b", "/w/sub/a:b", Some("sub/a:b")),
            ("c:~x", "/w/sub/~x", Some("sub/~x")),
        ];
        for (spec, expected, below) in cases {
            let cache = resolved(&[spec]).unwrap().remove(0).value;
            assert_eq!((cache.name.as_str(), cache.path.to_string().as_str()), ("c", expected), "{spec}");
            assert_eq!(cache.below_source.map(|path| path.to_string()).as_deref(), below, "{spec}");
        }
        let of_file = asked("c:x", Anchor::File("/home/me".into()));
        let cache = resolve_all(&[of_file], &path("/w"), &path("/w/sub")).unwrap().remove(0).value;
        assert_eq!(cache.path.to_string(), "/w/x");
    }

    #[test]
    fn a_cache_is_the_projects_unless_it_is_said_to_be_shared() {
        let called =
            |spec| resolved(&[spec]).map(|all| (all[0].value.called(), all[0].value.path.to_string()));
        assert_eq!(called("shared:c:a:b").unwrap(), ("shared:c".to_owned(), "/w/sub/a:b".to_owned()));
        assert_eq!(called("c:shared:b").unwrap(), ("c".to_owned(), "/w/sub/shared:b".to_owned()));
    }

    #[test]
    fn what_is_no_cache_is_told_by_what_is_wrong() {
        let long = format!("{}:x", "n".repeat(LONGEST + 1));
        let in_it = "the sources would lie in it";
        let letters = "a name has letters, digits, dots, dashes and underlines only";
        let cases = [
            ("", "there is no colon in it"),
            ("~/.cargo", "there is no colon in it"),
            (":x", "it has no name"),
            ("_a:x", "a name begins with a letter or a digit"),
            ("a/b:x", letters),
            ("\u{e4}:x", "a name begins with a letter or a digit"),
            ("a\u{e4}:x", letters),
            (&long, "the name is too long"),
            ("shared:x", "a shared one has a name, too"),
            ("shared::x", "it has no name"),
            ("a:", "the command would start in it"),
            ("a:/", in_it),
            ("a:/w/", in_it),
            ("a:..", in_it),
            ("a:../..", in_it),
            ("a:.", "the command would start in it"),
            ("a:../../..", "the path leads above the root"),
            ("a:~/", "the path below the home directory is none"),
            ("a:~/..", "the path below the home directory is none"),
            ("a:~/x//y", "the path below the home directory is none"),
        ];
        for (spec, expected) in cases {
            let error = resolved(&[spec]).unwrap_err();
            assert_eq!(error.problem, expected, "{spec}");
            assert!(error.to_string().starts_with("--cache: "), "{error}");
        }
    }

    #[test]
    fn one_place_has_one_cache() {
        assert_eq!(resolved(&["a:x", "b:y", "a:./x"]).unwrap().len(), 2);
        assert_eq!(resolved(&["a:x", "a:y"]).unwrap().len(), 2);
        for other in ["b:x", "shared:a:x"] {
            assert_eq!(resolved(&["a:x", other]).unwrap_err().problem, "another cache lies there already");
        }
    }
}
