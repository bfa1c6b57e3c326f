//! Image references: text -> registry, repository, tag, digest. Pure.
//!
//! The engine would reject a bad name too, but late, in words that differ between engines, and for
//! a pull only after the request. The grammar is that of the distribution project.

use std::fmt;

/// The registry of names that do not name one.
const DEFAULT_REGISTRY: &str = "docker.io";

/// The longest repository name, registry included, that registries accept.
const MAX_NAME: usize = 255;

/// The name of an image, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// `[registry/]repository[:tag][@digest]`.
    Named {
        /// The registry as it was written; `None` if it was left out.
        registry: Option<String>,
        /// The repository, as it was written.
        repository: String,
        /// The tag; `None` if it was left out.
        tag: Option<String>,
        /// `algorithm:hex`.
        digest: Option<String>,
    },
    /// An image's own id. It names an image that the engine has; it cannot be pulled.
    Id(String),
}

/// Why a text is not a [`Reference`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadReference {
    /// The text is empty.
    #[error("it is empty")]
    Empty,
    /// An uppercase letter in the repository.
    #[error("a repository's name is lowercase")]
    Uppercase,
    /// Another invalid character, or a separator in the wrong place.
    #[error(
        "a repository's name has letters, digits and single separators ('.', '_', '-', '/') between them"
    )]
    Repository,
    /// The registry's part is invalid.
    #[error("the registry before the first '/' is not HOST or HOST:PORT")]
    Registry,
    /// The tag is invalid.
    #[error("a tag has up to 128 letters, digits, '_', '.' and '-', and does not begin with '.' or '-'")]
    Tag,
    /// The digest is invalid.
    #[error("a digest is ALGORITHM:HEX, with at least 32 hexadecimal digits")]
    Digest,
    /// More than 255 characters.
    #[error("a repository's name has at most 255 characters")]
    TooLong,
}

impl Reference {
    /// Parses a reference as `docker run` does.
    ///
    /// # Errors
    /// States which part breaks which rule.
    pub fn parse(text: &str) -> Result<Reference, BadReference> {
        if text.is_empty() {
            return Err(BadReference::Empty);
        }
        if is_id(text) {
            return Ok(Reference::Id(text.to_owned()));
        }
        let (rest, digest) = split_digest(text)?;
        let (name, tag) = split_tag(rest);
        let (registry, repository) = split_registry(name)?;
        check_repository(repository)?;
        tag.map_or(Ok(()), check_tag)?;
        if name.len() > MAX_NAME {
            return Err(BadReference::TooLong);
        }
        Ok(Reference::Named {
            registry: registry.map(str::to_owned),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// The registry that a pull would ask; `None` for an id.
    pub fn registry(&self) -> Option<&str> {
        match self {
            Reference::Named { registry, .. } => Some(registry.as_deref().unwrap_or(DEFAULT_REGISTRY)),
            Reference::Id(_) => None,
        }
    }

    /// What to ask the engine to pull: the name without tag and digest; digest, else tag, else
    /// `latest`.
    pub fn to_pull(&self) -> Option<(String, String)> {
        let Reference::Named { registry, repository, tag, digest } = self else {
            return None;
        };
        let name = registry
            .as_ref()
            .map_or_else(|| repository.clone(), |registry| format!("{registry}/{repository}"));
        let version = digest.as_ref().or(tag.as_ref()).map_or("latest", String::as_str);
        Some((name, version.to_owned()))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (registry, repository, tag, digest) = match self {
            Reference::Id(id) => return f.write_str(id),
            Reference::Named { registry, repository, tag, digest } => (registry, repository, tag, digest),
        };
        if let Some(registry) = registry {
            write!(f, "{registry}/")?;
        }
        f.write_str(repository)?;
        if let Some(tag) = tag {
            write!(f, ":{tag}")?;
        }
        digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

/// 64 hexadecimal digits, with or without `sha256:`. Registries forbid such repository names.
fn is_id(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    hex.len() == 64 && hex.bytes().all(is_lower_hex)
}

fn is_lower_hex(b: u8) -> bool {
    b.is_ascii_digit() || (b'a'..=b'f').contains(&b)
}

fn split_digest(text: &str) -> Result<(&str, Option<&str>), BadReference> {
    let Some((rest, digest)) = text.split_once('@') else {
        return Ok((text, None));
    };
    let (algorithm, hex) = digest.split_once(':').ok_or(BadReference::Digest)?;
    let algorithm_is_right = algorithm.split(['+', '.', '-', '_']).all(|part| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    });
    if !algorithm_is_right || hex.len() < 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(BadReference::Digest);
    }
    Ok((rest, Some(digest)))
}

/// A colon after the last slash begins a tag; a colon before it belongs to a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    let last = text.rfind('/').map_or(0, |slash| slash + 1);
    match text[last..].find(':') {
        Some(colon) => (&text[..last + colon], Some(&text[last + colon + 1..])),
        None => (text, None),
    }
}

fn check_tag(tag: &str) -> Result<(), BadReference> {
    let head_is_right = tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let tail_is_right = tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if head_is_right && tail_is_right && tag.len() <= 128 { Ok(()) } else { Err(BadReference::Tag) }
}

/// The first component is a registry if it could not be a directory of the default registry.
fn split_registry(name: &str) -> Result<(Option<&str>, &str), BadReference> {
    let Some((first, rest)) = name.split_once('/') else {
        return Ok((None, name));
    };
    let names_a_host = first == "localhost"
        || first.contains(['.', ':', '['])
        || first.bytes().any(|b| b.is_ascii_uppercase());
    if !names_a_host {
        return Ok((None, name));
    }
    if !is_host(first) {
        return Err(BadReference::Registry);
    }
    Ok((Some(first), rest))
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rfind(']') {
        Some(end) => (&text[..=end], text[end + 1..].strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port_is_right = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let host_is_right = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        None => host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        }),
    };
    host_is_right && port_is_right
}

fn check_repository(repository: &str) -> Result<(), BadReference> {
    if repository.is_empty() {
        return Err(BadReference::Empty);
    }
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(BadReference::Uppercase);
    }
    let all_are_right = repository.split('/').all(is_repository_component);
    if all_are_right { Ok(()) } else { Err(BadReference::Repository) }
}

/// Runs of letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_repository_component(component: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = component.split(is_alphanumeric).filter(|separator| !separator.is_empty());
    component.starts_with(is_alphanumeric)
        && component.ends_with(is_alphanumeric)
        && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_registries_read_them() {
        let hex = "a".repeat(64);
        let cases: &[(&str, &str, &str, &str)] = &[
            ("busybox", "docker.io", "busybox", "latest"),
            ("someone/busybox:1", "docker.io", "someone/busybox", "1"),
            ("ghcr.io/a/b-c__d.e:v1.2-x_y", "ghcr.io", "ghcr.io/a/b-c__d.e", "v1.2-x_y"),
            ("localhost/x", "localhost", "localhost/x", "latest"),
            ("localhost:5000/x", "localhost:5000", "localhost:5000/x", "latest"),
            ("Host/x:T", "Host", "Host/x", "T"),
            ("[::1]:5000/x", "[::1]:5000", "[::1]:5000/x", "latest"),
            ("a.b/c", "a.b", "a.b/c", "latest"),
            ("a/b/c---d", "docker.io", "a/b/c---d", "latest"),
        ];
        for (text, registry, name, version) in cases {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.registry(), Some(*registry), "{text}");
            assert_eq!(reference.to_pull(), Some(((*name).to_owned(), (*version).to_owned())), "{text}");
            assert_eq!(reference.to_string(), *text);
        }
        let pinned = Reference::parse(&format!("x:1@sha256:{hex}")).unwrap();
        assert_eq!(pinned.to_pull(), Some(("x".to_owned(), format!("sha256:{hex}"))));
        assert_eq!(pinned.to_string(), format!("x:1@sha256:{hex}"));
    }

    #[test]
    fn an_id_names_an_image_and_no_registry() {
        for text in ["0123456789abcdef".repeat(4), format!("sha256:{}", "f".repeat(64))] {
            let id = Reference::parse(&text).unwrap();
            assert_eq!(id, Reference::Id(text));
            assert_eq!(id.to_pull(), None);
        }
    }

    #[test]
    fn what_is_no_reference_is_told_why() {
        let long = "a".repeat(256);
        let long_tag = format!("x:{}", "t".repeat(129));
        let cases: &[(&str, BadReference)] = &[
            ("", BadReference::Empty),
            (":1", BadReference::Empty),
            ("@sha256:00000000000000000000000000000000", BadReference::Empty),
            ("UPPER:::x", BadReference::Uppercase),
            ("a/UPPER", BadReference::Uppercase),
            ("a b", BadReference::Repository),
            ("a//b", BadReference::Repository),
            ("/a", BadReference::Repository),
            ("a/", BadReference::Repository),
            ("a..b", BadReference::Repository),
            ("a___b", BadReference::Repository),
            ("-a", BadReference::Repository),
            ("a-", BadReference::Repository),
            ("café", BadReference::Repository),
            ("a:", BadReference::Tag),
            ("a:b:c", BadReference::Tag),
            ("a:.b", BadReference::Tag),
            (&long_tag, BadReference::Tag),
            ("a.b:x/c", BadReference::Registry),
            ("-a.b/c", BadReference::Registry),
            ("a@sha256", BadReference::Digest),
            ("a@sha256:123", BadReference::Digest),
            (&long, BadReference::TooLong),
            ("../etc", BadReference::Registry),
        ];
        for (text, why) in cases {
            assert_eq!(Reference::parse(text), Err(*why), "{text:?}");
        }
    }
}
