//! `-q`: errors, and nothing else.

use std::time::Duration;

use super::{
    Renderer,
    events::{Event, Failure},
    own::Own,
    wording,
};

/// The renderer of `-q`.
pub struct Silent(pub Own);

impl Renderer for Silent {
    fn event(&mut self, _: Duration, _: &Event) {}

    fn failure(&mut self, _: Duration, failure: &Failure) {
        self.0.lines(&wording::failure(failure));
    }

    fn clear(&mut self) {}
}
