//! Manifest -> a tar stream: packed on a blocking thread, sent as it is packed.

use std::{path::Path, sync::Arc};

use futures_util::Stream;

use super::{
    BuildError, blocking,
    channel::{self, Chunk},
};
use crate::{
    archive::pack::{PackError, PackOptions, Packed, pack},
    report::{
        Reporter,
        events::{Event, Phase, Warning},
    },
    tree::{Manifest, scan::Scan},
};

/// How often a file that changes while it is sent is sent again.
pub(super) const TRIES: usize = 3;

/// Packs the entries at `indices` on a blocking thread; gives what will come of it, and the stream.
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
            // Without this the far end would take what it has for a whole archive.
            writer.fail(std::io::Error::other(error.to_string()));
        }
        packed
    });
    (packing, chunks)
}

/// What was packed, if it was sent to its end as well.
pub(super) fn all_arrived<T, E: Into<BuildError>>(
    packed: Result<Packed, PackError>,
    sent: Result<T, E>,
) -> Result<Packed, BuildError> {
    match (packed, sent) {
        (Ok(packed), Ok(_)) => Ok(packed),
        // The far end stopped listening: its reason is the one that matters.
        (Err(PackError::Write(_)), Err(error)) | (Ok(_), Err(error)) => Err(error.into()),
        (Err(error), _) => Err(error.into()),
    }
}

/// Tells of files that were not, or not for certain, sent as they are.
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
    /// Takes over what a second sending of some entries came to.
    pub(super) fn absorb(&mut self, again: Packed) {
        for (sent, again) in self.sent.iter_mut().zip(again.sent) {
            if again.is_some() {
                *sent = again;
            }
        }
        self.unstable = again.unstable;
        // Sent once, gone now: the container has what there was.
        self.unstable.extend(again.vanished);
    }
}
