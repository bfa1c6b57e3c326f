//! How events describe how a workspace came about, and why a build goes on without the agent.

use crate::{
    report::events,
    workspace::{Changed, How, Why, WithoutAgent},
};

impl From<&How> for events::Reached {
    fn from(how: &How) -> events::Reached {
        match how {
            How::Found => events::Reached::Found,
            How::Started => events::Reached::Started,
            How::Restarted { because } => events::Reached::Restarted { reason: because.clone() },
            How::Made(why) => events::Reached::Made(why.into()),
        }
    }
}

impl From<&Why> for events::MadeBecause {
    fn from(why: &Why) -> events::MadeBecause {
        match why {
            Why::Fresh => events::MadeBecause::Missing,
            Why::Asked => events::MadeBecause::Asked,
            Why::Changed(changes) => {
                let changes = changes.iter().map(Changed::shortened);
                events::MadeBecause::Changed { changes: changes.collect() }
            }
            Why::Broken(reason) => events::MadeBecause::Broken { reason: reason.clone() },
        }
    }
}

impl Changed {
    /// Without long values: an image's id does not help a reader.
    fn shortened(&self) -> events::Changed {
        let short = |value: &Option<String>| value.clone().filter(|value| value.chars().count() <= SHORT);
        events::Changed { what: self.what.clone(), old: short(&self.old), new: short(&self.new) }
    }
}

/// The longest value that an event contains, in characters.
const SHORT: usize = 32;

impl From<&WithoutAgent> for events::WithoutAgent {
    fn from(why: &WithoutAgent) -> events::WithoutAgent {
        match why {
            WithoutAgent::NoAgent(_) => events::WithoutAgent::NoAgent,
            WithoutAgent::ReadOnlyRoot { .. } => events::WithoutAgent::ReadOnly,
            WithoutAgent::NotStarted { .. } => events::WithoutAgent::NotStarted,
            WithoutAgent::Refused => events::WithoutAgent::Refused,
            WithoutAgent::NoAnswer { .. } => events::WithoutAgent::NoAnswer,
        }
    }
}
