//! Rules 3, 4 and 5 against a model: random edits of the host's tree, of the workspace by hand, and by the command, and
//! after each build two questions. Did the command see the host's tree, less what is excluded? And is on the host what
//! the command made, and what the user had besides?
//!
//! `FASTBUILD_MODEL_SEED` runs one sequence again, `FASTBUILD_MODEL_MINUTES` goes on for so long (`cargo xtask model`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "model/generate.rs"]
mod generate;
#[path = "model/ops.rs"]
mod ops;
#[path = "common/random.rs"]
mod random;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, OnceLock},
    time::{Duration, Instant},
};

use common::{BUSYBOX, EMPTY, Ended, NONROOT, Project};
use generate::{HELPER, Modes, Where, edits};
use ops::{Bytes, Listing, Node, Op};
use random::Random;

/// One way to call fastbuild.
#[derive(Debug, Clone, Copy)]
struct Call {
    options: &'static [&'static str],
    /// Outputs that come back; all changes when empty.
    outputs: &'static [&'static str],
    /// Whether `options` leave out `cache` and `*.ign`.
    ignores: bool,
}

const PLAIN: Call = Call { options: &[], outputs: &[], ignores: false };
const IGNORING: Call =
    Call { options: &["--exclude", "**/cache", "--exclude", "**/*.ign"], outputs: &[], ignores: true };
const NAMED: Call =
    Call { options: &["-o", "out", "-o", "d/made"], outputs: &["out", "d/made"], ignores: false };
const NAMED_AT_ONCE: Call = Call { options: &["--atomic", "-o", "out"], outputs: &["out"], ignores: false };
const NAMED_AND_IGNORING: Call = Call {
    options: &["-o", "out", "--exclude", "**/cache", "--exclude", "**/*.ign"],
    outputs: &["out"],
    ignores: true,
};

impl Call {
    /// Whether the path is no part of the source tree.
    fn excludes(&self, path: &[u8]) -> bool {
        self.is_output(path) || self.ignores(path)
    }

    fn ignores(&self, path: &[u8]) -> bool {
        let ignored = |name: &[u8]| name == b"cache" || name.ends_with(b".ign");
        self.ignores && path.split(|byte| *byte == b'/').any(ignored)
    }

    fn is_output(&self, path: &[u8]) -> bool {
        self.outputs.iter().any(|output| is_at_or_below(path, output.as_bytes()))
    }

    fn names_outputs(&self) -> bool {
        !self.outputs.is_empty()
    }
}

fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// What a test does again and again.
#[derive(Debug, Clone, Copy)]
struct Kind {
    image: &'static str,
    keep: Keep,
    calls: &'static [Call],
    modes: Modes,
    /// Builds in one project, from an empty workspace on.
    builds: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Warm,
    Cold,
    /// Warm, without a container.
    Here,
}

impl Keep {
    fn is_warm(self) -> bool {
        self != Keep::Cold
    }
}

#[test]
fn warm_builds_see_the_hosts_tree_and_what_they_change_comes_back() {
    go(&Kind { image: BUSYBOX, keep: Keep::Warm, calls: &[PLAIN], modes: Modes::Any, builds: 25 }, 2);
}

#[test]
fn warm_builds_keep_what_is_ignored() {
    go(&Kind { image: EMPTY, keep: Keep::Warm, calls: &[IGNORING], modes: Modes::Any, builds: 25 }, 2);
}

#[test]
fn warm_builds_bring_back_named_outputs() {
    go(&Kind { image: BUSYBOX, keep: Keep::Warm, calls: &[NAMED], modes: Modes::Any, builds: 25 }, 2);
}

#[test]
fn warm_builds_that_are_called_now_so_and_now_so() {
    let calls = &[PLAIN, IGNORING, NAMED, NAMED_AT_ONCE, NAMED_AND_IGNORING];
    go(&Kind { image: BUSYBOX, keep: Keep::Warm, calls, modes: Modes::Any, builds: 25 }, 2);
}

#[test]
fn warm_builds_of_a_user_who_is_not_root() {
    let calls = &[PLAIN, NAMED];
    go(&Kind { image: NONROOT, keep: Keep::Warm, calls, modes: Modes::OwnersOwn, builds: 15 }, 2);
}

#[test]
fn builds_without_a_container_keep_the_same_promises() {
    let calls = &[PLAIN, IGNORING, NAMED, NAMED_AT_ONCE, NAMED_AND_IGNORING];
    go(&Kind { image: "", keep: Keep::Here, calls, modes: Modes::Any, builds: 25 }, 2);
}

#[test]
fn cold_builds_keep_the_same_promises() {
    let calls = &[PLAIN, IGNORING, NAMED, NAMED_AND_IGNORING];
    go(&Kind { image: BUSYBOX, keep: Keep::Cold, calls, modes: Modes::Any, builds: 8 }, 1);
}

/// Runs some sequences of that kind, or one that is named, or as many as there is time for.
fn go(kind: &Kind, sequences: u64) {
    if let Ok(seed) = std::env::var("FASTBUILD_MODEL_SEED") {
        return sequence(kind, seed.parse().unwrap());
    }
    let minutes =
        std::env::var("FASTBUILD_MODEL_MINUTES").ok().map(|minutes| minutes.parse::<f64>().unwrap());
    let Some(minutes) = minutes else {
        return (0..sequences).for_each(|seed| sequence(kind, seed));
    };
    let until = Instant::now() + Duration::from_secs_f64(60.0 * minutes);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let mut seeds = Random(now.as_nanos() as u64);
    while Instant::now() < until {
        sequence(kind, seeds.next() >> 16);
    }
}

fn sequence(kind: &Kind, seed: u64) {
    let mut model = Model::new(kind, seed);
    for build in 0..kind.builds {
        model.step(build);
    }
}

/// One project with its workspace, and what is known of them.
struct Model<'a> {
    kind: &'a Kind,
    seed: u64,
    random: Random,
    project: Project,
    /// The workspace's tree, as far as it is known.
    kept: Option<Listing>,
    /// How it was filled.
    last: Option<Call>,
    /// What fastbuild put on the host, or found there right, at places that are not sources.
    own: BTreeMap<Bytes, Node>,
    /// Sources that a build made again with the same bytes: as they are on the host, and when that was.
    made_again: BTreeMap<Bytes, (Node, i128)>,
    log: String,
}

/// One build, as seen from outside and from inside.
struct Build<'a> {
    call: Call,
    /// The host's tree before.
    host: &'a Listing,
    /// What the command saw.
    saw: &'a Listing,
    /// What the command left.
    left: &'a Listing,
}

impl<'a> Model<'a> {
    fn new(kind: &'a Kind, seed: u64) -> Model<'a> {
        let project = match kind.keep {
            Keep::Here => Project::here(),
            Keep::Warm | Keep::Cold => Project::with_image(kind.image),
        };
        fs::copy(helper(), project.path(std::str::from_utf8(HELPER).unwrap())).unwrap();
        let random = Random(seed);
        Model {
            kind,
            seed,
            random,
            project,
            kept: None,
            last: None,
            own: BTreeMap::new(),
            made_again: BTreeMap::new(),
            log: String::new(),
        }
    }

    fn step(&mut self, build: usize) {
        let call = self.random.one(self.kind.calls);
        let call = self.possible(call);
        self.log.clear();
        writeln!(self.log, "build {build}: {:?}", call.options).unwrap();
        self.edit_host(call);
        if self.kind.keep.is_warm() && self.random.chance(40) {
            self.edit_workspace();
        }
        let host = self.host();
        let edits = self.commands_edits(call, &host);
        let code = if self.random.chance(12) { 7 } else { 0 };
        let input: String = edits.iter().map(|op| op.line() + "\n").collect();
        let ended = self.build(call, &format!("{input}end {code}\n"));
        assert_eq!(ended.code, code, "{}\n{}", self.told(), ended.err());
        let text = ended.out();
        let (saw, left) =
            text.split_once("--\n").unwrap_or_else(|| panic!("{}\n{}", self.told(), ended.err()));
        let (saw, left) = (Listing::parse(saw).unwrap(), Listing::parse(left).unwrap());
        let build = Build { call, host: &host, saw: &saw, left: &left };
        let mut wrong = self.wrong_in_what_it_saw(&build);
        let now = self.host();
        self.trace(&build, &now);
        if code == 0 {
            wrong.extend(self.wrong_in_what_came_back(&build, &now));
        } else {
            wrong.extend(differences(&host, &now, |path| format!("after a failed build {path}")));
        }
        assert!(wrong.is_empty(), "{}\nWRONG:\n{}\n{}", self.told(), wrong.join("\n"), ended.err());
        if code == 0 {
            self.remember(&build, &now);
        }
        self.kept = self.kind.keep.is_warm().then_some(left);
        self.last = Some(call);
        self.tidy(&now);
    }

    /// The call, or one that does without: `--atomic` exchanges directories, and refuses a file in the place of an output.
    fn possible(&self, call: Call) -> Call {
        let is_file = |output: &&str| {
            let found = self.project.path(output).symlink_metadata();
            found.is_ok_and(|found| !found.is_dir())
        };
        let is_refused = call.options.contains(&"--atomic") && call.outputs.iter().any(is_file);
        if is_refused { NAMED } else { call }
    }

    /// Tells what became of one path in each build, for whoever looks for the reason of a failure.
    fn trace(&self, build: &Build<'_>, now: &Listing) {
        let Ok(traced) = std::env::var("FASTBUILD_MODEL_TRACE") else { return };
        let path = build.host.0.keys().chain(build.left.0.keys()).find(|path| short(path) == traced);
        let Some(path) = path else { return };
        let line = self.log.lines().next().unwrap_or_default();
        let trees = [("host", build.host), ("saw", build.saw), ("left", build.left), ("now", now)];
        let parts: Vec<_> =
            trees.iter().map(|(name, tree)| format!("{name} {}", of(path, tree.0.get(path)))).collect();
        eprintln!("{line}: own {}, {}", of(path, self.own.get(path)), parts.join(", "));
    }

    fn told(&self) -> String {
        format!("FASTBUILD_MODEL_SEED={} in {:?}\n{}", self.seed, self.kind, self.log)
    }

    fn note(&mut self, who: &str, edits: &[Op]) {
        for op in edits {
            writeln!(self.log, "  {who}: {}", shown(op)).unwrap();
        }
    }

    fn host(&self) -> Listing {
        Listing::of(&self.project.root()).unwrap()
    }

    fn edit_host(&mut self, call: Call) {
        let tree = self.host();
        // Something in the very place of an output is an error or a matter of its own.
        let allowed = |path: &[u8]| ![b"out".as_slice(), b"d", b"d/made"].contains(&path);
        let below = if call.names_outputs() { &["", "", "", "out/", "d/made/"][..] } else { &["", "", "d/"] };
        let within = Where { modes: self.kind.modes, below, allowed };
        let count = self.random.below(30);
        let edits = edits(&mut self.random, &tree, within, count);
        self.note("host", &edits);
        edits.iter().for_each(|op| op.apply(&self.project.root()));
    }

    fn edit_workspace(&mut self) {
        let Some(mut by_hand) = self.by_hand() else { return };
        let tree = self.kept.clone().unwrap_or_default();
        let modes = if self.kind.modes == Modes::OwnersOwn { Modes::OwnersOwn } else { Modes::Plain };
        let within = match modes {
            // What is no source stays as root made it, and the build's user may then be unable to read it.
            Modes::OwnersOwn => Where { modes, below: &["", "d/"], allowed: |path| !NAMED.is_output(path) },
            _ => Where { modes, below: &["", "", "out/", "d/made/", "cache/"], allowed: |_| true },
        };
        let count = self.random.below(15);
        let edits = edits(&mut self.random, &tree, within, count);
        self.note("by hand", &edits);
        let input: String = edits.iter().map(|op| op.line() + "\n").collect();
        let ended = with_input(&mut by_hand, &format!("{input}end 0\n"));
        assert_eq!(ended.code, 0, "{}\n{}", self.told(), ended.err());
        let text = ended.out();
        self.kept = Listing::parse(text.split_once("--\n").unwrap().1);
    }

    /// The helper in the workspace, beside any build; none where there is no workspace.
    fn by_hand(&self) -> Option<Command> {
        if self.kind.keep == Keep::Here {
            let tree = self.project.scratch_tree();
            let mut helper = Command::new(tree.join(".helper"));
            helper.arg(&tree);
            return tree.exists().then_some(helper);
        }
        let workspace = self.project.containers().pop()?;
        let mut exec = Command::new("docker");
        exec.args(["exec", "-i", &workspace, "/workspace/.helper", "/workspace"]);
        Some(exec)
    }

    fn commands_edits(&mut self, call: Call, host: &Listing) -> Vec<Op> {
        let mut tree = host.clone();
        tree.0
            .extend(self.kept.iter().flat_map(|kept| kept.0.clone()).filter(|(path, _)| call.excludes(path)));
        let modes = if self.kind.modes == Modes::OwnersOwn { Modes::OwnersOwn } else { Modes::Plain };
        let below = if call.names_outputs() { &["", "out/", "out/", "d/made/"][..] } else { &["", "", "d/"] };
        let within = Where { modes, below, allowed: |path| path != b"d" };
        let count = self.random.below(30);
        let mut edits = edits(&mut self.random, &tree, within, count);
        // A missing output is an error.
        for output in call.outputs {
            let place = output.as_bytes().to_vec();
            edits.push(match self.random.below(10) {
                0 => Op::Write(place, ops::Content { seed: 1, len: self.random.below(100) }),
                1..4 => Op::Mkdir(place),
                _ => Op::Write([&place, b"/always".as_slice()].concat(), ops::Content { seed: 1, len: 5 }),
            });
        }
        self.note("command", &edits);
        edits
    }

    fn build(&self, call: Call, input: &str) -> Ended {
        let keep = if self.kind.keep.is_warm() { "--keep" } else { "--no-keep" };
        let mut command = self.project.command();
        command.args(["--progress", "none", "--stdin", keep]).args(call.options).args(["--", "./.helper"]);
        with_input(&mut command, input)
    }

    /// Rule 3: sources are the host's; the rest is as it was left.
    fn wrong_in_what_it_saw(&self, build: &Build<'_>) -> Vec<String> {
        let (call, host, saw) = (build.call, build.host, build.saw);
        let mut wrong = Vec::new();
        let paths: BTreeSet<_> = host.0.keys().chain(saw.0.keys()).collect();
        for path in paths {
            let (there, seen) = (host.0.get(path), saw.0.get(path));
            let holds_kept = || saw.0.keys().any(|other| is_below(other, path) && call.excludes(other));
            let right = match (there, seen) {
                _ if self.is_ignored_now(call, path) => seen.is_none(),
                _ if call.excludes(path) => seen.is_none() || self.may_be_kept(path, seen),
                (None, Some(seen)) => seen.kind == 'd' && holds_kept(),
                _ => there == seen || self.is_as_made_again(path, there, seen),
            };
            if !right {
                wrong.push(format!("the host has {}, the command saw {}", of(path, there), of(path, seen)));
            }
        }
        let Some(kept) = &self.kept else { return wrong };
        let stays = |path: &[u8]| call.excludes(path) && !self.is_ignored_now(call, path);
        for (path, node) in kept.0.iter().filter(|(path, _)| stays(path)) {
            let in_its_way = ancestors(path)
                .any(|above| !call.excludes(above) && host.0.get(above).is_some_and(|node| node.kind != 'd'));
            if !saw.0.contains_key(path) && !in_its_way {
                wrong.push(format!(
                    "the workspace held {}, and the command did not see it",
                    of(path, Some(node))
                ));
            }
        }
        wrong
    }

    /// Whether the path was part of the source tree for the last build, and the rules leave it out now.
    fn is_ignored_now(&self, call: Call, path: &[u8]) -> bool {
        call.ignores(path) && !call.is_output(path) && self.last.is_some_and(|last| !last.ignores(path))
    }

    /// Whether the host's file is as it was when a build made it again, and the command saw the time of that.
    fn is_as_made_again(&self, path: &Bytes, there: Option<&Node>, seen: Option<&Node>) -> bool {
        let (Some(there), Some(seen)) = (there, seen) else { return false };
        let Some((known, made)) = self.made_again.get(path) else { return false };
        let cut = made.div_euclid(1_000_000_000) * 1_000_000_000;
        // Engines send whole seconds.
        let is_time = seen.mtime == *made || self.kind.keep == Keep::Cold && seen.mtime == cut;
        known == there && is_time && Node { mtime: there.mtime, ..seen.clone() } == *there
    }

    fn may_be_kept(&self, path: &Bytes, seen: Option<&Node>) -> bool {
        let Some(kept) = &self.kept else { return false };
        alike(kept.0.get(path), seen)
    }

    /// Rules 4 and 5.
    fn wrong_in_what_came_back(&self, build: &Build<'_>, now: &Listing) -> Vec<String> {
        let mut wrong = Vec::new();
        let Build { call, host, saw, left } = *build;
        let paths: BTreeSet<_> = [host, saw, left, now].into_iter().flat_map(|tree| tree.0.keys()).collect();
        for path in paths {
            let (before, after) = (host.0.get(path), now.0.get(path));
            let (at_first, at_last) = (saw.0.get(path), left.0.get(path));
            let untouched =
                after == before || alike(after, before) && after.is_some_and(|node| node.kind == 'd');
            let comes_back = if call.names_outputs() { call.is_output(path) } else { true };
            let changed = call.names_outputs() || !alike(at_first, at_last);
            let right = if is_beside(path) {
                // The build's version of what is the user's; `lost` looks after the user's.
                true
            } else if self.is_way_to_a_product(build, path, now) {
                // One that stood in the workspace only for the sake of what is left out comes about here by itself.
                alike(after, at_last) || !changed
            } else if !comes_back {
                untouched
            } else if !changed {
                // Of what is left out nobody knows the content before; to touch it is to make it.
                let made_again = call.excludes(path) && alike(after, at_last);
                untouched
                    || made_again
                    || is_other_name_of_changed(build, path, after)
                    || self.is_in_doubt(build, path)
            } else if self.is_in_doubt(build, path) {
                alike(after, at_last) || alike(after, before) || after.is_some_and(|node| node.kind == 'd')
            } else {
                alike(after, at_last)
            };
            if !right {
                wrong.push(format!(
                    "the host had {}, the command saw {} and left {}, and now the host has {}",
                    of(path, before),
                    of(path, at_first),
                    of(path, at_last),
                    of(path, after)
                ));
            }
            let written = after.filter(|after| after.kind == 'f' && !alike(before, Some(after)));
            if let (Some(after), Some(at_last)) = (written, at_last)
                && before.map(|before| &before.content) != Some(&after.content)
                && alike(Some(after), Some(at_last))
                && !is_name_of_the_hosts(host, after)
                && after.mtime.div_euclid(1_000_000_000) != at_last.mtime.div_euclid(1_000_000_000)
            {
                wrong.push(format!("the mtime of {} is not {}", of(path, Some(after)), at_last.mtime));
            }
        }
        wrong.extend(self.lost(build));
        wrong
    }

    /// Whether the host had nothing there, and a product needs a directory there now.
    fn is_way_to_a_product(&self, build: &Build<'_>, path: &[u8], now: &Listing) -> bool {
        let is_dir = |tree: &Listing| tree.0.get(path).is_some_and(|node| node.kind == 'd');
        !build.host.0.contains_key(path)
            && is_dir(build.left)
            && now.0.keys().any(|other| is_below(other, path))
    }

    /// Whether the user may have a say in what becomes of this path: something there, above or below is neither a source
    /// nor what fastbuild put there.
    fn is_in_doubt(&self, build: &Build<'_>, path: &[u8]) -> bool {
        self.is_near_the_users(build, path)
            || ancestors(path).any(|above| {
                // Something else in the place of a whole directory, which then stays whole.
                build.left.0.get(above).is_some_and(|node| node.kind != 'd')
                    && self.is_near_the_users(build, above)
            })
    }

    fn is_near_the_users(&self, build: &Build<'_>, path: &[u8]) -> bool {
        let of_users = |path: &Bytes, node: &Node| {
            // What fastbuild once put there, and the command did not see, is not the command's to delete.
            let unseen = !build.call.is_output(path) && !alike(build.saw.0.get(path), Some(node));
            build.call.excludes(path) && (unseen || !alike(self.own.get(path), Some(node)))
        };
        let mut host = build.host.0.iter();
        host.any(|(other, node)| {
            (other == path || is_below(other, path) || is_below(path, other)) && of_users(other, node)
        })
    }

    /// Rule 5: what the user wrote among the products is somewhere still.
    fn lost(&self, build: &Build<'_>) -> Vec<String> {
        let all = Listing::of(&self.project.outside()).unwrap();
        // What a workspace holds is not given back.
        let elsewhere = all.0.iter().filter(|(path, _)| !is_at_or_below(path, b"scratch"));
        let there: BTreeSet<_> = elsewhere.map(|(_, node)| (node.kind, &node.content)).collect();
        // A product whose mode alone the user changed is still the build's.
        let is_own = |path: &Bytes, node: &Node| {
            self.own.get(path).is_some_and(|own| (own.kind, &own.content) == (node.kind, &node.content))
        };
        let of_users = build
            .host
            .0
            .iter()
            .filter(|(path, node)| node.kind != 'd' && build.call.excludes(path) && !is_own(path, node));
        let lost = of_users.filter(|(_, node)| !there.contains(&(node.kind, &node.content)));
        lost.map(|(path, node)| format!("the user's {} is lost", of(path, Some(node)))).collect()
    }

    /// What is fastbuild's own on the host from now on, and what it keeps under an older time than the build's.
    fn remember(&mut self, build: &Build<'_>, now: &Listing) {
        // What the user removed is whoever's who makes it next.
        let is_gone = |path: &Bytes| {
            build.call.names_outputs() && build.call.is_output(path) && !now.0.contains_key(path)
        };
        self.own.retain(|path, _| !is_gone(path));
        let Build { call, host, saw, left } = *build;
        for (path, node) in host.0.iter().filter(|(path, _)| !call.names_outputs() && !call.excludes(path)) {
            let (saw, left) = (saw.0.get(path), left.0.get(path));
            if let Some(left) = left
                && node.kind == 'f'
                && alike(saw, Some(left))
                && saw.is_some_and(|saw| saw.mtime != left.mtime)
                && now.0.get(path) == Some(node)
            {
                self.made_again.insert(path.clone(), (node.clone(), left.mtime));
            }
        }
        for (path, node) in &now.0 {
            let may_be_own = if build.call.names_outputs() {
                build.call.is_output(path)
            } else {
                // A source is known as such; other things are when the command made them, in whichever build they came here.
                !alike(build.saw.0.get(path), build.left.0.get(path))
                    || node.kind != 'd' && !alike(build.host.0.get(path), Some(node))
            };
            if may_be_own && alike(build.left.0.get(path), Some(node)) {
                self.own.insert(path.clone(), node.clone());
            } else if may_be_own && node.kind == 'd' {
                // It stayed for the sake of what is in it, and is the user's from now on.
                self.own.remove(path);
            }
        }
    }

    /// Versions that were put beside the user's would pile up.
    fn tidy(&self, now: &Listing) {
        for path in now.0.keys().filter(|path| is_beside(path)) {
            Op::Remove(path.clone()).apply(&self.project.root());
        }
    }
}

/// Whether only the mode changed, and it is that of another name of the same file: under a mount too, a file has one mode.
fn is_other_name_of_changed(build: &Build<'_>, path: &[u8], after: Option<&Node>) -> bool {
    let (Some(before), Some(after)) = (build.host.0.get(path), after) else { return false };
    let content_stays = (before.kind, &before.content) == ('f', &after.content);
    content_stays
        && build.host.0.iter().any(|(other, node)| {
            let left = build.left.0.get(other).map(|left| left.mode & 0o777);
            node.content == before.content
                && node.mode == before.mode
                && node.mtime == before.mtime
                && left == Some(after.mode & 0o777)
        })
}

/// Whether it may be another name of a file that the host had already, and that stayed as it was with its time.
fn is_name_of_the_hosts(host: &Listing, after: &Node) -> bool {
    host.0.values().any(|node| alike(Some(node), Some(after)) && node.mtime == after.mtime)
}

fn is_below(path: &[u8], above: &[u8]) -> bool {
    path != above && is_at_or_below(path, above)
}

fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at])
}

fn is_beside(path: &[u8]) -> bool {
    path.windows(14).any(|window| window == b".fastbuild-new")
}

/// The same but for mtimes and set-uid bits, which need not cross.
fn alike(one: Option<&Node>, other: Option<&Node>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => {
            (one.kind, one.mode & 0o777, &one.content) == (other.kind, other.mode & 0o777, &other.content)
        }
        (None, None) => true,
        _ => false,
    }
}

fn differences(one: &Listing, other: &Listing, what: impl Fn(String) -> String) -> Vec<String> {
    let paths: BTreeSet<_> = one.0.keys().chain(other.0.keys()).collect();
    let differ = paths.into_iter().filter(|path| {
        let (one, other) = (one.0.get(*path), other.0.get(*path));
        one != other && !(alike(one, other) && one.is_some_and(|node| node.kind == 'd'))
    });
    differ
        .map(|path| format!("{} became {}", what(of(path, one.0.get(path))), of(path, other.0.get(path))))
        .collect()
}

/// A node for people.
fn of(path: &[u8], node: Option<&Node>) -> String {
    let path = short(path);
    let Some(Node { kind, mode, mtime, content }) = node else { return format!("no \"{path}\"") };
    let content = match kind {
        'f' => content.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        }),
        _ => short(content),
    };
    format!("\"{path}\" ({kind} {mode:04o} {mtime} {content})")
}

fn short(bytes: &[u8]) -> String {
    bytes
        .escape_ascii()
        .to_string()
        .replace(&"n".repeat(255), "nnn\u{2026}")
        .replace(&"t".repeat(300), "ttt\u{2026}")
}

fn shown(op: &Op) -> String {
    match op {
        Op::Write(path, content) => format!("write {} {content:?}", short(path)),
        Op::Replace(path, content) => format!("replace {} {content:?}", short(path)),
        Op::Append(path, content) => format!("append {} {content:?}", short(path)),
        Op::Stealth(path, _) => format!("stealth {}", short(path)),
        Op::StealthReplace(path, _) => format!("stealth-replace {}", short(path)),
        Op::Chmod(path, mode) => format!("chmod {} {mode:o}", short(path)),
        Op::Touch(path, nanos) => format!("touch {} {nanos}", short(path)),
        Op::Rename(from, to) => format!("rename {} {}", short(from), short(to)),
        Op::Remove(path) => format!("remove {}", short(path)),
        Op::Mkdir(path) => format!("mkdir {}", short(path)),
        Op::Symlink(path, target) => format!("symlink {} -> {}", short(path), short(target)),
        Op::Hardlink(from, to) => format!("hardlink {} {}", short(from), short(to)),
    }
}

/// Runs a command with this input to its end.
fn with_input(command: &mut Command, input: &str) -> Ended {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A command that does not read to the end says itself what was the matter.
        scope.spawn(move || drop(stdin.write_all(input.as_bytes())));
        Ended::of(child)
    })
}

/// The static program that the builds run, compiled once for a test process.
fn helper() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    static ONE: Mutex<()> = Mutex::new(());
    let _turn = ONE.lock().unwrap();
    BUILT.get_or_init(|| {
        let program =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("model-helper-{}", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model/helper.rs");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut compile = Command::new(rustc);
        compile.args([
            "--edition",
            "2024",
            "-O",
            "-Cstrip=symbols",
            "-Ctarget-feature=+crt-static",
            "-Awarnings",
        ]);
        let ended = Ended::from(compile.arg(source).arg("-o").arg(&program).output().unwrap());
        ended.exits(0);
        program
    })
}
