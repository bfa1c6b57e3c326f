//! What was measured of a project's routes, kept for the builds to come, with what it holds for. Whether it still does is
//! judged here; what follows from it, by [`super::advice`].

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    advice,
    report::{Extent, Report, Samples},
};
use crate::{
    engine::EngineFacts,
    facts::FileSystem,
    plan::Route,
    state::{read_json, replace_json},
};

/// Another one is not read.
const FORMAT: u32 = 1;

/// What a measurement holds for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    /// [`crate::facts::Machine::id`].
    pub machine: String,
    /// The engine; none where there is none.
    pub engine: Option<EngineId>,
    /// What the source root lies on; none where the system does not tell.
    pub file_system: Option<MountId>,
    /// The image; none on the host engine.
    pub image: Option<String>,
    /// The command's first word.
    pub command: String,
}

/// Which engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineId {
    /// Its address.
    pub address: String,
    /// Its kind, as it says.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// Which file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountId {
    /// As the kernel names it.
    pub kind: String,
    /// Where it is mounted.
    pub mount_point: PathBuf,
}

impl EngineId {
    /// Of the engine at `address`.
    pub fn of(address: String, facts: &EngineFacts) -> EngineId {
        EngineId { address, name: facts.name.clone(), version: facts.version.clone() }
    }
}

impl From<&FileSystem> for MountId {
    fn from(found: &FileSystem) -> MountId {
        MountId { kind: found.kind.clone(), mount_point: found.mount_point.clone() }
    }
}

impl fmt::Display for EngineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at {}", self.name, self.version, self.address)
    }
}

impl fmt::Display for MountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.kind, self.mount_point.to_string_lossy())
    }
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    version: u32,
    /// When, in seconds since 1970.
    pub made: u64,
    /// What it holds for.
    pub here: Here,
    /// How much was measured.
    pub extent: Extent,
    /// The routes on which the command ran, fastest first.
    pub ranking: Vec<(Route, Samples)>,
}

/// Why a profile does not hold here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The state directory came from elsewhere.
    #[error("measured on another machine")]
    Machine,
    /// Another engine, or another version of it.
    #[error("measured with another engine: {}, and here it is {}", named(then), named(now))]
    Engine {
        /// When it was measured.
        then: Option<EngineId>,
        /// Here.
        now: Option<EngineId>,
    },
    /// The sources lie on something else.
    #[error("measured on another file system: {}, and now it is {}", placed(then), placed(now))]
    FileSystem {
        /// When it was measured.
        then: Option<MountId>,
        /// Here.
        now: Option<MountId>,
    },
    /// Another image.
    #[error("measured in another image: {}, and now it is {}", or_none(then), or_none(now))]
    Image {
        /// When it was measured.
        then: Option<String>,
        /// Here.
        now: Option<String>,
    },
    /// Another tool.
    #[error("measured with another command: {then:?}, and now it is {now:?}")]
    Command {
        /// When it was measured.
        then: String,
        /// Here.
        now: String,
    },
}

fn named(engine: &Option<EngineId>) -> String {
    engine.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
}

fn placed(mount: &Option<MountId>) -> String {
    mount.as_ref().map_or_else(|| "one that is not told".to_owned(), ToString::to_string)
}

fn or_none(image: &Option<String>) -> &str {
    image.as_deref().unwrap_or("none")
}

impl Profile {
    /// Of a report whose command ran on some route; none otherwise.
    pub fn of(report: &Report, here: Here) -> Option<Profile> {
        let samples = |route| report.routes.iter().find(|row| row.route == route)?.result.done().cloned();
        let ranked = advice::rank_routes(report).into_iter();
        let ranking: Vec<_> = ranked.filter_map(|row| Some((row.what, samples(row.what)?))).collect();
        let profile = Profile { version: FORMAT, made: report.made, here, extent: report.extent, ranking };
        (!profile.ranking.is_empty()).then_some(profile)
    }

    /// What is kept at `path`; none when there is nothing, or nothing of this form.
    pub fn load(path: &Path) -> Option<Profile> {
        read_json(path).filter(|profile: &Profile| profile.version == FORMAT)
    }

    /// Keeps it in place of another one.
    ///
    /// # Errors
    /// What the system says.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        replace_json(path, self)
    }

    /// The routes that were measured, fastest first, if that holds for a build here.
    ///
    /// # Errors
    /// The first thing that is different.
    pub fn applies(&self, here: &Here) -> Result<&[(Route, Samples)], Mismatch> {
        let (then, now) = (self.here.clone(), here.clone());
        if then.machine != now.machine {
            return Err(Mismatch::Machine);
        }
        if then.engine != now.engine {
            return Err(Mismatch::Engine { then: then.engine, now: now.engine });
        }
        if then.file_system != now.file_system {
            return Err(Mismatch::FileSystem { then: then.file_system, now: now.file_system });
        }
        if then.image != now.image {
            return Err(Mismatch::Image { then: then.image, now: now.image });
        }
        if then.command != now.command {
            return Err(Mismatch::Command { then: then.command, now: now.command });
        }
        Ok(&self.ranking)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sample;

    fn here() -> Here {
        Here {
            machine: "0123456789abcdef".to_owned(),
            engine: Some(EngineId {
                address: "unix:///var/run/docker.sock".to_owned(),
                name: "Docker".to_owned(),
                version: "20.10.24".to_owned(),
            }),
            file_system: Some(MountId { kind: "fuse.sshfs".to_owned(), mount_point: "/home/me".into() }),
            image: Some("jekyll/jekyll:4".to_owned()),
            command: "jekyll".to_owned(),
        }
    }

    #[test]
    fn a_profile_is_kept_as_it_is_and_ranks_the_fastest_first() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("profile");
        assert_eq!(Profile::load(&path), None);
        let profile = Profile::of(&sample::report(), here()).unwrap();
        profile.save(&path).unwrap();
        assert_eq!(Profile::load(&path), Some(profile.clone()));
        let medians: Vec<_> = profile.ranking.iter().map(|(_, samples)| samples.median().unwrap()).collect();
        assert!(!medians.is_empty() && medians.is_sorted(), "{medians:?}");
        let other = std::fs::read_to_string(&path).unwrap().replace("\"version\":1", "\"version\":2");
        std::fs::write(&path, other).unwrap();
        assert_eq!(Profile::load(&path), None);
    }

    #[test]
    fn a_report_without_a_measured_route_makes_no_profile() {
        let mut report = sample::report();
        report.routes.clear();
        assert_eq!(Profile::of(&report, here()), None);
    }

    #[test]
    fn what_is_different_is_told() {
        let profile = Profile::of(&sample::report(), here()).unwrap();
        assert_eq!(profile.applies(&here()), Ok(&profile.ranking[..]));
        let engine = |version: &str| Some(EngineId { version: version.to_owned(), ..here().engine.unwrap() });
        let cases = [
            (Here { machine: "other".to_owned(), ..here() }, "measured on another machine"),
            (
                Here { engine: engine("24.0.5"), ..here() },
                "measured with another engine: Docker 20.10.24 at unix:///var/run/docker.sock, and here it is Docker 24.0.5 \
                 at unix:///var/run/docker.sock",
            ),
            (
                Here { engine: None, ..here() },
                "measured with another engine: Docker 20.10.24 at unix:///var/run/docker.sock, and here it is none",
            ),
            (
                Here {
                    file_system: Some(MountId { kind: "ext4".to_owned(), mount_point: "/".into() }),
                    ..here()
                },
                "measured on another file system: fuse.sshfs at /home/me, and now it is ext4 at /",
            ),
            (
                Here { image: None, ..here() },
                "measured in another image: jekyll/jekyll:4, and now it is none",
            ),
            (
                Here { command: "make".to_owned(), ..here() },
                "measured with another command: \"jekyll\", and now it is \"make\"",
            ),
        ];
        for (now, told) in cases {
            assert_eq!(profile.applies(&now).unwrap_err().to_string(), told);
        }
    }
}
