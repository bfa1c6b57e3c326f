//! The container in which places are measured: one for all, with the agent as its only process.

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;
use futures_util::stream;
use tokio::io::AsyncWriteExt as _;

use crate::{
    agent::program::{self, NoAgent},
    bench::report::Place,
    engine::{
        AttachInput, AttachOutput, ContainerId, ContainerSpec, ContainerState, Docker, EngineError,
        Entrypoint, ImageFacts, Mount, MountAccess, Owned, StartError, VolumeContents, VolumeSpec,
    },
    measure::{
        Figures, Problem, Progress, Sizes,
        wire::{self, Ask, Medium, Told},
    },
    spec::{ContainerOptions, Stdin, Stream, Terminal},
    state::StateError,
    workspace::agent_archive,
};

/// Why there is no container to measure in, or it was lost.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The container's process.
    #[error(transparent)]
    Start(#[from] StartError),
    /// No agent runs there.
    #[error(transparent)]
    NoAgent(#[from] NoAgent),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The agent ended before it had answered.
    #[error("the agent ended while it measured{}", how(state, said))]
    Ended {
        /// The container's state.
        state: Option<ContainerState>,
        /// The agent's standard error.
        said: String,
    },
    /// No request can be sent to the agent.
    #[error("the agent takes no question: {0}")]
    NoQuestion(#[source] std::io::Error),
    /// The agent's reply cannot be parsed.
    #[error("could not parse the agent's reply: {0}")]
    BadAnswer(#[source] std::io::Error),
}

fn how(state: &Option<ContainerState>, said: &str) -> String {
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    match state {
        Some(state) if state.oom_killed => format!(", for want of memory{said}"),
        Some(state) if !state.running => format!(" with exit code {}{said}", state.exit_code),
        _ => said,
    }
}

/// Makes the empty image `name`, for the agent alone.
///
/// # Errors
/// The engine's.
pub async fn empty_image(
    docker: &Docker,
    name: &str,
    labels: &BTreeMap<String, String>,
) -> Result<ImageFacts, LabError> {
    let (repository, tag) = (format!("fastbuild/{name}"), "latest");
    docker.make_empty_image(&repository, tag, labels).await?;
    let reference = format!("{repository}:{tag}");
    let image = docker.image(&reference, None).await?;
    Ok(image.ok_or(EngineError::ImageNotFound {
        reference,
        message: "it was made, and has been removed since".to_owned(),
    })?)
}

/// A container in which places can be measured.
pub struct Lab {
    docker: Docker,
    container: ContainerId,
    owned: Owned,
    input: AttachInput,
    output: AttachOutput,
    received: Vec<u8>,
    said: String,
}

/// The parts of the container.
pub struct Materials<'a> {
    /// The engine.
    pub docker: &'a Docker,
    /// The name of the container and of its volume.
    pub name: String,
    /// The labels of both.
    pub labels: BTreeMap<String, String>,
    /// An image that the agent runs in.
    pub image: &'a ImageFacts,
    /// The tmpfs has this size.
    pub sizes: &'a Sizes,
    /// The directory of this machine that is mounted.
    pub bind: &'a Path,
}

/// A place's path in the container; none for one that is not in it.
pub fn directory(place: Place) -> Option<&'static str> {
    match place {
        Place::SourceDirectory => None,
        Place::Layer => Some("/fastbuild-bench/layer"),
        Place::Tmpfs => Some("/fastbuild-bench/tmpfs"),
        Place::Volume => Some("/fastbuild-bench/volume"),
        Place::BindMount => Some("/fastbuild-bench/mount"),
    }
}

impl Materials<'_> {
    /// A container with all of `places`. Those that the engine refuses are returned with the
    /// reason, and the others are there.
    ///
    /// # Errors
    /// When there is no container even without any mount.
    pub async fn open(&self, places: &[Place]) -> Result<(Lab, BTreeMap<Place, String>), LabError> {
        let mut refused = BTreeMap::new();
        if let Err(error) = self.make_volume(places).await {
            refused.insert(Place::Volume, error.to_string());
        }
        let mut wanted: Vec<_> =
            places.iter().copied().filter(|place| !refused.contains_key(place)).collect();
        let whole = match self.start(&wanted).await {
            Ok(lab) => return Ok((lab, refused)),
            Err(error) => error,
        };
        // To find which one is refused, each is tried in a container of its own.
        for &place in wanted.iter().filter(|place| **place != Place::Layer) {
            match self.start(&[place]).await {
                Ok(lab) => drop(lab.remove().await?),
                Err(error) => drop(refused.insert(place, error.to_string())),
            }
        }
        if refused.is_empty() {
            return Err(whole);
        }
        wanted.retain(|place| !refused.contains_key(place));
        Ok((self.start(&wanted).await?, refused))
    }

    async fn make_volume(&self, places: &[Place]) -> Result<(), LabError> {
        if !places.contains(&Place::Volume) {
            return Ok(());
        }
        let (name, labels) = (self.name.clone(), self.labels.clone());
        self.docker.create_volume(&VolumeSpec { name, options: Vec::new(), labels }).await?;
        Ok(())
    }

    async fn start(&self, places: &[Place]) -> Result<Lab, LabError> {
        let agent = program::for_platform(&self.image.os, &self.image.architecture)?;
        let container = self.docker.create(&self.spec(places)).await?;
        match self.furnish(&container, agent_archive(agent)).await {
            Ok(lab) => Ok(lab),
            Err(error) => {
                // If it cannot be removed now, it is removed with the rest.
                let _removed = self.docker.remove(container.as_str(), &Owned::of(&self.labels)).await;
                Err(error)
            }
        }
    }

    async fn furnish(&self, container: &ContainerId, agent: Bytes) -> Result<Lab, LabError> {
        self.docker.put(container, "/", stream::iter([Ok(agent)])).await?;
        let attached = self.docker.attach(container, Terminal::None, Stdin::Forward).await?;
        self.docker.start(container).await?;
        let input =
            attached.input.ok_or_else(|| LabError::NoQuestion(std::io::ErrorKind::NotConnected.into()))?;
        Ok(Lab {
            docker: self.docker.clone(),
            container: container.clone(),
            owned: Owned::of(&self.labels),
            input,
            output: attached.output,
            received: Vec::new(),
            said: String::new(),
        })
    }

    fn spec(&self, places: &[Place]) -> ContainerSpec {
        ContainerSpec {
            entrypoint: Entrypoint::Program(program::PATH.to_owned()),
            user: Some("0:0".to_owned()),
            labels: self.labels.clone(),
            stdin: Stdin::Forward,
            options: ContainerOptions::without_network(),
            mounts: places.iter().filter_map(|place| self.mount(*place)).collect(),
            ..ContainerSpec::new(self.name.clone(), self.image.id.clone(), vec!["measure".to_owned()])
        }
    }

    fn mount(&self, place: Place) -> Option<Mount> {
        let target = directory(place)?.to_owned();
        match place {
            Place::SourceDirectory | Place::Layer => None,
            // A tmpfs counts pages where a disk counts clusters; its metadata beside that is small.
            Place::Tmpfs => {
                Some(Mount::Tmpfs { target, size: Some(self.sizes.room().saturating_mul(5) / 4) })
            }
            Place::Volume => {
                let (name, contents) = (Some(self.name.clone()), VolumeContents::Empty);
                Some(Mount::Volume { name, target, contents, options: Vec::new() })
            }
            Place::BindMount => Some(Mount::Bind {
                source: self.bind.to_str()?.to_owned(),
                target,
                access: MountAccess::ReadWrite,
            }),
        }
    }
}

impl Lab {
    /// Measures a place in the container.
    ///
    /// # Errors
    /// When the container is lost; a failure of the place alone is in the reply.
    pub async fn measure(
        &mut self,
        directory: &str,
        medium: Medium,
        sizes: &Sizes,
        told: &mut dyn FnMut(Progress),
    ) -> Result<Result<Figures, Problem>, LabError> {
        self.ask(&Ask::Measure { directory: directory.to_owned(), medium, sizes: *sizes }).await?;
        loop {
            match self.next().await? {
                Told::Moved(progress) => told(progress),
                Told::Done(figures) => return Ok(Ok(figures)),
                Told::Failed(problem) => return Ok(Err(problem)),
                Told::Emptied => return Err(LabError::BadAnswer(std::io::ErrorKind::InvalidData.into())),
            }
        }
    }

    /// Removes all that is in a directory of the container.
    ///
    /// # Errors
    /// As [`Lab::measure`].
    pub async fn empty(&mut self, directory: &str) -> Result<Result<(), Problem>, LabError> {
        self.ask(&Ask::Empty { directory: directory.to_owned() }).await?;
        match self.next().await? {
            Told::Emptied => Ok(Ok(())),
            Told::Failed(problem) => Ok(Err(problem)),
            Told::Moved(_) | Told::Done(_) => {
                Err(LabError::BadAnswer(std::io::ErrorKind::InvalidData.into()))
            }
        }
    }

    async fn ask(&mut self, ask: &Ask) -> Result<(), LabError> {
        let bytes = wire::encoded(ask).map_err(LabError::NoQuestion)?;
        self.input.write_all(&bytes).await.map_err(LabError::NoQuestion)?;
        self.input.flush().await.map_err(LabError::NoQuestion)
    }

    async fn next(&mut self) -> Result<Told, LabError> {
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == wire::END) {
                let mut value: Vec<u8> = self.received.drain(..=end).collect();
                return wire::decoded(&mut value).map_err(LabError::BadAnswer);
            }
            match self.output.next().await? {
                Some((Stream::Stdout, bytes)) => self.received.extend_from_slice(&bytes),
                Some((Stream::Stderr, bytes)) => self.said.push_str(String::from_utf8_lossy(&bytes).trim()),
                None => {
                    let state = self.docker.state(&self.container).await.ok();
                    return Err(LabError::Ended { state, said: std::mem::take(&mut self.said) });
                }
            }
        }
    }

    /// Removes the container, with its layer and its tmpfs.
    ///
    /// # Errors
    /// The engine's.
    pub async fn remove(self) -> Result<(), LabError> {
        self.docker.remove(self.container.as_str(), &self.owned).await?;
        Ok(())
    }
}
