//! What has a turn in each round: the seed's three ways by plain `docker run`, and fastbuild on each route.

use super::place::Place;
use crate::bench::contender::Named;

/// A contender of the laboratory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// `docker run`, as the seed's author did.
    Plain(Ends),
    /// `docker run` with the whole project mounted, one post edited, all products of the last build there.
    Mounted,
    /// fastbuild.
    Fastbuild(Route, State),
    /// fastbuild by `layer`, with a kept workspace, on the machine that lends its directory to the mount: where people run it who have Lima or
    /// Colima.
    Lender,
}

/// Where `jekyll build` reads, and where it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ends {
    /// Both in the container's own layer.
    ContainerToContainer,
    /// The source is mounted.
    VolumeToContainer,
    /// Both are mounted.
    VolumeToVolume,
}

/// `--route`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    /// What a plain run takes.
    Auto,
    /// The container's own layer.
    Layer,
    /// A tmpfs.
    Tmpfs,
    /// A named volume.
    Volume,
    /// The source mounted, products not.
    MountSource,
    /// Everything mounted.
    Mount,
    /// No container.
    Host,
}

/// What is there before a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// No workspace and no product.
    OneRun,
    /// Everything, and one post is edited.
    Kept,
}

impl Ends {
    /// All of them.
    pub const ALL: [Ends; 3] = [Ends::ContainerToContainer, Ends::VolumeToContainer, Ends::VolumeToVolume];

    /// As the seed has it.
    pub fn name(self) -> &'static str {
        match self {
            Ends::ContainerToContainer => "container → container",
            Ends::VolumeToContainer => "volume → container",
            Ends::VolumeToVolume => "volume → volume",
        }
    }
}

impl Route {
    /// What a plain run takes, and all that it takes it from.
    pub const ALL: [Route; 7] = [
        Route::Auto,
        Route::Layer,
        Route::Tmpfs,
        Route::Volume,
        Route::MountSource,
        Route::Mount,
        Route::Host,
    ];

    /// As `--route` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Route::Auto => "auto",
            Route::Layer => "layer",
            Route::Tmpfs => "tmpfs",
            Route::Volume => "volume",
            Route::MountSource => "mount-source",
            Route::Mount => "mount",
            Route::Host => "host",
        }
    }
}

impl State {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            State::OneRun => "one run",
            State::Kept => "kept workspace",
        }
    }
}

impl Row {
    /// All that there are in a place, in the page's order. What `auto` takes is one of the others; it is measured with a kept workspace alone.
    pub fn of(place: Place) -> Vec<Row> {
        let of = |route| [Row::Fastbuild(route, State::OneRun), Row::Fastbuild(route, State::Kept)];
        let plain = Ends::ALL.map(Row::Plain).into_iter().chain([Row::Mounted]);
        let routes = Route::ALL.into_iter().flat_map(of);
        let rows = plain.chain(routes).filter(|row| *row != Row::Fastbuild(Route::Auto, State::OneRun));
        rows.chain((place == Place::Sshfs).then_some(Row::Lender)).collect()
    }
}

impl Named for Row {
    fn name(&self) -> String {
        match self {
            Row::Plain(ends) => format!("`docker run`, {}", ends.name()),
            Row::Mounted => "`docker run`, the project mounted, one post edited".to_owned(),
            Row::Lender => {
                "fastbuild `--route layer`, kept workspace, run where the directory is a local disk"
                    .to_owned()
            }
            Row::Fastbuild(route, state) => format!("fastbuild `--route {}`, {}", route.name(), state.name()),
        }
    }
}
