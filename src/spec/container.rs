//! Settings of a container beside its image and its files. They come from options, variables and
//! files, and pass through the plan to the engine unchanged.
//!
//! A new setting needs a field and a line of [`ContainerOptions::all`] here, an option in
//! `args/container.rs`, a key in `config/file.rs`, a line in `config/container.rs` that merges
//! them, and one in `engine/docker/container.rs` that sends it to the engine.

use serde::Serialize;

use super::{Decision, Isolation, Reason, units};

/// The settings that were given; `None` means the engine's own default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ContainerOptions {
    /// The engine's network mode.
    pub network: Option<Decision<String>>,
    /// Memory limit in bytes.
    pub memory: Option<Decision<u64>>,
    /// Processor limit in billionths of a processor.
    pub nano_cpus: Option<Decision<i64>>,
    /// How large `/dev/shm` may become, in bytes.
    pub shm_size: Option<Decision<u64>>,
    /// Passed to Windows engines.
    pub isolation: Option<Decision<Isolation>>,
}

/// One setting that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked<'a> {
    /// Its name.
    pub name: &'static str,
    /// The value as it could be typed.
    pub value: String,
    /// The source of the setting.
    pub reason: &'a Reason,
    /// What a changed value means for an existing container.
    pub change: Change,
}

/// See [`Asked::change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It needs another workspace.
    OtherWorkspace,
    /// It is set on the container, whether it runs or not.
    InPlace,
}

impl ContainerOptions {
    /// For a helper container of fastbuild's own, which needs no network.
    pub fn without_network() -> ContainerOptions {
        let network = Decision::default("none".to_owned(), "it needs none");
        ContainerOptions { network: Some(network), ..ContainerOptions::default() }
    }

    /// All settings that were given, in the order of the output.
    pub fn all(&self) -> impl Iterator<Item = Asked<'_>> {
        use Change::{InPlace, OtherWorkspace};
        let ContainerOptions { network, memory, nano_cpus, shm_size, isolation } = self;
        [
            asked("network", network, OtherWorkspace, Clone::clone),
            asked("memory", memory, InPlace, |bytes| units::memory_text(*bytes)),
            asked("cpus", nano_cpus, InPlace, |nano| units::cpus_text(*nano)),
            asked("shm size", shm_size, OtherWorkspace, |bytes| units::memory_text(*bytes)),
            asked("isolation", isolation, OtherWorkspace, |isolation| {
                super::choices::name_of(*isolation).to_owned()
            }),
        ]
        .into_iter()
        .flatten()
    }
}

fn asked<'a, T>(
    name: &'static str,
    decision: &'a Option<Decision<T>>,
    change: Change,
    text: impl FnOnce(&T) -> String,
) -> Option<Asked<'a>> {
    let Decision { value, reason } = decision.as_ref()?;
    Some(Asked { name, value: text(value), reason, change })
}
