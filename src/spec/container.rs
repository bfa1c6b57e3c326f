//! What a container is made with beside its image and its files: said by options, variables and files, and handed through the
//! plan to the engine as it is.
//!
//! A new one is a field and a line of [`ContainerOptions::all`] here, an option in `args/container.rs`, a key in `config/file.rs`,
//! the line in `config/container.rs` that weighs them, and the one in `engine/docker/container.rs` that asks the engine for it.

use serde::Serialize;

use super::{Decision, Isolation, Reason, units};

/// What was asked for; the engine's own where nothing was.
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
    /// Handed to Windows engines.
    pub isolation: Option<Decision<Isolation>>,
}

/// One of them that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked<'a> {
    /// What it is called.
    pub name: &'static str,
    /// As it could be typed.
    pub value: String,
    /// Who asked.
    pub reason: &'a Reason,
    /// What another value means for a container that is there.
    pub change: Change,
}

/// See [`Asked::change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is another workspace's.
    OtherWorkspace,
    /// It is set on the container, running or not.
    InPlace,
}

impl ContainerOptions {
    /// For a container of fastbuild's own, which has nobody to speak to.
    pub fn without_network() -> ContainerOptions {
        let network = Decision::default("none".to_owned(), "it needs none");
        ContainerOptions { network: Some(network), ..ContainerOptions::default() }
    }

    /// All that were asked for, in the order in which people are told of them.
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
