//! What [`crate::workspace`] says of itself -> what renderers are told.

use crate::{
    report::events::{MadeBecause, NotWarm, Reached},
    workspace::{self, How, Why},
};

impl From<&How> for Reached {
    fn from(how: &How) -> Reached {
        match how {
            How::Found => Reached::Found,
            How::Started => Reached::Started,
            How::Restarted { because } => Reached::Restarted { reason: because.clone() },
            How::Made(why) => Reached::Made(match why {
                Why::Fresh => MadeBecause::Missing,
                Why::Asked => MadeBecause::Asked,
                Why::Changed(changes) => MadeBecause::Changed { changes: changes.clone() },
                Why::Broken(reason) => MadeBecause::Broken { reason: reason.clone() },
            }),
        }
    }
}

impl From<workspace::NotWarm> for NotWarm {
    fn from(why: workspace::NotWarm) -> NotWarm {
        match why {
            workspace::NotWarm::NoAgent(no_agent) => NotWarm::NoAgent { detail: no_agent.to_string() },
            workspace::NotWarm::ReadOnlyRoot { .. } => NotWarm::ReadOnly,
            other => NotWarm::AgentFailed { detail: other.to_string() },
        }
    }
}
