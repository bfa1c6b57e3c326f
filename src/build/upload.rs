//! Manifest -> the container's own layer: packed on a blocking thread, sent as it is packed.

use std::{path::Path, sync::Arc};

use futures_util::Stream;

use super::{
    BuildError, Running, blocking,
    channel::{self, Chunk},
};
use crate::{
    archive::pack::{PackError, PackOptions, Packed, Select, pack},
    engine::{ContainerId, Docker},
    report::{
        Reporter,
        events::{Amount, Event, Phase, Warning},
    },
    tree::{Manifest, scan::Scan},
};

/// How often a file that changes while it is sent is sent again.
pub(super) const TRIES: usize = 3;

/// Sends the whole tree, and files that changed meanwhile once more.
pub async fn upload(
    docker: &Docker,
    container: &ContainerId,
    root: &Path,
    scan: &Arc<Scan>,
    options: &PackOptions,
    reporter: &Reporter,
) -> Result<Packed, BuildError> {
    let manifest = &scan.manifest;
    let total = Amount { files: manifest.entries().len() as u64, bytes: manifest.bytes() };
    let phase = Running::begin(Phase::Upload, Some(total), reporter);
    let mut packed = send(docker, container, root, scan, Selection::All, options, reporter).await?;
    for _ in 1..TRIES {
        if packed.unstable.is_empty() {
            break;
        }
        let again = std::mem::take(&mut packed.unstable);
        let second = send(docker, container, root, scan, Selection::Only(again), options, reporter).await?;
        packed.absorb(second);
    }
    tell_of_changes(&packed, manifest, reporter);
    phase.end(packed.amount);
    Ok(packed)
}

/// Which entries of a tree travel.
pub(super) enum Selection {
    /// Every one.
    All,
    /// Those at these places.
    Only(Vec<usize>),
}

async fn send(
    docker: &Docker,
    container: &ContainerId,
    root: &Path,
    scan: &Arc<Scan>,
    selection: Selection,
    options: &PackOptions,
    reporter: &Reporter,
) -> Result<Packed, BuildError> {
    let (packing, chunks) = start_packing(root, scan, selection, options, reporter);
    // An engine takes names below "/" whatever their links point to; below any other directory it refuses relative
    // links that lead out of it.
    let (packed, sent) = tokio::join!(packing, docker.put(container, "/", chunks));
    all_arrived(packed?, sent)
}

/// Packs on a blocking thread; gives what will come of it, and the stream.
pub(super) fn start_packing(
    root: &Path,
    scan: &Arc<Scan>,
    selection: Selection,
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
        let select = match &selection {
            Selection::All => Select::All,
            Selection::Only(indices) => Select::Only(indices),
        };
        let packed = pack(&root, &scan.manifest, select, &options, &mut writer, &progress);
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
