//! Manifest -> the container's own layer: packed on a blocking thread, sent as it is packed.

use std::{path::Path, sync::Arc};

use super::{BuildError, Running, blocking, channel};
use crate::{
    archive::pack::{PackError, PackOptions, Packed, Select, pack},
    engine::{ContainerId, Docker},
    report::{
        Reporter,
        events::{Amount, Event, Phase, Warning},
    },
    tree::scan::Scan,
};

/// How often a file that changes while it is sent is sent again.
const TRIES: usize = 3;

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
    let path_of = |&index: &usize| manifest.entries()[index].path.clone();
    for path in packed.vanished.iter().map(path_of) {
        reporter.emit(Event::Warned(Warning::Vanished { path }));
    }
    for path in packed.unstable.iter().map(path_of) {
        reporter.emit(Event::Warned(Warning::Unstable { path }));
    }
    phase.end(packed.amount);
    Ok(packed)
}

enum Selection {
    All,
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
    let (mut writer, chunks) = channel::to_async();
    let packing = {
        let (root, scan, options) = (root.to_owned(), Arc::clone(scan), options.clone());
        let reporter = reporter.clone();
        blocking(move || {
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
        })
    };
    // An engine takes names below "/" whatever their links point to; below any other directory it refuses relative
    // links that lead out of it.
    let (packed, sent) = tokio::join!(packing, docker.put(container, "/", chunks));
    match (packed?, sent) {
        (Ok(packed), Ok(())) => Ok(packed),
        // The engine stopped listening: its reason is the one that matters.
        (Err(PackError::Write(_)), Err(error)) | (Ok(_), Err(error)) => Err(error.into()),
        (Err(error), _) => Err(error.into()),
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
