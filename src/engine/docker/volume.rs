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

/// Everything about a volume that is decided before it is made.
#[derive(Debug, Clone)]
pub struct VolumeSpec {
    /// Its name.
    pub name: String,
    /// For the engine's local driver, in order, later ones win; none makes it a directory on the engine's own disk.
    pub options: Vec<VolumeOption>,
    /// By which it is found again.
    pub labels: BTreeMap<String, String>,
}

/// A volume as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFacts {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Docker {
    /// Makes a volume, or leaves it as it is when there is one of that name; what is there tells by its labels.
    ///
    /// # Errors
    /// What befalls every request; a driver that refuses its options. Options of a share (`type=nfs`) are only tried when a
    /// container that uses the volume starts.
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

    /// What the engine knows of a volume; `None` when there is none.
    ///
    /// # Errors
    /// What befalls every request.
    pub async fn look_at_volume(&self, name: &str) -> Result<Option<VolumeFacts>, EngineError> {
        match self.client.inspect_volume(name).await {
            Ok(found) => Ok(Some(found.into())),
            Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(failed(Call::new(Operation::InspectVolume, name))(error)),
        }
    }

    /// Removes a volume with all that is in it, if it is `owned`; a share that it stands for is only let go.
    ///
    /// # Errors
    /// What befalls every request, and [`EngineError::Api`] while a container uses it; a volume that is gone is none.
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
    /// What befalls every request.
    pub async fn list_volumes(&self, labels: &[String]) -> Result<Vec<VolumeFacts>, EngineError> {
        self.list_volumes_by(("label", labels.to_vec()), labels).await
    }

    /// The same, of those that no container has, running or not. The engine is asked for these alone: with a label beside it,
    /// Podman would list all that have one or the other.
    ///
    /// # Errors
    /// What befalls every request.
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
