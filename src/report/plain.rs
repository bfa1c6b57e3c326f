//! Events -> lines for logs: CI, files, pipes. No escape code ever; progress seldom, and only as events come in.

use std::time::Duration;

use super::{
    Renderer, Verbosity,
    events::{Amount, Event, Failure, Phase},
    layers::Layers,
    own::Own,
    wording::{self, Summary},
};

/// A long phase says where it is at most this often.
const EVERY: Duration = Duration::from_secs(5);

/// Whether phases are told while they last, or only what remains to be known at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// `--progress plain`.
    Phases,
    /// `--progress none`: warnings, errors and the summary.
    Results,
}

/// The renderer of `plain` and `none`.
pub struct Plain {
    own: Own,
    telling: Telling,
    verbosity: Verbosity,
    long: Option<Long>,
    layers: Layers,
    summary: Summary,
}

/// The phase whose beginning was told last.
struct Long {
    phase: Phase,
    total: Option<Amount>,
    told: Duration,
}

impl Plain {
    /// Writes lines to `own`.
    pub fn new(own: Own, telling: Telling, verbosity: Verbosity) -> Plain {
        let (layers, summary) = (Layers::default(), Summary::default());
        Plain { own, telling, verbosity, long: None, layers, summary }
    }

    fn say(&mut self, sentence: &str) {
        self.own.lines(&wording::line(sentence));
    }

    fn verbose(&mut self, sentence: &str) {
        if self.verbosity == Verbosity::Verbose {
            self.say(sentence);
        }
    }

    fn started(&mut self, at: Duration, phase: Phase, total: Option<Amount>) {
        if self.telling == Telling::Results || !is_long(phase) {
            return;
        }
        self.long = Some(Long { phase, total, told: at });
        self.say(&spaced(wording::doing(phase), &wording::amount(total.unwrap_or_default())));
    }

    fn progress(&mut self, at: Duration, phase: Phase, text: impl FnOnce(&Plain, Option<Amount>) -> String) {
        let Some(long) = self.long.as_mut().filter(|long| long.phase == phase) else { return };
        if at.saturating_sub(long.told) < EVERY {
            return;
        }
        long.told = at;
        let total = long.total;
        let text = text(self, total);
        self.say(&spaced(wording::doing(phase), &text));
    }

    fn ended(&mut self, phase: Phase, done: Amount, took: Duration) {
        self.long.take_if(|long| long.phase == phase);
        self.verbose(&wording::ended(phase, done, took));
    }
}

impl Renderer for Plain {
    fn event(&mut self, at: Duration, event: &Event) {
        self.summary.note(event);
        self.layers.note(event);
        match event {
            Event::Planned { image, engine, source, command } => {
                self.verbose(&wording::planned(image, engine, source, command));
            }
            Event::WaitingForLock { pid, command } => self.say(&wording::waiting(*pid, command)),
            Event::PhaseStarted { phase, total } => self.started(at, *phase, *total),
            Event::PhaseProgress { phase, done } => {
                self.progress(at, *phase, |_, total| wording::progress(*done, total));
            }
            Event::PullProgress { .. } => self.progress(at, Phase::Pull, |plain, _| plain.layers.text()),
            Event::PhaseEnded { phase, done, took } => self.ended(*phase, *done, *took),
            Event::BuildOutputBegins => {}
            Event::Warned(warning) => self.own.lines(&wording::warning_line(warning)),
            Event::Finished { exit_code, applied, took } => {
                let sentence = self.summary.sentence(*exit_code, *applied, *took);
                self.say(&sentence);
            }
        }
    }

    fn failure(&mut self, _: Duration, failure: &Failure) {
        self.own.lines(&wording::failure(failure));
    }

    fn clear(&mut self) {}
}

/// The phases that move bytes; the others are over before a line about them could be read, and the build speaks for
/// itself.
fn is_long(phase: Phase) -> bool {
    matches!(phase, Phase::Pull | Phase::Upload | Phase::Collect)
}

fn spaced(a: &str, b: &str) -> String {
    if b.is_empty() { a.to_owned() } else { format!("{a}: {b}") }
}
