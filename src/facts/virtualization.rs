//! Detects from the kernel's data whether this machine is virtual, which hypervisor runs it, and
//! whether it can run virtual machines itself. Pure.

use serde::Serialize;

/// Whether this machine is virtual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Virtualization {
    /// A physical machine.
    None,
    /// A virtual machine.
    Guest {
        /// The hypervisor that runs it.
        hypervisor: Hypervisor,
        /// Whether it can run nested virtual machines.
        nests: bool,
    },
    /// Not known.
    Unknown,
}

/// A hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hypervisor {
    /// Hyper-V, also of Azure and WSL 2.
    HyperV,
    /// VMware.
    Vmware,
    /// VirtualBox.
    VirtualBox,
    /// KVM or QEMU, and guests that do not name a more specific product.
    Kvm,
    /// Xen.
    Xen,
    /// Parallels.
    Parallels,
    /// Apple's virtualization framework.
    Apple,
    /// Amazon EC2.
    Amazon,
    /// Google Compute Engine.
    Google,
    /// Not named.
    Unnamed,
}

impl Hypervisor {
    /// The name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Hypervisor::HyperV => "Hyper-V",
            Hypervisor::Vmware => "VMware",
            Hypervisor::VirtualBox => "VirtualBox",
            Hypervisor::Kvm => "KVM",
            Hypervisor::Xen => "Xen",
            Hypervisor::Parallels => "Parallels",
            Hypervisor::Apple => "Apple's virtualization framework",
            Hypervisor::Amazon => "Amazon EC2",
            Hypervisor::Google => "Google Compute Engine",
            Hypervisor::Unnamed => "a hypervisor that does not name itself",
        }
    }
}

/// The data read from the machine. Unreadable values are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    /// `/proc/cpuinfo`.
    pub(super) cpuinfo: String,
    /// The firmware's vendor and product (`/sys/class/dmi/id`).
    pub(super) firmware: Vec<String>,
    /// `/sys/hypervisor/type`.
    pub(super) hypervisor_type: String,
    /// Whether KVM is there: `/dev/kvm`, or a module (`/sys/module/kvm_*/parameters/nested`).
    pub(super) has_kvm: bool,
}

/// Prefixes of the vendor and product names of virtual machines.
const FIRMWARE: [(&str, Hypervisor); 14] = [
    ("microsoft corporation virtual machine", Hypervisor::HyperV),
    ("vmware", Hypervisor::Vmware),
    ("innotek gmbh", Hypervisor::VirtualBox),
    ("virtualbox", Hypervisor::VirtualBox),
    ("oracle corporation virtualbox", Hypervisor::VirtualBox),
    ("qemu", Hypervisor::Kvm),
    ("red hat kvm", Hypervisor::Kvm),
    ("kvm", Hypervisor::Kvm),
    ("bochs", Hypervisor::Kvm),
    ("xen", Hypervisor::Xen),
    ("parallels", Hypervisor::Parallels),
    ("apple inc. apple virtualization", Hypervisor::Apple),
    ("amazon ec2", Hypervisor::Amazon),
    ("google google compute engine", Hypervisor::Google),
];

impl Virtualization {
    pub(super) fn of(evidence: &Evidence) -> Virtualization {
        let flags = processor_flags(&evidence.cpuinfo);
        let has = |flag: &str| flags.as_ref().is_some_and(|flags| flags.contains(&flag));
        let named = named(evidence);
        // Clouds also rent out physical machines; the processor's flags decide where they are
        // known.
        let is_guest = if flags.is_some() { has("hypervisor") } else { named.is_some() };
        if is_guest {
            let nests = has("vmx") || has("svm") || evidence.has_kvm;
            return Virtualization::Guest { hypervisor: named.unwrap_or(Hypervisor::Unnamed), nests };
        }
        // Only x86 has this flag, so only there its absence means something.
        if flags.is_some() { Virtualization::None } else { Virtualization::Unknown }
    }
}

fn named(evidence: &Evidence) -> Option<Hypervisor> {
    if evidence.hypervisor_type.trim() == "xen" {
        return Some(Hypervisor::Xen);
    }
    let firmware = evidence.firmware.iter().map(|text| text.trim()).collect::<Vec<_>>().join(" ");
    let firmware = firmware.to_ascii_lowercase();
    FIRMWARE.into_iter().find(|(begins, _)| firmware.starts_with(begins)).map(|(_, whose)| whose)
}

/// The flags of the first processor; `None` without such a line, as on ARM.
fn processor_flags(cpuinfo: &str) -> Option<Vec<&str>> {
    let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let (_, flags) = fields.find(|(name, _)| name.trim() == "flags")?;
    Some(flags.split_whitespace().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(hypervisor: Hypervisor, nests: bool) -> Virtualization {
        Virtualization::Guest { hypervisor, nests }
    }

    #[test]
    fn what_is_under_the_kernel_is_told_by_flags_and_firmware() {
        let metal = "processor\t: 0\nflags\t\t: fpu vme svm sse2\n";
        let vm = "processor\t: 0\nflags\t\t: fpu vme hypervisor sse2\n";
        let nesting = "flags\t\t: fpu vmx hypervisor\n";
        let arm = "processor\t: 0\nFeatures\t: fp asimd\n";
        let cases: [(&str, &[&str], &str, bool, Virtualization); 13] = [
            (metal, &["LENOVO", "20XW"], "", true, Virtualization::None),
            (metal, &["Amazon EC2", "m5.metal"], "", false, Virtualization::None),
            (vm, &["Amazon EC2", "m5.large"], "", false, guest(Hypervisor::Amazon, false)),
            (
                nesting,
                &["Microsoft Corporation", "Virtual Machine"],
                "",
                false,
                guest(Hypervisor::HyperV, true),
            ),
            (vm, &["QEMU", "Standard PC (Q35 + ICH9, 2009)"], "", false, guest(Hypervisor::Kvm, false)),
            (vm, &["QEMU", "x"], "", true, guest(Hypervisor::Kvm, true)),
            (vm, &["innotek GmbH", "VirtualBox"], "", false, guest(Hypervisor::VirtualBox, false)),
            (vm, &["VMware, Inc.", "VMware Virtual Platform"], "", false, guest(Hypervisor::Vmware, false)),
            (vm, &["Google", "Google Compute Engine"], "", false, guest(Hypervisor::Google, false)),
            (vm, &[], "xen\n", false, guest(Hypervisor::Xen, false)),
            (vm, &[], "", false, guest(Hypervisor::Unnamed, false)),
            (
                arm,
                &["Apple Inc.", "Apple Virtualization Generic Platform"],
                "",
                false,
                guest(Hypervisor::Apple, false),
            ),
            (arm, &["Apple Inc.", "MacBook"], "", false, Virtualization::Unknown),
        ];
        for (cpuinfo, firmware, hypervisor_type, has_kvm, expected) in cases {
            let evidence = Evidence {
                cpuinfo: cpuinfo.to_owned(),
                firmware: firmware.iter().map(|&text| text.to_owned()).collect(),
                hypervisor_type: hypervisor_type.to_owned(),
                has_kvm,
            };
            assert_eq!(Virtualization::of(&evidence), expected, "{firmware:?}");
        }
        assert_eq!(Virtualization::of(&Evidence::default()), Virtualization::Unknown);
    }
}
