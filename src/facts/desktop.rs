//! How Docker Desktop shares files with its virtual machine, by its settings: its engine cannot
//! tell.

use serde::Serialize;
use serde_json::Value;

use crate::environment::Environment;

/// How Docker Desktop on macOS shares files with its virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileSharing {
    /// VirtioFS.
    Virtiofs,
    /// gRPC FUSE.
    GrpcFuse,
    /// osxfs, the oldest.
    Osxfs,
}

/// Paths below the home directory; the second one is used up to Docker Desktop 4.34.
const SETTINGS: [&str; 2] = [
    "Library/Group Containers/group.com.docker/settings-store.json",
    "Library/Group Containers/group.com.docker/settings.json",
];

impl FileSharing {
    /// The value in the user's settings; `None` where there are no settings or they do not say.
    pub fn of(environment: &Environment) -> Option<FileSharing> {
        let home = environment.home.as_ref()?;
        let text = SETTINGS.iter().find_map(|path| std::fs::read_to_string(home.join(path)).ok())?;
        FileSharing::in_settings(&text)
    }

    /// VirtioFS has priority over gRPC FUSE; without both it is osxfs. Settings with a default
    /// value may be missing, so a missing key means nothing.
    fn in_settings(text: &str) -> Option<FileSharing> {
        let settings: serde_json::Map<String, Value> = serde_json::from_str(text).ok()?;
        // The newer file starts its keys with a capital letter.
        let says = |key: &str| {
            settings
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(key))
                .and_then(|(_, value)| value.as_bool())
        };
        match (says("useVirtualizationFrameworkVirtioFS")?, says("useGrpcfuse")) {
            // VirtioFS needs this framework, so it is not in use.
            (true, _) if says("useVirtualizationFramework") == Some(false) => None,
            (true, _) => Some(FileSharing::Virtiofs),
            (false, Some(true)) => Some(FileSharing::GrpcFuse),
            (false, Some(false)) => Some(FileSharing::Osxfs),
            (false, None) => None,
        }
    }

    /// The name as Docker Desktop writes it.
    pub fn name(self) -> &'static str {
        match self {
            FileSharing::Virtiofs => "VirtioFS",
            FileSharing::GrpcFuse => "gRPC FUSE",
            FileSharing::Osxfs => "osxfs",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_tell_in_both_spellings_and_absence_tells_nothing() {
        let cases = [
            (r#"{"UseVirtualizationFrameworkVirtioFS": true}"#, Some(FileSharing::Virtiofs)),
            (
                r#"{"useVirtualizationFrameworkVirtioFS": true, "useGrpcfuse": true, "cpus": 4}"#,
                Some(FileSharing::Virtiofs),
            ),
            (
                r#"{"UseVirtualizationFrameworkVirtioFS": false, "UseGrpcfuse": true}"#,
                Some(FileSharing::GrpcFuse),
            ),
            (
                r#"{"useVirtualizationFrameworkVirtioFS": false, "useGrpcfuse": false}"#,
                Some(FileSharing::Osxfs),
            ),
            (r#"{"useVirtualizationFrameworkVirtioFS": true, "useVirtualizationFramework": false}"#, None),
            (r#"{"UseVirtualizationFrameworkVirtioFS": false}"#, None),
            (r#"{"UseGrpcfuse": true}"#, None),
            (r#"{"UseVirtualizationFrameworkVirtioFS": {"value": true}}"#, None),
            ("{}", None),
            ("[]", None),
            ("not json", None),
        ];
        for (text, expected) in cases {
            assert_eq!(FileSharing::in_settings(text), expected, "{text}");
        }
    }
}
