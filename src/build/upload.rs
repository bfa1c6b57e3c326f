//! Manifest -> a tar stream: packed on a blocking thread, sent as it is packed.

use std::{fs::File, io, path::Path, sync::Arc};

use futures_util::Stream;

use super::BuildError;
use crate::{
    agent::channel::{self, Chunk},
    archive::pack::{PackError, PackOptions, Packed, pack},
    build::tasks::blocking,
    entry::Kind,
    outputs::target::native_join,
    report::{
        Reporter,
        events::{Event, Phase, Warning},
    },
    tree::{Digest, Entry, Manifest, scan::Scan},
};

/// How often a file that changes while it is sent is sent again.
pub(super) const TRIES: usize = 3;

/// Removes from `puts` the products that this user may not read: their content is known since they
/// came back, so they are compared and replaced without reading. Opens only files whose mode may
/// deny it.
///
/// # Errors
/// [`BuildError::Unreadable`] with all sources that cannot be read.
pub(super) fn leave_out_unreadable(
    root: &Path,
    manifest: &Manifest,
    digests: &[Option<Digest>],
    puts: &mut Vec<usize>,
) -> Result<(), BuildError> {
    const EVERYBODY_READS: u32 = 0o004;
    let entries = manifest.entries();
    let mut paths = Vec::new();
    puts.retain(|index| {
        let Entry { path, kind, mode, .. } = &entries[*index];
        let may_be_hidden = matches!(kind, Kind::File { .. }) && mode & EVERYBODY_READS == 0;
        let is_denied = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        let is_unreadable = may_be_hidden && File::open(native_join(root, path)).is_err_and(is_denied);
        if is_unreadable && digests[*index].is_none() {
            paths.push(path.clone());
        }
        !is_unreadable
    });
    if paths.is_empty() { Ok(()) } else { Err(BuildError::Unreadable { paths }) }
}

/// Packs the entries at `indices` on a blocking thread; returns the future result, and the stream.
pub(super) fn start_packing(
    root: &Path,
    scan: &Arc<Scan>,
    indices: Vec<usize>,
    options: &PackOptions,
    reporter: &Reporter,
) -> (
    impl Future<Output = Result<Result<Packed, PackError>, BuildError>> + use<>,
    impl Stream<Item = Chunk> + Send + use<>,
) {
    let (mut writer, chunks) = channel::to_async();
    let (root, scan, options) = (root.to_owned(), Arc::clone(scan), options.clone());
    let reporter = reporter.clone();
    let packing = blocking(move || {
        let progress = |done| reporter.emit(Event::PhaseProgress { phase: Phase::Upload, done });
        let packed = pack(&root, &scan.manifest, &indices, &options, &mut writer, &progress);
        if let Err(error) = &packed {
            // Without this the far end would take a partial archive for a whole one.
            writer.fail(std::io::Error::other(error.to_string()));
        }
        packed
    });
    (packing, chunks)
}

/// The packed entries, if they were also sent to their end.
pub(super) fn all_arrived<T, E: Into<BuildError>>(
    packed: Result<Packed, PackError>,
    sent: Result<T, E>,
) -> Result<Packed, BuildError> {
    match (packed, sent) {
        (Ok(packed), Ok(_)) => Ok(packed),
        // The far end stopped reading: its reason is the one that matters.
        (Err(PackError::Write(_)), Err(error)) | (Ok(_), Err(error)) => Err(error.into()),
        (Err(error), _) => Err(error.into()),
    }
}

/// Reports files that were not, or perhaps not, sent as they are.
pub(super) fn tell_of_changes(packed: &Packed, manifest: &Manifest, reporter: &Reporter) {
    let path_of = |&index: &usize| manifest.entries()[index].path.clone();
    for path in packed.vanished.iter().map(path_of) {
        reporter.emit(Event::Warned(Warning::Vanished { path }));
    }
    for path in packed.unstable.iter().map(path_of) {
        reporter.emit(Event::Warned(Warning::Unstable { path }));
    }
}

impl Packed {
    /// Takes over the result of a second sending of some entries.
    pub(super) fn absorb(&mut self, again: Packed) {
        for (sent, again) in self.sent.iter_mut().zip(again.sent) {
            if again.is_some() {
                *sent = again;
            }
        }
        self.unstable = again.unstable;
        // Sent once, gone now: the container has the earlier version.
        self.unstable.extend(again.vanished);
    }
}
