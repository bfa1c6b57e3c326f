//! The container of a workspace: found as wanted, started, or made with the agent inside.

use std::io;

use bytes::Bytes;
use futures_util::{TryStreamExt as _, stream};

use crate::{
    agent::{
        program,
        protocol::{KEPT, name_for_root},
    },
    engine::{ContainerFacts, ContainerId, Docker, EngineError, Life, Owned, StartError, labels},
    spec::{IfThere, Route},
    user,
    workspace::{
        BETWEEN_LOOKS, Changed, Generation, How, Wanted, Why, WithoutAgent, WorkspaceError,
        share_marker::Share, spec::aside,
    },
};

/// How many times a container that vanishes is looked at.
const LOOKS: u32 = 3;

/// How many times a name is looked at that is taken but has no container yet, with
/// [`BETWEEN_LOOKS`] before each look. In that time the engine finishes a container for a client
/// that died.
const LOOKS_FOR_NAME: u32 = 500;

/// A workspace that is ready for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Its container.
    pub container: ContainerId,
    /// How it came about.
    pub how: How,
    /// Whether its working directory, where that is a share, holds what fastbuild put there.
    pub share: Share,
    /// The state directory that made it.
    pub maker: Maker,
}

/// Whether this state directory's clients may attach: a workspace has room for one attached client,
/// and only clients of one state directory know of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// This state directory.
    Here,
    /// Another one.
    Elsewhere,
}

impl Maker {
    pub(super) fn of(found: &ContainerFacts, state: &str) -> Maker {
        let is_ours = found.labels.get(labels::STATE).is_some_and(|label| label == state);
        if is_ours { Maker::Here } else { Maker::Elsewhere }
    }
}

/// Makes a workspace ready for a session. `found` is what [`Docker::look`] found at
/// [`Wanted::name`].
///
/// # Errors
/// [`WithoutAgent`] when the agent cannot run there, [`WorkspaceError::Foreign`], and the engine's.
pub async fn ensure(
    docker: &Docker,
    wanted: &Wanted,
    found: Option<ContainerFacts>,
) -> Result<Ready, WorkspaceError> {
    let (mut found, mut looks, mut looks_for_name) = (found, 1, 0);
    loop {
        match ensure_once(docker, wanted, found).await {
            // Another client is making it.
            Err(WorkspaceError::Engine(EngineError::NameTaken { .. })) if looks_for_name < LOOKS_FOR_NAME => {
                looks_for_name += 1;
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
            // It was removed in between.
            Err(WorkspaceError::Engine(EngineError::NoSuchContainer { .. })) if looks < LOOKS => looks += 1,
            ready => return ready,
        }
        found = docker.look(&wanted.name).await?;
    }
}

async fn ensure_once(
    docker: &Docker,
    wanted: &Wanted,
    found: Option<ContainerFacts>,
) -> Result<Ready, WorkspaceError> {
    let Some(found) = found else { return succeed(docker, wanted).await };
    refuse_foreign(&found, &wanted.name)?;
    if let Some(why) = wanted.judge(&found) {
        return match why {
            Why::Changed(_) => replace(docker, wanted, why, &found).await,
            why if found.life == Life::Created => {
                wanted.remove(docker).await?;
                succeed(docker, wanted).await.map(|ready| Ready { how: How::Made(why), ..ready })
            }
            why => make_anew(docker, wanted, why).await,
        };
    }
    if found.limits != wanted.limits
        && let Some(why) = set_limits(docker, wanted, &found).await?
    {
        return replace(docker, wanted, why, &found).await;
    }
    let maker = Maker::of(&found, &wanted.state);
    let container = found.id.clone();
    let share = share_of(docker, wanted, &container).await?;
    match found.life {
        Life::Paused => docker.unpause(&container).await?,
        Life::Exited => {
            return match docker.start(&container).await.map_err(not_started) {
                Ok(()) => Ok(Ready { container, how: How::Started, share, maker }),
                Err(WorkspaceError::WithoutAgent(why)) => {
                    make_anew(docker, wanted, Why::Broken(why.to_string())).await
                }
                // One of its networks was made anew since.
                Err(WorkspaceError::Engine(error @ EngineError::Api { status: 404, .. })) => {
                    replace(docker, wanted, Why::Broken(error.to_string()), &found).await
                }
                Err(error) => Err(error),
            };
        }
        Life::Created | Life::Running | Life::Dead => {}
    }
    Ok(Ready { container, how: How::Found, share, maker })
}

/// What a share in an existing workspace holds. The run that made it may not have looked at it.
async fn share_of(docker: &Docker, wanted: &Wanted, container: &ContainerId) -> Result<Share, EngineError> {
    match &wanted.marker {
        Some(marker) => marker.look(docker, container).await,
        None => Ok(Share::Ours),
    }
}

/// Refuses a container that does not belong to fastbuild, whatever its name.
pub(super) fn refuse_foreign(found: &ContainerFacts, name: &str) -> Result<(), WorkspaceError> {
    match labels::is_kept_workspace(&found.labels) {
        true => Ok(()),
        false => Err(WorkspaceError::Foreign { name: name.to_owned() }),
    }
}

pub(super) async fn make_anew(docker: &Docker, wanted: &Wanted, why: Why) -> Result<Ready, WorkspaceError> {
    wanted.remove(docker).await?;
    // Contents that were set aside must not come back.
    docker.remove(&aside(&wanted.name), &wanted.owned).await?;
    make(docker, wanted, why, None).await
}

/// Sets the limits of a workspace that is correct except for these. Returns the reason to make it
/// anew where the engine cannot change them.
async fn set_limits(
    docker: &Docker,
    wanted: &Wanted,
    found: &ContainerFacts,
) -> Result<Option<Why>, WorkspaceError> {
    let (old, new) = (found.limits, wanted.limits);
    let changed = |what: &str, old: Option<String>, new: Option<String>| {
        (old != new).then(|| Changed { what: what.to_owned(), old, new })
    };
    let cpus = |nano: Option<i64>| nano.map(|nano| (nano as f64 / 1e9).to_string());
    let changes = [
        changed(
            "memory",
            old.memory.map(|bytes| bytes.to_string()),
            new.memory.map(|bytes| bytes.to_string()),
        ),
        changed("cpus", cpus(old.nano_cpus), cpus(new.nano_cpus)),
    ];
    let why = Why::Changed(changes.into_iter().flatten().collect());
    // Engines cannot remove a limit.
    if old.memory.is_some() && new.memory.is_none() || old.nano_cpus.is_some() && new.nano_cpus.is_none() {
        return Ok(Some(why));
    }
    match docker.set_limits(&found.id, new).await {
        Ok(()) => Ok(None),
        // It does not know this request.
        Err(EngineError::Api { status: 404 | 405 | 501, .. }) => Ok(Some(why)),
        Err(error) => Err(error.into()),
    }
}

/// Makes a workspace where its name is free. It takes over the contents of a workspace that was
/// being replaced when a client died, or that an earlier version of fastbuild made.
async fn succeed(docker: &Docker, wanted: &Wanted) -> Result<Ready, WorkspaceError> {
    for name in &wanted.predecessors {
        let Some(found) = docker.look(name).await? else { continue };
        let label = found.labels.get(labels::GENERATION);
        let made_with = label.and_then(|label| Generation::from_label(label));
        let is_ours = refuse_foreign(&found, name).is_ok() && wanted.owned.is_said_by(&found.labels);
        let Some(made_with) = made_with.filter(|_| is_ours && wanted.if_there != IfThere::Fresh) else {
            continue;
        };
        if *name == aside(&wanted.name) || made_with.is_of(&wanted.plan) {
            let why = Why::Changed(wanted.generation.changed_since(&made_with));
            return replace(docker, wanted, why, &found).await;
        }
    }
    make(docker, wanted, Why::Fresh, None).await
}

/// Replaces `old` by a new workspace with the same files; `old` is removed when the new one is
/// ready.
async fn replace(
    docker: &Docker,
    wanted: &Wanted,
    why: Why,
    old: &ContainerFacts,
) -> Result<Ready, WorkspaceError> {
    let aside = aside(&wanted.name);
    // A container with this name was replaced by `old`, and could not be removed then.
    if let Some(before) = docker.look(&aside).await?.filter(|before| before.id != old.id) {
        docker.remove(before.id.as_str(), &wanted.owned).await?;
    }
    match docker.rename(&old.id, &aside).await {
        // It already has that name.
        Ok(()) | Err(EngineError::Api { .. } | EngineError::NameTaken { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    match make(docker, wanted, why, Some(&old.id)).await {
        Ok(ready) => {
            if let Err(error) = docker.remove(old.id.as_str(), &Owned::of(&old.labels)).await {
                tracing::warn!(workspace = wanted.name, %error, "could not remove the workspace that was replaced");
            }
            Ok(ready)
        }
        Err(error) => {
            // Give it its name back.
            let _ = docker.rename(&old.id, &wanted.name).await;
            Err(error)
        }
    }
}

/// Copies the working directory, and the list of its kept paths, from one container to another.
async fn carry_over(
    docker: &Docker,
    wanted: &Wanted,
    from: &ContainerId,
    to: &ContainerId,
) -> Result<(), EngineError> {
    let kept = name_for_root(KEPT, wanted.plan.workdir.value.as_bytes());
    bring(docker, from, to, &format!("/.fastbuild/{kept}")).await?;
    // A volume is mounted in both containers; the contents of a tmpfs are gone with its container.
    if wanted.plan.route.value != Route::Layer {
        return Ok(());
    }
    let directory = wanted.plan.workdir.value.as_str();
    bring(docker, from, to, directory).await
}

/// Copies a directory from one container to another.
async fn bring(
    docker: &Docker,
    from: &ContainerId,
    to: &ContainerId,
    directory: &str,
) -> Result<(), EngineError> {
    let archive = match docker.get(from, directory).await {
        Err(EngineError::NotThere { .. }) => return Ok(()),
        archive => archive?,
    };
    let parent = match directory.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((parent, _)) => parent,
    };
    docker.put(to, parent, archive.map_err(io::Error::other)).await
}

/// Makes the workspace, and carries over the working directory of `old`. An unusable one is removed
/// again. If this future is dropped, the next run finds what was made.
async fn make(
    docker: &Docker,
    wanted: &Wanted,
    why: Why,
    old: Option<&ContainerId>,
) -> Result<Ready, WorkspaceError> {
    wanted.storage.provide(docker).await.map_err(|error| wanted.storage.blame(error))?;
    let container = match docker.create(&wanted.spec).await {
        Ok(container) => container,
        // The volume is in use by the container of that name.
        Err(error @ EngineError::NameTaken { .. }) => return Err(error.into()),
        Err(error) => {
            remove_useless(docker, wanted).await;
            return Err(wanted.storage.blame(error.into()));
        }
    };
    match furnish(docker, wanted, &container, old).await {
        Ok(share) => Ok(Ready { container, how: How::Made(why), share, maker: Maker::Here }),
        Err(error) => {
            remove_useless(docker, wanted).await;
            Err(wanted.storage.blame(error))
        }
    }
}

async fn furnish(
    docker: &Docker,
    wanted: &Wanted,
    container: &ContainerId,
    old: Option<&ContainerId>,
) -> Result<Share, WorkspaceError> {
    let share = match &wanted.marker {
        Some(marker) => marker.look(docker, container).await?,
        None => Share::Ours,
    };
    let archive = agent_archive(wanted.agent);
    docker.put(container, "/", stream::iter([Ok(archive)])).await.map_err(|error| match error {
        EngineError::ReadOnly { message, .. } => WorkspaceError::from(WithoutAgent::ReadOnlyRoot { message }),
        error => error.into(),
    })?;
    if let Some(old) = old {
        carry_over(docker, wanted, old, container).await?;
    }
    docker.start(container).await.map_err(not_started)?;
    Ok(share)
}

async fn remove_useless(docker: &Docker, wanted: &Wanted) {
    if let Err(error) = wanted.remove(docker).await {
        tracing::warn!(workspace = wanted.name, %error, "could not remove a workspace that is of no use; the next run tries again");
    }
}

/// Why a start failed: because of the agent, or of the engine.
pub(super) fn not_started(error: StartError) -> WorkspaceError {
    match error {
        StartError::CommandNotFound { message, .. } | StartError::NotExecutable { message, .. } => {
            WithoutAgent::NotStarted { detail: message }.into()
        }
        error @ StartError::NoInterpreter { .. } => {
            WithoutAgent::NotStarted { detail: error.to_string() }.into()
        }
        // A network that the engine does not find is missing without the agent, too.
        StartError::Other(EngineError::Api { message, status, .. }) if status != 404 => {
            WithoutAgent::NotStarted { detail: message }.into()
        }
        StartError::Other(EngineError::ReadOnly { message, .. }) => {
            WithoutAgent::ReadOnlyRoot { message }.into()
        }
        StartError::Other(error) => error.into(),
    }
}

/// `/.fastbuild/agent`, as the engine unpacks it.
pub(crate) fn agent_archive(agent: &[u8]) -> Bytes {
    let path = program::PATH.trim_start_matches('/');
    let directory = path.split_once('/').map_or("", |(directory, _)| directory);
    archive(
        user::ROOT,
        &[(tar::EntryType::Directory, directory, b""), (tar::EntryType::Regular, path, agent)],
    )
}

/// An archive of a few entries that every user may read and run.
pub(super) fn archive(owner: user::Ids, entries: &[(tar::EntryType, &str, &[u8])]) -> Bytes {
    let mut archive = tar::Builder::new(Vec::new());
    for (kind, path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_uid(owner.uid.into());
        header.set_gid(owner.gid.into());
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        // It is written to memory, and the paths are relative: it cannot fail.
        let _ = archive.append_data(&mut header, path, *content);
    }
    archive.into_inner().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, path::PathBuf};

    use super::*;

    #[test]
    fn the_agent_travels_as_a_program_that_everybody_may_run() {
        let archive = agent_archive(b"\x7fELF");
        let mut archive = tar::Archive::new(&*archive);
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                let header = entry.header();
                (header.path().unwrap().into_owned(), header.mode().unwrap(), header.uid().unwrap(), content)
            })
            .collect();
        assert_eq!(
            entries,
            [
                (PathBuf::from(".fastbuild"), 0o755, 0, Vec::new()),
                (PathBuf::from(".fastbuild/agent"), 0o755, 0, b"\x7fELF".to_vec()),
            ]
        );
    }
}
