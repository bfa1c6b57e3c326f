//! Files into and out of a container, running or not, as tar streams.
//!
//! A stream from here ends cleanly only if the engine ended it cleanly. This does not prove that
//! the archive is complete: an engine that fails to read a file in mid-stream appends its error
//! text and ends the answer normally. The reader of the archive must therefore see its end marker,
//! which [`crate::archive`] insists on.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bollard::{
    body_try_stream,
    container::PathStatResponse,
    errors::Error as BollardError,
    query_parameters::{
        ContainerArchiveInfoOptionsBuilder, DownloadFromContainerOptionsBuilder,
        UploadToContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use futures_util::{
    Stream, StreamExt, TryStreamExt, future,
    stream::{self, BoxStream},
};

use super::{
    client::{Docker, failed},
    container::ContainerId,
};
use crate::engine::error::{Call, EngineError, Operation};

/// A tar archive that comes out of a container.
pub type ArchiveStream = BoxStream<'static, Result<Bytes, EngineError>>;

/// The kind of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A directory, a device, a pipe or a socket.
    Other,
}

/// The object at a path of a container. A link is not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// Its kind.
    pub kind: PathKind,
    /// The end of a link, all links on the way followed; empty for other kinds.
    pub link_target: String,
    /// Bytes of content; for directories and links, the engine's own value.
    pub size: u64,
}

impl Docker {
    /// Looks at a path; `None` if it does not exist.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`], and the errors common to all requests.
    pub async fn stat(&self, id: &ContainerId, path: &str) -> Result<Option<PathStat>, EngineError> {
        let options = ContainerArchiveInfoOptionsBuilder::new().path(path).build();
        match self.client.get_container_archive_info(id.as_str(), Some(options)).await {
            Ok(stat) => Ok(Some(PathStat::from(stat))),
            // The answer to a HEAD request has no text, and its status does not separate a missing
            // container from a missing path, nor a path through a file from a real failure. A GET
            // of the same path does.
            Err(error @ BollardError::DockerResponseServerError { .. }) => match self.get(id, path).await {
                Err(EngineError::NotThere { .. }) => Ok(None),
                Err(error) => Err(error),
                Ok(_) => Err(failed(Call::at(Operation::Stat, id, path))(error)),
            },
            Err(error) => Err(failed(Call::at(Operation::Stat, id, path))(error)),
        }
    }

    /// Unpacks a tar stream below the directory `path`, which must exist. Files in the way are
    /// replaced, also directories by files; owners are taken from the archive.
    ///
    /// # Errors
    /// [`EngineError::Body`] when `body` yields an error: the request is aborted then, and the
    /// engine does not see an end of the archive. [`NotThere`](EngineError::NotThere),
    /// [`NoSpace`](EngineError::NoSpace), [`ReadOnly`](EngineError::ReadOnly), and the errors
    /// common to all requests. After an error, the container holds the entries unpacked so far.
    pub async fn put(
        &self,
        id: &ContainerId,
        path: &str,
        body: impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    ) -> Result<(), EngineError> {
        let call = Call::at(Operation::Put, id, path);
        let options = UploadToContainerOptionsBuilder::new().path(path).build();
        let failure = BodyFailure::default();
        let body = body_try_stream(failure.watch(body));
        let sent = self.client.upload_to_container(id.as_str(), Some(options), body).await;
        // Our own failure explains the engine's reaction to the aborted request.
        if let Some(source) = failure.take() {
            return Err(EngineError::Body { call, source });
        }
        sent.map_err(|error| not_there(id, path, &error).unwrap_or_else(|| failed(call)(error)))
    }

    /// Packs the object at `path`, whose last component begins every name. A link stays a link.
    ///
    /// # Errors
    /// Before the stream: [`EngineError::NotThere`],
    /// [`NoSuchContainer`](EngineError::NoSuchContainer). In it: [`Gone`](EngineError::Gone) when
    /// it is cut short.
    pub async fn get(&self, id: &ContainerId, path: &str) -> Result<ArchiveStream, EngineError> {
        let call = Call::at(Operation::Get, id, path);
        let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
        let mut chunks = self.client.download_from_container(id.as_str(), Some(options)).boxed();
        // The answer's head comes with the first chunk; every archive has one.
        let first = match chunks.next().await {
            Some(Ok(first)) => first,
            Some(Err(error)) => {
                return Err(not_there(id, path, &error).unwrap_or_else(|| failed(call)(error)));
            }
            None => return Err(EngineError::BadAnswer { call, message: "the archive is empty".to_owned() }),
        };
        let rest = chunks.map_err(move |error| failed(call.clone())(error));
        Ok(stream::once(future::ready(Ok(first))).chain(rest).boxed())
    }

    /// The content of one file of at most `max` bytes, a link followed; `None` if the file or the
    /// link's target does not exist.
    ///
    /// # Errors
    /// [`EngineError::NotASmallFile`] for directories, devices and larger files, and as
    /// [`Docker::get`].
    pub async fn read_small_file(
        &self,
        id: &ContainerId,
        path: &str,
        max: u64,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        match self.read_entry(id, path, max).await? {
            Entry::File(content) => Ok(Some(content)),
            Entry::Missing => Ok(None),
            Entry::Link => {
                let Some(stat) = self.stat(id, path).await? else {
                    return Ok(None);
                };
                match self.read_entry(id, &stat.link_target, max).await? {
                    Entry::File(content) => Ok(Some(content)),
                    Entry::Missing | Entry::Link => Ok(None),
                }
            }
        }
    }

    /// A container's `/etc/passwd` and `/etc/group`, if it has them.
    ///
    /// # Errors
    /// As [`Docker::read_small_file`].
    pub async fn user_tables(
        &self,
        id: &ContainerId,
    ) -> Result<(Option<Vec<u8>>, Option<Vec<u8>>), EngineError> {
        tokio::try_join!(
            self.read_small_file(id, "/etc/passwd", USER_TABLE),
            self.read_small_file(id, "/etc/group", USER_TABLE),
        )
    }

    async fn read_entry(&self, id: &ContainerId, path: &str, max: u64) -> Result<Entry, EngineError> {
        let mut chunks = match self.get(id, path).await {
            Ok(chunks) => chunks,
            Err(EngineError::NotThere { .. }) => return Ok(Entry::Missing),
            Err(error) => return Err(error),
        };
        let not_a_small_file =
            || EngineError::NotASmallFile { container: id.to_string(), path: path.to_owned(), max };
        let limit = usize::try_from(max.saturating_add(ARCHIVE_OVERHEAD)).unwrap_or(usize::MAX);
        let mut archive = Vec::new();
        while let Some(chunk) = chunks.next().await {
            archive.extend_from_slice(&chunk?);
            if archive.len() > limit {
                return Err(not_a_small_file());
            }
        }
        only_entry(&archive, max)
            .map_err(|error| EngineError::BadAnswer {
                call: Call::at(Operation::Get, id, path),
                message: error.to_string(),
            })?
            .ok_or_else(not_a_small_file)
    }
}

/// The size limit for `/etc/passwd` and `/etc/group`, in bytes.
const USER_TABLE: u64 = 4 << 20;

/// Headers (also for long names and precise times), padding and end marker of a one-file archive.
const ARCHIVE_OVERHEAD: u64 = 32 * 1024;

/// The content of a path's archive.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Missing,
    Link,
    File(Vec<u8>),
}

/// Reads the only entry of an archive; `None` if it is not a file of at most `max` bytes.
fn only_entry(archive: &[u8], max: u64) -> io::Result<Option<Entry>> {
    let mut archive = tar::Archive::new(archive);
    let mut entry = archive.entries()?.next().ok_or(io::ErrorKind::UnexpectedEof)??;
    let kind = entry.header().entry_type();
    if kind.is_symlink() {
        return Ok(Some(Entry::Link));
    }
    if !kind.is_file() || entry.size() > max {
        return Ok(None);
    }
    let mut content = Vec::new();
    io::Read::read_to_end(&mut entry, &mut content)?;
    if content.len() as u64 == entry.size() {
        Ok(Some(Entry::File(content)))
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// An answer about the path, not the container: a 404, or "not a directory" for a path in a file.
fn not_there(id: &ContainerId, path: &str, error: &BollardError) -> Option<EngineError> {
    let BollardError::DockerResponseServerError { status_code, message } = error else {
        return None;
    };
    let message = message.to_lowercase();
    let missing = match status_code {
        404 => !message.contains("no such container"),
        // Only for a look at the path; while unpacking, these words are about an archive entry.
        _ => message.starts_with("lstat ") && message.contains("not a directory"),
    };
    missing.then(|| EngineError::NotThere { container: id.to_string(), path: path.to_owned() })
}

/// Keeps the error that ends a body stream. hyper aborts the request, but the error it then reports
/// depends on which side notices first.
#[derive(Debug, Clone, Default)]
struct BodyFailure(Arc<Mutex<Option<io::Error>>>);

impl BodyFailure {
    fn watch(
        &self,
        body: impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
    ) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static {
        let slot = self.clone();
        body.map_err(move |error| {
            let stand_in = io::Error::from(error.kind());
            slot.lock().replace(error);
            stand_in
        })
    }

    fn take(&self) -> Option<io::Error> {
        self.lock().take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<io::Error>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<PathStatResponse> for PathStat {
    fn from(stat: PathStatResponse) -> PathStat {
        // The bits of Go's `os.FileMode`, which the API sends.
        const LINK: u32 = 1 << 27;
        const NO_FILE: u32 = 1 << 31 | 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19;
        let kind = match stat.file_mode {
            mode if mode & LINK != 0 => PathKind::Link,
            mode if mode & NO_FILE != 0 => PathKind::Other,
            _ => PathKind::File,
        };
        PathStat {
            kind,
            link_target: if kind == PathKind::Link { stat.link_target } else { String::new() },
            size: u64::try_from(stat.size).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive_of(kind: tar::EntryType, content: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, "passwd", content).unwrap();
        archive.into_inner().unwrap()
    }

    #[test]
    fn a_small_file_is_read_whole_or_not_at_all() {
        let file = archive_of(tar::EntryType::Regular, b"root:x:0:0");
        assert_eq!(only_entry(&file, 10).unwrap(), Some(Entry::File(b"root:x:0:0".to_vec())));
        assert_eq!(only_entry(&file, 9).unwrap(), None);
        assert_eq!(only_entry(&archive_of(tar::EntryType::Symlink, b""), 9).unwrap(), Some(Entry::Link));
        assert_eq!(only_entry(&archive_of(tar::EntryType::Directory, b""), 9).unwrap(), None);
        only_entry(&file[..515], 10).unwrap_err();
        only_entry(b"", 10).unwrap_err();
    }
}
