//! An engine's address as docker writes it -> [`Endpoint`]. Only sockets' existence is checked.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::PlanError;
use crate::{
    config::docker::{Context, DockerConfig, Encryption},
    environment::Environment,
    spec::{Decision, Endpoint, Reason},
};

/// Docker's port for connections that are not encrypted.
const PORT: u16 = 2375;

const SYSTEM_SOCKET: &str = "/var/run/docker.sock";
const SYSTEM_PIPE: &str = "//./pipe/docker_engine";

/// The reason why an address cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    /// The address is valid, and fastbuild does not support that kind of connection.
    #[error("{what} is not supported yet; {instead}")]
    Unsupported {
        /// The kind of connection.
        what: &'static str,
        /// The advice.
        instead: &'static str,
    },
    /// Not an address.
    #[error(
        "it is not the address of an engine; write unix:///PATH, tcp://HOST:PORT or npipe:////./pipe/NAME"
    )]
    Malformed,
}

const SSH: BadEndpoint = BadEndpoint::Unsupported {
    what: "an engine over ssh",
    instead: "forward its socket with `ssh -nNT -L /tmp/engine.sock:/var/run/docker.sock USER@HOST` and say -H \
              unix:///tmp/engine.sock",
};
const TLS: BadEndpoint = BadEndpoint::Unsupported {
    what: "an engine over TLS",
    instead: "forward its socket through ssh and name that with -H unix:///PATH, or unset DOCKER_TLS_VERIFY if the \
              engine takes connections that are not encrypted",
};
/// The engine that `host` names; this machine's engine when the settings name none.
///
/// # Errors
/// [`PlanError::Endpoint`].
pub fn decide(host: Option<&Decision<String>>, env: &Environment) -> Result<Decision<Endpoint>, PlanError> {
    decide_among(host, env, Path::exists)
}

fn decide_among(
    host: Option<&Decision<String>>,
    env: &Environment,
    exists: impl Fn(&Path) -> bool,
) -> Result<Decision<Endpoint>, PlanError> {
    let (address, reason) = match host {
        Some(host) => (host.value.clone(), host.reason.clone()),
        None => match DockerConfig::of(env).context(env) {
            Some(context) => of_context(context)?,
            None => return Ok(this_machines(env, exists)),
        },
    };
    let parsed = parse(&address).and_then(|endpoint| match endpoint {
        Endpoint::Tcp(_) if env.filled("DOCKER_TLS_VERIFY").is_some() => Err(TLS),
        endpoint => Ok(endpoint),
    });
    match parsed {
        Ok(value) => Ok(Decision { value, reason }),
        Err(problem) => Err(PlanError::Endpoint { reason, address, problem }),
    }
}

/// The address that a docker context names.
fn of_context(context: Context) -> Result<(String, Reason), PlanError> {
    let Context { name, address, encryption } = context;
    let reason = Reason::Context { name };
    match (address, encryption) {
        (Some(address), Encryption::None) => Ok((address, reason)),
        (Some(address), Encryption::Tls) => Err(PlanError::Endpoint { reason, address, problem: TLS }),
        (None, _) => Err(PlanError::NoContext { reason }),
    }
}

pub(super) fn parse(address: &str) -> Result<Endpoint, BadEndpoint> {
    let (scheme, rest) = match address.split_once("://") {
        Some(parts) => parts,
        // Docker takes a bare `host:port` for TCP.
        None if !address.starts_with('/') => ("tcp", address),
        None => return Err(BadEndpoint::Malformed),
    };
    match scheme {
        "unix" if rest.starts_with('/') => Ok(Endpoint::Unix(PathBuf::from(rest))),
        "tcp" | "http" => with_port(rest.strip_suffix('/').unwrap_or(rest)).map(Endpoint::Tcp),
        "npipe" if !rest.is_empty() => Ok(Endpoint::NamedPipe(rest.replace('\\', "/"))),
        "ssh" => Err(SSH),
        "https" => Err(TLS),
        _ => Err(BadEndpoint::Malformed),
    }
}

/// `HOST:PORT`, with docker's port if none is given. An IPv6 address is in brackets.
fn with_port(host: &str) -> Result<String, BadEndpoint> {
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (name, port) = match bracketed {
        Some((name, "")) => (name, None),
        Some((name, port)) => (name, Some(port.strip_prefix(':').ok_or(BadEndpoint::Malformed)?)),
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let odd = |c: char| c.is_whitespace() || matches!(c, '/' | '@' | '[' | ']');
    if name.is_empty() || name.contains(odd) || (bracketed.is_none() && name.contains(':')) {
        return Err(BadEndpoint::Malformed);
    }
    let port: u16 = port.map_or(Ok(PORT), str::parse).map_err(|_| BadEndpoint::Malformed)?;
    Ok(if bracketed.is_some() { format!("[{name}]:{port}") } else { format!("{name}:{port}") })
}

/// The system's engine, else one that belongs to the user. If neither exists, the system's; the
/// engine's error then explains that it is missing.
fn this_machines(env: &Environment, exists: impl Fn(&Path) -> bool) -> Decision<Endpoint> {
    if cfg!(windows) {
        return Decision::default(Endpoint::NamedPipe(SYSTEM_PIPE.to_owned()), "this machine's engine");
    }
    let below = |base: Option<PathBuf>, tail: &str| base.map(|base| base.join(tail));
    let runtime = env.filled("XDG_RUNTIME_DIR").map(PathBuf::from);
    let candidates = [
        (Some(PathBuf::from(SYSTEM_SOCKET)), "this machine's engine"),
        (below(runtime, "docker.sock"), "the user's rootless engine"),
        (below(env.home.clone(), ".docker/run/docker.sock"), "Docker Desktop's engine"),
        (below(env.home.clone(), ".colima/default/docker.sock"), "Colima's engine"),
    ];
    let found =
        candidates.into_iter().filter_map(|(path, why)| Some((path?, why))).find(|(path, _)| exists(path));
    let (path, why) = found.unwrap_or_else(|| (PathBuf::from(SYSTEM_SOCKET), "this machine's engine"));
    Decision::default(Endpoint::Unix(path), why)
}

/// The address as docker writes it.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{}", path.to_string_lossy()),
            Endpoint::Tcp(address) => write!(f, "tcp://{address}"),
            Endpoint::NamedPipe(name) => write!(f, "npipe://{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_docker_reads_them() {
        let cases = [
            ("unix:///run/x.sock", "unix:///run/x.sock"),
            ("tcp://builder:1234", "tcp://builder:1234"),
            ("tcp://builder", "tcp://builder:2375"),
            ("tcp://[::1]", "tcp://[::1]:2375"),
            ("tcp://[fe80::1]:99/", "tcp://[fe80::1]:99"),
            ("http://10.0.0.1:80", "tcp://10.0.0.1:80"),
            ("localhost:2375", "tcp://localhost:2375"),
            ("npipe:////./pipe/docker_engine", "npipe:////./pipe/docker_engine"),
            (r"npipe://\\.\pipe\x", "npipe:////./pipe/x"),
        ];
        for (address, shown) in cases {
            assert_eq!(parse(address).map(|e| e.to_string()).as_deref(), Ok(shown), "{address}");
        }
    }

    #[test]
    fn what_cannot_be_reached_is_said() {
        let malformed = [
            "/run/x.sock",
            "unix://x",
            "tcp://",
            "tcp://a:b",
            "tcp://a:1/x",
            "tcp://::1",
            "fd://3",
            "tcp://a:70000",
        ];
        for address in malformed {
            assert_eq!(parse(address), Err(BadEndpoint::Malformed), "{address}");
        }
        assert_eq!(parse("ssh://me@host"), Err(SSH));
        assert_eq!(parse("https://host"), Err(TLS));
    }

    fn env(vars: &[(&str, &str)]) -> Environment {
        let vars = vars.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Environment { vars, home: Some("/home/me".into()), ..Environment::default() }
    }

    fn host(address: &str) -> Decision<String> {
        Decision { value: address.into(), reason: Reason::Env { name: "DOCKER_HOST" } }
    }

    #[test]
    fn a_connection_that_should_be_encrypted_is_never_made_in_the_clear() {
        let tls = env(&[("DOCKER_TLS_VERIFY", "1")]);
        let error = decide_among(Some(&host("tcp://x:2376")), &tls, |_| true).unwrap_err();
        assert!(
            error.to_string().contains("DOCKER_HOST: tcp://x:2376: an engine over TLS is not supported yet"),
            "{error}"
        );
        assert!(decide_among(Some(&host("unix:///x")), &tls, |_| true).is_ok());
        assert!(decide_among(Some(&host("tcp://x")), &env(&[("DOCKER_TLS_VERIFY", "")]), |_| true).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn the_users_own_engine_is_found_where_the_system_has_none() {
        let env = env(&[("XDG_RUNTIME_DIR", "/run/user/7")]);
        let cases = [
            (&["/var/run/docker.sock", "/run/user/7/docker.sock"][..], "unix:///var/run/docker.sock"),
            (
                &["/run/user/7/docker.sock", "/home/me/.docker/run/docker.sock"],
                "unix:///run/user/7/docker.sock",
            ),
            (&["/home/me/.docker/run/docker.sock"], "unix:///home/me/.docker/run/docker.sock"),
            (&["/home/me/.colima/default/docker.sock"], "unix:///home/me/.colima/default/docker.sock"),
            (&[], "unix:///var/run/docker.sock"),
        ];
        for (there, expected) in cases {
            let found =
                decide_among(None, &env, |path| there.iter().any(|known| path == Path::new(known))).unwrap();
            assert_eq!(found.value.to_string(), expected);
        }
    }
}
