//! Facts and findings -> text and JSON. Pure. What engines and file systems call themselves is made harmless.

use serde::Serialize;

use crate::{
    doctor::{Engine, Facts, Finding, Needs, Severity},
    engine::{EngineInfo, EngineKind, Rights, Whereabouts},
    facts::{Case, Ci, Class, FileSharing, FileSystem, Virtualization, Wsl},
    plan::Isolation,
    report::{events::path_text, numbers, text::one_line},
};

/// How wide a line gets; without a terminal's own width, so that reports can be compared.
const WIDTH: usize = 100;

/// A finding in one to three paragraphs, what, why and do, each with its mark in front; then how much was advised.
pub(super) fn text(found: &[Finding]) -> String {
    let widest = found.iter().map(|finding| finding.topic.name().len()).max().unwrap_or(0);
    let mut out = String::new();
    for finding in found {
        paragraph(&mut out, mark(finding.severity), finding.topic.name(), widest, &finding.what);
        for (mark, said) in [("why", &finding.why), ("do", &finding.act)] {
            if let Some(said) = said {
                paragraph(&mut out, "", mark, widest, said);
            }
        }
    }
    let advised = advised(found);
    let sum = match advised {
        0 => "nothing to advise".to_owned(),
        n => numbers::counted_as(n, "piece of advice", "pieces of advice"),
    };
    format!("{out}\n{sum}\n")
}

fn mark(severity: Severity) -> &'static str {
    match severity {
        Severity::Good => "good",
        Severity::Note => "note",
        Severity::Advice => "ADVICE",
    }
}

fn advised(found: &[Finding]) -> u64 {
    found.iter().filter(|finding| finding.severity == Severity::Advice).count() as u64
}

/// `ADVICE  source  the text`, its further lines below the first.
fn paragraph(out: &mut String, mark: &str, name: &str, widest: usize, said: &str) {
    let front = format!("{mark:6}  {name:widest$}  ");
    let room = WIDTH.saturating_sub(front.len()).max(20);
    for (at, line) in wrapped(&one_line(said), room).iter().enumerate() {
        let front = if at == 0 { front.clone() } else { " ".repeat(front.len()) };
        out.push_str(&format!("{front}{line}\n"));
    }
}

/// Lines of at most `room` characters where words allow it. What stands between backquotes is to be copied and stays in
/// one piece.
fn wrapped(said: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words(said) {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= room => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

fn words(said: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut is_quoted = false;
    for word in said.split(' ') {
        match words.last_mut() {
            Some(last) if is_quoted => {
                last.push(' ');
                last.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
        is_quoted ^= word.matches('`').count() % 2 == 1;
    }
    words
}

/// One object; its keys are told in [`super`].
pub(super) fn json(facts: &Facts, found: &[Finding]) -> String {
    let document = Document {
        advice: advised(found),
        findings: found,
        machine: MachineRow {
            os: facts.machine.os,
            arch: facts.machine.arch,
            kernel: &facts.machine.kernel,
            wsl: facts.machine.wsl,
            virtualization: facts.machine.virtualization,
            ci: facts.machine.ci,
            id: &facts.machine.id,
        },
        source: SourceRow {
            path: path_text(&facts.source.path),
            answers: facts.source.no_answer.is_none(),
            file_system: facts.source.file_system.as_ref().map(FileSystemRow::of),
            case: facts.source.case,
        },
        engine: EngineRow::of(&facts.engine),
        file_sharing: facts.sharing,
        rooms: facts.rooms.iter().map(RoomRow::of).collect(),
    };
    // Cannot fail: strings, numbers and plain enums.
    serde_json::to_string_pretty(&document).map(|text| text + "\n").unwrap_or_default()
}

#[derive(Serialize)]
struct Document<'a> {
    advice: u64,
    findings: &'a [Finding],
    machine: MachineRow<'a>,
    source: SourceRow<'a>,
    engine: EngineRow<'a>,
    file_sharing: Option<FileSharing>,
    rooms: Vec<RoomRow<'a>>,
}

/// Without the machine's name: reports are shown to others.
#[derive(Serialize)]
struct MachineRow<'a> {
    os: &'a str,
    arch: &'a str,
    kernel: &'a str,
    wsl: Option<Wsl>,
    virtualization: Virtualization,
    ci: Option<Ci>,
    id: &'a str,
}

#[derive(Serialize)]
struct SourceRow<'a> {
    path: String,
    answers: bool,
    file_system: Option<FileSystemRow<'a>>,
    case: Option<Case>,
}

/// Without the options, among which may be names of users.
#[derive(Serialize)]
struct FileSystemRow<'a> {
    kind: &'a str,
    class: Class,
    crosses: bool,
    mount_point: String,
    device: &'a str,
}

impl FileSystemRow<'_> {
    fn of(found: &FileSystem) -> FileSystemRow<'_> {
        FileSystemRow {
            kind: &found.kind,
            class: found.class,
            crosses: found.class.crosses(),
            mount_point: path_text(&found.mount_point),
            device: &found.device,
        }
    }
}

#[derive(Serialize)]
struct EngineRow<'a> {
    address: Option<&'a str>,
    answers: bool,
    #[serde(flatten)]
    greeting: Option<GreetingRow<'a>>,
    #[serde(flatten)]
    info: Option<InfoRow<'a>>,
}

#[derive(Serialize)]
struct GreetingRow<'a> {
    name: &'a str,
    version: &'a str,
    api: String,
}

#[derive(Serialize)]
struct InfoRow<'a> {
    kind: EngineKind,
    whereabouts: Whereabouts,
    system: &'a str,
    os: &'a str,
    arch: &'a str,
    kernel: &'a str,
    storage_driver: &'a str,
    backing: Option<&'a str>,
    root_dir: &'a str,
    rights: Rights,
    isolation: Option<Isolation>,
    cgroup_version: Option<&'a str>,
    cpus: Option<u64>,
    memory: Option<u64>,
    images: Option<u64>,
}

impl EngineRow<'_> {
    fn of(engine: &Engine) -> EngineRow<'_> {
        let (address, greeting, info) = match engine {
            Engine::None { address, .. } => (address.as_deref(), None, None),
            Engine::Taciturn { address, greeting, .. } => (Some(address.as_str()), Some(greeting), None),
            Engine::There { address, greeting, info, whereabouts } => {
                (Some(address.as_str()), Some(greeting), Some(InfoRow::of(info, *whereabouts)))
            }
        };
        let greeting = greeting.map(|greeting| GreetingRow {
            name: &greeting.name,
            version: &greeting.version,
            api: greeting.api.to_string(),
        });
        EngineRow { address, answers: greeting.is_some(), greeting, info }
    }
}

impl InfoRow<'_> {
    fn of(info: &EngineInfo, whereabouts: Whereabouts) -> InfoRow<'_> {
        InfoRow {
            kind: info.kind,
            whereabouts,
            system: &info.system,
            os: &info.os,
            arch: &info.arch,
            kernel: &info.kernel,
            storage_driver: &info.storage_driver,
            backing: info.backing.as_deref(),
            root_dir: &info.root_dir,
            rights: info.rights,
            isolation: info.isolation,
            cgroup_version: info.cgroup_version.as_deref(),
            cpus: info.cpus,
            memory: info.memory,
            images: info.images,
        }
    }
}

#[derive(Serialize)]
struct RoomRow<'a> {
    what_for: Needs,
    path: &'a str,
    free: u64,
    total: u64,
}

impl RoomRow<'_> {
    fn of(room: &crate::doctor::Room) -> RoomRow<'_> {
        RoomRow { what_for: room.what_for, path: &room.path, free: room.space.free, total: room.space.total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Topic;

    #[test]
    fn a_finding_is_what_why_and_do_in_columns() {
        let finding = |topic, severity, what: &str, why: Option<&str>, act: Option<&str>| Finding {
            topic,
            severity,
            what: what.to_owned(),
            why: why.map(str::to_owned),
            act: act.map(str::to_owned),
        };
        let found = [
            finding(Topic::Engine, Severity::Good, "Docker 27 on this machine", None, None),
            finding(Topic::Case, Severity::Note, "\u{1b}[2J", Some("it matters"), None),
            finding(
                Topic::StorageDriver,
                Severity::Advice,
                "vfs",
                Some(
                    "it has no layers: each new container is a full copy of its image, and takes as long as that does",
                ),
                Some(
                    "say all of this on one line, because it is to be copied: `docker info --format {{.Driver}}`",
                ),
            ),
        ];
        insta::assert_snapshot!(text(&found), @r"
        good    engine          Docker 27 on this machine
        note    case            \u{1b}[2J
                why             it matters
        ADVICE  storage-driver  vfs
                why             it has no layers: each new container is a full copy of its image, and takes
                                as long as that does
                do              say all of this on one line, because it is to be copied:
                                `docker info --format {{.Driver}}`

        1 piece of advice
        ");
        assert!(text(&found[..2]).ends_with("\n\nnothing to advise\n"));
    }
}
