//! The labels by which fastbuild finds its own objects on an engine again. Values are text for machines, but for
//! [`SOURCE`] and [`IMAGE`], which people read.

use std::collections::BTreeMap;

/// The id of the run that made the object; only on what must go with the run. Kept workspaces have none.
pub const RUN: &str = "dev.fastbuild.run";
/// [`KEPT`], [`ONE_RUN`], [`VOLUME`], [`CACHE`] or [`BENCH`].
pub const TIER: &str = "dev.fastbuild.tier";
/// The [`TIER`] of a kept workspace.
pub const KEPT: &str = "kept";
/// The same, as earlier versions wrote it; what they made is found and pruned by it.
const KEPT_BEFORE: &str = "warm";
/// The [`TIER`] of a container that goes with its run. It is found by [`RUN`], also where an earlier version wrote something else.
pub const ONE_RUN: &str = "one-run";
/// The [`TIER`] of a volume in the place of a working directory.
pub const VOLUME: &str = "volume";
/// The [`TIER`] of a cache's volume.
pub const CACHE: &str = "cache";
/// The [`TIER`] of what a bench made to measure with.
pub const BENCH: &str = "bench";
/// The project's key.
pub const PROJECT: &str = "dev.fastbuild.project";
/// The project's name, where `fastbuild.toml` gives it one.
pub const NAME: &str = "dev.fastbuild.name";
/// The version of fastbuild that made the object.
pub const VERSION: &str = "dev.fastbuild.version";
/// Which state directory knows the workspace.
pub const STATE: &str = "dev.fastbuild.state";
/// The source root on the host.
pub const SOURCE: &str = "dev.fastbuild.source";
/// The image, as it was named.
pub const IMAGE: &str = "dev.fastbuild.image";
/// What makes a new workspace when it changes, as JSON.
pub const GENERATION: &str = "dev.fastbuild.generation";
/// When the workspace was made, in seconds since 1970.
pub const CREATED: &str = "dev.fastbuild.created";

/// Whether an object with these labels is a kept workspace, of this version's or an earlier one's.
pub fn is_kept_workspace(labels: &BTreeMap<String, String>) -> bool {
    labels.get(TIER).is_some_and(|tier| [KEPT, KEPT_BEFORE].contains(&tier.as_str()))
}
