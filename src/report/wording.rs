//! Facts -> sentences. Pure, and the only place with product text for events.
//!
//! Sentences come without the `fastbuild: ` in front and without a line end. Names in them are escaped by
//! [`RelPath`](crate::tree::RelPath)'s own `Display` or by [`path_text`]; renderers pass the whole once more through
//! [`text`](super::text), which takes care of what engines say.

use std::time::Duration;

use super::{
    events::{Amount, Applied, Event, Failure, Phase, Special, Warning, path_text},
    numbers::{bytes, count, counted, seconds},
    text::{indented, one_line},
};

/// What a warning says.
pub fn sentence(warning: &Warning) -> String {
    match warning {
        Warning::Skipped { path, special } => format!("{path} is a {}; it was not sent", kind(*special)),
        Warning::Vanished { path } => format!("{path} was deleted while it was being read; it was not sent"),
        Warning::Unstable { path } => {
            format!("{path} kept changing while it was sent; the build may have seen an unfinished version")
        }
        Warning::SpecialOutput { path, special } => {
            format!("{path} is a {} among the build's products; it was not brought back", kind(*special))
        }
        Warning::Conflict { path, beside: Some(beside) } => format!(
            "{} was changed on this machine while the build ran; that version stays, the build's is in {}",
            path_text(path),
            path_text(beside)
        ),
        Warning::Conflict { path, beside: None } => format!(
            "{} was changed on this machine while the build ran; it stays, although the build deleted it",
            path_text(path)
        ),
        Warning::Displaced { files, to } => format!(
            "{} not written by fastbuild {} in the way of the build's products; the old {} now in {}",
            counted(*files, "file"),
            if *files == 1 { "was" } else { "were" },
            if *files == 1 { "version is" } else { "versions are" },
            path_text(to)
        ),
        Warning::LeftoverRemoved { container } => {
            format!("container {container} was left by an earlier run that was killed; it was removed")
        }
        Warning::OutOfMemory { limit: Some(limit) } => format!(
            "the command was killed because it used more memory than its limit of {}; --memory raises it",
            bytes(*limit)
        ),
        Warning::OutOfMemory { limit: None } => {
            "the command was killed because the engine's machine ran out of memory".to_owned()
        }
        Warning::Recovered { files, lost: 0 } => format!(
            "an earlier run was cut short while it put its products in place; {} put in place now",
            were(*files)
        ),
        Warning::Recovered { files, lost } => format!(
            "an earlier run was cut short while it put its products in place; {} put in place now, {lost} could not \
             be; build again to get them",
            were(*files),
            lost = count(*lost)
        ),
        Warning::Signalled { signal } => format!("{signal} was sent to the build"),
        Warning::OutputsLeft => {
            "the command failed, so its products were not brought back; --outputs-on-failure brings them"
                .to_owned()
        }
        Warning::NotRemoved { container, why } => {
            format!("container {container} could not be removed: {why}; the next run tries again")
        }
    }
}

fn were(files: u64) -> String {
    format!("{} {}", counted(files, "path"), if files == 1 { "was" } else { "were" })
}

fn kind(special: Special) -> &'static str {
    match special {
        Special::Socket => "socket",
        Special::Fifo => "named pipe",
        Special::Device => "device",
    }
}

/// What fastbuild is doing in a phase.
pub fn doing(phase: Phase) -> &'static str {
    match phase {
        Phase::Scan => "scanning",
        Phase::Pull => "pulling the image",
        Phase::Create => "creating the container",
        Phase::Upload => "uploading",
        Phase::Start => "starting the command",
        Phase::Build => "building",
        Phase::Collect => "collecting",
        Phase::Apply => "putting products in place",
        Phase::Remove => "removing the container",
    }
}

/// A phase's word in the summary.
pub fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Scan => "scan",
        Phase::Pull => "pull",
        Phase::Create => "create",
        Phase::Upload => "upload",
        Phase::Start => "start",
        Phase::Build => "build",
        Phase::Collect => "collect",
        Phase::Apply => "apply",
        Phase::Remove => "remove",
    }
}

/// `2,003 files, 20.1 MB`; what is zero is left out, and nothing at all is an empty text.
pub fn amount(amount: Amount) -> String {
    let files = (amount.files > 0).then(|| counted(amount.files, "file"));
    let size = (amount.bytes > 0).then(|| bytes(amount.bytes));
    join([files, size])
}

/// `1,203 of 2,003 files, 12.0 MB of 20.1 MB`; without a total, as [`amount`].
pub fn progress(done: Amount, total: Option<Amount>) -> String {
    let Some(total) = total else { return amount(done) };
    let files =
        (total.files > 0).then(|| format!("{} of {}", count(done.files), counted(total.files, "file")));
    let size = (total.bytes > 0).then(|| format!("{} of {}", bytes(done.bytes), bytes(total.bytes)));
    join([files, size])
}

/// What `-v` tells before anything is touched.
pub fn planned(image: &str, engine: &str, source: &std::path::Path, command: &[String]) -> String {
    format!("running {} in {image} on {engine}, sources from {}", command.join(" "), path_text(source))
}

/// Why nothing happens yet.
pub fn waiting(pid: u32, command: &str) -> String {
    format!("waiting for another run in this project to end: process {pid}, {command}")
}

/// What `-v` tells when a phase is over.
pub fn ended(phase: Phase, done: Amount, took: Duration) -> String {
    let moved = parenthesis(amount(done));
    format!("{} took {} s{moved}", name(phase), seconds(took))
}

/// An error, its causes and the advice: the lines as they are printed, prefix and line ends included.
pub fn failure(failure: &Failure) -> String {
    let mut text = format!("fastbuild: error: {}\n", indented(&failure.message));
    for cause in &failure.causes {
        text.push_str(&format!("  caused by: {}\n", indented(cause)));
    }
    if let Some(advice) = &failure.advice {
        text.push_str(&format!("  try: {}\n", indented(advice)));
    }
    text
}

/// One line of fastbuild's own, ready to print.
pub fn line(sentence: &str) -> String {
    format!("fastbuild: {}\n", one_line(sentence))
}

/// A warning's line, ready to print.
pub fn warning_line(warning: &Warning) -> String {
    line(&format!("warning: {}", sentence(warning)))
}

/// Collects what the summary line tells.
#[derive(Debug, Default)]
pub struct Summary {
    parts: Vec<(Phase, Amount, Duration)>,
}

impl Summary {
    /// Takes every event and keeps the phases that ended. A phase that came more than once counts as one.
    pub fn note(&mut self, event: &Event) {
        let Event::PhaseEnded { phase, done, took } = *event else { return };
        match self.parts.iter_mut().find(|part| part.0 == phase) {
            Some((_, moved, sum)) => {
                moved.files += done.files;
                moved.bytes += done.bytes;
                *sum += took;
            }
            None => self.parts.push((phase, done, took)),
        }
        self.parts.sort_by_key(|part| part.0);
    }

    /// The summary line's sentence. The parts are listed, not added up: some phases run at the same time.
    pub fn sentence(&self, exit_code: u8, applied: Option<Applied>, took: Duration) -> String {
        let parts: Vec<_> = self.parts.iter().map(|part| describe(part, applied)).collect();
        let parts = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
        format!("{} s in all{parts}; exit {exit_code}", seconds(took))
    }
}

fn describe(&(phase, done, took): &(Phase, Amount, Duration), applied: Option<Applied>) -> String {
    let moved = match phase {
        Phase::Pull | Phase::Upload | Phase::Collect => amount(done),
        Phase::Apply => applied.map(applied_text).unwrap_or_default(),
        _ => String::new(),
    };
    format!("{} {}{}", name(phase), seconds(took), parenthesis(moved))
}

fn applied_text(applied: Applied) -> String {
    let part = |n: u64, word: &str| (n > 0).then(|| format!("{} {word}", count(n)));
    join([
        part(applied.written, "written"),
        part(applied.deleted, "deleted"),
        part(applied.unchanged, "unchanged"),
        part(applied.conflicts, if applied.conflicts == 1 { "conflict" } else { "conflicts" }),
    ])
}

fn join<const N: usize>(parts: [Option<String>; N]) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn parenthesis(inner: String) -> String {
    if inner.is_empty() { inner } else { format!(" ({inner})") }
}
