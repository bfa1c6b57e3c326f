//! `fastbuild.toml` -> [`Keys`]: every value with the line it stands on. An unknown key or a wrong type is an error that
//! names file, line and column, and the key that was probably meant.
//!
//! A key is one line of the `keys!` table below and a doc comment; its Rust type says which TOML is taken (`FromToml`).

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

use super::{
    EngineChoice, RouteChoice,
    choices::{Choice, Progress, choose, nearest},
    units::{self, BadValue, did_you_mean},
};
use crate::{
    plan::{Decision, Isolation, PullPolicy, Reason},
    sys::source_file::says_gone,
};

type Key<'a> = Spanned<DeString<'a>>;

/// The file's name.
pub const NAME: &str = "fastbuild.toml";

/// A `fastbuild.toml` that was read.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it says.
    pub keys: Keys,
}

/// What is wrong with the file, and where.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is there and cannot be read.
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
        /// What is wrong there.
        problem: Box<Problem>,
    },
}

/// What is wrong with one place of the file.
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
        /// What stands there.
        given: String,
        /// The key that was probably meant.
        nearest: Option<&'static str>,
        /// All keys of that table.
        names: &'static [&'static str],
    },
    /// Another type than the key's.
    #[error("{key} must be {expected}, and this is {found}")]
    Type {
        /// The key.
        key: String,
        /// What it takes, with its article.
        expected: &'static str,
        /// What stands there, with its article.
        found: &'static str,
    },
    /// The right type, and a value that makes no sense.
    #[error("{key}: {problem}")]
    Value {
        /// The key.
        key: String,
        /// Why not.
        problem: BadValue,
    },
}

/// Defines a table's struct, the names of its keys and how a key finds its field, from one line a key.
macro_rules! keys {
    ($(#[$table_doc:meta])* $table:ident: $($(#[$doc:meta])* $field:ident: $type:ty = $name:literal,)*) => {
        $(#[$table_doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $table {
            $($(#[$doc])* pub $field: Option<Decision<$type>>,)*
        }

        impl $table {
            /// Every key's name.
            pub const NAMES: &[&str] = &[$($name),*];

            fn set(&mut self, key: &Key<'_>, value: &Spanned<DeValue<'_>>, text: &Text<'_>) -> Result<(), FileError> {
                match key.get_ref().as_ref() {
                    $($name => self.$field = Some(text.read($name, value)?),)*
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
                let mut pairs: Vec<_> = table.iter().collect();
                pairs.sort_by_key(|(key, _)| key.span().start);
                pairs.into_iter().try_for_each(|(key, value)| keys.set(key, value, text))?;
                Ok(keys)
            }
        }
    };
}

keys! {
    /// Every key of the file; `None` when it is not there.
    Keys:
    /// `name = "blog"`, which finds the project's workspace again from another machine or home.
    name: Name = "name",
    /// `image = "ruby:3.3"`
    image: String = "image",
    /// `workdir = "/site"`
    workdir: String = "workdir",
    /// `outputs = ["_site", "/tmp/log:logs/"]`; PATH below the workdir, HOST below the file's directory.
    outputs: Vec<Decision<String>> = "outputs",
    /// `exclude = ["node_modules"]`
    exclude: Vec<Decision<String>> = "exclude",
    /// `include = ["node_modules/mine"]`, exceptions from all that is excluded before.
    include: Vec<Decision<String>> = "include",
    /// `no-ignore = true`
    no_ignore: bool = "no-ignore",
    /// `env = ["NAME", "NAME=VALUE"]`, or a table `NAME = "VALUE"`.
    env: EnvWords = "env",
    /// `env-file = [".env"]`, below the file's directory.
    env_file: OneOrMore = "env-file",
    /// `user = "1000:1000"`
    user: String = "user",
    /// `entrypoint = "/entry"`, or `""` for none.
    entrypoint: Anything = "entrypoint",
    /// `outputs-on-failure = true`
    outputs_on_failure: bool = "outputs-on-failure",
    /// `seed-outputs = true`
    seed_outputs: bool = "seed-outputs",
    /// `atomic = true`
    atomic: bool = "atomic",
    /// `stdin = true`
    stdin: bool = "stdin",
    /// `tty = false`
    tty: bool = "tty",
    /// `platform = "linux/amd64"`
    platform: String = "platform",
    /// `pull = "always"`
    pull: PullPolicy = "pull",
    /// `network = "none"`
    network: String = "network",
    /// `memory = "2g"`, or bytes.
    memory: Memory = "memory",
    /// `cpus = 1.5`
    cpus: Cpus = "cpus",
    /// `isolation = "process"`
    isolation: Isolation = "isolation",
    /// `engine = "docker"`
    engine: EngineChoice = "engine",
    /// `route = "layer"`
    route: RouteChoice = "route",
    /// `fallback = true`
    fallback: bool = "fallback",
    /// `tmpfs-size = "2g"`, or bytes.
    tmpfs_size: Memory = "tmpfs-size",
    /// `volume-opt = ["type=nfs", "o=addr=server"]`
    volume_opt: OneOrMore = "volume-opt",
    /// `cache = ["cargo:~/.cargo"]`; a relative path lies below the workdir.
    cache: OneOrMore = "cache",
    /// `scratch = "/fast/disk"`, for the host engine.
    scratch: String = "scratch",
    /// `host = "tcp://builder:2375"`
    host: String = "host",
    /// `progress = "plain"`
    progress: Progress = "progress",
    /// `keep = false`
    keep: bool = "keep",
    /// `grace = "60s"`
    grace: Span = "grace",
    /// `[workspace]`
    workspace: WorkspaceKeys = "workspace",
}

keys! {
    /// The keys of `[workspace]`.
    WorkspaceKeys:
    /// `idle-stop = "1h"`
    idle_stop: Span = "idle-stop",
    /// `max-age = "30d"`
    max_age: Span = "max-age",
    /// `max-size = "20g"`, or bytes.
    max_size: Memory = "max-size",
}

/// A project's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(pub String);

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A string that may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anything(pub String);

/// `NAME` or `NAME=VALUE`, each on its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvWords(pub Vec<Decision<String>>);

/// A string or an array of strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOrMore(pub Vec<Decision<String>>);

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory(pub u64);

/// Billionths of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus(pub i64);

/// A type that a key can have.
trait FromToml: Sized {
    /// What it takes, with its article: the middle of an error.
    const EXPECTED: &'static str;

    /// The value; `None` when TOML's type is another.
    fn from_toml(value: &Spanned<DeValue<'_>>, text: &Text<'_>) -> Option<Result<Self, Refusal>>;
}

/// Why a value of the right type does not do.
enum Refusal {
    /// All of it.
    Whole(BadValue),
    /// The part of it that begins at this byte.
    Part(usize, PartRefusal),
    /// A key of a table, which has said so itself.
    Key(FileError),
}

enum PartRefusal {
    Type { expected: &'static str, found: &'static str },
    Value(BadValue),
}

impl FromToml for String {
    const EXPECTED: &'static str = "a string";

    fn from_toml(value: &Spanned<DeValue<'_>>, _: &Text<'_>) -> Option<Result<String, Refusal>> {
        Some(units::text(value.get_ref().as_str()?).map_err(Refusal::Whole))
    }
}

impl FromToml for Name {
    const EXPECTED: &'static str = "a string";

    fn from_toml(value: &Spanned<DeValue<'_>>, _: &Text<'_>) -> Option<Result<Name, Refusal>> {
        Some(units::name(value.get_ref().as_str()?).map(Name).map_err(Refusal::Whole))
    }
}

impl FromToml for Anything {
    const EXPECTED: &'static str = "a string";

    fn from_toml(value: &Spanned<DeValue<'_>>, _: &Text<'_>) -> Option<Result<Anything, Refusal>> {
        Some(Ok(Anything(value.get_ref().as_str()?.to_owned())))
    }
}

impl FromToml for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_toml(value: &Spanned<DeValue<'_>>, _: &Text<'_>) -> Option<Result<bool, Refusal>> {
        value.get_ref().as_bool().map(Ok)
    }
}

impl FromToml for Vec<Decision<String>> {
    const EXPECTED: &'static str = "an array of strings";

    fn from_toml(value: &Spanned<DeValue<'_>>, text: &Text<'_>) -> Option<Result<Self, Refusal>> {
        let items = value.get_ref().as_array()?;
        Some(items.iter().map(|item| text.string(item)).collect())
    }
}

impl FromToml for OneOrMore {
    const EXPECTED: &'static str = "a string or an array of strings";

    fn from_toml(value: &Spanned<DeValue<'_>>, text: &Text<'_>) -> Option<Result<OneOrMore, Refusal>> {
        if value.get_ref().is_str() {
            return Some(text.string(value).map(|one| OneOrMore(vec![one])));
        }
        Some(Vec::from_toml(value, text)?.map(OneOrMore))
    }
}

impl FromToml for EnvWords {
    const EXPECTED: &'static str = "an array of \"NAME\" or \"NAME=VALUE\", or a table of NAME = \"VALUE\"";

    fn from_toml(value: &Spanned<DeValue<'_>>, text: &Text<'_>) -> Option<Result<EnvWords, Refusal>> {
        let Some(table) = value.get_ref().as_table() else {
            return Some(Vec::from_toml(value, text)?.map(EnvWords));
        };
        let mut pairs: Vec<_> = table.iter().collect();
        pairs.sort_by_key(|(name, _)| name.span().start);
        let word = |(name, value): (&Key<'_>, &Spanned<DeValue<'_>>)| {
            let name = name.get_ref();
            let given = value.get_ref().as_str().ok_or_else(|| wrong_part("a string", value))?;
            Ok(text.decide(format!("{name}={given}"), value.span().start))
        };
        Some(pairs.into_iter().map(word).collect::<Result<_, _>>().map(EnvWords))
    }
}

impl<T: Choice> FromToml for T {
    const EXPECTED: &'static str = "a string";

    fn from_toml(value: &Spanned<DeValue<'_>>, _: &Text<'_>) -> Option<Result<T, Refusal>> {
        Some(choose(value.get_ref().as_str()?).map_err(Refusal::Whole))
    }
}

impl FromToml for Memory {
    const EXPECTED: &'static str = "a number of bytes or a string such as \"2g\"";

    fn from_toml(value: &Spanned<DeValue<'_>>, _: &Text<'_>) -> Option<Result<Memory, Refusal>> {
        let given = match value.get_ref() {
            DeValue::String(given) => given.to_string(),
            DeValue::Integer(given) => given.to_string(),
            _ => return None,
        };
        Some(units::memory(&given).map(Memory).map_err(Refusal::Whole))
    }
}

impl FromToml for Span {
    const EXPECTED: &'static str = "a length of time such as \"90s\", \"15m\", \"12h\" or \"7d\", or 0";

    fn from_toml(value: &Spanned<DeValue<'_>>, _: &Text<'_>) -> Option<Result<Span, Refusal>> {
        let given = match value.get_ref() {
            DeValue::String(given) => given.to_string(),
            DeValue::Integer(given) => given.to_string(),
            _ => return None,
        };
        Some(units::duration(&given).map(Span).map_err(Refusal::Whole))
    }
}

impl FromToml for WorkspaceKeys {
    const EXPECTED: &'static str = "a table of idle-stop, max-age and max-size";

    fn from_toml(value: &Spanned<DeValue<'_>>, text: &Text<'_>) -> Option<Result<WorkspaceKeys, Refusal>> {
        Some(WorkspaceKeys::read(value.get_ref().as_table()?, text).map_err(Refusal::Key))
    }
}

impl FromToml for Cpus {
    const EXPECTED: &'static str = "a number";

    fn from_toml(value: &Spanned<DeValue<'_>>, _: &Text<'_>) -> Option<Result<Cpus, Refusal>> {
        let given = match value.get_ref() {
            DeValue::String(given) => given.to_string(),
            DeValue::Integer(given) => given.to_string(),
            DeValue::Float(given) => given.as_str().to_owned(),
            _ => return None,
        };
        Some(units::nano_cpus(&given).map(Cpus).map_err(Refusal::Whole))
    }
}

fn wrong_part(expected: &'static str, value: &Spanned<DeValue<'_>>) -> Refusal {
    Refusal::Part(value.span().start, PartRefusal::Type { expected, found: type_name(value.get_ref()) })
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

/// The file's text, for turning byte offsets into places.
struct Text<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Text<'_> {
    fn read<T: FromToml>(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Decision<T>, FileError> {
        let at = value.span().start;
        let key = key.to_owned();
        match T::from_toml(value, self) {
            Some(Ok(read)) => Ok(self.decide(read, at)),
            Some(Err(Refusal::Whole(problem))) => Err(self.error(at, Problem::Value { key, problem })),
            Some(Err(Refusal::Part(at, PartRefusal::Value(problem)))) => {
                Err(self.error(at, Problem::Value { key, problem }))
            }
            Some(Err(Refusal::Part(at, PartRefusal::Type { expected, found }))) => {
                Err(self.error(at, Problem::Type { key: format!("an item of {key}"), expected, found }))
            }
            Some(Err(Refusal::Key(error))) => Err(error),
            None => {
                let found = type_name(value.get_ref());
                Err(self.error(at, Problem::Type { key, expected: T::EXPECTED, found }))
            }
        }
    }

    /// An item of a list.
    fn string(&self, item: &Spanned<DeValue<'_>>) -> Result<Decision<String>, Refusal> {
        let at = item.span().start;
        let given = item.get_ref().as_str().ok_or_else(|| wrong_part("a string", item))?;
        let given = units::text(given).map_err(|problem| Refusal::Part(at, PartRefusal::Value(problem)))?;
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
    /// When one is there and cannot be read or is wrong; it is never passed over.
    pub fn find_upwards(directory: &Path) -> Result<Option<ConfigFile>, FileError> {
        for directory in directory.ancestors() {
            let path = directory.join(NAME);
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

/// `seed_outputs` and `output` are as near as can be, whatever the letters' distance says.
fn nearest_key(given: &str, names: &[&'static str]) -> Option<&'static str> {
    nearest(&given.replace('_', "-"), names.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

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
seed-outputs = true
atomic = true
stdin = false
tty = true
platform = "linux/arm64"
pull = "always"
network = "none"
memory = "2g"
cpus = 0.1
isolation = "hyperv"
host = "tcp://x:1"
progress = "json"
keep = false

[workspace]
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
        assert_eq!(keys.memory.unwrap().value, Memory(2 << 30));
        assert_eq!(keys.cpus.unwrap().value, Cpus(100_000_000));
        assert_eq!(keys.env_file.unwrap().value.0.len(), 1);
        assert_eq!(keys.entrypoint.unwrap().value, Anything(String::new()));
        assert_eq!(keys.progress.as_ref().unwrap().value, Progress::Json);
        assert_eq!(line_of(&keys.progress), Some(26));
        assert!(!keys.keep.unwrap().value);
        let workspace = keys.workspace.unwrap().value;
        assert_eq!(workspace.idle_stop.as_ref().unwrap().value, Span(Duration::ZERO));
        assert_eq!(workspace.max_age.as_ref().unwrap().value, Span(Duration::from_secs(7 * 24 * 3600)));
        assert_eq!(line_of(&workspace.max_size), Some(32));
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        let keys = parse("memory = 1_048_576\ncpus = 2").unwrap();
        assert_eq!(
            (keys.memory.unwrap().value, keys.cpus.unwrap().value),
            (Memory(1 << 20), Cpus(2_000_000_000))
        );
    }

    #[test]
    fn environment_may_be_a_table() {
        let keys = parse("[env]\nB = \"2\"\nA = \"1=1\"\n").unwrap();
        let words = keys.env.unwrap().value.0;
        assert_eq!(words.iter().map(|w| w.value.as_str()).collect::<Vec<_>>(), ["B=2", "A=1=1"]);
        assert_eq!(line_of(&Some(words[1].clone())), Some(3));
    }

    #[test]
    fn errors_name_file_line_column_and_the_nearest_key() {
        let at = "/p/fastbuild.toml";
        let cases = [
            ("\nimge = \"x\"\n", format!("{at}:2:1: there is no key \"imge\"; did you mean image?")),
            ("output = []", format!("{at}:1:1: there is no key \"output\"; did you mean outputs?")),
            (
                "seed_outputs = true",
                format!("{at}:1:1: there is no key \"seed_outputs\"; did you mean seed-outputs?"),
            ),
            ("é = 1\n", format!("{at}:1:1: ")),
            ("image = 3", format!("{at}:1:9: image must be a string, and this is a whole number")),
            ("image = \"\"", format!("{at}:1:9: image: the value is empty")),
            ("atomic = \"yes\"", format!("{at}:1:10: atomic must be true or false, and this is a string")),
            (
                "outputs = \"x\"",
                format!("{at}:1:11: outputs must be an array of strings, and this is a string"),
            ),
            (
                "exclude = [\n  \"ä\", 1.5]",
                format!("{at}:2:8: an item of exclude must be a string, and this is a number with a point"),
            ),
            (
                "[env]\nA = 1",
                format!("{at}:2:5: an item of env must be a string, and this is a whole number"),
            ),
            ("\n\nmemory = \"2x\"", format!("{at}:3:10: memory: \"2x\" is no size")),
            ("name = \"My Blog\"", format!("{at}:1:8: name: \"My Blog\" is no name")),
            ("cpus = -1", format!("{at}:1:8: cpus: \"-1\" is no number of processors")),
            (
                "pull = \"allways\"",
                format!(
                    "{at}:1:8: pull: \"allways\" is none of missing, always, never; did you mean always?"
                ),
            ),
            (
                "[workspace]\nmax_age = '1d'",
                format!("{at}:2:1: there is no key \"max_age\"; did you mean max-age?"),
            ),
            ("workspace.idle-stop = 90", format!("{at}:1:23: idle-stop: \"90\" is no length of time")),
            ("[image]\nname = \"x\"", format!("{at}:1:1: image must be a string, and this is a table")),
        ];
        for (text, expected) in cases {
            let said = parse(text).unwrap_err();
            assert!(said.starts_with(&expected), "{text:?}\n  said     {said}\n  expected {expected}");
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
        fs::write(dir.path().join(NAME), "image = \"outer\"").unwrap();
        let image = |from: &Path| ConfigFile::find_upwards(from).unwrap().unwrap().keys.image.unwrap().value;
        assert_eq!(image(&below), "outer");
        fs::write(dir.path().join("a").join(NAME), "image = \"inner\"").unwrap();
        assert_eq!(image(&below), "inner");
    }
}
