//! Facts and findings -> text and JSON. Pure. Names from engines and file systems are escaped.

use serde::Serialize;

use crate::{
    doctor::{Engine, Facts, Finding, Room, Severity},
    engine::{EngineFacts, EngineInfo, Whereabouts},
    facts::{Case, Class, FileSharing, FileSystem, Machine},
    report::events::path_text,
    text::{numbers, one_line, table::hanging},
};

/// The maximum width of a line, on wider terminals too, so that reports can be compared.
const WIDTH: usize = 100;

/// Each finding in one to three marked paragraphs (what, why, do); last, how many give advice.
pub(super) fn text(found: &[Finding], width: Option<usize>) -> String {
    let width = width.map_or(WIDTH, |width| width.min(WIDTH));
    let widest = found.iter().map(|finding| finding.topic.name().len()).max().unwrap_or(0);
    let mut out = String::new();
    for finding in found {
        let mut paragraph = |mark: &str, name: &str, said: &str| {
            out.push_str(&hanging(&format!("{mark:6}  {name:widest$}  "), &one_line(said), Some(width)));
        };
        paragraph(mark(finding.severity), finding.topic.name(), &finding.what);
        for (mark, said) in [("why", &finding.why), ("do", &finding.act)] {
            if let Some(said) = said {
                paragraph("", mark, said);
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

/// One object; [`super`] documents its keys.
pub(super) fn json(facts: &Facts, found: &[Finding]) -> String {
    let source = &facts.source;
    let (address, greeting, info, whereabouts) = match &facts.engine {
        Engine::None { address, .. } => (address.as_ref(), None, None, None),
        Engine::Taciturn { address, greeting, .. } => (Some(address), Some(greeting), None, None),
        Engine::There { address, greeting, info, whereabouts } => {
            (Some(address), Some(greeting), Some(&**info), Some(*whereabouts))
        }
    };
    let document = Document {
        advice: advised(found),
        findings: found,
        machine: &facts.machine,
        source: SourceRow {
            path: path_text(&source.path),
            answers: source.no_answer.is_none(),
            file_system: source.file_system.as_ref().map(FileSystemRow::of),
            case: source.case,
        },
        engine: EngineRow { address, answers: greeting.is_some(), greeting, info, whereabouts },
        file_sharing: facts.sharing,
        rooms: &facts.rooms,
    };
    // Cannot fail: strings, numbers and plain enums.
    serde_json::to_string_pretty(&document).map(|text| text + "\n").unwrap_or_default()
}

#[derive(Serialize)]
struct Document<'a> {
    advice: u64,
    findings: &'a [Finding],
    machine: &'a Machine,
    source: SourceRow<'a>,
    engine: EngineRow<'a>,
    file_sharing: Option<FileSharing>,
    rooms: &'a [Room],
}

#[derive(Serialize)]
struct SourceRow<'a> {
    path: String,
    answers: bool,
    file_system: Option<FileSystemRow<'a>>,
    case: Option<Case>,
}

/// Without the options, which may contain user names.
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
    address: Option<&'a String>,
    answers: bool,
    #[serde(flatten)]
    greeting: Option<&'a EngineFacts>,
    #[serde(flatten)]
    info: Option<&'a EngineInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    whereabouts: Option<Whereabouts>,
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
        insta::assert_snapshot!(text(&found, None), @r"
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
        assert!(text(&found[..2], Some(200)).ends_with("\n\nnothing to advise\n"));
    }
}
