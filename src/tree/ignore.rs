//! Ignore patterns: a verdict for each entry of a walk. Pure: nothing is opened here.
//!
//! The syntax and its special cases are those of `.dockerignore` in BuildKit, on bytes: patterns
//! are anchored at the root; `*`, `?` and `[a-z]` stay within a component (a negated class may
//! match `/`, as in Go); `**` crosses components; `\` escapes; `!` includes a path again; the last
//! matching pattern wins; and a pattern that matches a directory matches everything below it.
//!
//! Each pattern is a small automaton that reads one name at a time. [`Directory`] keeps the state
//! of each automaton after `path/`, so an entry costs only its own name, and a pattern that can no
//! longer match costs nothing. An exception can still match below an ignored directory exactly if
//! its automaton is alive. [`crate::config`] finds the patterns, [`super::scan`] asks for verdicts.

use crate::{entry::RelPath, text::Escaped};

/// A pattern that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ignore pattern \"{pattern}\": {why}; put a \\ before a character that is meant literally")]
pub struct BadPattern {
    /// The pattern as it was given, with control characters escaped.
    pub pattern: String,
    /// The syntax error.
    pub why: BadSyntax,
}

/// A syntax error in a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSyntax {
    /// A lone `!`.
    #[error("\"!\" names nothing to take back in")]
    LoneException,
    /// A `\` at the end.
    #[error("it ends with a \\ that escapes nothing")]
    TrailingEscape,
    /// A `[` without its `]`, an empty class, or a bare `-` or `]` where a character is required.
    #[error("its [...] is empty, not closed, or holds a bare \"-\" or \"]\"")]
    Class,
    /// A range whose end is before its start.
    #[error("a range in its [...] runs backwards")]
    BackwardRange,
}

/// Whether an entry is part of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is part of the tree.
    Kept,
    /// A pattern excludes it.
    Ignored,
}

/// How a walk treats a directory.
#[derive(Debug, Clone)]
pub enum Enter {
    /// It is part of the tree; its entries are judged by this state.
    Kept(Directory),
    /// Ignored, but an exception can match something below: part of the tree only if that happens.
    ForExceptions(Directory),
    /// It is ignored with everything below it.
    No,
}

/// The state of all patterns after a directory's path and its `/`.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    patterns: Vec<Standing>,
}

impl Directory {
    /// Whether there are no patterns: everything is kept.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
}

/// The state of one pattern.
#[derive(Debug, Clone)]
enum Standing {
    /// It matched the directory or one above, so it matches everything below.
    Matched,
    /// The automaton's positions; if empty, it matches nothing below.
    Open(Positions),
}

/// A parsed list of patterns.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    kind: PatternKind,
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PatternKind {
    Ignore,
    Exception,
}

impl PatternKind {
    fn verdict(self) -> Verdict {
        match self {
            PatternKind::Ignore => Verdict::Ignored,
            PatternKind::Exception => Verdict::Kept,
        }
    }
}

/// The lines of an ignore file that are patterns, trimmed, with their line numbers from 1. A `#`
/// starts a comment only as the very first byte of a line.
pub fn lines(file: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    file.split(|&b| b == b'\n')
        .zip(1..)
        .filter(|(line, _)| !line.starts_with(b"#"))
        .map(|(line, number)| (number, line.trim_ascii()))
        .filter(|(_, line)| !line.is_empty())
}

impl Rules {
    /// Parses patterns, each like a line of an ignore file. Blank ones are skipped. `#` has no
    /// meaning here, so that `--exclude '#*#'` works: [`lines`] removes the comments.
    ///
    /// # Errors
    /// The first pattern that cannot be parsed.
    pub fn new<I>(patterns: I) -> Result<Rules, BadPattern>
    where
        I: IntoIterator,
        I::Item: AsRef<[u8]>,
    {
        let mut read = Vec::new();
        for given in patterns {
            let pattern = Pattern::read(given.as_ref())
                .map_err(|why| BadPattern { pattern: Escaped(given.as_ref()).to_string(), why })?;
            read.extend(pattern);
        }
        Ok(Rules { patterns: read })
    }

    /// Rules that ignore nothing.
    pub fn none() -> Rules {
        Rules::default()
    }

    /// The state at the start of every walk.
    pub fn top(&self) -> Directory {
        let patterns = self.patterns.iter().map(|pattern| Standing::Open(pattern.start())).collect();
        Directory { patterns }
    }

    /// The verdict on the entry `name` of `parent`. For a directory use [`Rules::enter`].
    pub fn verdict(&self, parent: &Directory, name: &[u8]) -> Verdict {
        let mut verdict = Verdict::Kept;
        for (pattern, standing) in self.patterns.iter().zip(&parent.patterns) {
            let matches = match standing {
                Standing::Matched => true,
                Standing::Open(at) => pattern.counts(verdict) && pattern.accepts(&pattern.feed(at, name)),
            };
            if matches {
                verdict = pattern.kind.verdict();
            }
        }
        verdict
    }

    /// The verdict on the directory `name` of `parent`, and the state for its entries.
    pub fn enter(&self, parent: &Directory, name: &[u8]) -> Enter {
        let mut verdict = Verdict::Kept;
        let mut below = Directory { patterns: Vec::with_capacity(self.patterns.len()) };
        for (pattern, standing) in self.patterns.iter().zip(&parent.patterns) {
            let next = match standing {
                Standing::Matched => Standing::Matched,
                Standing::Open(at) => {
                    let end = pattern.feed(at, name);
                    // A pattern that would not change the verdict is not asked, so it does not
                    // count as matching this directory: after `*`, `!a/b`, a last line `a` leaves
                    // `a/b` in. BuildKit does the same; the tree must equal that of `docker build`.
                    if pattern.counts(verdict) && pattern.accepts(&end) {
                        Standing::Matched
                    } else {
                        Standing::Open(pattern.feed(&end, b"/"))
                    }
                }
            };
            if matches!(next, Standing::Matched) {
                verdict = pattern.kind.verdict();
            }
            below.patterns.push(next);
        }
        match verdict {
            Verdict::Kept => Enter::Kept(below),
            Verdict::Ignored if self.can_take_back(&below) => Enter::ForExceptions(below),
            Verdict::Ignored => Enter::No,
        }
    }

    /// The verdict on a whole path, equal to that of a walk from the top.
    pub fn verdict_of(&self, path: &RelPath) -> Verdict {
        let mut at = self.top();
        let mut components = path.components().peekable();
        while let Some(name) = components.next() {
            if components.peek().is_none() {
                return self.verdict(&at, name);
            }
            at = match self.enter(&at, name) {
                Enter::Kept(below) | Enter::ForExceptions(below) => below,
                Enter::No => return Verdict::Ignored,
            };
        }
        Verdict::Kept
    }

    /// Whether `path` is ignored.
    pub fn ignores(&self, path: &RelPath) -> bool {
        self.verdict_of(path) == Verdict::Ignored
    }

    /// Whether the directory `path` is left out with everything in it.
    pub fn bars(&self, path: &RelPath) -> bool {
        let mut at = self.top();
        for name in path.components() {
            at = match self.enter(&at, name) {
                Enter::Kept(below) | Enter::ForExceptions(below) => below,
                Enter::No => return true,
            };
        }
        false
    }

    /// Whether an exception can match something below an ignored directory. It must come after the
    /// last pattern that ignores the whole directory.
    fn can_take_back(&self, below: &Directory) -> bool {
        self.patterns
            .iter()
            .zip(&below.patterns)
            .rev()
            .take_while(|(pattern, standing)| {
                !(pattern.kind == PatternKind::Ignore && matches!(standing, Standing::Matched))
            })
            .any(|(pattern, standing)| {
                pattern.kind == PatternKind::Exception
                    && matches!(standing, Standing::Open(at) if pattern.is_alive(at))
            })
    }
}

// ---- patterns as text ---------------------------------------------------------------------------

/// How a pattern relates to a path, taken alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It matches the path, and no directory above it.
    Itself,
    /// It matches a directory above the path.
    Above,
    /// It can match something below the path.
    Below,
    /// None of these.
    Nowhere,
}

/// How `pattern` relates to `path`. It may be an exception.
///
/// # Errors
/// When the pattern cannot be parsed.
pub fn reach(pattern: &str, path: &RelPath) -> Result<Reach, BadPattern> {
    let rules = Rules::new([pattern])?;
    let Some(pattern) = rules.patterns.first() else { return Ok(Reach::Nowhere) };
    let mut at = pattern.start();
    let mut names = path.components().peekable();
    while let Some(name) = names.next() {
        let end = pattern.feed(&at, name);
        if pattern.accepts(&end) {
            return Ok(if names.peek().is_some() { Reach::Above } else { Reach::Itself });
        }
        at = pattern.feed(&end, b"/");
    }
    Ok(if pattern.is_alive(&at) { Reach::Below } else { Reach::Nowhere })
}

/// The pattern that matches only `path`, which must be text.
pub fn literal(path: &RelPath) -> String {
    let mut pattern = String::new();
    for c in String::from_utf8_lossy(path.as_bytes()).chars() {
        match c {
            '*' | '?' | '[' | ']' | '!' | '\\' => pattern.extend(['\\', c]),
            // Whitespace at the ends of a pattern does not count.
            c if c.is_ascii_whitespace() => pattern.extend(['[', c, ']']),
            c => pattern.push(c),
        }
    }
    pattern
}

/// The `!`, if any, and the pattern itself.
pub fn parts(pattern: &str) -> (&str, &str) {
    let pattern = pattern.trim_ascii();
    pattern.strip_prefix('!').map_or(("", pattern), |rest| ("!", rest.trim_ascii()))
}

/// Converts `pattern` from the directory `below` to one of the root. With a leading `/` it is one.
pub fn from_below(pattern: &str, below: &RelPath) -> String {
    match parts(pattern) {
        (sign, rest) if !below.is_root() && !rest.starts_with('/') => {
            format!("{sign}{}/{rest}", literal(below))
        }
        _ => pattern.to_owned(),
    }
}

/// Converts `pattern`, written in a directory above the root, to a pattern of the root; `root` is
/// the root's path in that directory. `None` if it can match nothing below the root.
pub fn within(pattern: &str, root: &RelPath) -> Option<String> {
    let (sign, rest) = parts(pattern);
    let mut names = rest.split('/').filter(|name| !matches!(*name, "" | ".")).peekable();
    for directory in root.components() {
        let directory = RelPath::new(directory).ok()?;
        match names.peek() {
            Some(&"**") => break,
            Some(name) if matches!(reach(name, &directory), Ok(Reach::Itself)) => names.next(),
            _ => return None,
        };
    }
    let rest: Vec<_> = names.collect();
    match (root.is_root(), rest.is_empty()) {
        (true, _) => Some(pattern.to_owned()),
        (false, true) => None,
        (false, false) => Some(format!("{sign}{}", rest.join("/"))),
    }
}

// ---- one pattern --------------------------------------------------------------------------------

/// One step of a pattern's automaton.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// This character.
    One(Unit),
    /// `?`: any character except `/`.
    Any,
    /// `[...]`.
    Class { sense: Sense, ranges: Vec<(char, char)> },
    /// `*`: any number of characters except `/`.
    Star,
    /// `**` with more after it: nothing, or text that ends with `/`. Always before a `GapInside`.
    Gap,
    /// Inside a `Gap` that is not empty.
    GapInside,
    /// `**` at the end, or before a literal end: any text.
    Rest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sense {
    Within,
    Without,
}

/// A character, or a byte that is not part of one. `?` matches both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Char(char),
    Byte(u8),
}

const SLASH: Unit = Unit::Char('/');

fn units(bytes: &[u8]) -> impl Iterator<Item = Unit> {
    bytes.utf8_chunks().flat_map(|chunk| {
        chunk.valid().chars().map(Unit::Char).chain(chunk.invalid().iter().copied().map(Unit::Byte))
    })
}

/// Indices of tokens that may consume the next character; an index equal to the number of tokens
/// means a match. Unsorted, without duplicates, rarely more than three.
type Positions = Vec<usize>;

impl Pattern {
    /// `None` for patterns that can match nothing: blank, `.`, `/`, paths above the root.
    fn read(given: &[u8]) -> Result<Option<Pattern>, BadSyntax> {
        let text = given.trim_ascii();
        let (kind, text) = match text.strip_prefix(b"!") {
            Some(rest) => (PatternKind::Exception, rest.trim_ascii()),
            None => (PatternKind::Ignore, text),
        };
        if text.is_empty() {
            return match kind {
                PatternKind::Ignore => Ok(None),
                PatternKind::Exception => Err(BadSyntax::LoneException),
            };
        }
        let cleaned = clean(text);
        let tokens = Reader::new(&cleaned).tokens()?;
        let matches_nothing = cleaned.is_empty() || cleaned == b".." || cleaned.starts_with(b"../");
        Ok((!matches_nothing).then_some(Pattern { kind, tokens }))
    }

    /// Whether a match would change `verdict`.
    fn counts(&self, verdict: Verdict) -> bool {
        self.kind.verdict() != verdict
    }

    fn start(&self) -> Positions {
        let mut at = Positions::new();
        self.stand(&mut at, 0);
        at
    }

    fn accepts(&self, at: &Positions) -> bool {
        at.contains(&self.tokens.len())
    }

    /// Whether more characters can still lead to a match.
    fn is_alive(&self, at: &Positions) -> bool {
        at.iter().any(|&position| position < self.tokens.len())
    }

    fn feed(&self, at: &Positions, text: &[u8]) -> Positions {
        if at.is_empty() {
            return Positions::new();
        }
        let mut now = at.clone();
        let mut next = Positions::with_capacity(now.len());
        for unit in units(text) {
            next.clear();
            for &position in &now {
                self.step(&mut next, position, unit);
            }
            std::mem::swap(&mut now, &mut next);
            if now.is_empty() {
                break;
            }
        }
        now
    }

    fn step(&self, next: &mut Positions, position: usize, unit: Unit) {
        match self.tokens.get(position) {
            Some(Token::One(wanted)) if *wanted == unit => self.stand(next, position + 1),
            Some(Token::Any) if unit != SLASH => self.stand(next, position + 1),
            Some(Token::Class { sense, ranges }) if sense.admits(ranges, unit) => {
                self.stand(next, position + 1)
            }
            Some(Token::Star) if unit != SLASH => self.stand(next, position),
            Some(Token::Rest) => self.stand(next, position),
            Some(Token::GapInside) => {
                self.stand(next, position);
                if unit == SLASH {
                    self.stand(next, position + 1);
                }
            }
            _ => {}
        }
    }

    /// Adds a position, and the positions reached from it without a character.
    fn stand(&self, at: &mut Positions, position: usize) {
        if at.contains(&position) {
            return;
        }
        match self.tokens.get(position) {
            Some(Token::Gap) => {
                self.stand(at, position + 1);
                self.stand(at, position + 2);
            }
            Some(Token::Star | Token::Rest) => {
                at.push(position);
                self.stand(at, position + 1);
            }
            _ => at.push(position),
        }
    }
}

impl Sense {
    fn admits(self, ranges: &[(char, char)], unit: Unit) -> bool {
        let within =
            matches!(unit, Unit::Char(c) if ranges.iter().any(|&(low, high)| (low..=high).contains(&c)));
        within == (self == Sense::Within)
    }
}

/// Parses text into tokens.
struct Reader {
    units: Vec<Unit>,
    at: usize,
}

impl Reader {
    fn new(text: &[u8]) -> Reader {
        Reader { units: units(text).collect(), at: 0 }
    }

    fn peek(&self) -> Option<char> {
        match self.units.get(self.at) {
            Some(Unit::Char(c)) => Some(*c),
            _ => None,
        }
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn next(&mut self) -> Option<Unit> {
        let unit = self.units.get(self.at).copied();
        self.at += usize::from(unit.is_some());
        unit
    }

    fn tokens(mut self) -> Result<Vec<Token>, BadSyntax> {
        let mut tokens = Vec::with_capacity(self.units.len());
        while let Some(unit) = self.next() {
            match unit {
                Unit::Char('*') if self.eat('*') => tokens.extend(self.double_star()),
                Unit::Char('*') => tokens.push(Token::Star),
                Unit::Char('?') => tokens.push(Token::Any),
                Unit::Char('[') => tokens.push(self.class()?),
                Unit::Char('\\') => tokens.push(Token::One(self.next().ok_or(BadSyntax::TrailingEscape)?)),
                literal => tokens.push(Token::One(literal)),
            }
        }
        Ok(tokens)
    }

    /// Called after the two stars. `**x` at the very beginning, with only literals after it, is
    /// special in BuildKit: it matches any path that ends with `x`; `**x*` needs a component that
    /// begins with `x`.
    fn double_star(&mut self) -> impl IntoIterator<Item = Token> + use<> {
        let leads = self.at == 2;
        let before_slash = self.eat('/');
        let rest = &self.units[self.at..];
        let literal = !rest.iter().any(|unit| matches!(unit, Unit::Char('*' | '?' | '[' | ']' | '\\')));
        if rest.is_empty() || (leads && !before_slash && literal) {
            vec![Token::Rest]
        } else {
            vec![Token::Gap, Token::GapInside]
        }
    }

    /// Called after the `[`.
    fn class(&mut self) -> Result<Token, BadSyntax> {
        let sense = if self.eat('^') { Sense::Without } else { Sense::Within };
        let mut ranges = Vec::new();
        while ranges.is_empty() || !self.eat(']') {
            let low = self.class_char()?;
            let high = if self.eat('-') { self.class_char()? } else { low };
            if high < low {
                return Err(BadSyntax::BackwardRange);
            }
            ranges.push((low, high));
        }
        Ok(Token::Class { sense, ranges })
    }

    fn class_char(&mut self) -> Result<char, BadSyntax> {
        let escaped = self.eat('\\');
        match self.next() {
            Some(Unit::Char('-' | ']')) if !escaped => Err(BadSyntax::Class),
            Some(Unit::Char(c)) => Ok(c),
            _ => Err(BadSyntax::Class),
        }
    }
}

/// The shortest equal path: without `.`, empty components and slashes at the ends; `..` is resolved
/// where a component precedes it. Empty for the root.
fn clean(text: &[u8]) -> Vec<u8> {
    let rooted = text.starts_with(b"/");
    let mut kept: Vec<&[u8]> = Vec::new();
    for component in text.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." if kept.last().is_some_and(|last| *last != b"..") => {
                kept.pop();
            }
            b".." if rooted => {}
            _ => kept.push(component),
        }
    }
    kept.join(&b'/')
}

/// A second, simple implementation of the same rules, for comparison: whole paths, regular
/// expressions, and only the state that the semantics require. For patterns that are clean and
/// ASCII, without classes and escapes.
#[cfg(test)]
pub(super) mod reference {
    use proptest::prelude::*;
    use regex::bytes::Regex;

    prop_compose! {
        /// Patterns that often match each other and the paths.
        pub(in crate::tree) fn pattern()(
            exception in prop::bool::weighted(0.4),
            components in prop::collection::vec("[ab]|[ab*?]{1,3}|\\*\\*|\\*", 1..4),
        ) -> String {
            format!("{}{}", if exception { "!" } else { "" }, components.join("/"))
        }
    }

    pub(in crate::tree) struct Reference(Vec<(bool, Regex)>);

    impl Reference {
        pub(in crate::tree) fn new(patterns: &[String]) -> Reference {
            Reference(
                patterns
                    .iter()
                    .map(|pattern| match pattern.strip_prefix('!') {
                        Some(rest) => (true, expression(rest)),
                        None => (false, expression(pattern)),
                    })
                    .collect(),
            )
        }

        pub(in crate::tree) fn ignores(&self, path: &[u8]) -> bool {
            self.judge(path).0
        }

        /// The verdict, and for each pattern whether it has matched the path or a directory above.
        fn judge(&self, path: &[u8]) -> (bool, Vec<bool>) {
            let above = match path.iter().rposition(|&b| b == b'/') {
                Some(slash) => self.judge(&path[..slash]).1,
                None => vec![false; self.0.len()],
            };
            let mut ignored = false;
            let mut matched = above;
            for ((exception, expression), matched) in self.0.iter().zip(&mut matched) {
                *matched = *matched || (*exception == ignored && expression.is_match(path));
                if *matched {
                    ignored = !exception;
                }
            }
            (ignored, matched)
        }
    }

    fn expression(pattern: &str) -> Regex {
        let special = |text: &str| text.contains(['*', '?']);
        let text = match pattern.strip_prefix("**") {
            Some(end) if !end.starts_with('/') && !special(end) => format!(".*{}", regex::escape(end)),
            _ => {
                let mut text = String::new();
                let mut rest = pattern;
                while let Some(first) = rest.chars().next() {
                    let (token, length) = match first {
                        '*' if rest == "**" || rest == "**/" => (".*".to_owned(), rest.len()),
                        '*' if rest.starts_with("**/") => ("(.*/)?".to_owned(), 3),
                        '*' if rest.starts_with("**") => ("(.*/)?".to_owned(), 2),
                        '*' => ("[^/]*".to_owned(), 1),
                        '?' => ("[^/]".to_owned(), 1),
                        c => (regex::escape(&c.to_string()), 1),
                    };
                    text += &token;
                    rest = &rest[length..];
                }
                text
            }
        };
        Regex::new(&format!("(?s-u)^(?:{text})$")).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        reference::{Reference, pattern},
        *,
    };

    fn path(bytes: &[u8]) -> RelPath {
        RelPath::new(bytes).unwrap()
    }

    fn ignores(patterns: &[&[u8]], at: &[u8]) -> bool {
        Rules::new(patterns).unwrap().verdict_of(&path(at)) == Verdict::Ignored
    }

    /// Whether a walk enters every directory on its way to `dir`, and `dir` itself.
    fn enters(patterns: &[&str], dir: &str) -> bool {
        let rules = Rules::new(patterns).unwrap();
        let mut at = rules.top();
        for name in path(dir.as_bytes()).components() {
            at = match rules.enter(&at, name) {
                Enter::Kept(below) | Enter::ForExceptions(below) => below,
                Enter::No => return false,
            };
        }
        true
    }

    #[test]
    fn one_pattern_matches_as_in_a_dockerignore() {
        // A pattern, paths that it matches, and paths that it does not.
        type Case<'a> = (&'a [u8], &'a [&'a [u8]], &'a [&'a [u8]]);
        let cases: &[Case<'_>] = &[
            // Anchored at the root, and everything below.
            (b"log", &[b"log", b"log/today"], &[b"var/log", b"logs"]),
            (b"var/log", &[b"var/log/today"], &[b"var", b"var/x/log"]),
            // Cleaned like paths.
            (b"/log", &[b"log"], &[]),
            (b"//log//", &[b"log"], &[]),
            (b"./log/", &[b"log"], &[]),
            (b"var/../log", &[b"log"], &[]),
            (b"/../log", &[b"log"], &[]),
            (b"var/./log", &[b"var/log"], &[]),
            (b"  log \t\r", &[b"log"], &[]),
            (b"../log", &[], &[b"log"]),
            (b"a/../..", &[], &[b"log"]),
            (b".", &[], &[b"log"]),
            (b"/", &[], &[b"log"]),
            (b"", &[], &[b"log"]),
            // Within a component.
            (b"*", &[b"log", b".hidden", b"var/log"], &[]),
            (b"*/log", &[b"var/log"], &[b"log", b"a/b/log"]),
            (b"*.o", &[b"main.o", b".o"], &[b"src/main.o"]),
            (b"a*b*c", &[b"aXbXbc"], &[b"aXbXbcd"]),
            (b"a*c", &[], &[b"ab/c"]),
            (b"l?g", &[b"log"], &[b"lg", b"l/g"]),
            (b"a.b", &[], &[b"aXb"]),
            (b"a+(b)|{1}$^", &[b"a+(b)|{1}$^"], &[]),
            // Classes.
            (b"v[0-9]", &[b"v7"], &[b"vx"]),
            (b"v[^0-9]", &[b"vx"], &[b"v7"]),
            (b"v[!7]", &[b"v7"], &[b"v8"]),
            (b"[\\]a]x", &[b"]x"], &[]),
            (b"[\\]\\-]x", &[b"-x"], &[]),
            (b"a]b", &[b"a]b"], &[]),
            (b"a[^x]b", &[b"a/b"], &[]),
            // Escapes.
            (b"\\*", &[b"*"], &[b"x"]),
            (b"\\!x", &[b"!x"], &[]),
            (b"#x", &[b"#x"], &[]),
            (b"a\\bc", &[b"abc"], &[]),
            (b"a\\\\", &[b"a\\"], &[]),
            // Any number of directories.
            (b"**", &[b"log", b"var/log"], &[]),
            (b"**/", &[b"var/log"], &[]),
            (b"**/log", &[b"log", b"a/b/log", b"a/b/log/c"], &[b"catalog"]),
            (b"**/*.o", &[b"a/b.o", b"b.o"], &[b"b.oo"]),
            (b"**/**/x", &[b"x"], &[]),
            (b"**/a/b", &[b"x/a/b"], &[b"x/a/c/b"]),
            (b"var/**", &[b"var/log"], &[b"var"]),
            (b"var/**/", &[b"var/log"], &[]),
            (b"var/**/x", &[b"var/x", b"var/a/b/x"], &[b"varx"]),
            (b"var**", &[b"variety"], &[b"va"]),
            (b"a**/*.c", &[b"a/b/x.c", b"ax.c"], &[]),
            (b"a/*.c**", &[b"a/x.c"], &[]),
            (b"***", &[b"a/b"], &[]),
            // BuildKit: a literal end matches any suffix; with a wildcard it starts a component.
            (b"**log", &[b"catalog", b"a/catalog"], &[]),
            (b"**log*", &[b"a/logs"], &[b"catalogue"]),
            // Bytes.
            ("l?g".as_bytes(), &["lög".as_bytes()], &[]),
            ("l??g".as_bytes(), &[], &["lög".as_bytes()]),
            ("[α-ω]".as_bytes(), &["λ".as_bytes()], &[]),
            (b"l?g", &[b"l\xffg"], &[]),
            (b"l??g", &[b"l\xff\xfeg"], &[]),
            (b"l\xffg", &[b"l\xffg"], &[b"l\xfeg"]),
            (b"[^a]", &[b"\xff"], &[]),
            (b"[a-z]", &[], &[b"\xff"]),
            (b"**/*.o", &[b"a\n\xff/b\n.o"], &[]),
            (b"*", &[b"\n"], &[]),
        ];
        for (pattern, matched, others) in cases {
            let wanted = matched.iter().map(|at| (at, true)).chain(others.iter().map(|at| (at, false)));
            for (at, wanted) in wanted {
                assert_eq!(ignores(&[pattern], at), wanted, "{} on {}", Escaped(pattern), Escaped(at));
            }
        }
    }

    #[test]
    fn the_last_pattern_that_matches_wins() {
        type Case<'a> = (&'a [&'a [u8]], &'a [u8], bool);
        let cases: &[Case<'_>] = &[
            (&[b"docs", b"!docs/README"], b"docs/README", false),
            (&[b"docs", b"!docs/README"], b"docs/other", true),
            (&[b"docs/*", b"!docs/README"], b"docs/README", false),
            (&[b"!docs/README", b"docs"], b"docs/README", true),
            (&[b"*", b"!src"], b"src/a/b", false),
            (&[b"*", b"!src"], b"other", true),
            (&[b"*", b"!src", b"src/a"], b"src/a/b", true),
            (&[b"*", b"!src", b"src/a", b"!src/a/b"], b"src/a/b", false),
            (&[b"**", b"!a/b"], b"a/b/c", false),
            (&[b"**/*.md", b"!README.md"], b"README.md", false),
            (&[b"**/*.md", b"!README.md"], b"a/README.md", true),
            (&[b"*", b"! src "], b"src", false),
            (&[b"*", b"!/src/"], b"src", false),
            (&[b"*", b"!."], b"src", true),
            (&[b"*", b"!!x"], b"!x", false),
            // BuildKit: a pattern not asked at the directory has not matched it.
            (&[b"*", b"!a/b", b"a"], b"a/b", false),
            (&[b"**/*.log", b"!logs"], b"logs/x.log", true),
        ];
        for (patterns, at, wanted) in cases {
            let shown: Vec<_> = patterns.iter().map(|p| Escaped(p).to_string()).collect();
            assert_eq!(ignores(patterns, at), *wanted, "{shown:?} on {}", Escaped(at));
        }
    }

    #[test]
    fn an_ignored_directory_is_entered_only_when_an_exception_can_match_below() {
        let cases: &[(&[&str], &str, bool)] = &[
            (&["docs"], "docs", false),
            (&["docs", "!docs/README"], "docs", true),
            (&["docs", "!docs/README"], "docs/a", false),
            (&["docs", "!docs/*/README"], "docs/a", true),
            (&["docs", "!docs/*/README"], "docs/a/b", false),
            (&["docs", "!docs/v?/README"], "docs/v1", true),
            (&["docs", "!docs/v?/README"], "docs/v10", false),
            (&["docs", "!docs/[ab]/README"], "docs/c", false),
            (&["docs", "!documents/README"], "docs", false),
            (&["docs", "!**/README"], "docs/a/b", true),
            (&["docs", "!docs/a/**"], "docs/a", true),
            (&["docs", "!docs/a/**"], "docs/b", false),
            (&["docs", "!docs/**/a/b"], "docs/x/y", true),
            (&["*", "!src"], "node_modules", false),
            (&["*", "!src"], "src/a", true),
            (&["*", "!*/a"], "x", true),
            (&["*", "!*/a"], "x/y", false),
            // Too early to include anything again.
            (&["!docs/README", "docs"], "docs", false),
            (&["docs", "!docs/a/b", "docs/a"], "docs/a", true),
        ];
        for (patterns, dir, wanted) in cases {
            assert_eq!(enters(patterns, dir), *wanted, "{patterns:?} at {dir}");
        }
    }

    #[test]
    fn a_pattern_of_one_path_matches_that_path_alone() {
        for name in ["a*b", "a?", "[a]", "a\\b", " a ", "!a", "#a", "a\tb", "d/!e f/*"] {
            let path = path(name.as_bytes());
            assert_eq!(reach(&literal(&path), &path), Ok(Reach::Itself), "{name:?}");
            assert_eq!(reach(&format!("!{}", literal(&path)), &path), Ok(Reach::Itself), "{name:?}");
        }
        assert!(!ignores(&[literal(&path(b"a*b")).as_bytes()], b"axb"));
    }

    #[test]
    fn a_pattern_that_cannot_be_read_is_named_with_its_fault() {
        let cases: &[(&[u8], BadSyntax)] = &[
            (b"!", BadSyntax::LoneException),
            (b" ! ", BadSyntax::LoneException),
            (b"a\\", BadSyntax::TrailingEscape),
            (b"[", BadSyntax::Class),
            (b"a[^", BadSyntax::Class),
            (b"[]", BadSyntax::Class),
            (b"[]a]", BadSyntax::Class),
            (b"[^bc", BadSyntax::Class),
            (b"[-x]", BadSyntax::Class),
            (b"[x-]", BadSyntax::Class),
            (b"[a-b-c]", BadSyntax::Class),
            (b"[a\\", BadSyntax::Class),
            (b"[z-a]", BadSyntax::BackwardRange),
            (b"!../[", BadSyntax::Class),
        ];
        for (pattern, why) in cases {
            let err = Rules::new(["fine".as_bytes(), pattern]).unwrap_err();
            assert_eq!((err.pattern, err.why), (Escaped(pattern).to_string(), *why));
        }
    }

    #[test]
    fn an_ignore_file_has_comments_blank_lines_and_perhaps_a_byte_order_mark() {
        let file = b"\xef\xbb\xbfa \r\n# no\n\n  \n #yes\n!b";
        let read: Vec<_> = lines(file).collect();
        assert_eq!(read, [(1, &b"a"[..]), (5, b"#yes"), (6, b"!b")]);
    }

    #[test]
    fn a_pattern_full_of_stars_does_not_take_exponential_time() {
        let pattern = "*a".repeat(200) + "b";
        assert!(!ignores(&[pattern.as_bytes()], "a".repeat(255).as_bytes()));
    }

    proptest! {
        #[test]
        fn a_walk_agrees_with_the_plain_reading_of_the_rules(
            patterns in prop::collection::vec(pattern(), 0..6),
            at in prop::collection::vec("[ab]{1,3}", 1..5),
        ) {
            let at = at.join("/");
            let wanted = Reference::new(&patterns).ignores(at.as_bytes());
            let rules = Rules::new(&patterns).unwrap();
            prop_assert_eq!(rules.verdict_of(&path(at.as_bytes())) == Verdict::Ignored, wanted);
        }

        #[test]
        fn no_pattern_is_too_odd_to_be_read_or_refused(
            pattern in prop::collection::vec(any::<u8>(), 0..12),
            at in prop::collection::vec(any::<u8>(), 1..12),
        ) {
            if let (Ok(rules), Ok(at)) = (Rules::new([pattern]), RelPath::new(at)) {
                rules.verdict_of(&at);
            }
        }
    }
}
