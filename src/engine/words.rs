//! A guess at what the user meant, if a command's first word could not be run. Pure. A shell would
//! know the word; an engine, like `docker run`, takes it for a program's name.

use crate::text::shell_words;

/// A script with the line endings of Windows.
pub const CR_LF: &str = "the script's lines end in CR LF, as Windows writes them, and the CR counts as a part of the interpreter's \
                         name: convert it (dos2unix SCRIPT), and have git leave it so (`*.sh text eol=lf` in .gitattributes)";

/// Words that shells handle themselves. Most images have no program of that name.
const BUILTIN: [&str; 25] = [
    ".", ":", "alias", "bg", "case", "cd", "declare", "eval", "exec", "exit", "export", "fg", "for",
    "function", "if", "popd", "pushd", "set", "shopt", "source", "trap", "ulimit", "umask", "unset", "while",
];

/// What to do next if `word` was not found.
pub fn advice(word: &str) -> String {
    meant(word).unwrap_or_else(|| {
        "check the name, and that it is where the command runs: in a container that is the image, and not here".to_owned()
    })
}

/// What the user meant, if the word does not look like a program's name.
pub fn meant(word: &str) -> Option<String> {
    let shell = || format!("sh -c {}", shell_words(&[word.to_owned()]));
    if word.is_empty() {
        return Some("the command's first word is empty: is a variable in it not set?".to_owned());
    }
    if word.contains(['|', '&', ';', '<', '>', '$', '`', '*', '(', '\n']) {
        return Some(format!("that is a line for a shell: {}", shell()));
    }
    let is_blank = |c: char| c.is_whitespace();
    if let Some((name, rest)) = word.split_once('=').filter(|(name, _)| is_name(name)) {
        return Some(match rest.contains(is_blank) {
            true => format!("that is a line for a shell: {}", shell()),
            false => format!("{name} is a variable for the command: -e {}", shell_words(&[word.to_owned()])),
        });
    }
    let first = word.split(is_blank).next().unwrap_or_default();
    if BUILTIN.contains(&first) {
        let line = if first == word { format!("{word} …") } else { word.to_owned() };
        let directory = if first == "cd" { ", or start fastbuild in that directory" } else { "" };
        return Some(format!("{first} is a word of shells, and no program: sh -c '{line}'{directory}"));
    }
    if word.starts_with('~') {
        return Some(format!("only a shell puts a home directory in place of ~: {}", shell()));
    }
    word.contains(is_blank)
        .then(|| format!("all of {word:?} is taken for one program's name; leave out the quotes: -- {word}"))
}

/// Whether `name` can be the name of a variable.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
