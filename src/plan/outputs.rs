//! `PATH[:HOST]` -> [`Output`]: which container path becomes which host path. The grammar is in
//! [`parse`]. The host is only read, so that an impossible target is refused before the build and
//! not after it. All patterns together form one output of the source root.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
};

use fs_err as fs;

use super::{
    Output, Take,
    container_path::{AboveRoot, ContainerPath},
};
use crate::{
    config::{Anchor, OutputRequest},
    entry::{RelPath, host_path},
    spec::{PatternKind, Reason},
    tree::ignore::{self, BadPattern, Rules},
};

/// The base directories of outputs.
#[derive(Debug)]
pub(super) struct Places<'a> {
    /// The source root's place in the container.
    pub(super) workdir: &'a ContainerPath,
    /// The command's directory in the container.
    pub(super) command: &'a ContainerPath,
    /// The source root.
    pub(super) source: &'a Path,
    /// The directory where fastbuild was started.
    pub(super) started_in: &'a Path,
}

/// The reason why an output is refused.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// `:x`, `x:` or an empty text.
    #[error("output {spec:?}: {part} is empty; write PATH or PATH:HOST")]
    Empty {
        /// The text as it was written.
        spec: String,
        /// The empty half.
        part: &'static str,
    },
    /// The path cannot be passed to the engine.
    #[error("output {spec:?}: PATH is not UTF-8, and the engine takes no other; name a directory above it")]
    NotUtf8 {
        /// The text as it was written, converted to UTF-8.
        spec: String,
    },
    /// There are more `..` than directories.
    #[error("output {spec:?}: PATH leads above the container's root from {from}")]
    AboveRoot {
        /// The text as it was written.
        spec: String,
        /// The directory where it starts.
        from: String,
    },
    /// `/`, or a HOST such as `/`.
    #[error(
        "output {spec:?}: there is no name to bring it back under; write PATH:HOST with a HOST that is not a root directory"
    )]
    NoName {
        /// The text as it was written.
        spec: String,
    },
    /// The target's directory cannot be used.
    #[error("output {spec:?}: {host:?} cannot be written to")]
    Host {
        /// The text as it was written.
        spec: String,
        /// The target.
        host: PathBuf,
        /// The system's error.
        #[source]
        error: io::Error,
    },
    /// The target is a link.
    #[error(
        "output {spec:?}: {host:?} is a symbolic link, which is not followed; name its target with -o {proposal:?}, or \
         remove it"
    )]
    Link {
        /// The text as it was written.
        spec: String,
        /// The link.
        host: PathBuf,
        /// The text to write instead.
        proposal: String,
    },
    /// The request is for a directory or its contents, and the target is a file.
    #[error("output {spec:?}: {host:?} is a file, and a directory was asked for; name a directory")]
    FileForContents {
        /// The text as it was written.
        spec: String,
        /// The file.
        host: PathBuf,
    },
    /// The requested path is kept or excluded.
    #[error(
        "output {spec:?}: {path} is {} ({reason}), so it neither goes in nor comes back; name a path below it, take it out \
         there, or say --include {path} to have it come and go like the sources",
        match kind {
            PatternKind::Kept => "kept in the workspace",
            PatternKind::Excluded => "excluded",
        }
    )]
    Kept {
        /// The text as it was written.
        spec: String,
        /// The path below the source root.
        path: RelPath,
        /// Whether it is kept or excluded.
        kind: PatternKind,
        /// The source of the pattern.
        reason: Reason,
    },
    /// The pattern is invalid.
    #[error("output {spec:?}: {why}")]
    BadPattern {
        /// The text as it was written.
        spec: String,
        /// The problem with the pattern.
        why: BadPattern,
    },
    /// The pattern is for paths outside of the source tree.
    #[error(
        "output {spec:?} is a pattern, and those select from the source tree: {workdir} in the container; name a directory, \
         or a pattern without \"..\" that lies there"
    )]
    PatternElsewhere {
        /// The text as it was written.
        spec: String,
        /// The source root's place in the container.
        workdir: String,
    },
    /// Two outputs would be written over each other.
    #[error(
        "outputs {first:?} and {second:?} would both be put into {host:?}; give each a HOST of its own that lies \
         outside the other's"
    )]
    Overlap {
        /// The outer one.
        first: String,
        /// The inner one.
        second: String,
        /// The inner one's target.
        host: PathBuf,
    },
}

/// Resolves all requests.
pub(super) fn resolve(requests: &[OutputRequest], places: &Places<'_>) -> Result<Vec<Output>, OutputError> {
    let (mut outputs, mut patterns) = (Vec::new(), Vec::new());
    for request in requests {
        match pattern(request, places)? {
            Some(pattern) => patterns.push(pattern),
            None => outputs.push(resolve_one(request, places)?),
        }
    }
    refuse_overlaps(&outputs)?;
    outputs.extend(matching_all(patterns, &outputs, places));
    Ok(outputs)
}

/// The request as a pattern of the source root; `None` when it names one path. A text that exists
/// as a path is not a pattern.
fn pattern(request: &OutputRequest, places: &Places<'_>) -> Result<Option<String>, OutputError> {
    let Spec { path, take: Take::Itself | Take::Directory, host: None } = parse(&request.spec)? else {
        return Ok(None);
    };
    let (directory, base) = match &request.anchor {
        Anchor::Command => (places.command.below(places.workdir), places.started_in),
        Anchor::File(directory) => (Some(RelPath::root()), directory.as_path()),
    };
    if !path.contains(['*', '?', '[']) || base.join(&path).symlink_metadata().is_ok() {
        return Ok(None);
    }
    let spec = || request.spec.to_string_lossy().into_owned();
    // An ignore rule with `!` at the beginning is an exception.
    let escaped = if path.starts_with('!') { format!("\\{path}") } else { path };
    let below = match escaped.strip_prefix('/') {
        _ if escaped.split('/').any(|name| name == "..") => None,
        Some(_) => {
            let below = escaped.strip_prefix(places.workdir.to_string().trim_end_matches('/'));
            below.and_then(|below| below.strip_prefix('/')).map(str::to_owned)
        }
        None => directory.map(|directory| ignore::from_below(&escaped, &directory)),
    };
    let Some(pattern) = below else {
        return Err(OutputError::PatternElsewhere { spec: spec(), workdir: places.workdir.to_string() });
    };
    match Rules::new([&pattern]) {
        Ok(_) => Ok(Some(pattern)),
        Err(why) => Err(OutputError::BadPattern { spec: spec(), why }),
    }
}

/// The single output of all patterns, without paths that other outputs bring to their own place.
fn matching_all(mut patterns: Vec<String>, others: &[Output], places: &Places<'_>) -> Option<Output> {
    let own = |output: &Output| {
        let below = output.below_source.clone()?;
        (host_path::join(places.source, &below).as_ref() == Some(&output.host)).then_some(below)
    };
    let others: Vec<_> = others.iter().filter_map(own).collect();
    if patterns.is_empty() || others.iter().any(RelPath::is_root) {
        return None;
    }
    let spec = patterns.join(" ");
    // A directory that the patterns do not match may contain paths that they match.
    let whole = |other: &RelPath| {
        let name = ignore::literal(other);
        [format!("!{name}"), format!("!{name}/**")]
    };
    patterns.extend(others.iter().flat_map(whole));
    Some(Output {
        spec,
        container: places.workdir.to_string(),
        take: Take::Itself,
        host: places.source.to_owned(),
        below_source: Some(RelPath::root()),
        only: patterns,
    })
}

/// The two halves of a request.
#[derive(Debug, PartialEq, Eq)]
struct Spec {
    /// The container's path, without the suffix that `take` represents.
    path: String,
    take: Take,
    host: Option<Host>,
}

/// The target of an output.
#[derive(Debug, PartialEq, Eq)]
enum Host {
    /// It becomes this path.
    Is(PathBuf),
    /// It is put into this directory.
    Into(PathBuf),
}

/// The first colon divides PATH from HOST. The exception is a colon after a single letter at the
/// beginning and before a backslash (`C:\out`). Before a slash (`a:/out`) it divides: `a` is a
/// valid name.
fn parse(spec: &OsStr) -> Result<Spec, OutputError> {
    let shown = || spec.to_string_lossy().into_owned();
    let empty = |part| OutputError::Empty { spec: shown(), part };
    let not_text = || OutputError::NotUtf8 { spec: shown() };
    let (path, host) = match dividing_colon(spec.as_encoded_bytes()) {
        None => (spec.to_owned(), None),
        Some(at) => {
            let (path, host) = host_path::split_at_byte(spec, at).ok_or_else(not_text)?;
            (path, Some(host))
        }
    };
    let path = path.to_str().ok_or_else(not_text)?;
    if path.is_empty() {
        return Err(empty("PATH"));
    }
    if host.as_ref().is_some_and(|host| host.is_empty()) {
        return Err(empty("HOST"));
    }
    let (path, take) = match path.strip_suffix("/.").or_else(|| path.strip_suffix(r"\.")) {
        Some("") => ("/", Take::Contents),
        Some(directory) => (directory, Take::Contents),
        None => match path.trim_end_matches('/') {
            "" => (path, Take::Itself),
            directory if directory.len() < path.len() => (directory, Take::Directory),
            _ => (path, Take::Itself),
        },
    };
    Ok(Spec { path: path.to_owned(), take, host: host.map(|host| Host::of(&host)) })
}

fn dividing_colon(spec: &[u8]) -> Option<usize> {
    let drive = matches!(spec, [letter, b':', b'\\', ..] if letter.is_ascii_alphabetic());
    let from = if drive { 2 } else { 0 };
    spec[from..].iter().position(|&b| b == b':').map(|at| from + at)
}

impl Host {
    /// A path that can only be a directory (`x/`, `.`, `..`) receives the product inside it. If it
    /// became the product itself, `-o app:.` would replace the current directory.
    fn of(text: &OsStr) -> Host {
        let bytes = text.as_encoded_bytes();
        let last = bytes.rsplit(|&b| is_separator(b)).next().unwrap_or(bytes);
        let path = PathBuf::from(text);
        if matches!(last, b"" | b"." | b"..") { Host::Into(path) } else { Host::Is(path) }
    }
}

fn is_separator(byte: u8) -> bool {
    byte == b'/' || (cfg!(windows) && byte == b'\\')
}

fn resolve_one(request: &OutputRequest, places: &Places<'_>) -> Result<Output, OutputError> {
    let spec = request.spec.to_string_lossy().into_owned();
    let parsed = parse(&request.spec)?;
    let (from, host_base) = match &request.anchor {
        Anchor::Command => (places.command, places.started_in),
        Anchor::File(directory) => (places.workdir, directory.as_path()),
    };
    let container = ContainerPath::absolute(&parsed.path).unwrap_or_else(|| from.join(&parsed.path));
    let container = container
        .map_err(|AboveRoot| OutputError::AboveRoot { spec: spec.clone(), from: from.to_string() })?;
    let below_source = container.below(places.workdir);
    let host = match &parsed.host {
        Some(Host::Is(host)) => host_base.join(host),
        Some(Host::Into(host)) => into(&host_base.join(host), &container, parsed.take, &spec)?,
        None => matching(&container, below_source.as_ref(), host_base, places.source, &spec)?,
    };
    let host = settle(host, &spec)?;
    check_target(&host, parsed.take, &container, &spec)?;
    Ok(Output {
        spec,
        container: container.to_string(),
        take: parsed.take,
        host,
        below_source,
        only: Vec::new(),
    })
}

fn into(directory: &Path, container: &ContainerPath, take: Take, spec: &str) -> Result<PathBuf, OutputError> {
    match (take, container.file_name()) {
        (Take::Contents, _) => Ok(directory.to_owned()),
        (Take::Itself | Take::Directory, Some(name)) => Ok(directory.join(name)),
        (Take::Itself | Take::Directory, None) => Err(OutputError::NoName { spec: spec.to_owned() }),
    }
}

/// The target of an output without HOST: its place in the source root, or else its own name in
/// `host_base`.
fn matching(
    container: &ContainerPath,
    below_source: Option<&RelPath>,
    host_base: &Path,
    source: &Path,
    spec: &str,
) -> Result<PathBuf, OutputError> {
    let host = match below_source {
        Some(below) => host_path::join(source, below),
        None => container.file_name().map(|name| host_base.join(name)),
    };
    host.ok_or_else(|| OutputError::NoName { spec: spec.to_owned() })
}

/// The target with its links resolved. A target without a last name is a directory that receives
/// contents, so it is resolved as a whole.
fn settle(host: PathBuf, spec: &str) -> Result<PathBuf, OutputError> {
    let ends_in_name = host.file_name().is_some();
    let settled = if ends_in_name { host_path::settle(&host) } else { fs::canonicalize(&host).map(Some) };
    match settled {
        Ok(Some(settled)) if settled.parent().is_some() => Ok(settled),
        Ok(_) => Err(OutputError::NoName { spec: spec.to_owned() }),
        Err(error) => Err(OutputError::Host { spec: spec.to_owned(), host, error }),
    }
}

fn check_target(host: &Path, take: Take, container: &ContainerPath, spec: &str) -> Result<(), OutputError> {
    let spec = || spec.to_owned();
    match fs::symlink_metadata(host) {
        // A link at an output's place may be an earlier run's product; the record shows that later.
        Ok(found) if found.is_symlink() && take == Take::Contents => {
            let target = fs::canonicalize(host).ok();
            let target = target.as_deref().unwrap_or(Path::new("TARGET")).to_string_lossy();
            let proposal = format!("{container}/.:{target}");
            Err(OutputError::Link { spec: spec(), host: host.to_owned(), proposal })
        }
        Ok(found) if take != Take::Itself && !found.is_dir() && !found.is_symlink() => {
            Err(OutputError::FileForContents { spec: spec(), host: host.to_owned() })
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(OutputError::Host { spec: spec(), host: host.to_owned(), error }),
    }
}

fn refuse_overlaps(outputs: &[Output]) -> Result<(), OutputError> {
    for (at, outer) in outputs.iter().enumerate() {
        for (other, inner) in outputs.iter().enumerate() {
            if at != other && inner.host.starts_with(&outer.host) {
                return Err(OutputError::Overlap {
                    first: outer.spec.clone(),
                    second: inner.spec.clone(),
                    host: inner.host.clone(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        parse(OsStr::new(text)).unwrap()
    }

    #[test]
    fn the_first_colon_that_is_no_drives_divides() {
        use Host::{Into, Is};
        use Take::{Contents, Directory, Itself};
        let cases = [
            ("_site", "_site", Itself, None),
            ("_site/", "_site", Directory, None),
            ("latest/:got/", "latest", Directory, Some(Into("got/".into()))),
            ("/", "/", Itself, None),
            ("_site/.", "_site", Contents, None),
            (".", ".", Itself, None),
            ("/.", "/", Contents, None),
            ("a:b:c", "a", Itself, Some(Is("b:c".into()))),
            ("a:/out", "a", Itself, Some(Is("/out".into()))),
            ("a/.:out/", "a", Contents, Some(Into("out/".into()))),
            ("a:.", "a", Itself, Some(Into(".".into()))),
            ("a:x/..", "a", Itself, Some(Into("x/..".into()))),
            ("a:..b", "a", Itself, Some(Is("..b".into()))),
            (r"C:\out", r"C:\out", Itself, None),
            (r"C:\out\.:D:\x", r"C:\out", Contents, Some(Is(r"D:\x".into()))),
            (r"a:\x", r"a:\x", Itself, None),
        ];
        for (text, path, take, host) in cases {
            assert_eq!(spec(text), Spec { path: path.into(), take, host }, "{text}");
        }
    }

    #[test]
    fn half_an_output_is_none() {
        for text in ["", ":x", "x:", ":"] {
            assert!(matches!(parse(OsStr::new(text)), Err(OutputError::Empty { .. })), "{text}");
        }
    }

    /// A directory with `root` (the source root), `root/sub` (the current directory) and `other`.
    struct Disk {
        dir: tempfile::TempDir,
    }

    impl Disk {
        fn new() -> Disk {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("root/sub")).unwrap();
            fs::create_dir(dir.path().join("other")).unwrap();
            Disk { dir }
        }

        fn path(&self, below: &str) -> PathBuf {
            fs::canonicalize(self.dir.path()).unwrap().join(below)
        }

        fn resolve(&self, specs: &[&str], anchor: &Anchor) -> Result<Vec<Output>, OutputError> {
            let requests: Vec<_> = specs
                .iter()
                .map(|spec| OutputRequest { spec: spec.into(), anchor: anchor.clone() })
                .collect();
            let at = |text| ContainerPath::absolute(text).unwrap().unwrap();
            let places = Places {
                workdir: &at("/workspace"),
                command: &at("/workspace/sub"),
                source: &self.path("root"),
                started_in: &self.path("root/sub"),
            };
            resolve(&requests, &places)
        }

        fn error(&self, specs: &[&str]) -> String {
            self.resolve(specs, &Anchor::Command).unwrap_err().to_string()
        }
    }

    #[test]
    fn outputs_find_their_places() {
        let disk = Disk::new();
        let cases = [
            // spec, container, host, below the source root
            ("_site", "/workspace/sub/_site", "root/sub/_site", Some("sub/_site")),
            ("_site/", "/workspace/sub/_site", "root/sub/_site", Some("sub/_site")),
            ("../pkg/./x", "/workspace/pkg/x", "root/pkg/x", Some("pkg/x")),
            (".", "/workspace/sub", "root/sub", Some("sub")),
            ("..", "/workspace", "root", Some(".")),
            ("/workspace/a", "/workspace/a", "root/a", Some("a")),
            ("/out/app", "/out/app", "root/sub/app", None),
            ("../../out", "/out", "root/sub/out", None),
            ("/out/app:bin", "/out/app", "root/sub/bin", None),
            ("/out/app:bin/", "/out/app", "root/sub/bin/app", None),
            ("/out/app:.", "/out/app", "root/sub/app", None),
            ("/out/app:../..", "/out/app", "app", None),
            ("/out/.:bin/", "/out", "root/sub/bin", None),
            ("/out/.:.", "/out", "root/sub", None),
            ("/.:all", "/", "root/sub/all", None),
            ("x:../../other/new/x", "/workspace/sub/x", "other/new/x", Some("sub/x")),
        ];
        for (spec, container, target, below) in cases {
            let output = &disk.resolve(&[spec], &Anchor::Command).unwrap()[0];
            assert_eq!(output.container, container, "{spec}");
            assert_eq!(output.host, disk.path(target), "{spec}");
            assert_eq!(output.below_source.as_ref().map(|p| p.to_string()).as_deref(), below, "{spec}");
        }
    }

    #[test]
    fn outputs_of_the_file_start_from_its_directory() {
        let disk = Disk::new();
        let anchor = Anchor::File(disk.path("root"));
        for (spec, container, target) in [
            ("_site", "/workspace/_site", "root/_site"),
            ("/out/log:logs/", "/out/log", "root/logs/log"),
            ("/out/log", "/out/log", "root/log"),
        ] {
            let output = &disk.resolve(&[spec], &anchor).unwrap()[0];
            assert_eq!((output.container.as_str(), &output.host), (container, &disk.path(target)), "{spec}");
        }
    }

    #[test]
    fn outputs_without_a_name_or_place_are_refused() {
        let disk = Disk::new();
        fs::write(disk.path("root/sub/file"), "").unwrap();
        for (spec, said) in [
            ("../../..", "leads above the container's root from /workspace/sub"),
            ("/", "there is no name"),
            ("/:out/", "there is no name"),
            ("x/.:/", "there is no name"),
            ("x:file/y", "cannot be written to"),
            ("x/.:file", "is a file, and a directory was asked for"),
            ("x/:file", "is a file, and a directory was asked for"),
            ("file/.", "is a file, and a directory was asked for"),
        ] {
            let error = disk.error(&[spec]);
            assert!(error.contains(said), "{spec} said {error}");
        }
        assert!(disk.resolve(&["x:file"], &Anchor::Command).is_ok(), "a file may become a file");
    }

    #[test]
    fn patterns_are_one_output_of_the_source_root_without_what_others_bring() {
        let disk = Disk::new();
        fs::write(disk.path("root/sub/[id].js"), "").unwrap();
        let specs = ["**/*.o", "dist", "/workspace/lib?.so", "[id].js", "!x*", "/workspace/x:../y"];
        let outputs = disk.resolve(&specs, &Anchor::Command).unwrap();
        let named: Vec<_> = outputs.iter().map(|output| output.container.as_str()).collect();
        assert_eq!(named, ["/workspace/sub/dist", "/workspace/sub/[id].js", "/workspace/x", "/workspace"]);
        let all = &outputs[3];
        assert_eq!((&all.host, all.below_source.as_ref()), (&disk.path("root"), Some(&RelPath::root())));
        let others = ["!sub/dist", "!sub/dist/**", r"!sub/\[id\].js", r"!sub/\[id\].js/**"];
        assert_eq!(all.only, [&["sub/**/*.o", "lib?.so", r"sub/\!x*"][..], &others].concat());
        assert!(outputs[..3].iter().all(|output| output.only.is_empty()));
        assert_eq!(disk.resolve(&["*.o", ".."], &Anchor::Command).unwrap().len(), 1, "all is more");
        for spec in ["../*.o", "/out/*.o", "/workspace/../*.o"] {
            assert!(disk.error(&[spec]).contains("select from the source tree: /workspace"), "{spec}");
        }
        assert!(disk.error(&["a[b"]).contains("a[b"));
    }

    #[test]
    fn outputs_in_each_others_places_are_refused() {
        let disk = Disk::new();
        for specs in [
            ["a:x", "b:x"],
            ["a:x", "b:x/y"],
            ["a:x/y", "b:x"],
            ["a/.:.", "b"],
            ["a", "./a"],
            ["a:x", "b:../sub/x"],
        ] {
            assert!(disk.error(&specs).contains("would both be put into"), "{specs:?}");
        }
        assert!(disk.resolve(&["a:x", "b:xy"], &Anchor::Command).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_no_target_but_leads_to_one() {
        let disk = Disk::new();
        std::os::unix::fs::symlink(disk.path("other"), disk.path("root/sub/link")).unwrap();
        let error = disk.error(&["/out/.:link"]);
        let proposal = format!("/out/.:{}", disk.path("other").to_str().unwrap());
        assert!(error.contains("is a symbolic link") && error.contains(&proposal), "{error}");
        assert!(disk.resolve(&["/out:link"], &Anchor::Command).is_ok(), "an earlier run may have made it");
        let through = &disk.resolve(&["/out:link/x"], &Anchor::Command).unwrap()[0];
        assert_eq!(through.host, disk.path("other/x"));
        assert!(disk.error(&["/out:link/x", "/o2:../../other"]).contains("would both be put into"));
    }
}
