//! What `fastbuild bench` measured of this project, as far as it holds for the build at hand. Pure; [`super::facts`] reads it.

use super::{Decision, Reason, Route};
use crate::bench::{
    Choice, Samples,
    advice::choose_among,
    profile::{EngineId, Mismatch},
};

/// What is known of routes by measuring.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Measured {
    /// Nothing.
    #[default]
    Nothing,
    /// Something that does not hold here.
    Elsewhere(Mismatch),
    /// This.
    Here {
        /// The routes that were measured, fastest first.
        ranking: Vec<(Route, Samples)>,
        /// The engine of that, as far as its address tells; none where there was none.
        engine: Option<EngineId>,
    },
}

impl Measured {
    /// The best of the routes that can be taken.
    pub(super) fn choose(&self, can: impl Fn(Route) -> bool) -> Option<Choice> {
        let Measured::Here { ranking, .. } = self else { return None };
        let those: Vec<_> = ranking.iter().filter(|(route, _)| can(*route)).cloned().collect();
        choose_among(&those)
    }

    /// The engine that the measuring holds for.
    pub(super) fn engine(&self) -> Option<&EngineId> {
        match self {
            Measured::Here { engine, .. } => engine.as_ref(),
            Measured::Nothing | Measured::Elsewhere(_) => None,
        }
    }

    /// What is said where something was measured, and is of no use.
    pub(super) fn note(&self) -> String {
        match self {
            Measured::Elsewhere(why) => {
                format!("; what `fastbuild bench` found is not used, for it was {why}")
            }
            Measured::Nothing | Measured::Here { .. } => String::new(),
        }
    }
}

/// A choice as a decision.
pub(super) fn decision(choice: Choice) -> Decision<Route> {
    Decision {
        value: choice.route,
        reason: Reason::Found { why: format!("by `fastbuild bench`: {}", choice.reason) },
    }
}
