//! The labels by which fastbuild finds its own objects on an engine. Programs read the values,
//! except [`SOURCE`] and [`IMAGE`], which are for people.

use std::collections::BTreeMap;

/// The id of the run that made the object, on objects removed with the run (not kept workspaces).
pub const RUN: &str = "dev.fastbuild.run";
/// [`KEPT`], [`ONE_RUN`], [`VOLUME`], [`CACHE`] or [`BENCH`].
pub const TIER: &str = "dev.fastbuild.tier";
/// The [`TIER`] of a kept workspace.
pub const KEPT: &str = "kept";
/// The same, as earlier versions wrote it. Their workspaces are found and pruned by it.
const KEPT_BEFORE: &str = "warm";
/// The [`TIER`] of a container that is removed with its run. It is found by [`RUN`], even if an
/// earlier version wrote another tier.
pub const ONE_RUN: &str = "one-run";
/// The [`TIER`] of a volume that takes the place of a working directory.
pub const VOLUME: &str = "volume";
/// The [`TIER`] of a cache's volume.
pub const CACHE: &str = "cache";
/// The [`TIER`] of objects that a benchmark made to measure with.
pub const BENCH: &str = "bench";
/// The project's key.
pub const PROJECT: &str = "dev.fastbuild.project";
/// The project's name, if `fastbuild.toml` sets one.
pub const NAME: &str = "dev.fastbuild.name";
/// The version of fastbuild that made the object.
pub const VERSION: &str = "dev.fastbuild.version";
/// The state directory that knows the workspace.
pub const STATE: &str = "dev.fastbuild.state";
/// The source root on the host.
pub const SOURCE: &str = "dev.fastbuild.source";
/// The image, as the user named it.
pub const IMAGE: &str = "dev.fastbuild.image";
/// The settings that require a new workspace when they change, as JSON.
pub const GENERATION: &str = "dev.fastbuild.generation";
/// When the workspace was made, in seconds since 1970.
pub const CREATED: &str = "dev.fastbuild.created";

/// Whether an object with these labels is a kept workspace, made by this version or an earlier one.
pub fn is_kept_workspace(labels: &BTreeMap<String, String>) -> bool {
    labels.get(TIER).is_some_and(|tier| [KEPT, KEPT_BEFORE].contains(&tier.as_str()))
}
