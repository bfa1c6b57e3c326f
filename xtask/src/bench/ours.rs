//! fastbuild's contenders, and those that do by hand exactly what one of them does.

use std::{cell::RefCell, path::Path, process::Command};

use anyhow::{Result, ensure};

use super::{
    contender::{Contender, What},
    stage::{Container, Project, Stage, WORKDIR, docker, stamp},
};
use crate::site;

/// Builds of one project whose workspace stays, and the same command in that workspace.
pub fn kept<'a>(stage: &'a Stage, project: &'a Project<'a>) -> Vec<Contender<'a>> {
    let exec = Contender::new(What::Exec, move |_| stage.exec(&project.workspace())).prepared(move |_| {
        // A project's first build makes the workspace.
        if project.find_workspace().is_err() {
            project.build(&[])?;
        }
        project.find_workspace()
    });
    let noop = Contender::of(project, What::KeptNoop, move |_| project.build(&[]))
        .verified(move |_| project.last().by_agent());
    let one = Contender::of(project, What::KeptOne, move |_| project.build(&[]))
        .prepared(move |round| stage.edit(&project.tree, round))
        .verified(move |round| {
            went_up(stage, project, &[stage.edited(round)])?;
            match stage.workload.output {
                Some(output) => stage.built(&project.tree, &project.tree.join(output), round),
                None => Ok(()),
            }
        });
    vec![exec, noop, one]
}

/// More builds of the same project, where everything that the command changes comes back.
pub fn kept_further<'a>(stage: &'a Stage, project: &'a Project<'a>) -> Vec<Contender<'a>> {
    let hundred = Contender::of(project, What::KeptHundred, move |_| project.build(&[]))
        .prepared(move |round| {
            let paths = stage.site.spread(100, round);
            paths.iter().try_for_each(|path| site::edit(&project.tree.join(path), &stamp(round)))
        })
        .verified(move |round| went_up(stage, project, &stage.site.spread(100, round)));
    let product = Contender::of(project, What::KeptProduct, move |round| {
        project.fastbuild(&[], &["sh", "-c", &format!("echo '{}' > product.txt", stamp(round))])
    })
    .verified(move |round| {
        project.last().by_agent()?;
        let came = fs_err::read_to_string(project.tree.join("product.txt"))?;
        ensure!(came.trim_end() == stamp(round), "product.txt holds {came:?}");
        Ok(())
    });
    vec![hundred, product]
}

/// Builds that find all of their products up to date, as many as the tree has files.
///
/// # Errors
/// When the first build fails.
pub fn products<'a>(project: &'a Project<'a>) -> Result<Contender<'a>> {
    let output = ["--output", "out"];
    project.fastbuild(&output, &["sh", "-c", "cp -a . ../copy && mv ../copy out"])?;
    ensure!(project.tree.join("out").is_dir(), "no products came back");
    Ok(Contender::of(project, What::KeptProducts, move |_| project.fastbuild(&output, &["true"]))
        .verified(move |_| project.last().by_agent()))
}

fn went_up(stage: &Stage, project: &Project<'_>, paths: &[String]) -> Result<()> {
    project.last().by_agent()?;
    project.find_workspace()?;
    stage.same_files_in(&project.workspace(), &project.tree, paths)
}

/// A build that keeps nothing.
pub fn one_run<'a>(stage: &'a Stage, project: &'a Project<'a>) -> Contender<'a> {
    Contender::of(project, What::OneRun, move |_| project.build(&["--no-keep"])).verified(move |round| {
        let (sent, least) = (project.last().uploaded, u64::from(stage.site.count()));
        ensure!(sent >= least, "{sent} files of {least} were sent");
        let Some(output) = stage.workload.output else { return Ok(()) };
        let index = project.tree.join(output).join("index.html");
        ensure!(index.is_file(), "there is no {index:?} after round {round}");
        Ok(())
    })
}

/// A build after the checkout of another branch, which differs in every third file.
///
/// # Errors
/// When the repository cannot be made.
pub fn checkout<'a>(stage: &'a Stage, project: &'a Project<'a>) -> Result<Contender<'a>> {
    let git = move |words: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"]);
        git.args(["-c", "core.compression=0"]).args(words).current_dir(&project.tree);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        stage.meter.run(&mut git).map(drop)
    };
    git(&["init", "-q", "-b", BRANCHES[0]])?;
    git(&["add", "--all"])?;
    git(&["commit", "-q", "-m", "One"])?;
    git(&["checkout", "-q", "-b", BRANCHES[1]])?;
    for n in (0..stage.site.files).step_by(3) {
        site::edit(&project.tree.join(site::path(n)), "on another branch")?;
    }
    git(&["commit", "-q", "-a", "-m", "Another"])?;
    // Packed, as a clone is: thousands of loose objects would be a tree of their own.
    git(&["repack", "-q", "-a", "-d"])?;
    project.build(&[])?;
    Ok(Contender::of(project, What::KeptCheckout, move |_| project.build(&[]))
        .prepared(move |_| {
            let head = fs_err::read_to_string(project.tree.join(".git/HEAD"))?;
            let there = BRANCHES.iter().position(|branch| head.trim_end().ends_with(branch)).unwrap_or(0);
            git(&["checkout", "-q", BRANCHES[1 - there]])
        })
        .verified(move |_| {
            project.last().by_agent()?;
            project.find_workspace()?;
            stage.same_in(&project.workspace(), &project.tree)
        }))
}

const BRANCHES: [&str; 2] = ["one", "another"];

/// First builds: by fastbuild, and by hand.
pub fn first<'a>(
    stage: &'a Stage,
    project: &'a Project<'a>,
    by_hand: &'a RefCell<Option<Container>>,
) -> Vec<Contender<'a>> {
    let ours = Contender::of(project, What::First, move |_| project.build(&[]))
        .prepared(move |_| project.forget())
        .verified(move |_| {
            project.last().by_agent()?;
            project.find_workspace()?;
            stage.same_in(&project.workspace(), &project.tree)
        });
    let theirs = Contender::new(What::FirstTar, move |_| {
        let container = stage.container(&[])?;
        let id = container.id.clone();
        *by_hand.borrow_mut() = Some(container);
        tar_in(stage, &project.tree, &id)?;
        stage.exec(&id)
    })
    .prepared(move |_| {
        by_hand.take();
        Ok(())
    })
    .verified(move |_| match &*by_hand.borrow() {
        Some(container) => stage.same_in(&container.id, &project.tree),
        None => Ok(()),
    });
    vec![ours, theirs]
}

/// The whole tree into a workspace that was emptied: by fastbuild, and by `tar` alone into the same container.
///
/// # Errors
/// When the first build fails.
pub fn upload<'a>(stage: &'a Stage, project: &'a Project<'a>) -> Result<Vec<Contender<'a>>> {
    project.build(&[])?;
    let emptied = move |_| {
        project.find_workspace()?;
        let find = ["find", WORKDIR, "-mindepth", "1", "-delete"];
        stage.docker([&["exec", &project.workspace()], &find[..]].concat()).map(drop)
    };
    let whole = move |_| stage.same_in(&project.workspace(), &project.tree);
    let ours =
        Contender::of(project, What::Upload, move |_| project.build(&[])).prepared(emptied).verified(whole);
    let theirs = Contender::new(What::UploadTar, move |_| tar_in(stage, &project.tree, &project.workspace()))
        .prepared(emptied)
        .verified(whole);
    Ok(vec![ours, theirs])
}

/// A copy of the whole tree, made once by the build, comes back to where nothing is.
///
/// # Errors
/// When the first build fails.
pub fn collect<'a>(stage: &'a Stage, project: &'a Project<'a>) -> Result<Vec<Contender<'a>>> {
    let (back, by_tar) = (stage.path("collected"), stage.path("collected-by-tar"));
    let output = format!("out:{}", back.to_string_lossy());
    let copy = "cp -a . ../copy && mv ../copy out";
    project.fastbuild(&["--output", &output], &["sh", "-c", copy])?;
    let gone = |dir: &Path| if dir.exists() { fs_err::remove_dir_all(dir) } else { Ok(()) };
    let (seen, seen_by_tar) = (back.clone(), by_tar.clone());
    let ours =
        Contender::of(project, What::Collect, move |_| project.fastbuild(&["--output", &output], &["true"]))
            .prepared(move |_| Ok(gone(&back)?))
            .verified(move |_| stage.same(&project.tree, &seen));
    let theirs = Contender::new(What::CollectTar, move |_| {
        fs_err::create_dir(&by_tar)?;
        tar_out(stage, &project.workspace(), &format!("{WORKDIR}/out"), &by_tar)
    })
    .prepared({
        let dir = seen_by_tar.clone();
        move |_| {
            project.find_workspace()?;
            Ok(gone(&dir)?)
        }
    })
    .verified(move |_| stage.same(&project.tree, &seen_by_tar));
    Ok(vec![ours, theirs])
}

/// `tar` of a directory here into one of the container's.
pub fn tar_in(stage: &Stage, tree: &Path, container: &str) -> Result<()> {
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(tree).args(["-c", "."]);
    let mut unpack = docker(["exec", "-i", container, "tar", "-C", WORKDIR, "-x"]);
    stage.meter.pipe(&mut pack, &mut unpack)
}

/// `tar` of a directory of the container's into one here.
pub fn tar_out(stage: &Stage, container: &str, from: &str, to: &Path) -> Result<()> {
    let mut unpack = Command::new("tar");
    unpack.arg("-C").arg(to).arg("-x");
    stage.meter.pipe(&mut docker(["exec", container, "tar", "-C", from, "-c", "."]), &mut unpack)
}
