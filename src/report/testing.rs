//! Shared by the renderers' tests: a readable writer, a screen, and a generator of all events.

use std::{
    fmt,
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use indicatif::TermLike;
use proptest::prelude::*;

use super::{
    Glyphs, Look,
    events::{
        Applied, Changed, Direction, Event, Holding, Limit, MadeBecause, Phase, Reached, Special, Stands,
        WaitsFor, Warning, Why, WithoutAgent,
    },
    lock,
};
use crate::{
    entry::{Amount, RelPath},
    report::stderr_writer::{LineState, Own},
    spec::Route,
};

/// A writer whose clones share what was written.
#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    pub(super) fn bytes(&self) -> Vec<u8> {
        lock(&self.0).clone()
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.bytes()).unwrap()
    }

    pub(super) fn own(&self) -> Own {
        Own::new(Box::new(self.clone()), LineState::default())
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const WIDTH: usize = 100;

/// How lines look on a [`FakeScreen`].
pub(super) fn on_screen(glyphs: Glyphs) -> Look {
    Look { glyphs, width: || Some(WIDTH), ..Look::default() }
}

/// A terminal of [`WIDTH`] columns for plain writes and for indicatif; it keeps what they leave.
#[derive(Clone, Default)]
pub(super) struct FakeScreen(Arc<Mutex<Cells>>);

#[derive(Default)]
struct Cells {
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

impl FakeScreen {
    /// The visible text, without trailing blanks.
    pub(super) fn shown(&self) -> String {
        let lines: Vec<String> =
            lock(&self.0).lines.iter().map(|l| l.iter().collect::<String>().trim_end().to_owned()).collect();
        lines.join("\n").trim_end().to_owned()
    }

    fn put(&self, text: &str) {
        let mut cells = lock(&self.0);
        for c in text.chars() {
            match c {
                '\n' => (cells.row, cells.column) = (cells.row + 1, 0),
                '\r' => cells.column = 0,
                c => {
                    // As on terminals, the cursor stays in the last column until the next
                    // character.
                    if cells.column == WIDTH {
                        (cells.row, cells.column) = (cells.row + 1, 0);
                    }
                    let (row, column) = (cells.row, cells.column);
                    if cells.lines.len() <= row {
                        cells.lines.resize(row + 1, Vec::new());
                    }
                    let line = &mut cells.lines[row];
                    if line.len() <= column {
                        line.resize(column + 1, ' ');
                    }
                    line[column] = c;
                    cells.column += 1;
                }
            }
        }
    }
}

impl fmt::Debug for FakeScreen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Write for FakeScreen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(std::str::from_utf8(bytes).unwrap());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TermLike for FakeScreen {
    fn width(&self) -> u16 {
        WIDTH as u16
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        let mut cells = lock(&self.0);
        cells.row = cells.row.saturating_sub(n);
        Ok(())
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        lock(&self.0).row += n;
        Ok(())
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        lock(&self.0).column += n;
        Ok(())
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        let mut cells = lock(&self.0);
        cells.column = cells.column.saturating_sub(n);
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.put(text);
        self.put("\n");
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.put(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        let mut cells = lock(&self.0);
        let row = cells.row;
        if let Some(line) = cells.lines.get_mut(row) {
            line.clear();
        }
        cells.column = 0;
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn started(phase: Phase, total: Option<(u64, u64)>) -> Event {
    Event::PhaseStarted { phase, total: total.map(|(files, bytes)| Amount { files, bytes }) }
}

pub(super) fn progress(phase: Phase, files: u64, bytes: u64) -> Event {
    Event::PhaseProgress { phase, done: Amount { files, bytes } }
}

pub(super) fn ended(phase: Phase, millis: u64, files: u64, bytes: u64) -> Event {
    Event::PhaseEnded { phase, done: Amount { files, bytes }, took: ms(millis) }
}

pub(super) fn planned(command: &[&str]) -> Event {
    Event::Planned {
        image: Some("jekyll:1".into()),
        engine: "unix:///e".into(),
        route: Route::Layer,
        because: "r".into(),
        source: "/p".into(),
        command: command.iter().map(|&word| word.to_owned()).collect(),
    }
}

pub(super) fn finished(exit_code: u8, millis: u64) -> Event {
    Event::Finished { exit_code, applied: None, agent: None, earlier: None, took: ms(millis) }
}

pub(super) fn pulling(layer: &str, status: &str, current: u64, total: Option<u64>) -> Event {
    Event::PullProgress { layer: layer.into(), status: status.into(), current, total }
}

pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Text with all kinds of characters that terminals interpret.
pub(super) fn hostile_text() -> impl Strategy<Value = String> {
    let atoms = prop_oneof![
        Just("\x1b[2J".to_owned()),
        Just("\u{9b}31m".to_owned()),
        Just("\r\nfastbuild: error: forged".to_owned()),
        Just("\u{7}\u{8}\u{7f}\0".to_owned()),
        Just("\u{202e}".to_owned()),
        Just("Pull complete".to_owned()),
        any::<String>(),
    ];
    prop::collection::vec(atoms, 0..4).prop_map(|atoms| atoms.concat())
}

fn hostile_path() -> impl Strategy<Value = PathBuf> {
    #[cfg(unix)]
    return prop::collection::vec(any::<u8>(), 0..12)
        .prop_map(|bytes| <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes).into());
    #[cfg(not(unix))]
    return hostile_text().prop_map(PathBuf::from);
}

fn hostile_rel_path() -> impl Strategy<Value = RelPath> {
    prop::collection::vec(any::<u8>(), 1..12).prop_map(|bytes| RelPath::new(bytes).unwrap_or_default())
}

fn phase() -> impl Strategy<Value = Phase> {
    use Phase::{Apply, Build, Collect, Compare, Create, Pull, Remove, Scan, Start, Upload, Workspace};
    let all = vec![Scan, Pull, Create, Workspace, Compare, Upload, Start, Build, Collect, Apply, Remove];
    prop::sample::select(all)
}

fn amount() -> impl Strategy<Value = Amount> {
    (0..u64::MAX >> 8, 0..u64::MAX >> 8).prop_map(|(files, bytes)| Amount { files, bytes })
}

fn warning() -> impl Strategy<Value = Warning> {
    prop_oneof![
        hostile_rel_path().prop_map(|path| Warning::Skipped { path, special: Special::Fifo }),
        hostile_rel_path().prop_map(|path| Warning::Unstable { path }),
        hostile_path().prop_map(|path| Warning::Conflict { path, stands: Stands::Host }),
        hostile_rel_path().prop_map(|path| Warning::Beside {
            changed: vec![path],
            more: 3,
            made: Vec::new()
        }),
        (any::<u64>(), hostile_path()).prop_map(|(files, to)| Warning::Displaced {
            files,
            paths: vec![to.clone()],
            to
        }),
        any::<u64>().prop_map(|paths| Warning::ModesRefused { paths }),
        hostile_text().prop_map(|container| Warning::LeftoverRemoved { container }),
        (hostile_text(), hostile_text()).prop_map(|(container, why)| Warning::NotRemoved { container, why }),
        Just(Warning::OutputsLeft),
    ]
}

fn of_workspaces() -> impl Strategy<Value = Event> {
    let changed = (hostile_text(), prop::option::of(hostile_text()), prop::option::of(hostile_text()))
        .prop_map(|(what, old, new)| Changed { what, old, new });
    let how = prop_oneof![
        Just(Reached::Found),
        prop::collection::vec(changed, 0..3)
            .prop_map(|changes| Reached::Made(MadeBecause::Changed { changes })),
        hostile_text().prop_map(|reason| Reached::Made(MadeBecause::Broken { reason })),
    ];
    prop_oneof![
        (hostile_text(), how).prop_map(|(name, how)| Event::Workspace { name, how }),
        hostile_text().prop_map(|detail| Event::WithoutAgent { why: WithoutAgent::NoAgent, detail }),
        hostile_rel_path().prop_map(|path| Event::Travelled {
            direction: Direction::Up,
            path,
            why: Why::Content
        }),
        (hostile_text(), hostile_text()).prop_map(|(name, source)| Event::WorkspaceRemoved {
            name,
            source,
            limit: Limit::Age
        }),
        (prop::collection::vec(hostile_rel_path(), 1..3), any::<u64>())
            .prop_map(|(paths, more)| Event::SourcesChanged { paths, more }),
    ]
}

/// Any event, with hostile text in all fields that others can set.
pub(super) fn event() -> impl Strategy<Value = Event> {
    let planned = (
        hostile_text(),
        hostile_text(),
        hostile_text(),
        hostile_path(),
        prop::collection::vec(hostile_text(), 1..3),
    );
    prop_oneof![
        planned.prop_map(|(image, engine, because, source, command)| Event::Planned {
            image: Some(image),
            engine,
            route: Route::Volume,
            because,
            source,
            command,
        }),
        (any::<u32>(), hostile_text()).prop_map(|(pid, command)| {
            let holder = if pid % 2 == 0 { Holding::Runs } else { Holding::IsStopped };
            let why = WaitsFor::Output(command.clone());
            Event::WaitingForLock { pid, command, holder, why }
        }),
        (phase(), prop::option::of(amount())).prop_map(|(phase, total)| Event::PhaseStarted { phase, total }),
        (phase(), amount()).prop_map(|(phase, done)| Event::PhaseProgress { phase, done }),
        (hostile_text(), hostile_text(), 0..u64::MAX >> 12, prop::option::of(0..u64::MAX >> 12)).prop_map(
            |(layer, status, current, total)| Event::PullProgress { layer, status, current, total }
        ),
        (phase(), amount(), 0..100_000u64).prop_map(|(phase, done, took)| Event::PhaseEnded {
            phase,
            done,
            took: ms(took)
        }),
        Just(Event::BuildOutputBegins),
        warning().prop_map(Event::Warned),
        of_workspaces(),
        any::<u8>().prop_map(|exit_code| Event::Finished {
            exit_code,
            applied: Some(Applied::default()),
            agent: None,
            earlier: None,
            took: ms(1)
        }),
    ]
}
