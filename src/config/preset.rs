//! The command's first words -> data about the tool. A new tool is a new row of [`PRESETS`].

/// The data about a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preset {
    /// The tool.
    pub name: &'static str,
    /// How its commands begin; the last word may come with a directory before it (`bin/jekyll`).
    first_words: &'static [&'static [&'static str]],
    /// A public image that contains the tool.
    pub image: &'static str,
    /// The place of its products.
    outputs: OutputRule,
    /// Names of files beside the sources that its builds keep for the next, and no other tool
    /// reads.
    kept: &'static [&'static str],
}

/// How a command line tells the place of the products.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OutputRule {
    /// Subcommands that make products. Of others (`new`, `--version`), every change returns.
    subcommands: &'static [&'static str],
    /// Options that name the place. A value is a word of its own, or attached (after `=` if long).
    options: &'static [&'static str],
    /// Options that name the place of the sources.
    sources: &'static [&'static str],
    /// Other options with a value, which must not be read as the subcommand.
    valued: &'static [&'static str],
    /// The place when no option names one.
    default: &'static str,
}

/// Every preset.
pub const PRESETS: &[Preset] = &[Preset {
    name: "jekyll",
    first_words: &[&["jekyll"], &["bundle", "exec", "jekyll"]],
    image: "docker.io/jekyll/jekyll:4.2.2",
    outputs: OutputRule {
        subcommands: &["build", "b"],
        options: &["-d", "--destination"],
        sources: &["-s", "--source"],
        valued: &["-p", "--plugins", "--layouts", "--config", "-b", "--baseurl"],
        default: "_site",
    },
    // Keyed by content, and cleared by jekyll itself when the configuration changes.
    kept: &[".jekyll-cache", ".sass-cache"],
}];

impl Preset {
    /// The preset of a command.
    pub fn of(command: &[String]) -> Option<&'static Preset> {
        PRESETS.iter().find(|preset| preset.arguments(command).is_some())
    }

    /// The place of the command's products, relative to its directory; `None` if none is known.
    pub fn output(&self, command: &[String]) -> Option<String> {
        let arguments = self.arguments(command)?;
        let rule = &self.outputs;
        let mut place = None;
        let mut subcommand = None;
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            if let Some(named) = option_value(word, rule.options, &mut words) {
                place = Some(named);
            } else if option_value(word, rule.valued, &mut words).is_none()
                && option_value(word, rule.sources, &mut words).is_none()
                && !word.starts_with('-')
            {
                subcommand.get_or_insert(word);
            }
        }
        let makes_products = rule.subcommands.contains(&subcommand?);
        makes_products.then(|| place.unwrap_or(rule.default).to_owned())
    }

    /// Patterns of the files that its builds keep, relative to the command's directory. They match
    /// the names anywhere, and also beside the sources that the command names.
    pub fn kept(&self, command: &[String]) -> impl Iterator<Item = String> {
        let mut words = self.arguments(command).unwrap_or_default().iter().map(String::as_str);
        let mut source = None;
        while let Some(word) = words.next() {
            source = option_value(word, self.outputs.sources, &mut words).or(source);
        }
        let beside = source
            .filter(|source| !source.starts_with('/'))
            .map(|source| source.trim_end_matches('/').to_owned());
        let anywhere = self.kept.iter().map(|name| format!("**/{name}"));
        anywhere.chain(
            beside
                .into_iter()
                .flat_map(|source| self.kept.iter().map(move |name| format!("{source}/{name}"))),
        )
    }

    /// The words after the tool's own words.
    fn arguments<'a>(&self, command: &'a [String]) -> Option<&'a [String]> {
        self.first_words.iter().find_map(|words| {
            let (head, rest) = command.split_at_checked(words.len())?;
            let named = head.iter().zip(*words).all(|(given, known)| base_name(given) == *known);
            named.then_some(rest)
        })
    }
}

fn base_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// The value of `word` if it is one of `options`, attached or in the next word.
fn option_value<'a>(
    word: &'a str,
    options: &[&str],
    following: &mut impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    options.iter().find_map(|option| {
        let tail = word.strip_prefix(option)?;
        match (option.starts_with("--"), tail) {
            (_, "") => following.next(),
            (true, tail) => tail.strip_prefix('='),
            (false, tail) => Some(tail),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(line: &str) -> Option<String> {
        let command: Vec<String> = line.split(' ').map(String::from).collect();
        Preset::of(&command)?.output(&command)
    }

    #[test]
    fn jekyll_tells_where_its_site_goes() {
        let cases = [
            ("jekyll build", Some("_site")),
            ("jekyll b --trace", Some("_site")),
            ("bundle exec jekyll build -d public", Some("public")),
            ("bin/jekyll build", Some("_site")),
            ("jekyll build -dout", Some("out")),
            ("jekyll build --destination out/site --drafts", Some("out/site")),
            ("jekyll build --destination=/tmp/x", Some("/tmp/x")),
            ("jekyll -s docs build", Some("_site")),
            ("jekyll -d build build", Some("build")),
            ("jekyll build -d a -d b", Some("b")),
            ("jekyll build --destinations x", Some("_site")),
            ("jekyll new build", None),
            ("jekyll --version", None),
            ("jekyll", None),
            ("jekyll clean", None),
            ("bundle exec rake build", None),
            ("make build", None),
        ];
        for (line, expected) in cases {
            assert_eq!(output(line).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn jekyll_keeps_its_caches_beside_the_sources_that_the_command_names() {
        let kept = |line: &str| {
            let command: Vec<String> = line.split(' ').map(String::from).collect();
            Preset::of(&command).unwrap().kept(&command).collect::<Vec<_>>()
        };
        assert_eq!(kept("jekyll build"), ["**/.jekyll-cache", "**/.sass-cache"]);
        assert_eq!(kept("jekyll build -s docs/")[2..], ["docs/.jekyll-cache", "docs/.sass-cache"]);
        assert_eq!(kept("jekyll b --source=a")[2..], ["a/.jekyll-cache", "a/.sass-cache"]);
    }

    #[test]
    fn the_image_is_known_whatever_the_subcommand() {
        let command = ["jekyll".to_owned(), "--version".to_owned()];
        assert_eq!(Preset::of(&command).map(|preset| preset.name), Some("jekyll"));
        assert_eq!(Preset::of(&["bundle".to_owned()]), None);
    }
}
