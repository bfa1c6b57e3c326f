//! The agent as a program: the bytes that are put into a workspace. `build.rs` makes them.

/// The static Linux program; empty when this fastbuild was built without one.
const BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent"));

/// The architecture that the agent runs on, in an engine's terms.
const ARCHITECTURE: &str = if cfg!(target_arch = "x86_64") {
    "amd64"
} else if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    std::env::consts::ARCH
};

/// The agent's path in a workspace.
pub const PATH: &str = "/.fastbuild/agent";

/// Why there is no agent for an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAgent {
    /// This fastbuild contains no agent.
    #[error("this fastbuild was built without an agent")]
    NotBuiltIn,
    /// The image is for another operating system or processor.
    #[error("the image is for {os}/{architecture}, the agent for linux/{ARCHITECTURE}")]
    OtherPlatform {
        /// The image's operating system.
        os: String,
        /// The image's architecture.
        architecture: String,
    },
}

/// The agent that runs on this machine.
///
/// # Errors
/// Why there is no agent; [`NoAgent::OtherPlatform`] is then about this machine.
pub fn for_this_machine() -> Result<&'static [u8], NoAgent> {
    for_platform(std::env::consts::OS, ARCHITECTURE)
}

/// The agent that runs in an image for `os` and `architecture` (in Go's terms).
///
/// # Errors
/// Why there is no agent.
pub fn for_platform(os: &str, architecture: &str) -> Result<&'static [u8], NoAgent> {
    if BYTES.is_empty() {
        return Err(NoAgent::NotBuiltIn);
    }
    if os != "linux" || architecture != ARCHITECTURE {
        return Err(NoAgent::OtherPlatform { os: os.to_owned(), architecture: architecture.to_owned() });
    }
    Ok(BYTES)
}
