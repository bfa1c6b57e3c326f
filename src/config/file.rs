//! `fastbuild.toml` -> [`Keys`]: every value with its line number. An unknown key or a wrong type
//! is an error that names file, line and column, and the key that was probably meant.
//!
//! A key is a line of the `keys!` table below and a doc comment. Its `Form` defines the valid TOML.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use fs_err as fs;
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use crate::{
    spec::{
        Decision, EngineChoice, Isolation, PROJECT_FILE, Progress, PullPolicy, Reason, RouteChoice,
        choices::{Choice, choose, nearest},
        units::{self, BadValue, did_you_mean},
    },
    sys::source_file::says_gone,
};

type Key<'a> = Spanned<DeString<'a>>;
type Value<'a> = Spanned<DeValue<'a>>;

/// A `fastbuild.toml` that was read.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    /// The path of the file.
    pub path: PathBuf,
    /// The content of the file.
    pub keys: Keys,
}

/// A problem with the file, and its place.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file exists and cannot be read.
    #[error("could not read the configuration")]
    Read(#[source] io::Error),
    /// Its text is wrong.
    #[error("{}:{line}:{column}: {problem}", .path.to_string_lossy())]
    Text {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// The problem there.
        problem: Box<Problem>,
    },
}

/// A problem at one place of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not TOML.
    #[error("{0}")]
    Syntax(String),
    /// No such key.
    #[error(
        "there is no key {given:?}{}", match nearest {
            Some(_) => did_you_mean(*nearest),
            None => format!("; the keys are {}", names.join(", ")),
        }
    )]
    UnknownKey {
        /// The key that was found.
        given: String,
        /// The key that was probably meant.
        nearest: Option<&'static str>,
        /// All keys of that table.
        names: &'static [&'static str],
    },
    /// The type is not the key's type.
    #[error("{key} must be {expected}, and this is {found}")]
    Type {
        /// The key.
        key: String,
        /// The type that the key takes, with its article.
        expected: &'static str,
        /// The type that was found, with its article.
        found: &'static str,
    },
    /// The type is right, and the value is invalid.
    #[error("{key}: {problem}")]
    Value {
        /// The key.
        key: String,
        /// The problem with the value.
        problem: BadValue,
    },
}

/// Defines a table's struct, its keys' names and the field of each key, from one line a key.
macro_rules! keys {
    ($(#[$table_doc:meta])* $table:ident: $($(#[$doc:meta])* $field:ident: $type:ty = $name:literal, $form:expr;)*) => {
        $(#[$table_doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $table {
            $($(#[$doc])* pub $field: Option<Decision<$type>>,)*
        }

        impl $table {
            /// Every key's name.
            pub const NAMES: &[&str] = &[$($name),*];

            fn set(&mut self, key: &Key<'_>, value: &Value<'_>, text: &Text<'_>) -> Result<(), FileError> {
                match key.get_ref().as_ref() {
                    $($name => self.$field = Some(text.read($name, &$form, value)?),)*
                    given => {
                        let nearest = nearest_key(given, Self::NAMES);
                        let problem = Problem::UnknownKey { given: given.to_owned(), nearest, names: Self::NAMES };
                        return Err(text.error(key.span().start, problem));
                    }
                }
                Ok(())
            }

            /// Reads a whole table, in the order of its lines.
            fn read(table: &DeTable<'_>, text: &Text<'_>) -> Result<$table, FileError> {
                let mut keys = $table::default();
                in_order(table).into_iter().try_for_each(|(key, value)| keys.set(key, value, text))?;
                Ok(keys)
            }
        }
    };
}

keys! {
    /// Every key of the file; `None` when the key is missing.
    Keys:
    /// `name = "blog"`, which finds the project's workspace from another machine or home.
    name: String = "name", PROJECT;
    /// `image = "ruby:3.3"`
    image: String = "image", TEXT;
    /// `workdir = "/site"`
    workdir: String = "workdir", TEXT;
    /// `outputs = ["_site", "/tmp/log:logs/"]`; PATH below workdir, HOST below the file's
    /// directory.
    outputs: Vec<Decision<String>> = "outputs", LIST;
    /// `exclude = ["node_modules"]`
    exclude: Vec<Decision<String>> = "exclude", LIST;
    /// `include = ["node_modules/mine"]`, exceptions from all exclusions before it.
    include: Vec<Decision<String>> = "include", LIST;
    /// `no-ignore = true`
    no_ignore: bool = "no-ignore", SWITCH;
    /// `env = ["NAME", "NAME=VALUE"]`, or a table `NAME = "VALUE"`.
    env: Vec<Decision<String>> = "env", ENV;
    /// `env-file = [".env"]`, below the file's directory.
    env_file: Vec<Decision<String>> = "env-file", ONE_OR_MORE;
    /// `user = "1000:1000"`
    user: String = "user", TEXT;
    /// `entrypoint = "/entry"`, or `""` for none.
    entrypoint: String = "entrypoint", ANYTHING;
    /// `outputs-on-failure = true`
    outputs_on_failure: bool = "outputs-on-failure", SWITCH;
    /// `atomic = true`
    atomic: bool = "atomic", SWITCH;
    /// `stdin = true`
    stdin: bool = "stdin", SWITCH;
    /// `tty = false`
    tty: bool = "tty", SWITCH;
    /// `platform = "linux/amd64"`
    platform: String = "platform", TEXT;
    /// `pull = "always"`
    pull: PullPolicy = "pull", choice();
    /// `network = "none"`
    network: String = "network", TEXT;
    /// `memory = "2g"`, or bytes.
    memory: u64 = "memory", MEMORY;
    /// `cpus = 1.5`
    cpus: i64 = "cpus", CPUS;
    /// `shm-size = "1g"`, or bytes.
    shm_size: u64 = "shm-size", MEMORY;
    /// `isolation = "process"`
    isolation: Isolation = "isolation", choice();
    /// `engine = "docker"`
    engine: EngineChoice = "engine", choice();
    /// `route = "layer"`
    route: RouteChoice = "route", choice();
    /// `fallback = true`
    fallback: bool = "fallback", SWITCH;
    /// `tmpfs-size = "2g"`, or bytes.
    tmpfs_size: u64 = "tmpfs-size", MEMORY;
    /// `volume-opt = ["type=nfs", "o=addr=server"]`
    volume_opt: Vec<Decision<String>> = "volume-opt", ONE_OR_MORE;
    /// `cache = ["cargo:~/.cargo"]`; a relative path lies below the workdir.
    cache: Vec<Decision<String>> = "cache", ONE_OR_MORE;
    /// `scratch = "/fast/disk"`, for the host engine.
    scratch: String = "scratch", TEXT;
    /// `host = "tcp://builder:2375"`
    host: String = "host", TEXT;
    /// `progress = "plain"`
    progress: Progress = "progress", choice();
    /// `keep = ["target"]`, paths and patterns below the file's directory.
    keep: Vec<Decision<String>> = "keep", KEPT;
    /// `grace = "60s"`
    grace: Duration = "grace", SPAN;
    /// `[workspace]`
    workspace: WorkspaceKeys = "workspace", LIMITS;
    /// `[recover]`
    recover: RecoverKeys = "recover", SAFE_PLACE;
}

keys! {
    /// The keys of `[recover]`.
    RecoverKeys:
    /// `max-age = "30d"`
    max_age: Duration = "max-age", SPAN;
    /// `max-size = "1g"`, or bytes.
    max_size: u64 = "max-size", MEMORY;
}

keys! {
    /// The keys of `[workspace]`.
    WorkspaceKeys:
    /// `keep = false`
    keep: bool = "keep", SWITCH;
    /// `idle-stop = "1h"`
    idle_stop: Duration = "idle-stop", SPAN;
    /// `max-age = "30d"`
    max_age: Duration = "max-age", SPAN;
    /// `max-size = "20g"`, or bytes.
    max_size: u64 = "max-size", MEMORY;
}

/// How the value of a key is read.
struct Form<T> {
    /// The accepted type, with its article: the middle part of an error.
    expected: &'static str,
    /// Reads the value; `None` when the TOML type is different.
    read: fn(&Value<'_>, &Text<'_>) -> Option<Result<T, Refusal>>,
}

/// The reason why a value of the right type is refused.
enum Refusal {
    /// The whole value is wrong.
    Whole(BadValue),
    /// The part that begins at this byte is wrong.
    Part(usize, BadValue),
    /// The part that begins at this byte has the wrong type: expected, then found.
    PartType(usize, &'static str, &'static str),
    /// A key of a table is wrong; the error is complete.
    Key(FileError),
}

const TEXT: Form<String> = Form { expected: "a string", read: |value, _| string(value, units::text) };

/// A project's name.
const PROJECT: Form<String> = Form { expected: "a string", read: |value, _| string(value, units::name) };

/// A string that may be empty.
const ANYTHING: Form<String> =
    Form { expected: "a string", read: |value, _| string(value, |text| Ok(text.to_owned())) };

const SWITCH: Form<bool> =
    Form { expected: "true or false", read: |value, _| value.get_ref().as_bool().map(Ok) };

const LIST: Form<Vec<Decision<String>>> = Form {
    expected: "an array of strings",
    read: |value, text| Some(value.get_ref().as_array()?.iter().map(|item| text.item(item)).collect()),
};

const ONE_OR_MORE: Form<Vec<Decision<String>>> = Form {
    expected: "a string or an array of strings",
    read: |value, text| match value.get_ref().is_str() {
        true => Some(text.item(value).map(|one| vec![one])),
        false => (LIST.read)(value, text),
    },
};

/// This key was a switch in an earlier version.
const KEPT: Form<Vec<Decision<String>>> = Form {
    expected: "a list of paths that stay in the workspace, such as [\"target\"] (whether the workspace itself stays is \
               said below [workspace], by keep = true or false)",
    ..ONE_OR_MORE
};

/// `NAME` or `NAME=VALUE`, each with its line.
const ENV: Form<Vec<Decision<String>>> = Form {
    expected: "an array of \"NAME\" or \"NAME=VALUE\", or a table of NAME = \"VALUE\"",
    read: |value, text| {
        let Some(table) = value.get_ref().as_table() else { return (LIST.read)(value, text) };
        let word = |(name, value): (&Key<'_>, &Value<'_>)| {
            let given = value.get_ref().as_str().ok_or_else(|| no_string(value))?;
            Ok(text.decide(format!("{}={given}", name.get_ref()), value.span().start))
        };
        Some(in_order(table).into_iter().map(word).collect())
    },
};

const MEMORY: Form<u64> = Form {
    expected: "a number of bytes or a string such as \"2g\"",
    read: |value, _| number(value, units::memory),
};

const SPAN: Form<Duration> = Form {
    expected: "a length of time such as \"90s\", \"15m\", \"12h\" or \"7d\", or 0",
    read: |value, _| number(value, units::duration),
};

/// Billionths of a processor.
const CPUS: Form<i64> = Form {
    expected: "a number",
    read: |value, _| match value.get_ref() {
        DeValue::Float(given) => Some(units::nano_cpus(given.as_str()).map_err(Refusal::Whole)),
        _ => number(value, units::nano_cpus),
    },
};

const LIMITS: Form<WorkspaceKeys> = Form {
    expected: "a table of keep, idle-stop, max-age and max-size",
    read: |value, text| Some(WorkspaceKeys::read(value.get_ref().as_table()?, text).map_err(Refusal::Key)),
};

const SAFE_PLACE: Form<RecoverKeys> = Form {
    expected: "a table of max-age and max-size",
    read: |value, text| Some(RecoverKeys::read(value.get_ref().as_table()?, text).map_err(Refusal::Key)),
};

fn choice<T: Choice>() -> Form<T> {
    Form { expected: "a string", read: |value, _| string(value, choose) }
}

fn string<T>(value: &Value<'_>, read: fn(&str) -> Result<T, BadValue>) -> Option<Result<T, Refusal>> {
    Some(read(value.get_ref().as_str()?).map_err(Refusal::Whole))
}

/// A whole number, or a string with a unit.
fn number<T>(value: &Value<'_>, read: fn(&str) -> Result<T, BadValue>) -> Option<Result<T, Refusal>> {
    match value.get_ref() {
        DeValue::Integer(given) => Some(read(&given.to_string()).map_err(Refusal::Whole)),
        _ => string(value, read),
    }
}

/// The table's entries in the order of the file.
fn in_order<'t, 'f>(table: &'t DeTable<'f>) -> Vec<(&'t Key<'f>, &'t Value<'f>)> {
    let mut pairs: Vec<_> = table.iter().collect();
    pairs.sort_by_key(|(key, _)| key.span().start);
    pairs
}

fn no_string(value: &Value<'_>) -> Refusal {
    Refusal::PartType(value.span().start, "a string", type_name(value.get_ref()))
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// The file's text, to turn byte offsets into line and column.
struct Text<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Text<'_> {
    fn read<T>(&self, key: &str, form: &Form<T>, value: &Value<'_>) -> Result<Decision<T>, FileError> {
        let at = value.span().start;
        let key = key.to_owned();
        let (at, problem) = match (form.read)(value, self) {
            Some(Ok(read)) => return Ok(self.decide(read, at)),
            Some(Err(Refusal::Key(error))) => return Err(error),
            Some(Err(Refusal::Whole(problem))) => (at, Problem::Value { key, problem }),
            Some(Err(Refusal::Part(at, problem))) => (at, Problem::Value { key, problem }),
            Some(Err(Refusal::PartType(at, expected, found))) => {
                (at, Problem::Type { key: format!("an item of {key}"), expected, found })
            }
            None => (at, Problem::Type { key, expected: form.expected, found: type_name(value.get_ref()) }),
        };
        Err(self.error(at, problem))
    }

    /// An item of a list.
    fn item(&self, item: &Value<'_>) -> Result<Decision<String>, Refusal> {
        let at = item.span().start;
        let given = item.get_ref().as_str().ok_or_else(|| no_string(item))?;
        let given = units::text(given).map_err(|problem| Refusal::Part(at, problem))?;
        Ok(self.decide(given, at))
    }

    fn decide<T>(&self, value: T, at: usize) -> Decision<T> {
        let (line, _) = self.place(at);
        Decision { value, reason: Reason::File { path: self.path.to_owned(), line: Some(line) } }
    }

    fn error(&self, at: usize, problem: Problem) -> FileError {
        let (line, column) = self.place(at);
        FileError::Text { path: self.path.to_owned(), line, column, problem: Box::new(problem) }
    }

    /// Line and column of a byte, both from 1.
    fn place(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

impl ConfigFile {
    /// The nearest `fastbuild.toml` in `directory` or above it.
    ///
    /// # Errors
    /// When a file exists and cannot be read or is wrong. Such a file is never skipped.
    pub fn find_upwards(directory: &Path) -> Result<Option<ConfigFile>, FileError> {
        for directory in directory.ancestors() {
            let path = directory.join(PROJECT_FILE);
            match fs::read_to_string(&path) {
                Ok(text) => return ConfigFile::parse(&path, &text).map(Some),
                Err(error) if says_gone(&error) => {}
                Err(error) => return Err(FileError::Read(error)),
            }
        }
        Ok(None)
    }

    /// Reads the file's text.
    ///
    /// # Errors
    /// See [`Problem`].
    pub fn parse(path: &Path, text: &str) -> Result<ConfigFile, FileError> {
        let text = Text { path, text };
        let table = DeTable::parse(text.text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            text.error(at, Problem::Syntax(error.message().to_owned()))
        })?;
        Ok(ConfigFile { path: path.to_owned(), keys: Keys::read(table.get_ref(), &text)? })
    }
}

/// Underscores count as hyphens: `no_ignore` means `no-ignore`.
fn nearest_key(given: &str, names: &[&'static str]) -> Option<&'static str> {
    nearest(&given.replace('_', "-"), names.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::PROJECT_FILE;

    fn parse(text: &str) -> Result<Keys, String> {
        ConfigFile::parse(Path::new("/p/fastbuild.toml"), text)
            .map(|file| file.keys)
            .map_err(|error| error.to_string())
    }

    fn line_of<T>(decision: &Option<Decision<T>>) -> Option<usize> {
        match decision.as_ref()?.reason {
            Reason::File { line, .. } => line,
            _ => None,
        }
    }

    #[test]
    fn every_key_is_read_with_its_line() {
        let keys = parse(
            r#"image = "ruby:3.3"
workdir = "/site"
outputs = [
  "_site",
  "log:logs/",
]
exclude = ["a", "b"]
include = ["a/c"]
no-ignore = true
env = ["HOME", "A=1"]
env-file = ".env"
user = "1:2"
entrypoint = ""
outputs-on-failure = true
atomic = true
stdin = false
tty = true
platform = "linux/arm64"
pull = "always"
network = "none"
memory = "2g"
cpus = 0.1
shm-size = "1g"
isolation = "hyperv"
host = "tcp://x:1"
progress = "json"
keep = ["target", "**/obj"]

[workspace]
keep = false
idle-stop = 0
max-age = "7d"
max-size = "5g"
"#,
        )
        .unwrap();
        assert_eq!(keys.image.as_ref().unwrap().value, "ruby:3.3");
        assert_eq!(line_of(&keys.image), Some(1));
        let outputs = keys.outputs.unwrap().value;
        assert_eq!(outputs.iter().map(|o| o.value.as_str()).collect::<Vec<_>>(), ["_site", "log:logs/"]);
        assert_eq!(line_of(&Some(outputs[1].clone())), Some(5));
        assert_eq!(keys.memory.unwrap().value, 2 << 30);
        assert_eq!(keys.cpus.unwrap().value, 100_000_000);
        assert_eq!(keys.env_file.unwrap().value.len(), 1);
        assert_eq!(keys.entrypoint.unwrap().value, "");
        assert_eq!(keys.progress.as_ref().unwrap().value, Progress::Json);
        assert_eq!(line_of(&keys.progress), Some(26));
        assert_eq!(keys.keep.unwrap().value.len(), 2);
        let workspace = keys.workspace.unwrap().value;
        assert!(!workspace.keep.unwrap().value);
        assert_eq!(workspace.idle_stop.as_ref().unwrap().value, Duration::ZERO);
        assert_eq!(workspace.max_age.as_ref().unwrap().value, Duration::from_secs(7 * 24 * 3600));
        assert_eq!(line_of(&workspace.max_size), Some(33));
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        let keys = parse("memory = 1_048_576\ncpus = 2").unwrap();
        assert_eq!((keys.memory.unwrap().value, keys.cpus.unwrap().value), (1 << 20, 2_000_000_000));
    }

    #[test]
    fn environment_may_be_a_table() {
        let keys = parse("[env]\nB = \"2\"\nA = \"1=1\"\n").unwrap();
        let words = keys.env.unwrap().value;
        assert_eq!(words.iter().map(|w| w.value.as_str()).collect::<Vec<_>>(), ["B=2", "A=1=1"]);
        assert_eq!(line_of(&Some(words[1].clone())), Some(3));
    }

    #[test]
    fn errors_name_file_line_column_and_the_nearest_key() {
        let cases = [
            ("\nimge = \"x\"\n", "2:1: there is no key \"imge\"; did you mean image?"),
            ("output = []", "1:1: there is no key \"output\"; did you mean outputs?"),
            ("no_ignore = true", "1:1: there is no key \"no_ignore\"; did you mean no-ignore?"),
            (
                "keep = true",
                "1:8: keep must be a list of paths that stay in the workspace, such as [\"target\"] (whether the \
                 workspace itself stays is said below [workspace], by keep = true or false), and this is true or false",
            ),
            ("é = 1\n", "1:1: "),
            ("image = 3", "1:9: image must be a string, and this is a whole number"),
            ("image = \"\"", "1:9: image: the value is empty"),
            ("atomic = \"yes\"", "1:10: atomic must be true or false, and this is a string"),
            ("outputs = \"x\"", "1:11: outputs must be an array of strings, and this is a string"),
            (
                "exclude = [\n  \"ä\", 1.5]",
                "2:8: an item of exclude must be a string, and this is a number with a point",
            ),
            ("[env]\nA = 1", "2:5: an item of env must be a string, and this is a whole number"),
            ("\n\nmemory = \"2x\"", "3:10: memory: invalid size \"2x\""),
            ("name = \"My Blog\"", "1:8: name: invalid name \"My Blog\""),
            ("cpus = -1", "1:8: cpus: invalid number of processors \"-1\""),
            (
                "pull = \"allways\"",
                "1:8: pull: invalid value \"allways\": expected one of missing, always, never; did you mean always?",
            ),
            ("[workspace]\nmax_age = '1d'", "2:1: there is no key \"max_age\"; did you mean max-age?"),
            ("workspace.idle-stop = 90", "1:23: idle-stop: invalid duration \"90\""),
            ("[image]\nname = \"x\"", "1:1: image must be a string, and this is a table"),
        ];
        for (text, expected) in cases {
            let said = parse(text).unwrap_err();
            assert!(
                said.strip_prefix("/p/fastbuild.toml:").is_some_and(|said| said.starts_with(expected)),
                "{text:?}\n  said     {said}\n  expected {expected}"
            );
        }
    }

    #[test]
    fn a_key_like_no_other_gets_the_list() {
        let said = parse("colour = true").unwrap_err();
        assert!(said.contains("; the keys are name, image, workdir, outputs, "), "{said}");
    }

    #[test]
    fn syntax_errors_name_their_line() {
        for (text, place) in
            [("image = \"a\"\nuser = ", ":2:"), ("image = \"a\"\nimage = \"b\"", ":2:1: "), ("x", ":1:")]
        {
            let said = parse(text).unwrap_err();
            assert!(said.starts_with(&format!("/p/fastbuild.toml{place}")), "{said}");
        }
    }

    #[test]
    fn the_nearest_file_upwards_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        fs::write(dir.path().join(PROJECT_FILE), "image = \"outer\"").unwrap();
        let image = |from: &Path| ConfigFile::find_upwards(from).unwrap().unwrap().keys.image.unwrap().value;
        assert_eq!(image(&below), "outer");
        fs::write(dir.path().join("a").join(PROJECT_FILE), "image = \"inner\"").unwrap();
        assert_eq!(image(&below), "inner");
    }
}
