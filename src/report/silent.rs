//! `-q`: errors, and the warning that a build runs without a container; nothing else.

use std::time::Duration;

use super::{
    Renderer,
    events::{Event, Failure, Warning},
    wording,
};
use crate::report::stderr_writer::Own;

/// The renderer of `-q`.
pub struct Silent(pub Own);

impl Renderer for Silent {
    fn event(&mut self, _: Duration, event: &Event) {
        if let Event::Warned(warning @ Warning::BuildsHere { .. }) = event {
            self.0.lines(&wording::warning_line(warning));
        }
    }

    fn failure(&mut self, _: Duration, failure: &Failure) {
        self.0.lines(&wording::failure(failure));
    }

    fn clear(&mut self) {}
}
