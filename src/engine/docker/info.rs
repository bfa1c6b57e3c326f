//! What an engine says of itself when it is asked for all of it, and where it is. For those who judge: the greeting has
//! what a build needs, and this answer takes an engine some tens of milliseconds.

use bollard::models::{SystemInfo, SystemInfoIsolationEnum};
use serde::Serialize;

use super::client::{Docker, failed};
use crate::{
    engine::error::{Call, EngineError, Operation},
    facts::Machine,
    spec::{self, Endpoint, Isolation},
};

/// What an engine says of itself. Texts are the engine's own, and empty where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EngineInfo {
    /// What kind of engine it is.
    pub kind: EngineKind,
    /// Its version.
    #[serde(skip)]
    pub version: String,
    /// The operating system around it: `Debian GNU/Linux 12 (bookworm)`, `Docker Desktop`.
    pub system: String,
    /// The operating system of its containers: `linux`, `windows`.
    pub os: String,
    /// Its architecture, in its own words: `x86_64`, `amd64`.
    pub arch: String,
    /// Its kernel's release.
    pub kernel: String,
    /// The name of its machine: left out of reports, which are shown to others.
    #[serde(skip)]
    pub name: String,
    /// What keeps images and containers: `overlay2`.
    pub storage_driver: String,
    /// The file system under that, in the driver's words: `extfs`.
    pub backing: Option<String>,
    /// Where that lies on its machine.
    pub root_dir: String,
    /// With whose rights it runs.
    pub rights: Rights,
    /// What a Windows engine isolates containers by, where nothing else is asked for.
    pub isolation: Option<Isolation>,
    /// `1` or `2`.
    pub cgroup_version: Option<String>,
    /// How many processors it has.
    pub cpus: Option<u64>,
    /// How much memory it has, in bytes.
    pub memory: Option<u64>,
    /// How many images it has.
    pub images: Option<u64>,
}

/// Kinds of engines, as far as they can be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// Docker Engine by itself.
    Docker,
    /// Podman.
    Podman,
    /// Docker Desktop.
    DockerDesktop,
    /// Colima.
    Colima,
    /// Lima.
    Lima,
    /// Rancher Desktop.
    RancherDesktop,
    /// OrbStack.
    OrbStack,
    /// minikube.
    Minikube,
    /// Another one.
    Other,
}

/// With whose rights an engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rights {
    /// The system's administrator's.
    Root,
    /// An ordinary user's.
    Rootless,
}

/// Where an engine is, as seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whereabouts {
    /// On this very system.
    Here,
    /// On this kernel, in a system of its own: around the container that we are in, or in another distribution of WSL.
    SameKernel,
    /// Behind an address of this machine, with another kernel: in a virtual machine on this one, or at the other end of a
    /// forwarded socket.
    AnotherKernel,
    /// Behind an address on the network.
    Network,
}

impl Docker {
    /// Asks the engine for what it has to say of itself.
    ///
    /// # Errors
    /// What befalls every request.
    pub async fn info(&self) -> Result<EngineInfo, EngineError> {
        let info = self.client.info().await.map_err(failed(Call::new(Operation::Info, "")))?;
        Ok(EngineInfo::read(&self.facts.name, info))
    }
}

impl EngineInfo {
    fn read(greeted_as: &str, info: SystemInfo) -> EngineInfo {
        let text = Option::unwrap_or_default;
        let number = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).filter(|&n| n > 0);
        let (system, name): (String, String) = (text(info.operating_system), text(info.name));
        let options = info.security_options.unwrap_or_default();
        let is_rootless = options.iter().any(|option| option.split(',').any(|part| part == "name=rootless"));
        EngineInfo {
            kind: EngineKind::of(greeted_as, &system, &name),
            version: text(info.server_version),
            os: text(info.os_type),
            arch: text(info.architecture),
            kernel: text(info.kernel_version),
            storage_driver: text(info.driver),
            backing: backing(info.driver_status.unwrap_or_default()),
            root_dir: text(info.docker_root_dir),
            rights: if is_rootless { Rights::Rootless } else { Rights::Root },
            isolation: info.isolation.and_then(|isolation| match isolation {
                SystemInfoIsolationEnum::PROCESS => Some(Isolation::Process),
                SystemInfoIsolationEnum::HYPERV => Some(Isolation::Hyperv),
                SystemInfoIsolationEnum::DEFAULT | SystemInfoIsolationEnum::EMPTY => None,
            }),
            cgroup_version: info.cgroup_version.map(|version| version.to_string()).filter(|v| !v.is_empty()),
            cpus: number(info.ncpu),
            memory: number(info.mem_total),
            images: info.images.and_then(|n| u64::try_from(n).ok()),
            system,
            name,
        }
    }

    /// Where this engine is, which was reached at `endpoint` from the machine `here`.
    pub fn whereabouts(&self, endpoint: &Endpoint, here: &Machine) -> Whereabouts {
        let is_far = match endpoint {
            Endpoint::Tcp(address) => !spec::is_loopback(address),
            Endpoint::Unix(_) | Endpoint::NamedPipe(_) => false,
        };
        // Where ours has no name, a kernel of the same system is the most that can be asked for.
        let is_same_kernel =
            if here.kernel.is_empty() { self.os == here.os } else { self.kernel == here.kernel };
        // Many machines share a kernel's name; only together with the machine's own does it say that it is this one.
        match (is_far, is_same_kernel, self.name.eq_ignore_ascii_case(&here.name)) {
            (true, ..) => Whereabouts::Network,
            (false, true, true) => Whereabouts::Here,
            (false, true, false) => Whereabouts::SameKernel,
            (false, false, _) => Whereabouts::AnotherKernel,
        }
    }
}

impl EngineKind {
    fn of(greeted_as: &str, system: &str, name: &str) -> EngineKind {
        let named =
            |part: &str| name == part || name.strip_prefix(part).is_some_and(|rest| rest.starts_with('-'));
        match greeted_as.to_ascii_lowercase().as_str() {
            "libpod" => return EngineKind::Podman,
            "docker" => {}
            _ => return EngineKind::Other,
        }
        if system.starts_with("Docker Desktop") {
            EngineKind::DockerDesktop
        } else if system.starts_with("OrbStack") {
            EngineKind::OrbStack
        } else if system.contains("Rancher Desktop") || name == "lima-rancher-desktop" {
            EngineKind::RancherDesktop
        } else if named("colima") {
            EngineKind::Colima
        } else if named("lima") {
            EngineKind::Lima
        } else if named("minikube") {
            EngineKind::Minikube
        } else {
            EngineKind::Docker
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Docker => "Docker",
            EngineKind::Podman => "Podman",
            EngineKind::DockerDesktop => "Docker Desktop",
            EngineKind::Colima => "Colima",
            EngineKind::Lima => "Lima",
            EngineKind::RancherDesktop => "Rancher Desktop",
            EngineKind::OrbStack => "OrbStack",
            EngineKind::Minikube => "minikube",
            EngineKind::Other => "an engine that is neither Docker nor Podman",
        }
    }
}

/// `[["Backing Filesystem", "extfs"], …]`.
fn backing(status: Vec<Vec<String>>) -> Option<String> {
    status.into_iter().find_map(|pair| match <[String; 2]>::try_from(pair) {
        Ok([name, value]) if name == "Backing Filesystem" && value != "<unknown>" => Some(value),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;

    fn read(greeted_as: &str, json: serde_json::Value) -> EngineInfo {
        EngineInfo::read(greeted_as, serde_json::from_value(json).unwrap())
    }

    #[test]
    fn what_an_engine_says_is_read() {
        let info = read(
            "Docker",
            serde_json::json!({
                "Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]],
                "DockerRootDir": "/home/me/.local/share/docker", "KernelVersion": "6.1.0-37-amd64",
                "OperatingSystem": "Debian GNU/Linux 12 (bookworm)", "OSType": "linux", "Architecture": "x86_64",
                "NCPU": 8, "MemTotal": 16_000_000_000_i64, "Images": 0, "Name": "vm", "ServerVersion": "27.3.1",
                "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"],
                "CgroupVersion": "2",
            }),
        );
        assert_eq!((info.kind, info.rights, info.isolation), (EngineKind::Docker, Rights::Rootless, None));
        assert_eq!((info.storage_driver.as_str(), info.backing.as_deref()), ("overlay2", Some("extfs")));
        assert_eq!((info.cpus, info.memory, info.images), (Some(8), Some(16_000_000_000), Some(0)));
        assert_eq!(info.cgroup_version.as_deref(), Some("2"));
        let windows =
            read("Docker", serde_json::json!({"OSType": "windows", "Isolation": "hyperv", "NCPU": 0}));
        assert_eq!((windows.isolation, windows.cpus), (Some(Isolation::Hyperv), None));
        assert_eq!(read("Libpod", serde_json::json!({})).rights, Rights::Root);
    }

    #[test]
    fn kinds_are_told_by_what_they_call_themselves() {
        let cases = [
            ("Docker", "Debian GNU/Linux 12 (bookworm)", "vm", EngineKind::Docker),
            ("Docker", "Docker Desktop", "docker-desktop", EngineKind::DockerDesktop),
            ("Docker", "Docker Desktop (containerized)", "linuxkit-0", EngineKind::DockerDesktop),
            ("Docker", "Ubuntu 24.04.1 LTS", "colima", EngineKind::Colima),
            ("Docker", "Ubuntu 24.04.1 LTS", "colima-work", EngineKind::Colima),
            ("Docker", "Ubuntu 24.10", "lima-docker", EngineKind::Lima),
            ("Docker", "Alpine Linux v3.19", "lima-rancher-desktop", EngineKind::RancherDesktop),
            ("Docker", "Rancher Desktop WSL Distribution", "pc", EngineKind::RancherDesktop),
            ("Docker", "OrbStack", "orbstack", EngineKind::OrbStack),
            ("Docker", "Buildroot 2023.02.9", "minikube", EngineKind::Minikube),
            ("Docker", "Debian", "limapc", EngineKind::Docker),
            ("Libpod", "fedora", "localhost.localdomain", EngineKind::Podman),
            ("", "x", "colima", EngineKind::Other),
        ];
        for (greeted_as, system, name, kind) in cases {
            assert_eq!(EngineKind::of(greeted_as, system, name), kind, "{system} {name}");
        }
    }

    #[test]
    fn an_engine_is_here_only_with_the_same_kernel_and_name() {
        let mut here = Machine::of(&Environment::default());
        (here.kernel, here.name) = ("6.1".to_owned(), "pc".to_owned());
        let unix = || Endpoint::Unix("/x".into());
        let tcp = |address: &str| Endpoint::Tcp(address.to_owned());
        let cases = [
            (unix(), "6.1", "pc", Whereabouts::Here),
            (tcp("localhost:2375"), "6.1", "pc", Whereabouts::Here),
            (tcp("127.0.0.2:2375"), "6.1", "pc", Whereabouts::Here),
            (tcp("[::1]:2375"), "6.1", "pc", Whereabouts::Here),
            (unix(), "6.1", "docker-desktop", Whereabouts::SameKernel),
            (unix(), "6.6.0-linuxkit", "pc", Whereabouts::AnotherKernel),
            (Endpoint::NamedPipe("p".into()), "6.6", "docker-desktop", Whereabouts::AnotherKernel),
            (tcp("builder:2375"), "6.1", "pc", Whereabouts::Network),
            (tcp("10.0.0.1:2375"), "6.1", "pc", Whereabouts::Network),
        ];
        for (endpoint, kernel, name, expected) in cases {
            let info = read("Docker", serde_json::json!({"KernelVersion": kernel, "Name": name}));
            assert_eq!(info.whereabouts(&endpoint, &here), expected, "{endpoint} {kernel} {name}");
        }
        // Windows does not tell its kernel's release.
        (here.kernel, here.os) = (String::new(), "windows");
        for (os, name, expected) in [
            ("windows", "PC", Whereabouts::Here),
            ("windows", "other", Whereabouts::SameKernel),
            ("linux", "docker-desktop", Whereabouts::AnotherKernel),
        ] {
            let info =
                read("Docker", serde_json::json!({"OSType": os, "KernelVersion": "10.0", "Name": name}));
            assert_eq!(info.whereabouts(&Endpoint::NamedPipe("p".into()), &here), expected, "{os} {name}");
        }
    }
}
