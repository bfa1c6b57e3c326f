//! The machine that fastbuild runs on.

use std::path::Path;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Ci, Hypervisor, Virtualization, virtualization::Evidence};
use crate::{environment::Environment, sys::host};

/// The machine that fastbuild runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Its operating system, as Rust names it: `linux`, `macos`, `windows`.
    pub os: &'static str,
    /// Its architecture, as Rust names it: `x86_64`, `aarch64`.
    pub arch: &'static str,
    /// Its kernel's release, as `uname -r` prints it; empty where it is not known.
    pub kernel: String,
    /// Its name on the network; empty where not known. Not in reports, because users publish them.
    #[serde(skip)]
    pub name: String,
    /// Whether it is Linux inside Windows.
    pub wsl: Option<Wsl>,
    /// The hypervisor below it, if any.
    pub virtualization: Virtualization,
    /// The CI service, if any.
    pub ci: Option<Ci>,
    /// Sixteen hexadecimal digits: always the same for this machine, but they do not identify it.
    pub id: String,
}

/// A version of the Windows Subsystem for Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Wsl {
    /// WSL 1: the Windows kernel emulates a Linux one.
    #[serde(rename = "1")]
    One,
    /// WSL 2: a Linux kernel in a virtual machine.
    #[serde(rename = "2")]
    Two,
}

impl Machine {
    /// This machine.
    pub fn of(environment: &Environment) -> Machine {
        let name = host::name(|variable| environment.filled(variable).map(ToOwned::to_owned));
        let wsl = Wsl::of(&read("/proc/version"));
        Machine {
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            kernel: host::kernel(),
            wsl,
            virtualization: virtualization(wsl),
            ci: Ci::of(environment),
            id: id(&read("/etc/machine-id"), &name),
            name,
        }
    }
}

impl Wsl {
    /// From the text of `/proc/version`. The kernel of WSL 1 has `Microsoft` in its name, with a
    /// capital; that of WSL 2 has `microsoft-standard`.
    fn of(version: &str) -> Option<Wsl> {
        let release = version.strip_prefix("Linux version ")?.split_whitespace().next()?;
        if release.contains("-Microsoft") {
            Some(Wsl::One)
        } else if release.contains("microsoft") || release.contains("WSL2") {
            Some(Wsl::Two)
        } else {
            None
        }
    }
}

fn virtualization(wsl: Option<Wsl>) -> Virtualization {
    let dmi = |file| read(&format!("/sys/class/dmi/id/{file}"));
    let kvm = ["intel", "amd"].map(|maker| format!("/sys/module/kvm_{maker}/parameters/nested"));
    let evidence = Evidence {
        cpuinfo: read("/proc/cpuinfo"),
        firmware: ["sys_vendor", "product_name"].map(dmi).to_vec(),
        hypervisor_type: read("/sys/hypervisor/type"),
        has_kvm: kvm.iter().any(|path| Path::new(path).exists()) || Path::new("/dev/kvm").exists(),
    };
    match (Virtualization::of(&evidence), wsl) {
        // WSL 2 has no firmware data that could tell.
        (Virtualization::Guest { hypervisor: Hypervisor::Unnamed, nests }, Some(Wsl::Two)) => {
            Virtualization::Guest { hypervisor: Hypervisor::HyperV, nests }
        }
        (found, _) => found,
    }
}

/// `/etc/machine-id` should not be published (machine-id(5)). Without one, the name is used.
fn id(machine_id: &str, name: &str) -> String {
    let machine_id = machine_id.trim();
    let is_one = machine_id.len() == 32 && machine_id.bytes().all(|b| b.is_ascii_hexdigit());
    let (what, value) = if is_one { ("id", machine_id) } else { ("name", name) };
    let digest = Sha256::digest(format!("fastbuild machine {what} {value}"));
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A system file's text; empty if it cannot be read.
fn read(path: &str) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wsl_is_told_by_the_name_of_its_kernel() {
        let cases = [
            ("Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com) (gcc 5.4.0) #1", Some(Wsl::One)),
            ("Linux version 5.15.153.1-microsoft-standard-WSL2 (root@941d701f84f1) (gcc)", Some(Wsl::Two)),
            ("Linux version 4.19.84-microsoft-standard (oe-user@oe-host) (gcc)", Some(Wsl::Two)),
            ("Linux version 6.6.87-me-WSL2+ (me@build) (gcc)", Some(Wsl::Two)),
            ("Linux version 6.1.0-37-amd64 (debian-kernel@lists.debian.org) (gcc-12)", None),
            ("Linux version 6.1.0 (built@Microsoft.com)", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Wsl::of(text), expected, "{text}");
        }
    }

    #[test]
    fn an_id_is_stable_and_tells_nothing() {
        let machine_id = "3d1219c7c4c5404aaa1f6d2a48adfda4";
        assert_eq!(id(&format!("{machine_id}\n"), "a"), id(machine_id, "b"));
        assert_ne!(id(machine_id, "a"), id("", "a"));
        assert_eq!(id("uninitialized\n", "a"), id("", "a"));
        assert_ne!(id("", "a"), id("", "b"));
        assert!(!machine_id.contains(&id(machine_id, "")) && id(machine_id, "").len() == 16);
    }

    #[cfg(unix)]
    #[test]
    fn this_machine_is_told() {
        let machine = Machine::of(&Environment::default());
        assert!(!machine.kernel.is_empty() && !machine.name.is_empty());
        assert_eq!((machine.os, machine.ci), (std::env::consts::OS, None));
        assert_eq!(machine, Machine::of(&Environment::default()));
    }
}
