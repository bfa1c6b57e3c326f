//! An output whose products are staged: the steps, and what they need.

use std::collections::HashMap;

use super::steps::Done;
use crate::{
    entry::{Kind, RelPath},
    outputs::{
        journal::Linked,
        ops::{Action, ChangeTime, Identity, Op, Over},
        record::Record,
        stage_dir::Stage,
        target::Target,
    },
    report::events::{Applied, Warning},
    spec::ApplyMode,
    sys::walk::Walk,
};

/// Everything about one output that [`super::apply()`] needs.
#[derive(Debug)]
pub struct Staged {
    /// Its place.
    pub target: Target,
    /// The kind of that place.
    pub scope: Scope,
    /// The slots.
    pub stage: Stage,
    /// How the output is put in place.
    pub apply: ApplyMode,
    /// The steps, in order.
    pub ops: Vec<Op>,
    /// What the user should know.
    pub warnings: Vec<Warning>,
    /// Counts.
    pub applied: Applied,
    /// The whole new tree, when the output is exchanged as one.
    pub prepared: Prepared,
}

impl Staged {
    /// Adapts the steps when another run has applied its products since this was compared. `record`
    /// has those products. Of two builds that write the same file the later one wins, and the
    /// earlier build's product does not count as the user's.
    pub fn come_after(&mut self, record: &Record) {
        let mut walk = Walk::new(&self.target.dir);
        for op in &mut self.ops {
            let Some(written) = record.get(&self.target.absolute(&op.path)) else { continue };
            let Ok(Some(look)) = walk.look(&op.path) else { continue };
            if look.stamp != written.stamp || look.kind == Some(Kind::Directory) {
                continue;
            }
            let now = Identity::from(&look);
            op.ctime = ChangeTime::of(look.stamp.ctime);
            match &mut op.action {
                Action::Put { over, .. } if !matches!(over, Over::EmptiedDir { .. }) => {
                    *over = Over::Known(now.into());
                }
                Action::Delete { of } => *of = now,
                Action::Remove { of } if *of != now => op.action = Action::Delete { of: now },
                _ => {}
            }
        }
    }
}

/// A whole new tree that waits for its exchange.
#[derive(Debug, Default)]
pub struct Prepared {
    pub(super) done: Done,
    /// The steps that made it, with the paths that it will have.
    pub(super) inside: Vec<Op>,
    /// What the old tree held when its files were linked, by path below the output's root.
    pub(super) linked: HashMap<RelPath, Linked>,
}

/// The kind of place that products go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The source root: paths that the build did not touch stay unchanged.
    SourceRoot,
    /// A named output in its own place of the source tree.
    Synced,
    /// Another place, which becomes equal to the build's output.
    Elsewhere,
    /// The safe place, where the source root may not be written. It starts empty, unlike the root.
    Safe,
}
