//! `config.json` of the docker client -> the settings for every build of this user: the current
//! context and the proxies. Other keys are not read here. A part that cannot be read or understood
//! counts as not set, as in docker itself.

use std::path::PathBuf;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    environment::Environment,
    spec::{Decision, EnvVar, Reason},
    state::read_json,
};

/// Each proxy's key in the file, and the variable that it becomes.
const PROXIES: [(&str, &str); 5] = [
    ("httpProxy", "HTTP_PROXY"),
    ("httpsProxy", "HTTPS_PROXY"),
    ("ftpProxy", "FTP_PROXY"),
    ("noProxy", "NO_PROXY"),
    ("allProxy", "ALL_PROXY"),
];

/// The client's own file.
#[derive(Debug, Clone, Default)]
pub struct DockerConfig {
    directory: PathBuf,
    file: Value,
}

/// The address of the engine in a docker context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// Its name.
    pub name: String,
    /// The engine's address; `None` when there is no such context or the context has no engine.
    pub address: Option<String>,
    /// How a connection is made.
    pub encryption: Encryption,
}

/// See [`Context::encryption`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Not encrypted.
    None,
    /// The context has certificates.
    Tls,
}

impl DockerConfig {
    /// The user's file: in `DOCKER_CONFIG`, else in the home directory.
    pub fn of(env: &Environment) -> DockerConfig {
        let named = env.filled("DOCKER_CONFIG").map(PathBuf::from);
        let Some(directory) = named.or_else(|| Some(env.home.as_ref()?.join(".docker"))) else {
            return DockerConfig::default();
        };
        let directory = env.cwd.join(directory);
        let file = read_json(&directory.join("config.json")).unwrap_or_default();
        DockerConfig { directory, file }
    }

    /// The context that docker would take when no address names an engine; `None` for `default`.
    pub fn context(&self, env: &Environment) -> Option<Context> {
        let named = env.filled("DOCKER_CONTEXT").map(|name| name.to_string_lossy().into_owned());
        let name = named.or_else(|| text(&self.file["currentContext"]))?;
        if name == "default" {
            return None;
        }
        let key: String = Sha256::digest(&name).iter().map(|byte| format!("{byte:02x}")).collect();
        let contexts = self.directory.join("contexts");
        let meta: Value = read_json(&contexts.join("meta").join(&key).join("meta.json")).unwrap_or_default();
        let has_certificates = contexts.join("tls").join(&key).join("docker").is_dir();
        Some(Context {
            name,
            address: text(&meta["Endpoints"]["docker"]["Host"]),
            encryption: if has_certificates { Encryption::Tls } else { Encryption::None },
        })
    }

    /// The variables that `docker run` sets in each container of this engine, in both spellings.
    pub fn proxies(&self, address: &str) -> Vec<Decision<EnvVar>> {
        let proxies = &self.file["proxies"];
        let of = proxies.get(address).unwrap_or(&proxies["default"]);
        let set = PROXIES.iter().filter_map(|(key, name)| Some((name, text(&of[*key])?)));
        let variable = |name, value: &String| Decision {
            value: EnvVar { name, value: value.clone() },
            reason: Reason::File { path: self.directory.join("config.json"), line: None },
        };
        set.flat_map(|(name, value)| {
            [variable((*name).to_owned(), &value), variable(name.to_lowercase(), &value)]
        })
        .collect()
    }
}

/// A string that is not empty.
fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}
