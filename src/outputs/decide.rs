//! One product, what the host has, what fastbuild knows -> what to do. Pure: every case is a row of the table below.
//!
//! | build has | fastbuild knows that the host had | host has now | what happens |
//! |---|---|---|---|
//! | nothing | nothing | anything | it is the user's: leave |
//! | nothing | a product or a source | the same | delete |
//! | nothing | a product or a source | nothing | leave |
//! | nothing | a product or a source | something else | the user changed it: keep, warn |
//! | what was uploaded | that | anything | the build did not touch it: leave |
//! | a product | anything | the very same | leave (set the mode when only that differs) |
//! | a product | nothing or an old product | nothing | put |
//! | a product | an uploaded source | nothing | the user deleted it: put beside, warn |
//! | a product | a product or a source | the same | put over it |
//! | a product | a product or a source | something else | the user changed it: put beside, warn |
//! | a product | nothing | something | put, and move the old one to safety |

/// Whose knowledge of the host's earlier state is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nobody's: the path is new, or the user's own.
    Nothing,
    /// It was uploaded in this run, and the build's version is the same.
    UploadedUnchanged,
    /// It was uploaded in this run, and the build's version differs or is gone.
    Uploaded,
    /// An earlier run of fastbuild wrote it.
    Recorded,
}

/// What the host has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostHas {
    /// Nothing.
    Nothing,
    /// The build's version already, byte for byte.
    Product(ModeIs),
    /// What fastbuild knows it had.
    AsKnown,
    /// Something else.
    Other,
}

/// Whether the permission bits are right as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeIs {
    /// They are.
    Right,
    /// They are not, and nobody but fastbuild has a say in them.
    Wrong,
}

/// Whether the build has the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildHas {
    /// It has.
    It,
    /// It has not.
    Nothing,
}

/// What to do with one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Do not touch it.
    Leave,
    /// Do not touch it; it is what the build made.
    AlreadyRight,
    /// Set its mode.
    SetMode,
    /// Make it where nothing is.
    Put,
    /// Put it over what fastbuild knows.
    Replace,
    /// Put it, and move what was there to safety.
    Displace,
    /// Keep the host's and put the build's version beside it.
    Beside,
    /// Delete it.
    Delete,
    /// The build deleted it, but the user changed it: keep it, and say so.
    KeepEdited,
}

/// See the table above.
pub fn decide(build: BuildHas, known: Known, host: HostHas) -> Verdict {
    match (build, known, host) {
        (BuildHas::Nothing, Known::Nothing, _) | (BuildHas::Nothing, _, HostHas::Nothing) => Verdict::Leave,
        (BuildHas::Nothing, _, HostHas::AsKnown | HostHas::Product(_)) => Verdict::Delete,
        (BuildHas::Nothing, _, HostHas::Other) => Verdict::KeepEdited,
        (BuildHas::It, Known::UploadedUnchanged, _) => Verdict::Leave,
        (BuildHas::It, _, HostHas::Product(ModeIs::Right)) => Verdict::AlreadyRight,
        (BuildHas::It, _, HostHas::Product(ModeIs::Wrong)) => Verdict::SetMode,
        (BuildHas::It, Known::Uploaded, HostHas::Nothing) => Verdict::Beside,
        (BuildHas::It, _, HostHas::Nothing) => Verdict::Put,
        (BuildHas::It, Known::Nothing, HostHas::AsKnown | HostHas::Other) => Verdict::Displace,
        (BuildHas::It, _, HostHas::AsKnown) => Verdict::Replace,
        (BuildHas::It, _, HostHas::Other) => Verdict::Beside,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_files_are_never_lost() {
        use {HostHas as H, Known as K, Verdict as V};
        let it = BuildHas::It;
        let gone = BuildHas::Nothing;
        let right = H::Product(ModeIs::Right);
        let wrong = H::Product(ModeIs::Wrong);
        let table = [
            (gone, K::Nothing, H::Nothing, V::Leave),
            (gone, K::Nothing, H::Other, V::Leave),
            (gone, K::Recorded, H::AsKnown, V::Delete),
            (gone, K::Recorded, H::Nothing, V::Leave),
            (gone, K::Recorded, H::Other, V::KeepEdited),
            (gone, K::Uploaded, H::AsKnown, V::Delete),
            (gone, K::Uploaded, H::Nothing, V::Leave),
            (gone, K::Uploaded, H::Other, V::KeepEdited),
            (it, K::UploadedUnchanged, H::AsKnown, V::Leave),
            (it, K::UploadedUnchanged, H::Other, V::Leave),
            (it, K::UploadedUnchanged, H::Nothing, V::Leave),
            (it, K::Uploaded, H::AsKnown, V::Replace),
            (it, K::Uploaded, H::Other, V::Beside),
            (it, K::Uploaded, H::Nothing, V::Beside),
            (it, K::Uploaded, right, V::AlreadyRight),
            (it, K::Recorded, H::AsKnown, V::Replace),
            (it, K::Recorded, H::Other, V::Beside),
            (it, K::Recorded, H::Nothing, V::Put),
            (it, K::Recorded, wrong, V::SetMode),
            (it, K::Nothing, H::Nothing, V::Put),
            (it, K::Nothing, H::Other, V::Displace),
            (it, K::Nothing, right, V::AlreadyRight),
            (it, K::Nothing, wrong, V::SetMode),
        ];
        for (build, known, host, verdict) in table {
            assert_eq!(decide(build, known, host), verdict, "{build:?}, {known:?}, {host:?}");
        }
    }
}
