//! Events -> lines for logs: CI, files, pipes. No escape codes; rare progress, only as events come.

use std::time::Duration;

use super::{
    Renderer, Verbosity,
    events::{Event, Failure, Phase},
    layers::Layers,
    wording::{self, News, Summary},
};
use crate::{entry::Amount, report::stderr_writer::Own};

/// The shortest time between two lines about the progress of a long phase.
const EVERY: Duration = Duration::from_secs(5);

/// Whether phases are reported while they last, or only the results at the end.
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
    long: Option<Long>,
    /// With the agent, most long phases are over before a line about them could be read.
    has_workspace: bool,
    layers: Layers,
    summary: Summary,
}

/// The phase whose beginning was reported last.
struct Long {
    phase: Phase,
    total: Option<Amount>,
    told: Duration,
}

impl Plain {
    /// Writes lines to `own`.
    pub fn new(own: Own, telling: Telling, verbosity: Verbosity) -> Plain {
        let (layers, summary) = (Layers::default(), Summary::new(verbosity));
        Plain { own, telling, long: None, has_workspace: false, layers, summary }
    }

    fn say(&mut self, sentence: &str) {
        self.own.lines(&wording::line(sentence));
    }

    fn started(&mut self, at: Duration, phase: Phase, total: Option<Amount>) {
        if self.telling == Telling::Results || !is_long(phase) {
            return;
        }
        self.long = Some(Long { phase, total, told: at });
        if self.has_workspace {
            return;
        }
        self.say(&joined(wording::doing(phase), " ", &wording::amount(total.unwrap_or_default())));
    }

    fn progress(&mut self, at: Duration, phase: Phase, text: impl FnOnce(&Plain, Option<Amount>) -> String) {
        let Some(long) = self.long.as_mut().filter(|long| long.phase == phase) else { return };
        if at.saturating_sub(long.told) < EVERY {
            return;
        }
        long.told = at;
        let total = long.total;
        let text = text(self, total);
        self.say(&joined(wording::doing(phase), ": ", &text));
    }
}

impl Renderer for Plain {
    fn event(&mut self, at: Duration, event: &Event) {
        self.summary.note(event);
        self.layers.note(event);
        match event {
            Event::Planned { .. } => self.has_workspace = false,
            Event::Workspace { .. } => self.has_workspace = true,
            _ => {}
        }
        match event {
            Event::PhaseStarted { phase, total } => self.started(at, *phase, *total),
            Event::PhaseProgress { phase, done } => {
                self.progress(at, *phase, |_, total| wording::progress(*done, total));
            }
            Event::PullProgress { .. } => self.progress(at, Phase::Pull, |plain, _| plain.layers.text()),
            Event::PhaseEnded { phase, .. } => drop(self.long.take_if(|long| long.phase == *phase)),
            _ => {}
        }
        match self.summary.news(event, self.own.width()) {
            Some(News::Said(lines)) => self.own.lines(&lines),
            Some(News::Last { lines, exit_code }) => self.own.last(&lines, exit_code),
            None => {}
        }
    }

    fn failure(&mut self, _: Duration, failure: &Failure) {
        self.own.lines(&self.summary.failure(failure));
    }

    fn clear(&mut self) {}
}

/// The phases that move bytes. The others are over before a line about them could be read, and the
/// build prints its own output.
fn is_long(phase: Phase) -> bool {
    matches!(phase, Phase::Pull | Phase::Upload | Phase::Collect)
}

fn joined(a: &str, between: &str, b: &str) -> String {
    if b.is_empty() { a.to_owned() } else { format!("{a}{between}{b}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        entry::RelPath,
        report::{
            events::{AgentCost, Reached, Special, Warning},
            testing::*,
        },
    };

    fn run(telling: Telling, verbosity: Verbosity, events: &[(u64, Event)]) -> String {
        let out = Shared::default();
        let mut plain = Plain::new(out.own(), telling, verbosity);
        events.iter().for_each(|(at, event)| plain.event(ms(*at), event));
        out.text()
    }

    fn a_build() -> Vec<(u64, Event)> {
        let total = Some((2003, 20_100_000));
        let path = RelPath::new(b"src/x.sock".as_slice()).unwrap();
        vec![
            (0, planned(&["jekyll", "build"])),
            (0, started(Phase::Scan, None)),
            (20, ended(Phase::Scan, 20, 2003, 20_100_000)),
            (20, Event::Warned(Warning::Skipped { path, special: Special::Socket })),
            (30, started(Phase::Upload, total)),
            (4_000, progress(Phase::Upload, 500, 5_000_000)),
            (5_100, progress(Phase::Upload, 1203, 10_100_000)),
            (5_200, progress(Phase::Upload, 1300, 10_200_000)),
            (7_030, ended(Phase::Upload, 7_000, 2003, 20_100_000)),
            (7_100, started(Phase::Build, None)),
            (7_200, Event::BuildOutputBegins),
            (9_000, ended(Phase::Build, 1_900, 0, 0)),
            (9_000, started(Phase::Collect, None)),
            (9_300, ended(Phase::Collect, 300, 312, 2_100_000)),
            (9_400, finished(0, 9_400)),
        ]
    }

    #[test]
    fn plain_tells_of_long_phases_and_of_their_progress_every_five_seconds() {
        insta::assert_snapshot!(run(Telling::Phases, Verbosity::Normal, &a_build()), @r"
        fastbuild: warning: src/x.sock is a socket; it was not sent
        fastbuild: uploading 2,003 files, 20.1 MB
        fastbuild: uploading: 1,203 of 2,003 files, 10.1 MB of 20.1 MB
        fastbuild: collecting
        fastbuild: jekyll build: 9.40 s, 2,003 files sent (20.1 MB), 312 received (2.1 MB)
        ");
    }

    #[test]
    fn a_build_in_a_workspace_tells_of_a_phase_only_when_it_takes_long() {
        let reached = Event::Workspace { name: "w".into(), how: Reached::Found };
        let agent = Some(AgentCost::default());
        let events = [
            (0, planned(&["make"])),
            (0, reached),
            (10, started(Phase::Upload, Some((2003, 20_100_000)))),
            (4_000, progress(Phase::Upload, 500, 5_000_000)),
            (5_100, progress(Phase::Upload, 1203, 10_100_000)),
            (5_400, ended(Phase::Upload, 5_390, 2003, 20_100_000)),
            (5_500, started(Phase::Collect, None)),
            (5_600, ended(Phase::Collect, 100, 0, 0)),
            (5_700, Event::Finished { exit_code: 1, applied: None, agent, earlier: None, took: ms(5_700) }),
        ];
        insta::assert_snapshot!(run(Telling::Phases, Verbosity::Normal, &events), @r"
        fastbuild: uploading: 1,203 of 2,003 files, 10.1 MB of 20.1 MB
        fastbuild: make: exit 1 after 5.70 s, 2,003 files sent (20.1 MB)
        ");
    }

    #[test]
    fn none_tells_warnings_and_the_summary_only() {
        insta::assert_snapshot!(run(Telling::Results, Verbosity::Normal, &a_build()), @r"
        fastbuild: warning: src/x.sock is a socket; it was not sent
        fastbuild: jekyll build: 9.40 s, 2,003 files sent (20.1 MB), 312 received (2.1 MB)
        ");
    }

    #[test]
    fn verbose_adds_the_plan_and_each_phase() {
        insta::assert_snapshot!(run(Telling::Results, Verbosity::Verbose, &a_build()), @r"
        fastbuild: running jekyll build in jekyll:1 on unix:///e, sources from /p, route layer (r)
        fastbuild: scan took 0.02 s (2,003 files, 20.1 MB)
        fastbuild: warning: src/x.sock is a socket; it was not sent
        fastbuild: upload took 7.00 s (2,003 files, 20.1 MB)
        fastbuild: build took 1.90 s
        fastbuild: collect took 0.30 s (312 files, 2.1 MB)
        fastbuild: jekyll build: 9.40 s (scan 0.020, upload 7.00, build 1.90, collect 0.300), 2,003 files sent (20.1 MB), 312 received (2.1 MB)
        ");
    }

    #[test]
    fn a_pull_tells_its_layers() {
        let events = [
            (0, started(Phase::Pull, None)),
            (100, pulling("aa", "Downloading", 1_000_000, Some(60_000_000))),
            (200, pulling("bb", "Already exists", 0, None)),
            (5_000, pulling("aa", "Downloading", 30_000_000, Some(60_000_000))),
        ];
        insta::assert_snapshot!(run(Telling::Phases, Verbosity::Normal, &events), @r"
        fastbuild: pulling the image
        fastbuild: pulling the image: 1 of 2 layers, 30.0 MB of 60.0 MB
        ");
    }

    proptest! {
        #[test]
        fn no_event_gets_a_control_character_into_a_log(
            events in prop::collection::vec((0..20_000u64, event()), 0..12),
            telling in prop::sample::select(vec![Telling::Phases, Telling::Results]),
        ) {
            let text = run(telling, Verbosity::Verbose, &events);
            prop_assert!(!text.chars().any(|c| c != '\n' && crate::text::is_dangerous(c)), "{text:?}");
            prop_assert!(text.lines().all(|line| line.starts_with("fastbuild: ")), "{text:?}");
            prop_assert!(!text.lines().any(|line| line.starts_with("fastbuild: error: ")), "{text:?}");
        }
    }
}
