//! Events -> one JSON object per line, for programs. `docs/events.md` is the contract; a change
//! that breaks readers increases [`SCHEMA`].

use std::{collections::HashMap, io, time::Duration};

use serde::Serialize;

use super::{
    Renderer, Verbosity,
    events::{Event, Failure, Phase, Warning},
};
use crate::{report::stderr_writer::Own, text::is_dangerous};

/// The number in each line's `fastbuild` field.
pub const SCHEMA: u8 = 2;

/// The shortest time between two lines about the progress of a phase, or of a pull.
const EVERY: Duration = Duration::from_millis(100);

/// The renderer of `json`.
pub struct Json {
    own: Own,
    verbosity: Verbosity,
    progress: HashMap<Phase, Duration>,
    statuses: HashMap<String, String>,
}

#[derive(Serialize)]
struct Line<'a, T> {
    fastbuild: u8,
    time: f64,
    #[serde(flatten)]
    fact: &'a T,
}

impl Json {
    /// Writes lines to `own`; with [`Verbosity::Quiet`] only as [`silent`](super::silent) does.
    pub fn new(own: Own, verbosity: Verbosity) -> Json {
        Json { own, verbosity, progress: HashMap::new(), statuses: HashMap::new() }
    }

    fn write(&mut self, at: Duration, fact: &impl Serialize) {
        // Whole microseconds; more digits are not significant.
        let line = Line { fastbuild: SCHEMA, time: at.as_micros() as f64 / 1e6, fact };
        let mut bytes = Vec::new();
        // This cannot fail: all maps have strings as keys, and paths are turned into text. If it
        // did fail, no line would be better for a reader than half a line.
        if line.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Harmless)).is_err() {
            return;
        }
        bytes.push(b'\n');
        self.own.lines(&String::from_utf8_lossy(&bytes));
    }

    fn is_due(&mut self, at: Duration, phase: Phase) -> bool {
        let due = self.progress.get(&phase).is_none_or(|last| at.saturating_sub(*last) >= EVERY);
        if due {
            self.progress.insert(phase, at);
        }
        due
    }

    /// A layer's new status is always written; only some of the byte counts within one status are.
    fn is_wanted(&mut self, at: Duration, event: &Event) -> bool {
        match event {
            Event::PhaseProgress { phase, .. } => self.is_due(at, *phase),
            Event::PullProgress { layer, status, .. } => {
                self.statuses.insert(layer.clone(), status.clone()).as_ref() != Some(status)
                    || self.is_due(at, Phase::Pull)
            }
            _ => true,
        }
    }
}

impl Renderer for Json {
    fn event(&mut self, at: Duration, event: &Event) {
        let is_loud = matches!(event, Event::Warned(Warning::BuildsHere { .. }));
        if (self.verbosity != Verbosity::Quiet || is_loud) && self.is_wanted(at, event) {
            self.write(at, event);
        }
    }

    fn failure(&mut self, at: Duration, failure: &Failure) {
        self.write(at, failure);
    }

    fn clear(&mut self) {}
}

/// Compact JSON that also escapes characters that JSON allows but terminals interpret: DEL, the C1
/// controls (one of them begins an escape sequence), and characters that reorder text.
struct Harmless;

impl serde_json::ser::Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_dangerous(*c)) {
            // All of them are below U+10000, so one escape is enough.
            write!(writer, "{}\\u{:04x}", &rest[..at], u32::from(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::{
        events::{Holding, WaitsFor, Warning},
        testing::*,
    };

    fn run(events: &[(u64, Event)]) -> String {
        let out = Shared::default();
        let mut json = Json::new(out.own(), Verbosity::Normal);
        events.iter().for_each(|(at, event)| json.event(ms(*at), event));
        out.text()
    }

    #[test]
    fn each_line_begins_with_the_schema_and_the_time() {
        let events = [
            (0, planned(&["jekyll"])),
            (
                1,
                Event::WaitingForLock {
                    pid: 7,
                    command: "fastbuild -- make".into(),
                    holder: Holding::IsStopped,
                    why: WaitsFor::OutputsToBeNamed,
                },
            ),
            (12, started(Phase::Upload, Some((2003, 20_100_000)))),
            (13, progress(Phase::Upload, 3, 1000)),
            (492, ended(Phase::Upload, 480, 2003, 20_100_000)),
            (500, pulling("aa", "Downloading", 5, None)),
            (501, Event::BuildOutputBegins),
            (502, Event::Warned(Warning::OutputsLeft)),
            (
                503,
                Event::Warned(Warning::Displaced {
                    files: 2,
                    paths: vec!["/a\x1b".into()],
                    to: "/s\x1b".into(),
                }),
            ),
            (6_210, finished(3, 6_210)),
        ];
        insta::assert_snapshot!(run(&events), @r#"
        {"fastbuild":2,"time":0.0,"event":"planned","image":"jekyll:1","engine":"unix:///e","route":"layer","because":"r","source":"/p","command":["jekyll"]}
        {"fastbuild":2,"time":0.001,"event":"waiting-for-lock","pid":7,"command":"fastbuild -- make","holder":"is-stopped","why":"outputs-to-be-named"}
        {"fastbuild":2,"time":0.012,"event":"phase-started","phase":"upload","total":{"files":2003,"bytes":20100000}}
        {"fastbuild":2,"time":0.013,"event":"phase-progress","phase":"upload","done":{"files":3,"bytes":1000}}
        {"fastbuild":2,"time":0.492,"event":"phase-ended","phase":"upload","done":{"files":2003,"bytes":20100000},"took":0.48}
        {"fastbuild":2,"time":0.5,"event":"pull-progress","layer":"aa","status":"Downloading","current":5,"total":null}
        {"fastbuild":2,"time":0.501,"event":"build-output-begins"}
        {"fastbuild":2,"time":0.502,"event":"warned","warning":"outputs-left"}
        {"fastbuild":2,"time":0.503,"event":"warned","warning":"displaced","files":2,"paths":["/a\\u{1b}"],"to":"/s\\u{1b}"}
        {"fastbuild":2,"time":6.21,"event":"finished","exit_code":3,"applied":null,"agent":null,"earlier":null,"took":6.21}
        "#);
    }

    #[test]
    fn an_error_is_a_line_too_and_quiet_leaves_only_errors() {
        let out = Shared::default();
        let mut json = Json::new(out.own(), Verbosity::Quiet);
        json.event(ms(1), &Event::Warned(Warning::OutputsLeft));
        let failure =
            Failure { message: "no\nengine \u{9b}".into(), causes: vec!["refused".into()], advice: None };
        json.failure(ms(2), &failure);
        insta::assert_snapshot!(out.text(), @r#"{"fastbuild":2,"time":0.002,"event":"error","message":"no\nengine \u009b","causes":["refused"],"advice":null}"#);
    }

    #[test]
    fn progress_comes_at_most_ten_times_a_second_for_each_phase() {
        let mut events: Vec<_> = (0..1000).map(|at| (at, progress(Phase::Upload, at, 0))).collect();
        events.extend((0..1000).map(|at| (at, pulling("aa", "Downloading", at, None))));
        let text = run(&events);
        let of = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!((of("phase-progress"), of("pull-progress")), (10, 11));
    }

    #[test]
    fn a_new_status_of_a_layer_is_always_told() {
        let text =
            run(&[(0, pulling("aa", "Downloading", 5, None)), (1, pulling("aa", "Pull complete", 0, None))]);
        assert_eq!(text.lines().count(), 2);
    }

    proptest! {
        #[test]
        fn every_event_is_one_line_of_json_without_control_characters(
            events in prop::collection::vec((0..20_000u64, event()), 0..12),
        ) {
            let text = run(&events);
            prop_assert!(!text.chars().any(|c| c != '\n' && is_dangerous(c)), "{text:?}");
            for line in text.lines() {
                prop_assert!(line.starts_with("{\"fastbuild\":2,\"time\":"), "{line}");
                let read: serde_json::Value = serde_json::from_str(line).unwrap();
                prop_assert!(read["event"].is_string());
            }
        }

        #[test]
        fn text_comes_back_from_json_as_it_was(message in hostile_text()) {
            let out = Shared::default();
            let failure = Failure { message, causes: vec![], advice: None };
            Json::new(out.own(), Verbosity::Normal).failure(ms(0), &failure);
            let read: serde_json::Value = serde_json::from_str(&out.text()).unwrap();
            prop_assert_eq!(read["message"].as_str(), Some(failure.message.as_str()));
        }
    }
}
