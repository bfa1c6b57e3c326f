//! An engine's full description of itself, and its location. The greeting holds all that a build
//! needs; this answer is for diagnosis, and takes an engine some tens of milliseconds.

use bollard::models::{SystemInfo, SystemInfoIsolationEnum};
use serde::Serialize;

use super::client::{Docker, failed};
use crate::{
    engine::error::{Call, EngineError, Operation},
    facts::Machine,
    spec::{self, Endpoint, Isolation},
};

/// An engine's description of itself. Texts are the engine's own, and empty if it gives none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EngineInfo {
    /// What kind of engine it is.
    pub kind: EngineKind,
    /// Its version.
    #[serde(skip)]
    pub version: String,
    /// The system that it runs on: `Debian GNU/Linux 12 (bookworm)`, `Docker Desktop`.
    pub system: String,
    /// The operating system of its containers: `linux`, `windows`.
    pub os: String,
    /// Its architecture, in its own words: `x86_64`, `amd64`.
    pub arch: String,
    /// Its kernel's release.
    pub kernel: String,
    /// The name of its machine. Reports leave it out, because they are shown to others.
    #[serde(skip)]
    pub name: String,
    /// The driver that stores images and containers: `overlay2`.
    pub storage_driver: String,
    /// The file system below the driver, in the driver's words: `extfs`.
    pub backing: Option<String>,
    /// The storage directory on the engine's machine.
    pub root_dir: String,
    /// The rights that it runs with.
    pub rights: Rights,
    /// The default isolation of containers on a Windows engine.
    pub isolation: Option<Isolation>,
    /// `1` or `2`.
    pub cgroup_version: Option<String>,
    /// The number of its processors.
    pub cpus: Option<u64>,
    /// Its memory, in bytes.
    pub memory: Option<u64>,
    /// The number of its images.
    pub images: Option<u64>,
}

/// The kinds of engines that fastbuild can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// Docker Engine without a product around it.
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

/// The rights that an engine runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rights {
    /// Those of the system's administrator.
    Root,
    /// Those of an ordinary user.
    Rootless,
}

/// The location of an engine, as seen from this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whereabouts {
    /// On this system.
    Here,
    /// On this kernel, in another system: outside this container, or another distribution of WSL.
    SameKernel,
    /// Behind an address of this machine, with another kernel: in a virtual machine on this one, or
    /// at the other end of a forwarded socket.
    AnotherKernel,
    /// Behind an address on the network.
    Network,
}

impl Docker {
    /// Asks the engine for its full description.
    ///
    /// # Errors
    /// The errors common to all requests.
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

    /// The location of this engine, which was reached at `endpoint` from the machine `here`.
    pub fn whereabouts(&self, endpoint: &Endpoint, here: &Machine) -> Whereabouts {
        let is_far = match endpoint {
            Endpoint::Tcp(address) => !spec::is_loopback(address),
            Endpoint::Unix(_) | Endpoint::NamedPipe(_) => false,
        };
        // If our kernel's release is unknown, the test can only require the same operating system.
        let is_same_kernel =
            if here.kernel.is_empty() { self.os == here.os } else { self.kernel == here.kernel };
        // Many machines have a kernel of the same name. Only together with the machine's name does
        // it prove that this is the same machine.
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

    /// The name, for people.
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
        // Windows does not report its kernel's release.
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
