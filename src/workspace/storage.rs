//! Where a container stores what a build works on, beside its own layer: a tmpfs, a volume or the
//! host's own tree in the working directory's place ([`Route`]), and caches. In: a plan and an
//! image's facts. Out: mounts for a container's specification, and the volumes that must exist
//! first.
//!
//! A kept workspace's volume has the name of its container, and is removed with it. A one-run
//! container's volume has no name: the engine removes it with the container. A cache has a name
//! from its user, and its project's name too where it is not shared; it stays until it is pruned.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{BETWEEN_LOOKS, Keeping, WorkspaceError, owner};
use crate::{
    engine::{
        ContainerSpec, Docker, EngineError, Entrypoint, ImageFacts, Mount, MountAccess, Owned, Removed,
        VolumeContents, VolumeSpec, labels,
    },
    entry::RelPath,
    outputs::target::native_join,
    plan::{CachePath, Output, Outputs, Plan, Sharing},
    spec::{ContainerOptions, EnvVar, Route, VolumeOption},
    state::{Project, Run, State, StateError, read_json, replace_json},
    user,
    workspace::saved_state::now,
};

/// The prefix of a cache volume's name. The project (unless shared) and the cache's name follow.
pub const CACHE_PREFIX: &str = "fastbuild-cache-";

/// The home of a user without one or with `/`, where only root can write; every image can have it.
const HOME: &str = "/tmp/home";

/// How many times the removal of a volume in use is tried, [`BETWEEN_LOOKS`] apart.
const LOOKS: u32 = 50;

/// The storage of one container; the default is the layer alone.
#[derive(Debug, Clone, Default)]
pub struct Storage {
    /// In the working directory's place, the outer ones first.
    places: Vec<Mount>,
    /// The volume that those mounts need.
    volume: Option<VolumeSpec>,
    /// The driver options of the volume in the working directory's place.
    options: Vec<VolumeOption>,
    caches: Vec<CacheVolume>,
    /// The command's `HOME`, where the user's own home cannot hold a cache.
    home: Option<&'static str>,
    /// Directories that the build's user must own, the outer ones first: engines make them as root.
    ways: Vec<String>,
}

#[derive(Debug, Clone)]
struct CacheVolume {
    /// `None` for a kept path over a mounted source tree: its volume is removed with the container.
    volume: Option<VolumeSpec>,
    path: String,
    /// How many components of the path lie below a directory that the user owns anyway: the working
    /// directory or the home; 0 where it lies in neither.
    own: usize,
}

impl Storage {
    /// The storage of the container `name` for `plan`. The engine is asked only for the home
    /// directory of the build's user: where a cache lies in it, and once for an image.
    ///
    /// # Errors
    /// The engine's; a user that the image does not have.
    pub async fn of(
        docker: &Docker,
        plan: &Plan,
        image: &ImageFacts,
        keeping: &Keeping<'_>,
        (project, state): (&Project, &State),
        run: &Run,
    ) -> Result<Storage, WorkspaceError> {
        let name = keeping.name();
        let state_id = state.id()?;
        let of_project = format!("{}-{}", project.key(), owner(plan, project, state)?);
        let in_home = plan.caches.iter().any(|cache| matches!(cache.value.path, CachePath::Home(_)));
        let found = match in_home {
            true => home(docker, plan, image, project, run).await?,
            false => HOME.to_owned(),
        };
        let home = is_no_home(&found).then_some(HOME);
        let caches = plan.caches.iter().map(|cache| CacheVolume {
            volume: Some(VolumeSpec {
                name: match cache.value.sharing {
                    Sharing::Project => format!("{CACHE_PREFIX}{of_project}-{}", cache.value.name),
                    Sharing::All => format!("{CACHE_PREFIX}{}", cache.value.name),
                },
                options: Vec::new(),
                labels: labelled(&[(labels::TIER, labels::CACHE), (labels::STATE, &state_id)]),
            }),
            path: match &cache.value.path {
                CachePath::Absolute(path) => path.clone(),
                CachePath::Home(below) => format!("{}/{below}", home.unwrap_or(&found).trim_end_matches('/')),
            },
            own: match (&cache.value.path, &cache.value.below_source) {
                // A home directory that is made belongs to the user, too.
                (CachePath::Home(below), _) => below.split('/').count() + usize::from(home.is_some()),
                (CachePath::Absolute(_), below) => {
                    below.as_ref().map_or(0, |below| below.components().count())
                }
            },
        });
        let target = plan.workdir.value.clone();
        // Where a directory could be made for it; see `Placeholders`.
        let is_there = |path: &RelPath| {
            let place = native_join(&plan.source.value, path);
            place.symlink_metadata().is_ok_and(|found| found.is_dir())
        };
        let kept = plan.kept_over().into_iter().map(|kept| kept.value).filter(is_there);
        let kept = kept.map(|kept| CacheVolume { volume: None, path: format!("{target}/{kept}"), own: 0 });
        let caches: Vec<_> = caches.chain(kept).collect();
        let (mut places, mut volume, mut options) = (Vec::new(), None, Vec::new());
        match plan.route.value {
            Route::Tmpfs => {
                let size = plan.tmpfs_size.as_ref().map(|size| size.value);
                places.push(Mount::Tmpfs { target, size });
            }
            Route::Volume => {
                options = plan.volume_options.iter().map(|option| option.value.clone()).collect();
                let contents = VolumeContents::Empty;
                places.push(match keeping {
                    Keeping::Kept { .. } => {
                        let name = Some(name.to_owned());
                        Mount::Volume { name, target, contents, options: Vec::new() }
                    }
                    Keeping::OneRun { .. } => {
                        Mount::Volume { name: None, target, contents, options: options.clone() }
                    }
                });
                volume = matches!(keeping, Keeping::Kept { .. }).then(|| VolumeSpec {
                    name: name.to_owned(),
                    options: options.clone(),
                    labels: labelled(&[
                        (labels::TIER, labels::VOLUME),
                        (labels::PROJECT, project.key()),
                        keeping.label(),
                    ]),
                });
            }
            Route::MountSource | Route::Mount => places = binds(plan)?,
            Route::Layer | Route::Host => {}
        }
        let ways = ways(plan, &caches);
        Ok(Storage { places, volume, options, caches, home, ways })
    }

    /// The container's mounts, the outer ones first.
    pub fn mounts(&self) -> Vec<Mount> {
        let caches = self.caches.iter().map(|cache| Mount::Volume {
            name: cache.volume.as_ref().map(|volume| volume.name.clone()),
            target: cache.path.clone(),
            contents: VolumeContents::OfImage,
            options: Vec::new(),
        });
        self.places.iter().cloned().chain(caches).collect()
    }

    /// Variables that the command's environment has whatever the plan says.
    pub fn variables(&self) -> impl Iterator<Item = EnvVar> + use<> {
        self.home.map(|home| EnvVar { name: "HOME".to_owned(), value: home.to_owned() }).into_iter()
    }

    /// Where the caches lie: absolute paths.
    pub fn cache_paths(&self) -> impl Iterator<Item = &str> {
        self.caches.iter().map(|cache| cache.path.as_str())
    }

    /// The directories that belong to the build's user beside the tree and the caches, the outer
    /// ones first: those on the way to a cache from the working directory or the user's home, and
    /// volumes over outputs. Engines make them as root.
    pub fn ways(&self) -> &[String] {
        &self.ways
    }

    /// Whether the volume stands for a place outside of the engine, whose contents outlive the
    /// volume.
    pub fn is_shared(&self) -> bool {
        !self.options.is_empty()
    }

    /// Makes sure that all volumes exist.
    ///
    /// # Errors
    /// The errors of every request, and those of a volume driver; [`WorkspaceError::Foreign`].
    pub async fn provide(&self, docker: &Docker) -> Result<(), WorkspaceError> {
        for volume in self.caches.iter().filter_map(|cache| cache.volume.as_ref()) {
            docker.create_volume(volume).await?;
        }
        if let Some(volume) = &self.volume {
            // Left by a run killed before it had a container: an engine would reuse its contents
            // and options.
            match docker.remove_volume(&volume.name, &Owned::of(&volume.labels)).await {
                Ok(Removed::Now | Removed::Already) => {}
                Ok(Removed::NotOurs) => return Err(WorkspaceError::Foreign { name: volume.name.clone() }),
                Err(error) => {
                    tracing::warn!(volume = volume.name, %error, "could not remove the volume that was there");
                }
            }
            docker.create_volume(volume).await?;
        }
        Ok(())
    }

    /// Turns a container's error into the mount's, in the engine's words, where a mount caused it.
    pub fn blame(&self, error: WorkspaceError) -> WorkspaceError {
        if !self.places.iter().any(|place| matches!(place, Mount::Volume { .. } | Mount::Bind { .. })) {
            return error;
        }
        let message = match &error {
            WorkspaceError::Engine(EngineError::Api { message, .. }) => message,
            WorkspaceError::WithoutAgent(super::WithoutAgent::NotStarted { detail }) => detail,
            _ => return error,
        };
        if !message.contains("mount") && !message.contains("volume") {
            return error;
        }
        let message = without_secrets(message, &self.options);
        match self.places.first() {
            Some(Mount::Bind { source, .. }) => {
                WorkspaceError::NotMounted { path: source.into(), detail: message }
            }
            _ => WorkspaceError::Volume { message },
        }
    }
}

/// The mounts of a mounted route: the source tree, and a volume over each output that lies in it.
fn binds(plan: &Plan) -> Result<Vec<Mount>, WorkspaceError> {
    let access = match plan.route.value {
        Route::MountSource => MountAccess::ReadOnly,
        _ => MountAccess::ReadWrite,
    };
    let root = &plan.source.value;
    let source = root.to_str().ok_or_else(|| WorkspaceError::SourceNotText { path: root.clone() })?;
    let tree = Mount::Bind { source: source.to_owned(), target: plan.workdir.value.clone(), access };
    let volumes = laid_over(plan).map(|(output, _)| empty_volume(&output.container));
    Ok(std::iter::once(tree).chain(volumes).collect())
}

/// A volume that is removed with its container, and hides what lies under it at `target`.
pub(crate) fn empty_volume(target: &str) -> Mount {
    Mount::Volume {
        name: None,
        target: target.to_owned(),
        contents: VolumeContents::Empty,
        options: Vec::new(),
    }
}

/// The outputs in volumes over a source tree mounted read-only, and their places in the tree.
pub fn laid_over(plan: &Plan) -> impl Iterator<Item = (&Output, PathBuf)> {
    let named = match (plan.route.value, &plan.outputs.value) {
        (Route::MountSource, Outputs::Named(named)) => named.as_slice(),
        _ => &[],
    };
    let root = &plan.source.value;
    named.iter().filter_map(move |output| Some((output, native_join(root, output.below_source.as_ref()?))))
}

/// See [`Storage::ways`]. Directories in the host's own tree that lead to a cache stay the host's.
fn ways(plan: &Plan, caches: &[CacheVolume]) -> Vec<String> {
    let root = plan.workdir.value.as_str();
    let is_hosts = |way: &str| {
        plan.route.value.is_mounted() && way.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'))
    };
    let to_caches = caches.iter().flat_map(CacheVolume::ways).filter(|way| !is_hosts(way)).map(str::to_owned);
    let mut ways: Vec<_> =
        to_caches.chain(laid_over(plan).map(|(output, _)| output.container.clone())).collect();
    ways.sort();
    ways.dedup();
    ways
}

/// The engine's message about options, without secrets: engines remove some passwords, not all.
fn without_secrets(message: &str, options: &[VolumeOption]) -> String {
    let parts = options.iter().flat_map(|option| {
        let whole = (option.key.as_str(), option.value.as_str());
        std::iter::once(whole).chain(option.value.split(',').filter_map(|part| part.split_once('=')))
    });
    let is_secret = |name: &str| {
        let name = name.to_ascii_lowercase();
        ["pass", "secret", "cred", "key", "token"].iter().any(|word| name.contains(word))
    };
    let secrets = parts.filter(|(name, value)| is_secret(name) && !value.is_empty());
    secrets.fold(message.to_owned(), |message, (_, secret)| message.replace(secret, "…"))
}

/// Removes the volumes of a one-run container that is gone. A manual removal seldom includes them,
/// and an engine that was killed during a removal forgets them. A successful removal by this
/// process proves nothing: Docker reports success even if another client removed the container at
/// that moment.
///
/// # Errors
/// The engine's, where one of the volumes cannot be removed.
pub async fn remove_volumes(docker: &Docker, owned: &Owned) -> Result<(), EngineError> {
    let owned = owned.clone().and(labels::TIER, labels::VOLUME);
    for volume in docker.list_volumes(&owned.to_filter()).await? {
        let mut looks = 1;
        // After a container has removed itself, its volumes stay in use a moment longer.
        while let Err(error) = docker.remove_volume(&volume.name, &owned).await {
            if looks == LOOKS {
                return Err(error);
            }
            looks += 1;
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }
    Ok(())
}

impl CacheVolume {
    fn ways(&self) -> impl Iterator<Item = &str> {
        let ends = self.path.rmatch_indices('/').take(self.own.saturating_sub(1));
        ends.map(|(end, _)| &self.path[..end])
    }
}

/// The labels of an object: these, and the version that makes it.
pub(crate) fn labelled(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    let version = (labels::VERSION, env!("CARGO_PKG_VERSION"));
    labels.iter().chain([&version]).map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect()
}

/// A home directory from an image's tables.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    image: String,
    user: String,
    home: String,
}

fn is_no_home(home: &str) -> bool {
    !home.starts_with('/') || home.trim_matches('/').is_empty()
}

/// The home directory of the build's user: as the plan or the image sets it, or else from the
/// image's `/etc/passwd`. Reading that needs a container, so the result is saved.
async fn home(
    docker: &Docker,
    plan: &Plan,
    image: &ImageFacts,
    project: &Project,
    run: &Run,
) -> Result<String, WorkspaceError> {
    let named = plan.env.iter().rev().find(|variable| variable.value.name == "HOME");
    let of_plan = named.map(|variable| variable.value.value.as_str());
    let of_image = || image.env.iter().find_map(|variable| variable.strip_prefix("HOME="));
    if let Some(set) = of_plan.or_else(of_image) {
        return Ok(set.to_owned());
    }
    let user = plan.user.as_ref().map_or(&image.user, |user| &user.value);
    let path = project.home_path();
    let noted: Option<Note> = read_json(&path);
    if let Some(note) = noted.filter(|note| note.image == image.id && note.user == *user) {
        return Ok(note.home);
    }
    let account = probe(docker, image, user, run).await?;
    let home = String::from_utf8_lossy(&account.home).into_owned();
    let note = Note { image: image.id.clone(), user: user.clone(), home: home.clone() };
    replace_json(&path, &note).map_err(StateError::at("write", &path))?;
    Ok(home)
}

/// Reads an image's tables through a container that is never started.
async fn probe(
    docker: &Docker,
    image: &ImageFacts,
    user: &str,
    run: &Run,
) -> Result<user::Account, WorkspaceError> {
    let container = docker
        .create(&ContainerSpec {
            entrypoint: Entrypoint::None,
            labels: labelled(&[
                (labels::RUN, &run.id),
                (labels::TIER, labels::ONE_RUN),
                (labels::CREATED, &now().to_string()),
            ]),
            options: ContainerOptions::without_network(),
            ..ContainerSpec::new(
                format!("fastbuild-probe-{}", run.id),
                image.id.clone(),
                vec!["/".to_owned()],
            )
        })
        .await?;
    let tables = docker.user_tables(&container).await;
    docker.remove(container.as_str(), &Owned::by_run(&run.id)).await?;
    let (passwd, group) = tables?;
    Ok(user::account(user, passwd.as_deref(), group.as_deref())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_says_is_told_without_passwords() {
        let option = |key: &str, value: &str| VolumeOption { key: key.to_owned(), value: value.to_owned() };
        let options = [
            option("type", "cifs"),
            option("device", "//server/share"),
            option("o", "addr=10.0.0.1,username=me,Password=hunter2,vers=3.0"),
            option("token", "abc123"),
            option("password", ""),
        ];
        let said = "mount //server/share, data: username=me,Password=hunter2 (abc123): permission denied";
        assert_eq!(
            without_secrets(said, &options),
            "mount //server/share, data: username=me,Password=… (…): permission denied"
        );
        assert_eq!(without_secrets(said, &options[..2]), said);
    }

    #[test]
    fn the_ways_to_caches_are_those_below_what_is_the_users() {
        let cache = |path: &str, own| CacheVolume { volume: None, path: path.to_owned(), own };
        let caches = [
            cache("/workspace/a/b/c", 3),
            cache("/workspace/a/d", 2),
            cache("/workspace/e", 1),
            cache("/var/cache/f", 0),
            cache("/home/app/.cache/g", 2),
        ];
        let mut ways: Vec<_> = caches.iter().flat_map(CacheVolume::ways).collect();
        ways.sort();
        ways.dedup();
        assert_eq!(ways, ["/home/app/.cache", "/workspace/a", "/workspace/a/b"]);
    }
}
