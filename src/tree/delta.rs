//! What makes one tree differ from another.

use serde::Serialize;

/// Why a path travels: the strongest reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The other side has nothing there.
    New,
    /// Its content is another, or its link's target.
    Content,
    /// Only its permission bits are others.
    Mode,
    /// It is something of another kind.
    Type,
    /// Only its time is another.
    Mtime,
    /// It is gone.
    Deleted,
}
