//! The last step to the command: a process of its own becomes the command. Nothing has to happen
//! between a fork and an exec, so all of this is plain code with one thread.
//!
//! In: standard output and error as the command is to have them, and a socket with a [`Spec`] on
//! standard input. Out: the command, in a session of its own, as its user, in its directory, with
//! its own standard input. On failure: a [`NotStarted`] on the socket. Otherwise the exec closes
//! it, and all other descriptors of the agent too: each has `O_CLOEXEC`.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{ffi::OsStrExt as _, net::UnixStream, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use rustix::{
    fs::{Access, FileType, Gid, Mode, OFlags, Uid},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use crate::agent::protocol::{Blob, NoStart, NotStarted, decode, encode};

/// The command to become.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    /// The program and its arguments.
    pub(super) argv: Vec<Blob>,
    /// The start directory.
    pub(super) directory: Blob,
    /// The user; `None` is the user who runs the agent.
    pub(super) user: Option<Who>,
    /// What it inherits.
    pub(super) manners: Manners,
    /// Its standard input.
    pub(super) stdin: Stdin,
}

/// See [`Spec::manners`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Manners {
    /// As from engines: the usual umask, and the OOM killer takes it before the agent.
    OfEngines,
    /// The agent's own.
    OfAgent,
}

/// See [`Spec::user`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Who {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

/// See [`Spec::stdin`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Stdin {
    /// Nothing.
    Null,
    /// The terminal that standard output is.
    Terminal,
    /// A descriptor of another process: the session.
    Of { pid: i32, fd: i32 },
}

/// Added to the agent's OOM score, so that the system kills the command first when memory is short.
const OOM_SCORE: i32 = 100;

/// Where programs are searched when the command has no `PATH`.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes the command, or reports why not.
pub(super) fn run() -> ExitCode {
    let Some(mut socket) = take_socket() else { return ExitCode::from(super::common::USAGE) };
    let mut spec = Vec::new();
    let not_started = match socket.read_to_end(&mut spec).map(|_| decode::<Spec>(&spec)) {
        Ok(Ok(spec)) => become_command(&spec),
        Ok(Err(error)) => other("the command was not understood", &error.to_string()),
        Err(error) => other("the command was not told", &error.to_string()),
    };
    // A failure cannot be reported: the reader is gone.
    let _ = socket.write_all(&encode(&not_started));
    ExitCode::from(127)
}

/// Standard input, moved to a descriptor that the command does not use.
fn take_socket() -> Option<UnixStream> {
    rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).ok().map(UnixStream::from)
}

/// Returns only on failure.
fn become_command(spec: &Spec) -> NotStarted {
    if let Err(error) = take_streams(&spec.stdin) {
        return other("could not set up its streams", &error.to_string());
    }
    if spec.manners == Manners::OfEngines {
        rustix::process::umask(Mode::from_raw_mode(0o022));
        be_the_first_to_go();
    }
    let directory = Path::new(OsStr::from_bytes(&spec.directory));
    if let Err(error) = fs::create_dir_all(directory).and_then(|()| std::env::set_current_dir(directory)) {
        return NotStarted { why: NoStart::Directory, detail: format!("{directory:?}: {error}") };
    }
    if let Some(who) = &spec.user
        && let Err(errno) = switch_to(who)
    {
        return other(&format!("could not become user {}", who.uid), &errno.to_string());
    }
    let Some((name, arguments)) = spec.argv.split_first() else {
        return NotStarted { why: NoStart::NotFound, detail: "there is no command".to_owned() };
    };
    let name = OsStr::from_bytes(name);
    let program = match find(name) {
        Ok(program) => program,
        Err(not_started) => return not_started,
    };
    let form = form(&program);
    // C libraries run a file of unknown format as a shell script; an engine does not.
    if form == Form::Unknown {
        return because(NoStart::NoFormat, name, &Errno::NOEXEC.into());
    }
    let arguments = arguments.iter().map(|argument| OsStr::from_bytes(argument));
    let error = Command::new(&program).arg0(name).args(arguments).exec();
    match (error.kind(), form) {
        // The program itself exists, because it was found.
        (io::ErrorKind::NotFound, Form::Script(interpreter)) => {
            because(NoStart::NoInterpreter(Some(interpreter)), name, &error)
        }
        (io::ErrorKind::NotFound, Form::Program) => because(NoStart::NoInterpreter(None), name, &error),
        _ => cannot(name, &error),
    }
}

fn take_streams(stdin: &Stdin) -> io::Result<()> {
    rustix::process::setsid()?;
    match stdin {
        Stdin::Null => rustix::stdio::dup2_stdin(File::open("/dev/null")?)?,
        Stdin::Of { pid, fd } => rustix::stdio::dup2_stdin(File::open(format!("/proc/{pid}/fd/{fd}"))?)?,
        Stdin::Terminal => {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdout())?;
            rustix::stdio::dup2_stdin(rustix::stdio::stdout())?;
        }
    }
    Ok(())
}

/// Without permission, the score stays as it is.
fn be_the_first_to_go() {
    const PATH: &str = "/proc/self/oom_score_adj";
    let own = fs::read_to_string(PATH).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(own) = own {
        let _ = fs::write(PATH, (own + OOM_SCORE).min(1000).to_string());
    }
}

fn switch_to(who: &Who) -> rustix::io::Result<()> {
    let streams: [BorrowedFd<'_>; 3] =
        [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for stream in streams {
        own(stream, who.uid)?;
    }
    let groups: Vec<Gid> = who.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_gid(Gid::from_raw(who.gid))?;
    rustix::thread::set_thread_uid(Uid::from_raw(who.uid))
}

/// The command must be able to reopen `/dev/stdout`, as with engines.
fn own(stream: BorrowedFd<'_>, uid: u32) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstat(stream)?;
    let is_ours = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => true,
        FileType::CharacterDevice => rustix::termios::isatty(stream),
        _ => false,
    };
    if is_ours { rustix::fs::fchown(stream.as_fd(), Some(Uid::from_raw(uid)), None) } else { Ok(()) }
}

/// The program's path, as an engine would find it.
fn find(name: &OsStr) -> Result<PathBuf, NotStarted> {
    if name.as_bytes().contains(&b'/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(error) => Err(cannot(name, &error)),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from(USUAL_PATH));
    let found = std::env::split_paths(&path)
        .map(|directory| if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory })
        .map(|directory| directory.join(name))
        .find(|program| executable(program).is_ok());
    let detail = || format!("{name:?}: executable file not found in $PATH");
    found.filter(|_| !name.is_empty()).ok_or_else(|| NotStarted { why: NoStart::NotFound, detail: detail() })
}

fn executable(program: &Path) -> io::Result<()> {
    if fs::metadata(program)?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(rustix::fs::access(program, Access::EXEC_OK)?)
}

/// The kernel's view of a file.
#[derive(Debug, PartialEq, Eq)]
enum Form {
    /// A script, and the interpreter in its first line.
    Script(String),
    Program,
    Unknown,
    /// Executable but not readable: left to the kernel.
    Unread,
}

fn form(program: &Path) -> Form {
    // As many bytes as the kernel reads.
    let mut start = [0; 256];
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let read =
        rustix::fs::open(program, flags, Mode::empty()).and_then(|file| rustix::io::read(&file, &mut start));
    let Ok(read) = read else { return Form::Unread };
    let start = &start[..read];
    match start.strip_prefix(b"#!") {
        Some(line) => {
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
            Form::Script(String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned())
        }
        None if start.starts_with(b"\x7fELF") => Form::Program,
        None => Form::Unknown,
    }
}

fn cannot(name: &OsStr, error: &io::Error) -> NotStarted {
    let why = match error.kind() {
        io::ErrorKind::NotFound => NoStart::NotFound,
        io::ErrorKind::IsADirectory => NoStart::IsDirectory,
        _ => NoStart::NotExecutable,
    };
    because(why, name, error)
}

fn because(why: NoStart, name: &OsStr, error: &io::Error) -> NotStarted {
    NotStarted { why, detail: format!("{name:?}: {error}") }
}

fn other(tried: &str, error: &str) -> NotStarted {
    NotStarted { why: NoStart::Other, detail: format!("{tried}: {error}") }
}
