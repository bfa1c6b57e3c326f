//! The process's environment as a value, read once. Later code is a function of it and of files.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    io::{self, IsTerminal},
    path::PathBuf,
};

use crate::sys::terminal;

/// The environment of a run.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The environment variables.
    pub vars: BTreeMap<OsString, OsString>,
    /// The current directory.
    pub cwd: PathBuf,
    /// The user's home directory, if there is one.
    pub home: Option<PathBuf>,
    /// Which of the standard streams are terminals, and whether they may be used.
    pub terminals: Terminals,
}

/// Which of the standard streams are terminals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terminals {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Another job has the terminal, and a process that uses it is stopped.
    pub background: bool,
}

impl Terminals {
    /// Whether all streams are terminals, and this job has the terminal.
    pub fn is_ours(self) -> bool {
        self.stdin && self.stdout && self.stderr && !self.background
    }
}

impl Environment {
    /// The environment of this process.
    ///
    /// # Errors
    /// When the current directory was removed or cannot be read.
    pub fn of_process() -> io::Result<Environment> {
        Ok(Environment {
            vars: env::vars_os().collect(),
            cwd: env::current_dir()?,
            home: env::home_dir().filter(|home| !home.as_os_str().is_empty()),
            terminals: Terminals {
                stdin: io::stdin().is_terminal(),
                stdout: io::stdout().is_terminal(),
                stderr: io::stderr().is_terminal(),
                background: !terminal::is_foreground(),
            },
        })
    }

    /// A variable's value; `None` when unset.
    pub fn var(&self, name: &str) -> Option<&OsStr> {
        let exact = self.vars.get(OsStr::new(name));
        // Windows does not distinguish `Path` and `PATH`.
        let folded =
            || self.vars.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        if cfg!(windows) { exact.or_else(folded) } else { exact }.map(OsString::as_os_str)
    }

    /// A variable that is not empty: empty counts as unset, as scripts that "unset" with `X= cmd`
    /// expect.
    pub fn filled(&self, name: &str) -> Option<&OsStr> {
        self.var(name).filter(|value| !value.is_empty())
    }

    /// Whether the variable `CI` says that no user is present: set, and neither `false` nor `0`.
    pub fn is_ci(&self) -> bool {
        is_ci(self.var("CI"))
    }
}

/// Whether the variable `CI`, with this value, says that no user is present.
pub fn is_ci(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}
