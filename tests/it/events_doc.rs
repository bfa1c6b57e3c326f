//! `docs/events.md` is a contract: its example is what the program writes, and it names all that may come.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use fastbuild::{
    entry::{Amount, RelPath},
    report::{
        Renderer as _, Verbosity,
        events::{
            AgentCost, Applied, Changed, Direction, Earlier, Event, Failure, Holding, Limit, MadeBecause,
            Noticing, Phase, Reached, Special, WaitsFor, Warning, Why, WithoutAgent,
        },
        json::Json,
        stderr_writer::{LineState, Own},
    },
    spec::{Fallback, Route},
};

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn rendered(events: &[(u64, Event)]) -> String {
    let out = Written::default();
    let mut json = Json::new(Own::new(Box::new(out.clone()), LineState::default()), Verbosity::Normal);
    events.iter().for_each(|(millis, event)| json.event(ms(*millis), event));
    let bytes = out.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn some(files: u64, bytes: u64) -> Amount {
    Amount { files, bytes }
}

fn started(phase: Phase, total: Option<Amount>) -> Event {
    Event::PhaseStarted { phase, total }
}

fn ended(phase: Phase, done: Amount, millis: u64) -> Event {
    Event::PhaseEnded { phase, done, took: ms(millis) }
}

fn a_build() -> Vec<(u64, Event)> {
    let (tree, site) = (some(2003, 20_100_000), some(312, 2_100_000));
    let planned = Event::Planned {
        image: Some("docker.io/jekyll/jekyll:4.2.2".into()),
        engine: "unix:///var/run/docker.sock".into(),
        route: Route::Layer,
        because: "nothing is mounted".into(),
        source: "/home/me/blog".into(),
        command: vec!["jekyll".into(), "build".into()],
    };
    let path = RelPath::new(b"tmp/x.sock".as_slice()).unwrap();
    let how = Reached::Made(MadeBecause::Missing);
    let applied = Applied { written: 12, deleted: 0, unchanged: 300, conflicts: 0 };
    let agent = AgentCost { sent: 20_412_003, received: 231_554, peak_memory: Some(14_200_832) };
    vec![
        (1, planned),
        (2, started(Phase::Scan, None)),
        (3, started(Phase::Workspace, None)),
        (18, Event::Warned(Warning::Skipped { path, special: Special::Socket })),
        (22, ended(Phase::Scan, tree, 20)),
        (31, ended(Phase::Workspace, some(0, 0), 28)),
        (31, Event::Workspace { name: "fastbuild-3f1c0a9d2b6e7c41-5d0e7c41a28f".into(), how }),
        (31, started(Phase::Compare, None)),
        (32, ended(Phase::Compare, some(2003, 0), 1)),
        (32, started(Phase::Upload, Some(tree))),
        (133, Event::PhaseProgress { phase: Phase::Upload, done: some(420, 4_210_688) }),
        (512, ended(Phase::Upload, tree, 480)),
        (513, started(Phase::Start, None)),
        (703, ended(Phase::Start, some(0, 0), 190)),
        (704, started(Phase::Build, None)),
        (1_310, Event::BuildOutputBegins),
        (5_604, ended(Phase::Build, some(0, 0), 4_900)),
        (5_605, started(Phase::Collect, None)),
        (5_805, ended(Phase::Collect, site, 200)),
        (5_806, started(Phase::Apply, None)),
        (5_836, ended(Phase::Apply, site, 30)),
        (5_837, started(Phase::Remove, None)),
        (5_910, ended(Phase::Remove, some(0, 0), 73)),
        (
            5_911,
            Event::Finished {
                exit_code: 0,
                applied: Some(applied),
                agent: Some(agent),
                earlier: None,
                took: ms(5_911),
            },
        ),
    ]
}

/// Everything that [`a_build`] has not.
fn the_rest() -> Vec<(u64, Event)> {
    let path = || RelPath::new(b"a".as_slice()).unwrap();
    let warnings = vec![
        Warning::ReadOnlySources { path: Some(path()), line: String::new() },
        Warning::Vanished { path: path() },
        Warning::Unstable { path: path() },
        Warning::SpecialOutput { path: path(), special: Special::Fifo },
        Warning::SpecialOutput { path: path(), special: Special::Device },
        Warning::Conflict { path: PathBuf::from("a"), stands: fastbuild::report::events::Stands::Host },
        Warning::Beside { changed: Vec::new(), more: 0, made: Vec::new() },
        Warning::GitLocked { repository: PathBuf::from("a"), lock: PathBuf::from("a"), paths: 1 },
        Warning::ClocksDiffer { seconds: 3 },
        Warning::StillKept { names: Vec::new() },
        Warning::NotWritable { path: PathBuf::from("a") },
        Warning::Displaced { files: 1, paths: Vec::new(), to: PathBuf::from("a") },
        Warning::ModesRefused { paths: 1 },
        Warning::LeftoverRemoved { container: String::new() },
        Warning::OutOfMemory { limit: None },
        Warning::Recovered { files: 1, lost: 0 },
        Warning::StageKept { path: PathBuf::from("a") },
        Warning::Signalled { signal: "SIGINT" },
        Warning::OutputsLeft,
        Warning::NotTold { why: String::new() },
        Warning::OtherProject,
        Warning::NotRemoved { container: String::new(), why: String::new() },
    ];
    let pull =
        Event::PullProgress { layer: String::new(), status: "Downloading".into(), current: 0, total: None };
    let waiting = Event::WaitingForLock {
        pid: 1,
        command: String::new(),
        holder: Holding::Runs,
        why: WaitsFor::Output(String::new()),
    };
    let phases = [Phase::Pull, Phase::Create].map(|phase| started(phase, None));
    let events = warnings.into_iter().map(Event::Warned).chain([pull, waiting]).chain(phases);
    let events = events.chain(of_workspaces());
    events.map(|event| (0, event)).collect()
}

fn of_workspaces() -> Vec<Event> {
    let path = || RelPath::new(b"a".as_slice()).unwrap();
    let text = || String::from("a");
    let changes = vec![Changed { what: text(), old: None, new: None }];
    let made = [
        MadeBecause::Missing,
        MadeBecause::Asked,
        MadeBecause::Changed { changes },
        MadeBecause::Broken { reason: text() },
    ];
    let reached = made.into_iter().map(Reached::Made).chain([Reached::Found, Reached::Started]);
    let mut events: Vec<_> = reached.map(|how| Event::Workspace { name: text(), how }).collect();
    let without_agent = [
        WithoutAgent::NoAgent,
        WithoutAgent::ReadOnly,
        WithoutAgent::NotStarted,
        WithoutAgent::Refused,
        WithoutAgent::NoAnswer,
    ];
    events.extend(without_agent.map(|why| Event::WithoutAgent { why, detail: text() }));
    events.push(Event::Workspace { name: text(), how: Reached::Restarted { reason: text() } });
    let whys = [Why::New, Why::Content, Why::Mode, Why::Type, Why::Mtime, Why::Deleted];
    events.extend(whys.map(|why| Event::Travelled { direction: Direction::Up, path: path(), why }));
    events.push(Event::Travelled { direction: Direction::Down, path: path(), why: Why::New });
    let removed = |limit| Event::WorkspaceRemoved { name: text(), source: text(), limit };
    events.extend([Limit::Age, Limit::Size].map(removed));
    events.push(Event::SourcesChanged { paths: vec![path()], more: 0 });
    events.extend([Noticing::Told, Noticing::Looking].map(|by| Event::Watching { by }));
    let watch_built = |exit_code, waits| Event::WatchBuilt {
        build: 1,
        clock: "14:02:11".into(),
        exit_code,
        changed: 0,
        took: ms(1),
        waits,
    };
    events.extend([watch_built(Some(0), Some(Noticing::Told)), watch_built(None, None)]);
    let mount_failed =
        |then| Event::MountFailed { route: Route::Mount, exit_code: 1, path: path(), line: text(), then };
    events.extend([Fallback::None, Fallback::Layer].map(mount_failed));
    let earlier = Some(Earlier { route: Route::MountSource, exit_code: 1, took: ms(1) });
    let agent = Some(AgentCost { sent: 1, received: 2, peak_memory: Some(3) });
    events.push(Event::Finished { exit_code: 0, applied: None, agent, earlier, took: ms(1) });
    events
}

fn document() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/events.md")).unwrap()
}

#[test]
fn the_example_is_what_the_program_writes() {
    let document = document();
    let example = document.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(example, rendered(&a_build()));
}

#[test]
fn every_event_field_and_kind_is_described() {
    let document = document();
    let described = document.split("## Example").next().unwrap();
    let failure = Failure { message: String::new(), causes: vec![], advice: None };
    let mut lines: Vec<serde_json::Value> = (rendered(&a_build()) + &rendered(&the_rest()))
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    lines.push(serde_json::to_value(&failure).unwrap());
    for line in &lines {
        for (field, value) in line.as_object().unwrap() {
            assert!(described.contains(&format!("`{field}`")), "{field} of {line}");
            // Warnings have numbers and others' words in fields of these names.
            let of_kind = match line["event"].as_str() {
                Some("warned") => ["event", "warning", "special"].contains(&field.as_str()),
                _ => ["event", "phase", "how", "why", "direction", "limit", "by"].contains(&field.as_str()),
            };
            if of_kind {
                let kind = value.as_str().unwrap();
                assert!(described.contains(&format!("`{kind}`")), "{kind} of {line}");
            }
        }
    }
}
