//! Directories that something needs and nothing names: the ones above an output, and those that the build left as they were
//! while the user removed them or put something in their place.

use super::{Meta, Staging};
use crate::{
    outputs::{
        OutputError,
        ops::{Action, Afterwards, Op, Over},
    },
    tree::{Kind, RelPath, Timestamp},
};

/// Where the directories above a product are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    /// Where they belong.
    InPlace,
    /// Beside something of the user's: what is below them has another place than before.
    Elsewhere,
}

impl Staging<'_> {
    /// Makes sure of the directories above a product that were not looked at, from the top down.
    pub(super) fn open_left(&mut self, path: &RelPath) -> Result<Opened, OutputError> {
        if self.left.is_empty() {
            return Ok(Opened::InPlace);
        }
        let before = self.redirects.len();
        let above = std::iter::successors(path.parent(), RelPath::parent);
        let above: Vec<_> = above.filter(|directory| self.left.contains(directory)).collect();
        for directory in above.iter().rev() {
            self.left.remove(directory);
            self.open_one(directory)?;
        }
        Ok(if self.redirects.len() == before { Opened::InPlace } else { Opened::Elsewhere })
    }

    fn open_one(&mut self, directory: &RelPath) -> Result<(), OutputError> {
        if let Some(moved) = self.redirected(directory) {
            self.plan_plain(moved);
            return Ok(());
        }
        let place = self.target.prefix.append(directory);
        match self.look(&place)?.map(|look| look.kind) {
            Some(Some(Kind::Directory)) => {}
            None => self.plan_plain(place),
            Some(_) => {
                let meta = Meta { mode: 0o755, mtime: Timestamp::default() };
                self.put_beside(directory.clone(), place, meta, None)?;
                self.forget_time();
            }
        }
        Ok(())
    }

    /// A directory as anybody would make it.
    fn plan_plain(&mut self, path: RelPath) {
        let action = Action::MakeDir { mode: 0o777, mtime: None, over: Over::Nothing };
        self.ops.push(Op { path, action, then: Afterwards::Nobodys });
    }

    /// The directory of the last step keeps the time of its making: no product names it.
    fn forget_time(&mut self) {
        if let Some(Op { action: Action::MakeDir { mtime, .. }, .. }) = self.ops.last_mut() {
            *mtime = None;
        }
    }

    /// The directories above the output that the host does not have yet.
    pub(super) fn plan_missing_parents(&mut self) -> Result<(), OutputError> {
        let above = std::iter::successors(self.target.prefix.parent(), RelPath::parent);
        for directory in above.take_while(|path| !path.is_root()) {
            if self.look(&directory)?.is_none() {
                self.plan_plain(directory);
            }
        }
        Ok(())
    }
}
