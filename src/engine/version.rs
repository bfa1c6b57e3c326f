//! A version of the Engine API.

use std::fmt;

/// A version of the Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// The number before the dot.
    pub major: usize,
    /// The number after the dot.
    pub minor: usize,
}

impl ApiVersion {
    pub(super) fn parse(text: &str) -> Option<ApiVersion> {
        let (major, minor) = text.split_once('.')?;
        Some(ApiVersion { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// The newest version that both sides speak.
    pub(super) fn agreed(engine: ApiVersion) -> ApiVersion {
        let ours = bollard::API_DEFAULT_VERSION;
        engine.min(ApiVersion { major: ours.major_version, minor: ours.minor_version })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
