//! `cargo xtask layers`: who imports whom in `src`, and that it goes in one direction.
//!
//! Two things hold: folders import each other without a circle, and inside of a folder no circle of files has more than ten, or
//! leads through the folder's table of contents. The folders' floors follow from that; they are the table that
//! `docs/architecture.md` shows, and that is held against the code here. Imports of tests do not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
};

use anyhow::{Result, bail, ensure};
use fs_err as fs;

use crate::run::say;

/// Files of the largest circle inside of a folder.
const LARGEST: usize = 10;

/// What stands before and behind the table in the documentation.
const MARKS: (&str, &str) = ("<!-- cargo xtask layers -->\n", "<!-- end -->\n");

/// Where the table is.
const SHOWN_IN: &str = "docs/architecture.md";

/// A module's path below the crate; the crate itself is empty.
type Module = Vec<String>;

/// Who imports whom.
type Imports<T> = BTreeMap<T, BTreeSet<T>>;

/// Holds all of it.
pub fn run() -> Result<()> {
    let imports = imports(Path::new("src"))?;
    let folders = folders(&imports);
    let table = table(&folders)?;
    let files = check_files(&imports)?;
    let shown = fs::read_to_string(SHOWN_IN)?;
    let between = shown.split_once(MARKS.0).and_then(|(_, rest)| rest.split_once(MARKS.1));
    let Some((between, _)) = between else { bail!("{SHOWN_IN} has no table between {MARKS:?}") };
    if between != table {
        bail!("the table in {SHOWN_IN} is not the code's, which is:\n{table}");
    }
    say(format_args!("{} folders on floors; the largest circle of files has {files}", folders.len()));
    Ok(())
}

/// Folders by floor: on each are those that import only from the floors below.
fn table(folders: &Imports<String>) -> Result<String> {
    let mut table = String::from("| floor | folder | imports from |\n|---|---|---|\n");
    let mut placed = BTreeSet::new();
    for floor in 1.. {
        let is_next = |(folder, below): &(&String, &BTreeSet<String>)| {
            !placed.contains(*folder) && below.iter().all(|below| placed.contains(below))
        };
        let next: Vec<_> = folders.iter().filter(is_next).collect();
        if next.is_empty() {
            break;
        }
        for (folder, below) in &next {
            let below = match below.is_empty() {
                true => String::from("–"),
                false => below.iter().map(|below| format!("`{below}`")).collect::<Vec<_>>().join(", "),
            };
            writeln!(table, "| {floor} | `{folder}` | {below} |")?;
        }
        placed.extend(next.into_iter().map(|(folder, _)| folder.clone()));
    }
    let circle: Vec<_> = folders.keys().filter(|folder| !placed.contains(*folder)).collect();
    ensure!(
        circle.is_empty(),
        "these folders, or ones between them, import each other in a circle: {circle:?}"
    );
    Ok(table)
}

/// Inside of folders; how many files the largest circle has.
fn check_files(imports: &Imports<Module>) -> Result<usize> {
    let reached: BTreeMap<_, _> = imports.keys().map(|module| (module, reached(imports, module))).collect();
    let mut largest = 0;
    for (module, reaches) in &reached {
        let is_back = |other: &&Module| reached.get(*other).is_some_and(|back| back.contains(*module));
        let circle: BTreeSet<_> = reaches.iter().filter(is_back).collect();
        largest = largest.max(circle.len());
        let names = || circle.iter().map(|module| module.join("/")).collect::<Vec<_>>().join(", ");
        ensure!(circle.len() <= LARGEST, "{} files import each other in a circle: {}", circle.len(), names());
        let has_folder = |module: &&&Module| Path::new("src").join(module.join("/")).is_dir();
        if let Some(contents) = circle.iter().find(has_folder) {
            bail!("a circle leads through the file that stands for {}: {}", contents.join("/"), names());
        }
    }
    Ok(largest)
}

/// All that a module imports, and what that imports.
fn reached(imports: &Imports<Module>, from: &Module) -> BTreeSet<Module> {
    let mut reached = BTreeSet::new();
    let mut pending: Vec<_> = imports[from].iter().collect();
    while let Some(next) = pending.pop() {
        if reached.insert(next.clone()) {
            pending.extend(imports.get(next).into_iter().flatten());
        }
    }
    reached
}

fn folders(imports: &Imports<Module>) -> Imports<String> {
    let mut folders = Imports::new();
    for (module, imported) in imports {
        let folder: &mut BTreeSet<_> = folders.entry(module[0].clone()).or_default();
        folder.extend(imported.iter().map(|other| other[0].clone()).filter(|other| *other != module[0]));
    }
    folders
}

/// What each module of the crate imports of the others.
fn imports(src: &Path) -> Result<Imports<Module>> {
    let mut sources = BTreeMap::new();
    let mut pending = vec![src.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(src)?.with_extension("");
                let mut module: Module =
                    below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
                module.pop_if(|last| *last == "mod");
                let is_root = matches!(&module[..], [root] if root == "lib" || root == "main");
                if !is_root && module[0] != "bin" && module.last().is_none_or(|last| *last != "tests") {
                    sources.insert(module, fs::read_to_string(&path)?);
                }
            }
        }
    }
    let mut imports = Imports::new();
    for (module, source) in &sources {
        let mut named = BTreeSet::new();
        for path in paths(source) {
            let target = absolute(module, &path);
            // The longest beginning of it that is a module; the rest is an item.
            let found =
                (1..=target.len()).rev().map(|end| &target[..end]).find(|path| sources.contains_key(*path));
            named.extend(found.filter(|found| found != module).map(<[String]>::to_vec));
        }
        imports.insert(module.clone(), named);
    }
    Ok(imports)
}

/// `crate::…`, `super::…` and `self::…`, as a path below the crate.
fn absolute(module: &Module, path: &[String]) -> Module {
    let mut base = if path[0] == "crate" { Module::new() } else { module.clone() };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => drop(base.pop()),
            _ => base.push(part.clone()),
        }
    }
    base
}

/// Every path that a source names, tests and comments apart.
fn paths(source: &str) -> Vec<Module> {
    let code: String = source
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default()
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join(" ");
    let (mut found, mut rest) = (Vec::new(), code.as_str());
    while let Some(at) = ["crate::", "super::", "self::"].iter().filter_map(|root| rest.find(root)).min() {
        let is_begun = rest[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
        // What stands inside of a tree is read with it.
        rest = if is_begun { &rest[at + 1..] } else { tree(&rest[at..], &[], &mut found) };
    }
    found
}

/// Reads one path, or a tree of them as `use` has it; gives what comes behind it.
fn tree<'a>(text: &'a str, before: &[String], found: &mut Vec<Module>) -> &'a str {
    let mut path = before.to_vec();
    let mut rest = text.trim_start();
    loop {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end > 0 {
            path.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
        let Some(inner) = rest.strip_prefix("::").map(str::trim_start) else { break };
        match inner.strip_prefix('{') {
            Some(list) => {
                rest = list.trim_start();
                while !rest.is_empty() && !rest.starts_with('}') {
                    rest = tree(rest, &path, found).trim_start().trim_start_matches(',').trim_start();
                }
                return rest.strip_prefix('}').unwrap_or(rest);
            }
            None => rest = inner,
        }
        if !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
            break;
        }
    }
    found.push(path);
    // `as NAME`, `*`, generics: up to what ends an element of a list.
    rest.find([',', '}', ';']).map_or("", |end| &rest[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(source: &str) -> Vec<String> {
        let mut named: Vec<_> = paths(source).iter().map(|path| path.join("::")).collect();
        named.sort();
        named
    }

    #[test]
    fn every_path_of_a_source_is_found_but_for_those_of_tests() {
        let source = "use crate::{a::{B, c::{self, D as E}}, f};\npub use super::{super::g, l}; // crate::no\nfn h() -> crate::i::J {}\n\
                      #[cfg(test)]\nmod tests {\n    use crate::k;\n}\n";
        assert_eq!(
            named(source),
            [
                "crate::a::B",
                "crate::a::c::D",
                "crate::a::c::self",
                "crate::f",
                "crate::i::J",
                "super::l",
                "super::super::g"
            ]
        );
    }

    #[test]
    fn a_circle_of_folders_has_no_floors() {
        let imports = |all: &[(&str, &[&str])]| -> Imports<String> {
            let set = |names: &&[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            all.iter().map(|(folder, below)| ((*folder).to_owned(), set(below))).collect()
        };
        let right = imports(&[("a", &[]), ("b", &["a"]), ("c", &["a", "b"])]);
        assert!(table(&right).unwrap().ends_with("| 3 | `c` | `a`, `b` |\n"));
        let wrong = imports(&[("a", &["c"]), ("b", &["a"]), ("c", &["b"]), ("d", &[])]);
        assert!(table(&wrong).unwrap_err().to_string().contains("[\"a\", \"b\", \"c\"]"));
    }

    #[test]
    fn no_circle_of_files_is_large() {
        let module = |name: usize| vec![String::from("a"), name.to_string()];
        let circle = |files: usize| -> Imports<Module> {
            (0..files).map(|at| (module(at), [module((at + 1) % files)].into())).collect()
        };
        assert_eq!(check_files(&circle(LARGEST)).unwrap(), LARGEST);
        assert!(check_files(&circle(LARGEST + 1)).is_err());
    }
}
