//! Decides what to do with one path that the build changed, by what the host had there when this
//! build looked. Pure: every case is a row of the table below.
//!
//! | build has | host had | what happens |
//! |---|---|---|
//! | it | nothing | put |
//! | it | the same | leave (set the mode when only that differs) |
//! | it | what a build wrote | put over it |
//! | it | something of the user's | put, and move the old one to the safe place |
//! | nothing | nothing | leave |
//! | nothing | what a build wrote | delete |
//! | nothing | something of the user's | move it to the safe place |
//!
//! The path may change again on the host while the build runs. Then, for a source, the host's
//! version stays and the build's goes to the safe place; for an output, the build's version stays
//! and the host's goes there ([`Side`]).

use serde::{Deserialize, Serialize};

/// Whose version stays when a path changed on the host after this build had looked at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The host's.
    Source,
    /// The build's: the path lies in a named output, or a build wrote it before.
    Output,
}

/// What the host had when this build looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostHad {
    /// Nothing.
    Nothing,
    /// The build's version already, byte for byte.
    Same(ModeIs),
    /// What an earlier build wrote.
    Builds,
    /// Something that no build wrote.
    Users,
}

/// Whether the permission bits are right as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeIs {
    /// They are right.
    Right,
    /// They are wrong.
    Wrong,
}

/// Whether the build has the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildHas {
    /// It has the path.
    It,
    /// It does not have the path.
    Nothing,
}

/// What to do with one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is nothing to do.
    Leave,
    /// The host has the build's version already.
    AlreadyRight,
    /// Set its mode.
    SetMode,
    /// Put it at a free path.
    Put,
    /// Put it over what a build wrote.
    Replace,
    /// Put it, and move the old one to the safe place.
    Displace,
    /// Delete it.
    Delete,
    /// Move it to the safe place.
    Remove,
}

/// See the table above.
pub fn decide(build: BuildHas, host: HostHad) -> Verdict {
    match (build, host) {
        (BuildHas::It, HostHad::Nothing) => Verdict::Put,
        (BuildHas::It, HostHad::Same(ModeIs::Right)) => Verdict::AlreadyRight,
        (BuildHas::It, HostHad::Same(ModeIs::Wrong)) => Verdict::SetMode,
        (BuildHas::It, HostHad::Builds) => Verdict::Replace,
        (BuildHas::It, HostHad::Users) => Verdict::Displace,
        (BuildHas::Nothing, HostHad::Nothing | HostHad::Same(_)) => Verdict::Leave,
        (BuildHas::Nothing, HostHad::Builds) => Verdict::Delete,
        (BuildHas::Nothing, HostHad::Users) => Verdict::Remove,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_build_wrote_is_moved_and_never_thrown_away() {
        use {BuildHas as B, HostHad as H, Verdict as V};
        let table = [
            (B::It, H::Nothing, V::Put),
            (B::It, H::Same(ModeIs::Right), V::AlreadyRight),
            (B::It, H::Same(ModeIs::Wrong), V::SetMode),
            (B::It, H::Builds, V::Replace),
            (B::It, H::Users, V::Displace),
            (B::Nothing, H::Nothing, V::Leave),
            (B::Nothing, H::Builds, V::Delete),
            (B::Nothing, H::Users, V::Remove),
        ];
        for (build, host, verdict) in table {
            assert_eq!(decide(build, host), verdict, "{build:?}, {host:?}");
        }
    }
}
