//! The mount's rule as a model: what a command has to see when it starts, and what the host has to hold when it has ended.
//! It is written from the rule's text, and shares nothing with fastbuild.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    ops::Range,
};

use super::{
    ops::{Bytes, Listing, Node, Op},
    steps::{self, Build, End, short},
};

/// How long a workspace lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    Kept,
    OneRun,
    /// There is no workspace, but the mount itself.
    Mount,
}

/// What is known of a workspace between two builds.
pub struct Workspace {
    lifetime: Lifetime,
    /// The tree at the end of the last command.
    left: Listing,
    /// What is kept in it.
    kept: BTreeSet<&'static str>,
    /// What a command made in it that the host never had.
    leftovers: BTreeSet<Bytes>,
    /// What a killed build touched, and may have left as it was.
    in_doubt: BTreeSet<Bytes>,
    /// Files that were made again with the same bytes, as the host has them, with an older mtime.
    made_again: BTreeMap<Bytes, Node>,
    /// What changed on the host while a build ran, and the time that it has to be shown later than. Any later time is right.
    /// Who edits it once more afterwards may give it any time by hand.
    late: BTreeMap<Bytes, (i128, Node)>,
    /// What was written on the host while a build ran, and is as it was before. It may be shown later too.
    may_be_late: BTreeSet<Bytes>,
    /// Whether a client was killed and no build has succeeded since: when its command ended is not noted, so all that is written
    /// here until the next look may be shown later.
    has_no_end: bool,
    /// From when to when builds were blind, since one has succeeded that saw all edits of the time before.
    blind: Range<i128>,
    /// The host's tree when the last build had ended, and what was no part of it.
    looked_at: (Listing, BTreeSet<&'static str>),
    /// What builds wrote on the host.
    written: BTreeMap<Bytes, Node>,
    /// Where they ever did: what the user has there later counts as a product still.
    places: BTreeSet<Bytes>,
}

/// The trees of one build.
pub struct Trees<'a> {
    /// The host's when fastbuild looked.
    pub look: &'a Listing,
    /// Of that, files that have names outside of it. They are not linked to.
    pub shared: &'a BTreeSet<Bytes>,
    /// The host's when the command had ended, before anything came back.
    pub mid: &'a Listing,
    /// The host's when fastbuild had ended.
    pub after: &'a Listing,
    /// What the command saw, and what it left.
    pub saw: &'a Listing,
    pub left: &'a Listing,
    /// When the build began, in nanoseconds since 1970.
    pub began: i128,
}

impl Workspace {
    pub fn new(lifetime: Lifetime) -> Workspace {
        Workspace {
            lifetime,
            left: Listing::default(),
            kept: BTreeSet::new(),
            leftovers: BTreeSet::new(),
            in_doubt: BTreeSet::new(),
            made_again: BTreeMap::new(),
            late: BTreeMap::new(),
            may_be_late: BTreeSet::new(),
            has_no_end: false,
            blind: i128::MAX..i128::MAX,
            looked_at: (Listing::default(), BTreeSet::new()),
            written: BTreeMap::new(),
            places: BTreeSet::new(),
        }
    }

    /// What a workspace was once told to keep, it keeps as long as there is something of it.
    pub fn keep(&mut self, named: &[&'static str]) {
        let left = &self.left.0;
        let is_there = |kept: &str| left.keys().any(|path| is_within(path, kept.as_bytes()));
        self.kept.retain(|kept| named.contains(kept) || is_there(kept));
        self.kept.extend(named);
    }

    pub fn kept(&self) -> impl Iterator<Item = &'static str> {
        self.kept.iter().copied()
    }

    pub fn keeps(&self, path: &[u8]) -> bool {
        self.kept.iter().any(|kept| is_within(path, kept.as_bytes()))
    }

    /// Points 1, 2 and 5: whether the workspace's own file has to be there when the command starts.
    pub fn stays(&self, path: &Bytes, host: &Listing) -> bool {
        self.left.0.contains_key(path)
            && (self.keeps(path) || self.leftovers.contains(path) && is_free(path, host))
    }

    /// Points 1, 2 and 5: what is wrong in what a command sees at its start.
    pub fn wrong_at_start(&self, host: &Listing, saw: &Listing) -> Vec<String> {
        let mut want: BTreeMap<_, _> = host.0.iter().filter(|(path, _)| !self.keeps(path)).collect();
        for (path, node) in self.left.0.iter().filter(|(path, _)| self.stays(path, host)) {
            want.insert(path, node);
            for above in ancestors(path).filter_map(|above| self.left.0.get_key_value(above)) {
                want.entry(above.0).or_insert(above.1);
            }
        }
        let mut wrong = Vec::new();
        let paths: BTreeSet<_> = want.keys().copied().chain(saw.0.keys()).collect();
        for path in paths {
            let right = match (want.get(path), saw.0.get(path)) {
                (Some(want), Some(seen)) => same(want, seen) && self.is_time(path, host, want, seen),
                // A directory that the host had may stay or go when all that is in it has gone.
                (None, Some(seen)) => match self.left.0.get(path).filter(|_| is_free(path, host)) {
                    Some(left) => same(left, seen) && (seen.kind == 'd' || self.in_doubt.contains(path)),
                    None => seen.kind == 'd' && self.kept.iter().any(|kept| path == kept.as_bytes()),
                },
                _ => false,
            };
            if !right {
                let late =
                    self.late.get(path).map_or(String::new(), |(late, _)| format!(", later than {late}"));
                let (want, saw) = (of(want.get(path).copied()) + &late, of(saw.0.get(path)));
                wrong.push(format!("\"{}\": the command should see {want}, and saw {saw}", short(path)));
            }
        }
        let synced = |path: &Bytes| host.0.contains_key(path) && !self.keeps(path);
        wrong.extend(other_groups("at the start", saw, host, synced));
        wrong.extend(other_groups("of leftovers", saw, &self.left, |path| self.stays(path, host)));
        wrong
    }

    fn is_time(&self, path: &Bytes, host: &Listing, want: &Node, seen: &Node) -> bool {
        if let Some((late, noted)) = self.late.get(path).filter(|_| !self.keeps(path)) {
            let by_hand = host.0.get(path) != Some(noted) && want.mtime == seen.mtime;
            return seen.kind != 'f' || seen.mtime > *late || by_hand;
        }
        // What lies in a directory changes its time; the host's count.
        let is_own_directory = want.kind == 'd' && !host.0.contains_key(path);
        // Hard links to links come back as links each, and are one in the workspace still.
        let is_linked = want.kind == 'l' && self.left.0.get(path).is_some_and(|left| !left.group.is_empty());
        let as_made = self.made_again.get(path) == Some(want)
            && self.left.0.get(path).is_some_and(|left| left.mtime == seen.mtime);
        let may_be_late =
            self.may_be_late.contains(path) || self.has_no_end || self.may_have_been_missed(path, want);
        let may_be_late = may_be_late && seen.mtime > want.mtime;
        is_own_directory || is_linked || want.mtime == seen.mtime || as_made || may_be_late
    }

    /// Whether it cannot be told that builds saw what was done to a file: it has come, or was changed since and had been written in that
    /// time.
    fn may_have_been_missed(&self, path: &Bytes, node: &Node) -> bool {
        let is_other = self.looked_at.0.0.get(path) != Some(node);
        self.has_come(path, node) || is_other && self.blind.contains(&node.mtime)
    }

    /// Whether the last build did not see a file because it was elsewhere, or kept. It cannot be told when that ended, and doing too
    /// much is right.
    fn has_come(&self, path: &Bytes, node: &Node) -> bool {
        let (last, kept) = &self.looked_at;
        let is_it = |other: &Node| (&other.content, other.mtime) == (&node.content, node.mtime);
        let was_elsewhere = !last.0.get(path).is_some_and(is_it) && last.0.values().any(is_it);
        // All names of a file are shown alike.
        was_elsewhere || !node.group.is_empty() || kept.iter().any(|kept| is_within(path, kept.as_bytes()))
    }

    /// The exit code of a build whose command ended so.
    pub fn code(&self, build: &Build, left: &Listing) -> i32 {
        let is_made = |output: &str| {
            let mut below = left.0.keys().filter(|path| is_within(path, output.as_bytes())).peekable();
            let is_empty = left.0.keys().all(|path| !is_below(path, output.as_bytes()));
            below.peek().is_some()
                && (is_empty || below.any(|path| path != output.as_bytes() && !self.keeps(path)))
        };
        match build.end {
            End::Exit(0) if !build.outputs.iter().chain(&build.elsewhere).all(|output| is_made(output)) => {
                125
            }
            End::Exit(code) => code,
            End::Killed | End::ClientKilled => 128 + 9,
        }
    }

    /// Points 3, 4 and 6: what is wrong on the host when a build has ended.
    pub fn wrong_at_end(&self, build: &Build, trees: &Trees<'_>) -> Vec<String> {
        let Trees { look, mid, after, saw, left, .. } = *trees;
        let comes_back = self.code(build, left) == 0;
        let mut wrong = Vec::new();
        let paths: BTreeSet<_> = [mid, left, after].into_iter().flat_map(|tree| tree.0.keys()).collect();
        for path in paths {
            let [was, there, now] = [look, mid, after].map(|tree| tree.0.get(path));
            let (at_first, at_last) = (saw.0.get(path), left.0.get(path));
            let meanwhile = differ(was, there);
            // A directory that the host had and deleted may be there as the way to what is kept.
            let is_new = |node: &Node| was.is_none() && (node.kind != 'd' || self.leftovers.contains(path));
            let built = differ(at_first, at_last) || at_last.is_some_and(is_new);
            let untouched = !differ(there, now) && (comes_back || there == now);
            let right = if !comes_back || !self.in_scope(build, path) {
                untouched || comes_back && is_way(build, path, there, at_last, now)
            } else if !meanwhile && built {
                // A file that was replaced by one that looks the same may count as an edit.
                let is_near = is_near_meanwhile(path, trees) || is_touched_meanwhile(build, path, look);
                self.came_back(path, build, trees) || is_near && untouched
            } else if !meanwhile || !built {
                // A deleted directory is made again, with default attributes, for what comes back in it.
                let is_place = [now, at_last].iter().all(|node| node.is_some_and(|node| node.kind == 'd'));
                let is_place = is_place && there.is_none();
                untouched || is_place || is_near_meanwhile(path, trees) && alike(now, at_last)
            } else if is_near_meanwhile(path, trees)
                || self.places.contains(path) && was != self.written.get(path)
            {
                untouched || alike(now, at_last)
            } else if !build.outputs.is_empty() || self.written.contains_key(path) {
                // Where only the mode was changed there is no content to put.
                let is_mode_alone =
                    at_first.zip(at_last).is_some_and(|(one, other)| one.content == other.content);
                // The command deleted a directory, and the host has a file in its place. No build made that file.
                let is_in_place = was.is_some_and(|was| was.kind == 'd') && at_last.is_none();
                alike(now, at_last) || (is_mode_alone || is_in_place) && untouched
            } else {
                // Both removed it, and the command put something of another kind there. Nothing is in its way.
                let kinds = [was, at_last].map(|node| node.map(|node| node.kind));
                let both = there.is_none() && kinds[0] != kinds[1];
                untouched || both && alike(now, at_last)
            };
            if !right {
                let nodes = [there, at_first, at_last, now].map(of);
                let [there, at_first, at_last, now] = nodes;
                let path = short(path);
                wrong.push(format!(
                    "\"{path}\": the host had {there}, the command saw {at_first} and left {at_last}, and now the host has {now}"
                ));
            }
        }
        if comes_back && look == mid {
            let scope = |path: &Bytes| self.in_scope(build, path) && !trees.shared.contains(path);
            // Each output comes back by itself: names in two of them are files each.
            // With an exchange, a name of a file that is right here is a file of its own.
            let outputs = match build.outputs {
                _ if build.atomic => &[],
                [] => [""].as_slice(),
                outputs => outputs,
            };
            for output in outputs {
                let is_in = |path: &Bytes| output.is_empty() || is_within(path, output.as_bytes());
                // One that has a name beside the output is not linked to either.
                let is_beside = |group: &Bytes| {
                    let names = look.0.iter().filter(|(_, node)| !group.is_empty() && node.group == *group);
                    names.map(|(name, _)| name).any(|name| !is_in(name))
                };
                let in_output = |path: &Bytes| {
                    scope(path) && is_in(path) && !look.0.get(path).is_some_and(|node| is_beside(&node.group))
                };
                wrong.extend(other_groups("of what came back", after, left, in_output));
            }
            let is_beside = |path: &Bytes| !self.in_scope(build, path);
            wrong.extend(other_groups("beside what came back", after, mid, is_beside));
        }
        wrong
    }

    /// What is wrong in the other place, which gets what the command left and loses what it deleted. What it had else stays, with
    /// its directories, their modes and times.
    pub fn wrong_elsewhere(
        &self,
        build: &Build,
        (saw, left): (&Listing, &Listing),
        before: &Listing,
        after: &Listing,
    ) -> Vec<String> {
        let output = build.elsewhere.filter(|_| self.code(build, left) == 0);
        let there = |tree: &Listing| {
            let below = |path: &Bytes| {
                let below = output.filter(|output| is_within(path, output.as_bytes()))?;
                Some([b"made", &path[below.len()..]].concat())
            };
            let made = tree.0.iter().filter_map(|(path, node)| Some((below(path)?, node.clone())));
            made.collect::<BTreeMap<_, _>>()
        };
        let (saw, want) = (there(saw), there(left));
        let stays = |path: &Bytes| !want.contains_key(path) && !saw.contains_key(path);
        let paths: BTreeSet<_> = want.keys().chain(after.0.keys()).chain(before.0.keys()).collect();
        let is_right = |path: &Bytes| match (want.get(path), after.0.get(path)) {
            (None, have) if stays(path) => have.is_none() || alike(have, before.0.get(path)),
            (want, Some(have)) if have.kind == 'd' => {
                want.is_some_and(|want| want.kind == 'd')
                    || after.0.keys().any(|other| is_below(other, path) && stays(other))
            }
            (want, have) => alike(want, have),
        };
        let told = |path: &Bytes| {
            let (want, have) = (of(want.get(path)), of(after.0.get(path)));
            format!("elsewhere, \"{}\" should be {want}, and is {have}", short(path))
        };
        paths.into_iter().filter(|path| !is_right(path)).map(told).collect()
    }

    fn in_scope(&self, build: &Build, path: &[u8]) -> bool {
        (is_named(build, path) || build.outputs.is_empty())
            && !self.keeps(path)
            && path != steps::HELPER.as_bytes()
    }

    /// Whether the host has what the command left, and times by which `make` decides as in the workspace.
    fn came_back(&self, path: &Bytes, build: &Build, trees: &Trees<'_>) -> bool {
        let (Some(now), Some(left)) = (trees.after.0.get(path), trees.left.0.get(path)) else {
            // The host's own of what is kept keeps its directory.
            let holds_kept = || trees.after.0.keys().any(|other| is_below(other, path) && self.keeps(other));
            return !trees.left.0.contains_key(path) && (!trees.after.0.contains_key(path) || holds_kept());
        };
        if !alike(Some(now), Some(left)) || left.sparse && !now.sparse {
            return false;
        }
        let before =
            trees.mid.0.get(path).filter(|before| before.kind == 'f' && before.content == now.content);
        // Another name of a file that is right here has its time.
        let is_older_name = |(other, node): (&Bytes, &Node)| {
            let is_it = |was: &Node| (&was.content, was.mtime) == (&node.content, node.mtime);
            !now.group.is_empty() && node.group == now.group && trees.mid.0.get(other).is_some_and(is_it)
        };
        let Some(before) = before else {
            return now.kind != 'f' || now.mtime == left.mtime || trees.after.0.iter().any(is_older_name);
        };
        // The same bytes: the file here stays as it is, unless a source is newer.
        let newer = |node: &Node| node.mtime > before.mtime;
        let is_source = |path: &Bytes, node: &Node| {
            let is_product = self.places.contains(path) || is_named(build, path) || self.keeps(path);
            node.kind == 'f' && !is_product && node.mtime <= left.mtime
        };
        let mut sources = trees.look.0.iter().filter(|(path, node)| is_source(path, node));
        // A file with several names is made anew for a new mode, or when a name leaves it.
        let may = self.lifetime == Lifetime::Mount
            || build.atomic
            || !before.group.is_empty()
            || self.places.contains(path) && differ(self.written.get(path), Some(before))
            || !self.late.is_empty()
            || !self.may_be_late.is_empty()
            || self.has_no_end
            || trees.look.0.iter().any(|(path, node)| self.may_have_been_missed(path, node))
            || trees.look.0.values().any(|node| node.kind != 'd' && newer(node));
        let must = sources.any(|(_, node)| newer(node));
        now.mtime == before.mtime && !must || now.mtime == left.mtime && may || before.mtime == left.mtime
    }

    /// Rule 5: what a build took from the user, and what lost a conflict, is somewhere still.
    pub fn lost(&self, trees: &Trees<'_>, build: &Build, everywhere: &Listing) -> Vec<String> {
        let Trees { look, mid, after, saw, left, .. } = *trees;
        let there: BTreeSet<_> = everywhere.0.values().map(|node| (node.kind, &node.content)).collect();
        let is_lost = |node: &Node| node.kind != 'd' && !there.contains(&(node.kind, &node.content));
        let is_own =
            |path: &Bytes, node: &Node| self.written.get(path).is_some_and(|own| own.content == node.content);
        let users = mid.0.iter().filter(|(path, node)| !is_own(path, node));
        let builds = left.0.iter().filter(|(path, node)| {
            let meanwhile =
                differ(look.0.get(*path), mid.0.get(*path)) && !alike(after.0.get(*path), Some(node));
            self.in_scope(build, path)
                && meanwhile
                && saw.0.get(*path).is_none_or(|saw| saw.content != node.content)
        });
        let lost =
            users.chain(builds.filter(|_| self.code(build, left) == 0)).filter(|(_, node)| is_lost(node));
        lost.map(|(path, node)| format!("\"{}\": {} is lost", short(path), of(Some(node)))).collect()
    }

    /// What is known from now on.
    pub fn end(&mut self, build: &Build, trees: &Trees<'_>) {
        let Trees { look, mid, after, saw, left, began, .. } = *trees;
        let came_back = self.code(build, left) == 0;
        let is_killed = matches!(build.end, End::Killed | End::ClientKilled);
        self.made_again = left.0.iter().fold(BTreeMap::new(), |mut made, (path, node)| {
            let (Some(now), 'f') = (after.0.get(path), node.kind) else { return made };
            let again = came_back && self.in_scope(build, path) && alike(Some(now), Some(node));
            let still = self.made_again.get(path) == Some(now) && saw.0.get(path) == Some(node);
            if now.mtime != node.mtime && (again || still) {
                made.insert(path.clone(), now.clone());
            }
            made
        });
        self.blind = if came_back { began } else { self.blind.start.min(began) }..now();
        self.has_no_end = !came_back && (self.has_no_end || build.end == End::ClientKilled);
        if came_back {
            self.late.clear();
            self.may_be_late.clear();
        } else {
            let come = look.0.iter().filter(|(path, node)| self.may_have_been_missed(path, node));
            let come: Vec<_> = come.map(|(path, _)| path.clone()).collect();
            self.may_be_late.extend(come);
        }
        self.looked_at = (after.clone(), self.kept.clone());
        if came_back {
            let paths: BTreeSet<_> =
                saw.0.keys().chain(left.0.keys()).filter(|path| self.in_scope(build, path)).collect();
            for path in paths {
                let (at_last, now) = (left.0.get(path), after.0.get(path));
                // A change of the mode alone does not make a user's file a build's.
                let is_same = |was: &&Node| now.is_some_and(|now| now.content == was.content);
                let is_users = mid.0.get(path).filter(is_same).is_some() && !self.written.contains_key(path);
                if !is_users && differ(mid.0.get(path), now) && alike(at_last, now) {
                    self.written.remove(path);
                    self.places.insert(path.clone());
                    self.written.extend(now.map(|now| (path.clone(), now.clone())));
                }
            }
        }
        self.written.retain(|path, _| after.0.contains_key(path));
        let run = began..now();
        let made =
            left.0.iter().filter(|(path, node)| node.kind == 'f' && differ(saw.0.get(*path), Some(node)));
        // What a killed build made goes, but for what is kept.
        let made = made.filter(|(path, _)| !is_killed || self.keeps(path));
        let last = made.map(|(_, node)| node.mtime).filter(|mtime| run.contains(mtime)).max();
        let meanwhile = after.0.iter().filter(|(path, node)| {
            mid.0.get(*path) == Some(node) && look.0.get(*path) != Some(node) && node.kind != 'd'
        });
        let last = last.unwrap_or(i128::MIN);
        // A name that a file got which a build wrote is no edit of it.
        let is_written = |node: &Node| {
            let is_name = |name: &Bytes| after.0.get(name).is_some_and(|now| now.group == node.group);
            let is_it = |own: &Node| (&own.content, own.mtime) == (&node.content, node.mtime);
            !node.group.is_empty() && self.written.iter().any(|(name, own)| is_it(own) && is_name(name))
        };
        let (renamed, meanwhile): (Vec<_>, Vec<_>) = meanwhile.partition(|(_, node)| is_written(node));
        self.may_be_late.extend(renamed.into_iter().map(|(path, _)| path.clone()));
        self.late.extend(meanwhile.into_iter().map(|(path, node)| (path.clone(), (last, node.clone()))));
        let is_touched = |path: &Bytes| is_touched_by(&build.ops, path);
        let written = mid.0.keys().filter(|path| is_touched_meanwhile(build, path, mid));
        self.may_be_late.extend(written.cloned());
        // Made again with the same bytes.
        let touched = after.0.iter().filter(|(path, now)| {
            let was = mid.0.get(*path);
            was.is_some_and(|was| was.content == now.content && was.mtime != now.mtime)
        });
        // Written in the clock's tick in which fastbuild looked.
        let just_before = look.0.iter().filter(|(_, node)| node.mtime >= began);
        self.may_be_late.extend(touched.chain(just_before).map(|(path, _)| path.clone()));
        let doubted = std::mem::take(&mut self.in_doubt);
        let was_there = |path: &Bytes| {
            self.leftovers.contains(path) || doubted.contains(path) && saw.0.contains_key(path)
        };
        let old = |path: &Bytes| was_there(path) && saw.0.get(path) == left.0.get(path);
        let is_hosts = |path: &Bytes| look.0.contains_key(path) || after.0.contains_key(path);
        let made = |path: &&Bytes| !self.keeps(path) && !is_hosts(path);
        let made: BTreeSet<_> = left.0.keys().filter(made).cloned().collect();
        if is_killed {
            self.in_doubt = made.iter().filter(|path| old(path) && is_touched(path)).cloned().collect();
            self.leftovers = made.into_iter().filter(|path| old(path) && !is_touched(path)).collect();
        } else {
            // The way to a leftover that the host had and deleted was not made by a build.
            let is_directory =
                |tree: &Listing, path: &Bytes| tree.0.get(path).is_some_and(|node| node.kind == 'd');
            let is_way = |path: &Bytes| {
                !self.leftovers.contains(path) && is_directory(saw, path) && is_directory(left, path)
            };
            self.leftovers = made.into_iter().filter(|path| !is_way(path)).collect();
        }
        // Made by both: no rule says what becomes of the command's when the host's goes again.
        let by_both = |path: &&Bytes| !look.0.contains_key(*path) && mid.0.contains_key(*path);
        self.in_doubt.extend(left.0.keys().filter(by_both).cloned());
        // What gave way to something of the host's is in the safe place.
        let (gave_way, leftovers) = std::mem::take(&mut self.leftovers)
            .into_iter()
            .partition::<BTreeSet<_>, _>(|path| came_back && self.in_scope(build, path));
        self.leftovers = leftovers;
        self.in_doubt.extend(gave_way);
        self.left = if self.lifetime == Lifetime::OneRun { Listing::default() } else { left.clone() };
    }
}

/// Whether edits are at, above or below a path.
fn is_touched_by(ops: &[Op], path: &[u8]) -> bool {
    let at = |edit: &Bytes| is_within(path, edit) || is_within(edit, path);
    ops.iter().any(|Op { path, other, .. }| at(path) || at(other))
}

/// The same of all names of a file and of the directories above it, and of what was done while the command ran.
fn is_touched_meanwhile(build: &Build, path: &Bytes, tree: &Listing) -> bool {
    let group = tree.0.get(path).map_or(&[][..], |node| &node.group);
    let names = tree.0.iter().filter(|(_, other)| !group.is_empty() && other.group == group);
    let above = ancestors(path).map(<[u8]>::to_vec).any(|above| is_touched_meanwhile(build, &above, tree));
    above || names.map(|(name, _)| name).chain([path]).any(|path| is_touched_by(&build.during, path))
}

fn is_named(build: &Build, path: &[u8]) -> bool {
    build.outputs.iter().any(|output| is_within(path, output.as_bytes()))
}

/// The time now, in nanoseconds since 1970.
pub fn now() -> i128 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as i128)
}

/// In what a command's tree is other than on the mount; times of the run itself are alike.
pub fn not_as_on_mount(one: &Listing, mount: &Listing, began: i128) -> Vec<String> {
    let paths: BTreeSet<_> = one.0.keys().chain(mount.0.keys()).collect();
    let differ = paths.into_iter().filter(|path| match (one.0.get(*path), mount.0.get(*path)) {
        (Some(one), Some(mount)) => {
            let is_time = one.mtime == mount.mtime || one.mtime >= began && mount.mtime >= began;
            !same(one, mount) || one.kind != 'l' && !is_time
        }
        _ => true,
    });
    let told = |path: &Bytes| {
        let (one, mount) = (of(one.0.get(path)), of(mount.0.get(path)));
        format!("\"{}\": the command left {one}, and on the mount {mount}", short(path))
    };
    differ.map(told).chain(other_groups("at the command's end", one, mount, |_| true)).collect()
}

/// Whether the path is a directory above an output, made so that the output has a place.
fn is_way(build: &Build, path: &[u8], there: Option<&Node>, left: Option<&Node>, now: Option<&Node>) -> bool {
    let is_above = build.outputs.iter().any(|output| is_below(output.as_bytes(), path));
    is_above && there.is_none() && alike(left, now)
}

/// Whether something above or below the path changed on the host while the build ran, or what changed there lay in a directory that
/// the build put something else in place of.
fn is_near_meanwhile(path: &[u8], trees: &Trees<'_>) -> bool {
    let Trees { look, mid, left, .. } = *trees;
    let paths = look.0.keys().chain(mid.0.keys());
    let mut changed = paths.filter(|path| differ(look.0.get(*path), mid.0.get(*path)));
    let is_gone = |above: &[u8]| left.0.get(above).is_some_and(|node| node.kind != 'd');
    changed.any(|other| is_below(other, path) || is_below(path, other)) || ancestors(path).any(is_gone)
}

/// Whether the host has nothing there and no file above it.
fn is_free(path: &Bytes, host: &Listing) -> bool {
    let is_file = |above: &[u8]| host.0.get(above).is_some_and(|node| node.kind != 'd');
    !host.0.contains_key(path) && !ancestors(path).any(is_file)
}

fn is_within(path: &[u8], above: &[u8]) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

fn is_below(path: &[u8], above: &[u8]) -> bool {
    path != above && is_within(path, above)
}

fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at])
}

/// The same but for times and other names; holes may not be filled.
fn same(want: &Node, have: &Node) -> bool {
    (want.kind, want.mode, &want.content) == (have.kind, have.mode, &have.content)
        && (have.sparse || !want.sparse)
}

/// Another content, mode, or time of a file; other names do not count.
fn differ(one: Option<&Node>, other: Option<&Node>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => {
            (one.kind, one.mode, &one.content) != (other.kind, other.mode, &other.content)
                || one.kind == 'f' && one.mtime != other.mtime
        }
        (one, other) => one.is_some() != other.is_some(),
    }
}

/// The same but for times and set-uid bits, which need not cross.
pub fn alike(one: Option<&Node>, other: Option<&Node>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => {
            (one.kind, one.mode & 0o777, &one.content) == (other.kind, other.mode & 0o777, &other.content)
        }
        (one, other) => one.is_some() == other.is_some(),
    }
}

/// Paths that are one file in one tree and not in the other, among those of a class.
fn other_groups(what: &str, one: &Listing, other: &Listing, class: impl Fn(&Bytes) -> bool) -> Vec<String> {
    let groups = |tree: &Listing| {
        let mut groups = BTreeMap::<_, Vec<_>>::new();
        let is_file = |node: &Node| node.kind == 'f' && !node.group.is_empty();
        for (path, node) in tree.0.iter().filter(|(path, node)| is_file(node) && class(path)) {
            groups.entry(node.group.clone()).or_default().push(short(path));
        }
        groups.into_values().filter(|paths| paths.len() > 1).collect::<BTreeSet<_>>()
    };
    let (one, other) = (groups(one), groups(other));
    let have = one.difference(&other).map(|paths| format!("one file {what}, and should not be: {paths:?}"));
    let lack = other.difference(&one).map(|paths| format!("not one file {what}, and should be: {paths:?}"));
    have.chain(lack).collect()
}

/// A node for people.
fn of(node: Option<&Node>) -> String {
    let Some(Node { kind, mode, mtime, content, .. }) = node else { return String::from("nothing") };
    let content = match kind {
        'f' => content.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
        _ => short(content),
    };
    format!("({kind} {mode:04o} {mtime} {content})")
}
