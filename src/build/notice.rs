//! Notices beside a build that change nothing of it: it runs on this machine because there is no
//! engine, input waits that no command reads, the next CI job will not find the workspace, what a
//! command that could not run was probably meant to be, and git finds no repository.

use std::{fs::File, io::Read as _, path::Path};

use crate::{
    engine::words,
    environment::Environment,
    facts::{self, Elsewhere},
    plan::{Engine, Plan},
    report::{
        Reporter,
        events::{Event, Warning, path_text},
    },
    spec::{Lifetime, Reason, Stdin},
    state::State,
    sys::stdin,
};

/// Shells that run a script by its path.
const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "ksh", "zsh"];

/// Before the build.
pub fn before(plan: &Plan, environment: &Environment, state: &State, reporter: &Reporter) {
    of_place(plan, reporter);
    if environment.is_ci() && is_lost_with_its_home(plan, state) {
        reporter.emit(Event::Warned(Warning::NotFoundAgain));
    }
    tell_of_input(plan, state, reporter);
}

/// Before a build or a watch: that it runs on this machine although the user did not ask for that.
pub fn of_place(plan: &Plan, reporter: &Reporter) {
    if let (Engine::Host, Reason::Found { why }) = (&plan.engine.value, &plan.engine.reason) {
        reporter.emit(Event::Warned(Warning::BuildsHere { why: why.clone() }));
    }
}

/// After the build, which ended with `exit_code`.
pub fn after(plan: &Plan, exit_code: u8, state: &State, reporter: &Reporter) {
    // For input that came while the build ran.
    tell_of_input(plan, state, reporter);
    let word = plan.command.first().map(String::as_str).unwrap_or_default();
    let meant = words::meant(word).filter(|_| matches!(exit_code, 126 | 127));
    let hint = meant.or_else(|| {
        let script = crlf_script(plan).filter(|_| exit_code != 0)?;
        Some(format!("{}: {}", path_text(script), words::CR_LF))
    });
    let hint = hint.or_else(|| {
        let hint = of_repository(plan).filter(|_| exit_code != 0)?;
        state.project(&plan.source.value).is_ok_and(|project| project.is_first_said(&hint)).then_some(hint)
    });
    if let Some(hint) = hint {
        reporter.emit(Event::Warned(Warning::Meant { hint }));
    }
}

/// That the sources' repository is not in the build, because it lies elsewhere on this machine.
pub fn of_repository(plan: &Plan) -> Option<String> {
    // Without a container, the build can read paths elsewhere.
    let elsewhere = facts::elsewhere(&plan.source.value).filter(|_| plan.engine.value != Engine::Host)?;
    Some(match elsewhere {
        Elsewhere::Repository(path) => format!(
            ".git leads out of the source tree, to {}, so that git finds no repository in the build: hand over what is needed of \
             it, as in `fastbuild -e VERSION=\"$(git describe)\" …`, or build in a clone",
            path_text(&path)
        ),
        Elsewhere::Objects(path) => format!(
            ".git borrows objects from {}, outside of the source tree, which git does not find in the build: `git repack -a -d && \
             rm .git/objects/info/alternates` copies them here",
            path_text(&path)
        ),
    })
}

/// A kept workspace is found again by this state directory, or by the project's name.
fn is_lost_with_its_home(plan: &Plan, state: &State) -> bool {
    let is_known = || state.project(&plan.source.value).and_then(|project| project.workspaces());
    plan.lifetime.value == Lifetime::Kept
        && plan.engine.value != Engine::Host
        && !plan.route.value.is_mounted()
        && plan.name.is_none()
        && is_known().is_ok_and(|workspaces| workspaces.is_empty())
}

/// Once for each parent process: a loop that reads lines would otherwise be told in each round.
fn tell_of_input(plan: &Plan, state: &State, reporter: &Reporter) {
    let nobody_decided = matches!(plan.stdin.reason, Reason::Default { .. });
    if plan.stdin.value == Stdin::Empty
        && nobody_decided
        && stdin::has_waiting()
        && stdin::parent().is_none_or(|parent| state.is_first_told(&parent))
    {
        reporter.emit(Event::Warned(Warning::InputWaiting));
    }
}

/// The source script that the command starts, or has a shell run, if its first line ends in CR LF.
fn crlf_script(plan: &Plan) -> Option<&Path> {
    let (first, second) = (plan.command.first()?, plan.command.get(1));
    let is_shell = first.rsplit('/').next().is_some_and(|name| SHELLS.contains(&name));
    let script = Path::new(second.filter(|_| is_shell).unwrap_or(first));
    let directory = crate::entry::host_path::join(&plan.source.value, &plan.subdirectory)?;
    let mut start = Vec::new();
    // As many bytes as the kernel reads.
    let file = File::open(directory.join(script)).ok()?;
    file.take(256).read_to_end(&mut start).ok()?;
    let line = start.split(|byte| *byte == b'\n').next().filter(|line| line.starts_with(b"#!"))?;
    line.ends_with(b"\r").then_some(script)
}
