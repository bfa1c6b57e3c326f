//! Whose turn it is in the workspace: the lock that a client's
//! [`Open`](crate::agent::protocol::Open) asks for.
//!
//! Each session that has opened the source root has a file beside the agent and keeps it locked;
//! the lock is free when the session is dead. The file's name is a number. A later session waits
//! for all earlier ones that may not work at the same time ([`Claim`]). Then, until its command
//! starts, it holds a second lock alone: the one for putting the tree right.
//!
//! | file | locked |
//! |---|---|
//! | `turn-NUMBER` | by a session, for its whole time: waiting, putting right, running |
//! | `turn-righting` | by the session that puts the tree right |
//! | `turn-guard` | while a number is taken |

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use rustix::process::{Pid, Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};

use crate::{
    agent::{
        protocol::{Blob, Claim, Client, Conflict, decode, encode},
        server::{
            common::state_directory,
            inbox::{Event, Inbox},
        },
    },
    tree::Digest,
};

/// What a session asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ask {
    client: Client,
    claim: Claim,
    /// Source root, rules, user: where these differ, the trees cannot be compared.
    settings: Digest,
    pid: i32,
}

/// The name of a session's file, before its number.
const NAME: &str = "turn-";

/// The state of a session: the first byte of its file.
const WAITS: u8 = 0;
const RUNS: u8 = 1;

/// A place in the queue, and the turn when it has come. Dropping it gives it up.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    file: File,
    righting: Option<File>,
}

/// A client that has to end first.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) client: Client,
    pub(super) why: Conflict,
}

impl Ask {
    pub(super) fn new(client: Client, claim: Claim, settings: Digest) -> Ask {
        Ask { client, claim, settings, pid: getpid().as_raw_pid() }
    }

    fn conflict(&self, other: &Ask) -> Option<Conflict> {
        let (Claim::Outputs(ours), Claim::Outputs(theirs)) = (&self.claim, &other.claim) else {
            return Some(Conflict::Everything);
        };
        let overlapping = ours.iter().find(|ours| theirs.iter().any(|theirs| overlap(ours, theirs)));
        match overlapping {
            Some(output) => Some(Conflict::Output(output.clone())),
            None => (self.settings != other.settings).then_some(Conflict::Settings),
        }
    }
}

/// Whether the paths are equal, or one leads to the other.
fn overlap(one: &[u8], other: &[u8]) -> bool {
    let (short, long) = if one.len() < other.len() { (one, other) } else { (other, one) };
    let short = short.strip_suffix(b"/").unwrap_or(short);
    long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

impl Turn {
    /// Gets in line. The turn has come when [`Event::Turn`] brings this number. Where no client has
    /// to end first, it has come already.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn queue(ask: &Ask, inbox: &Arc<Inbox>) -> io::Result<Turn> {
        let (directory, guard) = guarded()?;
        let (there, last) = there(&directory)?;
        let (mut ahead, number) = (Vec::new(), last + 1);
        for There { file, ask: other, .. } in there {
            if let Some(why) = ask.conflict(&other) {
                ahead.push((file, Ahead { client: other.client, why }));
            }
        }
        let path = directory.join(format!("{NAME}{number}"));
        let mut file = File::options().write(true).create(true).truncate(true).open(&path)?;
        file.lock()?;
        file.write_all(&[&[WAITS], encode(ask).as_slice()].concat())?;
        drop(guard);
        let mut turn = Turn { number, path, file, righting: None };
        let righting = open(&directory.join("turn-righting"))?;
        if ahead.is_empty() {
            match righting.try_lock() {
                Ok(()) => {
                    turn.righting = Some(righting);
                    return Ok(turn);
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        let inbox = Arc::clone(inbox);
        // A client that goes away meanwhile does not end this; the result is then not used.
        thread::Builder::new().name("turn".to_owned()).spawn(move || {
            let waited = wait(ahead, number, &inbox).and_then(|()| righting.lock());
            inbox.post(Event::Turn { number, righting: waited.map(|()| righting) });
        })?;
        Ok(turn)
    }

    /// Whether it may put the tree right.
    pub(super) fn has_come(&self) -> bool {
        self.righting.is_some()
    }

    /// Takes what [`Event::Turn`] brings.
    ///
    /// # Errors
    /// The error of the wait.
    pub(super) fn take(&mut self, righting: io::Result<File>) -> io::Result<()> {
        self.righting = Some(righting?);
        Ok(())
    }

    /// The outputs of sessions whose commands run; `None` where no command runs. No other command
    /// starts while this session puts the tree right.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn others(&self) -> io::Result<Option<Vec<Blob>>> {
        let (directory, _guard) = guarded()?;
        let mut outputs = None;
        for there in there(&directory)?.0.into_iter().filter(|there| there.state == RUNS) {
            let outputs = outputs.get_or_insert_with(Vec::new);
            if let Claim::Outputs(claimed) = there.ask.claim {
                outputs.extend(claimed);
            }
        }
        Ok(outputs)
    }

    /// The tree is right, and the command starts.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn tree_is_right(&mut self) -> io::Result<()> {
        self.file.write_all_at(&[RUNS], 0)?;
        self.righting = None;
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // The next session removes a file that stays.
        let _ = fs::remove_file(&self.path);
    }
}

/// Ends the sessions of a dead client, and returns when they are over. A session that has not
/// opened the source root runs nothing.
///
/// # Errors
/// The system's.
pub(super) fn end(run: &str) -> io::Result<()> {
    let (directory, _guard) = guarded()?;
    for there in there(&directory)?.0 {
        if there.ask.client.run == run
            && let Some(pid) = Pid::from_raw(there.ask.pid)
        {
            // Its missing file tells a session that it is meant, not a later client.
            let _ = fs::remove_file(there.path);
            let _ = kill_process(pid, Signal::USR1);
            there.file.lock_shared()?;
        }
    }
    Ok(())
}

/// Waits for all sessions ahead, one after the other, and reports each.
fn wait(ahead: Vec<(File, Ahead)>, number: u64, inbox: &Inbox) -> io::Result<()> {
    for (file, ahead) in ahead {
        match file.try_lock_shared() {
            Ok(()) => continue,
            Err(TryLockError::WouldBlock) => inbox.post(Event::Ahead { number, ahead }),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.lock_shared()?;
    }
    Ok(())
}

/// A session that has opened the source root.
struct There {
    path: PathBuf,
    file: File,
    ask: Ask,
    state: u8,
}

/// All of them in order, and the last number taken. Removes the files of dead ones. The caller
/// holds the guard.
fn there(directory: &Path) -> io::Result<(Vec<There>, u64)> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(NAME)?.parse::<u64>().ok());
        numbers.extend(number.map(|number| (number, entry.path())));
    }
    numbers.sort();
    let (mut all, mut last) = (Vec::new(), 0);
    for (number, path) in numbers {
        last = number;
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        match file.try_lock_shared() {
            Ok(()) => {
                let _ = fs::remove_file(path); // its own session may just have done so
                continue;
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut written = Vec::new();
        file.read_to_end(&mut written)?;
        let (state, ask) = written.split_first().unwrap_or((&WAITS, &[]));
        // A damaged file shows only that its session exists.
        let ask =
            decode(ask).unwrap_or_else(|_| Ask::new(Client::default(), Claim::Everything, Digest([0; 32])));
        all.push(There { path, file, ask, state: *state });
    }
    Ok((all, last))
}

/// The agent's directory, and the guard.
fn guarded() -> io::Result<(PathBuf, File)> {
    let directory = state_directory().ok_or(io::ErrorKind::NotFound)?;
    let guard = open(&directory.join("turn-guard"))?;
    guard.lock()?;
    Ok((directory, guard))
}

fn open(path: &Path) -> io::Result<File> {
    let open = || File::options().write(true).create(true).truncate(false).open(path);
    open().or_else(|error| match error.kind() {
        // A directory was put there.
        io::ErrorKind::IsADirectory => fs::remove_dir_all(path).and_then(|()| open()),
        _ => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(outputs: Option<&[&str]>, settings: u8) -> Ask {
        let claim = match outputs {
            None => Claim::Everything,
            Some(outputs) => Claim::Outputs(outputs.iter().map(|path| Blob::from(path.as_bytes())).collect()),
        };
        Ask::new(Client::default(), claim, Digest([settings; 32]))
    }

    #[test]
    fn builds_share_a_workspace_where_their_named_outputs_do_not_overlap() {
        let output = |path: &str| Some(Conflict::Output(Blob::from(path.as_bytes())));
        let cases = [
            (ask(None, 0), ask(None, 0), Some(Conflict::Everything)),
            (ask(None, 0), ask(Some(&["/w/a"]), 0), Some(Conflict::Everything)),
            (ask(Some(&["/w/a"]), 0), ask(Some(&["/w/b", "/w/ab"]), 0), None),
            (ask(Some(&["/w/a"]), 0), ask(Some(&["/w/a"]), 0), output("/w/a")),
            (ask(Some(&["/w/b", "/w/a/x"]), 0), ask(Some(&["/w/a"]), 0), output("/w/a/x")),
            (ask(Some(&["/w/a"]), 0), ask(Some(&["/w/a/x/y"]), 0), output("/w/a")),
            (ask(Some(&["/"]), 0), ask(Some(&["/w/a"]), 0), output("/")),
            (ask(Some(&["/w/a"]), 0), ask(Some(&["/w/b"]), 1), Some(Conflict::Settings)),
        ];
        for (one, other, conflict) in cases {
            assert_eq!(one.conflict(&other), conflict, "{one:?} {other:?}");
            assert_eq!(other.conflict(&one).is_some(), conflict.is_some());
        }
    }
}
