//! Options of the container. Flags override variables, and variables override the file.

use super::{ConfigError, file::Keys, flag, text};
use crate::{
    args::ContainerArgs,
    environment::Environment,
    spec::{ContainerOptions, choices, units},
};

/// The resulting value of each option.
pub(super) fn options(
    args: &ContainerArgs,
    env: &Environment,
    keys: &Keys,
) -> Result<ContainerOptions, ConfigError> {
    Ok(ContainerOptions {
        network: text("--network", &args.network)?
            .or(env.setting("FASTBUILD_NETWORK", units::text)?)
            .or(keys.network.clone()),
        memory: flag("--memory", args.memory)
            .or(env.setting("FASTBUILD_MEMORY", units::memory)?)
            .or(keys.memory.clone()),
        nano_cpus: flag("--cpus", args.cpus)
            .or(env.setting("FASTBUILD_CPUS", units::nano_cpus)?)
            .or(keys.cpus.clone()),
        shm_size: flag("--shm-size", args.shm_size)
            .or(env.setting("FASTBUILD_SHM_SIZE", units::memory)?)
            .or(keys.shm_size.clone()),
        isolation: flag("--isolation", args.isolation)
            .or(env.setting("FASTBUILD_ISOLATION", choices::choose)?)
            .or(keys.isolation.clone()),
    })
}
