//! [`RunArgs`] -> equivalent command-line words. `fastbuild bench` runs this program with them.

use std::{ffi::OsString, path::Path};

use crate::{
    args::{ContainerArgs, IgnoreRule, RunArgs},
    spec::{Progress, Route, RouteChoice, choices::name_of},
};

/// The words of a command line.
#[derive(Default)]
pub(super) struct Words(Vec<OsString>);

impl Words {
    fn switch(&mut self, flag: &str, on: bool) {
        if on {
            self.0.push(flag.into());
        }
    }

    /// As one word, so that a value may begin with a dash.
    fn value(&mut self, flag: &str, value: impl Into<OsString>) {
        let mut word = OsString::from(format!("{flag}="));
        word.push(value.into());
        self.0.push(word);
    }

    pub(super) fn values(&mut self, flag: &str, values: impl IntoIterator<Item = impl Into<OsString>>) {
        values.into_iter().for_each(|value| self.value(flag, value));
    }
}

impl RunArgs {
    /// Options, `--` and command, without the program. Parsing the words gives the same options.
    pub fn to_words(&self) -> Vec<OsString> {
        let mut words = Words::default();
        let texts = [
            ("--image", &self.image),
            ("--workdir", &self.workdir),
            ("--user", &self.user),
            ("--entrypoint", &self.entrypoint),
            ("--host", &self.host),
            ("--platform", &self.platform),
        ];
        texts.into_iter().for_each(|(flag, text)| words.values(flag, text));
        words.values("--env", &self.env);
        words.values("--env-file", &self.env_file);
        words.values("--source", &self.source);
        for rule in &self.rules.0 {
            match rule {
                IgnoreRule::Keep(pattern) => words.value("--keep-path", pattern),
                IgnoreRule::Exclude(pattern) => words.value("--exclude", pattern),
                IgnoreRule::Include(pattern) => words.value("--include", pattern),
            }
        }
        words.values("--output", &self.output);
        words.values("--route", self.route.map(name_of));
        words.values("--cache", &self.cache);
        words.values("--volume-opt", &self.volume_opt);
        words.values("--tmpfs-size", self.tmpfs_size.map(|bytes| bytes.to_string()));
        words.values("--grace", self.grace.map(|grace| format!("{}s", grace.as_secs())));
        words.values("--scratch", &self.scratch);
        words.values("--engine", self.engine.map(name_of));
        words.values("--pull", self.pull.map(name_of));
        self.container.push_to(&mut words);
        words.values("--progress", self.progress.map(name_of));
        let switches = [
            ("--no-ignore", self.no_ignore),
            ("--ignore", self.ignore),
            ("--yes", self.yes),
            ("--outputs-on-failure", self.outputs_on_failure),
            ("--no-outputs-on-failure", self.no_outputs_on_failure),
            ("--atomic", self.atomic),
            ("--no-atomic", self.no_atomic),
            ("--keep", self.keep),
            ("--no-keep", self.no_keep),
            ("--no-agent", self.no_agent),
            ("--fresh", self.fresh),
            ("--no-wait", self.no_wait),
            ("--explain", self.explain),
            ("--fallback", self.fallback),
            ("--no-fallback", self.no_fallback),
            ("--tty", self.tty),
            ("--no-tty", self.no_tty),
            ("--stdin", self.stdin),
            ("--no-stdin", self.no_stdin),
            ("--quiet", self.quiet),
        ];
        switches.into_iter().for_each(|(flag, on)| words.switch(flag, on));
        (0..self.verbose).for_each(|_| words.switch("--verbose", true));
        if !self.command.is_empty() {
            words.switch("--", true);
            words.0.extend(self.command.iter().cloned());
        }
        words.0
    }

    /// The same build on `route`, unattended: it reads no input, reports only its result, and has
    /// no fallback after a mount's failure. Options for other routes are left out, and on a route
    /// without a container, the container's options. Relative host paths start at `started_in`.
    pub fn on_route(&self, route: Route, started_in: &Path) -> RunArgs {
        let absolute = |path: &std::path::PathBuf| started_in.join(path);
        let mut args = RunArgs {
            route: Some(RouteChoice::Fixed(route)),
            env_file: self.env_file.iter().map(absolute).collect(),
            scratch: self.scratch.as_ref().map(absolute),
            fallback: false,
            no_fallback: true,
            tty: false,
            no_tty: true,
            stdin: false,
            no_stdin: true,
            fresh: false,
            no_wait: false,
            explain: false,
            progress: Some(Progress::None),
            quiet: false,
            verbose: 0,
            ..self.clone()
        };
        if route != Route::Tmpfs {
            args.tmpfs_size = None;
        }
        if route != Route::Volume {
            args.volume_opt.clear();
        }
        if route == Route::Host { args.without_container() } else { args }
    }

    fn without_container(self) -> RunArgs {
        RunArgs {
            image: None,
            workdir: None,
            user: None,
            entrypoint: None,
            host: None,
            platform: None,
            container: ContainerArgs::default(),
            cache: Vec::new(),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use crate::args::{Command, parse, words::*};

    fn parsed(words: &[OsString]) -> RunArgs {
        let argv = [OsString::from("fastbuild")].into_iter().chain(words.iter().cloned());
        match parse(argv).unwrap().command {
            Command::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_are_read_as_what_they_were_made_of() {
        let lines = [
            "--no-agent --grace 5s -i gcc:14 -w /src -e A=b -e C --env-file f -u me --entrypoint= -C dir --exclude a --include b --keep-path d --exclude -c \
             --no-ignore --yes -o out:host -o /tmp/x --outputs-on-failure --atomic --keep --fresh \
             --no-wait --explain -- make -j2 -- all",
            "--route mount-source --fallback --cache cargo:~/.cargo --volume-opt type=nfs --volume-opt o=a,b=c \
             --tmpfs-size 1g --scratch /fast --engine docker -H tcp://x:1 --platform linux/arm64 --pull never \
             --network none -m 512m --cpus 1.5 --shm-size 1g --isolation hyperv -t --stdin --progress json -vv -- true",
            "--ignore --no-outputs-on-failure --no-atomic --no-keep --no-fallback --no-tty --no-stdin \
             -q -- true",
        ];
        let mut told = Vec::new();
        for line in lines {
            let typed: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            let args = parsed(&typed);
            assert_eq!(format!("{:?}", parsed(&args.to_words())), format!("{args:?}"));
            told.extend(args.to_words().iter().map(|word| word.to_string_lossy().into_owned()));
        }
        // A new option must be included, too.
        let options = RunArgs::augment_args(clap::Command::new("fastbuild"));
        for long in options.get_arguments().filter_map(clap::Arg::get_long) {
            let flag = format!("--{long}");
            let is_told = |word: &String| word.split('=').next() == Some(&flag);
            assert!(told.iter().any(is_told), "{flag}");
        }
    }

    #[test]
    fn a_build_on_a_route_has_that_routes_options_alone() {
        let line =
            "-i a -m 1g --tmpfs-size 1g --volume-opt type=nfs --env-file f -t -v --fallback -o x -- make";
        let typed: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let args = parsed(&typed);
        let on = |route| {
            let words = args.on_route(route, Path::new("/p")).to_words();
            words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        let common = "--progress=none --no-fallback --no-tty --no-stdin -- make";
        assert_eq!(
            on(Route::Tmpfs),
            format!(
                "--image=a --env-file=/p/f --output=x --route=tmpfs --tmpfs-size=1073741824 --memory=1073741824 {common}"
            )
        );
        assert_eq!(
            on(Route::Volume),
            format!(
                "--image=a --env-file=/p/f --output=x --route=volume --volume-opt=type=nfs --memory=1073741824 {common}"
            )
        );
        assert_eq!(on(Route::Host), format!("--env-file=/p/f --output=x --route=host {common}"));
    }
}
