//! Progress of work in many pieces: one bar on a terminal, otherwise one line per piece. It serves
//! `fastbuild bench`, whose pieces are not phases of a build.

use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Mode, Streams, Verbosity, lock, wording};
use crate::report::stderr_writer::{LineState, Own};

/// The steps of the bar for one piece.
const STEPS: u64 = 100;

/// Shows progress. Pieces begin one after the other; the next piece ends the one before.
pub struct Meter(Mutex<Inner>);

struct Inner {
    bar: Option<ProgressBar>,
    own: Own,
    tells: Tells,
    pieces: u64,
    begun: u64,
    piece: String,
}

/// What is printed on lines of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tells {
    /// Each piece, and each message.
    Pieces,
    /// Each message.
    Words,
    /// Nothing.
    Nothing,
}

impl Meter {
    /// A meter with a build's modes. JSON shows nothing, because a benchmark has no events.
    pub fn new(mode: Mode, verbosity: Verbosity, streams: Streams) -> Meter {
        let own = Own::new(streams.own, LineState::default()).with(streams.look);
        let (bar, tells) = match (mode, verbosity) {
            (Mode::Json, _) | (_, Verbosity::Quiet) => (None, Tells::Nothing),
            (Mode::None, _) => (None, Tells::Words),
            (Mode::Plain, _) => (None, Tells::Pieces),
            (Mode::Bar, _) => {
                (Some(ProgressBar::with_draw_target(Some(STEPS), streams.screen)), Tells::Words)
            }
        };
        if let Some(bar) = &bar {
            bar.set_style(style());
        }
        Meter(Mutex::new(Inner { bar, own, tells, pieces: 0, begun: 0, piece: String::new() }))
    }

    /// Adds to the number of expected pieces.
    pub fn expect(&self, pieces: u64) {
        lock(&self.0).pieces += pieces;
    }

    /// Subtracts pieces that were expected but will not come.
    pub fn give_up(&self, pieces: u64) {
        let mut inner = lock(&self.0);
        inner.pieces = inner.pieces.saturating_sub(pieces).max(inner.begun);
    }

    /// A piece begins.
    pub fn begin(&self, piece: &str) {
        let mut inner = lock(&self.0);
        inner.begun += 1;
        inner.pieces = inner.pieces.max(inner.begun);
        piece.clone_into(&mut inner.piece);
        if inner.tells == Tells::Pieces {
            let line = format!("[{}/{}] {piece}", inner.begun, inner.pieces);
            inner.own.lines(&wording::line(&line));
        }
        inner.draw(0, piece);
    }

    /// The piece's progress: `done` of `of`, and the current activity.
    pub fn moved(&self, done: u64, of: u64, doing: &str) {
        let mut inner = lock(&self.0);
        let steps = if of == 0 { 0 } else { u128::from(STEPS) * u128::from(done.min(of)) / u128::from(of) };
        let text = format!("{}: {doing}", inner.piece);
        inner.draw(u64::try_from(steps).unwrap_or(0), &text);
    }

    /// Prints a line for people.
    pub fn say(&self, sentence: &str) {
        let mut inner = lock(&self.0);
        if inner.tells == Tells::Nothing {
            return;
        }
        let Inner { bar, own, .. } = &mut *inner;
        let line = wording::line(sentence);
        match bar {
            Some(bar) => bar.suspend(|| own.lines(&line)),
            None => own.lines(&line),
        }
    }

    /// Removes the bar; nothing is drawn afterwards.
    pub fn clear(&self) {
        if let Some(bar) = lock(&self.0).bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Inner {
    fn draw(&mut self, steps: u64, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length((self.pieces * STEPS).max(1));
            bar.set_position(self.begun.saturating_sub(1) * STEPS + steps);
            bar.set_message(crate::text::one_line(text));
        }
    }
}

/// A fixed template; a test draws it.
fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template("measuring [{bar:24}] {percent}% {wide_msg}");
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use std::io;

    use indicatif::ProgressDrawTarget;

    use super::*;
    use crate::report::{
        Look, Shows,
        testing::{FakeScreen, Shared},
    };

    fn streams(own: Box<dyn io::Write + Send>, screen: ProgressDrawTarget) -> Streams {
        let nowhere = || Box::new(io::sink());
        Streams {
            stdout: nowhere(),
            stdout_shows: Shows::Elsewhere,
            stderr: nowhere(),
            own,
            screen,
            look: Look::default(),
        }
    }

    #[test]
    fn a_bar_shows_how_far_all_of_it_is_and_goes() {
        let screen = FakeScreen::default();
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let meter = Meter::new(Mode::Bar, Verbosity::Normal, streams(Box::new(screen.clone()), target));
        meter.expect(4);
        meter.begin("tmpfs, round 1");
        meter.begin("named volume, round 1");
        meter.moved(1, 2, "writing\x1b");
        insta::assert_snapshot!(screen.shown(), @r"measuring [=========>              ] 38% named volume, round 1: writing\u{1b}");
        meter.give_up(1);
        meter.begin("bind mount, round 1");
        meter.say("a word");
        insta::assert_snapshot!(screen.shown(), @r"
        fastbuild: a word
        measuring [================>       ] 67% bind mount, round 1
        ");
        meter.clear();
        assert_eq!(screen.shown(), "fastbuild: a word");
    }

    #[test]
    fn without_a_screen_each_piece_is_a_line() {
        let written = Shared::default();
        let own = streams(Box::new(written.clone()), ProgressDrawTarget::hidden());
        let meter = Meter::new(Mode::Plain, Verbosity::Normal, own);
        meter.expect(2);
        meter.begin("tmpfs");
        meter.moved(1, 2, "writing");
        meter.begin("volume");
        assert_eq!(written.text(), "fastbuild: [1/2] tmpfs\nfastbuild: [2/2] volume\n");
    }

    #[test]
    fn the_quiet_one_says_nothing() {
        let written = Shared::default();
        let own = streams(Box::new(written.clone()), ProgressDrawTarget::hidden());
        let meter = Meter::new(Mode::Plain, Verbosity::Quiet, own);
        meter.begin("tmpfs");
        meter.say("a word");
        assert_eq!(written.text(), "");
    }
}
