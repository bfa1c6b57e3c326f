//! `fastbuild doctor`: what may cost time on this machine, and what to do about it.
//! [`crate::doctor`] looks up and judges the facts; the findings go to standard output.
//!
//! `--json` prints one object. New keys may be added; existing keys stay:
//!
//! | key | what it holds |
//! |---|---|
//! | `advice` | how many findings have the severity `advice`; the exit code is 1 when there are any |
//! | `findings[]` | `topic`, `severity` (`good`, `note`, `advice`), `what`, `why`, `do`; the last two may be null |
//! | `machine` | `os`, `arch`, `kernel`, `wsl` (`1`, `2`, null), `virtualization`, `ci` (null outside of CI), `id` |
//! | `machine.virtualization` | `kind` (`none`, `guest`, `unknown`); of a guest also `hypervisor` and `nests` |
//! | `source` | `path`, `answers` (whether it could be looked at), `file_system`, `case` (`kept`, `folded`, null) |
//! | `source.file_system` | null where it is not known, else `kind`, `class`, `crosses`, `mount_point`, `device` |
//! | `engine` | `address` (null when it names none that can be used), `answers`; of one that answers also |
//! | | `name`, `version`, `api`: its greeting |
//! | | `kind`, `system`, `os`, `arch`, `kernel`, `storage_driver`, `backing`, `root_dir`, `isolation`, `images` |
//! | | `whereabouts` (`here`, `same-kernel`, `another-kernel`, `network`), `rights` (`root`, `rootless`) |
//! | | `cgroup_version`, `cpus`, `memory` (bytes) |
//! | `file_sharing` | Docker Desktop's (`virtiofs`, `grpc-fuse`, `osxfs`), null where it is not known |
//! | `rooms[]` | `what_for` (`engine`, `state`, `source`), `path`, `free` and `total` (bytes) |
//!
//! Topics: `engine`, `location`, `file-sharing`, `rootless`, `storage-driver`, `isolation`,
//! `windows-containers`, `space`, `source`, `case`, `virtualization`, `wsl`, `ci`.

mod show;

use super::{Failure, print, width};
use crate::{
    args::{LookArgs, PlanFormat},
    doctor::{self, Severity},
    environment::Environment,
};

/// The exit code when there is advice.
const ADVICE: u8 = 1;

/// Looks up, judges and reports; returns the exit code.
///
/// # Errors
/// When the settings are wrong, the source root does not exist, or standard output fails. An engine
/// or a source that does not answer is not an error.
pub fn run(args: &LookArgs) -> Result<u8, Failure> {
    let environment = Environment::of_process().map_err(Failure::CurrentDirectory)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    let facts = runtime.block_on(doctor::gather(&args.place, &environment))?;
    let found = doctor::findings(&facts);
    print(match args.format {
        PlanFormat::Text => show::text(&found, width()),
        PlanFormat::Json => show::json(&facts, &found),
    })?;
    let is_advised = found.iter().any(|finding| finding.severity == Severity::Advice);
    Ok(if is_advised { ADVICE } else { 0 })
}
