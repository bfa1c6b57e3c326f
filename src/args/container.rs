//! Options of the container that a build runs in.

use clap::Args;

use super::words::Words;
use crate::spec::{
    Isolation,
    choices::{choose, name_of},
    units,
};

/// As they were typed; see [`crate::spec::ContainerOptions`].
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct ContainerArgs {
    /// Network of the container
    #[arg(long, value_name = "NETWORK", help_heading = "Engine")]
    pub network: Option<String>,
    /// Memory limit, in bytes or with b, k, m, g or t
    #[arg(short, long, value_name = "SIZE", value_parser = units::memory, help_heading = "Engine")]
    pub memory: Option<u64>,
    /// Processor limit, such as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = units::nano_cpus, help_heading = "Engine")]
    pub cpus: Option<i64>,
    /// How large /dev/shm may become [default: 64m]
    #[arg(long, value_name = "SIZE", value_parser = units::memory, help_heading = "Engine")]
    pub shm_size: Option<u64>,
    /// Isolation on Windows engines: process or hyperv
    #[arg(long, value_name = "KIND", value_parser = choose::<Isolation>, help_heading = "Engine")]
    pub isolation: Option<Isolation>,
}

impl ContainerArgs {
    /// The options as they could be typed.
    pub(super) fn push_to(&self, words: &mut Words) {
        words.values("--network", &self.network);
        words.values("--memory", self.memory.map(|bytes| bytes.to_string()));
        words.values("--cpus", self.cpus.map(units::cpus_text));
        words.values("--shm-size", self.shm_size.map(|bytes| bytes.to_string()));
        words.values("--isolation", self.isolation.map(name_of));
    }
}
