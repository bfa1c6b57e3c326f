//! Volumes: directories that the engine keeps outside of any container's layer.

use std::collections::{BTreeMap, HashMap};

use bollard::{
    errors::Error as BollardError,
    models::VolumeCreateRequest,
    query_parameters::{ListVolumesOptionsBuilder, RemoveVolumeOptionsBuilder},
};

use super::{
    client::{Docker, failed, removed},
    container::Removed,
    owned::{Owned, carries},
};
use crate::{
    engine::error::{Call, EngineError, Operation},
    spec::VolumeOption,
};

/// All settings of a volume that are decided before it is made.
#[derive(Debug, Clone)]
pub struct VolumeSpec {
    /// Its name.
    pub name: String,
    /// For the engine's local driver, in order, later ones win; without options the volume is a
    /// directory on the engine's own disk.
    pub options: Vec<VolumeOption>,
    /// The labels by which it is found again.
    pub labels: BTreeMap<String, String>,
}

/// An existing volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFacts {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Docker {
    /// Makes a volume, or returns the one that has this name; its labels tell which it is.
    ///
    /// # Errors
    /// The errors common to all requests; a driver that rejects its options. Options of a share
    /// (`type=nfs`) are not tried until a container that uses the volume starts.
    pub async fn create_volume(&self, spec: &VolumeSpec) -> Result<VolumeFacts, EngineError> {
        let options = spec.options.iter().map(|option| (option.key.clone(), option.value.clone()));
        let body = VolumeCreateRequest {
            name: Some(spec.name.clone()),
            driver: Some("local".to_owned()),
            driver_opts: Some(options.collect()),
            labels: Some(spec.labels.clone().into_iter().collect()),
            ..VolumeCreateRequest::default()
        };
        let made = self.client.create_volume(body).await;
        made.map(VolumeFacts::from).map_err(failed(Call::new(Operation::CreateVolume, &spec.name)))
    }

    /// The engine's data about a volume; `None` if it does not exist.
    ///
    /// # Errors
    /// The errors common to all requests.
    pub async fn look_at_volume(&self, name: &str) -> Result<Option<VolumeFacts>, EngineError> {
        match self.client.inspect_volume(name).await {
            Ok(found) => Ok(Some(found.into())),
            Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(failed(Call::new(Operation::InspectVolume, name))(error)),
        }
    }

    /// Removes an `owned` volume with its contents; if it stands for a share, the share's files
    /// stay.
    ///
    /// # Errors
    /// The errors common to all requests, and [`EngineError::Api`] while a container uses it. A
    /// volume that is gone is not an error.
    pub async fn remove_volume(&self, name: &str, owned: &Owned) -> Result<Removed, EngineError> {
        match self.look_at_volume(name).await? {
            None => return Ok(Removed::Already),
            Some(found) if !owned.is_said_by(&found.labels) => return Ok(Removed::NotOurs),
            Some(_) => {}
        }
        let options = RemoveVolumeOptionsBuilder::new().force(true).build();
        let answer = self.client.remove_volume(name, Some(options)).await;
        removed(answer, Call::new(Operation::RemoveVolume, name))
    }

    /// All volumes that carry each of `labels` (`NAME` or `NAME=VALUE`).
    ///
    /// # Errors
    /// The errors common to all requests.
    pub async fn list_volumes(&self, labels: &[String]) -> Result<Vec<VolumeFacts>, EngineError> {
        self.list_volumes_by(("label", labels.to_vec()), labels).await
    }

    /// As [`Docker::list_volumes`], but only volumes that no container has, running or not. The
    /// engine gets no other filter: with a label too, Podman lists volumes that match either one.
    ///
    /// # Errors
    /// The errors common to all requests.
    pub async fn list_unused_volumes(&self, labels: &[String]) -> Result<Vec<VolumeFacts>, EngineError> {
        self.list_volumes_by(("dangling", vec!["true".to_owned()]), labels).await
    }

    async fn list_volumes_by(
        &self,
        filter: (&str, Vec<String>),
        labels: &[String],
    ) -> Result<Vec<VolumeFacts>, EngineError> {
        let options = ListVolumesOptionsBuilder::new().filters(&HashMap::from([filter])).build();
        let listed = self.client.list_volumes(Some(options)).await;
        let listed = listed.map_err(failed(Call::new(Operation::ListVolumes, "")))?;
        let listed = listed.volumes.into_iter().flatten().map(VolumeFacts::from);
        Ok(listed.filter(|volume| carries(&volume.labels, labels)).collect())
    }
}

impl From<bollard::models::Volume> for VolumeFacts {
    fn from(found: bollard::models::Volume) -> VolumeFacts {
        VolumeFacts { name: found.name, labels: found.labels.into_iter().collect() }
    }
}
