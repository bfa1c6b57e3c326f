//! Images: those that the engine has, and how it gets others.

use std::collections::BTreeMap;

use bollard::{
    auth::DockerCredentials,
    body_full,
    errors::Error as BollardError,
    models::{CreateImageInfo, ImageInspect},
    query_parameters::{CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder},
};
use bytes::Bytes;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use futures_util::StreamExt;

use super::{
    client::{Docker, failed, removed},
    container::Removed,
    owned::{Owned, carries},
};
use crate::engine::{
    error::{Call, EngineError, Operation, plain},
    reference::Reference,
};

/// An image's description of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// Its id. Unlike a tag, an id never changes to another image.
    pub id: String,
    /// `linux`, `windows`.
    pub os: String,
    /// In Go's words: `amd64`, `arm64`.
    pub architecture: String,
    /// For example `v8`; empty for most.
    pub variant: String,
    /// `USER[:GROUP]`; empty is root.
    pub user: String,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// The program in front of a command; empty if the image sets none.
    pub entrypoint: Vec<String>,
    /// The command that runs if the user names none.
    pub command: Vec<String>,
    /// The directory in which it runs; empty is `/`.
    pub working_dir: String,
    /// All its labels.
    pub labels: BTreeMap<String, String>,
}

/// Progress of one layer, in the engine's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// The layer's id; empty for messages about the whole image.
    pub layer: String,
    /// The current step.
    pub status: String,
    /// Bytes done.
    pub current: u64,
    /// Bytes in total, if the registry said so.
    pub total: Option<u64>,
}

impl Docker {
    /// Looks an image up on the engine; no registry is asked. `None`: the engine does not have it,
    /// or has it only for another platform than `platform` (`os/arch[/variant]`).
    ///
    /// # Errors
    /// [`EngineError::BadReference`], and the errors common to all requests.
    pub async fn image(
        &self,
        reference: &str,
        platform: Option<&str>,
    ) -> Result<Option<ImageFacts>, EngineError> {
        let name = checked(reference)?.to_string();
        let facts = match self.client.inspect_image(&name).await {
            Ok(image) => ImageFacts::from(image),
            Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
            Err(error) => return Err(failed(Call::new(Operation::InspectImage, name))(error)),
        };
        Ok(Some(facts).filter(|facts| platform.is_none_or(|platform| facts.is_for(platform))))
    }

    /// Makes the engine pull an image from its registry, with the credentials of `docker login`.
    ///
    /// # Errors
    /// [`EngineError::ImageNotFound`], [`AccessDenied`](EngineError::AccessDenied),
    /// [`RegistryUnreachable`](EngineError::RegistryUnreachable) and similar ones.
    pub async fn pull(
        &self,
        reference: &str,
        platform: Option<&str>,
        mut progress: impl FnMut(PullProgress) + Send,
    ) -> Result<(), EngineError> {
        let parsed = checked(reference)?;
        let (Some((name, version)), Some(registry)) = (parsed.to_pull(), parsed.registry()) else {
            return Err(EngineError::PullById { reference: reference.to_owned() });
        };
        let credentials = credentials_for(registry).await;
        let options = CreateImageOptionsBuilder::new()
            .from_image(&name)
            .tag(&version)
            .platform(platform.unwrap_or(""))
            .build();
        let call = || Call::new(Operation::Pull, &parsed);
        let mut lines = self.client.create_image(Some(options), None, credentials);
        while let Some(line) = lines.next().await {
            match line {
                Ok(line) => progress(PullProgress::from(line)),
                Err(BollardError::DockerStreamError { error }) => {
                    return Err(EngineError::from_pull(call(), 200, &error));
                }
                Err(BollardError::DockerResponseServerError { status_code, message }) => {
                    return Err(EngineError::from_pull(call(), status_code, &message));
                }
                Err(error) => return Err(failed(call())(error)),
            }
        }
        Ok(())
    }
}

/// An archive without entries: only its end marker.
const EMPTY_ARCHIVE: &[u8] = &[0; 1024];

impl Docker {
    /// Makes an image named `REPOSITORY:TAG` that holds only `labels`; no registry is asked. The
    /// values of `labels` must not contain quotes.
    ///
    /// # Errors
    /// The errors common to all requests.
    pub async fn make_empty_image(
        &self,
        repository: &str,
        tag: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), EngineError> {
        let changes = labels.iter().map(|(name, value)| format!("LABEL {name}=\"{value}\"")).collect();
        let options =
            CreateImageOptionsBuilder::new().from_src("-").repo(repository).tag(tag).changes(changes).build();
        let call = || Call::new(Operation::ImportImage, format!("{repository}:{tag}"));
        let body = body_full(Bytes::from_static(EMPTY_ARCHIVE));
        let mut lines = self.client.create_image(Some(options), Some(body), None);
        while let Some(line) = lines.next().await {
            match line {
                Ok(_) => {}
                Err(BollardError::DockerStreamError { error }) => {
                    return Err(EngineError::BadAnswer { call: call(), message: plain(&error) });
                }
                Err(error) => return Err(failed(call())(error)),
            }
        }
        Ok(())
    }

    /// Removes an image by its id, if it is `owned`. Without force: with force, Podman removes all
    /// containers that use the image, also those of other users.
    ///
    /// # Errors
    /// The errors common to all requests, and [`EngineError::Api`] while a container uses the
    /// image, or if it was given another name. An image that is gone is not an error.
    pub async fn remove_image(&self, id: &str, owned: &Owned) -> Result<Removed, EngineError> {
        match self.image(id, None).await? {
            None => return Ok(Removed::Already),
            Some(found) if !owned.is_said_by(&found.labels) => return Ok(Removed::NotOurs),
            Some(_) => {}
        }
        let options = RemoveImageOptionsBuilder::new().build();
        let answer = self.client.remove_image(id, Some(options), None).await;
        removed(answer, Call::new(Operation::RemoveImage, id))
    }

    /// Ids and labels of all images that carry each of `labels` (`NAME` or `NAME=VALUE`).
    ///
    /// # Errors
    /// The errors common to all requests.
    pub async fn list_images(
        &self,
        labels: &[String],
    ) -> Result<Vec<(String, BTreeMap<String, String>)>, EngineError> {
        let filters = [("label", labels.to_vec())].into();
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let listed = self.client.list_images(Some(options)).await;
        let listed = listed.map_err(failed(Call::new(Operation::ListImages, "")))?;
        let listed = listed.into_iter().map(|image| (image.id, image.labels.into_iter().collect()));
        Ok(listed.filter(|(_, found)| carries(found, labels)).collect())
    }
}

fn checked(reference: &str) -> Result<Reference, EngineError> {
    Reference::parse(reference)
        .map_err(|why| EngineError::BadReference { reference: reference.to_owned(), why })
}

/// The credentials for a registry in Docker's own configuration. Any error makes the pull
/// anonymous, as with `docker pull`: public images must not require a working credential helper.
async fn credentials_for(registry: &str) -> Option<DockerCredentials> {
    // The default registry's key in `docker login`'s file, for historical reasons.
    let key = if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry }.to_owned();
    let server = key.clone();
    // This reads a file and may run a helper program.
    let found = tokio::task::spawn_blocking(move || docker_credential::get_credential(&key)).await;
    let credential = match found {
        Ok(Ok(credential)) => credential,
        Ok(Err(error)) => {
            tell_why_anonymous(registry, &error);
            return None;
        }
        Err(error) => {
            tracing::debug!(registry, %error, "no credentials: the look-up did not finish");
            return None;
        }
    };
    let empty = DockerCredentials { serveraddress: Some(server), ..DockerCredentials::default() };
    Some(match credential {
        DockerCredential::IdentityToken(token) => DockerCredentials { identitytoken: Some(token), ..empty },
        DockerCredential::UsernamePassword(username, password) => {
            DockerCredentials { username: Some(username), password: Some(password), ..empty }
        }
    })
}

/// The helper's standard output is not logged: it may hold a secret.
fn tell_why_anonymous(registry: &str, error: &CredentialRetrievalError) {
    match error {
        CredentialRetrievalError::HelperFailure { helper, stderr, .. } => {
            tracing::debug!(registry, helper, stderr = plain(stderr), "no credentials: the helper failed");
        }
        error => tracing::debug!(registry, %error, "no credentials"),
    }
}

impl ImageFacts {
    /// Whether the image is made for `platform`: `os`, `arch`, `os/arch` or `os/arch/variant`.
    fn is_for(&self, platform: &str) -> bool {
        let parts: Vec<&str> = platform.split('/').collect();
        let is_os = |part: &str| part.eq_ignore_ascii_case(&self.os);
        let is_arch = |part: &str| go_arch(part) == go_arch(&self.architecture);
        match parts[..] {
            [one] => is_os(one) || is_arch(one),
            [os, arch] => is_os(os) && is_arch(arch),
            [os, arch, variant] => {
                let same_variant = self.variant.is_empty() || self.variant.eq_ignore_ascii_case(variant);
                is_os(os) && is_arch(arch) && same_variant
            }
            _ => false,
        }
    }
}

/// The kernel's names for architectures -> Go's names, which images use.
fn go_arch(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "x86_64" | "x86-64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        "i386" | "i686" => "386".to_owned(),
        "armhf" | "armel" => "arm".to_owned(),
        _ => name,
    }
}

impl From<ImageInspect> for ImageFacts {
    fn from(image: ImageInspect) -> ImageFacts {
        let config = image.config.unwrap_or_default();
        ImageFacts {
            id: image.id.unwrap_or_default(),
            os: image.os.unwrap_or_default(),
            architecture: image.architecture.unwrap_or_default(),
            variant: image.variant.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            command: config.cmd.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            labels: config.labels.into_iter().flatten().collect(),
        }
    }
}

impl From<CreateImageInfo> for PullProgress {
    fn from(line: CreateImageInfo) -> PullProgress {
        let detail = line.progress_detail.unwrap_or_default();
        let bytes = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
        let status = line.status.unwrap_or_default();
        // In a line with these words, Docker puts the tag where a layer's id would be.
        let is_of_layer = !status.starts_with("Pulling from ");
        PullProgress {
            layer: line.id.filter(|_| is_of_layer).unwrap_or_default(),
            status,
            current: bytes(detail.current).unwrap_or(0),
            total: bytes(detail.total).filter(|&total| total > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_no_layer() {
        let layer = |status: &str, id: Option<&str>| {
            let (status, id) = (Some(status.to_owned()), id.map(str::to_owned));
            PullProgress::from(CreateImageInfo { status, id, ..CreateImageInfo::default() }).layer
        };
        assert_eq!(layer("Pulling from library/busybox", Some("1.36")), "");
        assert_eq!(layer("Pulling fs layer", Some("ffa1284b9c22")), "ffa1284b9c22");
        assert_eq!(layer("Digest: sha256:00", None), "");
    }

    #[test]
    fn an_image_for_another_platform_is_not_the_one_asked_for() {
        let image = ImageInspect {
            os: Some("linux".to_owned()),
            architecture: Some("arm64".to_owned()),
            variant: Some("v8".to_owned()),
            ..ImageInspect::default()
        };
        let facts = ImageFacts::from(image);
        for platform in ["linux", "arm64", "linux/arm64", "linux/aarch64", "Linux/arm64/v8"] {
            assert!(facts.is_for(platform), "{platform}");
        }
        for platform in ["windows", "linux/amd64", "windows/arm64", "linux/arm64/v9", "", "a/b/c/d"] {
            assert!(!facts.is_for(platform), "{platform}");
        }
    }
}
