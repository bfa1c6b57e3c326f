//! The site built in one place, in every way, round after round. A way that fails is a result too: the seed's volume to
//! volume failed, and this is the reason to look for another way.

use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    place::{Ground, Place},
    row::{Ends, Route, Row, State},
};
use crate::{
    bench::{
        contender::{Contender, Named},
        stage::{Project, Stage, WORKDIR, docker, is_dead, quiet_docker, stamp},
        stats::{self, Samples},
    },
    run::{note, scratch_dir},
};

/// What became of a contender.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Seconds by round.
    Took(Samples),
    /// It did not come to its end, or to a wrong one.
    Failed {
        /// After so long.
        after: Duration,
        /// What was said last.
        said: String,
    },
}

impl Outcome {
    /// What it took, when it did come to its end.
    pub fn samples(&self) -> Option<&Samples> {
        match self {
            Outcome::Took(samples) => Some(samples),
            Outcome::Failed { .. } => None,
        }
    }
}

/// What was measured, by contender.
pub type Outcomes = BTreeMap<Row, Outcome>;

/// The names of the trees that the contenders of one place work on. Each has its own, so that no contender disturbs
/// another one.
pub fn trees(place: Place) -> Vec<String> {
    Row::of(place).into_iter().map(tree_of).collect()
}

fn tree_of(row: Row) -> String {
    match row {
        Row::Plain(ends) => format!("plain-{}", ends as u8),
        Row::Mounted => "mounted".to_owned(),
        Row::Lender => "lender".to_owned(),
        Row::Fastbuild(route, state) => format!("{}-{}", route.name(), state.name()),
    }
}

/// The projects of fastbuild's contenders.
pub fn projects<'a>(stage: &'a Stage, ground: &Ground) -> BTreeMap<Row, Project<'a>> {
    let mut in_container = vec!["--image", &stage.image];
    in_container.extend(ground.place.user().map(|user| ["--user", user]).into_iter().flatten());
    let project = |row: Row| {
        let name = tree_of(row);
        match row {
            Row::Fastbuild(Route::Host, _) => Some(Project::of(stage, &name, ground.path(&name), &[])),
            Row::Fastbuild(..) => Some(Project::of(stage, &name, ground.path(&name), &in_container)),
            Row::Lender => Some(Project::of(stage, &name, ground.behind(&name), &in_container)),
            Row::Plain(_) | Row::Mounted => None,
        }
    };
    Row::of(ground.place).into_iter().filter_map(|row| Some((row, project(row)?))).collect()
}

/// All contenders of one place.
///
/// # Errors
/// When the image with the site in it cannot be made.
pub fn contenders<'a>(
    stage: &'a Stage,
    ground: &'a Ground,
    projects: &'a BTreeMap<Row, Project<'a>>,
    baked: &'a Baked<'a>,
) -> Vec<Contender<'a, Row>> {
    let row = |row: Row| match row {
        Row::Plain(ends) => plain(stage, ground, baked, ends),
        Row::Mounted => mounted(stage, ground),
        Row::Fastbuild(route, state) => fastbuild(stage, row, &projects[&row], route, state),
        Row::Lender => fastbuild(stage, row, &projects[&row], Route::Layer, State::Kept),
    };
    Row::of(ground.place).into_iter().map(row).collect()
}

/// Each contender in each round, until it fails. Round 0 is not measured: workspaces are made, and products that the others
/// find there.
///
/// # Errors
/// When the lab is interrupted, or when no contender could work.
pub fn rounds(stage: &Stage, rounds: u32, contenders: &[Contender<'_, Row>]) -> Result<Outcomes> {
    let mut outcomes = Outcomes::new();
    for round in 0..=rounds {
        let begun = Instant::now();
        for n in stats::order(contenders.len(), round) {
            let contender = &contenders[n];
            if let Some(Outcome::Failed { .. }) = outcomes.get(&contender.what) {
                continue;
            }
            stage.meter.check()?;
            turn(contender, round, &mut outcomes);
            stage.meter.check()?;
        }
        note(format_args!("round {round} of {rounds}: {:.1} s", begun.elapsed().as_secs_f64()));
    }
    Ok(outcomes)
}

fn turn(contender: &Contender<'_, Row>, round: u32, outcomes: &mut Outcomes) {
    let mut took = Duration::ZERO;
    let done = contender.turn(round, |timed| {
        rustix::fs::sync();
        let begun = Instant::now();
        let done = timed();
        took = begun.elapsed();
        done
    });
    match done {
        Ok(()) if round == 0 => {}
        Ok(()) => {
            let outcome = outcomes.entry(contender.what).or_insert_with(|| Outcome::Took(Samples::default()));
            if let Outcome::Took(samples) = outcome {
                samples.push(round, took.as_secs_f64());
            }
        }
        Err(error) => {
            let outcome = outcome_of(&error, took);
            if let Outcome::Failed { said, .. } = &outcome {
                note(format_args!("{} failed: {said}", contender.what.name()));
            }
            outcomes.insert(contender.what, outcome);
        }
    }
}

/// A failure as a result.
pub fn outcome_of(error: &anyhow::Error, after: Duration) -> Outcome {
    Outcome::Failed { after, said: why(error) }
}

/// What a failed command itself said, without this machine's path to where the lab works.
pub fn why(error: &anyhow::Error) -> String {
    let line = telling_line(&error.root_cause().to_string());
    match scratch_dir() {
        Ok(dir) => line.replace(&*dir.to_string_lossy(), "…"),
        Err(_) => line,
    }
}

/// The line of a failed command's last words that tells most: fastbuild's own error, else the first that calls itself one, else
/// the last.
fn telling_line(text: &str) -> String {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let own = lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let own = own.filter(|event| event["event"] == "error").find_map(|event| {
        let mut whole = event["message"].as_str()?.to_owned();
        for cause in event["causes"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str) {
            whole += ": ";
            whole += cause;
        }
        Some(whole)
    });
    let plain = || lines().filter(|line| !line.starts_with('{'));
    let telling = || {
        plain()
            .find(|line| line.contains("rror:") || line.contains("(Errno::"))
            .or_else(|| plain().next_back())
    };
    own.or_else(|| telling().map(str::to_owned)).unwrap_or_default()
}

/// The source tree in an image: how it lies in the container's own layer before the build begins.
pub struct Baked<'a> {
    stage: &'a Stage,
    image: String,
}

/// Their repository; the tag is the lab's process id.
const BAKED: &str = "fastbuild/lab-site";

/// Removes the images of labs that were killed.
///
/// # Errors
/// When the engine fails.
pub fn remove_leftovers() -> Result<()> {
    let tags = quiet_docker(&["images", "--format", "{{.Tag}}", BAKED])?;
    let mut dead = tags.lines().filter(|tag| is_dead(tag));
    dead.try_for_each(|tag| quiet_docker(&["rmi", &format!("{BAKED}:{tag}")]).map(drop))
}

/// Where a plain `docker run` has them.
const SOURCE: &str = "/tmp/source";
const DESTINATION: &str = "/tmp/site";

impl<'a> Baked<'a> {
    /// Makes it from the tree of its contender.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn new(stage: &'a Stage, ground: &Ground) -> Result<Baked<'a>> {
        let container = stage.container(&[])?;
        let source = ground.path(&tree_of(Row::Plain(Ends::ContainerToContainer))).join(".");
        let to = format!("{}:{SOURCE}", container.id);
        stage.docker(["exec", &container.id, "mkdir", "-p", SOURCE])?;
        stage.docker(["cp".as_ref(), source.as_os_str(), to.as_ref()])?;
        // Jekyll writes its cache there, whichever user runs it.
        stage.docker(["exec", &container.id, "chmod", "777", SOURCE])?;
        let image = format!("{BAKED}:{}", std::process::id());
        stage.docker(["commit", &container.id, &image])?;
        Ok(Baked { stage, image })
    }
}

impl Drop for Baked<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.stage.docker_always(&["rmi", &self.image]) {
            note(format_args!("could not remove image {}: {error:#}", self.image));
        }
    }
}

/// `jekyll build` of the whole site, as the seed's author ran it.
fn plain<'a>(stage: &'a Stage, ground: &'a Ground, baked: &'a Baked<'a>, ends: Ends) -> Contender<'a, Row> {
    let name = tree_of(Row::Plain(ends));
    let (source, destination) = (ground.path(&name), ground.path(&format!("{name}-out")));
    let mounts = match ends {
        Ends::ContainerToContainer => vec![],
        Ends::VolumeToContainer => vec![volume(&source, SOURCE)],
        Ends::VolumeToVolume => vec![volume(&source, SOURCE), volume(&destination, DESTINATION)],
    };
    let run = move |_| {
        let mut run = docker_run(stage, ground);
        for mount in &mounts {
            run.args(["-v", mount]);
        }
        run.arg(&baked.image).args(["jekyll", "build", "--quiet", "-s", SOURCE, "-d", DESTINATION]);
        stage.meter.run(&mut run).map(drop)
    };
    let seen = destination.clone();
    Contender::new(Row::Plain(ends), run)
        .prepared(move |_| {
            remove(&source.join(CACHE))?;
            remove(&destination)?;
            Ok(fs_err::create_dir(&destination)?)
        })
        .verified(move |_| match ends {
            Ends::VolumeToVolume => is_there(&seen.join("index.html")),
            // What the container had is gone with it.
            Ends::ContainerToContainer | Ends::VolumeToContainer => Ok(()),
        })
}

/// Jekyll keeps it in the source tree.
const CACHE: &str = ".jekyll-cache";
const SITE: &str = "_site";

/// The usual way: the project mounted, a container for each build.
fn mounted<'a>(stage: &'a Stage, ground: &'a Ground) -> Contender<'a, Row> {
    let tree = ground.path(&tree_of(Row::Mounted));
    let (edited, seen) = (tree.clone(), tree.clone());
    Contender::new(Row::Mounted, move |_| {
        let mut run = docker_run(stage, ground);
        run.args(["-w", WORKDIR, "-v", &volume(&tree, WORKDIR), &stage.image]).args(stage.workload.command);
        stage.meter.run(&mut run).map(drop)
    })
    .prepared(move |round| stage.edit(&edited, round))
    .verified(move |round| has_page(stage, &seen, round))
}

fn fastbuild<'a>(
    stage: &'a Stage,
    row: Row,
    project: &'a Project<'a>,
    route: Route,
    state: State,
) -> Contender<'a, Row> {
    let tree = &project.tree;
    let run = move |_| {
        let mut options = vec!["--route", route.name()];
        // Jekyll's cache is written beside the sources, which are read-only there but for outputs.
        options.extend((route == Route::MountSource).then_some(["--output", CACHE]).into_iter().flatten());
        options.extend((state == State::OneRun).then_some("--no-keep"));
        project.build(&options)
    };
    Contender::of(project, row, run)
        .prepared(move |round| {
            if state == State::OneRun {
                remove(&tree.join(SITE))?;
                remove(&tree.join(CACHE))?;
            }
            stage.edit(tree, round)
        })
        .verified(move |round| has_page(stage, tree, round))
}

/// `docker run`, before its own options.
fn docker_run(stage: &Stage, ground: &Ground) -> Command {
    let (label, pid) = stage.label();
    let mut run = docker(["run", "--rm", "--init", "--label", &format!("{label}={pid}")]);
    run.args(ground.place.user().map(|user| ["--user", user]).into_iter().flatten());
    run
}

fn volume(host: &Path, container: &str) -> String {
    format!("{}:{container}", host.to_string_lossy())
}

fn remove(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs_err::remove_dir_all(dir)?;
    }
    Ok(())
}

fn is_there(file: &Path) -> Result<()> {
    ensure!(file.is_file(), "there is no {file:?}");
    Ok(())
}

/// The page of the post that this round edited says so.
fn has_page(stage: &Stage, tree: &Path, round: u32) -> Result<()> {
    let page = tree.join(SITE).join(stage.site.page(round));
    let text = fs_err::read_to_string(&page)?;
    ensure!(text.contains(&stamp(round)), "{page:?} is not of round {round}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_tells_why_is_found_among_the_others() {
        for (said, expected) in [
            ("exit status: 1:\n    first\n    last\n", "last"),
            (
                "exit status: 1:\n  jekyll 4\n  x.rb:201:in `utime': Operation not permitted (Errno::EPERM)\n\tfrom y.rb:2\n",
                "x.rb:201:in `utime': Operation not permitted (Errno::EPERM)",
            ),
            (
                "exit status: 125:\n{\"fastbuild\":2,\"event\":\"planned\"}\n\
                 {\"fastbuild\":2,\"event\":\"error\",\"message\":\"could not write\",\"causes\":[\"no space\"]}\n",
                "could not write: no space",
            ),
            ("", ""),
        ] {
            assert_eq!(telling_line(said), expected);
        }
    }
}
