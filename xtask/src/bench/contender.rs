//! What is measured, as data: each contender has a name, a preparation, the part that is timed, and a look at the result.
//! The laboratory ([`crate::lab`]) has contenders of its own.

use anyhow::{Context, Result};

use super::stage::Project;

/// A contender of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// The base line: the command in the container that fastbuild keeps.
    Exec,
    /// Nothing changed since the last build.
    KeptNoop,
    /// The same beside as many products as there are sources.
    KeptProducts,
    /// One file was edited.
    KeptOne,
    /// A hundred files were edited.
    KeptHundred,
    /// Another branch was checked out.
    KeptCheckout,
    /// The command makes one file anew.
    KeptProduct,
    /// A container that does not stay.
    OneRun,
    /// What no build for one run can go below.
    Floor,
    /// The first build of a project, which stays.
    First,
    /// The same by hand.
    FirstTar,
    /// All of the tree goes up into a workspace that is there.
    Upload,
    /// The same by hand.
    UploadTar,
    /// As many products as the tree has files come back.
    Collect,
    /// The same by hand.
    CollectTar,
    /// A mount, and a container that is there.
    MountExec,
    /// A mount, and a container for each build.
    MountRun,
    /// `rsync` both ways.
    Rsync,
    /// `tar` both ways.
    Tar,
    /// `docker cp` both ways.
    DockerCp,
    /// An image is built, and its files are put out.
    BuildKit,
}

/// How often a contender has its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// In each round.
    Often,
    /// In some of them: it takes long.
    Seldom,
}

impl What {
    /// The name, for the tables.
    pub fn name(self) -> &'static str {
        match self {
            What::Exec => "`docker exec`, sources there already",
            What::KeptNoop => "fastbuild, nothing changed",
            What::KeptProducts => "fastbuild, nothing changed, `-o` of as many products",
            What::KeptOne => "fastbuild, one file edited",
            What::KeptHundred => "fastbuild, 100 files edited",
            What::KeptCheckout => "fastbuild, `git checkout`, a third of the files",
            What::KeptProduct => "fastbuild, one product comes back",
            What::OneRun => "fastbuild, one run (`--no-keep`)",
            What::Floor => "floor of a build for one run (plain API calls)",
            What::First => "fastbuild, first build",
            What::FirstTar => "first build by hand: `docker run -d`, `tar` in, `docker exec`",
            What::Upload => "fastbuild, whole tree up",
            What::UploadTar => "`tar` piped in, nothing run",
            What::Collect => "fastbuild, as many products back",
            What::CollectTar => "`tar` piped out, nothing run",
            What::MountExec => "bind mount, `docker exec`",
            What::MountRun => "bind mount, `docker run --rm`",
            What::Rsync => "`rsync` in, `docker exec`, `rsync` out",
            What::Tar => "`tar` in, `docker exec`, `tar` out",
            What::DockerCp => "`docker cp` in, `docker exec`, `docker cp` out",
            What::BuildKit => "BuildKit, `--output type=local`",
        }
    }

    /// A word or two, for the plot.
    pub fn short_name(self) -> &'static str {
        match self {
            What::Exec => "docker exec",
            What::KeptNoop => "fastbuild, no change",
            What::KeptProducts => "fastbuild, products",
            What::KeptOne => "fastbuild, 1 edit",
            What::KeptHundred => "fastbuild, 100 edits",
            What::KeptCheckout => "fastbuild, git checkout",
            What::KeptProduct => "fastbuild, 1 product",
            What::OneRun => "fastbuild, one run",
            What::Floor => "floor of one run",
            What::First => "fastbuild, first build",
            What::FirstTar => "run, tar in, exec",
            What::Upload => "fastbuild, all up",
            What::UploadTar => "tar in alone",
            What::Collect => "fastbuild, all back",
            What::CollectTar => "tar out alone",
            What::MountExec => "mount, docker exec",
            What::MountRun => "mount, docker run",
            What::Rsync => "rsync, 1 edit",
            What::Tar => "tar, 1 edit",
            What::DockerCp => "docker cp, 1 edit",
            What::BuildKit => "BuildKit, 1 edit",
        }
    }

    /// Whose work it is.
    pub fn is_fastbuild(self) -> bool {
        self.name().starts_with("fastbuild")
    }

    /// How often it has its turn.
    pub fn pace(self) -> Pace {
        match self {
            What::Exec
            | What::KeptNoop
            | What::KeptProducts
            | What::KeptOne
            | What::KeptHundred
            | What::KeptProduct
            | What::MountExec => Pace::Often,
            _ => Pace::Seldom,
        }
    }
}

/// What stands for a contender in tables and messages.
pub trait Named {
    /// Its name.
    fn name(&self) -> String;
}

impl Named for What {
    fn name(&self) -> String {
        What::name(*self).to_owned()
    }
}

/// One step of a contender in a round.
type Step<'a> = Box<dyn Fn(u32) -> Result<()> + 'a>;

/// A contender with what it does.
pub struct Contender<'a, W = What> {
    /// Which one.
    pub what: W,
    /// Whose report has more about it.
    pub project: Option<&'a Project<'a>>,
    prepare: Option<Step<'a>>,
    run: Step<'a>,
    verify: Option<Step<'a>>,
}

impl<'a, W: Named> Contender<'a, W> {
    /// One of which `run` is timed.
    pub fn new(what: W, run: impl Fn(u32) -> Result<()> + 'a) -> Contender<'a, W> {
        Contender { what, project: None, prepare: None, run: Box::new(run), verify: None }
    }

    /// One that runs fastbuild in `project`.
    pub fn of(project: &'a Project<'a>, what: W, run: impl Fn(u32) -> Result<()> + 'a) -> Contender<'a, W> {
        Contender { project: Some(project), ..Contender::new(what, run) }
    }

    /// What happens before its turn.
    pub fn prepared(self, prepare: impl Fn(u32) -> Result<()> + 'a) -> Contender<'a, W> {
        Contender { prepare: Some(Box::new(prepare)), ..self }
    }

    /// What has to hold after its turn: nothing is measured that did not work.
    pub fn verified(self, verify: impl Fn(u32) -> Result<()> + 'a) -> Contender<'a, W> {
        Contender { verify: Some(Box::new(verify)), ..self }
    }

    /// One turn; `timed` is handed the part that counts.
    ///
    /// # Errors
    /// Names the contender and which part of its turn failed.
    pub fn turn<T>(&self, round: u32, timed: impl FnOnce(&dyn Fn() -> Result<()>) -> Result<T>) -> Result<T> {
        let part = |part: &str| format!("{}, round {round}: {part}", self.what.name());
        let step = |step: &Option<Step<'a>>| step.as_ref().map_or(Ok(()), |step| step(round));
        step(&self.prepare).with_context(|| part("could not be prepared"))?;
        let value = timed(&|| (self.run)(round)).with_context(|| part("failed"))?;
        step(&self.verify).with_context(|| part("ended well, and its result is wrong"))?;
        Ok(value)
    }
}
