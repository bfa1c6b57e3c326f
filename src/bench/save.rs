//! The choice -> `fastbuild.toml`. The rest of the file is unchanged: comments, order, spaces.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use toml_edit::{DocumentMut, TomlError, value};

use crate::{spec::Route, tree::scan::STAGE_PREFIX};

/// A saved choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The file.
    pub path: PathBuf,
    /// The value before, if there was one.
    pub before: Option<String>,
}

/// Why the choice is not in the file.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// It cannot be read.
    #[error("could not read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It is not valid TOML.
    #[error("could not understand {path:?}")]
    Text {
        /// The file.
        path: PathBuf,
        /// The error.
        source: TomlError,
    },
    /// It cannot be written.
    #[error("could not write {path:?}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Writes `route` into the file at `path`, which is made if it does not exist.
///
/// # Errors
/// [`SaveError`]; then the file is unchanged.
pub fn save(path: &Path, route: Route) -> Result<Saved, SaveError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(SaveError::Read { path: path.to_owned(), source }),
    };
    let (after, before) = with_route(text.as_deref().unwrap_or_default(), route)
        .map_err(|source| SaveError::Text { path: path.to_owned(), source })?;
    let written = match text {
        Some(text) if text == after => Ok(()),
        Some(_) => replace(path, &after),
        None => std::fs::write(path, &after),
    };
    written.map_err(|source| SaveError::Write { path: path.to_owned(), source })?;
    Ok(Saved { path: path.to_owned(), before })
}

/// The text with the new route, and the old route.
fn with_route(text: &str, route: Route) -> Result<(String, Option<String>), TomlError> {
    let mut document: DocumentMut = text.parse()?;
    let before = document.get("route").and_then(|route| route.as_str()).map(str::to_owned);
    match document.get_mut("route").and_then(|item| item.as_value_mut()) {
        Some(old) => {
            let around = old.decor().clone();
            *old = route.name().into();
            *old.decor_mut() = around;
        }
        None => drop(document.insert("route", value(route.name()))),
    }
    Ok((document.to_string(), before))
}

/// Atomically, with the file's mode, and through a link to the file itself.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = path.canonicalize()?;
    let permissions = path.metadata()?.permissions();
    let directory = path.parent().unwrap_or(Path::new("."));
    // A name that builds do not take for a source.
    let mut file = tempfile::Builder::new().prefix(STAGE_PREFIX).tempfile_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(permissions)?;
    file.persist(&path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_text_stays() {
        let cases = [
            ("", "route = \"tmpfs\"\n", None),
            ("# mine\nimage = \"a\" # why\n", "# mine\nimage = \"a\" # why\nroute = \"tmpfs\"\n", None),
            (
                "image='a'\n\nroute = \"layer\"   # slow disk\n\n# cargo\n[env]\nA = \"b\"\n",
                "image='a'\n\nroute = \"tmpfs\"   # slow disk\n\n# cargo\n[env]\nA = \"b\"\n",
                Some("layer"),
            ),
            (
                "image = \"a\"\n\n# variables\n[env]\nA = \"b\"\n",
                "image = \"a\"\nroute = \"tmpfs\"\n\n# variables\n[env]\nA = \"b\"\n",
                None,
            ),
        ];
        for (text, after, before) in cases {
            assert_eq!(
                with_route(text, Route::Tmpfs).unwrap(),
                (after.to_owned(), before.map(str::to_owned))
            );
        }
    }

    #[test]
    fn a_file_is_made_or_changed_and_keeps_its_mode() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("fastbuild.toml");
        assert_eq!(save(&path, Route::Volume).unwrap(), Saved { path: path.clone(), before: None });
        let mut permissions = path.metadata().unwrap().permissions();
        permissions.set_readonly(true);
        std::fs::set_permissions(&path, permissions.clone()).unwrap();
        let saved = save(&path, Route::Layer).unwrap();
        assert_eq!(saved.before.as_deref(), Some("volume"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "route = \"layer\"\n");
        assert_eq!(path.metadata().unwrap().permissions(), permissions);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_toml_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("fastbuild.toml");
        std::fs::write(&path, "image = ").unwrap();
        assert!(matches!(save(&path, Route::Layer), Err(SaveError::Text { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "image = ");
    }
}
